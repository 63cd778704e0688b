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
"""What every model for audio-visual segmentation offers, whatever it is made of."""

import math
import os
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .cpu_inference import speed_up_linear_layers
from .pair_loss import AudioVisualPairHead, compute_pair_loss, label_pairs


# How a model was looked for: its localizer lives in the same repository.
HUB_KWARGS = {"cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token"}


def is_localizer(config: PreTrainedConfig) -> bool:
    """Whether a model finds what sounds without naming it: stage 1 of Stepping Stones, or a model of S4 and MS3."""
    return config.num_labels == 2 and not config.use_mask_prompt


def checkpoint_layer(layer: nn.Module, function: Callable, forward: Callable, hidden_states: torch.Tensor, *args):
    """
    Checkpoints a layer by `function` (`torch.utils.checkpoint.checkpoint`), to the same gradients whatever its input
    and output are. With reentry, gradients go to what the inputs with gradients lead to: the parameters have a
    stand-in among the inputs, since that of the first layer needs none. And they come from tensors alone, not from
    tuples of tensors, such as PVT-v2 has among its outputs.
    """
    trains = any(parameter.requires_grad for parameter in layer.parameters())
    if not (trains or hidden_states.requires_grad):
        return forward(hidden_states, *args)
    structures = []

    def forward_flat(stand_in: torch.Tensor, *inputs) -> tuple:
        outputs, structure = tree_flatten(forward(*inputs))
        structures.append(structure)
        return tuple(outputs)

    outputs = function(forward_flat, hidden_states.new_zeros((), requires_grad=trains), hidden_states, *args)
    return tree_unflatten(outputs, structures[0])


def call_directly(forward: Callable, *args):
    return forward(*args)


def require_gradients(module: nn.Module, args: tuple, output: torch.Tensor) -> None:
    output.requires_grad_(True)


class CheckpointingMixin:
    """Beside a [`PreTrainedModel`], for gradient checkpointing with and without reentry."""

    def enable_input_require_grads(self) -> None:
        # What PEFT asks for. transformers' own asks the models in this one, too, of which Swin's gives a tuple.
        self._require_grads_hooks = [self.get_input_embeddings().register_forward_hook(require_gradients)]

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable = checkpoint, **kwargs
    ) -> None:
        super()._set_gradient_checkpointing(enable, gradient_checkpointing_func, **kwargs)
        for module in self.modules():
            if isinstance(module, GradientCheckpointingLayer):
                module._gradient_checkpointing_func = partial(checkpoint_layer, module, gradient_checkpointing_func)


class AudioVisualPreTrainedMixin(CheckpointingMixin):
    """Beside a [`PreTrainedModel`], the base of each `...PreTrainedModel`."""

    @classmethod
    def is_custom_code(cls) -> bool:
        # For classes outside of transformers, `initialize_weights` skips the modules that own no parameter directly,
        # which are the ones that `_init_weights` is written for (here and in Mask2Former).
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, AudioVisualPairHead):
            init_as_torch(module.projection)

    def train(self, mode: bool = True) -> "AudioVisualPreTrainedMixin":
        # Not before: some quantizers of transformers, which come between the making of a model and its loading, know
        # linear layers by their exact type.
        if not mode:
            speed_up_linear_layers(self)
        return super().train(mode)


