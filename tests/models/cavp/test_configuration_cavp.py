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
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError

from stepping_stones_hf import CAVPConfig, VGGishConfig

from .conftest import BACKBONE, make_config


def test_the_defaults_are_the_released_model():
    config = CAVPConfig()
    backbone = config.backbone_config
    assert (backbone.embedding_size, list(backbone.hidden_sizes)) == (128, [256, 512, 1024, 2048])
    assert (list(backbone.depths), backbone.layer_type, backbone.out_features) == (
        [3, 4, 6, 3],
        "bottleneck",
        ["stage1", "stage4"],
    )
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (304, 4, 1216)
    assert (config.contrastive_weight, config.contrastive_temperature, config.contrastive_max_views) == (1, 0.1, 512)
    assert (config.clip_length, config.freeze_audio_encoder, config.sound_bank_size) == (None, False, 0)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    audio_config = VGGishConfig(final_relu=True)
    config = make_config(num_labels=7, audio_config=audio_config, sound_bank_size=3, contrastive_weight=0.1)
    config.save_pretrained(tmp_path)
    assert CAVPConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"backbone_config": {"model_type": "swin"}},
            "model_type='swin' and layer_type=None; CAVP takes a ResNetConf",
        ),
        ({"backbone_config": {**BACKBONE, "layer_type": "basic"}}, "layer_type='basic'; CAVP takes a ResNetConfig"),
        (
            {"backbone_config": {**BACKBONE, "out_features": ["stage4"]}},
            r"out_features=\['stage4'\]. Set out_features",
        ),
        ({"audio_config": VGGishConfig(embedding_dim=64)}, "audio_embedding_dim=128, but the audio encoder's"),
        ({"num_attention_heads": 5}, "make 16 channels, which num_attention_heads=5 must divide"),
        ({"contrastive_temperature": 0.0}, "contrastive_temperature=0.0 must be more than 0"),
        ({"contrastive_max_views": 0}, "contrastive_max_views=0 at least 1"),
        ({"num_labels": 7, "sound_bank_size": 2}, "sound_bank_size=2 keeps sounds of each class"),
        ({"num_labels": 2, "sound_bank_size": 2, "audio_config": VGGishConfig()}, "sound_bank_size=2 keeps"),
        (
            {"num_labels": 7, "sound_bank_size": 2, "audio_config": VGGishConfig(), "contrastive_weight": 0},
            "a contrastive_weight, which is 0",
        ),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        make_config(**fields)


def test_wrong_types_are_refused():
    with pytest.raises(StrictDataclassFieldValidationError):
        make_config(sound_bank_size="16")
