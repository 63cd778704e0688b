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
import importlib.abc
import inspect
import io
import json
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
from datasets import packaged_modules
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from stepping_stones_hf import AAVSImageProcessorPil
from stepping_stones_hf.data import avsbench, labels, layout, load_avsbench, media
from stepping_stones_hf.data.labels import CLASS_NAMES
from stepping_stones_hf.media import read_audio

from ..test_media import png_header
from .conftest import MINI_CLIPS, make_object_tree


CONFIGS = ("s4", "ms3", "avss")
SPLITS = ("train", "validation", "test")


@pytest.fixture
def load(tmp_path) -> Callable:
    """`load_avsbench` with a cache of its own."""

    def load(config, data_dir, **kwargs):
        return load_avsbench(config, data_dir, cache_dir=str(tmp_path / "cache"), **kwargs)

    return load


@pytest.fixture(scope="module")
def mini(mini_dir, tmp_path_factory) -> dict[str, datasets.DatasetDict]:
    """The three configurations of a mini-AVSBench."""
    cache_dir = str(tmp_path_factory.mktemp("cache"))
    return {config: load_avsbench(config, mini_dir, cache_dir=cache_dir) for config in CONFIGS}


@pytest.fixture
def broken_import(monkeypatch) -> list[str]:
    """Lets every import of torchcodec fail, and lists them."""
    attempts = []

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, fullname, path=None, target=None):
            if fullname.partition(".")[0] == "torchcodec":
                attempts.append(fullname)
                raise ImportError(f"{fullname} is broken")

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    return attempts


def read_rows(root: Path, *subsets: str) -> list[dict[str, str]]:
    with open(root / "metadata.csv", newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["label"] in subsets]


def replace_in_metadata(root: Path, old: str, new: str) -> None:
    path = root / "metadata.csv"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def write_stage1_masks(folder: Path) -> None:
    folder.mkdir(parents=True)
    for index in range(5):
        Image.new("L", (224, 224), 50 * index).save(folder / f"{index}.png")


def first_clip(root: Path, subset: str = "v1s") -> Path:
    return root / subset / read_rows(root, subset)[0]["uid"]


def raw_rows(dataset: datasets.Dataset) -> list[dict]:
    """Rows as they are stored: images as their bytes or path."""
    return dataset.with_format("arrow")[:].to_pylist()


def video_ids(dataset: datasets.Dataset | datasets.IterableDataset) -> list[str]:
    if isinstance(dataset, datasets.IterableDataset):
        return [row["video_id"] for row in dataset.decode(False)]
    return list(dataset["video_id"])


def to_arrays(images: list[Image.Image]) -> list[np.ndarray]:
    return [np.asarray(image) for image in images]


def assert_same_images(images: list[Image.Image], expected: list[Image.Image]) -> None:
    assert len(images) == len(expected)
    for array, expected_array in zip(to_arrays(images), to_arrays(expected)):
        assert np.array_equal(array, expected_array)


