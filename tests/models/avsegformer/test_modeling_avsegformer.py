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
"""AVSegFormer's own behavior; what every model has to do is in tests/models/test_modeling_common.py."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import ResNetModel

from stepping_stones_hf import AVSegFormerForAudioVisualSegmentation, AVSegFormerModel

from .conftest import make_config, make_inputs, make_model


def run(model, inputs, **kwargs):
    with torch.no_grad():
        return model(**inputs, **kwargs)


def test_each_frame_is_on_its_own(tiny_model):
    inputs = make_inputs(tiny_model)
    logits = run(tiny_model, inputs).logits
    for frame in range(len(logits)):
        single = run(tiny_model, {name: value[frame : frame + 1] for name, value in inputs.items()}).logits
        assert_close(single, logits[frame : frame + 1], atol=1e-4, rtol=1e-4)


def test_two_labels_have_one_logit_and_more_have_one_each(tiny_model):
    num_labels = tiny_model.config.num_labels
    logits = run(tiny_model, make_inputs(tiny_model)).logits
    assert logits.shape == (7, 1 if num_labels == 2 else num_labels, 64, 96)


def test_attention_to_the_sound_is_that_to_a_single_token():
    # What the released program has, with whatever queries and keys.
    layer = make_model().model.query_generator.layers[0]
    literal = nn.MultiheadAttention(32, 4, bias=False, batch_first=True)
    queries, audio = torch.randn(3, 5, 32), torch.randn(3, 1, 32)
    with torch.no_grad():
        literal.in_proj_weight[64:] = layer.audio_v_proj.weight
        literal.out_proj.weight.copy_(layer.audio_o_proj.weight)
        expected, _ = literal(queries, audio, audio)
        assert_close(layer.audio_o_proj(layer.audio_v_proj(audio)).expand(-1, 5, -1), expected)


@pytest.mark.parametrize("position", ["after_mixer", "before_mixer"])
def test_where_the_prompt_is_added(position):
    model = make_model("resnet", num_labels=7, use_mask_prompt=True, mask_prompt_position=position)
    plain = make_model("resnet", num_labels=7)
    plain.load_state_dict(model.state_dict())
    inputs = make_inputs(model)
    prompts = inputs.pop("prompt_masks")
    prompted, unprompted = run(model.model, inputs, prompt_masks=prompts), run(plain.model, inputs)
    assert torch.equal(prompted.last_hidden_state, unprompted.last_hidden_state)
    assert torch.equal(prompted.unprompted_mask_features, unprompted.mask_features)
    resized = nn.functional.interpolate(prompts[:, None], (16, 24), mode="bilinear", align_corners=False)
    if position == "after_mixer":
        assert_close(prompted.mask_features, unprompted.mask_features + resized)
    else:
        raw = []
        plain.model.mixer.register_forward_pre_hook(lambda module, args: raw.append(args))
        run(plain.model, inputs)
        with torch.no_grad():
            features, audio = raw[0]
            assert_close(prompted.mask_features, plain.model.mixer(features + resized, audio))
    # Both the masks of the queries and the features that these are added to see it.
    with torch.no_grad():
        assert_close(
            run(model, inputs, prompt_masks=prompts).logits,
            model.head(prompted.last_hidden_state, prompted.mask_features),
        )
    assert torch.equal(run(model, inputs, prompt_masks=torch.zeros(7, 4, 4)).logits, run(plain, inputs).logits)


def test_frames_that_are_no_multiples_of_the_largest_stride_are_refused():
    model = make_model()
    inputs = {**make_inputs(model), "pixel_values": torch.zeros(7, 3, 64, 100)}
    with pytest.raises(ValueError, match="frames of 64x100; height and width must be multiples of 32"):
        run(model, inputs)


def test_a_new_deformable_attention_looks_in_eight_directions_with_equal_weights():
    torch.manual_seed(0)
    model = AVSegFormerModel(make_config(num_attention_heads=8, num_sampling_points=3))
    attention = model.encoder.layers[0].self_attn
    offsets = attention.sampling_offsets.bias.detach().view(8, 3, 3, 2)  # heads, levels, points, x and y
    for head in range(8):
        direction = torch.tensor([math.cos(head * math.pi / 4), math.sin(head * math.pi / 4)])
        for point in range(3):
            expected = (point + 1) * direction / direction.abs().max()
            assert_close(offsets[head, :, point], expected.expand(3, 2))
    for parameter in (
        attention.sampling_offsets.weight,
        attention.attention_weights.weight,
        attention.attention_weights.bias,
    ):
        assert not parameter.any()


@pytest.mark.parametrize("backbone", ["pvt_v2", "resnet"])
def test_in_the_first_phase_of_training_the_backbone_is_frozen(backbone):
    model = make_model(backbone)
    for phase, frozen in ((1, True), (2, False)):
        assert model.start_training_phase(phase) == []
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad != (frozen and name.startswith("model.backbone.")), (phase, name)


def test_batch_norms_of_a_frozen_backbone_follow_their_batches():
    model = make_model("resnet").train()
    model.start_training_phase(1)
    before = {name: value.clone() for name, value in model.named_buffers() if "running_mean" in name}
    run(model, make_inputs(model))
    after = dict(model.named_buffers())
    assert before and all(not torch.equal(after[name], value) for name, value in before.items())


def test_the_backbone_starts_from_pretrained_weights_and_the_rest_is_named(tmp_path):
    torch.manual_seed(3)
    pretrained = ResNetModel(make_config("resnet").backbone_config)
    pretrained.save_pretrained(tmp_path)
    model = make_model("resnet")
    new = model.load_backbone_weights(tmp_path)
    state_dict, source = model.state_dict(), pretrained.state_dict()
    backbone = {name.removeprefix("model.backbone."): value for name, value in state_dict.items() if name not in new}
    assert backbone and all(torch.equal(value, source[name]) for name, value in backbone.items())
    assert not any("backbone" in name for name in new) and len(new) + len(backbone) == len(state_dict)
    with pytest.raises(ValueError, match="model_type='resnet' there, 'pvt_v2' here"):
        make_model("pvt_v2").load_backbone_weights(tmp_path)


def test_dropout_is_for_training_alone():
    model = make_model(dropout=0.5)
    inputs = make_inputs(model)
    assert torch.equal(run(model, inputs).logits, run(make_model(dropout=0.0), inputs).logits)
    model.train()
    assert not torch.equal(run(model, inputs).logits, run(model, inputs).logits)


def test_a_whole_model_of_one_frame_trains():
    model: AVSegFormerForAudioVisualSegmentation = make_model(num_labels=7).train()
    inputs = make_inputs(model, (1,), height=64, width=64)
    labels = torch.zeros(1, 64, 64, dtype=torch.int64)
    labels[:, :, 32:] = 3
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(**inputs, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
