"""Prompt adherence: every video is judged against its prompt, models are compared on the same prompts and
seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from generator.output import InputError
from reward.adherence.statistics import Interval, cluster_bootstrap, holm, paired_difference, prompts_needed
from reward.models.base import import_function


@dataclass(frozen=True)
class Judgement:
    """What a verifier says of one video.

    Attributes:
        score: adherence to the prompt, in [0, 1]; higher is better.
        parts: name of each question and whether the video shows it; may be empty.
    """

    score: float
    parts: Mapping[str, bool] = field(default_factory=dict)


Verifier = Callable[[Tensor, Sequence[str]], Sequence[Judgement]]
"""Judges videos `[batch, 3, frames, height, width]` in [-1, 1], one prompt a video."""

Categories = Callable[[str], "set[str]"]
"""The categories that a prompt belongs to."""


@dataclass(frozen=True)
class Sample:
    """One judged video.

    Attributes:
        model: name of the model that made it.
        prompt: its text.
        seed: its seed; models are paired by prompt and seed.
        score: in [0, 1].
        parts: answers to the questions.
        categories: of the prompt.
        file_name: where the video lies, relative to the report; empty where it was not written.
    """

    model: str
    prompt: str
    seed: int
    score: float
    parts: dict[str, bool] = field(default_factory=dict)
    categories: list[str] = field(default_factory=list)
    file_name: str = ""

    def as_row(self) -> dict[str, Any]:
        return asdict(self)


def _world_verifier(videos: Tensor, prompts: Sequence[str]) -> list[Judgement]:
    from generator.world import verify_batch

    return [Judgement(float(a.score), dict(a.parts)) for a in verify_batch(videos, list(prompts))]


def _world_categories(prompt: str) -> set[str]:
    from generator.world import categories

    return set(categories(prompt))


def _no_categories(prompt: str) -> set[str]:
    return set()


def _as_judgement(value: Any, name: str) -> Judgement:
    if isinstance(value, Mapping) and "score" in value:
        value = Judgement(
            float(value["score"]), {k: bool(v) for k, v in dict(value.get("parts", {})).items()}
        )
    elif hasattr(value, "score"):
        value = Judgement(float(value.score), dict(getattr(value, "parts", {})))
    else:
        try:
            value = Judgement(float(value))
        except (TypeError, ValueError):
            raise InputError(
                f"The verifier {name} returned {value!r} for a video: it must return a number in [0, 1], "
                'or {"score": number, "parts": {question: true or false}}.'
            ) from None
    if not 0 <= value.score <= 1:
        raise InputError(f"The verifier {name} returned the score {value.score}: scores must be in [0, 1].")
    return value


def load_verifier(name: str) -> tuple[Verifier, Categories]:
    """What judges the videos, and what sorts the prompts into categories.

    Args:
        name: `world`, the verifier of the built-in world; or `module:function`, a function `(videos,
            prompts)` that returns for each video a score in [0, 1] or `{"score": …, "parts": {question:
            bool}}`. Its attribute `categories`, if it has one, maps a prompt to its categories.

    Raises:
        InputError: there is no such verifier.
    """
    if name == "world":
        return _world_verifier, _world_categories
    if ":" not in name:
        raise InputError(f"There is no verifier {name!r}: name `world` or module:function.")
    function = import_function(name)

    def verify(videos: Tensor, prompts: Sequence[str]) -> list[Judgement]:
        values = list(function(videos, list(prompts)))  # type: ignore[call-overload]
        if len(values) != len(prompts):
            raise InputError(
                f"The verifier {name} returned {len(values)} results for {len(prompts)} videos: "
                "it must return one a video."
            )
        return [_as_judgement(value, name) for value in values]

    return verify, getattr(function, "categories", _no_categories)


def judge(
    model: str,
    videos: Tensor,
    prompts: Sequence[str],
    seeds: Sequence[int],
    verifier: Verifier,
    categories: Categories = _no_categories,
    file_names: Sequence[str] | None = None,
) -> list[Sample]:
    """Samples of one model's `videos [n, 3, frames, height, width]`, one prompt and one seed a video."""
    if not len(videos) == len(prompts) == len(seeds):
        raise ValueError(
            f"{len(videos)} videos, {len(prompts)} prompts and {len(seeds)} seeds do not belong together."
        )
    names = file_names if file_names is not None else [""] * len(prompts)
    return [
        Sample(
            model=model,
            prompt=prompt,
            seed=int(seed),
            score=judgement.score,
            parts={question: bool(answer) for question, answer in judgement.parts.items()},
            categories=sorted(categories(prompt)),
            file_name=name,
        )
        for prompt, seed, name, judgement in zip(prompts, seeds, names, verifier(videos, prompts))
    ]


def evaluate_videos(
    videos: Mapping[str, Tensor],
    prompts: Sequence[str],
    seeds: Sequence[int],
    verifier: str | Verifier = "world",
    categories: Categories | None = None,
) -> list[Sample]:
    """Judges videos that several models made of the same prompts and seeds.

    Args:
        videos: `{model: [n, 3, frames, height, width]}`, all in the order of `prompts` and `seeds`.
        verifier: a name for `load_verifier`, or a function.
        categories: sorts prompts; by default what belongs to the named verifier.
    """
    found: Categories = _no_categories
    if isinstance(verifier, str):
        verifier, found = load_verifier(verifier)
    sort = categories or found
    return [
        sample
        for name, batch in videos.items()
        for sample in judge(name, batch, prompts, seeds, verifier, sort)
    ]


