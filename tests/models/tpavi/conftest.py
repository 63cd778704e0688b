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

from stepping_stones_hf import TPAVIConfig, TPAVIForAudioVisualSegmentation


BACKBONES = {
    "pvt_v2": {
        "model_type": "pvt_v2",
        "hidden_sizes": [4, 8, 10, 8],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 5, 4],
        "mlp_ratios": [2, 2, 2, 2],
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
    "resnet": {
        "model_type": "resnet",
        "embedding_size": 4,
        "hidden_sizes": [8, 12, 16, 20],
        "depths": [1, 1, 1, 1],
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    },
}


def make_config(backbone: str = "pvt_v2", **overrides) -> TPAVIConfig:
    """A configuration of some thousand parameters."""
    values = {"backbone_config": BACKBONES[backbone], "hidden_dim": 8, "head_hidden_sizes": [6, 4]}
    return TPAVIConfig(**{**values, **overrides})


def make_model(backbone: str = "pvt_v2", **overrides) -> TPAVIForAudioVisualSegmentation:
    """In eval mode; its weights are larger than freshly initialized ones, so that nothing that a test compares is near
    zero."""
    torch.manual_seed(0)
    model = TPAVIForAudioVisualSegmentation(make_config(backbone, **overrides)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def make_tiny_model(kind: str, **overrides) -> TPAVIForAudioVisualSegmentation:
    """A `"localizer"` or a `"mask-prompted"` model, one on each backbone."""
    if kind == "localizer":
        return make_model(**{"num_labels": 2, **overrides})
    return make_model("resnet", **{"num_labels": 7, "use_mask_prompt": True, **overrides})


@pytest.fixture
def tiny_config() -> Callable[..., TPAVIConfig]:
    return make_config


@pytest.fixture(params=["localizer", "mask-prompted"])
def tiny_model(request) -> TPAVIForAudioVisualSegmentation:
    return make_tiny_model(request.param)


def make_inputs(
    model: TPAVIForAudioVisualSegmentation, num_frames: tuple[int, ...] = (5, 2), height: int = 64, width: int = 96
) -> dict:
    generator = torch.Generator().manual_seed(1)
    total = sum(num_frames)
    inputs = {
        "pixel_values": torch.randn(total, 3, height, width, generator=generator),
        "audio_embeddings": torch.randn(total, 128, generator=generator),
        "num_frames": torch.tensor(num_frames),
    }
    if model.config.use_mask_prompt:
        inputs["prompt_masks"] = torch.rand(total, 20, 30, generator=generator)
    return inputs


def make_labels(model: TPAVIForAudioVisualSegmentation, total: int = 7, height: int = 64, width: int = 96):
    generator = torch.Generator().manual_seed(2)
    return torch.randint(model.config.num_labels, (total, height, width), generator=generator)


def make_targets(model: TPAVIForAudioVisualSegmentation, inputs: dict) -> dict:
    num_frames, _, height, width = inputs["pixel_values"].shape
    return {"labels": make_labels(model, num_frames, height, width)}
