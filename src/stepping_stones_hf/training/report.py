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
What is told of a trained model: figures by both protocols, AVSBench's, averaged over frames, and CAVP's (with a star);
its repository with a model card; a picture of what it predicts.
"""

import csv
import io
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image
from transformers import AutoConfig, AutoProcessor

from ..data.collator import AVSCollator, as_image
from ..data.labels import CLASS_NAMES
from ..deprecation import rename_arguments
from ..files import begin_folder, complete_folder
from ..metrics import robustness_results
from ..models.auto import AutoModelForAudioVisualSegmentation
from ..tables import format_table
from ..visualization import BINARY_PALETTE, describe, draw_grid, overlay
from .clips import WithMasks
from .evaluation import FrameScores, segment
from .mask_store import mask_path
from .sounds import SOUNDS


SUBSET_NAMES = {"v1s": "S4", "v1m": "MS3", "v2": "V2"}
LOCALIZATION_FIGURES = ("miou", "fscore", "miou_star", "fscore_star")
SEMANTIC_FIGURES = (
    "miou",
    "fscore",
    "miou_no_background",
    "fscore_no_background",
    "miou_star",
    "fscore_star",
    "miou_seen",
)
HEADER = {
    "miou": "mIoU",
    "fscore": "F",
    "miou_no_background": "mIoU without background",
    "fscore_no_background": "F without background",
    "miou_star": "mIoU*",
    "fscore_star": "F*",
    "miou_seen": "mIoU of seen classes",
}

# Of each sound, with their headings.
SOUND_FIGURES = {
    "official_miou": "mIoU",
    "official_fscore": "F",
    "official_fpr": "FPR",
    "official_g_miou": "G-mIoU",
    "official_g_fscore": "G-F",
    "corrected_miou_sounding": "IoU of what sounds",
    "corrected_fscore_hard": "F of masks",
    "corrected_unmarked": "left unmarked",
}

CARD = Path(__file__).with_name("model_card.md")
KINDS = {
    "two stages": "`localizer/` finds which pixels sound; the model at the root, prompted with its masks, names them.",
    "stage 1": "This is stage 1, which finds the pixels that sound.",
    "stage 2": "This is stage 2, which names what sounds, prompted with the masks of a stage 1.",
    "one stage": "This model finds and names what sounds in one stage, without a prompt.",
}


def summarize_localization(scores: FrameScores) -> dict[str, dict[str, float]]:
    """Figures of stage 1 for each subset."""
    results = {subset: scores.results(subset) for subset in scores.subsets}
    return {
        SUBSET_NAMES[subset]: {name: float(result[name]) for name in LOCALIZATION_FIGURES}
        | {"silent_frames": without_nan(result["silent_frames"]), "num_videos": result["num_videos"]}
        for subset, result in results.items()
    }


def without_nan(figures: dict[str, float]) -> dict[str, float | None]:
    """Figures of silent frames where there are none: JSON has no NaN."""
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def summarize_semantics(scores: FrameScores) -> dict[str, float]:
    """Figures of label maps over all subsets."""
    results = scores.results()
    return {name: float(results[name]) for name in SEMANTIC_FIGURES} | {
        "silent_frames": without_nan(results["silent_frames"]),
        "num_videos": results["num_videos"],
    }


@rename_arguments(first_stage="prompt_scores")
def summarize_evaluation(scores: dict[str, dict[str, FrameScores]], prompt_scores: dict[str, FrameScores]) -> dict:
    """
    Figures of any number of methods.

    Args:
        scores (`dict[str, dict[str, FrameScores]]`):
            By method and sound: `own`, and others under which only some of the clips need be there.
        prompt_scores (`dict[str, FrameScores]`):
            By method the scores of the prompts of stage 2, where there are any.

    Returns:
        `dict`:
        - **localization** -- by method what [`summarize_localization`] gives;
        - **semantics** -- by method what [`summarize_semantics`] gives, and as `first_stage_iou` the mean IoU of the
          prompts of each subset;
        - **other_sounds** -- by method, sound and subset (`all` for label maps) the figures with that sound, and as
          `own_sound` those of the same clips with their own;
        - **robustness** -- by method what [`summarize_robustness`] gives, where all of its sounds were heard.
    """

    def summarize(scores: FrameScores) -> dict[str, dict]:
        return summarize_localization(scores) if scores.num_classes is None else {"all": summarize_semantics(scores)}

    results = {"localization": {}, "semantics": {}, "other_sounds": {}, "robustness": {}}
    for method, by_sound in scores.items():
        own = by_sound["own"]
        if own.num_classes is None:
            results["localization"][method] = summarize(own)
        else:
            results["semantics"][method] = summarize(own)["all"]
        if method in prompt_scores:
            ious = {subset: row["miou"] for subset, row in summarize_localization(prompt_scores[method]).items()}
            results["semantics"][method]["first_stage_iou"] = ious
        for sound, other in by_sound.items():
            if sound != "own":
                own_figures = summarize(own.select(other.videos))
                rows = {name: row | {"own_sound": own_figures[name]} for name, row in summarize(other).items()}
                results["other_sounds"].setdefault(method, {})[sound] = rows
        if set(SOUNDS) <= set(by_sound):
            results["robustness"][method] = summarize_robustness(by_sound)
    return results


def summarize_robustness(by_sound: Mapping[str, FrameScores]) -> dict[str, dict]:
    """
    Whether a model listens: by subset, `all` for label maps, what [`~metrics.robustness_results`] gives of the clips
    that were heard with every sound, with `None` for NaN. A subset without such clips is left out.
    """
    heard = set.intersection(*(by_sound[sound].videos for sound in SOUNDS))
    own = by_sound["own"]
    groups = {"all": heard}
    if own.num_classes is None:
        groups = {SUBSET_NAMES[subset]: {video for video in heard if video[0] == subset} for subset in own.subsets}
    return {
        name: replace_nan(robustness_results({sound: by_sound[sound].select(videos) for sound in SOUNDS}))
        for name, videos in groups.items()
        if videos
    }


def replace_nan(figures: Any) -> Any:
    """Nested figures with `None` for NaN and lists for tuples, as JSON has them."""
    if isinstance(figures, dict):
        return {name: replace_nan(value) for name, value in figures.items()}
    if isinstance(figures, tuple):
        return [replace_nan(value) for value in figures]
    return None if isinstance(figures, float) and math.isnan(figures) else figures


def format_rows(title: str, figures: tuple[str, ...], rows: dict[str, dict]) -> str:
    header = [title, *(HEADER[name] for name in figures)]
    return format_table(header, [[row, *(values[name] for name in figures)] for row, values in rows.items()])


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


def make_evaluation_tables(results: dict) -> str:
    """
    Tables of an evaluation in Markdown, in percent as in papers.

    Args:
        results (`dict`):
            What [`summarize_evaluation`] gives.

    Returns:
        `str`.
    """
    localized = [
        (method, subset, figures)
        for method, rows in results["localization"].items()
        for subset, figures in rows.items()
    ]
    semantics = [(method, "all", figures) for method, figures in results["semantics"].items()]
    parts = []
    if localized:
        header = ["what sounds", "subset", *(HEADER[name] for name in LOCALIZATION_FIGURES)]
        rows = [[method, subset, *(row[name] for name in LOCALIZATION_FIGURES)] for method, subset, row in localized]
        parts += ["## Localization", format_table(header, rows, percent=True)]
    if semantics:
        header = ["label maps", *(HEADER[name] for name in SEMANTIC_FIGURES)]
        rows = [[method, *(row[name] for name in SEMANTIC_FIGURES)] for method, _, row in semantics]
        parts += ["## AVSS", format_table(header, rows, percent=True)]
    prompted = {method: row["first_stage_iou"] for method, _, row in semantics if "first_stage_iou" in row}
    if prompted:
        subsets = list(next(iter(prompted.values())))
        rows = [[method, *ious.values(), sum(ious.values()) / len(ious)] for method, ious in prompted.items()]
        parts += ["## IoU of the prompts", format_table(["label maps", *subsets, "mean"], rows, percent=True)]
    rows = [[method, subset, *row["silent_frames"].values()] for method, subset, row in localized + semantics]
    header = ["method", "subset", "silent frames", "left unmarked", "area marked"]
    parts += ["## Silent frames", format_table(header, rows, percent=True)]
    rows = [
        [method, subset, sound, row["num_videos"]]
        + [row[name] for name in ("miou", "fscore")]
        + [row["own_sound"][name] for name in ("miou", "fscore")]
        for method, sounds in results["other_sounds"].items()
        for sound, subsets in sounds.items()
        for subset, row in subsets.items()
    ]
    if rows:
        header = ["method", "subset", "sound", "clips", "mIoU", "F", "mIoU, own sound", "F, own sound"]
        parts += ["## Other sounds", format_table(header, rows, percent=True)]
    if results["robustness"]:
        parts += ["## Robustness", make_robustness_tables(results["robustness"])]
    return "\n\n".join(parts)


def list_robustness(results: Mapping[str, Mapping[str, dict]]) -> list[dict]:
    """
    All figures of robustness as rows of a csv file: for each method and subset one with each sound, with its G, and
    one of the `negatives` together, with their means, G of these, and the gaps.

    Args:
        results (`Mapping[str, Mapping[str, dict]]`):
            By method what [`summarize_robustness`] gives.
    """
    rows = []
    for method, subsets in results.items():
        for subset, figures in subsets.items():
            about = {"method": method, "subset": subset, "clips": figures["num_videos"]}
            of_sounds = {sound: {} for sound in (*SOUNDS, "negatives")}
            for group in ("official", "corrected"):
                scores = figures[group]
                for name in scores["own"]:
                    for sound in SOUNDS:
                        of_sounds[sound][f"{group}_{name}"] = scores[sound][name]
                    of_sounds["negatives"][f"{group}_{name}"] = scores["g_fpr" if name == "fpr" else f"{name}_n"]
                    if f"g_{name}_per_sound" in scores:
                        for sound, value in scores[f"g_{name}_per_sound"].items():
                            of_sounds[sound][f"{group}_g_{name}"] = value
                        of_sounds["negatives"][f"{group}_g_{name}"] = scores[f"g_{name}"]
            for name in ("gap", "gap_official", "gap_no_background"):
                if name in figures["corrected"]:
                    low, high = figures["corrected"][f"{name}_interval"]
                    gap = {name: figures["corrected"][name], f"{name}_low": low, f"{name}_high": high}
                    of_sounds["negatives"] |= gap
            rows += [about | {"sound": sound} | values for sound, values in of_sounds.items()]
    return rows


def make_robustness_tables(results: Mapping[str, Mapping[str, dict]]) -> str:
    """
    Two tables in Markdown, in percent: of each method with its own sound and the others together, official figures and
    corrected ones beside them; and with each sound. For the arguments see [`list_robustness`].
    """
    together, apart, own = [], [], {}
    for row in list_robustness(results):
        about = [row["method"], row["subset"]]
        if row["sound"] != "negatives":
            own = row if row["sound"] == "own" else own
            apart.append([*about, row["sound"], *(row.get(name) for name in SOUND_FIGURES)])
            continue
        official = [own["official_miou"], row["official_miou"], row["official_g_miou"]]
        official += [own["official_fscore"], row["official_fscore"], row["official_g_fscore"], row["official_fpr"]]
        corrected = [own["corrected_miou_sounding"], row["corrected_miou_sounding"], row["corrected_g_miou_sounding"]]
        together.append([*about, row["clips"], *official, *corrected, row["corrected_unmarked"], format_gap(row)])
    header = ["method", "subset", "clips", "mIoU", "mIoU, N", "G-mIoU", "F", "F, N", "G-F", "FPR, N"]
    header += ["IoU of what sounds", "the same, N", "G", "left unmarked, N", "gap"]
    of_sounds = ["method", "subset", "sound", *SOUND_FIGURES.values()]
    return "\n\n".join(format_table(*table, percent=True) for table in ((header, together), (of_sounds, apart)))


def format_gap(row: Mapping[str, float | None]) -> str | None:
    """The gap and its interval, in percent."""
    if row["gap"] is None:
        return None
    return f"{100 * row['gap']:.2f} [{100 * row['gap_low']:.2f}, {100 * row['gap_high']:.2f}]"


def make_class_table(methods: dict[str, FrameScores]) -> str:
    """
    IoU and F of each class by both protocols, as csv; of stage 1 for each subset. There the protocol that averages
    over frames leaves the background out.
    """
    file = io.StringIO()
    figures = ("iou", "fscore", "iou_star", "fscore_star")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["method", "subset", "class", "name", "frames", *figures])
    for method, scores in methods.items():
        for subset in scores.subsets if scores.num_classes is None else [None]:
            results = scores.results(subset)
            per_class, names, frames = results["per_class"], CLASS_NAMES, results.get("frames_per_class")
            if scores.num_classes is None:
                names, frames = ("background", "sounding"), ("", results["num_frames"])
                per_class |= {"iou": (math.nan, results["miou"]), "fscore": (math.nan, results["fscore"])}
            for index, name in enumerate(names):
                values = [per_class[figure][index] for figure in figures]
                values = ["" if math.isnan(value) else f"{value:.6f}" for value in values]
                writer.writerow([method, SUBSET_NAMES.get(subset, "all"), index, name, frames[index], *values])
    return file.getvalue()


def make_model_card(results: dict[str, dict], kind: str, name: str, model_types: Sequence[str]) -> ModelCard:
    """
    The model card of a repository with its measured figures.

    Args:
        results (`dict[str, dict]`):
            As for [`make_table`].
        kind (`str`):
            What the repository holds: one of `KINDS`.
        name (`str`):
            What `from_pretrained` loads it by.
        model_types (`Sequence[str]`):
            The `model_type` of the models that it holds.

    Returns:
        `ModelCard`.
    """
    data = ModelCardData(
        library_name="stepping_stones_hf",
        license="apache-2.0",
        tags=["audio-visual-segmentation", *model_types, "stepping-stones"],
        datasets=["AVSBench"],
    )
    return ModelCard.from_template(
        data,
        template_path=str(CARD),
        name=name,
        kind=kind,
        models=" and ".join(f"`{model_type}`" for model_type in model_types),
        description=KINDS[kind],
        table=make_table(results),
    )


def write_repository(
    folder: str | os.PathLike, stages: Mapping[int, Path], results: dict[str, dict], name: str | None = None
) -> None:
    """
    Writes the two-stage repository, or that of the stage that there is, whole or not at all, in place of an older one.

    Args:
        folder (`str` or `PathLike`):
            The repository.
        stages (`Mapping[int, Path]`):
            The model of stage 1 (by the key 1), of stage 2 or one stage (by 2), or of both.
        results (`dict[str, dict]`):
            As for [`make_table`].
        name (`str`, *optional*):
            What the card loads it by, the folder by default.
    """
    folder = Path(folder)
    partial = begin_folder(folder)
    shutil.copytree(stages.get(2, stages.get(1)), partial, dirs_exist_ok=True)
    if "no masks" in results.get("stage_2", ()):
        kind = "one stage"
    elif len(stages) == 2:
        kind = "two stages"
        shutil.copytree(stages[1], partial / "localizer")
    else:
        kind = f"stage {next(iter(stages))}"
    model_types = list(dict.fromkeys(AutoConfig.from_pretrained(stages[stage]).model_type for stage in sorted(stages)))
    make_model_card(results, kind, name or str(folder), model_types).save(partial / "README.md")
    complete_folder(folder)


@dataclass
class Example:
    """An annotated frame of a clip and what is found in it, by the model of a run."""

    frame: Image.Image
    truth: np.ndarray  # (label height, label width), as the two others
    mask: np.ndarray  # of stage 1, bool
    prediction: np.ndarray  # of stage 2 or one stage


@torch.no_grad()
def predict_examples(
    repository: str | os.PathLike, clips: datasets.Dataset, store: str | os.PathLike
) -> list[list[Example]]:
    """
    All annotated frames of the first clip of each subset, clip by clip.

    Args:
        repository (`str` or `PathLike`):
            The model.
        clips (`datasets.Dataset`):
            Rows of [`load_avsbench`].
        store (`str` or `PathLike`):
            The store with the masks of stage 1.
    """
    model = AutoModelForAudioVisualSegmentation.from_pretrained(repository)
    processor = AutoProcessor.from_pretrained(repository, backend="pil")
    collator = AVSCollator(processor, prompt="stage1" if model.config.use_mask_prompt else None, evaluation=True)
    first_of_subset = {subset: index for index, subset in reversed(list(enumerate(clips["subset"])))}
    found = []
    for clip in WithMasks(collator.prepare(clips.select(sorted(first_of_subset.values()))), store):
        inputs = collator([clip])
        names, truths = inputs.pop("frames"), inputs.pop("label_maps").numpy()
        predictions = segment(model, processor, inputs).numpy()
        masks = [np.asarray(Image.open(mask_path(store, *name))) > 127 for name in names]
        frames = [as_image(clip["frames"][index]) for _, _, index in names]
        found.append([Example(*values) for values in zip(frames, truths, masks, predictions, strict=True)])
    return found


def choose_frames(truths: Sequence[np.ndarray]) -> list[int]:
    """Of a clip the frame where most classes sound and, if there is one, a frame where others do, given its truth."""
    classes = [frozenset(np.unique(truth).tolist()) for truth in truths]
    first = max(range(len(classes)), key=lambda index: len(classes[index]))
    return [first, *[index for index in range(len(classes)) if classes[index] != classes[first]][:1]]


def draw_examples(repository: str | os.PathLike, clips: datasets.Dataset, store: str | os.PathLike) -> Image.Image:
    """
    Draws frames of the first clip of each subset with their truth, the masks of stage 1 and the predictions of stage 2
    or one stage. For the arguments see [`predict_examples`].
    """
    rows = []
    for examples in predict_examples(repository, clips, store):
        for example in (examples[index] for index in choose_frames([example.truth for example in examples])):
            rows.append(
                [
                    (example.frame, ""),
                    (overlay(example.frame, example.truth), describe(example.truth)),
                    (overlay(example.frame, example.mask, BINARY_PALETTE), ""),
                    (overlay(example.frame, example.prediction), describe(example.prediction)),
                ]
            )
    return draw_grid(("frame", "truth", "stage 1", "stage 2"), rows)


__all__ = [
    "KINDS",
    "Example",
    "choose_frames",
    "draw_examples",
    "list_robustness",
    "make_class_table",
    "make_evaluation_tables",
    "make_model_card",
    "make_robustness_tables",
    "make_table",
    "predict_examples",
    "summarize_evaluation",
    "summarize_localization",
    "summarize_robustness",
    "summarize_semantics",
    "write_repository",
]
