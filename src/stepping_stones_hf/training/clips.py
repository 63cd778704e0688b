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

import io
import os
from collections.abc import Mapping, Sequence

import numpy as np
import soundfile
from torch.utils.data import Dataset

from ..data.media import read_binary_mask
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


def read_truth(clip: dict) -> list[np.ndarray]:
    """What sounds in the annotated frames, each boolean `(height, width)`."""
    sources = [mask["path"] if mask["bytes"] is None else mask["bytes"] for mask in clip["masks"]]
    return [read_binary_mask(source) > 0 for source in sources]


def is_silent(clip: dict) -> bool:
    """Whether nothing sounds in any annotated frame."""
    return not any(mask.any() for mask in read_truth(clip))


__all__ = ["SingleFrames", "WithMasks", "WithSounds", "is_silent", "make_silence", "read_truth"]
