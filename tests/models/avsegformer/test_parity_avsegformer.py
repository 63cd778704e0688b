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
"""AVSegFormer against tensors computed by the released program (tolerances: several times its own noise)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from stepping_stones_hf import AVSegFormerConfig, AVSegFormerForAudioVisualSegmentation
from stepping_stones_hf.models.avsegformer.convert_avsegformer_original import (
    convert_avsegformer_checkpoint,
    convert_avsegformer_parameter,
    infer_avsegformer_config,
)
from stepping_stones_hf.models.conversion import convert_state_dict


GOLDENS = [f"avsegformer_{name}" for name in ("s4_pvt", "ms3_pvt", "ms3_resnet", "avss_pvt", "avss_resnet")]

# Relative to the largest value.
TENSORS, LOSSES, GRADIENTS = 1e-4, 1e-5, 1e-3

# Values of `mask_loss`, by the names of the reference tensors.
BINARY_LOSSES, SEMANTIC_LOSSES = {"dice": "dice", "bce": "bce"}, {"ce": "dice"}


def assert_near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = TENSORS, name: str = "") -> None:
    assert actual.shape == expected.shape, name
    largest = expected.abs().max()
    assert (actual - expected).abs().max() <= tolerance * largest, (name, (actual - expected).abs().max() / largest)


class Golden:
    """A converted checkpoint as a user loads it, and the released program's inputs and outputs."""

    def __init__(self, folder: Path, output: Path):
        self.meta = json.loads((folder / "config.json").read_text())
        self.original = load_file(folder / "state_dict.safetensors")
        self.inputs = load_file(folder / "inputs.safetensors")
        self.expected = load_file(folder / "outputs.safetensors")
        self.semantic = self.meta["task"] == "avss"
        fields = {}
        if self.meta["backbone"] == "pvt":
            heads = self.meta["backbone_config"]["num_heads"]
            fields["backbone_config"] = {"num_attention_heads": heads, "drop_path_rate": 0.0}
        output.mkdir()
        (output / "fields.json").write_text(json.dumps(fields))
        self.converted = output / "converted"
        conversion = convert_avsegformer_checkpoint(
            folder / "state_dict.safetensors", self.converted, output / "fields.json"
        )
        assert not conversion.unexpected and not conversion.missing

    def load(self, **fields) -> AVSegFormerForAudioVisualSegmentation:
        return AVSegFormerForAudioVisualSegmentation.from_pretrained(self.converted, **fields)

    @property
    def real(self) -> torch.Tensor:
        """The frames that are not empty: the released program for AVSS gets clips that are filled up."""
        flags = self.inputs.get("vid_temporal_mask_flag")
        return torch.ones(self.meta["B"] * self.meta["T"], dtype=torch.bool) if flags is None else flags.bool()

    @property
    def model_inputs(self) -> dict:
        return {
            "pixel_values": self.inputs["frames"][self.real],
            "audio_embeddings": self.inputs["audio_embeddings"][self.real],
        }

    @property
    def labels(self) -> torch.Tensor:
        """Of the real frames; 255 where there is no annotation."""
        if self.semantic:
            annotated = self.inputs["gt_temporal_mask_flag"].bool()
            return self.inputs["labels"].where(annotated[:, None, None], 255)[self.real]
        masks = self.inputs["gt_masks"].flatten(0, -3).long()
        if self.meta["task"] == "ms3":
            return masks
        # On S4 the first frame of each clip is annotated.
        labels = masks.new_full((len(self.real), *masks.shape[1:]), 255)
        labels[:: self.meta["T"]] = masks
        return labels

    @property
    def losses(self) -> dict[str, str]:
        return SEMANTIC_LOSSES if self.semantic else BINARY_LOSSES

    def assert_losses(self) -> None:
        for name, mask_loss in self.losses.items():
            model = self.load(mask_loss=mask_loss)
            with torch.no_grad():
                outputs = model(**self.model_inputs, labels=self.labels)
            expected = {part: self.meta["scalars"][f"loss.{name}.{part}"] for part in ("total", "iou", "mix")}
            assert outputs.loss.item() == pytest.approx(expected["total"], rel=LOSSES), name
            assert outputs.loss_dict["loss_segmentation"].item() == pytest.approx(expected["iou"], rel=LOSSES), name
            # The reference has it with its weight.
            assert outputs.loss_dict["loss_mix"].item() == pytest.approx(expected["mix"], rel=LOSSES), name

    def get_gradients(self) -> dict[str, torch.Tensor]:
        # In double precision: in single precision rounding decides on which side of a ReLU's kink a pixel of the MS3
        # set is, and that alone changes gradients by more than 1e-3.
        model = self.load().double()
        inputs = {name: value.double() for name, value in self.model_inputs.items()}
        model(**inputs, labels=self.labels).loss.backward()
        return {name: parameter.grad.float() for name, parameter in model.named_parameters()}

    def assert_gradient_norms(self, gradients: dict[str, torch.Tensor]) -> None:
        norms = self.meta["grad_norms"]
        without_gradient = {name for name, norm in norms.items() if norm is None}
        assert without_gradient == set(self.meta["params_without_grad"])
        dropped = {name for name in norms if not convert_avsegformer_parameter(name, self.original[name])}
        assert dropped == without_gradient
        parameters = set()
        # A group norm with a channel a group takes away what the bias before it adds: its gradient is rounding.
        noise = 1e-6 * max(norm for norm in norms.values() if norm is not None)
        for name in norms.keys() - dropped:
            parts = convert_avsegformer_parameter(name, self.original[name])
            parameters |= parts.keys()
            norm = torch.stack([gradients[part].norm() for part in parts]).norm().item()
            assert norm == pytest.approx(norms[name], rel=GRADIENTS, abs=noise), name
        assert parameters == gradients.keys()


