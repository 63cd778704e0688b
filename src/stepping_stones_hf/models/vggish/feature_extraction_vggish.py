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
Log-mel patches for VGGish: number for number those of torchvggish for waveforms of 16 kHz. Other rates are resampled
by torchaudio in place of resampy, which changes the log-mel values by less than 0.001 on average.
"""

import torch

from ..feature_extraction_base import LogMelFeatureExtractor


class VGGishFeatureExtractor(LogMelFeatureExtractor):
    r"""
    Constructs a VGGish feature extractor, which turns waveforms into patches of a log-mel spectrogram.

    This feature extractor inherits from [`~feature_extraction_sequence_utils.SequenceFeatureExtractor`] which contains
    most of the main methods. Users should refer to this superclass for more information regarding those methods.

    Args:
        feature_size (`int`, *optional*, defaults to 64):
            Number of mel bins.
        sampling_rate (`int`, *optional*, defaults to 16000):
            The rate in hertz at which the spectrogram is computed. Waveforms of another rate are resampled to it.
        padding_value (`float`, *optional*, defaults to 0.0):
            Unused: waveforms are never padded.
        frame_length (`int`, *optional*, defaults to 400):
            Length of a spectrogram frame in samples. Frames are weighted with a periodic Hann window.
        hop_length (`int`, *optional*, defaults to 160):
            Samples from one frame to the next. Frames are neither centered nor padded.
        fft_length (`int`, *optional*, defaults to 512):
            Length of the Fourier transform of a frame.
        min_frequency (`float`, *optional*, defaults to 125.0):
            Lower end of the lowest mel band in hertz.
        max_frequency (`float`, *optional*, defaults to 7500.0):
            Upper end of the highest mel band in hertz.
        log_offset (`float`, *optional*, defaults to 0.01):
            Added to the mel magnitudes before the logarithm.
        patch_frames (`int`, *optional*, defaults to 96):
            Number of frames in a patch.
        patch_hop_seconds (`float`, *optional*, defaults to 0.96):
            Time in seconds from the start of one patch to the start of the next. With 0.96, as in the original,
            patches follow one another without a gap; with 1.0 one patch begins at each second of a video.
        return_attention_mask (`bool`, *optional*, defaults to `False`):
            Unused: patches are never padded.
    """

    mel_options = {"mel_scale": "kaldi", "triangularize_in_mel_space": True}

    def __init__(
        self,
        feature_size: int = 64,
        sampling_rate: int = 16_000,
        padding_value: float = 0.0,
        frame_length: int = 400,
        hop_length: int = 160,
        fft_length: int = 512,
        min_frequency: float = 125.0,
        max_frequency: float = 7500.0,
        log_offset: float = 0.01,
        patch_frames: int = 96,
        patch_hop_seconds: float = 0.96,
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
        self.log_offset = log_offset

    @property
    def patch_length(self) -> int:
        """Number of samples that one patch covers, at the extractor's sampling rate."""
        return (self.patch_frames - 1) * self.hop_length + self.frame_length

    def _log_mel(self, patches: torch.Tensor) -> torch.Tensor:
        """(num_patches, patch_length) -> (num_patches, patch_frames, feature_size)"""
        frames = patches.unfold(-1, self.frame_length, self.hop_length)
        # In double precision up to here: next to a loud tone, single precision changes quiet mel bins by 1e-3.
        spectrum = torch.fft.rfft(frames * torch.from_numpy(self.window), self.fft_length)
        mel = spectrum.abs() @ torch.from_numpy(self.mel_filters)
        return torch.log(mel + self.log_offset).float()


__all__ = ["VGGishFeatureExtractor"]
