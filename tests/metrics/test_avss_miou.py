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
"""The metric against tensors computed by the released programs, against plain definitions, and on bad input."""

import importlib.util
import json
from pathlib import Path

import datasets
import evaluate
import numpy as np
import pytest
import torch
from PIL import Image

from stepping_stones_hf.metrics import AvssMiou, FrameCounts, binary_statistics
from stepping_stones_hf.metrics.avss_miou.avss_miou import THRESHOLDS


REPOSITORY = Path(__file__).parents[2]
CASES_IN_FIXTURES = [
    "sem_worked_example",
    "sem_absent_classes",
    "sem_empty_gt_frames",
    "sem_ignore_255",
    "sem_single_class",
    "bin_worked_example",
]
CASES_ELSEWHERE = ["sem_random_c71", "sem_blobs_224_c71", "bin_soft_s4", "bin_empty_ms3", "bin_soft_224"]
TOLERANCE = {"rtol": 0, "atol": 1e-6}  # the programs sum in float32


@pytest.fixture
def make(tmp_path):
    """A metric whose files stay in the test's folder."""
    return lambda *args, **kwargs: AvssMiou(*args, cache_dir=str(tmp_path), **kwargs)


@pytest.fixture(scope="module")
def generator():
    return np.random.default_rng(0)


def load_case(name: str, request) -> tuple[dict, dict]:
    if name in CASES_IN_FIXTURES:
        folder = request.getfixturevalue("fixtures_dir") / "metrics"
    else:
        folder = request.getfixturevalue("shared_dir") / "goldens" / "metrics"
    case = json.loads((folder / "index.json").read_text())["cases"][name]
    return case, dict(np.load(folder / case["file"]))


def close(actual, expected) -> None:
    expected = np.nan if expected is None else expected
    np.testing.assert_allclose(actual, expected, **TOLERANCE)


# The released programs


def check_frame_averaged(results: dict, expected: dict, arrays: dict, prefix: str) -> None:
    close(results["miou"], expected["miou"])
    close(results["fscore"], expected["fscore"])
    close(results["miou_no_background"], expected["miou_nobg"])
    close(results["fscore_no_background"], expected["fscore_nobg"])
    close(results["miou_without_last_class"], expected["miou_droplast"])
    close(results["fscore_without_last_class"], expected["fscore_droplast"])
    close(results["per_class"]["iou"], arrays[f"{prefix}/iou_pc"])
    close(results["per_class"]["fscore"], arrays[f"{prefix}/f_pc"])
    np.testing.assert_array_equal(results["frames_per_class"], arrays[f"{prefix}/count"])
    assert np.count_nonzero(results["frames_per_class"]) == expected["n_seen"]


def check_accumulated(results: dict, expected: dict, arrays: dict | None = None, prefix: str = "") -> None:
    per_class = results["per_class"]
    close(results["miou_star"], expected["miou"])
    close(results["fscore_star"], expected["f03"])
    close(results["f1_star"], expected["f1"])
    close(results["fdr_star"], expected["fdr"])
    close(results["pixel_accuracy"], expected["acc"])
    close(np.mean(per_class["iou_star"][1:]), expected["miou_nobg"])
    close(np.nanmean(per_class["fscore_star"][1:]), expected["f03_nobg"])
    close(np.nanmean(per_class["fdr_star"][1:]), expected["fdr_nobg"])
    if arrays is not None:
        close(per_class["iou_star"], arrays[f"{prefix}/iou_pc"])
        close(per_class["fscore_star"], arrays[f"{prefix}/f03_pc"])
        close(per_class["fdr_star"], arrays[f"{prefix}/fdr_pc"])
        for ours, theirs in (("true_positives", "tp"), ("false_positives", "fp"), ("false_negatives", "fn")):
            np.testing.assert_array_equal(per_class[ours], arrays[f"{prefix}/{theirs}"])


def has_several_objects(reference: np.ndarray) -> bool:
    """CAVP's multi-source subset: more than two labels, an ignored one among them, with more than 100 pixels."""
    return np.count_nonzero(np.unique(reference, return_counts=True)[1] > 100) > 2


@pytest.mark.parametrize("name", [name for name in CASES_IN_FIXTURES + CASES_ELSEWHERE if name.startswith("sem")])
def test_semantic_results_are_those_of_the_released_programs(name, request, make):
    case, arrays = load_case(name, request)
    predictions, references, lengths = arrays["pred"], arrays["target"], arrays["video_lengths"]
    protocols = case["expected"]
    data = {"predictions": predictions, "references": references, "num_frames": lengths}
    options = {"num_classes": case["num_classes"]}

    results = make().compute(**data, **options)
    assert results["num_frames"] == len(predictions) and results["num_videos"] == len(lengths)
    check_frame_averaged(results, protocols["avsbench"], arrays, "exp/avsbench")
    check_accumulated(results, protocols["cavp"], arrays, "exp/cavp")
    if "ddeseg" in protocols:
        close(results["miou_star_present"], protocols["ddeseg"]["mean_iou"])
        close(results["f1_star"], protocols["ddeseg"]["mean_fscore"])
        close(results["fscore_star"], protocols["ddeseg"]["mean_fscore_03"])
    if "stepping_stones_loop" in protocols:
        close(results["miou"], protocols["stepping_stones_loop"]["miou"])
        close(results["fscore"], protocols["stepping_stones_loop"]["fscore"])
        close(results["miou_no_background"], protocols["stepping_stones_loop"]["miou_nb"])
        close(results["fscore_no_background"], protocols["stepping_stones_loop"]["fscore_nb"])
    if "avsbench_pad10" in protocols:
        padded = make().compute(**data, **options, pad_to=10)
        check_frame_averaged(padded, protocols["avsbench_pad10"], arrays, "exp/avsbench_pad10")
        check_accumulated(padded, protocols["cavp"], arrays, "exp/cavp")
    if "avsbench_ignore255" in protocols:
        corrected = make().compute(**data, **options, ignore_index=255)
        check_frame_averaged(corrected, protocols["avsbench_ignore255"], arrays, "exp/avsbench_ignore255")
        check_accumulated(corrected, protocols["cavp"], arrays, "exp/cavp")
    if "ms_subset" in protocols["cavp"]:
        chosen = [has_several_objects(reference) for reference in references]
        assert sum(chosen) == protocols["cavp"]["ms_subset"]["n_frames"]
        subset = make().compute(predictions=predictions[chosen], references=references[chosen], **options)
        check_accumulated(subset, protocols["cavp"]["ms_subset"])


