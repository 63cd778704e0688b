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
What `read_seconds` sees and hears in recordings of many kinds, against plain decoding with PyAV and FFmpeg's filters.

    python benchmarks/sweep_recordings.py

Videos and sounds, of containers x codecs x rates x layouts x rotations x damage, are made from nothing. Of each video
the frames at the middle of its seconds are compared, by presentation time, and the sound at 16 kHz: that of
`read_seconds` as the feature extractor resamples it, and the reference as FFmpeg's filter `aresample` mixes, resamples
and aligns it to the picture. One Markdown table is printed; the run fails where a difference has no explanation, or
damage not the error that is expected.
"""

import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torchaudio.functional import resample

from stepping_stones_hf.models.feature_extraction_base import KAISER_BEST
from stepping_stones_hf.tables import format_table
from stepping_stones_hf.video import read_seconds


SECONDS, FPS, SIZE = 4, 10, (64, 48)
# The two resampling filters agree below 7 kHz, where all of these sounds lie; a sample of delay would be 0.1 or more.
SOUND_TOLERANCE = 0.01
MEAN = " but for the mix: the mean of the channels"
ERROR = "error: "


# Making recordings ---------------------------------------------------------------------------------------------------


def draw(index: int, width: int, height: int) -> np.ndarray:
    """(height, width, 3), RGB: colors that tell up from down and left from right, and a brightness that tells when."""
    rows, columns = np.mgrid[0:height, 0:width]
    picture = np.stack([160 * rows / height, 160 * columns / width, np.full((height, width), 2 * index)], axis=-1)
    picture[: height // 3, : width // 4] += 80
    return picture.astype(np.uint8)


def play(rate: int, seconds: float, channels: int) -> np.ndarray:
    """(channels, samples): each channel has tones of its own, louder and softer, from 200 Hz to 3 kHz."""
    time = np.arange(round(rate * seconds)) / rate
    tones = [
        np.sin(2 * np.pi * (200 + 90 * channel) * time) * (0.6 + 0.4 * np.sin(2 * np.pi * (1 + channel) * time))
        + 0.5 * np.sin(2 * np.pi * (1_500 + 200 * channel) * time)
        for channel in range(channels)
    ]
    return (0.3 * np.array(tones)).astype(np.float32)


def write(
    path: Path,
    video: str | None = "libx264",
    audio: str | None = "aac",
    *,
    size: tuple[int, int] = SIZE,
    pix_fmt: str = "yuv420p",
    fps: int = FPS,
    moments: list[float] | None = None,
    options: dict[str, str] | None = None,
    audio_options: dict[str, str] | None = None,
    rotation: int | None = None,
    aspect: Fraction | None = None,
    rate: int = 48_000,
    layout: str = "stereo",
    sound_seconds: float = SECONDS,
    sound_start: float = 0.0,
    gap: tuple[float, float] | None = None,
    container_options: dict[str, str] | None = None,
) -> None:
    """A recording; `moments` are when its frames are shown, and `gap` from when to when there is no sound."""
    packets = []
    with av.open(str(path), "w", options=container_options or {}) as container:
        if video is not None:
            pictures = container.add_stream(video, rate=fps, options=options or {})
            pictures.width, pictures.height, pictures.pix_fmt = *size, pix_fmt
            if moments is not None:
                pictures.codec_context.time_base = Fraction(1, 1000)
            if aspect is not None:
                pictures.codec_context.sample_aspect_ratio = aspect
            if rotation is not None:
                pictures.set_display_rotation(rotation)
        if audio is not None:
            # Vorbis' own encoder counts as experimental.
            sounds = container.add_stream(
                audio, rate=rate, layout=layout, options={"strict": "experimental"} | (audio_options or {})
            )
        if video is not None:
            for index in range(fps * SECONDS if moments is None else len(moments)):
                frame = av.VideoFrame.from_ndarray(draw(index, *size), format="rgb24")
                frame.time_base = Fraction(1, fps) if moments is None else Fraction(1, 1000)
                frame.pts = index if moments is None else round(1000 * moments[index])
                packets += pictures.encode(frame)
            packets += pictures.encode()
        if audio is not None:
            samples = play(rate, sound_seconds, sounds.codec_context.channels)
            for begin in range(0, samples.shape[1], rate // 10):
                if gap is not None and gap[0] <= begin / rate < gap[1]:
                    continue
                block = samples[:, begin : begin + rate // 10].T.reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = begin + round(sound_start * rate)
                packets += sounds.encode(frame)
            packets += sounds.encode()
        # In order of time, as recorders write, or a file that is cut off would have lost one of its tracks.
        for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)):
            container.mux(packet)


def make(**options) -> Callable[[Path], None]:
    return lambda path: write(path, **options)


def cut_off(share: float, **options) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        write(path, **options)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return make


def spoil(kind: str, first: int, count: int, **options) -> Callable[[Path], None]:
    """Zeros in place of packets of one track."""

    def make(path: Path) -> None:
        write(path, **options)
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(getattr(container.streams, kind)[0]) if packet.size]
            places = [(packet.pos, packet.size) for packet in packets[first : first + count]]
        content = bytearray(path.read_bytes())
        for place, size in places:
            content[place : place + size] = bytes(size)
        path.write_bytes(content)

    return make


def spoil_bytes(begin: float, end: float, **options) -> Callable[[Path], None]:
    """Zeros in place of a part of the file, whatever it holds."""

    def make(path: Path) -> None:
        write(path, **options)
        content = bytearray(path.read_bytes())
        begun, ended = int(begin * len(content)), int(end * len(content))
        content[begun:ended] = bytes(ended - begun)
        path.write_bytes(content)

    return make


def join(*recordings: dict) -> Callable[[Path], None]:
    """One file after the other, not encoded again."""

    def make(path: Path) -> None:
        content = b""
        for options in recordings:
            write(path, **options)
            content += path.read_bytes()
        path.write_bytes(content)

    return make


def mirror(path: Path) -> None:
    """An mp4 whose display matrix exchanges left and right."""
    write(path)
    content = path.read_bytes()
    upright = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    place = content.index(upright, content.index(b"tkhd"))  # of the first track, the picture
    mirrored = np.array([-1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(content[:place] + mirrored + content[place + len(mirrored) :])


# Plain decoding ------------------------------------------------------------------------------------------------------


def decode(path: Path, kind: str) -> Iterator:
    """Frames of the first track of a kind; packets that cannot be decoded are left out."""
    with av.open(str(path)) as container:
        packets = container.demux(getattr(container.streams, kind)[0])
        try:
            for packet in packets:
                try:
                    yield from packet.decode()
                except av.FFmpegError:
                    continue
        except av.FFmpegError:
            return  # the file is cut off


def decode_pictures(path: Path) -> tuple[list[float], list[Image.Image], float, float]:
    """When each frame is shown, from the first one on; the frames; when the first one is shown; and the end."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = stream.average_rate
        # AVI has no times of presentation, which matters where frames are stored in another order. The rate is fixed.
        reordered = container.format.name == "avi" and stream.codec_context.name == "h264"
    frames = list(decode(path, "video"))
    times = [index / float(rate) if reordered else frame.time for index, frame in enumerate(frames)]
    last = frames[-1]
    stay = float(last.duration * last.time_base) if last.duration else float(1 / rate)
    return (
        [time - times[0] for time in times],
        [frame.to_image() for frame in frames],
        times[0],
        times[-1] + stay - times[0],
    )


