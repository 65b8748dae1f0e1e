"""The tokenizer of the tiny HunyuanVideo 1.5."""

from __future__ import annotations

import inspect
import json
from functools import cache
from typing import Any

from diffusers import AutoencoderKLHunyuanVideo15, HunyuanVideo15Pipeline
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Tokenizer

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def qwen_tokenizer(vae: AutoencoderKLHunyuanVideo15) -> Qwen2Tokenizer:
    """Bytes, and the words of the system message, which take little more than the 108 tokens that the pipeline drops.

    As bytes they are 524 tokens, of which 416 stay in every prompt.

    Args:
        vae: any, without which there is no pipeline, whose message it is.
    """
    components = [
        name for name in inspect.signature(HunyuanVideo15Pipeline.__init__).parameters if name != "self"
    ]
    message = HunyuanVideo15Pipeline(**{**dict.fromkeys(components), "vae": vae}).system_message
    vocabulary, merges = _words_of(message)
    tokenizer = Qwen2Tokenizer(vocab=dict(vocabulary), merges=[*merges])
    tokenizer.chat_template = (
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    return tokenizer


@cache
def _words_of(message: str) -> tuple[dict[str, int], list[Any]]:
    """Vocabulary, and merges (pairs of tokens) of byte pair encoding, learnt from a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_alone = Qwen2Tokenizer(vocab={token: i for i, token in enumerate([*SPECIAL, *alphabet])}, merges=[])
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = bytes_alone.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False)
    learner.train_from_iterator([message], trainer)
    learnt = json.loads(learner.to_str())["model"]
    return learnt["vocab"], [(first, second) for first, second in learnt["merges"]]
