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
"""Sounds of something else: the reference draws and classes, and how loud what is heard is."""

import json
import random

import datasets
import numpy as np
import pytest
import soundfile

from stepping_stones_hf.data import load_avsbench
from stepping_stones_hf.data.collator import MapReader
from stepping_stones_hf.data.labels import CLASS_NAMES
from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.media import read_audio
from stepping_stones_hf.training.clips import WithNoise, WithOffscreenSounds, measure_loudness
from stepping_stones_hf.training.sounds import (
    SUPER_CLASSES,
    change_sound,
    draw_donors,
    find_donors,
    find_super_classes,
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    counts = {"v1s": (0, 0, 6), "v2": (0, 0, 4)}
    data_dir = make_mini_avsbench(tmp_path_factory.mktemp("sounds") / "mini", image_size=32, clips=counts)
    return load_avsbench("avss", data_dir, "test", cache_dir=str(tmp_path_factory.mktemp("cache")))


def test_super_classes_are_those_of_the_reference(fixtures_dir):
    index = json.loads((fixtures_dir / "robust" / "index.json").read_text())
    assert index["super_classes"] == SUPER_CLASSES
    assert set(SUPER_CLASSES) == set(CLASS_NAMES) - {"background"}


@pytest.fixture(params=[0, 1])
def draw(request, fixtures_dir) -> dict:
    return json.loads((fixtures_dir / "robust" / "index.json").read_text())["offscreen_draws"][request.param]


def draw_again(clips: list[dict], seed: int) -> dict[str, tuple[str, int]]:
    visible = [set(clip["visible"]) for clip in clips] if "visible" in clips[0] else None
    donors = draw_donors(
        [clip["subset"] for clip in clips],
        [clip["video_id"] for clip in clips],
        [set(clip["classes"]) for clip in clips],
        seed,
        visible,
    )
    return {clips[index]["video_id"]: (clips[donor.index]["video_id"], donor.level) for index, donor in donors.items()}


def test_draws_are_those_of_the_reference(draw):
    drawn = draw_again(draw["clips"], draw["seed"])
    expected = {
        clip["video_id"]: (found["donor"], found["level"])
        for clip, found in zip(draw["clips"], draw["expected"], strict=True)
        if found is not None
    }
    assert drawn == expected and len(expected) > 10


def test_neither_the_order_of_clips_nor_a_missing_one_changes_the_others_draws(draw):
    clips, seed = draw["clips"], draw["seed"]
    drawn = draw_again(clips, seed)
    assert draw_again(random.Random(0).sample(clips, len(clips)), seed) == drawn
    gone = drawn[clips[0]["video_id"]][0]
    left = draw_again([clip for clip in clips if clip["video_id"] != gone], seed)
    kept = {video: found for video, found in drawn.items() if gone not in (video, found[0])}
    assert kept and kept.items() <= left.items()


def test_a_clip_that_is_all_but_silent_gives_no_sound_and_gets_one():
    arguments = (["v2"] * 3, ["a", "b", "c"], [{"dog"}, {"piano"}, {"piano"}], 0)
    assert set(draw_donors(*arguments)) == {0, 1, 2}
    donors = draw_donors(*arguments, loudness=[0.1, 9e-5, 0.1])
    assert donors[0].index == 2 and donors[1].index == 0
    assert set(draw_donors(*arguments, loudness=[9e-5, 0.1, 0.1])) == {0}


def test_off_screen_sounds_of_a_dataset_are_of_other_classes_and_as_loud(clips):
    heard = change_sound(clips, "offscreen", seed=1)
    assert len(heard.clips) == len(heard.rows) == len(heard.donors) > 5
    own = MapReader.prepare(clips)
    assert [donor.index for donor in heard.donors] == [donor.index for donor in find_donors(clips, 1).values()]
    for clip, row, donor in zip(heard.clips, map(heard.rows.__getitem__, range(len(heard.rows))), heard.donors):
        other = own[donor.index]
        assert row["video_id"] == clip["video_id"] and row["subset"] == other["subset"]
        classes, theirs = ({CLASS_NAMES[index] for index in of["categories"]} for of in (clip, clips[donor.index]))
        assert classes.isdisjoint(theirs)
        assert donor.level == 2 or find_super_classes(classes).isdisjoint(find_super_classes(theirs))
        waveform, theirs = read_audio(row["audio"]["bytes"])[0], read_audio(other["audio"]["path"])[0]
        assert np.corrcoef(waveform.ravel(), theirs.ravel())[0, 1] > 0.999
        assert measure_loudness(row) == pytest.approx(measure_loudness(own[clips["video_id"].index(clip["video_id"])]))


def test_nothing_that_is_to_be_seen_sounds_in_a_donor(tmp_path):
    counts = {"v1s": (0, 0, 30), "v1m": (0, 0, 30)}
    root = make_mini_avsbench(tmp_path / "mini", image_size=32, clips=counts, statistics="avsbench")
    clips = load_avsbench("avss", root, "test", cache_dir=str(tmp_path / "cache"))
    record = {
        name: [{CLASS_NAMES[index] for index in of_clip} for of_clip in clips[name]]
        for name in ("categories", "visible", "off_screen")
    }
    heard = [seen | unseen for seen, unseen in zip(record["categories"], record["off_screen"])]
    donors = {seed: find_donors(clips, seed) for seed in range(4)}
    for found in donors.values():
        assert len(found) > 50
        assert all(heard[donor.index].isdisjoint(record["visible"][clip]) for clip, donor in found.items())
    # Without the record some would: bystanders sound elsewhere.
    blind = [find_donors(clips.remove_columns(["visible", "off_screen"]), seed) for seed in donors]
    assert any(
        not heard[donor.index].isdisjoint(record["visible"][clip]) for found in blind for clip, donor in found.items()
    )
    # Beside clips of another set that does not say so.
    silent = clips.remove_columns(["visible", "off_screen"])
    mixed = datasets.concatenate_datasets([clips.select(range(30)), silent.select(range(30, len(clips)))])
    found = find_donors(mixed, 0)
    assert all(heard[donor.index].isdisjoint(record["visible"][clip]) for clip, donor in found.items() if clip < 30)


def save(folder, name: str, samples: np.ndarray) -> dict:
    soundfile.write(folder / name, samples, 8000, subtype="FLOAT")
    audio = {"bytes": None, "path": str(folder / name)}
    return {"audio": audio, "num_frames": 1, "subset": "v2", "video_id": name}


def test_a_silent_clip_hears_quiet_sounds(tmp_path):
    silent = save(tmp_path, "silent.wav", np.zeros((12_000, 2)))
    loud = save(tmp_path, "loud.wav", np.random.default_rng(0).uniform(-0.5, 0.5, (8000, 2)))
    for rows in (WithOffscreenSounds([silent], [loud]), WithNoise([silent], seed=0)):
        assert measure_loudness(rows[0]) == pytest.approx(0.001, rel=0.02)


def test_the_control_hears_its_own_sound_in_noise_as_loud_as_it(clips):
    own, fused = MapReader.prepare(clips), change_sound(clips, "fused", seed=1)
    assert fused.clips is clips and len(fused.rows) == len(clips)
    for index in range(len(clips)):
        sound, rate = read_audio(own[index]["audio"]["path"])
        mixed, mixed_rate = read_audio(fused.rows[index]["audio"]["bytes"])
        noise = (mixed - sound).mean(axis=0)
        assert mixed.shape == sound.shape and mixed_rate == rate
        assert np.sqrt(np.mean(noise**2)) == pytest.approx(measure_loudness(own[index]), rel=0.02)
        assert abs(np.corrcoef(noise, sound.mean(axis=0))[0, 1]) < 0.02
    again = read_audio(change_sound(clips, "fused", seed=2).rows[0]["audio"]["bytes"])[0]
    assert not np.allclose(again, read_audio(fused.rows[0]["audio"]["bytes"])[0])


def test_a_click_in_all_but_silence_can_be_heard(tmp_path):
    click = np.zeros(8000)
    click[100] = 0.01
    loud = save(tmp_path, "loud.wav", np.random.default_rng(0).uniform(-1, 1, 8000))
    rows = WithOffscreenSounds([loud], [save(tmp_path, "click.wav", click)])
    assert np.abs(read_audio(rows[0]["audio"]["bytes"])[0]).max() == pytest.approx(16)


def test_clips_without_names_of_classes_or_donors_are_refused_in_one_line(clips):
    with pytest.raises(ValueError, match="^None of the 1 clips has an off-screen sound: .* leave offscreen out.$"):
        change_sound(clips.select([0]), "offscreen")
    unnamed = clips.cast_column("categories", datasets.List(datasets.Value("string")))
    with pytest.raises(ValueError, match="71 classes of AVSBench-semantic, but the clips name none: take AVSBench"):
        change_sound(unnamed, "offscreen")
