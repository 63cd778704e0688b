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
AVSBench (Zhou et al., ECCV 2022 and IJCV 2024) as a dataset: S4, MS3 and AVSS from either published layout.

`datasets` has run no loading scripts since its version 4. This module is a builder; registering it under the name
`avsbench` makes `datasets.load_dataset("avsbench", "s4", data_files=".../metadata.csv")` work.
"""

import glob
import inspect
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

import datasets
import numpy as np
import pyarrow as pa
from datasets import packaged_modules
from PIL import Image

from ..media import check_image, check_png, read_audio
from . import labels, layout, media
from .labels import CLASS_NAMES, PALETTE
from .layout import Clip, Config, find_metadata, is_semantic, read_metadata
from .media import read_binary_mask, read_semantic_mask


logger = datasets.utils.logging.get_logger(__name__)

DESCRIPTION = """
AVSBench: clips with sound, one frame a second, and masks of what sounds. S4 (`s4`): single sources, of training clips
only the first frame is annotated. MS3 (`ms3`): several sources. AVSS (`avss`): both and longer clips, with classes.
"""
HOMEPAGE = "https://github.com/OpenNLPLab/AVSBench"


@dataclass
class AVSBenchConfig(datasets.BuilderConfig):
    """See [`load_avsbench`]."""

    on_error: Literal["raise", "skip"] = "raise"
    unknown_color: Literal["error", "background"] = "error"
    stage1_masks_dir: str | None = None
    allow_outside_links: bool = False

    def find_metadata(self) -> Path:
        files = [str(file) for files in (self.data_files or {}).values() for file in files]
        if len(files) == 1:
            return Path(files[0])
        # Of a folder, `datasets` lists what looks like data, which need not include the csv file.
        if self.data_dir is not None:
            return find_metadata(self.data_dir, self.name)
        names = (layout.SEMANTIC_METADATA, *(name for _, name, _ in layout.OBJECT_METADATA.values()))
        raise ValueError(
            f"avsbench needs one csv file of a copy of AVSBench ({', '.join(names)}), got {len(files)} files:"
            " load_dataset('avsbench', 's4', data_files='AVSBench/metadata.csv') or"
            " stepping_stones_hf.data.load_avsbench('s4', 'AVSBench')."
        )

    def create_config_id(self, config_kwargs: dict, custom_features: datasets.Features | None = None) -> str:
        # `datasets` makes a configuration "default" where none is named.
        if self.name not in layout.CONFIG_SUBSETS:
            names = ", ".join(map(repr, layout.CONFIG_SUBSETS))
            raise ValueError(f"Name a configuration of avsbench, {names}: load_dataset('avsbench', 's4', ...).")
        if self.data_dir is not None:
            config_kwargs = {**config_kwargs, "changed": self.find_metadata().stat().st_mtime_ns}
        # Part of the cache's name, so that masks that a first stage has written since are noticed.
        if self.stage1_masks_dir is not None:
            folders = sorted(path.as_posix() for path in Path(self.stage1_masks_dir).glob("*/*"))
            config_kwargs = {**config_kwargs, "stage1_masks": folders}
        return super().create_config_id(config_kwargs, custom_features)


class ClipError(datasets.exceptions.DatasetGenerationError, ValueError):
    """A clip that cannot be read. `datasets` hides errors of other kinds behind one that does not name the clip."""


class AVSBench(datasets.ArrowBasedBuilder):
    """
    Builder of AVSBench. It yields tables rather than examples because encoding an example with an audio column needs
    torchcodec, even for `Audio(decode=False)`.
    """

    BUILDER_CONFIG_CLASS = AVSBenchConfig
    BUILDER_CONFIGS = [AVSBenchConfig(name=name) for name in layout.CONFIG_SUBSETS]

    def _info(self) -> datasets.DatasetInfo:
        # The columns follow from the layout, which is known once the csv file is.
        return datasets.DatasetInfo(description=DESCRIPTION, homepage=HOMEPAGE)

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        # Not in the configuration's `__post_init__`: `datasets` sets options on one that it has already made.
        if self.config.on_error not in ("raise", "skip"):
            raise ValueError(f'on_error should be "raise" or "skip", got {self.config.on_error!r}.')
        if self.config.unknown_color not in ("error", "background"):
            raise ValueError(f'unknown_color should be "error" or "background", got {self.config.unknown_color!r}.')
        if self.config.stage1_masks_dir is not None and not os.path.isdir(self.config.stage1_masks_dir):
            raise FileNotFoundError(f"stage1_masks_dir {self.config.stage1_masks_dir} does not exist.")
        # Those of an earlier table, which `datasets` would compare with the new one.
        self.info.splits = None
        metadata_path = self.config.find_metadata()
        metadata = read_metadata(metadata_path, self.config.name, self.config.allow_outside_links)
        for remark in metadata.remarks:
            logger.warning(remark)
        for error in metadata.errors:
            if self.config.on_error == "raise":
                raise ValueError(f'{error} on_error="skip" leaves such rows out.')
            logger.warning(f"Skipped {error}")
        if not metadata.clips:
            raise ValueError(f"{metadata_path} has no clip of {self.config.name!r} that can be used.")
        self.info.features = make_features(self.config, is_semantic(metadata_path), metadata.clips)
        splits = {split: [clip for clip in metadata.clips if clip.split == split] for split in layout.SPLITS.values()}
        return [
            # A list is what `num_proc` and the workers of a DataLoader share out.
            datasets.SplitGenerator(name=split, gen_kwargs={"clips": clips})
            for split, clips in splits.items()
            if clips
        ]

    def _generate_tables(self, clips: list[Clip]) -> Iterator[tuple[int, pa.Table]]:
        for index, clip in enumerate(clips):
            try:
                row = read_clip(clip, self.config, self.info.features)
            except (ValueError, OSError) as error:
                if self.config.on_error == "raise":
                    raise ClipError(f'{clip}: {error} on_error="skip" leaves such clips out.') from error
                logger.warning(f"Skipped {clip}: {error}")
            else:
                yield index, pa.Table.from_pylist([row], schema=self.info.features.arrow_schema)

    def _prepare_split(self, split_generator: datasets.SplitGenerator, **kwargs) -> None:
        super()._prepare_split(split_generator, **kwargs)
        if split_generator.split_info.num_examples == 0:
            raise ClipError(
                f"No clip of {self.config.name!r}, {split_generator.name} can be read. To export other configurations,"
                " name them with configs=."
            )

    def as_dataset(self, *args, **kwargs) -> datasets.Dataset | datasets.DatasetDict:
        # Not where the table is made: one from the cache lacks clips as well.
        if self.config.on_error == "skip":
            metadata_path = self.config.find_metadata()
            metadata = read_metadata(metadata_path, self.config.name, self.config.allow_outside_links)
            if metadata.errors:
                logger.warning(f"Skipped {len(metadata.errors)} rows of {metadata_path}.")
            for split, info in self.info.splits.items():
                num_clips = sum(clip.split == split for clip in metadata.clips)
                num_skipped = num_clips - info.num_examples
                if num_skipped:
                    logger.warning(f"Skipped {num_skipped} of {num_clips} clips of {self.config.name!r}, {split}.")
        return super().as_dataset(*args, **kwargs)


def make_features(config: AVSBenchConfig, semantic: bool, clips: list[Clip]) -> datasets.Features:
    """The columns of one configuration: see [`load_avsbench`]."""
    # S4's categories in AVSBench-object are names of its own, MS3 has none there.
    categories = CLASS_NAMES if semantic else sorted({name for clip in clips for name in clip.categories})
    category = datasets.ClassLabel(names=list(categories)) if categories else datasets.Value("string")
    features = {
        "video_id": datasets.Value("string"),
        "subset": datasets.Value("string"),
        "categories": datasets.List(category),
        "num_frames": datasets.Value("int32"),
        "frames": datasets.List(datasets.Image()),
        "masks": datasets.List(datasets.Image()),
        "mask_frame_indices": datasets.List(datasets.Value("int32")),
        # Bytes or path: decoding would need torchcodec. `read_audio` reads it.
        "audio": datasets.Audio(decode=False),
    }
    if semantic:
        features["color_masks"] = datasets.List(datasets.Image())
        if config.name != "avss":
            features["semantic_masks"] = datasets.List(datasets.Image())
    for name in ("visible", "off_screen"):
        if any(getattr(clip, name) is not None for clip in clips):
            features[name] = datasets.List(category)
    if config.stage1_masks_dir is not None:
        features["stage1_masks"] = datasets.List(datasets.Image())
    return datasets.Features(features)


def read_clip(clip: Clip, config: AVSBenchConfig, features: datasets.Features) -> dict:
    """
    Reads all files of a clip, to see that they are whole, and makes its row. Frames, colors and sound stay where they
    are; masks become class indices.
    """
    frames = [clip.find_frame(index) for index in clip.frame_indices]
    frame_sizes = [check_image(path) for path in frames]
    mask_paths = [clip.find_mask(index) for index in range(len(clip.mask_paths))]
    if "color_masks" in features:
        masks = [read_semantic_mask(path, config.unknown_color) for path in mask_paths]
    else:
        masks = [read_binary_mask(path) for path in mask_paths]
    for path in mask_paths:
        check_png(path)
    for path, mask, index in zip(mask_paths, masks, clip.mask_frame_indices):
        if mask.shape != frame_sizes[index]:
            raise ValueError(
                f"{path} should have its frame's height and width {frame_sizes[index]}, got {mask.shape}."
            )
    audio = clip.find_audio()
    read_audio(audio)

    categories = features["categories"].feature
    row = {
        "video_id": clip.video_id,
        "subset": clip.subset,
        "categories": [categories.str2int(name) for name in clip.categories],
        "num_frames": clip.num_frames,
        "frames": [to_reference(path) for path in frames],
        "masks": [to_png(mask if config.name == "avss" else mask > 0) for mask in masks],
        "mask_frame_indices": list(clip.mask_frame_indices),
        "audio": to_reference(audio),
    }
    if "color_masks" in features:
        row["color_masks"] = [to_reference(path) for path in mask_paths]
    if "semantic_masks" in features:
        row["semantic_masks"] = [to_png(mask) for mask in masks]
    for name in ("visible", "off_screen"):
        if name in features:
            row[name] = [categories.str2int(category) for category in getattr(clip, name)]
    if "stage1_masks" in features:
        row["stage1_masks"] = find_stage1_masks(clip, Path(config.stage1_masks_dir))
    return row


def find_stage1_masks(clip: Clip, stage1_masks_dir: Path) -> list[dict] | None:
    folder = stage1_masks_dir / clip.subset / clip.video_id
    # A first stage need not have seen all splits.
    if not folder.is_dir():
        return None
    paths = [folder / f"{index}.png" for index in range(clip.num_frames)]
    for path in paths:
        check_image(path)
    return [to_reference(path) for path in paths]


def to_reference(path: Path) -> dict:
    return {"bytes": None, "path": os.path.abspath(path)}


def to_png(mask: np.ndarray) -> dict:
    """A PNG file whose pixels are class indices, `(height, width)`, and which viewers show in AVSBench's colors."""
    image = Image.fromarray(mask.astype(np.uint8), mode="P")
    image.putpalette(PALETTE.tobytes() if mask.dtype != bool else bytes((0, 0, 0, 255, 255, 255)))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": None}


