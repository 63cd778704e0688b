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
import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from stepping_stones_hf.data import load_avsbench, mini
from stepping_stones_hf.data.labels import CLASS_NAMES, color_to_index
from stepping_stones_hf.data.mini import LOOKS, TIMBRES, make_mini_avsbench


CLIPS = {"v1s": (6, 2, 4), "v1m": (5, 1, 3), "v2": (3, 1, 2)}
SECONDS = {"v1s": 5, "v1m": 5, "v2": 10}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make_mini_avsbench(tmp_path_factory.mktemp("mini") / "set", image_size=64, clips=CLIPS)


def read_rows(root: Path) -> list[dict]:
    with open(root / "metadata.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def clip_folder(root: Path, row: dict) -> Path:
    return root / row["label"] / row["uid"]


def read_labels(root: Path, row: dict) -> list[np.ndarray]:
    """Class indices of the annotated seconds, in order."""
    folder = clip_folder(root, row) / "labels_semantic"
    return [np.asarray(Image.open(folder / f"{i}.png")) for i in range(len(list(folder.iterdir())))]


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def sample_casts(subset: str, num_clips: int, num_classes: int = 8) -> list[list[mini.Actor]]:
    """The objects of many clips, without drawing them."""
    keys = [(0, list(SECONDS).index(subset), 0, index) for index in range(num_clips)]
    return [mini._sample_actors(subset, key, num_classes, 96, 96, mini._generator(*key, 0)) for key in keys]


# Layout


def test_layout_is_that_of_avsbench_semantic(root):
    rows = read_rows(root)
    assert list(rows[0]) == ["vid", "uid", "s_min", "s_sec", "a_obj", "split", "label"]
    counts = Counter((row["label"], row["split"]) for row in rows)
    assert counts == {
        (subset, split): count
        for subset, three in CLIPS.items()
        for split, count in zip(("train", "val", "test"), three)
    }
    assert len({row["uid"] for row in rows}) == len(rows)
    assert json.loads((root / "label2idx.json").read_text()) == {name: i + 1 for i, name in enumerate(CLASS_NAMES)}
    for row in rows:
        folder, seconds = clip_folder(root, row), SECONDS[row["label"]]
        start = 60 * int(row["s_min"]) + int(row["s_sec"])
        times = "" if row["label"] == "v1m" else f"_{1000 * start}_{1000 * (start + seconds)}"
        assert row["uid"] == row["vid"] + times
        size = (85, 64) if row["label"] == "v2" else (64, 64)
        annotated = 1 if (row["label"], row["split"]) == ("v1s", "train") else seconds
        for name, suffix, count, mode in (
            ("frames", "jpg", seconds, "RGB"),
            ("labels_rgb", "png", annotated, "RGB"),
            ("labels_semantic", "png", annotated, "L"),
        ):
            assert {path.name for path in (folder / name).iterdir()} == {f"{i}.{suffix}" for i in range(count)}
            images = [Image.open(path) for path in (folder / name).iterdir()]
            assert {(image.mode, image.size) for image in images} == {(mode, size)}
        sound = soundfile.info(folder / "audio.wav")
        assert (sound.samplerate, sound.channels, sound.subtype) == (16000, 1, "PCM_16")
        assert sound.frames == 16000 * seconds


def test_folder_holds_nothing_that_metadata_does_not_name(root):
    clips = {path.relative_to(root).as_posix() for subset in SECONDS for path in (root / subset).iterdir()}
    assert clips == {f"{row['label']}/{row['uid']}" for row in read_rows(root)}


def test_classes_are_of_avsbench_and_each_has_a_look_and_a_timbre():
    assert list(LOOKS) == list(TIMBRES)
    assert set(LOOKS) <= set(CLASS_NAMES[1:])


# What the masks say


def test_both_label_maps_agree_by_palette(root):
    for row in read_rows(root):
        for i, labels in enumerate(read_labels(root, row)):
            colors = Image.open(clip_folder(root, row) / "labels_rgb" / f"{i}.png")
            np.testing.assert_array_equal(color_to_index(colors), labels)


def test_a_obj_names_exactly_the_classes_of_the_masks(root):
    for row in read_rows(root):
        seen = set(np.unique(read_labels(root, row))) - {0}
        assert {CLASS_NAMES[i] for i in seen} == set(row["a_obj"].split("_"))


def test_v1s_has_one_source_that_sounds_all_the_time(root):
    for row in read_rows(root):
        if row["label"] == "v1s":
            assert all(len(np.unique(labels)) == 2 for labels in read_labels(root, row))


@pytest.mark.parametrize("hop", [0.96, 1.0])
def test_a_second_is_heard_if_and_only_if_its_mask_is_not_empty(root, hop):
    silent, sounding = [], []
    for row in read_rows(root):
        sound, rate = soundfile.read(clip_folder(root, row) / "audio.wav")
        for i, labels in enumerate(read_labels(root, row)):
            patch = sound[int(i * hop * rate) : int((i * hop + 0.975) * rate)]
            (sounding if labels.any() else silent).append(np.sqrt(np.mean(patch**2)))
    assert len(silent) >= 5
    assert min(silent) > 0 and max(silent) < 0.006
    assert min(sounding) > 0.012


def test_sources_switch_pair_and_pause_where_they_should():
    for subset in ("v1m", "v2"):
        at_once = np.concatenate(
            [np.sum([actor.active for actor in cast], axis=0) for cast in sample_casts(subset, 100)]
        )
        shares = np.bincount(at_once) / len(at_once)
        assert len(shares) == 3 and (shares > 0.1).all()


# What may not be seen


@pytest.mark.parametrize("subset", ["v1s", "v1m", "v2"])
def test_every_clip_shows_an_object_that_never_sounds(subset):
    for cast in sample_casts(subset, 100):
        sounds = [actor.active.any() for actor in cast]
        assert any(sounds) and not all(sounds)
        assert len({actor.name for actor in cast}) == len(cast)


def test_every_class_sounds_and_stays_silent_equally_often():
    casts = sample_casts("v1s", 40 * 8)
    sounding = Counter(actor.name for cast in casts for actor in cast if actor.active.any())
    silent = Counter(actor.name for cast in casts for actor in cast if not actor.active.any())
    assert set(sounding.values()) == {40}
    assert len(silent) == 8 and max(silent.values()) < 1.25 * min(silent.values())


@pytest.mark.parametrize("subset", ["v1s", "v1m", "v2"])
def test_size_place_motion_and_drawing_order_do_not_tell_who_sounds(subset):
    differences = []
    for cast in sample_casts(subset, 600):
        sounds = np.array([actor.active.any() for actor in cast])
        traits = np.array(
            [
                (
                    order,
                    actor.area,
                    np.hypot(*(actor.center - 48)),
                    np.hypot(*actor.drift),
                    abs(actor.spin),
                    *actor.tint,
                )
                for order, actor in enumerate(cast)
            ]
        )
        differences.append(traits[sounds].mean(axis=0) - traits[~sounds].mean(axis=0))
    differences = np.array(differences)
    standard_errors = differences.std(axis=0) / np.sqrt(len(differences))
    assert (np.abs(differences.mean(axis=0)) < 3 * standard_errors).all()


def test_objects_stay_visible_and_masks_follow_what_covers_them():
    """Masks of one clip with everything sounding, drawn together and one by one."""
    covered = 0
    for cast in sample_casts("v2", 30):
        frame, owner = np.zeros((96, 96, 3), np.float32), np.zeros((96, 96), np.uint8)
        alone = []
        for number, actor in enumerate(cast, start=1):
            mask = np.zeros_like(owner)
            mini._draw_actor(frame.copy(), mask, actor, number, 0.5)
            mini._draw_actor(frame, owner, actor, number, 0.5)
            alone.append(mask > 0)
        for number, mask in enumerate(alone, start=1):
            later = np.any([np.zeros_like(mask), *alone[number:]], axis=0)
            np.testing.assert_array_equal(owner == number, mask & ~later)
            assert (owner == number).sum() > 0.25 * mask.sum()
            covered += (mask & later).any()
    assert covered > 5


def test_classes_can_be_told_apart_by_ear(tmp_path):
    """A nearest-mean classifier on band energies names nine of ten held-out sources."""
    root = make_mini_avsbench(tmp_path / "set", image_size=32, num_classes=12, clips={"v1s": (72, 0, 36)})
    features, names, splits = [], [], []
    for row in read_rows(root):
        sound, _ = soundfile.read(clip_folder(root, row) / "audio.wav")
        spectrum = np.abs(np.fft.rfft(sound[:73600].reshape(-1, 400)))  # (frames of 25 ms, bins of 40 Hz)
        bands = np.log(0.01 + np.add.reduceat(spectrum, np.geomspace(3, 180, 24).astype(int), axis=1))
        features.append(
            np.concatenate([bands.mean(axis=0), bands.std(axis=0), np.abs(np.diff(bands, axis=0)).mean(0)])
        )
        names.append(row["a_obj"])
        splits.append(row["split"])
    features, names, train = np.array(features), np.array(names), np.array(splits) == "train"
    features = (features - features[train].mean(axis=0)) / features[train].std(axis=0)
    classes = np.unique(names)
    means = np.stack([features[train & (names == name)].mean(axis=0) for name in classes])
    nearest = np.linalg.norm(features[:, None] - means, axis=-1).argmin(axis=1)
    assert (classes[nearest] == names)[~train].mean() > 0.9


# Repeatability


def test_same_arguments_give_the_same_bytes_and_another_seed_does_not(tmp_path, root):
    again = make_mini_avsbench(tmp_path / "again", image_size=64, clips=CLIPS)
    assert snapshot(again) == snapshot(root)
    other = make_mini_avsbench(tmp_path / "other", seed=1, image_size=64, clips={"v1s": (1, 0, 0)})
    assert {row["uid"] for row in read_rows(other)}.isdisjoint(row["uid"] for row in read_rows(root))


def test_larger_set_begins_with_the_clips_of_a_smaller_one(tmp_path, root):
    smaller = make_mini_avsbench(tmp_path / "smaller", image_size=64, clips={"v1s": (2, 1, 0), "v2": (1, 0, 1)})
    rows = read_rows(root)
    for row in read_rows(smaller):
        assert row in rows
        assert snapshot(clip_folder(smaller, row)) == snapshot(clip_folder(root, row))
    for subset, split, count in (("v1s", "train", 2), ("v2", "test", 1)):
        first = [row for row in rows if (row["label"], row["split"]) == (subset, split)][:count]
        assert all(clip_folder(smaller, row).is_dir() for row in first)


# The statistics of AVSBench


@pytest.fixture(scope="module")
def like_avsbench(tmp_path_factory) -> Path:
    counts = {"v1s": (3, 0, 24), "v1m": (0, 0, 24), "v2": (0, 0, 12)}
    return make_mini_avsbench(
        tmp_path_factory.mktemp("like") / "set", image_size=48, clips=counts, statistics="avsbench"
    )


def sample_scenes(subset: str, num_clips: int) -> list[tuple[list[mini.Actor], list[mini.Source]]]:
    """The objects of many clips and what sounds beside them, without drawing them."""
    generators = [mini._generator(0, list(SECONDS).index(subset), 0, index, 2) for index in range(num_clips)]
    return [mini._sample_avsbench_scene(subset, 24, 96, 96, rng) for rng in generators]


def check_share(found: np.ndarray, share: float) -> None:
    """Whether draws have this share, up to four standard deviations of a binomial one."""
    assert abs(found.mean() - share) <= 4 * (share * (1 - share) / len(found)) ** 0.5


def first_seconds(casts: list[list[mini.Actor]]) -> list[tuple[bool, bool]]:
    """Whether an object sounds, and whether it shows a sign, in the first second: one draw of each object."""
    return [(actor.active[0], actor.signs[0]) for cast in casts for actor in cast]


@pytest.mark.parametrize("subset", ["v1s", "v1m", "v2"])
def test_shares_are_those_that_were_fixed(subset):
    scenes = sample_scenes(subset, 1500)
    casts = [actors for actors, _ in scenes]
    draws = np.array(first_seconds(casts))
    for sounds, share in ((True, 0.85), (False, 0.1)):
        check_share(draws[draws[:, 0] == sounds, 1], share)
    check_share(np.array([bool(off_screen) for _, off_screen in scenes]), {"v1s": 0, "v1m": 0.1, "v2": 0.1}[subset])
    silent = np.array([not any(actor.active[0] for actor in cast) for cast in casts])
    check_share(silent, {"v1s": 0, "v1m": 0.05, "v2": 0.05}[subset])
    if subset == "v1s":
        check_share(np.array([len(cast) == 1 for cast in casts]), 0.88)
        assert all(sum(actor.active.all() for actor in cast) == 1 for cast in casts)


def test_what_can_be_seen_nearly_always_sounds():
    sounding = [actor.active for subset in SECONDS for cast, _ in sample_scenes(subset, 300) for actor in cast]
    assert 0.8 < np.concatenate(sounding).mean() < 0.9
    at_once = {
        subset: np.mean(
            [np.mean(np.all([actor.active for actor in cast], axis=0)) for cast, _ in sample_scenes(subset, 300)]
        )
        for subset in SECONDS
    }
    assert at_once["v1m"] < at_once["v2"] < at_once["v1s"]


def test_classes_are_uneven_and_all_of_them_occur():
    names = Counter(actor.name for actors, _ in sample_scenes("v1s", 3000) for actor in actors if actor.active.any())
    assert set(names) == set(LOOKS)
    first, last = next(iter(LOOKS)), list(LOOKS)[-1]
    ranks = 1 / np.arange(1, 25)
    for name, rank in ((first, 1), (last, 24)):
        share = 1 / rank / ranks.sum()
        assert abs(names[name] / 3000 - share) < 4 * (share / 3000) ** 0.5


def test_each_class_may_sound_like_another_one_of_its_family():
    assert sorted(name for family in mini.SOUND_FAMILIES for name in family) == sorted(LOOKS)
    assert min(map(len, mini.SOUND_FAMILIES)) == 2
    own, other = TIMBRES["guitar"], TIMBRES["piano"]
    assert mini._blend(own, other, 0).pitch == pytest.approx(own.pitch)
    assert mini._blend(own, other, 1).pitch == pytest.approx(other.pitch)
    assert mini._blend(own, other, 0.4).chord == own.chord and mini._blend(own, other, 0.6).chord == other.chord
    # What one of them lacks has no frequency to be halved.
    noise = mini._blend(TIMBRES["violin"], TIMBRES["hair-dryer"], 0.5).noise
    assert noise == pytest.approx((500, 7000, 0.425))


def test_the_record_names_what_is_drawn_and_masks_hold_what_sounds_of_it(like_avsbench):
    rows = read_rows(like_avsbench)
    assert list(rows[0])[-2:] == ["visible", "off_screen"]
    for row in rows:
        visible, off_screen = (set(row[name].split("_")) - {""} for name in ("visible", "off_screen"))
        seen = {CLASS_NAMES[i] for i in np.unique(read_labels(like_avsbench, row))} - {"background"}
        if (row["label"], row["split"]) != ("v1s", "train"):
            assert seen == set(row["a_obj"].split("_"))
        assert seen <= visible and off_screen.isdisjoint(visible)
        sound, rate = soundfile.read(clip_folder(like_avsbench, row) / "audio.wav")
        for i, labels in enumerate(read_labels(like_avsbench, row)):
            loudness = np.sqrt(np.mean(sound[i * rate : int((i + 0.6) * rate)] ** 2))
            if labels.any():
                assert loudness > 0.006
            else:
                assert loudness < 0.006 or off_screen
    assert {len(row["visible"].split("_")) for row in rows if row["label"] == "v1s"} == {1, 2}


def test_what_is_off_screen_is_heard_where_no_mask_says_so():
    scenes = [scene for scene in sample_scenes("v1m", 1000) if scene[1]]
    alone = [
        (actors, source, source.active & ~np.any([actor.active for actor in actors], axis=0))
        for actors, (source,) in scenes
    ]
    actors, source, seconds = next(scene for scene in alone if scene[2].any())
    assert source.name not in {actor.name for actor in actors}
    second = np.flatnonzero(seconds)[0]
    for off_screen, is_heard in (([], False), ([source], True)):
        sound = mini._soundtrack([*actors, *off_screen], 5, np.random.default_rng(0))
        loudness = np.sqrt(np.mean(sound[second * 16_000 : int((second + 0.6) * 16_000)] ** 2))
        assert (loudness > 0.006) == is_heard


def test_the_record_is_in_the_dataset_of_such_a_set_alone(like_avsbench, root, tmp_path):
    clips = load_avsbench("avss", like_avsbench, "test", cache_dir=str(tmp_path))
    rows = {row["uid"]: row for row in read_rows(like_avsbench)}
    for video_id, visible, off_screen in zip(clips["video_id"], clips["visible"], clips["off_screen"]):
        for indices, name in ((visible, "visible"), (off_screen, "off_screen")):
            assert "_".join(CLASS_NAMES[index] for index in indices) == rows[video_id][name]
    others = load_avsbench("avss", root, "test", cache_dir=str(tmp_path))
    assert {"visible", "off_screen"}.isdisjoint(others.column_names)


def test_the_sign_is_drawn_at_the_object_and_stays_within_it():
    scene = next(cast for cast, _ in sample_scenes("v1s", 50) if len(cast) == 1)
    pictures, masks = [], []
    for sign in (False, True):
        frame, owner = np.full((96, 96, 3), 100, np.float32), np.zeros((96, 96), np.uint8)
        mini._draw_actor(frame, owner, scene[0], 1, 0, sign)
        pictures.append(frame)
        masks.append(owner > 0)
    changed = (pictures[0] != pictures[1]).any(axis=-1)
    assert 0.02 < changed.sum() / masks[0].sum() < 0.4
    assert not (changed & ~masks[1]).sum() > 0.1 * changed.sum()
    np.testing.assert_array_equal(masks[0] & ~masks[1], False)


def test_a_set_like_avsbench_follows_from_its_seed(tmp_path, like_avsbench):
    arguments = {"image_size": 48, "clips": {"v1s": (2, 0, 1), "v2": (0, 0, 1)}, "statistics": "avsbench"}
    again = make_mini_avsbench(tmp_path / "again", **arguments)
    files = snapshot(again)
    expected = snapshot(like_avsbench)
    whole = {name: content for name, content in files.items() if name.startswith("v")}
    assert whole.items() <= expected.items()
    other = make_mini_avsbench(tmp_path / "other", seed=1, **arguments)
    assert {row["uid"] for row in read_rows(other)}.isdisjoint(row["uid"] for row in read_rows(again))
    with pytest.raises(FileExistsError, match="not the mini-AVSBench of these arguments"):
        make_mini_avsbench(again, image_size=48, num_classes=24, clips=arguments["clips"])


def test_a_set_of_the_default_statistics_is_what_it_was(root):
    expected = {
        "version": 1,
        "seed": 0,
        "image_size": 64,
        "num_classes": 8,
        "clips": {k: list(v) for k, v in CLIPS.items()},
    }
    assert json.loads((root / "mini_avsbench.json").read_text()) == expected
    metadata = hashlib.sha256((root / "metadata.csv").read_bytes()).hexdigest()
    assert metadata == "723306765bcdf8a35559cbcb6beb9720fe97167a59db6632648b23cb017307b2"


# The target folder


def test_same_set_is_reused_untouched(tmp_path):
    arguments = {"image_size": 32, "clips": {"v1s": (1, 0, 0)}}
    root = make_mini_avsbench(tmp_path / "set", **arguments)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    make_mini_avsbench(root, **arguments)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == times


def test_set_made_with_other_arguments_is_refused(tmp_path):
    root = make_mini_avsbench(tmp_path / "set", image_size=32, clips={"v1s": (1, 0, 0)})
    with pytest.raises(FileExistsError, match="not the mini-AVSBench of these arguments"):
        make_mini_avsbench(root, image_size=32, clips={"v1s": (2, 0, 0)})


def test_foreign_folder_is_refused_and_kept(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="Choose another folder"):
        make_mini_avsbench(tmp_path, image_size=32, clips={"v1s": (1, 0, 0)})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_empty_and_nested_targets_are_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", tmp_path / "a" / "b"):
        make_mini_avsbench(root, image_size=32, clips={"v1m": (1, 0, 0)})
        assert len(read_rows(root)) == 1


def test_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    write, calls = soundfile.write, []

    def interrupted_write(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(*args, **kwargs)

    monkeypatch.setattr(soundfile, "write", interrupted_write)
    with pytest.raises(KeyboardInterrupt):
        make_mini_avsbench(tmp_path / "set", image_size=32, clips={"v1s": (5, 0, 0)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"statistics": "real"}, '`statistics` must be "independent" or "avsbench", but is'),
        ({"num_classes": 3}, "`num_classes` must be between 4 and 24, but is 3"),
        ({"num_classes": 25}, "`num_classes` must be between 4 and 24, but is 25"),
        ({"image_size": 16}, "`image_size` must be at least 32"),
        ({"clips": {"s4": (1, 1, 1)}}, "`clips` must map v1s, v1m, v2"),
        ({"clips": {"v1s": (1, 1)}}, "three counts"),
        ({"clips": {"v1s": (1, -1, 0)}}, "three counts"),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_mini_avsbench(tmp_path / "set", **arguments)
    assert not (tmp_path / "set").exists()
