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
Loads checkpoints of torchvggish, the PyTorch port of the VGGish that was released with AudioSet.
"""

import os
from pathlib import Path

import torch
from safetensors.torch import load_file

from .configuration_vggish import VGGishConfig
from .modeling_vggish import VGGishModel


# torchvggish numbers the modules of two `nn.Sequential`, with their activations and poolings.
ORIGINAL_LAYERS = {
    "features.0": "stages.0.convs.0",
    "features.3": "stages.1.convs.0",
    "features.6": "stages.2.convs.0",
    "features.8": "stages.2.convs.1",
    "features.11": "stages.3.convs.0",
    "features.13": "stages.3.convs.1",
    "embeddings.0": "fc1",
    "embeddings.2": "fc2",
    "embeddings.4": "projection",
}
ORIGINAL_KEYS = {
    f"{original}.{parameter}": f"{ours}.{parameter}"
    for original, ours in ORIGINAL_LAYERS.items()
    for parameter in ("weight", "bias")
}
# PCA and quantization of the AudioSet release, which the models of this library do without.
POSTPROCESSOR_PREFIX = "pproc."


def convert_vggish_state_dict(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """
    Renames the weights of torchvggish to those of [`VGGishModel`]. The PCA post-processor (`pproc.*`), where there is
    one, is left out on purpose.

    Args:
        state_dict (`dict[str, torch.Tensor]`):
            The weights as torchvggish names them.

    Returns:
        `dict[str, torch.Tensor]`: those of [`VGGishModel`].

    Raises:
        `ValueError`: naming the keys that are not torchvggish's and those that are missing, if there are any.
    """
    keys = {key for key in state_dict if not key.startswith(POSTPROCESSOR_PREFIX)}
    unexpected = sorted(keys - ORIGINAL_KEYS.keys())
    missing = sorted(ORIGINAL_KEYS.keys() - keys)
    if unexpected or missing:
        raise ValueError(
            f"These are not the weights of torchvggish. Keys that have no place in VGGish: {unexpected or 'none'}. "
            f"Keys that are missing: {missing or 'none'}."
        )
    return {ours: state_dict[original] for original, ours in ORIGINAL_KEYS.items()}


def load_checkpoint(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """
    State dict of a `.safetensors` file, or of a file of `torch.save`, from which nothing but tensors is read; of one
    that also has what training resumes with the entry `model`.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"No checkpoint at {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state_dict = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as .safetensors or by torch.load(weights_only=True), which admits nothing but "
            f"tensors ({type(error).__name__}). Save the model's state_dict() with torch.save, or as .safetensors."
        ) from error
    if isinstance(state_dict, dict) and isinstance(state_dict.get("model"), dict):
        state_dict = state_dict["model"]
    if not isinstance(state_dict, dict) or not all(isinstance(value, torch.Tensor) for value in state_dict.values()):
        raise ValueError(f"{path} holds no state dict. Save the model's state_dict() with torch.save.")
    return state_dict


def infer_vggish_config(state_dict: dict[str, torch.Tensor], **fields) -> VGGishConfig:
    """Config of a [`VGGishModel`] with the widths that its weights have, and fields that these do not tell."""
    return VGGishConfig(
        conv_channels=[len(state_dict[f"stages.{stage}.convs.0.bias"]) for stage in range(4)],
        hidden_size=len(state_dict["fc1.bias"]),
        embedding_dim=len(state_dict["projection.bias"]),
        **fields,
    )


def load_vggish(path: str | os.PathLike, final_relu: bool = False) -> VGGishModel:
    """
    Makes a [`VGGishModel`] from a checkpoint of torchvggish. The widths of the layers are read off the weights.

    Args:
        path (`str` or `os.PathLike`):
            A `.pth` or `.safetensors` file with torchvggish's state dict.
        final_relu (`bool`, *optional*, defaults to `False`):
            Whether the model ends with a ReLU, see [`VGGishConfig`].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds no state dict, or the weights are not those of torchvggish.
    """
    state_dict = load_checkpoint(path)
    try:
        state_dict = convert_vggish_state_dict(state_dict)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    model = VGGishModel(infer_vggish_config(state_dict, final_relu=final_relu))
    wrong = [
        f"{name} {tuple(state_dict[name].shape)} (should be {tuple(parameter.shape)})"
        for name, parameter in model.named_parameters()
        if state_dict[name].shape != parameter.shape
    ]
    if wrong:
        raise ValueError(f"{path}: the shapes of these weights do not fit together: {', '.join(wrong)}.")
    model.load_state_dict(state_dict)
    return model.eval()


__all__ = ["convert_vggish_state_dict", "infer_vggish_config", "load_checkpoint", "load_vggish"]
