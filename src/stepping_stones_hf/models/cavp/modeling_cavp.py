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
PyTorch CAVP: *Unraveling Instance Associations: A Closer Look for Audio-Visual Segmentation* (Chen et al., CVPR 2024,
https://huggingface.co/papers/2304.02970), with which *Stepping Stones* (https://huggingface.co/papers/2407.11820)
compares itself in section 4 of its supplement; and what section 4.3 of that paper makes of it, a second stage that is
prompted with masks.

DeepLabV3+ on a dilated ResNet: each frame for itself becomes a feature map of stride 4, whose pixels are open to its
second of sound through a gate each, and a convolutional head labels them. In training each frame is seen with the
sound of another one as well, and a contrastive loss keeps apart what sounds, what is silent, and background.

We follow the released program. Sound is a single key, for which a softmax would always be 1: the gates are sigmoids.
Left out is what takes part in nothing: positional embeddings, a classifier of sounds, and a second pass, in which
sound attends to the pixels, that is computed and dropped.
"""

import os
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from ..backbones import build_dilated_resnet, load_backbone_weights
from ..loss_base import check_labels, resize_logits
from ..modeling_base import (
    AudioVisualModelMixin,
    AudioVisualPreTrainedMixin,
    AudioVisualSegmentationMixin,
    init_as_torch,
    resize_prompt,
)
from ..pair_loss import make_pair_head
from ..vggish import VGGishModel
from .configuration_cavp import CAVPConfig
from .loss_cavp import CAVPLoss
from .sounds_cavp import SILENCE, CAVPSoundBank, find_classes, shuffle_sounds


# What learns faster than the rest, and by how much.
FAST_PARTS = ("model.decoder.", "head.")
FAST_FACTOR = 10


@auto_docstring(custom_intro="Output of [`CAVPModel`].")
@dataclass
class CAVPModelOutput(ModelOutput):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(num_frames, hidden_size, height / 4, width / 4)`):
        Mask features: `fused_features`, with the mask prompt added where `config.use_mask_prompt` is set.
    fused_features (`torch.FloatTensor` of shape `(num_frames, hidden_size, height / 4, width / 4)`):
        What is seen and heard.
    visual_features (`torch.FloatTensor` of shape `(num_frames, hidden_size, height / 4, width / 4)`):
        What is seen: output of the decoder.
    audio_embeddings (`torch.FloatTensor` of shape `(num_frames, audio_embedding_dim)`):
        What is heard.
    hidden_states (`tuple(torch.FloatTensor)`, *optional*, returned with `output_hidden_states=True`):
        Input and output of the fusion block, `(num_frames, height / 4 * width / 4, hidden_size)` each.
    attentions (`tuple(torch.FloatTensor)`, *optional*, returned with `output_attentions=True`):
        How far the gates are open, from 0 to 1, `(num_frames, num_attention_heads, height / 4 * width / 4, 1)`.
    pair_features (`tuple(torch.FloatTensor)`, *optional*, returned where `config.pair_loss_weight` is not 0):
        The projected sound and the mean of the backbone's last feature map, `(num_frames, channels)` each: what the
        pair loss compares.
    """

    last_hidden_state: torch.FloatTensor | None = None
    fused_features: torch.FloatTensor | None = None
    visual_features: torch.FloatTensor | None = None
    audio_embeddings: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    pair_features: tuple[torch.FloatTensor, torch.FloatTensor] | None = None


@auto_docstring(
    custom_intro="""
    Output of [`CAVPForAudioVisualSegmentation`]; [`~CAVPImageProcessor.post_process_semantic_segmentation`] turns it
    into label maps.
    """
)
@dataclass
class CAVPForAudioVisualSegmentationOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `()`, *optional*, returned when `labels` are given):
        Sum of the terms of `loss_dict`.
    loss_dict (`dict[str, torch.FloatTensor]`, *optional*, returned when `labels` are given):
        Weighted terms of the loss: `loss_segmentation` and, unless `config.contrastive_weight` is 0,
        `loss_contrastive`.
    logits (`torch.FloatTensor` of shape `(num_frames, num_labels, height, width)`):
        Logits of the labels.
    fused_features (`torch.FloatTensor` of shape `(num_frames, hidden_size, height / 4, width / 4)`):
        What is seen and heard, without the mask prompt: input of the contrastive loss.
    hidden_states (`tuple(torch.FloatTensor)`, *optional*, returned with `output_hidden_states=True`):
        Input and output of the fusion block, `(num_frames, height / 4 * width / 4, hidden_size)` each.
    attentions (`tuple(torch.FloatTensor)`, *optional*, returned with `output_attentions=True`):
        How far the gates are open, from 0 to 1, `(num_frames, num_attention_heads, height / 4 * width / 4, 1)`.
    pair_logits (`torch.FloatTensor` of shape `(num_frames,)`, *optional*, with `config.pair_loss_weight`):
        Whether a frame's sound goes with what is seen: a cosine, whose sigmoid is the probability that it does.
    """

    loss: torch.FloatTensor | None = None
    loss_dict: dict[str, torch.FloatTensor] | None = None
    logits: torch.FloatTensor | None = None
    fused_features: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    pair_logits: torch.FloatTensor | None = None


class CAVPASPP(nn.Module):
    """
    Atrous spatial pyramid pooling: parallel dilated convolutions of a feature map, and its mean. Both are normalized,
    projected, and normalized together; the single convolutions are not.
    """

    def __init__(self, config: CAVPConfig, in_channels: int):
        super().__init__()
        hidden_dim, output_dim = config.aspp_hidden_dim, config.aspp_dim
        self.convs = nn.ModuleList([nn.Conv2d(in_channels, hidden_dim, kernel_size=1, bias=False)])
        self.convs.extend(
            nn.Conv2d(in_channels, hidden_dim, kernel_size=3, padding=dilation, dilation=dilation, bias=False)
            for dilation in config.aspp_dilations
        )
        self.norm = nn.BatchNorm2d(len(self.convs) * hidden_dim)
        self.projection = nn.Conv2d(len(self.convs) * hidden_dim, output_dim, kernel_size=1, bias=False)
        self.pool_conv = nn.Conv2d(in_channels, hidden_dim, kernel_size=1, bias=False)
        self.pool_norm = nn.BatchNorm2d(hidden_dim)
        self.pool_projection = nn.Conv2d(hidden_dim, output_dim, kernel_size=1, bias=False)
        self.output_norm = nn.BatchNorm2d(output_dim)

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        # (frames, in_channels, h, w) -> (frames, aspp_dim, h, w)
        branches = torch.cat([conv(feature_map) for conv in self.convs], dim=1)
        branches = self.projection(nn.functional.leaky_relu(self.norm(branches)))
        pooled = self.pool_conv(feature_map.mean(dim=(2, 3), keepdim=True))
        pooled = self.pool_projection(nn.functional.leaky_relu(self.pool_norm(pooled)))
        return nn.functional.leaky_relu(self.output_norm(branches + pooled))


class CAVPDecoder(nn.Module):
    """From the backbone's first and last feature map to one of stride 4: the latter, resized, beside the former."""

    def __init__(self, config: CAVPConfig, fine_channels: int, coarse_channels: int):
        super().__init__()
        self.aspp = CAVPASPP(config, coarse_channels)
        self.low_level_conv = nn.Conv2d(fine_channels, config.low_level_dim, kernel_size=1, bias=False)
        self.low_level_norm = nn.BatchNorm2d(config.low_level_dim)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        # -> (frames, hidden_size, height / 4, width / 4)
        fine = nn.functional.relu(self.low_level_norm(self.low_level_conv(fine)))
        coarse = self.aspp(coarse)
        coarse = nn.functional.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=True)
        return torch.cat([coarse, fine], dim=1)


