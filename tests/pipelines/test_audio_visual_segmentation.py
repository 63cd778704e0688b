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

import json
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline
from transformers.image_utils import SizeDict
from transformers.pipelines.pt_utils import KeyDataset

from stepping_stones_hf import (
    AAVSForAudioVisualSegmentation,
    AAVSProcessor,
    AudioVisualSegmentationPipeline,
    decode_label_map,
)
from stepping_stones_hf.models.image_processing_base import label_pixels, resize_bilinear
from stepping_stones_hf.streaming import StreamingPredictor
from stepping_stones_hf.video import SILENCE, read_seconds

from ..two_stage import save_stage
from ..videos import make_frame, make_sound, make_video


TASK = "audio-visual-segmentation"


@pytest.fixture(scope="module")
def segment(two_stage_repository) -> AudioVisualSegmentationPipeline:
    return pipeline(TASK, model=str(two_stage_repository), device="cpu")


@pytest.fixture(scope="module")
def clip() -> dict:
    """Four seconds, the frames of two sizes; the sound differs from second to second."""
    frames = [make_frame(*size, 3 * index) for index, size in enumerate([(80, 60), (80, 60), (50, 70), (80, 60)])]
    return {"frames": frames, "audio": make_sound(22_050, 4), "sampling_rate": 22_050}


@torch.no_grad()
def segment_by_hand(segment, clip) -> list[torch.Tensor]:
    processor, model, localizer = segment.processor, segment.model, segment.localizer
    frames = [Image.fromarray(frame) for frame in clip["frames"]]
    inputs = processor(
        images=frames,
        audio=clip["audio"],
        sampling_rate=clip["sampling_rate"],
        patch_hop_seconds=1.0,
        return_tensors="pt",
    )
    masks = torch.stack(processor.post_process_semantic_segmentation(localizer(**inputs)))
    outputs = model(**inputs, prompt_masks=masks.float())
    return processor.post_process_semantic_segmentation(outputs, target_sizes=[frame.size[::-1] for frame in frames])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_it_is_processor_model_and_post_processing(segment, clip, batch_size):
    results = segment(clip, batch_size=batch_size, label_maps="array")
    expected = segment_by_hand(segment, clip)
    assert len(np.unique(expected[1])) > 1  # there is something to compare
    assert [result["second"] for result in results] == [0, 1, 2, 3]
    for result, label_map in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result["label_map"], label_map)


def test_what_it_says_of_classes(segment, clip):
    for result in segment(clip, label_maps="array", return_score_maps=True):
        label_map, scores = result["label_map"], result["score_maps"]
        assert scores.shape == (71, *label_map.shape)
        np.testing.assert_array_equal(scores.argmax(0), label_map)
        shares = scores / scores.sum(0)
        assert {found["label_id"] for found in result["classes"]} == set(np.unique(label_map)) - {0}
        areas = [found["area"] for found in result["classes"]]
        assert areas == sorted(areas, reverse=True)
        for found in result["classes"]:
            pixels = label_map == found["label_id"]
            assert found["label"] == segment.model.config.id2label[found["label_id"]]
            assert found["area"] == pytest.approx(pixels.mean())
            assert found["score"] == pytest.approx(shares[found["label_id"]][pixels].mean(), rel=1e-4)


def test_results_go_through_json(segment, clip):
    results = segment(clip)
    again = json.loads(json.dumps(results))
    assert again == results
    for result, array in zip(again, segment(clip, label_maps="array")):
        np.testing.assert_array_equal(decode_label_map(result["label_map"]), array["label_map"])


def test_a_video_is_its_frames_and_its_sound(segment, tmp_path):
    path = make_video(tmp_path / "clip.mkv", audio_codec="pcm_f32le", seconds=3)
    results = segment(path, label_maps="array")
    frames = [second.frame for second in read_seconds(path)]
    clip = {"frames": frames, "audio": make_sound(16_000, 3), "sampling_rate": 16_000}
    for result, expected in zip(results, segment(clip, label_maps="array"), strict=True):
        np.testing.assert_array_equal(result["label_map"], expected["label_map"])
        assert result["label_map"].shape == (48, 64)
    assert segment(path.read_bytes(), label_maps="array")[1]["classes"] == results[1]["classes"]
    assert [len(found) for found in segment([path, path])] == [3, 3]


