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
"""The clips of an optimizer step: the same ones however they are dealt out, in an order that follows from the seed."""

from types import SimpleNamespace

import pytest
import torch

from stepping_stones_hf.training import batches as module
from stepping_stones_hf.training.batches import StepBatches, derive_seed


class Clips:
    """Twenty clips or so, of which each is its index."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        return {"index": index, "subset": "v1s" if index % 2 else "v2", "video_id": f"clip {index}"}


def collate(clips: list[dict]) -> dict:
    return {"clips": torch.tensor([clip["index"] for clip in clips])}


def make_batches(
    count: int = 20, process: int = 0, num_processes: int = 1, batch_size: int = 6, passes: int = 1, **options
) -> StepBatches:
    accelerator = SimpleNamespace(process_index=process, num_processes=num_processes, device=torch.device("cpu"))
    return StepBatches(accelerator, Clips(count), collate, options.pop("seed", 3407), batch_size, passes, **options)


def read_steps(batches: StepBatches, epoch: int = 1, first: int = 0, end: int = 3) -> list[list[int]]:
    """The clips of each step of one process, in the order of its passes."""
    return [[clip for batch in step for clip in batch["clips"].tolist()] for step in batches.epoch(epoch, first, end)]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(("num_processes", "batch_size", "passes"), [(1, 3, 2), (2, 3, 1), (3, 1, 2), (6, 1, 1)])
def test_a_step_has_the_same_clips_however_they_are_dealt_out(num_processes, batch_size, passes, first):
    whole_steps = read_steps(make_batches())
    assert [len(step) for step in whole_steps] == [6, 6, 6] and len(set(sum(whole_steps, []))) == 18
    shares = [
        read_steps(make_batches(20, process, num_processes, batch_size, passes), first=first)
        for process in range(num_processes)
    ]
    assert [sum(shares_of_step, []) for shares_of_step in zip(*shares, strict=True)] == whole_steps[first:]


def test_an_epoch_has_each_clip_once_in_an_order_of_its_own():
    batches = make_batches(21, batch_size=3)
    assert len(batches) == 7
    epochs = [sum(read_steps(batches, epoch, 0, 7), []) for epoch in (0, 1)]
    assert epochs[0] != epochs[1] and sorted(epochs[0]) == sorted(epochs[1]) == list(range(21))
    assert sum(read_steps(make_batches(21, batch_size=3), 0, 0, 7), []) == epochs[0]
    assert sum(read_steps(make_batches(21, batch_size=3, seed=3408), 0, 0, 7), []) != epochs[0]


def test_clips_that_fill_no_step_are_left_out_and_others_are_in_the_next_epoch():
    batches = make_batches(20, batch_size=6)
    assert len(batches) == 3
    left_out = [set(range(20)) - set(sum(read_steps(batches, epoch, 0, len(batches)), [])) for epoch in (0, 1)]
    assert [len(clips) for clips in left_out] == [2, 2] and left_out[0] != left_out[1]


def test_a_step_is_one_batch_for_each_pass():
    (step,) = make_batches(batch_size=2, passes=3).epoch(0, 1, 2)
    assert [batch["clips"].shape for batch in step] == [(2,)] * 3


def test_workers_read_the_same_batches():
    assert read_steps(make_batches(num_workers=2)) == read_steps(make_batches())


def test_what_is_waited_for_is_the_reading_of_clips_and_not_what_is_done_with_them(monkeypatch):
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(module, "time", clock)
    batches, collate_clips = make_batches(batch_size=3, passes=2), collate

    def collate_slowly(clips):
        clock.now += 2
        return collate_clips(clips)

    batches.collator = collate_slowly
    for epoch in (0, 1):
        for _ in batches.epoch(epoch, 0, 3):
            clock.now += 100
    assert batches.seconds_waited == 2 * 3 * 2 * 2  # epochs, steps, passes, seconds


def test_names_are_those_of_the_clips_of_the_step_on_all_processes():
    batches = make_batches(20, process=1, num_processes=2, batch_size=3)
    expected = read_steps(make_batches(20, batch_size=6), epoch=2)[1]
    assert batches.names(2, 1) == [f"{'v1s' if index % 2 else 'v2'}/clip {index}" for index in expected]


def test_fewer_clips_than_fill_a_step_are_an_error():
    assert len(make_batches(6, batch_size=3, passes=2)) == 1
    with pytest.raises(ValueError, match="5 training clips do not fill a step of 6"):
        make_batches(5, batch_size=3, passes=2)


def test_seeds_share_no_order_and_are_the_same_in_every_process():
    assert len({derive_seed(seed, epoch) for seed in range(4) for epoch in range(60)}) == 240
    assert derive_seed(1, 23) != derive_seed(12, 3) != derive_seed(123)
    # Not Python's `hash`, which differs from process to process.
    assert derive_seed(3407, 0) == 28116269244096
    torch.Generator().manual_seed(derive_seed(2**40, 2**40))
