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
"""CAVP's own behavior; what every model has to do is in tests/models/test_modeling_common.py."""

import copy

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import ResNetConfig, ResNetForImageClassification

from stepping_stones_hf import CAVPForAudioVisualSegmentation, VGGishConfig
from stepping_stones_hf.models.backbones import DEEP_STEM_MODULES, build_dilated_resnet

from .conftest import BACKBONE, make_inputs, make_model, make_targets, make_tiny_model


TINY_VGGISH = {"conv_channels": [4, 4, 8, 8], "conv_depths": [1, 1, 1, 1], "hidden_size": 16}


def run(model, inputs, seed: int = 0, **kwargs):
    torch.manual_seed(seed)
    with torch.no_grad():
        return model(**inputs, **kwargs)


def make_hearing_model(**overrides) -> CAVPForAudioVisualSegmentation:
    fields = {"num_labels": 7, "audio_config": VGGishConfig(**TINY_VGGISH), "sound_bank_size": 2}
    return make_model(**{**fields, **overrides})


def make_sounds(model: CAVPForAudioVisualSegmentation, num_frames: int = 4) -> dict:
    """Frames of one class each, as a bank keeps them."""
    inputs = make_inputs(model, (num_frames,))
    del inputs["audio_embeddings"]
    generator = torch.Generator().manual_seed(3)
    inputs["input_features"] = torch.rand(num_frames, 96, 64, generator=generator)
    labels = torch.zeros(num_frames, 64, 96, dtype=torch.long)
    labels[:, :32] = torch.arange(1, num_frames + 1)[:, None, None]
    return {**inputs, "labels": labels}


class TestOtherSounds:
    def test_they_change_the_loss_and_not_the_logits_in_evaluation(self, tiny_model):
        inputs = make_inputs(tiny_model)
        targets = make_targets(tiny_model, inputs)
        plain, first, second = run(tiny_model, inputs), *(run(tiny_model, inputs, s, **targets) for s in (0, 1))
        assert_close(first.logits, plain.logits)
        assert first.loss_dict["loss_segmentation"] == second.loss_dict["loss_segmentation"]
        assert first.loss_dict["loss_contrastive"] != second.loss_dict["loss_contrastive"]
        assert run(tiny_model, inputs, 0, **targets).loss == first.loss

    def test_without_a_contrastive_loss_there_are_none(self):
        model = make_model(num_labels=7, contrastive_weight=0)
        inputs = make_inputs(model)
        expected = run(make_model(num_labels=7), inputs, **make_targets(model, inputs)).loss_dict
        model.hear_other_sounds = None
        found = run(model, inputs, **make_targets(model, inputs)).loss_dict
        assert list(found) == ["loss_segmentation"]
        assert_close(found["loss_segmentation"], expected["loss_segmentation"])

    def test_the_batch_norms_of_the_head_alone_see_them(self):
        model = make_model(num_labels=7).train()
        counts = {}

        def count(name: str):
            def hook(module, args):
                counts[name] = len(args[0])

            return hook

        for name in ("head.norm1", "model.decoder.aspp.output_norm", "model.backbone.embedder.embedder.normalization"):
            model.get_submodule(name).register_forward_pre_hook(count(name))
        inputs = make_inputs(model)
        run(model, inputs, **make_targets(model, inputs))
        assert list(counts.values()) == [7, 7, 14], counts

    def test_they_go_with_frames_of_the_same_classes(self, monkeypatch):
        """For a localizer by the classes that its labels do not tell."""
        model = make_tiny_model("localizer")
        inputs = make_inputs(model, (3,))
        labels = torch.ones(3, 64, 96, dtype=torch.long)
        labels[:, 32:] = 0
        seen = []
        monkeypatch.setattr(torch, "randperm", lambda size: torch.arange(size).roll(1))
        compare = model.criterion.compare_sounds
        monkeypatch.setattr(model.criterion, "compare_sounds", lambda *args: seen.append(args[3]) or compare(*args))
        run(model, inputs, labels=labels)
        image_labels = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 0, 1]])
        run(model, inputs, labels=labels, image_labels=image_labels)
        assert [matches.tolist() for matches in seen] == [[True] * 3, [False, True, False]]

    def test_prompts_reach_the_head_where_the_sound_goes_with_the_frame_and_the_contrastive_loss_nowhere(self):
        model = make_tiny_model("mask-prompted")
        inputs, entered = make_inputs(model, (3,)), []
        matches = torch.tensor([True, False, True])
        model.hear_other_sounds = lambda embeddings, features, classes: (embeddings.roll(1, 0), matches)
        model.head.register_forward_pre_hook(lambda module, args: entered.append(args[0]))
        losses = []
        for prompts in (inputs["prompt_masks"], torch.zeros_like(inputs["prompt_masks"])):
            outputs = run(model, {**inputs, "prompt_masks": prompts}, **make_targets(model, inputs))
            losses.append(outputs.loss_dict)
        added = entered[0] - entered[1]
        assert added[:3].abs().amin(dim=(1, 2, 3)).max() < added[:3].abs().amax() and (added[:3] != 0).any()
        assert_close(added[3:], added[:3] * matches[:, None, None, None])
        assert losses[0]["loss_contrastive"] == losses[1]["loss_contrastive"]
        assert losses[0]["loss_segmentation"] != losses[1]["loss_segmentation"]

    def test_a_batch_of_one_frame_does_not_train(self, tiny_model):
        inputs = make_inputs(tiny_model, (1,))
        assert run(tiny_model, inputs).logits.isfinite().all()
        with pytest.raises(ValueError, match="has 1 frame. In training CAVP takes at least 2"):
            tiny_model.train()(**inputs)


