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
import csv
import hashlib
import inspect
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from accelerate.state import AcceleratorState
from datasets.distributed import split_dataset_by_node
from huggingface_hub import DatasetCard
from PIL import Image

from stepping_stones_hf.cli import main
from stepping_stones_hf.data import export, load_avsbench
from stepping_stones_hf.data.export import choose_num_shards, export_avsbench
from stepping_stones_hf.data.mini import make_mini_avsbench

from .conftest import MINI_CLIPS, make_object_tree


PAGE = Path(__file__).parents[2] / "docs" / "source" / "parquet_and_streaming.md"


@pytest.fixture(autouse=True)
def datasets_config(monkeypatch, tmp_path_factory):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    # `datasets` 5 pauses for 5 s whenever a shuffled stream of Parquet files ends.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.1, raising=False)


@pytest.fixture(scope="module")
def exported(mini_dir, tmp_path_factory) -> Path:
    """The Parquet files of `mini_dir`. Nothing may change them."""
    return export_avsbench(mini_dir, tmp_path_factory.mktemp("export") / "parquet")


def load_rows(root: Path, subset: str, split: str) -> list[dict]:
    with open(root / "metadata.csv", newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if (row["label"], row["split"]) == (subset, split)]


def stream(path: Path, config: str, split: str) -> datasets.IterableDataset:
    return datasets.load_dataset(str(path), config, split=split, streaming=True)


def summarize(row: dict) -> dict:
    """All that a row says: values as they are, and of images and sounds a hash."""
    summary = {}
    for name, value in row.items():
        if name == "audio":
            content = Path(value["path"]).read_bytes() if value["bytes"] is None else value["bytes"]
            value = [hashlib.sha256(content).hexdigest(), Path(value["path"]).name]
        elif name == "frames" or name.endswith("masks"):
            value = [[image.mode, image.size, hashlib.sha256(image.tobytes()).hexdigest()] for image in value]
        summary[name] = value
    return json.loads(json.dumps(summary))


# Runs without this library.
READ_EVERYTHING = f"""
import hashlib
import json
import sys
from pathlib import Path

import datasets

{inspect.getsource(summarize)}
path, result = sys.argv[1:], {{}}
for config in datasets.get_dataset_config_names(*path):
    table = datasets.load_dataset(*path, config)
    stream = datasets.load_dataset(*path, config, streaming=True)
    result[config] = {{
        split: {{
            "features": [clips.features.to_dict() for clips in (table[split], stream[split])],
            "rows": [[summarize(row) for row in clips] for clips in (table[split], stream[split])],
            "categories": table[split].features["categories"].feature.names,
        }}
        for split in table
    }}
assert not [name for name in sys.modules if name.startswith("stepping_stones")]
print(json.dumps(result))
"""


def test_datasets_alone_reads_what_load_avsbench_reads(exported, mini_dir, tmp_path):
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", READ_EVERYTHING, str(exported)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        cwd=tmp_path,
    )
    assert process.returncode == 0, process.stderr
    result = json.loads(process.stdout)
    assert set(result) == {"s4", "ms3", "avss"}
    for config, splits in result.items():
        expected = load_avsbench(config, mini_dir)
        assert list(splits) == list(expected)
        for split, clips in expected.items():
            rows = [summarize(row) for row in clips]
            assert splits[split]["rows"] == [rows, rows]
            features = json.loads(json.dumps(clips.features.to_dict()))
            assert splits[split]["features"] == [features, features]
            assert splits[split]["categories"] == clips.features["categories"].feature.names


@pytest.mark.parametrize(
    ("num_clips", "num_shards", "expected"),
    [
        (4750, None, 64),
        (296, None, 64),
        (64, None, 16),
        (255, None, 32),
        (7, None, 1),
        (1, None, 1),
        (740, 48, 48),
        (5, 48, 5),
    ],
)
def test_number_of_shards(num_clips, num_shards, expected):
    assert choose_num_shards(num_clips, num_shards) == expected


