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

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from transformers import HfArgumentParser

from stepping_stones_hf import (
    AAVSForAudioVisualSegmentation,
    AAVSImageProcessorPil,
    AAVSProcessor,
    VGGishConfig,
    VGGishFeatureExtractor,
)
from stepping_stones_hf.data import AVSCollator, load_avsbench
from stepping_stones_hf.data.labels import CLASS_NAMES, index_to_color
from stepping_stones_hf.data.mini import LOOKS, make_mini_avsbench
from stepping_stones_hf.media import read_audio
from stepping_stones_hf.metrics import AvssMiou, semantic_results, semantic_statistics
from stepping_stones_hf.training import sounds
from stepping_stones_hf.training.clips import WithMasks, WithNoise, read_classes, shuffle_sounds
from stepping_stones_hf.training.degrade import QUALITIES
from stepping_stones_hf.training.evaluation import FrameScores, LabelCollator, localize, segment
from stepping_stones_hf.training.mask_store import mask_path
from stepping_stones_hf.training.report import list_robustness, replace_nan, summarize_robustness
from stepping_stones_hf.training.sounds import SOUNDS, change_sound

from ..models.aavs.conftest import make_config
from ..snippets import DOCS, run_snippets


REPOSITORY = Path(__file__).parents[2]
SCRIPT = REPOSITORY / "examples" / "evaluate_stepping_stones.py"
PAGE = REPOSITORY / "docs" / "source" / "reading_the_results.md"
sys.path.insert(0, str(SCRIPT.parent))

import evaluate_stepping_stones as script  # noqa: E402


SIZE = {"height": 64, "width": 64}
STAGE_2 = "stage 2, masks of stage 1"
# Without "stale", which goes with other sounds.
PROMPTS = ["stage1", "oracle", "low", "high"]
pytestmark = pytest.mark.usefixtures("on_the_cpu")


def save_model(folder: Path, seed: int, **values) -> None:
    """A model whose predictions differ from frame to frame; label maps have the classes of mini-AVSBench."""
    localizes = values["num_labels"] == 2
    torch.manual_seed(seed)
    audio_config = VGGishConfig(conv_channels=[4, 4, 8, 8], conv_depths=[1, 1, 1, 1], hidden_size=16)
    model = AAVSForAudioVisualSegmentation(make_config(audio_config=audio_config, **values))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        if not localizes:
            other = [index for index, name in enumerate(CLASS_NAMES) if index and name not in list(LOOKS)[:8]]
            model.class_predictor.weight *= 6
            model.class_predictor.bias[[*other, 71]] -= 8
    model.save_pretrained(folder)
    image_processor = AAVSImageProcessorPil(localization=localizes, size=SIZE, label_size=SIZE, post_process_size=SIZE)
    AAVSProcessor(image_processor, VGGishFeatureExtractor()).save_pretrained(folder)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "two_stages"
    save_model(folder, 0, num_labels=71, use_mask_prompt=True)
    save_model(folder / "localizer", 1, num_labels=2, apply_output_projection=False)
    return folder


@pytest.fixture(scope="module")
def stage_2_dir(model_dir) -> Path:
    return shutil.copytree(model_dir, model_dir.parent / "stage_2", ignore=shutil.ignore_patterns("localizer"))


@pytest.fixture(scope="module")
def one_stage_dir(model_dir) -> Path:
    save_model(model_dir.parent / "one_stage", 2, num_labels=71)
    return model_dir.parent / "one_stage"


@pytest.fixture(scope="module")
def clips(data_dir, on_the_cpu) -> datasets.Dataset:
    return load_avsbench("avss", data_dir, "test")


def run(data_dir: Path, output_dir: Path, *arguments) -> dict:
    script.main([str(argument) for argument in ("--data_dir", data_dir, "--output_dir", output_dir, *arguments)])
    return json.loads((output_dir / "results.json").read_text())


@pytest.fixture(scope="module")
def evaluation(data_dir, model_dir, tmp_path_factory) -> Path:
    output_dir = tmp_path_factory.mktemp("run") / "evaluation"
    arguments = ["--prompts", "stage1", "low", "high", "oracle", "--counterfactuals", "shuffled", "silence"]
    run(data_dir, output_dir, "--model", model_dir, "--save_predictions", *arguments)
    return output_dir


@pytest.fixture(scope="module")
def results(evaluation) -> dict:
    return json.loads((evaluation / "results.json").read_text())


def read_label_maps(clips: datasets.Dataset) -> dict[tuple, np.ndarray]:
    """The true label maps by frame."""
    collator = LabelCollator(AAVSImageProcessorPil(label_size=SIZE))
    rows = collator.prepare(clips)
    batch = collator([rows[index] for index in range(len(rows))])
    return dict(zip(batch["frames"], batch["label_maps"].numpy()))


def read_masks(folder: Path, frames) -> list[np.ndarray]:
    return [np.asarray(Image.open(Path(folder, subset, video, f"{index}.png"))) for subset, video, index in frames]


