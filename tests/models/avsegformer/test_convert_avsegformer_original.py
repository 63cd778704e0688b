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
from stepping_stones_hf.models.avsegformer.convert_avsegformer_original import infer_avsegformer_config
from stepping_stones_hf.models.vggish.convert_vggish_original import ORIGINAL_KEYS

from .conftest import make_model


@pytest.fixture
def released(fixtures_dir, tmp_path) -> dict:
    """Files of a released localizer; tests damage the copies. Its heads are not those of PVT-v2-b5."""
    checkpoint = tmp_path / "released.safetensors"
    checkpoint.write_bytes((fixtures_dir / "avsegformer_s4_pvt" / "state_dict.safetensors").read_bytes())
    config = tmp_path / "fields.json"
    config.write_text(json.dumps({"backbone_config": {"num_attention_heads": [1, 2, 5, 4]}, "mask_loss": "bce"}))
    return {"checkpoint": checkpoint, "config": config}


@pytest.fixture
def vggish() -> tuple[VGGishModel, dict[str, torch.Tensor]]:
    """A small VGGish, and its weights by torchvggish's names."""
    torch.manual_seed(0)
    model = VGGishModel(VGGishConfig(conv_channels=[4, 8, 8, 8], hidden_size=16, final_relu=True))
    weights = model.state_dict()
    return model, {original: weights[ours].clone() for original, ours in ORIGINAL_KEYS.items()}


def convert(files: dict, output, *more: str) -> int:
    arguments = ["convert", "--model", "avsegformer", "--output", str(output), *more]
    for name, path in files.items():
        arguments += [f"--{name}", str(path)]
    return main(arguments)


def test_the_command_says_what_it_leaves_out_and_writes_what_the_auto_classes_load(released, tmp_path, capsys):
    assert convert(released, tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "Left out 7 parameters that take part in nothing:" in lines and "    head.attn_fc.4.weight" in lines
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "processor_config.json",
    ]
    config = AutoModelForAudioVisualSegmentation.from_pretrained(tmp_path / "out").config
    assert config.id2label == {0: "background", 1: "sounding"}
    assert (config.mask_loss, config.audio_config, config.backbone_config.drop_path_rate) == ("bce", None, 0.1)
    assert (config.num_queries, config.num_sampling_points, config.mask_mlp_dim) == (5, 4, 40)
    processor = AutoProcessor.from_pretrained(tmp_path / "out", backend="pil")
    assert processor.image_processor.localization and "num_frames" not in processor.model_input_names
    # Frames are seen and predictions are compared at 512x512.
    for size in (processor.image_processor.size, processor.image_processor.label_size):
        assert (size["height"], size["width"]) == (512, 512)


def test_pth_gives_the_same_as_safetensors(released, tmp_path):
    assert convert(released, tmp_path / "a") == 0
    pth = tmp_path / "S4_pvt.pth"
    torch.save(load_file(released["checkpoint"]), pth)
    assert convert({**released, "checkpoint": pth}, tmp_path / "b") == 0
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("inside", [True, False])
def test_vggish_of_the_checkpoint_or_of_a_file_of_its_own(released, vggish, tmp_path, capsys, inside):
    model, weights = vggish
    more = []
    torch.save(weights, tmp_path / "vggish.pth")
    if inside:
        state_dict = load_file(released["checkpoint"])
        state_dict |= {f"vggish.{name}": value for name, value in weights.items()}
        save_file(state_dict, released["checkpoint"])
    else:
        more = ["--vggish", str(tmp_path / "vggish.pth")]
    assert convert(released, tmp_path / "out", *more) == 0
    loaded = AutoModelForAudioVisualSegmentation.from_pretrained(tmp_path / "out")
    patches = torch.randn(3, 96, 64)
    with torch.no_grad():
        embeddings = loaded.model.get_audio_embeddings(patches)
        assert_close(embeddings, model(patches).embeddings)
    assert embeddings.min() == 0
    if inside:
        assert convert(released, tmp_path / "again", "--vggish", str(tmp_path / "vggish.pth")) == 1
        assert "has VGGish in it (`vggish.*`): leave out" in capsys.readouterr().err


def test_keys_without_a_place_and_missing_ones_are_listed_and_nothing_is_written(released, vggish, tmp_path, capsys):
    state_dict = load_file(released["checkpoint"])
    state_dict["brand_new.weight"] = torch.zeros(2)
    state_dict["head.fc.0.bias"] = torch.zeros(3)  # of another shape
    state_dict["vggish.features.0.weight"] = torch.zeros(3)  # a part of VGGish
    del state_dict["head.transformer.decoder.layers.1.norm2.bias"]
    save_file(state_dict, released["checkpoint"])
    assert convert(released, tmp_path / "out") == 1
    lines = capsys.readouterr().err.splitlines()
    assert "unexpected: brand_new.weight" in lines
    assert "unexpected: head.fc.0.bias" in lines
    assert "unexpected: vggish.features.0.weight" in lines
    assert "missing: head.conv1.bias" in lines
    assert "missing: model.decoder_layers.1.cross_attn_layer_norm.bias" in lines
    assert not (tmp_path / "out").exists()


def test_files_that_are_no_checkpoint_are_one_clear_line(released, tmp_path, capsys):
    save_file({"conv.weight": torch.zeros(1)}, released["checkpoint"])
    assert convert(released, tmp_path / "out") == 1
    assert "released.safetensors: This is no AVSegFormer checkpoint" in capsys.readouterr().err


def test_a_semantic_checkpoint_has_the_classes_of_avsbench():
    model = make_model("resnet", num_labels=71, num_sampling_points=4)
    config = infer_avsegformer_config(model.state_dict(), {"num_attention_heads": 4})
    assert tuple(config.id2label.values()) == CLASS_NAMES
    assert (config.num_sampling_points, config.num_attention_heads) == (4, 4)
    assert config.head_hidden_sizes == [6, 4] and config.backbone_config.model_type == "resnet"