class TestRows:
    def test_every_clip_is_in_its_configurations_and_split(self, mini_dir, mini):
        subsets = {"s4": ["v1s"], "ms3": ["v1m"], "avss": ["v1s", "v1m", "v2"]}
        for config, splits in mini.items():
            rows = read_rows(mini_dir, *subsets[config])
            for split, published_name, index in zip(SPLITS, ("train", "val", "test"), range(3)):
                expected = [row for row in rows if row["split"] == published_name]
                assert len(expected) == sum(MINI_CLIPS[subset][index] for subset in subsets[config])
                assert video_ids(splits[split]) == [row["uid"] for row in expected]
                assert list(splits[split]["subset"]) == [row["label"] for row in expected]

    def test_categories_are_the_classes_that_the_metadata_names(self, mini_dir, mini):
        named = {row["uid"]: row["a_obj"].split("_") for row in read_rows(mini_dir, "v1s", "v1m", "v2")}
        for config in CONFIGS:
            dataset = mini[config]["train"]
            assert dataset.features["categories"].feature.names == list(CLASS_NAMES)
            for row in dataset:
                assert [CLASS_NAMES[index] for index in row["categories"]] == named[row["video_id"]]

    def test_only_training_clips_of_s4_have_a_single_mask(self, mini):
        for row in (row for splits in mini.values() for dataset in splits.values() for row in dataset):
            num_masks = row["num_frames"]
            if row["subset"] == "v1s" and row["video_id"] in mini["s4"]["train"]["video_id"]:
                num_masks = 1
            assert row["num_frames"] == len(row["frames"]) == (10 if row["subset"] == "v2" else 5)
            assert row["mask_frame_indices"] == list(range(num_masks))
            for column in {"masks", "color_masks", "semantic_masks"} & row.keys():
                assert len(row[column]) == num_masks
            for index, mask in zip(row["mask_frame_indices"], row["masks"]):
                assert mask.size == row["frames"][index].size

    def test_masks_of_avss_are_class_indices(self, mini_dir, mini):
        for row in (row for dataset in mini["avss"].values() for row in dataset):
            folder = mini_dir / row["subset"] / row["video_id"] / "labels_semantic"
            published = [Image.open(folder / f"{index}.png") for index in row["mask_frame_indices"]]
            assert_same_images(row["masks"], published)
            # Viewers show the published colors.
            assert_same_images([mask.convert("RGB") for mask in row["masks"]], row["color_masks"])

    @pytest.mark.parametrize("config", ["s4", "ms3"])
    def test_masks_of_s4_and_ms3_are_binary_and_classes_are_kept(self, mini_dir, mini, config):
        values = set()
        for row in (row for dataset in mini[config].values() for row in dataset):
            folder = mini_dir / row["subset"] / row["video_id"] / "labels_semantic"
            published = [Image.open(folder / f"{index}.png") for index in row["mask_frame_indices"]]
            assert_same_images(row["semantic_masks"], published)
            assert_same_images(row["masks"], [np.asarray(index_map) > 0 for index_map in published])
            values |= {value for mask in row["masks"] for value in np.unique(mask).tolist()}
        assert values == {0, 1}

    @pytest.mark.parametrize("config", CONFIGS)
    def test_masks_are_stored_as_png_with_a_palette_and_all_else_as_paths(self, mini_dir, mini, config):
        for row in raw_rows(mini[config]["test"]):
            folder = mini_dir / row["subset"] / row["video_id"]
            for mask in row["masks"] + row.get("semantic_masks", []):
                image = Image.open(io.BytesIO(mask["bytes"]))
                assert (mask["path"], image.format, image.mode) == (None, "PNG", "P")
            for index in range(row["num_frames"]):
                assert row["frames"][index] == {"bytes": None, "path": str(folder / "frames" / f"{index}.jpg")}
                assert row["color_masks"][index] == {
                    "bytes": None,
                    "path": str(folder / "labels_rgb" / f"{index}.png"),
                }
            assert row["audio"] == {"bytes": None, "path": str(folder / "audio.wav")}

    def test_frames_and_color_masks_are_the_published_files(self, mini_dir, mini):
        row = mini["avss"]["test"][-1]
        folder = mini_dir / row["subset"] / row["video_id"]
        assert_same_images(row["frames"], [Image.open(folder / "frames" / f"{index}.jpg") for index in range(10)])
        assert_same_images(
            row["color_masks"], [Image.open(folder / "labels_rgb" / f"{index}.png") for index in range(10)]
        )

    @pytest.mark.parametrize("streaming", [False, True])
    def test_sound_is_not_decoded_and_torchcodec_is_not_needed(self, mini_dir, load, broken_import, streaming):
        dataset = load("s4", mini_dir, split="test", streaming=streaming)
        row = next(iter(dataset))
        assert broken_import == []
        assert row["audio"].keys() == {"bytes", "path"} and row["audio"]["bytes"] is None
        samples, rate = soundfile.read(row["audio"]["path"], dtype="float32")
        waveform, sampling_rate = read_audio(row["audio"]["path"])
        assert sampling_rate == rate and np.array_equal(waveform, samples[None])

    @pytest.mark.parametrize("suffix", [".png", ".jpeg", ".JPG"])
    def test_frames_may_have_another_format(self, mini_copy, load, suffix):
        for path in (first_clip(mini_copy) / "frames").iterdir():
            Image.open(path).save(path.with_suffix(suffix), quality=95)
            path.unlink()
        frames = load("s4", mini_copy)["train"][0]["frames"]
        folder = first_clip(mini_copy) / "frames"
        assert_same_images(frames, [Image.open(folder / f"{index}{suffix}") for index in range(5)])

    @pytest.mark.parametrize(
        "subtype, channels, rate", [("PCM_24", 2, 44100), ("FLOAT", 4, 8000), ("PCM_U8", 1, 22050)]
    )
    def test_sounds_may_have_another_rate_width_and_channels(self, mini_copy, load, subtype, channels, rate):
        path = first_clip(mini_copy) / "audio.wav"
        # A little short, as many published sounds are.
        soundfile.write(path, np.full((int(4.9 * rate), channels), 0.5), rate, subtype=subtype)
        row = load("s4", mini_copy, split="train")[0]
        waveform, sampling_rate = read_audio(row["audio"]["path"])
        assert waveform.shape == (channels, int(4.9 * rate)) and sampling_rate == rate

    def test_stage1_masks_are_read_for_every_frame(self, mini_dir, tmp_path, load):
        clips = [row["uid"] for row in read_rows(mini_dir, "v1s") if row["split"] == "train"]
        folders = [tmp_path / "stage1" / "v1s" / clip for clip in clips]
        for folder in folders[:2]:
            write_stage1_masks(folder)
        rows = load("s4", mini_dir, split="train", stage1_masks_dir=tmp_path / "stage1")
        for row in rows.select(range(2)):
            assert [mask.getextrema() for mask in row["stage1_masks"]] == [(50 * index,) * 2 for index in range(5)]
        assert rows[2]["stage1_masks"] is None
        # Masks that are written later are noticed.
        write_stage1_masks(folders[2])
        rows = load("s4", mini_dir, split="train", stage1_masks_dir=tmp_path / "stage1")
        assert [len(masks) for masks in rows["stage1_masks"]] == [5, 5, 5]
        (folders[2] / "4.png").unlink()
        with pytest.raises(ValueError, match=f"v1s/{clips[2]}: .*{folders[2]}/4.png"):
            list(load("s4", mini_dir, split="train", stage1_masks_dir=str(tmp_path / "stage1"), streaming=True))

    def test_missing_folder_of_stage1_masks(self, mini_dir, tmp_path, load):
        with pytest.raises(FileNotFoundError, match=f"stage1_masks_dir {tmp_path}/stage1 does not exist"):
            load("s4", mini_dir, stage1_masks_dir=tmp_path / "stage1")

    def test_columns_are_the_same_when_streamed(self, mini_dir, mini, load):
        for config in CONFIGS:
            streamed = load(config, mini_dir, split="test", streaming=True)
            assert streamed.features == mini[config]["test"].features
            assert "stage1_masks" not in streamed.features
            assert list(streamed.decode(False)) == raw_rows(mini[config]["test"])

    def test_columns_follow_from_the_copy_alone(self, mini_dir, mini, load):
        # Without `color_masks`, by which they are told apart, class indices must not be taken for binary masks.
        features = mini["avss"]["test"].features.copy()
        del features["color_masks"]
        dataset = load("avss", mini_dir, split="test", features=features)
        assert raw_rows(dataset) == raw_rows(mini["avss"]["test"])


