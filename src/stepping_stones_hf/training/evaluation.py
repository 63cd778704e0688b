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
"""Scores of both stages over any number of processes: each reduces its frames to counts, which are then gathered."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm
from transformers import BatchFeature

from ..data.collator import AVSCollator, MapReader
from ..data.labels import CLASS_NAMES, color_to_index
from ..data.layout import CONFIG_SUBSETS
from ..media import load_image, open_image
from ..metrics import FrameCounts
from ..models.image_processing_base import AudioVisualImageProcessorMixin, resize_bilinear, resize_nearest
from .clips import read_column
from .degrade import DegradedPrompts, calibrate_level
from .mask_store import mask_path


Frame = tuple[str, str, int]  # subset, video, index


class FrameScores(FrameCounts):
    """
    The counts of annotated frames, named by subset, video and index, from which every protocol's results follow.

    Args:
        num_classes (`int`, *optional*):
            Number of classes of label maps `(height, width)`. Without it predictions are scores of what sounds.
        score_rule (`str`, *optional*, defaults to `"two_channel"`):
            What such scores are: those of background and of what sounds, `(2, height, width)`, by the released
            program's rule, or else see [`~metrics.binary_statistics`].

    [`evaluate`] adds to `seconds` how long it has predicted.
    """

    def __init__(self, num_classes: int | None = None, score_rule: str = "two_channel"):
        self.num_classes, self.seconds = num_classes, 0.0
        if num_classes is None:
            super().__init__("binary", score_rule=score_rule)
        else:
            super().__init__("semantic", num_classes=num_classes)

    def gather(self) -> None:
        """Gives every process the frames of all processes."""
        shares = gather_object([(self.frames, self.seconds)])
        for frames, _ in shares:
            self.extend(frames.items())
        self.seconds = sum(seconds for _, seconds in shares)

    @property
    def subsets(self) -> list[str]:
        """Which there are, in the papers' order: S4, MS3, V2."""
        return sorted({subset for subset, _ in self.videos}, key=CONFIG_SUBSETS["avss"].index)

    def results(self, subset: str | None = None, **options) -> dict:
        """The results of all frames, or of those of one subset: see [`~metrics.FrameCounts.results`]."""
        if subset is not None:
            return self.select(video for video in self.videos if video[0] == subset).results(**options)
        return super().results(**options)


def predict_annotated(model, inputs: dict, post_process: Callable) -> torch.Tensor:
    """Of what post-processing makes of the model's output the frames that are annotated."""
    annotated = inputs.get("annotated", slice(None))
    outputs = model(**{name: value for name, value in inputs.items() if name != "annotated"})
    return torch.stack(post_process(outputs))[annotated]


def localize(model, processor, inputs, sound_threshold: float | None = None) -> torch.Tensor:
    """
    Stage 1: scores of background and of what sounds, `(frames, 2, label height, label width)`. For `sound_threshold`
    see [`~AudioVisualImageProcessorMixin.get_gated_scores`].
    """

    def get_scores(outputs) -> list[torch.Tensor]:
        results = processor.post_process_semantic_segmentation(
            outputs, return_segmentation_scores=True, sound_threshold=sound_threshold
        )
        return [result.segmentation_scores.float() for result in results]

    return predict_annotated(model, inputs, get_scores)


def make_prompts(scores: torch.Tensor, soft: bool = False) -> torch.Tensor:
    """
    What stage 2 is prompted with, `(frames, height, width)` from 0 to 1, given the scores of stage 1: 1 where what
    sounds has the higher score, as in the released program; or, `soft`, its share of the two scores.
    """
    background, sounding = scores.unbind(1)
    return sounding / (background + sounding).clamp(min=1e-6) if soft else (sounding > background).float()


def segment(model, processor, inputs, sound_threshold: float | None = None) -> torch.Tensor:
    """Stage 2, or one stage: label maps `(frames, label height, label width)`; `sound_threshold` as [`localize`]."""
    post_process = partial(processor.post_process_semantic_segmentation, sound_threshold=sound_threshold)
    return predict_annotated(model, inputs, post_process)


