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
"""Pictures of frames, masks, sounds, scores and training runs."""

import csv
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .data.labels import CLASS_NAMES, PALETTE
from .files import write_whole


if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colors of stage 1: what sounds is white.
BINARY_PALETTE = np.array([[0, 0, 0], [255, 255, 255]], dtype=np.uint8)

# What is written on a frame stands on this, RGBA.
VEIL = (0, 0, 0, 160)

# From quiet to loud: evenly lighter and lighter, so that the ramp reads the same in gray. (256, 3), uint8.
LOUDNESS_COLORS = np.stack(
    [
        np.interp(np.arange(256), (0, 64, 128, 192, 255), channel)
        for channel in ((0, 85, 190, 245, 255), (0, 20, 55, 140, 250), (0, 110, 90, 40, 190))
    ],
    axis=1,
).astype(np.uint8)


def _check_labels(label_map: np.ndarray, palette: np.ndarray) -> np.ndarray:
    labels = np.asarray(label_map)
    if labels.ndim != 2 or not labels.size or labels.dtype.kind not in "bui":
        raise ValueError(
            f"label_map should hold integers or booleans (height, width), got the shape {labels.shape} and the type"
            f" {labels.dtype}."
        )
    if labels.min() < 0 or labels.max() >= len(palette):
        raise ValueError(
            f"label_map should hold class indices in [0, {len(palette) - 1}], as the palette has {len(palette)}"
            f" colors, got {labels.min()} to {labels.max()}."
        )
    return labels.astype(np.uint8)


def _color_labels(labels: np.ndarray, size: tuple[int, int], palette: np.ndarray, opacity: float) -> Image.Image:
    """The colors of the labels `(height, width)`, uint8, as RGBA of the size, transparent where the label is 0."""
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity should be in [0, 1], got {opacity}.")
    alpha = np.full(len(palette), round(255 * opacity))
    alpha[0] = 0
    colors = np.column_stack([palette, alpha]).astype(np.uint8)
    labels = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
    return Image.fromarray(colors[np.asarray(labels)])


def overlay(
    frame: Image.Image, label_map: np.ndarray, palette: np.ndarray | None = None, opacity: float = 0.65
) -> Image.Image:
    """
    A frame with its labeled pixels in their colors.

    Args:
        frame (`PIL.Image.Image`):
            The frame, of any size.
        label_map (`np.ndarray` of shape `(height, width)`):
            Class indices, 0 for background; it is resized to the frame.
        palette (`np.ndarray` of shape `(classes, 3)`, *optional*):
            Colors of the classes, uint8. AVSBench's by default.
        opacity (`float`, *optional*, defaults to 0.65):
            How much of the color covers the frame.

    Returns:
        `PIL.Image.Image`: RGB, of the frame's size.

    Raises:
        `ValueError`: the label map is of another shape or type or has indices without a color; opacity is not in
        [0, 1].
    """
    palette = PALETTE if palette is None else palette
    frame = frame.convert("RGB")
    colors = _color_labels(_check_labels(label_map, palette), frame.size, palette, opacity)
    frame.paste(colors, mask=colors)
    return frame


def _name_of(index: int, names: Sequence[str] | Mapping[int, str]) -> str:
    try:
        return names[index]
    except (IndexError, KeyError):
        raise ValueError(f"names should have a name for each class of the label map, {index} has none.") from None


def describe(label_map: np.ndarray, names: Sequence[str] | Mapping[int, str] = CLASS_NAMES) -> str:
    """The names of the classes in a label map."""
    return ", ".join(_name_of(index, names) for index in np.unique(label_map).tolist() if index) or "silence"


