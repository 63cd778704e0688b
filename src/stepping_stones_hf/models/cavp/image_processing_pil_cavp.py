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
"""CAVP's image processor on PIL and NumPy."""

import numpy as np
import torch
from transformers import BatchFeature
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import ImageInput, PILImageResampling, SizeDict
from transformers.processing_utils import Unpack
from transformers.utils import auto_docstring

from ...labels import CLASS_NAMES, VOC_PALETTE
from ..image_processing_base import (
    AudioVisualImageProcessorKwargs,
    PixelImageProcessorMixin,
    flatten_maps,
    read_segmentation_map,
    resize_nearest,
)


def find_image_labels(segmentation_map: np.ndarray) -> torch.BoolTensor:
    """
    Which classes of AVSBench are in a segmentation map.

    Args:
        segmentation_map (`np.ndarray` of shape `(height, width)` or `(height, width, 3)` and type uint8):
            Class indices, or AVSBench's colors. Other values and colors are of no class.

    Returns:
        `torch.BoolTensor` of shape `(71,)`.
    """
    if segmentation_map.ndim == 2:
        return torch.from_numpy(np.isin(np.arange(len(CLASS_NAMES)), segmentation_map))
    codes, palette = (
        colors.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
        for colors in (segmentation_map, VOC_PALETTE[: len(CLASS_NAMES)])
    )
    return torch.from_numpy(np.isin(palette, codes))


@auto_docstring(custom_intro="What CAVP's image processors share whatever their backend.")
class CAVPImageProcessorMixin(PixelImageProcessorMixin):
    resample = PILImageResampling.BICUBIC

    def _preprocess_image_like_inputs(
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None,
        prompt_masks: ImageInput | None,
        label_size: SizeDict,
        localization: bool,
        **kwargs: Unpack[AudioVisualImageProcessorKwargs],
    ) -> BatchFeature:
        inputs = super()._preprocess_image_like_inputs(
            images, segmentation_maps, prompt_masks, label_size=label_size, localization=localization, **kwargs
        )
        # CODEPATH: localizers, whose labels do not tell which sounds go with which frames
        if segmentation_maps is not None and localization:
            size = (label_size.height, label_size.width)
            maps = [
                read_segmentation_map(segmentation_map, f"segmentation_maps[{index}]", localization)
                for index, segmentation_map in enumerate(flatten_maps(segmentation_maps, "segmentation_maps"))
            ]
            image_labels = torch.stack([find_image_labels(resize_nearest(array, size)) for array in maps])
            inputs["image_labels"] = image_labels.to(inputs["labels"].device)
        return inputs


@auto_docstring(
    custom_intro="""
    Constructs CAVP's image processor on PIL and NumPy, which resizes frames as the released program does.
    """
)
class CAVPImageProcessorPil(CAVPImageProcessorMixin, PilBackend):
    pass


__all__ = ["CAVPImageProcessorMixin", "CAVPImageProcessorPil", "find_image_labels"]
