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
Log-mel patches for CAVP: those of its released program, up to 1e-4 where a mel bin is all but silent. Other than
VGGish's they are decibels, of a band that ends at 3800 Hz, of centered frames, one patch a second.
"""

import math

import torch

from ..feature_extraction_base import LogMelFeatureExtractor


# The longest clips of AVSBench, for which the released program cuts its sound.
CROP_SECONDS = 10

# Power at which decibels end, and decibels (of a power's square) to 1.
MIN_POWER = 1e-5
DECIBELS = 20
SCALE = 100


def crop_as_released(samples: torch.Tensor, sampling_rate: int) -> torch.Tensor:
    """
    The ten seconds of a waveform `(samples,)` that the released program takes: the middle of a longer one. Of a
    shorter one its first index is negative, and counts from the end: of 5 s it takes the last 2.5 s four times, of
    9.98 s the last 0.01 s a thousand times.
    """
    size = CROP_SECONDS * sampling_rate
    start = len(samples) // 2 - size // 2
    samples = samples[start : start + size]
    return samples.repeat(math.ceil(size / len(samples)))[:size]


class CAVPFeatureExtractor(LogMelFeatureExtractor):
    r"""
    Constructs CAVP's feature extractor, which turns waveforms into patches of a log-mel spectrogram, one a second.
    Where a patch is asked for that has begun when the waveform ends, the rest of it is silence.

    This feature extractor inherits from [`~feature_extraction_sequence_utils.SequenceFeatureExtractor`] which contains
    most of the main methods. Users should refer to this superclass for more information regarding those methods.

    Args:
        feature_size (`int`, *optional*, defaults to 64):
            Number of mel bins.
        sampling_rate (`int`, *optional*, defaults to 16000):
            The rate in hertz at which the spectrogram is computed. Waveforms of another rate are resampled to it.
        padding_value (`float`, *optional*, defaults to 0.0):
            Value of silence.
        frame_length (`int`, *optional*, defaults to 400):
            Length of a spectrogram frame in samples. Frames are weighted with a periodic Hann window.
        hop_length (`int`, *optional*, defaults to 160):
            Samples from one frame to the next. The first one is centered at the beginning of the patch, which is
            mirrored there.
        fft_length (`int`, *optional*, defaults to 512):
            Length of the Fourier transform of a frame.
        min_frequency (`float`, *optional*, defaults to 125.0):
            Lower end of the lowest mel band in hertz.
        max_frequency (`float`, *optional*, defaults to 3800.0):
            Upper end of the highest mel band in hertz.
        patch_frames (`int`, *optional*, defaults to 96):
            Number of frames in a patch.
        patch_hop_seconds (`float`, *optional*, defaults to 1.0):
            Time in seconds from the start of one patch to the start of the next.
        released_crop (`bool`, *optional*, defaults to `False`):
            Whether to take the ten seconds of a clip that the released program takes, see
            [`~models.cavp.feature_extraction_cavp.crop_as_released`], with which the released checkpoints were trained
            and evaluated. By default frame t gets second t.
        return_attention_mask (`bool`, *optional*, defaults to `False`):
            Unused.
    """

    # torchaudio's defaults.
    resampling_filter = {}

    def __init__(
        self,
        feature_size: int = 64,
        sampling_rate: int = 16_000,
        padding_value: float = 0.0,
        frame_length: int = 400,
        hop_length: int = 160,
        fft_length: int = 512,
        min_frequency: float = 125.0,
        max_frequency: float = 3800.0,
        patch_frames: int = 96,
        patch_hop_seconds: float = 1.0,
        released_crop: bool = False,
        return_attention_mask: bool = False,
        **kwargs,
    ):
        super().__init__(
            feature_size=feature_size,
            sampling_rate=sampling_rate,
            padding_value=padding_value,
            frame_length=frame_length,
            hop_length=hop_length,
            fft_length=fft_length,
            min_frequency=min_frequency,
            max_frequency=max_frequency,
            patch_frames=patch_frames,
            patch_hop_seconds=patch_hop_seconds,
            return_attention_mask=return_attention_mask,
            **kwargs,
        )
        self.released_crop = released_crop

    @property
    def patch_length(self) -> int:
        """Number of samples that one patch covers, at the extractor's sampling rate."""
        return (self.patch_frames - 1) * self.hop_length + self.fft_length // 2

    def _cut_patches(self, samples: torch.Tensor, name: str, patch_hop: float, count: int | None) -> torch.Tensor:
        # CODEPATH: the released checkpoints
        if self.released_crop:
            if count is not None and count > CROP_SECONDS:
                raise ValueError(
                    f"`num_patches` is {count}, but the released crop (released_crop=True) has {CROP_SECONDS} seconds "
                    "of each waveform. Set released_crop=False for longer clips."
                )
            samples = crop_as_released(samples, self.sampling_rate)
        elif count is not None and len(samples) >= self.patch_length:
            num_begun = min(count, math.ceil(len(samples) / patch_hop))
            end = round((num_begun - 1) * patch_hop) + self.patch_length
            missing = max(0, end - len(samples))
            samples = torch.nn.functional.pad(samples, (0, missing), value=self.padding_value)
        return super()._cut_patches(samples, name, patch_hop, count)

    def _log_mel(self, patches: torch.Tensor) -> torch.Tensor:
        """(num_patches, patch_length) -> (num_patches, patch_frames, feature_size)"""
        spectrum = torch.stft(
            patches,
            self.fft_length,
            self.hop_length,
            self.frame_length,
            torch.from_numpy(self.window),
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        power = spectrum.abs().square().mT[:, : self.patch_frames]  # (num_patches, patch_frames, frequencies)
        mel = power @ torch.from_numpy(self.mel_filters)
        return (DECIBELS / SCALE * mel.clamp(min=MIN_POWER).log10()).float()


__all__ = ["CAVPFeatureExtractor", "crop_as_released"]
