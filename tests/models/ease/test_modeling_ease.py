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
"""EASE's own behavior; what every model has to do is in tests/models/test_modeling_common.py."""

import pytest
import torch
from torch.testing import assert_close
from transformers import DINOv3ViTConfig, DINOv3ViTModel, PvtV2Config, PvtV2ForImageClassification, PvtV2Model

from stepping_stones_hf import EASEForAudioVisualSegmentation
from stepping_stones_hf.models.ease import modeling_ease
from stepping_stones_hf.models.ease.modeling_ease import EASEPromptKeys

from ..test_modeling_common import align
from .conftest import BACKBONES, make_config, make_inputs, make_model, make_targets


def run(model, inputs, **kwargs):
    with torch.no_grad():
        return model(**inputs, **kwargs)


def make_square_inputs(model, **kwargs) -> dict:
    """Of a size that goes with each backbone: 16 patches, and 9 queries with a PVT-v2."""
    return make_inputs(model, height=64, width=64, **kwargs)


@pytest.fixture(params=["dinov3_vit", "pvt_v2"])
def backbone(request) -> str:
    return request.param


# Sound ---------------------------------------------------------------------------------------------------------------


def test_evaluation_is_random_only_where_it_is_asked_for(backbone):
    for evaluation_noise in (False, True):
        model = make_model(backbone, evaluation_noise=evaluation_noise)
        inputs = make_square_inputs(model)
        first, second = (run(model, inputs).masks_queries_logits for _ in range(2))
        assert torch.equal(first, second) != evaluation_noise


def test_training_is_random_and_follows_from_the_seed(backbone):
    model = make_model(backbone).train()
    inputs = make_square_inputs(model)
    logits = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        logits.append(run(model, inputs).masks_queries_logits)
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])


def test_gumbel_noise_has_its_mean_and_deviation():
    torch.manual_seed(0)
    noise = modeling_ease.draw_gumbel_noise(torch.zeros(100_000))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.std().item() == pytest.approx(1.2825, abs=0.02)


@pytest.mark.parametrize("draw", [0.0, 1e-9])
def test_noise_of_the_smallest_draws_is_finite_in_half_precision(monkeypatch, draw):
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda tensor: tensor.fill_(draw))
    noise = modeling_ease.draw_gumbel_noise(torch.zeros(3, dtype=torch.float16))
    assert noise.isfinite().all() and noise.min() > 20


def test_all_that_follows_the_enhancer_does_not_depend_on_the_order_of_its_tokens(backbone):
    model = make_model(backbone)
    inputs = make_square_inputs(model)
    expected = run(model, inputs)
    model.model.audio_enhancer.register_forward_hook(lambda module, args, output: output.flip(1))
    assert_close(run(model, inputs).masks_queries_logits, expected.masks_queries_logits, atol=1e-4, rtol=1e-4)


def test_the_fusion_is_that_of_a_mixture_of_centers_at_each_patch(backbone):
    """As the paper writes it, patch by patch; the model mixes keys and values in place of centers."""
    model = make_model(backbone).double()
    fusion = model.model.fusion
    patches, audio = torch.randn(2, 16, 16).double(), torch.randn(2, 3, 24).double()
    with torch.no_grad():
        mixtures = fusion.assignment(patches) @ fusion.assignment.centers
        audio = fusion.audio_proj(audio)
        heads = [slice(start, start + 4) for start in range(0, 16, 4)]
        query, key, value = fusion.score_q_proj(audio), fusion.score_k_proj(mixtures), fusion.score_v_proj(mixtures)
        attended = torch.cat([(query[..., h] @ key[..., h].mT / 2).softmax(-1) @ value[..., h] for h in heads], dim=-1)
        token = (fusion.score(attended).softmax(1) * audio).sum(1, keepdim=True)
        assert_close(fusion.pool_audio(audio, patches), token)


# Blocks --------------------------------------------------------------------------------------------------------------


def record(model: EASEForAudioVisualSegmentation) -> dict[str, list]:
    """What enters each block from now on, and the attention masks."""
    seen = {"tokens": [], "masks": []}

    def hook(module, args, kwargs):
        seen["tokens"].append(args[0])
        seen["masks"].append(kwargs.get("attention_mask"))

    for block in model.model.backbone.blocks:
        block.register_forward_pre_hook(hook, with_kwargs=True)
    return seen


