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
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from stepping_stones_hf.models.vggish import (
    VGGishConfig,
    VGGishFeatureExtractor,
    VGGishModel,
    convert_vggish_state_dict,
    load_vggish,
)


CONVOLUTIONS = [0, 3, 6, 8, 11, 13]
LINEARS = [0, 2, 4]


def original_weights(channels: list[int], hidden_size: int, embedding_dim: int) -> dict[str, torch.Tensor]:
    """Random weights under torchvggish's names, drawn in its order with torch's default initialization."""
    state_dict = {}
    sizes = [1, *channels]
    for index, conv_in, conv_out in zip(CONVOLUTIONS, sizes, sizes[1:]):
        layer = nn.Conv2d(conv_in, conv_out, kernel_size=3, padding=1)
        state_dict |= {f"features.{index}.{name}": tensor for name, tensor in layer.state_dict().items()}
    sizes = [channels[-1] * 6 * 4, hidden_size, hidden_size, embedding_dim]
    for index, size_in, size_out in zip(LINEARS, sizes, sizes[1:]):
        layer = nn.Linear(size_in, size_out)
        state_dict |= {f"embeddings.{index}.{name}": tensor for name, tensor in layer.state_dict().items()}
    return state_dict


@pytest.fixture
def small_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return original_weights([2, 3, 4, 4, 5, 5], hidden_size=8, embedding_dim=6)


@pytest.fixture(scope="module")
def full_weights(fixtures_dir) -> dict[str, torch.Tensor]:
    """The full-size weights (72 million) of the reference tensors: seed 1234, checked by their sums."""
    torch.manual_seed(1234)
    state_dict = original_weights([64, 128, 256, 256, 512, 512], hidden_size=4096, embedding_dim=128)
    fingerprints = json.loads((fixtures_dir / "vggish" / "weights.json").read_text())
    assert state_dict.keys() == fingerprints.keys()
    for name, fingerprint in fingerprints.items():
        assert list(state_dict[name].shape) == fingerprint["shape"], name
        assert state_dict[name].flatten()[:4].tolist() == fingerprint["first4"], name
        assert state_dict[name].double().sum().item() == pytest.approx(fingerprint["sum"], rel=1e-6), name
        assert state_dict[name].double().abs().sum().item() == pytest.approx(fingerprint["abs_sum"], rel=1e-6), name
    return state_dict


@pytest.fixture(scope="module", params=[False, True], ids=["without final ReLU", "with final ReLU"])
def full_model(full_weights, request) -> VGGishModel:
    with torch.device("meta"):
        model = VGGishModel(VGGishConfig(final_relu=request.param))
    model.load_state_dict(convert_vggish_state_dict(full_weights), assign=True)
    return model.eval()


@pytest.fixture(scope="module")
def reference(fixtures_dir):
    return load_file(fixtures_dir / "vggish" / "reference.safetensors")


def embeddings_key(model: VGGishModel) -> str:
    return "embedding_with_relu" if model.config.final_relu else "embedding_no_final_relu"


# Parity with tensors computed by the released program.


