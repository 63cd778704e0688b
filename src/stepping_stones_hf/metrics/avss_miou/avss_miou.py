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
"""The mean IoU and F-scores of audio-visual segmentation, by every protocol in use.

Two families of protocols are published under the same names, "mIoU" and "F-score":

- The AVSBench protocol (Zhou et al., "Audio-Visual Segmentation", ECCV 2022; "Audio-Visual Segmentation with
  Semantics", arXiv 2301.13190) scores each frame and averages over frames.
- The CAVP protocol (Chen et al., "Unraveling Instance Associations", CVPR 2024), marked with a star, accumulates one
  confusion matrix over the whole set.

Both are functions of a few counts per frame. `semantic_statistics` and `binary_statistics` make these counts,
`semantic_results` and `binary_results` turn the counts of a test set into the results. `FrameCounts` keeps the counts
of frames by name, and `AvssMiou` is the `evaluate.Metric` around it. The file needs numpy and evaluate (with its own
dependency datasets) and nothing else.

`robustness_results` asks whether a model listens, by the protocol of AVSBench-Robust (Li et al., arXiv 2502.00358,
AAAI 2026): what does it mark when another sound is played to it than that of the clip?

The programs add a tiny number to denominators, too small for their float32 to see. Here there is none.
"""

import copy
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from typing import Any

import datasets
import evaluate
import numpy as np


__all__ = [
    "AvssMiou",
    "FrameCounts",
    "binary_results",
    "binary_statistics",
    "g_score",
    "robustness_results",
    "semantic_results",
    "semantic_statistics",
]

BETA_SQUARED = 0.3
# The CAVP program turns this label into an ignored one, whatever the number of classes is.
CAVP_IGNORE_LABEL = 255
# Joint codes of a label (negative, or 0 to 256) and a class fit in 16 bits up to here.
MAX_CLASSES = 254
BOOTSTRAP_RESAMPLES = 1000

# torch.linspace(0, 1 - 1e-10, 255) in float32 as processors with a fused multiply-add compute it: k steps up from 0
# in the lower half, down from 1 in the upper, each rounded once. 1 - 1e-10 is 1 in float32.
NUM_THRESHOLDS = 255
_STEP = float(np.float32(1 / 254))
_RANKS = np.arange(NUM_THRESHOLDS)
THRESHOLDS = np.where(_RANKS < 127, _RANKS * _STEP, 1 - (254 - _RANKS) * _STEP).astype(np.float32)

REDUCTION_OPTIONS = {
    "semantic": {"num_classes": 71, "ignore_index": None},
    "binary": {"score_rule": "probability", "mask_threshold": 0.5},
}
SUMMARY_OPTIONS = {
    "semantic": {"pad_to": None, "confidence": None, "resamples": False},
    "binary": {
        "videos_per_batch": 1,
        "negative_videos_per_batch": None,
        "confidence": None,
        "resamples": False,
    },
}
SCORE_RULES = ("probability", "logit", "two_channel")
# The sounds that are none of the clip: to each of them nothing should be marked.
NEGATIVES = ("silence", "noise", "offscreen")
SOUNDS = ("own", *NEGATIVES)
GAP_CONFIDENCE = 0.95
# What each of several processes writes last, in place of a frame.
END_MARK = b"end"

_DESCRIPTION = """\
Audio-visual (semantic) segmentation scores by every published protocol at once: mIoU and F-score averaged over frames
(AVSBench and its followers) and accumulated over the data set (CAVP, marked with a star), with and without background,
per class, for label maps ("semantic") and for foreground scores ("binary").
"""

_CITATION = """\
@inproceedings{zhou2022avs,
  title={Audio-Visual Segmentation},
  author={Zhou, Jinxing and Wang, Jianyuan and Zhang, Jiayi and Sun, Weixuan and Zhang, Jing and others},
  booktitle={European Conference on Computer Vision},
  year={2022}
}
@inproceedings{chen2024unraveling,
  title={Unraveling Instance Associations: A Closer Look for Audio-Visual Segmentation},
  author={Chen, Yuanhong and Liu, Yuyuan and Wang, Hu and Liu, Fengbei and Wang, Chong and others},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year={2024}
}
@article{li2025robust,
  title={Do Audio-Visual Segmentation Models Truly Segment Sounding Objects?},
  author={Li, Jia and Zhao, Wenjie and Huang, Ziru and Guo, Yunhui and Tian, Yapeng},
  journal={arXiv preprint arXiv:2502.00358},
  year={2025}
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions (array, tensor, or list of `(H, W)` arrays, tensors, nested lists or PIL images):
        "semantic": label maps `(n, H, W)` of integers in [0, num_classes).
        "binary": floating-point scores, `(n, H, W)` under the rules "probability" and "logit", `(n, 2, H, W)`
        (background, foreground) under "two_channel".
    references (as `predictions`):
        "semantic": label maps `(n, H, W)` of integers; labels outside [0, num_classes) are treated as each protocol's
        program treats them. "binary": masks `(n, H, W)` of 0 and 1.
    video_ids (`str` or `int`, or a list with one per frame, or, beside `num_frames`, one per clip, *optional*):
        The video of each frame. Absent, a call is one video.
    num_frames (`list[int]`, *optional*):
        The lengths of the clips of which the call consists: each one whole, its frames in order.
    frame_ids (`int` or `list[int]`, *optional*):
        The place of each frame in its video. It makes a frame known wherever and however often it arrives.
    sound (`str`, defaults to "own"): of `add` and `add_batch`. What was heard: the clip's "own" sound, "silence",
        "noise" or "offscreen", the sound of another clip. References are always those of the own sound.
Options of `evaluate.load`, or of a `compute` that brings the data:
    num_classes (`int`, defaults to 71), ignore_index (`int`, *optional*): for "semantic".
    score_rule (`str`, defaults to "probability"), mask_threshold (`float`, defaults to 0.5): for "binary".
Options of `compute`:
    pad_to (`int`, *optional*): for "semantic"; videos with fewer frames get perfect background frames up to this
        number in the frame-averaged scores, as the AVSBench and AVSegFormer programs pad 5-frame clips to 10.
    videos_per_batch (`int`, defaults to 1): for "binary"; how many videos share one threshold in `fscore`.
    negative_videos_per_batch (`int`, *optional*): for "binary"; the same for the other sounds, where it differs.
    confidence (`float`, *optional*): adds `confidence_intervals` of this level, by a bootstrap over videos.
    resamples (`bool`, defaults to `False`): adds `resamples`, the scores of each resample of that bootstrap. The same
        videos are resampled alike, so that the differences of two systems' scores are paired.
Returns:
    `dict`: the results with the own sound, and, where there were other ones, `robustness`; the metric card explains
    every key. `None` on every process but the first.
"""