# Figures -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_stage_1_is_scored_by_subset(results, clips, model_dir):
    localizer = AAVSForAudioVisualSegmentation.from_pretrained(model_dir / "localizer").eval()
    processor = AAVSProcessor.from_pretrained(model_dir / "localizer", backend="pil")
    collator = AVSCollator(processor, evaluation=True)
    scores = FrameScores()
    for clip in clips:
        inputs = collator([clip])
        frames, label_maps = inputs.pop("frames"), inputs.pop("label_maps")
        scores.add(frames, localize(localizer, processor, inputs).numpy(), label_maps.numpy())
    figures = results["localization"]["stage 1"]
    assert list(figures) == ["S4", "MS3", "V2"]
    for name, subset in (("S4", "v1s"), ("MS3", "v1m"), ("V2", "v2")):
        expected = scores.results(subset)
        for figure in ("miou", "fscore", "miou_star", "fscore_star", "num_videos"):
            assert figures[name][figure] == pytest.approx(expected[figure], abs=1e-6), (name, figure)


def test_label_maps_are_scored_as_they_are_saved(results, evaluation, clips):
    label_maps = read_label_maps(clips)
    frames = sorted(label_maps)
    for prompt in PROMPTS:
        method = script.STAGE_2[prompt]
        predictions = read_masks(evaluation / "predictions" / prompt, frames)
        statistics = [semantic_statistics(mask, label_maps[frame]) for mask, frame in zip(predictions, frames)]
        expected = semantic_results(statistics, np.arange(len(frames)))
        for name, value in results["semantics"][method].items():
            if name in expected and name != "num_videos":
                assert value == pytest.approx(expected[name]), (method, name)
        silent = np.array([not label_maps[frame].any() for frame in frames])
        marked = np.array([(mask > 0).mean() for mask in predictions])[silent]
        assert silent.any()
        assert results["semantics"][method]["silent_frames"] == pytest.approx(
            {"count": silent.sum(), "correct_silence_rate": np.mean(marked == 0), "false_alarm_area": marked.mean()}
        )


def test_the_table_has_the_figures_in_percent(results, evaluation):
    lines = (evaluation / "table.md").read_text().splitlines()
    figures = results["localization"]["stage 1"]["MS3"]
    values = [f"{100 * figures[name]:.2f}" for name in ("miou", "fscore", "miou_star", "fscore_star")]
    assert f"| stage 1 | MS3 | {' | '.join(values)} |" in lines
    figures = results["semantics"][STAGE_2]
    names = ("miou", "fscore", "miou_no_background", "fscore_no_background", "miou_star", "fscore_star", "miou_seen")
    assert f"| {STAGE_2} | {' | '.join(f'{100 * figures[name]:.2f}' for name in names)} |" in lines
    assert "| stage 1 | S4 | 0 | – | – |" in lines


def test_bars_of_classes_are_drawn_for_label_maps(results, evaluation):
    pictures = sorted(evaluation.glob("per_class_*.png"))
    assert len(pictures) == len(results["semantics"])
    assert evaluation / "per_class_stage_2_masks_of_stage_1.png" in pictures


