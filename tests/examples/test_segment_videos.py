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
"""Folders of videos on two processes."""

import csv
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline

from stepping_stones_hf import cli
from stepping_stones_hf.segment_videos import find_videos, segment_videos

from ..videos import make_video, read_files, read_states
from .killed_segment_videos import SCRIPT
from .test_train_stepping_stones import free_port


def launch(*command: str | Path) -> subprocess.CompletedProcess:
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())]
    return subprocess.run(
        [sys.executable, *launcher, *map(str, command)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1500,
    )


@pytest.mark.parametrize("num_videos", [8, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_and_resumed_two_processes_leave_what_one_leaves(two_stage_repository, tmp_path, num_videos):
    folder, out, generator = tmp_path / "videos", tmp_path / "out", np.random.default_rng(0)
    folder.mkdir()
    for index in range(num_videos - 1):
        sound = generator.uniform(-1, 1, (1, 16_000)).astype(np.float32)
        make_video(folder / f"{index:02d}.mp4", width=32 + 2 * (index % 8), height=32, fps=4, seconds=1, sound=sound)
    (folder / "broken.mp4").write_text("no video")

    arguments = [folder, "--output_dir", out, "--model", two_stage_repository]
    killed = launch("-m", "tests.examples.killed_segment_videos", num_videos // 4, *arguments)
    assert killed.returncode != 0 and "Another process works in" not in killed.stderr
    before = {name: state for name, state in read_states(out).items() if name.endswith("segmented.mp4")}
    finished = {name: before[name] for name in before if "partial" not in name}
    # Every second video is the main process's.
    assert len([name for name in finished if int(name[:2]) % 2 == 0]) == num_videos // 4
    assert set(before) != set(finished)  # a folder without its name
    assert not (out / "failures.csv").exists()

    resumed = launch(SCRIPT, *arguments)
    assert resumed.returncode == 1
    assert f"{num_videos - 1} of {num_videos} videos are segmented" in resumed.stdout
    with open(out / "failures.csv", newline="") as file:
        (failure,) = csv.DictReader(file)
    assert failure["video"] == "broken.mp4" and failure["reason"] in resumed.stdout
    assert read_states(out).items() >= finished.items()

    torch.set_num_threads(1)  # as in the processes
    segment = pipeline("audio-visual-segmentation", model=str(two_stage_repository), device="cpu")
    alone = tmp_path / "alone"
    assert len(segment_videos(segment, find_videos([folder], alone), alone)) == 1
    assert read_files(out) == read_files(alone) | {"run.json", "failures.csv", ".lock"}
    for name in read_files(alone):
        assert (out / name).read_bytes() == (alone / name).read_bytes(), name


def test_it_resumes_what_the_command_has_begun(two_stage_repository, tmp_path, on_the_cpu, capsys):
    folder, out = tmp_path / "videos", tmp_path / "out"
    folder.mkdir()
    make_video(folder / "a.mp4", seconds=1)
    options = ["--model", str(two_stage_repository), "--outputs", "masks", "timeline"]
    assert cli.main(["segment", str(folder), "-o", str(out), *options]) == 0
    before = read_states(out / "a.mp4")
    make_video(folder / "b.mp4", seconds=1)
    assert runpy.run_path(str(SCRIPT))["main"]([str(folder), "--output_dir", str(out), *options]) == 0
    assert "2 of 2 videos are segmented" in capsys.readouterr().out
    assert read_states(out / "a.mp4") == before
    assert read_files(out / "b.mp4") == read_files(out / "a.mp4") == {"masks/00000.png", "timeline.json"}


@pytest.mark.parametrize("options, message", [(["--audio", "missing.wav"], "missing.wav"), (["--fps", "0"], "fps")])
def test_what_would_make_each_video_fail_is_refused(tmp_path, on_the_cpu, options, message):
    make_video(tmp_path / "videos.mp4", seconds=1)
    arguments = [str(tmp_path / "videos.mp4"), "--output_dir", str(tmp_path / "out"), *options]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        runpy.run_path(str(SCRIPT))["main"](arguments)
    assert not (tmp_path / "out").exists()
