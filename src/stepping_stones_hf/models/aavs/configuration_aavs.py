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
"""AAVS model configuration"""

from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import auto_docstring

from ..configuration_base import check_audio_config, check_pair_loss, check_prompt_fields, fill_prompt_fields
from ..vggish import VGGishConfig


@auto_docstring(
    custom_intro="""
    Configuration of an [`AAVSModel`]. The defaults are a model of the paper's size with two labels and without a
    prompt.
    """
)
@strict
class AAVSConfig(PreTrainedConfig):
    r"""
    backbone_config (`dict` or `SwinConfig`, *optional*):
        Configuration of the Swin backbone. Defaults to the Swin-B of the paper (384x384 frames, windows of 12).
    audio_config (`dict` or `VGGishConfig`, *optional*):
        Configuration of the audio encoder. With `None` the model has no audio encoder and takes `audio_embeddings`
        in place of `input_features`.
    freeze_audio_encoder (`bool`, *optional*, defaults to `True`):
        Whether the audio encoder is to stay as it is during training, as in the paper: whoever trains calls
        `model.freeze_audio_encoder()` then, as the scripts do. `False` trains it along.
    audio_embedding_dim (`int`, *optional*, defaults to 128):
        Size of one audio embedding, one per frame.
    audio_projection_dim (`int`, *optional*, defaults to 512):
        Hidden size of the two-layer projection from audio embeddings to the decoder's `hidden_dim`.
    audio_query (`str`, *optional*, defaults to `"adaptive"`):
        How the audio enters the object queries. `"adaptive"`: weighted, query by query, with its cosine similarity
        to the query's prototype (the paper's adaptive audio query, section 3.3). `"shared"`: the same vector is added
        to every query (the paper's origin audio query, Table 3).
    use_mask_prompt (`bool`, *optional*, defaults to `False`):
        Whether the model is prompted with the masks of a localizer, `prompt_masks`: `True` for the second stage of
        Stepping Stones, `False` for the first stage and for a one-stage model.
    mask_prompt_fusion (`bool`, *optional*):
        Whether the prompt is added to the mask features (Table 4). Defaults to `use_mask_prompt`.
    mask_prompt_keys (`bool`, *optional*):
        Whether the keys of the masked cross-attention say if a place is silent, uncertain or sounding (the paper's
        robust audio-aware key, Table 4). Defaults to `use_mask_prompt`.
    attention_mask_init (`str`, *optional*):
        Where the first decoder layer attends: inside the prompt (`"prompt"`) or inside the mask that is predicted from
        the queries (`"origin"`, as in Mask2Former; supplement, Table E3). Defaults to `"prompt"` with
        `use_mask_prompt`, else to `"origin"`.
    prompt_silence_threshold (`float`, *optional*, defaults to 0.4):
        A place whose prompt is at most this is silent.
    prompt_sounding_threshold (`float`, *optional*, defaults to 0.6):
        A place whose prompt is at least this is sounding; between the two thresholds it is uncertain.
    adapter_reduction (`int`, *optional*, defaults to 4):
        An adapter's bottleneck is its width divided by this number.
    apply_output_projection (`bool`, *optional*, defaults to `True`):
        Whether the attention modules that end in an adapter have an output projection before it. The released
        first-stage checkpoints were trained without (`False`), the released second-stage checkpoint with it (`True`).
    matcher_class_cost (`float`, *optional*, defaults to 1.0):
        Weight of the class in the Hungarian matching's cost; the other two are `mask_weight` and `dice_weight`.
    feature_size (`int`, *optional*, defaults to 256):
        Channels of the pixel decoder's feature maps, a multiple of 32.
    mask_feature_size (`int`, *optional*, defaults to 256):
        Channels of the mask features.
    hidden_dim (`int`, *optional*, defaults to 256):
        Channels of the transformer decoder.
    encoder_feedforward_dim (`int`, *optional*, defaults to 1024):
        Hidden size of the feed-forward networks of the pixel decoder.
    encoder_layers (`int`, *optional*, defaults to 6):
        Number of deformable attention layers of the pixel decoder.
    decoder_layers (`int`, *optional*, defaults to 10):
        Number of predictions of the transformer decoder: one before its first layer and one after each, hence one more
        than it has layers (as in Mask2Former).
    dim_feedforward (`int`, *optional*, defaults to 2048):
        Hidden size of the feed-forward networks of the transformer decoder.
    common_stride (`int`, *optional*, defaults to 4):
        Stride of the mask features.
    feature_strides (`list[int]`, *optional*, defaults to `[4, 8, 16, 32]`):
        Strides of the backbone's feature maps.
    num_queries (`int`, *optional*, defaults to 100):
        Number of object queries. The released checkpoints have 30 in the first stage and 100 in the second.
    no_object_weight (`float`, *optional*, defaults to 0.1):
        Weight of the no-object class in the classification loss.
    class_weight (`float`, *optional*, defaults to 2.0):
        Weight of the classification loss.
    mask_weight (`float`, *optional*, defaults to 5.0):
        Weight of the masks' binary cross-entropy, in the loss and in the matching.
    dice_weight (`float`, *optional*, defaults to 5.0):
        Weight of the masks' dice loss, in the loss and in the matching.
    train_num_points (`int`, *optional*, defaults to 12544):
        Number of points at which a mask is compared with its target.
    oversample_ratio (`float`, *optional*, defaults to 3.0):
        Candidates that are drawn for each point of the mask losses.
    importance_sample_ratio (`float`, *optional*, defaults to 0.75):
        Share of the points that are taken where the prediction is least certain.
    use_auxiliary_loss (`bool`, *optional*, defaults to `True`):
        Whether the predictions before the last one are supervised too.
    output_auxiliary_logits (`bool`, *optional*, defaults to `False`):
        Whether the predictions before the last one are returned.
    pair_loss_weight (`float`, *optional*, defaults to 0.0):
        Weight of the pair loss, by which a model learns whether a sound goes with what is seen, in training with
        sounds that do not; 0 for a model without it. See [`~models.pair_loss.AudioVisualPairHead`].
    init_std (`float`, *optional*, defaults to 0.02):
        Standard deviation of the initial weights.
    init_xavier_std (`float`, *optional*, defaults to 1.0):
        Gain of the transformer decoder's Xavier initialization.

    Example:

    ```python
    >>> from stepping_stones_hf import AAVSConfig, AAVSForAudioVisualSegmentation, VGGishConfig

    >>> # First stage: which pixels sound? (background, sounding)
    >>> localizer = AAVSForAudioVisualSegmentation(
    ...     AAVSConfig(num_labels=2, num_queries=30, apply_output_projection=False, audio_config=VGGishConfig())
    ... )
    >>> # Second stage: and what are they? Prompted with the masks of the first
    >>> config = AAVSConfig(num_labels=71, use_mask_prompt=True, audio_config=VGGishConfig())
    >>> config.mask_prompt_fusion, config.mask_prompt_keys, config.attention_mask_init
    (True, True, 'prompt')

    ```
    """

    model_type = "aavs"
    # Frames are independent of one another.
    clip_length = None
    sub_configs_defaults = {
        "backbone_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="swin",
            init_kwargs={
                "image_size": 384,
                "embed_dim": 128,
                "depths": [2, 2, 18, 2],
                "num_heads": [4, 8, 16, 32],
                "window_size": 12,
                "drop_path_rate": 0.3,
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
        ),
        "audio_config": SubConfigSpec(config_class=VGGishConfig, optional=True),
    }
    attribute_map = {"hidden_size": "hidden_dim", "intermediate_size": "dim_feedforward"}

    backbone_config: dict | PreTrainedConfig | None = None
    audio_config: dict | PreTrainedConfig | None = None
    freeze_audio_encoder: bool = True
    audio_embedding_dim: int = 128
    audio_projection_dim: int = 512
    audio_query: Literal["adaptive", "shared"] = "adaptive"
    use_mask_prompt: bool = False
    mask_prompt_fusion: bool | None = None
    mask_prompt_keys: bool | None = None
    attention_mask_init: Literal["prompt", "origin"] | None = None
    prompt_silence_threshold: float = 0.4
    prompt_sounding_threshold: float = 0.6
    adapter_reduction: int = 4
    apply_output_projection: bool = True
    matcher_class_cost: float = 1.0
    feature_size: int = 256
    mask_feature_size: int = 256
    hidden_dim: int = 256
    encoder_feedforward_dim: int = 1024
    activation_function: str = "relu"
    encoder_layers: int = 6
    decoder_layers: int = 10
    num_attention_heads: int = 8
    dropout: float | int = 0.0
    dim_feedforward: int = 2048
    common_stride: int = 4
    feature_strides: list[int] | tuple[int, ...] = (4, 8, 16, 32)
    num_queries: int = 100
    no_object_weight: float = 0.1
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    train_num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75
    use_auxiliary_loss: bool = True
    output_auxiliary_logits: bool = False
    pair_loss_weight: float | int = 0.0
    init_std: float = 0.02
    init_xavier_std: float = 1.0

    @property
    def num_hidden_layers(self) -> int:
        """Number of layers of the transformer decoder."""
        return self.decoder_layers - 1

    def __post_init__(self, **kwargs):
        # Configs of before say whether feature maps of the decoder's width are projected.
        if kwargs.pop("enforce_input_projection", False) and self.feature_size == self.hidden_dim:
            raise ValueError(
                "enforce_input_projection=True with feature_size == hidden_dim is not supported any more: the decoder "
                "projects feature maps of another width than its own, and no others. Leave it out."
            )
        fill_prompt_fields(self)
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Raises a `ValueError` where two fields contradict each other."""
        super().validate_architecture()
        if self.backbone_config.model_type != "swin":
            raise ValueError(
                f"AAVS puts its adapters into the blocks of a Swin backbone; backbone_config has model_type="
                f"{self.backbone_config.model_type!r}. Pass a SwinConfig."
            )
        if len(self.backbone_config.out_features) != 4:
            raise ValueError(
                "The pixel decoder takes the feature maps of four stages; backbone_config has out_features="
                f'{self.backbone_config.out_features}. Set out_features=["stage1", "stage2", "stage3", "stage4"].'
            )
        check_prompt_fields(self)
        check_audio_config(self)
        check_pair_loss(self)
        if self.decoder_layers < 1 or self.adapter_reduction < 1 or self.train_num_points < 1:
            raise ValueError(
                "decoder_layers, adapter_reduction and train_num_points must be at least 1, got "
                f"{self.decoder_layers}, {self.adapter_reduction} and {self.train_num_points}."
            )
        if self.feature_size % 32 != 0:
            raise ValueError(
                f"feature_size={self.feature_size} must be a multiple of 32: the pixel decoder normalizes its "
                "feature maps in 32 groups."
            )
        for name in ("feature_size", "hidden_dim"):
            if getattr(self, name) % self.num_attention_heads != 0:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be a multiple of num_attention_heads="
                    f"{self.num_attention_heads}."
                )


__all__ = ["AAVSConfig"]
