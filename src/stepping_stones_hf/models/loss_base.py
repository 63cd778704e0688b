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
"""What the losses of models that label each pixel share."""

import torch
from torch import nn


# Label of the pixels that have none.
IGNORE_INDEX = 255


def find_annotated(labels: torch.LongTensor) -> torch.BoolTensor:
    """Of labels `(frames, height, width)`, `(frames,)`: whether a frame has a pixel with a label."""
    return (labels != IGNORE_INDEX).flatten(1).any(dim=1)


def check_labels(labels: torch.Tensor, num_frames: int, num_labels: int) -> None:
    """Raises a `ValueError` if labels do not fit the frames or the config."""
    if labels.ndim != 3 or labels.shape[0] != num_frames or labels.dtype != torch.int64:
        raise ValueError(
            f"`labels` must be int64 of shape ({num_frames}, height, width), the class of each pixel or "
            f"{IGNORE_INDEX}, got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    highest = int(labels.where(labels != IGNORE_INDEX, 0).max())
    if highest >= num_labels or int(labels.min()) < 0:
        raise ValueError(
            f"`labels` must be from 0 to {num_labels - 1} (config.num_labels={num_labels}) or {IGNORE_INDEX}, got "
            f"values from {int(labels.min())} to {highest}."
        )


def resize_logits(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`(frames, channels, h, w)` -> `(frames, channels, *size)`, bilinearly, unless they have that size."""
    if logits.shape[-2:] == size:
        return logits
    return nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def compute_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Cross-entropy of each frame: the mean over its annotated pixels, 0 where there are none.

    Args:
        logits (`torch.Tensor` of shape `(frames, labels, h, w)` or `(frames, 1, h, w)`):
            A single one says that a pixel has label 1, and stands for binary cross-entropy.
        labels (`torch.LongTensor` of shape `(frames, height, width)`):
            Label of each pixel, or 255.

    Returns:
        `torch.Tensor` of shape `(frames,)`.
    """
    logits = resize_logits(logits, labels.shape[-2:])
    valid = labels != IGNORE_INDEX
    if logits.shape[1] == 1:
        losses = nn.functional.binary_cross_entropy_with_logits(
            logits[:, 0], (labels == 1).to(logits.dtype), reduction="none"
        )
    else:
        losses = nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="none")
    return (losses * valid).sum(dim=(1, 2)) / valid.sum(dim=(1, 2)).clamp(min=1)


__all__ = ["IGNORE_INDEX", "check_labels", "compute_cross_entropy", "find_annotated", "resize_logits"]
