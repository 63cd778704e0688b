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

import itertools
import math
from fractions import Fraction
from threading import Event, active_count

import av
import numpy as np
import pytest
from PIL import Image

from stepping_stones_hf.video import (
    SILENCE,
    read_ahead,
    read_info,
    read_seconds,
    read_sound,
    write_annotated,
    write_video,
)

from .videos import BLUE, RED, make_frame, make_sound, make_video, read_streams


def loudness(second) -> float:
    return float(np.abs(second.waveform[-second.sampling_rate :]).mean())


def keep(frame: np.ndarray, moment: float) -> np.ndarray:
    return frame


class TestReadSeconds:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"fps": 1},
            {"fps": 30, "rate": 44_100},
            {"audio_codec": "libopus", "rate": 48_000},
            {"video_codec": "libvpx-vp9", "audio_codec": "libopus", "rate": 48_000},
            {"video_codec": "mpeg4", "audio_codec": "libmp3lame"},
        ],
    )
    def test_each_second_has_its_frame_and_its_sound(self, tmp_path, options):
        suffix = ".webm" if "vp9" in options.get("video_codec", "") else ".mkv" if "audio_codec" in options else ".mp4"
        path = make_video(tmp_path / f"clip{suffix}", seconds=4, **options)
        seconds = list(read_seconds(path))
        assert [second.index for second in seconds] == [0, 1, 2, 3]
        for second in seconds:
            assert second.frame.size == (64, 48)
            expected = (RED[0] - 10 * second.index, *RED[1:])
            np.testing.assert_allclose(np.asarray(second.frame)[40, 50], expected, atol=5)
            assert len(second.waveform) == second.sampling_rate * (1 if second.index == 0 else 2)
        # The tone is in one of two channels: half as loud when they are averaged.
        np.testing.assert_allclose([loudness(second) for second in seconds], [0, 0.255, 0, 0.255], atol=0.02)

    def test_bytes_are_read_as_the_file_is(self, tmp_path):
        path = make_video(tmp_path / "clip.mp4")
        for one, other in zip(read_seconds(path), read_seconds(path.read_bytes()), strict=True):
            assert one.frame == other.frame
            np.testing.assert_array_equal(one.waveform, other.waveform)

    @pytest.mark.parametrize(("length", "expected"), [(0.2, 1), (0.9, 1), (1.4, 1), (1.6, 2), (2.5, 2), (2.6, 3)])
    def test_a_second_counts_if_the_video_lasts_until_its_middle(self, tmp_path, length, expected):
        path = make_video(tmp_path / "clip.mp4", seconds=length)
        seconds = list(read_seconds(path))
        assert len(seconds) == expected
        assert all(len(second.waveform) >= second.sampling_rate for second in seconds)

    def test_the_frame_is_the_one_that_is_shown_in_the_middle_where_rates_vary(self, tmp_path):
        path = make_video(tmp_path / "clip.mp4", moments=[0.0, 0.1, 2.2, 2.4, 2.6, 3.9], seconds=4)
        reds = [np.asarray(second.frame)[40, 50, 0] for second in read_seconds(path)]
        # Shown at 0.5 and 1.5 is the frame of 0.1, at 2.5 that of 2.4, at 3.5 that of 2.6.
        np.testing.assert_allclose(reds, [RED[0], RED[0], RED[0] - 20, RED[0] - 20], atol=5)

    @pytest.mark.parametrize(("rotation", "corner"), [(90, (40, 10)), (-90, (10, 40)), (180, (40, 50))])
    def test_turned_videos_are_upright(self, tmp_path, rotation, corner):
        path = make_video(tmp_path / "clip.mp4", rotation=rotation)
        info = read_info(path)
        frame = next(read_seconds(path)).frame
        assert (info.width, info.height) == frame.size == ((64, 48) if rotation == 180 else (48, 64))
        # The blue corner is at the top left before the turn, which is counterclockwise.
        np.testing.assert_allclose(np.asarray(frame)[corner], BLUE, atol=8)

    def test_sound_that_begins_later_is_heard_later(self, tmp_path):
        sound = np.full((1, 32_000), 0.5, dtype=np.float32)
        path = make_video(tmp_path / "clip.mkv", sound=sound, audio_codec="pcm_s16le", sound_start=1.25)
        first, second, third = read_seconds(path)
        assert loudness(first) == 0
        start = second.waveform[16_000:]
        assert (start[:3_900] == 0).all()
        np.testing.assert_allclose(start[4_100:], 0.5, atol=1e-3)
        assert loudness(third) == pytest.approx(0.5, abs=1e-3)

    def test_where_the_sound_ends_first_there_is_silence(self, tmp_path):
        sound = np.full((1, 24_000), 0.5, dtype=np.float32)
        path = make_video(tmp_path / "clip.mkv", sound=sound, audio_codec="pcm_s16le")
        assert [loudness(second) for second in read_seconds(path)] == pytest.approx([0.5, 0.25, 0], abs=1e-3)

    def test_a_gap_in_the_sound_is_silent_and_what_follows_stays_in_its_place(self, tmp_path):
        path = tmp_path / "clip.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=8_000, layout="mono")
            for start in (0, 20_000):
                tone = np.full((1, 4_000), 0.5, dtype=np.float32)
                frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
                frame.sample_rate, frame.time_base, frame.pts = 8_000, Fraction(1, 8_000), start
                container.mux(stream.encode(frame))
        seconds = [samples for samples, _ in itertools.islice(read_sound(path), 4)]
        heard = np.concatenate(seconds) > 0.1
        np.testing.assert_array_equal(np.flatnonzero(np.diff(heard.astype(int))) + 1, [4_000, 20_000, 24_000])

    def test_a_clock_that_jumps_by_days_fills_no_memory(self, tmp_path):
        path, rate = tmp_path / "far.mkv", 8_000
        with av.open(str(path), "w") as container:
            stream = container.add_stream("pcm_s16le", rate=rate, layout="mono")
            for start in (0, 500_000 * rate):
                frame = av.AudioFrame.from_ndarray(np.ones((1, rate), dtype="f4"), format="fltp", layout="mono")
                frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), start
                container.mux(stream.encode(frame))
        seconds = read_sound(path)
        assert [next(seconds)[0].any() for _ in range(3)] == [True, False, False]  # 16 GB, if it were filled at once

    def test_another_sound_or_silence_takes_the_place_of_its_own(self, tmp_path):
        path = make_video(tmp_path / "clip.mp4")
        loud = make_video(
            tmp_path / "sound.wav", video_codec=None, audio_codec="pcm_s16le", sound=np.full((1, 48_000), 0.25, "f4")
        )
        assert [loudness(second) for second in read_seconds(path, loud)] == pytest.approx([0.25] * 3, abs=1e-3)
        assert [loudness(second) for second in read_seconds(path, SILENCE)] == [0, 0, 0]

    def test_odd_rates_are_resampled_by_ffmpeg(self, tmp_path):
        path = make_video(tmp_path / "clip.mkv", audio_codec="pcm_s16le", rate=44_101)
        assert {second.sampling_rate for second in read_seconds(path)} == {16_000}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clip.ts", {"audio_codec": "mp2"}),
        ("clip.h264", {"audio_codec": None}),
        ("clip.webm", {"video_codec": "libvpx-vp9", "audio_codec": "libopus", "rate": 48_000}),
    ],
)
def test_the_length_of_videos_whose_packets_do_not_say_it(tmp_path, name, options):
    path = make_video(tmp_path / name, fps=25, **options)
    assert read_info(path).seconds == pytest.approx(3, abs=0.011)


