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
from transformers import PreTrainedModel

from ..files import write_into
from ..labels import CLASS_NAMES, LOCALIZER_LABELS
from .processing_base import AudioVisualProcessor


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


def save_converted(model: PreTrainedModel, processor: AudioVisualProcessor, output_dir: str | os.PathLike) -> None:
    """Writes model and processor into a folder, each file whole: it may hold a localizer already."""
    with write_into(output_dir) as partial:
        model.save_pretrained(partial)
        processor.save_pretrained(partial)


__all__ = ["Conversion", "load_converted", "name_labels", "read_json", "save_converted", "select_parameters"]
