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
import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from stepping_stones_hf import EASEConfig

from .conftest import BACKBONES, make_config


PVT_B5 = {
    "model_type": "pvt_v2",
    "num_encoder_blocks": 3,
    "hidden_sizes": [64, 128, 320],
    "depths": [3, 6, 40],
    "num_attention_heads": [1, 2, 5],
    "mlp_ratios": [4, 4, 4],
}


def test_defaults_are_the_released_recipes():
    config = EASEConfig(num_labels=71)
    assert (config.hidden_size, config.num_hidden_layers, config.num_queries) == (768, 12, 100)
    assert (config.num_joint_blocks, config.first_joint_block, config.fusion_blocks) == (4, 8, [8, 9, 10, 11])
    assert config.annealing_start == [0.2, 0.35, 0.5, 0.65] and config.annealing_end == [0.35, 0.5, 0.65, 0.8]
    assert config.layer_decay == 0.8 and config.backbone_config.layer_norm_eps == 1e-5
    assert config.backbone_config.pos_embed_rescale == 2 and not config.backbone_config.key_bias

    config = EASEConfig(backbone_config=PVT_B5)
    assert (config.hidden_size, config.num_hidden_layers, config.num_queries) == (320, 49, 29)
    assert (config.num_joint_blocks, config.first_joint_block, config.first_block) == (6, 43, 9)
    assert config.fusion_blocks == [42, 43, 44, 45, 46, 47, 48]
    assert config.annealing_start == [0.1, 0.2, 0.4, 0.5, 0.6, 0.7]
    assert config.annealing_end == [0.2, 0.3, 0.5, 0.6, 0.7, 0.8]
    assert config.layer_decay == 1


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_follows_from_other_fields_is_saved(backbone, tmp_path):
    config = make_config(backbone, fusion_blocks=(3, 5) if backbone == "pvt_v2" else (0, 1), use_mask_prompt=True)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    loaded.name_or_path = config.name_or_path
    assert loaded.to_dict() == config.to_dict()
    assert loaded.fusion_blocks == ([3, 5] if backbone == "pvt_v2" else [0, 1])
    assert loaded.mask_prompt_fusion and loaded.mask_prompt_keys and loaded.attention_mask_init == "prompt"


@pytest.mark.parametrize(
    ("backbone", "fields", "message"),
    [
        ("dinov3_vit", {"backbone_config": {"model_type": "swin"}}, "model_type='swin'; EASE takes a DINOv3ViTConfig"),
        (
            "dinov3_vit",
            {"backbone_config": {**BACKBONES["dinov3_vit"], "patch_size": 14}},
            "those of backbone_config have the stride 14",
        ),
        ("pvt_v2", {"backbone_config": {"model_type": "pvt_v2"}}, "have the stride 32.*num_encoder_blocks=3"),
        (
            "pvt_v2",
            {"backbone_config": {**BACKBONES["pvt_v2"], "depths": [1, 1, 4, 1]}},
            r"num_encoder_blocks=3, depths=\[1, 1, 4, 1\]",
        ),
        ("dinov3_vit", {"num_joint_blocks": 0}, "num_joint_blocks=0 must be from 1 to 4"),
        ("pvt_v2", {"num_joint_blocks": 5}, "num_joint_blocks=5 must be from 1 to 4"),
        ("dinov3_vit", {"fusion_blocks": [3, 4]}, r"fusion_blocks=\[3, 4\] must be from 0 to 3"),
        ("pvt_v2", {"fusion_blocks": [1, 2]}, r"fusion_blocks=\[1, 2\] must be from 2 to 5"),
        ("dinov3_vit", {"annealing_start": [0.1]}, r"annealing_start=\[0.1\] and annealing_end=.*num_joint_blocks=2"),
        (
            "dinov3_vit",
            {"annealing_start": [0.1, 0.5], "annealing_end": [0.1, 0.6]},
            "the first before the second",
        ),
        ("dinov3_vit", {"num_fusion_heads": 3}, "hidden_size=16 must be a multiple of num_fusion_heads=3"),
        ("dinov3_vit", {"query_generator_heads": 5}, "audio_hidden_size=24 must be a multiple of query_generator"),
        ("dinov3_vit", {"num_audio_tokens": 8}, "num_audio_tokens=8 must be from 1 to num_audio_centers=7"),
        ("dinov3_vit", {"audio_embedding_dim": 64, "audio_config": {}}, "audio_embedding_dim=64"),
        ("dinov3_vit", {"mask_prompt_keys": True}, "mask_prompt_keys=True needs the masks of a localizer"),
        ("dinov3_vit", {"mask_prompt_key_rows": "patches"}, "mask_prompt_key_rows"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(backbone, fields, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        make_config(backbone, **fields)
