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
"""Folders of videos: each is segmented once, whatever ends the run, and one that fails does not stop the rest."""

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm.auto import tqdm

from .files import begin_folder, complete_folder, partial_folder, write_text
from .media import Source
from .pipelines import AudioVisualSegmentationPipeline
from .segment_video import segment_video
from .tables import format_table, write_csv
from .training.checkpoints import find_changes, lock_run


# What is a video in a folder that has other files too. A file that is named may have any suffix.
SUFFIXES = (
    ".3gp",
    ".avi",
    ".flv",
    ".m4v",
    ".mkv",
    ".mov",
    ".mp4",
    ".mpeg",
    ".mpg",
    ".mts",
    ".ogv",
    ".ts",
    ".webm",
    ".wmv",
)

# What can be written of a video, and how it is called in the video's folder.
OUTPUTS = {"video": "segmented.mp4", "masks": "masks", "timeline": "timeline.json"}

# Which videos failed, in the folder of the outputs.
FAILURES = "failures.csv"


def find_videos(inputs: Sequence[str | os.PathLike], output_dir: str | os.PathLike) -> dict[str, Path]:
    """
    The videos of folders, at any depth, and files.

    Args:
        inputs (`Sequence[str | PathLike]`):
            The folders, in which files are known by their suffixes and hidden ones are left out, and files of any
            suffix.
        output_dir (`str` or `PathLike`):
            Where their outputs will be.

    Returns:
        `dict[str, Path]`: the files in the order of their names, by which their outputs are known: paths from the
        given folder, or from the folder of a given file.

    Raises:
        `ValueError`: there is no video in a folder; two videos have the same name; or the outputs would lie among the
        videos of a folder.
    """
    videos = {}
    for given in map(Path, inputs):
        found = [given]
        if given.is_dir():
            if Path(output_dir).resolve().is_relative_to(given.resolve()):
                raise ValueError(
                    f"{output_dir}, the folder for the outputs, lies in {given}, whose videos are segmented: choose"
                    " another one."
                )
            found = [path for path in sorted(given.rglob("*")) if path.suffix.lower() in SUFFIXES and path.is_file()]
            found = [path for path in found if not any(part[0] == "." for part in path.relative_to(given).parts)]
            if not found:
                raise ValueError(f"{given} has no videos, by their suffixes: {', '.join(SUFFIXES)}.")
        for path in found:
            name = str(path.relative_to(given if given.is_dir() else given.parent))
            if videos.setdefault(name, path).resolve() != path.resolve():
                raise ValueError(f"{videos[name]} and {path} have the same name: segment the folder that both are in.")
    return dict(sorted(videos.items()))


@contextmanager
def open_corpus(
    output_dir: str | os.PathLike, inputs: Sequence[str | os.PathLike], outputs: Sequence[str], **settings
) -> Iterator[None]:
    """
    Keeps the folder of the outputs to one run while the block lasts, and to one kind of outputs for good: `run.json`
    has what they are made with.

    Args:
        output_dir (`str` or `PathLike`):
            The folder, which is made where there is none.
        inputs (`Sequence[str | PathLike]`), outputs (`Sequence[str]`):
            As for [`find_videos`] and [`segment_videos`].
        settings:
            All else that the outputs depend on, as JSON can hold it.

    Raises:
        `ValueError`: another run has the folder; its outputs were made of other videos or with other settings; or it
        has files that no run has left there.
    """
    folders = {path if path.is_dir() else path.parent for path in map(Path, inputs)}
    arguments = {"folders": sorted(str(folder.resolve()) for folder in folders), "outputs": sorted(outputs)} | settings
    path = Path(output_dir, "run.json")
    with lock_run(output_dir):
        there = [other for other in path.parent.iterdir() if not other.name.startswith(".")]
        begun = any(other.name not in (path.name, FAILURES) for other in there)
        if begun and not path.exists():
            raise ValueError(f"{output_dir} has other files already: choose a new folder for the outputs.")
        changes = find_changes(path, arguments) if begun else {}
        if changes:
            raise ValueError(
                f"{output_dir} has the outputs of another run: {', '.join(changes)} differ"
                f" ({', '.join(map(str, changes.values()))} there). Choose another folder for the outputs."
            )
        write_text(path, json.dumps(arguments, indent=2))
        yield


def segment_videos(
    segment: AudioVisualSegmentationPipeline,
    videos: Mapping[str, Path],
    output_dir: str | os.PathLike,
    outputs: Sequence[str] = tuple(OUTPUTS),
    audio: Source | None = None,
    fps: float | None = None,
    batch_size: int = 1,
    disable_progress_bar: bool = True,
) -> list[dict[str, str]]:
    """
    Segments videos one after the other. The outputs of each are a folder with the name of the video, `segmented.mp4`,
    `masks/` and `timeline.json`, which appears once all of it is whole. Videos whose folder is there are left out.

    Args:
        segment ([`AudioVisualSegmentationPipeline`]):
            The models.
        videos (`Mapping[str, Path]`):
            Files by their names, as [`find_videos`] gives them.
        output_dir (`str` or `PathLike`):
            The folder for the outputs.
        outputs (`Sequence[str]`, *optional*, defaults to `("video", "masks", "timeline")`):
            What is written of each video.
        audio (`str`, `PathLike` or `bytes`, *optional*), fps (`float`, *optional*), batch_size (`int`, *optional*):
            As for [`~stepping_stones_hf.segment_video.segment_video`].
        disable_progress_bar (`bool`, *optional*, defaults to `True`):
            Whether to show no progress bar.

    Returns:
        `list[dict[str, str]]`: of each video that failed its name, **video**, and the **reason**, a line.
    """
    failures = []
    pending = {name: video for name, video in videos.items() if not Path(output_dir, name).exists()}
    for name, video in tqdm(pending.items(), unit="video", disable=disable_progress_bar):
        folder = Path(output_dir, name)
        try:
            partial = begin_folder(folder)
            # In the order of the arguments of `segment_video`.
            paths = [partial / OUTPUTS[kind] if kind in outputs else None for kind in OUTPUTS]
            segment_video(segment, video, *paths, audio=audio, fps=fps, batch_size=batch_size)
            complete_folder(folder)
        except Exception as error:  # whatever it is, it is of one video
            reason = (str(error) or type(error).__name__).splitlines()[0]
            if not isinstance(error, (ValueError, OSError)):
                reason = f"{type(error).__name__}: {reason}"
            failures.append({"video": name, "reason": reason})
            tqdm.write(f"{name}: {reason}", file=sys.stderr)
        finally:
            shutil.rmtree(partial_folder(folder), ignore_errors=True)
    return failures


def report_failures(
    output_dir: str | os.PathLike, videos: Mapping[str, Path], failures: Sequence[Mapping[str, str]]
) -> None:
    """Prints how many videos were segmented, and which failed and why: `failures.csv` in the folder of the outputs."""
    path = Path(output_dir, FAILURES)
    print(f"{len(videos) - len(failures)} of {len(videos)} videos are segmented in {output_dir}.")
    path.unlink(missing_ok=True)  # that of a run before this one
    if failures:
        write_csv(failures, path)
        print(f"{len(failures)} failed ({path}); the same command tries them again.\n")
        print(format_table(["video", "reason"], [failure.values() for failure in failures]))


__all__ = ["OUTPUTS", "find_videos", "open_corpus", "report_failures", "segment_videos"]