def semantic_statistics(
    prediction: np.ndarray, reference: np.ndarray, num_classes: int = 71, ignore_index: int | None = None
) -> np.ndarray:
    """Everything that the semantic protocols need of one frame.

    Args:
        prediction (`np.ndarray` of shape `(H, W)`): predicted labels in [0, num_classes).
        reference (`np.ndarray` of shape `(H, W)`): true labels.
        num_classes (`int`, *optional*, defaults to 71): number of classes, background (0) included; at most 254.
        ignore_index (`int`, *optional*): a label whose pixels no protocol counts, beside the negative ones.

    Returns:
        `np.ndarray` of `uint32`: the number of reference pixels outside [0, num_classes), then for each class that
        occurs six numbers: the class; pixels where prediction and reference are this class; pixels of this class in
        the reference; and pixels predicted as this class where the reference is a class, is 255, is another label
        beyond the classes.

    Raises:
        `ValueError`: shapes that differ, dtypes that hold no integers, a prediction outside [0, num_classes).
    """
    _check_shapes(prediction, reference, reference.shape)
    # The bytes of a bool array may hold other values than 0 and 1: Pillow's mode "1" has 255.
    prediction, reference = (maps.astype(np.uint8) if maps.dtype == bool else maps for maps in (prediction, reference))
    for name, labels in (("predictions", prediction), ("references", reference)):
        if labels.dtype.kind not in "ui":
            raise ValueError(f"{name} must be label maps of an integer dtype, found {labels.dtype}")
    if prediction.min() < 0 or prediction.max() >= num_classes:
        outside = prediction[(prediction < 0) | (prediction >= num_classes)]
        raise ValueError(
            f"predictions must lie in [0, {num_classes}), found {outside[0]}; {outside.size} of {prediction.size} "
            "pixels are outside. Pass num_classes if the model has another number of classes"
        )

    # Row 0 of the joint histogram is for negative labels: -1 is 65535 here, and as a code wraps to its place. The rows
    # after it are for labels 0 to 255, the last for all others.
    limits = np.iinfo(reference.dtype)
    labels = np.clip(reference, max(limits.min, -1), min(limits.max, 256)).astype(np.uint16)
    codes = (labels * num_classes + (prediction.astype(np.uint16) + num_classes)).ravel()
    # Most pixels are background in both maps: counted apart, they cost little.
    others = codes[codes != num_classes]
    joint = np.bincount(others, minlength=258 * num_classes).reshape(258, num_classes)
    joint[1, 0] = codes.size - others.size

    out_of_range = joint[0].sum() + joint[num_classes + 1 :].sum()
    if ignore_index is not None and ignore_index >= 0:
        joint[ignore_index + 1] = 0
    known, on_255 = joint[1 : num_classes + 1], joint[CAVP_IGNORE_LABEL + 1]
    beyond = joint[num_classes + 1 :].sum(axis=0) - on_255
    columns = [np.arange(num_classes), known.diagonal(), known.sum(axis=1), known.sum(axis=0), on_255, beyond]
    counts = np.stack(columns, axis=1)
    counts = counts[counts[:, 1:].any(axis=1)]
    return np.append(out_of_range, counts).astype(np.uint32)


@np.errstate(over="ignore")  # scores beyond float32 are refused; exp(-x) is infinite where the sigmoid is 0
def binary_statistics(
    scores: np.ndarray, reference: np.ndarray, score_rule: str = "probability", mask_threshold: float = 0.5
) -> np.ndarray:
    """Everything that the binary protocols need of one frame.

    Args:
        scores (`np.ndarray` of shape `(H, W)`, or `(2, H, W)` under "two_channel"): scores of any float dtype; they
            are compared in float32, as the programs do.
        reference (`np.ndarray` of shape `(H, W)`): the true mask, 0 and 1.
        score_rule (`str`, *optional*, defaults to `"probability"`): what the scores are. `"probability"`: the score
            map itself, in [0, 1]. `"logit"`: its logit. `"two_channel"`: the rule of Stepping Stones for a background
            and a foreground score: the mask is where the foreground is larger, the score map sigmoid(2 fg - bg).
        mask_threshold (`float`, *optional*, defaults to 0.5): the mask is where the score map exceeds it.

    Returns:
        `np.ndarray` of `uint32`, 514 numbers: pixels of the frame, of the reference, of the predicted mask, of both;
        and for each of the 255 thresholds the pixels that reach it, then those of the reference that reach it.

    Raises:
        `ValueError`: shapes that differ, scores that are not floating-point, NaN, infinite or (as probabilities)
        outside [0, 1], a reference with other values than 0 and 1.
    """
    _check_shapes(scores, reference, (2, *reference.shape) if score_rule == "two_channel" else reference.shape)
    if scores.dtype.kind != "f":
        raise ValueError(f"predictions must be scores of a floating-point dtype, found {scores.dtype}")
    scores = scores.astype(np.float32, copy=False)
    low, high = scores.min(), scores.max()
    if not np.isfinite([low, high]).all():
        count = (~np.isfinite(scores)).sum()
        raise ValueError(f"scores must be finite in float32, found NaN or infinity in {count} of them")
    if score_rule == "probability" and (low < 0 or high > 1):
        raise ValueError(
            f'scores must lie in [0, 1] under score_rule="probability", found {low if low < 0 else high}. '
            f"The other rules are {SCORE_RULES[1:]}"
        )
    target = reference == 1
    if not (target | (reference == 0)).all():
        raise ValueError(
            f"references must be masks of 0 and 1, found {reference[~target & (reference != 0)][0]}. Pass "
            "references > 0 if all other values are foreground"
        )

    if score_rule == "two_channel":
        background, foreground = scores
        mask = foreground > background
        score_map = _sigmoid(2 * foreground - background)
    else:
        score_map = _sigmoid(scores) if score_rule == "logit" else scores
        mask = score_map > np.float32(mask_threshold)

    # The factor is a little above 254, so that the first guess is never below the highest threshold that a score
    # reaches, and one comparison with the threshold itself makes it exact.
    rank = (score_map.astype(np.float64) * 254.0001).astype(np.uint8)
    rank -= (score_map < THRESHOLDS.take(rank)).view(np.uint8)
    codes = (target * np.uint16(256) + rank).ravel()
    histograms = np.bincount(codes, minlength=512).reshape(2, 256)[:, :NUM_THRESHOLDS]
    outside, hits = histograms[:, ::-1].cumsum(axis=1)[:, ::-1]
    areas = [target.size, np.count_nonzero(target), np.count_nonzero(mask), np.count_nonzero(mask & target)]
    return np.concatenate([areas, outside + hits, hits]).astype(np.uint32)


