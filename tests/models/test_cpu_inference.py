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

"""Large products by oneDNN are what torch's linear layers give, where nothing learns and nobody compiles."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from stepping_stones_hf.models.cpu_inference import Linear, linear, softmax_of_short_rows, speed_up_linear_layers


@pytest.fixture
def calls(monkeypatch):
    """Number of convolutions that were computed."""
    shapes, conv2d = [], nn.functional.conv2d
    monkeypatch.setattr(
        nn.functional, "conv2d", lambda input, *args: shapes.append(tuple(input.shape)) or conv2d(input, *args)
    )
    return shapes


def make_layer(dtype=torch.float32, bias=True):
    torch.manual_seed(0)
    return nn.Linear(192, 384, bias=bias).to(dtype)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2048,), (2, 1024), (2, 32, 32)])
def test_large_products(shape, bias, calls):
    layer, input = make_layer(bias=bias), torch.randn(*shape, 192)
    assert_close(linear(input, layer.weight, layer.bias), layer(input), atol=1e-5, rtol=1e-5)
    assert calls == [(1, 192, 1, 2048)]


def test_vectors_that_do_not_lie_one_after_the_other(calls):
    layer, maps = make_layer(), torch.randn(2, 192, 32, 32)
    input = maps.flatten(2).mT
    assert_close(linear(input, layer.weight, layer.bias), layer(input), atol=1e-5, rtol=1e-5)
    assert len(calls) == 1


def test_outputs_lie_one_after_the_other(calls):
    layer = make_layer()
    for input in (torch.randn(1, 192, 2048).mT, torch.randn(192, 2048).T):  # which have such a view already
        output = linear(input, layer.weight, layer.bias)
        assert output.stride() == layer(input).stride()
    assert len(calls) == 2


def test_without_onednn_all_is_left_to_torch(calls, monkeypatch):
    monkeypatch.setattr(torch._C, "_has_mkldnn", False)  # as on a Mac
    layer, input = make_layer(), torch.randn(2048, 192)
    assert_close(linear(input, layer.weight, layer.bias), layer(input), atol=0, rtol=0)
    assert not calls


@pytest.mark.parametrize("shape", [(3, 5, 4, 12), (7, 1), (1, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_softmax_of_short_rows(shape, dtype):
    logits = 10 * torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    output = softmax_of_short_rows(logits)
    assert output.is_contiguous()
    assert_close(output, logits.softmax(dim=-1))


@pytest.mark.parametrize("training", [True, False])
def test_layers_that_learn_are_those_of_torch_to_the_bit(training, calls):
    layer, input = Linear(192, 384).train(training), torch.randn(2048, 192)
    expected = nn.functional.linear(input, layer.weight, layer.bias)
    assert_close(layer(input), expected, atol=0, rtol=0)  # in evaluation, too, as long as there are gradients
    with torch.no_grad():  # as the first pass of gradient checkpointing
        output = layer(input)
    assert len(calls) == (0 if training else 1)
    assert_close(output, expected, atol=0 if training else 1e-5, rtol=0 if training else 1e-5)


def test_half_precision_of_large_products(calls):
    layer, input = make_layer(torch.bfloat16), torch.randn(2048, 192, dtype=torch.bfloat16)
    assert_close(linear(input, layer.weight, layer.bias), layer(input))
    with torch.autocast("cpu", torch.bfloat16):
        output = linear(input.float(), layer.weight.float(), layer.bias.float())
    assert output.dtype == torch.bfloat16 and len(calls) == 2
    assert_close(output, layer(input))


@pytest.mark.parametrize("shape", [(0,), (3,), (511,), (600,)])
def test_small_products_are_those_of_torch_to_the_bit(shape, calls):
    layer, input = make_layer(), torch.randn(*shape, 192)
    assert_close(linear(input, layer.weight, layer.bias), layer(input), atol=0, rtol=0)
    assert not calls


def test_double_precision_is_left_to_torch(calls):
    layer, input = make_layer(torch.float64), torch.randn(2048, 192, dtype=torch.float64)
    assert_close(linear(input, layer.weight, layer.bias), layer(input), atol=0, rtol=0)
    assert not calls


class Quantized(torch.Tensor):
    """Stands for weights that are something else than numbers in a row."""


def test_weights_of_another_type_are_left_to_torch(calls):
    layer, input = Linear(192, 384).eval().requires_grad_(False), torch.randn(2048, 192)
    expected = layer(input)
    assert len(calls) == 1
    layer.weight = nn.Parameter(layer.weight.detach().as_subclass(Quantized), requires_grad=False)
    assert_close(layer(input).as_subclass(torch.Tensor), expected, atol=1e-5, rtol=1e-5)
    assert len(calls) == 1


def test_a_compiler_sees_a_linear_layer():
    model = nn.Sequential(nn.Linear(192, 384)).eval().requires_grad_(False)
    speed_up_linear_layers(model)
    assert type(model[0]) is Linear
    program = torch.export.export(model, (torch.randn(2048, 192),))
    assert [node.name for node in program.graph.nodes if node.op == "call_function"] == ["linear"]
