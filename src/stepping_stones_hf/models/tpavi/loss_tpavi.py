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
Losses of TPAVI, as the released programs compute them: those of *Audio-Visual Segmentation*
(https://huggingface.co/papers/2207.05042) for two labels, those of *Audio-Visual Segmentation with Semantics*
(https://huggingface.co/papers/2301.13190) for more.
"""

import torch
from torch import nn

from ..loss_base import check_labels, compute_cross_entropy, find_annotated
from .configuration_tpavi import TPAVIConfig


POOLINGS = {"avg": nn.functional.adaptive_avg_pool2d, "max": nn.functional.adaptive_max_pool2d}

# Added where a mask's size divides and where a cosine enters a logarithm.
EPS = 1e-6
# Larger than any distance between audio features: no frame is its own neighbor.
OWN_DISTANCE = 10.0


class TPAVILoss(nn.Module):
    """
    Segmentation loss and audio-visual matching loss (AVM).

    - *Segmentation*: binary cross-entropy for two labels, cross-entropy for more; the mean over the annotated pixels
      of a frame, then over the annotated frames.
    - *AVM*: a predicted mask, pooled to the size of a feature map, selects that map's pixels; their mean is compared
      with the frame's audio features; the mean over the four maps. With two labels the mask is a probability through
      which gradients flow, and all frames count; with more it is 1 wherever another label than background is the
      highest, without gradients, and annotated frames count. Kullback-Leibler divergence with two labels is a *sum*
      over frames, as in the released training on MS3: its weight grows with the batch. All else is a mean over frames.

    The two sums are divided by the normalizers, the number of annotated frames and the number of frames; the second is
    read by the AVM of two labels alone, and not by its Kullback-Leibler divergence, which is a sum. So micro-batches
    give the gradients of one large batch, but for two things that no normalizer can fix: the batch norms, and
    `avm_target="nearest"`, which looks for the nearest frame among those of a micro-batch.
    """

    def __init__(self, config: TPAVIConfig):
        super().__init__()
        self.num_labels = config.num_labels
        self.is_binary = config.num_labels == 2
        self.kind = config.avm_loss
        self.weight = config.avm_weight
        self.normalize = config.avm_normalize or config.avm_loss == "cosine"
        self.threshold = config.avm_threshold or config.avm_loss == "cosine"
        self.pool = POOLINGS[config.avm_pooling]
        self.target = config.avm_target

    def get_normalizers(self, labels: torch.LongTensor) -> torch.FloatTensor:
        """`(2,)`: number of annotated frames, and number of frames, of labels `(frames, height, width)`."""
        annotated = find_annotated(labels)
        return torch.stack([annotated.sum(), torch.ones_like(annotated).sum()]).float()

    def forward(
        self,
        logits: torch.FloatTensor,  # (frames, 1 or num_labels, height, width)
        labels: torch.LongTensor,  # (frames, label_height, label_width)
        feature_maps: tuple[torch.FloatTensor, ...],  # each (frames, channels, h, w), rectified
        audio_features: tuple[torch.FloatTensor, ...],  # each (frames, channels)
        num_items_in_batch: torch.FloatTensor | None = None,
    ) -> dict[str, torch.FloatTensor]:
        """The weighted terms, `loss_segmentation` and, unless `config.avm_loss` is `None`, `loss_avm`."""
        check_labels(labels, len(logits), self.num_labels)
        logits = logits.float()
        if num_items_in_batch is None:
            num_items_in_batch = self.get_normalizers(labels)
        # Without any annotated frame the sums are zero, whatever they are divided by.
        num_annotated, num_frames = num_items_in_batch.to(logits.device).clamp(min=1)
        losses = {"loss_segmentation": compute_cross_entropy(logits, labels).sum() / num_annotated}
        # CODEPATH: no AVM in the released training on S4
        if self.kind is not None:
            logits = logits if self.is_binary else logits.detach()
            matching = [
                self.matching_losses(logits, visual.float(), audio.float())
                for visual, audio in zip(feature_maps, audio_features)
            ]
            matching = torch.stack(matching).mean(dim=0)  # (frames,)
            # CODEPATH: AVSS
            if not self.is_binary:
                matching = (matching * find_annotated(labels)).sum() / num_annotated
            # CODEPATH: MS3
            elif self.kind == "kl":
                matching = matching.sum()
            else:
                matching = matching.sum() / num_frames
            losses["loss_avm"] = self.weight * matching
        return losses

    def matching_losses(self, logits: torch.Tensor, visual: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        """`(frames,)`: by how much masked features `(frames, channels, h, w)` miss the audio `(frames, channels)`."""
        size = visual.shape[-2:]
        if not self.is_binary:
            mask = self.pool((logits.argmax(dim=1, keepdim=True) != 0).float(), size)  # (frames, 1, h, w)
        elif self.kind == "cosine":
            mask = self.pool(logits.sigmoid(), size)
        else:
            mask = self.pool(logits, size).sigmoid()
        if self.threshold:
            mask = (mask > 0.5).float()
            visual = (visual * mask).sum(dim=(2, 3)) / (mask.sum(dim=(2, 3)) + EPS)  # (frames, channels)
        else:
            visual = (visual * mask).mean(dim=(2, 3))
        if self.normalize:
            visual, audio = nn.functional.normalize(visual), nn.functional.normalize(audio)

        target = audio
        if self.target == "nearest":
            distances = torch.cdist(audio, audio) + OWN_DISTANCE * torch.eye(len(audio), device=audio.device)
            target = visual[distances.argmin(dim=1)]
        if self.kind == "cosine":
            return -torch.log(nn.functional.relu((visual * target).sum(dim=1)) + EPS)
        if self.kind == "euclidean":
            return nn.functional.pairwise_distance(target, visual)
        # In logarithms: the gradient of a probability that is 0 in single precision would not be a number.
        log_target = target.log_softmax(dim=1)
        divergence = nn.functional.kl_div(visual.log_softmax(dim=1), log_target, reduction="none", log_target=True)
        return divergence.sum(dim=1)


__all__ = ["TPAVILoss"]