@pytest.mark.parametrize("name", [name for name in CASES_IN_FIXTURES + CASES_ELSEWHERE if name.startswith("bin")])
def test_binary_results_are_those_of_the_released_programs(name, request, make):
    case, arrays = load_case(name, request)
    for protocol, expected in case["expected"].items():
        channels, repository = protocol.split("/")
        scores = arrays[channels]
        options = {"score_rule": "logit" if channels == "logit1" else "two_channel"}
        if repository.startswith(("combo", "cavp_avsbench_style")):
            scores = torch.tensor(scores, dtype=torch.float32).softmax(dim=1)[:, 1]
            options = {"score_rule": "probability"}
        if repository.startswith("gavs"):
            options["mask_threshold"] = 0.4
        if "_batch" in repository:
            options["videos_per_batch"] = int(repository.split("_batch")[1])
        results = make("binary").compute(
            predictions=scores, references=arrays["target"], num_frames=arrays["video_lengths"], **options
        )
        if repository == "cavp":
            check_accumulated(results, expected, arrays, f"exp/{protocol}")
        else:
            close(results["miou"], expected["miou"])
            close(results["fscore"], expected["fscore"])


def test_thresholds_are_those_of_the_released_programs(fixtures_dir):
    expected = np.load(fixtures_dir / "metrics" / "bin_worked_example.npz")["thresholds"]
    np.testing.assert_array_equal(THRESHOLDS, expected)


# Plain definitions


def test_a_score_on_a_threshold_reaches_it_and_one_below_does_not():
    scores = np.concatenate([THRESHOLDS, np.nextafter(THRESHOLDS[1:], np.float32(0)), np.float32([0.3, 0.999, 1e-30])])
    reference = np.arange(scores.size) % 3 == 0
    statistics = binary_statistics(scores[None], reference[None])
    reached = scores >= THRESHOLDS[:, None]
    np.testing.assert_array_equal(statistics[4:259], reached.sum(axis=1))
    np.testing.assert_array_equal(statistics[259:], (reached & reference).sum(axis=1))


def test_the_mask_threshold_is_compared_in_float32():
    scores = np.array([[0.4, np.nextafter(np.float32(0.4), np.float32(1))]], np.float32)
    assert binary_statistics(scores, np.ones((1, 2)), mask_threshold=0.4)[2] == 1


def test_results_agree_with_plain_loops_over_frames_classes_and_thresholds(tmp_path):
    path = REPOSITORY / "benchmarks" / "bench_metric.py"
    spec = importlib.util.spec_from_file_location("bench_metric", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    benchmark.compare(semantic_frames=20, binary_frames=14, size=40, rounds=1, cache_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        # What METRICS calls the edge cases: prediction [1, 1, 0, 0] of three classes, one label replaced.
        ([1, 1, 0, 0], {"miou": 2 / 3, "miou_star": 2 / 3, "fscore_star": 1.0, "pixel_accuracy": 1.0, "out": 0}),
        ([1, -1, 0, 0], {"miou": 2 / 3, "miou_star": 2 / 3, "fscore_star": 1.0, "pixel_accuracy": 1.0, "out": 1}),
        ([1, 255, 0, 0], {"miou": 1.5 / 3, "miou_star": 2 / 3, "fscore_star": 1.0, "pixel_accuracy": 1.0, "out": 1}),
        ([1, 7, 0, 0], {"miou": 1.5 / 3, "miou_star": 1.5 / 3, "fscore_star": 1.0, "pixel_accuracy": 3 / 4, "out": 1}),
    ],
)
def test_labels_that_are_no_class_are_treated_as_each_program_does(reference, expected, make):
    results = make(num_classes=3).compute(predictions=[[[1, 1, 0, 0]]], references=[[reference]])
    assert results["out_of_range_pixels"] == expected.pop("out")
    assert {name: results[name] for name in expected} == pytest.approx(expected)


def test_predictions_on_labels_beyond_the_classes_are_no_false_discoveries(make):
    results = make(num_classes=3).compute(predictions=[[[1, 1, 1, 0]]], references=[[[1, 7, 0, 0]]])
    assert results["fdr_star"] == pytest.approx((0 + 1 / 2) / 2)


@pytest.mark.parametrize("ignored", [-100, 0, 2, 9, 255])
def test_an_ignored_label_counts_in_no_protocol(ignored, make, generator):
    predictions, references = generator.integers(0, 5, (2, 3, 8, 8))
    references[0, :4] = ignored
    blanked = np.where(references == ignored, -1, references)
    results = make(num_classes=5, ignore_index=ignored).compute(predictions=predictions, references=references)
    expected = make(num_classes=5).compute(predictions=predictions, references=blanked)
    assert results["miou"] == expected["miou"]
    assert results["miou_star"] == expected["miou_star"]
    in_range = 0 <= ignored < 5
    assert results["out_of_range_pixels"] == (0 if in_range else expected["out_of_range_pixels"])


