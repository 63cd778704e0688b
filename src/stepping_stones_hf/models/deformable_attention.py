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
Multi-scale deformable attention ([Deformable DETR](https://huggingface.co/papers/2010.04159), section 4.1): each query
looks at a few points of each feature map, which it chooses itself.
"""

import torch
from torch import nn
from transformers.integrations import use_kernel_forward_from_hub
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention,
    multi_scale_deformable_attention,
)

from .cpu_inference import is_cpu_inference, softmax_of_short_rows


# From so many values at points on, in single precision 16 MB, a training on the CPU does not keep them.
MIN_SAMPLES = 2**22


def gather_points(
    value: torch.Tensor,
    spatial_shapes: list[tuple[int, int]],
    sampling_locations: torch.Tensor,
    attention_weights: torch.Tensor,
) -> torch.Tensor:
    """
    The weighted sum of the values at points, as `multi_scale_deformable_attention` of transformers gives it, in a
    single pass over what the points need: the value at a point is a weighted sum of the pixels around it, and the sum
    of these sums is one lookup in a table of pixels. The values at the points, 48 times what comes out for three
    feature maps and four points, are never in memory.

    Args:
        value (`torch.Tensor` of shape `(batch_size, pixels, num_heads, head_dim)`):
            Feature maps, one after the other.
        spatial_shapes (`list[tuple[int, int]]`):
            Height and width of each.
        sampling_locations (`torch.Tensor` of shape `(batch_size, queries, num_heads, levels, points, 2)`):
            x and y of the points, 0 to 1 from the one edge of a map to the other. What lies around a map is 0.
        attention_weights (`torch.Tensor` of shape `(batch_size, queries, num_heads, levels, points)`):
            Weights of the points.

    Returns:
        `torch.Tensor` of shape `(batch_size, queries, num_heads * head_dim)`.
    """
    device, dtype = value.device, torch.promote_types(value.dtype, torch.float32)  # half precision is summed in full
    batch_size, _, num_heads, head_dim = value.shape
    num_queries, (num_levels, num_points) = sampling_locations.shape[1], sampling_locations.shape[3:5]
    # Zeros around each map: one row and column before it, two after it.
    feature_maps = value.to(dtype).flatten(2).split([height * width for height, width in spatial_shapes], dim=1)
    feature_maps = [
        nn.functional.pad(feature_map.unflatten(1, shape), (0, 0, 1, 2, 1, 2)).flatten(1, 2)
        for feature_map, shape in zip(feature_maps, spatial_shapes)
    ]
    table = torch.cat(feature_maps, dim=1).view(-1, head_dim)  # (batch_size * padded pixels * num_heads, head_dim)
    num_lookups = batch_size * num_queries * num_heads * num_levels * num_points * 4
    integer = torch.int32 if num_lookups < 2**31 else torch.int64

    # What differs between maps, for each head and point: rows of numbers as long as those of a query, since short ones
    # cost more than what is computed of them.
    def spread(of_levels: list[int], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(of_levels, dtype=dtype, device=device).repeat_interleave(num_points).repeat(num_heads)

    # Column and row of the pixel above and to the left of a point, and how far the point is from it: in the steps of
    # `grid_sample`, since what is rounded otherwise here moves the point.
    heights, widths = (spread(sizes, dtype) for sizes in zip(*spatial_shapes))
    before = torch.full_like(widths, -1)
    x, y = sampling_locations.to(dtype).flatten(2, 4).unbind(-1)  # (batch_size, queries, heads * levels * points)
    x = (2 * x).sub_(1).add_(1).mul_(widths / 2).sub_(0.5).clamp_(before, widths)
    y = (2 * y).sub_(1).add_(1).mul_(heights / 2).sub_(0.5).clamp_(before, heights)
    column, row = x.floor(), y.floor()
    x, y = x.sub_(column), y.sub_(row)

    # Rows of the table.
    num_pixels = [feature_map.shape[1] for feature_map in feature_maps]
    first = [sum(num_pixels[:level]) + width + 4 for level, (_, width) in enumerate(spatial_shapes)]
    first = num_heads * spread(first, integer).view(num_heads, -1)
    first = (first + torch.arange(num_heads, dtype=integer, device=device)[:, None]).flatten()
    first = first + sum(num_pixels) * num_heads * torch.arange(batch_size, dtype=integer, device=device)[:, None, None]
    index = column.addcmul_(row, widths + 3).nan_to_num_()  # what comes out is NaN by x and y
    index = index.to(integer).mul_(num_heads).add_(first)
    below = index + spread([(width + 3) * num_heads for _, width in spatial_shapes], integer)

    weights = attention_weights.to(dtype).flatten(2)
    weights_below = weights * y
    weights = weights - weights_below
    right, right_below = weights * x, weights_below * x
    index = [index, index + num_heads, below, below + num_heads]
    weights = [weights.sub_(right), right, weights_below.sub_(right_below), right_below]
    index, weights = (
        torch.stack([corner.view(-1, num_levels * num_points) for corner in corners], dim=1).flatten(1)
        for corners in (index, weights)
    )
    output = nn.functional.embedding_bag(index, table, per_sample_weights=weights, mode="sum")
    return output.view(batch_size, num_queries, num_heads * head_dim).to(value.dtype)


class GatherPoints(torch.autograd.Function):
    """
    [`gather_points`] with the gradients of `multi_scale_deformable_attention`. The values at the points are sampled in
    the backward pass alone, of one frame and one feature map at a time, so that they stay in the caches; what is kept
    until then are the inputs.
    """

    @staticmethod
    def forward(
        ctx,
        value: torch.Tensor,
        spatial_shapes: list[tuple[int, int]],
        sampling_locations: torch.Tensor,
        attention_weights: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(value, sampling_locations, attention_weights)
        ctx.spatial_shapes = spatial_shapes
        return gather_points(value, spatial_shapes, sampling_locations, attention_weights)

    @staticmethod
    def backward(ctx, output_grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise NotImplementedError("Deformable attention has no second derivatives (create_graph=True).")
        value, locations, weights = tensors = ctx.saved_tensors  # checkpoints give them once
        value_grad, locations_grad, weights_grad = map(torch.empty_like, tensors)
        sizes = [height * width for height, width in ctx.spatial_shapes]
        for frame, grad in enumerate(output_grad.unflatten(2, value.shape[2:])):
            grad = grad.permute(1, 2, 0).contiguous()[..., None]  # (num_heads, head_dim, queries, 1)
            start = 0
            for level, (shape, size) in enumerate(zip(ctx.spatial_shapes, sizes)):
                pixels = slice(start, start + size)
                start += size
                feature_map = value[frame, pixels].permute(1, 2, 0).contiguous().unflatten(2, shape)
                grid = (2 * locations[frame, :, :, level] - 1).transpose(0, 1).contiguous()
                with torch.enable_grad():
                    samples = nn.functional.grid_sample(
                        feature_map.requires_grad_(), grid.requires_grad_(), align_corners=False
                    )  # of a grid (num_heads, queries, points, 2): (num_heads, head_dim, queries, points)
                level_weights = weights[frame, :, :, level].transpose(0, 1)[:, None]
                map_grad, grid_grad = torch.autograd.grad(samples, (feature_map, grid), grad * level_weights)
                value_grad[frame, pixels] = map_grad.flatten(2).permute(2, 0, 1)
                locations_grad[frame, :, :, level] = 2 * grid_grad.transpose(0, 1)
                weights_grad[frame, :, :, level] = (samples.detach() * grad).sum(1).transpose(0, 1)
        return value_grad, None, locations_grad, weights_grad


def get_reference_points(spatial_shapes: list[tuple[int, int]], like: torch.Tensor) -> torch.Tensor:
    """
    `(1, pixels, levels, 2)`: x and y of the centers of all maps' pixels, from 0 to 1, the same for each map; on the
    device of another tensor and in its precision.
    """
    points = []
    for height, width in spatial_shapes:
        y = (torch.arange(height, device=like.device) + 0.5) / height
        x = (torch.arange(width, device=like.device) + 0.5) / width
        points.append(torch.stack([x.repeat(height), y.repeat_interleave(width)], dim=-1))
    return torch.cat(points).to(like)[None, :, None].expand(-1, -1, len(spatial_shapes), -1)


@use_kernel_forward_from_hub("MultiScaleDeformableAttention")
class MultiScaleDeformableAttention(nn.Module):
    """
    What the kernels of the Hub take the place of, with `use_kernels=True` in `from_pretrained`. Its arguments, beside
    those of [`gather_points`], are theirs.
    """

    def forward(
        self,
        value: torch.Tensor,
        value_spatial_shapes: torch.Tensor,
        value_spatial_shapes_list: list[tuple[int, int]],
        level_start_index: torch.Tensor,
        sampling_locations: torch.Tensor,
        attention_weights: torch.Tensor,
        im2col_step: int,
    ) -> torch.Tensor:
        inputs = (value, value_spatial_shapes_list, sampling_locations, attention_weights)
        if is_cpu_inference(self, value, sampling_locations, attention_weights):
            return gather_points(*inputs)
        # Half precision, small inputs and compilers do better with the samples; the latter are not to see the size.
        if (
            not (torch.compiler.is_compiling() or torch.jit.is_tracing())
            and value.device.type == "cpu"
            and value.dtype == sampling_locations.dtype == attention_weights.dtype
            and value.dtype in (torch.float32, torch.float64)
            and attention_weights.numel() * value.shape[-1] >= MIN_SAMPLES
        ):
            return GatherPoints.apply(*inputs)
        return multi_scale_deformable_attention(*inputs)


class DeformableAttention(Mask2FormerPixelDecoderEncoderMultiscaleDeformableAttention):
    """Mask2Former's, of maps without padding, that leaves the points to [`MultiScaleDeformableAttention`]."""

    def __init__(self, embed_dim: int, num_heads: int, n_levels: int, n_points: int):
        super().__init__(embed_dim, num_heads, n_levels, n_points)
        self.attn = MultiScaleDeformableAttention()

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: torch.Tensor,
        reference_points: torch.Tensor,
        spatial_shapes: list[tuple[int, int]],
    ) -> torch.Tensor:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(batch_size, pixels, embed_dim)`):
                Feature maps, one after the other.
            position_embeddings (`torch.Tensor` of shape `(batch_size, pixels, embed_dim)`, or `(1, ...)` for all):
                Those of the pixels, added to what chooses points.
            reference_points (`torch.Tensor` of shape `(1, pixels, levels, 2)`):
                x and y of the pixels, 0 to 1, in each map.
            spatial_shapes (`list[tuple[int, int]]`):
                Height and width of each map.
        """
        batch_size, num_pixels, _ = hidden_states.shape
        heads, points = (batch_size, num_pixels, self.n_heads), (self.n_levels, self.n_points)
        # In transformers' order, in which gradients are summed.
        queries = hidden_states + position_embeddings
        value = self.value_proj(hidden_states).view(*heads, -1)
        offsets = self.sampling_offsets(queries).view(*heads, -1)
        weights = self.attention_weights(queries).view(*heads, -1)
        weights = softmax_of_short_rows(weights) if is_cpu_inference(self, weights) else weights.softmax(dim=-1)
        weights = weights.view(*heads, *points)
        shapes = torch.tensor(spatial_shapes, device=value.device)
        # In rows of a head's points: CPUs take short ones one by one.
        sizes = shapes.flip(1).repeat_interleave(self.n_points, dim=0).flatten()
        references = reference_points.repeat_interleave(self.n_points, dim=2).flatten(2)[:, :, None]
        locations = (references + offsets / sizes).view(*heads, *points, 2)
        starts = shapes.prod(1).cumsum(0) - shapes.prod(1)
        output = self.attn(value, shapes, spatial_shapes, starts, locations, weights, self.im2col_step)
        return self.output_proj(output)


__all__ = ["DeformableAttention", "MultiScaleDeformableAttention", "gather_points", "get_reference_points"]
