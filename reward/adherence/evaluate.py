"""Prompt adherence: every video is judged against its prompt, models are compared on the same prompts and
seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from generator.one_or_several import as_list
from reward.adherence.judgement import Judgement
from reward.adherence.verifiers import Categories, Verifier, ask, load_verifier, no_categories
from reward.diversity import diversities, look
from reward.measures import measure_videos
from reward.models.base import score_with_images
from reward.statistics import (
    Interval,
    cluster_bootstrap,
    detectable_difference,
    deviation_of_differences,
    holm,
    paired_difference,
    prompts_needed,
    verdict,
)

if TYPE_CHECKING:
    from reward.models.base import RewardModel

__all__ = ["Judgement", "Sample", "evaluate_videos", "judge", "load_verifier", "summarise"]


POWER_DIFFERENCES = (0.03, 0.05)
_GIVEN = ("image", "last_image", "rewritten_prompt")


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
        answers: probability of yes to each question, where the verifier gives one.
        measures: motion, flicker and consistency (`reward.measures`), and the scores of further rewards.
        image, last_image: files that it begins and ends with, relative to the report; None where it was given none.
        factor: what the share of yes answers is multiplied with (`Judgement`); None where the score is not that.
        look: a small picture of the video (`reward.diversity.look`), by which diversity is measured.
        rewritten_prompt: text that the model was given; None where it was given the prompt.
    """

    model: str
    prompt: str
    seed: int
    score: float
    parts: dict[str, bool] = field(default_factory=dict)
    categories: list[str] = field(default_factory=list)
    file_name: str = ""
    answers: dict[str, float] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)
    image: str | None = None
    last_image: str | None = None
    factor: float | None = None
    look: str = ""
    rewritten_prompt: str | None = None

    def as_row(self) -> dict[str, Any]:
        row = asdict(self)
        return {name: value for name, value in row.items() if name not in _GIVEN or value is not None}


