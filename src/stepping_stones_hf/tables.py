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
"""Tables for pages, cards and terminals."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence

from .files import write_whole


def format_table(header: Sequence, rows: Iterable[Sequence], percent: bool = False) -> str:
    """
    A table in Markdown.

    Args:
        header (`Sequence`), rows (`Iterable[Sequence]`):
            The cells. Floats have three decimals, `None` is a dash.
        percent (`bool`, *optional*, defaults to `False`):
            Whether floats, from 0 to 1, become percentages of two decimals.

    Returns:
        `str`: without a line's end.
    """

    def format_cell(value) -> str:
        if value is None:
            return "–"
        if not isinstance(value, float):
            return str(value)
        return f"{100 * value:.2f}" if percent else f"{value:.3f}"

    lines = [f"| {' | '.join(map(format_cell, row))} |" for row in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def write_csv(rows: Sequence[Mapping], path: str | os.PathLike) -> None:
    """
    Writes a csv file, in place of an older one: see [`~files.write_whole`].

    Args:
        rows (`Sequence[Mapping]`):
            The rows by the names of their columns, which are in the order in which they first occur. What a row has
            not, or what is `None`, is empty.
        path (`str` or `PathLike`):
            The file.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with write_whole(path) as (partial,), open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


__all__ = ["format_table", "write_csv"]
