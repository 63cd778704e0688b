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
What the image processors of all models share: sizes, label maps, prompt masks, and the way from scores to label maps.

A model's own image processors, one on Pillow and one on torchvision, are two lines each unless it differs: in the
defaults, in the label maps (`prepare_label_map`), in the targets of its loss (`make_targets`) or in its scores
(`get_segmentation_scores`, which each has to say). Frames of any number of clips become one flat batch.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
from transformers.image_processing_utils import BatchFeature, get_size_dict
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ImageInput,
    PILImageResampling,
    SizeDict,
    make_flat_list_of_images,
    to_numpy_array,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import ModelOutput, TensorType, auto_docstring
from transformers.utils.type_validators import image_size_validator

from ..media import check_frames


class AudioVisualImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    label_size (`dict`, *optional*, defaults to `{"height": 224, "width": 224}`):
        Size of the label maps, at which AVSBench is evaluated: segmentation maps are resized to it before they become
        targets, prompt masks come out in it, and predictions are resized to it unless `target_sizes` are given.
    ignore_index (`int`, *optional*, defaults to 255):
        Value of the pixels of a segmentation map that belong to no class: they get no target.
    localization (`bool`, *optional*, defaults to `False`):
        Whether segmentation maps become the two classes of a localizer, 0 for background and 1 for sounding objects of
        whatever class. `False` keeps the classes.
    """

    label_size: Annotated[int | list[int] | tuple[int, ...] | dict[str, int] | None, image_size_validator()]
    ignore_index: int
    localization: bool


# Of scores that are resized to a frame's size so many are in memory at a time: 64 MB.
MAX_RESIZED_SCORES = 2**24


def resize_nearest(label_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a uint8 map `(height, width)` by PIL's nearest neighbor, as the released program resizes labels."""
    height, width = size
    return np.array(Image.fromarray(label_map).resize((width, height), Image.Resampling.NEAREST))


