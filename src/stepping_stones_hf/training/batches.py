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
"""The batches of optimizer steps: the same clips in a step however many processes and passes they are dealt out to."""

import hashlib
import time
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader, Dataset


def derive_seed(*parts: int) -> int:
    """A seed that follows from all the numbers: with sums of them, seed 1 in epoch 1 would be seed 2 in epoch 0."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6])


class StepBatches:
    """
    The batches of one process in one epoch, optimizer step by optimizer step. An epoch's order follows from the seed,
    and a step has the same clips on one process as on many. Clips that fill no step are left out. `seconds_waited` is
    how long steps were waited for until now.

    Args:
        accelerator (`Accelerator`):
            The processes.
        clips (`Dataset`):
            What [`AVSCollator.prepare`] returns, or views of it.
        collator (`Callable`):
            Makes a batch of a list of clips.
        seed (`int`):
            What the order is drawn from.
        batch_size (`int`):
            Clips in a batch.
        num_passes (`int`, *optional*, defaults to 1):
            Batches of each process in a step.
        num_workers (`int`, *optional*, defaults to 0):
            Processes that read clips.

    Raises:
        `ValueError`: there are fewer clips than fill a step.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        clips: Dataset,
        collator: Callable[[list[dict]], dict],
        seed: int,
        batch_size: int,
        num_passes: int = 1,
        num_workers: int = 0,
    ):
        self.accelerator, self.clips, self.collator, self.seed = accelerator, clips, collator, seed
        self.batch_size, self.num_passes, self.num_workers = batch_size, num_passes, num_workers
        self.seconds_waited = 0.0
        self.clips_per_step = batch_size * num_passes * accelerator.num_processes
        if len(clips) < self.clips_per_step:
            raise ValueError(f"{len(clips)} training clips do not fill a step of {self.clips_per_step}.")

    def __len__(self) -> int:
        return len(self.clips) // self.clips_per_step

    def order(self, epoch: int) -> list[int]:
        """The clips of an epoch, by their indices."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        return torch.randperm(len(self.clips), generator=generator).tolist()

    def epoch(self, epoch: int, first_step: int, end_step: int) -> Iterator[tuple[dict, ...]]:
        """The batches of each step of a part of an epoch, on the process's device."""
        order = self.order(epoch)
        first = range(first_step * self.clips_per_step, end_step * self.clips_per_step, self.batch_size)
        batches = [order[start : start + self.batch_size] for start in first]
        # A step is its processes' passes one after the other: process 0 has the first `num_passes` of them, and so on.
        rank, size = self.accelerator.process_index * self.num_passes, self.accelerator.num_processes * self.num_passes
        batches = [batch for index, batch in enumerate(batches) if rank <= index % size < rank + self.num_passes]
        loader = DataLoader(self.clips, batch_sampler=batches, collate_fn=self.collator, num_workers=self.num_workers)
        device = self.accelerator.device
        return self._count_waiting(zip(*[(send_to_device(dict(batch), device) for batch in loader)] * self.num_passes))

    def _count_waiting(self, steps: Iterator) -> Iterator:
        while True:
            start = time.perf_counter()
            step = next(steps, None)
            self.seconds_waited += time.perf_counter() - start
            if step is None:
                return
            yield step

    def names(self, epoch: int, step: int) -> list[str]:
        """Subset and name of the clips of a step."""
        indices = self.order(epoch)[step * self.clips_per_step : (step + 1) * self.clips_per_step]
        return [f"{clip['subset']}/{clip['video_id']}" for clip in (self.clips[index] for index in indices)]


__all__ = ["StepBatches", "derive_seed"]
