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
from transformers.utils.auto_docstring import HARDCODED_CONFIG_FOR_MODELS


# `auto_docstring` looks names of configurations up in transformers' own list and prints an error at import for every
# class of a model that is not in it.
HARDCODED_CONFIG_FOR_MODELS |= {
    "aavs": "AAVSConfig",
    "avsegformer": "AVSegFormerConfig",
    "cavp": "CAVPConfig",
    "ease": "EASEConfig",
    "tpavi": "TPAVIConfig",
    "vggish": "VGGishConfig",
}
