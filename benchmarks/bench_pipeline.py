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
How busy the models are while a video is segmented: both stages of AAVS, with random weights, on a video of 60 seconds,
640x360, 30 frames a second with sound.

    python benchmarks/bench_pipeline.py
    python benchmarks/bench_pipeline.py --recipe mini --rounds 3

Annotated video, masks and timeline are written in two ways, which take turns after a warm-up: `ahead` is what
`stepping-stones segment` does, seconds are read before the models want them and frames are written while the models
work on later ones; `in turn` does one after the other, and has to write the same bytes. Given are medians for the
whole video: wall and CPU seconds, the seconds in each part, and the share of the wall time in which the localizer or
the model runs. With the recipe of the paper's size the run fails if that share is less than 0.85 ahead.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import torch
from bench_segment import make_video
from transformers import Pipeline, pipeline

from stepping_stones_hf import AutoModelForAudioVisualSegmentation, segment_video, video
from stepping_stones_hf.pipelines import audio_visual_segmentation
from stepping_stones_hf.tables import format_table, write_csv
from stepping_stones_hf.training.arguments import read_recipe
from stepping_stones_hf.training.initialization import make_config, make_new_processor


__all__ = ["main"]

CONFIGS = Path(__file__).parents[1] / "examples" / "configs"
PAPER = "avss"
MIN_SHARE = 0.85
WAYS = ("ahead", "in turn")


def save_models(recipe: dict, folder: Path) -> None:
    """Both stages as a recipe makes them."""
    for stage, place in ((1, folder / "localizer"), (2, folder)):
        block = recipe["model"] | recipe.get(f"stage_{stage}_model", {})
        config = make_config(block, localizes=stage == 1, prompted=stage == 2)
        AutoModelForAudioVisualSegmentation.from_config(config).save_pretrained(place)
        make_new_processor(config, stage == 1, recipe.get("image_processor", {})).save_pretrained(place)


class Stopwatch(ExitStack):
    """Seconds in functions, by the name of a part. A function that another one of them calls counts in both."""

    def __init__(self, device: str):
        super().__init__()
        self.device, self.seconds = device, defaultdict(float)

    def watch(self, part: str, owner, name: str) -> None:
        function = getattr(owner, name)

        def watched(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            if self.device == "cuda":
                torch.cuda.synchronize()
            self.seconds[part] += time.perf_counter() - start
            return result

        self.enter_context(patch.object(owner, name, watched))


def measure(segment: Pipeline, path: Path, way: str, device: str) -> tuple[dict[str, float], dict[str, bytes]]:
    """Seconds of the whole and of its parts, and the files that were written."""
    with tempfile.TemporaryDirectory() as folder, Stopwatch(device) as stopwatch:
        if way == "in turn":
            for module in (audio_visual_segmentation, segment_video):
                stopwatch.enter_context(patch.object(module, "read_ahead", lambda items, count: items))
        stopwatch.watch("preparing", segment, "preprocess")
        stopwatch.watch("models", segment.localizer, "forward")
        stopwatch.watch("models", segment.model, "forward")
        stopwatch.watch("models and label maps", segment, "_forward")
        stopwatch.watch("results", segment, "postprocess")
        stopwatch.watch("painting", segment_video, "blend")
        stopwatch.watch("encoding", video, "encode_picture")
        paths = [Path(folder, name) for name in ("segmented.mp4", "masks", "timeline.json")]
        cpu, start = time.process_time(), time.perf_counter()
        segment_video.segment_video(segment, path, *paths)
        seconds = {"wall": time.perf_counter() - start, "CPU": time.process_time() - cpu, **stopwatch.seconds}
        seconds["label maps"] = seconds.pop("models and label maps") - seconds["models"]
        files = [file for file in sorted(Path(folder).rglob("*")) if file.is_file()]
        return seconds, {str(file.relative_to(folder)): file.read_bytes() for file in files}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=PAPER, help="which models: a recipe of examples/configs, by its name")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    rounds, files = {way: [] for way in args.ways}, {}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        save_models(read_recipe(CONFIGS / f"{args.recipe}.yaml"), folder / "model")
        segment = pipeline("audio-visual-segmentation", model=str(folder / "model"), device=args.device)
        make_video(folder / "short.mp4", 1)
        make_video(folder / "video.mp4", args.seconds)
        measure(segment, folder / "short.mp4", "in turn", args.device)  # warms up
        for _ in range(args.rounds):
            for way in args.ways:
                seconds, files[way] = measure(segment, folder / "video.mp4", way, args.device)
                rounds[way].append(seconds | {"share of models": seconds["models"] / seconds["wall"]})
    if any(files[way] != files[args.ways[0]] for way in args.ways):
        sys.exit("The two ways wrote different files.")

    rows = []
    for way, found in rounds.items():
        medians = {name: round(statistics.median(one[name] for one in found), 3) for name in found[0]}
        device = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
        about = {"recipe": args.recipe, "device": device, "threads": torch.get_num_threads(), "video": args.seconds}
        rows.append(about | {"way": way} | medians)
    print(format_table([*rows[0]], [row.values() for row in rows]))
    if args.csv is not None:
        args.csv.parent.mkdir(parents=True, exist_ok=True)
        write_csv(rows, args.csv)
    if args.recipe == PAPER and rows[0]["way"] == "ahead" and rows[0]["share of models"] < MIN_SHARE:
        sys.exit(f"The models work {rows[0]['share of models']:.3f} of the time, expected {MIN_SHARE}.")


if __name__ == "__main__":
    main()