def decode_sound(path: Path, start: float, layout: str | None) -> np.ndarray:
    """
    (samples,) at 16 kHz from `start` on, as FFmpeg aligns sound to a picture (`async`); mixed to a layout by
    FFmpeg's law, and then, or else, the mean of the channels.
    """
    blocks, graph, kind = [], None, None
    for frame in [*decode(path, "audio"), None]:
        now = None if frame is None else (frame.format.name, frame.layout.name, frame.sample_rate)
        if now != kind:
            if graph is not None:
                graph.push(None)
                blocks += pull(graph)
            # FFmpeg's command makes a new filter, too, where rate or channels change. Only the first one is aligned.
            align = ":first_pts=0" if kind is None else ""
            kind = now
            if frame is not None:
                graph = av.filter.Graph()
                nodes = [
                    graph.add_abuffer(
                        sample_rate=frame.sample_rate,
                        format=frame.format.name,
                        layout=frame.layout.name,
                        time_base=frame.time_base,
                    ),
                    graph.add("aresample", f"16000:async=1{align}:out_chlayout={layout or frame.layout.name}"),
                    graph.add("aformat", "sample_fmts=flt"),
                    graph.add("abuffersink"),
                ]
                graph.link_nodes(*nodes).configure()
        if frame is not None:
            if frame.pts is not None:  # of packets with several frames the first one alone has a time
                frame.pts -= round(start / frame.time_base)
            graph.push(frame)
            blocks += pull(graph)
    return np.concatenate(blocks)


