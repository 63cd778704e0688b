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

import json

import numpy as np
import pytest
import soundfile
from PIL import Image
from transformers import pipeline

from stepping_stones_hf.cli import main
from stepping_stones_hf.data.labels import PALETTE
from stepping_stones_hf.segment_video import describe_timeline, segment_video
from stepping_stones_hf.video import SILENCE, read_info, read_seconds, write_video

from .two_stage import save_stage
from .videos import make_video, read_streams


@pytest.fixture(scope="module")
def segment(two_stage_repository):
    return pipeline("audio-visual-segmentation", model=str(two_stage_repository), device="cpu")


def read_files(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


class TestSegmentVideo:
    def test_all_its_files_say_what_the_pipeline_says(self, segment, tmp_path):
        path = make_video(tmp_path / "clip.mkv", audio_codec="pcm_s16le", seconds=3.3)
        results = segment(path, label_maps="array", batch_size=2)
        timeline = segment_video(
            segment, path, tmp_path / "out.mp4", tmp_path / "masks", tmp_path / "timeline.json", batch_size=2
        )
        assert timeline == [{"second": row["second"], "classes": row["classes"]} for row in results]

        summary = json.loads((tmp_path / "timeline.json").read_text())
        assert summary["timeline"] == timeline
        assert (summary["width"], summary["height"], summary["fps"]) == (64, 48, 10)
        assert summary["seconds"] == pytest.approx(3.3)

        assert read_files(tmp_path / "masks") == {"00000.png", "00001.png", "00002.png"}
        for row in results:
            mask = Image.open(tmp_path / "masks" / f"{row['second']:05d}.png")
            assert mask.mode == "P"
            np.testing.assert_array_equal(np.asarray(mask), row["label_map"])
            np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), PALETTE[row["label_map"]])

        info = read_info(tmp_path / "out.mp4")
        assert (info.width, info.height, info.fps) == (64, 48, 10)
        assert info.seconds == pytest.approx(3.3, abs=1e-3)
        assert read_streams(tmp_path / "out.mp4")["audio"][0] == pytest.approx(3.3, abs=0.05)
        assert read_files(tmp_path) == {"clip.mkv", "out.mp4", "masks", "timeline.json"}

    def test_labeled_pixels_are_painted_and_others_are_not(self, segment, tmp_path):
        path = make_video(tmp_path / "clip.mkv", width=640, height=480, audio_codec="pcm_s16le")
        segment_video(segment, path, tmp_path / "out.mp4")
        for before, after, result in zip(
            read_seconds(path), read_seconds(tmp_path / "out.mp4"), segment(path, label_maps="array"), strict=True
        ):
            # Away from the legend, the strip and the borders of regions, which the codec blurs.
            inside = np.zeros((480, 640), dtype=bool)
            inside[100:350:10, 300:600:10] = True
            frame, painted = np.asarray(before.frame, dtype=float), np.asarray(after.frame, dtype=float)
            labels = result["label_map"]
            blended = np.where(labels[..., None] > 0, 0.35 * frame + 0.65 * PALETTE[labels], frame)
            assert np.abs(painted - blended).max(axis=2)[inside].mean() < 8

    def test_another_sound_gives_other_masks_and_is_heard(self, segment, tmp_path):
        path = make_video(tmp_path / "clip.mkv", audio_codec="pcm_s16le")
        own = segment_video(segment, path, tmp_path / "own.mp4")
        soundfile.write(tmp_path / "zeros.wav", np.zeros(64_000), 16_000)
        swapped = segment_video(segment, path, tmp_path / "swapped.mp4", audio=tmp_path / "zeros.wav")
        assert swapped == segment_video(segment, path, tmp_path / "mute.mp4", audio=SILENCE) != own
        assert set(read_streams(tmp_path / "mute.mp4")) == {"video"}
        assert max(np.abs(second.waveform).max() for second in read_seconds(tmp_path / "swapped.mp4")) < 1e-3

    @pytest.mark.parametrize("what", ["write_indices", "make_layer", "json.dumps"])
    def test_a_failure_leaves_nothing_behind(self, segment, tmp_path, monkeypatch, what):
        path = make_video(tmp_path / "clip.mkv", audio_codec="pcm_s16le")
        (tmp_path / "out.mp4").write_bytes(b"an older one")

        def fail(*args, **kwargs):
            raise OSError("no space left")

        monkeypatch.setattr(f"stepping_stones_hf.segment_video.{what}", fail)
        with pytest.raises(OSError, match="no space"):
            segment_video(segment, path, tmp_path / "out.mp4", tmp_path / "masks", tmp_path / "timeline.json")
        assert read_files(tmp_path) == {"clip.mkv", "out.mp4"}
        assert (tmp_path / "out.mp4").read_bytes() == b"an older one"

    def test_outputs_that_cannot_be(self, segment, tmp_path):
        path = make_video(tmp_path / "clip.mp4")
        with pytest.raises(ValueError, match="exists already"):
            segment_video(segment, path, masks_dir=tmp_path)
        with pytest.raises(FileNotFoundError, match="nowhere, the folder for out.json"):
            segment_video(segment, path, json_path=tmp_path / "nowhere" / "out.json")
        out = tmp_path / "out.mp4"
        for outputs in ({"output": path}, {"json_path": path}, {"output": out, "json_path": out}):
            with pytest.raises(ValueError, match="is read or written already"):
                segment_video(segment, path, **outputs)
        with pytest.raises(ValueError, match="is a folder"):
            segment_video(segment, path, json_path=tmp_path)
        with pytest.raises(ValueError, match="or its parent does not"):
            segment_video(segment, path, masks_dir=tmp_path / "nowhere" / "masks")
        assert read_files(tmp_path) == {"clip.mp4"}


