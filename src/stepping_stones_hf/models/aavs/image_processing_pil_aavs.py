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
AAVS's image processor on PIL and NumPy: frames, targets and post-processing exactly as the released program has them.

What does not depend on the backend (targets, prompt masks, post-processing) is `AAVSImageProcessorMixin`, which
`AAVSImageProcessor` shares. Frames are independent in AAVS: the frames of any number of clips become one flat batch.
"""

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
    ImageInput,
    PILImageResampling,
    SizeDict,
    make_flat_list_of_images,
    to_numpy_array,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import TensorType, auto_docstring
from transformers.utils.type_validators import image_size_validator


class AAVSImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    label_size (`dict`, *optional*, defaults to `{"height": 224, "width": 224}`):
        Size of the label maps, at which AVSBench is evaluated: segmentation maps are resized to it before they become
        targets, prompt masks come out in it, and predictions are resized to it unless `target_sizes` are given.
    ignore_index (`int`, *optional*, defaults to 255):
        Value of the pixels of a segmentation map that belong to no class: they get no target.
    localization (`bool`, *optional*, defaults to `False`):
        Whether segmentation maps become the two classes of stage 1, 0 for background and 1 for sounding objects of
        whatever class. `False` is stage 2, which keeps the classes.
    post_process_size (`dict`, *optional*, defaults to `{"height": 384, "width": 384}`):
        Size to which post-processing resizes mask logits before their sigmoid. The released program has it fixed at
        384x384 whatever the size of its input.
    """

    label_size: Annotated[int | list[int] | tuple[int, ...] | dict[str, int] | None, image_size_validator()]
    ignore_index: int
    localization: bool
    post_process_size: Annotated[int | list[int] | tuple[int, ...] | dict[str, int] | None, image_size_validator()]


def build_palette(num_colors: int) -> np.ndarray:
    """
    The PASCAL VOC colour map, with which AVSBench draws its classes.

    The index gives its bits in rounds of three, from the lowest on, to red, green and blue; the first round sets the
    highest bit of each channel, every other round the bit below.

    Args:
        num_colors (`int`):
            Number of colours, at most 256.

    Returns:
        `np.ndarray` of shape `(num_colors, 3)` and type uint8: row `i` is the RGB colour of index `i`.
    """
    bits = (np.arange(num_colors)[:, None, None] >> np.arange(24).reshape(8, 3)) & 1  # (colors, rounds, RGB)
    return (bits << np.arange(7, -1, -1)[:, None]).sum(axis=1).astype(np.uint8)


# A colour for each value that an 8-bit segmentation map can hold.
VOC_PALETTE = build_palette(256)


# Of scores that are resized to a frame's size so many are in memory at a time: 64 MB.
MAX_RESIZED_SCORES = 2**24


