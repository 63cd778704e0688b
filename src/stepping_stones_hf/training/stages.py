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
Which parameters of AAVS train when.

The paper freezes most of Mask2Former and trains adapters and what is new (section 3.3). The released program does so
in two halves: first with the backbone's adapters switched off, by zeros, then with fresh ones. In stage 1 the initial
query features train, in stage 2 they do not. The paper does not mention the halves.
"""

import re
from collections.abc import Sequence

import torch
from torch import nn

from ..models.aavs import AAVSForAudioVisualSegmentation


# Regular expressions for parameter names: what the released program trains from the start.
RELEASED_PARAMETERS = {
    1: (r"queries_embedder", r"queries_features", r"self_attn\..*\.adapter\.", r"class_predictor", r"audio_projector"),
    2: (r"queries_embedder", r"self_attn\..*\.adapter\.", r"class_predictor", r"audio_projector", r"audio_aware_key"),
}
# What it adds after the switch.
BACKBONE_ADAPTERS = r"backbone\..*\.adapter\."


def set_trainable(model: nn.Module, patterns: Sequence[str]) -> list[nn.Parameter]:
    """
    Freezes all parameters but those whose name matches one of the patterns.

    Args:
        model (`nn.Module`):
            Any model.
        patterns (`Sequence[str]`):
            Regular expressions, searched for anywhere in a name.

    Returns:
        `list[nn.Parameter]`: the trainable ones, in the model's order.

    Raises:
        `ValueError`: a pattern matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(f"No parameter of {type(model).__name__} has a name that matches {pattern!r}.")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(re.search(pattern, name) for pattern in patterns))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@torch.no_grad()
def switch_off_backbone_adapters(model: AAVSForAudioVisualSegmentation) -> None:
    """
    Sets the backbone's adapters to zero, weights and biases, and freezes them: being residual, they become the
    identity.
    """
    for name, parameter in model.named_parameters():
        if re.search(BACKBONE_ADAPTERS, name):
            parameter.zero_().requires_grad_(False)


@torch.no_grad()
def renew_backbone_adapters(model: AAVSForAudioVisualSegmentation) -> None:
    """
    Draws the weights of the backbone's adapters anew, N(0, `initializer_range`^2), with biases of zero. Adapters of
    zeros could not learn: of two linear layers of zeros only the last bias has a gradient.
    """
    for name, parameter in model.named_parameters():
        if re.search(BACKBONE_ADAPTERS, name):
            if name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.normal_(std=model.config.backbone_config.initializer_range)


__all__ = [
    "BACKBONE_ADAPTERS",
    "RELEASED_PARAMETERS",
    "renew_backbone_adapters",
    "set_trainable",
    "switch_off_backbone_adapters",
]
