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
import torch
from PIL import Image
from torch.testing import assert_close

from stepping_stones_hf.models.auto import make_processor
from stepping_stones_hf.models.avsegformer.modeling_avsegformer import AVSegFormerForAudioVisualSegmentationOutput

from .conftest import make_config


def make_frame() -> Image.Image:
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (60, 80, 3), dtype=np.uint8))


def test_clips_become_frames_without_their_numbers():
    processor = make_processor(make_config(), localization=True)
    maps = [np.full((60, 80), 3, dtype=np.uint8)] * 3 + [np.full((60, 80), 255, dtype=np.uint8)]
    inputs = processor(
        images=[[make_frame()] * 3, [make_frame()]],
        audio=[np.zeros(3 * 16_000), np.zeros(16_000)],
        sampling_rate=16_000,
        segmentation_maps=maps,
        return_tensors="pt",
    )
    assert (
        set(inputs) == {"pixel_values", "input_features", "labels"} and "num_frames" not in processor.model_input_names
    )
    assert inputs["pixel_values"].shape == (4, 3, 224, 224)
    assert inputs["labels"].flatten(1).unique(dim=1)[:, 0].tolist() == [1] * 3 + [255]


def test_frames_are_resized_and_normalized_as_in_the_released_program():
    size = {"height": 512, "width": 512}
    processor = make_processor(make_config(), localization=True, size=size, label_size=size)
    frame = make_frame()
    resized = np.asarray(frame.resize((512, 512), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    expected = (resized - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    maps = [np.arange(60 * 80, dtype=np.int64).reshape(60, 80) % 2]
    inputs = processor(images=[frame], segmentation_maps=maps, return_tensors="pt")
    assert_close(inputs["pixel_values"][0], torch.from_numpy(expected).permute(2, 0, 1).float(), atol=1e-5, rtol=1e-5)
    nearest = np.asarray(Image.fromarray(maps[0].astype(np.uint8)).resize((512, 512), Image.Resampling.NEAREST))
    assert torch.equal(inputs["labels"][0], torch.from_numpy(nearest).long())


def test_the_scores_of_a_localizer_are_probabilities_cut_at_one_half():
    processor = make_processor(make_config(), localization=True)
    logits = torch.randn(3, 1, 224, 224)
    outputs = AVSegFormerForAudioVisualSegmentationOutput(logits=logits)
    results = processor.post_process_semantic_segmentation(outputs, return_segmentation_scores=True)
    for result, frame in zip(results, logits):
        sounding = frame.sigmoid()
        assert_close(result["segmentation_scores"], torch.cat([1 - sounding, sounding]))
        assert torch.equal(result["segmentation"], (frame[0] > 0).long())
    assert processor.image_processor.score_rule == "probability"


def test_label_maps_of_more_labels_are_the_highest_logits():
    processor = make_processor(make_config(num_labels=7))
    logits = torch.randn(3, 7, 224, 224)
    outputs = AVSegFormerForAudioVisualSegmentationOutput(logits=logits)
    label_maps = torch.stack(processor.post_process_semantic_segmentation(outputs))
    assert torch.equal(label_maps, logits.argmax(dim=1))
