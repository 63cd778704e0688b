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
Trains Stepping Stones (Ma et al., ECCV 2024): stage 1, the localizer, learns which pixels sound; stage 2, prompted
with true masks in training and with the masks of the localizer in evaluation, learns what they are (section 3.2).

    accelerate launch examples/train_stepping_stones.py [--config examples/configs/avss.yaml]

A recipe (`--config`) says which models, of which kinds and sizes, and how they train; by default configs/mini.yaml, a
tiny AAVS from random weights. Without `--data_dir` it makes mini-AVSBench. Whatever ends it, the same command with
`--resume_from_checkpoint latest` resumes, to the same weights. In the folder of the run are

    run.json                    the arguments
    stage_1/, stage_2/          log.csv; best_<epoch>/, checkpoints/ while the stage trains; model/ once it is complete
    masks/<split>/              the masks of the localizer, with a manifest
    model/                      the two-stage repository: stage 2, stage 1 in localizer/, and a model card
    all_results.json            scores of the test split, by both protocols
    curves.png, grid.png
"""

import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from huggingface_hub import HfApi
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import (
    AutoProcessor,
    HfArgumentParser,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
    SchedulerType,
)

from stepping_stones_hf import AutoModelForAudioVisualSegmentation
from stepping_stones_hf.data import AVSCollator
from stepping_stones_hf.data.augmentation import Augmentation
from stepping_stones_hf.data.mini import find_mini_avsbench
from stepping_stones_hf.files import write_text
from stepping_stones_hf.models.modeling_base import is_localizer
from stepping_stones_hf.training.activation_checkpointing import checkpoint_activations
from stepping_stones_hf.training.arguments import parse_arguments as parse_with_recipe
from stepping_stones_hf.training.batches import StepBatches, derive_seed
from stepping_stones_hf.training.checkpoints import (
    Progress,
    StopRequest,
    begin_run,
    best_folder,
    check_space,
    find_checkpoint,
    load_checkpoint,
    lock_run,
    save_checkpoint,
    save_model,
)
from stepping_stones_hf.training.clips import SingleFrames, WithMasks, WithSilence, is_silent, load_clips
from stepping_stones_hf.training.degrade import DegradedPrompts
from stepping_stones_hf.training.evaluation import FrameScores, evaluate, localize, segment
from stepping_stones_hf.training.initialization import (
    check_names,
    load_model,
    load_pretrained_parts,
    make_config,
    make_new_model,
    make_new_processor,
    parse_block,
)
from stepping_stones_hf.training.localizer import check_localizer, finish_store, predict_masks
from stepping_stones_hf.training.log import Log
from stepping_stones_hf.training.mask_store import check_store, hash_model_folder
from stepping_stones_hf.training.negatives import NEGATIVE_PROMPTS, Negatives
from stepping_stones_hf.training.report import (
    draw_examples,
    make_table,
    summarize_localization,
    summarize_semantics,
    write_repository,
)
from stepping_stones_hf.training.schedules import make_scheduler
from stepping_stones_hf.training.sounds import NEGATIVES
from stepping_stones_hf.training.stages import set_trainable
from stepping_stones_hf.visualization import plot_curves


@dataclass
class DataArguments:
    data_dir: str | None = field(
        default=None,
        metadata={"help": "Copy of AVSBench, or its export to Parquet. By default mini-AVSBench is made."},
    )
    statistics: str | None = field(
        default=None,
        metadata={
            "help": "Of the mini-AVSBench that is made: what sounds is independent of what can be seen (the default),"
            " or related to it as in AVSBench.",
            "choices": ["independent", "avsbench"],
        },
    )
    stage_1_dataset: str = field(
        default="avss",
        metadata={"help": "What stage 1 trains on: s4, ms3 or all of it.", "choices": ["s4", "ms3", "avss"]},
    )
    unknown_color: str = field(
        default="error",
        metadata={
            "help": "Colors off the palette: error, or background as in the released program.",
            "choices": ["error", "background"],
        },
    )
    first_frame: str = field(
        default="once",
        metadata={
            "help": "S4's annotated frames: once, or repeat them with each second of sound.",
            "choices": ["once", "repeat"],
        },
    )
    split_clips: bool = field(
        default=True, metadata={"help": "Shuffle annotated frames rather than clips; a batch then counts frames."}
    )
    augmentation: str | None = field(
        default=None, metadata={"help": "Block: what is random in training clips: flip, scale, crop, color."}
    )
    audio: str = field(
        default="own",
        metadata={"help": "own, or silence: a control that hears nothing.", "choices": ["own", "silence"]},
    )
    negatives: float | None = field(
        default=None,
        metadata={"help": "Chance that a training clip hears, in an epoch, what nothing in it makes; 0.1 is usual."},
    )
    negative_kinds: list[str] | None = field(
        default=None,
        metadata={"help": "What it hears then, in equal shares. Default: offscreen silence.", "choices": [*NEGATIVES]},
    )
    negative_prompts: list[str] | None = field(
        default=None,
        metadata={
            "help": "What prompts it in stage 2, in equal shares: empty masks, or visual, those of its own sound."
            " Default: both.",
            "choices": [*NEGATIVE_PROMPTS],
        },
    )
    cache_audio_features: str | None = field(
        default=None, metadata={"help": "Folder that keeps log-mel patches. Default: in the run's folder."}
    )
    train_prompts: str = field(
        default="truth",
        metadata={
            "help": "Prompts of stage 2 in training: true masks as in the paper, degraded ones, those of stage 1, or"
            " none, which makes it a one-stage model.",
            "choices": ["truth", "degraded", "stage1", "none"],
        },
    )
    degraded_level: float = field(
        default=0.5, metadata={"help": "Highest level of the degraded masks; 0.1 to 0.5 are usual localizers."}
    )
    soft_masks: bool = field(default=False, metadata={"help": "Store the scores of stage 1 rather than 0 and 1."})
    dataloader_num_workers: int = field(default=1, metadata={"help": "Processes that read clips; 0 for none."})


@dataclass
class ModelSettings:
    model: str | None = field(
        default=None, metadata={"help": "Block of a recipe: model_type and fields of the config of a new model."}
    )
    stage_1_model: str | None = field(
        default=None,
        metadata={"help": "Block: what is different in stage 1; with a model_type, in place of the block model."},
    )
    stage_2_model: str | None = field(default=None, metadata={"help": "As stage_1_model, for stage 2."})
    image_processor: str | None = field(
        default=None, metadata={"help": "Block: fields of the image processor of a new model."}
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Height and width of a new model's frames and label maps."}
    )
    config_overrides: str | None = field(
        default=None, metadata={"help": "Fields of the config, as in mask_prompt_keys=false,num_queries=20."}
    )
    pair_loss_weight: float | None = field(
        default=None,
        metadata={
            "help": "Weight of the loss by which a model learns whether a sound goes with what is seen, for both"
            " stages; 1 is usual. Default: that of the config, 0."
        },
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Two-stage repository to start from, in place of new models."}
    )
    backbone_name_or_path: str | None = field(
        default=None, metadata={"help": "Pretrained weights to start a new model from; which, says the model's page."}
    )
    mask2former_name_or_path: str | None = field(
        default=None, metadata={"help": "The same for AAVS, which starts from a stock Mask2Former."}
    )
    vggish_checkpoint: str | None = field(default=None, metadata={"help": "torchvggish's checkpoint."})

    def get_block(self, localizes: bool) -> dict:
        """`model_type` and fields of the config of a stage."""
        own = parse_block(self.stage_1_model if localizes else self.stage_2_model)
        block = own if "model_type" in own else parse_block(self.model) | own
        return block if self.pair_loss_weight is None else block | {"pair_loss_weight": self.pair_loss_weight}


@dataclass
class RunArguments:
    output_dir: str = field(default="runs/mini", metadata={"help": "Folder of the run."})
    stage: str = field(default="all", metadata={"help": "Which stage trains.", "choices": ["1", "2", "all"]})
    localizer: str | None = field(
        default=None,
        metadata={"help": "Folder of a localizer for a run of stage 2 alone; without it, only true masks prompt it."},
    )
    seed: int = field(default=3407, metadata={"help": "Seed of data order, initial weights and random points."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Clips (or frames) per process and pass."})
    per_device_eval_batch_size: int = field(default=2, metadata={"help": "Clips per process and pass."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Passes before an optimizer step."})
    mixed_precision: str | None = field(
        default=None, metadata={"help": "bf16 or fp16. Default: accelerate's setting."}
    )
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Trade time for memory."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of AdamW, on all that trains."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rate in each phase."})
    num_warmup_steps: int = field(default=100, metadata={"help": "Optimizer steps of linear warm-up."})
    num_backbone_warmup_steps: int | None = field(
        default=None,
        metadata={"help": "Those of a pretrained backbone, which begin after the others. With polynomial."},
    )
    polynomial_power: float | None = field(
        default=None, metadata={"help": "Power of the schedule polynomial, which then falls to 0."}
    )
    checkpointing_steps: str = field(default="epoch", metadata={"help": "A checkpoint every so many steps, or epoch."})
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "latest resumes the run in output_dir, if there is one.", "choices": ["latest"]},
    )
    report_to: str | None = field(default=None, metadata={"help": "Tracker of accelerate: tensorboard, trackio, ..."})
    push_to_hub: bool = field(default=False, metadata={"help": "Upload the two-stage repository."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Its name on the Hub."})

    stage_1_epochs: int = field(default=3, metadata={"help": "Epochs."})
    stage_1_max_steps: int | None = field(default=None, metadata={"help": "Optimizer steps, in place of epochs."})
    stage_1_learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    stage_1_max_grad_norm: float | None = field(default=1.0, metadata={"help": "Largest norm of all gradients."})
    stage_1_parameters: list[str] | None = field(
        default=None, metadata={"help": "Regular expressions for the names of what trains. Default: everything."}
    )
    stage_1_phase_2_epoch: int | None = field(
        default=None,
        metadata={"help": "Where phase 2 starts, for models that train in two; what changes, says the model's page."},
    )
    stage_1_phase_2_learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of phase 2."})
    stage_2_epochs: int = field(default=2, metadata={"help": "As in stage 1."})
    stage_2_max_steps: int | None = field(default=None, metadata={"help": "As in stage 1."})
    stage_2_learning_rate: float = field(default=1e-3, metadata={"help": "As in stage 1."})
    stage_2_max_grad_norm: float | None = field(default=1.0, metadata={"help": "As in stage 1."})
    stage_2_parameters: list[str] | None = field(default=None, metadata={"help": "As in stage 1."})
    stage_2_phase_2_epoch: int | None = field(default=None, metadata={"help": "As in stage 1."})
    stage_2_phase_2_learning_rate: float = field(default=1e-4, metadata={"help": "As in stage 1."})


# Arguments that may change when a run is resumed.
FREE_ARGUMENTS = (
    "resume_from_checkpoint",
    "checkpointing_steps",
    "per_device_eval_batch_size",
    "dataloader_num_workers",
    "cache_audio_features",
    "report_to",
    "push_to_hub",
    "hub_model_id",
)
# Those that had other names in the release before this one.
NEW_NAMES = {
    "sound": "audio",
    "stage_1_switch_epoch": "stage_1_phase_2_epoch",
    "stage_1_switch_learning_rate": "stage_1_phase_2_learning_rate",
    "stage_2_switch_epoch": "stage_2_phase_2_epoch",
    "stage_2_switch_learning_rate": "stage_2_phase_2_learning_rate",
}
DEFAULT_RECIPE = Path(__file__).parent / "configs" / "mini.yaml"


def parse_arguments(argv: list[str]) -> tuple[DataArguments, ModelSettings, RunArguments]:
    parser = HfArgumentParser((DataArguments, ModelSettings, RunArguments), description=__doc__)
    return parse_with_recipe(parser, argv, DEFAULT_RECIPE, NEW_NAMES)


def get_arguments(*groups: DataArguments | ModelSettings | RunArguments) -> dict:
    return {name: value for group in groups for name, value in asdict(group).items()}


def check_schedule(name: str) -> None:
    """Refuses schedules that take more than steps, such as a metric: which they are is for transformers to say."""
    SchedulerType(name)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    try:
        scheduler = make_scheduler(name, optimizer, num_warmup_steps=0, num_training_steps=1)
        optimizer.step()
        scheduler.step()
    except (TypeError, ValueError) as error:
        raise ValueError(f"--lr_scheduler_type {name} needs what this script does not give it: {error}.") from error


def check_arguments(data_args: DataArguments, model_args: ModelSettings, args: RunArguments) -> None:
    """Refuses what would otherwise stop a run after its first step, or be ignored."""
    check_schedule(args.lr_scheduler_type)
    values = get_arguments(data_args, model_args, args)
    for name in (
        "image_size",
        "per_device_train_batch_size",
        "per_device_eval_batch_size",
        "gradient_accumulation_steps",
        *(f"stage_{stage}_{name}" for stage in (1, 2) for name in ("epochs", "max_steps")),
    ):
        if values[name] is not None and values[name] < 1:
            raise ValueError(f"--{name} is {values[name]}, expected at least 1.")
    for name in ("weight_decay", "num_warmup_steps", "num_backbone_warmup_steps", "dataloader_num_workers"):
        if values[name] is not None and not 0 <= values[name] < math.inf:
            raise ValueError(f"--{name} is {values[name]}, expected at least 0.")
    of_stages = ("learning_rate", "phase_2_learning_rate", "max_grad_norm")
    for name in ("polynomial_power", *(f"stage_{stage}_{name}" for stage in (1, 2) for name in of_stages)):
        if values[name] is not None and not 0 < values[name] < math.inf:
            raise ValueError(f"--{name} is {values[name]}, expected a number above 0.")
    if not 0 <= args.seed < 2**32:
        raise ValueError(f"--seed is {args.seed}, expected 0 to {2**32 - 1}.")
    for name in ("num_backbone_warmup_steps", "polynomial_power"):
        if getattr(args, name) is not None and args.lr_scheduler_type != "polynomial":
            raise ValueError(f"--{name} goes with --lr_scheduler_type polynomial, got {args.lr_scheduler_type}.")
    if not 0 <= data_args.degraded_level <= 1:
        raise ValueError(f"--degraded_level is {data_args.degraded_level}, expected 0 to 1.")
    check_negatives(data_args, args)
    if model_args.pair_loss_weight is not None and not 0 <= model_args.pair_loss_weight < math.inf:
        raise ValueError(f"--pair_loss_weight is {model_args.pair_loss_weight}, expected at least 0.")
    if args.localizer is not None and args.stage != "2":
        raise ValueError(f"--localizer is for --stage 2: --stage {args.stage} trains a localizer.")
    if args.stage == "2" and args.localizer is None and data_args.train_prompts == "stage1":
        raise ValueError(
            "--train_prompts stage1 needs a localizer: give its folder as --localizer, or train --stage all."
        )
    if args.checkpointing_steps != "epoch" and not (
        args.checkpointing_steps.isdecimal() and int(args.checkpointing_steps) > 0
    ):
        raise ValueError(f"--checkpointing_steps is {args.checkpointing_steps!r}, expected epoch or a number from 1.")


def check_negatives(data_args: DataArguments, args: RunArguments) -> None:
    if data_args.negatives is not None and not 0 <= data_args.negatives < 1:
        raise ValueError(f"--negatives is {data_args.negatives}, expected a chance from 0 to below 1.")
    for name in ("negative_kinds", "negative_prompts"):
        if getattr(data_args, name) is not None and not data_args.negatives:
            raise ValueError(f"--{name} goes with --negatives, as in --negatives 0.1: there are none without.")
    if data_args.negatives and data_args.audio == "silence":
        raise ValueError("--negatives are heard, and --audio silence is a control that hears nothing: leave out one.")
    if data_args.negative_prompts is not None and (args.stage == "1" or data_args.train_prompts == "none"):
        raise ValueError(
            "--negative_prompts is for a stage 2 that is prompted with masks, and none trains: leave it out."
        )


@dataclass
class Run:
    """What all parts of a run need."""

    accelerator: Accelerator
    data_args: DataArguments
    model_args: ModelSettings
    args: RunArguments
    localizer_clips: datasets.DatasetDict | None = None  # what stage 1 trains on
    clips: datasets.DatasetDict | None = None  # all that is trained or scored otherwise
    negatives: dict[int, Negatives] = field(default_factory=dict)  # by stage

    @property
    def output_dir(self) -> Path:
        return Path(self.args.output_dir)

    @property
    def prompted(self) -> bool:
        return self.data_args.train_prompts != "none"


# Models --------------------------------------------------------------------------------------------------------------


def make_model(
    args: ModelSettings, localizes: bool, prompted: bool, seed: int
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model that a stage begins with, and its processor."""
    backbone = args.mask2former_name_or_path or args.backbone_name_or_path
    if args.model_name_or_path is not None:
        if args.config_overrides is not None or backbone is not None:
            raise ValueError(
                "--model_name_or_path has its config and its weights: --config_overrides, --backbone_name_or_path and"
                " --mask2former_name_or_path do not go with it."
            )
        return load_model(args.model_name_or_path, localizes, prompted, seed, args.pair_loss_weight)
    model = make_new_model(args.get_block(localizes), localizes, prompted, seed, args.config_overrides)
    load_pretrained_parts(model, backbone, args.vggish_checkpoint)
    processor = make_new_processor(model.config, localizes, parse_block(args.image_processor), args.image_size)
    return model, processor


