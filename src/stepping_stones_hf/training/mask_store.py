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
The masks of a first stage as files, which the second stage is prompted with: `<subset>/<video_id>/<frame>.png`, 8-bit
gray, as the released program has them, and a manifest that says whose masks of what they are.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image


MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """
    What the masks of a store were made from.

    `localizer` names the first stage and `localizer_hash` is the hash of its weights and config
    ([`hash_model_folder`]); `clips_hash` is that of the clips ([`hash_clips`]), `num_frames` the number of masks.
    `soft` masks hold the share of the score that sounds, others 1 where it is the larger one. `scores` is what the
    binary metric says of the masks, by subset.
    """

    localizer: str
    localizer_hash: str
    clips_hash: str
    num_frames: int
    soft: bool
    scores: dict


def hash_model_folder(folder: str | os.PathLike) -> str:
    """The hash of the config, processor and weights that `save_pretrained` wrote into a folder."""
    digest = hashlib.sha256()
    for path in sorted([*Path(folder).glob("*.json"), *Path(folder).glob("*.safetensors")]):
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def hash_clips(clips: Iterable[Mapping]) -> str:
    """The hash of which clips there are, with how many frames; their order does not matter."""
    names = sorted(f"{clip['subset']}/{clip['video_id']}/{clip['num_frames']}" for clip in clips)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


def mask_path(folder: str | os.PathLike, subset: str, video_id: str, frame: int) -> Path:
    """Where a store has the mask of a frame."""
    return Path(folder) / subset / video_id / f"{frame}.png"


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Writes a mask `(height, width)`, boolean or with values from 0 to 1, as 8-bit gray."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.round(mask * 255.0).astype(np.uint8)).save(path)


def partial_store(folder: str | os.PathLike) -> Path:
    """The folder beside a store that its masks are written into."""
    return Path(folder).with_name(f".{Path(folder).name}.partial")


def begin_store(folder: str | os.PathLike) -> None:
    """Makes the partial store, empty: what a killed run has left there goes."""
    shutil.rmtree(partial_store(folder), ignore_errors=True)
    partial_store(folder).mkdir(parents=True)


def complete_store(folder: str | os.PathLike, manifest: Manifest) -> None:
    """Turns the partial store into a store, in place of an older one."""
    partial = partial_store(folder)
    (partial / MANIFEST_NAME).write_text(json.dumps(asdict(manifest), indent=2) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def check_store(folder: str | os.PathLike, clips: Iterable[Mapping], localizer_hash: str | None = None) -> Manifest:
    """
    Makes sure that a store holds the masks of given clips.

    Args:
        folder (`str` or `PathLike`):
            The store.
        clips (iterable of mappings with `subset`, `video_id` and `num_frames`):
            The clips that need masks, all of one split.
        localizer_hash (`str`, *optional*):
            The hash of the first stage that the masks should come from.

    Returns:
        `Manifest`.

    Raises:
        `FileNotFoundError`: there is no manifest, so the store is incomplete.
        `ValueError`: the masks are those of another first stage, or of other clips.
    """
    path = Path(folder) / MANIFEST_NAME
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: {folder} is not a complete mask store. Write it again.")
    try:
        manifest = Manifest(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not the manifest of a mask store: {error}.") from error
    if localizer_hash is not None and manifest.localizer_hash != localizer_hash:
        raise ValueError(
            f"The masks in {folder} come from another first stage: {manifest.localizer} with the hash"
            f" {manifest.localizer_hash[:12]}, expected {localizer_hash[:12]}. Write the store again."
        )
    clips_hash = hash_clips(clips)
    if manifest.clips_hash != clips_hash:
        raise ValueError(
            f"The masks in {folder} ({manifest.num_frames} frames) belong to other clips than those of this data"
            f" (hash {manifest.clips_hash[:12]}, expected {clips_hash[:12]}). Write the store again."
        )
    return manifest


__all__ = [
    "Manifest",
    "begin_store",
    "check_store",
    "complete_store",
    "hash_clips",
    "hash_model_folder",
    "mask_path",
    "partial_store",
    "write_mask",
]
