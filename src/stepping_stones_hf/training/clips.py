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
"""Views of clips, the rows that [`AVSCollator.prepare`] gives: other prompts, other sounds, frame by frame."""

import hashlib
import io
import os
from collections.abc import Mapping, Sequence

import datasets
import numpy as np
import soundfile
from scipy.optimize import linear_sum_assignment
from torch.utils.data import Dataset

from ..data.media import get_source, read_audio, read_binary_mask
from .mask_store import mask_path


# Columns with an entry for each annotated frame.
MASK_COLUMNS = ("masks", "color_masks", "semantic_masks")


class SingleFrames(Dataset):
    """
    Every annotated frame as a clip of its own, with the sound of its second: AAVS looks at frames one by one, so that
    they can be shuffled freely.
    """

    def __init__(self, clips: Sequence[dict]):
        self.clips = clips
        self.frames = [
            (index, position) for index in range(len(clips)) for position in range(len(clips[index]["masks"]))
        ]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, item: int) -> dict:
        index, position = self.frames[item]
        clip = self.clips[index]
        masks = {name: [clip[name][position]] for name in MASK_COLUMNS if name in clip}
        return {**clip, **masks, "mask_frame_indices": [clip["mask_frame_indices"][position]]}


class WithMasks(Dataset):
    """Clips with the masks of a store, as the column `stage1_masks`."""

    def __init__(self, clips: Sequence[dict], store: str | os.PathLike):
        self.clips, self.store = clips, store

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict:
        clip = self.clips[index]
        names = [(clip["subset"], clip["video_id"], frame) for frame in range(clip["num_frames"])]
        return {**clip, "stage1_masks": [{"bytes": None, "path": str(mask_path(self.store, *name))} for name in names]}


class WithSounds(Dataset):
    """Clips with other sounds, by subset and video: `bytes` or `path` of a sound file. Others are left out."""

    def __init__(self, clips: Sequence[dict], sounds: Mapping[tuple[str, str], dict]):
        names = [(clip["subset"], clip["video_id"]) for clip in (clips[index] for index in range(len(clips)))]
        self.clips, self.sounds = clips, sounds
        self.indices = [index for index, name in enumerate(names) if name in sounds]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict:
        clip = self.clips[self.indices[index]]
        return {**clip, "audio": self.sounds[clip["subset"], clip["video_id"]]}


def make_silence(clips: Sequence[dict], sampling_rate: int = 16_000) -> dict[tuple[str, str], dict]:
    """For [`WithSounds`]: for each clip a sound file of zeros, as long as the clip."""
    files = {}
    for seconds in {clips[index]["num_frames"] for index in range(len(clips))}:
        file = io.BytesIO()
        soundfile.write(file, np.zeros(seconds * sampling_rate, dtype=np.int16), sampling_rate, format="WAV")
        files[seconds] = {"bytes": file.getvalue(), "path": None}
    rows = (clips[index] for index in range(len(clips)))
    return {(row["subset"], row["video_id"]): files[row["num_frames"]] for row in rows}


class WithNoise(Dataset):
    """
    Clips with white noise in place of their sound, as loud as it (the same root mean square) and drawn from the seed
    and the clip's name.
    """

    def __init__(self, clips: Sequence[dict], seed: int, sampling_rate: int = 16_000):
        self.clips, self.seed, self.sampling_rate = clips, seed, sampling_rate

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict:
        clip = self.clips[index]
        waveform, _ = read_audio(get_source(clip["audio"]))
        loudness = np.sqrt(np.mean(waveform.mean(axis=0) ** 2))
        name = f"{self.seed}/{clip['subset']}/{clip['video_id']}"
        generator = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()))
        noise = loudness * generator.standard_normal(clip["num_frames"] * self.sampling_rate)
        file = io.BytesIO()
        # Floating point: the peaks of noise may lie beyond 1.
        soundfile.write(file, noise, self.sampling_rate, format="WAV", subtype="FLOAT")
        return {**clip, "audio": {"bytes": file.getvalue(), "path": None}}


def read_classes(clips: datasets.Dataset) -> list[set[int]]:
    """
    What sounds in each clip of a dataset, as class indices: what its masks show and its metadata name. Of MS3 of
    AVSBench-object neither is known: all sets are empty.
    """
    classes = [set(categories) for categories in clips["categories"]]
    if "color_masks" in clips.column_names:
        column = "semantic_masks" if "semantic_masks" in clips.column_names else "masks"
        for sounding, row in zip(classes, clips.select_columns([column])):
            sounding.update(*(np.unique(mask).tolist() for mask in row[column]))
            sounding.discard(0)
    return classes


def shuffle_sounds(clips: Sequence[dict], classes: Sequence[set], seed: int) -> dict[tuple[str, str], dict]:
    """
    For [`WithSounds`]: for each clip the sound of another one of its subset, each sound for one clip.

    Args:
        clips (`Sequence[dict]`):
            What [`AVSCollator.prepare`] returns.
        classes (`Sequence[set]`):
            What sounds in each clip. The two clips have none of them in common; clips that find no such partner are
            left out, as few as can be.
        seed (`int`):
            What the choice is drawn from.
    """
    rows = [clips[index] for index in range(len(clips))]
    random = np.random.default_rng(seed)
    sounds = {}
    for subset in sorted({row["subset"] for row in rows}):
        members = [index for index, row in enumerate(rows) if row["subset"] == subset]
        shared = np.array([[a == b or not classes[a].isdisjoint(classes[b]) for b in members] for a in members])
        # A pair that is not allowed costs more than all that are allowed.
        cost = random.random(shared.shape) + len(members) * shared
        for clip, other in zip(*linear_sum_assignment(cost)):
            if not shared[clip, other]:
                row = rows[members[clip]]
                sounds[row["subset"], row["video_id"]] = rows[members[other]]["audio"]
    return sounds


def read_truth(clip: dict) -> list[np.ndarray]:
    """What sounds in the annotated frames, each boolean `(height, width)`."""
    return [read_binary_mask(get_source(mask)) > 0 for mask in clip["masks"]]


def is_silent(clip: dict) -> bool:
    """Whether nothing sounds in any annotated frame."""
    return not any(mask.any() for mask in read_truth(clip))


__all__ = [
    "SingleFrames",
    "WithMasks",
    "WithNoise",
    "WithSounds",
    "is_silent",
    "make_silence",
    "read_classes",
    "read_truth",
    "shuffle_sounds",
]
