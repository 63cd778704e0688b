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
"""Training clips that hear what nothing in them makes: who hears what, when, and what their targets are."""

import datasets
import numpy as np
import pytest
import torch

from stepping_stones_hf import AAVSImageProcessorPil, AAVSProcessor, VGGishFeatureExtractor
from stepping_stones_hf.data import AVSCollator, load_avsbench
from stepping_stones_hf.data.augmentation import Augmentation
from stepping_stones_hf.data.collator import MapReader
from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.media import read_audio
from stepping_stones_hf.models.pair_loss import label_pairs
from stepping_stones_hf.training.batches import derive_seed
from stepping_stones_hf.training.clips import SingleFrames, measure_loudness
from stepping_stones_hf.training.negatives import NEGATIVE_PROMPTS, Negatives
from stepping_stones_hf.training.sounds import NEGATIVES, find_donors


def encode(mask: np.ndarray) -> dict:
    return datasets.Image().encode_example(mask)


SIZE = {"height": 32, "width": 32}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    counts = {"v1s": (12, 0, 0), "v1m": (6, 0, 0), "v2": (12, 0, 0)}
    data_dir = make_mini_avsbench(tmp_path_factory.mktemp("negatives") / "mini", image_size=32, clips=counts)
    return load_avsbench("avss", data_dir, "train", cache_dir=str(tmp_path_factory.mktemp("cache")))


def list_rows(clips) -> list[dict]:
    rows = MapReader.prepare(clips)
    return [rows[index] for index in range(len(rows))]


def make_negatives(clips, share=0.5, kinds=("offscreen", "silence"), prompts=NEGATIVE_PROMPTS, seed=3) -> Negatives:
    return Negatives(clips, share, kinds, prompts, seed)


def list_negatives(negatives: Negatives, rows: list[dict], epochs=range(1)) -> list[dict]:
    found = []
    for negatives.epoch in epochs:
        found += [made for made in map(negatives, rows) if "negative_prompt" in made]
    return found


def is_silent(clip: dict) -> bool:
    return measure_loudness(clip) == 0


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_clips_become_negatives_by_chance_in_equal_shares_of_kinds_and_prompts(clips, share):
    rows, epochs = list_rows(clips), range(40)
    drawn = len(rows) * len(epochs)
    found = list_negatives(make_negatives(clips, share, kinds=("silence", "noise")), rows, epochs)
    # Within four standard deviations, as all below.
    assert abs(len(found) - share * drawn) < 4 * np.sqrt(drawn * share * (1 - share))
    half, spread = len(found) / 2, 4 * np.sqrt(len(found) / 4)
    assert abs(sum(map(is_silent, found)) - half) < spread
    assert abs(sum(made["negative_prompt"] == "empty" for made in found) - half) < spread


def test_who_is_a_negative_follows_from_the_names_the_seed_and_the_epoch(clips):
    rows = list_rows(clips)
    negatives = make_negatives(clips)

    def list_sounds(negatives: Negatives, rows: list[dict]) -> dict[str, tuple]:
        found = list_negatives(negatives, rows, [negatives.epoch])
        # As samples: a file says when it was written.
        sounds = [read_audio(made["audio"]["bytes"])[0].tobytes() for made in found]
        return {made["video_id"]: (sound, made["negative_prompt"]) for made, sound in zip(found, sounds)}

    first = list_sounds(negatives, rows)
    assert 0 < len(first) < len(rows)
    assert list_sounds(make_negatives(clips), rows[::-1]) == first
    # A frame for itself is what its clip is.
    frames = SingleFrames(MapReader.prepare(clips))
    of_frames = list_sounds(negatives, [frames[index] for index in range(len(frames))])
    assert of_frames == first
    negatives.epoch = 1
    second = list_sounds(negatives, rows)
    assert second.keys() != first.keys()
    assert any(second[name] != first[name] for name in second.keys() & first.keys())
    assert list_sounds(make_negatives(clips, seed=4), rows).keys() != first.keys()


def test_off_screen_sounds_are_those_of_the_protocol_for_a_seed_of_the_epoch(clips):
    rows, negatives = list_rows(clips), make_negatives(clips, 1.0, kinds=("offscreen",))
    donors = {}
    for epoch in (0, 1):
        donors[epoch] = find_donors(clips, derive_seed(3, epoch))
        negatives.epoch = epoch
        for index, row in enumerate(rows):
            made = negatives(row)
            if index not in donors[epoch]:
                assert "negative_prompt" not in made and made["audio"] == row["audio"]
                continue
            other = rows[donors[epoch][index].index]
            assert other["subset"] == row["subset"]
            sound, theirs = read_audio(made["audio"]["bytes"])[0], read_audio(other["audio"]["path"])[0]
            assert np.corrcoef(sound.ravel(), theirs.ravel())[0, 1] > 0.999
            assert measure_loudness(made) == pytest.approx(measure_loudness(row))
            own, heard = (set(clips[place]["categories"]) - {0} for place in (index, donors[epoch][index].index))
            assert own.isdisjoint(heard)
    assert any(donors[0][index] != donors[1][index] for index in donors[0])


