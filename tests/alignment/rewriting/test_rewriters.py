"""Rewriters: the world's grammar, a tiny chat model, and scripted servers, one of which dies midway."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alignment.rewriting.rewriters import ChatRewriter, ServedRewriter, load_rewriter, one_line
from generator.files.built_in import PRETRAINED
from generator.output import InputError
from generator.world.elaborate import elaborate, kept_claims, vague_prompts
from reward.models.named.chat_cache import ReplyCache
from reward.models.named.chat_server import ChatServer
from tests.alignment.rewriting.tiny_chat_model import write_chat_model
from tests.reward.models.named.scripted_server import Script, completion, serve, texts_of

PROMPTS = ["a dog", "a cat", "a dog", "a bird"]


def _long(request: dict[str, Any], number: int) -> Any:
    prompt = texts_of(request)[0].rpartition("Prompt: ")[2]
    return completion(f'"{prompt}, in the\nsun"')


def _served(
    script: Script, cache: ReplyCache, failures: str = "stop", instruction: str = "Add light."
) -> Any:
    server = ChatServer(script.address, attempts=1, concurrency=1, role="rewriter")
    return ServedRewriter(server, instruction, failures, cache)


def test_the_worlds_rewriter_elaborates() -> None:
    prompts = ["a disc", "two squares"]
    assert load_rewriter("world").rewrite(prompts) == [elaborate(prompt) for prompt in prompts]
    with pytest.raises(InputError, match="was not understood"):
        load_rewriter("world").rewrite(["a dog"])


def test_a_server_is_asked_once_for_each_prompt_and_instruction(tmp_path: Path) -> None:
    cache, told = ReplyCache(tmp_path), []
    with serve(Script(_long)) as script:
        first = _served(script, cache).rewrite(PROMPTS, told.append)
        assert first == [f"{prompt}, in the sun" for prompt in PROMPTS]
        assert len(script.requests) == 3
        assert sum(told) == len(PROMPTS)
        assert _served(script, cache).rewrite(PROMPTS) == first
        assert len(script.requests) == 3
        _served(script, cache, instruction="Add rain.").rewrite(["a dog"])
        assert len(script.requests) == 4
        assert texts_of(script.requests[-1])[0].startswith("Add rain.")


def test_a_server_that_dies_midway_stops_with_a_sentence_and_is_not_asked_again_for_what_it_gave(
    tmp_path: Path,
) -> None:
    cache, alive = ReplyCache(tmp_path), [False]

    def answer(request: dict[str, Any], number: int) -> Any:
        asked_before = len(script.requests) - 1
        return _long(request, number) if alive[0] or asked_before < 2 else (500, {"error": "gone"}, {})

    with serve(Script(answer)) as script:
        with pytest.raises(InputError, match=r"rewriter .* failed 1 times .*start it"):
            _served(script, cache).rewrite(PROMPTS)
        alive[0] = True
        before = len(script.requests)
        assert _served(script, cache).rewrite(PROMPTS) == [f"{prompt}, in the sun" for prompt in PROMPTS]
        assert len(script.requests) == before + 1


def test_prompts_that_fail_are_kept_where_that_is_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(request: dict[str, Any], number: int) -> Any:
        cat = "a cat" in texts_of(request)[0]
        return (500, {"error": "no"}, {}) if cat else _long(request, number)

    with serve(Script(answer)) as script:
        found = _served(script, ReplyCache(tmp_path), "keep").rewrite(PROMPTS)
    assert found == ["a dog, in the sun", "a cat", "a dog, in the sun", "a bird, in the sun"]
    assert "1 prompts could not be rewritten" in caplog.text


@pytest.mark.parametrize(("text", "finish"), [("", "stop"), ("A dog in", "length")])
def test_an_empty_or_cut_answer_is_refused(tmp_path: Path, text: str, finish: str) -> None:
    with (
        serve(Script(lambda request, number: completion(text, finish=finish))) as script,
        pytest.raises(InputError, match="--rewriter_failures keep"),
    ):
        _served(script, ReplyCache(tmp_path)).rewrite(["a dog"])


def test_a_chat_model_answers_the_same_in_any_batch_and_is_loaded_only_when_asked(tmp_path: Path) -> None:
    folder = write_chat_model(tmp_path / "chat")
    prompts = ["a circle", "a red square moves left", "two stars"]
    cache = ReplyCache(tmp_path / "cache")
    one = ChatRewriter(folder, "Say more.", "keep", cache, batch_size=1).rewrite(prompts)
    many = ChatRewriter(folder, "Say more.", "keep", ReplyCache(None), batch_size=3).rewrite(prompts)
    assert one == many
    assert all("\n" not in text and text for text in one)
    again = ChatRewriter(folder, "Say more.", "stop", cache)
    known = [prompt for prompt, text in zip(prompts, one) if prompt != text]
    again.rewrite(known)
    assert again._loaded is None


def test_a_model_without_a_chat_template_and_an_unknown_one_are_refused(tmp_path: Path) -> None:
    folder = write_chat_model(tmp_path / "chat", template=None)
    with pytest.raises(InputError, match="no chat template"):
        ChatRewriter(folder, "", cache=ReplyCache(None)).rewrite(["a circle"])
    with pytest.raises(InputError, match="folder of a language model"):
        load_rewriter(str(tmp_path))


def test_a_reply_becomes_one_line_without_thoughts_and_quotation_marks() -> None:
    assert one_line('<think>Hm,\nwell.</think>\n"A dog\n runs."') == "A dog runs."
    assert one_line(' "') == '"'


def test_the_shipped_rewriter_keeps_claims_and_says_sizes_without_a_hub() -> None:
    prompts = vague_prompts(96, 5, "test")
    texts = load_rewriter("nano-rewriter", cache=ReplyCache(None)).rewrite(prompts)
    counts = [kept_claims(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    assert sum(kept for kept, _ in counts) >= 0.97 * sum(total for _, total in counts)
    same = sum(text == elaborate(prompt) for prompt, text in zip(prompts, texts, strict=True))
    assert same >= 0.85 * len(prompts)
    assert sum(path.stat().st_size for path in (PRETRAINED / "nano-rewriter").iterdir()) < 6e6
