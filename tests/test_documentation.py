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

import argparse
import ast
import importlib
import json
import pkgutil
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import datasets
import evaluate
import pytest
import torch
import yaml
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState
from packaging.version import Version

import stepping_stones_hf
from stepping_stones_hf import AutoModelForAudioVisualSegmentation, VGGishConfig, VGGishModel
from stepping_stones_hf.cli import CONVERTIBLE_MODELS, make_parser
from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.models.vggish.convert_vggish_original import ORIGINAL_KEYS
from stepping_stones_hf.training.arguments import read_recipe
from stepping_stones_hf.training.initialization import make_config

from .snippets import DOCS, README, REPOSITORY, read_commands, read_snippets, run_snippets
from .videos import make_video


PAGES = sorted(DOCS.rglob("*.md"))
CHANGELOG = REPOSITORY / "CHANGELOG.md"
# Their own tests run their snippets, on data of their own, and say more about them.
TESTED_ELSEWHERE = (
    "adapt_it",
    "does_it_listen",
    "export",
    "preparing_avsbench",
    "parquet_and_streaming",
    "reading_the_results",
    "which_miou",
)


# What people import from; the rest of the library is there for these, and for who changes it.
MODELS = sorted(path.parent.name for path in Path(stepping_stones_hf.__file__).parent.glob("models/*/__init__.py"))
PUBLIC_MODULES = (
    "data",
    "metrics",
    *(f"models.{name}" for name in MODELS),
    "pipelines",
    "segment_video",
    "segment_videos",
    "streaming",
    "tables",
    "video",
    "visualization",
)


def name_of(page: Path) -> str:
    """As it stands in the table of contents."""
    return page.relative_to(DOCS).with_suffix("").as_posix()


def each(pages: list[Path]):
    return pytest.mark.parametrize("page", pages, ids=[page.relative_to(REPOSITORY).as_posix() for page in pages])


def read_prose(page: Path) -> str:
    """What is neither the license nor code."""
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


class Parsed(Exception):
    """A script has understood its command line."""


def check_script(script: str, arguments: list[str], monkeypatch) -> None:
    """Runs a script until its own parser has taken the arguments, `...` for any others, or refused them."""
    parse = argparse.ArgumentParser.parse_known_args

    def parse_and_stop(self, args=None, namespace=None):
        if "..." in arguments:
            for action in self._actions:
                action.required = False
        _, unknown = parse(self, [word for word in arguments if word != "..."], namespace)
        if unknown:
            self.error(f"unrecognized arguments: {unknown}")
        raise Parsed

    with monkeypatch.context() as patches:
        patches.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_stop)
        patches.setattr(sys, "argv", [script, *arguments])
        patches.syspath_prepend(str((REPOSITORY / script).parent))
        patches.chdir(REPOSITORY)
        patches.setitem(sys.modules, "gradio", MagicMock())  # an extra of the page alone
        with pytest.raises(Parsed):
            runpy.run_path(script, run_name="__main__")


