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
"""EASE's rates, schedules and annealing against the released program's, and its presets."""

import json
import sys
from pathlib import Path

import pytest
import torch

from stepping_stones_hf import EASEConfig, EASEForAudioVisualSegmentation
from stepping_stones_hf.models.ease.recipe_ease import get_mask_probability
from stepping_stones_hf.training.initialization import make_config, make_new_processor, parse_block
from stepping_stones_hf.training.schedules import make_scheduler

from .conftest import make_model
from .test_configuration_ease import PVT_B5


EXAMPLES = Path(__file__).parents[3] / "examples"
sys.path.insert(0, str(EXAMPLES))

import train_stepping_stones as script  # noqa: E402


# The released program's: probability of a block that is annealed from .20 to .35 of 1000 steps, by steps made.
ANNEALING = {0: 1, 200: 1, 201: 0.993998, 250: 0.694253, 275: 0.535887, 300: 0.372041, 349: 0.011003, 350: 0, 999: 0}
# Factor of backbone and of all else, with 3 and 6 steps of warm-up and 40 steps in all.
SCHEDULE = {
    0: (0, 0),
    1: (0, 0.333333),
    3: (0, 1),
    4: (0.166667, 0.975642),
    8: (0.833333, 0.877513),
    9: (1, 0.852794),
    10: (0.97092, 0.827995),
    39: (0.045475, 0.038781),
    40: (0, 0),
}
# Rates of ViT-B on two devices, divided by the configured one.
LAYER_RATES = [0.12148, 0.15185, 0.18981, 0.23727, 0.29658, 0.37073, 0.46341, 0.57926, 1, 1, 1, 1]


@pytest.fixture(scope="module")
def published(shared_dir) -> dict:
    return json.loads((shared_dir / "goldens" / "ease_avss_vit" / "config.json").read_text())["recipe_examples"]


def test_these_are_the_released_programs_figures(published):
    assert {int(step): value for step, value in published["annealing"]["values"].items()}.items() >= ANNEALING.items()
    schedule = {int(step): tuple(factors) for step, factors in published["schedule"]["values"].items()}
    assert schedule.items() >= SCHEDULE.items()
    rates = published["layer_rates"]["values"]
    assert [rates["embeddings, blocks.0"], *(rates[f"blocks.{block}"] for block in range(1, 8))] == LAYER_RATES[:8]


@pytest.mark.parametrize(("step", "expected"), ANNEALING.items())
def test_annealing(step, expected):
    assert get_mask_probability(step / 1000, 0.2, 0.35) == pytest.approx(expected, abs=1e-6)
    model = make_model(annealing_start=[0.2, 0.5], annealing_end=[0.35, 0.9])
    model.update_training_progress(step, 1000)
    second = get_mask_probability(step / 1000, 0.5, 0.9)
    assert model.model.attn_mask_probs.tolist() == pytest.approx([expected, second], abs=1e-6)


def test_rates_of_a_vit_decay_from_block_to_block():
    with torch.device("meta"):
        model = EASEForAudioVisualSegmentation(EASEConfig(num_labels=71, audio_config={}))
    model.freeze_audio_encoder()
    groups = model.get_parameter_groups(2e-4, num_passes=2)
    rates = {id(parameter): group["lr"] / 2e-4 for group in groups for parameter in group["params"]}
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum(len(group["params"]) for group in groups) == len(rates) == len(trainable)
    for name, parameter in trainable.items():
        expected = 1
        if ".blocks." in name:
            expected = LAYER_RATES[int(name.split(".")[3])]
        elif ".embeddings." in name:
            expected = LAYER_RATES[0]
        assert rates[id(parameter)] == pytest.approx(expected, abs=1e-5), name
    in_backbone = {id(parameter) for parameter in model.model.backbone.parameters()}
    for group in groups:
        assert {id(parameter) in in_backbone for parameter in group["params"]} == {group["is_backbone"]}
    assert not groups[0]["is_backbone"] and groups[0]["lr"] == 2e-4  # which the log shows


def test_rates_of_a_pvt_do_not_decay():
    with torch.device("meta"):
        model = EASEForAudioVisualSegmentation(EASEConfig(backbone_config=PVT_B5))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {}
    for group in model.get_parameter_groups(1.0, num_passes=2):
        for parameter in group["params"]:
            rates[names[id(parameter)]] = group["lr"]
    earlier = {name for name, rate in rates.items() if rate != 1}
    assert {rates[name] for name in earlier} == {2**0.5}
    layers = "model.backbone.encoder.layers"
    assert f"{layers}.2.blocks.33.layer_norm_1.weight" in earlier and f"{layers}.1.layer_norm.weight" in earlier
    assert rates[f"{layers}.2.blocks.34.layer_norm_1.weight"] == rates[f"{layers}.2.layer_norm.weight"] == 1
    assert all(name.startswith(layers) for name in earlier)