def pull(graph: av.filter.Graph) -> list[np.ndarray]:
    blocks = []
    while True:
        try:
            frame = graph.pull()
            blocks.append(frame.to_ndarray().reshape(-1, frame.layout.nb_channels).mean(axis=1))
        except (av.BlockingIOError, av.EOFError):
            return blocks


# Comparison ----------------------------------------------------------------------------------------------------------


@dataclass
class Recording:
    """
    Args:
        make (`Callable`): Writes it to a path.
        oddity (`str`): What is odd about it.
        turn (`Callable`, *optional*): What makes of a stored picture the displayed one.
        error (`str`, *optional*): Words of the error that it should be.
    """

    name: str
    make: Callable[[Path], None]
    oddity: str
    turn: Callable[[Image.Image], Image.Image] = lambda picture: picture
    error: str | None = None
    is_sound: bool = False


def compare(path: Path, recording: Recording, picture: Path) -> list[str]:
    """Cells of its row: seconds, difference of the frames, of the sound, and the verdict."""
    video, sound = (picture, path) if recording.is_sound else (path, None)
    try:
        seconds = list(read_seconds(video, sound))
    except (ValueError, OSError) as error:
        message = str(error).replace(f"{path.parent}/", "")
        found = recording.error is not None and recording.error in message
        return ["", "", "", f"{ERROR}{message}" if found else f"**DIFFERENT**, {ERROR}{message}"]
    if recording.error is not None:
        return [str(len(seconds)), "", "", f"**DIFFERENT**: no error with the words {recording.error!r}"]

    times, pictures, start, end = decode_pictures(video)
    expected = max(1, math.ceil(end - 0.5 - 1e-6))
    differences = []
    for second in seconds:
        shown = max(index for index, time in enumerate(times) if time <= second.index + 0.5)
        upright = np.asarray(recording.turn(pictures[shown]), np.float64)
        if upright.shape[:2] != second.frame.size[::-1]:
            return [str(len(seconds)), f"size {second.frame.size}", "", "**DIFFERENT**"]
        differences.append(np.abs(upright - np.asarray(second.frame)))
    largest, mean = max(map(np.max, differences)), np.mean(list(map(np.mean, differences)))

    rate = seconds[0].sampling_rate
    heard = torch.from_numpy(np.concatenate([second.waveform[-rate:] for second in seconds]))
    if rate != 16_000:
        heard = resample(heard, rate, 16_000, **KAISER_BEST)
    heard = heard.numpy().astype(np.float64)
    since = start
    if recording.is_sound:
        with av.open(str(path)) as container:
            since = (
                container.start_time or 0
            ) / av.time_base  # not when the decoder's first frame is: some swallow one
    plain = fit(decode_sound(path, since, "mono"), len(heard))
    difference, correlation = get_difference(heard, plain), np.corrcoef(heard, plain)[0, 1]

    verdict = explain(rate, heard, {"": plain, MEAN: fit(decode_sound(path, since, None), len(heard))})
    if largest > 0:
        verdict = "**DIFFERENT** frames"
    if len(seconds) != expected:
        verdict = f"**DIFFERENT**: {len(seconds)} seconds, expected {expected}"
    return [str(len(seconds)), f"{largest:.0f}, {mean:.2f}", f"{difference:.4f}, {correlation:.5f}", verdict]


def explain(rate: int, heard: np.ndarray, mixtures: dict[str, np.ndarray]) -> str:
    """What makes the difference between what was heard and FFmpeg's sound, from the smallest reason to the largest."""
    for mixture, expected in mixtures.items():
        if get_difference(heard, expected) <= SOUND_TOLERANCE:
            return f"the same{mixture}"
    for mixture, expected in mixtures.items():
        highest = 0.85 * min(rate, 16_000) / 2
        if get_difference(filter_low(heard, highest), filter_low(expected, highest)) <= SOUND_TOLERANCE:
            return f"the same{mixture}, up to {highest / 1000:.1f} kHz, beyond which the filters differ"
    differences = {}
    for mixture, expected in mixtures.items():
        # A tenth of a second at a time: after a gap sound begins at a whole sample again.
        begins = range(0, len(heard), 1_600)
        shifts = [find_shift(heard[begin : begin + 1_600], expected[begin : begin + 1_600]) for begin in begins]
        moved = [move(expected, shift)[begin : begin + 1_600] for begin, shift in zip(begins, shifts)]
        differences[mixture] = get_difference(heard, np.concatenate(moved))
        if differences[mixture] <= SOUND_TOLERANCE:
            return f"the same{mixture}, moved by {1000 * max(map(abs, shifts)) / 16_000:.2f} ms at most"
    return f"**DIFFERENT** sound: {min(differences.values()):.4f} however it is mixed and moved"


