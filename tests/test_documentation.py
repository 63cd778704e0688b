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
"""What the pages say can be done can be done, and what they name is there."""

import pkgutil
import re
from pathlib import Path

import datasets
import evaluate
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

import stepping_stones_hf
from stepping_stones_hf import VGGishConfig, VGGishModel
from stepping_stones_hf.cli import make_parser
from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.models.vggish.convert_vggish_original import ORIGINAL_KEYS

from .snippets import DOCS, README, REPOSITORY, read_commands, read_snippets, run_snippets
from .videos import make_video


PAGES = sorted(DOCS.rglob("*.md"))
# Their own tests run their snippets, on data of their own, and say more about them.
TESTED_ELSEWHERE = (
    "adapt_it",
    "export",
    "preparing_avsbench",
    "parquet_and_streaming",
    "reading_the_results",
    "which_miou",
)


def name_of(page: Path) -> str:
    """As it stands in the table of contents."""
    return page.relative_to(DOCS).with_suffix("").as_posix()


def each(pages: list[Path]):
    return pytest.mark.parametrize("page", pages, ids=[page.relative_to(REPOSITORY).as_posix() for page in pages])


def read_prose(page: Path) -> str:
    """What is neither the licence nor code."""
    text = page.read_text(encoding="utf-8").split("-->\n")[-1]
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def read_headings(page: Path, level: str = "#+") -> list[str]:
    return re.findall(rf"^{level} (.+)$", read_prose(page), flags=re.MULTILINE)


def read_autodoc(page: Path) -> list[tuple[str, list[str]]]:
    """Each name with the methods that are listed below it."""
    blocks = re.findall(r"^\[\[autodoc\]\] (\S+)\n((?: +- .+\n)*)", read_prose(page), flags=re.MULTILINE)
    return [(name, re.findall(r"- (.+)", methods)) for name, methods in blocks]


def read_anchors(page: Path) -> set[str]:
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-").lower() for heading in read_headings(page)}


@pytest.fixture
def after_the_demo(two_stage_repository, tmp_path, monkeypatch):
    """A working directory as `make demo` leaves it, with a video and a checkpoint of VGGish of the reader's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "cache")
    make_mini_avsbench("runs/mini/mini-avsbench", image_size=48, clips={"v2": (1, 0, 1)})
    Path("runs/mini/model").symlink_to(two_stage_repository)
    for name in ("runs/mini/clip.mp4", "video.mp4", "another_video.mp4"):
        make_video(Path(name), seconds=2)
    weights = VGGishModel(VGGishConfig(conv_channels=[4, 4, 8, 8], hidden_size=16)).state_dict()
    torch.save({original: weights[ours] for original, ours in ORIGINAL_KEYS.items()}, "vggish.pth")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@each([page for page in PAGES if read_snippets(page) and name_of(page) not in TESTED_ELSEWHERE])
def test_the_snippets_run_one_after_another(page, after_the_demo):
    run_snippets(page)


@each([README, *PAGES])
def test_commands_have_the_options_that_they_are_given(page):
    for command in read_commands(page):
        if command[0] == "stepping-stones":
            make_parser().parse_args(command[1:])
        elif command[0] == "make":
            assert re.search(rf"^{command[1]}:", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE), command
        for place, word in enumerate(command):
            if re.match(r"(examples|benchmarks)/.+\.(py|yaml)$", word):
                assert (REPOSITORY / word).is_file(), command
            if re.match(r"(examples|benchmarks)/.+\.py$", word):
                source = (REPOSITORY / word).read_text(encoding="utf-8")
                options = [option.removeprefix("--") for option in command[place + 1 :] if option.startswith("--")]
                assert [option for option in options if not re.search(rf"\b{option}\b", source)] == [], command


@each([page for page in PAGES if read_autodoc(page)])
def test_what_is_taken_from_docstrings_exists_and_has_one(page):
    for name, methods in read_autodoc(page):
        documented = pkgutil.resolve_name(f"stepping_stones_hf.{name}")
        for described in (documented, *(getattr(documented, method) for method in methods)):
            assert described.__doc__, (name, described)


def test_all_public_names_are_documented():
    documented = {name for page in PAGES for name, _ in read_autodoc(page)}
    assert set(stepping_stones_hf.__all__) <= documented


def test_the_table_of_contents_has_each_page_once():
    sections = yaml.safe_load((DOCS / "_toctree.yml").read_text())
    entries = [entry for section in sections for entry in section["sections"]]
    expected = [{"local": name_of(page), "title": title} for page in PAGES for title in read_headings(page, "#")]
    assert sorted(entries, key=lambda entry: entry["local"]) == sorted(expected, key=lambda entry: entry["local"])


@each([README, *PAGES])
def test_links_and_pictures_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", read_prose(page)):
        if not target.startswith("http"):
            path, _, anchor = target.partition("#")
            linked = page.parent / path if path else page
            assert linked.exists(), target
            assert not anchor or anchor in read_anchors(linked), target
