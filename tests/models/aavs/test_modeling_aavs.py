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
"""What transformers' common model tests ask of a model, asked of AAVS."""

import re

import pytest
import torch
from safetensors import safe_open
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoModelForUniversalSegmentation
from transformers.models.swin.modeling_swin import SwinAttention

from stepping_stones_hf import AAVSConfig, AAVSForAudioVisualSegmentation, AAVSModel
from stepping_stones_hf.models.aavs import modeling_aavs
from stepping_stones_hf.models.aavs.modeling_aavs import AAVSSwinAttention, AAVSSwinBackbone

from .conftest import make_config, make_inputs, make_labels, make_tiny_model


def run(model, inputs, **kwargs):
    with torch.no_grad():
        return model(**inputs, **kwargs)


def test_output_shapes_and_auxiliary_logits(tiny_model):
    config = tiny_model.config
    outputs = run(tiny_model, make_inputs(tiny_model))
    assert outputs.class_queries_logits.shape == (3, config.num_queries, config.num_labels + 1)
    assert outputs.masks_queries_logits.shape == (3, config.num_queries, 16, 24)
    assert outputs.loss is None and outputs.auxiliary_logits is None
    outputs = run(tiny_model, make_inputs(tiny_model), output_auxiliary_logits=True)
    assert len(outputs.auxiliary_logits) == config.decoder_layers - 1


