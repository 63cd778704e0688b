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
Weights from elsewhere: released AAVS checkpoints (`stepping-stones convert --model aavs`), and Mask2Former checkpoints
of the Hub to start training from.
"""

import re
from pathlib import Path

import torch
from transformers import Mask2FormerForUniversalSegmentation, PreTrainedConfig, SwinConfig

from ..conversion import Conversion, load_converted, read_json, save_converted
from ..vggish import VGGishConfig, VGGishFeatureExtractor
from ..vggish.convert_vggish_original import load_checkpoint, load_vggish
from .configuration_aavs import AAVSConfig
from .image_processing_pil_aavs import AAVSImageProcessorPil
from .modeling_aavs import AAVSForAudioVisualSegmentation
from .processing_aavs import AAVSProcessor


# (pattern, replacement), applied in this order to every key. The patterns cover the names of the released checkpoints,
# which hold a Mask2Former of transformers 4.35 as `model.*`, and of a Mask2Former of transformers 5.
KEY_RENAMES = [
    (r"^model\.(model|class_predictor|criterion)\.", r"\1."),
    (r"^audio_proj\.0\.", "model.audio_projector.linear_1."),
    (r"^audio_proj\.2\.", "model.audio_projector.linear_2."),
    # Backbone
    (r"^model\.pixel_level_module\.encoder\.(embeddings|encoder)\.", r"model.backbone.swin.\1."),
    (r"^model\.pixel_level_module\.encoder\.", "model.backbone."),
    (r"\.attention\.output\.swin_adapt_1\.", ".attention.adapter."),
    (r"\.output\.swin_adapt_3\.", ".mlp.adapter."),
    (r"\.attention\.self\.(query|key|value)\.", lambda match: f".attention.{match[1][0]}_proj."),
    (
        r"\.attention\.self\.relative_position_bias_table",
        ".attention.relative_position_bias.relative_position_bias_table",
    ),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    # Pixel decoder
    (r"^model\.pixel_level_module\.decoder\.", "model.pixel_decoder."),
    (r"^(model\.pixel_decoder\..*)\.avs_adapt\.", r"\1.adapter."),
    # Transformer decoder
    (r"^model\.transformer_module\.decoder\.mask_predictor\.", "model.decoder."),
    (r"^model\.transformer_module\.decoder\.", "model.decoder."),
    (r"^(model\.decoder\..*)\.avs_adapt\.", r"\1.adapter."),
    (r"^model\.transformer_module\.queries_", "model.decoder.audio_query.queries_"),
    (r"^model\.transformer_module\.audio_embed\.", "model.decoder.audio_aware_key.sounding_embed."),
    (r"^model\.transformer_module\.(silence|uncertain)_embed\.", r"model.decoder.audio_aware_key.\1_embed."),
    (r"^model\.transformer_module\.", "model.decoder."),
    # The two linear layers of every adapter
    (r"\.adapter\.0\.", ".adapter.down_proj."),
    (r"\.adapter\.2\.", ".adapter.up_proj."),
]

# `relative_position_index` follows from the window size; Swin's last layer norm is read by nobody.
DROPPED_KEYS = re.compile(r"\.relative_position_index$|\.swin\.layernorm\.")

# Checkpoints of the first stage have them, and its program does not apply them.
OUTPUT_PROJECTIONS = re.compile(r"\.self_attn\.(out|output)_proj\.(weight|bias)$")

# What a Mask2Former checkpoint need not have: what AAVS adds, and what has one row per label or per query.
NEW_OR_RESIZED = re.compile(
    r"\.adapter\.|\.audio_encoder\.|\.audio_projector\.|\.audio_aware_key\.|\.audio_query\.|"
    r"^class_predictor\.|^criterion\.empty_weight$"
)

PIXEL_ATTENTION = "model.pixel_decoder.encoder.layers.0.self_attn"

# Sizes are read off these.
REQUIRED_KEYS = {f"{PIXEL_ATTENTION}.adapter.up_proj.weight", "model.audio_projector.linear_1.weight"}

# Fields of a released config.json that AAVSConfig does not have, and the only values that mean the same without them.
IMPLIED_FIELDS = {"pre_norm": False, "ignore_value": 255}


def rename_key(key: str) -> str:
    """The name here of a parameter of a released AAVS checkpoint or of a Mask2Former."""
    for pattern, replacement in KEY_RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def convert_aavs_state_dict(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State dict of a released AAVS checkpoint, or of a Mask2Former, under the names of this library."""
    return {rename_key(key): value for key, value in state_dict.items() if not DROPPED_KEYS.search(key)}


