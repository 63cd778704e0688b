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
"""The blocks of recipes: a name that nobody reads is an error, not a model with the defaults."""

import pytest

from stepping_stones_hf import AAVSConfig
from stepping_stones_hf.training.initialization import check_names, make_config, make_new_processor, parse_block


def test_the_stage_says_labels_and_prompt():
    block = {"model_type": "aavs", "num_queries": 7}
    localizer, model = make_config(block, True, False), make_config(block, False, True)
    assert [type(config) for config in (localizer, model)] == [AAVSConfig] * 2
    assert (localizer.num_labels, localizer.use_mask_prompt, localizer.num_queries) == (2, False, 7)
    assert (model.num_labels, model.use_mask_prompt, model.num_queries) == (71, True, 7)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"num_queries": 7}, "needs a model_type, and has num_queries"),
        ({"model_type": "aavz"}, "The model_type aavz is none of aavs, "),
        ({"model_type": "bert"}, "The model_type bert is none of aavs, "),
        ({"model_type": "aavs", "num_querys": 7}, "block model of the recipe has unknown fields: num_querys"),
        ({"model_type": "tpavi", "use_mask_prompt": True, "num_labels": 3}, "unknown fields: num_labels, use_mask_pr"),
    ],
)
def test_a_model_block_that_is_wrong(block, message):
    with pytest.raises(ValueError, match=message):
        make_config(block, localizes=True, prompted=False)


def test_an_image_processor_block_that_is_wrong():
    config = make_config({"model_type": "aavs"}, localizes=True, prompted=False)
    size = {"height": 64, "width": 64}
    processor = make_new_processor(config, True, {"size": size, "ignore_index": 254})
    assert (processor.image_processor.size.height, processor.image_processor.ignore_index) == (64, 254)
    # The second is the model's, and not a recipe's.
    with pytest.raises(ValueError, match="block image_processor of the recipe has unknown fields: score_rule, sise"):
        make_new_processor(config, True, {"sise": size, "score_rule": "probability"})


@pytest.mark.parametrize("text", ["True", "aavs", "[1]"])
def test_what_is_no_block(text):
    with pytest.raises(ValueError, match="where a block is expected"):
        parse_block(text)


def test_names_that_are_known_pass():
    check_names("The block", {"flip": 0.5}, {"flip", "scale"})
