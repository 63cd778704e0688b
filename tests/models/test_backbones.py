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
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import PvtV2Config, PvtV2ForImageClassification, ResNetConfig, ResNetModel

from stepping_stones_hf.models.backbones import (
    STAGES,
    build_backbone,
    convert_backbone_state_dict,
    infer_backbone_config,
    load_backbone_weights,
)


TINY_PVT = {
    "hidden_sizes": [4, 8, 10, 8],
    "depths": [1, 2, 1, 1],
    "num_attention_heads": [1, 2, 5, 4],
    "mlp_ratios": [2, 2, 2, 2],
}
TINY_RESNET = {"embedding_size": 4, "hidden_sizes": [8, 12, 16, 20], "depths": [2, 1, 1, 1]}


def make_config(name: str, **overrides) -> PvtV2Config | ResNetConfig:
    sizes = {"pvt_v2": (PvtV2Config, TINY_PVT), "resnet": (ResNetConfig, TINY_RESNET)}
    config_class, values = sizes[name]
    return config_class(**{**values, "out_features": STAGES, **overrides})


@pytest.mark.parametrize("golden", ["tpavi_avss_pvt", "tpavi_binary_pvt"])
def test_a_released_pvt_gives_the_feature_maps_of_the_released_program(shared_dir, golden):
    folder = shared_dir / "goldens" / golden
    prefix = "encoder_backbone."
    released = load_file(folder / "state_dict.safetensors")
    state_dict = convert_backbone_state_dict(
        {name.removeprefix(prefix): tensor for name, tensor in released.items() if name.startswith(prefix)}
    )
    backbone = build_backbone(infer_backbone_config(state_dict, num_attention_heads=[1, 2, 5, 4])).eval()
    backbone.load_state_dict(state_dict)
    with torch.no_grad():
        feature_maps = backbone(load_file(folder / "inputs.safetensors")["frames"]).feature_maps
    outputs = load_file(folder / "outputs.safetensors")
    for stage, feature_map in enumerate(feature_maps):
        expected = outputs[f"backbone_{stage}"]
        assert_close(feature_map, expected, rtol=0, atol=5e-6 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("keys", "prefix", "config"),
    [
        (
            "tpavi_avss_pvt_v2_b5",
            "encoder_backbone.",
            {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 6, 40, 3], "mlp_ratios": [4, 4, 4, 4]},
        ),
        ("avsegformer_avss_resnet50", "backbone.", {"hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3]}),
    ],
)
def test_full_size_released_backbones_map_one_to_one(shared_dir, keys, prefix, config):
    shapes = json.loads((shared_dir / "goldens" / "keys" / f"{keys}.json").read_text())
    with torch.device("meta"):
        released = {name.removeprefix(prefix): torch.empty(s) for name, s in shapes.items() if name.startswith(prefix)}
        state_dict = convert_backbone_state_dict(released)
        inferred = infer_backbone_config(state_dict)
        expected = build_backbone(inferred).state_dict()
    assert {name: tensor.shape for name, tensor in state_dict.items()} == {
        name: tensor.shape for name, tensor in expected.items()
    }
    assert {name: getattr(inferred, name) for name in config} == config


@pytest.mark.parametrize("name", ["pvt_v2", "resnet"])
def test_a_backbone_is_filled_from_what_transformers_saved(name, tmp_path):
    torch.manual_seed(0)
    trained_class = {"pvt_v2": PvtV2ForImageClassification, "resnet": ResNetModel}[name]
    trained = trained_class(make_config(name, drop_path_rate=0.0))
    trained.save_pretrained(tmp_path)
    backbone = build_backbone(make_config(name, drop_path_rate=0.1))
    load_backbone_weights(backbone, tmp_path)
    source = trained.base_model.state_dict()
    for key, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, source[key]), key


def test_a_backbone_is_filled_from_a_file_by_the_original_names(tmp_path):
    torch.manual_seed(0)
    backbone = build_backbone(make_config("resnet"))
    original = {
        "conv1.weight": torch.randn(4, 3, 7, 7),
        "layer4.0.downsample.0.weight": torch.randn(20, 16, 1, 1),
        "layer1.1.bn3.running_var": torch.rand(8),
        "fc.weight": torch.randn(10, 20),
    }
    renamed = convert_backbone_state_dict(original)
    complete = {key: tensor for key, tensor in backbone.state_dict().items() if "num_batches" not in key} | renamed
    names = {
        "embedder.embedder.convolution.weight": "conv1.weight",
        "encoder.stages.3.layers.0.shortcut.convolution.weight": "layer4.0.downsample.0.weight",
        "encoder.stages.0.layers.1.layer.2.normalization.running_var": "layer1.1.bn3.running_var",
    }
    assert set(renamed) == set(names)
    torch.save({names.get(key, key): tensor for key, tensor in complete.items()} | original, tmp_path / "resnet.pth")
    load_backbone_weights(backbone, tmp_path / "resnet.pth")
    for ours, theirs in names.items():
        assert torch.equal(backbone.state_dict()[ours], original[theirs])


def test_a_checkpoint_of_another_backbone_is_refused_and_nothing_is_changed(tmp_path):
    ResNetModel(make_config("resnet")).save_pretrained(tmp_path / "resnet")
    PvtV2ForImageClassification(make_config("pvt_v2", depths=[1, 1, 1, 1])).save_pretrained(tmp_path / "shallow")
    PvtV2ForImageClassification(make_config("pvt_v2", num_attention_heads=[1, 1, 1, 1])).save_pretrained(
        tmp_path / "heads"
    )
    backbone = build_backbone(make_config("pvt_v2"))
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    for folder, message in (
        ("resnet", "model_type='resnet' there, 'pvt_v2' here"),
        ("shallow", "22 parameters are missing there"),
        ("heads", r"num_attention_heads=\[1, 1, 1, 1\] there, \[1, 2, 5, 4\] here"),
    ):
        with pytest.raises(ValueError, match=message):
            load_backbone_weights(backbone, tmp_path / folder)
    assert all(torch.equal(tensor, before[key]) for key, tensor in backbone.state_dict().items())


def test_weights_of_no_known_backbone_have_no_config():
    with pytest.raises(ValueError, match="neither PVT-v2"):
        infer_backbone_config(convert_backbone_state_dict({"stem.weight": torch.zeros(1)}))
