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
A training step of AAVS's stage 2 in both phases of the released recipe, against transformers' Mask2Former of the same
size, which matches frame by frame and layer by layer and resizes the masks of all queries in every layer.

    python benchmarks/bench_train_step.py

All have random weights and see the same frames and targets; the ways run in turns after a warm-up. Of Mask2Former the
decoder trains, and the norms of the backbone, so that gradients pass through all of it, as they do to the adapters of
AAVS's second phase. Given are medians of CPU and wall seconds, those of the forward pass, of the backbone in it and of
the backward pass, and the ratio to Mask2Former.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from bench_forward import make_models
from bench_memory import make_clip
from transformers import PreTrainedModel

from stepping_stones_hf.models.aavs.recipe_aavs import BACKBONE_ADAPTERS, RELEASED_PARAMETERS
from stepping_stones_hf.tables import format_table, write_csv
from stepping_stones_hf.training.stages import set_trainable


__all__ = ["main"]

# Way -> model, and patterns of the parameters that train.
WAYS = {
    "Mask2Former": ("Mask2Former", [r"transformer_module\.", r"class_predictor\.", r"encoder\..*layernorm"]),
    "AAVS, first phase": ("AAVS", [*RELEASED_PARAMETERS[2]]),
    "AAVS, second phase": ("AAVS", [*RELEASED_PARAMETERS[2], BACKBONE_ADAPTERS]),
}


def measure(model: PreTrainedModel, clip: dict) -> dict[str, float]:
    """Seconds of a step without its optimizer, whose share is small; gradients stay with the parameters."""
    backbone = model.model.backbone if hasattr(model.model, "backbone") else model.model.pixel_level_module.encoder
    marks = []
    handles = [
        backbone.register_forward_pre_hook(lambda *_: marks.append(time.perf_counter())),
        backbone.register_forward_hook(lambda *_: marks.append(time.perf_counter())),
    ]
    model.zero_grad()
    torch.manual_seed(3407)  # drop path and the random points
    cpu, start = time.process_time(), time.perf_counter()
    loss = model(**clip).loss
    middle = time.perf_counter()
    loss.backward()
    end = time.perf_counter()
    for handle in handles:
        handle.remove()
    return {
        "CPU seconds": time.process_time() - cpu,
        "seconds": end - start,
        "forward": middle - start,
        "backbone": marks[1] - marks[0],
        "backward": end - middle,
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--size", type=int, default=384, help="height and width of the frames")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    models = {name: model.train() for name, model in make_models("cpu").items()}
    clip = make_clip(args.frames, args.size)
    inputs = {"AAVS": clip, "Mask2Former": {k: clip[k] for k in ("pixel_values", "mask_labels", "class_labels")}}

    figures = {way: [] for way in WAYS}
    for _ in range(args.rounds + 1):
        for way, (name, patterns) in WAYS.items():
            set_trainable(models[name], patterns)
            figures[way].append(measure(models[name], inputs[name]))

    rows = []
    for way, rounds in figures.items():
        medians = {key: statistics.median(one[key] for one in rounds[1:]) for key in rounds[0]}
        rows.append({"way": way, **medians})
    stock = rows[0]["CPU seconds"]
    rows = [
        {key: value if isinstance(value, str) else round(value, 3) for key, value in row.items()}
        | {"ratio": round(row["CPU seconds"] / stock, 3)}
        for row in rows
    ]
    print(format_table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]))
    if args.csv is not None:
        write_csv(rows, args.csv)


if __name__ == "__main__":
    main()
