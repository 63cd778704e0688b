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
"""The ablations: their table from rows worked out by hand, their queue with a stand-in for the training script."""

import csv
import json
import re
import shutil
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.training.clips import load_clips
from stepping_stones_hf.visualization import describe


sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import ablations as script  # noqa: E402
import evaluate_stepping_stones  # noqa: E402
import train_stepping_stones  # noqa: E402
from train_stepping_stones import get_arguments, parse_arguments  # noqa: E402


RUNS = (*script.STAGE_1_RUNS, *script.STAGE_2_RUNS)

# In place of both scripts: writes down its arguments, and figures that follow from the seed and the name of the run.
STAND_IN = """
import json, sys
from pathlib import Path

values = {name: value for name, value in zip(sys.argv, sys.argv[1:]) if name.startswith("--")}
folder = Path(values["--output_dir"])
with open(Path(__file__).with_name("calls.txt"), "a") as file:
    file.write(f"{folder.parent.name}/{folder.name}\\n")
print("Begun.")
if (Path(__file__).parent / f"{folder.parent.name}-{folder.name}").exists():
    sys.exit("No luck.")
seed = int(folder.parent.name.removeprefix("seed_")) if folder.parent.name.startswith("seed_") else 0
folder.mkdir(parents=True, exist_ok=True)
(folder / "argv.json").write_text(json.dumps(sys.argv[1:]))
if folder.name == "qualities":
    figures = {"low": {"miou_seen": 0.5}, "high": {"miou_seen": 0.75}}
    figures = {"semantics": {f"stage 2, {name} masks": value for name, value in figures.items()}}
    (folder / "results.json").write_text(json.dumps(figures))
elif folder.name.startswith("masks_of_"):
    other = folder.name.removeprefix("masks_of_")
    parts = (other, folder.parts[-3], "stage_1", "stage_1", "model")
    assert Path(values["--localizer"]).parts[-5:] == parts and parts[1].startswith("seed_")
    figures = {"semantics": {"stage 2, masks of stage 1": {"miou_seen": 0.625, "fscore": 0.5}}}
    (folder / "results.json").write_text(json.dumps(figures))
elif folder.name == "robustness":
    remedy = 0.5 if "both" in folder.parts else 1.0
    others = {sound: {"fpr": 0.25 * remedy, "unmarked": 0.5} for sound in ("silence", "noise", "offscreen")}
    own = {"corrected": {"own": {"miou_sounding": 0.5}, "miou_sounding_n": 0.375, "gap": 0.125, **others}}
    listening = dict.fromkeys(("all", "S4", "MS3", "V2"), own | {"official": {"g_fpr": 0.25}})
    methods = ["stage 1", "stage 2, masks of stage 1", "stage 2, true masks"]
    if folder.parent.name.startswith("one_stage"):
        assert Path(values["--model"]).parts[-2:] == ("stage_2", "model")
        methods = ["one stage"]
    figures = {"robustness": dict.fromkeys(methods, listening)}
    (folder / "results.json").write_text(json.dumps(figures))
elif folder.name == "longer":
    assert Path(values["--localizer"]).parts[-3:] == ("stage_1_longer", "stage_1", "model")
    figures = {"semantics": {"stage 2, masks of stage 1": {"miou_seen": 0.875}}}
    (folder / "results.json").write_text(json.dumps(figures))
else:
    prompts = ["no masks"] if values.get("--train_prompts") == "none" else ["masks of stage 1", "true masks"]
    score = 0.5 + 0.1 * seed - 0.25 * (prompts == ["no masks"])
    subsets = {subset: {"miou": 0.25, "num_videos": 3} for subset in ("S4", "MS3", "V2")}
    stage_2 = {prompt: {"miou_seen": score, "fscore": 0.5} for prompt in prompts}
    figures = {"stage_1": subsets, "stage_2": stage_2}
    (folder / "all_results.json").write_text(json.dumps(figures))
"""