def test_means_over_seen_classes_leave_out_what_the_references_do_not_hold(make):
    results = make().compute(predictions=[[[0, 1, 2, 2]]], references=[[[0, 1, 1, 1]]])
    assert results["miou_seen"] == pytest.approx((1 + 1 / 3) / 2)
    assert results["miou_star_seen"] == pytest.approx((1 + 1 / 3) / 2)
    assert results["miou_star_present"] == pytest.approx((1 + 1 / 3) / 3)
    assert results["miou"] == pytest.approx((1 + 1 / 3) / 71)


def test_everything_ignored_gives_zeros_and_undefined_means(make):
    results = make(num_classes=3).compute(predictions=[[[0, 1]]], references=[[[-1, -1]]])
    assert results["miou"] == results["miou_star"] == 0
    assert np.isnan([results[name] for name in ("miou_seen", "fscore_star", "fdr_star", "pixel_accuracy")]).all()


def test_silent_frames_are_reported(make):
    scores = np.float32([[[0, 0, 0, 0]], [[1, 0, 0, 0]], [[1, 1, 0, 0]]])
    references = [[[0, 0, 0, 0]], [[0, 0, 0, 0]], [[1, 1, 0, 0]]]
    results = make("binary").compute(predictions=scores, references=references)
    assert results["silent_frames"] == {"count": 2, "correct_silence_rate": 0.5, "false_alarm_area": 0.125}
    assert results["miou"] == pytest.approx((1 + 0.75 + 1) / 3)


def test_silent_frames_of_label_maps_are_those_whose_reference_holds_the_background_alone(make):
    references = [[[0, 0, 0, 0]], [[0, 0, -1, 255]], [[0, 0, 0, 5]], [[-1, -1, -1, -1]], [[0, 0, 0, 0]]]
    predictions = [[[0, 0, 0, 0]], [[0, 2, 2, 2]], [[0, 0, 0, 0]], [[1, 1, 1, 1]], [[3, 0, 0, 0]]]
    results = make(num_classes=6).compute(predictions=predictions, references=references)
    # Of the second frame three pixels count, since 255 is a label to AVSBench; of the fourth none.
    expected = {"count": 3, "correct_silence_rate": 1 / 3, "false_alarm_area": (0 + 2 / 3 + 1 / 4) / 3}
    assert results["silent_frames"] == pytest.approx(expected)
    sounding = make(num_classes=6).compute(predictions=[[[0, 0]]], references=[[[0, 5]]])["silent_frames"]
    assert sounding["count"] == 0 and np.isnan([*sounding.values()][1:]).all()


def test_where_two_channels_are_equal_there_is_background(make):
    scores = np.float32([[[[1, 1]], [[1, 2]]]])
    results = make("binary", score_rule="two_channel").compute(predictions=scores, references=[[[0, 1]]])
    assert results["miou"] == results["pixel_accuracy"] == 1.0


def test_each_batch_has_its_threshold(make):
    scores = np.float32([[[0.9, 0.2]], [[0.4, 0.1]], [[0.0, 0.7]]])
    references = [[[1, 0]], [[1, 0]], [[0, 0]]]
    results = make("binary").compute(predictions=scores, references=references, num_frames=[1, 1, 1])
    first, second, silent = results["threshold_at_max"]
    # Of all thresholds between the two scores the lowest.
    assert first == THRESHOLDS[THRESHOLDS > 0.2][0] and second == THRESHOLDS[THRESHOLDS > 0.1][0]
    assert np.isnan(silent)
    assert results["fscore"] == pytest.approx(2 / 3)


def test_a_very_negative_logit_is_a_score_of_zero(make, recwarn):
    results = make("binary", score_rule="logit").compute(
        predictions=np.float32([[[-200, 200]]]), references=[[[0, 1]]]
    )
    assert results["fscore"] == 1.0
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


def test_confidence_intervals_are_repeatable_and_hold_the_estimate(make, generator):
    # Each video holds a class of its own, so that every resample misses some classes.
    references = np.arange(40)[:, None, None] // 4 * generator.integers(0, 2, (40, 6, 6))
    predictions = np.where(generator.random(references.shape) < 0.6, references, 0)
    data = {"references": references, "num_frames": [4] * 10}
    for config_name, scores in (("semantic", predictions), ("binary", (predictions > 0).astype(np.float32))):
        truth = references if config_name == "semantic" else references > 0
        first, second = (
            make(config_name).compute(**{**data, "references": truth}, predictions=scores, confidence=0.9)
            for _ in range(2)
        )
        intervals = first["confidence_intervals"]
        assert intervals == second["confidence_intervals"]
        assert set(intervals) == {name for name, value in first.items() if isinstance(value, float)}
        for name, (low, high) in intervals.items():
            assert low <= first[name] <= high, name
        assert intervals["miou"][0] < intervals["miou"][1]


@pytest.mark.parametrize("config_name", ["semantic", "binary"])
def test_resamples_are_what_intervals_are_taken_of(make, generator, config_name):
    references = generator.integers(0, 2, (20, 6, 6))
    predictions = references if config_name == "semantic" else generator.random(references.shape)
    data = {"predictions": predictions, "references": references, "num_frames": [2] * 10}
    results = make(config_name).compute(**data, confidence=0.9, resamples=True)
    alone = make(config_name).compute(**data, resamples=True)
    assert alone["resamples"] == results["resamples"] and "confidence_intervals" not in alone
    assert set(results["resamples"]) == set(results["confidence_intervals"])
    for name, values in results["resamples"].items():
        assert len(values) == 1000
        assert results["confidence_intervals"][name] == pytest.approx(np.quantile(values, [0.05, 0.95]).tolist()), name


