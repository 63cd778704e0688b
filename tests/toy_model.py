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
The least that a model is: per-pixel logits from frames, sound and, in stage 2, a mask prompt, of five frames together.
"Adding a model" in docs/source/contributing.md explains it.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.image_processing_backends import PilBackend
from transformers.utils import ModelOutput

from stepping_stones_hf import VGGishFeatureExtractor
from stepping_stones_hf.models.auto import register_model
from stepping_stones_hf.models.image_processing_base import AudioVisualImageProcessorMixin
from stepping_stones_hf.models.modeling_base import AudioVisualSegmentationMixin
from stepping_stones_hf.models.processing_base import AudioVisualProcessor


class ToyConfig(PreTrainedConfig):
    model_type = "toy"

    freeze_audio_encoder = False

    use_mask_prompt: bool = False
    clip_length: int = 5
    hidden_size: int = 8


@dataclass
class ToyOutput(ModelOutput):
    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None  # (frames, labels, height, width)


class ToyForAudioVisualSegmentation(AudioVisualSegmentationMixin, PreTrainedModel):
    config: ToyConfig
    has_audio_encoder = True

    def __init__(self, config: ToyConfig):
        super().__init__(config)
        self.see = nn.Conv2d(3 + config.use_mask_prompt, config.hidden_size, kernel_size=5, padding=2)
        self.hear = nn.Linear(64, config.hidden_size)
        self.classify = nn.Conv2d(config.hidden_size, config.num_labels, kernel_size=1)
        self.post_init()

    def forward(
        self, pixel_values, input_features, num_frames, prompt_masks=None, labels=None, num_items_in_batch=None
    ) -> ToyOutput:
        if self.config.use_mask_prompt:
            prompts = nn.functional.interpolate(prompt_masks[:, None], pixel_values.shape[-2:])
            pixel_values = torch.cat([pixel_values, prompts], dim=1)
        hidden_states = self.see(pixel_values) * self.hear(input_features.mean(dim=1))[..., None, None]
        # Each frame sees the mean of up to five frames of its clip.
        groups = [group for clip in hidden_states.split(num_frames.tolist()) for group in clip.split(5)]
        logits = self.classify(torch.cat([group + group.mean(dim=0) for group in groups]).relu())
        loss = None
        if labels is not None:
            scores = nn.functional.interpolate(logits, labels.shape[-2:])
            loss = nn.functional.cross_entropy(scores, labels, ignore_index=255, reduction="sum")
            loss = loss / (
                self.get_loss_normalizers({"labels": labels}) if num_items_in_batch is None else num_items_in_batch
            )
            loss = loss.sum()
        return ToyOutput(loss=loss, logits=logits)

    def get_loss_normalizers(self, batch: dict) -> torch.FloatTensor:
        return (batch["labels"] != 255).sum().float()[None]  # labeled pixels


class ToyImageProcessorPil(AudioVisualImageProcessorMixin, PilBackend):
    def get_segmentation_scores(self, outputs: ToyOutput):
        return len(outputs.logits), iter(outputs.logits.float().softmax(dim=1))


class ToyProcessor(AudioVisualProcessor):
    looks_across_frames = True


register_model(
    ToyConfig,
    ToyForAudioVisualSegmentation,
    ToyForAudioVisualSegmentation,
    {"pil": ToyImageProcessorPil},
    VGGishFeatureExtractor,
    ToyProcessor,
)
