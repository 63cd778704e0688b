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
"""EASE against tensors computed by the released program (tolerances: several times that program's own noise)."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig
from transformers.models.dinov3_vit import modeling_dinov3_vit

from stepping_stones_hf import EASEForAudioVisualSegmentation, EASEImageProcessorPil
from stepping_stones_hf.cli import main
from stepping_stones_hf.models.conversion import convert_state_dict
from stepping_stones_hf.models.ease import modeling_ease
from stepping_stones_hf.models.ease.convert_ease_original import (
    convert_ease_parameter,
    infer_ease_config,
)


GOLDENS = ["ease_avss_vit", "ease_ms3_vit", "ease_avss_pvt"]

TENSORS, LOSSES, GRADIENTS = 1e-4, 1e-5, 1e-3

# Our names of what prompts the model, for the names of the reference tensors.
PROMPTS = {
    "fusion": {"mask_prompt_keys": False, "attention_mask_init": "origin"},
    "m0": {"mask_prompt_fusion": False, "mask_prompt_keys": False},
    "key_queries": {"mask_prompt_fusion": False, "attention_mask_init": "origin"},
    "key_all": {
        "mask_prompt_fusion": False,
        "attention_mask_init": "origin",
        "mask_prompt_key_rows": "all",
    },
    "all": {},
}


def assert_near(actual: torch.Tensor, expected: torch.Tensor, name: str = "", tolerance: float = TENSORS) -> None:
    assert actual.shape == expected.shape, name
    largest = expected.abs().max()
    assert (actual - expected).abs().max() <= tolerance * largest, (name, (actual - expected).abs().max() / largest)


class Golden:
    """A converted checkpoint, and the released program's inputs and outputs."""

    def __init__(self, folder: Path, output: Path):
        self.meta = json.loads((folder / "config.json").read_text())
        self.original = load_file(folder / "state_dict.safetensors")
        self.inputs = load_file(folder / "inputs.safetensors")
        self.expected = load_file(folder / "outputs.safetensors")
        self.is_pvt = self.meta["backbone"] == "pvt"
        self.fusion_blocks = self.meta["fusion_at_blocks"]
        heads = self.meta["pvt"]["num_heads"][:3] if self.is_pvt else self.meta["vit"]["num_attention_heads"]
        fields = {"backbone_config": {"num_attention_heads": heads}, "train_num_points": self.meta["num_points"]}
        output.mkdir()
        (output / "fields.json").write_text(json.dumps(fields))
        self.converted = output / "converted"
        arguments = ["--checkpoint", folder / "state_dict.safetensors", "--config", output / "fields.json"]
        arguments += ["--output", self.converted]
        assert main(["convert", "--model", "ease", *map(str, arguments)]) == 0

    def load(self, **fields) -> EASEForAudioVisualSegmentation:
        """In evaluation, with the released program's noise."""
        config = AutoConfig.from_pretrained(self.converted)
        assert config.fusion_blocks == self.fusion_blocks
        config.update({"evaluation_noise": True, "mask_feature_dropout": 0.0} | fields)
        if config.use_mask_prompt:
            config = type(config)(**{**config.to_dict(), **dict.fromkeys(UNSET), **fields})
        if not self.is_pvt:
            config.backbone_config.pos_embed_rescale = None
        model = EASEForAudioVisualSegmentation.from_pretrained(self.converted, config=config)
        if config.mask_prompt_keys:
            model.model.prompt_states.tokens.data.copy_(self.inputs["stepping.key_tokens"])
        return model

    @property
    def model_inputs(self) -> dict:
        frames = [image.permute(1, 2, 0).numpy() for image in self.inputs["images"]]
        pixel_values = EASEImageProcessorPil(do_resize=False)(frames, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixel_values, "audio_embeddings": self.inputs["audio"][:, 0]}

    def make_targets(self, frames: Iterable[int]) -> dict:
        """As the released program has them: of two classes, what sounds comes first."""
        targets = {"mask_labels": [], "class_labels": []}
        for frame in frames:
            label_map = self.inputs["label_maps"][frame]
            classes = label_map.unique().long()
            classes = classes[classes < self.meta["num_classes"]]
            if self.meta["task"] == "binary":
                classes = classes.flip(0)
            targets["mask_labels"].append((label_map == classes[:, None, None]).float())
            targets["class_labels"].append(classes)
        return targets

    @property
    def noise(self) -> list[torch.Tensor]:
        names = sorted(name for name in self.inputs if name.startswith("gumbel.visual."))
        return [self.inputs["gumbel.audio"], *(self.inputs[name] for name in names)]

    @property
    def num_joint_blocks(self) -> int:
        return self.meta["num_blocks"]

    def get_rows(self, kind: str | None = None) -> list[torch.Tensor]:
        """What is drawn for the queries of each joint block, and anything where it decides nothing."""
        shape = (len(self.inputs["images"]), self.meta["num_queries"])
        return [self.inputs.get(f"{kind}.rand.{block}", torch.zeros(shape)) for block in range(self.num_joint_blocks)]

    def get_points(self, kind: str) -> list[torch.Tensor]:
        """What the loss draws, prediction by prediction; here the last one comes first."""
        levels = [self.num_joint_blocks, *range(self.num_joint_blocks)]
        return [
            self.inputs[f"{kind}.rand.{draw}.{level}"]
            for level in levels
            for draw in ("matcher", "oversample", "uniform")
        ]


