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
"""The presets against the released programs' recipes."""

import sys
from pathlib import Path

import pytest

from stepping_stones_hf.training.initialization import make_config, parse_block


EXAMPLES = Path(__file__).parents[3] / "examples"
sys.path.insert(0, str(EXAMPLES))

import train_stepping_stones as script  # noqa: E402


def read_preset(name: str):
    return script.parse_arguments(["--config", str(EXAMPLES / "configs" / f"tpavi_{name}.yaml")])


@pytest.mark.parametrize(
    ("name", "dataset", "stage", "stage_1_epochs"),
    [("s4", "s4", "1", 15), ("ms3", "ms3", "1", 30), ("avss", "avss", "all", 15)],
)
def test_the_presets_train_as_the_released_programs_do(name, dataset, stage, stage_1_epochs):
    data_args, model_args, args = read_preset(name)
    script.check_arguments(data_args, model_args, args)
    assert (args.stage, data_args.stage_1_dataset, args.stage_1_epochs) == (stage, dataset, stage_1_epochs)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps, args.seed) == (4, 1, 123)
    assert (args.lr_scheduler_type, args.num_warmup_steps, args.weight_decay) == ("constant", 0, 0)
    assert (args.stage_1_learning_rate, args.stage_1_max_grad_norm) == (1e-4, None)
    assert args.stage_1_parameters is None and args.stage_1_phase_2_epoch is None  # all trains, in one phase
    assert not data_args.split_clips and args.mixed_precision is None
    if stage == "all":
        assert (args.stage_2_epochs, args.stage_2_learning_rate, args.stage_2_max_grad_norm) == (60, 1e-4, None)
        assert args.stage_2_parameters is None and args.stage_2_phase_2_epoch is None
    # The models, at the released programs' size: configs make their own processor for 224x224.
    assert parse_block(model_args.image_processor) == {} and model_args.image_size is None


@pytest.mark.parametrize("name", ["s4", "ms3", "avss"])
def test_the_presets_make_the_released_models(name):
    _, model_args, _ = read_preset(name)
    localizer = make_config(model_args.get_block(localizes=True), localizes=True, prompted=False)
    assert localizer.backbone_config.depths == [3, 6, 40, 3]
    assert localizer.audio_config.final_relu and localizer.freeze_audio_encoder and localizer.audio_projection_bias
    assert localizer.avm_loss == (None if name == "s4" else "kl")
    config = make_config(model_args.get_block(localizes=False), localizes=False, prompted=True)
    assert (config.num_labels, config.use_mask_prompt, config.audio_projection_bias) == (71, True, False)
    assert config.padded_clip_length == (10 if name == "avss" else None)
    assert (config.avm_loss, config.avm_weight, config.avm_normalize) == ("kl", 0.5, False)
