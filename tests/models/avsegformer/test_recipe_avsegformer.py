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
"""The presets against the released program's recipes."""

import sys
from pathlib import Path

import pytest

from stepping_stones_hf.models.auto import make_processor
from stepping_stones_hf.training.initialization import make_config, parse_block


EXAMPLES = Path(__file__).parents[3] / "examples"
sys.path.insert(0, str(EXAMPLES))

import train_stepping_stones as script  # noqa: E402


def read_preset(name: str):
    return script.parse_arguments(["--config", str(EXAMPLES / "configs" / f"avsegformer_{name}.yaml")])


@pytest.mark.parametrize(
    ("name", "stage", "batch_size", "epochs", "frozen_epochs", "size"),
    [("s4", "1", 2, 30, 5, 512), ("ms3", "1", 2, 60, 10, 512), ("avss", "all", 4, 30, 5, 224)],
)
def test_the_presets_train_as_the_released_program_does(name, stage, batch_size, epochs, frozen_epochs, size):
    data_args, model_args, args = read_preset(name)
    script.check_arguments(data_args, model_args, args)
    assert (args.stage, data_args.stage_1_dataset, args.seed) == (stage, name, 123)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (batch_size, 1)
    assert (args.lr_scheduler_type, args.num_warmup_steps, args.weight_decay) == ("constant", 0, 0.01)
    # All trains, with one learning rate, but for the backbone in the first epochs.
    assert (args.stage_1_epochs, args.stage_1_phase_2_epoch) == (epochs, frozen_epochs)
    assert (args.stage_1_learning_rate, args.stage_1_phase_2_learning_rate) == (2e-5, 2e-5)
    assert (args.stage_1_parameters, args.stage_1_max_grad_norm) == (None, None)
    assert not data_args.split_clips and args.mixed_precision is None
    if stage == "all":
        assert (args.stage_2_epochs, args.stage_2_learning_rate, args.stage_2_max_grad_norm) == (30, 2e-5, None)
        assert args.stage_2_parameters is None and args.stage_2_phase_2_epoch is None
    config = make_config(model_args.get_block(localizes=True), localizes=True, prompted=False)
    image_processor = make_processor(config, **parse_block(model_args.image_processor)).image_processor
    for field in (image_processor.size, image_processor.label_size):
        assert (field["height"], field["width"]) == (size, size)


@pytest.mark.parametrize("name", ["s4", "ms3", "avss"])
def test_the_presets_make_the_released_models(name):
    _, model_args, _ = read_preset(name)
    localizer = make_config(model_args.get_block(localizes=True), localizes=True, prompted=False)
    config = make_config(model_args.get_block(localizes=False), localizes=False, prompted=True)
    assert (localizer.num_labels, config.num_labels, config.use_mask_prompt) == (2, 71, True)
    for made in (localizer, config):
        assert made.backbone_config.depths == [3, 6, 40, 3]
        assert made.audio_config.final_relu and made.freeze_audio_encoder
        assert (made.num_queries, made.mask_loss, made.mix_loss_weight) == (300, "dice", 0.1)
        assert made.mask_prompt_position == "after_mixer" and not made.mix_loss_sees_prompt