def judge(
    model: str,
    videos: Tensor,
    prompts: Sequence[str],
    seeds: Sequence[int],
    verifier: Verifier,
    categories: Categories = no_categories,
    file_names: Sequence[str] | None = None,
    fps: float = 8.0,
    measures: Sequence[RewardModel] = (),
    images: Tensor | None = None,
) -> list[Sample]:
    """Samples of one model's `videos [n, 3, frames, height, width]`, one prompt and one seed a video; `fps` is
    what their motion is measured with, `measures` are rewards whose scores are shown beside it, `images`
    `[n, 3, height, width]` are what the videos begin with, for judges that look at these."""
    prompts = as_list(prompts)
    file_names = None if file_names is None else as_list(file_names)
    if not len(videos) == len(prompts) == len(seeds):
        raise ValueError(
            f"{len(videos)} videos, {len(prompts)} prompts and {len(seeds)} seeds do not belong together."
        )
    names = file_names if file_names is not None else [""] * len(prompts)
    measured, looks = measure_videos(videos, fps), [look(video) for video in videos]
    for reward in measures:
        reward.set_frame_rate(fps)
        for dimension, values in score_with_images(reward, videos, prompts, images).items():
            alone = dimension == "overall"
            measured[f"reward {reward.name}" + ("" if alone else f" {dimension}")] = values
    return [
        Sample(
            model=model,
            prompt=prompt,
            seed=int(seed),
            score=judgement.score,
            parts={question: bool(answer) for question, answer in judgement.parts.items()},
            categories=sorted(categories(prompt)),
            file_name=name,
            answers={question: float(answer) for question, answer in judgement.answers.items()},
            measures={measure: float(values[number]) for measure, values in measured.items()},
            factor=judgement.factor,
            look=looks[number],
        )
        for number, (prompt, seed, name, judgement) in enumerate(
            zip(prompts, seeds, names, ask(verifier, videos, prompts, fps, images))
        )
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
    prompts = as_list(prompts)
    found: Categories = no_categories
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
        `difference_to_REFERENCE: {model: {mean, low, high, n, clusters, p_value, p_holm, verdict, win_rate,
        tie_rate}}`: these differences are the one family of tests, `tests` says of how many; p-values are
        Holm-adjusted over it, and `verdict` is `reward.statistics.verdict`;
        `categories: {category: {model: interval}}`, without those that hold all prompts and so repeat the total;
        `category_differences: {REFERENCE: {model: {category: {mean, low, high, …}}}}`, which describe and test nothing;
        `questions: {question: {model: share answered yes}}`, and `question_counts: {question: videos of a model}`;
        `measures: {measure: {model: interval}}`, among them `diversity` (`reward.diversity`), and
        `measure_differences: {REFERENCE: {model: {measure: interval}}}`, paired, which describe and test nothing;
        `power`: prompts needed to show a difference of 0.03 and 0.05 with 80 % power, the spread that this follows
        from (of the first difference), and the difference that the prompts at hand show with 80 % power.

    Raises:
        ValueError: a reference is not among the models, or models share no prompt and seed.
    """
    models = _by_model(samples)
    references = as_list(references) or list(models)[:1]
    summary: dict[str, Any] = {
        "adherence": {
            name: _mean(list(rows.values()), bootstrap_seed).as_dict() for name, rows in models.items()
        }
    }
    names = _proper_categories(samples)
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
    summary["tests"] = _judge_family(summary, references)
    summary["questions"] = _question_rates(models)
    summary["question_counts"] = _question_counts(models)
    summary["measures"] = _measures(models, bootstrap_seed)
    summary["measure_differences"] = {
        reference: {
            name: _measure_differences(rows, models[reference], bootstrap_seed)
            for name, rows in models.items()
            if name != reference
        }
        for reference in references
    }
    _add_diversity(summary, models, references, bootstrap_seed)
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
            difference = _compare(rows, base, chosen, seed)
            result[category] = {name: value for name, value in difference.items() if name != "p_value"}
    return result


def _proper_categories(samples: Sequence[Sample]) -> list[str]:
    """Categories that do not hold every video: a row of all would repeat the total."""
    counts = Counter(category for sample in samples for category in set(sample.categories))
    return sorted(category for category, count in counts.items() if count < len(samples))


def _judge_family(summary: dict[str, Any], references: Sequence[str]) -> int:
    """Adds `p_holm` and `verdict` to the differences of all models; returns the number of tests.

    Two models that are references of each other are compared once: the difference the other way around is no test of
    its own.
    """
    rows: dict[frozenset[str], list[dict[str, Any]]] = {}
    for reference in references:
        for model, row in summary[f"difference_to_{reference}"].items():
            rows.setdefault(frozenset((model, reference)), []).append(row)
    tested = [same for same in rows.values() if same[0]["p_value"] is not None]
    adjusted = holm([same[0]["p_value"] for same in tested])
    for same in rows.values():
        for row in same:
            row["p_holm"] = None
    for same, p_holm in zip(tested, adjusted, strict=True):
        for row in same:
            row["p_holm"] = p_holm
    for same in rows.values():
        for row in same:
            row["verdict"] = verdict(row)
    return len(tested)


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


def _measures(
    models: Mapping[str, Mapping[tuple[str, int], Sample]], seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    names = dict.fromkeys(name for rows in models.values() for s in rows.values() for name in s.measures)
    result: dict[str, dict[str, dict[str, float]]] = {}
    for name in names:
        for model, rows in models.items():
            chosen = [sample for sample in rows.values() if name in sample.measures]
            if chosen:
                values = [sample.measures[name] for sample in chosen]
                interval = cluster_bootstrap(values, [sample.prompt for sample in chosen], seed=seed)
                result.setdefault(name, {})[model] = interval.as_dict()
    return result


def _measure_differences(
    rows: Mapping[tuple[str, int], Sample], base: Mapping[tuple[str, int], Sample], seed: int
) -> dict[str, dict[str, Any]]:
    """Paired differences of the measures that both models have."""
    keys = [key for key in rows if key in base]
    result = {}
    for name in dict.fromkeys(name for key in keys for name in rows[key].measures):
        both = [key for key in keys if name in rows[key].measures and name in base[key].measures]
        if both:
            values = [rows[key].measures[name] - base[key].measures[name] for key in both]
            result[name] = cluster_bootstrap(values, [prompt for prompt, _ in both], seed=seed).as_dict()
    return result


def _add_diversity(
    summary: dict[str, Any],
    models: Mapping[str, Mapping[tuple[str, int], Sample]],
    references: Sequence[str],
    seed: int,
) -> None:
    """Diversity beside the other measures, where every video has its small picture; all models on shared videos."""
    shared = set.intersection(*(set(rows) for rows in models.values()))
    keys = sorted(shared)
    if len(keys) < 2 or any(not rows[key].look for rows in models.values() for key in keys):
        return
    looks = {name: [rows[key].look for key in keys] for name, rows in models.items()}
    found = diversities(looks, [prompt for prompt, _ in keys], references, seed)
    summary["diversity_within_prompts"] = found.within_prompts
    summary["measures"]["diversity"] = {name: value.as_dict() for name, value in found.means.items()}
    for reference, by_model in found.differences.items():
        for name, value in by_model.items():
            summary["measure_differences"][reference][name]["diversity"] = value.as_dict()


def _question_counts(models: Mapping[str, Mapping[tuple[str, int], Sample]]) -> dict[str, int]:
    """Videos of a model that each question was asked of; the most where models differ."""
    counts = {
        name: Counter(q for sample in rows.values() for q in sample.parts) for name, rows in models.items()
    }
    questions = sorted({question for count in counts.values() for question in count})
    return {question: max(count[question] for count in counts.values()) for question in questions}


def _power(
    models: Mapping[str, Mapping[tuple[str, int], Sample]], reference: str
) -> dict[str, float | int | str]:
    """From the spread over prompts of the differences between the reference and the next model.

    Of a single model, from the spread of its own prompt means times √2, which is that of the difference of two models
    whose scores do not hang together: more than paired models have.
    """
    base = models[reference]
    others = [name for name in models if name != reference]
    if others:
        rows = models[others[0]]
        keys = [key for key in rows if key in base]
        left, right = [rows[key].score for key in keys], [base[key].score for key in keys]
        deviation = deviation_of_differences(left, right, [prompt for prompt, _ in keys])
        source = f"{others[0]} and {reference}"
    else:
        keys = list(base)
        scores = [base[key].score for key in keys]
        deviation = 2**0.5 * deviation_of_differences(scores, [0.0] * len(keys), [p for p, _ in keys])
        source = f"{reference} alone"
    prompts = len({prompt for prompt, _ in keys})
    if prompts < 2:
        return {}
    needed = {
        f"prompts_for_{x}": prompts_needed(x, deviation, measured_on=prompts) for x in POWER_DIFFERENCES
    }
    return {
        **needed,
        "deviation": deviation,
        "prompts": prompts,
        "detectable_difference": detectable_difference(prompts, deviation),
        "measured_on": source,
    }
