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
"""Masks of localizers of a wanted quality, made from the true masks.

Table 2 of the Stepping Stones paper (section 4.3) gives stage 2 localization masks of three simulated qualities, named
in `QUALITIES` by their IoU averaged over S4, MS3 and V2. The paper does not say how they were simulated, and the
released program does not hold it. Here `degrade_mask` draws the errors that localizers make: contours that stray,
objects that are overlooked, ghosts where nothing sounds, frames that are missed altogether. A single number drives
them all, the `level`; `calibrate_level` finds the level at which given masks have a wanted mean IoU. It is found for
one subset at a time: when each subset has the wanted IoU, so has their unweighted mean:

```python
levels = {subset: calibrate_level(true_masks(subset), QUALITIES["low"], seed=0) for subset in ("v1s", "v1m", "v2")}
degraded = degrade_mask(mask, levels["v2"], seed=0, video_id="a1b2c3", frame=7)
```

Chance depends on the seed, the video and the frame alone: not on the level, and not on what was drawn before. From
one level to the next the same errors grow. To train on degraded masks, take another seed each epoch.
"""

import hashlib
from collections.abc import Iterable
from math import isfinite

import numpy as np
from scipy.ndimage import binary_erosion, distance_transform_edt, label


# Table 2: mean IoU of the first stage.
QUALITIES = {"low": 0.7710, "high": 0.8365}

# The error model. Radii are those of discs as large as the object; rates are events per unit of level.
CONTOUR_NOISE = 0.25  # standard deviation of the contour's displacement at level 1, in radii of its object
MISS_RATE = 0.15  # per frame, which then loses all objects
DROP_RATE = 0.3  # per object
GHOST_RATE = 0.5  # per frame
GHOST_RADIUS = (0.4, 1.2)  # in radii of the largest object
SILENT_RADIUS = 0.15  # what stands in for that radius where nothing sounds, in square roots of the frame's area
SEVERITY = 0.6  # log-normal sigma of the factor by which some frames suffer more than others
# An object that is dropped fades from its contour inwards, and a ghost grows from its center, while the level rises by
# this share. So the mean IoU has no jumps, and few frames suffice to meet a target.
FADE = 0.5
# The noise is a sum of plane waves: at most so many in twice the longer side, with a Gaussian spectrum of this sigma.
NOISE_WAVES = 12
NOISE_SIGMA = 5.0

# Levels that calibration considers. The step is a power of two, by which floating point numbers divide exactly.
LEVEL_STEP = 1 / 2048
NUM_LEVELS = 4 * 2048 + 1


def degrade_mask(mask: np.ndarray, level: float, seed: int, video_id: str, frame: int) -> np.ndarray:
    """
    A mask as a first stage might predict it, by the error model.

    Args:
        mask (`np.ndarray` of shape `(height, width)`, boolean):
            The true mask of the sounding objects.
        level (`float`):
            How bad: 0 is the true mask itself. The paper's high and low quality lie between 0.1 and 0.5 on photos;
            `calibrate_level` says where on given masks.
        seed (`int`), video_id (`str`), frame (`int`):
            What the errors are drawn from. Frames that differ in one of them are independent.

    Returns:
        `np.ndarray` of shape `(height, width)`, boolean: the degraded mask.

    Raises:
        `ValueError`: if the mask is not a boolean array of two dimensions, or the level is negative or not finite.
    """
    if not (isfinite(level) and level >= 0):
        raise ValueError(f"level should be a finite number of at least 0 (0 is the true mask), got {level}.")
    first, last = _wrong_levels(mask, seed, video_id, frame)
    return mask ^ ((first <= level) & (level < last))