@pytest.mark.parametrize("system", script.SYSTEMS)
def test_each_system_has_its_recipe(system):
    path = script.EXAMPLES / "configs" / script.SYSTEMS[system]
    _, model_args, _ = parse_arguments(["--config", str(path)])
    assert model_args.get_block(localizes=True)["model_type"] == system.lower()


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """Runs the queue with two seeds, two at a time."""
    (tmp_path / "scripts").mkdir()
    for name in ("train_stepping_stones.py", "evaluate_stepping_stones.py"):
        (tmp_path / "scripts" / name).write_text(STAND_IN)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"stage_1_max_steps": 5, "stage_2_max_steps": 3}))
    monkeypatch.setattr(script, "EXAMPLES", tmp_path / "scripts")

    def run_queue(*options: str, config: bool = True) -> None:
        (tmp_path / "scripts" / "calls.txt").write_text("")
        arguments = ["--config", tmp_path / "config.yaml"] if config else []
        arguments += ["--data_dir", tmp_path, "--output_dir", tmp_path / "out"]
        script.main([*options, *map(str, arguments), "--seeds", "1", "2", "--jobs", "2"])

    return run_queue


def read_calls(tmp_path: Path) -> list[str]:
    """What the last queue has called."""
    return (tmp_path / "scripts" / "calls.txt").read_text().split()


def finish(output_dir: Path) -> None:
    """Leaves the run.json that the training script would have left."""
    for path in output_dir.glob("seed_*/*/argv.json"):
        arguments = get_arguments(*parse_arguments(json.loads(path.read_text())))
        path.with_name("run.json").write_text(json.dumps(arguments | {"num_processes": 1}))


# The table -----------------------------------------------------------------------------------------------------------


def test_an_interval_is_students_and_that_of_one_seed_has_no_width():
    # The standard deviation is 1 and the quantile of Student's t with two degrees of freedom 4.30265.
    assert script.interval(np.array([1.0, 2.0, 3.0])) == "2.000 ± 2.484"
    assert script.interval(np.array([0.25])) == "0.250"


def make_rows(figures: dict[tuple[str, str], list[float]]) -> list[dict]:
    """Rows of three seeds, the last seed first; a run that is not given has 0.5."""
    prompts = dict.fromkeys(script.STAGE_2_RUNS, ("masks of stage 1", "true masks"))
    prompts |= {name: ("no masks",) for name in script.STAGE_2_RUNS if name.startswith("one_stage")}
    prompts |= {name: (*prompts[name], "masks of a longer stage 1", "low", "high") for name in script.WITH_QUALITIES}
    prompts |= dict.fromkeys(script.STAGE_1_RUNS, ("S4", "MS3", "V2"))
    rows = []
    for seed, name in product((3, 2, 1), RUNS):
        for prompt in prompts[name]:
            value = figures.get((name, prompt), [0.5] * 3)[seed - 1]
            rows.append({"seed": seed, "run": name, "prompt": prompt, "miou": value, "miou_seen": value})
    return rows


def read_table(table: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line]
    return {name: values for name, *values in cells}


