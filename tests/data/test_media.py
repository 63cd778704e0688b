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
import numpy as np
import pytest
from PIL import Image

from stepping_stones_hf import media, video
from stepping_stones_hf.data.labels import index_to_color
from stepping_stones_hf.data.media import read_binary_mask, read_semantic_mask
from stepping_stones_hf.models.loss_mask_classification import MaskClassificationLoss
from stepping_stones_hf.training import localizer

from ..test_media import encode_image, random_pixels


class TestMasks:
    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
    def test_binary_mask_is_the_same_in_every_mode(self, mode):
        expected = random_pixels(20, 30) > 127
        if mode == "P":
            # The index counts, not the color: both entries of the palette are black.
            image = Image.fromarray(expected.astype(np.uint8), mode="P")
            image.putpalette(bytes(6))
        elif mode == "1":
            image = Image.fromarray(expected)
        else:
            image = Image.fromarray(expected.astype(np.uint8) * 255).convert(mode)
        assert image.mode == mode
        mask = read_binary_mask(encode_image(image))
        assert mask.dtype == np.uint8 and np.array_equal(mask, expected)

    def test_faintest_pixel_is_foreground(self):
        gray, colors = np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.uint8)
        gray[1, 2], colors[1, 2, 2] = 1, 1
        assert np.array_equal(read_binary_mask(encode_image(Image.fromarray(gray))), gray)
        assert np.array_equal(read_binary_mask(encode_image(Image.fromarray(colors))), gray)

    def test_semantic_mask_has_the_class_indices_in_its_own_size(self):
        index_map = random_pixels(20, 30) % 71
        colors = Image.fromarray(index_to_color(index_map))
        mask = read_semantic_mask(encode_image(colors))
        assert mask.dtype == np.uint8 and np.array_equal(mask, index_map)
        # Saved with a palette, by which the file is smaller; the order of its entries is the program's.
        assert np.array_equal(read_semantic_mask(encode_image(colors.quantize(71))), index_map)

    def test_colors_outside_the_palette_name_the_file_or_become_background(self, tmp_path):
        colors = index_to_color(np.full((4, 4), 5))
        colors[0, :3] = (1, 2, 3)
        path = tmp_path / "0.png"
        Image.fromarray(colors).save(path)
        with pytest.raises(ValueError, match=rf"{path}: 3 of 16 pixels .*\(1, 2, 3\)"):
            read_semantic_mask(path)
        assert np.array_equal(read_semantic_mask(path, "background"), [[0, 0, 0, 5]] + [[5] * 4] * 3)


def test_what_has_moved_is_found_with_a_warning_that_says_where():
    with pytest.warns(DeprecationWarning, match=r"is now stepping_stones_hf\.media\.read_audio"):
        from stepping_stones_hf.data.media import read_audio
    assert read_audio is media.read_audio
    with pytest.warns(DeprecationWarning, match=r"video\.Second is now stepping_stones_hf\.video\.ClipSecond"):
        assert video.Second is video.ClipSecond
    with pytest.warns(DeprecationWarning, match=r"is now stepping_stones_hf\.video\.write_annotated"):
        assert video.write_painted is video.write_annotated
    with pytest.warns(DeprecationWarning, match=r"first_stage is now stepping_stones_hf\.training\.localizer"):
        from stepping_stones_hf.training.first_stage import predict_masks
    assert predict_masks is localizer.predict_masks
    with pytest.warns(DeprecationWarning, match=r"is now .*loss_mask_classification\.MaskClassificationLoss"):
        from stepping_stones_hf.models.aavs.loss_aavs import AAVSLoss
    assert AAVSLoss is MaskClassificationLoss
