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
A page on which people segment a clip of theirs, and see that its sound matters:

    python examples/gradio_demo/app.py --model runs/mini/model
"""

import argparse
import html
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr
import numpy as np
import torch
from PIL import Image
from transformers import Pipeline, pipeline

import stepping_stones_hf  # noqa: F401 (registers the pipeline)
from stepping_stones_hf.segment_video import describe_timeline, segment_video
from stepping_stones_hf.video import SILENCE, read_info, read_seconds
from stepping_stones_hf.visualization import draw_sound_strip


MAX_SECONDS = 60
STRIP_FRAMES = 10

DESCRIPTION = f"""
# Audio-visual segmentation

Which pixels make the sound that you hear, and what are they? Upload or record a clip with sound, of {MAX_SECONDS} s at
most, and press **Segment**: second by second a model (AAVS, in the two stages of *Stepping Stones*, ECCV 2024) looks
and listens, paints what sounds and names it. Then take the sound away with **Mute**, or put another in its place with
**Swap the sound**: the frames stay as they are, so all that changes is due to what the model hears.
"""

CSS = """
#clip video { max-height: 260px; }
#strips:not(:has(img)), #own-strip:not(:has(img)), #other-strip:not(:has(img)) { display: none; }
.timeline { display: grid; grid-template-columns: fit-content(50%) 1fr; gap: 6px 12px; align-items: center; }
.timeline div { display: flex; gap: 1px; justify-content: space-between; }
.timeline i { flex: 1; height: 16px; background: var(--border-color-primary); }
.timeline i[style] { outline: 1px solid var(--body-text-color-subdued); }
"""


class Segmented:
    """A clip with its own sound or another, and what was found in it. The files are there for as long as this is."""

    def __init__(self, segment: Pipeline, clip: str, sound: str | None = None):
        self.clip, self.sound, self.folder = clip, sound, TemporaryDirectory(prefix="segmented-")
        self.video, masks_dir = Path(self.folder.name, "segmented.mp4"), Path(self.folder.name, "masks")
        self.timeline = segment_video(segment, clip, self.video, masks_dir, audio=sound, disable_progress_bar=False)
        self.masks = sorted(masks_dir.iterdir())
        self.palette = np.reshape(Image.open(self.masks[0]).getpalette(), (-1, 3))
        self.labels = {entry["label"]: entry["label_id"] for row in self.timeline for entry in row["classes"]}

    def read_label_map(self, second: int) -> np.ndarray:
        return np.asarray(Image.open(self.masks[second]))


def format_timeline(segmented: Segmented) -> str:
    """HTML: a row for each class, with its name and when it sounds, and cells for the seconds, in its color then."""
    rows = ""
    for line, (label, index) in zip(describe_timeline(segmented.timeline), segmented.labels.items()):
        color, cells = tuple(segmented.palette[index].tolist()), ""
        for row in segmented.timeline:
            sounds = any(entry["label"] == label for entry in row["classes"])
            cells += f'<i style="background: rgb{color}"></i>' if sounds else "<i></i>"
        rows += f"<span>{html.escape(line)} s</span><div>{cells}</div>"
    rows = rows or f"<span>Nothing sounds.</span><div>{'<i></i>' * len(segmented.timeline)}</div>"
    axis = f"<span></span><div><span>0 s</span><span>{len(segmented.timeline)} s</span></div>"
    return f'<div class="timeline">{rows}{axis}</div>'


def draw_strip(segment: Pipeline, segmented: Segmented) -> Image.Image:
    """Frames and masks of at most `STRIP_FRAMES` seconds, evenly spaced, and the sound of each below."""
    step = math.ceil(len(segmented.masks) / STRIP_FRAMES)
    seconds = [second for second in read_seconds(segmented.clip, segmented.sound) if second.index % step == 0]
    patches = segment.preprocess(tuple(seconds))["input_features"].numpy()
    label_maps = [segmented.read_label_map(second.index) for second in seconds]
    return draw_sound_strip([second.frame for second in seconds], patches, label_maps, segmented.palette)


def describe_change(own: Segmented, other: Segmented) -> str:
    """What another sound, or none, does to the label maps and to the classes."""
    seconds = range(len(own.masks))
    share = np.mean([np.mean(own.read_label_map(second) != other.read_label_map(second)) for second in seconds])
    title = "Muted" if other.sound == SILENCE else "With the other sound"
    changes = [f"**{title}, {share:.1%} of the pixels change their label**"]
    for what, names in (("gone", own.labels.keys() - other.labels), ("new", other.labels.keys() - own.labels)):
        changes += [f"{what}: {', '.join(sorted(names))}"] if names else []
    return "; ".join(changes) + "."


def make_siren() -> tuple[int, np.ndarray]:
    """A rate in hertz and samples `(samples,)`, int16: up and down between 600 and 1200 Hz, once in three seconds."""
    time = np.arange(MAX_SECONDS * 16_000) / 16_000
    return 16_000, (8_000 * np.sin(2 * np.pi * 900 * time - 900 * np.cos(2 * np.pi * time / 3))).astype(np.int16)


@contextmanager
def readable_errors(*paths: str | None) -> Iterator[None]:
    """What is wrong, in the library's words, without the folders that uploads lie in."""
    try:
        yield
    except (ValueError, OSError) as error:
        message = str(error)
        for path in filter(None, paths):
            message = message.replace(path, Path(path).name)
        raise gr.Error(html.escape(message, quote=False), print_exception=False) from error


