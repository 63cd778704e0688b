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
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from .configuration_vggish import VGGishConfig
from .convert_vggish_original import convert_vggish_state_dict, load_vggish
from .feature_extraction_vggish import VGGishFeatureExtractor
from .modeling_vggish import VGGishModel, VGGishModelOutput, VGGishPreTrainedModel


AutoConfig.register("vggish", VGGishConfig)
AutoModel.register(VGGishConfig, VGGishModel)
AutoFeatureExtractor.register(VGGishConfig, VGGishFeatureExtractor)

__all__ = [
    "VGGishConfig",
    "VGGishFeatureExtractor",
    "VGGishModel",
    "VGGishModelOutput",
    "VGGishPreTrainedModel",
    "convert_vggish_state_dict",
    "load_vggish",
]
