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
"""`evaluate.load("avss_miou")` from anywhere, with and without a network, across versions of the package."""

import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from stepping_stones_hf.metrics import register_metric, registration


METRIC_FILE = registration.METRIC_FILE
LOAD_AND_COMPUTE = """
import evaluate
metric = evaluate.load("avss_miou", num_classes=2)
print(metric.compute(predictions=[[[0, 1]]], references=[[[0, 1]]])["miou"])
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty Hugging Face home of the test's own."""
    for name in ("HF_MODULES_CACHE", "HF_METRICS_CACHE", "HF_EVALUATE_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "modules" / "evaluate_modules" / "metrics" / "evaluate-metric--avss_miou"


def start_python(code: str, cwd: str | Path, **variables: str) -> subprocess.Popen:
    environment = {**os.environ, **variables}
    return subprocess.Popen([sys.executable, "-c", code], cwd=cwd, env=environment, stdout=-1, stderr=-1, text=True)


def output_of(process: subprocess.Popen) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output.strip()


def test_load_works_offline_from_the_root_and_from_an_empty_directory(cache, tmp_path):
    register_metric()
    empty = tmp_path / "empty"
    empty.mkdir()
    code = LOAD_AND_COMPUTE + f"import os\nos.chdir({str(empty)!r})" + LOAD_AND_COMPUTE
    assert output_of(start_python(code, "/", HF_EVALUATE_OFFLINE="1")) == "1.0\n1.0"
    assert not list(empty.iterdir())


def test_load_works_against_an_endpoint_that_has_no_such_metric(cache):
    requests = []

    class NotFound(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), NotFound)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    register_metric()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    process = start_python(LOAD_AND_COMPUTE, "/", HF_ENDPOINT=endpoint, HF_EVALUATE_OFFLINE="0", HF_HUB_OFFLINE="0")
    assert output_of(process) == "1.0"
    server.shutdown()
    assert any("avss_miou" in path for path in requests)


def test_processes_that_register_and_load_at_once_do_not_disturb_each_other(cache):
    # The module alone: the package takes long to import, and the two would not meet.
    code = "import sys, types\n"
    packages = {"stepping_stones_hf": METRIC_FILE.parents[2], "stepping_stones_hf.metrics": METRIC_FILE.parents[1]}
    for name, folder in packages.items():
        code += f"package = sys.modules[{name!r}] = types.ModuleType({name!r})\npackage.__path__ = [{str(folder)!r}]\n"
    code += "from stepping_stones_hf.metrics.registration import register_metric\nregister_metric()\n"
    code += LOAD_AND_COMPUTE
    running = [start_python(code, "/", HF_EVALUATE_OFFLINE="1") for _ in range(2)]
    assert [output_of(process) for process in running] == ["1.0", "1.0"]
    assert len(list(cache.glob("*/avss_miou.py"))) == 1
    assert not list(cache.glob(".*"))


def test_an_upgrade_and_a_downgrade_of_the_package_change_what_is_loaded(cache, tmp_path, monkeypatch):
    other = tmp_path / "avss_miou.py"
    other.write_text(METRIC_FILE.read_text() + "\n# another version\n")
    code = 'import evaluate\nprint(evaluate.load("avss_miou").__module__)'
    for file in (METRIC_FILE, other, METRIC_FILE, other):
        monkeypatch.setattr(registration, "METRIC_FILE", file)
        registered = register_metric()
        assert registered.read_text() == file.read_text()
        versions = sorted(cache.glob("*/avss_miou.py"), key=lambda path: path.stat().st_mtime)
        assert versions[-1] == registered
    module = output_of(start_python(code, "/", HF_EVALUATE_OFFLINE="1"))
    assert registered.parent.name in module
    assert len(versions) == 2


def test_a_version_with_a_date_in_the_future_does_not_win(cache):
    register_metric()
    (future := cache / ("0" * 64)).mkdir()
    (future / "avss_miou.py").write_text("a version of tomorrow")
    os.utime(future / "avss_miou.py", (4e9, 4e9))
    target = register_metric()
    assert target.stat().st_mtime > 4e9


def test_registering_again_writes_nothing(cache):
    before = register_metric().stat()
    after = register_metric().stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_damaged_copy_is_replaced(cache):
    target = register_metric()
    target.write_text("half of")
    assert register_metric().read_bytes() == METRIC_FILE.read_bytes()


def test_what_a_killed_process_leaves_is_never_loaded(cache, monkeypatch):
    def die(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", die)
        patched.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(KeyboardInterrupt):
            register_metric()
    (left,) = cache.iterdir()
    assert len(left.name) != 64  # evaluate looks at folders of 64 characters
    register_metric()
    assert [folder.name for folder in cache.iterdir() if len(folder.name) == 64] == [register_metric().parent.name]


def test_an_unwritable_cache_is_an_oserror(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "file" / "modules"))
    with pytest.raises(OSError, match="file"):
        register_metric()


def test_the_import_of_the_package_registers_the_metric(tmp_path):
    process = start_python("import stepping_stones_hf", "/", HF_MODULES_CACHE=str(tmp_path / "modules"))
    output_of(process)
    (registered,) = tmp_path.rglob("avss_miou.py")
    assert registered.read_bytes() == METRIC_FILE.read_bytes()


def test_an_unwritable_cache_is_silent_at_import_and_an_error_of_the_command(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    code = "import stepping_stones_hf.cli, sys\n"
    code += "print('imported', file=sys.stderr)\nsys.exit(stepping_stones_hf.cli.main(['register-metric']))"
    process = start_python(code, "/", HF_MODULES_CACHE=str(tmp_path / "file" / "modules"))
    output, errors = process.communicate(timeout=300)
    at_import, message = errors.split("imported\n")
    assert process.returncode == 1 and output == ""
    assert str(tmp_path / "file") not in at_import
    assert message.startswith("stepping-stones: ") and str(tmp_path / "file") in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_MODULES_CACHE": "/a/modules", "HF_HOME": "/b"}, "/a/modules"),
        ({"HF_HOME": "/b"}, "/b/modules"),
        ({"HF_HOME": "~/b", "HOME": "/h"}, "/h/b/modules"),
        ({"XDG_CACHE_HOME": "/c"}, "/c/huggingface/modules"),
        ({"HOME": "/h"}, "/h/.cache/huggingface/modules"),
    ],
)
def test_the_modules_cache_is_the_one_of_evaluate(variables, expected, monkeypatch):
    for name in ("HF_MODULES_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert registration._modules_cache() == Path(expected)


def test_the_modules_cache_here_is_the_one_of_evaluate_here():
    import evaluate

    assert registration._modules_cache() == evaluate.config.HF_MODULES_CACHE


def test_the_file_stands_alone_and_its_imports_are_found():
    from evaluate.loading import get_imports

    imports = get_imports(str(METRIC_FILE))
    assert {kind for kind, *_ in imports} == {"library"}
    outside = {name for _, name, *_ in imports} - set(sys.stdlib_module_names)
    assert outside == {"datasets", "evaluate", "numpy"}


def test_evaluate_finds_one_metric_in_the_file():
    import evaluate

    from stepping_stones_hf.metrics.avss_miou import avss_miou

    classes = [value for value in vars(avss_miou).values() if isinstance(value, type)]
    assert [value for value in classes if issubclass(value, evaluate.EvaluationModule)] == [avss_miou.AvssMiou]
