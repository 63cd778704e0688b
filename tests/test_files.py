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
import shutil
import threading
from pathlib import Path

import pytest

from stepping_stones_hf.files import (
    begin_folder,
    complete_folder,
    partial_folder,
    write_into,
    write_text,
    write_whole,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def stop(*_):
    raise KeyboardInterrupt


class TestWriteWhole:
    def test_files_and_folders_appear_together_when_the_block_ends(self, tmp_path):
        (tmp_path / "old.txt").write_text("old")
        (tmp_path / "empty").mkdir()
        paths = [tmp_path / name for name in ("old.txt", "new.png", "folder", "empty")]
        with write_whole(*paths) as (old, new, folder, empty):
            old.write_text("new")
            new.write_text("image")
            for made in (folder, empty):
                made.mkdir()
                (made / "0.txt").write_text("0")
            assert (tmp_path / "old.txt").read_text() == "old" and not (tmp_path / "new.png").exists()
            assert new.suffix == ".png"  # programs choose the format by it
        assert names(tmp_path) == ["empty", "folder", "new.png", "old.txt"]
        assert (tmp_path / "old.txt").read_text() == "new"
        assert names(tmp_path / "folder") == names(tmp_path / "empty") == ["0.txt"]

    def test_a_failure_leaves_what_was_there(self, tmp_path):
        path, folder = tmp_path / "old.txt", tmp_path / "folder"
        path.write_text("old")
        with pytest.raises(KeyboardInterrupt), write_whole(path, folder) as partials:
            partials[0].write_text("half")
            (partials[1] / "deep").mkdir(parents=True)
            stop()
        assert names(tmp_path) == ["old.txt"] and path.read_text() == "old"

    def test_a_folder_in_use_is_not_replaced(self, tmp_path):
        folder = tmp_path / "folder"
        folder.mkdir()
        (folder / "mine").touch()
        with pytest.raises(OSError), write_whole(folder) as (partial,):
            partial.mkdir()
        assert names(tmp_path) == ["folder"] and names(folder) == ["mine"]

    def test_writers_of_one_process_do_not_meet(self, tmp_path):
        path, written, errors = tmp_path / "file", threading.Barrier(8, timeout=20), []

        def write(text: str) -> None:
            try:
                with write_whole(path) as (partial,):
                    partial.write_text(text)
                    written.wait()
                    assert partial.read_text() == text
                    written.wait()
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=write, args=(str(index) * 1000,)) for index in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert names(tmp_path) == ["file"] and len(set(path.read_text())) == 1

    def test_names_as_long_as_they_can_be(self, tmp_path):
        for name in ("a" * 251 + ".txt", "é" * 125 + ".txt", "." + "a" * 254):
            write_text(tmp_path / name, "text")
            assert (tmp_path / name).read_text() == "text"


def test_text_is_utf_8(tmp_path):
    write_text(tmp_path / "file", "é")
    assert (tmp_path / "file").read_bytes() == "é".encode()


class TestWriteInto:
    def test_files_join_those_of_the_folder(self, tmp_path):
        folder = tmp_path / "new" / "folder"
        for texts in ({"a": "1", "b": "1"}, {"b": "2", "c": "2"}):
            with write_into(folder) as partial:
                for name, text in texts.items():
                    (partial / name).write_text(text)
        assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "1", "b": "2", "c": "2"}

    def test_a_failure_moves_nothing(self, tmp_path):
        with pytest.raises(KeyboardInterrupt), write_into(tmp_path) as partial:
            (partial / "a").touch()
            stop()
        assert names(tmp_path) == []


class TestFoldersOfARun:
    def fill(self, folder: Path, text: str) -> None:
        (begin_folder(folder) / "0.txt").write_text(text)
        complete_folder(folder)

    def test_a_new_one_takes_the_place_of_an_older_one(self, tmp_path):
        folder = tmp_path / "run" / "model"
        self.fill(folder, "old")
        (folder / "more.txt").touch()
        self.fill(folder, "new")
        assert names(folder.parent) == ["model"]
        assert {path.name: path.read_text() for path in folder.iterdir()} == {"0.txt": "new"}

    def test_what_a_killed_run_leaves_goes(self, tmp_path):
        folder = tmp_path / "model"
        (begin_folder(folder) / "left").touch()
        assert names(tmp_path) == [partial_folder(folder).name]
        self.fill(folder, "new")
        assert names(tmp_path) == ["model"] and names(folder) == ["0.txt"]

    @pytest.mark.parametrize("call", range(1, 5))
    def test_killed_at_any_moment_it_is_the_old_one_the_new_one_or_none(self, tmp_path, monkeypatch, call):
        folder = tmp_path / "model"
        self.fill(folder, "old")
        begin_folder(folder)
        (partial_folder(folder) / "0.txt").write_text("new")
        calls = []

        def killed(function):
            def replacement(*args, **kwargs):
                calls.append(function)
                if len(calls) == call:
                    stop()
                return function(*args, **kwargs)

            return replacement

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(shutil, "rmtree", killed(shutil.rmtree))
            patch.setattr(Path, "rename", killed(Path.rename))
            complete_folder(folder)
        assert not folder.exists() or (folder / "0.txt").read_text() in ("old", "new")
        self.fill(folder, "newer")
        assert (folder / "0.txt").read_text() == "newer" and names(tmp_path) == ["model"]
