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
Examines a copy of AVSBench, for which no checksum was published: what is missing, damaged or unusual. No file is
changed.

An error is what [`load_avsbench`] refuses to read, with its default arguments, or the VGGish feature extractor to
hear; everything else is a warning or, where nothing need be done, an info.
"""

import math
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from datasets.utils import tqdm

from ..media import MIN_COMMON_FACTOR, check_image, check_png, read_audio
from . import layout
from .labels import CLASS_NAMES, color_to_index
from .layout import Clip, Config, Metadata, find_metadata, find_root, is_semantic, read_metadata
from .media import read_binary_mask, read_color_map


# Clips in train, validation and test.
PUBLISHED_COUNTS = {"v1s": (3452, 740, 740), "v1m": (296, 64, 64), "v2": (4750, 500, 750)}
# Height and width of the frames of v1s and v1m; those of v2 keep their video's size.
V1_FRAME_SIZE = (224, 224)
# One patch of VGGish, 96 windows of 25 ms that begin every 10 ms: its feature extractor refuses shorter sounds.
MIN_AUDIO_SECONDS = 0.975
AUDIO_TOLERANCE_SECONDS = 0.5

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True)
class Finding:
    """Something about a file or folder; `subset` and `video_id` are `None` where it concerns no single one of them."""

    severity: Severity
    subset: str | None
    video_id: str | None
    path: Path
    message: str

    def __str__(self) -> str:
        clip = "/".join(name for name in (self.subset, self.video_id) if name is not None)
        return ": ".join(part for part in (self.severity, clip, self.message) if part)


@dataclass(frozen=True)
class SplitSummary:
    """
    One split of a subset as the csv file `path` has it: clips found and published, clips whose files have errors, and
    what could be read: sampling rate in hertz -> number of sounds, `"<width>x<height>"` -> number of frames.
    """

    path: Path
    subset: str
    split: str
    found: int
    published: int
    with_errors: int
    sampling_rates: dict[int, int]
    frame_sizes: dict[str, int]


@dataclass(frozen=True)
class Diagnosis:
    """What [`diagnose`] saw. As text: a line for each finding, each of which names its file, and then the summary."""

    summary: tuple[SplitSummary, ...]
    findings: tuple[Finding, ...]

    def count(self, severity: Severity) -> int:
        """How many findings have a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def __str__(self) -> str:
        row_format = "{:<17} {:<6} {:<10} {:>6} {:>9} {:>11}".format
        lines = [str(finding) for finding in self.findings]
        lines.append(row_format("metadata", "subset", "split", "found", "published", "with errors"))
        rates, sizes = Counter(), Counter()
        for row in self.summary:
            cells = (row.path.name, row.subset, row.split, row.found, row.published, row.with_errors)
            lines.append(row_format(*cells))
            rates.update({f"{rate} Hz": count for rate, count in row.sampling_rates.items()})
            sizes.update(row.frame_sizes)
        lines.append(f"sampling rates: {show_histogram(rates)}; frame sizes: {show_histogram(sizes)}")
        lines.append(f"errors: {self.count('error')}, warnings: {self.count('warning')}, infos: {self.count('info')}")
        return "\n".join(lines)


@dataclass
class ClipReport:
    """What the files of one clip showed; `frame_sizes` holds height and width by the frame's index."""

    clip: Clip
    findings: list[Finding] = field(default_factory=list)
    frame_sizes: dict[int, tuple[int, int]] = field(default_factory=dict)
    sampling_rate: int | None = None

    @property
    def usual_size(self) -> tuple[int, int]:
        """Height and width of most frames; there has to be one."""
        return Counter(self.frame_sizes.values()).most_common(1)[0][0]

    def add(self, severity: Severity, path: Path, message: str) -> None:
        self.findings.append(Finding(severity, self.clip.subset, self.clip.video_id, path, message))

    @contextmanager
    def reading(self, path: Path) -> Iterator[None]:
        """What keeps `path` from being read becomes a finding; the other files of the clip are still read."""
        try:
            yield
        except (ValueError, OSError) as error:
            self.add("error", path, str(error))


def show_size(size: tuple[int, int]) -> str:
    """(height, width) -> "<width>x<height>", as image viewers have it."""
    return f"{size[1]}x{size[0]}"


def show_histogram(counts: Counter, limit: int = 5) -> str:
    bars = [f"{value} ({count})" for value, count in counts.most_common(limit)]
    if len(counts) > limit:
        bars.append(f"{len(counts) - limit} others")
    return ", ".join(bars) or "none"


def check_clip(clip: Clip, semantic: bool) -> ClipReport:
    report = ClipReport(clip)
    check_frames(report)
    check_masks(report, semantic)
    check_audio(report)
    return report


