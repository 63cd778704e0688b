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
"""The page "Adapt it", and what it promises of LoRA and int8."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoProcessor

from stepping_stones_hf import AAVSForAudioVisualSegmentation, AutoModelForAudioVisualSegmentation
from stepping_stones_hf.data import AVSCollator, load_avsbench
from stepping_stones_hf.data.mini import make_mini_avsbench

from .models.aavs.conftest import make_config, make_inputs
from .snippets import DOCS, run_snippets


# `make test-slow` installs the extra.
pytestmark = pytest.mark.slow
peft = pytest.importorskip("peft", reason="LoRA needs peft: pip install .[adapt]")
quantization = pytest.importorskip("torchao.quantization", reason="int8 needs torchao: pip install .[adapt]")


@pytest.fixture
def after_the_demo(two_stage_repository, tmp_path, monkeypatch) -> Path:
    """A working directory as `make demo` leaves it, with a model of random weights."""
    monkeypatch.chdir(tmp_path)
    make_mini_avsbench("runs/mini/mini-avsbench", image_size=48, clips={"v1s": (2, 1, 1), "v2": (0, 0, 1)})
    Path("runs/mini/model").symlink_to(two_stage_repository)
    return tmp_path


@torch.no_grad()
def run(model, processor) -> torch.Tensor:
    collator = AVSCollator(processor, prompt="truth", evaluation=True)
    batch = collator([collator.prepare(load_avsbench("avss", "runs/mini/mini-avsbench", split="test"))[0]])
    inputs = {name: value for name, value in batch.items() if name not in ("frames", "label_maps")}
    inputs = {name: value.to(model.dtype) for name, value in inputs.items()}
    return model.eval()(**inputs).masks_queries_logits


def test_lora_trains_saves_loads_and_merges_to_the_same_outputs(after_the_demo):
    run_snippets(DOCS / "adapt_it.md")
    processor = AutoProcessor.from_pretrained("runs/mini/model", backend="pil")
    # In double precision: masks of random weights are cut at thresholds that rounding crosses.
    base = AutoModelForAudioVisualSegmentation.from_pretrained("runs/mini/model").double()
    plain = run(base, processor)
    adapted = peft.PeftModel.from_pretrained(base, "lora").double()
    lora = run(adapted, processor)
    merged = adapted.merge_and_unload()
    scale = lora.abs().max().item()
    assert (lora - plain).abs().max() > 1e-3 * scale  # it has learned something
    assert_close(run(merged, processor), lora, atol=1e-5 * scale, rtol=1e-5)
    saved = AutoModelForAudioVisualSegmentation.from_pretrained("merged").state_dict()
    for name, value in merged.state_dict().items():
        assert_close(saved[name].double(), value, atol=1e-6, rtol=1e-6, msg=name)


@pytest.mark.parametrize("targets", ["all-linear", ["fc2", "o_proj"], r".*self_attn\.(out_proj|output_proj)"])
def test_no_layer_that_lora_stands_beside_is_bypassed(two_stage_repository, targets):
    torch.manual_seed(0)
    model = AutoModelForAudioVisualSegmentation.from_pretrained(two_stage_repository)
    config = peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).train()
    inputs = {"pixel_values": torch.randn(2, 3, 64, 64), "input_features": torch.randn(2, 96, 64)}
    inputs["prompt_masks"] = (torch.rand(2, 64, 64) > 0.5).float()
    outputs = adapted(**inputs, output_auxiliary_logits=True)
    logits = [outputs.class_queries_logits, outputs.masks_queries_logits]
    logits += [value for prediction in outputs.auxiliary_logits for value in prediction.values()]
    sum(value.sum() for value in logits).backward()
    lacking = [name for name, value in adapted.named_parameters() if value.requires_grad and value.grad is None]
    assert lacking == []


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_lora_gets_the_same_gradients_under_gradient_checkpointing(two_stage_repository, use_reentrant):
    torch.manual_seed(0)
    inputs = {"pixel_values": torch.randn(2, 3, 64, 64), "input_features": torch.randn(2, 96, 64)}
    inputs["prompt_masks"] = (torch.rand(2, 64, 64) > 0.5).float()
    gradients = []
    for checkpointing in (False, True):
        model = AutoModelForAudioVisualSegmentation.from_pretrained(two_stage_repository)
        if checkpointing:  # PEFT sees it and asks for gradients of the inputs
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": use_reentrant})
        torch.manual_seed(1)
        config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
        adapted = peft.get_peft_model(model, config).train()
        adapted(**inputs).masks_queries_logits.sum().backward()
        gradients.append({name: value.grad for name, value in adapted.named_parameters() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and any("backbone" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


def mean_iou(label_maps: np.ndarray, others: np.ndarray) -> float:
    """Over the classes of each frame, background included."""
    ious = []
    for label_map, other in zip(label_maps, others):
        for label in np.unique(label_map):
            union = (label_map == label) | (other == label)
            ious.append(((label_map == label) & (other == label)).sum() / union.sum())
    return float(np.mean(ious))


def test_int8_keeps_the_adapters_and_nearly_the_outputs():
    torch.manual_seed(0)
    model = AAVSForAudioVisualSegmentation(make_config(num_labels=4, use_mask_prompt=True)).eval()
    inputs = make_inputs(model)
    with torch.no_grad():
        expected = model(**inputs).masks_queries_logits
        quantization.quantize_(model, quantization.Int8DynamicActivationInt8WeightConfig())
        error = (model(**inputs).masks_queries_logits - expected).abs().mean() / expected.abs().mean()
    assert 0 < error < 0.05
    adapters = [name for name, _ in model.named_modules() if name.endswith(".adapter.down_proj")]
    assert adapters and all("Int8" in type(model.get_submodule(name).weight).__name__ for name in adapters)


@pytest.mark.skipif("ADAPT_IT_MODEL" not in os.environ, reason="needs the folder of make demo as ADAPT_IT_MODEL")
@torch.no_grad()
def test_int8_of_the_demos_model():
    folder = Path(os.environ["ADAPT_IT_MODEL"])
    clips = load_avsbench("avss", folder / "mini-avsbench", split="test")
    for subfolder, prompt in (("localizer", None), ("", "truth")):
        processor = AutoProcessor.from_pretrained(folder / "model", subfolder=subfolder, backend="pil")
        collator = AVSCollator(processor, prompt=prompt, evaluation=True)
        rows = collator.prepare(clips)
        model = AutoModelForAudioVisualSegmentation.from_pretrained(folder / "model", subfolder=subfolder)
        label_maps = []
        for kind in ("fp32", "int8"):
            if kind == "int8":
                quantization.quantize_(model, quantization.Int8DynamicActivationInt8WeightConfig())
            found = []
            for index in range(0, len(rows), 4):
                batch = collator([rows[index]])
                inputs = {name: value for name, value in batch.items() if name not in ("frames", "label_maps")}
                found += processor.post_process_semantic_segmentation(model(**inputs))
            label_maps.append(torch.stack(found).numpy())
        iou = mean_iou(*label_maps)
        print(f"{subfolder or 'stage 2'}: IoU of int8 and fp32 {iou:.4f}")
        assert iou >= 0.9