def register() -> None:
    """
    Makes `datasets.load_dataset("avsbench", ...)` find the builder. The hash, part of the cache's name, changes with
    the code that makes the rows.

    Raises:
        `ImportError`: this release of `datasets` keeps its builders elsewhere.
    """
    modules: list[ModuleType] = [inspect.getmodule(register), labels, layout, media]
    try:
        lines = [line for module in modules for line in inspect.getsource(module).splitlines()]
        packaged_modules._PACKAGED_DATASETS_MODULES["avsbench"] = (
            __name__,
            packaged_modules._hash_python_lines(lines),
        )
    except AttributeError as error:
        raise ImportError(
            f"datasets {datasets.__version__} does not register builders as 4.8 to 5.2 do. Install one of these."
        ) from error


def load_avsbench(
    config: Config,
    data_dir: str | os.PathLike,
    split: str | None = None,
    streaming: bool = False,
    on_error: Literal["raise", "skip"] = "raise",
    unknown_color: Literal["error", "background"] = "error",
    stage1_masks_dir: str | os.PathLike | None = None,
    allow_outside_links: bool = False,
    **kwargs,
) -> datasets.Dataset | datasets.DatasetDict | datasets.IterableDataset | datasets.IterableDatasetDict:
    r"""
    Loads AVSBench from a folder in either published layout, which is recognized by its files: AVSBench-semantic
    (`metadata.csv`, all configurations) or AVSBench-object (`Single-source`, `Multi-sources`: `s4` and `ms3`).

    Every file is read once while the table is made, so that what is broken shows then. The table keeps masks as class
    indices and of frames, colors and sound the paths: it stays small, and the copy has to stay in its place. It is
    made again when the csv file or this library's code has changed, but not when only a picture or sound has:
    `download_mode="force_redownload"` sees to that. Sounds of less than 0.975 s are loaded, but are too short for
    [`VGGishFeatureExtractor`]; the doctor calls them errors.

    Args:
        config (`str`):
            `"s4"` (single sources), `"ms3"` (multiple sources) or `"avss"` (all clips, with classes).
        data_dir (`str` or `PathLike`):
            The copy's root folder, or the csv file in it; `~` is expanded.
        split (`str`, *optional*):
            `"train"`, `"validation"` or `"test"`; all of them by default.
        streaming (`bool`, *optional*, defaults to `False`):
            Whether to read clips when they are asked for, without a table on disk.
        on_error (`"raise"` or `"skip"`, *optional*, defaults to `"raise"`):
            What a clip with a missing or broken file does: stop with an error that names the file, or be left out,
            with a warning for each and, unless clips are streamed, their number at the end, which is repeated when the
            table comes from the cache. A split that loses all its clips is an error; as a stream, which cannot know
            before its end, it is empty.
        unknown_color (`"error"` or `"background"`, *optional*, defaults to `"error"`):
            What colors outside the palette are: see [`~data.labels.color_to_index`].
        stage1_masks_dir (`str` or `PathLike`, *optional*):
            Folder with the masks of a first stage, `<subset>/<video_id>/<frame>.png`, for the column `stage1_masks`.
        allow_outside_links (`bool`, *optional*, defaults to `False`):
            Whether files may be links to files outside the folder of the csv file.
        kwargs:
            Passed to `datasets.load_dataset`, such as `num_proc` and `cache_dir`.

    Returns:
        `Dataset`, or a dictionary of these by split, or with `streaming` their iterable counterparts. A row is a clip:
        - **video_id**, **subset** (`v1s`, `v1m` or `v2`) and **num_frames** (5 or 10; frame t belongs to second t);
        - **categories** -- classes that the metadata names (71 classes; AVSBench-object has names of its own);
        - **frames** -- images in their own size (of an S4 training clip only the first, if the copy has no more);
        - **masks** -- for each of **mask_frame_indices** an image of class indices, 0 for background; in `s4` and
          `ms3` of 0 and 1. A training clip of S4 has a mask for its first frame only;
        - **semantic_masks** -- `s4` and `ms3` of AVSBench-semantic: the class indices;
        - **color_masks** -- AVSBench-semantic: the masks in the published colors;
        - **visible**, **off_screen** -- mini-AVSBench with the statistics of AVSBench: classes that are to be seen,
          whether they sound or not, and those that sound without being seen;
        - **stage1_masks** -- with `stage1_masks_dir`: for each frame an image from 0 to 255, `None` for clips of which
          it has no folder;
        - **audio** -- `bytes` or `path` of the sound, not decoded: `stepping_stones_hf.media.read_audio` does it.

    Raises:
        `FileNotFoundError`: the folder does not exist or has no csv file of that configuration, or there is no
        `stage1_masks_dir`.
        `ValueError`: it has two; the csv file or `label2idx.json` is not as published; or, unless `on_error` is
        `"skip"`, a clip's row or one of its files cannot be used.
    """
    metadata_path = find_metadata(data_dir, config)
    return datasets.load_dataset(
        "avsbench",
        config,
        # `datasets` takes paths for patterns, and its search for these does not follow links. Nor is `Path` the usual
        # one here once it has loaded something: it then splits paths at double colons.
        data_files=glob.escape(str(metadata_path.parent.resolve() / metadata_path.name)),
        split=split,
        streaming=streaming,
        on_error=on_error,
        unknown_color=unknown_color,
        stage1_masks_dir=None if stage1_masks_dir is None else os.path.abspath(stage1_masks_dir),
        allow_outside_links=allow_outside_links,
        **kwargs,
    )


__all__ = ["AVSBench", "AVSBenchConfig", "load_avsbench"]
