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
"""TPAVI's own behavior; what every model has to do is in tests/models/test_modeling_common.py."""

import pytest
import torch
from torch.testing import assert_close
from transformers import ResNetModel

from stepping_stones_hf import TPAVIModel
from stepping_stones_hf.models.tpavi.modeling_tpavi import TPAVIBlock, attend

from .conftest import make_config, make_inputs, make_model


def run(model, inputs, **kwargs):
    with torch.no_grad():
        return model(**inputs, **kwargs)


def attend_literally(block: TPAVIBlock, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor):
    """Each pixel with each other one, as the paper writes it: all of shape (clips, pixels, channels)."""
    affinity = torch.einsum("bpc,bqc->bpq", block.query(queries), block.key(keys)) / queries.shape[1]
    attended = block.out_proj(torch.einsum("bpq,bqc->bpc", affinity, block.value(values)))
    return block.layer_norm(block.batch_norm(attended.mT).mT + queries)


@pytest.mark.parametrize("source", ["audio", "visual", "both"])
@pytest.mark.parametrize("training", [False, True])
def test_the_closed_form_of_the_attention_is_the_literal_one(source, training):
    torch.manual_seed(0)
    block = TPAVIBlock(make_config(hidden_dim=16, attention_source=source)).double().train(training)
    clips, frames, height, width = 3, 5, 4, 6
    feature_map = torch.randn(clips * frames, 16, height, width, dtype=torch.double)
    audio_embeddings = torch.randn(clips * frames, 128, dtype=torch.double)
    with torch.no_grad():
        output, audio = block(feature_map, audio_embeddings, None)
        # Of each pixel of each frame; the sound is the same for all pixels of a frame.
        pixels = feature_map.permute(0, 2, 3, 1).reshape(clips, -1, 16)
        sounds = audio[:, None].expand(-1, height * width, -1).reshape(clips, -1, 16)
        expected = []
        if source != "visual":
            expected.append(attend_literally(block, pixels, sounds, pixels))
        if source != "audio":
            expected.append(attend_literally(block, pixels, pixels, pixels))
    expected = torch.stack(expected).mean(0).view(-1, height, width, 16).permute(0, 3, 1, 2)
    assert (expected - feature_map).abs().max() > 0.1
    assert_close(output, expected, atol=1e-10, rtol=1e-8)


def test_sums_over_the_pixels_of_a_clip_stay_finite_in_float16():
    query, key, value = torch.full((3, 1, 5 * 56 * 56, 8), 3.0)
    expected = attend(query, key, value)
    assert_close(attend(query.half(), key.half(), value.half()).float(), expected, atol=0, rtol=1e-2)


def test_clips_of_any_length_are_groups_of_five_that_do_not_see_one_another(tiny_model):
    inputs = make_inputs(tiny_model, (10, 7, 1, 5))
    logits = run(tiny_model, inputs).logits
    assert logits.shape[0] == 23
    starts = [(0, 5), (5, 10), (10, 15), (15, 17), (17, 18), (18, 23)]
    for start, end in starts:
        group = {name: value[start:end] for name, value in inputs.items() if name != "num_frames"}
        assert_close(run(tiny_model, group).logits, logits[start:end], atol=1e-4, rtol=1e-4)
        # Each frame of a group sees and hears the others, and those of no other group.
        for name in ("pixel_values", "audio_embeddings"):
            changed = {**inputs, name: inputs[name].clone()}
            changed[name][start] += 1
            differs = (run(tiny_model, changed).logits - logits).abs().amax((1, 2, 3)) > 1e-5
            assert differs.tolist() == [start <= frame < end for frame in range(23)]


def test_a_short_clip_is_filled_up_with_empty_frames_as_the_released_program_does(tiny_model):
    # By hand: black after normalization and silent, with everything that is computed of them set to zero.
    model = tiny_model.model
    inputs = make_inputs(tiny_model, (2,))
    frames = torch.cat([inputs["pixel_values"], torch.zeros(3, 3, 64, 96)])
    audio = torch.cat([inputs["audio_embeddings"], torch.zeros(3, 128)])
    flags = torch.tensor([1.0, 1, 0, 0, 0])[:, None, None, None]
    with torch.no_grad():
        backbone_maps = model.backbone(frames).feature_maps
        expected = [
            (block(neck(feature_map) * flags, audio, None)[0] * flags).relu()
            for neck, block, feature_map in zip(model.necks, model.blocks, backbone_maps)
        ]
    for feature_map, padded in zip(run(tiny_model, inputs).feature_maps, expected):
        assert_close(feature_map, padded[:2], atol=1e-5, rtol=1e-4)


def test_without_num_frames_all_frames_are_of_one_clip(tiny_model):
    inputs = make_inputs(tiny_model, (7,))
    assert torch.equal(
        run(tiny_model, inputs).logits,
        run(tiny_model, {name: value for name, value in inputs.items() if name != "num_frames"}).logits,
    )


