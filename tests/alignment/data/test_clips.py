"""Sizes of one area, lengths and parts of videos, and what a command makes of a folder of mixed material."""

import json
import math
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from alignment.cli import main
from alignment.data.clips import ClipChooser, area_of, area_sizes, clip_starts, nearest_size_of
from alignment.data.latent_dataset import BucketBatchSampler, LatentDataset, collate_counted
from alignment.stages.sft import SFTArguments
from generator.data.demonstrations import read_demonstrations
from generator.hardware.compute import block_work
from generator.output import InputError
from generator.testing import tiny_generator
from generator.testing.stand_ins import StandInGenerator
from generator.video import write_video


def test_sizes_of_an_area_have_about_its_pixels_and_hold_the_one_that_was_named():
    sizes = area_sizes((480, 832), 32)
    assert sizes == [
        (896, 448), (832, 480), (704, 576), (640, 640), (576, 704), (480, 832), (448, 896)
    ]  # fmt: skip
    for height, width in sizes:
        assert height % 32 == width % 32 == 0
        assert abs(height * width / (480 * 832) - 1) < 0.04
        assert (width, height) in sizes
        assert 1 / 2.1 < width / height < 2.1
    assert (480, 832) in area_sizes((480, 832), 16)


def test_the_nearest_ratio_is_nearest_in_factors():
    assert nearest_size_of(1.5, [(100, 100), (100, 200)]) == (100, 200)
    assert nearest_size_of(1.4, [(100, 100), (100, 200)]) == (100, 100)  # √2 is in the middle
    assert nearest_size_of(1 / 1.5, [(100, 100), (200, 100)]) == (200, 100)


@pytest.mark.parametrize(
    ("choice", "frames", "expected"),
    [
        ("first", 100, [0]), ("middle", 100, [41]), ("middle", 17, [0]), ("all", 17, [0]), ("all", 50, [0, 17]),
        ("all", 51, [0, 17, 34]), ("uniform", 100, [0, 28, 55, 83]), ("uniform", 18, [0, 1]), ("uniform", 9, [0]),
        ("all", 9, [0]),
    ],
)  # fmt: skip
def test_clips_of_17_frames_begin_where_they_should(choice, frames, expected):
    assert clip_starts(frames, 17, choice) == expected


def test_a_token_meets_each_other_twice_in_attention():
    assert block_work(10, 0, 4) == 2 * 10 * 10 * 4
    assert block_work(10, 7, 0) == 70


@pytest.fixture
def material(tmp_path):
    """Clips of a stand-in's 8 frames a second: wide, high, square, long, short, and an image."""
    folder = tmp_path / "material"
    folder.mkdir()
    random = torch.Generator().manual_seed(0)
    sizes = {
        "wide": (5, 24, 48),
        "high": (9, 48, 24),
        "square": (5, 32, 32),
        "long": (40, 24, 40),
        "short": (3, 24, 48),
    }
    for name, size in sizes.items():
        write_video(folder / f"{name}.mp4", torch.rand(3, *size, generator=random) * 2 - 1, 8)
        (folder / f"{name}.txt").write_text(f"a {name} clip")
    Image.new("RGB", (48, 24), "red").save(folder / "still.png")
    (folder / "still.txt").write_text("a still")
    Image.new("RGB", (48, 24), "red").save(folder / "wide.png")  # a poster
    return folder


def chooser(**asked):
    return ClipChooser(StandInGenerator(), SFTArguments(**asked))


def test_videos_get_the_longest_length_they_fill_and_images_one_frame(material):
    demonstrations = read_demonstrations(material)
    assert [each.video.name for each in demonstrations] == [
        "high.mp4", "long.mp4", "short.mp4", "square.mp4", "still.png", "wide.mp4",
    ]  # fmt: skip
    chosen = chooser(area="24x40", frame_buckets=[1, 5, 9], clips="all").choose(
        [[d.video] for d in demonstrations]
    )
    found = {
        clips[0].path.stem: [(*clip.size, clip.start) for clip in clips] for clips in chosen.clips if clips
    }
    assert found["wide"] == [(5, 24, 40, 0)] or found["wide"][0][1] < found["wide"][0][2]
    assert found["high"][0][0] == 9
    assert found["high"][0][1] > found["high"][0][2]
    assert found["long"] == [(9, 24, 40, start * 9 / 8) for start in range(4)]
    assert found["still"][0][0] == 1
    assert "short" not in found
    assert chosen.dropped == Counter({"shorter than 5 frames at 8 a second": 1})
    assert all(abs(math.log(clip[1] * clip[2] / 960)) < 0.25 for clips in found.values() for clip in clips)