class TestBothLayouts:
    @pytest.mark.parametrize("with_level", [True, False], ids=["Single-source", "unpacked"])
    @pytest.mark.parametrize("config", ["s4", "ms3"])
    def test_same_clips_give_the_same_frames_masks_and_sounds(
        self, mini_dir, mini, tmp_path, load, config, with_level
    ):
        root = make_object_tree(mini_dir, tmp_path / "avsbench_data")
        if not with_level:
            for folder in ("Single-source", "Multi-sources"):
                for path in (root / folder).iterdir():
                    path.rename(root / path.name)
                (root / folder).rmdir()
        splits = load(config, root)
        assert list(splits) == list(SPLITS)
        for split, dataset in splits.items():
            assert video_ids(dataset) == video_ids(mini[config][split])
            for row, expected in zip(dataset, mini[config][split]):
                assert not {"semantic_masks", "color_masks"} & row.keys()
                for key in ("subset", "num_frames", "mask_frame_indices"):
                    assert row[key] == expected[key]
                assert_same_images(row["frames"], expected["frames"])
                assert_same_images(row["masks"], expected["masks"])
                for mask in row["masks"]:
                    assert mask.mode == "P"
                waveform, rate = read_audio(row["audio"]["path"])
                expected_waveform, expected_rate = read_audio(expected["audio"]["path"])
                assert rate == expected_rate and np.array_equal(waveform, expected_waveform)

    def test_categories_of_avsbench_object_are_its_own(self, mini_dir, tmp_path, load):
        root = make_object_tree(mini_dir, tmp_path / "object")
        named = {row["uid"]: f"{row['a_obj']}_sounding" for row in read_rows(mini_dir, "v1s")}
        splits = load("s4", root)
        names = splits["train"].features["categories"].feature.names
        assert names == sorted(set(named.values()))
        for row in (row for dataset in splits.values() for row in dataset):
            assert [names[index] for index in row["categories"]] == [named[row["video_id"]]]
        for dataset in load("ms3", root).values():
            assert all(categories == [] for categories in dataset["categories"])

    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
    def test_masks_of_avsbench_object_may_have_any_mode(self, mini_dir, mini, tmp_path, load, mode):
        root = make_object_tree(mini_dir, tmp_path / "object")
        for path in (root / "Single-source" / "s4_data" / "gt_masks").rglob("*.png"):
            mask = np.asarray(Image.open(path))
            image = Image.fromarray(mask.astype(np.uint8) * (1 if mode == "P" else 255))
            if mode == "P":
                image.putpalette(bytes(6))
            image = image.convert(mode)
            assert image.mode == mode
            image.save(path)
        for row, expected in zip(load("s4", root)["test"], mini["s4"]["test"]):
            assert_same_images(row["masks"], expected["masks"])

    def test_pickles_without_sounds_are_not_read(self, mini_dir, tmp_path, load):
        root = make_object_tree(mini_dir, tmp_path / "object")
        data = root / "Single-source" / "s4_data"
        for path in list((data / "audio_wav").rglob("*.wav")):
            pickle = data / "audio_log_mel" / path.relative_to(data / "audio_wav").with_suffix(".pkl")
            pickle.parent.mkdir(parents=True, exist_ok=True)
            # Unpickling it would end the tests.
            pickle.write_bytes(b"cos\n_exit\n(I3\ntR.")
            path.unlink()
        with pytest.raises(ValueError, match=r"v1s/.*audio_wav/.*\.wav does not exist, nor does .*raw_videos.*\.mp4"):
            load("s4", root)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_text(path: Path) -> None:
    path.write_text("<html>404 Not Found</html>")


def write_huge_header(path: Path) -> None:
    path.write_bytes(png_header(60000, 60000))


def resize(path: Path) -> None:
    Image.open(path).resize((20, 20), Image.Resampling.NEAREST).save(path)


def blur(path: Path) -> None:
    """What careless resizing does to colors."""
    image = Image.open(path)
    image.resize((100, 100), Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BILINEAR).save(path)


def flip_a_bit(path: Path) -> None:
    """Of the checksum of the pixels, which stand before the last twelve bytes."""
    content = bytearray(path.read_bytes())
    content[-13] ^= 1
    path.write_bytes(content)


def write_16_bits(path: Path) -> None:
    Image.fromarray(np.full((64, 64), 300, np.uint16)).save(path, format="PNG")


def turn(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)


def write_nan(path: Path) -> None:
    soundfile.write(path, np.full(80000, np.nan), 16000, subtype="FLOAT")


def write_no_samples(path: Path) -> None:
    soundfile.write(path, np.zeros(0), 16000)


def set_rate_to_0(path: Path) -> None:
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, 24, 0)
    path.write_bytes(content)