def _draw_legend(entries: Sequence[tuple[str, np.ndarray | None]], text_size: int, line_height: int) -> Image.Image:
    """A line for each entry: its color, if it has one, and its name."""
    font, margin = ImageFont.load_default(text_size), text_size // 2
    indent = margin + text_size + margin
    width = indent + math.ceil(max(font.getlength(name) for name, _ in entries)) + margin
    legend = Image.new("RGBA", (width, margin + len(entries) * line_height), VEIL)
    draw = ImageDraw.Draw(legend)
    for row, (name, color) in enumerate(entries):
        y = margin // 2 + row * line_height + line_height // 2
        if color is not None:
            top = y - text_size // 2
            draw.rectangle((margin, top, margin + text_size - 1, top + text_size - 1), (*color, 255), "white")
        draw.text((indent if color is not None else margin, y), name, "white", font, anchor="lm")
    return legend


def _draw_timeline(
    timeline: Sequence[Sequence[int]], num_seconds: float, palette: np.ndarray, size: tuple[int, int], text_size: int
) -> Image.Image:
    """The strip of what sounded when, of the width of the frame and about a quarter of its height at most."""
    if num_seconds is None or not 0 < len(timeline) <= math.ceil(num_seconds):
        raise ValueError(
            f"num_seconds should be the length of the video, which is at least that of the timeline"
            f" ({len(timeline)} seconds), got {num_seconds}."
        )
    rows = list(dict.fromkeys(index for classes in timeline for index in classes))
    unknown = [index for index in rows if not 0 < index < len(palette)]
    if unknown:
        raise ValueError(f"timeline should hold class indices in [1, {len(palette) - 1}], got {unknown[0]}.")
    cells = np.zeros((max(len(rows), 1), math.ceil(num_seconds), 4), dtype=np.uint8)
    for second, classes in enumerate(timeline):
        for index in classes:
            cells[rows.index(index), second] = (*palette[index], 255)
    width, height = size[0], max(1, min(len(cells) * max(2, text_size // 2), size[1] // 4))
    # The last second may be cut short. Where seconds share a pixel, it is as opaque as the share that sounds.
    bars = Image.fromarray(cells).resize((width, height), Image.Resampling.BOX, (0, 0, num_seconds, len(cells)))
    margin, cursor_width = max(1, text_size // 4), max(2, text_size // 6)
    strip = Image.new("RGBA", (width, height + 2 * margin), VEIL)
    strip.alpha_composite(bars, (0, margin))
    cursor = min(round(width * len(timeline) / num_seconds), width - cursor_width)
    strip.paste("white", (cursor, 0, cursor + cursor_width, strip.height))
    return strip


def make_layer(
    size: tuple[int, int],
    label_map: np.ndarray,
    timeline: Sequence[Sequence[int]] = (),
    num_seconds: float | None = None,
    names: Sequence[str] | Mapping[int, str] = CLASS_NAMES,
    palette: np.ndarray | None = None,
    opacity: float = 0.65,
) -> Image.Image:
    """
    What [`blend`] lays over each frame of a second of a video: the labeled pixels in their colors, at the top left a
    legend of the classes in the label map, and at the bottom a strip with a row for each class that has sounded so
    far, over the length of the video, and a cursor where the second ends.

    Args:
        size (`tuple[int, int]`):
            Width and height of the video, in pixels.
        label_map (`np.ndarray` of shape `(height, width)`):
            Class indices, 0 for background; it is resized to the video.
        timeline (`Sequence[Sequence[int]]`, *optional*):
            The classes that sound in each second, up to and with this one. None, no strip.
        num_seconds (`float`, *optional*):
            Length of the video in seconds; needed for the strip.
        names (`Sequence[str]` or `Mapping[int, str]`, *optional*):
            Names of the classes, such as a model's `config.id2label`. AVSBench's by default.
        palette (`np.ndarray` of shape `(classes, 3)`, *optional*):
            Colors of the classes, uint8: `BINARY_PALETTE` for the masks of stage 1. AVSBench's by default.
        opacity (`float`, *optional*, defaults to 0.65):
            How much of the color covers the labeled pixels.

    Returns:
        `PIL.Image.Image`: RGBA, of the size; transparent elsewhere.

    Raises:
        `ValueError`: the label map is of another shape or type; an index has no color or no name; the timeline is
        longer than the video, rounded up to seconds; opacity is not in [0, 1].
    """
    palette = PALETTE if palette is None else palette
    labels = _check_labels(label_map, palette)
    layer = _color_labels(labels, size, palette, opacity)
    # Legible on a small video, of the same share of a large one, upright or not.
    text_size = max(11, round(min(size) / 28))
    line_height = round(1.4 * text_size)
    areas = np.bincount(labels.ravel(), minlength=len(palette))[1:]
    classes = [index + 1 for index in np.argsort(-areas, kind="stable").tolist() if areas[index]]
    if classes:
        max_lines = max(2, size[1] // 2 // line_height)
        shown = classes if len(classes) <= max_lines else classes[: max_lines - 1]
        entries = [(_name_of(index, names), palette[index]) for index in sorted(shown)]
        if len(shown) < len(classes):
            entries.append((f"+ {len(classes) - len(shown)} more", None))
        layer.alpha_composite(_draw_legend(entries, text_size, line_height), (text_size // 2, text_size // 2))
    if timeline:
        strip = _draw_timeline(timeline, num_seconds, palette, size, text_size)
        layer.alpha_composite(strip, (0, size[1] - strip.height))
    return layer


def blend(frame: np.ndarray, layer: Image.Image) -> np.ndarray:
    """
    Lays a layer over a frame: about 1 ms at 640x360.

    Args:
        frame (`np.ndarray` of shape `(height, width, 3)`):
            RGB, uint8.
        layer (`PIL.Image.Image`):
            RGBA, of the frame's size: see [`make_layer`].

    Returns:
        `np.ndarray` of shape `(height, width, 3)`: RGB, uint8, read-only. Where the layer is transparent, the frame.

    Raises:
        `ValueError`: the frame is of another shape or type.
    """
    shape = (layer.height, layer.width, 3)
    if frame.shape != shape or frame.dtype != np.uint8:
        raise ValueError(
            f"frame should be of shape {shape}, as the layer, and uint8, got {frame.shape}, {frame.dtype}."
        )
    image = Image.fromarray(frame)
    image.paste(layer, mask=layer)
    return np.asarray(image)


def _shorten(text: str, font: ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


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
            For each row and column a picture and what is written below it, cut off where it is wider.
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
            text = _shorten(text, font, size)
            draw.text((x + size // 2, y + size + caption // 2 - 1), text, "black", font, anchor="mm")
    return grid


def draw_sound_strip(
    frames: Sequence[Image.Image],
    input_features: np.ndarray,
    label_maps: Sequence[np.ndarray] | None = None,
    palette: np.ndarray | None = None,
    size: int = 160,
) -> Image.Image:
    """
    The frames of a clip in a row and below each the sound of its second, on one axis of time.

    Args:
        frames (`Sequence[PIL.Image.Image]`):
            One a second, of one size.
        input_features (`np.ndarray` of shape `(frames, 96, 64)`):
            Their log-mel patches, of 96 hundredths of a second and 64 bands: time goes to the right, and the lowest
            band is at the bottom. The lightest and the darkest color are the loudest and the quietest of the clip.
        label_maps (`Sequence[np.ndarray]` of shape `(height, width)`, *optional*):
            Class indices, to be laid over the frames: see [`overlay`].
        palette (`np.ndarray` of shape `(classes, 3)`, *optional*):
            Colors of the classes, uint8. AVSBench's by default.
        size (`int`, *optional*, defaults to 160):
            Width of a frame, in pixels.

    Returns:
        `PIL.Image.Image`.

    Raises:
        `ValueError`: the frames, the patches and the label maps differ in number, or the patches are of another shape
        or not finite.
    """
    palette = PALETTE if palette is None else palette
    patches = np.asarray(input_features, dtype=np.float32)
    if patches.ndim != 3 or len(patches) != len(frames) or not len(frames):
        raise ValueError(
            f"input_features should be of shape ({len(frames)}, 96, 64), a patch for each frame, got {patches.shape}."
        )
    if not np.isfinite(patches).all():
        raise ValueError("input_features should be finite, got NaN or infinity.")
    if label_maps is not None:
        if len(label_maps) != len(frames):
            raise ValueError(f"label_maps should be one for each of the {len(frames)} frames, got {len(label_maps)}.")
        frames = [overlay(frame, label_map, palette) for frame, label_map in zip(frames, label_maps)]
    low, high = patches.min(), patches.max()
    levels = np.round(255 * (patches - low) / max(high - low, 1e-6)).astype(np.uint8)
    pictures = LOUDNESS_COLORS[levels.transpose(0, 2, 1)[:, ::-1]]  # (frames, bands from high to low, time, 3)
    # A patch ends 0.04 s before the second does: the gap is to scale.
    gap, frame_height, patch_height = size // 24, round(size * frames[0].height / frames[0].width), size // 2
    strip = Image.new("RGB", (len(frames) * (size + gap) - gap, frame_height + gap + patch_height), "white")
    for index, (frame, picture) in enumerate(zip(frames, pictures)):
        x = index * (size + gap)
        strip.paste(frame.convert("RGB").resize((size, frame_height)), (x, 0))
        picture = Image.fromarray(picture).resize((size, patch_height), Image.Resampling.BOX)
        strip.paste(picture, (x, frame_height + gap))
    return strip


def _save(figure: "Figure", path: str | os.PathLike) -> None:
    with write_whole(path) as (partial_path,):
        figure.savefig(partial_path, dpi=120)


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
        axis.set(xlabel="optimizer step", title=title)
        axis.legend()
    _save(figure, path)


def plot_class_bars(table: str | os.PathLike, path: str | os.PathLike, method: str, subset: str = "all") -> "Figure":
    """
    Draws the IoU of each class by the protocols of AVSBench and CAVP, the best first. Needs matplotlib.

    Args:
        table (`str` or `PathLike`):
            A csv with the columns `method`, `subset`, `name`, `frames`, `iou` and `iou_star`, as `per_class.csv` of an
            evaluation. Classes that are in no frame, neither labeled nor predicted, are left out.
        path (`str` or `PathLike`):
            The picture to write.
        method (`str`):
            Whose figures to draw.
        subset (`str`, *optional*, defaults to `"all"`):
            On which clips: `"S4"`, `"MS3"` or `"V2"` for what sounds, `"all"` for label maps.

    Returns:
        `matplotlib.figure.Figure`.

    Raises:
        `ValueError`: the table lacks a column, or has no figures of the method on the subset.
    """
    from matplotlib.figure import Figure

    with open(table, newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    columns = ("method", "subset", "name", "frames", "iou", "iou_star")
    if not set(columns) <= set(reader.fieldnames or ()):
        raise ValueError(f"{table} should have the columns {', '.join(columns)}, got {reader.fieldnames}.")
    classes = [row for row in rows if (row["method"], row["subset"]) == (method, subset) and row["frames"] != "0"]
    if not classes:
        choices = ", ".join(dict.fromkeys(f"{row['method']!r} on {row['subset']!r}" for row in rows))
        raise ValueError(
            f"{table} has no figures of {method!r} on {subset!r}. It has those of {choices or 'nothing'}."
        )
    classes.sort(key=lambda row: float(row["iou"] or -1), reverse=True)
    figure = Figure(figsize=(7, 1.2 + 0.3 * len(classes)), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(classes))
    for column, offset, label in (("iou", -0.2, "AVSBench's protocol"), ("iou_star", 0.2, "CAVP's protocol")):
        values = [float(row[column] or "nan") for row in classes]
        axes.barh(places + offset, values, height=0.4, label=label)
    # The background of stage 1 has no count.
    labels = [f"{row['name']} ({row['frames']})" if row["frames"] else row["name"] for row in classes]
    axes.set_yticks(places, labels)
    axes.set(xlim=(0, 1), ylim=(len(classes) - 0.5, -0.5), xlabel="IoU", title=f"{method}, {subset}")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2)
    _save(figure, path)
    return figure


__all__ = [
    "BINARY_PALETTE",
    "blend",
    "describe",
    "draw_grid",
    "draw_sound_strip",
    "make_layer",
    "overlay",
    "plot_class_bars",
    "plot_curves",
]
