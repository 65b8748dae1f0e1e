"""`judge`: a vision-language model behind an OpenAI-compatible server, asked about each video.

It answers yes or no, and the score is the probability of yes (VQAScore, arXiv 2404.01291) where the server gives
probabilities, or it writes a number. The questions are one of the user's, a list of them, or the question graph of the
prompt (DSG). With `pairs` the videos of a prompt are compared with each other, in both orders, and the score is the
share of the others that a video beats (Pref-GRPO, arXiv 2508.20751).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import torch
from torch import Tensor

from generator.one_or_several import as_list
from generator.output import InputError
from generator.video_files.timing import frame_indices
from reward.models.base import RewardModel, Scores
from reward.models.named.answers import (
    Reply,
    digit_token,
    expected_digit,
    last_number,
    said_yes,
    win_rates,
    word_of,
    yes_share,
)
from reward.models.named.chat_server import Ask, ChatServer, NoProbabilitiesError, Part, pictures
from reward.question_graphs import Graphs
from reward.questions import QuestionGraph, apply_dependencies, graph_score, single_question

logger = logging.getLogger(__name__)

PROMPT = "{prompt}"
"""Stands for the prompt in a question."""
RATING = 'How well does this video show "{prompt}"? Rate it from {low} (not at all) to {high} (completely).'
COMPARISON = 'Which of the two videos shows "{prompt}" better, is of better quality and moves more naturally?'
YES_OR_NO = "Answer yes or no."
GIVEN_IMAGE = "The video was to begin with this image:"
THE_VIDEO = "The video:"
A_NUMBER = "Answer with the number alone."
FIRST_OR_SECOND = "Answer 1 for the first video or 2 for the second."

Shown = tuple[Part, ...]
"""Parts of a message that show a video or an image."""

CLEAR = 0.1
"""Probability of yes and no together, at least, for which their share is believed."""
WORDS = 512
"""Tokens of a reply in words, at most."""


@dataclass(frozen=True)
class JudgeSettings:
    """Questions and frames of a judge.

    Attributes:
        question: its text, in which `{prompt}` stands for the prompt; empty for the judge's own.
        questions: several yes-or-no questions about every video, whose mean is the score.
        scale: lowest and highest number of an answer in numbers; None asks for yes or no.
        answer: `auto`, `probabilities` or `words`. Probabilities of a number give its expectation; `auto` takes a
            number from the words, and yes or no from probabilities where the server gives them.
        pairs: whether videos of a prompt are compared.
        frames: shown of each video, evenly from the first to the last.
        frame_pixels: largest area of a frame; larger ones are reduced.
        thinking: whether the model may think before it answers.
        max_tokens: of an answer in words.
    """

    question: str = ""
    questions: tuple[str, ...] = ()
    scale: tuple[float, float] | None = None
    answer: str = "auto"
    pairs: bool = False
    frames: int = 8
    frame_pixels: int = 448 * 448
    thinking: bool = False
    max_tokens: int = WORDS

    def __post_init__(self) -> None:
        if self.scale is not None and not self.scale[0] < self.scale[1]:
            raise InputError(
                f"The range {self.scale[0]:g}-{self.scale[1]:g} is empty: give the lower number first."
            )
        digits = self.scale is not None and all(each in range(10) for each in self.scale)
        if self.scale is not None and self.answer == "probabilities" and not digits:
            raise InputError(
                "Probabilities of a number are read at one digit: give a range within 0-9, or answer=words."
            )
        if self.scale is not None and (self.pairs or self.questions):
            raise InputError(
                "A range belongs to one question about one video: leave range, or pairs and questions, out."
            )
        if self.pairs and self.questions:
            raise InputError("Pairs are compared by one question: give question=, not questions=.")


class JudgeReward(RewardModel):
    """Scores videos by what a model behind a server answers.

    Args:
        server: the server.
        settings: what is asked, and what is shown.
        graphs: the question graph of a prompt; None where a prompt has none.
    """

    name = "judge"
    names_dimensions = True
    takes_images = True

    def __init__(
        self, server: ChatServer, settings: JudgeSettings | None = None, graphs: Graphs | None = None
    ) -> None:
        self.server, self.judge_settings, self.graphs = server, settings or JudgeSettings(), graphs
        self.compares_groups = self.judge_settings.pairs
        self._answer = self.judge_settings.answer

    def score(self, videos: Tensor, prompts: Sequence[str], images: Tensor | None = None) -> Scores:
        """Scores `[batch]` in [0, 1] of videos `[batch, 3, frames, height, width]` in [-1, 1].

        With pairs, rows with the same prompt (and image) are a group: all videos of a prompt have to be in one call.

        Args:
            images: `[batch, 3, height, width]` in [-1, 1], with which videos were to begin; each is one more picture
                before those of its video.

        Raises:
            InputError: the judge failed, or gave no answer that can be read; no score is made up.
        """
        prompts = as_list(prompts)
        if len(videos) != len(prompts):
            raise InputError(
                f"{len(videos)} videos and {len(prompts)} prompts were given: one prompt a video is needed."
            )
        shown: list[Shown] = [(self.pictures(video),) for video in videos]
        given = [()] * len(videos) if images is None else self._given(images)
        score = (
            self._win_rates
            if self.judge_settings.pairs
            else self._ratings
            if self.judge_settings.scale
            else self._answers
        )
        return {"overall": torch.tensor(score(shown, prompts, given), dtype=torch.float32)}

    def _given(self, images: Iterable[Tensor]) -> list[Shown]:
        """Parts of a message that show the image of each video."""
        return [(GIVEN_IMAGE, pictures(image[None], self.judge_settings.frame_pixels)) for image in images]

    def pictures(self, video: Tensor) -> Tensor:
        """The frames `[n, height, width, 3]`, uint8, of a video `[3, frames, height, width]` that the judge sees."""
        settings = self.judge_settings
        count = min(settings.frames, video.shape[1])
        chosen = video[:, frame_indices(video.shape[1], 1.0, count, None)].transpose(0, 1)
        return pictures(chosen, settings.frame_pixels)

    def probability_of_yes(
        self,
        videos: Sequence[Tensor],
        questions: Sequence[str],
        fps: float = 8.0,
        batch_size: int = 8,
        images: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Probability of yes `[batch]` of one question a video `[3, frames, height, width]`, all asked at once; images
        `[3, height, width]` as in `score`."""
        shown: dict[int, Tensor] = {}
        for video in videos:
            shown.setdefault(id(video), self.pictures(video))
        given = [()] * len(videos) if images is None else self._given(images)
        asks = [
            (_with_image(before, (shown[id(video)],)), question)
            for before, video, question in zip(given, videos, questions, strict=True)
        ]
        return torch.tensor(self._yes(asks), dtype=torch.float32)

    def graph_of(self, prompt: str) -> QuestionGraph | None:
        """The question graph of a prompt, where the judge has one."""
        return self.graphs(prompt) if self.graphs is not None else None

    def _answers(self, shown: Sequence[Shown], prompts: Sequence[str], given: Sequence[Shown]) -> list[float]:
        """Mean over the questions of each video."""
        shown = [_with_image(*pair) for pair in zip(given, shown, strict=True)]
        graphs = [self.graph_of(prompt) for prompt in prompts]
        texts = [
            [each.text for each in graph.questions] if graph else self._questions_of(prompt)
            for graph, prompt in zip(graphs, prompts)
        ]
        asked = [(frames, text) for frames, row in zip(shown, texts) for text in row]
        answers = iter(self._yes(asked))
        scores = []
        for graph, row in zip(graphs, texts):
            found = [next(answers) for _ in row]
            if graph:
                named = {question.name: answer for question, answer in zip(graph.questions, found)}
                scores.append(graph_score(apply_dependencies(graph, named)))
            else:
                scores.append(sum(found) / len(found))
        return scores

    def _questions_of(self, prompt: str) -> list[str]:
        settings = self.judge_settings
        if not settings.question and not settings.questions:
            return [single_question(prompt).questions[0].text]
        return [text.replace(PROMPT, prompt) for text in settings.questions or (settings.question,)]

    def _yes(self, asked: Sequence[tuple[Shown, str]]) -> list[float]:
        asks = [self._ask(frames, f"{text} {YES_OR_NO}") for frames, text in asked]
        return self._read(asks, _yes_probability, _yes_word, "yes or no")

    def _ratings(self, shown: Sequence[Shown], prompts: Sequence[str], given: Sequence[Shown]) -> list[float]:
        """Numbers of a range, brought to [0, 1]."""
        shown = [_with_image(*pair) for pair in zip(given, shown, strict=True)]
        assert self.judge_settings.scale is not None
        low, high = self.judge_settings.scale
        question = self.judge_settings.question or RATING.replace("{low}", f"{low:g}").replace(
            "{high}", f"{high:g}"
        )
        asks = [
            self._ask(frames, f"{question.replace(PROMPT, prompt)} {A_NUMBER}")
            for frames, prompt in zip(shown, prompts)
        ]

        def expected(reply: Reply) -> float | None:
            token = digit_token(reply)
            return None if token is None else expected_digit(token, int(low), int(high))

        def written(reply: Reply) -> float | None:
            return last_number(reply, low, high)

        if self.judge_settings.answer == "probabilities":
            asks = [replace(ask, max_tokens=self.judge_settings.max_tokens) for ask in asks]
            found = self._read(asks, expected, written, f"a number from {low:g} to {high:g}")
        else:
            found = self._read_words(asks, written, f"a number from {low:g} to {high:g}")
        return [(value - low) / (high - low) for value in found]

    def _win_rates(
        self, shown: Sequence[Shown], prompts: Sequence[str], given: Sequence[Shown]
    ) -> list[float]:
        """Share of the other videos of its prompt that each video beats."""
        groups = list(_groups(prompts, given))
        pairs = [pair for group in groups for pair in permutations(group, 2)]
        question = self.judge_settings.question or COMPARISON
        asks = []
        for first, second in pairs:
            text = f"{question.replace(PROMPT, prompts[first])} {FIRST_OR_SECOND}"
            parts = (*given[first], "First video:", *shown[first], "Second video:", *shown[second], text)
            asks.append(Ask(parts, 1, True, self.judge_settings.thinking))
        answers = self._read(asks, _first_probability, _first_number, "1 or 2")
        preferred = dict(zip(pairs, answers))
        scores = [0.0] * len(prompts)
        for group in groups:
            matrix = [[preferred.get((i, j), 0.5) for j in group] for i in group]
            for row, rate in zip(group, win_rates(matrix)):
                scores[row] = rate
        return scores

    def _ask(self, shown: Shown, text: str) -> Ask:
        return Ask((*shown, text), 1, True, self.judge_settings.thinking)

    def _read(
        self,
        asks: Sequence[Ask],
        probable: Callable[[Reply], float | None],
        written: Callable[[Reply], float | None],
        wanted: str,
    ) -> list[float]:
        """Answers from probabilities; in `auto` from words where the server gives none, or none that are clear."""
        if not asks:
            return []
        if self._answer == "auto":
            self._answer = "probabilities" if self._gives_probabilities(asks[0], probable) else "words"
        if self._answer == "words":
            return self._read_words(asks, written, wanted)
        replies = self.server.ask_all(asks)
        found = [probable(reply) for reply in replies]
        unclear = [number for number, value in enumerate(found) if value is None]
        if unclear and self.judge_settings.answer == "probabilities":
            raise InputError(
                f"The judge {self.server.model} gave no clear probability of {wanted} (it began with "
                f"{replies[unclear[0]].text[:40]!r}): turn its thinking off, or read its words with answer=words."
            )
        if unclear:
            words = self._read_words([asks[number] for number in unclear], written, wanted)
            for number, value in zip(unclear, words):
                found[number] = value
        return [value for value in found if value is not None]

    def _gives_probabilities(self, ask: Ask, probable: Callable[[Reply], float | None]) -> bool:
        """True where the server gives probabilities; its first question is asked alone, to see."""
        try:
            gives = probable(self.server.ask_all([ask])[0]) is not None
        except NoProbabilitiesError:
            gives = False
        says = "probabilities of its answers" if gives else "no clear probabilities; its words are read"
        logger.info("The judge %s at %s gives %s.", self.server.model, self.server.address, says)
        return gives

    def _read_words(
        self, asks: Sequence[Ask], written: Callable[[Reply], float | None], wanted: str
    ) -> list[float]:
        asks = [replace(ask, max_tokens=self.judge_settings.max_tokens, probabilities=False) for ask in asks]
        found = []
        for reply in self.server.ask_all(asks):
            value = written(reply)
            if value is None:
                cut = f", cut at {self.judge_settings.max_tokens} tokens" if reply.cut else ""
                raise InputError(
                    f"The judge {self.server.model} was to answer {wanted}, but wrote {reply.text[-80:]!r}{cut}: say "
                    "so in the question, or give it more tokens with max_tokens=N."
                )
            found.append(value)
        return found