def test_the_table_has_means_and_differences_paired_by_seed():
    table = read_table(
        script.make_table(
            make_rows(
                {
                    ("full", "masks of stage 1"): [0.5, 0.6, 0.7],
                    ("full", "true masks"): [0.8, 0.9, 1.0],
                    ("full", "low"): [0.4, 0.4, 0.4],
                    ("one_stage", "no masks"): [0.4, 0.5, 0.5],
                    ("one_stage_equal_cost", "no masks"): [0.7, 0.7, 0.7],
                    ("without_fusion", "masks of stage 1"): [0.4, 0.5, 0.6],
                    ("without_both", "masks of stage 1"): [0.45, 0.55, 0.55],
                    ("trained_on_degraded_masks", "masks of stage 1"): [0.6, 0.6, 0.6],
                    ("stage_1", "S4"): [0.7, 0.8, 0.9],
                    ("stage_1_silence", "S4"): [0.3, 0.3, 0.3],
                    ("stage_1_shared_query", "MS3"): [0.4, 0.4, 0.4],
                }
            ),
            [1, 2, 3],
        )
    )
    # 4.30265 * 0.1 / sqrt(3)
    assert table["adaptive audio query"] == ["0.800 ± 0.248", "0.500 ± 0.000", "0.500 ± 0.000"]
    assert table["stage 2"] == [
        "",
        "0.600 ± 0.248",
        "0.500 ± 0.000",
        "0.400 ± 0.000",
        "0.500 ± 0.000",
        "0.900 ± 0.248",
    ]
    one_stage = table["one stage, as many semantic steps: origin initialization (E3)"]
    # The standard deviation of 0.4, 0.5, 0.5 and of their differences 0.1, 0.1, 0.2 is 0.1 / sqrt(3).
    assert one_stage == ["0.467 ± 0.143", "", "", "", "", ""]
    gains = {
        "masks of stage 1, to one stage with as many semantic steps": "0.133 ± 0.143",
        "masks of stage 1, to one stage with as many steps": "-0.100 ± 0.248",
        "masks of a longer stage 1, to one stage with as many semantic steps": "0.033 ± 0.143",
        "masks of a longer stage 1, to one stage with fewer steps than both": "-0.200 ± 0.000",
        "low, to one stage with as many semantic steps": "-0.067 ± 0.143",
        "high, to one stage with as many semantic steps": "0.033 ± 0.143",
        "true masks, to those of stage 1": "0.300 ± 0.000",
        "high, to low": "0.100 ± 0.000",
        "true masks, to high": "0.400 ± 0.248",
        "masks of stage 1, trained on degraded masks, to trained on true ones": "0.000 ± 0.248",
        "one stage, adaptive audio query to shared (T3)": "-0.033 ± 0.143",
        "audio initialization to origin (E3)": "0.050 ± 0.000",
        "S4 foreground IoU, with sound to without": "0.500 ± 0.248",
        "masks of stage 1, to without fusion (T4)": "0.100 ± 0.000",
        "true masks, to without fusion (T4)": "0.400 ± 0.248",
        "masks of stage 1, to without keys (T4)": "0.100 ± 0.248",
        "true masks, to without keys (T4)": "0.400 ± 0.248",
        "masks of stage 1, to without both (T4)": "0.083 ± 0.143",
        "true masks, to without both (T4)": "0.400 ± 0.248",
        "S4 foreground IoU, adaptive audio query to shared (T3)": "0.300 ± 0.248",
        "MS3 foreground IoU, adaptive audio query to shared (T3)": "0.100 ± 0.000",
    }
    assert {name: values for name, values in table.items() if len(values) == 1 and "---" not in name} == {
        "gain, paired by seed": [""],
        **{name: [gain] for name, gain in gains.items()},
    }


# The queue -----------------------------------------------------------------------------------------------------------


def test_each_run_is_made_once_and_the_table_has_them_all(queue, tmp_path):
    runs = {f"seed_{seed}/{name}" for seed, name in product((1, 2), RUNS)}
    evaluations = [f"{name}/{kind}" for name, kind in product(script.WITH_QUALITIES, ("qualities", "longer"))] * 2
    queue()
    calls = read_calls(tmp_path)
    assert sorted(calls) == sorted([*runs, *evaluations])
    first = product((1, 2), ("stage_1", "stage_1_longer"))
    assert set(calls[:4]) == {f"seed_{seed}/{name}" for seed, name in first}  # the others need them
    table = (tmp_path / "out" / "table.md").read_text()
    # Scores are 0.6 and 0.7; 12.7062 * 0.0707107 / sqrt(2) is half the interval.
    assert "| stage 2 |  | 0.650 ± 0.635 | 0.875 ± 0.000 | 0.500 ± 0.000 | 0.750 ± 0.000 | 0.650 ± 0.635 |" in table
    assert "| masks of stage 1, to one stage with as many semantic steps | 0.250 ± 0.000 |" in table
    with open(tmp_path / "out" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (4 * 3 + 5 * 2 + 3 + 2 * 3)
    assert {(row["seed"], row["run"]) for row in rows} == set(product("12", RUNS))
    costs = {(row["seed"], row["run"]): float(row["cpu_seconds"]) for row in rows}
    assert all(0 < cost < 60 for cost in costs.values())

    finish(tmp_path / "out")
    (tmp_path / "out" / "table.md").unlink()
    queue()
    assert read_calls(tmp_path) == []
    assert (tmp_path / "out" / "table.md").read_text() == table


def test_runs_get_the_arguments_of_their_ablation(tmp_path):
    patterns = ["class_predictor", "audio_aware_key"]
    values = {"stage_1_max_steps": 5, "stage_2_max_steps": 3, "stage_2_parameters": patterns}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    args = script.Experiment(config=tmp_path / "config.yaml", data_dir=tmp_path, output_dir=tmp_path / "out")
    arguments = {name: get_arguments(*parse_arguments(script.make_arguments(args, 7, name))) for name in RUNS}
    for name, values in arguments.items():
        assert (values["seed"], values["output_dir"]) == (7, str(tmp_path / "out" / "seed_7" / name))
        assert values["stage"] == ("1" if name in script.STAGE_1_RUNS else "2")
        assert values["stage_1_max_steps"] == (15 if name == "stage_1_longer" else 5)
        assert values["stage_2_max_steps"] == (8 if name == "one_stage_equal_cost" else 3)
        assert values["stage_2_parameters"] == (patterns[:1] if name in script.WITHOUT_KEYS else patterns)
        assert (values["train_prompts"] == "none") == name.startswith("one_stage")
        assert (values["audio"] == "silence") == (name == "stage_1_silence")
    localizers = {arguments[name]["localizer"] for name in script.STAGE_2_RUNS}
    assert localizers == {str(tmp_path / "out" / "seed_7" / "stage_1" / "stage_1" / "model")}


def test_finished_runs_of_another_config_are_refused_before_anything_is_run(queue, tmp_path):
    queue()
    finish(tmp_path / "out")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"stage_1_max_steps": 6, "stage_2_max_steps": 3}))
    message = "out/seed_1/stage_1 is finished, but with other arguments: stage_1_max_steps was 5, is 6. Choose another"
    with pytest.raises(ValueError, match=re.escape(message)):
        queue()
    assert read_calls(tmp_path) == []


