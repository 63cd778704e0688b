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
"""Recordings as cameras, broadcasts and downloads have them: what players play is read, and what cannot be is told."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from stepping_stones_hf import AAVSImageProcessor, AAVSImageProcessorPil, VGGishFeatureExtractor
from stepping_stones_hf.media import read_audio, to_frame
from stepping_stones_hf.models.feature_extraction_base import resample_any_rate
from stepping_stones_hf.pipelines.audio_visual_segmentation import pair_seconds
from stepping_stones_hf.video import SILENCE, read_info, read_seconds, write_annotated

from .videos import BLUE, make_video


def make_tone(pitch: float, rate: int, seconds: float, channels: int = 1) -> np.ndarray:
    """(channels, samples), with a peak of 0.5."""
    tone = 0.5 * np.sin(2 * np.pi * pitch * np.arange(round(rate * seconds)) / rate)
    return np.tile(tone, (channels, 1)).astype(np.float32)


def make_sound_file(path: Path, codec: str, rate: int, sound: np.ndarray) -> bytes:
    make_video(path, video_codec=None, audio_codec=codec, rate=rate, sound=sound)
    return path.read_bytes()


def find_pitch(waveform: np.ndarray, rate: int) -> float:
    second = waveform[-rate:]
    return float(np.abs(np.fft.rfft(second * np.hanning(rate))).argmax())


def loudness(second) -> float:
    return float(second.waveform[-second.sampling_rate :].std())


def write_levels(path: Path, codec: str, levels: list[int], moments: list[int], **options) -> Path:
    """A video whose frames each have one gray level; `moments` in milliseconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=20, **options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if path.suffix != ".avi":
            stream.codec_context.time_base = Fraction(1, 1000)
        packets = []
        for index, level in enumerate(levels):
            picture = np.full((48, 64, 3), level, np.uint8)
            picture[:, index % 64] = 128  # something moves
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.time_base = Fraction(1, 20) if path.suffix == ".avi" else Fraction(1, 1000)
            frame.pts = index if path.suffix == ".avi" else 50 * index
            packets += stream.encode(frame)
        for packet, moment in zip([*packets, *stream.encode()], moments, strict=True):
            if path.suffix != ".avi":
                packet.pts = packet.dts = moment
            container.mux(packet)
    return path


def spoil(content: bytes, kind: str, first: int, count: int) -> bytes:
    """Zeros in place of packets of a track."""
    with av.open(io.BytesIO(content)) as container:
        packets = [packet for packet in container.demux(getattr(container.streams, kind)[0]) if packet.size]
        places = [(packet.pos, packet.size) for packet in packets[first : first + count]]
    for place, size in places:
        content = content[:place] + bytes(size) + content[place + size :]
    return content


