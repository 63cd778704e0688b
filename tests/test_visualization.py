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
import re

import numpy as np
import pytest
from PIL import Image

from stepping_stones_hf.data.labels import CLASS_NAMES, PALETTE
from stepping_stones_hf.training.report import make_class_table
from stepping_stones_hf.visualization import (
    BINARY_PALETTE,
    LOUDNESS_COLORS,
    blend,
    describe,
    draw_grid,
    draw_sound_strip,
    make_layer,
    overlay,
    plot_class_bars,
    plot_curves,
)


CAR, GUITAR, DOG = (CLASS_NAMES.index(name) for name in ("car", "guitar", "dog"))
TABLE = """\
method,subset,class,name,frames,iou,fscore,iou_star,fscore_star
stage 1,S4,0,background,,,,0.900000,0.950000
stage 1,S4,1,sounding,20,0.700000,0.800000,0.600000,0.700000
stage 2,all,0,background,20,0.900000,0.950000,0.910000,0.960000
stage 2,all,1,accordion,0,0.000000,0.000000,0.000000,
stage 2,all,10,bus,4,0.250000,0.300000,0.500000,0.600000
stage 2,all,17,dog,7,0.400000,0.500000,0.350000,0.450000
stage 1 alone,all,17,dog,7,0.100000,0.200000,0.300000,0.400000
"""


def mixed(frame_color, label_color, opacity=0.65) -> list[int]:
    alpha = round(255 * opacity) / 255
    return np.round((1 - alpha) * np.array(frame_color) + alpha * np.array(label_color)).astype(int).tolist()


def rows_of(layer: Image.Image, index: int) -> np.ndarray:
    """Where the strip at the bottom has the opaque color of a class: for each column of the layer, how many rows."""
    pixels = np.asarray(layer)[layer.height * 2 // 3 :]
    return (pixels == (*PALETTE[index], 255)).all(axis=-1).sum(axis=0)


def cursor_of(layer: Image.Image) -> int:
    """The leftmost column that is white down to the last row, which no bar reaches."""
    return int(np.flatnonzero((np.asarray(layer)[-1] == 255).all(axis=-1))[0])


def test_overlay_colors_labeled_pixels_alone():
    frame = Image.new("RGB", (4, 2), (10, 20, 30))
    label_map = np.array([[0, DOG]])  # half as large as the frame and smaller: the left half is background
    pixels = np.asarray(overlay(frame, label_map))
    assert (pixels[:, :2] == (10, 20, 30)).all()
    assert (pixels[:, 2:] == mixed((10, 20, 30), PALETTE[DOG])).all()
    assert np.asarray(frame).max() == 30, "the caller's frame was drawn on"


def test_overlay_takes_masks_of_stage_1():
    pixels = np.asarray(overlay(Image.new("L", (2, 1), 100), np.array([[False, True]]), BINARY_PALETTE, opacity=1))
    assert pixels.tolist() == [[[100] * 3, [255] * 3]]


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        (np.zeros((2, 3, 4), int), "(2, 3, 4)"),
        (np.full((2, 3), 0.5), "float64"),
        (np.array([[0, 71]]), "[0, 70], as the palette has 71 colors, got 0 to 71"),
        (np.array([[-1, 3]]), "got -1 to 3"),
    ],
)
def test_what_is_no_label_map_is_refused(label_map, message):
    for draw in (lambda: overlay(Image.new("RGB", (3, 2)), label_map), lambda: make_layer((3, 2), label_map)):
        with pytest.raises(ValueError, match=f"label_map should hold .*{re.escape(message)}"):
            draw()


def test_an_opacity_in_percent_is_refused():
    with pytest.raises(ValueError, match=r"opacity should be in \[0, 1\], got 65"):
        overlay(Image.new("RGB", (1, 1)), np.array([[1]]), opacity=65)


def test_describe_names_what_sounds():
    assert describe(np.array([[0, DOG], [CAR, 0]])) == "car, dog"
    assert describe(np.zeros((2, 2), int)) == "silence"
    assert describe(np.array([[True]]), {0: "background", 1: "sounding"}) == "sounding"


def test_a_layer_changes_nothing_but_labeled_pixels_legend_and_strip():
    frame = np.random.default_rng(0).integers(256, size=(240, 320, 3), dtype=np.uint8)
    label_map = np.zeros((240, 320), dtype=int)
    label_map[100:150, 200:260] = DOG
    painted = blend(frame, make_layer((320, 240), label_map, [[DOG]], 3.0))

    assert painted.dtype == np.uint8 and painted.shape == frame.shape
    expected = mixed(frame[100:150, 200:260], PALETTE[DOG])
    assert np.abs(painted[100:150, 200:260].astype(int) - expected).max() <= 1
    changed = (painted != frame).any(axis=-1)
    changed[100:150, 200:260] = False
    assert changed[:40, :80].any(), "no legend"
    assert changed[-14:].any(), "no strip"
    changed[:40, :80] = changed[-14:] = False
    assert not changed.any()


