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
from stepping_stones_hf.models.tpavi.convert_tpavi_original import infer_tpavi_config
from stepping_stones_hf.models.vggish.convert_vggish_original import ORIGINAL_KEYS

from .conftest import make_model


@pytest.fixture
def released(fixtures_dir, tmp_path) -> dict:
    """Files of a released localizer; tests damage the copies. Its heads are not those of PVT-v2-b5."""
    checkpoint = tmp_path / "released.safetensors"
    checkpoint.write_bytes((fixtures_dir / "tpavi_binary_pvt" / "state_dict.safetensors").read_bytes())
    config = tmp_path / "fields.json"
    config.write_text(json.dumps({"backbone_config": {"num_attention_heads": [1, 2, 5, 4]}, "avm_loss": None}))
    return {"checkpoint": checkpoint, "config": config}


def convert(files: dict, output, *more: str) -> int:
    arguments = ["convert", "--model", "tpavi", "--output", str(output), *more]
    for name, path in files.items():
        arguments += [f"--{name}", str(path)]
    return main(arguments)


def test_the_command_says_what_it_leaves_out_and_writes_what_the_auto_classes_load(released, tmp_path, capsys):
    assert convert(released, tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        "Left out 4 parameters that take part in nothing:" in lines and "    path4.resConfUnit1.conv1.weight" in lines
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "processor_config.json",
    ]
    config = AutoModelForAudioVisualSegmentation.from_pretrained(tmp_path / "out").config
    assert config.id2label == {0: "background", 1: "sounding"}
    assert (config.avm_loss, config.audio_config, config.backbone_config.drop_path_rate) == (None, None, 0.1)
    processor = AutoProcessor.from_pretrained(tmp_path / "out", backend="pil")
    assert processor.image_processor.localization and "num_frames" in processor.model_input_names


def test_pth_gives_the_same_as_safetensors(released, tmp_path):
    assert convert(released, tmp_path / "a") == 0
    pth = tmp_path / "S4_pvt_best.pth"
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
    state_dict["brand_new.weight"] = torch.zeros(2)
    state_dict["output_conv.4.bias"] = torch.zeros(3)  # of another shape
    del state_dict["tpavi_b2.W_z.1.running_mean"]
    save_file(state_dict, released["checkpoint"])
    assert convert(released, tmp_path / "out") == 1
    lines = capsys.readouterr().err.splitlines()
    assert "unexpected: brand_new.weight" in lines
    assert "unexpected: output_conv.4.bias" in lines
    assert "missing: head.conv3.bias" in lines
    assert "missing: model.blocks.1.batch_norm.running_mean" in lines
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_checkpoint_are_one_clear_line(released, tmp_path, capsys):
    save_file({"conv.weight": torch.zeros(1)}, released["checkpoint"])
    assert convert(released, tmp_path / "out") == 1
    assert "released.safetensors: This is no TPAVI checkpoint" in capsys.readouterr().err
    released["config"].write_text("[]")
    assert convert(released, tmp_path / "out") == 1
    assert "should hold a JSON object" in capsys.readouterr().err


def test_options_of_other_models_are_refused(released, tmp_path, capsys):
    assert convert(released, tmp_path / "out", "--stage", "1") == 1
    assert (
        "The options do not go with --model tpavi: got an unexpected keyword argument 'stage'"
        in capsys.readouterr().err
    )
    arguments = ["convert", "--model", "aavs", "--checkpoint", str(released["checkpoint"]), "--output", "out"]
    assert main(arguments) == 1
    assert "The options do not go with --model aavs: missing a required argument" in capsys.readouterr().err


def test_a_semantic_checkpoint_has_the_classes_of_avsbench_and_the_padding_of_its_training():
    model = make_model("resnet", num_labels=71)
    config = infer_tpavi_config(model.state_dict(), {})
    assert tuple(config.id2label.values()) == CLASS_NAMES
    assert (config.padded_clip_length, config.audio_projection_bias) == (10, False)
    assert config.head_hidden_sizes == [6, 4] and config.backbone_config.model_type == "resnet"
