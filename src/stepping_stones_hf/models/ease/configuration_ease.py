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
"""EASE model configuration"""

from math import prod
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import auto_docstring

from ..configuration_base import check_audio_config, check_pair_loss, check_prompt_fields, fill_prompt_fields
from ..vggish import VGGishConfig


# What the released recipes have for each backbone: joint blocks, queries (of a PVT-v2 those for 224x224), blocks with
# audio-visual fusion before the first joint block, and the factor of the learning rate from a block to the one before.
RELEASED = {
    "dinov3_vit": {"num_joint_blocks": 4, "num_queries": 100, "earlier_fusion": 0, "layer_decay": 0.8},
    "pvt_v2": {"num_joint_blocks": 6, "num_queries": 29, "earlier_fusion": 1, "layer_decay": 1.0},
}
# When the masks of the joint blocks begin to go and when they are gone: those of the PVT-v2's six blocks.
PVT_ANNEALING_START = [0.1, 0.2, 0.4, 0.5, 0.6, 0.7]
PVT_ANNEALING_END = [0.2, 0.3, 0.5, 0.6, 0.7, 0.8]
# Those of other numbers of blocks go one after the other in this time, as those of the ViT's four blocks do.
ANNEALING_START, ANNEALING_END = 0.2, 0.8

# Masks have a quarter of the frame's height and width.
PATCH_STRIDE = 16