class TestSounds:
    @pytest.mark.parametrize("scale", [128, 2**23])
    def test_floats_with_the_values_of_integers_are_refused_wherever_they_come_in(self, tmp_path, scale):
        sound = scale * make_tone(300, 16_000, 1)
        with pytest.raises(ValueError, match="lie between -1 and 1"):
            VGGishFeatureExtractor()(sound, sampling_rate=16_000)
        with pytest.raises(ValueError, match="lie between -1 and 1"):
            next(pair_seconds([Image.new("RGB", (8, 8))], sound, 16_000))
        path = tmp_path / "loud.wav"
        make_sound_file(path, "pcm_f32le", 16_000, sound)
        with pytest.raises(ValueError, match=r"loud\.wav .*lie between -1 and 1"):
            read_audio(path)
        video = make_video(tmp_path / "clip.mp4", seconds=1)
        with pytest.raises(ValueError, match=r"loud\.wav .*lie between -1 and 1"):
            list(read_seconds(video, path))

    def test_peaks_of_mastering_are_taken_as_they_are(self, tmp_path):
        make_sound_file(tmp_path / "loud.wav", "pcm_f32le", 16_000, 2.8 * make_tone(300, 16_000, 1))
        assert np.abs(read_audio(tmp_path / "loud.wav")[0]).max() == pytest.approx(1.4, abs=0.01)

    def test_rate_and_channels_that_change_keep_the_pitch(self, tmp_path):
        video = make_video(tmp_path / "clip.mp4", seconds=4)
        first = make_sound_file(tmp_path / "first.mp3", "libmp3lame", 44_100, make_tone(300, 44_100, 2))
        second = make_sound_file(tmp_path / "second.mp3", "libmp3lame", 24_000, make_tone(300, 24_000, 2, channels=2))
        (tmp_path / "joined.mp3").write_bytes(first + second)
        seconds = list(read_seconds(video, tmp_path / "joined.mp3"))
        pitches = [find_pitch(second.waveform, second.sampling_rate) for second in seconds]
        # The third second holds the change.
        assert [pitches[index] for index in (0, 1, 3)] == pytest.approx([300] * 3, abs=2)

    def test_rates_without_a_common_factor_are_resampled_by_the_same_filter(self):
        from torchaudio.functional import resample

        from stepping_stones_hf.models.feature_extraction_base import KAISER_BEST

        sound = torch.from_numpy(np.random.default_rng(0).normal(size=8_820) / 4)
        expected = resample(sound, 44_100, 16_000, **KAISER_BEST)
        found = resample_any_rate(sound, 441, 160)[: len(expected)]
        # Of noise, which has all frequencies; beyond its ends there are zeros for both.
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("rate", [15_991, 48_001])
    def test_odd_rates_keep_pitch_and_length(self, rate):
        found = resample_any_rate(torch.from_numpy(make_tone(300, rate, 1)[0]), rate, 16_000)
        assert len(found) == pytest.approx(16_000, abs=1)
        assert find_pitch(np.resize(found.numpy(), 16_000), 16_000) == pytest.approx(300, abs=1)

    @pytest.mark.parametrize(("layout", "channels"), [("5.1", 6), ("7.1", 8), ("hexadecagonal", 16)])
    def test_of_any_number_of_channels_the_mean_is_heard(self, tmp_path, layout, channels):
        path = tmp_path / "clip.mkv"
        scales = np.linspace(-0.2, 1, channels)
        tone = make_tone(300, 48_000, 1)[0]
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_f32le", rate=48_000, layout=layout)
            samples = np.outer(tone, scales).astype(np.float32).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(samples, format="flt", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
            container.mux([*stream.encode(frame), *stream.encode()])
        (second,) = read_seconds(make_video(tmp_path / "clip.mp4", seconds=1), path)
        np.testing.assert_allclose(second.waveform, scales.mean() * tone, atol=1e-4)

    def test_the_first_track_that_can_be_decoded_is_heard(self, tmp_path):
        path = tmp_path / "clip.mkv"
        with av.open(str(path), "w") as container:
            video = container.add_stream("libx264", rate=10)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            tracks = [container.add_stream(codec, rate=48_000, layout="mono") for codec in ("libopus", "flac")]
            for index in range(10):
                frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 10)
                container.mux(video.encode(frame))
            container.mux(video.encode())
            for track, pitch in zip(tracks, (300, 500)):
                frame = av.AudioFrame.from_ndarray(make_tone(pitch, 48_000, 1), format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
                container.mux([*track.encode(frame), *track.encode()])
        path.write_bytes(path.read_bytes().replace(b"A_OPUS", b"A_NEXT"))
        (second,) = read_seconds(path)
        assert find_pitch(second.waveform, second.sampling_rate) == pytest.approx(500, abs=2)
        path.write_bytes(path.read_bytes().replace(b"A_FLAC", b"A_LAST"))
        with pytest.raises(ValueError, match="2 audio tracks, none of a codec"):
            list(read_seconds(path))

    def test_mp3_in_avi_becomes_sound_of_a_mov(self, tmp_path):
        sound = make_tone(300, 32_000, 2)
        path = make_video(tmp_path / "clip.avi", fps=25, video_codec="mpeg4", seconds=2, audio_codec=None)
        make_sound_file(tmp_path / "sound.mp3", "libmp3lame", 32_000, sound)
        files = (tmp_path / "both.avi", path, tmp_path / "sound.mp3")
        with av.open(str(files[0]), "w") as both, av.open(str(files[1])) as video, av.open(str(files[2])) as audio:
            streams = [(video, video.streams.video[0]), (audio, audio.streams.audio[0])]
            tracks = [both.add_stream_from_template(stream) for _, stream in streams]
            packets = [
                (float(packet.dts * packet.time_base), index, packet)
                for index, (container, stream) in enumerate(streams)
                for packet in container.demux(stream)
                if packet.dts is not None
            ]
            for _, index, packet in sorted(packets, key=lambda item: item[:2]):
                packet.stream = tracks[index]
                both.mux(packet)
        write_annotated(tmp_path / "both.avi", tmp_path / "painted.mov", lambda frame, moment: frame)
        first, second = read_seconds(tmp_path / "painted.mov")
        assert find_pitch(second.waveform, second.sampling_rate) == pytest.approx(300, abs=2)
        assert loudness(second) == pytest.approx(0.354, abs=0.02)


class TestClocks:
    def test_b_frames_in_avi_come_in_order(self, tmp_path):
        levels = [40 + 3 * index for index in range(60)]
        path = write_levels(tmp_path / "clip.avi", "libx264", levels, list(range(60)), options={"bf": "3"})
        with av.open(str(path)) as container:  # or the test would say nothing
            assert any(frame.pict_type == av.video.frame.PictureType.B for frame in container.decode(video=0))
        seen, moments = [], []

        def look(frame: np.ndarray, moment: float) -> np.ndarray:
            seen.append(np.median(frame))
            moments.append(moment)
            return frame

        write_annotated(path, tmp_path / "painted.mp4", look, SILENCE)
        np.testing.assert_allclose(seen, levels, atol=3)
        np.testing.assert_allclose(moments, np.arange(60) / 20, atol=1e-6)
        assert read_info(path).seconds == pytest.approx(3, abs=0.06)

    def test_of_frames_at_one_time_the_last_one_is_shown(self, tmp_path):
        moments = [50 * index for index in range(20)]
        moments[8] = moments[9] = moments[10]
        levels = [50] * 8 + [100, 150, 200] + [200] * 9
        path = write_levels(tmp_path / "clip.webm", "libvpx", levels, moments)
        (second,) = read_seconds(path, SILENCE)
        assert np.median(second.frame) == pytest.approx(200, abs=4)

    def test_a_clock_that_leaps_is_an_error_and_a_still_picture_is_not(self, tmp_path):
        for leap in (599_000, 601_000):
            moments = [0, 50, leap, leap + 50]
            path = write_levels(tmp_path / f"{leap}.mkv", "libvpx", [60, 60, 90, 90], moments)
            if leap < 600_000:
                assert len(list(read_seconds(path, SILENCE))) == 599
            else:
                for read in (read_info, lambda path: list(read_seconds(path, SILENCE))):
                    with pytest.raises(ValueError, match=r"from 0\.05 s to 601\.00 s"):
                        read(path)


class TestDamage:
    @pytest.mark.parametrize("kind", ["audio", "video"])
    def test_packets_that_cannot_be_decoded_are_left_out(self, tmp_path, kind):
        sound = make_tone(300, 48_000, 4)
        path = make_video(
            tmp_path / "clip.mov", seconds=4, video_codec="mpeg4", audio_codec="ac3", rate=48_000, sound=sound
        )
        path.write_bytes(spoil(path.read_bytes(), kind, first=12, count=2))
        seconds = list(read_seconds(path))
        assert len(seconds) == 4
        assert min(map(loudness, seconds)) > 0.3

    @pytest.mark.parametrize(
        ("suffix", "video_codec", "audio_codec"), [("webm", "libvpx", "libopus"), ("ts", "libx264", "mp2")]
    )
    @pytest.mark.parametrize("share", [0.6, 0.75, 0.9])
    def test_of_a_recording_that_was_cut_off_what_is_there_is_read(
        self, tmp_path, suffix, video_codec, audio_codec, share
    ):
        noise = np.random.default_rng(0).normal(size=(1, 4 * 48_000)).astype(np.float32) / 8
        path = tmp_path / f"clip.{suffix}"
        packets = []
        with av.open(str(path), "w") as container:
            video = container.add_stream(video_codec, rate=10)
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            audio = container.add_stream(audio_codec, rate=48_000, layout="mono")
            for index in range(40):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 5 * index, np.uint8), format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 10)
                packets += video.encode(frame)
            packets += video.encode()
            frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
            for packet in sorted(
                [*packets, *audio.encode(frame), *audio.encode()],
                key=lambda packet: float(packet.dts * packet.time_base),
            ):
                container.mux(packet)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        assert len(list(read_seconds(path))) in (2, 3, 4)


