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
import math

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from stepping_stones_hf.models.vggish import VGGishConfig, VGGishFeatureExtractor, VGGishModel


def tiny_config(**kwargs) -> VGGishConfig:
    sizes = {"conv_channels": [4, 6, 8], "conv_depths": [1, 2, 1], "hidden_size": 16, "embedding_dim": 10}
    return VGGishConfig(**{**sizes, "patch_frames": 24, "num_mel_bins": 16, **kwargs})


@pytest.fixture
def model() -> VGGishModel:
    torch.manual_seed(0)
    return VGGishModel(tiny_config()).eval()


@pytest.fixture
def patches() -> torch.Tensor:
    return torch.randn(5, 24, 16, generator=torch.Generator().manual_seed(1))


# Configuration.


def test_the_default_sizes_are_those_of_the_released_model():
    with torch.device("meta"):
        model = VGGishModel(VGGishConfig())
    assert sum(parameter.numel() for parameter in model.parameters()) == 72_141_184
    assert not model.config.final_relu


def test_a_saved_configuration_comes_back_exactly(tmp_path):
    config = tiny_config(final_relu=True)
    config.save_pretrained(tmp_path)
    assert VGGishConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()
    assert VGGishConfig(conv_channels=(8, 8), conv_depths=(1, 1)) == VGGishConfig(
        conv_channels=[8, 8], conv_depths=[1, 1]
    )


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"patch_frames": 100}, "patch of 100 frames x 64 mel bins.*divisible by 16"),
        ({"num_mel_bins": 40}, "96 frames x 40 mel bins.*divisible by 16"),
        ({"conv_depths": [1, 1]}, "must have as many entries"),
        ({"hidden_size": "wide"}, "hidden_size"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(StrictDataclassError, match=message):
        VGGishConfig(**sizes)


# Forward pass.


def test_the_forward_pass_is_that_of_the_formula(model, patches):
    """Convolution, ReLU and pooling written out, with the features flattened as (time, frequency, channel)."""
    expected = patches[:, None]
    for stage in model.stages:
        for conv in stage.convs:
            expected = nn.functional.conv2d(expected, conv.weight, conv.bias, padding=1).clamp(min=0)
        expected = expected.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).amax(dim=(3, 5))
    assert expected.shape == (5, 8, 3, 2)
    flat = torch.stack(
        [expected[:, channel, time, bin_] for time in range(3) for bin_ in range(2) for channel in range(8)], dim=1
    )
    for layer in (model.fc1, model.fc2):
        flat = (flat @ layer.weight.T + layer.bias).clamp(min=0)
    expected = flat @ model.projection.weight.T + model.projection.bias
    torch.testing.assert_close(model(patches).embeddings, expected)


def test_final_relu_is_the_only_thing_its_field_changes(model, patches):
    with_relu = VGGishModel(tiny_config(final_relu=True)).eval()
    with_relu.load_state_dict(model.state_dict())
    embeddings = model(patches).embeddings
    assert embeddings.min() < 0
    assert torch.equal(with_relu(patches).embeddings, embeddings.clamp(min=0))


def test_a_patch_alone_equals_the_same_patch_in_a_batch(model, patches):
    one_by_one = torch.cat([model(patch[None]).embeddings for patch in patches])
    torch.testing.assert_close(one_by_one, model(patches).embeddings)
    assert model(patches[:0]).embeddings.shape == (0, 10)


def test_hidden_states_on_request_are_the_feature_maps(model, patches):
    assert model(patches).hidden_states is None
    outputs = model(patches, output_hidden_states=True)
    shapes = [tuple(hidden_state.shape) for hidden_state in outputs.hidden_states]
    assert shapes == [(5, 1, 24, 16), (5, 4, 12, 8), (5, 6, 6, 4), (5, 8, 3, 2)]
    (embeddings, hidden_states) = model(patches, output_hidden_states=True, return_dict=False)
    assert torch.equal(embeddings, outputs.embeddings) and len(hidden_states) == 4


