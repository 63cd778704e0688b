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

from stepping_stones_hf import VGGishConfig
from stepping_stones_hf.models.cavp.sounds_cavp import (
    CAVPSoundBank,
    find_classes,
    find_single_classes,
    shuffle_sounds,
)

from .conftest import make_config


def make_bank(**fields) -> CAVPSoundBank:
    audio_config = VGGishConfig(patch_frames=16, num_mel_bins=16)
    defaults = {"num_labels": 4, "audio_config": audio_config, "sound_bank_size": 2, "sound_bank_rate": 1.0}
    return CAVPSoundBank(make_config(**{**defaults, **fields}))


def make_sounds(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None, None].expand(-1, 16, 16)


def make_classes(*frames: set[int]) -> torch.Tensor:
    return torch.tensor([[label == 0 or label in frame for label in range(4)] for frame in frames])


def test_classes_of_a_frame_are_those_that_are_annotated():
    labels = torch.zeros(3, 2, 2, dtype=torch.long)
    labels[0] = torch.tensor([[3, 0], [255, 255]])
    labels[1] = 255
    assert find_classes(labels, 5).nonzero().tolist() == [[0, 0], [0, 3], [2, 0]]


def test_background_is_no_single_class():
    single, label = find_single_classes(make_classes({2}, {1, 3}, set()))
    assert single.tolist() == [True, False, False] and label[0] == 2


def test_each_sound_is_dealt_out_once_and_goes_with_the_same_classes():
    classes = make_classes({1}, {1}, {1, 2}, set(), {2})
    for seed in range(20):
        torch.manual_seed(seed)
        order, matches = shuffle_sounds(classes)
        assert sorted(order.tolist()) == [0, 1, 2, 3, 4]
        for frame, (other, match) in enumerate(zip(order.tolist(), matches.tolist())):
            assert match == (frame == other or {frame, other} == {0, 1})


def test_the_bank_keeps_the_latest_sounds_of_each_class():
    bank = make_bank()
    bank.add(make_sounds(0.1, 0.2, 0.3, 0.4), make_classes({1}, {2}, {1, 2}, set()))
    bank.add(make_sounds(0.5, 0.6, 0.7), make_classes({1}, {1}, {1}))
    kept = bank.sounds[:, :, 0, 0]
    torch.testing.assert_close(kept, torch.tensor([[-1.0, -1.0], [0.6, 0.7], [-1.0, 0.2], [-1.0, -1.0]]))
    assert bank.num_steps == 2


def test_the_bank_gives_the_oldest_sound_of_a_class_to_frames_of_that_class():
    bank = make_bank()
    bank.add(make_sounds(0.1, 0.2, 0.3), make_classes({1}, {1}, {2}))
    frames, sounds = bank.draw(make_classes({1}, {1, 2}, {2}, {1}), torch.tensor([False, False, False, True]))
    given = {frame: round(sound[0, 0].item(), 4) for frame, sound in zip(frames.tolist(), sounds)}
    assert given == {0: 0.1, 2: -1.0}


def test_the_bank_is_asked_for_a_share_rounded_down():
    bank = make_bank(sound_bank_rate=0.5)
    classes, matches = make_classes(*[{1}] * 5), torch.zeros(5, dtype=torch.bool)
    drawn = set()
    for seed in range(20):
        torch.manual_seed(seed)
        frames, _ = bank.draw(classes, matches)
        assert len(frames) == 2
        drawn |= set(frames.tolist())
    assert drawn == set(range(5))


def test_the_bank_draws_no_numbers_while_it_warms_up():
    bank = make_bank(sound_bank_warmup_steps=1)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    frames, sounds = bank.draw(make_classes({1}, {2}), torch.tensor([False, False]))
    assert len(frames) == len(sounds) == 0 and torch.rand(1) == expected
