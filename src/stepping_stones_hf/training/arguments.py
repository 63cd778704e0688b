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
"""The arguments of a script, from its command line and from recipe files."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from ..deprecation import warn_of_new_name


# The name in a recipe of another one that it builds on.
BASE = "base"


def read_recipe(path: str | os.PathLike) -> dict:
    """
    Reads a recipe, a yaml or json file with arguments of a script.

    Args:
        path (`str` or `PathLike`):
            The file. Its `base` is another recipe, by its path from the folder of this one, whose arguments hold where
            it has none of its own.

    Returns:
        `dict`: the arguments.

    Raises:
        `FileNotFoundError`: there is no such file.
        `ValueError`: it is no yaml, holds something else than names with values, or builds on itself.
    """
    path, arguments, followed = Path(path), {}, set()
    while True:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not a yaml or json file: {' '.join(str(error).split())}.") from error
        if not isinstance(values, dict):
            raise ValueError(f"{path} should hold arguments with their values, and holds a {type(values).__name__}.")
        base = values.pop(BASE, None)
        arguments = values | arguments
        if base is None:
            return arguments
        if not isinstance(base, str):
            raise ValueError(f"{path} has the base {base!r}, expected the path of another recipe.")
        followed.add(path.resolve())
        if (path.parent / base).resolve() in followed:
            raise ValueError(f"{path} has the base {base}, which builds on it: a recipe cannot build on itself.")
        path = path.parent / base


def parse_arguments(
    parser: HfArgumentParser, argv: Sequence[str], default_recipe: Path, new_names: dict[str, str]
) -> tuple:
    """
    Parses a command line over a recipe over the defaults.

    Args:
        parser (`HfArgumentParser`):
            The parser, to which `--config` is added.
        argv (`Sequence[str]`):
            The command line.
        default_recipe (`Path`):
            The recipe that is read without `--config`.
        new_names (`dict[str, str]`):
            Arguments that had other names in the release before this one: the former names with the new ones.

    Returns:
        `tuple`: an instance of each of the parser's dataclasses.

    Raises:
        `FileNotFoundError`, `ValueError`: as [`read_recipe`]; or the recipe has unknown arguments.
    """
    parser.add_argument("--config", type=Path, help="yaml or json file with any of these arguments")
    path = parser.parse_known_args(argv)[0].config or default_recipe
    values = {rename(name, new_names): value for name, value in read_recipe(path).items()}
    unknown = set(values) - {action.dest for action in parser._actions}
    if unknown:
        raise ValueError(f"{path} has unknown arguments: {', '.join(sorted(unknown))}.")
    # None cannot be said on a command line; all else goes through it, so that types and choices are checked.
    parser.set_defaults(**{name: None for name, value in values.items() if value is None})
    options = []
    for name, value in values.items():
        if value is not None:
            options += [f"--{name}", *(to_text(item) for item in (value if isinstance(value, list) else [value]))]
    argv = [f"--{rename(item[2:], new_names)}" if item.startswith("--") else item for item in argv]
    *groups, _ = parser.parse_args_into_dataclasses([*options, *argv])
    return tuple(groups)


def rename(name: str, new_names: dict[str, str]) -> str:
    if name not in new_names:
        return name
    warn_of_new_name(f"--{name}", f"--{new_names[name]}")
    return new_names[name]


def to_text(value: object) -> str:
    """A value as on a command line, a block of values as JSON."""
    return json.dumps(value) if isinstance(value, dict) else str(value)


__all__ = ["parse_arguments", "read_recipe"]
