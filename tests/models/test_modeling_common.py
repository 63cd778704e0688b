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
"""
What every registered model does, and what transformers' common tests ask of a model.

A model takes part as soon as it is registered. Its `tests/models/<model_type>/conftest.py` has

- `make_tiny_model(kind, **overrides)`: a `"localizer"` or a `"mask-prompted"` model in eval mode without an audio
  encoder, of some ten thousand parameters away from zero, with fields of its config overridden;
- `make_inputs(model, num_frames=(...), height=64, width=96)`: its inputs with `audio_embeddings`, for clips of so many
  frames;
- `make_targets(model, inputs)`: the targets that go with them.
"""

import copy
import importlib
import inspect
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
import transformers
from packaging import version
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from stepping_stones_hf import AutoModelForAudioVisualSegmentation, VGGishConfig
from stepping_stones_hf.models import cpu_inference
from stepping_stones_hf.models.aavs import modeling_aavs
from stepping_stones_hf.models.auto import MODEL_FOR_AUDIO_VISUAL_SEGMENTATION_MAPPING, make_processor
from stepping_stones_hf.models.modeling_base import is_localizer
from stepping_stones_hf.models.pair_loss import label_pairs


MODEL_TYPES = sorted(
    config_class.model_type
    for config_class in MODEL_FOR_AUDIO_VISUAL_SEGMENTATION_MAPPING
    if config_class.__module__.startswith("stepping_stones_hf.")
)
KINDS = ("localizer", "mask-prompted")

TINY_VGGISH = {"conv_channels": [4, 4, 8, 8], "conv_depths": [1, 1, 1, 1], "hidden_size": 16}


@dataclass
class Case:
    """A tiny model of one kind, and what makes its like."""

    factory: ModuleType
    kind: str
    model: PreTrainedModel

    @property
    def config(self) -> PreTrainedConfig:
        return self.model.config

    def make_model(self, **overrides) -> PreTrainedModel:
        return self.factory.make_tiny_model(self.kind, **overrides)

    def make_inputs(self, *args, **kwargs) -> dict:
        return self.factory.make_inputs(self.model, *args, **kwargs)

    def make_targets(self, inputs: dict) -> dict:
        return self.factory.make_targets(self.model, inputs)


@pytest.fixture(params=[f"{model_type}, {kind}" for model_type in MODEL_TYPES for kind in KINDS])
def case(request) -> Case:
    model_type, kind = request.param.split(", ")
    factory = importlib.import_module(f"{__package__}.{model_type}.conftest")
    return Case(factory, kind, factory.make_tiny_model(kind))


def run(model, inputs: dict, **kwargs):
    with torch.no_grad():
        return model(**inputs, **kwargs)


def get_tensors(outputs) -> dict[str, torch.Tensor]:
    """Every tensor of an output, by its place in it."""
    if isinstance(outputs, torch.Tensor):
        return {"": outputs}
    items = outputs.items() if isinstance(outputs, dict) else enumerate(outputs)
    return {
        f"{name}.{place}": tensor
        for name, item in items
        if item is not None
        for place, tensor in get_tensors(item).items()
    }


def assert_same(outputs, expected, **tolerances) -> None:
    tensors, expected_tensors = get_tensors(outputs), get_tensors(expected)
    assert tensors.keys() == expected_tensors.keys() and tensors
    for name, tensor in tensors.items():
        assert_close(tensor, expected_tensors[name], msg=lambda message, name=name: f"{name}: {message}", **tolerances)


EXACTLY = {"atol": 0, "rtol": 0}
NEARLY = {"atol": 1e-4, "rtol": 1e-4}


def align(model: PreTrainedModel) -> PreTrainedModel:
    """
    A loaded model with its weights where an initialized one has them. A file is mapped into memory as it is, and
    products with matrices that do not begin at a multiple of 16 bytes may be rounded in another order.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.clone()
    return model


def move(values, device_or_dtype):
    """Inputs with their floating-point tensors in another precision."""
    return {
        name: value.to(device_or_dtype) if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in values.items()
    }


def get_scores(case: Case, outputs) -> torch.Tensor:
    """The scores of all labels that the model's own processor reads off, of the first frames as of the others."""
    image_processor = make_processor(case.config, localization=is_localizer(case.config)).image_processor
    num_frames, frames = image_processor.get_segmentation_scores(outputs)
    scores = torch.stack(list(frames))
    assert len(scores) == num_frames
    return scores


