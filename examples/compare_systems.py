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
Compares systems on a copy of AVSBench: one table in the shape of Tables 1, D1 and D2 of Stepping Stones (Ma et al.,
2024) by the protocols of AVSBench and of CAVP, and one figure in the shape of A1 to D7.

    python examples/compare_systems.py --data_dir AVSBench-semantic --output_dir runs/comparison \
        --systems AAVS=runs/avss/model CAVP=runs/cavp/model other=masks/other --printed AAVS=AAVS CAVP=CAVP

A system is a checkpoint (a two-stage repository, stage 1, or one stage), in a folder or on the Hub, or a folder of
masks, <subset>/<video_id>/<frame>.png, as evaluate_stepping_stones.py takes them: label maps, or with `--dataset s4`
or `ms3` 8-bit gray scores; a store of stage 1's masks, with its manifest, is what sounds in either case.

The same command resumes with the systems that are missing. In the folder of the comparison are

    table.md         figures in percent with 95 % intervals, differences to the first system, what was printed
    table.csv        all of them, from 0 to 1
    videos.csv       the IoU of each video, ranked by how far the others are ahead of the first system
    figure.png       frame, truth and each system, of the first, the last and three ranks between; its caption is in
                     table.md
    systems/<name>/  what was measured of a system: the counts of its frames, its masks and label maps, its arguments