def calibrate_level(
    masks: Iterable[tuple[str, int, np.ndarray]], target_iou: float, seed: int, tolerance: float = 0.002
) -> float:
    """
    The level at which `degrade_mask` gives these masks a wanted mean IoU (`frame_iou`).

    The masks are run through once and need not fit into memory: it is known from which level on each pixel is wrong,
    so that counting pixels gives the mean IoU at all levels from 0 to 4, in steps of 1/2048.

    Args:
        masks (iterable of `(video_id, frame, mask)`):
            The true masks of one subset, as `degrade_mask` takes them.
        target_iou (`float`):
            Mean IoU over all frames, in (0, 1].
        seed (`int`):
            The seed that `degrade_mask` will be called with.
        tolerance (`float`, *optional*, defaults to 0.002):
            How far from the target the mean IoU of these masks may be.

    Returns:
        `float`: the level, exactly 0 for a target of 1.

    Raises:
        `ValueError`: if there are no masks, one of them is no mask, or no level comes within the tolerance.
    """
    _check_target(target_iou)
    total, num_frames = np.zeros(NUM_LEVELS), 0
    for video_id, frame, mask in masks:
        total += _iou_at_all_levels(mask, *_wrong_levels(mask, seed, video_id, frame))
        num_frames += 1
    if num_frames == 0:
        raise ValueError("masks is empty: there is nothing to calibrate the level on.")
    mean_iou = total / num_frames
    best = int(np.argmin(np.abs(mean_iou - target_iou)))
    if abs(mean_iou[best] - target_iou) > tolerance:
        raise ValueError(
            f"No level gives the {num_frames} masks a mean IoU within {tolerance} of target_iou={target_iou}: the"
            f" nearest is {mean_iou[best]:.4f}, the range {mean_iou.min():.4f} to 1. Choose a target in this range, or"
            " raise the tolerance. Silent frames keep a high IoU at any level."
        )
    return best * LEVEL_STEP


def frame_iou(truth: np.ndarray, prediction: np.ndarray) -> float:
    """
    A frame's IoU by AVSBench's binary protocol: that of the foreground, and where the truth is empty, the share of
    pixels that are rightly left out.

    Args:
        truth, prediction (`np.ndarray` of shape `(height, width)`, boolean):
            The true and the predicted mask of the sounding objects.

    Returns:
        `float`: the IoU, in [0, 1].

    Raises:
        `ValueError`: if the two are not boolean arrays of one shape.
    """
    _check_masks(truth, prediction)
    if not truth.any():
        return float(1 - prediction.mean())
    return float((truth & prediction).sum() / (truth | prediction).sum())


class DegradedPrompts:
    """
    Degraded true masks as the prompts of stage 2, the `prompt` of an [`AVSCollator`].

    Args:
        levels (`dict[str, float]` or `float`):
            The level of each subset, from `calibrate_level`; or, to train on, the highest of the levels of which every
            clip draws one.
        seed (`int`):
            See `degrade_mask`; in training another one each epoch.
    """

    def __init__(self, levels: dict[str, float] | float, seed: int):
        self.levels, self.seed = levels, seed

    def __call__(self, clip: dict, truth: np.ndarray) -> list[np.ndarray]:
        """The masks of a clip's annotated frames, boolean like the true ones `(frames, height, width)`."""
        if isinstance(self.levels, dict):
            level = self.levels[clip["subset"]]
        else:
            level = _generator("level", self.seed, clip["video_id"], clip["mask_frame_indices"][0]).uniform(
                0, self.levels
            )
        indices = clip["mask_frame_indices"]
        return [degrade_mask(mask, level, self.seed, clip["video_id"], index) for mask, index in zip(truth, indices)]


