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
"""Does it listen? The figures of AVSBench-Robust against reference values, and what the metric refuses."""

import json
import math

import numpy as np
import pytest
from safetensors.numpy import load_file

from stepping_stones_hf.metrics import AvssMiou, FrameCounts, g_score, robustness_results


SOUNDS = ("own", "silence", "noise", "offscreen")
CASES_IN_FIXTURES = ["bin_worked_example", "bin_silent_video", "sem_worked_example", "sem_missing_donor_c71"]
CASES_ELSEWHERE = [
    "bin_mixed",
    "bin_deaf",
    "bin_silent",
    "bin_leak",
    "bin_two_channel",
    "bin_probability",
    "bin_missing_donor",
    "sem_mixed_c71",
    "sem_silent_c71",
]
PROTOCOLS = {
    "official_batch1": {"videos_per_batch": 1},
    "official_batch2": {"videos_per_batch": 2},
    "official_s4_configs": {"videos_per_batch": 1, "negative_videos_per_batch": 2},
    "official": {},
    "official_pad10": {"pad_to": 10},
}


def read_index(folder) -> dict:
    return json.loads((folder / "index.json").read_text())


def make_calls(arrays: dict[str, np.ndarray]) -> list[dict]:
    """The frames of a case as `add_batch` takes them: a call for each video and sound."""
    starts = np.cumsum([0, *arrays["video_lengths"]])
    calls = []
    for sound in SOUNDS:
        heard = arrays["headline_videos"] if sound == "offscreen" else range(len(arrays["video_lengths"]))
        place = 0
        for video in heard:
            start, end = starts[video], starts[video + 1]
            place = place if sound == "offscreen" else start
            calls.append(
                {
                    "predictions": arrays[f"pred/{sound}"][place : place + end - start],
                    "references": arrays["target"][start:end],
                    "video_ids": [int(video)],
                    "num_frames": [int(end - start)],
                    "sound": sound,
                }
            )
            place += end - start
    return calls


@pytest.fixture(params=[*CASES_IN_FIXTURES, *CASES_ELSEWHERE])
def case(request, tmp_path) -> dict:
    if request.param in CASES_IN_FIXTURES:
        folder = request.getfixturevalue("fixtures_dir") / "robust"
    else:
        folder = request.getfixturevalue("shared_dir") / "goldens" / "robust"
    case = read_index(folder)["cases"][request.param]
    options = {name: case[name] for name in ("score_rule", "num_classes") if name in case}
    return case | {"options": options, "calls": make_calls(load_file(folder / case["file"]))}


@pytest.fixture
def make(tmp_path):
    """A metric whose files stay in the test's folder."""
    return lambda *args, **kwargs: AvssMiou(*args, cache_dir=str(tmp_path), **kwargs)


def check(actual: dict, expected: dict) -> None:
    """Every expected value, under names that say "sound" where the reference says "condition"."""
    for name, value in expected.items():
        found = actual[name.replace("per_condition", "per_sound").replace("interval_95", "interval")]
        if isinstance(value, dict):
            check(found, value)
        else:
            np.testing.assert_allclose(found, value, rtol=0, atol=1e-6, err_msg=name)


def test_the_metric_gives_the_reference_values_by_every_protocol(case, make):
    metric = make(case["kind"], **case["options"])
    checked = 0
    for protocol, options in PROTOCOLS.items():
        if protocol not in case["expected"]:
            continue
        for call in case["calls"]:
            metric.add_batch(**call)
        robustness = metric.compute(**options)["robustness"]
        check(robustness["official"], case["expected"][protocol])
        check(robustness | robustness["corrected"], case["expected"]["corrected"])
        checked += 1
    assert checked == len(case["expected"]) - 1 > 0


def test_g_of_the_reference_table(fixtures_dir):
    rows = read_index(fixtures_dir / "robust")["g"]["rows"]
    assert len(rows) == 10
    for positive, negative, expected in rows:
        assert g_score(positive, negative) == pytest.approx(expected, abs=1e-12)