# Data ----------------------------------------------------------------------------------------------------------------


def load_data(run: Run) -> None:
    """Data that are not there are made, by the main process first: the others find its cache."""
    data_args = run.data_args
    datasets.disable_progress_bars()
    data_args.cache_audio_features = data_args.cache_audio_features or str(run.output_dir / "audio-features")
    with run.accelerator.main_process_first():
        if data_args.data_dir is None:
            data_args.data_dir = str(find_mini_avsbench(run.output_dir, data_args.statistics or "independent"))
        load = partial(load_clips, data_args.data_dir, unknown_color=data_args.unknown_color)
        run.localizer_clips = load(data_args.stage_1_dataset)
        run.clips = load("avss") if run.args.stage != "1" else run.localizer_clips
    missing = {"train", "validation", "test"} - (set(run.localizer_clips) & set(run.clips))
    if missing:
        raise ValueError(f"{data_args.data_dir} has no clips for {', '.join(sorted(missing))}.")


def make_collator(
    run: Run,
    processor: ProcessorMixin,
    prompt=None,
    evaluation: bool = False,
    negatives: Negatives | None = None,
) -> AVSCollator:
    first_frame, transform = "once" if evaluation else run.data_args.first_frame, None
    if run.data_args.augmentation is not None and not evaluation:
        size, block = processor.image_processor.size, parse_block(run.data_args.augmentation)
        check_names("The block augmentation", block, Augmentation.__dataclass_fields__.keys() - {"size", "seed"})
        transform = Augmentation((size.height, size.width), **block)
    cache_dir = run.data_args.cache_audio_features
    return AVSCollator(processor, prompt, first_frame, cache_dir, evaluation, transform, negatives)


