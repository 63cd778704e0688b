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
"""The log of a stage: a row a step, which a resumed run does not have twice, and one axis for trackers."""

import csv

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from stepping_stones_hf.training.checkpoints import Progress
from stepping_stones_hf.training.log import Log, read_log


class Recorder(Accelerator):
    """Keeps what trackers are told."""

    def __init__(self):
        super().__init__(cpu=True)
        self.tracked = []

    def log(self, values: dict, step: int) -> None:
        self.tracked.append((step, values))


@pytest.fixture
def accelerator():
    yield Recorder()
    AcceleratorState._reset_state(reset_partial_state=True)


def write_stage(accelerator, folder, steps: int = 6, progress: Progress | None = None) -> Log:
    """Two steps an epoch, with a score after each epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    progress = progress or Progress()
    log = Log(accelerator, folder, progress)
    for step in range(progress.total_steps + 1, steps + 1):
        log.write(step, epoch=(step - 1) // 2, loss=1 / step, learning_rate=1e-4)
        if step % 2 == 0:
            log.write(step, epoch=(step - 1) // 2, score=step / 10)
    return log


def test_rows_are_what_was_written(accelerator, tmp_path):
    assert read_log(tmp_path / "stage_1" / "log.csv") == []
    write_stage(accelerator, tmp_path / "stage_1", steps=2)
    rows = read_log(tmp_path / "stage_1" / "log.csv")
    assert [row["step"] for row in rows] == ["1", "2", "2"]
    assert [row["loss"] for row in rows] == ["1.0", "0.5", ""] and [row["score"] for row in rows] == ["", "", "0.2"]
    assert tuple(rows[0]) == Log.columns


@pytest.mark.parametrize(
    "progress",
    [
        Progress(epoch=0, step=0, total_steps=0),
        Progress(epoch=1, step=1, total_steps=3),
        Progress(epoch=1, step=2, total_steps=4),  # its evaluation is not done
        Progress(epoch=2, step=0, total_steps=4),
        Progress(epoch=3, step=0, total_steps=6),
    ],
    ids=["nothing", "within an epoch", "before an evaluation", "after an evaluation", "everything"],
)
def test_a_resumed_run_has_each_row_once(accelerator, tmp_path, progress):
    write_stage(accelerator, tmp_path / "whole" / "stage_1")
    folder = tmp_path / "killed" / "stage_1"
    write_stage(accelerator, folder)  # further than the checkpoint that it resumes from
    log = Log(accelerator, folder, progress)
    if progress.step == 2:
        log.write(progress.total_steps, epoch=progress.epoch, score=progress.total_steps / 10)
        progress = Progress(progress.epoch + 1, 0, progress.total_steps)
    write_stage(accelerator, folder, progress=progress)
    assert (folder / "log.csv").read_text() == (tmp_path / "whole" / "stage_1" / "log.csv").read_text()
    assert [path.name for path in folder.iterdir()] == ["log.csv"]


def test_trackers_see_stage_2_after_stage_1(accelerator, tmp_path):
    write_stage(accelerator, tmp_path / "stage_1", steps=4)
    accelerator.tracked.clear()
    write_stage(accelerator, tmp_path / "stage_2", steps=2)
    assert [step for step, _ in accelerator.tracked] == [5, 6, 6]
    assert accelerator.tracked[0][1] == {"stage_2/epoch": 0, "stage_2/loss": 1.0, "stage_2/learning_rate": 1e-4}
    assert [row["step"] for row in read_log(tmp_path / "stage_2" / "log.csv")] == ["1", "2", "2"]


def test_other_processes_write_nothing(accelerator, tmp_path, monkeypatch):
    monkeypatch.setattr(Recorder, "is_main_process", False)
    write_stage(accelerator, tmp_path / "stage_1")
    assert list((tmp_path / "stage_1").iterdir()) == [] and len(accelerator.tracked) == 9


def test_a_log_that_cannot_be_taken_over_is_left_as_it_was(accelerator, tmp_path, monkeypatch):
    write_stage(accelerator, tmp_path / "stage_1")
    before = (tmp_path / "stage_1" / "log.csv").read_text()
    monkeypatch.setattr(csv.DictWriter, "writerows", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        Log(accelerator, tmp_path / "stage_1", Progress(epoch=1, total_steps=2))
    assert (tmp_path / "stage_1" / "log.csv").read_text() == before
    assert [path.name for path in (tmp_path / "stage_1").iterdir()] == ["log.csv"]