# Contract ------------------------------------------------------------------------------------------------------------


def test_the_config_says_what_the_house_has_to_know(case):
    assert is_localizer(case.config) == (case.kind == "localizer")
    assert case.config.use_mask_prompt == (case.kind == "mask-prompted")
    assert case.config.clip_length is None or case.config.clip_length > 1
    assert case.config.audio_config is None and not case.model.has_audio_encoder
    assert case.model.main_input_name == "pixel_values"
    assert set(case.model.input_modalities) == {"image", "audio"}


def test_the_auto_classes_know_the_model(case):
    assert type(AutoModelForAudioVisualSegmentation.from_config(case.config)) is type(case.model)
    assert type(AutoModel.from_config(case.config)) is type(case.model.base_model)
    assert case.model.base_model is not case.model


def test_the_processor_reads_scores_of_each_label_in_each_frame(case):
    inputs = case.make_inputs()
    outputs = run(case.model, inputs)
    scores = get_scores(case, outputs)
    assert scores.shape[:2] == (len(inputs["pixel_values"]), case.config.num_labels)
    assert scores.isfinite().all() and scores.dtype == torch.float32
    image_processor = make_processor(case.config, localization=is_localizer(case.config)).image_processor
    sizes = [(20 + frame, 30) for frame in range(len(scores))]
    label_maps = image_processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
    of_tensor = image_processor.post_process_semantic_segmentation(outputs, target_sizes=torch.tensor(sizes))
    torch.testing.assert_close(of_tensor, label_maps)
    assert [tuple(label_map.shape) for label_map in label_maps] == sizes
    assert all(label_map.min() >= 0 and label_map.max() < case.config.num_labels for label_map in label_maps)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 64), (32, 128)])
def test_frames_of_other_sizes(case, height, width):
    inputs = case.make_inputs(height=height, width=width)
    assert get_scores(case, run(case.model, inputs)).isfinite().all()
    targets = case.make_targets(inputs)
    assert run(case.model, inputs, **targets).loss.isfinite()


def test_clips_do_not_see_one_another(case):
    inputs = case.make_inputs((5, 2))
    scores = get_scores(case, run(case.model, inputs))
    for start, end in ((0, 5), (5, 7)):
        clip = {name: value[start:end] for name, value in inputs.items() if name != "num_frames"}
        if case.config.clip_length is not None:
            clip["num_frames"] = torch.tensor([end - start])
        assert_close(get_scores(case, run(case.model, clip)), scores[start:end], **NEARLY)


def test_groups_of_the_clip_length_do_not_see_one_another(case):
    length = case.config.clip_length or 1
    inputs = case.make_inputs((2 * length + 1,))
    scores = get_scores(case, run(case.model, inputs))
    for start, end in ((0, length), (length, 2 * length), (2 * length, 2 * length + 1)):
        group = {name: value[start:end] for name, value in inputs.items() if name != "num_frames"}
        if case.config.clip_length is not None:
            group["num_frames"] = torch.tensor([end - start])
        assert_close(get_scores(case, run(case.model, group)), scores[start:end], **NEARLY)


def test_each_input_matters(case):
    inputs = case.make_inputs((5, 2))
    scores = get_scores(case, run(case.model, inputs))
    for name in inputs.keys() - {"num_frames"}:
        assert not torch.equal(get_scores(case, run(case.model, {**inputs, name: inputs[name].flip(0)})), scores), name


def test_evaluation_is_deterministic_and_leaves_nothing_behind(case):
    inputs = case.make_inputs()
    expected = run(case.model, inputs)
    run(case.model, case.make_inputs(height=96, width=32))
    assert_same(run(case.model, inputs), expected, **EXACTLY)


def test_the_loss_is_divided_by_what_it_is_told(case):
    inputs = case.make_inputs((5, 2))
    targets = case.make_targets(inputs)
    normalizers = case.model.get_loss_normalizers({**inputs, **targets})
    assert normalizers.ndim == 1 and normalizers.isfinite().all()
    losses = []
    for num_items in (None, normalizers, 2 * normalizers, 4 * normalizers):
        torch.manual_seed(0)
        losses.append(run(case.model, inputs, **targets, num_items_in_batch=num_items).loss)
    assert losses[0].ndim == 0
    assert_close(losses[1], losses[0])
    # A term may be a sum, which nothing divides; the others are half as large each time.
    assert losses[1] > losses[2]
    assert_close(losses[2] - losses[3], (losses[1] - losses[2]) / 2, atol=1e-5, rtol=1e-4)


