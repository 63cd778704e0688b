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
"""TPAVI's image processor on PIL and NumPy."""

from collections.abc import Iterator

import torch
from transformers.image_processing_backends import PilBackend
from transformers.utils import auto_docstring

from ..image_processing_base import AudioVisualImageProcessorMixin


@auto_docstring(custom_intro="What TPAVI's image processors share whatever their backend.")
class TPAVIImageProcessorMixin(AudioVisualImageProcessorMixin):
    def get_segmentation_scores(self, outputs) -> tuple[int, Iterator[torch.Tensor]]:
        # Probabilities. With two labels there is one logit, that something sounds.
        def iterate() -> Iterator[torch.Tensor]:
            for logits in outputs.logits.float():
                if len(logits) == 1:
                    sounding = logits.sigmoid()
                    yield torch.cat([1 - sounding, sounding])
                else:
                    yield logits.softmax(dim=0)

        return len(outputs.logits), iterate()


@auto_docstring(
    custom_intro="""
    Constructs TPAVI's image processor on PIL and NumPy, which resizes frames as the released programs do.
    """
)
class TPAVIImageProcessorPil(TPAVIImageProcessorMixin, PilBackend):
    pass


__all__ = ["TPAVIImageProcessorPil"]
