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
"""The training script, from its command line to its table, on a very small set."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stepping_stones_hf import AAVSForAudioVisualSegmentation, AAVSProcessor
from stepping_stones_hf.data.mini import make_mini_avsbench


REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "examples"))

import train_stepping_stones as script  # noqa: E402


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    clips = {"v1s": (4, 0, 3), "v1m": (2, 0, 2), "v2": (2, 0, 2)}
    return make_mini_avsbench(tmp_path_factory.mktemp("data") / "mini", image_size=64, clips=clips)


def run_script(*arguments: object) -> str:
    command = [sys.executable, REPOSITORY / "examples" / "train_stepping_stones.py", *arguments]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory) -> dict:
    output_dir = tmp_path_factory.mktemp("run") / "out"
    steps = ["--stage_1_steps", 2, "--stage_2_steps", 1, "--per_device_train_batch_size", 2, "--image_size", 64]
    return {"stdout": run_script("--data_dir", data_dir, "--output_dir", output_dir, *steps), "output_dir": output_dir}


def test_the_table_is_printed_and_saved(run):
    results = json.loads((run["output_dir"] / "all_results.json").read_text())
    assert set(results["stage_1"]) == {"S4", "MS3", "V2"}
    assert set(results["avss"]) == {"one stage", "stage 2, masks of stage 1", "stage 2, true masks"}
    assert "| S4 |" in run["stdout"] and "| stage 2, true masks |" in run["stdout"]


def test_a_two_stage_repository_is_written(run):
    localizer = AAVSForAudioVisualSegmentation.from_pretrained(run["output_dir"] / "model", subfolder="localizer")
    model = AAVSForAudioVisualSegmentation.from_pretrained(run["output_dir"] / "model")
    assert (localizer.config.num_labels, localizer.config.use_mask_prompt) == (2, False)
    assert (model.config.num_labels, model.config.use_mask_prompt) == (71, True)
    for subfolder, localization in (("localizer", True), ("", False)):
        processor = AAVSProcessor.from_pretrained(run["output_dir"] / "model", subfolder=subfolder)
        assert processor.image_processor.localization is localization
        assert processor.image_processor.size.height == 64


def test_a_mask_is_written_for_every_test_frame(run, data_dir):
    test_clips = script.read_clips(data_dir)["test"]
    masks = {path.relative_to(run["output_dir"] / "masks") for path in (run["output_dir"] / "masks").rglob("*.png")}
    assert masks == {
        Path(clip.subset, clip.uid, f"{index}.png") for clip in test_clips for index in range(clip.num_frames)
    }
    values = {value for path in masks for value in np.unique(np.array(Image.open(run["output_dir"] / "masks" / path)))}
    assert values <= {0, 255}


def test_the_picture_has_a_column_per_stage(run):
    picture = np.array(Image.open(run["output_dir"] / "grid.png"))
    assert picture.shape[1] == 670 and picture.std() > 10


def test_a_saved_repository_is_evaluated_again_with_the_same_figures(run, data_dir, tmp_path):
    model = run["output_dir"] / "model"
    arguments = ["--data_dir", data_dir, "--output_dir", tmp_path, "--model_name_or_path", model]
    run_script(*arguments, "--stage_1_steps", 0, "--stage_2_steps", 0)
    first = json.loads((run["output_dir"] / "all_results.json").read_text())
    second = json.loads((tmp_path / "all_results.json").read_text())
    assert second["stage_1"] == {name: pytest.approx(values, abs=1e-6) for name, values in first["stage_1"].items()}
    del first["avss"]["one stage"]
    assert second["avss"] == pytest.approx(first["avss"], abs=1e-6)


def test_the_derangement_gives_every_sound_to_one_clip_of_other_classes(data_dir):
    clips = [clip for clip in script.read_clips(data_dir)["test"] if clip.subset == "v1s"]
    others = script.derange(clips, seed=0)
    assert len(others) >= 2
    assert len(set(others.values())) == len(others)
    assert all(not clip.classes & other.classes for clip, other in others.items())


def test_only_the_first_frame_of_a_training_clip_of_s4_is_annotated(data_dir):
    clips = script.read_clips(data_dir)
    assert {len(clip.annotated) for clip in clips["train"] if clip.subset == "v1s"} == {1}
    assert {len(clip.annotated) for clip in clips["test"] if clip.subset == "v1s"} == {5}
    assert {len(clip.annotated) for clip in clips["train"] if clip.subset == "v2"} == {10}
