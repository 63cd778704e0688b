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
How EASE trains, in the released program: rates that decay from block to block, and attention masks that go one block
after the other.
"""

import math
import re
from collections import defaultdict

from transformers import PreTrainedModel


# Masks go as the learning rate does, by this power of what is left of their time.
ANNEALING_POWER = 0.9

BACKBONE = "model.backbone."
# The last norm and the blocks of the ViT, and those of the PVT-v2, by stage and block.
NORM = re.compile(r"^model\.backbone\.(norm|encoder\.layers\.2\.layer_norm)\.")
VIT_BLOCK = re.compile(r"^model\.backbone\.blocks\.(\d+)\.")
PVT_BLOCK = re.compile(r"^model\.backbone\.encoder\.layers\.(\d+)\.blocks\.(\d+)\.")


def get_mask_probability(progress: float, start: float, end: float) -> float:
    """
    With which probability queries keep to their masks in a joint block when the share `progress` of the training is
    over: 1 until the share `start`, 0 from the share `end` on.
    """
    remaining = 1 - (progress - start) / (end - start)
    return min(max(remaining, 0.0), 1.0) ** ANNEALING_POWER


def get_rate_factor(model: PreTrainedModel, name: str, num_passes: int) -> float:
    """
    By what the learning rate is multiplied for a parameter. Joint blocks, the backbone's last norm and all that is not
    backbone have the rate itself; the other blocks the rate times the root of the batches in a step, which decays from
    the last block to the first, and the embeddings have that of the first.
    """
    config = model.config
    if not name.startswith(BACKBONE) or NORM.search(name):
        return 1.0
    index = 0
    # CODEPATH: the released models have either backbone
    if match := VIT_BLOCK.search(name):
        index = int(match[1])
    elif match := PVT_BLOCK.search(name):
        index = sum(config.backbone_config.depths[: int(match[1])]) + int(match[2])
    if index >= config.first_joint_block:
        return 1.0
    return math.sqrt(num_passes) * config.layer_decay ** (config.num_hidden_layers - 1 - index)


def make_parameter_groups(model: PreTrainedModel, learning_rate: float, num_passes: int) -> list[dict]:
    """Groups of an optimizer, `params`, `lr` and `is_backbone`; first that of what is not backbone."""
    groups = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = learning_rate * get_rate_factor(model, name, num_passes)
            groups[name.startswith(BACKBONE), rate].append(parameter)
    return [
        {"params": groups[is_backbone, rate], "lr": rate, "is_backbone": is_backbone}
        for is_backbone, rate in sorted(groups)
    ]


__all__ = ["get_mask_probability", "make_parameter_groups"]
