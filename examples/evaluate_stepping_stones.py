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
Evaluates checkpoints of either stage, and masks that other systems wrote, by the protocols of AVSBench and of CAVP.

    accelerate launch examples/evaluate_stepping_stones.py --model runs/mini/model --data_dir runs/mini/mini-avsbench \
        --prompts stage1 low high oracle --counterfactuals shuffled silence noise --output_dir runs/mini/evaluation

In the folder of the evaluation are

    table.md         figures in percent, as in Tables D1 and D2 of the supplement of Stepping Stones (Ma et al., 2024)
    results.json     all of them, from 0 to 1, with the arguments
    per_class.csv    IoU and F of each class by both protocols
    per_class_*.png  bars of the IoU of each class, for each way to make label maps
    stage1_masks/    the masks of stage 1: a store for --stage1_masks_dir
    predictions/     with --save_predictions the label maps, as --predictions_dir takes them

With --robust, whether the models listen, by the protocol of AVSBench-Robust (Li et al., 2026), also for masks of other
systems, <sound>/<subset>/<video_id>/<frame>.png; then there are

    robustness.csv   the table "Robustness" and the figures with each sound, from 0 to 1
    offscreen.csv    whose sound each clip was given, and how far apart the two are
    robustness.png   of the first clip of each subset what the models mark with each sound