@pytest.fixture(scope="module", params=GOLDENS)
def golden(request, shared_dir, tmp_path_factory) -> Golden:
    return Golden(shared_dir / "goldens" / request.param, tmp_path_factory.mktemp(request.param) / "golden")


def record(module: nn.Module) -> list:
    """Inputs and outputs of a module, call by call."""
    calls = []
    module.register_forward_hook(lambda module, args, kwargs, output: calls.append((args, output)), with_kwargs=True)
    return calls


def test_logits_losses_and_gradients_of_the_reference_tensors_that_travel_along(fixtures_dir, tmp_path):
    golden = Golden(fixtures_dir / "avsegformer_s4_pvt", tmp_path / "golden")
    with torch.no_grad():
        assert_near(golden.load()(**golden.model_inputs).logits, golden.expected["pred"])
    golden.assert_losses()
    golden.assert_gradient_norms(golden.get_gradients())


def test_every_step_from_the_backbone_to_the_logits(golden):
    model = golden.load()
    backbone, mixer, mask_mlp = (record(m) for m in (model.model.backbone, model.model.mixer, model.head.mask_mlp))
    with torch.no_grad():
        outputs = model(**golden.model_inputs, output_hidden_states=True)
        features = model.model(**golden.model_inputs)

    def compare(actual: torch.Tensor, name: str) -> None:
        assert_near(actual, golden.expected[name][golden.real], name=name)

    for stage, feature_map in enumerate(backbone[0][1].feature_maps):
        compare(feature_map, f"backbone_{stage}")
    compare(features.encoder_last_hidden_state, "memory")
    compare(features.generated_queries, "generated_query")
    for layer, hidden_state in enumerate(outputs.hidden_states[1:]):
        compare(hidden_state, f"decoder_out_{layer}")
    compare(mixer[0][0][0], "mask_feature_before_mixer")
    compare(features.mask_features, "mask_feature")
    compare(mask_mlp[0][0][0], "query_mask_in")
    compare(mask_mlp[0][1], "query_mask_mlp")
    compare(outputs.logits, "pred")


def test_the_first_deformable_attention_and_what_it_is_given(golden):
    """Positions, levels and the pixels that enter the encoder; and the attention on its own."""
    model = golden.load()
    attention = model.model.encoder.layers[0].self_attn
    calls = record(attention)
    with torch.no_grad():
        model(**golden.model_inputs)
    (pixels, positions, given_references, spatial_shapes), output = calls[0]
    expected = {name: golden.expected[f"deform_{name}"][golden.real] for name in ("query", "value_in", "out")}
    assert_near(pixels, expected["value_in"])
    assert_near(pixels + positions, expected["query"])
    references = golden.expected["deform_reference_points"][:1]
    assert_near(given_references, references)
    assert_near(output, expected["out"])
    with torch.no_grad():
        output = attention(expected["value_in"], expected["query"] - expected["value_in"], references, spatial_shapes)
    assert_near(output, expected["out"], 1e-6)


