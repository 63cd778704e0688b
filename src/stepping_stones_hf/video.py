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
"""Videos: second by second what a model looks at and listens to, and the same video again with annotated frames."""

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, repeat
from pathlib import Path

import numpy as np
from PIL import Image

from .deprecation import rename_arguments, warn_of_new_name
from .files import write_whole
from .media import (
    MIN_COMMON_FACTOR,
    Source,
    check_peak,
    check_sampling_rate,
    name_source,
    open_source,
    to_frame,
)


try:
    import av
except ImportError:  # the extra "video"
    av = None


# In place of a sound.
SILENCE = "silence"

# A picture may stand still for so long; a clock that leaps further is wrong.
MAX_STILL_SECONDS = 600

# Files that hold H.264, and the sounds that any of them holds and every player plays; others become AAC.
VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv")
COPIED_SOUNDS = ("aac", "ac3", "alac")


@dataclass(frozen=True)
class ClipSecond:
    """
    What a model gets for one second of a video: the frame that is shown at its middle, and the sound up to its end.

    `waveform` `(samples,)` is mono and begins one second earlier where there is one: whoever resamples it needs a few
    milliseconds of what went before.
    """

    index: int
    frame: Image.Image
    waveform: np.ndarray
    sampling_rate: int


@dataclass(frozen=True)
class VideoInfo:
    """Width and height, upright, in pixels; frames per second on average; and length in seconds."""

    width: int
    height: int
    fps: Fraction
    seconds: float


def unreadable(source: Source, error: Exception) -> ValueError:
    return ValueError(
        f"{name_source(source)} cannot be read: {error.strerror}. Is it a video, or a sound, and is the file whole?"
    )


@contextmanager
def open_media(source: Source) -> Iterator["av.container.InputContainer"]:
    """Opens a file, or its content."""
    if av is None:
        raise ImportError("Videos need PyAV: pip install av, or this library with the extra video.")
    opened = open_source(source)
    try:
        # With a folder in front: FFmpeg takes what stands before a colon for a protocol.
        container = av.open(str(opened.absolute()) if isinstance(opened, Path) else opened)
    except av.FFmpegError as error:
        raise unreadable(source, error) from error
    with container:
        yield container


def read(items: Iterator, source: Source) -> Iterator:
    """Packets of a file. Where one that is cut off or damaged cannot be read any further, it ends."""
    found = False
    try:
        for item in items:
            found = True
            yield item
    except av.FFmpegError as error:
        if not found:
            raise unreadable(source, error) from error


def decode(
    container: "av.container.InputContainer", stream, source: Source
) -> Iterator[tuple["av.VideoFrame | av.AudioFrame", float | None]]:
    """
    Frames of a stream, and when each begins, in seconds of its container's clock. Packets that cannot be decoded are
    left out, as FFmpeg and players do.

    Raises:
        `ValueError`: there are packets, and none of them can be decoded.
    """
    failure, found = None, False
    # AVI has decoding times alone. Frames come out in the order in which they are shown, hence at these in order.
    waiting = deque()
    has_decoding_times = container.format.name == "avi" and stream.type == "video"
    for packet in read(container.demux(stream), source):
        if has_decoding_times and packet.size and packet.dts is not None:
            waiting.append(packet.dts)
        try:
            frames = packet.decode()
        except av.FFmpegError as error:
            failure = error
            if waiting:
                waiting.pop()
            continue
        for frame in frames:
            found = True
            time = frame.time
            if waiting:
                time = float(waiting.popleft() * stream.time_base)
            yield frame, time
    if failure is not None and not found:
        raise unreadable(source, failure) from failure


def get_video_stream(container: "av.container.InputContainer", source: Source) -> "av.VideoStream":
    # The cover of a song is a video stream of one picture.
    cover = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & cover]
    if not streams:
        raise ValueError(f"{name_source(source)} has no video track: there is nothing to see.")
    stream = first_decodable(streams, source)
    stream.thread_type = "AUTO"
    return stream


def get_audio_stream(container: "av.container.InputContainer", source: Source) -> "av.AudioStream":
    if not container.streams.audio:
        raise ValueError(
            f"{name_source(source)} has no audio track. Give its sound as a file of its own, or"
            f' "{SILENCE}" in its place.'
        )
    return first_decodable(container.streams.audio, source)