def prepare(run: Run, clips: datasets.Dataset, collator: AVSCollator, store: Path | None = None) -> Dataset:
    """Rows for a collator, with the sound that is asked for and with the masks of a store."""
    rows = collator.prepare(clips)
    rows = rows if run.data_args.audio == "own" else WithSilence(rows)
    return rows if store is None else WithMasks(rows, store)


def get_training_clips(run: Run, stage: int) -> datasets.Dataset:
    if stage == 2:
        return run.clips["train"]
    # The released program makes no update for a clip of MS3 in which nothing sounds.
    clips = run.localizer_clips["train"]
    rows, subsets = AVSCollator.prepare(clips), enumerate(clips["subset"])
    return clips.select([row for row, subset in subsets if subset != "v1m" or not is_silent(rows[row])])


def prepare_negatives(run: Run) -> None:
    """Before anything trains: it takes all sounds and masks of the training clips to know who may hear whom."""
    data_args = run.data_args
    if not data_args.negatives:
        return
    kinds, prompts = data_args.negative_kinds or ["offscreen", "silence"], data_args.negative_prompts
    for stage in {"1": [1], "2": [2], "all": [1, 2]}[run.args.stage]:
        if (run.output_dir / f"stage_{stage}" / "model").exists():
            continue
        clips = get_training_clips(run, stage)
        run.negatives[stage] = Negatives(clips, data_args.negatives, kinds, prompts or NEGATIVE_PROMPTS, run.args.seed)


