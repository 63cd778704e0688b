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
"""Log-mel patches kept on disk: computing them takes longer than everything else that is done to a sound."""

import functools
import hashlib
import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from transformers import SequenceFeatureExtractor

from .. import __version__
from ..files import write_whole
from ..media import name_source, read_audio
from .media import get_source


class AudioFeatureCache:
    """
    Computes the input features of sounds and keeps them in files, whose names are hashes of the sound's content, of
    the feature extractor's settings and of this library's version: what has changed is computed again. Any number of
    processes can share a folder.

    Args:
        feature_extractor ([`VGGishFeatureExtractor`]):
            Computes the features.
        cache_dir (`str` or `PathLike`, *optional*):
            Folder for the files, made when it is needed. Without it nothing is kept.

    Raises:
        `ValueError`: `cache_dir` is a file.
    """

    def __init__(self, feature_extractor: SequenceFeatureExtractor, cache_dir: str | os.PathLike | None = None):
        self.feature_extractor = feature_extractor
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        if self.cache_dir is not None and self.cache_dir.is_file():
            raise ValueError(f"cache_dir should be a folder, {cache_dir} is a file.")
        settings = f"{__version__} {feature_extractor.to_json_string()}"
        self.settings_hash = hashlib.sha256(settings.encode()).hexdigest()[:16]

    def __call__(self, audio: dict, num_patches: int) -> np.ndarray:
        """
        Args:
            audio (`dict`):
                `bytes` or `path` of a sound file, as in the column `audio` of [`load_avsbench`].
            num_patches (`int`):
                How many patches: the number of the clip's frames.

        Returns:
            `np.ndarray` of shape `(num_patches, 96, 64)` and type float32.

        Raises:
            `FileNotFoundError`, `ValueError`: as `read_audio` and the feature extractor; or the file of the cache is
            damaged.
        """
        source = get_source(audio)
        if self.cache_dir is None:
            return self.compute(source, num_patches)
        name = f"{hash_bytes(source) if isinstance(source, bytes) else hash_unchanged_file(source)}.safetensors"
        path = self.cache_dir / f"{self.settings_hash}-{num_patches}" / name[:2] / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            features = self.compute(source, num_patches)
            with write_whole(path) as (partial,):
                save_file({"input_features": features}, partial)
        try:
            return load_file(path)["input_features"]
        except SafetensorError as error:
            raise ValueError(f"{path}, a file of the cache, is damaged: {error}. Remove it.") from error

    def compute(self, source: str | bytes, num_patches: int) -> np.ndarray:
        waveform, sampling_rate = read_audio(source)
        try:
            features = self.feature_extractor(waveform, sampling_rate=sampling_rate, num_patches=num_patches)
        except ValueError as error:
            raise ValueError(f"{name_source(source)}: {error}") from error
        return features["input_features"]


def hash_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def hash_unchanged_file(path: str) -> str:
    """The hash of a file's content; the file is read again only if its size or time has changed."""
    status = os.stat(path)
    return _hash_file(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _hash_file(path: str, size: int, modified: int) -> str:
    return hash_bytes(Path(path).read_bytes())


__all__ = ["AudioFeatureCache"]