def resize_prompt(prompt_masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`(frames, h, w)` -> `(frames, 1, *size)`, in float32: half precision would move values over the thresholds."""
    return nn.functional.interpolate(prompt_masks[:, None].float(), size=size, mode="bilinear", align_corners=False)


def init_as_torch(module: nn.Module) -> None:
    """Initial weights of a linear layer or a convolution by torch's defaults; transformers has others."""
    bound = 1 / math.sqrt(module.weight[0].numel())
    init.uniform_(module.weight, -bound, bound)
    if module.bias is not None:
        init.uniform_(module.bias, -bound, bound)


def check_frame_size(pixel_values: torch.FloatTensor, stride: int) -> None:
    """Raises a `ValueError` if height and width of frames are not multiples of a model's largest stride."""
    height, width = pixel_values.shape[-2:]
    if height % stride or width % stride:
        raise ValueError(
            f"`pixel_values` has frames of {height}x{width}; height and width must be multiples of {stride}, as "
            "the sizes that the model's processor makes by default are."
        )


class AudioVisualModelMixin:
    """
    Beside a [`PreTrainedModel`], the base of each model without a head: what enters it. It has an `audio_encoder`, or
    `None` where `config.audio_config` is `None`.
    """

    def get_input_embeddings(self) -> nn.Module:
        """The convolution that sees the frames."""
        return next(module for module in self.backbone.modules() if isinstance(module, nn.Conv2d))

    def get_audio_embeddings(self, input_features: torch.FloatTensor) -> torch.FloatTensor:
        """
        Embeds log-mel patches with the model's audio encoder.

        Args:
            input_features (`torch.FloatTensor` of shape `(frames, 96, 64)`):
                Log-mel patches, one a frame.

        Returns:
            `torch.FloatTensor` of shape `(frames, audio_embedding_dim)`.

        Raises:
            `ValueError`: the model has no audio encoder.
        """
        if self.audio_encoder is None:
            raise ValueError(
                "This model has no audio encoder (config.audio_config is None) and takes `audio_embeddings` of shape"
                f" (frames, {self.config.audio_embedding_dim}) in place of `input_features`."
            )
        return self.audio_encoder(input_features).embeddings

    def get_pair_features(
        self, audio: torch.Tensor, feature_map: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """
        What the pair loss compares: see [`AudioVisualPairHead`].

        Args:
            audio (`torch.Tensor` of shape `(frames, audio_dim)`):
                The projected sound.
            feature_map (`torch.Tensor` of shape `(frames, visual_dim, h, w)`):
                The backbone's last one.

        Returns:
            `tuple[torch.Tensor, torch.Tensor]`: the sound, and the mean of the map `(frames, visual_dim)`; or `None`
            where `config.pair_loss_weight` is 0.
        """
        # CODEPATH: released models have no pair loss
        if not self.config.pair_loss_weight:
            return None
        return audio, feature_map.mean(dim=(2, 3))

    def check_inputs(
        self,
        pixel_values: torch.FloatTensor,
        input_features: torch.FloatTensor | None,
        audio_embeddings: torch.FloatTensor | None,
        prompt_masks: torch.FloatTensor | None,
    ) -> None:
        """Raises a `ValueError` if the inputs do not fit one another or the model, by their shapes and types alone."""
        if (input_features is None) == (audio_embeddings is None):
            raise ValueError("Pass the sound as either `input_features` or `audio_embeddings`.")
        if pixel_values.ndim != 4:
            raise ValueError(
                "`pixel_values` must have shape (frames, channels, height, width), those of several clips one after"
                f" the other, got {tuple(pixel_values.shape)}."
            )
        num_frames = pixel_values.shape[0]
        audio = {"input_features": input_features, "audio_embeddings": audio_embeddings}
        for name, tensor in {**audio, "prompt_masks": prompt_masks}.items():
            if tensor is not None and tensor.shape[0] != num_frames:
                raise ValueError(
                    f"`{name}` has {tensor.shape[0]} rows for {num_frames} frames in `pixel_values`: frame t needs row"
                    " t. The batch axis is frames, of one clip or of several clips one after the other."
                )
        if audio_embeddings is not None and audio_embeddings.shape[1:] != (self.config.audio_embedding_dim,):
            raise ValueError(
                f"`audio_embeddings` must have shape (frames, {self.config.audio_embedding_dim}), got"
                f" {tuple(audio_embeddings.shape)}."
            )
        if prompt_masks is not None and (
            prompt_masks.ndim != 3 or not (prompt_masks.is_floating_point() or prompt_masks.dtype == torch.bool)
        ):
            raise ValueError(
                "`prompt_masks` must be floating-point numbers in [0, 1], or booleans, of shape (frames, height,"
                f" width), got {prompt_masks.dtype} of shape {tuple(prompt_masks.shape)}. The model's processor makes"
                " them from masks of any kind; of a label map, pass `label_map > 0`."
            )
        if self.config.use_mask_prompt and prompt_masks is None:
            raise ValueError(
                "This model is prompted with masks (config.use_mask_prompt=True): it needs `prompt_masks` of shape"
                " (frames, height, width), those of a localizer. In a two-stage repository that is loaded with"
                ' from_pretrained(..., subfolder="localizer").'
            )
        if not self.config.use_mask_prompt and prompt_masks is not None:
            raise ValueError(
                "This model takes no `prompt_masks` (config.use_mask_prompt=False): they are for mask-prompted models."
            )


class AudioVisualSegmentationMixin:
    """
    Beside a [`PreTrainedModel`], the base of each `...ForAudioVisualSegmentation`. Its `forward` takes

    - `pixel_values` `(frames, 3, height, width)`: the frames of one clip or of several clips one after the other;
    - `input_features`, a log-mel patch a frame, or `audio_embeddings` `(frames, audio_embedding_dim)`;
    - `prompt_masks` `(frames, h, w)` in [0, 1], of any size, if and only if `config.use_mask_prompt` is set;
    - `num_frames` `(clips,)`, int64, if and only if `config.clip_length` is not None: the model looks at so many
      frames together, and has to know which of them are of one clip;
    - the targets that its own image processor makes, and `num_items_in_batch`;

    and returns a `ModelOutput` with `loss` where there are targets. What else there is in it only the model's own
    image processor reads: see [`AudioVisualImageProcessorMixin.get_segmentation_scores`].

    With `config.pair_loss_weight` there is a `pair_head`, which makes `pair_logits` `(frames,)` of what its base model
    returns as `pair_features`, and `loss_pair` of them.
    """

    @property
    def has_audio_encoder(self) -> bool:
        """Whether the model takes sound, as `input_features`, and not only embeddings of it."""
        return self.config.audio_config is not None

    @property
    def has_pair_head(self) -> bool:
        """Whether the model says if a sound goes with what is seen, `pair_logits`."""
        return getattr(self, "pair_head", None) is not None

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        loaded = super().from_pretrained(*args, **kwargs)
        # With `output_loading_info` it is not alone.
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.hub_kwargs = {name: kwargs[name] for name in HUB_KWARGS & kwargs.keys()}
        return loaded

    def freeze_audio_encoder(self) -> None:
        """
        Makes the audio encoder stay as it is during training. Called by whoever trains, where
        `config.freeze_audio_encoder` says that the recipe has it so; neither loading nor `train()` does it.
        """
        if self.base_model.audio_encoder is not None:
            self.base_model.audio_encoder.requires_grad_(False)

    def get_loss_normalizers(self, batch: dict) -> torch.FloatTensor:
        """
        What the loss of a batch is divided by. Summed over the micro-batches and the processes of an optimizer step
        and passed as `num_items_in_batch`, they give the gradients of one large batch, provided that gradients are
        summed: where a trainer averages them over processes (DistributedDataParallel) or micro-batches
        (`Accelerator.backward`), multiply the loss by their number.

        Args:
            batch (`dict`):
                Inputs of the model, with targets.

        Returns:
            `torch.FloatTensor` of shape `(n,)`.
        """
        raise NotImplementedError

    def add_pair_normalizer(
        self, normalizers: torch.FloatTensor, targets: torch.LongTensor | list[torch.LongTensor]
    ) -> torch.FloatTensor:
        """What the rest of the loss is divided by, `(n,)`, and then what the pair loss is, if there is one."""
        if not self.has_pair_head:
            return normalizers
        _, annotated = label_pairs(targets)
        return torch.cat([normalizers, annotated.sum()[None].to(normalizers)])

    def split_normalizers(
        self, num_items_in_batch: torch.FloatTensor | None
    ) -> tuple[torch.FloatTensor | None, torch.FloatTensor | None]:
        """The two parts that [`~AudioVisualSegmentationMixin.add_pair_normalizer`] joins."""
        if num_items_in_batch is None or not self.has_pair_head:
            return num_items_in_batch, None
        return num_items_in_batch[:-1], num_items_in_batch[-1]

    def get_pair_logits(self, pair_features: tuple[torch.Tensor, torch.Tensor] | None) -> torch.FloatTensor | None:
        """`(frames,)`, or `None` without a pair head."""
        return self.pair_head(pair_features) if self.has_pair_head else None

    def get_pair_loss(
        self,
        pair_logits: torch.FloatTensor | None,
        targets: torch.LongTensor | list[torch.LongTensor],
        num_pairs: torch.FloatTensor | None,
    ) -> dict[str, torch.FloatTensor]:
        """The weighted term `loss_pair`; none without a pair head."""
        if pair_logits is None:
            return {}
        return {"loss_pair": self.config.pair_loss_weight * compute_pair_loss(pair_logits, targets, num_pairs)}

    def load_audio_encoder_weights(self, state_dict: dict[str, torch.Tensor]) -> None:
        """
        Starts the audio encoder from pretrained weights: all of it, unless the model's own page says otherwise.

        Args:
            state_dict (`dict[str, torch.Tensor]`):
                Of a [`VGGishModel`], as [`load_vggish`] makes one of torchvggish's checkpoint.
        """
        self.base_model.audio_encoder.load_state_dict(state_dict)

    def load_backbone_weights(self, pretrained_model_name_or_path: str | os.PathLike, **kwargs) -> list[str]:
        """
        Starts the model from pretrained weights of what it is built on, as its authors did; which, says the model's
        own page.

        Args:
            pretrained_model_name_or_path (`str` or `PathLike`):
                Folder or repository of the Hub.
            kwargs:
                Passed on to `from_pretrained` (`revision`, `token`, ...).

        Returns:
            `list[str]`: names of the parameters that kept their initial weights.

        Raises:
            `ValueError`: if a parameter that must come from there is missing or has another shape.
        """
        raise NotImplementedError

    def get_parameter_groups(self, learning_rate: float, num_passes: int = 1) -> list[dict]:
        """
        The groups of an optimizer: here one, of all that trains; several in models whose recipes have several rates.

        Args:
            learning_rate (`float`):
                The recipe's learning rate.
            num_passes (`int`, *optional*, defaults to 1):
                Batches in an optimizer step, those of all processes: some recipes scale rates by it.

        Returns:
            `list[dict]`: `params`, and where they differ `lr` and `is_backbone`, for schedules that treat a pretrained
            backbone in another way.
        """
        return [{"params": [parameter for parameter in self.parameters() if parameter.requires_grad]}]

    def update_training_progress(self, step: int, num_steps: int) -> None:
        """
        Tells the model how far its training is, before each step: some change on the way. Most do not.

        Args:
            step (`int`), num_steps (`int`):
                Optimizer steps that were made, and those that there are in all.
        """

    def start_training_phase(self, phase: int) -> list[str]:
        """
        Prepares the model for a phase of a stage that trains in two phases.

        Args:
            phase (`int`):
                1 or 2.

        Returns:
            `list[str]`: regular expressions for the names of the parameters that train in this phase beside those
            that the recipe names.

        Raises:
            `ValueError`: the model trains in a single phase.
        """
        raise ValueError(
            f"{type(self).__name__} trains in a single phase: leave out stage_1_phase_2_epoch and"
            " stage_2_phase_2_epoch."
        )


__all__ = [
    "AudioVisualModelMixin",
    "AudioVisualPreTrainedMixin",
    "AudioVisualSegmentationMixin",
    "CheckpointingMixin",
    "check_frame_size",
    "init_as_torch",
    "is_localizer",
    "resize_prompt",
]
