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
"""What tests of scripts that evaluate share."""

from pathlib import Path

import datasets
import pytest

from stepping_stones_hf.data.mini import make_mini_avsbench


@pytest.fixture(scope="module")
def on_the_cpu(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """A test split of six clips."""
    clips = {"v1s": (0, 0, 3), "v1m": (0, 0, 2), "v2": (0, 0, 1)}
    return make_mini_avsbench(tmp_path_factory.mktemp("data") / "mini", image_size=64, clips=clips)