def test_queries_enter_before_the_joint_blocks_and_sound_where_the_config_says(backbone):
    calls = []
    for fusion_blocks in (None, [5] if backbone == "pvt_v2" else [0, 3], []):
        model = make_model(backbone, fusion_blocks=fusion_blocks)
        model.model.fusion.register_forward_hook(lambda *args: calls.append(args))
        seen = record(model)
        inputs = make_square_inputs(model, num_frames=(1,))
        run(model, inputs)
        queries, prefix = (9, 0) if backbone == "pvt_v2" else (6, 3)
        assert [tokens.shape[1] for tokens in seen["tokens"]] == [prefix + 16] * 2 + [queries + prefix + 16] * 2
        assert seen["masks"] == [None] * 4  # none in evaluation
        # Always after the last block.
        assert len(calls) == 1 + len(model.config.fusion_blocks)
        calls.clear()
    assert make_config(backbone).fusion_blocks == ([3, 4, 5] if backbone == "pvt_v2" else [2, 3])


def test_annealing_leaves_out_masks_of_queries_with_the_probability_of_their_block(backbone):
    model = make_model(backbone, num_joint_blocks=3).train()
    model.model.attn_mask_probs.copy_(torch.tensor([1.0, 0.5, 0.0]))
    seen = record(model)
    torch.manual_seed(0)
    inputs = make_square_inputs(model, num_frames=(200,))
    run(model, inputs)
    num_queries = model.config.num_queries
    shares = []
    for mask in seen["masks"][-3:]:
        assert mask[:, :, num_queries:].eq(0).all() and mask[..., :-16].eq(0).all()
        assert set(mask.unique().tolist()) <= {0, torch.finfo(torch.float32).min}
        shares.append(mask[:, 0, :num_queries, -16:].eq(0).all(-1).float().mean().item())
    assert shares[0] < 0.3 and shares[2] == 1
    assert shares[1] == pytest.approx(0.5 + 0.5 * shares[0], abs=0.15)


def test_predictions_before_the_joint_blocks_are_made_and_supervised_in_training(backbone):
    model = make_model(backbone)
    inputs = make_square_inputs(model)
    targets = make_targets(model, inputs)
    assert len(run(model.model, inputs).mask_logits) == 1
    terms = ["loss_mask", "loss_dice", "loss_cross_entropy"]
    assert list(run(model, inputs, **targets).loss_dict) == terms
    model.train()
    assert len(run(model.model, inputs).mask_logits) == 3
    assert list(run(model, inputs, **targets).loss_dict) == terms + [f"{term}_{i}" for i in range(2) for term in terms]
    plain = make_model(backbone, use_auxiliary_loss=False).train()
    assert list(run(plain, inputs, **targets).loss_dict) == terms


def test_queries_and_patches_of_a_pvt_are_laid_out_as_a_square():
    model = make_model("pvt_v2")
    seen = []
    convolution = model.model.backbone.blocks[-1].mlp.dwconv.dwconv
    convolution.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    block_in = record(model)["tokens"]
    run(model, make_inputs(model, height=32, width=128))  # 2x8 patches
    assert seen[0].shape[-2:] == (5, 5)
    assert len(block_in[-1][0]) == 9 + 16
    with pytest.raises(ValueError, match="24 patches, which do not fill a square together with 9.*num_queries=1"):
        run(model, make_inputs(model, height=96, width=64))


@pytest.mark.parametrize(("height", "width"), [(60, 64), (64, 40)])
def test_frames_that_are_not_made_of_patches_are_refused(height, width):
    model = make_model()
    with pytest.raises(ValueError, match=f"frames of {height}x{width}; height and width must be multiples of 16"):
        run(model, make_inputs(model, height=height, width=width))


# Prompts -------------------------------------------------------------------------------------------------------------


USES = {"mask_prompt_fusion": True, "mask_prompt_keys": True, "attention_mask_init": "prompt"}
OFF = {"mask_prompt_fusion": False, "mask_prompt_keys": False, "attention_mask_init": "origin"}


def make_prompted_model(backbone: str, use: str, **overrides) -> EASEForAudioVisualSegmentation:
    return make_model(backbone, num_labels=7, use_mask_prompt=True, **{**OFF, use: USES[use]}, **overrides)


