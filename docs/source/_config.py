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
"""Imported by doc-builder, which finds what `[[autodoc]]` names only in modules that are imported already."""

import stepping_stones_hf.data.doctor
import stepping_stones_hf.data.export
import stepping_stones_hf.data.mini
import stepping_stones_hf.models.remote_code
import stepping_stones_hf.segment_video
import stepping_stones_hf.segment_videos
import stepping_stones_hf.streaming
import stepping_stones_hf.training.arguments
import stepping_stones_hf.training.comparison
import stepping_stones_hf.training.degrade
import stepping_stones_hf.training.evaluation
import stepping_stones_hf.training.initialization
import stepping_stones_hf.training.localizer
import stepping_stones_hf.training.mask_store
import stepping_stones_hf.training.negatives
import stepping_stones_hf.training.schedules
import stepping_stones_hf.training.stages  # noqa: F401
