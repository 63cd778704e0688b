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
"""EASE's image processor on PIL and NumPy."""

from collections.abc import Iterator

import numpy as np
import torch
from transformers.image_processing_backends import PilBackend
from transformers.utils import auto_docstring

from ..image_processing_base import AudioVisualImageProcessorMixin, make_mask_targets, score_queries


# Of a frame's height and width to those of the masks that the model predicts for it.
MASK_STRIDE = 4


@auto_docstring(custom_intro="What EASE's image processors share whatever their backend.")
class EASEImageProcessorMixin(AudioVisualImageProcessorMixin):
    score_rule = "two_channel"

    def make_targets(
        self, label_maps: list[np.ndarray], size: tuple[int, int], ignore_index: int
    ) -> dict[str, list[torch.Tensor]]:
        # At the size of the labels, whatever that of the frames.
        return make_mask_targets(label_maps, ignore_index)

    def get_segmentation_scores(self, outputs) -> tuple[int, Iterator[torch.Tensor]]:
        height, width = outputs.masks_queries_logits.shape[-2:]
        # The size of the frames.
        mask_size = (MASK_STRIDE * height, MASK_STRIDE * width)
        return len(outputs.masks_queries_logits), score_queries(outputs, mask_size)


@auto_docstring(
    custom_intro="""
    Constructs EASE's image processor on PIL and NumPy. Resized frames differ by at most one of 256 levels from those
    of the released program, which resizes tensors.
    """
)
class EASEImageProcessorPil(EASEImageProcessorMixin, PilBackend):
    pass


__all__ = ["EASEImageProcessorPil"]
