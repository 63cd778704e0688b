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
PyTorch AAVS, the model of *Stepping Stones: A Progressive Training Strategy for Audio-Visual Semantic Segmentation*
(Ma et al., ECCV 2024, https://huggingface.co/papers/2407.11820), section 3.3 and Fig. 2.

AAVS is Mask2Former with adapters in the attention modules, object queries that hear (the adaptive audio query) and, in
the second stage, three uses of the first stage's mask: mask fusion, the robust audio-aware key and the initial
attention mask. Frames are independent of one another: frame t is segmented with second t of the sound, so the batch
axis is frames, of any number of clips.

Where the paper and the released program differ we follow the program, which the released checkpoints fit: the decoder
has nine layers, not twelve; thresholds are inclusive; the adapters of the attention modules replace their input and
have no residual connection; drop path is constant over depth.

The backbone, the pixel decoder and parts of the loss are those of transformers.
"""

import math
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import SwinBackbone
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoder,
    Mask2FormerPixelDecoderEncoderLayer,
    Mask2FormerPixelDecoderOutput,
    Mask2FormerPreTrainedModel,
    Mask2FormerSinePositionEmbedding,
)
from transformers.models.swin.modeling_swin import (
    SwinAttention,
    SwinDropPath,
    SwinLayer,
    SwinMLP,
    SwinStage,
    eager_attention_forward,
)
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ..cpu_inference import is_cpu_inference, linear
from ..deformable_attention import DeformableAttention, MultiScaleDeformableAttention, get_reference_points
from ..loss_mask_classification import MaskClassificationLoss
from ..modeling_base import (
    AudioVisualModelMixin,
    AudioVisualPreTrainedMixin,
    AudioVisualSegmentationMixin,
    call_directly,
    checkpoint_layer,
    init_as_torch,
    resize_prompt,
)
from ..pair_loss import make_pair_head
from ..vggish import VGGishModel
from .configuration_aavs import AAVSConfig
from .recipe_aavs import BACKBONE_ADAPTERS, renew_backbone_adapters, switch_off_backbone_adapters


# The decoder visits the feature maps of strides 32, 16 and 8 in turn.
NUM_FEATURE_LEVELS = 3

# Where nothing learns, CPUs compute layers of Swin on so many bytes at a time, as many frames as that is: their
# MLPs' are four times as many. What is larger leaves the caches, and above 32 MB memory is new each time.
MAX_BYTES = 7 * 2**20

# So many small matrices are multiplied at a time.
MAX_PRODUCTS = 32


@auto_docstring(
    custom_intro="""
    Output of [`AAVSModel`]: object queries and the mask features that they are compared with.
    """
)
@dataclass
class AAVSModelOutput(ModelOutput):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(num_frames, num_queries, hidden_dim)`):
        Output of the decoder's last layer.
    query_states (`tuple(torch.FloatTensor)`):
        Normalized states of the queries, each `(num_frames, num_queries, hidden_dim)`: before the decoder's first
        layer and after each layer.
    mask_embeddings (`tuple(torch.FloatTensor)`):
        Mask embeddings that were computed from `query_states`, each `(num_frames, num_queries, mask_feature_size)`.
        Their product with `mask_features` gives the mask logits.
    mask_features (`torch.FloatTensor` of shape `(num_frames, mask_feature_size, height / 4, width / 4)`):
        Mask features, with the mask prompt added where `config.mask_prompt_fusion` is set.
    hidden_states (`tuple(torch.FloatTensor)`, *optional*, returned with `output_hidden_states=True`):
        The decoder's input and the output of each of its layers, each `(num_frames, num_queries, hidden_dim)`.
    attentions (`tuple(torch.FloatTensor)`, *optional*, returned with `output_attentions=True` and eager attention):
        Self-attention weights of the decoder's layers, each `(num_frames, num_heads, num_queries, num_queries)`.
    cross_attentions (`tuple(torch.FloatTensor)`, *optional*, as `attentions`):
        Cross-attention weights of the decoder's layers, each `(num_frames, num_heads, num_queries, level_height *
        level_width)`.
    pair_features (`tuple(torch.FloatTensor)`, *optional*, returned where `config.pair_loss_weight` is not 0):
        The projected sound and the mean of the backbone's last feature map, `(num_frames, channels)` each: what the
        pair loss compares.
    """

    last_hidden_state: torch.FloatTensor | None = None
    query_states: tuple[torch.FloatTensor, ...] | None = None
    mask_embeddings: tuple[torch.FloatTensor, ...] | None = None
    mask_features: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    pair_features: tuple[torch.FloatTensor, torch.FloatTensor] | None = None


@auto_docstring(
    custom_intro="""
    Output of [`AAVSForAudioVisualSegmentation`]; [`~AAVSImageProcessor.post_process_semantic_segmentation`] turns it
    into label maps.
    """
)
@dataclass
class AAVSForAudioVisualSegmentationOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `()`, *optional*, returned when `mask_labels` and `class_labels` are given):
        Sum of the terms of `loss_dict`.
    loss_dict (`dict[str, torch.FloatTensor]`, *optional*, returned when `mask_labels` and `class_labels` are given):
        Weighted terms of the loss: `loss_cross_entropy`, `loss_mask`, `loss_dice` and, with
        `config.use_auxiliary_loss`, the same of the earlier predictions with `_0`, `_1`, ... appended.
    class_queries_logits (`torch.FloatTensor` of shape `(num_frames, num_queries, num_labels + 1)`):
        Class logits of the queries; the last column is "no object".
    masks_queries_logits (`torch.FloatTensor` of shape `(num_frames, num_queries, height / 4, width / 4)`):
        Mask logits of the queries; heights and widths are rounded up.
    auxiliary_logits (`list[dict[str, torch.FloatTensor]]`, *optional*, returned with `output_auxiliary_logits=True`):
        `class_queries_logits` and `masks_queries_logits` of the earlier predictions, first to last.
    last_hidden_state (`torch.FloatTensor` of shape `(num_frames, num_queries, hidden_dim)`):
        Output of the decoder's last layer.
    hidden_states (`tuple(torch.FloatTensor)`, *optional*, returned with `output_hidden_states=True`):
        The decoder's input and the output of each of its layers, each `(num_frames, num_queries, hidden_dim)`.
    attentions (`tuple(torch.FloatTensor)`, *optional*, returned with `output_attentions=True` and eager attention):
        Self-attention weights of the decoder's layers, each `(num_frames, num_heads, num_queries, num_queries)`.
    cross_attentions (`tuple(torch.FloatTensor)`, *optional*, as `attentions`):
        Cross-attention weights of the decoder's layers, each `(num_frames, num_heads, num_queries, level_height *
        level_width)`.
    pair_logits (`torch.FloatTensor` of shape `(num_frames,)`, *optional*, with `config.pair_loss_weight`):
        Whether a frame's sound goes with what is seen: a cosine, whose sigmoid is the probability that it does.
    """

    loss: torch.FloatTensor | None = None
    loss_dict: dict[str, torch.FloatTensor] | None = None
    class_queries_logits: torch.FloatTensor | None = None
    masks_queries_logits: torch.FloatTensor | None = None
    auxiliary_logits: list[dict[str, torch.FloatTensor]] | None = None
    last_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None
    pair_logits: torch.FloatTensor | None = None


class AAVSAdapter(nn.Module):
    """Bottleneck of two linear layers, without a residual connection."""

    def __init__(self, hidden_size: int, reduction: int):
        super().__init__()
        self.down_proj = nn.Linear(hidden_size, hidden_size // reduction)
        self.up_proj = nn.Linear(hidden_size // reduction, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.up_proj(nn.functional.relu(self.down_proj(hidden_states)))


class AAVSAdapterMixin:
    """
    A module that ends in a linear layer, named `adapted`, and an adapter after it. The adapter stands beside the
    layer, which stays what it is for all that look for linear layers: LoRA, quantization.
    """

    adapted: str

    def named_children(self):
        # Initial weights are drawn child by child, those of the adapter before those of the layer: an order that
        # cannot change without changing what a seed stands for.
        children = dict(super().named_children())
        adapter = children.pop("adapter")
        for name, module in children.items():
            if name == self.adapted:
                yield "adapter", adapter
            yield name, module

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args, **kwargs) -> None:
        # As of before, e.g. of a run that is resumed: the adapter was part of the layer, and the layer always there.
        for name in [name for name in state_dict if name.startswith(f"{prefix}{self.adapted}.")]:
            part = name.removeprefix(f"{prefix}{self.adapted}.")
            if part.startswith("adapter."):
                state_dict[f"{prefix}{part}"] = state_dict.pop(name)
            elif isinstance(getattr(self, self.adapted), nn.Identity):
                del state_dict[name]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class AAVSSwinAttention(AAVSAdapterMixin, SwinAttention):
    adapted = "o_proj"

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        # hidden_states: (frames * windows, places, channels), attention_mask: (windows, places, places)
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden_states.dtype
        # Eager attention has weights to return. trf-ignore: TRF051
        in_products = dtype == torch.bfloat16 and self.config._attn_implementation == "sdpa"
        if in_products and is_cpu_inference(self, hidden_states):
            hidden_states, attn_weights = self.o_proj(self.attend_in_products(hidden_states, attention_mask)), None
        else:
            hidden_states, attn_weights = super().forward(hidden_states, attention_mask, **kwargs)
        return hidden_states + self.adapter(hidden_states), attn_weights

    def attend_in_products(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """
        The attention before its output projection, some windows at a time: torch's kernel for half precision takes
        twice as long for the small matrices of windows as their products and softmax do.
        """
        num_windows, num_heads = len(hidden_states), self.num_attention_heads
        query, key, value = (
            projection(hidden_states).unflatten(-1, (num_heads, -1)).transpose(1, 2).flatten(0, 1)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )  # (frames * windows * heads, places, head_dim)
        at_once = max(1, MAX_PRODUCTS // num_heads)
        bias = self.relative_position_bias().to(query.dtype)  # (1, heads, places, places)
        if attention_mask is None:
            biases = [bias.expand(at_once, -1, -1, -1)]
        else:
            at_once = max(number for number in range(1, at_once + 1) if len(attention_mask) % number == 0)
            biases = (bias + attention_mask[:, None].to(query.dtype)).split(at_once)
        biases = [bias.flatten(0, 1) for bias in biases]
        attended, groups = [], zip(*(states.split(at_once * num_heads) for states in (query, key, value)))
        for index, (query, key, value) in enumerate(groups):
            bias = biases[index % len(biases)][: len(query)]
            weights = torch.baddbmm(bias, query, key.mT, alpha=self.scaling)
            attended.append(torch.bmm(weights.float().softmax(dim=-1).to(value.dtype), value))
        return torch.cat(attended).unflatten(0, (num_windows, num_heads)).transpose(1, 2).flatten(2)


class AAVSSwinMLP(AAVSAdapterMixin, SwinMLP):
    adapted = "fc2"

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = super().forward(hidden_states)
        return hidden_states + self.adapter(hidden_states)


class AAVSDeformableAttention(AAVSAdapterMixin, DeformableAttention):
    """Without a residual connection: all that the attention gathered passes through the bottleneck."""

    adapted = "output_proj"

    def forward(self, *args) -> torch.Tensor:
        return self.adapter(super().forward(*args))


def add_adapter(module: nn.Module, adapted_class: type[AAVSAdapterMixin], reduction: int) -> None:
    """Gives a module of transformers an adapter."""
    layer = getattr(module, adapted_class.adapted)
    # A new layer, since the random numbers that it draws are part of what a seed stands for.
    setattr(module, adapted_class.adapted, nn.Linear(layer.in_features, layer.out_features))
    names = [name for name, _ in module.named_children()]
    module.adapter = AAVSAdapter(layer.out_features, reduction)
    module.__class__ = adapted_class
    # Right after the layer: the order of the parameters, too, is part of it, by the rounding of their norm.
    for name in names[names.index(adapted_class.adapted) + 1 :]:
        module._modules[name] = module._modules.pop(name)


class AAVSSwinLayer(SwinLayer):
    def forward(
        self, hidden_states: torch.Tensor, input_dimensions: tuple[int, int], **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        # hidden_states: (frames, height * width, channels)
        forward = super().forward
        # Compilers are not to see the size.
        if not is_cpu_inference(self, hidden_states) or len(hidden_states) <= 1 or hidden_states.nbytes <= MAX_BYTES:
            return forward(hidden_states, input_dimensions, **kwargs)
        num_portions = min(len(hidden_states), math.ceil(hidden_states.nbytes / MAX_BYTES))
        outputs = [forward(frames, input_dimensions, **kwargs) for frames in hidden_states.chunk(num_portions)]
        hidden_states, attentions = zip(*outputs)
        return torch.cat(hidden_states), None if attentions[0] is None else torch.cat(attentions)


class AAVSSwinBackbone(SwinBackbone):
    """Swin with an adapter after the attention and after the MLP of each block."""

    def __init__(self, config: AAVSConfig):
        super().__init__(config.backbone_config)
        # Computed from the last feature map and read by nobody.
        self.swin.layernorm = nn.Identity()
        for stage in self.swin.encoder.layers:
            for block in stage.blocks:
                block.__class__ = AAVSSwinLayer
                add_adapter(block.attention, AAVSSwinAttention, config.adapter_reduction)
                add_adapter(block.mlp, AAVSSwinMLP, config.adapter_reduction)
                # The released program's rate is the same in every block; transformers' grows with depth.
                block.drop_path = SwinDropPath(self.config.drop_path_rate)


class AAVSPixelDecoderLayer(GradientCheckpointingLayer, Mask2FormerPixelDecoderEncoderLayer):
    """A deformable attention layer whose attention ends in an adapter."""

    def __init__(self, config: AAVSConfig):
        super().__init__(config)
        self.self_attn.attn = MultiScaleDeformableAttention()
        add_adapter(self.self_attn, AAVSDeformableAttention, config.adapter_reduction)
        # CODEPATH: the released checkpoint of the second stage projects, those of the first stage do not
        if not config.apply_output_projection:
            self.self_attn.output_proj = nn.Identity()

    def forward(
        self,
        hidden_states: torch.Tensor,  # (frames, pixels, feature_size), one map after the other
        position_embeddings: torch.Tensor,  # (frames, pixels, feature_size)
        reference_points: torch.Tensor,  # (1, pixels, levels, 2)
        spatial_shapes: list[tuple[int, int]],
    ) -> torch.Tensor:
        dropout = partial(nn.functional.dropout, p=self.dropout, training=self.training)
        attended = self.self_attn(hidden_states, position_embeddings, reference_points, spatial_shapes)
        hidden_states = self.self_attn_layer_norm(hidden_states + dropout(attended))
        update = dropout(nn.functional.relu(self.fc1(hidden_states)), p=self.activation_dropout)
        return self.final_layer_norm(hidden_states + dropout(self.fc2(update)))


class AAVSPixelDecoder(Mask2FormerPixelDecoder):
    """Mask2Former's pixel decoder with adapters, for frames without padding."""

    def __init__(self, config: AAVSConfig, feature_channels: list[int]):
        super().__init__(config, feature_channels)
        self.encoder.layers = nn.ModuleList([AAVSPixelDecoderLayer(config) for _ in range(config.encoder_layers)])
        # transformers' own is on the CPU even under `torch.device("meta")`.
        self.level_embed = nn.Parameter(torch.empty(self.level_embed.shape))

    def forward(self, feature_maps: tuple[torch.Tensor, ...]) -> Mask2FormerPixelDecoderOutput:
        # each (frames, channels, h, w), of strides 4 to 32
        if is_cpu_inference(self, *feature_maps) and len(feature_maps[0]) > 1:
            frames = [self.forward(maps) for maps in zip(*(feature_map.split(1) for feature_map in feature_maps))]
            return Mask2FormerPixelDecoderOutput(
                multi_scale_features=tuple(
                    torch.cat(level) for level in zip(*(frame.multi_scale_features for frame in frames))
                ),
                mask_features=torch.cat([frame.mask_features for frame in frames]),
            )
        levels = [
            projection(feature_map) for projection, feature_map in zip(self.input_projections, feature_maps[::-1])
        ]
        spatial_shapes = [tuple(level.shape[-2:]) for level in levels]
        # For each frame, though they are the same: the order in which gradients are summed is part of a training.
        position_embeddings = [
            self.position_embedding(level.shape, level.device, level.dtype).flatten(2).mT + embedding
            for level, embedding in zip(levels, self.level_embed)
        ]
        position_embeddings = torch.cat(position_embeddings, dim=1)
        reference_points = get_reference_points(spatial_shapes, position_embeddings)
        hidden_states = torch.cat([level.flatten(2).mT for level in levels], dim=1)
        for layer in self.encoder.layers:
            hidden_states = layer(hidden_states, position_embeddings, reference_points, spatial_shapes)
        outputs = [
            pixels.mT.unflatten(2, shape)
            for pixels, shape in zip(hidden_states.split([h * w for h, w in spatial_shapes], dim=1), spatial_shapes)
        ]
        mask_features = outputs[-1]
        for lateral, convolution, feature_map in zip(
            self.lateral_convolutions, self.output_convolutions, feature_maps[: self.num_fpn_levels][::-1]
        ):
            larger = nn.functional.interpolate(
                mask_features, size=feature_map.shape[-2:], mode="bilinear", align_corners=False
            )
            mask_features = convolution(lateral(feature_map) + larger)
        return Mask2FormerPixelDecoderOutput(
            multi_scale_features=tuple(outputs), mask_features=self.mask_projection(mask_features)
        )


class AAVSAudioProjector(nn.Module):
    """From audio embeddings to the decoder's width."""

    def __init__(self, config: AAVSConfig):
        super().__init__()
        self.linear_1 = nn.Linear(config.audio_embedding_dim, config.audio_projection_dim)
        self.linear_2 = nn.Linear(config.audio_projection_dim, config.hidden_dim)

    def forward(self, audio_embeddings: torch.Tensor) -> torch.Tensor:
        return self.linear_2(nn.functional.relu(self.linear_1(audio_embeddings)))


class AAVSSelfAttention(AAVSAdapterMixin, nn.Module):
    """Attention among the queries of a frame; ends in an adapter without a residual connection."""

    adapted = "out_proj"

    def __init__(self, config: AAVSConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_dim // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.dropout
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_dim, config.hidden_dim)
        self.k_proj = nn.Linear(config.hidden_dim, config.hidden_dim)
        self.v_proj = nn.Linear(config.hidden_dim, config.hidden_dim)
        self.out_proj = nn.Linear(config.hidden_dim, config.hidden_dim)
        self.adapter = AAVSAdapter(config.hidden_dim, config.adapter_reduction)
        # CODEPATH: the released checkpoint of the second stage projects, those of the first stage do not
        if not config.apply_output_projection:
            self.out_proj = nn.Identity()

    def forward(
        self, hidden_states: torch.Tensor, position_embeddings: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        input_shape = hidden_states.shape[:-1]
        hidden_shape = (*input_shape, -1, self.head_dim)
        # Position embeddings take part in queries and keys, not in values.
        with_position = hidden_states + position_embeddings
        query = self.q_proj(with_position).view(hidden_shape).transpose(1, 2)
        key = self.k_proj(with_position).view(hidden_shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(hidden_shape).transpose(1, 2)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attn_output, attn_weights = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask=None,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.adapter(self.out_proj(attn_output.reshape(*input_shape, -1))), attn_weights


class AAVSMaskedCrossAttention(nn.Module):
    """
    Attention of the queries to the places of one feature map that the attention mask leaves open. The three input
    projections are packed as in `torch.nn.MultiheadAttention`, so that checkpoints of Mask2Former fit name by name.
    """

    def __init__(self, config: AAVSConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_dim // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.dropout
        self.is_causal = False
        self.in_proj_weight = nn.Parameter(torch.empty(3 * config.hidden_dim, config.hidden_dim))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * config.hidden_dim))
        self.out_proj = nn.Linear(config.hidden_dim, config.hidden_dim)

    def forward(
        self,
        hidden_states: torch.Tensor,  # (frames, queries, hidden_dim)
        query_position_embeddings: torch.Tensor,  # (queries, hidden_dim)
        memory: torch.Tensor,  # (frames, places, hidden_dim)
        key_position_embeddings: torch.Tensor,  # (frames, places, hidden_dim)
        attention_mask: torch.Tensor,  # (frames, 1, queries, places), added to the attention logits
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        input_shape = hidden_states.shape[:-1]
        inputs = (hidden_states + query_position_embeddings, memory + key_position_embeddings, memory)
        project = linear if is_cpu_inference(self, *inputs, self.in_proj_weight) else nn.functional.linear
        query, key, value = (
            project(x, weight, bias).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for x, weight, bias in zip(inputs, self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3))
        )

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attn_output, attn_weights = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.out_proj(attn_output.reshape(*input_shape, -1)), attn_weights


class AAVSDecoderLayer(GradientCheckpointingLayer):
    """Masked cross-attention, self-attention and a feed-forward network, each with a residual and a norm after it."""

    def __init__(self, config: AAVSConfig):
        super().__init__()
        self.cross_attn = AAVSMaskedCrossAttention(config)
        self.cross_attn_layer_norm = nn.LayerNorm(config.hidden_dim)
        self.self_attn = AAVSSelfAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(config.hidden_dim)
        self.fc1 = nn.Linear(config.hidden_dim, config.dim_feedforward)
        self.fc2 = nn.Linear(config.dim_feedforward, config.hidden_dim)
        self.activation_fn = ACT2FN[config.activation_function]
        self.dropout = nn.Dropout(config.dropout)
        self.final_layer_norm = nn.LayerNorm(config.hidden_dim)

    def forward(
        self,
        hidden_states: torch.Tensor,
        query_position_embeddings: torch.Tensor,
        memory: torch.Tensor,
        key_position_embeddings: torch.Tensor,
        attention_mask: torch.Tensor,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        residual = hidden_states
        hidden_states, _ = self.cross_attn(
            hidden_states, query_position_embeddings, memory, key_position_embeddings, attention_mask, **kwargs
        )
        hidden_states = self.cross_attn_layer_norm(residual + self.dropout(hidden_states))

        residual = hidden_states
        hidden_states, _ = self.self_attn(hidden_states, query_position_embeddings, **kwargs)
        hidden_states = self.self_attn_layer_norm(residual + self.dropout(hidden_states))

        residual = hidden_states
        hidden_states = self.fc2(self.dropout(self.activation_fn(self.fc1(hidden_states))))
        return self.final_layer_norm(residual + self.dropout(hidden_states))


class AAVSAudioQuery(nn.Module):
    """
    Object queries that hear (section 3.3, *adaptive audio query generator*). With prototypes `P`, which are the
    queries' position embeddings, object queries `Q` and a frame's audio `a`, query i starts as

        Q_a^i = cos(P^i, a) * a + Q^i

    or, with `audio_query="shared"`, as `a + Q^i` (Table 3, origin audio query).
    """

    def __init__(self, config: AAVSConfig):
        super().__init__()
        self.audio_query = config.audio_query
        self.queries_embedder = nn.Embedding(config.num_queries, config.hidden_dim)
        self.queries_features = nn.Embedding(config.num_queries, config.hidden_dim)

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        audio = audio[:, None]  # (frames, 1, hidden_dim)
        # CODEPATH: all released checkpoints are "adaptive"; "shared" is the ablation of Table 3
        if self.audio_query == "adaptive":
            similarity = nn.functional.cosine_similarity(self.queries_embedder.weight, audio, dim=-1)
            audio = similarity[..., None] * audio
        return self.queries_features.weight + audio  # (frames, queries, hidden_dim)


class AAVSRobustAudioAwareKey(nn.Module):
    """
    Says in the keys of the cross-attention, not in the values, whether a place is silent, uncertain or sounding
    according to the first stage (section 3.3, *robust audio-aware key*).
    """

    def __init__(self, config: AAVSConfig):
        super().__init__()
        self.silence_threshold = config.prompt_silence_threshold
        self.sounding_threshold = config.prompt_sounding_threshold
        self.silence_embed = nn.Embedding(1, config.hidden_dim)
        self.uncertain_embed = nn.Embedding(1, config.hidden_dim)
        self.sounding_embed = nn.Embedding(1, config.hidden_dim)

    def forward(self, key_position_embeddings: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        prompt = prompt.flatten(1)[..., None]  # (frames, places, 1)
        token = torch.where(prompt >= self.sounding_threshold, self.sounding_embed.weight, self.uncertain_embed.weight)
        token = torch.where(prompt <= self.silence_threshold, self.silence_embed.weight, token)
        return key_position_embeddings + token


@auto_docstring
class AAVSPreTrainedModel(AudioVisualPreTrainedMixin, Mask2FormerPreTrainedModel):
    config: AAVSConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image", "audio")
    supports_gradient_checkpointing = True
    _no_split_modules = ["AAVSSwinLayer", "AAVSPixelDecoderLayer", "AAVSDecoderLayer"]
    # In checkpoints of models without output projections they came along and did nothing.
    _keys_to_ignore_on_load_unexpected = [r"self_attn\.(out|output)_proj\."]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": AAVSDecoderLayer,
        "attentions": OutputRecorder(AAVSSelfAttention, index=1),
        "cross_attentions": OutputRecorder(AAVSMaskedCrossAttention, index=1),
    }

    def _set_gradient_checkpointing(self, enable=True, gradient_checkpointing_func=checkpoint, **kwargs):
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **kwargs)
        for module in self.modules():
            # Stages say yes and leave it to their blocks: otherwise each block would be computed a third time.
            if isinstance(module, SwinStage):
                module._gradient_checkpointing_func = call_directly
            # While the way without reentry runs a layer it builds the layer's graph, whose small nodes stay and settle
            # in what the layer's large tensors leave behind on the heap: no tensor of the next block fits there any
            # more. With reentry there is no graph until the backward pass.
            elif isinstance(module, SwinLayer):
                function = partial(gradient_checkpointing_func, use_reentrant=True)
                module._gradient_checkpointing_func = partial(checkpoint_layer, module, function)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, AAVSPixelDecoder):
            # As transformers does since 5.23.
            init.normal_(module.level_embed, std=1.0)
        # CODEPATH: the released checkpoints of the first stage have no projection, which transformers initializes
        elif isinstance(module, AAVSDeformableAttention) and not self.config.apply_output_projection:
            identity, module.output_proj = module.output_proj, nn.Linear(1, 1)
            super()._init_weights(module)
            module.output_proj = identity
        else:
            super()._init_weights(module)
        if isinstance(module, AAVSDecoderLayer):
            for parameter in module.parameters():
                if parameter.dim() > 1:
                    init.xavier_uniform_(parameter, gain=self.config.init_xavier_std)
            init.zeros_(module.cross_attn.in_proj_bias)
        elif isinstance(module, AAVSMaskEmbedderLayer):
            init_as_torch(module[0])
        elif isinstance(module, AAVSAudioQuery):
            init.normal_(module.queries_embedder.weight)
            init.normal_(module.queries_features.weight)
        elif isinstance(module, AAVSDecoder):
            init.normal_(module.level_embed.weight)
            for submodule in module.mask_embedder.modules():
                if isinstance(submodule, nn.Linear):
                    init_as_torch(submodule)
        elif isinstance(module, AAVSRobustAudioAwareKey):
            for embedding in (module.silence_embed, module.uncertain_embed, module.sounding_embed):
                init.normal_(embedding.weight, std=self.config.init_std)
        elif isinstance(module, AAVSAudioProjector):
            init_as_torch(module.linear_1)
            init_as_torch(module.linear_2)
        elif isinstance(module, AAVSForAudioVisualSegmentation):
            init_as_torch(module.class_predictor)


class AAVSMaskEmbedderLayer(nn.ModuleList):
    """One linear layer, by the name that it has in checkpoints of Mask2Former."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__([nn.Linear(in_features, out_features)])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self[0](hidden_states)


class AAVSMaskEmbedder(nn.ModuleList):
    """
    From states of the queries to mask embeddings. Mask2Former's own keeps its layers in a list beside the modules, so
    that LoRA and whoever else puts modules in place of others has no effect on it.
    """

    def __init__(self, config: AAVSConfig):
        sizes = [config.hidden_dim] * 3 + [config.mask_feature_size]
        super().__init__([AAVSMaskEmbedderLayer(*pair) for pair in zip(sizes, sizes[1:])])

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        *layers, last_layer = self
        for layer in layers:
            hidden_states = nn.functional.relu(layer(hidden_states))
        return last_layer(hidden_states)


# No `post_init` of its own: weights are drawn from the root on, in the order that seeds stand for.
class AAVSDecoder(AAVSPreTrainedModel):  # trf-ignore: TRF013
    """
    The masked-attention transformer decoder: each layer lets a query see what its own latest mask covers, in the three
    feature maps in turn.
    """

    def __init__(self, config: AAVSConfig):
        super().__init__(config)
        self.attention_mask_init = config.attention_mask_init
        self.mask_prompt_fusion = config.mask_prompt_fusion
        self.audio_query = AAVSAudioQuery(config)
        # CODEPATH: the released second stage has these keys; Table 4 ablates them
        self.audio_aware_key = AAVSRobustAudioAwareKey(config) if config.mask_prompt_keys else None
        self.position_embedder = Mask2FormerSinePositionEmbedding(
            num_position_features=config.hidden_dim // 2, normalize=True
        )
        self.level_embed = nn.Embedding(NUM_FEATURE_LEVELS, config.hidden_dim)
        project = config.feature_size != config.hidden_dim
        self.input_projections = nn.ModuleList(
            nn.Conv2d(config.feature_size, config.hidden_dim, kernel_size=1) if project else nn.Identity()
            for _ in range(NUM_FEATURE_LEVELS)
        )
        self.layers = nn.ModuleList([AAVSDecoderLayer(config) for _ in range(config.decoder_layers - 1)])
        self.layernorm = nn.LayerNorm(config.hidden_dim)
        self.mask_embedder = AAVSMaskEmbedder(config)

    def get_memory(
        self, feature_maps: tuple[torch.Tensor, ...], prompt_masks: torch.Tensor | None
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Values and key position embeddings of each level, both `(frames, height * width, hidden_dim)`."""
        memory = []
        for level, feature_map in enumerate(feature_maps):
            values = self.input_projections[level](feature_map).flatten(2).transpose(1, 2)
            values = values + self.level_embed.weight[level]
            positions = self.position_embedder(feature_map.shape, feature_map.device, values.dtype)
            positions = positions.flatten(2).transpose(1, 2)
            if self.audio_aware_key is not None:
                positions = self.audio_aware_key(positions, resize_prompt(prompt_masks, feature_map.shape[-2:]))
            memory.append((values, positions))
        return memory

    def get_attention_mask(self, blocked: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """
        `(frames, queries, places)`, True where a query must not look -> `(frames, 1, queries, places)`, to be added to
        the attention logits. A query that may look nowhere, such as any query of a silent frame, looks everywhere.
        """
        blocked = blocked & ~blocked.all(dim=-1, keepdim=True)
        return torch.zeros_like(blocked, dtype=dtype).masked_fill(blocked, torch.finfo(dtype).min)[:, None]

    @torch.no_grad()
    def get_blocked_places(self, mask_embeddings: torch.Tensor, mask_features: torch.Tensor) -> torch.Tensor:
        """
        Where the predicted mask is below one half, `(frames, queries, places)`. Resizing is linear: the mask is
        predicted from mask features resized to the level, which is cheaper than resizing the mask of every query.
        """
        return torch.einsum("nqc,ncp->nqp", mask_embeddings, mask_features.flatten(2)) < 0

    @merge_with_config_defaults
    @capture_outputs
    def forward(  # trf-ignore: TRF057
        self,
        feature_maps: tuple[torch.Tensor, ...],  # of strides 32, 16 and 8, each (frames, feature_size, h, w)
        mask_features: torch.Tensor,  # (frames, mask_feature_size, height / 4, width / 4)
        audio: torch.Tensor,  # (frames, hidden_dim)
        prompt_masks: torch.Tensor | None,  # (frames, h, w)
        **kwargs: Unpack[TransformersKwargs],
    ) -> AAVSModelOutput:
        # CODEPATH: the released second stage fuses; Table 4 ablates it
        if self.mask_prompt_fusion:
            mask_features = mask_features + resize_prompt(prompt_masks, mask_features.shape[-2:]).to(mask_features)
        with torch.no_grad():
            resized = mask_features
            if is_cpu_inference(self, mask_features):
                # Once, where resizing does it each time.
                resized = mask_features.contiguous(memory_format=torch.channels_last)
            level_mask_features = [
                nn.functional.interpolate(resized, size=x.shape[-2:], mode="bilinear", align_corners=False)
                for x in feature_maps
            ]

        memory = self.get_memory(feature_maps, prompt_masks)
        query_position_embeddings = self.audio_query.queries_embedder.weight
        hidden_states = self.audio_query(audio)

        query_states = (self.layernorm(hidden_states),)
        mask_embeddings = (self.mask_embedder(query_states[-1]),)
        for index, layer in enumerate(self.layers):
            level = index % NUM_FEATURE_LEVELS
            # CODEPATH: "prompt" in the released second stage, "origin" in the first; Table E3 compares them
            if index == 0 and self.attention_mask_init == "prompt":
                blocked = resize_prompt(prompt_masks, feature_maps[0].shape[-2:]).flatten(2) < 0.5
                blocked = blocked.expand(-1, hidden_states.shape[1], -1)
            else:
                blocked = self.get_blocked_places(mask_embeddings[-1], level_mask_features[level])
            hidden_states = layer(
                hidden_states,
                query_position_embeddings,
                *memory[level],
                self.get_attention_mask(blocked, hidden_states.dtype),
                **kwargs,
            )
            query_states += (self.layernorm(hidden_states),)
            mask_embeddings += (self.mask_embedder(query_states[-1]),)

        return AAVSModelOutput(
            last_hidden_state=hidden_states,
            query_states=query_states,
            mask_embeddings=mask_embeddings,
            mask_features=mask_features,
        )


@auto_docstring(
    custom_intro="""
    AAVS without a head: Swin with adapters, pixel decoder, audio query and masked-attention decoder.
    """
)
class AAVSModel(AudioVisualModelMixin, AAVSPreTrainedModel):
    def __init__(self, config: AAVSConfig):
        # Again, because `from_pretrained(..., field=value)` sets fields after the config has checked itself.
        config.validate_architecture()
        super().__init__(config)
        self.backbone = AAVSSwinBackbone(config)
        self.pixel_decoder = AAVSPixelDecoder(config, self.backbone.channels)
        # CODEPATH: checkpoints converted without VGGish take embeddings
        self.audio_encoder = VGGishModel(config.audio_config) if config.audio_config is not None else None
        self.audio_projector = AAVSAudioProjector(config)
        self.decoder = AAVSDecoder(config)

        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        input_features: torch.FloatTensor | None = None,
        audio_embeddings: torch.FloatTensor | None = None,
        prompt_masks: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> AAVSModelOutput:
        r"""
        pixel_values (`torch.FloatTensor` of shape `(num_frames, num_channels, height, width)`):
            Frames of one clip, or of several clips one after the other.
        input_features (`torch.FloatTensor` of shape `(num_frames, 96, 64)`, *optional*):
            Log-mel patches of [`VGGishFeatureExtractor`], one per frame.
        audio_embeddings (`torch.FloatTensor` of shape `(num_frames, audio_embedding_dim)`, *optional*):
            Audio embeddings, one per frame, in place of `input_features`.
        prompt_masks (`torch.FloatTensor` of shape `(num_frames, prompt_height, prompt_width)`, *optional*):
            Masks of a localizer in [0, 1], of any resolution. Needed by a mask-prompted model
            (`config.use_mask_prompt=True`), refused by any other.
        """
        self.check_inputs(pixel_values, input_features, audio_embeddings, prompt_masks)
        if audio_embeddings is None:
            audio_embeddings = self.get_audio_embeddings(input_features)

        feature_maps = self.backbone(pixel_values).feature_maps
        pixels = self.pixel_decoder(feature_maps)
        audio = self.audio_projector(audio_embeddings)
        outputs = self.decoder(pixels.multi_scale_features, pixels.mask_features, audio, prompt_masks, **kwargs)
        # CODEPATH: released models have no pair loss
        if self.config.pair_loss_weight:
            outputs["pair_features"] = self.get_pair_features(audio, feature_maps[-1])
        return outputs


@auto_docstring(
    custom_intro="""
    AAVS for audio-visual segmentation: sets of masks with classes, from frames and their sound.

    With two labels (background, sounding) it is the first stage of Stepping Stones and solves S4 and MS3; with 71
    labels and `config.use_mask_prompt` it is the second stage, prompted with the masks of the first, and solves AVSS.
    """
)
class AAVSForAudioVisualSegmentation(AudioVisualSegmentationMixin, AAVSPreTrainedModel):
    def __init__(self, config: AAVSConfig):
        super().__init__(config)
        self.model = AAVSModel(config)
        self.class_predictor = nn.Linear(config.hidden_dim, config.num_labels + 1)
        self.criterion = MaskClassificationLoss(config)
        # CODEPATH: released models have no pair loss
        self.pair_head = make_pair_head(config, config.hidden_dim, self.model.backbone.channels[-1])

        self.post_init()

    def get_loss_normalizers(self, batch: dict) -> torch.FloatTensor:
        r"""
        What the loss of these frames is divided by, `(2,)`: the number of target masks, for the mask losses, and the
        sum of the classification weights, for the cross-entropy. See
        [`AudioVisualSegmentationMixin.get_loss_normalizers`].

        Args:
            batch (`dict`):
                Inputs of the model, of which `class_labels` are read.
        """
        if not isinstance(batch, Mapping):
            warnings.warn(
                "get_loss_normalizers takes the whole batch in place of its class_labels.",
                DeprecationWarning,
                stacklevel=2,
            )
            batch = {"class_labels": batch}
        return self.add_pair_normalizer(self.criterion.get_normalizers(batch["class_labels"]), batch["class_labels"])

    def load_backbone_weights(self, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> list[str]:
        """Starts the model from a Mask2Former: see [`load_mask2former_weights`]."""
        from .convert_aavs_original import load_mask2former_weights  # which needs this module

        return load_mask2former_weights(self, pretrained_model_name_or_path, **kwargs)

    def start_training_phase(self, phase: int) -> list[str]:
        """
        In the first phase of the released recipe the adapters of the backbone are off, in the second one fresh ones
        train: see [`AudioVisualSegmentationMixin.start_training_phase`].
        """
        if phase == 1:
            switch_off_backbone_adapters(self)
            return []
        renew_backbone_adapters(self)
        return [BACKBONE_ADAPTERS]

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        input_features: torch.FloatTensor | None = None,
        audio_embeddings: torch.FloatTensor | None = None,
        prompt_masks: torch.FloatTensor | None = None,
        mask_labels: list[torch.FloatTensor] | None = None,
        class_labels: list[torch.LongTensor] | None = None,
        num_items_in_batch: torch.FloatTensor | None = None,
        output_auxiliary_logits: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> AAVSForAudioVisualSegmentationOutput:
        r"""
        pixel_values (`torch.FloatTensor` of shape `(num_frames, num_channels, height, width)`):
            Frames of one clip, or of several clips one after the other.
        input_features (`torch.FloatTensor` of shape `(num_frames, 96, 64)`, *optional*):
            Log-mel patches of [`VGGishFeatureExtractor`], one per frame.
        audio_embeddings (`torch.FloatTensor` of shape `(num_frames, audio_embedding_dim)`, *optional*):
            Audio embeddings, one per frame, in place of `input_features`.
        prompt_masks (`torch.FloatTensor` of shape `(num_frames, prompt_height, prompt_width)`, *optional*):
            Masks of a localizer in [0, 1], of any resolution. Needed by a mask-prompted model
            (`config.use_mask_prompt=True`), refused by any other.
        mask_labels (`list[torch.FloatTensor]`, *optional*):
            Target masks, one tensor `(num_masks, mask_height, mask_width)` of zeros and ones per frame, all of the
            same height and width.
        class_labels (`list[torch.LongTensor]`, *optional*):
            Classes of the target masks, one tensor `(num_masks,)` per frame.
        num_items_in_batch (`torch.FloatTensor` of shape `(2,)`, *optional*):
            Normalizers of the loss over a whole optimizer step, see `get_loss_normalizers`. Defaults to those of the
            frames at hand.
        output_auxiliary_logits (`bool`, *optional*):
            Whether to return the predictions before the last one. Defaults to `config.output_auxiliary_logits`.

        Example:

        ```python
        >>> import torch
        >>> from stepping_stones_hf import AAVSConfig, AAVSForAudioVisualSegmentation

        >>> model = AAVSForAudioVisualSegmentation(AAVSConfig(num_queries=30)).eval()
        >>> with torch.no_grad():
        ...     outputs = model(pixel_values=torch.randn(5, 3, 64, 64), audio_embeddings=torch.randn(5, 128))
        >>> outputs.class_queries_logits.shape, outputs.masks_queries_logits.shape
        (torch.Size([5, 30, 3]), torch.Size([5, 30, 16, 16]))

        ```
        """
        if (mask_labels is None) != (class_labels is None):
            raise ValueError("Pass both `mask_labels` and `class_labels`, or neither.")
        if output_auxiliary_logits is None:
            output_auxiliary_logits = self.config.output_auxiliary_logits

        outputs: AAVSModelOutput = self.model(
            pixel_values=pixel_values,
            input_features=input_features,
            audio_embeddings=audio_embeddings,
            prompt_masks=prompt_masks,
            **kwargs,
        )

        supervised = mask_labels is not None and self.config.use_auxiliary_loss
        first = 0 if output_auxiliary_logits or supervised else -1
        predictions = [
            {
                "class_queries_logits": self.class_predictor(query_states),
                "masks_queries_logits": torch.einsum("nqc,nchw->nqhw", mask_embeddings, outputs.mask_features),
            }
            for query_states, mask_embeddings in zip(outputs.query_states[first:], outputs.mask_embeddings[first:])
        ]

        pair_logits = self.get_pair_logits(outputs.pair_features)
        loss, loss_dict = None, None
        if mask_labels is not None:
            num_items_in_batch, num_pairs = self.split_normalizers(num_items_in_batch)
            loss_dict = self.criterion(predictions, mask_labels, class_labels, num_items_in_batch)
            loss_dict |= self.get_pair_loss(pair_logits, class_labels, num_pairs)
            loss = sum(loss_dict.values())

        return AAVSForAudioVisualSegmentationOutput(
            loss=loss,
            loss_dict=loss_dict,
            class_queries_logits=predictions[-1]["class_queries_logits"],
            masks_queries_logits=predictions[-1]["masks_queries_logits"],
            auxiliary_logits=predictions[:-1] if output_auxiliary_logits else None,
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
            pair_logits=pair_logits,
        )


# In checkpoints an adapter belongs to the layer that it follows (those of Swin by the names that Swin's have there).
register_checkpoint_conversion_mapping(
    "aavs",
    [
        WeightRenaming(r"attention\.output\.dense\.adapter\.", "attention.adapter."),
        WeightRenaming(r"(?<!attention\.)output\.dense\.adapter\.", "mlp.adapter."),
        WeightRenaming(
            r"encoder\.layers\.(\d+)\.self_attn\.output_proj\.adapter\.", r"encoder.layers.\1.self_attn.adapter."
        ),
        WeightRenaming(
            r"decoder\.layers\.(\d+)\.self_attn\.out_proj\.adapter\.", r"decoder.layers.\1.self_attn.adapter."
        ),
    ],
    # Repositories that carry this code each do the same.
    overwrite=True,
)

__all__ = ["AAVSForAudioVisualSegmentation", "AAVSModel", "AAVSPreTrainedModel"]
