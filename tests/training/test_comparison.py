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

import numpy as np
import pytest

from stepping_stones_hf.metrics import binary_results, binary_statistics, semantic_results, semantic_statistics
from stepping_stones_hf.training.comparison import (
    FIGURES,
    Measured,
    compare_systems,
    has_one_truth,
    load_measured,
    make_comparison_table,
    rank_videos,
    save_measured,
    score_videos,
)
from stepping_stones_hf.training.evaluation import FrameScores


FRAMES = [("v2", video, index) for video in "abcdef" for index in range(2)]


@pytest.fixture
def truths() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4, size=(len(FRAMES), 8, 8))


def corrupt(truths: np.ndarray, share: float, seed: int = 1) -> np.ndarray:
    """Label maps in which about such a share of the pixels is wrong, more in later videos."""
    random = np.random.default_rng(seed)
    shares = share * np.linspace(0.5, 1.5, len(truths))[:, None, None]
    return np.where(random.random(truths.shape) < shares, (truths + 1) % 4, truths)


def score(predictions: np.ndarray, truths: np.ndarray) -> FrameScores:
    scores = FrameScores(71)
    scores.add(FRAMES, predictions, truths)
    return scores


def localize(predictions: np.ndarray, truths: np.ndarray) -> FrameScores:
    scores = FrameScores(score_rule="probability")
    scores.add(FRAMES, (predictions > 0) * np.float32(0.75), truths > 0)
    return scores


@pytest.mark.parametrize("make_scores", [score, localize])
def test_what_is_kept_gives_the_same_results(make_scores, truths, tmp_path):
    measured = Measured(make_scores(corrupt(truths, 0.3), truths), parameters=12, seconds=0.5)
    save_measured(tmp_path / "scores.npz", measured)
    loaded = load_measured(tmp_path / "scores.npz")
    assert loaded.scores.frames == measured.scores.frames
    assert loaded.scores.options == measured.scores.options
    assert (loaded.parameters, loaded.seconds) == (12, 0.5)
    figures = [name for name, value in measured.scores.results().items() if isinstance(value, float)]
    assert {"miou", "fscore", "miou_star"} < set(figures)
    assert all(loaded.scores.results()[name] == measured.scores.results()[name] for name in figures)


@pytest.mark.parametrize("keep", [0, 100, -100])
def test_what_is_kept_and_damaged_since_is_named(truths, tmp_path, keep):
    path = tmp_path / "scores.npz"
    save_measured(path, Measured(score(corrupt(truths, 0.3), truths)))
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    with pytest.raises(ValueError, match=f"{path} is damaged: "):
        load_measured(path)
    path.write_bytes(content[:150] + bytes(100) + content[250:])
    with pytest.raises(ValueError, match=f"{path} is damaged: "):
        load_measured(path)


@pytest.mark.parametrize("task", ["semantics", "localization"])
def test_intervals_of_differences_resample_the_same_videos_for_both(task, truths):
    make_scores = score if task == "semantics" else localize
    systems = {
        name: {task: Measured(make_scores(corrupt(truths, share), truths))}
        for name, share in (("first", 0.3), ("second", 0.1))
    }
    first, second = compare_systems(systems)
    assert first["on"] == second["on"] == ("AVSS" if task == "semantics" else "V2")
    assert "difference_to" not in first and second["difference_to"] == "first"

    def resample(predictions: np.ndarray, drawn: np.ndarray) -> float:
        indices = [2 * video + index for video in drawn for index in range(2)]
        videos = np.repeat(np.arange(len(drawn)), 2)
        if task == "semantics":
            counts = [semantic_statistics(predictions[index], truths[index]) for index in indices]
            return semantic_results(counts, videos)["miou_star"]
        counts = [
            binary_statistics((predictions[index] > 0) * np.float32(0.75), truths[index] > 0) for index in indices
        ]
        return binary_results(counts, videos)["miou_star"]

    random, differences = np.random.default_rng(0), []
    better, worse = corrupt(truths, 0.1), corrupt(truths, 0.3)
    for _ in range(1000):
        drawn = random.integers(6, size=6)
        differences.append(resample(better, drawn) - resample(worse, drawn))
    interval = second["difference_miou_star_low"], second["difference_miou_star_high"]
    assert interval == pytest.approx(np.quantile(differences, [0.025, 0.975]).tolist())
    assert interval[0] < second["difference_miou_star"] < interval[1]
    unpaired = second["miou_star_low"] - first["miou_star_high"], second["miou_star_high"] - first["miou_star_low"]
    assert unpaired[0] < interval[0] and interval[1] < unpaired[1]