def make_batches(run: Run, stage: int, collator: AVSCollator, store: Path | None = None) -> StepBatches:
    rows = prepare(run, get_training_clips(run, stage), collator, store)
    return StepBatches(
        run.accelerator,
        SingleFrames(rows) if run.data_args.split_clips else rows,
        collator,
        run.args.seed,
        run.args.per_device_train_batch_size,
        run.args.gradient_accumulation_steps,
        run.data_args.dataloader_num_workers,
    )


# Training ------------------------------------------------------------------------------------------------------------


def compute_gradients(
    accelerator: Accelerator, model, batches: tuple[dict, ...], stop: StopRequest
) -> tuple[float, int, bool]:
    """
    Gradients of one optimizer step, normalized over all its frames: as if one process had them in one batch.
    Returns the loss, the number of frames and whether any process is to stop.
    """
    normalizers = sum(accelerator.unwrap_model(model).get_loss_normalizers(batch) for batch in batches)
    num_frames = sum(len(batch["pixel_values"]) for batch in batches)
    shared = torch.cat([normalizers, torch.tensor([num_frames, stop.number is not None], device=normalizers.device)])
    *normalizers, num_frames, stopped = accelerator.reduce(shared, "sum").unbind()
    total = torch.zeros((), device=accelerator.device)
    for index, batch in enumerate(batches):
        # Processes exchange gradients once a step.
        with accelerator.no_sync(model) if index < len(batches) - 1 else nullcontext():
            loss = model(**batch, num_items_in_batch=torch.stack(normalizers)).loss
            # Gradients are averaged over the processes.
            accelerator.backward(loss * accelerator.num_processes)
        total += loss.detach()
    return accelerator.reduce(total, "sum").item(), int(num_frames), bool(stopped)


