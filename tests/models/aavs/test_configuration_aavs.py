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
from huggingface_hub.errors import StrictDataclassClassValidationError

from stepping_stones_hf import AAVSConfig, VGGishConfig


def test_defaults_follow_use_mask_prompt():
    first, second = AAVSConfig(), AAVSConfig(use_mask_prompt=True)
    names = ("mask_prompt_fusion", "mask_prompt_keys", "attention_mask_init")
    assert [getattr(first, name) for name in names] == [False, False, "origin"]
    assert [getattr(second, name) for name in names] == [True, True, "prompt"]
    assert first.audio_config is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"mask_prompt_fusion": True}, "mask_prompt_fusion=True needs the masks of a localizer"),
        ({"mask_prompt_keys": True}, "mask_prompt_keys=True needs the masks of a localizer"),
        ({"attention_mask_init": "prompt"}, 'attention_mask_init="prompt" needs the masks of a localizer'),
        (
            {
                "use_mask_prompt": True,
                "mask_prompt_fusion": False,
                "mask_prompt_keys": False,
                "attention_mask_init": "origin",
            },
            "the prompt is used nowhere",
        ),
        ({"prompt_silence_threshold": 0.7}, "prompt_silence_threshold < prompt_sounding_threshold"),
        ({"audio_embedding_dim": 64, "audio_config": VGGishConfig()}, "audio_embedding_dim=64"),
        ({"feature_size": 40}, "feature_size=40 must be a multiple of 32"),
        ({"hidden_dim": 100}, "hidden_dim=100 must be a multiple of num_attention_heads=8"),
        ({"backbone_config": {"model_type": "resnet"}}, "Swin backbone"),
        ({"backbone_config": {"model_type": "swin"}}, "feature maps of four stages"),
        ({"adapter_reduction": 0}, "must be at least 1"),
    ],
)
def test_contradictions_are_errors_when_the_config_is_made(overrides, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        AAVSConfig(**overrides)


@pytest.mark.parametrize(
    "overrides", [{"audio_query": "none"}, {"attention_mask_init": "audio"}, {"num_queries": "3"}]
)
def test_values_of_the_wrong_kind_are_errors(overrides):
    with pytest.raises(Exception, match=next(iter(overrides))):
        AAVSConfig(**overrides)


@pytest.mark.parametrize("audio_config", [None, VGGishConfig(conv_channels=[4, 8, 8, 8], hidden_size=16)])
def test_round_trip(tmp_path, audio_config):
    config = AAVSConfig(
        use_mask_prompt=True,
        mask_prompt_keys=False,
        audio_query="shared",
        num_queries=7,
        audio_config=audio_config,
        id2label={0: "background", 1: "violin", 2: "tuba"},
        label2id={"background": 0, "violin": 1, "tuba": 2},
    )
    config.save_pretrained(tmp_path)
    loaded = AAVSConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.num_labels == 3
    assert type(loaded.audio_config) is type(audio_config)
    assert loaded.backbone_config.depths == [2, 2, 18, 2]


@pytest.mark.parametrize("value", [False, True])
def test_a_field_of_before_is_known_and_not_kept(value):
    config = AAVSConfig(enforce_input_projection=value, feature_size=64, hidden_dim=32)
    assert config.to_dict() == AAVSConfig(feature_size=64, hidden_dim=32).to_dict()
    if value:
        with pytest.raises(ValueError, match="enforce_input_projection=True .*not supported any more"):
            AAVSConfig(enforce_input_projection=True)
    else:
        assert not hasattr(AAVSConfig(enforce_input_projection=False), "enforce_input_projection")