def copy_without_prompt(model: EASEForAudioVisualSegmentation, backbone: str) -> EASEForAudioVisualSegmentation:
    plain = make_model(backbone, num_labels=7)
    plain.load_state_dict(model.state_dict(), strict=False)
    return plain


@pytest.mark.parametrize("use", USES)
def test_a_prompt_without_effect_leaves_ease(backbone, use):
    model = make_prompted_model(backbone, use)
    plain = copy_without_prompt(model, backbone)
    inputs = make_square_inputs(model)
    prompts = inputs.pop("prompt_masks")
    expected = run(plain, inputs)
    assert not torch.allclose(
        run(model, inputs, prompt_masks=prompts).masks_queries_logits, expected.masks_queries_logits, atol=1e-3
    )
    if use == "mask_prompt_keys":
        # Where all is silent, silence is the same for all patches: a shift of a query's scores that other tokens do
        # not have.
        torch.nn.init.zeros_(model.model.prompt_states.tokens)
    outputs = run(model, inputs, prompt_masks=torch.zeros_like(prompts))
    assert_close(outputs.masks_queries_logits, expected.masks_queries_logits, atol=1e-4, rtol=1e-4)
    assert_close(outputs.class_queries_logits, expected.class_queries_logits, atol=1e-4, rtol=1e-4)


def test_fusion_adds_the_prompt_to_the_mask_features_and_leaves_the_classes(backbone):
    model = make_prompted_model(backbone, "mask_prompt_fusion")
    plain = copy_without_prompt(model, backbone)
    inputs = make_square_inputs(model)
    prompts = inputs.pop("prompt_masks")
    outputs, expected = run(model, inputs, prompt_masks=prompts), run(plain, inputs)
    assert torch.equal(outputs.class_queries_logits, expected.class_queries_logits)
    resized = torch.nn.functional.interpolate(prompts[:, None], (16, 16), mode="bilinear", align_corners=False)
    with torch.no_grad():
        embeddings = model.model.mask_head(outputs.last_hidden_state[:, : model.config.num_queries])
    added = embeddings.sum(-1)[..., None, None] * resized
    assert_close(outputs.masks_queries_logits, expected.masks_queries_logits + added, atol=1e-3, rtol=1e-4)


def test_the_first_joint_block_attends_inside_the_prompt_in_training_and_evaluation(backbone):
    model = make_prompted_model(backbone, "attention_mask_init")
    model.model.attn_mask_probs.zero_()
    seen = record(model)
    inputs = make_square_inputs(model, num_frames=(2,))
    inputs["prompt_masks"] = torch.zeros(2, 4, 4)
    inputs["prompt_masks"][0, 1, 2] = 1
    for training in (False, True):
        run(model.train(training), inputs)
        first, second = seen["masks"][-2:]
        is_open = first[:, 0, : model.config.num_queries, -16:] == 0
        assert torch.equal(is_open[0], (torch.arange(16) == 6).expand_as(is_open[0]))
        assert is_open[1].all()  # a frame in which nothing sounds
        assert first[:, :, :, :-16].eq(0).all() and first[:, :, model.config.num_queries :].eq(0).all()
        assert second is None if not training else second.eq(0).all()


def test_keys_add_the_product_of_query_and_state_to_scores_of_queries_alone():
    torch.manual_seed(0)
    frames, heads, tokens, channels, num_queries = 2, 3, 12, 4, 5
    query, key = torch.randn(2, frames, heads, tokens, channels)
    k_proj = torch.nn.Linear(heads * channels, heads * channels)
    states = torch.nn.functional.one_hot(torch.randint(3, (frames, 6)), 3).float()
    prompt_keys = EASEPromptKeys(states, torch.randn(3, heads * channels), num_queries)
    hidden_states = torch.randn(frames, tokens, heads * channels)
    assert prompt_keys.add_to_tokens(hidden_states) is hidden_states
    with torch.no_grad():
        long_query, long_key = prompt_keys.add_to_heads(query, key, k_proj)
        scores = long_query @ long_key.mT
        expected = query @ key.mT
        projected = (prompt_keys.states @ prompt_keys.tokens @ k_proj.weight.T).view(frames, 6, heads, channels)
        expected[:, :, :num_queries, -6:] += query[:, :, :num_queries] @ projected.permute(0, 2, 3, 1)
    assert_close(scores, expected)