@dataclass
class Recipe:
    """How one stage trains: the arguments without their prefix."""

    epochs: int
    max_steps: int | None
    learning_rate: float
    max_grad_norm: float | None
    parameters: list[str] | None
    phase_2_epoch: int | None
    phase_2_learning_rate: float

    @classmethod
    def of_stage(cls, args: RunArguments, stage: int) -> "Recipe":
        return cls(**{item.name: getattr(args, f"stage_{stage}_{item.name}") for item in fields(cls)})

    def get_max_steps(self, steps_per_epoch: int) -> int:
        return self.epochs * steps_per_epoch if self.max_steps is None else self.max_steps


def check_phases(args: RunArguments, stage: int, steps_per_epoch: int) -> None:
    recipe = Recipe.of_stage(args, stage)
    last_epoch = math.ceil(recipe.get_max_steps(steps_per_epoch) / steps_per_epoch)
    if recipe.phase_2_epoch is not None and not 0 < recipe.phase_2_epoch < last_epoch:
        raise ValueError(
            f"--stage_{stage}_phase_2_epoch is {recipe.phase_2_epoch}, expected one from 1 to {last_epoch - 1}: the"
            f" stage has {last_epoch} epochs of {steps_per_epoch} steps."
        )


def make_optimizer(
    accelerator: Accelerator, args: RunArguments, model: PreTrainedModel, learning_rate: float, num_steps: int
) -> tuple[Optimizer, LRScheduler]:
    """What a phase of so many steps trains with."""
    groups = model.get_parameter_groups(learning_rate, accelerator.num_processes * args.gradient_accumulation_steps)
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, weight_decay=args.weight_decay, fused=True)
    steps = [args.num_warmup_steps, num_steps, args.num_backbone_warmup_steps]
    # A prepared scheduler makes a step for each process.
    steps = [count and count * accelerator.num_processes for count in steps]
    return optimizer, make_scheduler(args.lr_scheduler_type, optimizer, *steps, args.polynomial_power)