def check_clip(clip: str | None) -> None:
    if clip is None:
        raise ValueError("Upload or record a clip first.")
    seconds = read_info(clip).seconds
    if seconds > MAX_SECONDS:
        raise ValueError(f"{clip} is {seconds:.1f} s long: this page takes clips of {MAX_SECONDS} s at most.")


def make_page(segment: Pipeline) -> gr.Blocks:
    progress = gr.Progress(track_tqdm=True)

    def show(segmented: Segmented) -> list:
        return [segmented.video, format_timeline(segmented), draw_strip(segment, segmented)]

    def segment_own(clip: str | None, progress: gr.Progress = progress) -> list:
        with readable_errors(clip):
            check_clip(clip)
            own = Segmented(segment, clip)
            return [own, *show(own)]

    def segment_other(clip: str | None, own: Segmented | None, sound: str, progress: gr.Progress = progress) -> list:
        with readable_errors(clip, sound):
            check_clip(clip)
            if sound is None:
                raise ValueError("Upload or record another sound first.")
            other = Segmented(segment, clip, sound)
            return ["" if own is None else describe_change(own, other), other, *show(other)]

    with gr.Blocks(title="Audio-visual segmentation", analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.Markdown(DESCRIPTION)
        with gr.Row():
            with gr.Column():
                clip = gr.Video(label="Clip", sources=["upload", "webcam"], elem_id="clip")
                segment_button = gr.Button("Segment", variant="primary", elem_id="segment")
                examples = sorted(str(path) for path in Path(__file__).with_name("examples").glob("*.mp4"))
                if examples:
                    gr.Examples(examples, clip)
            with gr.Column():
                label = "Another sound: a siren, until you give one"
                sound = gr.Audio(make_siren(), type="filepath", label=label, buttons=[], elem_id="sound")
                with gr.Row():
                    mute_button = gr.Button("Mute", elem_id="mute")
                    swap_button = gr.Button("Swap the sound", elem_id="swap")
        change = gr.Markdown(elem_id="change")
        shown = {"own": [gr.State()], "other": [gr.State()]}
        with gr.Row():
            for (name, parts), title in zip(shown.items(), ("With its own sound", "Muted, or with another sound")):
                with gr.Column():
                    gr.Markdown(f"### {title}")
                    parts.append(gr.Video(interactive=False, show_label=False, height=360, elem_id=f"{name}-video"))
                    parts.append(gr.HTML(elem_id=f"{name}-timeline"))
        with gr.Column(elem_id="strips"):
            gr.Markdown("### What it saw, marked and heard: with its own sound, and with the other")
            for name, parts in shown.items():
                parts.append(gr.Image(interactive=False, show_label=False, buttons=[], elem_id=f"{name}-strip"))
        own, video = shown["own"][:2]
        segment_button.click(segment_own, clip, shown["own"], show_progress_on=video)
        other_shown, on_video = [change, *shown["other"]], {"show_progress_on": shown["other"][1]}
        mute_button.click(segment_other, [clip, own, gr.State(SILENCE)], other_shown, **on_video)
        swap_button.click(segment_other, [clip, own, sound], other_shown, **on_video)
        clip.change(lambda: [None] * 9, None, [*shown["own"], *other_shown], queue=False)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description="A page for audio-visual segmentation of clips.")
    model = os.environ.get("AVS_MODEL", "runs/mini/model")
    parser.add_argument("--model", default=model, help=f"folder or repository; by default $AVS_MODEL, here {model}")
    parser.add_argument("--port", type=int, help="by default the first that is free from 7860 on")
    parser.add_argument("--share", action="store_true", help="give it a public address, through gradio's servers")
    args = parser.parse_args()
    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        page = make_page(pipeline("audio-visual-segmentation", model=args.model, device=device))
    except (ValueError, OSError) as error:
        parser.error(f"{args.model} cannot be loaded: {error} Name another by --model or AVS_MODEL.")
    # Fonts of the system: the page loads nothing from elsewhere.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    options = {"max_file_size": "200mb", "footer_links": ["gradio"], "theme": theme, "css": CSS}
    page.launch(server_port=args.port, share=args.share, **options)


if __name__ == "__main__":
    main()