def test_a_folder_that_was_moved_is_not_another_run(queue, tmp_path):
    queue()
    finish(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    args = script.Experiment(config=tmp_path / "config.yaml", data_dir=tmp_path, output_dir=tmp_path / "elsewhere")
    for name in RUNS:
        script.check_finished(args, 1, name)
    args.data_dir = tmp_path / "other"
    with pytest.raises(ValueError, match="data_dir was .*, is .*other"):
        script.check_finished(args, 1, "full")


def test_a_run_that_fails_does_not_stop_the_others_and_is_told_at_the_end(queue, tmp_path):
    failing = [tmp_path / "scripts" / name for name in ("seed_2-full", "seed_1-stage_1", "full-qualities")]
    failing[0].touch()
    failing[1].touch()
    with pytest.raises(SystemExit) as failed:
        queue()
    assert len(read_calls(tmp_path)) == 4 + 2 + 10 + 2
    lines = str(failed.value.code).splitlines()
    assert lines[0] == f"{tmp_path / 'out'}: 10 of 24 runs failed:"
    log = tmp_path / "out" / "seed_2" / "full" / "output.txt"
    assert f"seed_2/full: train_stepping_stones.py failed, see {log}: No luck." in lines
    assert log.read_text() == "Begun.\nNo luck.\n"
    without_stage_1 = {f"seed_1/{name}: not begun without its stage 1." for name in script.STAGE_2_RUNS}
    assert without_stage_1 < set(lines)
    assert not (tmp_path / "out" / "table.md").exists()

    # An evaluation may fail too, and what did not fail is not made again.
    failing[0].unlink()
    failing[1].unlink()
    failing[2].touch()
    finish(tmp_path / "out")
    with pytest.raises(
        SystemExit, match="out: 2 of 24 runs failed:\nseed_1/full: evaluate_stepping_stones.py failed, see "
    ):
        queue()
    assert len(read_calls(tmp_path)) == 1 + 8 + 1 + 1 + 2 + 1
    failing[2].unlink()
    finish(tmp_path / "out")
    queue()
    assert sorted(read_calls(tmp_path)) == ["full/longer"] * 2 + ["full/qualities"] * 2
    assert (tmp_path / "out" / "table.md").exists()


def test_what_was_trained_hears_other_sounds_where_that_is_asked_for(queue, tmp_path):
    queue("--robust", "--runs", "stage_1", "full", "one_stage")
    assert sorted(read_calls(tmp_path)) == sorted(
        [f"seed_{seed}/{name}" for seed in (1, 2) for name in ("stage_1", "full", "one_stage")]
        + ["full/qualities", "full/robustness", "one_stage/robustness"] * 2
    )
    table = (tmp_path / "out" / "table.md").read_text()
    figures = "| 0.500 ± 0.000 | 0.375 ± 0.000 | 0.125 ± 0.000 | 0.250 ± 0.000 |"
    for title in ("adaptive audio query, MS3", "stage 2, masks of stage 1", "stage 2, true masks"):
        assert f"| {title} {figures}" in table
    assert f"| {script.TITLES['one_stage']}, no masks {figures}" in table
    assert "masks of stage 1, to one stage with as many semantic steps" in table
    assert "masks of a longer stage 1, to" not in table  # which was not trained
    with pytest.raises(ValueError, match="--runs lacks stage_1"):
        queue("--runs", "full")


def test_stage_2_is_trained_on_masks_that_are_not_true(queue, tmp_path):
    queue("prompts")
    runs = ("stage_1", *script.PROMPT_RUNS)
    assert sorted(read_calls(tmp_path)) == sorted(f"seed_{seed}/{name}" for seed in (1, 2) for name in runs)
    arguments = json.loads((tmp_path / "out" / "seed_1" / "trained_on_soft_masks" / "argv.json").read_text())
    data_args, _, _ = parse_arguments(arguments)
    assert (data_args.train_prompts, data_args.soft_masks) == ("stage1", True)
    table = (tmp_path / "out" / "table.md").read_text()
    assert f"| {script.TITLES['trained_on_stage_1_masks']} |  | 0.650 ± 0.635 |" in table
    assert "| masks of stage 1, trained on them, soft, to trained on true ones | 0.000 ± 0.000 |" in table


def test_each_remedy_is_of_both_stages_and_compared_with_the_plain_model(queue, tmp_path):
    queue("remedy", "--remedies", "plain", "both")
    calls = [f"seed_{seed}/{name}" for seed in (1, 2) for name in ("stage_1", "full")] + ["full/robustness"] * 2
    assert sorted(read_calls(tmp_path)) == sorted(calls * 2)
    for name in ("stage_1", "full"):
        arguments = json.loads((tmp_path / "out" / "both" / "seed_2" / name / "argv.json").read_text())
        data_args, model_args, _ = parse_arguments(arguments)
        assert (data_args.negatives, model_args.pair_loss_weight) == (0.1, 1)
    heard, changes = map(read_table, (tmp_path / "out" / "table.md").read_text().split("\n\n"))
    half, quarter, eighth = "0.500 ± 0.000", "0.250 ± 0.000", "0.125 ± 0.000"
    assert heard["stage 1, MS3, plain"] == [half, eighth, *[quarter] * 3, *[half] * 3]
    assert heard["stage 2, masks of stage 1, both"] == [half, eighth, *[eighth] * 3, *[half] * 3]
    assert changes["stage 2, true masks, both"] == [*["0.000 ± 0.000"] * 3, *["0.500"] * 3]
    assert not any("plain" in title for title in changes if title.startswith("stage"))
    with pytest.raises(ValueError, match="--remedies lacks plain"):
        queue("remedy", "--remedies", "both")
    with pytest.raises(ValueError, match="--remedies is for remedy, not for prompts"):
        queue("prompts", "--remedies", "plain")
    with pytest.raises(ValueError, match="--robust is not for prompts"):
        queue("prompts", "--robust")


def test_a_remedy_that_fails_does_not_stop_the_others(queue, tmp_path):
    (tmp_path / "scripts" / "seed_1-stage_1").touch()
    with pytest.raises(SystemExit) as failed:
        queue("remedy", "--remedies", "plain", "both")
    lines = [line for line in str(failed.value.code).splitlines() if line.endswith("runs failed:")]
    assert lines == [f"{tmp_path / 'out' / remedy}: 2 of 4 runs failed:" for remedy in ("plain", "both")]
    calls = ["seed_1/stage_1", "seed_2/stage_1", "seed_2/full", "full/robustness"]
    assert sorted(read_calls(tmp_path)) == sorted(calls * 2)


def test_the_cost_of_a_run_is_that_of_all_its_calls(tmp_path, monkeypatch):
    (tmp_path / "busy.py").write_text("import time\nwhile time.process_time() < 0.2: pass\n")
    monkeypatch.setattr(script, "EXAMPLES", tmp_path)
    costs = []
    for _ in range(2):
        script.call("busy.py", [], tmp_path / "run" / "output.txt")
        costs.append(json.loads((tmp_path / "run" / "cpu_seconds.json").read_text()))
    assert costs[0] >= 0.2 and costs[1] >= costs[0] + 0.2


def test_later_phases_of_longer_runs_begin_at_the_same_share_of_their_steps(tmp_path):
    values = {"stage_1_max_steps": 600, "stage_1_phase_2_epoch": 3, "stage_2_max_steps": 300}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values | {"stage_2_phase_2_epoch": 2}))
    args = script.Experiment(config=tmp_path / "config.yaml", data_dir=tmp_path, output_dir=tmp_path / "out")
    longer, both = (
        get_arguments(*parse_arguments(script.make_arguments(args, 1, name)))
        for name in ("stage_1_longer", "one_stage_equal_cost")
    )
    assert (longer["stage_1_max_steps"], longer["stage_1_phase_2_epoch"]) == (1800, 9)
    assert (both["stage_2_max_steps"], both["stage_2_phase_2_epoch"]) == (900, 6)


