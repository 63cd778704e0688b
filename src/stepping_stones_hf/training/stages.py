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
"""Which parameters of a model train."""

import re
from collections.abc import Sequence

from torch import nn


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


__all__ = ["set_trainable"]
