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
"""Gradient checkpointing by whichever name transformers has for it."""

from transformers import PreTrainedModel


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Makes a model keep the inputs of its layers only, and compute the rest again in the backward pass."""
    # Before 5.23 it had the name that is deprecated since.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()


__all__ = ["checkpoint_activations"]
