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

from stepping_stones_hf import TPAVIConfig, VGGishConfig

from .conftest import BACKBONES, make_config


def test_the_defaults_are_the_released_models():
    config = TPAVIConfig()
    backbone = config.backbone_config
    assert (backbone.hidden_sizes, backbone.depths) == ([64, 128, 320, 512], [3, 6, 40, 3])
    assert (config.num_labels, config.clip_length, config.avm_loss, config.avm_weight) == (2, 5, "kl", 0.5)
    assert config.audio_projection_bias and not TPAVIConfig(num_labels=71).audio_projection_bias


@pytest.mark.parametrize("backbone", ["pvt_v2", "resnet"])
def test_saved_and_loaded_it_is_the_same(tmp_path, backbone):
    config = make_config(backbone, num_labels=7, audio_config=VGGishConfig(final_relu=True), avm_loss=None)
    config.save_pretrained(tmp_path)
    assert TPAVIConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"backbone_config": {"model_type": "swin"}},
            "model_type='swin'; TPAVI takes a PvtV2Config or a ResNetConfig",
        ),
        (
            {"backbone_config": {**BACKBONES["resnet"], "out_features": ["stage3", "stage4"]}},
            r"out_features=\['stage3', 'stage4'\]. Set out_features",
        ),
        ({"audio_config": VGGishConfig(embedding_dim=64)}, "audio_embedding_dim=128, but the audio encoder's"),
        ({"hidden_dim": 9}, "hidden_dim=9 must be even"),
        ({"head_hidden_sizes": [8]}, r"head_hidden_sizes=\[8\] must be two numbers"),
        ({"clip_length": 0}, "clip_length=0 must be at least 1"),
        ({"padded_clip_length": 7}, "padded_clip_length=7 must be a multiple of clip_length=5"),
        ({"avm_loss": "cosine", "num_labels": 7}, 'avm_loss="cosine" is for two labels'),
        ({"avm_target": "nearest", "num_labels": 7}, 'avm_loss="kl" with avm_target="nearest" is for two labels'),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        make_config(**fields)


def test_wrong_types_are_refused():
    with pytest.raises(StrictDataclassFieldValidationError):
        make_config(avm_pooling="median")
