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
"""Folders of videos: what is found in them, whose outputs a folder has, and what one that fails leaves of the rest."""

import csv
import json
from pathlib import Path
from threading import active_count

import pytest
from transformers import pipeline

from stepping_stones_hf.cli import main
from stepping_stones_hf.segment_video import segment_video
from stepping_stones_hf.segment_videos import find_videos, open_corpus, report_failures, segment_videos
from stepping_stones_hf.training.checkpoints import lock_run

from .videos import make_video, read_files, read_states


@pytest.fixture(scope="module")
def segment(two_stage_repository):
    return pipeline("audio-visual-segmentation", model=str(two_stage_repository), device="cpu")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two videos, one of them deeper, and between them one that is none."""
    folder = tmp_path / "videos"
    (folder / "deeper").mkdir(parents=True)
    make_video(folder / "a.mp4", seconds=2)
    (folder / "broken.mp4").write_text("no video")
    make_video(folder / "deeper" / "a.mkv", seconds=1, audio_codec="pcm_s16le")
    return folder


class TestFindVideos:
    def test_videos_at_any_depth_by_their_suffix(self, tmp_path):
        (tmp_path / "deeper" / ".hidden").mkdir(parents=True)
        for name in ("b.MP4", "a.webm", "notes.txt", "._b.mp4", "deeper/c.mkv", "deeper/.hidden/d.mp4"):
            (tmp_path / name).touch()
        videos = find_videos([tmp_path], tmp_path.with_name("out"))
        assert list(videos.items()) == [(name, tmp_path / name) for name in ("a.webm", "b.MP4", "deeper/c.mkv")]

    def test_files_of_any_suffix(self, tmp_path):
        files = [tmp_path / "x" / "b.video", tmp_path / "y" / "a.mp4"]
        assert find_videos(files, tmp_path / "y" / "out") == {"a.mp4": files[1], "b.video": files[0]}

    def test_a_video_that_is_given_twice_is_one(self, tmp_path, monkeypatch):
        (tmp_path / "a.mp4").touch()
        monkeypatch.chdir(tmp_path)
        assert list(find_videos(["a.mp4", "a.mp4", tmp_path, "."], tmp_path.with_name("out"))) == ["a.mp4"]

    def test_names_that_are_the_same(self, tmp_path):
        with pytest.raises(ValueError, match="x/a.mp4 and .*y/a.mp4 have the same name: segment the folder"):
            find_videos([tmp_path / "x" / "a.mp4", tmp_path / "y" / "a.mp4"], tmp_path / "out")

    def test_a_folder_without_videos(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        with pytest.raises(ValueError, match=f"{tmp_path} has no videos"):
            find_videos([tmp_path], tmp_path.with_name("out"))

    def test_outputs_among_the_videos(self, tmp_path):
        with pytest.raises(ValueError, match="out, the folder for the outputs, lies in"):
            find_videos([tmp_path], tmp_path / "out")


class TestOpenCorpus:
    def test_outputs_of_other_settings_or_videos_are_not_mixed(self, tmp_path):
        inputs, out = [tmp_path / "videos" / "a.mp4"], tmp_path / "out"
        with open_corpus(out, inputs, ["masks"], model="one"):
            (out / "a.mp4").mkdir()
        with open_corpus(out, [tmp_path / "videos" / "b.mp4"], ["masks"], model="one"):
            pass
        for other, outputs, model, what in (
            (inputs, ["masks"], "two", r"model differ \(one there\)"),
            (inputs, ["masks", "video"], "one", "outputs differ"),
            ([tmp_path / "others" / "a.mp4"], ["masks"], "one", "folders differ"),
        ):
            refused = pytest.raises(ValueError, match=f"{out} has the outputs of another run: {what}")
            with refused, open_corpus(out, other, outputs, model=model):
                pass
        assert json.loads((out / "run.json").read_text())["model"] == "one"

    def test_settings_that_no_video_has_been_segmented_with_may_change(self, tmp_path):
        for model in ("missing", "there"):
            with open_corpus(tmp_path / "out", [tmp_path / "a.mp4"], ["masks"], model=model):
                pass
        assert json.loads((tmp_path / "out" / "run.json").read_text())["model"] == "there"

    def test_a_folder_that_no_run_has_made(self, tmp_path):
        (tmp_path / "something").touch()
        refused = pytest.raises(ValueError, match=f"{tmp_path} has other files already")
        with refused, open_corpus(tmp_path, [tmp_path / "a.mp4"], ["masks"]):
            pass
        assert read_files(tmp_path) == {"something", ".lock"}

    def test_one_run_at_a_time(self, tmp_path):
        refused = pytest.raises(ValueError, match=f"Another process works in {tmp_path}")
        with lock_run(tmp_path), refused, open_corpus(tmp_path, [tmp_path / "a.mp4"], ["masks"]):
            pass


class TestSegmentVideos:
    def test_each_has_what_it_has_alone_and_one_that_fails_stops_none(self, segment, folder, tmp_path):
        out = tmp_path / "out"
        failures = segment_videos(segment, find_videos([folder], out), out)
        assert [failure["video"] for failure in failures] == ["broken.mp4"]
        assert "broken.mp4 cannot be read" in failures[0]["reason"]
        for name in ("a.mp4", "deeper/a.mkv"):
            alone = tmp_path / "alone" / name
            alone.mkdir(parents=True)
            paths = (alone / "segmented.mp4", alone / "masks", alone / "timeline.json")
            segment_video(segment, folder / name, *paths)
            assert read_files(out / name) == read_files(alone) >= {"segmented.mp4", "masks/00000.png", "timeline.json"}
            for file in sorted(read_files(alone)):  # what the models find before what is encoded of it
                assert (out / name / file).read_bytes() == (alone / file).read_bytes(), file
        assert {path.name for path in out.iterdir()} == {"a.mp4", "deeper"}

    def test_only_what_is_asked_for_is_written(self, segment, folder, tmp_path):
        videos = {"a.mp4": folder / "a.mp4"}
        assert segment_videos(segment, videos, tmp_path / "out", ["timeline"]) == []
        assert read_files(tmp_path / "out") == {"a.mp4/timeline.json"}

    def test_a_video_is_segmented_once_and_one_that_failed_again(self, segment, folder, tmp_path):
        videos, out = find_videos([folder], tmp_path / "out"), tmp_path / "out"
        segment_videos(segment, videos, out, ["masks"])
        before = read_states(out)
        make_video(folder / "broken.mp4", seconds=1)
        assert segment_videos(segment, videos, out, ["masks"]) == []
        after = read_states(out)
        assert after.items() >= before.items()
        assert {name for name in after if name not in before} == {"broken.mp4/masks/00000.png"}

    def test_whatever_the_error_is_the_rest_is_segmented(self, segment, folder, tmp_path, monkeypatch):
        def fail(path, *_):
            if "deeper" not in path.parts:
                raise RuntimeError("out of memory\nand more")

        monkeypatch.setattr("stepping_stones_hf.segment_video.write_indices", fail)
        videos = {name: folder / name for name in ("a.mp4", "deeper/a.mkv")}
        threads = active_count()
        failures = segment_videos(segment, videos, tmp_path / "out", ["masks", "timeline"])
        assert active_count() == threads
        assert failures == [{"video": "a.mp4", "reason": "RuntimeError: out of memory"}]
        assert read_files(tmp_path / "out") == {"deeper/a.mkv/timeline.json"}

    def test_what_a_killed_run_has_left_goes(self, segment, folder, tmp_path):
        left = tmp_path / "out" / ".a.mp4.partial" / "masks"
        left.mkdir(parents=True)
        (left / "00077.png").touch()
        segment_videos(segment, {"a.mp4": folder / "a.mp4"}, tmp_path / "out", ["masks"])
        assert read_files(tmp_path / "out") == {"a.mp4/masks/00000.png", "a.mp4/masks/00001.png"}


def test_the_table_of_failures_is_that_of_the_last_run(tmp_path, capsys):
    videos = {"a": Path("a"), "b": Path("b")}
    report_failures(tmp_path, videos, [{"video": "b", "reason": "it has no sound, and no picture"}])
    assert "1 of 2 videos are segmented" in (out := capsys.readouterr().out)
    assert "| b | it has no sound, and no picture |" in out
    with open(tmp_path / "failures.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [{"video": "b", "reason": "it has no sound, and no picture"}]
    report_failures(tmp_path, videos, [])
    assert capsys.readouterr().out == f"2 of 2 videos are segmented in {tmp_path}.\n"
    assert list(tmp_path.iterdir()) == []


class TestCommand:
    def test_a_folder(self, two_stage_repository, folder, tmp_path, capsys):
        command = ["segment", str(folder), "--model", str(two_stage_repository), "--outputs", "timeline"]
        out = tmp_path / "videos_segmented"
        assert main(command) == 1
        assert "2 of 3 videos are segmented" in capsys.readouterr().out
        assert read_files(out) == {
            *("a.mp4/timeline.json", "deeper/a.mkv/timeline.json", "failures.csv", "run.json", ".lock"),
        }
        (folder / "broken.mp4").unlink()
        before = read_states(out)
        assert main(command) == 0
        assert "2 of 2 videos are segmented" in capsys.readouterr().out
        assert {name: before[name] for name in before if "timeline" in name}.items() <= read_states(out).items()
        assert main([*command, "--fps", "5"]) == 1
        assert "fps differ (None there)" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["a.mp4", "b.mp4"], "give one with -o"),
            (["a.mp4", "b.mp4", "-o", "out", "--masks", "masks"], "--masks and --json are for one video"),
            ([".", "--json", "file.json"], "--masks and --json are for one video"),
            (["a.mp4", "--outputs", "masks"], "--outputs is for several videos"),
            ([".", "--fps", "0"], "fps is 0.0"),
            ([".", "--audio", "missing.wav"], "missing.wav is no file"),
            ([".", "-o", "out"], "lies in ."),
        ],
    )
    def test_options_that_do_not_go_together_are_refused_before_a_model_is_loaded(
        self, tmp_path, capsys, monkeypatch, words, message
    ):
        monkeypatch.chdir(tmp_path)
        make_video(Path("a.mp4"), seconds=1)
        assert main(["segment", *words, "--model", "no/model"]) == 1
        assert message in capsys.readouterr().err
        assert read_files(tmp_path) == {"a.mp4"}
