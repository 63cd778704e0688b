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
A model that is none of the library's goes through every door, as either stage, alone and together with AAVS; and so do
the library's models in place of one of AAVS's stages.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoProcessor, pipeline

from stepping_stones_hf import AutoModelForAudioVisualSegmentation
from stepping_stones_hf.cli import main as command_line
from stepping_stones_hf.data import AVSCollator
from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.models.auto import make_processor
from stepping_stones_hf.models.modeling_base import is_localizer
from stepping_stones_hf.streaming import StreamingPredictor
from stepping_stones_hf.training.clips import load_clips

from .toy_model import ToyConfig, ToyForAudioVisualSegmentation
from .videos import make_frame, make_sound, make_video


EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

import evaluate_stepping_stones as evaluation_script  # noqa: E402
import train_stepping_stones as script  # noqa: E402


SIZE = {"height": 64, "width": 64}
# The pairs of a localizer and a model that it prompts; AAVS prompting AAVS is what all other tests train.
PAIRS = [("toy", "toy"), ("aavs", "toy"), ("aavs", "avsegformer")]
# The doors are the same, and those above go through them: these take too long beside them.
PAIRS += [
    pytest.param(pair, marks=pytest.mark.slow)
    for pair in (
        *((name, "aavs") for name in ("toy", "tpavi", "cavp", "ease")),
        *(("aavs", name) for name in ("cavp", "ease")),
    )
]
RECIPES = {"aavs": "mini.yaml"} | {name: f"mini_{name}.yaml" for name in ("avsegformer", "cavp", "ease", "tpavi")}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    clips = {"v1s": (3, 1, 1), "v1m": (2, 1, 1), "v2": (1, 0, 1)}
    return make_mini_avsbench(tmp_path_factory.mktemp("data") / "mini", image_size=64, clips=clips)


