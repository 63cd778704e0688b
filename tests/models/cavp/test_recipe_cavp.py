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
"""The presets against what is known of the released program's recipes."""

import json
import sys
from pathlib import Path

import pytest
import torch

from stepping_stones_hf import CAVPForAudioVisualSegmentation, VGGishConfig, VGGishModel
from stepping_stones_hf.models.auto import make_processor
from stepping_stones_hf.models.vggish.convert_vggish_original import ORIGINAL_KEYS
from stepping_stones_hf.training.initialization import load_pretrained_parts, make_config, parse_block

from .conftest import make_config as make_tiny_config


EXAMPLES = Path(__file__).parents[3] / "examples"
sys.path.insert(0, str(EXAMPLES))

import train_stepping_stones as script  # noqa: E402


def read_preset(name: str):
    return script.parse_arguments(["--config", str(EXAMPLES / "configs" / f"cavp_{name}.yaml")])


@pytest.mark.parametrize(
    ("name", "stage", "epochs", "steps"),
    [("s4", "1", 60, None), ("ms3", "1", 12, None), ("avss", "all", 60, 60 * (8498 // 16))],
)
def test_the_presets_train_as_far_as_the_script_can_as_the_released_program_does(name, stage, epochs, steps):
    data_args, model_args, args = read_preset(name)
    script.check_arguments(data_args, model_args, args)
    assert (args.stage, data_args.stage_1_dataset, args.seed) == (stage, name, 666)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (16, 1)
    assert (args.lr_scheduler_type, args.num_warmup_steps, args.weight_decay) == ("polynomial", 0, 1e-4)
    assert (args.polynomial_power, args.num_backbone_warmup_steps) == (0.9, None)
    assert parse_block(data_args.augmentation) == {"flip": 0.5}
    assert (args.stage_1_epochs, args.stage_1_max_steps) == (epochs, steps)
    # Nothing is frozen, and nothing clipped.
    assert (args.stage_1_parameters, args.stage_1_max_grad_norm) == (None, None)
    assert data_args.split_clips and args.mixed_precision is None
    if stage == "all":
        assert args.stage_2_max_steps == 80 * (8498 // 16)
        assert (args.stage_2_parameters, args.stage_2_max_grad_norm) == (None, None)
    config = make_config(model_args.get_block(localizes=True), localizes=True, prompted=False)
    processor = make_processor(config, **parse_block(model_args.image_processor))
    for field in (processor.image_processor.size, processor.image_processor.label_size):
        assert (field["height"], field["width"]) == (224, 224)
    assert not processor.feature_extractor.released_crop


@pytest.mark.parametrize("name", ["s4", "ms3", "avss"])
def test_the_presets_make_the_released_models(name, shared_dir):
    _, model_args, _ = read_preset(name)
    localizer = make_config(model_args.get_block(localizes=True), localizes=True, prompted=False)
    config = make_config(model_args.get_block(localizes=False), localizes=False, prompted=False)
    for made, keys in ((localizer, "cavp_binary_resnet50"), (config, "cavp_avss_resnet50")):
        summary = json.loads((shared_dir / "goldens" / "keys" / f"{keys}.summary.json").read_text())
        with torch.device("meta"):
            model = CAVPForAudioVisualSegmentation(made)
        assert model.num_parameters() == summary["n_params"] - summary["dead_params"]
        assert (made.contrastive_weight, made.freeze_audio_encoder) == (1.0, False)
    bank = (config.sound_bank_size, config.sound_bank_rate, config.sound_bank_warmup_steps)
    assert bank == ((16, 0.5, 8498 // 16) if name == "avss" else (0, 0.5, 0))
    assert localizer.sound_bank_size == 0


def test_vggish_begins_with_torchvggish_but_for_its_last_layer(tmp_path):
    torch.manual_seed(0)
    sizes = {"conv_channels": [4, 4, 8, 8], "hidden_size": 16}
    pretrained = VGGishModel(VGGishConfig(**sizes)).state_dict()
    torch.save({original: pretrained[ours] for original, ours in ORIGINAL_KEYS.items()}, tmp_path / "vggish.pth")
    audio_config = VGGishConfig(**sizes, embedding_dim=24, final_relu=True)
    model = CAVPForAudioVisualSegmentation(make_tiny_config(audio_config=audio_config, audio_embedding_dim=24))
    encoder = model.model.audio_encoder
    new = encoder.projection.weight.clone()
    load_pretrained_parts(model, None, str(tmp_path / "vggish.pth"))
    assert torch.equal(encoder.projection.weight, new) and new.shape == (24, 16)
    for name, value in encoder.state_dict().items():
        if not name.startswith("projection."):
            assert torch.equal(value, pretrained[name]), name
