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
"""TPAVI's attention in closed form against the literal one, at the size of the released models.

    python benchmarks/bench_tpavi_attention.py

One block on one clip: five frames of 224x224, whose first feature map has 56x56 pixels and 256 channels. The literal
form compares each of the 15680 pixels with the sound of each of them, which is the same for all pixels of a frame, as
the paper and the released program have it. Both forms have the same weights and run in turns, forward only. Memory is
what the process grows by at most while a form runs, tensors kept out of glibc's heap. The run fails if the closed form
is less than 10 times faster, by CPU time, needs more than a tenth of the memory, or differs by more than 1e-4 of the
largest value.
"""

import argparse
import ctypes
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from stepping_stones_hf import TPAVIConfig
from stepping_stones_hf.models.tpavi.modeling_tpavi import TPAVIBlock


__all__ = ["literal_block", "main"]

M_MMAP_THRESHOLD = -3  # of glibc's mallopt

MIN_SPEEDUP, MAX_MEMORY, MAX_DIFFERENCE = 10, 0.1, 1e-4


def literal_block(block: TPAVIBlock, feature_map: torch.Tensor, audio_embeddings: torch.Tensor) -> torch.Tensor:
    """Of one clip, feature maps `(frames, channels, h, w)` and audio `(frames, 128)`, what the block gives."""
    frames, channels, height, width = feature_map.shape
    pixels = feature_map.permute(0, 2, 3, 1).reshape(-1, channels)  # (frames * h * w, channels)
    audio = block.audio_projection(audio_embeddings)
    audio = audio[:, None].expand(-1, height * width, -1).reshape(-1, channels)
    affinity = block.query(pixels) @ block.key(audio).T  # (frames * h * w, frames * h * w)
    attended = (affinity / len(affinity)) @ block.value(pixels)
    pixels = block.layer_norm(block.batch_norm(block.out_proj(attended)) + pixels)
    return pixels.view(frames, height, width, channels).permute(0, 3, 1, 2)


def read_memory(field: str) -> float:
    """A field of this process's memory in MB (Linux)."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def measure(run: Callable[[], torch.Tensor]) -> tuple[dict[str, float], torch.Tensor]:
    """Wall and CPU seconds, and by how many MB the process grows at most."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = read_memory("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    output = run()
    figures = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return figures | {"memory": read_memory("VmHWM") - before}, output


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=56, help="height and width of the feature map")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**16)
    torch.manual_seed(0)
    config = TPAVIConfig()
    block = TPAVIBlock(
        config
    ).train()  # so that the batch norm gives what was attended to as much weight as the pixels
    feature_map = torch.randn(config.clip_length, config.hidden_dim, args.size, args.size)
    audio_embeddings = torch.randn(config.clip_length, config.audio_embedding_dim)
    forms = {
        "literal": lambda: literal_block(block, feature_map, audio_embeddings),
        "closed": lambda: block(feature_map, audio_embeddings, None)[0],
    }

    figures = {name: [] for name in forms}
    with torch.no_grad():
        forms["closed"]()  # what is loaded with the first call is counted for neither
        for _ in range(args.rounds):
            outputs = {}
            for name, run in forms.items():
                round_figures, outputs[name] = measure(run)
                figures[name].append(round_figures)
    medians = {
        name: {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        for name, rounds in figures.items()
    }
    for name, median in medians.items():
        print(f"{name:<8} {median['wall']:7.3f} s, {median['cpu']:7.3f} s of CPU, {median['memory']:7.1f} MB")
    literal, closed = medians["literal"], medians["closed"]
    speedup, memory = literal["cpu"] / closed["cpu"], closed["memory"] / literal["memory"]
    difference = ((outputs["closed"] - outputs["literal"]).abs().max() / outputs["literal"].abs().max()).item()
    print(
        f"closed form: {speedup:.0f} times faster by CPU time ({literal['wall'] / closed['wall']:.0f} by wall time),"
        f" {memory:.3f} of the memory, largest difference {difference:.1e} of the largest value"
    )
    if speedup < MIN_SPEEDUP or memory > MAX_MEMORY or difference > MAX_DIFFERENCE:
        sys.exit(f"expected {MIN_SPEEDUP} times faster, {MAX_MEMORY} of the memory, a difference of {MAX_DIFFERENCE}")


if __name__ == "__main__":
    main()