def test_thresholds_of_the_states():
    model = make_prompted_model("dinov3_vit", "mask_prompt_keys")
    prompt = torch.tensor([[[[0.0, 0.4, 0.41], [0.59, 0.6, 1.0]]]])
    states = model.model.prompt_states(prompt).states
    assert states[0].argmax(-1).tolist() == [0, 0, 1, 1, 2, 2] and states.sum(-1).eq(1).all()


@pytest.mark.parametrize("rows", ["queries", "all"])
def test_implementations_of_attention_agree_on_prompted_keys(backbone, rows):
    model = make_model(backbone, num_labels=7, use_mask_prompt=True, mask_prompt_key_rows=rows)
    inputs = make_square_inputs(model)
    expected = run(model, inputs)
    model.set_attn_implementation("eager")
    outputs = run(model, inputs, output_attentions=True)
    assert_close(outputs.masks_queries_logits, expected.masks_queries_logits, atol=1e-3, rtol=1e-3)
    assert outputs.attentions[-1].shape[-2:] == (model.config.num_queries + (16 if backbone == "pvt_v2" else 19),) * 2


# The PVT-v2 in what the common tests do with the ViT -----------------------------------------------------------------


@pytest.mark.parametrize("prompted", [False, True])
def test_a_pvt_compiles_and_exports_as_one_graph(prompted):
    model = make_model("pvt_v2", use_mask_prompt=prompted)
    inputs = make_square_inputs(model)
    expected = run(model, inputs)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_close(run(compiled, inputs).masks_queries_logits, expected.masks_queries_logits, atol=1e-4, rtol=1e-4)
    program = torch.export.export(model, (), inputs, strict=False)
    outputs = run(program.module(), inputs)
    assert_close(outputs.masks_queries_logits, expected.masks_queries_logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prompted", [False, True])
def test_training_compiles_as_one_graph(backbone, prompted):
    model = make_model(backbone, use_mask_prompt=prompted).train()
    inputs = make_square_inputs(model)
    torch._dynamo.reset()
    outputs = torch.compile(model.model, backend="eager", fullgraph=True)(**inputs)
    assert len(outputs.mask_logits) == 3 and all(logits.isfinite().all() for logits in outputs.mask_logits)


def test_each_parameter_of_a_pvt_learns_with_and_without_checkpointing():
    gradients = []
    for checkpointed in (False, True):
        model = make_model("pvt_v2", num_labels=7, use_mask_prompt=True).train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": True})
        inputs = make_square_inputs(model)
        torch.manual_seed(0)
        model(**inputs, **make_targets(model, inputs)).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients[0].values())
    for name, gradient in gradients[1].items():
        assert_close(gradient, gradients[0][name], atol=1e-4, rtol=1e-3, msg=name)


def test_a_pvt_records_all_its_blocks():
    model = make_model("pvt_v2")
    inputs = make_square_inputs(model)
    hidden_states = run(model, inputs, output_hidden_states=True).hidden_states
    assert len(hidden_states) == 1 + 6 and [state.shape[1] for state in hidden_states[-4:]] == [16, 16, 25, 25]


def test_saving_and_loading_a_pvt_is_exact(tmp_path):
    model = make_model("pvt_v2")
    inputs = make_square_inputs(model)
    model.save_pretrained(tmp_path)
    loaded = align(EASEForAudioVisualSegmentation.from_pretrained(tmp_path))
    assert torch.equal(run(loaded, inputs).masks_queries_logits, run(model, inputs).masks_queries_logits)


# Backbones -----------------------------------------------------------------------------------------------------------


def get_new_names(model: EASEForAudioVisualSegmentation) -> set[str]:
    return {name for name in model.state_dict() if not name.startswith("model.backbone.")}


