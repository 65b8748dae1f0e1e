"""Contents of the replies of a vision-language model: yes or no, and numbers, from words or from probabilities."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

THOUGHT = "</think>"
"""Ends the reasoning of models that think; the answer stands after the last one."""

_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?![\w])")
_OUT_OF = re.compile(r"(\d)\s*(?:/|out of)\s*\d+(?:\.\d+)?", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class Token:
    """A token of a reply.

    Attributes:
        text: what it adds to the reply.
        alternatives: texts that could have stood there, and their log-probabilities, its own among them.
    """

    text: str
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Reply:
    """A reply of a server.

    Attributes:
        text: the whole answer.
        tokens: of the answer with their probabilities; empty where the server gives none.
        cut: whether it was cut at the largest number of tokens.
    """

    text: str
    tokens: tuple[Token, ...] = ()
    cut: bool = False

    @property
    def answer(self) -> str:
        """The text after the thoughts."""
        return self.text.rpartition(THOUGHT)[2]


def word_of(token: str) -> str:
    """A token as a word: without the marks of a space, lower case."""
    return token.strip().lstrip("▁Ġ").strip().lower()


def yes_share(alternatives: Iterable[tuple[str, float]]) -> tuple[float, float]:
    """P(yes) / (P(yes) + P(no)) and P(yes) + P(no) of a token (VQAScore, arXiv 2404.01291).

    Args:
        alternatives: texts and log-probabilities; all spellings of a word are added.

    Returns:
        The share, nan where neither word is among them, and the probability of both.
    """
    found = {"yes": 0.0, "no": 0.0}
    for text, log_probability in alternatives:
        word = word_of(text)
        if word in found:
            found[word] += math.exp(log_probability)
    both = found["yes"] + found["no"]
    return (found["yes"] / both if both > 0 else math.nan), both


def said_yes(reply: Reply) -> float | None:
    """1 for yes, 0 for no, whichever word stands first after the thoughts; None where neither does."""
    words = (word.lower() for word in _WORD.findall(reply.answer))
    found = next((word for word in words if word in ("yes", "no")), None)
    return None if found is None else float(found == "yes")


def last_number(reply: Reply, low: float, high: float) -> float | None:
    """The last number after the thoughts; None where there is none or it lies outside of the range.

    In `4/5` and `4 out of 5` the number is 4.
    """
    numbers = _NUMBER.findall(_OUT_OF.sub(r"\1", reply.answer))
    if not numbers or not low <= float(numbers[-1]) <= high:
        return None
    return float(numbers[-1])


def axis_pattern(axis: str) -> str:
    """A regular expression of an axis and what stands between it and its number.

    That is a short note such as `(1-5)`, words without digits, and a colon; marks of emphasis may stand anywhere.
    """
    return rf"{re.escape(axis)}[^:\n\d]*(?:\([^)\n]*\))?[^:\n\d]*:[\s*]*"


def axis_number(reply: Reply, axis: str, low: float, high: float) -> float | None:
    """The number that the answer gives an axis: the last `AXIS … : N` after the thoughts; None where there is none, or
    it lies outside of the range."""
    found = re.findall(rf"{axis_pattern(axis)}(\d+(?:\.\d+)?)", reply.answer, re.IGNORECASE)
    if not found or not low <= float(found[-1]) <= high:
        return None
    return float(found[-1])


def digit_token(reply: Reply, before: str = "") -> Token | None:
    """The token of the first digit after the last `before` of the answer; of the answer's last digit where `before` is
    empty.

    Args:
        before: a regular expression.
    """
    text = "".join(token.text for token in reply.tokens)
    start = text.rfind(THOUGHT) + len(THOUGHT) if THOUGHT in text else 0
    if before:
        ends = [found.end() for found in re.finditer(before, text[start:], re.IGNORECASE)]
        digit = re.search(r"\d", text[start + ends[-1] :]) if ends else None
        place = start + ends[-1] + digit.start() if digit else -1
    else:
        digits = [found.start() for found in re.finditer(r"\d", text[start:])]
        place = start + digits[-1] if digits else -1
    position = 0
    for token in reply.tokens:
        if position <= place < position + len(token.text):
            return token
        position += len(token.text)
    return None


def digit_probabilities(token: Token, low: int, high: int) -> dict[int, float]:
    """Probabilities of the digits of a range among a token's alternatives, not normalised."""
    found: dict[int, float] = {}
    for text, log_probability in token.alternatives:
        word = word_of(text)
        if word.isdecimal() and len(word) == 1 and low <= int(word) <= high:
            found[int(word)] = found.get(int(word), 0.0) + math.exp(log_probability)
    return found


def expected_digit(token: Token, low: int, high: int) -> float | None:
    """Σ d · P(d) / Σ P(d) over the digits of a range; None where none is among the alternatives."""
    found = digit_probabilities(token, low, high)
    total = sum(found.values())
    return sum(digit * share for digit, share in found.items()) / total if total > 0 else None


def confident_digit(token: Token, low: int, high: int) -> float | None:
    """The likeliest digit of a range times its share of their probability, the soft score of VideoScore2
    (arXiv 2509.22799)."""
    found = digit_probabilities(token, low, high)
    if not found:
        return None
    best = max(found, key=lambda digit: (found[digit], -digit))
    return best * found[best] / sum(found.values())


def win_rates(preferred: Sequence[Sequence[float]]) -> list[float]:
    """Share of the others that each video of a group beats, ties counting ½ (Pref-GRPO, arXiv 2508.20751).

    Both orders of a pair are averaged first: a judge that takes the first video whatever it shows makes a tie.

    Args:
        preferred: `[i][j]` is the probability that video i, shown first, is better than video j, shown second.

    Returns:
        One number in [0, 1] a video; ½ for one that has nothing to be compared with.
    """
    count = len(preferred)
    if count == 1:
        return [0.5]
    rates = []
    for i in range(count):
        wins = 0.0
        for j in range(count):
            if i != j:
                mean = (preferred[i][j] + 1 - preferred[j][i]) / 2
                wins += 0.5 if math.isclose(mean, 0.5, abs_tol=1e-9) else float(mean > 0.5)
        rates.append(wins / (count - 1))
    return rates
