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
"""The pair loss: which frames are pairs, and how they are compared."""

import pytest
import torch
from torch.testing import assert_close

from stepping_stones_hf import AAVSForAudioVisualSegmentation
from stepping_stones_hf.models.image_processing_base import score_queries
from stepping_stones_hf.models.pair_loss import AudioVisualPairHead, compute_pair_loss, label_pairs

from .aavs.conftest import make_config


def test_a_frame_is_a_pair_if_something_sounds_in_its_target():
    labels = torch.zeros(4, 2, 3, dtype=torch.int64)
    labels[1, 0, 0] = 7
    labels[2] = 255
    labels[3, 1] = 255
    for found, expected in zip(label_pairs(labels), ([0, 1, 0, 0], [1, 1, 0, 1])):
        assert found.tolist() == [bool(value) for value in expected]
    classes = [torch.tensor([0]), torch.tensor([0, 7]), torch.tensor([], dtype=torch.int64)]
    for found, expected in zip(label_pairs(classes), ([0, 1, 0], [1, 1, 1])):
        assert found.tolist() == [bool(value) for value in expected]


def test_sounds_are_compared_by_their_direction():
    head = AudioVisualPairHead(2, 2)
    with torch.no_grad():
        head.projection.weight.copy_(torch.eye(2))
        head.projection.bias.zero_()
    audio, visual = torch.tensor([[3.0, 0], [1, 1], [0, 2]]), torch.tensor([[0.5, 0], [1, 0], [0, -4]])
    assert_close(head((audio, visual)), torch.tensor([1.0, 2**-0.5, -1]))
    # In half precision as well, in which the lengths of such vectors overflow.
    long = head.half()((audio.half(), 10_000 * visual.half()))
    assert_close(long, torch.tensor([1.0, 2**-0.5, -1]), atol=1e-3, rtol=0)


def test_nothing_scales_the_cosine_so_that_the_loss_stays_between_its_bounds():
    pairs, labels = torch.tensor([1.0, -1.0]), torch.tensor([[[3]], [[0]]])
    assert compute_pair_loss(pairs, labels).item() == pytest.approx(0.3133, abs=1e-4)
    assert compute_pair_loss(-pairs, labels).item() == pytest.approx(1.3133, abs=1e-4)


def test_frames_without_annotation_do_not_count():
    labels = torch.tensor([[[3]], [[255]]])
    pairs = torch.tensor([0.2, 0.9], requires_grad=True)
    loss = compute_pair_loss(pairs, labels)
    loss.backward()
    assert_close(loss, compute_pair_loss(pairs[:1], labels[:1]))
    assert pairs.grad[0] != 0 and pairs.grad[1] == 0
    assert compute_pair_loss(pairs, torch.full_like(labels, 255)).item() == 0
    assert_close(compute_pair_loss(pairs, labels, num_pairs=torch.tensor(4.0)), loss / 4)


@pytest.mark.slow
def test_with_negatives_a_model_learns_to_leave_other_sounds_unmarked():
    """Four frames, each with an object of its own and its sound; beside them the same frames with others' sounds."""
    torch.manual_seed(0)
    config = make_config(num_labels=2, pair_loss_weight=1.0, init_std=0.2)
    model = AAVSForAudioVisualSegmentation(config).train()
    generator = torch.Generator().manual_seed(1)
    frames = torch.randn(4, 3, 64, 64, generator=generator)
    sounds = torch.randn(4, config.audio_embedding_dim, generator=generator)
    objects = torch.zeros(4, 64, 64)
    for index in range(4):
        top, left = 32 * (index // 2), 32 * (index % 2)
        objects[index, top : top + 32, left : left + 32] = 1
    frames += 3 * objects[:, None]
    inputs = {"pixel_values": frames.repeat(2, 1, 1, 1), "audio_embeddings": torch.cat([sounds, sounds.roll(1, 0)])}
    targets = {
        "mask_labels": [*torch.stack([1 - objects, objects], dim=1), *torch.ones(4, 1, 64, 64)],
        "class_labels": [torch.tensor([0, 1])] * 4 + [torch.tensor([0])] * 4,
    }
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
    for _ in range(60):
        outputs = model(**inputs, **targets)
        outputs.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(outputs.loss_dict["loss_pair"].item())
    assert losses[0] > 0.65 and losses[-1] < 0.5
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    marked = torch.stack([scores[1] > scores[0] for scores in score_queries(outputs, (64, 64))]).float()
    own, others = marked.mean(dim=(1, 2)).split(4)
    # A quarter of each frame is an object. On average: how such a training ends depends on how sums are rounded.
    assert own.mean() > 0.15 and others.mean() < own.mean() / 2
    sounding, other = outputs.pair_logits.split(4)
    assert sounding.mean() > 0.5 and other.mean() < 0
