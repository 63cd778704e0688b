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
Trains a model with `transformers.Trainer`, here stage 2 alone, prompted with true masks:

    python examples/trainer.py --data_dir AVSBench --model_name_or_path model --output_dir runs/trainer

Three things differ from a model of text.
- A batch's first axis is frames, and `Trainer` counts rows: so each frame is a sample, by `SingleFrames`.
- The loss is divided by what the model counts (AAVS masks and classification weights), and not by a number of tokens.
- Evaluation batches have label maps at the size of the metric in place of targets for the loss.

The models of both stages, the masks between them and the released recipe are in `train_stepping_stones.py`.
"""

import sys
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import AutoProcessor, EvalPrediction, HfArgumentParser, Trainer, TrainingArguments

from stepping_stones_hf import AutoModelForAudioVisualSegmentation
from stepping_stones_hf.data import AVSCollator, load_avsbench
from stepping_stones_hf.metrics import semantic_results, semantic_statistics
from stepping_stones_hf.training.clips import SingleFrames


class AVSTrainer(Trainer):
    """
    `Trainer` with the loss over a whole optimizer step, and with label maps as predictions.

    Args:
        eval_collator ([`AVSCollator`]):
            Made with `evaluation=True`, beside `data_collator` for training.
    """

    def __init__(self, *args, eval_collator: AVSCollator, **kwargs):
        super().__init__(*args, **kwargs)
        self.eval_collator = eval_collator

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        # `Trainer` counts the entries of `labels`, of which there are none. It multiplies the loss by the number of
        # processes where it is given a count, and does not divide it by that of the accumulated batches then.
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        normalizers = sum(self.model.get_loss_normalizers(batch) for batch in batches)
        return batches, self.accelerator.reduce(normalizers.to(device), "sum")

    def get_eval_dataloader(self, eval_dataset=None):
        train_collator, self.data_collator = self.data_collator, self.eval_collator
        try:
            return super().get_eval_dataloader(eval_dataset)
        finally:
            self.data_collator = train_collator

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = {name: value for name, value in self._prepare_inputs(inputs).items() if name != "frames"}
        label_maps = inputs.pop("label_maps")
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        predictions = self.eval_collator.processor.post_process_semantic_segmentation(outputs)
        return None, torch.stack(predictions), label_maps  # both (frames, label height, label width)


class ComputeMetrics:
    """avss_miou, batch by batch (`batch_eval_metrics`): what is kept of a frame are its counts."""

    def __init__(self, num_classes: int):
        self.num_classes, self.statistics = num_classes, []

    def __call__(self, evaluated: EvalPrediction, compute_result: bool) -> dict[str, float]:
        for prediction, label_map in zip(evaluated.predictions.cpu().numpy(), evaluated.label_ids.cpu().numpy()):
            self.statistics.append(semantic_statistics(prediction, label_map, self.num_classes))
        if not compute_result:
            return {}
        # The figures are means over frames, whichever clips they are of.
        results = semantic_results(self.statistics, np.arange(len(self.statistics)), self.num_classes)
        self.statistics = []
        return {name: float(results[name]) for name in ("miou", "fscore", "miou_star", "miou_seen")}


@dataclass
class Arguments:
    data_dir: str = field(metadata={"help": "Copy of AVSBench."})
    model_name_or_path: str = field(metadata={"help": "Model to start from, of stage 2."})


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = HfArgumentParser((Arguments, TrainingArguments))
    arguments, training_arguments = parser.parse_args_into_dataclasses(sys.argv[1:] if argv is None else argv)
    training_arguments.remove_unused_columns = False
    training_arguments.batch_eval_metrics = True

    model = AutoModelForAudioVisualSegmentation.from_pretrained(arguments.model_name_or_path)
    if model.config.clip_length is not None:
        raise ValueError(
            f"{arguments.model_name_or_path} looks at {model.config.clip_length} frames together: single frames, which"
            " Trainer counts, are not for it. Use train_stepping_stones.py."
        )
    if model.config.freeze_audio_encoder:
        model.freeze_audio_encoder()
    processor = AutoProcessor.from_pretrained(arguments.model_name_or_path, backend="pil")
    collator = AVSCollator(processor, prompt="truth")
    clips = load_avsbench("avss", arguments.data_dir)
    trainer = AVSTrainer(
        model=model,
        args=training_arguments,
        data_collator=collator,
        eval_collator=AVSCollator(processor, prompt="truth", evaluation=True),
        train_dataset=SingleFrames(collator.prepare(clips["train"])),
        eval_dataset=SingleFrames(collator.prepare(clips["validation"])),
        compute_metrics=ComputeMetrics(model.config.num_labels),
    )
    trainer.train()
    trainer.save_model()
    # Not as `processing_class`: of a processor, `Trainer` wants to see the tokenizer.
    processor.save_pretrained(training_arguments.output_dir)
    results = trainer.evaluate()
    trainer.accelerator.end_training()
    return results


if __name__ == "__main__":
    main()