def _check_shapes(prediction: np.ndarray, reference: np.ndarray, expected: tuple[int, ...]) -> None:
    if reference.ndim != 2 or reference.size == 0:
        raise ValueError(f"a reference must be of shape (height, width), both positive, found {reference.shape}")
    if prediction.shape != expected:
        raise ValueError(
            f"the prediction for a reference of shape {reference.shape} must be of shape {expected}, found "
            f"{prediction.shape}"
        )


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


def semantic_results(
    statistics: list[np.ndarray],
    videos: np.ndarray,
    num_classes: int = 71,
    pad_to: int | None = None,
    confidence: float | None = None,
    resamples: bool = False,
) -> dict:
    """The results of the semantic protocols.

    Args:
        statistics (`list[np.ndarray]`): the `semantic_statistics` of every frame, those of a video together.
        videos (`np.ndarray` of shape `(frames,)`): the number of the video of each frame, counted from 0.
        num_classes, pad_to, confidence, resamples: as in [`AvssMiou`].

    Returns:
        `dict`: floats, counts, and lists with an entry for each class.
    """
    frame_of_count, counts = _class_counts(statistics)
    video_of_count = videos[frame_of_count]
    classes, overlap, labeled, predicted, predicted_on_255, predicted_beyond = counts

    # AVSBench: every pixel that is not ignored counts as a prediction, also where its label is none of the classes.
    area = predicted + predicted_on_255 + predicted_beyond
    iou = overlap / (labeled + area - overlap)
    fscore = (1 + BETA_SQUARED) * overlap / (BETA_SQUARED * labeled + area)
    columns = [np.ones_like(iou), iou, fscore, overlap, labeled, predicted, predicted_beyond]

    def per_frame(pixels: np.ndarray) -> np.ndarray:
        return np.bincount(frame_of_count, weights=pixels, minlength=len(statistics))

    scored, sounds = per_frame(area), per_frame(labeled * (classes > 0))
    silent = (scored > 0) & (sounds == 0)  # a frame of which every pixel is ignored is neither
    marked = per_frame(area * (classes > 0))[silent] / scored[silent]

    padding = np.zeros(videos.max() + 1)
    if pad_to is not None:
        padding = np.maximum(pad_to - np.bincount(videos), 0)

    def totals(groups: np.ndarray, padding: np.ndarray) -> np.ndarray:  # (groups, num_classes, 7)
        bins = groups * num_classes + classes
        sums = [np.bincount(bins, weights=column, minlength=padding.size * num_classes) for column in columns]
        sums = np.stack(sums, axis=1, dtype=float).reshape(padding.size, num_classes, -1)
        sums[:, 0, :3] += padding[:, None]  # a padded frame: background, predicted perfectly
        return sums

    overall = totals(np.zeros_like(video_of_count), padding.sum(keepdims=True))[0]
    per_class = _semantic_class_scores(overall)
    results = {
        **_semantic_means(per_class),
        "pixel_accuracy": _pixel_accuracy(*overall[:, 3:].T),
        "per_class": _per_class_results(per_class, *overall[:, 3:6].T),
        "frames_per_class": overall[:, 0].astype(np.int64).tolist(),
        "silent_frames": _silent_frames(marked),
        "num_frames": len(statistics),
        "num_videos": padding.size,
        "out_of_range_pixels": sum(int(frame[0]) for frame in statistics),
    }
    if confidence is not None or resamples:
        per_video = totals(video_of_count, padding).reshape(padding.size, -1)

        def resampled_scores(drawn: np.ndarray) -> dict:
            weights = np.bincount(drawn, minlength=padding.size).astype(float)
            resampled = (weights @ per_video).reshape(num_classes, -1)
            class_scores = _fill(_semantic_class_scores(resampled), per_class)
            return _semantic_means(class_scores) | {"pixel_accuracy": _pixel_accuracy(*resampled[:, 3:].T)}

        results |= _bootstrap(resampled_scores, padding.size, confidence, resamples)
    return results


