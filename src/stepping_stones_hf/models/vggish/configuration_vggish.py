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
"""VGGish model configuration"""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.utils import auto_docstring


@auto_docstring(custom_intro="Configuration of a [`VGGishModel`]. The defaults are VGGish as it was published.")
@strict
class VGGishConfig(PreTrainedConfig):
    r"""
    patch_frames (`int`, *optional*, defaults to 96):
        Number of spectrogram frames in one patch, i.e. in one input of the model: 0.96 seconds at 10 ms per frame.
        Like `num_mel_bins` it must be divisible by the poolings, by 2 for every stage.
    conv_channels (`list[int]`, *optional*, defaults to `[64, 128, 256, 512]`):
        Channels of each convolutional stage. Every stage ends with a 2x2 max pooling.
    conv_depths (`list[int]`, *optional*, defaults to `[1, 1, 2, 2]`):
        Number of 3x3 convolutions in each stage, as many entries as `conv_channels`.
    hidden_size (`int`, *optional*, defaults to 4096):
        Width of the two fully connected layers between the convolutions and the embedding.
    embedding_dim (`int`, *optional*, defaults to 128):
        Size of the embedding of one patch.
    final_relu (`bool`, *optional*, defaults to `False`):
        Whether a ReLU follows the last linear layer. torchvggish, where the released weights come from, ends with one.
        AAVS was trained on the embeddings of Towhee's `audio-embedding/vggish` operator, whose documented output has
        negative numbers: without one, hence the default.

    Example:

    ```python
    >>> from stepping_stones_hf import VGGishConfig, VGGishModel

    >>> # Initializing a configuration with the sizes of the released model
    >>> configuration = VGGishConfig()

    >>> # Initializing a model (with random weights) from the configuration
    >>> model = VGGishModel(configuration)

    >>> # Accessing the model configuration
    >>> configuration = model.config

    ```
    """

    model_type = "vggish"

    num_mel_bins: int = 64
    patch_frames: int = 96
    conv_channels: list[int] | tuple[int, ...] = (64, 128, 256, 512)
    conv_depths: list[int] | tuple[int, ...] = (1, 1, 2, 2)
    hidden_size: int = 4096
    embedding_dim: int = 128
    final_relu: bool = False

    def __post_init__(self, **kwargs):
        # JSON has no tuples: as lists, a saved and reloaded configuration equals the original.
        self.conv_channels = list(self.conv_channels)
        self.conv_depths = list(self.conv_depths)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Part of `@strict`-powered validation. Validates the architecture of the config."""
        super().validate_architecture()
        if len(self.conv_channels) != len(self.conv_depths):
            raise ValueError(
                "`conv_channels` and `conv_depths` describe the same stages and must have as many entries, but are "
                f"{self.conv_channels} and {self.conv_depths}."
            )
        pooling = 2 ** len(self.conv_channels)
        if self.patch_frames % pooling or self.num_mel_bins % pooling:
            raise ValueError(
                f"The {len(self.conv_channels)} stages halve a patch of {self.patch_frames} frames x "
                f"{self.num_mel_bins} mel bins each: both sizes must be divisible by {pooling}. Change `patch_frames` "
                "and `num_mel_bins`, or give `conv_channels` fewer stages."
            )


__all__ = ["VGGishConfig"]