"""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from huggingface_hub import snapshot_download
from PIL import Image
from torch.utils.data import Dataset
from transformers import AutoConfig, AutoProcessor, BatchFeature, HfArgumentParser, PreTrainedModel, ProcessorMixin

from stepping_stones_hf import AutoModelForAudioVisualSegmentation
from stepping_stones_hf.data import AVSCollator
from stepping_stones_hf.data.avsbench import to_png
from stepping_stones_hf.data.collator import as_image
from stepping_stones_hf.data.labels import CLASS_NAMES
from stepping_stones_hf.files import begin_folder, complete_folder, partial_folder, write_text, write_whole
from stepping_stones_hf.models.auto import MODEL_FOR_AUDIO_VISUAL_SEGMENTATION_MAPPING
from stepping_stones_hf.models.image_processing_base import AudioVisualImageProcessorPil
from stepping_stones_hf.models.modeling_base import is_localizer
from stepping_stones_hf.tables import write_csv
from stepping_stones_hf.training.clips import WithMasks, load_clips
from stepping_stones_hf.training.degrade import QUALITIES
from stepping_stones_hf.training.evaluation import (
    Frame,
    FrameScores,
    LabelCollator,
    calibrate_prompts,
    count_predictions,
    evaluate,
    localize,
    make_prompts,
    score_predictions,
    segment,
)
from stepping_stones_hf.training.localizer import finish_store, predict_masks
from stepping_stones_hf.training.mask_store import (
    check_store,
    hash_model_folder,
    mask_path,
)
from stepping_stones_hf.training.report import (
    choose_frames,
    list_robustness,
    make_class_table,
    make_evaluation_tables,
    summarize_evaluation,
)
from stepping_stones_hf.training.sounds import NEGATIVES, SOUNDS, HeardClips, change_sound
from stepping_stones_hf.visualization import BINARY_PALETTE, describe, draw_grid, overlay, plot_class_bars


# Names of the methods. Stage 2 is one for each kind of prompt.
STAGE_1 = "stage 1"
ONE_STAGE = "one stage"
STAGE_2 = {
    "stage1": "stage 2, masks of stage 1",
    "low": "stage 2, low masks",
    "high": "stage 2, high masks",
    "oracle": "stage 2, true masks",
    # What stage 1 makes of the own sound, whatever stage 2 hears.
    "stale": "stage 2, stale masks of stage 1",
}


@dataclass
class EvaluationArguments:
    data_dir: str = field(metadata={"help": "Copy of AVSBench, or its export to Parquet."})
    output_dir: str = field(metadata={"help": "Folder of the evaluation."})
    model: str | None = field(
        default=None, metadata={"help": "Two-stage repository or checkpoint of one stage: a folder, or on the Hub."}
    )
    localizer: str | None = field(default=None, metadata={"help": "Stage 1. Default: localizer/ of the model."})
    predictions_dir: list[str] | None = field(
        default=None,
        metadata={"help": "Folders with masks of other systems, <subset>/<video_id>/<frame>.png, frames from 0 on."},
    )
    dataset: str = field(
        default="avss", metadata={"help": "avss, or s4 and ms3 for stage 1 alone.", "choices": ["s4", "ms3", "avss"]}
    )
    split: str = field(
        default="test", metadata={"help": "Split of the data.", "choices": ["train", "validation", "test"]}
    )
    prompts: list[str] | None = field(
        default=None,
        metadata={
            "help": "Prompts of stage 2: the masks of stage 1 (default), true masks, or these with the errors of a"
            " stage 1 of low or high quality; or, with other sounds, the stale masks of a stage 1 that hears the own.",
            "choices": list(STAGE_2),
        },
    )
    stage1_masks_dir: str | None = field(
        default=None, metadata={"help": "Store with the masks of stage 1, which then does not run."}
    )
    counterfactuals: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Other sounds to hear too: that of a clip of other classes (shuffled) or of other super-classes"
            " (offscreen), none, noise as loud as the sound, or both of these (fused).",
            "choices": ["shuffled", "fused", *NEGATIVES],
        },
    )
    robust: bool = field(
        default=False,
        metadata={
            "help": "Whether the models listen: with --counterfactuals offscreen silence noise, for the masks of stage"
            " 1 and true ones as prompts, and for other systems, whose folders have one for each sound."
        },
    )
    sound_threshold: float | None = field(
        default=None,
        metadata={
            "help": "Stage 1, or one stage, leaves frames unmarked whose sound goes with what is seen by a smaller"
            " probability. For models with a pair loss; 0.5, or what suits the validation split."
        },
    )
    label_size: int | None = field(
        default=None, metadata={"help": "Height and width of labels where there is no model to say so. Default: 224."}
    )
    unknown_color: str = field(
        default="error", metadata={"help": "Colors off the palette: error, or background as in the released program."}
    )
    save_predictions: bool = field(default=False, metadata={"help": "Keep the label maps."})
    cache_audio_features: str | None = field(default=None, metadata={"help": "Folder that keeps log-mel patches."})
    per_device_eval_batch_size: int = field(default=1, metadata={"help": "Clips per process and pass."})
    dataloader_num_workers: int = field(default=0, metadata={"help": "Processes that read clips; 0 for none."})
    seed: int = field(default=3407, metadata={"help": "Seed of low and high masks, other clips' sounds and noise."})

    def __post_init__(self):
        if self.robust:
            self.counterfactuals = list(dict.fromkeys([*self.counterfactuals, *NEGATIVES]))


# What is evaluated ---------------------------------------------------------------------------------------------------


def find_folder(name: str) -> Path:
    """A folder, or the local copy of a repository on the Hub."""
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"{name} is no folder, and no repository of the Hub can be had: {error}") from error


def get_kind(folder: Path) -> str:
    """Which stage a checkpoint is."""
    config = AutoConfig.from_pretrained(folder)
    if type(config) not in MODEL_FOR_AUDIO_VISUAL_SEGMENTATION_MAPPING or config.num_labels not in (
        2,
        len(CLASS_NAMES),
    ):
        raise ValueError(
            f"{folder} has a model of the type {config.model_type!r} with {config.num_labels} labels, expected a model"
            f" for audio-visual segmentation with 2 (stage 1) or the {len(CLASS_NAMES)} of AVSBench."
        )
    return STAGE_1 if is_localizer(config) else "stage 2" if config.use_mask_prompt else ONE_STAGE


def find_stages(args: EvaluationArguments) -> tuple[Path | None, Path | None, list[str | None]]:
    """The folders of stage 1 and of stage 2 (or one stage), where there are any, and the prompts of the latter."""
    if args.model is None and args.predictions_dir is None:
        raise ValueError("There is nothing to evaluate: give --model or --predictions_dir.")
    folder = None if args.model is None else find_folder(args.model)
    kind = "masks of other systems" if folder is None else get_kind(folder)
    unused = ["label_size"] if folder is not None else [] if args.robust else ["counterfactuals"]
    if kind not in ("stage 2", ONE_STAGE):
        unused += ["localizer"]
    if kind not in ("stage 2", ONE_STAGE) or args.dataset != "avss":
        unused += ["save_predictions"]
    if kind != "stage 2" or args.dataset != "avss":
        unused += ["prompts", "stage1_masks_dir"]
    given = ", ".join(f"--{name}" for name in unused if getattr(args, name))
    if given:
        what = kind if folder is None else f"--model {folder}, which is {kind},"
        raise ValueError(f"{given} cannot be used with {what} on --dataset {args.dataset}.")
    if folder is None or kind == STAGE_1:
        return folder, None, []
    localizer = folder / "localizer" if args.localizer is None else find_folder(args.localizer)
    if args.localizer is None and not localizer.is_dir():
        localizer = None
    elif get_kind(localizer) != STAGE_1:
        raise ValueError(f"{localizer} is {get_kind(localizer)}, expected stage 1, with 2 labels.")
    if args.dataset != "avss":
        if localizer is None:
            raise ValueError(
                f"{folder} is {kind} without localizer/, but --dataset {args.dataset} takes stage 1: give --localizer."
            )
        return localizer, None, []
    if kind == ONE_STAGE:
        return localizer, folder, [None]

    prompts = args.prompts or (["stage1", "oracle"] if args.robust else ["stage1"])
    if "stale" in prompts and (localizer is None or not args.counterfactuals or args.stage1_masks_dir is not None):
        raise ValueError(
            "--prompts stale is what a stage 1 that runs makes of the own sound while stage 2 hears another one: it"
            " needs a localizer, and --counterfactuals or --robust."
        )
    if "stage1" in prompts and localizer is None and args.stage1_masks_dir is None:
        raise ValueError(
            f"{folder} is stage 2 without localizer/: give --localizer or the masks of one (--stage1_masks_dir), or"
            " leave stage1 out of --prompts."
        )
    if args.stage1_masks_dir is not None and ("stage1" not in prompts or args.counterfactuals):
        raise ValueError(
            "--stage1_masks_dir is for --prompts stage1 with the clips' own sound: leave out it, or --counterfactuals"
            " and --robust."
        )
    return localizer, folder, prompts


@dataclass
class Stage:
    folder: Path
    model: PreTrainedModel
    processor: ProcessorMixin

    @classmethod
    def load(cls, folder: Path | None, accelerator: Accelerator) -> "Stage | None":
        if folder is None:
            return None
        model = AutoModelForAudioVisualSegmentation.from_pretrained(folder).to(accelerator.device).eval()
        return cls(folder, model, AutoProcessor.from_pretrained(folder, backend="pil"))


# Results -------------------------------------------------------------------------------------------------------------


def keep_label_maps(folder: Path, frames: list[Frame], label_maps: torch.Tensor) -> None:
    for frame, label_map in zip(frames, label_maps.numpy()):
        path = mask_path(folder, *frame)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(to_png(label_map)["bytes"])


@dataclass
class Evaluation:
    """What all parts of an evaluation need."""

    accelerator: Accelerator
    args: EvaluationArguments
    localizer: Stage | None
    model: Stage | None  # of stage 2, or of one stage
    clips: datasets.Dataset
    label_collator: LabelCollator  # by which all methods have the same truth
    sounds: dict[str, HeardClips] = field(default_factory=dict)  # own, and those that are asked for
    scores: dict[str, dict[str, FrameScores]] = field(default_factory=dict)  # by method and sound
    prompt_scores: dict[str, FrameScores] = field(default_factory=dict)  # of the prompts of stage 2, by method

    @property
    def output_dir(self) -> Path:
        return Path(self.args.output_dir)

    @property
    def localizes(self) -> bool:
        return self.args.dataset != "avss"

    @property
    def loading(self) -> dict[str, int]:
        return {
            "batch_size": self.args.per_device_eval_batch_size,
            "num_workers": self.args.dataloader_num_workers,
        }


def find_predictions(run: Evaluation) -> dict[str, dict[str, Path]]:
    """The folders of other systems' masks by method and sound; all of their masks have to be there."""
    names = run.args.predictions_dir or []
    folders = {Path(folder).resolve().name: Path(folder) for folder in names}
    if len(folders) < len(names):
        raise ValueError(f"--predictions_dir names methods after its folders: {list(folders)} come twice.")
    found = {name: {"own": folder} for name, folder in folders.items()}
    if run.args.robust:
        found = {name: {sound: folder / sound for sound in SOUNDS} for name, folder in folders.items()}
    for name, of_method in found.items():
        for sound, folder in of_method.items():
            if run.args.robust and not folder.is_dir():
                raise FileNotFoundError(
                    f"{folder} does not exist: with --robust a folder of masks has one for each sound,"
                    f" {', '.join(SOUNDS)}."
                )
            check_predictions(run, name if sound == "own" else f"{name}, {sound}", folder, run.sounds[sound].clips)
    return found


