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
"""Clips, and views of the rows that [`AVSCollator.prepare`] gives: other prompts, other sounds, frame by frame."""

import hashlib
import io
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import datasets
import numpy as np
import soundfile
from scipy.optimize import linear_sum_assignment
from torch.utils.data import Dataset

from ..data.avsbench import load_avsbench
from ..data.layout import Config
from ..data.media import get_source, read_binary_mask
from ..media import MAX_PEAK, read_audio
from .mask_store import mask_path


# Columns with an entry for each annotated frame.
MASK_COLUMNS = ("masks", "color_masks", "semantic_masks")
# What noise and off-screen sounds are at least, where a clip is silent.
MIN_LOUDNESS = 1e-3


def load_clips(
    data_dir: str | os.PathLike,
    config: Config,
    split: str | None = None,
    unknown_color: Literal["error", "background"] = "error",
) -> datasets.Dataset | datasets.DatasetDict:
    """A copy of AVSBench, as [`load_avsbench`] reads it, or its export to Parquet."""
    if any(Path(data_dir, config).glob("*.parquet")):
        return datasets.load_dataset(str(data_dir), config, split=split)
    return load_avsbench(config, data_dir, split, unknown_color=unknown_color)


class View(Dataset):
    """Clips of which something is changed when one is read: not how many there are, nor which frames are annotated."""

    def __init__(self, clips: Sequence[dict]):
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)


def read_column(clips: Sequence[dict], name: str) -> list:
    """A column of what [`AVSCollator.prepare`] returns, or of views of it, without reading the other columns."""
    while isinstance(clips, View):
        clips = clips.clips
    return clips.tables.with_format(None)[name][:]


class SingleFrames(Dataset):
    """
    Every annotated frame as a clip of its own, with the sound of its second: for models that look at single frames, so
    that they can be shuffled freely.
    """

    def __init__(self, clips: Sequence[dict]):
        self.clips = clips
        self.frames = [
            (index, position)
            for index, annotated in enumerate(read_column(clips, "mask_frame_indices"))
            for position in range(len(annotated))
        ]

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, item: int) -> dict:
        index, position = self.frames[item]
        clip = self.clips[index]
        masks = {name: [clip[name][position]] for name in MASK_COLUMNS if clip.get(name)}
        return {**clip, **masks, "mask_frame_indices": [clip["mask_frame_indices"][position]]}


class WithMasks(View):
    """Clips with the masks of a store, as the column `stage1_masks`."""

    def __init__(self, clips: Sequence[dict], store: str | os.PathLike):
        super().__init__(clips)
        self.store = store

    def __getitem__(self, index: int) -> dict:
        clip = self.clips[index]
        names = [(clip["subset"], clip["video_id"], frame) for frame in range(clip["num_frames"])]
        return {**clip, "stage1_masks": [{"bytes": None, "path": str(mask_path(self.store, *name))} for name in names]}


class WithSounds(View):
    """Clips with the sounds of others, each with that of the one at its place."""

    def __init__(self, clips: Sequence[dict], others: Sequence[dict]):
        super().__init__(clips)
        self.others = others

    def __getitem__(self, index: int) -> dict:
        return {**self.clips[index], "audio": self.others[index]["audio"]}


def get_loudness(waveform: np.ndarray, sampling_rate: int, seconds: int) -> float:
    """The root mean square of a sound `(channels, samples)`, its channels averaged, over its first seconds."""
    return float(np.sqrt(np.mean(waveform.mean(axis=0)[: seconds * sampling_rate] ** 2)))


def measure_loudness(clip: dict) -> float:
    """[`get_loudness`] of a clip's sound over the seconds of its frames."""
    return get_loudness(*read_audio(get_source(clip["audio"])), clip["num_frames"])


def encode_sound(waveform: np.ndarray, sampling_rate: int) -> dict:
    """A sound `(samples,)` or `(samples, channels)` as a file in memory. Its peaks may lie beyond 1."""
    file = io.BytesIO()
    # A WAV file of floats says when it was made, and the same sound would be another one to the cache of features.
    soundfile.write(file, waveform, sampling_rate, format="W64", subtype="FLOAT")
    return {"bytes": file.getvalue(), "path": None}


def take_sound(clip: dict, other: dict) -> dict:
    """A clip with the sound of another one, made as loud as its own."""
    waveform, sampling_rate = read_audio(get_source(other["audio"]))
    loudness = get_loudness(waveform, sampling_rate, other["num_frames"])
    gain = max(measure_loudness(clip), MIN_LOUDNESS) / loudness
    # A click in a sound that is all but silent would become so loud that it is not taken for a sound.
    gain = min(gain, MAX_PEAK / np.abs(waveform).max())
    return {**clip, "audio": encode_sound(gain * waveform.T, sampling_rate)}


