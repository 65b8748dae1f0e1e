"""Demonstrations and rankings that name the images which their videos begin with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alignment.cli import main
from alignment.stages.dpo import train_dpo
from alignment.stages.sft import train_sft
from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.sft_config import SFTConfig
from generator import flow
from generator.adapters.adapters import TRAINING_NAME
from generator.data.latent_cache import Clip
from generator.editing.image_cache import ImageCache
from generator.first_frames import KNOWN_LATENTS, first_frame_conditions, read_images
from generator.loading import load_generator
from generator.testing.pipelines import all_tiny_pipelines, save_tiny_pipeline
from generator.video import read_clip, write_video

SIZE = (9, 16, 16)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_data(folder: Path, size: tuple[int, int, int], **more: Any) -> Path:
    """Two videos, a demonstration each and a ranking of both, with further keys in all rows; returns the rankings."""
    random = np.random.default_rng(0)
    for name in ("first.png", "last.png"):
        Image.fromarray(random.integers(0, 256, (*size[1:], 3), dtype=np.uint8)).save(folder / name)
    for seed, name in enumerate(("a.mp4", "b.mp4")):
        video = torch.rand(3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        write_video(folder / name, video, fps=8)
    rows = [{"file_name": name, "prompt": "a red circle", **more} for name in ("a.mp4", "b.mp4")]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    ranking = {"prompt": "a red circle", "videos": ["a.mp4", "b.mp4"], "ranks": [1, 2], **more}
    (folder / "rankings.jsonl").write_text(json.dumps(ranking))
    return folder / "rankings.jsonl"


def config(kind: Any, folder: Path, name: str, **more: Any) -> Any:
    return kind(
        output_dir=str(folder / name), max_steps=1, per_device_train_batch_size=1, report_to="none", use_cpu=True,
        disable_tqdm=True, save_strategy="no", learning_rate=1e-2, **more,
    )  # fmt: skip


def trained(command: str, folder: Path, generator: Any) -> Any:
    if command == "sft":
        return train_sft("tiny", folder, args=config(SFTConfig, folder, "sft"), generator=generator)
    return train_dpo(
        "tiny", folder / "rankings.jsonl", args=config(DPOConfig, folder, "dpo"), generator=generator
    )


def tiny(family: str, folder: Path) -> Any:
    return load_generator(save_tiny_pipeline(family, folder / family), device="cpu")


@pytest.mark.parametrize(
    ("family", "command"), [("wan-i2v", "sft"), ("cogvideox1.5-i2v", "dpo"), ("ltx", "dpo")]
)
def test_the_image_that_the_data_name_is_shown(family: str, command: str, tmp_path: Path, own_cache) -> None:
    size = all_tiny_pipelines()[family][1]
    write_data(tmp_path, size, image="first.png")
    generator = tiny(family, tmp_path)
    trainer = trained(command, tmp_path, generator)
    expected = first_frame_conditions(generator, read_images([tmp_path / "first.png"], *size[1:]), size[0])
    item = trainer.train_dataset[0]
    for name, value in expected.items():
        assert len(item["images"][name]) == {"sft": 1, "dpo": 2}[command]
        for row in item["images"][name]:  # both videos of a pair share it
            torch.testing.assert_close(row, value[0], atol=1e-5, rtol=1e-5)
    assert len(list((own_cache / "images").iterdir())) == 1
    record = json.loads((tmp_path / command / TRAINING_NAME).read_text())
    assert record["images"] == "named in the data"


def test_conditions_are_read_from_the_disk_and_known_by_what_the_files_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path, SIZE)
    generator = tiny("wan-i2v", tmp_path)
    pictures = [tmp_path / "first.png", tmp_path / "last.png"]
    before = ImageCache(generator).row((pictures[0], None), SIZE)
    other = ImageCache(generator).row((pictures[1], None), SIZE)
    assert not torch.equal(before["image_latents"], other["image_latents"])
    monkeypatch.setattr(generator, "encode", None)  # nothing is encoded again
    again = ImageCache(generator).row((pictures[0], None), SIZE)
    assert all(torch.equal(again[name], value) for name, value in before.items())
    pictures[0].write_bytes(pictures[1].read_bytes())
    assert torch.equal(
        ImageCache(generator).row((pictures[0], None), SIZE)["image_latents"], other["image_latents"]
    )


@pytest.mark.parametrize("family", ["cogvideox1.5-i2v"])
def test_where_none_is_named_the_image_is_the_first_frame_of_the_clip(family: str, tmp_path: Path) -> None:
    write_data(tmp_path, SIZE)
    generator = tiny(family, tmp_path)
    trainer = trained("dpo", tmp_path, generator)
    clips = [
        read_clip(tmp_path / name, *SIZE, target_fps=generator.defaults.fps) for name in ("a.mp4", "b.mp4")
    ]
    expected = generator.image(torch.stack([clip[:, 0] for clip in clips]), SIZE[0])
    for name, value in expected.items():
        torch.testing.assert_close(trainer.train_dataset[0]["images"][name], value, atol=1e-5, rtol=1e-5)
    assert (
        json.loads((tmp_path / "dpo" / TRAINING_NAME).read_text())["images"] == "the first frame of each clip"
    )


def test_a_model_that_needs_a_last_image_is_shown_the_clips_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path, SIZE)
    generator = tiny("wan2.2-i2v-a14b", tmp_path)
    monkeypatch.setattr(ImageCache, "_wants_last_image", True)  # as Wan 2.1 FLF2V does
    clip = Clip(tmp_path / "a.mp4", SIZE)
    video = read_clip(tmp_path / "a.mp4", *SIZE, target_fps=generator.defaults.fps)
    expected = generator.image(video[None, :, 0], SIZE[0], video[None, :, -1])
    found = ImageCache(generator).row(clip, SIZE)
    torch.testing.assert_close(found["image_latents"], expected["image_latents"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "command"), [("wan2.2-ti2v", "sft"), ("wan2.2-ti2v", "dpo"), ("ltx", "sft")]
)
def test_known_frames_have_no_part_in_loss_and_gradient(family: str, command: str, tmp_path: Path) -> None:
    size = all_tiny_pipelines()[family][1]
    write_data(tmp_path, size, image="first.png")
    generator = tiny(family, tmp_path)
    trainer = trained(command, tmp_path, generator)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    gradients: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []

    def watch(_: Any, __: Any, output: Any) -> None:
        outputs.append(output[0].detach())
        if output[0].requires_grad:
            output[0].register_hook(gradients.append)

    handle = generator.transformer.register_forward_hook(watch)
    trainer.compute_loss(trainer.model, batch).backward()
    handle.remove()
    frames = batch["latents"].shape[3]
    assert gradients
    for gradient in gradients:
        by_frame = gradient.transpose(1, 2) if gradient.ndim == 5 else gradient.unflatten(1, (frames, -1))
        assert by_frame[:, 0].abs().max() == 0
        assert by_frame[:, 1:].abs().max() > 0
    if command == "sft":
        return
    # The pair's errors are means over the frames that are not known.
    noised = trainer._noised(batch["latents"], batch["rows"], [5], batch["images"])
    assert noised.x0.shape[2] == frames - 1
    target = flow.velocity_target(noised.x0, noised.noise)
    found = noised.errors(torch.zeros_like(target))
    torch.testing.assert_close(found, (target**2).flatten(1).mean(1))
    assert torch.equal(noised.conditions[KNOWN_LATENTS][0], noised.conditions[KNOWN_LATENTS][1])


def test_a_model_of_text_alone_is_not_shown_images_and_says_so(tmp_path: Path, caplog) -> None:
    write_data(tmp_path, SIZE, image="first.png")
    trainer = trained("sft", tmp_path, tiny("wan", tmp_path))
    assert "images" not in trainer.train_dataset[0]
    assert "makes videos from text alone" in caplog.text


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        ([{"image": "none.png"}, {"image": "first.png"}], [], "none.png does not exist"),
        ([{"image": "torn.png"}, {"image": "torn.png"}], [], "torn.png"),
        ([{"image": "metadata.jsonl"}] * 2, [], "metadata.jsonl"),
        ([{"image": ["first.png"]}] * 2, [], "must be the name of one file"),
        ([{"image": "first.png"}, {}], [], "1 name an image: give one to all or to none"),
        ([{"last_image": "last.png"}] * 2, [], "`last_image` is given without `image`"),
        ([{"image": "first.png"}] * 2, ["--pack", "true"], "set pack to false"),
    ],
)
def test_images_that_cannot_be_used_are_refused_before_a_model_is_loaded(
    rows: list[dict[str, Any]], more: list[str], message: str, tmp_path: Path, capsys, monkeypatch
) -> None:
    rankings = write_data(tmp_path, SIZE)
    (tmp_path / "torn.png").write_bytes((tmp_path / "first.png").read_bytes()[:60])
    monkeypatch.setattr("generator.load_generator", None)
    names = ("a.mp4", "b.mp4")
    texts = [json.dumps({"file_name": n, "prompt": "a", **row}) for n, row in zip(names, rows, strict=True)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(texts))
    ranked = [
        json.dumps({"prompt": "a", "videos": list(names), "ranks": [1, 2], "annotator": str(i), **row})
        for i, row in enumerate(rows)
    ]
    rankings.write_text("\n".join(ranked))
    common = ["--model", "nano", "--report_to", "none", "--use_cpu", "true", *more]
    for words in (
        ["sft", "--dataset", str(tmp_path), *common],
        ["dpo", "--preferences", str(rankings), *common],
    ):
        assert main([*words, "--output_dir", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_clip_that_begins_later_than_its_image_is_refused(tmp_path: Path, capsys) -> None:
    write_data(tmp_path, (33, 16, 16), image="first.png")
    model = str(save_tiny_pipeline("wan-i2v", tmp_path / "wan-i2v"))
    words = ["sft", "--model", model, "--dataset", str(tmp_path), "--output_dir", str(tmp_path / "out"), "--report_to",
             "none", "--use_cpu", "true", "--clips", "middle", "--num_frames", "9"]  # fmt: skip
    assert main(words) == 2
    assert "use --clips first" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
