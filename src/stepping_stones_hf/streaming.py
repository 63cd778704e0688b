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
"""Segmentation of what is still being recorded, a second at a time."""

import numpy as np
from PIL import Image

from .media import check_sampling_rate, to_frame, to_mono
from .pipelines import AudioVisualSegmentationPipeline
from .video import ClipSecond


class StreamingPredictor:
    """
    Segments frames and sound as they arrive, with one second of latency: a second is segmented as soon as it is over.
    Where a model looks at several seconds together, `pipeline.clip_length`, so many are segmented at a time, once the
    last of them is over. The results, with those of `finish`, are those of the pipeline for the whole recording.

    ```python
    predictor = StreamingPredictor(segment, sampling_rate=16_000)  # segment is the pipeline
    for frame, samples in camera_and_microphone:
        result = predictor.push(frame, samples)  # None, until a second is over
    ```

    Args:
        pipeline ([`AudioVisualSegmentationPipeline`]):
            The models.
        sampling_rate (`int`):
            Rate of the sound in hertz.
        **kwargs:
            Arguments of the pipeline's call, as in `label_maps="array"`.

    Raises:
        `ValueError`: the rate is no positive whole number.
    """

    def __init__(self, pipeline: AudioVisualSegmentationPipeline, sampling_rate: int, **kwargs):
        check_sampling_rate(sampling_rate)
        pipeline._sanitize_parameters(**kwargs)  # refuses what it does not know
        self.pipeline, self.sampling_rate, self.kwargs = pipeline, int(sampling_rate), kwargs
        self.reset()

    def reset(self) -> None:
        """Begins a new recording."""
        self.index = 0  # of the second that is being recorded
        self.frame, self.latest = None, None  # the last one until its middle, and the last one
        self.before = np.zeros(0)  # samples of the second before it
        self.samples = np.zeros(0)  # its samples until now
        self.waiting = []  # seconds that are over, until there are as many as the models look at together

    def push(self, frame: Image.Image | np.ndarray, samples: np.ndarray) -> dict | list[dict] | None:
        """
        Adds a frame and the sound from then on.

        Args:
            frame (`PIL.Image.Image`, or `np.ndarray` of shape `(height, width, 3)`, RGB, uint8):
                What is seen now. Of the frames of a second the last one until its middle is segmented.
            samples (`np.ndarray` of shape `(samples,)` or `(channels, samples)`):
                What is heard until the next frame: at most one second.

        Returns:
            `dict` or `None`: when a second is over its result, as the pipeline gives it. Where `pipeline.clip_length`
            is more than 1, `list[dict]` or `None`: when so many seconds are over their results.

        Raises:
            `ValueError`: there is no sound or more than a second of it, or there are samples that are NaN or
            infinite; the frame is of another shape or type.
        """
        samples = to_mono(samples, "samples")
        if len(samples) > self.sampling_rate:
            raise ValueError(
                f"samples has {len(samples) / self.sampling_rate:.2f} s of sound: push at most one second at a time."
            )
        self.latest = to_frame(frame, "frame")
        if self.frame is None or len(self.samples) <= self.sampling_rate / 2:
            self.frame = self.latest
        self.samples = np.concatenate([self.samples, samples])
        if len(self.samples) < self.sampling_rate:
            return None
        samples, rest = np.split(self.samples, [self.sampling_rate])
        self._end_second(samples)
        self.index, self.frame, self.before, self.samples = self.index + 1, self.latest, samples, rest
        if len(self.waiting) < self.pipeline.clip_length:
            return None
        return self._segment()

    def finish(self) -> dict | list[dict] | None:
        """
        Ends the recording, and begins a new one.

        Returns:
            `dict` or `None`: the result of a last second that is more than half over, or that is the first one; what
            it lacks is silence. Where `pipeline.clip_length` is more than 1, `list[dict]` or `None`: the results of
            all seconds that `push` has not returned.
        """
        if len(self.samples) > (self.sampling_rate / 2 if self.index else 0):
            self._end_second(np.pad(self.samples, (0, self.sampling_rate - len(self.samples))))
        results = self._segment() if self.waiting else None
        self.reset()
        return results

    def _end_second(self, samples: np.ndarray) -> None:
        second = ClipSecond(self.index, self.frame, np.concatenate([self.before, samples]), self.sampling_rate)
        self.waiting.append(second)

    def _segment(self) -> dict | list[dict]:
        results = self.pipeline.segment_seconds(self.waiting, **self.kwargs)
        self.waiting = []
        return results[0] if self.pipeline.clip_length == 1 else results


__all__ = ["StreamingPredictor"]