class TestSoundBank:
    def test_it_gives_sounds_after_its_warm_up_and_takes_them_in_training_alone(self):
        model = make_hearing_model(sound_bank_rate=1.0, sound_bank_warmup_steps=1)
        batch, heard = make_sounds(model), []
        run(model, batch)
        assert (model.sound_bank.sounds == -1).all()
        get_audio_embeddings = model.model.get_audio_embeddings
        model.model.get_audio_embeddings = lambda features: heard.append(features) or get_audio_embeddings(features)
        model.train()
        for seed in (1, 1, 1):
            run(model, batch, seed)
        # Own sounds in each step, and the bank's but in the first.
        assert [len(features) for features in heard[:2]] == [4, 4] and len(heard) == 5
        assert (heard[2] == -1).all()  # the oldest place is still silence
        # By the third step both places are filled, with the same sounds.
        drawn = [frame.tolist() for frame in heard[4]]
        own = [frame.tolist() for frame in batch["input_features"]]
        assert drawn and all(frame in own for frame in drawn)

    def test_it_is_saved_and_training_resumes_with_it(self, tmp_path):
        model = make_hearing_model()
        batch = make_sounds(model)
        run(model.train(), batch)
        model.save_pretrained(tmp_path)
        resumed = CAVPForAudioVisualSegmentation.from_pretrained(tmp_path).train()
        assert resumed.sound_bank.num_steps == 1
        assert torch.equal(resumed.sound_bank.sounds, model.sound_bank.sounds)
        assert (model.sound_bank.sounds[1:5, 1] == batch["input_features"]).all()
        assert_close(run(resumed, batch, 5).loss, run(model, batch, 5).loss)

    def test_a_model_that_was_saved_without_one_begins_with_silence(self, tmp_path):
        make_hearing_model(sound_bank_size=0).save_pretrained(tmp_path)
        loaded, info = CAVPForAudioVisualSegmentation.from_pretrained(
            tmp_path, sound_bank_size=2, output_loading_info=True
        )
        assert set(info["missing_keys"]) == {"sound_bank.sounds", "sound_bank.num_steps"}
        assert (loaded.sound_bank.sounds == -1).all() and loaded.sound_bank.num_steps == 0

    def test_embeddings_in_place_of_sounds_are_refused_in_training(self):
        model = make_hearing_model().train()
        batch = make_sounds(model)
        batch["audio_embeddings"] = torch.rand(len(batch.pop("input_features")), 128)
        with pytest.raises(ValueError, match="keeps sounds, not their embeddings: in training pass `input_features`"):
            model(**batch)
        assert run(model.eval(), batch).loss.isfinite()

    def test_gradients_go_through_its_sounds(self):
        model = make_hearing_model(sound_bank_rate=1.0).train()
        with torch.no_grad():
            model.sound_bank.sounds.uniform_()
        batch = make_sounds(model)
        gradients = []
        for rate in (0.0, 1.0):
            model.sound_bank.rate = rate
            copied = copy.deepcopy(model)
            torch.manual_seed(1)
            copied(**batch).loss.backward()
            gradients.append(copied.model.audio_encoder.projection.weight.grad)
        assert not torch.allclose(*gradients)


