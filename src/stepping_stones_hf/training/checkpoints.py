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
"""
What a run leaves on the disk so that it can go on after any end: its arguments, checkpoints and best models, each of
them whole or not there; and the signals that ask it to stop.
"""

import json
import math
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import RNG_STATE_NAME, load
from filelock import FileLock, Timeout
from transformers import PreTrainedModel, ProcessorMixin

from ..files import begin_folder, complete_folder, partial_folder, write_text


def find_changes(path: Path, arguments: dict) -> dict:
    """
    The arguments that differ from those in a run.json, with their values there.

    Raises:
        `ValueError`: it is missing or damaged.
    """
    try:
        before = json.loads(path.read_text())
        return {name: before.get(name) for name, value in arguments.items() if before.get(name) != value}
    except (AttributeError, OSError, ValueError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}): choose another output folder.") from error


@contextmanager
def lock_run(output_dir: str | os.PathLike) -> Iterator[None]:
    """
    Keeps the folder of a run to one process while the block lasts. However the process ends, the system unlocks it.

    Raises:
        `ValueError`: another process has the folder.
    """
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(Path(output_dir, ".lock"), timeout=0):
            yield
    except Timeout as error:
        raise ValueError(
            f"Another process works in {output_dir}: wait until it has ended, or choose another folder."
        ) from error


def begin_run(output_dir: str | os.PathLike, arguments: dict, resume: bool) -> None:
    """
    Writes the arguments of a run, run.json, into its folder.

    Raises:
        `ValueError`: another run has trained in the folder; or this one has, and `resume` is false.
    """
    output_dir = Path(output_dir)
    path = output_dir / "run.json"
    trained = any(any(output_dir.glob(f"stage_*/{name}")) for name in ("checkpoints/epoch_*", "best_*", "model"))
    if trained and not path.exists():
        raise ValueError(f"{output_dir} has stages of a run that left no run.json. Choose another --output_dir.")
    if trained and not resume:
        raise ValueError(
            f"{output_dir} has a run already. --resume_from_checkpoint latest resumes it; or choose another"
            " --output_dir."
        )
    changes = find_changes(path, arguments) if trained else {}
    if changes:
        raise ValueError(
            f"{output_dir} is the folder of another run: {', '.join(changes)} differ"
            f" ({', '.join(map(str, changes.values()))} there). Choose another --output_dir; a first stage that is"
            f" complete can be used there with --stage 2 --localizer {output_dir / 'stage_1' / 'model'}."
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(arguments, indent=2))


@dataclass
class Progress:
    """How far a stage is; `step` counts within the epoch."""

    epoch: int = 0
    step: int = 0
    total_steps: int = 0
    best_score: float = -math.inf
    best_epoch: int | None = None


def check_space(folder: Path, model: torch.nn.Module) -> None:
    """
    Refuses to begin where a checkpoint and the best model, each beside the one before it, will not fit.

    Raises:
        `ValueError`: there is less space in the folder, which exists.
    """
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    trainable = sum(parameter.numel() * 4 for parameter in model.parameters() if parameter.requires_grad)
    # AdamW keeps two numbers for each that trains.
    needed, free = 2 * (size + size + 2 * trainable), shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder} has room for {free / 2**20:,.0f} MiB, and the checkpoints of a stage need"
            f" {needed / 2**20:,.0f} MiB: make room or choose another --output_dir."
        )


def find_checkpoint(folder: Path) -> tuple[Progress, Path | None]:
    """
    The last checkpoint of a stage. Checkpoints are renamed to their names when they are whole.

    Raises:
        `ValueError`: it was damaged since.
    """
    checkpoints = sorted(folder.glob("checkpoints/epoch_*"))
    if not checkpoints:
        return Progress(), None
    try:
        progress = Progress(**json.loads((checkpoints[-1] / "progress.json").read_text()))
    except (OSError, TypeError, ValueError) as error:
        raise damaged(checkpoints[-1] / "progress.json", error) from error
    return progress, checkpoints[-1]


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> None:
    """
    Gives all that was prepared the state that [`save_checkpoint`] has written.

    Raises:
        `ValueError`: a file is missing or damaged.
    """
    try:
        # Accelerate resumes without random states that it cannot read, and the run would no longer be the same.
        load(checkpoint / f"{RNG_STATE_NAME}_{accelerator.process_index}.pkl")
        accelerator.load_state(checkpoint)
    except (MemoryError, torch.OutOfMemoryError):  # which no file is to blame for
        raise
    except Exception as error:  # of safetensors, torch, zip files or pickles, by what is damaged
        raise damaged(checkpoint, error) from error


def damaged(path: Path, error: Exception) -> ValueError:
    stage = next(parent for parent in path.parents if parent.name == "checkpoints").parent
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return ValueError(f"{path} is missing or damaged ({reason}). Without the folder {stage} the stage starts again.")


def save_checkpoint(accelerator: Accelerator, progress: Progress, folder: Path) -> None:
    """Writes a checkpoint of a stage, in place of the one before it."""
    # The name has the epoch too: after its last step there may be a checkpoint before and one after the evaluation.
    path = folder / "checkpoints" / f"epoch_{progress.epoch:06d}_step_{progress.step:08d}"
    partial = partial_folder(path)
    if accelerator.is_main_process:
        for left in path.parent.glob(".*.partial"):  # by a killed run, at whatever step that was
            shutil.rmtree(left)
        begin_folder(path)
    accelerator.wait_for_everyone()
    accelerator.save_state(partial)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (partial / "progress.json").write_text(json.dumps(asdict(progress)))
        older = set(path.parent.glob("epoch_*")) - {path}
        complete_folder(path)
        # Killed in between, a run has two checkpoints, or one and the rest of an older one: the last one counts.
        for other in older:
            shutil.rmtree(other)
    accelerator.wait_for_everyone()


def best_folder(folder: Path, progress: Progress) -> Path:
    """The best model by the epoch it is from: a run that resumes from a checkpoint finds the one that it knows of."""
    return folder / f"best_{progress.best_epoch}"


def save_model(accelerator: Accelerator, model: PreTrainedModel, processor: ProcessorMixin, folder: Path) -> None:
    """Writes a model with its processor, whole or not at all, in place of an older one."""
    state_dict = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        partial = begin_folder(folder)
        accelerator.unwrap_model(model).save_pretrained(partial, state_dict=state_dict)
        processor.save_pretrained(partial)
        complete_folder(folder)
    accelerator.wait_for_everyone()


class StopRequest:
    """Set by SIGTERM and Ctrl-C while a stage trains: the step in progress ends, then the run is saved."""

    def __enter__(self) -> "StopRequest":
        self.number = None
        numbers = (signal.SIGTERM, signal.SIGINT)
        self.handlers = {number: signal.signal(number, self.set) for number in numbers}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def set(self, number, frame) -> None:
        self.number = number

    def is_set(self, accelerator: Accelerator) -> bool:
        """Whether any process has been asked to stop."""
        asked = torch.tensor(float(self.number is not None), device=accelerator.device)
        return accelerator.reduce(asked, "sum").item() > 0

    def leave(self, stage: int, progress: Progress) -> None:
        """Ends the process with the exit status of the signal."""
        if PartialState().is_main_process:
            print(f"\nStopped and saved after step {progress.total_steps} of stage {stage}.", file=sys.stderr)
        sys.exit(128 + (self.number or signal.SIGTERM))


__all__ = [
    "Progress",
    "StopRequest",
    "begin_run",
    "best_folder",
    "check_space",
    "find_changes",
    "find_checkpoint",
    "load_checkpoint",
    "lock_run",
    "save_checkpoint",
    "save_model",
]