def train(
    accelerator: Accelerator,
    args: RunArguments,
    stage: int,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    batches: StepBatches,
    get_score: Callable[[PreTrainedModel], float],
    stop: StopRequest,
) -> None:
    """Trains a stage and leaves the model of its best epoch, by the validation split, in `stage_<number>/model`."""
    folder = Path(args.output_dir, f"stage_{stage}")
    recipe = Recipe.of_stage(args, stage)
    max_steps = recipe.get_max_steps(len(batches))
    last_epoch = math.ceil(max_steps / len(batches))
    check_phases(args, stage, len(batches))
    phases = [(0, last_epoch)]
    if recipe.phase_2_epoch is not None:
        phases = [(0, recipe.phase_2_epoch), (recipe.phase_2_epoch, last_epoch)]

    progress, checkpoint = find_checkpoint(folder)
    if checkpoint is None:
        check_space(folder.parent, model)
    folder.mkdir(parents=True, exist_ok=True)
    log = Log(accelerator, folder, progress)
    seconds_of_steps = 0.0
    bar = tqdm(
        total=max_steps,
        initial=progress.total_steps,
        desc=f"stage {stage}",
        disable=not accelerator.is_main_process,
    )
    for phase, (first_epoch, end_epoch) in enumerate(phases, start=1):
        if progress.epoch >= end_epoch:
            continue
        resumes = (progress.epoch, progress.step) > (first_epoch, 0)
        learning_rate, patterns = recipe.learning_rate, recipe.parameters
        if phase == 2:
            model = type(model).from_pretrained(best_folder(folder, progress))
            torch.manual_seed(args.seed)
            learning_rate = recipe.phase_2_learning_rate
        more_patterns = model.start_training_phase(phase) if len(phases) == 2 else []
        if args.gradient_checkpointing:
            checkpoint_activations(model)
        model.train()
        if patterns is not None:
            pair_patterns = [r"^pair_head\."] if model.has_pair_head else []
            set_trainable(model, [*patterns, *more_patterns, *pair_patterns])
        if model.config.freeze_audio_encoder:
            model.freeze_audio_encoder()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        phase_steps = min(end_epoch * len(batches), max_steps) - first_epoch * len(batches)
        optimizer, scheduler = make_optimizer(accelerator, args, model, learning_rate, phase_steps)
        prepared, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
        if resumes:
            load_checkpoint(accelerator, checkpoint)

        for epoch in range(progress.epoch, end_epoch):
            prepared.train()
            if isinstance(batches.collator.prompt, DegradedPrompts):
                batches.collator.prompt.seed = derive_seed(args.seed, epoch)
            if batches.collator.negatives is not None:
                batches.collator.negatives.epoch = epoch
            if batches.collator.transform is not None:
                batches.collator.transform.seed = derive_seed(args.seed, stage, epoch)
            end_step = min(len(batches), max_steps - epoch * len(batches))
            start = time.perf_counter()
            for step_batches in batches.epoch(epoch, progress.step, end_step):
                # What is random in a step follows from its number, so that a run that is resumed draws the same.
                torch.manual_seed(derive_seed(args.seed, stage, progress.total_steps, accelerator.process_index))
                model.update_training_progress(progress.total_steps, max_steps)
                loss, num_frames, stopped = compute_gradients(accelerator, prepared, step_batches, stop)
                if not math.isfinite(loss):
                    names = ", ".join(batches.names(epoch, progress.step))
                    raise FloatingPointError(
                        f"The loss of stage {stage}, step {progress.total_steps} is {loss}: {names}"
                    )
                if recipe.max_grad_norm is not None:
                    accelerator.clip_grad_norm_(parameters, recipe.max_grad_norm)
                learning_rate = scheduler.get_last_lr()[0]
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                progress.step += 1
                progress.total_steps += 1
                log.write(progress.total_steps, epoch=epoch, loss=round(loss, 6), learning_rate=learning_rate)
                bar.update()
                frames_per_second = num_frames * bar.format_dict["rate"] if bar.format_dict["rate"] else 0
                bar.set_postfix(loss=f"{loss:.3f}", lr=f"{learning_rate:.1e}", frames_s=f"{frames_per_second:.0f}")
                due = args.checkpointing_steps != "epoch" and progress.total_steps % int(args.checkpointing_steps) == 0
                if due or stopped:
                    save_checkpoint(accelerator, progress, folder)
                if stopped:
                    stop.leave(stage, progress)

            seconds_of_steps += time.perf_counter() - start

            score = get_score(accelerator.unwrap_model(prepared).eval())
            log.write(progress.total_steps, epoch=epoch, score=score)
            if score > progress.best_score:
                progress.best_score, progress.best_epoch = score, epoch
                save_model(accelerator, prepared, processor, best_folder(folder, progress))
            progress.epoch, progress.step = epoch + 1, 0
            save_checkpoint(accelerator, progress, folder)
            if accelerator.is_main_process:
                for other in set(folder.glob("best_*")) - {best_folder(folder, progress)}:
                    shutil.rmtree(other)
            if stop.is_set(accelerator):
                stop.leave(stage, progress)
        accelerator.free_memory()

    bar.close()
    if seconds_of_steps > 0:
        report_waiting(accelerator, log, stage, progress, batches.seconds_waited, seconds_of_steps)
    if accelerator.is_main_process:
        best_folder(folder, progress).rename(folder / "model")
        shutil.rmtree(folder / "checkpoints")
    accelerator.wait_for_everyone()


