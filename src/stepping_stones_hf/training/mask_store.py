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
The masks of a localizer as files, which stage 2 is prompted with: `<subset>/<video_id>/<frame>.png`, 8-bit
gray, as the released program has them, and a manifest that says whose masks of what they are.
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from ..files import complete_folder, partial_folder


MANIFEST_NAME = "manifest.json"
WAY_OUT = "Remove the folder: what has written it writes it again."


@dataclass(frozen=True)
class Manifest:
    """
    What the masks of a store were made from.

    `localizer` names the localizer ([`name_model`]) and `localizer_hash` is the hash of its weights and config
    ([`hash_model_folder`]); `data_fingerprint` is that of the clips ([`fingerprint_clips`]), `num_frames` the number
    of masks. They are 1 where what sounds has more than the share `threshold` of the score; without a threshold, soft,
    they are that share. `scores` is what the binary metric says of the masks, by subset. With a `sound_threshold` they
    are empty where the sound goes with what is seen by a smaller probability.
    """

    localizer: str
    localizer_hash: str
    data_fingerprint: str
    num_frames: int
    threshold: float | None
    scores: dict
    sound_threshold: float | None = None


def name_model(folder: str | os.PathLike) -> str:
    """The name of a model: `name@revision` where its folder is in the cache of the Hub, else the folder."""
    folder = Path(folder).as_posix()
    cached = re.search(r"models--([^/]+)/snapshots/([^/]+)(/.+)?$", folder)
    return folder if cached is None else f"{cached[1].replace('--', '/')}@{cached[2]}{cached[3] or ''}"


def hash_files(folder: str | os.PathLike, *patterns: str) -> str:
    """The hash of the names and contents of the files of a folder that any of the patterns names."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in Path(folder).glob(pattern)):
        digest.update(path.relative_to(folder).as_posix().encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def hash_model_folder(folder: str | os.PathLike) -> str:
    """The hash of the config, processor and weights that `save_pretrained` wrote into a folder."""
    return hash_files(folder, "*.json", "*.safetensors")


def hash_masks(folder: str | os.PathLike) -> str:
    """The hash of the masks of a folder."""
    return hash_files(folder, "*/*/*.png")


def fingerprint_clips(clips: datasets.Dataset) -> str:
    """
    The fingerprint of clips: a hash of their subsets, names and numbers of frames, and of the sizes in bytes of the
    files of each frame and sound. It is the same on every machine, for a copy of AVSBench and for its export to
    Parquet, whatever the order of the clips.

    It notices clips that are missing, added or renamed, and other frames or sounds by their sizes. No file is read: it
    does not notice one that was replaced by another of the same size, as a sound of the same length in an uncompressed
    format may be. The annotation, true masks and categories, is no part of it: no mask is predicted from that.
    """
    lines = []
    columns = clips.select_columns(["subset", "video_id", "num_frames", "frames", "audio"]).with_format("arrow")
    for table in columns.iter(1000):
        frame_sizes = iter(file_sizes(pc.list_flatten(table["frames"])))
        counts = pc.list_value_length(table["frames"]).to_pylist()
        names = zip(*(table[name].to_pylist() for name in ("subset", "video_id", "num_frames")))
        for name, count, sound_size in zip(names, counts, file_sizes(table["audio"])):
            lines.append(json.dumps([*name, *islice(frame_sizes, count), sound_size]))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def file_sizes(media: pa.ChunkedArray) -> list[int]:
    """Sizes of images or sounds, which have their `bytes` or the `path` of a file."""
    lengths = pc.binary_length(pc.struct_field(media, "bytes")).to_pylist()
    paths = pc.struct_field(media, "path").to_pylist()
    return [os.path.getsize(path) if length is None else length for length, path in zip(lengths, paths)]


def mask_path(folder: str | os.PathLike, subset: str, video_id: str, frame: int) -> Path:
    """Where a store has the mask of a frame."""
    return Path(folder) / subset / video_id / f"{frame}.png"


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Writes a mask `(height, width)`, boolean or with values from 0 to 1, as 8-bit gray."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.round(mask * 255.0).astype(np.uint8)).save(path)


def complete_store(folder: str | os.PathLike, manifest: Manifest) -> None:
    """Turns the masks in the [`~stepping_stones_hf.files.partial_folder`] into a store, in place of an older one."""
    (partial_folder(folder) / MANIFEST_NAME).write_text(json.dumps(asdict(manifest), indent=2) + "\n")
    complete_folder(folder)


def check_store(folder: str | os.PathLike, clips: datasets.Dataset, localizer_hash: str | None = None) -> Manifest:
    """
    Makes sure that a store holds the masks of given clips.

    Args:
        folder (`str` or `PathLike`):
            The store.
        clips (`datasets.Dataset`):
            The clips that need masks, all of one split.
        localizer_hash (`str`, *optional*):
            The hash of the localizer that the masks should come from.

    Returns:
        `Manifest`.

    Raises:
        `FileNotFoundError`: there is no manifest, so the store is incomplete.
        `ValueError`: the masks are those of another localizer, or of other clips: see [`fingerprint_clips`]; or some
        are missing.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: {folder} is not a complete mask store. {WAY_OUT}")
    try:
        manifest = Manifest(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not the manifest of a mask store: {error}. {WAY_OUT}") from error
    if localizer_hash is not None and manifest.localizer_hash != localizer_hash:
        raise ValueError(
            f"The masks in {folder} come from another localizer: {manifest.localizer} with the hash"
            f" {manifest.localizer_hash[:12]}, expected {localizer_hash[:12]}. {WAY_OUT}"
        )
    fingerprint = fingerprint_clips(clips)
    if manifest.data_fingerprint != fingerprint:
        raise ValueError(
            f"The masks in {folder} ({manifest.num_frames} frames) belong to other clips than those of this data, by"
            f" their names or the sizes of their files (fingerprint {manifest.data_fingerprint[:12]}, expected"
            f" {fingerprint[:12]}). {WAY_OUT}"
        )
    num_masks = sum(1 for _ in Path(folder).glob("*/*/*.png"))
    if num_masks != manifest.num_frames:
        raise ValueError(f"{folder} has {num_masks} masks, and {manifest.num_frames} by its manifest. {WAY_OUT}")
    return manifest


__all__ = [
    "Manifest",
    "check_store",
    "complete_store",
    "fingerprint_clips",
    "hash_masks",
    "hash_model_folder",
    "mask_path",
    "name_model",
    "write_mask",
]
