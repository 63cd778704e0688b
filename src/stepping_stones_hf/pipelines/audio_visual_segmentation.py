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
The pipeline "audio-visual-segmentation": of each second of a video, which pixels sound and what they are. A
mask-prompted model is prompted with the masks of a localizer (Stepping Stones, section 3.2).
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoProcessor, Pipeline, PreTrainedModel
from transformers.utils import CONFIG_NAME, PROCESSOR_NAME, cached_file

from ..deprecation import rename_arguments
from ..media import Source, check_sampling_rate, to_frame, to_mono
from ..models.auto import AutoModelForAudioVisualSegmentation
from ..models.image_processing_base import label_pixels, resize_bilinear
from ..models.modeling_base import is_localizer
from ..models.processing_base import AudioVisualProcessor
from ..video import ClipSecond, read_ahead, read_seconds, with_second_before


# One video, in whatever form; everything else that can be iterated over is several of them.
Video = Source | Mapping


class AudioVisualSegmentationPipeline(Pipeline):
    """
    Audio-visual segmentation pipeline using any model of [`AutoModelForAudioVisualSegmentation`].

    ```python
    from transformers import pipeline
    import stepping_stones_hf

    segment = pipeline("audio-visual-segmentation", model="runs/mini/model")
    for second in segment("video.mp4"):
        print(second["second"], [(found["label"], found["score"]) for found in second["classes"]])
    ```

    A mask-prompted model needs a localizer, of its own kind or of another: `localizer/` of the same repository, unless
    one is given. A localizer, or a model that names what sounds in one stage, runs alone.

    Args:
        localizer (`PreTrainedModel`, `str` or `PathLike`, *optional*):
            The localizer, which is moved to the device and dtype of the model, or the folder or repository that it
            and its processor are loaded from.
        **kwargs:
            As for every pipeline: `model`, `processor`, `device`, `dtype`, `batch_size`, ...

    Raises:
        `ValueError`: the model is prompted with masks and there is no localizer; the localizer is another kind of
        model; or one of them has no audio encoder.
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args, localizer: PreTrainedModel | str | os.PathLike | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        check_audio_encoder(self.model)
        self.localizer, self.localizer_processor, self.prepares_twice = None, None, False
        if self.model.config.use_mask_prompt:
            self.localizer, self.localizer_processor = self._load_localizer(localizer)
            check_audio_encoder(self.localizer)
            self.localizer.to(self.device, self.dtype).eval()
            # Stages that were trained together want the same frames and sounds.
            self.prepares_twice = list_settings(self.localizer_processor) != list_settings(self.processor)
        elif localizer is not None:
            raise ValueError(
                f"{self.model.name_or_path} takes no mask prompt: there is nothing that a localizer could do for it."
            )
        # So many seconds are looked at together, by a model that looks across time.
        models = [model for model in (self.model, self.localizer) if model is not None]
        self.clip_length = math.lcm(*(model.config.clip_length or 1 for model in models))

    def _load_localizer(self, localizer) -> tuple[PreTrainedModel, AudioVisualProcessor]:
        if isinstance(localizer, PreTrainedModel):
            model, place = localizer, localizer.name_or_path or "The localizer"
            processor = self._load_processor_of(model)
        else:
            # Unless it is named, it lives where the model does, and is found and loaded as the model was.
            name, where = localizer, {}
            if localizer is None:
                name = self.model.name_or_path
                where = {**getattr(self.model, "hub_kwargs", {}), "subfolder": "localizer"}
                revision = getattr(self.model.config, "_commit_hash", None)
                where |= {} if revision is None else {"revision": revision}
            place = f"{name}/localizer" if where else name
            try:
                if cached_file(name, CONFIG_NAME, **where) is None:
                    raise FileNotFoundError(CONFIG_NAME)  # AutoConfig would speak of an unknown model
            except OSError as error:
                raise ValueError(
                    f"{self.model.name_or_path or 'The model'} is prompted with the masks of a localizer, and there is"
                    f" none in {place}. Give a folder or repository as localizer=..."
                ) from error
            try:
                model = AutoModelForAudioVisualSegmentation.from_pretrained(name, **where)
                processor = AutoProcessor.from_pretrained(name, **where)
            except (OSError, SafetensorError) as error:
                raise ValueError(f"The localizer in {place} cannot be loaded: {error}") from error
        if not is_localizer(model.config):
            raise ValueError(
                f"{place} has {model.config.num_labels} labels and use_mask_prompt="
                f"{model.config.use_mask_prompt}: it is not a localizer, which has 2 and False."
            )
        return model, processor

    def _load_processor_of(self, localizer: PreTrainedModel) -> AudioVisualProcessor:
        """The one that lies where it was loaded from; that of the model, if there is none and they are of one kind."""
        name, where = localizer.name_or_path, getattr(localizer, "hub_kwargs", {})
        try:
            found = cached_file(name, PROCESSOR_NAME, **where)
        except OSError:
            found = None
        if found is None and type(localizer) is type(self.model):
            return self.processor
        if found is None:
            raise ValueError(
                f"The localizer, a {type(localizer).__name__}, has no processor in {name!r}: give its folder or"
                " repository as localizer=..."
            )
        try:
            return AutoProcessor.from_pretrained(name, **where)
        except (OSError, ValueError) as error:
            raise ValueError(f"The processor of the localizer in {name} cannot be loaded: {error}") from error

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """
        Writes what the pipeline loads again: the model with its processor and, where there is one, the localizer with
        its own in `localizer/`. The files appear one by one; a folder that has them already gets new ones.

        Args:
            save_directory (`str` or `PathLike`):
                Folder to write, made if it is not there.
            kwargs:
                Passed on to `save_pretrained` of the models (`max_shard_size`, ...).

        Raises:
            `ValueError`: `push_to_hub` is among them: use `pipeline.push_to_hub`, which uploads both stages.
        """
        if kwargs.pop("push_to_hub", False):
            raise ValueError("save_pretrained writes a folder: upload both stages with pipeline.push_to_hub(repo_id).")
        # The task is registered by importing the library: the repository needs no code of its own.
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
        if self.localizer is not None:
            self.localizer.save_pretrained(Path(save_directory, "localizer"), **kwargs)
            self.localizer_processor.save_pretrained(Path(save_directory, "localizer"))

    def _sanitize_parameters(
        self,
        label_maps: str | None = None,
        return_score_maps: bool | None = None,
        sound_threshold: float | None = None,
        **kwargs,
    ):
        if kwargs:
            raise ValueError(f"The pipeline takes no {', '.join(kwargs)}.")
        if label_maps not in (None, "rle", "array"):
            raise ValueError(f'label_maps is {label_maps!r}, expected "rle" or "array".')
        if sound_threshold is not None and not 0 <= sound_threshold <= 1:
            raise ValueError(f"sound_threshold is {sound_threshold}, expected a probability.")
        options = {"return_score_maps": return_score_maps, "sound_threshold": sound_threshold}
        forward_params = {name: value for name, value in options.items() if value is not None}
        return {}, forward_params, {} if label_maps is None else {"label_maps": label_maps}

    @rename_arguments(sound="audio")
    def __call__(
        self, inputs: Video | Iterable[Video], audio: Source | None = None, **kwargs
    ) -> list[dict] | list[list[dict]] | Iterator[list[dict]]:
        """
        Segments videos.

        Args:
            inputs (`str`, `PathLike`, `bytes`, `dict`, or several of these):
                A video file, its http(s) address or its content; the `{"bytes": ..., "path": ...}` of a column of
                `datasets`; or `{"frames": ..., "audio": ..., "sampling_rate": ...}`, one frame for each second (PIL
                images, or arrays `(height, width, 3)`, RGB, uint8) and a waveform `(samples,)` or `(channels,
                samples)`. Several videos are a list, or anything else that can be iterated over: a generator, a
                column of `datasets`, a `KeyDataset`.
            audio (`str`, `PathLike` or `bytes`, *optional*):
                A file, its address or its content, whose sound takes the place of the video's own, or `"silence"`.
            label_maps (`str`, *optional*, defaults to `"rle"`):
                `"rle"` for label maps as run lengths, which JSON can hold and which stay small for long videos
                ([`decode_label_map`] makes arrays of them), `"array"` for arrays.
            return_score_maps (`bool`, *optional*, defaults to `False`):
                Whether to return the scores of all classes.
            sound_threshold (`float`, *optional*):
                Seconds whose sound goes with what is seen by a smaller probability are left unmarked by the localizer,
                hence by the model that it prompts; by the model itself, if it runs alone. For models that were trained
                with a pair loss; 0.5, or what suits a validation set.
            batch_size (`int`, *optional*, defaults to 1):
                Seconds that pass through the models at a time, rounded up to what a model looks at together.

        Returns:
            `list[dict]`: for each second of the video (for a list of videos a list of such lists, for other several
            videos an iterator over such lists, which reads them one at a time)
            - **second** (`int`) -- which one, from 0: a second counts if the video lasts until its middle;
            - **classes** (`list[dict]`) -- what sounds, the largest first: **label** and **label_id**, **score**, the
              mean over its pixels of its share of all classes' scores, and **area**, its share of the frame;
            - **label_map** (`dict`) -- class indices, 0 for background, of the frame's size: `size` `[height, width]`,
              and row by row the `labels` of runs of pixels and their `lengths`; or an array `(height, width)`, uint8;
            - **score_maps** (`np.ndarray`, *optional*) -- `(labels, height, width)`, float32.

        Raises:
            `FileNotFoundError`, `ValueError`: as [`~stepping_stones_hf.video.read_seconds`]; an address cannot be
            downloaded; frames and sound of a `dict` do not belong together; or there is a `sound_threshold`, and the
            model was trained without a pair loss.
        """
        if isinstance(inputs, (str, os.PathLike, bytes, Mapping)):
            return list(self.iterate(inputs, audio=audio, **kwargs))
        if isinstance(inputs, (list, tuple)):
            return [self(video, audio=audio, **kwargs) for video in inputs]
        if hasattr(inputs, "__iter__"):
            return (self(video, audio=audio, **kwargs) for video in inputs)
        if hasattr(inputs, "__getitem__") and hasattr(inputs, "__len__"):  # a data set of torch
            return (self(inputs[index], audio=audio, **kwargs) for index in range(len(inputs)))
        raise ValueError(
            "The pipeline takes a path, the bytes of a video or a dict with frames, audio and sampling_rate, or"
            f" several of these, got {type(inputs).__name__}."
        )

    @rename_arguments(sound="audio")
    def iterate(
        self, inputs: Video, audio: Source | None = None, batch_size: int | None = None, **kwargs
    ) -> Iterator[dict]:
        """As the call for one video, second by second: a long one takes no more memory than a short one."""
        if isinstance(inputs, Mapping) and inputs and inputs.keys() <= {"bytes", "path"}:
            source = inputs.get("path") if inputs.get("bytes") is None else inputs["bytes"]
            if source is None:
                raise ValueError(f"The video is {dict(inputs)}: it has neither content nor a path.")
            inputs = source
        if isinstance(inputs, Mapping):
            if audio is not None:
                raise ValueError("audio replaces the sound of a file: with frames, it is an entry of the dict.")
            unknown = set(inputs) - {"frames", "audio", "sampling_rate"}
            if unknown:
                raise ValueError(f"The pipeline takes frames, audio and sampling_rate, got {sorted(unknown)}.")
            seconds = pair_seconds(**inputs)
        else:
            seconds = read_seconds(download(inputs), download(audio))
        if kwargs.pop("num_workers", None):
            raise ValueError("A video is read in order, by this process: num_workers has to be 0.")
        if batch_size is None:
            batch_size = 1 if self._batch_size is None else self._batch_size
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected seconds from 1.")
        size = self.clip_length * math.ceil(batch_size / self.clip_length)
        # While the models work on a chunk the next one is read.
        chunks = super().__call__(cut(read_ahead(seconds, size), size), num_workers=0, batch_size=1, **kwargs)
        return (result for results in chunks for result in results)

    def segment_seconds(self, seconds: Iterable[ClipSecond], **kwargs) -> list[dict]:
        """
        Segments consecutive seconds in one pass.

        Args:
            seconds (`Iterable[ClipSecond]`):
                As many as the models look at together, `clip_length`, or a multiple; fewer at the end of a video.
            kwargs:
                `label_maps` and `return_score_maps`, as for the call.

        Returns:
            `list[dict]`: what the call gives for each second.
        """
        return super().__call__(tuple(seconds), **kwargs)

    def preprocess(self, seconds: tuple[ClipSecond, ...]) -> dict:
        inputs = prepare_seconds(self.processor, seconds)
        if self.prepares_twice:
            prepared = prepare_seconds(self.localizer_processor, seconds)
            inputs |= {f"localizer_{name}": value for name, value in prepared.items()}
        return inputs | {
            "seconds": [second.index for second in seconds],
            "sizes": [second.frame.size[::-1] for second in seconds],
        }

    def _forward(self, inputs: dict, return_score_maps: bool = False, sound_threshold: float | None = None) -> dict:
        tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
        tensors = {
            name: value.to(self.dtype) if value.is_floating_point() else value for name, value in tensors.items()
        }
        own = {name: value for name, value in tensors.items() if not name.startswith("localizer_")}
        if self.localizer is not None:
            prefixed = {name.removeprefix("localizer_"): tensors[name] for name in tensors if name not in own}
            outputs = self.localizer(**(prefixed or own))
            masks = self.localizer_processor.post_process_semantic_segmentation(
                outputs, sound_threshold=sound_threshold
            )
            own["prompt_masks"] = torch.stack(masks).to(self.dtype)
            sound_threshold = None  # a silent prompt is all that the model is told
        outputs = self.model(**own)

        found = {"seconds": inputs["seconds"], "label_maps": [], "confidences": []}
        if return_score_maps:
            found["score_maps"] = []
        _, frame_scores = self.processor.image_processor.get_gated_scores(outputs, sound_threshold)
        for scores, size in zip(frame_scores, inputs["sizes"]):
            label_map, highest = label_pixels(scores, size)
            found["label_maps"].append(label_map)
            found["confidences"].append(highest / resize_bilinear(scores.sum(dim=0, keepdim=True), size)[0])
            if return_score_maps:
                found["score_maps"].append(resize_bilinear(scores, size))
        return found

    def postprocess(self, found: dict, label_maps: str = "rle") -> list[dict]:
        results = []
        for index, second in enumerate(found["seconds"]):
            label_map = found["label_maps"][index].numpy().astype(np.uint8)
            classes = self._list_classes(label_map, found["confidences"][index].numpy())
            result = {"second": second, "classes": classes}
            result["label_map"] = label_map if label_maps == "array" else encode_label_map(label_map)
            if "score_maps" in found:
                result["score_maps"] = found["score_maps"][index].numpy()
            results.append(result)
        return results

    def _list_classes(self, label_map: np.ndarray, confidence: np.ndarray) -> list[dict]:
        """What is in a label map but background, the largest first, with the mean confidence of its pixels."""
        counts = np.bincount(label_map.ravel(), minlength=self.model.config.num_labels)
        sums = np.bincount(label_map.ravel(), confidence.ravel(), minlength=len(counts))
        return [
            {
                "label": self.model.config.id2label[index],
                "label_id": index,
                "score": float(sums[index] / counts[index]),
                "area": float(counts[index] / label_map.size),
            }
            for index in sorted(range(1, len(counts)), key=lambda index: -counts[index])
            if counts[index]
        ]


def check_audio_encoder(model: PreTrainedModel) -> None:
    if not model.has_audio_encoder:
        raise ValueError(
            f"{model.name_or_path} has no audio encoder (audio_config is None): it takes embeddings, not sound."
            " Convert it with --vggish."
        )


def list_settings(processor: AudioVisualProcessor) -> tuple[bool, dict, dict]:
    """What frames and sound are prepared by; `localization` is about labels."""
    image_processor = processor.image_processor.to_dict() | {"localization": None}
    return processor.looks_across_frames, image_processor, processor.feature_extractor.to_dict()


def prepare_seconds(processor: AudioVisualProcessor, seconds: tuple[ClipSecond, ...]) -> dict[str, torch.Tensor]:
    """The inputs of a model, one row a second."""
    inputs = processor(images=[[second.frame for second in seconds]], return_tensors="pt")
    # Of each second the last patch: the waveform begins a second earlier.
    patches = [
        processor.feature_extractor(
            second.waveform, sampling_rate=second.sampling_rate, patch_hop_seconds=1.0, return_tensors="pt"
        )["input_features"][-1:]
        for second in seconds
    ]
    return {**inputs, "input_features": torch.cat(patches)}


def cut(seconds: Iterator[ClipSecond], size: int) -> Iterator[tuple[ClipSecond, ...]]:
    """Cuts a video into chunks of so many seconds; the last one may be shorter."""
    while chunk := tuple(islice(seconds, size)):
        yield chunk


def download(source: Source | None) -> Source | None:
    """The content of what an http(s) address leads to; every other source is what it was."""
    if not isinstance(source, str) or not source.startswith(("http://", "https://")):
        return source
    from huggingface_hub.utils import httpx  # as in transformers

    try:
        return httpx.get(source, follow_redirects=True).raise_for_status().content
    except httpx.HTTPError as error:
        raise ValueError(f"{source} cannot be downloaded: {error}. Download it and give the file.") from error


def pair_seconds(frames=None, audio=None, sampling_rate: int | None = None) -> Iterator[ClipSecond]:
    """[`ClipSecond`]s of one frame each and a waveform; what it lacks of the last one is silence."""
    if isinstance(frames, Image.Image) or getattr(frames, "ndim", 4) == 3:
        raise ValueError("frames is one image: give a list with an image for each second.")
    frames = None if frames is None else list(frames)
    if audio is None or not frames:
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
        yield ClipSecond(index, to_frame(frame, f"frames[{index}]"), *sound)


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
