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
"""Masks of AVSBench, and where a row of a dataset has its pictures and sounds."""

from typing import Literal

import numpy as np

from .. import media
from ..deprecation import warn_of_new_name
from ..media import Source, load_image, name_source, open_image, read_image
from .labels import color_to_index


def get_source(media: dict) -> str | bytes:
    """What to read an image or a sound of a row from, which has it as `bytes` or as the `path` of a file."""
    return media["path"] if media["bytes"] is None else media["bytes"]


def read_color_map(source: Source) -> np.ndarray:
    """A mask of AVSBench-semantic, `(height, width, 3)` uint8. Errors as `read_image`."""
    return np.asarray(read_image(source))


def read_semantic_mask(source: Source, unknown_color: Literal["error", "background"] = "error") -> np.ndarray:
    """Class indices `(height, width)`, uint8, of a mask of AVSBench-semantic. Errors as `read_image` and
    [`color_to_index`]."""
    return color_to_index(read_color_map(source), unknown_color, path=name_source(source))


def read_binary_mask(source: Source) -> np.ndarray:
    """0 and 1 `(height, width)`, uint8, of a mask of AVSBench-object: 1 wherever its pixel is not 0, in 1-bit, gray,
    palette or RGB images. Errors as `read_image`."""
    image = load_image(open_image(source), source)
    pixels = np.asarray(image.convert("RGB") if image.mode in ("RGBA", "LA", "CMYK") else image)
    return ((pixels != 0).any(axis=-1) if pixels.ndim == 3 else pixels != 0).astype(np.uint8)


def __getattr__(name: str):
    if name not in ("check_image", "check_png", "read_audio", "read_image", "to_rgb"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_of_new_name(f"{__name__}.{name}", f"{media.__name__}.{name}")
    return getattr(media, name)


__all__ = ["get_source", "read_binary_mask", "read_color_map", "read_semantic_mask"]
