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

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stepping_stones_hf.data import load_avsbench
from stepping_stones_hf.metrics import semantic_results, semantic_statistics
from stepping_stones_hf.training.checkpoints import lock_run

from ..snippets import DOCS
from .test_evaluate_stepping_stones import read_label_maps, read_masks, save_model


sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import compare_systems as script  # noqa: E402
import evaluate_stepping_stones as evaluation_script  # noqa: E402


FIGURES = ("miou", "fscore", "miou_star", "fscore_star")
pytestmark = pytest.mark.usefixtures("on_the_cpu")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A folder with a two-stage repository and a model of one stage."""
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "two_stages", 0, num_labels=71, use_mask_prompt=True)
    save_model(folder / "two_stages" / "localizer", 1, num_labels=2, apply_output_projection=False)
    save_model(folder / "one_stage", 2, num_labels=71)
    return folder


@pytest.fixture(scope="module")
def evaluation(data_dir, models, tmp_path_factory) -> Path:
    """What evaluate_stepping_stones.py says of the two-stage repository, and the masks that it predicts."""
    folder = tmp_path_factory.mktemp("evaluation") / "two_stages"
    arguments = ["--model", models / "two_stages", "--data_dir", data_dir, "--output_dir", folder]
    evaluation_script.main([*map(str, arguments), "--save_predictions"])
    return folder


def run(data_dir: Path, output_dir: Path, *arguments) -> list[dict]:
    """The rows of the table."""
    script.main([str(argument) for argument in ("--data_dir", data_dir, "--output_dir", output_dir, *arguments)])
    with open(output_dir / "table.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def systems(models, evaluation) -> list[str]:
    return [
        f"two={models / 'two_stages'}",
        f"one={models / 'one_stage'}",
        f"masks={evaluation / 'predictions' / 'stage1'}",
        f"store={evaluation / 'stage1_masks'}",
    ]


@pytest.fixture(scope="module")
def comparison(data_dir, systems, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("comparison") / "out"
    run(data_dir, folder, "--systems", *systems, "--printed", "two=AAVS")
    return folder


@pytest.fixture(scope="module")
def rows(comparison) -> dict[tuple[str, str], dict]:
    with open(comparison / "table.csv", newline="") as file:
        return {(row["on"], row["system"]): row for row in csv.DictReader(file)}


def read_table(folder: Path) -> list[list[str]]:
    lines = (folder / "table.md").read_text().splitlines()
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines if line.startswith("|")]


# Figures -------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_has_the_figures_of_its_evaluation(rows, comparison, evaluation):
    results = json.loads((evaluation / "results.json").read_text())
    expected = {**results["localization"]["stage 1"], "AVSS": results["semantics"]["stage 2, masks of stage 1"]}
    assert [on for on, system in rows if system == "two"] == list(expected) == ["S4", "MS3", "V2", "AVSS"]
    lines = {(line[0], line[1]): line for line in read_table(comparison)}
    for on, figures in expected.items():
        for column, figure in enumerate((*FIGURES, "miou_seen"), start=2):
            if figure in figures:
                assert float(rows[on, "two"][figure]) == figures[figure], (on, figure)
                assert lines[on, "two"][column].startswith(f"{100 * figures[figure]:.2f} [")
        assert rows[on, "two"]["num_videos"] == str(figures["num_videos"])


def test_masks_in_a_folder_score_as_the_system_that_wrote_them(rows):
    own, entered = rows["AVSS", "two"], rows["AVSS", "masks"]
    assert ("S4", "masks") not in rows
    for figure in (*FIGURES, "miou_seen"):
        for end in ("", "_low", "_high"):
            assert own[figure + end] == entered[figure + end]
            assert float(entered[f"difference_{figure}{end}"]) == 0
    assert entered["parameters"] == entered["seconds"] == ""


def test_the_masks_of_a_store_score_as_the_localizer_but_for_the_thresholds_of_f(rows):
    assert ("AVSS", "store") not in rows
    for on in ("S4", "MS3", "V2"):
        for figure in ("miou", "miou_star", "fscore_star"):
            assert rows[on, "store"][figure] == rows[on, "two"][figure]


def test_differences_are_those_to_the_first_system_that_did_the_same(rows, comparison):
    table = read_table(comparison)
    assert {row["difference_to"] for (_, system), row in rows.items() if system != "two"} == {"two"}
    for (on, system), row in rows.items():
        if system != "two":
            for figure in FIGURES:
                difference = float(row[figure]) - float(rows[on, "two"][figure])
                assert float(row[f"difference_{figure}"]) == difference
    position = next(index for index, line in enumerate(table) if line[:2] == ["AVSS", "one"])
    row, line = rows["AVSS", "one"], table[position + 1]
    assert line[1] == "difference to two"
    value, low, high = (100 * float(row[f"difference_miou{end}"]) for end in ("", "_low", "_high"))
    text = f"**{value:+.2f}**" if low > 0 or high < 0 else f"{value:+.2f}"
    assert line[2] == f"{text} [{low:+.2f}, {high:+.2f}]"


def test_parameters_and_seconds_are_those_of_the_stages_that_take_part(rows, models):
    def count(folder: Path) -> int:
        model = evaluation_script.AutoModelForAudioVisualSegmentation.from_pretrained(folder)
        return sum(parameter.numel() for parameter in model.parameters())

    localizer, stage_2 = count(models / "two_stages" / "localizer"), count(models / "two_stages")
    assert rows["S4", "two"]["parameters"] == str(localizer)
    assert rows["AVSS", "two"]["parameters"] == str(localizer + stage_2)
    assert rows["AVSS", "one"]["parameters"] == str(count(models / "one_stage"))
    assert float(rows["AVSS", "two"]["seconds"]) > float(rows["S4", "two"]["seconds"]) > 0


def test_what_was_printed_stands_below_and_how_far_the_measured_is_from_it(rows, comparison):
    table = read_table(comparison)
    position = next(index for index, line in enumerate(table) if line[:2] == ["S4", "two"])
    line = table[position + 1]
    assert line[1] == "printed: Stepping Stones, Tables 1 and D1"
    difference = round(100 * float(rows["S4", "two"]["miou"]), 2) - 83.18
    assert line[2] == f"83.18 (**{difference:+.2f}**)"  # far outside of the interval
    assert rows["S4", "two"]["printed_miou"] == "83.18"
    assert sum(line[1].startswith("printed") for line in table) == 3  # nobody has printed figures on V2


def test_localizers_are_compared_on_ms3(data_dir, models, evaluation, tmp_path):
    localizer, store = models / "two_stages" / "localizer", evaluation / "stage1_masks"
    masks = tmp_path / "masks"  # of another system, without a manifest
    shutil.copytree(store, masks, ignore=shutil.ignore_patterns("manifest.json"))
    systems = [f"two={models / 'two_stages'}", f"alone={localizer}", f"masks={masks}"]
    two, alone, entered = run(data_dir, tmp_path / "out", "--dataset", "ms3", "--systems", *systems)
    assert [row["on"] for row in (two, alone, entered)] == ["MS3"] * 3
    assert [two[figure] for figure in FIGURES] == [alone[figure] for figure in FIGURES]
    assert (two["miou"], two["fscore_star"]) == (entered["miou"], entered["fscore_star"])
    assert Image.open(tmp_path / "out" / "figure.png").size[0] == 5 * 166 + 6


# The figure ----------------------------------------------------------------------------------------------------------


def test_clips_of_the_figure_are_those_of_the_ranks(data_dir, comparison, systems, monkeypatch):
    drawn = []
    draw_grid = script.draw_grid
    monkeypatch.setattr(script, "draw_grid", lambda *grid: drawn.append(grid) or draw_grid(*grid))
    run(data_dir, comparison, "--systems", *systems, "--printed", "two=AAVS")
    ((titles, rows),) = drawn
    assert titles == ("frame", "truth", "two", "one", "masks")

    # The ranks, from the label maps as they lie there.
    clips = load_avsbench("avss", data_dir, "test")
    truths = read_label_maps(clips)
    folders = [next((comparison / "systems" / name / "predictions").iterdir()) for name in ("two", "one")]
    differences = {}
    for clip in clips:
        name = clip["subset"], clip["video_id"]
        frames = [(*name, index) for index in clip["mask_frame_indices"]]
        scores = []
        for folder in folders:
            counts = [semantic_statistics(*pair) for pair in zip(read_masks(folder, frames), map(truths.get, frames))]
            scores.append(semantic_results(counts, np.zeros(len(frames), int))["miou_star_present"])
        two, one = scores
        differences[name] = (one + two) / 2 - two  # the third system's masks are those of the first one
    ranked = sorted(differences, key=lambda name: (-differences[name], name))
    with open(comparison / "videos.csv", newline="") as file:
        assert [(row["subset"], row["video_id"]) for row in csv.DictReader(file)] == ranked
    caption = (comparison / "table.md").read_text().splitlines()[-1]
    for row, rank in zip(rows, (1, 2, 3, 5, 6), strict=True):
        name = ranked[rank - 1]
        assert row[0][1] == f"rank {rank}: {100 * differences[name]:+.1f}"
        assert f"{rank} ({name[0]}/{name[1]})" in caption
        (clip,) = [clip for clip in clips if (clip["subset"], clip["video_id"]) == name]
        shown = [frame.tobytes() for frame in clip["frames"]].index(row[0][0].tobytes())
        classes = [len(np.unique(truths[(*name, index)])) for index in clip["mask_frame_indices"]]
        assert classes[shown] == max(classes)


# Resuming ------------------------------------------------------------------------------------------------------------


def test_a_killed_comparison_resumes_and_runs_each_system_once(data_dir, models, evaluation, tmp_path, monkeypatch):
    systems = [f"one={models / 'one_stage'}", f"masks={evaluation / 'predictions' / 'stage1'}"]
    complete, finished = script.complete_folder, []

    def be_killed(folder: Path) -> None:
        if finished:
            raise KeyboardInterrupt
        complete(folder)
        finished.append(folder.name)

    with monkeypatch.context() as patch:
        patch.setattr(script, "complete_folder", be_killed)
        with pytest.raises(KeyboardInterrupt):
            run(data_dir, tmp_path / "out", "--systems", *systems)
    assert finished == ["one"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"systems", ".lock"}
    measured, measure = [], script.measure

    def count_and_measure(args, system, *rest) -> None:
        measured.append(system.name)
        measure(args, system, *rest)

    monkeypatch.setattr(script, "measure", count_and_measure)
    resumed = run(data_dir, tmp_path / "out", "--systems", *systems)
    again = run(data_dir, tmp_path / "out", "--systems", *systems)
    assert measured == ["masks"]
    assert {path.name for path in (tmp_path / "out" / "systems").iterdir()} == {"one", "masks"}
    whole = run(data_dir, tmp_path / "whole", "--systems", *systems)
    assert resumed == again
    for row, expected in zip(resumed, whole, strict=True):
        assert {**row, "seconds": None} == {**expected, "seconds": None}
    for name in ("videos.csv", "figure.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_finished_system_of_another_checkpoint_or_arguments_is_refused(data_dir, models, tmp_path):
    model = shutil.copytree(models / "one_stage", tmp_path / "model")
    arguments = ["--systems", f"one={model}"]
    run(data_dir, tmp_path / "out", *arguments)
    message = "out/systems/one is finished, but with another .*: unknown_color was error, is background. Remove that"
    with pytest.raises(ValueError, match=message):
        run(data_dir, tmp_path / "out", *arguments, "--unknown_color", "background")
    save_model(model, 7, num_labels=71)
    with pytest.raises(ValueError, match="one is finished, but with another checkpoint.*: content was .*Remove that"):
        run(data_dir, tmp_path / "out", *arguments)


@pytest.mark.parametrize("name", ["run.json", "semantics.npz"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut off"])
def test_a_finished_system_that_was_damaged_since_is_refused(data_dir, comparison, systems, tmp_path, name, damage):
    out = shutil.copytree(comparison, tmp_path / "out")
    path = out / "systems" / "one" / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 0 if damage == "empty" else 100])
    with pytest.raises(ValueError, match=r"systems/one is incomplete or damaged \(.*\): remove that folder to"):
        run(data_dir, out, "--systems", *systems)
    assert (out / "table.md").read_text() == (comparison / "table.md").read_text()


def test_two_comparisons_are_not_in_one_folder(data_dir, models, tmp_path):
    with lock_run(tmp_path), pytest.raises(ValueError, match=f"Another process works in {tmp_path}"):
        run(data_dir, tmp_path, "--systems", f"one={models / 'one_stage'}")
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--systems", "a=nowhere/at/all"], "nowhere/at/all is no folder"),
        (["--systems", "a={empty}"], "empty is neither a checkpoint, .* nor a folder of masks"),
        (["--systems", "nowhere"], "--systems takes NAME=..., .* got 'nowhere'"),
        (["--systems", "a/b={one_stage}"], "--systems takes NAME=..., .* got 'a/b="),
        (["--systems", "a|b={one_stage}"], r"--systems takes NAME=..., .* got 'a\|b="),
        (["--systems", "b={masks}", "--label_size", "0"], "--label_size is 0, expected at least 1"),
        (["--systems", "a={one_stage}", "a={two_stages}"], "--systems has two systems of the name 'a'"),
        (["--systems", "a={stage_2}"], "stage_2 is stage 2 without localizer/, which --dataset avss takes"),
        (["--systems", "a={one_stage}", "--dataset", "s4"], "one_stage is one stage without localizer/, which"),
        (["--systems", "a={one_stage}", "--label_size", "32"], "--label_size cannot be used with the checkpoint"),
        (["--systems", "a={one_stage}", "b={large}"], "sizes 64x64 of a, 32x32 of b: give the processors the same"),
        (["--systems", "a={one_stage}", "--printed", "b=CAVP"], "--printed b=CAVP: there is no such system, only a."),
        (["--systems", "a={one_stage}", "--printed", "a=XYZ"], "published.csv has no such row, only AAVS, .*CAVP"),
        (["--systems", "a={one_stage}", "b={lacking}"], "2.png does not exist. Every annotated frame"),
        (["--systems", "a={one_stage}", "b={store}"], "store has 34 masks, and 35 by its manifest"),
        (["--systems", "a={one_stage}", "b={small}"], "2.png is 32x16, and the labels are 64x64: write masks of"),
        (["--systems", "b={masks}"], "png is 64x64, and the labels are 224x224: write masks .* give --label_size"),
    ],
)
def test_bad_input_stops_before_anything_is_computed(arguments, message, data_dir, models, evaluation, tmp_path):
    folders = {"one_stage": models / "one_stage", "two_stages": models / "two_stages"}
    folders["masks"] = evaluation / "predictions" / "stage1"
    for name, origin in (("lacking", "masks"), ("small", "masks"), ("large", "one_stage"), ("stage_2", "two_stages")):
        if f"{{{name}}}" in " ".join(arguments):
            ignored = shutil.ignore_patterns("localizer")
            shutil.copytree(folders[origin], tmp_path / name, ignore=ignored)
    shutil.copytree(evaluation / "stage1_masks", tmp_path / "store")
    (tmp_path / "empty").mkdir()
    folders |= {path.name: path for path in tmp_path.iterdir()}
    for name in ("lacking", "store"):
        if name in folders:
            min(folders[name].glob("v1m/*/2.png")).unlink()
    if "small" in folders:
        path = min(folders["small"].glob("v1m/*/2.png"))
        Image.open(path).resize((16, 32), Image.Resampling.NEAREST).save(path)
    if "large" in folders:
        path = folders["large"] / "processor_config.json"
        text = path.read_text()
        assert '"label_size": {' in text
        path.write_text(re.sub(r'"label_size": \{[^}]*\}', '"label_size": {"height": 32, "width": 32}', text))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        run(data_dir, tmp_path / "out", *(argument.format(**folders) for argument in arguments))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


# Published figures, and real clips -----------------------------------------------------------------------------------


def test_published_figures_are_those_of_the_page_of_models():
    with open(script.PUBLISHED, newline="") as file:
        published = list(csv.DictReader(file))
    page = (DOCS / "models.md").read_text().split("## Size")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    checked = set()
    for row in published:
        model = row["name"].split()[0]
        for figures in (("miou", "fscore"), ("miou_star", "fscore_star")):
            cell = " / ".join(row[figure] for figure in figures)
            of_model = [line for line in rows if line[0].split(",")[0] == model]
            if of_model and cell != " / ":
                columns = {"S4": 2, "MS3": 3, "AVSS": 4}
                assert cell in {line[columns[row["on"]]] for line in of_model if len(line) == 6}, row
                checked.add(model)
    assert checked == {"AAVS", "AVSegFormer", "CAVP", "TPAVI"}


@pytest.mark.slow
def test_real_clips_run_through(shared_dir, models, tmp_path):
    systems = [f"localizer={models / 'two_stages' / 'localizer'}", f"one={models / 'one_stage'}"]
    rows = run(shared_dir / "real_clips", tmp_path / "out", "--systems", *systems)
    on = [*((name, "localizer") for name in ("S4", "MS3", "V2")), ("AVSS", "one")]
    assert [(row["on"], row["system"]) for row in rows] == on
    assert all(0 <= float(row["miou"]) <= 1 for row in rows)
    assert Image.open(tmp_path / "out" / "figure.png").size[0] == 3 * 166 + 6


# Does it listen? -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def deaf(evaluation, tmp_path_factory) -> Path:
    """Masks that are the same with every sound."""
    folder = tmp_path_factory.mktemp("robust") / "deaf"
    for sound in ("own", "silence", "noise", "offscreen"):
        shutil.copytree(evaluation / "predictions" / "stage1", folder / sound)
    return folder


@pytest.mark.slow
def test_the_table_says_whether_systems_listen(deaf, data_dir, models, tmp_path):
    rows = run(data_dir, tmp_path / "out", "--robust", "--systems", f"two={models / 'two_stages'}", f"deaf={deaf}")
    two, of_deaf = ({row["on"]: row for row in rows if row["system"] == name} for name in ("two", "deaf"))
    arguments = ["--model", models / "two_stages", "--data_dir", data_dir, "--output_dir", tmp_path / "evaluation"]
    evaluation_script.main([*map(str, arguments), "--robust"])
    robustness = json.loads((tmp_path / "evaluation" / "results.json").read_text())["robustness"]
    expected = {"AVSS": robustness["stage 2, masks of stage 1"]["all"], **robustness["stage 1"]}
    assert {on for on, row in two.items() if row["gap"]} == set(expected)
    for on, figures in expected.items():
        assert float(two[on]["g_miou"]) == figures["official"]["g_miou"]
        assert float(two[on]["g_fpr"]) == figures["official"]["g_fpr"]
        assert float(two[on]["gap_low"]) == figures["corrected"]["gap_interval"][0]
    assert float(of_deaf["AVSS"]["gap"]) == pytest.approx(0, abs=1e-12)
    table = read_table(tmp_path / "out")
    assert table[0][-3:] == ["G-mIoU", "FPR", "gap"] and len({len(line) for line in table}) == 1
    line = next(line for line in table if line[:2] == ["AVSS", "two"])
    gap = expected["AVSS"]["corrected"]
    assert line[-1] == "{:.2f} [{:.2f}, {:.2f}]".format(*(100 * value for value in (gap["gap"], *gap["gap_interval"])))


def test_masks_without_one_of_the_sounds_are_refused(deaf, data_dir, tmp_path):
    folder = shutil.copytree(deaf, tmp_path / "deaf")
    shutil.rmtree(folder / "silence")
    with pytest.raises(FileNotFoundError, match=re.escape(f"{folder / 'silence'}/")):
        run(data_dir, tmp_path / "out", "--robust", "--label_size", 64, "--systems", f"deaf={folder}")


def test_what_was_measured_without_other_sounds_is_not_taken_for_robust(comparison, data_dir, systems):
    with pytest.raises(ValueError, match="robust was None, is True. Remove"):
        run(data_dir, comparison, "--robust", "--systems", systems[0])
