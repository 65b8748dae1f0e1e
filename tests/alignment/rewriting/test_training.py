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
from generator.testing import tiny_generator
from generator.world.elaborate import elaborate, is_faithful
from reward.models.named.chat_cache import ReplyCache
from tests.alignment.rewriting.tiny_chat_model import write_chat_model

BRIGHT = "tests.alignment.trainers.engine_run:brightness"
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
    pairs = read_pairs("world:100:1")
    assert all(is_faithful(short, long) for short, long in pairs)
    assert 60 < sum(long == elaborate(short) for short, long in pairs) < 85
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


def _grpo(model: Path, generator: Path, output_dir: Path, *more: str) -> list[str]:
    words = (
        f"rewriter --method grpo --model {model} --prompts world:vague:6 --generator {generator} "
        f"--num_frames 5 --height 16 --width 16 --num_inference_steps 2 --reward {BRIGHT} --num_generations 2 "
        "--per_device_train_batch_size 4 "
        f"--max_completion_length 8 --learning_rate 1e-2 --max_steps 2 --report_to none --output_dir {output_dir}"
    )
    return [*words.split(), *more]


def test_a_rewriter_learns_by_grpo_and_a_stopped_run_goes_on_to_the_same_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_chat_model(tmp_path / "chat")
    (model / "rewriter.json").write_text(json.dumps({"instruction": "Say more."}))
    tiny_generator().pipeline.save_pretrained(tmp_path / "tiny")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main(_grpo(model, tmp_path / "tiny", whole, "--save_steps", "1")) == 0
    assert "2 of 2 prompts with 2 texts each" in capsys.readouterr().out
    before, after = load_file(model / "model.safetensors"), load_file(whole / "model.safetensors")
    assert any(not torch.equal(before[name].half(), after[name]) for name in after)
    record = json.loads((whole / "rewriter.json").read_text())
    assert (record["trainer"], record["instruction"]) == ("GRPOTrainer", "Say more.")
    log = json.loads((whole / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    assert {"reward", "rewriting/kept", "rewriting/reward"} <= log[0].keys()
    shutil.copytree(whole, stopped)
    for file in ("model.safetensors", "rewriter.json"):
        (stopped / file).unlink()
    shutil.rmtree(stopped / "checkpoint-2")
    words = _grpo(model, tmp_path / "tiny", stopped, "--resume_from_checkpoint", "latest")
    assert main(words) == 0
    again = load_file(stopped / "model.safetensors")
    assert all(torch.equal(after[name], again[name]) for name in after)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--method grpo --model MODEL", "No prompts were given"),
        ("--method grpo --model MODEL --prompts world:vague:4", "No reward was given"),
        ("--method grpo --prompts world:vague:4 --reward world", "is scratch"),
        ("--method sft", "No pairs were given"),
        ("--method grpo --model MODEL --prompts world:vague:4 --reward world", "a step takes 8"),
        (
            "--method grpo --model MODEL --prompts world:vague:9 --reward world --num_generations 5",
            "whole groups",
        ),
        ("--method grpo --model MODEL --prompts world:vague:9 --reward world --temperature 0", "above 0"),
    ],
)
def test_what_grpo_lacks_is_said_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    model = str(write_chat_model(tmp_path / "chat"))
    asked = ["rewriter", *words.replace("MODEL", model).split(), "--output_dir", str(tmp_path / "out")]
    assert main(asked) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_adapter_is_trained_further_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_chat_model(tmp_path / "chat")
    first, second = tmp_path / "first", tmp_path / "second"
    assert main([*WORDS, "--model", str(model), "--lora_r", "2", "--output_dir", str(first)]) == 0
    assert main([*WORDS, "--model", str(first), "--output_dir", str(second)]) == 0
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (first, second))
    assert any(not torch.equal(one[name], two[name]) for name in one)
    assert main([*WORDS, "--model", str(first), "--lora_r", "2", "--output_dir", str(tmp_path / "x")]) == 2
    assert "is an adapter" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
