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
"""Released EASE checkpoints (`stepping-stones convert --model ease`), and backbones to start from."""

import os
import re

import torch
from transformers import DINOv3ViTConfig, PreTrainedConfig

from ..backbones import convert_backbone_parameter, count_modules, infer_backbone_config
from ..conversion import Conversion, convert_checkpoint, name_labels, save_converted, select_parameters
from ..vggish import VGGishConfig, VGGishFeatureExtractor
from .configuration_ease import EASEConfig
from .image_processing_pil_ease import EASEImageProcessorPil
from .modeling_ease import EASEForAudioVisualSegmentation
from .processing_ease import EASEProcessor


BACKBONE = "network.encoder.backbone."

# (pattern, replacement), applied in this order. First timm's PVT-v2, under the official names; then all the rest.
PVT_RENAMES = [
    (r"^patch_embed\.", "patch_embed1."),
    (r"^stages\.(\d)\.downsample\.", lambda match: f"patch_embed{int(match[1]) + 1}."),
    (r"^stages\.(\d)\.blocks\.", lambda match: f"block{int(match[1]) + 1}."),
    (r"^stages\.(\d)\.norm\.", lambda match: f"norm{int(match[1]) + 1}."),
    (r"\.mlp\.dwconv\.", ".mlp.dwconv.dwconv."),
]
KEY_RENAMES = [
    (r"^network\.encoder\.backbone\.patch_embed\.", "model.backbone.embeddings."),
    (r"^network\.encoder\.backbone\.blocks\.", "model.backbone.blocks."),
    (r"^network\.encoder\.backbone\.norm\.", "model.backbone.norm."),
    (r"^network\.class_head\.", "class_predictor."),
    (r"^network\.", "model."),
    (r"^model\.q\.", "model.query."),
    (r"^model\.mask_head\.(\d)\.", lambda match: f"model.mask_head.fc{int(match[1]) // 2 + 1}."),
    (r"^model\.upscale\.scale_blocks\.(\d+)\.norm\.", r"model.upscale_block.block.\1.layernorm2d."),
    (r"^model\.upscale\.scale_blocks\.", "model.upscale_block.block."),
    (r"\.gumbel_clustering\.cluster_centers$", ".assignment.centers"),
    (r"^model\.audio_enhance\.", "model.audio_enhancer."),
    (r"\.edge_fc_s1\.0\.", ".center_edge."),
    (r"\.fusion_s1\.", ".center_gate."),
    (r"\.offset_s1\.0\.", ".center_offset."),
    (r"\.edge_fc_s2\.0\.", ".share_edge."),
    (r"\.offset_s2\.0\.", ".share_offset."),
    (r"^model\.fuser\.", "model.fusion."),
    (r"\.aud_proj\.", ".audio_proj."),
    (r"\.fusion\.fc\.", ".fusion.score."),
    (r"\.av_cross_interaction\.", ".score_"),
    (r"\.va_cross_interaction\.", ".gate_"),
    (r"^model\.q_gen\.", "model.query_generator."),
    (r"\.ffn\.0\.", ".fc1."),
    (r"\.ffn\.2\.", ".fc2."),
    (r"(query_generator\.layers\.\d+)\.norm1\.", r"\1.self_attn_layer_norm."),
    (r"(query_generator\.layers\.\d+)\.norm2\.", r"\1.cross_attn_layer_norm."),
    (r"(query_generator\.layers\.\d+)\.norm3\.", r"\1.final_layer_norm."),
]
PACKED = ".in_proj_weight"

# The softmax after the enhancer's second gate has one term, the one after the fusion's scores does not see their bias;
# frames are normalized by the image processor.
DEAD_KEYS = re.compile(r"^network\.(audio_enhance\.fusion_s2\.|fuser\.fc\.bias$|encoder\.pixel_(mean|std)$)")

# Sizes are read off these.
REQUIRED_KEYS = {
    "model.attn_mask_probs",
    "model.query.weight",
    "model.audio_enhancer.audio_proj.weight",
    "model.audio_enhancer.assignment.centers",
    "model.fusion.assignment.centers",
    "model.query_generator.layers.0.fc1.weight",
    "class_predictor.weight",
}

# Heads are the one size that tensors do not tell; all of DINOv3's have this width.
VIT_HEAD_WIDTH = 64
# A PVT-v2 without its last stage, which all of b0 to b5 have with so many heads.
PVT_STAGES = 3
PVT_NUM_ATTENTION_HEADS = [1, 2, 5]
# Queries and patches of a PVT-v2 fill a square: at 384x384 with so many queries.
PVT_NUM_QUERIES_384 = 49


