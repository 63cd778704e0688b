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
import torch

from stepping_stones_hf import EASEConfig, EASEForAudioVisualSegmentation


BACKBONES = {
    "dinov3_vit": {
        "model_type": "dinov3_vit",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_register_tokens": 2,
    },
    "pvt_v2": {
        "model_type": "pvt_v2",
        "num_encoder_blocks": 3,
        "hidden_sizes": [4, 8, 16],
        "depths": [1, 1, 4],
        "num_attention_heads": [1, 2, 2],
        "mlp_ratios": [2, 2, 2],
        "sr_ratios": [8, 4, 2],
    },
}
# With a PVT-v2 and frames of 64x64 or 96x96, 16 and 36 patches.
NUM_QUERIES = {"dinov3_vit": 6, "pvt_v2": 9}


def make_config(backbone: str = "dinov3_vit", **overrides) -> EASEConfig:
    """A configuration of some ten thousand parameters."""
    values = {
        "backbone_config": BACKBONES[backbone],
        "num_queries": NUM_QUERIES[backbone],
        "num_joint_blocks": 2,
        "audio_hidden_size": 24,
        "num_audio_centers": 7,
        "num_audio_tokens": 3,
        "num_fusion_heads": 4,
        "query_generator_layers": 1,
        "query_generator_heads": 4,
        "query_generator_ratio": 2,
        "train_num_points": 64,
    }
    return EASEConfig(**{**values, **overrides})


def make_model(backbone: str = "dinov3_vit", **overrides) -> EASEForAudioVisualSegmentation:
    """In eval mode; its weights are larger than freshly initialized ones, so that nothing that a test compares is near
    zero."""
    torch.manual_seed(0)
    model = EASEForAudioVisualSegmentation(make_config(backbone, **overrides)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def make_tiny_model(kind: str, **overrides) -> EASEForAudioVisualSegmentation:
    """A `"localizer"` or a `"mask-prompted"` model, on a ViT, which takes frames of any size."""
    if kind == "localizer":
        return make_model(**{"num_labels": 2, **overrides})
    return make_model(**{"num_labels": 7, "use_mask_prompt": True, **overrides})


def make_inputs(
    model: EASEForAudioVisualSegmentation, num_frames: tuple[int, ...] = (5, 2), height: int = 64, width: int = 96
) -> dict:
    generator = torch.Generator().manual_seed(1)
    total = sum(num_frames)
    inputs = {
        "pixel_values": torch.randn(total, 3, height, width, generator=generator),
        "audio_embeddings": torch.rand(total, 128, generator=generator),
    }
    if model.config.use_mask_prompt:
        inputs["prompt_masks"] = torch.rand(total, 20, 30, generator=generator)
    return inputs


def make_targets(model: EASEForAudioVisualSegmentation, inputs: dict) -> dict:
    """Two classes a frame, at a size of their own."""
    generator = torch.Generator().manual_seed(2)
    targets = {"mask_labels": [], "class_labels": []}
    for _ in inputs["pixel_values"]:
        sounding = (torch.rand(20, 30, generator=generator) > 0.6).float()
        label = torch.randint(1, model.config.num_labels, (), generator=generator)
        targets["mask_labels"].append(torch.stack([1 - sounding, sounding]))
        targets["class_labels"].append(torch.stack([torch.zeros_like(label), label]))
    return targets
