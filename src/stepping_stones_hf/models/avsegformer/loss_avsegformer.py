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
Losses of AVSegFormer (https://huggingface.co/papers/2307.01146), as the released program computes them.
"""

import torch
from torch import nn

from ..loss_base import IGNORE_INDEX, check_labels, compute_cross_entropy, find_annotated, resize_logits
from .configuration_avsegformer import AVSegFormerConfig


DICE_EPS = 1e-3


def compute_dice_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    Dice loss of each frame, over its annotated pixels, with squares in the denominator.

    Args:
        logits (`torch.Tensor` of shape `(frames, 1, h, w)`):
            That a pixel has label 1.
        labels (`torch.LongTensor` of shape `(frames, height, width)`):
            0, 1 or 255.

    Returns:
        `torch.Tensor` of shape `(frames,)`.
    """
    valid = labels != IGNORE_INDEX
    probabilities = (resize_logits(logits, labels.shape[-2:])[:, 0].sigmoid() * valid).flatten(1)
    targets = (labels == 1).to(logits.dtype).flatten(1)
    overlap = (probabilities * targets).sum(dim=1)
    sizes = (probabilities.square().sum(dim=1) + DICE_EPS) + (targets.square().sum(dim=1) + DICE_EPS)
    return 1 - 2 * overlap / sizes


class AVSegFormerLoss(nn.Module):
    """
    Segmentation loss and mix loss, each the mean over the annotated frames.

    - *Segmentation*: dice loss (or binary cross-entropy, `config.mask_loss`) for two labels, cross-entropy for more.
    - *Mix*: the mean over all channels of the mask features, resized to the size of the labels, is a mask of what
      sounds; it is compared with the true one by `config.mask_loss`. The mask features are not negative, hence neither
      is this logit.

    Both sums are divided by the normalizer, the number of annotated frames, so that micro-batches give the gradients
    of one large batch.
    """

    def __init__(self, config: AVSegFormerConfig):
        super().__init__()
        self.num_labels = config.num_labels
        self.mix_weight = config.mix_loss_weight
        self.compare_masks = compute_dice_loss if config.mask_loss == "dice" else compute_cross_entropy

    def get_normalizers(self, labels: torch.LongTensor) -> torch.FloatTensor:
        """`(1,)`: number of annotated frames of labels `(frames, height, width)`."""
        return find_annotated(labels).sum()[None].float()

    def forward(
        self,
        logits: torch.FloatTensor,  # (frames, 1 or num_labels, height, width)
        labels: torch.LongTensor,  # (frames, label_height, label_width)
        mask_features: torch.FloatTensor,  # (frames, hidden_dim, h, w)
        num_items_in_batch: torch.FloatTensor | None = None,
    ) -> dict[str, torch.FloatTensor]:
        """The weighted terms, `loss_segmentation` and `loss_mix`."""
        check_labels(labels, len(logits), self.num_labels)
        logits, mix_logits = logits.float(), mask_features.float().mean(dim=1, keepdim=True)
        if num_items_in_batch is None:
            num_items_in_batch = self.get_normalizers(labels)
        # Without any annotated frame the sums are zero, whatever they are divided by.
        (num_annotated,) = num_items_in_batch.to(logits.device).clamp(min=1)
        masks = labels.where(labels == IGNORE_INDEX, (labels > 0).long())
        # CODEPATH: the released models for S4 and MS3 have two labels, those for AVSS 71
        if self.num_labels == 2:
            segmentation_losses = self.compare_masks(logits, masks)
        else:
            segmentation_losses = compute_cross_entropy(logits, labels)
        mix_losses = self.compare_masks(mix_logits, masks)
        annotated = find_annotated(labels)
        return {
            "loss_segmentation": (segmentation_losses * annotated).sum() / num_annotated,
            "loss_mix": self.mix_weight * (mix_losses * annotated).sum() / num_annotated,
        }


__all__ = ["AVSegFormerLoss"]
