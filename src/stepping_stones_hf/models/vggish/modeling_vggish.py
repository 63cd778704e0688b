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
VGGish, the field's audio encoder: "CNN Architectures for Large-Scale Audio Classification" (Hershey et al., ICASSP
2017), in the form in which its weights were released for AudioSet, a VGG without batch norm whose last layers embed
0.96 seconds of sound in 128 numbers. The post-processing of the AudioSet release (PCA, whitening and quantization to
8 bits) is not part of it, since no model of this library has it.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, auto_docstring
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from ..modeling_base import CheckpointingMixin
from .configuration_vggish import VGGishConfig


@auto_docstring(custom_intro="Class for the outputs of [`VGGishModel`].")
@dataclass
class VGGishModelOutput(ModelOutput):
    r"""
    embeddings (`torch.FloatTensor` of shape `(num_patches, embedding_dim)`):
        One embedding per patch.
    hidden_states (`tuple(torch.FloatTensor)`, *optional*, returned when `output_hidden_states=True` is passed):
        The patches as a one-channel image, `(num_patches, 1, patch_frames, num_mel_bins)`, followed by the output of
        each convolutional stage, `(num_patches, channels, frames, bins)`, with half as many frames and bins each time.
    """

    embeddings: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None


class VGGishStage(GradientCheckpointingLayer):
    """3x3 convolutions of one width, each followed by a ReLU, and a 2x2 max pooling."""

    def __init__(self, in_channels: int, out_channels: int, depth: int):
        super().__init__()
        channels = [in_channels] + depth * [out_channels]
        self.convs = nn.ModuleList(
            nn.Conv2d(conv_in, conv_out, kernel_size=3, padding=1) for conv_in, conv_out in pairwise(channels)
        )
        self.pooling = nn.MaxPool2d(kernel_size=2)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # (num_patches, in_channels, frames, bins) -> (num_patches, out_channels, frames/2, bins/2)
        for conv in self.convs:
            hidden_states = nn.functional.relu(conv(hidden_states))
        return self.pooling(hidden_states)


@auto_docstring
class VGGishPreTrainedModel(CheckpointingMixin, PreTrainedModel):
    config: VGGishConfig
    base_model_prefix = "vggish"
    main_input_name = "input_features"
    input_modalities = ("audio",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["VGGishStage"]
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": VGGishStage}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        # Without any normalization layer the signal has to keep its scale through eight ReLUs (He initialization),
        # or a model that starts from random weights gives the same embedding for every sound.
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            init.kaiming_normal_(module.weight, nonlinearity="relu")
            init.zeros_(module.bias)
        else:
            super()._init_weights(module)


@auto_docstring(
    custom_intro="""
    The VGGish model: four convolutional stages and three fully connected layers that turn patches of a log-mel
    spectrogram into one embedding each.
    """
)
class VGGishModel(VGGishPreTrainedModel):
    def __init__(self, config: VGGishConfig):
        super().__init__(config)
        channels = [1, *config.conv_channels]
        self.stages = nn.ModuleList(
            VGGishStage(in_channels, out_channels, depth)
            for (in_channels, out_channels), depth in zip(pairwise(channels), config.conv_depths)
        )
        pooling = 2 ** len(config.conv_channels)
        flat_size = (config.patch_frames // pooling) * (config.num_mel_bins // pooling) * channels[-1]
        self.fc1 = nn.Linear(flat_size, config.hidden_size)
        self.fc2 = nn.Linear(config.hidden_size, config.hidden_size)
        self.projection = nn.Linear(config.hidden_size, config.embedding_dim)

        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.stages[0].convs[0]

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(self, input_features: torch.FloatTensor, **kwargs: Unpack[TransformersKwargs]) -> VGGishModelOutput:
        r"""
        input_features (`torch.FloatTensor` of shape `(num_patches, patch_frames, num_mel_bins)`):
            Patches of a log-mel spectrogram as [`VGGishFeatureExtractor`] makes them. The patches of several clips
            follow one another in one flat batch.

        Example:

        ```python
        >>> import numpy as np
        >>> from stepping_stones_hf import VGGishConfig, VGGishFeatureExtractor, VGGishModel

        >>> feature_extractor = VGGishFeatureExtractor()
        >>> model = VGGishModel(VGGishConfig())

        >>> five_seconds = np.random.uniform(-1, 1, 5 * 16000)
        >>> inputs = feature_extractor(five_seconds, sampling_rate=16000, return_tensors="pt")
        >>> model(**inputs).embeddings.shape
        torch.Size([5, 128])

        ```
        """
        patch_shape = (self.config.patch_frames, self.config.num_mel_bins)
        if input_features.shape[1:] != patch_shape:
            raise ValueError(
                f"`input_features` must have shape (num_patches, {patch_shape[0]}, {patch_shape[1]}), but has shape "
                f"{tuple(input_features.shape)}. `VGGishFeatureExtractor` makes them from a waveform."
            )

        hidden_states = input_features[:, None]  # (num_patches, 1, patch_frames, num_mel_bins)
        for stage in self.stages:
            hidden_states = stage(hidden_states)
        # The released weights expect channels last: (num_patches, frames, bins, channels) before flattening.
        hidden_states = hidden_states.permute(0, 2, 3, 1).flatten(1)

        hidden_states = nn.functional.relu(self.fc1(hidden_states))
        hidden_states = nn.functional.relu(self.fc2(hidden_states))
        embeddings = self.projection(hidden_states)  # (num_patches, embedding_dim)
        # CODEPATH: True for torchvggish's own embeddings, False for those that the AAVS checkpoints were trained on.
        if self.config.final_relu:
            embeddings = nn.functional.relu(embeddings)
        return VGGishModelOutput(embeddings=embeddings)


__all__ = ["VGGishModel", "VGGishModelOutput", "VGGishPreTrainedModel"]
