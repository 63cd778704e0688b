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
"""CAVP against tensors computed by the released program (tolerances: several times that program's own noise)."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from stepping_stones_hf import CAVPFeatureExtractor, CAVPForAudioVisualSegmentation
from stepping_stones_hf.models.cavp.convert_cavp_original import (
    convert_cavp_checkpoint,
    convert_cavp_parameter,
    convert_cavp_state_dict,
    infer_cavp_config,
)
from stepping_stones_hf.models.cavp.sounds_cavp import shuffle_sounds


GOLDENS = ["cavp_avss_resnet", "cavp_binary_resnet"]

# Absolute, but for the norms of gradients.
EVALUATION, TRAINING, LOSSES, NORMS = 2e-4, 5e-4, 1e-4, 2e-3


def assert_near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float, name: str = "") -> None:
    assert_close(actual, expected, atol=tolerance, rtol=0, msg=lambda message: f"{name}: {message}")


def to_tokens(maps: torch.Tensor) -> torch.Tensor:
    return maps.flatten(2).mT


class Golden:
    """A converted checkpoint as a user loads it, and the released program's inputs and outputs."""

    def __init__(self, folder: Path, output: Path):
        self.meta = json.loads((folder / "config.json").read_text())
        self.original = load_file(folder / "state_dict.safetensors")
        self.inputs = load_file(folder / "inputs.safetensors")
        self.expected = load_file(folder / "outputs.safetensors")
        output.mkdir()
        fields = {"contrastive_max_views": self.meta["contrastive"]["max_views"]}
        (output / "fields.json").write_text(json.dumps(fields))
        self.converted = output / "converted"
        conversion = convert_cavp_checkpoint(
            folder / "state_dict.safetensors", self.converted, output / "fields.json"
        )
        assert not conversion.unexpected and not conversion.missing
        assert set(conversion.dropped) == set(self.meta["params_without_grad"])

    def load(self, **fields) -> CAVPForAudioVisualSegmentation:
        return CAVPForAudioVisualSegmentation.from_pretrained(self.converted, **fields)

    @property
    def model_inputs(self) -> dict:
        return {"pixel_values": self.inputs["pixel_values"], "input_features": self.extract("waveform")}

    def extract(self, name: str) -> torch.Tensor:
        return torch.cat(
            [
                CAVPFeatureExtractor()(waveform, sampling_rate=16_000, return_tensors="pt")["input_features"]
                for waveform in self.inputs[name]
            ]
        )

    def run_training(self, model: CAVPForAudioVisualSegmentation) -> tuple:
        """Loss of a batch with the other sounds that the released program had, and what the modules gave."""
        outputs = {}

        def hear(audio_embeddings, input_features, classes):
            others = model.model.get_audio_embeddings(self.extract("shuffle_waveform"))
            torch.manual_seed(self.meta["loss_seed"])
            return others, self.inputs["if_match"]

        def record(name: str):
            return lambda module, args, output: outputs.setdefault(name, []).append(output)

        model.hear_other_sounds = hear
        for name in ("head", "model.fusion", "model.fusion.block.gate", "model.decoder.aspp", "model.audio_encoder"):
            model.get_submodule(name).register_forward_hook(record(name))
        loss = model.train()(**self.model_inputs, labels=self.inputs["pixel_label"])
        return loss, outputs


@pytest.fixture(scope="module", params=GOLDENS)
def golden(request, shared_dir, tmp_path_factory) -> Golden:
    return Golden(shared_dir / "goldens" / request.param, tmp_path_factory.mktemp(request.param) / "golden")


