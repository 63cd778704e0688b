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

import copy
import re

import pytest
import torch
import transformers
from packaging import version
from safetensors import safe_open
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, AutoModelForUniversalSegmentation

from stepping_stones_hf import AAVSConfig, AAVSForAudioVisualSegmentation, AAVSModel

from .conftest import make_inputs, make_labels


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


def test_one_frame_at_a_time_equals_the_batch(tiny_model):
    inputs = make_inputs(tiny_model, num_frames=4)
    batch = run(tiny_model, inputs)
    for frame in range(4):
        single = run(tiny_model, {name: value[frame : frame + 1] for name, value in inputs.items()})
        for name in ("class_queries_logits", "masks_queries_logits"):
            assert_close(single[name][0], batch[name][frame], atol=1e-5, rtol=1e-4)


def test_every_input_matters(tiny_model):
    inputs = make_inputs(tiny_model)
    outputs = run(tiny_model, inputs)
    for name in inputs:
        changed = run(tiny_model, {**inputs, name: inputs[name].flip(0)})
        assert (changed.masks_queries_logits - outputs.masks_queries_logits).abs().max() > 1e-2, name


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


def test_no_graph_break_in_eval(tiny_model):
    inputs = make_inputs(tiny_model)
    torch._dynamo.reset()
    compiled = torch.compile(tiny_model, backend="eager", fullgraph=True)
    assert_close(
        run(compiled, inputs).masks_queries_logits,
        run(tiny_model, inputs).masks_queries_logits,
        atol=1e-5,
        rtol=1e-5,
    )


def test_hidden_states_are_exported_and_survive_compilation(tiny_model):
    inputs = make_inputs(tiny_model)
    expected = run(tiny_model, inputs, output_hidden_states=True).hidden_states
    assert len(expected) == tiny_model.config.decoder_layers
    # After a call that records, too, there is no graph break.
    torch._dynamo.reset()
    compiled = torch.compile(tiny_model, backend="eager", fullgraph=True)
    assert_close(run(compiled, inputs).last_hidden_state, expected[-1], atol=1e-5, rtol=1e-5)
    kwargs = {**inputs, "output_hidden_states": True}
    exported = torch.export.export(tiny_model, (), kwargs).module()
    for found, state in zip(exported(**kwargs).hidden_states, expected, strict=True):
        assert_close(found, state, atol=1e-5, rtol=1e-5)


def test_single_hidden_states_are_counted_from_the_end_as_well(tiny_model):
    inputs = make_inputs(tiny_model)
    expected = run(tiny_model, inputs, output_hidden_states=True).hidden_states
    assert tiny_model.config.num_hidden_layers == len(expected) - 1
    if version.parse(transformers.__version__) >= version.parse("5.23"):  # before, a list is taken for True
        found = run(tiny_model, inputs, output_hidden_states=[-1]).hidden_states
        assert [state is None for state in found] == [True] * (len(expected) - 1) + [False]
        assert torch.equal(found[-1], expected[-1])


def test_input_embeddings_are_those_of_the_frames(tiny_model):
    embeddings = tiny_model.get_input_embeddings()
    seen = []
    embeddings.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    inputs = make_inputs(tiny_model)
    run(tiny_model, inputs)
    assert torch.equal(seen[0], inputs["pixel_values"])


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing_gives_gradients_to_a_trained_audio_encoder(tiny_config, tiny_audio_config, use_reentrant):
    torch.manual_seed(0)
    model = AAVSForAudioVisualSegmentation(tiny_config(audio_config=tiny_audio_config)).train()
    inputs = {"pixel_values": torch.randn(3, 3, 64, 96), "input_features": torch.randn(3, 96, 64)}
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": use_reentrant})
        model.zero_grad()
        torch.manual_seed(0)
        model(**inputs, **make_labels(2)).loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


def test_it_is_said_that_checkpointing_is_on(tiny_model):
    tiny_model.gradient_checkpointing_enable()
    layers = [module for module in tiny_model.modules() if hasattr(module, "gradient_checkpointing")]
    assert layers and all(layer.gradient_checkpointing for layer in layers)
    tiny_model.gradient_checkpointing_disable()
    assert not any(layer.gradient_checkpointing for layer in layers)


def test_every_linear_layer_is_one(tiny_model):
    """What LoRA, quantizers and merging rely on; PEFT's and torchao's own tests are in test_adapt_it.py."""
    for name, module in tiny_model.named_modules():
        if isinstance(module, torch.nn.Linear):
            x = torch.randn(3, module.in_features)
            assert_close(module(x), torch.nn.functional.linear(x, module.weight, module.bias), msg=name)
            assert not [*module.children()], name


def test_gradient_checkpointing_gives_the_same_loss_and_gradients(tiny_model):
    inputs, labels = make_inputs(tiny_model), make_labels(tiny_model.config.num_labels)
    tiny_model.train()
    gradients = []
    for checkpointing in (False, True):
        model = copy.deepcopy(tiny_model)
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(0)
        loss = model(**inputs, **labels).loss
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-4)


def test_gradient_checkpointing_covers_every_layer(tiny_model):
    tiny_model.gradient_checkpointing_enable()
    layers = [
        *tiny_model.model.backbone.swin.encoder.layers[0].blocks,
        *tiny_model.model.pixel_decoder.encoder.layers,
        *tiny_model.model.decoder.layers,
    ]
    assert all(layer.gradient_checkpointing for layer in layers)


