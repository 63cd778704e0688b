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
import copy
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import ProcessorMixin

from stepping_stones_hf.models.vggish import VGGishFeatureExtractor


RATE = 16_000
PATCH = 15_600


def noise(seconds: float, rate: int = RATE, channels: int | None = None, seed: int = 0) -> np.ndarray:
    """White noise whose loudness changes over time, so that no two patches look alike."""
    num_samples = round(seconds * rate)
    shape = (num_samples,) if channels is None else (channels, num_samples)
    loudness = np.linspace(0.05, 0.9, num_samples)
    return np.random.default_rng(seed).uniform(-1, 1, shape) * loudness


def log_mel(audio, **kwargs) -> torch.Tensor:
    return VGGishFeatureExtractor()(audio, **{"sampling_rate": RATE, "return_tensors": "pt", **kwargs})[
        "input_features"
    ]


@pytest.fixture(scope="module")
def reference(fixtures_dir):
    return load_file(fixtures_dir / "vggish" / "reference.safetensors")


@pytest.fixture(scope="module")
def full_reference(shared_dir):
    folder = shared_dir / "goldens" / "vggish"
    return load_file(folder / "vggish_waveforms.safetensors") | load_file(folder / "vggish_outputs.safetensors")


# Parity with tensors computed by the released program.


def test_log_mel_of_16_khz_equals_the_original(reference):
    torch.testing.assert_close(
        log_mel(reference["mono16k_one.int16"]), reference["mono16k_one.logmel"], atol=1e-5, rtol=0
    )


def test_log_mel_of_44_khz_stereo_is_close_to_the_original(reference):
    features = log_mel(reference["stereo44k_first_second.int16"].T, sampling_rate=44_100)
    assert (features - reference["stereo44k_first_second.logmel"]).abs().mean() <= 0.001


@pytest.mark.parametrize("name", ["mono16k_one", "mono16k_10s"])
def test_log_mel_of_16_khz_equals_the_original_full_set(full_reference, name):
    features = log_mel(full_reference[f"{name}.int16"])
    torch.testing.assert_close(features, full_reference[f"{name}.logmel"][:, 0], atol=1e-5, rtol=0)


