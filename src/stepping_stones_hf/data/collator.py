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
"""Clips become one flat batch of frames, the input of a model."""

import os
from collections.abc import Callable, Sequence
from typing import Literal

import datasets
import numpy as np
import torch
from PIL import Image
from transformers import BaseImageProcessor, BatchFeature, ProcessorMixin

from ..media import load_image, open_image, read_image, to_rgb
from .audio_cache import AudioFeatureCache
from .augmentation import Augmentation, DrawnAugmentation
from .media import get_source


class MapReader:
    """Reads what is annotated of clips; base of the collators."""

    def __init__(self, image_processor: BaseImageProcessor):
        self.image_processor = image_processor

    @staticmethod
    def prepare(
        dataset: "datasets.Dataset | datasets.IterableDataset",
    ) -> "torch.utils.data.Dataset | datasets.IterableDataset":
        """
        The clips with images and sounds as bytes or paths, so that what is not used is not decoded: of an S4 training
        clip one frame of five is used. A function that was set by `with_transform` is given decoded clips.

        Raises:
            `ValueError`: `dataset` is a dictionary of splits or a stream that does not know its columns, or some of
            them are missing.
        """
        if isinstance(dataset, dict):
            raise ValueError(f"Pass one split, such as dataset['train'], not all: {', '.join(dataset)}.")
        if dataset.column_names is None:
            raise ValueError(
                "The stream does not know its columns, since a function was mapped over it: tell map which there are,"
                " as in clips.map(function, features=clips.features)."
            )
        columns = ["video_id", "subset", "num_frames", "frames", "audio", "mask_frame_indices", "masks"]
        missing = [name for name in columns if name not in dataset.column_names]
        if missing:
            raise ValueError(
                f"The clips have no {', '.join(missing)}, but the columns {', '.join(dataset.column_names)}."
            )
        if isinstance(dataset, datasets.IterableDataset):
            # With all columns: of streams that were concatenated `datasets` cannot select one that some of them lack.
            return dataset.with_format(None).decode(False)
        optional = ("color_masks", "semantic_masks", "stage1_masks")
        columns += [name for name in optional if name in dataset.column_names]
        return EncodedRows(dataset, columns)

    def _read_maps(self, clip: dict) -> list[np.ndarray | Image.Image]:
        """Segmentation maps of the annotated frames."""
        if self.image_processor.localization:
            # An RGB image is taken for the published colors.
            if clip.get("color_masks"):
                return [as_rgb(mask) for mask in clip["color_masks"]]
            return [np.asarray(as_image(mask)) for mask in clip["masks"]]
        # Clips of a configuration without such a column have None in it, together with those of another one.
        return [np.asarray(as_image(mask)) for mask in clip.get("semantic_masks") or clip["masks"]]


