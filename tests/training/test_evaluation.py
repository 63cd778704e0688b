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
import torch
from accelerate import Accelerator

from stepping_stones_hf import AAVSForAudioVisualSegmentation, AAVSImageProcessorPil
from stepping_stones_hf.training import evaluation
from stepping_stones_hf.training.evaluation import FrameScores, localize, make_prompts

from ..models.aavs.conftest import make_config


def test_scores_are_single_precision_under_autocast():
    torch.manual_seed(0)
    model = AAVSForAudioVisualSegmentation(make_config(num_labels=2)).eval()
    size = {"height": 16, "width": 16}
    processor = AAVSImageProcessorPil(label_size=size, post_process_size=size, localization=True)
    inputs = {"pixel_values": torch.randn(2, 3, 64, 64), "audio_embeddings": torch.randn(2, 128)}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = localize(model, processor, inputs)
    assert scores.dtype == torch.float32 and scores.shape == (2, 2, 16, 16)


def test_prompts_are_where_what_sounds_has_the_higher_score():
    scores = torch.tensor([[[[0.2, 0.6]], [[0.6, 0.2]]]])  # (frames, background and sounding, height, width)
    assert make_prompts(scores).tolist() == [[[1.0, 0.0]]]
    torch.testing.assert_close(make_prompts(scores, soft=True), torch.tensor([[[0.75, 0.25]]]))


def add_frames(scores: FrameScores, frames: list[tuple], seed: int = 0) -> FrameScores:
    generator = np.random.default_rng(seed)
    for frame in frames:
        label_map = generator.integers(0, 3, (1, 8, 8))
        if scores.num_classes is None:
            scores.add([frame], generator.random((1, 2, 8, 8)), label_map > 1)
        else:
            scores.add([frame], np.where(generator.random((1, 8, 8)) < 0.5, label_map, 0), label_map)
    return scores


FRAMES = [(subset, video, index) for subset in ("v2", "v1s", "v1m") for video in ("a", "b") for index in range(3)]


@pytest.mark.parametrize("num_classes", [3, None])
def test_frames_of_other_processes_count_as_own_ones(num_classes, monkeypatch):
    expected = add_frames(FrameScores(num_classes), FRAMES)
    shares = [expected.select([frame[:2] for frame in FRAMES[start:stop]]) for start, stop in ((0, 9), (6, 18))]
    assert [len(share) for share in shares] == [9, 12]  # the frames of a clip are on both
    shares[0].seconds = 1.5
    monkeypatch.setattr(evaluation, "gather_object", lambda objects: [*objects, (shares[1].frames, 2.0)])
    shares[0].gather()
    assert len(shares[0]) == 18 and shares[0].seconds == 3.5
    for subset in (None, "v1m"):
        options = {"subset": subset, "confidence": 0.5}
        np.testing.assert_equal(shares[0].results(**options), expected.results(**options))


def test_one_process_gathers_its_own_frames():
    scores = add_frames(FrameScores(3), FRAMES)
    before = scores.results()
    Accelerator()
    scores.gather()
    np.testing.assert_equal(scores.results(), before)


def test_a_subset_has_the_results_of_its_frames_alone():
    scores = add_frames(FrameScores(3), FRAMES)
    assert scores.subsets == ["v1s", "v1m", "v2"]
    alone = FrameScores(3)
    alone.extend((name, frame) for name, frame in scores.frames.items() if name[0] == "v1m")
    np.testing.assert_equal(scores.results("v1m"), alone.results())
    assert scores.results("v1m")["num_videos"] == 2 and scores.results("v1m")["miou"] != scores.results()["miou"]
