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
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import label

from stepping_stones_hf.metrics import binary_results, binary_statistics
from stepping_stones_hf.training import degrade
from stepping_stones_hf.training.degrade import (
    QUALITIES,
    calibrate_level,
    degrade_mask,
    frame_iou,
)


HEIGHT, WIDTH = 64, 80
SUBSETS = {"v1s": (24, 5, 0.0), "v1m": (24, 5, 0.15), "v2": (16, 10, 0.3)}  # clips, frames, share of silent frames


def disc(height, width, y, x, radius) -> np.ndarray:
    rows, columns = np.ogrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 < radius**2


def draw_frames(subset: str) -> list[tuple[str, int, np.ndarray]]:
    """One object in a frame of v1s, up to three in the others, some of them cut by the border; some frames silent."""
    num_clips, num_frames, silent_share = SUBSETS[subset]
    rng = np.random.default_rng(0)
    frames = []
    for clip in range(num_clips):
        for frame in range(num_frames):
            mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
            num_objects = 1 if subset == "v1s" else rng.integers(1, 4)
            if rng.random() >= silent_share:
                for _ in range(num_objects):
                    mask |= disc(HEIGHT, WIDTH, rng.uniform(0, HEIGHT), rng.uniform(0, WIDTH), rng.uniform(5, 16))
            frames.append((f"{subset}_{clip}", frame, mask))
    return frames


@pytest.fixture(scope="module")
def subsets() -> dict[str, list[tuple[str, int, np.ndarray]]]:
    return {subset: draw_frames(subset) for subset in SUBSETS}


@pytest.fixture(scope="module")
def frames(subsets) -> list[tuple[str, int, np.ndarray]]:
    return [frame for subset in subsets.values() for frame in subset]


def degraded_ious(frames, level: float, seed: int = 0) -> np.ndarray:
    return np.array([frame_iou(mask, degrade_mask(mask, level, seed, video, frame)) for video, frame, mask in frames])


# The error model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", QUALITIES)
def test_every_subset_and_their_mean_have_the_wanted_iou(subsets, quality):
    means = []
    for frames in subsets.values():
        level = calibrate_level(frames, QUALITIES[quality], seed=3)
        means.append(degraded_ious(frames, level, seed=3).mean())
    np.testing.assert_allclose(means, QUALITIES[quality], atol=0.002)
    assert np.mean(means) == pytest.approx(QUALITIES[quality], abs=0.002)


def test_oracle_is_the_truth(frames):
    level = calibrate_level(frames, 1.0, seed=0)
    assert level == 0
    assert all(np.array_equal(degrade_mask(mask, level, 0, video, frame), mask) for video, frame, mask in frames)


def test_calibration_counts_what_degrade_mask_does(frames):
    frames = frames[::5]
    totals = sum(degrade._iou_at_all_levels(mask, *degrade._wrong_levels(mask, 0, v, f)) for v, f, mask in frames)
    for step in (1, 150, 700, 3000, degrade.NUM_LEVELS - 1):
        expected = degraded_ious(frames, step * degrade.LEVEL_STEP).mean()
        assert totals[step] / len(frames) == pytest.approx(expected, abs=1e-12)


def test_iou_falls_as_the_level_rises(frames):
    frames = frames[::3]
    curve = np.array([degraded_ious(frames, level) for level in (0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.3, 2, 4)])
    assert (np.diff(curve.mean(axis=1)) < 0).all()
    # The strayed contour that goes with a dropped object can raise the IoU, but only beside other objects.
    single = [label(mask)[1] <= 1 for *_, mask in frames]
    assert (np.diff(curve[:, single], axis=0) <= 0).all()


