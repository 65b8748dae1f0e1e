"""Coverage of the intervals of `vidalign evaluate human`, the width rule under peeking, and the power table.

    python -m benchmarks.labeling.win_rates

Simulated annotators perceive each video as `labeling_app.simulate` says: a score with Gaussian noise, graded in steps,
equal grades tie. Every annotator has a skill, the noise, drawn within ± 50 % of 0.15, and a taste for one of two
models, drawn with the standard deviation `taste`. A prompt suits one model more, drawn with 0.1. All three are drawn
anew in every repetition, so the truth is the mean over all annotators and prompts, computed by quadrature.

coverage: share of 95 % intervals that hold the true win rate.
peeking: the same at the moment when the width rule stops, which is asked after every tenth prompt.
order: four models, neighbours at the win rate `--win_rate`, each pair judged as often as the power table says; share of
campaigns in which all four stand in the right order, of neighbours whose difference is found, and of the intervals of
differences of strengths that hold the true one.
table: independent judgements of a pair of models that a win rate takes, by the tie rate, with 80 % power.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from labeling_app.simulate import pair_probabilities
from reward.human.comparisons import davidson_strengths, judgements_needed, pair_result, stopping

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]
NOISE, SKILL_SPREAD, STEP, SUITS = 0.15, 0.5, 0.1, 0.1


@dataclass(frozen=True)
class Setting:
    """A campaign: prompts, annotators in all, annotators a task, and the standard deviation of their tastes."""

    prompts: int
    annotators: int
    overlap: int
    taste: float

    def __str__(self) -> str:
        return f"{self.prompts} | {self.annotators} | {self.overlap} | {self.taste:g}"


SETTINGS = (
    Setting(30, 6, 3, 0.0),
    Setting(30, 6, 3, 0.04),
    Setting(100, 3, 1, 0.0),
    Setting(100, 3, 3, 0.0),
    Setting(100, 3, 3, 0.04),
    Setting(100, 5, 2, 0.04),
    Setting(100, 10, 1, 0.04),
    Setting(100, 10, 3, 0.08),
    Setting(400, 20, 3, 0.08),
)


def draw_people(setting: Setting, rng: np.random.Generator) -> tuple[Numbers, Numbers, Floats]:
    """Prompt and annotator of each judgement of a pair of models, and the skill of each annotator."""
    order = np.argsort(rng.random((setting.prompts, setting.annotators)), axis=1)[:, : setting.overlap]
    prompts = np.repeat(np.arange(setting.prompts), setting.overlap)
    skills = NOISE * rng.uniform(1 - SKILL_SPREAD, 1 + SKILL_SPREAD, setting.annotators)
    return prompts, order.reshape(-1), skills


def judge(
    gaps: Floats,
    prompts: Numbers,
    annotators: Numbers,
    skills: Floats,
    suits: Floats,
    tastes: Floats,
    rng: np.random.Generator,
) -> Floats:
    """Outcomes of judgements whose two videos differ by `gaps [n]` before prompt and taste change that."""
    noise = skills[annotators][:, None] * rng.standard_normal((len(gaps), 2))
    level = rng.uniform(0, STEP, len(gaps))
    apart = gaps + suits[prompts] + tastes[annotators]
    first = np.floor((level + apart + noise[:, 0]) / STEP)
    return (1 + np.sign(first - np.floor((level + noise[:, 1]) / STEP))) / 2


def true_rates(gap: float, taste: float) -> tuple[float, float]:
    """Win rate and tie rate of a pair over all prompts, annotators and levels, by quadrature."""
    points, weights = np.polynomial.hermite_e.hermegauss(15)
    spread, middles = float(np.hypot(SUITS, taste)), (np.arange(8) + 0.5) / 8
    skills, levels = NOISE * (1 - SKILL_SPREAD + 2 * SKILL_SPREAD * middles), STEP * middles[::2]
    win = tie = 0.0
    for point, weight in zip(points, weights / weights.sum()):
        each = [
            pair_probabilities(gap + spread * point, 0.0, float(skill), STEP, float(level))
            for skill in skills
            for level in levels
        ]
        found = np.mean(each, axis=0)
        win, tie = win + weight * found[0], tie + weight * found[1]
    return float(win + tie / 2), float(tie)


def gap_of(rate: float, taste: float) -> float:
    """Difference of scores with a win rate, found by bisection."""
    low, high = 0.0, 2.0
    for _ in range(25):
        middle = (low + high) / 2
        low, high = (middle, high) if true_rates(middle, taste)[0] < rate else (low, middle)
    return (low + high) / 2


def coverage(setting: Setting, gap: float, repetitions: int, seed: int) -> tuple[float, float]:
    """Share of intervals that hold the true win rate, and their mean width."""
    rng, (truth, _) = np.random.default_rng(seed), true_rates(gap, setting.taste)
    held, widths = 0, []
    for _ in tqdm(range(repetitions), desc=str(setting), unit="campaign", leave=False):
        prompts, annotators, skills = draw_people(setting, rng)
        suits = rng.normal(0, SUITS, setting.prompts)
        tastes = rng.normal(0, setting.taste, setting.annotators)
        outcomes = judge(np.full(len(prompts), gap), prompts, annotators, skills, suits, tastes, rng)
        found = pair_result(outcomes, prompts, annotators)
        held += found.win_rate.low <= truth <= found.win_rate.high
        widths.append(found.width)
    return held / repetitions, float(np.mean(widths))


def peeking(
    setting: Setting, gap: float, width: float, repetitions: int, seed: int
) -> tuple[float, float, float]:
    """Share of intervals that hold the true win rate when the width rule stops; prompts by then, and looks."""
    rng, (truth, _) = np.random.default_rng(seed), true_rates(gap, setting.taste)
    held, stopped, looks = 0, [], 0
    for _ in tqdm(range(repetitions), desc="peeking", unit="campaign", leave=False):
        prompts, annotators, skills = draw_people(setting, rng)
        suits = rng.normal(0, SUITS, setting.prompts)
        tastes = rng.normal(0, setting.taste, setting.annotators)
        outcomes = judge(np.full(len(prompts), gap), prompts, annotators, skills, suits, tastes, rng)
        for count in range(10, setting.prompts + 1, 10):
            size, looks = count * setting.overlap, looks + 1
            found = pair_result(outcomes[:size], prompts[:size], annotators[:size])
            if stopping(found, width).stop:
                break
        stopped.append(count)
        held += found.win_rate.low <= truth <= found.win_rate.high
    return held / repetitions, float(np.mean(stopped)), looks / repetitions


def true_strengths(gap: float, taste: float, count: int) -> Floats:
    """Strengths that the likelihood tends to as every pair of models is judged ever more often."""
    first, second, outcomes = [], [], []
    for i, j in combinations(range(count), 2):
        rate, tie = true_rates((j - i) * gap, taste)
        for value, share in ((1.0, rate - tie / 2), (0.5, tie), (0.0, 1 - rate - tie / 2)):
            number = round(20_000 * share)
            first += [i] * number
            second += [j] * number
            outcomes += [value] * number
    clusters = np.arange(len(first)) % 50
    return davidson_strengths(first, second, outcomes, clusters, clusters, count, half_wins=0).log_strengths


def order(
    rate: float, taste: float, annotators: int, repetitions: int, seed: int, count: int = 4
) -> tuple[int, float, float, float]:
    """Judgements of a pair, and the shares of right orders, of neighbours told apart, and of intervals that hold."""
    rng, gap = np.random.default_rng(seed), gap_of(rate, taste)
    judgements = judgements_needed(rate, true_rates(gap, taste)[1])
    truth, pairs = true_strengths(gap, taste, count), list(combinations(range(count), 2))
    setting = Setting(judgements, annotators, 1, taste)
    right = found = held = 0
    for _ in tqdm(range(repetitions), desc="order", unit="campaign", leave=False):
        suits = rng.normal(0, SUITS / np.sqrt(2), (count, setting.prompts))
        tastes = rng.normal(0, taste / np.sqrt(2), (count, annotators))
        rows: list[list[Floats | Numbers]] = []
        skills = draw_people(setting, rng)[2]
        for i, j in pairs:
            prompts, people, _ = draw_people(setting, rng)
            gaps = np.full(len(prompts), (j - i) * gap)
            outcomes = judge(gaps, prompts, people, skills, suits[i] - suits[j], tastes[i] - tastes[j], rng)
            rows.append([np.full(len(prompts), i), np.full(len(prompts), j), outcomes, prompts, people])
            found += (j == i + 1) and pair_result(outcomes, prompts, people).p_value < 0.05
        columns = [np.concatenate(column) for column in zip(*rows)]
        strengths = davidson_strengths(*columns, count)
        right += bool((np.diff(strengths.log_strengths) < 0).all())
        held += sum(
            interval.low <= truth[i] - truth[j] <= interval.high
            for (i, j), interval in strengths.pairs.items()
        )
    return (
        judgements,
        right / repetitions,
        found / repetitions / (count - 1),
        held / repetitions / len(pairs),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        default=["coverage", "peeking", "order", "table"],
        help="Parts to run; all by default.",
    )
    parser.add_argument("--repetitions", type=int, default=1000, help="Campaigns of each setting.")
    parser.add_argument(
        "--win_rate", type=float, default=0.6, help="Win rate of a model against the next one."
    )
    parser.add_argument("--width", type=float, default=0.15, help="Width at which the width rule stops.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of everything drawn.")
    arguments = parser.parse_args()
    rate, repetitions, seed = arguments.win_rate, arguments.repetitions, arguments.seed
    if "coverage" in arguments.parts:
        print("prompts | annotators | annotators a task | taste | coverage | mean width")
        for setting in SETTINGS:
            held, width = coverage(setting, gap_of(rate, setting.taste), repetitions, seed)
            print(f"{setting} | {held:.3f} | {width:.3f}", flush=True)
    if "peeking" in arguments.parts:
        print("annotators | annotators a task | taste | coverage at the stop | prompts at the stop | looks")
        for taste in (0.0, 0.04):
            setting = Setting(400, 20, 2, taste)
            held, stop, looks = peeking(setting, gap_of(rate, taste), arguments.width, repetitions, seed)
            print(f"20 | 2 | {taste:g} | {held:.3f} | {stop:.0f} | {looks:.1f}", flush=True)
    if "order" in arguments.parts:
        print("taste | judgements of a pair | right order | neighbours told apart | coverage of strengths")
        for taste in (0.0, 0.02):
            figures = order(rate, taste, 12, repetitions, seed)
            print(
                f"{taste:g} | {figures[0]} | {' | '.join(f'{value:.3f}' for value in figures[1:])}",
                flush=True,
            )
    if "table" in arguments.parts:
        ties = (0.0, 0.2, 0.4)
        print(f"win rate | {' | '.join(f'ties {100 * tie:.0f} %' for tie in ties)}")
        for each in (0.55, 0.6, 0.65, 0.7):
            print(f"{each:g} | {' | '.join(str(judgements_needed(each, tie)) for tie in ties)}")


if __name__ == "__main__":
    main()
