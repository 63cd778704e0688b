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

And Table 2 for every system that it is about, and for EASE, each with one stage, with localizers of low and of high
quality, with true masks and with its own localizer:

    python examples/ablations.py table2 --output_dir runs/table2 --jobs 2

And AAVS and EASE in one stage and in two, each also with the other one as its localizer:

    python examples/ablations.py ease --output_dir runs/ease --jobs 2

And what may bring the masks of stage 1 nearer to true ones, with stage 2 trained on degraded masks, on those of stage
1, and on its scores; and a model that learns to listen, by negatives, by the pair loss, and by both:

    python examples/ablations.py prompts --output_dir runs/prompts --jobs 2
    python examples/ablations.py remedy --output_dir runs/remedy --jobs 2

`--statistics avsbench` does each of them on a mini-AVSBench like the real set, and `--robust` plays other sounds to
what was trained, by the protocol of AVSBench-Robust. The parts in the paper's regime, pretrained and frozen:

    python examples/pretrain_mini.py
    python examples/ablations.py --config examples/configs/mini_pretrained.yaml --statistics avsbench --robust \
        --seeds 1 2 3 4 5 --output_dir runs/regime --jobs 2

Each run is a call of train_stepping_stones.py in a folder of its own; the same command resumes with what is missing,
and refuses runs that were finished with another config. One that fails does not stop the others.
The folder gets results.csv, a row for each (system,) seed, run and prompt, with the seconds of processor time that the
run has cost in all, the same in all of its rows, and table.md, with means and 95 % intervals
(Student's t over the seeds). Differences are paired by seed: the same data, order of the data, and initial weights of
all that two models share. table2 adds figure.png, of the first seed: frames of the test split, their truth, and what
each system finds in one stage and in two (Figs. B4 and B5 of the supplement). On the real sets give the config's
`mask2former_name_or_path` and `vggish_checkpoint`.
"""

import json
import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from evaluate_stepping_stones import ONE_STAGE as ONE_STAGE_METHOD
from evaluate_stepping_stones import STAGE_1 as LOCALIZER_METHOD
from evaluate_stepping_stones import STAGE_2 as STAGE_2_METHODS
from PIL import Image
from scipy.stats import t as student_t
from train_stepping_stones import FREE_ARGUMENTS, get_arguments, parse_arguments

from stepping_stones_hf.data.mini import find_mini_avsbench
from stepping_stones_hf.files import write_text, write_whole
from stepping_stones_hf.tables import format_table, write_csv
from stepping_stones_hf.training.checkpoints import find_changes
from stepping_stones_hf.training.clips import load_clips
from stepping_stones_hf.training.report import choose_frames, predict_examples
from stepping_stones_hf.training.sounds import NEGATIVES
from stepping_stones_hf.visualization import describe, draw_grid, overlay


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
# What may bring the masks of stage 1 nearer to true ones: stage 2 learns on masks that are as wrong as those, and, in
# training and test, on soft ones.
PROMPT_RUNS = {
    "full": [],
    "trained_on_degraded_masks": STAGE_2_RUNS["trained_on_degraded_masks"],
    "trained_on_stage_1_masks": ["--train_prompts", "stage1"],
    "trained_on_soft_masks": ["--train_prompts", "stage1", "--soft_masks", "true"],
}
# Of both stages.
REMEDIES = {
    "plain": [],
    "negatives": ["--negatives", "0.1"],
    "pair_loss": ["--pair_loss_weight", "1"],
    "both": ["--negatives", "0.1", "--pair_loss_weight", "1"],
    "both_with_noise": [
        *("--negatives", "0.1", "--negative_kinds", "offscreen", "silence", "noise"),
        *("--pair_loss_weight", "1"),
    ],
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
    "trained_on_stage_1_masks": "stage 2, trained on masks of stage 1",
    "trained_on_soft_masks": "stage 2, trained and tested on soft masks of stage 1",
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
# Figures of results.csv, with their headings: IoU of what sounds with the own sound and, on average, with the others.
LISTENING = {"positive": "P", "negative": "N", "gap": "gap", "fpr": "FPR with other sounds"}
# Those with each sound: the share of pixels that is marked, and of frames without a mark.
HEARD = {
    f"{figure}_{sound}": f"{heading}, {sound}"
    for figure, heading in (("fpr", "FPR"), ("unmarked", "unmarked"))
    for sound in NEGATIVES
}
FPRS = [name for name in HEARD if name.startswith("fpr")]
PROMPTS = ("no masks", "masks of stage 1", "masks of a longer stage 1", "low", "high", "true masks")

SEEN = "miou_seen"
ACTUAL, LONGER, TRUE = "masks of stage 1", "masks of a longer stage 1", "true masks"


@dataclass(frozen=True)
class Evaluation:
    """
    With what a run is prompted that it was not in its own evaluation: by column of the table the prompt of the
    evaluation script. Its localizer is another run of the seed, in the folder of another experiment if that has it.
    """

    prompts: dict[str, str]
    localizer: str | None = None
    output_dir: Path | None = None


EVALUATIONS = {
    "qualities": Evaluation({"low": "low", "high": "high"}),
    "longer": Evaluation({LONGER: "stage1"}, localizer="stage_1_longer"),
}
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
    *(
        (f"{ACTUAL}, trained on {masks}, to trained on true ones", (run, ACTUAL, SEEN), ("full", ACTUAL, SEEN))
        for run, masks in (
            ("trained_on_degraded_masks", "degraded masks"),
            ("trained_on_stage_1_masks", "them"),
            ("trained_on_soft_masks", "them, soft"),
        )
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


# Table 2: system -> recipe of the tiny model on mini-AVSBench, and the columns: title -> run and prompt.
SYSTEMS = {
    "TPAVI": "mini_tpavi.yaml",
    "AVSegFormer": "mini_avsegformer.yaml",
    "AAVS": "ablations.yaml",
    "EASE": "mini_ease.yaml",
}
TABLE_2 = {
    "origin": ONE_STAGE[:2],
    "low": ("full", "low"),
    "high": ("full", "high"),
    "oracle": ("full", TRUE),
    "its own localizer": ("full", ACTUAL),
}


# Each in one stage and in two, and as the other one's localizer.
EASE_SYSTEMS = ("AAVS", "EASE")


@dataclass
class Experiment:
    """Runs with one recipe."""

    config: Path
    data_dir: Path
    output_dir: Path
    seeds: list[int] = field(default_factory=lambda: [1, 2, 3])
    jobs: int = 1
    stage_1_runs: dict[str, list[str]] = field(default_factory=lambda: STAGE_1_RUNS)
    stage_2_runs: dict[str, list[str]] = field(default_factory=lambda: STAGE_2_RUNS)
    evaluations: dict[str, Evaluation] = field(default_factory=lambda: EVALUATIONS)
    robust: bool = False

    @property
    def first_runs(self) -> list[str]:
        """Those whose masks others are prompted with."""
        return [name for name in ("stage_1", "stage_1_longer") if name in self.stage_1_runs]

    @property
    def all_runs(self) -> list[str]:
        return [*self.stage_1_runs, *self.stage_2_runs]


def make_arguments(experiment: Experiment, seed: int, name: str) -> list[str]:
    """The arguments of the training script for a run."""
    folder = experiment.output_dir / f"seed_{seed}"
    arguments = ["--config", str(experiment.config), "--seed", str(seed), "--data_dir", str(experiment.data_dir)]
    arguments += ["--cache_audio_features", str(experiment.output_dir / "audio-features")]
    arguments += ["--output_dir", str(folder / name)]
    _, _, config = parse_arguments(arguments)
    if name in experiment.stage_1_runs:
        if name == "stage_1_longer":
            count = "epochs" if config.stage_1_max_steps is None else "max_steps"
            arguments += [f"--stage_1_{count}", str(3 * getattr(config, f"stage_1_{count}"))]
            if config.stage_1_phase_2_epoch is not None:
                arguments += ["--stage_1_phase_2_epoch", str(3 * config.stage_1_phase_2_epoch)]
        return [*arguments, "--stage", "1", *experiment.stage_1_runs[name]]
    arguments += [
        "--stage",
        "2",
        "--localizer",
        str(folder / "stage_1" / "stage_1" / "model"),
        *experiment.stage_2_runs[name],
    ]
    if name == "one_stage_equal_cost":
        count = "epochs" if config.stage_2_max_steps is None else "max_steps"
        own = getattr(config, f"stage_2_{count}")
        both = getattr(config, f"stage_1_{count}") + own
        arguments += [f"--stage_2_{count}", str(both)]
        if config.stage_2_phase_2_epoch is not None:
            arguments += ["--stage_2_phase_2_epoch", str(round(config.stage_2_phase_2_epoch * both / own))]
    if name in WITHOUT_KEYS and config.stage_2_parameters is not None:
        patterns = [pattern for pattern in config.stage_2_parameters if pattern != "audio_aware_key"]
        arguments += ["--stage_2_parameters", *patterns]
    return arguments


def check_finished(experiment: Experiment, seed: int, name: str) -> None:
    """Refuses a run that was finished with other arguments than it would have now."""
    folder = experiment.output_dir / f"seed_{seed}" / name
    if not (folder / "all_results.json").exists():
        return
    arguments = get_arguments(*parse_arguments(make_arguments(experiment, seed, name)))
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
    """Runs a script, and adds to cpu_seconds.json beside the log what it and its processes have worked."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        process = subprocess.Popen([sys.executable, str(EXAMPLES / script), *arguments], stdout=file, stderr=file)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    cost = log.with_name("cpu_seconds.json")
    seconds = json.loads(cost.read_text()) if cost.exists() else 0.0
    write_text(cost, json.dumps(round(seconds + usage.ru_utime + usage.ru_stime, 2)))
    if process.returncode != 0:
        last_line = log.read_text().rstrip().rpartition("\n")[2]
        raise RuntimeError(f"{script} failed, see {log}: {last_line}")


def run(experiment: Experiment, seed: int, name: str) -> None:
    """Trains and evaluates what is not there yet."""
    folder = experiment.output_dir / f"seed_{seed}" / name
    arguments = make_arguments(experiment, seed, name)
    if not (folder / "all_results.json").exists():
        call("train_stepping_stones.py", [*arguments, "--resume_from_checkpoint", "latest"], folder / "output.txt")
    config, _, _ = parse_arguments(arguments)

    def evaluate(evaluation: str, options: list[str]) -> None:
        if not (folder / evaluation / "results.json").exists():
            arguments = ["--data_dir", str(experiment.data_dir), "--dataset", "avss"]
            arguments += ["--unknown_color", config.unknown_color, "--output_dir", str(folder / evaluation)]
            call("evaluate_stepping_stones.py", [*arguments, *options], folder / "output.txt")

    if name in WITH_QUALITIES:
        for title, evaluation in experiment.evaluations.items():
            options = ["--model", str(folder / "model"), "--prompts", *evaluation.prompts.values()]
            if evaluation.localizer is not None:
                output_dir = evaluation.output_dir or experiment.output_dir
                options += [
                    "--localizer",
                    str(output_dir / f"seed_{seed}" / evaluation.localizer / "stage_1" / "model"),
                ]
            evaluate(title, options)
    if experiment.robust and name in experiment.stage_2_runs:
        # One stage has no use for the localizer that lies in the two-stage repository.
        model = folder / "stage_2" / "model" if name.startswith("one_stage") else folder / "model"
        evaluate("robustness", ["--model", str(model), "--robust"])


def run_all(experiment: Experiment) -> None:
    """Runs what is missing, stage 1 first; what fails is told once all others have ended."""
    first = [*product(experiment.seeds, experiment.first_runs)]
    others = (*experiment.stage_2_runs, *experiment.stage_1_runs)
    runs = [item for item in product(experiment.seeds, others) if item not in first]
    with ThreadPoolExecutor(experiment.jobs) as executor:
        futures = {item: executor.submit(run, experiment, *item) for item in first}
        wait(futures.values())
        failed = {seed for (seed, _), future in futures.items() if future.exception() is not None}
        waiting = [(seed, name) for seed, name in runs if seed in failed and name in experiment.stage_2_runs]
        futures |= {item: executor.submit(run, experiment, *item) for item in runs if item not in waiting}
    failures = {item: str(future.exception()) for item, future in futures.items() if future.exception() is not None}
    failures |= dict.fromkeys(waiting, "not begun without its stage 1.")
    if failures:
        lines = [f"seed_{seed}/{name}: {failure}" for (seed, name), failure in failures.items()]
        sys.exit(f"{len(failures)} of {len(futures) + len(waiting)} runs failed:\n" + "\n".join(lines))


def read_results(experiment: Experiment) -> list[dict]:
    """A row for each seed, run and prompt (or subset of stage 1)."""
    rows = []
    for seed in experiment.seeds:
        for name in experiment.all_runs:
            folder = experiment.output_dir / f"seed_{seed}" / name
            results = json.loads((folder / "all_results.json").read_text())
            part = "stage_1" if name in experiment.stage_1_runs else "stage_2"
            figures = dict(results[part])
            if name in WITH_QUALITIES:
                for title, evaluation in experiment.evaluations.items():
                    evaluated = json.loads((folder / title / "results.json").read_text())["semantics"]
                    figures |= {
                        column: evaluated[STAGE_2_METHODS[prompt]] for column, prompt in evaluation.prompts.items()
                    }
            heard, listener = {}, "full" if name == "stage_1" else name
            if experiment.robust and listener in experiment.stage_2_runs:
                heard = read_robustness(folder.with_name(listener) / "robustness" / "results.json")
            cost = folder / "cpu_seconds.json"
            for prompt, values in figures.items():
                numbers = {key: value for key, value in values.items() if isinstance(value, float)}
                row = {"seed": seed, "run": name, "prompt": prompt, **numbers, **heard.get(prompt, {})}
                rows.append(row | {"cpu_seconds": json.loads(cost.read_text()) if cost.exists() else None})
    return rows


def read_robustness(path: Path) -> dict[str, dict[str, float]]:
    """Whether a model listens, by its prompt, and whether the localizer does, by subset: see LISTENING."""
    methods = {
        "no masks": ONE_STAGE_METHOD,
        ACTUAL: STAGE_2_METHODS["stage1"],
        TRUE: STAGE_2_METHODS["oracle"],
    }
    found = json.loads(path.read_text())["robustness"]
    figures = {prompt: found[method]["all"] for prompt, method in methods.items() if method in found}
    figures |= found.get(LOCALIZER_METHOD, {})
    return {
        prompt: {
            "positive": values["corrected"]["own"]["miou_sounding"],
            "negative": values["corrected"]["miou_sounding_n"],
            "gap": values["corrected"]["gap"],
            "fpr": values["official"]["g_fpr"],
            **{
                f"{figure}_{sound}": values["corrected"][sound][figure]
                for figure in ("fpr", "unmarked")
                for sound in NEGATIVES
            },
        }
        for prompt, values in figures.items()
    }


def interval(values: np.ndarray) -> str:
    """Mean and half the width of the 95 % interval."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    half = student_t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():.3f} ± {half:.3f}"


def get_values(rows: list[dict], seeds: list[int], run: str, prompt: str, figure: str) -> np.ndarray | None:
    """A figure of each seed, if there is that run with that prompt."""
    found = {row["seed"]: row[figure] for row in rows if (row["run"], row["prompt"]) == (run, prompt)}
    return np.array([found[seed] for seed in seeds]) if found else None


def make_table(rows: list[dict], seeds: list[int]) -> str:
    values = partial(get_values, rows, seeds)

    def cells(names: Sequence[tuple[str, str, str]]) -> list[str]:
        return ["" if values(*name) is None else interval(values(*name)) for name in names]

    subsets = ("S4", "MS3", "V2")
    localizers = [
        [title, *cells([(name, subset, "miou") for subset in subsets])] for name, title in LOCALIZER_TITLES.items()
    ]
    models = [[title, *cells([(name, prompt, SEEN) for prompt in PROMPTS])] for name, title in TITLES.items()]
    gains = [
        [title, interval(values(*better) - values(*worse))]
        for title, better, worse in GAINS
        if values(*better) is not None and values(*worse) is not None
    ]
    tables = [
        format_table(["foreground IoU of stage 1", *subsets], [row for row in localizers if any(row[1:])]),
        format_table(["AVSS, mIoU of seen classes", *PROMPTS], [row for row in models if any(row[1:])]),
        format_table(["gain, paired by seed", ""], gains),
    ]
    heard = [row for row in rows if "gap" in row]
    if heard:
        runs = list(dict.fromkeys((row["run"], row["prompt"]) for row in heard))
        listening = [
            [f"{(TITLES | LOCALIZER_TITLES)[run]}, {prompt}", *cells([(run, prompt, figure) for figure in LISTENING])]
            for run, prompt in runs
        ]
        tables.append(format_table(["does it listen?", *LISTENING.values()], listening))
    return "\n\n".join(tables)


def make_system_tables(
    rows: dict[str, list[dict]], seeds: list[int], columns: dict[str, tuple[str, str]]
) -> list[str]:
    """MIoU of seen classes and F of each system by column, a run and its prompt, and what is gained over one stage."""

    def cell(system: str, run: str, prompt: str) -> str:
        return " / ".join(interval(get_values(rows[system], seeds, run, prompt, name)) for name in (SEEN, "fscore"))

    def gain(system: str, run: str, prompt: str) -> str:
        origin = get_values(rows[system], seeds, *ONE_STAGE)
        return interval(get_values(rows[system], seeds, run, prompt, SEEN) - origin)

    scores = [[system, *(cell(system, *column) for column in columns.values())] for system in rows]
    gained = {title: column for title, column in columns.items() if column != ONE_STAGE[:2]}
    gains = [[system, *(gain(system, *column) for column in gained.values())] for system in rows]
    return [
        format_table(["AVSS, mIoU of seen classes / F", *columns], scores),
        format_table(["gain in mIoU over one stage, paired by seed", *gained], gains),
    ]


def make_table_2(rows: dict[str, list[dict]], seeds: list[int]) -> str:
    """Table 2 of the paper."""
    return "\n\n".join(make_system_tables(rows, seeds, TABLE_2))


def make_ease_table(rows: dict[str, list[dict]], seeds: list[int]) -> str:
    """Localizers of AAVS and EASE, and both in one stage and with the masks of either."""
    prompts = (*(f"masks of {system}" for system in EASE_SYSTEMS), TRUE)
    columns = {"one stage": ONE_STAGE[:2]} | {prompt: ("full", prompt) for prompt in prompts}
    subsets = ("S4", "MS3", "V2")
    localizers = [
        [system, *(interval(get_values(found, seeds, "stage_1", subset, "miou")) for subset in subsets)]
        for system, found in rows.items()
    ]
    localizers = format_table(["foreground IoU of stage 1", *subsets], localizers)
    return "\n\n".join([localizers, *make_system_tables(rows, seeds, columns)])


def make_remedy_table(rows: dict[str, list[dict]], seeds: list[int]) -> str:
    """What each remedy's models mark with other sounds, and what that costs with the own one."""
    parts = {("stage_1", subset): f"stage 1, {subset}" for subset in ("S4", "MS3", "V2")}
    parts |= {("full", prompt): f"stage 2, {prompt}" for prompt in (ACTUAL, TRUE)}
    figures = {"positive": "P", "gap": "gap"} | HEARD

    def values(remedy: str, part: tuple[str, str], figure: str) -> np.ndarray:
        return get_values(rows[remedy], seeds, *part, figure)

    heard = [
        [f"{title}, {remedy.replace('_', ' ')}", *(interval(values(remedy, part, figure)) for figure in figures)]
        for part, title in parts.items()
        for remedy in rows
    ]
    changes = []
    for part, title in parts.items():
        for remedy in rows:
            if remedy == "plain":
                continue
            cells = [
                interval(values(remedy, part, figure) - values("plain", part, figure))
                for figure in ("positive", "gap")
            ]
            for name in FPRS:
                plain = values("plain", part, name).mean()
                cells.append(f"{values(remedy, part, name).mean() / plain:.3f}" if plain > 0 else "")
            own = [
                get_values(rows[name], seeds, *part, SEEN if part[0] == "full" else "miou")
                for name in (remedy, "plain")
            ]
            changes.append([f"{title}, {remedy.replace('_', ' ')}", interval(own[0] - own[1]), *cells])
    return "\n\n".join(
        [
            format_table(["does it listen?", *figures.values()], heard),
            format_table(
                [
                    "to the plain model, paired by seed",
                    "mIoU, own sound",
                    "P",
                    "gap",
                    *(f"{HEARD[name]}, ratio" for name in FPRS),
                ],
                changes,
            ),
        ]
    )


def draw_figure(experiments: dict[str, Experiment]) -> Image.Image:
    """Frames, their truth, and what each system finds in one stage and prompted with its own localizer's masks."""
    found = []
    for system, experiment in experiments.items():
        data_args, _, _ = parse_arguments(["--config", str(experiment.config)])
        clips = load_clips(experiment.data_dir, "avss", "test", data_args.unknown_color)
        for name, title in (("one_stage", f"{system}, one stage"), ("full", f"{system}, two stages")):
            folder = experiment.output_dir / f"seed_{experiment.seeds[0]}" / name
            found.append((title, predict_examples(folder / "model", clips, folder / "masks" / "test")))
    titles, predicted = zip(*found)
    rows = []
    for clips_of_runs in zip(*predicted, strict=True):
        for index in choose_frames([example.truth for example in clips_of_runs[0]]):
            shown = [examples[index] for examples in clips_of_runs]
            frame, label_maps = shown[0].frame, [shown[0].truth, *(example.prediction for example in shown)]
            rows.append([(frame, ""), *((overlay(frame, labels), describe(labels)) for labels in label_maps)])
    return draw_grid(("frame", "truth", *titles), rows)


def check_all(experiment: Experiment) -> None:
    for seed, name in product(experiment.seeds, experiment.all_runs):
        check_finished(experiment, seed, name)


def run_missing(experiments: Iterable[Experiment]) -> None:
    """Trains and evaluates what is missing; what fails is told once all experiments have ended."""
    failures = []
    for experiment in experiments:
        try:
            run_all(experiment)
        except SystemExit as error:
            failures.append(f"{experiment.output_dir}: {error.code}")
    if failures:
        sys.exit("\n".join(failures))


def run_experiments(experiments: dict[str, Experiment]) -> dict[str, list[dict]]:
    """By experiment a row for each seed, run and prompt, of what is there and of what was missing."""
    for experiment in experiments.values():
        check_all(experiment)
    run_missing(experiments.values())
    return {name: read_results(experiment) for name, experiment in experiments.items()}


def run_experiment(experiment: Experiment) -> list[dict]:
    (rows,) = run_experiments({"": experiment}).values()
    return rows


def make_experiment(args: Namespace, output_dir: Path, **parts) -> Experiment:
    """One with the recipe that is asked for."""
    config = args.config or EXAMPLES / "configs" / "ablations.yaml"
    return Experiment(config, args.data_dir, output_dir, args.seeds, args.jobs, **parts)


def run_parts(args: Namespace) -> tuple[list[dict], str]:
    """Rows and table of the parts of one system."""
    runs = args.runs or [*STAGE_1_RUNS, *STAGE_2_RUNS]
    # What is evaluated with a localizer needs that one.
    evaluations = {
        title: evaluation
        for title, evaluation in EVALUATIONS.items()
        if evaluation.localizer is None or evaluation.localizer in runs
    }
    experiment = make_experiment(
        args,
        args.output_dir,
        stage_1_runs={name: STAGE_1_RUNS[name] for name in STAGE_1_RUNS if name in runs},
        stage_2_runs={name: STAGE_2_RUNS[name] for name in STAGE_2_RUNS if name in runs},
        evaluations=evaluations,
        robust=args.robust,
    )
    rows = run_experiment(experiment)
    return rows, make_table(rows, args.seeds)


def run_prompts(args: Namespace) -> tuple[list[dict], str]:
    """Rows and table of stage 2 as it is, and trained on masks that are not true."""
    experiment = make_experiment(
        args,
        args.output_dir,
        stage_1_runs={"stage_1": []},
        stage_2_runs=PROMPT_RUNS,
        evaluations={},
    )
    rows = run_experiment(experiment)
    return rows, make_table(rows, args.seeds)


def run_remedy(args: Namespace) -> tuple[list[dict], str]:
    """Rows and table of both stages with each remedy, and of plain ones."""
    experiments = {
        remedy: make_experiment(
            args,
            args.output_dir / remedy,
            stage_1_runs={"stage_1": REMEDIES[remedy]},
            stage_2_runs={"full": REMEDIES[remedy]},
            evaluations={},
            robust=True,
        )
        for remedy in args.remedies
    }
    by_remedy = run_experiments(experiments)
    rows = [{"remedy": remedy, **row} for remedy, found in by_remedy.items() for row in found]
    return rows, make_remedy_table(by_remedy, args.seeds)


def make_system_experiment(args: Namespace, system: str, evaluations: dict[str, Evaluation]) -> Experiment:
    """A system's localizer, its stage 2 and it in one stage."""
    return Experiment(
        EXAMPLES / "configs" / SYSTEMS[system],
        args.data_dir,
        args.output_dir / system.lower(),
        args.seeds,
        args.jobs,
        stage_1_runs={"stage_1": []},
        stage_2_runs={name: STAGE_2_RUNS[name] for name in ("full", "one_stage")},
        evaluations=evaluations,
        robust=args.robust,
    )


def run_table_2(args: Namespace) -> tuple[list[dict], str]:
    """Rows and table of all systems; also draws the figure."""
    qualities = {"qualities": EVALUATIONS["qualities"]}
    experiments = {system: make_system_experiment(args, system, qualities) for system in args.systems}
    by_system = run_experiments(experiments)
    with write_whole(args.output_dir / "figure.png") as (partial_path,):
        draw_figure(experiments).save(partial_path)
    rows = [{"system": system, **row} for system, found in by_system.items() for row in found]
    return rows, make_table_2(by_system, args.seeds)


def run_ease(args: Namespace) -> tuple[list[dict], str]:
    """Rows and table of AAVS and EASE, each in one stage and with the masks of either."""
    experiments = {}
    for system, other in zip(EASE_SYSTEMS, reversed(EASE_SYSTEMS)):
        prompts = {f"masks of {other}": "stage1"}
        crossed = Evaluation(prompts, localizer="stage_1", output_dir=args.output_dir / other.lower())
        experiments[system] = make_system_experiment(args, system, {f"masks_of_{other.lower()}": crossed})
    for experiment in experiments.values():
        check_all(experiment)
    # The localizers first: each prompts both systems.
    run_missing(replace(experiment, stage_2_runs={}) for experiment in experiments.values())
    run_missing(experiments.values())
    by_system = {
        system: [
            row | {"prompt": f"masks of {system}" if row["prompt"] == ACTUAL else row["prompt"]}
            for row in read_results(experiment)
        ]
        for system, experiment in experiments.items()
    }
    rows = [{"system": system, **row} for system, found in by_system.items() for row in found]
    return rows, make_ease_table(by_system, args.seeds)


def parse_options(argv: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="parts", choices=EXPERIMENTS)
    parser.add_argument("--config", type=Path, help="recipe of one system; by default configs/ablations.yaml")
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS, help="rows of table2")
    parser.add_argument(
        "--runs", nargs="+", choices=[*STAGE_1_RUNS, *STAGE_2_RUNS], help="which of the parts; by default all"
    )
    parser.add_argument(
        "--remedies", nargs="+", choices=REMEDIES, help="which remedies, plain among them; by default all"
    )
    parser.add_argument("--data_dir", type=Path, help="copy of AVSBench; by default mini-AVSBench is made")
    parser.add_argument(
        "--statistics", default="independent", choices=["independent", "avsbench"], help="of the mini-AVSBench"
    )
    parser.add_argument("--robust", action="store_true", help="play other sounds to what was trained, too")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    args = parser.parse_args(argv)
    if args.experiment in ("table2", "ease") and args.config is not None:
        raise ValueError(f"--config is for one system: {args.experiment} has a recipe for each system.")
    if args.experiment != "remedy" and args.remedies is not None:
        raise ValueError(f"--remedies is for remedy, not for {args.experiment}.")
    args.remedies = args.remedies or list(REMEDIES)
    if "plain" not in args.remedies:
        raise ValueError("--remedies lacks plain, which the others are compared with.")
    if args.experiment == "prompts" and args.robust:
        raise ValueError("--robust is not for prompts: the evaluation has no soft masks.")
    if args.experiment != "parts" and args.runs is not None:
        raise ValueError(f"--runs is for the parts of one system, not for {args.experiment}.")
    if args.runs is not None and "stage_1" not in args.runs:
        raise ValueError("--runs lacks stage_1, which prompts the others.")
    return args


EXPERIMENTS = {
    "parts": run_parts,
    "table2": run_table_2,
    "ease": run_ease,
    "prompts": run_prompts,
    "remedy": run_remedy,
}


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_options(argv)
    if args.data_dir is None:
        args.data_dir = find_mini_avsbench(args.output_dir, args.statistics)
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    rows, table = EXPERIMENTS[args.experiment](args)
    write_csv(rows, args.output_dir / "results.csv")
    write_text(args.output_dir / "table.md", table + "\n")
    print(table)


if __name__ == "__main__":
    main()