def test_ranks_share_the_clips_and_read_no_others(mini_dir, tmp_path):
    out = export_avsbench(mini_dir, tmp_path / "out", num_shards=4, configs=["avss"])
    names = [path.name for path in sorted((out / "avss").iterdir())]
    assert names.count("train-00003-of-00004.parquet") == 1
    assert len([name for name in names if name.startswith("train")]) == 4
    assert len([name for name in names if name.startswith("test")]) == 3  # it has no more clips
    clips = stream(out, "avss", "train")
    shares = [split_dataset_by_node(clips.shuffle(seed=0, buffer_size=2), rank, 2) for rank in range(2)]
    assert [share.num_shards for share in shares] == [2, 2]  # else each would read everything
    ids = [[clip["video_id"] for clip in share] for share in shares]
    assert [len(share) for share in ids] in ([3, 4], [4, 3])
    assert sorted(sum(ids, [])) == sorted(clip["video_id"] for clip in clips)


def test_row_groups_are_small(mini_dir, tmp_path):
    out = export_avsbench(mini_dir, tmp_path / "out", num_shards=1, configs=["avss"])
    metadata = pq.read_metadata(out / "avss" / "train-00000-of-00001.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [4, 3]


def test_no_path_of_this_machine_is_in_the_files(exported, mini_dir):
    files = [path for path in exported.rglob("*") if path.is_file()]
    assert len(files) == 10
    for file in files:
        content = file.read_bytes()
        for path in (mini_dir, exported.parent, Path.home()):
            assert os.fsencode(path) not in content


def test_card_names_configurations_and_splits(exported):
    data = DatasetCard.load(exported / "README.md").data.to_dict()
    assert data["license"] == "other"
    assert [config["config_name"] for config in data["configs"]] == ["avss", "ms3", "s4"]
    for info in data["dataset_info"]:
        folder = exported / info["config_name"]
        assert info["download_size"] == sum(path.stat().st_size for path in folder.iterdir())
    sizes = {info["config_name"]: [split["num_examples"] for split in info["splits"]] for info in data["dataset_info"]}
    assert sizes == {"s4": [3, 1, 1], "ms3": [2, 1, 1], "avss": [7, 3, 3]}


def test_card_forbids_publishing(exported):
    assert "Do not publish" in DatasetCard.load(exported / "README.md").text


def test_statistics_of_the_card_are_those_of_the_files(exported, mini_dir):
    text = DatasetCard.load(exported / "README.md").text
    clips = load_rows(mini_dir, "v1m", "train")
    shares = [
        float((np.asarray(Image.open(path)) != 0).any(axis=-1).mean())
        for clip in clips
        for path in (mini_dir / "v1m" / clip["uid"] / "labels_rgb").iterdir()
    ]
    silent = sum(share == 0 for share in shares)
    line = f"| `ms3` | train | 2 | 10 | 10 | {silent} | {np.mean(shares):.1%} | 10 s |"
    assert line in text
    assert "| `s4` | train | 3 | 15 | 3 |" in text
    assert "| `avss` | train | 7 | 45 | 33 |" in text

    table = text.split("| `ms3` | train | validation | test |")[1].split("\n\n")[0]
    counts = Counter(name for clip in clips for name in clip["a_obj"].split("_"))
    for name, count in counts.items():
        assert re.search(rf"^\| {name} \| {count} \|", table, re.MULTILINE)


def test_avsbench_object_has_two_configurations(mini_dir, tmp_path):
    tree = make_object_tree(mini_dir, tmp_path / "object")
    out = export_avsbench(tree, tmp_path / "out")
    assert datasets.get_dataset_config_names(str(out)) == ["ms3", "s4"]
    for config in ("s4", "ms3"):
        rows = stream(out, config, "test")
        expected = load_avsbench(config, tree, split="test")
        assert rows.features == expected.features
        assert [summarize(row) for row in rows] == [summarize(row) for row in expected]
    assert "`ms3`: the copy has no categories." in (out / "README.md").read_text(encoding="utf-8")


def test_csv_file_in_place_of_the_folder(mini_dir, tmp_path):
    tree = make_object_tree(mini_dir, tmp_path / "object")
    out = export_avsbench(tree / "Multi-sources" / "ms3_meta_data.csv", tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "ms3"]


def test_copy_without_s4_and_ms3(tmp_path):
    tree = make_mini_avsbench(tmp_path / "mini", image_size=32, clips={"v2": (1, 0, 1)})
    out = export_avsbench(tree, tmp_path / "out")
    assert datasets.get_dataset_config_names(str(out)) == ["avss"]
    assert datasets.get_dataset_split_names(str(out), "avss") == ["train", "test"]


def test_folder_without_avsbench_is_refused(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(FileNotFoundError, match=r"data has no clip of AVSBench: expected .*metadata\.csv"):
        export_avsbench(tmp_path / "data", tmp_path / "out")


def test_folder_in_use_is_refused_and_left_alone(mini_dir, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for out in (tmp_path / "out", tmp_path / "out" / "mine.txt"):
        with pytest.raises(FileExistsError, match="exists and is not an empty folder"):
            export_avsbench(mini_dir, out)
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine.txt"]


def test_empty_folder_is_filled(mini_dir, tmp_path):
    (tmp_path / "out").mkdir()
    out = export_avsbench(mini_dir, tmp_path / "out", configs=["ms3"])
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "ms3"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("No space left on device")])
def test_interrupted_export_leaves_nothing(mini_dir, tmp_path, monkeypatch, error):
    embed, calls = export.embed_table_storage, []

    def interrupted(table):
        calls.append(list(tmp_path.rglob("*.parquet")))
        if len(calls) == 4:
            raise error
        return embed(table)

    monkeypatch.setattr(export, "embed_table_storage", interrupted)
    with pytest.raises(type(error) if isinstance(error, OSError) else error):
        export_avsbench(mini_dir, tmp_path / "out", configs=["s4", "ms3"])
    assert len(calls[-1]) > 1  # it was in the middle of writing
    assert list(tmp_path.iterdir()) == []


def test_broken_clip_stops_the_export_or_is_left_out(mini_copy, tmp_path):
    clip = load_rows(mini_copy, "v1m", "train")[0]["uid"]
    (mini_copy / "v1m" / clip / "frames" / "2.jpg").unlink()
    with pytest.raises(ValueError, match=rf"v1m/{re.escape(clip)}: .*2\.jpg does not exist"):
        export_avsbench(mini_copy, tmp_path / "out", configs=["ms3"])
    assert [path.name for path in tmp_path.iterdir()] == [mini_copy.name]

    out = export_avsbench(mini_copy, tmp_path / "out", configs=["ms3"], on_error="skip", num_shards=8)
    ids = [row["video_id"] for row in stream(out, "ms3", "train")]
    assert ids == [load_rows(mini_copy, "v1m", "train")[1]["uid"]]
    assert len(list(out.glob("ms3/train-*"))) == 1


def test_colors_outside_the_palette(mini_copy, tmp_path):
    uid = load_rows(mini_copy, "v1m", "test")[0]["uid"]
    path = mini_copy / "v1m" / uid / "labels_rgb" / "0.png"
    colors = np.array(Image.open(path))
    colors[:3, :5] = (1, 2, 3)
    Image.fromarray(colors).save(path)
    with pytest.raises(ValueError, match=r"0\.png: 15 of 4096 pixels"):
        export_avsbench(mini_copy, tmp_path / "out", configs=["ms3"])
    out = export_avsbench(mini_copy, tmp_path / "out", configs=["ms3"], unknown_color="background")
    (row,) = stream(out, "ms3", "test")
    assert not np.asarray(row["masks"][0])[:3, :5].any()
    assert (np.asarray(row["color_masks"][0]) == colors).all()


def test_links_out_of_the_copy(mini_copy, tmp_path):
    uid = load_rows(mini_copy, "v1m", "test")[0]["uid"]
    path = mini_copy / "v1m" / uid / "audio.wav"
    path.symlink_to(path.rename(tmp_path / "elsewhere.wav"))
    with pytest.raises(ValueError, match="allow_outside_links=True"):
        export_avsbench(mini_copy, tmp_path / "out", configs=["ms3"])
    out = export_avsbench(mini_copy, tmp_path / "out", configs=["ms3"], allow_outside_links=True)
    (row,) = stream(out, "ms3", "test")
    assert row["audio"] == {"bytes": path.read_bytes(), "path": "audio.wav"}


def test_a_second_export_sees_changed_masks(mini_copy, tmp_path):
    export_avsbench(mini_copy, tmp_path / "first", configs=["ms3"])
    uid = load_rows(mini_copy, "v1m", "test")[0]["uid"]
    for path in (mini_copy / "v1m" / uid / "labels_rgb").iterdir():
        Image.new("RGB", (64, 64)).save(path)
    (row,) = stream(export_avsbench(mini_copy, tmp_path / "second", configs=["ms3"]), "ms3", "test")
    assert not any(np.asarray(mask).any() for mask in row["masks"])


class Hub:
    """Stands in for the Hub: remembers what is asked of it."""

    def __init__(self, private: bool):
        self.private, self.calls = private, []

    def create_repo(self, repo_id, **options):
        self.calls.append(("create_repo", repo_id, options))

    def dataset_info(self, repo_id):
        return self

    def upload_folder(self, *, repo_id, folder_path, **options):
        files = {str(path.relative_to(folder_path)) for path in folder_path.rglob("*") if path.is_file()}
        self.calls.append(("upload_folder", repo_id, options | {"files": files}))


def test_upload_goes_to_a_private_repository(mini_dir, tmp_path, monkeypatch):
    hub = Hub(private=True)
    monkeypatch.setattr(export, "HfApi", lambda: hub)
    export_avsbench(mini_dir, tmp_path / "out", configs=["ms3"], push_to_hub="me/avsbench")
    (create, repo_id, options), (upload, *upload_arguments) = hub.calls
    assert (create, repo_id, upload) == ("create_repo", "me/avsbench", "upload_folder")
    assert options == {"repo_type": "dataset", "private": True, "exist_ok": True}
    assert upload_arguments[0] == "me/avsbench"
    assert upload_arguments[1]["repo_type"] == "dataset"
    splits = ("train", "validation", "test")
    assert upload_arguments[1]["files"] == {"README.md", *(f"ms3/{split}-00000-of-00001.parquet" for split in splits)}
    assert upload_arguments[1]["delete_patterns"] == "*.parquet"


def test_public_repository_is_refused_before_anything_is_written(mini_dir, tmp_path, monkeypatch):
    hub = Hub(private=False)
    monkeypatch.setattr(export, "HfApi", lambda: hub)
    with pytest.raises(ValueError, match="me/avsbench is a public repository"):
        export_avsbench(mini_dir, tmp_path / "out", push_to_hub="me/avsbench")
    assert [name for name, *_ in hub.calls] == ["create_repo"]
    assert list(tmp_path.iterdir()) == []


def test_command(mini_dir, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["export-data", str(mini_dir), str(out), "--configs", "s4", "--num-shards", "2", "--num-proc", "2"]
    assert main(command) == 0
    assert str(out) in capsys.readouterr().out
    assert len(list(out.glob("s4/*.parquet"))) == 4
    assert main(command) == 1
    assert "is not an empty folder" in capsys.readouterr().err
    assert main(["export-data", str(mini_dir), str(tmp_path / "other"), "--num-shards", "0"]) == 1
    assert "num_shards should be at least 1, got 0" in capsys.readouterr().err


@pytest.mark.parametrize(("config", "sizes"), [("ms3", [6, 1, 4]), ("s4", [15, 5, 9])])
def test_real_clips(shared_dir, tmp_path, config, sizes):
    out = export_avsbench(shared_dir / "real_clips", tmp_path / "out", configs=[config])
    expected = load_avsbench(config, shared_dir / "real_clips")
    assert list(expected.num_rows.values()) == sizes
    for split, clips in expected.items():
        assert [summarize(row) for row in stream(out, config, split)] == [summarize(row) for row in clips]


def test_the_snippets_of_the_page_run(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("avsbench-parquet").symlink_to(exported)
    snippets = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    variables = {}
    try:
        exec("\n".join(snippets), variables)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert sum(len(batch) for batch in variables["loader"]) == sum(train for train, _, _ in MINI_CLIPS.values())
    fourth = [row["video_id"] for row in stream(exported, "avss", "train")][3]
    assert capsys.readouterr().out.splitlines()[-1] == fourth
