"""Question graphs by the name of their source, for verifiers and judges."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from reward.questions import QuestionGraph, read_question_graphs

GENERAL_PROMPTS = Path(__file__).parent / "adherence" / "prompts" / "general.jsonl"
"""Prompts on anything, with a category and questions each."""

Graphs = Callable[[str], "QuestionGraph | None"]
"""The questions of a prompt; None where it has none."""


def no_graph(prompt: str) -> QuestionGraph | None:
    return None


def load_graphs(source: str | None) -> Graphs:
    """The questions of prompts.

    Args:
        source: a file for `read_question_graphs`; `world` for the questions of the world's own prompts; `general` for
            those of the suite of general prompts; None or empty for none.

    Raises:
        InputError: there is no such file, or it is wrong.
    """
    if not source:
        return no_graph
    if source == "world":
        from reward.world_questions import world_graph

        return world_graph
    if source == "general":
        return read_question_graphs(GENERAL_PROMPTS).get
    return read_question_graphs(source).get