DAMAGES = [
    ("frames/3.jpg", Path.unlink, "does not exist"),
    ("frames/3.jpg", empty, "is empty"),
    ("frames/3.jpg", truncate, "is damaged"),
    ("frames/3.jpg", write_text, "is not a readable JPEG or PNG image"),
    ("frames/3.jpg", write_huge_header, "pixels"),
    ("frames/3.jpg", write_16_bits, r"has 16 bits a pixel or more \(mode I;16\)"),
    ("frames/3.jpg", turn, r"EXIF orientation 6\)\. Save it upright"),
    ("labels_rgb/0.png", flip_a_bit, "is damaged: .*IDAT"),
    ("labels_rgb/0.png", Path.unlink, "does not exist"),
    ("labels_rgb/0.png", empty, "is empty"),
    ("labels_rgb/0.png", truncate, "is (damaged|not a readable)"),
    ("labels_rgb/0.png", write_huge_header, "pixels"),
    ("labels_rgb/0.png", resize, r"frame's height and width \(64, 64\), got \(20, 20\)"),
    ("labels_rgb/0.png", blur, "pixels have colors that are not in AVSBench's palette"),
    ("audio.wav", Path.unlink, "does not exist"),
    ("audio.wav", empty, "is empty"),
    ("audio.wav", truncate, "is truncated"),
    ("audio.wav", write_text, "is not a readable sound"),
    ("audio.wav", write_nan, "80000 samples that are NaN"),
    ("audio.wav", write_no_samples, "has no samples"),
    ("audio.wav", set_rate_to_0, "sampling rate of 0"),
]


class TestDamage:
    @pytest.mark.parametrize("name, damage, message", DAMAGES, ids=[f"{row[0]}-{row[1].__name__}" for row in DAMAGES])
    def test_damaged_file_stops_with_its_name_or_is_skipped(self, mini_copy, load, caplog, name, damage, message):
        clip = first_clip(mini_copy)
        damage(clip / name)
        expected = f"v1s/{clip.name}: {clip / name}.*{message}"
        with pytest.raises(ValueError, match=f'^{expected}.* on_error="skip" leaves such clips out'):
            load("s4", mini_copy)
        with pytest.raises(ValueError, match=f"^{expected}"):
            list(load("s4", mini_copy, split="train", streaming=True))

        rest = [row["uid"] for row in read_rows(mini_copy, "v1s") if row["split"] == "train"][1:]
        assert video_ids(load("s4", mini_copy, on_error="skip")["train"]) == rest
        assert video_ids(load("s4", mini_copy, split="train", streaming=True, on_error="skip")) == rest
        warnings = [record.getMessage() for record in caplog.records if "Skipped" in record.getMessage()]
        # The table names it and counts; a stream, which need not come to its end, names it.
        assert len(warnings) == 3
        assert warnings[0].startswith(f"Skipped v1s/{clip.name}: {clip / name}") and warnings[2] == warnings[0]
        assert warnings[1] == "Skipped 1 of 3 clips of 's4', train."

    @pytest.mark.parametrize("num_proc", [None, 2])
    def test_skipped_clips_are_counted_over_all_processes(self, mini_copy, load, caplog, num_proc):
        for row in read_rows(mini_copy, "v1s")[:2]:
            empty(mini_copy / "v1s" / row["uid"] / "audio.wav")
        assert len(load("s4", mini_copy, on_error="skip", num_proc=num_proc)["train"]) == 1
        assert "Skipped 2 of 3 clips of 's4', train." in caplog.text

    def test_split_that_loses_all_its_clips_is_named(self, mini_copy, load):
        (row,) = [row for row in read_rows(mini_copy, "v1s") if row["split"] == "val"]
        empty(mini_copy / "v1s" / row["uid"] / "audio.wav")
        with pytest.raises(ValueError, match="No clip of 's4', validation can be read.*configs="):
            load("s4", mini_copy, on_error="skip")
        assert list(load("s4", mini_copy, on_error="skip", split="validation", streaming=True)) == []

    @pytest.mark.parametrize("num_proc", [None, 2])
    def test_load_dataset_itself_names_the_file(self, mini_copy, tmp_path, num_proc):
        path = first_clip(mini_copy) / "frames" / "0.jpg"
        empty(path)
        with pytest.raises(ValueError, match=f"^v1s/{path.parts[-3]}: {path} is empty"):
            datasets.load_dataset(
                "avsbench",
                "s4",
                data_files=str(mini_copy / "metadata.csv"),
                cache_dir=str(tmp_path / "cache"),
                num_proc=num_proc,
            )

    @pytest.mark.parametrize(
        "uid, message",
        [
            ("..", "uid is '..', which is not the name of a folder"),
            ("/etc", "uid is '/etc', which is not the name of a folder"),
            ("C:", "uid is 'C:', which is not the name of a folder"),
        ],
    )
    def test_uid_that_leaves_its_folder_stops_or_is_skipped(self, mini_copy, load, caplog, uid, message):
        rows = read_rows(mini_copy, "v1s")
        replace_in_metadata(mini_copy, f",{rows[0]['uid']},", f",{uid},")
        with pytest.raises(ValueError, match=f"^v1s/{uid} .*metadata.csv, line 2.: {message}.*on_error"):
            load("s4", mini_copy)
        train = load("s4", mini_copy, on_error="skip")["train"]
        assert video_ids(train) == [row["uid"] for row in rows[1:] if row["split"] == "train"]
        assert f"Skipped v1s/{uid} " in caplog.text
        assert f"Skipped 1 rows of {mini_copy / 'metadata.csv'}." in caplog.text
        # It is no matter of the other subsets.
        assert len(load("ms3", mini_copy)["train"]) == MINI_CLIPS["v1m"][0]

    @pytest.mark.parametrize("uid", ["NA", "00123", "two words", "日本_é", "-x[1]*"])
    def test_unusual_uid_is_found(self, mini_copy, load, uid):
        clip = first_clip(mini_copy)
        replace_in_metadata(mini_copy, f",{clip.name},", f",{uid},")
        clip.rename(clip.with_name(uid))
        row = load("s4", mini_copy)["train"][0]
        assert row["video_id"] == uid
        assert [frame.size for frame in row["frames"]] == [(64, 64)] * 5
        assert Path(row["audio"]["path"]) == clip.with_name(uid) / "audio.wav"

    def test_links_out_of_the_copy_need_to_be_allowed(self, mini_copy, tmp_path, load):
        clip = first_clip(mini_copy)
        clip.rename(tmp_path / "elsewhere")
        clip.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ValueError, match=f"v1s/{clip.name}: {clip}/frames/0.jpg is a link to .*elsewhere"):
            load("s4", mini_copy)
        assert len(load("s4", mini_copy, on_error="skip")["train"]) == 2
        assert len(load("s4", mini_copy, allow_outside_links=True)["train"]) == 3

    def test_colors_outside_the_palette_become_background_on_request(self, mini_copy, load):
        path = first_clip(mini_copy) / "labels_rgb" / "0.png"
        colors = np.array(Image.open(path))
        assert (colors[10:50, 10:50] > 0).any()
        colors[10:50, 10:50] = (1, 2, 3)
        Image.fromarray(colors).save(path)
        with pytest.raises(ValueError, match=f"{path}: 1600 of 4096 pixels"):
            load("s4", mini_copy)
        row = load("s4", mini_copy, unknown_color="background")["train"][0]
        for column in ("masks", "semantic_masks"):
            assert not np.asarray(row[column][0])[10:50, 10:50].any()
        # The published file stays as it is.
        assert_same_images(row["color_masks"], [colors])

    def test_published_oddities_are_understood_and_reported(self, mini_copy, load, caplog):
        rows = read_rows(mini_copy, "v1s")
        replace_in_metadata(mini_copy, f"{rows[0]['a_obj']},train,v1s", "h orse,train,v1s")
        replace_in_metadata(mini_copy, f"{rows[-1]['a_obj']},test,v1s", "off-the-screen,test,v1s")
        splits = load("s4", mini_copy)
        assert splits["train"][0]["categories"] == [CLASS_NAMES.index("horse")]
        assert splits["test"][-1]["categories"] == []
        assert "a_obj 'h orse' is read as horse" in caplog.text

    @pytest.mark.parametrize("arguments", [{"on_error": "ignore"}, {"unknown_color": "white"}])
    def test_misspelled_option(self, mini_dir, load, arguments):
        ((name, value),) = arguments.items()
        with pytest.raises(ValueError, match=f"{name} should be .* got '{value}'"):
            load("s4", mini_dir, **arguments)


