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
import csv
import hashlib
import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from stepping_stones_hf.cli import main
from stepping_stones_hf.data import load_avsbench
from stepping_stones_hf.data.doctor import PUBLISHED_COUNTS, Finding, diagnose
from stepping_stones_hf.data.labels import CLASS_NAMES, PALETTE
from stepping_stones_hf.models.vggish import VGGishFeatureExtractor

from .conftest import MINI_CLIPS, make_object_tree
from .test_avsbench import flip_a_bit, turn, write_16_bits


def read_rows(root: Path) -> list[dict]:
    with open(root / "metadata.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(root: Path, rows: list[dict]) -> None:
    with open(root / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def first_row(root: Path, subset: str = "v2") -> dict:
    return next(row for row in read_rows(root) if row["label"] == subset)


def first_clip(root: Path, subset: str = "v2") -> Path:
    return root / subset / first_row(root, subset)["uid"]


def edit_first_row(root: Path, **values) -> None:
    """Changes the first row of v2."""
    rows, first = read_rows(root), first_row(root)
    write_rows(root, [{**row, **values} if row == first else row for row in rows])


def new_findings(root: Path, damage) -> list[Finding]:
    """The findings that a tree has because of `damage`."""
    before = diagnose(root).findings
    damage(root)
    return [finding for finding in diagnose(root).findings if finding not in before]


def resize(path: Path, size: tuple[int, int]) -> None:
    Image.open(path).resize(size, Image.Resampling.NEAREST).save(path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def move_out(path: Path) -> None:
    """Puts a link in the place of a file, which goes to a folder beside the tree."""
    outside = path.parents[3].with_name("outside")
    outside.mkdir()
    path.rename(outside / path.name)
    path.symlink_to(outside / path.name)


def write_huge_header(path: Path) -> None:
    Image.new("1", (1, 1)).save(path, format="PNG")
    data = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", 9000, 9000) + data[24:29]
    path.write_bytes(data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])


def paint(path: Path, color: tuple[int, int, int]) -> None:
    """Colors the first three pixels of a mask."""
    colors = np.array(Image.open(path))
    colors[0, :3] = color
    Image.fromarray(colors).save(path)


def write_sound(path: Path, num_samples: int, sampling_rate: int = 16_000, value: float = 0.1) -> None:
    soundfile.write(path, np.full(num_samples, value), sampling_rate, subtype="FLOAT")


def zero_sampling_rate(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[24:28] = bytes(4)
    path.write_bytes(data)


# Kind of damage -> the file of the first clip of v2 that has it, what makes it, and words of the finding.
FILE_ERRORS = {
    "missing frame": ("frames/3.jpg", Path.unlink, "does not exist"),
    "empty frame": ("frames/3.jpg", lambda path: path.write_bytes(b""), "empty"),
    "truncated frame": ("frames/3.jpg", truncate, "damaged"),
    "text as frame": ("frames/3.jpg", lambda path: path.write_text("404 not found"), "not a readable JPEG or PNG"),
    "folder as frame": ("frames/3.jpg", lambda path: path.unlink() or path.mkdir(), "is no file"),
    "huge header": ("frames/3.jpg", write_huge_header, "9000x9000"),
    "frame outside": ("frames/3.jpg", move_out, "allow_outside_links=True"),
    "missing mask": ("labels_rgb/3.png", Path.unlink, "does not exist"),
    "frame of 16 bits": ("frames/3.jpg", write_16_bits, "16 bits a pixel"),
    "turned frame": ("frames/3.jpg", turn, "EXIF orientation 6"),
    "wrong byte in a mask": ("labels_rgb/3.png", flip_a_bit, "damaged"),
    "truncated mask": ("labels_rgb/3.png", truncate, "damaged"),
    "mask of another size": ("labels_rgb/3.png", lambda path: resize(path, (40, 30)), "40x30.*85x64"),
    "unknown colors": ("labels_rgb/3.png", lambda path: paint(path, (1, 2, 3)), '3 of 5440 .*unknown_color="backgr'),
    "missing sound": ("audio.wav", Path.unlink, "does not exist"),
    "empty sound": ("audio.wav", lambda path: path.write_bytes(b""), "empty"),
    "truncated sound": ("audio.wav", truncate, "truncated"),
    "text as sound": ("audio.wav", lambda path: path.write_text("404 not found"), "not a readable sound"),
    "sound without samples": ("audio.wav", lambda path: write_sound(path, 0), "no samples"),
    "NaN in the sound": ("audio.wav", lambda path: write_sound(path, 160_000, value=np.nan), "NaN"),
    "sampling rate 0": ("audio.wav", zero_sampling_rate, "not a readable sound"),
}


@pytest.mark.parametrize("kind", FILE_ERRORS)
def test_damaged_file_is_an_error_that_load_avsbench_raises_too(mini_copy, tmp_path, kind):
    name, damage, words = FILE_ERRORS[kind]
    clip = first_clip(mini_copy)
    path = clip / name
    (finding,) = new_findings(mini_copy, lambda root: damage(path))
    assert (finding.severity, finding.subset, finding.video_id) == ("error", "v2", clip.name)
    assert finding.path == path
    assert str(path) in finding.message
    assert re.search(words, finding.message)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        load_avsbench("avss", mini_copy, split="train", cache_dir=str(tmp_path / "cache"))


# Kind of damage -> cells of the first row of v2, and words of the finding.
ROW_ERRORS = {
    "unknown split": ({"split": "vla"}, "split is 'vla'"),
    "unknown subset": ({"label": "v3"}, "label is 'v3'"),
    "unknown class": ({"a_obj": "dog_hound"}, "hound is not a class"),
    "uid that leaves its folder": ({"uid": ".."}, "uid is '..'"),
}


@pytest.mark.parametrize("kind", ROW_ERRORS)
def test_row_that_cannot_be_used_is_an_error_that_load_avsbench_raises_too(mini_copy, tmp_path, kind):
    cells, words = ROW_ERRORS[kind]
    row = first_row(mini_copy) | cells
    findings = new_findings(mini_copy, lambda root: edit_first_row(root, **cells))
    errors = [finding for finding in findings if finding.severity == "error"]
    assert [(error.subset, error.video_id) for error in errors] == [(row["label"], row["uid"])]
    assert words in errors[0].message
    assert f"{mini_copy / 'metadata.csv'}, line " in errors[0].message
    with pytest.raises(ValueError, match=re.escape(words)):
        load_avsbench("avss", mini_copy, cache_dir=str(tmp_path / "cache"))


def renumber_classes(root: Path) -> None:
    indices = {name: index for index, name in enumerate(CLASS_NAMES)}
    (root / "label2idx.json").write_text(json.dumps(indices))


def drop_column(root: Path) -> None:
    write_rows(root, [{name: value for name, value in row.items() if name != "a_obj"} for row in read_rows(root)])


def add_ragged_row(root: Path) -> None:
    path = root / "metadata.csv"
    path.write_text(path.read_text() + "one,two\n")


# Kind of damage -> what makes it, and words of the finding.
FILE_WIDE_ERRORS = {
    "missing column": (drop_column, "lacks the column a_obj"),
    "ragged row": (add_ragged_row, "should have 7 values"),
    "not a text": (lambda root: (root / "metadata.csv").write_bytes(b"\xff\xfe\x00"), "not a csv file in UTF-8"),
    "no row": (
        lambda root: (root / "metadata.csv").write_text("uid,a_obj,split,label\n"),
        "has no clip .*that can be used",
    ),
    "wrong label2idx": (renumber_classes, "does not number the 71 classes"),
}


@pytest.mark.parametrize("kind", FILE_WIDE_ERRORS)
def test_csv_or_label2idx_that_cannot_be_used_is_one_error(mini_copy, tmp_path, kind):
    damage, words = FILE_WIDE_ERRORS[kind]
    errors = [finding for finding in new_findings(mini_copy, damage) if finding.severity == "error"]
    assert [error.path for error in errors] == [mini_copy / "metadata.csv"]
    assert re.search(words, errors[0].message)
    with pytest.raises(ValueError, match=words):
        load_avsbench("avss", mini_copy, cache_dir=str(tmp_path / "cache"))


def shrink_frame(root: Path) -> None:
    for name in ("frames/3.jpg", "labels_rgb/3.png"):
        resize(first_clip(root) / name, (40, 30))


def lengthen_sound(root: Path) -> None:
    write_sound(first_clip(root) / "audio.wav", 44_100 * 11, 44_100)


def record_at_odd_rate(root: Path) -> None:
    write_sound(first_clip(root) / "audio.wav", 47_999 * 10, 47_999)


def repeat_row(root: Path) -> None:
    write_rows(root, [*read_rows(root), first_row(root)])


# Oddity -> what makes it, and words of the finding.
WARNINGS = {
    "frames of two sizes": (shrink_frame, r"3.jpg has 40x30 pixels, most frames of the clip have 85x64"),
    "long sound": (lengthen_sound, r"audio.wav has 11.00 s of sound for a clip of 10 s"),
    "odd sampling rate": (record_at_odd_rate, r"audio.wav has a sampling rate of 47999 Hz.* Resample it to 16000 Hz"),
    "unnamed class": (lambda root: edit_first_row(root, a_obj="harp"), r"labels_rgb: masks have .+, a_obj names harp"),
    "no named class": (lambda root: edit_first_row(root, a_obj="off-the-screen"), r"masks have .+ names no class"),
    "repeated row": (repeat_row, r"metadata.csv has 2 rows for this clip \(train, train\)"),
}


@pytest.mark.parametrize("kind", WARNINGS)
def test_unusual_clip_is_a_warning_and_loads(mini_copy, tmp_path, kind):
    damage, words = WARNINGS[kind]
    clip = first_clip(mini_copy)
    (finding,) = new_findings(mini_copy, damage)
    assert (finding.severity, finding.subset, finding.video_id) == ("warning", "v2", clip.name)
    assert re.search(words, finding.message)
    load_avsbench("avss", mini_copy, cache_dir=str(tmp_path / "cache"))


def test_files_of_a_repeated_row_are_read_once(mini_copy):
    def damage(root):
        repeat_row(root)
        (first_clip(root) / "audio.wav").unlink()

    findings = new_findings(mini_copy, damage)
    assert sorted(finding.severity for finding in findings) == ["error", "warning"]


def test_missing_label2idx_is_a_warning(mini_copy):
    (finding,) = new_findings(mini_copy, lambda root: (root / "label2idx.json").unlink())
    assert (finding.severity, finding.path) == ("warning", mini_copy / "label2idx.json")


def test_blank_in_a_class_name_is_understood_and_said(mini_copy):
    first = first_row(mini_copy)
    blank = first["a_obj"][0] + " " + first["a_obj"][1:]
    (finding,) = new_findings(mini_copy, lambda root: edit_first_row(root, a_obj=blank))
    assert (finding.severity, finding.video_id) == ("info", first["uid"])
    assert repr(blank) in finding.message


def test_sound_is_too_short_exactly_where_the_feature_extractor_refuses_it(mini_copy):
    path = first_clip(mini_copy) / "audio.wav"
    extractor = VGGishFeatureExtractor()
    write_sound(path, 15_599)
    (finding,) = [finding for finding in diagnose(mini_copy).findings if finding.path == path]
    assert finding.severity == "error"
    assert "0.975 s" in finding.message
    with pytest.raises(ValueError):
        extractor(soundfile.read(path)[0], sampling_rate=16_000)
    write_sound(path, 15_600)
    (finding,) = [finding for finding in diagnose(mini_copy).findings if finding.path == path]
    assert finding.severity == "warning"
    extractor(soundfile.read(path)[0], sampling_rate=16_000)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_usual_sampling_rates_are_not_warned_of(mini_copy, rate):
    assert new_findings(mini_copy, lambda root: write_sound(first_clip(root) / "audio.wav", 10 * rate, rate)) == []


def test_frames_of_v1_that_are_not_of_the_published_size_are_warned_of_once_a_split(mini_copy):
    def messages(subset):
        findings = [finding for finding in diagnose(mini_copy).findings if "published ones have" in finding.message]
        assert {(finding.severity, finding.video_id) for finding in findings} == {("warning", None)}
        return [finding.message for finding in findings if finding.subset == subset]

    start = f"{mini_copy / 'metadata.csv'}:"
    assert [message.partition(" have ")[0] for message in messages("v1m")] == [
        f"{start} 2 of 2 clips of v1m for train",
        f"{start} 1 of 1 clips of v1m for validation",
        f"{start} 1 of 1 clips of v1m for test",
    ]
    assert len(messages("v1s")) == 3
    assert not messages("v2")
    clip = first_clip(mini_copy, "v1m")
    for path in [*(clip / "frames").iterdir(), *(clip / "labels_rgb").iterdir()]:
        resize(path, (224, 224))
    assert f"{start} 1 of 2 clips of v1m for train have frames of 64x64 (1) pixels" in messages("v1m")[0]


def test_clip_with_three_damages_has_three_findings(mini_copy):
    clip = first_clip(mini_copy)

    def damage(root):
        truncate(clip / "frames/0.jpg")
        (clip / "labels_rgb/3.png").unlink()
        (clip / "audio.wav").write_bytes(b"")

    findings = new_findings(mini_copy, damage)
    assert [finding.path for finding in findings] == [
        clip / "frames/0.jpg",
        clip / "labels_rgb/3.png",
        clip / "audio.wav",
    ]
    (row,) = [row for row in diagnose(mini_copy).summary if (row.subset, row.split) == ("v2", "train")]
    assert (row.found, row.with_errors) == (2, 1)
    assert row.sampling_rates == {16_000: 1}
    assert row.frame_sizes == {"85x64": 19}


def test_unknown_colors_hide_neither_size_nor_classes_of_the_mask(mini_copy):
    path = first_clip(mini_copy) / "labels_rgb/3.png"

    def damage(root):
        colors = np.tile(PALETTE[CLASS_NAMES.index("harp")], (30, 40, 1))
        colors[0, 0] = (1, 2, 3)
        Image.fromarray(colors).save(path)

    severities = [finding.severity for finding in new_findings(mini_copy, damage)]
    assert severities == ["error", "error", "warning"]


def test_links_to_the_outside_are_fine_where_they_are_allowed(mini_copy):
    move_out(first_clip(mini_copy) / "frames/3.jpg")
    assert diagnose(mini_copy).count("error") == 1
    assert diagnose(mini_copy, allow_outside_links=True).count("error") == 0
    assert main(["doctor", str(mini_copy), "--allow-outside-links"]) == 0


def test_counts_are_compared_with_the_published_ones(mini_dir, monkeypatch):
    diagnosis = diagnose(mini_dir)
    counts = {}
    for row in diagnosis.summary:
        counts.setdefault(row.subset, []).append((row.found, row.published))
    assert counts == {
        "v1s": [(3, 3452), (1, 740), (1, 740)],
        "v1m": [(2, 296), (1, 64), (1, 64)],
        "v2": [(2, 4750), (1, 500), (1, 750)],
    }
    other_counts = [finding for finding in diagnosis.findings if finding.video_id is None]
    other_counts = [finding for finding in other_counts if "as published" in finding.message]
    assert [finding.severity for finding in other_counts] == ["warning"] * 9
    for subset, published in MINI_CLIPS.items():
        monkeypatch.setitem(PUBLISHED_COUNTS, subset, published)
    assert not [finding for finding in diagnose(mini_dir).findings if "as published" in finding.message]


def test_object_layout_is_examined(mini_dir, tmp_path):
    root = make_object_tree(mini_dir, tmp_path / "object")
    diagnosis = diagnose(root)
    assert diagnosis.count("error") == 0
    assert [(row.subset, row.split, row.found) for row in diagnosis.summary] == [
        *(("v1s", split, count) for split, count in zip(("train", "validation", "test"), MINI_CLIPS["v1s"])),
        *(("v1m", split, count) for split, count in zip(("train", "validation", "test"), MINI_CLIPS["v1m"])),
    ]
    frame = min((root / "Multi-sources/ms3_data/visual_frames").glob("*/*.mp4_5.png"))
    sound = min((root / "Single-source/s4_data/audio_wav/train").glob("*/*.wav"))
    mask = min((root / "Single-source/s4_data/gt_masks/test").glob("*/*/*_5.png"))

    def damage(root):
        truncate(frame)
        sound.unlink()
        resize(mask, (40, 30))

    findings = new_findings(root, damage)
    assert {finding.path: finding.severity for finding in findings} == dict.fromkeys((frame, sound, mask), "error")
    assert [finding.video_id for finding in findings if finding.path == frame] == [frame.parent.name]
    assert "nor does" in next(finding.message for finding in findings if finding.path == sound)


def test_both_layouts_in_one_folder_are_examined(mini_copy):
    make_object_tree(mini_copy, mini_copy)
    diagnosis = diagnose(mini_copy)
    assert diagnosis.count("error") == 0
    assert len(diagnosis.summary) == 15
    assert [finding.severity for finding in diagnosis.findings if finding.path == mini_copy] == ["warning"] * 2
    assert len(diagnose(mini_copy / "Single-source" / "s4_meta_data.csv").summary) == 3


def test_real_clips_have_no_error(shared_dir):
    diagnosis = diagnose(shared_dir / "real_clips")
    assert diagnosis.count("error") == 0
    assert [row.found for row in diagnosis.summary] == [15, 5, 9, 6, 1, 4, 10, 3, 9]


def test_threads_change_nothing_in_the_diagnosis(mini_copy):
    for path in sorted(mini_copy.glob("v*/*/audio.wav")):
        path.unlink()
    assert diagnose(mini_copy, num_threads=1) == diagnose(mini_copy, num_threads=8)


def test_nothing_is_changed(mini_copy):
    truncate(first_clip(mini_copy) / "frames/0.jpg")

    def digest() -> dict[str, tuple]:
        return {
            str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in mini_copy.rglob("*")
            if path.is_file()
        }

    before = digest()
    main(["doctor", str(mini_copy)])
    assert digest() == before


def test_command_prints_a_line_for_each_finding_then_the_summary(mini_copy, capsys):
    assert main(["doctor", str(mini_copy)]) == 0
    (first_clip(mini_copy) / "audio.wav").unlink()
    capsys.readouterr()
    assert main(["doctor", str(mini_copy)]) == 1
    output = capsys.readouterr()
    lines = output.out.splitlines()
    findings = diagnose(mini_copy).findings
    assert lines[: len(findings)] == [str(finding) for finding in findings]
    assert [line for line in lines if line.startswith("error: ")] == [
        f"error: v2/{first_clip(mini_copy).name}: {first_clip(mini_copy) / 'audio.wav'} does not exist."
        " Is this copy of AVSBench complete?"
    ]
    assert lines[-1] == f"errors: 1, warnings: {len(findings) - 1}, infos: 0"
    assert "16000 Hz (12)" in lines[-2]
    assert "13/13" in output.err


def test_json_is_one_object_and_all_of_stdout(mini_copy, capsys):
    (first_clip(mini_copy) / "audio.wav").unlink()
    assert main(["doctor", str(mini_copy), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    diagnosis = diagnose(mini_copy)
    assert set(report) == {"summary", "findings"}
    assert report["findings"] == [
        {
            "severity": finding.severity,
            "subset": finding.subset,
            "video_id": finding.video_id,
            "path": str(finding.path),
            "message": finding.message,
        }
        for finding in diagnosis.findings
    ]
    assert [row["with_errors"] for row in report["summary"]] == [0, 0, 0, 0, 0, 0, 1, 0, 0]
    assert report["summary"][0]["frame_sizes"] == {"64x64": 15}


def test_folder_that_does_not_exist_and_home(mini_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(mini_dir.parent))
    assert diagnose(f"~/{mini_dir.name}").count("error") == 0
    with pytest.raises(FileNotFoundError, match=f"^{mini_dir.parent}/nothing does not exist"):
        diagnose("~/nothing")


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_folder_without_avsbench_is_one_line_on_stderr(tmp_path, capsys, arguments):
    assert main(["doctor", str(tmp_path), *arguments]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"stepping-stones: {tmp_path} has none of metadata.csv, ")
    assert output.err.count("\n") == 1


def test_s4_training_clips_with_their_annotated_frame_alone_are_a_warning(mini_copy):
    folder = next(path for path in (mini_copy / "v1s").iterdir() if not (path / "labels_rgb" / "1.png").exists())
    for index in range(1, 5):
        (folder / "frames" / f"{index}.jpg").unlink()
    diagnosis = diagnose(mini_copy)
    assert diagnosis.count("error") == 0
    assert [finding.severity for finding in diagnosis.findings if finding.path == folder / "frames"] == ["warning"]
    (folder / "frames" / "0.jpg").unlink()
    findings = [finding for finding in diagnose(mini_copy).findings if finding.video_id == folder.name]
    assert [finding.path for finding in findings] == [folder / "frames" / "0.jpg"]