def first_decodable(streams: Sequence, source: Source):
    """The first track whose codec is known, as for FFmpeg and players."""
    known = [stream for stream in streams if stream.codec_context is not None]
    if not known:
        raise ValueError(
            f"{name_source(source)} has {len(streams)} {streams[0].type} tracks, none of a codec that the installed"
            " FFmpeg knows. Convert it with a program that does."
        )
    return known[0]


def get_start(stream) -> float:
    """When a stream begins, in seconds of its container's clock."""
    return float((stream.start_time or 0) * stream.time_base)


def get_rate(stream: "av.VideoStream") -> Fraction:
    return Fraction(stream.average_rate or stream.guessed_rate or 25)


def get_display_matrix(frame: "av.VideoFrame") -> tuple[int, int, int, int]:
    """
    How a frame is to be turned or mirrored for display, as phones and front cameras record: `(a, b, c, d)`, by which
    what is stored at (x, y) is shown at (a x + c y, b x + d y), up to a shift.
    """
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return 1, 0, 0, 1
    a, b, _, c, d, *_ = np.frombuffer(bytes(side_data), dtype=np.int32) / 2**16
    # The nearest of the eight ways to lay a rectangle.
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (-1 if a < 0 else 1), 0, 0, (-1 if d < 0 else 1)
    return 0, (-1 if b < 0 else 1), (-1 if c < 0 else 1), 0


def is_sideways(frame: "av.VideoFrame") -> bool:
    """Whether height and width change places for display."""
    return get_display_matrix(frame)[0] == 0


def to_array(frame: "av.VideoFrame") -> np.ndarray:
    """(height, width, 3), RGB, uint8, as it is to be displayed."""
    a, b, c, d = get_display_matrix(frame)
    picture = frame.to_ndarray(format="rgb24")
    if a == 0:
        picture = picture.transpose(1, 0, 2)
    return np.ascontiguousarray(picture[:: b + d, :: a + c])


def decode_video(
    container: "av.container.InputContainer", stream: "av.VideoStream", source: Source
) -> Iterator[tuple["av.VideoFrame", float, float]]:
    """Frames, and of each when it begins, in seconds from the start of the video, and how long it stays."""
    start, usual = get_start(stream), float(1 / get_rate(stream))
    size, shown = None, None  # the latest frame, when it begins and how long it stays
    for frame, time in decode(container, stream, source):
        before = -usual if shown is None else shown[1]
        moment = before + usual if time is None else time - start
        size = size or (frame.width, frame.height)
        if (frame.width, frame.height) != size:
            raise ValueError(
                f"{name_source(source)} changes its size from {size[0]}x{size[1]} to {frame.width}x{frame.height},"
                f" {moment:.2f} s from its start. Cut it there."
            )
        if shown is not None:
            check_clock(source, before, moment)
            # Of frames at one time the last one is shown.
            if moment > before:
                yield shown
        shown = frame, moment, float(frame.duration * frame.time_base) if frame.duration else usual
    if shown is None:
        raise ValueError(f"{name_source(source)} has no frames.")
    yield shown


def check_clock(source: Source, before: float, moment: float) -> None:
    """Raises a `ValueError` where the clock of a video, in seconds, runs back or leaps ahead."""
    if not before <= moment <= before + MAX_STILL_SECONDS:
        raise ValueError(
            f"The clock of {name_source(source)} goes from {before:.2f} s to {moment:.2f} s. Were videos joined?"
            " Join them with FFmpeg, which sets the clock."
        )


def read_info(source: Source) -> VideoInfo:
    """
    Size, rate and length of a video.

    Args:
        source (`str`, `PathLike` or `bytes`):
            A video file, or its content.

    Raises:
        `FileNotFoundError`, `ValueError`: there is no such file; it is no video; it has no video track or no frames.
    """
    with open_media(source) as container:
        stream = get_video_stream(container, source)
        frame, _, _ = next(decode_video(container, stream, source))
        size = (frame.height, frame.width) if is_sideways(frame) else (frame.width, frame.height)
        rate = get_rate(stream)
    with open_media(source) as container:
        stream = get_video_stream(container, source)
        # Not from the header: recorders write it before they know the length.
        usual = 1 / rate / stream.time_base
        packets = [packet for packet in read(container.demux(stream), source) if packet.size]
        # AVI has decoding times alone.
        clock = "dts" if container.format.name == "avi" else "pts"
        times = sorted(
            (getattr(packet, clock), packet.duration or usual)
            for packet in packets
            if getattr(packet, clock) is not None
        )
        moments = [float(time * stream.time_base) - get_start(stream) for time, _ in times]
        for before, moment in zip(moments, moments[1:]):
            check_clock(source, before, moment)
        ends = [time + duration for time, duration in times]
        seconds = float(max(ends) * stream.time_base) - get_start(stream) if ends else float(len(packets) / rate)
        return VideoInfo(*size, rate, seconds)


