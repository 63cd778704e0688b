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
"""CAVP model configuration"""

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import auto_docstring

from ..configuration_base import check_audio_config, check_pair_loss
from ..vggish import VGGishConfig


# The feature maps that the decoder takes, of strides 4 and 16.
OUT_FEATURES = ["stage1", "stage4"]


@auto_docstring(
    custom_intro="""
    Configuration of a [`CAVPModel`]. The defaults are the released model, with ResNet-50.
    """
)
@strict
class CAVPConfig(PreTrainedConfig):
    r"""
    backbone_config (`dict` or `ResNetConfig`, *optional*):
        Configuration of the backbone, a ResNet of bottleneck layers with the feature maps of its first and last stage.
        It gets a deep stem and a dilated last stage, see [`~models.backbones.build_dilated_resnet`]. Defaults to
        ResNet-50.
    audio_config (`dict` or `VGGishConfig`, *optional*):
        Configuration of the audio encoder; that of the released models is a VGGish with `embedding_dim=304` and
        `final_relu=True`. With `None` the model has no audio encoder and takes `audio_embeddings` in place of
        `input_features`.
    audio_embedding_dim (`int`, *optional*, defaults to 304):
        Size of one audio embedding, one per frame.
    aspp_hidden_dim (`int`, *optional*, defaults to 256):
        Channels of each of the parallel convolutions through which the backbone's last feature map passes.
    aspp_dim (`int`, *optional*, defaults to 256):
        Channels of the sum of these.
    aspp_dilations (`list[int]`, *optional*, defaults to `[6, 12, 18]`):
        Dilations of the parallel convolutions of 3x3.
    low_level_dim (`int`, *optional*, defaults to 48):
        Channels to which the backbone's first feature map is reduced before both are joined: `aspp_dim` and
        `low_level_dim` together are the channels that sound acts on, a multiple of `num_attention_heads`.
    projector_dim (`int`, *optional*, defaults to 256):
        Hidden size of the two layers that project each pixel's features.
    num_attention_heads (`int`, *optional*, defaults to 4):
        Groups of channels, for each of which sound opens a gate of its own.
    intermediate_size (`int`, *optional*, defaults to 1216):
        Hidden size of the two layers that follow the gates.
    head_dim (`int`, *optional*, defaults to 256):
        Channels of the head's two hidden convolutions.
    use_mask_prompt (`bool`, *optional*, defaults to `False`):
        Whether the model is prompted with a localizer's masks, `prompt_masks`: `True` for the second stage of Stepping
        Stones, which adds the mask to the features that enter the head (section 4.3 of that paper).
    contrastive_weight (`float`, *optional*, defaults to 1.0):
        Weight of the contrastive loss: 1 in the released training on AVSBench-semantic, 0.1 in that on
        AVSBench-object. With 0 there is none, and no frame is shown with another's sound.
    contrastive_temperature (`float`, *optional*, defaults to 0.1):
        What cosines are divided by.
    contrastive_max_views (`int`, *optional*, defaults to 512):
        Pixels that are drawn of each class; a class of fewer is left out.
    sound_bank_size (`int`, *optional*, defaults to 0):
        Sounds of each class that training keeps, the latest ones, to give frames another sound of their own class:
        16, the number of frames of a step, in the released training on all of AVSS. They are saved with the weights,
        so that training resumes with them. With 0 there is no bank, as in all other released training. It takes an
        audio encoder, and `input_features` in training.
    sound_bank_rate (`float`, *optional*, defaults to 0.5):
        Share of the frames with a sound that does not go with them for which the bank is asked.
    sound_bank_warmup_steps (`int`, *optional*, defaults to 0):
        Forward passes of training before the bank gives any sound: those of the first epoch in the released training.
    pair_loss_weight (`float`, *optional*, defaults to 0.0):
        Weight of the pair loss, by which a model learns whether a sound goes with what is seen, in training with
        sounds that do not; 0 for a model without it. See [`~models.pair_loss.AudioVisualPairHead`].

    Example:

    ```python
    >>> from stepping_stones_hf import CAVPConfig, CAVPForAudioVisualSegmentation

    >>> # Which pixels sound?
    >>> localizer = CAVPForAudioVisualSegmentation(CAVPConfig(num_labels=2))
    >>> # And what are they? Prompted with the masks of the localizer
    >>> config = CAVPConfig(num_labels=71, use_mask_prompt=True)
    >>> config.hidden_size
    304

    ```
    """

    model_type = "cavp"
    sub_configs_defaults = {
        "backbone_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="resnet",
            init_kwargs={"embedding_size": 128, "out_features": OUT_FEATURES},
        ),
        "audio_config": SubConfigSpec(config_class=VGGishConfig, optional=True),
    }
    # Each frame is looked at alone.
    clip_length = None
    # The audio encoder trains along.
    freeze_audio_encoder = False

    backbone_config: dict | PreTrainedConfig | None = None
    audio_config: dict | PreTrainedConfig | None = None
    audio_embedding_dim: int = 304
    aspp_hidden_dim: int = 256
    aspp_dim: int = 256
    aspp_dilations: list[int] | tuple[int, ...] = (6, 12, 18)
    low_level_dim: int = 48
    projector_dim: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1216
    head_dim: int = 256
    use_mask_prompt: bool = False
    contrastive_weight: float | int = 1.0
    contrastive_temperature: float = 0.1
    contrastive_max_views: int = 512
    sound_bank_size: int = 0
    sound_bank_rate: float = 0.5
    sound_bank_warmup_steps: int = 0
    pair_loss_weight: float | int = 0.0

    @property
    def hidden_size(self) -> int:
        """Channels that sound acts on."""
        return self.aspp_dim + self.low_level_dim

    @property
    def num_hidden_layers(self) -> int:
        """Number of fusion blocks."""
        return 1

    def __post_init__(self, **kwargs):
        # JSON has no tuples: as lists, a saved and reloaded configuration equals the original.
        self.aspp_dilations = list(self.aspp_dilations)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Raises a `ValueError` where two fields contradict each other."""
        super().validate_architecture()
        layer_type = getattr(self.backbone_config, "layer_type", None)
        if self.backbone_config.model_type != "resnet" or layer_type != "bottleneck":
            raise ValueError(
                f"backbone_config has model_type={self.backbone_config.model_type!r} and layer_type={layer_type!r}; "
                'CAVP takes a ResNetConfig with layer_type="bottleneck".'
            )
        if self.backbone_config.out_features != OUT_FEATURES:
            raise ValueError(
                "CAVP takes the feature maps of strides 4 and 16; backbone_config has out_features="
                f'{self.backbone_config.out_features}. Set out_features=["stage1", "stage4"].'
            )
        check_audio_config(self)
        check_pair_loss(self)
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"aspp_dim={self.aspp_dim} and low_level_dim={self.low_level_dim} make {self.hidden_size} channels, "
                f"which num_attention_heads={self.num_attention_heads} must divide."
            )
        if self.contrastive_temperature <= 0 or self.contrastive_max_views < 1:
            raise ValueError(
                f"contrastive_temperature={self.contrastive_temperature} must be more than 0, and "
                f"contrastive_max_views={self.contrastive_max_views} at least 1."
            )
        if self.sound_bank_size and (self.audio_config is None or self.num_labels == 2 or not self.contrastive_weight):
            raise ValueError(
                f"sound_bank_size={self.sound_bank_size} keeps sounds of each class for the contrastive loss. That "
                f"takes an audio_config, more labels than {self.num_labels} if these are 2, and a contrastive_weight, "
                f"which is {self.contrastive_weight}. Otherwise set sound_bank_size=0."
            )


__all__ = ["CAVPConfig"]
