"""`Judgement`: the answer of a verifier about one video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Judgement:
    """The verdict of a verifier on one video.

    Attributes:
        score: adherence to the prompt, in [0, 1]; higher is better.
        parts: name of each question and whether the video shows it; may be empty.
        answers: probability of yes of each question where the verifier gives one; may be empty.
        factor: what the share of yes answers is multiplied with to give the score, for what the prompt does not ask
            for; None where the score is another function of the parts.
    """

    score: float
    parts: Mapping[str, bool] = field(default_factory=dict)
    answers: Mapping[str, float] = field(default_factory=dict)
    factor: float | None = None
