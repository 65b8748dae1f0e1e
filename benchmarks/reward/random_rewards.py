"""Rewards by name with random weights of the published sizes, made on the device: for their cost, not their scores.

Stand-ins: the tokenizers have the published number of tokens and ids of special tokens, but one token a word; and the
prompt texts of VideoAlign and HPSv3, which are not shipped, are as many words as theirs are estimated to have tokens.
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, PreTrainedTokenizerFast, Qwen2VLModel
from transformers.convert_slow_tokenizer import bytes_to_unicode

from reward.models.base import RewardModel
from reward.models.named import hpsv3, videoalign
from reward.models.named.clip_rewards import CosineReward, _prepared, pickscore_formula
from reward.models.named.entry import RewardRequest
from reward.models.named.frames import CLIP_MEAN, CLIP_STD, crop_to_side, pad_to_side, torch_dtype
from reward.models.named.places import identify
from reward.models.named.published_sizes import CLIP_H, PROMPT_TOKENS
from reward.models.named.qwen_rewards import (
    QwenReader,
    eight_bit_resize,
    pillow_resize,
    placement,
    text_config,
)
from reward.models.named.registry import parse

QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|unused_{n}|>" for n in range(6)),
                "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")  # fmt: skip
"""Special tokens of Qwen2-VL in their order, from `QWEN_WORDS` on; six of them mean nothing here."""
QWEN_WORDS = 151643
CHAT = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} {{ message['content'] }} <|im_end|> "
    "{% endfor %}{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
NAMES = ("pickscore", "hpsv2", "videoalign", "hpsv3")


def random_reward(text: str, device: torch.device, tiny: bool = False) -> RewardModel:
    """A reward of `NAMES`, with options and dimension as `load_reward` reads them.

    Args:
        tiny: a few thousand weights in place of the published number.
    """
    request = parse(text, device)
    name = request.entry.name
    torch.manual_seed(0)
    if name in ("pickscore", "hpsv2"):
        return _clip_reward(request, tiny)
    if name not in NAMES:
        raise ValueError(f"{name} has no stand-in: use one of {', '.join(NAMES)}.")
    return _qwen_reward(request, tiny)


def parameters(reward: RewardModel) -> int:
    """Weights of a reward of this module."""
    model: Any = getattr(reward, "model", None) or getattr(reward, "reader")  # noqa: B009
    return sum(weight.numel() for weight in model.parameters())


def _clip_reward(request: RewardRequest, tiny: bool) -> RewardModel:
    tokenizer = _clip_tokenizer()
    config: dict[str, Any] = json.loads(json.dumps(CLIP_H))
    for part in ("text_config", "vision_config") if tiny else ():
        config[part] |= {
            "num_hidden_layers": 1,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_attention_heads": 2,
        }
    config["text_config"] |= {
        "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    model = _made(CLIPModel, CLIPConfig(**config), request.device, torch_dtype(request))
    shape = crop_to_side if request.entry.name == "pickscore" else pad_to_side
    prepare = partial(_prepared, shape=partial(shape, side=224), mean=CLIP_MEAN, std=CLIP_STD)
    pick = partial(pickscore_formula, form="scaled")
    formula = pick if request.entry.name == "pickscore" else lambda cosines, _: cosines
    return identify(CosineReward(request, model, tokenizer, prepare, formula, 77), request)


def _qwen_reward(request: RewardRequest, tiny: bool) -> RewardModel:
    device, dtype = placement(request)
    align = request.entry.name == "videoalign"
    tokens = [f"<|{name}_reward|>" for name in videoalign.DIMENSIONS] if align else [hpsv3.TOKEN]
    tokenizer = _qwen_tokenizer(tokens)
    config = text_config(videoalign.BASE_MODEL if align else hpsv3.BASE_MODEL)
    config.text_config.vocab_size = len(tokenizer)
    if tiny:
        sections = {**config.text_config.rope_parameters, "mrope_section": [2, 1, 1]}
        for name, value in {
            "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "rope_parameters": sections,
        }.items():  # fmt: skip
            setattr(config.text_config, name, value)
        for name, value in {"depth": 1, "embed_dim": 32, "num_heads": 2, "hidden_size": 32}.items():
            setattr(config.vision_config, name, value)
    width = config.text_config.hidden_size
    backbone = _made(Qwen2VLModel, config, device, dtype)
    words = ["w1"] * PROMPT_TOKENS[request.entry.name]
    if align:
        head: nn.Module = nn.Linear(width, 1, bias=False, device=device)
        reader = QwenReader(
            backbone,
            head,
            tokenizer,
            tokens,
            videoalign.VideoAlignSettings().budget,
            "videoalign",
            eight_bit_resize,
        ).eval()
        settings = videoalign.VideoAlignSettings()
        text = " ".join(
            [*words[: len(words) // 2], *tokens[:2], *words[len(words) // 2 :], "{text_prompt}", tokens[2]]
        )
        options = request.options
        model: RewardModel = videoalign.VideoAlignReward(
            reader, text, settings, request.dimension, options.get("fps"), options.get("batch_size", 4)
        )
    else:
        layers = (
            nn.Linear(width, 1024),
            nn.ReLU(),
            nn.Dropout(0.05),
            nn.Linear(1024, 16),
            nn.ReLU(),
            nn.Linear(16, 2),
        )
        head = nn.Sequential(*layers).to(device)
        reader = QwenReader(backbone, head, tokenizer, tokens, hpsv3.BUDGET, "hpsv3", pillow_resize).eval()
        model = hpsv3.HPSv3Reward(request, reader, " ".join([*words, "{text_prompt}", *tokens]))
    reader.requires_grad_(False)
    return identify(model, request)


def _made(kind: Any, config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """A frozen model with random weights, made where and in what it stays."""
    with torch.device(device):
        model = kind._from_config(config, dtype=dtype)
    return model.to(device, dtype).requires_grad_(False).eval()


def _clip_tokenizer() -> Any:
    """A CLIP tokenizer of bytes; prompts are padded to 77 tokens, whatever its words."""
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = {word: number for number, word in enumerate(words)}
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        Path(folder, "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
        return CLIPTokenizer.from_pretrained(folder)


def _qwen_tokenizer(tokens: list[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with Qwen2-VL's number of words, its special tokens at their ids, and `tokens` after them."""
    words = [*(f"w{number}" for number in range(QWEN_WORDS)), *QWEN_SPECIAL, *tokens]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=QWEN_SPECIAL[0], unk_token="w0", eos_token="<|im_end|>",
        additional_special_tokens=[*QWEN_SPECIAL, *tokens], chat_template=CHAT,
    )  # fmt: skip
