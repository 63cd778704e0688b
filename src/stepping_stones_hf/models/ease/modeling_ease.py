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
PyTorch EASE: *Less is More: Encoder-only Audio-Visual Segmentation* (https://huggingface.co/papers/2609.29121); and,
in stage 2, Stepping Stones (https://huggingface.co/papers/2407.11820, section 3.3) on it, which is ours: neither has
it.

EASE is EoMT, a plain vision transformer in whose last blocks object queries stand beside the patches, with queries
made of sound and with sound fused into the patches. Frames are independent of one another: frame t is segmented with
second t of the sound, so the batch axis is frames, of any number of clips. Backbones are those of transformers,
upscaler and mask head those of its EoMT; the loss is that of the other models of mask classification.

Where paper and released program differ we follow the program: the enhanced audio has five tokens; one fusion module
serves all blocks, and it scores the audio tokens by a softmax over them. In the PVT-v2 variant queries and patches,
queries first, are laid out as a square for the depthwise convolutions: so it was trained. Soft assignments to centers
are random in training; that they are in the released evaluation as well is `config.evaluation_noise`. What has no
effect is left out: a second gate of the audio enhancer, whose softmax has one term, and a bias of the fusion's scores.

How a mask prompts it, each a field of the config:

- `mask_prompt_fusion`: the mask is added to the mask features of every prediction;
- `attention_mask_init`: it is the attention mask of the queries in the first joint block, in training and evaluation;
- `mask_prompt_keys`: a learned token says in the keys, not in the values, whether a patch is silent, uncertain or
  sounding. Here attention is joint, and keys are rotated by their position. So only object queries see it, in their
  scores, to which it is added without rotation.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    DINOv3ViTConfig,
    DINOv3ViTModel,
    DINOv3ViTPreTrainedModel,
    PreTrainedModel,
    PvtV2Config,
    PvtV2Model,
)
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.dinov3_vit.modeling_dinov3_vit import (
    DINOv3ViTAttention,
    DINOv3ViTEmbeddings,
    DINOv3ViTLayer,
    DINOv3ViTRopePositionEmbedding,
    apply_rotary_pos_emb,
)
from transformers.models.eomt.modeling_eomt import eager_attention_forward
from transformers.models.eomt_dinov3.modeling_eomt_dinov3 import EomtDinov3MaskHead, EomtDinov3ScaleBlock
from transformers.models.pvt_v2.modeling_pvt_v2 import PvtV2BlockLayer, PvtV2SelfAttention
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ..backbones import fill_backbone, read_backbone_weights, restore_pvt_norms
from ..loss_mask_classification import MaskClassificationLoss
from ..modeling_base import (
    AudioVisualModelMixin,
    AudioVisualPreTrainedMixin,
    AudioVisualSegmentationMixin,
    check_frame_size,
    init_as_torch,
    resize_prompt,
)
from ..pair_loss import make_pair_head
from ..vggish import VGGishModel
from .configuration_ease import PATCH_STRIDE, EASEConfig
from .recipe_ease import get_mask_probability, make_parameter_groups


# Silent, uncertain and sounding.
NUM_PROMPT_STATES = 3


@auto_docstring(
    custom_intro="""
    Output of [`EASEModel`]: states of the object queries and the masks that go with them.
    """
)
@dataclass
class EASEModelOutput(ModelOutput):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(num_frames, num_tokens, hidden_size)`):
        Normalized tokens after the last fusion: object queries, then class and register tokens of a ViT, then patches.
    query_states (`tuple(torch.FloatTensor)`):
        Normalized states of the object queries, each `(num_frames, num_queries, hidden_size)`: in training before each
        joint block and after the last one, in evaluation only the latter.
    mask_logits (`tuple(torch.FloatTensor)`):
        Mask logits of the same predictions, each `(num_frames, num_queries, height / 4, width / 4)`.
    hidden_states (`tuple(torch.FloatTensor)`, *optional*, returned with `output_hidden_states=True`):
        Tokens that enter the backbone's first block, and outputs of each of its blocks before sound is fused into
        them.
    attentions (`tuple(torch.FloatTensor)`, *optional*, returned with `output_attentions=True` and eager attention):
        Attention weights of the backbone's blocks, of a PVT-v2 those of the joint blocks, each `(num_frames,
        num_heads, num_tokens, num_tokens)`.
    pair_features (`tuple(torch.FloatTensor)`, *optional*, returned where `config.pair_loss_weight` is not 0):
        The projected sound and the mean of the backbone's last feature map, `(num_frames, channels)` each: what the
        pair loss compares.
    """

    last_hidden_state: torch.FloatTensor | None = None
    query_states: tuple[torch.FloatTensor, ...] | None = None
    mask_logits: tuple[torch.FloatTensor, ...] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    pair_features: tuple[torch.FloatTensor, torch.FloatTensor] | None = None


@auto_docstring(
    custom_intro="""
    Output of [`EASEForAudioVisualSegmentation`]; [`~EASEImageProcessor.post_process_semantic_segmentation`] turns it
    into label maps.
    """
)
@dataclass
class EASEForAudioVisualSegmentationOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `()`, *optional*, returned when `mask_labels` and `class_labels` are given):
        Sum of the terms of `loss_dict`.
    loss_dict (`dict[str, torch.FloatTensor]`, *optional*, returned when `mask_labels` and `class_labels` are given):
        Weighted terms of the loss: `loss_cross_entropy`, `loss_mask`, `loss_dice` and, in training with
        `config.use_auxiliary_loss`, the same of the predictions before each joint block with `_0`, `_1`, ... appended.
    class_queries_logits (`torch.FloatTensor` of shape `(num_frames, num_queries, num_labels + 1)`):
        Class logits of the queries; the last column is "no object".
    masks_queries_logits (`torch.FloatTensor` of shape `(num_frames, num_queries, height / 4, width / 4)`):
        Mask logits of the queries.
    last_hidden_state (`torch.FloatTensor` of shape `(num_frames, num_tokens, hidden_size)`):
        Normalized tokens after the last fusion: object queries, then class and register tokens of a ViT, then patches.
    hidden_states (`tuple(torch.FloatTensor)`, *optional*, returned with `output_hidden_states=True`):
        Tokens that enter the backbone's first block, and outputs of each of its blocks before sound is fused into
        them.
    attentions (`tuple(torch.FloatTensor)`, *optional*, returned with `output_attentions=True` and eager attention):
        Attention weights of the backbone's blocks, of a PVT-v2 those of the joint blocks, each `(num_frames,
        num_heads, num_tokens, num_tokens)`.
    pair_logits (`torch.FloatTensor` of shape `(num_frames,)`, *optional*, with `config.pair_loss_weight`):
        Whether a frame's sound goes with what is seen: a cosine, whose sigmoid is the probability that it does.
    """

    loss: torch.FloatTensor | None = None
    loss_dict: dict[str, torch.FloatTensor] | None = None
    class_queries_logits: torch.FloatTensor | None = None
    masks_queries_logits: torch.FloatTensor | None = None
    last_hidden_state: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    pair_logits: torch.FloatTensor | None = None


def split_heads(hidden_states: torch.Tensor, num_heads: int) -> torch.Tensor:
    """`(..., tokens, channels)` -> `(..., num_heads, tokens, channels / num_heads)`."""
    return hidden_states.unflatten(-1, (num_heads, -1)).transpose(-2, -3)


# Sound ---------------------------------------------------------------------------------------------------------------


def draw_gumbel_noise(logits: torch.Tensor) -> torch.Tensor:
    """Noise of the shape of `logits`, with which their softmax becomes a soft draw."""
    # Of the millions of draws of an epoch some would be 0 in half precision, and their noise infinite.
    draws = torch.empty_like(logits, dtype=torch.float32).exponential_()
    return -draws.clamp(min=torch.finfo(draws.dtype).tiny).log()


class EASESoftAssignment(nn.Module):
    """How much each token belongs to each of the learned centers."""

    def __init__(self, num_centers: int, hidden_size: int, evaluation_noise: bool):
        super().__init__()
        self.evaluation_noise = evaluation_noise
        self.centers = nn.Parameter(torch.empty(num_centers, hidden_size))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:  # (frames, tokens, hidden_size)
        logits = tokens @ self.centers.T
        # CODEPATH: always in the released program
        if self.training or self.evaluation_noise:
            logits = logits + draw_gumbel_noise(logits)
        return logits.softmax(dim=-1).to(tokens.dtype)  # (frames, tokens, centers)


class EASEAudioEnhancer(nn.Module):
    """
    From an audio embedding to a few audio tokens. Each is the projected embedding with its channels scaled twice: in
    the light of a center that is near, then in the light of that center's share of the embedding.
    """

    def __init__(self, config: EASEConfig):
        super().__init__()
        self.num_tokens = config.num_audio_tokens
        width = config.audio_hidden_size
        self.audio_proj = nn.Linear(config.audio_embedding_dim, width)
        self.assignment = EASESoftAssignment(config.num_audio_centers, width, config.evaluation_noise)
        self.center_edge = nn.Linear(width, width)
        self.center_gate = nn.Linear(width, width, bias=False)
        self.center_offset = nn.Linear(width, width)
        self.share_edge = nn.Linear(width, width)
        self.share_offset = nn.Linear(width, width)

    def forward(self, audio_embeddings: torch.Tensor) -> torch.Tensor:
        # (frames, audio_embedding_dim) -> (frames, tokens, audio_hidden_size)
        audio = self.audio_proj(audio_embeddings)[:, None]
        shares = self.assignment(audio).mT * audio  # (frames, centers, audio_hidden_size)
        # The nearest are those with the highest probabilities. But where these are all but 0 the distances tie, and
        # with the probabilities others would be taken than in the released program.
        distances = torch.cdist(audio.float(), shares.float())[:, 0]
        nearest = distances.topk(self.num_tokens, largest=False).indices  # (frames, tokens)
        centers = self.assignment.centers[nearest]  # (frames, tokens, audio_hidden_size)
        shares = shares.gather(1, nearest[..., None].expand(-1, -1, shares.shape[-1]))

        edges = nn.functional.gelu(self.center_edge(centers - audio))
        edges = edges * self.center_gate(edges).softmax(dim=1)  # over the tokens, channel by channel
        tokens = (1 + self.center_offset(audio + edges).tanh()) * audio
        edges = nn.functional.gelu(self.share_edge(shares - tokens))
        return (1 + self.share_offset(tokens + edges).tanh()) * tokens


class EASEFusion(nn.Module):
    """
    Sound in the patches. The patches of a frame, each as a mixture of learned centers, say how much each audio token
    matters; the one token that these make is added to each patch, as far as the patch's gates for it are open.
    """

    def __init__(self, config: EASEConfig):
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_fusion_heads
        self.scaling = (width // self.num_heads) ** -0.5
        self.assignment = EASESoftAssignment(config.num_visual_centers, width, config.evaluation_noise)
        # CODEPATH: the released PVT-v2 has the width of the audio tokens
        has_projection = config.audio_hidden_size != width
        self.audio_proj = nn.Linear(config.audio_hidden_size, width, bias=False) if has_projection else nn.Identity()
        self.score_q_proj = nn.Linear(width, width, bias=False)
        self.score_k_proj = nn.Linear(width, width, bias=False)
        self.score_v_proj = nn.Linear(width, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)
        self.gate_q_proj = nn.Linear(width, width, bias=False)
        self.gate_k_proj = nn.Linear(width, width, bias=False)
        self.gate_v_proj = nn.Linear(width, width, bias=False)

    def pool_audio(self, audio: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """
        Audio tokens `(frames, tokens, hidden_size)` -> one, `(frames, 1, hidden_size)`: their mean, weighted by scores
        of what each attends to in the frame.
        """
        mixtures = self.assignment(patches)[:, None]  # (frames, 1, patches, centers)
        # Keys and values are linear: those of a mixture of centers are the mixture of those of the centers.
        query, key, value = (
            split_heads(proj(tokens), self.num_heads)
            for proj, tokens in (
                (self.score_q_proj, audio),
                (self.score_k_proj, self.assignment.centers),
                (self.score_v_proj, self.assignment.centers),
            )
        )
        weights = (query @ (mixtures @ key).mT * self.scaling).softmax(dim=-1)  # (frames, heads, tokens, patches)
        attended = (weights @ mixtures @ value).transpose(1, 2).flatten(2)  # (frames, tokens, hidden_size)
        return (self.score(attended).softmax(dim=1) * audio).sum(dim=1, keepdim=True)

    def forward(self, patches: torch.Tensor, audio: torch.Tensor) -> torch.Tensor:
        # (frames, patches, hidden_size) and (frames, tokens, audio_hidden_size) -> (frames, patches, hidden_size)
        audio = self.pool_audio(self.audio_proj(audio), patches)
        query = split_heads(self.gate_q_proj(patches), self.num_heads)
        key = split_heads(self.gate_k_proj(audio), self.num_heads)
        value = split_heads(self.gate_v_proj(audio), self.num_heads)
        gates = (query @ key.mT * self.scaling).sigmoid()  # (frames, heads, patches, 1)
        return patches + (gates * value).transpose(1, 2).flatten(2)


class EASEQueryAttention(nn.Module):
    """Attention of the generated queries to one another or to the audio tokens."""

    def __init__(self, config: EASEConfig):
        super().__init__()
        self.config = config
        width = config.audio_hidden_size
        self.num_heads = config.query_generator_heads
        self.scaling = (width // self.num_heads) ** -0.5
        self.is_causal = False
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.out_proj = nn.Linear(width, width, bias=False)

    def forward(
        self, hidden_states: torch.Tensor, memory: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attn_output, _ = attention_interface(
            self,
            split_heads(self.q_proj(hidden_states), self.num_heads),
            split_heads(self.k_proj(memory), self.num_heads),
            split_heads(self.v_proj(memory), self.num_heads),
            attention_mask=None,
            scaling=self.scaling,
            **kwargs,
        )
        return self.out_proj(attn_output.flatten(2))


class EASEQueryGeneratorLayer(GradientCheckpointingLayer):
    """Self-attention, attention to the sound and a feed-forward network, each with a residual and a norm after it."""

    def __init__(self, config: EASEConfig):
        super().__init__()
        width = config.audio_hidden_size
        self.self_attn = EASEQueryAttention(config)
        self.self_attn_layer_norm = nn.LayerNorm(width)
        self.cross_attn = EASEQueryAttention(config)
        self.cross_attn_layer_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, config.query_generator_ratio * width)
        self.fc2 = nn.Linear(config.query_generator_ratio * width, width)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(
        self, hidden_states: torch.Tensor, audio: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        attended = self.self_attn(hidden_states, hidden_states, **kwargs)
        hidden_states = self.self_attn_layer_norm(hidden_states + attended)
        attended = self.cross_attn(hidden_states, audio, **kwargs)
        hidden_states = self.cross_attn_layer_norm(hidden_states + attended)
        return self.final_layer_norm(hidden_states + self.fc2(nn.functional.gelu(self.fc1(hidden_states))))


class EASEQueryGenerator(nn.Module):
    """Learned queries that have heard: a small decoder in which they attend to the audio tokens."""

    def __init__(self, config: EASEConfig):
        super().__init__()
        self.query = nn.Embedding(config.num_queries, config.audio_hidden_size)
        self.layers = nn.ModuleList(EASEQueryGeneratorLayer(config) for _ in range(config.query_generator_layers))
        self.output_proj = nn.Linear(config.audio_hidden_size, config.hidden_size)

    def forward(self, audio: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        # (frames, tokens, audio_hidden_size) -> (frames, queries, hidden_size)
        hidden_states = self.query.weight.expand(audio.shape[0], -1, -1)
        for layer in self.layers:
            hidden_states = layer(hidden_states, audio, **kwargs)
        return self.output_proj(hidden_states)


# Backbones -----------------------------------------------------------------------------------------------------------


@dataclass
class EASEPromptKeys:
    """
    What the keys of the joint blocks say about the patches, which are the last of the tokens.

    Attributes:
        states (`torch.FloatTensor` of shape `(frames, patches, 3)`): one-hot: silent, uncertain or sounding.
        tokens (`torch.FloatTensor` of shape `(3, hidden_size)`): a learned token of each state.
        num_queries (`int`, *optional*): how many of the first tokens it is said to; `None` for all of them.
    """

    states: torch.FloatTensor
    tokens: torch.FloatTensor
    num_queries: int | None

    def add_to_tokens(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """What keys are computed from, `(frames, tokens, hidden_size)`: the tokens, with those of the states."""
        # CODEPATH: mask_prompt_key_rows="all"
        if self.num_queries is not None:
            return hidden_states
        states = self.states @ self.tokens
        return hidden_states + nn.functional.pad(states, (0, 0, hidden_states.shape[1] - states.shape[1], 0))

    def add_to_heads(
        self, query: torch.Tensor, key: torch.Tensor, k_proj: nn.Linear
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Adds to the score of a query and a patch the product of the query and the key of the patch's state, by three
        more dimensions of each head: in a key, the state; in a query, its products with the keys of the states.
        """
        # CODEPATH: mask_prompt_key_rows="queries"
        if self.num_queries is None:
            return query, key
        num_heads, num_tokens = key.shape[1:3]
        state_keys = split_heads(nn.functional.linear(self.tokens, k_proj.weight), num_heads)  # (heads, 3, channels)
        products = query[:, :, : self.num_queries] @ state_keys.mT  # (frames, heads, queries, 3)
        products = nn.functional.pad(products, (0, 0, 0, num_tokens - self.num_queries))
        states = nn.functional.pad(self.states, (0, 0, num_tokens - self.states.shape[1], 0))
        states = states[:, None].expand(-1, num_heads, -1, -1)
        return torch.cat([query, products], dim=-1), torch.cat([key, states], dim=-1)


class EASEPromptStates(nn.Module):
    """
    Whether a patch is silent, uncertain or sounding according to the localizer, and a token of each of these states
    (section 3.3 of Stepping Stones, *robust audio-aware key*).
    """

    def __init__(self, config: EASEConfig):
        super().__init__()
        self.silence_threshold = config.prompt_silence_threshold
        self.sounding_threshold = config.prompt_sounding_threshold
        # CODEPATH: "queries" unless an ablation says "all"
        self.num_queries = config.num_queries if config.mask_prompt_key_rows == "queries" else None
        self.tokens = nn.Parameter(torch.empty(NUM_PROMPT_STATES, config.hidden_size))

    def forward(self, prompt: torch.Tensor) -> EASEPromptKeys:  # (frames, 1, h, w)
        silent, sounding = prompt <= self.silence_threshold, prompt >= self.sounding_threshold
        states = torch.cat([silent, ~(silent | sounding), sounding], dim=1)
        return EASEPromptKeys(states.flatten(2).mT.to(self.tokens.dtype), self.tokens, self.num_queries)


class EASEViTAttention(DINOv3ViTAttention):
    """DINOv3's attention, with what a prompt says in its keys."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        prompt_keys: EASEPromptKeys | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        # CODEPATH: all released models, and mask_prompt_keys=False
        if prompt_keys is None:
            return super().forward(hidden_states, attention_mask, position_embeddings, **kwargs)
        query = split_heads(self.q_proj(hidden_states), self.num_heads)
        key = split_heads(self.k_proj(prompt_keys.add_to_tokens(hidden_states)), self.num_heads)
        value = split_heads(self.v_proj(hidden_states), self.num_heads)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        query, key = prompt_keys.add_to_heads(query, key, self.k_proj)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attn_output, attn_weights = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(attn_output.flatten(2)), attn_weights


class EASEViT(DINOv3ViTPreTrainedModel):
    """DINOv3's ViT, to be run block by block."""

    def __init__(self, config: DINOv3ViTConfig, num_joint_blocks: int):
        super().__init__(config)
        self.embeddings = DINOv3ViTEmbeddings(config)
        # Used by DINOv3's own training alone.
        self.embeddings.register_parameter("mask_token", None)
        self.rope_embeddings = DINOv3ViTRopePositionEmbedding(config)
        self.blocks = nn.ModuleList(DINOv3ViTLayer(config) for _ in range(config.num_hidden_layers))
        for block in self.blocks[-num_joint_blocks:]:
            block.attention = EASEViTAttention(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        if isinstance(module, DINOv3ViTEmbeddings) and module.mask_token is None:
            for tokens in (module.cls_token, module.register_tokens):
                init.trunc_normal_(tokens, std=self.config.initializer_range)
        else:
            super()._init_weights(module)

    def embed(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """Tokens that enter the blocks, `(frames, prefix tokens + patches, hidden_size)`, and what all blocks get."""
        return self.embeddings(pixel_values), {"position_embeddings": self.rope_embeddings(pixel_values)}

    def read_weights(self, name_or_path: str | os.PathLike, **kwargs) -> dict[str, torch.Tensor]:
        """State dict of this backbone from what transformers' `DINOv3ViTModel` has saved."""
        source = read_backbone_weights(DINOv3ViTModel, self.config, name_or_path, **kwargs)
        source.pop("embeddings.mask_token", None)
        return {name.replace("model.layer.", "blocks."): tensor for name, tensor in source.items()}

    def run_block(self, block: DINOv3ViTLayer, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        return block(hidden_states, **kwargs)


class EASEPvtAttention(PvtV2SelfAttention):
    """Attention of a joint block of the PVT-v2: masked, and with what a prompt says in its keys."""

    def __init__(self, config: PvtV2Config, layer_idx: int):
        super().__init__(config, config.hidden_sizes[layer_idx], config.num_attention_heads[layer_idx], 1)
        self.config = config
        self.scaling = self.attention_head_size**-0.5
        self.is_causal = False

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        prompt_keys: EASEPromptKeys | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        key_states = hidden_states if prompt_keys is None else prompt_keys.add_to_tokens(hidden_states)
        query = split_heads(self.query(hidden_states), self.num_attention_heads)
        key = split_heads(self.key(key_states), self.num_attention_heads)
        value = split_heads(self.value(hidden_states), self.num_attention_heads)
        if prompt_keys is not None:
            query, key = prompt_keys.add_to_heads(query, key, self.key)

        attention_interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attn_output, attn_weights = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attn_drop.p if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.proj_drop(self.proj(attn_output.flatten(2))), attn_weights


class EASEPvtBlock(GradientCheckpointingLayer, PvtV2BlockLayer):
    """A block of the PVT-v2's last stage."""


class EASEPvtJointBlock(EASEPvtBlock):
    """
    A block without spatial reduction, in which queries stand before the patches. For the depthwise convolution all of
    them are laid out as a square, row by row, whatever the shape of the frame.
    """

    def __init__(self, config: PvtV2Config, layer_idx: int):
        super().__init__(config, layer_idx)
        self.attention = EASEPvtAttention(config, layer_idx)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> tuple[torch.Tensor]:
        side = math.isqrt(hidden_states.shape[1])
        attention_output, _ = self.attention(self.layer_norm_1(hidden_states), **kwargs)
        hidden_states = hidden_states + self.drop_path(attention_output)
        mlp_output = self.mlp(self.layer_norm_2(hidden_states), side, side)
        return (hidden_states + self.drop_path(mlp_output),)


class EASEPvt(PvtV2Model):
    """PVT-v2 without its last stage, of which the last blocks are to be run one by one."""

    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["PvtV2BlockLayer", "EASEPvtBlock", "EASEPvtJointBlock"]
    _can_record_outputs = {
        "hidden_states": PvtV2BlockLayer,
        "attentions": OutputRecorder(EASEPvtAttention, index=1),
    }

    def __init__(self, config: PvtV2Config, num_joint_blocks: int):
        super().__init__(config)
        last = config.num_encoder_blocks - 1
        block_classes = [EASEPvtBlock] * (config.depths[last] - num_joint_blocks)
        block_classes += [EASEPvtJointBlock] * num_joint_blocks
        self.encoder.layers[last].blocks = nn.ModuleList(block_class(config, last) for block_class in block_classes)
        restore_pvt_norms(self)

        self.post_init()

    @property
    def blocks(self) -> nn.ModuleList:
        return self.encoder.layers[-1].blocks

    @property
    def norm(self) -> nn.LayerNorm:
        return self.encoder.layers[-1].layer_norm

    def embed(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """Tokens that enter the last stage's blocks, `(frames, patches, hidden_size)`, and what all blocks get."""
        *stages, last_stage = self.encoder.layers
        hidden_states = pixel_values
        for stage in stages:
            (hidden_states,), height, width = stage(hidden_states, False)
            hidden_states = hidden_states.mT.unflatten(2, (height, width))
        hidden_states, height, width = last_stage.patch_embedding(hidden_states)
        return hidden_states, {"height": height, "width": width}

    def read_weights(self, name_or_path: str | os.PathLike, **kwargs) -> dict[str, torch.Tensor]:
        """State dict of this backbone from a whole PVT-v2, which has one more stage and more spatial reduction."""
        source = read_backbone_weights(PvtV2Model, self.config, name_or_path, **kwargs)
        last = len(self.encoder.layers) - 1
        left_out = [f"encoder.layers.{last + 1}."]
        for index, block in enumerate(self.blocks):
            if isinstance(block, EASEPvtJointBlock):
                prefix = f"encoder.layers.{last}.blocks.{index}.attention."
                left_out += [f"{prefix}spatial_reduction.", f"{prefix}layer_norm."]
        return {name: tensor for name, tensor in source.items() if not name.startswith(tuple(left_out))}

    def run_block(
        self, block: EASEPvtBlock, hidden_states: torch.Tensor, height: int, width: int, **kwargs
    ) -> torch.Tensor:
        if isinstance(block, EASEPvtJointBlock):
            return block(hidden_states, **kwargs)[0]
        return block(hidden_states, height, width)[0]


# Models --------------------------------------------------------------------------------------------------------------


@auto_docstring
class EASEPreTrainedModel(AudioVisualPreTrainedMixin, PreTrainedModel):
    config: EASEConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image", "audio")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # Recorded by the backbones, which are models and say so themselves; here are the names of what they record.
    _can_record_outputs = {"hidden_states": DINOv3ViTLayer, "attentions": DINOv3ViTAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            # torch's defaults, which the released program leaves most layers at.
            init_as_torch(module)
        elif isinstance(module, EASESoftAssignment):
            init.normal_(module.centers)
        elif isinstance(module, EASEAudioEnhancer):
            for layer in module.children():
                if isinstance(layer, nn.Linear):
                    init.trunc_normal_(layer.weight, std=self.config.init_std)
                    if layer.bias is not None:
                        init.zeros_(layer.bias)
        elif isinstance(module, EASEFusion):
            for name, layer in module.named_children():
                if name.startswith(("score_", "gate_")):
                    init.trunc_normal_(layer.weight, std=self.config.init_std)
        elif isinstance(module, EASEQueryGenerator):
            for parameter in module.parameters():
                if parameter.dim() > 1:
                    init.xavier_uniform_(parameter)
        elif isinstance(module, EASEPromptStates):
            init.normal_(module.tokens, std=self.config.init_std)
        elif isinstance(module, EASEModel):
            init.normal_(module.query.weight)
            init.ones_(module.attn_mask_probs)
        elif isinstance(module, MaskClassificationLoss):
            init.ones_(module.empty_weight)
            init.constant_(module.empty_weight[-1:], module.eos_coef)


@auto_docstring(
    custom_intro="""
    EASE without classes: a backbone whose last blocks have object queries made of sound beside the patches, and masks.
    """
)
class EASEModel(AudioVisualModelMixin, EASEPreTrainedModel):
    def __init__(self, config: EASEConfig):
        # Again, because `from_pretrained(..., field=value)` sets fields after the config has checked itself.
        config.validate_architecture()
        super().__init__(config)
        # CODEPATH: the released models have either
        backbone_class = EASEPvt if config.is_pvt else EASEViT
        self.backbone = backbone_class(config.backbone_config, config.num_joint_blocks)
        # CODEPATH: checkpoints converted without VGGish take embeddings
        self.audio_encoder = VGGishModel(config.audio_config) if config.audio_config is not None else None
        self.audio_enhancer = EASEAudioEnhancer(config)
        self.fusion = EASEFusion(config)
        self.query_generator = EASEQueryGenerator(config)
        self.query = nn.Embedding(config.num_queries, config.hidden_size)
        # CODEPATH: mask-prompted models, which the released program does not have
        self.prompt_states = EASEPromptStates(config) if config.mask_prompt_keys else None
        self.upscale_block = EomtDinov3ScaleBlock(config)
        self.dropout = nn.Dropout2d(config.mask_feature_dropout)
        self.mask_head = EomtDinov3MaskHead(config)
        # For each joint block the probability that a query keeps to its mask, in training.
        self.attn_mask_probs = nn.Buffer(torch.empty(config.num_joint_blocks))

        self.post_init()

    def get_grid(self, pixel_values: torch.Tensor) -> tuple[int, int]:
        """
        Patches of a frame, vertically and horizontally. Raises a `ValueError` where they cannot be laid out as the
        backbone needs them.
        """
        check_frame_size(pixel_values, PATCH_STRIDE)
        height, width = pixel_values.shape[-2:]
        grid = (height // PATCH_STRIDE, width // PATCH_STRIDE)
        num_patches = grid[0] * grid[1]
        num_tokens = self.config.num_queries + num_patches
        if self.config.is_pvt and math.isqrt(num_tokens) ** 2 != num_tokens:
            raise ValueError(
                f"`pixel_values` has frames of {height}x{width}, {num_patches} patches, which do not fill a square "
                f"together with {self.config.num_queries} queries, and a PVT-v2 lays them out in one. Use frames of "
                f"another size, or num_queries={(math.isqrt(num_patches) + 1) ** 2 - num_patches}."
            )
        return grid

    def fuse(self, hidden_states: torch.Tensor, audio: torch.Tensor, num_patches: int) -> torch.Tensor:
        """Fuses audio tokens into the patches, which are the last of the tokens."""
        others, patches = hidden_states.split([hidden_states.shape[1] - num_patches, num_patches], dim=1)
        return torch.cat([others, self.fusion(patches, audio)], dim=1)

    def predict(
        self, hidden_states: torch.Tensor, grid: tuple[int, int], mask_prompt: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Of normalized tokens, the states of the queries `(frames, queries, hidden_size)` and their mask logits
        `(frames, queries, 4 h, 4 w)`, with the prompt `(frames, 1, 4 h, 4 w)` added to the mask features.
        """
        queries = hidden_states[:, : self.config.num_queries]
        patches = hidden_states[:, -grid[0] * grid[1] :]
        mask_features = self.dropout(self.upscale_block(patches.mT.unflatten(2, grid)))
        if mask_prompt is not None:
            mask_features = mask_features + mask_prompt
        return queries, torch.einsum("nqc,nchw->nqhw", self.mask_head(queries), mask_features)

    @torch.no_grad()
    def find_predicted_patches(self, mask_logits: torch.Tensor, grid: tuple[int, int], block: int) -> torch.BoolTensor:
        """
        What the queries may attend to in a joint block in training, `(frames, queries, patches)`: patches inside their
        predicted masks; those that leave theirs out, all patches.
        """
        logits = nn.functional.interpolate(mask_logits, size=grid, mode="bilinear", align_corners=False)
        leaves_out = torch.rand(logits.shape[:2], device=logits.device) > self.attn_mask_probs[block]
        return (logits.flatten(2) > 0) | leaves_out[..., None]

    def find_prompted_patches(self, prompt: torch.Tensor) -> torch.BoolTensor:
        """
        What all queries may attend to in the first joint block, `(frames, queries, patches)`: patches inside the
        prompt `(frames, 1, h, w)`; in a frame in which nothing sounds, all patches.
        """
        is_open = prompt.flatten(2) >= 0.5
        is_open = is_open | ~is_open.any(dim=-1, keepdim=True)
        return is_open.expand(-1, self.config.num_queries, -1)

    def make_attention_mask(self, is_open: torch.BoolTensor, num_tokens: int, dtype: torch.dtype) -> torch.Tensor:
        """
        `(frames, queries, patches)`, True where a query may attend -> `(frames, 1, tokens, tokens)`, to be added to
        the attention logits. All other tokens may attend to all tokens, and the queries to all that are no patches.
        """
        _, num_queries, num_patches = is_open.shape
        mask = torch.zeros_like(is_open, dtype=dtype).masked_fill(~is_open, torch.finfo(dtype).min)
        return nn.functional.pad(mask, (num_tokens - num_patches, 0, 0, num_tokens - num_queries))[:, None]

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        input_features: torch.FloatTensor | None = None,
        audio_embeddings: torch.FloatTensor | None = None,
        prompt_masks: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EASEModelOutput:
        r"""
        pixel_values (`torch.FloatTensor` of shape `(num_frames, num_channels, height, width)`):
            Frames of one clip, or of several clips one after the other; height and width are multiples of 16.
        input_features (`torch.FloatTensor` of shape `(num_frames, 96, 64)`, *optional*):
            Log-mel patches of [`VGGishFeatureExtractor`], one per frame.
        audio_embeddings (`torch.FloatTensor` of shape `(num_frames, audio_embedding_dim)`, *optional*):
            Audio embeddings, one per frame, in place of `input_features`.
        prompt_masks (`torch.FloatTensor` of shape `(num_frames, prompt_height, prompt_width)`, *optional*):
            Masks of a localizer in [0, 1], of any resolution. Needed by a mask-prompted model
            (`config.use_mask_prompt=True`), refused by any other.
        """
        self.check_inputs(pixel_values, input_features, audio_embeddings, prompt_masks)
        grid = self.get_grid(pixel_values)
        num_patches = grid[0] * grid[1]
        if audio_embeddings is None:
            audio_embeddings = self.get_audio_embeddings(input_features)
        audio = self.audio_enhancer(audio_embeddings)
        hidden_states, block_kwargs = self.backbone.embed(pixel_values)

        prompt, mask_prompt = None, None
        # CODEPATH: mask-prompted models, which the released program does not have
        if self.config.use_mask_prompt:
            prompt = resize_prompt(prompt_masks, grid)
        # CODEPATH: the same, but for an ablation
        if self.config.mask_prompt_fusion:
            mask_prompt = resize_prompt(prompt_masks, (4 * grid[0], 4 * grid[1])).to(hidden_states.dtype)

        query_states, mask_logits, pair_features = (), (), None
        first_heard = min([self.config.first_joint_block, *self.config.fusion_blocks])
        for index, block in enumerate(self.backbone.blocks, start=self.config.first_block):
            # CODEPATH: released models have no pair loss
            if self.config.pair_loss_weight and index == first_heard:
                # The last map of what is only seen: from here on patches know of the sound, and so of the prompt.
                patches = hidden_states[:, -num_patches:].mT.unflatten(2, grid)
                pair_features = self.get_pair_features(audio.mean(dim=1), patches)
            # CODEPATH: the released recipes differ in these blocks
            if index in self.config.fusion_blocks:
                hidden_states = self.fuse(hidden_states, audio, num_patches)
            joint_index = index - self.config.first_joint_block
            if joint_index == 0:
                queries = self.query_generator(audio, **kwargs) + self.query.weight
                hidden_states = torch.cat([queries, hidden_states], dim=1)
                if self.prompt_states is not None:
                    block_kwargs["prompt_keys"] = self.prompt_states(prompt)
            if joint_index >= 0:
                is_open = None
                # In evaluation the released program has neither masks nor the predictions that make them.
                if self.training:
                    states, logits = self.predict(self.backbone.norm(hidden_states), grid, mask_prompt)
                    query_states, mask_logits = (*query_states, states), (*mask_logits, logits)
                    is_open = self.find_predicted_patches(logits, grid, joint_index)
                # CODEPATH: "origin" in all released models, "prompt" in mask-prompted ones
                if joint_index == 0 and self.config.attention_mask_init == "prompt":
                    is_open = self.find_prompted_patches(prompt)
                block_kwargs["attention_mask"] = (
                    self.make_attention_mask(is_open, hidden_states.shape[1], hidden_states.dtype)
                    if is_open is not None
                    else None
                )
            hidden_states = self.backbone.run_block(block, hidden_states, **block_kwargs, **kwargs)

        # CODEPATH: the released PVT-v2 has the norm of its last stage before the last fusion
        if self.config.is_pvt:
            hidden_states = self.fuse(self.backbone.norm(hidden_states), audio, num_patches)
        else:
            hidden_states = self.backbone.norm(self.fuse(hidden_states, audio, num_patches))
        states, logits = self.predict(hidden_states, grid, mask_prompt)
        return EASEModelOutput(
            last_hidden_state=hidden_states,
            query_states=(*query_states, states),
            mask_logits=(*mask_logits, logits),
            pair_features=pair_features,
        )


@auto_docstring(
    custom_intro="""
    EASE for audio-visual segmentation: sets of masks with classes, from frames and their sound.

    With two labels (background, sounding) it solves S4 and MS3 and is a first stage of Stepping Stones; with 71 labels
    it solves AVSS, with `config.use_mask_prompt` as the second stage, prompted with the masks of the first.
    """
)
class EASEForAudioVisualSegmentation(AudioVisualSegmentationMixin, EASEPreTrainedModel):
    def __init__(self, config: EASEConfig):
        super().__init__(config)
        self.model = EASEModel(config)
        self.class_predictor = nn.Linear(config.hidden_size, config.num_labels + 1)
        # Mask2Former's set loss with normalizers that can span an optimizer step; the released program has it without.
        self.criterion = MaskClassificationLoss(config)
        # CODEPATH: released models have no pair loss
        self.pair_head = make_pair_head(config, config.audio_hidden_size, config.hidden_size)

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
        return self.add_pair_normalizer(self.criterion.get_normalizers(batch["class_labels"]), batch["class_labels"])

    def load_backbone_weights(self, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> list[str]:
        """
        Starts the backbone from pretrained weights, such as `facebook/dinov3-vitb16-pretrain-lvd1689m` or
        `OpenGVLab/pvt_v2_b5`, or from a file of the official PVT-v2: see
        [`~models.backbones.load_backbone_weights`]. Of a PVT-v2 the last stage and, in the joint blocks, the spatial
        reduction are left out.
        """
        backbone = self.model.backbone
        source = backbone.read_weights(pretrained_model_name_or_path, **kwargs)
        fill_backbone(backbone, source, pretrained_model_name_or_path)
        return [name for name in self.state_dict() if not name.startswith("model.backbone.")]

    def get_parameter_groups(self, learning_rate: float, num_passes: int = 1) -> list[dict]:
        """
        Rates that decay from block to block, outside of the joint blocks: see
        [`AudioVisualSegmentationMixin.get_parameter_groups`].
        """
        return make_parameter_groups(self, learning_rate, num_passes)

    @torch.no_grad()
    def update_training_progress(self, step: int, num_steps: int) -> None:
        """
        Anneals the attention masks of the joint blocks: see [`AudioVisualSegmentationMixin.update_training_progress`].
        """
        for block, times in enumerate(zip(self.config.annealing_start, self.config.annealing_end)):
            self.model.attn_mask_probs[block] = get_mask_probability(step / num_steps, *times)

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
        **kwargs: Unpack[TransformersKwargs],
    ) -> EASEForAudioVisualSegmentationOutput:
        r"""
        pixel_values (`torch.FloatTensor` of shape `(num_frames, num_channels, height, width)`):
            Frames of one clip, or of several clips one after the other; height and width are multiples of 16.
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

        Example:

        ```python
        >>> import torch
        >>> from stepping_stones_hf import EASEConfig, EASEForAudioVisualSegmentation

        >>> backbone_config = {"model_type": "dinov3_vit", "num_register_tokens": 4}
        >>> model = EASEForAudioVisualSegmentation(EASEConfig(backbone_config=backbone_config)).eval()
        >>> with torch.no_grad():
        ...     outputs = model(pixel_values=torch.randn(5, 3, 64, 64), audio_embeddings=torch.randn(5, 128))
        >>> outputs.class_queries_logits.shape, outputs.masks_queries_logits.shape
        (torch.Size([5, 100, 3]), torch.Size([5, 100, 16, 16]))

        ```
        """
        if (mask_labels is None) != (class_labels is None):
            raise ValueError("Pass both `mask_labels` and `class_labels`, or neither.")
        outputs: EASEModelOutput = self.model(
            pixel_values=pixel_values,
            input_features=input_features,
            audio_embeddings=audio_embeddings,
            prompt_masks=prompt_masks,
            **kwargs,
        )
        predictions = [
            {"class_queries_logits": self.class_predictor(states), "masks_queries_logits": logits}
            for states, logits in zip(outputs.query_states, outputs.mask_logits)
        ]

        pair_logits = self.get_pair_logits(outputs.pair_features)
        loss, loss_dict = None, None
        if mask_labels is not None:
            num_items_in_batch, num_pairs = self.split_normalizers(num_items_in_batch)
            loss_dict = self.criterion(predictions, mask_labels, class_labels, num_items_in_batch)
            loss_dict |= self.get_pair_loss(pair_logits, class_labels, num_pairs)
            loss = sum(loss_dict.values())

        return EASEForAudioVisualSegmentationOutput(
            loss=loss,
            loss_dict=loss_dict,
            class_queries_logits=predictions[-1]["class_queries_logits"],
            masks_queries_logits=predictions[-1]["masks_queries_logits"],
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            pair_logits=pair_logits,
        )


__all__ = ["EASEForAudioVisualSegmentation", "EASEModel", "EASEPreTrainedModel"]
