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
"""AVSegFormer model configuration"""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import auto_docstring

from ..backbones import PVT_V2_B5, check_backbone_config
from ..configuration_base import check_audio_config, check_pair_loss
from ..vggish import VGGishConfig


# Of the group norms after the convolutions.
NUM_GROUPS = 32


@auto_docstring(
    custom_intro="""
    Configuration of an [`AVSegFormerModel`]. The defaults are the released model for S4 and MS3, with PVT-v2-b5.
    """
)
@strict
class AVSegFormerConfig(PreTrainedConfig):
    r"""
    backbone_config (`dict` or `PreTrainedConfig`, *optional*):
        Configuration of the backbone, a PVT-v2 or a ResNet with the feature maps of four stages. Defaults to
        PVT-v2-b5.
    audio_config (`dict` or `VGGishConfig`, *optional*):
        Configuration of the audio encoder; the released models were trained on VGGish with `final_relu=True`. With
        `None` the model has no audio encoder and takes `audio_embeddings` in place of `input_features`.
    freeze_audio_encoder (`bool`, *optional*, defaults to `True`):
        Whether the audio encoder stays as it is during training, as in the released training. `False` trains it along.
    audio_embedding_dim (`int`, *optional*, defaults to 128):
        Size of one audio embedding, one per frame.
    hidden_dim (`int`, *optional*, defaults to 256):
        Channels of queries and feature maps, a multiple of 32 and of `num_attention_heads`.
    num_queries (`int`, *optional*, defaults to 300):
        Number of queries per frame. They have no classes: their masks are the input of a convolutional head.
    encoder_layers (`int`, *optional*, defaults to 6):
        Number of layers with deformable attention among the pixels of strides 8, 16 and 32.
    query_generator_layers (`int`, *optional*, defaults to 6):
        Number of layers that make queries of the sound.
    decoder_layers (`int`, *optional*, defaults to 6):
        Number of layers in which queries attend to pixels.
    num_attention_heads (`int`, *optional*, defaults to 8):
        Number of heads of every attention.
    num_sampling_points (`int`, *optional*, defaults to 4):
        How many points a pixel looks at, for each head and each of the three feature maps.
    feedforward_dim (`int`, *optional*, defaults to 2048):
        Hidden size of the feed-forward networks of encoder and decoder.
    query_generator_feedforward_dim (`int`, *optional*, defaults to 1024):
        Hidden size of the feed-forward networks of the query generator.
    mask_mlp_dim (`int`, *optional*, defaults to 2048):
        Hidden size of the network that turns the masks of the queries into features.
    head_hidden_sizes (`list[int]`, *optional*, defaults to `[128, 32]`):
        Channels of the head's two hidden convolutions.
    dropout (`float`, *optional*, defaults to 0.1):
        Dropout in encoder and decoder.
    use_mask_prompt (`bool`, *optional*, defaults to `False`):
        Whether the model is prompted with a localizer's masks, `prompt_masks`: `True` for the second stage of Stepping
        Stones, which adds the mask to the mask features (section 4.3 of that paper).
    mask_prompt_position (`str`, *optional*, defaults to `"after_mixer"`):
        Where the mask is added: to the mask features that enter the head (`"after_mixer"`, as the paper says), or to
        those in which the sound chooses channels (`"before_mixer"`).
    mask_loss (`str`, *optional*, defaults to `"dice"`):
        How a mask of what sounds is compared with the true one, `"dice"` (the released training) or `"bce"`, binary
        cross-entropy: the segmentation loss of two labels, and the mix loss.
    mix_loss_weight (`float`, *optional*, defaults to 0.1):
        Weight of the mix loss, which takes the mean of all channels of the mask features for a mask.
    mix_loss_sees_prompt (`bool`, *optional*, defaults to `False`):
        Whether the mask features of the mix loss are those with the mask prompt. In training that is the true mask,
        which leaves this loss little to teach.
    pair_loss_weight (`float`, *optional*, defaults to 0.0):
        Weight of the pair loss, by which a model learns whether a sound goes with what is seen, in training with
        sounds that do not; 0 for a model without it. See [`~models.pair_loss.AudioVisualPairHead`].

    Example:

    ```python
    >>> from stepping_stones_hf import AVSegFormerConfig, AVSegFormerForAudioVisualSegmentation, VGGishConfig

    >>> # Which pixels sound? As released for S4 and MS3
    >>> localizer = AVSegFormerForAudioVisualSegmentation(
    ...     AVSegFormerConfig(num_labels=2, audio_config=VGGishConfig(final_relu=True))
    ... )
    >>> # And what are they? As released for AVSS, and prompted with the masks of a localizer
    >>> config = AVSegFormerConfig(num_labels=71, use_mask_prompt=True)
    >>> config.mask_prompt_position
    'after_mixer'

    ```
    """

    model_type = "avsegformer"
    # Frames do not see one another.
    clip_length = None
    sub_configs_defaults = {
        "backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="pvt_v2", init_kwargs=PVT_V2_B5),
        "audio_config": SubConfigSpec(config_class=VGGishConfig, optional=True),
    }
    attribute_map = {
        "hidden_size": "hidden_dim",
        "num_hidden_layers": "decoder_layers",
        "intermediate_size": "feedforward_dim",
    }

    backbone_config: dict | PreTrainedConfig | None = None
    audio_config: dict | PreTrainedConfig | None = None
    freeze_audio_encoder: bool = True
    audio_embedding_dim: int = 128
    hidden_dim: int = 256
    num_queries: int = 300
    encoder_layers: int = 6
    query_generator_layers: int = 6
    decoder_layers: int = 6
    num_attention_heads: int = 8
    num_sampling_points: int = 4
    feedforward_dim: int = 2048
    query_generator_feedforward_dim: int = 1024
    mask_mlp_dim: int = 2048
    head_hidden_sizes: list[int] | tuple[int, ...] = (128, 32)
    dropout: float = 0.1
    use_mask_prompt: bool = False
    mask_prompt_position: Literal["after_mixer", "before_mixer"] = "after_mixer"
    mask_loss: Literal["dice", "bce"] = "dice"
    mix_loss_weight: float = 0.1
    mix_loss_sees_prompt: bool = False
    pair_loss_weight: float | int = 0.0

    def __post_init__(self, **kwargs):
        # JSON has no tuples: as lists, a saved and reloaded configuration equals the original.
        self.head_hidden_sizes = list(self.head_hidden_sizes)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Raises a `ValueError` where two fields contradict each other."""
        super().validate_architecture()
        check_backbone_config(self.backbone_config, "AVSegFormer")
        check_audio_config(self)
        check_pair_loss(self)
        if self.hidden_dim < 1 or self.hidden_dim % NUM_GROUPS or self.hidden_dim % self.num_attention_heads:
            raise ValueError(
                f"hidden_dim={self.hidden_dim} must be a multiple of {NUM_GROUPS}, since its group norms have so many "
                f"groups, and of num_attention_heads={self.num_attention_heads}."
            )
        if len(self.head_hidden_sizes) != 2:
            raise ValueError(f"head_hidden_sizes={self.head_hidden_sizes} must be two numbers.")
        for name in ("encoder_layers", "query_generator_layers", "decoder_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")


__all__ = ["AVSegFormerConfig"]
