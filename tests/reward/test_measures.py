"""Measures without weights, and CLIPScore on a small random CLIP."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from generator.output import InputError
from generator.world import render
from reward.adherence.clip_score import ClipScore
from reward.adherence.verifiers import load_verifier
from reward.measures import (
    block_motion,
    consistency,
    measure_videos,
    motion_and_flicker,
    temporal_flickering,
)


def textured(frames: int = 6, side: int = 64, step: int = 0, seed: int = 0) -> torch.Tensor:
    """A smooth random texture `[1, 3, frames, side, side]` that moves `step` pixels to the right a frame."""
    noise = torch.rand(1, 3, side // 4, 2 * side // 4, generator=torch.Generator().manual_seed(seed))
    wide = torch.nn.functional.interpolate(noise, (side, 2 * side), mode="bilinear") * 2 - 1
    return torch.stack([wide[..., side - t * step : 2 * side - t * step] for t in range(frames)], dim=2)


@pytest.mark.parametrize("step", [1, 2, 4])
def test_motion_is_the_speed_in_shorter_sides_a_second(step):
    motion, flicker = motion_and_flicker(textured(step=step), fps=8)
    assert motion.item() == pytest.approx(step / 64 * 8, rel=0.01)
    assert flicker.item() < 0.02
    moves, _ = block_motion(textured(step=step))
    inner = moves[0, :, 9:15]
    assert (inner[..., 0] > 0).all()
    assert (inner[..., 1] == 0).all()


def test_larger_videos_move_as_fast_as_small_ones():
    large = torch.nn.functional.interpolate(textured(step=2), (6, 192, 192), mode="trilinear")
    assert motion_and_flicker(large, 8)[0].item() == pytest.approx(2 / 64 * 8, rel=0.05)


def test_noise_and_flicker_are_no_motion_and_motion_is_no_flicker():
    still = textured()
    noisy = (still + 0.004 * torch.randn(still.shape, generator=torch.Generator().manual_seed(1))).clamp(
        -1, 1
    )
    bright = still * 0.5 + torch.tensor([0.0, 0.2] * 3)[:, None, None]
    assert motion_and_flicker(still, 8)[0].item() == 0
    assert motion_and_flicker(noisy, 8)[0].item() == 0
    flickers = [motion_and_flicker(video, 8)[1].item() for video in (still, noisy, bright)]
    assert flickers == sorted(flickers)
    assert flickers[2] > 10 * flickers[1]
    assert motion_and_flicker(textured(step=3), 8)[1].item() < flickers[2] / 3


def test_flicker_rises_and_consistency_falls_with_the_corruption():
    video = render(
        "a red circle moves right on a dark background", num_frames=9, height=64, width=64, seed=0
    )[None]
    found = []
    for strength in (0.0, 0.1, 0.2, 0.4):
        flash = strength * torch.tensor([0.0, 1.0] * 5)[:9, None, None]
        values = measure_videos((video + flash).clamp(-1, 1), 8)
        found.append(
            [values["flicker"].item(), -values["temporal_flickering"].item(), -values["consistency"].item()]
        )
    for column in list(zip(*found))[:2]:
        assert list(column) == sorted(column)
    assert found[-1][2] > found[0][2] + 0.02
    assert found[-1][0] > found[0][0] + 0.02


def test_temporal_flickering_is_vbenchs_on_8_bit_frames():
    frames = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)
    differences = [np.abs(a.astype(float) - b.astype(float)).mean() for a, b in pairwise(frames)]
    expected = (255.0 - np.mean(differences)) / 255.0
    video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    assert temporal_flickering(video).item() == pytest.approx(expected, abs=1e-6)


def test_consistency_is_one_for_equal_colours_and_zero_for_disjoint_ones():
    assert consistency(textured()).item() == pytest.approx(1)
    switching = torch.full((1, 3, 4, 8, 8), -1.0)
    switching[:, :, 1::2] = 1.0
    # Frames 2 to 4 of black, white, black, white: to the first 0, 1, 0; to the one before 0, 0, 0.
    assert consistency(switching).item() == pytest.approx((0 + 0.5 + 0) / 3)


def test_single_frames_neither_move_nor_flicker():
    values = measure_videos(torch.zeros(2, 3, 1, 32, 32), 8)
    assert {name: value.tolist() for name, value in values.items()} == {
        "motion": [0, 0],
        "flicker": [0, 0],
        "temporal_flickering": [1, 1],
        "consistency": [1, 1],
    }


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A random CLIP of two layers with a tokenizer of letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clip")
    names = "a red green blue circle square moves left right"
    words = ["<pad>", "<start>", "<end>", "<unk>", *names.split(" ")]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<start>",
        eos_token="<end>",
        unk_token="<unk>",
    ).save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    CLIPModel(
        CLIPConfig(
            text_config={**small, "vocab_size": len(words), "max_position_embeddings": 12,
                         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
            vision_config={**small, "image_size": 32, "patch_size": 8},
            projection_dim=12,
        )
    ).save_pretrained(folder)  # fmt: skip
    return folder


def test_clip_score_is_the_mean_cosine_of_frames_and_prompt(clip_folder):
    clip = ClipScore.from_pretrained(clip_folder, "cpu")
    videos = torch.rand(2, 3, 3, 40, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    prompts = ["a red circle moves left", "a blue square"]
    cosines = clip.cosines(videos, prompts)
    assert cosines.shape == (2, 3)
    words = clip.tokenizer(prompts[1], return_tensors="pt")
    with torch.no_grad():
        output = clip.model(pixel_values=clip.pixels(videos[1].transpose(0, 1)), **words)
    alone = (output.image_embeds @ output.text_embeds.T)[:, 0]
    assert cosines[1] == pytest.approx(alone.numpy(), abs=1e-5)
    scores = [judgement.score for judgement in clip.judge(videos, prompts)]
    assert scores == pytest.approx((2.5 * cosines.mean(1).clamp(min=0)).clamp(max=1).tolist())
    verify, _ = load_verifier(f"clip:{clip_folder}")
    assert [judgement.score for judgement in verify(videos, prompts)] == pytest.approx(scores, abs=1e-5)


def test_clip_sees_frames_as_its_own_image_processor_does(clip_folder):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, do_convert_rgb=True
    )
    pixels = (textured(frames=1, side=64)[0, :, 0, :, :48].permute(1, 2, 0) + 1) * 127.5
    image = Image.fromarray(pixels.round().byte().numpy())
    expected = torch.tensor(np.array(processor(image)["pixel_values"][0]))
    frame = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 127.5 - 1
    ours = ClipScore.from_pretrained(clip_folder, "cpu").pixels(frame)[0]
    assert (ours - expected).abs().max() < 0.05


def test_folders_without_clip_are_named(tmp_path):
    with pytest.raises(InputError, match="cannot be loaded as a CLIP model"):
        load_verifier(f"clip:{tmp_path}")
    with pytest.raises(InputError, match="answers no questions"):
        load_verifier(f"clip:{tmp_path}", "world")