@torch.no_grad()
def test_embeddings_and_feature_maps_equal_the_original(full_model, reference):
    outputs = full_model(reference["mono16k_one.logmel"], output_hidden_states=True)
    expected = reference[f"mono16k_one.{embeddings_key(full_model)}"]
    # The embeddings of random weights are small (0.025 at most): a tolerance that would notice a single wrong layer.
    torch.testing.assert_close(outputs.embeddings, expected, atol=5e-6, rtol=1e-4)
    # Stored in half precision.
    feature_maps = reference["mono16k_one.conv_features_f16"].float()
    torch.testing.assert_close(outputs.hidden_states[-1], feature_maps, atol=1e-4, rtol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("name", ["mono16k_one", "test_wav", "stereo44k_5s", "mono16k_10s"])
def test_embeddings_and_feature_maps_equal_the_original_full_set(full_model, shared_dir, name):
    expected = load_file(shared_dir / "goldens" / "vggish" / "vggish_outputs.safetensors")
    outputs = full_model(expected[f"{name}.logmel"][:, 0], output_hidden_states=True)
    torch.testing.assert_close(
        outputs.embeddings, expected[f"{name}.{embeddings_key(full_model)}"], atol=5e-6, rtol=1e-4
    )
    feature_maps = outputs.hidden_states[-1]
    torch.testing.assert_close(feature_maps, expected[f"{name}.conv_features_f16"].float(), atol=1e-4, rtol=1e-3)
    flat = feature_maps.permute(0, 2, 3, 1).flatten(1)[:, :256]
    torch.testing.assert_close(flat, expected[f"{name}.flat_first256"], atol=5e-6, rtol=1e-4)


@torch.no_grad()
def test_embeddings_of_a_waveform_equal_the_original(full_model, reference):
    waveform = reference["mono16k_one.int16"]
    inputs = VGGishFeatureExtractor()(waveform, sampling_rate=16_000, return_tensors="pt")
    expected = reference[f"mono16k_one.{embeddings_key(full_model)}"]
    torch.testing.assert_close(full_model(**inputs).embeddings, expected, atol=5e-6, rtol=1e-4)


# The converter.


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("final_relu", [False, True])
def test_a_checkpoint_loads_with_its_own_sizes(small_weights, tmp_path, suffix, final_relu):
    path = tmp_path / f"vggish{suffix}"
    save = torch.save if suffix == ".pth" else save_file
    save(small_weights, path)
    model = load_vggish(path, final_relu=final_relu)

    assert model.config.conv_channels == [2, 3, 4, 5] and model.config.conv_depths == [1, 1, 2, 2]
    assert (model.config.hidden_size, model.config.embedding_dim) == (8, 6)
    assert model.config.final_relu is final_relu and not model.training
    for ours, original in {
        "stages.0.convs.0.weight": "features.0.weight",
        "stages.2.convs.1.weight": "features.8.weight",
        "stages.3.convs.1.bias": "features.13.bias",
        "fc1.weight": "embeddings.0.weight",
        "projection.bias": "embeddings.4.bias",
    }.items():
        assert torch.equal(model.state_dict()[ours], small_weights[original]), ours


def test_every_weight_gets_one_place(small_weights):
    converted = convert_vggish_state_dict(small_weights)
    assert sorted(map(id, converted.values())) == sorted(map(id, small_weights.values()))


def test_the_pca_post_processor_is_left_out(small_weights):
    with_pca = small_weights | {"pproc.pca_eigen_vectors": torch.eye(6), "pproc.pca_means": torch.zeros(6, 1)}
    assert convert_vggish_state_dict(with_pca).keys() == convert_vggish_state_dict(small_weights).keys()


def test_keys_without_a_place_and_missing_keys_are_listed(small_weights, tmp_path):
    del small_weights["features.13.bias"]
    small_weights["classifier.weight"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"no place.*\['classifier.weight'\].*missing: \['features.13.bias'\]"):
        convert_vggish_state_dict(small_weights)
    path = tmp_path / "vggish.safetensors"
    save_file(small_weights, path)
    with pytest.raises(ValueError, match=r"vggish\.safetensors.*'classifier.weight'"):
        load_vggish(path)


def test_weights_that_do_not_fit_together_are_listed_with_their_shapes(small_weights, tmp_path):
    small_weights["embeddings.2.weight"] = torch.zeros(8, 9)
    path = tmp_path / "vggish.safetensors"
    save_file(small_weights, path)
    with pytest.raises(ValueError, match=r"fc2\.weight \(8, 9\) \(should be \(8, 8\)\)"):
        load_vggish(path)


def test_a_missing_file_and_an_unknown_ending_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        load_vggish(tmp_path / "nowhere.pth")
    (tmp_path / "vggish.h5").touch()
    with pytest.raises(ValueError, match=r"vggish\.h5 cannot be read"):
        load_vggish(tmp_path / "vggish.h5")


def test_a_checkpoint_that_would_run_code_is_not_loaded(tmp_path):
    path = tmp_path / "vggish.pth"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(ValueError, match="admits nothing but tensors"):
        load_vggish(path)