# EASE and AAVS -------------------------------------------------------------------------------------------------------


def test_aavs_and_ease_are_each_others_localizers(queue, tmp_path):
    shutil.copytree(Path(script.__file__).parent / "configs", tmp_path / "scripts" / "configs")
    queue("ease", config=False)
    assert sorted(read_calls(tmp_path)) == sorted(
        [f"seed_{seed}/{name}" for seed in (1, 2) for name in ("stage_1", "full", "one_stage")] * 2
        + ["full/masks_of_aavs", "full/masks_of_ease"] * 2
    )
    upper, scores, gains = map(read_table, (tmp_path / "out" / "table.md").read_text().split("\n\n"))
    assert set(upper) > {"AAVS", "EASE"}
    f, other = "0.500 ± 0.000", "0.625 ± 0.000"
    # Scores are 0.6 and 0.7, of one stage 0.35 and 0.45; 12.7062 * 0.0707107 / sqrt(2) is half the interval.
    one, own = "0.400 ± 0.635", "0.650 ± 0.635"
    assert scores["AAVS"] == [f"{mean} / {f}" for mean in (one, own, other, own)]
    assert scores["EASE"] == [f"{mean} / {f}" for mean in (one, other, own, own)]
    assert gains["AAVS"] == ["0.250 ± 0.000", "0.225 ± 0.635", "0.250 ± 0.000"]
    with open(tmp_path / "out" / "results.csv", newline="") as file:
        rows = [(row["system"], row["run"], row["prompt"]) for row in csv.DictReader(file)]
    assert {row for row in rows if row[1] == "full"} == {
        (system, "full", prompt)
        for system, prompt in product(("AAVS", "EASE"), ("masks of AAVS", "masks of EASE", "true masks"))
    }
    for experiment in ("aavs", "ease"):
        finish(tmp_path / "out" / experiment)
    queue("ease", config=False)
    assert read_calls(tmp_path) == []
    with pytest.raises(ValueError, match="--config is for one system: ease has a recipe"):
        queue("ease")


