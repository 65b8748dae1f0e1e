"""`--help` and refusals come from the sources alone, and say what the real dataclasses say."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alignment import cli
from alignment.cli import command_line
from alignment.cli.command_source import read_command
from alignment.cli.early_checks import check_early
from alignment.cli.launcher import LaunchArguments
from alignment.cli.parser import CommandParser
from alignment.demo.report import OWN_MODEL

ROOT = Path(__file__).resolve().parents[3]


def calls(module: Any) -> dict[str, tuple[type, ...]]:
    """The arguments of a command and of its verbs."""
    found = {verb: each.arguments for verb, each in getattr(module, "VERBS", {}).items()}
    return {"": module.ARGUMENTS, **found} if hasattr(module, "run") else found


def flags(parser: CommandParser) -> list[tuple[Any, ...]]:
    return [
        (
            each.option_strings,
            each.dest,
            getattr(each.default, "value", each.default),
            each.nargs,
            each.const,
            each.required,
            getattr(each.type, "__name__", None),
            None if each.choices is None else [getattr(choice, "value", choice) for choice in each.choices],
            str(parser.hints[each.dest]).replace("typing.", "").replace("None | ", ""),
        )
        for each in parser._actions
        if each.dest != "parallelism_config"  # a dataclass of accelerate, which no flag can give
    ]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_sources_say_what_the_command_takes(name: str) -> None:
    described, real = read_command(name), command_line.load_command(name)
    assert described is not None, (
        "its arguments need more than its source: --help falls back to importing torch"
    )
    assert (described.HELP, described.EXAMPLE) == (real.HELP, real.EXAMPLE)
    assert hasattr(described, "run") == hasattr(real, "run")
    expected = calls(real)
    assert list(calls(described)) == list(expected)
    for verb, types in calls(described).items():
        light, heavy = CommandParser(types, prog="x"), CommandParser(expected[verb], prog="x")
        assert light.format_help() == heavy.format_help()
        assert flags(light) == flags(heavy)


PROGRAM = """
import resource, sys
from alignment.cli import main
before = 0.0
for number, words in enumerate(sys.argv[2:]):
    code = main(words.split())
    assert code == (0 if number < int(sys.argv[1]) else 2), (words, code)
    for name in ("torch", "transformers", "diffusers", "peft"):
        assert name not in sys.modules, (words, name)
    seconds = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    assert seconds - before < 3, (words, seconds - before)
    before = seconds
"""


def test_help_and_refusals_import_no_torch() -> None:
    """Of all commands in one process, which is told apart by the assertion that fails."""
    explained = [*(f"{name} --help" for name in cli.COMMANDS), "reward evaluate --help", "label serve --help"]
    refused = ["sft --datset x", "ppo --model nano --seed -1", "generate --width many"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(len(explained)), *explained, *refused],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_help_explains_every_argument_but_the_rare_ones_of_transformers() -> None:
    described = read_command("sft")
    assert described is not None
    text = CommandParser(described.ARGUMENTS, prog="vidalign sft").format_help()
    before, advanced = text.split("\nAdvanced:\n")
    headings = [line for line in before.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings.index("Training:") > headings.index("Demonstrations that `sft` learns from:")
    for name in (
        "output_dir",
        "learning_rate",
        "max_steps",
        "seed",
        "bf16",
        "save_steps",
        "resume_from_checkpoint",
    ):
        assert f"  --{name}" in before.split("\nTraining:\n")[1]
    explained = before.replace("\n      ", " ").splitlines()
    assert all(len(line.split()) > 4 for line in explained if line.startswith("  --")), "each is explained"
    assert "adam_beta1" in advanced


def shown_commands() -> list[str]:
    """The command lines of README, docs, `--help` and the demo's report, without those that are cut short."""
    pages = [(ROOT / "README.md").read_text(encoding="utf-8"), OWN_MODEL]
    pages += [page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("*.md")]
    lines = [line for page in pages for line in re.sub(r"\\\n\s*", "", page).splitlines()]
    for name in cli.COMMANDS:
        module: Any = read_command(name)
        lines += [module.EXAMPLE, *(each.example for each in getattr(module, "VERBS", {}).values())]
    shown = {line for line in lines if line.startswith("vidalign ") and "…" not in line}
    return sorted(line for line in shown if line.split()[1].replace("-", "_") in cli.COMMANDS)


@pytest.mark.parametrize("line", shown_commands())
def test_every_command_line_that_is_shown_is_one(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignment.cli.parser.read_config", lambda path: {})
    monkeypatch.setattr("alignment.cli.parser.find_config", Path)
    _, name, *words = shlex.split(line, comments=True)
    name = name.replace("-", "_")
    module: Any = read_command(name)
    verb = getattr(module, "VERBS", {}).get(words[0] if words else "")
    types = module.ARGUMENTS if verb is None else verb.arguments
    words = words if verb is None else words[1:]
    if verb is not None and verb.positional and words and not words[0].startswith("-"):
        words = [f"--{verb.positional}", *words]
    whole = name if verb is None else f"{name} {shlex.split(line)[2]}"
    launch = (LaunchArguments,) if whole in cli.LAUNCHED else ()
    namespace = CommandParser((*types, *launch), prog="x").check(words)
    check_early(types, namespace, ["__post_init__"])