def check_predictions(run: Evaluation, name: str, folder: Path, clips: datasets.Dataset) -> None:
    """Opens the masks of another system, and says how many of them will be resized."""
    annotated = clips.select_columns(["subset", "video_id", "mask_frame_indices"])
    label_size = dict(run.label_collator.image_processor.label_size)
    sizes = count_predictions(folder, annotated, run.localizes)
    resized = sizes.total() - sizes[label_size["height"], label_size["width"]]
    if resized:
        how = "bilinearly" if run.localizes else "by nearest neighbor"
        run.accelerator.print(
            f"{name}: {resized} of {sizes.total()} masks are resized {how} to"
            f" {label_size['height']}x{label_size['width']}."
        )


def prepare_sounds(run: Evaluation) -> None:
    """The clips as they are heard: with their own sound, and with every other one that is asked for."""
    for sound in ("own", *run.args.counterfactuals):
        heard = change_sound(run.clips, sound, run.args.seed)
        if len(heard.clips) == 0:
            run.accelerator.print(f"{sound}: no rows, as no clip has other classes than another one of its subset.")
            continue
        if sound == "offscreen" and len(heard.clips) < len(run.clips):
            run.accelerator.print(
                f"{sound}: {len(run.clips) - len(heard.clips)} of {len(run.clips)} clips are left out, as no other"
                " clip of their subset has a sound of other classes."
            )
        run.sounds[sound] = heard


