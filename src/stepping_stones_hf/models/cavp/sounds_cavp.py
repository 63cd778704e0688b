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
Other sounds for frames, with which CAVP's contrastive loss compares their own: those of other frames of the batch, and
of earlier frames of the same class.
"""

import torch
from torch import nn

from ..loss_base import IGNORE_INDEX
from .configuration_cavp import CAVPConfig


# What CAVP's feature extractor makes of silence.
SILENCE = -1.0


def find_classes(labels: torch.LongTensor, num_labels: int) -> torch.BoolTensor:
    """Of labels `(frames, height, width)`, `(frames, num_labels)`: which are in a frame, background among them."""
    present = torch.zeros(len(labels), IGNORE_INDEX + 1, dtype=torch.bool, device=labels.device)
    return present.scatter_(1, labels.flatten(1), True)[:, :num_labels]


def find_single_classes(classes: torch.BoolTensor) -> tuple[torch.BoolTensor, torch.LongTensor]:
    """
    Of the classes of frames `(frames, classes)`, `(frames,)` each: whether there is exactly one but background, and
    which one.
    """
    sounding = classes[:, 1:].long()
    return sounding.sum(dim=1) == 1, 1 + sounding.argmax(dim=1)


def shuffle_sounds(classes: torch.BoolTensor) -> tuple[torch.LongTensor, torch.BoolTensor]:
    """
    Deals the sounds of a batch out at random.

    Args:
        classes (`torch.BoolTensor` of shape `(frames, classes)`):
            Which classes are in a frame.

    Returns:
        `tuple[torch.LongTensor, torch.BoolTensor]`, `(frames,)` each: whose sound a frame gets, and whether it goes
        with the frame: whether both frames have the same classes.
    """
    order = torch.randperm(len(classes)).to(classes.device)
    return order, (classes == classes[order]).all(dim=1)


class CAVPSoundBank(nn.Module):
    """
    The latest sounds of each class, the oldest one first, out of frames in which nothing else sounds. Until a class
    has filled its places the oldest ones are silence, as in the released program. With several processes all have the
    bank of the first one.
    """

    def __init__(self, config: CAVPConfig):
        super().__init__()
        self.rate, self.warmup_steps = config.sound_bank_rate, config.sound_bank_warmup_steps
        shape = (config.audio_config.patch_frames, config.audio_config.num_mel_bins)
        self.sounds = nn.Buffer(torch.full((config.num_labels, config.sound_bank_size, *shape), SILENCE))
        self.num_steps = nn.Buffer(torch.zeros((), dtype=torch.long))

    def draw(self, classes: torch.BoolTensor, matches: torch.BoolTensor) -> tuple[torch.LongTensor, torch.Tensor]:
        """
        Draws some of the frames whose other sound does not go with them. Those of a single class get one that does,
        the oldest one of that class.

        Args:
            classes (`torch.BoolTensor` of shape `(frames, num_labels)`):
                Which classes are in a frame.
            matches (`torch.BoolTensor` of shape `(frames,)`):
                Whether its other sound goes with it.

        Returns:
            `tuple[torch.LongTensor, torch.Tensor]`: the frames that get a sound, `(n,)`, and these, `(n, 96, 64)`.
        """
        frames = torch.nonzero(~matches)[:, 0]
        if self.num_steps < self.warmup_steps:
            frames = frames[:0]
        else:
            drawn = torch.randperm(len(frames))[: int(self.rate * len(frames))]
            frames = frames[drawn.to(frames.device)]
        is_single, label = find_single_classes(classes[frames])
        return frames[is_single], self.sounds[label[is_single], 0]

    @torch.no_grad()
    def add(self, sounds: torch.Tensor, classes: torch.BoolTensor) -> None:
        """
        Takes in the sounds of a batch, each in place of the oldest one of its class.

        Args:
            sounds (`torch.Tensor` of shape `(frames, 96, 64)`):
                The frames' own sounds.
            classes (`torch.BoolTensor` of shape `(frames, num_labels)`):
                Which classes are in a frame.
        """
        is_single, labels = find_single_classes(classes)
        for label in labels[is_single].unique():
            new = sounds[is_single & (labels == label)].to(self.sounds.dtype)
            self.sounds[label] = torch.cat([self.sounds[label], new])[-self.sounds.shape[1] :]
        self.num_steps += 1


__all__ = ["SILENCE", "CAVPSoundBank", "find_classes", "find_single_classes", "shuffle_sounds"]
