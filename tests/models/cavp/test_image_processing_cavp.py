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
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from stepping_stones_hf import CAVPImageProcessor, CAVPImageProcessorPil
from stepping_stones_hf.labels import VOC_PALETTE
from stepping_stones_hf.models.auto import make_processor
from stepping_stones_hf.models.cavp.image_processing_pil_cavp import find_image_labels
from stepping_stones_hf.models.cavp.modeling_cavp import CAVPForAudioVisualSegmentationOutput

from .conftest import make_config


def make_frame() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))


def test_clips_become_frames_with_a_second_of_sound_each():
    processor = make_processor(make_config(num_labels=7))
    inputs = processor(
        images=[[make_frame()] * 3, [make_frame()]],
        audio=[np.zeros(3 * 16_000), np.ones(16_000) / 2],
        sampling_rate=16_000,
        segmentation_maps=[np.full((60, 80), 3, dtype=np.uint8)] * 4,
        return_tensors="pt",
    )
    assert set(inputs) == {"pixel_values", "input_features", "labels"}
    assert inputs["pixel_values"].shape == (4, 3, 224, 224) and inputs["labels"].shape == (4, 224, 224)
    assert [(patch == -1).all().item() for patch in inputs["input_features"]] == [True] * 3 + [False]


@pytest.mark.parametrize("test", ["test_resize", "test_native"])
def test_frames_and_labels_are_those_of_the_released_program(shared_dir, test):
    folder = shared_dir / "goldens" / "cavp_units"
    inputs, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    decisions = json.loads((folder / "config.json").read_text())["augmentation"][test]
    frame = inputs["aug.image"].permute(1, 2, 0).numpy()
    height, width = decisions["size"] if decisions["resize_flag"] else frame.shape[:2]
    size = {"height": height, "width": width}
    processor = CAVPImageProcessorPil(size=size, label_size=size)
    batch = processor(
        images=[Image.fromarray(frame)], segmentation_maps=[inputs["aug.label"].numpy()], return_tensors="pt"
    )
    # Normalized: one of 256 levels is 0.018.
    assert_close(batch["pixel_values"][0], expected[f"aug.{test}.image"], atol=0.018, rtol=0)
    assert torch.equal(batch["labels"][0], expected[f"aug.{test}.label"].long())


def test_torchvision_resizes_nearly_alike():
    pytest.importorskip("torchvision")
    frame = make_frame()
    pil, torchvision = (
        cls()(images=[frame], return_tensors="pt")["pixel_values"]
        for cls in (CAVPImageProcessorPil, CAVPImageProcessor)
    )
    assert_close(torchvision, pil, atol=0.036, rtol=0)


class TestImageLabels:
    def test_a_localizer_is_told_the_classes_behind_its_labels(self):
        processor = make_processor(make_config(), localization=True)
        indices = np.zeros((2, 60, 80), dtype=np.uint8)
        indices[0, :20], indices[1, :20] = 3, 255
        colors = Image.fromarray(VOC_PALETTE[indices[0]])
        inputs = processor(
            images=[make_frame()] * 3, segmentation_maps=[indices[0], indices[1], colors], return_tensors="pt"
        )
        assert inputs["image_labels"].dtype == torch.bool and inputs["image_labels"].shape == (3, 71)
        assert inputs["image_labels"].nonzero().tolist() == [[0, 0], [0, 3], [1, 0], [2, 0], [2, 3]]
        assert inputs["labels"].flatten(1).amax(dim=1).tolist() == [1, 255, 1]

    def test_other_models_are_not(self):
        processor = make_processor(make_config(num_labels=71))
        maps = [np.zeros((60, 80), dtype=np.uint8)]
        assert "image_labels" not in processor(images=[make_frame()], segmentation_maps=maps, return_tensors="pt")
        localizer = make_processor(make_config(), localization=True)
        assert "image_labels" not in localizer(images=[make_frame()], return_tensors="pt")

    def test_colors_that_are_no_class_are_none(self):
        colors = np.zeros((4, 4, 3), dtype=np.uint8)
        colors[0] = (1, 2, 3)
        assert find_image_labels(colors).nonzero()[:, 0].tolist() == [0]


def test_scores_are_probabilities_of_each_label():
    processor = make_processor(make_config(), localization=True)
    logits = torch.randn(3, 2, 224, 224)
    outputs = CAVPForAudioVisualSegmentationOutput(logits=logits)
    results = processor.post_process_semantic_segmentation(outputs, return_segmentation_scores=True)
    for result, frame in zip(results, logits):
        assert_close(result["segmentation_scores"], frame.softmax(dim=0))
        assert torch.equal(result["segmentation"], frame.argmax(dim=0))
    assert processor.image_processor.score_rule == "probability"
