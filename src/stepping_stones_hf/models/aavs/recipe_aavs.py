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
What trains when in AAVS.

The paper freezes most of Mask2Former and trains adapters and what is new (section 3.3). The released program does so
in two phases: first with the backbone's adapters switched off, by zeros, then with fresh ones. In stage 1 the initial
query features train, in stage 2 they do not. The paper does not mention the phases.
"""

import re

import torch
from transformers import PreTrainedModel


# Regular expressions for parameter names: what the released program trains from the start.
RELEASED_PARAMETERS = {
    1: (r"queries_embedder", r"queries_features", r"self_attn\.adapter\.", r"class_predictor", r"audio_projector"),
    2: (r"queries_embedder", r"self_attn\.adapter\.", r"class_predictor", r"audio_projector", r"audio_aware_key"),
}
# What it adds in the second phase.
BACKBONE_ADAPTERS = r"backbone\..*\.adapter\."


@torch.no_grad()
def switch_off_backbone_adapters(model: PreTrainedModel) -> None:
    """
    Sets the backbone's adapters to zero, weights and biases, and freezes them: being residual, they become the
    identity.
    """
    for name, parameter in model.named_parameters():
        if re.search(BACKBONE_ADAPTERS, name):
            parameter.zero_().requires_grad_(False)


@torch.no_grad()
def renew_backbone_adapters(model: PreTrainedModel) -> None:
    """
    Draws the weights of the backbone's adapters again, N(0, `initializer_range`^2), with biases of zero. Adapters of
    zeros could not learn: of two linear layers of zeros only the last bias has a gradient.
    """
    for name, parameter in model.named_parameters():
        if re.search(BACKBONE_ADAPTERS, name):
            if name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.normal_(std=model.config.backbone_config.initializer_range)


__all__ = ["BACKBONE_ADAPTERS", "RELEASED_PARAMETERS", "renew_backbone_adapters", "switch_off_backbone_adapters"]