def make_counts(predictions: np.ndarray, truth: np.ndarray) -> dict[str, FrameCounts]:
    """Videos of two frames each: the same answer to all sounds."""
    frames = FrameCounts() if predictions.dtype.kind == "i" else FrameCounts("binary")
    frames.add([("v2", frame // 2, frame % 2) for frame in range(len(predictions))], predictions, truth)
    return dict.fromkeys(SOUNDS, frames)


def test_figures_of_what_sounds_are_undefined_where_nothing_does():
    truth, scores = np.zeros((4, 3, 3), int), np.zeros((4, 3, 3))
    scores[0] = 1
    results = robustness_results(make_counts(scores, truth))
    corrected = results["corrected"]
    undefined = [corrected[name] for name in ("gap", "miou_sounding_n", "g_miou_sounding")]
    assert all(map(math.isnan, [*undefined, *corrected["gap_interval"], corrected["own"]["fscore_hard"]]))
    assert corrected["noise"]["unmarked"] == 0.75 and corrected["g_fpr"] == 0.25
    assert (results["num_frames"], results["num_sounding_frames"]) == (4, 0)


def test_a_frame_of_which_every_pixel_is_ignored_marks_nothing():
    truth = np.full((2, 3, 3), -1)
    truth[1] = 2
    results = robustness_results(make_counts(np.full((2, 3, 3), 2), truth))
    own = results["corrected"]["own"]
    assert (own["miou_sounding"], own["fpr"], own["unmarked"]) == (1, 0.5, 0.5)


def test_the_results_with_the_own_sound_stay_what_they_are_without_others(make):
    generator = np.random.default_rng(0)
    truth, predictions = generator.integers(0, 3, (2, 6, 8, 8))
    truth[0] = 0  # else what is said of silent frames is NaN
    metric, call = make(num_classes=3), {"references": truth, "video_ids": "a"}
    alone = metric.compute(predictions=predictions, **call)
    for sound in SOUNDS:  # frames without a place in their video
        metric.add_batch(predictions=predictions, sound=sound, **call)
    results = metric.compute()
    robustness = results.pop("robustness")
    assert results == alone and "robustness" not in alone
    assert robustness["corrected"]["gap"] == pytest.approx(0, abs=1e-12)
    assert robustness["official"]["own"]["miou"] == alone["miou"]


def test_the_order_of_arrival_does_not_matter(make, fixtures_dir):
    calls = make_calls(load_file(fixtures_dir / "robust" / "bin_silent_video.safetensors"))
    metric, results = make("binary", score_rule="logit"), []
    for ordered in (calls, calls[::-1], [*calls[5:], *calls]):
        for call in ordered:
            metric.add_batch(**call)
        results.append(metric.compute()["robustness"])
    assert results[0] == results[1] == results[2]


MAPS = {"predictions": [[[0, 1]]], "references": [[[0, 1]]]}


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([{"sound": "thunder"}], "sound must be one of .* found 'thunder'"),
        ([{"sound": "noise"}], "video_ids must name the videos that were heard with 'noise'"),
        ([{"video_ids": "a"}, {"video_ids": "a", "sound": "noise"}], r"found none with \['silence', 'offscreen'\]"),
        ([{"video_ids": str(index), "sound": sound} for index, sound in enumerate(SOUNDS)], "no video was heard with"),
        (
            [{"video_ids": "a", "sound": sound} for sound in (*SOUNDS, "noise")],
            "video 'a' has other frames or references with the sound 'noise' than with its own",
        ),
    ],
)
def test_bad_input_is_one_clear_line(calls, message, make):
    metric = make(num_classes=2)
    with pytest.raises(ValueError, match=message) as error:
        for call in calls:
            metric.add_batch(**MAPS, **call)
        metric.compute()
    assert "\n" not in str(error.value)
