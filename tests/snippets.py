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
"""The code that stands on a page of the documentation."""

import re
import shlex
import warnings
from pathlib import Path


REPOSITORY = Path(__file__).parents[1]
README = REPOSITORY / "README.md"
DOCS = REPOSITORY / "docs" / "source"


def read_snippets(page: Path, language: str = "python") -> list[str]:
    """The blocks of code in a language, in the order of the page."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [code for name, code in blocks if name == language]


def run_snippets(page: Path) -> dict:
    """Runs the Python of a page, without names of earlier releases, from top to bottom and gives its variables."""
    variables = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*works in this release only", category=DeprecationWarning)
        for snippet in read_snippets(page):
            exec(compile(snippet, page.name, "exec"), variables)
    return variables


def read_commands(page: Path) -> list[list[str]]:
    """The words of each command line in the blocks of bash, without comments."""
    lines = "\n".join(read_snippets(page, "bash")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]