def test_compared_videos_have_one_size_and_length(material):
    group = [material / "wide.mp4", material / "square.mp4", material / "long.mp4"]
    (clips,) = chooser(area="24x40").choose([group]).clips
    assert [clip.path for clip in clips] == group
    assert len({clip.size for clip in clips}) == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"area": "24"}, "area is '24', but must be height x width"),
        ({"area": "24x41"}, "sides must be multiples of 4: use 24x40"),
        ({"area": "24x40", "height": 24}, "area and height were both given"),
        ({"frame_buckets": [5], "num_frames": 5}, "frame_buckets and num_frames were both given"),
        ({"frame_buckets": [6]}, "makes videos of 5 or 7 frames"),
        ({"clips": "last"}, "choose one of first, middle, uniform, all"),
    ],
)
def test_contradictions_are_refused(asked, message):
    with pytest.raises(InputError, match=message):
        chooser(**asked)
    assert area_of("480X832") == (480, 832)


def test_no_filler_is_computed_and_repetitions_stay_apart():
    one, other = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    dataset = LatentDataset([[one], [other], [one], [other], [one]], torch.tensor([1, 2, 1, 2, 1]))
    assert [len(set(dataset.identities)), dataset.identities[0] == dataset.identities[2]] == [2, True]
    for seed in range(10):
        sampler = BucketBatchSampler(dataset.buckets, 2, seed, identities=dataset.identities)
        batches = [collate_counted([dataset[index] for index in batch]) for batch in sampler]
        assert [batch["rows"].tolist() for batch in batches if len(batch["rows"]) == 1] == [[1]]
        assert all(len(set(batch["rows"].tolist())) == len(batch["rows"]) for batch in batches)
        assert sorted(row for batch in batches for row in batch["rows"].tolist()) == [1, 1, 1, 2, 2]
        assert all((batch["weights"] == 1).all() for batch in batches)


def test_processes_have_one_bucket_at_a_time_and_shares_that_differ_by_one():
    shapes = [(1, 1)] * 5 + [(1, 2)] * 9
    batches = list(BucketBatchSampler(shapes, 2, 0, processes=3))
    assert len(batches) == 3 * (1 + 2)
    for start in range(0, len(batches), 3):
        batch_round = batches[start : start + 3]
        assert len({shapes[index] for batch in batch_round for index in batch}) == 1
        counts = [sum(type(index) is int for index in batch) for batch in batch_round]
        assert max(counts) - min(counts) <= 1


def test_sft_on_mixed_material_shows_its_buckets_and_trains_on_every_clip(material, tmp_path, capsys):
    model, output = tmp_path / "model", tmp_path / "out"
    tiny_generator().pipeline.save_pretrained(model)
    rows = [{"file_name": f"{name}.mp4", "prompt": name} for name in ("wide", "high", "long", "short")]
    rows[0]["repeats"] = 3
    rows.append({"file_name": "still.png", "prompt": "a still"})
    (material / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = (
        f"sft --model {model} --dataset {material} --output_dir {output} --area 32x32 --frame_buckets 5 9"
    )
    command += (
        " --clips uniform --clips_per_video 2 --per_device_train_batch_size 8 --num_train_epochs 1 --lora_r 2"
    )
    (tmp_path / "looked at.txt").write_text("a ball\n")
    words = [*command.split(), "--report_to", "none", "--sample_prompts", str(tmp_path / "looked at.txt")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "1 videos are left out: shorter than 5 frames at 8 a second." in said
    lines = [line.split() for line in said.splitlines() if " frames of " in line and "%" in line]
    assert sum(int(line[4]) for line in lines) == 3 + 1 + 2 + 1
    assert sum(float(line[-2]) for line in lines) == pytest.approx(100, abs=0.3)
    state = json.loads((output / "trainer_state.json").read_text())
    assert state["global_step"] == len(lines)
    made = [path.relative_to(output).as_posix() for path in output.rglob("*.mp4")]
    last = f"step-{len(lines):06d}/00_a-ball.mp4"
    assert sorted(made) == [
        f"samples/beside_reference/{last}", "samples/step-000000/00_a-ball.mp4", f"samples/{last}"
    ]  # fmt: skip
    assert main([*words, "--sample_seed", "1", "--overwrite"]) == 0
    rows[0]["repeats"] = 0
    (material / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main([*words, "--overwrite"]) == 2
    assert "`repeats` is 0, but must be a whole number of at least 1" in capsys.readouterr().err


def test_dpo_takes_compared_videos_of_different_ratios_with_an_area(material, tmp_path):
    model = tmp_path / "model"
    tiny_generator().pipeline.save_pretrained(model)
    row = {"prompt": "a clip", "videos": ["wide.mp4", "high.mp4"], "ranks": [1, 2]}
    (material / "rankings.jsonl").write_text(json.dumps(row))
    command = (
        f"dpo --model {model} --preferences {material / 'rankings.jsonl'} --output_dir {tmp_path / 'out'}"
    )
    command += " --area 32x32 --max_steps 1 --report_to none --lora_r 2"
    assert main(command.split()) == 0
    assert SimpleNamespace(**json.loads((tmp_path / "out" / "training.json").read_text())).comparisons == 1
