"""The `vidalign` command line: `main` runs a command, `Verb` describes a verb of a nested command."""

from alignment.cli.command_line import COMMANDS, LAUNCHED, Verb, explanation, main

__all__ = ["COMMANDS", "LAUNCHED", "Verb", "explanation", "main"]
