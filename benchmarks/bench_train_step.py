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
A training step of AAVS's stage 2 in both phases of the released recipe, against a plain way of the second one and
against transformers' Mask2Former of the same size.

    python benchmarks/bench_train_step.py
    python benchmarks/bench_train_step.py --memory

`plain` is what the released program does, with the same weights: transformers' criterion, which resizes nothing; it
matches frame by frame and layer by layer, samples the masks of all queries once for each frame and brings the costs to
the CPU one by one; attention whose weights are in memory; deformable attention whose samples are. `at label size`
brings the masks of all queries in all layers to the size of the labels before. Of Mask2Former the decoder trains, and
the norms of the backbone, so that gradients pass through all of it, as they do to the adapters of AAVS's second phase.

All have random weights and see the same frames and targets, drop the same paths and draw the same points. The ways run
in turns, after a warm-up. Given are medians of CPU and wall seconds, those of the forward pass, of the backbone in it
and of the backward pass, and ratios to the plain way; with `--memory` the memory that a first step takes at its peak
beyond what the model takes, in GiB, each in a process of its own. For the second phase it is said how far losses and
gradients are from those of the plain way: the loss relative to it, the gradient of each parameter relative to its
largest value (the largest difference and the median), with the attention masks of the one in the other. For these are
where masks are above one half, and rounding moves some values over, as it does with the rectifiers of the adapters.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from bench_forward import kept_attention_masks, make_models
from bench_memory import get_memory, make_clip
from torch import nn
from transformers import PreTrainedModel
from transformers.models.mask2former.modeling_mask2former import Mask2FormerLoss

from stepping_stones_hf.models import deformable_attention
from stepping_stones_hf.models.aavs.recipe_aavs import BACKBONE_ADAPTERS, RELEASED_PARAMETERS
from stepping_stones_hf.tables import format_table, write_csv
from stepping_stones_hf.training.stages import set_trainable


__all__ = ["main"]

SECOND_PHASE = "AAVS, second phase"
PLAIN = f"{SECOND_PHASE}, plain"
PLAIN_AT_LABEL_SIZE = f"{PLAIN}, at label size"
# Way -> patterns of the parameters that train.
WAYS = {
    "Mask2Former": [r"transformer_module\.", r"class_predictor\.", r"encoder\..*layernorm"],
    "AAVS, first phase": [*RELEASED_PARAMETERS[2]],
    SECOND_PHASE: [*RELEASED_PARAMETERS[2], BACKBONE_ADAPTERS],
    PLAIN: [*RELEASED_PARAMETERS[2], BACKBONE_ADAPTERS],
    PLAIN_AT_LABEL_SIZE: [*RELEASED_PARAMETERS[2], BACKBONE_ADAPTERS],
}


@contextmanager
def plain_ways(model: PreTrainedModel, at_label_size: bool) -> Iterator[None]:
    """AAVS trains the way of the released program."""
    criterion = Mask2FormerLoss(model.config, model.criterion.weight_dict)
    criterion.matcher.cost_class = model.config.matcher_class_cost

    def get_losses(predictions: list[dict], mask_labels: list, class_labels: list, *_) -> dict[str, torch.Tensor]:
        if at_label_size:
            for prediction in predictions:
                prediction["masks_queries_logits"] = nn.functional.interpolate(
                    prediction["masks_queries_logits"], size=mask_labels[0].shape[-2:], mode="bilinear"
                )
        *earlier, last = predictions
        losses = criterion(**last, mask_labels=mask_labels, class_labels=class_labels, auxiliary_predictions=earlier)
        return {
            name: value * next(weight for term, weight in criterion.weight_dict.items() if name.startswith(term))
            for name, value in losses.items()
        }

    attention = model.config._attn_implementation
    with ExitStack() as patches:
        patches.enter_context(patch.object(model.criterion, "forward", get_losses))
        patches.enter_context(patch.object(deformable_attention, "MIN_SAMPLES", float("inf")))
        patches.callback(model.set_attn_implementation, attention)
        model.set_attn_implementation("eager")
        yield


