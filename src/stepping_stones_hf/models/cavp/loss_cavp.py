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
Losses of CAVP (https://huggingface.co/papers/2304.02970), as the released program computes them.
"""

import torch
from torch import nn

from ..loss_base import IGNORE_INDEX, resize_logits
from .configuration_cavp import CAVPConfig


# Added where the number of a pixel's positives divides.
EPS = 1e-12


def draw(size: int, count: int, device: torch.device) -> torch.LongTensor:
    """`count` of the numbers up to `size`, drawn on the CPU, so that a seed means the same everywhere."""
    return torch.randperm(size)[:count].to(device)


def sample_pixels(
    features: torch.Tensor,
    other_features: torch.Tensor,
    labels: torch.LongTensor,
    other_labels: torch.LongTensor,
    max_views: int,
) -> tuple[torch.Tensor, torch.LongTensor]:
    """
    Draws pixels of frames with their own sound: `max_views` of each class that has so many, and as many of background,
    or as there are. And of frames with another's sound as many as of background, among those that have a class when
    their own sound is heard.

    Args:
        features (`torch.Tensor`), other_features (`torch.Tensor`), both of shape `(frames, channels, h, w)`:
            Features of the frames with their own sound, and with another one.
        labels (`torch.LongTensor`), other_labels (`torch.LongTensor`), both of shape `(frames, h, w)`:
            Class of each pixel, or 255, with the frame's own sound, and with the other one.
        max_views (`int`):
            Number of pixels of each kind.

    Returns:
        `tuple[torch.Tensor, torch.LongTensor]`: features `(pixels, channels)` and their classes `(pixels,)`: classes
        in ascending order, background, frames with another's sound. None where no class has enough pixels.
    """
    device = features.device
    is_foreground = (labels > 0) & (labels != IGNORE_INDEX)
    pixels, other_pixels = features.movedim(1, -1), other_features.movedim(1, -1)  # (frames, h, w, channels)
    foreground, foreground_labels = pixels[is_foreground], labels[is_foreground]
    samples, sample_labels = [], []
    for label, count in zip(*foreground_labels.unique(return_counts=True)):
        if count >= max_views:
            samples.append(foreground[foreground_labels == label][draw(int(count), max_views, device)])
            sample_labels.append(label.expand(max_views))
    if not samples:
        return foreground[:0], foreground_labels[:0]

    background = pixels[labels == 0]
    count = min(max_views, len(foreground), len(background))
    samples.append(background[draw(len(background), count, device)])
    sample_labels.append(labels.new_zeros(count))

    drawn = draw(len(foreground), count, device)
    samples.append(other_pixels[is_foreground][drawn])
    sample_labels.append(other_labels[is_foreground][drawn])
    return torch.cat(samples), torch.cat(sample_labels)


def compute_contrastive_loss(samples: torch.Tensor, labels: torch.LongTensor, temperature: float) -> torch.Tensor:
    """
    How far samples of one class are from each other, compared with those of other classes: each pair of the former
    competes with the latter alone. The mean over the samples, of which one that is alone in its class counts 0.

    Args:
        samples (`torch.Tensor` of shape `(samples, channels)`), labels (`torch.LongTensor` of shape `(samples,)`):
            Features of length 1, and their classes.
        temperature (`float`):
            What their cosines are divided by.
    """
    logits = samples @ samples.mT / temperature  # (samples, samples)
    is_same = labels[:, None] == labels
    positives = is_same.float().fill_diagonal_(0)
    exponentials = logits.exp()
    negatives = (exponentials * ~is_same).sum(dim=1, keepdim=True)
    log_probabilities = logits - torch.log(exponentials + negatives)
    return -((positives * log_probabilities).sum(dim=1) / (positives.sum(dim=1) + EPS)).mean()


class CAVPLoss(nn.Module):
    """
    Cross-entropy and contrastive loss.

    - *Cross-entropy*: the mean over the annotated pixels of all frames.
    - *Contrastive*: of pixels of frames with their own and with another's sound, see [`sample_pixels`] and
      [`compute_contrastive_loss`]. Without the mask prompt, which would tell what sounds.

    The first is divided by the number of annotated pixels; the second, a mean over pixels that are drawn from a batch,
    by the number of batches. So micro-batches give the cross-entropy of one large batch, and the mean of contrastive
    losses that compare the pixels of each with one another.
    """

    def __init__(self, config: CAVPConfig):
        super().__init__()
        self.num_labels = config.num_labels
        self.weight = config.contrastive_weight
        self.temperature = config.contrastive_temperature
        self.max_views = config.contrastive_max_views

    def get_normalizers(self, labels: torch.LongTensor) -> torch.FloatTensor:
        """`(2,)`: number of annotated pixels of labels `(frames, height, width)`, and number of batches, 1."""
        num_pixels = (labels != IGNORE_INDEX).sum()
        return torch.stack([num_pixels, torch.ones_like(num_pixels)]).float()

    def forward(
        self,
        logits: torch.FloatTensor,  # (frames, num_labels, height, width)
        labels: torch.LongTensor,  # (frames, label_height, label_width)
        features: torch.FloatTensor,  # (frames, channels, h, w)
        other_features: torch.FloatTensor | None = None,  # the same with other sounds
        matches: torch.BoolTensor | None = None,  # (frames,): whether these go with the frames
        num_items_in_batch: torch.FloatTensor | None = None,
    ) -> dict[str, torch.FloatTensor]:
        """The weighted terms, `loss_segmentation` and, where there are other sounds, `loss_contrastive`."""
        if num_items_in_batch is None:
            num_items_in_batch = self.get_normalizers(labels)
        # Without any annotated pixel the sum is zero, whatever it is divided by.
        num_pixels, num_batches = num_items_in_batch.to(logits.device).clamp(min=1)
        cross_entropy = nn.functional.cross_entropy(
            resize_logits(logits.float(), labels.shape[-2:]), labels, ignore_index=IGNORE_INDEX, reduction="sum"
        )
        losses = {"loss_segmentation": cross_entropy / num_pixels}
        if other_features is not None:
            contrastive = self.compare_sounds(features, other_features, labels, matches)
            losses["loss_contrastive"] = self.weight * contrastive / num_batches
        return losses

    def compare_sounds(
        self, features: torch.Tensor, other_features: torch.Tensor, labels: torch.Tensor, matches: torch.Tensor
    ) -> torch.Tensor:
        """The contrastive loss, see [`CAVPLoss.forward`]."""
        size = features.shape[-2:]
        labels = nn.functional.interpolate(labels[:, None].float(), size=size, mode="nearest")[:, 0].long()
        # Where the sound does not go with a frame nothing in it sounds, not even what is not annotated.
        other_labels = labels * matches[:, None, None]
        samples, sample_labels = sample_pixels(features, other_features, labels, other_labels, self.max_views)
        if len(samples) == 0:
            return samples.sum().float()
        samples = nn.functional.normalize(samples.float(), dim=1)
        with torch.autocast(samples.device.type, enabled=False):  # which would compare in half precision
            return compute_contrastive_loss(samples, sample_labels, self.temperature)


__all__ = ["CAVPLoss", "compute_contrastive_loss", "sample_pixels"]
