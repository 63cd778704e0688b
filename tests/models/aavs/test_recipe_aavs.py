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
from torch.testing import assert_close

from stepping_stones_hf import AAVSConfig, AAVSForAudioVisualSegmentation
from stepping_stones_hf.models.aavs.modeling_aavs import AAVSAdapterMixin
from stepping_stones_hf.models.aavs.recipe_aavs import (
    BACKBONE_ADAPTERS,
    RELEASED_PARAMETERS,
    renew_backbone_adapters,
    switch_off_backbone_adapters,
)
from stepping_stones_hf.training.stages import set_trainable


def make_model(stage: int = 2, **values) -> AAVSForAudioVisualSegmentation:
    torch.manual_seed(0)
    backbone = {
        "model_type": "swin",
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 2, 2],
        "window_size": 4,
        "initializer_range": 0.05,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    return AAVSForAudioVisualSegmentation(
        AAVSConfig(
            backbone_config=backbone,
            num_labels=2 if stage == 1 else 5,
            use_mask_prompt=stage == 2,
            feature_size=32,
            mask_feature_size=32,
            hidden_dim=32,
            encoder_feedforward_dim=16,
            encoder_layers=1,
            decoder_layers=2,
            num_attention_heads=2,
            dim_feedforward=16,
            num_queries=3,
            **values,
        )
    )


def backbone_adapters(model) -> dict[str, torch.Tensor]:
    adapters = {name: value for name, value in model.named_parameters() if re.search(BACKBONE_ADAPTERS, name)}
    assert len(adapters) == 4 * 2 * 4  # blocks, adapters in each, tensors of each
    return adapters


# Of the full-size models, as the released program counts them.
@pytest.mark.parametrize(
    ("stage", "first", "second"), [(1, (68, 709_827), (260, 7_719_491)), (2, (70, 738_568), (262, 7_748_232))]
)
def test_released_patterns_train_as_many_tensors_and_parameters_as_the_released_program(stage, first, second):
    with torch.device("meta"):
        model = AAVSForAudioVisualSegmentation(
            AAVSConfig(num_labels=2, num_queries=30, apply_output_projection=False)
            if stage == 1
            else AAVSConfig(num_labels=71, num_queries=100, use_mask_prompt=True)
        )
    for patterns, expected in (
        (RELEASED_PARAMETERS[stage], first),
        ((*RELEASED_PARAMETERS[stage], BACKBONE_ADAPTERS), second),
    ):
        parameters = set_trainable(model, patterns)
        assert (len(parameters), sum(parameter.numel() for parameter in parameters)) == expected


def test_set_trainable_freezes_the_rest_and_frees_what_was_frozen():
    model = make_model()
    model.requires_grad_(False)
    parameters = set_trainable(model, [r"class_predictor\.bias", "queries_embedder"])
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {"class_predictor.bias", "model.decoder.audio_query.queries_embedder.weight"}
    assert [id(parameter) for parameter in parameters] == [
        id(parameter) for parameter in model.parameters() if parameter.requires_grad
    ]


def test_a_pattern_without_a_parameter_is_an_error_and_freezes_nothing():
    model = make_model()
    with pytest.raises(ValueError, match="No parameter of AAVSForAudioVisualSegmentation has a name.*'swin_adapt'"):
        set_trainable(model, ["class_predictor", "swin_adapt"])
    assert all(parameter.requires_grad for parameter in model.class_predictor.parameters())
    # Stage 1 has no audio-aware keys.
    with pytest.raises(ValueError, match="audio_aware_key"):
        set_trainable(make_model(stage=1), RELEASED_PARAMETERS[2])


def test_adapters_that_are_off_are_exactly_the_identity_and_frozen():
    model = make_model().eval()
    switch_off_backbone_adapters(model)
    pixel_values = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = model.model.backbone(pixel_values).feature_maps
        for module in model.model.backbone.modules():
            if isinstance(module, AAVSAdapterMixin):
                # Without the adapter at all, a module of transformers.
                module.__class__ = type(module).__mro__[2]
        expected = model.model.backbone(pixel_values).feature_maps
    for feature, other in zip(features, expected):
        assert torch.equal(feature, other)
    assert not any(adapter.requires_grad for adapter in backbone_adapters(model).values())


def test_only_the_backbones_adapters_are_switched_off_and_renewed():
    model, other = make_model(), make_model()
    switch_off_backbone_adapters(model)
    renew_backbone_adapters(model)
    adapters = backbone_adapters(model)
    for name, parameter in other.named_parameters():
        if name not in adapters:
            assert torch.equal(model.get_parameter(name), parameter), name


def test_renewed_adapters_are_drawn_from_the_seed_with_the_configured_deviation():
    first, second = make_model(), make_model()
    for model in (first, second):
        switch_off_backbone_adapters(model)
        torch.manual_seed(7)
        renew_backbone_adapters(model)
    adapters, others = backbone_adapters(first), backbone_adapters(second)
    for name, adapter in adapters.items():
        assert torch.equal(adapter, others[name])
        assert torch.equal(adapter, torch.zeros_like(adapter)) == name.endswith("bias")
    weights = torch.cat([adapter.flatten() for name, adapter in adapters.items() if name.endswith("weight")])
    assert_close(weights.std(), torch.tensor(0.05), rtol=0.05, atol=0)
    assert_close(weights.mean(), torch.tensor(0.0), rtol=0, atol=0.003)
