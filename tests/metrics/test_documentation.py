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
"""What is written about the metric holds: its docstring, its card, the page "Which mIoU?"."""

import doctest
import re
from pathlib import Path

import evaluate
import numpy as np
import pytest
from accelerate.state import AcceleratorState

from stepping_stones_hf.metrics import FrameCounts
from stepping_stones_hf.metrics.avss_miou import avss_miou

from ..snippets import DOCS, run_snippets


CARD = Path(avss_miou.__file__).parent / "README.md"
PAGE = DOCS / "which_miou.md"


@pytest.fixture(autouse=True)
def load_from_here(monkeypatch, tmp_path):
    """`evaluate.load` without its search for the file, and with its data in the test's folder."""

    def load(name, config_name=None, **options):
        assert name == "avss_miou"
        return avss_miou.AvssMiou(config_name, cache_dir=str(tmp_path), **options)

    monkeypatch.setattr(evaluate, "load", load)


def test_the_worked_example_of_the_docstring_holds():
    results = doctest.testmod(avss_miou)
    assert results.failed == 0 and results.attempted > 5


def test_the_tables_of_the_page_are_made_by_its_snippets(capsys):
    run_snippets(PAGE)
    tables = re.split(r"\n(?=\| protocol \|)", capsys.readouterr().out.strip())
    assert len(tables) == 2
    for table in tables:
        assert table in PAGE.read_text()


def test_the_snippets_of_the_card_run(capsys):
    try:
        variables = run_snippets(CARD)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert len(capsys.readouterr().out.splitlines()) == 3
    corrected = variables["robustness"]["corrected"]
    assert (corrected["unmarked_n"], corrected["silence"]["miou_sounding"]) == (2 / 3, 0)
    assert (variables["results"]["num_videos"], variables["results"]["num_frames"]) == (3, 30)


def test_the_card_explains_every_result():
    labels, videos = np.zeros((2, 2), int), np.array([0])
    results = avss_miou.semantic_results([avss_miou.semantic_statistics(labels, labels)], videos, confidence=0.5)
    results |= avss_miou.binary_results([avss_miou.binary_statistics(labels.astype(float), labels)], videos)
    frames = FrameCounts(num_classes=2)
    frames.add([("v2", "a", 0)], [labels], [labels])
    robustness = avss_miou.robustness_results(dict.fromkeys(avss_miou.SOUNDS, frames))
    names = [*robustness, *robustness["official"]["own"], *robustness["corrected"]["own"], "robustness"]
    for name in [*results, *results["per_class"], *results["silent_frames"], *names, "repeated_frames"]:
        assert f"`{name}`" in CARD.read_text(), name


def test_the_card_explains_every_option():
    for options in (*avss_miou.REDUCTION_OPTIONS.values(), *avss_miou.SUMMARY_OPTIONS.values()):
        for name in options:
            assert f"| `{name}` |" in CARD.read_text(), name