def test_times_of_what_sounds():
    dog, cat = {"label": "dog"}, {"label": "cat"}
    rows = [[dog], [dog, cat], [], [dog]]
    timeline = [{"second": index, "classes": classes} for index, classes in enumerate(rows)]
    assert describe_timeline(timeline) == ["dog 0-2, 3-4", "cat 1-2"]


class TestCommand:
    def test_it_writes_beside_the_video_and_says_what_sounds(self, two_stage_repository, tmp_path, capsys):
        path = make_video(tmp_path / "clip.mp4")
        arguments = ["--masks", str(tmp_path / "masks"), "--json", str(tmp_path / "timeline.json")]
        assert main(["segment", str(path), "--model", str(two_stage_repository), *arguments]) == 0
        out = capsys.readouterr().out
        timeline = json.loads((tmp_path / "timeline.json").read_text())["timeline"]
        assert out.splitlines()[:-1] == describe_timeline(timeline)
        assert "clip_segmented.mp4" in out
        assert read_files(tmp_path) == {"clip.mp4", "clip_segmented.mp4", "masks", "timeline.json"}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"audio_codec": None}, "has no audio track"),
            ({"video_codec": None}, "has no video track"),
        ],
    )
    def test_tracks_that_are_missing(self, two_stage_repository, tmp_path, capsys, options, message):
        path = make_video(tmp_path / "clip.mp4", **options)
        assert main(["segment", str(path), "--model", str(two_stage_repository)]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
        assert read_files(tmp_path) == {"clip.mp4"}

    def test_silence_in_place_of_a_missing_sound(self, two_stage_repository, tmp_path):
        path = make_video(tmp_path / "clip.mp4", audio_codec=None)
        assert main(["segment", str(path), "--model", str(two_stage_repository), "--audio", "silence"]) == 0
        assert read_info(tmp_path / "clip_segmented.mp4").seconds == pytest.approx(3)

    @pytest.mark.parametrize(
        ("options", "message"),
        [(["--fps", "0"], "fps is 0.0"), (["--device", "nonsense"], "--device nonsense is not")],
    )
    def test_values_that_cannot_be(self, two_stage_repository, tmp_path, capsys, options, message):
        path = make_video(tmp_path / "clip.mp4")
        assert main(["segment", str(path), "--model", str(two_stage_repository), *options]) == 1
        assert message in capsys.readouterr().err
        assert read_files(tmp_path) == {"clip.mp4"}

    @pytest.mark.parametrize(
        ("video", "options", "message"),
        [
            ("clip.mp4", ["--audio", "missing.wav"], "missing.wav is no file"),
            ("clip.mp4", ["--audio", "text.wav"], "text.wav cannot be read"),
            ("silent.mp4", [], "silent.mp4 has no audio track"),
            ("missing.mp4", [], "missing.mp4 is no file"),
            (".", ["--audio", "text.wav"], "text.wav cannot be read"),
            ("nothing", [], "nothing has no videos"),
        ],
    )
    def test_files_are_looked_at_before_a_model_is_loaded(
        self, tmp_path, capsys, monkeypatch, video, options, message
    ):
        make_video(tmp_path / "clip.mp4")
        make_video(tmp_path / "silent.mp4", audio_codec=None)
        (tmp_path / "text.wav").write_text("text")
        (tmp_path / "nothing").mkdir()
        monkeypatch.chdir(tmp_path)
        assert main(["segment", video, "--model", "no/model", *options]) == 1
        assert message in capsys.readouterr().err

    def test_what_is_no_model(self, tmp_path, capsys, monkeypatch):
        path = make_video(tmp_path / "clip.mp4")
        monkeypatch.chdir(tmp_path)
        assert main(["segment", str(path)]) == 1
        assert "`make demo` trains, does not exist here: give one with --model" in capsys.readouterr().err
        save_stage(tmp_path / "second", stage=2)
        assert main(["segment", str(path), "--model", "second"]) == 1
        assert "is prompted with the masks of a localizer" in capsys.readouterr().err
        assert read_files(tmp_path) == {"clip.mp4", "second"}


class TestRealClips:
    @pytest.mark.parametrize("subset", ["v1s", "v1m", "v2"])
    def test_photos_and_sounds_as_a_video(self, shared_dir, two_stage_repository, segment, tmp_path, subset):
        clip = min(path for path in (shared_dir / "real_clips" / subset).iterdir() if path.is_dir())
        frames = [Image.open(path).convert("RGB") for path in sorted((clip / "frames").glob("*.jpg"))]
        sound, rate = soundfile.read(clip / "audio.wav", dtype="float32", always_2d=True)
        path, output = tmp_path / "clip.mp4", tmp_path / "clip_segmented.mp4"
        write_video(frames, sound.T, rate, path)

        arguments = ["--model", str(two_stage_repository), "--masks", str(tmp_path / "masks")]
        assert main(["segment", str(path), *arguments]) == 0
        before, after = read_info(path), read_info(output)
        assert after == before
        assert (after.width, after.height) == frames[0].size
        assert read_streams(output) == read_streams(path)
        assert set(read_streams(output)) == {"video", "audio"}

        seconds = list(read_seconds(path))
        for second, photo in zip(seconds, frames, strict=True):
            assert np.abs(np.asarray(second.frame, dtype=float) - np.asarray(photo)).mean() < 8
        for result in segment(path, label_maps="array"):
            mask = Image.open(tmp_path / "masks" / f"{result['second']:05d}.png")
            np.testing.assert_array_equal(np.asarray(mask), result["label_map"])
