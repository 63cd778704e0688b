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
"""CPU time and memory of the metric against plain loops over frames and classes, or frames and thresholds.

    python benchmarks/bench_metric.py

Both sides see the same arrays in turns after a warm-up, and must agree to 1e-9; times are medians of CPU seconds, with
wall seconds beside them. The programs of the two semantic protocols are
separate, and each compares every class with every frame: the peer is one such loop for each protocol. Beside it stands
the ratio to a single loop whose masks serve both protocols, about half as large. The run fails if the metric is not
20 times faster than the two loops for label maps and 25 times faster for scores, or if its memory grows by 60 MB.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stepping_stones_hf.metrics import AvssMiou


__all__ = ["label_maps", "main", "plain_binary", "plain_counts", "score_maps"]

NUM_CLASSES = 71
FRAMES_PER_VIDEO = 5
MIN_SPEEDUP = {"semantic": 20, "binary": 25}
MAX_GROWTH = 60  # MB
# float32, as the programs compare.
THRESHOLDS = (np.arange(255) / 254).astype(np.float32)


def label_maps(num_frames: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and references `(num_frames, size, size)` of `uint8`: one to three discs a frame, shifted, with a
    wrong class now and then and some noise at single pixels."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size]
    predictions = np.zeros((num_frames, size, size), np.uint8)
    references = np.zeros_like(predictions)
    for prediction, reference in zip(predictions, references):
        for _ in range(generator.integers(1, 4)):
            row, column = generator.integers(0, size, 2)
            radius = generator.integers(size // 20, size // 4)
            label = generator.integers(1, NUM_CLASSES)
            guess = label if generator.random() < 0.7 else generator.integers(1, NUM_CLASSES)
            reference[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = label
            prediction[(rows - row - 4) ** 2 + (columns - column - 4) ** 2 < radius**2] = guess
        noisy = generator.random((size, size)) < 0.02
        prediction[noisy] = generator.integers(0, NUM_CLASSES, noisy.sum())
    return predictions, references


def score_maps(num_frames: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities `(num_frames, size, size)` of `float32`, masks of the same shape of `uint8`; every seventh mask
    is empty."""
    references = (label_maps(num_frames, size, seed)[1] > 0).astype(np.uint8)
    references[::7] = 0
    noise = np.random.default_rng(seed).random(references.shape, dtype=np.float32)
    return 0.5 * references + 0.5 * noise, references


def plain_counts(predictions: np.ndarray, references: np.ndarray, num_classes: int) -> np.ndarray:
    """Pixels in both maps, in the prediction, in the reference, `(num_frames, num_classes, 3)`."""
    counts = np.zeros((len(predictions), num_classes, 3))
    for frame, (prediction, reference) in enumerate(zip(predictions, references)):
        for label in range(num_classes):
            predicted, labeled = prediction == label, reference == label
            counts[frame, label] = np.sum(predicted & labeled), np.sum(predicted), np.sum(labeled)
    return counts


