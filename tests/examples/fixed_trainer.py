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
"""
Run by a test, on one process or by `accelerate launch` on several: `trainer.py` with fixed points in the loss, so that
steps differ by rounding alone.
"""

import sys

import torch

from .fixed_points import fixed_rand


# Beside the script, whose folder `fixed_points` has made importable.
import trainer as example  # noqa: E402, isort: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.rand = fixed_rand
    example.main(sys.argv[1:])
