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
"""A localizer at work: its masks become a store that is complete or not there, and that knows its makers."""

import json
import shutil

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image

from stepping_stones_hf import AAVSForAudioVisualSegmentation, AAVSProcessor
from stepping_stones_hf.data import AVSCollator, load_avsbench
from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.training import evaluation
from stepping_stones_hf.training.evaluation import localize
from stepping_stones_hf.training.localizer import check_localizer, finish_store, predict_masks
from stepping_stones_hf.training.mask_store import check_store, hash_model_folder, mask_path


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    mini = make_mini_avsbench(folder / "mini", image_size=64, clips={"v1s": (0, 0, 2), "v1m": (0, 0, 1)})
    return load_avsbench("avss", mini, "test", cache_dir=str(folder / "cache"))


@pytest.fixture(scope="module")
def localizer_dir(two_stage_repository):
    return two_stage_repository / "localizer"


@pytest.fixture(scope="module")
def localizer(localizer_dir):
    processor = AAVSProcessor.from_pretrained(localizer_dir, backend="pil")
    return AAVSForAudioVisualSegmentation.from_pretrained(localizer_dir).eval(), processor


@pytest.fixture
def accelerator():
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def expected(localizer, clips) -> dict:
    """The scores of background and of what sounds `(2, height, width)`, by frame."""
    model, processor = localizer
    collator, scores = AVSCollator(processor, evaluation=True), {}
    with torch.no_grad():
        for clip in collator.prepare(clips):
            inputs = collator([clip])
            frames, _ = inputs.pop("frames"), inputs.pop("label_maps")
            scores |= zip(frames, localize(model, processor, inputs).numpy())
    return scores


def predict(accelerator, localizer, clips, store, **options):
    rows = AVSCollator(localizer[1]).prepare(clips)
    return predict_masks(accelerator, *localizer, rows, store, **options)


@pytest.mark.parametrize("soft", [False, True])
def test_the_store_has_what_the_localizer_marks(
    accelerator, localizer, localizer_dir, clips, expected, tmp_path, soft
):
    store = tmp_path / "masks"
    scores = predict(accelerator, localizer, clips, store, soft=soft)
    assert not store.exists()
    finish_store(accelerator, store, localizer_dir, clips, scores, soft)
    assert len(expected) == len(list(store.rglob("*.png"))) == 15
    shares = []
    for frame, (background, sounding) in expected.items():
        mask = np.asarray(Image.open(mask_path(store, *frame)))
        share = sounding / np.maximum(background + sounding, 1e-6) if soft else sounding > background
        np.testing.assert_allclose(mask / 255, share, atol=0.5 / 255 + 1e-5)
        shares.append(share.mean())
    assert min(shares) + 0.05 < max(shares)  # masks that are all alike would show nothing

    manifest = check_store(store, clips, hash_model_folder(localizer_dir))
    assert (manifest.num_frames, manifest.threshold) == (15, None if soft else 0.5)
    assert list(manifest.scores) == ["S4", "MS3"]
    assert manifest.scores["S4"]["miou"] == scores.results("v1s")["miou"]
    assert [path.name for path in tmp_path.iterdir()] == ["masks"]


def test_an_older_store_stays_until_the_new_one_is_complete(
    accelerator, localizer, localizer_dir, clips, tmp_path, monkeypatch
):
    store = tmp_path / "masks"
    finish_store(accelerator, store, localizer_dir, clips, predict(accelerator, localizer, clips, store))
    before = {path: path.read_bytes() for path in store.rglob("*.*")}
    with monkeypatch.context() as patches:
        patches.setattr(evaluation, "gather_object", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            predict(accelerator, localizer, clips, store, soft=True)
    assert {path: path.read_bytes() for path in store.rglob("*.*")} == before
    scores = predict(accelerator, localizer, clips, store, soft=True)
    finish_store(accelerator, store, localizer_dir, clips, scores, soft=True)
    assert check_store(store, clips).threshold is None


def test_a_localizer_is_known_by_its_config(two_stage_repository, localizer_dir, tmp_path):
    assert check_localizer(localizer_dir) == localizer_dir
    with pytest.raises(ValueError, match=r"71 labels and use_mask_prompt=True: it is not a localizer"):
        check_localizer(two_stage_repository)
    with pytest.raises(FileNotFoundError, match=r"nowhere/config.json does not exist"):
        check_localizer(tmp_path / "nowhere")


def test_a_model_of_two_classes_with_a_prompt_is_not_a_localizer(localizer_dir, tmp_path):
    folder = shutil.copytree(localizer_dir, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"use_mask_prompt": True, "mask_prompt_keys": True}))
    with pytest.raises(ValueError, match="use_mask_prompt=True"):
        check_localizer(folder)
