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
"""
Released CAVP checkpoints (`stepping-stones convert --model cavp`), for AVSS and for two labels.
"""

import os
import re

import torch

from ..backbones import convert_backbone_parameter, infer_backbone_config
from ..conversion import Conversion, convert_checkpoint, name_labels, save_converted, select_parameters
from ..vggish.convert_vggish_original import ORIGINAL_KEYS, infer_vggish_config
from .configuration_cavp import OUT_FEATURES, CAVPConfig
from .feature_extraction_cavp import CAVPFeatureExtractor
from .image_processing_pil_cavp import CAVPImageProcessorPil
from .modeling_cavp import CAVPForAudioVisualSegmentation
from .processing_cavp import CAVPProcessor


# Of a model that was trained by DistributedDataParallel.
PARALLEL_PREFIX = "module."
BACKBONE_PREFIX = "backbone.backbone."
VGGISH_PREFIX = "audio_backbone.backbone."
AUDIO_ENCODER_PREFIX = "model.audio_encoder."

# (pattern, replacement), applied in this order to every key outside of backbone and VGGish.
KEY_RENAMES = [
    (r"^segment\.aspp\.", "model.decoder.aspp."),
    (r"\.map_convs\.", ".convs."),
    (r"\.map_bn\.", ".norm."),
    (r"\.red_conv\.", ".projection."),
    (r"\.global_pooling_conv\.", ".pool_conv."),
    (r"\.global_pooling_bn\.", ".pool_norm."),
    (r"\.pool_red_conv\.", ".pool_projection."),
    (r"\.red_bn\.", ".output_norm."),
    (r"^segment\.reduce\.0\.", "model.decoder.low_level_conv."),
    (r"^segment\.reduce\.1\.", "model.decoder.low_level_norm."),
    (r"^visual_projector\.", "model.fusion.visual_projector."),
    (r"^cross_att\.patch_embed_v\.proj\.", "model.fusion.visual_embed."),
    (r"^cross_att\.patch_embed_a\.proj\.", "model.fusion.audio_embed."),
    (r"^cross_att\.blocks\.0\.", "model.fusion.block."),
    (r"^cross_att\.norm\.", "model.fusion.layer_norm."),
    (r"\.norm1\.", ".layer_norm_before."),
    (r"\.norm2\.", ".layer_norm_after."),
    (r"\.attn\.([qkv])\.", r".gate.\1_proj."),
    (r"\.attn\.proj\.", ".gate.o_proj."),
    (r"^segment\.upsample\.last_conv\.0\.", "head.conv1."),
    (r"^segment\.upsample\.last_conv\.1\.", "head.norm1."),
    (r"^segment\.upsample\.last_conv\.3\.", "head.conv2."),
    (r"^segment\.upsample\.last_conv\.4\.", "head.norm2."),
    (r"^segment\.upsample\.classifier\.", "head.classifier."),
]

# Positional embeddings that nothing adds, and a classifier of sounds that nothing calls.
DEAD_KEYS = re.compile(r"^(cross_att\.pos_embed_[va]$|audio_backbone\.cls_head\.)")

# Sizes are read off these.
REQUIRED_KEYS = {
    "model.backbone.embedder.layers.0.convolution.weight",
    "model.audio_encoder.projection.bias",
    "model.decoder.aspp.pool_projection.weight",
    "model.decoder.low_level_conv.weight",
    "model.fusion.visual_projector.fc1.weight",
    "model.fusion.block.mlp.fc1.weight",
    "head.conv1.weight",
    "head.classifier.weight",
}