def class_scores(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IoU and F-score, 0 where there is nothing, and whether there is something, from counts `(..., 3)`."""
    overlap, area, true_area = np.moveaxis(counts, -1, 0)
    present = area + true_area > 0
    iou = overlap / np.maximum(area + true_area - overlap, 1)
    return iou, 1.3 * overlap / np.maximum(0.3 * true_area + area, 0.3), present


def avsbench_means(counts: np.ndarray) -> list[float]:
    """mIoU and F-score of the AVSBench protocol."""
    iou, fscore, present = class_scores(counts)
    frames = np.maximum(present.sum(axis=0), 1)
    return [(iou.sum(axis=0) / frames).mean(), (fscore.sum(axis=0) / frames).mean()]


def cavp_means(counts: np.ndarray) -> list[float]:
    """mIoU* and F-score* of the CAVP protocol."""
    iou, fscore, present = class_scores(counts.sum(axis=0))
    return [iou.mean(), fscore[present].mean()]


def plain_binary(scores: np.ndarray, references: np.ndarray, frames_per_video: int) -> tuple[float, float]:
    """mIoU and F-score of the AVSBench protocol for one object class, one video per batch."""
    ious, fscores = [], []
    for start in range(0, len(scores), frames_per_video):
        video_ious, curves = [], []
        for score, reference in zip(scores[start : start + frames_per_video], references[start:]):
            target = reference > 0
            mask = score > 0.5
            if not target.any():
                video_ious.append(np.mean(~mask))
                continue
            video_ious.append(np.sum(mask & target) / (np.sum(mask | target) + 1e-7))
            curve = np.zeros(len(THRESHOLDS))
            for index, threshold in enumerate(THRESHOLDS):
                reached = score >= threshold
                hits = np.sum(reached & target)
                if hits > 0:
                    precision, recall = hits / np.sum(reached), hits / np.sum(target)
                    curve[index] = 1.3 * precision * recall / (0.3 * precision + recall)
            curves.append(curve)
        ious.append(np.mean(video_ious))
        fscores.append(np.mean(curves, axis=0).max() if curves else 0.0)
    return np.mean(ious), np.mean(fscores)


def evaluate_batches(metric: AvssMiou, predictions: np.ndarray, references: np.ndarray, batch_size: int) -> dict:
    for start in range(0, len(predictions), batch_size):
        stop = start + batch_size
        metric.add_batch(predictions=predictions[start:stop], references=references[start:stop])
    return metric.compute()


def take_turns(plain: Callable, ours: Callable, rounds: int) -> tuple[list, list[tuple[float, float]]]:
    """What both give, and of both the medians of CPU and wall seconds. The first round warms up."""
    results, seconds = [None, None], [[], []]
    for number in range(rounds + 1):
        for index, function in enumerate((plain, ours)):
            cpu, wall = time.process_time(), time.perf_counter()
            results[index] = function()
            if number > 0:
                seconds[index].append((time.process_time() - cpu, time.perf_counter() - wall))
    return results, [tuple(map(statistics.median, zip(*found))) for found in seconds]


def report(name: str, seconds: list[tuple[float, float]], num_frames: int, peer: list, ours: list) -> float:
    np.testing.assert_allclose(ours, peer, rtol=0, atol=1e-9)
    (peer_cpu, peer_wall), (cpu, wall) = seconds
    print(
        f"{name:<24} plain loop {peer_cpu:6.3f} s of CPU ({peer_wall:.3f} s), avss_miou {cpu:6.3f} s ({wall:.3f} s;"
        f" {1e6 * cpu / num_frames:.0f} us a frame): {peer_cpu / cpu:.1f} times faster, equal to 1e-9"
    )
    return peer_cpu / cpu


def compare(semantic_frames: int, binary_frames: int, size: int, rounds: int, cache_dir: str) -> dict[str, float]:
    """The speedups, by the case."""
    speedups = {}
    cases = {
        "semantic, uint8": label_maps(semantic_frames, size, seed=0),
        "semantic, int64": tuple(maps.astype(np.int64) for maps in label_maps(semantic_frames, size, seed=0)),
        "semantic, random pixels": tuple(
            np.random.default_rng(0).integers(0, NUM_CLASSES, (2, semantic_frames, size, size), dtype=np.uint8)
        ),
    }
    for name, maps in cases.items():
        metric = AvssMiou("semantic", cache_dir=cache_dir)
        (counts, results), (one_loop, seconds) = take_turns(
            lambda: plain_counts(*maps, NUM_CLASSES),  # noqa: B023
            lambda: evaluate_batches(metric, *maps, 10),  # noqa: B023
            rounds,
        )
        two_loops = tuple(2 * value for value in one_loop)
        ours = [results[key] for key in ("miou", "fscore", "miou_star", "fscore_star")]
        peer = avsbench_means(counts) + cavp_means(counts)
        speedups[name] = report(name, [two_loops, seconds], semantic_frames, peer, ours)
        print(
            f"{'':<24} one loop for both protocols {one_loop[0]:6.3f} s: {one_loop[0] / seconds[0]:.1f} times faster"
        )

    scores, references = score_maps(binary_frames, size, seed=0)
    cases = {
        "binary, noisy scores": scores,
        "binary, smooth scores": np.where(references > 0, np.float32(0.8), np.float32(0.1)),
    }
    for name, predictions in cases.items():
        metric = AvssMiou("binary", cache_dir=cache_dir)
        (peer, results), seconds = take_turns(
            lambda: plain_binary(predictions, references, FRAMES_PER_VIDEO),  # noqa: B023
            lambda: evaluate_batches(metric, predictions, references, FRAMES_PER_VIDEO),  # noqa: B023
            rounds,
        )
        ours = [results["miou"], results["fscore"]]
        speedups[name] = report(name, seconds, binary_frames, peer, ours)
    return speedups


def memory_growth(config_name: str, num_frames: int, size: int, cache_dir: str) -> float:
    """How far this process's memory rises, at its peak, over `num_frames` frames, in MB (Linux)."""
    make = label_maps if config_name == "semantic" else score_maps
    predictions, references = make(10, size, seed=0)
    metric = AvssMiou(config_name, cache_dir=cache_dir)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = memory("VmRSS")
    for _ in range(num_frames // 10):
        metric.add_batch(predictions=predictions, references=references)
    metric.compute()
    return memory("VmHWM") - before


def memory(field: str) -> float:
    """A field of this process's status, in MB."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field)]
    return int(line.split()[1]) / 1024


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--semantic_frames", type=int, default=400)
    parser.add_argument("--binary_frames", type=int, default=200)
    parser.add_argument("--memory_frames", type=int, default=4000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--memory", choices=["semantic", "binary"], help="measure only the memory, in this process")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as cache_dir:
        if args.memory is not None:
            growth = memory_growth(args.memory, args.memory_frames, args.size, cache_dir)
            print(f"{args.memory}, {args.memory_frames} frames of {args.size}x{args.size}: {growth:.0f} MB")
            sys.exit(f"more than {MAX_GROWTH} MB" if growth >= MAX_GROWTH else None)
        speedups = compare(args.semantic_frames, args.binary_frames, args.size, args.rounds, cache_dir)
    print("growth of the peak memory:", flush=True)
    for config_name in ("semantic", "binary"):  # each in a process of its own: a peak never shrinks
        sizes = ["--memory_frames", str(args.memory_frames), "--size", str(args.size)]
        subprocess.run([sys.executable, __file__, "--memory", config_name, *sizes], check=True)
    slow = [name for name, speedup in speedups.items() if speedup < MIN_SPEEDUP[name.split(",")[0]]]
    if slow:
        sys.exit(f"slower than {MIN_SPEEDUP} times the plain loop: {slow}")


if __name__ == "__main__":
    main()
