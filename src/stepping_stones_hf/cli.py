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
"""`stepping-stones`: the library's command line, one function per command."""

import argparse
import json
import signal
import sys
from dataclasses import asdict
from importlib import import_module
from inspect import signature
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError


__all__ = ["main"]

# Where `make demo` leaves its model.
DEMO_MODEL = "runs/mini/model"

# Whose released checkpoints can be converted, by the names of their folders in models/.
CONVERTIBLE_MODELS = ("aavs", "avsegformer", "cavp", "ease", "tpavi")


def convert(args: argparse.Namespace) -> int:
    package = import_module(f".models.{args.model}", __package__)
    converter = getattr(package, f"convert_{args.model}_checkpoint")
    options = {"config": args.config, "stage": args.stage, "vggish": args.vggish}
    options["preprocessor_config"] = args.preprocessor_config
    options = {name: value for name, value in options.items() if value is not None}
    try:
        signature(converter).bind(args.checkpoint, output_dir=args.output, **options)
    except TypeError as error:
        raise ValueError(f"The options do not go with --model {args.model}: {error}.") from error
    conversion = converter(args.checkpoint, output_dir=args.output, **options)
    for key in conversion.unexpected:
        print(f"unexpected: {key}", file=sys.stderr)
    for key in conversion.missing:
        print(f"missing: {key}", file=sys.stderr)
    if conversion.unexpected or conversion.missing:
        print(
            f"{args.checkpoint} has {len(conversion.unexpected)} unexpected keys, and {len(conversion.missing)}"
            " parameters of the model are missing in it (or have other shapes). Nothing was written. Check the"
            " options.",
            file=sys.stderr,
        )
        return 1
    if conversion.dropped:
        print(f"Left out {len(conversion.dropped)} parameters that take part in nothing:")
        print("\n".join(f"    {key}" for key in conversion.dropped))
    print(f"Wrote {args.output}: AutoModelForAudioVisualSegmentation.from_pretrained({str(args.output)!r}) loads it.")
    return 0


def export_data(args: argparse.Namespace) -> int:
    from .data.export import export_avsbench

    output_dir = export_avsbench(
        args.data_dir,
        args.output,
        num_shards=args.num_shards,
        push_to_hub=args.push_to_hub,
        configs=args.configs,
        on_error=args.on_error,
        unknown_color=args.unknown_color,
        allow_outside_links=args.allow_outside_links,
        num_proc=args.num_proc,
    )
    print(f"Wrote {output_dir}: load it with datasets.load_dataset({str(output_dir)!r}, CONFIGURATION).")
    if args.push_to_hub is not None:
        print(f"Uploaded it to the private dataset repository {args.push_to_hub}.")
    return 0


def make_mini(args: argparse.Namespace) -> int:
    from .data.mini import make_mini_avsbench

    make_mini_avsbench(args.output, seed=args.seed, statistics=args.statistics)
    print(f"mini-AVSBench is in {args.output}, in the layout of AVSBench-semantic.")
    return 0


def doctor(args: argparse.Namespace) -> int:
    from .data.doctor import diagnose

    diagnosis = diagnose(args.data_dir, allow_outside_links=args.allow_outside_links)
    print(json.dumps(asdict(diagnosis), indent=2, default=str) if args.json else diagnosis)
    return int(diagnosis.count("error") > 0)


def segment(args: argparse.Namespace) -> int:
    if args.model == DEMO_MODEL and not Path(DEMO_MODEL).exists():
        raise FileNotFoundError(
            f"{DEMO_MODEL}, the model that `make demo` trains, does not exist here: give one with --model."
        )
    if len(args.videos) == 1 and not args.videos[0].is_dir():
        return segment_one(args)
    return segment_several(args)


