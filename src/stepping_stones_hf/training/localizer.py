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
"""A trained localizer at work: it predicts masks, is scored by them, and leaves them in a store for stage 2."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import datasets
import torch
from accelerate import Accelerator
from transformers import AutoConfig, PreTrainedModel

from ..data.collator import AVSCollator
from ..files import begin_folder, partial_folder
from ..models.modeling_base import is_localizer
from ..models.processing_base import AudioVisualProcessor
from .evaluation import Frame, FrameScores, evaluate, localize, make_prompts
from .mask_store import (
    Manifest,
    complete_store,
    fingerprint_clips,
    hash_model_folder,
    mask_path,
    name_model,
    write_mask,
)
from .report import summarize_localization


def check_localizer(folder: Path) -> Path:
    """
    Makes sure that a folder holds a model of stage 1.

    Raises:
        `FileNotFoundError`: it holds no model.
        `ValueError`: its model is another one.
    """
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder / 'config.json'} does not exist: --localizer is the folder of a localizer.")
    config = AutoConfig.from_pretrained(folder)
    if not is_localizer(config):
        raise ValueError(
            f"--localizer {folder} has {config.num_labels} labels and use_mask_prompt={config.use_mask_prompt}: it is"
            " not a localizer, which has 2 and False. In a two-stage repository, that is its folder localizer/."
        )
    return folder


def predict_masks(
    accelerator: Accelerator,
    model: PreTrainedModel,
    processor: AudioVisualProcessor,
    clips: Sequence[dict],
    store: str | os.PathLike,
    soft: bool = False,
    cache_dir: str | os.PathLike | None = None,
    sound_threshold: float | None = None,
    **loading,
) -> FrameScores:
    """
    Predicts the masks of clips into the partial store, which is emptied first: [`finish_store`] turns it into a store.

    Args:
        accelerator (`Accelerator`):
            The processes, each of which takes its share of the clips.
        model (`PreTrainedModel`), processor ([`AudioVisualProcessor`]):
            The localizer.
        clips (`Sequence[dict]`):
            What [`AVSCollator.prepare`] returns.
        store (`str` or `PathLike`):
            The store to be.
        soft (`bool`, *optional*, defaults to `False`):
            Whether to keep the share of the score that sounds, see [`make_prompts`].
        cache_dir (`str` or `PathLike`, *optional*):
            See [`AVSCollator`].
        sound_threshold (`float`, *optional*):
            Masks are empty where the sound goes with what is seen by a smaller probability: see
            [`~AudioVisualImageProcessorMixin.get_gated_scores`].
        loading:
            `batch_size` and `num_workers`, see [`evaluate`].

    Returns:
        [`FrameScores`]: how good the masks are.
    """
    if accelerator.is_main_process:
        begin_folder(store)
    accelerator.wait_for_everyone()

    def keep(frames: list[Frame], scores: torch.Tensor) -> None:
        for frame, mask in zip(frames, make_prompts(scores, soft).numpy()):
            write_mask(mask_path(partial_folder(store), *frame), mask)

    return evaluate(
        accelerator,
        clips,
        AVSCollator(processor, cache_dir=cache_dir, evaluation=True),
        partial(localize, model.to(accelerator.device).eval(), processor, sound_threshold=sound_threshold),
        FrameScores(score_rule=processor.image_processor.score_rule),
        on_predictions=keep,
        **loading,
    )


def finish_store(
    accelerator: Accelerator,
    store: str | os.PathLike,
    localizer_dir: str | os.PathLike,
    clips: datasets.Dataset,
    scores: FrameScores,
    soft: bool = False,
    sound_threshold: float | None = None,
) -> None:
    """Turns the partial store into a store, once [`predict_masks`] has filled it with the masks of all clips."""
    if accelerator.is_main_process:
        manifest = Manifest(
            localizer=name_model(localizer_dir),
            localizer_hash=hash_model_folder(localizer_dir),
            data_fingerprint=fingerprint_clips(clips),
            num_frames=len(scores),
            # What sounds has the larger score, hence more than half of both.
            threshold=None if soft else 0.5,
            scores=summarize_localization(scores),
            sound_threshold=sound_threshold,
        )
        complete_store(store, manifest)
    accelerator.wait_for_everyone()


__all__ = ["check_localizer", "finish_store", "predict_masks"]
