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
The paper's ablations, on any data, with several seeds: Table 2 (the strategy with first stages of three qualities),
Table 3 (adaptive or shared audio query), Table 4 (mask fusion and robust keys), Table E3 (initial attention masks),
and what the paper lacks: one stage with as many steps as both stages, a localizer that hears nothing, and one that is
trained three times as long.

    python examples/ablations.py --config examples/configs/ablations.yaml --output_dir runs/ablations --jobs 2

Each run is a call of train_stepping_stones.py in a folder of its own; the same command goes on with what is missing,
and refuses runs that were finished with another config. One that fails does not stop the others.
The folder gets results.csv, a row for each seed, run and prompt, and table.md, with means and 95 % intervals
(Student's t over the seeds). Differences are paired by seed: the same data, order of the data, and initial weights of
all that two models share. On the real sets give the config's `mask2former_name_or_path` and `vggish_checkpoint`.
"""

import csv
import json
import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import product
from pathlib import Path

import numpy as np
from scipy.stats import t as student_t
from train_stepping_stones import FREE_ARGUMENTS, get_arguments, parse_arguments

from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.files import write_text, write_whole
from stepping_stones_hf.training.checkpoints import find_changes
from stepping_stones_hf.training.report import format_table


EXAMPLES = Path(__file__).parent

# Name -> arguments of the training script.
STAGE_1_RUNS = {
    "stage_1": [],
    # Three times the steps: the prompts are the lever, and stage 2 does not care when its first stage was trained.
    "stage_1_longer": [],
    "stage_1_shared_query": ["--config_overrides", "audio_query=shared"],
    "stage_1_silence": ["--audio", "silence"],
}
STAGE_2_RUNS = {
    "full": [],
    "without_fusion": ["--config_overrides", "mask_prompt_fusion=false"],
    "without_keys": ["--config_overrides", "mask_prompt_keys=false"],
    "without_both": ["--config_overrides", "mask_prompt_fusion=false,mask_prompt_keys=false"],
    "trained_on_degraded_masks": ["--train_prompts", "degraded"],
    # The prompt is used nowhere: Mask2Former's own initial attention masks ("origin" in Table E3).
    "one_stage": ["--train_prompts", "none"],
    "one_stage_shared_query": ["--train_prompts", "none", "--config_overrides", "audio_query=shared"],
    "one_stage_equal_cost": ["--train_prompts", "none"],
}
WITHOUT_KEYS = ("without_keys", "without_both", "one_stage", "one_stage_shared_query", "one_stage_equal_cost")
# Runs that are evaluated with simulated first stages too (Table 2).
WITH_QUALITIES = ("full", "trained_on_degraded_masks")

TITLES = {
    "full": "stage 2",
    "without_fusion": "stage 2 without mask fusion (T4)",
    "without_keys": "stage 2 without robust keys (T4)",
    "without_both": "stage 2 without both: audio initialization (T4, E3)",
    "trained_on_degraded_masks": "stage 2, trained on degraded masks",
    "one_stage": "one stage, as many semantic steps: origin initialization (E3)",
    "one_stage_shared_query": "one stage, shared audio query (T3)",
    "one_stage_equal_cost": "one stage, as many steps as both stages",
}
LOCALIZER_TITLES = {
    "stage_1": "adaptive audio query",
    "stage_1_longer": "the same, three times the steps",
    "stage_1_shared_query": "shared audio query (T3)",
    "stage_1_silence": "trained and tested without sound",
}
PROMPTS = ("no masks", "masks of stage 1", "masks of a longer stage 1", "low", "high", "true masks")

SEEN = "miou_seen"
ACTUAL, LONGER, TRUE = "masks of stage 1", "masks of a longer stage 1", "true masks"
ONE_STAGE, EQUAL_COST = ("one_stage", "no masks", SEEN), ("one_stage_equal_cost", "no masks", SEEN)
SHARED = "one_stage_shared_query"
# What is gained, and the two scores, by run, prompt (or subset) and figure, whose difference it is.
GAINS = [
    (f"{ACTUAL}, to one stage with as many semantic steps", ("full", ACTUAL, SEEN), ONE_STAGE),
    (f"{ACTUAL}, to one stage with as many steps", ("full", ACTUAL, SEEN), EQUAL_COST),
    (f"{LONGER}, to one stage with as many semantic steps", ("full", LONGER, SEEN), ONE_STAGE),
    (f"{LONGER}, to one stage with fewer steps than both", ("full", LONGER, SEEN), EQUAL_COST),
    ("low, to one stage with as many semantic steps", ("full", "low", SEEN), ONE_STAGE),
    ("high, to one stage with as many semantic steps", ("full", "high", SEEN), ONE_STAGE),
    (f"{TRUE}, to those of stage 1", ("full", TRUE, SEEN), ("full", ACTUAL, SEEN)),
    ("high, to low", ("full", "high", SEEN), ("full", "low", SEEN)),
    (f"{TRUE}, to high", ("full", TRUE, SEEN), ("full", "high", SEEN)),
    (
        f"{ACTUAL}, trained on degraded masks, to trained on true ones",
        ("trained_on_degraded_masks", ACTUAL, SEEN),
        ("full", ACTUAL, SEEN),
    ),
    ("one stage, adaptive audio query to shared (T3)", ONE_STAGE, (SHARED, "no masks", SEEN)),
    ("audio initialization to origin (E3)", ("without_both", ACTUAL, SEEN), ONE_STAGE),
    ("S4 foreground IoU, with sound to without", ("stage_1", "S4", "miou"), ("stage_1_silence", "S4", "miou")),
    *(
        (f"{prompt}, to {name.replace('_', ' ')} (T4)", ("full", prompt, SEEN), (name, prompt, SEEN))
        for name in ("without_fusion", "without_keys", "without_both")
        for prompt in (ACTUAL, TRUE)
    ),
    *(
        (
            f"{subset} foreground IoU, adaptive audio query to shared (T3)",
            ("stage_1", subset, "miou"),
            ("stage_1_shared_query", subset, "miou"),
        )
        for subset in ("S4", "MS3")
    ),
]


def make_arguments(args: Namespace, seed: int, name: str) -> list[str]:
    """The arguments of the training script for a run."""
    folder = args.output_dir / f"seed_{seed}"
    arguments = ["--config", str(args.config), "--seed", str(seed), "--data_dir", str(args.data_dir)]
    arguments += ["--cache_audio_features", str(args.output_dir / "audio-features")]
    arguments += ["--output_dir", str(folder / name)]
    _, _, config = parse_arguments(arguments)
    if name in STAGE_1_RUNS:
        if name == "stage_1_longer":
            count = "epochs" if config.stage_1_max_steps is None else "max_steps"
            arguments += [f"--stage_1_{count}", str(3 * getattr(config, f"stage_1_{count}"))]
        return [*arguments, "--stage", "1", *STAGE_1_RUNS[name]]
    arguments += ["--stage", "2", "--localizer", str(folder / "stage_1" / "stage_1" / "model"), *STAGE_2_RUNS[name]]
    if name == "one_stage_equal_cost":
        count = "epochs" if config.stage_2_max_steps is None else "max_steps"
        both = getattr(config, f"stage_1_{count}") + getattr(config, f"stage_2_{count}")
        arguments += [f"--stage_2_{count}", str(both)]
    if name in WITHOUT_KEYS and config.stage_2_parameters is not None:
        patterns = [pattern for pattern in config.stage_2_parameters if pattern != "audio_aware_key"]
        arguments += ["--stage_2_parameters", *patterns]
    return arguments


def check_finished(args: Namespace, seed: int, name: str) -> None:
    """Refuses a run that was finished with other arguments than it would have now."""
    folder = args.output_dir / f"seed_{seed}" / name
    if not (folder / "all_results.json").exists():
        return
    arguments = get_arguments(*parse_arguments(make_arguments(args, seed, name)))
    # Where the folders are may have changed.
    free = (*FREE_ARGUMENTS, "output_dir", "localizer")
    changes = find_changes(folder / "run.json", {key: value for key, value in arguments.items() if key not in free})
    if changes:
        differences = ", ".join(f"{key} was {value}, is {arguments[key]}" for key, value in changes.items())
        raise ValueError(
            f"{folder} is finished, but with other arguments: {differences}. Choose another --output_dir, or remove"
            " that folder to train it again."
        )


def call(script: str, arguments: list[str], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        done = subprocess.run([sys.executable, str(EXAMPLES / script), *arguments], stdout=file, stderr=file)
    if done.returncode != 0:
        last_line = log.read_text().rstrip().rpartition("\n")[2]
        raise RuntimeError(f"{script} failed, see {log}: {last_line}")


def run(args: Namespace, seed: int, name: str) -> None:
    """Trains and evaluates what is not there yet."""
    folder = args.output_dir / f"seed_{seed}" / name
    arguments = make_arguments(args, seed, name)
    if not (folder / "all_results.json").exists():
        call("train_stepping_stones.py", [*arguments, "--resume_from_checkpoint", "latest"], folder / "output.txt")
    if name in WITH_QUALITIES:
        config, _, _ = parse_arguments(arguments)
        localizer = folder.with_name("stage_1_longer") / "stage_1" / "model"
        prompts = {"qualities": ["low", "high"], "longer": ["stage1", "--localizer", str(localizer)]}
        for evaluation, options in prompts.items():
            if not (folder / evaluation / "results.json").exists():
                arguments = ["--model", str(folder / "model"), "--data_dir", str(args.data_dir), "--dataset", "avss"]
                arguments += ["--unknown_color", config.unknown_color, "--output_dir", str(folder / evaluation)]
                call("evaluate_stepping_stones.py", [*arguments, "--prompts", *options], folder / "output.txt")


def run_all(args: Namespace) -> None:
    """Runs what is missing, stage 1 first; what fails is told once all others have ended."""
    first = [*product(args.seeds, ("stage_1", "stage_1_longer"))]
    runs = [item for item in product(args.seeds, (*STAGE_2_RUNS, *STAGE_1_RUNS)) if item not in first]
    with ThreadPoolExecutor(args.jobs) as executor:
        futures = {item: executor.submit(run, args, *item) for item in first}
        wait(futures.values())
        failed = {seed for (seed, _), future in futures.items() if future.exception() is not None}
        waiting = [(seed, name) for seed, name in runs if seed in failed and name in STAGE_2_RUNS]
        futures |= {item: executor.submit(run, args, *item) for item in runs if item not in waiting}
    failures = {item: str(future.exception()) for item, future in futures.items() if future.exception() is not None}
    failures |= dict.fromkeys(waiting, "not begun without its stage 1.")
    if failures:
        lines = [f"seed_{seed}/{name}: {failure}" for (seed, name), failure in failures.items()]
        sys.exit(f"{len(failures)} of {len(futures) + len(waiting)} runs failed:\n" + "\n".join(lines))


def read_results(args: Namespace) -> list[dict]:
    """A row for each seed, run and prompt (or subset of stage 1)."""
    rows = []
    for seed in args.seeds:
        for name in (*STAGE_1_RUNS, *STAGE_2_RUNS):
            folder = args.output_dir / f"seed_{seed}" / name
            results = json.loads((folder / "all_results.json").read_text())
            part = "stage_1" if name in STAGE_1_RUNS else "stage_2"
            figures = dict(results[part])
            if name in WITH_QUALITIES:
                simulated = json.loads((folder / "qualities" / "results.json").read_text())["semantics"]
                figures |= {quality: simulated[f"stage 2, {quality} masks"] for quality in ("low", "high")}
                longer = json.loads((folder / "longer" / "results.json").read_text())["semantics"]
                figures["masks of a longer stage 1"] = longer["stage 2, masks of stage 1"]
            for prompt, values in figures.items():
                numbers = {key: value for key, value in values.items() if isinstance(value, float)}
                rows.append({"seed": seed, "run": name, "prompt": prompt, **numbers})
    return rows


def write_csv(rows: list[dict], path: Path) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with write_whole(path) as (partial,), open(partial, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def interval(values: np.ndarray) -> str:
    """Mean and half the width of the 95 % interval."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    half = student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.3f} ± {half:.3f}"


def make_table(rows: list[dict], seeds: list[int]) -> str:
    found = {(row["run"], row["prompt"], row["seed"]): row for row in rows}

    def values(run: str, prompt: str, figure: str) -> np.ndarray | None:
        if (run, prompt, seeds[0]) not in found:
            return None
        return np.array([found[run, prompt, seed][figure] for seed in seeds])

    def cells(names: Sequence[tuple[str, str, str]]) -> list[str]:
        return ["" if values(*name) is None else interval(values(*name)) for name in names]

    subsets = ("S4", "MS3", "V2")
    localizers = [
        [title, *cells([(name, subset, "miou") for subset in subsets])] for name, title in LOCALIZER_TITLES.items()
    ]
    models = [[title, *cells([(name, prompt, SEEN) for prompt in PROMPTS])] for name, title in TITLES.items()]
    gains = [[title, interval(values(*better) - values(*worse))] for title, better, worse in GAINS]
    return "\n\n".join(
        [
            format_table(["foreground IoU of stage 1", *subsets], localizers),
            format_table(["AVSS, mIoU of seen classes", *PROMPTS], models),
            format_table(["gain, paired by seed", ""], gains),
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=EXAMPLES / "configs" / "ablations.yaml")
    parser.add_argument("--data_dir", type=Path, help="copy of AVSBench; by default mini-AVSBench is made")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    args = parser.parse_args(argv)
    if args.data_dir is None:
        args.data_dir = args.output_dir / "mini-avsbench"
        if not args.data_dir.exists():
            make_mini_avsbench(args.data_dir)
    for seed, name in product(args.seeds, (*STAGE_1_RUNS, *STAGE_2_RUNS)):
        check_finished(args, seed, name)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    run_all(args)

    rows = read_results(args)
    write_csv(rows, args.output_dir / "results.csv")
    table = make_table(rows, args.seeds)
    write_text(args.output_dir / "table.md", table + "\n")
    print(table)


if __name__ == "__main__":
    main()
