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
import pytest
import torch

from stepping_stones_hf import AVSegFormerConfig, AVSegFormerForAudioVisualSegmentation


STAGES = ["stage1", "stage2", "stage3", "stage4"]
BACKBONES = {
    "pvt_v2": {
        "model_type": "pvt_v2",
        "hidden_sizes": [4, 8, 10, 8],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 2, 5, 4],
        "mlp_ratios": [2, 2, 2, 2],
        "out_features": STAGES,
    },
    "resnet": {
        "model_type": "resnet",
        "embedding_size": 4,
        "hidden_sizes": [8, 12, 16, 20],
        "depths": [1, 1, 1, 1],
        "out_features": STAGES,
    },
}


def make_config(backbone: str = "pvt_v2", **overrides) -> AVSegFormerConfig:
    """A configuration of some ten thousand parameters."""
    values = {
        "backbone_config": BACKBONES[backbone],
        "hidden_dim": 32,
        "num_queries": 5,
        "encoder_layers": 2,
        "query_generator_layers": 1,
        "decoder_layers": 2,
        "num_attention_heads": 4,
        "num_sampling_points": 2,
        "feedforward_dim": 16,
        "query_generator_feedforward_dim": 16,
        "mask_mlp_dim": 12,
        "head_hidden_sizes": [6, 4],
        "dropout": 0.0,
    }
    return AVSegFormerConfig(**{**values, **overrides})


def make_model(backbone: str = "pvt_v2", **overrides) -> AVSegFormerForAudioVisualSegmentation:
    """In eval mode; its weights are larger than freshly initialized ones, so that nothing that a test compares is near
    zero."""
    torch.manual_seed(0)
    model = AVSegFormerForAudioVisualSegmentation(make_config(backbone, **overrides)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def make_tiny_model(kind: str, **overrides) -> AVSegFormerForAudioVisualSegmentation:
    """A `"localizer"` or a `"mask-prompted"` model, one on each backbone."""
    if kind == "localizer":
        return make_model(**{"num_labels": 2, **overrides})
    return make_model("resnet", **{"num_labels": 7, "use_mask_prompt": True, **overrides})


@pytest.fixture(params=["localizer", "mask-prompted"])
def tiny_model(request) -> AVSegFormerForAudioVisualSegmentation:
    return make_tiny_model(request.param)


def make_inputs(
    model: AVSegFormerForAudioVisualSegmentation,
    num_frames: tuple[int, ...] = (5, 2),
    height: int = 64,
    width: int = 96,
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


def make_targets(model: AVSegFormerForAudioVisualSegmentation, inputs: dict) -> dict:
    num_frames, _, height, width = inputs["pixel_values"].shape
    generator = torch.Generator().manual_seed(2)
    return {"labels": torch.randint(model.config.num_labels, (num_frames, height, width), generator=generator)}