def check_frames(report: ClipReport) -> None:
    clip, sizes = report.clip, report.frame_sizes
    for index in clip.frame_indices:
        with report.reading(clip.frame_path(index)):
            sizes[index] = check_image(clip.find_frame(index))
    if not sizes:
        return
    if len(clip.frame_indices) < clip.num_frames:
        path = clip.frame_path(0).parent
        report.add(
            "warning",
            path,
            f"{path} has no frame but the annotated one, which models that see single frames train on.",
        )
    usual = report.usual_size
    for index, size in sizes.items():
        if size != usual:
            path = clip.frame_path(index)
            message = f"{path} has {show_size(size)} pixels, most frames of the clip have {show_size(usual)}."
            report.add("warning", path, message)


def check_masks(report: ClipReport, semantic: bool) -> None:
    clip = report.clip
    classes = set()
    for index, (path, frame_index) in enumerate(zip(clip.mask_paths, clip.mask_frame_indices)):
        with report.reading(path):
            clip.find_mask(index)
            mask = read_known_colors(report, path) if semantic else read_binary_mask(path)
            check_png(path)
            if semantic:
                # Several times faster than np.unique.
                classes.update(np.flatnonzero(np.bincount(mask.ravel())).tolist())
            frame_size = report.frame_sizes.get(frame_index, mask.shape)
            if mask.shape != frame_size:
                message = f"{path} has {show_size(mask.shape)} pixels, its frame has {show_size(frame_size)}."
                report.add("error", path, message)
    unnamed = [CLASS_NAMES[index] for index in sorted(classes - {0}) if CLASS_NAMES[index] not in clip.categories]
    if unnamed:
        path = clip.mask_paths[0].parent
        message = f"{path}: masks have {', '.join(unnamed)}, a_obj names {', '.join(clip.categories) or 'no class'}."
        report.add("warning", path, message)


def read_known_colors(report: ClipReport, path: Path) -> np.ndarray:
    """Class indices; other colors are reported, and background from there on."""
    colors = read_color_map(path)
    try:
        return color_to_index(colors, path=path)
    except ValueError as error:
        report.add("error", path, str(error))
        return color_to_index(colors, unknown_color="background")


def check_audio(report: ClipReport) -> None:
    path = report.clip.audio_path
    with report.reading(path):
        waveform, report.sampling_rate = read_audio(report.clip.find_audio())
        seconds, expected = waveform.shape[1] / report.sampling_rate, report.clip.num_frames
        if seconds < MIN_AUDIO_SECONDS:
            message = f"{path} has {seconds:.3f} s of sound, VGGish needs {MIN_AUDIO_SECONDS} s. Pad it with silence."
            report.add("error", path, message)
        elif abs(seconds - expected) > AUDIO_TOLERANCE_SECONDS:
            report.add("warning", path, f"{path} has {seconds:.2f} s of sound for a clip of {expected} s.")
        if math.gcd(report.sampling_rate, 16_000) < MIN_COMMON_FACTOR:
            message = (
                f"{path} has a sampling rate of {report.sampling_rate} Hz, which shares few factors with the 16000 Hz"
                " that VGGish hears: each reading takes seconds. Resample it to 16000 Hz once."
            )
            report.add("warning", path, message)


def check_frame_sizes(metadata_path: Path, reports: list[ClipReport]) -> list[Finding]:
    """One finding for each split of v1s and v1m: copies that were made smaller would have one for every clip."""
    groups: dict[tuple[str, str], list[ClipReport]] = {}
    for report in reports:
        if report.clip.subset != "v2" and report.frame_sizes:
            groups.setdefault((report.clip.subset, report.clip.split), []).append(report)
    findings = []
    for (subset, split), group in groups.items():
        sizes = Counter(show_size(report.usual_size) for report in group if report.usual_size != V1_FRAME_SIZE)
        if sizes:
            message = (
                f"{metadata_path}: {sizes.total()} of {len(group)} clips of {subset} for {split} have frames of"
                f" {show_histogram(sizes)} pixels, published ones have {show_size(V1_FRAME_SIZE)}."
            )
            findings.append(Finding("warning", subset, None, metadata_path, message))
    return findings


def find_all_metadata(data_dir: Path) -> dict[Path, Config]:
    """The csv files of all layouts in a folder, or the one given, and for each the configuration with all its rows."""
    if data_dir.is_file():
        candidates = [data_dir]
    else:
        candidates = [data_dir / layout.SEMANTIC_METADATA]
        for folder, name, _ in layout.OBJECT_METADATA.values():
            candidates += [data_dir / folder / name, data_dir / name]
    configs: dict[str, Config] = {name: config for config, (_, name, _) in layout.OBJECT_METADATA.items()}
    found = {path: configs.get(path.name, "avss") for path in candidates if path.is_file()}
    if not found:
        names = ", ".join(str(path.relative_to(data_dir)) for path in candidates)
        raise FileNotFoundError(f"{data_dir} has none of {names}. Pass the folder of AVSBench that has one of them.")
    return found


