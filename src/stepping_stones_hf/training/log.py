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
"""The log of a stage, as csv and for accelerate's trackers."""

import csv
from pathlib import Path

from accelerate import Accelerator

from ..files import write_whole
from .checkpoints import Progress


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows of a log.csv; none where there is no file."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Log:
    """
    log.csv in the folder of a stage, whose steps count from 1. A run that is resumed drops the rows that it will write
    again. Trackers have a single axis for the whole run: there the steps of stage 2 follow on those of stage 1.

    Args:
        accelerator (`Accelerator`):
            Whose trackers are told.
        folder (`Path`):
            `stage_1` or `stage_2` in the folder of the run.
        progress ([`Progress`]):
            How far the stage is.
    """

    columns = ("step", "epoch", "loss", "learning_rate", "score")

    def __init__(self, accelerator: Accelerator, folder: Path, progress: Progress):
        self.accelerator, self.path = accelerator, folder / "log.csv"
        earlier = read_log(folder.with_name("stage_1") / "log.csv") if folder.name == "stage_2" else []
        self.earlier_steps = int(earlier[-1]["step"]) if earlier else 0
        if accelerator.is_main_process:
            rows = [row for row in read_log(self.path) if int(row["step"]) <= progress.total_steps]
            rows = [row for row in rows if not row["score"] or int(row["epoch"]) < progress.epoch]
            with write_whole(self.path) as (partial,), open(partial, "w", newline="") as file:
                writer = csv.DictWriter(file, self.columns)
                writer.writeheader()
                writer.writerows(rows)

    def write(self, step: int, **values) -> None:
        """Adds a row."""
        if self.accelerator.is_main_process:
            with open(self.path, "a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow({"step": step, **values})
        self.track(step, **values)

    def track(self, step: int, **values) -> None:
        """Tells the trackers alone."""
        tracked = {f"{self.path.parent.name}/{name}": value for name, value in values.items()}
        self.accelerator.log(tracked, step=self.earlier_steps + step)


__all__ = ["Log", "read_log"]