def test_features_gates_and_logits(golden):
    model, maps = golden.load(), {}
    for name in ("model.decoder.aspp", "model.decoder.low_level_norm", "head", "model.fusion.visual_projector"):
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: maps.setdefault(name, output)
        )
    with torch.no_grad():
        outputs = model.model(**golden.model_inputs, output_hidden_states=True, output_attentions=True)
        logits = model(**golden.model_inputs).logits
        stages = model.model.backbone(golden.inputs["pixel_values"], output_hidden_states=True).hidden_states
    found = {
        "backbone.stem": stages[0],
        **{f"backbone.layer{stage}": stages[stage] for stage in range(1, 5)},
        "aspp": maps["model.decoder.aspp"],
        "low_level": maps["model.decoder.low_level_norm"].relu(),
        "audio_embedding": outputs.audio_embeddings,
        "visual_in": to_tokens(outputs.visual_features),
        "visual_proj": maps["model.fusion.visual_projector"],
        "patch_embed_v": outputs.hidden_states[0],
        "block_visual": outputs.hidden_states[1],
        "attention": outputs.attentions[0],
        "fusion": outputs.fused_features,
        "logits_low": maps["head"],
        "pred": logits,
    }
    for name, tensor in found.items():
        expected = golden.expected[f"eval.{name}"]
        assert_near(tensor, to_tokens(expected) if name == "visual_proj" else expected, EVALUATION, name)
    assert_close(logits.argmax(dim=1).to(torch.uint8), golden.expected["eval.argmax"])


def test_mask_prompts(golden):
    with torch.no_grad():
        logits = golden.load(use_mask_prompt=True)(
            **golden.model_inputs, prompt_masks=golden.inputs["stage1_mask"]
        ).logits
    assert_near(logits[[golden.meta["keep"][0], -1]], golden.expected["eval.pred_ss"], EVALUATION)


def test_training_mode_and_its_batch_norm_statistics(golden):
    model = golden.load()
    with torch.no_grad():
        loss, outputs = golden.run_training(model)
    expected, kept = golden.expected, golden.meta["keep"]
    assert_near(outputs["head"][0], expected["train.logits_low"], TRAINING)
    assert_near(torch.cat(outputs["model.fusion"]), expected["train.fusion"], TRAINING)
    gates = torch.cat([gates for _, gates in outputs["model.fusion.block.gate"]])
    assert_near(gates, expected["train.attention"], TRAINING)
    embeddings = torch.cat([output.embeddings for output in outputs["model.audio_encoder"]])
    assert_near(embeddings, expected["train.audio_embedding"], TRAINING)
    assert_near(outputs["model.decoder.aspp"][0], expected["train.aspp"], TRAINING)
    assert_near(loss.logits[kept], expected["train.pred"], TRAINING)
    buffers = dict(model.named_buffers())
    statistics = [name for name in expected if name.startswith("train.after.")]
    assert len(statistics) == 10
    for name in statistics:
        original = name.removeprefix("train.after.")
        (part,) = convert_cavp_parameter(original, golden.original[original])
        assert_near(buffers[part], expected[name], TRAINING, name)


@pytest.mark.parametrize(("trainer", "weight"), [("image", 1.0), ("object", 0.1)])
def test_losses_of_both_trainers(golden, trainer, weight):
    with torch.no_grad():
        outputs, _ = golden.run_training(golden.load(contrastive_weight=weight))
    scalars = golden.meta["scalars"]
    assert outputs.loss_dict["loss_segmentation"].item() == pytest.approx(scalars["loss.ce"], abs=LOSSES)
    assert outputs.loss_dict["loss_contrastive"].item() == pytest.approx(
        weight * scalars["loss.contrastive"], abs=LOSSES
    )
    assert outputs.loss.item() == pytest.approx(scalars[f"loss.{trainer}_trainer"], abs=LOSSES)


def test_gradients(golden):
    model = golden.load()
    outputs, _ = golden.run_training(model)
    outputs.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    norms = golden.meta["grad_norms"]["image_trainer"]
    parameters = set()
    for name, norm in norms.items():
        (part,) = convert_cavp_parameter(name, golden.original[name])
        parameters.add(part)
        # Of some parameters before a batch norm nothing but noise is left.
        assert gradients[part].norm().item() == pytest.approx(norm, rel=NORMS, abs=1e-5), name
    assert parameters == gradients.keys()
    full = [name for name in golden.expected if name.startswith("grad.image_trainer.")]
    assert len(full) == 13
    for name in full:
        original = name.removeprefix("grad.image_trainer.")
        (part,) = convert_cavp_parameter(original, golden.original[original])
        expected = golden.expected[name]
        assert_near(gradients[part], expected, NORMS * expected.abs().max().item(), name)