def test_a_vit_starts_from_what_transformers_saved(tmp_path):
    torch.manual_seed(3)
    fields = {name: value for name, value in BACKBONES["dinov3_vit"].items() if name != "model_type"}
    pretrained = DINOv3ViTModel(DINOv3ViTConfig(**fields)).eval()
    with torch.no_grad():
        for parameter in pretrained.parameters():
            parameter.normal_(std=0.3)
    pretrained.save_pretrained(tmp_path)
    model = make_model(num_joint_blocks=1, fusion_blocks=[])
    assert set(model.load_backbone_weights(tmp_path)) == get_new_names(model)
    # It computes what DINOv3 computes, up to where the queries enter.
    inputs = make_inputs(model)
    seen = record(model)["tokens"]
    model.model.query_generator.register_forward_hook(lambda *args: args[-1] * 0)
    run(model, inputs)
    with torch.no_grad():
        expected = pretrained(inputs["pixel_values"], output_hidden_states=True).hidden_states
    for tokens, hidden_state in zip(seen[:3], expected[:3]):
        assert torch.equal(tokens, hidden_state)
    assert torch.equal(seen[3][:, model.config.num_queries :], expected[3])
    weights = {name: value for name, value in pretrained.state_dict().items() if "mask_token" not in name}
    state_dict = model.model.backbone.state_dict()
    assert len(weights) == len(state_dict)
    for name, value in weights.items():
        assert torch.equal(state_dict[name.replace("model.layer.", "blocks.")], value), name


@pytest.mark.parametrize("saved_with", ["classifier", "nothing"])
def test_a_pvt_starts_from_a_whole_one(tmp_path, saved_with):
    torch.manual_seed(3)
    fields = {name: value for name, value in BACKBONES["pvt_v2"].items() if name != "model_type"}
    whole = {
        "num_encoder_blocks": 4,
        "hidden_sizes": [4, 8, 16, 8],
        "depths": [1, 1, 4, 1],
        "num_attention_heads": [1, 2, 2, 4],
        "mlp_ratios": [2, 2, 2, 2],
        "sr_ratios": [8, 4, 2, 1],
    }
    model_class = PvtV2ForImageClassification if saved_with == "classifier" else PvtV2Model
    pretrained = model_class(PvtV2Config(**{**fields, **whole}))
    pretrained.save_pretrained(tmp_path)
    model = make_model("pvt_v2")
    assert set(model.load_backbone_weights(tmp_path)) == get_new_names(model)
    weights = pretrained.base_model.state_dict()
    for name, value in model.model.backbone.state_dict().items():
        assert torch.equal(value, weights[name]), name
    reductions = [name for name in model.model.backbone.state_dict() if "spatial_reduction" in name]
    assert {name.split(".")[2] for name in reductions} == {"0", "1", "2"}
    assert not any(f"layers.2.blocks.{block}." in name for name in reductions for block in (2, 3))


def test_backbones_that_do_not_fit_are_refused_as_they_are(tmp_path):
    pretrained = DINOv3ViTModel(DINOv3ViTConfig(**{**BACKBONES["dinov3_vit"], "num_attention_heads": 4}))
    pretrained.save_pretrained(tmp_path)
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="num_attention_heads=4 there, 2 here"):
        model.load_backbone_weights(tmp_path)
    with pytest.raises(ValueError, match="model_type='dinov3_vit' there, 'pvt_v2' here"):
        make_model("pvt_v2").load_backbone_weights(tmp_path)
    pretrained = DINOv3ViTModel(DINOv3ViTConfig(**{**BACKBONES["dinov3_vit"], "num_hidden_layers": 3}))
    pretrained.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"17 parameters are missing there.*such as blocks.3.norm1.weight"):
        model.load_backbone_weights(tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_initial_weights_are_those_of_the_released_program(backbone):
    torch.manual_seed(0)
    model = EASEForAudioVisualSegmentation(make_config(backbone, audio_hidden_size=64, num_audio_centers=71)).model
    assert model.audio_enhancer.assignment.centers.std().item() == pytest.approx(1, abs=0.05)
    assert model.audio_enhancer.center_edge.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert model.fusion.gate_q_proj.weight.std().item() == pytest.approx(0.02, rel=0.2)
    # Uniform: torch's default, and Xavier's.
    assert model.fusion.audio_proj.weight.abs().max().item() == pytest.approx(64**-0.5, rel=0.02)
    bound = (6 / 128) ** 0.5
    assert model.query_generator.layers[0].cross_attn.k_proj.weight.abs().max().item() == pytest.approx(
        bound, rel=0.02
    )
    assert model.query.weight.std().item() == pytest.approx(1, abs=0.2)
    assert model.attn_mask_probs.tolist() == [1, 1]
