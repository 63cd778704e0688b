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
"""Peak memory and time of a training step at full size on the CPU: stage 2, second half of the released recipe.

    python benchmarks/bench_memory.py

One step of AdamW on a clip of 5 frames of 384x384 with three masks each, from random weights, in a process of its own
for each way: plain, with gradient checkpointing (`checkpointing`), under autocast to bfloat16 (`bf16`). The peak is
the whole process's resident memory, as in the released program's figure (10.2 GiB in float32). The run fails if the
plain step needs more than 0.85 of that or the checkpointed one more than 0.5, or if their gradients differ by more
than 1e-5 of a tensor's norm.

Part of the peak is memory that glibc's heap cannot use again after tensors were freed in it. The ways with `mmap` have
`MALLOC_MMAP_THRESHOLD_=65536` in their environment: tensors stay out of the heap, and their peak is closer to what an
accelerator would hold.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from stepping_stones_hf import AAVSConfig, AAVSForAudioVisualSegmentation
from stepping_stones_hf.models.aavs.recipe_aavs import BACKBONE_ADAPTERS, RELEASED_PARAMETERS
from stepping_stones_hf.training.activation_checkpointing import checkpoint_activations
from stepping_stones_hf.training.stages import set_trainable


__all__ = ["get_memory", "main", "make_clip", "step"]

RELEASED_PEAK = 10.2  # GiB
MAX_SHARE = {"plain": 0.85, "checkpointing": 0.5}
MAX_DIFFERENCE = 1e-5
WAYS = ("plain", "checkpointing", "plain-mmap", "checkpointing-mmap", "checkpointing-bf16-mmap")
NUM_LABELS = 71


def make_clip(num_frames: int, size: int) -> dict[str, torch.Tensor | list[torch.Tensor]]:
    """Noise, and a square in each frame: background and two classes that share the square."""
    quarter = size // 4
    masks = torch.zeros(3, size, size)
    masks[1, quarter : 2 * quarter, quarter : 3 * quarter] = 1
    masks[2, 2 * quarter : 3 * quarter, quarter : 3 * quarter] = 1
    masks[0] = 1 - masks.sum(dim=0)
    return {
        "pixel_values": torch.randn(num_frames, 3, size, size),
        "audio_embeddings": torch.randn(num_frames, 128),
        "prompt_masks": (1 - masks[0]).expand(num_frames, -1, -1),
        "mask_labels": [masks] * num_frames,
        "class_labels": [torch.tensor([0, 1 + frame, 2 + frame]) for frame in range(num_frames)],
    }


def step(way: str, num_frames: int, size: int, gradients_file: Path) -> dict[str, float]:
    """One step in this process: loss, peak memory in GiB (Linux), wall and CPU time in seconds."""
    torch.manual_seed(0)
    model = AAVSForAudioVisualSegmentation(AAVSConfig(num_labels=NUM_LABELS, use_mask_prompt=True)).train()
    parameters = set_trainable(model, (*RELEASED_PARAMETERS[2], BACKBONE_ADAPTERS))
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.05)
    clip = make_clip(num_frames, size)
    if "checkpointing" in way:
        checkpoint_activations(model)
    autocast = torch.autocast("cpu", torch.bfloat16) if "bf16" in way else contextlib.nullcontext()

    torch.manual_seed(3407)  # drop path and the random points
    wall, cpu = time.perf_counter(), time.process_time()
    with autocast:
        loss = model(**clip).loss
    loss.backward()
    optimizer.step()
    figures = {
        "loss": loss.item(),
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "peak": get_memory("VmHWM"),
    }
    save_file({name: p.grad for name, p in model.named_parameters() if p.requires_grad}, gradients_file)
    return figures


def get_memory(field: str) -> float:
    """Resident memory of this process in GiB (Linux): now (`VmRSS`), or the largest so far (`VmHWM`)."""
    kilobytes = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]
    return int(kilobytes) / 2**20


def largest_difference(gradients_file: Path, other_file: Path) -> float:
    """Largest norm of a gradient's difference, relative to the norm of the gradient."""
    gradients, others = load_file(gradients_file), load_file(other_file)
    return max(((others[name] - value).norm() / value.norm()).item() for name, value in gradients.items())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_frames", type=int, default=5)
    parser.add_argument("--size", type=int, default=384)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--way", choices=WAYS, help="measure one way, in this process")
    parser.add_argument("--gradients_file", type=Path, help="where `--way` writes its gradients")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    if args.way is not None:
        print(json.dumps(step(args.way, args.num_frames, args.size, args.gradients_file)))
        return

    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {way: Path(folder, f"{way}.safetensors") for way in WAYS}
        for way in WAYS:
            options = ["--num_frames", args.num_frames, "--size", args.size, "--threads", args.threads]
            command = [sys.executable, __file__, "--way", way, "--gradients_file", files[way], *options]
            environment = os.environ | ({"MALLOC_MMAP_THRESHOLD_": "65536"} if "mmap" in way else {})
            process = subprocess.run(
                [str(x) for x in command], env=environment, check=True, stdout=subprocess.PIPE, text=True
            )
            figures[way] = json.loads(process.stdout)
            print(
                f"{way:<23} peak {figures[way]['peak']:5.2f} GiB ({figures[way]['peak'] / RELEASED_PEAK:.2f} of the "
                f"released program's), step {figures[way]['seconds']:5.1f} s ({figures[way]['cpu_seconds']:.1f} s of "
                f"CPU, {figures[way]['cpu_seconds'] / figures['plain']['cpu_seconds']:.2f} of plain), loss "
                f"{figures[way]['loss']:.6f}",
                flush=True,
            )
        difference = largest_difference(files["plain"], files["checkpointing"])
    print(f"gradients of plain and checkpointing: largest relative difference {difference:.1e}")
    missed = [way for way, share in MAX_SHARE.items() if figures[way]["peak"] > share * RELEASED_PEAK]
    if missed:
        sys.exit(f"more than {MAX_SHARE} of {RELEASED_PEAK} GiB: {missed}")
    if difference > MAX_DIFFERENCE:
        sys.exit(f"gradients differ by more than {MAX_DIFFERENCE}")


if __name__ == "__main__":
    main()
