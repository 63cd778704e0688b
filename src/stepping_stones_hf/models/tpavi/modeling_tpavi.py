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
PyTorch TPAVI, the baseline of AVSBench: *Audio-Visual Segmentation* (Zhou et al., ECCV 2022,
https://huggingface.co/papers/2207.05042) for S4 and MS3, *Audio-Visual Segmentation with Semantics* (Zhou et al.,
https://huggingface.co/papers/2301.13190) for AVSS; and what *Stepping Stones* (https://huggingface.co/papers/2407.11820,
section 4.3) makes of it, a second stage that is prompted with masks.

Four feature maps of a backbone pass through dilated convolutions and through one block each of temporal pixel-wise
audio-visual interaction (TPAVI), in which each pixel of five consecutive frames attends to the sounds of the five;
then through a feature pyramid and a convolutional head, to one logit per pixel and label (one in all for two labels).

Where paper and released programs differ we follow the programs, which the released checkpoints fit: groups have five
frames whatever the clip's length; attention has no softmax; the maps that the matching loss sees are rectified, since
the decoder rectifies its inputs in place. Theirs compares each pixel with each other one; here is the same sum in the
closed form that it has because it has no softmax, see `attend`. What takes part in nothing is left out: half of the
decoder's first block, and a second copy of ResNet's last two stages.
"""

import math
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
from transformers.utils.output_capturing import capture_outputs

from ..backbones import build_backbone, load_backbone_weights
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
from .configuration_tpavi import TPAVIConfig
from .loss_tpavi import TPAVILoss


# Strides of the four feature maps; a frame's height and width are multiples of the last.
FEATURE_STRIDES = (4, 8, 16, 32)

NECK_INIT_STD = 0.01


@auto_docstring(custom_intro="Output of [`TPAVIModel`].")
@dataclass
class TPAVIModelOutput(ModelOutput):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(num_frames, hidden_dim, height / 2, width / 2)`):
        Mask features: output of the decoder, with the mask prompt added where `config.use_mask_prompt` is set.
    feature_maps (`tuple(torch.FloatTensor)`):
        Rectified outputs of the four TPAVI blocks, each `(num_frames, hidden_dim, height / stride, width / stride)`
        for strides 4, 8, 16 and 32: inputs of the decoder and of the matching loss.
    audio_features (`tuple(torch.FloatTensor)`):
        Projected audio embeddings of the four blocks, each `(num_frames, hidden_dim)`.
    hidden_states (`tuple(torch.FloatTensor)`, *optional*, returned with `output_hidden_states=True`):
        Input of the first TPAVI block, and outputs of the four before they are rectified.
    pair_features (`tuple(torch.FloatTensor)`, *optional*, returned where `config.pair_loss_weight` is not 0):
        The projected sound and the mean of the backbone's last feature map, `(num_frames, channels)` each: what the
        pair loss compares.
    """

    last_hidden_state: torch.FloatTensor | None = None
    feature_maps: tuple[torch.FloatTensor, ...] | None = None
    audio_features: tuple[torch.FloatTensor, ...] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    pair_features: tuple[torch.FloatTensor, torch.FloatTensor] | None = None


