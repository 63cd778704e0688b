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
A copy of AVSBench as Parquet files and a dataset card, which `datasets.load_dataset` reads, also streaming, with
nothing else installed.
"""

import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import datasets
import pyarrow.parquet as pq
import soundfile
from datasets.info import DatasetInfosDict
from datasets.table import embed_table_storage
from datasets.utils import tqdm
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from ..files import write_whole
from ..tables import format_table
from .avsbench import HOMEPAGE, load_avsbench
from .layout import CONFIG_SUBSETS, OBJECT_METADATA, Config, find_metadata, find_root, is_semantic, read_metadata
from .media import read_binary_mask


# Shards are what processes and workers share out: with 64, each of 2, 4, ... 64 of them has equally many.
MAX_SHARDS = 64
MIN_CLIPS_PER_SHARD = 4
# Readers hold a whole row group of each open shard in memory, and a clip of AVSS has megabytes.
CLIPS_PER_ROW_GROUP = 4

CARD = Path(__file__).with_name("dataset_card.md")
CONFIG_TITLES = {
    "s4": "single sound sources",
    "ms3": "multiple sound sources",
    "avss": "all clips, with classes",
}


@dataclass
class SplitStatistics:
    """What the dataset card tells of a split."""

    clips: int = 0
    frames: int = 0
    annotated_frames: int = 0
    silent_frames: int = 0
    sounding_share: float = 0.0  # summed over the annotated frames
    seconds: float = 0.0
    clips_per_class: Counter = field(default_factory=Counter)

    def add(self, clip: dict) -> None:
        """Counts a clip, a row of the table whose files are embedded."""
        self.clips += 1
        self.frames += clip["num_frames"]
        self.annotated_frames += len(clip["masks"])
        for mask in clip["masks"]:
            share = read_binary_mask(mask["bytes"]).mean()
            self.silent_frames += int(share == 0)
            self.sounding_share += float(share)
        self.seconds += soundfile.info(io.BytesIO(clip["audio"]["bytes"])).duration
        self.clips_per_class.update(set(clip["categories"]))


def export_avsbench(
    data_dir: str | os.PathLike,
    output_dir: str | os.PathLike,
    num_shards: int | None = None,
    push_to_hub: str | None = None,
    configs: Sequence[Config] | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    unknown_color: Literal["error", "background"] = "error",
    allow_outside_links: bool = False,
    num_proc: int | None = None,
) -> Path:
    r"""
    Writes a copy of AVSBench as Parquet files that hold all bytes of frames, masks and sounds, with a dataset card:
    `datasets.load_dataset(output_dir, "s4")` reads them without this library. Rows and columns are those of
    [`load_avsbench`], in the same order.

    A configuration is first read and checked as a whole, then written. The folder is made beside `output_dir`, in one
    whose name begins with a dot, and renamed when it is complete.

    Args:
        data_dir (`str` or `PathLike`):
            The root folder of a copy in either layout, or the csv file in it.
        output_dir (`str` or `PathLike`):
            Folder to write. It must not exist, or be empty.
        num_shards (`int`, *optional*):
            Files of each split, at most one for each clip. Choose a multiple of machines x processes x workers that
            shall read them; by default the largest power of two up to 64 that leaves 4 clips to each.
        push_to_hub (`str`, *optional*):
            Dataset repository to upload to, such as `"me/avsbench"`. It is created, private, where it does not exist.
            Parquet files that it has are replaced.
        configs (`Sequence[str]`, *optional*):
            Configurations to export, by default all of `"s4"`, `"ms3"` and `"avss"` that the copy has.
        on_error, unknown_color, allow_outside_links:
            See [`load_avsbench`].
        num_proc (`int`, *optional*):
            Processes that read and check the copy.

    Returns:
        `Path`: `output_dir`, absolute.

    Raises:
        `FileExistsError`: `output_dir` exists and is not an empty folder.
        `FileNotFoundError`: `data_dir` does not exist or has no clip of AVSBench.
        `ValueError`: `num_shards` is not positive; the repository is public; or as [`load_avsbench`].
    """
    output_dir = Path(output_dir).resolve()
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise FileExistsError(f"{output_dir} exists and is not an empty folder. Choose another one or remove it.")
    if num_shards is not None and num_shards < 1:
        raise ValueError(f"num_shards should be at least 1, got {num_shards}.")
    if configs is None:
        configs = find_configs(data_dir, on_error)
    if push_to_hub is not None:
        create_private_repository(push_to_hub)

    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(output_dir) as (root,), TemporaryDirectory(prefix=".cache.", dir=output_dir.parent) as cache_dir:
        infos, statistics = DatasetInfosDict(), {}
        for config in configs:
            # A cache of its own: the user's does not notice pictures and sounds that have changed.
            dataset = load_avsbench(
                config,
                data_dir,
                on_error=on_error,
                unknown_color=unknown_color,
                allow_outside_links=allow_outside_links,
                num_proc=num_proc,
                cache_dir=cache_dir,
            )
            infos[config], statistics[config] = write_config(dataset, root / config, num_shards)
        make_card(infos, statistics).save(root / "README.md")

    if push_to_hub is not None:
        HfApi().upload_folder(
            repo_id=push_to_hub,
            repo_type="dataset",
            folder_path=output_dir,
            commit_message="Upload AVSBench as Parquet",
            # Shards of an earlier export into another number would be read along with these.
            delete_patterns="*.parquet",
        )
    return output_dir


def find_configs(data_dir: str | os.PathLike, on_error: Literal["raise", "skip"]) -> list[Config]:
    """The configurations of which a copy has clips."""
    data_dir, configs = find_root(data_dir), []
    for config in CONFIG_SUBSETS:
        try:
            metadata_path = find_metadata(data_dir, config)
        except FileNotFoundError:
            continue
        # Given a csv file, `find_metadata` returns it for every configuration.
        if not is_semantic(metadata_path) and metadata_path.name != OBJECT_METADATA.get(config, (None, None))[1]:
            continue
        metadata = read_metadata(metadata_path, config)
        if metadata.clips or (metadata.errors and on_error == "raise"):
            configs.append(config)
    if not configs:
        raise FileNotFoundError(
            f"{data_dir} has no clip of AVSBench: expected the folder of AVSBench-semantic, with metadata.csv, or of"
            " AVSBench-object, with Single-source/s4_meta_data.csv or Multi-sources/ms3_meta_data.csv."
        )
    return configs


def create_private_repository(repo_id: str) -> None:
    api = HfApi()
    api.create_repo(repo_id, repo_type="dataset", private=True, exist_ok=True)
    # `private` does nothing to a repository that exists.
    if not api.dataset_info(repo_id).private:
        raise ValueError(
            f"{repo_id} is a public repository, and AVSBench must not be published. Make it private or name another."
        )


def choose_num_shards(num_clips: int, num_shards: int | None = None) -> int:
    """The number of shards of a split: see [`export_avsbench`]."""
    if num_shards is not None:
        return min(num_shards, num_clips)
    most = min(MAX_SHARDS, max(1, num_clips // MIN_CLIPS_PER_SHARD))
    return 2 ** (most.bit_length() - 1)


def write_config(
    dataset: datasets.DatasetDict, folder: Path, num_shards: int | None
) -> tuple[datasets.DatasetInfo, dict[str, SplitStatistics]]:
    """Writes the shards of all splits into a new folder."""
    folder.mkdir(parents=True)
    splits, statistics = datasets.SplitDict(), {}
    with tqdm(total=sum(dataset.num_rows.values()), desc=f"Writing {folder.name}", unit="clip") as progress:
        for split, clips in dataset.items():
            num_bytes, statistics[split] = write_split(clips, folder, split, num_shards, progress)
            splits.add(datasets.SplitInfo(split, num_bytes, len(clips)))
    info = datasets.DatasetInfo(
        features=clips.features,
        splits=splits,
        download_size=sum(path.stat().st_size for path in folder.iterdir()),
        dataset_size=sum(split.num_bytes for split in splits.values()),
    )
    return info, statistics


def write_split(
    clips: datasets.Dataset, folder: Path, split: str, num_shards: int | None, progress: tqdm
) -> tuple[int, SplitStatistics]:
    """Writes the shards of a split and returns their bytes in memory and what is in them."""
    num_bytes, statistics = 0, SplitStatistics()
    num_shards = choose_num_shards(len(clips), num_shards)
    for index in range(num_shards):
        shard = clips.shard(num_shards, index, contiguous=True).with_format("arrow")
        with pq.ParquetWriter(
            folder / f"{split}-{index:05d}-of-{num_shards:05d}.parquet",
            clips.features.arrow_schema,
            # Nearly all of it is JPEG, PNG and samples: there is nothing to gain.
            compression="none",
            use_dictionary=False,
            write_page_index=True,
            use_content_defined_chunking=True,  # an upload after a change sends only what has changed
        ) as writer:
            for table in shard.iter(CLIPS_PER_ROW_GROUP):
                table = embed_table_storage(table)  # also reduces paths to the files' names
                writer.write_table(table)
                num_bytes += table.nbytes
                for clip in table.select(["num_frames", "masks", "audio", "categories"]).to_pylist():
                    statistics.add(clip)
                progress.update(len(table))
    return num_bytes, statistics


def make_card(infos: DatasetInfosDict, statistics: dict[str, dict[str, SplitStatistics]]) -> DatasetCard:
    """The README.md by which `datasets` finds configurations, splits and columns."""
    data = DatasetCardData(
        pretty_name="AVSBench",
        license="other",
        license_name="avsbench",
        license_link=HOMEPAGE,
        task_categories=["image-segmentation"],
        tags=["audio-visual-segmentation"],
    )
    infos.to_dataset_card_data(data)
    MetadataConfigs(
        {
            config: {
                "data_files": [{"split": split, "path": f"{config}/{split}-*.parquet"} for split in statistics[config]]
            }
            for config in infos
        }
    ).to_dataset_card_data(data)
    semantic = any("color_masks" in info.features for info in infos.values())
    return DatasetCard.from_template(
        data,
        template_path=str(CARD),
        layout="AVSBench-semantic" if semantic else "AVSBench-object",
        homepage=HOMEPAGE,
        configs=list(infos),
        titles=CONFIG_TITLES,
        statistics=format_statistics(statistics),
        classes=[
            format_classes(config, infos[config].features["categories"].feature, statistics[config])
            for config in infos
        ],
    )


def format_statistics(statistics: dict[str, dict[str, SplitStatistics]]) -> str:
    header = ["configuration", "split", "clips", "frames", "annotated frames", "silent frames", "sounding pixels"]
    rows = [
        [f"`{config}`", split, counts.clips, counts.frames, counts.annotated_frames, counts.silent_frames]
        + [f"{counts.sounding_share / counts.annotated_frames:.1%}", f"{counts.seconds:.0f} s"]
        for config, splits in statistics.items()
        for split, counts in splits.items()
    ]
    return format_table([*header, "sound"], rows)


def format_classes(
    config: str, category: datasets.ClassLabel | datasets.Value, splits: dict[str, SplitStatistics]
) -> str:
    if not isinstance(category, datasets.ClassLabel):
        return f"`{config}`: the copy has no categories."
    rows = [
        [name, *(counts.clips_per_class[index] for counts in splits.values())]
        for index, name in enumerate(category.names)
    ]
    return format_table([f"`{config}`", *splits], [row for row in rows if any(row[1:])])


__all__ = ["export_avsbench"]
