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
"""Run by `accelerate launch` from a test: a metric whose frames are dealt out over the processes in awkward ways."""

import json
import sys

import numpy as np
from accelerate import Accelerator

from stepping_stones_hf.metrics import AvssMiou
from stepping_stones_hf.metrics.avss_miou.avss_miou import SOUNDS


CLIPS, FRAMES = 7, 5


def make_data(config_name: str) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    references = generator.integers(0, 6 if config_name == "semantic" else 2, (CLIPS * FRAMES, 16, 16))
    if config_name == "binary":
        return generator.random(references.shape, dtype=np.float32), references
    noise = generator.integers(0, 6, references.shape)
    return np.where(generator.random(references.shape) < 0.7, references, noise), references


def split_clips(process: int, num_processes: int) -> list[dict]:
    """Every other frame of each clip, backwards; then, on every process, some frames again."""
    mine = np.arange(CLIPS * FRAMES)[::-1][process::num_processes]
    batches = [*np.array_split(mine, 4), np.arange(6)]
    return [{"frames": batch, "video_ids": batch // FRAMES, "frame_ids": batch % FRAMES} for batch in batches]


def whole_clips(process: int, num_processes: int) -> list[dict]:
    """One clip after the other; as 7 clips do not divide evenly, the last process gets the first one again."""
    clips = np.resize(np.arange(CLIPS), -(-CLIPS // num_processes) * num_processes)[process::num_processes]
    return [
        {"frames": np.arange(FRAMES) + clip * FRAMES, "video_ids": [int(clip)], "num_frames": [FRAMES]}
        for clip in clips
    ]


def batches_of_clips(process: int, num_processes: int) -> list[dict]:
    """All clips of a process in one batch."""
    clips = whole_clips(process, num_processes)
    return [
        {
            "frames": np.concatenate([clip["frames"] for clip in clips]),
            "video_ids": [clip["video_ids"][0] for clip in clips],
            "num_frames": [FRAMES] * len(clips),
        }
    ]


def all_on_the_first(process: int, num_processes: int) -> list[dict]:
    """The others have nothing."""
    return whole_clips(0, 1) if process == 0 else []


def all_sounds(process: int, num_processes: int) -> list[dict]:
    """Every clip is heard with every sound."""
    return [clip | {"sound": sound} for sound in SOUNDS for clip in whole_clips(process, num_processes)]


def evaluate_all(process: int, num_processes: int, cache_dir: str, wait=lambda: None) -> dict[str, dict | None]:
    results = {}
    for config_name, options in (("semantic", {"num_classes": 6}), ("binary", {})):
        predictions, references = make_data(config_name)
        metric = AvssMiou(config_name, num_process=num_processes, process_id=process, cache_dir=cache_dir, **options)
        for deal in (split_clips, whole_clips, batches_of_clips, all_on_the_first, all_sounds):
            for names in deal(process, num_processes):
                frames = names.pop("frames")
                metric.add_batch(predictions=predictions[frames], references=references[frames], **names)
            results[f"{config_name}, {deal.__name__}"] = metric.compute(confidence=0.9)
            wait()  # before anyone adds the next frame
    return results


def to_json(results: dict) -> str:
    """Every float with all its digits."""
    return json.dumps(results, default=lambda value: value.tolist())


if __name__ == "__main__":
    accelerator = Accelerator()
    process, num_processes = accelerator.process_index, accelerator.num_processes
    assert num_processes == 2, f"meant for two processes, found {num_processes}"
    all_results = evaluate_all(process, num_processes, sys.argv[1], accelerator.wait_for_everyone)
    if process == 0:
        print(to_json(all_results))
    else:
        assert set(all_results.values()) == {None}