def test_without_targets_there_is_no_loss(case):
    assert run(case.model, case.make_inputs()).loss is None


def test_sound_and_its_embeddings_are_the_same_to_the_model(case):
    model = case.make_model(audio_config=VGGishConfig(**TINY_VGGISH))
    assert model.has_audio_encoder
    inputs = case.make_inputs()
    patches = torch.randn(len(inputs["pixel_values"]), 96, 64)
    with torch.no_grad():
        embeddings = model.base_model.get_audio_embeddings(patches)
    assert embeddings.shape == inputs["audio_embeddings"].shape
    expected = run(model, {**inputs, "audio_embeddings": embeddings})
    del inputs["audio_embeddings"]
    assert_same(run(model, inputs, input_features=patches), expected, **EXACTLY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"audio_embeddings": None}, "either `input_features` or `audio_embeddings`"),
        ({"input_features": torch.zeros(3, 96, 64)}, "either `input_features` or `audio_embeddings`"),
        ({"audio_embeddings": torch.zeros(2, 128)}, "`audio_embeddings` has 2 rows for 3 frames"),
        ({"audio_embeddings": torch.zeros(3, 1, 128)}, r"must have shape \(frames, 128\), got \(3, 1, 128\)"),
        ({"audio_embeddings": torch.zeros(3, 64)}, r"must have shape \(frames, 128\), got \(3, 64\)"),
        ({"audio_embeddings": None, "input_features": torch.zeros(3, 96, 64)}, "has no audio encoder"),
        ({"pixel_values": torch.zeros(3, 64, 64)}, r"`pixel_values` must have shape .* got \(3, 64, 64\)"),
    ],
)
def test_sound_that_does_not_fit_is_refused(case, change, message):
    with pytest.raises(ValueError, match=message):
        run(case.model, {**case.make_inputs((3,)), **change})


def test_prompts_that_do_not_fit_are_refused(case):
    inputs = case.make_inputs((3,))
    if case.kind == "localizer":
        with pytest.raises(ValueError, match="takes no `prompt_masks`"):
            run(case.model, inputs, prompt_masks=torch.zeros(3, 8, 8))
        return
    for prompt_masks in (torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(3, 1, 8, 8)):
        with pytest.raises(ValueError, match="floating-point numbers in"):
            run(case.model, {**inputs, "prompt_masks": prompt_masks})
    with pytest.raises(ValueError, match=r"needs `prompt_masks`.*subfolder=\"localizer\""):
        run(case.model, {**inputs, "prompt_masks": None})
    with pytest.raises(ValueError, match="`prompt_masks` has 1 rows for 3 frames"):
        run(case.model, {**inputs, "prompt_masks": inputs["prompt_masks"][:1]})


# Saving and loading --------------------------------------------------------------------------------------------------


def test_saving_and_loading_are_exact_and_safetensors_only(case, tmp_path):
    case.model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    assert len(load_file(tmp_path / "model.safetensors")) == len(case.model.state_dict())
    inputs = case.make_inputs()
    expected = run(case.model, inputs)

    loaded, info = type(case.model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.state_dict().keys() == case.model.state_dict().keys()
    for name, value in case.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert_same(run(align(loaded), inputs), expected, **EXACTLY)

    auto = AutoModelForAudioVisualSegmentation.from_pretrained(tmp_path)
    assert type(auto) is type(case.model)
    assert_same(run(align(auto), inputs), expected, **EXACTLY)
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is type(case.model.base_model)
    assert_same(run(align(base), inputs), run(case.model.base_model, inputs), **EXACTLY)


def test_a_saved_config_comes_back_equal(case, tmp_path):
    case.config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is type(case.config)
    loaded.name_or_path = case.config.name_or_path
    assert loaded.to_dict() == case.config.to_dict()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_saved_and_loaded_as_it_is(case, tmp_path, dtype):
    case.model.to(dtype).save_pretrained(tmp_path)
    loaded = type(case.model).from_pretrained(tmp_path)
    for name, value in case.model.state_dict().items():
        assert loaded.state_dict()[name].dtype == value.dtype, name
        assert torch.equal(loaded.state_dict()[name], value), name
    assert loaded.dtype == dtype
    whole = type(case.model).from_pretrained(tmp_path, dtype=torch.float32)
    assert {parameter.dtype for parameter in whole.parameters()} == {torch.float32}


def test_the_state_dict_is_the_whole_state(case):
    torch.manual_seed(1)
    other = type(case.model)(case.config).eval()
    inputs = case.make_inputs()
    run(other, case.make_inputs(height=96, width=64))
    other.load_state_dict(case.model.state_dict())
    assert_same(run(other, inputs), run(case.model, inputs), **EXACTLY)


def test_other_labels_begin_with_the_rest_of_the_weights(case, tmp_path):
    case.model.save_pretrained(tmp_path)
    num_labels = case.config.num_labels + 3
    loaded, info = type(case.model).from_pretrained(
        tmp_path, num_labels=num_labels, ignore_mismatched_sizes=True, output_loading_info=True
    )
    mismatched = {key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]}
    assert mismatched and not info["missing_keys"] and not info["unexpected_keys"]
    state_dict = loaded.state_dict()
    for name, value in case.model.state_dict().items():
        if name in mismatched:
            assert state_dict[name].shape != value.shape and state_dict[name].isfinite().all(), name
        else:
            assert torch.equal(state_dict[name], value), name