def report_waiting(
    accelerator: Accelerator, log: Log, stage: int, progress: Progress, waited: float, seconds: float
) -> None:
    """Says for which share of the time of its steps a stage, since it was last resumed, has waited for data."""
    log.track(progress.total_steps, waiting_for_data=waited / seconds)
    if accelerator.is_main_process:
        share = f"{waited / seconds:.1%} of the time of its steps, {waited:.1f} of {seconds:.1f} s"
        print(f"Stage {stage} waited for data for {share}.")


def check_clip_length(run: Run, config: PreTrainedConfig) -> None:
    if run.data_args.split_clips and config.clip_length is not None:
        raise ValueError(
            f"--split_clips true is for models that look at single frames, and {config.model_type} looks at"
            f" {config.clip_length} together: give --split_clips false."
        )


def check_sounds(run: Run, model: PreTrainedModel) -> None:
    if run.data_args.negatives and not model.has_audio_encoder:
        raise ValueError(
            f"--negatives plays other sounds, and {model.config.model_type} takes embeddings of sounds"
            " (config.audio_config is None): give the model an audio encoder, or leave --negatives out."
        )


def check_stage_2(run: Run) -> None:
    """Tells before stage 1 trains what cannot work in stage 2."""
    if run.model_args.model_name_or_path is not None:
        return
    with torch.device("meta"):
        config = make_config(run.model_args.get_block(localizes=False), localizes=False, prompted=run.prompted)
        model = AutoModelForAudioVisualSegmentation.from_config(config)
    check_clip_length(run, config)
    check_sounds(run, model)
    processor = make_new_processor(config, localizes=False, image_processor={})
    check_phases(run.args, 2, len(make_batches(run, 2, make_collator(run, processor))))
    if run.args.stage_2_parameters is not None:
        set_trainable(model, run.args.stage_2_parameters)


def train_localizer(run: Run) -> Path:
    """Stage 1: which pixels sound?"""
    folder = run.output_dir / "stage_1" / "model"
    if not folder.exists():
        model, processor = make_model(run.model_args, localizes=True, prompted=False, seed=run.args.seed)
        check_clip_length(run, model.config)
        check_sounds(run, model)
        batches = make_batches(run, 1, make_collator(run, processor, negatives=run.negatives.get(1)))

        def get_score(model: PreTrainedModel) -> float:
            subsets = summarize_localization(get_scores(run, model, processor, run.localizer_clips["validation"]))
            return sum(subset["miou"] for subset in subsets.values()) / len(subsets)

        with StopRequest() as stop:
            train(run.accelerator, run.args, 1, model, processor, batches, get_score, stop)
    return folder


def train_segmenter(run: Run, stores: dict[str, Path]) -> Path:
    """Stage 2, or one stage: and what are they?"""
    folder = run.output_dir / "stage_2" / "model"
    if not folder.exists():
        model, processor = make_model(run.model_args, localizes=False, prompted=run.prompted, seed=run.args.seed)
        check_clip_length(run, model.config)
        check_sounds(run, model)
        kind = run.data_args.train_prompts
        prompts = {"none": None, "degraded": DegradedPrompts(run.data_args.degraded_level, run.args.seed)}
        collator = make_collator(run, processor, prompts.get(kind, kind), negatives=run.negatives.get(2))
        batches = make_batches(run, 2, collator, stores.get("train"))

        def get_score(model: PreTrainedModel) -> float:
            scores = get_scores(run, model, processor, run.clips["validation"], stores.get("validation"))
            return scores.results()["miou"]

        with StopRequest() as stop:
            train(run.accelerator, run.args, 2, model, processor, batches, get_score, stop)
    return folder


# Evaluation and results ----------------------------------------------------------------------------------------------


def get_scores(
    run: Run,
    model: PreTrainedModel,
    processor: ProcessorMixin,
    clips: datasets.Dataset,
    store: Path | None = None,
) -> FrameScores:
    """Scores of a model of either stage; a mask-prompted one gets the masks of a store, or true ones."""
    prompt = None
    if model.config.use_mask_prompt:
        prompt = "truth" if store is None else "stage1"
    collator = make_collator(run, processor, prompt, evaluation=True)
    localizes = is_localizer(model.config)
    return evaluate(
        run.accelerator,
        prepare(run, clips, collator, store if prompt == "stage1" else None),
        collator,
        partial(localize if localizes else segment, model.to(run.accelerator.device).eval(), processor),
        FrameScores(None if localizes else model.config.num_labels, processor.image_processor.score_rule),
        run.args.per_device_eval_batch_size,
        run.data_args.dataloader_num_workers,
    )


def store_masks(run: Run, localizer_dir: Path, split: str) -> tuple[Path, dict]:
    """Predicts the masks of a split, unless its store is there already; returns the store and its scores."""
    store, clips = run.output_dir / "masks" / split, run.clips[split]
    if not store.exists():
        processor = AutoProcessor.from_pretrained(localizer_dir, backend="pil")
        scores = predict_masks(
            run.accelerator,
            AutoModelForAudioVisualSegmentation.from_pretrained(localizer_dir),
            processor,
            prepare(run, clips, make_collator(run, processor, evaluation=True)),
            store,
            run.data_args.soft_masks,
            run.data_args.cache_audio_features,
            batch_size=run.args.per_device_eval_batch_size,
            num_workers=run.data_args.dataloader_num_workers,
        )
        finish_store(run.accelerator, store, localizer_dir, clips, scores, run.data_args.soft_masks)
    return store, check_store(store, clips, hash_model_folder(localizer_dir)).scores


