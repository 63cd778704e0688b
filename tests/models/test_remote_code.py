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
"""Models that carry their code, loaded in a process that does not have the library."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from stepping_stones_hf import AutoModelForAudioVisualSegmentation, VGGishConfig
from stepping_stones_hf.models.auto import make_processor
from stepping_stones_hf.models.remote_code import save_code

from ..snippets import DOCS
from .test_modeling_common import TINY_VGGISH


SIZE = {"height": 64, "width": 64}

# Of each folder, the inputs that its processor makes, and the scores that it makes of the model's outputs.
LOAD = """
import sys
sys.modules["stepping_stones_hf"] = None  # an ImportError to whoever imports it
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

for repository in sys.argv[1:]:
    for subfolder in ("", "localizer"):
        options = {"subfolder": subfolder, "trust_remote_code": True}
        model, info = AutoModel.from_pretrained(repository, output_loading_info=True, **options)
        assert not any(info.values()), info
        processor = AutoProcessor.from_pretrained(repository, backend="pil", **options)
        data = load_file(f"{repository}/data.safetensors")
        inputs = processor(images=list(data["frames"]), audio=data["audio"].numpy(), sampling_rate=16000)
        inputs = {name: torch.as_tensor(value) for name, value in inputs.convert_to_tensors("pt").items()}
        if not subfolder:
            inputs["prompt_masks"] = data["prompt_masks"]
        with torch.no_grad():
            _, scores = processor.image_processor.get_segmentation_scores(model(**inputs))
            inputs["scores"] = torch.stack(list(scores))
        save_file(inputs, f"{repository}/{subfolder or 'model'}.out.safetensors")
print("loaded", end="")
"""


def run_without_the_library(script: str, *arguments: str, folder: Path) -> str:
    # As many threads as here: products are rounded differently with others.
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    modules = {"HF_MODULES_CACHE": str(folder / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | modules | threads,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def save_model(model_type: str, kind: str, folder: Path) -> None:
    factory = importlib.import_module(f"{__package__}.{model_type}.conftest")
    # What VGGish gives differs from model to model, and is no matter here.
    model = factory.make_tiny_model(kind, audio_config=VGGishConfig(**TINY_VGGISH))
    model.save_pretrained(folder)
    make_processor(model.config, localization=kind == "localizer", size=SIZE, label_size=SIZE).save_pretrained(folder)


def test_repositories_of_all_models_load_without_the_library(tmp_path):
    generator = torch.Generator().manual_seed(0)
    data = {
        "frames": torch.randint(256, (2, 3, 70, 90), dtype=torch.uint8, generator=generator),
        "audio": torch.rand(32000, generator=generator) - 0.5,
        "prompt_masks": torch.rand(2, 20, 20, generator=generator),
    }
    # Each model in each of the two places, beside another one.
    repositories = {
        "first": ("aavs", "tpavi"),
        "second": ("tpavi", "aavs"),
        "third": ("aavs", "aavs"),
        "fourth": ("ease", "ease"),
        "fifth": ("cavp", "cavp"),
    }
    for name, (model_type, localizer_type) in repositories.items():
        save_model(model_type, "mask-prompted", tmp_path / name)
        save_model(localizer_type, "localizer", tmp_path / name / "localizer")
        save_code(tmp_path / name)
        save_file(data, tmp_path / name / "data.safetensors")
    folders = [str(tmp_path / name) for name in repositories]
    assert run_without_the_library(LOAD, *folders, folder=tmp_path) == "loaded"

    for name in repositories:
        for subfolder in ("", "localizer"):
            # With the library its own code is taken, whether or not that of the repository is trusted.
            model = AutoModelForAudioVisualSegmentation.from_pretrained(
                tmp_path / name, subfolder=subfolder, trust_remote_code=True
            )
            assert type(model).__module__.startswith("stepping_stones_hf.")
            found = load_file(tmp_path / name / f"{subfolder or 'model'}.out.safetensors")
            scores = found.pop("scores")
            processor = make_processor(model.config, localization=bool(subfolder), size=SIZE, label_size=SIZE)
            expected = processor(images=list(data["frames"]), audio=data["audio"].numpy(), sampling_rate=16000)
            assert_close(found["pixel_values"], torch.as_tensor(expected["pixel_values"]))
            with torch.no_grad():
                _, expected = processor.image_processor.get_segmentation_scores(model(**found))
            assert_close(scores, torch.stack(list(expected)))
            assert scores.std() > 0


def test_the_page_carries_the_code_of_a_model(two_stage_repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/mini").mkdir(parents=True)
    Path("runs/mini/model").symlink_to(two_stage_repository)
    section = (DOCS / "export.md").read_text(encoding="utf-8").split("\n## With its code\n")[1].split("\n## ")[0]
    save, load = (block.split("```")[0] for block in section.split("```python\n")[1:])
    exec(save, {})
    print_it = "print(type(model).__name__, type(processor).__name__, localizer.config.num_labels)"
    without = 'import sys\nsys.modules["stepping_stones_hf"] = None\n'
    output = run_without_the_library(f"{without}{load}{print_it}", folder=tmp_path)
    assert output.split() == ["AAVSForAudioVisualSegmentation", "AAVSProcessor", "2"]
    # Written again, it is the same, and it says so of the folder that it was copied from.
    before = {path.name: path.read_bytes() for path in Path("with_code").glob("*.*")}
    save_code("with_code")
    assert {path.name: path.read_bytes() for path in Path("with_code").glob("*.*")} == before
    assert "auto_map" not in json.loads((two_stage_repository / "config.json").read_text())


def test_a_folder_without_a_model_gets_no_code(two_stage_repository, tmp_path):
    shutil.copytree(two_stage_repository, tmp_path / "model")
    (tmp_path / "model" / "localizer" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="config.json"):
        save_code(tmp_path / "model")
    assert not [*(tmp_path / "model").glob("*.py")]
