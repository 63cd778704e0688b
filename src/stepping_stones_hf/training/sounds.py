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
Other sounds than a clip's own: silence, noise and the sound of something else, as AVSBench-Robust plays them to models
(Li et al., arXiv 2502.00358, AAAI 2026), and shuffled sounds.

Where this differs from the released program: noise and off-screen sounds are as loud as the clip's own sound; all
sounds take the same way to the model; a draw is a hash of names, so that neither the order of files nor other clips
that are missing change it; and where no clip of other super-classes is left, one of other classes is taken, never of
the same.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import datasets
from torch.utils.data import Dataset

from ..data.collator import EncodedRows, MapReader
from ..data.labels import CLASS_NAMES
from ..metrics.avss_miou.avss_miou import NEGATIVES, SOUNDS
from .clips import (
    WithAddedNoise,
    WithNoise,
    WithOffscreenSounds,
    WithSilence,
    WithSounds,
    measure_loudness,
    read_classes,
    shuffle_sounds,
)


# A quieter sound is none to be heard.
MIN_DONOR_LOUDNESS = 1e-4

# Of the classes that have them in the release, by meaning of the others.
SUPER_CLASSES = {
    name: super_class
    for super_class, names in {
        "music": "accordion bassoon bell cello clarinet drum erhu flute guitar guzheng handpan harmonica harp marimba"
        " piano pipa saxophone sitar sorna tabla trombone trumpet tuba ukulele violin",
        "human": "baby boy girl man woman",
        "animal": "bird cat dog donkey duck elephant goose hen horse leopard lion parrot pig sheep squirrel tiger"
        " wolf",
        "device": "airplane axe boat bus car clipper clock emergency-car frying-food gun hair-dryer helicopter"
        " keyboard missile-rocket motorcycle mower saw tank tractor train truck utv vacuum-cleaner",
    }.items()
    for name in names.split()
}

# What a clip is not given besides its own super-classes: one often comes with the other. The last one holds where
# several things sound.
AVOIDED = {"music": {"human"}, "human": {"music"}, "animal": {"human"}, "device": set()}
AVOIDED_AMONG_SEVERAL = AVOIDED | {"device": {"music"}}


@dataclass(frozen=True)
class Donor:
    """
    The clip, by its index, whose sound another one is given, and how far apart the two are: `level` 0 if their
    super-classes differ and none is to be avoided, 1 if their super-classes differ, 2 if their classes do.
    """

    index: int
    level: int


def find_super_classes(classes: set[str]) -> set[str]:
    return {SUPER_CLASSES[name] for name in classes}


def draw_donors(
    subsets: Sequence[str],
    video_ids: Sequence[str],
    classes: Sequence[set[str]],
    seed: int,
    visible: Sequence[set[str]] | None = None,
    loudness: Sequence[float] | None = None,
) -> dict[int, Donor]:
    """
    Draws for each clip another one of its subset whose sound it is given as an off-screen sound.

    Args:
        subsets (`Sequence[str]`), video_ids (`Sequence[str]`):
            The names of the clips.
        classes (`Sequence[set[str]]`):
            What sounds in each of them. A clip in which nothing is known to sound neither gets nor gives a sound.
        seed (`int`):
            What is drawn by. Of S4 first the class is drawn, then a clip of it; of the others the clip.
        visible (`Sequence[set[str]]`, *optional*):
            What is to be seen in each clip, where that is known: no such class sounds in its donor.
        loudness (`Sequence[float]`, *optional*):
            See [`measure_loudness`]: a clip quieter than 1e-4 gives no sound.

    Returns:
        `dict[int, Donor]`: by the index of each clip that has one, rising, its donor.

    Raises:
        `KeyError`: a class is none of AVSBench's.
    """
    draw = DonorDraw(subsets, video_ids, classes, visible, loudness)
    donors = {clip: draw(clip, seed) for clip in range(len(draw.subsets))}
    return {clip: donor for clip, donor in donors.items() if donor is not None}


