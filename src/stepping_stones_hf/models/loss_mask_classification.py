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
Loss of the models that predict sets of masks with classes: Mask2Former's, with the matching cost of the released
programs, with normalizers that can span a whole optimizer step, and with the matching costs of all frames computed at
once.
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerLoss,
    dice_loss,
    sample_point,
    sigmoid_cross_entropy_loss,
)


def get_matching_cost(
    mask_logits: torch.Tensor, class_logits: torch.Tensor, masks: torch.Tensor, classes: torch.Tensor, weights: dict
) -> torch.Tensor:
    """
    Cost of giving target m to query q in each frame: weighted sum of minus the class probability, the mean binary
    cross-entropy and the dice loss at the sampled points.

    Args:
        mask_logits (`torch.Tensor` of shape `(frames, queries, points)`): predicted mask logits at the points.
        class_logits (`torch.Tensor` of shape `(frames, queries, labels + 1)`): class logits.
        masks (`torch.Tensor` of shape `(frames, targets, points)`): target masks at the points.
        classes (`torch.Tensor` of shape `(frames, targets)`): target classes.
        weights (`dict`): weights of `class`, `mask` and `dice`.

    Returns:
        `torch.Tensor` of shape `(frames, queries, targets)`.
    """
    num_points = mask_logits.shape[-1]
    probabilities = class_logits.softmax(-1)[..., :-1]  # "no object" is nobody's class
    class_cost = -probabilities.gather(2, classes[:, None].expand(-1, probabilities.shape[1], -1))
    # bce(x, 1) = softplus(-x) and bce(x, 0) = softplus(x) = softplus(-x) + x; softplus of beta -1
    # is -softplus(-x), and needs no copy of -x.
    mask_cost = mask_logits @ (1 - masks).mT - nn.functional.softplus(mask_logits, beta=-1).sum(-1, keepdim=True)
    mask_cost = mask_cost / num_points
    scores = mask_logits.sigmoid()
    areas = scores.sum(-1)[:, :, None] + masks.sum(-1)[:, None]
    dice_cost = 1 - (2 * (scores @ masks.mT) + 1) / (areas + 1)
    return weights["class"] * class_cost + weights["mask"] * mask_cost + weights["dice"] * dice_cost


