"""The built-in text encoder: a small T5 encoder and a tokenizer with one token a word of the video world.

The classes are those of Wan, LTX and CogVideoX, so that one code path serves all. Words outside the vocabulary are
spelled letter by letter.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from generator.one_or_several import as_list

MAX_TEXT_TOKENS = 64


def build_tokenizer(words: Sequence[str]) -> T5Tokenizer:
    """A unigram tokenizer with one token a word, and letters for every other word."""
    words = as_list(words)
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(word if word in string.punctuation else f"▁{word}", -1.0) for word in words]
    pieces = {piece for piece, _ in vocabulary}
    # The word "a" is the piece "▁a"; inside other words the letter is a piece of its own.
    letters = [c for c in "▁" + string.ascii_lowercase + string.digits + ".,-'!?" if c not in pieces]
    vocabulary += [(letter, -10.0) for letter in letters]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=MAX_TEXT_TOKENS)


def build_text_encoder(
    vocab_size: int, hidden_size: int = 256, num_layers: int = 2, num_heads: int = 4
) -> T5EncoderModel:
    """A T5 encoder with random weights."""
    return T5EncoderModel(
        T5Config(
            vocab_size=vocab_size,
            d_model=hidden_size,
            d_kv=hidden_size // num_heads,
            d_ff=2 * hidden_size,
            num_layers=num_layers,
            num_heads=num_heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def clean(prompt: str) -> str:
    """A prompt as the tokenizer gets it."""
    return prompt.lower().strip()


def unknown_words(tokenizer: T5Tokenizer, prompt: str) -> list[str]:
    """Words of a prompt that have no token of their own, so that they are spelled or not seen at all."""
    found = []
    for word in clean(prompt).split():
        pieces = [piece for piece in tokenizer.tokenize(word) if piece not in string.punctuation]
        whole = len(pieces) == 1 and pieces[0].startswith("▁") and pieces[0] != "▁"
        if pieces and pieces != ["▁"] and not whole:
            found.append(word.strip(string.punctuation) or word)
    return found


def tokenize(tokenizer: T5Tokenizer, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Token ids and mask `[batch, length]`, padded to the longest prompt of the batch."""
    prompts = as_list(prompts)
    batch = tokenizer(
        [clean(prompt) for prompt in prompts],
        padding="longest",
        truncation=True,
        max_length=MAX_TEXT_TOKENS,
        return_tensors="pt",
    )
    return batch.input_ids, batch.attention_mask


def encode_text(
    text_encoder: T5EncoderModel, tokenizer: T5Tokenizer, prompts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Embeddings `[batch, length, dim]` and mask `[batch, length]` of prompts."""
    device = next(text_encoder.parameters()).device
    ids, mask = tokenize(tokenizer, prompts)
    ids, mask = ids.to(device), mask.to(device)
    with torch.no_grad():
        return text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask
