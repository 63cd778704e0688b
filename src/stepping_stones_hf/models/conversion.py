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
What the converters of released checkpoints share: a checkpoint is converted whole, or nothing is written.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..files import write_into
from ..labels import CLASS_NAMES, LOCALIZER_LABELS
from .processing_base import AudioVisualProcessor
from .vggish import VGGishConfig
from .vggish.convert_vggish_original import load_checkpoint, load_vggish


class Conversion(NamedTuple):
    """
    What became of the parameters of a checkpoint. Nothing was written unless `unexpected` and `missing` are empty.

    Attributes:
        unexpected (`list[str]`): parameters of the checkpoint that the model does not have, or has in another shape.
        missing (`list[str]`): parameters of the model that the checkpoint does not have.
        dropped (`list[str]`): parameters of the checkpoint that take part in nothing and were left out.
    """

    unexpected: list[str]
    missing: list[str]
    dropped: list[str]


def read_json(path: str | os.PathLike) -> dict:
    """Content of a JSON file that holds one object."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} should hold a JSON object, and holds a {type(content).__name__}.")
    return content


def name_labels(num_labels: int) -> dict[str, dict]:
    """`id2label` and `label2id` of the released models, by the number of their labels; of other numbers none."""
    labels = {len(names): names for names in (LOCALIZER_LABELS, CLASS_NAMES)}.get(num_labels)
    if labels is None:
        return {}
    return {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}


def convert_state_dict(
    state_dict: dict[str, torch.Tensor], convert_parameter: Callable[[str, torch.Tensor], dict[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """State dict of a released checkpoint under the names of this library, without what takes part in nothing."""
    converted = {}
    for name, tensor in state_dict.items():
        converted |= convert_parameter(name, tensor)
    return converted


def select_parameters(state_dict: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The parameters whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in state_dict.items() if name.startswith(prefix)}


def load_converted(
    model: PreTrainedModel,
    original: dict[str, torch.Tensor],
    convert_parameter: Callable[[str, torch.Tensor], dict[str, torch.Tensor]],
    more: dict[str, torch.Tensor],
) -> Conversion:
    """
    Loads a released checkpoint into a model, unless a parameter is left over on either side.

    Args:
        model (`PreTrainedModel`):
            Changed in place.
        original (`dict[str, torch.Tensor]`):
            The checkpoint, under its own names.
        convert_parameter (`Callable`):
            Turns one of its parameters, name and value, into those of the model: none for what takes part in nothing,
            several for what is packed.
        more (`dict[str, torch.Tensor]`):
            Parameters of the model that come from elsewhere.
    """
    expected, state_dict = model.state_dict(), dict(more)
    unexpected, dropped = [], []
    for name, tensor in original.items():
        converted = convert_parameter(name, tensor)
        if not converted:
            dropped.append(name)
        if any(key not in expected or value.shape != expected[key].shape for key, value in converted.items()):
            unexpected.append(name)
        else:
            state_dict |= converted
    missing = sorted(expected.keys() - state_dict.keys())
    if not unexpected and not missing:
        model.load_state_dict(state_dict)
    return Conversion(unexpected, missing, dropped)


def convert_checkpoint(
    checkpoint: str | os.PathLike,
    config: str | os.PathLike | None,
    vggish: str | os.PathLike | None,
    model_class: type[PreTrainedModel],
    convert_parameter: Callable[[str, torch.Tensor], dict[str, torch.Tensor]],
    infer_config: Callable[[dict[str, torch.Tensor], dict, VGGishConfig | None], PreTrainedConfig],
) -> tuple[PreTrainedModel, Conversion]:
    """
    Makes a model of a released checkpoint whose config is read off its weights. Unless a parameter is left over on
    either side the model has the weights of the checkpoint.

    Args:
        checkpoint (`str` or `PathLike`):
            File with the names of the released checkpoints.
        config (`str` or `PathLike`, *optional*):
            JSON file with fields of the config that shall differ.
        vggish (`str` or `PathLike`, *optional*):
            torchvggish checkpoint. The released models were trained on its embeddings, which are rectified.
        model_class (`type`):
            Class of the model.
        convert_parameter (`Callable`):
            As in `load_converted`.
        infer_config (`Callable`):
            Makes the config of the checkpoint under the names of this library, the fields that shall differ, and the
            config of `vggish` or `None`.

    Raises:
        `ValueError`: the config cannot be read off the weights.
    """
    original = load_checkpoint(checkpoint)
    fields = read_json(config) if config is not None else {}
    audio_config, audio_weights = None, {}
    if vggish is not None:
        audio_encoder = load_vggish(vggish, final_relu=True)
        audio_config, audio_weights = audio_encoder.config, audio_encoder.state_dict()
    try:
        config = infer_config(convert_state_dict(original, convert_parameter), fields, audio_config)
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from error
    model = model_class(config)
    more = {f"model.audio_encoder.{name}": value for name, value in audio_weights.items()}
    return model, load_converted(model, original, convert_parameter, more)


def save_converted(model: PreTrainedModel, processor: AudioVisualProcessor, output_dir: str | os.PathLike) -> None:
    """Writes model and processor into a folder, each file whole: it may hold a localizer already."""
    with write_into(output_dir) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)


__all__ = [
    "Conversion",
    "convert_checkpoint",
    "convert_state_dict",
    "load_converted",
    "name_labels",
    "read_json",
    "save_converted",
    "select_parameters",
]
