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
import os

import numpy as np
import pytest
import soundfile

from stepping_stones_hf import VGGishFeatureExtractor
from stepping_stones_hf.data.audio_cache import AudioFeatureCache


@pytest.fixture
def sound(tmp_path):
    path = tmp_path / "sound.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 5 * 16_000), 16_000)
    return path


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def no_extraction(*args, **kwargs):
    raise AssertionError("should have been read from the cache")


def test_features_are_those_of_the_extractor_and_computed_once(sound, tmp_path, monkeypatch):
    extractor = VGGishFeatureExtractor()
    cache = AudioFeatureCache(extractor, tmp_path / "cache")
    waveform, sampling_rate = soundfile.read(sound, dtype="float32")
    expected = extractor(waveform, sampling_rate=sampling_rate, num_patches=5)["input_features"]
    by_path = cache({"bytes": None, "path": str(sound)}, 5)
    np.testing.assert_array_equal(by_path, expected)
    monkeypatch.setattr(cache, "compute", no_extraction)
    by_content = cache({"bytes": sound.read_bytes(), "path": "elsewhere.wav"}, 5)
    np.testing.assert_array_equal(by_content, expected)
    assert len(files(tmp_path / "cache")) == 1


def test_another_sound_setting_or_length_is_computed_again(sound, tmp_path):
    audio = {"bytes": None, "path": str(sound)}
    first = AudioFeatureCache(VGGishFeatureExtractor(), tmp_path / "cache")(audio, 5)
    assert len(AudioFeatureCache(VGGishFeatureExtractor(), tmp_path / "cache")(audio, 7)) == 7
    hop = AudioFeatureCache(VGGishFeatureExtractor(patch_hop_seconds=1.0), tmp_path / "cache")(audio, 5)
    assert not np.array_equal(hop, first)
    soundfile.write(sound, np.zeros(5 * 16_000), 16_000)
    os.utime(sound, ns=(0, 1))
    silent = AudioFeatureCache(VGGishFeatureExtractor(), tmp_path / "cache")(audio, 5)
    assert silent.max() == pytest.approx(np.log(0.01), abs=1e-3)
    assert len(files(tmp_path / "cache")) == 4


def test_a_killed_write_leaves_no_file_that_would_be_read(sound, tmp_path, monkeypatch):
    cache = AudioFeatureCache(VGGishFeatureExtractor(), tmp_path / "cache")
    audio = {"bytes": None, "path": str(sound)}
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", no_extraction)  # the last step does not come
        with pytest.raises(AssertionError):
            cache(audio, 5)
    np.testing.assert_array_equal(cache(audio, 5), cache.compute(str(sound), 5))


def test_a_damaged_file_of_the_cache_is_named(sound, tmp_path):
    cache = AudioFeatureCache(VGGishFeatureExtractor(), tmp_path / "cache")
    audio = {"bytes": None, "path": str(sound)}
    cache(audio, 5)
    (path,) = files(tmp_path / "cache")
    content = path.read_bytes()
    for damaged in (b"", content[:100], bytes(100)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{path}, a file of the cache, is damaged: .*\. Remove it"):
            cache(audio, 5)
    path.unlink()
    assert len(cache(audio, 5)) == 5


def test_a_file_in_place_of_the_folder_is_refused_at_once(sound):
    with pytest.raises(ValueError, match=f"cache_dir should be a folder, {sound} is a file"):
        AudioFeatureCache(VGGishFeatureExtractor(), sound)


def test_without_a_folder_nothing_is_kept(sound, tmp_path):
    AudioFeatureCache(VGGishFeatureExtractor())({"bytes": None, "path": str(sound)}, 5)
    assert files(tmp_path) == [sound]


def test_a_sound_that_is_too_short_is_named(tmp_path):
    path = tmp_path / "short.wav"
    soundfile.write(path, np.zeros(8_000), 16_000)
    with pytest.raises(ValueError, match=r"short\.wav"):
        AudioFeatureCache(VGGishFeatureExtractor())({"bytes": None, "path": str(path)}, 5)
