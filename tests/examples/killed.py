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
Run by a test in a process of its own: the training script, until a function is called for the n-th time. Then the
process ends as by `kill -9`:

    python -m tests.examples.killed <module.function> <n> <arguments of the script>
"""

import os
import pkgutil
import signal
import sys
from itertools import count

import torch

from .fixed_points import script
from .test_train_stepping_stones import arrange


def main(function: str, last_call: str, *arguments: str) -> None:
    arrange(setattr)
    owner_name, _, name = function.rpartition(".")
    owner = pkgutil.resolve_name(owner_name)
    original, calls = getattr(owner, name), count(1)

    def replacement(*args, **kwargs):
        if next(calls) == int(last_call):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, replacement)
    script.main(list(arguments))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