def filter_low(samples: np.ndarray, highest: float) -> np.ndarray:
    """What lies below a frequency in hertz."""
    spectrum = np.fft.rfft(samples)
    spectrum[np.fft.rfftfreq(len(samples), 1 / 16_000) > highest] = 0
    return np.fft.irfft(spectrum, len(samples))


def move(samples: np.ndarray, shift: float) -> np.ndarray:
    """Later by a number of samples, which need not be whole."""
    padded = np.fft.rfft(np.pad(samples, 100))
    turns = np.exp(-2j * np.pi * np.fft.rfftfreq(len(samples) + 200) * shift)
    return np.fft.irfft(padded * turns, len(samples) + 200)[100:-100]


def find_shift(heard: np.ndarray, expected: np.ndarray) -> float:
    """In samples, up to those of a millisecond, the step of many containers' clocks; 0 in silence."""
    best = 0.0
    for step, reach in ((1.0, 16), (0.1, 10), (0.01, 10)):
        shifts = [best + step * index for index in range(-reach, reach + 1)]
        best = min(shifts, key=lambda shift: (np.sum((heard - move(expected, shift)) ** 2), abs(shift)))
    return best


def fit(samples: np.ndarray, length: int) -> np.ndarray:
    """Silence after the end, as long as the video goes on."""
    return np.pad(samples[:length], (0, max(0, length - len(samples)))).astype(np.float64)


