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
How fast the models are beside one another: stage 2 of each row of the table "Size" in docs/source/models.md, as its
preset makes it and at its preset's size, without its audio encoder and with random weights, on the frames of one clip.

    python benchmarks/bench_models.py --csv benchmarks/results/models_cpu.csv

All are in one process and take turns. Medians; frames a second by CPU seconds (on a GPU by its own clock), and their
ratio to AAVS's.
"""

import argparse
import statistics
from pathlib import Path

import torch
from bench_forward import Clock, measure
from transformers import PreTrainedModel

from stepping_stones_hf import AutoModelForAudioVisualSegmentation
from stepping_stones_hf.tables import format_table, write_csv
from stepping_stones_hf.training.arguments import read_recipe
from stepping_stones_hf.training.initialization import make_config, make_new_processor


__all__ = ["main"]

CONFIGS = Path(__file__).parents[1] / "examples" / "configs"
RESNET_50 = {"model_type": "resnet", "out_features": ["stage1", "stage2", "stage3", "stage4"]}
# Presets, and what is another than theirs.
MODELS = {
    "AAVS, Swin-B": ("avss.yaml", {}),
    "AVSegFormer, PVT-v2-b5": ("avsegformer_avss.yaml", {}),
    "AVSegFormer, ResNet-50": ("avsegformer_avss.yaml", {"backbone_config": RESNET_50}),
    # Without the bank of sounds, which is for training and takes an audio encoder.
    "CAVP, ResNet-50 with a deep stem": ("cavp_avss.yaml", {"sound_bank_size": 0}),
    "EASE, ViT-B/16": ("ease-stepping-stones.yaml", {}),
    "EASE, ViT-L/16": ("ease_avss_vitl384.yaml", {}),
    "EASE, PVT-v2-b5": ("ease_avss_pvt.yaml", {}),
    "TPAVI, PVT-v2-b5": ("tpavi_avss.yaml", {}),
    "TPAVI, ResNet-50": ("tpavi_avss.yaml", {"backbone_config": RESNET_50}),
}


def make_model(preset: str, changes: dict, device: str) -> tuple[PreTrainedModel, tuple[int, int]]:
    """A preset's stage 2, and the height and width of its frames."""
    recipe = read_recipe(CONFIGS / preset)
    block = recipe["model"] | recipe.get("stage_2_model", {}) | changes | {"audio_config": None}
    config = make_config(block, localizes=False, prompted=True)
    size = make_new_processor(config, False, recipe.get("image_processor", {})).image_processor.size
    return AutoModelForAudioVisualSegmentation.from_config(config).eval().to(device), (size.height, size.width)


def make_inputs(model: PreTrainedModel, size: tuple[int, int], num_frames: int, device: str) -> dict:
    inputs = {
        "pixel_values": torch.randn(num_frames, 3, *size, device=device),
        "audio_embeddings": torch.randn(num_frames, model.config.audio_embedding_dim, device=device),
        "prompt_masks": (torch.rand(num_frames, 224, 224, device=device) < 0.3).float(),
    }
    if model.config.clip_length is not None:
        inputs["num_frames"] = torch.tensor([num_frames])
    return inputs


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    clock, unit = Clock(args.device), "CPU seconds" if args.device == "cpu" else "seconds"
    models = {name: make_model(*preset, args.device) for name, preset in MODELS.items()}
    seconds = {name: [] for name in models}
    with torch.no_grad():
        for number in range(args.rounds + 1):  # the first warms up
            for name, (model, size) in models.items():
                inputs = make_inputs(model, size, args.frames, args.device)
                figures, _ = measure(lambda: model(**inputs), {}, clock)  # noqa: B023
                if number > 0:
                    seconds[name].append(figures[unit])
    rates = {name: args.frames / statistics.median(found) for name, found in seconds.items()}
    first = next(iter(rates.values()))
    rows = [
        {
            "model": name,
            "size": f"{size[0]}x{size[1]}",
            "GPU" if args.device == "cuda" else "threads": (
                torch.cuda.get_device_name() if args.device == "cuda" else torch.get_num_threads()
            ),
            f"frames a second ({unit})": round(rates[name], 3),
            "ratio to AAVS": round(rates[name] / first, 2),
        }
        for name, (_, size) in models.items()
    ]
    print(format_table([*rows[0]], [[str(value) for value in row.values()] for row in rows]))
    if args.csv is not None:
        args.csv.parent.mkdir(parents=True, exist_ok=True)
        write_csv(rows, args.csv)


if __name__ == "__main__":
    main()
