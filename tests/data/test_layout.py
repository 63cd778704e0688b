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
from pathlib import Path

import pytest

from stepping_stones_hf.data.labels import CLASS_NAMES
from stepping_stones_hf.data.layout import Clip, Metadata, find_metadata, is_semantic, read_metadata


HEADER = "vid,uid,s_min,s_sec,a_obj,split,label\n"


def write_semantic(root: Path, *rows: str) -> Path:
    """`metadata.csv` with rows of `uid,a_obj,split,label`."""
    path = root / "metadata.csv"
    full_rows = [f"vid,{row.split(',')[0]},0,0,{row.split(',', 1)[1]}\n" for row in rows]
    path.write_text(HEADER + "".join(full_rows), encoding="utf-8")
    return path


def read_semantic(root: Path, *rows: str, config: str = "s4") -> Metadata:
    return read_metadata(write_semantic(root, *rows), config)


def write_s4(root: Path, *rows: str) -> Path:
    path = root / "s4_meta_data.csv"
    path.write_text("name,start,category,split\n" + "".join(row + "\n" for row in rows), encoding="utf-8")
    return path


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


class TestFindingTheMetadata:
    @pytest.mark.parametrize(
        "name, config",
        [
            ("metadata.csv", "s4"),
            ("metadata.csv", "ms3"),
            ("metadata.csv", "avss"),
            ("Single-source/s4_meta_data.csv", "s4"),
            ("Multi-sources/ms3_meta_data.csv", "ms3"),
            ("s4_meta_data.csv", "s4"),
            ("ms3_meta_data.csv", "ms3"),
        ],
    )
    def test_layout_is_recognized_by_its_files(self, tmp_path, name, config):
        path = touch(tmp_path / name)
        assert find_metadata(tmp_path, config) == path
        assert find_metadata(str(path), config) == path
        assert is_semantic(path) == (name == "metadata.csv")

    def test_both_datasets_of_avsbench_object_lie_side_by_side(self, tmp_path):
        paths = {
            "s4": touch(tmp_path / "Single-source" / "s4_meta_data.csv"),
            "ms3": touch(tmp_path / "Multi-sources" / "ms3_meta_data.csv"),
        }
        assert {config: find_metadata(tmp_path, config) for config in paths} == paths

    @pytest.mark.parametrize("config", ["s4", "ms3", "avss"])
    def test_folder_without_metadata_says_which_files_were_looked_for(self, tmp_path, config):
        with pytest.raises(FileNotFoundError, match=f"{tmp_path} has none of metadata.csv") as raised:
            find_metadata(tmp_path, config)
        assert (f"{config}_meta_data.csv" in str(raised.value)) == (config != "avss")
        with pytest.raises(FileNotFoundError, match=f"{tmp_path}/no such folder does not exist"):
            find_metadata(tmp_path / "no such folder", config)

    def test_home_folder_may_be_abbreviated(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        path = touch(tmp_path / "AVSBench" / "metadata.csv")
        assert find_metadata("~/AVSBench", "s4") == find_metadata("~/AVSBench/metadata.csv", "s4") == path

    def test_avsbench_object_has_no_avss(self, tmp_path):
        touch(tmp_path / "Single-source" / "s4_meta_data.csv")
        with pytest.raises(FileNotFoundError, match="AVSBench-object has no AVSS"):
            find_metadata(tmp_path, "avss")

    @pytest.mark.parametrize("other", ["metadata.csv", "s4_meta_data.csv"])
    def test_choice_between_two_files_is_left_to_the_user(self, tmp_path, other):
        chosen = touch(tmp_path / "Single-source" / "s4_meta_data.csv")
        touch(tmp_path / other)
        with pytest.raises(ValueError, match=f"has both .*{other}.*Pass the csv file"):
            find_metadata(tmp_path, "s4")
        assert find_metadata(chosen, "s4") == chosen

    @pytest.mark.parametrize("config", ["S4", "v1s", ""])
    def test_misspelled_configuration(self, tmp_path, config):
        touch(tmp_path / "metadata.csv")
        with pytest.raises(ValueError, match=f"config should be one of s4, ms3, avss, got '{config}'"):
            find_metadata(tmp_path, config)


class TestSemanticLayout:
    def test_clip_names_its_files(self, tmp_path):
        (clip,) = read_semantic(tmp_path, "abc_0_5000,dog_man,val,v1s").clips
        folder = tmp_path / "v1s" / "abc_0_5000"
        assert (clip.subset, clip.video_id, clip.split) == ("v1s", "abc_0_5000", "validation")
        assert clip.categories == ("dog", "man")
        assert clip.frame_stems == tuple(folder / "frames" / str(index) for index in range(5))
        assert clip.mask_paths == tuple(folder / "labels_rgb" / f"{index}.png" for index in range(5))
        assert clip.audio_path == folder / "audio.wav"

    @pytest.mark.parametrize(
        "subset, split, num_frames, num_masks",
        [("v1s", "train", 5, 1), ("v1s", "test", 5, 5), ("v1m", "train", 5, 5), ("v2", "train", 10, 10)],
    )
    def test_only_training_clips_of_s4_lack_masks(self, tmp_path, subset, split, num_frames, num_masks):
        (clip,) = read_semantic(tmp_path, f"abc,dog,{split},{subset}", config="avss").clips
        assert clip.num_frames == num_frames
        assert clip.mask_frame_indices == tuple(range(num_masks)) and len(clip.mask_paths) == num_masks

    def test_configurations_take_their_subsets_in_the_order_of_the_file(self, tmp_path):
        rows = ("d,dog,test,v2", "b,dog,train,v1m", "c,dog,train,v1s", "a,dog,val,v1s")
        expected = {"s4": ["c", "a"], "ms3": ["b"], "avss": ["d", "b", "c", "a"]}
        for config, video_ids in expected.items():
            metadata = read_semantic(tmp_path, *rows, config=config)
            assert [clip.video_id for clip in metadata.clips] == video_ids
            assert metadata.errors == metadata.remarks == []

    def test_file_may_have_another_name(self, tmp_path):
        path = write_semantic(tmp_path, "abc,dog,test,v1s").rename(tmp_path / "ten clips.csv")
        assert len(read_metadata(path, "s4").clips) == 1

    @pytest.mark.parametrize("a_obj", ["off-the-screen", "background", "", "background_off-the-screen"])
    def test_sources_out_of_sight_are_no_category(self, tmp_path, a_obj):
        (clip,) = read_semantic(tmp_path, f"abc,{a_obj},test,v1s").clips
        assert clip.categories == ()

    def test_published_typo_is_understood_and_reported(self, tmp_path):
        metadata = read_semantic(tmp_path, "abc,dog,test,v1s", "def,h orse_man,test,v1s")
        assert metadata.clips[1].categories == ("horse", "man")
        (remark,) = metadata.remarks
        assert str(remark) == f"v1s/def ({tmp_path}/metadata.csv, line 3): a_obj 'h orse_man' is read as horse, man"

    @pytest.mark.parametrize(
        "row, message",
        [
            ("abc,dog_unicorn_elf,test,v1s", "a_obj is 'dog_unicorn_elf': unicorn, elf is not a class"),
            ("abc,dog,dev,v1s", "split is 'dev', expected one of train, val, test"),
            ("abc,dog,test,v3", "label is 'v3', expected one of v1s, v1m, v2"),
        ],
    )
    def test_row_that_cannot_be_used_is_set_apart(self, tmp_path, row, message):
        metadata = read_semantic(tmp_path, "first,dog,test,v1s", row, "last,dog,test,v1s")
        assert [clip.video_id for clip in metadata.clips] == ["first", "last"]
        (error,) = metadata.errors
        assert str(error).startswith(f"{row.split(',')[-1]}/abc ({tmp_path}/metadata.csv, line 3): {message}")


class TestObjectLayout:
    def test_s4_clip_names_its_files(self, tmp_path):
        rows = ("abc_1,1,lions_roaring,train", "def_2,2,dog,test")
        train, test = read_metadata(write_s4(tmp_path, *rows), "s4").clips
        data = tmp_path / "s4_data"
        assert (train.subset, train.video_id, train.split) == ("v1s", "abc_1", "train")
        assert train.categories == ("lions_roaring",)
        assert train.frame_stems[4] == data / "visual_frames" / "train" / "lions_roaring" / "abc_1" / "abc_1_5"
        assert train.mask_paths == (data / "gt_masks" / "train" / "lions_roaring" / "abc_1" / "abc_1_1.png",)
        assert train.audio_path == data / "audio_wav" / "train" / "lions_roaring" / "abc_1.wav"
        assert test.mask_paths[4] == data / "gt_masks" / "test" / "dog" / "def_2" / "def_2_5.png"
        assert (train.mask_frame_indices, test.mask_frame_indices) == ((0,), (0, 1, 2, 3, 4))

    def test_ms3_clip_names_its_files(self, tmp_path):
        path = tmp_path / "ms3_meta_data.csv"
        path.write_text("any name,split\nabc,val\n")
        (clip,) = read_metadata(path, "ms3").clips
        data = tmp_path / "ms3_data"
        assert (clip.subset, clip.video_id, clip.split) == ("v1m", "abc", "validation")
        assert clip.categories == ()
        assert clip.frame_stems[0] == data / "visual_frames" / "abc" / "abc.mp4_1"
        assert clip.mask_paths[0] == data / "gt_masks" / "val" / "abc" / "abc_1.png"
        assert clip.audio_path == data / "audio_wav" / "val" / "abc.wav"
        frame = touch(data / "visual_frames" / "abc" / "abc.mp4_1.png")
        assert clip.find_frame(0) == frame

    @pytest.mark.parametrize("config", ["ms3", "avss"])
    def test_s4_file_has_no_other_configuration(self, tmp_path, config):
        path = write_s4(tmp_path, "abc,1,dog,train")
        with pytest.raises(ValueError, match=f"s4_meta_data.csv belongs to AVSBench-object .*'{config}'"):
            read_metadata(path, config)

    @pytest.mark.parametrize("row, column", [("..,1,dog,train", "name"), ("abc,1,../../dog,train", "category")])
    def test_names_that_lead_out_of_their_folder(self, tmp_path, row, column):
        metadata = read_metadata(write_s4(tmp_path, row), "s4")
        assert metadata.clips == []
        assert f"{column} is" in metadata.errors[0].message

    def test_copy_with_pickles_alone_is_told_how_to_extract_the_sound(self, tmp_path):
        root = tmp_path / "a copy"
        root.mkdir()
        (clip,) = read_metadata(write_s4(root, "abc,1,dog,train"), "s4").clips
        data, place = root / "s4_data", Path("train", "dog")
        touch(data / "audio_log_mel" / place / "abc.pkl")
        sound, video = data / "audio_wav" / place / "abc.wav", data / "raw_videos" / place / "abc.mp4"
        with pytest.raises(FileNotFoundError, match=f"{sound} does not exist, nor does {video}") as raised:
            clip.find_audio()
        assert "ffmpeg" not in str(raised.value)
        touch(video)
        with pytest.raises(FileNotFoundError, match="pickles in audio_log_mel are never read") as raised:
            clip.find_audio()
        assert str(raised.value).endswith(f": mkdir -p '{sound.parent}' && ffmpeg -i '{video}' -vn '{sound}'")


class TestCsv:
    @pytest.mark.parametrize(
        "encode",
        [
            lambda text: b"\xef\xbb\xbf" + text,
            lambda text: text.replace(b"\n", b"\r\n"),
            lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n"),
            lambda text: text.rstrip(b"\n"),
            lambda text: text + b"\n\n",
            lambda text: text.replace(b"abc", b'"abc"'),
        ],
        ids=["bom", "crlf", "bom-crlf", "no-last-newline", "blank-lines", "quotes"],
    )
    def test_variants_of_csv_are_the_same(self, tmp_path, encode):
        # A byte order mark would become part of the first column's name.
        path = tmp_path / "metadata.csv"
        path.write_bytes(b"uid,a_obj,split,label\nabc,dog,train,v1s\ndef,cat_man,test,v1s\n")
        expected = read_metadata(path, "s4")
        assert [clip.video_id for clip in expected.clips] == ["abc", "def"]
        path.write_bytes(encode(path.read_bytes()))
        assert read_metadata(path, "s4") == expected

    def test_columns_may_have_another_order(self, tmp_path):
        path = tmp_path / "metadata.csv"
        path.write_text("label,note,split,uid,a_obj\nv1s,!,test,abc,dog\n")
        (clip,) = read_metadata(path, "s4").clips
        assert (clip.video_id, clip.split, clip.categories) == ("abc", "test", ("dog",))

    @pytest.mark.parametrize("column", ["uid", "a_obj", "split", "label"])
    def test_missing_column_is_named(self, tmp_path, column):
        path = write_semantic(tmp_path, "abc,dog,train,v1s")
        path.write_text(path.read_text().replace(column, "something"))
        with pytest.raises(ValueError, match=f"metadata.csv lacks the column {column}: it has vid,"):
            read_metadata(path, "s4")

    @pytest.mark.parametrize("column", ["category", "split"])
    def test_missing_column_of_avsbench_object_is_named(self, tmp_path, column):
        path = write_s4(tmp_path, "abc,1,dog,train")
        path.write_text(path.read_text().replace(column, "something"))
        with pytest.raises(ValueError, match=f"s4_meta_data.csv lacks the column {column}"):
            read_metadata(path, "s4")

    @pytest.mark.parametrize(
        "content",
        [HEADER.encode("utf-16"), HEADER.encode() + b"vid,\xff\xfe,0,0,dog,train,v1s\n"],
        ids=["utf-16", "latin-1"],
    )
    def test_file_that_is_no_csv_in_utf8(self, tmp_path, content):
        path = tmp_path / "metadata.csv"
        path.write_bytes(content)
        with pytest.raises(ValueError, match="metadata.csv is not a csv file in UTF-8"):
            read_metadata(path, "s4")

    @pytest.mark.parametrize("row", ['vid,"abc,0,0,dog,train,v1s\n', 'vid,uid,"x"y\n'], ids=["open", "followed"])
    def test_unbalanced_quotation_marks(self, tmp_path, row):
        path = tmp_path / "metadata.csv"
        path.write_text(HEADER + row)
        with pytest.raises(ValueError, match="metadata.csv is not a csv file: .* quotation mark not closed"):
            read_metadata(path, "s4")

    @pytest.mark.parametrize("separator", [";", "\t"])
    def test_other_separators(self, tmp_path, separator):
        path = write_semantic(tmp_path, "abc,dog,train,v1s")
        path.write_text(path.read_text().replace(",", separator))
        with pytest.raises(ValueError, match="lacks the column uid, .*Commas should separate them"):
            read_metadata(path, "s4")

    def test_column_that_comes_twice_is_named(self, tmp_path):
        path = tmp_path / "metadata.csv"
        path.write_text("uid,a_obj,split,label,split\nabc,dog,train,v1s,test\n")
        with pytest.raises(ValueError, match="metadata.csv has several columns named 'split'"):
            read_metadata(path, "s4")

    def test_index_of_pandas_is_not_taken_for_the_names_of_clips(self, tmp_path):
        path = tmp_path / "s4_meta_data.csv"
        path.write_text(",name,start,category,split\n0,abc,1,dog,train\n")
        with pytest.raises(ValueError, match="s4_meta_data.csv .*first column, which has no name.*index=False"):
            read_metadata(path, "s4")

    def test_empty_file(self, tmp_path):
        with pytest.raises(ValueError, match="metadata.csv lacks the column uid, a_obj, split, label: it has none"):
            read_metadata(touch(tmp_path / "metadata.csv"), "s4")

    @pytest.mark.parametrize("row", ["vid,abc,0,0,dog,train\n", "vid,abc,0,0,dog,man,train,v1s\n", "vid,abc"])
    def test_row_of_another_length_names_its_line(self, tmp_path, row):
        path = write_semantic(tmp_path, "abc,dog,train,v1s")
        path.write_text(path.read_text() + row)
        with pytest.raises(ValueError, match="metadata.csv, line 3: the row should have 7 values"):
            read_metadata(path, "s4")


class TestLabelIndices:
    PUBLISHED = {name: index + 1 for index, name in enumerate(CLASS_NAMES)}

    def read_beside(self, tmp_path, content):
        (tmp_path / "label2idx.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return read_semantic(tmp_path, "abc,dog,test,v1s")

    def test_order_does_not_matter(self, tmp_path):
        metadata = self.read_beside(tmp_path, dict(reversed(self.PUBLISHED.items())))
        assert len(metadata.clips) == 1
        assert len(self.read_beside(tmp_path, "\ufeff" + json.dumps(self.PUBLISHED)).clips) == 1

    @pytest.mark.parametrize(
        "content, message",
        [
            ({name: index for index, name in enumerate(CLASS_NAMES)}, "accordion: 1 in place of 2"),
            (PUBLISHED | {"dog": 19, "donkey": 18}, "dog: 19 in place of 18, donkey: 18 in place of 19"),
            (PUBLISHED | {"unicorn": 72}, "unicorn: 72 in place of None"),
            ({name: index for name, index in PUBLISHED.items() if name != "woman"}, "woman: None in place of 71"),
            (list(CLASS_NAMES), "it holds no object"),
            ("{background: 1}", "is not a json file"),
        ],
        ids=["from-0", "two-swapped", "one-more", "one-less", "list", "no-json"],
    )
    def test_other_indices_are_refused(self, tmp_path, content, message):
        with pytest.raises(ValueError, match=f"label2idx.json .*{message}"):
            self.read_beside(tmp_path, content)


class TestNames:
    @pytest.mark.parametrize(
        "uid", ["..", ".", "", "../x", "/etc", "a/../../x", "a\\..\\x", "\\\\server\\x", "C:", "c:x"]
    )
    def test_uid_that_leads_out_of_its_folder_is_refused(self, tmp_path, uid):
        metadata = read_semantic(tmp_path, "abc,dog,test,v1s", f"{uid},dog,test,v1s")
        assert [clip.video_id for clip in metadata.clips] == ["abc"]
        (error,) = metadata.errors
        assert error.line == 3 and error.video_id == uid
        assert error.message == f"uid is {uid!r}, which is not the name of a folder."

    def test_uid_with_a_zero_byte_is_refused(self, tmp_path):
        metadata = read_semantic(tmp_path, "a\0b,dog,test,v1s")
        assert metadata.clips == [] and "uid is 'a\\x00b'" in metadata.errors[0].message

    @pytest.mark.parametrize(
        "uid", ["NA", "nan", "None", "00123", "1e5", "True", "-abc", "_abc", " a b ", "..a", "a..b", "~", "日本_é"]
    )
    def test_uid_is_taken_as_it_is_written(self, tmp_path, uid):
        (clip,) = read_semantic(tmp_path, f"{uid},dog,test,v1s").clips
        assert clip.video_id == uid
        assert clip.audio_path == tmp_path / "v1s" / uid / "audio.wav"


class TestFiles:
    def read_clip(self, root: Path, **kwargs) -> Clip:
        (clip,) = read_metadata(write_semantic(root, "abc,dog,test,v1s"), "s4", **kwargs).clips
        return clip

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".jpeg", ".JPG", ".PNG", ".JPEG"])
    def test_frames_are_found_under_any_suffix(self, tmp_path, suffix):
        path = touch(tmp_path / "v1s" / "abc" / "frames" / f"2{suffix}")
        assert self.read_clip(tmp_path).find_frame(2) == path

    def test_missing_files_are_named(self, tmp_path):
        clip = self.read_clip(tmp_path)
        for find, name in (
            (lambda: clip.find_frame(3), "frames/3.jpg"),
            (lambda: clip.find_mask(3), "labels_rgb/3.png"),
            (clip.find_audio, "audio.wav"),
        ):
            with pytest.raises(FileNotFoundError, match=f"{tmp_path}/v1s/abc/{name} does not exist"):
                find()

    @pytest.mark.parametrize("linked", ["v1s", "v1s/abc", "v1s/abc/audio.wav"])
    def test_links_out_of_the_copy_are_refused_unless_allowed(self, tmp_path, linked):
        root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
        touch(elsewhere / "v1s" / "abc" / "audio.wav")
        (root / linked).parent.mkdir(parents=True)
        (root / linked).symlink_to(elsewhere / linked)
        with pytest.raises(
            ValueError, match=rf"audio.wav is a link to {tmp_path}/elsewhere.*allow_outside_links=True"
        ):
            self.read_clip(root).find_audio()
        assert self.read_clip(root, allow_outside_links=True).find_audio() == root / "v1s" / "abc" / "audio.wav"

    def test_links_within_the_copy_and_to_the_copy_are_followed(self, tmp_path):
        root = tmp_path / "root"
        touch(root / "sounds" / "1.wav")
        link = root / "v1s" / "abc" / "audio.wav"
        link.parent.mkdir(parents=True)
        link.symlink_to(Path("..", "..", "sounds", "1.wav"))
        assert self.read_clip(root).find_audio() == link
        (tmp_path / "link").symlink_to(root)
        assert self.read_clip(tmp_path / "link").find_audio().exists()
