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
Segments folders of videos on several processes, each of which takes every n-th video:

    accelerate launch --num_processes 2 examples/segment_videos.py videos --output_dir segmented

It does what `stepping-stones segment videos -o segmented` does on one. Whatever ends it, the same command resumes: a
video is segmented once. In the folder of the outputs are

    run.json                    what the outputs are made with
    <name of a video>/          segmented.mp4, masks/ and timeline.json, once all of them are whole
    failures.csv                which videos failed and why; the exit code is 1 if there are any
"""

import argparse
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, gather_object
from transformers import pipeline
from transformers.utils.logging import disable_progress_bar

from stepping_stones_hf.segment_video import check_sound
from stepping_stones_hf.segment_videos import OUTPUTS, find_videos, open_corpus, report_failures, segment_videos
from stepping_stones_hf.video import check_fps


__all__ = ["main"]


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path, help="folders of videos, or files")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--model", default="runs/mini/model", help="a two-stage repository, or a model without prompt")
    parser.add_argument("--localizer", help="localizer, if not the repository's localizer/")
    parser.add_argument("--outputs", nargs="+", choices=list(OUTPUTS), default=list(OUTPUTS))
    parser.add_argument("--audio", help="another file's sound, or the word silence")
    parser.add_argument("--fps", type=float, help="frames per second of the annotated videos; by default as they are")
    parser.add_argument("--batch_size", type=int, default=1, help="seconds that pass through the model at a time")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_arguments(argv)
    disable_progress_bar()
    # What would make each video fail.
    check_fps(args.fps)
    if args.audio is not None:
        check_sound(args.audio)
    # At the end processes wait for the one whose videos take longest.
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(weeks=4))])
    videos = find_videos(args.videos, args.output_dir)
    settings = {"model": args.model, "localizer": args.localizer, "audio": args.audio, "fps": args.fps}
    corpus = open_corpus(args.output_dir, args.videos, args.outputs, **settings)
    with corpus if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        own = list(videos)[accelerator.process_index :: accelerator.num_processes]
        failures = segment_videos(
            pipeline(
                "audio-visual-segmentation", model=args.model, localizer=args.localizer, device=accelerator.device
            ),
            {name: videos[name] for name in own},
            args.output_dir,
            args.outputs,
            audio=args.audio,
            fps=args.fps,
            batch_size=args.batch_size,
            disable_progress_bar=not accelerator.is_main_process,
        )
        failures = gather_object(failures)
        if accelerator.is_main_process:
            report_failures(args.output_dir, videos, failures)
    accelerator.wait_for_everyone()  # whoever ends with 1 makes the launcher end the others
    accelerator.end_training()
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