def resize_bilinear(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resizes float maps `(channels, height, width)` bilinearly, without antialiasing, as the model does."""
    return nn.functional.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def label_pixels(scores: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Of scores `(labels, height, width)`, resized bilinearly to `size`: at each pixel the label with the highest one
    (int64), and that score. A few labels at a time, since all 71 of a 4K frame would take 2 GB.
    """
    labels_at_a_time = max(1, MAX_RESIZED_SCORES // (size[0] * size[1]))
    segmentation, highest = None, None
    for first, block in enumerate(scores.split(labels_at_a_time)):
        values, indices = resize_bilinear(block, size).max(dim=0)
        indices += first * labels_at_a_time
        if highest is None:
            segmentation, highest = indices, values
        else:
            segmentation = torch.where(values > highest, indices, segmentation)
            highest = torch.maximum(highest, values)
    return segmentation, highest


def make_mask_targets(label_maps: list[np.ndarray], ignore_index: int) -> dict[str, list[torch.Tensor]]:
    """
    Targets of models that predict masks: one for each value of a label map `(height, width)` but `ignore_index`,
    background included. **mask_labels**, for each frame `(classes, height, width)`, float32, and **class_labels**, for
    each frame `(classes,)`, int64.
    """
    targets = {"mask_labels": [], "class_labels": []}
    for label_map in label_maps:
        classes = np.unique(label_map)
        classes = classes[classes != ignore_index]
        targets["mask_labels"].append(torch.from_numpy(label_map == classes[:, None, None]).float())
        targets["class_labels"].append(torch.from_numpy(classes).long())
    return targets


def score_queries(outputs: ModelOutput, mask_size: tuple[int, int]) -> Iterator[torch.Tensor]:
    """
    Of a model that predicts masks, for each frame the scores of the labels `(labels, *mask_size)`: sums over the
    queries of class probability times mask probability, whose logits are resized before.
    """
    for class_logits, mask_logits in zip(outputs.class_queries_logits.float(), outputs.masks_queries_logits.float()):
        class_probs = class_logits.softmax(dim=-1)[:, :-1]  # (queries, labels): the last column is "no object"
        mask_probs = resize_bilinear(mask_logits, mask_size).sigmoid()  # (queries, height, width)
        with torch.autocast(mask_probs.device.type, enabled=False):  # which would sum in half precision
            scores = torch.einsum("qc,qhw->chw", class_probs, mask_probs)
        yield scores


def prepare_prompt_mask(prompt_mask: ImageInput, name: str, size: tuple[int, int]) -> torch.Tensor:
    """
    Turns one mask of the sounding objects into a float tensor of shape `size` with values from 0 to 1.

    Args:
        prompt_mask (`ImageInput`):
            Mask `(height, width)`: boolean (resized by nearest neighbor, like labels), uint8 from 0 to 255 (the
            masks that the released program writes) or floating point from 0 to 1 (both resized bilinearly, like the
            mask inside the model).
        name (`str`):
            What errors call the mask.
        size (`tuple[int, int]`):
            Height and width of the result.
    """
    if isinstance(prompt_mask, Image.Image) and prompt_mask.mode == "P":
        raise ValueError(f"{name} is a palette image (mode P), whose values are indices. Pass the mask `index > 0`.")
    mask = to_numpy_array(prompt_mask)
    if mask.ndim != 2:
        raise ValueError(f"{name} should be a (height, width) mask, got the shape {mask.shape}.")
    if mask.dtype == bool:
        return torch.from_numpy(resize_nearest(mask.astype(np.uint8), size)).float()
    if mask.dtype == np.uint8:
        if mask.max() == 1:
            raise ValueError(
                f"{name} is a uint8 mask whose maximum is 1, which is either a mask of 0 and 1 or one of 0 to 255 that"
                " is almost black. Pass a boolean mask, or 0 and 255."
            )
        mask = mask / 255
    elif not np.issubdtype(mask.dtype, np.floating):
        raise ValueError(
            f"{name} has the type {mask.dtype}. Pass a boolean mask (of a label map: `label_map > 0`), a uint8 mask"
            " from 0 to 255 or a floating point mask from 0 to 1."
        )
    elif not (mask.min() >= 0 and mask.max() <= 1):  # also refuses NaN
        raise ValueError(f"{name} should lie in [0, 1], got values from {mask.min()} to {mask.max()}.")
    return resize_bilinear(torch.from_numpy(mask.astype(np.float32))[None], size)[0]


def flatten_maps(maps: ImageInput, name: str, num_frames: int | None = None) -> list:
    """One flat list of the maps of all frames."""
    maps = make_flat_list_of_images(maps, expected_ndims=2)
    if num_frames is not None and len(maps) != num_frames:
        raise ValueError(f"{name} should hold one (height, width) map a frame: got {len(maps)} for {num_frames}.")
    return maps


def read_segmentation_map(segmentation_map: ImageInput, name: str, localization: bool) -> np.ndarray:
    """A uint8 array of class indices `(height, width)`, or, with `localization`, also of colors."""
    array = to_numpy_array(segmentation_map)
    if localization and array.ndim == 3 and array.shape[-1] == 3 and array.dtype == np.uint8:
        return array
    if array.ndim != 2 or not (array.dtype == bool or np.issubdtype(array.dtype, np.integer)):
        raise ValueError(
            f"{name} should be a (height, width) map of class indices, got the shape {array.shape} and the type"
            f" {array.dtype}. `stepping_stones_hf.data.labels.color_to_index` turns colors into indices."
        )
    if array.min() < 0 or array.max() > 255:
        raise ValueError(f"{name} should hold class indices in [0, 255], got {array.min()} to {array.max()}.")
    return array.astype(np.uint8)


class AudioVisualImageProcessorMixin:
    """
    Beside a backend of transformers (`TorchvisionBackend`, `PilBackend`), the base of each model's image processors.

    `score_rule` says how the released program of the model computes the F-score of a localizer: from the probability
    of what sounds (`"probability"`) or from the scores of both classes (`"two_channel"`); see the rules of the metric
    `avss_miou`.
    """

    valid_kwargs = AudioVisualImageProcessorKwargs
    do_convert_rgb = True
    do_resize = True
    size = {"height": 224, "width": 224}
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    label_size = {"height": 224, "width": 224}
    ignore_index = 255
    localization = False
    score_rule = "probability"

    def __init__(self, **kwargs: Unpack[AudioVisualImageProcessorKwargs]):
        super().__init__(**kwargs)

    def _standardize_kwargs(self, **kwargs) -> dict[str, Any]:
        kwargs = super()._standardize_kwargs(**kwargs)
        kwargs["label_size"] = SizeDict(**get_size_dict(kwargs["label_size"], param_name="label_size"))
        return kwargs

    @auto_docstring
    def preprocess(
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None = None,
        prompt_masks: ImageInput | None = None,
        **kwargs: Unpack[AudioVisualImageProcessorKwargs],
    ) -> BatchFeature:
        r"""
        segmentation_maps (`ImageInput`, *optional*):
            For each frame a map `(height, width)` of class indices, 0 for background, in the frame's own size. With
            `localization`, a PIL image of mode RGB is taken for AVSBench's colors, where what is not black sounds.
        prompt_masks (`ImageInput`, *optional*):
            For each frame a mask `(height, width)` of the sounding objects, of any size: boolean, uint8 from 0 to 255
            or floating point from 0 to 1.

        Returns:
            [`BatchFeature`]: the frames of all clips in one batch, with the fields
            - **pixel_values** -- `(frames, 3, height, width)`, float32.
            - the targets of the model's loss, with `segmentation_maps`: **labels** `(frames, label height, label
              width)`, int64, for models that classify pixels; **mask_labels**, for each frame `(classes, height,
              width)`, float32, and **class_labels**, for each frame `(classes,)`, int64, for models that predict
              masks, where background is a class with a mask of its own.
            - **prompt_masks** -- with `prompt_masks`: `(frames, label height, label width)` from 0 to 1, float32.

        Raises:
            ValueError: if a frame has 16 bits a pixel, is to be turned for display or is scaled to [0, 1]
                already; maps or masks are not as many as the frames, a map has another size than its frame, a map
                does not hold class indices, or a mask does not hold values from 0 to 1.
        """
        return super().preprocess(images, segmentation_maps, prompt_masks, **kwargs)

    def _preprocess_image_like_inputs(
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None,
        prompt_masks: ImageInput | None,
        label_size: SizeDict,
        localization: bool,
        ignore_index: int,
        return_tensors: str | TensorType | None,
        device: "str | torch.device | None",
        **kwargs: Unpack[AudioVisualImageProcessorKwargs],
    ) -> BatchFeature:
        if kwargs.get("do_center_crop") or kwargs.get("do_pad"):
            raise ValueError(
                "Frames are only resized: do_center_crop and do_pad would move them away from their maps and masks. "
                "Crop or pad all of them before the call."
            )
        label_size = (label_size.height, label_size.width)
        check_frames(make_flat_list_of_images(images), kwargs["do_rescale"])
        images = self._prepare_image_like_inputs(images, device=device, **kwargs)
        pixel_values = self._preprocess(images, return_tensors=None, **kwargs)["pixel_values"]
        data = {"pixel_values": pixel_values}

        if segmentation_maps is not None:
            label_maps = []
            for index, segmentation_map in enumerate(
                flatten_maps(segmentation_maps, "segmentation_maps", len(images))
            ):
                name = f"segmentation_maps[{index}]"
                segmentation_map = read_segmentation_map(segmentation_map, name, localization)
                if segmentation_map.shape[:2] != images[index].shape[-2:]:
                    raise ValueError(
                        f"{name} should have its frame's size {tuple(images[index].shape[-2:])}, got"
                        f" {segmentation_map.shape[:2]}."
                    )
                label_maps.append(self.prepare_label_map(segmentation_map, label_size, localization, ignore_index))
            targets = self.make_targets(label_maps, pixel_values[0].shape[-2:], ignore_index)
            data |= {name: _move(values, device) for name, values in targets.items()}

        if prompt_masks is not None:
            prompt_masks = [
                prepare_prompt_mask(prompt_mask, f"prompt_masks[{index}]", label_size)
                for index, prompt_mask in enumerate(flatten_maps(prompt_masks, "prompt_masks", len(images)))
            ]
            data["prompt_masks"] = torch.stack(prompt_masks).to(device)

        lists = [name for name, values in data.items() if name != "pixel_values" and isinstance(values, list)]
        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=lists)

    def prepare_label_map(
        self, segmentation_map: np.ndarray, label_size: tuple[int, int], localization: bool, ignore_index: int
    ) -> np.ndarray:
        """
        Turns one segmentation map into the label map that targets are made of and metrics compare predictions with.

        Args:
            segmentation_map (`np.ndarray` of shape `(height, width)` or `(height, width, 3)` and type uint8):
                Class indices, or, with `localization`, colors.
            label_size (`tuple[int, int]`):
                Height and width of the result.
            localization (`bool`):
                Whether to make the two classes of a localizer.
            ignore_index (`int`):
                Value that stays what it is.

        Returns:
            `np.ndarray` of shape `label_size` and type uint8.
        """
        if segmentation_map.ndim == 3:
            segmentation_map = segmentation_map.any(axis=-1).astype(np.uint8)
        elif localization:
            sounding = (segmentation_map > 0).astype(np.uint8)
            segmentation_map = np.where(segmentation_map == ignore_index, np.uint8(ignore_index), sounding)
        return resize_nearest(segmentation_map, label_size)

    def make_targets(
        self, label_maps: list[np.ndarray], size: tuple[int, int], ignore_index: int
    ) -> dict[str, torch.Tensor | list[torch.Tensor]]:
        """
        Turns label maps into the targets of the model's loss.

        Args:
            label_maps (`list[np.ndarray]`):
                For each frame what `prepare_label_map` gives.
            size (`tuple[int, int]`):
                Height and width of the frames as the model sees them.
            ignore_index (`int`):
                Value of pixels without a target.

        Returns:
            `dict[str, torch.Tensor | list[torch.Tensor]]`: arguments of the model. Here **labels** `(frames, label
            height, label width)`, int64, in which `ignore_index` stays.
        """
        return {"labels": torch.from_numpy(np.stack(label_maps)).long()}

    def prepare_label_maps(self, segmentation_maps: ImageInput) -> torch.Tensor:
        """
        Makes the label maps that metrics compare the result of `post_process_semantic_segmentation` with.

        Args:
            segmentation_maps (`ImageInput`):
                Segmentation maps as for the call.

        Returns:
            `torch.Tensor` of shape `(frames, label height, label width)` and type int64: class indices, or, with
            `localization`, 0 and 1.
        """
        label_size = (self.label_size.height, self.label_size.width)
        label_maps = []
        for index, segmentation_map in enumerate(flatten_maps(segmentation_maps, "segmentation_maps")):
            array = read_segmentation_map(segmentation_map, f"segmentation_maps[{index}]", self.localization)
            label_maps.append(self.prepare_label_map(array, label_size, self.localization, self.ignore_index))
        return torch.from_numpy(np.stack(label_maps)).long()

    def get_segmentation_scores(self, outputs: ModelOutput) -> tuple[int, Iterator[torch.Tensor]]:
        """
        Reads a model's output, which nothing else does.

        Args:
            outputs (`ModelOutput`):
                Raw outputs of the model.

        Returns:
            `tuple[int, Iterator[torch.Tensor]]`: the number of frames, and for each frame the scores of the labels
            `(labels, height, width)`, float32, none of them negative, at a size of the model's choice: one frame at a
            time, since the scores of 71 labels at 384x384 take 40 MB. A localizer has two, background and what sounds;
            what it marks is where the latter is higher.
        """
        raise NotImplementedError

    def get_gated_scores(
        self, outputs: ModelOutput, sound_threshold: float | None = None
    ) -> tuple[int, Iterator[torch.Tensor]]:
        """
        The scores of [`~AudioVisualImageProcessorMixin.get_segmentation_scores`], of background alone in the frames
        whose sound does not go with what is seen.

        Args:
            outputs (`ModelOutput`):
                Raw outputs of the model.
            sound_threshold (`float`, *optional*):
                The least probability that it does, the sigmoid of `pair_logits`. Without it all frames keep theirs.

        Raises:
            ValueError: if the model says nothing about it, having learned without a pair loss.
        """
        num_frames, frame_scores = self.get_segmentation_scores(outputs)
        if sound_threshold is None:
            return num_frames, frame_scores
        pair_logits = getattr(outputs, "pair_logits", None)
        if pair_logits is None:
            raise ValueError(
                "sound_threshold is for models that were trained with a pair loss (config.pair_loss_weight), which"
                " this one was not: leave it out."
            )

        def iterate() -> Iterator[torch.Tensor]:
            for scores, fits in zip(frame_scores, pair_logits.float().sigmoid() >= sound_threshold):
                yield torch.cat([scores[:1], scores[1:] * fits])

        return num_frames, iterate()

    def post_process_semantic_segmentation(
        self,
        outputs: ModelOutput,
        target_sizes: list[tuple[int, int]] | torch.Tensor | None = None,
        return_segmentation_scores: bool = False,
        sound_threshold: float | None = None,
    ) -> "list[torch.Tensor] | list[SemanticSegmentationPostProcessorOutput]":
        """
        Converts the output of the model into segmentation maps.

        Args:
            outputs (`ModelOutput`):
                Raw outputs of the model.
            target_sizes (`list[tuple[int, int]]` or `torch.Tensor` of shape `(frames, 2)`, *optional*):
                For each frame the height and width of its result. Without it, `label_size` for all.
            return_segmentation_scores (`bool`, *optional*, defaults to `False`):
                Whether to return the scores of the classes alongside the segmentation map.
            sound_threshold (`float`, *optional*):
                Frames whose sound goes with what is seen by a smaller probability are background: see
                [`~AudioVisualImageProcessorMixin.get_gated_scores`].

        Returns:
            `list[torch.Tensor]` or `list[SemanticSegmentationPostProcessorOutput]`: for each frame its segmentation
            map `(height, width)` of class indices (int64), or, with `return_segmentation_scores=True`, an output with
            the fields `segmentation`, that map, and `segmentation_scores` `(labels, height, width)` (float32), of
            which a localizer has two: background and what sounds.

        Raises:
            ValueError: if `target_sizes` are not as many as the frames, or the model has no pair head for a
                `sound_threshold`.
        """
        num_frames, frame_scores = self.get_gated_scores(outputs, sound_threshold)
        if target_sizes is None:
            target_sizes = [(self.label_size.height, self.label_size.width)] * num_frames
        if isinstance(target_sizes, torch.Tensor):
            target_sizes = target_sizes.tolist()
        if len(target_sizes) != num_frames:
            raise ValueError(f"target_sizes should hold a size a frame: got {len(target_sizes)} for {num_frames}.")
        results = []
        for scores, target_size in zip(frame_scores, target_sizes):
            if return_segmentation_scores:
                scores = resize_bilinear(scores, target_size)
                results.append(
                    SemanticSegmentationPostProcessorOutput(
                        {"segmentation": scores.argmax(dim=0), "segmentation_scores": scores}
                    )
                )
            else:
                results.append(label_pixels(scores, target_size)[0])
        return results


@auto_docstring(
    custom_intro="""
    What the image processors of models share that label each pixel: such a model's output has `logits` `(frames,
    labels, height, width)`, or, with two labels, `(frames, 1, height, width)`, that something sounds. The scores are
    probabilities.
    """
)
class PixelImageProcessorMixin(AudioVisualImageProcessorMixin):
    def get_segmentation_scores(self, outputs: ModelOutput) -> tuple[int, Iterator[torch.Tensor]]:
        def iterate() -> Iterator[torch.Tensor]:
            for logits in outputs.logits.float():
                if len(logits) == 1:
                    sounding = logits.sigmoid()
                    yield torch.cat([1 - sounding, sounding])
                else:
                    yield logits.softmax(dim=0)

        return len(outputs.logits), iterate()


@auto_docstring(
    custom_intro="""
    The image processor of no model in particular: it makes label maps, for the masks of other systems.
    """
)
class AudioVisualImageProcessorPil(AudioVisualImageProcessorMixin, PilBackend):
    pass


def _move(
    values: torch.Tensor | list[torch.Tensor], device: "str | torch.device | None"
) -> torch.Tensor | list[torch.Tensor]:
    return values.to(device) if isinstance(values, torch.Tensor) else [value.to(device) for value in values]


__all__ = [
    "AudioVisualImageProcessorKwargs",
    "AudioVisualImageProcessorMixin",
    "AudioVisualImageProcessorPil",
    "PixelImageProcessorMixin",
    "flatten_maps",
    "read_segmentation_map",
    "resize_nearest",
]
