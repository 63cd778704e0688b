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
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from stepping_stones_hf import CAVPFeatureExtractor, CAVPForAudioVisualSegmentation
from stepping_stones_hf.models.cavp.convert_cavp_original import (
    convert_cavp_checkpoint,
    convert_cavp_parameter,
    infer_cavp_config,
)
from stepping_stones_hf.models.cavp.feature_extraction_cavp import crop_as_released
from stepping_stones_hf.models.cavp.loss_cavp import compute_contrastive_loss, sample_pixels
from stepping_stones_hf.models.cavp.sounds_cavp import CAVPSoundBank, shuffle_sounds
from stepping_stones_hf.models.conversion import convert_state_dict


GOLDENS = ["cavp_avss_resnet", "cavp_binary_resnet"]

# Absolute, but for the norms of gradients.
EVALUATION, TRAINING, LOSSES, NORMS = 2e-4, 5e-4, 1e-4, 2e-3


def assert_near(actual: torch.Tensor, expected: torch.Tensor, tolerance: float, name: str = "") -> None:
    assert_close(actual, expected, atol=tolerance, rtol=0, msg=lambda message: f"{name}: {message}")


def normalize(frames: torch.Tensor) -> torch.Tensor:
    """Frames `(frames, 3, height, width)`, uint8, as the model sees them."""
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    return (frames.float() / 255 - mean) / std


def to_tokens(maps: torch.Tensor) -> torch.Tensor:
    return maps.flatten(2).mT


class Golden:
    """A converted checkpoint as a user loads it, and the released program's inputs and outputs."""

    def __init__(self, folder: Path, output: Path):
        self.meta = json.loads((folder / "config.json").read_text())
        self.original = load_file(folder / "state_dict.safetensors")
        self.inputs = load_file(folder / "inputs.safetensors")
        self.expected = load_file(folder / "outputs.safetensors")
        self.inputs["pixel_values"] = normalize(self.inputs["frames"])
        output.mkdir()
        fields = {"contrastive_max_views": self.meta["contrastive"]["max_views"]}
        (output / "fields.json").write_text(json.dumps(fields))
        self.converted = output / "converted"
        conversion = convert_cavp_checkpoint(folder / "state_dict.safetensors", self.converted, output / "fields.json")
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
        loss = model.train()(**self.model_inputs, labels=self.inputs["pixel_label"].long())
        return loss, outputs

    def assert_gradient_norms(self, model: CAVPForAudioVisualSegmentation) -> None:
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        norms = self.meta["grad_norms"]["image_trainer"]
        assert {name for name, norm in norms.items() if norm is None} == set(self.meta["params_without_grad"])
        parameters = set()
        for name, norm in norms.items():
            if norm is None:
                continue
            (part,) = convert_cavp_parameter(name, self.original[name])
            parameters.add(part)
            # Of some parameters before a batch norm nothing but noise is left.
            assert gradients[part].norm().item() == pytest.approx(norm, rel=NORMS, abs=1e-5), name
        assert parameters == gradients.keys()


@pytest.fixture(scope="module", params=GOLDENS)
def golden(request, shared_dir, tmp_path_factory) -> Golden:
    return Golden(shared_dir / "goldens" / request.param, tmp_path_factory.mktemp(request.param) / "golden")


def test_logits_losses_and_gradients_of_the_reference_tensors_that_travel_along(fixtures_dir, tmp_path):
    golden = Golden(fixtures_dir / "cavp_avss_resnet", tmp_path / "golden")
    model, low = golden.load(), []
    model.head.register_forward_hook(lambda module, args, output: low.append(output))
    with torch.no_grad():
        logits = model(**golden.model_inputs).logits
    assert_near(low[0], golden.expected["eval.logits_low"], EVALUATION)
    assert torch.equal(logits.argmax(dim=1).to(torch.uint8), golden.expected["eval.argmax"])
    model = golden.load()
    outputs, _ = golden.run_training(model)
    losses, scalars = outputs.loss_dict, golden.meta["scalars"]
    assert losses["loss_segmentation"].item() == pytest.approx(scalars["loss.ce"], abs=LOSSES)
    assert losses["loss_contrastive"].item() == pytest.approx(scalars["loss.contrastive"], abs=LOSSES)
    outputs.loss.backward()
    golden.assert_gradient_norms(model)


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
    golden.assert_gradient_norms(model)
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    full = [name for name in golden.expected if name.startswith("grad.image_trainer.")]
    assert len(full) == 13
    for name in full:
        original = name.removeprefix("grad.image_trainer.")
        (part,) = convert_cavp_parameter(original, golden.original[original])
        expected = golden.expected[name]
        assert_near(gradients[part], expected, NORMS * expected.abs().max().item(), name)


