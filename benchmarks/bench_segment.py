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
"""Memory of `stepping-stones segment` for short and long videos.

    python benchmarks/bench_segment.py --model runs/mini/model

Videos of 10 and 60 seconds, 640x360, 30 frames a second with sound, go through the command in processes of their own.
The run fails if the long one's peak of resident memory is more than 100 MB above that of the short one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


MAX_GROWTH = 100  # MB
WIDTH, HEIGHT, FPS, RATE = 640, 360, 30, 44_100


def make_video(path: Path, seconds: int) -> None:
    """A square that moves over noise, and a tone that rises and falls."""
    generator = np.random.default_rng(0)
    background = generator.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    time = np.arange(seconds * RATE) / RATE
    sound = (0.5 * np.sin(2 * np.pi * 440 * time + 200 * np.sin(time))).astype(np.float32)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        for second in range(seconds):
            for index in range(second * FPS, (second + 1) * FPS):
                picture = background.copy()
                left = (4 * index) % (WIDTH - 100)
                picture[100:200, left : left + 100] = (200, 50, 50)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, FPS)
                container.mux(video.encode(frame))
            samples = np.ascontiguousarray(sound[None, second * RATE : (second + 1) * RATE])
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), second * RATE
            container.mux(audio.encode(frame))
        container.mux(video.encode())
        container.mux(audio.encode())


def segment(path: Path, model: str) -> tuple[float, float]:
    """Peak resident memory of the command in MB, and its CPU time in seconds."""
    command = [sys.executable, "-m", "stepping_stones_hf.cli", "segment", str(path), "--model", model]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"{' '.join(command)} failed.")
    return usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/mini/model")
    args = parser.parse_args()
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for seconds in (10, 60):
            path = Path(folder, f"{seconds}.mp4")
            make_video(path, seconds)
            peaks[seconds], cpu = segment(path, args.model)
            print(f"{seconds} s of video: peak {peaks[seconds]:.0f} MB, {cpu / seconds:.2f} s of CPU a second")
    growth = peaks[60] - peaks[10]
    print(f"growth {growth:.0f} MB, allowed {MAX_GROWTH}")
    return int(growth > MAX_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
