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
"""Both stages as programs of torch.export and in onnxruntime, and the page "Export to torch.export and ONNX"."""

import re
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from stepping_stones_hf import (
    AAVSForAudioVisualSegmentation,
    AAVSImageProcessor,
    AAVSProcessor,
    VGGishConfig,
    VGGishFeatureExtractor,
)
from stepping_stones_hf.data.mini import make_mini_avsbench
from stepping_stones_hf.models import cpu_inference, deformable_attention
from stepping_stones_hf.models.aavs import modeling_aavs

from .conftest import make_config, make_inputs


PAGE = Path(__file__).parents[3] / "docs" / "source" / "export.md"
FRAME_SIZE = 64


def assert_same_logits(outputs, model: AAVSForAudioVisualSegmentation, inputs: dict, tolerance: float):
    expected = model(**inputs)
    for name in ("class_queries_logits", "masks_queries_logits"):
        assert_close(outputs[name], expected[name], atol=tolerance, rtol=0)


def make_model(prompted: bool) -> AAVSForAudioVisualSegmentation:
    """
    A model with an audio encoder and with all that acts in training only. The weights are larger than fresh ones, and
    such that the clip's label maps have more than one label.
    """
    torch.manual_seed(3 if prompted else 7)
    config = make_config(
        num_labels=7 if prompted else 2,
        use_mask_prompt=prompted,
        apply_output_projection=prompted,
        audio_config=VGGishConfig(conv_channels=[4, 4, 8, 8], conv_depths=[1, 1, 1, 1], hidden_size=16),
        dropout=0.1,
    )
    config.backbone_config.drop_path_rate = 0.3
    model = AAVSForAudioVisualSegmentation(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def make_unseen_inputs(model: AAVSForAudioVisualSegmentation, num_frames: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_frames)
    inputs = {
        "pixel_values": torch.randn(num_frames, 3, FRAME_SIZE, FRAME_SIZE, generator=generator),
        "input_features": torch.randn(num_frames, 96, 64, generator=generator),
    }
    if model.config.use_mask_prompt:
        inputs["prompt_masks"] = torch.rand(num_frames, 224, 224, generator=generator)
        inputs["prompt_masks"][-1] = 0  # a silent frame
    return inputs


@pytest.fixture
def two_stage_repository(tmp_path, monkeypatch):
    """A working directory with a two-stage repository and a clip of ten frames, under the names that the page uses."""
    monkeypatch.chdir(tmp_path)
    # The models compute as their programs do, and so round alike.
    for module in (cpu_inference, deformable_attention, modeling_aavs):
        monkeypatch.setattr(module, "is_cpu_inference", lambda *_: False)
    make_mini_avsbench("runs/mini/mini-avsbench", clips={"v2": (1, 0, 0)}, image_size=FRAME_SIZE)
    for folder, prompted in (("runs/mini/model", True), ("runs/mini/model/localizer", False)):
        make_model(prompted).save_pretrained(folder)
        size = {"height": FRAME_SIZE, "width": FRAME_SIZE}
        image_processor = AAVSImageProcessor(localization=not prompted, size=size)
        AAVSProcessor(image_processor, VGGishFeatureExtractor()).save_pretrained(folder)


@torch.enable_grad()
def run_sections(*titles: str) -> dict:
    """The variables of the page's Python after these sections, run with gradients on as a reader has them."""
    variables = {}
    for title in titles:
        section = PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
        for snippet in re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL):
            exec(compile(snippet, PAGE.name, "exec"), variables)
    return variables


@torch.no_grad()
def test_a_program_of_audio_embeddings_equals_the_model(tiny_model):
    inputs = make_inputs(tiny_model)
    program = torch.export.export(tiny_model, (), inputs).module()
    for batch in (inputs, {name: 0.7 * value.flip(0) for name, value in inputs.items()}):
        assert_same_logits(program(**batch), tiny_model, batch, tolerance=1e-5)


@torch.no_grad()
def test_the_programs_of_the_page_equal_the_models_and_refuse_other_numbers_of_frames(two_stage_repository):
    page = run_sections("torch.export")
    for program, model in ((page["stage_1"], page["localizer"]), (page["stage_2"], page["model"])):
        program = program.module()
        inputs = make_unseen_inputs(model, num_frames=10)
        assert_same_logits(program(**inputs), model, inputs, tolerance=1e-5)
        with pytest.raises(AssertionError, match=r"size\(\)\[0\] == 10"):
            program(**make_unseen_inputs(model, num_frames=9))

    outputs = page["model"](**page["prompted_inputs"])
    assert type(page["outputs"]) is type(outputs)
    expected = torch.stack(page["processor"].post_process_semantic_segmentation(outputs))
    assert expected.shape == (10, 224, 224) and len(expected.unique()) > 1
    assert torch.equal(torch.stack(page["label_maps"]), expected)


@pytest.mark.slow
@torch.no_grad()
def test_the_programs_of_the_page_with_a_free_axis_take_any_number_of_frames(two_stage_repository):
    page = run_sections("torch.export", "Any number of frames")
    for program, model in ((page["stage_1"], page["localizer"]), (page["stage_2"], page["model"])):
        program = program.module()
        for num_frames in (1, 2, 7):
            inputs = make_unseen_inputs(model, num_frames)
            assert_same_logits(program(**inputs), model, inputs, tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("free_axis", [True, False], ids=["any number of frames", "ten frames"])
@torch.no_grad()
def test_the_onnx_files_of_the_page_equal_the_models(two_stage_repository, free_axis):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason=f"ONNX needs {name}: pip install .[export]")
    page = run_sections("torch.export", *(["Any number of frames"] if free_axis else []), "ONNX")
    for session, model in ((page["stage_1"], page["localizer"]), (page["stage_2"], page["model"])):
        for num_frames in (1, 2, 7) if free_axis else (10,):
            inputs = make_unseen_inputs(model, num_frames)
            assert_same_logits(page["run"](session, inputs), model, inputs, tolerance=1e-3)

    processor, inputs = page["processor"], page["inputs"]
    masks = torch.stack(processor.post_process_semantic_segmentation(page["localizer"](**inputs)))
    outputs = page["model"](**inputs, prompt_masks=masks.float())
    expected = torch.stack(processor.post_process_semantic_segmentation(outputs))
    assert len(masks.unique()) == 2 and len(expected.unique()) > 1
    # Rounding may move a pixel on the edge between two classes.
    assert (torch.stack(page["label_maps"]) == expected).float().mean() > 0.999