# Fields that follow from `use_mask_prompt`.
UNSET = ("mask_prompt_fusion", "mask_prompt_keys", "attention_mask_init")


@contextmanager
def draw(noise: list[torch.Tensor], uniform: list[torch.Tensor] = ()) -> Iterator[None]:
    """Takes what is random in a pass from the reference tensors."""
    noise, uniform = list(noise), list(uniform)

    def next_noise(logits: torch.Tensor) -> torch.Tensor:
        assert logits.shape == noise[0].shape
        return noise.pop(0)

    def next_uniform(*shape, **kwargs) -> torch.Tensor:
        shape = tuple(shape[0]) if len(shape) == 1 else shape
        assert shape == tuple(uniform[0].shape)
        return uniform.pop(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_ease, "draw_gumbel_noise", next_noise)
        patch.setattr(torch, "rand", next_uniform)
        yield
    assert not noise and not uniform


@pytest.fixture(scope="module", params=GOLDENS)
def golden(request, shared_dir, tmp_path_factory) -> Golden:
    return Golden(shared_dir / "goldens" / request.param, tmp_path_factory.mktemp(request.param) / "golden")


@torch.no_grad()
def predict(golden: Golden, model: EASEForAudioVisualSegmentation, rows=(), **inputs) -> list[dict]:
    """All predictions of the model, from the first to the last."""
    with draw(golden.noise, rows):
        outputs = model.model(**golden.model_inputs, **inputs)
    return [
        {"class_logits": model.class_predictor(states), "mask_logits": logits}
        for states, logits in zip(outputs.query_states, outputs.mask_logits)
    ]


def assert_predictions(golden: Golden, predictions: list[dict], kind: str) -> None:
    assert len(predictions) == golden.num_joint_blocks + 1
    for level, prediction in enumerate(predictions):
        for name, logits in prediction.items():
            assert_near(logits, golden.expected[f"{kind}.{name}.{level}"], f"{kind}.{name}.{level}")


def check_evaluation(golden: Golden) -> None:
    model = golden.load()
    with torch.no_grad(), draw(golden.noise):
        outputs = model(**golden.model_inputs)
    assert_near(outputs.masks_queries_logits, golden.expected["eval.mask_logits"])
    assert_near(outputs.class_queries_logits, golden.expected["eval.class_logits"])
    processor = EASEImageProcessorPil(label_size=dict(zip(("height", "width"), golden.meta["mask_size"])))
    results = processor.post_process_semantic_segmentation(outputs, return_segmentation_scores=True)
    scores = torch.stack([result.segmentation_scores for result in results])
    if "eval.scores" in golden.expected:  # too large to travel along
        assert_near(scores, golden.expected["eval.scores"])
    best = scores.topk(2, dim=1).values
    decided = best[:, 0] - best[:, 1] > 1e-4
    segmentation = torch.stack([result.segmentation for result in results])
    assert torch.equal(segmentation[decided], golden.expected["eval.segmentation"].long()[decided])
    assert decided.float().mean() > 0.99