def take_step(way: str, model: PreTrainedModel, clip: dict) -> dict[str, float]:
    """Loss and seconds of a step without its optimizer, whose share is small; gradients stay with the parameters."""
    set_trainable(model, WAYS[way])
    if way == "Mask2Former":
        clip = {name: clip[name] for name in ("pixel_values", "mask_labels", "class_labels")}
    backbone = model.model.backbone if hasattr(model.model, "backbone") else model.model.pixel_level_module.encoder
    marks = []
    handles = [
        backbone.register_forward_pre_hook(lambda *_: marks.append(time.perf_counter())),
        backbone.register_forward_hook(lambda *_: marks.append(time.perf_counter())),
    ]
    model.zero_grad()
    torch.manual_seed(3407)  # drop path and the random points
    with plain_ways(model, way == PLAIN_AT_LABEL_SIZE) if way.startswith(PLAIN) else nullcontext():
        cpu, start = time.process_time(), time.perf_counter()
        loss = model(**clip).loss
        middle = time.perf_counter()
        loss.backward()
        end = time.perf_counter()
    for handle in handles:
        handle.remove()
    return {
        "loss": loss.item(),
        "CPU seconds": time.process_time() - cpu,
        "seconds": end - start,
        "forward": middle - start,
        "backbone": marks[1] - marks[0],
        "backward": end - middle,
    }


def compare(ways: list[str], model: PreTrainedModel, clip: dict) -> dict[str, dict[str, float]]:
    """How far losses and gradients of the ways are from those of the plain one."""
    masks, differences, expected = [], {}, None
    for way in [PLAIN, *(way for way in ways if way != PLAIN and way.startswith(SECOND_PHASE))]:
        with kept_attention_masks(model, masks):
            loss = torch.tensor(take_step(way, model, clip)["loss"], dtype=torch.float64)
        tensors = {"loss": loss} | {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
        expected = expected or tensors
        relative = {
            name: ((value - expected[name]).abs().max() / expected[name].abs().max().clamp(min=1e-12)).item()
            for name, value in tensors.items()
        }
        differences[way] = {
            "difference of the loss": relative.pop("loss"),
            "difference of gradients": max(relative.values()),
            "median difference": statistics.median(relative.values()),
        }
    return differences


def measure_memory(way: str, args: argparse.Namespace) -> dict[str, float]:
    """GiB that a step takes at its peak, in a process of its own."""
    options = ["--frames", args.frames, "--size", args.size, "--memory_of", way]
    command = [str(x) for x in (sys.executable, __file__, *options)]
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {"peak": json.loads(process.stdout)}


def measure_time(ways: list[str], args: argparse.Namespace, models: dict, clip: dict) -> dict[str, dict[str, float]]:
    """Medians, and differences from the plain way."""
    differences = compare(ways, models[PLAIN], clip)  # which warms up
    figures = {way: [] for way in ways}
    for index in range(args.rounds + 1):
        for way in ways:
            if index > 0 or way not in differences:
                figures[way].append(take_step(way, models[way], clip))
    return {
        way: {key: statistics.median(one[key] for one in steps[-args.rounds :]) for key in steps[0]}
        | differences.get(way, {})
        for way, steps in figures.items()
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--size", type=int, default=384, help="height and width of the frames")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS], help="beside the plain one")
    parser.add_argument("--memory", action="store_true", help="measure memory in place of time")
    parser.add_argument("--memory_of", choices=WAYS, help="measure the memory of one way, in this process")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args(argv)
    ways = [way for way in WAYS if way in args.ways or way == PLAIN]
    if args.memory:
        figures = {way: measure_memory(way, args) for way in ways}
    else:
        torch.manual_seed(0)
        models = {name: model.train() for name, model in make_models("cpu").items()}
        models = {way: models["Mask2Former" if way == "Mask2Former" else "AAVS"] for way in WAYS}
        clip = make_clip(args.frames, args.size)
        if args.memory_of is not None:
            before = get_memory("VmRSS")
            take_step(args.memory_of, models[args.memory_of], clip)
            print(get_memory("VmHWM") - before)
            return
        figures = measure_time(ways, args, models, clip)

    rows = []
    for way, row in figures.items():
        ratios = {
            f"{key} to plain": row[key] / figures[PLAIN][key]
            for key in ("CPU seconds", "seconds", "peak")
            if key in row
        }
        row = {
            key: f"{value:.1e}" if "difference" in key else round(value, 3) for key, value in (row | ratios).items()
        }
        rows.append({"way": way} | row)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    print(format_table(columns, [[str(row.get(column, "")) for column in columns] for row in rows]))
    if args.csv is not None:
        write_csv(rows, args.csv)


if __name__ == "__main__":
    main()
