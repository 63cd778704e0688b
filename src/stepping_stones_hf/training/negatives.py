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
Training clips with sounds that nothing in them makes, whose target is that nothing sounds: with the pair loss, what
AVSBench-Robust (Li et al., arXiv 2502.00358, AAAI 2026) has models learn to listen by.

Where this differs from the released program: there a tenth of an epoch's samples are negatives, chosen once; here
each clip may become one in each epoch, in place of itself, by a hash of names as in the evaluation, so that an epoch
has as many steps as without.
"""

from collections.abc import Sequence

import datasets

from ..data.collator import EncodedRows
from .batches import derive_seed
from .clips import take_noise, take_silence, take_sound
from .sounds import prepare_draw, rank_by


# What a mask-prompted model is prompted with beside a negative sound.
NEGATIVE_PROMPTS = ("empty", "visual")


class Negatives:
    """
    Makes negatives of training clips, the `negatives` of an [`AVSCollator`]. Whether a clip is one, which sound it
    hears and what prompts it follow from the seed, the epoch, its subset and its name: by the draws of the evaluation
    ([`change_sound`]), with a seed of seed and epoch.

    Args:
        clips (`datasets.Dataset`):
            The training clips, rows of [`load_avsbench`], whose sounds are the off-screen sounds.
        share (`float`):
            The chance that a clip is a negative in an epoch, from 0 to 1.
        kinds (`Sequence[str]`):
            What a negative hears, in equal shares: `"offscreen"`, `"silence"`, `"noise"`. A clip for which there is no
            off-screen sound hears one of the others; without others it is no negative.
        prompts (`Sequence[str]`):
            What a negative is prompted with, in equal shares: `"empty"`, the true mask of such a sound, or `"visual"`,
            what the clip's own sound would give.
        seed (`int`):
            What is drawn by, together with the attribute `epoch`.

    Raises:
        `ValueError`: off-screen sounds are asked for, and there are none: see [`find_donors`].
    """

    def __init__(self, clips: datasets.Dataset, share: float, kinds: Sequence[str], prompts: Sequence[str], seed: int):
        self.share, self.kinds, self.prompts, self.seed, self.epoch = share, tuple(kinds), tuple(prompts), seed, 0
        self.draw = None
        if "offscreen" in kinds:
            self.draw, self.sounds = prepare_draw(clips), EncodedRows(clips, ["num_frames", "audio"])
            self.indices = {name: index for index, name in enumerate(zip(clips["subset"], clips["video_id"]))}

    def __call__(self, clip: dict) -> dict:
        """
        A clip, or the negative that it is in this epoch: with another sound, and what it is prompted with as
        `negative_prompt`.
        """
        seed, name = derive_seed(self.seed, self.epoch), (clip["subset"], clip["video_id"])
        by = rank_by("/".join(map(str, (seed, *name))))
        # Numbers from 0 to 1.
        draws = [int.from_bytes(by(what)[:6]) / 2**48 for what in ("negative", "kind", "prompt")]
        if draws[0] >= self.share:
            return clip
        kinds, donor = self.kinds, None
        if self.draw is not None:
            donor = self.draw(self.indices[name], seed)
        if donor is None:
            kinds = [kind for kind in kinds if kind != "offscreen"]
        if not kinds:
            return clip
        kind = kinds[int(draws[1] * len(kinds))]
        if kind == "offscreen":
            clip = take_sound(clip, self.sounds[donor.index])
        else:
            clip = take_silence(clip) if kind == "silence" else take_noise(clip, seed)
        return {**clip, "negative_prompt": self.prompts[int(draws[2] * len(self.prompts))]}


__all__ = ["NEGATIVE_PROMPTS", "Negatives"]