def test_the_sound_matters(segment, tmp_path):
    path = make_video(tmp_path / "clip.mkv", audio_codec="pcm_s16le")
    own, mute = segment(path), segment(path, audio=SILENCE)
    changed = [one["label_map"] != other["label_map"] for one, other in zip(own, mute)]
    assert changed == [False, True, False]  # the tone is in the second second


def test_a_model_without_prompt_runs_alone(tmp_path, clip):
    folder = save_stage(tmp_path / "stage_1", stage=1)
    segment = pipeline(TASK, model=str(folder), device="cpu")
    assert segment.localizer is None
    found = {entry["label"] for result in segment(clip) for entry in result["classes"]}
    assert found <= {"sounding"}
    with pytest.raises(ValueError, match="takes no mask prompt"):
        pipeline(TASK, model=str(folder), localizer=str(folder), device="cpu")


@pytest.fixture(scope="module")
def listening(two_stage_repository, tmp_path_factory) -> AudioVisualSegmentationPipeline:
    """With a localizer that says whether sounds go with what is seen."""
    localizer = save_stage(tmp_path_factory.mktemp("listening"), stage=1, pair_loss_weight=1.0)
    return pipeline(TASK, model=str(two_stage_repository), localizer=str(localizer), device="cpu")


@torch.no_grad()
def get_fitness(listening, clip) -> list[float]:
    audio = {"audio": clip["audio"], "sampling_rate": clip["sampling_rate"], "patch_hop_seconds": 1.0}
    frames = [Image.fromarray(frame) for frame in clip["frames"]]
    inputs = listening.localizer_processor(images=frames, return_tensors="pt", **audio)
    return listening.localizer(**inputs).pair_logits.sigmoid().tolist()


def test_seconds_whose_sound_does_not_fit_have_an_empty_prompt(listening, clip, monkeypatch):
    fitness, prompts = get_fitness(listening, clip), []
    forward = listening.model.forward
    monkeypatch.setattr(
        listening.model, "forward", lambda **inputs: prompts.append(inputs["prompt_masks"]) or forward(**inputs)
    )
    threshold = sorted(fitness)[2]
    plain = listening(clip, batch_size=4, label_maps="array")
    gated = listening(clip, batch_size=4, label_maps="array", sound_threshold=threshold)
    own, empty = prompts
    assert all(prompt.any() for prompt in own)
    for index, value in enumerate(fitness):
        assert torch.equal(empty[index], own[index] * (value >= threshold))
        if value >= threshold:
            np.testing.assert_array_equal(gated[index]["label_map"], plain[index]["label_map"])
    assert any((plain[index]["label_map"] != gated[index]["label_map"]).any() for index in range(4))
    # Second by second it is the same, and as an argument of the pipeline.
    for result, expected in zip(listening(clip, label_maps="array", sound_threshold=threshold), gated, strict=True):
        np.testing.assert_array_equal(result["label_map"], expected["label_map"])
    predictor = StreamingPredictor(listening, clip["sampling_rate"], label_maps="array", sound_threshold=1.0)
    rate = clip["sampling_rate"]
    seconds = [
        predictor.push(frame, clip["audio"][..., k * rate : (k + 1) * rate]) for k, frame in enumerate(clip["frames"])
    ]
    assert [second["second"] for second in seconds] == [0, 1, 2, 3] and not any(
        prompt.any() for prompt in prompts[-4:]
    )


def test_a_localizer_alone_leaves_seconds_unmarked_whose_sound_does_not_fit(listening, clip):
    alone = pipeline(TASK, model=listening.localizer, processor=listening.localizer_processor, device="cpu")
    fitness, plain = get_fitness(listening, clip), alone(clip, label_maps="array")
    threshold = max(fitness)
    assert sum(second["label_map"].any() for second in plain) > 1
    for index, result in enumerate(alone(clip, label_maps="array", sound_threshold=threshold)):
        expected = plain[index]["label_map"] * (fitness[index] >= threshold)
        np.testing.assert_array_equal(result["label_map"], expected)


def test_without_a_pair_head_no_sound_can_be_said_not_to_fit(segment, listening, clip):
    with pytest.raises(ValueError, match="sound_threshold is for models that were trained with a pair loss"):
        segment(clip, sound_threshold=0.5)
    with pytest.raises(ValueError, match="sound_threshold is 50, expected a probability"):
        listening(clip, sound_threshold=50)


