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
"""CAVP's processor."""

from transformers.utils import auto_docstring

from ..processing_base import AudioVisualProcessor


@auto_docstring(custom_intro="Constructs CAVP's processor, an image processor and a feature extractor in one.")
class CAVPProcessor(AudioVisualProcessor):
    pass


__all__ = ["CAVPProcessor"]
