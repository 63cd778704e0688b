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
from torch.testing import assert_close
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

from stepping_stones_hf import AAVSForAudioVisualSegmentation, VGGishConfig, VGGishModel, load_mask2former_weights
from stepping_stones_hf.cli import main
from stepping_stones_hf.models.aavs.convert_aavs_original import OUTPUT_PROJECTIONS, get_own_fields, rename_key

from .conftest import make_config


@pytest.fixture
def released(fixtures_dir, tmp_path) -> dict:
    """Files as a released second stage has them; tests damage the copies."""
    source = fixtures_dir / "aavs_stage2"
    files = {"config": tmp_path / "config.json", "checkpoint": tmp_path / "state_dict.safetensors"}
    for path in files.values():
        path.write_bytes((source / path.name).read_bytes())
    return files


def convert(files: dict, output, *more: str, stage: int = 2) -> int:
    arguments = ["convert", "--model", "aavs", "--stage", str(stage), "--output", str(output)]
    arguments += ["--checkpoint", str(files["checkpoint"]), "--config", str(files["config"]), *more]
    return main(arguments)


def test_a_pth_checkpoint_and_a_safetensors_one_give_the_same_model(released, tmp_path):
    assert convert(released, tmp_path / "a") == 0
    pth = tmp_path / "f_miou_best.pth"
    torch.save(load_file(released["checkpoint"]), pth)
    assert convert({**released, "checkpoint": pth}, tmp_path / "b") == 0
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "config.json",
        "model.safetensors",
        "processor_config.json",
    ]
    for name in ("config.json", "model.safetensors", "processor_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_second_stage_is_written_beside_the_localizer(released, tmp_path):
    assert convert(released, tmp_path / "repo" / "localizer") == 0
    assert convert(released, tmp_path / "repo") == 0
    names = sorted(path.name for path in (tmp_path / "repo").iterdir())
    assert names == ["config.json", "localizer", "model.safetensors", "processor_config.json"]
    AAVSForAudioVisualSegmentation.from_pretrained(tmp_path / "repo", subfolder="localizer")


def test_sizes_that_the_original_config_lacks_are_read_off_the_checkpoint(released, tmp_path):
    assert convert(released, tmp_path / "out") == 0
    config = AAVSForAudioVisualSegmentation.from_pretrained(tmp_path / "out").config
    assert (config.audio_embedding_dim, config.audio_projection_dim, config.adapter_reduction) == (128, 64, 4)
    assert (config.use_mask_prompt, config.apply_output_projection, config.audio_config) == (True, True, None)
    assert config.id2label[70] == "woman"


def test_with_vggish_the_model_hears_waveforms(released, tmp_path):
    torch.manual_seed(0)
    vggish = VGGishModel(VGGishConfig(conv_channels=[4, 8, 8, 8], hidden_size=16))
    # Back to torchvggish's names: features.{0,3,6,8,11,13}, embeddings.{0,2,4}
    convs = iter((0, 3, 6, 8, 11, 13))
    original = {}
    for stage in vggish.stages:
        for conv in stage.convs:
            index = next(convs)
            original |= {f"features.{index}.{name}": value for name, value in conv.state_dict().items()}
    for index, linear in ((0, vggish.fc1), (2, vggish.fc2), (4, vggish.projection)):
        original |= {f"embeddings.{index}.{name}": value for name, value in linear.state_dict().items()}
    torch.save(original, tmp_path / "vggish.pth")

    assert convert(released, tmp_path / "out", "--vggish", str(tmp_path / "vggish.pth")) == 0
    model = AAVSForAudioVisualSegmentation.from_pretrained(tmp_path / "out")
    patches = torch.randn(3, 96, 64)
    with torch.no_grad():
        assert_close(model.model.get_audio_embeddings(patches), vggish(patches).embeddings)


def test_unexpected_and_missing_keys_are_listed_and_nothing_is_written(released, tmp_path, capsys):
    state_dict = load_file(released["checkpoint"])
    state_dict["model.model.brand_new.weight"] = torch.zeros(2)
    state_dict["model.class_predictor.bias"] = torch.zeros(3)  # of another shape
    del state_dict["audio_proj.2.bias"]
    save_file(state_dict, released["checkpoint"])
    assert convert(released, tmp_path / "out") == 1
    lines = capsys.readouterr().err.splitlines()
    assert "unexpected: model.model.brand_new.weight" in lines
    assert "unexpected: model.class_predictor.bias" in lines
    assert "missing: class_predictor.bias" in lines
    assert "missing: model.audio_projector.linear_2.bias" in lines
    assert not (tmp_path / "out").exists()


def test_the_wrong_stage_is_noticed(released, tmp_path, capsys):
    # A second stage's tokens have no place in a first stage.
    assert convert(released, tmp_path / "out", stage=1) == 1
    assert "unexpected: model.model.transformer_module.audio_embed.weight" in capsys.readouterr().err


def test_bad_files_are_one_clear_line(released, tmp_path, capsys):
    missing = {**released, "checkpoint": tmp_path / "nowhere.pth"}
    assert convert(missing, tmp_path / "out") == 1
    assert "nowhere.pth" in capsys.readouterr().err

    pickled = tmp_path / "pickled.pth"
    torch.save({"model": released}, pickled)  # paths: nothing that weights_only admits
    assert convert({**released, "checkpoint": pickled}, tmp_path / "out") == 1
    assert "weights_only" in capsys.readouterr().err

    save_file({"conv.weight": torch.zeros(1)}, released["checkpoint"])
    assert convert(released, tmp_path / "out") == 1
    assert "is no AAVS checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config", "{", "config.json is no JSON"),
        ("config", "[]", "should hold a JSON object"),
        ("config", "{}", "has no backbone_config, id2label, label2id"),
        ("checkpoint", "cut off", "state_dict.safetensors cannot be read"),
    ],
)
def test_damaged_files_are_named(released, tmp_path, capsys, name, content, message):
    released[name].write_text(content)
    assert convert(released, tmp_path / "out") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_unsupported_original_config_is_refused(released, tmp_path, capsys):
    config = json.loads(released["config"].read_text())
    released["config"].write_text(json.dumps({**config, "pre_norm": True}))
    assert convert(released, tmp_path / "out") == 1
    assert "pre_norm=True" in capsys.readouterr().err


