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
Released AVSegFormer checkpoints (`stepping-stones convert --model avsegformer`), for S4, MS3 and AVSS.
"""

import os
import re

import torch

from ..backbones import convert_backbone_parameter, count_modules, infer_backbone_config
from ..conversion import Conversion, convert_checkpoint, name_labels, save_converted, select_parameters
from ..vggish import VGGishConfig, VGGishFeatureExtractor
from ..vggish.convert_vggish_original import ORIGINAL_KEYS, infer_vggish_config
from .configuration_avsegformer import AVSegFormerConfig
from .image_processing_pil_avsegformer import AVSegFormerImageProcessorPil
from .modeling_avsegformer import NUM_ENCODER_LEVELS, AVSegFormerForAudioVisualSegmentation
from .processing_avsegformer import AVSegFormerProcessor


BACKBONE_PREFIX = "backbone."
VGGISH_PREFIX = "vggish."
AUDIO_ENCODER_PREFIX = "model.audio_encoder."

# (pattern, replacement), applied in this order to every key outside of backbone and VGGish.
KEY_RENAMES = [
    (r"^audio_proj\.", "model.audio_projection."),
    (r"^head\.level_embed$", "model.encoder.level_embed.weight"),
    (r"^head\.learnable_query\.", "model.query."),
    (r"^head\.query_generator\.", "model.query_generator."),
    (r"^head\.transformer\.encoder\.layers\.", "model.encoder.layers."),
    (r"^head\.transformer\.decoder\.layers\.", "model.decoder_layers."),
    (r"^head\.in_proj\.(\d)\.0\.", r"model.input_projections.\1.conv."),
    (r"^head\.in_proj\.(\d)\.1\.", r"model.input_projections.\1.norm."),
    (r"^head\.lateral_conv\.0\.", "model.lateral_projection.conv."),
    (r"^head\.lateral_conv\.1\.", "model.lateral_projection.norm."),
    (r"^head\.out_conv\.0\.", "model.mask_projection.conv."),
    (r"^head\.out_conv\.1\.", "model.mask_projection.norm."),
    (r"^head\.fusion_block\.proj\.", "model.mixer.attention.o_proj."),
    (r"^head\.fusion_block\.", "model.mixer.attention."),
    (r"^head\.mlp\.layers\.(\d)\.", lambda match: f"head.mask_mlp.conv{int(match[1]) + 1}."),
    (r"^head\.fc\.0\.", "head.conv1."),
    (r"^head\.fc\.2\.", "head.conv2."),
    (r"^head\.fc\.4\.", "head.conv3."),
    (r"\.ffn\.0\.", ".fc1."),
    (r"\.ffn\.2\.", ".fc2."),
    (r"\.linear([12])\.", r".fc\1."),
    (r"(query_generator\.layers\.\d+)\.cross_attn\.out_proj\.", r"\1.audio_o_proj."),
    (r"_attn\.out_proj\.", "_attn.o_proj."),
    (r"\.norm1\.", ".self_attn_layer_norm."),
    (r"(encoder\.layers\.\d+)\.norm2\.", r"\1.final_layer_norm."),
    (r"(query_generator\.layers\.\d+)\.norm2\.", r"\1.audio_layer_norm."),
    (r"\.norm2\.", ".cross_attn_layer_norm."),
    (r"\.norm3\.", ".final_layer_norm."),
]

# Branches of the head that nothing calls.
DEAD_KEYS = re.compile(r"^head\.(fpn|attn_fc)\.")

# Where there is a single key, the sound, queries and keys make no difference.
AUDIO_ATTENTION = re.compile(r"(query_generator\.layers\.\d+)\.cross_attn\.in_proj_weight$")

# Sizes are read off these.
REQUIRED_KEYS = {
    "model.audio_projection.weight",
    "model.query.weight",
    "model.encoder.layers.0.fc1.weight",
    "model.encoder.layers.0.self_attn.attention_weights.weight",
    "model.query_generator.layers.0.fc1.weight",
    "head.mask_mlp.conv1.weight",
    "head.conv1.weight",
    "head.conv3.weight",
}


def convert_avsegformer_parameter(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """
    A parameter of a released checkpoint under the names of this library: one entry, several for packed projections,
    none for what takes part in nothing.
    """
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
    if AUDIO_ATTENTION.search(name):
        *_, value = tensor.chunk(3)
        return {AUDIO_ATTENTION.sub(r"\1.audio_v_proj.weight", name): value}
    if ".in_proj_" in name:
        prefix, parameter = name.split("in_proj_")
        return {f"{prefix}{kind}_proj.{parameter}": part for kind, part in zip("qkv", tensor.chunk(3))}
    if ".kv_proj." in name:
        key, value = tensor.chunk(2)
        return {name.replace(".kv_proj.", ".k_proj."): key, name.replace(".kv_proj.", ".v_proj."): value}
    return {name: tensor}


def infer_avsegformer_config(
    state_dict: dict[str, torch.Tensor], fields: dict, audio_config: VGGishConfig | None = None
) -> AVSegFormerConfig:
    """
    Config of a released checkpoint, read off its weights. What they do not tell is as in the released program.

    Args:
        state_dict (`dict[str, torch.Tensor]`):
            The checkpoint under the names of this library.
        fields (`dict`):
            Fields of the config that shall differ; of `backbone_config` those of the backbone's.
        audio_config (`VGGishConfig`, *optional*):
            Config of the audio encoder, if the model is to have one that the checkpoint has not.
    """
    absent = sorted(REQUIRED_KEYS - state_dict.keys())
    if absent:
        raise ValueError(f"This is no AVSegFormer checkpoint: it has nothing that becomes {absent[0]}.")
    backbone = select_parameters(state_dict, "model.backbone.")
    vggish = select_parameters(state_dict, AUDIO_ENCODER_PREFIX)
    if vggish and audio_config is not None:
        raise ValueError(f"It has VGGish in it (`{VGGISH_PREFIX}*`): leave out the file given as `vggish`.")
    # The released models were trained on torchvggish's embeddings, which are rectified.
    if set(ORIGINAL_KEYS.values()) <= vggish.keys():
        audio_config = infer_vggish_config(vggish, final_relu=True)
    fields = dict(fields)
    # CODEPATH: PVT-v2, which the released program trains with stochastic depth
    drop_path = {"drop_path_rate": 0.1} if "encoder.layers.0.patch_embedding.proj.weight" in backbone else {}
    backbone_config = infer_backbone_config(backbone, **drop_path | fields.pop("backbone_config", {}))

    num_logits, last_hidden = state_dict["head.conv3.weight"].shape[:2]
    hidden_dim, audio_dim = state_dict["model.audio_projection.weight"].shape
    num_heads = fields.get("num_attention_heads", AVSegFormerConfig.num_attention_heads)
    num_samples = len(state_dict["model.encoder.layers.0.self_attn.attention_weights.weight"])
    inferred = {
        "num_labels": 2 if num_logits == 1 else num_logits,
        "audio_embedding_dim": audio_dim,
        "hidden_dim": hidden_dim,
        "num_queries": len(state_dict["model.query.weight"]),
        "encoder_layers": count_modules(state_dict, "model.encoder.layers."),
        "query_generator_layers": count_modules(state_dict, "model.query_generator.layers."),
        "decoder_layers": count_modules(state_dict, "model.decoder_layers."),
        "num_sampling_points": num_samples // (num_heads * NUM_ENCODER_LEVELS),
        "feedforward_dim": len(state_dict["model.encoder.layers.0.fc1.weight"]),
        "query_generator_feedforward_dim": len(state_dict["model.query_generator.layers.0.fc1.weight"]),
        "mask_mlp_dim": len(state_dict["head.mask_mlp.conv1.weight"]),
        "head_hidden_sizes": [len(state_dict["head.conv1.weight"]), last_hidden],
    }
    inferred |= name_labels(inferred["num_labels"])
    return AVSegFormerConfig(**inferred | fields, backbone_config=backbone_config, audio_config=audio_config)


def convert_avsegformer_checkpoint(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike,
    config: str | os.PathLike | None = None,
    vggish: str | os.PathLike | None = None,
) -> Conversion:
    """
    Converts a released checkpoint and writes config, weights and processor to `output_dir`, unless a key is left over.
    Left out is what takes part in nothing: two branches of the head (`head.fpn`, `head.attn_fc`), of ResNet the second
    copy of the last two stages (`layer3_2`, `layer4_2`), and in the query generator the projections of queries and
    keys where the sound is the single key (two thirds of `cross_attn.in_proj_weight`).

    Args:
        checkpoint (`str` or `PathLike`):
            `.pth` or `.safetensors` file with the names of the released checkpoints, which have VGGish in them.
        output_dir (`str` or `PathLike`):
            Folder to write to.
        config (`str` or `PathLike`, *optional*):
            JSON file with fields of [`AVSegFormerConfig`] that differ from the released recipes and that the weights
            do not tell.
        vggish (`str` or `PathLike`, *optional*):
            torchvggish checkpoint, for a checkpoint without VGGish: with neither, the model has no audio encoder.

    Returns:
        [`Conversion`]: what is left over, if anything, and what was left out.

    Raises:
        `ValueError`: the file is no AVSegFormer checkpoint, or has VGGish in it and `vggish` is given.
    """
    model, conversion = convert_checkpoint(
        checkpoint,
        config,
        vggish,
        AVSegFormerForAudioVisualSegmentation,
        convert_avsegformer_parameter,
        infer_avsegformer_config,
    )
    if not conversion.unexpected and not conversion.missing:
        is_binary = model.config.num_labels == 2
        # The released models for S4 and MS3 see frames, and are evaluated, at 512x512, those for AVSS at 224x224.
        size = {"height": 512, "width": 512} if is_binary else {"height": 224, "width": 224}
        image_processor = AVSegFormerImageProcessorPil(localization=is_binary, size=size, label_size=size)
        save_converted(model, AVSegFormerProcessor(image_processor, VGGishFeatureExtractor()), output_dir)
    return conversion


__all__ = ["convert_avsegformer_checkpoint", "infer_avsegformer_config"]
