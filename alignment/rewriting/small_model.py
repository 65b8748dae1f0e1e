"""A small language model for the world's prompts, made from scratch in the formats of `transformers`."""

from __future__ import annotations

from typing import Any

PROMPT_END = ">"
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + ' </s>' }}"
    "{% else %}{{ message['content'] + ' >' }}{% endif %}{% endfor %}"
)
"""Chat template: a prompt, `>`, the rewritten prompt and the end of the text."""
LONGEST = 128
"""Tokens of a prompt and its rewritten form, at most."""


def small_tokenizer() -> Any:
    """A fast tokenizer with one token for each word and punctuation mark of the world."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from generator.world import VOCABULARY

    words = ["<pad>", "<unk>", "</s>", PROMPT_END, *VOCABULARY]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(",", "isolated"),
            pre_tokenizers.Split(".", "isolated"),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        additional_special_tokens=[PROMPT_END],
        model_max_length=LONGEST,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def small_model(tokenizer: Any, hidden_size: int = 128, num_layers: int = 5) -> Any:
    """A Llama of random weights, about a million with the default sizes."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LONGEST,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)