def _by_model(samples: Sequence[Sample]) -> dict[str, dict[tuple[str, int], Sample]]:
    models: dict[str, dict[tuple[str, int], Sample]] = {}
    for sample in samples:
        models.setdefault(sample.model, {})[sample.prompt, sample.seed] = sample
    return models


def _mean(samples: Sequence[Sample], bootstrap_seed: int) -> Interval:
    return cluster_bootstrap(
        [sample.score for sample in samples], [sample.prompt for sample in samples], seed=bootstrap_seed
    )


def _compare(
    a: Mapping[tuple[str, int], Sample],
    b: Mapping[tuple[str, int], Sample],
    keys: Sequence[tuple[str, int]],
    seed: int,
) -> dict[str, Any]:
    left, right = [a[key].score for key in keys], [b[key].score for key in keys]
    prompts = [prompt for prompt, _ in keys]
    return paired_difference(left, right, prompts, seed=seed).as_dict()


def summarise(
    samples: Sequence[Sample], references: Sequence[str] = (), bootstrap_seed: int = 0
) -> dict[str, Any]:
    """Means, differences and category tables of judged videos; all intervals are 95 %, resampled by prompt.

    Args:
        samples: of one or several models.
        references: models that the others are compared with, in pairs of equal prompt and seed; the first
            model when empty.

    Returns:
        `adherence: {model: {mean, low, high, n, clusters}}`;
        `difference_to_REFERENCE: {model: {mean, low, high, n, clusters, p_value, win_rate, tie_rate}}`;
        `categories: {category: {model: interval}}`;
        `category_differences: {REFERENCE: {model: {category: {…, p_holm}}}}`, Holm-adjusted over the
        categories; `questions: {question: {model: share answered yes}}`;
        `power`: prompts needed to show a difference of 0.03 and 0.05 with 80 % power, from the first
        difference.

    Raises:
        ValueError: a reference is not among the models, or models share no prompt and seed.
    """
    models = _by_model(samples)
    references = list(references) or list(models)[:1]
    summary: dict[str, Any] = {
        "adherence": {
            name: _mean(list(rows.values()), bootstrap_seed).as_dict() for name, rows in models.items()
        }
    }
    names = sorted({category for sample in samples for category in sample.categories})
    summary["categories"] = {
        category: {
            model: _mean(chosen, bootstrap_seed).as_dict()
            for model, rows in models.items()
            if (chosen := [sample for sample in rows.values() if category in sample.categories])
        }
        for category in names
    }
    summary["category_differences"] = {}
    for reference in references:
        if reference not in models:
            raise ValueError(f"{reference!r} is not among the models {', '.join(models)}.")
        base = models[reference]
        differences: dict[str, Any] = {}
        by_category: dict[str, Any] = {}
        for name, rows in models.items():
            if name == reference:
                continue
            keys = [key for key in rows if key in base]
            if not keys:
                raise ValueError(f"{name!r} and {reference!r} have no prompt and seed in common.")
            differences[name] = _compare(rows, base, keys, bootstrap_seed)
            by_category[name] = _category_differences(rows, base, keys, names, bootstrap_seed)
        summary[f"difference_to_{reference}"] = differences
        summary["category_differences"][reference] = by_category
    summary["questions"] = _question_rates(models)
    summary["power"] = _power(models, references[0])
    return summary


def _category_differences(
    rows: Mapping[tuple[str, int], Sample],
    base: Mapping[tuple[str, int], Sample],
    keys: Sequence[tuple[str, int]],
    categories: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    result = {}
    for category in categories:
        chosen = [key for key in keys if category in rows[key].categories]
        if chosen:
            result[category] = _compare(rows, base, chosen, seed)
    for row, adjusted in zip(result.values(), holm([row["p_value"] for row in result.values()])):
        row["p_holm"] = adjusted
    return result


def _question_rates(models: Mapping[str, Mapping[tuple[str, int], Sample]]) -> dict[str, dict[str, float]]:
    answers: dict[str, dict[str, list[bool]]] = {}
    for model, rows in models.items():
        for sample in rows.values():
            for question, answer in sample.parts.items():
                answers.setdefault(question, {}).setdefault(model, []).append(answer)
    return {
        question: {model: sum(values) / len(values) for model, values in by_model.items()}
        for question, by_model in sorted(answers.items())
    }


def _power(models: Mapping[str, Mapping[tuple[str, int], Sample]], reference: str) -> dict[str, int]:
    """From the spread of per-prompt differences between the reference and the next model."""
    others = [name for name in models if name != reference]
    if not others:
        return {}
    base, rows = models[reference], models[others[0]]
    by_prompt: dict[str, list[float]] = {}
    for key, sample in rows.items():
        if key in base:
            by_prompt.setdefault(key[0], []).append(sample.score - base[key].score)
    means = [sum(values) / len(values) for values in by_prompt.values()]
    if len(means) < 2:
        return {}
    centre = sum(means) / len(means)
    deviation = (sum((value - centre) ** 2 for value in means) / (len(means) - 1)) ** 0.5
    return {f"prompts_for_{difference}": prompts_needed(difference, deviation) for difference in (0.03, 0.05)}
