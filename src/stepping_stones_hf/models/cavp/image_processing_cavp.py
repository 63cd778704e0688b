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
"""CAVP's image processor on torchvision."""

from transformers.image_processing_backends import TorchvisionBackend
from transformers.processing_utils import Unpack
from transformers.utils import auto_docstring, requires_backends

from ..image_processing_base import AudioVisualImageProcessorKwargs
from .image_processing_pil_cavp import CAVPImageProcessorMixin


@auto_docstring(
    custom_intro="""
    Constructs CAVP's image processor on torchvision, which prepares frames of one size together and on any
    device.

    Targets, prompt masks and post-processing are those of [`CAVPImageProcessorPil`]. Resized frames differ by
    at most one of 256 levels from those of PIL, which the released program used.
    """
)
class CAVPImageProcessor(CAVPImageProcessorMixin, TorchvisionBackend):
    def __init__(self, **kwargs: Unpack[AudioVisualImageProcessorKwargs]):
        # The module can be imported without torchvision; `AutoImageProcessor` then takes the one on PIL.
        requires_backends(self, ["torchvision"])
        super().__init__(**kwargs)


__all__ = ["CAVPImageProcessor"]
