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
Files and folders that are there whole or not at all: each is written under another name beside its place and renamed
once it is complete.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4


@contextmanager
def write_whole(*paths: str | os.PathLike) -> Iterator[list[Path]]:
    """
    Names to write files or folders under, which get their own names when the block ends. If it fails, what was written
    is removed. The names are random, so that any number of writers, in threads, processes or on other machines, can
    write the same file: the last one to finish wins.

    ```python
    with write_whole("results.json") as (partial,):
        partial.write_text(text)
    ```

    Args:
        paths (`str` or `PathLike`):
            The files or folders to be, in folders that exist. A file takes the place of an older one; a folder that of
            an empty one.

    Yields:
        `list[Path]`: for each a name that does not exist yet, with the same suffix.

    Raises:
        `OSError`: a name cannot be given, e.g. to a folder where there is one with files already. Those before it in
        `paths` have their names then.
    """
    paths = [Path(path) for path in paths]
    # File systems have an end to how long a name may be.
    partials = [path.with_name(f".{path.stem[:40]}.{uuid4().hex}.partial{path.suffix}") for path in paths]
    try:
        yield partials
        for partial, path in zip(partials, paths):
            os.replace(partial, path)
    finally:
        for partial in partials:
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file, in UTF-8, in place of an older one: see [`write_whole`]."""
    with write_whole(path) as (partial,):
        partial.write_text(text, encoding="utf-8")


@contextmanager
def write_into(folder: str | os.PathLike) -> Iterator[Path]:
    """
    A new folder to write files into. When the block ends they are moved into `folder`, which is made where there is
    none, each in place of an older one; what else is in `folder` stays. If the block fails, nothing is moved.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", suffix=".partial", dir=folder) as partial:
        yield Path(partial)
        for path in Path(partial).iterdir():
            os.replace(path, folder / path.name)


# The folders of a run are written by several processes, which all have to know the partial name; there is one run in a
# folder, and a run that is resumed finds by that name what a killed one has left. So it is fixed, not random.


def partial_folder(folder: str | os.PathLike) -> Path:
    """The folder beside a folder of a run that its files are written into: [`begin_folder`] makes it."""
    return Path(folder).with_name(f".{Path(folder).name}.partial")


def begin_folder(folder: str | os.PathLike) -> Path:
    """Makes the partial folder, empty: what a killed run has left there goes."""
    partial = partial_folder(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def complete_folder(folder: str | os.PathLike) -> None:
    """Gives the partial folder its name, in place of an older one, of which no part is ever seen."""
    folder = Path(folder)
    older = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(older, ignore_errors=True)
    if folder.exists():
        folder.rename(older)
    partial_folder(folder).rename(folder)
    shutil.rmtree(older, ignore_errors=True)


__all__ = ["begin_folder", "complete_folder", "partial_folder", "write_into", "write_text", "write_whole"]
