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
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stepping_stones_hf import AAVSConfig, EASEConfig, TPAVIConfig
from stepping_stones_hf.data import AVSCollator
from stepping_stones_hf.data.augmentation import Augmentation, DrawnAugmentation
from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.models.auto import make_processor
from stepping_stones_hf.training.clips import SingleFrames, load_clips


SIZE = {"height": 64, "width": 64}


def make_clip(name: str = "a", first: int = 0) -> dict:
    return {"subset": "v2", "video_id": name, "mask_frame_indices": [first]}


def make_drawn(**changes) -> DrawnAugmentation:
    values = {"flip": False, "frame_size": (20, 30), "corner": None, "window_size": (16, 16), "colors": None}
    return DrawnAugmentation(**{**values, **changes})


def test_draws_follow_from_the_seed_and_the_name_of_the_clip():
    augmentation = Augmentation((64, 64), flip=0.5, scale=(0.1, 2.0), crop=True, color=0.4)
    first = augmentation.draw(make_clip(), (90, 120))
    assert augmentation.draw(make_clip(), (90, 120)) == first
    assert augmentation.draw(make_clip("b"), (90, 120)) != first != augmentation.draw(make_clip(first=1), (90, 120))
    augmentation.seed = 1
    assert augmentation.draw(make_clip(), (90, 120)) != first


def test_nothing_is_changed_by_default():
    frame = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    drawn = Augmentation((64, 64)).draw(make_clip(), (20, 30))
    assert np.array_equal(drawn.change_frame(frame), frame)


def test_flips_and_scales_are_as_frequent_as_they_should_be():
    augmentation = Augmentation((64, 64), flip=0.25, scale=(0.1, 2.0))
    drawn = [augmentation.draw(make_clip(str(number)), (90, 120)) for number in range(1000)]
    assert np.mean([draw.flip for draw in drawn]) == pytest.approx(0.25, abs=0.04)
    # Fitted into 64x64 the frame has 48x64.
    factors = np.array([draw.frame_size[1] / 64 for draw in drawn])
    assert 0.09 <= factors.min() < 0.15 and 1.9 < factors.max() <= 2
    assert factors.mean() == pytest.approx(1.05, abs=0.06)
    for draw in drawn:
        assert abs(draw.frame_size[0] / draw.frame_size[1] - 0.75) <= 1 / draw.frame_size[1]


def test_frames_maps_and_prompts_move_alike():
    """A red square is where its class and its prompt are, whatever becomes of it."""
    array, label_map = np.zeros((90, 120, 3), dtype=np.uint8), np.zeros((90, 120), dtype=np.uint8)
    array[20:50, 70:110], label_map[20:50, 70:110] = (255, 0, 0), 7
    frame, colors = Image.fromarray(array), Image.fromarray(array)
    prompt = np.asarray(Image.fromarray(np.where(label_map == 7, 255, 0).astype(np.uint8)).resize((60, 60)))
    augmentation = Augmentation((64, 64), flip=0.5, scale=(0.5, 2.0), crop=True)
    found = 0
    for number in range(50):
        drawn = augmentation.draw(make_clip(str(number)), (90, 120))
        seen = np.asarray(drawn.change_frame(frame)).astype(int)
        seen = (seen[..., 0] > 128) & (seen[..., 1] < 64)
        truth = drawn.change_map(label_map, 255) == 7
        assert seen.shape == truth.shape == (64, 64)
        assert (seen != truth).mean() < 0.05
        assert ((drawn.change_prompt(prompt) > 128) != truth).mean() < 0.08
        assert ((np.asarray(drawn.change_map(colors, 255))[..., 0] > 0) == truth).all()
        found += truth.any()
    assert found > 25


def test_small_scales_blur_frames_and_maps_by_the_same_bottleneck():
    drawn = Augmentation((64, 64), scale=(0.25, 0.25)).draw(make_clip(), (128, 128))
    label_map = np.random.default_rng(0).integers(0, 9, (128, 128), dtype=np.uint8)
    assert drawn.change_map(label_map, 255).shape == (16, 16)
    assert drawn.change_frame(Image.fromarray(label_map).convert("RGB")).size == (16, 16)
    # By nearest neighbor: no class comes up that was not there.
    assert set(np.unique(drawn.change_map(np.where(label_map > 4, 8, 2).astype(np.uint8), 255))) == {2, 8}


def test_beyond_the_frame_nothing_is_supervised_and_nothing_prompts():
    drawn = make_drawn(frame_size=(10, 12), corner=(0, 0))
    ones = np.ones((10, 12), dtype=np.uint8)
    changed = drawn.change_map(ones, 255)
    assert (changed[:10, :12] == 1).all() and (changed[10:] == 255).all() and (changed[:, 12:] == 255).all()
    assert drawn.change_prompt(255 * ones)[10:].max() == 0
    frame = np.asarray(drawn.change_frame(Image.fromarray(np.stack([ones] * 3, axis=-1))))
    assert (frame[12:] == (124, 116, 104)).all()


def test_windows_lie_anywhere_in_the_frame():
    augmentation = Augmentation((16, 16), crop=True)
    corners = {augmentation.draw(make_clip(str(number)), (18, 20)).corner for number in range(300)}
    assert corners == {(top, left) for top in range(3) for left in range(5)}


