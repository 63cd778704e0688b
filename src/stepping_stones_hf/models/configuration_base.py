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
"""
What configs share: whether the parts fit one another, and, of models with queries, the places where the mask of a
localizer enters (Stepping Stones, section 3.3 and Table 4).
"""

import math

from transformers import PreTrainedConfig


def check_audio_config(config: PreTrainedConfig) -> None:
    """Raises a `ValueError` if the embeddings of the audio encoder, if there is one, are not what the model takes."""
    if config.audio_config is not None and config.audio_config.embedding_dim != config.audio_embedding_dim:
        raise ValueError(
            f"audio_embedding_dim={config.audio_embedding_dim}, but the audio encoder's embeddings have "
            f"{config.audio_config.embedding_dim} values (audio_config.embedding_dim). Make them equal."
        )


def check_pair_loss(config: PreTrainedConfig) -> None:
    """Raises a `ValueError` if the weight of the pair loss is none."""
    if not 0 <= config.pair_loss_weight < math.inf:
        raise ValueError(f"pair_loss_weight={config.pair_loss_weight} must be at least 0, which is no pair loss.")


def fill_prompt_fields(config: PreTrainedConfig) -> None:
    """Sets the fields that are `None` to what `config.use_mask_prompt` means: the prompt enters everywhere, or not."""
    if config.mask_prompt_fusion is None:
        config.mask_prompt_fusion = config.use_mask_prompt
    if config.mask_prompt_keys is None:
        config.mask_prompt_keys = config.use_mask_prompt
    if config.attention_mask_init is None:
        config.attention_mask_init = "prompt" if config.use_mask_prompt else "origin"


def check_prompt_fields(config: PreTrainedConfig) -> None:
    """Raises a `ValueError` where the fields contradict each other."""
    prompt_uses = {
        "mask_prompt_fusion=True": config.mask_prompt_fusion,
        "mask_prompt_keys=True": config.mask_prompt_keys,
        'attention_mask_init="prompt"': config.attention_mask_init == "prompt",
    }
    if not config.use_mask_prompt and any(prompt_uses.values()):
        raise ValueError(
            f"{', '.join(name for name, used in prompt_uses.items() if used)} needs the masks of a localizer, but "
            "use_mask_prompt=False. Set use_mask_prompt=True for a mask-prompted model, or leave the others out."
        )
    if config.use_mask_prompt and not any(prompt_uses.values()):
        raise ValueError(
            "use_mask_prompt=True, but the prompt is used nowhere: mask_prompt_fusion and mask_prompt_keys are "
            'False and attention_mask_init="origin". Switch one of them on, or set use_mask_prompt=False.'
        )
    if not 0 <= config.prompt_silence_threshold < config.prompt_sounding_threshold <= 1:
        raise ValueError(
            "The thresholds must satisfy 0 <= prompt_silence_threshold < prompt_sounding_threshold <= 1, got "
            f"{config.prompt_silence_threshold} and {config.prompt_sounding_threshold}."
        )


__all__ = ["check_audio_config", "check_pair_loss", "check_prompt_fields", "fill_prompt_fields"]