def test_bfloat16(two_stage_repository, clip):
    segment = pipeline(TASK, model=str(two_stage_repository), dtype=torch.bfloat16, device="cpu")
    assert segment.model.dtype == segment.localizer.dtype == torch.bfloat16
    results = segment(clip, batch_size=2)
    localizer = AAVSForAudioVisualSegmentation.from_pretrained(two_stage_repository / "localizer", dtype=torch.float32)
    other = pipeline(TASK, model=str(two_stage_repository), localizer=localizer, dtype=torch.bfloat16, device="cpu")
    assert other(clip, batch_size=2) == results
    assert all(0 < found["score"] <= 1 for result in results for found in result["classes"])


class TestLocalizer:
    def test_it_comes_from_where_it_is_named(self, two_stage_repository, tmp_path, segment, clip):
        root = tmp_path / "root"
        shutil.copytree(two_stage_repository, root, ignore=shutil.ignore_patterns("localizer"))
        by_name = pipeline(TASK, model=str(root), localizer=str(two_stage_repository / "localizer"), device="cpu")
        assert by_name(clip) == segment(clip)
        localizer = AAVSForAudioVisualSegmentation.from_pretrained(two_stage_repository / "localizer")
        assert pipeline(TASK, model=str(root), localizer=localizer, device="cpu")(clip) == segment(clip)

    def test_it_gets_frames_of_its_own_size(self, two_stage_repository, tmp_path, segment, clip):
        root = shutil.copytree(two_stage_repository, tmp_path / "root")
        size = {"height": 96, "width": 96}
        processor = AAVSProcessor.from_pretrained(root / "localizer")
        processor.image_processor.size = SizeDict(**size)
        processor.save_pretrained(root / "localizer")
        larger = pipeline(TASK, model=str(root), device="cpu")
        seen = []
        for stage in (larger.localizer, larger.model):
            stage.register_forward_pre_hook(
                lambda module, args, kwargs: seen.append(kwargs["pixel_values"].shape[-1]), with_kwargs=True
            )
        larger(clip, batch_size=4)
        assert seen == [96, 64]
        assert not segment.prepares_twice
        # The processor lies where the localizer was loaded from.
        for place in ({"subfolder": "localizer"}, {}):
            name = root if place else root / "localizer"
            localizer = AAVSForAudioVisualSegmentation.from_pretrained(name, **place)
            by_object = pipeline(TASK, model=str(root), localizer=localizer, device="cpu")
            assert by_object.localizer_processor.image_processor.size == SizeDict(**size)
        # A processor that is there and cannot be read is not passed over.
        (root / "localizer" / "processor_config.json").write_text('{"image_processor": ')
        with pytest.raises(ValueError, match=f"The processor of the localizer in {root}/localizer cannot be loaded: "):
            pipeline(TASK, model=str(root), localizer=localizer, device="cpu")
        # One that was never saved gets what the model gets.
        localizer.config.name_or_path = ""
        new = AAVSForAudioVisualSegmentation(localizer.config)
        assert pipeline(TASK, model=str(root), localizer=new, device="cpu").prepares_twice is False

    def test_it_is_found_as_the_model_was(self, two_stage_repository, tmp_path, segment, clip):
        # In a cache folder of one's own, offline, at a revision.
        cache, revision = tmp_path / "cache", "f" * 40
        shutil.copytree(two_stage_repository, cache / "models--you--model" / "snapshots" / revision)
        (cache / "models--you--model" / "refs").mkdir()
        (cache / "models--you--model" / "refs" / "v2").write_text(revision)
        found = pipeline(TASK, model="you/model", revision="v2", model_kwargs={"cache_dir": cache}, device="cpu")
        assert found(clip) == segment(clip)

    def test_none_is_there(self, tmp_path):
        folder = save_stage(tmp_path / "alone", stage=2)
        with pytest.raises(
            ValueError, match=r"alone is prompted with .* localizer.*none in .*alone/localizer.*localizer="
        ):
            pipeline(TASK, model=str(folder), device="cpu")

    def test_it_is_not_a_localizer(self, two_stage_repository):
        with pytest.raises(ValueError, match="has 71 labels and use_mask_prompt=True: it is not a localizer"):
            pipeline(TASK, model=str(two_stage_repository), localizer=str(two_stage_repository), device="cpu")

    def test_it_is_damaged(self, two_stage_repository, tmp_path):
        folder = shutil.copytree(two_stage_repository, tmp_path / "damaged")
        (folder / "localizer" / "config.json").write_text("{")
        with pytest.raises(ValueError, match=r"The localizer in .*damaged/localizer cannot be loaded: .*JSON"):
            pipeline(TASK, model=str(folder), device="cpu")
        shutil.copy(two_stage_repository / "localizer" / "config.json", folder / "localizer")
        (folder / "localizer" / "model.safetensors").write_bytes(b"0123456789")
        with pytest.raises(ValueError, match=r"The localizer in .*damaged/localizer cannot be loaded: .*header"):
            pipeline(TASK, model=str(folder), device="cpu")

    def test_its_folder_is_named_where_it_is_another_model(self, two_stage_repository, tmp_path):
        folder = shutil.copytree(two_stage_repository, tmp_path / "twice")
        shutil.rmtree(folder / "localizer")
        shutil.copytree(two_stage_repository, folder / "localizer")
        with pytest.raises(ValueError, match="twice/localizer has 71 labels"):
            pipeline(TASK, model=str(folder), device="cpu")

    def test_a_model_without_audio_encoder(self, tmp_path):
        folder = save_stage(tmp_path / "deaf", stage=1, audio=False)
        with pytest.raises(ValueError, match="deaf has no audio encoder"):
            pipeline(TASK, model=str(folder), device="cpu")