class TestBackbone:
    @pytest.fixture
    def config(self) -> ResNetConfig:
        return ResNetConfig(**{name: value for name, value in BACKBONE.items() if name != "model_type"})

    def test_it_keeps_stride_16_and_sees_as_far_as_its_dilations(self, config):
        backbone = build_dilated_resnet(config).eval()
        maps = backbone(torch.randn(1, 3, 128, 96)).feature_maps
        assert [tuple(feature_map.shape[2:]) for feature_map in maps] == [(32, 24), (8, 6)]
        convolutions = [layer.layer[1].convolution for layer in backbone.encoder.stages[-1].layers]
        assert [convolution.dilation for convolution in convolutions] == [(2, 2), (4, 4)]
        # The gradient of one pixel of the last stage reaches pixels 6 rows away, and no odd number of rows.
        hidden = torch.randn(1, 16, 20, 20, requires_grad=True)
        backbone.encoder.stages[-1](hidden)[0, :, 10, 10].sum().backward()
        rows = sorted({row - 10 for row in hidden.grad.abs().sum(dim=(0, 1, 3)).nonzero()[:, 0].tolist()})
        assert rows == [-6, -4, -2, 0, 2, 4, 6]

    def test_it_starts_from_a_resnet_with_a_deep_stem(self, config, tmp_path):
        model = make_tiny_model("localizer")
        modules = {name: index for index, name in DEEP_STEM_MODULES.items()}
        released = {}
        for name, value in build_dilated_resnet(config).state_dict().items():
            stem = next((stem for stem in modules if name.startswith(stem)), None)
            if stem is not None:
                name = f"conv1.{modules[stem]}.{name.removeprefix(stem)}"
            name = name.replace("embedder.embedder.normalization.", "bn1.")
            name = name.replace("encoder.stages.", "layer").replace(".layers.", ".")
            if name.startswith("layer"):
                name = f"layer{int(name[5]) + 1}{name[6:]}"
            for index in range(3):
                name = name.replace(f".layer.{index}.convolution.", f".conv{index + 1}.")
                name = name.replace(f".layer.{index}.normalization.", f".bn{index + 1}.")
            name = name.replace("shortcut.convolution.", "downsample.0.").replace("shortcut.norm", "downsample.1.norm")
            released[name.replace("downsample.1.normalization.", "downsample.1.")] = torch.randn_like(value.float())
        released |= {"fc.weight": torch.randn(10, 32), "fc.bias": torch.randn(10)}
        save_file(released, tmp_path / "resnet.safetensors")
        kept = model.load_backbone_weights(tmp_path / "resnet.safetensors")
        assert kept and not any("backbone" in name for name in kept)
        state_dict = model.model.backbone.state_dict()
        assert torch.equal(state_dict["embedder.layers.1.convolution.weight"], released["conv1.3.weight"])
        assert torch.equal(state_dict["embedder.embedder.normalization.bias"], released["bn1.bias"])
        name = "encoder.stages.3.layers.1.layer.1.convolution.weight"
        assert torch.equal(state_dict[name], released["layer4.1.conv2.weight"])

    def test_another_stem_is_refused(self, config, tmp_path):
        ResNetForImageClassification(config).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"does not fit the model's resnet backbone.*have another shape"):
            make_tiny_model("localizer").load_backbone_weights(tmp_path)


def test_gates_are_between_closed_and_open(tiny_model):
    inputs = make_inputs(tiny_model, (3,))
    (gates,) = run(tiny_model, inputs, output_attentions=True).attentions
    assert gates.shape == (3, 4, 16 * 24, 1)
    assert 0 < gates.min() < 0.5 < gates.max() < 1