def _yes_probability(reply: Reply) -> float | None:
    share, both = yes_share(reply.tokens[0].alternatives) if reply.tokens else (math.nan, 0.0)
    return share if both >= CLEAR else None


def _yes_word(reply: Reply) -> float | None:
    return said_yes(reply)


def _first_probability(reply: Reply) -> float | None:
    """P(1) / (P(1) + P(2)) of the first token."""
    found = {"1": 0.0, "2": 0.0}
    for text, log_probability in reply.tokens[0].alternatives if reply.tokens else ():
        if word_of(text) in found:
            found[word_of(text)] += math.exp(log_probability)
    both = sum(found.values())
    return found["1"] / both if both >= CLEAR else None


def _first_number(reply: Reply) -> float | None:
    number = last_number(reply, 1, 2)
    return {1.0: 1.0, 2.0: 0.0}.get(number) if number is not None else None


def _with_image(image: Shown, video: Shown) -> Shown:
    """Parts of a message that show a video, behind the image that it was to begin with, if there is one."""
    return (*image, THE_VIDEO, *video) if image else video


def _groups(prompts: Sequence[str], given: Sequence[Shown]) -> Iterator[list[int]]:
    """Rows of each prompt and image."""
    rows: dict[tuple[str, bytes], list[int]] = {}
    for row, (prompt, image) in enumerate(zip(prompts, given, strict=True)):
        pixels = b"".join(part.numpy().tobytes() for part in image if isinstance(part, Tensor))
        rows.setdefault((prompt, pixels), []).append(row)
    yield from rows.values()