def test_log_mel_of_a_wav_file_equals_the_original(full_reference, shared_dir):
    soundfile = pytest.importorskip("soundfile")
    waveform, rate = soundfile.read(shared_dir / "goldens" / "vggish" / "test.wav")
    features = log_mel(waveform, sampling_rate=rate)
    torch.testing.assert_close(features, full_reference["test_wav.logmel"][:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name, key", [("stereo44k_5s", "logmel"), ("stereo44k_10s", "logmel_f16")])
def test_log_mel_of_44_khz_stereo_is_close_to_the_original_full_set(full_reference, name, key):
    features = log_mel(full_reference[f"{name}.int16"].T, sampling_rate=44_100)
    expected = full_reference[f"{name}.{key}"][:, 0].float()
    assert features.shape == expected.shape
    assert (features - expected).abs().mean() <= 0.001


# Patches.


@pytest.mark.parametrize("num_samples, count", [(PATCH, 1), (PATCH + 15_359, 1), (PATCH + 15_360, 2), (160_000, 10)])
def test_an_incomplete_patch_at_the_end_is_dropped(num_samples, count):
    features = log_mel(noise(10)[:num_samples])
    assert features.shape == (count, 96, 64) and features.dtype == torch.float32


@pytest.mark.parametrize("hop", [0.96, 1.0])
def test_each_patch_starts_one_hop_after_the_one_before(hop):
    waveform = noise(5)
    features = log_mel(waveform, patch_hop_seconds=hop)
    assert len(features) == 5
    for index, patch in enumerate(features):
        start = round(index * hop * RATE)
        torch.testing.assert_close(patch[None], log_mel(waveform[start : start + PATCH]))


def test_the_saved_hop_is_what_a_call_without_one_uses():
    waveform = noise(5)
    by_attribute = VGGishFeatureExtractor(patch_hop_seconds=1.0)(waveform, sampling_rate=RATE)["input_features"]
    np.testing.assert_array_equal(by_attribute, log_mel(waveform, patch_hop_seconds=1.0))
    assert not np.array_equal(by_attribute, log_mel(waveform))


def test_a_hop_of_a_third_of_a_second_does_not_drift():
    waveform = noise(10)
    features = log_mel(waveform, patch_hop_seconds=1 / 3)
    assert len(features) == 28  # the last one starts at 9 s
    torch.testing.assert_close(features[27:], log_mel(waveform[9 * RATE :]))


def test_num_patches_keeps_the_first_ones():
    waveform = noise(5)
    assert torch.equal(log_mel(waveform, num_patches=3), log_mel(waveform)[:3])


def test_num_patches_repeats_the_last_one():
    features = log_mel(noise(3.5), num_patches=5)
    assert torch.equal(features[:3], log_mel(noise(3.5)))
    assert torch.equal(features[3], features[2]) and torch.equal(features[4], features[2])


def test_several_waveforms_give_one_flat_batch_clip_after_clip():
    clips = [noise(5, seed=1), noise(2, channels=2, seed=2), noise(5, seed=3)]
    assert torch.equal(log_mel(clips), torch.cat([log_mel(clip) for clip in clips]))
    assert torch.equal(
        log_mel(clips, num_patches=[2, 3, 5]),
        torch.cat([log_mel(clip, num_patches=count) for clip, count in zip(clips, [2, 3, 5])]),
    )
    assert len(log_mel(clips, num_patches=4)) == 12


def test_more_patches_than_one_block_equal_the_same_patches_one_by_one():
    waveform = noise(25)
    features = log_mel(waveform)
    assert len(features) == 26
    for index in (15, 16, 25):
        start = index * 15_360
        torch.testing.assert_close(features[index : index + 1], log_mel(waveform[start : start + PATCH]))


# Kinds of input.


def test_channels_are_averaged():
    stereo = noise(2, channels=2)
    torch.testing.assert_close(log_mel(stereo), log_mel(stereo.mean(axis=0)))
    assert not torch.allclose(log_mel(stereo), log_mel(stereo[0]))


@pytest.mark.parametrize(
    "dtype, half_range, middle", [("int16", 2**15, 0), ("int32", 2**31, 0), ("uint8", 2**7, 2**7)]
)
def test_integers_are_scaled_by_their_range(dtype, half_range, middle):
    integers = np.clip(np.round(noise(1) * half_range), -half_range, half_range - 1)
    torch.testing.assert_close(log_mel((integers + middle).astype(dtype)), log_mel(integers / half_range))


@pytest.mark.parametrize(
    "convert",
    [
        np.ndarray.tolist,
        list,
        tuple,
        torch.tensor,
        lambda waveform: torch.tensor(waveform, requires_grad=True),
        lambda waveform: np.asarray(waveform, dtype=">f8"),
        lambda waveform: [waveform.tolist()],
    ],
    ids=["floats", "numpy scalars", "tuple", "tensor", "tensor with gradient", "big endian", "list of lists"],
)
def test_the_container_of_the_samples_does_not_matter(convert):
    waveform = noise(1)
    assert torch.equal(log_mel(convert(waveform)), log_mel(waveform))


def test_half_precision_and_read_only_samples_are_accepted(recwarn):
    waveform = torch.tensor(noise(1)).bfloat16()
    read_only = waveform.double().numpy()
    read_only.flags.writeable = False
    assert torch.equal(log_mel(waveform), log_mel(read_only))
    assert not recwarn.list


def test_the_waveform_is_left_as_it_was():
    waveform = noise(1, channels=2)
    before = waveform.copy()
    log_mel(waveform)
    np.testing.assert_array_equal(waveform, before)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, np.int64(32_000), 44_100.0])
def test_a_tone_stays_in_its_mel_bin_at_any_rate(rate):
    tone = np.sin(2 * np.pi * 1000 * np.arange(int(rate) * 2) / rate)
    at_16_khz = np.sin(2 * np.pi * 1000 * np.arange(RATE * 2) / RATE)
    features, expected = log_mel(tone, sampling_rate=rate), log_mel(at_16_khz)
    assert features.shape == expected.shape
    bins = expected[0, 0] > 0
    torch.testing.assert_close(features[:, :90, bins], expected[:, :90, bins], atol=0.02, rtol=0)


def test_silence_is_the_logarithm_of_the_offset():
    torch.testing.assert_close(log_mel(np.zeros(PATCH)), torch.full((1, 96, 64), 0.01).log())


def test_numpy_is_the_default_and_tensors_on_request():
    extractor = VGGishFeatureExtractor()
    as_numpy = extractor(noise(1), sampling_rate=RATE)["input_features"]
    assert isinstance(as_numpy, np.ndarray) and as_numpy.dtype == np.float32
    assert torch.equal(torch.from_numpy(as_numpy), log_mel(noise(1)))


# Errors.


@pytest.mark.parametrize(
    "audio, message",
    [
        ([], "empty list"),
        (np.zeros(0), "`audio` is empty"),
        (np.zeros((2, 0)), "`audio` is empty"),
        ([np.zeros(PATCH), np.zeros(0)], r"`audio\[1\]` is empty"),
        (np.zeros((PATCH, 2)), r"more channels than samples.*`audio.T`"),
        (np.zeros((1, 2, PATCH)), r"has shape \(1, 2, 15600\)"),
        (np.zeros(PATCH - 1), "15599 samples at 16000 Hz: not one patch"),
        ([np.zeros(PATCH), np.zeros(100)], r"`audio\[1\]` has 100 samples"),
        ("clip.wav", "dtype <U8"),
        ({"array": np.zeros(PATCH), "sampling_rate": RATE}, "dtype object"),
        (np.zeros(PATCH, dtype=bool), "dtype bool"),
        (np.zeros(PATCH, dtype=np.int64), "dtype int64"),
        ([0] * PATCH, "dtype int64"),
        (np.zeros(PATCH, dtype=complex), "dtype complex128"),
    ],
)
def test_a_bad_waveform_is_named_in_the_error(audio, message):
    with pytest.raises(ValueError, match=message):
        log_mel(audio)


