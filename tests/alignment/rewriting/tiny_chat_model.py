"""A tiny random chat model in the layout of `transformers`."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from generator.world import VOCABULARY

TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }} {% if m['role'] == 'assistant' %}</s>{% else %}<s> {% endif %}"
    "{% endfor %}"
)


def write_chat_model(folder: Path, template: str | None = TEMPLATE) -> Path:
    """Writes a model of random weights on the world's words."""
    words = ["<pad>", "<unk>", "<s>", "</s>", *VOCABULARY]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(words), n_positions=600, n_embd=32, n_layer=1, n_head=2, bos_token_id=2, eos_token_id=3
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder
