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
"""A video in, the same video with masks, legend and timeline out; masks and timeline as files too."""

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from .models.aavs.image_processing_pil_aavs import VOC_PALETTE
from .pipelines import AudioVisualSegmentationPipeline
from .video import Source, check_output, read_info, write_painted
from .visualization import BINARY_PALETTE, blend, make_layer


def segment_video(
    segment: AudioVisualSegmentationPipeline,
    video: Source,
    output: str | os.PathLike | None = None,
    masks_dir: str | os.PathLike | None = None,
    json_path: str | os.PathLike | None = None,
    sound: Source | None = None,
    fps: float | None = None,
    batch_size: int = 1,
    disable_progress_bar: bool = True,
) -> list[dict]:
    """
    Segments a video and writes what is asked for; each file is there once it is whole, and all of them or none. Long
    videos take no more memory than short ones.

    Args:
        segment ([`AudioVisualSegmentationPipeline`]):
            The models.
        video (`str`, `PathLike` or `bytes`):
            A video file, or its content.
        output (`str` or `PathLike`, *optional*):
            The painted video, .mp4, .mov or .mkv: see [`~stepping_stones_hf.video.write_painted`].
        masks_dir (`str` or `PathLike`, *optional*):
            A new folder for the label maps, `00000.png` for the first second and so on, of the video's size: 8-bit
            indices with a palette.
        json_path (`str` or `PathLike`, *optional*):
            A file for size, rate and length of the video, and what this function returns, as `timeline`.
        sound (`str`, `PathLike` or `bytes`, *optional*):
            A file whose sound takes the place of the video's own, or `"silence"`.
        fps (`float`, *optional*):
            Frames per second of the painted video. By default those of the video.
        batch_size (`int`, *optional*, defaults to 1):
            Seconds that pass through the models at a time.
        disable_progress_bar (`bool`, *optional*, defaults to `True`):
            Whether to show no progress bar.

    Returns:
        `list[dict]`: for each second **second** and **classes**, as [`AudioVisualSegmentationPipeline`] gives them.

    Raises:
        `FileNotFoundError`, `ValueError`: as [`AudioVisualSegmentationPipeline`] and
        [`~stepping_stones_hf.video.write_painted`]; or `masks_dir` exists.
        `OSError`: something cannot be written.
    """
    info = read_info(video)
    if output is not None:
        check_output(video, Path(output))
    if masks_dir is not None and Path(masks_dir).exists():
        raise ValueError(f"{masks_dir} exists already: choose a new folder for the masks.")
    if json_path is not None and not Path(json_path).parent.is_dir():
        raise FileNotFoundError(f"{Path(json_path).parent}, the folder for {Path(json_path).name}, does not exist.")

    names = segment.model.config.id2label
    palette = BINARY_PALETTE if len(names) == 2 else VOC_PALETTE
    partial_masks = None if masks_dir is None else partial_of(masks_dir)
    bar = tqdm(total=max(1, math.floor(info.seconds + 0.5)), unit="s", disable=disable_progress_bar)
    timeline, layer = [], None

    def next_second(results: Iterator[dict]) -> bool:
        nonlocal layer
        result = next(results, None)
        if result is None:
            return False
        timeline.append({"second": result["second"], "classes": result["classes"]})
        if output is not None:
            sounding = [[found["label_id"] for found in row["classes"]] for row in timeline]
            length = max(info.seconds, len(timeline) - 0.5)
            layer = make_layer((info.width, info.height), result["label_map"], sounding, length, names, palette)
        if partial_masks is not None:
            write_indices(partial_masks / f"{result['second']:05d}.png", result["label_map"], palette)
        bar.update()
        return True

    def paint(frame: np.ndarray, moment: float) -> np.ndarray:
        # What is left of a last second that does not count looks as the one before.
        while len(timeline) <= moment and next_second(results):
            pass
        return blend(frame, layer)

    try:
        if partial_masks is not None:
            partial_masks.mkdir(parents=True)
        results = segment.iterate(video, sound=sound, label_maps="array", batch_size=batch_size)
        if output is not None:
            write_painted(video, output, paint, sound, fps)
        while next_second(results):
            pass
        if json_path is not None:
            summary = {"width": info.width, "height": info.height, "fps": float(info.fps), "seconds": info.seconds}
            partial_json = partial_of(json_path)
            partial_json.write_text(json.dumps(summary | {"timeline": timeline}, indent=2) + "\n")
            partial_json.replace(json_path)
        if partial_masks is not None:
            partial_masks.rename(masks_dir)
    finally:
        bar.close()
        if partial_masks is not None:
            shutil.rmtree(partial_masks, ignore_errors=True)
    return timeline


def partial_of(path: str | os.PathLike) -> Path:
    return Path(path).with_name(f".{Path(path).name}.{os.getpid()}.partial")


def write_indices(path: Path, label_map: np.ndarray, palette: np.ndarray) -> None:
    image = Image.fromarray(label_map)
    image.putpalette(palette.tobytes())
    image.save(path)


def describe_timeline(timeline: list[dict]) -> list[str]:
    """A line for each class that sounds: its name and when, in seconds, as in `dog 2-5, 7-8`."""
    spans = {}
    for row in timeline:
        for found in row["classes"]:
            intervals = spans.setdefault(found["label"], [])
            if intervals and intervals[-1][1] == row["second"]:
                intervals[-1][1] += 1
            else:
                intervals.append([row["second"], row["second"] + 1])
    return [f"{name} {', '.join(f'{start}-{end}' for start, end in times)}" for name, times in spans.items()]


__all__ = ["describe_timeline", "segment_video"]
