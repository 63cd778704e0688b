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
"""Videos for tests: moving colors and a sound that is there in every other second."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


RED, BLUE = (200, 40, 60), (20, 60, 210)


def make_frame(width: int, height: int, moment: float) -> np.ndarray:
    """Blue in the top left corner; elsewhere red, and each second a little less so."""
    frame = np.full((height, width, 3), RED, dtype=np.uint8)
    frame[..., 0] -= np.uint8(10 * int(moment))
    frame[: height // 2, : width // 2] = BLUE
    return frame


def make_sound(rate: int, seconds: float, channels: int = 2) -> np.ndarray:
    """(channels, samples): a tone in seconds 1, 3, 5, ..., in the first channel only."""
    time = np.arange(round(rate * seconds)) / rate
    sound = np.zeros((channels, len(time)), dtype=np.float32)
    sound[0] = 0.8 * np.sin(2 * np.pi * 440 * time) * (time.astype(int) % 2)
    return sound


def make_video(
    path: Path,
    width: int = 64,
    height: int = 48,
    fps: int = 10,
    seconds: float = 3,
    moments: list[float] | None = None,
    video_codec: str | None = "libx264",
    pix_fmt: str = "yuv420p",
    rotation: int | None = None,
    aspect: Fraction | None = None,
    audio_codec: str | None = "aac",
    rate: int = 16_000,
    sound: np.ndarray | None = None,
    sound_start: float = 0.0,
) -> Path:
    """Writes a video; `moments` are when its frames are shown if not `fps` times a second."""
    moments = [index / fps for index in range(round(fps * seconds))] if moments is None else moments
    with av.open(str(path), "w") as container:
        if video_codec is not None:
            video = container.add_stream(video_codec, rate=fps)
            video.width, video.height, video.pix_fmt = width, height, pix_fmt
            video.codec_context.time_base = Fraction(1, 1000)
            if aspect is not None:
                video.codec_context.sample_aspect_ratio = aspect
            if rotation is not None:
                video.set_display_rotation(rotation)
        if audio_codec is not None:
            sound = make_sound(rate, seconds) if sound is None else sound
            audio = container.add_stream(audio_codec, rate=rate, layout="stereo" if len(sound) == 2 else "mono")
        if video_codec is not None:
            ends = [*moments[1:], moments[-1] + 1 / fps]
            for moment, end in zip(moments, ends):
                frame = av.VideoFrame.from_ndarray(make_frame(width, height, moment), format="rgb24")
                frame.time_base, frame.pts = Fraction(1, 1000), round(1000 * moment)
                frame.duration = round(1000 * (end - moment))
                container.mux(video.encode(frame))
            container.mux(video.encode())
        if audio_codec is not None:
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(sound), format="fltp", layout="stereo" if len(sound) == 2 else "mono"
            )
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), round(sound_start * rate)
            container.mux(audio.encode(frame))
            container.mux(audio.encode())
    return path


def read_streams(path: Path) -> dict[str, tuple]:
    """By kind of track how long it is, in seconds, and how many frames (or samples) decoding it gives."""
    found = {}
    with av.open(str(path)) as container:
        for kind in ("video", "audio"):
            for stream in getattr(container.streams, kind):
                container.seek(0)
                frames = list(container.decode(stream))
                last = frames[-1]
                length = last.samples / last.sample_rate if kind == "audio" else float(last.duration * last.time_base)
                count = sum(frame.samples for frame in frames) if kind == "audio" else len(frames)
                found[kind] = (last.time + length, count)
    return found


def read_files(folder: Path) -> set[str]:
    """All files of a folder, at any depth, by their paths in it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def read_states(folder: Path) -> dict[str, tuple[int, int]]:
    """Of each file of a folder what changes if it is written again: its number, and when it was."""
    stats = {name: (folder / name).stat() for name in read_files(folder)}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}
