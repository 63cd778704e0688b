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
"""The README's Python, run as it stands there."""

from pathlib import Path

import datasets
import pytest
import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

from stepping_stones_hf import VGGishConfig, VGGishModel
from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.models.vggish.convert_vggish_original import ORIGINAL_KEYS

from .snippets import README, read_snippets
from .videos import make_video


def get_snippet(containing: str) -> str:
    (snippet,) = (snippet for snippet in read_snippets(README) if containing in snippet)
    return snippet


def test_a_video(two_stage_repository, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("runs/mini").mkdir(parents=True)
    Path("runs/mini/model").symlink_to(two_stage_repository)
    make_video(Path("runs/mini/clip.mp4"), seconds=2)
    exec(compile(get_snippet("pipeline("), "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1"]


def test_both_stages_on_a_clip(two_stage_repository, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_mini_avsbench("runs/mini/mini-avsbench", clips={"v2": (1, 0, 0)})
    Path("runs/mini/model").symlink_to(two_stage_repository)
    exec(compile(get_snippet("localizer"), "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [str(second) for second in range(10)]


def test_loading_avsbench(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    make_mini_avsbench("AVSBench-semantic", clips={"v1s": (1, 0, 1), "v2": (1, 0, 1)}, image_size=32)
    variables = {}
    exec(compile(get_snippet("load_avsbench"), "README.md", "exec"), variables)
    assert variables["clips"]["subset"] == ["v1s", "v2"]


@pytest.mark.slow
def test_full_size_start_from_mask2former(tmp_path):
    backbone = SwinConfig(
        image_size=384,
        embed_dim=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
        window_size=12,
        drop_path_rate=0.3,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    Mask2FormerForUniversalSegmentation(Mask2FormerConfig(backbone_config=backbone, num_labels=150)).save_pretrained(
        tmp_path
    )
    snippet = get_snippet("load_mask2former_weights").replace(
        "facebook/mask2former-swin-base-ade-semantic", str(tmp_path)
    )
    weights = VGGishModel(VGGishConfig()).state_dict()
    vggish = {original: weights[ours] for original, ours in ORIGINAL_KEYS.items()}
    torch.save(vggish, tmp_path / "vggish.pth")
    snippet = snippet.replace("vggish.pth", str(tmp_path / "vggish.pth"))
    variables = {}
    exec(compile(snippet, "README.md", "exec"), variables)
    encoder = variables["model"].model.audio_encoder
    assert torch.equal(encoder.fc1.bias, vggish["embeddings.0.bias"])
    assert torch.equal(encoder.projection.weight, vggish["embeddings.4.weight"])
    assert not any(".backbone." in name and ".adapter." not in name for name in variables["new"])
    assert not any("queries" in name for name in variables["new"])