def make_collators(run: Evaluation, prompts: list[str | None]) -> dict[str | None, AVSCollator]:
    """By prompt what makes the batches of stage 2."""
    collators = {}
    for prompt in prompts:
        source = {"oracle": "truth", "stale": "stage1"}.get(prompt, prompt)
        if prompt in ("low", "high"):
            rows, image_processor = run.label_collator.prepare(run.clips), run.model.processor.image_processor
            source = calibrate_prompts(rows, image_processor, QUALITIES[prompt], run.args.seed)
        collators[prompt] = AVSCollator(
            run.model.processor, source, cache_dir=run.args.cache_audio_features, evaluation=True
        )
    return collators


def score_localizer(run: Evaluation, sound: str, heard: Dataset) -> Path:
    """Stage 1: which pixels sound? Returns the folder of its masks, which stays for the clips' own sound."""
    store = run.output_dir / "stage1_masks"
    scores = predict_masks(
        run.accelerator,
        run.localizer.model,
        run.localizer.processor,
        heard,
        store,
        cache_dir=run.args.cache_audio_features,
        sound_threshold=run.args.sound_threshold,
        **run.loading,
    )
    run.scores.setdefault(STAGE_1, {})[sound] = scores
    if sound != "own":
        return partial_folder(store)
    threshold = run.args.sound_threshold
    finish_store(run.accelerator, store, run.localizer.folder, run.clips, scores, sound_threshold=threshold)
    return store


def score_model(
    run: Evaluation, sound: str, heard: Dataset, prompt: str | None, collator: AVSCollator, masks_dir: Path | None
) -> None:
    """Stage 2, or one stage: and what are they?"""
    method = STAGE_2.get(prompt, ONE_STAGE)
    folder = run.output_dir / "predictions" / (prompt or "one_stage")
    options, keeps = {}, sound == "own" and run.args.save_predictions
    if sound == "own" and prompt is not None:
        run.prompt_scores[method] = options["prompt_scores"] = FrameScores(score_rule="probability")
    if keeps:
        options["on_predictions"] = partial(keep_label_maps, partial_folder(folder))
        if run.accelerator.is_main_process:
            begin_folder(folder)
        run.accelerator.wait_for_everyone()
    run.scores.setdefault(method, {})[sound] = evaluate(
        run.accelerator,
        WithMasks(heard, masks_dir) if prompt in ("stage1", "stale") else heard,
        collator,
        # The masks of stage 1 are empty already where no sound goes with what is seen.
        partial(
            segment,
            run.model.model,
            run.model.processor,
            sound_threshold=run.args.sound_threshold if prompt is None else None,
        ),
        FrameScores(len(CLASS_NAMES)),
        **run.loading,
        **options,
    )
    if keeps and run.accelerator.is_main_process:
        complete_folder(folder)