def test_patches_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match=r"shape \(num_patches, 24, 16\), but has shape \(5, 16, 24\)"):
        model(torch.zeros(5, 16, 24))
    with pytest.raises(ValueError, match=r"but has shape \(5, 1, 24, 16\)"):
        model(torch.zeros(5, 1, 24, 16))


def test_the_default_configuration_takes_what_the_feature_extractor_gives():
    model = VGGishModel(VGGishConfig(conv_channels=[2, 2, 2, 2], hidden_size=4, embedding_dim=3))
    inputs = VGGishFeatureExtractor()(np.zeros(32_000), sampling_rate=16_000, return_tensors="pt")
    assert model(**inputs).embeddings.shape == (2, 3)


def test_compiles_without_a_graph_break(model, patches):
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(patches).embeddings, model(patches).embeddings)


def test_bfloat16_is_close_to_float32(model, patches):
    expected = model(patches).embeddings
    embeddings = model.to(torch.bfloat16)(patches.bfloat16()).embeddings
    assert embeddings.dtype == torch.bfloat16
    torch.testing.assert_close(embeddings.float(), expected, atol=0.05 * expected.std().item(), rtol=0.05)


# Training.


def test_the_gradient_reaches_the_input_and_every_parameter(model, patches):
    patches.requires_grad_()
    model(patches).embeddings.square().sum().backward()
    for name, gradient in {"input": patches.grad, **{n: p.grad for n, p in model.named_parameters()}}.items():
        assert gradient is not None and gradient.abs().sum() > 0, name


def test_gradient_checkpointing_changes_no_gradient(model, patches):
    def gradients():
        model.zero_grad()
        model(patches).embeddings.square().sum().backward()
        return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    model.train()
    expected = gradients()
    model.gradient_checkpointing_enable()
    assert all(stage.gradient_checkpointing for stage in model.stages)
    torch.testing.assert_close(gradients(), expected)


def test_weights_start_with_the_variance_that_relus_need():
    torch.manual_seed(0)
    model = VGGishModel(VGGishConfig(conv_channels=[32, 48, 64, 64], hidden_size=256))
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.1), name
            assert not module.bias.any(), name


def test_a_small_model_from_random_weights_learns_to_tell_tones_apart():
    rng = np.random.default_rng(0)
    time = np.arange(16_000) / 16_000
    labels = torch.arange(16) % 4
    tones = [np.sin(2 * np.pi * 220 * 2**label * time) for label in labels.tolist()]
    clips = [tone * rng.uniform(0.05, 0.5) + rng.normal(0, 0.01, 16_000) for tone in tones]
    features = VGGishFeatureExtractor()(clips, sampling_rate=16_000, return_tensors="pt")["input_features"]

    torch.manual_seed(0)
    model = VGGishModel(VGGishConfig(conv_channels=[4, 8, 8, 8], hidden_size=32, embedding_dim=4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(features).embeddings, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (model(features).embeddings.argmax(1) == labels).all()


# Saving and loading.


def test_a_saved_model_comes_back_exactly(model, patches, tmp_path):
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded, info = VGGishModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert torch.equal(loaded(patches).embeddings, model(patches).embeddings)


def test_weights_that_a_checkpoint_lacks_are_initialized_and_the_others_kept(model, tmp_path):
    state_dict = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("projection")}
    model.save_pretrained(tmp_path, state_dict=state_dict)
    torch.manual_seed(0)
    loaded = VGGishModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.fc2.weight, model.fc2.weight)
    assert loaded.projection.weight.std().item() == pytest.approx(math.sqrt(2 / 16), rel=0.2)
    assert not loaded.projection.bias.any()


def test_nothing_but_the_state_dict_decides_the_output(model, patches):
    other = VGGishModel(tiny_config()).eval()
    assert not torch.equal(other(patches).embeddings, model(patches).embeddings)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(patches).embeddings, model(patches).embeddings)
    assert torch.equal(model(patches).embeddings, model(patches).embeddings)