@pytest.mark.parametrize(("height", "width"), [(64, 64), (75, 100), (33, 130), (96, 40)])
def test_any_frame_size(tiny_model, height, width):
    outputs = run(tiny_model, make_inputs(tiny_model, height=height, width=width))
    assert outputs.masks_queries_logits.shape[-2:] == (-(-height // 4), -(-width // 4))
    assert outputs.masks_queries_logits.isfinite().all()


@pytest.mark.parametrize(
    "overrides",
    [
        {"hidden_dim": 32, "feature_size": 32, "encoder_layers": 2},
        {"feature_size": 64, "hidden_dim": 8, "mask_feature_size": 40, "encoder_layers": 2},
        {"decoder_layers": 1},
        {"decoder_layers": 8, "num_queries": 1},
        {"adapter_reduction": 8, "audio_embedding_dim": 20},
    ],
    ids=["one width", "three widths", "no decoder layer", "more layers than levels", "other adapters"],
)
def test_shapes_other_than_the_released_ones(tiny_config, overrides):
    torch.manual_seed(0)
    model = AAVSForAudioVisualSegmentation(tiny_config(num_labels=4, use_mask_prompt=True, **overrides)).eval()
    inputs = make_inputs(model)
    inputs["audio_embeddings"] = torch.randn(3, model.config.audio_embedding_dim)
    outputs = model(**inputs, **make_labels(4))
    outputs.loss.backward()
    assert outputs.loss.isfinite()
    assert outputs.class_queries_logits.shape == (3, model.config.num_queries, 5)


def test_sound_reaches_a_query_in_proportion_to_its_similarity_or_equally(tiny_config):
    audio = torch.randn(2, 16)
    for audio_query in ("adaptive", "shared"):
        model = AAVSModel(tiny_config(audio_query=audio_query))
        queries = model.decoder.audio_query
        added = queries(audio) - queries.queries_features.weight
        prototypes = queries.queries_embedder.weight
        expected = audio[:, None].expand(-1, 5, -1)
        if audio_query == "adaptive":
            cosine = prototypes @ audio.T / prototypes.norm(dim=-1)[:, None] / audio.norm(dim=-1)
            expected = cosine.T[..., None] * expected
        assert_close(added, expected)


@pytest.mark.parametrize("toggle", ["mask_prompt_fusion", "mask_prompt_keys", "attention_mask_init"])
def test_each_use_of_the_prompt_has_an_effect_of_its_own(tiny_config, toggle):
    uses = {"mask_prompt_fusion": False, "mask_prompt_keys": False, "attention_mask_init": "origin"}
    uses[toggle] = "prompt" if toggle == "attention_mask_init" else True
    torch.manual_seed(0)
    model = AAVSForAudioVisualSegmentation(tiny_config(use_mask_prompt=True, **uses)).eval()
    inputs = make_inputs(model)
    changed = {**inputs, "prompt_masks": 1 - inputs["prompt_masks"]}
    assert torch.equal(run(model, inputs).masks_queries_logits, run(model, inputs).masks_queries_logits)
    assert not torch.equal(run(model, inputs).masks_queries_logits, run(model, changed).masks_queries_logits)


def test_thresholds_are_inclusive_and_silent_frames_attend_everywhere(tiny_config):
    model = AAVSModel(tiny_config(use_mask_prompt=True))
    key = model.decoder.audio_aware_key
    tokens = torch.stack([key.silence_embed.weight[0], key.uncertain_embed.weight[0], key.sounding_embed.weight[0]])
    prompt = torch.tensor([[[0.0, 0.4, 0.5, 0.6, 1.0]]])
    assert_close(key(torch.zeros(1, 5, 16), prompt)[0], tokens[[0, 0, 1, 2, 2]])

    blocked = torch.tensor([[[True, True, True], [True, False, True]]])
    mask = model.decoder.get_attention_mask(blocked, torch.float32)
    assert mask.shape == (1, 1, 2, 3)
    assert torch.equal(mask[0, 0] < 0, torch.tensor([[False, False, False], [True, False, True]]))


def test_eager_equals_sdpa_and_only_eager_gives_attentions(tiny_model):
    inputs = make_inputs(tiny_model)
    sdpa = run(tiny_model, inputs)
    tiny_model.set_attn_implementation("eager")
    assert tiny_model.config.backbone_config._attn_implementation == "eager"
    eager = run(tiny_model, inputs, output_attentions=True, output_hidden_states=True)
    assert_close(eager.masks_queries_logits, sdpa.masks_queries_logits, atol=1e-4, rtol=1e-4)
    assert_close(eager.class_queries_logits, sdpa.class_queries_logits, atol=1e-4, rtol=1e-4)

    heads, queries = tiny_model.config.num_attention_heads, tiny_model.config.num_queries
    assert [weights.shape for weights in eager.attentions] == [(3, heads, queries, queries)] * 3
    assert [weights.shape for weights in eager.cross_attentions] == [
        (3, heads, queries, 2 * 3),
        (3, heads, queries, 4 * 6),
        (3, heads, queries, 8 * 12),
    ]
    for weights in (*eager.attentions, *eager.cross_attentions):
        assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert_close(eager.hidden_states[-1], eager.last_hidden_state)


def test_gradient_checkpointing_covers_every_layer(tiny_model):
    tiny_model.gradient_checkpointing_enable()
    layers = [
        *tiny_model.model.backbone.swin.encoder.layers[0].blocks,
        *tiny_model.model.pixel_decoder.encoder.layers,
        *tiny_model.model.decoder.layers,
    ]
    assert all(layer.gradient_checkpointing for layer in layers)


def test_drop_path_has_the_same_rate_in_every_block_and_acts_in_training_only(tiny_config):
    config = tiny_config()
    config.backbone_config.drop_path_rate = 0.3
    model = AAVSForAudioVisualSegmentation(config)
    blocks = [block for stage in model.model.backbone.swin.encoder.layers for block in stage.blocks]
    assert {block.drop_path.drop_prob for block in blocks} == {0.3}
    inputs = make_inputs(model)
    assert_close(run(model.eval(), inputs).masks_queries_logits, run(model, inputs).masks_queries_logits)
    model.train()
    assert not torch.equal(run(model, inputs).masks_queries_logits, run(model, inputs).masks_queries_logits)


def test_save_and_load_are_exact_and_safetensors_only(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    inputs = make_inputs(tiny_model)
    expected = run(tiny_model, inputs).masks_queries_logits

    loaded, info = AAVSForAudioVisualSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, value in tiny_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert torch.equal(run(loaded, inputs).masks_queries_logits, expected)

    assert isinstance(AutoConfig.from_pretrained(tmp_path), AAVSConfig)
    auto = AutoModelForUniversalSegmentation.from_pretrained(tmp_path)
    assert type(auto) is AAVSForAudioVisualSegmentation
    assert torch.equal(run(auto, inputs).masks_queries_logits, expected)
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is AAVSModel
    assert_close(run(base, inputs).mask_features, run(tiny_model.model, inputs).mask_features)


def test_swin_is_saved_under_the_names_that_swin_checkpoints_of_the_hub_have(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert len(names) == len(tiny_model.state_dict())
    assert "model.backbone.swin.encoder.layers.0.blocks.0.attention.self.query.weight" in names
    assert "model.backbone.swin.encoder.layers.0.blocks.0.output.dense.adapter.down_proj.weight" in names


def test_initial_weights_are_those_of_the_released_program(tiny_config):
    torch.manual_seed(0)
    model = AAVSForAudioVisualSegmentation(
        tiny_config(use_mask_prompt=True, hidden_dim=256, feature_size=128, num_queries=100, num_labels=71)
    )
    decoder = model.model.decoder

    def std(tensor):
        return tensor.std().item()

    block = model.model.backbone.swin.encoder.layers[3].blocks[0]
    pixel_adapter = model.model.pixel_decoder.encoder.layers[0].self_attn.adapter
    for adapter in (block.attention.adapter, block.mlp.adapter, pixel_adapter):
        for linear in (adapter.down_proj, adapter.up_proj):
            assert std(linear.weight) == pytest.approx(0.02, rel=0.1)
            assert not linear.bias.any()
    adapter = decoder.layers[0].self_attn.adapter
    assert std(adapter.down_proj.weight) == pytest.approx((2 / (256 + 64)) ** 0.5, rel=0.05)  # Xavier
    assert not adapter.down_proj.bias.any() and not adapter.up_proj.bias.any()
    assert std(decoder.layers[0].fc1.weight) == pytest.approx((2 / (256 + 24)) ** 0.5, rel=0.05)
    assert std(decoder.layers[0].cross_attn.in_proj_weight) == pytest.approx((2 / (256 + 768)) ** 0.5, rel=0.05)
    for embedding in (decoder.audio_query.queries_embedder, decoder.audio_query.queries_features):
        assert std(embedding.weight) == pytest.approx(1, rel=0.05)
    key = decoder.audio_aware_key
    for embedding in (key.silence_embed, key.uncertain_embed, key.sounding_embed):
        assert std(embedding.weight) == pytest.approx(0.02, rel=0.2)
    # torch's own default, uniform with bound 1 / sqrt(fan in)
    projector = model.model.audio_projector
    for linear in (model.class_predictor, projector.linear_1, projector.linear_2):
        bound = linear.in_features**-0.5
        assert std(linear.weight) == pytest.approx(bound / 3**0.5, rel=0.1)
        assert linear.bias.abs().max() <= bound and linear.bias.any()


def test_contradictions_are_errors_in_from_pretrained_too(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    prompted = tiny_model.config.use_mask_prompt
    with pytest.raises(ValueError, match="use_mask_prompt"):
        AAVSForAudioVisualSegmentation.from_pretrained(tmp_path, use_mask_prompt=not prompted)


def test_models_without_output_projections_have_none_and_load_checkpoints_that_have(tiny_config, tmp_path):
    torch.manual_seed(0)
    whole = AAVSForAudioVisualSegmentation(tiny_config(apply_output_projection=True))
    whole.save_pretrained(tmp_path)
    model, info = AAVSForAudioVisualSegmentation.from_pretrained(
        tmp_path, apply_output_projection=False, output_loading_info=True
    )
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    weights = whole.state_dict()
    projections = weights.keys() - model.state_dict().keys()
    assert projections and all(
        re.search(r"self_attn\.(out|output)_proj\.(weight|bias)$", name) for name in projections
    )
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["localizer", "mask-prompted"])
def test_state_dicts_of_before_are_loaded(kind):
    """Such as an interrupted run has: adapters were part of the layers that they stand beside now, which all were."""
    model, other = make_tiny_model(kind), AAVSForAudioVisualSegmentation(make_tiny_model(kind).config)
    before = {}
    for name, value in model.state_dict().items():
        for pattern, replacement in (
            (r"\.attention\.adapter\.", ".attention.o_proj.adapter."),
            (r"\.mlp\.adapter\.", ".mlp.fc2.adapter."),
            (r"(\.pixel_decoder\..*self_attn)\.adapter\.", r"\1.output_proj.adapter."),
            (r"(\.decoder\.layers\..*self_attn)\.adapter\.", r"\1.out_proj.adapter."),
        ):
            name = re.sub(pattern, replacement, name)
        before[name] = value
        if layer := re.fullmatch(r"(.*self_attn\.out(put)?_proj)\.adapter\.up_proj\.bias", name):
            before.setdefault(f"{layer[1]}.weight", torch.zeros(len(value), len(value)))
            before.setdefault(f"{layer[1]}.bias", torch.zeros(len(value)))
    assert before.keys() > {name for name in model.state_dict() if ".adapter." not in name}
    other.load_state_dict(before)
    for name, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


# Where nothing learns, on the CPU ------------------------------------------------------------------------------------


def make_window_attention(dtype=torch.float32) -> AAVSSwinAttention:
    """Four heads, windows of 3x3 places."""
    torch.manual_seed(0)
    swin = make_config().backbone_config.to_dict() | {"embed_dim": 32, "num_heads": [4] * 4, "window_size": 3}
    backbone = AAVSSwinBackbone(make_config(backbone_config=swin))
    # With relative position biases, which are 0 at first, and no attention that is the same everywhere.
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return backbone.swin.encoder.layers[0].blocks[0].attention.to(dtype).eval().requires_grad_(False)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("num_frames", "num_windows"), [(1, 1), (1, 6), (3, 5), (2, 8)])
@pytest.mark.parametrize("max_products", [1, 8, 16, 1000])
def test_windows_in_half_precision_attend_as_in_full_precision(
    masked, num_frames, num_windows, max_products, monkeypatch
):
    monkeypatch.setattr(modeling_aavs, "MAX_PRODUCTS", max_products)
    attention, half = make_window_attention(), make_window_attention(torch.bfloat16)
    hidden_states = 0.2 * torch.randn(num_frames * num_windows, 9, 32)
    mask = torch.where(torch.rand(num_windows, 9, 9) < 0.3, -100.0, 0.0) if masked else None
    expected, _ = attention(hidden_states, mask)
    tolerance = {"atol": 0.02 * expected.abs().max().item(), "rtol": 0}

    def check(attention, *inputs):
        output, weights = attention(*inputs)
        assert weights is None and output.dtype == torch.bfloat16
        assert_close(output.float(), expected, **tolerance)
        with monkeypatch.context() as patch:
            patch.setattr(modeling_aavs, "is_cpu_inference", lambda *_: False)
            assert_close(output, attention(*inputs)[0], **tolerance)

    check(half, hidden_states.bfloat16(), mask.bfloat16() if masked else None)
    with torch.autocast("cpu", torch.bfloat16):
        check(attention, hidden_states, mask)


@pytest.mark.parametrize("case", ["trains", "has gradients", "full precision", "eager"])
def test_whose_windows_attend_as_those_of_transformers(case, monkeypatch):
    attention = make_window_attention(torch.float32 if case == "full precision" else torch.bfloat16)
    hidden_states = torch.randn(4, 9, 32, dtype=attention.q_proj.weight.dtype, requires_grad=case == "has gradients")
    calls, attend = [], AAVSSwinAttention.attend_in_products
    monkeypatch.setattr(AAVSSwinAttention, "attend_in_products", lambda *args: calls.append(1) or attend(*args))
    if case == "eager":
        attention.config._attn_implementation = "eager"
    attention.train(case == "trains")
    output, weights = attention(hidden_states)
    assert not calls and (weights is not None) == (case == "eager")
    expected = SwinAttention.forward(attention, hidden_states)[0]
    assert_close(output, expected + attention.adapter(expected), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("num_frames", "dtype", "portions"),
    [(1, torch.float32, [1]), (3, torch.float32, [2, 1]), (4, torch.float32, [2, 2]), (4, torch.bfloat16, [4])],
)
def test_layers_of_swin_take_as_many_frames_as_fit_at_a_time(tiny_model, num_frames, dtype, portions, monkeypatch):
    layer = tiny_model.model.backbone.swin.encoder.layers[1].blocks[1].to(dtype)
    hidden_states = torch.randn(num_frames, 8 * 12, layer.layernorm_before.weight.numel(), dtype=dtype)
    with torch.no_grad():
        expected, _ = layer(hidden_states, (8, 12))
    monkeypatch.setattr(modeling_aavs, "MAX_BYTES", 2 * 8 * 12 * hidden_states.shape[-1] * 4)
    seen = []
    layer.layernorm_before.register_forward_hook(lambda module, args, output: seen.append(len(output)))
    with torch.no_grad():
        output, _ = layer(hidden_states, (8, 12))
    assert seen == portions
    assert_close(output, expected)
    layer(hidden_states.requires_grad_(True), (8, 12))
    assert seen == [*portions, num_frames]