class MaskClassificationLoss(Mask2FormerLoss):
    """
    Set loss over all frames of a batch, for the last prediction and the ones before it.

    Each prediction is matched again and draws new random points: in order the matcher's `(frames, points, 2)`, then
    candidates and free points of the mask losses. The last prediction comes first, then the others from first to last.
    """

    def __init__(self, config: PreTrainedConfig):
        loss_weights = {
            "loss_cross_entropy": config.class_weight,
            "loss_mask": config.mask_weight,
            "loss_dice": config.dice_weight,
        }
        super().__init__(config, loss_weights)
        self.num_queries = config.num_queries
        self.use_auxiliary_loss = config.use_auxiliary_loss
        self.matching_weights = {
            "class": config.matcher_class_cost,
            "mask": config.mask_weight,
            "dice": config.dice_weight,
        }
        # Mask2Former's matcher goes through the frames one by one; `match` takes its place.
        del self.matcher

    def get_normalizers(self, class_labels: list[torch.Tensor]) -> torch.Tensor:
        """Number of target masks and sum of the classification weights, `(2,)`; every query has weight 1 if it is
        matched and `no_object_weight` if not."""
        counts = torch.tensor([len(labels) for labels in class_labels], dtype=torch.float32)
        matched = counts.clamp(max=self.num_queries).sum()
        class_weight = matched + self.eos_coef * (len(class_labels) * self.num_queries - matched)
        return torch.stack([counts.sum(), class_weight]).to(self.empty_weight.device)

    @torch.no_grad()
    def match(
        self,
        masks_queries_logits: torch.Tensor,
        class_queries_logits: torch.Tensor,
        masks: torch.Tensor,
        class_labels: list[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Frame, query and target index of each matched pair, three tensors of shape `(pairs,)`."""
        points = torch.rand(len(class_labels), self.num_points, 2, device=masks.device)
        # Sums over thousands of points overflow in float16, where the costs of all good queries would be the same.
        with torch.autocast(masks.device.type, enabled=False):
            cost = get_matching_cost(
                sample_point(masks_queries_logits.float(), points, align_corners=False),
                class_queries_logits.float(),
                sample_point(masks, points, align_corners=False),
                pad_sequence(class_labels, batch_first=True),
                self.matching_weights,
            )
        # One transfer for the batch. A prediction that is not finite is matched only if there is no other.
        cost = torch.nan_to_num(cost, nan=1e9, posinf=1e9, neginf=1e9).cpu().numpy()
        pairs = []
        for frame, labels in enumerate(class_labels):
            queries, targets = linear_sum_assignment(cost[frame, :, : len(labels)])
            pairs.append(np.stack([np.full_like(queries, frame), queries, targets]))
        frames, queries, targets = torch.from_numpy(np.concatenate(pairs, axis=1)).to(masks.device)
        return frames, queries, targets

    def forward(
        self,
        predictions: list[dict[str, torch.Tensor]],
        mask_labels: list[torch.Tensor],
        class_labels: list[torch.Tensor],
        num_items_in_batch: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            predictions (`list[dict[str, torch.Tensor]]`):
                `class_queries_logits` and `masks_queries_logits`, from the first prediction to the last.
            mask_labels (`list[torch.Tensor]`): target masks `(masks, height, width)` per frame.
            class_labels (`list[torch.Tensor]`): target classes `(masks,)` per frame.
            num_items_in_batch (`torch.Tensor` of shape `(2,)`, *optional*): see `get_normalizers`.

        Returns:
            `dict[str, torch.Tensor]`: weighted terms of the loss.
        """
        if len(mask_labels) != len(class_labels) or len(mask_labels) != len(predictions[-1]["masks_queries_logits"]):
            raise ValueError(
                f"{len(predictions[-1]['masks_queries_logits'])} frames need as many `mask_labels` and "
                f"`class_labels`, got {len(mask_labels)} and {len(class_labels)}."
            )
        for frame, (masks, labels) in enumerate(zip(mask_labels, class_labels)):
            if len(masks) != len(labels):
                raise ValueError(f"Frame {frame} has {len(masks)} `mask_labels` and {len(labels)} `class_labels`.")
        if len({masks.shape[-2:] for masks in mask_labels}) > 1:
            sizes = sorted({tuple(masks.shape[-2:]) for masks in mask_labels})
            raise ValueError(f"All `mask_labels` of a batch must have one height and width, got {sizes}.")
        if num_items_in_batch is None:
            num_items_in_batch = self.get_normalizers(class_labels)
        num_masks, class_weight = num_items_in_batch.unbind()
        num_masks = num_masks.clamp(min=1)
        masks = pad_sequence(mask_labels, batch_first=True).float()  # (frames, most masks of a frame, height, width)

        # Point losses in half precision lose the small differences that they are made of.
        with torch.autocast(masks.device.type, enabled=False):
            losses = self.get_losses(predictions[-1], masks, class_labels, num_masks, class_weight)
            if self.use_auxiliary_loss:
                for index, prediction in enumerate(predictions[:-1]):
                    auxiliary = self.get_losses(prediction, masks, class_labels, num_masks, class_weight)
                    losses |= {f"{name}_{index}": value for name, value in auxiliary.items()}
        return losses

    def get_losses(
        self,
        prediction: dict[str, torch.Tensor],
        masks: torch.Tensor,
        class_labels: list[torch.Tensor],
        num_masks: torch.Tensor,
        class_weight: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        masks_queries_logits = prediction["masks_queries_logits"].float()
        class_queries_logits = prediction["class_queries_logits"].float()
        frames, queries, targets = self.match(masks_queries_logits, class_queries_logits, masks, class_labels)

        target_classes = torch.full(class_queries_logits.shape[:2], self.num_labels, device=masks.device)
        target_classes[frames, queries] = pad_sequence(class_labels, batch_first=True)[frames, targets]
        # Not `empty_weight`, which comes with a checkpoint and would overrule another `config.no_object_weight`.
        weight = torch.ones_like(self.empty_weight, dtype=torch.float32)
        weight[-1] = self.eos_coef
        cross_entropy = nn.functional.cross_entropy(
            class_queries_logits.mT, target_classes, weight=weight, reduction="sum"
        )

        predicted_masks = masks_queries_logits[frames, queries][:, None]  # (pairs, 1, height / 4, width / 4)
        target_masks = masks[frames, targets][:, None]  # (pairs, 1, height, width)
        with torch.no_grad():
            points = self.sample_points_using_uncertainty(
                predicted_masks,
                self.calculate_uncertainty,
                self.num_points,
                self.oversample_ratio,
                self.importance_sample_ratio,
            )
            point_labels = sample_point(target_masks, points, align_corners=False).squeeze(1)
        point_logits = sample_point(predicted_masks, points, align_corners=False).squeeze(1)

        losses = {
            "loss_mask": sigmoid_cross_entropy_loss(point_logits, point_labels, num_masks),
            "loss_dice": dice_loss(point_logits, point_labels, num_masks),
            "loss_cross_entropy": cross_entropy / class_weight,
        }
        return {name: self.weight_dict[name] * value for name, value in losses.items()}


__all__ = ["MaskClassificationLoss"]
