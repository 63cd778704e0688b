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
The two published layouts of AVSBench: which clips a copy names, and in which files their frames, masks and sound are.

*AVSBench-semantic* has one `metadata.csv` for all subsets and color maps of 71 classes; *AVSBench-object* has S4
(`Single-source`) and MS3 (`Multi-sources`) with binary masks. Only csv and json files are read here.
"""

import csv
import json
import os
import re
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .labels import CLASS_NAMES


Config = Literal["s4", "ms3", "avss"]
CONFIG_SUBSETS = {"s4": ("v1s",), "ms3": ("v1m",), "avss": ("v1s", "v1m", "v2")}
# Seconds of a clip, which is also its number of frames: frame t belongs to second t of the sound.
NUM_FRAMES = {"v1s": 5, "v1m": 5, "v2": 10}
SPLITS = {"train": "train", "val": "validation", "test": "test"}

SEMANTIC_METADATA = "metadata.csv"
# The folder of the archive, which some copies lack, the csv file in it and the folder of the media beside that.
OBJECT_METADATA = {
    "s4": ("Single-source", "s4_meta_data.csv", "s4_data"),
    "ms3": ("Multi-sources", "ms3_meta_data.csv", "ms3_data"),
}

FRAME_SUFFIXES = (".jpg", ".png", ".jpeg", ".JPG", ".PNG", ".JPEG")
# Entries of `a_obj` that no class stands for: 27 published rows say "off-the-screen".
NOT_CLASSES = ("background", "off-the-screen")


@dataclass(frozen=True)
class Clip:
    """
    A row of the metadata and the files that belong to it, which need not exist.

    `frame_stems` are the paths of the frames without suffix; `mask_paths` has a path for each of
    `mask_frame_indices`. All files should be in `root`, also when links are followed, unless `root` is None.
    """

    root: Path | None
    subset: str
    video_id: str
    split: str
    categories: tuple[str, ...]
    frame_stems: tuple[Path, ...]
    mask_paths: tuple[Path, ...]
    mask_frame_indices: tuple[int, ...]
    audio_path: Path
    raw_video_path: Path | None = None
    # What is to be seen, whether it sounds or not, and what sounds unseen: the real sets do not say.
    visible: tuple[str, ...] | None = None
    off_screen: tuple[str, ...] | None = None

    def __str__(self) -> str:
        return f"{self.subset}/{self.video_id}"

    @property
    def num_frames(self) -> int:
        return len(self.frame_stems)

    @property
    def frame_indices(self) -> tuple[int, ...]:
        """Which frames there should be: all, or where a copy has none but the annotated ones, these."""
        others = set(range(self.num_frames)).difference(self.mask_frame_indices)
        if others and not any(os.path.exists(self.frame_path(index)) for index in others):
            return self.mask_frame_indices
        return tuple(range(self.num_frames))

    def frame_path(self, index: int) -> Path:
        """The frame's file, or where it is expected."""
        stem = self.frame_stems[index]
        # Not `with_suffix`: stems of AVSBench-object have a dot in the middle ("<name>.mp4_1").
        paths = [stem.with_name(stem.name + suffix) for suffix in FRAME_SUFFIXES]
        return next((path for path in paths if os.path.exists(path)), paths[0])

    def find_frame(self, index: int) -> Path:
        return self._check(self.frame_path(index))

    def find_mask(self, index: int) -> Path:
        return self._check(self.mask_paths[index])

    def find_audio(self) -> Path:
        if self.raw_video_path is not None and not self.audio_path.exists():
            if not self.raw_video_path.exists():
                raise FileNotFoundError(
                    f"{self.audio_path} does not exist, nor does {self.raw_video_path}, from which it could be"
                    " extracted. The pickles in audio_log_mel are never read."
                )
            folder, sound, video = map(
                shlex.quote, map(str, (self.audio_path.parent, self.audio_path, self.raw_video_path))
            )
            raise FileNotFoundError(
                f"{self.audio_path} does not exist. The pickles in audio_log_mel are never read. Extract the sound"
                f" again: mkdir -p {folder} && ffmpeg -i {video} -vn {sound}"
            )
        return self._check(self.audio_path)

    def _check(self, path: Path) -> Path:
        if not os.path.exists(path):
            raise FileNotFoundError(f"{path} does not exist. Is this copy of AVSBench complete?")
        if self.root is not None and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root)):
            raise ValueError(
                f"{path} is a link to {os.path.realpath(path)}, outside {self.root}: allow_outside_links=True reads"
                " it."
            )
        return path


