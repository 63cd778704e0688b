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
"""What is told of a model: scores by subset and sound, tables, a card whose code runs, a repository that is whole."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import Pipeline

from stepping_stones_hf import AAVSForAudioVisualSegmentation, AAVSProcessor
from stepping_stones_hf.data import load_avsbench
from stepping_stones_hf.data.labels import CLASS_NAMES
from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.training import report
from stepping_stones_hf.training.evaluation import FrameScores
from stepping_stones_hf.training.mask_store import mask_path, write_mask
from stepping_stones_hf.training.report import (
    draw_examples,
    make_class_table,
    make_evaluation_tables,
    make_model_card,
    make_table,
    summarize_evaluation,
    summarize_localization,
    summarize_semantics,
    write_repository,
)

from ..toy_model import ToyConfig


CLIPS = [("v2", "a"), ("v1s", "b"), ("v1s", "c"), ("v1m", "d")]


def make_scores(num_classes: int | None = None, seed: int = 0, clips=CLIPS, sounds: bool = True) -> FrameScores:
    """Two frames a clip; those of S4 sound in the second frame alone, or none does."""
    generator, scores = np.random.default_rng(seed), FrameScores(num_classes)
    for subset, video in clips:
        label_maps = generator.integers(0, 3, (2, 8, 8)) * sounds
        label_maps[0] *= subset != "v1s"
        if num_classes is None:
            predictions, label_maps = generator.random((2, 2, 8, 8)), label_maps > 0
        else:
            predictions = np.where(generator.random((2, 8, 8)) < 0.6, label_maps, 1)
        scores.add([(subset, video, frame) for frame in range(2)], predictions, label_maps)
    return scores


def test_a_localizer_is_summarized_by_subset_in_the_papers_order():
    scores = make_scores()
    summary = summarize_localization(scores)
    assert list(summary) == ["S4", "MS3", "V2"]
    for name, subset in (("S4", "v1s"), ("MS3", "v1m"), ("V2", "v2")):
        expected = scores.results(subset)
        assert {key: summary[name][key] for key in ("miou", "fscore", "miou_star", "fscore_star", "num_videos")} == {
            key: expected[key] for key in ("miou", "fscore", "miou_star", "fscore_star", "num_videos")
        }
    assert summary["S4"]["silent_frames"]["count"] == 2
    assert summary["V2"]["silent_frames"] == {
        "count": 0,
        "correct_silence_rate": None,
        "false_alarm_area": None,
    }


@pytest.mark.parametrize("sounds", [True, False])
def test_summaries_are_json_that_every_reader_takes(sounds):
    summary = summarize_evaluation(
        {"localizer": {"own": make_scores(sounds=sounds)}, "model": {"own": make_scores(71, sounds=sounds)}}, {}
    )
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_another_sound_is_compared_with_the_own_one_of_the_same_clips():
    own, other = make_scores(3, seed=0), make_scores(3, seed=1, clips=CLIPS[:2])
    prompts = make_scores(seed=2)
    summary = summarize_evaluation({"model": {"own": own, "shuffled": other}}, {"model": prompts})
    assert set(summary["semantics"]) == {"model"} and summary["localization"] == {}
    row = summary["other_sounds"]["model"]["shuffled"]["all"]
    assert row["num_videos"] == 2 and row["miou"] == other.results()["miou"]
    assert row["own_sound"]["miou"] == own.select(CLIPS[:2]).results()["miou"] != own.results()["miou"]
    assert summary["semantics"]["model"]["first_stage_iou"] == {
        name: prompts.results(subset)["miou"] for name, subset in (("S4", "v1s"), ("MS3", "v1m"), ("V2", "v2"))
    }


def read_tables(text: str) -> list[list[list[str]]]:
    """The cells of each table."""
    tables = re.findall(r"(?:^\|.*\|$\n?)+", text, flags=re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()] for table in tables]


def test_tables_of_an_evaluation_are_in_percent_and_only_of_what_there_is():
    localizer, model = make_scores(), make_scores(3)
    scores = {"stage 1": {"own": localizer, "silence": localizer}, "stage 2": {"own": model}}
    summary = summarize_evaluation(scores, {})
    text = make_evaluation_tables(summary)
    assert re.findall("^## (.*)", text, flags=re.MULTILINE)[1:] == ["AVSS", "Silent frames", "Other sounds"]
    localized, semantics, silent, sounds = read_tables(text)
    assert [row[:2] for row in localized[2:]] == [["stage 1", name] for name in ("S4", "MS3", "V2")]
    assert localized[2][2] == f"{100 * localizer.results('v1s')['miou']:.2f}"
    assert semantics[2][:2] == ["stage 2", f"{100 * model.results()['miou']:.2f}"]
    assert [row[2] for row in silent[2:]] == ["2", "0", "0", "2"] and silent[3][3:] == ["–", "–"]
    assert [row[3] for row in sounds[2:]] == ["2", "1", "1"]
    alone = make_evaluation_tables(summarize_evaluation({"stage 2": {"own": model}}, {}))
    assert re.findall("^## (.*)", alone, flags=re.MULTILINE) == ["AVSS", "Silent frames"]


def test_the_table_of_classes_has_a_row_for_each():
    scores = {"stage 1": make_scores(), "stage 2": make_scores(71)}
    rows = list(csv.DictReader(io.StringIO(make_class_table(scores))))
    assert [row["subset"] for row in rows[:6]] == ["S4", "S4", "MS3", "MS3", "V2", "V2"]
    assert [row["name"] for row in rows[:6]] == ["background", "sounding"] * 3
    of_stage_2 = [row for row in rows if row["method"] == "stage 2"]
    assert tuple(row["name"] for row in of_stage_2) == CLASS_NAMES
    per_class = scores["stage 2"].results()["per_class"]
    assert [float(row["iou"]) for row in of_stage_2] == pytest.approx(per_class["iou"], abs=1e-6)
    assert of_stage_2[5]["fscore_star"] == "" and of_stage_2[5]["frames"] == "0"  # neither true nor predicted


# Cards and repositories ----------------------------------------------------------------------------------------------


@pytest.fixture
def results() -> dict:
    return {
        "stage_1": summarize_localization(make_scores()),
        "stage_2": {"masks of stage 1": summarize_semantics(make_scores(71))},
    }


def run_card(card: ModelCard) -> dict:
    """Runs the code of a card, but for the video."""
    variables = {}
    for code in re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL):
        exec(code.replace('segment("video.mp4")', "[]"), variables)
    return variables


@pytest.mark.parametrize("kind", report.KINDS)
def test_the_code_of_a_card_loads_what_the_repository_holds(kind, results, two_stage_repository, tmp_path):
    folder = {
        "two stages": two_stage_repository,
        "stage 1": two_stage_repository / "localizer",
        "stage 2": Path(shutil.copytree(two_stage_repository, tmp_path / "model", ignore=lambda *_: ["localizer"])),
        "one stage": two_stage_repository / "localizer",  # as this, it has no prompt
    }[kind]
    card = make_model_card(results, kind, str(folder), ["aavs"])
    variables = run_card(card)
    assert isinstance(variables["model"], AAVSForAudioVisualSegmentation)
    assert isinstance(variables["processor"], AAVSProcessor)
    assert ("localizer" in variables) == (kind == "two stages")
    assert isinstance(variables.get("segment"), Pipeline) == (kind != "stage 2")
    if kind == "two stages":
        assert variables["localizer"].config.num_labels == 2 and variables["model"].config.num_labels == 71


def test_a_card_says_of_which_models_it_is_and_shows_their_scores(results):
    card = make_model_card(results, "two stages", "me/avs", ["tpavi", "aavs"])
    assert ModelCard(card.content).data.tags == ["audio-visual-segmentation", "tpavi", "aavs", "stepping-stones"]
    assert card.data.library_name == "stepping_stones_hf"
    assert "`tpavi` and `aavs`" in card.text and make_table(results) in card.text
    assert f"| {results['stage_1']['MS3']['miou']:.3f} |" in card.text
    assert not re.search(r"\{[{%]|\n\n\n", card.content)


def test_a_repository_holds_the_stages_that_there_are(results, two_stage_repository, tmp_path):
    localizer, model = two_stage_repository / "localizer", two_stage_repository
    alone = Path(shutil.copytree(model, tmp_path / "alone", ignore=shutil.ignore_patterns("localizer")))
    for kind, stages in {
        "stage 1": {1: localizer},
        "stage 2": {2: alone},
        "two stages": {1: localizer, 2: alone},
    }.items():
        write_repository(tmp_path / "out", stages, results)
        labels = AAVSForAudioVisualSegmentation.from_pretrained(tmp_path / "out").config.num_labels
        assert labels == (2 if kind == "stage 1" else 71)
        assert (tmp_path / "out" / "localizer").is_dir() == (kind == "two stages")
        assert report.KINDS[kind] in ModelCard.load(tmp_path / "out" / "README.md").text
        AAVSProcessor.from_pretrained(tmp_path / "out")
    of_one_stage = {"stage_2": {"no masks": results["stage_2"]["masks of stage 1"]}}
    write_repository(tmp_path / "out", {2: alone}, of_one_stage, "me/x")
    text = ModelCard.load(tmp_path / "out" / "README.md").text
    assert report.KINDS["one stage"] in text and 'from_pretrained("me/x")' in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "out"]


def test_the_card_of_a_repository_has_the_models_own_type(results, two_stage_repository, tmp_path):
    ToyConfig().save_pretrained(tmp_path / "toy")
    write_repository(tmp_path / "out", {1: two_stage_repository / "localizer", 2: tmp_path / "toy"}, results)
    tags = ModelCard.load(tmp_path / "out" / "README.md").data.tags
    assert tags == ["audio-visual-segmentation", "aavs", "toy", "stepping-stones"]


def test_a_repository_that_cannot_be_written_leaves_the_older_one(
    results, two_stage_repository, tmp_path, monkeypatch
):
    write_repository(tmp_path / "out", {1: two_stage_repository / "localizer"}, results)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    monkeypatch.setattr(ModelCard, "save", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        write_repository(tmp_path / "out", {2: two_stage_repository}, results)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("prompted", [True, False], ids=["two stages", "localizer"])
def test_examples_show_a_clip_of_each_subset(prompted, two_stage_repository, tmp_path, monkeypatch):
    mini = make_mini_avsbench(tmp_path / "mini", image_size=48, clips={"v1s": (0, 0, 2), "v1m": (0, 0, 1)})
    clips = load_avsbench("avss", mini, "test", cache_dir=str(tmp_path / "cache"))
    for clip in clips:
        for frame in range(clip["num_frames"]):
            write_mask(mask_path(tmp_path / "store", clip["subset"], clip["video_id"], frame), np.ones((8, 8)))
    drawn = []
    monkeypatch.setattr(report, "draw_grid", lambda header, rows: drawn.append((header, rows)))
    torch.manual_seed(0)
    draw_examples(two_stage_repository if prompted else two_stage_repository / "localizer", clips, tmp_path / "store")
    ((header, rows),) = drawn
    assert 2 <= len(rows) <= 4 and {len(row) for row in rows} == {len(header)} == {4}
    truths = [row[1][1] for row in rows]
    assert any(truths) and all(not row[0][1] for row in rows)  # named by what sounds
    assert len({row[0][0].tobytes() for row in rows}) == len(rows)