def mirror(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Writes a display matrix (a b c d) into an mp4."""
    content = bytearray(path.read_bytes())
    header = content.find(b"tkhd")
    place = header + 8 + (32 if content[header + 4] == 1 else 20) + 16
    a, b, c, d = (value << 16 for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


class TestPictures:
    # Where the blue quarter, at the top left of what is stored, is to be seen: row and column, from 0 to 1.
    @pytest.mark.parametrize(
        ("matrix", "place"),
        [
            ((-1, 0, 0, 1), (0.25, 0.75)),
            ((1, 0, 0, -1), (0.75, 0.25)),
            ((0, 1, 1, 0), (0.25, 0.25)),
            ((0, -1, -1, 0), (0.75, 0.75)),
            ((0, 1, -1, 0), (0.25, 0.75)),
            ((0, -1, 1, 0), (0.75, 0.25)),
        ],
    )
    def test_videos_are_seen_and_painted_as_they_are_displayed(self, tmp_path, matrix, place):
        path = make_video(tmp_path / "clip.mp4", seconds=1, pix_fmt="yuv444p")
        mirror(path, matrix)
        write_annotated(path, tmp_path / "painted.mp4", lambda frame, moment: frame, SILENCE)
        size = (48, 64) if matrix[0] == 0 else (64, 48)
        for video in (path, tmp_path / "painted.mp4"):
            frame = next(read_seconds(video, SILENCE)).frame
            assert frame.size == size
            row, column = (int(share * length) for share, length in zip(place, frame.size[::-1]))
            np.testing.assert_allclose(np.asarray(frame)[row, column], BLUE, atol=10)

    @pytest.mark.parametrize("mode", ["I;16", "I", "F"])
    def test_frames_of_more_than_8_bits_are_refused(self, mode):
        picture = Image.fromarray(np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16)
        picture = (
            picture if mode == "I;16" else picture.convert("I") if mode == "I" else picture.convert("I").convert("F")
        )
        assert picture.mode == mode
        processor = AAVSImageProcessorPil(size={"height": 64, "width": 64})
        with pytest.raises(ValueError, match=r"images\[1\] has 16 bits"):
            processor([Image.new("RGB", (64, 64)), picture])
        with pytest.raises(ValueError, match=r"frames\[0\] has 16 bits"):
            next(pair_seconds([picture], np.zeros(8_000), 8_000))

    @pytest.mark.parametrize("processor_class", [AAVSImageProcessor, AAVSImageProcessorPil])
    def test_arrays_of_more_than_8_bits_or_from_0_to_1_are_refused(self, processor_class):
        processor = processor_class(size={"height": 64, "width": 64})
        frame = np.random.default_rng(0).integers(0, 230, (64, 64, 3))
        right = processor([frame.astype(np.uint8)], return_tensors="pt")["pixel_values"]
        with pytest.raises(ValueError, match="more than 8 bits"):
            processor([frame.astype(np.int32) * 257])
        scaled = [torch.from_numpy(frame / 255).float().permute(2, 0, 1)] * 2
        with pytest.raises(ValueError, match="do_rescale=False"):
            processor(scaled)
        found = processor(scaled, do_rescale=False, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(found[:1], right, atol=0.02, rtol=0)
        # A black frame alone is no sign.
        processor([np.zeros((64, 64, 3), np.float32)])
        with pytest.raises(ValueError, match="more than 8 bits"):
            processor([frame.astype(np.float32) * 257])

    @pytest.mark.parametrize("processor_class", [AAVSImageProcessor, AAVSImageProcessorPil])
    def test_frames_that_are_prepared_boolean_or_none_are_refused(self, processor_class):
        processor = processor_class(size={"height": 64, "width": 64})
        frame = np.random.default_rng(0).integers(0, 230, (64, 64, 3))
        for wrong in (frame - 100, frame.astype(np.float32) - 100, frame > 100, np.full((64, 64, 3), np.nan)):
            with pytest.raises(ValueError, match=r"images\[1\] has the type .* pass images from 0 to 255"):
                processor([frame.astype(np.uint8), wrong])
        with pytest.raises(ValueError, match="images is empty"):
            processor([])

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_photos_are_turned_as_for_display(self, orientation):
        picture = np.zeros((6, 8, 3), np.uint8)
        picture[0, 0], picture[0, 7], picture[5, 0] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
        exif, file = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        Image.fromarray(picture).save(file, "PNG", exif=exif)
        frame = np.asarray(to_frame(Image.open(file), "frame"))
        # Of the EXIF standard: which corner of the display the stored first row and first column begin at.
        top, left = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}[
            orientation
        ]
        assert frame.shape == ((6, 8, 3) if orientation < 5 else (8, 6, 3))
        np.testing.assert_array_equal(frame[top, left], (250, 0, 0))