def convert_ease_parameter(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """
    A parameter of a released checkpoint under the names of this library: one entry; two for the packed keys and values
    of a PVT-v2, three for the packed projections of the query generator; none for what takes part in nothing.
    """
    if DEAD_KEYS.search(name):
        return {}
    pvt_name = name.removeprefix(BACKBONE)
    # CODEPATH: PVT-v2
    if pvt_name.startswith(("stages.", "patch_embed.proj.", "patch_embed.norm.")):
        for pattern, replacement in PVT_RENAMES:
            pvt_name = re.sub(pattern, replacement, pvt_name)
        converted = convert_backbone_parameter(pvt_name, tensor)
        return {f"model.backbone.{name}": tensor for name, tensor in converted.items()}
    for pattern, replacement in KEY_RENAMES:
        name = re.sub(pattern, replacement, name)
    if name.endswith(PACKED):
        return {name.replace(PACKED, f".{part}_proj.weight"): value for part, value in zip("qkv", tensor.chunk(3))}
    return {name: tensor}


def infer_backbone(state_dict: dict[str, torch.Tensor], fields: dict) -> PreTrainedConfig:
    """Config of the backbone, by its weights under the names of transformers; with `fields` that shall differ."""
    # CODEPATH: PVT-v2
    if "encoder.layers.0.patch_embedding.proj.weight" in state_dict:
        pvt = {"num_encoder_blocks": PVT_STAGES, "num_attention_heads": PVT_NUM_ATTENTION_HEADS}
        return infer_backbone_config(state_dict, **pvt | {"out_features": [f"stage{PVT_STAGES}"]} | fields)
    patches = state_dict["embeddings.patch_embeddings.weight"]
    layer = "blocks.0"
    return DINOv3ViTConfig(
        **{
            "hidden_size": patches.shape[0],
            "num_channels": patches.shape[1],
            "patch_size": patches.shape[-1],
            "num_register_tokens": state_dict["embeddings.register_tokens"].shape[1],
            "num_hidden_layers": count_modules(state_dict, "blocks."),
            "num_attention_heads": max(1, patches.shape[0] // VIT_HEAD_WIDTH),
            "intermediate_size": state_dict[f"{layer}.mlp.up_proj.weight"].shape[0],
            "use_gated_mlp": f"{layer}.mlp.gate_proj.weight" in state_dict,
            "query_bias": f"{layer}.attention.q_proj.bias" in state_dict,
            "key_bias": f"{layer}.attention.k_proj.bias" in state_dict,
            "value_bias": f"{layer}.attention.v_proj.bias" in state_dict,
            "proj_bias": f"{layer}.attention.o_proj.bias" in state_dict,
            "mlp_bias": f"{layer}.mlp.up_proj.bias" in state_dict,
        }
        | fields
    )


def infer_ease_config(
    state_dict: dict[str, torch.Tensor], fields: dict, audio_config: VGGishConfig | None = None
) -> EASEConfig:
    """
    Config of a released checkpoint, read off its weights. They do not tell before which blocks sound is fused into the
    patches: it is before the joint blocks, and with a PVT-v2 before one more, unless `fields` has `fusion_blocks`.

    Args:
        state_dict (`dict[str, torch.Tensor]`):
            The checkpoint under the names of this library.
        fields (`dict`):
            Fields of the config that shall differ; of `backbone_config` those of the backbone's.
        audio_config (`VGGishConfig`, *optional*):
            Config of the audio encoder, if the model is to have one.
    """
    absent = sorted(REQUIRED_KEYS - state_dict.keys())
    if absent:
        raise ValueError(f"This is no EASE checkpoint: it has nothing that becomes {absent[0]}.")
    backbone = select_parameters(state_dict, "model.backbone.")
    fields = dict(fields)
    num_queries = len(state_dict["model.query.weight"])
    # CODEPATH: PVT-v2, whose number of queries tells the size of its frames
    image_size = {"image_size": 384} if num_queries == PVT_NUM_QUERIES_384 else {}
    backbone_config = infer_backbone(backbone, image_size | fields.pop("backbone_config", {}))

    num_labels = state_dict["class_predictor.weight"].shape[0] - 1
    audio_hidden_size, audio_embedding_dim = state_dict["model.audio_enhancer.audio_proj.weight"].shape
    inner_width, _ = state_dict["model.query_generator.layers.0.fc1.weight"].shape
    num_audio_centers = len(state_dict["model.audio_enhancer.assignment.centers"])
    inferred = {
        "num_labels": num_labels,
        "num_queries": num_queries,
        "num_joint_blocks": len(state_dict["model.attn_mask_probs"]),
        "audio_embedding_dim": audio_embedding_dim,
        "audio_hidden_size": audio_hidden_size,
        "num_audio_centers": num_audio_centers,
        "num_visual_centers": len(state_dict["model.fusion.assignment.centers"]),
        "query_generator_layers": count_modules(state_dict, "model.query_generator.layers."),
        "query_generator_ratio": inner_width // audio_hidden_size,
    }
    inferred |= name_labels(num_labels)
    return EASEConfig(**inferred | fields, backbone_config=backbone_config, audio_config=audio_config)


def convert_ease_checkpoint(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike,
    config: str | os.PathLike | None = None,
    vggish: str | os.PathLike | None = None,
) -> Conversion:
    """
    Converts a released checkpoint and writes config, weights and processor to `output_dir`, unless a key is left over.
    Left out is what has no effect, the enhancer's second gate and the bias of the fusion's scores, and the mean and
    the standard deviation of pixels, which are the image processor's.

    Args:
        checkpoint (`str` or `PathLike`):
            `.ckpt`, `.pth` or `.safetensors` file with the names of the released checkpoints.
        output_dir (`str` or `PathLike`):
            Folder to write to.
        config (`str` or `PathLike`, *optional*):
            JSON file with fields of [`EASEConfig`] that the weights do not tell, such as `{"backbone_config":
            {"image_size": 384}}` for a ViT of that size, or `{"fusion_blocks": [11]}` for some of the models for S4
            and MS3.
        vggish (`str` or `PathLike`, *optional*):
            torchvggish checkpoint; without it the model has no audio encoder.

    Returns:
        [`Conversion`]: what is left over, if anything, and what was left out.

    Raises:
        `ValueError`: the file is no EASE checkpoint.
    """
    model, conversion = convert_checkpoint(
        checkpoint,
        config,
        vggish,
        EASEForAudioVisualSegmentation,
        convert_ease_parameter,
        infer_ease_config,
    )
    if not conversion.unexpected and not conversion.missing:
        size = model.config.backbone_config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        image_processor = EASEImageProcessorPil(
            size={"height": height, "width": width}, localization=model.config.num_labels == 2
        )
        save_converted(model, EASEProcessor(image_processor, VGGishFeatureExtractor()), output_dir)
    return conversion


__all__ = ["convert_ease_checkpoint", "infer_ease_config"]