# Initial weights -----------------------------------------------------------------------------------------------------


def test_initial_weights_follow_from_the_seed(case):
    weights = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        weights.append(type(case.model)(case.config).state_dict())
    for name, value in weights[0].items():
        assert value.isfinite().all() and torch.equal(weights[1][name], value), name
    assert any(not torch.equal(weights[2][name], value) for name, value in weights[0].items())


def test_weights_that_a_checkpoint_lacks_begin_as_those_of_a_new_model(case):
    config = copy.deepcopy(case.config)
    config.audio_config = VGGishConfig(**TINY_VGGISH)
    torch.manual_seed(0)
    fresh = type(case.model)(config)
    torch.manual_seed(1)
    loaded = type(case.model).from_pretrained(None, config=config, state_dict={})
    for (name, new), old in zip(loaded.named_parameters(), fresh.parameters()):
        assert new.isfinite().all(), name
        if new.numel() >= 64:
            assert new.std().item() == pytest.approx(old.std().item(), rel=0.5, abs=1e-6), name
    for (name, new), old in zip(loaded.named_buffers(), fresh.buffers()):
        assert torch.equal(new, old), name


def test_a_model_can_be_made_without_memory(case):
    """As the training script checks names, and as `from_pretrained` begins."""
    with torch.device("meta"):
        model = type(case.model)(case.config)
    expected = case.model.state_dict()
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in expected.items()
    }
    assert {value.device.type for value in model.state_dict().values()} == {"meta"}


# Modules -------------------------------------------------------------------------------------------------------------


def test_every_tensor_is_a_parameter_or_a_buffer(case):
    """Others stay behind when a model moves to another device."""
    run(case.model, case.make_inputs())
    for name, module in case.model.named_modules():
        assert [key for key, value in vars(module).items() if isinstance(value, torch.Tensor)] == [], name


def test_forward_takes_what_the_house_passes_by_name(case):
    parameters = inspect.signature(case.model.forward).parameters
    assert next(iter(parameters)) == "pixel_values"
    expected = {"input_features", "audio_embeddings", "prompt_masks", "num_items_in_batch"}
    if case.config.clip_length is not None:
        expected.add("num_frames")
    assert expected | case.make_targets(case.make_inputs()).keys() <= parameters.keys()


def test_input_embeddings_are_those_of_the_frames(case):
    """What PEFT makes require gradients under gradient checkpointing."""
    seen = []
    embeddings = case.model.get_input_embeddings()
    embeddings.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    inputs = case.make_inputs()
    run(case.model, inputs)
    assert torch.equal(seen[0][0], inputs["pixel_values"])

    case.model.requires_grad_(False)
    case.model.enable_input_require_grads()
    case.model(**inputs)
    assert seen[1][1].requires_grad
    case.model.disable_input_require_grads()
    case.model(**inputs)
    assert not seen[2][1].requires_grad


def test_what_is_not_split_is_there(case):
    """FSDP wraps these one by one: blocks, and nothing that holds most of the model."""
    model = case.make_model(audio_config=VGGishConfig(**TINY_VGGISH))
    classes = [type(module).__name__ for module in model.modules()]
    assert model._no_split_modules and set(model._no_split_modules) <= set(classes)
    total = model.num_parameters()
    for module in model.base_model.modules():
        if type(module).__name__ in model._no_split_modules:
            assert sum(parameter.numel() for parameter in module.parameters()) < total / 2, type(module).__name__


