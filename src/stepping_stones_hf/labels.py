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
"""The labels of AVSBench, and the colors of their indices."""

import numpy as np


# Alphabetical but for the background; the position is the class index. AVSBench's label2idx.json counts from 1.
CLASS_NAMES = (
    "background",
    "accordion",
    "airplane",
    "axe",
    "baby",
    "bassoon",
    "bell",
    "bird",
    "boat",
    "boy",
    "bus",
    "car",
    "cat",
    "cello",
    "clarinet",
    "clipper",
    "clock",
    "dog",
    "donkey",
    "drum",
    "duck",
    "elephant",
    "emergency-car",
    "erhu",
    "flute",
    "frying-food",
    "girl",
    "goose",
    "guitar",
    "gun",
    "guzheng",
    "hair-dryer",
    "handpan",
    "harmonica",
    "harp",
    "helicopter",
    "hen",
    "horse",
    "keyboard",
    "leopard",
    "lion",
    "man",
    "marimba",
    "missile-rocket",
    "motorcycle",
    "mower",
    "parrot",
    "piano",
    "pig",
    "pipa",
    "saw",
    "saxophone",
    "sheep",
    "sitar",
    "sorna",
    "squirrel",
    "tabla",
    "tank",
    "tiger",
    "tractor",
    "train",
    "trombone",
    "truck",
    "trumpet",
    "tuba",
    "ukulele",
    "utv",
    "vacuum-cleaner",
    "violin",
    "wolf",
    "woman",
)

# Of localizers, models of S4, MS3 and stage 1.
LOCALIZER_LABELS = ("background", "sounding")


def build_palette(num_colors: int) -> np.ndarray:
    """
    The PASCAL VOC color map, with which AVSBench draws its classes.

    The index gives its bits in rounds of three, from the lowest on, to red, green and blue; the first round sets the
    highest bit of each channel, every other round the bit below.

    Args:
        num_colors (`int`):
            Number of colors, at most 256.

    Returns:
        `np.ndarray` of shape `(num_colors, 3)` and type uint8: row `i` is the RGB color of index `i`.
    """
    bits = (np.arange(num_colors)[:, None, None] >> np.arange(24).reshape(8, 3)) & 1  # (colors, rounds, RGB)
    return (bits << np.arange(7, -1, -1)[:, None]).sum(axis=1).astype(np.uint8)


# A color for each value that an 8-bit segmentation map can hold.
VOC_PALETTE = build_palette(256)


__all__ = ["CLASS_NAMES", "LOCALIZER_LABELS", "VOC_PALETTE", "build_palette"]