def test_other_models_have_one_group_of_all_that_trains():
    from ..tpavi.conftest import make_model as make_other_model

    model = make_other_model()
    model.model.decoder.requires_grad_(False)
    (group,) = model.get_parameter_groups(1e-3, num_passes=4)
    assert group == {"params": [parameter for parameter in model.parameters() if parameter.requires_grad]}
    model.update_training_progress(3, 7)


def test_the_backbone_warms_up_when_all_else_has():
    backbone, rest = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    groups = [{"params": [rest]}, {"params": [backbone], "is_backbone": True, "lr": 0.5}]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    scheduler = make_scheduler("polynomial", optimizer, 3, 40, 6, power=0.9)
    for step in range(41):
        if step in SCHEDULE:
            rest_rate, backbone_rate = scheduler.get_last_lr()
            assert (backbone_rate / 0.5, rest_rate) == pytest.approx(SCHEDULE[step], abs=1e-6), step
        optimizer.step()
        scheduler.step()


BATCHES = {"": (12, 12, 60), "_vitl384": (4, 4, 20)}


@pytest.mark.parametrize("size", BATCHES)
@pytest.mark.parametrize(
    ("name", "epochs", "rate", "warmups"),
    [("s4", 36, 2e-4, (300, 600)), ("ms3", 72, 1e-4, (50, 100)), ("avss", 22, 2e-4, (300, 600))],
)
def test_the_presets_train_as_the_released_program_does(name, epochs, rate, warmups, size):
    recipe = str(EXAMPLES / "configs" / f"ease_{name}{size}.yaml")
    data_args, model_args, args = script.parse_arguments(["--config", recipe])
    script.check_arguments(data_args, model_args, args)
    stage = 2 if name == "avss" else 1
    assert (args.stage, args.seed, args.mixed_precision) == (str(stage), 0, "fp16")
    found = script.Recipe.of_stage(args, stage)
    assert (found.epochs, found.learning_rate, found.max_grad_norm) == (epochs, rate, 0.01)
    assert found.parameters is None and found.phase_2_epoch is None and found.max_steps is None
    assert (args.num_warmup_steps, args.num_backbone_warmup_steps, args.weight_decay) == (*warmups, 0.05)
    assert (args.lr_scheduler_type, args.polynomial_power) == ("polynomial", 0.9)
    assert args.per_device_train_batch_size == BATCHES[size][("s4", "ms3", "avss").index(name)]
    # Frames of AVSS, clips of S4 and MS3, of which S4's have one annotated frame.
    assert data_args.split_clips == (name == "avss") and data_args.first_frame == "once"
    assert data_args.train_prompts == ("none" if name == "avss" else "truth")
    assert parse_block(data_args.augmentation) == {"flip": 0.5, "scale": [0.1, 2.0]}

    config = make_config(model_args.get_block(stage == 1), localizes=stage == 1, prompted=False)
    assert config.audio_config.final_relu and config.freeze_audio_encoder
    assert (config.num_queries, config.num_joint_blocks, config.layer_decay) == (100, 4, 0.8)
    assert config.hidden_size == (1024 if size else 768) and config.backbone_config.num_register_tokens == 4
    processor = make_new_processor(config, stage == 1, parse_block(model_args.image_processor))
    assert processor.image_processor.size.height == (384 if size else 224)
    assert processor.image_processor.label_size.height == 224


def test_other_presets_make_their_models():
    recipe = str(EXAMPLES / "configs" / "ease_avss_pvt.yaml")
    _, model_args, args = script.parse_arguments(["--config", recipe])
    config = make_config(model_args.get_block(localizes=False), localizes=False, prompted=False)
    assert config.is_pvt and config.num_queries == 29 and config.fusion_blocks == [*range(42, 49)]
    assert (args.stage_2_epochs, args.per_device_train_batch_size) == (36, 60)

    recipe = str(EXAMPLES / "configs" / "ease-stepping-stones.yaml")
    data_args, model_args, args = script.parse_arguments(["--config", recipe])
    assert (args.stage, data_args.stage_1_dataset, data_args.train_prompts) == ("all", "avss", "truth")
    assert (args.stage_1_epochs, args.stage_2_epochs, args.stage_1_learning_rate) == (22, 22, 2e-4)
    config = make_config(model_args.get_block(localizes=False), localizes=False, prompted=True)
    assert config.mask_prompt_fusion and config.mask_prompt_keys and config.attention_mask_init == "prompt"
