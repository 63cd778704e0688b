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
Trains Stepping Stones (Ma et al., ECCV 2024): stage 1 learns which pixels sound; stage 2, prompted with true masks in
training and with the masks of stage 1 in evaluation, learns what they are (section 3.2).

    accelerate launch examples/train_stepping_stones.py [--config examples/configs/avss.yaml]

Without `--data_dir` it makes mini-AVSBench; without a model to start from it trains a tiny AAVS from random weights.
Whatever ends it, the same command with `--resume_from_checkpoint latest` goes on, to the same weights. In the folder
of the run are

    run.json                    the arguments
    stage_1/, stage_2/          log.csv; best_<epoch>/, checkpoints/ while the stage trains; model/ once it is complete
    masks/<split>/              the masks of stage 1, with a manifest
    model/                      the two-stage repository: stage 2, stage 1 in localizer/, and a model card
    all_results.json            figures of the test split, by both protocols
    curves.png, grid.png
"""

import csv
import hashlib
import json
import math
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import datasets
import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import send_to_device, set_seed
from huggingface_hub import HfApi
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm
from transformers import HfArgumentParser, get_scheduler

from stepping_stones_hf import (
    AAVSConfig,
    AAVSForAudioVisualSegmentation,
    AAVSImageProcessorPil,
    AAVSProcessor,
    VGGishConfig,
    VGGishFeatureExtractor,
    load_mask2former_weights,
)
from stepping_stones_hf.data import AVSCollator, load_avsbench
from stepping_stones_hf.data.collator import as_image
from stepping_stones_hf.data.labels import CLASS_NAMES
from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.models.vggish import load_vggish
from stepping_stones_hf.training.clips import SingleFrames, WithMasks, WithSounds, is_silent, make_silence
from stepping_stones_hf.training.degrade import DegradedPrompts
from stepping_stones_hf.training.evaluation import FrameScores, evaluate, localize, make_prompts, segment
from stepping_stones_hf.training.mask_store import (
    Manifest,
    begin_store,
    check_store,
    complete_store,
    hash_clips,
    hash_model_folder,
    mask_path,
    partial_store,
    write_mask,
)
from stepping_stones_hf.training.report import make_model_card, make_table, summarize_localization, summarize_semantics
from stepping_stones_hf.training.stages import (
    BACKBONE_ADAPTERS,
    renew_backbone_adapters,
    set_trainable,
    switch_off_backbone_adapters,
)
from stepping_stones_hf.visualization import BINARY_PALETTE, describe, draw_grid, overlay, plot_curves


@dataclass
class DataArguments:
    data_dir: str | None = field(
        default=None,
        metadata={"help": "Copy of AVSBench, or its export to Parquet. By default mini-AVSBench is made."},
    )
    stage_1_dataset: str = field(
        default="avss",
        metadata={"help": "What stage 1 trains on: s4, ms3 or all of it.", "choices": ["s4", "ms3", "avss"]},
    )
    unknown_color: str = field(
        default="error", metadata={"help": "Colours off the palette: error, or background as in the released program."}
    )
    first_frame: str = field(
        default="once", metadata={"help": "S4's annotated frames: once, or repeated with each second of sound."}
    )
    split_clips: bool = field(
        default=True, metadata={"help": "Shuffle annotated frames rather than clips; a batch then counts frames."}
    )
    sound: str = field(
        default="own", metadata={"help": "own, or silence: a control without ears.", "choices": ["own", "silence"]}
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
        default=0.5, metadata={"help": "Highest level of the degraded masks; 0.1 to 0.5 are usual first stages."}
    )
    soft_masks: bool = field(default=False, metadata={"help": "Store the scores of stage 1 rather than 0 and 1."})
    dataloader_num_workers: int = field(default=1, metadata={"help": "Processes that read clips; 0 for none."})


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Two-stage repository to start from. Default: a tiny AAVS, random weights."}
    )
    mask2former_name_or_path: str | None = field(
        default=None, metadata={"help": "Stock Mask2Former to start a model of the paper's size from."}
    )
    vggish_checkpoint: str | None = field(
        default=None, metadata={"help": "torchvggish's checkpoint, for a model of the paper's size."}
    )
    config_overrides: str | None = field(
        default=None, metadata={"help": "Fields of AAVSConfig, as in mask_prompt_keys=false,num_queries=20."}
    )
    image_size: int = field(default=64, metadata={"help": "Height and width of the tiny model's frames."})


@dataclass
class TrainingArguments:
    output_dir: str = field(default="runs/mini", metadata={"help": "Folder of the run."})
    stage: str = field(default="all", metadata={"help": "Which stage trains.", "choices": ["1", "2", "all"]})
    localizer: str | None = field(
        default=None,
        metadata={"help": "Folder of a stage 1 for a run of stage 2 alone; without it, only true masks prompt it."},
    )
    seed: int = field(default=3407, metadata={"help": "Seed of data order, initial weights and random points."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Clips (or frames) per process and pass."})
    per_device_eval_batch_size: int = field(default=2, metadata={"help": "Clips per process and pass."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Passes before an optimiser step."})
    mixed_precision: str | None = field(
        default=None, metadata={"help": "bf16 or fp16. Default: accelerate's setting."}
    )
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Trade time for memory."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of AdamW, on all that trains."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Schedule of the learning rate in each half."})
    num_warmup_steps: int = field(default=100, metadata={"help": "Optimiser steps of linear warm-up."})
    checkpointing_steps: str = field(default="epoch", metadata={"help": "A checkpoint every so many steps, or epoch."})
    resume_from_checkpoint: str | None = field(
        default=None,
        metadata={"help": "latest goes on where the run in output_dir ended, if there is one.", "choices": ["latest"]},
    )
    report_to: str | None = field(default=None, metadata={"help": "Tracker of accelerate: tensorboard, trackio, ..."})
    push_to_hub: bool = field(default=False, metadata={"help": "Upload the two-stage repository."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Its name on the Hub."})

    stage_1_epochs: int = field(default=3, metadata={"help": "Epochs."})
    stage_1_max_steps: int | None = field(default=None, metadata={"help": "Optimiser steps, in place of epochs."})
    stage_1_learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    stage_1_max_grad_norm: float | None = field(default=1.0, metadata={"help": "Largest norm of all gradients."})
    stage_1_parameters: list[str] | None = field(
        default=None, metadata={"help": "Regular expressions for the names of what trains. Default: everything."}
    )
    stage_1_switch_epoch: int | None = field(
        default=None,
        metadata={"help": "Up to here the backbone's adapters are off; then fresh ones train, from the best epoch."},
    )
    stage_1_switch_learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate from there on."})
    stage_2_epochs: int = field(default=2, metadata={"help": "As in stage 1."})
    stage_2_max_steps: int | None = field(default=None, metadata={"help": "As in stage 1."})
    stage_2_learning_rate: float = field(default=1e-3, metadata={"help": "As in stage 1."})
    stage_2_max_grad_norm: float | None = field(default=1.0, metadata={"help": "As in stage 1."})
    stage_2_parameters: list[str] | None = field(default=None, metadata={"help": "As in stage 1."})
    stage_2_switch_epoch: int | None = field(default=None, metadata={"help": "As in stage 1."})
    stage_2_switch_learning_rate: float = field(default=1e-4, metadata={"help": "As in stage 1."})


def parse_arguments(argv: list[str]) -> tuple[DataArguments, ModelArguments, TrainingArguments]:
    """Command line over config file over defaults."""
    parser = HfArgumentParser((DataArguments, ModelArguments, TrainingArguments), description=__doc__)
    parser.add_argument("--config", type=Path, help="yaml or json file with any of these arguments")
    path = parser.parse_known_args(argv)[0].config
    if path is not None:
        values = yaml.safe_load(path.read_text()) or {}
        unknown = set(values) - {action.dest for action in parser._actions}
        if unknown:
            raise ValueError(f"{path} has arguments that there are not: {', '.join(sorted(unknown))}.")
        # None cannot be said on a command line; all else goes through it, so that types and choices are checked.
        parser.set_defaults(**{name: None for name, value in values.items() if value is None})
        values = {name: value if isinstance(value, list) else [value] for name, value in values.items()}
        options = [[f"--{name}", *map(str, value)] for name, value in values.items() if value != [None]]
        argv = [*chain.from_iterable(options), *argv]
    data_args, model_args, args, _ = parser.parse_args_into_dataclasses(argv)
    return data_args, model_args, args


def derive_seed(*parts: int) -> int:
    """A seed that follows from all the numbers: with sums of them, seed 1 in epoch 1 would be seed 2 in epoch 0."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6])