# Parts of the released program's optimizer, in the order in which the two main scripts list them.
PARTS = {
    "aspp": ("model.decoder.aspp.",),
    "reduce": ("model.decoder.low_level_",),
    "last_conv": ("head.conv", "head.norm"),
    "classifier": ("head.classifier.",),
    "backbone": ("model.backbone.",),
    "projector": ("model.fusion.visual_projector.",),
    "cross_att": ("model.fusion.",),
}
HEAD, BODY = ["aspp", "reduce", "last_conv", "classifier"], ["backbone", "projector", "cross_att"]
ORDERS = {"resize_main": HEAD + BODY, "semantic_main": BODY + HEAD}


class TrainingGolden:
    """Six optimization steps of the released program, with its sound bank."""

    def __init__(self, folder: Path, run: str):
        meta = json.loads((folder / "config.json").read_text())
        self.meta, self.run = meta, meta["runs"][run]
        self.order = ORDERS[run]
        self.original = load_file(folder / "state_dict.safetensors")
        self.inputs = load_file(folder / "inputs.safetensors")
        expected = load_file(folder / "outputs.safetensors")
        prefix = f"{run}."
        self.expected = {name.removeprefix(prefix): expected[name] for name in expected if name.startswith(prefix)}
        fields = {
            "contrastive_max_views": meta["max_views"],
            "sound_bank_size": meta["bank_slots_per_class"],
            "sound_bank_rate": meta["ow_rate"],
            "sound_bank_warmup_steps": meta["iterations_per_epoch"],
        }
        config = infer_cavp_config(convert_state_dict(self.original, convert_cavp_parameter), fields)
        self.model = CAVPForAudioVisualSegmentation(config).train()
        info = self.model.load_state_dict(convert_state_dict(self.original, convert_cavp_parameter), strict=False)
        assert info.missing_keys == ["sound_bank.sounds", "sound_bank.num_steps"] and not info.unexpected_keys

    def make_batch(self, step: int, compute_log_mel=None) -> dict:
        batch_size = self.meta["B"]
        clips = torch.arange(batch_size)
        frames = torch.tensor(self.run["frame_choices"][step * batch_size : (step + 1) * batch_size])
        waveforms = self.inputs["waveform_int16"].unflatten(1, (-1, 16_000))[clips, frames]
        if compute_log_mel is not None:
            features = compute_log_mel(waveforms)
        else:
            features = CAVPFeatureExtractor()([*waveforms], sampling_rate=16_000, return_tensors="pt")[
                "input_features"
            ]
        return {
            "pixel_values": normalize(self.inputs["frames"][clips, frames]),
            "input_features": features,
            "labels": self.inputs["pixel_label"][clips, frames].long(),
        }

    def find_part(self, name: str) -> str:
        return next(part for part, prefixes in PARTS.items() if name.startswith(prefixes))


@pytest.fixture(params=["resize_main", "semantic_main"])
def training(request, shared_dir) -> TrainingGolden:
    return TrainingGolden(shared_dir / "goldens" / "cavp_train", request.param)


def compute_log_mel_with_torchaudio(waveforms: torch.Tensor) -> torch.Tensor:
    """The released program's own front end, single precision included."""
    from torchaudio.transforms import MelSpectrogram

    power = MelSpectrogram(16_000, n_fft=512, win_length=400, hop_length=160, n_mels=64, f_min=125, f_max=3800)
    mel = power(waveforms.float() / 2**15).mT[:, :96]
    return 20 * mel.clamp(min=1e-5).log10() / 100


