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
from transformers import AutoModelForUniversalSegmentation

from ..auto import register_model
from ..vggish import VGGishFeatureExtractor
from .configuration_aavs import AAVSConfig
from .convert_aavs_original import convert_aavs_checkpoint, load_mask2former_weights
from .image_processing_aavs import AAVSImageProcessor
from .image_processing_pil_aavs import AAVSImageProcessorPil
from .modeling_aavs import AAVSForAudioVisualSegmentation, AAVSModel, AAVSPreTrainedModel
from .processing_aavs import AAVSProcessor


register_model(
    AAVSConfig,
    AAVSModel,
    AAVSForAudioVisualSegmentation,
    {"torchvision": AAVSImageProcessor, "pil": AAVSImageProcessorPil},
    VGGishFeatureExtractor,
    AAVSProcessor,
)
AutoModelForUniversalSegmentation.register(AAVSConfig, AAVSForAudioVisualSegmentation)

__all__ = [
    "AAVSConfig",
    "AAVSForAudioVisualSegmentation",
    "AAVSImageProcessor",
    "AAVSImageProcessorPil",
    "AAVSModel",
    "AAVSPreTrainedModel",
    "AAVSProcessor",
    "convert_aavs_checkpoint",
    "load_mask2former_weights",
]