def test_a_clip_without_one_patch_is_an_error_even_if_patches_are_asked_for():
    with pytest.raises(ValueError, match="not one patch"):
        log_mel(np.zeros(PATCH - 1), num_patches=5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_sample_that_is_not_finite_is_named(value):
    mono, stereo = noise(1), noise(1, channels=2)
    mono[[1234, 5678]] = value
    stereo[1, 77] = value
    with pytest.raises(ValueError, match=rf"`audio` .*first at index \(1234,\).*{value}"):
        log_mel(mono)
    with pytest.raises(ValueError, match=rf"`audio\[1\]` .*first at index \(1, 77\).*{value}"):
        log_mel([noise(1), stereo])


@pytest.mark.parametrize("rate", [0, -16_000, float("nan"), float("inf"), 44_100.5, "16000", None])
def test_a_bad_sampling_rate_is_an_error(rate):
    with pytest.raises(ValueError, match="`sampling_rate` is (missing|.*positive whole number)"):
        log_mel(noise(1), sampling_rate=rate)


@pytest.mark.parametrize(
    "num_patches, message", [(0, "is 0"), (-1, "is -1"), ([2, 0], "is 0"), ([2], "1 numbers for 2 waveforms")]
)
def test_a_bad_number_of_patches_is_an_error(num_patches, message):
    with pytest.raises(ValueError, match=f"`num_patches`.*{message}"):
        log_mel([noise(2), noise(2)], num_patches=num_patches)


@pytest.mark.parametrize("hop", [0, -1.0, float("nan"), float("inf")])
def test_a_bad_hop_is_an_error(hop):
    with pytest.raises(ValueError, match="`patch_hop_seconds`"):
        log_mel(noise(1), patch_hop_seconds=hop)


# The extractor as an object.


def test_a_saved_extractor_comes_back_exactly(tmp_path):
    extractor = VGGishFeatureExtractor(patch_hop_seconds=1.0, feature_size=32, patch_frames=48, log_offset=0.1)
    extractor.save_pretrained(tmp_path)
    loaded = VGGishFeatureExtractor.from_pretrained(tmp_path)
    assert loaded.to_dict() == extractor.to_dict()
    assert "mel_filters" not in loaded.to_dict() and "window" not in loaded.to_dict()
    np.testing.assert_array_equal(
        loaded(noise(2), sampling_rate=RATE)["input_features"],
        extractor(noise(2), sampling_rate=RATE)["input_features"],
    )
    assert VGGishFeatureExtractor.from_pretrained(tmp_path, patch_hop_seconds=0.96).patch_hop_seconds == 0.96


def test_to_dict_holds_every_argument():
    changed = {
        "feature_size": 32,
        "sampling_rate": 8_000,
        "frame_length": 200,
        "hop_length": 80,
        "fft_length": 256,
        "min_frequency": 60.0,
        "max_frequency": 3_500.0,
        "log_offset": 0.5,
        "patch_frames": 48,
        "patch_hop_seconds": 0.5,
    }
    extractor = VGGishFeatureExtractor(**changed)
    assert changed.items() <= extractor.to_dict().items()
    assert extractor(noise(2, rate=8_000), sampling_rate=8_000)["input_features"].shape == (4, 48, 32)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda extractor: pickle.loads(pickle.dumps(extractor))])
def test_a_copy_computes_the_same(duplicate):
    copied = duplicate(VGGishFeatureExtractor())
    assert np.array_equal(copied(noise(1), sampling_rate=RATE)["input_features"], log_mel(noise(1)))


class AudioOnlyProcessor(ProcessorMixin):
    def __init__(self, feature_extractor=None):
        super().__init__(feature_extractor)


def test_a_processor_hands_its_audio_arguments_through():
    processor = AudioOnlyProcessor(VGGishFeatureExtractor())
    clips = [noise(2, channels=2), noise(3)]
    outputs = processor(
        audio=clips, audio_kwargs={"sampling_rate": RATE, "num_patches": [2, 4], "return_tensors": "pt"}
    )
    assert torch.equal(outputs["input_features"], log_mel(clips, num_patches=[2, 4]))
    flat = processor(audio=clips[1], sampling_rate=RATE, return_tensors="pt")
    assert torch.equal(flat["input_features"], log_mel(clips[1]))
