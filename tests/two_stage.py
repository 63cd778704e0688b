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
"""A two-stage repository with random weights, whose label maps vary and depend on the sound."""

from pathlib import Path

import torch

from stepping_stones_hf import (
    AAVSForAudioVisualSegmentation,
    AAVSImageProcessorPil,
    AAVSProcessor,
    VGGishConfig,
    VGGishFeatureExtractor,
)
from stepping_stones_hf.data.labels import CLASS_NAMES

from .models.aavs.conftest import make_config


def save_stage(folder: Path, stage: int, audio: bool = True, **overrides) -> Path:
    """Writes model and processor of a stage, for frames of 64x64, with fields of its config overridden."""
    torch.manual_seed(5)
    labels = ("background", "sounding") if stage == 1 else CLASS_NAMES
    audio_config = VGGishConfig(conv_channels=[4, 4, 8, 8], conv_depths=[1, 1, 1, 1], hidden_size=16)
    config = make_config(
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        use_mask_prompt=stage == 2,
        audio_config=audio_config if audio else None,
        **overrides,
    )
    model = AAVSForAudioVisualSegmentation(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    model.save_pretrained(folder)
    size = {"height": 64, "width": 64}
    image_processor = AAVSImageProcessorPil(
        localization=stage == 1, size=size, label_size=size, post_process_size=size
    )
    AAVSProcessor(image_processor, VGGishFeatureExtractor()).save_pretrained(folder)
    return folder


def save_two_stage_repository(folder: Path) -> Path:
    save_stage(folder / "localizer", stage=1)
    return save_stage(folder, stage=2)