def test_the_table_of_classes_gives_their_means(results, evaluation):
    with open(evaluation / "per_class.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    of_stage_2 = [row for row in rows if row["method"] == STAGE_2]
    assert tuple(row["name"] for row in of_stage_2) == CLASS_NAMES
    for column, figure in (("iou", "miou"), ("fscore", "fscore"), ("iou_star", "miou_star")):
        mean = np.mean([float(row[column]) for row in of_stage_2])
        assert mean == pytest.approx(results["semantics"][STAGE_2][figure], abs=1e-6)
    fscores = [float(row["fscore_star"]) for row in of_stage_2 if row["fscore_star"]]
    assert len(fscores) < 71
    assert np.mean(fscores) == pytest.approx(results["semantics"][STAGE_2]["fscore_star"], abs=1e-6)
    background, sounding = [row for row in rows if (row["method"], row["subset"]) == ("stage 1", "V2")]
    figures = results["localization"]["stage 1"]["V2"]
    assert float(sounding["iou"]) == pytest.approx(figures["miou"], abs=1e-6) and background["iou"] == ""
    mean = (float(background["iou_star"]) + float(sounding["iou_star"])) / 2
    assert mean == pytest.approx(figures["miou_star"], abs=1e-6)


# Prompts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", ["low", "high", "oracle"])
def test_prompts_have_the_wanted_iou_in_each_subset(results, quality):
    ious = results["semantics"][script.STAGE_2[quality]]["first_stage_iou"]
    assert ious == pytest.approx(
        dict.fromkeys(("S4", "MS3", "V2"), (QUALITIES | {"oracle": 1.0})[quality]), abs=0.0025
    )


def test_prompts_reach_the_model(evaluation, clips):
    frames = sorted(read_label_maps(clips))
    by_prompt = [np.stack(read_masks(evaluation / "predictions" / prompt, frames)) for prompt in PROMPTS]
    assert all((first != second).any() for first, second in zip(by_prompt, by_prompt[1:]))


def test_a_store_stands_in_for_stage_1(results, evaluation, data_dir, model_dir, stage_2_dir, tmp_path):
    store = evaluation / "stage1_masks"
    for model in (model_dir, stage_2_dir):
        of_store = run(data_dir, tmp_path / model.name, "--model", model, "--stage1_masks_dir", store)
        assert of_store["semantics"] == {STAGE_2: results["semantics"][STAGE_2]}
        assert of_store["localization"] == {}


def test_a_store_of_another_stage_1_is_refused(evaluation, data_dir, model_dir, tmp_path):
    save_model(tmp_path / "other", 3, num_labels=2, apply_output_projection=False)
    store = evaluation / "stage1_masks"
    with pytest.raises(ValueError, match="another localizer"):
        arguments = ["--localizer", tmp_path / "other", "--stage1_masks_dir", store]
        run(data_dir, tmp_path / "out", "--model", model_dir, *arguments)


# Masks of other systems ----------------------------------------------------------------------------------------------


def test_own_label_maps_as_indices_or_colors_score_as_the_model(results, evaluation, data_dir, tmp_path):
    palette = evaluation / "predictions" / "stage1"
    for path in palette.rglob("*.png"):
        for name in ("gray", "colors"):
            copy = tmp_path / name / path.relative_to(palette)
            copy.parent.mkdir(parents=True, exist_ok=True)
            indices = np.array(Image.open(path))
            Image.fromarray(indices if name == "gray" else index_to_color(indices)).save(copy)
    folders = [palette, tmp_path / "gray", tmp_path / "colors"]
    entered = run(data_dir, tmp_path / "out", "--predictions_dir", *folders, "--label_size", 64)
    expected = {name: value for name, value in results["semantics"][STAGE_2].items() if name != "first_stage_iou"}
    assert entered["semantics"] == dict.fromkeys(("stage1", "gray", "colors"), expected)


def test_own_masks_of_stage_1_score_as_the_model(results, evaluation, data_dir, model_dir, tmp_path):
    arguments = ["--model", model_dir / "localizer", "--predictions_dir", evaluation / "stage1_masks"]
    entered = run(data_dir, tmp_path, "--dataset", "ms3", *arguments)["localization"]
    assert entered["stage 1"]["MS3"] == results["localization"]["stage 1"]["MS3"]
    for figure in ("miou", "miou_star", "fscore_star", "silent_frames"):
        assert entered["stage1_masks"]["MS3"][figure] == pytest.approx(entered["stage 1"]["MS3"][figure])


def test_masks_of_another_size_are_resized_and_it_is_said(evaluation, data_dir, tmp_path, capsys):
    folder = shutil.copytree(evaluation / "predictions" / "stage1", tmp_path / "masks")
    path = next(folder.rglob("*.png"))
    Image.open(path).resize((128, 32), Image.Resampling.NEAREST).save(path)
    run(data_dir, tmp_path / "out", "--predictions_dir", folder, "--label_size", 64)
    assert "masks: 1 of 35 masks are resized by nearest neighbor" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("dataset", "damage", "message"),
    [
        ("avss", lambda path: path.unlink(), "{path} does not exist"),
        ("avss", lambda path: path.write_bytes(b""), "{path} is empty"),
        ("avss", lambda path: Image.new("RGBA", (64, 64)).save(path), "{path} should be .* got PNG of the mode RGBA"),
        ("avss", lambda path: Image.new("L", (64, 64)).save(path, "JPEG"), "{path} should be .* got JPEG"),
        ("avss", lambda path: Image.new("L", (64, 64), 71).save(path), "{path} has the class index 71"),
        ("avss", lambda path: Image.new("RGB", (64, 64), (1, 2, 3)).save(path), "{path}: 4096 of 4096 pixels"),
        ("ms3", lambda path: Image.new("1", (64, 64)).save(path), "{path} should be .* got PNG of the mode 1"),
    ],
)
def test_a_mask_that_cannot_be_used_is_named(evaluation, data_dir, tmp_path, dataset, damage, message):
    masks = evaluation / ("predictions/stage1" if dataset == "avss" else "stage1_masks")
    folder = shutil.copytree(masks, tmp_path / "masks")
    path = min(folder.glob("v1m/*/2.png"))
    damage(path)
    with pytest.raises((ValueError, FileNotFoundError), match=message.format(path=re.escape(str(path)))):
        run(data_dir, tmp_path / "out", "--predictions_dir", folder, "--dataset", dataset, "--label_size", 64)
    assert not (tmp_path / "out").exists()


# Other sounds --------------------------------------------------------------------------------------------------------


def test_shuffled_sounds_share_no_class_and_go_once():
    random = np.random.default_rng(0)
    classes = [set(random.choice(8, size=1 + index % 2, replace=False).tolist()) for index in range(20)]
    subsets = ["v2" if index < 8 else "v1s" for index in range(20)]
    indices, partners = shuffle_sounds(subsets, classes, seed=0)
    assert indices == sorted(partners) == list(range(20))
    for clip, partner in zip(indices, partners):
        assert subsets[clip] == subsets[partner]
        assert not classes[clip] & classes[partner]
    assert (indices, partners) == shuffle_sounds(subsets, classes, seed=0) != shuffle_sounds(subsets, classes, seed=1)


