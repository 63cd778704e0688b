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
"""The command line: what each command hands on, exit codes, and errors in one line."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassError

from stepping_stones_hf import cli
from stepping_stones_hf.data import mini
from stepping_stones_hf.metrics import registration


COMMANDS = ("convert", "doctor", "export-data", "make-mini", "register-metric", "segment")


@pytest.fixture
def failing(monkeypatch):
    """`stepping-stones make-mini` fails as it is told."""

    def fail(error: BaseException) -> None:
        monkeypatch.setattr(cli, "make_mini", lambda _: (_ for _ in ()).throw(error))

    return fail


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a value"),
        FileNotFoundError("a file"),
        PermissionError("a folder"),
        ImportError("an extra"),
        StrictDataclassError("a field"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_wrong_with_the_input_is_one_line_and_exit_code_1(failing, error, capsys):
    failing(error)
    assert cli.main(["make-mini", "out"]) == 1
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", f"stepping-stones: {error}\n")


def test_what_is_wrong_with_the_program_is_not_hidden(failing):
    failing(KeyError("a bug"))
    with pytest.raises(KeyError, match="a bug"):
        cli.main(["make-mini", "out"])


def test_ctrl_c_has_the_exit_code_of_its_signal(failing, capsys):
    failing(KeyboardInterrupt())
    assert cli.main(["make-mini", "out"]) == 128 + signal.SIGINT
    assert capsys.readouterr().err == "stepping-stones: stopped.\n"


def test_the_help_names_each_command(capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    words = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    assert left.value.code == 0 and sorted(set(words) & set(COMMANDS)) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_help_of_its_own_and_refuses_options_that_it_does_not_know(command, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])
    assert left.value.code == 0 and f"stepping-stones {command}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--nonsense"])
    assert left.value.code == 2


@pytest.mark.parametrize("words", [[], ["segments"], ["segment"], ["convert", "--model", "aavs"], ["make-mini"]])
def test_a_command_line_that_is_not_whole_is_refused(words, capsys):
    with pytest.raises(SystemExit) as left:
        cli.main(words)
    assert left.value.code == 2 and "usage: stepping-stones" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "statistics"), [([], "independent"), (["--statistics", "avsbench"], "avsbench")])
def test_make_mini_makes_the_set_of_its_seed_and_statistics(tmp_path, monkeypatch, capsys, words, statistics):
    made = []
    monkeypatch.setattr(mini, "make_mini_avsbench", lambda output, **arguments: made.append((output, arguments)))
    assert cli.main(["make-mini", str(tmp_path / "mini"), "--seed", "7", *words]) == 0
    assert made == [(tmp_path / "mini", {"seed": 7, "statistics": statistics})]
    assert str(tmp_path / "mini") in capsys.readouterr().out


def test_register_metric_says_which_file_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    assert cli.main(["register-metric"]) == 0
    (found,) = tmp_path.rglob("avss_miou.py")
    assert str(found) in capsys.readouterr().out
    assert found.read_bytes() == registration.METRIC_FILE.read_bytes()


def test_a_cache_that_cannot_be_written_is_said(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "file"))
    assert cli.main(["register-metric"]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "options", "word"),
    [("aavs", [], "config"), ("tpavi", ["--stage", "1"], "stage"), ("tpavi", ["--preprocessor-config", "p"], "prep")],
)
def test_options_of_another_models_conversion_are_refused(model, options, word, tmp_path, capsys):
    paths = ["--checkpoint", str(tmp_path / "none.pth"), "--output", str(tmp_path / "out")]
    assert cli.main(["convert", "--model", model, *paths, *options]) == 1
    error = capsys.readouterr().err
    assert f"The options do not go with --model {model}" in error and word in error
    assert list(tmp_path.iterdir()) == []


def test_it_is_installed_as_a_command_and_runs_as_a_module(tmp_path):
    command = Path(sys.executable).with_name("stepping-stones")
    starts = [[sys.executable, "-m", "stepping_stones_hf.cli"], *([[str(command)]] if command.exists() else [])]
    for start in starts:
        done = subprocess.run([*start, "doctor", str(tmp_path)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
