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
from .configuration_avsegformer import AVSegFormerConfig
from .convert_avsegformer_original import convert_avsegformer_checkpoint
from .image_processing_avsegformer import AVSegFormerImageProcessor
from .image_processing_pil_avsegformer import AVSegFormerImageProcessorPil
from .modeling_avsegformer import AVSegFormerForAudioVisualSegmentation, AVSegFormerModel, AVSegFormerPreTrainedModel
from .processing_avsegformer import AVSegFormerProcessor


register_model(
    AVSegFormerConfig,
    AVSegFormerModel,
    AVSegFormerForAudioVisualSegmentation,
    {"torchvision": AVSegFormerImageProcessor, "pil": AVSegFormerImageProcessorPil},
    VGGishFeatureExtractor,
    AVSegFormerProcessor,
)

__all__ = [
    "AVSegFormerConfig",
    "AVSegFormerForAudioVisualSegmentation",
    "AVSegFormerImageProcessor",
    "AVSegFormerImageProcessorPil",
    "AVSegFormerModel",
    "AVSegFormerPreTrainedModel",
    "AVSegFormerProcessor",
    "convert_avsegformer_checkpoint",
]