def test_systems_that_were_scored_on_other_frames_are_refused(truths):
    whole = score(truths, truths)
    part = whole.select([("v2", "a")])
    with pytest.raises(ValueError, match="second was scored on other frames than first: they cannot be compared"):
        compare_systems({"first": {"semantics": Measured(whole)}, "second": {"semantics": Measured(part)}})


def test_other_true_masks_are_noticed(truths):
    ours, theirs = score(truths, truths), score(truths, corrupt(truths, 0.01))
    localized = localize(truths, truths)
    assert has_one_truth([{"semantics": Measured(ours), "localization": Measured(localized)}] * 2)
    assert not has_one_truth([{"semantics": Measured(ours)}, {"semantics": Measured(theirs)}])


def test_videos_are_ranked_by_the_mean_lead_of_the_others(truths):
    half = np.where(np.arange(len(FRAMES))[:, None, None] < 4, truths, 0)  # nothing is found in c to f
    systems = {"first": score(half, truths), "good": score(truths, truths), "bad": score(0 * truths, truths)}
    ranked = rank_videos(systems)
    silent = score_videos(systems["bad"])
    assert [row["video_id"] for row in ranked[4:]] == sorted("ab", key=lambda name: (-silent["v2", name], name))
    for rank, row in enumerate(ranked, start=1):
        name = row["video_id"]
        assert row["rank"] == rank and row["iou_good"] == 1 and row["iou_bad"] == silent["v2", name]
        assert row["iou_first"] == (1 if name in "ab" else silent["v2", name])
        assert row["difference"] == pytest.approx((1 + silent["v2", name]) / 2 - row["iou_first"])
    assert rank_videos({"bad": systems["bad"]})[0]["difference"] == max(silent.values())
    assert set(score_videos(localize(half, truths)).values()) == {0, 1}


def test_the_table_says_what_is_known_of_listening():
    measured = dict.fromkeys((f"{name}{end}" for name in FIGURES for end in ("", "_low", "_high")), 0.5)
    known = {"on": "S4", "system": "A", **measured, "parameters": None, "seconds": None}
    listens = {"g_miou": 0.4, "g_fpr": 0.02, "gap": 0.25, "gap_low": 0.2, "gap_high": 0.3}
    table = make_comparison_table([known | listens, known | listens | {"gap": None}, known | {"system": "B"}], {})
    lines = [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()]
    assert lines[0][-3:] == ["G-mIoU", "FPR", "gap"]
    assert lines[2][-3:] == ["40.00", "2.00", "25.00 [20.00, 30.00]"]
    assert lines[3][-3:] == ["40.00", "2.00", "–"] and lines[4][-3:] == ["–"] * 3
    assert "gap" not in make_comparison_table([known], {})


def test_the_table_marks_differences_that_an_interval_tells_from_chance():
    names = ("miou", "fscore", "miou_star", "fscore_star")
    measured = {
        key: value for name in names for key, value in ((name, 0.5), (f"{name}_low", 0.4), (f"{name}_high", 0.6))
    }
    first = {"on": "S4", "system": "A", **measured, "parameters": 2_500_000, "seconds": 0.25}
    difference = {f"difference_{name}{end}": 0.01 for name in names for end in ("", "_high")}
    lows = dict(zip((f"difference_{name}_low" for name in names), (0.005, -0.005, 0.0, 0.001)))
    second = {**first, "system": "B", "parameters": None, "seconds": None, "difference_to": "A", **difference, **lows}
    printed = {"miou": "49.2", "fscore": "60.01", "miou_star": "", "fscore_star": "39.99", "source": "the paper"}
    lines = make_comparison_table([first, second], {("S4", "B"): printed}).splitlines()
    cell = "50.00 [40.00, 60.00]"
    assert lines[2:] == [
        f"| S4 | A | {cell} | {cell} | {cell} | {cell} |  | 2.50 | 0.250 |",
        f"| S4 | B | {cell} | {cell} | {cell} | {cell} |  | – | – |",
        "|  | difference to A | **+1.00** [+0.50, +1.00] | +1.00 [-0.50, +1.00] | +1.00 [+0.00, +1.00]"
        " | **+1.00** [+0.10, +1.00] |  |  |  |",
        "|  | printed: the paper | 49.2 (+0.8) | 60.01 (**-10.01**) |  | 39.99 (**+10.01**) |  |  |  |",
    ]
