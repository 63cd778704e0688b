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
"""The Python and the commands of the page "Getting AVSBench in place", run as they stand there."""

import re
import shutil
from pathlib import Path

import datasets
import pytest

from stepping_stones_hf.cli import main


PAGE = Path(__file__).parents[2] / "docs" / "source" / "getting_avsbench.md"


@pytest.fixture
def copy_at_hand(mini_dir, tmp_path, monkeypatch):
    """A working directory with a copy of AVSBench-semantic, under the name that the page uses."""
    shutil.copytree(mini_dir, tmp_path / "AVSBench-semantic")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_the_snippets_run_one_after_another(copy_at_hand):
    variables = {}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(snippet, PAGE.name, "exec"), variables)
    assert set(variables["dataset"].column_names) <= set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))
    assert len(variables["clip"]["frames"]) == 5 and len(variables["clip"]["masks"]) == 1
    assert variables["batch"]["prompt_masks"].shape[0] == variables["batch"]["pixel_values"].shape[0]


def test_the_doctor_finds_the_copy_right(copy_at_hand, capsys):
    (command,) = re.findall(r"^stepping-stones (doctor .*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert main(command.split()) == 0
    assert "errors: 0" in capsys.readouterr().out
