"""Active selection: which candidates to show annotators next, by what current reward models disagree about.

The value of a pair's label is the mutual information between the label and the reward model, estimated from several
reward models (trained with different seeds or on bootstrap samples): BALD, Houlsby et al., Bayesian Active Learning
for Classification and Preference Learning (arXiv 1112.5745). With one reward model it is the entropy of the label,
which also counts noise that no label takes away. A random share stays unbiased, for evaluating reward models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from generator.output import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SelectedPair:
    """Two candidates of a prompt to compare.

    Attributes:
        prompt: index of the prompt; `first`, `second`: indices of its candidates.
        bits: expected information of its label about the reward model.
        random: drawn at random, not for its information.
    """

    prompt: int
    first: int
    second: int
    bits: float
    random: bool


@dataclass(frozen=True)
class Selection:
    """Selection, and what it is expected to bring.

    Attributes:
        pairs: the informative ones first.
        expected_bits: information expected from all of them together, as if labels did not overlap.
        random_bits: the same of as many random pairs.
    """

    pairs: tuple[SelectedPair, ...]
    expected_bits: float
    random_bits: float

    @property
    def worth_in_random_pairs(self) -> float:
        """Number of random pairs that promise as much; NaN where no pair promises anything."""
        return len(self.pairs) * self.expected_bits / self.random_bits if self.random_bits else float("nan")


def binary_entropy(probability: Array) -> Array:
    """Entropy in bits of an event with this probability."""
    p = np.clip(probability, 1e-12, 1 - 1e-12)
    return -(p * np.log2(p) + (1 - p) * np.log2(1 - p))


def pair_information(scores: Array, temperature: float = 1.0) -> Array:
    """Expected information in bits of the label of each pair of a prompt's candidates.

    Args:
        scores: `[members, candidates]` of the reward models; Bradley-Terry: P(i above j) = σ((s_i − s_j) / T).
        temperature: T; below 1 for annotators who are surer than the reward models.

    Returns:
        `[candidates, candidates]`, symmetric with a diagonal of 0: H(mean p) − mean H(p) over the members, or with
        one member H(p).
    """
    differences = (scores[:, :, None] - scores[:, None, :]) / temperature
    probability = 1 / (1 + np.exp(-np.clip(differences, -500, 500)))
    total = binary_entropy(probability.mean(axis=0))
    if len(scores) > 1:
        total = np.maximum(total - binary_entropy(probability).mean(axis=0), 0.0)
    np.fill_diagonal(total, 0.0)
    return total


def select_pairs(
    scores: Sequence[Array],
    count: int,
    random_share: float = 0.2,
    temperature: float = 1.0,
    seed: int = 0,
    taken: frozenset[tuple[int, int, int]] = frozenset(),
) -> Selection:
    """Picks pairs: the most informative of each prompt, the most informative prompts first, then random ones.

    A prompt gives its second pair only after every prompt gave one, because pairs of one prompt tell much the same.

    Args:
        scores: for each prompt `[members, candidates]`.
        count: pairs to pick.
        random_share: share of pairs drawn uniformly from all.
        taken: pairs (prompt, first, second) with first < second that are labelled already.

    Raises:
        InputError: the share is not from 0 to 1, or there are fewer than `count` pairs left.
    """
    pool: list[SelectedPair] = []
    for prompt, values in enumerate(scores):
        information = pair_information(values, temperature)
        for first in range(values.shape[1]):
            for second in range(first + 1, values.shape[1]):
                if (prompt, first, second) not in taken:
                    bits = float(information[first, second])
                    pool.append(SelectedPair(prompt, first, second, bits, random=False))
    num_random = check_request(len(pool), count, random_share)
    drawn = np.random.default_rng(seed)
    at_random = set(drawn.choice(len(pool), size=num_random, replace=False).tolist())
    rest = sorted((p for n, p in enumerate(pool) if n not in at_random), key=lambda p: -p.bits)
    chosen = sorted(zip(_rounds(rest), rest), key=lambda item: (item[0], -item[1].bits))
    informative = [pair for _, pair in chosen[: count - num_random]]
    random = [
        SelectedPair(p.prompt, p.first, p.second, p.bits, True) for p in (pool[n] for n in sorted(at_random))
    ]
    everything = (*informative, *random)
    return Selection(
        everything,
        expected_bits=sum(pair.bits for pair in everything),
        random_bits=count * float(np.mean([pair.bits for pair in pool])),
    )


def check_request(left: int, count: int, random_share: float) -> int:
    """Number of `count` pairs that are drawn at random.

    Raises:
        InputError: the share is not from 0 to 1, or there are not that many pairs left.
    """
    if not 0 <= random_share <= 1:
        raise InputError(f"random_share is {random_share}: give a number from 0 to 1.")
    if not left:
        raise InputError(
            "No pair is left, since all candidates of each prompt have met in tasks: add candidates."
        )
    if not 1 <= count <= left:
        raise InputError(f"{count} pairs are asked for, but {left} are left: give 1 to {left}.")
    return round(random_share * count)


def _rounds(pairs: Sequence[SelectedPair]) -> list[int]:
    """For each pair how many earlier ones are of its prompt."""
    seen: dict[int, int] = {}
    rounds = []
    for pair in pairs:
        rounds.append(seen.get(pair.prompt, 0))
        seen[pair.prompt] = rounds[-1] + 1
    return rounds
