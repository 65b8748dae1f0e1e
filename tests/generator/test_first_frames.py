"""Images in prompts: videos begin, and end, with the images that prompt files name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from alignment.cli import main
from generator.data.prompts import read_prompts
from generator.editing import video_prompts
from generator.editing.video_prompts import Sampling
from generator.families.wan import WanImageToVideoGenerator
from generator.first_frames import (
    KNOWN_LATENTS,
    check_takes_images,
    conditioned_velocity,
    conditions_of_files,
    read_images,
)
from generator.loading import load_generator
from generator.output import InputError
from generator.sampling import generate_latents, seeded_noise
from generator.testing.pipelines import save_tiny_pipeline
from generator.testing.text_pipelines import tiny_wan
from generator.video import read_video

PROMPTS = ["a red circle moves left", "the blue square"]
FAMILIES = ("wan-i2v", "wan2.2-i2v-a14b", "cogvideox-i2v", "hunyuan_video1.5-i2v", "wan2.2-ti2v", "ltx")


def save_pictures(folder: Path, generator: Any, count: int = 2) -> list[Path]:
    size = (generator.defaults.height, generator.defaults.width, 3)
    files = [folder / f"{seed}.png" for seed in range(count)]
    for seed, file in enumerate(files):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)).save(file)
    return files


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_begins_each_video_with_its_own_image_as_animate_does(family: str, tmp_path: Path) -> None:
    generator = load_generator(save_tiny_pipeline(family, tmp_path / family), device="cpu")
    files = save_pictures(tmp_path, generator)
    made = generator.generate(
        PROMPTS, num_inference_steps=2, guidance_scale=2.0, seed=3, images=[(file, None) for file in files]
    )
    for row, (prompt, file) in enumerate(zip(PROMPTS, files, strict=True)):
        image = read_images([file], generator.defaults.height, generator.defaults.width)
        alone = video_prompts.animate(generator, image, [prompt], sampling=Sampling(2, 2.0, 3 + row))
        torch.testing.assert_close(made[row : row + 1], alone, atol=1e-4, rtol=1e-4)
    if generator.frames is not None:
        assert torch.equal(made[:, :, 0], read_images(files, *made.shape[3:]))


@pytest.mark.parametrize("family", ["wan2.2-ti2v", "ltx"])
def test_known_latents_get_no_gradient_and_no_velocity(family: str, tmp_path: Path) -> None:
    generator = load_generator(save_tiny_pipeline(family, tmp_path / family), device="cpu")
    [file] = save_pictures(tmp_path, generator, 1)
    size = generator.defaults.num_frames, generator.defaults.height, generator.defaults.width
    shape = generator.latent_shape(*size)
    conditions = {
        **generator.encode_prompts(PROMPTS[:1]),
        **conditions_of_files(generator, [(file, None)], size),
    }
    assert conditions[KNOWN_LATENTS].shape[2] == 1
    unknown = seeded_noise([0], shape)[:, :, 1:]
    velocity = conditioned_velocity(generator, unknown, torch.tensor([0.7]), conditions)
    assert velocity.shape == unknown.shape
    levels = torch.full((1, shape[1]), 0.7)
    levels[:, 0] = 0
    text = {name: value for name, value in conditions.items() if name != KNOWN_LATENTS}
    whole = torch.cat([conditions[KNOWN_LATENTS], unknown], dim=2)
    torch.testing.assert_close(velocity, generator.frames(whole, levels, text)[:, :, 1:])
    clean = generate_latents(generator, PROMPTS[:1], num_inference_steps=2, images=[(file, None)])
    torch.testing.assert_close(clean[:, :, :1], conditions[KNOWN_LATENTS])


@pytest.mark.parametrize("family", ["wan-i2v", "cogvideox-i2v", "ltx"])
def test_an_image_is_seen_the_same_inside_and_outside_of_autocast(family: str, tmp_path: Path) -> None:
    generator = load_generator(save_tiny_pipeline(family, tmp_path / family), device="cpu")
    [file] = save_pictures(tmp_path, generator, 1)
    size = generator.defaults.num_frames, generator.defaults.height, generator.defaults.width
    outside = conditions_of_files(generator, [(file, None)], size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = conditions_of_files(generator, [(file, None)], size)
    for name, value in outside.items():
        torch.testing.assert_close(inside[name], value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["wan-i2v", "ltx"])
def test_generate_and_evaluate_read_images_from_prompt_files(family: str, tmp_path: Path) -> None:
    folder = save_tiny_pipeline(family, tmp_path / family)
    (tmp_path / "data").mkdir()
    for file in save_pictures(tmp_path, load_generator(folder, device="cpu")):
        file.rename(tmp_path / "data" / file.name)
    rows = [
        {"prompt": "a red circle", "image": "0.png"},
        {"prompt": "a blue square", "image_file_name": "1.png"},
    ]
    (tmp_path / "data" / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["--model", folder, "--prompts", tmp_path / "data" / "prompts.jsonl", "--num_inference_steps", 2,
             "--guidance_scale", 2]  # fmt: skip
    for command in ("generate", "evaluate"):
        assert main([str(w) for w in [command, *words, "--output_dir", tmp_path / command]]) in (0, None)
    made, judged = (
        [read_video(path)[0] for path in sorted((tmp_path / command).rglob("*.mp4"))]
        for command in ("generate", "evaluate")
    )
    assert len(made) == len(judged) == 2
    for one, other in zip(made, judged, strict=True):
        assert (one - other).abs().mean() < 0.01
    assert (made[0] - made[1]).abs().mean() > 0.02
    for command in ("generate", "evaluate"):
        again = read_prompts(tmp_path / command / "metadata.jsonl")
        assert [Path(str(record.image)).resolve() for record in again] == [
            (tmp_path / "data" / name).resolve() for name in ("0.png", "1.png")
        ]
    if family == "ltx":  # the decoder does not touch a frame that is given
        first = read_video(tmp_path / "generate" / "0000.mp4")[0][:, 0]
        assert (first - read_images([tmp_path / "data" / "0.png"], *first.shape[1:])[0]).abs().mean() < 0.3


@pytest.mark.parametrize(
    ("family", "row", "message"),
    [
        ("wan", {"image": "0.png"}, "makes videos from text alone, but prompts name an image"),
        ("wan-i2v", {}, "animates images, and none was given"),
        ("wan-i2v", {"image": "0.png", "last_image": "1.png"}, "takes no last image"),
        ("ltx", {"image": "gone.png"}, "prompts.jsonl, line 1: the image .*gone.png does not exist"),
        ("ltx", {"image": "broken.png"}, "prompts.jsonl, line 1: .*broken.png is not an image"),
        ("ltx", {"last_image": "0.png"}, "`last_image` is given without `image`"),
        ("ltx", {"image": 3}, "`image` must be the name of one file"),
        ("wan", {"control_video": "0.png"}, "takes no control video, but prompts name one"),
        ("wan-vace", {"image": "0.png"}, "makes videos from text alone, but prompts name an image"),
        ("wan-vace", {"control_video": "gone.mp4"}, "line 1: the control video .*gone.mp4 does not exist"),
        ("wan-vace", {"mask": "0.png"}, "`mask` is given without `control_video`"),
        (
            "wan-vace",
            {"control_video": "0.png", "image": "1.png"},
            "`control_video` and `image` are both given",
        ),
    ],
)
def test_images_that_do_not_fit_are_refused_in_a_sentence_and_nothing_is_written(
    family: str, row: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_tiny_pipeline(family, tmp_path / family)
    save_pictures(tmp_path, load_generator(folder, device="cpu"))
    (tmp_path / "broken.png").write_text("no image")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "a red circle", **row}))
    words = [
        "generate",
        "--model",
        folder,
        "--prompts",
        tmp_path / "prompts.jsonl",
        "--output_dir",
        tmp_path / "o",
    ]
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert not (tmp_path / "o").exists()


def test_images_that_lose_more_than_a_tenth_of_a_side_are_counted_in_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    generator = load_generator(save_tiny_pipeline("wan-i2v", tmp_path / "model"), device="cpu")
    files = [(tmp_path / f"{width}.png", None) for width in (320, 350, 240)]
    for file, _ in files:
        Image.new("RGB", (int(file.stem), 180)).save(file)
    check_takes_images(generator, files[:2], 2, (288, 512))  # 16:9, and 9 % wider
    check_takes_images(generator, files, 3)
    assert not caplog.records
    check_takes_images(generator, files, 3, (288, 512))
    (record,) = caplog.records
    assert "1 of 3 images have another shape than the videos (288x512) and lose up to 25 %" in record.message
    assert "240.png" in record.message


def test_an_image_beside_the_prompts_own_ones_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "0.png")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt": "a", "image": "0.png"}))
    from alignment.cli.commands.generate import GenerateArguments, run
    from alignment.cli.video_prompt_arguments import VideoPromptArguments

    asked = GenerateArguments(str(tmp_path / "o"), "nano", str(tmp_path / "prompts.jsonl"))
    with pytest.raises(InputError, match=r"--image was given, but prompts in .* name an image"):
        run(asked, VideoPromptArguments(image=str(tmp_path / "0.png")))


def first_and_last_frame_model(clip: bool) -> WanImageToVideoGenerator:
    """A tiny Wan 2.1 FLF2V, or Wan 2.2 I2V without the image encoder."""
    if not clip:
        changes: dict[str, Any] = {"transformer": {"in_channels": 36, "out_channels": 16}}
    else:
        encoder = CLIPVisionConfig(
            hidden_size=4, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32,
            patch_size=8, projection_dim=4,
        )  # fmt: skip
        size = {"height": 32, "width": 32}
        changes = {
            "transformer": {"in_channels": 36, "out_channels": 16, "image_dim": 4, "added_kv_proj_dim": 24,
                            "pos_embed_seq_len": 34},
            "image_encoder": CLIPVisionModel(encoder),
            "image_processor": CLIPImageProcessor(crop_size=size, size=size),
        }  # fmt: skip
    generator = WanImageToVideoGenerator(tiny_wan(kind=WanImageToVideoPipeline, **changes), "tiny")
    embedder = generator.pipeline.transformer.condition_embedder.image_embedder
    if clip:
        torch.nn.init.normal_(embedder.pos_embed)  # zero at first, which would hide the order
    return generator


@pytest.mark.parametrize("clip", [True, False])
def test_a_first_and_a_last_image_are_seen_as_diffusers_shows_them(clip: bool, tmp_path: Path) -> None:
    generator = first_and_last_frame_model(clip)
    pipeline = generator.pipeline
    size = 9, 16, 16
    files = [tmp_path / f"{seed}.png" for seed in range(4)]
    for seed, file in enumerate(files):
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file)
    pairs = [(files[0], files[1]), (files[2], files[3])]
    conditions = conditions_of_files(generator, pairs, size)
    for row, (first, last) in enumerate(pairs):
        images = [pipeline.video_processor.preprocess(Image.open(file), 16, 16) for file in (first, last)]
        _, expected = pipeline.prepare_latents(
            images[0], 1, 16, 16, 16, 9, torch.float32, torch.device("cpu"), None, None, images[1]
        )
        torch.testing.assert_close(conditions["image_latents"][row : row + 1], expected, atol=1e-5, rtol=1e-5)
        if clip:
            embeds = pipeline.encode_image([Image.open(first), Image.open(last)], "cpu")
            torch.testing.assert_close(conditions["image_embeds"][row], embeds)

    text = generator.encode_prompts(PROMPTS)
    latents, sigma = seeded_noise([0, 1], generator.latent_shape(*size)), torch.tensor([0.8, 0.3])
    together = generator.velocity(latents, sigma, {**text, **conditions})
    for row in range(2):
        alone = {name: value[row : row + 1] for name, value in {**text, **conditions}.items()}
        one = generator.velocity(latents[row : row + 1], sigma[row : row + 1], alone)
        torch.testing.assert_close(together[row : row + 1], one, atol=1e-5, rtol=1e-5)
        if clip:  # the order of the two images matters, and it is first, last
            hidden = torch.cat([latents[row : row + 1], conditions["image_latents"][row : row + 1]], dim=1)
            arguments = generator._transformer_arguments(latents[row : row + 1], sigma[row : row + 1], alone)
            stock = pipeline.transformer(
                hidden, sigma[row : row + 1] * 1000, arguments["encoder_hidden_states"],
                pipeline.encode_image([Image.open(file) for file in pairs[row]], "cpu"), return_dict=False,
            )[0]  # fmt: skip
            torch.testing.assert_close(one, stock, atol=1e-5, rtol=1e-5)

    videos = generator.generate(PROMPTS, *size, num_inference_steps=1, guidance_scale=2.0, images=pairs)
    assert videos.shape == (2, 3, *size)
    if clip:
        with pytest.raises(InputError, match="leads from a first to a last image"):
            generator.generate(PROMPTS, *size, images=[(first, None) for first, _ in pairs])
