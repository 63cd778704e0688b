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
"""Figures of a trained model, by both protocols: AVSBench's, averaged over frames, and CAVP's (with a star)."""

from huggingface_hub import ModelCard, ModelCardData

from .evaluation import FrameScores


SUBSET_NAMES = {"v1s": "S4", "v1m": "MS3", "v2": "V2"}
LOCALIZATION_FIGURES = ("miou", "fscore", "miou_star", "fscore_star")
SEMANTIC_FIGURES = ("miou", "fscore", "miou_no_background", "miou_star", "fscore_star", "miou_seen")
HEADER = {
    "miou": "mIoU",
    "fscore": "F",
    "miou_no_background": "mIoU without background",
    "miou_star": "mIoU*",
    "fscore_star": "F*",
    "miou_seen": "mIoU of seen classes",
}

CARD = """# {name}

Audio-visual segmentation with AAVS, trained in two stages as in *Stepping Stones* (Ma et al., ECCV 2024): `localizer/`
finds which pixels sound, the model at the root, prompted with its masks, names them.

```python
from stepping_stones_hf import AAVSForAudioVisualSegmentation, AAVSProcessor

localizer = AAVSForAudioVisualSegmentation.from_pretrained("{name}", subfolder="localizer")
model = AAVSForAudioVisualSegmentation.from_pretrained("{name}")
processor = AAVSProcessor.from_pretrained("{name}")
```

## Results

Test split. mIoU and F by the protocol of AVSBench, with a star by that of CAVP.

{table}
"""


def summarize_localization(scores: FrameScores) -> dict[str, dict[str, float]]:
    """Figures of stage 1 for each subset."""
    results = {subset: scores.results(subset) for subset in scores.subsets}
    return {
        SUBSET_NAMES[subset]: {name: float(result[name]) for name in LOCALIZATION_FIGURES}
        | {"silent_frames": result["silent_frames"], "num_videos": result["num_videos"]}
        for subset, result in results.items()
    }


def summarize_semantics(scores: FrameScores) -> dict[str, float]:
    """Figures of label maps over all subsets."""
    results = scores.results()
    return {name: float(results[name]) for name in SEMANTIC_FIGURES} | {"num_videos": results["num_videos"]}


def format_rows(title: str, figures: tuple[str, ...], rows: dict[str, dict]) -> str:
    lines = [f"| {title} | {' | '.join(HEADER[name] for name in figures)} |", "|---" * (len(figures) + 1) + "|"]
    lines += [f"| {row} | {' | '.join(f'{values[name]:.3f}' for name in figures)} |" for row, values in rows.items()]
    return "\n".join(lines)


def make_table(results: dict[str, dict]) -> str:
    """
    Tables in Markdown.

    Args:
        results (`dict[str, dict]`):
            `stage_1`: by subset what [`summarize_localization`] gives; `stage_2`: by prompt what
            [`summarize_semantics`] gives. Either may be absent.

    Returns:
        `str`.
    """
    titles = {"stage_1": ("stage 1", LOCALIZATION_FIGURES), "stage_2": ("AVSS, prompted with", SEMANTIC_FIGURES)}
    return "\n\n".join(format_rows(*titles[stage], rows) for stage, rows in results.items())


def make_model_card(results: dict[str, dict], name: str) -> ModelCard:
    """The model card of a two-stage repository with its measured figures."""
    data = ModelCardData(
        library_name="stepping_stones_hf",
        license="apache-2.0",
        tags=["audio-visual-segmentation", "aavs", "stepping-stones"],
        datasets=["AVSBench"],
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{CARD.format(name=name, table=make_table(results))}")


__all__ = ["make_model_card", "make_table", "summarize_localization", "summarize_semantics"]