def test_each_linear_layer_is_one(case):
    """What LoRA, its merging and quantization rely on."""
    for name, module in case.model.named_modules():
        if isinstance(module, nn.Linear):
            assert not [*module.children()], name
            inputs = torch.randn(3, module.in_features)
            assert_close(module(inputs), nn.functional.linear(inputs, module.weight, module.bias), msg=name)


def test_a_new_model_has_the_linear_layers_of_torch(case):
    """Some quantizers of transformers, which change a model before it is loaded, take no others."""
    model = type(case.model)(case.config)
    assert {type(module) for module in model.modules() if isinstance(module, nn.Linear)} == {nn.Linear}
    assert not any(type(module) is nn.Linear for module in model.eval().modules())


def test_a_model_that_has_recorded_can_be_copied(case):
    inputs = case.make_inputs()
    expected = run(case.model, inputs, output_hidden_states=True)
    copied = copy.deepcopy(case.model)
    assert_same(run(copied, inputs, output_hidden_states=True), expected, **EXACTLY)


# Outputs -------------------------------------------------------------------------------------------------------------


def test_a_tuple_holds_what_the_dictionary_holds(case):
    inputs = case.make_inputs()
    for model in (case.model, case.model.base_model):
        assert_same(run(model, inputs, return_dict=False), run(model, inputs).to_tuple(), **EXACTLY)


def test_hidden_states_on_request(case):
    inputs = case.make_inputs()
    plain = run(case.model, inputs)
    assert plain.hidden_states is None
    outputs = run(case.model, inputs, output_hidden_states=True)
    assert len(outputs.hidden_states) > 1
    assert all(hidden_state.isfinite().all() for hidden_state in outputs.hidden_states)
    assert_close(get_scores(case, outputs), get_scores(case, plain))


@pytest.mark.skipif(
    version.parse(transformers.__version__) < version.parse("5.23"), reason="takes a list of hidden states for True"
)
def test_single_hidden_states_are_counted_from_the_end_as_well(case):
    inputs = case.make_inputs()
    expected = run(case.model, inputs, output_hidden_states=True).hidden_states
    found = run(case.model, inputs, output_hidden_states=[-1]).hidden_states
    assert [state is None for state in found] == [True] * (len(expected) - 1) + [False]
    assert torch.equal(found[-1], expected[-1])


def test_hidden_states_keep_their_gradients(case):
    inputs = case.make_inputs()
    outputs = case.model(**inputs, output_hidden_states=True)
    for hidden_state in outputs.hidden_states:
        hidden_state.retain_grad()
    get_scores(case, outputs).sum().backward()
    assert all(hidden_state.grad is not None for hidden_state in outputs.hidden_states[:-1])


def test_attention_implementations_agree_and_eager_gives_attentions(case):
    if not case.model._supports_sdpa:
        pytest.skip(f"{type(case.model).__name__} has no choice of attention implementations")
    inputs = case.make_inputs()
    sdpa = run(case.model, inputs)
    case.model.set_attn_implementation("eager")
    eager = run(case.model, inputs, output_attentions=True)
    assert_close(get_scores(case, eager), get_scores(case, sdpa), **NEARLY)
    assert sdpa.attentions is None and eager.attentions
    for weights in eager.attentions:
        assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))


def test_one_clip_compiles_and_exports_as_one_graph(case):
    inputs = case.make_inputs((3,))
    inputs.pop("num_frames", None)
    # Recorded, then not: recording leaves hooks behind.
    recorded = run(case.model, inputs, output_hidden_states=True)
    plain = run(case.model, inputs)
    torch._dynamo.reset()
    compiled = torch.compile(case.model, backend="eager", fullgraph=True)
    assert_same(run(compiled, inputs), plain, **NEARLY)
    kwargs = {**inputs, "output_hidden_states": True}
    program = torch.export.export(case.model, (), kwargs, strict=False)
    assert_same(run(program.module(), kwargs), recorded, **NEARLY)


# Pair loss -----------------------------------------------------------------------------------------------------------


def make_pair_model(case: Case, weight: float = 1.0) -> PreTrainedModel:
    """The model of the case with a pair head."""
    model = case.make_model(pair_loss_weight=weight)
    missing, unexpected = model.load_state_dict(case.model.state_dict(), strict=False)
    assert not unexpected and missing == ["pair_head.projection.weight", "pair_head.projection.bias"]
    return model


