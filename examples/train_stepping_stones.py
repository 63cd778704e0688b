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

import json
import math
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import datasets
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from huggingface_hub import HfApi
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import HfArgumentParser, SchedulerType, get_scheduler

from stepping_stones_hf import (
    AAVSConfig,
    AAVSForAudioVisualSegmentation,
    AAVSImageProcessorPil,
    AAVSProcessor,
    VGGishConfig,
    VGGishFeatureExtractor,
    load_mask2former_weights,
)
from stepping_stones_hf.data import AVSCollator
from stepping_stones_hf.data.labels import CLASS_NAMES
from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.files import write_text
from stepping_stones_hf.models.vggish import load_vggish
from stepping_stones_hf.training.activation_checkpointing import checkpoint_activations
from stepping_stones_hf.training.batches import StepBatches, derive_seed
from stepping_stones_hf.training.checkpoints import (
    StopRequest,
    begin_run,
    best_folder,
    check_space,
    find_checkpoint,
    save_checkpoint,
    save_model,
)
from stepping_stones_hf.training.clips import SingleFrames, WithMasks, WithSilence, is_silent, load_clips
from stepping_stones_hf.training.degrade import DegradedPrompts
from stepping_stones_hf.training.evaluation import FrameScores, evaluate, localize, segment
from stepping_stones_hf.training.first_stage import check_localizer, finish_store, predict_masks
from stepping_stones_hf.training.log import Log
from stepping_stones_hf.training.mask_store import check_store, hash_model_folder
from stepping_stones_hf.training.report import (
    draw_examples,
    make_table,
    summarize_localization,
    summarize_semantics,
    write_repository,
)
from stepping_stones_hf.training.stages import (
    BACKBONE_ADAPTERS,
    renew_backbone_adapters,
    set_trainable,
    switch_off_backbone_adapters,
)
from stepping_stones_hf.visualization import plot_curves


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
        default="error",
        metadata={
            "help": "Colours off the palette: error, or background as in the released program.",
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


# Training ------------------------------------------------------------------------------------------------------------


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

    def get_max_steps(self, steps_per_epoch: int) -> int:
        return self.epochs * steps_per_epoch if self.max_steps is None else self.max_steps


def check_switch(args: TrainingArguments, stage: int, steps_per_epoch: int) -> None:
    recipe = Recipe.of_stage(args, stage)
    last_epoch = math.ceil(recipe.get_max_steps(steps_per_epoch) / steps_per_epoch)
    if recipe.switch_epoch is not None and not 0 < recipe.switch_epoch < last_epoch:
        raise ValueError(
            f"--stage_{stage}_switch_epoch is {recipe.switch_epoch}, expected one from 1 to {last_epoch - 1}: the"
            f" stage has {last_epoch} epochs of {steps_per_epoch} steps."
        )


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
    max_steps = recipe.get_max_steps(len(batches))
    last_epoch = math.ceil(max_steps / len(batches))
    check_switch(args, stage, len(batches))
    halves = [(0, last_epoch)]
    if recipe.switch_epoch is not None:
        halves = [(0, recipe.switch_epoch), (recipe.switch_epoch, last_epoch)]

    progress, checkpoint = find_checkpoint(folder)
    if checkpoint is None:
        check_space(folder.parent, model)
    folder.mkdir(parents=True, exist_ok=True)
    log = Log(accelerator, folder, progress)
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
            checkpoint_activations(model)
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
                log.write(progress.total_steps, epoch=epoch, loss=round(loss, 6), learning_rate=learning_rate)
                bar.update()
                frames_per_second = num_frames * bar.format_dict["rate"] if bar.format_dict["rate"] else 0
                bar.set_postfix(loss=f"{loss:.3f}", lr=f"{learning_rate:.1e}", frames_s=f"{frames_per_second:.0f}")
                due = args.checkpointing_steps != "epoch" and progress.total_steps % int(args.checkpointing_steps) == 0
                if due or stopped:
                    save_checkpoint(accelerator, progress, folder)
                if stopped:
                    stop.leave(stage, progress)

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
    if accelerator.is_main_process:
        best_folder(folder, progress).rename(folder / "model")
        shutil.rmtree(folder / "checkpoints")
    accelerator.wait_for_everyone()


# Evaluation and results ----------------------------------------------------------------------------------------------


def prepare(clips: datasets.Dataset, collator: AVSCollator, data_args: DataArguments) -> Dataset:
    rows = collator.prepare(clips)
    return rows if data_args.sound == "own" else WithSilence(rows)


def get_scores(
    accelerator: Accelerator,
    args: TrainingArguments,
    data_args: DataArguments,
    model: AAVSForAudioVisualSegmentation,
    processor: AAVSProcessor,
    clips: datasets.Dataset,
    store: Path | None = None,
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
    )


def store_masks(
    accelerator: Accelerator,
    args: TrainingArguments,
    data_args: DataArguments,
    localizer_dir: Path,
    clips: datasets.Dataset,
    store: Path,
) -> dict:
    """Predicts the masks of stage 1 for a split, unless its store is there already, and returns their scores."""
    if not store.exists():
        model = AAVSForAudioVisualSegmentation.from_pretrained(localizer_dir)
        processor = AAVSProcessor.from_pretrained(localizer_dir, backend="pil")
        scores = predict_masks(
            accelerator,
            model,
            processor,
            prepare(clips, AVSCollator(processor), data_args),
            store,
            data_args.soft_masks,
            data_args.cache_audio_features,
            batch_size=args.per_device_eval_batch_size,
            num_workers=data_args.dataloader_num_workers,
        )
        finish_store(accelerator, store, localizer_dir, clips, scores, data_args.soft_masks)
    return check_store(store, clips, hash_model_folder(localizer_dir)).scores


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


def get_arguments(*groups: DataArguments | ModelArguments | TrainingArguments) -> dict:
    return {name: value for group in groups for name, value in asdict(group).items()}


def check_arguments(data_args: DataArguments, args: TrainingArguments) -> None:
    """Refuses what would otherwise stop a run after its first step, or be ignored."""
    SchedulerType(args.lr_scheduler_type)
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}, expected at least 1.")
    if not 0 <= data_args.degraded_level <= 1:
        raise ValueError(f"--degraded_level is {data_args.degraded_level}, expected 0 to 1.")
    if args.localizer is not None and args.stage != "2":
        raise ValueError(f"--localizer is for --stage 2: --stage {args.stage} trains a stage 1.")
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
    check_arguments(data_args, args)
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
    arguments = get_arguments(data_args, model_args, args) | {"num_processes": accelerator.num_processes}
    output_dir = Path(args.output_dir)
    if accelerator.is_main_process:
        fixed = {name: value for name, value in arguments.items() if name not in FREE_ARGUMENTS}
        begin_run(output_dir, fixed, resume=args.resume_from_checkpoint == "latest")
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
        load = partial(load_clips, data_args.data_dir, unknown_color=data_args.unknown_color)
        stage_1_clips = load(data_args.stage_1_dataset)
        clips = load("avss") if args.stage != "1" else stage_1_clips
    missing = {"train", "validation", "test"} - (set(stage_1_clips) & set(clips))
    if missing:
        raise ValueError(f"{data_args.data_dir} has no clips for {', '.join(sorted(missing))}.")

    def make_batches(stage: int, clips: datasets.Dataset, collator: AVSCollator, store: Path | None) -> StepBatches:
        if stage == 1:
            # The released program makes no update for a clip of MS3 in which nothing sounds.
            rows, subsets = collator.prepare(clips), enumerate(clips["subset"])
            clips = clips.select([row for row, subset in subsets if subset != "v1m" or not is_silent(rows[row])])
        rows = prepare(clips, collator, data_args)
        if store is not None:
            rows = WithMasks(rows, store)
        if data_args.split_clips:
            rows = SingleFrames(rows)
        return StepBatches(
            accelerator,
            rows,
            collator,
            args.seed,
            args.per_device_train_batch_size,
            args.gradient_accumulation_steps,
            data_args.dataloader_num_workers,
        )

    stages, results = {}, {}
    prompted = data_args.train_prompts != "none"
    if args.stage == "all":
        # What cannot work in stage 2 is told before stage 1 trains.
        collator = AVSCollator(AAVSProcessor(AAVSImageProcessorPil(), VGGishFeatureExtractor()))
        check_switch(args, 2, len(make_batches(2, clips["train"], collator, None)))
        if args.stage_2_parameters is not None and model_args.model_name_or_path is None:
            with torch.device("meta"):
                model = AAVSForAudioVisualSegmentation(make_config(model_args, localizes=False, prompted=prompted))
            set_trainable(model, args.stage_2_parameters)

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
        stores = {split: output_dir / "masks" / split for split in splits}
        scores = {
            split: store_masks(accelerator, args, data_args, stages[1], clips[split], store)
            for split, store in stores.items()
        }
        results["stage_1"] = scores["test"]

    # Stage 2: and what are they?
    if args.stage in ("2", "all"):
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
        repository = output_dir / "model"
        write_repository(repository, stages, results, args.hub_model_id)
        write_text(output_dir / "all_results.json", json.dumps(results, indent=2))
        for checkpoints in output_dir.glob("stage_*/checkpoints"):  # of a stage that was killed as it ended
            shutil.rmtree(checkpoints)
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