def test_confidence_needs_differences_between_videos(make):
    results = make(num_classes=2).compute(
        predictions=[[[0, 1]]] * 4, references=[[[0, 1]]] * 4, num_frames=[1] * 4, confidence=0.95
    )
    assert results["confidence_intervals"]["miou"] == (1.0, 1.0)


def intervals_of_three_videos(metric: AvssMiou, predictions, references) -> dict[str, tuple[float, float]]:
    data = {"predictions": predictions, "references": references, "num_frames": [1] * 3}
    return metric.compute(**data, confidence=0.9)["confidence_intervals"]


def test_a_resample_without_a_class_does_not_change_the_means_over_classes(make):
    sounding = np.array([[[1, 0]], [[0, 0]], [[0, 0]]])
    for metric, predictions in ((make(num_classes=2), sounding), (make("binary"), sounding.astype(float))):
        intervals = intervals_of_three_videos(metric, predictions, sounding)
        for name in ("miou", "miou_star", "miou_star_seen", "fscore_star", "pixel_accuracy"):
            assert intervals[name] == (1.0, 1.0), name


def test_a_class_that_a_resample_only_predicts_keeps_its_score_in_the_mean_over_seen_classes(make):
    # Class 1 scores 1 in the first video and 0 in the others; without the first it keeps 1 / 3.
    intervals = intervals_of_three_videos(make(num_classes=2), [[[0, 1]]] * 3, [[[0, 1]], [[0, 0]], [[0, 0]]])
    assert intervals["miou_seen"][0] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert intervals["miou"][0] == pytest.approx((1 / 2 + 0) / 2)


def test_a_resample_of_ignored_pixels_leaves_an_interval_for_the_accuracy(make):
    intervals = intervals_of_three_videos(make(num_classes=2), [[[0, 1]]] * 3, [[[0, 0]], [[-1, -1]], [[-1, -1]]])
    assert intervals["pixel_accuracy"] == (0.5, 0.5)


# Which frame is which


def same(first: dict, second: dict) -> None:
    """Bit for bit."""
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_equal(value, second[name])


@pytest.fixture(scope="module")
def clips(generator):
    references = generator.integers(0, 9, (20, 7, 7))
    predictions = np.where(generator.random(references.shape) < 0.6, references, generator.integers(0, 9, (20, 7, 7)))
    return {"predictions": predictions, "references": references, "video_ids": [f"v{i // 4}" for i in range(20)]}


@pytest.mark.parametrize("known", [True, False], ids=["frame_ids", "video_ids alone"])
def test_the_order_of_arrival_does_not_matter(known, clips, make, generator):
    expected = make(num_classes=9).compute(**clips, frame_ids=[index % 4 for index in range(20)])
    shuffled = make(num_classes=9)
    for index in generator.permutation(20):
        place = {"frame_ids": index % 4} if known else {}
        shuffled.add(
            prediction=clips["predictions"][index],
            reference=clips["references"][index],
            video_ids=clips["video_ids"][index],
            **place,
        )
    same(shuffled.compute(), expected)


def test_names_are_the_same_however_they_are_given(clips, make):
    data = {name: clips[name] for name in ("predictions", "references")}
    names = clips["video_ids"][::4]
    expected = make(num_classes=9).compute(**data, video_ids=names, num_frames=[4] * 5)
    same(make(num_classes=9).compute(**clips, frame_ids=torch.arange(20) % 4), expected)
    numbered = make(num_classes=9).compute(**data, video_ids=torch.arange(5), num_frames=torch.tensor([4] * 5))
    same(numbered, make(num_classes=9).compute(**data, num_frames=np.full(5, 4)))
    same(numbered, expected)


def test_a_repeated_frame_counts_once(clips, make):
    data = {name: clips[name] for name in ("predictions", "references")}
    expected = make(num_classes=9).compute(**data, video_ids=range(5), num_frames=[4] * 5)
    metric = make(num_classes=9)
    for clip in (3, 0, 1, 2, 4, 0, 3):
        frames = slice(4 * clip, 4 * clip + 4)
        metric.add_batch(
            predictions=data["predictions"][frames],
            references=data["references"][frames],
            video_ids=[clip],
            num_frames=[4],
        )
    results = metric.compute()
    assert results.pop("repeated_frames") == 8 and expected.pop("repeated_frames") == 0
    same(results, expected)


def test_a_repeated_frame_with_another_prediction_counts_once_in_either_order(make):
    predictions = [[[0, 1]], [[1, 1]]]
    results = []
    for order in (predictions, predictions[::-1]):
        metric = make(num_classes=2)
        for prediction in order:
            metric.add(prediction=prediction, reference=[[0, 1]], video_ids=0, frame_ids=0)
        results.append(metric.compute())
    assert results[0]["num_frames"] == 1
    same(*results)


@pytest.mark.parametrize("config_name", ["semantic", "binary"])
def test_two_frames_under_one_name_are_an_error_that_leaves_nothing_behind(config_name, make, tmp_path):
    metric = make(config_name)
    dtype = np.uint8 if config_name == "semantic" else np.float32
    for reference in ([[0, 1]], [[1, 0]]):
        metric.add(prediction=np.zeros((1, 2), dtype), reference=reference, video_ids="a", frame_ids=3)
    with pytest.raises(ValueError, match="two frames with different references are both frame 3 of video 'a'"):
        metric.compute()
    assert not list(tmp_path.rglob("*.arrow"))
    metric.add(prediction=np.zeros((1, 2), dtype), reference=[[0, 1]], video_ids="a", frame_ids=3)
    assert metric.compute()["num_frames"] == 1
    assert not list(tmp_path.rglob("*.arrow"))