def test_a_pair_head_leaves_all_else_as_it_is(case):
    model = make_pair_model(case)
    inputs = case.make_inputs()
    outputs, plain = run(model, inputs), run(case.model, inputs)
    assert "pair_logits" not in plain and "pair_features" not in run(case.model.base_model, inputs)
    assert not case.model.has_pair_head and model.has_pair_head
    outputs, pair_logits = dict(outputs), outputs.pair_logits
    del outputs["pair_logits"]
    assert pair_logits.shape == (len(inputs["pixel_values"]),) and pair_logits.abs().max() <= 1 + 1e-6
    assert_same(outputs, plain, **EXACTLY)


def test_the_pair_loss_is_one_more_term(case):
    weight = 2.0
    model, inputs = make_pair_model(case, weight), case.make_inputs()
    targets = case.make_targets(inputs)
    losses = []
    for each in (case.model, model):
        torch.manual_seed(0)
        losses.append(run(each, inputs, **targets))
    plain, outputs = losses
    assert outputs.loss_dict.keys() - plain.loss_dict.keys() == {"loss_pair"}
    sounding, annotated = label_pairs(targets.get("class_labels", targets.get("labels")))
    assert annotated.any() and sounding.any()
    terms = nn.functional.softplus(torch.where(sounding, -outputs.pair_logits, outputs.pair_logits))
    assert_close(outputs.loss_dict["loss_pair"], weight * terms[annotated].mean())
    assert_close(outputs.loss, plain.loss + outputs.loss_dict["loss_pair"])
    # What it is divided by comes last, after what the rest is.
    normalizers = model.get_loss_normalizers({**inputs, **targets})
    assert torch.equal(normalizers[:-1], case.model.get_loss_normalizers({**inputs, **targets}))
    assert normalizers[-1] == annotated.sum()
    torch.manual_seed(0)
    halved = run(model, inputs, **targets, num_items_in_batch=normalizers * torch.eye(len(normalizers))[-1].add(1))
    assert_close(halved.loss_dict["loss_pair"], outputs.loss_dict["loss_pair"] / 2)


def test_the_pair_loss_reaches_what_projects_the_sound_and_sees_the_frames(case):
    model, inputs = make_pair_model(case), case.make_inputs()
    loss = model(**inputs, **case.make_targets(inputs)).loss_dict["loss_pair"]
    loss.backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {"pair_head.projection.weight", "pair_head.projection.bias"} <= reached
    assert any("backbone" in name for name in reached)
    assert any(name.startswith("model.") and ("audio" in name or "blocks.3" in name) for name in reached)
    # Neither what names things nor the prompt knows whether a sound goes with a frame.
    assert not any("class_predictor" in name or name.startswith("head.") for name in reached)


def test_pairs_do_not_depend_on_the_prompt(case):
    if case.kind == "localizer":
        return
    model, inputs = make_pair_model(case), case.make_inputs()
    expected = run(model, inputs).pair_logits
    empty = {**inputs, "prompt_masks": torch.zeros_like(inputs["prompt_masks"])}
    assert_close(run(model, empty).pair_logits, expected, **EXACTLY)
    heard = {**inputs, "audio_embeddings": inputs["audio_embeddings"].flip(0)}
    assert not torch.equal(run(model, heard).pair_logits, expected)


def test_a_checkpoint_gets_and_loses_a_pair_head(case, tmp_path):
    case.model.save_pretrained(tmp_path / "plain")
    torch.manual_seed(0)
    model = type(case.model).from_pretrained(tmp_path / "plain", pair_loss_weight=1.0)
    bound = model.pair_head.projection.in_features**-0.5
    assert 0.5 * bound < model.pair_head.projection.weight.abs().max() <= bound
    model.save_pretrained(tmp_path / "pairs")
    loaded, info = type(case.model).from_pretrained(tmp_path / "pairs", output_loading_info=True)
    assert loaded.config.pair_loss_weight == 1 and not info["missing_keys"]
    assert torch.equal(loaded.pair_head.projection.weight, model.pair_head.projection.weight)
    without = type(case.model).from_pretrained(tmp_path / "pairs", pair_loss_weight=0.0)
    assert without.state_dict().keys() == case.model.state_dict().keys()


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_a_weight_of_the_pair_loss_that_is_none_is_refused(case, weight):
    with pytest.raises(Exception, match="pair_loss_weight=.* must be at least 0"):
        case.make_model(pair_loss_weight=weight)


