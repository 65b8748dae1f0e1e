"""Question graphs: a prompt as yes/no questions, of which some make sense only if others are answered yes.

The rules are those of the Davidsonian Scene Graph (Cho et al., 2024, arXiv 2310.18235): each question asks for one
claim, a question counts as failed when one of its parents failed, and the score is the mean over all questions.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generator.output import InputError, read_jsonl, read_text

YES = 0.5
"""An answer of at least this probability is a yes."""


@dataclass(frozen=True)
class Question:
    """One claim of a prompt.

    Attributes:
        name: what it is called in reports; unique in its graph.
        text: the question, to be answered yes or no.
        category: what the claim is about, for example `object` or `motion`; may be empty.
        parents: names of the questions without whose yes it makes no sense.
    """

    name: str
    text: str
    category: str = ""
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class QuestionGraph:
    """The questions of one prompt.

    Attributes:
        questions: in the order in which reports show them.
        order: their names, every parent before its children.

    Raises:
        InputError: a name stands twice, a parent is unknown, or questions are their own ancestors.
    """

    questions: tuple[Question, ...]
    order: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = [question.name for question in self.questions]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise InputError(f"The question {min(twice)!r} stands twice: give each question its own name.")
        for question in self.questions:
            for parent in question.parents:
                if parent not in names:
                    raise InputError(
                        f"The question {question.name!r} has the unknown parent {parent!r}: name one of "
                        f"{', '.join(names)}."
                    )
        object.__setattr__(self, "order", self._sorted())

    def _sorted(self) -> tuple[str, ...]:
        waiting = {question.name: set(question.parents) for question in self.questions}
        order: list[str] = []
        while waiting:
            ready = [name for name, parents in waiting.items() if parents <= set(order)]
            if not ready:
                raise InputError(
                    f"The questions {', '.join(sorted(waiting))} wait for each other: parents must not form a circle."
                )
            order += ready
            waiting = {name: parents for name, parents in waiting.items() if name not in ready}
        return tuple(order)

    def __getitem__(self, name: str) -> Question:
        return next(question for question in self.questions if question.name == name)

    @property
    def categories(self) -> set[str]:
        """Categories of the questions."""
        return {question.category for question in self.questions if question.category}


def apply_dependencies(graph: QuestionGraph, answers: Mapping[str, float | bool]) -> dict[str, float]:
    """Answers under the rule that a question fails with its parents.

    Args:
        answers: `{question: probability of yes in [0, 1], or True or False}`, of every question of the graph.

    Returns:
        `{question: probability}`, 0 where an ancestor's answer is below ½.

    Raises:
        InputError: an answer is missing or outside [0, 1].
    """
    kept: dict[str, float] = {}
    for name in graph.order:
        if name not in answers:
            raise InputError(f"The question {name!r} was not answered: answer every question of the prompt.")
        answer = float(answers[name])
        if not 0 <= answer <= 1:
            raise InputError(
                f"The answer {answer} to {name!r} is not a probability: give a number in [0, 1]."
            )
        kept[name] = answer if all(kept[parent] >= YES for parent in graph[name].parents) else 0.0
    return {question.name: kept[question.name] for question in graph.questions}


def graph_score(kept: Mapping[str, float]) -> float:
    """Mean over the questions of answers from `apply_dependencies`."""
    return sum(kept.values()) / len(kept)


def single_question(prompt: str) -> QuestionGraph:
    """The one question of VQAScore (Lin et al., 2024, arXiv 2404.01291) for a prompt without a graph."""
    return QuestionGraph((Question("shows the prompt", f'Does this video show "{prompt}"?'),))


def read_question_graphs(path: str | Path) -> dict[str, QuestionGraph]:
    """Question graphs by prompt.

    Args:
        path: JSONL with `{"prompt": …, "questions": [{"name", "text", "category", "parents"}]}` a line (`category`
            and `parents` may be left out), or a CSV file in DSG's layout (`text`, `proposition_id`, `dependency`,
            `category_broad`, `question_natural_language`; dependency 0 is none).

    Raises:
        InputError: the file is missing or not of one of these layouts; file and line are named.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"The question file {path} does not exist: name a .jsonl file or a .csv file of DSG."
        )
    graphs = _read_dsg(path) if path.suffix.lower() == ".csv" else _read_jsonl(path)
    if not graphs:
        raise InputError(f"The question file {path} holds no question: write at least one line.")
    return graphs


def _read_jsonl(path: Path) -> dict[str, QuestionGraph]:
    graphs: dict[str, QuestionGraph] = {}
    for place, row in read_jsonl(path):
        try:
            questions = [_question(item) for item in row["questions"]]
            prompt = row["prompt"]
            if not isinstance(prompt, str):
                raise TypeError("`prompt` is no text")
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f'{place}: expected {{"prompt": …, "questions": [{{"name", "text"}}, …]}} ({error!r}).'
            ) from error
        graphs[prompt] = _graph(questions, place)
    return graphs


def _question(item: Mapping[str, Any]) -> Question:
    return Question(
        str(item.get("name", item["text"])),
        str(item["text"]),
        str(item.get("category", "")),
        tuple(str(parent) for parent in item.get("parents", ())),
    )


def _graph(questions: Sequence[Question], place: str) -> QuestionGraph:
    if not questions:
        raise InputError(f"{place}: the prompt has no question: write at least one.")
    try:
        return QuestionGraph(tuple(questions))
    except InputError as error:
        raise InputError(f"{place}: {error}") from error


_DSG_COLUMNS = ("text", "proposition_id", "dependency", "category_broad", "question_natural_language")


def _read_dsg(path: Path) -> dict[str, QuestionGraph]:
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path, newline=""), newline=""), restval=""))
    except csv.Error as error:
        raise InputError(f"{path} is not a readable .csv file ({error}): export it again.") from error
    missing = [name for name in _DSG_COLUMNS if rows and name not in rows[0]]
    if missing:
        raise InputError(
            f"{path} has no column {missing[0]!r}: DSG's files have the columns {', '.join(_DSG_COLUMNS)}."
        )
    by_prompt: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        by_prompt.setdefault(row["text"], {})[row["proposition_id"].strip()] = row
    graphs = {}
    for prompt, propositions in by_prompt.items():
        names = {
            key: f"{key}. {row['question_natural_language'].strip()}" for key, row in propositions.items()
        }
        questions = []
        for key, row in propositions.items():
            parents = [part.strip() for part in row["dependency"].split(",")]
            chosen = tuple(names.get(parent, parent) for parent in parents if parent not in ("", "0", "-"))
            text = row["question_natural_language"].strip()
            questions.append(Question(names[key], text, row["category_broad"].strip(), chosen))
        graphs[prompt] = _graph(questions, f"{path}, prompt {prompt!r}")
    return graphs