class TestManyVideos:
    """What upstream's pipelines take: lists at once, everything else one by one."""

    @pytest.fixture(scope="class")
    def paths(self, tmp_path_factory) -> list[str]:
        folder = tmp_path_factory.mktemp("videos")
        return [str(make_video(folder / f"{seconds}.mp4", seconds=seconds)) for seconds in (1, 2)]

    @pytest.fixture(scope="class")
    def expected(self, segment, paths) -> list[list[dict]]:
        return segment(paths)

    def test_a_generator_is_read_one_video_at_a_time(self, segment, paths, expected):
        read = []

        def generate():
            for path in paths:
                read.append(path)
                yield path

        results = segment(generate())
        assert read == []
        assert next(results) == expected[0]
        assert read == paths[:1]
        assert list(results) == expected[1:]

    def test_a_data_set_and_its_columns(self, segment, paths, expected):
        rows = datasets.Dataset.from_dict({"video": paths})
        assert list(segment(KeyDataset(rows, "video"))) == expected
        assert list(segment(rows["video"])) == expected
        videos = rows.cast_column("video", datasets.Video(decode=False))
        assert list(segment(videos["video"])) == expected
        assert list(segment(row["video"] for row in videos.to_iterable_dataset())) == expected
        content = {"bytes": Path(paths[0]).read_bytes(), "path": None}
        assert segment(content) == expected[0]

    def test_an_address_is_downloaded(self, segment, paths, expected):
        handler = partial(SimpleHTTPRequestHandler, directory=Path(paths[0]).parent)
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}"
            assert segment(f"{address}/1.mp4") == expected[0]
            assert segment(paths[0], audio=f"{address}/1.mp4") == expected[0]
            with pytest.raises(ValueError, match=r"/3.mp4 cannot be downloaded: .*404"):
                segment(f"{address}/3.mp4")
            server.shutdown()
        with pytest.raises(ValueError, match=r"/1.mp4 cannot be downloaded: .*Download it and give the file"):
            segment(f"{address}/1.mp4")


class TestSaving:
    def test_both_stages_are_saved_and_load_again(self, segment, clip, tmp_path):
        segment.save_pretrained(tmp_path / "saved")
        assert "custom_pipelines" not in json.loads((tmp_path / "saved" / "config.json").read_text())
        assert not [*(tmp_path / "saved").rglob("*.py")]
        again = pipeline(TASK, model=str(tmp_path / "saved"), device="cpu")
        assert again(clip) == segment(clip)

    def test_a_localizer_of_another_repository_is_saved_with_the_model(self, two_stage_repository, clip, tmp_path):
        root = tmp_path / "root"
        shutil.copytree(two_stage_repository, root, ignore=shutil.ignore_patterns("localizer"))
        segment = pipeline(TASK, model=str(root), localizer=str(two_stage_repository / "localizer"), device="cpu")
        segment.save_pretrained(tmp_path / "saved")
        assert pipeline(TASK, model=str(tmp_path / "saved"), device="cpu")(clip) == segment(clip)

    def test_a_model_without_prompt_is_saved_alone(self, clip, tmp_path):
        segment = pipeline(TASK, model=str(save_stage(tmp_path / "stage_1", stage=1)), device="cpu")
        segment.save_pretrained(tmp_path / "saved")
        assert not (tmp_path / "saved" / "localizer").exists()
        assert pipeline(TASK, model=str(tmp_path / "saved"), device="cpu")(clip) == segment(clip)

    def test_uploading_goes_another_way(self, segment, tmp_path):
        with pytest.raises(ValueError, match="pipeline.push_to_hub"):
            segment.save_pretrained(tmp_path / "saved", push_to_hub=True)
        assert not (tmp_path / "saved").exists()