def score_segmenter(run: Run, folder: Path, stores: dict[str, Path]) -> dict[str, dict]:
    """Scores of the test split, with the masks of the localizer and with true ones."""
    model = AutoModelForAudioVisualSegmentation.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    prompts = {"no masks": None}
    if run.prompted:
        prompts = {"masks of stage 1": stores["test"]} if "test" in stores else {}
        prompts["true masks"] = None
    return {
        name: summarize_semantics(get_scores(run, model, processor, run.clips["test"], store))
        for name, store in prompts.items()
    }


def write_results(run: Run, stages: dict[int, Path], stores: dict[str, Path], results: dict) -> None:
    """The two-stage repository with its card, scores and pictures."""
    output_dir, repository = run.output_dir, run.output_dir / "model"
    write_repository(repository, stages, results, run.args.hub_model_id)
    write_text(output_dir / "all_results.json", json.dumps(results, indent=2))
    for checkpoints in output_dir.glob("stage_*/checkpoints"):  # of a stage that was killed as it ended
        shutil.rmtree(checkpoints)
    logs = {f"stage {stage}": output_dir / f"stage_{stage}" / "log.csv" for stage in stages}
    if find_spec("matplotlib") is not None:  # the extra "viz"
        plot_curves({name: log for name, log in logs.items() if log.exists()}, output_dir / "curves.png")
    if run.args.stage == "all":
        draw_examples(repository, run.clips["test"], stores["test"]).save(output_dir / "grid.png")
    pictures = ", ".join(str(path) for path in output_dir.glob("*.png"))
    print(f"\n{make_table(results)}\n\nModel: {repository}\nPictures: {pictures}")
    if run.args.push_to_hub:
        HfApi().upload_folder(repo_id=run.args.hub_model_id, folder_path=repository)


def make_accelerator(args: RunArguments) -> Accelerator:
    """
    The processes of the run.

    Raises:
        `ValueError`: they are set up for what this script does not do.
    """
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision, log_with=args.report_to, project_dir=args.output_dir
    )
    if accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ValueError(
            f"{accelerator.distributed_type.value} is for trainer.py: this script has the whole model on each process."
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError(
            "Accelerate would divide gradients once more: unset ACCELERATE_GRADIENT_ACCUMULATION_STEPS and give"
            " --gradient_accumulation_steps to this script."
        )
    return accelerator


def start_run(
    accelerator: Accelerator, data_args: DataArguments, model_args: ModelSettings, args: RunArguments
) -> Run:
    """Keeps the arguments in the folder of the run, which has to be new or one that is to be resumed with the same."""
    arguments = get_arguments(data_args, model_args, args) | {"num_processes": accelerator.num_processes}
    if accelerator.is_main_process:
        fixed = {name: value for name, value in arguments.items() if name not in FREE_ARGUMENTS}
        begin_run(args.output_dir, fixed, resume=args.resume_from_checkpoint == "latest")
        if args.push_to_hub:
            name = args.hub_model_id or Path(args.output_dir).name
            args.hub_model_id = HfApi().create_repo(name, exist_ok=True).repo_id
    if args.report_to is not None:
        accelerator.init_trackers("stepping_stones", {name: str(value) for name, value in arguments.items()})
    return Run(accelerator, data_args, model_args, args)


def run_stages(run: Run) -> None:
    data_args, args = run.data_args, run.args
    if args.stage == "all":
        check_stage_2(run)
    prepare_negatives(run)

    stages, stores, results = {}, {}, {}
    if args.stage in ("1", "all"):
        stages[1] = train_localizer(run)
    elif args.localizer is not None:
        stages[1] = check_localizer(Path(args.localizer))

    if 1 in stages:
        splits = {"1": ["test"], "2": ["validation", "test"], "all": ["validation", "test"]}[args.stage]
        for split in [*splits, "train"] if data_args.train_prompts == "stage1" else splits:
            stores[split], results[split] = store_masks(run, stages[1], split)
        results = {"stage_1": results["test"]}

    if args.stage in ("2", "all"):
        stages[2] = train_segmenter(run, stores)
        results["stage_2"] = score_segmenter(run, stages[2], stores)

    if run.accelerator.is_main_process:
        write_results(run, stages, stores, results)


def main(argv: list[str] | None = None) -> None:
    data_args, model_args, args = parse_arguments(sys.argv[1:] if argv is None else argv)
    check_arguments(data_args, model_args, args)
    accelerator = make_accelerator(args)
    with lock_run(args.output_dir) if accelerator.is_main_process else nullcontext():
        run = start_run(accelerator, data_args, model_args, args)
        load_data(run)
        run_stages(run)
    accelerator.end_training()


if __name__ == "__main__":
    main()
