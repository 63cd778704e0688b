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
"""The processor of all models: frames and sound of clips become one flat batch of frames."""

import torch
from transformers.audio_utils import AudioInput, make_list_of_audio
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import ImageInput, make_nested_list_of_images
from transformers.processing_utils import AudioKwargs, ProcessingKwargs, ProcessorMixin, Unpack
from transformers.utils import auto_docstring, logging

from .image_processing_base import AudioVisualImageProcessorKwargs


logger = logging.get_logger(__name__)

# The longest clips of AVSBench, for which the released programs cut their sound.
LONGEST_CLIP = 10


class AudioVisualAudioKwargs(AudioKwargs, total=False):
    r"""
    num_patches (`int`, *optional*):
        Number of log-mel patches of each waveform; a list gives each its own. By default as many as its clip has
        frames.
    patch_hop_seconds (`float`, *optional*):
        Time in seconds from the start of one patch to the start of the next.
    """

    num_patches: int | list[int] | None
    patch_hop_seconds: float | None


class AudioVisualProcessorKwargs(ProcessingKwargs, total=False):
    _defaults = {}  # transformers before 5.23 looks for it

    images_kwargs: AudioVisualImageProcessorKwargs
    audio_kwargs: AudioVisualAudioKwargs


@auto_docstring(
    custom_intro="""
    Base of the models' processors, each an image processor and a feature extractor in one.

    `looks_across_frames` says that the model looks at several frames together, and is told by `num_frames` which of
    them are of one clip.
    """
)
class AudioVisualProcessor(ProcessorMixin):
    valid_processor_kwargs = AudioVisualProcessorKwargs
    looks_across_frames = False

    def __init__(self, image_processor=None, feature_extractor=None):
        r"""
        image_processor ([`AudioVisualImageProcessorMixin`]):
            Prepares frames, segmentation maps and prompt masks, and turns the model's outputs into segmentation maps.
        feature_extractor ([`SequenceFeatureExtractor`]):
            Prepares the sound.
        """
        super().__init__(image_processor, feature_extractor)

    @property
    def model_input_names(self) -> list[str]:
        return super().model_input_names + (["num_frames"] if self.looks_across_frames else [])

    @auto_docstring
    def __call__(
        self,
        images: ImageInput | None = None,
        audio: AudioInput | None = None,
        segmentation_maps: ImageInput | None = None,
        prompt_masks: ImageInput | None = None,
        **kwargs: Unpack[AudioVisualProcessorKwargs],
    ) -> BatchFeature:
        r"""
        images (`ImageInput`, *optional*):
            The frames of a clip, one a second, or a list of such lists for several clips, whose numbers of frames may
            differ.
        audio (`AudioInput`, *optional*):
            The clip's waveform, `(samples,)` or `(channels, samples)`, or a list with the waveform of each clip. Its
            rate in hertz is to be given as `sampling_rate`. Patches of 0.96 s follow one another without a gap, as the
            released programs cut the clips of AVSBench, so that patch t begins at 0.96 t seconds: in longer clips pass
            `patch_hop_seconds=1.0`, by which frame t goes with second t.
        segmentation_maps (`ImageInput`, *optional*):
            For each frame its map of class indices: see [`AudioVisualImageProcessorMixin.preprocess`].
        prompt_masks (`ImageInput`, *optional*):
            For each frame its mask of the sounding objects: see [`AudioVisualImageProcessorMixin.preprocess`].

        Returns:
            [`BatchFeature`]: the frames of all clips in one batch, with the fields that
            [`AudioVisualImageProcessorMixin.preprocess`] gives and, with `audio`, **input_features**, a patch a frame.
            A model that looks across frames gets **num_frames** `(clips,)`, int64, too.

        Raises:
            ValueError: if there is nothing to prepare, if there are maps or masks without images, or if there is not
                one waveform for each clip.
        """
        if images is None and (audio is None or segmentation_maps is not None or prompt_masks is not None):
            raise ValueError(
                f"{type(self).__name__} needs images or audio, and images where there are segmentation_maps or"
                " prompt_masks."
            )
        merged_kwargs = self._merge_kwargs(self.valid_processor_kwargs, **kwargs)
        inputs = BatchFeature()
        if images is not None:
            num_frames = [len(clip) for clip in make_nested_list_of_images(images)]
            inputs.update(
                self.image_processor(
                    images,
                    segmentation_maps=segmentation_maps,
                    prompt_masks=prompt_masks,
                    **merged_kwargs["images_kwargs"],
                )
            )
            if self.looks_across_frames:
                inputs["num_frames"] = torch.tensor(num_frames)
        if audio is not None:
            audio = make_list_of_audio(audio)
            audio_kwargs = merged_kwargs["audio_kwargs"]
            if images is not None:
                if len(audio) != len(num_frames):
                    raise ValueError(
                        f"audio should hold one waveform for each clip: got {len(audio)} for {len(num_frames)}."
                        " Several clips are a list of lists of frames."
                    )
                audio_kwargs.setdefault("num_patches", num_frames)
                self._warn_of_drift(max(num_frames), audio_kwargs.get("patch_hop_seconds"))
            inputs.update(self.feature_extractor(audio, **audio_kwargs))
        return inputs

    def _warn_of_drift(self, num_frames: int, patch_hop_seconds: float | None) -> None:
        if patch_hop_seconds is None:
            patch_hop_seconds = self.feature_extractor.patch_hop_seconds
        if num_frames > LONGEST_CLIP and patch_hop_seconds != 1.0:
            logger.warning_once(
                f"A clip has {num_frames} frames, but patches of its sound begin every {patch_hop_seconds} s, as the"
                f" released programs cut clips of up to {LONGEST_CLIP} s: the last frame goes with the sound from"
                f" second {(num_frames - 1) * patch_hop_seconds:.1f} on. Pass patch_hop_seconds=1.0 for a patch that"
                " begins with each second."
            )

    def post_process_semantic_segmentation(self, *args, **kwargs):
        """
        Forwards its arguments to [`~AudioVisualImageProcessorMixin.post_process_semantic_segmentation`]: see there.
        """
        return self.image_processor.post_process_semantic_segmentation(*args, **kwargs)


__all__ = ["AudioVisualProcessor", "AudioVisualProcessorKwargs"]