def test_a_repeated_frame_is_recognized_in_another_dtype(make):
    metric = make(num_classes=2)
    for dtype in (bool, np.uint8, np.int64):
        metric.add(prediction=[[0, 1]], reference=np.array([[0, 1]], dtype), video_ids="a", frame_ids=0)
    assert metric.compute()["repeated_frames"] == 2


def test_frames_with_the_same_content_are_different_frames(make):
    metric = make()
    for _ in range(3):
        metric.add(prediction=[[0, 0]], reference=[[0, 0]], video_ids="silent")
    assert metric.compute()["num_frames"] == 3


def test_a_call_without_names_is_a_video(make):
    metric = make("binary")
    for _ in range(3):
        metric.add_batch(predictions=np.ones((5, 2, 2)), references=np.ones((5, 2, 2)))
    assert metric.compute()["num_videos"] == 3


def test_batches_of_videos_follow_their_names_not_their_arrival(make, generator):
    references = generator.integers(0, 2, (12, 5, 5))
    scores = generator.random((12, 5, 5), dtype=np.float32)
    results = []
    for order in (range(12), generator.permutation(12)):
        metric = make("binary")
        for video in order:
            metric.add(prediction=scores[video], reference=references[video], video_ids=int(video))
        results.append(metric.compute(videos_per_batch=5))
    same(*results)
    assert len(results[0]["threshold_at_max"]) == 3


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"video_ids": ["a"]}, "video_ids must have 2 entries, found 1"),
        ({"video_ids": [0.5, 1.5]}, "video_ids must be int or str, found 0.5"),
        ({"num_frames": [1]}, r"num_frames must add up to the 2 frames of the call, found \[1\]"),
        ({"num_frames": [2, 0]}, "num_frames must be int of at least 1, found 0"),
        ({"num_frames": [1, 1], "video_ids": ["a"]}, "video_ids must have 2 entries, found 1"),
        ({"frame_ids": [0, 1]}, "frame_ids go with video_ids"),
        ({"frame_ids": 0, "video_ids": "a"}, "frame_ids must have 2 entries, found 1"),
        ({"frame_ids": [0, 1], "video_ids": "a", "num_frames": [2]}, "frame_ids go with video_ids"),
        ({"frame_ids": [0, -1], "video_ids": "a"}, "frame_ids must be int of at least 0, found -1"),
    ],
)
def test_wrong_names_are_refused(names, message, make):
    with pytest.raises(ValueError, match=message):
        make().add_batch(predictions=np.zeros((2, 3, 3), int), references=np.zeros((2, 3, 3), int), **names)


# Frames by name


@pytest.mark.parametrize("config_name", ["semantic", "binary"])
def test_counts_that_are_merged_give_the_results_of_one_pass(config_name, generator):
    references = generator.integers(0, 2, (12, 5, 5))
    predictions = generator.integers(0, 2, (12, 5, 5))
    predictions = predictions if config_name == "semantic" else predictions.astype(np.float32)
    names = [(f"video {index // 4}", index % 4) for index in range(12)]

    def count(indices) -> FrameCounts:
        counts = FrameCounts(config_name)
        counts.add([names[index] for index in indices], predictions[indices], references[indices])
        return counts

    expected = count(np.arange(12))
    merged = count(generator.permutation(12)[:7])
    merged.extend(count(generator.permutation(12)).frames.items())  # those of the first part again
    assert len(merged) == 12
    same(merged.results(confidence=0.9), expected.results(confidence=0.9))
    assert merged.videos == {("video 0",), ("video 1",), ("video 2",)}
    same(merged.select([("video 1",)]).results(), count(np.arange(4, 8)).results())


def test_counts_are_as_small_as_they_say():
    names = [("video", 0)]
    semantic, binary = FrameCounts(), FrameCounts("binary")
    semantic.add(names, np.full((1, 500, 500), 3), np.full((1, 500, 500), 4))
    binary.add(names, np.zeros((1, 500, 500)), np.zeros((1, 500, 500)))
    assert len(semantic.frames["video", 0][1]) == 4 + 2 * 24
    assert 2000 < len(binary.frames["video", 0][1]) < 2100


def test_counts_refuse_a_frame_under_the_name_of_another():
    counts = FrameCounts(num_classes=2)
    counts.add([("v1s", "dog", 2)], np.array([[[0, 1]]]), np.array([[[0, 1]]]))
    with pytest.raises(ValueError, match="two frames with different references are both frame 2 of video 'dog'"):
        counts.add([("v1s", "dog", 2)], np.array([[[0, 1]]]), np.array([[[1, 1]]]))
    with pytest.raises(ValueError, match=r"frame 1 of the call \(frame 4 of video 'dog'\): predictions must lie in"):
        counts.add([("v1s", "dog", 3), ("v1s", "dog", 4)], np.array([[[0]], [[2]]]), np.array([[[0]], [[0]]]))
    assert len(counts) == 1
    with pytest.raises(ValueError, match="longer than"):
        counts.add([("v1s", "dog", 3)], np.zeros((2, 1, 1), int), np.zeros((2, 1, 1), int))