# Data ----------------------------------------------------------------------------------------------------------------


def load_clips(args: DataArguments, config: str) -> datasets.DatasetDict:
    if any(Path(args.data_dir, config).glob("*.parquet")):
        return datasets.load_dataset(args.data_dir, config)
    return load_avsbench(config, args.data_dir, unknown_color=args.unknown_color)


class StepBatches:
    """
    The batches of one process in one epoch, optimiser step by optimiser step. An epoch's order follows from the seed,
    and a step has the same clips on one process as on many. Clips that fill no step are left out.
    """

    def __init__(self, accelerator: Accelerator, args: TrainingArguments, clips: Dataset, collator, num_workers: int):
        self.accelerator, self.args = accelerator, args
        self.clips, self.collator, self.num_workers = clips, collator, num_workers
        self.clips_per_pass = args.per_device_train_batch_size
        self.clips_per_step = self.clips_per_pass * args.gradient_accumulation_steps * accelerator.num_processes
        if len(clips) < self.clips_per_step:
            raise ValueError(f"{len(clips)} training clips do not fill a step of {self.clips_per_step}.")

    def __len__(self) -> int:
        return len(self.clips) // self.clips_per_step

    def order(self, epoch: int) -> list[int]:
        generator = torch.Generator().manual_seed(derive_seed(self.args.seed, epoch))
        return torch.randperm(len(self.clips), generator=generator).tolist()

    def epoch(self, epoch: int, first_step: int, end_step: int) -> Iterator[tuple[dict, ...]]:
        order, passes = self.order(epoch), self.args.gradient_accumulation_steps
        first = range(first_step * self.clips_per_step, end_step * self.clips_per_step, self.clips_per_pass)
        batches = [order[start : start + self.clips_per_pass] for start in first]
        # A step is its processes' passes one after the other: process 0 has the first `passes` of them, and so on.
        rank, size = self.accelerator.process_index * passes, self.accelerator.num_processes * passes
        batches = [batch for index, batch in enumerate(batches) if rank <= index % size < rank + passes]
        loader = DataLoader(self.clips, batch_sampler=batches, collate_fn=self.collator, num_workers=self.num_workers)
        device = self.accelerator.device
        return zip(*[(send_to_device(dict(batch), device) for batch in loader)] * passes)

    def names(self, epoch: int, step: int) -> list[str]:
        indices = self.order(epoch)[step * self.clips_per_step : (step + 1) * self.clips_per_step]
        return [f"{clip['subset']}/{clip['video_id']}" for clip in (self.clips[index] for index in indices)]