def load_pipeline(args: argparse.Namespace):
    import torch
    from transformers import pipeline
    from transformers.utils.logging import disable_progress_bar

    try:
        torch.zeros(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {args.device} is not there: {str(error).splitlines()[0]}") from error
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no half file is left
    disable_progress_bar()
    return pipeline("audio-visual-segmentation", model=args.model, localizer=args.localizer, device=args.device)


def segment_one(args: argparse.Namespace) -> int:
    from .segment_video import check_files, describe_timeline, segment_video

    if args.outputs is not None:
        raise ValueError("--outputs is for several videos: -o, --masks and --json say what is written of one.")
    (video,) = args.videos
    output = args.output or video.parent / f"{video.stem}_segmented.mp4"
    check_files(video, output, args.masks, args.json, args.audio, args.fps)  # before large models are loaded
    timeline = segment_video(
        load_pipeline(args),
        video,
        output,
        args.masks,
        args.json,
        audio=args.audio,
        fps=args.fps,
        batch_size=args.batch_size,
        disable_progress_bar=False,
    )
    print("\n".join(describe_timeline(timeline)) or "Nothing sounds.")
    print(f"Wrote {', '.join(str(path) for path in (output, args.masks, args.json) if path is not None)}.")
    return 0


def segment_several(args: argparse.Namespace) -> int:
    from .segment_video import check_sound
    from .segment_videos import OUTPUTS, find_videos, open_corpus, report_failures, segment_videos
    from .video import check_fps

    if args.masks is not None or args.json is not None:
        raise ValueError("--masks and --json are for one video: --outputs says what is written of each of several.")
    if args.output is None and len(args.videos) > 1:
        raise ValueError("Several videos need a folder for their outputs: give one with -o.")
    folder = args.videos[0].resolve()
    output = args.output or folder.with_name(f"{folder.name}_segmented")
    outputs = args.outputs or list(OUTPUTS)
    check_fps(args.fps)
    if args.audio is not None:
        check_sound(args.audio)
    videos = find_videos(args.videos, output)
    settings = {"model": args.model, "localizer": args.localizer, "audio": args.audio, "fps": args.fps}
    with open_corpus(output, args.videos, outputs, **settings):
        failures = segment_videos(
            load_pipeline(args),
            videos,
            output,
            outputs,
            audio=args.audio,
            fps=args.fps,
            batch_size=args.batch_size,
            disable_progress_bar=False,
        )
        report_failures(output, videos, failures)
    return int(bool(failures))


def register_metric(args: argparse.Namespace) -> int:
    from .metrics.registration import register_metric

    print(f'evaluate.load("avss_miou") finds {register_metric()}.')
    return 0


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stepping-stones", description="Audio-visual segmentation, command by command."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("convert", help="convert a released checkpoint into a folder for from_pretrained")
    command.set_defaults(run=convert)
    command.add_argument("--model", choices=CONVERTIBLE_MODELS, required=True)
    command.add_argument(
        "--checkpoint", type=Path, required=True, help=".pth or .safetensors, with the names as released"
    )
    command.add_argument(
        "--config", type=Path, help="the original config.json (aavs), or fields that differ from the released recipe"
    )
    command.add_argument("--preprocessor-config", type=Path, help="the original preprocessor_config.json (aavs)")
    command.add_argument("--vggish", type=Path, help="torchvggish checkpoint; without it the model takes embeddings")
    command.add_argument("--stage", type=int, choices=[1, 2], help="1: localization, 2: semantics (aavs)")
    command.add_argument("--output", type=Path, required=True, help="folder to write")

    command = commands.add_parser("export-data", help="write a copy of AVSBench as Parquet files and a dataset card")
    command.set_defaults(run=export_data)
    command.add_argument("data_dir", type=Path, metavar="DIR", help="copy of AVSBench, in either layout")
    command.add_argument("output", type=Path, metavar="OUT", help="folder to write")
    command.add_argument("--push-to-hub", metavar="REPO", help="private dataset repository to upload to")
    command.add_argument(
        "--num-shards", type=int, help="files of each split: a multiple of machines x processes x workers"
    )
    command.add_argument(
        "--configs", nargs="+", choices=["s4", "ms3", "avss"], help="all that the copy has by default"
    )
    command.add_argument(
        "--on-error", choices=["raise", "skip"], default="raise", help="what a missing or broken file does"
    )
    command.add_argument(
        "--unknown-color",
        choices=["error", "background"],
        default="error",
        help="what colors outside the palette are",
    )
    command.add_argument("--allow-outside-links", action="store_true", help="follow links to files outside DIR")
    command.add_argument("--num-proc", type=int, help="processes that read and check the copy")

    command = commands.add_parser("make-mini", help="make mini-AVSBench, a procedural AVSBench, in seconds")
    command.set_defaults(run=make_mini)
    command.add_argument("output", type=Path, help="folder to write")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--statistics",
        choices=["independent", "avsbench"],
        default="independent",
        help="whether what sounds is independent of what can be seen, or related to it as in AVSBench",
    )

    command = commands.add_parser("doctor", help="examine a copy of AVSBench without changing it; 1 if it has errors")
    command.set_defaults(run=doctor)
    command.add_argument("data_dir", type=Path, metavar="DIR", help="root folder of the copy, or the csv file in it")
    command.add_argument("--json", action="store_true", help="write summary and findings as one JSON object")
    command.add_argument("--allow-outside-links", action="store_true", help="follow links that leave the folder")

    command = commands.add_parser("segment", help="annotate videos with what sounds in them, second by second")
    command.set_defaults(run=segment)
    command.add_argument(
        "videos", type=Path, nargs="+", metavar="VIDEO", help="any file that FFmpeg reads, several, or a folder"
    )
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="OUT",
        help=".mp4, .mov or .mkv (VIDEO_segmented.mp4); of several videos a folder",
    )
    command.add_argument(
        "--model", default=DEMO_MODEL, metavar="DIR_OR_REPO", help="a two-stage repository, or a model without prompt"
    )
    command.add_argument("--localizer", metavar="DIR_OR_REPO", help="localizer, if not the repository's localizer/")
    command.add_argument("--masks", type=Path, metavar="DIR", help="new folder for a PNG of class indices each second")
    command.add_argument("--json", type=Path, metavar="FILE", help="file for the timeline")
    command.add_argument(
        "--outputs",
        nargs="+",
        choices=["video", "masks", "timeline"],
        help="what is written of each of several videos; all by default",
    )
    command.add_argument("--audio", metavar="FILE", help="another file's sound, or the word silence")
    command.add_argument("--fps", type=float, help="frames per second of OUT; those of VIDEO by default")
    command.add_argument("--batch-size", type=int, default=1, help="seconds that pass through the model at a time")
    command.add_argument("--device", default="cpu", help="cpu, cuda, ...")

    command = commands.add_parser("register-metric", help='make evaluate.load("avss_miou") work from any directory')
    command.set_defaults(run=register_metric)
    return parser


def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, OSError, ImportError, StrictDataclassError, SafetensorError) as error:
        # Messages of bad input say what to do; a stack trace would bury them.
        print(f"stepping-stones: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stepping-stones: stopped.", file=sys.stderr)
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
