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
"""The 71 classes of AVSBench, their colors, and the way between colors and class indices."""

from functools import cache
from os import PathLike
from typing import Literal

import numpy as np
from PIL import Image

from ..labels import CLASS_NAMES, build_palette


# (71, 3), uint8: row i is the RGB color of class i in AVSBench's `labels_rgb`.
PALETTE = build_palette(len(CLASS_NAMES))


def _color_code(colors: np.ndarray) -> np.ndarray:
    """One number from 0 to 2^24 - 1 for each RGB color `(..., 3)`."""
    red, green, blue = np.moveaxis(colors.astype(np.uint32), -1, 0)
    return red << 16 | green << 8 | blue


@cache
def _index_table() -> np.ndarray:
    """Class index plus 1 for each color code; 0, so that the pages stay untouched, for colors not in the palette."""
    table = np.zeros(2**24, dtype=np.uint8)
    table[_color_code(PALETTE)] = np.arange(1, len(PALETTE) + 1)
    return table


def index_to_color(index_map: np.ndarray | Image.Image) -> np.ndarray:
    """
    Colors a map of class indices as AVSBench does.

    Args:
        index_map (`np.ndarray` or `PIL.Image.Image` of shape `(height, width)`):
            Class indices from 0 to 70.

    Returns:
        `np.ndarray` of shape `(height, width, 3)` and type uint8: RGB.

    Raises:
        `ValueError`: an index is not a class of AVSBench.
    """
    index_map = np.asarray(index_map)
    if index_map.min() < 0 or index_map.max() >= len(PALETTE):
        raise ValueError(
            f"index_map should hold class indices in [0, {len(PALETTE) - 1}], got {index_map.min()} to"
            f" {index_map.max()}."
        )
    return PALETTE[index_map]


def color_to_index(
    color_map: np.ndarray | Image.Image,
    unknown_color: Literal["error", "background"] = "error",
    path: str | PathLike | None = None,
) -> np.ndarray:
    """
    Turns a color map of AVSBench (`labels_rgb`) into class indices: the exact inverse of `index_to_color`.

    Args:
        color_map (`np.ndarray` or `PIL.Image.Image`):
            RGB colors, uint8 `(height, width, 3)`, or an image, which is converted to RGB.
        unknown_color (`"error"` or `"background"`, *optional*, defaults to `"error"`):
            What becomes of colors that are not in the palette, which careless resizing leaves behind: an error, or
            background without a word, as in the released programs.
        path (`str` or `PathLike`, *optional*):
            The file that the error names.

    Returns:
        `np.ndarray` of shape `(height, width)` and type uint8.

    Raises:
        `ValueError`: the map is not RGB, or, unless `unknown_color` is `"background"`, has colors that are not in
        the palette.
    """
    if unknown_color not in ("error", "background"):
        raise ValueError(f'unknown_color should be "error" or "background", got {unknown_color!r}.')
    name = "color_map" if path is None else str(path)
    colors = np.asarray(color_map.convert("RGB") if isinstance(color_map, Image.Image) else color_map)
    if colors.dtype != np.uint8 or colors.ndim != 3 or colors.shape[-1] != 3:
        raise ValueError(
            f"{name} should hold uint8 RGB colors (height, width, 3), got the shape {colors.shape} and the type"
            f" {colors.dtype}."
        )
    index = _index_table()[_color_code(colors)]
    known = index > 0
    if unknown_color == "error" and not known.all():
        unknown_colors, counts = np.unique(colors[~known], axis=0, return_counts=True)
        examples = ", ".join(str(tuple(color)) for color in unknown_colors[:3].tolist())
        raise ValueError(
            f"{name}: {counts.sum()} of {known.size} pixels have colors that are not in AVSBench's palette"
            f" ({len(unknown_colors)} colors, such as {examples}). Was the map resized or saved as JPEG?"
            ' unknown_color="background" takes them for background, as the released programs do.'
        )
    return np.where(known, index - 1, 0).astype(np.uint8)


__all__ = ["CLASS_NAMES", "PALETTE", "color_to_index", "index_to_color"]