"""

import csv
import json
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
from accelerate import Accelerator
from evaluate_stepping_stones import (
    ONE_STAGE,
    STAGE_1,
    EvaluationArguments,
    find_folder,
    find_stages,
    get_kind,
    run_evaluation,
)
from PIL import Image
from transformers import AutoProcessor, HfArgumentParser

from stepping_stones_hf.data.collator import as_image
from stepping_stones_hf.data.layout import CONFIG_SUBSETS
from stepping_stones_hf.files import begin_folder, complete_folder, partial_folder, write_text, write_whole
from stepping_stones_hf.models.image_processing_base import AudioVisualImageProcessorPil
from stepping_stones_hf.tables import write_csv
from stepping_stones_hf.training.checkpoints import find_changes, lock_run
from stepping_stones_hf.training.clips import load_clips
from stepping_stones_hf.training.comparison import (
    Measured,
    compare_systems,
    has_one_truth,
    load_measured,
    make_comparison_table,
    rank_videos,
    save_measured,
)
from stepping_stones_hf.training.evaluation import (
    FrameScores,
    LabelCollator,
    open_prediction,
    read_prediction,
    score_predictions,
)
from stepping_stones_hf.training.mask_store import (
    MANIFEST_NAME,
    check_store,
    fingerprint_clips,
    hash_masks,
    hash_model_folder,
    mask_path,
)
from stepping_stones_hf.training.report import choose_frames, summarize_robustness
from stepping_stones_hf.training.sounds import NEGATIVES, SOUNDS, change_sound
from stepping_stones_hf.visualization import BINARY_PALETTE, describe, draw_grid, overlay


PUBLISHED = Path(__file__).parents[1] / "docs" / "source" / "results" / "published.csv"
NUM_RANKS = 5  # in the figure


@dataclass
class ComparisonArguments:
    data_dir: str = field(metadata={"help": "Copy of AVSBench, or its export to Parquet."})
    output_dir: str = field(metadata={"help": "Folder of the comparison."})
    systems: list[str] = field(
        metadata={
            "help": "NAME=PATH of each: a checkpoint or a folder of masks. The others are compared with the first."
        }
    )
    printed: list[str] = field(
        default_factory=list,
        metadata={"help": "NAME=ROW: which row of docs/source/results/published.csv a system is."},
    )
    dataset: str = field(
        default="avss", metadata={"help": "avss, or s4 and ms3 for stage 1 alone.", "choices": ["s4", "ms3", "avss"]}
    )
    split: str = field(
        default="test", metadata={"help": "Split of the data.", "choices": ["train", "validation", "test"]}
    )
    label_size: int | None = field(
        default=None, metadata={"help": "Height and width of labels where no system is a checkpoint. Default: 224."}
    )
    unknown_color: str = field(
        default="error", metadata={"help": "Colors off the palette: error, or background as in the released program."}
    )
    robust: bool = field(
        default=False,
        metadata={
            "help": "Whether the systems listen, as with evaluate_stepping_stones.py --robust; a folder of masks has"
            " one for each sound."
        },
    )
    dataloader_num_workers: int = field(default=0, metadata={"help": "Processes that read clips; 0 for none."})


# What is compared ----------------------------------------------------------------------------------------------------


@dataclass
class System:
    name: str
    path: Path  # of masks those with the own sound
    is_checkpoint: bool
    folder: Path  # where what was measured is kept

    @property
    def is_store(self) -> bool:
        """Whether these are masks of a stage 1."""
        return (self.path / MANIFEST_NAME).exists()

    def find_masks_of(self, sound: str) -> Path:
        """The folder with its masks of clips that were heard with a sound."""
        return self.path if sound == "own" else self.path.parent / sound


def split_pairs(pairs: Sequence[str], option: str) -> dict[str, str]:
    """The values of NAME=VALUE by their names."""
    found = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if not value or not re.fullmatch(r"\w[^/\\|\n]*", name):
            raise ValueError(f"{option} takes NAME=..., with a name for a folder and a table, got {pair!r}.")
        if name in found:
            raise ValueError(f"{option} has two systems of the name {name!r}: give each a name of its own.")
        found[name] = value
    return found


def find_systems(args: ComparisonArguments) -> list[System]:
    systems = []
    for name, path in split_pairs(args.systems, "--systems").items():
        path = find_folder(path)
        is_checkpoint = (path / "config.json").exists()
        path = path / "own" if args.robust and not is_checkpoint else path
        if not is_checkpoint and not any((path / subset).is_dir() for subset in CONFIG_SUBSETS["avss"]):
            raise ValueError(
                f"{path} is neither a checkpoint, which has a config.json, nor a folder of masks, which has"
                " <subset>/<video_id>/<frame>.png with the subset v1s, v1m or v2."
            )
        kind = get_kind(path) if is_checkpoint else "masks"
        needs_localizer = kind == "stage 2" or (kind == ONE_STAGE and args.dataset != "avss")
        if needs_localizer and not (path / "localizer").is_dir():
            raise ValueError(
                f"{path} is {kind} without localizer/, which --dataset {args.dataset} takes: put it there."
            )
        systems.append(System(name, path, is_checkpoint, Path(args.output_dir, "systems", name)))
    return systems


def read_printed(args: ComparisonArguments, systems: Sequence[System]) -> dict[tuple[str, str], dict[str, str]]:
    """What was published of the systems, by where it was measured (S4, MS3 or AVSS) and by the system's name."""
    with open(PUBLISHED, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    printed, names = {}, [system.name for system in systems]
    for name, row_name in split_pairs(args.printed, "--printed").items():
        found = {(row["on"], name): row for row in rows if row["name"] == row_name}
        if name not in names:
            raise ValueError(f"--printed {name}={row_name}: there is no such system, only {', '.join(names)}.")
        if not found:
            choices = ", ".join(dict.fromkeys(row["name"] for row in rows))
            raise ValueError(f"--printed {name}={row_name}: {PUBLISHED.name} has no such row, only {choices}.")
        printed |= found
    return printed


def make_evaluation_arguments(args: ComparisonArguments, system: System) -> EvaluationArguments:
    """By which evaluate_stepping_stones.py evaluates a checkpoint."""
    return EvaluationArguments(
        data_dir=args.data_dir,
        output_dir=str(partial_folder(system.folder)),
        model=str(system.path),
        dataset=args.dataset,
        split=args.split,
        unknown_color=args.unknown_color,
        save_predictions=args.dataset == "avss" and get_kind(system.path) != STAGE_1,
        counterfactuals=list(NEGATIVES) if args.robust else [],
        dataloader_num_workers=args.dataloader_num_workers,
    )


def find_model_folders(args: ComparisonArguments, system: System) -> list[Path]:
    """Stage 1, and stage 2 or one stage, as far as they take part."""
    localizer, model, _ = find_stages(make_evaluation_arguments(args, system))
    return [folder for folder in (localizer, model) if folder is not None]


def make_image_processor(args: ComparisonArguments, systems: Sequence[System]) -> AudioVisualImageProcessorPil:
    """
    Makes the label maps that masks in folders are scored by: those of the first checkpoint, since released programs
    resize masks in ways of their own.

    Raises:
        `ValueError`: checkpoints have label maps of different sizes, at which scores differ; or the size that is
        asked for is none.
    """
    checkpoints = [system for system in systems if system.is_checkpoint]
    if not checkpoints:
        size = 224 if args.label_size is None else args.label_size
        if size < 1:
            raise ValueError(f"--label_size is {size}, expected at least 1.")
        return AudioVisualImageProcessorPil(label_size={"height": size, "width": size})
    if args.label_size is not None:
        raise ValueError(f"--label_size cannot be used with the checkpoint {checkpoints[0].path}, which has its own.")
    own = {
        system.name: AutoProcessor.from_pretrained(find_model_folders(args, system)[-1], backend="pil").image_processor
        for system in checkpoints
    }
    sizes = {name: (each.label_size.height, each.label_size.width) for name, each in own.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{height}x{width} of {name}" for name, (height, width) in sizes.items())
        raise ValueError(f"Label maps have the sizes {found}: give the processors the same label_size.")
    first = own[checkpoints[0].name]
    return type(first)(label_size=dict(first.label_size))


def change_localization(
    image_processor: AudioVisualImageProcessorPil, localization: bool
) -> AudioVisualImageProcessorPil:
    """The same, for masks of what sounds or for label maps."""
    return type(image_processor)(localization=localization, label_size=dict(image_processor.label_size))


def localizes(args: ComparisonArguments, system: System) -> bool:
    """Whether masks in a folder say what sounds."""
    return args.dataset != "avss" or system.is_store


def check_masks(
    args: ComparisonArguments,
    system: System,
    heard: dict[str, datasets.Dataset],
    image_processor: AudioVisualImageProcessorPil,
) -> None:
    """
    Makes sure that a folder has all masks of the clips by what is heard, of the size of the labels.

    Raises:
        `FileNotFoundError`, `ValueError`: a mask is missing, or of another kind or size; the error names it.
    """
    if system.is_store:
        check_store(system.path, heard["own"])
    height, width = image_processor.label_size.height, image_processor.label_size.width
    for sound, clips in heard.items():
        for clip in clips.select_columns(["subset", "video_id", "mask_frame_indices"]):
            for index in clip["mask_frame_indices"]:
                path = mask_path(system.find_masks_of(sound), clip["subset"], clip["video_id"], index)
                with open_prediction(path, localizes(args, system)) as mask:
                    if mask.size != (width, height):
                        raise ValueError(
                            f"{path} is {mask.height}x{mask.width}, and the labels are {height}x{width}: write masks"
                            " of that size, or, where no system is a checkpoint, give --label_size."
                        )


# What is measured ----------------------------------------------------------------------------------------------------


def describe_system(
    args: ComparisonArguments,
    system: System,
    fingerprint: str,
    image_processor: AudioVisualImageProcessorPil,
) -> dict:
    """What decides over the results of a system; where its folder is does not."""
    arguments = {"data": fingerprint} | {name: getattr(args, name) for name in ("dataset", "split", "unknown_color")}
    if args.robust:
        arguments["robust"] = True
    if system.is_checkpoint:
        return arguments | {"content": [hash_model_folder(folder) for folder in find_model_folders(args, system)]}
    truth = [type(image_processor).__name__, *dict(image_processor.label_size).values()]
    sounds = SOUNDS if args.robust else ("own",)
    return arguments | {"content": [hash_masks(system.find_masks_of(sound)) for sound in sounds], "truth": truth}


def load_system(system: System) -> dict[str, Measured]:
    """
    By task what was measured of a system.

    Raises:
        `ValueError`: a file was damaged or removed since.
    """
    try:
        tasks = json.loads((system.folder / "run.json").read_text())["tasks"]
        return {task: load_measured(system.folder / f"{task}.npz") for task in tasks}
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"{system.folder} is incomplete or damaged ({error}): remove that folder to run the system again."
        ) from error


def is_finished(system: System, arguments: dict) -> bool:
    """
    Whether a system was measured already.

    Raises:
        `ValueError`: it was, with other arguments; or what was measured is damaged.
    """
    if not system.folder.exists():
        return False
    load_system(system)
    changes = find_changes(system.folder / "run.json", arguments)
    if changes:
        differences = ", ".join(f"{name} was {value}, is {arguments[name]}" for name, value in changes.items())
        raise ValueError(
            f"{system.folder} is finished, but with another checkpoint, masks or arguments: {differences}. Remove that"
            " folder to run the system again, or choose another --output_dir."
        )
    return True


def measure_checkpoint(
    args: ComparisonArguments, system: System
) -> tuple[dict[str, Measured], dict[str, dict[str, FrameScores]]]:
    """By task what a checkpoint has done, and its scores with each sound."""
    run = run_evaluation(make_evaluation_arguments(args, system))
    measured, heard, parameters, seconds = {}, {}, 0, 0.0
    for method, by_sound in run.scores.items():
        scores = by_sound["own"]
        stage = run.localizer if method == STAGE_1 else run.model
        if method == ONE_STAGE:  # it needs no stage 1, which may be there
            parameters, seconds = 0, 0.0
        parameters += stage.model.num_parameters()
        seconds += scores.seconds / len(scores.videos)
        task = "localization" if method == STAGE_1 else "semantics"
        measured[task], heard[task] = Measured(scores, parameters, seconds), by_sound
    return measured, heard


def list_listening(heard: dict[str, dict[str, FrameScores]]) -> dict[str, dict[str, float | None]]:
    """By subset, AVSS for label maps, the columns of the table that say whether a system listens."""
    columns = {}
    for by_sound in heard.values():
        for subset, figures in summarize_robustness(by_sound).items():
            official, corrected = figures["official"], figures["corrected"]
            low, high = corrected["gap_interval"]
            columns["AVSS" if subset == "all" else subset] = {
                "g_miou": official["g_miou"],
                "g_fpr": official["g_fpr"],
                "gap": corrected["gap"],
                "gap_low": low,
                "gap_high": high,
            }
    return columns


def measure(
    args: ComparisonArguments,
    system: System,
    arguments: dict,
    accelerator: Accelerator,
    clips: dict[str, datasets.Dataset],
    image_processor: AudioVisualImageProcessorPil,
) -> None:
    """Measures a system into its folder, which is there whole or not at all."""
    if accelerator.is_main_process:
        begin_folder(system.folder)
    accelerator.wait_for_everyone()
    if system.is_checkpoint:
        measured, heard = measure_checkpoint(args, system)
    else:
        localization, loading = localizes(args, system), {"num_workers": args.dataloader_num_workers}
        truth = change_localization(image_processor, localization)
        scores = {
            sound: score_predictions(accelerator, of_sound, truth, system.find_masks_of(sound), **loading)
            for sound, of_sound in clips.items()
        }
        task = "localization" if localization else "semantics"
        measured, heard = {task: Measured(scores["own"])}, {task: scores}
    if accelerator.is_main_process:
        partial = partial_folder(system.folder)
        for task, of_task in measured.items():
            save_measured(partial / f"{task}.npz", of_task)
        if args.robust:
            (partial / "robustness.json").write_text(json.dumps(list_listening(heard), indent=2) + "\n")
        about = arguments | {"tasks": list(measured)}
        (partial / "run.json").write_text(json.dumps(about, indent=2) + "\n")
        complete_folder(system.folder)
    accelerator.wait_for_everyone()


# What is told --------------------------------------------------------------------------------------------------------


def find_masks(system: System, task: str) -> Path:
    """The folder with a system's masks of what sounds, or with its label maps."""
    if not system.is_checkpoint:
        return system.path
    if task == "localization":
        return system.folder / "stage1_masks"
    # By the prompt, of which there is one. Where there is none any more, the error names the first mask.
    return next(system.folder.glob("predictions/*"), system.folder / "predictions")


def draw_figure(
    videos: Sequence[dict], folders: dict[str, Path], clips: datasets.Dataset, collator: LabelCollator
) -> Image.Image:
    """A frame of each video, where most classes sound: with its truth, and what each system finds."""
    positions = {name: index for index, name in enumerate(zip(clips["subset"], clips["video_id"]))}
    rows, localization = collator.prepare(clips), collator.image_processor.localization

    def draw(frame: Image.Image, label_map: np.ndarray) -> tuple[Image.Image, str]:
        if localization:
            return overlay(frame, label_map, BINARY_PALETTE), ""
        return overlay(frame, label_map), describe(label_map)

    pictures = []
    for video in videos:
        clip = rows[positions[video["subset"], video["video_id"]]]
        inputs = collator([clip])
        truths = inputs["label_maps"].numpy()
        index = choose_frames(truths)[0]
        name = inputs["frames"][index]
        frame = as_image(clip["frames"][name[-1]])
        found = [
            read_prediction(mask_path(folder, *name), truths.shape[1:], localization).numpy()
            for folder in folders.values()
        ]
        label_maps = [truths[index], *((scores > 0.5 if localization else scores) for scores in found)]
        of_frame = (frame, f"rank {video['rank']}: {100 * video['difference']:+.1f}")
        pictures.append([of_frame, *(draw(frame, label_map) for label_map in label_maps)])
    return draw_grid(("frame", "truth", *folders), pictures)


IOU_OF_A_CLIP = {
    "localization": "mean over its frames",
    "semantics": "mean over the classes that are true or predicted in it, with the pixels of all its frames counted",
}


def make_caption(videos: Sequence[dict], count: int, names: Sequence[str], task: str) -> str:
    """Which clips the figure shows, and by what rule."""
    first, *others = names
    by = f"the lead over {first} of {', '.join(others)}, on average" if others else f"how good {first} is"
    ranks = ", ".join(f"{video['rank']} ({video['subset']}/{video['video_id']})" for video in videos)
    return (
        f"Frame, truth and each system. Of {count} clips, ranked by {by}, in IoU (in percent; {IOU_OF_A_CLIP[task]}),"
        f" those of the ranks {ranks}; of each the frame where most classes sound. videos.csv has all ranks."
    )


NOTES = """\
In percent, with 95 % intervals by a bootstrap over clips. Differences are paired by clip, and bold where their
interval is on one side of 0. Behind what was printed stands how far the measured figure is from it, bold where what
was printed lies outside of the measured interval. Columns with a star are by CAVP's protocol, the others by
AVSBench's. Parameters and seconds are those of all stages; seconds, from tensors to label maps, one clip at a time,
depend on the machine."""
LISTENING = """\
G-mIoU and FPR, of the other sounds, are the official figures of AVSBench-Robust; the gap is how far the IoU of what
sounds falls with them: see the page "Does it listen?"."""
OTHER_TRUTH = "The true masks are not the same for all systems: released programs resize them in ways of their own."


def write_comparison(
    args: ComparisonArguments,
    systems: Sequence[System],
    printed: dict[tuple[str, str], dict[str, str]],
    clips: datasets.Dataset,
    image_processor: AudioVisualImageProcessorPil,
) -> None:
    """The tables and the figure of what is measured."""
    measured = {system.name: load_system(system) for system in systems}
    rows = compare_systems(measured)
    if args.robust:
        listening = {
            system.name: json.loads((system.folder / "robustness.json").read_text(encoding="utf-8"))
            for system in systems
        }
        for row in rows:
            row |= listening[row["system"]].get(row["on"], {})
    task = "semantics" if any("semantics" in tasks for tasks in measured.values()) else "localization"
    scores = {name: tasks[task].scores for name, tasks in measured.items() if task in tasks}
    videos = rank_videos(scores)
    shown = [videos[index] for index in np.unique(np.linspace(0, len(videos) - 1, NUM_RANKS).round().astype(int))]
    folders = {system.name: find_masks(system, task) for system in systems if system.name in scores}
    truth = change_localization(image_processor, task == "localization")
    figure = draw_figure(shown, folders, clips, LabelCollator(truth))
    caption = make_caption(shown, len(videos), list(scores), task)
    table = make_comparison_table(rows, printed)
    notes = f"{NOTES}\n{LISTENING}" if args.robust else NOTES
    notes = notes if has_one_truth(measured.values()) else f"{notes}\n{OTHER_TRUTH}"

    output_dir = Path(args.output_dir)
    with write_whole(output_dir / "figure.png") as (partial,):
        figure.save(partial)
    write_csv(videos, output_dir / "videos.csv")
    for row in rows:
        published = printed.get((row["on"], row["system"]), {})
        row |= {f"printed_{name}": value for name, value in published.items() if name not in ("name", "on")}
    write_csv(rows, output_dir / "table.csv")
    write_text(output_dir / "table.md", f"{table}\n\n{notes}\n\n![Figure](figure.png)\n\n{caption}\n")
    print(f"{table}\n\nResults: {output_dir}")


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = HfArgumentParser(ComparisonArguments, description=__doc__).parse_args_into_dataclasses(argv)
    accelerator = Accelerator()
    datasets.disable_progress_bars()

    # What is wrong is said before anything is computed.
    systems = find_systems(args)
    printed = read_printed(args, systems)
    image_processor = make_image_processor(args, systems)
    with accelerator.main_process_first():
        clips = load_clips(args.data_dir, args.dataset, args.split, args.unknown_color)
    heard = {sound: change_sound(clips, sound).clips for sound in (SOUNDS if args.robust else ("own",))}
    for system in systems:
        if not system.is_checkpoint:
            check_masks(args, system, heard, image_processor)
    fingerprint = fingerprint_clips(clips)
    arguments = {system.name: describe_system(args, system, fingerprint, image_processor) for system in systems}

    with lock_run(args.output_dir) if accelerator.is_main_process else nullcontext():
        missing = [system for system in systems if not is_finished(system, arguments[system.name])]
        for system in missing:
            accelerator.print(f"{system.name} ...")
            measure(args, system, arguments[system.name], accelerator, heard, image_processor)
        if accelerator.is_main_process:
            write_comparison(args, systems, printed, clips, image_processor)
    accelerator.end_training()


if __name__ == "__main__":
    main()