def check_losses_and_gradients(golden: Golden) -> None:
    kinds = {"loss": slice(None), "loss_s4": slice(0, None, golden.meta["frames_per_clip"])}
    for kind in golden.meta["grad_norms"]:
        model = golden.load().train()
        frames = range(len(golden.inputs["images"]))[kinds[kind]]
        # Frames without an annotation pass through the model with the others, as in the released program.
        with draw(golden.noise, golden.get_rows()):
            outputs = model.model(**golden.model_inputs)
        predictions = [
            {"class_queries_logits": model.class_predictor(states)[kinds[kind]], "masks_queries_logits": logits}
            for states, logits in zip(outputs.query_states, (logits[kinds[kind]] for logits in outputs.mask_logits))
        ]
        with draw([], golden.get_points(kind)):
            losses = model.criterion(predictions, **golden.make_targets(frames))
        for name, value in losses.items():
            *term, level = name.rsplit("_", 1) if name[-1].isdigit() else (name, golden.num_joint_blocks)
            expected = golden.expected[f"{kind}.{term[0]}.{level}"] * model.criterion.weight_dict[term[0]]
            assert value.item() == pytest.approx(expected.item(), rel=LOSSES), name
        assert len(losses) == 3 * (golden.num_joint_blocks + 1)
        total = sum(losses.values())
        assert total.item() == pytest.approx(golden.expected[f"{kind}.total"].item(), rel=LOSSES)

        total.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        seen = set()
        for name, norm in golden.meta["grad_norms"][kind].items():
            parts = convert_ease_parameter(name, golden.original[name])
            seen |= parts.keys()
            if not parts:
                assert norm == pytest.approx(0, abs=1e-4)
                continue
            found = torch.stack([gradients[part].norm() for part in parts]).norm().item()
            assert found == pytest.approx(norm, rel=GRADIENTS, abs=1e-6), name
        assert seen == gradients.keys()
        if kind == "loss":
            full = [name for name in golden.expected if name.startswith("grad.")]
            assert full
            for name in full:
                original = name.removeprefix("grad.")
                parts = convert_ease_parameter(original, golden.original[original])
                gradient = torch.cat([gradients[part] for part in parts])
                assert_near(gradient, golden.expected[name], name, GRADIENTS)


def test_evaluation_and_training_of_the_reference_tensors_that_travel_along(fixtures_dir, tmp_path):
    golden = Golden(fixtures_dir / "ease_ms3_vit", tmp_path / "golden")
    check_evaluation(golden)
    check_losses_and_gradients(golden)


def test_scores_and_label_maps_of_evaluation(golden):
    check_evaluation(golden)


def test_intermediate_tensors_of_every_module(golden):
    model, seen = golden.load(), {}

    def record(name):
        return lambda module, args, output: seen.setdefault(name, []).append((args, output))

    modules = {
        "audio_proj": model.model.audio_enhancer.audio_proj,
        "audio_assignment": model.model.audio_enhancer.assignment,
        "enhancer": model.model.audio_enhancer,
        "fusion": model.model.fusion,
        "visual_assignment": model.model.fusion.assignment,
        "score": model.model.fusion.score,
        "query_generator": model.model.query_generator,
        "upscale_block": model.model.upscale_block,
    }
    for name, module in modules.items():
        module.register_forward_hook(record(name))
    for index, block in enumerate(model.model.backbone.blocks, start=model.config.first_block):
        block.register_forward_hook(record(f"block_in.{index}"))
    with torch.no_grad(), draw(golden.noise):
        model(**golden.model_inputs)

    expected = {name.removeprefix("eval."): value for name, value in golden.expected.items() if "eval." in name}
    assert_near(seen["audio_proj"][0][1][:, None], expected["audio_projected"])
    assert_near(seen["audio_assignment"][0][1], expected["audio_assignment"])
    assert_near(seen["enhancer"][0][1], expected["enhanced_audio"])
    assert_near(seen["query_generator"][0][1], expected["generated_queries"])
    assert_near(seen["upscale_block"][0][1], expected["mask_feature"])
    for index in range(model.config.first_block, model.config.num_hidden_layers):
        assert_near(seen[f"block_in.{index}"][0][0][0], expected[f"block_in.{index}"], f"block_in.{index}")
    assert len(seen["fusion"]) == len(golden.fusion_blocks) + 1
    for call, ((patches, _), output) in enumerate(seen["fusion"]):
        name = f"fusion.{call}"
        assert_near(patches, expected[f"{name}.visual_in"], name)
        assert_near(seen["visual_assignment"][call][1], expected[f"{name}.visual_assignment"], name)
        scores = seen["score"][call][1] + golden.original["network.fuser.fc.bias"]  # which has no effect
        assert_near(scores, expected[f"{name}.audio_score_logits"], name)
        assert_near(output, expected[f"{name}.visual_out"], name)


def test_without_noise_evaluation_is_deterministic(golden):
    model = golden.load(evaluation_noise=False)
    with torch.no_grad():
        outputs = model(**golden.model_inputs)
    assert_near(outputs.masks_queries_logits, golden.expected["nonoise.mask_logits"])
    assert_near(outputs.class_queries_logits, golden.expected["nonoise.class_logits"])


