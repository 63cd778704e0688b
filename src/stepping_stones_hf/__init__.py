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
"""Audio-visual segmentation for the Hugging Face ecosystem: models and the Stepping Stones strategy."""

from contextlib import suppress

from transformers.pipelines import PIPELINE_REGISTRY

from .metrics.registration import register_metric
from .models import aavs, avsegformer, cavp, ease, tpavi, vggish
from .models.aavs import *  # noqa: F403
from .models.auto import AutoModelForAudioVisualSegmentation
from .models.avsegformer import *  # noqa: F403
from .models.cavp import *  # noqa: F403
from .models.ease import *  # noqa: F403
from .models.tpavi import *  # noqa: F403
from .models.vggish import *  # noqa: F403
from .pipelines import AudioVisualSegmentationPipeline, decode_label_map


__version__ = "0.1.0"

PIPELINE_REGISTRY.register_pipeline(
    "audio-visual-segmentation",
    pipeline_class=AudioVisualSegmentationPipeline,
    pt_model=AutoModelForAudioVisualSegmentation,
    type="multimodal",
)

# A cache that cannot be written is no reason to fail here: `stepping-stones register-metric` says what is wrong.
with suppress(OSError):
    register_metric()

__all__ = [
    "AudioVisualSegmentationPipeline",
    "AutoModelForAudioVisualSegmentation",
    "decode_label_map",
    *aavs.__all__,
    *avsegformer.__all__,
    *cavp.__all__,
    *ease.__all__,
    *tpavi.__all__,
    *vggish.__all__,
]