class DonorDraw:
    """[`draw_donors`] for one clip at a time."""

    def __init__(
        self,
        subsets: Sequence[str],
        video_ids: Sequence[str],
        classes: Sequence[set[str]],
        visible: Sequence[set[str]] | None = None,
        loudness: Sequence[float] | None = None,
    ):
        self.subsets, self.video_ids, self.classes, self.visible = subsets, video_ids, classes, visible
        self.super_classes = [find_super_classes(of_clip) for of_clip in classes]
        self.givers = {subset: [] for subset in subsets}
        for index, (subset, of_clip) in enumerate(zip(subsets, classes, strict=True)):
            if of_clip and (loudness is None or loudness[index] >= MIN_DONOR_LOUDNESS):
                self.givers[subset].append(index)

    def __call__(self, clip: int, seed: int) -> Donor | None:
        """The donor of a clip, by its index, if it has one."""
        candidates, level = self.find_candidates(clip)
        if not candidates:
            return None
        subset, by = self.subsets[clip], rank_by(f"{seed}/{self.subsets[clip]}/{self.video_ids[clip]}")
        if subset == "v1s":
            names = {other: "_".join(sorted(self.classes[other])) for other in candidates}
            drawn = min(set(names.values()), key=lambda name: by(f"class/{name}"))
            candidates = [other for other in candidates if names[other] == drawn]
        return Donor(min(candidates, key=lambda other: by(self.video_ids[other])), level)

    def find_candidates(self, clip: int) -> tuple[list[int], int]:
        """The clips of which the donor is drawn, and their level; there may be none."""
        if not self.classes[clip]:
            return [], 0
        own, super_classes = self.classes[clip], self.super_classes
        rule = AVOIDED if self.subsets[clip] == "v1s" else AVOIDED_AMONG_SEVERAL
        avoided = set().union(*(rule[super_class] for super_class in super_classes[clip]))
        not_heard = own if self.visible is None else own | self.visible[clip]
        others = [other for other in self.givers[self.subsets[clip]] if self.classes[other].isdisjoint(not_heard)]
        apart = [other for other in others if super_classes[other].isdisjoint(super_classes[clip])]
        far_apart = [other for other in apart if super_classes[other].isdisjoint(avoided)]
        for level, candidates in enumerate((far_apart, apart, others)):
            if candidates:
                return candidates, level
        return [], 0


def rank_by(key: str) -> Callable[[str], bytes]:
    """By which names are drawn: the SHA-256 of `key/name`."""
    return lambda name: hashlib.sha256(f"{key}/{name}".encode()).digest()


def read_class_names(clips: datasets.Dataset) -> list[set[str]]:
    """
    What sounds in each clip of a dataset, by name.

    Raises:
        `ValueError`: the dataset does not name the classes of AVSBench-semantic.
    """
    names = getattr(clips.features["categories"].feature, "names", None)
    if names is None or tuple(names) != CLASS_NAMES:
        found = "none" if names is None else f"{len(names)} others, such as {names[0]!r}"
        raise ValueError(
            "Off-screen sounds are drawn by the 71 classes of AVSBench-semantic, but the clips name"
            f" {found}: take AVSBench-semantic, or leave offscreen out."
        )
    return [{CLASS_NAMES[index] for index in of_clip if index} for of_clip in read_classes(clips)]


def read_record(clips: datasets.Dataset, column: str) -> list[set[str]] | None:
    """What a dataset says to be `visible` in each clip, or heard `off_screen`, by name, if it says so."""
    if column not in clips.column_names:
        return None
    # Where datasets are concatenated, clips of those that do not say so have None.
    return [{CLASS_NAMES[index] for index in of_clip or []} for of_clip in clips[column]]


def find_donors(clips: datasets.Dataset, seed: int) -> dict[int, Donor]:
    """
    [`draw_donors`] for the clips of a dataset. Where it records what is to be seen and what sounds unseen, as
    mini-AVSBench with the statistics of AVSBench does, nothing that is to be seen sounds in a donor.

    Raises:
        `ValueError`: as [`read_class_names`], or no clip has a donor.
    """
    draw = prepare_draw(clips)
    donors = {clip: draw(clip, seed) for clip in range(len(clips))}
    return {clip: donor for clip, donor in donors.items() if donor is not None}


