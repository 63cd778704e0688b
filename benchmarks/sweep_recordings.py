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
"""What `read_seconds` sees and hears in recordings of many kinds, against plain decoding with PyAV.

    python benchmarks/sweep_recordings.py > recordings.md

Files of containers x codecs x rates x layouts x rotations x damage are made from nothing. Of each video the frames at
the middle of its seconds are compared pixel by pixel, and all of its sound, at 16 kHz and as the mean of its channels:
as read_seconds and the feature extractor have it, and as FFmpeg's filter `aresample` aligns and resamples it. One
Markdown table is printed. The exit code is 1 where a difference has no explanation or an error other words than
expected.
"""

import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from stepping_stones_hf.models.vggish import VGGishFeatureExtractor
from stepping_stones_hf.tables import format_table
from stepping_stones_hf.video import read_seconds


SECONDS, FPS, SIZE, RATE = 4, 10, (64, 48), 16_000
TOLERANCE = 0.01  # of the sound, relative. One sample of delay would be 0.1 or more.


# Recordings ----------------------------------------------------------------------------------------------------------


def draw(index: int, width: int, height: int) -> np.ndarray:
    """(height, width, 3), RGB: colors that tell up from down and left from right, and a blue that tells when."""
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
    rotation: int | None = None,
    aspect: Fraction | None = None,
    rate: int = 48_000,
    layout: str = "stereo",
    sound: tuple[float, float] = (0, SECONDS),
    gap: tuple[float, float] = (0, 0),
    movflags: str = "",
) -> None:
    """`moments` are when frames are shown, `sound` is from when to when there is sound, but for the `gap`."""
    moments = [index / fps for index in range(fps * SECONDS)] if moments is None else moments
    packets = []
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
        if video is not None:
            pictures = container.add_stream(video, rate=fps, options=options or {})
            pictures.width, pictures.height, pictures.pix_fmt = *size, pix_fmt
            if aspect is not None:
                pictures.codec_context.sample_aspect_ratio = aspect
            if rotation is not None:
                pictures.set_display_rotation(rotation)
            if uneven := (np.diff(moments).round(3) != round(1 / fps, 3)).any():
                pictures.codec_context.time_base = Fraction(1, 1000)
        if audio is not None:
            # FFmpeg's own encoder of Vorbis counts as experimental; that of WMA has too few bits by default.
            sounds = container.add_stream(audio, rate=rate, layout=layout, options={"strict": "-2", "b": "256k"})
        if video is not None:
            for index, moment in enumerate(moments):
                frame = av.VideoFrame.from_ndarray(draw(index, *size), format="rgb24")
                frame.time_base = Fraction(1, 1000) if uneven else Fraction(1, fps)
                frame.pts = round(moment / frame.time_base)
                packets += pictures.encode(frame)
            packets += pictures.encode()
        if audio is not None:
            samples = play(rate, sound[1] - sound[0], sounds.codec_context.channels)
            for begin in range(0, samples.shape[1], rate // 10):
                if gap[0] <= begin / rate < gap[1]:
                    continue
                block = samples[:, begin : begin + rate // 10].T.reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
                frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
                frame.pts = begin + round(sound[0] * rate)
                packets += sounds.encode(frame)
            packets += sounds.encode()
        # In order of time, as recorders write, or a file that is cut off would have lost one of its tracks.
        for packet in sorted(packets, key=lambda packet: float((packet.dts or 0) * packet.time_base)):
            container.mux(packet)


def cut_off(share: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def overwrite(path: Path, places: list[tuple[int, int]]) -> None:
    """Zeros from one byte to another."""
    content = bytearray(path.read_bytes())
    for begin, end in places:
        content[begin:end] = bytes(end - begin)
    path.write_bytes(content)


def spoil(begin: float, end: float) -> Callable[[Path], None]:
    """Zeros in place of a share of the file, whatever it holds."""
    return lambda path: overwrite(path, [(int(begin * path.stat().st_size), int(end * path.stat().st_size))])


def spoil_packets(kind: str, first: int, count: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(getattr(container.streams, kind)[0]) if packet.size]
            places = [(packet.pos, packet.pos + packet.size) for packet in packets[first : first + count]]
        overwrite(path, places)

    return damage


def join(**options) -> Callable[[Path], None]:
    """Another recording after it, not encoded again."""

    def damage(path: Path) -> None:
        first = path.read_bytes()
        write(path, **options)
        path.write_bytes(first + path.read_bytes())

    return damage


def mirror(path: Path) -> None:
    """Left and right exchanged in the display matrix of an mp4."""
    content = path.read_bytes()
    upright = np.array([1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30], ">i4").tobytes()
    place = content.index(upright, content.index(b"tkhd"))  # of the first track, the picture
    path.write_bytes(content[:place] + np.array([-1 << 16], ">i4").tobytes() + content[place + 4 :])


# Plain decoding ------------------------------------------------------------------------------------------------------


def decode(path: Path, kind: str) -> Iterator:
    """Frames of the first track of a kind, without the packets that cannot be decoded, until the file is cut off."""
    with av.open(str(path)) as container:
        try:
            for packet in container.demux(getattr(container.streams, kind)[0]):
                try:
                    yield from packet.decode()
                except av.FFmpegError:
                    continue
        except av.FFmpegError:
            return


def decode_pictures(path: Path) -> tuple[list[float], list[Image.Image], float, float]:
    """When frames are shown, from the first one on; the frames; when the first one is shown; and the video's end."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        usual = 1 / float(stream.average_rate)
        # AVI has no times of presentation, which matters where frames are stored in another order. Its rate is fixed.
        reordered = container.format.name == "avi" and stream.codec_context.name == "h264"
    frames = list(decode(path, "video"))
    times = [index * usual if reordered else frame.time for index, frame in enumerate(frames)]
    end = times[-1] + (float(frames[-1].duration * frames[-1].time_base) or usual)
    return [time - times[0] for time in times], [frame.to_image() for frame in frames], times[0], end - times[0]


def decode_sound(path: Path, start: float | None) -> np.ndarray:
    """(samples,) at 16 kHz, the mean of the channels, from `start` on; by default from the first sample on."""
    blocks, graph, kind = [], None, None
    for frame in [*decode(path, "audio"), None]:
        now = None if frame is None else (frame.format.name, frame.layout.name, frame.sample_rate)
        if now != kind:  # the end; or another rate follows, for which FFmpeg's command makes another filter, too
            if graph is not None:
                graph.push(None)
                blocks += pull(graph)
            if frame is not None:
                start = frame.time if start is None else start
                align = ":async=1:first_pts=0" if kind is None else ""
                graph = av.filter.Graph()
                source = graph.add_abuffer(format=now[0], layout=now[1], sample_rate=now[2], time_base=frame.time_base)
                target = graph.add("aresample", f"{RATE}{align}"), graph.add("aformat", "sample_fmts=flt")
                graph.link_nodes(source, *target, graph.add("abuffersink")).configure()
            kind = now
        if frame is not None:
            if frame.pts is not None:  # of packets with several frames the first one alone has a time
                frame.pts -= round(start / frame.time_base)
            graph.push(frame)
            blocks += pull(graph)
    return np.concatenate(blocks)


def pull(graph: av.filter.Graph) -> Iterator[np.ndarray]:
    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        yield frame.to_ndarray().reshape(-1, frame.layout.nb_channels).mean(axis=1)


# Comparison ----------------------------------------------------------------------------------------------------------


@dataclass
class Recording:
    """How `write` makes it, what damages it then, how it is turned for display, words of the error it should be."""

    name: str
    oddity: str
    options: dict = field(default_factory=dict)
    damage: Callable[[Path], None] | None = None
    turn: Image.Transpose | None = None
    error: str | None = None


def compare(path: Path, recording: Recording, picture: Path) -> list[str]:
    """Cells of its row: seconds, difference of the frames, of the sound, and the verdict."""
    is_sound = "video" in recording.options and recording.options["video"] is None and recording.error is None
    video, sound = (picture, path) if is_sound else (path, None)
    try:
        seconds = list(read_seconds(video, sound))
    except (ValueError, OSError) as error:
        message = str(error).replace(f"{path.parent}/", "")
        expected = recording.error is not None and recording.error in message
        return ["", "", "", f"error: {message}" if expected else f"**UNEXPLAINED** error: {message}"]
    if recording.error is not None:
        return [str(len(seconds)), "", "", "**UNEXPLAINED**: no error"]

    times, pictures, start, end = decode_pictures(video)
    differences = []
    for second in seconds:
        shown = pictures[max(index for index, time in enumerate(times) if time <= second.index + 0.5)]
        upright = shown if recording.turn is None else shown.transpose(recording.turn)
        differences.append(np.abs(np.subtract(upright, second.frame, dtype=np.int64)))
    largest, mean = np.max(differences), np.mean(differences)

    rate = seconds[0].sampling_rate
    heard = np.concatenate([second.waveform[-rate:] for second in seconds])
    heard = VGGishFeatureExtractor()._resample(torch.from_numpy(heard).double(), rate).numpy()
    expected = decode_sound(path, None if is_sound else start)[: len(heard)]
    expected = np.pad(expected, (0, len(heard) - len(expected)))  # silence after the end
    # Near half the rate the two resampling filters fall off differently.
    highest = 0.85 * min(rate, RATE) / 2
    heard, expected = shift(heard, 0, highest), shift(expected, 0, highest)
    aligned = [align(heard, expected, index, highest) for index in range(len(seconds))]
    delay = max((delay for remaining, delay in aligned if remaining <= TOLERANCE), key=abs)
    verdict = f"the same, by {delay:+.2f} ms: the step of a clock" if delay else "the same"
    # Where sound is missing the silence in its place may begin a millisecond earlier or later.
    missing = [index for index, (remaining, _) in enumerate(aligned) if remaining > TOLERANCE]
    if missing:
        verdict += f", but for the edges of the damage in second {missing[0]}"
    if len(missing) > (recording.damage is not None) or any(aligned[index][0] > 0.2 for index in missing):
        verdict = f"**UNEXPLAINED** sound in seconds {missing}"
    if largest > 0:
        verdict = "**UNEXPLAINED** frames"
    if len(seconds) != max(1, math.ceil(end - 0.5 - 1e-6)):
        verdict = f"**UNEXPLAINED** number of seconds of a video of {end:.2f} s"
    return [str(len(seconds)), f"{largest}, {mean:.2f}", f"{get_difference(heard, expected):.4f}", verdict]


def shift(samples: np.ndarray, delay: float, highest: float) -> np.ndarray:
    """What lies below a frequency in hertz, later by some milliseconds."""
    frequencies = np.fft.rfftfreq(len(samples) + 200, 1 / RATE)
    spectrum = np.fft.rfft(np.pad(samples, 100)) * (frequencies <= highest)
    return np.fft.irfft(spectrum * np.exp(-2j * np.pi * frequencies * delay / 1000), len(samples) + 200)[100:-100]


def align(heard: np.ndarray, expected: np.ndarray, second: int, highest: float) -> tuple[float, float]:
    """What remains of a second's difference after the best delay of about a millisecond at most; and that delay."""
    inside = slice(second * RATE + 50, (second + 1) * RATE - 50)
    remaining, best = [get_difference(heard[inside], expected[inside])], 0.0
    for step in (0.1, 0.01, 0.001):
        if min(remaining) > TOLERANCE:
            delays = best + step * np.arange(-10, 11)
            remaining = [get_difference(heard[inside], shift(expected, delay, highest)[inside]) for delay in delays]
            best = float(delays[np.argmin(remaining)])
    return min(remaining), best


def get_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square, relative to what is expected, which may be silence."""
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2).clip(1e-6)))


# The sweep -----------------------------------------------------------------------------------------------------------

B_FRAMES = {"bf": "3", "b-adapt": "0"}
UNEVEN = [0.0, 0.04, 0.08, 0.45, 0.55, 1.3, 1.52, 2.49, 2.51, 3.2, 3.9]

RECORDINGS = [
    Recording("phone.mp4", "H.264, AAC of 44.1 kHz", {"rate": 44_100}),
    Recording("b_frames.mp4", "H.264 with B-frames, AAC of 48 kHz", {"options": B_FRAMES}),
    Recording(
        "hevc.mp4",
        "HEVC of 10 bits, AAC 5.1",
        {"video": "libx265", "pix_fmt": "yuv420p10le", "options": {"x265-params": "log-level=none"}, "layout": "5.1"},
    ),
    Recording("surround.mkv", "H.264, E-AC-3 5.1", {"audio": "eac3", "layout": "5.1"}),
    Recording(
        "studio.mov",
        "ProRes, PCM of 24 bits and 96 kHz",
        {"video": "prores_ks", "pix_fmt": "yuv422p10le", "audio": "pcm_s24le", "rate": 96_000},
    ),
    Recording("vp9.mkv", "VP9, Opus", {"video": "libvpx-vp9", "audio": "libopus"}),
    Recording("vp8.webm", "VP8, Vorbis", {"video": "libvpx", "audio": "vorbis", "rate": 44_100}),
    Recording(
        "lossless.mkv",
        "FFV1, FLAC of 88.2 kHz",
        {"video": "ffv1", "pix_fmt": "yuv444p", "audio": "flac", "rate": 88_200},
    ),
    Recording("divx.avi", "MPEG-4, MP3", {"video": "mpeg4", "audio": "libmp3lame", "fps": 25}),
    Recording("b_frames.avi", "H.264 with B-frames in AVI", {"options": B_FRAMES, "audio": "ac3"}),
    Recording(
        "webcam.avi",
        "Motion JPEG, PCM of 8 bits and 11.025 kHz",
        {"video": "mjpeg", "pix_fmt": "yuvj420p", "audio": "pcm_u8", "rate": 11_025, "layout": "mono"},
    ),
    Recording(
        "broadcast.ts", "MPEG-2, MP2; the clock begins at 1.4 s", {"video": "mpeg2video", "audio": "mp2", "fps": 25}
    ),
    Recording("stream.ts", "H.264 with B-frames, AAC", {"options": B_FRAMES}),
    Recording("disc.mpg", "MPEG-1, MP2", {"video": "mpeg1video", "audio": "mp2", "fps": 25, "rate": 44_100}),
    Recording(
        "old_web.flv", "Sorenson H.263, MP3 of 22.05 kHz", {"video": "flv", "audio": "libmp3lame", "rate": 22_050}
    ),
    Recording(
        "old_phone.3gp",
        "H.263, AMR of 8 kHz",
        {"video": "h263", "size": (176, 144), "audio": "libopencore_amrnb", "rate": 8_000, "layout": "mono"},
    ),
    Recording("windows.wmv", "WMV 8, WMA 2", {"video": "wmv2", "audio": "wmav2", "fps": 25, "rate": 44_100}),
    Recording("archive.mxf", "MPEG-2, PCM in MXF", {"video": "mpeg2video", "audio": "pcm_s16le", "fps": 25}),
    Recording(
        "rare.nut",
        "Huffyuv, ADPCM of 12 kHz",
        {"video": "huffyuv", "pix_fmt": "yuv422p", "audio": "adpcm_ms", "rate": 12_000},
    ),
    Recording("turned_90.mp4", "to be turned by 90 degrees", {"rotation": 90}, turn=Image.Transpose.ROTATE_90),
    Recording("turned_180.mp4", "to be turned by 180 degrees", {"rotation": 180}, turn=Image.Transpose.ROTATE_180),
    Recording("turned_270.mov", "to be turned by -90 degrees", {"rotation": -90}, turn=Image.Transpose.ROTATE_270),
    Recording("mirrored.mp4", "to be mirrored", damage=mirror, turn=Image.Transpose.FLIP_LEFT_RIGHT),
    Recording("odd_size.mp4", "65x47 pixels, yuv444p", {"size": (65, 47), "pix_fmt": "yuv444p"}),
    Recording("wide_pixels.mp4", "pixels that are not square", {"aspect": Fraction(4, 3)}),
    Recording("uneven.mkv", "frames at uneven times", {"moments": UNEVEN}),
    Recording("same_time.mkv", "two frames at one time", {"video": "libvpx", "moments": [0, 0.4, 0.4, 1, 2, 3]}),
    Recording("late_sound.mp4", "sound that begins 0.7 s late", {"sound": (0.7, SECONDS)}),
    Recording(
        "early_sound.mkv",
        "sound that begins 1 s before the picture",
        {"moments": [1 + index / FPS for index in range(30)]},
    ),
    Recording("short_sound.mp4", "sound of 1.5 s", {"sound": (0, 1.5)}),
    Recording("gap.mkv", "no sound from 1.2 s to 2.6 s", {"audio": "pcm_s16le", "gap": (1.2, 2.6)}),
    Recording("odd_rate.mkv", "a rate of 22051 Hz", {"audio": "pcm_s16le", "rate": 22_051}),
    Recording("eight.mkv", "PCM of eight channels", {"audio": "pcm_s16le", "layout": "7.1"}),
    # Sound alone, beside a picture without
    Recording("music.mp3", "MP3", {"video": None, "audio": "libmp3lame", "rate": 44_100}),
    Recording(
        "joined.mp3",
        "MP3 of 44.1 kHz stereo, then 24 kHz mono",
        {"video": None, "audio": "libmp3lame", "rate": 44_100, "sound": (0, 2)},
        join(video=None, audio="libmp3lame", rate=24_000, layout="mono", sound=(0, 2)),
    ),
    Recording("music.m4a", "ALAC", {"video": None, "audio": "alac", "rate": 44_100}),
    Recording("radio.aac", "AAC without a container", {"video": None, "rate": 24_000}),
    Recording("voice.ogg", "Opus", {"video": None, "audio": "libopus", "layout": "mono"}),
    Recording(
        "master.flac",
        "FLAC of four channels and 96 kHz",
        {"video": None, "audio": "flac", "rate": 96_000, "layout": "quad"},
    ),
    Recording(
        "master.wav",
        "floating point numbers, 192 kHz, sixteen channels",
        {"video": None, "audio": "pcm_f32le", "rate": 192_000, "layout": "hexadecagonal"},
    ),
    Recording(
        "telephone.wav", "mu-law of 8 kHz", {"video": None, "audio": "pcm_mulaw", "rate": 8_000, "layout": "mono"}
    ),
    # Damage
    Recording("cut.mkv", "70 % of an mkv", damage=cut_off(0.7)),
    Recording("cut.ts", "70 % of a ts", damage=cut_off(0.7)),
    Recording("cut.webm", "80 % of a webm", {"video": "libvpx", "audio": "libopus"}, cut_off(0.8)),
    Recording(
        "cut_fragments.mp4",
        "70 % of an mp4 in fragments",
        {"movflags": "frag_keyframe+empty_moov", "options": {"g": "10"}},
        cut_off(0.7),
    ),
    Recording(
        "cut.avi",
        "70 % of an avi, without its index",
        {"video": "mpeg4", "audio": "libmp3lame", "fps": 25},
        cut_off(0.7),
    ),
    Recording("cut.flv", "70 % of an flv", {"video": "flv", "audio": "libmp3lame", "rate": 44_100}, cut_off(0.7)),
    Recording("bad_picture.mp4", "two packets of H.264 are zeros", damage=spoil_packets("video", 12, 2)),
    Recording("bad_sound.mp4", "three packets of AAC are zeros", damage=spoil_packets("audio", 30, 3)),
    Recording(
        "bad_sound.mkv",
        "three blocks of an mkv are zeros: its structure is lost",
        {"audio": "ac3"},
        spoil_packets("audio", 30, 3),
    ),
    Recording("bad_middle.ts", "a tenth of a ts is zeros", damage=spoil(0.4, 0.5)),
    Recording(
        "bad_middle.mpg",
        "a twentieth of an mpg is zeros",
        {"video": "mpeg2video", "audio": "mp2", "fps": 25},
        spoil(0.4, 0.45),
    ),
    Recording("cut.mp4", "70 % of an mp4, whose index is at its end", damage=cut_off(0.7), error="cannot be read"),
    Recording("zeros.mp4", "nothing but zeros", damage=spoil(0, 1), error="cannot be read"),
    Recording("no_bytes.mp4", "empty", damage=cut_off(0), error="is empty"),
    Recording(
        "page.mp4",
        "a web page",
        damage=lambda path: path.write_text("<html>404</html>\n" * 50),
        error="cannot be read",
    ),
    Recording(
        "leap.mkv", "a clock that leaps by a day", {"moments": [0, 0.1, 0.2, 90_000, 90_000.1]}, error="The clock of"
    ),
    Recording("joined.ts", "two ts files in one: the clock jumps back", damage=join(), error="The clock of"),
    Recording("silent.mp4", "no audio track", {"audio": None}, error="no audio track"),
    Recording("sound.mp4", "no video track", {"video": None}, error="no video track"),
]


def main() -> int:
    rows, wrong = [], 0
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.mp4"
        write(picture, audio=None)
        for recording in RECORDINGS:
            path = Path(folder) / recording.name
            write(path, **recording.options)
            if recording.damage is not None:
                recording.damage(path)
            rows.append([recording.name, recording.oddity, *compare(path, recording, picture)])
            wrong += "**UNEXPLAINED**" in rows[-1][-1]
    print(format_table(["file", "what is odd", "seconds", "frames: largest, mean", "sound", "verdict"], rows))
    print(f"{len(rows)} files, {wrong} differences without an explanation", file=sys.stderr)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