@pytest.fixture
def mask2former(tmp_path):
    """A Mask2Former as the Hub has them: another number of labels and of queries, legacy names on disk."""
    config = make_config(hidden_dim=32)
    own = get_own_fields(Mask2FormerConfig, config.to_dict())
    config = Mask2FormerConfig(
        **{**{name: getattr(config, name) for name in own}, "num_queries": 9, "num_labels": 150},
        backbone_config=config.backbone_config,
    )
    torch.manual_seed(3)
    model = Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():  # every weight unlike any initialization, so that a silently random one would show
        for parameter in model.parameters():
            parameter.normal_(mean=0.5)
    model.save_pretrained(tmp_path / "mask2former")
    return model, tmp_path / "mask2former"


def test_starting_from_mask2former_takes_every_weight_that_it_has(mask2former):
    source, folder = mask2former
    model = AAVSForAudioVisualSegmentation(make_config(hidden_dim=32, num_labels=71, use_mask_prompt=True)).eval()
    new = load_mask2former_weights(model, folder)

    state_dict, original = model.state_dict(), source.state_dict()
    new_modules = {name.split(".")[-3] if "adapter" in name else name.rsplit(".", 1)[0] for name in new}
    assert new_modules == {
        "adapter",
        "model.audio_projector.linear_1",
        "model.audio_projector.linear_2",
        "model.decoder.audio_query.queries_embedder",
        "model.decoder.audio_query.queries_features",
        "model.decoder.audio_aware_key.silence_embed",
        "model.decoder.audio_aware_key.uncertain_embed",
        "model.decoder.audio_aware_key.sounding_embed",
        "class_predictor",
        "criterion",
    }
    taken = {rename_key(key): value for key, value in original.items()}
    for name in state_dict.keys() - set(new):
        assert torch.equal(state_dict[name], taken[name]), name

    # The same function, not only the same numbers: with adapters that add nothing, the backbones agree.
    with torch.no_grad():
        for name, parameter in model.model.backbone.named_parameters():
            if ".adapter." in name:
                parameter.zero_()
        frames = torch.randn(2, 3, 64, 96)
        expected = source.model.pixel_level_module.encoder(frames).feature_maps
        for ours, theirs in zip(model.model.backbone(frames).feature_maps, expected):
            assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_same_number_of_queries_keeps_the_pretrained_ones(mask2former):
    source, folder = mask2former
    model = AAVSForAudioVisualSegmentation(make_config(hidden_dim=32, num_queries=9))
    assert not any("queries" in name for name in load_mask2former_weights(model, folder))
    queries = model.model.decoder.audio_query.queries_features.weight
    assert torch.equal(queries, source.model.transformer_module.queries_features.weight)


def test_a_first_stage_starts_from_mask2former_without_its_output_projections(mask2former):
    source, folder = mask2former
    model = AAVSForAudioVisualSegmentation(make_config(hidden_dim=32, num_labels=2, apply_output_projection=False))
    new = load_mask2former_weights(model, folder)
    assert not any(OUTPUT_PROJECTIONS.search(name) for name in model.state_dict())
    assert not any("sampling_offsets" in name or ".mlp.fc" in name for name in new)
    name = "encoder.layers.0.self_attn.value_proj.weight"
    theirs = source.model.pixel_level_module.decoder.get_parameter(name)
    assert torch.equal(model.model.pixel_decoder.get_parameter(name), theirs)


def test_a_mask2former_of_another_shape_is_refused(mask2former):
    _, folder = mask2former
    model = AAVSForAudioVisualSegmentation(make_config(hidden_dim=32, dim_feedforward=40))
    with pytest.raises(ValueError, match="does not fit this model: .*fc1"):
        load_mask2former_weights(model, folder)


def test_a_deeper_mask2former_is_refused(mask2former):
    _, folder = mask2former
    model = AAVSForAudioVisualSegmentation(make_config(hidden_dim=32, decoder_layers=3))
    with pytest.raises(ValueError, match="no place for, such as model.decoder.layers.2"):
        load_mask2former_weights(model, folder)


def test_weights_that_transformers_initialized_again_do_not_count_as_loaded(mask2former):
    _, folder = mask2former
    model = AAVSForAudioVisualSegmentation(make_config(hidden_dim=32, num_labels=71))
    new = load_mask2former_weights(model, folder, num_labels=71, ignore_mismatched_sizes=True)
    assert {"class_predictor.weight", "class_predictor.bias"} <= set(new)


def test_a_mask2former_without_its_backbone_is_refused(mask2former):
    _, folder = mask2former
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if ".layers.1.blocks.0." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="parameters are missing"):
        load_mask2former_weights(AAVSForAudioVisualSegmentation(make_config(hidden_dim=32)), folder)