def prepare_draw(clips: datasets.Dataset) -> DonorDraw:
    """
    [`DonorDraw`] for the clips of a dataset, whose masks and sounds are read.

    Raises:
        `ValueError`: as [`find_donors`].
    """
    classes, rows = read_class_names(clips), EncodedRows(clips, ["num_frames", "audio"])
    loudness = [measure_loudness(rows[index]) for index in range(len(rows))]
    visible, off_screen = read_record(clips, "visible"), read_record(clips, "off_screen")
    if off_screen is not None:
        classes = [seen | unseen for seen, unseen in zip(classes, off_screen)]
    draw = DonorDraw(clips["subset"], clips["video_id"], classes, visible, loudness)
    if not any(draw.find_candidates(clip)[0] for clip in range(len(clips))):
        raise ValueError(
            f"None of the {len(clips)} clips has an off-screen sound: no other clip of its subset has a sound of other"
            " classes. Take more clips, or leave offscreen out."
        )
    return draw


@dataclass
class HeardClips:
    """
    Those clips that can be heard with a sound: as `clips`, rows of [`load_avsbench`], and as `rows`, with that sound,
    as [`AVSCollator`] takes them. With an off-screen sound there are also their `donors`, by their place in `clips`.
    """

    clips: datasets.Dataset
    rows: Dataset
    donors: list[Donor] = field(default_factory=list)


def change_sound(
    clips: datasets.Dataset,
    sound: Literal["own", "silence", "noise", "offscreen", "shuffled", "fused"],
    seed: int = 3407,
) -> HeardClips:
    """
    Plays another sound to clips.

    Args:
        clips (`datasets.Dataset`):
            Rows of [`load_avsbench`].
        sound (`str`):
            `"own"`; `"silence"`; `"noise"`, white and as loud as the own sound; `"offscreen"`, the sound of a clip of
            other super-classes, made as loud; `"shuffled"`, the sound of a clip of other classes, each for one clip;
            `"fused"`, a control, the own sound together with such noise: all that sounds still does.
        seed (`int`, *optional*, defaults to 3407):
            What noise and other clips are drawn by.

    Returns:
        [`HeardClips`]: all clips, or those for which there is another one to hear; none may be left when sounds are
        shuffled.

    Raises:
        `ValueError`: it is not known what sounds in the clips; or, off-screen, see [`find_donors`].
    """
    rows = MapReader.prepare(clips)
    if sound == "silence":
        return HeardClips(clips, WithSilence(rows))
    if sound == "noise":
        return HeardClips(clips, WithNoise(rows, seed))
    if sound == "fused":
        return HeardClips(clips, WithAddedNoise(rows, seed))
    if sound == "own":
        return HeardClips(clips, rows)
    if sound == "offscreen":
        found = find_donors(clips, seed)
        indices, donors = list(found), list(found.values())
        others, view = [donor.index for donor in donors], WithOffscreenSounds
    else:
        classes = read_classes(clips)
        if not any(classes):
            raise ValueError("Neither masks nor metadata say what sounds: shuffling MS3 needs AVSBench-semantic.")
        indices, others = shuffle_sounds(clips["subset"], classes, seed)
        donors, view = [], WithSounds
    heard = clips.select(indices)
    return HeardClips(heard, view(MapReader.prepare(heard), MapReader.prepare(clips.select(others))), donors)


__all__ = [
    "AVOIDED",
    "AVOIDED_AMONG_SEVERAL",
    "NEGATIVES",
    "SOUNDS",
    "SUPER_CLASSES",
    "Donor",
    "DonorDraw",
    "HeardClips",
    "change_sound",
    "draw_donors",
    "find_donors",
    "prepare_draw",
    "read_class_names",
]
