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
Makes in small what AAVS starts from (section 3.2 of the paper): a Mask2Former that has seen ADE20K and a VGGish that
has heard AudioSet.

    python examples/pretrain_mini.py --output_dir runs/mini-pretrained

A stock Mask2Former of the size of configs/mini_pretrained.yaml learns to segment all that can be seen in drawn
pictures, by class; it has heard nothing. A VGGish of that recipe's size learns to name single sounds; it has seen
nothing. Pictures and sounds are drawn from another seed than those of mini-AVSBench. The folder gets

    mask2former/          for --mask2former_name_or_path
    vggish.safetensors    for --vggish_checkpoint, with the names of torchvggish
    results.json          what they know, of pictures and sounds that they were not trained on, and what it cost

The same command resumes after whatever ended it.
"""

import json
import resource
import shutil
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import save_file
from torch import nn
from tqdm.auto import tqdm
from train_stepping_stones import parse_arguments
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, PreTrainedConfig, get_scheduler

from stepping_stones_hf import VGGishFeatureExtractor, VGGishModel
from stepping_stones_hf.data.labels import CLASS_NAMES
from stepping_stones_hf.data.mini import LOOKS, draw_scene, draw_sound
from stepping_stones_hf.files import begin_folder, complete_folder, write_text, write_whole
from stepping_stones_hf.models.aavs import AAVSConfig
from stepping_stones_hf.models.vggish.convert_vggish_original import ORIGINAL_KEYS
from stepping_stones_hf.training.batches import derive_seed
from stepping_stones_hf.training.checkpoints import (
    Progress,
    StopRequest,
    find_changes,
    find_checkpoint,
    load_checkpoint,
    lock_run,
    save_checkpoint,
)
from stepping_stones_hf.training.initialization import make_config, make_new_processor, parse_block


RECIPE = Path(__file__).parent / "configs" / "mini_pretrained.yaml"
LEARNING_RATE, WEIGHT_DECAY, NUM_WARMUP_STEPS, STEPS_PER_CHECKPOINT = 1e-3, 0.05, 100, 500
PICTURES_PER_STEP, PATCHES_PER_STEP = 8, 64
NUM_SOUNDS, NUM_TEST_PICTURES, NUM_TEST_SOUNDS = 3000, 200, 240
# The classes that are drawn, background first: no model of AVSBench's 71 takes over their predictor, as none takes
# that of ADE20K's 150.
CLASSES = [0, *(CLASS_NAMES.index(name) for name in LOOKS)]


def train(
    folder: Path, model: nn.Module, num_steps: int, seed: int, compute_loss: Callable[[nn.Module, int], torch.Tensor]
) -> None:
    """Trains a model, from its last checkpoint on; what is random in a step follows from its number."""
    accelerator = Accelerator(cpu=True)  # where pictures and sounds are drawn
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    scheduler = get_scheduler("cosine", optimizer, min(NUM_WARMUP_STEPS, num_steps // 2), num_steps)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    progress, checkpoint = find_checkpoint(folder)
    if checkpoint is not None:
        load_checkpoint(accelerator, checkpoint)
    model.train()
    bar = tqdm(total=num_steps, initial=progress.total_steps, desc=folder.name)
    with StopRequest() as stop:
        while progress.total_steps < num_steps:
            step_seed = derive_seed(seed, progress.total_steps)
            torch.manual_seed(step_seed)
            loss = compute_loss(model, step_seed)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            progress = Progress(step=progress.total_steps + 1, total_steps=progress.total_steps + 1)
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")
            stopped = stop.is_set(accelerator)
            if stopped or progress.total_steps % STEPS_PER_CHECKPOINT == 0:
                save_checkpoint(accelerator, progress, folder)
            if stopped:
                stop.leave(folder.name, progress)
    bar.close()
    model.eval()


def make_mask2former(config: AAVSConfig) -> Mask2FormerForUniversalSegmentation:
    """A stock Mask2Former whose weights an AAVS of this config starts from."""
    own = set(Mask2FormerConfig.__dataclass_fields__) - set(PreTrainedConfig.__dataclass_fields__)
    fields = {name: getattr(config, name) for name in own & set(AAVSConfig.__dataclass_fields__)}
    labels = {index: CLASS_NAMES[label] for index, label in enumerate(CLASSES)}
    return Mask2FormerForUniversalSegmentation(Mask2FormerConfig(**fields, id2label=labels))


def pretrain_mask2former(output_dir: Path, config: AAVSConfig, image_processor, num_steps: int, seed: int) -> dict:
    """Returns the mean IoU, over all classes, with held-out pictures."""
    set_seed(seed)
    model = make_mask2former(config)
    index_of = np.zeros(len(CLASS_NAMES), dtype=np.uint8)
    index_of[CLASSES] = np.arange(len(CLASSES))

    def compute_loss(model: nn.Module, step_seed: int) -> torch.Tensor:
        scenes = [draw_scene(step_seed, index) for index in range(PICTURES_PER_STEP)]
        inputs = image_processor(
            [frame for frame, _ in scenes],
            segmentation_maps=[index_of[labels] for _, labels in scenes],
            return_tensors="pt",
        )
        return model(**inputs).loss

    train(output_dir / "training" / "mask2former", model, num_steps, seed, compute_loss)

    counts = np.zeros((3, len(CLASSES)))  # pixels of the truth, of the prediction and of both
    for index in range(NUM_TEST_PICTURES):
        frame, labels = draw_scene(derive_seed(seed, -1), index)
        inputs = image_processor([frame], return_tensors="pt")
        with torch.no_grad():
            (predicted,) = image_processor.post_process_semantic_segmentation(
                model(**inputs), target_sizes=[labels.shape]
            )
        truth, predicted = index_of[labels], predicted.numpy()
        for row, pixels in enumerate((truth, predicted, truth[truth == predicted])):
            counts[row] += np.bincount(pixels.ravel(), minlength=len(CLASSES))
    model.save_pretrained(begin_folder(output_dir / "mask2former"))
    complete_folder(output_dir / "mask2former")
    return {"mask2former_miou": float(np.mean(counts[2] / np.maximum(counts[0] + counts[1] - counts[2], 1)))}


def hear(num_sounds: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches (patches, frames, bins) of so many sounds, one after the other, and the class of each patch."""
    extractor, patches, classes = VGGishFeatureExtractor(), [], []
    for index in tqdm(range(num_sounds), desc="sounds"):
        waveform, label = draw_sound(seed, index)
        patches.append(extractor(waveform, sampling_rate=16_000, return_tensors="pt")["input_features"])
        classes += [CLASSES.index(label)] * len(patches[-1])
    return torch.cat(patches), torch.tensor(classes)