class TestWriteVideo:
    def test_frames_and_sound_come_back(self, tmp_path):
        frames = [Image.fromarray(make_frame(64, 48, moment)) for moment in range(3)]
        write_video(frames, make_sound(44_101, 3), 44_101, tmp_path / "clip.mp4")
        assert read_info(tmp_path / "clip.mp4").fps == 10
        seconds = list(read_seconds(tmp_path / "clip.mp4"))
        for second, frame in zip(seconds, frames, strict=True):
            assert np.abs(np.asarray(second.frame, dtype=float) - np.asarray(frame)).mean() < 5
        np.testing.assert_allclose([loudness(second) for second in seconds], [0, 0.255, 0], atol=0.02)

    def test_what_is_no_clip(self, tmp_path):
        frame, sound = Image.new("RGB", (64, 48)), make_sound(16_000, 1)
        for frames in ([], [frame, frame.resize((32, 32))]):
            with pytest.raises(ValueError, match="frames should all be of one size"):
                write_video(frames, sound, 16_000, tmp_path / "clip.mp4")
        integers = np.ones((1, 16_000), np.int16)
        for waveform in (sound[0], np.zeros((3, 16_000)), np.full((1, 16_000), np.nan), np.zeros((1, 0)), integers):
            with pytest.raises(ValueError, match="waveform should be"):
                write_video([frame], waveform, 16_000, tmp_path / "clip.mp4")
        with pytest.raises(ValueError, match="waveform has floating point samples up to 8000"):
            write_video([frame], 8_000.0 * integers, 16_000, tmp_path / "clip.mp4")
        with pytest.raises(ValueError, match="sampling_rate"):
            write_video([frame], sound, 0, tmp_path / "clip.mp4")
        assert list(tmp_path.iterdir()) == []


