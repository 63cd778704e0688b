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
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close
from transformers import AutoImageProcessor
from transformers.utils import is_torchvision_available

from stepping_stones_hf import AAVSImageProcessor, AAVSImageProcessorPil
from stepping_stones_hf.data.labels import color_to_index
from stepping_stones_hf.models.aavs.image_processing_pil_aavs import is_sounding, resize_colors


BACKENDS = [
    pytest.param(AAVSImageProcessorPil, id="pil"),
    pytest.param(
        AAVSImageProcessor,
        id="torchvision",
        marks=pytest.mark.skipif(not is_torchvision_available(), reason="needs torchvision"),
    ),
]
both_backends = pytest.mark.parametrize("processor_class", BACKENDS)
both_stages = pytest.mark.parametrize("stage", [1, 2])

# Frames of 224x224 and 160x120. 16 pixels of v2_test0_0 have a color that is not in the palette.
FIXTURE_FRAMES = ["v1s_test0_0", "v2_test0_0", "v2_test0_1"]


def random_frame(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def map_with_square(height: int, width: int, class_index: int) -> np.ndarray:
    segmentation_map = np.zeros((height, width), dtype=np.uint8)
    segmentation_map[height // 4 : height // 2, width // 4 : width // 2] = class_index
    return segmentation_map


def random_outputs(num_frames: int, num_labels: int, height: int = 24, width: int = 24) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(0)
    return SimpleNamespace(
        class_queries_logits=torch.randn(num_frames, 5, num_labels + 1, generator=generator),
        masks_queries_logits=torch.randn(num_frames, 5, height, width, generator=generator),
    )


def flatten_targets(masks: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """The label map that disjoint masks come from, -1 where no class has a mask."""
    assert (masks.sum(0) <= 1).all()
    return (masks * (classes[:, None, None] + 1)).sum(0).long() - 1


class TestReleasedTensors:
    """Tensors computed by the released program."""

    def load(self, fixtures_dir, name, stage):
        folder = fixtures_dir / "aavs_dataset" / name
        frame, colors, label_map, targets = (
            Image.open(folder / file)
            for file in ("frame.png", "colors.png", f"stage{stage}_label_map.png", f"stage{stage}_targets.png")
        )
        return frame, colors, torch.from_numpy(np.array(label_map)), torch.from_numpy(np.array(targets))

    @pytest.mark.parametrize("name", FIXTURE_FRAMES)
    def test_pixel_values_are_equal_bit_by_bit(self, fixtures_dir, name):
        frame, *_ = self.load(fixtures_dir, name, 1)
        expected = load_file(fixtures_dir / "aavs_dataset" / "pixel_values.safetensors")[name]
        pixel_values = AAVSImageProcessorPil()(frame, return_tensors="pt")["pixel_values"]
        assert pixel_values.dtype == torch.float32
        assert_close(pixel_values[0, :, ::7, ::7], expected, rtol=0, atol=0)

    @pytest.mark.parametrize("name", FIXTURE_FRAMES)
    @both_stages
    @both_backends
    def test_targets_and_label_maps_are_equal(self, fixtures_dir, processor_class, stage, name):
        frame, colors, expected_label_map, expected_targets = self.load(fixtures_dir, name, stage)
        processor = processor_class(localization=stage == 1)
        # Only the colors hold what stage 1 sees in colors outside the palette.
        segmentation_map = colors if stage == 1 else color_to_index(colors, unknown_color="background")
        inputs = processor(frame, segmentation_maps=segmentation_map, return_tensors="pt")
        targets = flatten_targets(inputs["mask_labels"][0], inputs["class_labels"][0])
        assert torch.equal(targets, expected_targets.long())
        assert torch.equal(processor.prepare_label_maps(segmentation_map)[0], expected_label_map.long())

    @both_stages
    def test_whole_dataset_is_equal(self, shared_dir, stage):
        folder = shared_dir / "goldens" / "aavs_dataset"
        expected = load_file(folder / f"dataset_stage{stage}.safetensors")
        meta = json.loads((folder / f"dataset_stage{stage}.json").read_text())
        processor = AAVSImageProcessorPil(localization=stage == 1)
        for clip, entry in meta.items():
            # The first frame, the only one with labels, stands for all in the training split of v1s.
            indices = [0] * 5 if clip == "v1s_train0" else range(entry["n_frames"])
            clip_dir = folder / "tree" / clip.split("_")[0] / clip
            frames = [Image.open(clip_dir / "frames" / f"{index}.jpg") for index in indices]
            maps = [Image.open(clip_dir / "labels_rgb" / f"{index}.png") for index in indices]
            index_maps = [color_to_index(colors, unknown_color="background") for colors in maps]
            if stage == 2:
                maps = index_maps
            inputs = processor(
                frames,
                segmentation_maps=maps,
                prompt_masks=[index_map > 0 for index_map in index_maps],
                return_tensors="pt",
            )
            pixel_values = inputs["pixel_values"]
            assert torch.equal(pixel_values[:, :, ::7, ::7], expected[f"{clip}.pixel_values_sub7"]), clip
            if f"{clip}.pixel_values_frame0" in expected:
                assert torch.equal(pixel_values[0], expected[f"{clip}.pixel_values_frame0"])
            assert torch.equal(processor.prepare_label_maps(maps), expected[f"{clip}.mask_recs"].long()), clip
            assert [classes.tolist() for classes in inputs["class_labels"]] == entry["class_labels"]
            assert [masks.sum((1, 2)).tolist() for masks in inputs["mask_labels"]] == entry["mask_label_areas"]
            for index in (0, 1):
                assert torch.equal(inputs["mask_labels"][index], expected[f"{clip}.mask_labels.{index}"].float())
            if stage == 2:
                assert torch.equal(inputs["prompt_masks"], expected[f"{clip}.train_audio_boost_mask"].float())

    @both_stages
    def test_post_processing_is_equal(self, fixtures_dir, stage):
        tensors = load_file(fixtures_dir / "aavs_dataset" / "post_processing.safetensors")
        outputs = SimpleNamespace(
            class_queries_logits=tensors[f"stage{stage}.class_queries_logits"],
            masks_queries_logits=tensors[f"stage{stage}.masks_queries_logits"],
        )
        results = AAVSImageProcessorPil().post_process_semantic_segmentation(outputs, return_segmentation_scores=True)
        maps = torch.stack([result.segmentation for result in results])
        assert maps.dtype == torch.int64
        assert torch.equal(maps, tensors[f"stage{stage}.maps"].long())
        if stage == 1:
            scores = torch.stack([result.segmentation_scores for result in results])
            assert_close(scores[:, :, ::7, ::7], tensors["stage1.scores"], rtol=1e-5, atol=1e-6)


class TestFrames:
    @both_backends
    def test_kinds_of_frames_give_the_same_tensor(self, processor_class):
        array = random_frame(40, 60)
        image = Image.fromarray(array)
        expected = processor_class()([image], return_tensors="pt")["pixel_values"]
        assert expected.shape == (1, 3, 384, 384)
        for frames in (
            image,
            [array],
            [torch.from_numpy(array).permute(2, 0, 1)],
            torch.from_numpy(array).permute(2, 0, 1)[None],
            [[image]],
            image.convert("RGBA"),
        ):
            assert torch.equal(processor_class()(frames, return_tensors="pt")["pixel_values"], expected)

    @both_backends
    def test_frames_of_any_size_become_one_batch(self, processor_class):
        frames = [random_frame(*size) for size in ((30, 50), (64, 20), (30, 50))]
        processor = processor_class(size={"height": 48, "width": 32})
        pixel_values = processor([frames[:1], frames[1:]], return_tensors="pt")["pixel_values"]
        assert pixel_values.shape == (3, 3, 48, 32)
        for frame, expected in zip(frames, pixel_values):
            assert_close(processor(frame, return_tensors="pt")["pixel_values"][0], expected)

    @both_backends
    def test_gray_frames_become_rgb(self, processor_class):
        gray = Image.fromarray(random_frame(20, 20)[..., 0])
        raw = processor_class(size=20)(gray, do_rescale=False, do_normalize=False, return_tensors="pt")
        assert torch.equal(raw["pixel_values"][0].byte(), torch.from_numpy(np.array(gray)).expand(3, -1, -1))

    @pytest.mark.skipif(not is_torchvision_available(), reason="needs torchvision")
    @pytest.mark.parametrize("size", [(224, 224), (120, 160), (500, 333), (33, 800), (720, 1280)])
    def test_torchvision_stays_within_one_level_of_pil(self, size):
        frame = random_frame(*size)
        levels = [
            processor_class()(frame, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
            for processor_class in (AAVSImageProcessorPil, AAVSImageProcessor)
        ]
        assert (levels[0].int() - levels[1].int()).abs().max() <= 1
        normalized = [
            processor_class()(frame, return_tensors="pt")["pixel_values"]
            for processor_class in (AAVSImageProcessorPil, AAVSImageProcessor)
        ]
        assert (normalized[0] - normalized[1]).abs().max() < 1.01 / 255 / 0.223


class TestTargets:
    @both_backends
    def test_each_value_becomes_a_class_background_included(self, processor_class):
        frames = [random_frame(32, 32), random_frame(32, 32)]
        maps = [map_with_square(32, 32, 41), np.zeros((32, 32), dtype=np.uint8)]
        processor = processor_class(size=64, label_size=32)
        inputs = processor(frames, segmentation_maps=maps, return_tensors="pt")
        assert [classes.tolist() for classes in inputs["class_labels"]] == [[0, 41], [0]]
        assert [tuple(masks.shape) for masks in inputs["mask_labels"]] == [(2, 64, 64), (1, 64, 64)]
        assert {masks.dtype for masks in inputs["mask_labels"]} == {torch.float32}
        assert {classes.dtype for classes in inputs["class_labels"]} == {torch.int64}
        assert inputs["mask_labels"][0].sum((1, 2)).tolist() == [64 * 64 - 16 * 16, 16 * 16]
        assert inputs["mask_labels"][1].all()

    def test_kinds_of_maps_give_the_same_targets(self):
        frame, array = random_frame(30, 40), map_with_square(30, 40, 3)
        palette_image = Image.fromarray(array)
        palette_image.putpalette([0, 0, 0, 9, 9, 9, 5, 5, 5, 7, 7, 7])
        assert palette_image.mode == "P"
        expected = AAVSImageProcessorPil()(frame, segmentation_maps=array)
        for segmentation_map in (
            [array.astype(np.int64)],
            [[Image.fromarray(array)]],
            palette_image,
            torch.from_numpy(array)[None],
        ):
            inputs = AAVSImageProcessorPil()(frame, segmentation_maps=segmentation_map)
            assert torch.equal(inputs["mask_labels"][0], expected["mask_labels"][0])
            assert torch.equal(inputs["class_labels"][0], expected["class_labels"][0])

    @pytest.mark.parametrize("localization", [False, True])
    def test_ignored_pixels_get_no_target(self, localization):
        segmentation_map = map_with_square(48, 48, 7)
        segmentation_map[30:] = 255
        processor = AAVSImageProcessorPil(size=24, label_size=24, localization=localization)
        maps = [segmentation_map, np.full((48, 48), 255, dtype=np.uint8)]
        inputs = processor([random_frame(48, 48)] * 2, segmentation_maps=maps)
        assert inputs["class_labels"][0].tolist() == [0, 1 if localization else 7]
        covered = inputs["mask_labels"][0].sum(0)
        assert covered[:15].all() and not covered[15:].any()
        assert inputs["mask_labels"][1].shape == (0, 24, 24) and inputs["class_labels"][1].shape == (0,)
        assert (processor.prepare_label_maps(maps)[1] == 255).all()

    def test_label_size_lies_between_native_and_input_size(self):
        # A line of one pixel that the small label map does not see is not in the targets either.
        segmentation_map = np.zeros((96, 96), dtype=np.uint8)
        segmentation_map[0] = 5
        frame = random_frame(96, 96)
        inputs = AAVSImageProcessorPil(size=96, label_size=32)(frame, segmentation_maps=segmentation_map)
        assert inputs["class_labels"][0].tolist() == [0]
        inputs = AAVSImageProcessorPil(size=96, label_size=96)(frame, segmentation_maps=segmentation_map)
        assert inputs["class_labels"][0].tolist() == [0, 5]

    def test_targets_have_the_size_of_unresized_frames(self):
        inputs = AAVSImageProcessorPil(do_resize=False)(
            random_frame(20, 30), segmentation_maps=map_with_square(20, 30, 2), return_tensors="pt"
        )
        assert inputs["pixel_values"].shape == (1, 3, 20, 30)
        assert inputs["mask_labels"][0].shape == (2, 20, 30)


class TestLocalization:
    def test_native_label_size_takes_every_class_for_sounding(self):
        segmentation_map = np.arange(255, dtype=np.uint8).repeat(4).reshape(30, 34)
        processor = AAVSImageProcessorPil(localization=True, label_size={"height": 30, "width": 34})
        label_map = processor.prepare_label_maps(segmentation_map)[0]
        assert torch.equal(label_map, torch.from_numpy(segmentation_map != 0).long())

    def test_resizing_widens_objects_by_a_border(self):
        segmentation_map = map_with_square(160, 160, 17)
        wide = AAVSImageProcessorPil(localization=True).prepare_label_maps(segmentation_map)[0]
        narrow = AAVSImageProcessorPil().prepare_label_maps(segmentation_map)[0] > 0
        assert wide[narrow].all() and wide.sum() > narrow.sum()

    def test_the_class_decides_how_wide_the_border_is(self):
        # Bright green outshines dark blue: the border ends where the gray level is rounded to 0.
        processor = AAVSImageProcessorPil(localization=True, label_size=900)
        green, blue = (processor.prepare_label_maps(map_with_square(60, 60, index))[0].sum() for index in (2, 32))
        assert green > blue

    def test_binary_maps_are_enough(self):
        binary = map_with_square(60, 60, 1).astype(bool)
        label_map = AAVSImageProcessorPil(localization=True, label_size=60).prepare_label_maps(binary)[0]
        assert torch.equal(label_map.bool(), torch.from_numpy(binary))

    def test_ignored_pixels_do_not_spread_as_sounding_objects_do(self):
        segmentation_map = np.zeros((60, 60), dtype=np.uint8)
        segmentation_map[20:40] = 255
        label_map = AAVSImageProcessorPil(localization=True).prepare_label_maps(segmentation_map)[0]
        assert label_map.unique().tolist() == [0, 255]

    @pytest.mark.parametrize("case", [0, 1, 2], ids=["down", "up", "half"])
    def test_arithmetic_is_that_of_opencv(self, fixtures_dir, case):
        tensors = load_file(fixtures_dir / "aavs_dataset" / "opencv.safetensors")
        resized = tensors[f"{case}.resized"].numpy()
        assert np.array_equal(resize_colors(tensors[f"{case}.colors"].numpy(), resized.shape[:2]), resized)
        gray = tensors[f"{case}.gray"].numpy()
        assert (gray == 0).any() and (gray == 1).any()
        assert np.array_equal(is_sounding(resized), gray > 0)


class TestPromptMasks:
    def prepare(self, *masks, **kwargs) -> torch.Tensor:
        inputs = AAVSImageProcessorPil(size=32, **kwargs)(
            [random_frame(16, 16)] * len(masks), prompt_masks=list(masks), return_tensors="pt"
        )
        assert inputs["prompt_masks"].dtype == torch.float32
        return inputs["prompt_masks"]

    @both_backends
    def test_masks_of_any_size_and_kind_become_one_batch(self, processor_class):
        masks = [np.ones((9, 7), dtype=bool), Image.new("L", (300, 200), 255), torch.ones(5, 5, dtype=torch.float64)]
        inputs = processor_class()([random_frame(8, 8)] * 3, prompt_masks=masks, return_tensors="pt")
        assert torch.equal(inputs["prompt_masks"], torch.ones(3, 224, 224))

    def test_label_size_leaves_values_as_they_are(self):
        soft = np.random.default_rng(0).random((224, 224), dtype=np.float32)
        levels = random_frame(224, 224)[..., 0]
        prompts = self.prepare(soft, levels, levels > 99, Image.fromarray(levels > 99))
        assert torch.equal(prompts[0], torch.from_numpy(soft))
        assert torch.equal(prompts[1], torch.from_numpy(levels / 255).float())
        assert torch.equal(prompts[2], torch.from_numpy(levels > 99).float())
        assert torch.equal(prompts[3], prompts[2])

    def test_hard_masks_stay_hard_and_soft_masks_are_interpolated_as_in_the_model(self):
        hard = map_with_square(30, 30, 1).astype(bool)
        prompts = self.prepare(hard, hard.astype(np.float32), hard.astype(np.uint8) * 255, label_size=40)
        assert set(prompts[0].unique().tolist()) == {0.0, 1.0}
        soft = nn.functional.interpolate(
            torch.from_numpy(hard).float()[None, None], size=(40, 40), mode="bilinear", align_corners=False
        )[0, 0]
        assert len(soft.unique()) > 2
        assert_close(prompts[1], soft, rtol=0, atol=0)
        assert_close(prompts[2], soft, rtol=0, atol=0)

    @pytest.mark.parametrize(
        "mask, message",
        [
            (np.eye(4, dtype=np.uint8), "maximum is 1"),
            (np.eye(4, dtype=np.int64), "int64"),
            (np.eye(4) * 1.5, "0.0 to 1.5"),
            (np.eye(4) - 1, "-1.0 to 0.0"),
            (np.full((4, 4), np.nan), "nan"),
            (Image.new("P", (4, 4)), "mode P"),
            (Image.new("RGB", (4, 4)), r"\(4, 4, 3\)"),
        ],
    )
    def test_ambiguous_masks_are_refused_by_name(self, mask, message):
        with pytest.raises(ValueError, match=rf"prompt_masks\[1\].*{message}"):
            self.prepare(np.ones((4, 4), dtype=bool), mask)


class TestBadInput:
    @pytest.mark.parametrize("argument", ["segmentation_maps", "prompt_masks"])
    def test_other_number_than_frames(self, argument):
        maps = [np.zeros((8, 8), dtype=bool)] * 3
        with pytest.raises(ValueError, match=f"{argument}.*got 3 for 2"):
            AAVSImageProcessorPil()([random_frame(8, 8)] * 2, **{argument: maps})

    def test_map_of_another_size_than_its_frame(self):
        maps = [np.zeros((8, 8), dtype=np.uint8), np.zeros((8, 9), dtype=np.uint8)]
        with pytest.raises(ValueError, match=r"segmentation_maps\[1\].*\(8, 8\).*\(8, 9\)"):
            AAVSImageProcessorPil()([random_frame(8, 8)] * 2, segmentation_maps=maps)

    @pytest.mark.parametrize(
        "segmentation_map, message",
        [
            (np.full((8, 8), 256, dtype=np.uint16), "256"),
            (np.full((8, 8), -1, dtype=np.int64), "-1"),
            (np.zeros((8, 8), dtype=np.float32), "float32"),
            (Image.new("RGB", (8, 8)), "color_to_index"),
        ],
    )
    def test_maps_that_do_not_hold_class_indices(self, segmentation_map, message):
        with pytest.raises(ValueError, match=rf"segmentation_maps\[0\].*{message}"):
            AAVSImageProcessorPil()(random_frame(8, 8), segmentation_maps=[segmentation_map])

    def test_target_sizes_of_another_number_than_frames(self):
        with pytest.raises(ValueError, match="got 1 for 3"):
            AAVSImageProcessorPil().post_process_semantic_segmentation(random_outputs(3, 2), target_sizes=[(4, 4)])


class TestPostProcessing:
    def test_scores_are_the_sum_over_queries_at_the_post_process_size(self):
        outputs = random_outputs(2, 4, height=6, width=10)
        processor = AAVSImageProcessorPil(post_process_size={"height": 12, "width": 30})
        results = processor.post_process_semantic_segmentation(
            outputs, target_sizes=[(9, 20), (50, 7)], return_segmentation_scores=True
        )
        masks = nn.functional.interpolate(outputs.masks_queries_logits, size=(12, 30), mode="bilinear").sigmoid()
        for frame, (result, size) in enumerate(zip(results, [(9, 20), (50, 7)])):
            scores = sum(
                outputs.class_queries_logits[frame, query].softmax(0)[:4, None, None] * masks[frame, query]
                for query in range(5)
            )
            scores = nn.functional.interpolate(scores[None], size=size, mode="bilinear")[0]
            assert_close(result.segmentation_scores, scores)
            assert torch.equal(result.segmentation, result.segmentation_scores.argmax(0))

    def test_maps_have_the_label_size_by_default(self):
        maps = AAVSImageProcessorPil(label_size=56).post_process_semantic_segmentation(random_outputs(2, 71))
        assert [tuple(segmentation.shape) for segmentation in maps] == [(56, 56), (56, 56)]

    def test_frames_do_not_depend_on_each_other(self):
        outputs = random_outputs(3, 2)
        processor = AAVSImageProcessorPil()
        together = processor.post_process_semantic_segmentation(outputs)
        for frame in range(3):
            alone = SimpleNamespace(
                class_queries_logits=outputs.class_queries_logits[frame : frame + 1],
                masks_queries_logits=outputs.masks_queries_logits[frame : frame + 1],
            )
            assert torch.equal(processor.post_process_semantic_segmentation(alone)[0], together[frame])

    def test_half_precision_logits_give_float32_scores(self):
        outputs = random_outputs(1, 2)
        half = SimpleNamespace(**{name: logits.bfloat16() for name, logits in vars(outputs).items()})
        result = AAVSImageProcessorPil().post_process_semantic_segmentation(half, return_segmentation_scores=True)[0]
        assert result.segmentation_scores.dtype == torch.float32


class TestSaving:
    @both_backends
    def test_round_trip_keeps_every_setting(self, tmp_path, processor_class):
        processor = processor_class(
            size=96, label_size={"height": 40, "width": 56}, post_process_size=48, localization=True, ignore_index=200
        )
        processor.save_pretrained(tmp_path)
        backend = "pil" if processor_class is AAVSImageProcessorPil else "torchvision"
        for loaded in (
            processor_class.from_pretrained(tmp_path),
            AutoImageProcessor.from_pretrained(tmp_path, backend=backend),
        ):
            assert type(loaded) is processor_class
            assert loaded.to_dict() == processor.to_dict()
            assert (loaded.label_size.height, loaded.label_size.width) == (40, 56)
            assert loaded.post_process_size.height == 48 and loaded.size.height == 96
            assert loaded.localization is True and loaded.ignore_index == 200

    def test_settings_can_be_given_for_one_call(self):
        processor = AAVSImageProcessorPil(size=32, label_size=32)
        frame, segmentation_map = random_frame(32, 32), map_with_square(32, 32, 9)
        once = processor(frame, segmentation_maps=segmentation_map, localization=True, size=16)
        assert once["class_labels"][0].tolist() == [0, 1] and once["mask_labels"][0].shape == (2, 16, 16)
        again = processor(frame, segmentation_maps=segmentation_map)
        assert again["class_labels"][0].tolist() == [0, 9] and again["mask_labels"][0].shape == (2, 32, 32)
