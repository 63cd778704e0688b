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
The pipeline "audio-visual-segmentation": of each second of a video, which pixels sound and what they are. A model of
the second stage is prompted with the masks of its first stage (Stepping Stones, section 3.2).
"""

import os
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from transformers import Pipeline

from ..media import Source, check_sampling_rate, to_frame, to_mono
from ..models.aavs import AAVSForAudioVisualSegmentation, AAVSProcessor
from ..models.aavs.image_processing_pil_aavs import label_pixels, resize_bilinear
from ..video import Second, read_seconds, with_second_before


class AudioVisualSegmentationPipeline(Pipeline):
    """
    Audio-visual segmentation pipeline using an [`AAVSForAudioVisualSegmentation`] of any stage.

    ```python
    from transformers import pipeline
    import stepping_stones_hf

    segment = pipeline("audio-visual-segmentation", model="runs/mini/model")
    for second in segment("video.mp4"):
        print(second["second"], [(found["label"], found["score"]) for found in second["classes"]])
    ```

    A model of the second stage needs a first one: `localizer/` of the same repository, unless another is given. A
    model of the first stage, or of a single one, runs alone.

    Args:
        localizer ([`AAVSForAudioVisualSegmentation`] or `str`, *optional*):
            The first stage, which is moved to the device and dtype of the model, or the folder or repository that it
            and its processor are loaded from.
        **kwargs:
            As for every pipeline: `model`, `processor`, `device`, `dtype`, `batch_size`, ...

    Raises:
        `ValueError`: the model is of the second stage and there is no first one; the localizer is no first stage; or
        one of them has no audio encoder.
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args, localizer: AAVSForAudioVisualSegmentation | str | os.PathLike | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        check_has_ears(self.model)
        self.localizer, self.localizer_processor, self.prepares_twice = None, None, False
        if self.model.config.use_mask_prompt:
            self.localizer, self.localizer_processor = self._load_localizer(localizer)
            check_has_ears(self.localizer)
            self.localizer.to(self.device, self.dtype).eval()
            # Stages that were trained together want the same frames and sounds.
            self.prepares_twice = list_settings(self.localizer_processor) != list_settings(self.processor)
        elif localizer is not None:
            raise ValueError(
                f"{self.model.name_or_path} takes no mask prompt: there is nothing that a localizer could do for it."
            )

    def _load_localizer(self, localizer):
        if isinstance(localizer, AAVSForAudioVisualSegmentation):
            processor = self.processor
        else:
            # Unless it is named, it lives in the model's repository.
            name, place = localizer, {}
            if localizer is None:
                name, place = self.model.name_or_path, {"subfolder": "localizer"}
                revision = getattr(self.model.config, "_commit_hash", None)
                place |= {} if revision is None else {"revision": revision}
            try:
                localizer = AAVSForAudioVisualSegmentation.from_pretrained(name, **place)
                processor = AAVSProcessor.from_pretrained(name, **place)
            except OSError as error:
                where = f"{name}/localizer" if place else name
                raise ValueError(
                    f"{self.model.name_or_path or 'The model'} is a second stage, which is prompted with the masks of"
                    f" a first one, and there is none in {where}. Give a folder or repository as localizer=..."
                ) from error
        config = localizer.config
        if config.num_labels != 2 or config.use_mask_prompt:
            raise ValueError(
                f"The localizer {localizer.name_or_path} has {config.num_labels} labels and use_mask_prompt="
                f"{config.use_mask_prompt}: it is no first stage, which has 2 and False."
            )
        return localizer, processor

    def _sanitize_parameters(self, label_maps: str | None = None, return_score_maps: bool | None = None, **kwargs):
        if kwargs:
            raise ValueError(f"The pipeline takes no {', '.join(kwargs)}.")
        if label_maps not in (None, "rle", "array"):
            raise ValueError(f'label_maps is {label_maps!r}, expected "rle" or "array".')
        forward_params = {} if return_score_maps is None else {"return_score_maps": return_score_maps}
        return {}, forward_params, {} if label_maps is None else {"label_maps": label_maps}

    def __call__(
        self, inputs: Source | Mapping | list, sound: Source | None = None, **kwargs
    ) -> list[dict] | list[list[dict]]:
        """
        Segments videos.

        Args:
            inputs (`str`, `PathLike`, `bytes`, `dict`, or a list of these):
                A video file, or its content; or `{"frames": ..., "audio": ..., "sampling_rate": ...}`, one frame for
                each second (PIL images, or arrays `(height, width, 3)`, RGB, uint8) and a waveform `(samples,)` or
                `(channels, samples)`.
            sound (`str`, `PathLike` or `bytes`, *optional*):
                A file whose sound takes the place of the video's own, or `"silence"`.
            label_maps (`str`, *optional*, defaults to `"rle"`):
                `"rle"` for label maps as run lengths, which JSON can hold and which stay small for long videos
                ([`decode_label_map`] makes arrays of them), `"array"` for arrays.
            return_score_maps (`bool`, *optional*, defaults to `False`):
                Whether to return the scores of all classes.
            batch_size (`int`, *optional*, defaults to 1):
                Seconds that pass through the models at a time.

        Returns:
            `list[dict]`: for each second of the video (a list of such lists for a list of videos)
            - **second** (`int`) -- which one, from 0: a second counts if the video lasts until its middle;
            - **classes** (`list[dict]`) -- what sounds, the largest first: **label** and **label_id**, **score**, the
              mean over its pixels of its share of all classes' scores, and **area**, its share of the frame;
            - **label_map** (`dict`) -- class indices, 0 for background, of the frame's size: `size` `[height, width]`,
              and row by row the `labels` of runs of pixels and their `lengths`; or an array `(height, width)`, uint8;
            - **score_maps** (`np.ndarray`, *optional*) -- `(labels, height, width)`, float32.

        Raises:
            `FileNotFoundError`, `ValueError`: as [`~stepping_stones_hf.video.read_seconds`]; or frames and sound of a
            `dict` do not belong together.
        """
        if isinstance(inputs, Second):
            return super().__call__(inputs, **kwargs)
        if isinstance(inputs, (list, tuple)):
            return [self(video, sound=sound, **kwargs) for video in inputs]
        return list(self.iterate(inputs, sound=sound, **kwargs))

    def iterate(self, inputs: Source | Mapping, sound: Source | None = None, **kwargs) -> Iterator[dict]:
        """As the call, second by second: a long video takes no more memory than a short one."""
        if isinstance(inputs, Mapping):
            if sound is not None:
                raise ValueError("sound replaces that of a file: with frames, give it as audio.")
            unknown = set(inputs) - {"frames", "audio", "sampling_rate"}
            if unknown:
                raise ValueError(f"The pipeline takes frames, audio and sampling_rate, got {sorted(unknown)}.")
            seconds = pair_seconds(**inputs)
        elif isinstance(inputs, (str, os.PathLike, bytes)):
            seconds = read_seconds(inputs, sound)
        else:
            raise ValueError(
                f"The pipeline takes a path, the bytes of a video or a dict with frames, audio and sampling_rate, got"
                f" {type(inputs).__name__}."
            )
        if kwargs.pop("num_workers", None):
            raise ValueError("A video is read in order, by this process: num_workers has to be 0.")
        return iter(super().__call__(seconds, num_workers=0, **kwargs))

    def preprocess(self, second: Second) -> dict:
        # (1, 3, height, width), (1, 96, 64)
        inputs = prepare_second(self.processor, second)
        if self.prepares_twice:
            prepared = prepare_second(self.localizer_processor, second)
            inputs |= {f"localizer_{name}": value for name, value in prepared.items()}
        return inputs | {"second": second.index, "size": second.frame.size[::-1]}

    def _forward(self, inputs: dict, return_score_maps: bool = False) -> dict:
        floats = {name: value.to(self.dtype) for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        own = {name: value for name, value in floats.items() if not name.startswith("localizer_")}
        if self.localizer is not None:
            prefixed = {name.removeprefix("localizer_"): floats[name] for name in floats if name not in own}
            outputs = self.localizer(**(prefixed or own))
            masks = self.localizer_processor.post_process_semantic_segmentation(outputs)
            own["prompt_masks"] = torch.stack(masks).to(self.dtype)
        outputs = self.model(**own)

        # A single second comes as it is, a batch of them in lists.
        sizes = inputs["size"] if isinstance(inputs["size"], list) else [inputs["size"]]
        seconds = inputs["second"] if isinstance(inputs["second"], list) else [inputs["second"]]
        mask_size = self.processor.image_processor.post_process_size
        results = self.processor.post_process_semantic_segmentation(
            outputs, [(mask_size.height, mask_size.width)] * len(sizes), return_segmentation_scores=True
        )
        found = {"second": seconds, "label_map": [], "confidence": []}
        for result, size in zip(results, sizes):
            scores = result.segmentation_scores
            label_map, highest = label_pixels(scores, size)
            found["label_map"].append(label_map)
            found["confidence"].append(highest / resize_bilinear(scores.sum(dim=0, keepdim=True), size)[0])
        if return_score_maps:
            found["score_maps"] = [
                resize_bilinear(result.segmentation_scores, size) for result, size in zip(results, sizes)
            ]
        return found

    def postprocess(self, found: dict, label_maps: str = "rle") -> dict:
        found = {name: value[0] if isinstance(value, (list, torch.Tensor)) else value for name, value in found.items()}
        label_map, confidence = found["label_map"].numpy().astype(np.uint8), found["confidence"].numpy()
        counts = np.bincount(label_map.ravel(), minlength=self.model.config.num_labels)
        sums = np.bincount(label_map.ravel(), confidence.ravel(), minlength=len(counts))
        classes = [
            {
                "label": self.model.config.id2label[index],
                "label_id": index,
                "score": float(sums[index] / counts[index]),
                "area": float(counts[index] / label_map.size),
            }
            for index in sorted(range(1, len(counts)), key=lambda index: -counts[index])
            if counts[index]
        ]
        result = {"second": found["second"], "classes": classes}
        result["label_map"] = label_map if label_maps == "array" else encode_label_map(label_map)
        if "score_maps" in found:
            result["score_maps"] = found["score_maps"].numpy()
        return result


def check_has_ears(model: AAVSForAudioVisualSegmentation) -> None:
    if model.config.audio_config is None:
        raise ValueError(
            f"{model.name_or_path} has no audio encoder (audio_config is None): it takes embeddings, not sound."
            " Convert it with --vggish."
        )


def list_settings(processor: AAVSProcessor) -> tuple[dict, dict]:
    """What frames and sound are prepared by; `localization` is about labels."""
    image_processor = processor.image_processor.to_dict() | {"localization": None}
    return image_processor, processor.feature_extractor.to_dict()


def prepare_second(processor: AAVSProcessor, second: Second) -> dict[str, torch.Tensor]:
    pixel_values = processor(images=[second.frame], return_tensors="pt")["pixel_values"]
    # The last patch is that of this second.
    features = processor.feature_extractor(
        second.waveform, sampling_rate=second.sampling_rate, patch_hop_seconds=1.0, return_tensors="pt"
    )["input_features"][-1:]
    return {"pixel_values": pixel_values, "input_features": features}


def pair_seconds(frames=None, audio=None, sampling_rate: int | None = None) -> Iterator[Second]:
    """[`Second`]s of one frame each and a waveform; what it lacks of the last one is silence."""
    if frames is None or audio is None or len(frames) == 0:
        raise ValueError("In place of a video file the pipeline takes frames, at least one, audio and sampling_rate.")
    check_sampling_rate(sampling_rate)
    rate, waveform = int(sampling_rate), to_mono(audio, "audio")
    if not len(frames) - 1 < len(waveform) / rate < len(frames) + 1:
        raise ValueError(
            f"{len(frames)} frames do not go with {len(waveform) / rate:.2f} s of sound ({len(waveform)} samples,"
            f" {rate} Hz): give one frame for each second."
        )
    waveform = np.pad(waveform, (0, max(0, len(frames) * rate - len(waveform))))
    sounds = ((waveform[index * rate : (index + 1) * rate], rate) for index in range(len(frames)))
    for index, (frame, sound) in enumerate(zip(frames, with_second_before(sounds))):
        yield Second(index, to_frame(frame, f"frames[{index}]"), *sound)


def encode_label_map(label_map: np.ndarray) -> dict:
    """Run lengths of a label map `(height, width)`, row by row: see [`decode_label_map`]."""
    pixels = label_map.ravel()
    starts = np.flatnonzero(np.r_[True, pixels[1:] != pixels[:-1]])
    return {
        "size": list(label_map.shape),
        "labels": pixels[starts].tolist(),
        "lengths": np.diff(np.r_[starts, len(pixels)]).tolist(),
    }


def decode_label_map(encoded: Mapping) -> np.ndarray:
    """
    The label map that run lengths stand for.

    Args:
        encoded (`Mapping`):
            A `label_map` that [`AudioVisualSegmentationPipeline`] returns.

    Returns:
        `np.ndarray` of shape `(height, width)` and type uint8: class indices.
    """
    return np.repeat(np.array(encoded["labels"], dtype=np.uint8), encoded["lengths"]).reshape(encoded["size"])


__all__ = ["AudioVisualSegmentationPipeline", "decode_label_map"]
