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
"""AAVS against tensors computed by the released program (tolerances: several times that program's own noise)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from stepping_stones_hf import AAVSForAudioVisualSegmentation, AAVSProcessor
from stepping_stones_hf.cli import main
from stepping_stones_hf.models.aavs.configuration_aavs import AAVSConfig
from stepping_stones_hf.models.aavs.convert_aavs_original import OUTPUT_PROJECTIONS, rename_key
from stepping_stones_hf.models.loss_mask_classification import MaskClassificationLoss


LOGITS = {"atol": 3e-4, "rtol": 1e-4}


def convert(folder: Path, stage: int, output: Path) -> tuple[AAVSForAudioVisualSegmentation, AAVSProcessor]:
    """The command line's conversion, loaded as a user loads it."""
    arguments = ["--checkpoint", folder / "state_dict.safetensors", "--config", folder / "config.json"]
    arguments += ["--preprocessor-config", folder / "preprocessor_config.json", "--stage", stage, "--output", output]
    assert main(["convert", "--model", "aavs", *map(str, arguments)]) == 0
    # The PIL backend is the one that equals the released program's frames bit by bit.
    processor = AAVSProcessor.from_pretrained(output, backend="pil")
    return AAVSForAudioVisualSegmentation.from_pretrained(output), processor


def test_converted_second_stage_gives_the_released_label_maps(fixtures_dir, tmp_path):
    folder = fixtures_dir / "aavs_stage2"
    model, processor = convert(folder, 2, tmp_path / "converted")
    tensors, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")

    inputs = processor(images=list(tensors["raw_images_uint8"]), return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs, audio_embeddings=tensors["audio_embedding"], prompt_masks=tensors["stage1_mask"])

    assert_close(outputs.class_queries_logits, expected["class_queries_logits"], **LOGITS)
    assert_close(outputs.masks_queries_logits, expected["masks_queries_logits"], **LOGITS)
    label_maps = processor.post_process_semantic_segmentation(outputs)
    assert torch.equal(torch.stack(label_maps), expected["semantic_map"].long())


@pytest.fixture(scope="module", params=[1, 2], ids=["stage 1", "stage 2"])
def golden(request, shared_dir, tmp_path_factory) -> dict:
    """A converted checkpoint, the released program's inputs and its outputs."""
    folder = shared_dir / "goldens" / f"aavs_stage{request.param}"
    model, processor = convert(folder, request.param, tmp_path_factory.mktemp("converted"))
    tensors = load_file(folder / "inputs.safetensors")
    inputs = {"pixel_values": tensors["pixel_values"], "audio_embeddings": tensors["audio_embedding"]}
    if request.param == 2:
        inputs["prompt_masks"] = tensors["stage1_mask"]
    return {
        "stage": request.param,
        "folder": folder,
        "model": model,
        "processor": processor,
        "inputs": inputs,
        "train_mask": tensors.get("train_mask"),
        "labels": {
            name: [tensors[f"{name}.{frame}"] for frame in range(3)] for name in ("mask_labels", "class_labels")
        },
        "expected": load_file(folder / "outputs.safetensors"),
        "meta": json.loads((folder / "meta.json").read_text()),
    }


def test_intermediate_tensors_of_every_module(golden):
    model, expected, seen = golden["model"].model, golden["expected"], {}

    def record(name):
        return lambda module, args, output: seen.__setitem__(name, (args, output))

    hooks = [
        module.register_forward_hook(record(name))
        for name, module in {
            "backbone": model.backbone,
            "pixel_decoder": model.pixel_decoder,
            "audio_projector": model.audio_projector,
            "audio_query": model.decoder.audio_query,
            **{f"layer.{index}": layer for index, layer in enumerate(model.decoder.layers)},
        }.items()
    ]
    with torch.no_grad():
        outputs = model(**golden["inputs"])
    for hook in hooks:
        hook.remove()

    for level, feature_map in enumerate(seen["backbone"][1].feature_maps):
        assert_close(feature_map, expected[f"encoder_feat.{level}"], **LOGITS)
    for level, feature_map in enumerate(seen["pixel_decoder"][1].multi_scale_features):
        assert_close(feature_map, expected[f"pixel_decoder_feat.{level}"], **LOGITS)
    assert_close(seen["pixel_decoder"][1].mask_features, expected["mask_features"], **LOGITS)
    assert_close(outputs.mask_features, expected["mask_features_used_by_decoder"], **LOGITS)
    assert_close(seen["audio_projector"][1][None], expected["audio_projected"], **LOGITS)
    assert_close(seen["audio_query"][1].transpose(0, 1), expected["query_init"], **LOGITS)
    assert_close(outputs.last_hidden_state, expected["decoder_last_hidden"], **LOGITS)
    for index in range(3):
        _, query_positions, memory, key_positions, attention_mask = seen[f"layer.{index}"][0]
        assert_close(query_positions[:, None].expand(-1, 3, -1), expected["query_pos"], **LOGITS)
        assert_close(memory.transpose(0, 1), expected[f"memory.{index}"], **LOGITS)
        key_positions = key_positions.expand_as(memory).transpose(0, 1)
        assert_close(key_positions, expected[f"key_pos.{index}"], **LOGITS)
        blocked = (attention_mask[:, 0] < 0).to(torch.uint8)
        assert torch.equal(blocked, expected[f"cross_attn_mask.{index}"]), f"attention mask of layer {index}"


def test_logits_and_auxiliary_logits(golden):
    with torch.no_grad():
        outputs = golden["model"](**golden["inputs"], output_auxiliary_logits=True)
    for name in ("class_queries_logits", "masks_queries_logits"):
        assert_close(outputs[name], golden["expected"][name], **LOGITS)
        assert len(outputs.auxiliary_logits) == 3
        for index, auxiliary in enumerate(outputs.auxiliary_logits):
            assert_close(auxiliary[name], golden["expected"][f"aux.{index}.{name}"], **LOGITS)


