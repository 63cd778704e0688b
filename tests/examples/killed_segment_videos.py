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
Run by a test by `accelerate launch`: `segment_videos.py`, whose main process ends as by `kill -9` when it has
segmented so many videos and the outputs of the next one are whole, but do not have their name yet:

    accelerate launch -m tests.examples.killed_segment_videos <n> <arguments of the script>
"""

import os
import runpy
import signal
import sys
from itertools import count
from pathlib import Path

from stepping_stones_hf import segment_videos


SCRIPT = Path(__file__).parents[2] / "examples" / "segment_videos.py"


def main(last_video: str, *arguments: str) -> None:
    complete_folder, calls = segment_videos.complete_folder, count()

    def replacement(folder):
        if next(calls) == int(last_video) and os.environ["RANK"] == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        complete_folder(folder)

    segment_videos.complete_folder = replacement
    sys.argv[1:] = arguments
    runpy.run_path(str(SCRIPT), run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
