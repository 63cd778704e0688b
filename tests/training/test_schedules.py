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

from stepping_stones_hf.training.schedules import make_scheduler


def get_rates(scheduler, num_steps: int) -> list[list[float]]:
    """The rates of all groups before each step."""
    rates = []
    for _ in range(num_steps):
        rates.append(scheduler.get_last_lr())
        scheduler.optimizer.step()
        scheduler.step()
    return rates


def make_optimizer(**backbone) -> torch.optim.Optimizer:
    rest, other = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    return torch.optim.AdamW([{"params": [rest]}, {"params": [other], "lr": 0.5, **backbone}], lr=1.0)


def test_a_schedule_without_a_delay_is_that_of_transformers():
    rates = get_rates(make_scheduler("linear", make_optimizer(), 2, 10), 10)
    expected = [0, 0.5, 1, *(1 - step / 8 for step in range(1, 8))]
    assert [rate for rate, _ in rates] == pytest.approx(expected)


@pytest.mark.parametrize("num_backbone_warmup_steps", [None, 0])
def test_a_polynomial_falls_to_zero_by_its_power(num_backbone_warmup_steps):
    """With a delay of no steps for a backbone that there is not it is the same."""
    scheduler = make_scheduler("polynomial", make_optimizer(), 2, 10, num_backbone_warmup_steps, power=0.9)
    expected = [0, 0.5, 1, *((1 - step / 8) ** 0.9 for step in range(1, 9))]
    rates = get_rates(scheduler, 11)
    assert [rate for rate, _ in rates] == pytest.approx(expected)
    assert [rate for _, rate in rates] == pytest.approx([rate / 2 for rate in expected])


def test_a_backbone_without_warm_up_begins_when_all_else_has_warmed_up():
    rates = get_rates(make_scheduler("polynomial", make_optimizer(is_backbone=True), 4, 10, 0), 11)
    assert [rate for _, rate in rates] == pytest.approx([0] * 4 + [0.5 * (1 - step / 6) for step in range(7)])
