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
"""The fast way to points gives what transformers' plain one gives."""

from functools import partial

import pytest
import torch
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from transformers.models.mask2former.modeling_mask2former import multi_scale_deformable_attention

from stepping_stones_hf.models import deformable_attention
from stepping_stones_hf.models.deformable_attention import (
    MultiScaleDeformableAttention,
    gather_points,
    get_reference_points,
)


def make_inputs(shapes, batch_size=2, num_queries=7, num_heads=4, head_dim=8, num_points=3, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    num_pixels = sum(height * width for height, width in shapes)
    value = torch.randn(batch_size, num_pixels, num_heads, head_dim, generator=generator)
    points = (batch_size, num_queries, num_heads, len(shapes), num_points)
    locations = 3 * torch.rand(*points, 2, generator=generator) - 1  # two thirds of them outside
    weights = torch.rand(*points, generator=generator)
    return value.to(dtype), shapes, locations.to(dtype), weights.to(dtype)


@pytest.mark.parametrize(
    "shapes", [[(6, 9), (3, 5), (12, 18)], [(1, 1)], [(1, 40), (40, 1)], [(2, 2), (1, 1), (7, 3), (5, 5)]]
)
def test_sums_of_lookups_are_sums_of_sampled_values(shapes):
    inputs = make_inputs(shapes)
    assert_close(gather_points(*inputs), multi_scale_deformable_attention(*inputs), atol=1e-5, rtol=1e-5)


def test_points_on_the_edges_and_in_the_corners_of_pixels():
    value, shapes, locations, weights = make_inputs([(4, 8), (2, 4)])
    # From outside over all edges and centers.
    grid = torch.arange(-4, 20 + 1) / 16
    places = torch.cartesian_prod(grid, grid)[None, :, None, None, None].expand(2, -1, 4, 2, 1, 2)
    weights = torch.ones(places.shape[:-1])
    expected = multi_scale_deformable_attention(value, shapes, places, weights)
    assert_close(gather_points(value, shapes, places, weights), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_full_precision(dtype):
    inputs = make_inputs([(6, 9), (3, 5)], dtype=dtype)
    exact = multi_scale_deformable_attention(*(item.double() if torch.is_tensor(item) else item for item in inputs))
    output = gather_points(*inputs)
    assert output.dtype == dtype
    assert_close(output, exact.to(dtype), atol=1e-3, rtol=1e-2)


def test_double_precision_stays_double():
    inputs = make_inputs([(6, 9), (3, 5)], dtype=torch.float64)
    assert_close(gather_points(*inputs), multi_scale_deformable_attention(*inputs), atol=1e-13, rtol=1e-13)


def test_another_default_device_does_not_matter():
    inputs = make_inputs([(6, 9), (3, 5)])
    expected = gather_points(*inputs)
    with torch.device("meta"):
        output = gather_points(*inputs)
    assert_close(output, expected, atol=0, rtol=0)


def test_what_is_not_finite_stays_in_its_query():
    value, shapes, locations, weights = make_inputs([(6, 9), (3, 5)])
    locations[0, 2, 1, 0, 0, 0] = torch.nan
    locations[1, 3, 2, 1, 2, 1] = torch.inf
    output = gather_points(value, shapes, locations, weights)
    assert output[0, 2].view(4, 8).isnan().any(dim=1).tolist() == [False, True, False, False]
    output[0, 2] = 0
    assert output.isfinite().all()


@pytest.mark.parametrize("learns", range(3))
def test_who_learns_from_few_points_or_compiles_gets_the_plain_way(monkeypatch, learns):
    monkeypatch.setattr(deformable_attention, "gather_points", lambda *_: pytest.fail("the fast way"))
    attention = MultiScaleDeformableAttention().eval()

    def run(value, shapes, locations, weights):
        return attention(value, torch.tensor(shapes), shapes, torch.tensor([0, 54]), locations, weights, 64)

    value, shapes, locations, weights = make_inputs([(6, 9), (3, 5)])
    expected = multi_scale_deformable_attention(value, shapes, locations, weights)
    tensors = [value, locations, weights]
    tensors[learns].requires_grad_(True)
    output = run(value, shapes, locations, weights)
    assert_close(output, expected, atol=0, rtol=0)
    output.sum().backward()
    assert tensors[learns].grad.isfinite().all()
    with torch.no_grad():
        with pytest.raises(pytest.fail.Exception, match="the fast way"):
            run(value, shapes, locations, weights)
        attention.train()  # as a layer that is checkpointed with reentry runs first
        assert_close(run(value, shapes, locations, weights), expected, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_who_learns_from_many_points_keeps_no_samples_and_gets_the_gradients_of_samples(monkeypatch, dtype):
    monkeypatch.setattr(deformable_attention, "MIN_SAMPLES", 0)
    attention = MultiScaleDeformableAttention()
    value, shapes, locations, weights = make_inputs([(6, 9), (3, 5)], dtype=dtype)
    tensors = [tensor.requires_grad_(True) for tensor in (value, locations, weights)]
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        output = attention(value, torch.tensor(shapes), shapes, torch.tensor([0, 54]), locations, weights, 64)
    assert all(any(tensor is one for one in tensors) for tensor in kept)
    expected = multi_scale_deformable_attention(value, shapes, locations, weights)
    assert_close(output, expected, atol=1e-5, rtol=1e-5)
    output_grad = torch.randn(output.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    for grad, other in zip(
        torch.autograd.grad(output, tensors, output_grad), torch.autograd.grad(expected, tensors, output_grad)
    ):
        assert_close(grad, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_many_points_may_be_in_a_checkpoint(monkeypatch, use_reentrant):
    monkeypatch.setattr(deformable_attention, "MIN_SAMPLES", 0)
    attention = MultiScaleDeformableAttention()
    value, shapes, locations, weights = make_inputs([(6, 9), (3, 5)])
    tensors = [tensor.requires_grad_(True) for tensor in (value, locations, weights)]

    def run(value, locations, weights):
        return attention(value, torch.tensor(shapes), shapes, torch.tensor([0, 54]), locations, weights, 64)

    gradients = []
    for function in (run, partial(checkpoint, run, use_reentrant=use_reentrant)):
        function(*tensors).square().sum().backward()
        gradients.append([tensor.grad for tensor in tensors])
        for tensor in tensors:
            tensor.grad = None
    assert_close(*gradients, atol=0, rtol=0)


def test_many_points_have_no_second_derivatives(monkeypatch):
    monkeypatch.setattr(deformable_attention, "MIN_SAMPLES", 0)
    value, shapes, locations, weights = make_inputs([(6, 9), (3, 5)])
    value.requires_grad_(True)
    output = MultiScaleDeformableAttention()(
        value, torch.tensor(shapes), shapes, torch.tensor([0, 54]), locations, weights, 64
    )
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        torch.autograd.grad(output.sum(), value, create_graph=True)


@pytest.mark.parametrize("learns", [False, True])
def test_one_graph_has_any_number_of_frames(monkeypatch, learns):
    value, shapes, locations, weights = make_inputs([(6, 9), (3, 5)])
    # With one frame more there are as many samples as are not kept.
    monkeypatch.setattr(deformable_attention, "MIN_SAMPLES", (len(value) + 1) * weights[0].numel() * value.shape[-1])

    class Attention(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = MultiScaleDeformableAttention()

        def forward(self, value, locations, weights):
            return self.attention(value, torch.tensor(shapes), shapes, torch.tensor([0, 54]), locations, weights, 64)

    inputs = [tensor.requires_grad_(learns) for tensor in (value, locations, weights)]
    frames = torch.export.Dim("frames", min=2, max=64)
    exported = torch.export.export(Attention(), tuple(inputs), dynamic_shapes=[{0: frames}] * 3).module()
    more = [torch.cat([tensor] * 3) for tensor in inputs]
    assert_close(exported(*more), torch.cat([multi_scale_deformable_attention(value, shapes, *inputs[1:])] * 3))


def test_reference_points_are_the_centers_of_the_pixels():
    points = get_reference_points([(1, 2), (2, 1)], torch.zeros(0, dtype=torch.float64))
    assert points.shape == (1, 4, 2, 2) and points.dtype == torch.float64
    assert points[0, :, 0].tolist() == points[0, :, 1].tolist() == [[0.25, 0.5], [0.75, 0.5], [0.5, 0.25], [0.5, 0.75]]