def test_order_of_the_frames_does_not_matter(frames):
    video, frame, mask = frames[7]
    alone = degrade_mask(mask, 0.4, 0, video, frame)
    order = np.random.default_rng(1).permutation(len(frames))
    shuffled = [frames[index] for index in order]
    assert calibrate_level(iter(shuffled), 0.8, seed=0) == calibrate_level(frames, 0.8, seed=0)
    assert np.array_equal(degrade_mask(mask, 0.4, 0, video, frame), alone)


def test_seed_video_and_frame_each_change_the_errors():
    mask = disc(HEIGHT, WIDTH, 30, 40, 15)
    keys = [(0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (0, "a0", 0), (10, "a", 0), (0, "a", 10)]
    results = {degrade_mask(mask, 1.0, *key).tobytes() for key in keys}
    assert len(results) == len(keys)


DIGEST_PROGRAM = """
import hashlib
import numpy as np
mask = np.zeros((48, 64), dtype=bool)
mask[10:30, 8:40] = mask[34:44, 50:64] = True
frames = [(f"clip_{i}", i % 5, mask) for i in range(20)]
digest = hashlib.sha256(repr(calibrate_level(frames, 0.7, seed=5)).encode())
for video, frame, mask in frames:
    digest.update(degrade_mask(mask, 0.5, 5, video, frame).tobytes())
"""


def test_another_process_draws_the_same_errors_and_needs_only_numpy_and_scipy():
    program = f"import runpy, sys; globals().update(runpy.run_path(sys.argv[1]))\n{DIGEST_PROGRAM}"
    program += (
        "print(digest.hexdigest(), sorted({'torch', 'transformers', 'datasets', 'evaluate'} & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program, degrade.__file__],
        env=os.environ | {"PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    here = dict(vars(degrade))
    exec(DIGEST_PROGRAM, here)
    assert output.split(maxsplit=1) == [here["digest"].hexdigest(), "[]\n"]


def test_silent_frames_get_ghosts_only():
    silence = np.zeros((HEIGHT, WIDTH), dtype=bool)
    results = [degrade_mask(silence, 0.4, 0, "silent", frame) for frame in range(200)]
    share = np.mean([result.any() for result in results])
    assert 0.02 < share < 0.5
    assert all(result.mean() < 0.3 for result in results)


def test_missed_object_leaves_no_halo(monkeypatch):
    monkeypatch.setattr(degrade, "GHOST_RATE", 1e-12)
    mask = disc(HEIGHT, WIDTH, 30, 40, 15)
    results = [degrade_mask(mask, 2.0, 0, "clip", frame) for frame in range(100)]
    missed = [result for result in results if not (result & mask).any()]
    assert len(missed) > 30
    assert not any(result.any() for result in missed)


def test_objects_are_dropped_one_by_one():
    mask = disc(HEIGHT, WIDTH, 30, 20, 12) | disc(HEIGHT, WIDTH, 30, 60, 12)
    results = [degrade_mask(mask, 0.5, 0, "clip", frame) & mask for frame in range(200)]
    left = np.array([result[:, :40].any() for result in results])
    right = np.array([result[:, 40:].any() for result in results])
    for count in ((left & ~right).sum(), (~left & right).sum(), (~left & ~right).sum(), (left & right).sum()):
        assert count >= 5


def test_small_and_large_objects_suffer_alike():
    small, large = disc(128, 128, 64, 64, 10), disc(128, 128, 64, 64, 40)
    means = [np.mean(degraded_ious([("clip", i, mask) for i in range(100)], 0.3)) for mask in (small, large)]
    assert means[0] == pytest.approx(means[1], abs=0.05)


def test_errors_are_the_same_at_every_resolution(frames):
    ious = []
    for video, frame, mask in frames[:40]:
        enlarged = degrade_mask(np.kron(mask, np.ones((3, 3), dtype=bool)), 0.3, 0, video, frame)
        ious.append(frame_iou(enlarged[1::3, 1::3], degrade_mask(mask, 0.3, 0, video, frame)))
    assert np.mean(ious) > 0.95


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (64, 64), (224, 224), (180, 320), (720, 1280)])
def test_any_size(size):
    height, width = size
    mask = disc(height, width, 0.4 * height, 0.3 * width, 0.3 * min(size) + 0.5)
    before = mask.copy()
    result = degrade_mask(mask, 0.5, 0, "clip", 0)
    assert result.shape == size and result.dtype == bool
    assert np.array_equal(mask, before)


def test_object_that_fills_the_frame_can_be_missed():
    ious = degraded_ious([("clip", i, np.ones((HEIGHT, WIDTH), dtype=bool)) for i in range(200)], 1.0)
    assert (ious == 0).any() and ious.mean() > 0.3


@pytest.mark.parametrize(
    "mask",
    [
        np.zeros((4, 4), dtype=np.uint8),
        np.zeros((4, 4)),
        np.zeros((1, 4, 4), dtype=bool),
        np.zeros((0, 4), dtype=bool),
        [[True, False]],
    ],
    ids=["uint8", "float", "three dimensions", "no pixels", "list"],
)
def test_what_is_no_mask_is_refused(mask):
    with pytest.raises(ValueError, match="frame 3 of 'clip' should be a boolean array"):
        degrade_mask(mask, 0.3, 0, "clip", 3)
    with pytest.raises(ValueError, match="frame 3 of 'clip' should be a boolean array"):
        calibrate_level([("clip", 3, mask)], 0.8, seed=0)
    truth = np.zeros((4, 4), dtype=bool)
    with pytest.raises(ValueError, match="prediction should be a boolean array"):
        frame_iou(truth, mask)
    with pytest.raises(ValueError, match="truth should be a boolean array"):
        frame_iou(mask, truth)


@pytest.mark.parametrize("level", [-0.1, float("nan"), float("inf")])
def test_impossible_level_is_refused(level):
    with pytest.raises(ValueError, match="level should be"):
        degrade_mask(np.zeros((4, 4), dtype=bool), level, 0, "clip", 0)


@pytest.mark.parametrize("target", [0.0, -0.5, 1.01, 77.1, float("nan")])
def test_impossible_target_is_refused(frames, target):
    with pytest.raises(ValueError, match="target_iou should be in"):
        calibrate_level(frames, target, seed=0)


def test_target_out_of_reach_is_refused(frames):
    silent = [(video, frame, np.zeros_like(mask)) for video, frame, mask in frames[:50]]
    with pytest.raises(ValueError, match=r"50 masks .* the range 0\.9\d+ to 1"):
        calibrate_level(silent, 0.5, seed=0)


def test_nothing_to_calibrate_on_is_refused():
    with pytest.raises(ValueError, match="masks is empty"):
        calibrate_level([], 0.8, seed=0)


@pytest.fixture(scope="module")
def predictions(frames) -> list[np.ndarray]:
    """Masks with errors of all kinds, at an IoU of about 0.6."""
    return [degrade_mask(mask, 0.7, 99, video, frame) for video, frame, mask in frames]


# The measure -------------------------------------------------------------------------------------------------------


def test_frame_iou_is_that_of_the_metric(frames, predictions):
    statistics = [
        binary_statistics(prediction.astype(np.float32), mask) for (*_, mask), prediction in zip(frames, predictions)
    ]
    expected = binary_results(statistics, np.arange(len(frames)))["miou"]
    ious = [frame_iou(mask, prediction) for (*_, mask), prediction in zip(frames, predictions)]
    assert np.mean(ious) == pytest.approx(expected, abs=1e-9)


def test_frame_iou_of_a_silent_frame_is_that_of_the_background():
    silence, alarm = np.zeros((4, 5), dtype=bool), np.zeros((4, 5), dtype=bool)
    alarm[0, :2] = True
    assert frame_iou(silence, silence) == 1
    assert frame_iou(silence, alarm) == pytest.approx(0.9)
    assert frame_iou(alarm, silence) == 0