class TestWrongFolder:
    def test_folder_without_avsbench(self, tmp_path, load):
        with pytest.raises(FileNotFoundError, match=f"{tmp_path} has none of metadata.csv"):
            load("s4", tmp_path)

    def test_unknown_configuration(self, mini_dir, tmp_path, load):
        with pytest.raises(ValueError, match="config should be one of s4, ms3, avss, got 'v1s'"):
            load("v1s", mini_dir)
        with pytest.raises(ValueError, match=r"'v1s' not found\. Available: \['s4', 'ms3', 'avss'\]"):
            datasets.load_dataset(
                "avsbench", "v1s", data_files=str(mini_dir / "metadata.csv"), cache_dir=str(tmp_path)
            )

    def test_avsbench_object_has_no_avss(self, mini_dir, tmp_path, load):
        root = make_object_tree(mini_dir, tmp_path / "object")
        with pytest.raises(FileNotFoundError, match="AVSBench-object has no AVSS"):
            load("avss", root)
        with pytest.raises(ValueError, match="belongs to AVSBench-object and does not have the configuration 'avss'"):
            load("avss", root / "Single-source" / "s4_meta_data.csv")

    def test_folder_with_both_layouts(self, mini_copy, load):
        make_object_tree(mini_copy, mini_copy)
        with pytest.raises(ValueError, match="has both metadata.csv and Single-source/s4_meta_data.csv"):
            load("s4", mini_copy)
        semantic = load("s4", mini_copy / "metadata.csv")["train"]
        single = load("s4", mini_copy / "Single-source" / "s4_meta_data.csv")["train"]
        assert ("color_masks" in semantic.features, "color_masks" in single.features) == (True, False)
        assert len(load("avss", mini_copy)["train"]) == 7

    def test_copy_without_clips_of_the_configuration(self, mini_copy, load):
        for row in read_rows(mini_copy, "v1m"):
            replace_in_metadata(mini_copy, f"{row['a_obj']},{row['split']},v1m", f"{row['a_obj']},{row['split']},v1s")
        with pytest.raises(ValueError, match="metadata.csv has no clip of 'ms3' that can be used"):
            load("ms3", mini_copy)

    def test_renumbered_classes_are_refused(self, mini_copy, load):
        (mini_copy / "label2idx.json").write_text(json.dumps({name: i for i, name in enumerate(CLASS_NAMES)}))
        with pytest.raises(ValueError, match="label2idx.json does not number the 71 classes"):
            load("s4", mini_copy)

    def test_load_dataset_without_a_csv_file(self, mini_dir, tmp_path):
        files = [str(mini_dir / "label2idx.json"), str(mini_dir / "mini_avsbench.json")]
        message = r"one csv file .*s4_meta_data\.csv, ms3_meta_data\.csv\), got 2 files.*load_avsbench\('s4'"
        with pytest.raises(ValueError, match=message):
            datasets.load_dataset("avsbench", "s4", data_files=files, cache_dir=str(tmp_path))

    @pytest.mark.parametrize("streaming", [False, True])
    def test_load_dataset_without_a_configuration(self, mini_dir, tmp_path, streaming):
        with pytest.raises(ValueError, match="Name a configuration of avsbench, 's4', 'ms3', 'avss'"):
            datasets.load_dataset(
                "avsbench",
                data_files=str(mini_dir / "metadata.csv"),
                cache_dir=str(tmp_path),
                streaming=streaming,
            )