def test_counts_of_nothing_have_no_results():
    counts = FrameCounts("binary")
    with pytest.raises(ValueError, match="there are no frames"):
        counts.results()
    counts.add([("a", 0)], np.zeros((1, 2, 2)), np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match="there are no frames"):
        counts.select([("b",)]).results()


# As evaluate's other metrics are used


@pytest.fixture
def scored(clips) -> dict:
    """What a call brings: predictions and references alone."""
    return {name: clips[name] for name in ("predictions", "references")}


def test_add_takes_the_names_of_the_features_too(scored, make):
    expected = make(num_classes=9).compute(**scored, num_frames=[1] * 20)
    for names in (("prediction", "reference"), ("predictions", "references"), ("prediction", "references")):
        metric = make(num_classes=9)
        for frame in zip(scored["predictions"], scored["references"]):
            metric.add(**dict(zip(names, frame)))
        same(metric.compute(), expected)


def test_add_refuses_half_a_frame_and_names_that_it_does_not_know(make):
    metric = make(num_classes=9)
    with pytest.raises(ValueError, match="the prediction for a reference"):
        metric.add(references=[[0, 1]])
    with pytest.raises(TypeError, match="label"):
        metric.add(prediction=[[0, 1]], reference=[[0, 1]], label=1)
    assert metric.writer is None


@pytest.mark.parametrize("force_prefix", [False, True])
def test_combine_gives_what_each_metric_gives(force_prefix, scored, make):
    def combine():
        return evaluate.combine({"nine": make(num_classes=9), "ten": make(num_classes=10)}, force_prefix=force_prefix)

    whole, by_batch, by_frame = combine().compute(**scored), combine(), combine()
    by_batch.add_batch(**scored)
    for prediction, reference in zip(*scored.values()):
        by_frame.add(prediction=prediction, reference=reference)
    by_batch, by_frame = by_batch.compute(), by_frame.compute()
    for num_classes, name in ((9, "nine"), (10, "ten")):
        one_video = make(num_classes=num_classes).compute(**scored)
        one_a_frame = make(num_classes=num_classes).compute(**scored, num_frames=[1] * 20)
        for results, expected in ((whole, one_video), (by_batch, one_video), (by_frame, one_a_frame)):
            same({key: results[f"{name}_{key}"] for key in expected}, expected)


def make_data_set(generator) -> datasets.Dataset:
    """Images of different sizes."""
    maps = {name: [generator.integers(0, 9, (size, 6), np.uint8) for size in (4, 7, 5)] for name in ("seen", "true")}
    images = {name: [Image.fromarray(array) for array in arrays] for name, arrays in maps.items()}
    return datasets.Dataset.from_dict(images, features=datasets.Features(dict.fromkeys(maps, datasets.Image())))


def test_columns_of_a_data_set_are_taken(make, generator):
    rows = make_data_set(generator)
    predictions, references = ([np.asarray(image) for image in rows[name]] for name in ("seen", "true"))
    expected = make(num_classes=9).compute(predictions=predictions, references=references)
    assert not isinstance(rows["seen"], list)
    same(make(num_classes=9).compute(predictions=rows["seen"], references=rows["true"]), expected)


