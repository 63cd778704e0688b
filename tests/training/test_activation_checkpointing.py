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

import re

import pytest
import torch
from transformers.models.swin.modeling_swin import SwinLayer

from stepping_stones_hf import AAVSForAudioVisualSegmentation
from stepping_stones_hf.models.aavs.recipe_aavs import BACKBONE_ADAPTERS, RELEASED_PARAMETERS
from stepping_stones_hf.training.activation_checkpointing import checkpoint_activations
from stepping_stones_hf.training.stages import set_trainable

from ..models.aavs.conftest import make_config, make_inputs, make_labels


def make_model() -> AAVSForAudioVisualSegmentation:
    torch.manual_seed(0)
    model = AAVSForAudioVisualSegmentation(make_config(num_labels=7, use_mask_prompt=True))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.config.backbone_config.drop_path_rate = 0.0
    return model.train()


def get_gradients(model: AAVSForAudioVisualSegmentation) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)  # the random points
    model(**make_inputs(model), **make_labels(7)).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("patterns", [None, RELEASED_PARAMETERS[2], (*RELEASED_PARAMETERS[2], BACKBONE_ADAPTERS)])
def test_gradients_stay_the_same(patterns):
    gradients = []
    for checkpoints in (False, True):
        model = make_model()
        if patterns is not None:
            set_trainable(model, patterns)
        if checkpoints:
            checkpoint_activations(model)
        gradients.append(get_gradients(model))
    expected, found = gradients
    assert any(re.search(BACKBONE_ADAPTERS, name) for name in expected) == (patterns != RELEASED_PARAMETERS[2])
    assert found.keys() == expected.keys()
    # Attention has one kernel with and one without a gradient of its position bias.
    tolerance = 1e-4 if patterns is None else 1e-6
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() <= tolerance * gradient.norm() + 1e-6, name


def test_each_block_is_computed_twice_and_no_graph_of_it_is_kept():
    model = make_model()
    checkpoint_activations(model)
    blocks = [module for module in model.modules() if isinstance(module, SwinLayer)]
    calls = []
    for block in blocks:
        block.layernorm_before.register_forward_hook(
            lambda module, inputs, output: calls.append((module, output.requires_grad))
        )
    torch.manual_seed(1)
    loss = model(**make_inputs(model), **make_labels(7)).loss
    assert [needs_grad for _, needs_grad in calls] == [False] * len(blocks)
    loss.backward()
    assert len(calls) == 2 * len(blocks)
    assert all(needs_grad for _, needs_grad in calls[len(blocks) :])


def test_a_frozen_backbone_is_computed_once():
    model = make_model()
    set_trainable(model, RELEASED_PARAMETERS[2])
    checkpoint_activations(model)
    feature_maps = model.model.backbone(make_inputs(model)["pixel_values"]).feature_maps
    assert not any(feature_map.requires_grad for feature_map in feature_maps)