class TestLoadDataset:
    def test_name_avsbench_is_known_to_datasets(self, mini_dir, mini, tmp_path):
        splits = datasets.load_dataset(
            "avsbench", "s4", data_files=str(mini_dir / "metadata.csv"), cache_dir=str(tmp_path / "cache")
        )
        for split in SPLITS:
            assert raw_rows(splits[split]) == raw_rows(mini["s4"][split])
        by_folder = datasets.load_dataset(
            "avsbench", "ms3", data_dir=str(mini_dir), split="test", cache_dir=str(tmp_path / "cache")
        )
        assert raw_rows(by_folder) == raw_rows(mini["ms3"]["test"])

    @pytest.mark.parametrize("config", ["s4", "ms3"])
    def test_folder_of_avsbench_object_is_enough(self, mini_dir, tmp_path, load, config):
        root = make_object_tree(mini_dir, tmp_path / "object")
        arguments = {"data_dir": str(root), "cache_dir": str(tmp_path / "cache")}
        splits = datasets.load_dataset("avsbench", config, **arguments)
        expected = load(config, root)
        for split in SPLITS:
            assert raw_rows(splits[split]) == raw_rows(expected[split])
        # The csv file is noticed although `datasets` does not list it.
        path = next(root.rglob(f"{config}_meta_data.csv"))
        path.write_text(path.read_text().replace(f"{splits['train'][0]['video_id']},", "renamed,"))
        with pytest.raises(ValueError, match="renamed"):
            datasets.load_dataset("avsbench", config, **arguments)

    def test_registration_uses_a_private_table_of_datasets(self):
        """`datasets` has no public way to name a builder: when it moves this table, `register` has to follow."""
        name, builder_hash = packaged_modules._PACKAGED_DATASETS_MODULES["avsbench"]
        assert name == "stepping_stones_hf.data.avsbench"
        assert builder_hash == packaged_modules._hash_python_lines(
            [line for module in (avsbench, labels, layout, media) for line in inspect.getsource(module).splitlines()]
        )

    @pytest.mark.parametrize("name", ["_PACKAGED_DATASETS_MODULES", "_hash_python_lines"])
    def test_release_of_datasets_without_that_table_is_named(self, monkeypatch, name):
        monkeypatch.delattr(packaged_modules, name)
        with pytest.raises(ImportError, match=f"datasets {datasets.__version__} does not register builders"):
            avsbench.register()

    def test_processes_share_the_work(self, mini_dir, mini, load):
        splits = load("avss", mini_dir, num_proc=2)
        for split in SPLITS:
            assert raw_rows(splits[split]) == raw_rows(mini["avss"][split])

    def test_path_may_look_like_a_pattern(self, mini_copy, tmp_path, load):
        root = mini_copy.rename(tmp_path / "AVSBench [v2] #1*, é?")
        assert len(load("s4", root)["train"]) == 3
        assert len(video_ids(load("s4", root, split="train", streaming=True))) == 3

    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize("name", ["copy [1-9]", "which?", "all **", "{a,b}", "zip::disk", "!not"])
    def test_path_may_look_like_a_pattern_and_lead_over_a_link(self, mini_dir, tmp_path, load, name, streaming):
        (tmp_path / name).mkdir()
        (tmp_path / name / "AVSBench").symlink_to(mini_dir)
        clips = load("ms3", tmp_path / name / "AVSBench", split="train", streaming=streaming)
        expected = load("ms3", mini_dir, split="train")
        assert video_ids(clips) == video_ids(expected)
        for row, other in zip(clips, expected):
            assert_same_images(row["frames"], other["frames"])

    @pytest.mark.parametrize("streaming", [False, True])
    def test_home_folder_may_be_abbreviated(self, mini_dir, monkeypatch, load, streaming):
        monkeypatch.setenv("HOME", str(mini_dir.parent))
        assert len(list(load("s4", f"~/{mini_dir.name}", split="train", streaming=streaming))) == 3

    def test_path_may_be_relative(self, mini_dir, monkeypatch, tmp_path, load):
        monkeypatch.chdir(mini_dir.parent)
        dataset = load("s4", mini_dir.name, split="train")
        monkeypatch.chdir(tmp_path)
        assert dataset[0]["frames"][0].size == (64, 64)


