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
"""CAVP in the training script: a run that is killed resumes, sound bank included, and two processes make one step."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from torch.testing import assert_close

from stepping_stones_hf.data.mini import make_mini_avsbench

from ...examples import fixed_points
from ...examples.fixed_points import script
from ...examples.test_train_stepping_stones import (
    EXAMPLES,
    assert_same_run,
    at,
    free_port,
    one_cpu_thread,  # noqa: F401
    run,
    run_until,
    to_argv,
)


@pytest.fixture(scope="module")
def common(tmp_path_factory) -> dict:
    """Arguments of all runs: the recipe of mini-AVSBench, on very small sets."""
    clips = {"v1s": (4, 1, 1), "v1m": (2, 1, 1), "v2": (0, 0, 1)}
    folder = tmp_path_factory.mktemp("data")
    recipe = yaml.safe_load((EXAMPLES / "configs" / "mini_cavp.yaml").read_text())
    del recipe["base"]
    recipe["model"]["contrastive_max_views"] = 16  # so that batches of two frames have a contrastive loss
    recipe |= {"stage_2_model": {"sound_bank_size": 2, "sound_bank_warmup_steps": 1}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return {
        "config": folder / "recipe.yaml",
        "data_dir": make_mini_avsbench(folder / "mini", image_size=64, clips=clips),
        "cache_audio_features": tmp_path_factory.mktemp("audio"),
        "stage": "all",
        "per_device_train_batch_size": 4,
        "num_warmup_steps": 0,
        "dataloader_num_workers": 0,
        "checkpointing_steps": 2,
        "stage_1_epochs": 1,
        "stage_2_epochs": 1,
    }


def test_killed_a_run_resumes_to_the_same_weights_and_the_same_sound_bank(common, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", common)
    bank = load_file(whole / "stage_2" / "model" / "model.safetensors")
    assert bank["sound_bank.num_steps"] == 3 and (bank["sound_bank.sounds"] != -1).any()
    for point in (
        at(script, "compute_gradients", call=3),
        at(script, "compute_gradients", call=3, when=lambda _, model, *__: model.config.use_mask_prompt),
    ):
        run_until(monkeypatch, *point, tmp_path / "out", common)
    assert [path.name for path in (tmp_path / "out" / "stage_2" / "checkpoints").iterdir()]
    assert_same_run(run(tmp_path / "out", common, {"resume_from_checkpoint": "latest"}), whole)


@pytest.mark.slow
def test_two_processes_give_the_losses_and_gradients_of_two_passes(common, tmp_path):
    """Not those of one batch of both: the other sounds are a pass's own."""

    def arguments(name: str, passes: int) -> list[str]:
        # The bank of two processes is that of the first one.
        recipe = {"stage_2_model": "{}", "gradient_accumulation_steps": passes, "lr_scheduler_type": "constant"}
        recipe |= {"stage_1_max_steps": 2, "stage_2_max_steps": 2, "per_device_train_batch_size": 2}
        return to_argv({**common, **recipe, "output_dir": tmp_path / name})

    passes, processes = tmp_path / "passes.safetensors", tmp_path / "processes.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        fixed_points.main(passes, arguments("passes", 2), patch.setattr)
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())]
    module = ["-m", "tests.examples.fixed_points", str(processes)]
    done = subprocess.run(
        [sys.executable, *launch, *module, *arguments("processes", 1)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr

    expected, found = load_file(passes), load_file(processes)
    assert (expected["num_processes"].item(), found["num_processes"].item()) == (1, 2)
    assert len(expected["losses"]) == 4
    assert_close(found["losses"], expected["losses"], rtol=1e-5, atol=0)
    for step in range(4):
        difference = found[f"gradients.{step}"] - expected[f"gradients.{step}"]
        assert difference.norm() <= 1e-4 * expected[f"gradients.{step}"].norm(), step
