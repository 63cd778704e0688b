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
import os

import numpy as np
import pytest
from PIL import Image

from stepping_stones_hf.training.mask_store import (
    Manifest,
    begin_store,
    check_store,
    complete_store,
    hash_clips,
    hash_model_folder,
    mask_path,
    partial_store,
    write_mask,
)


CLIPS = [
    {"subset": "v1s", "video_id": "a_0_5000", "num_frames": 2},
    {"subset": "v2", "video_id": "b", "num_frames": 1},
]


def fill(folder, value: float, localizer_hash: str = "1234") -> None:
    begin_store(folder)
    for clip in CLIPS:
        for frame in range(clip["num_frames"]):
            path = mask_path(partial_store(folder), clip["subset"], clip["video_id"], frame)
            write_mask(path, np.full((4, 6), value))
    complete_store(folder, Manifest("runs/x", localizer_hash, hash_clips(CLIPS), 3, False, {"S4": {"miou": 0.5}}))


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
    assert check_store(store, CLIPS[::-1], "1234") == Manifest(
        "runs/x", "1234", hash_clips(CLIPS), 3, False, {"S4": {"miou": 0.5}}
    )
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


def test_a_store_that_was_being_written_is_begun_anew(tmp_path):
    store = tmp_path / "test"
    begin_store(store)
    write_mask(mask_path(partial_store(store), "v2", "gone", 0), np.ones((2, 2)))
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

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", lambda folder, **_: stop() if folder == store else None)
        fill(store, 1.0, "new")
    assert check_store(store, CLIPS).localizer_hash == "old" and read(store) == {0}

    # Killed after that, there is no store, which is written again.
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", stop)
        fill(store, 1.0, "new")
    assert not store.exists()
    fill(store, 1.0, "new")
    assert check_store(store, CLIPS).localizer_hash == "new" and read(store) == {255}


def test_masks_of_another_model_or_of_other_clips_are_refused(tmp_path):
    store = tmp_path / "test"
    fill(store, 1.0)
    with pytest.raises(
        ValueError, match=r"test come from another first stage: runs/x with the hash 1234, expected 5678"
    ):
        check_store(store, CLIPS, "5678")
    for other in (CLIPS[:1], [*CLIPS, {"subset": "v2", "video_id": "c", "num_frames": 1}]):
        with pytest.raises(ValueError, match=r"test \(3 frames\) belong to other clips"):
            check_store(store, other, "1234")
    with pytest.raises(ValueError, match="belong to other clips"):
        check_store(store, [{**CLIPS[0], "num_frames": 5}, CLIPS[1]])


@pytest.mark.parametrize("text", ["", "{}", '{"localizer": "x", "folder": 1}', "[1]"])
def test_what_is_no_manifest_is_refused_by_name(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="manifest.json is not the manifest of a mask store"):
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
