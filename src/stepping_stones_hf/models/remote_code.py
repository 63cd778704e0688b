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
"""
A saved model that carries its code, so that it loads where this library is not installed.

transformers' own way, `register_for_auto_class`, copies a file and what it imports from beside it, and a model here
imports from other folders as well. So all files that it needs are put side by side, with their imports rewritten.
"""

import ast
import inspect
import json
import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from transformers import CONFIG_MAPPING
from transformers.models.auto.feature_extraction_auto import FEATURE_EXTRACTOR_MAPPING
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from ..files import write_text
from .auto import MODEL_FOR_AUDIO_VISUAL_SEGMENTATION_MAPPING
from .conversion import read_json


def get_name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]


def collect_sources(module: ModuleType, sources: dict[str, str]) -> None:
    """Adds the source of a module, and of all that it imports of this library, to `sources`, by name."""
    if get_name(module) in sources:
        return
    lines = inspect.getsource(module).splitlines()
    sources[get_name(module)] = ""  # modules may import one another
    imports = [node for node in ast.walk(ast.parse("\n".join(lines))) if isinstance(node, ast.ImportFrom)]
    for node in sorted(imports, key=lambda node: node.lineno, reverse=True):
        if node.level == 0:
            continue
        imported = import_module("." * node.level + (node.module or ""), module.__package__)
        statements = []
        for alias in node.names:
            # A folder's `__init__.py` stays here: its names come from the files that they are defined in.
            is_folder = hasattr(imported, "__path__")
            owner = sys.modules[getattr(imported, alias.name).__module__] if is_folder else imported
            statements.append(f"{' ' * node.col_offset}from .{get_name(owner)} import {ast.unparse(alias)}")
            collect_sources(owner, sources)
        lines[node.lineno - 1 : node.end_lineno] = statements
    sources[get_name(module)] = "\n".join(lines) + "\n"


def save_code(folder: str | os.PathLike) -> None:
    """
    Puts the code of a saved model into its folder, and that of the localizer in its subfolder, if there is one. Then

        AutoModel.from_pretrained(folder, trust_remote_code=True)
        AutoProcessor.from_pretrained(folder, backend="pil", trust_remote_code=True)

    give the model with its head and the processor with transformers alone, and what the code imports (Pillow, SciPy,
    soundfile, ...). With this library nothing changes: it has its own code.

    Args:
        folder (`str` or `PathLike`):
            Where a model and its processor were saved, or a two-stage repository.

    Raises:
        `FileNotFoundError`: there is no model, or no processor, in a folder.
        `KeyError`: the model is not one of this library.
    """
    sources, configs = {}, {}

    def refer_to(cls: type) -> str:
        module = sys.modules[cls.__module__]
        collect_sources(module, sources)
        return f"{get_name(module)}.{cls.__name__}"

    folders = [path for path in (Path(folder), Path(folder, "localizer")) if path.is_dir()]
    for path in folders:
        config = configs[path / "config.json"] = read_json(path / "config.json")
        config_class = CONFIG_MAPPING[config["model_type"]]
        processor = configs[path / "processor_config.json"] = read_json(path / "processor_config.json")
        config["auto_map"] = {
            "AutoConfig": refer_to(config_class),
            "AutoModel": refer_to(MODEL_FOR_AUDIO_VISUAL_SEGMENTATION_MAPPING[config_class]),
        }
        processor["auto_map"] = {"AutoProcessor": refer_to(PROCESSOR_MAPPING[config_class])}
        image_processors = IMAGE_PROCESSOR_MAPPING[config_class]
        processor["image_processor"]["auto_map"] = {
            "AutoImageProcessor": {backend: refer_to(cls) for backend, cls in image_processors.items()}
        }
        processor["feature_extractor"]["auto_map"] = {
            "AutoFeatureExtractor": refer_to(FEATURE_EXTRACTOR_MAPPING[config_class])
        }
    # The code of both is in the folder itself, where transformers looks for it; that it is there is said last.
    for name, text in sources.items():
        write_text(Path(folder, f"{name}.py"), text)
    for path, content in configs.items():
        write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


__all__ = ["save_code"]