def resize_nearest(label_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a uint8 map `(height, width)` by PIL's nearest neighbour, as the released program resizes labels."""
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


def _linear_taps(in_length: int, out_length: int) -> tuple[np.ndarray, ...]:
    """The two input positions that each output position lies between, and the weights of both in units of 2^-11."""
    position = ((np.arange(out_length) + 0.5) * (in_length / out_length) - 0.5).astype(np.float32)
    low = np.floor(position)
    high_weight = position - low
    low_tap, high_tap = (tap.astype(np.int64).clip(0, in_length - 1) for tap in (low, low + 1))
    low_weight, high_weight = (np.rint(w * 2048).astype(np.int32) for w in (1 - high_weight, high_weight))
    return low_tap, high_tap, low_weight, high_weight


def resize_colors(colors: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """
    Bilinear resize of an 8-bit picture in the fixed-point arithmetic of OpenCV, which the released program uses for
    the labels of stage 1.

    Those labels are cut at the lowest gray level, so that rounding decides where a border lies: a resize that is not
    the same to the last bit gives other targets.

    Args:
        colors (`np.ndarray` of shape `(height, width, 3)` and type uint8):
            The picture.
        size (`tuple[int, int]`):
            Height and width of the result.

    Returns:
        `np.ndarray` of shape `(*size, 3)` and type uint8.
    """
    height, width = size
    left, right, left_weight, right_weight = _linear_taps(colors.shape[1], width)
    top, bottom, top_weight, bottom_weight = _linear_taps(colors.shape[0], height)
    colors = colors.astype(np.int32)
    rows = (colors[:, left] * left_weight[:, None] + colors[:, right] * right_weight[:, None]) >> 4
    upper = (rows[top] * top_weight[:, None, None]) >> 16
    lower = (rows[bottom] * bottom_weight[:, None, None]) >> 16
    return ((upper + lower + 2) >> 2).astype(np.uint8)


def is_sounding(colors: np.ndarray) -> np.ndarray:
    """A uint8 map `(height, width)`: 1 where the gray level that OpenCV gives an 8-bit RGB colour is not 0."""
    gray = colors @ np.array([9798, 19235, 3735], dtype=np.int32)  # gray level times 2^15
    return (gray >= 2**14).astype(np.uint8)  # levels are rounded to the nearest


def prepare_label_map(
    segmentation_map: np.ndarray, label_size: tuple[int, int], localization: bool, ignore_index: int
) -> np.ndarray:
    """
    Turns one segmentation map into the label map that targets are made of and metrics compare predictions with.

    Args:
        segmentation_map (`np.ndarray` of shape `(height, width)` or `(height, width, 3)` and type uint8):
            Class indices, or, with `localization`, colours.
        label_size (`tuple[int, int]`):
            Height and width of the result.
        localization (`bool`):
            Whether to make the two classes of stage 1.
        ignore_index (`int`):
            Value that stays what it is.

    Returns:
        `np.ndarray` of shape `label_size` and type uint8.
    """
    if not localization:
        return resize_nearest(segmentation_map, label_size)
    if segmentation_map.ndim == 3:
        return is_sounding(resize_colors(segmentation_map, label_size))
    # The released program resizes the colours of the classes bilinearly, which widens objects by a border.
    ignored = segmentation_map == ignore_index
    label_map = is_sounding(resize_colors(VOC_PALETTE[np.where(ignored, 0, segmentation_map)], label_size))
    return np.where(resize_nearest(ignored.astype(np.uint8), label_size), np.uint8(ignore_index), label_map)


def make_targets(label_map: np.ndarray, ignore_index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    One target for each value of a label map `(height, width)`, background included: masks `(classes, height, width)`,
    float32, and classes `(classes,)`, int64.
    """
    classes = np.unique(label_map)
    classes = classes[classes != ignore_index]
    masks = label_map == classes[:, None, None]
    return torch.from_numpy(masks).float(), torch.from_numpy(classes).long()


def prepare_prompt_mask(prompt_mask: ImageInput, name: str, size: tuple[int, int]) -> torch.Tensor:
    """
    Turns one mask of the sounding objects into a float tensor of shape `size` with values from 0 to 1.

    Args:
        prompt_mask (`ImageInput`):
            Mask `(height, width)`: boolean (resized by nearest neighbour, like labels), uint8 from 0 to 255 (the
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


def _flatten(maps: ImageInput, name: str, num_frames: int | None = None) -> list:
    """One flat list of the maps of all frames."""
    maps = make_flat_list_of_images(maps, expected_ndims=2)
    if num_frames is not None and len(maps) != num_frames:
        raise ValueError(f"{name} should hold one (height, width) map a frame: got {len(maps)} for {num_frames}.")
    return maps


def _read_segmentation_map(segmentation_map: ImageInput, name: str, localization: bool) -> np.ndarray:
    """A uint8 array of class indices `(height, width)`, or, with `localization`, also of colours."""
    array = to_numpy_array(segmentation_map)
    if localization and array.ndim == 3 and array.shape[-1] == 3 and array.dtype == np.uint8:
        return array
    if array.ndim != 2 or not (array.dtype == bool or np.issubdtype(array.dtype, np.integer)):
        raise ValueError(
            f"{name} should be a (height, width) map of class indices, got the shape {array.shape} and the type"
            f" {array.dtype}. `stepping_stones_hf.data.labels.color_to_index` turns colours into indices."
        )
    if array.min() < 0 or array.max() > 255:
        raise ValueError(f"{name} should hold class indices in [0, 255], got {array.min()} to {array.max()}.")
    return array.astype(np.uint8)


class AAVSImageProcessorMixin:
    """What AAVS's image processors share whatever their backend: defaults, targets, prompt masks, post-processing."""

    valid_kwargs = AAVSImageProcessorKwargs
    do_convert_rgb = True
    do_resize = True
    size = {"height": 384, "width": 384}
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    # The released checkpoints' values: the second is one float32 step below ImageNet's 0.224.
    image_std = [0.229, 0.2239999920129776, 0.225]
    label_size = {"height": 224, "width": 224}
    ignore_index = 255
    localization = False
    post_process_size = {"height": 384, "width": 384}

    def __init__(self, **kwargs: Unpack[AAVSImageProcessorKwargs]):
        super().__init__(**kwargs)

    def _standardize_kwargs(self, **kwargs) -> dict[str, Any]:
        kwargs = super()._standardize_kwargs(**kwargs)
        for name in ("label_size", "post_process_size"):
            kwargs[name] = SizeDict(**get_size_dict(kwargs[name], param_name=name))
        return kwargs

    @auto_docstring
    def preprocess(
        self,
        images: ImageInput,
        segmentation_maps: ImageInput | None = None,
        prompt_masks: ImageInput | None = None,
        **kwargs: Unpack[AAVSImageProcessorKwargs],
    ) -> BatchFeature:
        r"""
        segmentation_maps (`ImageInput`, *optional*):
            For each frame a map `(height, width)` of class indices, 0 for background, in the frame's own size. With
            `localization`, a PIL image of mode RGB is taken for AVSBench's colours, and every colour that is not
            black in 8-bit gray is sounding.
        prompt_masks (`ImageInput`, *optional*):
            For each frame a mask `(height, width)` of the sounding objects, of any size: boolean, uint8 from 0 to 255
            or floating point from 0 to 1.

        Returns:
            [`BatchFeature`]: the frames of all clips in one batch, with the fields
            - **pixel_values** -- `(frames, 3, height, width)`, float32.
            - **mask_labels**, **class_labels** -- with `segmentation_maps`: for each frame a tensor `(classes, height,
              width)`, float32, and a tensor `(classes,)`, int64. Background is a class with a mask of its own.
            - **prompt_masks** -- with `prompt_masks`: `(frames, label height, label width)` from 0 to 1, float32.

        Raises:
            ValueError: if maps or masks are not as many as the frames, a map has another size than its frame, a map
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
        **kwargs: Unpack[AAVSImageProcessorKwargs],
    ) -> BatchFeature:
        if kwargs.get("do_center_crop") or kwargs.get("do_pad"):
            raise ValueError(
                "AAVS's frames are only resized: do_center_crop and do_pad would move them away from their maps and "
                "masks. Crop or pad all of them before the call."
            )
        label_size = (label_size.height, label_size.width)
        images = self._prepare_image_like_inputs(images, device=device, **kwargs)
        pixel_values = self._preprocess(images, return_tensors=None, **kwargs)["pixel_values"]
        data = {"pixel_values": pixel_values}

        if segmentation_maps is not None:
            data["mask_labels"], data["class_labels"] = [], []
            for index, segmentation_map in enumerate(_flatten(segmentation_maps, "segmentation_maps", len(images))):
                name = f"segmentation_maps[{index}]"
                segmentation_map = _read_segmentation_map(segmentation_map, name, localization)
                if segmentation_map.shape[:2] != images[index].shape[-2:]:
                    raise ValueError(
                        f"{name} should have its frame's size {tuple(images[index].shape[-2:])}, got"
                        f" {segmentation_map.shape[:2]}."
                    )
                label_map = prepare_label_map(segmentation_map, label_size, localization, ignore_index)
                label_map = resize_nearest(label_map, pixel_values[index].shape[-2:])
                masks, classes = make_targets(label_map, ignore_index)
                data["mask_labels"].append(masks.to(device))
                data["class_labels"].append(classes.to(device))

        if prompt_masks is not None:
            prompt_masks = [
                prepare_prompt_mask(prompt_mask, f"prompt_masks[{index}]", label_size)
                for index, prompt_mask in enumerate(_flatten(prompt_masks, "prompt_masks", len(images)))
            ]
            data["prompt_masks"] = torch.stack(prompt_masks).to(device)

        return BatchFeature(data, tensor_type=return_tensors, skip_tensor_conversion=["mask_labels", "class_labels"])

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
        label_maps = []
        for index, segmentation_map in enumerate(_flatten(segmentation_maps, "segmentation_maps")):
            array = _read_segmentation_map(segmentation_map, f"segmentation_maps[{index}]", self.localization)
            label_size = (self.label_size.height, self.label_size.width)
            label_maps.append(prepare_label_map(array, label_size, self.localization, self.ignore_index))
        return torch.from_numpy(np.stack(label_maps)).long()

    def post_process_semantic_segmentation(
        self,
        outputs,
        target_sizes: list[tuple[int, int]] | None = None,
        return_segmentation_scores: bool = False,
    ) -> "list[torch.Tensor] | list[SemanticSegmentationPostProcessorOutput]":
        """
        Converts the output of [`AAVSForAudioVisualSegmentation`] of either stage into segmentation maps.

        The score of a class at a pixel is the sum over the queries of class probability times mask probability. Two
        labels give the two maps that the binary metrics of stage 1 are computed from.

        Args:
            outputs ([`AAVSForAudioVisualSegmentationOutput`]):
                Raw outputs of the model.
            target_sizes (`list[tuple[int, int]]`, *optional*):
                For each frame the height and width of its result. Without it, `label_size` for all.
            return_segmentation_scores (`bool`, *optional*, defaults to `False`):
                Whether to return the scores of the classes alongside the segmentation map.

        Returns:
            `list[torch.Tensor]` or `list[SemanticSegmentationPostProcessorOutput]`: for each frame its segmentation
            map `(height, width)` of class indices (int64), or, with `return_segmentation_scores=True`, an output with
            the fields `segmentation`, that map, and `segmentation_scores` `(labels, height, width)` (float32).
        """
        num_frames = outputs.masks_queries_logits.shape[0]
        if target_sizes is None:
            target_sizes = [(self.label_size.height, self.label_size.width)] * num_frames
        if len(target_sizes) != num_frames:
            raise ValueError(f"target_sizes should hold a size a frame: got {len(target_sizes)} for {num_frames}.")
        mask_size = (self.post_process_size.height, self.post_process_size.width)

        results = []
        # Frame by frame: the scores of 71 classes at 384x384 take 40 MB a frame.
        for class_logits, mask_logits, target_size in zip(
            outputs.class_queries_logits.float(), outputs.masks_queries_logits.float(), target_sizes
        ):
            class_probs = class_logits.softmax(dim=-1)[:, :-1]  # (queries, labels): the last column is "no object"
            mask_probs = resize_bilinear(mask_logits, mask_size).sigmoid()  # (queries, height, width)
            scores = torch.einsum("qc,qhw->chw", class_probs, mask_probs)
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
    Constructs AAVS's image processor on PIL and NumPy, which gives the tensors of the released program bit by bit.
    """
)
class AAVSImageProcessorPil(AAVSImageProcessorMixin, PilBackend):
    pass


__all__ = ["AAVSImageProcessorPil"]
