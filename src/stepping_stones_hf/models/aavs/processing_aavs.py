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
"""AAVS's processor: frames and sound of clips become one flat batch of frames."""

from transformers.audio_utils import AudioInput, make_list_of_audio
from transformers.feature_extraction_utils import BatchFeature
from transformers.image_utils import ImageInput, make_nested_list_of_images
from transformers.processing_utils import AudioKwargs, ProcessingKwargs, ProcessorMixin, Unpack
from transformers.utils import auto_docstring

from .image_processing_pil_aavs import AAVSImageProcessorKwargs


class AAVSAudioKwargs(AudioKwargs, total=False):
    r"""
    num_patches (`int`, *optional*):
        Number of log-mel patches of each waveform; a list gives each its own. By default as many as its clip has
        frames.
    patch_hop_seconds (`float`, *optional*):
        Time in seconds from the start of one patch to the start of the next.
    """

    num_patches: int | list[int] | None
    patch_hop_seconds: float | None


class AAVSProcessorKwargs(ProcessingKwargs, total=False):
    _defaults = {}  # transformers before 5.23 looks for it

    images_kwargs: AAVSImageProcessorKwargs
    audio_kwargs: AAVSAudioKwargs


@auto_docstring(custom_intro="Constructs AAVS's processor, an image processor and a feature extractor in one.")
class AAVSProcessor(ProcessorMixin):
    valid_processor_kwargs = AAVSProcessorKwargs

    def __init__(self, image_processor=None, feature_extractor=None):
        r"""
        image_processor ([`AAVSImageProcessor`] or [`AAVSImageProcessorPil`]):
            Prepares frames, segmentation maps and prompt masks, and turns the model's outputs into segmentation maps.
        feature_extractor ([`VGGishFeatureExtractor`]):
            Prepares the sound.
        """
        super().__init__(image_processor, feature_extractor)

    @auto_docstring
    def __call__(
        self,
        images: ImageInput | None = None,
        audio: AudioInput | None = None,
        segmentation_maps: ImageInput | None = None,
        prompt_masks: ImageInput | None = None,
        **kwargs: Unpack[AAVSProcessorKwargs],
    ) -> BatchFeature:
        r"""
        images (`ImageInput`, *optional*):
            The frames of a clip, or a list of such lists for several clips, whose numbers of frames may differ.
        audio (`AudioInput`, *optional*):
            The clip's waveform, `(samples,)` or `(channels, samples)`, or a list with the waveform of each clip. Its
            rate in hertz is to be given as `sampling_rate`.
        segmentation_maps (`ImageInput`, *optional*):
            For each frame its map of class indices: see [`AAVSImageProcessor.preprocess`].
        prompt_masks (`ImageInput`, *optional*):
            For each frame its mask of the sounding objects: see [`AAVSImageProcessor.preprocess`].

        Returns:
            [`BatchFeature`]: the frames of all clips in one batch, with the fields that
            [`AAVSImageProcessor.preprocess`] gives and, with `audio`, **input_features** `(frames, 96, 64)`.

        Raises:
            ValueError: if there is nothing to prepare, if there are maps or masks without images, or if there is not
                one waveform for each clip.
        """
        if images is None and (audio is None or segmentation_maps is not None or prompt_masks is not None):
            raise ValueError(
                "AAVSProcessor needs images or audio, and images where there are segmentation_maps or prompt_masks."
            )
        merged_kwargs = self._merge_kwargs(AAVSProcessorKwargs, **kwargs)
        inputs = BatchFeature()
        if images is not None:
            inputs.update(
                self.image_processor(
                    images,
                    segmentation_maps=segmentation_maps,
                    prompt_masks=prompt_masks,
                    **merged_kwargs["images_kwargs"],
                )
            )
        if audio is not None:
            audio = make_list_of_audio(audio)
            audio_kwargs = merged_kwargs["audio_kwargs"]
            if images is not None:
                num_frames = [len(clip) for clip in make_nested_list_of_images(images)]
                if len(audio) != len(num_frames):
                    raise ValueError(
                        f"audio should hold one waveform for each clip: got {len(audio)} for {len(num_frames)}."
                        " Several clips are a list of lists of frames."
                    )
                audio_kwargs.setdefault("num_patches", num_frames)
            inputs.update(self.feature_extractor(audio, **audio_kwargs))
        return inputs

    def post_process_semantic_segmentation(self, *args, **kwargs):
        """Forwards its arguments to [`~AAVSImageProcessor.post_process_semantic_segmentation`]: see there."""
        return self.image_processor.post_process_semantic_segmentation(*args, **kwargs)


__all__ = ["AAVSProcessor"]