def convert_aavs_config(
    original_config: dict, state_dict: dict[str, torch.Tensor], stage: int, audio_config: VGGishConfig | None = None
) -> AAVSConfig:
    """
    Config of a released checkpoint.

    Args:
        original_config (`dict`):
            Content of the checkpoint's `config.json`, which is a Mask2Former config.
        state_dict (`dict[str, torch.Tensor]`):
            The checkpoint under the names of this library; it holds sizes that the original config does not.
        stage (`int`):
            1 (localization) or 2 (semantics, prompted with masks).
        audio_config (`VGGishConfig`, *optional*):
            Config of the audio encoder, if the model is to have one.

    Raises:
        `ValueError`: if the original config has a value that AAVS does not support.
    """
    missing = [name for name in ("backbone_config", "id2label", "label2id") if name not in original_config]
    if missing:
        raise ValueError(f"The original config has no {', '.join(missing)}. Pass the checkpoint's own config.json.")
    for name, implied in IMPLIED_FIELDS.items():
        if original_config.get(name, implied) != implied:
            raise ValueError(
                f"The original config has {name}={original_config[name]!r}; only {implied!r} is supported."
            )
    backbone_config = original_config["backbone_config"]
    adapter_width, bottleneck = state_dict[f"{PIXEL_ATTENTION}.adapter.up_proj.weight"].shape
    projection_dim, embedding_dim = state_dict["model.audio_projector.linear_1.weight"].shape
    return AAVSConfig(
        **{name: original_config[name] for name in get_own_fields(AAVSConfig, original_config)},
        id2label=original_config["id2label"],
        label2id=original_config["label2id"],
        backbone_config=SwinConfig(
            **{name: backbone_config[name] for name in get_own_fields(SwinConfig, backbone_config)},
            out_features=["stage1", "stage2", "stage3", "stage4"],
        ),
        audio_config=audio_config,
        audio_embedding_dim=embedding_dim,
        audio_projection_dim=projection_dim,
        adapter_reduction=adapter_width // bottleneck,
        use_mask_prompt=stage == 2,
        apply_output_projection=stage == 2,
    )


def get_own_fields(config_class: type[PreTrainedConfig], values: dict) -> set[str]:
    """The fields that `config_class` itself declares and that `values` sets."""
    own = set(config_class.__dataclass_fields__) - set(PreTrainedConfig.__dataclass_fields__)
    return {name for name in own - {"backbone_config"} if values.get(name) is not None}


def convert_aavs_checkpoint(
    checkpoint: str | Path,
    config: str | Path,
    stage: int,
    output_dir: str | Path,
    preprocessor_config: str | Path | None = None,
    vggish: str | Path | None = None,
) -> Conversion:
    """
    Converts a released checkpoint and writes config, weights and processor to `output_dir`, unless a key is left over.

    Args:
        checkpoint (`str` or `Path`):
            `.pth` or `.safetensors` file with the names of the released checkpoints.
        config (`str` or `Path`):
            The checkpoint's original `config.json`.
        stage (`int`):
            1 (localization) or 2 (semantics, prompted with masks).
        output_dir (`str` or `Path`):
            Folder to write to.
        preprocessor_config (`str` or `Path`, *optional*):
            The checkpoint's original `preprocessor_config.json`, for size, mean and standard deviation.
        vggish (`str` or `Path`, *optional*):
            torchvggish checkpoint; without it the model has no audio encoder.

    Returns:
        [`Conversion`]: what is left over, if anything, by the checkpoint's names, and what was left out.
    """
    original = load_checkpoint(checkpoint)
    state_dict = convert_aavs_state_dict(original)
    image_options = read_json(preprocessor_config) if preprocessor_config is not None else {}
    original_config = read_json(config)
    # The released embeddings were taken before VGGish's last ReLU.
    audio_encoder = load_vggish(vggish, final_relu=False) if vggish is not None else None
    absent = sorted(REQUIRED_KEYS - state_dict.keys())
    if absent:
        raise ValueError(f"{checkpoint} is no AAVS checkpoint: it has nothing that becomes {absent[0]}.")
    aavs_config = convert_aavs_config(
        original_config, state_dict, stage, audio_encoder.config if audio_encoder is not None else None
    )
    model = AAVSForAudioVisualSegmentation(aavs_config)
    audio_weights = audio_encoder.state_dict() if audio_encoder is not None else {}

    def convert_parameter(key: str, value: torch.Tensor) -> dict[str, torch.Tensor]:
        name = rename_key(key)
        idle = not aavs_config.apply_output_projection and OUTPUT_PROJECTIONS.search(name)
        return {} if idle or DROPPED_KEYS.search(key) else {name: value}

    conversion = load_converted(
        model,
        original,
        convert_parameter,
        {f"model.audio_encoder.{key}": value for key, value in audio_weights.items()},
    )
    if not conversion.unexpected and not conversion.missing:
        options = {name: image_options[name] for name in ("size", "image_mean", "image_std") if name in image_options}
        processor = AAVSProcessor(AAVSImageProcessorPil(**options, localization=stage == 1), VGGishFeatureExtractor())
        save_converted(model, processor, output_dir)
    return conversion


