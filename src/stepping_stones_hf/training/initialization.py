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

from accelerate.utils import set_seed
from transformers import AutoConfig, AutoProcessor, PreTrainedConfig, PreTrainedModel

from ..labels import CLASS_NAMES
from ..models.auto import AutoModelForAudioVisualSegmentation, make_processor
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
        `ValueError`: the block names no `model_type`, or one that is unknown; or an override is no field of the
        config, or has a value of another type.
    """
    fields = dict(block)
    if "model_type" not in fields:
        raise ValueError(
            f"The block model of the recipe needs a model_type, and has {', '.join(fields) or 'nothing'}."
        )
    config = AutoConfig.for_model(
        fields.pop("model_type"),
        **fields,
        use_mask_prompt=prompted,
        **name_labels(2 if localizes else len(CLASS_NAMES)),
    )
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
    out of a model that names what sounds, it begins with the weights that the whole of it would begin with.

    Args:
        seed (`int`):
            What the initial weights are drawn from. For the rest see [`make_config`].
    """
    set_seed(seed)
    config = make_config(block, localizes, prompted, overrides)
    model = AutoModelForAudioVisualSegmentation.from_config(config)
    if not localizes:
        set_seed(seed)
        whole = AutoModelForAudioVisualSegmentation.from_config(make_config(block, localizes=False, prompted=True))
        own, weights = model.state_dict(), whole.state_dict()
        shared = {name for name in weights if name in own and weights[name].shape == own[name].shape}
        model.load_state_dict({name: weights[name] for name in shared}, strict=False)
    return model


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
    name_or_path: str | os.PathLike, localizes: bool, prompted: bool
) -> tuple[PreTrainedModel, AudioVisualProcessor]:
    """
    Loads the model of a stage from a two-stage repository, with its processor on Pillow.

    Raises:
        `ValueError`: it is the model of another stage.
    """
    subfolder = "localizer" if localizes else ""
    model = AutoModelForAudioVisualSegmentation.from_pretrained(name_or_path, subfolder=subfolder)
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
    """
    fields = dict(image_processor)
    if image_size is not None:
        sizes = {name for name in fields if name.endswith("size")} | {"size", "label_size"}
        fields |= dict.fromkeys(sizes, {"height": image_size, "width": image_size})
    return make_processor(config, localization=localizes, **fields)


def parse_block(text: str | None) -> dict:
    """A block of a recipe, as JSON."""
    return {} if text is None else json.loads(text)


__all__ = [
    "load_model",
    "load_pretrained_parts",
    "make_config",
    "make_new_model",
    "make_new_processor",
    "parse_block",
]
