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
"""The mini pretraining: what it leaves is what the training script takes, and a run that was stopped goes on."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from transformers import Mask2FormerForUniversalSegmentation

from stepping_stones_hf.data.labels import CLASS_NAMES
from stepping_stones_hf.data.mini import LOOKS, draw_scene, draw_sound
from stepping_stones_hf.models.vggish import load_vggish


sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import pretrain_mini as script  # noqa: E402
import train_stepping_stones  # noqa: E402


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few pictures and sounds, and a checkpoint every second step."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    sizes = {"NUM_SOUNDS": 4, "NUM_TEST_PICTURES": 2, "NUM_TEST_SOUNDS": 2, "PICTURES_PER_STEP": 2}
    for name, value in {**sizes, "PATCHES_PER_STEP": 4, "STEPS_PER_CHECKPOINT": 2}.items():
        monkeypatch.setattr(script, name, value)


def pretrain(output_dir: Path, *options: str) -> dict[str, torch.Tensor]:
    steps = ["--mask2former_steps", "3", "--vggish_steps", "3"]
    script.main(["--output_dir", str(output_dir), *steps, *options])
    weights = load_file(output_dir / "mask2former" / "model.safetensors")
    return weights | load_file(output_dir / "vggish.safetensors")


def test_both_stages_start_from_what_it_leaves(tmp_path):
    pretrain(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(".lock", "run.json", "results.json", "mask2former", "vggish.safetensors")
    }
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert 0 <= results["mask2former_miou"] <= 1 and 0 <= results["vggish_accuracy"] <= 1
    source = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / "out" / "mask2former")
    vggish = load_vggish(tmp_path / "out" / "vggish.safetensors")
    arguments = ["--config", str(script.RECIPE), "--mask2former_name_or_path", str(tmp_path / "out" / "mask2former")]
    arguments += ["--vggish_checkpoint", str(tmp_path / "out" / "vggish.safetensors")]
    _, model_args, _ = train_stepping_stones.parse_arguments(arguments)
    for stage in (1, 2):
        model, _ = train_stepping_stones.make_model(model_args, localizes=stage == 1, prompted=stage == 2, seed=1)
        torch.testing.assert_close(model.model.audio_encoder.state_dict(), vggish.state_dict(), rtol=0, atol=0)
        taken = source.model.pixel_level_module.decoder.mask_projection.weight
        assert torch.equal(model.model.pixel_decoder.mask_projection.weight, taken)
        assert model.config.freeze_audio_encoder
        assert len(model.class_predictor.weight) != len(source.class_predictor.weight)


def test_it_computes_on_the_cpu_whatever_else_there_is(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(script, "Accelerator", lambda **kwargs: asked.append(kwargs) or Accelerator(**kwargs))
    pretrain(tmp_path / "out")
    assert asked == [{"cpu": True}] * 2


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    expected = pretrain(tmp_path / "whole")
    draws = []

    def stop_in_the_second_step(seed: int, index: int):
        draws.append(index)
        if len(draws) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw_scene(seed, index)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(script, "draw_scene", stop_in_the_second_step)
        pretrain(tmp_path / "stopped")
    assert stopped.value.code == 128 + signal.SIGTERM
    assert not (tmp_path / "stopped" / "mask2former").exists()
    torch.testing.assert_close(pretrain(tmp_path / "stopped"), expected, rtol=0, atol=0)


def test_what_is_there_is_not_trained_again_nor_with_other_arguments(tmp_path, monkeypatch):
    pretrain(tmp_path / "out")
    monkeypatch.setattr(script, "train", None)
    pretrain(tmp_path / "out")
    with pytest.raises(ValueError, match="made with other arguments: seed differ. Choose another --output_dir"):
        pretrain(tmp_path / "out", "--seed", "1")


def test_a_scene_shows_what_its_labels_say_and_a_sound_is_of_one_class():
    scenes = [draw_scene(0, index, image_size=48) for index in range(60)]
    assert {labels.shape for _, labels in scenes} == {(48, 48), (48, 64)}
    classes = [set(np.unique(labels)) for _, labels in scenes]
    assert all(1 <= len(found - {0}) <= 4 and 0 in found for found in classes)
    assert {CLASS_NAMES[index] for index in set().union(*classes) - {0}} == set(LOOKS)
    again = draw_scene(0, 3, image_size=48)
    np.testing.assert_array_equal(again[0], scenes[3][0])
    frame, labels = scenes[3]
    assert frame.dtype == np.uint8 and frame.shape == (*labels.shape, 3)
    waveform, label = draw_sound(0, 5)
    assert len(waveform) == 5 * 16_000 and CLASS_NAMES[label] in LOOKS
    assert len({draw_sound(0, index, seconds=1)[1] for index in range(120)}) == len(LOOKS)
    np.testing.assert_array_equal(draw_sound(0, 5)[0], waveform)
