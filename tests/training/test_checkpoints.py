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
"""What a run leaves on the disk is whole, belongs to it, and is found again; signals stop it after a step."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from stepping_stones_hf import AAVSForAudioVisualSegmentation, AAVSProcessor
from stepping_stones_hf.training import checkpoints
from stepping_stones_hf.training.checkpoints import (
    Progress,
    StopRequest,
    begin_run,
    best_folder,
    check_space,
    find_changes,
    find_checkpoint,
    load_checkpoint,
    lock_run,
    save_checkpoint,
    save_model,
)


@pytest.fixture
def accelerator():
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The folder of a run -------------------------------------------------------------------------------------------------

ARGUMENTS = {"seed": 1, "learning_rate": 1e-4, "model": {"model_type": "toy"}}


@pytest.mark.parametrize("trained", ["stage_1/checkpoints/epoch_000001_step_02", "stage_2/best_3", "stage_1/model"])
def test_what_has_trained_in_a_folder_is_kept_from_other_runs(tmp_path, trained):
    folder = tmp_path / "a" / "run"
    begin_run(folder, ARGUMENTS, resume=False)
    assert json.loads((folder / "run.json").read_text()) == ARGUMENTS
    (folder / trained).mkdir(parents=True)
    with pytest.raises(ValueError, match="has a run already. --resume_from_checkpoint latest"):
        begin_run(folder, ARGUMENTS, resume=False)
    begin_run(folder, ARGUMENTS, resume=True)
    with pytest.raises(ValueError, match=r"another run: seed, model differ \(1, {'model_type': 'toy'} there\)"):
        begin_run(folder, ARGUMENTS | {"seed": 2, "model": {}}, resume=True)
    assert json.loads((folder / "run.json").read_text()) == ARGUMENTS and names_in(folder)[0] == "run.json"
    (folder / "run.json").unlink()
    with pytest.raises(ValueError, match="stages of a run that left no run.json"):
        begin_run(folder, ARGUMENTS, resume=True)


def test_a_run_that_has_not_trained_yet_may_change_its_mind(tmp_path):
    begin_run(tmp_path, ARGUMENTS, resume=False)
    # Killed before its first checkpoint was whole.
    (tmp_path / "stage_1" / "checkpoints" / ".epoch_000000_step_00000001.partial").mkdir(parents=True)
    begin_run(tmp_path, {"seed": 2}, resume=True)
    assert json.loads((tmp_path / "run.json").read_text()) == {"seed": 2}


def test_changes_are_the_arguments_of_today_that_were_others(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps({"same": 1, "other": 2, "no longer there": 3}))
    assert find_changes(tmp_path / "run.json", {"same": 1, "other": 4, "new": 5}) == {"other": 2, "new": None}


def test_a_folder_is_one_processes_until_that_ends_in_whatever_way(tmp_path):
    code = (
        "import sys; from stepping_stones_hf.training.checkpoints import lock_run\n"
        "with lock_run(sys.argv[1]): print('locked', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], **pipes)
    try:
        assert other.stdout.readline() == "locked\n"
        message = rf"Another process works in {tmp_path}/run: wait"
        with pytest.raises(ValueError, match=message), lock_run(tmp_path / "run"):
            pass
    finally:
        other.kill()
        other.communicate()
    with lock_run(tmp_path / "run"):
        pass


@pytest.mark.parametrize("text", ['{"seed": ', "[]"])
def test_a_run_with_damaged_arguments_is_no_run(tmp_path, text):
    (tmp_path / "stage_1" / "model").mkdir(parents=True)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json is missing or damaged .*: choose another output folder"):
        begin_run(tmp_path, ARGUMENTS, resume=True)


def test_a_stage_needs_room_for_two_checkpoints_and_two_models(tmp_path, monkeypatch):
    model = torch.nn.Linear(1023, 1024)  # 4 MiB
    # Weights as the model and in the checkpoint, and two numbers of AdamW for each.
    needed = 2 * (4 + 4 + 8) * 2**20
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(ValueError, match=rf"{tmp_path} has room for 32 MiB, and .* of a stage need 32 MiB"):
        check_space(tmp_path, model)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage._replace(free=needed))
    check_space(tmp_path, model)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage._replace(free=needed // 2))
    check_space(tmp_path, model.requires_grad_(False))  # nothing trains


# Checkpoints ---------------------------------------------------------------------------------------------------------


def save(accelerator: Accelerator, model: torch.nn.Module, folder: Path, value: float, **progress) -> Progress:
    with torch.no_grad():
        model.weight.fill_(value)
    progress = Progress(**progress)
    save_checkpoint(accelerator, progress, folder)
    return progress


def test_a_stage_without_a_checkpoint_is_at_its_beginning(tmp_path):
    progress, path = find_checkpoint(tmp_path)
    assert path is None and progress == Progress() and progress.best_score < -1e300


def test_the_last_checkpoint_takes_the_place_of_those_before(accelerator, tmp_path):
    model = accelerator.prepare(torch.nn.Linear(2, 2))
    save(accelerator, model, tmp_path, 1.0, epoch=9, step=3, total_steps=30)
    last = save(accelerator, model, tmp_path, 2.0, epoch=10, step=0, total_steps=31, best_score=0.5, best_epoch=9)
    assert names_in(tmp_path / "checkpoints") == ["epoch_000010_step_00000000"]
    save(accelerator, model, tmp_path / "other", 3.0)
    progress, path = find_checkpoint(tmp_path)
    assert progress == last and best_folder(tmp_path, progress) == tmp_path / "best_9"
    accelerator.load_state(path)
    assert (model.weight == 2).all()


@pytest.mark.parametrize("content", [None, b"", b'{"epoch": 1', b'{"epochs": 1}', b"\xff"])
def test_progress_that_is_damaged_is_named_with_the_way_out(accelerator, tmp_path, content):
    save(accelerator, accelerator.prepare(torch.nn.Linear(2, 2)), tmp_path / "stage_1", 1.0, epoch=1)
    path = tmp_path / "stage_1" / "checkpoints" / "epoch_000001_step_00000000" / "progress.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path} is missing or damaged .*Without the folder {tmp_path}/stage_1 "):
        find_checkpoint(tmp_path / "stage_1")


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "random_states_0.pkl"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut off"])
def test_a_checkpoint_that_is_damaged_is_named_with_the_way_out(accelerator, tmp_path, name, damage):
    model = accelerator.prepare(torch.nn.Linear(64, 64))
    accelerator.prepare(torch.optim.AdamW(model.parameters()))
    save(accelerator, model, tmp_path / "stage_1", 1.0, epoch=1)
    checkpoint = find_checkpoint(tmp_path / "stage_1")[1]
    path = checkpoint / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 0 if damage == "empty" else 500])
    with pytest.raises(ValueError, match=rf"{checkpoint} is missing or damaged .*Without the folder {tmp_path}/stage"):
        load_checkpoint(accelerator, checkpoint)


@pytest.mark.parametrize("error", [MemoryError("none left"), torch.OutOfMemoryError("none left")])
def test_a_checkpoint_that_does_not_fit_into_memory_is_not_called_damaged(accelerator, tmp_path, monkeypatch, error):
    save(accelerator, accelerator.prepare(torch.nn.Linear(2, 2)), tmp_path, 1.0, epoch=1)

    def run_out_of_memory(*_):
        raise error

    monkeypatch.setattr(accelerator, "load_state", run_out_of_memory)
    with pytest.raises(type(error), match="^none left$"):
        load_checkpoint(accelerator, find_checkpoint(tmp_path)[1])


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(accelerator, tmp_path, monkeypatch):
    model = accelerator.prepare(torch.nn.Linear(2, 2))
    first = save(accelerator, model, tmp_path, 1.0, epoch=0, step=1)
    with monkeypatch.context() as patches:
        patches.setattr(accelerator, "save_state", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            save(accelerator, model, tmp_path, 2.0, epoch=0, step=2)
    assert len(names_in(tmp_path / "checkpoints")) == 2  # the other one is a partial folder
    assert find_checkpoint(tmp_path)[0] == first
    third = save(accelerator, model, tmp_path, 3.0, epoch=0, step=3)
    assert names_in(tmp_path / "checkpoints") == ["epoch_000000_step_00000003"]
    assert find_checkpoint(tmp_path)[0] == third


def test_a_kill_before_the_older_checkpoint_is_gone_leaves_two_of_which_the_last_counts(
    accelerator, tmp_path, monkeypatch
):
    model = accelerator.prepare(torch.nn.Linear(2, 2))
    save(accelerator, model, tmp_path, 1.0, epoch=1, step=9)
    with monkeypatch.context() as patches:
        remove = checkpoints.shutil.rmtree

        def die(path, *args, **kwargs):
            if Path(path).name.startswith("epoch_"):
                raise KeyboardInterrupt
            remove(path, *args, **kwargs)

        patches.setattr(checkpoints.shutil, "rmtree", die)
        with pytest.raises(KeyboardInterrupt):
            save(accelerator, model, tmp_path, 2.0, epoch=2, step=0)
    assert len(names_in(tmp_path / "checkpoints")) == 2
    assert find_checkpoint(tmp_path)[0].epoch == 2
    save(accelerator, model, tmp_path, 3.0, epoch=2, step=1)
    assert names_in(tmp_path / "checkpoints") == ["epoch_000002_step_00000001"]


def test_a_model_is_replaced_as_a_whole_or_not_at_all(accelerator, two_stage_repository, tmp_path, monkeypatch):
    processor = AAVSProcessor.from_pretrained(two_stage_repository, backend="pil")
    stages = [
        AAVSForAudioVisualSegmentation.from_pretrained(folder)
        for folder in (two_stage_repository, two_stage_repository / "localizer")
    ]
    save_model(accelerator, stages[0], processor, tmp_path / "model")
    (tmp_path / "model" / "left.txt").touch()
    with monkeypatch.context() as patches:
        patches.setattr(AAVSProcessor, "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError("no space")))
        with pytest.raises(OSError, match="no space"):
            save_model(accelerator, stages[1], processor, tmp_path / "model")
    assert AAVSForAudioVisualSegmentation.from_pretrained(tmp_path / "model").config.num_labels == 71
    save_model(accelerator, stages[1], processor, tmp_path / "model")
    assert AAVSForAudioVisualSegmentation.from_pretrained(tmp_path / "model").config.num_labels == 2
    assert names_in(tmp_path) == ["model"] and "left.txt" not in names_in(tmp_path / "model")


# Signals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_its_number_becomes_the_exit_status(accelerator, number, capsys):
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    with StopRequest() as stop:
        assert not stop.is_set(accelerator)
        os.kill(os.getpid(), number)
        assert stop.is_set(accelerator)
        with pytest.raises(SystemExit) as left:
            stop.leave(2, Progress(total_steps=17))
    assert left.value.code == 128 + number
    assert "Stopped and saved after step 17 of stage 2." in capsys.readouterr().err
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_process_stops_when_another_one_is_asked_to(accelerator, monkeypatch):
    with StopRequest() as stop:
        monkeypatch.setattr(accelerator, "reduce", lambda asked, how: asked + 1)
        assert stop.is_set(accelerator)
        with pytest.raises(SystemExit) as left:
            stop.leave(1, Progress())
    assert left.value.code == 128 + signal.SIGTERM