@pytest.mark.parametrize("backbone", ["pvt_v2", "resnet"])
def test_empty_frames_of_training_change_batch_norms_and_nothing_in_evaluation(backbone):
    padded, plain = (make_model(backbone, padded_clip_length=length) for length in (10, None))
    inputs = make_inputs(padded, (5, 10))
    assert torch.equal(run(padded, inputs).logits, run(plain, inputs).logits)
    statistics = []
    for model in (padded.train(), plain.train()):
        run(model, inputs)
        buffers = dict(model.named_buffers())
        statistics.append({name: value for name, value in buffers.items() if "running" in name})
    in_backbone = {
        "backbone" in name for name, value in statistics[0].items() if not torch.equal(value, statistics[1][name])
    }
    assert in_backbone == ({False, True} if backbone == "resnet" else {False})


def test_two_labels_have_one_logit_and_more_have_one_each(tiny_model):
    num_labels = tiny_model.config.num_labels
    logits = run(tiny_model, make_inputs(tiny_model)).logits
    assert logits.shape == (7, 1 if num_labels == 2 else num_labels, 64, 96)


def test_the_prompt_is_added_to_the_features_that_enter_the_head():
    model = make_model("resnet", num_labels=7, use_mask_prompt=True)
    plain = make_model("resnet", num_labels=7)
    plain.load_state_dict(model.state_dict())
    inputs = make_inputs(model)
    prompts = inputs.pop("prompt_masks")
    added = run(model, inputs, prompt_masks=prompts, output_hidden_states=True)
    features = run(model.model, inputs, prompt_masks=prompts).last_hidden_state
    without = run(plain.model, inputs).last_hidden_state
    resized = torch.nn.functional.interpolate(prompts[:, None], (32, 48), mode="bilinear", align_corners=False)
    assert_close(features, without + resized)
    # The matching loss does not see it.
    for feature_map, expected in zip(added.feature_maps, run(plain, inputs).feature_maps):
        assert torch.equal(feature_map, expected)
    assert torch.equal(run(model, inputs, prompt_masks=torch.zeros(7, 4, 4)).logits, run(plain, inputs).logits)
    assert torch.equal(
        run(model, inputs, prompt_masks=prompts > 0.5).logits,
        run(model, inputs, prompt_masks=(prompts > 0.5).float()).logits,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_frames": torch.tensor([5, 3])}, "`num_frames` counts 8 frames, .*`pixel_values` has 7"),
        ({"num_frames": torch.tensor([7, 0])}, "the shortest clip 0"),
        (
            {"num_frames": torch.tensor([[5, 2]])},
            r"as integers of shape \(num_clips,\), got torch.int64 of shape \(1, 2",
        ),
        ({"num_frames": torch.tensor([5.0, 2.0])}, "got torch.float32"),
        ({"pixel_values": torch.zeros(7, 3, 64, 100)}, "frames of 64x100; height and width must be multiples of 32"),
        ({"audio_embeddings": torch.zeros(2, 128)}, "`audio_embeddings` has 2 rows for 7 frames"),
        ({"audio_embeddings": None}, "either `input_features` or `audio_embeddings`"),
        (
            {"audio_embeddings": None, "input_features": torch.zeros(7, 96, 64)},
            "no audio encoder .*takes `audio_embeddings` of shape",
        ),
        ({"prompt_masks": torch.zeros(7, 8, 8)}, "takes no `prompt_masks`"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(changes, message):
    model = make_model()
    with pytest.raises(ValueError, match=message):
        run(model, {**make_inputs(model), **changes})


def test_a_new_block_changes_nothing_but_the_scale():
    torch.manual_seed(0)
    model = TPAVIModel(make_config("resnet", hidden_dim=16))
    block = model.blocks[0]
    feature_map = torch.randn(5, 16, 4, 4)
    with torch.no_grad():
        output, _ = block(feature_map, torch.randn(5, 128), None)
    assert_close(output, torch.nn.functional.layer_norm(feature_map.permute(0, 2, 3, 1), (16,)).permute(0, 3, 1, 2))
    assert model.necks[0].convs[0].weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert model.decoder[0].output_unit.conv1.bias.abs().max() > 0  # torch's default


def test_the_backbone_starts_from_pretrained_weights_and_the_rest_is_named(tmp_path):
    torch.manual_seed(3)
    pretrained = ResNetModel(make_config("resnet").backbone_config)
    pretrained.save_pretrained(tmp_path)
    model = make_model("resnet")
    new = model.load_backbone_weights(tmp_path)
    state_dict, source = model.state_dict(), pretrained.state_dict()
    backbone = {name.removeprefix("model.backbone."): value for name, value in state_dict.items() if name not in new}
    assert backbone and all(torch.equal(value, source[name]) for name, value in backbone.items())
    assert all(name.startswith(("model.necks.", "model.blocks.", "model.decoder.", "head.")) for name in new)
    with pytest.raises(ValueError, match="model_type='resnet' there, 'pvt_v2' here"):
        make_model("pvt_v2").load_backbone_weights(tmp_path)