def test_a_clip_without_an_off_screen_sound_hears_another_kind(clips):
    # Alone in its subset.
    subsets = clips["subset"]
    some = clips.select(
        [index for index in range(len(clips)) if subsets[index] == "v2" or index == subsets.index("v1s")]
    )
    rows = list_rows(some)
    alone = next(index for index, row in enumerate(rows) if row["subset"] == "v1s")
    assert alone not in find_donors(some, 0)
    negatives = make_negatives(some, 1.0)
    heard = list_negatives(negatives, rows, range(6))
    assert all(is_silent(made) for made in heard if made["subset"] == "v1s")
    assert not all(is_silent(made) for made in heard if made["subset"] == "v2")
    assert len(heard) == 6 * len(rows)
    alone_offscreen = make_negatives(some, 1.0, kinds=("offscreen",))
    assert alone_offscreen(rows[alone]) == rows[alone]


def make_collator(negatives, localizes=False, **options) -> AVSCollator:
    image_processor = AAVSImageProcessorPil(size=SIZE, label_size=SIZE, localization=localizes)
    return AVSCollator(AAVSProcessor(image_processor, VGGishFeatureExtractor()), negatives=negatives, **options)


@pytest.mark.parametrize("localizes", [True, False])
def test_nothing_sounds_in_the_target_of_a_negative(clips, localizes):
    rows, negatives = list_rows(clips), make_negatives(clips)
    collator, plain = make_collator(negatives, localizes), make_collator(None, localizes)
    made, own = 0, 0
    for row in rows:
        batch, expected = collator([row]), plain([row])
        assert torch.equal(batch["pixel_values"], expected["pixel_values"])
        assert label_pairs(expected["class_labels"])[0].any()
        if "negative_prompt" not in negatives(row):
            own += 1
            assert torch.equal(batch["input_features"], expected["input_features"])
            assert all(map(torch.equal, batch["mask_labels"], expected["mask_labels"]))
            continue
        made += 1
        assert not torch.equal(batch["input_features"], expected["input_features"])
        # Background is a class with a mask: the whole frame.
        assert [classes.tolist() for classes in batch["class_labels"]] == [[0]] * len(batch["pixel_values"])
        assert all(mask.shape == (1, 32, 32) and mask.all() for mask in batch["mask_labels"])
    assert made > 5 and own > 5


@pytest.mark.parametrize("augmentation", [None, {"flip": 1.0, "crop": True, "scale": [0.5, 1.5]}])
def test_prompts_of_negatives_are_empty_or_what_their_own_sound_would_give(clips, augmentation):
    rows = list_rows(clips)
    options = {"prompt": "truth"}
    if augmentation is not None:
        options["transform"] = Augmentation((32, 32), **augmentation)
    for prompt in NEGATIVE_PROMPTS:
        collator = make_collator(make_negatives(clips, 1.0, ("silence",), (prompt,)), **options)
        for row in rows:
            batch, expected = collator([row]), make_collator(None, **options)([row])
            assert torch.equal(batch["pixel_values"], expected["pixel_values"])
            if prompt == "visual":
                assert torch.equal(batch["prompt_masks"], expected["prompt_masks"])
            else:
                assert batch["prompt_masks"].shape == expected["prompt_masks"].shape
                assert not batch["prompt_masks"].any()
            assert not label_pairs(batch["class_labels"])[0].any()


def test_stored_and_made_prompts_of_negatives_are_those_of_their_own_sound(clips):
    row = list_rows(clips)[0]
    stored = {**row, "stage1_masks": [encode(255 * np.eye(32, dtype=np.uint8))] * row["num_frames"]}
    made = []
    for prompt, clip in (("stage1", stored), (lambda clip, truth: made.append(clip) or list(~truth), row)):
        visual, empty = (
            make_collator(make_negatives(clips, 1.0, ("noise",), (kind,)), prompt=prompt)([clip])
            for kind in ("visual", "empty")
        )
        expected = make_collator(None, prompt=prompt)([clip])
        assert expected["prompt_masks"].any()
        assert torch.equal(visual["prompt_masks"], expected["prompt_masks"])
        assert not empty["prompt_masks"].any()
    assert len(made) == 2  # for a negative with an empty prompt there is none to be made


def test_sounds_of_negatives_are_not_kept_on_the_disk(clips, tmp_path):
    rows = list_rows(clips)[:4]
    collator = make_collator(make_negatives(clips, 1.0, NEGATIVES), cache_dir=tmp_path)
    collator(rows)
    assert not list(tmp_path.rglob("*.safetensors"))
    make_collator(None, cache_dir=tmp_path)(rows)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4


def test_evaluation_has_no_negatives(clips):
    with pytest.raises(ValueError, match="evaluation=True with negatives"):
        make_collator(make_negatives(clips), evaluation=True)


def test_clips_none_of_which_has_an_off_screen_sound_are_refused(clips):
    with pytest.raises(ValueError, match="^None of the 1 clips has an off-screen sound: .* leave offscreen out.$"):
        make_negatives(clips.select([0]))
    assert make_negatives(clips.select([0]), kinds=("silence",)).draw is None
    unnamed = clips.cast_column("categories", datasets.List(datasets.Value("string")))
    with pytest.raises(ValueError, match="71 classes of AVSBench-semantic, but the clips name none: take AVSBench"):
        make_negatives(unnamed)