# Models --------------------------------------------------------------------------------------------------------------


def make_config(args: ModelArguments, localizes: bool, prompted: bool) -> AAVSConfig:
    """The released model's config, or that of a tiny one; for stage 1, for stage 2 or for one stage."""
    labels = ["background", "sounding"] if localizes else CLASS_NAMES
    values = {
        "use_mask_prompt": prompted,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    if args.mask2former_name_or_path is not None:
        values |= {"num_queries": 30 if localizes else 100, "apply_output_projection": not localizes}
        values |= {"audio_config": VGGishConfig()}
    else:
        values |= TINY_MODEL | {"backbone_config": TINY_BACKBONE, "audio_config": VGGishConfig(**TINY_VGGISH)}
    for item in (args.config_overrides or "").split(","):
        name, _, value = item.partition("=")
        if item and (not value or name not in AAVSConfig.__dataclass_fields__):
            raise ValueError(f"--config_overrides has {item!r}, expected the name of a field of AAVSConfig=its value.")
        if item:
            values[name] = yaml.safe_load(value)
    return AAVSConfig(**values)


# 1.5 million parameters. At this width the usual initial weights, of standard deviation 0.02, would all but switch the
# layers off, the adapters above all. The small VGGish trains along: no pretrained weights are at hand.
TINY_BACKBONE = {
    "model_type": "swin",
    "embed_dim": 24,
    "depths": [1, 1, 2, 1],
    "num_heads": [1, 2, 4, 8],
    "window_size": 4,
    "drop_path_rate": 0.0,
    "initializer_range": 0.12,
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
TINY_VGGISH = {"conv_channels": [8, 16, 32, 64], "conv_depths": [1, 1, 1, 1], "hidden_size": 128}
TINY_MODEL = {
    "freeze_audio_encoder": False,
    "init_std": 0.12,
    "feature_size": 64,
    "mask_feature_size": 64,
    "hidden_dim": 64,
    "encoder_feedforward_dim": 128,
    "encoder_layers": 1,
    "decoder_layers": 4,
    "num_attention_heads": 4,
    "dim_feedforward": 256,
    "num_queries": 10,
    "train_num_points": 512,
}


def make_model(
    args: ModelArguments, localizes: bool, prompted: bool, seed: int
) -> tuple[AAVSForAudioVisualSegmentation, AAVSProcessor]:
    """A model to train and its processor."""
    if args.model_name_or_path is not None:
        if args.config_overrides is not None or args.mask2former_name_or_path is not None:
            raise ValueError(
                "--model_name_or_path has its config and its weights: --config_overrides and"
                " --mask2former_name_or_path do not go with it."
            )
        subfolder = "localizer" if localizes else ""
        model = AAVSForAudioVisualSegmentation.from_pretrained(args.model_name_or_path, subfolder=subfolder)
        expected = (2 if localizes else len(CLASS_NAMES), prompted)
        if (model.config.num_labels, model.config.use_mask_prompt) != expected:
            raise ValueError(
                f"{args.model_name_or_path}/{subfolder} has {model.config.num_labels} labels and use_mask_prompt="
                f"{model.config.use_mask_prompt}, expected {expected[0]} and {expected[1]}: is it the other stage?"
            )
        return model, AAVSProcessor.from_pretrained(args.model_name_or_path, subfolder=subfolder, backend="pil")
    set_seed(seed)
    model = AAVSForAudioVisualSegmentation(make_config(args, localizes, prompted))
    if not localizes:
        # Whatever it leaves out of stage 2, it begins with the weights that the whole of it would begin with.
        set_seed(seed)
        whole = AAVSForAudioVisualSegmentation(make_config(replace(args, config_overrides=None), False, True))
        own = model.state_dict()
        shared = {name: value for name, value in whole.state_dict().items() if name in own}
        model.load_state_dict({name: value for name, value in shared.items() if value.shape == own[name].shape}, False)
    image_processor = AAVSImageProcessorPil(localization=localizes)
    if args.mask2former_name_or_path is not None:
        if args.vggish_checkpoint is None:
            raise ValueError("--mask2former_name_or_path needs --vggish_checkpoint: VGGish is frozen.")
        load_mask2former_weights(model, args.mask2former_name_or_path)
        model.model.audio_encoder.load_state_dict(load_vggish(args.vggish_checkpoint).state_dict())
    else:
        size = {"height": args.image_size, "width": args.image_size}
        image_processor = AAVSImageProcessorPil(
            localization=localizes, size=size, label_size=size, post_process_size=size
        )
    return model, AAVSProcessor(image_processor, VGGishFeatureExtractor())


def save_model(accelerator: Accelerator, model, processor: AAVSProcessor, folder: Path) -> None:
    """Writes a model with its processor, whole or not at all, in place of an older one."""
    partial = folder.with_name(f".{folder.name}.partial")
    state_dict = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        accelerator.unwrap_model(model).save_pretrained(partial, state_dict=state_dict)
        processor.save_pretrained(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    accelerator.wait_for_everyone()


# Training ------------------------------------------------------------------------------------------------------------


@dataclass
class Progress:
    """How far a stage is; `step` counts within the epoch."""

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    best_score: float = -math.inf
    best_epoch: int | None = None


class StopRequest:
    """Set by SIGTERM and Ctrl-C while a stage trains: the step in progress ends, then the run is saved."""

    def __enter__(self) -> "StopRequest":
        self.number = None
        numbers = (signal.SIGTERM, signal.SIGINT)
        self.handlers = {number: signal.signal(number, self.set) for number in numbers}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def set(self, number, frame) -> None:
        self.number = number

    def is_set(self, accelerator: Accelerator) -> bool:
        """Whether any process has been asked to stop."""
        asked = torch.tensor(float(self.number is not None), device=accelerator.device)
        return accelerator.reduce(asked, "sum").item() > 0

    def leave(self, stage: int, progress: Progress) -> None:
        print(f"\nStopped and saved after step {progress.total_steps} of stage {stage}.", file=sys.stderr)
        sys.exit(128 + (self.number or signal.SIGTERM))


def find_checkpoint(folder: Path) -> tuple[Progress, Path | None]:
    """Checkpoints are renamed to their names when they are whole."""
    checkpoints = sorted(folder.glob("checkpoints/epoch_*"))
    if not checkpoints:
        return Progress(), None
    return Progress(**json.loads((checkpoints[-1] / "progress.json").read_text())), checkpoints[-1]


def check_space(folder: Path, model: AAVSForAudioVisualSegmentation) -> None:
    """Refuses to begin where a checkpoint and the best model, each beside the one before it, will not fit."""
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    trainable = sum(parameter.numel() * 4 for parameter in model.parameters() if parameter.requires_grad)
    # AdamW keeps two numbers for each that trains.
    needed, free = 2 * (size + size + 2 * trainable), shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder} has room for {free / 2**20:,.0f} MiB, and the checkpoints of a stage need"
            f" {needed / 2**20:,.0f} MiB: make room or choose another --output_dir."
        )


def best_folder(folder: Path, progress: Progress) -> Path:
    """The best model by the epoch it is from: a run that goes on from a checkpoint finds the one that it knows of."""
    return folder / f"best_{progress.best_epoch}"


def save_checkpoint(accelerator: Accelerator, progress: Progress, folder: Path) -> None:
    # The name has the epoch too: after its last step there may be a checkpoint before and one after the evaluation.
    path = folder / "checkpoints" / f"epoch_{progress.epoch:06d}_step_{progress.step:08d}"
    partial = path.with_name(".partial")
    if accelerator.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(partial)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (partial / "progress.json").write_text(json.dumps(asdict(progress)))
        older = [*path.parent.glob("epoch_*")]
        partial.rename(path)
        # Killed in between, a run has two checkpoints, or one and the rest of an older one: the last one counts.
        for other in older:
            shutil.rmtree(other)
    accelerator.wait_for_everyone()


class Log:
    """log.csv of a stage. A run that is resumed drops the rows that it will write again."""

    columns = ("step", "epoch", "loss", "learning_rate", "score")

    def __init__(self, accelerator: Accelerator, path: Path, progress: Progress):
        self.accelerator, self.path = accelerator, path
        if accelerator.is_main_process:
            rows = []
            if path.exists():
                with open(path, newline="") as file:
                    rows = [row for row in csv.DictReader(file) if int(row["step"]) <= progress.total_steps]
                rows = [row for row in rows if not row["score"] or int(row["epoch"]) < progress.epoch]
            partial_path = path.with_name(".log.csv")
            with open(partial_path, "w", newline="") as file:
                writer = csv.DictWriter(file, self.columns)
                writer.writeheader()
                writer.writerows(rows)
            partial_path.replace(path)

    def write(self, stage: int, **values) -> None:
        if self.accelerator.is_main_process:
            with open(self.path, "a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(values)
        tracked = {f"stage_{stage}/{name}": value for name, value in values.items() if name != "step"}
        self.accelerator.log(tracked, step=values["step"])


def compute_gradients(
    accelerator: Accelerator, model, batches: tuple[dict, ...], stop: StopRequest
) -> tuple[float, int, bool]:
    """
    Gradients of one optimiser step, normalised over all its frames: as if one process had them in one batch.
    Returns the loss, the number of frames and whether any process is to stop.
    """
    normalizers = sum(accelerator.unwrap_model(model).get_loss_normalizers(batch["class_labels"]) for batch in batches)
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
    switch_epoch: int | None
    switch_learning_rate: float

    @classmethod
    def of_stage(cls, args: TrainingArguments, stage: int) -> "Recipe":
        return cls(**{item.name: getattr(args, f"stage_{stage}_{item.name}") for item in fields(cls)})


def train(
    accelerator: Accelerator,
    args: TrainingArguments,
    stage: int,
    model: AAVSForAudioVisualSegmentation,
    processor: AAVSProcessor,
    batches: StepBatches,
    get_score: Callable[[AAVSForAudioVisualSegmentation], float],
    stop: StopRequest,
) -> None:
    """Trains a stage and leaves the model of its best epoch, by the validation split, in `stage_<number>/model`."""
    folder = Path(args.output_dir, f"stage_{stage}")
    recipe = Recipe.of_stage(args, stage)
    max_steps = recipe.max_steps if recipe.max_steps is not None else recipe.epochs * len(batches)
    last_epoch = math.ceil(max_steps / len(batches))
    halves = [(0, last_epoch)]
    if recipe.switch_epoch is not None:
        if not 0 < recipe.switch_epoch < last_epoch:
            raise ValueError(
                f"--stage_{stage}_switch_epoch is {recipe.switch_epoch}, expected one from 1 to {last_epoch - 1}: the"
                f" stage has {last_epoch} epochs of {len(batches)} steps."
            )
        halves = [(0, recipe.switch_epoch), (recipe.switch_epoch, last_epoch)]

    progress, checkpoint = find_checkpoint(folder)
    if checkpoint is None:
        check_space(folder.parent, model)
    folder.mkdir(parents=True, exist_ok=True)
    log = Log(accelerator, folder / "log.csv", progress)
    bar = tqdm(
        total=max_steps,
        initial=progress.total_steps,
        desc=f"stage {stage}",
        disable=not accelerator.is_main_process,
    )
    for half, (first_epoch, end_epoch) in enumerate(halves):
        if progress.epoch >= end_epoch:
            continue
        resumes = (progress.epoch, progress.step) > (first_epoch, 0)
        learning_rate, patterns = recipe.learning_rate, recipe.parameters
        if recipe.switch_epoch is not None and half == 0:
            switch_off_backbone_adapters(model)
        elif half == 1:
            model = AAVSForAudioVisualSegmentation.from_pretrained(best_folder(folder, progress))
            torch.manual_seed(args.seed)
            renew_backbone_adapters(model)
            learning_rate = recipe.switch_learning_rate
            patterns = None if patterns is None else [*patterns, BACKBONE_ADAPTERS]
        if args.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        if patterns is not None:
            set_trainable(model, patterns)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=args.weight_decay, fused=True)
        half_steps = min(end_epoch * len(batches), max_steps) - first_epoch * len(batches)
        scheduler = get_scheduler(
            args.lr_scheduler_type,
            optimizer,
            # A prepared scheduler makes a step for each process.
            num_warmup_steps=args.num_warmup_steps * accelerator.num_processes,
            num_training_steps=half_steps * accelerator.num_processes,
        )
        prepared, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
        if resumes:
            accelerator.load_state(checkpoint)

        for epoch in range(progress.epoch, end_epoch):
            prepared.train()
            if isinstance(batches.collator.prompt, DegradedPrompts):
                batches.collator.prompt.seed = derive_seed(args.seed, epoch)
            end_step = min(len(batches), max_steps - epoch * len(batches))
            for step_batches in batches.epoch(epoch, progress.step, end_step):
                # What is random in a step follows from its number, so that a run that is resumed draws the same.
                torch.manual_seed(derive_seed(args.seed, stage, progress.total_steps, accelerator.process_index))
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
                log.write(
                    stage, step=progress.total_steps, epoch=epoch, loss=round(loss, 6), learning_rate=learning_rate
                )
                bar.update()
                frames_per_second = num_frames * bar.format_dict["rate"] if bar.format_dict["rate"] else 0
                bar.set_postfix(loss=f"{loss:.3f}", lr=f"{learning_rate:.1e}", frames_s=f"{frames_per_second:.0f}")
                due = args.checkpointing_steps != "epoch" and progress.total_steps % int(args.checkpointing_steps) == 0
                if due or stopped:
                    save_checkpoint(accelerator, progress, folder)
                if stopped:
                    stop.leave(stage, progress)

            score = get_score(accelerator.unwrap_model(prepared).eval())
            log.write(stage, step=progress.total_steps, epoch=epoch, score=score)
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
    if accelerator.is_main_process:
        best_folder(folder, progress).rename(folder / "model")
        shutil.rmtree(folder / "checkpoints")
    accelerator.wait_for_everyone()


# Evaluation and results ----------------------------------------------------------------------------------------------


def prepare(clips: datasets.Dataset, collator: AVSCollator, data_args: DataArguments) -> Dataset:
    rows = collator.prepare(clips)
    return rows if data_args.sound == "own" else WithSounds(rows, make_silence(rows))


def get_scores(
    accelerator: Accelerator,
    args: TrainingArguments,
    data_args: DataArguments,
    model: AAVSForAudioVisualSegmentation,
    processor: AAVSProcessor,
    clips: datasets.Dataset,
    store: Path | None = None,
    on_predictions=None,
) -> FrameScores:
    """Scores of a model of either stage; one of stage 2 is prompted with the masks of a store or with true ones."""
    prompted, localizes = model.config.use_mask_prompt, model.config.num_labels == 2
    collator = AVSCollator(
        processor,
        prompt=("truth" if store is None else "stage1") if prompted else None,
        cache_dir=data_args.cache_audio_features,
        evaluation=True,
    )
    rows = prepare(clips, collator, data_args)
    return evaluate(
        accelerator,
        rows if store is None or not prompted else WithMasks(rows, store),
        collator,
        partial(localize if localizes else segment, model.to(accelerator.device).eval(), processor),
        FrameScores(None if localizes else model.config.num_labels),
        args.per_device_eval_batch_size,
        data_args.dataloader_num_workers,
        on_predictions,
    )


def check_localizer(folder: Path) -> Path:
    """Makes sure that a folder holds a model of stage 1."""
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder / 'config.json'} does not exist: --localizer is the folder of a stage 1.")
    num_labels = AAVSConfig.from_pretrained(folder).num_labels
    if num_labels != 2:
        raise ValueError(
            f"--localizer {folder} has {num_labels} labels, expected the 2 of a stage 1: in a two-stage repository,"
            " that is its folder localizer/."
        )
    return folder


