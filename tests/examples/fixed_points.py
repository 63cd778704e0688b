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
Run by a test, on one process or by `accelerate launch` on several: the training script with fixed points in the loss,
without the noise of EASE, with running statistics in batch norms (a process has those of its own part of a batch) and
with plain gradient descent, so that steps differ by rounding alone (AdamW divides small gradients by themselves).
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from transformers.models.dinov3_vit import modeling_dinov3_vit

from stepping_stones_hf.models.ease import modeling_ease


sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import train_stepping_stones as script  # noqa: E402


def fixed_rand(*size, **options) -> torch.Tensor:
    """
    The same for every row, of which a process has only some: points of the loss `(rows, points, 2)`, or which queries
    of EASE leave out their mask `(rows, queries)`.
    """
    rows, *row = size[0] if len(size) == 1 else size
    assert len(row) == 1 or (len(row) == 2 and row[-1] == 2), f"{size} is not a shape of these"
    return torch.empty(row).uniform_(generator=torch.Generator().manual_seed(row[0])).expand(rows, *row).clone()


def fixed_permutation(size: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """The same for every batch of a size, whichever process has it; with a generator what that gives."""
    return original_randperm(size, generator=generator or torch.Generator().manual_seed(size))


original_randperm = torch.randperm


def normalize_by_running_statistics(module, hidden_states: torch.Tensor) -> torch.Tensor:
    values = (module.running_mean, module.running_var, module.weight, module.bias)
    return torch.nn.functional.batch_norm(hidden_states, *values, training=False, eps=module.eps)


def descend(parameters, lr: float, **options) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=lr)


def make_hopeful_model(*args, **kwargs) -> tuple:
    """A model of stage 2 that sees background: at random it would see classes that there are not, and score zero."""
    model, processor = original_make_model(*args, **kwargs)
    if model.config.num_labels > 2:
        if hasattr(model, "class_predictor"):
            model.class_predictor.bias.data[0] += 4
        elif hasattr(model.head, "conv3"):  # the features that enter are rectified
            model.head.conv3.weight.data[0] += 1
    return model, processor


original_make_model = script.make_model


def record_steps(output: Path):
    """`compute_gradients`, which also writes the loss and all gradients of each step."""
    steps = []

    def compute_gradients(accelerator, model, *arguments):
        result = original(accelerator, model, *arguments)
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        steps.append((result[0], torch.cat([gradient.flatten() for gradient in gradients])))
        if accelerator.is_main_process:
            losses = torch.tensor([loss for loss, _ in steps], dtype=torch.float64)
            names = {f"gradients.{index}": gradient for index, (_, gradient) in enumerate(steps)}
            save_file({"num_processes": torch.tensor(accelerator.num_processes), "losses": losses} | names, output)
        return result

    original = script.compute_gradients
    return compute_gradients


def main(output: Path, arguments: list[str], setattr) -> None:
    """Runs the script with `arguments`; `setattr` replaces what is random."""
    setattr(torch, "rand", fixed_rand)
    setattr(torch, "randperm", fixed_permutation)
    setattr(modeling_ease, "draw_gumbel_noise", torch.zeros_like)
    setattr(modeling_dinov3_vit, "augment_patches_center_coordinates", lambda coordinates, **options: coordinates)
    setattr(torch.nn.modules.batchnorm._BatchNorm, "forward", normalize_by_running_statistics)
    setattr(torch.optim, "AdamW", descend)
    setattr(script, "make_model", make_hopeful_model)
    setattr(script, "compute_gradients", record_steps(output))
    script.main(arguments)


if __name__ == "__main__":
    assert Accelerator().num_processes == 2
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2:], setattr)
