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

import runpy
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.video import read_info, read_seconds


SCRIPT = Path(__file__).parents[2] / "examples" / "segment_mini_avsbench.py"


def test_the_demo_ends_with_a_segmented_video(two_stage_repository, tmp_path, capsys):
    make_mini_avsbench(tmp_path / "mini-avsbench", image_size=32, clips={"v1s": (1, 1, 1), "v2": (1, 1, 2)})
    shutil.copytree(two_stage_repository, tmp_path / "model")
    runpy.run_path(str(SCRIPT))["main"](["--run", str(tmp_path)])

    before, after = read_info(tmp_path / "clip.mp4"), read_info(tmp_path / "clip_segmented.mp4")
    assert before == after
    assert (after.width, after.height, after.seconds) == (384, 384, 10)
    assert max(np.abs(second.waveform).max() for second in read_seconds(tmp_path / "clip_segmented.mp4")) > 0.01
    assert Image.open(tmp_path / "clip_segmented.png").width > 10 * 120
    assert "Segmented video:" in capsys.readouterr().out