def decode_sound(
    source: Source, start: float | None, rate: int | None = None, layout: str | None = None
) -> Iterator[tuple[np.ndarray, int]]:
    """
    The sound of a file, block by block from `start` on, on the file's clock, or by default from where it begins.
    Silence fills its gaps.

    Args:
        rate (`int`, *optional*), layout (`str`, *optional*):
            What rate and which channels it is to have. By default it keeps its rate, unless that shares few factors
            with that of the models, and its channels.

    Yields:
        `tuple[np.ndarray, int]`: samples `(channels, samples)`, float32, at most a second of silence at a time, and
        the rate in hertz.
    """
    with open_media(source) as container:
        stream = get_audio_stream(container, source)
        start = get_start(stream) if start is None else start
        # Sooner FFmpeg than the feature extractor, whose filter is long.
        rate = rate or (stream.rate if math.gcd(stream.rate, 16_000) >= MIN_COMMON_FACTOR else 16_000)
        resampler, kind, length = None, None, 0  # of the frames until now, and samples until now
        for frame, time in chain(decode(container, stream, source), [(None, None)]):
            frames, now = [], None if frame is None else (frame.format.name, frame.layout.name, frame.sample_rate)
            if now != kind:
                # The end, or other recordings that were joined to the first, whose rate or channels are others.
                if resampler is not None:
                    frames = resampler.resample(None)
                # Not channel by channel: PyAV reads beyond the end of frames of eight planes and more.
                resampler, kind = av.AudioResampler(format="flt", layout=layout, rate=rate), now
            if frame is not None:
                frames = [*frames, *resampler.resample(frame)]
            # A sound that begins later or earlier than the picture, or stops in between. Less is the clock's step.
            silent = 0 if time is None else round((time - start) * rate) - length
            for resampled in frames:
                samples = resampled.to_ndarray().reshape(-1, resampled.layout.nb_channels).T
                broken = np.flatnonzero(~np.isfinite(samples).all(axis=0))
                if len(broken):
                    raise ValueError(
                        f"{name_source(source)} has samples that are NaN or infinite,"
                        f" {(length + broken[0]) / rate:.2f} s from its start. Fix its sound or give another."
                    )
                check_peak(samples, name_source(source))
                if length == 0 and silent < 0:
                    samples = samples[:, -silent:]
                if silent < (0.1 * rate if length > 0 else 0):
                    silent = 0
                # Of silence a second at a time: the clock may jump by days.
                for count in chain(repeat(rate, silent // rate), [silent % rate] * (silent > 0)):
                    yield np.zeros((len(samples), count), dtype=np.float32), rate
                yield samples, rate
                length += silent + samples.shape[1]
                silent = 0
    if length == 0:
        raise ValueError(f"{name_source(source)} has an audio track without sound. Is the file whole?")


def read_sound(source: Source, start: float | None = None) -> Iterator[tuple[np.ndarray, int]]:
    """
    The sound of a file, second by second and without end: after its own there is silence, and in its gaps.

    Args:
        source (`str`, `PathLike` or `bytes`):
            A video or sound file, or its content.
        start (`float`, *optional*):
            Where the first second begins, on the file's clock. By default where the sound does.

    Yields:
        `tuple[np.ndarray, int]`: mono samples `(rate,)`, float32, and the rate in hertz.

    Raises:
        `FileNotFoundError`, `ValueError`: there is no such file; it is no media file; it has no audio track, one
        without sound, or samples that are NaN or infinite or have the values of integers.
    """
    pending = np.zeros(0, dtype=np.float32)  # what is not handed out yet
    for samples, rate in decode_sound(source, start):
        pending = np.concatenate([pending, samples.mean(axis=0)])
        while len(pending) >= rate:
            yield pending[:rate], rate
            pending = pending[rate:]
    yield np.pad(pending, (0, rate - len(pending))), rate
    yield from repeat((np.zeros(rate, dtype=np.float32), rate))


def is_silence(sound: Source | None) -> bool:
    return isinstance(sound, str) and sound == SILENCE


def read_silence(rate: int = 16_000) -> Iterator[tuple[np.ndarray, int]]:
    yield from repeat((np.zeros(rate, dtype=np.float32), rate))


def with_second_before(sounds: Iterator[tuple[np.ndarray, int]]) -> Iterator[tuple[np.ndarray, int]]:
    before = np.zeros(0, dtype=np.float32)
    for samples, rate in sounds:
        yield np.concatenate([before, samples]), rate
        before = samples


@rename_arguments(sound="audio")
def read_seconds(source: Source, audio: Source | None = None) -> Iterator[ClipSecond]:
    """
    What a model gets of a video, second by second. A second counts if the video lasts until its middle; the first one
    always does. In memory is one second at a time.

    Args:
        source (`str`, `PathLike` or `bytes`):
            A video file, or its content.
        audio (`str`, `PathLike` or `bytes`, *optional*):
            A file whose sound takes the place of the video's own, or `"silence"`.

    Yields:
        [`ClipSecond`].

    Raises:
        `FileNotFoundError`, `ValueError`: as [`read_info`] and [`read_sound`].
    """
    with open_media(source) as container:
        stream = get_video_stream(container, source)
        if is_silence(audio):
            sounds = read_silence()
        else:
            sounds = read_sound(source, get_start(stream)) if audio is None else read_sound(audio)
        middles = shown_at(decode_video(container, stream, source), Fraction(1, 2), Fraction(1))
        for index, ((frame, _), sound) in enumerate(zip(middles, with_second_before(sounds))):
            yield ClipSecond(index, Image.fromarray(to_array(frame)), *sound)


def read_ahead(items: Iterator, count: int) -> Iterator:
    """The same items, up to `count` of which a thread of their own takes before they are asked for."""
    thread, end = ThreadPoolExecutor(max_workers=1), object()
    try:
        waiting = deque(thread.submit(next, items, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, items, end))
            yield item
    finally:
        # Waits for the item that is being taken: what it is read from can be closed then.
        thread.shutdown(cancel_futures=True)


def shown_at(
    frames: Iterator[tuple["av.VideoFrame", float, float]], first: Fraction, step: Fraction
) -> Iterator[tuple["av.VideoFrame", Fraction]]:
    """What is shown at `first`, and each `step` later until the video ends, with the time; once in any case."""
    time, shown, end = first, None, 0.0
    for frame, moment, duration in frames:
        while shown is not None and moment > time:
            yield shown, time
            time += step
        shown, end = frame, moment + duration
    while time == first or time < end - 1e-6:
        yield shown, time
        time += step


@rename_arguments(sound="audio")
def write_annotated(
    source: Source,
    output: str | os.PathLike,
    paint: Callable[[np.ndarray, float], np.ndarray],
    audio: Source | None = None,
    fps: float | None = None,
) -> None:
    """
    Writes a video again with its frames annotated: the same size, rate and length, and its sound. The file is there
    once it is whole.

    Args:
        source (`str`, `PathLike` or `bytes`):
            A video file, or its content.
        output (`str` or `PathLike`):
            The file to write: .mp4, .mov or .mkv.
        paint (`Callable`):
            Given a frame `(height, width, 3)`, RGB, uint8, and its time in seconds, what is written in its place.
        audio (`str`, `PathLike` or `bytes`, *optional*):
            As for [`read_seconds`]; with `"silence"` there is no audio track.
        fps (`float`, *optional*):
            Frames per second. By default each frame stays where it is, and rates that vary do so again.

    Raises:
        `FileNotFoundError`, `ValueError`: as [`read_info`] and [`read_sound`]; `output` is a file that is read, or has
        another suffix; `fps` is less than 0.1.
        `OSError`: the file cannot be written.
    """
    output = Path(output)
    check_output(output, source, audio)
    check_fps(fps)
    with write_whole(output) as (partial,), open_media(source) as container, open_output(partial) as written:
        stream = get_video_stream(container, source)
        frames = decode_video(container, stream, source)
        rate, time_base = get_rate(stream), stream.time_base
        if fps is not None:
            rate = Fraction(fps).limit_denominator(1001)
            time_base = 1 / rate
            frames = (
                (frame, float(time), float(time_base)) for frame, time in shown_at(frames, Fraction(0), time_base)
            )
        if audio is None:
            packets = encode_sound(source, written, get_start(stream))
        else:
            packets = iter(()) if is_silence(audio) else encode_sound(audio, written)
        video = None
        for frame, moment, duration in frames:
            original = to_array(frame)
            painted = paint(original, moment)
            if painted.shape != original.shape or painted.dtype != np.uint8:
                raise ValueError(
                    f"paint gave {painted.dtype} of shape {painted.shape} for the frame at {float(moment):.2f} s,"
                    f" expected uint8 of shape {original.shape}."
                )
            if video is None:
                video = add_video_stream(written, painted.shape[1], painted.shape[0], rate, time_base)
                aspect = stream.sample_aspect_ratio or Fraction(1)  # of a pixel
                video.codec_context.sample_aspect_ratio = 1 / aspect if is_sideways(frame) else aspect
                heard, packet = next(packets, (math.inf, None))  # adds its stream, before anything is written
            start, stay = round(Fraction(moment) / time_base), round(Fraction(duration) / time_base)
            written.mux(encode_picture(video, painted, start, stay))
            # Side by side: whatever is far ahead would wait in memory.
            while heard <= moment:
                written.mux(packet)
                heard, packet = next(packets, (math.inf, None))
        written.mux(video.encode())
        while heard < (math.inf if audio is None else moment + duration):
            written.mux(packet)
            heard, packet = next(packets, (math.inf, None))


def write_video(
    frames: Sequence[Image.Image], waveform: np.ndarray, sampling_rate: int, output: str | os.PathLike, fps: int = 10
) -> None:
    """
    Makes a video of the frames and the sound of a clip of AVSBench: each frame stays for a second.

    Args:
        frames (`Sequence[PIL.Image.Image]`):
            A frame for each second, all of one size.
        waveform (`np.ndarray` of shape `(channels, samples)`):
            The sound, of one or two channels: floating point numbers between -1 and 1.
        sampling_rate (`int`):
            Its rate in hertz.
        output (`str` or `PathLike`):
            The file to write: .mp4, .mov or .mkv.
        fps (`int`, *optional*, defaults to 10):
            Frames per second of the video, in which each frame comes so many times.

    Raises:
        `FileNotFoundError`, `ValueError`: the folder does not exist; `output` has another suffix; there are no frames,
        or of several sizes; the waveform is of another shape or type, empty, or has samples that are NaN, infinite or
        beyond that range; `sampling_rate` is no positive whole number.
        `OSError`: the file cannot be written.
    """
    output = Path(output)
    check_output(output)
    check_fps(fps)
    sizes = sorted({frame.size for frame in frames})
    if len(sizes) != 1:
        raise ValueError(f"frames should all be of one size, got {sizes or 'none'}.")
    is_sound = waveform.ndim == 2 and len(waveform) in (1, 2) and waveform.size and waveform.dtype.kind == "f"
    if not is_sound or not np.isfinite(waveform).all():
        raise ValueError(
            "waveform should be finite floating point numbers (1 or 2 channels, samples), got"
            f" {waveform.shape}, {waveform.dtype}."
        )
    check_peak(waveform, "waveform")
    check_sampling_rate(sampling_rate)
    layout = "mono" if len(waveform) == 1 else "stereo"
    with write_whole(output) as (partial,), open_output(partial) as written:
        video = add_video_stream(written, *frames[0].size, Fraction(fps), Fraction(1, fps))
        audio = written.add_stream("aac", rate=48_000, layout=layout)
        for index in range(len(frames) * fps):
            written.mux(encode_picture(video, np.asarray(frames[index // fps].convert("RGB")), index, 1))
        written.mux(video.encode())
        sound = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(waveform, dtype=np.float32), format="fltp", layout=layout
        )
        sound.sample_rate, sound.time_base, sound.pts = sampling_rate, Fraction(1, sampling_rate), 0
        written.mux(audio.encode(sound))
        written.mux(audio.encode())


def check_new_file(path: Path, *others: Source | None) -> None:
    """Refuses to write what is a folder, lies in none, or is one of the others."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}, the folder for {path.name}, does not exist.")
    if path.is_dir():
        raise ValueError(f"{path} is a folder: choose the name of a file.")
    for other in others:
        named = isinstance(other, (str, os.PathLike)) and not is_silence(other)
        if named and (Path(other).absolute() == path.absolute() or (path.exists() and path.samefile(other))):
            raise ValueError(f"{path} is read or written already: choose another name for the output.")


def check_output(output: Path, *others: Source | None) -> None:
    if output.suffix.lower() not in VIDEO_SUFFIXES:
        raise ValueError(f"{output} should end in {', '.join(VIDEO_SUFFIXES[:-1])} or {VIDEO_SUFFIXES[-1]}.")
    check_new_file(output, *others)


def check_fps(fps: float | None) -> None:
    if fps is not None and not 0.1 <= fps <= 1000:
        raise ValueError(f"fps is {fps}, expected frames per second from 0.1 to 1000.")


@contextmanager
def open_output(path: Path) -> Iterator["av.container.OutputContainer"]:
    try:
        # Players on the web begin before they have all of it.
        with av.open(str(path.absolute()), "w", options={"movflags": "faststart"}) as container:
            yield container
    except av.FFmpegError as error:
        raise OSError(f"The video cannot be written into {path.parent}: {error.strerror}.") from error


def add_video_stream(
    container: "av.container.OutputContainer", width: int, height: int, rate: Fraction, time_base: Fraction
) -> "av.VideoStream":
    stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
    stream.width, stream.height = width, height
    # With half the color resolution, which all players know, width and height are even.
    stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
    context = stream.codec_context
    context.time_base = time_base
    context.colorspace, context.color_range = av.video.reformatter.Colorspace.ITU709, 1
    return stream


def encode_picture(stream: "av.VideoStream", picture: np.ndarray, start: int, duration: int) -> list["av.Packet"]:
    """(height, width, 3), RGB, uint8; its time in the units of the stream's codec."""
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    frame = frame.reformat(format=stream.pix_fmt, dst_colorspace="ITU709")
    frame.time_base, frame.pts, frame.duration = stream.codec_context.time_base, start, duration
    return stream.encode(frame)


def encode_sound(
    source: Source, written: "av.container.OutputContainer", start: float | None = None
) -> Iterator[tuple[float, "av.Packet"]]:
    """
    Adds a file's sound to a video that is written: as it is where players know it, else as AAC. Gives each packet and
    when it is heard, in seconds from `start`, by default the start of the sound.
    """
    with open_media(source) as container:
        stream = get_audio_stream(container, source)
        start = get_start(stream) if start is None else start
        layout = "mono" if stream.channels == 1 else "stereo"
        # A track of these files has one rate from beginning to end.
        uniform = {"mp4", "matroska"} & set(container.format.name.split(","))
        if uniform and stream.codec_context.name in COPIED_SOUNDS:
            track = written.add_stream_from_template(stream)
            for packet in read(container.demux(stream), source):
                if packet.dts is not None:  # the last one is empty
                    offset = round(start / packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts - offset, packet.dts - offset, track
                    yield float(packet.pts * packet.time_base), packet
            return
    track, length = written.add_stream("aac", rate=48_000, layout=layout), 0
    for samples, rate in chain(decode_sound(source, start, 48_000, layout), [(None, None)]):
        frame = None
        if samples is not None:
            # By the number of samples, not by the clock of the file, whose step may be longer than a frame of AAC.
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), length
            length += samples.shape[1]
        for packet in track.encode(frame):
            yield float(packet.pts * packet.time_base), packet


def __getattr__(name: str):
    former_names = {"Second": ClipSecond, "to_picture": to_frame, "write_painted": write_annotated}
    if name not in former_names:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = former_names[name]
    warn_of_new_name(f"{__name__}.{name}", f"{value.__module__}.{value.__name__}")
    return value


__all__ = ["SILENCE", "ClipSecond", "VideoInfo", "read_info", "read_seconds", "write_annotated", "write_video"]