def test_six_steps_with_the_sound_bank(training, monkeypatch):
    """Losses, random draws and updates; in the second run with the released program's rates in the wrong order."""
    # The second run, whose backbone learns ten times too fast, makes 0.01 in the loss of the 3e-5 by which quiet mel
    # bins differ from torchaudio's, and as much of another order of summation: there neither is to differ.
    is_sensitive = training.order[0] == "backbone"
    dtype = torch.float64 if is_sensitive else torch.float32
    model, rates = training.model.to(dtype), training.run["lr_used_at_step"]
    groups, positions = {}, {}
    for name, parameter in model.named_parameters():
        if name.startswith("model.audio_encoder."):
            continue
        part = training.find_part(name)
        splits = part not in ("projector", "cross_att")
        groups.setdefault((part, splits and parameter.ndim == 1), []).append(parameter)
    for part in training.order:
        for key in ((part, False), (part, True)):
            if key in groups:
                positions[key] = len(positions)
    assert len(positions) == len(rates[0])
    optimizer = torch.optim.SGD(
        [{"params": groups[key], "weight_decay": 0 if key[1] else training.meta["weight_decay"]} for key in positions],
        lr=training.meta["lr"],
        momentum=training.meta["momentum"],
    )
    audio_optimizer = torch.optim.Adam(model.model.audio_encoder.parameters(), lr=training.meta["lr"])

    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn, randperm = [], torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda size: drawn.append(randperm(size)) or drawn[-1])
    torch.manual_seed(training.meta["torch_seed"])
    for step, expected in enumerate(training.run["steps"]):
        batch = training.make_batch(step, compute_log_mel_with_torchaudio if is_sensitive else None)
        batch |= {name: batch[name].to(dtype) for name in ("pixel_values", "input_features")}
        outputs = model(**batch)
        assert outputs.loss_dict["loss_segmentation"].item() == pytest.approx(expected["loss/cross_entropy"], abs=2e-3)
        assert outputs.loss_dict["loss_contrastive"].item() == pytest.approx(expected["loss/l_ctr_av"], abs=2e-3)
        for group, rate in zip(optimizer.param_groups, rates[step]):
            group["lr"] = rate
        optimizer.zero_grad()
        audio_optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
        audio_optimizer.step()

    assert len(drawn) == training.run["n_permutations"]
    for index, permutation in enumerate(drawn):
        assert torch.equal(permutation, training.expected[f"permutation_{index:02}"].long()), index
    after = model.state_dict()
    for name, norm in training.run["update_norms"].items():
        converted = convert_cavp_parameter(name, training.original[name])
        for part in converted:
            update = (after[part].float() - before[part].float()).norm().item()
            assert update == pytest.approx(norm, rel=1e-2, abs=1e-6), name
    for name in training.expected:
        if not name.startswith("after."):
            continue
        original = name.removeprefix("after.")
        for part in convert_cavp_parameter(original, training.original[original]):
            assert_near(after[part].float(), training.expected[name], 1e-4, name)

    filled = {(slot["class_"], slot["slot"]) for slot in training.run["bank_filled_slots"]}
    is_filled = (after["sound_bank.sounds"] != -1).any(dim=(2, 3))
    assert {tuple(place) for place in is_filled.nonzero().tolist()} == filled


def test_groups_of_the_optimizer_have_the_released_rates(training):
    """Those of the script whose order is the one that was meant."""
    model = training.model
    rates = dict(zip(HEAD, [10] * 4)) | dict(zip(BODY, [1] * 3))
    groups = model.get_parameter_groups(0.5)
    found = {parameter: group for group in groups for parameter in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups) == len([*model.parameters()])
    for name, parameter in model.named_parameters():
        hears = name.startswith("model.audio_encoder.")
        rate = 1 if hears else rates[training.find_part(name)]
        decays = not hears and (name.startswith("model.fusion.") or parameter.ndim > 1)
        assert found[parameter]["lr"] == 0.5 * rate, name
        assert found[parameter].get("weight_decay") == (None if decays else 0.0), name
    # What the released program has another optimizer for.
    assert set(groups[-1]["params"]) == set(model.model.audio_encoder.parameters())
    model.freeze_audio_encoder()
    frozen = model.get_parameter_groups(0.5)
    assert [group["params"] for group in frozen] == [group["params"] for group in groups[:-1]]


class UnitGolden:
    def __init__(self, folder: Path):
        self.meta = json.loads((folder / "config.json").read_text())
        self.inputs = load_file(folder / "inputs.safetensors")
        self.expected = load_file(folder / "outputs.safetensors")


@pytest.fixture(scope="module")
def units(shared_dir) -> UnitGolden:
    return UnitGolden(shared_dir / "goldens" / "cavp_units")


def test_log_mel_patches(units):
    extractor = CAVPFeatureExtractor()

    def extract(waveforms: torch.Tensor, num_patches: int = 1) -> torch.Tensor:
        features = extractor([*waveforms], sampling_rate=16_000, num_patches=num_patches, return_tensors="pt")
        return features["input_features"][:, None]

    waveforms, expected = units.inputs, units.expected
    assert_near(extract(waveforms["logmel.waveform"]), expected["logmel.features"], 1e-4)
    assert_near(extract(waveforms["logmel.stereo"][None]), expected["logmel.stereo_mono_features"], 1e-4)
    # What comes after the first second changes nothing.
    assert_near(extract(waveforms["logmel.two_seconds"]), expected["logmel.two_seconds_features"], 1e-4)


