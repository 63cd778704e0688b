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
"""Augmentation of training clips: their frames, what is annotated of them and the masks that prompt, all alike."""

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance


# What frames are filled up with where a window reaches beyond them: ImageNet's mean color.
FILL_COLOR = (124, 116, 104)
ENHANCERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)


@dataclass
class Augmentation:
    """
    Random changes of training clips, one draw for all frames of a clip; the `transform` of an [`AVSCollator`]. What is
    drawn for a clip follows from the seed and the clip's name, whichever process it is drawn in.

    Args:
        size (`tuple[int, int]`):
            Height and width of the frames as the model sees them.
        flip (`float`, *optional*, defaults to 0.0):
            Probability that a clip is mirrored.
        scale (`tuple[float, float]`, *optional*):
            Between which factors a clip is scaled after it has been fitted into `size`. It keeps its aspect. Without
            `crop` the processor brings it to its size afterwards, so that a small factor blurs and changes no
            geometry: the scale jitter of EoMT and EASE.
        crop (`bool`, *optional*, defaults to `False`):
            Whether a window of `size` is cut out of it, at a random position. Where the window reaches beyond the
            frame nothing prompts and nothing is supervised; maps of the published colors have background there.
        color (`float`, *optional*, defaults to 0.0):
            By how much brightness, contrast and saturation change at most: from 1 - color to 1 + color.
        seed (`int`, *optional*, defaults to 0):
            What the draws follow from; another one each epoch.

    Raises:
        `ValueError`: a probability or a factor is not what it can be.
    """

    size: tuple[int, int]
    flip: float = 0.0
    scale: tuple[float, float] | None = None
    crop: bool = False
    color: float = 0.0
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.flip <= 1 or not 0 <= self.color < 1:
            raise ValueError(f"flip={self.flip} should be from 0 to 1, and color={self.color} from 0 to less than 1.")
        if self.scale is not None and not (len(self.scale) == 2 and 0 < self.scale[0] <= self.scale[1]):
            raise ValueError(f"scale={self.scale} should be two positive factors, the smaller one first.")

    def draw(self, clip: dict, frame_size: tuple[int, int]) -> "DrawnAugmentation":
        """
        What becomes of a clip.

        Args:
            clip (`dict`):
                Row of the dataset, of which the name is read and which frame is annotated first.
            frame_size (`tuple[int, int]`):
                Height and width of its frames.
        """
        name = (self.seed, clip["subset"], clip["video_id"], clip["mask_frame_indices"][0])
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(repr(name).encode()).digest()[:8]))
        # All is drawn always, so that one option does not change what another one does.
        flip, scale, *position = rng.random(4)
        colors = rng.uniform(1 - self.color, 1 + self.color, size=len(ENHANCERS))
        if self.scale is not None:
            low, high = self.scale
            fit = min(side / frame_side for side, frame_side in zip(self.size, frame_size))
            factor = fit * (low + (high - low) * scale)
            frame_size = tuple(max(1, int(side * factor)) for side in frame_size)
        corner = None
        if self.crop:
            rooms = (max(0, frame_side - side) for frame_side, side in zip(frame_size, self.size))
            corner = tuple(int(place * (room + 1)) for place, room in zip(position, rooms))
        return DrawnAugmentation(
            flip=flip < self.flip,
            # Prompts have a size of their own, which they keep if they can.
            frame_size=frame_size if self.scale is not None or self.crop else None,
            corner=corner,
            window_size=tuple(self.size),
            colors=tuple(colors) if self.color else None,
        )


@dataclass(frozen=True)
class DrawnAugmentation:
    """What becomes of one clip: see [`Augmentation`]."""

    flip: bool
    frame_size: tuple[int, int] | None
    corner: tuple[int, int] | None
    window_size: tuple[int, int]
    colors: tuple[float, ...] | None

    def change_frame(self, frame: Image.Image) -> Image.Image:
        """A frame, mode RGB."""
        frame = self._change(frame, Image.Resampling.BILINEAR, FILL_COLOR)
        for enhancer, factor in zip(ENHANCERS, self.colors or ()):
            frame = enhancer(frame).enhance(factor)
        return frame

    def change_map(self, segmentation_map: np.ndarray | Image.Image, ignore_index: int) -> np.ndarray | Image.Image:
        """A map of class indices, or one of the published colors, in which what is beyond the frame is background."""
        if isinstance(segmentation_map, Image.Image):
            return self._change(segmentation_map, Image.Resampling.NEAREST, (0, 0, 0))
        image = Image.fromarray(segmentation_map.astype(np.uint8))
        return np.asarray(self._change(image, Image.Resampling.NEAREST, ignore_index))

    def change_prompt(self, prompt: np.ndarray) -> np.ndarray:
        """A mask of what sounds `(height, width)` of any size, uint8."""
        return np.asarray(self._change(Image.fromarray(prompt), Image.Resampling.BILINEAR, 0))

    def _change(self, image: Image.Image, resample: Image.Resampling, fill: int | tuple[int, ...]) -> Image.Image:
        if self.frame_size is not None and image.size != self.frame_size[::-1]:
            image = image.resize(self.frame_size[::-1], resample)
        if self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.corner is not None:
            top, left = self.corner
            window = Image.new(image.mode, self.window_size[::-1], fill)
            window.paste(image, (-left, -top))
            image = window
        return image


__all__ = ["Augmentation", "DrawnAugmentation"]
