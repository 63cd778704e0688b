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
"""Recipes: one may build on another, and what is wrong with a file is said in a line that names it."""

import pytest

from stepping_stones_hf.training.arguments import read_recipe


def test_a_recipe_builds_on_others_wherever_they_are(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (tmp_path / "first.yaml").write_text("seed: 1\nstage: all\nstage_1_epochs: 3\n")
    (folder / "second.yaml").write_text("base: ../first.yaml\nseed: 2\n")
    (folder / "third.yaml").write_text(f"base: {folder / 'second.yaml'}\nstage_1_epochs: 4\n")
    assert read_recipe(folder / "third.yaml") == {"seed": 2, "stage": "all", "stage_1_epochs": 4}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: recipe.yaml\n", "recipe.yaml has the base recipe.yaml, which builds on it"),
        ("base: other.yaml\n", "other.yaml has the base recipe.yaml, which builds on it"),
        ("base: 3\n", "recipe.yaml has the base 3, expected the path"),
        ("a: [\n", "recipe.yaml is not a yaml or json file"),
        ("- 1\n", "recipe.yaml should hold arguments with their values, and holds a list"),
    ],
)
def test_what_is_no_recipe(tmp_path, text, message):
    (tmp_path / "recipe.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text("base: recipe.yaml\n")
    with pytest.raises(ValueError, match=message):
        read_recipe(tmp_path / "recipe.yaml")