def get_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square, relative to what is expected."""
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


# The sweep -----------------------------------------------------------------------------------------------------------

B_FRAMES = {"bf": "3", "b-adapt": "0"}
UNEVEN = [0.0, 0.04, 0.08, 0.45, 0.55, 1.3, 1.52, 2.49, 2.51, 3.2, 3.9]

VIDEOS = [
    Recording("phone.mp4", make(rate=44_100), "H.264, AAC of 44.1 kHz"),
    Recording("b_frames.mp4", make(options=B_FRAMES), "H.264 with B-frames, AAC of 48 kHz"),
    Recording(
        "hevc.mp4",
        make(video="libx265", pix_fmt="yuv420p10le", options={"x265-params": "log-level=none"}, layout="5.1"),
        "HEVC of 10 bits, AAC 5.1",
    ),
    Recording("surround.mkv", make(audio="eac3", layout="5.1"), "H.264, E-AC-3 5.1"),
    Recording(
        "studio.mov",
        make(video="prores_ks", pix_fmt="yuv422p10le", audio="pcm_s24le", rate=96_000),
        "ProRes, PCM of 24 bits and 96 kHz",
    ),
    Recording(
        "camera.mov",
        make(video="mjpeg", pix_fmt="yuvj422p", audio="pcm_s16be", rate=32_000, layout="mono"),
        "Motion JPEG of full range, PCM of 32 kHz",
    ),
    Recording("vp9.mkv", make(video="libvpx-vp9", audio="libopus"), "VP9, Opus"),
    Recording("vp8.webm", make(video="libvpx", audio="vorbis", rate=44_100), "VP8, Vorbis"),
    Recording("av1.webm", make(video="libsvtav1", audio="libopus", layout="mono"), "AV1, Opus"),
    Recording(
        "lossless.mkv", make(video="ffv1", pix_fmt="yuv444p", audio="flac", rate=88_200), "FFV1, FLAC of 88.2 kHz"
    ),
    Recording("divx.avi", make(video="mpeg4", audio="libmp3lame", fps=25), "MPEG-4, MP3"),
    Recording(
        "b_frames.avi",
        make(options=B_FRAMES, audio="ac3"),
        "H.264 with B-frames in AVI, which has no times of presentation",
    ),
    Recording(
        "webcam.avi",
        make(video="mjpeg", pix_fmt="yuvj420p", audio="pcm_u8", rate=11_025, layout="mono"),
        "Motion JPEG, PCM of 8 bits and 11.025 kHz",
    ),
    Recording("broadcast.ts", make(video="mpeg2video", audio="mp2", fps=25), "MPEG-2, MP2; the clock begins at 1.4 s"),
    Recording("stream.ts", make(options=B_FRAMES), "H.264 with B-frames, AAC; the clock begins at 1.4 s"),
    Recording("disc.mpg", make(video="mpeg1video", audio="mp2", fps=25, rate=44_100), "MPEG-1, MP2"),
    Recording("old_web.flv", make(video="flv", audio="libmp3lame", rate=22_050), "Sorenson H.263, MP3 of 22.05 kHz"),
    Recording(
        "old_phone.3gp",
        make(video="h263", size=(176, 144), audio="libopencore_amrnb", rate=8_000, layout="mono"),
        "H.263, AMR of 8 kHz",
    ),
    Recording(
        "windows.wmv",
        make(video="wmv2", audio="wmav2", audio_options={"b": "128k"}, fps=25, rate=44_100),
        "WMV 8, WMA 2",
    ),
    Recording("archive.mxf", make(video="mpeg2video", audio="pcm_s16le", fps=25), "MPEG-2, PCM in MXF"),
    Recording(
        "rare.nut", make(video="huffyuv", pix_fmt="yuv422p", audio="adpcm_ms", rate=12_000), "Huffyuv, ADPCM of 12 kHz"
    ),
    Recording(
        "turned_90.mp4",
        make(rotation=90),
        "to be turned by 90 degrees",
        lambda picture: picture.transpose(Image.Transpose.ROTATE_90),
    ),
    Recording(
        "turned_180.mp4",
        make(rotation=180),
        "to be turned by 180 degrees",
        lambda picture: picture.transpose(Image.Transpose.ROTATE_180),
    ),
    Recording(
        "turned_270.mov",
        make(rotation=-90),
        "to be turned by -90 degrees",
        lambda picture: picture.transpose(Image.Transpose.ROTATE_270),
    ),
    Recording(
        "mirrored.mp4", mirror, "to be mirrored", lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    ),
    Recording("odd_size.mp4", make(size=(65, 47), pix_fmt="yuv444p"), "65x47 pixels, yuv444p"),
    Recording("wide_pixels.mp4", make(aspect=Fraction(4, 3)), "pixels that are not square"),
    Recording("uneven.mkv", make(moments=UNEVEN), "frames at uneven times"),
    Recording("same_time.mkv", make(video="libvpx", moments=[0, 0.4, 0.4, 1, 2, 3]), "two frames at one time"),
    Recording("late_sound.mp4", make(sound_start=0.7), "sound that begins 0.7 s late"),
    Recording(
        "early_sound.mkv",
        make(moments=[1 + index / 10 for index in range(30)]),
        "sound that begins 1 s before the picture",
    ),
    Recording("short_sound.mp4", make(sound_seconds=1.5), "sound of 1.5 s"),
    Recording("gap.mkv", make(audio="pcm_s16le", gap=(1.2, 2.6)), "no sound from 1.2 s to 2.6 s"),
    Recording("odd_rate.mkv", make(audio="pcm_s16le", rate=22_051), "a rate of 22051 Hz"),
    Recording("eight.mkv", make(audio="pcm_s16le", layout="7.1"), "PCM of eight channels"),
]

SOUNDS = [
    Recording("music.mp3", make(video=None, audio="libmp3lame", rate=44_100), "MP3", is_sound=True),
    Recording(
        "joined.mp3",
        join(
            {"video": None, "audio": "libmp3lame", "rate": 44_100, "sound_seconds": 2},
            {"video": None, "audio": "libmp3lame", "rate": 24_000, "layout": "mono", "sound_seconds": 2},
        ),
        "MP3 of 44.1 kHz stereo, then 24 kHz mono",
        is_sound=True,
    ),
    Recording("music.m4a", make(video=None, audio="alac", rate=44_100), "ALAC", is_sound=True),
    Recording("radio.aac", make(video=None, audio="aac", rate=24_000), "AAC without a container", is_sound=True),
    Recording("voice.ogg", make(video=None, audio="libopus", layout="mono"), "Opus", is_sound=True),
    Recording("music.ogg", make(video=None, audio="vorbis", rate=44_100), "Vorbis", is_sound=True),
    Recording(
        "master.flac",
        make(video=None, audio="flac", rate=96_000, layout="quad"),
        "FLAC of four channels and 96 kHz",
        is_sound=True,
    ),
    Recording(
        "master.wav",
        make(video=None, audio="pcm_f32le", rate=192_000),
        "floating point numbers, 192 kHz",
        is_sound=True,
    ),
    Recording(
        "telephone.wav",
        make(video=None, audio="pcm_mulaw", rate=8_000, layout="mono"),
        "mu-law of 8 kHz",
        is_sound=True,
    ),
    Recording("film.ac3", make(video=None, audio="ac3", layout="5.1"), "AC-3 5.1", is_sound=True),
    Recording("studio.aiff", make(video=None, audio="pcm_s24be", rate=48_000), "AIFF of 24 bits", is_sound=True),
    Recording(
        "music.wma", make(video=None, audio="wmav2", audio_options={"b": "128k"}, rate=44_100), "WMA", is_sound=True
    ),
]

DAMAGED = [
    Recording("cut.mkv", cut_off(0.7), "70 % of an mkv"),
    Recording("cut.ts", cut_off(0.7), "70 % of a ts"),
    Recording("cut.webm", cut_off(0.8, video="libvpx", audio="libopus"), "80 % of a webm"),
    Recording(
        "cut_fragments.mp4",
        cut_off(0.7, container_options={"movflags": "frag_keyframe+empty_moov"}, options={"g": "10"}),
        "70 % of an mp4 in fragments",
    ),
    Recording("cut.avi", cut_off(0.7, video="mpeg4", audio="libmp3lame", fps=25), "70 % of an avi, without its index"),
    Recording("cut.flv", cut_off(0.7, video="flv", audio="libmp3lame", rate=44_100), "70 % of an flv"),
    Recording("bad_picture.mp4", spoil("video", 12, 2), "two packets of H.264 are zeros"),
    Recording("bad_sound.mp4", spoil("audio", 30, 3), "three packets of AAC are zeros"),
    Recording("bad_sound.mkv", spoil("audio", 30, 3, audio="ac3"), "three packets of AC-3 are zeros"),
    Recording("bad_middle.ts", spoil_bytes(0.4, 0.5), "a tenth of a ts is zeros"),
    Recording(
        "bad_middle.mpg",
        spoil_bytes(0.4, 0.45, video="mpeg2video", audio="mp2", fps=25),
        "a twentieth of an mpg is zeros",
    ),
    Recording("cut.mp4", cut_off(0.7), "70 % of an mp4, whose index is at its end", error="cannot be read"),
    Recording("cut.mov", cut_off(0.7, video="mpeg4", audio="pcm_s16le"), "70 % of a mov", error="cannot be read"),
    Recording("zeros.mp4", spoil_bytes(0, 1), "nothing but zeros", error="cannot be read"),
    Recording("no_bytes.mp4", lambda path: path.write_bytes(b""), "empty", error="is empty"),
    Recording(
        "page.mp4", lambda path: path.write_text("<html>404</html>\n" * 50), "a web page", error="cannot be read"
    ),
    Recording(
        "leap.mkv", make(moments=[0, 0.1, 0.2, 90_000, 90_000.1]), "a clock that leaps by a day", error="The clock of"
    ),
    Recording(
        "joined.ts",
        join({"sound_seconds": 4}, {"sound_seconds": 4}),
        "two ts files in one: the clock jumps back",
        error="The clock of",
    ),
    Recording("silent.mp4", make(audio=None), "no audio track", error="no audio track"),
    Recording("sound.mp4", make(video=None), "no video track", error="no video track"),
]


def main() -> int:
    av.logging.set_level(av.logging.PANIC)
    rows, wrong = [], 0
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.mp4"
        write(picture, audio=None)
        for recording in [*VIDEOS, *SOUNDS, *DAMAGED]:
            path = Path(folder) / recording.name
            recording.make(path)
            cells = compare(path, recording, picture)
            wrong += "**DIFFERENT**" in cells[-1]
            rows.append([recording.name, recording.oddity, *cells])
            print(rows[-1], file=sys.stderr, flush=True)
    header = ["file", "what is odd", "seconds", "frames: largest, mean", "sound: relative, correlation", "verdict"]
    print(format_table(header, rows))
    print(f"{len(rows)} files, {wrong} differences without an explanation", file=sys.stderr)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
