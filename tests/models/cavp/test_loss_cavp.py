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
import torch
from torch.testing import assert_close

from stepping_stones_hf.models.cavp.loss_cavp import CAVPLoss, compute_contrastive_loss, sample_pixels

from .conftest import make_config


def make_features(labels: torch.Tensor, channels: int = 5) -> torch.Tensor:
    """Features by which a pixel can be told: its number in the batch in the first channel."""
    numbers = torch.arange(labels.numel(), dtype=torch.float).view(labels.shape)
    return torch.stack([numbers] + [torch.zeros_like(numbers)] * (channels - 1), dim=1)


class TestSampling:
    @pytest.fixture
    def labels(self) -> torch.Tensor:
        """30 pixels of background, 20 of class 3, 6 of class 1, 8 that are not annotated."""
        values = torch.tensor([0] * 30 + [3] * 20 + [1] * 6 + [255] * 8)
        return values[torch.randperm(64, generator=torch.Generator().manual_seed(0))].view(2, 4, 8)

    @pytest.mark.parametrize(
        ("max_views", "counts"),
        [
            (6, {1: 6, 3: 6, 0: 6, "others": 6}),
            (10, {3: 10, 0: 10, "others": 10}),  # class 1 is too small
            (20, {3: 20, 0: 20, "others": 20}),
            (21, {}),
        ],
    )
    def test_so_many_pixels_of_each_kind(self, labels, max_views, counts):
        others = torch.where(labels > 0, 7, 0)
        features = make_features(labels)
        samples, sample_labels = sample_pixels(features, -features - 1, labels, others, max_views)
        is_other = samples[:, 0] < 0
        found = dict(zip(*(values.tolist() for values in sample_labels[~is_other].unique(return_counts=True))))
        assert found | ({"others": int(is_other.sum())} if is_other.any() else {}) == counts
        # Each is a pixel of its class, none is drawn twice, and those with other sounds have a class with their own.
        numbers = samples[:, 0].long()
        assert torch.equal(labels.flatten()[numbers[~is_other]], sample_labels[~is_other])
        own = labels.flatten()[-numbers[is_other] - 1]
        assert ((own > 0) & (own != 255)).all() and (sample_labels[is_other] == 7).all()
        assert len(numbers.unique()) == len(numbers)

    def test_there_are_as_many_of_background_as_there_are(self):
        labels = torch.full((1, 4, 4), 2)
        labels[0, 0, :3] = 0
        _, sample_labels = sample_pixels(make_features(labels), make_features(labels), labels, labels * 0, 8)
        assert sample_labels.tolist() == [2] * 8 + [0] * 3 + [0] * 3


class TestContrastiveLoss:
    def test_a_pair_competes_with_other_classes_alone(self):
        """By hand, from the definition."""
        generator = torch.Generator().manual_seed(0)
        samples = torch.nn.functional.normalize(torch.randn(6, 4, generator=generator), dim=1)
        labels = torch.tensor([0, 0, 0, 1, 1, 2])
        logits = samples @ samples.T / 0.1
        total = 0.0
        for i in range(6):
            negatives = sum(logits[i, k].exp() for k in range(6) if labels[k] != labels[i])
            pairs = [j for j in range(6) if j != i and labels[j] == labels[i]]
            terms = [logits[i, j] - torch.log(logits[i, j].exp() + negatives) for j in pairs]
            total = total - (sum(terms) / len(terms) if terms else 0) / 6
        assert_close(compute_contrastive_loss(samples, labels, 0.1), total)

    def test_with_one_class_there_is_nothing_to_compare(self):
        samples = torch.eye(4)[:3].requires_grad_()
        loss = compute_contrastive_loss(samples, torch.zeros(3, dtype=torch.long), 0.1)
        loss.backward()
        assert loss == 0 and (samples.grad == 0).all()


class TestLoss:
    @pytest.fixture
    def inputs(self) -> dict:
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(3, (4, 16, 16), generator=generator)
        labels[:, :2] = 255
        return {
            "logits": torch.randn(4, 3, 16, 16, generator=generator),
            "labels": labels,
            "features": torch.randn(4, 5, 4, 4, generator=generator),
            "other_features": torch.randn(4, 5, 4, 4, generator=generator),
            "matches": torch.tensor([True, False, False, True]),
        }

    @pytest.fixture
    def criterion(self) -> CAVPLoss:
        return CAVPLoss(make_config(num_labels=3, contrastive_max_views=6, contrastive_weight=0.5))

    def test_normalizers_are_annotated_pixels_and_batches(self, criterion, inputs):
        assert criterion.get_normalizers(inputs["labels"]).tolist() == [4 * 14 * 16, 1]

    def test_two_batches_of_a_step_give_the_cross_entropy_of_one_and_the_mean_of_two_contrastive_losses(
        self, criterion, inputs
    ):
        whole = criterion(**inputs)
        halves = [{name: tensor[half] for name, tensor in inputs.items()} for half in (slice(0, 1), slice(1, 4))]
        normalizers = sum(criterion.get_normalizers(half["labels"]) for half in halves)
        torch.manual_seed(0)
        parts = [criterion(**half, num_items_in_batch=normalizers) for half in halves]
        torch.manual_seed(0)
        alone = [criterion(**half)["loss_contrastive"] for half in halves]
        assert_close(sum(part["loss_segmentation"] for part in parts), whole["loss_segmentation"])
        assert_close(sum(part["loss_contrastive"] for part in parts), sum(alone) / 2)

    def test_labels_of_another_size_are_compared_at_their_size(self, criterion, inputs):
        labels = inputs["labels"].repeat_interleave(2, 1).repeat_interleave(2, 2)
        logits = torch.nn.functional.interpolate(inputs["logits"], size=(32, 32), mode="bilinear")
        expected = torch.nn.functional.cross_entropy(logits, labels, ignore_index=255)
        assert_close(criterion(inputs["logits"], labels, inputs["features"])["loss_segmentation"], expected)

    def test_without_annotated_pixels_the_loss_is_zero(self, criterion, inputs):
        losses = criterion(**{**inputs, "labels": torch.full((4, 16, 16), 255)})
        assert [loss.item() for loss in losses.values()] == [0, 0]

    def test_what_is_silent_is_background_and_what_sounds_alike_is_not(self, criterion, inputs):
        losses = []
        for matches in (False, True):
            torch.manual_seed(0)
            losses.append(criterion(**{**inputs, "matches": torch.tensor([matches] * 4)})["loss_contrastive"])
        assert losses[0] != losses[1]
