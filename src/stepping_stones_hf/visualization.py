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
"""Pictures of frames, masks and training runs."""

import csv
import os
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .data.labels import CLASS_NAMES, PALETTE


# Colours of stage 1: what sounds is white.
BINARY_PALETTE = np.array([[0, 0, 0], [255, 255, 255]], dtype=np.uint8)


def overlay(
    frame: Image.Image, label_map: np.ndarray, palette: np.ndarray = PALETTE, opacity: float = 0.65
) -> Image.Image:
    """
    A frame with its labelled pixels in their colours.

    Args:
        frame (`PIL.Image.Image`):
            The frame, of any size.
        label_map (`np.ndarray` of shape `(height, width)`):
            Class indices, 0 for background; it is resized to the frame.
        palette (`np.ndarray` of shape `(classes, 3)`, *optional*):
            Colours of the classes, uint8. AVSBench's by default.
        opacity (`float`, *optional*, defaults to 0.65):
            How much of the colour covers the frame.

    Returns:
        `PIL.Image.Image`: RGB, of the frame's size.
    """
    frame = frame.convert("RGB")
    labels = Image.fromarray(np.asarray(label_map).astype(np.uint8)).resize(frame.size, Image.Resampling.NEAREST)
    labels, pixels = np.asarray(labels), np.asarray(frame, dtype=np.float32)
    blended = np.where(labels[..., None] > 0, (1 - opacity) * pixels + opacity * palette[labels], pixels)
    return Image.fromarray(np.round(blended).astype(np.uint8))


def describe(label_map: np.ndarray, names: Sequence[str] = CLASS_NAMES) -> str:
    """The names of the classes in a label map."""
    return ", ".join(names[index] for index in np.unique(label_map) if index) or "silence"


def draw_grid(
    titles: Sequence[str], rows: Sequence[Sequence[tuple[Image.Image, str]]], size: int = 160
) -> Image.Image:
    """
    Pictures side by side, one row for each frame: as in the supplement's Figs. A1 to D7 the frame, the truth and any
    number of methods.

    Args:
        titles (`Sequence[str]`):
            Titles of the columns.
        rows (`Sequence[Sequence[tuple[PIL.Image.Image, str]]]`):
            For each row and column a picture and what is written below it.
        size (`int`, *optional*, defaults to 160):
            Width and height of a picture, in pixels.

    Returns:
        `PIL.Image.Image`.
    """
    font, top, caption, gap = ImageFont.load_default(13), 24, 22, 6
    grid = Image.new("RGB", (len(titles) * (size + gap) + gap, top + len(rows) * (size + caption)), "white")
    draw = ImageDraw.Draw(grid)
    for column, title in enumerate(titles):
        x = gap + column * (size + gap)
        draw.text((x + size // 2, top // 2), title, "black", font, anchor="mm")
        for row, tiles in enumerate(rows):
            picture, text = tiles[column]
            y = top + row * (size + caption)
            grid.paste(picture.convert("RGB").resize((size, size)), (x, y))
            draw.text((x + size // 2, y + size + caption // 2 - 1), text, "black", font, anchor="mm")
    return grid


def plot_curves(logs: Mapping[str, str | os.PathLike], path: str | os.PathLike, smoothing: int = 20) -> None:
    """
    Draws loss and validation score of training runs. Needs matplotlib.

    Args:
        logs (`Mapping[str, str | PathLike]`):
            For each name a log.csv, with the columns `step`, `loss` and `score`.
        path (`str` or `PathLike`):
            The picture to write.
        smoothing (`int`, *optional*, defaults to 20):
            The loss is the mean of so many steps.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots(1, 2)
    for name, log in logs.items():
        with open(log, newline="") as file:
            rows = list(csv.DictReader(file))
        losses = np.array([(float(row["step"]), float(row["loss"])) for row in rows if row["loss"]])
        scores = np.array([(float(row["step"]), float(row["score"])) for row in rows if row["score"]])
        window = min(smoothing, len(losses))
        mean = np.convolve(losses[:, 1], np.ones(window) / window, mode="valid")
        axes[0].plot(losses[window - 1 :, 0], mean, label=name)
        axes[1].plot(scores[:, 0], scores[:, 1], marker="o", label=name)
    for axis, title in zip(axes, ("loss", "validation mIoU")):
        axis.set(xlabel="optimiser step", title=title)
        axis.legend()
    figure.savefig(path, dpi=120)


__all__ = ["BINARY_PALETTE", "describe", "draw_grid", "overlay", "plot_curves"]