def test_clips_without_a_partner_are_left_out_when_sounds_are_shuffled():
    classes = [{1}, {1}, {1}, {2}, set()]
    indices, partners = shuffle_sounds(["v2"] * 5, classes, seed=0)
    assert len(indices) == len(set(indices)) == len(set(partners)) == 4
    assert all(not classes[clip] & classes[partner] and clip != partner for clip, partner in zip(indices, partners))
    assert shuffle_sounds(["v2"] * 3, classes[:3], seed=0) == ([], [])


def test_without_any_partner_there_are_no_rows_of_shuffled_sounds_and_it_is_said(
    results, data_dir, model_dir, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(sounds, "read_classes", lambda clips: [{1}] * len(clips))
    arguments = ["--dataset", "ms3", "--counterfactuals", "shuffled", "silence"]
    alike = run(data_dir, tmp_path, "--model", model_dir / "localizer", *arguments)
    assert alike["localization"]["stage 1"]["MS3"] == results["localization"]["stage 1"]["MS3"]
    assert set(alike["other_sounds"]["stage 1"]) == {"silence"}
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("shuffled")]
    assert lines == ["shuffled: no rows, as no clip has other classes than another one of its subset."]


def test_classes_come_from_masks_in_every_configuration(data_dir, clips):
    label_maps = read_label_maps(clips)
    for clip, classes in zip(clips, read_classes(clips)):
        sounding = {
            index
            for frame, labels in label_maps.items()
            if frame[1] == clip["video_id"]
            for index in np.unique(labels)
        }
        assert sounding - {0} <= classes and 0 not in classes
    of_s4 = load_avsbench("s4", data_dir, "test")
    names = {clip["video_id"]: classes for clip, classes in zip(clips, read_classes(clips))}
    assert read_classes(of_s4) == [names[video] for video in of_s4["video_id"]]


def test_noise_is_as_loud_as_the_sound_and_follows_from_the_seed(clips):
    rows = LabelCollator(AAVSImageProcessorPil()).prepare(clips)
    noisy = WithNoise(rows, seed=0)
    for index in range(len(rows)):
        sound, rate = read_audio(rows[index]["audio"]["path"])
        noise, noise_rate = read_audio(noisy[index]["audio"]["bytes"])
        assert noise.shape[1] / noise_rate == rows[index]["num_frames"]
        assert np.sqrt(np.mean(noise**2)) == pytest.approx(np.sqrt(np.mean(sound**2)), rel=0.02)
    assert noisy[0] == WithNoise(rows, seed=0)[0] != WithNoise(rows, seed=1)[0]


def test_other_sounds_are_compared_on_the_same_clips(results):
    for method in ("stage 1", STAGE_2):
        subsets = results["other_sounds"][method]["silence"]
        own = results["localization"][method] if method == "stage 1" else {"all": results["semantics"][method]}
        for subset, row in subsets.items():
            figures = {name: value for name, value in own[subset].items() if name != "first_stage_iou"}
            assert row["own_sound"] == figures
            assert row["num_videos"] == figures["num_videos"]
            assert row["fscore"] != figures["fscore"]  # the model hears the difference
    shuffled = results["other_sounds"]["stage 1"]["shuffled"]
    for row in shuffled.values():
        assert row["num_videos"] == row["own_sound"]["num_videos"]
    assert "V2" not in shuffled  # a single clip has no partner


# Does it listen? -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hearing_dir(model_dir, tmp_path_factory) -> Path:
    """Both stages; what stage 1 marks depends on what it hears."""
    folder = shutil.copytree(model_dir, tmp_path_factory.mktemp("hearing") / "model")
    localizer = AAVSForAudioVisualSegmentation.from_pretrained(folder / "localizer")
    with torch.no_grad():
        localizer.class_predictor.weight *= 6
        localizer.class_predictor.bias[1] += 1
    localizer.save_pretrained(folder / "localizer")
    return folder


@pytest.fixture(scope="module")
def robust(data_dir, hearing_dir, clips, tmp_path_factory) -> Path:
    """The models, and another system that marks what it sees, the more the less it hears."""
    folder = tmp_path_factory.mktemp("robust")
    generator = np.random.default_rng(0)
    for share, sound in enumerate(SOUNDS):
        for frame, label_map in read_label_maps(clips).items():
            path = mask_path(folder / "other" / sound, *frame)
            path.parent.mkdir(parents=True, exist_ok=True)
            label_map = np.where(generator.random(label_map.shape) < 0.2 * share, 7, label_map)
            Image.fromarray(label_map.astype(np.uint8)).save(path)
    arguments = ["--model", hearing_dir, "--predictions_dir", folder / "other", "--robust"]
    run(data_dir, folder / "evaluation", *arguments)
    return folder / "evaluation"


@pytest.fixture(scope="module")
def robustness(robust) -> dict:
    return json.loads((robust / "results.json").read_text())["robustness"]