def convert_cavp_parameter(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """
    A parameter of a released checkpoint under the names of this library: one entry, none for what takes part in
    nothing.
    """
    name = name.removeprefix(PARALLEL_PREFIX)
    if DEAD_KEYS.search(name):
        return {}
    if name.startswith(BACKBONE_PREFIX):
        converted = convert_backbone_parameter(name.removeprefix(BACKBONE_PREFIX), tensor)
        return {f"model.backbone.{name}": tensor for name, tensor in converted.items()}
    if name.startswith(VGGISH_PREFIX):
        original = name.removeprefix(VGGISH_PREFIX)
        return {AUDIO_ENCODER_PREFIX + ORIGINAL_KEYS.get(original, original): tensor}
    for pattern, replacement in KEY_RENAMES:
        name = re.sub(pattern, replacement, name)
    return {name: tensor}


def infer_cavp_config(state_dict: dict[str, torch.Tensor], fields: dict) -> CAVPConfig:
    """
    Config of a released checkpoint, read off its weights. What they do not tell is as in the released program.

    Args:
        state_dict (`dict[str, torch.Tensor]`):
            The checkpoint under the names of this library.
        fields (`dict`):
            Fields of the config that shall differ.
    """
    absent = sorted(REQUIRED_KEYS - state_dict.keys())
    if absent:
        raise ValueError(f"This is no CAVP checkpoint: it has nothing that becomes {absent[0]}.")
    backbone = select_parameters(state_dict, "model.backbone.")
    backbone_config = infer_backbone_config(
        backbone,
        num_channels=backbone["embedder.layers.0.convolution.weight"].shape[1],
        out_features=OUT_FEATURES,
    )
    audio_config = infer_vggish_config(select_parameters(state_dict, AUDIO_ENCODER_PREFIX), final_relu=True)
    aspp_dim, aspp_hidden_dim = state_dict["model.decoder.aspp.pool_projection.weight"].shape[:2]
    inferred = {
        "backbone_config": backbone_config,
        "audio_config": audio_config,
        "num_labels": len(state_dict["head.classifier.weight"]),
        "audio_embedding_dim": audio_config.embedding_dim,
        "aspp_dim": aspp_dim,
        "aspp_hidden_dim": aspp_hidden_dim,
        "low_level_dim": len(state_dict["model.decoder.low_level_conv.weight"]),
        "projector_dim": len(state_dict["model.fusion.visual_projector.fc1.weight"]),
        "intermediate_size": len(state_dict["model.fusion.block.mlp.fc1.weight"]),
        "head_dim": len(state_dict["head.conv1.weight"]),
    }
    inferred |= name_labels(inferred["num_labels"])
    return CAVPConfig(**inferred | fields)


def convert_cavp_checkpoint(
    checkpoint: str | os.PathLike, output_dir: str | os.PathLike, config: str | os.PathLike | None = None
) -> Conversion:
    """
    Converts a released checkpoint and writes config, weights and processor to `output_dir`, unless a key is left over.
    Left out is what takes part in nothing: positional embeddings (`cross_att.pos_embed_v`, `cross_att.pos_embed_a`)
    and a classifier of sounds (`audio_backbone.cls_head`). The processor crops sound as the released program does.

    Args:
        checkpoint (`str` or `PathLike`):
            `.pth` or `.safetensors` file with the names of the released checkpoints, which have the audio network in
            them.
        output_dir (`str` or `PathLike`):
            Folder to write to.
        config (`str` or `PathLike`, *optional*):
            JSON file with fields of [`CAVPConfig`] that the weights do not tell, such as `{"contrastive_weight": 0.1}`
            for a checkpoint of AVSBench-object that is to be trained on.

    Returns:
        [`Conversion`]: what is left over, if anything, and what was left out.

    Raises:
        `ValueError`: the file is no CAVP checkpoint.
    """
    model, conversion = convert_checkpoint(
        checkpoint,
        config,
        None,
        CAVPForAudioVisualSegmentation,
        convert_cavp_parameter,
        lambda state_dict, fields, _: infer_cavp_config(state_dict, fields),
    )
    if not conversion.unexpected and not conversion.missing:
        image_processor = CAVPImageProcessorPil(localization=model.config.num_labels == 2)
        save_converted(model, CAVPProcessor(image_processor, CAVPFeatureExtractor(released_crop=True)), output_dir)
    return conversion


__all__ = ["convert_cavp_checkpoint", "infer_cavp_config"]