def test_every_parameter_gets_a_gradient(tiny_model):
    tiny_model.train()
    torch.manual_seed(0)
    tiny_model(**make_inputs(tiny_model), **make_labels(tiny_model.config.num_labels)).loss.backward()
    assert [name for name, parameter in tiny_model.named_parameters() if parameter.grad is None] == []


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


def test_half_precision_forward_backward_and_prompt_thresholds(tiny_model):
    inputs = make_inputs(tiny_model)
    expected = run(tiny_model, inputs)
    tiny_model.to(torch.bfloat16)
    inputs = {name: value.to(torch.bfloat16) for name, value in inputs.items()}
    outputs = tiny_model(**inputs, **make_labels(tiny_model.config.num_labels))
    assert outputs.masks_queries_logits.dtype == torch.bfloat16
    assert outputs.loss.dtype == torch.float32
    outputs.loss.backward()
    scale = expected.class_queries_logits.abs().max()
    error = (outputs.class_queries_logits.float() - expected.class_queries_logits).abs().mean()
    assert error < 0.1 * scale


def test_autocast_training_step(tiny_model):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = tiny_model.train()(**make_inputs(tiny_model), **make_labels(tiny_model.config.num_labels)).loss
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()


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


def test_weights_that_a_checkpoint_lacks_are_initialised_as_in_a_new_model(tiny_config, tiny_audio_config):
    config = tiny_config(use_mask_prompt=True, audio_config=tiny_audio_config)
    torch.manual_seed(0)
    fresh = AAVSForAudioVisualSegmentation(config)
    torch.manual_seed(1)
    loaded = AAVSForAudioVisualSegmentation.from_pretrained(None, config=config, state_dict={})
    for (name, new), old in zip(loaded.named_parameters(), fresh.parameters()):
        assert new.isfinite().all(), name
        if new.numel() >= 64:
            assert new.std().item() == pytest.approx(old.std().item(), rel=0.5, abs=1e-6), name
    for (name, new), old in zip(loaded.named_buffers(), fresh.buffers()):
        assert torch.equal(new, old), name


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


def test_the_state_dict_is_the_whole_state(tiny_model):
    other = AAVSForAudioVisualSegmentation(tiny_model.config).eval()
    inputs = make_inputs(tiny_model)
    run(other, make_inputs(tiny_model, height=96, width=64))  # nothing may be left behind by a call
    other.load_state_dict(tiny_model.state_dict())
    assert torch.equal(run(other, inputs).masks_queries_logits, run(tiny_model, inputs).masks_queries_logits)


def test_audio_encoder_frozen_or_trained_along(tiny_config, tiny_audio_config):
    for freeze in (True, False):
        torch.manual_seed(0)
        config = tiny_config(audio_config=tiny_audio_config, freeze_audio_encoder=freeze)
        model = AAVSForAudioVisualSegmentation(config).train()
        if freeze:
            model.freeze_audio_encoder()
        inputs = {"pixel_values": torch.randn(3, 3, 64, 96), "input_features": torch.randn(3, 96, 64)}
        model(**inputs, **make_labels(2)).loss.backward()
        gradients = [parameter.grad is not None for parameter in model.model.audio_encoder.parameters()]
        assert not any(gradients) if freeze else all(gradients)

        embeddings = model.model.get_audio_embeddings(inputs["input_features"])
        model.eval()
        assert_close(
            run(model, inputs).masks_queries_logits,
            run(model, {"pixel_values": inputs["pixel_values"], "audio_embeddings": embeddings}).masks_queries_logits,
        )


def test_what_a_user_makes_trainable_stays_trainable(tiny_config, tiny_audio_config):
    model = AAVSForAudioVisualSegmentation(tiny_config(audio_config=tiny_audio_config))
    model.freeze_audio_encoder()
    model.requires_grad_(True)
    model.eval().train()
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio_embeddings": None}, "either `input_features` or `audio_embeddings`"),
        ({"audio_embeddings": torch.zeros(2, 128)}, "`audio_embeddings` has 2 rows for 3 frames"),
        ({"input_features": torch.zeros(3, 96, 64)}, "either `input_features` or `audio_embeddings`"),
        ({"input_features": torch.zeros(3, 96, 64), "audio_embeddings": None}, "has no audio encoder"),
    ],
)
def test_wrong_sound_is_a_clear_error(tiny_model, change, message):
    inputs = {name: value for name, value in {**make_inputs(tiny_model), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        tiny_model(**inputs)


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


def test_wrong_prompt_is_a_clear_error(tiny_model):
    inputs = make_inputs(tiny_model)
    if tiny_model.config.use_mask_prompt:
        for prompt_masks in (torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(3, 1, 8, 8)):
            with pytest.raises(ValueError, match="floating-point numbers in"):
                tiny_model(**{**inputs, "prompt_masks": prompt_masks})
        with pytest.raises(ValueError, match=r"needs `prompt_masks`.*subfolder=\"localizer\""):
            tiny_model(**{**inputs, "prompt_masks": None})
        with pytest.raises(ValueError, match="`prompt_masks` has 1 rows for 3 frames"):
            tiny_model(**{**inputs, "prompt_masks": inputs["prompt_masks"][:1]})
    else:
        with pytest.raises(ValueError, match="takes no `prompt_masks`"):
            tiny_model(**inputs, prompt_masks=torch.zeros(3, 8, 8))
