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
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoFeatureExtractor, AutoProcessor

from stepping_stones_hf import AAVSImageProcessorPil, AAVSProcessor, VGGishFeatureExtractor
from stepping_stones_hf.models import processing_base


SAMPLING_RATE = 16_000


@pytest.fixture
def processor() -> AAVSProcessor:
    return AAVSProcessor(AAVSImageProcessorPil(size=32, label_size=32), VGGishFeatureExtractor())


def make_clip(num_frames: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Frames, segmentation maps and as many seconds of sound."""
    rng = np.random.default_rng(seed)
    frames = [rng.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(num_frames)]
    maps = [rng.integers(0, 3, (20, 30), dtype=np.uint8) for _ in range(num_frames)]
    return frames, maps, rng.uniform(-1, 1, num_frames * SAMPLING_RATE).astype(np.float32)


def assert_inputs_equal(inputs, expected):
    assert inputs.keys() == expected.keys()
    for name in expected:
        assert_close(inputs[name], expected[name], rtol=0, atol=0)


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    """What the processor warns of; it says the same thing once in a process."""
    told = []
    monkeypatch.setattr(processing_base.logger, "warning_once", told.append)
    return told


class TestClipsLongerThanThoseOfAVSBench:
    def test_it_is_said_that_the_patches_run_ahead(self, processor, warnings):
        frames, _, waveform = make_clip(12)
        inputs = processor(images=frames, audio=waveform, sampling_rate=SAMPLING_RATE)
        (warning,) = warnings
        assert "12 frames" in warning and "from second 10.6 on" in warning and "patch_hop_seconds=1.0" in warning
        # What it says is so: the last patch begins 0.44 s before the last second.
        late = processor.feature_extractor(waveform[round(10.56 * SAMPLING_RATE) :], sampling_rate=SAMPLING_RATE)
        assert_close(inputs["input_features"][-1], late["input_features"][0])

    def test_nothing_is_said_where_frame_and_second_go_together(self, processor, warnings):
        frames, _, waveform = make_clip(12)
        processor(images=frames, audio=waveform, sampling_rate=SAMPLING_RATE, patch_hop_seconds=1.0)
        processor(images=[frames[:10]], audio=[waveform[: 10 * SAMPLING_RATE]], sampling_rate=SAMPLING_RATE)
        assert warnings == []


class TestCall:
    def test_one_clip_gives_a_row_of_each_input_for_each_frame(self, processor):
        frames, maps, waveform = make_clip(3)
        inputs = processor(
            images=frames,
            audio=waveform,
            sampling_rate=SAMPLING_RATE,
            segmentation_maps=maps,
            prompt_masks=[segmentation_map > 0 for segmentation_map in maps],
            return_tensors="pt",
        )
        assert set(inputs) == {"pixel_values", "input_features", "mask_labels", "class_labels", "prompt_masks"}
        assert inputs["pixel_values"].shape == (3, 3, 32, 32)
        assert inputs["input_features"].shape == (3, 96, 64)
        assert inputs["prompt_masks"].shape == (3, 32, 32)
        assert [tuple(masks.shape) for masks in inputs["mask_labels"]] == [(3, 32, 32)] * 3
        assert [classes.tolist() for classes in inputs["class_labels"]] == [[0, 1, 2]] * 3

    def test_clips_of_different_lengths_become_one_flat_batch(self, processor):
        clips = [make_clip(2, seed=1), make_clip(3, seed=2)]
        options = {"sampling_rate": SAMPLING_RATE, "return_tensors": "pt"}
        alone = [
            processor(
                images=frames, audio=waveform, segmentation_maps=maps, prompt_masks=[m > 0 for m in maps], **options
            )
            for frames, maps, waveform in clips
        ]
        frames, maps, waveforms = zip(*clips)
        nested = processor(
            images=list(frames),
            audio=list(waveforms),
            segmentation_maps=list(maps),
            prompt_masks=[[m > 0 for m in clip] for clip in maps],
            **options,
        )
        flat_maps = [m for clip in maps for m in clip]
        flat = processor(
            images=list(frames),
            audio=list(waveforms),
            segmentation_maps=flat_maps,
            prompt_masks=[m > 0 for m in flat_maps],
            **options,
        )
        assert nested["input_features"].shape == (5, 96, 64)
        for name in ("pixel_values", "input_features", "prompt_masks"):
            assert torch.equal(nested[name], torch.cat([inputs[name] for inputs in alone]))
        for name in ("mask_labels", "class_labels"):
            assert_close(nested[name], alone[0][name] + alone[1][name])
        assert_inputs_equal(flat, nested)

    @pytest.mark.parametrize("num_frames", [1, 3, 5])
    def test_sound_follows_the_number_of_frames(self, processor, num_frames):
        _, _, waveform = make_clip(4)
        frames, _, _ = make_clip(num_frames)
        inputs = processor(images=frames, audio=waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        assert inputs["input_features"].shape[0] == num_frames

    def test_channels_are_not_taken_for_clips(self, processor):
        frames, _, waveform = make_clip(2)
        mono = processor(images=frames, audio=waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        stereo = processor(
            images=frames, audio=np.stack([waveform, waveform]), sampling_rate=SAMPLING_RATE, return_tensors="pt"
        )
        assert_close(stereo["input_features"], mono["input_features"])

    def test_frames_may_come_as_one_array_a_clip(self, processor):
        clips = [make_clip(2, seed=1), make_clip(3, seed=2)]
        options = {"audio": [clip[2] for clip in clips], "sampling_rate": SAMPLING_RATE, "return_tensors": "pt"}
        lists = processor(images=[clip[0] for clip in clips], **options)
        arrays = processor(images=[np.stack(clip[0]) for clip in clips], **options)
        assert_inputs_equal(arrays, lists)

    def test_frames_alone_and_sound_alone(self, processor):
        frames, _, waveform = make_clip(3)
        assert set(processor(images=frames, return_tensors="pt")) == {"pixel_values"}
        sound = processor(audio=waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        assert set(sound) == {"input_features"}
        assert_inputs_equal(
            sound, processor.feature_extractor(waveform, sampling_rate=SAMPLING_RATE, return_tensors="pt")
        )

    def test_settings_for_one_call_reach_their_part(self, processor):
        frames, maps, waveform = make_clip(3)
        inputs = processor(
            images=frames,
            audio=waveform,
            sampling_rate=SAMPLING_RATE,
            segmentation_maps=maps,
            localization=True,
            num_patches=2,
            patch_hop_seconds=1.0,
            return_tensors="pt",
        )
        assert {index for classes in inputs["class_labels"] for index in classes.tolist()} == {0, 1}
        expected = processor.feature_extractor(
            waveform, sampling_rate=SAMPLING_RATE, num_patches=2, patch_hop_seconds=1.0, return_tensors="pt"
        )
        assert torch.equal(inputs["input_features"], expected["input_features"])

    def test_arrays_on_request(self, processor):
        frames, maps, waveform = make_clip(2)
        inputs = processor(
            images=frames,
            audio=waveform,
            sampling_rate=SAMPLING_RATE,
            prompt_masks=[m > 0 for m in maps],
            return_tensors="np",
        )
        assert {type(value) for value in inputs.values()} == {np.ndarray}

    def test_post_processing_is_the_image_processors(self, processor):
        outputs = SimpleNamespace(
            class_queries_logits=torch.randn(2, 4, 3), masks_queries_logits=torch.randn(2, 4, 8, 8)
        )
        results = processor.post_process_semantic_segmentation(outputs, target_sizes=[(5, 6)] * 2)
        expected = processor.image_processor.post_process_semantic_segmentation(outputs, target_sizes=[(5, 6)] * 2)
        assert_close(results, expected)
        assert results[0].shape == (5, 6)


class TestBadInput:
    def test_nothing(self, processor):
        with pytest.raises(ValueError, match="needs images or audio"):
            processor()

    @pytest.mark.parametrize("argument", ["segmentation_maps", "prompt_masks"])
    def test_maps_without_frames(self, processor, argument):
        _, maps, waveform = make_clip(2)
        with pytest.raises(ValueError, match=argument):
            processor(audio=waveform, sampling_rate=SAMPLING_RATE, **{argument: maps})

    def test_other_number_of_waveforms_than_clips(self, processor):
        frames, _, waveform = make_clip(2)
        with pytest.raises(ValueError, match="got 2 for 1"):
            processor(images=frames, audio=[waveform, waveform], sampling_rate=SAMPLING_RATE)
        with pytest.raises(ValueError, match="got 1 for 2"):
            processor(images=[frames, frames], audio=waveform, sampling_rate=SAMPLING_RATE)

    def test_missing_sampling_rate(self, processor):
        frames, _, waveform = make_clip(2)
        with pytest.raises(ValueError, match="sampling_rate"):
            processor(images=frames, audio=waveform)


class TestSaving:
    def test_round_trip_keeps_every_setting_in_one_file(self, tmp_path):
        processor = AAVSProcessor(
            AAVSImageProcessorPil(size=32, label_size=40, post_process_size=48, localization=True),
            VGGishFeatureExtractor(patch_hop_seconds=1.0),
        )
        processor.save_pretrained(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["processor_config.json"]
        for auto_class in (AAVSProcessor, AutoProcessor):
            loaded = auto_class.from_pretrained(tmp_path)
            assert type(loaded) is AAVSProcessor
            assert loaded.to_dict() == processor.to_dict()
            assert loaded.image_processor.localization is True
            assert loaded.feature_extractor.patch_hop_seconds == 1.0
        assert type(AutoFeatureExtractor.from_pretrained(tmp_path)) is VGGishFeatureExtractor

    def test_both_stages_live_in_one_folder(self, tmp_path, processor):
        localizer = AAVSProcessor(AAVSImageProcessorPil(localization=True), VGGishFeatureExtractor())
        processor.save_pretrained(tmp_path)
        localizer.save_pretrained(tmp_path / "localizer")
        for auto_class in (AAVSProcessor, AutoProcessor):
            assert auto_class.from_pretrained(tmp_path).to_dict() == processor.to_dict()
            loaded = auto_class.from_pretrained(tmp_path, subfolder="localizer")
            assert loaded.to_dict() == localizer.to_dict()

    def test_without_torchvision_the_pil_backend_takes_over_in_silence(self, tmp_path, processor):
        processor.save_pretrained(tmp_path)
        script = f"""
import sys
sys.modules["torchvision"] = None  # what `import torchvision` finds where it is not installed
import numpy as np
from transformers import AutoProcessor
from stepping_stones_hf import AAVSImageProcessor, AAVSImageProcessorPil
processor = AutoProcessor.from_pretrained({str(tmp_path)!r})
assert type(processor.image_processor) is AAVSImageProcessorPil
inputs = processor(images=[np.zeros((8, 8, 3), np.uint8)], segmentation_maps=[np.eye(8, dtype=np.uint8)])
assert inputs["class_labels"][0].tolist() == [0, 1]
try:
    AAVSImageProcessor()
except ImportError as error:
    assert "Torchvision" in str(error)
else:
    raise AssertionError("an image processor that cannot work was made")
"""
        result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert result.stdout == "" and result.stderr == ""
