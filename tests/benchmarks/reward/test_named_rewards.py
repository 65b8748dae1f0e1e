"""The parts of the benchmarks of rewards by name: drawn words, and stand-ins of the published sizes."""

from __future__ import annotations

import argparse
import random

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, Qwen2VLModel

from benchmarks.reward import ocr_ppo, random_rewards
from reward.models.named import hpsv3, videoalign
from reward.models.named.qwen_rewards import text_config


def test_held_out_words_are_not_learnt_and_no_two_words_have_the_same_letters():
    learnt, held_out = ocr_ppo.split_words(ocr_ppo.SCALES["gpu"], seed=3)
    words = [*learnt, *held_out]
    assert (len(learnt), len(held_out)) == (180, 40)
    assert len({frozenset(word) for word in words}) == len(words)
    assert all(list(word) == sorted(word) for word in words)


def test_a_share_of_the_demonstrations_has_another_words_prompt():
    class Encoder:
        device = torch.device("cpu")

        def encode(self, videos):
            return videos

    words = ["ACT", "BEN", "FLY", "HMN"]
    latents, prompts = ocr_ppo.demonstrations(Encoder(), words, 400, wrong=0.4, seed=0)
    shown = [words[number % 4] for number in range(400)]
    wrong = [prompt != ocr_ppo.prompt_of(word) for word, prompt in zip(shown, prompts)]
    assert 0.33 < sum(wrong) / 400 < 0.47
    assert set(prompts) == {ocr_ppo.prompt_of(word) for word in words}
    assert latents[0].shape == (3, 1, 32, 64)


def test_drawn_words_are_read_and_stay_readable_in_the_autoencoder():
    pytest.importorskip("rapidocr", reason="the extra ocr is not installed: pip install 'vidalign[ocr]'")
    from reward import load_reward

    words = random.Random(1).sample(ocr_ppo.split_words(ocr_ppo.SCALES["gpu"], seed=0)[0], 12)
    arguments = argparse.Namespace(model="nano", device="cpu")
    judge = load_reward("ocr")
    prompts = [ocr_ppo.prompt_of(word) for word in words]
    for videos in ocr_ppo.drawn_and_reconstructed(arguments, words).values():
        assert judge.score(videos, prompts)["overall"].mean() > 0.95


def test_the_sheet_shows_both_models_side_by_side():
    videos = {"sft": -torch.ones(4, 3, 1, 32, 64), "ppo": torch.ones(4, 3, 1, 32, 64)}
    sheet = ocr_ppo.contact_sheet(videos, ["ACT", "BEN"], seeds=2)
    assert sheet.getpixel((90 + 20, 30 + 20)) == (0, 0, 0)
    assert sheet.getpixel((90 + 2 * 134 + 24 + 20, 30 + 70 + 20)) == (255, 255, 255)


def test_stand_ins_have_the_published_sizes():
    with torch.device("meta"):
        clip = CLIPModel(CLIPConfig(**random_rewards.CLIP_H))
    assert sum(weight.numel() for weight in clip.parameters()) == 986_109_441  # of laion's CLIP-H
    for base, tokens, size in (
        (videoalign.BASE_MODEL, 3, 2.2086e9),
        (hpsv3.BASE_MODEL, 1, 7.7449e9),
    ):
        config = text_config(base)
        config.text_config.vocab_size = random_rewards.QWEN_WORDS + len(random_rewards.QWEN_SPECIAL) + tokens
        with torch.device("meta"):
            model = Qwen2VLModel(config)
        assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(size, rel=1e-4)


def test_the_tokenizer_has_qwens_special_tokens_at_their_ids():
    tokenizer = random_rewards._qwen_tokenizer([hpsv3.TOKEN])
    ids = tokenizer.convert_tokens_to_ids(
        ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", hpsv3.TOKEN]
    )
    assert ids == [151652, 151653, 151655, 151656, 151657]
    assert len(tokenizer) == 151658


@pytest.mark.parametrize("name", ["pickscore:frames=2", "videoalign:TA"])
def test_a_stand_in_scores_videos(name):
    reward = random_rewards.random_reward(name, torch.device("cpu"), tiny=True)
    reward.set_frame_rate(16.0)
    videos = torch.rand(2, 3, 5, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    scores = reward.score(videos, ["a ball", "a cube"])
    assert list(scores) == ["overall"]
    assert scores["overall"].shape == (2,)
    assert scores["overall"].isfinite().all()
