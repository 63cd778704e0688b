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
from .configuration_tpavi import TPAVIConfig
from .convert_tpavi_original import convert_tpavi_checkpoint
from .image_processing_pil_tpavi import TPAVIImageProcessorPil
from .image_processing_tpavi import TPAVIImageProcessor
from .modeling_tpavi import TPAVIForAudioVisualSegmentation, TPAVIModel, TPAVIPreTrainedModel
from .processing_tpavi import TPAVIProcessor


register_model(
    TPAVIConfig,
    TPAVIModel,
    TPAVIForAudioVisualSegmentation,
    {"torchvision": TPAVIImageProcessor, "pil": TPAVIImageProcessorPil},
    VGGishFeatureExtractor,
    TPAVIProcessor,
)

__all__ = [
    "TPAVIConfig",
    "TPAVIForAudioVisualSegmentation",
    "TPAVIImageProcessor",
    "TPAVIImageProcessorPil",
    "TPAVIModel",
    "TPAVIPreTrainedModel",
    "TPAVIProcessor",
    "convert_tpavi_checkpoint",
]
