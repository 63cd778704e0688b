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
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

from stepping_stones_hf import AutoModelForAudioVisualSegmentation
from stepping_stones_hf.cli import main


@pytest.fixture
def released(fixtures_dir, tmp_path) -> dict:
    """Files of a released checkpoint; tests damage the copies."""
    checkpoint = tmp_path / "released.safetensors"
    checkpoint.write_bytes((fixtures_dir / "cavp_avss_resnet" / "state_dict.safetensors").read_bytes())
    config = tmp_path / "fields.json"
    config.write_text(json.dumps({"contrastive_weight": 0.1}))
    return {"checkpoint": checkpoint, "config": config}


def convert(files: dict, output, *more: str) -> int:
    arguments = ["convert", "--model", "cavp", "--output", str(output), *more]
    for name, path in files.items():
        arguments += [f"--{name}", str(path)]
    return main(arguments)


def test_the_command_says_what_it_leaves_out_and_writes_what_the_auto_classes_load(released, tmp_path, capsys):
    assert convert(released, tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Left out 4 parameters that take part in nothing:" in lines and "    cross_att.pos_embed_v" in lines
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "processor_config.json",
    ]
    model = AutoModelForAudioVisualSegmentation.from_pretrained(tmp_path / "out")
    assert (model.config.num_labels, model.config.id2label[70]) == (71, "woman")
    assert (model.config.contrastive_weight, model.config.audio_config.final_relu) == (0.1, True)
    assert model.has_audio_encoder
    processor = AutoProcessor.from_pretrained(tmp_path / "out", backend="pil")
    assert processor.feature_extractor.released_crop and not processor.image_processor.localization


def test_a_file_of_the_training_program_gives_the_same_as_its_weights(released, tmp_path):
    assert convert(released, tmp_path / "a") == 0
    weights = {f"module.{name}": value for name, value in load_file(released["checkpoint"]).items()}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
    torch.save({"model": weights, "optimizer": optimizer.state_dict(), "epoch": 3}, tmp_path / "best.pth")
    assert convert({**released, "checkpoint": tmp_path / "best.pth"}, tmp_path / "b") == 0
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_keys_without_a_place_and_missing_ones_are_listed_and_nothing_is_written(released, tmp_path, capsys):
    state_dict = load_file(released["checkpoint"])
    state_dict["brand_new.weight"] = torch.zeros(2)
    state_dict["segment.upsample.classifier.bias"] = torch.zeros(3)  # of another shape
    del state_dict["cross_att.blocks.0.attn.q.weight"]
    save_file(state_dict, released["checkpoint"])
    assert convert(released, tmp_path / "out") == 1
    lines = capsys.readouterr().err.splitlines()
    assert "unexpected: brand_new.weight" in lines
    assert "unexpected: segment.upsample.classifier.bias" in lines
    assert "missing: head.classifier.bias" in lines
    assert "missing: model.fusion.block.gate.q_proj.weight" in lines
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_checkpoint_are_one_clear_line(released, tmp_path, capsys):
    save_file({"conv.weight": torch.zeros(1)}, released["checkpoint"])
    assert convert(released, tmp_path / "out") == 1
    assert "released.safetensors: This is no CAVP checkpoint" in capsys.readouterr().err


def test_another_vggish_is_refused(released, tmp_path, capsys):
    """The checkpoint has its own, which was trained along."""
    assert convert(released, tmp_path / "out", "--vggish", "vggish.pth") == 1
    assert "The options do not go with --model cavp" in capsys.readouterr().err
