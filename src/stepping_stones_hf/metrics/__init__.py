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
"""The metric of audio-visual segmentation, and its door into `evaluate.load`."""

from typing import TYPE_CHECKING

from .registration import register_metric


if TYPE_CHECKING:
    from .avss_miou.avss_miou import (
        AvssMiou,
        FrameCounts,
        binary_results,
        binary_statistics,
        g_score,
        robustness_results,
        semantic_results,
        semantic_statistics,
    )

__all__ = [
    "AvssMiou",
    "FrameCounts",
    "binary_results",
    "binary_statistics",
    "g_score",
    "register_metric",
    "robustness_results",
    "semantic_results",
    "semantic_statistics",
]


def __getattr__(name: str):
    # evaluate takes seconds to import, and registering the metric does not need it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .avss_miou import avss_miou

    return getattr(avss_miou, name)
