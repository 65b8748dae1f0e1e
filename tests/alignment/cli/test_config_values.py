"""YAML files and numbers of all commands: texts stay as written, empty values are defaults, and numbers have bounds."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alignment import cli
from alignment.cli.command_source import read_command
from alignment.cli.launcher import LaunchArguments, launch_command
from alignment.cli.parser import CommandParser
from generator.output import InputError

TEXTS = ["2025_01_31", "12:30", "010", "on", "no", "1e-4", "0x10", "2025-01-31", "1_000.5", "None", "=", "5"]


def commands() -> Iterator[tuple[str, tuple[type, ...]]]:
    """Every command and verb with its arguments."""
    for name in cli.COMMANDS:
        module: Any = read_command(name)
        found = {name: module.ARGUMENTS} if hasattr(module, "run") else {}
        found |= {f"{name} {verb}": each.arguments for verb, each in getattr(module, "VERBS", {}).items()}
        for whole, types in found.items():
            yield whole, (*types, *((LaunchArguments,) if whole in cli.LAUNCHED else ()))


COMMANDS = dict(commands())


def parser_of(command: str) -> CommandParser:
    return CommandParser(COMMANDS[command], prog=f"vidalign {command}")


def required(parser: CommandParser) -> list[str]:
    """Flags for everything that must be given."""
    given = {int: "1", float: "1"}
    return [f"--{each.dest}={given.get(each.type, 'x')}" for each in parser._actions if each.required]


def named(parser: CommandParser) -> Iterator[argparse.Action]:
    return (each for each in parser._actions if each.nargs != 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_text_from_yaml_is_as_written_and_an_empty_value_is_the_default(
    command: str, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    parser = parser_of(command)
    flags = required(parser)
    texts = [each.dest for each in named(parser) if each.type is str and each.choices is None]
    for text in TEXTS:
        file.write_text("".join(f"{name}: {text}\n" for name in texts), encoding="utf-8")
        found = vars(parser_of(command).check(["--config", str(file), *flags]))
        for name in texts:
            if f"--{name}=x" not in flags:
                assert found[name] in (text, [text]), name
    defaults = vars(parser.check(flags))
    for empty in ("", "~"):
        names = {each.dest for each in named(parser) if not each.required}
        file.write_text("".join(f"{name}: {empty}\n" for name in names), encoding="utf-8")
        found = vars(parser_of(command).check(["--config", str(file), *flags]))
        kept = {name: value for name, value in found.items() if value is not None}
        assert kept == {name: value for name, value in defaults.items() if name in kept}
        if not empty:
            assert found == defaults


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_inference_steps: 12:30", "expected int"),
        ("output_dir: {a: b}", "`output_dir` in .* is a mapping, expected one value"),
        ("output_dir: [a, b]", "`output_dir` in .* is a list, expected one value"),
        ("seed: [1]", "`seed` in .* is a list"),
        ("adapter: [a, ~]", "empty item"),
        ("seed: 1\nseed: 2", "`seed` twice"),
        ("env: [a]", "`env` in .* must map"),
        ("seed: 4294967296", "seed is 4294967296, but must be between 0 and 4294967295"),
    ],
)
def test_a_value_of_another_shape_is_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        parser_of("ppo").check(["--config", str(file)])


def test_dictionaries_numbers_and_environment_variables_come_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SOME_SWITCH", "SOME_DATE", "SOME_NOTHING"):
        monkeypatch.setenv(name, "before")
    file = tmp_path / "config.yaml"
    file.write_text(
        "lr_scheduler_kwargs: {min_lr: 1e-5}\nlearning_rate: 1e-4\nmax_grad_norm: .inf\nbf16: on\n"
        "report_to: [tensorboard, wandb]\nsave_total_limit: null\n"
        "env: {SOME_SWITCH: on, SOME_DATE: 2025_01_31, SOME_NOTHING: }\n"
    )
    found = parser_of("sft").check(["--config", str(file)])
    assert found.lr_scheduler_kwargs == {"min_lr": 1e-5}
    assert (found.learning_rate, found.max_grad_norm, found.bf16) == (1e-4, float("inf"), True)
    assert (found.report_to, found.save_total_limit) == (["tensorboard", "wandb"], None)
    assert [os.environ[name] for name in ("SOME_SWITCH", "SOME_DATE", "SOME_NOTHING")] == [
        "on",
        "2025_01_31",
        "",
    ]


SEEDED = [
    (command, each.dest) for command in COMMANDS for each in named(parser_of(command)) if "seed" in each.dest
]


@pytest.mark.parametrize(("command", "name"), SEEDED)
@pytest.mark.parametrize("value", [-1, 2**32, 99999999999999999999])
def test_a_seed_that_no_generator_takes_is_refused_by_every_command(
    command: str, name: str, value: int, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = required(parser_of(command))
    assert cli.main([*command.split(), *flags, f"--{name}={value}"]) == 2
    shown = capsys.readouterr().err
    assert shown == f"vidalign: error: {name} is {value}, but must be between 0 and 4294967295.\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_no_whole_number_is_too_large_for_one_sentence(command: str) -> None:
    parser = parser_of(command)
    flags = required(parser)
    numbers = [each.dest for each in named(parser) if getattr(each.type, "__name__", "") == "int"]
    for name in numbers:
        for value in (10**20, -(10**20), 99999999999999):
            with pytest.raises(InputError, match=f"{name} is {value}, but must be between"):
                parser_of(command).check([*flags, f"--{name}={value}"])
        if name.endswith("port"):
            with pytest.raises(InputError, match="between 0 and 65535"):
                parser_of(command).check([*flags, f"--{name}=70000"])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"num_processes": 10**9},
            "num_processes is 1000000000, but must be at most 2, as a machine has 2 GPUs",
        ),
        ({"num_machines": 0}, "num_machines is 0, but must be at least 1"),
        ({"machine_rank": 1}, "machine_rank is 1, but must be between 0 and 0"),
        ({"machine_rank": -1, "num_machines": 2}, "machine_rank is -1, but must be between 0 and 1"),
    ],
)
def test_processes_and_machines_that_cannot_be_are_refused(changed: dict[str, int], message: str) -> None:
    arguments = argparse.Namespace(
        **vars(LaunchArguments(accelerate_config="zero2", main_process_ip="10.0.0.1"))
    )
    vars(arguments).update(changed)
    with pytest.raises(InputError, match=message):
        launch_command(arguments, ["ppo"], num_gpus=2)
