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
"""The model that a stage begins with, of whatever kind, and its processor."""

import json
import os
from collections.abc import Iterable, Set

from accelerate.utils import set_seed
from transformers import AutoProcessor, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

from ..labels import CLASS_NAMES
from ..models.auto import (
    MODEL_FOR_AUDIO_VISUAL_SEGMENTATION_MAPPING,
    AutoModelForAudioVisualSegmentation,
    make_processor,
)
from ..models.conversion import name_labels
from ..models.processing_base import AudioVisualProcessor
from ..models.vggish import load_vggish


def make_config(block: dict, localizes: bool, prompted: bool, overrides: str | None = None) -> PreTrainedConfig:
    """
    Makes the config of a localizer, of a mask-prompted model or of a model that names what sounds in one stage.

    Args:
        block (`dict`):
            `model_type` and fields of its config: the block `model` of a recipe.
        localizes (`bool`), prompted (`bool`):
            Whether the model has the two labels of a localizer, or the 71 of AVSBench; whether it is prompted with
            masks.
        overrides (`str`, *optional*):
            More fields, as in `num_queries=20,mask_prompt_keys=false`.

    Raises:
        `ValueError`: the block names no `model_type`, or one that is unknown, or has fields that the config has not,
        or those that follow from the stage; or an override is no field of the config, or has a value of another type.
    """
    fields = dict(block)
    if "model_type" not in fields:
        raise ValueError(
            f"The block model of the recipe needs a model_type, and has {', '.join(fields) or 'nothing'}."
        )
    model_type = fields.pop("model_type")
    config_classes = {found.model_type: found for found in MODEL_FOR_AUDIO_VISUAL_SEGMENTATION_MAPPING}
    if model_type not in config_classes:
        raise ValueError(f"The model_type {model_type} is none of {', '.join(sorted(config_classes))}.")
    config_class = config_classes[model_type]
    known = {*config_class.__dataclass_fields__, *config_class.attribute_map}
    # What the stage says.
    check_names("The block model", fields, known - {"use_mask_prompt", "num_labels", "id2label", "label2id"})
    config = config_class(**fields, use_mask_prompt=prompted, **name_labels(2 if localizes else len(CLASS_NAMES)))
    if overrides:
        for item in overrides.split(","):
            name, _, value = item.partition("=")
            if not value or name not in type(config).__dataclass_fields__:
                raise ValueError(
                    f"--config_overrides has {item!r}, expected the name of a field of {type(config).__name__}=its"
                    " value."
                )
        config.update_from_string(overrides)
    return config


def make_new_model(
    block: dict, localizes: bool, prompted: bool, seed: int, overrides: str | None = None
) -> PreTrainedModel:
    """
    Makes a model with initial weights that follow from the seed. Whatever the overrides or the lack of a prompt leave
    out of a model that names what sounds, it begins with the weights that the whole of it would begin with; and with a
    pair head any model begins as it would without.

    Args:
        seed (`int`):
            What the initial weights are drawn from. For the rest see [`make_config`].
    """
    set_seed(seed)
    config = make_config(block, localizes, prompted, overrides)
    model = AutoModelForAudioVisualSegmentation.from_config(config)
    plain = {name: value for name, value in block.items() if name != "pair_loss_weight"}
    if not localizes:
        begin_as(model, make_config(plain, localizes=False, prompted=True), seed)
    elif plain != block:
        begin_as(model, make_config(plain, localizes, prompted, overrides), seed)
    return model


def begin_as(model: PreTrainedModel, config: PreTrainedConfig, seed: int) -> None:
    """Gives a model the initial weights, as far as it has them, that one of another config has."""
    set_seed(seed)
    other = AutoModelForAudioVisualSegmentation.from_config(config)
    own, weights = model.state_dict(), other.state_dict()
    shared = {name for name in weights if name in own and weights[name].shape == own[name].shape}
    model.load_state_dict({name: weights[name] for name in shared}, strict=False)


