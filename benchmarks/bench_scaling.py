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
How the cost of stage 2 of AAVS grows with the frames of a batch and with their size.

    python benchmarks/bench_scaling.py --csv benchmarks/results/scaling_cpu.csv

One model with random weights; the cases take turns after a warm-up. Given are medians of CPU and wall seconds, and CPU
seconds per frame and per pixel relative to the first case of each table: 1 is linear, less is better.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from bench_forward import make_models

from stepping_stones_hf.tables import format_table, write_csv


__all__ = ["main"]

CASES = [*((frames, 384) for frames in (5, 10, 20, 40)), *((5, size) for size in (224, 320, 512))]


def make_rows(seconds: dict, cases: list[tuple[int, int]], first: tuple[int, int], column: str) -> list[dict]:
    rows = []
    for frames, size in cases:
        cpu, wall = (statistics.median(found) for found in zip(*seconds[frames, size]))
        amount = frames * size**2 / (first[0] * first[1] ** 2)
        ratio = cpu / statistics.median(found[0] for found in seconds[first]) / amount
        rows.append(
            {"frames": frames, "size": size, "CPU seconds": round(cpu, 2), "seconds": round(wall, 2), column: ratio}
        )
    return [row | {column: round(row[column], 3)} for row in rows]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    model, seconds = make_models("cpu")["AAVS"], {case: [] for case in CASES}
    with torch.no_grad():
        for number in range(args.rounds + 1):  # the first warms up, with the smallest frames of each case
            for frames, size in CASES:
                size_now = 64 if number == 0 else size
                inputs = {
                    "pixel_values": torch.randn(frames, 3, size_now, size_now),
                    "audio_embeddings": torch.randn(frames, 128),
                    "prompt_masks": (torch.rand(frames, 224, 224) < 0.3).float(),
                }
                cpu, start = time.process_time(), time.perf_counter()
                model(**inputs)
                if number > 0:
                    seconds[frames, size].append((time.process_time() - cpu, time.perf_counter() - start))
    tables = [
        make_rows(seconds, [case for case in CASES if case[1] == 384], (5, 384), "per frame"),
        make_rows(seconds, sorted((case for case in CASES if case[0] == 5), key=max), (5, 224), "per pixel"),
    ]
    for rows in tables:
        print(format_table([*rows[0]], [[str(value) for value in row.values()] for row in rows]))
    if args.csv is not None:
        columns = {"frames", "size", "CPU seconds", "seconds"}
        rows = [
            {**{key: row[key] for key in row if key in columns}, "of": column, "ratio": row[column]}
            for rows, column in zip(tables, ("per frame", "per pixel"))
            for row in rows
        ]
        write_csv(rows, args.csv)


if __name__ == "__main__":
    main()