def test_colors_change_frames_alone():
    drawn = make_drawn(colors=(0.5, 1.0, 1.0))
    frame = Image.new("RGB", (30, 20), (100, 200, 50))
    assert np.asarray(drawn.change_frame(frame))[0, 0].tolist() == [50, 100, 25]
    label_map = np.full((20, 30), 9, dtype=np.uint8)
    assert np.array_equal(drawn.change_map(label_map, 255), label_map)


@pytest.mark.parametrize("values", [{"flip": 1.5}, {"color": 1.0}, {"scale": (2.0, 0.5)}, {"scale": (0.0, 1.0)}])
def test_options_that_cannot_be_are_refused(values):
    with pytest.raises(ValueError, match="should be"):
        Augmentation((64, 64), **values)


# Collator ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    clips = {"v1s": (2, 1, 1), "v1m": (2, 1, 1), "v2": (1, 0, 1)}
    return make_mini_avsbench(tmp_path_factory.mktemp("data") / "mini", image_size=64, clips=clips)


@pytest.mark.parametrize("config_class", [AAVSConfig, TPAVIConfig, EASEConfig])
def test_every_model_may_have_it(config_class, data_dir):
    processor = make_processor(config_class(), size=SIZE, label_size=SIZE)
    clips = load_clips(data_dir, "avss", "train")
    plain, mirrored = (
        AVSCollator(processor, prompt="truth", transform=transform)
        for transform in (None, Augmentation((64, 64), flip=1.0))
    )
    rows = plain.prepare(clips)
    batches = [collator([rows[index] for index in range(len(rows))]) for collator in (plain, mirrored)]
    assert torch.equal(batches[0]["input_features"], batches[1]["input_features"])
    for name in ("pixel_values", "prompt_masks"):
        # A frame that is resized after it was mirrored is that which is mirrored after it was resized.
        assert (batches[0][name].flip(-1) - batches[1][name]).abs().mean() < 0.02, name
    targets = "labels" if "labels" in batches[0] else "mask_labels"
    for label, changed in zip(batches[0][targets], batches[1][targets]):
        assert (label.flip(-1) != changed).float().mean() < 0.02
    assert not torch.equal(batches[0]["pixel_values"], batches[1]["pixel_values"])


def test_all_frames_of_a_clip_change_alike_and_single_frames_on_their_own(data_dir):
    processor = make_processor(EASEConfig(), size=SIZE, label_size=SIZE)
    collator = AVSCollator(processor, transform=Augmentation((64, 64), flip=0.5))
    plain = AVSCollator(processor)
    rows = collator.prepare(load_clips(data_dir, "avss", "train"))
    # V2, which has other frames than mirrored ones.
    views = {"clips": rows, "frames": SingleFrames(rows)}
    found = {}
    for name, view in views.items():
        found[name] = []
        for index in range(len(view)):
            changed, original = (c([view[index]])["pixel_values"] for c in (collator, plain))
            mirrored = [(frame - other).abs().mean() > 1e-3 for frame, other in zip(changed, original)]
            found[name].append(bool(mirrored[0]))
            assert len({bool(value) for value in mirrored}) == 1
    assert len(set(found["frames"])) == 2


def test_truth_that_prompts_is_that_of_the_changed_maps(data_dir):
    processor = make_processor(EASEConfig(), size=SIZE, label_size=SIZE)
    augmentation = Augmentation((64, 64), flip=0.5, scale=(0.3, 1.5), crop=True)
    collator = AVSCollator(processor, prompt="truth", transform=augmentation)
    rows = collator.prepare(load_clips(data_dir, "avss", "train"))
    batch = collator([rows[index] for index in range(len(rows))])
    for masks, labels, prompt in zip(batch["mask_labels"], batch["class_labels"], batch["prompt_masks"]):
        sounding = masks[labels > 0].sum(0) if (labels > 0).any() else torch.zeros(64, 64)
        assert torch.equal(prompt, sounding)


def test_masks_of_stage_1_change_with_their_frames(data_dir):
    processor = make_processor(EASEConfig(), size=SIZE, label_size=SIZE)
    rows = AVSCollator(processor).prepare(load_clips(data_dir, "avss", "train"))
    half = np.zeros((224, 224), dtype=np.uint8)
    half[:, :112] = 255
    clip = {**rows[0], "stage1_masks": [Image.fromarray(half)] * rows[0]["num_frames"]}
    prompts = [
        AVSCollator(processor, prompt="stage1", transform=transform)([clip])["prompt_masks"][0]
        for transform in (None, Augmentation((64, 64), flip=1.0))
    ]
    assert prompts[0][:, :31].min() == 1 and prompts[0][:, 33:].max() == 0
    assert torch.equal(prompts[1], prompts[0].flip(-1))


def test_evaluation_is_not_augmented():
    processor = make_processor(EASEConfig(), size=SIZE, label_size=SIZE)
    with pytest.raises(ValueError, match="evaluation=True with a transform"):
        AVSCollator(processor, evaluation=True, transform=Augmentation((64, 64)))