def as_json(results: dict) -> dict:
    return json.loads(json.dumps(replace_nan(results)))


@torch.no_grad()
def test_both_stages_hear_the_same_other_sounds(robustness, clips, hearing_dir):
    localizer = AAVSForAudioVisualSegmentation.from_pretrained(hearing_dir / "localizer").eval()
    model = AAVSForAudioVisualSegmentation.from_pretrained(hearing_dir).eval()
    processors = [AAVSProcessor.from_pretrained(hearing_dir / name, backend="pil") for name in ("localizer", "")]
    collators = [AVSCollator(processor, evaluation=True) for processor in processors]
    names = ["stage 1", STAGE_2, script.STAGE_2["oracle"]]
    scores = {name: {} for name in names}
    for sound in SOUNDS:
        heard = change_sound(clips, sound)
        of_sound = [FrameScores(), FrameScores(71), FrameScores(71)]
        for row in (heard.rows[index] for index in range(len(heard.clips))):
            inputs, prompted = (collator([row]) for collator in collators)
            frames, label_maps, truth = inputs.pop("frames"), inputs.pop("label_maps"), prompted.pop("label_maps")
            del prompted["frames"]
            localized = localize(localizer, processors[0], inputs)
            of_sound[0].add(frames, localized.numpy(), label_maps.numpy())
            masks = (localized[:, 1] > localized[:, 0], truth > 0)
            for of_prompt, prompts in zip(of_sound[1:], masks):
                label_map = segment(model, processors[1], prompted | {"prompt_masks": prompts.float()})
                of_prompt.add(frames, label_map.numpy(), truth.numpy())
        for name, counts in zip(names, of_sound):
            scores[name][sound] = counts
    for name in names:
        assert robustness[name] == as_json(summarize_robustness(scores[name])), name
    assert robustness["stage 1"]["S4"]["num_videos"] == 3
    sounds = robustness[STAGE_2]["all"]["corrected"]
    assert len({sounds[sound]["fpr"] for sound in SOUNDS}) == 4  # what is heard matters, to both stages
    sounds = robustness["stage 1"]["S4"]["corrected"]
    assert len({sounds[sound]["fpr"] for sound in SOUNDS}) == 4 and sounds["unmarked_n"] < 1


def test_masks_of_another_system_score_as_in_the_metric(robust, robustness, clips, tmp_path):
    with open(robust / "offscreen.csv", newline="") as file:
        donors = {row["video_id"]: row["donor"] for row in csv.DictReader(file)}
    metric = AvssMiou(cache_dir=str(tmp_path))
    for sound in SOUNDS:
        for (subset, video, index), label_map in read_label_maps(clips).items():
            if sound != "offscreen" or video in donors:
                path = mask_path(robust.parent / "other" / sound, subset, video, index)
                metric.add_batch(
                    predictions=[np.asarray(Image.open(path))],
                    references=[label_map],
                    video_ids=f"{subset}/{video}",
                    frame_ids=index,
                    sound=sound,
                )
    results = metric.compute()
    rows, of_metric = (
        list_robustness({"other": {"all": of}}) for of in (robustness["other"]["all"], results["robustness"])
    )
    assert [pytest.approx(row, abs=1e-12) for row in rows] == of_metric
    assert results["num_videos"] == 6 > results["robustness"]["num_videos"] == len(donors)


def test_the_tables_of_robustness_have_its_figures(robust, robustness):
    with open(robust / "robustness.csv", newline="") as file:
        rows = {(row["method"], row["subset"], row["sound"]): row for row in csv.DictReader(file)}
    lines = (robust / "table.md").read_text().splitlines()
    for method, subsets in robustness.items():
        for subset, figures in subsets.items():
            together, own = rows[method, subset, "negatives"], rows[method, subset, "own"]
            official, corrected = figures["official"], figures["corrected"]
            assert float(together["official_g_miou"]) == official["g_miou"]
            assert float(together["official_fpr"]) == official["g_fpr"]
            assert float(together["gap_high"]) == corrected["gap_interval"][1]
            assert float(own["corrected_unmarked"]) == corrected["own"]["unmarked"]
            noise = rows[method, subset, "noise"]
            assert float(noise["corrected_g_miou_sounding"]) == corrected["g_miou_sounding_per_sound"]["noise"]
            values = [official["own"]["miou"], official["miou_n"], official["g_miou"]]
            values = " | ".join(f"{100 * value:.2f}" for value in values)
            start = f"| {method} | {subset} | {figures['num_videos']} | {values} |"
            assert any(line.startswith(start) for line in lines)


# All but one of 5 classes, where the script has 71.
REFERENCE_CASES = {
    "fixtures_dir": ["bin_worked_example", "bin_silent_video", "sem_missing_donor_c71"],
    "shared_dir": ["bin_mixed", "bin_deaf", "bin_silent", "bin_leak", "bin_two_channel", "bin_probability"]
    + ["bin_missing_donor", "sem_mixed_c71", "sem_silent_c71"],
}