@pytest.mark.parametrize("position", ["after_mixer", "before_mixer"])
def test_mask_prompts(golden, position):
    if not golden.semantic:
        pytest.skip("the reference tensors for two labels have no prompt")
    model = golden.load(use_mask_prompt=True, mask_prompt_position=position)
    prompts = golden.inputs["stage1_mask"][golden.real]
    with torch.no_grad():
        logits = model(**golden.model_inputs, prompt_masks=prompts).logits
    frames = golden.real.nonzero()[:, 0].tolist()
    kept = [frames.index(frame) for frame in golden.meta["frames_kept_in_pred_ss"]]
    name = {"after_mixer": "pred_ss_post_mixer", "before_mixer": "pred_ss_pre_mixer"}[position]
    assert_near(logits[kept], golden.expected[name])


def test_losses(golden):
    golden.assert_losses()


def test_gradients(golden):
    gradients = golden.get_gradients()
    golden.assert_gradient_norms(gradients)
    full = [name for name in golden.expected if name.startswith("grad.")]
    assert len(full) == 5
    for name in full:
        original = name.removeprefix("grad.")
        (part,) = convert_avsegformer_parameter(original, golden.original[original])
        assert_near(gradients[part], golden.expected[name], GRADIENTS, name)


@pytest.mark.parametrize(
    ("keys", "dead"),
    [
        ("avsegformer_binary_pvt_v2_b5", {"head.fpn", "head.attn_fc"}),
        ("avsegformer_avss_pvt_v2_b5", {"head.fpn", "head.attn_fc"}),
        (
            "avsegformer_binary_resnet50",
            {"head.fpn", "head.attn_fc", "backbone.layer3_2", "backbone.layer4_2"},
        ),
        ("avsegformer_avss_resnet50", {"head.fpn", "head.attn_fc", "backbone.layer3_2", "backbone.layer4_2"}),
    ],
)
def test_full_size_checkpoints_map_one_to_one_but_for_what_is_dead(shared_dir, keys, dead):
    folder = shared_dir / "goldens" / "keys"
    shapes = json.loads((folder / f"{keys}.json").read_text())
    with torch.device("meta"):
        original = {name: torch.empty(shape) for name, shape in shapes.items()}
        state_dict = convert_state_dict(original, convert_avsegformer_parameter)
        config = infer_avsegformer_config(state_dict, {})
        model = AVSegFormerForAudioVisualSegmentation(config)
    assert {name: tensor.shape for name, tensor in state_dict.items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }
    dropped = {name: tensor for name, tensor in original.items() if not convert_avsegformer_parameter(name, tensor)}
    assert {".".join(name.split(".")[:2]) for name in dropped} == dead
    counted = [tensor.numel() for name, tensor in dropped.items() if name.endswith(("weight", "bias"))]
    # Queries and keys of the attention to the sound.
    rows = 2 * config.hidden_dim * config.hidden_dim * config.query_generator_layers
    num_parameters = json.loads((folder / f"{keys}.summary.json").read_text())["n_params"]
    assert model.num_parameters() == num_parameters - sum(counted) - rows

    assert config.num_labels == (71 if "avss" in keys else 2)
    assert config.audio_config.final_relu and config.audio_config.hidden_size == 4096
    # What the weights tell, and the rest, is what the defaults are.
    defaults = AVSegFormerConfig(num_labels=config.num_labels)
    own = AVSegFormerConfig.__annotations__.keys() - {"backbone_config", "audio_config"}
    assert {name: getattr(config, name) for name in own} == {name: getattr(defaults, name) for name in own}
    if "pvt" in keys:
        backbone = defaults.backbone_config
        assert {name: config.backbone_config.to_dict()[name] for name in backbone.to_dict()} == backbone.to_dict()
