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
"""TPAVI model configuration"""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import auto_docstring

from ..backbones import PVT_V2_B5, check_backbone_config
from ..configuration_base import check_audio_config, check_pair_loss
from ..vggish import VGGishConfig


@auto_docstring(
    custom_intro="""
    Configuration of a [`TPAVIModel`]. The defaults are the released model for MS3, with PVT-v2-b5.
    """
)
@strict
class TPAVIConfig(PreTrainedConfig):
    r"""
    backbone_config (`dict` or `PreTrainedConfig`, *optional*):
        Configuration of the backbone, a PVT-v2 or a ResNet with the feature maps of four stages. Defaults to
        PVT-v2-b5.
    audio_config (`dict` or `VGGishConfig`, *optional*):
        Configuration of the audio encoder; the released models were trained on VGGish with `final_relu=True`. With
        `None` the model has no audio encoder and takes `audio_embeddings` in place of `input_features`.
    freeze_audio_encoder (`bool`, *optional*, defaults to `True`):
        Whether the audio encoder is to stay as it is during training, as in the released training: whoever trains
        calls `model.freeze_audio_encoder()` then, as the scripts do. `False` trains it along.
    audio_embedding_dim (`int`, *optional*, defaults to 128):
        Size of one audio embedding, one per frame.
    hidden_dim (`int`, *optional*, defaults to 256):
        Channels of the feature maps from the neck to the head, an even number.
    neck_dilations (`list[int]`, *optional*, defaults to `[3, 6, 12, 18]`):
        Dilations of the parallel convolutions through which each feature map of the backbone passes.
    head_hidden_sizes (`list[int]`, *optional*, defaults to `[128, 32]`):
        Channels of the head's two hidden convolutions.
    clip_length (`int`, *optional*, defaults to 5):
        How many frames look at one another. A longer clip is treated in groups of so many, one that does not fill its
        last group is filled up with empty frames.
    padded_clip_length (`int`, *optional*):
        In training, clips of fewer frames are filled up with empty ones to so many, a multiple of `clip_length`, as in
        the released training on AVSS (10). Batch norms see the empty frames, nothing else does. Defaults to none but
        those of the last group.
    attention_source (`str`, *optional*, defaults to `"audio"`):
        What the pixels attend to: the sound of the frames (`"audio"`, the released models), the other pixels of the
        frames (`"visual"`), or each of them with the same weights, and the mean is taken (`"both"`).
    audio_projection_bias (`bool`, *optional*):
        Whether the projection of the audio embeddings has a bias. The released models for S4 and MS3 have one, those
        for AVSS do not. Defaults to whether there are two labels.
    use_mask_prompt (`bool`, *optional*, defaults to `False`):
        Whether the model is prompted with a localizer's masks, `prompt_masks`: `True` for the second stage of Stepping
        Stones, which adds the mask to the features that enter the head (section 4.3 of that paper).
    avm_loss (`str`, *optional*, defaults to `"kl"`):
        How the audio-visual matching loss compares the masked visual with the audio features: by Kullback-Leibler
        divergence (`"kl"`, the released training on MS3 and AVSS), by their distance (`"euclidean"`) or by their
        cosine (`"cosine"`, which the released program has for S4 with two labels, switched off). With `None` there is
        no such loss, as in the released training on S4.
    avm_weight (`float`, *optional*, defaults to 0.5):
        Weight of the audio-visual matching loss.
    avm_normalize (`bool`, *optional*, defaults to `False`):
        Whether the features are scaled to length 1 before they are compared. `"cosine"` always does so.
    avm_threshold (`bool`, *optional*, defaults to `False`):
        Whether the mask is cut at 0.5. `"cosine"` always does so.
    avm_pooling (`str`, *optional*, defaults to `"avg"`):
        How the mask is brought to the size of a feature map, `"avg"` or `"max"`.
    avm_target (`str`, *optional*, defaults to `"audio"`):
        What the visual features of a frame are compared with: the frame's audio features (`"audio"`), or the visual
        features of the frame in the batch that sounds most like it (`"nearest"`).
    pair_loss_weight (`float`, *optional*, defaults to 0.0):
        Weight of the pair loss, by which a model learns whether a sound goes with what is seen, in training with
        sounds that do not; 0 for a model without it. See [`~models.pair_loss.AudioVisualPairHead`].

    Example:

    ```python
    >>> from stepping_stones_hf import TPAVIConfig, TPAVIForAudioVisualSegmentation, VGGishConfig

    >>> # Which pixels sound? As released for MS3; for S4 with avm_loss=None
    >>> localizer = TPAVIForAudioVisualSegmentation(
    ...     TPAVIConfig(num_labels=2, audio_config=VGGishConfig(final_relu=True))
    ... )
    >>> # And what are they? As released for AVSS, and prompted with the masks of a localizer
    >>> config = TPAVIConfig(num_labels=71, padded_clip_length=10, use_mask_prompt=True)
    >>> config.audio_projection_bias
    False

    ```
    """

    model_type = "tpavi"
    sub_configs_defaults = {
        "backbone_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="pvt_v2",
            init_kwargs=PVT_V2_B5,
        ),
        "audio_config": SubConfigSpec(config_class=VGGishConfig, optional=True),
    }
    attribute_map = {"hidden_size": "hidden_dim"}

    backbone_config: dict | PreTrainedConfig | None = None
    audio_config: dict | PreTrainedConfig | None = None
    freeze_audio_encoder: bool = True
    audio_embedding_dim: int = 128
    hidden_dim: int = 256
    neck_dilations: list[int] | tuple[int, ...] = (3, 6, 12, 18)
    head_hidden_sizes: list[int] | tuple[int, ...] = (128, 32)
    clip_length: int = 5
    padded_clip_length: int | None = None
    attention_source: Literal["audio", "visual", "both"] = "audio"
    audio_projection_bias: bool | None = None
    use_mask_prompt: bool = False
    avm_loss: Literal["kl", "euclidean", "cosine"] | None = "kl"
    avm_weight: float = 0.5
    avm_normalize: bool = False
    avm_threshold: bool = False
    avm_pooling: Literal["avg", "max"] = "avg"
    avm_target: Literal["audio", "nearest"] = "audio"
    pair_loss_weight: float | int = 0.0

    @property
    def num_hidden_layers(self) -> int:
        """Number of TPAVI blocks: one for each feature map."""
        return len(self.backbone_config.out_features)

    def __post_init__(self, **kwargs):
        # JSON has no tuples: as lists, a saved and reloaded configuration equals the original.
        self.neck_dilations = list(self.neck_dilations)
        self.head_hidden_sizes = list(self.head_hidden_sizes)
        super().__post_init__(**kwargs)
        if self.audio_projection_bias is None:
            self.audio_projection_bias = self.num_labels == 2

    def validate_architecture(self):
        """Raises a `ValueError` where two fields contradict each other."""
        super().validate_architecture()
        check_backbone_config(self.backbone_config, "TPAVI")
        check_audio_config(self)
        check_pair_loss(self)
        if self.hidden_dim < 2 or self.hidden_dim % 2:
            raise ValueError(f"hidden_dim={self.hidden_dim} must be even: the attention works on half of it.")
        if len(self.head_hidden_sizes) != 2:
            raise ValueError(f"head_hidden_sizes={self.head_hidden_sizes} must be two numbers.")
        if self.clip_length < 1:
            raise ValueError(f"clip_length={self.clip_length} must be at least 1.")
        if self.padded_clip_length is not None and self.padded_clip_length % self.clip_length:
            raise ValueError(
                f"padded_clip_length={self.padded_clip_length} must be a multiple of clip_length={self.clip_length}."
            )
        if self.avm_loss == "cosine" and (self.num_labels != 2 or self.avm_target != "audio"):
            raise ValueError(
                'avm_loss="cosine" is for two labels and avm_target="audio"; got '
                f"num_labels={self.num_labels} and avm_target={self.avm_target!r}."
            )
        if self.avm_loss == "kl" and self.avm_target == "nearest" and self.num_labels != 2:
            raise ValueError(
                'avm_loss="kl" with avm_target="nearest" is for two labels: with more, the released program takes the '
                'audio features all the same. Set avm_target="audio".'
            )


__all__ = ["TPAVIConfig"]
