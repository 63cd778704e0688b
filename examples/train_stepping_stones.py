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
Trains both stages of Stepping Stones (Ma et al., ECCV 2024) and evaluates them.

    accelerate launch examples/train_stepping_stones.py

Stage 1 learns which pixels sound, on S4, MS3 and AVSS together; stage 2 learns what they are, prompted with true masks
in training and with the masks of stage 1 in evaluation. Without `--data_dir` the script makes mini-AVSBench and trains
a tiny AAVS on it from random weights, in minutes on a CPU; with it, it reads a folder in the layout of
AVSBench-semantic.
"""

import csv
import json
import shutil
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path

import evaluate
import numpy as np
import soundfile
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image, ImageDraw, ImageFont
from scipy.optimize import linear_sum_assignment
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import HfArgumentParser, get_scheduler

from stepping_stones_hf import (
    AAVSConfig,
    AAVSForAudioVisualSegmentation,
    AAVSImageProcessorPil,
    AAVSProcessor,
    VGGishConfig,
    VGGishFeatureExtractor,
)
from stepping_stones_hf.data.labels import CLASS_NAMES, PALETTE, color_to_index
from stepping_stones_hf.data.mini import make_mini_avsbench


# The folders of AVSBench-semantic and what they are called.
SUBSETS = {"v1s": "S4", "v1m": "MS3", "v2": "V2"}


@dataclass
class Arguments:
    data_dir: str | None = field(
        default=None, metadata={"help": "Folder in the layout of AVSBench-semantic. Default: mini-AVSBench is made."}
    )
    output_dir: str = field(default="runs/mini", metadata={"help": "Where checkpoints, masks, table and grid go."})
    model_name_or_path: str | None = field(
        default=None,
        metadata={"help": "Two-stage repository to start from. Default: a tiny AAVS with random weights."},
    )
    image_size: int = field(default=64, metadata={"help": "Height and width of the tiny model's input."})
    stage_1_steps: int = field(default=800, metadata={"help": "Optimiser steps of stage 1; 0 only evaluates."})
    stage_2_steps: int = field(default=500, metadata={"help": "Optimiser steps of stage 2; 0 only evaluates."})
    one_stage: bool = field(
        default=True, metadata={"help": "Also train a one-stage model with the steps of both stages, to compare."}
    )
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Frames per process and step."})
    dataloader_num_workers: int = field(default=1, metadata={"help": "Processes that prepare frames; 0 for none."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of AdamW."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of AdamW."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradients are clipped to this global norm."})
    num_warmup_steps: int = field(default=100, metadata={"help": "Steps of linear warm-up."})
    seed: int = field(default=3407, metadata={"help": "Seed of data order and initial weights."})


# Data ----------------------------------------------------------------------------------------------------------------


class Clip:
    """
    A clip of AVSBench-semantic. Frame t belongs to second t of the sound. A clip of S4's train split is annotated in
    its first frame only.
    """

    def __init__(self, data_dir: Path, row: dict):
        self.subset, self.uid, self.split = row["label"], row["uid"], row["split"]
        self.folder = data_dir / self.subset / self.uid
        self.classes = set(row["a_obj"].split("_"))
        self.num_frames = len(list((self.folder / "frames").glob("*.jpg")))
        self.annotated = range(1) if (self.subset, self.split) == ("v1s", "train") else range(self.num_frames)
        self._input_features = None

    def frame(self, index: int) -> Image.Image:
        return Image.open(self.folder / "frames" / f"{index}.jpg").convert("RGB")

    def label_map(self, index: int) -> np.ndarray:
        """Class indices, `(height, width)`."""
        path = self.folder / "labels_rgb" / f"{index}.png"
        colors = np.array(Image.open(path).convert("RGB"))
        # As in the released program; colours off the palette come from careless resizing.
        return color_to_index(colors, unknown_color="background", path=path)

    def input_features(self, feature_extractor: VGGishFeatureExtractor) -> torch.Tensor:
        """Log-mel patches, `(num_frames, 96, 64)`; kept, since every epoch needs them."""
        if self._input_features is None:
            waveform, sampling_rate = soundfile.read(self.folder / "audio.wav", dtype="float32")
            self._input_features = feature_extractor(
                waveform.T, sampling_rate=sampling_rate, num_patches=self.num_frames, return_tensors="pt"
            )["input_features"]
        return self._input_features


def read_clips(data_dir: Path) -> dict[str, list[Clip]]:
    """The clips of `metadata.csv` by split."""
    with open(data_dir / "metadata.csv", newline="", encoding="utf-8") as file:
        clips = [Clip(data_dir, row) for row in csv.DictReader(file)]
    return {split: [clip for clip in clips if clip.split == split] for split in ("train", "val", "test")}


class AnnotatedFrames(Dataset):
    """Every annotated frame of some clips; AAVS looks at frames one by one, so they can be shuffled freely."""

    def __init__(self, clips: list[Clip], processor: AAVSProcessor, prompted: bool):
        self.frames = [(clip, index) for clip in clips for index in clip.annotated]
        self.processor, self.prompted = processor, prompted

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, item: int) -> tuple[Clip, int]:
        return self.frames[item]

    def collate(self, frames: list[tuple[Clip, int]]) -> dict:
        label_maps = [clip.label_map(index) for clip, index in frames]
        inputs = self.processor(
            images=[clip.frame(index) for clip, index in frames],
            segmentation_maps=label_maps,
            # Stage 2 trains with true masks and meets predicted ones in evaluation only (section 3.2).
            prompt_masks=[label_map > 0 for label_map in label_maps] if self.prompted else None,
            return_tensors="pt",
        )
        features = [clip.input_features(self.processor.feature_extractor)[index] for clip, index in frames]
        return {**inputs, "input_features": torch.stack(features)}


# Models --------------------------------------------------------------------------------------------------------------


def make_tiny_config(use_mask_prompt: bool, labels: list[str]) -> AAVSConfig:
    """An AAVS of 1.5 million parameters whose small VGGish trains along: no pretrained weights are at hand."""
    return AAVSConfig(
        backbone_config={
            "model_type": "swin",
            "embed_dim": 24,
            "depths": [1, 1, 2, 1],
            "num_heads": [1, 2, 4, 8],
            "window_size": 4,
            "drop_path_rate": 0.0,
            # At this width the usual 0.02 would all but switch the layers off, the adapters above all.
            "initializer_range": 0.12,
            "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        audio_config=VGGishConfig(conv_channels=[8, 16, 32, 64], conv_depths=[1, 1, 1, 1], hidden_size=128),
        freeze_audio_encoder=False,
        init_std=0.12,
        use_mask_prompt=use_mask_prompt,
        feature_size=64,
        mask_feature_size=64,
        hidden_dim=64,
        encoder_feedforward_dim=128,
        encoder_layers=1,
        decoder_layers=4,
        num_attention_heads=4,
        dim_feedforward=256,
        num_queries=10,
        train_num_points=512,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )


def make_model(
    args: Arguments, localize: bool, prompted: bool
) -> tuple[AAVSForAudioVisualSegmentation, AAVSProcessor]:
    """A model with its processor: for localisation (stage 1), prompted (stage 2) or neither (one stage)."""
    if args.model_name_or_path is not None:
        subfolder = "localizer" if localize else ""
        return (
            AAVSForAudioVisualSegmentation.from_pretrained(args.model_name_or_path, subfolder=subfolder),
            AAVSProcessor.from_pretrained(args.model_name_or_path, subfolder=subfolder),
        )
    size = {"height": args.image_size, "width": args.image_size}
    processor = AAVSProcessor(
        AAVSImageProcessorPil(size=size, label_size=size, post_process_size=size, localization=localize),
        VGGishFeatureExtractor(),
    )
    labels = ["background", "sounding"] if localize else CLASS_NAMES
    return AAVSForAudioVisualSegmentation(make_tiny_config(prompted, labels)), processor


def train(
    args: Arguments,
    accelerator: Accelerator,
    model: AAVSForAudioVisualSegmentation,
    dataset: AnnotatedFrames,
    num_steps: int,
    title: str,
) -> AAVSForAudioVisualSegmentation:
    loader = DataLoader(
        dataset,
        batch_size=args.per_device_train_batch_size,
        shuffle=True,
        drop_last=len(dataset) >= args.per_device_train_batch_size,
        collate_fn=dataset.collate,
        num_workers=args.dataloader_num_workers,
        persistent_workers=args.dataloader_num_workers > 0,  # each keeps the log-mel patches that it has made
    )
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=args.weight_decay, fused=True)
    scheduler = get_scheduler("cosine", optimizer, args.num_warmup_steps, num_steps)
    # The schedule counts optimiser steps, whatever the number of processes: it is not prepared.
    prepared, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    if len(loader) == 0:
        raise ValueError(
            f"{len(dataset)} annotated frames are not enough for a batch of {args.per_device_train_batch_size} on "
            f"each of {accelerator.num_processes} processes. Lower --per_device_train_batch_size."
        )

    prepared.train()
    batches = islice(chain.from_iterable(repeat(loader)), num_steps)  # epoch after epoch
    progress = tqdm(batches, desc=title, total=num_steps, disable=not accelerator.is_main_process)
    for step, batch in enumerate(progress):
        loss = prepared(**batch).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, args.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            progress.set_postfix(loss=f"{loss.item():.3f}")
    return accelerator.unwrap_model(prepared).eval()


# Evaluation ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def predict(
    model: AAVSForAudioVisualSegmentation,
    processor: AAVSProcessor,
    clip: Clip,
    sound: Clip | None = None,
    prompt_masks: list[np.ndarray] | None = None,
) -> list:
    """Segmentation and scores of each frame of a clip, with its own sound or with that of another clip."""
    frames = [clip.frame(index) for index in range(clip.num_frames)]
    inputs = processor(images=frames, prompt_masks=prompt_masks, return_tensors="pt")
    inputs["input_features"] = (sound or clip).input_features(processor.feature_extractor)
    outputs = model(**inputs.to(model.device))
    return processor.post_process_semantic_segmentation(outputs, return_segmentation_scores=True)


def derange(clips: list[Clip], seed: int) -> dict[Clip, Clip]:
    """Gives every clip the sound of another one whose sounding classes all differ, each sound to one clip."""
    cost = np.random.default_rng(seed).random((len(clips), len(clips)))
    shared = np.array([[bool(clip.classes & other.classes) for other in clips] for clip in clips])
    rows, columns = linear_sum_assignment(cost + len(clips) * shared)
    return {clips[row]: clips[column] for row, column in zip(rows, columns) if not shared[row, column]}


def evaluate_localization(
    model: AAVSForAudioVisualSegmentation,
    processor: AAVSProcessor,
    sounds: dict[Clip, Clip],
    masks_dir: Path | None = None,
) -> float:
    """
    Foreground IoU of stage 1 (AVSBench's protocol for S4 and MS3, at the size of the processor's label maps), each
    clip with the sound of the clip it is mapped to. With `masks_dir` the masks are kept there as PNG of 0 and 255,
    `<subset>/<uid>/<frame>.png`.
    """
    metric = evaluate.load("avss_miou", "binary", score_rule="two_channel")
    for clip, sound in tqdm(sounds.items(), desc="evaluation of stage 1", leave=False):
        results = predict(model, processor, clip, sound)
        metric.add_batch(
            predictions=torch.stack([result.segmentation_scores for result in results]),
            references=processor.image_processor.prepare_label_maps(
                [clip.label_map(index) for index in range(clip.num_frames)]
            ),
        )
        if masks_dir is not None:
            folder = masks_dir / clip.subset / clip.uid
            folder.mkdir(parents=True)
            for index, result in enumerate(results):
                Image.fromarray((result.segmentation * 255).byte().cpu().numpy()).save(folder / f"{index}.png")
    return metric.compute()["miou"]


def read_masks(clip: Clip, folder: Path) -> list[np.ndarray]:
    paths = [folder / clip.subset / clip.uid / f"{index}.png" for index in range(clip.num_frames)]
    return [np.array(Image.open(path)) for path in paths]


def true_masks(clip: Clip) -> list[np.ndarray]:
    return [clip.label_map(index) > 0 for index in range(clip.num_frames)]


def evaluate_semantics(
    model: AAVSForAudioVisualSegmentation, processor: AAVSProcessor, clips: list[Clip], get_prompt=None
) -> float:
    """mIoU over the classes that occur in the clips."""
    metric = evaluate.load("avss_miou", num_classes=model.config.num_labels)
    for clip in tqdm(clips, desc="evaluation of the semantics", leave=False):
        results = predict(model, processor, clip, prompt_masks=get_prompt(clip) if get_prompt else None)
        metric.add_batch(
            predictions=torch.stack([result.segmentation for result in results]),
            references=processor.image_processor.prepare_label_maps(
                [clip.label_map(index) for index in range(clip.num_frames)]
            ),
        )
    return metric.compute()["miou_seen"]


# Results -------------------------------------------------------------------------------------------------------------


def make_table(results: dict) -> str:
    """The results in Markdown."""
    lines = ["| stage 1, foreground IoU | own sound | sound of another clip |", "|---|---|---|"]
    for name, values in results["stage_1"].items():
        other, clips, swapped = (values[key] for key in ("sound of another clip", "clips", "clips with another sound"))
        other = "–" if other is None else f"{other:.3f}"
        if 0 < swapped < clips:
            other += f" ({swapped} of {clips} clips)"
        lines.append(f"| {name} | {values['own sound']:.3f} | {other} |")
    lines += ["", "| AVSS, mIoU over the classes that occur | |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in results["avss"].items()]
    return "\n".join(lines)


def overlay(frame: Image.Image, label_map: np.ndarray, palette: np.ndarray, size: int) -> Image.Image:
    """The frame, with the labelled pixels in their colours."""
    label_map = np.array(Image.fromarray(label_map.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST))
    frame = np.array(frame.resize((size, size)), dtype=np.float32)
    blended = np.where(label_map[..., None] > 0, 0.35 * frame + 0.65 * palette[label_map], frame)
    return Image.fromarray(blended.astype(np.uint8))


def draw_grid(rows: list[tuple], path: Path, size: int = 160) -> None:
    """Frame, truth, stage 1 and stage 2 side by side, one row per frame, with the names of the classes below."""
    titles, font, top, caption, gap = ("frame", "truth", "stage 1", "stage 2"), ImageFont.load_default(13), 24, 22, 6
    grid = Image.new("RGB", (4 * (size + gap) + gap, top + len(rows) * (size + caption)), "white")
    draw = ImageDraw.Draw(grid)
    white = np.array([[0, 0, 0], [255, 255, 255]], dtype=np.float32)
    for column, title in enumerate(titles):
        draw.text((gap + column * (size + gap) + size // 2, top // 2), title, "black", font, anchor="mm")
    for row, (frame, truth, mask, prediction) in enumerate(rows):
        y = top + row * (size + caption)
        tiles = [(np.zeros_like(truth), PALETTE), (truth, PALETTE), (mask, white), (prediction, PALETTE)]
        for column, (label_map, palette) in enumerate(tiles):
            x = gap + column * (size + gap)
            grid.paste(overlay(frame, label_map, palette, size), (x, y))
            if column in (1, 3):
                names = ", ".join(CLASS_NAMES[index] for index in np.unique(label_map) if index) or "silence"
                draw.text((x + size // 2, y + size + caption // 2 - 1), names, "black", font, anchor="mm")
    grid.save(path)


def make_grid_rows(
    model: AAVSForAudioVisualSegmentation, processor: AAVSProcessor, clips: list[Clip], masks_dir: Path
) -> list[tuple]:
    """Of each clip the frame where most classes sound and, if there is one, a frame where others do."""
    rows = []
    for clip in clips:
        truths = [clip.label_map(index) for index in range(clip.num_frames)]
        sets = [frozenset(np.unique(truth)) for truth in truths]
        first = max(range(clip.num_frames), key=lambda index: len(sets[index]))
        second = next((index for index in range(clip.num_frames) if sets[index] != sets[first]), None)
        masks = read_masks(clip, masks_dir)
        results = predict(model, processor, clip, prompt_masks=masks)
        for index in (first,) if second is None else (first, second):
            prediction = results[index].segmentation.cpu().numpy()
            rows.append((clip.frame(index), truths[index], masks[index] // 255, prediction))
    return rows


def main():
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    accelerator = Accelerator()
    evaluate.logging.set_verbosity_error()  # it would say at each load that it found the metric in its cache
    set_seed(args.seed)
    output_dir = Path(args.output_dir)
    masks_dir = output_dir / "masks"

    data_dir = Path(args.data_dir) if args.data_dir is not None else output_dir / "mini-avsbench"
    if args.data_dir is None and accelerator.is_main_process:
        make_mini_avsbench(data_dir)
    accelerator.wait_for_everyone()
    clips = read_clips(data_dir)
    if not clips["train"] or not clips["test"]:
        raise ValueError(f"{data_dir / 'metadata.csv'} names no clip of the split train, or none of the split test.")
    test_clips = {subset: [clip for clip in clips["test"] if clip.subset == subset] for subset in SUBSETS}
    test_clips = {subset: subset_clips for subset, subset_clips in test_clips.items() if subset_clips}

    # Stage 1: which pixels sound?
    stage_1 = make_model(args, localize=True, prompted=False)
    dataset = AnnotatedFrames(clips["train"], stage_1[1], prompted=False)
    stage_1 = (train(args, accelerator, stage_1[0], dataset, args.stage_1_steps, "stage 1"), stage_1[1])

    # Stage 2: and what are they? Prompted with true masks.
    set_seed(args.seed)
    stage_2 = make_model(args, localize=False, prompted=True)
    dataset = AnnotatedFrames(clips["train"], stage_2[1], prompted=True)
    stage_2 = (train(args, accelerator, stage_2[0], dataset, args.stage_2_steps, "stage 2"), stage_2[1])

    # For comparison: everything at once, with as many steps as both stages together.
    one_stage = None
    if args.one_stage and args.model_name_or_path is None:
        set_seed(args.seed)
        one_stage = make_model(args, localize=False, prompted=False)
        dataset = AnnotatedFrames(clips["train"], one_stage[1], prompted=False)
        num_steps = args.stage_1_steps + args.stage_2_steps
        one_stage = (train(args, accelerator, one_stage[0], dataset, num_steps, "one stage"), one_stage[1])

    if accelerator.is_main_process:
        # A two-stage repository: stage 2 at the root, stage 1 in `localizer/`.
        for (model, processor), folder in ((stage_2, "model"), (stage_1, "model/localizer")):
            model.save_pretrained(output_dir / folder)
            processor.save_pretrained(output_dir / folder)

        results = {"stage_1": {}, "avss": {}}
        shutil.rmtree(masks_dir, ignore_errors=True)
        for subset in test_clips:
            own, others = {clip: clip for clip in test_clips[subset]}, derange(test_clips[subset], args.seed)
            results["stage_1"][SUBSETS[subset]] = {
                "own sound": evaluate_localization(*stage_1, own, masks_dir),
                "sound of another clip": evaluate_localization(*stage_1, others) if others else None,
                "clips": len(own),
                "clips with another sound": len(others),
            }
        if one_stage is not None:
            results["avss"]["one stage"] = evaluate_semantics(*one_stage, clips["test"])
        results["avss"]["stage 2, masks of stage 1"] = evaluate_semantics(
            *stage_2, clips["test"], lambda clip: read_masks(clip, masks_dir)
        )
        results["avss"]["stage 2, true masks"] = evaluate_semantics(*stage_2, clips["test"], true_masks)

        (output_dir / "all_results.json").write_text(json.dumps(results, indent=2))
        examples = [subset_clips[0] for subset_clips in test_clips.values()]
        draw_grid(make_grid_rows(*stage_2, examples, masks_dir), output_dir / "grid.png")
        print(f"\n{make_table(results)}\n\nModel: {output_dir / 'model'}\nPicture: {output_dir / 'grid.png'}")


if __name__ == "__main__":
    main()
