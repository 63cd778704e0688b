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
from collections.abc import Callable

import pytest
import torch

from stepping_stones_hf import CAVPConfig, CAVPForAudioVisualSegmentation


BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [16, 16, 16, 32],
    "depths": [1, 1, 1, 2],
    "out_features": ["stage1", "stage4"],
}


def make_config(**overrides) -> CAVPConfig:
    """A configuration of some ten thousand parameters."""
    values = {
        "backbone_config": BACKBONE,
        "audio_embedding_dim": 128,
        "aspp_hidden_dim": 6,
        "aspp_dim": 10,
        "aspp_dilations": [1, 2],
        "low_level_dim": 6,
        "projector_dim": 12,
        "intermediate_size": 24,
        "head_dim": 10,
        "contrastive_max_views": 8,
    }
    return CAVPConfig(**{**values, **overrides})


def make_model(**overrides) -> CAVPForAudioVisualSegmentation:
    """In eval mode; its weights are larger than freshly initialized ones, so that nothing that a test compares is near
    zero."""
    torch.manual_seed(0)
    model = CAVPForAudioVisualSegmentation(make_config(**overrides)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def make_tiny_model(kind: str, **overrides) -> CAVPForAudioVisualSegmentation:
    """A `"localizer"` or a `"mask-prompted"` model."""
    fields = {"num_labels": 2} if kind == "localizer" else {"num_labels": 7, "use_mask_prompt": True}
    return make_model(**{**fields, **overrides})


@pytest.fixture
def tiny_config() -> Callable[..., CAVPConfig]:
    return make_config


@pytest.fixture(params=["localizer", "mask-prompted"])
def tiny_model(request) -> CAVPForAudioVisualSegmentation:
    return make_tiny_model(request.param)


def make_inputs(
    model: CAVPForAudioVisualSegmentation, num_frames: tuple[int, ...] = (5, 2), height: int = 64, width: int = 96
) -> dict:
    generator = torch.Generator().manual_seed(1)
    total = sum(num_frames)
    inputs = {
        "pixel_values": torch.randn(total, 3, height, width, generator=generator),
        "audio_embeddings": torch.randn(total, 128, generator=generator),
    }
    if model.config.use_mask_prompt:
        inputs["prompt_masks"] = torch.rand(total, 20, 30, generator=generator)
    return inputs


def make_targets(model: CAVPForAudioVisualSegmentation, inputs: dict) -> dict:
    num_frames, _, height, width = inputs["pixel_values"].shape
    generator = torch.Generator().manual_seed(2)
    return {"labels": torch.randint(model.config.num_labels, (num_frames, height, width), generator=generator)}
