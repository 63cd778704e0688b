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

from .conftest import make_inputs, make_model, make_targets


def make_batch(model, annotated=(0, 3, 5, 6)) -> dict:
    inputs = make_inputs(model, (5, 2))
    labels = make_targets(model, inputs)["labels"]
    kept = torch.zeros(len(labels), dtype=torch.bool)
    kept[list(annotated)] = True
    labels[~kept] = 255
    labels[:, :8] = 255  # a border without annotation
    return {**inputs, "labels": labels}


def get_gradients(model, batches: list[dict], normalizers: torch.Tensor | None) -> tuple[torch.Tensor, dict]:
    model.zero_grad()
    total = torch.zeros(())
    for batch in batches:
        loss = model(**batch, num_items_in_batch=normalizers).loss
        loss.backward()
        total += loss.detach()
    return total, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(("num_labels", "mask_loss"), [(2, "dice"), (2, "bce"), (7, "dice"), (7, "bce")])
def test_micro_batches_give_the_loss_and_gradients_of_one_batch(num_labels, mask_loss):
    model = make_model(num_labels=num_labels, mask_loss=mask_loss)
    batch = make_batch(model)
    loss, gradients = get_gradients(model, [batch], None)
    parts = [{name: value[frames] for name, value in batch.items()} for frames in (slice(3), slice(3, None))]
    normalizers = sum(model.get_loss_normalizers(part) for part in parts)
    assert normalizers.tolist() == [4]
    parts_loss, parts_gradients = get_gradients(model, parts, normalizers)
    assert_close(parts_loss, loss)
    for name, gradient in gradients.items():
        assert_close(parts_gradients[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize(("num_labels", "mask_loss"), [(2, "dice"), (2, "bce"), (7, "dice")])
def test_frames_and_pixels_without_annotation_are_not_supervised(num_labels, mask_loss):
    model = make_model(num_labels=num_labels, mask_loss=mask_loss)
    labels = make_batch(model)["labels"]
    logits = torch.randn(7, 1 if num_labels == 2 else 7, 64, 96, requires_grad=True)
    mask_features = torch.rand(7, 32, 64, 96, requires_grad=True)
    sum(model.criterion(logits, labels, mask_features).values()).backward()
    for tensor in (logits, mask_features):
        assert torch.equal(tensor.grad.abs().sum(1) > 0, labels != 255)
    with torch.no_grad():
        nothing = model.criterion(logits, torch.full_like(labels, 255), mask_features)
    assert nothing == {"loss_segmentation": 0, "loss_mix": 0}


def test_dice_of_what_is_known():
    model = make_model(num_labels=2)
    labels = torch.zeros(2, 8, 8, dtype=torch.int64)
    labels[0, :4] = 1
    logits = torch.where(labels == 1, 20.0, -20.0)[:, None]
    # The first frame is right; of the second, which is silent, half is marked.
    logits[1, :, :4] = 20.0
    mask_features = torch.zeros(2, 32, 2, 2)
    losses = model.criterion(logits, labels, mask_features)
    assert losses["loss_segmentation"].item() == pytest.approx((0 + 1) / 2, abs=1e-4)
    # A mask of one half everywhere: 1 - 2 * 16 / (64 / 4 + 32), and 1.
    assert losses["loss_mix"].item() == pytest.approx(0.1 * (1 - 32 / 48 + 1) / 2, abs=1e-4)


@pytest.mark.parametrize("sees_prompt", [False, True])
def test_the_mix_loss_sees_the_prompt_only_if_told_so(sees_prompt):
    for position in ("after_mixer", "before_mixer"):
        model = make_model(
            num_labels=7, use_mask_prompt=True, mask_prompt_position=position, mix_loss_sees_prompt=sees_prompt
        )
        batch = make_batch(model)
        with torch.no_grad():
            first = model(**batch).loss_dict
            second = model(**{**batch, "prompt_masks": 1 - batch["prompt_masks"]}).loss_dict
        assert first["loss_segmentation"] != second["loss_segmentation"]
        assert (first["loss_mix"] != second["loss_mix"]) == sees_prompt, position


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(7, 64, 96), "must be int64"),
        (
            torch.zeros(6, 64, 96, dtype=torch.int64),
            r"of shape \(7, height, width\).*got torch.int64 of shape \(6, 64",
        ),
        (torch.full((7, 64, 96), 2), r"from 0 to 1 \(config.num_labels=2\) or 255, got values from 2 to 2"),
        (torch.full((7, 64, 96), -1), "got values from -1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    model = make_model(num_labels=2)
    with pytest.raises(ValueError, match=message):
        model(**make_inputs(model), labels=labels)
