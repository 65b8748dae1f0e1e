"""The tokenizer of the video world and its T5 encoder."""

import pytest
import torch

from generator.native.text_encoder import (
    MAX_TEXT_TOKENS,
    build_text_encoder,
    build_tokenizer,
    encode_text,
    tokenize,
)
from generator.world import VOCABULARY, sample_prompts

PROMPTS = ["a red circle", "a large blue square moves slowly to the left on a dark background", ""]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(VOCABULARY)


@pytest.fixture(scope="module")
def text_encoder(tokenizer):
    torch.manual_seed(0)
    return build_text_encoder(len(tokenizer), hidden_size=32, num_layers=2, num_heads=2).eval()


def test_every_word_of_the_world_is_one_token(tokenizer):
    for prompt in sample_prompts(100, 0, "train"):
        words = prompt.lower().replace(",", " ,").replace(".", " .").split()
        ids, mask = tokenize(tokenizer, [prompt])
        assert mask.sum() == len(words) + 1, prompt
        assert tokenizer.unk_token_id not in ids, prompt


def test_other_words_are_spelled_and_come_back(tokenizer):
    ids, _ = tokenize(tokenizer, ["a zebra with 7 wigs"])
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == "a zebra with 7 wigs"


def test_case_and_surrounding_space_do_not_matter(tokenizer):
    assert torch.equal(tokenize(tokenizer, ["  A Red Circle "])[0], tokenize(tokenizer, ["a red circle"])[0])


def test_a_long_prompt_is_cut(tokenizer):
    ids, mask = tokenize(tokenizer, ["red " * 500])
    assert ids.shape == mask.shape == (1, MAX_TEXT_TOKENS)


def test_the_empty_prompt_is_one_token(tokenizer):
    ids, mask = tokenize(tokenizer, [""])
    assert ids.tolist() == [[tokenizer.eos_token_id]]
    assert mask.tolist() == [[1]]


def test_prompts_of_different_length_are_encoded_together_as_alone(tokenizer, text_encoder):
    together, mask = encode_text(text_encoder, tokenizer, PROMPTS)
    for row, prompt in enumerate(PROMPTS):
        alone, _ = encode_text(text_encoder, tokenizer, [prompt])
        length = alone.shape[1]
        assert mask[row].sum() == length
        torch.testing.assert_close(together[row, :length], alone[0], atol=1e-5, rtol=0)
