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
Released TPAVI checkpoints (`stepping-stones convert --model tpavi`): those of AVSBench's programs for S4, MS3 and AVSS.
"""

import re

import torch

from ..backbones import convert_backbone_parameter


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


def convert_tpavi_state_dict(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State dict of a released checkpoint under the names of this library."""
    converted = {}
    for name, tensor in state_dict.items():
        converted |= convert_tpavi_parameter(name, tensor)
    return converted


__all__ = ["convert_tpavi_state_dict"]
