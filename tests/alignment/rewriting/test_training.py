"""Training of a rewriter: pairs in, a chat model out that `--rewriter` takes, and a run that goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alignment.cli import main
from alignment.rewriting.rewriters import ChatRewriter
from alignment.rewriting.small_model import small_model, small_tokenizer
from alignment.rewriting.training import read_pairs
from generator.output import InputError
from generator.world.elaborate import elaborate
from reward.models.named.chat_cache import ReplyCache
from tests.alignment.rewriting.tiny_chat_model import write_chat_model

WORDS = [
    "rewriter",
    "--pairs",
    "world:8",
    "--max_steps",
    "2",
    "--per_device_train_batch_size",
    "4",
    "--report_to",
    "none",
]


def test_the_chat_template_puts_the_answer_after_the_prompt_and_ends_it() -> None:
    tokenizer = small_tokenizer()
    chat = [{"role": "user", "content": "a Red circle, blue"}, {"role": "assistant", "content": "a ring"}]
    before = tokenizer.apply_chat_template(chat[:1], add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template(chat)["input_ids"]
    assert whole[: len(before)] == before
    assert tokenizer.decode(whole[len(before) :]) == "a ring </s>"
    assert tokenizer.unk_token_id not in whole
    assert 1e6 < sum(each.numel() for each in small_model(tokenizer).parameters()) < 3e6


def test_a_run_that_was_stopped_goes_on_to_the_same_weights_and_is_a_rewriter(tmp_path: Path) -> None:
    (tmp_path / "ask.txt").write_text("Say more.")
    model = write_chat_model(tmp_path / "chat")
    words = [*WORDS, "--model", str(model), "--instruction", str(tmp_path / "ask.txt"), "--save_steps", "1"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main([*words, "--output_dir", str(whole)]) == 0
    assert main([*words, "--output_dir", str(stopped)]) == 0
    for file in ("model.safetensors", "rewriter.json"):
        (stopped / file).unlink()
    shutil.rmtree(stopped / "checkpoint-2")
    assert main([*words, "--output_dir", str(stopped)]) == 2
    assert main([*words, "--output_dir", str(stopped), "--resume_from_checkpoint", "latest"]) == 0
    weights = [load_file(folder / "model.safetensors") for folder in (whole, stopped)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    rewriter = ChatRewriter(whole, "another instruction", "keep", ReplyCache(None))
    assert (
        rewriter.instruction
        == json.loads((whole / "rewriter.json").read_text())["instruction"]
        == "Say more."
    )
    assert len(rewriter.rewrite(["a circle"])) == 1


def test_pairs_are_read_from_files_and_from_the_world(tmp_path: Path) -> None:
    assert all(long == elaborate(short) for short, long in read_pairs("world:5:1"))
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "a", "rewritten_prompt": "a b"}\n')
    assert read_pairs(str(file)) == [("a", "a b")]
    file.write_text('{"prompt": "a"}\n')
    with pytest.raises(InputError, match="rewritten_prompt"):
        read_pairs(str(file))
    with pytest.raises(InputError, match="world:N"):
        read_pairs("world:x")


@pytest.mark.parametrize(("more", "said"), [("--lora_r 4", "is scratch"), ("--max_steps 0", "at least 1")])
def test_mistakes_leave_no_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, said: str
) -> None:
    assert main([*WORDS, "--output_dir", str(tmp_path / "out"), *more.split()]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_lora_adapters_are_a_rewriter_too(tmp_path: Path) -> None:
    model = write_chat_model(tmp_path / "chat")
    out = tmp_path / "out"
    assert main([*WORDS, "--model", str(model), "--lora_r", "2", "--output_dir", str(out)]) == 0
    assert (out / "adapter_config.json").is_file()
    assert len(ChatRewriter(out, "", "keep", ReplyCache(None)).rewrite(["a circle", "two stars"])) == 2
