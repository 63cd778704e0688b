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
"""AAVS trained by `transformers.Trainer`, on a very small set."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from safetensors.torch import load_file
from torch.testing import assert_close
from torch.utils.data import Subset
from transformers import Trainer, TrainingArguments

from stepping_stones_hf import AAVSForAudioVisualSegmentation, AAVSProcessor
from stepping_stones_hf.data import AVSCollator, load_avsbench
from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.training.clips import SingleFrames
from stepping_stones_hf.training.evaluation import FrameScores, evaluate, segment

from .fixed_points import fixed_rand, make_hopeful_model, script
from .test_train_stepping_stones import free_port


EXAMPLES = Path(__file__).parents[2] / "examples"

# Beside the script, whose folder `fixed_points` has made importable.
import trainer as example  # noqa: E402, isort: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    clips = {"v1s": (2, 1, 0), "v1m": (2, 1, 1)}
    return make_mini_avsbench(tmp_path_factory.mktemp("data") / "mini", image_size=64, clips=clips)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    overrides = "train_num_points=64,num_queries=4,encoder_feedforward_dim=32,dim_feedforward=32"
    _, settings, _ = script.parse_arguments(["--config_overrides", overrides])
    model, processor = make_hopeful_model(settings, False, True, 0)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_trainer(cls, model_dir: Path, data_dir: Path, output_dir: Path, **options) -> Trainer:
    model = AAVSForAudioVisualSegmentation.from_pretrained(model_dir)
    processor = AAVSProcessor.from_pretrained(model_dir, backend="pil")
    collator = AVSCollator(processor, prompt="truth")
    extra = {"eval_collator": AVSCollator(processor, prompt="truth", evaluation=True)}
    values = {
        "remove_unused_columns": False,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "max_steps": 2,
    }
    return cls(
        model=model,
        args=TrainingArguments(str(output_dir), **{**values, "save_strategy": "no", **options}),
        data_collator=collator,
        train_dataset=SingleFrames(collator.prepare(load_avsbench("avss", data_dir)["train"])),
        **(extra if cls is example.AVSTrainer else {}),
    )


def test_accumulated_batches_give_the_step_of_one_batch(model_dir, data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "rand", fixed_rand)
    descent = {"optim": "sgd", "learning_rate": 1e-4, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    weights, losses = [], []
    for batch_size, passes in ((3, 1), (1, 3)):
        sizes = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": passes, "logging_steps": 1}
        trainer = make_trainer(example.AVSTrainer, model_dir, data_dir, tmp_path, **descent, **sizes)
        # One frame where nothing sounds and two where something does: their means do not have the batch's mean.
        counts = [len(trainer.data_collator([frame])["class_labels"][0]) for frame in trainer.train_dataset]
        chosen = [counts.index(1), *[index for index, count in enumerate(counts) if count > 1][:2]]
        trainer.train_dataset = Subset(trainer.train_dataset, chosen)
        trainer.train()
        weights.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
    before = AAVSForAudioVisualSegmentation.from_pretrained(model_dir).state_dict()
    assert len(losses[0]) == 2 and losses[1] == pytest.approx(losses[0], rel=1e-4)  # they are logged with four digits
    steps = [torch.cat([(state[name] - before[name]).flatten() for name in before]) for state in weights]
    assert steps[0].norm() > 0
    assert (steps[1] - steps[0]).norm() < 1e-3 * steps[0].norm()


def test_the_plain_trainer_trains_it_too(model_dir, data_dir, tmp_path):
    before = AAVSForAudioVisualSegmentation.from_pretrained(model_dir)
    trainer = make_trainer(Trainer, model_dir, data_dir, tmp_path)
    assert trainer.train().global_step == 2
    assert not torch.equal(trainer.model.class_predictor.weight, before.class_predictor.weight)


def test_the_example_trains_saves_and_scores_as_the_librarys_own_evaluation_does(data_dir, model_dir, tmp_path):
    # Ten frames in batches of four: neither is the last batch cut nor is a frame counted twice.
    arguments = {"data_dir": data_dir, "model_name_or_path": model_dir, "output_dir": tmp_path / "out", "max_steps": 1}
    arguments |= {"per_device_train_batch_size": 2, "per_device_eval_batch_size": 4, "use_cpu": True}
    arguments |= {"report_to": "none", "disable_tqdm": True, "eval_strategy": "steps", "eval_steps": 1}
    figures = example.main([text for name, value in arguments.items() for text in (f"--{name}", str(value))])

    model = AAVSForAudioVisualSegmentation.from_pretrained(tmp_path / "out").eval()
    processor = AAVSProcessor.from_pretrained(tmp_path / "out", backend="pil")
    assert not torch.equal(
        model.class_predictor.weight, AAVSForAudioVisualSegmentation.from_pretrained(model_dir).class_predictor.weight
    )
    collator = AVSCollator(processor, prompt="truth", evaluation=True)
    clips = collator.prepare(load_avsbench("avss", data_dir)["validation"])
    scores = evaluate(
        Accelerator(), clips, collator, lambda inputs: segment(model, processor, inputs), FrameScores(71), batch_size=1
    )
    assert len(scores) == 10
    expected = scores.results()
    for name in ("miou", "fscore", "miou_star", "miou_seen"):
        assert figures[f"eval_{name}"] == pytest.approx(expected[name])
    assert figures["eval_miou"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsdp", "deepspeed_zero2"])
def test_a_model_in_pieces_trains_as_a_whole_one(model_dir, data_dir, tmp_path, name):
    if name.startswith("deepspeed"):
        pytest.importorskip("deepspeed", reason="needs DeepSpeed: pip install deepspeed")
    config = yaml.safe_load((EXAMPLES / "accelerate_configs" / f"{name}.yaml").read_text())
    config |= {"num_processes": 2, "use_cpu": True, "main_process_port": free_port()}
    (tmp_path / "accelerate.yaml").write_text(yaml.safe_dump(config))
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(tmp_path / "accelerate.yaml")]
    options = {"data_dir": data_dir, "model_name_or_path": model_dir, "use_cpu": True, "max_steps": 3}
    # At a rate with which the loss falls from step to step by more than rounding.
    options |= {"optim": "sgd", "learning_rate": 1e-3, "lr_scheduler_type": "constant", "gradient_checkpointing": True}
    options |= {"logging_steps": 1, "save_steps": 3, "report_to": "none", "disable_tqdm": True}

    losses, weights = [], []
    for launched, batch_size, output_dir in (([], 4, tmp_path / "one"), (launch, 2, tmp_path / "two")):
        values = {**options, "per_device_train_batch_size": batch_size, "output_dir": output_dir}
        arguments = [text for key, value in values.items() for text in (f"--{key}", str(value))]
        subprocess.run(
            [sys.executable, *launched, "-m", "tests.examples.fixed_trainer", *arguments],
            cwd=EXAMPLES.parent,
            # Which DeepSpeed asks, and looks for its tools in.
            env=os.environ | {"DS_ACCELERATOR": "cpu", "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}"},
            check=True,
            timeout=300,
        )
        history = json.loads((output_dir / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
        losses.append([row["loss"] for row in history if "loss" in row])
        weights.append(load_file(output_dir / "model.safetensors"))
    before = load_file(model_dir / "model.safetensors")
    assert len(set(losses[0])) == 3 and losses[1] == pytest.approx(losses[0], rel=1e-4)  # logged with four digits
    assert weights[0].keys() == weights[1].keys() == before.keys()
    moved = torch.cat([(weights[0][key] - before[key]).flatten() for key in before])
    difference = torch.cat([(weights[1][key] - weights[0][key]).flatten() for key in before])
    assert difference.norm() < 1e-4 * moved.norm()


def test_metrics_keep_counts_alone_and_begin_again(model_dir):
    metrics = example.ComputeMetrics(3)
    label_maps = torch.randint(0, 3, (4, 32, 32), generator=torch.Generator().manual_seed(0))
    first = example.EvalPrediction(predictions=label_maps, label_ids=label_maps)
    second = example.EvalPrediction(predictions=1 - label_maps.clamp(max=1), label_ids=label_maps)
    assert metrics(first, compute_result=False) == {}
    assert sum(counts.size for counts in metrics.statistics) < label_maps.numel() / 10
    mixed = metrics(second, compute_result=True)
    assert metrics.statistics == []
    alone = metrics(first, compute_result=True)
    assert alone["miou"] == 1 > mixed["miou"]
    assert_close(alone["miou_star"], 1.0)
