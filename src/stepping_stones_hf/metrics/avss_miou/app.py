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
"""The page of the metric's Space: label maps in, scores out."""

from pathlib import Path

import evaluate
import gradio
import numpy as np
from PIL import Image


DESCRIPTION = """
# AVSS mIoU

Upload the predicted and the true label maps of one video, as PNG files of one channel or with a palette, whose values
are class indices. Files are paired in the order of their names. The metric card explains the numbers.
"""


def read_label_maps(paths: list[str]) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)) for path in sorted(paths, key=lambda path: Path(path).name)]


def score(predictions: list[str], references: list[str], num_classes: float) -> dict:
    metric = evaluate.load("avss_miou.py", num_classes=int(num_classes))
    try:
        results = metric.compute(
            predictions=read_label_maps(predictions),
            references=read_label_maps(references),
        )
    except ValueError as error:
        raise gradio.Error(str(error)) from error
    return {name: value for name, value in results.items() if isinstance(value, (int, float))}


with gradio.Blocks(title="AVSS mIoU") as demo:
    gradio.Markdown(DESCRIPTION)
    with gradio.Row():
        prediction_files = gradio.File(label="Predictions", file_count="multiple", file_types=["image"])
        reference_files = gradio.File(label="References", file_count="multiple", file_types=["image"])
    num_classes = gradio.Number(value=71, precision=0, label="Classes, background included")
    button = gradio.Button("Score", variant="primary")
    scores = gradio.JSON(label="Scores")
    button.click(score, [prediction_files, reference_files, num_classes], scores)

if __name__ == "__main__":
    demo.launch()
