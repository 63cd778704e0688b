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
"""Time and memory of reading AVSBench, against the way of the released programs, in one run.

    python benchmarks/bench_data.py

A mini-AVSBench of 300 training clips with frames of 224x224 is read three ways, by a DataLoader with two workers and
the same processor: as the released programs do (for each clip decode, compare the mask with each of 71 colors,
compute the log-mel patches), from files with `load_avsbench`, and from its export to Parquet; the last two with the
log-mel patches in their cache. All must give the same tensors. Ratios are of CPU seconds, those of the workers
included; all but the released way, which takes minutes, are medians. The run fails if turning a color mask into class
indices is not 30 times faster than comparing it with each color, if reading from files is not 3 times faster than the
released way, if reading from Parquet is slower than from files by more than the noise of 10 %, or if a streaming pass
over 1,000 clips takes 100 MB more than one over 100.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import datasets
import numpy as np
import soundfile
import torch
from PIL import Image
from torch.utils.data import DataLoader

from stepping_stones_hf import AAVSImageProcessorPil, AAVSProcessor, VGGishFeatureExtractor
from stepping_stones_hf.data import load_avsbench
from stepping_stones_hf.data.collator import AVSCollator
from stepping_stones_hf.data.export import export_avsbench
from stepping_stones_hf.data.labels import PALETTE, color_to_index
from stepping_stones_hf.data.layout import find_metadata, read_metadata
from stepping_stones_hf.data.mini import make_mini_avsbench


CLIPS = {"v1s": (150, 1, 1), "v1m": (90, 1, 1), "v2": (60, 1, 1)}
MIN_MASK_SPEEDUP, MIN_READ_SPEEDUP, MAX_PARQUET_RATIO, MAX_GROWTH = 30, 3, 1.1, 100


def compare_colors(colors: np.ndarray) -> np.ndarray:
    """Class indices `(height, width)` of a color mask, one comparison for each class."""
    index_map = np.zeros(colors.shape[:2], dtype=np.uint8)
    for index, color in enumerate(PALETTE):
        index_map[np.all(colors == color, axis=-1)] = index
    return index_map


class ReleasedWay(torch.utils.data.Dataset):
    """Training clips of AVSS, read again each time."""

    def __init__(self, data_dir: Path, processor: AAVSProcessor):
        clips = read_metadata(find_metadata(data_dir, "avss"), "avss").clips
        self.clips = [clip for clip in clips if clip.split == "train"]
        self.processor = processor

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple:
        clip = self.clips[index]
        frames = [Image.open(clip.find_frame(frame)).convert("RGB") for frame in clip.mask_frame_indices]
        masks = [compare_colors(np.array(Image.open(path).convert("RGB"))) for path in clip.mask_paths]
        waveform, sampling_rate = soundfile.read(clip.audio_path, dtype="float32", always_2d=True)
        patches = self.processor.feature_extractor(
            waveform.T, sampling_rate=sampling_rate, num_patches=clip.num_frames
        )["input_features"]
        return frames, masks, patches[list(clip.mask_frame_indices)]

    def collate(self, clips: list[tuple]) -> dict:
        frames, masks, patches = ([item for clip in clips for item in clip[part]] for part in range(3))
        inputs = self.processor(
            images=frames, segmentation_maps=masks, prompt_masks=[mask > 0 for mask in masks], return_tensors="pt"
        )
        return {**inputs, "input_features": torch.from_numpy(np.stack(patches))}


def make_loader(dataset, collate) -> DataLoader:
    return DataLoader(dataset, batch_size=4, num_workers=2, collate_fn=collate)


def time_pass(loader: DataLoader) -> tuple[float, float]:
    """CPU seconds, also of the workers, which have ended after it, and wall seconds."""
    start, before = time.perf_counter(), os.times()
    for _ in loader:
        pass
    cpu = sum(after - earlier for after, earlier in zip(os.times()[:4], before[:4]))
    return cpu, time.perf_counter() - start


def time_masks(data_dir: Path, repeats: int) -> float:
    """How many times faster than comparing colors, by the medians of CPU seconds."""
    paths = sorted(data_dir.glob("v2/*/labels_rgb/*.png"))[:50]
    masks = [np.array(Image.open(path).convert("RGB")) for path in paths]
    results, seconds = {}, {color_to_index: [], compare_colors: []}
    for number in range(repeats + 1):  # the first warms up
        for function, found in seconds.items():
            start = time.process_time()
            results[function] = [function(mask) for mask in masks]
            if number > 0:
                found.append(time.process_time() - start)
    np.testing.assert_array_equal(*results.values())
    ratio = statistics.median(seconds[compare_colors]) / statistics.median(seconds[color_to_index])
    print(f"color mask -> class indices: {ratio:.1f} times faster than 71 comparisons ({masks[0].shape[:2]} pixels)")
    return ratio


def measure_memory(data_dir: Path, num_clips: int) -> None:
    """Prints the peak memory, in MB, of a streaming pass over so many clips of MS3, which are all of one size."""
    import resource

    processor = AAVSProcessor(AAVSImageProcessorPil(), VGGishFeatureExtractor())
    collator = AVSCollator(processor, prompt="truth")
    if (data_dir / "repeated.csv").exists():
        dataset = load_avsbench("ms3", data_dir / "repeated.csv", split="train", streaming=True)
    else:
        dataset = datasets.load_dataset(str(data_dir), "ms3", split="train", streaming=True).repeat(None)
    for _ in DataLoader(collator.prepare(dataset.take(num_clips)), batch_size=4, collate_fn=collator):
        pass
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def write_repeated_csv(data_dir: Path, num_clips: int) -> None:
    """A csv file with the training clips of MS3 over and over."""
    with open(data_dir / "metadata.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["label"], row["split"]) == ("v1m", "train")]
    with open(data_dir / "repeated.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows[index % len(rows)] for index in range(num_clips))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, help="an existing tree; by default one is made")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory_of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory_of is not None:
        return measure_memory(args.data_dir, args.memory_of)

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        os.environ["HF_DATASETS_CACHE"] = str(folder / "datasets")
        data_dir = args.data_dir or folder / "mini"
        if args.data_dir is None:
            make_mini_avsbench(data_dir, clips=CLIPS, image_size=224)
        mask_speedup = time_masks(data_dir, args.repeats)

        processor = AAVSProcessor(AAVSImageProcessorPil(), VGGishFeatureExtractor())
        released = ReleasedWay(data_dir, processor)
        collator = AVSCollator(processor, prompt="truth", cache_dir=folder / "audio")
        files = load_avsbench("avss", data_dir, split="train", cache_dir=str(folder / "datasets"))
        export_avsbench(data_dir, folder / "parquet")
        parquet = datasets.load_dataset(
            str(folder / "parquet"), "avss", split="train", cache_dir=str(folder / "datasets")
        )
        loaders = {
            "released way": make_loader(released, released.collate),
            "files": make_loader(collator.prepare(files), collator),
            "Parquet": make_loader(collator.prepare(parquet), collator),
        }
        # The released way takes minutes.
        for expected, *others in islice(zip(*loaders.values(), strict=True), 10):
            for inputs in others:
                for name, values in expected.items():
                    torch.testing.assert_close(inputs[name], values, rtol=0, atol=0)
        times = {name: [] for name in loaders}
        for repeat in range(args.repeats):
            for name, loader in loaders.items():
                if repeat == 0 or name != "released way":
                    times[name].append(time_pass(loader))
        medians = {name: [statistics.median(values) for values in zip(*found)] for name, found in times.items()}
        seconds = {name: cpu for name, (cpu, _) in medians.items()}
        for name, (cpu, wall) in medians.items():
            print(
                f"{name}: {1000 * cpu / len(released):.1f} ms of CPU a clip, {len(released) / wall:.1f} clips a"
                f" second, {seconds['released way'] / cpu:.2f} times faster by CPU time"
            )
        read_speedup = seconds["released way"] / seconds["files"]
        parquet_ratio = seconds["Parquet"] / seconds["files"]

        growth = {}
        write_repeated_csv(data_dir, 1000)
        for name, tree in (("files", data_dir), ("Parquet", folder / "parquet")):
            command = [sys.executable, __file__, "--data_dir", str(tree), "--memory_of"]
            peaks = [int(subprocess.check_output([*command, str(count)]).split()[-1]) for count in (100, 1000)]
            growth[name] = peaks[1] - peaks[0]
            print(f"streaming from {name}: {peaks[0]} MB after 100 clips, {peaks[1]} MB after 1,000")

    failures = [
        f"masks only {mask_speedup:.1f} times faster" * (mask_speedup < MIN_MASK_SPEEDUP),
        f"files only {read_speedup:.2f} times faster" * (read_speedup < MIN_READ_SPEEDUP),
        f"Parquet takes {parquet_ratio:.2f} times as long as files" * (parquet_ratio > MAX_PARQUET_RATIO),
        f"memory grows by {growth} MB" * (max(growth.values()) > MAX_GROWTH),
    ]
    sys.exit("\n".join(filter(None, failures)) or None)


if __name__ == "__main__":
    main()
