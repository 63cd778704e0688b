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
"""Several processes give what one gives."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stepping_stones_hf.metrics import AvssMiou
from stepping_stones_hf.metrics.registration import METRIC_FILE

from . import distributed_metric


def test_two_processes_give_bit_for_bit_what_one_gives(tmp_path):
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    done = subprocess.run(
        [*launch, "--main_process_port", "0", distributed_metric.__file__, str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    two = json.loads(done.stdout.splitlines()[-1])
    one = json.loads(distributed_metric.to_json(distributed_metric.evaluate_all(0, 1, str(tmp_path / "one"))))
    repeated = {name: (one[name].pop("repeated_frames"), two[name].pop("repeated_frames")) for name in one}
    assert json.dumps(one) == json.dumps(two)
    for config_name in ("semantic", "binary"):
        assert repeated[f"{config_name}, split_clips"] == (6, 12)
        assert repeated[f"{config_name}, whole_clips"] == (0, 5)
        assert repeated[f"{config_name}, batches_of_clips"] == (0, 5)
        assert repeated[f"{config_name}, all_on_the_first"] == (0, 0)
        assert repeated[f"{config_name}, all_sounds"] == (0, 20)
        assert one[f"{config_name}, all_sounds"].pop("robustness")["num_videos"] == 7
        # However the frames came, they are the same ones.
        assert len({json.dumps(one[name]) for name in one if name.startswith(config_name)}) == 1


def run_in_threads(tmp_path: Path, batches: list[dict], dies: int | None = None, written: bool = True) -> dict:
    """A metric over as many processes as batches, here threads of one process."""
    results = [None] * len(batches)

    def work(process: int) -> None:
        metric = AvssMiou(num_process=len(batches), process_id=process, cache_dir=str(tmp_path), num_classes=3)
        metric.writer_batch_size = 1  # every frame goes to the file at once
        try:
            metric.add_batch(**batches[process])
            if process == dies:
                if written:
                    metric.writer.stream.flush()
                else:
                    Path(metric.cache_file_name).write_bytes(b"")
                metric.filelock.release()
                return
            results[process] = metric.compute()
        except ValueError as error:
            results[process] = error

    threads = [threading.Thread(target=work, args=(process,)) for process in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert results[1:] == [None] * (len(batches) - 1)
    if isinstance(results[0], ValueError):
        raise results[0]
    return results[0]


HALVES = [
    {"predictions": [[[0, 1]]], "references": [[[0, 1]]], "video_ids": ["a"], "num_frames": [1]},
    {"predictions": [[[0, 1]]], "references": [[[1, 0]]], "video_ids": ["a"], "num_frames": [1]},
]


def test_halves_of_a_clip_that_pass_for_whole_are_an_error(tmp_path):
    with pytest.raises(
        ValueError, match="both frame 0 of video 'a'. Give frame_ids, or, where every call holds whole"
    ):
        run_in_threads(tmp_path, HALVES)


def test_a_process_that_dies_before_the_end_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="only 1 of 2 processes came to their end"):
        run_in_threads(tmp_path, HALVES, dies=1)


def test_a_process_that_dies_before_it_has_written_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="the frames of 2 processes cannot be gathered. Has one of them died?"):
        run_in_threads(tmp_path, HALVES, dies=1, written=False)


def test_several_processes_refuse_video_ids_alone(tmp_path):
    metric = AvssMiou(num_process=2, process_id=0, cache_dir=str(tmp_path))
    with pytest.raises(
        ValueError, match="give num_frames beside them if every call holds whole clips, else frame_ids"
    ):
        metric.add_batch(predictions=[[[0, 1]]], references=[[[0, 1]]], video_ids="a")
    with pytest.raises(ValueError, match="with several processes video_ids alone"):
        metric.add(prediction=[[0, 1]], reference=[[0, 1]], video_ids="a")
    assert metric.writer is None


def test_videos_without_names_are_never_the_same(tmp_path):
    batch = {"predictions": [[[0, 1]]], "references": [[[0, 1]]]}
    results = run_in_threads(tmp_path, [batch, batch])
    assert (results["num_videos"], results["num_frames"], results["repeated_frames"]) == (2, 2, 0)


def test_a_killed_process_leaves_nothing_that_a_later_one_reads(tmp_path):
    code = f"""
import os, signal
from avss_miou import AvssMiou  # the file alone, as in a Space
metric = AvssMiou(cache_dir={str(tmp_path)!r})
metric.writer_batch_size = 1  # every frame goes to the file at once
for _ in range(5):
    metric.add(prediction=[[0, 1]], reference=[[0, 1]])
metric.writer.stream.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": str(METRIC_FILE.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == -9, done.stderr
    (left,) = tmp_path.rglob("*.arrow")
    assert left.stat().st_size > 0
    results = AvssMiou(cache_dir=str(tmp_path)).compute(predictions=[[[0, 1]]], references=[[[0, 1]]])
    assert results["num_frames"] == 1