def test_an_evaluator_uses_it_as_any_metric(make, generator):
    class LabelMaps(evaluate.Evaluator):
        METRIC_KWARGS = {"pad_to": 10}

        def prepare_pipeline(self, model_or_pipeline, **_):
            return model_or_pipeline  # evaluate 0.4.6 asks transformers for classes that 5 does not have

        def predictions_processor(self, predictions, label_mapping):
            return {"predictions": predictions}

    rows = make_data_set(generator)
    results = LabelMaps("label-maps").compute(
        lambda images, **_: [np.asarray(image) // 2 for image in images],
        rows,
        metric=make(num_classes=9),
        input_column="seen",
        label_column="true",
    )
    predictions = [np.asarray(image) // 2 for image in rows["seen"]]
    expected = make(num_classes=9).compute(predictions=predictions, references=rows["true"], pad_to=10)
    same({name: results[name] for name in expected}, expected)


@pytest.mark.parametrize("config_name", ["semantic", "binary"])
def test_results_are_plain_and_evaluate_saves_them(config_name, clips, make, tmp_path):
    references = clips["references"] if config_name == "semantic" else clips["references"] > 0
    predictions = clips["predictions"] if config_name == "semantic" else clips["predictions"] / 10
    data = {"predictions": predictions, "references": references, "num_frames": [5] * 4}
    results = make(config_name).compute(**data, confidence=0.9)
    saved = json.loads(Path(evaluate.save(tmp_path / "results.json", **results)).read_text())
    same({name: saved[name] for name in results}, json.loads(json.dumps(results)))
    pending = [results]
    while pending:  # neither arrays nor numbers of numpy, which other writers than json would take apart
        value = pending.pop()
        pending += value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else []
        assert type(value) in (dict, list, tuple, float, int), value


# Kinds of input


@pytest.mark.parametrize(
    "convert",
    [
        pytest.param(lambda maps: maps.tolist(), id="nested lists"),
        pytest.param(lambda maps: [torch.tensor(frame) for frame in maps], id="list of tensors"),
        pytest.param(lambda maps: torch.tensor(maps), id="tensor"),
        pytest.param(lambda maps: [Image.fromarray(frame.astype(np.uint8)) for frame in maps], id="PIL images"),
        pytest.param(lambda maps: maps.astype(np.int8), id="int8"),
        pytest.param(lambda maps: maps.astype(np.uint64), id="uint64"),
        pytest.param(lambda maps: maps.astype(">i4"), id="big endian"),
        pytest.param(lambda maps: np.asfortranarray(maps), id="Fortran order"),
        pytest.param(lambda maps: maps[:, :, ::-1], id="view"),
        pytest.param(lambda maps: np.broadcast_to(maps, maps.shape), id="read-only"),
    ],
)
def test_label_maps_of_all_kinds_are_the_same(convert, clips, make):
    expected = make(num_classes=9).compute(**clips)
    converted = {name: convert(clips[name]) for name in ("predictions", "references")}
    same(make(num_classes=9).compute(**clips | converted), expected)


BOOLS = [
    pytest.param(lambda values: np.array(values, bool), id="bool"),
    pytest.param(lambda values: np.uint8(values).view(bool), id="bytes of 255"),
    pytest.param(lambda values: Image.fromarray(np.uint8(values)).convert("1"), id="PIL mode 1"),
]


@pytest.mark.parametrize("convert", BOOLS)
def test_maps_of_true_and_false_are_maps_of_1_and_0(convert, make):
    values, labels = [[0, 255, 255]], [[0, 1, 1]]
    expected = make(num_classes=2).compute(predictions=[labels], references=[labels])
    for prediction, reference in ((convert(values), labels), (labels, convert(values)), [convert(values)] * 2):
        same(make(num_classes=2).compute(predictions=[prediction], references=[reference]), expected)
    scores = [[[0.1, 0.9, 0.2]]]
    expected = make("binary").compute(predictions=scores, references=[labels])
    same(make("binary").compute(predictions=scores, references=[convert(values)]), expected)


def test_palette_images_are_read_as_indices(make):
    image = Image.fromarray(np.uint8([[0, 2], [1, 1]])).convert("P")
    image.putpalette([10, 20, 30, 200, 100, 0, 5, 5, 5])
    assert make(num_classes=3).compute(predictions=[image], references=[image])["miou"] == 1.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_scores_of_any_precision_are_taken(dtype, make):
    scores = torch.tensor([[[0.75, 0.25, 0.5]]], dtype=dtype, requires_grad=True)
    expected = make("binary").compute(predictions=scores.tolist(), references=[[[1, 0, 1]]])
    same(make("binary").compute(predictions=scores, references=torch.tensor([[[True, False, True]]])), expected)


def test_huge_labels_neither_wrap_nor_overflow(make):
    for dtype in (np.int64, np.uint64, np.int16, np.uint16):
        top = np.iinfo(dtype).max
        references = np.array([[[0, 1, top, 256, 511]]], dtype)
        results = make(num_classes=2).compute(predictions=[[[0, 1, 1, 0, 1]]], references=references)
        assert results["out_of_range_pixels"] == 3
        np.testing.assert_array_equal(results["per_class"]["true_positives"], [1, 1])


def test_frames_of_different_sizes_mix(make):
    frames = [np.zeros((2, 3), int), np.ones((5, 4), int), np.zeros((1, 1), int)]
    results = make(num_classes=2).compute(predictions=frames, references=frames)
    assert results["miou"] == 1.0 and results["num_frames"] == 3


def test_the_largest_number_of_classes_fits(make, generator):
    maps = generator.integers(0, 254, (2, 50, 50))
    assert make(num_classes=254).compute(predictions=maps, references=maps)["pixel_accuracy"] == 1.0


ZEROS = np.zeros((1, 2, 2))


@pytest.mark.parametrize(
    ("config_name", "predictions", "references", "message"),
    [
        ("semantic", ZEROS.astype(int), ZEROS[:, :1].astype(int), r"must be of shape \(1, 2\), found \(2, 2\)"),
        (
            "semantic",
            ZEROS[0].astype(int),
            ZEROS.astype(int),
            "predictions must be a list of frames, or an array of 3",
        ),
        ("semantic", ZEROS.astype(int), None, "references must be a list of frames"),
        ("semantic", np.zeros((0, 2, 2), int), np.zeros((0, 2, 2), int), "at least one"),
        ("semantic", np.zeros((2, 2, 2), int), ZEROS.astype(int), "found 2 predictions and 1 references"),
        ("semantic", np.zeros((1, 0, 2), int), np.zeros((1, 0, 2), int), "both positive, found"),
        ("semantic", ZEROS, ZEROS.astype(int), "predictions must be label maps of an integer dtype, found float64"),
        ("semantic", ZEROS.astype(int), ZEROS, "references must be label maps of an integer dtype, found float64"),
        ("semantic", [[[0, 1], [80, 80]]], ZEROS.astype(int), r"in \[0, 71\), found 80; 2 of 4 pixels are outside"),
        ("semantic", [[[0, 1], [-1, 0]]], ZEROS.astype(int), r"in \[0, 71\), found -1; 1 of 4 pixels"),
        ("semantic", [[["a", "b"]]], [[[0, 0]]], "integer dtype, found <U1"),
        ("semantic", [[[0, 0]], [[0, 1], [0]]], [[[0, 0]]] * 2, "frame 1 of predictions is no array"),
        ("binary", ZEROS.astype(int), ZEROS, "scores of a floating-point dtype, found int64"),
        ("binary", [[[0.5, np.nan]]], [[[0, 1]]], "found NaN or infinity in 1"),
        ("binary", [[[0.5, np.inf]]], [[[0, 1]]], "found NaN or infinity in 1"),
        ("binary", [[[0.5, 1e300]]], [[[0, 1]]], "finite in float32, found NaN or infinity in 1"),
        ("binary", [[[0.5, 1.5]]], [[[0, 1]]], r'in \[0, 1\] under score_rule="probability", found 1.5'),
        ("binary", [[[0.5, -0.5]]], [[[0, 1]]], r"found -0.5"),
        ("binary", [[[0.5, 0.5]]], [[[0, 255]]], "masks of 0 and 1, found 255"),
        ("binary", [[[0.5, 0.5]]], [[[0, np.nan]]], "masks of 0 and 1, found nan"),
        ("binary", np.zeros((1, 2, 2, 2)), ZEROS, "an array of 3 dimensions"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bad_input_is_named_and_leaves_the_metric_as_it_was(config_name, predictions, references, message, make):
    metric = make(config_name)
    with pytest.raises(ValueError, match=message):
        metric.add_batch(predictions=predictions, references=references)
    assert metric.writer is None


def test_two_channel_scores_must_have_two_channels(make):
    metric = make("binary", score_rule="two_channel")
    with pytest.raises(ValueError, match=r"must be of shape \(2, 2, 2\), found \(3, 2, 2\)"):
        metric.add_batch(predictions=np.zeros((1, 3, 2, 2)), references=ZEROS)


def test_an_error_says_which_frame_and_keeps_the_others_out(make):
    metric = make(num_classes=2)
    metric.add_batch(predictions=[[[0, 1]]], references=[[[0, 1]]], video_ids="good")
    with pytest.raises(ValueError, match=r"frame 1 of the call \(frame 7 of video 'bad'\): predictions must lie"):
        metric.add_batch(
            predictions=[[[0, 1]], [[0, 2]]], references=[[[0, 1]]] * 2, video_ids="bad", frame_ids=[6, 7]
        )
    assert metric.compute()["num_frames"] == 1


# Options


@pytest.mark.parametrize(
    ("config_name", "options", "message"),
    [
        ("ternary", {}, r"the configurations are \['semantic', 'binary'\], found 'ternary'"),
        ("semantic", {"num_class": 5}, "there is no option 'num_class' here"),
        ("semantic", {"score_rule": "logit"}, "there is no option 'score_rule' here"),
        ("semantic", {"num_classes": 1}, "num_classes must be an integer from 2 to 254, found 1"),
        ("semantic", {"num_classes": 71.0}, "num_classes must be an integer"),
        ("semantic", {"num_classes": 255}, "num_classes must be an integer from 2 to 254, found 255"),
        ("semantic", {"ignore_index": 256}, "ignore_index must be None or an integer up to 255"),
        ("binary", {"score_rule": "softmax"}, "score_rule must be one of"),
        ("binary", {"mask_threshold": 1.0}, "mask_threshold must be between 0 and 1"),
        ("binary", {"mask_threshold": "0.4"}, "mask_threshold must be between 0 and 1, and .* found '0.4'"),
        ("binary", {"score_rule": "two_channel", "mask_threshold": 0.4}, "has no use for it, found 0.4"),
    ],
)
def test_wrong_options_are_refused_when_the_metric_is_made(config_name, options, message, make):
    with pytest.raises(ValueError, match=message):
        make(config_name, **options)


@pytest.mark.parametrize(
    ("config_name", "options", "message"),
    [
        ("semantic", {"videos_per_batch": 2}, "there is no option 'videos_per_batch' here"),
        ("semantic", {"pad_to": 0}, "pad_to must be None or a positive integer, found 0"),
        ("semantic", {"confidence": 95}, "confidence must be None or between 0 and 1, found 95"),
        ("binary", {"resamples": 100}, "resamples must be True or False, found 100"),
        ("binary", {"confidence": "95%"}, "confidence must be None or between 0 and 1, found '95%'"),
        ("binary", {"videos_per_batch": 0}, "videos_per_batch must be a positive integer, found 0"),
        ("binary", {"pad_to": 10}, "there is no option 'pad_to' here"),
    ],
)
def test_wrong_options_of_compute_cost_no_data(config_name, options, message, make):
    metric = make(config_name)
    dtype = int if config_name == "semantic" else float
    metric.add_batch(predictions=ZEROS.astype(dtype), references=ZEROS.astype(int))
    with pytest.raises(ValueError, match=message):
        metric.compute(**options)
    assert metric.compute()["num_frames"] == 1


def test_options_of_the_reduction_may_come_with_all_the_data_and_not_later(make):
    data = {"predictions": [[[0, 1]]], "references": [[[0, 1]]]}
    metric = make()
    assert metric.compute(**data, num_classes=2)["miou"] == 1.0
    assert metric.compute(**data)["miou"] == pytest.approx(2 / 71)  # for that call only

    metric.add_batch(**data)
    for more in ({}, data):
        with pytest.raises(ValueError, match=r"compute got {'num_classes': 2}, but frames are reduced with"):
            metric.compute(**more, num_classes=2)
    assert metric.compute(num_classes=71, ignore_index=None)["num_frames"] == 1


def test_options_of_numpy_are_taken(make):
    data = {"predictions": [[[0, 1]]], "references": [[[0, 1]]]}
    expected = make().compute(**data, confidence=0.5)
    same(make(num_classes=np.uint8(71)).compute(**data, confidence=np.float64(0.5)), expected)
    same(make().compute(**data, num_classes=np.uint8(71), confidence=0.5), expected)


def test_compute_needs_frames(make):
    with pytest.raises(ValueError, match="there are no frames"):
        make().compute()


def test_compute_starts_again(make, tmp_path):
    metric = make(num_classes=2)
    first, second = (metric.compute(predictions=[[[0, 1]]], references=[[[0, 1]]]) for _ in range(2))
    same(first, second)
    assert not list(tmp_path.rglob("*.arrow"))


def test_frames_can_stay_in_memory(clips, make):
    same(make(num_classes=9, keep_in_memory=True).compute(**clips), make(num_classes=9).compute(**clips))
