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

from stepping_stones_hf.models.loss_mask_classification import MaskClassificationLoss

from .aavs.conftest import make_config, make_labels


@pytest.fixture
def criterion() -> MaskClassificationLoss:
    return MaskClassificationLoss(make_config(num_labels=4))


def make_predictions(num_frames: int, count: int = 2, requires_grad: bool = False) -> list[dict]:
    generator = torch.Generator().manual_seed(3)
    return [
        {
            "class_queries_logits": torch.randn(num_frames, 5, 5, generator=generator).requires_grad_(requires_grad),
            "masks_queries_logits": torch.randn(num_frames, 5, 16, 24, generator=generator).requires_grad_(
                requires_grad
            ),
        }
        for _ in range(count)
    ]


@pytest.fixture
def fixed_points(monkeypatch):
    """The same points for every frame and mask, so that a frame's loss does not depend on its batch."""
    grid = torch.quasirandom.SobolEngine(2).draw(96)

    def rand(count: int, num_points: int, two: int, **kwargs) -> torch.Tensor:
        return grid[:num_points].repeat(count, 1, 1)

    monkeypatch.setattr(torch, "rand", rand)


def test_perfect_predictions_cost_almost_nothing_in_any_order_of_the_queries(criterion):
    labels = make_labels(4)
    labels["mask_labels"] = [
        masks[:, :2, :2].repeat_interleave(32, 1).repeat_interleave(48, 2) for masks in labels["mask_labels"]
    ]
    class_logits, mask_logits = torch.full((3, 5, 5), -30.0), torch.zeros(3, 5, 64, 96)
    class_logits[..., 4] = 30
    for frame in range(3):
        for index, label in enumerate(labels["class_labels"][frame]):
            query = 4 - index  # an order that the matching has to find
            class_logits[frame, query, 4], class_logits[frame, query, label] = -30, 30
            mask_logits[frame, query] = 40 * labels["mask_labels"][frame][index] - 20
    losses = criterion([{"class_queries_logits": class_logits, "masks_queries_logits": mask_logits}], **labels)
    assert losses["loss_cross_entropy"] < 1e-4
    # Points between two pixels of an edge cost a little.
    assert losses["loss_dice"] < 0.5 and losses["loss_mask"] < 5


@pytest.mark.parametrize("split", [(1, 4), (2, 3), (1, 1, 3)])
def test_micro_batches_with_common_normalizers_give_the_gradients_of_the_whole(criterion, request, split):
    labels = make_labels(4, num_frames=5)
    whole, parts = make_predictions(5, requires_grad=True), make_predictions(5, requires_grad=True)
    request.getfixturevalue("fixed_points")
    sum(criterion(whole, **labels).values()).backward()

    normalizers = criterion.get_normalizers(labels["class_labels"])
    start = 0
    for length in split:
        frames = slice(start, start + length)
        predictions = [{name: value[frames] for name, value in prediction.items()} for prediction in parts]
        part = {name: value[frames] for name, value in labels.items()}
        sum(criterion(predictions, **part, num_items_in_batch=normalizers).values()).backward()
        start += length
    for prediction, expected in zip(parts, whole):
        for name in expected:
            assert_close(prediction[name].grad, expected[name].grad)


def test_normalizers_add_up_and_count_unmatched_targets(criterion):
    labels = [torch.arange(3), torch.arange(1), torch.arange(7) % 4]  # five queries: two of seven targets stay alone
    total = criterion.get_normalizers(labels)
    assert_close(total, torch.tensor([11.0, 9 + 0.1 * 6]))
    assert_close(criterion.get_normalizers(labels[:1]) + criterion.get_normalizers(labels[1:]), total)


def test_more_targets_than_queries(criterion):
    labels = make_labels(4, num_frames=1)
    labels = {
        "mask_labels": [labels["mask_labels"][0][:1].repeat(7, 1, 1)],
        "class_labels": [torch.arange(7) % 4],
    }
    losses = criterion(make_predictions(1), **labels)
    assert all(value.isfinite() for value in losses.values())