@torch.no_grad()
def evaluate(
    accelerator: Accelerator,
    clips: Sequence[dict],
    collator: AVSCollator,
    predict: Callable[[dict], torch.Tensor],
    scores: FrameScores,
    batch_size: int = 1,
    num_workers: int = 0,
    on_predictions: Callable[[list[Frame], torch.Tensor], None] | None = None,
    prompt_scores: FrameScores | None = None,
) -> FrameScores:
    """
    Scores the predictions for all annotated frames of clips, each process for its share of the clips.

    Args:
        accelerator (`Accelerator`):
            The processes.
        clips (`Sequence[dict]`):
            What [`AVSCollator.prepare`] returns.
        collator ([`AVSCollator`]):
            Made with `evaluation=True`.
        predict (`Callable`):
            Given the inputs of a batch of clips, what `scores` takes: see [`localize`], [`segment`].
        scores ([`FrameScores`]):
            Where the frames are added.
        batch_size (`int`, *optional*, defaults to 1), num_workers (`int`, *optional*, defaults to 0):
            Clips in a batch, and processes that read them.
        on_predictions (`Callable`, *optional*):
            Called with the names of a batch's frames and their predictions, on the CPU.
        prompt_scores ([`FrameScores`], *optional*):
            Of probabilities, where the prompts of stage 2 are added: how good a first stage they come from.

    Returns:
        [`FrameScores`]: `scores`, with the frames of all processes.
    """
    share = Subset(clips, range(accelerator.process_index, len(clips), accelerator.num_processes))
    loader = DataLoader(share, batch_size=batch_size, num_workers=num_workers, collate_fn=collator)
    for inputs in tqdm(loader, desc="evaluation", leave=False, disable=not accelerator.is_main_process):
        frames, label_maps = inputs.pop("frames"), inputs.pop("label_maps")
        start = perf_counter()
        with accelerator.autocast():
            # On the CPU they are there: an accelerator has done its work.
            predictions = predict(inputs.to(accelerator.device)).cpu()
        scores.seconds += perf_counter() - start
        # By the rules of one channel a localizer is scored by what sounds alone.
        one_channel = predictions.ndim == 4 and scores.options["score_rule"] != "two_channel"
        scored = predictions[:, 1] if one_channel else predictions
        scores.add(frames, scored.numpy(), label_maps.numpy())
        if prompt_scores is not None:
            prompts = inputs["prompt_masks"][inputs.get("annotated", slice(None))]
            prompt_scores.add(frames, prompts.cpu().numpy(), (label_maps > 0).numpy())
        if on_predictions is not None:
            on_predictions(frames, predictions)
    scores.gather()
    if prompt_scores is not None:
        prompt_scores.gather()
    return scores


class LabelCollator(MapReader):
    """
    Of clips, what [`AVSCollator.prepare`] returns, the true label maps alone, without frames and sound; and the masks
    that another system wrote, `<subset>/<video_id>/<frame>.png`, frames counted from 0, resized to the labels' size.

    Args:
        image_processor ([`AudioVisualImageProcessorMixin`]):
            Makes the label maps.
        folder (`str` or `PathLike`, *optional*):
            The folder of the masks, for `predictions` `(frames, label height, label width)`: with `localization`
            scores from 0 to 1 of 8-bit gray, resized bilinearly; else class indices (modes L and P) or the colors of
            AVSBench (RGB), resized by nearest neighbor.
    """

    def __init__(self, image_processor: AudioVisualImageProcessorMixin, folder: str | os.PathLike | None = None):
        super().__init__(image_processor)
        self.folder = folder

    def __call__(self, clips: list[dict]) -> BatchFeature:
        """
        Returns:
            [`BatchFeature`] with **frames**, for each its subset, video and index, **label_maps** `(frames, label
            height, label width)` and, with a folder, **predictions**.

        Raises:
            `FileNotFoundError`, `ValueError`: as [`count_predictions`]; also if a mask is damaged, or has indices or
            colors that are no class.
        """
        frames = [(clip["subset"], clip["video_id"], index) for clip in clips for index in clip["mask_frame_indices"]]
        label_maps = self.image_processor.prepare_label_maps(
            [label for clip in clips for label in self._read_maps(clip)]
        )
        inputs = BatchFeature({"frames": frames, "label_maps": label_maps})
        if self.folder is not None:
            size, localizes = tuple(label_maps.shape[1:]), self.image_processor.localization
            predictions = [read_prediction(mask_path(self.folder, *frame), size, localizes) for frame in frames]
            inputs["predictions"] = torch.stack(predictions)
        return inputs