def list_donors(run: Evaluation) -> list[dict]:
    """Whose sound each clip was given off-screen, as rows of a csv file."""
    heard, video_ids = run.sounds["offscreen"], run.clips["video_id"]
    return [
        {"subset": subset, "video_id": video_id, "donor": video_ids[donor.index], "level": donor.level}
        for subset, video_id, donor in zip(heard.clips["subset"], heard.clips["video_id"], heard.donors, strict=True)
    ]


@torch.no_grad()
def mark_clip(run: Evaluation, clip: dict) -> dict[str, np.ndarray]:
    """By method what the models mark in the annotated frames of a clip, stage 2 with the masks of stage 1."""

    def make_inputs(stage: Stage, prompt: str | None = None) -> BatchFeature:
        inputs = AVSCollator(stage.processor, prompt, evaluation=True)([clip])
        del inputs["frames"], inputs["label_maps"]
        return inputs.to(run.accelerator.device)

    marks = {}
    if run.localizer is not None:
        inputs = make_inputs(run.localizer)
        scores = localize(run.localizer.model, run.localizer.processor, inputs, run.args.sound_threshold)
        marks[STAGE_1] = make_prompts(scores).bool().cpu().numpy()
        masks = 255 * marks[STAGE_1].astype(np.uint8)
        clip = clip | {"stage1_masks": dict(zip(clip["mask_frame_indices"], masks))}
    if run.model is not None:
        prompt = "stage1" if run.model.model.config.use_mask_prompt else None
        if prompt is None or STAGE_1 in marks:
            inputs = make_inputs(run.model, prompt)
            method = STAGE_2.get(prompt, ONE_STAGE)
            threshold = run.args.sound_threshold if prompt is None else None
            marks[method] = segment(run.model.model, run.model.processor, inputs, threshold).cpu().numpy()
    return marks


def draw_sounds(run: Evaluation) -> Image.Image:
    """
    The first clip of each subset that was heard with all sounds, and in it the frame where most classes sound: a row
    for each method.
    """
    places = {}
    for sound in SOUNDS:
        clips = run.sounds[sound].clips
        places[sound] = {name: index for index, name in enumerate(zip(clips["subset"], clips["video_id"]))}
    first_of_subset = {subset: (subset, video_id) for subset, video_id in sorted(places["offscreen"], reverse=True)}
    rows = []
    for name in sorted(first_of_subset.values()):
        clips = {sound: run.sounds[sound].rows[places[sound][name]] for sound in SOUNDS}
        truths = run.label_collator([clips["own"]])["label_maps"].numpy()
        index = choose_frames(truths)[0]
        frame = as_image(clips["own"]["frames"][clips["own"]["mask_frame_indices"][index]])
        marks = {sound: mark_clip(run, clips[sound]) for sound in SOUNDS}
        for method in marks["own"]:
            palette = BINARY_PALETTE if method == STAGE_1 else None
            maps = [truths[index] > 0 if method == STAGE_1 else truths[index]]
            maps += [marks[sound][method][index] for sound in SOUNDS]
            captions = ["" if method == STAGE_1 else describe(label_map) for label_map in maps]
            pictures = [overlay(frame, label_map, palette) for label_map in maps]
            rows.append([(frame, method.split(",")[0]), *zip(pictures, captions)])
    return draw_grid(("frame", "truth", *SOUNDS), rows)


def write_results(run: Evaluation) -> None:
    label_size = run.label_collator.image_processor.label_size
    run.output_dir.mkdir(parents=True, exist_ok=True)
    results = summarize_evaluation(run.scores, run.prompt_scores)
    if "offscreen" in run.sounds:
        write_csv(list_donors(run), run.output_dir / "offscreen.csv")
    if results["robustness"]:
        write_csv(list_robustness(results["robustness"]), run.output_dir / "robustness.csv")
    if results["robustness"] and (run.localizer is not None or ONE_STAGE in run.scores):
        with write_whole(run.output_dir / "robustness.png") as (partial_file,):
            draw_sounds(run).save(partial_file)
    tables = make_evaluation_tables(results)
    arguments = asdict(run.args) | {"label_size": label_size.height}
    shutil.rmtree(partial_folder(run.output_dir / "stage1_masks"), ignore_errors=True)
    write_text(run.output_dir / "table.md", tables + "\n")
    own = {method: by_sound["own"] for method, by_sound in run.scores.items()}
    write_text(run.output_dir / "per_class.csv", make_class_table(own))
    write_text(run.output_dir / "results.json", json.dumps({"arguments": arguments, **results}, indent=2) + "\n")
    if find_spec("matplotlib") is not None:  # the extra "viz"
        for method in results["semantics"]:
            picture = run.output_dir / f"per_class_{'_'.join(re.findall(r'[a-z0-9]+', method.lower()))}.png"
            plot_class_bars(run.output_dir / "per_class.csv", picture, method)
    print(f"\n{tables}\n\nResults: {run.output_dir}")