def test_a_silent_second_without_timeline_leaves_the_frame_as_it_is():
    frame = np.random.default_rng(0).integers(256, size=(36, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(blend(frame, make_layer((64, 36), np.zeros((9, 16), int))), frame)


@pytest.mark.parametrize("size", [(320, 240), (1920, 1080), (1080, 1920)])
def test_legend_has_the_color_of_each_class_in_the_label_map(size):
    label_map = np.zeros((24, 32), dtype=int)
    label_map[20, 30], label_map[20, 31] = DOG, CAR
    corner = make_layer(size, label_map).crop((0, 0, size[0] // 3, size[1] // 6))
    swatches = [(np.asarray(corner) == (*PALETTE[index], 255)).all(axis=-1) for index in (CAR, DOG, GUITAR)]
    car, dog, guitar = [np.argwhere(swatch) for swatch in swatches]
    assert len(car) == len(dog) >= 49, "too small to be seen"  # 7 x 7 pixels
    assert car[:, 0].max() < dog[:, 0].min(), "not in the order of the classes"
    assert not len(guitar)


def test_legend_grows_with_the_frame():
    label_map = np.zeros((24, 32), dtype=int)
    label_map[23, 31] = DOG
    boxes = [
        make_layer(size, label_map).crop((0, 0, size[0] // 2, size[1] // 2)).getbbox()
        for size in ((640, 360), (1280, 720))
    ]
    (_, _, width, height), (_, _, large_width, large_height) = boxes
    assert large_width == pytest.approx(2 * width, rel=0.1) and large_height == pytest.approx(2 * height, rel=0.1)


def test_a_full_legend_keeps_the_largest_classes_and_counts_the_others(monkeypatch):
    entries = []
    draw_legend = "stepping_stones_hf.visualization._draw_legend"
    monkeypatch.setattr(draw_legend, lambda lines, *_: entries.extend(lines) or Image.new("RGBA", (1, 1)))
    # Class 1 covers one pixel, class 2 two, ..., class 20 twenty.
    label_map = np.repeat(np.arange(1, 21), np.arange(1, 21)).reshape(1, -1)
    make_layer((320, 240), label_map)
    names = [name for name, _ in entries]
    assert names == [*CLASS_NAMES[14:21], "+ 13 more"]
    assert entries[-1][1] is None


def test_a_full_legend_stays_in_the_upper_half():
    label_map = np.zeros((240, 320), dtype=int)
    label_map[-1, :40] = np.arange(1, 41)
    layer = np.asarray(make_layer((320, 240), label_map))
    assert layer[:120].any() and not layer[130:-1].any()


def test_legend_names_the_masks_of_stage_1():
    label_map = np.array([[0, 1]])
    layer = make_layer((320, 240), label_map, names={0: "background", 1: "sounding"}, palette=BINARY_PALETTE)
    assert layer.getpixel((319, 239)) == (255, 255, 255, 166)
    assert layer.getpixel((5, 5)) == (0, 0, 0, 160), "the name does not stand on a veil"
    longer = make_layer((320, 240), label_map, names=("background", "sounding and more"), palette=BINARY_PALETTE)
    assert longer.crop((0, 0, 160, 240)).getbbox()[2] > layer.crop((0, 0, 160, 240)).getbbox()[2]


def test_a_class_without_a_name_is_refused():
    with pytest.raises(ValueError, match="names should have a name for each class of the label map, 17 has none"):
        make_layer((320, 240), np.array([[DOG]]), names={0: "background", 1: "sounding"})


def test_strip_shows_what_sounded_when():
    # 10 s over 320 columns: a second is 32 columns wide.
    layer = make_layer((320, 240), np.zeros((3, 4), int), [[DOG], [DOG, CAR], [], [CAR]], 10.0)
    dog, car = rows_of(layer, DOG), rows_of(layer, CAR)
    thickness = dog[0]
    assert thickness > 0
    np.testing.assert_array_equal(dog, np.repeat([thickness, thickness] + [0] * 8, 32))
    np.testing.assert_array_equal(car, np.repeat([0, thickness, 0, thickness] + [0] * 6, 32))


def test_the_last_second_of_the_strip_may_be_cut_short():
    layer = make_layer((320, 240), np.zeros((3, 4), int), [[], [DOG], [CAR]], 2.5)  # 128 columns a second
    assert np.flatnonzero(rows_of(layer, DOG))[[0, -1]].tolist() == [128, 255]
    assert np.flatnonzero(rows_of(layer, CAR))[[0, -1]].tolist() == [256, cursor_of(layer) - 1]


def test_rows_of_the_strip_are_in_the_order_of_their_first_sound():
    layer = np.asarray(make_layer((320, 240), np.zeros((3, 4), int), [[DOG], [CAR]], 10.0))
    first, second = (np.argwhere((layer == (*PALETTE[index], 255)).all(axis=-1)) for index in (DOG, CAR))
    assert first[:, 0].max() < second[:, 0].min()


def test_cursor_moves_right_to_the_end_of_the_second():
    cursors = [cursor_of(make_layer((320, 240), np.zeros((3, 4), int), [[DOG]] * second, 9.5)) for second in (1, 2, 9)]
    assert cursors == [round(320 * second / 9.5) for second in (1, 2, 9)]
    assert cursor_of(make_layer((320, 240), np.zeros((3, 4), int), [[DOG]] * 10, 9.5)) == 320 - 2


def test_a_video_that_begins_in_silence_has_its_strip():
    layer = make_layer((320, 240), np.zeros((3, 4), int), [[], []], 4.0)
    assert cursor_of(layer) == 160
    assert np.asarray(layer)[-1].any(axis=-1).all()


def test_an_hour_and_many_classes_leave_the_strip_small():
    classes = list(range(1, 71))
    layer = np.asarray(make_layer((64, 48), np.zeros((3, 4), int), [classes] * 3000, 3600.0))
    assert not layer[:30].any()
    bars = layer[-10, :, :3].max(axis=-1)
    assert (bars[:53] > 0).all() and not bars[55:].any()


@pytest.mark.parametrize(
    ("timeline", "num_seconds", "message"),
    [
        ([[DOG]], None, r"num_seconds .*\(1 seconds\), got None"),
        ([[DOG]] * 4, 2.5, r"num_seconds .*\(4 seconds\), got 2.5"),
        ([[0]], 1.0, r"timeline should hold class indices in \[1, 70\], got 0"),
        ([[71]], 1.0, r"timeline should hold class indices in \[1, 70\], got 71"),
    ],
)
def test_a_timeline_that_does_not_fit_is_refused(timeline, num_seconds, message):
    with pytest.raises(ValueError, match=message):
        make_layer((320, 240), np.zeros((3, 4), int), timeline, num_seconds)


@pytest.mark.parametrize("frame", [np.zeros((4, 4, 3), np.uint8), np.zeros((3, 4, 3)), np.zeros((3, 4, 4), np.uint8)])
def test_blend_refuses_a_frame_of_another_shape_or_type(frame):
    with pytest.raises(ValueError, match=rf"shape \(3, 4, 3\), .* uint8, got {re.escape(str(frame.shape))}"):
        blend(frame, make_layer((4, 3), np.zeros((3, 4), int)))


def test_grid_has_each_picture_in_its_place():
    rows = [[(Image.new("RGB", (8, 8), color), "") for color in row] for row in (("red", "lime"), ("blue", "gray"))]
    grid = draw_grid(("frame", "truth"), rows, size=20)
    centers = [[grid.getpixel((6 + 26 * column + 10, 24 + 42 * row + 10)) for column in range(2)] for row in range(2)]
    assert centers == [[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (128, 128, 128)]]


def test_captions_of_a_grid_are_as_wide_as_their_picture_at_most():
    long = ", ".join(CLASS_NAMES)
    alone, beside = [
        np.asarray(draw_grid(("", ""), [[(Image.new("RGB", (8, 8)), text) for text in texts]], size=80))
        for texts in ((long, ""), (long, long))
    ]
    assert (alone[24 + 80 :, 86:] == 255).all() and (alone[24 + 80 :, :86] < 128).any()
    np.testing.assert_array_equal(beside[:, :86], alone[:, :86])


def test_sound_strip_has_a_loud_band_at_its_time_and_pitch():
    # Of the second of two seconds, the third quarter is loud in the lowest quarter of the bands.
    patches = np.full((2, 96, 64), -4.6)
    patches[1, 48:72, :16] = 2.0
    strip = np.asarray(draw_sound_strip([Image.new("RGB", (64, 64), "lime")] * 2, patches, size=96))
    assert strip.shape == (96 + 4 + 48, 96 + 4 + 96, 3)
    sound = strip[100:]
    loud = (sound == LOUDNESS_COLORS[255]).all(axis=-1)
    expected = np.zeros((48, 196), dtype=bool)
    expected[36:, 100 + 48 : 100 + 72] = True
    np.testing.assert_array_equal(loud, expected)
    quiet = (sound == LOUDNESS_COLORS[0]).all(axis=-1)
    np.testing.assert_array_equal(quiet[:, :96], np.ones((48, 96), dtype=bool))
    assert (strip[:96, :96] == (0, 255, 0)).all(), "the frame does not stand above its sound"


def test_sound_strip_keeps_the_shape_of_frames_and_lays_masks_over_them():
    frames = [Image.new("RGB", (160, 90)), Image.new("RGB", (160, 90))]
    label_maps = [np.zeros((9, 16), int), np.full((9, 16), CAR)]
    strip = draw_sound_strip(frames, np.zeros((2, 96, 64)), label_maps)
    assert strip.size == (160 + 6 + 160, 90 + 6 + 80)
    assert strip.getpixel((80, 45)) == (0, 0, 0)
    assert list(strip.getpixel((246, 45))) == mixed((0, 0, 0), PALETTE[CAR])


def test_a_clip_without_sound_is_dark():
    strip = draw_sound_strip([Image.new("RGB", (8, 8))], np.full((1, 96, 64), np.log(0.01)))
    assert strip.crop((0, 166, 160, 246)).getextrema() == ((0, 0), (0, 0), (0, 0))


def test_louder_is_lighter():
    luminance = LOUDNESS_COLORS @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(luminance) >= 0).all() and luminance[0] == 0 and luminance[-1] > 240
    assert np.abs(luminance - np.linspace(0, luminance[-1], 256)).max() < 50


@pytest.mark.parametrize(
    ("input_features", "label_maps", "message"),
    [
        (np.zeros((3, 96, 64)), None, r"input_features should be of shape \(2, 96, 64\).*got \(3, 96, 64\)"),
        (np.zeros((2, 96)), None, r"input_features .*got \(2, 96\)"),
        (np.full((2, 96, 64), np.nan), None, "input_features should be finite"),
        (np.zeros((2, 96, 64)), [np.zeros((4, 4), int)], "label_maps should be one for each of the 2 frames, got 1"),
    ],
)
def test_sound_strip_refuses_what_does_not_match_the_frames(input_features, label_maps, message):
    with pytest.raises(ValueError, match=message):
        draw_sound_strip([Image.new("RGB", (4, 4))] * 2, input_features, label_maps)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "per_class.csv"
    path.write_text(TABLE)
    return path


def test_class_bars_read_what_evaluation_writes():
    assert TABLE.startswith(make_class_table({}))


def test_class_bars_are_those_of_the_table_the_best_first(table, tmp_path):
    pytest.importorskip("matplotlib")
    axes = plot_class_bars(table, tmp_path / "bars.png", "stage 2").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["background (20)", "dog (7)", "bus (4)"]
    avsbench, cavp = axes.containers
    assert list(avsbench.datavalues) == [0.9, 0.4, 0.25]
    assert list(cavp.datavalues) == [0.91, 0.35, 0.5]
    tops = [bar.get_y() for bar in avsbench]
    assert tops == sorted(tops) and axes.yaxis_inverted(), "the best is not at the top"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bars.png", "per_class.csv"]
    assert Image.open(tmp_path / "bars.png").width == 840


def test_class_bars_of_stage_1_have_no_iou_of_the_background_by_avsbench(table, tmp_path):
    pytest.importorskip("matplotlib")
    axes = plot_class_bars(table, tmp_path / "bars.png", "stage 1", "S4").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sounding (20)", "background"]
    avsbench, cavp = axes.containers
    np.testing.assert_array_equal(avsbench.datavalues, [0.7, np.nan])
    np.testing.assert_array_equal(cavp.datavalues, [0.6, 0.9])


def test_class_bars_of_a_method_that_is_not_in_the_table_are_refused(table, tmp_path):
    pytest.importorskip("matplotlib")
    message = (
        "per_class.csv has no figures of 'stage 1' on 'all'. It has those of 'stage 1' on 'S4', 'stage 2' on 'all'"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        plot_class_bars(table, tmp_path / "bars.png", "stage 1")
    assert not (tmp_path / "bars.png").exists()


def test_class_bars_of_another_csv_are_refused(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "log.csv").write_text("step,loss,score\n1,0.5,\n")
    with pytest.raises(ValueError, match=r"log.csv should have the columns method, .*got \['step', 'loss', 'score'\]"):
        plot_class_bars(tmp_path / "log.csv", tmp_path / "bars.png", "stage 1")


def test_curves_are_written(tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "log.csv").write_text("step,loss,score\n1,0.5,\n2,0.4,0.3\n3,0.3,0.6\n")
    plot_curves({"stage 1": tmp_path / "log.csv"}, tmp_path / "curves.png")
    assert len(Image.open(tmp_path / "curves.png").convert("RGB").getcolors(1_000_000)) > 2, "blank"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "log.csv"]
