# Copyright 2026 The stepping_stones_hf authors
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Makes `evaluate.load("avss_miou")` work from any directory, with and without a network."""

import os
import time
from hashlib import sha256
from pathlib import Path

from ..files import write_whole


__all__ = ["register_metric"]

METRIC_FILE = Path(__file__).parent / "avss_miou" / "avss_miou.py"
NANOSECONDS = 10**9


def register_metric() -> Path:
    """Put this version of the metric where `evaluate.load("avss_miou")` finds it.

    Where neither the working directory nor the Hub has a metric of this name, evaluate takes the newest file
    `$HF_MODULES_CACHE/evaluate_modules/metrics/evaluate-metric--avss_miou/<64 characters>/avss_miou.py`. The 64
    characters are the sha256 of the file here, so versions stand side by side, and the one that registers last is made
    the newest, also after a downgrade. Nothing is written if that is so already.

    Returns:
        `Path`: the file that evaluate will load.

    Raises:
        `OSError`: the modules cache cannot be written.
    """
    source = METRIC_FILE.read_bytes()
    versions = _modules_cache() / "evaluate_modules" / "metrics" / "evaluate-metric--avss_miou"
    target = versions / sha256(source).hexdigest() / METRIC_FILE.name
    if not target.is_file() or target.read_bytes() != source:
        _install(source, target)
    others = [file.stat().st_mtime_ns for file in versions.glob(f"{'?' * 64}/{METRIC_FILE.name}") if file != target]
    if others and target.stat().st_mtime_ns <= max(others):
        newest = max(time.time_ns(), max(others) + NANOSECONDS)
        os.utime(target, ns=(newest, newest))
    return target


def _modules_cache() -> Path:
    """The folder that `evaluate.config.HF_MODULES_CACHE` names, without the import of evaluate."""
    cache = os.getenv("XDG_CACHE_HOME", "~/.cache")
    home = os.path.expanduser(os.getenv("HF_HOME", os.path.join(cache, "huggingface")))
    return Path(os.getenv("HF_MODULES_CACHE", os.path.join(home, "modules")))


def _install(source: bytes, target: Path) -> None:
    """Write the file and its folder in one step: evaluate fails on a folder of 64 characters without the file."""
    target.parents[1].mkdir(parents=True, exist_ok=True)
    try:
        with write_whole(target.parent) as (staging,):
            staging.mkdir()
            (staging / "__init__.py").touch()
            (staging / target.name).write_bytes(source)
    except OSError:
        if not target.parent.is_dir():
            raise
        with write_whole(target) as (partial,):  # over a damaged copy, or the same one of another process
            partial.write_bytes(source)