def check_sound_threshold(args: EvaluationArguments, localizer: Stage | None, model: Stage | None) -> None:
    if args.sound_threshold is None:
        return
    if not 0 <= args.sound_threshold <= 1:
        raise ValueError(f"--sound_threshold is {args.sound_threshold}, expected a probability.")
    gated = [localizer, None if model is None or model.model.config.use_mask_prompt else model]
    gated = [stage for stage in gated if stage is not None]
    if not gated or args.stage1_masks_dir is not None:
        raise ValueError(
            "--sound_threshold is for a stage 1 that runs, or one stage, and there is neither: leave it out."
        )
    for stage in gated:
        if not stage.model.has_pair_head:
            raise ValueError(
                f"--sound_threshold is for models that were trained with a pair loss, and {stage.folder} was not"
                " (config.pair_loss_weight is 0): leave it out."
            )


def start_evaluation(args: EvaluationArguments) -> tuple[Evaluation, list[str | None]]:
    """Refuses what can be known to be wrong before anything is computed; returns the prompts of stage 2 as well."""
    accelerator = Accelerator()
    datasets.disable_progress_bars()
    localizer_dir, model_dir, prompts = find_stages(args)
    with accelerator.main_process_first():
        clips = load_clips(args.data_dir, args.dataset, args.split, args.unknown_color)
    if args.stage1_masks_dir is not None:
        localizer_hash = None if localizer_dir is None else hash_model_folder(localizer_dir)
        check_store(args.stage1_masks_dir, clips, localizer_hash)
    localizer, model = Stage.load(localizer_dir, accelerator), Stage.load(model_dir, accelerator)
    for stage in (localizer, model):
        if args.counterfactuals and stage is not None and not stage.model.has_audio_encoder:
            raise ValueError(
                f"{stage.folder} takes embeddings of sounds, not sounds (config.audio_config is None): no other sound"
                " can be played to it. Leave out --counterfactuals and --robust."
            )
    check_sound_threshold(args, localizer, model)
    # Label maps are those of the model at hand: released programs resize masks in ways of their own.
    image_processor_class, size = AudioVisualImageProcessorPil, args.label_size or 224
    label_size = {"height": size, "width": size}
    if args.model is not None:
        own = (model or localizer).processor.image_processor
        image_processor_class, label_size = type(own), dict(own.label_size)
    image_processor = image_processor_class(localization=args.dataset != "avss", label_size=label_size)
    return Evaluation(accelerator, args, localizer, model, clips, LabelCollator(image_processor)), prompts


def run_evaluation(args: EvaluationArguments) -> Evaluation:
    """Scores all methods, with all sounds."""
    run, prompts = start_evaluation(args)
    prepare_sounds(run)
    folders = find_predictions(run)
    collators = make_collators(run, prompts)

    image_processor = run.label_collator.image_processor
    for name, of_method in folders.items():
        run.scores[name] = {
            sound: score_predictions(run.accelerator, run.sounds[sound].clips, image_processor, folder, **run.loading)
            for sound, folder in of_method.items()
        }
    for sound, heard in run.sounds.items():
        masks_dir = args.stage1_masks_dir
        if run.localizer is not None and masks_dir is None:
            masks_dir = score_localizer(run, sound, heard.rows)
        for prompt, collator in collators.items():
            # Those of the own sound, which comes first, are there.
            of_prompt = run.output_dir / "stage1_masks" if prompt == "stale" else masks_dir
            score_model(run, sound, heard.rows, prompt, collator, of_prompt)
    return run


def main(argv: Sequence[str] | None = None) -> None:
    (args,) = HfArgumentParser(EvaluationArguments, description=__doc__).parse_args_into_dataclasses(argv)
    run = run_evaluation(args)
    if run.accelerator.is_main_process:
        write_results(run)
    run.accelerator.end_training()


if __name__ == "__main__":
    main()
