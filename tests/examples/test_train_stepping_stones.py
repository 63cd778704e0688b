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
"""The training script, from its command line to its repository, on very small sets."""

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.constants import (
    FSDP_AUTO_WRAP_POLICY,
    FSDP_STATE_DICT_TYPE,
)
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import PreTrainedModel

from stepping_stones_hf import AAVSForAudioVisualSegmentation, AAVSProcessor
from stepping_stones_hf.cli import main as command_line
from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.models.aavs.convert_aavs_original import rename_key
from stepping_stones_hf.models.aavs.recipe_aavs import BACKBONE_ADAPTERS, RELEASED_PARAMETERS
from stepping_stones_hf.training import localizer, mask_store
from stepping_stones_hf.training.batches import StepBatches
from stepping_stones_hf.training.checkpoints import find_checkpoint
from stepping_stones_hf.training.clips import load_clips
from stepping_stones_hf.training.evaluation import localize

from . import fixed_points
from .fixed_points import script


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module", autouse=True)
def one_cpu_thread():
    """A run in another process is to give the same bits."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    clips = {"v1s": (4, 1, 1), "v1m": (2, 1, 1), "v2": (0, 0, 1)}
    return make_mini_avsbench(tmp_path_factory.mktemp("data") / "mini", image_size=64, clips=clips)


@pytest.fixture(scope="module")
def common(data_dir, tmp_path_factory) -> dict:
    """Arguments of all runs."""
    return {
        "data_dir": data_dir,
        "cache_audio_features": tmp_path_factory.mktemp("audio"),
        "per_device_train_batch_size": 2,
        "split_clips": False,
        "num_warmup_steps": 0,
        "dataloader_num_workers": 0,
        "config_overrides": "train_num_points=64,num_queries=4,encoder_feedforward_dim=32,dim_feedforward=32",
    }


@pytest.fixture(scope="module")
def ease(common) -> dict:
    """Arguments of all runs with EASE."""
    recipe = yaml.safe_load((EXAMPLES / "configs" / "mini_ease.yaml").read_text())
    return {
        **{name: value for name, value in common.items() if name != "config_overrides"},
        "model": json.dumps(recipe["model"] | {"train_num_points": 64, "num_queries": 4, "layer_decay": 0.5}),
        "image_processor": json.dumps(dict.fromkeys(("size", "label_size"), {"height": 64, "width": 64})),
        "augmentation": json.dumps({"flip": 0.5, "scale": [0.5, 2.0]}),
    }


@pytest.fixture(scope="module")
def per_pixel(common) -> dict[str, dict]:
    """Arguments of all runs with models that label pixels, with batch norms and all that their losses have."""
    resnet = yaml.safe_load((EXAMPLES / "configs" / "mini_tpavi.yaml").read_text())["model"]["backbone_config"]
    arguments = {name: value for name, value in common.items() if name != "config_overrides"}
    arguments["image_processor"] = json.dumps(dict.fromkeys(("size", "label_size"), {"height": 64, "width": 64}))
    models = {}
    for name, fields in (("avsegformer", {"num_queries": 4}), ("tpavi", {"avm_loss": "kl"})):
        recipe = yaml.safe_load((EXAMPLES / "configs" / f"mini_{name}.yaml").read_text())
        models[name] = json.dumps(recipe["model"] | fields | {"backbone_config": resnet})
    return {name: {**arguments, "model": model} for name, model in models.items()}


def to_argv(arguments: dict) -> list[str]:
    argv = []
    for name, value in arguments.items():
        argv += [f"--{name}", *map(str, value if isinstance(value, (list, tuple)) else [value])]
    return argv


def run(output_dir: Path, *arguments: dict, without: str | None = None) -> Path:
    merged = {name: value for group in arguments for name, value in group.items() if name != without}
    script.main(to_argv({"output_dir": output_dir, **merged}))
    return output_dir


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def read_log(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def read_weights(output_dir: Path) -> dict[str, bytes]:
    """Every byte of the repository's weights."""
    return {
        path.relative_to(output_dir).as_posix(): path.read_bytes()
        for path in [*output_dir.glob("model/**/*.safetensors"), *output_dir.glob("stage_*/model/*.safetensors")]
    }


def assert_same_run(output_dir: Path, expected: Path) -> None:
    assert read_weights(output_dir) == read_weights(expected)
    assert len(read_weights(output_dir)) == 4
    assert read_json(output_dir / "all_results.json") == read_json(expected / "all_results.json")
    for stage in ("stage_1", "stage_2"):
        assert read_log(output_dir / stage / "log.csv") == read_log(expected / stage / "log.csv")
        assert not [*(output_dir / stage).glob("best_*")]


# Against the released program ---------------------------------------------------------------------------------------


def load_trajectory(stage: int, fixtures_dir: Path, request) -> dict:
    """Inputs and targets of a clip, and what the released program's three steps of each phase make of it."""
    if stage == 2:
        folder = fixtures_dir / "aavs_stage2"
        tensors, training = load_file(folder / "inputs.safetensors"), load_file(folder / "training.safetensors")
        return {
            "folder": folder,
            "images": tensors["raw_images_uint8"],
            "audio_embeddings": tensors["audio_embedding"],
            "prompt_masks": training["train_mask"].float(),
            "mask_labels": [training[f"mask_labels.{frame}"].float() for frame in range(3)],
            "class_labels": [training[f"class_labels.{frame}"] for frame in range(3)],
            "losses": [training[f"half{half}_losses"].tolist() for half in (1, 2)],
            "norms": None,
            "after": [
                {name.removeprefix(prefix): value for name, value in training.items() if name.startswith(prefix)}
                for prefix in ("half1.", "half2.")
            ],
        }
    folder = request.getfixturevalue("shared_dir") / "goldens" / "aavs_stage1"
    tensors, trajectory = load_file(folder / "inputs.safetensors"), read_json(folder / "train_traj.json")
    steps = [trajectory[half]["steps"] for half in ("half1", "half2")]
    return {
        "folder": folder,
        "images": tensors["raw_images_uint8"],
        "audio_embeddings": tensors["audio_embedding"],
        "prompt_masks": None,
        "mask_labels": [tensors[f"mask_labels.{frame}"] for frame in range(3)],
        "class_labels": [tensors[f"class_labels.{frame}"] for frame in range(3)],
        "losses": [[step["loss"] for step in half] for half in steps],
        "norms": [[step["grad_norm_before_clip"] for step in half] for half in steps],
        "after": [load_file(folder / f"after3steps_half{half}.safetensors") for half in (1, 2)],
    }


class OneClip:
    """Stands in for `StepBatches`: epochs of three steps with the same clip."""

    collator = SimpleNamespace(prompt=None, transform=None, negatives=None)
    seconds_waited = 0.0

    def __init__(self, batch: dict):
        self.batch = batch

    def __len__(self) -> int:
        return 3

    def epoch(self, epoch: int, first_step: int, end_step: int):
        return [(self.batch,)] * (end_step - first_step)


