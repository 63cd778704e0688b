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
"""The loss of AAVS, which other models have, too, by its name in the release before this one."""

from ...deprecation import warn_of_new_name
from ..loss_mask_classification import MaskClassificationLoss


def __getattr__(name: str):
    if name != "AAVSLoss":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_of_new_name(f"{__name__}.AAVSLoss", f"{MaskClassificationLoss.__module__}.MaskClassificationLoss")
    return MaskClassificationLoss


__all__ = []
