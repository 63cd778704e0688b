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
PVT-v2 and ResNet backbones as the released audio-visual segmentation programs have them (TPAVI, AVSegFormer and what
was built on these; CAVP's dilated ResNet): built from transformers' own classes, with the programs' layer norms, stems
and dilations, and filled from their names.
"""

import re
from pathlib import Path

import torch
from torch import nn
from transformers import AutoBackbone, AutoConfig, PreTrainedConfig, PreTrainedModel, PvtV2Config, ResNetConfig
from transformers.models.resnet.modeling_resnet import ResNetConvLayer

from .vggish.convert_vggish_original import load_checkpoint


# What the official PVT-v2 leaves at torch's default; its block and stage norms have 1e-6, transformers' default.
PVT_EMBEDDING_NORM_EPS = 1e-5
PVT_EMBEDDING_NORMS = re.compile(r"\.(patch_embedding|attention)\.layer_norm$")

STAGES = ["stage1", "stage2", "stage3", "stage4"]

# Fields of the config of PVT-v2-b5, as the released programs train it.
PVT_V2_B5 = {
    "hidden_sizes": [64, 128, 320, 512],
    "depths": [3, 6, 40, 3],
    "num_attention_heads": [1, 2, 5, 8],
    "mlp_ratios": [4, 4, 4, 4],
    "drop_path_rate": 0.1,
    "out_features": STAGES,
}

# Heads are the one size of PVT-v2 that its tensors do not tell; b0 to b5 all have these.
PVT_NUM_ATTENTION_HEADS = [1, 2, 5, 8]

# Modules of a deep stem, a `nn.Sequential` of convolutions, batch norms and activations, by their places in it.
DEEP_STEM_MODULES = {
    "0": "embedder.layers.0.convolution.",
    "1": "embedder.layers.0.normalization.",
    "3": "embedder.layers.1.convolution.",
    "4": "embedder.layers.1.normalization.",
    "6": "embedder.embedder.convolution.",
}

# (pattern, replacement) for the names of the official PVT-v2 and of torchvision's ResNet. The released programs call
# the third and fourth stage of ResNet `layer3_1` and `layer4_1`.
PVT_RENAMES = [
    (r"^patch_embed(\d)\.", lambda match: f"encoder.layers.{int(match[1]) - 1}.patch_embedding."),
    (r"^block(\d)\.", lambda match: f"encoder.layers.{int(match[1]) - 1}.blocks."),
    (r"^norm(\d)\.", lambda match: f"encoder.layers.{int(match[1]) - 1}.layer_norm."),
    (r"\.patch_embedding\.norm\.", ".patch_embedding.layer_norm."),
    (r"\.norm([12])\.", r".layer_norm_\1."),
    (r"\.attn\.q\.", ".attention.query."),
    (r"\.attn\.sr\.", ".attention.spatial_reduction."),
    (r"\.attn\.norm\.", ".attention.layer_norm."),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc([12])\.", r".mlp.dense\1."),
]
RESNET_RENAMES = [
    (r"^conv1\.([01346])\.", lambda match: DEEP_STEM_MODULES[match[1]]),
    (r"^conv1\.", "embedder.embedder.convolution."),
    (r"^bn1\.", "embedder.embedder.normalization."),
    (r"^layer(\d)(?:_1)?\.(\d+)\.", lambda match: f"encoder.stages.{int(match[1]) - 1}.layers.{match[2]}."),
    (r"\.conv(\d)\.", lambda match: f".layer.{int(match[1]) - 1}.convolution."),
    (r"\.bn(\d)\.", lambda match: f".layer.{int(match[1]) - 1}.normalization."),
    (r"\.downsample\.0\.", ".shortcut.convolution."),
    (r"\.downsample\.1\.", ".shortcut.normalization."),
]

# The released ResNet has its last two stages twice; the second copy takes part in nothing.
DEAD_BACKBONE_KEYS = re.compile(r"^layer[34]_2\.")

# The classifiers of ImageNet, by the names of PVT-v2, torchvision and transformers.
CLASSIFIER_KEYS = re.compile(r"^(head|fc|classifier)\.")

# Fields that change what a weight does without changing its shape.
MEANING_OF_WEIGHTS = (
    "num_attention_heads",
    "hidden_act",
    "strides",
    "linear_attention",
    "downsample_in_first_stage",
    "downsample_in_bottleneck",
    "rope_theta",
)


def restore_pvt_norms(backbone: PreTrainedModel) -> None:
    """
    Gives a PVT-v2 the released programs' layer norms: transformers has one epsilon for all of them, the official code
    another one (1e-5) in the patch embeddings and in the attention's spatial reduction. Without it the feature maps of
    released weights are off by about 1e-3.
    """
    for name, module in backbone.named_modules():
        if PVT_EMBEDDING_NORMS.search(name):
            module.eps = PVT_EMBEDDING_NORM_EPS


def build_backbone(config: PreTrainedConfig) -> PreTrainedModel:
    """
    Builds a backbone with random weights, a PVT-v2 with the released programs' layer norms.

    Args:
        config (`PvtV2Config`, `ResNetConfig` or another backbone's config):
            With `out_features` for the feature maps that are wanted.
    """
    backbone = AutoBackbone.from_config(config)
    # CODEPATH: PVT-v2 backbones; ResNet has no layer norms
    if config.model_type == "pvt_v2":
        restore_pvt_norms(backbone)
    return backbone


class ResNetDeepStem(nn.Module):
    """Three convolutions of 3x3 in place of ResNet's one of 7x7, which the last of them takes the place of."""

    def __init__(self, config: ResNetConfig):
        super().__init__()
        width = config.embedding_size // 2
        self.layers = nn.ModuleList(
            [
                ResNetConvLayer(config.num_channels, width, stride=2, activation=config.hidden_act),
                ResNetConvLayer(width, width, activation=config.hidden_act),
            ]
        )
        self.embedder = ResNetConvLayer(width, config.embedding_size, activation=config.hidden_act)
        self.pooler = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        # (frames, num_channels, height, width) -> (frames, embedding_size, height / 4, width / 4)
        for layer in self.layers:
            pixel_values = layer(pixel_values)
        return self.pooler(self.embedder(pixel_values))


def build_dilated_resnet(config: ResNetConfig) -> PreTrainedModel:
    """
    Builds a ResNet for dense prediction with random weights: with a deep stem, and with a last stage that keeps its
    input's size and whose blocks are dilated by 2, 4, 8, ... instead. transformers has neither. The feature maps have
    strides 4, 8, 16 and 16.

    Args:
        config (`ResNetConfig`):
            With bottleneck layers, and `out_features` for the feature maps that are wanted.
    """
    backbone = AutoBackbone.from_config(config)
    backbone.embedder = ResNetDeepStem(config)
    blocks = backbone.encoder.stages[-1].layers
    blocks[0].shortcut.convolution.stride = (1, 1)
    for index, block in enumerate(blocks):
        convolution, dilation = block.layer[1].convolution, 2 ** (index + 1)
        convolution.stride = (1, 1)
        convolution.dilation = convolution.padding = (dilation, dilation)
    return backbone


def check_backbone_config(config: PreTrainedConfig, model_name: str) -> None:
    """Raises a `ValueError` if a backbone is neither PVT-v2 nor ResNet, or has not the feature maps of four stages."""
    if config.model_type not in ("pvt_v2", "resnet"):
        raise ValueError(
            f"backbone_config has model_type={config.model_type!r}; {model_name} takes a PvtV2Config or a "
            "ResNetConfig."
        )
    if config.out_features != STAGES:
        raise ValueError(
            f"{model_name} takes the feature maps of strides 4, 8, 16 and 32; backbone_config has out_features="
            f'{config.out_features}. Set out_features=["stage1", "stage2", "stage3", "stage4"].'
        )


def convert_backbone_parameter(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """
    A parameter of a released PVT-v2 or ResNet under the names of transformers' backbones.

    Args:
        name (`str`):
            Name within the backbone, such as `block1.0.attn.kv.weight` or `layer3_1.0.conv1.weight`.
        tensor (`torch.Tensor`):
            Its value.

    Returns:
        `dict[str, torch.Tensor]`: one entry; two where transformers has keys and values apart; none for the ResNet's
        dead stages `layer3_2` and `layer4_2` and for ImageNet's classifier.
    """
    if DEAD_BACKBONE_KEYS.search(name) or CLASSIFIER_KEYS.search(name):
        return {}
    renames = PVT_RENAMES if re.match(r"(patch_embed|block|norm)\d\.", name) else RESNET_RENAMES
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    if ".attention.kv." in name:
        key, value = tensor.chunk(2)
        return {name.replace(".kv.", ".key."): key, name.replace(".kv.", ".value."): value}
    return {name: tensor}


def convert_backbone_state_dict(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State dict of a released PVT-v2 or ResNet under the names of transformers, see `convert_backbone_parameter`."""
    converted = {}
    for name, tensor in state_dict.items():
        converted |= convert_backbone_parameter(name, tensor)
    return converted


def infer_backbone_config(state_dict: dict[str, torch.Tensor], **kwargs) -> PvtV2Config | ResNetConfig:
    """
    Config of a released backbone, read off its weights.

    Args:
        state_dict (`dict[str, torch.Tensor]`):
            The backbone's weights by transformers' names (`convert_backbone_state_dict`).
        kwargs:
            Fields of the config that the weights do not tell or that shall differ, such as `drop_path_rate` or, for a
            PVT-v2 that is none of b0 to b5, `num_attention_heads`.

    Raises:
        `ValueError`: if the weights are those of neither.
    """
    kwargs = {"out_features": STAGES} | kwargs
    # CODEPATH: PVT-v2
    if "encoder.layers.0.patch_embedding.proj.weight" in state_dict:
        stages = range(count_modules(state_dict, "encoder.layers."))
        first = [f"encoder.layers.{stage}.blocks.0" for stage in stages]
        patches = [state_dict[f"encoder.layers.{stage}.patch_embedding.proj.weight"] for stage in stages]
        reductions = [state_dict.get(f"{block}.attention.spatial_reduction.weight") for block in first]
        widths = [state_dict[f"{block}.mlp.dense1.weight"].shape for block in first]
        return PvtV2Config(
            **{
                "num_channels": patches[0].shape[1],
                "hidden_sizes": [patch.shape[0] for patch in patches],
                "patch_sizes": [patch.shape[-1] for patch in patches],
                "depths": [count_modules(state_dict, f"encoder.layers.{stage}.blocks.") for stage in stages],
                "sr_ratios": [reduction.shape[-1] if reduction is not None else 1 for reduction in reductions],
                "mlp_ratios": [inner // outer for inner, outer in widths],
                "num_attention_heads": PVT_NUM_ATTENTION_HEADS,
                "qkv_bias": f"{first[0]}.attention.query.bias" in state_dict,
            }
            | kwargs
        )
    # CODEPATH: ResNet
    if "embedder.embedder.convolution.weight" in state_dict:
        stages = range(count_modules(state_dict, "encoder.stages."))
        depths = [count_modules(state_dict, f"encoder.stages.{stage}.layers.") for stage in stages]
        convs = count_modules(state_dict, "encoder.stages.0.layers.0.layer.")
        last = [f"encoder.stages.{stage}.layers.0.layer.{convs - 1}.convolution.weight" for stage in stages]
        stem = state_dict["embedder.embedder.convolution.weight"]
        return ResNetConfig(
            **{
                "num_channels": stem.shape[1],
                "embedding_size": stem.shape[0],
                "hidden_sizes": [state_dict[name].shape[0] for name in last],
                "depths": depths,
                "layer_type": "bottleneck" if convs == 3 else "basic",
            }
            | kwargs
        )
    raise ValueError("The checkpoint has no backbone that is known here: neither PVT-v2 (`patch_embed1`) nor ResNet.")


def count_modules(state_dict: dict[str, torch.Tensor], prefix: str) -> int:
    """Number of modules in the list whose names begin with `prefix`."""
    return len({name[len(prefix) :].split(".")[0] for name in state_dict if name.startswith(prefix)})


def load_backbone_weights(backbone: PreTrainedModel, pretrained_model_name_or_path: str | Path, **kwargs) -> None:
    """
    Fills a backbone from a checkpoint that was trained on ImageNet, as the released programs begin. Every parameter
    comes from the checkpoint, or none does.

    Args:
        backbone (`PreTrainedModel`):
            Backbone of a model, made by `build_backbone`; changed in place.
        pretrained_model_name_or_path (`str` or `Path`):
            Repository of the Hub or folder that transformers saved, with or without a classifier, such as
            `OpenGVLab/pvt_v2_b5` or `microsoft/resnet-50`; or a `.pth` or `.safetensors` file by the names of the
            official PVT-v2 (`pvt_v2_b5.pth`) or of torchvision (`resnet50-19c8e357.pth`), with which the released
            programs begin.
        kwargs:
            Passed on to `from_pretrained` (`revision`, `token`, ...).

    Raises:
        `ValueError`: if the checkpoint is one of another backbone.
    """
    source = read_backbone_weights(type(backbone), backbone.config, pretrained_model_name_or_path, **kwargs)
    fill_backbone(backbone, source, pretrained_model_name_or_path)


def read_backbone_weights(
    backbone_class: type[PreTrainedModel], config: PreTrainedConfig, name_or_path: str | Path, **kwargs
) -> dict[str, torch.Tensor]:
    """
    State dict of a pretrained backbone, whatever `load_backbone_weights` takes.

    Args:
        backbone_class (`type`):
            The class of transformers that the checkpoint is read into.
        config (`PreTrainedConfig`):
            Config of the backbone that is to be filled, with which that of the checkpoint has to go.

    Raises:
        `ValueError`: if the weights mean something else there.
    """
    name_or_path = str(name_or_path)
    if Path(name_or_path).suffix in (".pth", ".pt", ".bin", ".safetensors"):
        return convert_backbone_state_dict(load_checkpoint(name_or_path))
    theirs = AutoConfig.from_pretrained(name_or_path, **kwargs)
    differing = []
    for field in ("model_type", *MEANING_OF_WEIGHTS):
        there, here = (make_list(getattr(other, field, None)) for other in (theirs, config))
        if isinstance(there, list) and isinstance(here, list):
            there = there[: len(here)]  # of the stages that are here
        if hasattr(theirs, field) and there != here:
            differing.append(f"{field}={there!r} there, {here!r} here")
    if differing:
        raise ValueError(
            f"{name_or_path} does not fit the model's backbone: {'; '.join(differing)}. Make backbone_config that of "
            "the checkpoint."
        )
    pretrained, info = backbone_class.from_pretrained(
        name_or_path, output_loading_info=True, dtype=torch.float32, **kwargs
    )
    # With `ignore_mismatched_sizes` a parameter can have been initialized again instead of loaded.
    mismatched = {name if isinstance(name, str) else name[0] for name in info["mismatched_keys"]}
    not_loaded = set(info["missing_keys"]) | mismatched
    return {name: tensor for name, tensor in pretrained.state_dict().items() if name not in not_loaded}


def fill_backbone(backbone: PreTrainedModel, source: dict[str, torch.Tensor], name_or_path: str | Path) -> None:
    """Loads a state dict that has all that the backbone has, and nothing else, or raises a `ValueError`."""
    expected = backbone.state_dict()
    # torchvision's older checkpoints do not count batches, and batch norms with a momentum do not read the count.
    missing = [name for name in expected if name not in source and not name.endswith(".num_batches_tracked")]
    unexpected = [name for name in source if name not in expected]
    wrong = [name for name in expected if name in source and source[name].shape != expected[name].shape]
    if missing or unexpected or wrong:
        example = (wrong or missing or unexpected)[0]
        here, there = (
            tuple(tensors[example].shape) if example in tensors else "absent" for tensors in (expected, source)
        )
        raise ValueError(
            f"{name_or_path} does not fit the model's {backbone.config.model_type} backbone: {len(missing)} "
            f"parameters are missing there, {len(unexpected)} are unexpected and {len(wrong)} have another shape, "
            f"such as {example} ({here} here, {there} there). Make backbone_config that of the checkpoint."
        )
    backbone.load_state_dict(source, strict=False)


def make_list(value):
    """A tuple as a list, since JSON has no tuples."""
    return list(value) if isinstance(value, tuple) else value


__all__ = [
    "PVT_V2_B5",
    "build_backbone",
    "build_dilated_resnet",
    "check_backbone_config",
    "convert_backbone_parameter",
    "convert_backbone_state_dict",
    "count_modules",
    "fill_backbone",
    "infer_backbone_config",
    "load_backbone_weights",
    "read_backbone_weights",
    "restore_pvt_norms",
]