def open_prediction(path: Path, localizes: bool) -> Image.Image:
    """Opens a mask that another system wrote; its pixels are not decoded yet."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist. Every annotated frame of the split needs <subset>/<video_id>/<frame>.png, with"
            " the subset v1s, v1m or v2 and frames counted from 0."
        )
    image = open_image(path)
    modes = {"L": "8-bit gray scores"} if localizes else {"L": "class indices", "P": "class indices", "RGB": "colors"}
    if image.format != "PNG" or image.mode not in modes:
        expected = " or ".join(f"{mode} ({meaning})" for mode, meaning in modes.items())
        raise ValueError(f"{path} should be PNG of the mode {expected}, got {image.format} of the mode {image.mode}.")
    return image


def read_prediction(path: Path, size: tuple[int, int], localizes: bool) -> torch.Tensor:
    """A mask that another system wrote, `(height, width)`: scores from 0 to 1, or class indices."""
    image = load_image(open_prediction(path, localizes), path)
    if localizes:
        return resize_bilinear(torch.from_numpy(np.asarray(image) / np.float32(255))[None], size)[0]
    indices = color_to_index(image, path=path) if image.mode == "RGB" else np.asarray(image)
    if indices.max() >= len(CLASS_NAMES):
        raise ValueError(f"{path} has the class index {indices.max()}, expected 0 to {len(CLASS_NAMES) - 1}.")
    return torch.from_numpy(resize_nearest(indices, size))


def count_predictions(folder: str | os.PathLike, clips: Iterable[Mapping], localizes: bool) -> Counter:
    """
    Opens the masks that [`LabelCollator`] will read of a folder, and counts them by their size `(height, width)`.

    Raises:
        `FileNotFoundError`: one is missing.
        `ValueError`: one is not a PNG file of the kind that is expected.
    """
    sizes = Counter()
    for clip in clips:
        for index in clip["mask_frame_indices"]:
            with open_prediction(mask_path(folder, clip["subset"], clip["video_id"], index), localizes) as image:
                sizes[image.height, image.width] += 1
    return sizes


def score_predictions(
    accelerator: Accelerator,
    clips: datasets.Dataset,
    image_processor: AudioVisualImageProcessorMixin,
    folder: str | os.PathLike,
    **loading,
) -> FrameScores:
    """
    Scores the masks that another system wrote.

    Args:
        accelerator (`Accelerator`):
            The processes.
        clips (`datasets.Dataset`):
            Rows of [`load_avsbench`].
        image_processor ([`AudioVisualImageProcessorMixin`]), folder (`str` or `PathLike`):
            See [`LabelCollator`].
        loading:
            `batch_size` and `num_workers`, see [`evaluate`].
    """
    collator = LabelCollator(image_processor, folder)
    scores = FrameScores(None if image_processor.localization else len(CLASS_NAMES), "probability")
    rows = collator.prepare(clips)
    return evaluate(accelerator, rows, collator, lambda inputs: inputs["predictions"], scores, **loading)


def calibrate_prompts(
    clips: Sequence[dict], image_processor: AudioVisualImageProcessorMixin, target_iou: float, seed: int
) -> DegradedPrompts:
    """
    Degraded true masks with a wanted mean IoU in each subset of given clips, at the size of the labels.

    Args:
        clips (`Sequence[dict]`):
            What [`AVSCollator.prepare`] returns.
        image_processor ([`AudioVisualImageProcessorMixin`]):
            That of the stage 2 that will be prompted.
        target_iou (`float`), seed (`int`):
            See `calibrate_level`.

    Raises:
        `ValueError`: as `calibrate_level`; the error names the subset.
    """
    collator = LabelCollator(image_processor)
    by_subset = {}
    for index, subset in enumerate(read_column(clips, "subset")):
        by_subset.setdefault(subset, []).append(index)

    def read_masks(indices: list[int]) -> Iterator[tuple[str, int, np.ndarray]]:
        for index in indices:
            inputs = collator([clips[index]])
            for (_, video_id, frame), label_map in zip(inputs["frames"], inputs["label_maps"].numpy()):
                yield video_id, frame, label_map > 0

    levels = {}
    for subset, indices in by_subset.items():
        try:
            levels[subset] = calibrate_level(read_masks(indices), target_iou, seed)
        except ValueError as error:
            raise ValueError(f"Subset {subset}: {error}") from error
    return DegradedPrompts(levels, seed)


__all__ = [
    "FrameScores",
    "LabelCollator",
    "calibrate_prompts",
    "count_predictions",
    "evaluate",
    "localize",
    "make_prompts",
    "score_predictions",
    "segment",
]