@pytest.mark.parametrize(
    ("folder", "name"), [(folder, name) for folder, names in REFERENCE_CASES.items() for name in names]
)
def test_the_script_writes_the_reference_values(folder, name, request, tmp_path):
    folder = request.getfixturevalue(folder)
    folder = folder / "robust" if folder.name == "fixtures" else folder / "goldens" / "robust"
    case = json.loads((folder / "index.json").read_text())["cases"][name]
    arrays = load_file(folder / case["file"])
    frames = [
        ("v1s", str(video), index) for video, length in enumerate(arrays["video_lengths"]) for index in range(length)
    ]
    heard = [frame for frame in frames if int(frame[1]) in arrays["headline_videos"]]
    scores = {}
    for sound in SOUNDS:
        scores[sound] = FrameScores(case.get("num_classes"), case.get("score_rule", "probability"))
        names = heard if sound == "offscreen" else frames
        truth = [arrays["target"][frames.index(frame)] for frame in names]
        scores[sound].add(names, arrays[f"pred/{sound}"], truth)
    args = script.EvaluationArguments(data_dir="", output_dir=str(tmp_path), robust=True)
    script.write_results(
        script.Evaluation(None, args, None, None, None, LabelCollator(AAVSImageProcessorPil()), scores={name: scores})
    )
    with open(tmp_path / "robustness.csv", newline="") as file:
        rows = {row["sound"]: row for row in csv.DictReader(file)}
    official = case["expected"].get("official_batch1") or case["expected"]["official"]
    for group, expected in (("official", official), ("corrected", case["expected"]["corrected"])):
        for figure in expected["own"]:
            for sound in SOUNDS:
                assert float(rows[sound][f"{group}_{figure}"]) == pytest.approx(expected[sound][figure], abs=1e-6)
            together = float(rows["negatives"][f"{group}_{figure}"])
            assert together == pytest.approx(expected["g_fpr" if figure == "fpr" else f"{figure}_n"], abs=1e-6)
            if f"g_{figure}" in expected and figure != "fpr":
                assert float(rows["negatives"][f"{group}_g_{figure}"]) == pytest.approx(
                    expected[f"g_{figure}"], abs=1e-6
                )
    for gap in [figure for figure in expected if figure.startswith("gap") and not figure.endswith("95")]:
        found = [float(rows["negatives"][column]) for column in (gap, f"{gap}_low", f"{gap}_high")]
        assert found == pytest.approx([expected[gap], *expected[f"{gap}_interval_95"]], abs=1e-6)


def test_what_is_marked_with_each_sound_is_drawn_of_a_clip_of_each_subset(robust, data_dir, hearing_dir, clips):
    # Frame, truth and four sounds; both stages of S4. The other subsets have no off-screen sounds.
    assert Image.open(robust / "robustness.png").size == (6 * 166 + 6, 24 + 2 * 182)
    args = script.EvaluationArguments(str(data_dir), str(robust), model=str(hearing_dir), robust=True)
    evaluation, _ = script.start_evaluation(args)
    rows = AVSCollator.prepare(clips)
    marks = script.mark_clip(evaluation, rows[0])
    frames = [(rows[0]["subset"], rows[0]["video_id"], index) for index in rows[0]["mask_frame_indices"]]
    assert list(marks) == ["stage 1", STAGE_2]
    np.testing.assert_array_equal(marks["stage 1"] * 255, read_masks(robust / "stage1_masks", frames))


def test_robustness_alone_needs_no_model(robust, robustness, data_dir, tmp_path):
    arguments = ["--predictions_dir", robust.parent / "other", "--robust", "--label_size", 64]
    assert run(data_dir, tmp_path, *arguments)["robustness"] == {"other": robustness["other"]}


def test_a_folder_without_one_of_the_sounds_is_refused(robust, data_dir, tmp_path):
    folder = shutil.copytree(robust.parent / "other", tmp_path / "other")
    shutil.rmtree(folder / "noise")
    message = f"^{re.escape(str(folder / 'noise'))} does not exist: with --robust .* own, silence, noise, offscreen.$"
    with pytest.raises(FileNotFoundError, match=message):
        run(data_dir, tmp_path / "out", "--predictions_dir", folder, "--robust", "--label_size", 64)
    assert not (tmp_path / "out").exists()


def test_a_model_that_takes_embeddings_can_be_played_no_other_sound(data_dir, model_dir, tmp_path):
    folder = tmp_path / "embeddings"
    model = AAVSForAudioVisualSegmentation(make_config(audio_config=None, num_labels=2, audio_embedding_dim=16))
    model.save_pretrained(folder)
    AAVSProcessor.from_pretrained(model_dir / "localizer", backend="pil").save_pretrained(folder)
    with pytest.raises(ValueError, match="embeddings takes embeddings of sounds, not sounds .* can be played to it"):
        run(data_dir, tmp_path / "out", "--model", folder, "--dataset", "s4", "--robust")


def test_a_split_without_any_off_screen_sound_is_refused(model_dir, tmp_path):
    data_dir = make_mini_avsbench(tmp_path / "mini", image_size=64, clips={"v2": (0, 0, 1)})
    with pytest.raises(ValueError, match="None of the 1 clips has an off-screen sound"):
        run(data_dir, tmp_path / "out", "--model", model_dir, "--robust")
    assert not (tmp_path / "out").exists()


