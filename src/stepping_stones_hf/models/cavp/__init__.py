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
from .configuration_cavp import CAVPConfig
from .convert_cavp_original import convert_cavp_checkpoint
from .feature_extraction_cavp import CAVPFeatureExtractor
from .image_processing_cavp import CAVPImageProcessor
from .image_processing_pil_cavp import CAVPImageProcessorPil
from .modeling_cavp import CAVPForAudioVisualSegmentation, CAVPModel, CAVPPreTrainedModel
from .processing_cavp import CAVPProcessor


register_model(
    CAVPConfig,
    CAVPModel,
    CAVPForAudioVisualSegmentation,
    {"torchvision": CAVPImageProcessor, "pil": CAVPImageProcessorPil},
    CAVPFeatureExtractor,
    CAVPProcessor,
)

__all__ = [
    "CAVPConfig",
    "CAVPFeatureExtractor",
    "CAVPForAudioVisualSegmentation",
    "CAVPImageProcessor",
    "CAVPImageProcessorPil",
    "CAVPModel",
    "CAVPPreTrainedModel",
    "CAVPProcessor",
    "convert_cavp_checkpoint",
]