def store_masks(
    accelerator: Accelerator,
    args: TrainingArguments,
    data_args: DataArguments,
    localizer_dir: Path,
    clips: datasets.Dataset,
    store: Path,
) -> dict:
    """Predicts the masks of stage 1 for a split, unless its store is there already, and returns their scores."""
    localizer_hash = hash_model_folder(localizer_dir)
    if not store.exists():
        model = AAVSForAudioVisualSegmentation.from_pretrained(localizer_dir)
        processor = AAVSProcessor.from_pretrained(localizer_dir, backend="pil")
        if accelerator.is_main_process:
            begin_store(store)
        accelerator.wait_for_everyone()

        def keep(frames: list[tuple[str, str, int]], scores: torch.Tensor) -> None:
            for frame, mask in zip(frames, make_prompts(scores, data_args.soft_masks).cpu().numpy()):
                write_mask(mask_path(partial_store(store), *frame), mask)

        scores = get_scores(accelerator, args, data_args, model, processor, clips, on_predictions=keep)
        if accelerator.is_main_process:
            manifest = Manifest(
                localizer=str(localizer_dir),
                localizer_hash=localizer_hash,
                clips_hash=hash_clips(clips.select_columns(["subset", "video_id", "num_frames"])),
                num_frames=len(scores.statistics),
                soft=data_args.soft_masks,
                scores=summarize_localization(scores),
            )
            complete_store(store, manifest)
        accelerator.wait_for_everyone()
    return check_store(store, clips.select_columns(["subset", "video_id", "num_frames"]), localizer_hash).scores