@pytest.mark.parametrize("golden", [2], indirect=True)
def test_logits_with_the_ground_truth_prompt_of_training(golden):
    with torch.no_grad():
        outputs = golden["model"](**{**golden["inputs"], "prompt_masks": golden["train_mask"]})
    for name in ("class_queries_logits", "masks_queries_logits"):
        assert_close(outputs[name], golden["expected"][f"trainmask.{name}"], **LOGITS)


def test_post_processed_maps(golden):
    with torch.no_grad():
        outputs = golden["model"](**golden["inputs"])
    results = golden["processor"].post_process_semantic_segmentation(outputs, return_segmentation_scores=True)
    label_maps = torch.stack([result.segmentation for result in results])
    if golden["stage"] == 1:
        scores = torch.stack([result.segmentation_scores for result in results])
        assert_close(scores, golden["expected"]["binary_logits"], **LOGITS)
        assert torch.equal(label_maps, golden["expected"]["binary_mask"].long())
    else:
        assert torch.equal(label_maps, golden["expected"]["semantic_map"].long())


def test_seeded_loss_and_its_terms(golden):
    torch.manual_seed(golden["meta"]["loss_seed"])
    with torch.no_grad():
        outputs = golden["model"](**golden["inputs"], **golden["labels"])
    assert outputs.loss.item() == pytest.approx(golden["meta"]["loss_total"], rel=1e-5)
    terms = {name: value.item() for name, value in outputs.loss_dict.items()}
    assert terms == pytest.approx(golden["meta"]["loss_terms_weighted"], rel=1e-5)


def test_gradients_of_the_loss_and_of_the_logits(golden):
    model, meta = golden["model"], golden["meta"]
    norms = json.loads((golden["folder"] / "grad_norms.json").read_text())
    tensors = load_file(golden["folder"] / "grads.safetensors")
    parameters = dict(model.named_parameters())
    for prefix, name in (("S", "norm_S"), ("loss", "norm_loss")):
        model.zero_grad()
        torch.manual_seed(meta["loss_seed"])
        outputs = model(**golden["inputs"], **golden["labels"])
        scalar = outputs.class_queries_logits.sum() + meta["k"] * outputs.masks_queries_logits.mean()
        (scalar if prefix == "S" else outputs.loss).backward()
        for key, norm in norms.items():
            parameter = parameters.get(rename_key(key))
            if parameter is None:  # what does nothing in the first stage and is not there
                assert OUTPUT_PROJECTIONS.search(rename_key(key)) and not norm[name]
                continue
            gradient = parameter.grad
            assert (0 if gradient is None else gradient.norm().item()) == pytest.approx(
                norm[name] or 0, rel=1e-3, abs=1e-3
            ), key
        compared = [key for key in tensors if key.startswith(f"{prefix}.")]
        for key in compared:
            gradient = parameters[rename_key(key.removeprefix(f"{prefix}."))].grad
            assert_close(gradient, tensors[key], atol=1e-3 * max(1, tensors[key].abs().max().item()), rtol=1e-3)
        assert compared


@pytest.mark.parametrize("stage", [1, 2])
def test_criterion_alone_matches_with_the_released_class_cost(shared_dir, stage):
    # A class cost of 2, as in transformers' Mask2Former, gives another matching on this case.
    units = shared_dir / "goldens" / "aavs_units"
    expected = json.loads((units / f"units_stage{stage}.json").read_text())["criterion"]
    tensors = load_file(units / f"criterion_stage{stage}.safetensors")

    def prediction(prefix: str) -> dict:
        return {name: tensors[prefix + name] for name in ("class_queries_logits", "masks_queries_logits")}

    predictions = [prediction("aux.0."), prediction("aux.1."), prediction("")]
    labels = [[tensors[f"{name}.{frame}"] for frame in range(3)] for name in ("mask_labels", "class_labels")]

    def compute(class_cost: float) -> dict:
        criterion = MaskClassificationLoss(
            AAVSConfig(
                num_labels=2 if stage == 1 else 71,
                num_queries=7,
                train_num_points=expected["train_num_points"],
                matcher_class_cost=class_cost,
            )
        )
        torch.manual_seed(0)
        return {name: value.item() for name, value in criterion(predictions, *labels).items()}

    assert compute(class_cost=1.0) == pytest.approx(expected["loss_terms_weighted"], rel=1e-5)
    assert compute(class_cost=2.0) != pytest.approx(expected["loss_terms_weighted"], rel=1e-5)


@pytest.mark.parametrize(("stage", "num_parameters"), [(1, 113_564_795), (2, 114_606_016)])
def test_full_size_names_shapes_and_parameter_counts(shared_dir, stage, num_parameters):
    keys = json.loads((shared_dir / "goldens" / "keys" / f"aavs_stage{stage}.json").read_text())["keys"]
    keys = {key: value["shape"] for key, value in keys.items() if not key.endswith("relative_position_index")}
    with torch.device("meta"):
        model = AAVSForAudioVisualSegmentation(
            AAVSConfig(num_labels=2, num_queries=30, apply_output_projection=False)
            if stage == 1
            else AAVSConfig(num_labels=71, num_queries=100, use_mask_prompt=True)
        )
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    renamed = {rename_key(key): shape for key, shape in keys.items()}
    assert len(renamed) == len(keys)
    if stage == 1:  # whose output projections do nothing
        renamed = {name: shape for name, shape in renamed.items() if not OUTPUT_PROJECTIONS.search(name)}
    assert renamed == {key: list(value.shape) for key, value in model.state_dict().items()}