class CAVPMLP(nn.Module):
    def __init__(self, size: int, hidden_size: int):
        super().__init__()
        self.fc1 = nn.Linear(size, hidden_size)
        self.fc2 = nn.Linear(hidden_size, size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(hidden_states)))


class CAVPGate(nn.Module):
    """
    Attention of pixels to a single sound, with a sigmoid: for each head a pixel gets the sound's value as far as its
    query goes with the sound's key.
    """

    def __init__(self, config: CAVPConfig):
        super().__init__()
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def split_heads(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # (frames, n, hidden_size) -> (frames, heads, n, head_dim)
        return hidden_states.unflatten(2, (-1, self.head_dim)).transpose(1, 2)

    def forward(
        self,
        pixels: torch.Tensor,  # (frames, h * w, hidden_size)
        sound: torch.Tensor,  # (frames, 1, hidden_size)
    ) -> tuple[torch.Tensor, torch.Tensor]:
        query = self.split_heads(self.q_proj(pixels))
        key, value = self.split_heads(self.k_proj(sound)), self.split_heads(self.v_proj(sound))
        gates = torch.sigmoid(query @ key.mT * self.scaling)  # (frames, heads, h * w, 1)
        return self.o_proj((gates * value).transpose(1, 2).flatten(2)), gates


class CAVPFusionBlock(GradientCheckpointingLayer):
    """
    Pixels listen to a sound. Other than in a usual transformer block what the gates let through is added to what was
    normalized before, and one layer norm serves both pixels and sound.
    """

    def __init__(self, config: CAVPConfig):
        super().__init__()
        self.layer_norm_before = nn.LayerNorm(config.hidden_size)
        self.gate = CAVPGate(config)
        self.layer_norm_after = nn.LayerNorm(config.hidden_size)
        self.mlp = CAVPMLP(config.hidden_size, config.intermediate_size)

    def forward(
        self,
        pixels: torch.Tensor,  # (frames, h * w, hidden_size)
        sound: torch.Tensor,  # (frames, 1, hidden_size)
    ) -> torch.Tensor:
        pixels = self.layer_norm_before(pixels)
        let_through, _ = self.gate(pixels, self.layer_norm_before(sound))
        pixels = pixels + let_through
        return pixels + self.mlp(self.layer_norm_after(pixels))


class CAVPFusion(nn.Module):
    """From what is seen and what is heard to features of both."""

    def __init__(self, config: CAVPConfig):
        super().__init__()
        self.visual_projector = CAVPMLP(config.hidden_size, config.projector_dim)
        self.visual_embed = nn.Linear(config.hidden_size, config.hidden_size)
        self.audio_embed = nn.Linear(config.audio_embedding_dim, config.hidden_size)
        self.block = CAVPFusionBlock(config)
        self.layer_norm = nn.LayerNorm(config.hidden_size)

    def forward(
        self,
        visual_features: torch.Tensor,  # (frames, hidden_size, h, w)
        audio_embeddings: torch.Tensor,  # (frames, audio_embedding_dim)
    ) -> torch.Tensor:
        pixels = visual_features.flatten(2).mT  # (frames, h * w, hidden_size)
        pixels = self.visual_embed(self.visual_projector(pixels))
        pixels = self.block(pixels, self.audio_embed(audio_embeddings)[:, None])
        return self.layer_norm(pixels).mT.unflatten(2, visual_features.shape[-2:])  # (frames, hidden_size, h, w)


class CAVPHead(nn.Module):
    """From mask features to logits of the same size."""

    def __init__(self, config: CAVPConfig):
        super().__init__()
        self.conv1 = nn.Conv2d(config.hidden_size, config.head_dim, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(config.head_dim)
        self.conv2 = nn.Conv2d(config.head_dim, config.head_dim, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(config.head_dim)
        self.classifier = nn.Conv2d(config.head_dim, config.num_labels, kernel_size=1)

    def forward(self, mask_features: torch.Tensor) -> torch.Tensor:
        hidden_states = nn.functional.relu(self.norm1(self.conv1(mask_features)))
        hidden_states = nn.functional.relu(self.norm2(self.conv2(hidden_states)))
        return self.classifier(hidden_states)


@auto_docstring
class CAVPPreTrainedModel(AudioVisualPreTrainedMixin, PreTrainedModel):
    config: CAVPConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image", "audio")
    supports_gradient_checkpointing = True
    _no_split_modules = ["CAVPASPP", "CAVPFusionBlock"]
    _can_record_outputs = {"hidden_states": CAVPFusionBlock, "attentions": OutputRecorder(CAVPGate, index=1)}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        # The released program leaves these at torch's defaults.
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            init_as_torch(module)
        elif isinstance(module, CAVPSoundBank):
            init.constant_(module.sounds, SILENCE)
            init.zeros_(module.num_steps)


@auto_docstring(
    custom_intro="""
    CAVP without a head: backbone, decoder, audio encoder, and the fusion of what is seen with what is heard.
    """
)
class CAVPModel(AudioVisualModelMixin, CAVPPreTrainedModel):
    def __init__(self, config: CAVPConfig):
        # Again, because `from_pretrained(..., field=value)` sets fields after the config has checked itself.
        config.validate_architecture()
        super().__init__(config)
        self.backbone = build_dilated_resnet(config.backbone_config)
        # CODEPATH: models of one's own that take embeddings; released checkpoints have the audio encoder in them
        self.audio_encoder = VGGishModel(config.audio_config) if config.audio_config is not None else None
        self.decoder = CAVPDecoder(config, *self.backbone.channels)
        self.fusion = CAVPFusion(config)

        self.post_init()

    def check_inputs(
        self,
        pixel_values: torch.FloatTensor,
        input_features: torch.FloatTensor | None,
        audio_embeddings: torch.FloatTensor | None,
        prompt_masks: torch.FloatTensor | None,
    ) -> None:
        """Raises a `ValueError` if the inputs do not fit one another or the model."""
        super().check_inputs(pixel_values, input_features, audio_embeddings, prompt_masks)
        if self.training and pixel_values.shape[0] == 1:
            raise ValueError(
                "`pixel_values` has 1 frame. In training CAVP takes at least 2, whose means a batch norm compares and "
                "whose sounds are exchanged: make batches larger."
            )

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
    ) -> CAVPModelOutput:
        r"""
        pixel_values (`torch.FloatTensor` of shape `(num_frames, num_channels, height, width)`):
            Frames, of any clips.
        input_features (`torch.FloatTensor` of shape `(num_frames, 96, 64)`, *optional*):
            Log-mel patches of [`CAVPFeatureExtractor`], one per frame.
        audio_embeddings (`torch.FloatTensor` of shape `(num_frames, audio_embedding_dim)`, *optional*):
            Audio embeddings, one per frame, in place of `input_features`.
        prompt_masks (`torch.FloatTensor` of shape `(num_frames, prompt_height, prompt_width)`, *optional*):
            Masks of a localizer in [0, 1], of any resolution. Needed by a second-stage model
            (`config.use_mask_prompt=True`), refused by any other.
        """
        self.check_inputs(pixel_values, input_features, audio_embeddings, prompt_masks)
        if audio_embeddings is None:
            audio_embeddings = self.get_audio_embeddings(input_features)
        feature_maps = self.backbone(pixel_values).feature_maps
        visual_features = self.decoder(*feature_maps)
        fused_features = self.fusion(visual_features, audio_embeddings)
        mask_features = fused_features
        if prompt_masks is not None:
            prompts = resize_prompt(prompt_masks, mask_features.shape[-2:])
            mask_features = mask_features + prompts.to(mask_features.dtype)
        pair_features = None
        # CODEPATH: released models have no pair loss
        if self.config.pair_loss_weight:
            pair_features = self.get_pair_features(self.fusion.audio_embed(audio_embeddings), feature_maps[-1])
        return CAVPModelOutput(
            last_hidden_state=mask_features,
            fused_features=fused_features,
            visual_features=visual_features,
            audio_embeddings=audio_embeddings,
            pair_features=pair_features,
        )


@auto_docstring(
    custom_intro="""
    CAVP for audio-visual segmentation: a label for each pixel, from frames and their sound.

    With two labels (background, sounding) it solves S4 and MS3 and is a first stage of Stepping Stones; with 71 labels
    it solves AVSS, with `config.use_mask_prompt` as the second stage, prompted with the masks of the first.
    """
)
class CAVPForAudioVisualSegmentation(AudioVisualSegmentationMixin, CAVPPreTrainedModel):
    def __init__(self, config: CAVPConfig):
        super().__init__(config)
        self.model = CAVPModel(config)
        self.head = CAVPHead(config)
        self.criterion = CAVPLoss(config)
        # CODEPATH: only the released training on all of AVSS has one
        self.sound_bank = CAVPSoundBank(config) if config.sound_bank_size else None
        # CODEPATH: released models have no pair loss
        self.pair_head = make_pair_head(config, config.hidden_size, self.model.backbone.channels[-1])

        self.post_init()

    def get_loss_normalizers(self, batch: dict) -> torch.FloatTensor:
        r"""
        What the loss of a batch is divided by: see [`CAVPLoss`].

        Args:
            batch (`dict`):
                Inputs of the model, of which `labels` are read.

        Returns:
            `torch.FloatTensor` of shape `(2,)`: the number of annotated pixels and the number of batches, 1.
        """
        return self.add_pair_normalizer(self.criterion.get_normalizers(batch["labels"]), batch["labels"])

    def load_audio_encoder_weights(self, state_dict: dict[str, torch.Tensor]) -> None:
        """
        Starts VGGish from torchvggish's weights. Its last layer keeps its initial ones where embeddings have another
        size, as in the released models (304 in place of 128): so the released training begins.

        Args:
            state_dict (`dict[str, torch.Tensor]`):
                Of a [`VGGishModel`], as [`load_vggish`] makes one of torchvggish's checkpoint.
        """
        encoder = self.model.audio_encoder
        if len(state_dict["projection.bias"]) != encoder.config.embedding_dim:
            new = {f"projection.{name}": value for name, value in encoder.projection.state_dict().items()}
            state_dict = state_dict | new
        super().load_audio_encoder_weights(state_dict)

    def load_backbone_weights(self, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> list[str]:
        """
        Starts the backbone from a ResNet with a deep stem that was trained on ImageNet, a `.pth` or `.safetensors`
        file: see [`~models.backbones.load_backbone_weights`]. torchvision's ResNets and `microsoft/resnet-50` have
        another stem, and are refused.
        """
        load_backbone_weights(self.model.backbone, pretrained_model_name_or_path, **kwargs)
        return [name for name in self.state_dict() if not name.startswith("model.backbone.")]

    def get_parameter_groups(self, learning_rate: float, num_passes: int = 1) -> list[dict]:
        """
        The groups of an optimizer, as in the released training: decoder and head learn ten times as fast as the rest.
        Biases and batch norms of backbone, decoder and head do not decay, nor does the audio encoder.

        Args:
            learning_rate (`float`):
                The rate of the backbone.
            num_passes (`int`, *optional*, defaults to 1):
                Not read.

        Returns:
            `list[dict]`: `params`, `lr` and, where it is 0, `weight_decay`. The last group is the audio encoder,
            unless it is frozen: the released program trains it by Adam with a constant rate, all else by SGD.
        """
        groups, heard = {}, []
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            if name.startswith("model.audio_encoder."):
                heard.append(parameter)
                continue
            factor = FAST_FACTOR if name.startswith(FAST_PARTS) else 1
            decays = parameter.ndim > 1 or name.startswith("model.fusion.")
            groups.setdefault((factor, decays), []).append(parameter)
        groups = [
            {"params": parameters, "lr": factor * learning_rate} | ({} if decays else {"weight_decay": 0.0})
            for (factor, decays), parameters in groups.items()
        ]
        return groups + ([{"params": heard, "lr": learning_rate, "weight_decay": 0.0}] if heard else [])

    def hear_other_sounds(
        self,
        audio_embeddings: torch.FloatTensor,
        input_features: torch.FloatTensor | None,
        classes: torch.BoolTensor,
    ) -> tuple[torch.FloatTensor, torch.BoolTensor]:
        """
        Gives each frame another sound: that of a frame of the batch or, with a sound bank, of an earlier one.

        Args:
            audio_embeddings (`torch.FloatTensor` of shape `(num_frames, audio_embedding_dim)`):
                The frames' own sounds, embedded.
            input_features (`torch.FloatTensor` of shape `(num_frames, 96, 64)`, *optional*):
                The same as log-mel patches. Needed by a sound bank in training.
            classes (`torch.BoolTensor` of shape `(num_frames, num_classes)`):
                Which classes are in a frame.

        Returns:
            `tuple[torch.FloatTensor, torch.BoolTensor]`: the other sounds, embedded, and `(num_frames,)`, whether they
            go with the frames.
        """
        order, matches = shuffle_sounds(classes)
        others = audio_embeddings[order]
        # CODEPATH: the released training on all of AVSS
        if self.sound_bank is not None and self.training:
            if input_features is None:
                raise ValueError(
                    "The sound bank (config.sound_bank_size) keeps sounds, not their embeddings: in training pass "
                    "`input_features`."
                )
            frames, sounds = self.sound_bank.draw(classes, matches)
            if len(frames):
                embeddings = self.model.get_audio_embeddings(sounds.to(input_features.dtype))
                others = others.index_copy(0, frames, embeddings)
                matches = matches.index_fill(0, frames, True)
            self.sound_bank.add(input_features, classes)
        return others, matches

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        input_features: torch.FloatTensor | None = None,
        audio_embeddings: torch.FloatTensor | None = None,
        prompt_masks: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        image_labels: torch.BoolTensor | None = None,
        num_items_in_batch: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CAVPForAudioVisualSegmentationOutput:
        r"""
        pixel_values (`torch.FloatTensor` of shape `(num_frames, num_channels, height, width)`):
            Frames, of any clips.
        input_features (`torch.FloatTensor` of shape `(num_frames, 96, 64)`, *optional*):
            Log-mel patches of [`CAVPFeatureExtractor`], one per frame.
        audio_embeddings (`torch.FloatTensor` of shape `(num_frames, audio_embedding_dim)`, *optional*):
            Audio embeddings, one per frame, in place of `input_features`.
        prompt_masks (`torch.FloatTensor` of shape `(num_frames, prompt_height, prompt_width)`, *optional*):
            Masks of a localizer in [0, 1], of any resolution. Needed by a second-stage model
            (`config.use_mask_prompt=True`), refused by any other.
        labels (`torch.LongTensor` of shape `(num_frames, label_height, label_width)`, *optional*):
            Class of each pixel, or 255 where there is none.
        image_labels (`torch.BoolTensor` of shape `(num_frames, num_classes)`, *optional*):
            Which classes are in each frame, background among them: the sound of another frame goes with a frame that
            has the same ones. For localizers, whose `labels` do not tell; defaults to what is in `labels`.
        num_items_in_batch (`torch.FloatTensor` of shape `(2,)`, *optional*):
            Normalizers of the loss over a whole optimizer step, see `get_loss_normalizers`. Defaults to those of the
            frames at hand.

        Example:

        ```python
        >>> import torch
        >>> from stepping_stones_hf import CAVPConfig, CAVPForAudioVisualSegmentation

        >>> model = CAVPForAudioVisualSegmentation(CAVPConfig(num_labels=2)).eval()
        >>> with torch.no_grad():
        ...     outputs = model(pixel_values=torch.randn(3, 3, 64, 80), audio_embeddings=torch.rand(3, 304))
        >>> outputs.logits.shape
        torch.Size([3, 2, 64, 80])

        ```
        """
        outputs: CAVPModelOutput = self.model(
            pixel_values=pixel_values,
            input_features=input_features,
            audio_embeddings=audio_embeddings,
            prompt_masks=prompt_masks,
            **kwargs,
        )
        mask_features = outputs.last_hidden_state

        other_features, matches = None, None
        if labels is not None:
            check_labels(labels, len(pixel_values), self.config.num_labels)
        # CODEPATH: all released training has the contrastive loss
        if labels is not None and self.config.contrastive_weight:
            classes = find_classes(labels, self.config.num_labels) if image_labels is None else image_labels.bool()
            others, matches = self.hear_other_sounds(outputs.audio_embeddings, input_features, classes)
            other_features = other_mask_features = self.model.fusion(outputs.visual_features, others)
            if prompt_masks is not None:
                # Where nothing of what is seen is heard a localizer marks nothing.
                prompts = resize_prompt(prompt_masks, other_features.shape[-2:]) * matches[:, None, None, None]
                other_mask_features = other_features + prompts.to(other_features.dtype)
            # The head's batch norms see frames with other sounds, too.
            mask_features = torch.cat([mask_features, other_mask_features])
        logits = resize_logits(self.head(mask_features)[: len(pixel_values)], pixel_values.shape[-2:])

        pair_logits = self.get_pair_logits(outputs.pair_features)
        loss, loss_dict = None, None
        if labels is not None:
            num_items_in_batch, num_pairs = self.split_normalizers(num_items_in_batch)
            loss_dict = self.criterion(
                logits, labels, outputs.fused_features, other_features, matches, num_items_in_batch
            )
            loss_dict |= self.get_pair_loss(pair_logits, labels, num_pairs)
            loss = sum(loss_dict.values())

        return CAVPForAudioVisualSegmentationOutput(
            loss=loss,
            loss_dict=loss_dict,
            logits=logits,
            fused_features=outputs.fused_features,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            pair_logits=pair_logits,
        )


__all__ = ["CAVPForAudioVisualSegmentation", "CAVPModel", "CAVPPreTrainedModel"]
