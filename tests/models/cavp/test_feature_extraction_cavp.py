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
from torch.testing import assert_close
from transformers import AutoFeatureExtractor

from stepping_stones_hf import CAVPFeatureExtractor
from stepping_stones_hf.models.cavp.feature_extraction_cavp import crop_as_released


RATE = 16_000


def make_waveform(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, round(seconds * RATE))


def extract(waveform: np.ndarray, sampling_rate: int = RATE, extractor=None, **kwargs) -> np.ndarray:
    extractor = CAVPFeatureExtractor() if extractor is None else extractor
    return extractor(waveform, sampling_rate=sampling_rate, **kwargs)["input_features"]


def test_patches_are_decibels_of_centered_frames():
    """By NumPy, frame by frame, from the definition."""
    waveform = make_waveform(1)
    extractor = CAVPFeatureExtractor()
    window = np.zeros(512)
    window[56:456] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    mirrored = np.pad(waveform, 256, mode="reflect")
    expected = []
    for frame in range(96):
        spectrum = np.fft.rfft(mirrored[frame * 160 : frame * 160 + 512] * window)
        power = np.maximum(np.abs(spectrum) ** 2 @ extractor.mel_filters, 1e-5)
        expected.append(20 * np.log10(power) / 100)
    np.testing.assert_allclose(extract(waveform)[0], expected, atol=1e-5)


def test_silence_is_minus_one():
    assert (extract(np.zeros(RATE)) == -1).all()


def test_a_patch_a_second_number_for_number():
    waveform = make_waveform(3)
    patches = extract(waveform)
    assert patches.shape == (3, 96, 64) and patches.dtype == np.float32
    for second in range(3):
        np.testing.assert_array_equal(patches[second], extract(waveform[second * RATE : (second + 1) * RATE])[0])


def test_an_incomplete_second_is_dropped_unless_it_is_asked_for_and_then_ends_in_silence():
    waveform = make_waveform(2.5)
    assert len(extract(waveform)) == 2
    patches = extract(waveform, num_patches=3)
    filled = np.concatenate([waveform[2 * RATE :], np.zeros(RATE // 2)])
    np.testing.assert_array_equal(patches[2], extract(filled)[0])
    assert (patches[2, -10:] == -1).all() and (patches[2, :40] > -1).all()


def test_where_even_that_is_too_short_the_last_patch_is_repeated():
    patches = extract(make_waveform(2.5), num_patches=5)
    np.testing.assert_array_equal(patches[3:], patches[[2, 2]])


@pytest.mark.parametrize("num_patches", [None, 5])
def test_less_than_a_patch_is_refused(num_patches):
    with pytest.raises(ValueError, match="not one patch, which takes 15456"):
        extract(make_waveform(0.9), num_patches=num_patches)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_a_tone_stays_in_its_mel_bin_at_any_rate(rate):
    tone = np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
    bins = extract(tone, rate)[0].mean(axis=0)
    expected = extract(np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE))[0].mean(axis=0)
    assert bins.argmax() == expected.argmax()


class TestReleasedCrop:
    def test_a_long_clip_loses_both_ends(self):
        samples = torch.arange(12 * RATE)
        assert torch.equal(crop_as_released(samples, RATE), samples[RATE : 11 * RATE])

    def test_five_seconds_are_their_last_half_four_times(self):
        samples = torch.arange(5 * RATE)
        assert torch.equal(crop_as_released(samples, RATE), samples[2 * RATE + RATE // 2 :].repeat(4))

    def test_it_is_off_by_default_and_saved(self, tmp_path):
        waveform = make_waveform(5)
        extractor = CAVPFeatureExtractor(released_crop=True)
        extractor.save_pretrained(tmp_path)
        loaded = CAVPFeatureExtractor.from_pretrained(tmp_path)
        assert loaded.released_crop and not CAVPFeatureExtractor().released_crop
        patches = extract(waveform, extractor=loaded, num_patches=5)
        # Frame 1 gets what the waveform has from 3.5 to 4.5 s, and the fifth what the released crop has repeated.
        start = 2 * RATE + RATE // 2
        np.testing.assert_array_equal(patches[1], extract(waveform[start + RATE : start + 2 * RATE])[0])
        np.testing.assert_array_equal(patches[0], extract(waveform[start : start + RATE])[0])
        assert len(extract(waveform, extractor=loaded)) == 10

    def test_more_than_ten_seconds_are_refused(self):
        with pytest.raises(ValueError, match="`num_patches` is 11, but the released crop .* has 10 seconds"):
            extract(make_waveform(12), extractor=CAVPFeatureExtractor(released_crop=True), num_patches=11)


def test_the_auto_class_finds_it(tmp_path):
    CAVPFeatureExtractor().save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(loaded) is CAVPFeatureExtractor and loaded.patch_hop_seconds == 1.0
    waveform = make_waveform(1)
    assert_close(torch.from_numpy(extract(waveform, extractor=loaded)), torch.from_numpy(extract(waveform)))