def test_stale_masks_are_those_of_the_own_sound_and_fused_sounds_have_rows(
    hearing_dir, data_dir, clips, tmp_path, monkeypatch
):
    prompted = []

    def record(heard, masks_dir) -> WithMasks:
        masks = read_masks(masks_dir, read_label_maps(clips))
        prompted.append((type(heard).__name__, np.stack(masks)))
        return WithMasks(heard, masks_dir)

    monkeypatch.setattr(script, "WithMasks", record)
    arguments = ["--model", hearing_dir, "--counterfactuals", "noise", "fused", "--prompts", "stage1", "stale"]
    results = run(data_dir, tmp_path / "out", *arguments)
    # With each sound first the masks that stage 1 makes of it, then the stale ones.
    heard, masks = zip(*prompted)
    assert heard == ("EncodedRows",) * 2 + ("WithNoise",) * 2 + ("WithAddedNoise",) * 2
    own = masks[0]
    assert all((stale == own).all() for stale in masks[1::2])
    assert all((fresh != own).any() for fresh in masks[2::2])
    for prompt in ("stale", "stage1"):
        assert set(results["other_sounds"][script.STAGE_2[prompt]]) == {"noise", "fused"}
    assert results["semantics"][script.STAGE_2["stale"]]["miou"] == results["semantics"][STAGE_2]["miou"]


@pytest.fixture(scope="module")
def listening_dir(hearing_dir, tmp_path_factory) -> Path:
    """Both stages, with a stage 1 that says whether sounds go with what is seen."""
    folder = shutil.copytree(hearing_dir, tmp_path_factory.mktemp("listening") / "model")
    torch.manual_seed(0)
    localizer = AAVSForAudioVisualSegmentation.from_pretrained(hearing_dir / "localizer", pair_loss_weight=1.0)
    with torch.no_grad():
        localizer.class_predictor.bias[1] += 5  # marks most frames
    localizer.save_pretrained(folder / "localizer")
    return folder


@torch.no_grad()
def test_masks_of_stage_1_are_empty_where_sounds_do_not_fit(listening_dir, data_dir, clips, tmp_path):
    localizer = AAVSForAudioVisualSegmentation.from_pretrained(listening_dir / "localizer").eval()
    processor = AAVSProcessor.from_pretrained(listening_dir / "localizer", backend="pil")
    collator, fitness = AVSCollator(processor, evaluation=True), {}
    rows = collator.prepare(clips)
    for row in (rows[index] for index in range(len(rows))):
        inputs = collator([row])
        frames = inputs.pop("frames")
        del inputs["label_maps"]
        fitness.update(zip(frames, localizer(**inputs).pair_logits.sigmoid().tolist()))
    threshold = float(np.median([*fitness.values()]))
    assert min(fitness.values()) < threshold
    arguments = ["--model", listening_dir, "--counterfactuals", "silence"]
    plain = run(data_dir, tmp_path / "plain", *arguments)
    gated = run(data_dir, tmp_path / "gated", *arguments, "--sound_threshold", threshold)
    own, masks = (read_masks(tmp_path / name / "stage1_masks", fitness) for name in ("plain", "gated"))
    for value, mask, expected in zip(fitness.values(), masks, own):
        assert (mask == expected * (value >= threshold)).all()
    assert 0 < sum(mask.any() for mask in masks) < sum(mask.any() for mask in own)
    # Stage 2 is prompted with them.
    assert gated["semantics"][STAGE_2]["first_stage_iou"] != plain["semantics"][STAGE_2]["first_stage_iou"]
    manifest = json.loads((tmp_path / "gated" / "stage1_masks" / "manifest.json").read_text())
    assert manifest["sound_threshold"] == threshold
    everything = run(data_dir, tmp_path / "all", *arguments, "--sound_threshold", 0)
    assert {name: everything[name] for name in ("semantics", "localization")} == {
        name: plain[name] for name in ("semantics", "localization")
    }


# Bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "There is nothing to evaluate"),
        (["--model", "nowhere/at/all"], "nowhere/at/all is no folder"),
        (["--predictions_dir", "masks", "--prompts", "oracle"], "--prompts cannot be used with masks of other"),
        (["--predictions_dir", "masks", "--counterfactuals", "noise"], "--counterfactuals cannot be used"),
        (["--model", "{one_stage}", "--prompts", "low"], "--prompts cannot be used with .*which is one stage"),
        (["--model", "{two_stages}/localizer", "--prompts", "low"], "--prompts cannot be .* which is stage 1"),
        (["--model", "{two_stages}", "--label_size", "32"], "--label_size cannot be used with --model"),
        (["--model", "{two_stages}", "--dataset", "s4", "--prompts", "low"], "--prompts cannot be used .* s4"),
        (["--model", "{stage_2}"], "is stage 2 without localizer/: give --localizer"),
        (["--model", "{stage_2}", "--dataset", "ms3"], "is stage 2 without localizer/, but --dataset ms3"),
        (["--model", "{stage_2}", "--localizer", "{one_stage}"], "one_stage is one stage, expected stage 1"),
        (["--model", "{stage_2}", "--stage1_masks_dir", "m", "--prompts", "low"], "--stage1_masks_dir is for"),
        (["--model", "{stage_2}", "--stage1_masks_dir", "m", "--counterfactuals", "noise"], "the clips' own sound"),
        (["--model", "{stage_2}", "--stage1_masks_dir", "m", "--robust"], "leave out it, or .* and --robust"),
        (["--model", "{stage_2}", "--stage1_masks_dir", "m"], "m is not a complete mask store"),
        (["--model", "{two_stages}", "--prompts", "stale"], "needs a localizer, and --counterfactuals or --robust"),
        (["--model", "{stage_2}", "--prompts", "stale", "--robust"], "needs a localizer, and --counterfactuals"),
        (["--predictions_dir", "a/masks", "b/masks"], "names methods after its folders"),
        (["--model", "{two_stages}", "--sound_threshold", "50"], "--sound_threshold is 50.0, expected a probability"),
        (["--model", "{two_stages}", "--sound_threshold", "0.5"], "a pair loss, and .*localizer was not"),
        (["--model", "{one_stage}", "--sound_threshold", "0.5"], "a pair loss, and .*one_stage was not"),
        (["--model", "{stage_2}", "--prompts", "oracle", "--sound_threshold", "0.5"], "and there is neither"),
    ],
)
def test_bad_input_stops_before_anything_is_computed(
    arguments, message, data_dir, model_dir, stage_2_dir, one_stage_dir, tmp_path
):
    arguments = [argument.format(**{path.name: path for path in model_dir.parent.iterdir()}) for argument in arguments]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(data_dir, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_one_stage_takes_no_prompt_and_has_no_first_stage(data_dir, one_stage_dir, tmp_path):
    results = run(data_dir, tmp_path, "--model", one_stage_dir)
    assert list(results["semantics"]) == ["one stage"] and results["localization"] == {}
    assert "first_stage_iou" not in results["semantics"]["one stage"]
    assert "IoU of the prompts" not in (tmp_path / "table.md").read_text()


# Several processes, and the page -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(results, data_dir, model_dir, tmp_path):
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    arguments = ["--model", model_dir, "--data_dir", data_dir, "--output_dir", tmp_path, "--prompts", "stage1", "low"]
    arguments += ["--counterfactuals", "shuffled", "silence"]
    # As many threads as the results of one process were made with: products are rounded differently with others.
    threads = str(torch.get_num_threads())
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": threads}
    command = [str(part) for part in (*accelerate, SCRIPT, *arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    of_two = json.loads((tmp_path / "results.json").read_text())
    assert of_two["localization"] == results["localization"]
    assert of_two["other_sounds"]["stage 1"] == results["other_sounds"]["stage 1"]
    for method in (STAGE_2, script.STAGE_2["low"]):
        assert of_two["semantics"][method] == results["semantics"][method]


@pytest.mark.slow
def test_two_processes_tell_the_same_of_robustness(robust, data_dir, hearing_dir, tmp_path):
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    arguments = ["--model", hearing_dir, "--predictions_dir", robust.parent / "other", "--robust"]
    arguments += ["--data_dir", data_dir, "--output_dir", tmp_path]
    # As many threads as the results of one process were made with: products are rounded differently with others.
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [str(part) for part in (*accelerate, SCRIPT, *arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    for name in ("table.md", "robustness.csv", "offscreen.csv"):
        assert (tmp_path / name).read_text() == (robust / name).read_text()


def test_the_commands_of_the_page_are_understood():
    page = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^.*examples/evaluate_stepping_stones\.py (.*)$", page, flags=re.MULTILINE)
    assert len(commands) >= 3
    for command in commands:
        (args,) = HfArgumentParser(script.EvaluationArguments).parse_args_into_dataclasses(shlex.split(command))
        assert args.output_dir


def test_the_snippets_of_the_page_run(evaluation, data_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(evaluation, "runs/mini/evaluation")
    Path("AVSBench-semantic").symlink_to(data_dir)
    variables = {}
    for snippet in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(compile(snippet, PAGE.name, "exec"), variables)
    assert f"{STAGE_2}, silence" in capsys.readouterr().out
    results = run(data_dir, tmp_path / "out", "--predictions_dir", tmp_path / "masks" / "my-system")
    assert results["semantics"]["my-system"]["num_videos"] == 6


def test_the_snippet_of_the_page_about_listening_plays_all_sounds(robustness, data_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("AVSBench-semantic").symlink_to(data_dir)
    run_snippets(DOCS / "does_it_listen.md")
    results = run(data_dir, tmp_path / "out", "--robust", "--predictions_dir", tmp_path / "masks" / "my-system")
    figures = results["robustness"]["my-system"]["all"]
    assert figures["num_videos"] == robustness["other"]["all"]["num_videos"]
    assert figures["corrected"]["unmarked_n"] == 1