@dataclass(frozen=True)
class RowIssue:
    """Something about one row of a metadata file: why it cannot be used, or how it was understood."""

    metadata_path: Path
    line: int
    subset: str
    video_id: str
    message: str

    def __str__(self) -> str:
        return f"{self.subset}/{self.video_id} ({self.metadata_path}, line {self.line}): {self.message}"


@dataclass(frozen=True)
class Metadata:
    """What a metadata file says: its clips in its own order, rows that cannot be used, and remarks on others."""

    clips: list[Clip]
    errors: list[RowIssue]
    remarks: list[RowIssue]


def find_root(data_dir: str | os.PathLike) -> Path:
    """The folder or file, with `~` expanded; a `FileNotFoundError` if there is none."""
    path = Path(data_dir).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    return path


def find_metadata(data_dir: str | os.PathLike, config: Config) -> Path:
    """
    Finds the csv file of one configuration in a copy of AVSBench.

    Args:
        data_dir (`str` or `PathLike`):
            The copy's root folder, or the csv file itself.
        config (`str`):
            `"s4"`, `"ms3"` or `"avss"`.

    Returns:
        `Path`: `metadata.csv` of AVSBench-semantic or the csv file of AVSBench-object.

    Raises:
        `FileNotFoundError`: there is no such file.
        `ValueError`: there is no such configuration; or there is a file of each layout, whose S4 and MS3 are not the
        same task.
    """
    if config not in CONFIG_SUBSETS:
        raise ValueError(f"config should be one of {', '.join(CONFIG_SUBSETS)}, got {config!r}.")
    data_dir = find_root(data_dir)
    if data_dir.is_file():
        return data_dir
    candidates = [data_dir / SEMANTIC_METADATA]
    if config in OBJECT_METADATA:
        folder, name, _ = OBJECT_METADATA[config]
        candidates += [data_dir / folder / name, data_dir / name]
    found = [path for path in candidates if path.is_file()]
    if not found:
        raise FileNotFoundError(
            f"{data_dir} has none of {', '.join(str(path.relative_to(data_dir)) for path in candidates)}. Pass the"
            f" folder of AVSBench-semantic that has {SEMANTIC_METADATA}"
            + (" or that of AVSBench-object." if len(candidates) > 1 else ": AVSBench-object has no AVSS.")
        )
    if len(found) > 1:
        raise ValueError(
            f"{data_dir} has both {found[0].relative_to(data_dir)} and {found[1].relative_to(data_dir)}. Pass the csv"
            " file that you mean: labels of AVSBench-semantic and masks of AVSBench-object differ."
        )
    return found[0]


def is_semantic(metadata_path: Path) -> bool:
    """Whether a csv file is one of AVSBench-semantic rather than of AVSBench-object."""
    return metadata_path.name not in {name for _, name, _ in OBJECT_METADATA.values()}