def pretrain_vggish(output_dir: Path, config: AAVSConfig, num_steps: int, seed: int) -> dict:
    """Returns the share of held-out sounds of a second that are named right."""
    set_seed(seed)
    vggish = VGGishModel(config.audio_config)
    model = nn.ModuleDict({"vggish": vggish, "head": nn.Linear(config.audio_config.embedding_dim, len(CLASSES))})
    patches, classes = hear(NUM_SOUNDS, derive_seed(seed, 1))

    def compute_loss(model: nn.Module, step_seed: int) -> torch.Tensor:
        drawn = torch.randint(len(patches), (PATCHES_PER_STEP,))
        return nn.functional.cross_entropy(model["head"](model["vggish"](patches[drawn]).embeddings), classes[drawn])

    train(output_dir / "training" / "vggish", model, num_steps, seed, compute_loss)

    patches, classes = hear(NUM_TEST_SOUNDS, derive_seed(seed, 2))
    with torch.no_grad():
        named = model["head"](vggish(patches).embeddings).argmax(dim=-1) == classes
    state_dict = vggish.state_dict()
    with write_whole(output_dir / "vggish.safetensors") as (partial,):
        save_file({original: state_dict[ours] for original, ours in ORIGINAL_KEYS.items()}, partial)
    return {"vggish_accuracy": named.float().mean().item()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/mini-pretrained"))
    parser.add_argument("--config", type=Path, default=RECIPE, help="recipe with the sizes of the models")
    parser.add_argument("--mask2former_steps", type=int, default=4000)
    parser.add_argument("--vggish_steps", type=int, default=2500)
    parser.add_argument("--seed", type=int, default=20_240_711, help="another one than those of data")
    args = parser.parse_args(argv)
    _, model_args, _ = parse_arguments(["--config", str(args.config)])
    config = make_config(model_args.get_block(localizes=False), localizes=False, prompted=True)
    image_processor = make_new_processor(config, False, parse_block(model_args.image_processor)).image_processor

    with lock_run(args.output_dir):
        run_path, results_path = args.output_dir / "run.json", args.output_dir / "results.json"
        arguments = {name: value for name, value in vars(args).items() if name not in ("output_dir", "config")}
        arguments["model"] = config.to_diff_dict()
        arguments = json.loads(json.dumps(arguments))
        changes = find_changes(run_path, arguments) if run_path.exists() else {}
        if changes:
            raise ValueError(
                f"{args.output_dir} was made with other arguments: {', '.join(changes)} differ. Choose another"
                " --output_dir."
            )
        write_text(run_path, json.dumps(arguments, indent=2))
        results = json.loads(results_path.read_text()) if results_path.exists() else {}
        parts = {
            "mask2former": lambda: pretrain_mask2former(
                args.output_dir, config, image_processor, args.mask2former_steps, args.seed
            ),
            "vggish": lambda: pretrain_vggish(args.output_dir, config, args.vggish_steps, args.seed),
        }
        for name, pretrain in parts.items():
            if f"{name}_cpu_seconds" not in results:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
                results |= pretrain()
                # Of this process: a run that is resumed tells what its last part has cost.
                results[f"{name}_cpu_seconds"] = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
                write_text(results_path, json.dumps(results, indent=2))
        shutil.rmtree(args.output_dir / "training", ignore_errors=True)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
