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
Released TPAVI checkpoints (`stepping-stones convert --model tpavi`): those of AVSBench's programs for S4, MS3 and
AVSS.
"""

import os
import re

import torch

from ..backbones import convert_backbone_parameter, infer_backbone_config
from ..conversion import Conversion, convert_checkpoint, name_labels, save_converted, select_parameters
from ..vggish import VGGishConfig, VGGishFeatureExtractor
from .configuration_tpavi import TPAVIConfig
from .image_processing_pil_tpavi import TPAVIImageProcessorPil
from .modeling_tpavi import TPAVIForAudioVisualSegmentation
from .processing_tpavi import TPAVIProcessor


BACKBONE_PREFIX = re.compile(r"^(encoder_backbone|resnet)\.")

# (pattern, replacement), applied in this order to every key outside of the backbone.
KEY_RENAMES = [
    (r"^conv(\d)\.conv2d_list\.", lambda match: f"model.necks.{int(match[1]) - 1}.convs."),
    (r"^tpavi_b(\d)\.", lambda match: f"model.blocks.{int(match[1]) - 1}."),
    (r"\.align_channel\.", ".audio_projection."),
    (r"\.norm_layer\.", ".layer_norm."),
    (r"\.theta\.", ".query."),
    (r"\.phi\.", ".key."),
    (r"\.g\.", ".value."),
    (r"\.W_z\.0\.", ".out_proj."),
    (r"\.W_z\.1\.", ".batch_norm."),
    (r"^path(\d)\.", lambda match: f"model.decoder.{int(match[1]) - 1}."),
    (r"\.resConfUnit1\.", ".skip_unit."),
    (r"\.resConfUnit2\.", ".output_unit."),
    (r"^output_conv\.0\.", "head.conv1."),
    (r"^output_conv\.2\.", "head.conv2."),
    (r"^output_conv\.4\.", "head.conv3."),
]

# The decoder's first block has nothing to add to, hence no use for this.
DEAD_KEYS = re.compile(r"^path4\.resConfUnit1\.")

# Sizes are read off these.
REQUIRED_KEYS = {"model.blocks.0.audio_projection.weight", "head.conv1.weight", "head.conv3.weight"}


def convert_tpavi_parameter(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """
    A parameter of a released checkpoint under the names of this library: one entry, two for the packed keys and values
    of a PVT-v2, none for what takes part in nothing.
    """
    if DEAD_KEYS.search(name):
        return {}
    backbone = BACKBONE_PREFIX.match(name)
    if backbone is not None:
        converted = convert_backbone_parameter(name[backbone.end() :], tensor)
        return {f"model.backbone.{name}": tensor for name, tensor in converted.items()}
    for pattern, replacement in KEY_RENAMES:
        name = re.sub(pattern, replacement, name)
    # The blocks' convolutions have a kernel of one pixel.
    if name.startswith("model.blocks.") and tensor.ndim == 5:
        tensor = tensor.flatten(1)
    return {name: tensor}


def infer_tpavi_config(
    state_dict: dict[str, torch.Tensor], fields: dict, audio_config: VGGishConfig | None = None
) -> TPAVIConfig:
    """
    Config of a released checkpoint, read off its weights. What they do not tell is as in the released programs; a
    checkpoint of S4 cannot be told from one of MS3, and gets the losses of the latter.

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
        raise ValueError(f"This is no TPAVI checkpoint: it has nothing that becomes {absent[0]}.")
    backbone = select_parameters(state_dict, "model.backbone.")
    fields = dict(fields)
    # CODEPATH: PVT-v2, which the released programs train with stochastic depth
    drop_path = {"drop_path_rate": 0.1} if "encoder.layers.0.patch_embedding.proj.weight" in backbone else {}
    backbone_config = infer_backbone_config(backbone, **drop_path | fields.pop("backbone_config", {}))

    num_logits, last_hidden = state_dict["head.conv3.weight"].shape[:2]
    hidden_dim, audio_dim = state_dict["model.blocks.0.audio_projection.weight"].shape
    # CODEPATH: AVSS, whose clips of five frames the released program trains with five empty ones
    semantic = {} if num_logits == 1 else {"padded_clip_length": 10}
    inferred = {
        "num_labels": 2 if num_logits == 1 else num_logits,
        "audio_embedding_dim": audio_dim,
        "hidden_dim": hidden_dim,
        "head_hidden_sizes": [state_dict["head.conv1.weight"].shape[0], last_hidden],
        "audio_projection_bias": "model.blocks.0.audio_projection.bias" in state_dict,
    }
    inferred |= name_labels(inferred["num_labels"])
    return TPAVIConfig(**inferred | semantic | fields, backbone_config=backbone_config, audio_config=audio_config)


def convert_tpavi_checkpoint(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike,
    config: str | os.PathLike | None = None,
    vggish: str | os.PathLike | None = None,
) -> Conversion:
    """
    Converts a released checkpoint and writes config, weights and processor to `output_dir`, unless a key is left over.
    Left out is what takes part in nothing: half of the decoder's first block (`path4.resConfUnit1`) and, of ResNet,
    the second copy of the last two stages (`layer3_2`, `layer4_2`).

    Args:
        checkpoint (`str` or `PathLike`):
            `.pth` or `.safetensors` file with the names of the released checkpoints.
        output_dir (`str` or `PathLike`):
            Folder to write to.
        config (`str` or `PathLike`, *optional*):
            JSON file with fields of [`TPAVIConfig`] that differ from the released recipes and that the weights do not
            tell, such as `{"avm_loss": null}` to train a checkpoint of S4 on without the matching loss.
        vggish (`str` or `PathLike`, *optional*):
            torchvggish checkpoint; without it the model has no audio encoder.

    Returns:
        [`Conversion`]: what is left over, if anything, and what was left out.

    Raises:
        `ValueError`: the file is no TPAVI checkpoint.
    """
    model, conversion = convert_checkpoint(
        checkpoint,
        config,
        vggish,
        TPAVIForAudioVisualSegmentation,
        convert_tpavi_parameter,
        infer_tpavi_config,
    )
    if not conversion.unexpected and not conversion.missing:
        image_processor = TPAVIImageProcessorPil(localization=model.config.num_labels == 2)
        save_converted(model, TPAVIProcessor(image_processor, VGGishFeatureExtractor()), output_dir)
    return conversion


__all__ = ["convert_tpavi_checkpoint", "infer_tpavi_config"]