def _class_counts(statistics: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The number of the frame, and the six numbers of each class in it, `(6, classes in frames)`."""
    counts = np.concatenate([frame[1:].reshape(-1, 6) for frame in statistics])
    return np.repeat(np.arange(len(statistics)), [frame.size // 6 for frame in statistics]), counts.T


def _semantic_class_scores(totals: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of each class, NaN where it has none, from sums over frames of shape `(num_classes, 7)`."""
    frames, iou_sum, fscore_sum, *pixels = totals.T
    # A class counts in the frames in which it is predicted or true.
    iou = _ratio(iou_sum, frames)
    seen = np.where(pixels[1] > 0, iou, np.nan)
    return {"iou": iou, "fscore": _ratio(fscore_sum, frames), "iou_seen": seen, **_star_class_scores(*pixels)}


def _semantic_means(scores: dict[str, np.ndarray]) -> dict[str, float]:
    iou, fscore = np.nan_to_num(scores["iou"]), np.nan_to_num(scores["fscore"])  # a class that never counts scores 0
    return {
        "miou": float(iou.mean()),
        "fscore": float(fscore.mean()),
        "miou_no_background": float(iou[1:].mean()),
        "fscore_no_background": float(fscore[1:].mean()),
        "miou_without_last_class": float(iou[:-1].mean()),
        "fscore_without_last_class": float(fscore[:-1].mean()),
        "miou_seen": _mean(scores["iou_seen"]),
        **_star_means(scores),
    }


def _star_class_scores(
    overlap: np.ndarray, labeled: np.ndarray, predicted: np.ndarray, predicted_beyond: np.ndarray
) -> dict[str, np.ndarray]:
    """The CAVP scores of each class, NaN where it has none, from its pixels in the whole set."""
    # Only the union counts predictions on labels beyond the classes (255 apart): precision and FDR leave them out.
    iou = _ratio(overlap, labeled + predicted + predicted_beyond - overlap)
    false_positives = predicted - overlap
    false_negatives = labeled - overlap
    weighted_overlap = (1 + BETA_SQUARED) * overlap
    return {
        "iou_star": iou,
        "iou_star_seen": np.where(labeled > 0, iou, np.nan),
        "fscore_star": _ratio(weighted_overlap, weighted_overlap + BETA_SQUARED * false_negatives + false_positives),
        "f1_star": _ratio(2 * overlap, 2 * overlap + false_negatives + false_positives),
        "fdr_star": _ratio(false_positives, predicted),
    }


def _star_means(scores: dict[str, np.ndarray]) -> dict[str, float]:
    return {
        "miou_star": float(np.nan_to_num(scores["iou_star"]).mean()),
        "miou_star_seen": _mean(scores["iou_star_seen"]),
        "miou_star_present": _mean(scores["iou_star"]),
        **{name: _mean(scores[name]) for name in ("fscore_star", "f1_star", "fdr_star")},
    }


def _pixel_accuracy(
    overlap: np.ndarray, labeled: np.ndarray, predicted: np.ndarray, predicted_beyond: np.ndarray
) -> float:
    return float(_ratio(overlap.sum(), labeled.sum() + predicted_beyond.sum()))


def _per_class_results(
    scores: dict[str, np.ndarray], overlap: np.ndarray, labeled: np.ndarray, predicted: np.ndarray
) -> dict[str, list]:
    arrays = {
        **{name: np.nan_to_num(scores[name]) for name in ("iou", "fscore", "iou_star") if name in scores},
        **{name: scores[name] for name in ("fscore_star", "fdr_star")},
        "true_positives": overlap.astype(np.int64),
        "false_positives": (predicted - overlap).astype(np.int64),
        "false_negatives": (labeled - overlap).astype(np.int64),
    }
    return {name: values.tolist() for name, values in arrays.items()}


def _silent_frames(marked: np.ndarray) -> dict[str, float]:
    """Of frames in which nothing sounds, given the share of each that is marked."""
    return {"count": len(marked), "correct_silence_rate": _mean(marked == 0), "false_alarm_area": _mean(marked)}


def binary_results(
    statistics: list[np.ndarray],
    videos: np.ndarray,
    videos_per_batch: int = 1,
    confidence: float | None = None,
    resamples: bool = False,
) -> dict:
    """The results of the binary protocols.

    Args:
        statistics (`list[np.ndarray]`): the `binary_statistics` of every frame, those of a video together.
        videos (`np.ndarray` of shape `(frames,)`): the number of the video of each frame, counted from 0.
        videos_per_batch, confidence, resamples: as in [`AvssMiou`].

    Returns:
        `dict`: floats, counts, and lists with an entry for each class, or for each batch.
    """
    frames = np.stack(statistics)
    sums = np.stack([_video_sums(video) for video in np.split(frames, np.flatnonzero(np.diff(videos)) + 1)])
    means, thresholds = _binary_means(sums, videos_per_batch)
    pixels = _binary_pixels(sums)
    per_class = _star_class_scores(*pixels)
    size, area, mask_area, _ = frames[:, :4].T
    silent = area == 0
    results = {
        **means,
        **_star_means(per_class),
        "pixel_accuracy": _pixel_accuracy(*pixels),
        "per_class": _per_class_results(per_class, *pixels[:3]),
        "threshold_at_max": thresholds.tolist(),
        "silent_frames": _silent_frames(mask_area[silent] / size[silent]),
        "num_frames": len(frames),
        "num_videos": len(sums),
    }
    if confidence is not None or resamples:

        def resampled_scores(drawn: np.ndarray) -> dict:
            pixels = _binary_pixels(sums[drawn])
            star = _star_means(_fill(_star_class_scores(*pixels), per_class))
            means, _ = _binary_means(sums[drawn], videos_per_batch)
            return means | star | {"pixel_accuracy": _pixel_accuracy(*pixels)}

        results |= _bootstrap(resampled_scores, len(sums), confidence, resamples)
    return results


def _video_sums(frames: np.ndarray) -> np.ndarray:
    """Sums over the frames `(n, 514)` of one video: seven numbers, then the curve of F over the thresholds."""
    frames = frames.astype(np.int64)
    size, area, mask_area, overlap = frames[:, :4].T
    sounding = area > 0
    # A frame in which nothing sounds scores the fraction that is left unmarked.
    iou = np.where(sounding, overlap / np.maximum(mask_area + area - overlap, 1), 1 - mask_area / size)
    reached, hits = frames[sounding, 4:].reshape(-1, 2, NUM_THRESHOLDS).transpose(1, 0, 2)
    curves = (1 + BETA_SQUARED) * hits / (BETA_SQUARED * area[sounding, None] + reached)
    counts = [len(frames), sounding.sum(), iou.sum(), size.sum(), area.sum(), mask_area.sum(), overlap.sum()]
    return np.concatenate([counts, curves.sum(axis=0)])


def _binary_means(sums: np.ndarray, videos_per_batch: int) -> tuple[dict[str, float], np.ndarray]:
    """The AVSBench scores and the threshold of each batch, from sums per video `(videos, 7 + 255)`."""
    batches = np.add.reduceat(sums, np.arange(0, len(sums), videos_per_batch), axis=0)
    frames, sounding, iou_sum = batches[:, :3].T
    # One threshold for all frames of a batch; a batch in which nothing sounds scores F = 0 and counts.
    curves = _ratio(batches[:, 7:], sounding[:, None], otherwise=0.0)
    thresholds = np.where(sounding > 0, THRESHOLDS[curves.argmax(axis=1)], np.nan)
    return {"miou": float((iou_sum / frames).mean()), "fscore": float(curves.max(axis=1).mean())}, thresholds


def _binary_pixels(sums: np.ndarray) -> np.ndarray:
    """Overlap, labeled, predicted pixels and a row of zeros, of shape `(4, 2)`: background, foreground."""
    size, area, mask_area, overlap = sums[:, 3:7].sum(axis=0)
    background = [size - area - mask_area + overlap, size - area, size - mask_area, 0]
    return np.stack([background, [overlap, area, mask_area, 0]], axis=1)


def _fill(resampled: dict[str, np.ndarray], overall: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A class that has no score in a resample keeps its own: else the means would be over other classes."""
    return {name: np.where(np.isnan(scores), overall[name], scores) for name, scores in resampled.items()}


def _bootstrap(
    resampled_scores: Callable[[np.ndarray], dict], num_videos: int, confidence: float | None, resamples: bool
) -> dict[str, dict]:
    """What is asked for of resamples of the videos; `resampled_scores` maps indices of videos to scores."""
    draws = _resample(resampled_scores, num_videos)
    scores = {name: np.array([draw[name] for draw in draws]) for name in draws[0]}
    results = {}
    if confidence is not None:
        results["confidence_intervals"] = {name: _interval(values, confidence) for name, values in scores.items()}
    if resamples:
        results["resamples"] = {name: values.tolist() for name, values in scores.items()}
    return results


def _resample(score: Callable[[np.ndarray], Any], num_videos: int) -> list:
    """What a function makes of the indices of the videos of each resample, always the same ones."""
    generator = np.random.default_rng(0)
    return [score(generator.integers(num_videos, size=num_videos)) for _ in range(BOOTSTRAP_RESAMPLES)]


def _interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """The percentile interval."""
    values = values[~np.isnan(values)]  # a resample of ignored pixels alone has no accuracy
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    return tuple(np.quantile(values, tails).tolist()) if values.size else (np.nan, np.nan)


def _ratio(numerator: np.ndarray, denominator: np.ndarray, otherwise: float = np.nan) -> np.ndarray:
    """The quotient where there is one."""
    defined = np.broadcast_to(denominator > 0, np.shape(numerator))
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), otherwise), where=defined)


def _mean(values: np.ndarray) -> float:
    """The mean of the values that are defined, NaN if none is."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


class FrameCounts:
    """The counts of frames by name, from which the results follow: 2 KB for scores, 24 bytes a class for label maps.

    The last part of a name is the place of the frame in its video, those before it are the video's name. A frame that
    is added again, as a distributed sampler repeats samples, counts once.

    Args:
        config_name (`str`, *optional*, defaults to `"semantic"`): `"semantic"` for label maps, `"binary"` for scores.
        options: those of `semantic_statistics` or of `binary_statistics`.

    Raises:
        `ValueError`: there is no such configuration or option, or an option has a bad value.
    """

    def __init__(self, config_name: str = "semantic", **options):
        if config_name not in REDUCTION_OPTIONS:
            raise ValueError(f"the configurations are {list(REDUCTION_OPTIONS)}, found {config_name!r}")
        self.config_name, self.options = config_name, _check_options(options, REDUCTION_OPTIONS[config_name])
        self.frames: dict[tuple, tuple[int, bytes]] = {}  # by name the checksum of the reference, and the counts

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def videos(self) -> set[tuple]:
        """The names of the videos."""
        return {name[:-1] for name in self.frames}

    def add(self, names: Iterable[tuple], predictions: Iterable, references: Iterable) -> None:
        """Adds frames, given what `semantic_statistics` or `binary_statistics` takes of each.

        Raises:
            `ValueError`: a frame is bad, or known by its name with another reference.
        """
        self.extend(self.reduce(names, predictions, references))

    def reduce(self, names: Iterable[tuple], predictions: Iterable, references: Iterable) -> list[tuple]:
        """Frames as `extend` takes them, here or in another process."""
        reduce = semantic_statistics if self.config_name == "semantic" else binary_statistics
        reduced = []
        for index, (name, prediction, reference) in enumerate(zip(names, predictions, references, strict=True)):
            try:
                counts = reduce(prediction, reference, **self.options).tobytes()
            except ValueError as error:
                raise ValueError(f"frame {index} of the call ({_describe(name)}): {error}") from None
            # The same for every dtype; begun with the width, so that the shape counts too.
            checksum = zlib.crc32(reference.astype(np.uint8, order="C"), reference.shape[1])
            reduced.append((name, (checksum, counts)))
        return reduced

    def extend(self, reduced: Iterable[tuple]) -> None:
        """Adds reduced frames, such as the items of another one's `frames`."""
        for name, frame in reduced:
            kept = self.frames.setdefault(name, frame)
            if kept[0] != frame[0]:
                raise ValueError(
                    f"two frames with different references are both {_describe(name)}. Give frame_ids, or, where "
                    "every call holds whole clips, num_frames"
                )
            self.frames[name] = min(kept, frame)  # the same one in whatever order they come

    def select(self, videos: Iterable[tuple]) -> "FrameCounts":
        """The frames of some videos."""
        videos, selected = set(videos), copy.copy(self)
        selected.frames = {name: frame for name, frame in self.frames.items() if name[:-1] in videos}
        return selected

    def ordered(self) -> tuple[list[np.ndarray], np.ndarray]:
        """The counts of all frames, and the number of the video of each, counted from 0.

        Raises:
            `ValueError`: there are no frames.
        """
        if not self.frames:
            raise ValueError("there are no frames")
        # Sums of floats depend on their order: the same frames get the same one, whichever way they came.
        names = sorted(self.frames)
        videos = np.cumsum([0, *(name[:-1] != last[:-1] for last, name in zip(names, names[1:]))])
        return [np.frombuffer(self.frames[name][1], np.uint32) for name in names], videos

    def results(self, **summary) -> dict:
        """What `semantic_results` or `binary_results` makes of the frames, given their options.

        Raises:
            `ValueError`: there are no frames.
        """
        statistics, videos = self.ordered()
        if self.config_name == "semantic":
            return semantic_results(statistics, videos, self.options["num_classes"], **summary)
        return binary_results(statistics, videos, **summary)


def g_score(positive: float, negative: float) -> float:
    """2 P (1 - N) / (P + 1 - N): high where a model scores well with the own sound and badly with another one."""
    if positive == 0 or negative == 1:  # together 0/0
        return 0.0
    return 2 * positive * (1 - negative) / (positive + 1 - negative)


def robustness_results(
    sounds: Mapping[str, FrameCounts],
    videos_per_batch: int = 1,
    negative_videos_per_batch: int | None = None,
    pad_to: int | None = None,
) -> dict:
    """Whether a model listens: the figures of AVSBench-Robust, and corrected ones beside them.

    The videos are those that were heard with every sound; what is true is always what the own sound shows. The gap is
    how far the IoU of what sounds falls, on average over the three other sounds, in frames in which something sounds.

    Args:
        sounds (`Mapping[str, FrameCounts]`): the counts of frames heard with their `"own"` sound, with `"silence"`,
            `"noise"` and `"offscreen"`, the sound of another clip.
        videos_per_batch, pad_to: as in [`AvssMiou`].
        negative_videos_per_batch (`int`, *optional*): videos in a batch of another sound than the own one, as many as
            `videos_per_batch` by default. AVSBench-Robust has batches of 1 and 2 on S4.

    Returns:
        `dict`: `num_videos`, `num_frames`, `num_sounding_frames`, and
        - **official** -- by sound `miou`, `fscore` and `fpr`, the share of pixels that is marked; of the other sounds
          the means `miou_n`, `fscore_n` and `g_fpr`; and `g_miou`, `g_fscore` with `g_miou_per_sound` and so on.
        - **corrected** -- the same of `miou_sounding`, `fscore_hard`, `unmarked` (the share of frames without a mark)
          and `fpr`, for label maps also of `miou_no_background` and `fscore_no_background`; `gap`, and `gap_official`
          (masks) or `gap_no_background` (label maps), each with an interval of 95 %, such as `gap_interval`, by a
          bootstrap over videos that is the same for all sounds.
        A figure of frames in which something sounds is NaN where there are none.

    Raises:
        `ValueError`: a sound is missing, no video was heard with all of them, or the frames of a video or what is true
        in them differ between sounds.
    """
    heard = _select_heard_with_all(sounds)
    is_semantic = heard["own"].config_name == "semantic"
    # Of masks there is a second gap by their official IoU, of label maps by the IoU of the classes that sound.
    other_gap = "gap_no_background" if is_semantic else "gap_official"
    _, videos = heard["own"].ordered()
    lengths = np.bincount(videos)
    official, corrected, gaps, resampled = {}, {}, {"gap": {}, other_gap: {}}, {"gap": {}, other_gap: {}}
    for sound, frames in heard.items():
        per_batch = videos_per_batch if sound == "own" else negative_videos_per_batch or videos_per_batch
        size, area, marked, overlap = _binary_areas(frames)
        sounding, shares = area > 0, marked / np.maximum(size, 1)  # every pixel may be ignored
        iou = np.where(sounding, overlap / np.maximum(marked + area - overlap, 1), 1 - shares)
        fscore = (1 + BETA_SQUARED) * overlap[sounding] / (BETA_SQUARED * area + marked)[sounding]
        corrected[sound] = {
            "miou_sounding": _mean(iou[sounding]),
            "fscore_hard": _mean(fscore),
            "unmarked": float((marked == 0).mean()),
            "fpr": float(shares.mean()),
        }
        sums = np.stack([np.bincount(videos, weights) for weights in (iou * sounding, sounding)])
        gaps["gap"][sound] = corrected[sound]["miou_sounding"]
        resampled["gap"][sound] = _resample(lambda drawn, sums=sums: _ratio(*sums[:, drawn].sum(axis=1)), len(lengths))
        if is_semantic:
            results = frames.results(pad_to=pad_to)  # which changes nothing but the background
            names = ("miou_no_background", "fscore_no_background")
            corrected[sound] |= {name: results[name] for name in names}
            gaps[other_gap][sound] = results["miou_no_background"]
            resampled[other_gap][sound] = _resample_classes(frames)
            # A padded frame has no mark.
            fpr = shares.sum() / (lengths.sum() if pad_to is None else np.maximum(lengths, pad_to).sum())
        else:
            of_video = np.bincount(videos, iou) / lengths
            gaps[other_gap][sound] = float(of_video.mean())
            resampled[other_gap][sound] = _resample(lambda drawn, ious=of_video: ious[drawn].mean(), len(lengths))
            results = frames.results(videos_per_batch=per_batch)
            batches = videos // per_batch
            fpr = (np.bincount(batches, shares) / np.bincount(batches)).mean()
        official[sound] = {"miou": results["miou"], "fscore": results["fscore"], "fpr": float(fpr)}

    compared = _compare_sounds(corrected)
    for name, scores in gaps.items():
        compared[name] = _gap(scores)
        differences = _gap({sound: np.array(draws) for sound, draws in resampled[name].items()})
        compared[f"{name}_interval"] = _interval(differences, GAP_CONFIDENCE)
    return {
        "official": official | _compare_sounds(official),
        "corrected": corrected | compared,
        "num_videos": len(lengths),
        "num_frames": len(videos),
        "num_sounding_frames": int(sounding.sum()),
    }


def _select_heard_with_all(sounds: Mapping[str, FrameCounts]) -> dict[str, FrameCounts]:
    """The frames of the videos that were heard with every sound."""
    missing = [sound for sound in SOUNDS if not len(sounds.get(sound, ()))]
    if missing:
        raise ValueError(f"robustness needs frames heard with each of {SOUNDS}, found none with {missing}")
    videos = set.intersection(*(sounds[sound].videos for sound in SOUNDS))
    if not videos:
        raise ValueError(f"no video was heard with each of {SOUNDS}. Are videos named alike?")
    selected = {sound: sounds[sound].select(videos) for sound in SOUNDS}
    truths = {}
    for sound, counts in selected.items():
        of_video = {}
        for name, (checksum, _) in counts.frames.items():
            of_video.setdefault(name[:-1], []).append(checksum)
        truths[sound] = {video: sorted(checksums) for video, checksums in of_video.items()}
        for video, checksums in truths[sound].items():
            if checksums != truths["own"][video]:
                raise ValueError(
                    f"video {video[-1]!r} has other frames or references with the sound {sound!r} than with its own"
                )
    return selected


def _binary_areas(counts: FrameCounts) -> np.ndarray:
    """Pixels of each frame, of what sounds in it, of what is marked, and of both: `(4, frames)`."""
    statistics, _ = counts.ordered()
    if counts.config_name == "binary":
        return np.stack(statistics)[:, :4].T.astype(np.int64)
    areas = []
    for frame in statistics:
        classes, overlap, labeled, predicted, *predicted_elsewhere = frame[1:].reshape(-1, 6).T.astype(np.int64)
        marks, area = predicted + sum(predicted_elsewhere), labeled[classes > 0].sum()
        # Where something sounds and background is predicted, nothing is marked.
        missed = (predicted - overlap)[classes == 0].sum()
        areas.append([marks.sum(), area, marks[classes > 0].sum(), area - missed])
    return np.array(areas).T


def _resample_classes(counts: FrameCounts) -> list[float]:
    """The mean IoU of the classes but the background in each resample of the videos."""
    statistics, videos = counts.ordered()
    frames, (classes, overlap, labeled, *predicted) = _class_counts(statistics)
    num_videos, num_classes = videos.max() + 1, counts.options["num_classes"]
    iou = overlap / (labeled + sum(predicted) - overlap)
    bins, size = videos[frames] * num_classes + classes, num_videos * num_classes
    sums = np.stack([np.bincount(bins, weights, minlength=size) for weights in (iou, None)])
    sums = sums.reshape(2, num_videos, num_classes)[:, :, 1:]
    overall = _ratio(*sums.sum(axis=1), otherwise=0.0)

    def score(drawn: np.ndarray) -> float:
        of_class = _ratio(*(np.bincount(drawn, minlength=num_videos) @ sums))
        return float(np.where(np.isnan(of_class), overall, of_class).mean())  # as in _fill

    return _resample(score, num_videos)


def _gap(scores: Mapping[str, float | np.ndarray]) -> float | np.ndarray:
    return scores["own"] - sum(scores[sound] for sound in NEGATIVES) / len(NEGATIVES)


def _compare_sounds(scores: Mapping[str, Mapping[str, float]]) -> dict:
    """The means over the other sounds, and G of them and of each."""
    compared = {}
    for name, positive in scores["own"].items():
        negatives = {sound: scores[sound][name] for sound in NEGATIVES}
        mean = float(np.mean(list(negatives.values())))
        if name == "fpr":
            compared["g_fpr"] = mean
            continue
        compared[f"{name}_n"] = mean
        if name != "unmarked":
            compared[f"g_{name}"] = g_score(positive, mean)
            compared[f"g_{name}_per_sound"] = {sound: g_score(positive, value) for sound, value in negatives.items()}
    return compared


class AvssMiou(evaluate.Metric):
    """Audio-visual segmentation scores by every protocol, from one pass over the frames.

    A frame is reduced to its counts when it arrives: see `FrameCounts`. The order of arrival does not matter, and the
    frames of several processes (`num_process`, `process_id`) merge exactly.

    A frame is known by its video and its place in it. The place is what `frame_ids` says, or, where `num_frames` says
    that a call holds whole clips, what is counted within the clip. A frame that arrives again, as a distributed
    sampler repeats samples, counts once. Where only `video_ids` are given, every frame that arrives counts; several
    processes refuse that.

    Args:
        config_name (`str`, *optional*, defaults to `"semantic"`): `"semantic"` for label maps, `"binary"` for scores.
        kwargs: the options that shape the counts, see the description of the inputs, and those of `evaluate.Metric`.

    Raises:
        `ValueError`: bad input, with the frame, the value found and what was expected.

    Examples:

    >>> import evaluate

    >>> metric = evaluate.load("avss_miou", num_classes=5)
    >>> metric.add_batch(
    ...     predictions=[[[0, 0, 1, 1], [0, 3, 1, 0]], [[0, 0, 0, 0], [0, 0, 0, 3]]],
    ...     references=[[[0, 0, 1, 1], [0, 0, 1, 1]], [[0, 0, 0, 0], [0, 0, 0, 0]]],
    ...     video_ids="a",
    ... )
    >>> metric.add(prediction=[[0, 0, 0, 0]] * 2, reference=[[2, 2, 0, 0]] * 2, video_ids="b")
    >>> results = metric.compute()
    >>> {name: round(results[name], 5) for name in ("miou", "fscore", "miou_no_background", "miou_seen")}
    {'miou': 0.28167, 'fscore': 0.33793, 'miou_no_background': 0.1875, 'miou_seen': 0.46944}
    >>> {name: round(results[name], 5) for name in ("miou_star", "fscore_star", "fdr_star", "pixel_accuracy")}
    {'miou_star': 0.28333, 'fscore_star': 0.42332, 'fdr_star': 0.42105, 'pixel_accuracy': 0.70833}
    >>> [round(iou, 5) for iou in results["per_class"]["iou"]]
    [0.65833, 0.75, 0.0, 0.0, 0.0]

    >>> metric = evaluate.load("avss_miou", "binary", score_rule="two_channel")
    >>> results = metric.compute(
    ...     predictions=[
    ...         [[[0, 1, 0.5, 1]], [[2, 0.5, 1, 0]]],
    ...         [[[1.0, 1, 0, 1]], [[0, 0, 1, 0]]],
    ...         [[[1.0, 1, 1, 1]], [[0, 0, 0, 0]]],
    ...         [[[1.0, 1, 1, 0]], [[0, 0, 0, 1]]],
    ...     ],
    ...     references=[[[1, 1, 0, 0]], [[0, 0, 0, 0]], [[1, 0, 0, 0]], [[0, 0, 0, 0]]],
    ...     num_frames=[2, 2],
    ... )
    >>> {name: round(results[name], 5) for name in ("miou", "fscore", "miou_star")}
    {'miou': 0.45833, 'fscore': 0.55741, 'miou_star': 0.41667}
    >>> results["silent_frames"]
    {'count': 2, 'correct_silence_rate': 0.0, 'false_alarm_area': 0.25}
    """

    def __init__(self, config_name: str | None = None, **kwargs):
        config_name = config_name or "semantic"
        of_evaluate = set(signature(evaluate.Metric.__init__).parameters) - {"kwargs"}
        reduction = {name: kwargs.pop(name) for name in set(kwargs) - of_evaluate}
        self._options = FrameCounts(config_name, **reduction).options
        self._num_calls = 0
        super().__init__(config_name=config_name, **kwargs)

    def _info(self):
        # What evaluate stores of a frame: its counts, and who it is.
        features = {"predictions": datasets.Value("binary"), "references": datasets.Value("binary")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features(features),
            reference_urls=["https://arxiv.org/abs/2301.13190", "https://arxiv.org/abs/2304.02970"],
        )

    def add_batch(
        self, *, predictions=None, references=None, video_ids=None, num_frames=None, frame_ids=None, sound="own"
    ):
        """Add frames: all of them, or, where one is bad, none."""
        if sound not in SOUNDS:
            raise ValueError(f"sound must be one of {SOUNDS}, found {sound!r}")
        if sound != "own" and video_ids is None:
            raise ValueError(f"video_ids must name the videos that were heard with {sound!r}, as with their own sound")
        predictions = _frames(predictions, "predictions", 4 if self._options.get("score_rule") == "two_channel" else 3)
        references = _frames(references, "references", 3)
        if len(predictions) != len(references) or not references:
            raise ValueError(
                "there must be as many predictions as references and at least one, found "
                f"{len(predictions)} predictions and {len(references)} references"
            )
        names = self._name_frames(len(references), video_ids, num_frames, frame_ids)
        reduced = FrameCounts(self.config_name, **self._options).reduce(names, predictions, references)
        super().add_batch(
            predictions=[counts for _, (_, counts) in reduced],
            references=[json.dumps([sound, name, checksum]).encode() for name, (checksum, _) in reduced],
        )
        self._num_calls += 1

    def add(self, *, prediction=None, reference=None, video_ids=None, frame_ids=None, sound="own", **inputs):
        """Add one frame. `evaluate.combine` hands it on under the names of the features, in the plural."""
        inputs = {"predictions": prediction, "references": reference, **inputs}
        frame = {name: [inputs[name]] for name in inputs}
        self.add_batch(video_ids=video_ids, frame_ids=frame_ids, sound=sound, **frame)

    def compute(
        self, *, predictions=None, references=None, video_ids=None, num_frames=None, frame_ids=None, **options
    ) -> dict | None:
        """Compute the results of all frames that were added and those given here, and start again."""
        reduction = {name: options.pop(name) for name in self._options if name in options}
        summary = _check_options(options, SUMMARY_OPTIONS[self.config_name])
        inputs = {
            "predictions": predictions,
            "references": references,
            "video_ids": video_ids,
            "num_frames": num_frames,
            "frame_ids": frame_ids,
        }
        brings_data = any(value is not None for value in inputs.values())
        loaded_options = self._options
        if brings_data and self.writer is None:
            self._options = loaded_options | reduction
        try:
            changed = {name: value for name, value in reduction.items() if value != self._options[name]}
            if changed:
                raise ValueError(
                    f"compute got {changed}, but frames are reduced with {self._options} when they arrive. Give these "
                    "options to evaluate.load, or to a compute that brings all frames"
                )
            if brings_data:
                self.add_batch(**inputs)
            if self.writer is None and self.num_process == 1:
                raise ValueError("there are no frames: call add_batch first, or give compute the frames")
            if self.num_process > 1:  # the others wait for this file, also where there are no frames to put into it
                super().add_batch(predictions=[b""], references=[END_MARK])
            try:
                results = super().compute(**summary)
            except ValueError as error:  # of evaluate, or of pyarrow about the file of a process that was killed
                raise ValueError(
                    f"the frames of {self.num_process} processes cannot be gathered. Has one of them died? {error}"
                ) from error
            if isinstance(results, ValueError):
                raise results
            return results
        finally:
            self._options = loaded_options

    def _compute(self, predictions, references, **summary) -> dict | ValueError:
        # Where this raised an error, evaluate would keep its files and locks: `compute` raises it, after evaluate.
        try:
            ended = references.count(END_MARK)
            if self.num_process > 1 and ended != self.num_process:
                raise ValueError(f"only {ended} of {self.num_process} processes came to their end")
            rows = [(*json.loads(name), counts) for name, counts in zip(references, predictions) if name != END_MARK]
            sounds = {sound: FrameCounts(self.config_name, **self._options) for sound in SOUNDS}
            for sound, name, checksum, counts in rows:
                sounds[sound].extend([(tuple(name), (checksum, counts))])
            for frames in sounds.values():
                # Where places are unknown, counts order the frames of a video; so they do where places are known.
                frames.frames = {(*name[:-1], (frame[1], name[-1])): frame for name, frame in frames.frames.items()}
            num_frames = {sound: len(frames) for sound, frames in sounds.items()}
            negatives_per_batch = summary.pop("negative_videos_per_batch", None)
            results = {"repeated_frames": len(rows) - sum(num_frames.values())}
            if num_frames["own"] < sum(num_frames.values()):
                batches = {name: summary[name] for name in ("videos_per_batch", "pad_to") if name in summary}
                robustness = robustness_results(sounds, negative_videos_per_batch=negatives_per_batch, **batches)
                results = {"robustness": robustness} | results
            return sounds["own"].results(**summary) | results
        except ValueError as error:
            return error

    def _name_frames(self, count: int, video_ids, num_frames, frame_ids) -> list[tuple]:
        """The names of the frames of a call: the parts of the video's, by which videos are ordered, and the place.

        The first part is 0 for a video that has no name but its call, 1 for an `int`, 2 for a `str`. A place below 0
        is an unknown one; no two of them are the same.
        """
        if frame_ids is not None and (video_ids is None or num_frames is not None):
            raise ValueError("frame_ids go with video_ids that name the video of each frame, and without num_frames")
        if self.num_process > 1 and video_ids is not None and num_frames is None and frame_ids is None:
            raise ValueError(
                "with several processes video_ids alone do not say which frames are repeated: give num_frames beside "
                "them if every call holds whole clips, else frame_ids"
            )
        whole_clips = video_ids is None or num_frames is not None
        lengths = [count] if num_frames is None else _as_list(num_frames, "num_frames", [int], minimum=1)
        if sum(lengths) != count:
            raise ValueError(f"num_frames must add up to the {count} frames of the call, found {lengths}")
        if video_ids is None:
            videos = [(0, self._num_calls, self.process_id, clip) for clip in range(len(lengths))]
        else:
            expected = len(lengths) if whole_clips else count
            ids = _as_list(video_ids, "video_ids", [int, str], length=expected, repeats=expected)
            videos = [(2 if isinstance(video_id, str) else 1, video_id) for video_id in ids]
        if whole_clips:
            return [(*video, place) for video, length in zip(videos, lengths) for place in range(length)]
        if frame_ids is not None:
            places = _as_list(frame_ids, "frame_ids", [int], length=count, minimum=0)
        else:
            places = range(-1 - len(self), -1 - len(self) - count, -1)
        return [(*video, place) for video, place in zip(videos, places)]


def _to_numpy(value) -> np.ndarray:
    if hasattr(value, "detach"):  # a torch tensor; numpy has no bfloat16
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value
    return np.asarray(value)


def _frames(values, name: str, ndim: int) -> list[np.ndarray]:
    if isinstance(values, Sequence):  # a list, or a column of a data set
        frames = []
        for index, value in enumerate(values):
            try:
                frames.append(_to_numpy(value))
            except ValueError as error:  # nested lists of different lengths
                raise ValueError(f"frame {index} of {name} is no array: {error}") from None
        return frames
    array = _to_numpy(values)
    if array.ndim != ndim:
        raise ValueError(
            f"{name} must be a list of frames, or an array of {ndim} dimensions of which the first is over frames, "
            f"found {type(values).__name__} of shape {array.shape}"
        )
    return list(array)


def _as_list(
    values, name: str, kinds: list[type], length: int | None = None, minimum: int | None = None, repeats: int = 1
) -> list:
    """Arguments as Python values; a single one is repeated."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(values, str) or not hasattr(values, "__len__"):
        values = [values] * repeats
    values = [value.item() if hasattr(value, "item") else value for value in values]
    if length is not None and len(values) != length:
        raise ValueError(f"{name} must have {length} entries, found {len(values)}")
    for value in values:
        if not isinstance(value, tuple(kinds)) or (minimum is not None and value < minimum):
            expected = " or ".join(kind.__name__ for kind in kinds)
            expected += "" if minimum is None else f" of at least {minimum}"
            raise ValueError(f"{name} must be {expected}, found {value!r}")
    return values


def _describe(name: tuple) -> str:
    *video, place = name
    described = "a video without a name" if video[0] == 0 else f"video {video[-1]!r}"
    return described if place < 0 else f"frame {place} of {described}"


def _check_options(options: dict, defaults: dict) -> dict:
    """The options with the defaults of those that are not given, as Python values."""
    unknown = sorted(set(options) - set(defaults))
    if unknown:
        raise ValueError(f"there is no option {unknown[0]!r} here, only {list(defaults)}")
    options = defaults | options
    options = {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}
    two_channel = options.get("score_rule") == "two_channel"

    def is_integer(value, low=1, high=np.inf):
        return isinstance(value, int) and low <= value <= high

    def is_fraction(value):
        return isinstance(value, float) and 0 < value < 1

    expectations = {
        "num_classes": (f"an integer from 2 to {MAX_CLASSES}", lambda value: is_integer(value, 2, MAX_CLASSES)),
        "ignore_index": (
            "None or an integer up to 255",
            lambda value: value is None or is_integer(value, -np.inf, 255),
        ),
        "score_rule": (f"one of {SCORE_RULES}", lambda value: value in SCORE_RULES),
        "mask_threshold": (
            'between 0 and 1, and 0.5 under "two_channel", which has no use for it',
            lambda value: is_fraction(value) and (value == 0.5 or not two_channel),
        ),
        "pad_to": ("None or a positive integer", lambda value: value is None or is_integer(value)),
        "videos_per_batch": ("a positive integer", is_integer),
        "negative_videos_per_batch": ("None or a positive integer", lambda value: value is None or is_integer(value)),
        "confidence": ("None or between 0 and 1", lambda value: value is None or is_fraction(value)),
        "resamples": ("True or False", lambda value: isinstance(value, bool)),
    }
    for name, value in options.items():
        expectation, holds = expectations[name]
        if not holds(value):
            raise ValueError(f"{name} must be {expectation}, found {value!r}")
    return options