# Table 2 -------------------------------------------------------------------------------------------------------------


def make_rows_of_system(scores: dict[str, list[float]]) -> list[dict]:
    """Rows of three seeds by column of Table 2, all F a half."""
    return [
        {"seed": seed, "run": run, "prompt": prompt, "miou_seen": scores[title][seed - 1], "fscore": 0.5}
        for seed in (1, 2, 3)
        for title, (run, prompt) in script.TABLE_2.items()
    ]


def test_table_2_has_a_row_for_each_system_and_gains_paired_by_seed():
    scores = {"origin": [0.4, 0.5, 0.5], "low": [0.3, 0.3, 0.3], "high": [0.5, 0.6, 0.6], "oracle": [0.8, 0.9, 1.0]}
    scores["its own localizer"] = [0.4, 0.5, 0.5]
    others = dict.fromkeys(script.TABLE_2, [0.25] * 3)
    table = script.make_table_2({"TPAVI": make_rows_of_system(scores), "AAVS": make_rows_of_system(others)}, [1, 2, 3])
    upper, lower = [read_table(part) for part in table.split("\n\n")]
    f = "0.500 ± 0.000"
    # 4.30265 * 0.1 / 3 and 4.30265 * 0.1 / sqrt(3)
    assert upper["TPAVI"] == [
        f"{mean} / {f}"
        for mean in ("0.467 ± 0.143", "0.300 ± 0.000", "0.567 ± 0.143", "0.900 ± 0.248", "0.467 ± 0.143")
    ]
    assert upper["AAVS"] == [f"0.250 ± 0.000 / {f}"] * 5
    assert lower["TPAVI"] == ["-0.167 ± 0.143", "0.100 ± 0.000", "0.433 ± 0.143", "0.000 ± 0.000"]
    assert lower["AAVS"] == ["0.000 ± 0.000"] * 4