def check_folder(data_dir: Path) -> list[Finding]:
    """Of two layouts in one folder each is checked, but the folder's name alone does not say which one to load."""
    findings = []
    for config in layout.CONFIG_SUBSETS:
        try:
            find_metadata(data_dir, config)
        except FileNotFoundError:
            continue
        except ValueError as error:
            findings.append(Finding("warning", None, None, data_dir, str(error)))
    return findings


def check_rows(path: Path, metadata: Metadata) -> list[Finding]:
    findings = []
    indices_path = path.with_name("label2idx.json")
    if is_semantic(path) and not indices_path.exists():
        message = f"{indices_path} does not exist. load_avsbench does without; is this copy complete?"
        findings.append(Finding("warning", None, None, indices_path, message))
    if not metadata.clips:
        findings.append(Finding("error", None, None, path, f"{path} has no clip that can be used."))
    for severity, issues in (("error", metadata.errors), ("info", metadata.remarks)):
        for issue in issues:
            message = f"{path}, line {issue.line}: {issue.message}"
            findings.append(Finding(severity, issue.subset, issue.video_id, path, message))
    splits = {}
    for clip in metadata.clips:
        splits.setdefault((clip.subset, clip.video_id), []).append(clip.split)
    for (subset, video_id), names in splits.items():
        if len(names) > 1:
            message = f"{path} has {len(names)} rows for this clip ({', '.join(names)})."
            findings.append(Finding("warning", subset, video_id, path, message))
    return findings


def summarize(metadata_path: Path, config: Config, reports: list[ClipReport]) -> list[SplitSummary]:
    summary = []
    for subset in layout.CONFIG_SUBSETS[config]:
        for split, published in zip(layout.SPLITS.values(), PUBLISHED_COUNTS[subset]):
            group = [report for report in reports if (report.clip.subset, report.clip.split) == (subset, split)]
            errors = sum(any(finding.severity == "error" for finding in report.findings) for report in group)
            rates = Counter(report.sampling_rate for report in group if report.sampling_rate is not None)
            sizes = Counter(show_size(size) for report in group for size in report.frame_sizes.values())
            summary.append(
                SplitSummary(metadata_path, subset, split, len(group), published, errors, dict(rates), dict(sizes))
            )
    return summary


def check_counts(summary: list[SplitSummary]) -> list[Finding]:
    findings = []
    for row in summary:
        if row.found != row.published:
            message = f"{row.path}: {row.found} clips of {row.subset} for {row.split}, as published {row.published}."
            findings.append(Finding("warning", row.subset, None, row.path, message))
    return findings


def diagnose(
    data_dir: str | os.PathLike, num_threads: int | None = None, allow_outside_links: bool = False
) -> Diagnosis:
    """
    Examines every file of a copy of AVSBench, in either published layout or both, without changing any.

    Args:
        data_dir (`str` or `PathLike`):
            The copy's root folder, or the csv file in it.
        num_threads (`int`, *optional*):
            How many clips are read at a time. By default what `ThreadPoolExecutor` takes for this machine.
        allow_outside_links (`bool`, *optional*, defaults to `False`):
            Whether files may be links to files outside the folder of the csv file, as in [`load_avsbench`].

    Returns:
        `Diagnosis`. Files of a clip are read one by one, so that a clip with several damages has several findings.

    Raises:
        `FileNotFoundError`: the folder does not exist or has no csv file of AVSBench.
    """
    data_dir = find_root(data_dir)
    summary, findings = [], check_folder(data_dir)
    for path, config in find_all_metadata(data_dir).items():
        try:
            metadata = read_metadata(path, config, allow_outside_links)
        except (ValueError, OSError) as error:
            findings.append(Finding("error", None, None, path, f"{error} Clips of {path} were not examined."))
            continue
        findings += check_rows(path, metadata)
        # Repeated rows were reported; their files need not be read twice.
        clips = list(dict.fromkeys(metadata.clips))
        with ThreadPoolExecutor(num_threads) as executor:
            reports = executor.map(partial(check_clip, semantic=is_semantic(path)), clips)
            reports = list(tqdm(reports, total=len(clips), desc=path.name, unit="clip"))
        findings += [finding for report in reports for finding in report.findings]
        findings += check_frame_sizes(path, reports)
        rows = summarize(path, config, reports)
        findings += check_counts(rows)
        summary += rows
    return Diagnosis(tuple(summary), tuple(findings))


__all__ = ["Diagnosis", "Finding", "SplitSummary", "diagnose"]
