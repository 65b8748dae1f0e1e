"""Rankings as training data of a trunk that animates images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from generator.first_frames import conditions_of_files
from generator.loading import load_generator
from generator.output import InputError
from generator.testing.pipelines import save_tiny_pipeline
from reward.models.latent import LatentRewardConfig, LatentRewardModel
from reward.preferences import Ranking
from reward.training.ranking_data import RankingCollator, RankingDataset, encode_videos

SIZE = (9, 16, 16)
PROMPTS = ("a red circle", "a blue square")


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    files = [str(tmp_path / f"{seed}.png") for seed in range(2)]
    for seed, file in enumerate(files):
        pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
    return files


def model_of(family: str, folder: Path, **changes: Any) -> LatentRewardModel:
    generator: Any = load_generator(save_tiny_pipeline(family, folder / family), device="cpu")
    return LatentRewardModel(LatentRewardConfig("tiny", dropout=0.0, hidden_size=16, **changes), generator)


def rankings_of(
    model: LatentRewardModel, images: list[Any]
) -> tuple[list[Ranking], dict[Path, torch.Tensor]]:
    shape = model.generator.latent_shape(*SIZE)
    same = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    latents = {Path(f"{row}-{k}.mp4"): same[k] for row in range(2) for k in range(2)}
    return [
        Ranking(PROMPTS[0], [Path(f"{row}-0.mp4"), Path(f"{row}-1.mp4")], [1, 2], images=images[row])
        for row in range(2)
    ], latents


@pytest.mark.parametrize("family", ["wan-i2v", "wan2.2-i2v-a14b", "hunyuan_video1.5-i2v"])
def test_the_trunk_is_shown_the_image_that_a_ranking_names(
    family: str, tmp_path: Path, pictures: list[str]
) -> None:
    model = model_of(family, tmp_path, implicit_evidence=True)
    files = [(picture, None) for picture in pictures]
    rankings, latents = rankings_of(model, files)
    encoded = encode_videos(model, rankings, latents=latents, progress=False)
    assert not any("image" in name for name in encoded.conditions)  # they stay on the disk
    for row in range(2):  # the same latents and prompts: their image alone makes the difference
        rows = [encoded.index[PROMPTS[0], Path(f"{row}-{k}.mp4")] for k in range(2)]
        text = model.generator.encode_prompts([PROMPTS[0]] * 2)
        shown = conditions_of_files(model.generator, [files[row]] * 2, SIZE)
        given = torch.stack([latents[Path(f"{row}-{k}.mp4")] for k in range(2)])
        expected = model.features(given, {**text, **shown})
        torch.testing.assert_close(encoded.features.tokens[rows], expected.tokens, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(encoded.features.evidence[rows], expected.evidence, atol=1e-4, rtol=1e-4)
    first, second = (encoded.index[PROMPTS[0], Path(f"{row}-0.mp4")] for row in range(2))
    assert not torch.equal(encoded.features.tokens[first], encoded.features.tokens[second])


def test_a_trained_trunk_gets_the_images_of_a_batch_from_the_disk(
    tmp_path: Path, pictures: list[str]
) -> None:
    model = model_of("cogvideox-i2v", tmp_path, lora_rank=2)
    rankings, latents = rankings_of(model, [(picture, None) for picture in pictures])
    encoded = encode_videos(model, rankings, latents=latents, progress=False)
    dataset = RankingDataset(rankings, encoded, ("overall",))
    batch = RankingCollator(encoded, trains_trunk=True)([dataset[1]])
    expected = conditions_of_files(model.generator, [(pictures[1], None)] * 2, SIZE)
    torch.testing.assert_close(batch["conditions"]["image_latents"], expected["image_latents"])


def test_where_none_is_named_and_when_scoring_it_is_the_first_frame_of_the_video(tmp_path: Path) -> None:
    model = model_of("wan-i2v", tmp_path)
    rankings, latents = rankings_of(model, [None, None])
    encoded = encode_videos(model, rankings, latents=latents, progress=False)
    given = torch.stack([latents[Path(f"0-{k}.mp4")] for k in range(2)])
    text = model.generator.encode_prompts([PROMPTS[0]] * 2)
    image = model.generator.decode(given[:, :, :1])[:, :, 0]
    expected = model.features(given, {**text, **model.generator.image(image, SIZE[0])})  # type: ignore[misc]
    rows = [encoded.index[PROMPTS[0], Path(f"0-{k}.mp4")] for k in range(2)]
    torch.testing.assert_close(encoded.features.tokens[rows], expected.tokens, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(
        model.score_latents(given, text)["overall"], model.score_features(expected)["overall"]
    )


def test_images_for_some_rankings_only_are_refused(tmp_path: Path, pictures: list[str]) -> None:
    model = model_of("wan-i2v", tmp_path)
    rankings, latents = rankings_of(model, [(pictures[0], None), None])
    with pytest.raises(InputError, match="1 name an image: give one to all or to none"):
        encode_videos(model, rankings, latents=latents, progress=False)
