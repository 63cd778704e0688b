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
Stage 2 of AAVS against transformers' Mask2Former of the same size: one forward of a clip, on the CPU or on a GPU.

    python benchmarks/bench_forward.py
    python benchmarks/bench_forward.py --device cuda --compile --csv benchmarks/results/forward_h100.csv

Both have random weights and see the same frames; they run in turns, in each precision, after a warm-up. `AAVS, plain`
is AAVS without what is faster on the CPU: torch's linear layers, sampled values in memory, all frames at once. Given
are medians: wall seconds (of a GPU, by events), CPU seconds, seconds of the three parts, the ratio to Mask2Former in
fp32, and the share of the arithmetic limit: the multiplications and additions of matrix products and convolutions,
divided by the rate of the best of three large products in the same precision and run. The mask logits are compared
with those of the plain way in fp32, relative to the largest: once as they are, and once with the attention masks of
the plain way in the decoder. For these are where masks are above one half, and by random weights some values are so
close to it that rounding moves them over.
"""

import argparse
import copy
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, PreTrainedModel

from stepping_stones_hf import AAVSConfig, AAVSForAudioVisualSegmentation
from stepping_stones_hf.models import cpu_inference, deformable_attention
from stepping_stones_hf.models.aavs import modeling_aavs
from stepping_stones_hf.tables import format_table, write_csv


__all__ = ["main"]

NUM_LABELS = 71  # of AVSS
PRECISIONS = {"fp32": torch.float32, "bf16 autocast": torch.bfloat16, "bf16": torch.bfloat16}
PLAIN = "AAVS, plain"


def make_models(device: str) -> dict[str, PreTrainedModel]:
    """Stage 2 of AAVS, and Mask2Former with as many layers, queries and channels."""
    config = AAVSConfig(use_mask_prompt=True, num_labels=NUM_LABELS)
    names = Mask2FormerConfig().to_dict().keys() & config.to_dict().keys() - {"model_type", "architectures"}
    shared = {name: getattr(config, name) for name in names}
    stock = Mask2FormerConfig(**shared)
    models = {
        "AAVS": AAVSForAudioVisualSegmentation(config),
        "Mask2Former": Mask2FormerForUniversalSegmentation(stock),
    }
    return {name: model.eval().to(device) for name, model in models.items()}


def get_parts(model: PreTrainedModel) -> dict[str, torch.nn.Module]:
    if isinstance(model, AAVSForAudioVisualSegmentation):
        return {
            name.replace("_", " "): getattr(model.model, name) for name in ("backbone", "pixel_decoder", "decoder")
        }
    module = model.model.pixel_level_module
    return {"backbone": module.encoder, "pixel decoder": module.decoder, "decoder": model.model.transformer_module}


class Clock:
    """Marks moments: with events on a GPU, whose work goes on while Python does other things."""

    def __init__(self, device: str):
        self.device = device

    def now(self):
        if self.device == "cpu":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start, end) -> float:
        if self.device == "cpu":
            return end - start
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000


def measure(forward: Callable, parts: dict[str, torch.nn.Module], clock: Clock) -> tuple[dict[str, float], dict]:
    """Seconds of one forward and of its parts, and its outputs."""
    marks, handles = {}, []
    for name, part in parts.items():
        handles.append(part.register_forward_pre_hook(lambda *_, name=name: marks.update({name: [clock.now()]})))
        handles.append(part.register_forward_hook(lambda *_, name=name: marks[name].append(clock.now())))
    cpu, start = time.process_time(), clock.now()
    outputs = forward()
    figures = {"seconds": clock.seconds(start, clock.now()), "CPU seconds": time.process_time() - cpu}
    for handle in handles:
        handle.remove()
    return figures | {name: clock.seconds(*mark) for name, mark in marks.items()}, outputs


@contextmanager
def plain_ways() -> Iterator[None]:
    """Models do without what is faster on the CPU."""
    with ExitStack() as patches:
        for module in (cpu_inference, deformable_attention, modeling_aavs):
            patches.enter_context(patch.object(module, "is_cpu_inference", lambda *_: False))
        yield


@contextmanager
def kept_attention_masks(model: PreTrainedModel, masks: list[torch.Tensor]) -> Iterator[None]:
    """The decoder has these attention masks, or, if the list is empty, puts its own in there."""
    method, kept = model.model.decoder.get_blocked_places, iter([*masks])

    def get_blocked_places(*args) -> torch.Tensor:
        blocked = next(kept, None)
        if blocked is None:
            blocked = method(*args)
            masks.append(blocked)
        return blocked

    with patch.object(model.model.decoder, "get_blocked_places", get_blocked_places):
        yield


def get_product_rate(dtype: torch.dtype, device: str) -> float:
    """Operations a second of the best of three large products."""
    size = 2048 if device == "cpu" else 8192
    clock, factors, rates = Clock(device), torch.randn(2, size, size, dtype=dtype, device=device), []
    for _ in range(4):  # the first warms up
        start = clock.now()
        factors[0] @ factors[1]
        rates.append(2 * size**3 / clock.seconds(start, clock.now()))
    return max(rates[1:])


def get_model_name(way: str) -> str:
    return way.removesuffix(" compiled").removesuffix(", plain")


def get_difference(tensor: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return ((tensor - expected).abs().max() / expected.abs().max()).item()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--size", type=int, default=384, help="height and width of the frames")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--compile", action="store_true", help="AAVS compiled, too")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    models, clock = make_models(args.device), Clock(args.device)
    frames = torch.randn(args.frames, 3, args.size, args.size, device=args.device)
    inputs = {
        "AAVS": {
            "pixel_values": frames,
            "audio_embeddings": torch.randn(args.frames, 128, device=args.device),
            "prompt_masks": (torch.rand(args.frames, 224, 224, device=args.device) < 0.3).float(),
        },
        "Mask2Former": {"pixel_values": frames},
    }
    models = {PLAIN: models["AAVS"], **models}
    halves = {name: copy.deepcopy(model).bfloat16() for name, model in models.items() if name != PLAIN}
    compiled = torch.compile(models["AAVS"]) if args.compile else None

    def forward(name: str, precision: str) -> dict:
        model, given = models[name.removesuffix(" compiled")], inputs[get_model_name(name)]
        if precision == "bf16":
            model, given = halves[name], {key: value.bfloat16() for key, value in given.items()}
        elif name.endswith("compiled"):
            model = compiled
        autocast = torch.autocast(args.device, torch.bfloat16, enabled=precision == "bf16 autocast")
        with autocast, plain_ways() if name == PLAIN else nullcontext():
            return model(**given)

    names = [*models, *(["AAVS compiled"] if args.compile else [])]
    cases = [(name, precision) for precision in PRECISIONS for name in names]
    # What is rounded to half precision throughout has no plain way and is not compiled.
    cases = [(name, precision) for name, precision in cases if precision != "bf16" or name in halves]
    figures, masks, aligned, operations, first_calls = {case: [] for case in cases}, {}, {}, {}, {}
    with torch.no_grad():
        for name in ("AAVS", "Mask2Former"):
            with FlopCounterMode(display=False) as counter:
                models[name](**inputs[name])
            operations[name] = counter.get_total_flops()
        kept = []
        for name, precision in cases:
            start = time.perf_counter()
            masks[name, precision] = forward(name, precision).masks_queries_logits.float()
            first_calls[name, precision] = time.perf_counter() - start
            if name in (PLAIN, "AAVS") and precision != "bf16":
                with kept_attention_masks(models["AAVS"], kept):
                    aligned[name, precision] = forward(name, precision).masks_queries_logits.float()
        for _ in range(args.rounds):
            for name, precision in cases:
                # A hook would break the compiled graph.
                model = halves[name] if precision == "bf16" else models[name.removesuffix(" compiled")]
                parts = {} if name.endswith("compiled") else get_parts(model)
                one, _ = measure(lambda: forward(name, precision), parts, clock)  # noqa: B023
                figures[name, precision].append(one)

    rates = {precision: get_product_rate(dtype, args.device) for precision, dtype in PRECISIONS.items()}
    device = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
    rows = []
    for (name, precision), rounds in figures.items():
        median = {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        model = get_model_name(name)
        reference = masks[PLAIN if model == "AAVS" else model, "fp32"]
        rows.append(
            {
                "device": device,
                "threads": torch.get_num_threads(),
                "torch": torch.__version__,
                "frames": args.frames,
                "size": args.size,
                "model": name,
                "precision": precision,
                **{key: round(value, 4) for key, value in median.items()},
                "GFLOP": round(operations[model] / 1e9, 1),
                "share of limit": round(operations[model] / rates[precision] / median["seconds"], 3),
                "difference": f"{get_difference(masks[name, precision], reference):.1e}",
                "with its attention masks": f"{get_difference(aligned[name, precision], aligned[PLAIN, 'fp32']):.1e}"
                if (name, precision) in aligned
                else "",
                "first call": round(first_calls[name, precision], 2),
            }
        )
    unit = "CPU seconds" if args.device == "cpu" else "seconds"
    stock = next(row[unit] for row in rows if (row["model"], row["precision"]) == ("Mask2Former", "fp32"))
    for row in rows:
        row["ratio"] = round(row[unit] / stock, 3)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    print(format_table(columns, [[str(row.get(column, "")) for column in columns] for row in rows]))
    print({precision: f"{rate / 1e9:.0f} GFLOP/s" for precision, rate in rates.items()}, file=sys.stderr)
    if args.csv is not None:
        args.csv.parent.mkdir(parents=True, exist_ok=True)
        write_csv(rows, args.csv)


if __name__ == "__main__":
    main()
