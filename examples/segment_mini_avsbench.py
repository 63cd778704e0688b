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
Segments a video of a clip of mini-AVSBench with the model that `make demo` has trained. In the folder of the run are
then

    clip.mp4                the frames and the sound of the clip of the test split in which most sounds
    clip_segmented.mp4      the same, annotated
    clip_segmented.png      its seconds: what is seen, what is heard, what is found
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import numpy as np
import soundfile
import transformers
from PIL import Image
from transformers import pipeline

from stepping_stones_hf.data import load_avsbench
from stepping_stones_hf.segment_video import describe_timeline, segment_video
from stepping_stones_hf.video import read_seconds, write_video
from stepping_stones_hf.visualization import draw_sound_strip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/mini"), help="folder of the run")
    args = parser.parse_args(argv)
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()

    clips = load_avsbench("avss", args.run / "mini-avsbench", split="test")
    clips = clips.cast_column("frames", datasets.Sequence(datasets.Image(decode=False)))
    clip = max(clips, key=lambda clip: (len(clip["categories"]), clip["num_frames"]))
    # As large as videos are, so that the legend can be read.
    frames = [Image.open(frame["path"]).resize((384, 384), Image.Resampling.BICUBIC) for frame in clip["frames"]]
    waveform, sampling_rate = soundfile.read(clip["audio"]["path"], always_2d=True)
    video, output = args.run / "clip.mp4", args.run / "clip_segmented.mp4"
    write_video(frames, waveform.T, sampling_rate, video)

    segment = pipeline("audio-visual-segmentation", model=str(args.run / "model"), device="cpu")
    with TemporaryDirectory() as folder:
        timeline = segment_video(segment, video, output, Path(folder, "masks"))
        label_maps = [np.asarray(Image.open(path)) for path in sorted(Path(folder, "masks").iterdir())]

    seconds = list(read_seconds(video))
    features = segment.preprocess(tuple(seconds))["input_features"].numpy()
    draw_sound_strip([second.frame for second in seconds], features, label_maps, size=120).save(
        output.with_suffix(".png")
    )
    print("\n".join(describe_timeline(timeline)))
    print(f"Segmented video: {output}\nIts seconds: {output.with_suffix('.png')}")


if __name__ == "__main__":
    main()