class TestStreaming:
    @pytest.mark.parametrize("config", CONFIGS)
    def test_workers_share_the_clips(self, mini_dir, mini, load, config):
        dataset = load(config, mini_dir, split="train", streaming=True)
        loader = DataLoader(dataset.select_columns("video_id"), batch_size=None, num_workers=2)
        seen = [row["video_id"] for row in loader]
        assert sorted(seen) == sorted(video_ids(mini[config]["train"]))

    def test_shuffling_changes_the_order_and_keeps_the_clips(self, mini_dir, mini, load):
        expected = video_ids(mini["avss"]["train"])
        dataset = load("avss", mini_dir, split="train", streaming=True)
        # Clips are shuffled before they are read, without a buffer.
        orders = [video_ids(dataset.shuffle(seed=seed, buffer_size=1)) for seed in range(3)]
        assert all(sorted(order) == sorted(expected) for order in orders)
        assert len({tuple(order) for order in [*orders, expected]}) > 2
        assert orders[0] == video_ids(dataset.shuffle(seed=0, buffer_size=1))

    def test_nothing_is_written(self, mini_dir, tmp_path, load):
        list(load("s4", mini_dir, split="train", streaming=True))
        assert list(tmp_path.rglob("*.arrow")) == []


class TestCache:
    def tables(self, tmp_path) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.arrow")}

    def test_same_copy_is_not_read_again(self, mini_copy, tmp_path, load):
        expected = raw_rows(load("s4", mini_copy)["train"])
        tables = self.tables(tmp_path)
        assert len(tables) == 3
        empty(first_clip(mini_copy) / "audio.wav")
        assert raw_rows(load("s4", mini_copy)["train"]) == expected
        assert self.tables(tmp_path) == tables

    def test_changed_csv_is_noticed(self, mini_copy, load):
        before = video_ids(load("s4", mini_copy)["train"])
        path = mini_copy / "metadata.csv"
        path.write_text("".join(line for line in path.read_text().splitlines(True) if before[0] not in line))
        assert video_ids(load("s4", mini_copy)["train"]) == before[1:]

    def test_changed_code_is_noticed(self, mini_dir, tmp_path, monkeypatch, load):
        load("s4", mini_dir)
        tables = self.tables(tmp_path)
        registered = packaged_modules._PACKAGED_DATASETS_MODULES
        monkeypatch.setitem(registered, "avsbench", registered["avsbench"])  # put back after the test
        hashes, get_source = {registered["avsbench"]}, inspect.getsource
        for changed in (avsbench, labels, layout, media):
            changed_source = {changed: get_source(changed) + "changed = True"}
            with monkeypatch.context() as patch:
                patch.setattr(inspect, "getsource", lambda m, new=changed_source: new.get(m) or get_source(m))
                avsbench.register()
            hashes.add(registered["avsbench"])
        assert len(hashes) == 5
        load("s4", mini_dir)
        assert self.tables(tmp_path).items() > tables.items()
        assert len(self.tables(tmp_path)) == 6

    def test_cached_table_still_says_what_it_lacks(self, mini_copy, load, caplog):
        rows = read_rows(mini_copy, "v1s")
        empty(mini_copy / "v1s" / rows[0]["uid"] / "audio.wav")
        replace_in_metadata(mini_copy, f",{rows[1]['uid']},", ",..,")
        load("s4", mini_copy, on_error="skip")
        caplog.clear()
        load("s4", mini_copy, on_error="skip", split="train[:1]")
        assert [record.getMessage() for record in caplog.records] == [
            f"Skipped 1 rows of {mini_copy / 'metadata.csv'}.",
            "Skipped 1 of 2 clips of 's4', train.",
        ]

    def test_repaired_file_is_read_on_request(self, mini_copy, tmp_path, load):
        path = first_clip(mini_copy) / "audio.wav"
        content = path.read_bytes()
        empty(path)
        assert len(load("s4", mini_copy, on_error="skip")["train"]) == 2
        path.write_bytes(content)
        assert len(load("s4", mini_copy, on_error="skip", download_mode="force_redownload")["train"]) == 3
        empty(path)
        splits = datasets.load_dataset(
            "avsbench",
            "s4",
            data_files=str(mini_copy / "metadata.csv"),
            on_error="skip",
            cache_dir=str(tmp_path / "cache"),
            download_mode="force_redownload",
        )
        assert len(splits["train"]) == 2

    def test_options_have_tables_of_their_own(self, mini_copy, load):
        empty(first_clip(mini_copy) / "audio.wav")
        assert len(load("s4", mini_copy, on_error="skip")["train"]) == 2
        with pytest.raises(ValueError, match="audio.wav is empty"):
            load("s4", mini_copy)