def test_predictions_of_training_and_the_masks_that_follow_from_them(golden):
    model, masks = golden.load().train(), []
    with pytest.MonkeyPatch.context() as patch:
        make_attention_mask = model.model.make_attention_mask
        patch.setattr(
            model.model,
            "make_attention_mask",
            lambda is_open, *args: masks.append(is_open) or make_attention_mask(is_open, *args),
        )
        assert_predictions(golden, predict(golden, model, golden.get_rows()), "masked")
        model.model.attn_mask_probs.copy_(torch.tensor(golden.meta["annealed_probs"]))
        assert_predictions(golden, predict(golden, model, golden.get_rows("annealed")), "annealed")
    assert len(masks) == 2 * golden.num_joint_blocks
    for index, is_open in enumerate(masks):
        kind, block = ("masked", "annealed")[index // golden.num_joint_blocks], index % golden.num_joint_blocks
        expected = golden.expected[f"{kind}.query_attends_patch.{block}"].bool()
        if kind == "annealed" and golden.meta["annealed_probs"][block] == 0:
            assert is_open.all()
        else:
            assert torch.equal(is_open, expected), (kind, block)


def test_training_scales_the_positions(golden, monkeypatch):
    if golden.is_pvt:
        pytest.skip("a PVT-v2 has no position embeddings")
    model = golden.load().train()
    factor = golden.inputs["train.rope_rescale"]
    monkeypatch.setattr(
        modeling_dinov3_vit, "augment_patches_center_coordinates", lambda coordinates, **kwargs: coordinates * factor
    )
    assert_predictions(golden, predict(golden, model, golden.get_rows()), "train")


def test_losses_and_gradients(golden):
    check_losses_and_gradients(golden)


def test_matches(golden):
    model = golden.load().train()
    for level, prediction in enumerate(predict(golden, model, golden.get_rows())):
        targets = golden.make_targets(range(len(golden.inputs["images"])))
        masks = torch.nn.utils.rnn.pad_sequence(targets["mask_labels"], batch_first=True)
        with draw([], [golden.inputs[f"loss.rand.matcher.{level}"]]):
            frames, queries, matched = model.criterion.match(
                prediction["mask_logits"], prediction["class_logits"], masks, targets["class_labels"]
            )
        for frame in range(len(masks)):
            found = torch.stack([queries, matched])[:, frames == frame]
            assert torch.equal(found, golden.expected[f"loss.match.{level}.{frame}"]), (level, frame)


@pytest.mark.parametrize("use", PROMPTS)
def test_prompts(golden, use):
    if f"stepping.{use}.mask_logits" not in golden.expected:
        pytest.skip("the reference tensors for the PVT-v2 have the prompt in the mask features alone")
    model = golden.load(use_mask_prompt=True, **PROMPTS[use])
    prediction = predict(golden, model, prompt_masks=golden.inputs["stage1_mask"])[-1]
    for name, logits in prediction.items():
        assert_near(logits, golden.expected[f"stepping.{use}.{name}"], name)


def test_prompts_in_training(golden):
    if golden.is_pvt:
        pytest.skip("the reference tensors for the PVT-v2 have no training with prompts")
    model = golden.load(use_mask_prompt=True, mask_prompt_keys=False).train()
    predictions = predict(golden, model, golden.get_rows(), prompt_masks=golden.inputs["stage1_mask"])
    assert_predictions(golden, predictions, "stepping.train")


@pytest.mark.parametrize(
    "keys",
    [
        "ease_avss_dinov3_vitb16_224",
        "ease_avss_dinov3_vitl16_384",
        "ease_avss_pvt_v2_b5_224",
        "ease_avss_pvt_v2_b5_384",
        "ease_binary_dinov3_vitb16_224",
    ],
)
def test_full_size_checkpoints_map_one_to_one_but_for_what_is_dead(shared_dir, keys):
    folder = shared_dir / "goldens" / "keys"
    shapes = json.loads((folder / f"{keys}.json").read_text())
    with torch.device("meta"):
        original = {name: torch.empty(shape) for name, shape in shapes.items()}
        state_dict = convert_state_dict(original, convert_ease_parameter)
        config = infer_ease_config(state_dict, {})
        model = EASEForAudioVisualSegmentation(config)
    assert {name: tensor.shape for name, tensor in state_dict.items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }
    dropped = {name for name, tensor in original.items() if not convert_ease_parameter(name, tensor)}
    assert dropped == {
        "network.audio_enhance.fusion_s2.weight",
        "network.fuser.fc.bias",
        "network.encoder.pixel_mean",
        "network.encoder.pixel_std",
    }
    summary = json.loads((folder / f"{keys}.summary.json").read_text())
    assert model.num_parameters() == summary["n_params"] - sum(summary["dead"].values()) - 1
    assert (config.num_labels, config.num_queries, config.num_joint_blocks, config.fusion_blocks) == (
        2 if "binary" in keys else 71,
        100 if "vit" in keys else {"224": 29, "384": 49}[keys[-3:]],
        4 if "vit" in keys else 6,
        [*range(8, 12)] if "vitb" in keys else [*range(20, 24)] if "vitl" in keys else [*range(42, 49)],
    )
    heads = {"vitb": 12, "vitl": 16, "pvt_": [1, 2, 5]}
    assert config.backbone_config.num_attention_heads == next(heads[name] for name in heads if name in keys)