def read_metadata(metadata_path: str | os.PathLike, config: Config, allow_outside_links: bool = False) -> Metadata:
    """
    Reads the clips of one configuration from a csv file of either layout.

    Args:
        metadata_path (`str` or `PathLike`):
            What [`find_metadata`] found.
        config (`str`):
            `"s4"`, `"ms3"` or `"avss"`.
        allow_outside_links (`bool`, *optional*, defaults to `False`):
            Whether files may be links to files outside the copy's folder.

    Returns:
        `Metadata`.

    Raises:
        `ValueError`: the file is not a csv file in UTF-8, lacks a column, has one twice or does not have this
        configuration; or `label2idx.json` beside it numbers the classes otherwise than AVSBench.
    """
    metadata_path = Path(metadata_path)
    if is_semantic(metadata_path):
        check_label_indices(metadata_path.with_name("label2idx.json"))
        columns, read_row = ("uid", "a_obj", "split", "label"), read_semantic_row
    elif config not in OBJECT_METADATA or metadata_path.name != OBJECT_METADATA[config][1]:
        raise ValueError(f"{metadata_path} belongs to AVSBench-object and does not have the configuration {config!r}.")
    elif config == "s4":
        columns, read_row = ("category", "split"), read_s4_row
    else:
        columns, read_row = ("split",), read_ms3_row

    metadata = Metadata([], [], [])
    root = metadata_path.parent
    rows = read_rows(metadata_path, columns)
    if rows and not is_semantic(metadata_path) and next(iter(rows[0][1])) == "":
        raise ValueError(
            f"{metadata_path} should have the clips' names in its first column, which has no name. If it is an index"
            " that pandas wrote, write the file with index=False."
        )
    for line, row in rows:
        subset = row.get("label", CONFIG_SUBSETS[config][0])
        if subset in NUM_FRAMES and subset not in CONFIG_SUBSETS[config]:
            continue
        video_id = row["uid"] if is_semantic(metadata_path) else next(iter(row.values()))
        issue = (metadata_path, line, subset, video_id)
        try:
            clip = read_row(root, row, None if allow_outside_links else root)
        except ValueError as error:
            metadata.errors.append(RowIssue(*issue, str(error)))
            continue
        metadata.clips.append(clip)
        if " " in row.get("a_obj", ""):
            metadata.remarks.append(
                RowIssue(*issue, f"a_obj {row['a_obj']!r} is read as {', '.join(clip.categories)}")
            )
    return metadata