def test_frames_without_any_target_are_all_no_object(criterion):
    labels = {"mask_labels": [torch.zeros(0, 64, 96)], "class_labels": [torch.zeros(0, dtype=torch.long)]}
    predictions = make_predictions(1, count=1, requires_grad=True)
    losses = criterion(predictions, **labels)
    assert losses["loss_mask"] == 0 and losses["loss_dice"] == 0
    expected = -predictions[0]["class_queries_logits"].log_softmax(-1)[..., -1].mean()
    assert_close(losses["loss_cross_entropy"], 2 * expected)


def test_auxiliary_terms_can_be_switched_off():
    labels = make_labels(4)
    names = {}
    for use_auxiliary_loss in (True, False):
        criterion = MaskClassificationLoss(make_config(num_labels=4, use_auxiliary_loss=use_auxiliary_loss))
        names[use_auxiliary_loss] = set(criterion(make_predictions(3, count=3), **labels))
    terms = {"loss_cross_entropy", "loss_mask", "loss_dice"}
    assert names[False] == terms
    assert names[True] == terms | {f"{term}_{index}" for term in terms for index in (0, 1)}


def test_not_a_number_in_one_prediction_does_not_stop_the_matching(criterion):
    predictions = make_predictions(3)
    predictions[0]["class_queries_logits"][0, 0] = float("nan")
    losses = criterion(predictions, **make_labels(4))
    assert losses["loss_cross_entropy_0"].isnan() and losses["loss_cross_entropy"].isfinite()


def test_no_object_weight_of_the_config_counts_whatever_the_checkpoint_holds(criterion):
    labels = make_labels(4)
    heavy = MaskClassificationLoss(make_config(num_labels=4, no_object_weight=0.5))
    torch.manual_seed(0)
    expected = heavy(make_predictions(3, count=1), **labels)["loss_cross_entropy"]
    heavy.load_state_dict(criterion.state_dict())
    torch.manual_seed(0)
    assert_close(heavy(make_predictions(3, count=1), **labels)["loss_cross_entropy"], expected)


def test_labels_that_do_not_fit_are_clear_errors(criterion):
    labels = make_labels(4)
    with pytest.raises(ValueError, match="Frame 1 has 1 `mask_labels` and 2 `class_labels`"):
        classes = [labels["class_labels"][0], torch.tensor([0, 1]), labels["class_labels"][2]]
        criterion(make_predictions(3), labels["mask_labels"], classes)
    with pytest.raises((RuntimeError, IndexError)):  # a class beyond the labels is not taken for "no object"
        criterion(make_predictions(1), [labels["mask_labels"][1]], [torch.tensor([4])])
    with pytest.raises(ValueError, match="3 frames need as many `mask_labels` and `class_labels`, got 2 and 2"):
        criterion(make_predictions(3), labels["mask_labels"][:2], labels["class_labels"][:2])
    masks = [*labels["mask_labels"][:2], labels["mask_labels"][2][:, :32]]
    with pytest.raises(ValueError, match=r"one height and width, got \[\(32, 96\), \(64, 96\)\]"):
        criterion(make_predictions(3), masks, labels["class_labels"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_matches_and_costs_what_single_precision_does(dtype):
    # 12,544 points of masks that the model is sure of: in float16 their sum is infinite.
    criterion = MaskClassificationLoss(make_config(num_labels=4, train_num_points=12544))
    labels = make_labels(4)
    masks = torch.nn.utils.rnn.pad_sequence(labels["mask_labels"], batch_first=True)
    class_logits, mask_logits = torch.zeros(3, 5, 5), torch.full((3, 5, *masks.shape[-2:]), -9.0)
    for frame, classes in enumerate(labels["class_labels"]):
        for index, label in enumerate(classes):
            class_logits[frame, 4 - index, label] = 5
            mask_logits[frame, 4 - index] = 18 * masks[frame, index] - 9
    predictions = [{"class_queries_logits": class_logits, "masks_queries_logits": mask_logits}]

    def compute(enabled: bool) -> tuple[list, dict]:
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            pairs = criterion.match(mask_logits, class_logits, masks, labels["class_labels"])
            return [indices.tolist() for indices in pairs], criterion(predictions, **labels)

    (pairs, losses), (expected_pairs, expected) = compute(True), compute(False)
    assert pairs == expected_pairs
    assert all(query == 4 - target for query, target in zip(pairs[1], pairs[2]))
    for name in expected:
        assert_close(losses[name], expected[name], rtol=1e-5, atol=1e-6)
