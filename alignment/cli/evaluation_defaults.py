"""Prompts, verifier and questions of `vidalign evaluate` where none are named."""

from __future__ import annotations

from collections.abc import Sequence

from alignment.cli.next_command import are_of_the_world
from generator.files.built_in import is_built_in


def default_prompts(model: str) -> str:
    """Prompts that a model is evaluated with where none are given."""
    return "world:test:128" if is_built_in(model) else "suite:general"


def default_verifier(prompts: Sequence[str]) -> str:
    """The verifier of the built-in world where it understands all prompts, else a reward of text alignment."""
    return "world" if are_of_the_world(prompts) else "videoalign:TA"


def default_questions(prompts: str, verifier: str) -> str | None:
    """The questions that ship with the suite of general prompts, where the verifier can ask them."""
    from reward.adherence.suites import is_general

    asks = verifier.partition(":")[0] in ("vlm", "judge") or ("." in verifier and ":" in verifier)
    return "general" if is_general(prompts) and asks else None
