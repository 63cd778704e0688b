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
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from .deprecation import rename_arguments
from .files import write_whole
from .labels import VOC_PALETTE
from .media import Source
from .pipelines import AudioVisualSegmentationPipeline
from .video import (
    VideoInfo,
    check_fps,
    check_new_file,
    check_output,
    is_silence,
    read_ahead,
    read_info,
    read_sound,
    write_annotated,
)
from .visualization import BINARY_PALETTE, blend, make_layer


@rename_arguments(sound="audio")
def segment_video(
    segment: AudioVisualSegmentationPipeline,
    video: Source,
    output: str | os.PathLike | None = None,
    masks_dir: str | os.PathLike | None = None,
    json_path: str | os.PathLike | None = None,
    audio: Source | None = None,
    fps: float | None = None,
    batch_size: int = 1,
    disable_progress_bar: bool = True,
) -> list[dict]:
    """
    Segments a video and writes what is asked for, which is there once all of it is whole. Long videos take no more
    memory than short ones.

    The models run in a thread of their own, which `torch.autocast` around the call does not reach: for half precision
    give the pipeline a `dtype`.

    Args:
        segment ([`AudioVisualSegmentationPipeline`]):
            The models.
        video (`str`, `PathLike` or `bytes`):
            A video file, or its content.
        output (`str` or `PathLike`, *optional*):
            The annotated video, .mp4, .mov or .mkv: see [`~stepping_stones_hf.video.write_annotated`].
        masks_dir (`str` or `PathLike`, *optional*):
            A new folder for the label maps, `00000.png` for the first second and so on, of the video's size: 8-bit
            indices with a palette.
        json_path (`str` or `PathLike`, *optional*):
            A file for size, rate and length of the video, and what this function returns, as `timeline`.
        audio (`str`, `PathLike` or `bytes`, *optional*):
            A file whose sound takes the place of the video's own, or `"silence"`.
        fps (`float`, *optional*):
            Frames per second of the annotated video. By default those of the video.
        batch_size (`int`, *optional*, defaults to 1):
            Seconds that pass through the models at a time.
        disable_progress_bar (`bool`, *optional*, defaults to `True`):
            Whether to show no progress bar.

    Returns:
        `list[dict]`: for each second **second** and **classes**, as [`AudioVisualSegmentationPipeline`] gives them.

    Raises:
        `FileNotFoundError`, `ValueError`: as [`AudioVisualSegmentationPipeline`] and
        [`~stepping_stones_hf.video.write_annotated`]; `masks_dir` exists, or a file is to be written that is read.
        `OSError`: something cannot be written.
    """
    output, masks_dir, json_path = (None if path is None else Path(path) for path in (output, masks_dir, json_path))
    info = check_files(video, output, masks_dir, json_path, audio, fps)

    # The folder first: it alone can refuse its name, if another process has made it in the meantime.
    wanted = [path for path in (masks_dir, json_path, output) if path is not None]
    bar = tqdm(total=max(1, math.floor(info.seconds + 0.5)), unit="s", disable=disable_progress_bar)
    # While frames are painted and written the models work on the seconds to come.
    results = segment.iterate(video, audio=audio, label_maps="array", batch_size=batch_size)
    results = read_ahead(results, batch_size + 1)
    with bar, closing(results), write_whole(*wanted) as partials:
        written = dict(zip(wanted, partials))
        if masks_dir is not None:
            written[masks_dir].mkdir()
        painter = Painter(results, info, segment.model.config.id2label, written.get(masks_dir), bar)
        if output is not None:
            write_annotated(video, written[output], painter.paint, audio, fps)
        while painter.next_second():
            pass
        if json_path is not None:
            summary = {"width": info.width, "height": info.height, "fps": float(info.fps), "seconds": info.seconds}
            written[json_path].write_text(json.dumps(summary | {"timeline": painter.timeline}, indent=2) + "\n")
    return painter.timeline


def check_files(
    video: Source,
    output: Path | None,
    masks_dir: Path | None,
    json_path: Path | None,
    audio: Source | None,
    fps: float | None,
) -> VideoInfo:
    """What [`segment_video`] refuses before it begins."""
    if output is not None:
        check_output(output, video, audio)
    if json_path is not None:
        check_new_file(json_path, video, audio, output)
    if masks_dir is not None and (masks_dir.exists() or not masks_dir.parent.is_dir()):
        raise ValueError(f"{masks_dir} exists already, or its parent does not: choose a new folder for the masks.")
    check_fps(fps)
    info = read_info(video)
    check_sound(video if audio is None else audio)
    return info


def check_sound(audio: Source) -> None:
    """Refuses what has no sound that can be read."""
    if not is_silence(audio):
        next(read_sound(audio))


class Painter:
    """Takes the results of a video's seconds as they are due, keeps them, and paints frames with them."""

    def __init__(self, results: Iterator[dict], info: VideoInfo, names: dict, masks_dir: Path | None, bar: tqdm):
        self.results, self.info, self.names, self.masks_dir, self.bar = results, info, names, masks_dir, bar
        self.palette = BINARY_PALETTE if len(names) == 2 else VOC_PALETTE
        self.timeline, self.sounding = [], []  # seconds until now, and their classes
        self.label_map, self.layer = None, None  # of the last one

    def next_second(self) -> bool:
        """Whether there was another one."""
        result = next(self.results, None)
        if result is None:
            return False
        self.timeline.append({"second": result["second"], "classes": result["classes"]})
        self.sounding.append([found["label_id"] for found in result["classes"]])
        self.label_map, self.layer = result["label_map"], None
        if self.masks_dir is not None:
            write_indices(self.masks_dir / f"{result['second']:05d}.png", self.label_map, self.palette)
        self.bar.update()
        return True

    def paint(self, frame: np.ndarray, moment: float) -> np.ndarray:
        # What is left of a last second that does not count looks like the one before.
        while len(self.timeline) <= moment and self.next_second():
            pass
        if self.layer is None:
            size, length = (self.info.width, self.info.height), max(self.info.seconds, len(self.timeline) - 0.5)
            self.layer = make_layer(size, self.label_map, self.sounding, length, self.names, self.palette)
        return blend(frame, self.layer)


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