@pytest.fixture(scope="module")
def train(data_dir, tmp_path_factory):
    """Trains both stages for a step, once for each pair of models."""
    runs = {}

    def train_pair(pair: tuple[str, str]) -> Path:
        if pair not in runs:
            folder = tmp_path_factory.mktemp("-".join(pair))
            blocks = {"toy": {"model_type": "toy"}}
            for name in set(pair) - {"toy"}:
                recipe = yaml.safe_load((EXAMPLES / "configs" / RECIPES[name]).read_text())
                blocks[name] = recipe["model"] | ({"num_queries": 4} if "num_queries" in recipe["model"] else {})
            values = {
                "stage_1_model": blocks[pair[0]],
                "stage_2_model": blocks[pair[1]],
                "image_processor": {"size": SIZE, "label_size": SIZE},
                "split_clips": False,
                "per_device_train_batch_size": 2,
                "num_warmup_steps": 0,
                "dataloader_num_workers": 0,
                "stage_1_max_steps": 1,
                "stage_2_max_steps": 1,
                # As they begin, localizers of this seed mark something: after a larger step most would mark nothing.
                "stage_1_learning_rate": 1e-6,
                "seed": 1,
            }
            (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
            runs[pair] = folder / "run"
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("ACCELERATE_USE_CPU", "true")
                script.main(
                    ["--config", str(folder / "recipe.yaml"), "--data_dir", str(data_dir)]
                    + ["--output_dir", str(runs[pair])]
                )
        return runs[pair]

    return train_pair


@pytest.fixture(params=PAIRS, ids="-".join)
def run(request, train) -> Path:
    return train(request.param)


def test_both_stages_train_and_become_a_two_stage_repository(run):
    model = AutoModelForAudioVisualSegmentation.from_pretrained(run / "model")
    localizer = AutoModelForAudioVisualSegmentation.from_pretrained(run / "model", subfolder="localizer")
    assert is_localizer(localizer.config) and model.config.use_mask_prompt and model.config.num_labels == 71
    assert f"{localizer.config.model_type}-{model.config.model_type}" == run.parent.name.rstrip("0123456789")
    results = json.loads((run / "all_results.json").read_text())
    assert set(results["stage_1"]) == {"S4", "MS3", "V2"}
    assert set(results["stage_2"]) == {"masks of stage 1", "true masks"}
    # A mask for each annotated frame, and a picture of them.
    masks = np.stack([np.asarray(Image.open(path)) for path in (run / "masks" / "test").rglob("*.png")])
    assert len(masks) == 5 + 5 + 10 and 0 < masks.mean() < 255  # so that it matters what prompts the second model
    assert (run / "grid.png").exists()


def test_evaluation_gives_the_scores_of_training_again(run, data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    arguments = ["--model", run / "model", "--data_dir", data_dir, "--output_dir", tmp_path / "out"]
    arguments += ["--prompts", "stage1", "oracle", "--counterfactuals", "silence"]
    evaluation_script.main([str(argument) for argument in arguments])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    trained = json.loads((run / "all_results.json").read_text())
    assert results["localization"]["stage 1"] == trained["stage_1"]
    for method, prompt in (("stage 2, masks of stage 1", "masks of stage 1"), ("stage 2, true masks", "true masks")):
        scores = {name: value for name, value in results["semantics"][method].items() if name != "first_stage_iou"}
        assert scores == trained["stage_2"][prompt]


@torch.no_grad()
def segment_by_hand(repository: Path, clip: dict) -> list[torch.Tensor]:
    """Scores of the labels of a clip's pixels, the clip given whole to both models."""

    def prepare(processor) -> dict:
        return processor(
            images=[[Image.fromarray(frame) for frame in clip["frames"]]],
            audio=clip["audio"],
            sampling_rate=clip["sampling_rate"],
            patch_hop_seconds=1.0,
            return_tensors="pt",
        )

    models = [AutoModelForAudioVisualSegmentation.from_pretrained(repository, subfolder=s) for s in ("localizer", "")]
    processors = [AutoProcessor.from_pretrained(repository, subfolder=subfolder) for subfolder in ("localizer", "")]
    masks = processors[0].post_process_semantic_segmentation(models[0](**prepare(processors[0])))
    outputs = models[1](**prepare(processors[1]), prompt_masks=torch.stack(masks).float())
    sizes = [frame.shape[:2] for frame in clip["frames"]]
    results = processors[1].post_process_semantic_segmentation(outputs, sizes, return_segmentation_scores=True)
    return [result["segmentation_scores"] for result in results]


@pytest.fixture(scope="module")
def clip() -> dict:
    """Seven seconds: five that a model sees together, and two."""
    frames = [make_frame(80, 60, 3 * index) for index in range(7)]
    return {"frames": frames, "audio": make_sound(16_000, 7), "sampling_rate": 16_000}


@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_pipeline_steps_by_what_the_models_see_together(run, clip, batch_size):
    segment = pipeline("audio-visual-segmentation", model=str(run / "model"), device="cpu")
    model_types = {segment.model.config.model_type, segment.localizer.config.model_type}
    assert segment.clip_length == (5 if model_types & {"toy", "tpavi"} else 1)
    results = segment(clip, batch_size=batch_size, label_maps="array")
    assert [result["second"] for result in results] == list(range(7))
    for result, scores in zip(results, segment_by_hand(run / "model", clip), strict=True):
        # Batches of another size are rounded otherwise, and after one step two labels may have the same score.
        chosen = scores.gather(0, torch.from_numpy(result["label_map"])[None].long())[0]
        assert (scores.amax(dim=0) - chosen).max() < 1e-6


def test_a_stream_gives_what_the_pipeline_gives_five_seconds_at_a_time(train, clip):
    segment = pipeline("audio-visual-segmentation", model=str(train(("toy", "toy")) / "model"), device="cpu")
    predictor = StreamingPredictor(segment, sampling_rate=16_000)
    pushed = [
        predictor.push(frame, clip["audio"][:, second * 16_000 : (second + 1) * 16_000])
        for second, frame in enumerate(clip["frames"])
    ]
    assert [index for index, results in enumerate(pushed) if results is not None] == [4]
    assert pushed[4] + predictor.finish() == segment(clip)
    assert predictor.finish() is None


def test_the_command_line_segments_a_video(run, tmp_path):
    video = make_video(tmp_path / "clip.mp4", seconds=6)
    output, masks = tmp_path / "out.mp4", tmp_path / "masks"
    arguments = ["segment", video, "--model", run / "model", "-o", output, "--masks", masks]
    assert command_line([str(argument) for argument in arguments]) == 0
    assert output.exists() and len([*masks.iterdir()]) == 6


@pytest.fixture(scope="module")
def processor():
    return make_processor(ToyConfig(num_labels=71), size=SIZE, label_size=SIZE)


class TestCollator:
    def test_a_training_clip_has_all_its_frames_and_labels_where_it_is_annotated(self, processor, data_dir):
        clips = load_clips(data_dir, "s4", "train")
        collator = AVSCollator(processor, prompt="truth")
        batch = collator([collator.prepare(clips)[index] for index in range(2)])
        assert batch["num_frames"].tolist() == [5, 5]
        assert len(batch["pixel_values"]) == len(batch["input_features"]) == len(batch["labels"]) == 10
        annotated = [(labels != 255).any().item() for labels in batch["labels"]]
        assert annotated == [True, False, False, False, False] * 2
        assert torch.equal(batch["prompt_masks"][annotated] > 0, batch["labels"][annotated] > 0)
        assert not batch["prompt_masks"][1:5].any()

    def test_evaluation_names_the_rows_that_are_annotated(self, processor, data_dir):
        clips = load_clips(data_dir, "avss", "train")
        collator = AVSCollator(processor, evaluation=True)
        rows = collator.prepare(clips)
        batch = collator([rows[index] for index in range(len(rows))])
        assert [batch["frames"][row] for row in range(len(batch["annotated"]))] == [
            (clip["subset"], clip["video_id"], index) for clip in rows for index in clip["mask_frame_indices"]
        ]
        starts = np.cumsum([0, *batch["num_frames"].tolist()])
        expected = [start + index for start, clip in zip(starts, rows) for index in clip["mask_frame_indices"]]
        assert batch["annotated"].tolist() == expected
        assert len(batch["label_maps"]) == len(expected)

    def test_repeated_frames_are_refused(self, processor):
        with pytest.raises(ValueError, match='"repeat" is for models that look at single frames: ToyProcessor'):
            AVSCollator(processor, first_frame="repeat")

    def test_a_clip_that_lacks_frames_is_refused(self, processor, data_dir):
        collator = AVSCollator(processor)
        clip = collator.prepare(load_clips(data_dir, "s4", "train"))[0]
        with pytest.raises(ValueError, match="has 1 of its 5 frames, and 5 are needed: ToyProcessor looks at all"):
            collator([{**clip, "frames": clip["frames"][:1]}])


def test_single_frames_of_a_model_that_looks_across_them_are_refused(tmp_path, data_dir, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    (tmp_path / "recipe.yaml").write_text("model:\n  model_type: toy\nsplit_clips: true\n")
    arguments = ["--config", tmp_path / "recipe.yaml", "--data_dir", data_dir, "--output_dir", tmp_path / "out"]
    with pytest.raises(
        ValueError, match="--split_clips true is for models that look at single frames, and toy looks at 5"
    ):
        script.main([str(argument) for argument in arguments])
    assert not (tmp_path / "out" / "stage_1").exists()


def test_a_second_phase_of_a_model_that_has_one_is_refused(tmp_path, data_dir, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    recipe = {"model": {"model_type": "toy"}, "image_processor": {"size": SIZE, "label_size": SIZE}}
    recipe |= {"split_clips": False, "stage": "1", "stage_1_epochs": 2, "stage_1_phase_2_epoch": 1}
    recipe |= {"per_device_train_batch_size": 2}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ["--config", tmp_path / "recipe.yaml", "--data_dir", data_dir, "--output_dir", tmp_path / "out"]
    with pytest.raises(ValueError, match="single phase: leave out stage_1_phase_2_epoch and stage_2_phase_2_epoch"):
        script.main([str(argument) for argument in arguments])


def test_the_toy_hears_and_looks_across_frames():
    torch.manual_seed(0)
    model = ToyForAudioVisualSegmentation(ToyConfig(num_labels=2)).eval()
    frames, sound = torch.randn(7, 3, 8, 8), torch.randn(7, 96, 64)
    logits = model(frames, sound, torch.tensor([7])).logits
    frames[6] += 1
    assert [not torch.equal(*pair) for pair in zip(model(frames, sound, torch.tensor([7])).logits, logits)] == [
        False
    ] * 5 + [True] * 2