class TestBadInput:
    def test_no_audio_track(self, tmp_path):
        path = make_video(tmp_path / "clip.mp4", audio_codec=None)
        with pytest.raises(ValueError, match=r"clip\.mp4 has no audio track.*silence"):
            list(read_seconds(path))
        assert len(list(read_seconds(path, SILENCE))) == 3

    def test_no_video_track(self, tmp_path):
        path = make_video(tmp_path / "sound.m4a", video_codec=None)
        with pytest.raises(ValueError, match=r"sound\.m4a has no video track"):
            list(read_seconds(path))
        with pytest.raises(ValueError, match="no video track"):
            read_info(path)

    @pytest.mark.parametrize("content", [b"", b"not a video\n" * 100])
    def test_no_video_file(self, tmp_path, content):
        path = tmp_path / "clip.mp4"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"clip\.mp4 (is empty \(0 bytes\)|cannot be read)"):
            list(read_seconds(path))

    def test_missing_file_and_folder(self, tmp_path):
        for path in (tmp_path / "clip.mp4", tmp_path):
            with pytest.raises(FileNotFoundError, match=str(path)):
                list(read_seconds(path))

    def test_half_a_file(self, tmp_path):
        path = make_video(tmp_path / "clip.mp4")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match=r"clip\.mp4 cannot be read"):
            list(read_seconds(path))

    def test_an_audio_track_without_sound(self, tmp_path):
        sound = make_video(
            tmp_path / "sound.wav", video_codec=None, audio_codec="pcm_s16le", sound=np.zeros((1, 1), "f4")
        )
        header = sound.read_bytes().partition(b"data")[0]
        sound.write_bytes(header + b"data" + bytes(4))
        with pytest.raises(ValueError, match=r"sound\.wav (has an audio track without sound|cannot be read)"):
            list(read_seconds(make_video(tmp_path / "clip.mp4"), sound))

    def test_videos_that_were_joined_without_their_clock(self, tmp_path):
        content = make_video(tmp_path / "clip.ts", audio_codec="mp2").read_bytes()
        (tmp_path / "joined.ts").write_bytes(content + content)
        with pytest.raises(ValueError, match=r"The clock of .*joined\.ts goes from .* Were videos joined"):
            list(read_seconds(tmp_path / "joined.ts"))

    def test_a_size_that_changes(self, tmp_path):
        parts = [make_video(tmp_path / f"{width}.h264", width=width, audio_codec=None) for width in (64, 96)]
        (tmp_path / "joined.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
        with pytest.raises(ValueError, match=r"joined\.h264 changes its size from 64x48 to 96x48"):
            list(read_seconds(tmp_path / "joined.h264", SILENCE))

    def test_samples_that_are_nan(self, tmp_path):
        sound = make_sound(16_000, 3, channels=1)
        sound[0, 20_000] = np.nan
        path = make_video(tmp_path / "clip.mkv", audio_codec="pcm_f32le", sound=sound)
        with pytest.raises(ValueError, match=r"clip\.mkv has samples that are NaN or infinite, 1\.25 s"):
            list(read_seconds(path))


class TestWritePainted:
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"fps": 30, "rate": 44_100},
            {"fps": 1},
            {"width": 63, "height": 47, "pix_fmt": "yuv444p"},
            {"audio_codec": "ac3", "rate": 48_000},
            {"rotation": 90},
        ],
    )
    def test_size_rate_length_and_sound_stay(self, tmp_path, options):
        path, output = make_video(tmp_path / "clip.mp4", **options), tmp_path / "painted.mp4"
        write_annotated(path, output, keep)
        before, after = read_info(path), read_info(output)
        assert (after.width, after.height) == (before.width, before.height)
        assert float(after.fps) == pytest.approx(float(before.fps), rel=0.01)
        assert after.seconds == pytest.approx(before.seconds, abs=1e-3)
        streams, expected = read_streams(output), read_streams(path)
        assert streams["video"] == pytest.approx(expected["video"], abs=1e-3)
        assert streams["audio"] == pytest.approx(expected["audio"], abs=1e-3)  # the same packets
        assert list(tmp_path.glob(".*")) == []

    def test_frames_stay_where_they_are_when_rates_vary(self, tmp_path):
        moments = [0.0, 0.1, 1.2, 1.4, 1.6, 2.9]
        path, output = make_video(tmp_path / "clip.mp4", moments=moments), tmp_path / "painted.mp4"
        write_annotated(path, output, keep)
        with av.open(str(output)) as container:
            assert [frame.time for frame in container.decode(video=0)] == pytest.approx(moments, abs=1e-3)
        assert read_streams(output)["audio"] == pytest.approx(read_streams(path)["audio"], abs=1e-3)

    def test_colors_stay_and_paint_is_painted(self, tmp_path):
        path, output = make_video(tmp_path / "clip.mp4"), tmp_path / "painted.mp4"

        def paint(frame, moment):
            frame[30:, 40:] = (0, 200, 0) if moment < 1 else (200, 200, 0)
            return frame

        write_annotated(path, output, paint)
        first, second, _ = (np.asarray(second.frame) for second in read_seconds(output))
        np.testing.assert_allclose(first[5, 5], BLUE, atol=8)
        np.testing.assert_allclose(first[40, 50], (0, 200, 0), atol=8)
        np.testing.assert_allclose(second[40, 50], (200, 200, 0), atol=8)

    @pytest.mark.parametrize("fps", [5, 25])
    def test_another_rate(self, tmp_path, fps):
        path, output = make_video(tmp_path / "clip.mp4"), tmp_path / "painted.mp4"
        write_annotated(path, output, keep, fps=fps)
        info = read_info(output)
        assert (info.fps, info.seconds) == (fps, pytest.approx(3))
        assert read_streams(output)["video"][1] == 3 * fps
        reds = [np.asarray(second.frame)[40, 50, 0] for second in read_seconds(output)]
        np.testing.assert_allclose(reds, [RED[0], RED[0] - 10, RED[0] - 20], atol=5)

    @pytest.mark.parametrize(("codec", "rate"), [("pcm_s16le", 22_050), ("pcm_s16le", 44_101), ("libmp3lame", 8_000)])
    def test_sounds_that_players_do_not_know_become_aac(self, tmp_path, codec, rate):
        path, output = make_video(tmp_path / "clip.mkv", audio_codec=codec, rate=rate), tmp_path / "out.mp4"
        write_annotated(path, output, keep)
        with av.open(str(output)) as container:
            (stream,) = container.streams.audio
            assert (stream.codec_context.name, stream.channels) == ("aac", 2)
        np.testing.assert_allclose([loudness(s) for s in read_seconds(output)], [0, 0.255, 0], atol=0.02)

    @pytest.mark.parametrize("rotation", [None, 90])
    def test_pixels_that_are_not_square_stay_so(self, tmp_path, rotation):
        aspect = Fraction(16, 11)
        path = make_video(tmp_path / "clip.mp4", aspect=aspect, rotation=rotation)
        write_annotated(path, tmp_path / "out.mp4", keep)
        with av.open(str(tmp_path / "out.mp4")) as container:
            assert container.streams.video[0].sample_aspect_ratio == (aspect if rotation is None else 1 / aspect)

    def test_names_with_a_colon_are_no_protocols(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        make_video(tmp_path / "clip.mp4").rename("clip 12:30.mp4")
        write_annotated("clip 12:30.mp4", "out 12:30.mp4", keep)
        assert read_info("out 12:30.mp4").seconds == pytest.approx(3)

    def test_another_sound_ends_with_the_video_and_silence_is_no_track(self, tmp_path):
        path, output = make_video(tmp_path / "clip.mp4"), tmp_path / "out.mp4"
        other = make_video(tmp_path / "other.wav", video_codec=None, audio_codec="pcm_s16le", seconds=10)
        write_annotated(path, output, keep, audio=other)
        assert read_streams(output)["audio"][0] == pytest.approx(3, abs=0.05)
        with pytest.warns(DeprecationWarning, match="is now audio="):
            write_annotated(path, output, keep, sound=SILENCE)
        assert set(read_streams(output)) == {"video"}

    def test_a_failure_leaves_nothing_behind(self, tmp_path):
        path, output = make_video(tmp_path / "clip.mp4"), tmp_path / "painted.mp4"
        output.write_bytes(b"an older one")

        def fail(frame, moment):
            if moment > 1:
                raise RuntimeError("stop")
            return frame

        with pytest.raises(RuntimeError, match="stop"):
            write_annotated(path, output, fail)
        assert output.read_bytes() == b"an older one"
        assert sorted(found.name for found in tmp_path.iterdir()) == ["clip.mp4", "painted.mp4"]

    @pytest.mark.parametrize("change", [lambda frame: frame[::2], lambda frame: frame / 255])
    def test_annotated_frames_that_are_no_frames(self, tmp_path, change):
        path = make_video(tmp_path / "clip.mp4")
        with pytest.raises(ValueError, match=r"paint gave .* for the frame at 0\.00 s, expected uint8 of shape"):
            write_annotated(path, tmp_path / "out.mp4", lambda frame, moment: change(frame))
        assert not (tmp_path / "out.mp4").exists()

    def test_outputs_that_cannot_be(self, tmp_path):
        path = make_video(tmp_path / "clip.mp4")
        content = path.read_bytes()
        with pytest.raises(ValueError, match=r"clip\.mp4 is read or written already"):
            write_annotated(path, path, keep)
        with pytest.raises(ValueError, match=r"out\.gif should end in \.mp4"):
            write_annotated(path, tmp_path / "out.gif", keep)
        with pytest.raises(ValueError, match=r"clip\.mp4 is read or written already"):
            write_annotated(make_video(tmp_path / "other.mp4"), path, keep, audio=path)
        (tmp_path / "folder.mp4").mkdir()
        with pytest.raises(ValueError, match=r"folder\.mp4 is a folder"):
            write_annotated(path, tmp_path / "folder.mp4", keep)
        for fps in (0, -1, 0.01, math.inf, math.nan):
            with pytest.raises(ValueError, match="fps is .*, expected"):
                write_annotated(path, tmp_path / "out.mp4", keep, fps=fps)
        with pytest.raises(FileNotFoundError, match="nowhere, the folder for"):
            write_annotated(path, tmp_path / "nowhere" / "out.mp4", keep)
        assert path.read_bytes() == content


def test_without_pyav_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("stepping_stones_hf.video.av", None)
    with pytest.raises(ImportError, match="pip install"):
        read_info(tmp_path / "clip.mp4")


def test_a_song_with_a_cover_is_no_video(tmp_path):
    path = tmp_path / "song.mp3"
    cover = tmp_path / "cover.png"
    Image.new("RGB", (32, 32), "red").save(cover)
    with av.open(str(path), "w") as container, av.open(str(cover)) as pictures:
        audio = container.add_stream("libmp3lame", rate=16_000, layout="mono")
        picture = container.add_stream_from_template(pictures.streams.video[0])
        picture.disposition = av.stream.Disposition.attached_pic
        for packet in pictures.demux():
            if packet.dts is not None:
                packet.stream = picture
                container.mux(packet)
        frame = av.AudioFrame.from_ndarray(make_sound(16_000, 1, channels=1), format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = 16_000, Fraction(1, 16_000), 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode())
    with pytest.raises(ValueError, match=r"song\.mp3 has no video track"):
        list(read_seconds(path))


class TestReadAhead:
    def test_items_are_taken_before_they_are_asked_for_but_no_more_than_so_many(self):
        taken, third = [], Event()

        def take():
            for index in range(100):
                taken.append(index)
                if index == 2:
                    third.set()
                yield index

        items = read_ahead(take(), 2)
        assert next(items) == 0
        assert third.wait(timeout=60)
        items.close()
        assert taken == [0, 1, 2]

    def test_all_items_come_in_order_and_the_thread_ends(self):
        threads = active_count()
        assert list(read_ahead(iter(range(10)), 3)) == list(range(10))
        assert list(read_ahead(iter(()), 3)) == []
        assert active_count() == threads

    def test_an_error_comes_after_the_items_before_it(self):
        threads, found = active_count(), []
        with pytest.raises(ZeroDivisionError):
            for item in read_ahead((1 // (2 - index) for index in range(5)), 4):
                found.append(item)
        assert found == [0, 1] and active_count() == threads