def write_repository(args: TrainingArguments, stages: dict[int, Path], results: dict) -> Path:
    """The two-stage repository, or that of the stage that there is, whole or not at all."""
    folder, partial_folder = Path(args.output_dir, "model"), Path(args.output_dir, ".model.partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    shutil.copytree(stages.get(2, stages.get(1)), partial_folder)
    if "no masks" in results.get("stage_2", ()):
        kind = "one stage"
    elif len(stages) == 2:
        kind = "two stages"
        shutil.copytree(stages[1], partial_folder / "localizer")
    else:
        kind = f"stage {next(iter(stages))}"
    make_model_card(results, kind, args.hub_model_id or str(folder)).save(partial_folder / "README.md")
    shutil.rmtree(folder, ignore_errors=True)
    partial_folder.rename(folder)
    return folder


@torch.no_grad()
def draw_examples(repository: Path, clips: datasets.Dataset, store: Path) -> Image.Image:
    """Of a clip of each subset the frame where most classes sound and, if there is one, a frame where others do."""
    model = AAVSForAudioVisualSegmentation.from_pretrained(repository)
    processor = AAVSProcessor.from_pretrained(repository, backend="pil")
    collator = AVSCollator(processor, prompt="stage1" if model.config.use_mask_prompt else None, evaluation=True)
    first_of_subset = {subset: index for index, subset in reversed(list(enumerate(clips["subset"])))}
    rows = []
    for clip in WithMasks(collator.prepare(clips.select(sorted(first_of_subset.values()))), store):
        inputs = collator([clip])
        frames, truths = inputs.pop("frames"), inputs.pop("label_maps").numpy()
        predictions = segment(model, processor, inputs).numpy()
        classes = [frozenset(truth.ravel().tolist()) for truth in truths]
        first = max(range(len(classes)), key=lambda index: len(classes[index]))
        second = next((index for index in range(len(classes)) if classes[index] != classes[first]), None)
        for index in (first,) if second is None else (first, second):
            frame = as_image(clip["frames"][index])
            mask = np.asarray(Image.open(mask_path(store, *frames[index]))) > 127
            rows.append(
                [
                    (frame, ""),
                    (overlay(frame, truths[index]), describe(truths[index])),
                    (overlay(frame, mask, BINARY_PALETTE), ""),
                    (overlay(frame, predictions[index]), describe(predictions[index])),
                ]
            )
    return draw_grid(("frame", "truth", "stage 1", "stage 2"), rows)


def begin_run(args: TrainingArguments, arguments: dict) -> None:
    """Refuses a folder that another run has trained in."""
    output_dir = Path(args.output_dir)
    path, partial_path = output_dir / "run.json", output_dir / ".run.json"
    trained = any(output_dir.glob("stage_*/*"))
    if trained and not path.exists():
        raise ValueError(f"{output_dir} has stages of a run that left no run.json. Choose another --output_dir.")
    if trained:
        if args.resume_from_checkpoint != "latest":
            raise ValueError(
                f"{output_dir} has a run already. --resume_from_checkpoint latest goes on with it; or choose another"
                " --output_dir."
            )
        before = json.loads(path.read_text())
        changed = [name for name, value in arguments.items() if before.get(name) != value]
        if changed:
            raise ValueError(
                f"{output_dir} is the folder of another run: {', '.join(changed)} differ"
                f" ({', '.join(str(before.get(name)) for name in changed)} there)."
            )
    output_dir.mkdir(parents=True, exist_ok=True)
    partial_path.write_text(json.dumps(arguments, indent=2))
    partial_path.replace(path)


# Arguments that may change when a run goes on.
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


def check_arguments(args: TrainingArguments) -> None:
    """Refuses what would otherwise stop a run after its first step."""
    if args.checkpointing_steps != "epoch" and not (
        args.checkpointing_steps.isdigit() and int(args.checkpointing_steps) > 0
    ):
        raise ValueError(f"--checkpointing_steps is {args.checkpointing_steps!r}, expected epoch or a number from 1.")
    for stage in (1, 2):
        recipe = Recipe.of_stage(args, stage)
        if recipe.epochs < 1 or (recipe.max_steps is not None and recipe.max_steps < 1):
            raise ValueError(f"Stage {stage} has {recipe.epochs} epochs and {recipe.max_steps} steps: at least 1.")


def main(argv: list[str] | None = None) -> None:
    data_args, model_args, args = parse_arguments(sys.argv[1:] if argv is None else argv)
    check_arguments(args)
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision, log_with=args.report_to, project_dir=args.output_dir
    )
    arguments = {**asdict(data_args), **asdict(model_args), **asdict(args), "num_processes": accelerator.num_processes}
    output_dir = Path(args.output_dir)
    if accelerator.is_main_process:
        begin_run(args, {name: value for name, value in arguments.items() if name not in FREE_ARGUMENTS})
        if args.push_to_hub:
            args.hub_model_id = HfApi().create_repo(args.hub_model_id or output_dir.name, exist_ok=True).repo_id
    if args.report_to is not None:
        accelerator.init_trackers("stepping_stones", {name: str(value) for name, value in arguments.items()})

    # Data: made or read by the main process first, the others find the cache.
    datasets.disable_progress_bars()
    data_args.cache_audio_features = data_args.cache_audio_features or str(output_dir / "audio-features")
    with accelerator.main_process_first():
        if data_args.data_dir is None:
            data_args.data_dir = str(output_dir / "mini-avsbench")
            if not Path(data_args.data_dir).exists():
                make_mini_avsbench(data_args.data_dir)
        stage_1_clips = load_clips(data_args, data_args.stage_1_dataset)
        clips = load_clips(data_args, "avss") if args.stage != "1" else stage_1_clips
    missing = {"train", "validation", "test"} - (set(stage_1_clips) & set(clips))
    if missing:
        raise ValueError(f"{data_args.data_dir} has no clips for {', '.join(sorted(missing))}.")

    def make_batches(stage: int, clips: datasets.Dataset, collator: AVSCollator, store: Path | None) -> StepBatches:
        rows = prepare(clips, collator, data_args)
        if stage == 1:
            # The released program makes no update for a clip of MS3 in which nothing sounds.
            rows = Subset(
                rows,
                [
                    index
                    for index, subset in enumerate(clips["subset"])
                    if subset != "v1m" or not is_silent(rows[index])
                ],
            )
        if store is not None:
            rows = WithMasks(rows, store)
        if data_args.split_clips:
            rows = SingleFrames(rows)
        return StepBatches(accelerator, args, rows, collator, data_args.dataloader_num_workers)

    stages, results = {}, {}

    # Stage 1: which pixels sound?
    if args.stage in ("1", "all"):
        stages[1] = output_dir / "stage_1" / "model"
        if not stages[1].exists():
            model, processor = make_model(model_args, localizes=True, prompted=False, seed=args.seed)
            collator = AVSCollator(
                processor, first_frame=data_args.first_frame, cache_dir=data_args.cache_audio_features
            )
            batches = make_batches(1, stage_1_clips["train"], collator, None)

            def get_score(model: AAVSForAudioVisualSegmentation) -> float:
                scores = get_scores(accelerator, args, data_args, model, processor, stage_1_clips["validation"])
                subsets = summarize_localization(scores).values()
                return sum(subset["miou"] for subset in subsets) / len(subsets)

            with StopRequest() as stop:
                train(accelerator, args, 1, model, processor, batches, get_score, stop)
    elif args.localizer is not None:
        stages[1] = check_localizer(Path(args.localizer))
    elif data_args.train_prompts == "stage1":
        raise ValueError(
            "--train_prompts stage1 needs a stage 1: give its folder as --localizer, or train --stage all."
        )

    # Between them: the masks of stage 1.
    stores = {}
    if 1 in stages:
        splits = {"1": ["test"], "2": ["validation", "test"], "all": ["validation", "test"]}[args.stage]
        if data_args.train_prompts == "stage1":
            splits.append("train")
        for split in splits:
            stores[split] = output_dir / "masks" / split
            store_masks(accelerator, args, data_args, stages[1], clips[split], stores[split])
        results["stage_1"] = store_masks(accelerator, args, data_args, stages[1], clips["test"], stores["test"])

    # Stage 2: and what are they?
    if args.stage in ("2", "all"):
        prompted = data_args.train_prompts != "none"
        stages[2] = output_dir / "stage_2" / "model"
        if not stages[2].exists():
            model, processor = make_model(model_args, localizes=False, prompted=prompted, seed=args.seed)
            prompts = {"none": None, "degraded": DegradedPrompts(data_args.degraded_level, args.seed)}
            collator = AVSCollator(
                processor,
                prompt=prompts.get(data_args.train_prompts, data_args.train_prompts),
                first_frame=data_args.first_frame,
                cache_dir=data_args.cache_audio_features,
            )
            batches = make_batches(2, clips["train"], collator, stores.get("train"))

            def get_score(model: AAVSForAudioVisualSegmentation) -> float:
                scores = get_scores(
                    accelerator, args, data_args, model, processor, clips["validation"], stores.get("validation")
                )
                return scores.results()["miou"]

            with StopRequest() as stop:
                train(accelerator, args, 2, model, processor, batches, get_score, stop)
        model = AAVSForAudioVisualSegmentation.from_pretrained(stages[2])
        processor = AAVSProcessor.from_pretrained(stages[2], backend="pil")
        prompts = {"masks of stage 1": stores.get("test"), "true masks": None} if prompted else {"no masks": None}
        results["stage_2"] = {
            name: summarize_semantics(get_scores(accelerator, args, data_args, model, processor, clips["test"], store))
            for name, store in prompts.items()
            if name != "masks of stage 1" or store is not None
        }

    if accelerator.is_main_process:
        repository = write_repository(args, stages, results)
        partial_path = output_dir / ".all_results.json"
        partial_path.write_text(json.dumps(results, indent=2))
        partial_path.rename(output_dir / "all_results.json")
        logs = {f"stage {stage}": output_dir / f"stage_{stage}" / "log.csv" for stage in stages}
        if find_spec("matplotlib") is not None:  # the extra "viz"
            plot_curves({name: log for name, log in logs.items() if log.exists()}, output_dir / "curves.png")
        if args.stage == "all":
            draw_examples(repository, clips["test"], stores["test"]).save(output_dir / "grid.png")
        pictures = ", ".join(str(path) for path in output_dir.glob("*.png"))
        print(f"\n{make_table(results)}\n\nModel: {repository}\nPictures: {pictures}")
        if args.push_to_hub:
            HfApi().upload_folder(repo_id=args.hub_model_id, folder_path=repository)
    accelerator.end_training()


if __name__ == "__main__":
    main()
