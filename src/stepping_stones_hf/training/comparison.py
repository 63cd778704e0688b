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
Systems side by side, on the same clips: what is kept of each, their table, and the clips on which they differ. As in
Tables D1 and D2 of the supplement of Stepping Stones, with intervals, and differences paired by video, which the paper
lacks.
"""

import copy
import json
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ..tables import format_table
from .evaluation import FrameScores
from .report import HEADER, LOCALIZATION_FIGURES, SUBSET_NAMES


# What both tasks have, and what only label maps have.
FIGURES = (*LOCALIZATION_FIGURES, "miou_seen")
CONFIDENCE = 0.95


@dataclass
class Measured:
    """
    What a system has done in one task.

    `scores` are the counts of its frames, `parameters` is the number of parameters of all stages that took part, and
    `seconds` how long each clip took, from tensors to masks or label maps. Of masks in a folder neither is known.
    """

    scores: FrameScores
    parameters: int | None = None
    seconds: float | None = None


def save_measured(path: str | os.PathLike, measured: Measured) -> None:
    """Writes the counts of all frames and what else there is into an `.npz` file, from which all figures follow."""
    scores = measured.scores
    checksums, counts = zip(*scores.frames.values())
    about = {
        "num_classes": scores.num_classes,
        "score_rule": scores.options.get("score_rule"),
        "parameters": measured.parameters,
        "seconds": measured.seconds,
        "frames": list(scores.frames),
    }
    np.savez_compressed(
        path,
        about=json.dumps(about),
        checksums=np.array(checksums),
        sizes=np.array([len(frame) for frame in counts]),
        counts=np.frombuffer(b"".join(counts), np.uint8),
    )


def load_measured(path: str | os.PathLike) -> Measured:
    """
    Reads what [`save_measured`] has written.

    Raises:
        `FileNotFoundError`: there is no such file.
        `ValueError`: it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(file["about"].item())
            counts = np.split(file["counts"], file["sizes"].cumsum()[:-1])
            frames = zip(file["checksums"].tolist(), (frame.tobytes() for frame in counts))
    except (EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    options = {} if about["score_rule"] is None else {"score_rule": about["score_rule"]}
    scores = FrameScores(about["num_classes"], **options)
    scores.extend(zip(map(tuple, about["frames"]), frames))
    return Measured(scores, about["parameters"], about["seconds"])


def score_videos(scores: FrameScores) -> dict[tuple[str, str], float]:
    """
    The IoU of each video, by subset and name: of what sounds the mean over frames, as in AVSBench's protocol; of label
    maps the mean over the classes that are true or predicted in the video, of which the pixels of all frames are
    counted. Over all 71 classes a video would score next to nothing.
    """
    frames = {}
    for name, frame in scores.frames.items():
        frames.setdefault(name[:-1], {})[name] = frame
    figure = "miou" if scores.num_classes is None else "miou_star_present"
    videos = {}
    for video in sorted(frames):
        of_video = copy.copy(scores)
        of_video.frames = frames[video]
        videos[video] = of_video.results()[figure]
    return videos


def find_interval(differences: np.ndarray) -> tuple[float, float]:
    """The percentile interval of resampled differences."""
    low, high = np.nanquantile(differences, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def has_one_truth(systems: Iterable[Mapping[str, Measured]]) -> bool:
    """Whether the frames of all systems were scored by the same true masks, by their checksums."""
    truths = {}
    for tasks in systems:
        for task, measured in tasks.items():
            checksums = {name: checksum for name, (checksum, _) in measured.scores.frames.items()}
            if truths.setdefault(task, checksums) != checksums:
                return False
    return True


def compare_systems(systems: Mapping[str, Mapping[str, Measured]]) -> list[dict]:
    """
    Figures of systems, by subset of what sounds (S4, MS3, V2) and of label maps (AVSS).

    Args:
        systems (`Mapping[str, Mapping[str, Measured]]`):
            By the name of a system and by task, `"localization"` or `"semantics"`, what it has done. The others are
            compared with the first system that has done the same.

    Returns:
        `list[dict]`: for each `on` and `system` its figures from 0 to 1, named as in [`~metrics.FrameCounts.results`];
        with `_low` and `_high` the ends of their 95 % intervals, by a bootstrap over videos; `num_videos`;
        `parameters` and `seconds`; and for all but the first system `difference_to`, its name, and `difference_miou`,
        `difference_miou_low`, `difference_miou_high` and so on: differences and their intervals, by resamples of the
        same videos for both.

    Raises:
        `ValueError`: systems were scored on other frames than the first one.
    """
    rows = []
    for on in (*SUBSET_NAMES.values(), "AVSS"):
        subset = {name: key for key, name in SUBSET_NAMES.items()}.get(on)
        task = "localization" if subset else "semantics"
        first = None
        for name, tasks in systems.items():
            if task not in tasks or (subset and subset not in tasks[task].scores.subsets):
                continue
            measured = tasks[task]
            results = measured.scores.results(subset, confidence=CONFIDENCE, resamples=True)
            row = {"on": on, "system": name, "num_videos": results["num_videos"]}
            figures = [figure for figure in FIGURES if figure in LOCALIZATION_FIGURES or task == "semantics"]
            for figure in figures:
                low, high = results["confidence_intervals"][figure]
                row |= {figure: results[figure], f"{figure}_low": low, f"{figure}_high": high}
            row |= {"parameters": measured.parameters, "seconds": measured.seconds}
            if first is None:
                first = name, results, set(measured.scores.frames)
            else:
                if set(measured.scores.frames) != first[2]:
                    raise ValueError(f"{name} was scored on other frames than {first[0]}: they cannot be compared.")
                row["difference_to"] = first[0]
                for figure in figures:
                    ours, theirs = (np.array(of["resamples"][figure]) for of in (results, first[1]))
                    low, high = find_interval(ours - theirs)
                    difference = results[figure] - first[1][figure]
                    row |= {f"difference_{figure}": difference}
                    row |= {f"difference_{figure}_low": low, f"difference_{figure}_high": high}
            rows.append(row)
    return rows


def make_comparison_table(rows: list[dict], printed: Mapping[tuple[str, str], Mapping[str, str]]) -> str:
    """
    The table of a comparison in Markdown, in percent.

    Args:
        rows (`list[dict]`):
            What [`compare_systems`] gives; where some of them also have `g_miou`, `g_fpr` and `gap` with its interval,
            of [`summarize_robustness`], there are columns for these.
        printed (`Mapping[tuple[str, str], Mapping[str, str]]`):
            By `on` and system what was published, in percent, and its `source`. Behind a published figure stands how
            far the measured one is from it, bold where it lies outside of the interval of what was measured.

    Returns:
        `str`: for each system up to three lines: figures with their intervals; differences to the first system, bold
        where their interval is on one side of 0; what was published.
    """

    def mark(text: str, is_marked: bool) -> str:
        return f"**{text}**" if is_marked else text

    def format_difference(row: dict, figure: str) -> str:
        if f"difference_{figure}" not in row:
            return ""
        value, low, high = (100 * row[f"difference_{figure}{end}"] for end in ("", "_low", "_high"))
        return mark(f"{value:+.2f}", low > 0 or high < 0) + f" [{low:+.2f}, {high:+.2f}]"

    def format_printed(row: dict, figure: str, text: str) -> str:
        if not text:
            return ""
        decimals = len(text.partition(".")[2])
        difference = round(100 * row[figure], decimals) - float(text)
        outside = not 100 * row[f"{figure}_low"] <= float(text) <= 100 * row[f"{figure}_high"]
        return f"{text} ({mark(f'{difference:+.{decimals}f}', outside)})"

    header = ["on", "system", *(HEADER[figure] for figure in FIGURES), "parameters (M)", "seconds a clip"]
    listens = any("gap" in row for row in rows)
    header += ["G-mIoU", "FPR", "gap"] if listens else []
    lines = []
    for row in rows:
        figures = [
            f"{100 * row[name]:.2f} [{100 * row[f'{name}_low']:.2f}, {100 * row[f'{name}_high']:.2f}]"
            if name in row
            else ""
            for name in FIGURES
        ]
        parameters = None if row["parameters"] is None else f"{row['parameters'] / 1e6:.2f}"
        listening = format_listening(row) if listens else []
        lines.append([row["on"], row["system"], *figures, parameters, row["seconds"], *listening])
        if "difference_to" in row:
            differences = [format_difference(row, name) for name in FIGURES]
            lines.append(["", f"difference to {row['difference_to']}", *differences, "", "", *[""] * len(listening)])
        published = printed.get((row["on"], row["system"]))
        if published:
            figures = [format_printed(row, name, published.get(name)) for name in FIGURES]
            lines.append(["", f"printed: {published['source']}", *figures, "", "", *[""] * len(listening)])
    return format_table(header, lines)


def format_listening(row: Mapping) -> list[str | None]:
    """Official figures and the gap with its interval, in percent; dashes where no clip was heard with all sounds."""
    if "gap" not in row:
        return [None] * 3
    gap = [None if row[name] is None else 100 * row[name] for name in ("gap", "gap_low", "gap_high")]
    text = None if gap[0] is None else "{:.2f} [{:.2f}, {:.2f}]".format(*gap)
    return [f"{100 * row['g_miou']:.2f}", f"{100 * row['g_fpr']:.2f}", text]


def rank_videos(systems: Mapping[str, FrameScores]) -> list[dict]:
    """
    All videos, those first on which the others are most ahead of the first system, on average; of a single system
    those first that it does best.

    Args:
        systems (`Mapping[str, FrameScores]`):
            The counts of the same frames for each system.

    Returns:
        `list[dict]`: `rank` (from 1), `subset`, `video_id`, `difference`, and for each system `iou_` and its name: see
        [`score_videos`].
    """
    scores = {name: score_videos(of_system) for name, of_system in systems.items()}
    first, *others = scores.values()
    videos = []
    for video, score in first.items():
        difference = np.mean([other[video] for other in others]) - score if others else score
        videos.append((float(difference), video))
    videos.sort(key=lambda item: (-item[0], item[1]))
    return [
        {"rank": rank, "subset": video[0], "video_id": video[1], "difference": difference}
        | {f"iou_{name}": of_system[video] for name, of_system in scores.items()}
        for rank, (difference, video) in enumerate(videos, start=1)
    ]


__all__ = [
    "Measured",
    "compare_systems",
    "has_one_truth",
    "load_measured",
    "make_comparison_table",
    "rank_videos",
    "save_measured",
    "score_videos",
]
