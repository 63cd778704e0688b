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
import datasets
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch.testing import assert_close
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from stepping_stones_hf import (
    AAVSForAudioVisualSegmentation,
    AAVSImageProcessorPil,
    AAVSProcessor,
    VGGishConfig,
    VGGishFeatureExtractor,
)
from stepping_stones_hf.data import load_avsbench
from stepping_stones_hf.data.collator import AVSCollator
from stepping_stones_hf.data.labels import color_to_index
from stepping_stones_hf.media import read_audio
from stepping_stones_hf.training.clips import SingleFrames

from ..models.aavs.conftest import make_config


def make_processor(localization=False, size=32):
    size = {"height": size, "width": size}
    return AAVSProcessor(
        AAVSImageProcessorPil(size=size, label_size=size, localization=localization), VGGishFeatureExtractor()
    )


@pytest.fixture(scope="module")
def avss(mini_dir, tmp_path_factory):
    return load_avsbench("avss", mini_dir, cache_dir=str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("stage", [1, 2])
def test_clips_become_the_tensors_of_the_released_loader(shared_dir, tmp_path, stage):
    folder = shared_dir / "goldens" / "aavs_dataset"
    expected = load_file(folder / f"dataset_stage{stage}.safetensors")
    dataset = load_avsbench("avss", folder / "tree", unknown_color="background", cache_dir=str(tmp_path))
    processor = AAVSProcessor(AAVSImageProcessorPil(localization=stage == 1), VGGishFeatureExtractor())
    collator = AVSCollator(processor, prompt="truth" if stage == 2 else None, first_frame="repeat")
    clips = [clip for split in dataset.values() for clip in collator.prepare(split)]
    assert {clip["video_id"] for clip in clips} == {name.split(".")[0] for name in expected}
    for clip in clips:
        name = clip["video_id"]
        inputs = collator([clip])
        assert_close(inputs["pixel_values"][..., ::7, ::7], expected[f"{name}.pixel_values_sub7"], rtol=0, atol=1e-6)
        assert len(inputs["pixel_values"]) == len(inputs["input_features"]) == clip["num_frames"]
        for frame, label_map in enumerate(expected[f"{name}.mask_recs"]):
            if f"{name}.mask_labels.{frame}" in expected:
                masks = expected[f"{name}.mask_labels.{frame}"].float()
                assert_close(inputs["mask_labels"][frame], masks, rtol=0, atol=0)
            assert_close(inputs["class_labels"][frame], label_map.unique().long())
        if f"{name}.train_audio_boost_mask" in expected:
            assert_close(inputs["prompt_masks"], expected[f"{name}.train_audio_boost_mask"].float(), rtol=0, atol=0)


def test_a_batch_is_what_the_processor_makes_of_the_files(avss, mini_dir):
    collator = AVSCollator(make_processor(), prompt="truth")
    clips = collator.prepare(avss["test"])
    inputs = collator([clips[index] for index in range(3)])
    assert [clips[index]["subset"] for index in range(3)] == ["v1s", "v1m", "v2"]
    first = 0
    for index in range(3):
        folder = mini_dir / clips[index]["subset"] / clips[index]["video_id"]
        num_frames = clips[index]["num_frames"]
        maps = [color_to_index(Image.open(folder / "labels_rgb" / f"{frame}.png")) for frame in range(num_frames)]
        waveform, sampling_rate = read_audio(folder / "audio.wav")
        expected = collator.processor(
            images=[Image.open(folder / "frames" / f"{frame}.jpg") for frame in range(num_frames)],
            segmentation_maps=maps,
            audio=waveform,
            sampling_rate=sampling_rate,
            return_tensors="pt",
        )
        rows = slice(first, first + num_frames)
        for name in ("pixel_values", "input_features"):
            assert_close(inputs[name][rows], expected[name], rtol=0, atol=0)
        for name in ("mask_labels", "class_labels"):
            assert_close(inputs[name][rows], expected[name], rtol=0, atol=0)
        label_maps = collator.processor.image_processor.prepare_label_maps(maps)
        assert_close(inputs["prompt_masks"][rows], (label_maps > 0).float(), rtol=0, atol=0)
        first += num_frames
    assert first == len(inputs["pixel_values"]) == 20


def test_decoded_rows_and_encoded_rows_give_the_same(avss):
    collator = AVSCollator(make_processor(localization=True))
    decoded, encoded = avss["validation"], collator.prepare(avss["validation"])
    assert isinstance(decoded[0]["frames"][0], Image.Image) and not isinstance(encoded[0]["frames"][0], Image.Image)
    for index in range(3):
        assert_close(dict(collator([decoded[index]])), dict(collator([encoded[index]])), rtol=0, atol=0)


def test_single_frame_clips_are_repeated_with_the_sound_of_each_second_or_used_once(avss):
    (clip,) = list(avss["train"].filter(lambda subset: subset == "v1s", input_columns="subset").select([0]))
    other = avss["train"][-1]
    once, repeat = (
        AVSCollator(make_processor(), prompt="truth", first_frame=way)([clip, other, clip])
        for way in ("once", "repeat")
    )
    assert len(once["pixel_values"]) == 1 + other["num_frames"] + 1
    assert len(repeat["pixel_values"]) == 5 + other["num_frames"] + 5
    for name in ("pixel_values", "mask_labels", "class_labels", "prompt_masks"):
        for frame in range(5):
            assert_close(repeat[name][frame], once[name][0], rtol=0, atol=0)
            assert_close(repeat[name][-1 - frame], once[name][-1], rtol=0, atol=0)
        assert_close(repeat[name][5 : 5 + other["num_frames"]], once[name][1:-1], rtol=0, atol=0)
    waveform, sampling_rate = read_audio(clip["audio"]["path"])
    patches = make_processor().feature_extractor(
        waveform, sampling_rate=sampling_rate, num_patches=5, return_tensors="pt"
    )
    assert_close(repeat["input_features"][:5], patches["input_features"], rtol=0, atol=0)
    assert_close(once["input_features"][:1], patches["input_features"][:1], rtol=0, atol=0)


def test_stage_1_targets_come_from_the_published_colors(avss):
    clip = avss["test"][0]
    gray = Image.new("RGB", clip["frames"][0].size)
    clip["color_masks"][0] = gray  # black: nothing sounds
    inputs = AVSCollator(make_processor(localization=True))([clip])
    assert inputs["class_labels"][0].tolist() == [0]
    del clip["color_masks"]  # AVSBench-object has none
    sounding = np.asarray(clip["masks"][0]).any()
    assert AVSCollator(make_processor(localization=True))([clip])["class_labels"][0].tolist() == [0, 1][: 1 + sounding]


def test_stage_2_uses_the_classes_of_s4_rather_than_its_binary_masks(mini_dir, tmp_path):
    clip = load_avsbench("s4", mini_dir, "test", cache_dir=str(tmp_path))[0]
    classes = {index for mask in clip["semantic_masks"] for index in np.unique(mask)}
    inputs = AVSCollator(make_processor(size=64))([clip])
    assert {index for labels in inputs["class_labels"] for index in labels.tolist()} == classes != {0, 1}


def test_masks_of_stage_1_are_prompts(mini_dir, tmp_path):
    rng = np.random.default_rng(0)
    expected = []
    for clip in load_avsbench("ms3", mini_dir, "test", cache_dir=str(tmp_path / "cache")):
        folder = tmp_path / "masks" / "v1m" / clip["video_id"]
        folder.mkdir(parents=True)
        for frame in range(5):
            mask = rng.integers(0, 256, (32, 32), dtype=np.uint8)
            Image.fromarray(mask).save(folder / f"{frame}.png")
            expected.append(torch.from_numpy(mask) / 255)
    dataset = load_avsbench(
        "ms3",
        mini_dir,
        "test",
        stage1_masks_dir=tmp_path / "masks",
        cache_dir=str(tmp_path / "cache"),
        on_error="raise",
    )
    collator = AVSCollator(make_processor(), prompt="stage1")
    inputs = collator(list(collator.prepare(dataset)))
    assert_close(inputs["prompt_masks"], torch.stack(expected))


def test_prompts_of_stage_1_need_their_column(avss):
    collator = AVSCollator(make_processor(), prompt="stage1")
    with pytest.raises(ValueError, match="stage1_masks_dir"):
        collator([collator.prepare(avss["test"])[0]])


@pytest.mark.parametrize("arguments", [{"prompt": "true"}, {"first_frame": "twice"}])
def test_unknown_ways_are_refused(arguments):
    (value,) = arguments.values()
    with pytest.raises(ValueError, match=value):
        AVSCollator(make_processor(), **arguments)


def test_an_error_names_the_clip_and_the_file(mini_copy, tmp_path):
    dataset = load_avsbench("ms3", mini_copy, "test", cache_dir=str(tmp_path / "cache"))
    collator = AVSCollator(make_processor())
    clip = collator.prepare(dataset)[0]
    path = mini_copy / "v1m" / clip["video_id"] / "frames" / "3.jpg"
    path.write_bytes(path.read_bytes()[:-40])  # after the table was made
    with pytest.raises(ValueError, match=rf"v1m/{clip['video_id']}: .*3\.jpg is damaged"):
        collator([clip])


@pytest.mark.parametrize("streaming", [False, True])
def test_workers_give_every_clip_once(mini_dir, tmp_path, streaming):
    dataset = load_avsbench("avss", mini_dir, "train", streaming=streaming, cache_dir=str(tmp_path))
    collator = AVSCollator(make_processor(), cache_dir=tmp_path / "audio")
    loader = DataLoader(collator.prepare(dataset), batch_size=2, num_workers=2, collate_fn=collator)
    sums = sorted(float(features.sum()) for batch in loader for features in batch["input_features"])
    once = collator(list(collator.prepare(dataset)))["input_features"]
    assert sums == pytest.approx(sorted(float(features.sum()) for features in once))


@pytest.mark.parametrize("prepared", [False, True])
def test_frames_of_16_bits_are_refused_where_the_table_has_let_them_in(mini_copy, tmp_path, prepared):
    dataset = load_avsbench("ms3", mini_copy, "test", cache_dir=str(tmp_path / "cache"))
    collator = AVSCollator(make_processor())
    path = mini_copy / "v1m" / dataset[0]["video_id"] / "frames" / "3.jpg"
    Image.fromarray(np.full((64, 64), 300, np.uint16)).save(path, format="PNG")  # after the table was made
    clip = (collator.prepare(dataset) if prepared else dataset)[0]
    with pytest.raises(ValueError, match=rf"v1m/{clip['video_id']}: .* has 16 bits a pixel"):
        collator([clip])


def test_no_clips_and_all_splits_are_refused(avss):
    collator = AVSCollator(make_processor())
    with pytest.raises(ValueError, match="at least one clip, got none"):
        collator([])
    for splits in (avss, datasets.IterableDatasetDict()):
        with pytest.raises(ValueError, match="Pass one split"):
            collator.prepare(splits)


@pytest.mark.parametrize("streaming", [False, True])
def test_trainer_takes_the_batches_as_they_are(mini_dir, tmp_path, streaming):
    dataset = load_avsbench("avss", mini_dir, "train", streaming=streaming, cache_dir=str(tmp_path / "cache"))
    collator = AVSCollator(make_processor(size=64), prompt="truth", cache_dir=tmp_path / "audio")
    audio_config = VGGishConfig(conv_channels=[4, 4, 8, 8], conv_depths=[1, 1, 1, 1], hidden_size=16)
    config = make_config(num_labels=71, use_mask_prompt=True, audio_config=audio_config)
    made, seen = [], []

    class Model(AAVSForAudioVisualSegmentation):
        def forward(self, mask_labels=None, class_labels=None, **inputs):
            seen.append([(len(masks), classes.tolist()) for masks, classes in zip(mask_labels, class_labels)])
            return super().forward(mask_labels=mask_labels, class_labels=class_labels, **inputs)

    def collate(clips):
        batch = collator(clips)
        made.append([(len(classes), classes.tolist()) for classes in batch["class_labels"]])
        return batch

    arguments = TrainingArguments(
        str(tmp_path / "output"),
        max_steps=2,
        per_device_train_batch_size=1,
        remove_unused_columns=False,
        accelerator_config={"dispatch_batches": False},
        report_to="none",
        save_strategy="no",
        use_cpu=True,
    )
    trainer = Trainer(Model(config), arguments, data_collator=collate, train_dataset=collator.prepare(dataset))
    output = trainer.train()
    assert output.global_step == 2 and np.isfinite(output.training_loss)
    assert seen == made[:2]


def test_only_clips_of_s4_are_repeated(avss):
    clip = next(clip for clip in AVSCollator(make_processor()).prepare(avss["train"]) if clip["subset"] == "v2")
    frame = {**clip, "masks": clip["masks"][3:4], "color_masks": clip["color_masks"][3:4], "mask_frame_indices": [3]}
    once, repeat = (AVSCollator(make_processor(), first_frame=way)([frame]) for way in ("once", "repeat"))
    assert_close(dict(repeat), dict(once), rtol=0, atol=0)


# What people do to clips before they reach the collator --------------------------------------------------------------


def flip(clip: dict) -> dict:
    names = ("frames", "masks", "semantic_masks", "color_masks")
    return {name: [ImageOps.flip(image) for image in clip[name]] for name in names if name in clip}


def assert_batches_equal(batch, expected):
    assert batch.keys() == expected.keys()
    for name, values in expected.items():
        assert_close(batch[name], values, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("localization", [False, True])
def test_clips_that_a_function_was_mapped_over(avss, localization):
    clips = avss["test"].select(range(2))
    # Resized, a mirrored map is not the mirror of a resized one.
    collator = AVSCollator(make_processor(localization, clips[0]["frames"][0].height), prompt="truth")
    batch = collator([collator.prepare(clips)[0]])
    flipped = collator([collator.prepare(clips.map(flip))[0]])
    # Frames are JPEG files, which are not compressed again.
    assert_close(flipped["pixel_values"], batch["pixel_values"].flip(2), atol=0.05, rtol=0)
    for found, expected in zip(flipped["mask_labels"], batch["mask_labels"]):
        assert_close(found, expected.flip(1))
    assert_close(flipped["prompt_masks"], batch["prompt_masks"].flip(1))
    assert_close(flipped["input_features"], batch["input_features"])


def flip_arrays(clip: dict) -> dict:
    return {name: [np.asarray(image) for image in images] for name, images in flip(clip).items()}


def flip_batch(clips: dict) -> dict:
    rows = [flip(dict(zip(clips, values))) for values in zip(*clips.values())]
    return clips | {name: [row[name] for row in rows] for name in rows[0]}


def save(clips: datasets.Dataset, path) -> datasets.IterableDataset:
    clips.to_parquet(path)
    return datasets.load_dataset("parquet", data_files=str(path), split="train", streaming=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda clips, _: clips.map(flip_arrays),
        lambda clips, _: clips.map(flip_batch, batched=True, batch_size=2),
        lambda clips, _: clips.with_transform(flip_batch),
        lambda clips, _: clips.map(flip).to_iterable_dataset(),
        lambda clips, _: clips.to_iterable_dataset().map(flip, features=clips.features),
        lambda clips, _: clips.to_iterable_dataset().map(flip_arrays, features=clips.features).with_format("torch"),
        lambda clips, path: save(clips.map(flip), path),
    ],
    ids=["arrays", "batched", "transform", "then a stream", "stream", "arrays of a stream", "then a stream of files"],
)
def test_what_a_function_makes_of_clips_arrives(avss, change, tmp_path):
    collator = AVSCollator(make_processor(size=64), evaluation=True)
    rows = list(collator.prepare(change(avss["test"], tmp_path / "clips.parquet")))
    assert len(rows) == 3
    for row, clip in zip(rows, collator.prepare(avss["test"])):
        batch, expected = collator([row]), collator([clip])
        assert batch["label_maps"].any() and batch["frames"] == expected["frames"]
        assert_close(batch["label_maps"], expected["label_maps"].flip(1))
        assert_close(batch["pixel_values"], expected["pixel_values"].flip(2), atol=0.05, rtol=0)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("localization", [False, True])
def test_clips_of_one_configuration_beside_those_of_another(mini_dir, tmp_path, streaming, localization):
    clips = {
        name: load_avsbench(name, mini_dir, "test", streaming=streaming, cache_dir=str(tmp_path))
        for name in ("avss", "s4")
    }
    collator = AVSCollator(make_processor(localization))
    expected = [collator([clip]) for name in clips for clip in collator.prepare(clips[name])]
    together = collator.prepare(datasets.concatenate_datasets([*clips.values()]))
    for clip, batch in zip(together, expected, strict=True):
        assert_batches_equal(collator([clip]), batch)
    if not streaming:
        frames = SingleFrames(together)
        last = {name: values[-1:] for name, values in batch.items()}
        assert_batches_equal(collator([frames[len(frames) - 1]]), last)


@pytest.mark.parametrize(
    "change",
    [
        lambda clips: clips.filter(lambda clip: clip["subset"] == "v1m"),
        lambda clips: clips.shuffle(seed=1),
        lambda clips: datasets.concatenate_datasets([clips, clips]),
        lambda clips: datasets.interleave_datasets([clips, clips]),
        lambda clips: clips.with_format("torch"),
        lambda clips: clips.skip(1).take(1),
        lambda clips: clips.rename_column("categories", "names"),
        lambda clips: clips.select_columns([name for name in clips.column_names if name != "categories"]),
        lambda clips: clips.select(range(1, 3)).flatten_indices(),
        lambda clips: clips.add_column("weight", [1.0] * len(clips)),
        lambda clips: clips.cast_column("frames", datasets.Sequence(datasets.Image(decode=False))),
        lambda clips: clips.to_iterable_dataset(num_shards=2).shuffle(seed=1),
        lambda clips: clips.to_iterable_dataset().skip(1).take(1),
        lambda clips: clips.to_iterable_dataset().filter(lambda clip: clip["num_frames"] == 5),
        lambda clips: clips.to_iterable_dataset().map(lambda clip: clip, features=clips.features),
        lambda clips: clips.to_iterable_dataset().with_format("arrow"),
        lambda clips: datasets.interleave_datasets([clips.to_iterable_dataset(), clips.to_iterable_dataset()]),
    ],
    ids=[
        "filter",
        "shuffle",
        "concatenate",
        "interleave",
        "with_format",
        "skip and take",
        "rename_column",
        "select_columns",
        "select",
        "add_column",
        "cast_column",
        "stream of shards",
        "skip and take of a stream",
        "filter of a stream",
        "map of a stream",
        "with_format of a stream",
        "interleave of streams",
    ],
)
def test_what_datasets_does_to_clips_leaves_each_of_them_as_it_was(avss, change):
    collator = AVSCollator(make_processor(), prompt="truth")
    clips = avss["test"]
    expected = {clip["video_id"]: collator([clip]) for clip in collator.prepare(clips)}
    changed = list(collator.prepare(change(clips)))
    assert changed
    for clip in changed:
        assert_batches_equal(collator([clip]), expected[clip["video_id"]])


def test_clips_that_were_saved_and_loaded(avss, tmp_path):
    collator = AVSCollator(make_processor())
    expected = collator([collator.prepare(avss["test"])[1]])
    avss["test"].save_to_disk(tmp_path / "disk")
    avss["test"].to_parquet(tmp_path / "clips.parquet")
    for loaded in (
        datasets.load_from_disk(str(tmp_path / "disk")),
        datasets.Dataset.from_parquet(str(tmp_path / "clips.parquet"), cache_dir=str(tmp_path / "cache")),
    ):
        assert_batches_equal(collator([collator.prepare(loaded)[1]]), expected)


def test_a_stream_that_forgot_its_columns_is_told_how_to_keep_them(mini_dir):
    stream = load_avsbench("ms3", mini_dir, split="train", streaming=True)
    collator = AVSCollator(make_processor())
    with pytest.raises(ValueError, match=r"does not know its columns.*clips.map\(function, features=clips.features\)"):
        collator.prepare(stream.map(lambda clip: {"note": "x"}))


def test_columns_that_are_missing_are_named(avss):
    with pytest.raises(ValueError, match="have no audio, but the columns video_id"):
        AVSCollator(make_processor()).prepare(avss["test"].remove_columns("audio"))