@pytest.mark.parametrize("stage", [1, 2])
def test_three_steps_of_each_phase_are_those_of_the_released_program(
    stage, fixtures_dir, request, tmp_path, monkeypatch
):
    expected = load_trajectory(stage, fixtures_dir, request)
    folder, converted = expected["folder"], tmp_path / "converted"
    arguments = ["--checkpoint", folder / "state_dict.safetensors", "--config", folder / "config.json"]
    arguments += ["--preprocessor-config", folder / "preprocessor_config.json", "--stage", stage]
    assert command_line(["convert", "--model", "aavs", *map(str, arguments), "--output", str(converted)]) == 0
    config = read_json(converted / "config.json")
    config["backbone_config"]["drop_path_rate"] = 0.0
    (converted / "config.json").write_text(json.dumps(config))
    processor = AAVSProcessor.from_pretrained(converted, backend="pil")

    batch = {
        "pixel_values": processor(images=list(expected["images"]), return_tensors="pt")["pixel_values"],
        **{name: expected[name] for name in ("audio_embeddings", "mask_labels", "class_labels")},
    }
    if stage == 2:
        batch["prompt_masks"] = expected["prompt_masks"]

    def seed_each_step(model) -> None:
        # The released program's steps were seeded so. Nothing draws before the loss.
        seeds = iter(range(200, 203))
        model.register_forward_pre_hook(lambda *_: torch.manual_seed(next(seeds)) and None)

    start_training_phase = AAVSForAudioVisualSegmentation.start_training_phase

    def begin_again(model, phase: int) -> list[str]:
        more_parameters = start_training_phase(model, phase)
        # Its second phase was begun from the first one's beginning, adapters included.
        if phase == 2:
            model.load_state_dict(before)
            seed_each_step(model)
        return more_parameters

    after, norms = [], []
    clip = Accelerator.clip_grad_norm_
    monkeypatch.setattr(AAVSForAudioVisualSegmentation, "start_training_phase", begin_again)
    monkeypatch.setattr(Accelerator, "clip_grad_norm_", lambda *args: norms.append(clip(*args).item()))

    def get_score(model) -> float:
        after.append({name: value.detach().clone() for name, value in model.named_parameters()})
        return float(len(after))

    released = list(RELEASED_PARAMETERS[stage])
    args = script.RunArguments(output_dir=str(tmp_path / "run"), lr_scheduler_type="constant", num_warmup_steps=0)
    recipe = {"epochs": 2, "phase_2_epoch": 1, "learning_rate": 1e-3, "phase_2_learning_rate": 1e-4}
    recipe |= {"parameters": released, "max_grad_norm": 0.01 if stage == 1 else None}
    for name, value in recipe.items():
        setattr(args, f"stage_{stage}_{name}", value)
    (tmp_path / "run").mkdir()
    model = AAVSForAudioVisualSegmentation.from_pretrained(converted)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seed_each_step(model)
    stop = SimpleNamespace(number=None, is_set=lambda accelerator: False)
    script.train(Accelerator(), args, stage, model, processor, OneClip(batch), get_score, stop)

    losses = [float(row["loss"]) for row in read_log(tmp_path / "run" / f"stage_{stage}" / "log.csv") if row["loss"]]
    assert losses == pytest.approx(sum(expected["losses"], []), rel=1e-5)
    assert norms == ([] if stage == 2 else pytest.approx(sum(expected["norms"], []), rel=1e-3))
    for half in (0, 1):
        assert expected["after"][half]
        for name, value in expected["after"][half].items():
            assert_close(
                after[half][rename_key(name)], value, atol=1e-4, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
            )
    changed = [{name for name, value in half.items() if not torch.equal(value, before[name])} for half in after]
    adapters = {name for name in before if re.search(BACKBONE_ADAPTERS, name)}
    trained = {name for name in after[0] if any(re.search(pattern, name) for pattern in released)}
    assert changed[0] == trained | adapters and changed[1] == trained | adapters
    assert not any(after[0][name].any() for name in adapters)


# Outputs -------------------------------------------------------------------------------------------------------------


TWO_PHASES = {
    **{f"stage_{stage}_epochs": 2 for stage in (1, 2)},
    **{f"stage_{stage}_phase_2_epoch": 1 for stage in (1, 2)},
    **{f"stage_{stage}_parameters": RELEASED_PARAMETERS[stage] for stage in (1, 2)},
    "checkpointing_steps": 2,
}
STEPS = 3  # in an epoch of six clips


def score_progress(model) -> float:
    """
    A score that is sure to rise: with AAVS at the switch, when the backbone's adapters begin to do something, with
    others that have batch norms at each step.
    """
    adapters = [value for name, value in model.named_parameters() if re.search(BACKBONE_ADAPTERS, name)]
    batches = [value for name, value in model.named_buffers() if name.endswith("num_batches_tracked")]
    return sum(value.abs().sum().item() for value in adapters + batches)


def arrange(setattr) -> None:
    """Scores that are sure to rise, and models whose figures are not zero."""
    train = script.train
    setattr(script, "train", lambda *args: train(*args[:-2], score_progress, args[-1]))
    setattr(script, "make_model", fixed_points.make_hopeful_model)


@pytest.fixture
def arranged(monkeypatch):
    arrange(monkeypatch.setattr)


@pytest.fixture(scope="module")
def whole(common, tmp_path_factory) -> Path:
    """A run that nothing interrupts."""
    with pytest.MonkeyPatch.context() as patch:
        arrange(patch.setattr)
        return run(tmp_path_factory.mktemp("whole") / "out", common, TWO_PHASES)


@dataclass
class System:
    """A model with the arguments of its runs, and a run of it that nothing interrupts."""

    arguments: dict
    whole: Path


PER_PIXEL = [pytest.param(name, marks=pytest.mark.slow) for name in ("avsegformer", "tpavi")]


@pytest.fixture(scope="module", params=["aavs", *PER_PIXEL])
def system(request, common, per_pixel, tmp_path_factory) -> System:
    if request.param == "aavs":
        return System({**common, **TWO_PHASES}, request.getfixturevalue("whole"))
    # TPAVI has one phase: its second epoch takes the place of the other one.
    left_out = "_parameters" if request.param == "avsegformer" else ("_parameters", "_phase_2_epoch")
    recipe = {name: value for name, value in TWO_PHASES.items() if not name.endswith(left_out)}
    arguments = {**per_pixel[request.param], **recipe}
    with pytest.MonkeyPatch.context() as patch:
        arrange(patch.setattr)
        return System(arguments, run(tmp_path_factory.mktemp(request.param) / "out", arguments))


def test_the_repository_has_both_stages_and_their_processors(whole):
    for subfolder, num_labels, prompted in (("localizer", 2, False), ("", 71, True)):
        model = AAVSForAudioVisualSegmentation.from_pretrained(whole / "model", subfolder=subfolder)
        processor = AAVSProcessor.from_pretrained(whole / "model", subfolder=subfolder)
        assert (model.config.num_labels, model.config.use_mask_prompt) == (num_labels, prompted)
        assert processor.image_processor.localization is (num_labels == 2)
        assert processor.image_processor.size.height == 64


def test_the_card_shows_the_measured_figures(whole):
    results, card = read_json(whole / "all_results.json"), ModelCard.load(whole / "model" / "README.md")
    assert card.data.library_name == "stepping_stones_hf"
    assert set(results["stage_1"]) == {"S4", "MS3", "V2"}
    assert set(results["stage_2"]) == {"masks of stage 1", "true masks"}
    rows = {
        cells[0]: cells[1:] for cells in (line.strip("|").split("|") for line in card.text.splitlines() if "|" in line)
    }
    rows = {name.strip(): [cell.strip() for cell in cells] for name, cells in rows.items()}
    for figures in results.values():
        for name, values in figures.items():
            shown = {f"{value:.3f}" for value in values.values() if isinstance(value, float)}
            assert rows[name] and set(rows[name]) <= shown
            assert f"{values['miou']:.3f}" == rows[name][0]