class WithOffscreenSounds(WithSounds):
    """Clips with the sounds of others, each with that of the one at its place, made as loud as its own."""

    def __getitem__(self, index: int) -> dict:
        return take_sound(self.clips[index], self.others[index])


def take_silence(clip: dict) -> dict:
    """A clip with silence in place of its sound."""
    return {**clip, "audio": make_silence(clip["num_frames"])}


class WithSilence(View):
    """Clips with silence in place of their sound."""

    def __getitem__(self, index: int) -> dict:
        return take_silence(self.clips[index])


@cache
def make_silence(seconds: int, sampling_rate: int = 16_000) -> dict:
    """A sound file of zeros, as `bytes`."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(seconds * sampling_rate, dtype=np.int16), sampling_rate, format="WAV")
    return {"bytes": file.getvalue(), "path": None}


def draw_noise(clip: dict, seed: int, num_samples: int) -> np.ndarray:
    """White noise `(num_samples,)` as loud as a clip's sound, at least 0.001, drawn from the seed and its name."""
    loudness = max(measure_loudness(clip), MIN_LOUDNESS)
    name = f"{seed}/{clip['subset']}/{clip['video_id']}"
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()))
    return loudness * generator.standard_normal(num_samples)


def take_noise(clip: dict, seed: int, sampling_rate: int = 16_000) -> dict:
    """A clip with white noise in place of its sound: see [`WithNoise`]."""
    noise = draw_noise(clip, seed, clip["num_frames"] * sampling_rate)
    return {**clip, "audio": encode_sound(noise, sampling_rate)}


class WithNoise(View):
    """
    Clips with white noise in place of their sound, as loud as it (the same root mean square, at least 0.001) and drawn
    from the seed and the clip's name.
    """

    def __init__(self, clips: Sequence[dict], seed: int, sampling_rate: int = 16_000):
        super().__init__(clips)
        self.seed, self.sampling_rate = seed, sampling_rate

    def __getitem__(self, index: int) -> dict:
        return take_noise(self.clips[index], self.seed, self.sampling_rate)


class WithAddedNoise(View):
    """Clips with white noise over their sound, as loud as it: the two together are 3 dB louder."""

    def __init__(self, clips: Sequence[dict], seed: int):
        super().__init__(clips)
        self.seed = seed

    def __getitem__(self, index: int) -> dict:
        clip = self.clips[index]
        waveform, sampling_rate = read_audio(get_source(clip["audio"]))
        noise = draw_noise(clip, self.seed, waveform.shape[1])
        return {**clip, "audio": encode_sound((waveform + noise).T, sampling_rate)}


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


def shuffle_sounds(subsets: Sequence[str], classes: Sequence[set], seed: int) -> tuple[list[int], list[int]]:
    """
    Finds for each clip another one of its subset whose sound it may be given, each sound for one clip.

    Args:
        subsets (`Sequence[str]`):
            The subset of each clip.
        classes (`Sequence[set]`):
            What sounds in each clip. The two clips have none of them in common; clips that find no such partner are
            left out, as few as can be.
        seed (`int`):
            What the choice is drawn from.

    Returns:
        `tuple[list[int], list[int]]`: indices of clips, rising, and of their partners. There may be none.
    """
    random = np.random.default_rng(seed)
    partners = {}
    for subset in sorted(set(subsets)):
        members = [index for index, other in enumerate(subsets) if other == subset]
        shared = np.array([[a == b or not classes[a].isdisjoint(classes[b]) for b in members] for a in members])
        # A pair that is not allowed costs more than all that are allowed.
        cost = random.random(shared.shape) + len(members) * shared
        for clip, other in zip(*linear_sum_assignment(cost)):
            if not shared[clip, other]:
                partners[members[clip]] = members[other]
    indices = sorted(partners)
    return indices, [partners[index] for index in indices]


def read_truth(clip: dict) -> list[np.ndarray]:
    """What sounds in the annotated frames, each boolean `(height, width)`."""
    return [read_binary_mask(get_source(mask)) > 0 for mask in clip["masks"]]


def is_silent(clip: dict) -> bool:
    """Whether nothing sounds in any annotated frame."""
    return not any(mask.any() for mask in read_truth(clip))


__all__ = [
    "SingleFrames",
    "View",
    "WithAddedNoise",
    "WithMasks",
    "WithNoise",
    "WithOffscreenSounds",
    "WithSilence",
    "WithSounds",
    "is_silent",
    "load_clips",
    "make_silence",
    "measure_loudness",
    "read_classes",
    "read_column",
    "read_truth",
    "shuffle_sounds",
    "take_noise",
    "take_silence",
    "take_sound",
]
