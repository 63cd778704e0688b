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

from stepping_stones_hf import AAVSConfig, AAVSForAudioVisualSegmentation, VGGishConfig


def make_config(**overrides) -> AAVSConfig:
    """A configuration of some ten thousand parameters; three decoder layers, so that every feature map is visited."""
    values = {
        "backbone_config": {
            "model_type": "swin",
            "embed_dim": 8,
            "depths": [1, 2, 1, 1],
            "num_heads": [1, 2, 2, 4],
            "window_size": 4,
            "drop_path_rate": 0.0,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        "audio_projection_dim": 24,
        "feature_size": 32,
        "mask_feature_size": 24,
        "hidden_dim": 16,
        "encoder_feedforward_dim": 24,
        "encoder_layers": 1,
        "decoder_layers": 4,
        "num_attention_heads": 2,
        "dim_feedforward": 24,
        "num_queries": 5,
        "train_num_points": 32,
    }
    return AAVSConfig(**{**values, **overrides})


def make_tiny_model(kind: str, **overrides) -> AAVSForAudioVisualSegmentation:
    """A `"localizer"` or a `"mask-prompted"` model, as the released ones are, in eval mode; its weights are larger
    than freshly initialized ones, so that nothing that a test compares is near zero."""
    torch.manual_seed(0)
    prompted = kind == "mask-prompted"
    values = {"num_labels": 7 if prompted else 2, "use_mask_prompt": prompted, "apply_output_projection": prompted}
    model = AAVSForAudioVisualSegmentation(make_config(**{**values, **overrides})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


@pytest.fixture
def tiny_config() -> Callable[..., AAVSConfig]:
    return make_config


@pytest.fixture(params=["localizer", "mask-prompted"])
def tiny_model(request) -> AAVSForAudioVisualSegmentation:
    return make_tiny_model(request.param)


@pytest.fixture
def tiny_audio_config() -> VGGishConfig:
    return VGGishConfig(conv_channels=[4, 4, 8, 8], conv_depths=[1, 1, 1, 1], hidden_size=16)


def make_inputs(
    model: AAVSForAudioVisualSegmentation, num_frames: tuple[int, ...] = (3,), height: int = 64, width: int = 96
) -> dict:
    """Inputs for clips of so many frames, with a silent one at the end."""
    generator = torch.Generator().manual_seed(1)
    total = sum(num_frames)
    inputs = {
        "pixel_values": torch.randn(total, 3, height, width, generator=generator),
        "audio_embeddings": torch.randn(total, model.config.audio_embedding_dim, generator=generator),
    }
    if model.config.use_mask_prompt:
        inputs["prompt_masks"] = torch.rand(total, 20, 30, generator=generator)
        inputs["prompt_masks"][-1] = 0
    return inputs


def make_labels(num_labels: int, num_frames: int = 3, height: int = 64, width: int = 96) -> dict:
    """Frames with three masks, one mask, two masks, three masks, ..."""
    generator = torch.Generator().manual_seed(2)
    counts = [min(num_labels, (3, 1, 2)[frame % 3]) for frame in range(num_frames)]
    return {
        "mask_labels": [torch.rand(count, height, width, generator=generator).round() for count in counts],
        "class_labels": [torch.randperm(num_labels, generator=generator)[:count] for count in counts],
    }


def make_targets(model: AAVSForAudioVisualSegmentation, inputs: dict) -> dict:
    num_frames, _, height, width = inputs["pixel_values"].shape
    return make_labels(model.config.num_labels, num_frames, height, width)