class AVSCollator(MapReader):
    r"""
    Turns clips, rows of [`load_avsbench`] or of its export to Parquet, into the inputs of a model: the annotated
    frames of all clips in one flat batch, each with the sound of its second. It is the `collate_fn` of a `DataLoader`
    and the `data_collator` of a [`Trainer`]; both are given `collator.prepare(dataset)`. A `Trainer` needs
    `TrainingArguments(remove_unused_columns=False)`, since the columns are not what the model takes, and for a stream
    `accelerator_config={"dispatch_batches": False}`: Accelerate would cut and join the lists of targets as if they
    were tensors.

    Args:
        processor ([`AudioVisualProcessor`]):
            Prepares frames, sound and targets. With `localization` it makes the targets of stage 1, and it is given
            the published colors (`color_masks`) where there are any, as in the released program. Where its model looks
            across frames it is given all frames of a clip, those without annotation with nothing but `ignore_index` in
            their maps and empty prompts.
        prompt (`"truth"`, `"stage1"` or a function, *optional*):
            What stage 2 is prompted with: the true masks of what sounds, as in training (section 3.2 of the paper),
            the column `stage1_masks`, or what a function makes of the clip and its true masks, boolean `(frames,
            height, width)` at the size of the labels: a list of masks. Nothing by default.
        first_frame (`"once"` or `"repeat"`, *optional*, defaults to `"once"`):
            What becomes of a training clip of S4, which is annotated in its first frame only: that frame with the
            sound of the first second; or that frame with each second of the sound, as in the released program, which
            makes it five frames for the model.
        cache_dir (`str` or `PathLike`, *optional*):
            Folder that keeps the log-mel patches: see [`AudioFeatureCache`].
        evaluation (`bool`, *optional*, defaults to `False`):
            Whether batches have `label_maps` and `frames` in place of targets for the loss.
        transform ([`Augmentation`], *optional*):
            What is random in training clips: it changes their frames, maps and prompts alike. True masks that prompt
            are made of the changed maps.
        negatives (function, *optional*):
            Given a training clip, the same or one with a sound that nothing in it makes, which has in
            `negative_prompt` what it is prompted with: `"empty"` masks, or `"visual"`, what it would be without. Its
            target is that nothing sounds: see [`~training.negatives.Negatives`].

    Raises:
        `ValueError`: an argument has another value than these, `cache_dir` is a file, or there is a `transform` or
            `negatives` in evaluation.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        prompt: Literal["truth", "stage1"] | Callable[[dict, np.ndarray], list[np.ndarray]] | None = None,
        first_frame: Literal["once", "repeat"] = "once",
        cache_dir: str | os.PathLike | None = None,
        evaluation: bool = False,
        transform: Augmentation | None = None,
        negatives: Callable[[dict], dict] | None = None,
    ):
        if evaluation and transform is not None:
            raise ValueError("evaluation=True with a transform: clips are augmented in training alone.")
        if evaluation and negatives is not None:
            raise ValueError("evaluation=True with negatives: clips hear other sounds in training alone.")
        if not callable(prompt) and prompt not in (None, "truth", "stage1"):
            raise ValueError(f'prompt should be "truth", "stage1", a function or None, got {prompt!r}.')
        if first_frame not in ("once", "repeat"):
            raise ValueError(f'first_frame should be "once" or "repeat", got {first_frame!r}.')
        if first_frame == "repeat" and processor.looks_across_frames:
            raise ValueError(
                f'first_frame="repeat" is for models that look at single frames: {type(processor).__name__} takes all'
                " frames of a clip."
            )
        super().__init__(processor.image_processor)
        self.processor, self.prompt = processor, prompt
        self.first_frame, self.evaluation, self.transform = first_frame, evaluation, transform
        self.negatives = negatives
        self.audio_features = AudioFeatureCache(processor.feature_extractor, cache_dir)

    def __call__(self, clips: list[dict]) -> BatchFeature:
        """
        Args:
            clips (`list[dict]`):
                Rows of the dataset, decoded or as [`~AVSCollator.prepare`] gives them.

        Returns:
            [`BatchFeature`] for `model(**batch)`, frames of one clip after those of the other: **pixel_values**
            `(frames, 3, height, width)`, **input_features** `(frames, 96, 64)`, **mask_labels** and **class_labels**
            (a tensor a frame) and, with `prompt`, **prompt_masks** `(frames, label height, label width)`. With
            `evaluation` there are, in place of the targets, **label_maps** `(frames, label height, label width)` and
            **frames**, for each its subset, video and index; where the model looks across frames also **num_frames**
            `(clips,)` and, in evaluation, **annotated**, which rows of the batch these frames are.

        Raises:
            `ValueError`: there is no clip; or a file of a clip cannot be read: the error names the clip.
        """
        if not clips:
            raise ValueError("clips should have at least one clip, got none.")
        frames, features, maps, prompts, rows, names, annotated = [], [], [], [], [], [], []
        num_frames = 0
        for clip in clips:
            shown = seconds = indices = clip["mask_frame_indices"]
            if self.processor.looks_across_frames:
                shown = seconds = range(clip["num_frames"])
            elif self.first_frame == "repeat" and clip["subset"] == "v1s" and len(indices) == 1:
                seconds = range(clip["num_frames"])
            try:
                if self.negatives is not None:
                    clip = self.negatives(clip)
                negative = "negative_prompt" in clip
                clip_features = self._read_sound(clip, keep=not negative)
                clip_maps = self._read_maps(clip)
                clip_frames = self._read_frames(clip, shown)
                drawn = None
                if self.transform is not None:
                    drawn = self.transform.draw(clip, clip_frames[0].size[::-1])
                    clip_frames = [drawn.change_frame(frame) for frame in clip_frames]
                    ignore_index = self.image_processor.ignore_index
                    clip_maps = [drawn.change_map(clip_map, ignore_index) for clip_map in clip_maps]
                clip_prompts = self._read_prompts(clip, clip_maps, drawn)
                if negative:
                    clip_maps = [self._empty_map(clip_map) for clip_map in clip_maps]
            except (ValueError, OSError) as error:
                raise ValueError(f"{clip['subset']}/{clip['video_id']}: {error}") from error
            annotated += [num_frames + position for position, index in enumerate(shown) if index in indices]
            # Which frame goes with each second: the only one, or its own.
            rows += [num_frames + min(row, len(shown) - 1) for row in range(len(seconds))]
            num_frames += len(shown)
            features.append(clip_features[list(seconds)])
            frames.append(clip_frames)
            maps += clip_maps if self.evaluation else self._fill_maps(clip_maps, indices, clip_frames, shown)
            if clip_prompts:
                prompts += self._fill_prompts(clip_prompts, indices, shown)
            names += [(clip["subset"], clip["video_id"], index) for index in indices]

        inputs = self.processor(
            images=frames,
            segmentation_maps=None if self.evaluation else maps,
            prompt_masks=prompts or None,
            return_tensors="pt",
        )
        if self.evaluation:
            inputs["label_maps"] = self.image_processor.prepare_label_maps(maps)
        if len(rows) > num_frames:
            inputs = BatchFeature({name: take(values, rows) for name, values in inputs.items()})
            names = [names[row] for row in rows]
        inputs["input_features"] = torch.from_numpy(np.concatenate(features))
        if self.evaluation:
            inputs["frames"] = names
            if self.processor.looks_across_frames:
                inputs["annotated"] = torch.tensor(annotated)
        return inputs

    def _read_sound(self, clip: dict, keep: bool) -> np.ndarray:
        """Input features of all seconds. A sound that is made anew in each epoch would fill the disk."""
        if keep:
            return self.audio_features(clip["audio"], clip["num_frames"])
        return self.audio_features.compute(get_source(clip["audio"]), clip["num_frames"])

    def _empty_map(self, clip_map: np.ndarray | Image.Image) -> np.ndarray:
        """A map in which nothing sounds; what has no class has none still."""
        array, ignored = np.asarray(clip_map), self.image_processor.ignore_index
        if array.ndim == 3:  # colors, of which black is background
            return np.zeros(array.shape[:2], dtype=np.uint8)
        return np.where(array == ignored, ignored, 0).astype(np.uint8)

    def _read_frames(self, clip: dict, shown: Sequence[int]) -> list[Image.Image]:
        if max(shown) >= len(clip["frames"]):
            raise ValueError(
                f"the clip has {len(clip['frames'])} of its {clip['num_frames']} frames, and {len(shown)} are needed:"
                f" {type(self.processor).__name__} looks at all frames of a clip."
            )
        return [as_rgb(clip["frames"][index]) for index in shown]

    def _fill_maps(
        self,
        maps: list[np.ndarray | Image.Image],
        indices: Sequence[int],
        frames: list[Image.Image],
        shown: Sequence[int],
    ) -> list[np.ndarray | Image.Image]:
        """The map of each frame that is shown; where there is none, no pixel has a class."""
        known, ignored = dict(zip(indices, maps)), self.image_processor.ignore_index
        return [
            known[index] if index in known else np.full(frame.size[::-1], ignored, dtype=np.uint8)
            for index, frame in zip(shown, frames)
        ]

    def _fill_prompts(
        self, prompts: list[np.ndarray], indices: Sequence[int], shown: Sequence[int]
    ) -> list[np.ndarray]:
        """The prompt of each frame that is shown; where there is none, nothing sounds."""
        known = dict(zip(indices, prompts))
        return [known[index] if index in known else np.zeros_like(prompts[0]) for index in shown]

    def _read_prompts(self, clip: dict, maps: list[np.ndarray], drawn: DrawnAugmentation | None) -> list[np.ndarray]:
        """Prompts of the annotated frames."""
        if self.prompt is None:
            return []
        if clip.get("negative_prompt") == "empty":
            return [np.zeros(np.asarray(clip_map).shape[:2], dtype=bool) for clip_map in maps]
        if self.prompt == "stage1":
            if not clip.get("stage1_masks"):
                raise ValueError("the clip has no stage1_masks: load_avsbench reads them from its stage1_masks_dir.")
            masks = [as_image(clip["stage1_masks"][index]) for index in clip["mask_frame_indices"]]
            masks = [np.asarray(mask.convert("L")) for mask in masks]
            return masks if drawn is None else [drawn.change_prompt(mask) for mask in masks]
        # At the size of the labels, as in the released program, which takes them from the resized label map.
        label_maps = self.image_processor.prepare_label_maps(maps).numpy()
        truth = label_maps > 0
        if drawn is not None:
            truth &= label_maps != self.image_processor.ignore_index  # beyond the frame
        return list(truth) if self.prompt == "truth" else self.prompt(clip, truth)


class EncodedRows(torch.utils.data.Dataset):
    """
    Columns of a dataset as they are stored; `Dataset.cast` would write a second copy of it to the disk. A dataset
    with a transform gives what that makes of its decoded rows.
    """

    def __init__(self, dataset: "datasets.Dataset", columns: list[str]):
        self.tables = dataset.select_columns(columns).with_format("arrow")
        self.transformed = dataset if dataset.format["type"] == "custom" else None

    def __len__(self) -> int:
        return len(self.tables)

    def __getitem__(self, index: int) -> dict:
        return self.tables[index].to_pylist()[0] if self.transformed is None else self.transformed[index]


def encode_array(image: dict | np.ndarray) -> dict:
    """Arrays that a function makes of the images of a stream, as `datasets` encodes those of a table."""
    return datasets.Image().encode_example(image) if isinstance(image, np.ndarray) else image


def as_image(image: Image.Image | dict | np.ndarray) -> Image.Image:
    """An image of a row, decoded or not."""
    if isinstance(image, Image.Image):
        return image
    source = get_source(encode_array(image))
    return load_image(open_image(source), source)


def as_rgb(image: Image.Image | dict | np.ndarray) -> Image.Image:
    """A frame or a mask in colors, decoded or not; what [`load_avsbench`] refuses is refused here as well."""
    return to_rgb(image) if isinstance(image, Image.Image) else read_image(get_source(encode_array(image)))


def take(values: torch.Tensor | list[torch.Tensor], rows: list[int]) -> torch.Tensor | list[torch.Tensor]:
    return values[rows] if isinstance(values, torch.Tensor) else [values[row] for row in rows]


__all__ = ["AVSCollator"]
