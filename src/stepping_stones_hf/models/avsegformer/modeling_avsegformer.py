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
PyTorch AVSegFormer: *AVSegFormer: Audio-Visual Segmentation with Transformer* (Gao et al., AAAI 2024,
https://huggingface.co/papers/2307.01146); and what *Stepping Stones* (https://huggingface.co/papers/2407.11820,
section 4.3) makes of it, a second stage that is prompted with masks.

A deformable transformer encoder refines the pixels of a frame. Queries that are made of its sound attend to them. The
sound also chooses among the channels of the mask features (the mixer). Each query has a mask, its product with the
mask features; a convolutional head turns all masks together into one logit per pixel and label (one in all for two
labels). Queries are not matched with anything, and frames do not see one another.

We follow the released program, which the released checkpoints fit. What takes part in nothing is left out: two
branches of the head (`fpn`, `attn_fc`), a second copy of ResNet's last two stages, and queries and keys where there is
a single key, the sound. One difference in training: the released program for AVSS fills clips of five up with empty
frames, which ResNet's batch norms see; here they see real frames alone.
"""

import math
import os
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

# Modules of other models, where upstream would write them out again.
from transformers.models.detr.modeling_detr import DetrCrossAttention, DetrSelfAttention
from transformers.models.mask2former.modeling_mask2former import Mask2FormerSinePositionEmbedding
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ..backbones import build_backbone, load_backbone_weights
from ..deformable_attention import DeformableAttention, get_reference_points
from ..modeling_base import (
    AudioVisualModelMixin,
    AudioVisualPreTrainedMixin,
    AudioVisualSegmentationMixin,
    check_frame_size,
    resize_prompt,
)
from ..pair_loss import make_pair_head
from ..vggish import VGGishModel
from .configuration_avsegformer import NUM_GROUPS, AVSegFormerConfig
from .loss_avsegformer import AVSegFormerLoss


# Strides of the feature maps; the encoder works on all but the first. A frame's height and width are multiples of the
# last.
FEATURE_STRIDES = (4, 8, 16, 32)
NUM_ENCODER_LEVELS = len(FEATURE_STRIDES) - 1


@auto_docstring(custom_intro="Output of [`AVSegFormerModel`].")
@dataclass
class AVSegFormerModelOutput(ModelOutput):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(num_frames, num_queries, hidden_dim)`):
        Output of the decoder's last layer.
    mask_features (`torch.FloatTensor` of shape `(num_frames, hidden_dim, height / 4, width / 4)`):
        Mask features after the mixer, with the mask prompt where `config.use_mask_prompt` is set.
    unprompted_mask_features (`torch.FloatTensor` of shape `(num_frames, hidden_dim, height / 4, width / 4)`):
        The same without the mask prompt.
    generated_queries (`torch.FloatTensor` of shape `(num_frames, num_queries, hidden_dim)`):
        Output of the query generator. With the learned queries added they enter the decoder.
    encoder_last_hidden_state (`torch.FloatTensor` of shape `(num_frames, num_pixels, hidden_dim)`):
        Output of the encoder, of strides 8, 16 and 32 one after the other.
    hidden_states (`tuple(torch.FloatTensor)`, *optional*, returned with `output_hidden_states=True`):
        The decoder's input and the output of each of its layers, each `(num_frames, num_queries, hidden_dim)`.
    attentions (`tuple(torch.FloatTensor)`, *optional*, returned with `output_attentions=True` and eager attention):
        Self-attention weights of the decoder's layers, each `(num_frames, num_heads, num_queries, num_queries)`.
    cross_attentions (`tuple(torch.FloatTensor)`, *optional*, as `attentions`):
        Cross-attention weights of the decoder's layers, each `(num_frames, num_heads, num_queries, num_pixels)`.
    pair_features (`tuple(torch.FloatTensor)`, *optional*, returned where `config.pair_loss_weight` is not 0):
        The projected sound and the mean of the backbone's last feature map, `(num_frames, channels)` each: what the
        pair loss compares.
    """

    last_hidden_state: torch.FloatTensor | None = None
    mask_features: torch.FloatTensor | None = None
    unprompted_mask_features: torch.FloatTensor | None = None
    generated_queries: torch.FloatTensor | None = None
    encoder_last_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    pair_features: tuple[torch.FloatTensor, torch.FloatTensor] | None = None


