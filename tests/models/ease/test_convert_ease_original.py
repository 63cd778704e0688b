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
from torch.testing import assert_close
from transformers import AutoProcessor

from stepping_stones_hf import AutoModelForAudioVisualSegmentation, VGGishConfig, VGGishModel
from stepping_stones_hf.cli import main
from stepping_stones_hf.labels import CLASS_NAMES
from stepping_stones_hf.models.ease.convert_ease_original import infer_ease_config
from stepping_stones_hf.models.vggish.convert_vggish_original import ORIGINAL_KEYS

from .conftest import make_model


@pytest.fixture
def released(fixtures_dir, tmp_path) -> dict:
    """Files of a released localizer; tests damage the copies. Its heads are not as wide as DINOv3's."""
    checkpoint = tmp_path / "released.safetensors"
    checkpoint.write_bytes((fixtures_dir / "ease_ms3_vit" / "state_dict.safetensors").read_bytes())
    config = tmp_path / "fields.json"
    fields = {"backbone_config": {"num_attention_heads": 2, "image_size": 384}, "fusion_blocks": [4]}
    config.write_text(json.dumps(fields))
    return {"checkpoint": checkpoint, "config": config}


def convert(files: dict, output, *more: str) -> int:
    arguments = ["convert", "--model", "ease", "--output", str(output), *more]
    for name, path in files.items():
        arguments += [f"--{name}", str(path)]
    return main(arguments)


def test_the_command_says_what_it_leaves_out_and_writes_what_the_auto_classes_load(released, tmp_path, capsys):
    assert convert(released, tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Left out 4 parameters that take part in nothing:" in lines
    assert "    network.audio_enhance.fusion_s2.weight" in lines and "    network.fuser.fc.bias" in lines
    config = AutoModelForAudioVisualSegmentation.from_pretrained(tmp_path / "out").config
    assert config.id2label == {0: "background", 1: "sounding"} and config.audio_config is None
    assert config.fusion_blocks == [4] and not config.evaluation_noise
    processor = AutoProcessor.from_pretrained(tmp_path / "out", backend="pil")
    assert dict(processor.image_processor.size) == {"height": 384, "width": 384}
    assert processor.image_processor.localization and processor.image_processor.label_size.height == 224


def test_pth_gives_the_same_as_safetensors(released, tmp_path):
    assert convert(released, tmp_path / "a") == 0
    pth = tmp_path / "vit-b_224_ms3.pth"
    torch.save(load_file(released["checkpoint"]), pth)
    assert convert({**released, "checkpoint": pth}, tmp_path / "b") == 0
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_with_vggish_the_model_hears_rectified_embeddings(released, tmp_path):
    torch.manual_seed(0)
    vggish = VGGishModel(VGGishConfig(conv_channels=[4, 8, 8, 8], hidden_size=16, final_relu=True))
    weights = vggish.state_dict()
    torch.save({original: weights[ours] for original, ours in ORIGINAL_KEYS.items()}, tmp_path / "vggish.pth")
    assert convert(released, tmp_path / "out", "--vggish", str(tmp_path / "vggish.pth")) == 0
    model = AutoModelForAudioVisualSegmentation.from_pretrained(tmp_path / "out")
    patches = torch.randn(3, 96, 64)
    with torch.no_grad():
        embeddings = model.model.get_audio_embeddings(patches)
        assert_close(embeddings, vggish(patches).embeddings)
    assert embeddings.min() == 0


def test_keys_without_a_place_and_missing_ones_are_listed_and_nothing_is_written(released, tmp_path, capsys):
    state_dict = load_file(released["checkpoint"])
    # One fusion module for each block, as the paper counts parameters, is not taken for the one of the program.
    state_dict["network.fuser.1.fc.weight"] = torch.zeros(1, 32)
    state_dict["network.class_head.bias"] = torch.zeros(5)  # of another shape
    del state_dict["network.q_gen.layers.0.self_attn.in_proj_weight"]
    save_file(state_dict, released["checkpoint"])
    assert convert(released, tmp_path / "out") == 1
    lines = capsys.readouterr().err.splitlines()
    assert "unexpected: network.fuser.1.fc.weight" in lines
    assert "unexpected: network.class_head.bias" in lines
    assert "missing: class_predictor.bias" in lines
    assert "missing: model.query_generator.layers.0.self_attn.k_proj.weight" in lines
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_checkpoint_are_one_clear_line(released, tmp_path, capsys):
    save_file({"conv.weight": torch.zeros(1)}, released["checkpoint"])
    assert convert(released, tmp_path / "out") == 1
    assert "released.safetensors: This is no EASE checkpoint" in capsys.readouterr().err


def test_a_semantic_checkpoint_has_the_classes_of_avsbench():
    config = infer_ease_config(make_model(num_labels=71).state_dict(), {"backbone_config": {"num_attention_heads": 2}})
    assert tuple(config.id2label.values()) == CLASS_NAMES
    assert (config.num_joint_blocks, config.fusion_blocks, config.backbone_config.image_size) == (2, [2, 3], 224)
    assert (config.backbone_config.num_register_tokens, config.query_generator_ratio) == (2, 2)


@pytest.mark.parametrize(("num_queries", "image_size"), [(29, (224, 224)), (49, (384, 384))])
def test_the_queries_of_a_pvt_tell_the_size_of_its_frames(num_queries, image_size):
    config = infer_ease_config(make_model("pvt_v2", num_queries=num_queries).state_dict(), {})
    assert config.is_pvt and config.backbone_config.image_size == image_size
    assert config.backbone_config.depths == [1, 1, 4] and config.backbone_config.sr_ratios == [8, 4, 2]
