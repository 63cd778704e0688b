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

import av
import numpy as np
import pytest
from transformers import pipeline

from stepping_stones_hf.streaming import StreamingPredictor

from .videos import make_frame, make_sound, make_video


RATE = 22_050


@pytest.fixture(scope="module")
def segment(two_stage_repository):
    return pipeline("audio-visual-segmentation", model=str(two_stage_repository), device="cpu")


def push_all(predictor, frames, sound, chunk) -> list[dict]:
    """Frames at equal distances, each with the sound until the next one."""
    results = [
        predictor.push(frame, sound[:, start : start + chunk])
        for frame, start in zip(frames, range(0, sound.shape[1], chunk), strict=True)
    ]
    return [result for result in results if result is not None]


@pytest.mark.parametrize("frames_per_second", [1, 5])
def test_it_gives_what_the_pipeline_gives(segment, frames_per_second):
    frames = [make_frame(80, 60, index) for index in range(4 * frames_per_second)]
    sound = make_sound(RATE, 4)
    # The pipeline looks at the frame that is shown in the middle of a second.
    shown = frames[frames_per_second // 2 :: frames_per_second]
    expected = segment({"frames": shown, "audio": sound, "sampling_rate": RATE})
    assert len({str(result["label_map"]) for result in expected}) > 1

    predictor = StreamingPredictor(segment, RATE)
    assert push_all(predictor, frames, sound, RATE // frames_per_second) == expected
    predictor.reset()
    assert push_all(predictor, frames, sound, RATE // frames_per_second) == expected


def test_a_second_is_segmented_as_soon_as_it_is_over(segment):
    predictor = StreamingPredictor(segment, RATE, label_maps="array")
    frame, sound = make_frame(80, 60, 0), make_sound(RATE, 1, channels=1)[0]
    assert predictor.push(frame, sound[:-1]) is None
    result = predictor.push(frame, sound[:2])
    assert result["second"] == 0
    assert result["label_map"].shape == (60, 80)
    assert predictor.push(frame, sound[:-2]) is None  # a sample was left for this second
    assert predictor.push(frame, sound[:1])["second"] == 1


def test_chunks_that_cross_seconds(segment):
    """Frames every 0.9 s: in the middle of the second second the one of 0.9 s is shown."""
    sound = make_sound(RATE, 3.6, channels=1)
    frames = [make_frame(80, 60, 3 * index) for index in range(4)]
    results = push_all(StreamingPredictor(segment, RATE), frames, sound, round(0.9 * RATE))
    clip = {"frames": [frames[0], frames[1], frames[2]], "audio": sound[:, : 3 * RATE], "sampling_rate": RATE}
    assert results == segment(clip)


@pytest.mark.parametrize("seconds", [0.3, 2.4, 2.7])
def test_the_end_of_a_recording_counts_as_in_the_pipeline(segment, tmp_path, seconds):
    path = make_video(tmp_path / "clip.mkv", seconds=seconds, audio_codec="pcm_f32le", video_codec="ffv1")
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    predictor = StreamingPredictor(segment, 16_000)
    results = push_all(predictor, frames, make_sound(16_000, seconds), 1_600)
    last = predictor.finish()
    assert results + ([] if last is None else [last]) == segment(path)
    assert predictor.finish() is None


def test_bad_input(segment):
    frame = make_frame(80, 60, 0)
    with pytest.raises(ValueError, match="sampling_rate"):
        StreamingPredictor(segment, 0)
    predictor = StreamingPredictor(segment, RATE)
    with pytest.raises(ValueError, match=r"samples has 1\.50 s of sound: push at most one second"):
        predictor.push(frame, make_sound(RATE, 1.5))
    with pytest.raises(ValueError, match="NaN"):
        predictor.push(frame, np.full(10, np.nan))
    with pytest.raises(ValueError, match=r"frame should be a PIL image or .* got \(3, 60, 80\), float64"):
        predictor.push(np.zeros((3, 60, 80)), make_sound(RATE, 1))
    with pytest.raises(ValueError, match="takes no threshold"):
        StreamingPredictor(segment, RATE, threshold=0.5)
    # Nothing of what was refused is kept.
    assert predictor.push(frame, make_sound(RATE, 1))["second"] == 0
