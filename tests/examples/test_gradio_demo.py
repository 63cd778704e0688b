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
"""The demo's page in headless Chromium, which reaches nothing but the page."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
import soundfile
from transformers import pipeline

from stepping_stones_hf.segment_video import describe_timeline
from stepping_stones_hf.video import SILENCE, read_seconds

from .. import videos
from ..videos import make_sound, make_video, read_streams


pytest.importorskip("gradio", reason="needs gradio: the extra demo")
webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: the extra browser")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
Stale = pytest.importorskip("selenium.common.exceptions").StaleElementReferenceException

APP = Path(__file__).parents[2] / "examples/gradio_demo/app.py"
TASK = "audio-visual-segmentation"
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver: `make browser-test` installs them"
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the page's temporary files are."""
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def address(two_stage_repository, folder):
    """The page is there as long as the tests of this module."""
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1", "AVS_MODEL": str(two_stage_repository)}
    with subprocess.Popen(
        [sys.executable, APP], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        printed = ""
        for line in process.stdout:
            printed += line
            if "Running on local URL" in line:
                break
        else:
            pytest.fail(f"The page did not start:\n{printed}")
        yield re.search(r"http://\S+", line)[0]
        process.send_signal(signal.SIGINT)
        assert "Traceback" not in process.stdout.read().split("Keyboard interruption")[0]


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    # As root, and in a container, there is no sandbox and little shared memory.
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1240,1500"):
        options.add_argument(argument)
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER)) as driver:
        yield driver


class Page:
    """What people do with the page and see on it. A part is named by its id."""

    def __init__(self, browser, address: str):
        self.browser = browser
        browser.get(address)
        # The last part that is drawn.
        self.find("#sound audio, #sound #waveform")

    def find(self, selector: str, condition=lambda element: True):
        """The first element that fits a selector and fulfils the condition, as soon as there is one."""

        def look(browser):
            return next(filter(condition, browser.find_elements("css selector", selector)), None)

        return WebDriverWait(self.browser, 60, ignored_exceptions=[Stale]).until(look)

    def upload(self, path: Path, part: str = "clip") -> None:
        self.find(f"#{part} input[type=file]").send_keys(str(path))
        self.find(f"#{part} [aria-label=Clear]")

    def press(self, button: str) -> None:
        self.find(button).click()

    def find_video(self, part: str, other_than: str | None = None) -> str:
        """The address of a video that is shown, once the browser can play it."""

        def plays(element):
            return element.get_attribute("src") not in ("", None, other_than) and element.get_property("readyState")

        return self.find(f"#{part} video", plays).get_attribute("src")

    def read_error(self, containing: str) -> str:
        """What is said of an error, which is then closed: it may lie over a button."""
        text = self.find(".toast-body", lambda element: containing in element.text).text
        self.press(".toast-close")
        self.find("body", lambda body: not body.find_elements("css selector", ".toast-body"))
        return text


@pytest.fixture
def page(browser, address) -> Page:
    return Page(browser, address)


def download(source: str, path: Path) -> Path:
    with urlopen(source) as response:
        path.write_bytes(response.read())
    return path


def test_the_sound_of_a_clip_matters_and_the_page_shows_it(page, two_stage_repository, folder, tmp_path):
    clip = make_video(tmp_path / "clip.mp4", width=320, height=240)
    segment = pipeline(TASK, model=str(two_stage_repository), device="cpu")
    own, muted = (segment(clip, sound=sound, label_maps="array") for sound in (None, SILENCE))
    share = np.mean([one["label_map"] != other["label_map"] for one, other in zip(own, muted, strict=True)])
    assert share > 0.001  # else the page would have nothing to show

    before = set(folder.glob("segmented-*"))
    page.upload(clip)
    page.press("#segment")
    own_video = page.find_video("own-video")
    timeline = page.find("#own-timeline", lambda element: element.text).text
    for line in describe_timeline(own):
        assert f"{line} s" in timeline
    assert not page.browser.find_elements("css selector", "#other-video video")

    page.press("#mute")
    muted_video = page.find_video("other-video")
    assert f"Muted, {share:.1%} of the pixels change their label" in page.find("#change").text
    for part in ("own-strip", "other-strip"):
        page.find(f"#{part} img", lambda image: image.get_property("naturalWidth"))
    screenshot(page, tmp_path / "page.png")

    files = [download(own_video, tmp_path / "own.mp4"), download(muted_video, tmp_path / "muted.mp4")]
    assert [set(read_streams(path)) for path in files] == [{"video", "audio"}, {"video"}]
    assert [read_streams(path)["video"] for path in files] == [read_streams(clip)["video"]] * 2
    first, second = ([np.asarray(row.frame, int) for row in read_seconds(path, SILENCE)] for path in files)
    differences = [np.abs(one - two).max() for one, two in zip(first, second, strict=True)]
    assert differences[1] > 50  # the tone is in the second second

    page.press("#swap")
    swapped = download(page.find_video("other-video", other_than=muted_video), tmp_path / "swapped.mp4")
    assert "With the other sound, " in page.find("#change").text
    assert set(read_streams(swapped)) == {"video", "audio"}

    addresses = page.browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert {urlsplit(loaded).hostname for loaded in addresses} == {"127.0.0.1"}

    assert len(set(folder.glob("segmented-*")) - before) == 2  # with its own sound, and the latest other one
    page.press("#clip [aria-label=Clear]")
    page.find("#own-video", lambda element: not element.find_elements("css selector", "video"))
    assert set(folder.glob("segmented-*")) == before  # what is no longer shown is deleted


def screenshot(page: Page, path: Path) -> None:
    """The whole page; also to where the environment variable SCREENSHOT says."""
    height = page.browser.execute_script(
        "for (const video of document.querySelectorAll('video')) video.currentTime = video.duration / 2;"
        "return document.documentElement.scrollHeight"
    )
    page.browser.set_window_size(1240, height + 150)
    page.find(
        "html",
        lambda _: page.browser.execute_script(
            "return [...document.querySelectorAll('video')].every(video => video.readyState > 1 && !video.seeking)"
        ),
    )
    for target in (path, os.environ.get("SCREENSHOT")):
        assert target is None or page.browser.save_screenshot(str(target))


def test_a_clip_without_sound_is_refused_until_it_is_given_one(page, folder, tmp_path):
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, make_sound(16_000, 3).T, 16_000)
    page.upload(make_video(tmp_path / "silent.mp4", audio_codec=None))
    page.press("#segment")
    assert str(folder) not in page.read_error("silent.mp4 has no audio track")

    page.press("#sound [aria-label=Clear]")
    page.press("#swap")
    page.read_error("Upload or record another sound first.")
    page.upload(sound, "sound")
    page.press("#swap")
    swapped = download(page.find_video("other-video"), tmp_path / "swapped.mp4")
    assert set(read_streams(swapped)) == {"video", "audio"}
    assert page.find("#change").text == ""  # there is nothing to compare with


def test_what_is_wrong_with_a_clip_is_said_in_words(page, tmp_path, monkeypatch):
    page.press("#mute")
    page.read_error("Upload or record a clip first.")
    monkeypatch.setattr(videos, "make_frame", lambda width, height, _: np.zeros((height, width, 3), np.uint8))
    (tmp_path / "text.mp4").write_text("These are words.")
    make_video(tmp_path / "long.mp4", fps=1, seconds=61)
    for name, words in (("text.mp4", "cannot be read"), ("long.mp4", "is 61.0 s long: this page takes clips of 60 s")):
        page.upload(tmp_path / name)
        page.press("#segment")
        page.read_error(f"{name} {words}")
        page.press("#clip [aria-label=Clear]")
