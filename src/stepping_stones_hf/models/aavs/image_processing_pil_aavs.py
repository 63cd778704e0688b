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
AAVS's image processor on PIL and NumPy: frames, targets and post-processing exactly as the released program has them.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import torch
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import get_size_dict
from transformers.image_utils import SizeDict
from transformers.processing_utils import Unpack
from transformers.utils import auto_docstring
from transformers.utils.type_validators import image_size_validator

from ...labels import VOC_PALETTE
from ..image_processing_base import (
    AudioVisualImageProcessorKwargs,
    AudioVisualImageProcessorMixin,
    make_mask_targets,
    resize_nearest,
    score_queries,
)


class AAVSImageProcessorKwargs(AudioVisualImageProcessorKwargs, total=False):
    # `auto_docstring` reads the docstring of this class alone.
    __doc__ = (
        AudioVisualImageProcessorKwargs.__doc__
        + r"""
    post_process_size (`dict`, *optional*, defaults to `{"height": 384, "width": 384}`):
        Size to which post-processing resizes mask logits before their sigmoid. The released program has it fixed at
        384x384 whatever the size of its input.
    """
    )

    post_process_size: Annotated[int | list[int] | tuple[int, ...] | dict[str, int] | None, image_size_validator()]


def _linear_taps(in_length: int, out_length: int) -> tuple[np.ndarray, ...]:
    """The two input positions that each output position lies between, and the weights of both in units of 2^-11."""
    position = ((np.arange(out_length) + 0.5) * (in_length / out_length) - 0.5).astype(np.float32)
    low = np.floor(position)
    high_weight = position - low
    low_tap, high_tap = (tap.astype(np.int64).clip(0, in_length - 1) for tap in (low, low + 1))
    low_weight, high_weight = (np.rint(w * 2048).astype(np.int32) for w in (1 - high_weight, high_weight))
    return low_tap, high_tap, low_weight, high_weight


def resize_colors(colors: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """
    Bilinear resize of an 8-bit picture in the fixed-point arithmetic of OpenCV, which the released program uses for
    the labels of stage 1.

    Those labels are cut at the lowest gray level, so that rounding decides where a border lies: a resize that is not
    the same to the last bit gives other targets.

    Args:
        colors (`np.ndarray` of shape `(height, width, 3)` and type uint8):
            The picture.
        size (`tuple[int, int]`):
            Height and width of the result.

    Returns:
        `np.ndarray` of shape `(*size, 3)` and type uint8.
    """
    height, width = size
    left, right, left_weight, right_weight = _linear_taps(colors.shape[1], width)
    top, bottom, top_weight, bottom_weight = _linear_taps(colors.shape[0], height)
    colors = colors.astype(np.int32)
    rows = (colors[:, left] * left_weight[:, None] + colors[:, right] * right_weight[:, None]) >> 4
    upper = (rows[top] * top_weight[:, None, None]) >> 16
    lower = (rows[bottom] * bottom_weight[:, None, None]) >> 16
    return ((upper + lower + 2) >> 2).astype(np.uint8)


def is_sounding(colors: np.ndarray) -> np.ndarray:
    """A uint8 map `(height, width)`: 1 where the gray level that OpenCV gives an 8-bit RGB color is not 0."""
    gray = colors @ np.array([9798, 19235, 3735], dtype=np.int32)  # gray level times 2^15
    return (gray >= 2**14).astype(np.uint8)  # levels are rounded to the nearest


@auto_docstring(custom_intro="What AAVS's image processors share whatever their backend.")
class AAVSImageProcessorMixin(AudioVisualImageProcessorMixin):
    valid_kwargs = AAVSImageProcessorKwargs
    size = {"height": 384, "width": 384}
    # The released checkpoints' values: the second is one float32 step below ImageNet's 0.224.
    image_std = [0.229, 0.2239999920129776, 0.225]
    post_process_size = {"height": 384, "width": 384}
    score_rule = "two_channel"

    def __init__(self, **kwargs: Unpack[AAVSImageProcessorKwargs]):
        super().__init__(**kwargs)

    def _standardize_kwargs(self, **kwargs) -> dict[str, Any]:
        kwargs = super()._standardize_kwargs(**kwargs)
        size = get_size_dict(kwargs["post_process_size"], param_name="post_process_size")
        return kwargs | {"post_process_size": SizeDict(**size)}

    def prepare_label_map(
        self, segmentation_map: np.ndarray, label_size: tuple[int, int], localization: bool, ignore_index: int
    ) -> np.ndarray:
        # The released program makes the labels of stage 1 of colors that it resizes bilinearly: objects get a border.
        if not localization:
            return resize_nearest(segmentation_map, label_size)
        if segmentation_map.ndim == 3:
            return is_sounding(resize_colors(segmentation_map, label_size))
        ignored = segmentation_map == ignore_index
        label_map = is_sounding(resize_colors(VOC_PALETTE[np.where(ignored, 0, segmentation_map)], label_size))
        return np.where(resize_nearest(ignored.astype(np.uint8), label_size), np.uint8(ignore_index), label_map)

    def make_targets(
        self, label_maps: list[np.ndarray], size: tuple[int, int], ignore_index: int
    ) -> dict[str, list[torch.Tensor]]:
        return make_mask_targets([resize_nearest(label_map, size) for label_map in label_maps], ignore_index)

    def get_segmentation_scores(self, outputs) -> tuple[int, Iterator[torch.Tensor]]:
        mask_size = (self.post_process_size.height, self.post_process_size.width)
        return len(outputs.masks_queries_logits), score_queries(outputs, mask_size)


@auto_docstring(
    custom_intro="""
    Constructs AAVS's image processor on PIL and NumPy, which gives the tensors of the released program bit by bit.
    """
)
class AAVSImageProcessorPil(AAVSImageProcessorMixin, PilBackend):
    pass


__all__ = ["AAVSImageProcessorPil"]