@auto_docstring(
    custom_intro="""
    Output of [`TPAVIForAudioVisualSegmentation`]; [`~TPAVIImageProcessor.post_process_semantic_segmentation`] turns it
    into label maps.
    """
)
@dataclass
class TPAVIForAudioVisualSegmentationOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor` of shape `()`, *optional*, returned when `labels` are given):
        Sum of the terms of `loss_dict`.
    loss_dict (`dict[str, torch.FloatTensor]`, *optional*, returned when `labels` are given):
        Weighted terms of the loss: `loss_segmentation` and, unless `config.avm_loss` is `None`, `loss_avm`.
    logits (`torch.FloatTensor` of shape `(num_frames, num_labels, height, width)`):
        Logits of the labels; with two labels a single one, that something sounds at a pixel.
    feature_maps (`tuple(torch.FloatTensor)`):
        Rectified outputs of the four TPAVI blocks, each `(num_frames, hidden_dim, height / stride, width / stride)`.
    audio_features (`tuple(torch.FloatTensor)`):
        Projected audio embeddings of the four blocks, each `(num_frames, hidden_dim)`.
    hidden_states (`tuple(torch.FloatTensor)`, *optional*, returned with `output_hidden_states=True`):
        Input of the first TPAVI block, and outputs of the four before they are rectified.
    pair_logits (`torch.FloatTensor` of shape `(num_frames,)`, *optional*, with `config.pair_loss_weight`):
        Whether a frame's sound goes with what is seen: a cosine, whose sigmoid is the probability that it does.
    """

    loss: torch.FloatTensor | None = None
    loss_dict: dict[str, torch.FloatTensor] | None = None
    logits: torch.FloatTensor | None = None
    feature_maps: tuple[torch.FloatTensor, ...] | None = None
    audio_features: tuple[torch.FloatTensor, ...] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    pair_logits: torch.FloatTensor | None = None


class TPAVINeck(nn.Module):
    """From one feature map of the backbone to `hidden_dim` channels: the sum of parallel dilated convolutions."""

    def __init__(self, config: TPAVIConfig, in_channels: int):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(in_channels, config.hidden_dim, kernel_size=3, padding=dilation, dilation=dilation)
            for dilation in config.neck_dilations
        )

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        return sum(conv(feature_map) for conv in self.convs)


@dataclass
class ClipPadding:
    """
    Where the frames of a batch stand once each clip is filled up with empty frames.

    Attributes:
        positions (`torch.LongTensor` of shape `(frames,)`): index of each frame among `length`.
        length (`int`): number of frames with the empty ones.
    """

    positions: torch.LongTensor
    length: int

    def fill(self, tensor: torch.Tensor) -> torch.Tensor:
        """`(frames, ...)` -> `(length, ...)` with zeros for the empty frames."""
        return tensor.new_zeros(self.length, *tensor.shape[1:]).index_copy(0, self.positions, tensor)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """
    Attention by dot products, without softmax: `(query @ key.T) @ value`, divided by the number of keys. Multiplied in
    this order it takes no matrix of queries by keys.

    Args:
        query (`torch.Tensor` of shape `(clips, queries, channels)`):
            One for each pixel of a clip.
        key (`torch.Tensor` of shape `(clips, keys, channels)`), value (`torch.Tensor` of the same shape):
            One for each frame of a clip, or for each pixel.

    Returns:
        `torch.Tensor` of shape `(clips, queries, channels)`.
    """
    # Divided first: a sum over the pixels of a clip is more than float16 can hold.
    return query @ ((key / key.shape[1]).mT @ value)


class TPAVIBlock(nn.Module):
    """
    Temporal pixel-wise audio-visual interaction at one resolution. A pixel's query is compared with keys of the sound;
    the values are those of the pixels in the frame of that sound. Since a frame has one key for all of its pixels,
    their values can be averaged before, and since values are linear in the features, so can the features.
    """

    def __init__(self, config: TPAVIConfig):
        super().__init__()
        self.clip_length = config.clip_length
        self.source = config.attention_source
        inner_dim = config.hidden_dim // 2
        self.audio_projection = nn.Linear(
            config.audio_embedding_dim, config.hidden_dim, bias=config.audio_projection_bias
        )
        self.query = nn.Linear(config.hidden_dim, inner_dim)
        self.key = nn.Linear(config.hidden_dim, inner_dim)
        self.value = nn.Linear(config.hidden_dim, inner_dim)
        self.out_proj = nn.Linear(inner_dim, config.hidden_dim)
        self.batch_norm = nn.BatchNorm1d(config.hidden_dim)
        self.layer_norm = nn.LayerNorm(config.hidden_dim)

    def interact(self, pixels: torch.Tensor, sources: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Of pixels `(clips, pixels, hidden_dim)` new ones of the same shape, after they looked at the sources."""
        attended = attend(self.query(pixels), self.key(sources), self.value(values))
        update = self.batch_norm(self.out_proj(attended).flatten(0, 1)).view_as(pixels)
        return self.layer_norm(pixels + update)

    def forward(
        self,
        feature_map: torch.Tensor,  # (frames, hidden_dim, h, w)
        audio_embeddings: torch.Tensor,  # (frames, audio_embedding_dim)
        padding: ClipPadding | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        height, width = feature_map.shape[-2:]
        frames = feature_map.flatten(2).mT  # (frames, h * w, hidden_dim)
        if padding is not None:
            frames, audio_embeddings = padding.fill(frames), padding.fill(audio_embeddings)
        audio_features = self.audio_projection(audio_embeddings)

        frames = frames.unflatten(0, (-1, self.clip_length))  # (clips, clip_length, h * w, hidden_dim)
        pixels = frames.flatten(1, 2)
        sounds = audio_features.unflatten(0, (-1, self.clip_length))  # (clips, clip_length, hidden_dim)
        # CODEPATH: all released checkpoints attend to sound; "visual" and "both" are the released program's ablations
        outputs = []
        if self.source in ("audio", "both"):
            outputs.append(self.interact(pixels, sounds, frames.mean(2)))
        if self.source in ("visual", "both"):
            outputs.append(self.interact(pixels, pixels, pixels))
        output = sum(outputs) / len(outputs)

        output = output.reshape(-1, height * width, output.shape[-1])  # (frames, h * w, hidden_dim)
        if padding is not None:
            output, audio_features = output[padding.positions], audio_features[padding.positions]
        return output.mT.unflatten(2, (height, width)), audio_features


class TPAVIResidualConvUnit(nn.Module):
    """Two convolutions of a rectified map, added to that map: the skip connection is rectified, too."""

    def __init__(self, hidden_dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(hidden_dim, hidden_dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(hidden_dim, hidden_dim, kernel_size=3, padding=1)

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        feature_map = nn.functional.relu(feature_map)
        return self.conv2(nn.functional.relu(self.conv1(feature_map))) + feature_map


class TPAVIFusionBlock(GradientCheckpointingLayer):
    """A level of the decoder: adds its feature map to what comes from the coarser level, refines, doubles the size."""

    def __init__(self, config: TPAVIConfig, is_coarsest: bool):
        super().__init__()
        # The coarsest level has nothing to add to.
        self.skip_unit = None if is_coarsest else TPAVIResidualConvUnit(config.hidden_dim)
        self.output_unit = TPAVIResidualConvUnit(config.hidden_dim)

    def forward(self, feature_map: torch.Tensor, coarser: torch.Tensor | None = None) -> torch.Tensor:
        # (frames, hidden_dim, h, w) and the same shape -> (frames, hidden_dim, 2 * h, 2 * w)
        if coarser is not None:
            feature_map = coarser + self.skip_unit(feature_map)
        feature_map = self.output_unit(feature_map)
        return nn.functional.interpolate(feature_map, scale_factor=2, mode="bilinear", align_corners=True)


class TPAVIHead(nn.Module):
    """From mask features at half the size of a frame to logits at its full size."""

    def __init__(self, config: TPAVIConfig):
        super().__init__()
        first, second = config.head_hidden_sizes
        # CODEPATH: the released models for S4 and MS3 have a single logit, those for AVSS one for each label
        num_logits = 1 if config.num_labels == 2 else config.num_labels
        self.conv1 = nn.Conv2d(config.hidden_dim, first, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(first, second, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(second, num_logits, kernel_size=1)

    def forward(self, mask_features: torch.Tensor) -> torch.Tensor:
        hidden_states = self.conv1(mask_features)
        hidden_states = nn.functional.interpolate(hidden_states, scale_factor=2, mode="bilinear", align_corners=False)
        return self.conv3(nn.functional.relu(self.conv2(hidden_states)))


@auto_docstring
class TPAVIPreTrainedModel(AudioVisualPreTrainedMixin, PreTrainedModel):
    config: TPAVIConfig
    base_model_prefix = "model"
    main_input_name = "pixel_values"
    input_modalities = ("image", "audio")
    supports_gradient_checkpointing = True
    _no_split_modules = ["TPAVIBlock", "TPAVIFusionBlock"]
    _can_record_outputs = {"hidden_states": TPAVIBlock}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        # The released programs leave most layers at torch's defaults.
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            init_as_torch(module)
        elif isinstance(module, TPAVINeck):
            for conv in module.convs:
                init.normal_(conv.weight, std=NECK_INIT_STD)
        elif isinstance(module, TPAVIBlock):
            # A new block changes nothing but the scale.
            init.zeros_(module.batch_norm.weight)


@auto_docstring(
    custom_intro="""
    TPAVI without a head: backbone, neck, the four blocks of audio-visual interaction and the decoder.
    """
)
class TPAVIModel(AudioVisualModelMixin, TPAVIPreTrainedModel):
    def __init__(self, config: TPAVIConfig):
        # Again, because `from_pretrained(..., field=value)` sets fields after the config has checked itself.
        config.validate_architecture()
        super().__init__(config)
        self.backbone = build_backbone(config.backbone_config)
        # CODEPATH: checkpoints converted without VGGish take embeddings
        self.audio_encoder = VGGishModel(config.audio_config) if config.audio_config is not None else None
        self.necks = nn.ModuleList(TPAVINeck(config, channels) for channels in self.backbone.channels)
        self.blocks = nn.ModuleList(TPAVIBlock(config) for _ in FEATURE_STRIDES)
        # From the coarsest level to the finest, as the others are in order of stride.
        self.decoder = nn.ModuleList(
            TPAVIFusionBlock(config, is_coarsest=stride == FEATURE_STRIDES[-1]) for stride in FEATURE_STRIDES
        )

        self.post_init()

    def get_clip_padding(
        self, pixel_values: torch.FloatTensor, num_frames: torch.LongTensor | None
    ) -> ClipPadding | None:
        """The [`ClipPadding`] of a batch, or `None` where all clips fill their groups."""
        total, device, group = pixel_values.shape[0], pixel_values.device, self.config.clip_length
        shortest = group
        # CODEPATH: the released training on AVSS
        if self.training and self.config.padded_clip_length is not None:
            shortest = self.config.padded_clip_length
        if num_frames is None:
            length = max(math.ceil(total / group) * group, shortest)
            return ClipPadding(torch.arange(total, device=device), length) if length != total else None
        num_frames = num_frames.to(device)
        padded = num_frames.add(group - 1).div(group, rounding_mode="floor").mul(group).clamp(min=shortest)
        length = int(padded.sum())
        if length == total:
            return None
        # Each frame moves by as many empty frames as the clips before its own have.
        moves = torch.cumsum(padded - num_frames, dim=0) - (padded - num_frames)
        positions = torch.arange(total, device=device) + moves.repeat_interleave(num_frames, output_size=total)
        return ClipPadding(positions, length)

    def check_inputs(
        self,
        pixel_values: torch.FloatTensor,
        input_features: torch.FloatTensor | None,
        audio_embeddings: torch.FloatTensor | None,
        prompt_masks: torch.FloatTensor | None,
        num_frames: torch.LongTensor | None,
    ) -> None:
        """Raises a `ValueError` if the inputs do not fit one another or the model."""
        super().check_inputs(pixel_values, input_features, audio_embeddings, prompt_masks)
        check_frame_size(pixel_values, FEATURE_STRIDES[-1])
        if num_frames is not None:
            if num_frames.ndim != 1 or num_frames.is_floating_point():
                raise ValueError(
                    "`num_frames` must hold the number of frames of each clip as integers of shape (num_clips,), got "
                    f"{num_frames.dtype} of shape {tuple(num_frames.shape)}."
                )
            total = pixel_values.shape[0]
            if int(num_frames.sum()) != total or int(num_frames.min()) < 1:
                raise ValueError(
                    f"`num_frames` counts {int(num_frames.sum())} frames, the shortest clip {int(num_frames.min())}; "
                    f"`pixel_values` has {total}. It must hold the number of frames of each clip, at least 1, which "
                    "follow one another in `pixel_values`."
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
        num_frames: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TPAVIModelOutput:
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
        num_frames (`torch.LongTensor` of shape `(num_clips,)`, *optional*):
            Number of frames of each clip. Without it all frames are of one clip. A clip is treated in groups of
            `config.clip_length` frames, the last one filled up with empty frames, for which nothing is returned.
        """
        self.check_inputs(pixel_values, input_features, audio_embeddings, prompt_masks, num_frames)
        if audio_embeddings is None:
            audio_embeddings = self.get_audio_embeddings(input_features)
        padding = self.get_clip_padding(pixel_values, num_frames)

        # CODEPATH: ResNet, whose batch norms see the empty frames in the released training
        if padding is not None and self.training and self.config.backbone_config.model_type == "resnet":
            backbone_maps = self.backbone(padding.fill(pixel_values)).feature_maps
            backbone_maps = [feature_map[padding.positions] for feature_map in backbone_maps]
        else:
            backbone_maps = self.backbone(pixel_values).feature_maps

        feature_maps, audio_features = (), ()
        for neck, block, backbone_map in zip(self.necks, self.blocks, backbone_maps):
            feature_map, audio = block(neck(backbone_map), audio_embeddings, padding)
            feature_maps += (nn.functional.relu(feature_map),)
            audio_features += (audio,)

        hidden_states = self.decoder[-1](feature_maps[-1])
        for fusion_block, feature_map in zip(self.decoder[-2::-1], feature_maps[-2::-1]):
            hidden_states = fusion_block(feature_map, hidden_states)
        if prompt_masks is not None:
            hidden_states = hidden_states + resize_prompt(prompt_masks, hidden_states.shape[-2:]).to(hidden_states)
        return TPAVIModelOutput(
            last_hidden_state=hidden_states,
            feature_maps=feature_maps,
            audio_features=audio_features,
            # Each block projects sounds in a way of its own: the last one for the last feature map.
            pair_features=self.get_pair_features(audio_features[-1], backbone_maps[-1]),
        )


@auto_docstring(
    custom_intro="""
    TPAVI for audio-visual segmentation: a label for each pixel, from frames and their sound.

    With two labels (background, sounding) it solves S4 and MS3 and is a first stage of Stepping Stones; with 71 labels
    it solves AVSS, with `config.use_mask_prompt` as the second stage, prompted with the masks of the first.
    """
)
class TPAVIForAudioVisualSegmentation(AudioVisualSegmentationMixin, TPAVIPreTrainedModel):
    def __init__(self, config: TPAVIConfig):
        super().__init__(config)
        self.model = TPAVIModel(config)
        self.head = TPAVIHead(config)
        self.criterion = TPAVILoss(config)
        # CODEPATH: released models have no pair loss
        self.pair_head = make_pair_head(config, config.hidden_dim, self.model.backbone.channels[-1])

        self.post_init()

    def get_loss_normalizers(self, batch: dict) -> torch.FloatTensor:
        r"""
        What the loss of a batch is divided by: see [`TPAVILoss`].

        Args:
            batch (`dict`):
                Inputs of the model, of which `labels` are read.

        Returns:
            `torch.FloatTensor` of shape `(2,)`: the number of annotated frames and the number of frames.
        """
        return self.add_pair_normalizer(self.criterion.get_normalizers(batch["labels"]), batch["labels"])

    def load_backbone_weights(self, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> list[str]:
        """
        Starts the backbone from weights trained on ImageNet, such as `OpenGVLab/pvt_v2_b5` or `microsoft/resnet-50`,
        or from the files of the official PVT-v2 and of torchvision: see [`~models.backbones.load_backbone_weights`].
        """
        load_backbone_weights(self.model.backbone, pretrained_model_name_or_path, **kwargs)
        return [name for name in self.state_dict() if not name.startswith("model.backbone.")]

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        input_features: torch.FloatTensor | None = None,
        audio_embeddings: torch.FloatTensor | None = None,
        prompt_masks: torch.FloatTensor | None = None,
        num_frames: torch.LongTensor | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> TPAVIForAudioVisualSegmentationOutput:
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
        num_frames (`torch.LongTensor` of shape `(num_clips,)`, *optional*):
            Number of frames of each clip. Without it all frames are of one clip. A clip is treated in groups of
            `config.clip_length` frames, the last one filled up with empty frames, for which nothing is returned.
        labels (`torch.LongTensor` of shape `(num_frames, label_height, label_width)`, *optional*):
            Class of each pixel, or 255 where there is none. A frame of nothing but 255 is not annotated: it is seen
            and heard, and not supervised.
        num_items_in_batch (`torch.FloatTensor` of shape `(2,)`, *optional*):
            Normalizers of the loss over a whole optimizer step, see `get_loss_normalizers`. Defaults to those of the
            frames at hand.

        Example:

        ```python
        >>> import torch
        >>> from stepping_stones_hf import TPAVIConfig, TPAVIForAudioVisualSegmentation

        >>> backbone_config = {"model_type": "resnet", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
        >>> model = TPAVIForAudioVisualSegmentation(TPAVIConfig(backbone_config=backbone_config)).eval()
        >>> with torch.no_grad():
        ...     outputs = model(
        ...         pixel_values=torch.randn(7, 3, 64, 64),
        ...         audio_embeddings=torch.randn(7, 128),
        ...         num_frames=torch.tensor([5, 2]),
        ...     )
        >>> outputs.logits.shape
        torch.Size([7, 1, 64, 64])

        ```
        """
        outputs: TPAVIModelOutput = self.model(
            pixel_values=pixel_values,
            input_features=input_features,
            audio_embeddings=audio_embeddings,
            prompt_masks=prompt_masks,
            num_frames=num_frames,
            **kwargs,
        )
        logits = self.head(outputs.last_hidden_state)

        pair_logits = self.get_pair_logits(outputs.pair_features)
        loss, loss_dict = None, None
        if labels is not None:
            num_items_in_batch, num_pairs = self.split_normalizers(num_items_in_batch)
            loss_dict = self.criterion(
                logits, labels, outputs.feature_maps, outputs.audio_features, num_items_in_batch
            )
            loss_dict |= self.get_pair_loss(pair_logits, labels, num_pairs)
            loss = sum(loss_dict.values())

        return TPAVIForAudioVisualSegmentationOutput(
            loss=loss,
            loss_dict=loss_dict,
            logits=logits,
            feature_maps=outputs.feature_maps,
            audio_features=outputs.audio_features,
            hidden_states=outputs.hidden_states,
            pair_logits=pair_logits,
        )


__all__ = ["TPAVIForAudioVisualSegmentation", "TPAVIModel", "TPAVIPreTrainedModel"]