def load_mask2former_weights(
    model: AAVSForAudioVisualSegmentation, pretrained_model_name_or_path: str | Path, **kwargs
) -> list[str]:
    """
    Starts `model` from a Mask2Former checkpoint, as the paper does from `facebook/mask2former-swin-base-ade-semantic`.
    What Mask2Former does not have (adapters, audio, prompt) and what depends on the number of labels or queries, where
    that differs, keeps its initial weights.

    Args:
        model ([`AAVSForAudioVisualSegmentation`]):
            Changed in place.
        pretrained_model_name_or_path (`str` or `Path`):
            Repository of the Hub or folder of a `Mask2FormerForUniversalSegmentation` with a Swin backbone.
        kwargs:
            Passed on to `Mask2FormerForUniversalSegmentation.from_pretrained` (`revision`, `token`, ...).

    Returns:
        `list[str]`: names of the parameters that kept their initial weights.

    Raises:
        `ValueError`: if a parameter that must come from the checkpoint is not in it or has another shape there.

    Example:

    ```python
    >>> from stepping_stones_hf import AAVSConfig, AAVSForAudioVisualSegmentation, load_mask2former_weights

    >>> model = AAVSForAudioVisualSegmentation(AAVSConfig(num_labels=71, use_mask_prompt=True))  # doctest: +SKIP
    >>> new = load_mask2former_weights(model, "facebook/mask2former-swin-base-ade-semantic")  # doctest: +SKIP
    ```
    """
    mask2former, info = Mask2FormerForUniversalSegmentation.from_pretrained(
        pretrained_model_name_or_path, output_loading_info=True, dtype=torch.float32, **kwargs
    )
    # With `ignore_mismatched_sizes` a parameter can have been initialized again instead of loaded.
    mismatched = {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]}
    not_loaded = set(info["missing_keys"]) | mismatched
    source = {rename_key(key): value for key, value in mask2former.state_dict().items() if key not in not_loaded}
    expected = model.state_dict()
    idle = DROPPED_KEYS
    if not model.config.apply_output_projection:
        idle = re.compile(f"{DROPPED_KEYS.pattern}|{OUTPUT_PROJECTIONS.pattern}")
    surplus = [key for key in source if key not in expected and not idle.search(key)]
    if surplus:
        raise ValueError(
            f"{pretrained_model_name_or_path} has {len(surplus)} parameters that this model has no place for, such as "
            f"{surplus[0]}. Compare the checkpoint's config with the model's: numbers of layers first."
        )
    loaded = {key: source[key] for key in expected if key in source and source[key].shape == expected[key].shape}
    kept = [key for key in expected if key not in loaded]
    wrong = [key for key in kept if not NEW_OR_RESIZED.search(key)]
    if wrong:
        raise ValueError(
            f"{pretrained_model_name_or_path} does not fit this model: {len(wrong)} parameters are missing there or "
            f"have another shape, such as {wrong[0]} ({tuple(expected[wrong[0]].shape)} here, "
            f"{tuple(source[wrong[0]].shape) if wrong[0] in source else 'absent'} there). Compare the checkpoint's "
            "config with the model's, backbone_config first."
        )
    model.load_state_dict(loaded, strict=False)
    return kept


__all__ = ["convert_aavs_checkpoint", "convert_aavs_config", "convert_aavs_state_dict", "load_mask2former_weights"]