class TestFormerNames:
    def test_sound_is_audio(self, segment, tmp_path):
        path = make_video(tmp_path / "clip.mp4", seconds=1)
        with pytest.warns(DeprecationWarning, match=r"sound=...\) is now audio=..., and works in this release only"):
            results = segment(path, sound=SILENCE)
        assert results == segment(path, audio=SILENCE)
        with pytest.raises(TypeError, match="twice"), pytest.warns(DeprecationWarning):
            segment(path, sound=SILENCE, audio=SILENCE)


class TestBadInput:
    def test_frames_and_sound_that_do_not_belong_together(self, segment, clip):
        with pytest.raises(ValueError, match=r"4 frames do not go with 2\.00 s of sound"):
            segment(clip | {"audio": make_sound(22_050, 2)})
        with pytest.raises(ValueError, match="frames, at least one, audio and sampling_rate"):
            segment({"frames": clip["frames"]})
        with pytest.raises(ValueError, match="sampling_rate"):
            segment(clip | {"sampling_rate": None})
        with pytest.raises(ValueError, match="audio replaces the sound of a file"):
            segment(clip, audio=SILENCE)

    def test_frames_are_images_one_after_another(self, segment, clip):
        assert segment(clip | {"frames": (frame for frame in clip["frames"])}) == segment(clip)
        with pytest.raises(ValueError, match="frames is one image"):
            segment(clip | {"frames": clip["frames"][0]})

    @pytest.mark.parametrize("video", [{"bytes": None}, {"path": None}, {"bytes": None, "path": None}])
    def test_a_row_without_video(self, segment, video):
        with pytest.raises(ValueError, match="neither content nor a path"):
            segment(video)
        with pytest.raises(ValueError, match="frames, at least one, audio and sampling_rate"):
            segment({})

    def test_samples_that_are_nan(self, segment, clip):
        audio = clip["audio"].copy()
        audio[0, 100] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            segment(clip | {"audio": audio})

    def test_integers_are_scaled_as_everywhere(self, segment, clip):
        integers = np.round(clip["audio"] * 32767).astype(np.int16)
        floats = clip | {"audio": integers / 32768}
        assert segment(clip | {"audio": integers}) == segment(floats)

    def test_what_is_no_video(self, segment, tmp_path):
        with pytest.raises(ValueError, match="got int"):
            segment(5)
        with pytest.raises(FileNotFoundError, match="no file"):
            segment(str(tmp_path / "missing.mp4"))
        with pytest.raises(ValueError, match=r"bytes cannot be read"):
            segment(b"text")

    def test_unknown_arguments(self, segment, clip):
        with pytest.raises(ValueError, match="takes no threshold"):
            segment(clip, threshold=0.5)
        with pytest.raises(ValueError, match="batch_size is -1, expected"):
            segment(clip, batch_size=-1)
        none = pipeline(
            TASK, model=segment.model, processor=segment.processor, localizer=segment.localizer, batch_size=0
        )
        with pytest.raises(ValueError, match="batch_size is 0, expected"):
            none(clip)
        with pytest.raises(ValueError, match="num_workers has to be 0"):
            segment(clip, num_workers=1)
        with pytest.raises(ValueError, match=r"got \['frame'\]"):
            segment({"frame": clip["frames"]})
        with pytest.raises(ValueError, match=r"frames\[1\] should be a PIL image or an array"):
            segment(clip | {"frames": [clip["frames"][0], "1.jpg", *clip["frames"][2:]]})
        with pytest.raises(ValueError, match="label_maps is 'png'"):
            segment(clip, label_maps="png")


def test_labels_are_the_same_however_many_are_resized_at_a_time(monkeypatch):
    torch.manual_seed(0)
    scores = torch.rand(7, 6, 5).round(decimals=1)  # with ties
    expected = resize_bilinear(scores, (11, 13))
    for limit in (1, 300, 10**9):
        monkeypatch.setattr("stepping_stones_hf.models.image_processing_base.MAX_RESIZED_SCORES", limit)
        labels, highest = label_pixels(scores, (11, 13))
        torch.testing.assert_close(labels, expected.argmax(0))
        torch.testing.assert_close(highest, expected.amax(0))