def read_rows(metadata_path: Path, columns: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a csv file with their line numbers; every value is text, whatever it looks like ("NA", "00123")."""
    try:
        with open(metadata_path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            header = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise ValueError(f"{metadata_path} is not a csv file in UTF-8: {error}.") from error
    except csv.Error as error:
        raise ValueError(f"{metadata_path} is not a csv file: {error}. Is a quotation mark not closed?") from error
    missing = [column for column in columns if column not in header]
    if missing:
        hint = " Commas should separate them." if len(header) == 1 and re.search("[;\t]", header[0]) else ""
        raise ValueError(
            f"{metadata_path} lacks the column {', '.join(missing)}: it has {', '.join(header) or 'none'}.{hint}"
        )
    repeated = [column for column, count in Counter(header).items() if count > 1]
    if repeated:
        raise ValueError(f"{metadata_path} has several columns named {', '.join(map(repr, repeated))}.")
    for line, row in rows:
        if None in row or None in row.values():
            raise ValueError(f"{metadata_path}, line {line}: the row should have {len(header)} values, as the header.")
    return rows


def check_label_indices(path: Path) -> None:
    """Compares `label2idx.json`, where there is one, with `CLASS_NAMES`; its order does not matter, its values do."""
    if not path.exists():
        return
    try:
        indices = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{path} is not a json file in UTF-8: {error}.") from error
    expected = {name: index + 1 for index, name in enumerate(CLASS_NAMES)}
    if indices != expected:
        names = indices.keys() | expected.keys() if isinstance(indices, dict) else ()
        wrong = sorted(name for name in names if indices.get(name) != expected.get(name))
        examples = ", ".join(f"{name}: {indices.get(name)} in place of {expected.get(name)}" for name in wrong[:3])
        raise ValueError(
            f"{path} does not number the {len(CLASS_NAMES)} classes of AVSBench from 1 (background) to"
            f" {len(CLASS_NAMES)} (woman): {examples or 'it holds no object'}. Its colors would mean other classes."
        )


def check_name(name: str, column: str) -> None:
    """Refuses what would lead out of its folder when it is used as the name of a file or folder."""
    if name in ("", ".", "..") or re.search(r"[/\\\0]|^[A-Za-z]:", name):
        raise ValueError(f"{column} is {name!r}, which is not the name of a folder.")


def read_split(row: dict[str, str]) -> str:
    if row["split"] not in SPLITS:
        raise ValueError(f"split is {row['split']!r}, expected one of {', '.join(SPLITS)}.")
    return SPLITS[row["split"]]


def read_categories(a_obj: str) -> tuple[str, ...]:
    """The classes that `a_obj` names; a published row has a blank in one ("h orse")."""
    names = [name for name in a_obj.replace(" ", "").split("_") if name and name not in NOT_CLASSES]
    unknown = [name for name in names if name not in CLASS_NAMES]
    if unknown:
        raise ValueError(f"a_obj is {a_obj!r}: {', '.join(unknown)} is not a class of AVSBench.")
    return tuple(names)


def read_semantic_row(data_dir: Path, row: dict[str, str], root: Path | None) -> Clip:
    subset, uid, split = row["label"], row["uid"], read_split(row)
    if subset not in NUM_FRAMES:
        raise ValueError(f"label is {subset!r}, expected one of {', '.join(NUM_FRAMES)}.")
    check_name(uid, "uid")
    folder = data_dir / subset / uid
    # In S4's train split only the first frame is annotated.
    indices = range(1) if (subset, split) == ("v1s", "train") else range(NUM_FRAMES[subset])
    return Clip(
        root=root,
        subset=subset,
        video_id=uid,
        split=split,
        categories=read_categories(row["a_obj"]),
        frame_stems=tuple(folder / "frames" / str(index) for index in range(NUM_FRAMES[subset])),
        mask_paths=tuple(folder / "labels_rgb" / f"{index}.png" for index in indices),
        mask_frame_indices=tuple(indices),
        audio_path=folder / "audio.wav",
        **{name: read_categories(row[name]) for name in ("visible", "off_screen") if name in row},
    )


def read_s4_row(data_dir: Path, row: dict[str, str], root: Path | None) -> Clip:
    name, category, split = next(iter(row.values())), row["category"], read_split(row)
    check_name(name, "the clip's name")
    check_name(category, "category")
    data_dir = data_dir / OBJECT_METADATA["s4"][2]
    place = Path(row["split"]) / category
    indices = range(1) if split == "train" else range(NUM_FRAMES["v1s"])
    return Clip(
        root=root,
        subset="v1s",
        video_id=name,
        split=split,
        categories=(category,),
        # Frames and masks count from 1.
        frame_stems=tuple(
            data_dir / "visual_frames" / place / name / f"{name}_{index + 1}" for index in range(NUM_FRAMES["v1s"])
        ),
        mask_paths=tuple(data_dir / "gt_masks" / place / name / f"{name}_{index + 1}.png" for index in indices),
        mask_frame_indices=tuple(indices),
        audio_path=data_dir / "audio_wav" / place / f"{name}.wav",
        raw_video_path=data_dir / "raw_videos" / place / f"{name}.mp4",
    )


def read_ms3_row(data_dir: Path, row: dict[str, str], root: Path | None) -> Clip:
    name, split = next(iter(row.values())), read_split(row)
    check_name(name, "the clip's name")
    data_dir = data_dir / OBJECT_METADATA["ms3"][2]
    indices = range(NUM_FRAMES["v1m"])
    return Clip(
        root=root,
        subset="v1m",
        video_id=name,
        split=split,
        categories=(),
        frame_stems=tuple(data_dir / "visual_frames" / name / f"{name}.mp4_{index + 1}" for index in indices),
        mask_paths=tuple(data_dir / "gt_masks" / row["split"] / name / f"{name}_{index + 1}.png" for index in indices),
        mask_frame_indices=tuple(indices),
        audio_path=data_dir / "audio_wav" / row["split"] / f"{name}.wav",
        raw_video_path=data_dir / "raw_videos" / f"{name}.mp4",
    )


__all__ = [
    "CONFIG_SUBSETS",
    "NUM_FRAMES",
    "SPLITS",
    "Clip",
    "Metadata",
    "RowIssue",
    "find_metadata",
    "find_root",
    "is_semantic",
    "read_metadata",
]
