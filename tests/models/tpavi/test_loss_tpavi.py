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

from .conftest import make_inputs, make_labels, make_model


def get_gradients(model, batches: list[dict], normalizers: torch.Tensor | None) -> tuple[torch.Tensor, dict]:
    model.zero_grad()
    total = torch.zeros(())
    for batch in batches:
        loss = model(**batch, num_items_in_batch=normalizers).loss
        loss.backward()
        total += loss.detach()
    return total, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def make_batch(model, num_frames=(5, 2, 5), annotated=(0, 3, 5, 6, 7)) -> dict:
    inputs = make_inputs(model, num_frames)
    labels = make_labels(model, sum(num_frames))
    kept = torch.zeros(len(labels), dtype=torch.bool)
    kept[list(annotated)] = True
    labels[~kept] = 255
    labels[:, :8] = 255  # a border without annotation
    return {**inputs, "labels": labels}


def split(batch: dict, num_clips: int) -> list[dict]:
    """The first clips, and the others."""
    first = batch["num_frames"][:num_clips].sum()
    parts = []
    for clips, frames in (
        (slice(num_clips), slice(first)),
        (slice(num_clips, None), slice(first, None)),
    ):
        parts.append({name: value[clips if name == "num_frames" else frames] for name, value in batch.items()})
    return parts


@pytest.mark.parametrize(
    ("num_labels", "fields"),
    [
        (2, {}),
        (2, {"avm_loss": None}),
        (2, {"avm_loss": "euclidean", "avm_normalize": True}),
        (2, {"avm_loss": "cosine"}),
        (7, {}),
        (7, {"avm_loss": None}),
    ],
    ids=["MS3", "S4", "euclidean", "cosine", "AVSS", "AVSS without matching"],
)
def test_micro_batches_give_the_loss_and_gradients_of_one_batch(num_labels, fields):
    # In eval mode: batch norms of a micro-batch are not those of the batch.
    model = make_model("pvt_v2", num_labels=num_labels, **fields)
    batch = make_batch(model)
    loss, gradients = get_gradients(model, [batch], None)
    parts = split(batch, 1)
    normalizers = sum(model.get_loss_normalizers(part) for part in parts)
    assert normalizers.tolist() == [5, 12]
    parts_loss, parts_gradients = get_gradients(model, parts, normalizers)
    assert_close(parts_loss, loss)
    for name, gradient in gradients.items():
        assert_close(parts_gradients[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_the_divergence_of_two_labels_is_a_sum_over_frames():
    model = make_model(num_labels=2)
    batch = make_batch(model)
    with torch.no_grad():
        whole = model(**batch).loss_dict["loss_avm"]
        parts = [model(**part).loss_dict["loss_avm"] for part in split(batch, 1)]
    assert_close(sum(parts), whole)


@pytest.mark.parametrize("num_labels", [2, 7])
def test_frames_and_pixels_without_annotation_are_not_supervised(num_labels):
    model = make_model(num_labels=num_labels, avm_loss=None)
    batch = make_batch(model)
    logits = torch.randn(12, 1 if num_labels == 2 else 7, 64, 96, requires_grad=True)
    losses = model.criterion(logits, batch["labels"], (), ())
    losses["loss_segmentation"].backward()
    supervised = logits.grad.abs().sum(1) > 0
    assert torch.equal(supervised, batch["labels"] != 255)

    with torch.no_grad():
        nothing = model.criterion(logits, torch.full_like(batch["labels"], 255), (), ())
    assert nothing["loss_segmentation"] == 0


def test_annotated_frames_count_alike_however_much_of_them_is_annotated():
    model = make_model(num_labels=7, avm_loss=None)
    logits = torch.randn(2, 7, 8, 8)
    labels = torch.randint(7, (2, 8, 8))
    labels[1, 2:] = 255
    with torch.no_grad():
        both = model.criterion(logits, labels, (), ())["loss_segmentation"]
        single = [
            model.criterion(logits[index : index + 1], labels[index : index + 1], (), ())["loss_segmentation"]
            for index in range(2)
        ]
    assert_close(both, sum(single) / 2)


def test_labels_of_another_size_are_compared_at_their_own():
    model = make_model(num_labels=7, avm_loss=None)
    logits, labels = torch.randn(2, 7, 8, 8), torch.randint(7, (2, 20, 20))
    resized = torch.nn.functional.interpolate(logits, (20, 20), mode="bilinear", align_corners=False)
    with torch.no_grad():
        assert_close(
            model.criterion(logits, labels, (), ())["loss_segmentation"],
            torch.nn.functional.cross_entropy(resized, labels),
        )


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
