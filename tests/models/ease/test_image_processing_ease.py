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
from transformers import AutoImageProcessor, AutoProcessor

from stepping_stones_hf import EASEImageProcessor, EASEImageProcessorPil, EASEProcessor
from stepping_stones_hf.models.auto import make_processor

from .conftest import make_config, make_inputs, make_model


BACKENDS = [EASEImageProcessor, EASEImageProcessorPil]


def make_frame(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("processor_class", BACKENDS)
def test_frames_are_squashed_and_normalized_as_by_the_released_program(processor_class):
    frame = make_frame(120, 200)
    pixel_values = processor_class()(frame, return_tensors="pt")["pixel_values"]
    assert pixel_values.shape == (1, 3, 224, 224)
    tensor = torch.from_numpy(frame).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(tensor, (224, 224), mode="bilinear", antialias=True).round()
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (resized / 255 - mean[:, None, None]) / std[:, None, None]
    assert_close(pixel_values, expected, atol=1.01 / 255 / 0.224, rtol=0)


@pytest.mark.parametrize("processor_class", BACKENDS)
def test_targets_have_the_size_of_labels_whatever_that_of_frames(processor_class):
    label_map = np.zeros((120, 200), dtype=np.uint8)
    label_map[:60, :100], label_map[60:, 100:], label_map[:60, 100:] = 7, 3, 255
    processor = processor_class(size={"height": 384, "width": 384})
    inputs = processor(make_frame(120, 200), segmentation_maps=label_map, return_tensors="pt")
    (masks,), (labels,) = inputs["mask_labels"], inputs["class_labels"]
    assert inputs["pixel_values"].shape[-2:] == (384, 384)
    assert masks.shape == (3, 224, 224) and labels.tolist() == [0, 3, 7]
    # Pixels that are ignored belong to no mask.
    assert masks.sum(0)[:112, 112:].eq(0).all() and masks.sum(0).eq(1).float().mean() == 0.75
    assert masks[2, :112, :112].eq(1).all() and masks[2].sum() == 112 * 112


@pytest.mark.parametrize("processor_class", BACKENDS)
def test_a_localizer_learns_what_sounds_and_background(processor_class):
    label_map = np.zeros((50, 50), dtype=np.uint8)
    processor = processor_class(localization=True)
    silent = processor(make_frame(50, 50), segmentation_maps=label_map, return_tensors="pt")
    assert silent["class_labels"][0].tolist() == [0] and silent["mask_labels"][0].eq(1).all()
    label_map[10:20] = 42
    sounding = processor(make_frame(50, 50), segmentation_maps=label_map, return_tensors="pt")
    assert sounding["class_labels"][0].tolist() == [0, 1]


def test_masks_are_resized_to_the_frames_before_their_sigmoid():
    model = make_model(num_labels=7)
    with torch.no_grad():
        outputs = model(**make_inputs(model, (2,), height=64, width=96))
    _, scores = EASEImageProcessorPil().get_segmentation_scores(outputs)
    logits = torch.nn.functional.interpolate(outputs.masks_queries_logits, (64, 96), mode="bilinear")
    classes = outputs.class_queries_logits.softmax(-1)[..., :-1]
    assert_close(torch.stack(list(scores)), torch.einsum("nqc,nqhw->nchw", classes, logits.sigmoid()))


def test_auto_classes_load_what_was_saved(tmp_path):
    size = {"height": 384, "width": 384}
    make_processor(make_config(), size=size, localization=True).save_pretrained(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert type(processor) is EASEProcessor and not processor.looks_across_frames
    assert type(processor.image_processor) is EASEImageProcessor
    assert dict(processor.image_processor.size) == size and processor.image_processor.localization
    assert type(AutoImageProcessor.from_pretrained(tmp_path, backend="pil")) is EASEImageProcessorPil
    inputs = processor(
        images=[[Image.fromarray(make_frame(30, 40))] * 3], audio=np.zeros(48_000), sampling_rate=16_000
    )
    assert len(inputs["pixel_values"]) == len(inputs["input_features"]) == 3