@auto_docstring(
    custom_intro="""
    Configuration of an [`EASEModel`]. The defaults are the released model with a DINOv3 ViT-B/16.
    """
)
@strict
class EASEConfig(PreTrainedConfig):
    r"""
    backbone_config (`dict` or `PreTrainedConfig`, *optional*):
        Configuration of the backbone: a [`DINOv3ViTConfig`], or a [`PvtV2Config`] without its last stage
        (`num_encoder_blocks=3`). Its patches have 16x16 pixels. Defaults to DINOv3 ViT-B/16.
    audio_config (`dict` or `VGGishConfig`, *optional*):
        Configuration of the audio encoder; the released models were trained on VGGish with `final_relu=True`. With
        `None` the model has no audio encoder and takes `audio_embeddings` in place of `input_features`.
    freeze_audio_encoder (`bool`, *optional*, defaults to `True`):
        Whether the audio encoder is to stay as it is during training, as in the released training, which computes the
        embeddings beforehand: whoever trains calls `model.freeze_audio_encoder()` then, as the scripts do.
    audio_embedding_dim (`int`, *optional*, defaults to 128):
        Size of one audio embedding, one per frame.
    audio_hidden_size (`int`, *optional*, defaults to 320):
        Width of the audio tokens and of the query generator.
    num_audio_centers (`int`, *optional*, defaults to 71):
        Number of learned centers that the audio is compared with.
    num_audio_tokens (`int`, *optional*, defaults to 5):
        Number of audio tokens of a frame, one for each of the nearest centers.
    num_visual_centers (`int`, *optional*, defaults to 5):
        Number of learned centers that the patches are compared with.
    num_fusion_heads (`int`, *optional*, defaults to 8):
        Number of heads of the audio-visual fusion.
    query_generator_layers (`int`, *optional*, defaults to 2):
        Number of layers of the query generator.
    query_generator_heads (`int`, *optional*, defaults to 8):
        Number of heads of the query generator.
    query_generator_ratio (`int`, *optional*, defaults to 4):
        Hidden size of the query generator's feed-forward networks, divided by `audio_hidden_size`.
    evaluation_noise (`bool`, *optional*, defaults to `False`):
        Whether the assignments to centers are random in evaluation, too, as in the released program, whose results
        differ from run to run. In training they always are.
    num_queries (`int`, *optional*):
        Number of object queries. With a PVT-v2, queries and patches together must be a square number: 29 for 224x224,
        49 for 384x384. Defaults to 100, with a PVT-v2 to 29.
    num_joint_blocks (`int`, *optional*):
        Number of joint blocks: the last blocks of the backbone, in which the queries stand beside the patches.
        Defaults to 4, with a PVT-v2 to 6.
    fusion_blocks (`list[int]`, *optional*):
        Indices of the backbone's blocks before which sound is fused into the patches; it always is after the last
        block. Weights do not tell: the released recipes differ in it. Defaults to the joint blocks, with a PVT-v2 to
        the block before them as well.
    mask_feature_dropout (`float`, *optional*, defaults to 0.1):
        Share of the channels of the mask features that are dropped in training.
    annealing_start (`list[float]`, *optional*):
        For each joint block the share of all training steps after which its attention mask begins to be left out.
        Defaults to the released recipes', and for other numbers of blocks to equal parts of the time from 0.2 to 0.8.
    annealing_end (`list[float]`, *optional*):
        For each joint block the share of all training steps after which its attention mask is left out.
    layer_decay (`float`, *optional*):
        Factor from a block's learning rate to that of the block before, outside of the joint blocks. Defaults to 0.8,
        with a PVT-v2 to 1.
    use_mask_prompt (`bool`, *optional*, defaults to `False`):
        Whether the model is prompted with a localizer's masks, `prompt_masks`: `True` for the second stage of Stepping
        Stones, which the released program does not have.
    mask_prompt_fusion (`bool`, *optional*):
        Whether the prompt is added to the mask features. Defaults to `use_mask_prompt`.
    mask_prompt_keys (`bool`, *optional*):
        Whether the keys of the joint blocks say if a patch is silent, uncertain or sounding. Defaults to
        `use_mask_prompt`.
    mask_prompt_key_rows (`str`, *optional*, defaults to `"queries"`):
        Who sees what these keys say: the object queries (`"queries"`), to whose scores it is added without rotation,
        or all tokens (`"all"`), for which the patches' keys are computed from patches and states together.
    attention_mask_init (`str`, *optional*):
        Where the queries attend in the first joint block: inside the prompt (`"prompt"`), in training and evaluation,
        or as in the released program (`"origin"`), inside their predicted masks until these are annealed away.
        Defaults to `"prompt"` with `use_mask_prompt`, else to `"origin"`.
    prompt_silence_threshold (`float`, *optional*, defaults to 0.4):
        A patch whose prompt is at most this is silent.
    prompt_sounding_threshold (`float`, *optional*, defaults to 0.6):
        A patch whose prompt is at least this is sounding; between the two thresholds it is uncertain.
    no_object_weight (`float`, *optional*, defaults to 0.1):
        Weight of the no-object class in the classification loss.
    class_weight (`float`, *optional*, defaults to 2.0):
        Weight of the classification loss.
    mask_weight (`float`, *optional*, defaults to 5.0):
        Weight of the masks' binary cross-entropy, in the loss and in the matching.
    dice_weight (`float`, *optional*, defaults to 5.0):
        Weight of the masks' dice loss, in the loss and in the matching.
    matcher_class_cost (`float`, *optional*, defaults to 2.0):
        Weight of the class in the Hungarian matching's cost; the other two are `mask_weight` and `dice_weight`.
    train_num_points (`int`, *optional*, defaults to 12544):
        Number of points at which a mask is compared with its target.
    oversample_ratio (`float`, *optional*, defaults to 3.0):
        Candidates that are drawn for each point of the mask losses.
    importance_sample_ratio (`float`, *optional*, defaults to 0.75):
        Share of the points that are taken where the prediction is least certain.
    use_auxiliary_loss (`bool`, *optional*, defaults to `True`):
        Whether the predictions before the joint blocks are supervised too, in training, where they are made.
    pair_loss_weight (`float`, *optional*, defaults to 0.0):
        Weight of the pair loss, by which a model learns whether a sound goes with what is seen, in training with
        sounds that do not; 0 for a model without it. See [`~models.pair_loss.AudioVisualPairHead`].
    init_std (`float`, *optional*, defaults to 0.02):
        Standard deviation of the initial weights of what the released program does not leave to torch's defaults.

    Example:

    ```python
    >>> from stepping_stones_hf import EASEConfig, EASEForAudioVisualSegmentation, VGGishConfig

    >>> # Which pixels sound? (background, sounding)
    >>> localizer = EASEForAudioVisualSegmentation(
    ...     EASEConfig(num_labels=2, audio_config=VGGishConfig(final_relu=True))
    ... )
    >>> # And what are they? Prompted with the masks of a localizer
    >>> config = EASEConfig(num_labels=71, use_mask_prompt=True)
    >>> config.num_queries, config.fusion_blocks, config.mask_prompt_fusion, config.attention_mask_init
    (100, [8, 9, 10, 11], True, 'prompt')

    ```
    """

    model_type = "ease"
    # Frames are independent of one another.
    clip_length = None
    # Of EoMT's mask module, and the same in all released models.
    hidden_act = "gelu"
    num_upscale_blocks = 2
    sub_configs_defaults = {
        "backbone_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="dinov3_vit",
            init_kwargs={
                "hidden_size": 768,
                "intermediate_size": 3072,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "num_register_tokens": 4,
            },
        ),
        "audio_config": SubConfigSpec(config_class=VGGishConfig, optional=True),
    }

    backbone_config: dict | PreTrainedConfig | None = None
    audio_config: dict | PreTrainedConfig | None = None
    freeze_audio_encoder: bool = True
    audio_embedding_dim: int = 128
    audio_hidden_size: int = 320
    num_audio_centers: int = 71
    num_audio_tokens: int = 5
    num_visual_centers: int = 5
    num_fusion_heads: int = 8
    query_generator_layers: int = 2
    query_generator_heads: int = 8
    query_generator_ratio: int = 4
    evaluation_noise: bool = False
    num_queries: int | None = None
    num_joint_blocks: int | None = None
    fusion_blocks: list[int] | tuple[int, ...] | None = None
    mask_feature_dropout: float | int = 0.1
    annealing_start: list[float] | tuple[float, ...] | None = None
    annealing_end: list[float] | tuple[float, ...] | None = None
    layer_decay: float | int | None = None
    use_mask_prompt: bool = False
    mask_prompt_fusion: bool | None = None
    mask_prompt_keys: bool | None = None
    mask_prompt_key_rows: Literal["queries", "all"] = "queries"
    attention_mask_init: Literal["prompt", "origin"] | None = None
    prompt_silence_threshold: float = 0.4
    prompt_sounding_threshold: float = 0.6
    no_object_weight: float = 0.1
    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    matcher_class_cost: float = 2.0
    train_num_points: int = 12544
    oversample_ratio: float = 3.0
    importance_sample_ratio: float = 0.75
    use_auxiliary_loss: bool = True
    pair_loss_weight: float | int = 0.0
    init_std: float = 0.02

    @property
    def is_pvt(self) -> bool:
        """Whether the backbone is a PVT-v2, and not a ViT."""
        return self.backbone_config.model_type == "pvt_v2"

    @property
    def hidden_size(self) -> int:
        """Width of queries and patches: that of the backbone."""
        return self.backbone_config.hidden_sizes[-1] if self.is_pvt else self.backbone_config.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """Number of the backbone's blocks, of all its stages."""
        return sum(self.backbone_config.depths) if self.is_pvt else self.backbone_config.num_hidden_layers

    @property
    def first_block(self) -> int:
        """Index of the first block with the width of the last, hence the first before which something can enter."""
        return sum(self.backbone_config.depths[:-1]) if self.is_pvt else 0

    @property
    def first_joint_block(self) -> int:
        """Index of the block before which the queries enter."""
        return self.num_hidden_layers - self.num_joint_blocks

    def __post_init__(self, **kwargs):
        fill_prompt_fields(self)
        super().__post_init__(**kwargs)
        released = RELEASED.get(self.backbone_config.model_type)
        if released is None:
            raise ValueError(
                f"backbone_config has model_type={self.backbone_config.model_type!r}; EASE takes a DINOv3ViTConfig or "
                "a PvtV2Config."
            )
        for name in ("num_joint_blocks", "num_queries", "layer_decay"):
            if getattr(self, name) is None:
                setattr(self, name, released[name])
        if self.fusion_blocks is None:
            first = max(self.first_joint_block - released["earlier_fusion"], self.first_block)
            self.fusion_blocks = list(range(first, self.num_hidden_layers))
        # CODEPATH: PVT-v2, whose six blocks the released recipes anneal with a pause
        has_pause = self.is_pvt and self.num_joint_blocks == len(PVT_ANNEALING_START)
        span = (ANNEALING_END - ANNEALING_START) / max(self.num_joint_blocks, 1)
        times = [round(ANNEALING_START + span * block, 6) for block in range(self.num_joint_blocks + 1)]
        if self.annealing_start is None:
            self.annealing_start = PVT_ANNEALING_START if has_pause else times[:-1]
        if self.annealing_end is None:
            self.annealing_end = PVT_ANNEALING_END if has_pause else times[1:]
        # JSON has no tuples: as lists, a saved and reloaded configuration equals the original.
        for name in ("fusion_blocks", "annealing_start", "annealing_end"):
            setattr(self, name, list(getattr(self, name)))

    def validate_architecture(self):
        """Raises a `ValueError` where two fields contradict each other."""
        super().validate_architecture()
        check_prompt_fields(self)
        backbone = self.backbone_config
        stride = prod(backbone.strides[: backbone.num_encoder_blocks]) if self.is_pvt else backbone.patch_size
        if stride != PATCH_STRIDE:
            raise ValueError(
                f"EASE has patches of {PATCH_STRIDE}x{PATCH_STRIDE} pixels; those of backbone_config have the stride "
                f"{stride}. Set patch_size=16, or leave out the last stage of a PVT-v2: num_encoder_blocks=3, and as "
                "many depths, hidden_sizes, ..."
            )
        if self.is_pvt and not len(backbone.depths) == len(backbone.hidden_sizes) == backbone.num_encoder_blocks:
            raise ValueError(
                f"backbone_config has num_encoder_blocks={backbone.num_encoder_blocks}, depths={backbone.depths} and "
                f"hidden_sizes={backbone.hidden_sizes}: EASE takes as many of each."
            )
        num_joinable = self.num_hidden_layers - self.first_block
        if not 1 <= self.num_joint_blocks <= num_joinable:
            raise ValueError(
                f"num_joint_blocks={self.num_joint_blocks} must be from 1 to {num_joinable}, the number of the "
                "backbone's blocks with the width of the last."
            )
        if not all(self.first_block <= block < self.num_hidden_layers for block in self.fusion_blocks):
            raise ValueError(
                f"fusion_blocks={self.fusion_blocks} must be from {self.first_block} to {self.num_hidden_layers - 1}, "
                "indices of the backbone's blocks with the width of the last."
            )
        starts, ends = self.annealing_start, self.annealing_end
        is_ordered = all(start < end for start, end in zip(starts, ends))
        if not (len(starts) == len(ends) == self.num_joint_blocks and is_ordered):
            raise ValueError(
                f"annealing_start={starts} and annealing_end={ends} must have a time for each of the num_joint_blocks="
                f"{self.num_joint_blocks} joint blocks, the first before the second."
            )
        for name, width in (("num_fusion_heads", "hidden_size"), ("query_generator_heads", "audio_hidden_size")):
            if getattr(self, width) % getattr(self, name):
                raise ValueError(f"{width}={getattr(self, width)} must be a multiple of {name}={getattr(self, name)}.")
        if not 1 <= self.num_audio_tokens <= self.num_audio_centers:
            raise ValueError(
                f"num_audio_tokens={self.num_audio_tokens} must be from 1 to num_audio_centers="
                f"{self.num_audio_centers}."
            )
        check_audio_config(self)
        check_pair_loss(self)


__all__ = ["EASEConfig"]