def _wrong_levels(mask: np.ndarray, seed: int, video_id: str, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Two (height, width) maps: a pixel of the degraded mask is wrong where first <= level < last."""
    _check_mask(mask, f"The mask of frame {frame} of {video_id!r}")
    height, width = mask.shape
    rng = _generator("errors", seed, video_id, frame)
    severity = rng.lognormal(sigma=SEVERITY)
    miss, ghost = rng.exponential(size=2) / (MISS_RATE, GHOST_RATE) / severity  # the levels at which they set in
    ghost_radius = rng.uniform(*GHOST_RADIUS)
    ghost_center = rng.random(2) * mask.shape
    noise = _smooth_noise(height, width, rng)

    first, last = np.full(mask.shape, np.inf), np.full(mask.shape, np.inf)
    largest_radius = SILENT_RADIUS * np.sqrt(mask.size)
    objects, num_objects = label(mask)
    if num_objects:
        depth, owner = _depth(objects)
        radii = np.sqrt(np.bincount(objects.ravel())[1:] / np.pi)
        largest_radius = radii.max()
        drops = np.minimum(rng.exponential(size=num_objects) / DROP_RATE / severity, miss)
        radius, drop = radii[owner], drops[owner]  # (height, width): those of the pixel's own or nearest object

        displacement = CONTOUR_NOISE * severity * radius * noise
        first = np.abs(depth / displacement)
        first[mask == (displacement > 0)] = np.inf
        fading = drop * (1 + FADE * np.clip(depth / radius, 0, 1))
        first[mask] = np.minimum(first, fading)[mask]
        # What strayed beyond an object's contour goes with its last pixel: a missed object leaves no halo behind.
        gone = np.zeros(num_objects)
        np.maximum.at(gone, owner[mask], first[mask])
        strayed = ~mask & (first < gone[owner])
        first[~mask & ~strayed] = np.inf
        last[strayed] = gone[owner[strayed]]

    y, x = np.ogrid[:height, :width]
    distance = np.hypot(y - ghost_center[0], x - ghost_center[1]) / (ghost_radius * largest_radius)
    distance *= np.exp(0.4 * noise)  # dents the disc
    growing = ghost * (1 + FADE * distance)
    # A pixel is wrong over one range of levels: where the ghost comes after a halo has gone, it leaves the halo out.
    haunted = ~mask & (distance < 1) & (growing <= last)
    first[haunted] = np.minimum(first, growing)[haunted]
    last[haunted] = np.inf
    return first, last


def _depth(objects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Signed distance in pixels to the contour, positive inside, and the index of the pixel's own or nearest object; both
    (height, width). The border of the image is no contour, unless there is no other.
    """
    mask = objects > 0
    edge = mask & ~binary_erosion(mask, border_value=1)
    if not edge.any():
        edge = mask & ~binary_erosion(mask, border_value=0)
    distance, (rows, columns) = distance_transform_edt(~edge, return_indices=True)
    # The contour runs half a pixel beyond the centers of the object's outermost pixels.
    return np.where(mask, 0.5 + distance, 0.5 - distance), objects[rows, columns] - 1


def _smooth_noise(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width) Gaussian random field of unit variance, the same at every resolution."""
    wave_numbers = np.arange(NOISE_WAVES + 1)
    amplitude = np.exp(-((wave_numbers / NOISE_SIGMA) ** 2) / 2)
    amplitude = np.tile(amplitude / np.linalg.norm(amplitude), 2)  # of cosines and of sines

    def waves(size: int) -> np.ndarray:  # (size, 2 * (NOISE_WAVES + 1))
        angle = np.pi * np.outer((np.arange(size) + 0.5) / max(height, width), wave_numbers)
        return np.concatenate([np.cos(angle), np.sin(angle)], axis=1) * amplitude

    coefficients = rng.standard_normal((len(amplitude), len(amplitude)))
    return waves(height) @ coefficients @ waves(width).T


def _iou_at_all_levels(mask: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """(NUM_LEVELS,) IoU of the degraded mask."""

    def count(levels: np.ndarray) -> np.ndarray:  # how many of them each level has reached
        steps = np.ceil(np.minimum(levels / LEVEL_STEP, NUM_LEVELS)).astype(np.int64)
        return np.cumsum(np.bincount(steps, minlength=NUM_LEVELS)[:NUM_LEVELS])

    missed = count(first[mask])
    false = count(first[~mask]) - count(last[~mask])
    if not mask.any():
        return 1 - false / mask.size
    foreground = np.count_nonzero(mask)
    return (foreground - missed) / (foreground + false)


def _generator(purpose: str, seed: int, video_id: str, frame: int) -> np.random.Generator:
    # Python's own hash differs from process to process.
    digest = hashlib.sha256(f"{purpose}/{seed}/{frame}/{video_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest))


def _check_mask(mask: np.ndarray, name: str) -> None:
    if not (isinstance(mask, np.ndarray) and mask.dtype == bool and mask.ndim == 2 and mask.size):
        got = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise ValueError(f"{name} should be a boolean array (height, width), got {got}. Of a label map, pass map > 0.")


def _check_masks(truth: np.ndarray, prediction: np.ndarray) -> None:
    _check_mask(truth, "truth")
    _check_mask(prediction, "prediction")
    if truth.shape != prediction.shape:
        raise ValueError(f"prediction should have the shape of truth, {truth.shape}, got {prediction.shape}.")


def _check_target(target_iou: float) -> None:
    if not 0 < target_iou <= 1:
        raise ValueError(f"target_iou should be in (0, 1], got {target_iou}.")


__all__ = [
    "QUALITIES",
    "DegradedPrompts",
    "calibrate_level",
    "degrade_mask",
    "frame_iou",
]