def test_the_released_crop(units):
    rate, lengths = units.meta["crop"]["sampling_rate"], units.meta["crop"]["lengths"]
    assert len(lengths) == 9
    for length in lengths:
        expected = units.expected[f"crop.index_{length}"].long()
        assert torch.equal(crop_as_released(torch.arange(length), rate), expected), length


def test_contrastive_losses_draws_and_gradients(units):
    for case, meta in units.meta["contrastive"].items():
        inputs = {
            name: units.inputs[f"contrastive.{case}.{name}"]
            for name in ("matched", "shuffled", "label_matched", "label_shuffled")
        }
        features = [inputs[name].requires_grad_() for name in ("matched", "shuffled")]
        size = features[0].shape[-2:]
        labels = [
            torch.nn.functional.interpolate(inputs[name][:, None].float(), size)[:, 0].long()
            for name in ("label_matched", "label_shuffled")
        ]
        torch.manual_seed(meta["seed"])
        samples, sample_labels = sample_pixels(*features, *labels, meta["max_views"])
        assert len(samples) == meta["anchors"], case
        if not len(samples):
            assert meta["loss"] == 0
            continue
        assert torch.equal(sample_labels, units.expected[f"contrastive.{case}.labels"].long()), case
        loss = compute_contrastive_loss(
            torch.nn.functional.normalize(samples, dim=1), sample_labels, meta["temperature"]
        )
        assert loss.item() == pytest.approx(meta["loss"], abs=1e-5), case
        loss.backward()
        for name, feature in zip(("matched", "shuffled"), features):
            assert_near(feature.grad, units.expected[f"contrastive.{case}.grad_{name}"], 1e-6, case)


def test_the_sound_bank_round_by_round(units):
    meta = units.meta["bank"]

    class Config:
        num_labels, sound_bank_size, sound_bank_rate = meta["num_classes"], meta["slots"], meta["ow_rate"]
        sound_bank_warmup_steps = 1  # the first round is the first epoch

        class audio_config:  # noqa: N801
            patch_frames, num_mel_bins = 1, meta["length"]

    bank = CAVPSoundBank(Config)
    bank.sounds.zero_()
    for index, round_meta in enumerate(meta["rounds"]):
        prefix = f"bank.round{index}"
        sounds, classes = units.inputs[f"{prefix}.waveform"], units.inputs[f"{prefix}.image_label"].bool()
        torch.manual_seed(round_meta["seed"])
        order, matches = shuffle_sounds(classes)
        assert torch.equal(order, units.inputs[f"{prefix}.permutation_0"])
        assert torch.equal(matches, units.expected[f"{prefix}.if_match_before"])
        frames, replacements = bank.draw(classes, matches)
        assert set(frames.tolist()) == {int(frame) for frame in round_meta["replaced"]}
        others = sounds[order].index_copy(0, frames, replacements)
        assert_close(others, units.expected[f"{prefix}.shuffle_waveform"])
        assert torch.equal(matches.index_fill(0, frames, True), units.expected[f"{prefix}.if_match"])
        bank.add(sounds, classes)
        assert_close(bank.sounds[:, :, 0], units.expected[f"{prefix}.bank_after"])


@pytest.mark.parametrize("keys", ["cavp_avss_resnet50", "cavp_binary_resnet50"])
def test_full_size_checkpoints_map_one_to_one_but_for_what_is_dead(shared_dir, keys):
    folder = shared_dir / "goldens" / "keys"
    shapes = json.loads((folder / f"{keys}.json").read_text())
    summary = json.loads((folder / f"{keys}.summary.json").read_text())
    with torch.device("meta"):
        original = {f"module.{name}": torch.empty(shape) for name, shape in shapes.items()}
        state_dict = convert_state_dict(original, convert_cavp_parameter)
        config = infer_cavp_config(state_dict, {})
        model = CAVPForAudioVisualSegmentation(config)
    assert {name: tensor.shape for name, tensor in state_dict.items()} == {
        name: tensor.shape for name, tensor in model.state_dict().items()
    }
    dropped = {name: tensor for name, tensor in original.items() if not convert_cavp_parameter(name, tensor)}
    assert sorted(name.removeprefix("module.") for name in dropped) == [
        "audio_backbone.cls_head.bias",
        "audio_backbone.cls_head.weight",
        "cross_att.pos_embed_a",
        "cross_att.pos_embed_v",
    ]
    assert sum(tensor.numel() for tensor in dropped.values()) == summary["dead_params"]
    assert model.num_parameters() == summary["n_params"] - summary["dead_params"]
    # Nothing differs from the config's defaults but the labels.
    defaults = {name: getattr(config, name) for name in ("id2label", "label2id", "audio_config")}
    assert config.to_diff_dict() == type(config)(**defaults).to_diff_dict()
