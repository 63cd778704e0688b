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
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from stepping_stones_hf.data import load_avsbench
from stepping_stones_hf.data.export import export_avsbench
from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.files import begin_folder, partial_folder
from stepping_stones_hf.training.mask_store import (
    Manifest,
    check_store,
    complete_store,
    fingerprint_clips,
    hash_model_folder,
    mask_path,
    name_model,
    write_mask,
)


MEDIA = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
FEATURES = datasets.Features(
    {
        "subset": datasets.Value("string"),
        "video_id": datasets.Value("string"),
        "num_frames": datasets.Value("int32"),
        "frames": datasets.List(MEDIA),
        "audio": MEDIA,
    }
)


def file(content: str) -> dict:
    return {"bytes": content.encode(), "path": None}


ROWS = [
    {"subset": "v1s", "video_id": "a_0_5000", "num_frames": 2, "frames": [file("one"), file("two!")]},
    {"subset": "v2", "video_id": "b", "num_frames": 1, "frames": [file("three")]},
]
ROWS = [{**row, "audio": file("sound")} for row in ROWS]


def make_clips(*rows: dict) -> datasets.Dataset:
    return datasets.Dataset.from_list(list(rows), FEATURES)


CLIPS = make_clips(*ROWS)


def make_manifest(localizer_hash: str) -> Manifest:
    return Manifest("runs/x", localizer_hash, fingerprint_clips(CLIPS), 3, 0.5, {"S4": {"miou": 0.5}})


def fill(folder, value: float, localizer_hash: str = "1234") -> None:
    begin_folder(folder)
    for clip in ROWS:
        for frame in range(clip["num_frames"]):
            path = mask_path(partial_folder(folder), clip["subset"], clip["video_id"], frame)
            write_mask(path, np.full((4, 6), value))
    complete_store(folder, make_manifest(localizer_hash))


def read(folder) -> set[int]:
    return {value for path in folder.rglob("*.png") for value in np.unique(np.asarray(Image.open(path))).tolist()}


def test_a_store_has_the_released_layout_and_comes_back_with_its_manifest(tmp_path):
    store = tmp_path / "masks" / "test"
    fill(store, 1.0)
    assert {path.relative_to(store).as_posix() for path in store.rglob("*.*")} == {
        "manifest.json",
        "v1s/a_0_5000/0.png",
        "v1s/a_0_5000/1.png",
        "v2/b/0.png",
    }
    assert check_store(store, make_clips(*ROWS[::-1]), "1234") == make_manifest("1234")
    assert [path.name for path in store.parent.iterdir()] == ["test"]


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.array([[True, False]]), [[255, 0]]),
        (np.array([[0.0, 0.5, 0.4, 1.0]], dtype=np.float32), [[0, 128, 102, 255]]),
    ],
    ids=["hard", "soft"],
)
def test_masks_are_eight_bit_gray(tmp_path, mask, expected):
    path = tmp_path / "v2" / "b" / "0.png"
    write_mask(path, mask)
    with Image.open(path) as image:
        assert image.mode == "L"
        assert np.asarray(image).tolist() == expected


def test_a_store_that_was_being_written_is_emptied_first(tmp_path):
    store = tmp_path / "test"
    begin_folder(store)
    write_mask(mask_path(partial_folder(store), "v2", "gone", 0), np.ones((2, 2)))
    assert not store.exists()
    with pytest.raises(FileNotFoundError, match="not a complete mask store"):
        check_store(store, CLIPS)
    fill(store, 0.0)
    assert not (store / "v2" / "gone").exists()


def test_a_store_in_use_stays_whole_until_the_new_one_takes_its_place(tmp_path, monkeypatch):
    store = tmp_path / "test"
    fill(store, 0.0, "old")

    def stop(*_):
        raise KeyboardInterrupt

    rename = Path.rename
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", stop)
        fill(store, 1.0, "new")
    assert check_store(store, CLIPS).localizer_hash == "old" and read(store) == {0}

    # Killed after that, there is no store, which is written again.
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", lambda path, name: rename(path, name) if path == store else stop())
        fill(store, 1.0, "new")
    assert not store.exists()
    fill(store, 1.0, "new")
    assert check_store(store, CLIPS).localizer_hash == "new" and read(store) == {255}


def test_masks_of_another_model_or_of_other_clips_are_refused(tmp_path):
    store = tmp_path / "test"
    fill(store, 1.0)
    with pytest.raises(
        ValueError, match=r"test come from another localizer: runs/x with the hash 1234, expected 5678"
    ):
        check_store(store, CLIPS, "5678")
    first, second = ROWS
    others = {
        "a clip is missing": [first],
        "a clip too many": [first, second, {**second, "video_id": "c"}],
        "another number of frames": [{**first, "num_frames": 5}, second],
        "another subset": [first, {**second, "subset": "v1m"}],
        "another frame": [first, {**second, "frames": [file("a longer one")]}],
        "frames in another order": [{**first, "frames": first["frames"][::-1]}, second],
        "another sound": [first, {**second, "audio": file("a longer one")}],
    }
    for what, rows in others.items():
        with pytest.raises(ValueError, match=r"test \(3 frames\) belong to other clips than .* sizes of their files"):
            check_store(store, make_clips(*rows), "1234")
            pytest.fail(what)


def test_the_fingerprint_of_data_is_the_same_wherever_and_however_it_is_stored(tmp_path):
    make_mini_avsbench(tmp_path / "mini", image_size=32, clips={"v1s": (1, 1, 2), "v1m": (0, 0, 1)})
    shutil.copytree(tmp_path / "mini", tmp_path / "copy")
    parquet = export_avsbench(tmp_path / "mini", tmp_path / "parquet", configs=["avss"])
    cache = {"cache_dir": str(tmp_path / "cache")}
    clips = load_avsbench("avss", tmp_path / "mini", "test", **cache)
    expected = fingerprint_clips(clips)
    assert fingerprint_clips(load_avsbench("avss", tmp_path / "copy", "test", **cache)) == expected
    assert fingerprint_clips(datasets.load_dataset(str(parquet), "avss", split="test", **cache)) == expected
    assert fingerprint_clips(clips.select([2, 0, 1])) == expected
    # Frames of other data under the same names.
    for path in (tmp_path / "copy").glob("v1m/*/frames/0.*"):
        Image.new("RGB", (32, 32)).save(path)
    other = load_avsbench("avss", tmp_path / "copy", "test", **cache)
    assert [*other["video_id"]] == [*clips["video_id"]]
    assert fingerprint_clips(other) != expected


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("runs/mini/stage_1/model", "runs/mini/stage_1/model"),
        ("/home/me/.cache/huggingface/hub/models--me--aavs/snapshots/0a1b2c", "me/aavs@0a1b2c"),
        ("hub/models--me--aavs-s4/snapshots/0a1b2c/localizer", "me/aavs-s4@0a1b2c/localizer"),
    ],
)
def test_a_model_of_the_hub_is_named_with_its_revision(folder, name):
    assert name_model(folder) == name


@pytest.mark.parametrize("text", ["", "{}", '{"localizer": "x", "folder": 1}', "[1]"])
def test_what_is_no_manifest_is_refused_by_name(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="manifest.json is not the manifest of a mask store: .* Remove the folder"):
        check_store(tmp_path, CLIPS)


def test_the_hash_of_a_model_changes_with_its_weights_and_config_alone(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = hash_model_folder(tmp_path)
    (tmp_path / "README.md").write_text("a card")
    assert hash_model_folder(tmp_path) == first
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    second = hash_model_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"a": 2}))
    assert len({first, second, hash_model_folder(tmp_path)}) == 3
