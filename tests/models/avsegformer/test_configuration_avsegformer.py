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

from stepping_stones_hf import AVSegFormerConfig, VGGishConfig

from .conftest import BACKBONES, make_config


def test_the_defaults_are_the_released_models():
    config = AVSegFormerConfig()
    backbone = config.backbone_config
    assert (backbone.hidden_sizes, backbone.depths) == ([64, 128, 320, 512], [3, 6, 40, 3])
    assert (config.num_labels, config.num_queries, config.hidden_dim, config.clip_length) == (2, 300, 256, None)
    assert (config.encoder_layers, config.query_generator_layers, config.decoder_layers) == (6, 6, 6)
    assert (config.mask_loss, config.mix_loss_weight, config.mask_prompt_position) == ("dice", 0.1, "after_mixer")


@pytest.mark.parametrize("backbone", ["pvt_v2", "resnet"])
def test_saved_and_loaded_it_is_the_same(tmp_path, backbone):
    config = make_config(backbone, num_labels=7, audio_config=VGGishConfig(final_relu=True), mask_loss="bce")
    config.save_pretrained(tmp_path)
    assert AVSegFormerConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"backbone_config": {"model_type": "swin"}},
            "model_type='swin'; AVSegFormer takes a PvtV2Config or a ResNetConfig",
        ),
        (
            {"backbone_config": {**BACKBONES["resnet"], "out_features": ["stage3", "stage4"]}},
            r"out_features=\['stage3', 'stage4'\]. Set out_features",
        ),
        ({"audio_config": VGGishConfig(embedding_dim=64)}, "audio_embedding_dim=128, but the audio encoder's"),
        ({"hidden_dim": 48}, "hidden_dim=48 must be a multiple of 32"),
        ({"num_attention_heads": 5}, "of num_attention_heads=5"),
        ({"head_hidden_sizes": [8]}, r"head_hidden_sizes=\[8\] must be two numbers"),
        ({"query_generator_layers": 0}, "query_generator_layers=0 must be at least 1"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        make_config(**fields)


def test_wrong_types_are_refused():
    with pytest.raises(StrictDataclassFieldValidationError):
        make_config(mask_prompt_position="everywhere")
