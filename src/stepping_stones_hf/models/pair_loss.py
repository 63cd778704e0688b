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
The pair loss of AVSBench-Robust (Li et al., https://huggingface.co/papers/2502.00358, AAAI 2026): does a sound go with
what is seen? With it a model learns to listen to sounds that do not, and to mark nothing then.

Of each frame the projected sound and the mean of the backbone's last feature map are compared by the cosine, whose
sigmoid is the probability that they go together. As in the released program nothing scales the cosine, so that the
loss lies between 0.31 and 1.31. There a clip is a pair or is not; here a frame is one if something sounds in its
target: it is not if it is silent.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig

from .loss_base import IGNORE_INDEX, find_annotated


class AudioVisualPairHead(nn.Module):
    """
    Projects sounds to where the features of frames are, and compares both.

    Args:
        audio_dim (`int`), visual_dim (`int`):
            Channels of the projected sound and of the backbone's last feature map.
    """

    def __init__(self, audio_dim: int, visual_dim: int):
        super().__init__()
        self.projection = nn.Linear(audio_dim, visual_dim)

    def forward(self, pair_features: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        # (frames, audio_dim) and (frames, visual_dim) -> (frames,), in float32
        audio, visual = pair_features
        return nn.functional.cosine_similarity(self.projection(audio).float(), visual.float(), dim=1)


def make_pair_head(config: PreTrainedConfig, audio_dim: int, visual_dim: int) -> AudioVisualPairHead | None:
    """The pair head of a model, or `None` where its config has no pair loss."""
    return AudioVisualPairHead(audio_dim, visual_dim) if config.pair_loss_weight else None


def label_pairs(targets: torch.LongTensor | list[torch.LongTensor]) -> tuple[torch.BoolTensor, torch.BoolTensor]:
    """
    Which frames go with their sounds.

    Args:
        targets (`torch.LongTensor` of shape `(frames, height, width)` or `list[torch.LongTensor]`):
            The class of each pixel, or 255 where there is none; or the classes of each frame's target masks.

    Returns:
        `tuple[torch.BoolTensor, torch.BoolTensor]`, both of shape `(frames,)`: whether something sounds in a frame,
        and whether the frame is annotated.
    """
    if isinstance(targets, torch.Tensor):
        return ((targets > 0) & (targets != IGNORE_INDEX)).flatten(1).any(dim=1), find_annotated(targets)
    sounding = torch.stack([(classes > 0).any() for classes in targets])
    return sounding, torch.ones_like(sounding)


def compute_pair_loss(
    pair_logits: torch.FloatTensor,
    targets: torch.LongTensor | list[torch.LongTensor],
    num_pairs: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Binary cross-entropy of the annotated frames.

    Args:
        pair_logits (`torch.FloatTensor` of shape `(frames,)`):
            Output of [`AudioVisualPairHead`].
        targets:
            See [`label_pairs`].
        num_pairs (`torch.Tensor` of shape `()`, *optional*):
            What their sum is divided by. Defaults to their number.

    Returns:
        `torch.Tensor` of shape `()`.
    """
    sounding, annotated = label_pairs(targets)
    losses = nn.functional.binary_cross_entropy_with_logits(pair_logits, sounding.to(pair_logits), reduction="none")
    num_pairs = annotated.sum() if num_pairs is None else num_pairs.to(losses.device)
    # Without any annotated frame the sum is zero, whatever it is divided by.
    return (losses * annotated).sum() / num_pairs.clamp(min=1)


__all__ = ["AudioVisualPairHead", "compute_pair_loss", "label_pairs", "make_pair_head"]
