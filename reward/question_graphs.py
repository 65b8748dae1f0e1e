"""Question graphs by the name of their source, for verifiers and judges."""

from __future__ import annotations

from collections.abc import Callable

from reward.questions import QuestionGraph, read_question_graphs

Graphs = Callable[[str], "QuestionGraph | None"]
"""The questions of a prompt; None where it has none."""


def no_graph(prompt: str) -> QuestionGraph | None:
    return None


def load_graphs(source: str | None) -> Graphs:
    """The questions of prompts.

    Args:
        source: a file for `read_question_graphs`; `world` for the questions of the world's own prompts; None or
            empty for none.

    Raises:
        InputError: there is no such file, or it is wrong.
    """
    if not source:
        return no_graph
    if source == "world":
        from reward.world_questions import world_graph

        return world_graph
    return read_question_graphs(source).get
