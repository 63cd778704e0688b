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
"""The Auto class of the task, and how a model is made known to it and to those of transformers."""

from collections import OrderedDict

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    SequenceFeatureExtractor,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping, auto_class_update
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from .processing_base import AudioVisualProcessor


# Not `AutoModelForUniversalSegmentation`, whose models have queries, nor `AutoModelForSemanticSegmentation`, whose
# pipeline would call them without sound.
MODEL_FOR_AUDIO_VISUAL_SEGMENTATION_MAPPING = _LazyAutoMapping(CONFIG_MAPPING_NAMES, OrderedDict())


class AutoModelForAudioVisualSegmentation(_BaseAutoModelClass):
    _model_mapping = MODEL_FOR_AUDIO_VISUAL_SEGMENTATION_MAPPING


AutoModelForAudioVisualSegmentation = auto_class_update(
    AutoModelForAudioVisualSegmentation, head_doc="audio-visual segmentation"
)


def register_model(
    config_class: type[PreTrainedConfig],
    model_class: type[PreTrainedModel],
    head_class: type[PreTrainedModel],
    image_processor_classes: dict[str, type],
    feature_extractor_class: type[SequenceFeatureExtractor],
    processor_class: type[AudioVisualProcessor],
) -> None:
    """
    Makes a model known to the Auto classes, by the `model_type` of its config.

    Args:
        config_class (`type`), model_class (`type`):
            Config, and model without a head.
        head_class (`type`):
            The model for audio-visual segmentation, an [`AudioVisualSegmentationMixin`].
        image_processor_classes (`dict[str, type]`):
            [`AudioVisualImageProcessorMixin`]s, by the backends `"torchvision"` and `"pil"`, or one of these.
        feature_extractor_class (`type`):
            What turns sound into the model's `input_features`.
        processor_class (`type`):
            The processor, an [`AudioVisualProcessor`].
    """
    AutoConfig.register(config_class.model_type, config_class)
    AutoModel.register(config_class, model_class)
    AutoModelForAudioVisualSegmentation.register(config_class, head_class)
    AutoImageProcessor.register(config_class, image_processor_classes=image_processor_classes)
    AutoFeatureExtractor.register(config_class, feature_extractor_class)
    AutoProcessor.register(config_class, processor_class)


def make_processor(config: PreTrainedConfig, **kwargs) -> AudioVisualProcessor:
    """
    A new processor for a model, with the defaults of its class and on Pillow, hence the same on every machine.

    Args:
        config (`PreTrainedConfig`):
            The model's config.
        kwargs:
            Fields of the image processor, as in `size={"height": 224, "width": 224}`.
    """
    image_processor = IMAGE_PROCESSOR_MAPPING[type(config)]["pil"](**kwargs)
    return PROCESSOR_MAPPING[type(config)](image_processor, FEATURE_EXTRACTOR_MAPPING[type(config)]())


__all__ = [
    "MODEL_FOR_AUDIO_VISUAL_SEGMENTATION_MAPPING",
    "AutoModelForAudioVisualSegmentation",
    "make_processor",
    "register_model",
]
