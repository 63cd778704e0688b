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

from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Subset
from tqdm.auto import tqdm

from ..data.collator import AVSCollator
from ..metrics import binary_results, binary_statistics, semantic_results, semantic_statistics


Frame = tuple[str, str, int]  # subset, video, index


class FrameScores:
    """
    The counts of frames by name, from which every protocol's results follow. A frame that is added again counts once.

    Args:
        num_classes (`int`, *optional*):
            Number of classes of label maps. Without it predictions are the two scores of stage 1, background and
            sounding, by the released program's rule (`"two_channel"`).
    """

    def __init__(self, num_classes: int | None = None):
        self.num_classes = num_classes
        self.statistics: dict[Frame, np.ndarray] = {}

    def add(
        self, frames: Sequence[Frame], predictions: Sequence[np.ndarray], label_maps: Sequence[np.ndarray]
    ) -> None:
        """
        Adds frames with their predictions, label maps `(height, width)` or scores `(2, height, width)`, and their
        true label maps `(height, width)`.
        """
        for frame, prediction, label_map in zip(frames, predictions, label_maps, strict=True):
            if self.num_classes is None:
                self.statistics[frame] = binary_statistics(prediction, label_map, score_rule="two_channel")
            else:
                self.statistics[frame] = semantic_statistics(prediction, label_map, self.num_classes)

    def gather(self) -> None:
        """Gives every process the frames of all processes."""
        gathered = gather_object([self.statistics])
        self.statistics = {frame: counts for statistics in gathered for frame, counts in statistics.items()}

    @property
    def subsets(self) -> list[str]:
        return sorted({subset for subset, _, _ in self.statistics})

    def results(self, subset: str | None = None, **options) -> dict:
        """The results of all frames, or of those of one subset: see `semantic_results` and `binary_results`."""
        frames = sorted(frame for frame in self.statistics if subset in (None, frame[0]))
        videos = [frame[:2] for frame in frames]
        numbers = np.cumsum([0, *(video != last for last, video in zip(videos, videos[1:]))])
        statistics = [self.statistics[frame] for frame in frames]
        if self.num_classes is None:
            return binary_results(statistics, numbers, **options)
        return semantic_results(statistics, numbers, self.num_classes, **options)


def localize(model, processor, inputs) -> torch.Tensor:
    """Stage 1: scores of background and of what sounds, `(frames, 2, label height, label width)`."""
    results = processor.post_process_semantic_segmentation(model(**inputs), return_segmentation_scores=True)
    return torch.stack([result.segmentation_scores for result in results])


def make_prompts(scores: torch.Tensor, soft: bool = False) -> torch.Tensor:
    """
    What stage 2 is prompted with, `(frames, height, width)` from 0 to 1, given the scores of stage 1: 1 where what
    sounds has the higher score, as in the released program; or, `soft`, its share of the two scores.
    """
    background, sounding = scores.unbind(1)
    return sounding / (background + sounding).clamp(min=1e-6) if soft else (sounding > background).float()


def segment(model, processor, inputs) -> torch.Tensor:
    """Stage 2, or one stage: label maps `(frames, label height, label width)`."""
    return torch.stack(processor.post_process_semantic_segmentation(model(**inputs)))


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
            Called with the names of a batch's frames and their predictions.

    Returns:
        [`FrameScores`]: `scores`, with the frames of all processes.
    """
    share = Subset(clips, range(accelerator.process_index, len(clips), accelerator.num_processes))
    loader = DataLoader(share, batch_size=batch_size, num_workers=num_workers, collate_fn=collator)
    for inputs in tqdm(loader, desc="evaluation", leave=False, disable=not accelerator.is_main_process):
        frames, label_maps = inputs.pop("frames"), inputs.pop("label_maps")
        with accelerator.autocast():
            predictions = predict(inputs.to(accelerator.device))
        scores.add(frames, predictions.cpu().numpy(), label_maps.numpy())
        if on_predictions is not None:
            on_predictions(frames, predictions)
    scores.gather()
    return scores


__all__ = ["FrameScores", "evaluate", "localize", "make_prompts", "segment"]
