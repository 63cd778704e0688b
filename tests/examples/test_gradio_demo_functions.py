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
What the demo's page does when its buttons are pressed, with a stand-in for gradio (`test_gradio_demo.py` has the page
in a browser), and that of the metric's Space.
"""

import runpy
import sys
from pathlib import Path
from unittest.mock import MagicMock

import evaluate
import numpy as np
import pytest
import soundfile
from PIL import Image
from transformers import pipeline

from stepping_stones_hf.metrics import AvssMiou
from stepping_stones_hf.metrics.registration import METRIC_FILE
from stepping_stones_hf.segment_video import describe_timeline
from stepping_stones_hf.video import SILENCE, read_info

from .. import videos
from ..two_stage import save_stage
from ..videos import make_video, read_streams


REPOSITORY = Path(__file__).parents[2]
TASK = "audio-visual-segmentation"


class Error(Exception):
    def __init__(self, message: str, print_exception: bool = True):
        super().__init__(message)


@pytest.fixture
def gradio(monkeypatch) -> MagicMock:
    """Remembers what is done with it, as `mock` does."""
    stub = MagicMock(Error=Error)
    monkeypatch.setitem(sys.modules, "gradio", stub)
    return stub


@pytest.fixture
def app(gradio) -> dict:
    return runpy.run_path(str(REPOSITORY / "examples" / "gradio_demo" / "app.py"))


@pytest.fixture(scope="module")
def segment(two_stage_repository):
    return pipeline(TASK, model=str(two_stage_repository), device="cpu")


@pytest.fixture
def press(app, gradio, segment):
    """What each button calls."""
    app["make_page"](segment)
    own, mute, swap = (call.args for call in gradio.Button.return_value.click.call_args_list)
    assert mute[0] is swap[0]
    return {"segment": own[0], "mute": mute[0], "swap": swap[0]}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    return str(make_video(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=3))


def test_a_clip_is_segmented_and_then_muted(press, clip, segment):
    own, video, timeline, strip = press["segment"](clip)
    assert video.is_file() and read_info(video).seconds == pytest.approx(3)
    assert [np.unique(own.read_label_map(second)).tolist() for second in range(3)] == [
        np.unique(result["label_map"]).tolist() for result in segment(clip, label_maps="array")
    ]
    lines = describe_timeline(own.timeline)
    assert lines and all(f"<span>{line} s</span>" in timeline for line in lines)
    assert timeline.count("<i") == 3 * len(lines)
    assert strip.width > strip.height

    change, muted, muted_video, *_ = press["mute"](clip, own, SILENCE)
    assert set(read_streams(video)) == {"video", "audio"} and set(read_streams(muted_video)) == {"video"}
    different = np.mean([own.read_label_map(second) != muted.read_label_map(second) for second in range(3)])
    assert different > 0 and f"**Muted, {different:.1%} of the pixels change their label**" in change
    for names, word in ((own.labels.keys() - muted.labels, "gone"), (muted.labels.keys() - own.labels, "new")):
        assert (f"{word}: {', '.join(sorted(names))}" in change) == bool(names)


def test_another_sound_without_the_own_one_has_nothing_to_be_compared_with(press, clip, app, tmp_path):
    rate, siren = app["make_siren"]()
    assert (rate, siren.dtype, len(siren)) == (16_000, np.int16, 16_000 * app["MAX_SECONDS"])
    soundfile.write(tmp_path / "siren.wav", siren[: 16_000 * 3], rate)
    change, other, video, *_ = press["swap"](clip, None, str(tmp_path / "siren.wav"))
    assert change == "" and other.sound.endswith("siren.wav") and video.is_file()


def test_the_files_of_a_clip_are_there_for_as_long_as_it_is_shown(press, clip):
    own, video, *_ = press["segment"](clip)
    folder = video.parent
    del own
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, "Upload or record a clip first."),
        ("text.mp4", "text.mp4 cannot be read"),
        ("silent.mp4", "silent.mp4 has no audio track"),
        ("long.mp4", "long.mp4 is 61.0 s long: this page takes clips of 60 s"),
    ],
)
def test_what_is_wrong_with_a_clip_is_said_without_the_servers_folders(
    press, gradio, tmp_path, monkeypatch, name, words
):
    monkeypatch.setattr(videos, "make_frame", lambda width, height, _: np.zeros((height, width, 3), np.uint8))
    path = None if name is None else tmp_path / name
    if name == "text.mp4":
        path.write_text("These are <words>.")
    elif name == "silent.mp4":
        make_video(path, audio_codec=None)
    elif name == "long.mp4":
        make_video(path, fps=1, seconds=61)
    with pytest.raises(gradio.Error, match=words) as error:
        press["segment"](None if path is None else str(path))
    assert str(tmp_path) not in str(error.value)


def test_a_sound_is_needed_to_swap_it(press, gradio, clip):
    with pytest.raises(gradio.Error, match="Upload or record another sound first."):
        press["swap"](clip, None, None)


def test_names_of_files_are_not_read_as_html(press, gradio, tmp_path):
    path = tmp_path / "<b>.mp4"
    path.touch()
    with pytest.raises(gradio.Error, match="&lt;b&gt;.mp4"):
        press["segment"](str(path))


def test_nothing_that_sounds_is_said_in_words(app):
    segmented = MagicMock(timeline=[{"second": 0, "classes": []}, {"second": 1, "classes": []}], labels={})
    text = app["format_timeline"](segmented)
    assert "Nothing sounds." in text and text.count("<i></i>") == 2


def test_a_model_of_the_first_stage_alone(app, tmp_path):
    segment = pipeline(TASK, model=str(save_stage(tmp_path / "model", stage=1)), device="cpu")
    segmented = app["Segmented"](segment, str(make_video(tmp_path / "clip.mp4")))
    assert "<span>sounding 0-" in app["format_timeline"](segmented)
    assert app["draw_strip"](segment, segmented).width > 3 * 160


def test_long_clips_have_a_strip_of_some_of_their_seconds(app, segment, tmp_path):
    path = str(make_video(tmp_path / "clip.mp4", seconds=12))
    strip = app["draw_strip"](segment, app["Segmented"](segment, path))
    short = app["draw_strip"](segment, app["Segmented"](segment, str(make_video(tmp_path / "short.mp4", seconds=6))))
    assert strip.width == short.width  # every other second


def test_without_a_model_it_says_how_to_name_one(gradio, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["app.py", "--model", "nowhere"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(REPOSITORY / "examples" / "gradio_demo" / "app.py"), run_name="__main__")
    said = capsys.readouterr().err
    assert "nowhere cannot be loaded: " in said and "Name another by --model or AVS_MODEL." in said


# The metric's Space --------------------------------------------------------------------------------------------------


@pytest.fixture
def score(gradio, monkeypatch, tmp_path):
    monkeypatch.setattr(evaluate, "load", lambda _, **options: AvssMiou(cache_dir=str(tmp_path / "cache"), **options))
    return runpy.run_path(str(METRIC_FILE.with_name("app.py")))["score"]


def save_label_map(path: Path, label_map: list[list[int]]) -> str:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.array(label_map, np.uint8)).save(path)
    return str(path)


def test_the_space_scores_label_maps_in_the_order_of_their_names(score, tmp_path):
    maps = {"0.png": [[0, 1]], "1.png": [[2, 2]]}
    predictions = [save_label_map(tmp_path / "b" / name, label_map) for name, label_map in maps.items()]
    references = [save_label_map(tmp_path / "a" / name, label_map) for name, label_map in maps.items()]
    scores = score(predictions[::-1], references, 3.0)
    assert scores["miou"] == scores["pixel_accuracy"] == 1.0 and scores["num_frames"] == 2
    assert all(isinstance(value, (int, float)) for value in scores.values())


def test_the_space_says_what_is_wrong(score, gradio, tmp_path):
    path = save_label_map(tmp_path / "a" / "0.png", [[0, 9]])
    with pytest.raises(gradio.Error, match=r"predictions must lie in \[0, 3\), found 9"):
        score([path], [path], 3)
