"""Values and inputs that are refused need no torch, and are refused in the words of the arguments themselves."""

from __future__ import annotations

import subprocess
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alignment.cli.command_line import load_command
from alignment.cli.command_source import is_light, read_command
from alignment.cli.early_checks import check_early
from alignment.cli.parser import CommandParser
from generator.output import InputError

REFUSED = {
    "sft --dataset data --lora_r 0": "lora_r is 0, but must be at least 1.",
    "sft": "No demonstrations were given: pass --dataset FOLDER.",
    "sft --dataset gone": "The data set gone does not exist",
    "sft --dataset data --token_dropping 0.5": "token_dropping is 0.5, which needs packed rows",
    "dpo --preferences data --beta -1": "beta is -1.0, but must be above 0.",
    "dpo --preferences gone.jsonl": "The rankings file gone.jsonl does not exist",
    "dpo --preferences db:sqlite:///a.db#b": "A database was given where a file of rankings is read",
    "ppo --prompts gone.txt --reward world": "The prompt file gone.txt does not exist",
    "ppo --prompts world:train:8": "No reward model was given: pass --reward FOLDER.",
    "ppo --prompts world:train:8 --reward world --num_generations 1": "num_generations is 1, but must be at least 2.",
    "ppo --prompts world:train:8 --reward world --sde_window_size 99": "sde_window_size is 99, but must be between",
    "nft --prompts world:train:8 --reward world --num_prompts 0": "num_prompts is 0, but must be at least 1.",
    "reward --preferences gone.jsonl": "The rankings file gone.jsonl does not exist",
    "reward --preferences data --loss_type best": "The loss 'best' is unknown: use one of plackett_luce",
    "reward --preferences data --model_type tree": "The model type 'tree' is unknown: use latent or vlm.",
    "reward evaluate --reward world --preferences gone.jsonl": "The rankings file gone.jsonl does not exist",
    "reward evaluate --reward world --preferences data --batch_size 0": "--batch_size is 0",
    "generate --model nano --prompts gone.txt": "The prompt file gone.txt does not exist",
    "generate --model nano --prompts world:test:2 --num_inference_steps 0": "--num_inference_steps is 0",
    "generate --model nano --prompts world:test:2 --best_of 2": "--best_of and --reward_guidance need a judge",
    "evaluate --batch_size 0": "--batch_size is 0, but it must be at least 1.",
    "generate --model gone --prompts world:test:2": "The model 'gone' is unknown: name a built-in model",
    "generate --model of/gone --prompts world:test:2": "The model 'of/gone' is not on this machine",
    "generate --model nano --prompts world:test:2 --adapter gone": "No adapter was found at gone",
    "ppo --prompts world:train:8 --reward world --model gone": "The model 'gone' is unknown: name a built-in model",
    "ppo --prompts world:train:8 --reward world --adapter gone": "No adapter was found at gone",
    "evaluate --model gone": "The model 'gone' is unknown: name a built-in model",
    "evaluate --adapter gone": "The adapter gone is not there",
    "evaluate --verifier gone": "There is no verifier 'gone': name `world`",
}

IN_USE = (
    "generate --model nano --prompts world:test:2",
    "evaluate",
    "ppo --prompts world:train:8 --reward world",
    "rwr --prompts world:train:8 --reward world",
)

PROGRAM = """
import sys
from alignment.cli import main
for line in sys.argv[1:]:
    assert main([*line.split(), "--output_dir", "out"]) == 2, line
    loaded = {"torch", "transformers", "diffusers", "peft"} & set(sys.modules)
    assert not loaded, (line, loaded)
"""


def test_what_is_refused_by_value_imports_no_torch_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *REFUSED], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    for told, expected in zip(done.stderr.splitlines(), REFUSED.values(), strict=True):
        assert told.startswith(f"vidalign: error: {expected}")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused_without_torch(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "diary.txt").write_text("dear diary")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *IN_USE], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    for told, line in zip(done.stderr.splitlines(), IN_USE, strict=True):
        assert told.startswith(
            "vidalign: error: The output folder out exists and is not empty (--overwrite would"
        )
        assert f"it holds diary.txt and was not made by vidalign {line.split()[0]}" in told
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["diary.txt"]


def test_what_is_left_to_the_command_is_said_to_who_asks(caplog: pytest.LogCaptureFixture) -> None:
    @dataclass
    class Arguments:
        def check_inputs(self) -> None:
            raise KeyError("half")

    with caplog.at_level("INFO", logger="alignment.cli.early_checks"):
        check_early([Arguments], Namespace())
    assert caplog.messages == ["Arguments.check_inputs is left to the command itself (KeyError: 'half')."]


def early(name: str, words: list[str]) -> str | None:
    """The sentence of the refusal of values before anything is imported; None where there is none."""
    described: Any = read_command(name)
    namespace = CommandParser(described.ARGUMENTS, prog="x").check(words)
    try:
        check_early(described.ARGUMENTS, namespace, ["__post_init__"])
    except InputError as error:
        return str(error)
    return None


def late(name: str, words: list[str]) -> str | None:
    """The same of the command itself."""
    try:
        CommandParser(load_command(name).ARGUMENTS, prog="x").build(words)
    except InputError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "line",
    [
        "sft --lora_r 0",
        "sft --lora_dropout 1",
        "sft --per_device_train_batch_size 0",
        "sft --caption_dropout 2",
        "sft --uniform_share -1",
        "dpo --label_smoothing 0.1 --loss_type ipo",
        "ppo --num_mini_batches 5",
        "ppo --sde_first_step 30",
        "ppo --adaptive_kl_target 0.1 --beta 0",
        "ppo --max_steps 3",
        "reward --preferences x --ensemble 2 --full_trunk true",
        "reward --preferences x --dimensions visual taste",
        "generate --model nano --prompts x --height 0",
        "generate --model nano --prompts x --pixel_format yuv420p --height 15",
    ],
)
def test_a_refusal_has_the_words_of_the_command_itself(line: str) -> None:
    name, *words = [*line.split(), "--output_dir", "out"]
    assert early(name, words) is not None
    assert early(name, words) == late(name, words)


@pytest.mark.parametrize(
    "line",
    [
        "sft --report_to none",
        "sft --report_to tensorboard",
        "sft --lr_scheduler_type cosine --warmup_steps 0.1 --bf16 false",
        "dpo --save_strategy no --eval_strategy epoch --logging_steps 0.5",
        "ppo --gradient_accumulation_steps 1 --num_prompts 6 --num_mini_batches 3",
        "ppo --advantage critic --sde_window_size 2 --sde_first_step 1",
        "backprop --num_inference_steps 4",
        "online_dpo --num_generations 4",
        "rwr --target_kl 0.1",
        "reward --preferences x --dimensions visual motion --sigmas 0.1 0.3 --report_to none",
        "evaluate --adapter runs/sft --reference base",
    ],
)
def test_what_the_command_takes_is_not_refused_early(line: str) -> None:
    name, *words = [*line.split(), "--output_dir", "out"]
    assert late(name, words) is None
    assert early(name, words) is None


def test_a_module_is_light_if_all_that_it_imports_is() -> None:
    assert is_light("generator.output")
    assert is_light("reward.preferences")
    assert not is_light("generator.video"), "it imports av and torch"
    assert not is_light("alignment.lora")
    assert not is_light("yaml")