@pytest.fixture
def tiny_systems(tmp_path, monkeypatch):
    """Table 2 of models that train a step a stage, run after run in this process: signals are for its main thread."""
    shutil.copytree(script.EXAMPLES / "configs", tmp_path / "configs")
    steps = {"stage_1_max_steps": 1, "stage_2_max_steps": 1, "per_device_train_batch_size": 2}
    recipes = {}
    for system, name in script.SYSTEMS.items():
        recipes[system] = tmp_path / "configs" / f"one_step_{name}"
        recipes[system].write_text(yaml.safe_dump({"base": name, "dataloader_num_workers": 0, **steps}))
    monkeypatch.setattr(script, "SYSTEMS", recipes)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    scripts = {f"{module.__name__}.py": module for module in (train_stepping_stones, evaluate_stepping_stones)}
    monkeypatch.setattr(script, "call", lambda name, arguments, log: scripts[name].main(arguments))

    def run_all(experiment) -> None:
        for item in product(experiment.seeds, experiment.all_runs):
            script.run(experiment, *item)

    monkeypatch.setattr(script, "run_all", run_all)


@pytest.mark.slow
@pytest.mark.usefixtures("tiny_systems")
def test_table_2_ends_with_a_figure_of_frame_truth_before_and_after_for_each_system(tmp_path, monkeypatch):
    # As many masks as it takes to give them a mean IoU of 77.1 %.
    clips = {"v1s": (3, 1, 4), "v1m": (2, 1, 4), "v2": (1, 0, 2)}
    data_dir = make_mini_avsbench(tmp_path / "mini", image_size=64, clips=clips)
    drawn, draw_grid = [], script.draw_grid
    monkeypatch.setattr(script, "draw_grid", lambda *grid: drawn.append(grid) or draw_grid(*grid))
    arguments = ["table2", "--data_dir", data_dir, "--output_dir", tmp_path / "out", "--seeds", "2"]
    script.main(list(map(str, arguments)))
    ((titles, rows),) = drawn
    stages = ("one stage", "two stages")
    assert titles == ("frame", "truth", *(f"{system}, {stage}" for system, stage in product(script.SYSTEMS, stages)))
    assert 3 <= len(rows) <= 6  # up to two frames of a clip of each subset
    assert {len(row) for row in rows} == {len(titles)}
    sounding = {
        frame.tobytes(): describe(np.asarray(mask))
        for clip in load_clips(data_dir, "avss", "test")
        for frame, mask in zip(clip["frames"], clip["masks"])
    }
    assert all(sounding[frame.tobytes()] == truth for (frame, _), (_, truth), *_ in rows)
    assert Image.open(tmp_path / "out" / "figure.png").size == draw_grid(titles, rows).size
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *map(str.lower, script.SYSTEMS),
        *("figure.png", "results.csv", "table.md"),
    }
    with open(tmp_path / "out" / "results.csv", newline="") as file:
        found = {(row["system"], row["run"], row["prompt"]) for row in csv.DictReader(file)}
    assert found > {(system, *column) for system in script.SYSTEMS for column in script.TABLE_2.values()}
