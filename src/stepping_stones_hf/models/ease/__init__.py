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
from ..auto import register_model
from ..vggish import VGGishFeatureExtractor
from .configuration_ease import EASEConfig
from .convert_ease_original import convert_ease_checkpoint
from .image_processing_ease import EASEImageProcessor
from .image_processing_pil_ease import EASEImageProcessorPil
from .modeling_ease import EASEForAudioVisualSegmentation, EASEModel, EASEPreTrainedModel
from .processing_ease import EASEProcessor


register_model(
    EASEConfig,
    EASEModel,
    EASEForAudioVisualSegmentation,
    {"torchvision": EASEImageProcessor, "pil": EASEImageProcessorPil},
    VGGishFeatureExtractor,
    EASEProcessor,
)

__all__ = [
    "EASEConfig",
    "EASEForAudioVisualSegmentation",
    "EASEImageProcessor",
    "EASEImageProcessorPil",
    "EASEModel",
    "EASEPreTrainedModel",
    "EASEProcessor",
    "convert_ease_checkpoint",
]