def test_frames_whose_sound_does_not_fit_are_background(case):
    model, inputs = make_pair_model(case), case.make_inputs()
    outputs = run(model, inputs)
    image_processor = make_processor(case.config, localization=is_localizer(case.config)).image_processor
    scores = torch.stack(list(image_processor.get_segmentation_scores(outputs)[1]))
    fitness = outputs.pair_logits.sigmoid()
    threshold = fitness.sort().values[-1].item()  # one frame fits
    num_frames, gated = image_processor.get_gated_scores(outputs, threshold)
    for frame, of_frame in enumerate(gated):
        fits = bool(fitness[frame] >= threshold)
        assert torch.equal(
            of_frame, scores[frame] if fits else scores[frame] * torch.eye(len(of_frame))[0, :, None, None]
        )
    assert num_frames == frame + 1 == len(fitness)
    for option in ({}, {"return_segmentation_scores": True}):
        results = image_processor.post_process_semantic_segmentation(outputs, sound_threshold=threshold, **option)
        maps = [result if torch.is_tensor(result) else result.segmentation for result in results]
        assert not any(maps[frame].any() for frame in range(num_frames) if fitness[frame] < threshold)
    with pytest.raises(ValueError, match="sound_threshold is for models that were trained with a pair loss"):
        image_processor.post_process_semantic_segmentation(run(case.model, inputs), sound_threshold=0.5)


# Training ------------------------------------------------------------------------------------------------------------


def get_gradients(model: PreTrainedModel, inputs: dict, targets: dict) -> dict[str, torch.Tensor]:
    """Loss, gradients, and buffers after a training step without its update."""
    torch.manual_seed(0)
    loss = model.train()(**inputs, **targets).loss
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"loss": loss.detach(), **gradients, **dict(model.named_buffers())}


def make_all_products_large(monkeypatch) -> None:
    """From here on models compute as they do with large frames."""
    monkeypatch.setattr(cpu_inference, "MIN_VECTORS", 0)
    monkeypatch.setattr(cpu_inference, "MIN_MULTIPLICATIONS", 0)
    monkeypatch.setattr(modeling_aavs, "MAX_BYTES", 1)


def test_large_products_are_what_small_ones_are(case, monkeypatch):
    assert not any(type(module) is nn.Linear for module in case.model.modules())
    inputs = case.make_inputs()
    expected, gradients = run(case.model, inputs), get_gradients(case.make_model(), inputs, case.make_targets(inputs))
    make_all_products_large(monkeypatch)
    assert_same(run(case.model, inputs), expected, **NEARLY)
    # What learns does not change.
    assert_same(get_gradients(case.make_model(), inputs, case.make_targets(inputs)), gradients, **EXACTLY)


def enable_checkpointing(model: PreTrainedModel, **kwargs) -> None:
    # Before 5.23 it had the name that is deprecated since.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(kwargs or None)


def make_hearing_case(case: Case) -> tuple[PreTrainedModel, dict, dict]:
    """A model with an audio encoder, its inputs with sound, and targets."""
    inputs = case.make_inputs()
    targets = case.make_targets(inputs)
    del inputs["audio_embeddings"]
    inputs["input_features"] = torch.randn(len(inputs["pixel_values"]), 96, 64)
    return case.make_model(audio_config=VGGishConfig(**TINY_VGGISH)), inputs, targets


def test_linear_layers_may_have_hooks_on_gradients(case):
    # They refuse that what a layer gives is changed in place, which transformers' ResNet does after convolutions.
    inputs = case.make_inputs()
    targets = case.make_targets(inputs)
    expected = get_gradients(copy.deepcopy(case.model), inputs, targets)
    for module in case.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_full_backward_hook(lambda *_: None)
    assert_same(get_gradients(case.model, inputs, targets), expected, **NEARLY)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_loss_and_gradients(case, use_reentrant):
    model, inputs, targets = make_hearing_case(case)
    expected = get_gradients(copy.deepcopy(model), inputs, targets)
    assert expected.keys() >= {name for name, _ in model.named_parameters()}
    enable_checkpointing(model, use_reentrant=use_reentrant)
    results = get_gradients(model, inputs, targets)
    assert results.keys() == expected.keys()
    assert_same(results, expected, atol=1e-4, rtol=1e-3)


