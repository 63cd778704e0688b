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
Where models only compute, on the CPU: linear layers that leave large products to oneDNN. Torch computes linear layers
with MKL, which is made for CPUs of Intel and reaches 0.6 to 0.8 of oneDNN's rate on those of AMD; convolutions it
computes with oneDNN anyway. Where models learn nothing is gained, and all is as torch has it.
"""

import torch
from torch import nn


# From so many vectors on oneDNN gains more than it takes to arrange the weights, and from so many multiplications on
# more than the call of a convolution takes, about 30 microseconds.
MIN_VECTORS = 512
MIN_MULTIPLICATIONS = 2**27


def is_cpu_inference(module: nn.Module, *tensors: torch.Tensor) -> bool:
    """
    Whether a module only computes, on the CPU and without a compiler: then there may be a faster way to the same.
    Gradient checkpointing with reentry has no gradients at first, but has to be rounded as it is later: a module that
    is in training mode learns.
    """
    learns = module.training or torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    compiles = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return tensors[0].device.type == "cpu" and not learns and not compiles


def linear(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """
    [`torch.nn.functional.linear`], as a convolution of 1x1 where that is faster: for large products of plain tensors
    on the CPU.

    Args:
        input (`torch.Tensor` of shape `(..., in_features)`):
            Vectors.
        weight (`torch.Tensor` of shape `(out_features, in_features)`), bias (`torch.Tensor`, *optional*):
            Of the layer; the bias has shape `(out_features,)`.

    Returns:
        `torch.Tensor` of shape `(..., out_features)`.
    """
    if (
        input.numel() < MIN_VECTORS * weight.shape[1]
        or input.numel() * weight.shape[0] < MIN_MULTIPLICATIONS
        or input.dtype not in (torch.float32, torch.bfloat16)
        or type(weight) not in (torch.Tensor, nn.Parameter)  # e.g. quantized
        or not torch.backends.mkldnn.is_available()  # e.g. on a Mac
    ):
        return nn.functional.linear(input, weight, bias)
    # One image of one row, whose channels come last: (1, in_features, 1, vectors), without a copy. They do in the
    # output, too, which is contiguous as that of a linear layer is.
    image = input.contiguous().view(1, 1, -1, input.shape[-1]).permute(0, 3, 1, 2)
    output = nn.functional.conv2d(image, weight[:, :, None, None], bias)
    return output.permute(0, 2, 3, 1).view(*input.shape[:-1], -1)


def softmax_of_short_rows(logits: torch.Tensor) -> torch.Tensor:
    """
    The softmax over the last dimension, `(..., few)`, for many rows: torch takes rows one after the other, of columns
    as many at a time as fit a register.
    """
    return logits.flatten(0, -2).T.softmax(dim=0).T.contiguous().view_as(logits)


class Linear(nn.Linear):
    """[`torch.nn.Linear`] that computes its output with [`linear`] where nothing learns."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if is_cpu_inference(self, input, self.weight):
            return linear(input, self.weight, self.bias)
        return super().forward(input)


def speed_up_linear_layers(model: nn.Module) -> None:
    """Makes all linear layers of a model, transformers' own among them, [`Linear`]."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = Linear


__all__ = ["Linear", "is_cpu_inference", "linear", "softmax_of_short_rows", "speed_up_linear_layers"]