@each([README, *PAGES])
def test_commands_are_understood(page, monkeypatch):
    for program, *arguments in read_commands(page):
        if program == "stepping-stones":
            make_parser().parse_args(arguments)
        elif program == "make":
            assert re.search(rf"^{arguments[0]}:", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
        elif program == "accelerate":
            launched = launch_command_parser().parse_args(arguments[1:])
            check_script(launched.training_script, launched.training_script_args, monkeypatch)
        elif program == "python" and arguments[0].endswith(".py"):
            check_script(arguments[0], arguments[1:], monkeypatch)


@pytest.mark.parametrize(
    "arguments", [["--step"], ["--stage", "3"], ["--data_dir"], ["--help_me", "1"]], ids=lambda words: words[0]
)
def test_a_script_refuses_what_it_does_not_understand(arguments, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        check_script("examples/train_stepping_stones.py", arguments, monkeypatch)
    assert arguments[0] in capsys.readouterr().err


@each([page for page in PAGES if read_autodoc(page)])
def test_what_is_taken_from_docstrings_exists_and_has_one(page):
    for name, methods in read_autodoc(page):
        documented = pkgutil.resolve_name(f"stepping_stones_hf.{name}")
        for described in (documented, *(getattr(documented, method) for method in methods)):
            assert described.__doc__, (name, described)


def test_names_that_are_taken_from_docstrings_are_found_after_the_import_of_the_configuration():
    # As doc-builder looks for them: attribute by attribute, in what is imported.
    names = [name for page in PAGES for name, _ in read_autodoc(page)]
    code = f"""
import functools, json, runpy
runpy.run_path({str(DOCS / "_config.py")!r})
import stepping_stones_hf
missing = []
for name in {names!r}:
    try:
        functools.reduce(getattr, name.split("."), stepping_stones_hf)
    except AttributeError:
        missing.append(name)
print(json.dumps(missing))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


@cache
def read_documented() -> tuple[list, str]:
    """What is taken from docstrings, and the text of all pages."""
    names = [name for page in PAGES for name, _ in read_autodoc(page)]
    text = "".join(map(read_prose, PAGES))
    return [pkgutil.resolve_name(f"stepping_stones_hf.{name}") for name in names], text


def is_documented(module: ModuleType, name: str) -> bool:
    value, (documented, text) = getattr(module, name), read_documented()
    # A constant has no docstring to take; a page says what it is.
    return any(value is other for other in documented) or (not callable(value) and f"{name}`" in text)


@pytest.mark.parametrize("module", ["", *PUBLIC_MODULES])
def test_all_public_names_are_documented(module):
    module = importlib.import_module(f"stepping_stones_hf.{module}".rstrip("."))
    assert [name for name in module.__all__ if not is_documented(module, name)] == []


def test_each_model_has_a_page():
    assert {f"model_doc/{name}" for name in MODELS} <= {name_of(page) for page in PAGES}


def read_table(page: Path, heading: str) -> list[dict[str, str]]:
    """The rows of the first table below a heading, by the titles of their columns."""
    text = read_prose(page).split(f"# {heading}\n")[1]
    lines = re.search(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)[0].splitlines()
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


MODELS_PAGE = DOCS / "models.md"


def test_the_page_of_models_has_a_row_for_each():
    rows = {row["`model_type`"].strip("`"): row["model"] for row in read_table(MODELS_PAGE, "Models")}
    folders = {path.parent.name for path in Path(stepping_stones_hf.__file__).parent.glob("models/*/__init__.py")}
    assert set(rows) == folders - {"vggish"}  # which is a part of models
    assert all(f"](model_doc/{name}.md)" in link for name, link in rows.items())
    names = [re.match(r"\[(.+)\]", link)[1] for link in rows.values()]
    assert names == [row["model"] for row in read_table(MODELS_PAGE, "Which preset")]
    convertible = [row["`--model`"].strip("`") for row in read_table(MODELS_PAGE, "Released checkpoints")]
    assert convertible == list(CONVERTIBLE_MODELS)
    published = [
        row for by in ("AVSBench's", "CAVP's", "EASE's") for row in read_table(MODELS_PAGE, f"By {by} protocol")
    ]
    assert {row["model"].split(",")[0] for row in published} <= set(names)


def test_the_page_of_models_names_presets_that_are_there_and_all_of_them():
    named = {name for row in read_table(MODELS_PAGE, "Which preset") for name in re.findall(r"[\w-]+\.yaml", str(row))}
    assert named == {path.name for path in (REPOSITORY / "examples" / "configs").iterdir()} - {"ablations.yaml"}


RESNET_50 = {"model_type": "resnet", "out_features": ["stage1", "stage2", "stage3", "stage4"]}


@pytest.mark.parametrize(
    "row", read_table(MODELS_PAGE, "Size"), ids=lambda row: f"{row['preset'].strip('`')}-{row['backbone']}"
)
def test_the_page_of_models_has_the_sizes_of_those_that_the_presets_make(row):
    recipe = read_recipe(REPOSITORY / "examples" / "configs" / row["preset"].strip("`"))
    for stage in (1, 2):
        block = recipe["model"] | recipe.get(f"stage_{stage}_model", {})
        block |= {"backbone_config": RESNET_50} if row["backbone"] == "ResNet-50" else {}
        with torch.device("meta"):
            model = AutoModelForAudioVisualSegmentation.from_config(make_config(block, stage == 1, stage == 2))
        kinds = {"Swin-B": "swin", "PVT-v2-b5": "pvt_v2", "ViT-B/16": "dinov3_vit", "ViT-L/16": "dinov3_vit"}
        assert model.config.backbone_config.model_type == kinds.get(row["backbone"], "resnet")
        vggish = model.base_model.audio_encoder.num_parameters()
        assert f"{vggish / 1e6:.1f}" in read_prose(MODELS_PAGE)
        assert row[f"stage {stage}"] == f"{(model.num_parameters() - vggish) / 1e6:.1f}"


@each([README, *PAGES])
def test_what_snippets_import_is_documented(page):
    for node in (node for snippet in read_snippets(page) for node in ast.walk(ast.parse(snippet))):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("stepping_stones_hf"):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not is_documented(module, alias.name)] == []


def test_the_table_of_contents_has_each_page_once():
    sections = yaml.safe_load((DOCS / "_toctree.yml").read_text())
    entries = [entry for section in sections for entry in section["sections"]]
    expected = [{"local": name_of(page), "title": title} for page in PAGES for title in read_headings(page, "#")]
    assert sorted(entries, key=lambda entry: entry["local"]) == sorted(expected, key=lambda entry: entry["local"])


@each([README, CHANGELOG, *PAGES])
def test_links_and_pictures_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", read_prose(page)):
        if not target.startswith("http"):
            path, _, anchor = target.partition("#")
            linked = page.parent / path if path else page
            assert linked.exists(), target
            assert not anchor or anchor in read_anchors(linked), target


@each([README, *PAGES])
def test_files_that_are_named_are_there(page):
    for path in re.findall(r"`((?:benchmarks|docs|examples|src|tests)/[\w./-]+)`", read_prose(page)):
        assert (REPOSITORY / path).exists(), path


def test_the_changelog_begins_with_the_version_that_this_is_or_becomes():
    heading = r"^## \[(.+)\] - (unreleased|\d{4}-\d\d-\d\d)$"
    version, date = re.findall(heading, CHANGELOG.read_text(), flags=re.MULTILINE)[0]
    latest, current = Version(version), Version(stepping_stones_hf.__version__)
    assert latest >= current if date == "unreleased" else latest == current