def test_gradient_checkpointing_of_what_is_frozen_in_part(case):
    """As in fine-tuning: what comes first learns nothing, what comes last does."""
    inputs = case.make_inputs()
    targets = case.make_targets(inputs)
    for name, parameter in case.model.named_parameters():
        parameter.requires_grad_("backbone" not in name)
    expected = get_gradients(copy.deepcopy(case.model), inputs, targets)
    enable_checkpointing(case.model)
    results = get_gradients(case.model, inputs, targets)
    assert results.keys() == expected.keys()
    assert_same(results, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
def test_gradient_checkpointing_is_one_thing_by_any_name(case):
    layers = [module for module in case.model.modules() if hasattr(module, "gradient_checkpointing")]
    assert layers and not case.model.is_gradient_checkpointing
    case.model.gradient_checkpointing_enable()
    assert all(layer.gradient_checkpointing for layer in layers)
    case.model.gradient_checkpointing_disable()
    assert not case.model.is_gradient_checkpointing
    enable_checkpointing(case.model)
    assert all(layer.gradient_checkpointing for layer in layers)
    assert case.model.is_gradient_checkpointing


def test_the_audio_encoder_is_frozen_by_whoever_trains(case):
    model, inputs, targets = make_hearing_case(case)
    model.freeze_audio_encoder()
    model.eval()
    trained = get_gradients(model, inputs, targets).keys()
    frozen = {name for name, _ in model.named_parameters()} - trained
    assert frozen == {name for name, _ in model.named_parameters() if ".audio_encoder." in name} != set()
    # What somebody makes trainable stays trainable.
    model.requires_grad_(True).eval().train()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_each_parameter_learns(case):
    inputs = case.make_inputs()
    gradients = get_gradients(case.model, inputs, case.make_targets(inputs))
    trainable = [name for name, parameter in case.model.named_parameters() if parameter.requires_grad]
    assert [name for name in trainable if name not in gradients] == []
    assert all(value.isfinite().all() for value in gradients.values())


HALF_PRECISIONS = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


@HALF_PRECISIONS
@pytest.mark.parametrize("autocast", [True, False])
def test_the_loss_is_computed_in_full_precision(case, dtype, autocast):
    inputs = case.make_inputs()
    targets = case.make_targets(inputs)
    expected = get_gradients(copy.deepcopy(case.model), inputs, targets)["loss"]
    if autocast:
        with torch.autocast("cpu", dtype):
            results = get_gradients(case.model, inputs, targets)
    else:
        results = get_gradients(case.model.to(dtype), move(inputs, dtype), targets)
    assert results["loss"].dtype == torch.float32
    assert_close(results["loss"], expected, rtol=0.1, atol=0)
    assert all(value.isfinite().all() for value in results.values())


@HALF_PRECISIONS
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_is_near_full_precision(case, dtype, autocast):
    inputs = case.make_inputs()
    expected = get_scores(case, run(case.model, inputs))
    if autocast:
        with torch.autocast("cpu", dtype):
            scores = get_scores(case, run(case.model, inputs))
    else:
        scores = get_scores(case, run(case.model.to(dtype), move(inputs, dtype)))
    assert scores.dtype == torch.float32
    assert (scores - expected).abs().mean() < 0.1 * expected.abs().max()


# On a GPU ------------------------------------------------------------------------------------------------------------

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def move_to_gpu(values):
    if torch.is_tensor(values):
        return values.cuda()
    if isinstance(values, dict):
        return {name: move_to_gpu(value) for name, value in values.items()}
    return [move_to_gpu(value) for value in values] if isinstance(values, list) else values


@needs_gpu
def test_a_gpu_gives_what_the_cpu_gives(case, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model, inputs, _ = make_hearing_case(case)
    expected = get_scores(case, run(model, inputs))
    scores = get_scores(case, run(model.cuda(), move_to_gpu(inputs)))
    assert_close(scores.cpu(), expected, **NEARLY)


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_training_on_a_gpu(case, dtype):
    model, inputs, targets = make_hearing_case(case)
    expected = get_gradients(copy.deepcopy(model), inputs, targets)
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        results = get_gradients(model.cuda(), move_to_gpu(inputs), move_to_gpu(targets))
    assert results.keys() == expected.keys()
    assert all(value.isfinite().all() for value in results.values())
    # The points of the mask losses are drawn by another generator.
    assert_close(results["loss"].cpu(), expected["loss"], rtol=0.1, atol=0)
