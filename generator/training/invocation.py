"""The command as the user typed it, and the one that goes on after an interruption."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from generator.passwords import without_passwords

COMMAND_LINE = "VIDALIGN_COMMAND_LINE"
"""Environment variable in which a launching process tells its workers what the user typed."""
FLAGS_OF_A_NEW_START = ("overwrite", "discard_checkpoints", "resume_from_checkpoint")
_typed: list[str] = []


def begin(arguments: Sequence[str]) -> None:
    """Remembers the words after `vidalign`."""
    told = os.environ.get(COMMAND_LINE)
    _typed[:] = shlex.split(told) if told else arguments


def typed() -> list[str]:
    """The words after `vidalign` as the user typed them; empty where no command line was used."""
    return list(_typed)


def same_command() -> str:
    """The command that the user typed, quoted for a shell, without passwords."""
    return without_passwords(shlex.join(["vidalign", *_typed]))


def command_that_goes_on(resume: bool) -> str:
    """The user's command, without what would start anew and without passwords.

    Args:
        resume: whether it is a training, which goes on with `--resume_from_checkpoint latest`.
    """
    words = ["vidalign", *without_flags(_typed, FLAGS_OF_A_NEW_START if resume else FLAGS_OF_A_NEW_START[:1])]
    resumption = ["--resume_from_checkpoint", "latest"] if resume else []
    return without_passwords(shlex.join([*words, *resumption]))


def without_flags(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """The words without these flags and their values."""
    kept: list[str] = []
    skipping = False
    for word in words:
        if word.startswith("--"):
            name = word.removeprefix("--").partition("=")[0].replace("-", "_")
            skipping = name in names or name.removeprefix("no_") in names
            if skipping:
                continue
        elif skipping:
            continue
        kept.append(word)
    return kept
