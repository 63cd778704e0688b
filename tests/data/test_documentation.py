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
"""The Python and the commands of the page "Preparing AVSBench", run as they stand there."""

import os
import re
import shutil
import subprocess

import datasets
import pytest

from stepping_stones_hf.cli import main
from stepping_stones_hf.data.doctor import diagnose

from ..snippets import DOCS, read_commands, read_snippets, run_snippets
from .conftest import make_object_tree


PAGE = DOCS / "preparing_avsbench.md"


@pytest.fixture
def copy_at_hand(mini_dir, tmp_path, monkeypatch):
    """A working directory with a copy of AVSBench-semantic, under the name that the page uses."""
    shutil.copytree(mini_dir, tmp_path / "AVSBench-semantic")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_the_snippets_run_one_after_another(copy_at_hand):
    variables = run_snippets(PAGE)
    assert set(variables["dataset"].column_names) <= set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))
    assert len(variables["clip"]["frames"]) == 5 and len(variables["clip"]["masks"]) == 1
    assert variables["batch"]["prompt_masks"].shape[0] == variables["batch"]["pixel_values"].shape[0]


def test_the_doctor_finds_the_copy_right(copy_at_hand, capsys):
    (arguments,) = (words[1:] for words in read_commands(PAGE) if words[:2] == ["stepping-stones", "doctor"])
    assert main(arguments) == 0
    assert "errors: 0" in capsys.readouterr().out


def test_the_loops_extract_all_sounds_again(mini_dir, tmp_path):
    root = make_object_tree(mini_dir, tmp_path / "AVSBench-object")
    for folder in ("Single-source/s4_data", "Multi-sources/ms3_data"):
        for path in sorted((root / folder / "audio_wav").rglob("*.wav")):
            video = root / folder / "raw_videos" / path.relative_to(root / folder / "audio_wav").with_suffix(".mp4")
            video.parent.mkdir(parents=True, exist_ok=True)
            path.rename(video)
        shutil.rmtree(root / folder / "audio_wav")
    assert diagnose(root).count("error") == 9
    # A program that takes ffmpeg's arguments, of which the third and the last are files.
    program = tmp_path / "bin" / "ffmpeg"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\n[ "$1 $2 $4" = "-nostdin -i -vn" ] && cp "$3" "$5"\n')
    program.chmod(0o755)
    environment = os.environ | {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    loops = [snippet for snippet in read_snippets(PAGE, "bash") if snippet.startswith("cd ")]
    for loop in loops:
        subprocess.run(["bash", "-euc", loop], cwd=tmp_path, env=environment, check=True)
    assert len(loops) == 2
    assert diagnose(root).count("error") == 0
