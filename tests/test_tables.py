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
from stepping_stones_hf.tables import format_table, write_csv


def test_cells_are_written_by_what_they_are():
    rows = [["a", 0.25, None], ["b", 3, 1.0]]
    assert format_table(["name", "x", "y"], rows).splitlines() == [
        "| name | x | y |",
        "|---|---|---|",
        "| a | 0.250 | – |",
        "| b | 3 | 1.000 |",
    ]
    assert format_table(["name", "x"], [["a", 0.12345]], percent=True).endswith("| a | 12.35 |")
    assert format_table(["name"], []) == "| name |\n|---|"
    assert format_table(["name"], iter([["a"]])) == "| name |\n|---|\n| a |"


def test_columns_are_in_the_order_in_which_they_first_occur(tmp_path):
    write_csv([{"a": 0.5, "b": None}, {"c": "x, y", "a": 1}], tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text().splitlines() == ["a,b,c", "0.5,,", '1,,"x, y"']
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