class StandInHub:
    """Keeps a repository's files in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def create_repo(self, repo_id: str, exist_ok: bool) -> SimpleNamespace:
        (self.folder / "me" / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload_folder(self, repo_id: str, folder_path: Path) -> None:
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)


def test_the_repository_is_uploaded_with_a_card_that_loads_it_by_its_name(common, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "HfApi", lambda: StandInHub(tmp_path / "hub"))
    steps = {"stage_1_max_steps": 1, "stage_2_max_steps": 1, "push_to_hub": True, "hub_model_id": "avs"}
    run(tmp_path / "out", common, steps)
    uploaded = tmp_path / "hub" / "me" / "avs"
    for subfolder in ("", "localizer"):
        AAVSForAudioVisualSegmentation.from_pretrained(uploaded, subfolder=subfolder)
        AAVSProcessor.from_pretrained(uploaded, subfolder=subfolder)
    text = ModelCard.load(uploaded / "README.md").text
    assert 'from_pretrained("me/avs", subfolder="localizer")' in text
    assert "mIoU*" in text


def test_the_log_has_a_row_a_step_and_a_score_an_epoch(whole):
    for stage in (1, 2):
        rows = read_log(whole / f"stage_{stage}" / "log.csv")
        steps, scores = [row for row in rows if row["loss"]], [row for row in rows if row["score"]]
        assert [int(row["step"]) for row in steps] == list(range(1, 2 * STEPS + 1))
        assert [(int(row["step"]), int(row["epoch"])) for row in scores] == [(STEPS, 0), (2 * STEPS, 1)]
        # A cosine in each phase, from its own peak.
        assert [float(steps[index]["learning_rate"]) for index in (0, STEPS)] == [1e-3, 1e-4]


def test_pictures_are_drawn(whole):
    for name in ("curves.png", "grid.png"):
        assert np.asarray(Image.open(whole / name)).std() > 10


def test_masks_are_complete_and_those_of_the_localizer(whole, data_dir):
    clips = load_clips(data_dir, "avss")
    localizer_hash = mask_store.hash_model_folder(whole / "model" / "localizer")
    assert {path.name for path in (whole / "masks").iterdir()} == {"validation", "test"}
    for split, num_frames in (("validation", 10), ("test", 20)):
        manifest = mask_store.check_store(whole / "masks" / split, clips[split], localizer_hash)
        masks = [np.asarray(Image.open(path)) for path in (whole / "masks" / split).rglob("*.png")]
        assert manifest.num_frames == len(masks) == num_frames
        assert set(np.unique(np.stack(masks))) <= {0, 255} and masks[0].shape == (64, 64)
    assert manifest.scores == read_json(whole / "all_results.json")["stage_1"]
    assert manifest.threshold == 0.5


def test_soft_masks_are_shares_of_the_score_and_have_no_threshold(whole, common, tmp_path, data_dir):
    settings = {"stage": 2, "localizer": whole / "model" / "localizer", "stage_2_max_steps": 1}
    output_dir = run(tmp_path / "out", common, settings, {"soft_masks": True})
    stores = [folder / "masks" / "test" for folder in (output_dir, whole)]
    soft, hard = [
        np.stack([np.asarray(Image.open(path)) for path in sorted(store.rglob("*.png"))]) for store in stores
    ]
    assert len(np.unique(soft)) > 10
    assert ((soft >= 128) == (hard == 255)).all()
    manifests = [mask_store.check_store(store, load_clips(data_dir, "avss", "test")) for store in stores]
    assert [manifest.threshold for manifest in manifests] == [None, 0.5]
    assert manifests[0].localizer_hash == manifests[1].localizer_hash


# Interruptions -------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def run_until(monkeypatch, owner, name: str, call: int, after: bool, when, output_dir: Path, *arguments: dict) -> None:
    """Runs the script until it calls a function the `call`-th time with arguments that fulfill `when`."""
    original, calls = getattr(owner, name), []

    def replacement(*args, **kwargs):
        if when(*args):
            calls.append(args)
        if len(calls) < call:
            return original(*args, **kwargs)
        if after:
            original(*args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, replacement)
        run(output_dir, *arguments, {"resume_from_checkpoint": "latest"})


def at(owner, name: str, call: int = 1, after: bool = False, when=lambda *_: True) -> tuple:
    return owner, name, call, after, when


def test_killed_at_any_point_a_run_goes_on_to_the_same_weights(system, tmp_path, monkeypatch, arranged):
    points = [
        at(script, "compute_gradients", call=2),  # before there is a checkpoint
        at(Accelerator, "save_state", after=True),  # half a checkpoint
        at(Path, "rename", when=lambda path, _: path.name.startswith(".epoch_")),  # all but its name
        at(Path, "rename", after=True, when=lambda path, _: path.name.startswith(".epoch_")),
        at(PreTrainedModel, "save_pretrained", after=True),  # half a best model
        at(script, "save_checkpoint", when=lambda _, progress, __: progress.step == 0),  # a best model too many
        at(shutil, "rmtree", when=lambda path, *_: path.name.startswith("epoch_")),  # a checkpoint too many
        at(script, "compute_gradients", call=2),  # in the second phase
        at(script, "save_checkpoint", when=lambda _, progress, __: progress.step == 0),
        at(shutil, "rmtree", when=lambda path, *_: path.name == "checkpoints"),  # after stage 1
        at(localizer, "write_mask", call=3),
        at(localizer, "complete_store", call=1),
        at(localizer, "complete_store", call=2),
        at(script, "compute_gradients", call=3),  # of stage 2
        at(Path, "rename", when=lambda path, _: path.name == "best_1"),
        at(script, "segment", call=2),  # in the evaluation of both
        at(Path, "rename", when=lambda path, _: path.name == ".model.partial"),
        at(script, "draw_examples"),
    ]
    for point in points:
        run_until(monkeypatch, *point, tmp_path / "out", system.arguments)
    assert_same_run(run(tmp_path / "out", system.arguments, {"resume_from_checkpoint": "latest"}), system.whole)
    assert {path.name for path in (tmp_path / "out" / "masks").iterdir()} == {"validation", "test"}


def test_trackers_count_the_steps_of_stage_2_on_from_those_of_stage_1(common, tmp_path, monkeypatch, capsys):
    tracked = []
    monkeypatch.setattr(Accelerator, "log", lambda self, values, step: tracked.append((step, set(values))))
    steps = {"stage_1_max_steps": 2, "stage_2_max_steps": 2, "checkpointing_steps": 1}
    run_until(monkeypatch, *at(script, "compute_gradients", call=4), tmp_path / "out", common, steps)
    run(tmp_path / "out", common, steps, {"resume_from_checkpoint": "latest"})
    step, score, waiting = {"epoch", "loss", "learning_rate"}, {"epoch", "score"}, {"waiting_for_data"}
    logged = [(1, 1, step), (1, 2, step), (1, 2, score), (1, 2, waiting)]
    logged += [(2, 3, step), (2, 4, step), (2, 4, score), (2, 4, waiting)]
    assert tracked == [(number, {f"stage_{stage}/{name}" for name in names}) for stage, number, names in logged]
    assert [row["step"] for row in read_log(tmp_path / "out" / "stage_2" / "log.csv")] == ["1", "2", "2"]
    shares = re.findall(r"^Stage (\d) waited for data for (.+)% of", capsys.readouterr().out, flags=re.MULTILINE)
    assert [stage for stage, _ in shares] == ["1", "2"] and all(0 < float(share) < 100 for _, share in shares)


def test_with_a_checkpoint_an_epoch_phase_2_begins_again_from_the_best_of_the_first(
    system, tmp_path, monkeypatch, arranged
):
    # The second phase's best model is written, its checkpoint is not: what is newest is not what it began from.
    epochs = {**system.arguments, "checkpointing_steps": "epoch"}
    for stage in (1, 2):
        best = Path(f"stage_{stage}", "best_1")
        point = at(script, "save_model", after=True, when=lambda *args, best=best: args[3].match(str(best)))
        run_until(monkeypatch, *point, tmp_path / "out", epochs)
        assert {path.name for path in (tmp_path / "out" / f"stage_{stage}").glob("best_*")} == {"best_0", "best_1"}
    assert_same_run(run(tmp_path / "out", epochs, {"resume_from_checkpoint": "latest"}), system.whole)


def test_signals_save_after_the_step_and_leave_with_their_exit_code(system, tmp_path, monkeypatch, arranged, capsys):
    compute_gradients = script.compute_gradients
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    for stage, number in ((1, signal.SIGTERM), (2, signal.SIGINT)):

        def interrupted(accelerator, model, *args, stage=stage, number=number):
            if model.config.use_mask_prompt == (stage == 2):
                os.kill(os.getpid(), number)
            return compute_gradients(accelerator, model, *args)

        with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
            patch.setattr(script, "compute_gradients", interrupted)
            run(tmp_path / "out", system.arguments, {"resume_from_checkpoint": "latest"})
        assert stopped.value.code == 128 + number
        assert f"Stopped and saved after step 1 of stage {stage}." in capsys.readouterr().err
        assert find_checkpoint(tmp_path / "out" / f"stage_{stage}")[0].total_steps == 1
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert_same_run(run(tmp_path / "out", system.arguments, {"resume_from_checkpoint": "latest"}), system.whole)


def test_a_signal_during_the_last_evaluation_stops_the_run_before_the_next_stage(common, tmp_path, monkeypatch):
    get_scores = script.get_scores

    def interrupted(*args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return get_scores(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(script, "get_scores", interrupted)
        run(tmp_path / "out", common, {"stage_1_epochs": 1, "stage_2_epochs": 1})
    assert stopped.value.code == 128 + signal.SIGTERM
    assert not (tmp_path / "out" / "stage_2").exists()


def test_killed_a_run_of_ease_goes_on_with_its_rates_masks_and_augmentation(ease, tmp_path, monkeypatch, arranged):
    recipe = {f"stage_{stage}_epochs": 2 for stage in (1, 2)}
    recipe |= {"lr_scheduler_type": "polynomial", "num_warmup_steps": 1, "num_backbone_warmup_steps": 2}
    recipe |= {"checkpointing_steps": 2}
    whole = run(tmp_path / "whole", ease, recipe)
    for call in (4, 8):  # in stage 1 after its checkpoint, and in stage 2 after the steps that stage 1 has left
        run_until(monkeypatch, *at(script, "compute_gradients", call=call), tmp_path / "out", ease, recipe)
    assert_same_run(run(tmp_path / "out", ease, recipe, {"resume_from_checkpoint": "latest"}), whole)


LISTENING = {"negatives": 0.5, "negative_kinds": ["offscreen", "silence", "noise"], "pair_loss_weight": 1}


def test_killed_a_run_with_negatives_goes_on_with_the_same_ones(common, tmp_path, monkeypatch, arranged):
    recipe = {**TWO_PHASES, **LISTENING}
    whole = run(tmp_path / "whole", common, recipe)
    for call in (4, 9):  # in the second epoch of stage 1, and in stage 2 after a checkpoint
        run_until(monkeypatch, *at(script, "compute_gradients", call=call), tmp_path / "out", common, recipe)
    assert_same_run(run(tmp_path / "out", common, recipe, {"resume_from_checkpoint": "latest"}), whole)
    # The pair head trains from the start, whichever parameters a recipe names.
    for stage in (1, 2):
        args = script.parse_arguments(to_argv({**common, **recipe}))[1]
        fresh, _ = script.make_model(args, localizes=stage == 1, prompted=stage == 2, seed=3407)
        trained = load_file(whole / f"stage_{stage}" / "model" / "model.safetensors")
        assert not torch.equal(fresh.pair_head.projection.weight, trained["pair_head.projection.weight"])
        assert read_json(whole / f"stage_{stage}" / "model" / "config.json")["pair_loss_weight"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "call", "left"),
    [
        ("train_stepping_stones.compute_gradients", 4, {"stage_1/checkpoints": ["epoch_000001_step_00000000"]}),
        ("train_stepping_stones.compute_gradients", 9, {"stage_2/checkpoints": ["epoch_000000_step_00000002"]}),
        # The second checkpoint has its model and its optimizer.
        (
            "torch.save",
            5,
            {"stage_1/checkpoints": [".epoch_000001_step_00000000.partial", "epoch_000000_step_00000002"]},
        ),
        ("stepping_stones_hf.training.localizer.write_mask", 3, {"masks": [".validation.partial"]}),
    ],
    ids=["stage_1", "stage_2", "checkpoint", "masks"],
)
def test_a_process_that_is_killed_goes_on_in_another_one(
    system, tmp_path, arranged, function: str, call: int, left: dict
):
    argv = to_argv({"output_dir": tmp_path / "out", **system.arguments})
    killed = subprocess.run(
        [sys.executable, "-m", "tests.examples.killed", function, str(call), *argv],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    for folder, names in left.items():
        assert sorted(path.name for path in (tmp_path / "out" / folder).iterdir()) == names
    assert_same_run(run(tmp_path / "out", system.arguments, {"resume_from_checkpoint": "latest"}), system.whole)


@pytest.mark.slow
@pytest.mark.parametrize("data", ["data_dir", "shared_dir"])
@pytest.mark.parametrize("name", ["avsegformer", "cavp", "ease", "tpavi"])
def test_both_stages_learn_on_drawn_and_on_real_clips(name, data, request, tmp_path):
    folder = request.getfixturevalue(data)
    recipe = {"config": EXAMPLES / "configs" / f"mini_{name}.yaml", "dataloader_num_workers": 0}
    recipe |= {"data_dir": folder / "real_clips" if data == "shared_dir" else folder, "num_warmup_steps": 5}
    run(tmp_path, recipe, {"stage_1_max_steps": 20, "stage_2_max_steps": 20})
    for stage in (1, 2):
        losses = [float(row["loss"]) for row in read_log(tmp_path / f"stage_{stage}" / "log.csv") if row["loss"]]
        assert len(losses) == 20 and np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


# Several processes ---------------------------------------------------------------------------------------------------


def flatten(results: dict) -> dict:
    flat = {}
    for name, value in results.items():
        values = flatten(value).items() if isinstance(value, dict) else [("", value)]
        flat |= {f"{name}/{rest}": number for rest, number in values}
    return flat


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    "model_type",
    ["aavs", *(pytest.param(name, marks=pytest.mark.slow) for name in ("aavs with negatives", "ease")), *PER_PIXEL],
)
def test_two_processes_and_accumulation_give_the_gradients_and_figures_of_one_batch(
    common, ease, per_pixel, tmp_path, model_type
):
    def arguments(name: str, batch_size: int, passes: int) -> list[str]:
        steps = {"stage_1_max_steps": 2, "stage_2_max_steps": 2, "lr_scheduler_type": "constant"}
        steps |= {"stage_1_learning_rate": 1e-4, "stage_2_learning_rate": 1e-4, "output_dir": tmp_path / name}
        sizes = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": passes}
        if model_type.startswith("aavs"):
            listening = LISTENING if model_type.endswith("negatives") else {}
            return to_argv({**common, **steps, **sizes, **listening})
        if model_type in per_pixel:
            return to_argv({**per_pixel[model_type], **steps, **sizes})
        model = json.loads(ease["model"])
        # All blocks are joint: the rates of others depend on the number of batches.
        model["backbone_config"]["num_hidden_layers"] = model["num_joint_blocks"]
        model = json.dumps({**model, "mask_feature_dropout": 0})
        return to_argv({**ease, **steps, **sizes, "model": model})

    outputs = {name: tmp_path / f"{name}.safetensors" for name in ("one", "accumulated", "two")}
    for name, batch_size, passes in (("one", 2, 1), ("accumulated", 1, 2)):
        with pytest.MonkeyPatch.context() as patch:
            fixed_points.main(outputs[name], arguments(name, batch_size, passes), patch.setattr)
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port())]
    module = ["-m", "tests.examples.fixed_points", str(outputs["two"])]
    done = subprocess.run(
        [sys.executable, *launch, *module, *arguments("two", 1, 1)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr

    one, *others = [load_file(output) for output in outputs.values()]
    assert len(one["losses"]) == 4
    assert [other["num_processes"].item() for other in others] == [1, 2]
    results = read_json(tmp_path / "one" / "all_results.json")
    assert all(figures["miou"] > 0 for figures in results["stage_2"].values())
    for name, other in zip(("accumulated", "two"), others):
        assert_close(other["losses"], one["losses"], rtol=1e-5, atol=0)
        for step in range(4):
            gradients, expected = other[f"gradients.{step}"], one[f"gradients.{step}"]
            assert (gradients - expected).norm() <= 1e-5 * expected.norm(), f"{name}, step {step}"
        assert flatten(read_json(tmp_path / name / "all_results.json")) == pytest.approx(flatten(results), abs=1e-5)


# Phases --------------------------------------------------------------------------------------------------------------


def test_phase_2_begins_from_the_best_epoch_with_fresh_adapters(common, tmp_path, monkeypatch):
    scores, epochs, begun = iter([0.5, 0.1, 0.3]), [], []
    train, compute_gradients = script.train, script.compute_gradients

    def get_score(model) -> float:
        epochs.append({name: value.clone() for name, value in model.state_dict().items()})
        return next(scores)

    def record(accelerator, model, *args):
        begun.append({name: value.clone() for name, value in model.state_dict().items()})
        return compute_gradients(accelerator, model, *args)

    monkeypatch.setattr(script, "train", lambda *args: train(*args[:-2], get_score, args[-1]))
    monkeypatch.setattr(script, "compute_gradients", record)
    halves = {
        "stage": 1,
        "stage_1_epochs": 3,
        "stage_1_phase_2_epoch": 2,
        "stage_1_parameters": RELEASED_PARAMETERS[1],
    }
    output_dir = run(tmp_path / "out", common, halves)

    adapters = {name for name in epochs[0] if re.search(BACKBONE_ADAPTERS, name)}
    trained = {name for name in epochs[0] if any(re.search(pattern, name) for pattern in RELEASED_PARAMETERS[1])}
    assert len(begun) == 3 * STEPS
    for state in (*begun[: 2 * STEPS], *epochs[:2]):
        assert not any(state[name].any() for name in adapters)
    # From the best epoch, not from the last.
    second = begun[2 * STEPS]
    assert all(torch.equal(second[name], epochs[0][name]) for name in second.keys() - adapters)
    assert any(not torch.equal(second[name], epochs[1][name]) for name in trained)
    assert all(second[name].any() != name.endswith("bias") for name in adapters)
    for before, after, expected in ((begun[0], epochs[1], trained), (second, epochs[2], trained | adapters)):
        assert {name for name in before if not torch.equal(before[name], after[name])} == expected
    # No later epoch was better than the first.
    best = AAVSForAudioVisualSegmentation.from_pretrained(output_dir / "model").state_dict()
    assert all(torch.equal(best[name], epochs[0][name]) for name in best)


def test_without_patterns_phase_1_trains_everything_but_the_adapters(common, tmp_path, monkeypatch):
    models, optimizers = [], []
    compute_gradients, adamw = script.compute_gradients, torch.optim.AdamW
    monkeypatch.setattr(
        script, "compute_gradients", lambda _, model, *args: models.append(model) or compute_gradients(_, model, *args)
    )
    monkeypatch.setattr(
        torch.optim, "AdamW", lambda groups, **kwargs: optimizers.append(groups) or adamw(groups, **kwargs)
    )
    run(tmp_path / "out", common, {"stage": 1, "stage_1_max_steps": STEPS + 1, "stage_1_phase_2_epoch": 1})
    first, second = models[0], models[STEPS]
    adapters = {name for name, _ in first.named_parameters() if re.search(BACKBONE_ADAPTERS, name)}
    assert first is not second
    assert not any(first.get_parameter(name).any() for name in adapters)
    counts = [sum(len(group["params"]) for group in groups) for groups in optimizers]
    assert counts[1] - counts[0] == len(adapters)


def test_a_phase_outside_of_the_epochs_is_an_error(common, tmp_path):
    with pytest.raises(
        ValueError, match="--stage_1_phase_2_epoch is 2, expected one from 1 to 1: .* 2 epochs of 3 steps"
    ):
        run(tmp_path / "out", common, {"stage_1_epochs": 2, "stage_1_phase_2_epoch": 2})


# What a stage is given -----------------------------------------------------------------------------------------------


class Given(BaseException):
    """Ends a run where its training begins."""


def capture(monkeypatch, stage: int, output_dir: Path, *arguments: dict) -> StepBatches:
    """The batches that a stage would be trained on."""
    train = script.train

    def replacement(*args):
        if args[2] == stage:
            raise Given(args[5])
        train(*args)

    with monkeypatch.context() as patch, pytest.raises(Given) as given:
        patch.setattr(script, "train", replacement)
        run(output_dir, *arguments)
    return given.value.args[0]


def all_names(batches: StepBatches) -> set[str]:
    return {name for step in range(len(batches)) for name in batches.names(0, step)}


def first_batch(batches: StepBatches, epoch: int = 0) -> dict:
    return next(iter(batches.epoch(epoch, 0, 1)))[0]


def test_silent_clips_of_ms3_are_left_out_of_stage_1_alone(common, tmp_path, monkeypatch):
    data_dir = make_mini_avsbench(tmp_path / "mini", image_size=64, clips={"v1s": (3, 1, 1), "v1m": (3, 1, 1)})
    with open(data_dir / "metadata.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    silenced = {
        next(f"{row['label']}/{row['uid']}" for row in rows if row["label"] == subset) for subset in ("v1s", "v1m")
    }
    for name in silenced:
        for path in (data_dir / name / "labels_rgb").iterdir():
            Image.new("RGB", (64, 64)).save(path)
    everything = {f"{row['label']}/{row['uid']}" for row in rows}
    settings = {**common, "data_dir": data_dir, "per_device_train_batch_size": 1}
    stage_1 = all_names(capture(monkeypatch, 1, tmp_path / "1", settings))
    assert everything - stage_1 == {name for name in silenced if name.startswith("v1m")}
    assert all_names(capture(monkeypatch, 2, tmp_path / "2", settings, {"stage": 2})) == everything


def test_prompts_of_training(whole, common, tmp_path, monkeypatch):
    settings = {**common, "stage": 2, "localizer": whole / "model" / "localizer", "per_device_train_batch_size": 6}
    batches = {
        prompts: capture(monkeypatch, 2, tmp_path / prompts, settings, {"train_prompts": prompts})
        for prompts in ("truth", "degraded", "stage1", "none")
    }
    given = {prompts: first_batch(batches[prompts]) for prompts in batches}
    for mask, prompt, classes in zip(
        given["truth"]["mask_labels"], given["truth"]["prompt_masks"], given["truth"]["class_labels"]
    ):
        assert torch.equal(mask[classes > 0].sum(0) > 0, prompt > 0)
    assert "prompt_masks" not in given["none"]
    assert not torch.equal(given["degraded"]["prompt_masks"], given["truth"]["prompt_masks"])
    assert torch.equal(given["degraded"]["prompt_masks"], first_batch(batches["degraded"])["prompt_masks"])
    batches["degraded"].collator.prompt.seed += 1
    assert not torch.equal(given["degraded"]["prompt_masks"], first_batch(batches["degraded"])["prompt_masks"])
    assert set(given["stage1"]["prompt_masks"].unique().tolist()) <= {0, 1}
    # The store has a mask for each annotated frame of the training clips, and these are the prompts.
    stored = [np.asarray(Image.open(path)) / 255 for path in (tmp_path / "stage1" / "masks" / "train").rglob("*.png")]
    assert len(stored) == len(given["stage1"]["prompt_masks"]) == 4 + 2 * 5
    assert sorted(mask.sum() for mask in stored) == sorted(given["stage1"]["prompt_masks"].sum((1, 2)).tolist())


def test_degraded_prompts_change_from_epoch_to_epoch(common, tmp_path, monkeypatch):
    seen, compute_gradients = [], script.compute_gradients
    monkeypatch.setattr(
        script, "compute_gradients", lambda *args: seen.append(args[2][0]["prompt_masks"]) or compute_gradients(*args)
    )
    settings = {"stage": 2, "stage_2_epochs": 2, "per_device_train_batch_size": 6, "train_prompts": "degraded"}
    monkeypatch.setattr(StepBatches, "order", lambda self, epoch: list(range(6)))
    run(tmp_path / "out", common, settings)
    assert len(seen) == 2 and seen[0].shape == seen[1].shape and not torch.equal(*seen)


def test_one_stage_takes_no_prompts(common, tmp_path):
    steps = {"stage_1_max_steps": 1, "stage_2_max_steps": 1, "train_prompts": "none"}
    output_dir = run(tmp_path / "out", common, steps)
    assert set(read_json(output_dir / "all_results.json")["stage_2"]) == {"no masks"}
    assert not AAVSForAudioVisualSegmentation.from_pretrained(output_dir / "model").config.use_mask_prompt
    assert (output_dir / "grid.png").exists()


def test_the_control_that_hears_nothing_gets_silence_in_training_and_evaluation(common, tmp_path, monkeypatch):
    heard = []
    for module in (script, localizer):
        monkeypatch.setattr(
            module, "localize", lambda *args, **kwargs: heard.append(args[2]) or localize(*args, **kwargs)
        )
    compute_gradients = script.compute_gradients
    monkeypatch.setattr(
        script, "compute_gradients", lambda *args: heard.append(args[2][0]) or compute_gradients(*args)
    )
    run(tmp_path / "out", common, {"stage": 1, "stage_1_max_steps": 1, "audio": "silence"})
    assert len(heard) > 3
    assert {len(inputs["input_features"].unique()) for inputs in heard} == {1}


def test_negatives_change_from_epoch_to_epoch_and_have_silent_targets(common, tmp_path, monkeypatch):
    monkeypatch.setattr(StepBatches, "order", lambda self, epoch: list(range(6)))
    seen, compute_gradients = [], script.compute_gradients
    monkeypatch.setattr(script, "compute_gradients", lambda *args: seen.append(args[2][0]) or compute_gradients(*args))
    settings = {"stage": 2, "stage_2_epochs": 2, "per_device_train_batch_size": 6, **LISTENING}
    run(tmp_path / "out", common, settings)
    plain = first_batch(
        capture(monkeypatch, 2, tmp_path / "plain", common, {"stage": 2, "per_device_train_batch_size": 6})
    )
    silent = [[classes.tolist() == [0] for classes in batch["class_labels"]] for batch in seen]
    assert len(silent) == 2 and silent[0] != silent[1]
    for batch, of_batch in zip(seen, silent):
        kept = [map(torch.equal, batch[name], plain[name]) for name in ("input_features", "prompt_masks")]
        assert torch.equal(batch["pixel_values"], plain["pixel_values"])
        for is_silent, same_sound, same_prompt, prompt in zip(of_batch, *kept, batch["prompt_masks"]):
            assert same_sound or is_silent
            assert same_prompt or (not same_sound and not prompt.any())
        assert not all(map(torch.equal, batch["input_features"], plain["input_features"]))


def test_negatives_of_stage_1_have_no_prompts(common, tmp_path, monkeypatch):
    batches = capture(monkeypatch, 1, tmp_path / "out", common, LISTENING, {"per_device_train_batch_size": 6})
    batch = first_batch(batches)
    assert "prompt_masks" not in batch
    silent = [classes.tolist() == [0] for classes in batch["class_labels"]]
    assert 0 < sum(silent) < len(silent)
    assert capture(monkeypatch, 1, tmp_path / "plain", common).collator.negatives is None


@pytest.mark.parametrize("localizes", [True, False])
def test_a_model_with_a_pair_head_begins_as_one_without(localizes):
    recipe = ["--config", str(EXAMPLES / "configs" / "mini.yaml")]
    models = []
    for options in ([], ["--pair_loss_weight", "1"], ["--pair_loss_weight", "0"]):
        args = script.parse_arguments(recipe + options)[1]
        models.append(script.make_model(args, localizes, prompted=not localizes, seed=7)[0])
    plain, listening, off = (model.state_dict() for model in models)
    assert listening.keys() - plain.keys() == {"pair_head.projection.weight", "pair_head.projection.bias"}
    assert off.keys() == plain.keys()
    for name, value in plain.items():
        assert torch.equal(listening[name], value) and torch.equal(off[name], value), name


def test_a_model_to_start_from_gets_and_loses_a_pair_head(whole, tmp_path):
    def make(path: Path, weight: float | None):
        args = script.ModelSettings(model_name_or_path=str(path), pair_loss_weight=weight)
        return script.make_model(args, localizes=True, prompted=False, seed=7)[0]

    listening, again = make(whole / "model", 1.0), make(whole / "model", 1.0)
    assert torch.equal(listening.pair_head.projection.weight, again.pair_head.projection.weight)
    listening.save_pretrained(tmp_path / "localizer")
    AAVSProcessor.from_pretrained(whole / "model" / "localizer").save_pretrained(tmp_path / "localizer")
    assert not make(whole / "model", None).has_pair_head
    assert make(tmp_path, None).config.pair_loss_weight == 1 and make(tmp_path, 0.5).config.pair_loss_weight == 0.5
    assert make(tmp_path, 0.0).state_dict().keys() == make(whole / "model", None).state_dict().keys()


def test_frames_can_be_shuffled_rather_than_clips(common, tmp_path, monkeypatch):
    batches = capture(monkeypatch, 1, tmp_path / "out", common, {"split_clips": True})
    assert len(batches.clips) == 4 + 2 * 5
    assert len(first_batch(batches)["pixel_values"]) == 2


def test_the_first_frame_of_s4_can_be_repeated(common, tmp_path, monkeypatch):
    settings = {"first_frame": "repeat", "per_device_train_batch_size": 6}
    assert len(first_batch(capture(monkeypatch, 1, tmp_path / "out", common, settings))["pixel_values"]) == 6 * 5


# Configs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dump", [yaml.safe_dump, json.dumps], ids=["yaml", "json"])
def test_the_command_line_overrides_a_config_file_and_that_the_defaults(tmp_path, dump):
    path = tmp_path / "config"
    values = {"stage": 1, "stage_1_epochs": 7, "stage_1_max_grad_norm": None, "split_clips": True, "seed": 5}
    path.write_text(dump({**values, "stage_1_parameters": ["queries_embedder", "class_predictor"]}))
    data_args, _, args = script.parse_arguments(["--config", str(path), "--seed", "6", "--stage_2_epochs", "4"])
    assert (args.stage, args.stage_1_epochs, args.stage_1_max_grad_norm, args.seed) == ("1", 7, None, 6)
    assert (args.stage_2_epochs, args.stage_2_max_grad_norm, data_args.split_clips) == (4, 1.0, True)
    assert args.stage_1_parameters == ["queries_embedder", "class_predictor"]


@pytest.mark.parametrize("name", ["num_backbone_warmup_steps", "polynomial_power"])
def test_what_goes_with_a_polynomial_is_refused_with_other_schedules(name):
    with pytest.raises(ValueError, match=f"--{name} goes with --lr_scheduler_type polynomial, got cosine"):
        script.check_arguments(script.DataArguments(), script.ModelSettings(), script.RunArguments(**{name: 1}))


def test_a_config_file_with_an_unknown_argument_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("stage_1_epoch: 7\nstage_2_epochs: 7\n")
    with pytest.raises(ValueError, match="config.yaml has unknown arguments: stage_1_epoch.$"):
        script.parse_arguments(["--config", str(path)])


@pytest.mark.parametrize("text", ["stage: 3", "stage_1_epochs: many", "train_prompts: true"])
def test_a_config_file_with_an_impossible_value_is_refused(tmp_path, text, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(SystemExit):
        script.parse_arguments(["--config", str(path)])
    assert re.search(rf"argument --{text.split(':')[0]}\b.*: invalid", capsys.readouterr().err)


@pytest.mark.parametrize("path", sorted((EXAMPLES / "configs").iterdir()), ids=lambda path: path.stem)
def test_the_presets_are_read(path):
    script.parse_arguments(["--config", str(path)])


def test_the_bare_command_is_the_mini_preset():
    path = EXAMPLES / "configs" / "mini.yaml"
    assert script.parse_arguments([]) == script.parse_arguments(["--config", str(path)])


@pytest.mark.parametrize("name", ["s4", "ms3", "avss", "avss-24gb"])
def test_the_presets_train_what_the_released_program_trains(name):
    path = EXAMPLES / "configs" / f"{name}.yaml"
    data_args, _, args = script.parse_arguments(["--config", str(path)])
    assert tuple(args.stage_1_parameters) == RELEASED_PARAMETERS[1]
    assert (args.stage_1_phase_2_epoch, args.stage_1_epochs, args.stage_1_max_grad_norm) == (30, 60, 0.01)
    assert (args.stage_1_learning_rate, args.stage_1_phase_2_learning_rate, args.seed) == (1e-3, 1e-4, 3407)
    assert (args.per_device_train_batch_size, data_args.split_clips, data_args.first_frame) == (1, False, "repeat")
    if args.stage == "all":
        assert tuple(args.stage_2_parameters) == RELEASED_PARAMETERS[2]
        assert (args.stage_2_phase_2_epoch, args.stage_2_epochs, args.stage_2_max_grad_norm) == (20, 60, None)


def test_the_released_recipe_in_small_trains_what_the_released_one_trains():
    recipes = [
        script.parse_arguments(["--config", str(EXAMPLES / "configs" / f"{name}.yaml")])
        for name in ("avss", "mini_pretrained")
    ]
    released, small = ({**vars(args), "first_frame": None} for _, _, args in recipes)
    of_size = {name for name in released if re.search("batch_size|max_steps|phase_2_epoch", name)}
    assert {name for name in released if released[name] != small[name]} == of_size
    for stage in (1, 2):
        share = 250 * small[f"stage_{stage}_phase_2_epoch"] / small[f"stage_{stage}_max_steps"]
        assert share == released[f"stage_{stage}_phase_2_epoch"] / released[f"stage_{stage}_epochs"]


@pytest.mark.parametrize("name", ["multi_gpu", "fsdp", "deepspeed_zero2"])
def test_the_configs_of_accelerate_are_read(name):
    config = load_config_from_file(str(EXAMPLES / "accelerate_configs" / f"{name}.yaml"))
    assert config.distributed_type.value == name.removesuffix("_zero2").upper()
    assert f"examples/accelerate_configs/{name}.yaml" in (EXAMPLES.parent / "docs/source/training.md").read_text()
    options = {action.dest for action in launch_command_parser()._actions}
    assert {*config.fsdp_config, *config.deepspeed_config} <= options
    if name == "fsdp":
        assert config.fsdp_config["fsdp_auto_wrap_policy"] in FSDP_AUTO_WRAP_POLICY
        assert config.fsdp_config["fsdp_state_dict_type"] in FSDP_STATE_DICT_TYPE


@pytest.mark.parametrize("overrides", ["mask_prompt_keys=false", "audio_query=shared", None])
def test_variants_of_stage_2_begin_with_the_weights_that_they_share(overrides):
    _, args, _ = script.parse_arguments([])
    whole, _ = script.make_model(args, localizes=False, prompted=True, seed=5)
    args = replace(args, config_overrides=overrides)
    variant, _ = script.make_model(args, localizes=False, prompted=overrides is not None, seed=5)
    weights = whole.state_dict()
    assert set(variant.state_dict()) <= set(weights)
    for name, value in variant.state_dict().items():
        assert torch.equal(value, weights[name]), name


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_steps(monkeypatch):
    """All of this is to be known before the first step."""
    monkeypatch.setattr(script, "compute_gradients", lambda *_: pytest.fail("a step was made"))


@pytest.mark.usefixtures("no_steps")
class TestBadInput:
    def test_a_folder_without_the_data(self, common, tmp_path):
        (tmp_path / "data").mkdir()
        with pytest.raises((FileNotFoundError, ValueError), match=re.escape(str(tmp_path / "data"))):
            run(tmp_path / "out", common, {"data_dir": tmp_path / "data"})

    def test_the_next_attempt_may_have_other_arguments(self, common, tmp_path, monkeypatch):
        with pytest.raises((FileNotFoundError, ValueError)):
            run(tmp_path / "out", common, {"data_dir": tmp_path})
        capture(monkeypatch, 1, tmp_path / "out", common)

    def test_the_folder_of_another_run(self, whole, common):
        with pytest.raises(ValueError, match="has a run already. --resume_from_checkpoint latest resumes it"):
            run(whole, common, TWO_PHASES)
        changed = {"resume_from_checkpoint": "latest", "seed": 1}
        with pytest.raises(ValueError, match=r"is the folder of another run: seed differ \(3407 there\)"):
            run(whole, common, TWO_PHASES, changed)

    def test_masks_of_another_localizer(self, whole, common, tmp_path):
        (tmp_path / "out" / "masks").mkdir(parents=True)
        for split in ("validation", "test"):
            (tmp_path / "out" / "masks" / split).symlink_to(whole / "masks" / split)
        other = tmp_path / "other"
        AAVSForAudioVisualSegmentation.from_pretrained(whole / "model" / "localizer", init_std=0.5).save_pretrained(
            other
        )
        with pytest.raises(ValueError, match=r"masks/validation come from another localizer: .*whole.*stage_1/model"):
            run(tmp_path / "out", common, {"stage": 2, "localizer": other})

    def test_a_localizer_that_is_none(self, whole, common, tmp_path):
        with pytest.raises(
            ValueError,
            match=r"--localizer .*model has 71 labels and use_mask_prompt=True: it is not a localizer.*localizer/",
        ):
            run(tmp_path / "out", common, {"stage": 2, "localizer": whole / "model"})
        with pytest.raises(FileNotFoundError, match=r"config.json does not exist: --localizer"):
            run(tmp_path / "out", common, {"stage": 2, "localizer": tmp_path / "nowhere"})
        with pytest.raises(ValueError, match="--train_prompts stage1 needs a localizer"):
            run(tmp_path / "out", common, {"stage": 2, "train_prompts": "stage1"})

    def test_a_model_to_start_from_of_the_other_stage(self, whole, common, tmp_path):
        with pytest.raises(ValueError, match="has 2 labels and use_mask_prompt=False, expected 71 and True"):
            model = {"model_name_or_path": whole / "model" / "localizer"}
            run(tmp_path / "out", common, {"stage": 2, **model}, without="config_overrides")

    def test_a_model_to_start_from_with_another_config(self, whole, common, tmp_path):
        with pytest.raises(ValueError, match="--mask2former_name_or_path do not go with it"):
            run(tmp_path / "out", common, {"model_name_or_path": whole / "model"})

    @pytest.mark.parametrize("item", ["num_querys=4", "num_queries"])
    def test_an_override_that_is_no_field(self, common, tmp_path, item):
        with pytest.raises(ValueError, match=f"has '{item}', expected the name of a field of AAVSConfig"):
            run(tmp_path / "out", common, {"config_overrides": item})

    def test_stages_of_a_run_that_is_unknown(self, whole, common, tmp_path):
        (tmp_path / "out").mkdir()
        shutil.copytree(whole / "stage_1", tmp_path / "out" / "stage_1")
        with pytest.raises(ValueError, match="has stages of a run that left no run.json"):
            run(tmp_path / "out", common, {"resume_from_checkpoint": "latest"})

    def test_a_split_that_is_not_there(self, common, tmp_path):
        data_dir = make_mini_avsbench(tmp_path / "mini", image_size=32, clips={"v1s": (3, 0, 1)})
        with pytest.raises(ValueError, match="has no clips for validation"):
            run(tmp_path / "out", common, {"data_dir": data_dir})

    @pytest.mark.parametrize(
        "arguments", [{"checkpointing_steps": 0}, {"checkpointing_steps": "never"}, {"stage_1_max_steps": 0}]
    )
    def test_numbers_of_steps_that_are_none(self, common, tmp_path, arguments):
        with pytest.raises(ValueError, match="expected epoch or a number from 1|at least 1"):
            run(tmp_path / "out", common, arguments)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"stage_2_epochs": 2, "stage_2_phase_2_epoch": 7},
                "--stage_2_phase_2_epoch is 7, expected one from 1 to 1",
            ),
            ({"stage_2_parameters": ["nothing"]}, "has a name that matches 'nothing'"),
            ({"lr_scheduler_type": "cosin"}, "cosin is not a valid SchedulerType"),
            ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "reduce_lr_on_plateau needs .*metrics"),
            ({"lr_scheduler_type": "cosine_with_min_lr"}, "cosine_with_min_lr needs .*min_lr"),
            (
                {"lr_scheduler_type": "polynomial", "polynomial_power": -1},
                "--polynomial_power is -1.0, expected a num",
            ),
            ({"weight_decay": "inf"}, "--weight_decay is inf, expected at least 0"),
            ({"seed": -1}, "--seed is -1, expected 0 to 4294967295"),
            ({"checkpointing_steps": "²"}, "--checkpointing_steps is '²', expected epoch or a number from 1"),
            ({"gradient_accumulation_steps": 0}, "--gradient_accumulation_steps is 0, expected at least 1"),
            ({"image_size": 0}, "--image_size is 0, expected at least 1"),
            ({"dataloader_num_workers": -1}, "--dataloader_num_workers is -1, expected at least 0"),
            ({"weight_decay": "nan"}, "--weight_decay is nan, expected at least 0"),
            ({"stage_2_learning_rate": 0}, "--stage_2_learning_rate is 0.0, expected a number above 0"),
            ({"stage_1_max_grad_norm": "inf"}, "--stage_1_max_grad_norm is inf, expected a number above 0"),
            ({"degraded_level": 3}, "--degraded_level is 3.0, expected 0 to 1"),
            ({"localizer": "somewhere"}, "--localizer is for --stage 2"),
            ({"negatives": 1}, "--negatives is 1.0, expected a chance from 0 to below 1"),
            ({"negatives": 0.1, "audio": "silence"}, "--negatives are heard, and --audio silence is a control"),
            ({"negative_kinds": "noise"}, "--negative_kinds goes with --negatives, as in --negatives 0.1"),
            ({"negative_prompts": "empty"}, "--negative_prompts goes with --negatives"),
            (
                {"negatives": 0.1, "negative_prompts": "empty", "stage": 1},
                "--negative_prompts is for a stage 2 that is prompted with masks, and none trains",
            ),
            (
                {"negatives": 0.1, "negative_prompts": "empty", "train_prompts": "none"},
                "--negative_prompts is for a stage 2 that is prompted with masks, and none trains",
            ),
            ({"pair_loss_weight": -1}, "--pair_loss_weight is -1.0, expected at least 0"),
            (
                {"negatives": 0.1, "stage_2_model": json.dumps({"audio_config": None})},
                "--negatives plays other sounds, and aavs takes embeddings of sounds",
            ),
        ],
    )
    def test_what_is_wrong_with_either_stage_is_told_before_stage_1_trains(self, common, tmp_path, arguments, message):
        with pytest.raises(ValueError, match=message):
            run(tmp_path / "out", common, arguments)
        assert not (tmp_path / "out" / "stage_1").exists()

    def test_negatives_where_no_clip_has_an_off_screen_sound(self, common, tmp_path):
        data_dir = make_mini_avsbench(tmp_path / "mini", image_size=32, clips={"v1s": (1, 1, 1)})
        arguments = {"data_dir": data_dir, "per_device_train_batch_size": 1, "negatives": 0.1}
        with pytest.raises(ValueError, match="None of the 1 clips has an off-screen sound: .* or leave offscreen out"):
            run(tmp_path / "out", common, arguments)
        assert not (tmp_path / "out" / "stage_1").exists()

    def test_accelerates_own_accumulation(self, common, tmp_path, monkeypatch):
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
        with pytest.raises(ValueError, match="unset ACCELERATE_GRADIENT_ACCUMULATION_STEPS"):
            run(tmp_path / "out", common)

    def test_a_store_that_lacks_a_mask(self, whole, common, tmp_path):
        (tmp_path / "out").mkdir()
        shutil.copytree(whole / "masks", tmp_path / "out" / "masks")
        next((tmp_path / "out" / "masks" / "test").glob("*/*/0.png")).unlink()
        with pytest.raises(ValueError, match=r"masks/test has \d+ masks, and \d+ by its manifest\. Remove the folder"):
            run(tmp_path / "out", common, {"stage": 2, "localizer": whole / "stage_1" / "model"})
        assert not (tmp_path / "out" / "stage_2").exists()

    @pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
    def test_a_model_that_is_shared_out_over_processes(self, common, tmp_path, monkeypatch, kind):
        monkeypatch.setattr(script, "Accelerator", lambda **options: SimpleNamespace(distributed_type=kind))
        with pytest.raises(ValueError, match=f"{kind.value} is for trainer.py"):
            run(tmp_path / "out", common)
        assert not (tmp_path / "out").exists()

    def test_a_full_disk(self, common, tmp_path, monkeypatch):
        usage = SimpleNamespace(total=2**40, used=2**40 - 2**20, free=2**20)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
        with pytest.raises(ValueError, match="out has room for 1 MiB, and the checkpoints of a stage need [0-9]+ MiB"):
            run(tmp_path / "out", common)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_clips(common, tmp_path, monkeypatch):
    make_model = script.make_model

    def make_broken_model(*args, **kwargs):
        model, processor = make_model(*args, **kwargs)
        model.class_predictor.bias.data[0] = torch.nan
        return model, processor

    monkeypatch.setattr(script, "make_model", make_broken_model)
    with pytest.raises(FloatingPointError, match="The loss of stage 1, step 0 is nan: ") as error:
        run(tmp_path / "out", common, {"checkpointing_steps": 1})
    monkeypatch.undo()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    batches = capture(monkeypatch, 1, tmp_path / "again", common)
    assert str(error.value).endswith(": " + ", ".join(batches.names(0, 0)))
    assert find_checkpoint(tmp_path / "out" / "stage_1")[1] is None
