"""Entries of the rewards on whole videos and of those behind a server; see `registry`."""

from __future__ import annotations

import re

from reward.models.named.entry import HubFiles, NamedReward, Option, number, one_of, whole_number

_NAMED = "reward.models.named"

_PUBLISHED = "checkpoint-11352"
VIDEO_REWARD = HubFiles(
    "KlingTeam/VideoReward",
    (
        "model_config.json|../model_config.json",
        f"{_PUBLISHED}/model.pth|checkpoint-*/model.pth|checkpoint-*/adapter_model.safetensors|model.pth|"
        "adapter_model.safetensors",
        *(
            f"{_PUBLISHED}/tokenizer/{name}|checkpoint-*/tokenizer/{name}|checkpoint-*/{name}|tokenizer/{name}|{name}|"
            f"../tokenizer/{name}|../{name}"
            for name in ("tokenizer.json", "tokenizer_config.json")
        ),
    ),
    5.03,
    aliases=("KwaiVGI/VideoReward",),
)
"""Its one published checkpoint, or one of the user's own training."""
HPSV3 = HubFiles("MizzenAI/HPSv3", ("HPSv3.safetensors|model.safetensors",), 16.6)
QWEN2_VL_7B_TOKENIZER = HubFiles(
    "Qwen/Qwen2-VL-7B-Instruct",
    ("tokenizer.json", "tokenizer_config.json"),
    0.007,
    ("chat_template.json", "vocab.json", "merges.txt"),
)
VICLIP = HubFiles("OpenGVLab/VBench_Used_Models", ("ViClip-InternVid-10M-FLT.pth",), 1.7)
CLIP_TOKENIZER = HubFiles(
    "openai/clip-vit-large-patch14",
    ("tokenizer.json|vocab.json",),
    0.003,
    ("tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
)


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("true or false")
    return text.lower() == "true"


def _range(text: str) -> tuple[float, float]:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)", text)
    if found is None:
        raise ValueError("two numbers, for example 1-5")
    return float(found.group(1)), float(found.group(2))


def _rate(text: str) -> float:
    value = number(text)
    if value <= 0:
        raise ValueError("a number above 0")
    return value


_SERVER: dict[str, Option] = {
    "model": str,
    "api_key_env": str,
    "concurrency": whole_number,
    "attempts": whole_number,
    "timeout": _rate,
    "cache": str,
    "image_format": one_of("jpeg", "png"),
}
_WRITTEN: dict[str, Option] = {**_SERVER, "template": str, "form": one_of("soft", "number"), "fps": _rate}

VIDEO_REWARDS = (
    NamedReward(
        "videoalign",
        f"{_NAMED}.videoalign:load",
        "VideoReward: visual quality, motion quality, text alignment; Qwen2-VL 2B",
        "video",
        (-3.0, 3.0),
        dimensions=("overall", "VQ", "MQ", "TA"),
        weights=(VIDEO_REWARD,),
        licence="Apache-2.0, code MIT",
        gradients=True,
        options={"template": str, "base": str, "fps": _rate},
        hacks="an animation look (VQ), little motion (MQ); TA is the steadiest",
        paper="2501.13918",
    ),
    NamedReward(
        "hpsv3",
        f"{_NAMED}.hpsv3:load",
        "preference of people between images of a prompt, Qwen2-VL 7B",
        "frames",
        (0.0, 15.0),
        weights=(HPSV3, QWEN2_VL_7B_TOKENIZER),
        licence="MIT",
        gradients=True,
        options={"template": str, "base": str},
        hacks="one good frame with reduce=topNN, less motion",
        paper="2508.03789",
    ),
    NamedReward(
        "viclip",
        f"{_NAMED}.viclip:load",
        "cosine of a video of 8 frames and the first 32 tokens of the prompt",
        "video",
        (0.2, 0.3),
        weights=(VICLIP, CLIP_TOKENIZER),
        licence="Apache-2.0 (code)",
        gradients=True,
        hacks="VBench's overall consistency is this cosine: no evidence after training on it",
        paper="2307.06942",
    ),
    NamedReward(
        "judge",
        f"{_NAMED}.serving:load_judge",
        "any vision-language model behind an OpenAI-compatible server, asked your questions",
        "frames",
        (0.0, 1.0),
        licence="the model's",
        options={
            **_SERVER,
            "question": str,
            "questions": str,
            "range": _range,
            "answer": one_of("auto", "probabilities", "words"),
            "pairs": _switch,
            "frame_pixels": whole_number,
            "thinking": _switch,
            "max_tokens": whole_number,
        },
        served=True,
        hacks="what the question does not ask for; words of the prompt as text",
        paper="2404.01291",
    ),
    NamedReward(
        "videoscore2",
        f"{_NAMED}.served_rewards:load",
        "visual quality, alignment and physics from 1 to 5, Qwen2.5-VL 7B that thinks first",
        "video",
        (1.0, 5.0),
        dimensions=("overall", "visual", "alignment", "physics"),
        licence="Apache-2.0",
        options=_WRITTEN,
        served=True,
        hacks="not known",
        paper="2509.22799",
    ),
    NamedReward(
        "unifiedreward",
        f"{_NAMED}.served_rewards:load",
        "alignment, physics and style from 1 to 5, UnifiedReward 2.0",
        "frames",
        (1.0, 5.0),
        dimensions=("overall", "alignment", "physics", "style"),
        licence="MIT (code)",
        options=_WRITTEN,
        served=True,
        hacks="not known",
        paper="2503.05236",
    ),
)
