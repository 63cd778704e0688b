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
"""
What the feature extractors of all models share that hear log-mel patches: waveforms of any rate and kind become one
flat batch of patches.
"""

import math
from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank, window_function
from transformers.utils import TensorType

from ..media import MIN_COMMON_FACTOR, check_sampling_rate, to_mono


# Spectra are computed for so many patches at a time, which keeps the memory that a long recording takes bounded.
PATCHES_PER_BLOCK = 16

# The filter that resampy 0.4 calls "kaiser_best" in the terms of torchaudio.
KAISER_BEST = {
    "lowpass_filter_width": 50,
    "rolloff": 0.917347,
    "resampling_method": "sinc_interp_kaiser",
    "beta": 12.9846,
}


class LogMelFeatureExtractor(SequenceFeatureExtractor):
    """
    Base of the feature extractors that cut waveforms into patches of a log-mel spectrogram. One says how many samples
    a patch takes (`patch_length`) and what becomes of them (`_log_mel`).
    """

    model_input_names = ["input_features"]
    # Arguments of torchaudio's `resample` and of `mel_filter_bank`.
    resampling_filter = KAISER_BEST
    mel_options = {"mel_scale": "htk"}

    def __init__(
        self,
        feature_size: int,
        sampling_rate: int,
        padding_value: float,
        frame_length: int,
        hop_length: int,
        fft_length: int,
        min_frequency: float,
        max_frequency: float,
        patch_frames: int,
        patch_hop_seconds: float,
        **kwargs,
    ):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.frame_length = frame_length
        self.hop_length = hop_length
        self.fft_length = fft_length
        self.min_frequency = min_frequency
        self.max_frequency = max_frequency
        self.patch_frames = patch_frames
        self.patch_hop_seconds = patch_hop_seconds
        # `to_dict` leaves arrays of these two names out: they follow from the other attributes.
        self.window = window_function(frame_length, name="hann", periodic=True)
        self.mel_filters = mel_filter_bank(
            num_frequency_bins=fft_length // 2 + 1,
            num_mel_filters=feature_size,
            min_frequency=min_frequency,
            max_frequency=max_frequency,
            sampling_rate=sampling_rate,
            norm=None,
            **self.mel_options,
        )

    @property
    def patch_length(self) -> int:
        """Number of samples that one patch covers, at the extractor's sampling rate."""
        raise NotImplementedError

    def _log_mel(self, patches: torch.Tensor) -> torch.Tensor:
        """(num_patches, patch_length), double precision -> (num_patches, patch_frames, feature_size), single"""
        raise NotImplementedError

    def __call__(
        self,
        audio: np.ndarray | torch.Tensor | Sequence,
        sampling_rate: int | None = None,
        num_patches: int | Sequence[int] | None = None,
        patch_hop_seconds: float | None = None,
        return_tensors: str | TensorType | None = None,
    ) -> BatchFeature:
        r"""
        Computes the log-mel patches of one or several waveforms.

        Args:
            audio (`np.ndarray`, `torch.Tensor`, `list[float]` or a list of these):
                One waveform or a list of waveforms, each of shape `(num_samples,)` or `(num_channels, num_samples)`;
                channels are averaged. An array is always one waveform, and so is a list of numbers. Floating point
                samples, between -1 and 1, are taken as they are; integers are divided by the range of their type.
            sampling_rate (`int`):
                The rate of the waveforms in hertz.
            num_patches (`int` or `list[int]`, *optional*):
                How many patches to return for each waveform, as one number or as one per waveform: the first so many,
                and where there are fewer the last one is repeated (as the original does for the S4 subset of
                AVSBench). By default all that fit into the waveform; an incomplete one at the end is dropped.
            patch_hop_seconds (`float`, *optional*):
                Time from one patch to the next, instead of the attribute of this name. A patch starts at the sample
                that is nearest.
            return_tensors (`str` or [`~utils.TensorType`], *optional*):
                `"pt"` for PyTorch tensors. NumPy arrays by default.

        Returns:
            [`BatchFeature`] with `input_features` of shape `(num_patches, patch_frames, feature_size)`, float32: one
            flat batch with the patches of one waveform after those of the other.

        Raises:
            ValueError: if the sampling rate is missing or not a positive whole number; if a waveform is empty, shorter
                than one patch, transposed, of another shape or type than described, or has samples that are NaN or
                infinite; if `num_patches` is less than 1 or not one per waveform; if `patch_hop_seconds` is less than
                one sample.
        """
        check_sampling_rate(sampling_rate)
        if isinstance(audio, (list, tuple)) and not (audio and isinstance(audio[0], Real)):
            waveforms = {f"audio[{index}]": waveform for index, waveform in enumerate(audio)}
        else:
            waveforms = {"audio": audio}
        if not waveforms:
            raise ValueError("`audio` is an empty list. Pass a waveform or a list of at least one.")
        patch_counts = expand_num_patches(num_patches, len(waveforms))
        patch_hop = self._patch_hop_samples(patch_hop_seconds)

        features = []
        for (name, waveform), count in zip(waveforms.items(), patch_counts):
            samples = self._resample(torch.from_numpy(to_mono(waveform, name)), sampling_rate)
            patches = self._cut_patches(samples, name, patch_hop, count)
            log_mel = torch.cat([self._log_mel(block) for block in patches.split(PATCHES_PER_BLOCK)])
            features.append(log_mel)
            if count is not None and count > len(log_mel):
                features.append(log_mel[-1:].expand(count - len(log_mel), -1, -1))
        return BatchFeature({"input_features": torch.cat(features).numpy()}, tensor_type=return_tensors)

    def _patch_hop_samples(self, patch_hop_seconds: float | None) -> float:
        """Samples from one patch to the next; not necessarily a whole number."""
        if patch_hop_seconds is None:
            patch_hop_seconds = self.patch_hop_seconds
        patch_hop = patch_hop_seconds * self.sampling_rate
        if not 1 <= patch_hop < math.inf:
            raise ValueError(
                f"`patch_hop_seconds` is {patch_hop_seconds}, but patches must be at least one sample "
                f"({1 / self.sampling_rate} s) apart. Use 0.96 for patches without a gap or 1.0 for one per second."
            )
        return patch_hop

    def _resample(self, samples: torch.Tensor, sampling_rate: int) -> torch.Tensor:
        if sampling_rate == self.sampling_rate:
            return samples
        divisor = math.gcd(int(sampling_rate), self.sampling_rate)
        if divisor < MIN_COMMON_FACTOR:
            return resample_any_rate(samples, int(sampling_rate) // divisor, self.sampling_rate // divisor)
        # Imported only where it is needed, since a torchaudio that does not fit the installed torch fails to import.
        from torchaudio.functional import resample

        # In single precision: double changes nothing that matters and takes longer.
        return resample(samples.float(), int(sampling_rate), self.sampling_rate, **self.resampling_filter).double()

    def _cut_patches(self, samples: torch.Tensor, name: str, patch_hop: float, count: int | None) -> torch.Tensor:
        """(num_samples,) -> (num_patches, patch_length): the patches that fit, at most `count` of them."""
        slack = len(samples) - self.patch_length
        if slack < 0:
            raise ValueError(
                f"`{name}` has {len(samples)} samples at {self.sampling_rate} Hz: not one patch, which takes "
                f"{self.patch_length} ({self.patch_length / self.sampling_rate} s). Pad it with zeros or leave it out."
            )
        # Every start is rounded by itself: a hop that is no whole number of samples does not add up to a drift.
        starts = torch.arange(0, slack + 0.5, patch_hop, dtype=torch.float64)[:count].round().long()
        return samples.unfold(0, self.patch_length, 1)[starts]


def resample_any_rate(samples: torch.Tensor, before: int, after: int) -> torch.Tensor:
    """
    From a rate to another one, divided by their common factor, by the same filter. Where the factor is small
    torchaudio would need gigabytes, `before` times `after` numbers.
    """
    from scipy.signal import firwin, resample_poly  # slow to import, and seldom needed

    longest = max(before, after)
    cutoff = KAISER_BEST["rolloff"] / longest
    taps = firwin(
        2 * math.ceil(KAISER_BEST["lowpass_filter_width"] / cutoff) + 1,
        cutoff,
        window=("kaiser", KAISER_BEST["beta"]),
    )
    return torch.from_numpy(resample_poly(samples.double().numpy(), after, before, window=taps))


def expand_num_patches(num_patches: int | Sequence[int] | None, num_waveforms: int) -> Sequence[int | None]:
    """One number of patches per waveform; `None` stands for as many as fit."""
    if num_patches is None or isinstance(num_patches, Integral):
        num_patches = [num_patches] * num_waveforms
    if len(num_patches) != num_waveforms:
        raise ValueError(
            f"`num_patches` has {len(num_patches)} numbers for {num_waveforms} waveforms. Pass one per waveform, or "
            "one integer for all."
        )
    for count in num_patches:
        if count is not None and count < 1:
            raise ValueError(f"`num_patches` is {count}, but every waveform has to give at least 1 patch.")
    return num_patches


__all__ = ["KAISER_BEST", "LogMelFeatureExtractor"]
