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
import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stepping_stones_hf.data.labels import PALETTE, color_to_index
from stepping_stones_hf.data.mini import make_mini_avsbench


MINI_CLIPS = {"v1s": (3, 1, 1), "v1m": (2, 1, 1), "v2": (2, 1, 1)}


@pytest.fixture(scope="session")
def mini_dir(tmp_path_factory) -> Path:
    """A mini-AVSBench, in the layout of AVSBench-semantic, of `MINI_CLIPS`. Nothing may change it."""
    return make_mini_avsbench(tmp_path_factory.mktemp("mini") / "semantic", image_size=64, clips=MINI_CLIPS)


@pytest.fixture
def mini_copy(mini_dir, tmp_path) -> Path:
    """A mini-AVSBench to break."""
    return Path(shutil.copytree(mini_dir, tmp_path / "semantic"))


def make_object_tree(semantic_root: Path, out: Path) -> Path:
    """The v1s and v1m clips of an AVSBench-semantic tree in the layout of AVSBench-object, under the same names."""
    with open(semantic_root / "metadata.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    s4_rows = [
        {"name": row["uid"], "start": row["s_sec"], "category": f"{row['a_obj']}_sounding", "split": row["split"]}
        for row in rows
        if row["label"] == "v1s"
    ]
    ms3_rows = [{"video_id": row["uid"], "split": row["split"]} for row in rows if row["label"] == "v1m"]
    s4, ms3 = out / "Single-source" / "s4_data", out / "Multi-sources" / "ms3_data"
    write_csv(s4.with_name("s4_meta_data.csv"), s4_rows)
    write_csv(ms3.with_name("ms3_meta_data.csv"), ms3_rows)
    for row in s4_rows:
        name, place = row["name"], Path(row["split"], row["category"])
        clip = semantic_root / "v1s" / name
        copy_frames(clip, s4 / "visual_frames" / place / name, f"{name}_")
        for path, labels in read_labels(clip, s4 / "gt_masks" / place / name, f"{name}_"):
            Image.fromarray(labels > 0).save(path)  # 1 bit a pixel
        copy_sound(clip, s4 / "audio_wav" / place / f"{name}.wav")
    for row in ms3_rows:
        name, split = row["video_id"], row["split"]
        clip = semantic_root / "v1m" / name
        copy_frames(clip, ms3 / "visual_frames" / name, f"{name}.mp4_")
        for path, labels in read_labels(clip, ms3 / "gt_masks" / split / name, f"{name}_"):
            image = Image.fromarray(labels, mode="P")  # palette indices
            image.putpalette(PALETTE.tobytes())
            image.save(path)
        copy_sound(clip, ms3 / "audio_wav" / split / f"{name}.wav")
    return out


def write_csv(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def copy_frames(clip: Path, folder: Path, prefix: str) -> None:
    folder.mkdir(parents=True)
    for path in (clip / "frames").iterdir():
        Image.open(path).save(folder / f"{prefix}{int(path.stem) + 1}.png")


def read_labels(clip: Path, folder: Path, prefix: str) -> list[tuple[Path, np.ndarray]]:
    """The class indices of each mask of a clip, and where the mask goes."""
    folder.mkdir(parents=True)
    return [
        (folder / f"{prefix}{int(path.stem) + 1}.png", color_to_index(Image.open(path), path=path))
        for path in (clip / "labels_rgb").iterdir()
    ]


def copy_sound(clip: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(clip / "audio.wav", path)
