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
from PIL import Image
from torch.testing import assert_close

from stepping_stones_hf import TPAVIProcessor
from stepping_stones_hf.models.auto import make_processor
from stepping_stones_hf.models.tpavi.modeling_tpavi import TPAVIForAudioVisualSegmentationOutput

from .conftest import make_config


@pytest.fixture
def processor() -> TPAVIProcessor:
    return make_processor(make_config(), localization=True)


def make_frames(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)) for _ in range(count)]


def test_clips_become_frames_of_the_released_size_and_their_numbers(processor):
    clips = [make_frames(5), make_frames(2)]
    audio = [np.zeros(5 * 16_000), np.zeros(2 * 16_000)]
    maps = [np.full((60, 80), 3, dtype=np.uint8)] * 6 + [np.full((60, 80), 255, dtype=np.uint8)]
    inputs = processor(images=clips, audio=audio, sampling_rate=16_000, segmentation_maps=maps, return_tensors="pt")
    assert set(inputs) == {"pixel_values", "input_features", "num_frames", "labels"}
    assert inputs["pixel_values"].shape == (7, 3, 224, 224)
    assert inputs["num_frames"].tolist() == [5, 2]
    assert inputs["labels"].shape == (7, 224, 224) and inputs["labels"].dtype == torch.int64
    assert inputs["labels"].flatten(1).unique(dim=1)[:, 0].tolist() == [1] * 6 + [255]


def test_frames_are_resized_and_normalized_as_in_the_released_program(processor):
    frame = make_frames(1)[0]
    resized = np.asarray(frame.resize((224, 224), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    expected = (resized - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    pixels = processor(images=[frame], return_tensors="pt")["pixel_values"][0]
    assert_close(pixels, torch.from_numpy(expected).permute(2, 0, 1).float(), atol=1e-5, rtol=1e-5)


def test_the_scores_of_a_localizer_are_probabilities_cut_at_one_half(processor):
    logits = torch.randn(3, 1, 224, 224)
    outputs = TPAVIForAudioVisualSegmentationOutput(logits=logits)
    results = processor.post_process_semantic_segmentation(outputs, return_segmentation_scores=True)
    for result, frame in zip(results, logits):
        sounding = frame.sigmoid()
        assert_close(result["segmentation_scores"], torch.cat([1 - sounding, sounding]))
        assert torch.equal(result["segmentation"], (frame[0] > 0).long())
    assert processor.image_processor.score_rule == "probability"


def test_label_maps_of_more_labels_are_the_highest_logits(processor):
    logits = torch.randn(3, 7, 224, 224)
    outputs = TPAVIForAudioVisualSegmentationOutput(logits=logits)
    label_maps = torch.stack(processor.post_process_semantic_segmentation(outputs))
    assert torch.equal(label_maps, logits.argmax(dim=1))
    sizes = [(60, 80)] * 3
    results = processor.post_process_semantic_segmentation(outputs, sizes, return_segmentation_scores=True)
    assert results[0]["segmentation_scores"].shape == (7, 60, 80)
    assert_close(results[0]["segmentation_scores"].sum(0), torch.ones(60, 80))