def load_pretrained_parts(
    model: PreTrainedModel, backbone_name_or_path: str | None, vggish_checkpoint: str | None
) -> None:
    """
    Starts parts of a new model from pretrained weights.

    Args:
        model (`PreTrainedModel`):
            Changed in place.
        backbone_name_or_path (`str`, *optional*):
            Folder or repository: see [`AudioVisualSegmentationMixin.load_backbone_weights`].
        vggish_checkpoint (`str`, *optional*):
            torchvggish's checkpoint. A model that takes it frozen needs it.

    Raises:
        `ValueError`: VGGish is frozen and there is no checkpoint of it.
    """
    if backbone_name_or_path is not None:
        model.load_backbone_weights(backbone_name_or_path)
        if vggish_checkpoint is None and model.config.audio_config is not None and model.config.freeze_audio_encoder:
            raise ValueError("VGGish is frozen: give its weights, --vggish_checkpoint.")
    if vggish_checkpoint is not None:
        model.load_audio_encoder_weights(load_vggish(vggish_checkpoint).state_dict())


def load_model(
    name_or_path: str | os.PathLike,
    localizes: bool,
    prompted: bool,
    seed: int,
    pair_loss_weight: float | None = None,
) -> tuple[PreTrainedModel, AudioVisualProcessor]:
    """
    Loads the model of a stage from a two-stage repository, with its processor on Pillow.

    Args:
        name_or_path (`str` or `PathLike`), localizes (`bool`), prompted (`bool`):
            The repository, and which of its models: see [`make_config`].
        seed (`int`):
            What the initial weights of a pair head are drawn from.
        pair_loss_weight (`float`, *optional*):
            The weight of the pair loss in place of the saved one. A model without a pair head gets a new one; with 0
            a model loses its own.

    Raises:
        `ValueError`: it is the model of another stage.
    """
    subfolder = "localizer" if localizes else ""
    changes = {}
    if pair_loss_weight is not None:
        changes["pair_loss_weight"] = pair_loss_weight
        set_seed(seed)
    model = AutoModelForAudioVisualSegmentation.from_pretrained(name_or_path, subfolder=subfolder, **changes)
    expected = (2 if localizes else len(CLASS_NAMES), prompted)
    if (model.config.num_labels, model.config.use_mask_prompt) != expected:
        raise ValueError(
            f"{name_or_path}/{subfolder} has {model.config.num_labels} labels and use_mask_prompt="
            f"{model.config.use_mask_prompt}, expected {expected[0]} and {expected[1]}: is it the other stage?"
        )
    return model, AutoProcessor.from_pretrained(name_or_path, subfolder=subfolder, backend="pil")


def make_new_processor(
    config: PreTrainedConfig, localizes: bool, image_processor: dict, image_size: int | None = None
) -> AudioVisualProcessor:
    """
    Makes the processor of a new model.

    Args:
        config (`PreTrainedConfig`):
            The model's config.
        localizes (`bool`):
            Whether its label maps are those of a localizer.
        image_processor (`dict`):
            Fields of the image processor: the block `image_processor` of a recipe.
        image_size (`int`, *optional*):
            Height and width of frames and label maps, in place of all sizes of the block.

    Raises:
        `ValueError`: the block has fields that the image processor has not.
    """
    fields = dict(image_processor)
    image_processor_class = IMAGE_PROCESSOR_MAPPING[type(config)]["pil"]
    check_names("The block image_processor", fields, image_processor_class.valid_kwargs.__annotations__.keys())
    if image_size is not None:
        sizes = {name for name in fields if name.endswith("size")} | {"size", "label_size"}
        fields |= dict.fromkeys(sizes, {"height": image_size, "width": image_size})
    return make_processor(config, localization=localizes, **fields)


def parse_block(text: str | None) -> dict:
    """
    A block of a recipe, as JSON.

    Raises:
        `ValueError`: it is something else than names with values.
    """
    try:
        block = {} if text is None else json.loads(text)
    except json.JSONDecodeError:
        block = None
    if not isinstance(block, dict):
        raise ValueError(f'A recipe has {text!r} where a block is expected, names with values (as in {{"name": 1}}).')
    return block


def check_names(block: str, given: Iterable[str], known: Set[str]) -> None:
    """Raises a `ValueError` if a block of a recipe has names that nobody reads."""
    unknown = sorted(set(given) - known)
    if unknown:
        raise ValueError(f"{block} of the recipe has unknown fields: {', '.join(unknown)}.")


__all__ = [
    "check_names",
    "load_model",
    "load_pretrained_parts",
    "make_config",
    "make_new_model",
    "make_new_processor",
    "parse_block",
]
