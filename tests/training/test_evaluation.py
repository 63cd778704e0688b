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
import torch

from stepping_stones_hf import AAVSForAudioVisualSegmentation, AAVSImageProcessorPil
from stepping_stones_hf.training.evaluation import localize, make_prompts

from ..models.aavs.conftest import make_config


def test_scores_are_single_precision_under_autocast():
    torch.manual_seed(0)
    model = AAVSForAudioVisualSegmentation(make_config(num_labels=2)).eval()
    size = {"height": 16, "width": 16}
    processor = AAVSImageProcessorPil(label_size=size, post_process_size=size, localization=True)
    inputs = {"pixel_values": torch.randn(2, 3, 64, 64), "audio_embeddings": torch.randn(2, 128)}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = localize(model, processor, inputs)
    assert scores.dtype == torch.float32 and scores.shape == (2, 2, 16, 16)


def test_prompts_are_where_what_sounds_has_the_higher_score():
    scores = torch.tensor([[[[0.2, 0.6]], [[0.6, 0.2]]]])  # (frames, background and sounding, height, width)
    assert make_prompts(scores).tolist() == [[[1.0, 0.0]]]
    torch.testing.assert_close(make_prompts(scores, soft=True), torch.tensor([[[0.75, 0.25]]]))
