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
"""Learning rates over the steps of a phase."""

from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import get_scheduler


def get_factor(step: int, first_step: int, num_warmup_steps: int, num_training_steps: int, power: float) -> float:
    """0 until `first_step`, then linear to 1 in the warm-up, then polynomial to 0 at the last step."""
    if step < first_step:
        return 0.0
    warmed_up = first_step + num_warmup_steps
    if step < warmed_up:
        return (step - first_step) / num_warmup_steps
    return max(1 - (step - warmed_up) / max(num_training_steps - warmed_up, 1), 0.0) ** power


def make_scheduler(
    name: str,
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_backbone_warmup_steps: int | None = None,
    power: float | None = None,
) -> LRScheduler:
    """
    Makes a schedule for all parameters, or a polynomial one that delays a pretrained backbone.

    Args:
        name (`str`):
            A schedule of `transformers`, by [`SchedulerType`].
        optimizer (`Optimizer`):
            With the groups of [`AudioVisualSegmentationMixin.get_parameter_groups`].
        num_warmup_steps (`int`):
            Steps of linear warm-up.
        num_training_steps (`int`):
            Steps in all.
        num_backbone_warmup_steps (`int`, *optional*):
            Steps of warm-up of the groups that are `is_backbone`. They begin where those of the others end; until then
            the rate is 0. Goes with `"polynomial"`.
        power (`float`, *optional*):
            Power of `"polynomial"`, which then falls to 0. By default it is that of `transformers`: 1, to 1e-7.
    """
    if num_backbone_warmup_steps is None:
        options = {} if power is None else {"power": power, "lr_end": 0.0}
        return get_scheduler(name, optimizer, num_warmup_steps, num_training_steps, scheduler_specific_kwargs=options)
    lambdas = [
        partial(
            get_factor,
            first_step=num_warmup_steps if group.get("is_backbone") else 0,
            num_warmup_steps=num_backbone_warmup_steps if group.get("is_backbone") else num_warmup_steps,
            num_training_steps=num_training_steps,
            power=1.0 if power is None else power,
        )
        for group in optimizer.param_groups
    ]
    return LambdaLR(optimizer, lambdas)


__all__ = ["make_scheduler"]