@auto_docstring(
    custom_intro="""
    Output of [`AVSegFormerForAudioVisualSegmentation`];
    [`~AVSegFormerImageProcessor.post_process_semantic_segmentation`] turns it into label maps.
    """
)
@dataclass
class AVSegFormerForAudioVisualSegmentationOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `()`, *optional*, returned when `labels` are given):
        Sum of the terms of `loss_dict`.
    loss_dict (`dict[str, torch.FloatTensor]`, *optional*, returned when `labels` are given):
        Weighted terms of the loss: `loss_segmentation` and `loss_mix`.
    logits (`torch.FloatTensor` of shape `(num_frames, num_labels, height, width)`):
        Logits of the labels; with two labels a single one, that something sounds at a pixel.
    mask_features (`torch.FloatTensor` of shape `(num_frames, hidden_dim, height / 4, width / 4)`):
        Mask features after the mixer, with the mask prompt where `config.use_mask_prompt` is set.
    last_hidden_state (`torch.FloatTensor` of shape `(num_frames, num_queries, hidden_dim)`):
        Output of the decoder's last layer.
    hidden_states (`tuple(torch.FloatTensor)`, *optional*, returned with `output_hidden_states=True`):
        The decoder's input and the output of each of its layers, each `(num_frames, num_queries, hidden_dim)`.
    attentions (`tuple(torch.FloatTensor)`, *optional*, returned with `output_attentions=True` and eager attention):
        Self-attention weights of the decoder's layers, each `(num_frames, num_heads, num_queries, num_queries)`.
    cross_attentions (`tuple(torch.FloatTensor)`, *optional*, as `attentions`):
        Cross-attention weights of the decoder's layers, each `(num_frames, num_heads, num_queries, num_pixels)`.
    pair_logits (`torch.FloatTensor` of shape `(num_frames,)`, *optional*, with `config.pair_loss_weight`):
        Whether a frame's sound goes with what is seen: a cosine, whose sigmoid is the probability that it does.
    """

    loss: torch.FloatTensor | None = None
    loss_dict: dict[str, torch.FloatTensor] | None = None
    logits: torch.FloatTensor | None = None
    mask_features: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    pair_logits: torch.FloatTensor | None = None


class AVSegFormerConvNorm(nn.Module):
    """A convolution to `hidden_dim` channels and a group norm."""

    def __init__(self, config: AVSegFormerConfig, in_channels: int, kernel_size: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, config.hidden_dim, kernel_size, padding=kernel_size // 2)
        self.norm = nn.GroupNorm(NUM_GROUPS, config.hidden_dim)

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(feature_map))


class AVSegFormerEncoderLayer(GradientCheckpointingLayer):
    """Each pixel looks at a few points around it in each feature map; then a feed-forward network."""

    def __init__(self, config: AVSegFormerConfig):
        super().__init__()
        self.self_attn = DeformableAttention(
            config.hidden_dim, config.num_attention_heads, NUM_ENCODER_LEVELS, config.num_sampling_points
        )
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_dim)
        self.fc1 = nn.Linear(config.hidden_dim, config.feedforward_dim)
        self.fc2 = nn.Linear(config.feedforward_dim, config.hidden_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.final_layer_norm = nn.LayerNorm(config.hidden_dim)

    def forward(
        self,
        hidden_states: torch.Tensor,  # (frames, pixels, hidden_dim)
        position_embeddings: torch.Tensor,  # (1, pixels, hidden_dim)
        reference_points: torch.Tensor,  # (1, pixels, levels, 2), x and y from 0 to 1
        spatial_shapes: list[tuple[int, int]],  # height and width of each level
    ) -> torch.Tensor:
        attended = self.self_attn(hidden_states, position_embeddings, reference_points, spatial_shapes)
        hidden_states = self.self_attn_layer_norm(hidden_states + self.dropout(attended))
        update = self.fc2(self.dropout(nn.functional.gelu(self.fc1(hidden_states))))
        return self.final_layer_norm(hidden_states + self.dropout(update))


class AVSegFormerEncoder(nn.Module):
    """Deformable attention among the pixels of the feature maps of strides 8, 16 and 32."""

    def __init__(self, config: AVSegFormerConfig):
        super().__init__()
        self.position_embedder = Mask2FormerSinePositionEmbedding(config.hidden_dim // 2, normalize=False)
        self.level_embed = nn.Embedding(NUM_ENCODER_LEVELS, config.hidden_dim)
        self.layers = nn.ModuleList(AVSegFormerEncoderLayer(config) for _ in range(config.encoder_layers))

    def get_position_embeddings(self, feature_maps: list[torch.Tensor]) -> torch.Tensor:
        """`(1, pixels, hidden_dim)`: of row, column and level, in the order of the pixels."""
        embeddings = []
        for level, feature_map in enumerate(feature_maps):
            # In half precision the frequencies would be off.
            shape = (1, *feature_map.shape[1:])
            positions = self.position_embedder(shape, feature_map.device, torch.float32).to(feature_map.dtype)
            embeddings.append(positions.flatten(2).mT + self.level_embed.weight[level])
        return torch.cat(embeddings, dim=1)

    def forward(self, feature_maps: list[torch.Tensor]) -> torch.Tensor:
        # each (frames, hidden_dim, h, w) -> (frames, pixels, hidden_dim), one level after the other
        position_embeddings = self.get_position_embeddings(feature_maps)
        spatial_shapes = [tuple(feature_map.shape[-2:]) for feature_map in feature_maps]
        reference_points = get_reference_points(spatial_shapes, position_embeddings)
        hidden_states = torch.cat([feature_map.flatten(2).mT for feature_map in feature_maps], dim=1)
        for layer in self.layers:
            hidden_states = layer(hidden_states, position_embeddings, reference_points, spatial_shapes)
        return hidden_states


class AVSegFormerQueryGeneratorLayer(GradientCheckpointingLayer):
    """
    Queries attend to one another and to the sound, which is a single token: whatever a query is, all of its attention
    goes there, and each query gets the same projection of the sound.
    """

    def __init__(self, config: AVSegFormerConfig):
        super().__init__()
        self.self_attn = DetrSelfAttention(config, config.hidden_dim, config.num_attention_heads, bias=False)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_dim)
        self.audio_v_proj = nn.Linear(config.hidden_dim, config.hidden_dim, bias=False)
        self.audio_o_proj = nn.Linear(config.hidden_dim, config.hidden_dim, bias=False)
        self.audio_layer_norm = nn.LayerNorm(config.hidden_dim)
        self.fc1 = nn.Linear(config.hidden_dim, config.query_generator_feedforward_dim)
        self.fc2 = nn.Linear(config.query_generator_feedforward_dim, config.hidden_dim)
        self.final_layer_norm = nn.LayerNorm(config.hidden_dim)

    def forward(self, hidden_states: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        # (frames, queries, hidden_dim), (frames, 1, hidden_dim) -> (frames, queries, hidden_dim)
        attended, _ = self.self_attn(hidden_states)
        hidden_states = self.self_attn_layer_norm(hidden_states + attended)
        hidden_states = self.audio_layer_norm(hidden_states + self.audio_o_proj(self.audio_v_proj(audio)))
        return self.final_layer_norm(hidden_states + self.fc2(nn.functional.gelu(self.fc1(hidden_states))))


class AVSegFormerQueryGenerator(nn.Module):
    """Makes queries of the sound of a frame."""

    def __init__(self, config: AVSegFormerConfig):
        super().__init__()
        self.query = nn.Embedding(config.num_queries, config.hidden_dim)
        self.layers = nn.ModuleList(
            AVSegFormerQueryGeneratorLayer(config) for _ in range(config.query_generator_layers)
        )

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        hidden_states = self.query.weight.expand(len(audio), -1, -1)
        for layer in self.layers:
            hidden_states = layer(hidden_states, audio)
        return hidden_states


class AVSegFormerDecoderLayer(GradientCheckpointingLayer):
    """Queries attend to one another and to the pixels of all levels; then a feed-forward network."""

    def __init__(self, config: AVSegFormerConfig):
        super().__init__()
        sizes = {"hidden_size": config.hidden_dim, "num_attention_heads": config.num_attention_heads}
        self.self_attn = DetrSelfAttention(config, **sizes, dropout=config.dropout)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_dim)
        self.cross_attn = DetrCrossAttention(config, **sizes, dropout=config.dropout)
        self.cross_attn_layer_norm = nn.LayerNorm(config.hidden_dim)
        self.fc1 = nn.Linear(config.hidden_dim, config.feedforward_dim)
        self.fc2 = nn.Linear(config.feedforward_dim, config.hidden_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.final_layer_norm = nn.LayerNorm(config.hidden_dim)

    def forward(
        self,
        hidden_states: torch.Tensor,  # (frames, queries, hidden_dim)
        memory: torch.Tensor,  # (frames, pixels, hidden_dim)
    ) -> torch.Tensor:
        attended, _ = self.self_attn(hidden_states)
        hidden_states = self.self_attn_layer_norm(hidden_states + self.dropout(attended))
        attended, _ = self.cross_attn(hidden_states, memory)
        hidden_states = self.cross_attn_layer_norm(hidden_states + self.dropout(attended))
        update = self.fc2(self.dropout(nn.functional.gelu(self.fc1(hidden_states))))
        return self.final_layer_norm(hidden_states + self.dropout(update))


class AVSegFormerMixer(nn.Module):
    """The sound attends to the mask features, and what it finds there scales their channels, by 0 to 1."""

    def __init__(self, config: AVSegFormerConfig):
        super().__init__()
        self.attention = DetrCrossAttention(config, config.hidden_dim, config.num_attention_heads, bias=False)
        self.attention.o_proj = nn.Linear(config.hidden_dim, config.hidden_dim)

    def forward(self, mask_features: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        # (frames, hidden_dim, h, w), (frames, 1, hidden_dim) -> (frames, hidden_dim, h, w)
        attended, _ = self.attention(audio, mask_features.flatten(2).mT)
        return mask_features * attended.sigmoid().mT[..., None]


class AVSegFormerMaskMLP(nn.Module):
    """From the masks of the queries to `hidden_dim` features, pixel by pixel."""

    def __init__(self, config: AVSegFormerConfig):
        super().__init__()
        self.conv1 = nn.Conv2d(config.num_queries, config.mask_mlp_dim, kernel_size=1)
        self.conv2 = nn.Conv2d(config.mask_mlp_dim, config.mask_mlp_dim, kernel_size=1)
        self.conv3 = nn.Conv2d(config.mask_mlp_dim, config.hidden_dim, kernel_size=1)

    def forward(self, masks: torch.Tensor) -> torch.Tensor:
        hidden_states = nn.functional.relu(self.conv1(masks))
        return self.conv3(nn.functional.relu(self.conv2(hidden_states)))


class AVSegFormerHead(nn.Module):
    """From queries and mask features at a quarter of a frame's size to logits at its full size."""

    def __init__(self, config: AVSegFormerConfig):
        super().__init__()
        first, second = config.head_hidden_sizes
        # CODEPATH: the released models for S4 and MS3 have a single logit, those for AVSS one for each label
        num_logits = 1 if config.num_labels == 2 else config.num_labels
        self.mask_mlp = AVSegFormerMaskMLP(config)
        self.conv1 = nn.Conv2d(config.hidden_dim, first, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(first, second, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(second, num_logits, kernel_size=1, bias=False)

    def forward(self, queries: torch.Tensor, mask_features: torch.Tensor) -> torch.Tensor:
        # (frames, queries, hidden_dim), (frames, hidden_dim, h, w) -> (frames, logits, 4 * h, 4 * w)
        masks = torch.einsum("nqc,nchw->nqhw", queries, mask_features)
        hidden_states = self.conv1(mask_features + self.mask_mlp(masks))
        hidden_states = nn.functional.interpolate(hidden_states, scale_factor=4, mode="bilinear", align_corners=False)
        return self.conv3(nn.functional.relu(self.conv2(hidden_states)))


@auto_docstring
class AVSegFormerPreTrainedModel(AudioVisualPreTrainedMixin, PreTrainedModel):
    config: AVSegFormerConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image", "audio")
    supports_gradient_checkpointing = True
    _no_split_modules = ["AVSegFormerEncoderLayer", "AVSegFormerQueryGeneratorLayer", "AVSegFormerDecoderLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": AVSegFormerDecoderLayer,
        "attentions": OutputRecorder(DetrSelfAttention, index=1, layer_name="decoder_layers"),
        "cross_attentions": OutputRecorder(DetrCrossAttention, index=1, layer_name="decoder_layers"),
    }

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        # Linear layers as in Deformable DETR, the rest at torch's defaults.
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            if isinstance(module, nn.Linear):
                init.xavier_uniform_(module.weight)
            else:
                init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = module.weight[0].numel() ** -0.5
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight)
        elif isinstance(module, DeformableAttention):
            # Each head looks in a direction of its own, the farther the higher the point's number.
            angles = torch.arange(module.n_heads) * (2.0 * math.pi / module.n_heads)
            directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
            directions = directions / directions.abs().amax(dim=-1, keepdim=True)
            distances = torch.arange(1, module.n_points + 1)[:, None]
            offsets = (directions[:, None, None] * distances).expand(-1, module.n_levels, -1, -1)
            init.zeros_(module.sampling_offsets.weight)
            init.copy_(module.sampling_offsets.bias, offsets.flatten())
            init.zeros_(module.attention_weights.weight)
            init.zeros_(module.attention_weights.bias)


@auto_docstring(
    custom_intro="""
    AVSegFormer without a head: backbone, encoder, query generator, decoder and mixer.
    """
)
class AVSegFormerModel(AudioVisualModelMixin, AVSegFormerPreTrainedModel):
    def __init__(self, config: AVSegFormerConfig):
        # Again, because `from_pretrained(..., field=value)` sets fields after the config has checked itself.
        config.validate_architecture()
        super().__init__(config)
        self.backbone = build_backbone(config.backbone_config)
        # CODEPATH: checkpoints converted without VGGish take embeddings
        self.audio_encoder = VGGishModel(config.audio_config) if config.audio_config is not None else None
        self.audio_projection = nn.Linear(config.audio_embedding_dim, config.hidden_dim)
        self.input_projections = nn.ModuleList(
            AVSegFormerConvNorm(config, channels) for channels in self.backbone.channels
        )
        self.encoder = AVSegFormerEncoder(config)
        self.query_generator = AVSegFormerQueryGenerator(config)
        self.query = nn.Embedding(config.num_queries, config.hidden_dim)
        self.decoder_layers = nn.ModuleList(AVSegFormerDecoderLayer(config) for _ in range(config.decoder_layers))
        self.lateral_projection = AVSegFormerConvNorm(config, config.hidden_dim)
        self.mask_projection = AVSegFormerConvNorm(config, config.hidden_dim, kernel_size=3)
        self.mixer = AVSegFormerMixer(config)

        self.post_init()

    def get_mask_features(self, feature_maps: list[torch.Tensor], memory: torch.Tensor) -> torch.Tensor:
        """
        Mask features before the mixer.

        Args:
            feature_maps (`list[torch.Tensor]`):
                Projected maps of the backbone, each `(frames, hidden_dim, h, w)`; the first is used.
            memory (`torch.Tensor` of shape `(frames, pixels, hidden_dim)`):
                Output of the encoder, of which the pixels of stride 8 are used.

        Returns:
            `torch.Tensor` of shape `(frames, hidden_dim, height / 4, width / 4)`.
        """
        height, width = feature_maps[1].shape[-2:]
        refined = memory[:, : height * width].mT.unflatten(2, (height, width))
        size = feature_maps[0].shape[-2:]
        refined = nn.functional.interpolate(refined, size=size, mode="bilinear", align_corners=False)
        return nn.functional.relu(self.mask_projection(self.lateral_projection(feature_maps[0]) + refined))

    @merge_with_config_defaults
    @capture_outputs
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        input_features: torch.FloatTensor | None = None,
        audio_embeddings: torch.FloatTensor | None = None,
        prompt_masks: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> AVSegFormerModelOutput:
        r"""
        pixel_values (`torch.FloatTensor` of shape `(num_frames, num_channels, height, width)`):
            Frames of one clip, or of several clips one after the other; height and width are multiples of 32.
        input_features (`torch.FloatTensor` of shape `(num_frames, 96, 64)`, *optional*):
            Log-mel patches of [`VGGishFeatureExtractor`], one per frame.
        audio_embeddings (`torch.FloatTensor` of shape `(num_frames, audio_embedding_dim)`, *optional*):
            Audio embeddings, one per frame, in place of `input_features`.
        prompt_masks (`torch.FloatTensor` of shape `(num_frames, prompt_height, prompt_width)`, *optional*):
            Masks of a localizer in [0, 1], of any resolution. Needed by a mask-prompted model
            (`config.use_mask_prompt=True`), refused by any other.
        """
        self.check_inputs(pixel_values, input_features, audio_embeddings, prompt_masks)
        check_frame_size(pixel_values, FEATURE_STRIDES[-1])
        if audio_embeddings is None:
            audio_embeddings = self.get_audio_embeddings(input_features)
        audio = self.audio_projection(audio_embeddings)[:, None]  # (frames, 1, hidden_dim)

        backbone_maps = self.backbone(pixel_values).feature_maps
        feature_maps = [project(feature_map) for project, feature_map in zip(self.input_projections, backbone_maps)]
        memory = self.encoder(feature_maps[1:])
        generated_queries = self.query_generator(audio)
        hidden_states = generated_queries + self.query.weight
        for layer in self.decoder_layers:
            hidden_states = layer(hidden_states, memory)

        raw_mask_features = self.get_mask_features(feature_maps, memory)
        unprompted_mask_features = self.mixer(raw_mask_features, audio)
        mask_features = unprompted_mask_features
        if prompt_masks is not None:
            prompt = resize_prompt(prompt_masks, mask_features.shape[-2:]).to(mask_features)
            # CODEPATH: "after_mixer" is what the Stepping Stones paper says; "before_mixer" is the other reading of it
            if self.config.mask_prompt_position == "after_mixer":
                mask_features = mask_features + prompt
            else:
                mask_features = self.mixer(raw_mask_features + prompt, audio)
        return AVSegFormerModelOutput(
            last_hidden_state=hidden_states,
            mask_features=mask_features,
            unprompted_mask_features=unprompted_mask_features,
            generated_queries=generated_queries,
            encoder_last_hidden_state=memory,
            pair_features=self.get_pair_features(audio[:, 0], backbone_maps[-1]),
        )


@auto_docstring(
    custom_intro="""
    AVSegFormer for audio-visual segmentation: a label for each pixel, from frames and their sound.

    With two labels (background, sounding) it solves S4 and MS3 and is a first stage of Stepping Stones; with 71 labels
    it solves AVSS, with `config.use_mask_prompt` as the second stage, prompted with the masks of the first.
    """
)
class AVSegFormerForAudioVisualSegmentation(AudioVisualSegmentationMixin, AVSegFormerPreTrainedModel):
    def __init__(self, config: AVSegFormerConfig):
        super().__init__(config)
        self.model = AVSegFormerModel(config)
        self.head = AVSegFormerHead(config)
        self.criterion = AVSegFormerLoss(config)
        # CODEPATH: released models have no pair loss
        self.pair_head = make_pair_head(config, config.hidden_dim, self.model.backbone.channels[-1])

        self.post_init()

    def get_loss_normalizers(self, batch: dict) -> torch.FloatTensor:
        r"""
        What the loss of a batch is divided by: see [`AVSegFormerLoss`].

        Args:
            batch (`dict`):
                Inputs of the model, of which `labels` are read.

        Returns:
            `torch.FloatTensor` of shape `(1,)`: the number of annotated frames.
        """
        return self.add_pair_normalizer(self.criterion.get_normalizers(batch["labels"]), batch["labels"])

    def load_backbone_weights(self, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> list[str]:
        """
        Starts the backbone from weights trained on ImageNet, such as `OpenGVLab/pvt_v2_b5` or `microsoft/resnet-50`,
        or from the files of the official PVT-v2 and of torchvision: see [`~models.backbones.load_backbone_weights`].
        """
        load_backbone_weights(self.model.backbone, pretrained_model_name_or_path, **kwargs)
        return [name for name in self.state_dict() if not name.startswith("model.backbone.")]

    def start_training_phase(self, phase: int) -> list[str]:
        """
        In the first phase of the released recipe the backbone is frozen, in the second one it trains along: see
        [`AudioVisualSegmentationMixin.start_training_phase`]. Batch norms follow their batches in both. The released
        program continues with the same weights and the same optimizer.
        """
        self.model.backbone.requires_grad_(phase == 2)
        return []

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        input_features: torch.FloatTensor | None = None,
        audio_embeddings: torch.FloatTensor | None = None,
        prompt_masks: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> AVSegFormerForAudioVisualSegmentationOutput:
        r"""
        pixel_values (`torch.FloatTensor` of shape `(num_frames, num_channels, height, width)`):
            Frames of one clip, or of several clips one after the other; height and width are multiples of 32.
        input_features (`torch.FloatTensor` of shape `(num_frames, 96, 64)`, *optional*):
            Log-mel patches of [`VGGishFeatureExtractor`], one per frame.
        audio_embeddings (`torch.FloatTensor` of shape `(num_frames, audio_embedding_dim)`, *optional*):
            Audio embeddings, one per frame, in place of `input_features`.
        prompt_masks (`torch.FloatTensor` of shape `(num_frames, prompt_height, prompt_width)`, *optional*):
            Masks of a localizer in [0, 1], of any resolution. Needed by a mask-prompted model
            (`config.use_mask_prompt=True`), refused by any other.
        labels (`torch.LongTensor` of shape `(num_frames, label_height, label_width)`, *optional*):
            Class of each pixel, or 255 where there is none. A frame of nothing but 255 is not annotated, and not
            supervised.
        num_items_in_batch (`torch.FloatTensor` of shape `(1,)`, *optional*):
            Normalizer of the loss over a whole optimizer step, see `get_loss_normalizers`. Defaults to that of the
            frames at hand.

        Example:

        ```python
        >>> import torch
        >>> from stepping_stones_hf import AVSegFormerConfig, AVSegFormerForAudioVisualSegmentation

        >>> backbone_config = {"model_type": "resnet", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
        >>> model = AVSegFormerForAudioVisualSegmentation(AVSegFormerConfig(backbone_config=backbone_config)).eval()
        >>> with torch.no_grad():
        ...     outputs = model(pixel_values=torch.randn(2, 3, 64, 64), audio_embeddings=torch.randn(2, 128))
        >>> outputs.logits.shape
        torch.Size([2, 1, 64, 64])

        ```
        """
        outputs: AVSegFormerModelOutput = self.model(
            pixel_values=pixel_values,
            input_features=input_features,
            audio_embeddings=audio_embeddings,
            prompt_masks=prompt_masks,
            **kwargs,
        )
        logits = self.head(outputs.last_hidden_state, outputs.mask_features)

        pair_logits = self.get_pair_logits(outputs.pair_features)
        loss, loss_dict = None, None
        if labels is not None:
            num_items_in_batch, num_pairs = self.split_normalizers(num_items_in_batch)
            mask_features = outputs.mask_features
            # CODEPATH: training with true masks would tell the mix loss its answer
            if not self.config.mix_loss_sees_prompt:
                mask_features = outputs.unprompted_mask_features
            loss_dict = self.criterion(logits, labels, mask_features, num_items_in_batch)
            loss_dict |= self.get_pair_loss(pair_logits, labels, num_pairs)
            loss = sum(loss_dict.values())

        return AVSegFormerForAudioVisualSegmentationOutput(
            loss=loss,
            loss_dict=loss_dict,
            logits=logits,
            mask_features=outputs.mask_features,
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            pair_logits=pair_logits,
        )


__all__ = ["AVSegFormerForAudioVisualSegmentation", "AVSegFormerModel", "AVSegFormerPreTrainedModel"]