class TestReleasedTensors:
    """Tensors computed by the released program, from frames and colors that come through the builder."""

    def load_tree(self, root: Path, load) -> dict[str, dict]:
        splits = load("avss", root, unknown_color="background")
        return {row["video_id"]: row for dataset in splits.values() for row in dataset}

    def prepare(self, row: dict, stage: int) -> tuple[AAVSImageProcessorPil, list, dict]:
        """As the released program trains: the first frame stands for all in S4's training split, and stage 1 derives
        its targets from the colors."""
        processor = AAVSImageProcessorPil(localization=stage == 1)
        repeats = row["num_frames"] // len(row["masks"])
        frames = [row["frames"][index] for index in row["mask_frame_indices"]] * repeats
        maps = row["color_masks" if stage == 1 else "masks"] * repeats
        prompts = [np.asarray(mask) > 0 for mask in row["masks"]] * repeats
        return processor, maps, processor(frames, segmentation_maps=maps, prompt_masks=prompts, return_tensors="pt")

    @pytest.fixture
    def whole_tree(self, shared_dir, tmp_path) -> Path:
        tree, root = shared_dir / "goldens" / "aavs_dataset" / "tree", tmp_path / "tree"
        for path in (path for path in tree.rglob("*") if path.is_file()):
            (root / path.relative_to(tree)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, root / path.relative_to(tree))
        # The released program reads no other frame of this clip, and the tree has no other.
        frames = root / "v1s" / "v1s_train0" / "frames"
        for index in range(1, 5):
            shutil.copyfile(frames / "0.jpg", frames / f"{index}.jpg")
        return root

    def test_whole_dataset_is_equal(self, shared_dir, whole_tree, load):
        rows = self.load_tree(whole_tree, load)
        for stage in (1, 2):
            path = shared_dir / "goldens" / "aavs_dataset" / f"dataset_stage{stage}"
            expected = load_file(path.with_suffix(".safetensors"))
            entries = json.loads(path.with_suffix(".json").read_text())
            assert entries.keys() == rows.keys()
            for clip, entry in entries.items():
                processor, maps, inputs = self.prepare(rows[clip], stage)
                assert torch.equal(inputs["pixel_values"][:, :, ::7, ::7], expected[f"{clip}.pixel_values_sub7"]), clip
                assert torch.equal(processor.prepare_label_maps(maps), expected[f"{clip}.mask_recs"].long()), clip
                assert [classes.tolist() for classes in inputs["class_labels"]] == entry["class_labels"]
                assert [masks.sum((1, 2)).tolist() for masks in inputs["mask_labels"]] == entry["mask_label_areas"]
                for index in (0, 1):
                    assert torch.equal(inputs["mask_labels"][index], expected[f"{clip}.mask_labels.{index}"].float())
                if stage == 2:
                    assert torch.equal(inputs["prompt_masks"], expected[f"{clip}.train_audio_boost_mask"].float())

    @pytest.fixture
    def small_tree(self, fixtures_dir, tmp_path) -> Path:
        """Three frames of that dataset, as two clips of frames that repeat."""
        clips = {"v1s": ["v1s_test0_0"] * 5, "v2": ["v2_test0_0", "v2_test0_1"] * 5}
        for subset, names in clips.items():
            folder = tmp_path / "tree" / subset / "clip"
            for index, name in enumerate(names):
                for kind, file in (("frames", "frame.png"), ("labels_rgb", "colors.png")):
                    (folder / kind).mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(fixtures_dir / "aavs_dataset" / name / file, folder / kind / f"{index}.png")
            soundfile.write(folder / "audio.wav", np.zeros(16000 * len(names)), 16000)
        rows = "".join(f"clip,clip,0,0,dog,test,{subset}\n" for subset in clips)
        (tmp_path / "tree" / "metadata.csv").write_text("vid,uid,s_min,s_sec,a_obj,split,label\n" + rows)
        return tmp_path / "tree"

    @pytest.mark.parametrize("stage", [1, 2])
    def test_three_frames_are_equal(self, fixtures_dir, small_tree, load, stage):
        expected = load_file(fixtures_dir / "aavs_dataset" / "pixel_values.safetensors")
        rows = load("avss", small_tree, unknown_color="background")["test"]
        for row, index, name in ((rows[0], 4, "v1s_test0_0"), (rows[1], 2, "v2_test0_0"), (rows[1], 9, "v2_test0_1")):
            _, _, inputs = self.prepare(row, stage)
            assert torch.equal(inputs["pixel_values"][index, :, ::7, ::7], expected[name])
            targets = np.array(Image.open(fixtures_dir / "aavs_dataset" / name / f"stage{stage}_targets.png"))
            classes = inputs["class_labels"][index]
            assert classes.tolist() == np.unique(targets).tolist()
            for class_index, mask in zip(classes.tolist(), inputs["mask_labels"][index]):
                assert np.array_equal(mask, targets == class_index)

    def test_colors_outside_the_palette_are_not_overlooked(self, small_tree, load):
        with pytest.raises(ValueError, match=r"v2/clip: .*v2/clip/labels_rgb/0\.png: 16 of 19200 pixels"):
            load("avss", small_tree)


class TestRealClips:
    @pytest.mark.parametrize("config, counts", [("s4", (15, 5, 9)), ("ms3", (6, 1, 4)), ("avss", (31, 9, 22))])
    def test_every_clip_is_read(self, shared_dir, load, caplog, config, counts):
        splits = load(config, shared_dir / "real_clips")
        streams = load(config, shared_dir / "real_clips", streaming=True)
        for split, count in zip(SPLITS, counts, strict=True):
            assert len(splits[split]) == count
            assert video_ids(streams[split]) == video_ids(splits[split])
        assert "Skipped" not in caplog.text


def test_s4_training_clips_may_come_with_their_annotated_frame_alone(mini_copy, tmp_path):
    clips = sorted(path for path in (mini_copy / "v1s").iterdir() if not (path / "labels_rgb" / "1.png").exists())
    for folder in clips[:2]:
        for index in range(1, 5):
            (folder / "frames" / f"{index}.jpg").unlink()
    rows = load_avsbench("s4", mini_copy, split="train", cache_dir=str(tmp_path / "cache"))
    frames = {row["video_id"]: len(row["frames"]) for row in rows}
    assert [frames[folder.name] for folder in clips] == [1, 1, 5]
    assert set(rows["num_frames"]) == {5}
    (clips[2] / "frames" / "3.jpg").unlink()  # some of the others, but not all
    with pytest.raises(ValueError, match=r"3\.jpg does not exist"):
        load_avsbench("s4", mini_copy, split="train", cache_dir=str(tmp_path / "other"))
