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
import io

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch.testing import assert_close

from stepping_stones_hf import AAVSImageProcessorPil, AAVSProcessor, VGGishFeatureExtractor
from stepping_stones_hf.data import AVSCollator, load_avsbench
from stepping_stones_hf.data.collator import EncodedRows
from stepping_stones_hf.data.export import export_avsbench
from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.media import read_audio
from stepping_stones_hf.training.clips import (
    SingleFrames,
    WithMasks,
    WithNoise,
    WithSilence,
    WithSounds,
    encode_sound,
    is_silent,
    load_clips,
    read_column,
    read_truth,
    shuffle_sounds,
)
from stepping_stones_hf.training.mask_store import mask_path, write_mask


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    clips = {"v1s": (1, 0, 0), "v1m": (1, 0, 0), "v2": (2, 0, 0)}
    return make_mini_avsbench(tmp_path_factory.mktemp("clips") / "mini", image_size=64, clips=clips)


def make_collator(**options) -> AVSCollator:
    size = {"height": 64, "width": 64}
    image_processor = AAVSImageProcessorPil(size=size, label_size=size, post_process_size=size)
    return AVSCollator(AAVSProcessor(image_processor, VGGishFeatureExtractor()), **options)


@pytest.fixture(scope="module")
def clips(data_dir, tmp_path_factory):
    dataset = load_avsbench("avss", data_dir, cache_dir=str(tmp_path_factory.mktemp("cache")))
    return make_collator().prepare(dataset["train"])


def png(*rows) -> dict:
    file = io.BytesIO()
    Image.fromarray(np.array(rows, dtype=np.uint8)).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def test_single_frames_are_the_frames_of_the_clips_with_their_sounds_masks_and_prompts(clips):
    collator = make_collator(prompt="truth")
    whole = collator([clips[index] for index in range(len(clips))])
    frames = SingleFrames(clips)
    assert len(frames) == len(whole["pixel_values"]) == 1 + 5 + 10 + 10
    single = collator([frames[index] for index in range(len(frames))])
    assert set(single) == set(whole)
    for name, values in whole.items():
        for value, other in zip(values, single[name], strict=True):
            assert torch.equal(value, other), name


def test_single_frames_keep_the_names_of_the_frames(clips):
    collator = make_collator(evaluation=True)
    frames = SingleFrames(clips)
    names = collator([frames[index] for index in range(len(frames))])["frames"]
    assert names == collator([clips[index] for index in range(len(clips))])["frames"]
    assert len(set(names)) == len(frames)


def test_stored_masks_become_the_prompts_of_their_frames(clips, tmp_path):
    expected = []
    for index in range(len(clips)):
        for frame in clips[index]["mask_frame_indices"]:
            value = len(expected) % 7 / 6
            write_mask(
                mask_path(tmp_path, clips[index]["subset"], clips[index]["video_id"], frame), np.full((4, 4), value)
            )
            expected.append(round(value * 255) / 255)
    rows = WithMasks(clips, tmp_path)
    collator = make_collator(prompt="stage1")
    prompts = collator([rows[index] for index in range(len(rows))])["prompt_masks"]
    assert_close(prompts, prompts[:, :1, :1].expand_as(prompts))
    assert prompts[:, 0, 0].tolist() == pytest.approx(expected)
    # Frame by frame too.
    frames = SingleFrames(rows)
    single = collator([frames[index] for index in range(len(frames))])["prompt_masks"]
    assert torch.equal(single, prompts)


def test_a_mask_that_the_store_does_not_have_is_an_error_with_the_clips_name(clips, tmp_path):
    with pytest.raises(ValueError, match=f"{clips[0]['subset']}/{clips[0]['video_id']}.*0.png"):
        make_collator(prompt="stage1")([WithMasks(clips, tmp_path)[0]])


def test_silence_is_as_long_as_the_clip_and_as_quiet_as_can_be(clips):
    silent = WithSilence(clips)
    assert len(silent) == len(clips)
    for index in range(len(clips)):
        samples, rate = soundfile.read(io.BytesIO(silent[index]["audio"]["bytes"]))
        assert len(samples) == clips[index]["num_frames"] * rate and not samples.any()
    own, silent = make_collator()([clips[0]]), make_collator()([silent[0]])
    assert silent["input_features"].unique().numel() == 1 < own["input_features"].unique().numel()
    assert torch.equal(own["pixel_values"], silent["pixel_values"])


def test_the_same_sound_is_the_same_file_at_any_time():
    waveform = 3 * np.random.default_rng(0).standard_normal((1000, 2), dtype=np.float32)
    sound = encode_sound(waveform, 16000)["bytes"]
    assert b"PEAK" not in sound  # the block that has the time
    assert_close(read_audio(sound)[0], waveform.T, atol=0, rtol=0)


def test_clips_get_the_sounds_of_others_and_nothing_else_of_them(clips):
    others = [clips[index] for index in (1, 0, 3, 2)]
    rows = WithSounds(clips, others)
    assert len(rows) == len(clips)
    for index, other in enumerate(others):
        assert rows[index] == {**clips[index], "audio": other["audio"]} != clips[index]


def test_views_are_made_without_reading_a_clip(clips, monkeypatch, tmp_path):
    counts = [len(clips[index]["masks"]) for index in range(len(clips))]
    monkeypatch.setattr(EncodedRows, "__getitem__", lambda *_: pytest.fail("a clip was read"))
    views = [WithMasks(clips, tmp_path), WithSilence(clips), WithSounds(clips, clips), WithNoise(clips, 0)]
    for view in (*views, WithMasks(WithSilence(clips), tmp_path)):
        assert len(SingleFrames(view)) == sum(counts)
        assert read_column(view, "num_frames") == read_column(clips, "num_frames") == [5, 5, 10, 10]


def test_shuffled_sounds_are_read_when_they_are_heard(clips, monkeypatch):
    """Of a Parquet export, the sounds of a split need not fit into memory."""
    indices, partners = shuffle_sounds(read_column(clips, "subset"), [{1}, {2}, {3}, {4}], seed=0)
    assert (indices, partners) == ([2, 3], [3, 2])
    read, get = [], EncodedRows.__getitem__
    monkeypatch.setattr(EncodedRows, "__getitem__", lambda self, index: read.append(index) or get(self, index))
    rows = WithSounds(clips, clips)
    assert not read
    rows[2]
    assert set(read) == {2}


def test_a_copy_and_its_export_give_the_same_clips(data_dir, tmp_path):
    parquet = export_avsbench(data_dir, tmp_path / "parquet", configs=["s4"])
    copy, export = load_clips(data_dir, "s4"), load_clips(parquet, "s4", "train")
    assert set(copy) == {"train"}
    assert [*copy["train"]["video_id"]] == [*export["video_id"]]
    assert export[0]["audio"]["bytes"] is not None and copy["train"][0]["audio"]["bytes"] is None


def test_a_clip_is_silent_only_if_nothing_sounds_in_any_frame():
    nothing, something = png([0, 0], [0, 0]), png([0, 0], [0, 255])
    assert is_silent({"masks": [nothing, nothing]})
    assert not is_silent({"masks": [nothing, something]})
    truth = read_truth({"masks": [something]})
    assert [mask.tolist() for mask in truth] == [[[False, False], [False, True]]]
