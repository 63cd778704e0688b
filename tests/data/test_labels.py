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

import numpy as np
import pytest
from PIL import Image

from stepping_stones_hf.data.labels import CLASS_NAMES, PALETTE, color_to_index, index_to_color


def random_index_map(height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(0).integers(0, len(CLASS_NAMES), (height, width), dtype=np.uint8)


class TestClasses:
    def test_background_comes_before_70_classes_in_alphabetical_order(self):
        assert len(CLASS_NAMES) == 71
        assert CLASS_NAMES[0] == "background"
        assert list(CLASS_NAMES[1:]) == sorted(set(CLASS_NAMES[1:]))

    def test_indices_are_those_of_avsbench(self, shared_dir):
        label2idx = json.loads((shared_dir / "goldens" / "aavs_dataset" / "tree" / "label2idx.json").read_text())
        assert {name: index + 1 for index, name in enumerate(CLASS_NAMES)} == label2idx


class TestPalette:
    def test_colors_are_those_of_pascal_voc(self):
        known = {
            0: (0, 0, 0),
            1: (128, 0, 0),
            2: (0, 128, 0),
            7: (128, 128, 128),
            8: (64, 0, 0),
            20: (0, 64, 128),
            64: (32, 0, 0),
            70: (32, 128, 128),
        }
        assert PALETTE.shape == (71, 3) and PALETTE.dtype == np.uint8
        assert {index: tuple(PALETTE[index].tolist()) for index in known} == known

    def test_colors_are_those_of_the_released_program(self, shared_dir):
        units = json.loads((shared_dir / "goldens" / "aavs_units" / "units_stage2.json").read_text())
        assert PALETTE.tolist() == units["palette"]


class TestConversion:
    def test_colors_and_indices_are_exact_inverses(self):
        index_map = random_index_map()
        colors = index_to_color(index_map)
        assert colors.shape == (40, 60, 3) and colors.dtype == np.uint8
        restored = color_to_index(colors)
        assert restored.dtype == np.uint8
        assert np.array_equal(restored, index_map)

    def test_no_color_outside_the_palette_is_taken_for_a_class(self):
        axis = np.arange(256, dtype=np.uint8)
        for red in range(0, 256, 16):
            colors = np.stack(np.meshgrid(red, axis, axis, indexing="ij"), axis=-1).astype(np.uint8)[0]
            index_map = color_to_index(colors, unknown_color="background")
            found = index_map > 0
            assert np.array_equal(PALETTE[index_map[found]], colors[found])
            in_palette = (PALETTE[1:, 0] == red).sum()
            assert found.sum() == in_palette

    def test_images_of_any_mode_are_converted(self):
        index_map = random_index_map()
        colors = Image.fromarray(index_to_color(index_map))
        palette_image = Image.fromarray(index_map)
        palette_image.putpalette(PALETTE.flatten().tolist())
        assert palette_image.mode == "P"
        for image in (colors, colors.convert("RGBA"), palette_image):
            assert np.array_equal(color_to_index(image), index_map)
        assert np.array_equal(index_to_color(palette_image), np.array(colors))

    def test_unknown_colors_are_counted_and_the_file_is_named(self):
        colors = index_to_color(random_index_map())
        colors[3, :5] = (1, 2, 3)
        colors[4, 0] = (255, 255, 255)
        with pytest.raises(ValueError, match=r"v2/x/0\.png: 6 of 2400 pixels.*2 colors, such as \(1, 2, 3\)"):
            color_to_index(colors, path="v2/x/0.png")

    def test_unknown_colors_become_background_on_request(self):
        index_map = random_index_map()
        colors = index_to_color(index_map)
        colors[3, :5] = (1, 2, 3)
        index_map[3, :5] = 0
        assert np.array_equal(color_to_index(colors, unknown_color="background"), index_map)

    def test_unknown_colors_of_the_released_dataset_become_background(self, fixtures_dir):
        colors = Image.open(fixtures_dir / "aavs_dataset" / "v2_test0_0" / "colors.png")
        with pytest.raises(ValueError, match="16 of 19200 pixels"):
            color_to_index(colors)
        index_map = color_to_index(colors, unknown_color="background")
        # At 224x224 the released program found these classes.
        expected = Image.open(fixtures_dir / "aavs_dataset" / "v2_test0_0" / "stage2_label_map.png")
        resized = Image.fromarray(index_map).resize(expected.size, Image.Resampling.NEAREST)
        assert np.array_equal(np.array(resized), np.array(expected))


class TestBadInput:
    @pytest.mark.parametrize("index", [-1, 71, 255])
    def test_indices_without_a_class(self, index):
        with pytest.raises(ValueError, match=rf"\[0, 70\], got.*{index}"):
            index_to_color(np.array([[0, index]]))

    @pytest.mark.parametrize(
        "color_map", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))]
    )
    def test_maps_that_are_not_rgb(self, color_map):
        with pytest.raises(ValueError, match="uint8 RGB"):
            color_to_index(color_map)

    def test_misspelled_option(self):
        with pytest.raises(ValueError, match="'ignore'"):
            color_to_index(np.zeros((4, 4, 3), np.uint8), unknown_color="ignore")
