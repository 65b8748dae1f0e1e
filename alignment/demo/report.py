"""The demo's report: one self-contained page, and `report.json` with the same figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from generator.output import write_json, write_text
from generator.video import read_video
from reward.adherence.evaluate import Sample
from reward.reports import html
from reward.reports.adherence import (
    best_and_worst,
    category_tables,
    gallery,
    headline,
    overview,
    question_table,
)
from reward.reports.comparison import read_samples
from reward.reports.evaluation_folder import METADATA_NAME
from reward.statistics import interval_text

OWN_MODEL = """\
# your own model (a folder or a hub id), prompts and demonstrations
vidalign sft --model MODEL --dataset demonstrations/ --output_dir runs/sft
vidalign generate --model MODEL --adapter runs/sft --prompts prompts.txt \\
  --num_videos_per_prompt 4 --output_dir runs/candidates
# your own annotators, in a browser
vidalign label import --db labels.db --campaign first --videos runs/candidates
vidalign label serve --db labels.db
vidalign label export --db labels.db --campaign first --output_file rankings.jsonl
# the same training and evaluation
vidalign reward --model MODEL --adapter runs/sft --preferences rankings.jsonl --output_dir runs/reward
vidalign dpo --model MODEL --adapter runs/sft --preferences rankings.jsonl --output_dir runs/dpo
vidalign ppo --model MODEL --adapter runs/sft --prompts prompts.txt --reward runs/reward --output_dir runs/ppo
vidalign evaluate --model MODEL --adapter runs/sft runs/dpo runs/ppo --prompts test-prompts.txt \\
  --output_dir runs/evaluation
"""


def write_demo_report(folder: Path, settings: Mapping[str, Any], stages: Mapping[str, Any]) -> Path:
    """Writes `report.html` and `report.json` from what the stages found; returns the path of the page."""
    summary = stages["evaluation"]["summary"]
    samples = read_samples(folder / "evaluation" / METADATA_NAME)

    def load_video(sample: Sample) -> Any:
        return read_video(folder / "evaluation" / sample.file_name)

    best, worst = best_and_worst(samples, "base", load_video, count=4)
    sections = [
        html.Section(
            "Result",
            headline(summary, "base") + overview(summary, ["base", "sft"]),
            _introduction(summary),
        ),
        html.Section("Guidance", _guidance(stages["guidance"])),
        html.Section("By category", category_tables(summary, "base")),
        html.Section("By question", question_table(summary)),
        html.Section("Annotators and reward model", _judges(stages)),
        html.Section("Training", html.charts(_charts(stages)), "Every point is one log entry of a trainer."),
        html.Section(
            "Videos of prompts drawn evenly",
            gallery(_evenly(samples, 6), load_video),
            "The same prompt and seed for every model; ✗ marks what a video does not show.",
        ),
        html.Section("Largest gains of PPO over base", best),
        html.Section("Largest losses", worst),
        html.Section("Your own model, your own annotators", html.code(OWN_MODEL)),
        html.Section("How this was made", html.facts(_facts(settings, stages))),
    ]
    write_json(
        folder / "report.json",
        {
            **summary,
            "settings": dict(settings),
            "stages": {name: found for name, found in stages.items() if name != "evaluation"},
        },
    )
    subtitle = "Held-out prompts, judged from the pixels by a verifier that no training stage has seen."
    write_text(
        folder / "report.html",
        html.page("A video generator, aligned with rankings of its videos", sections, subtitle),
    )
    return folder / "report.html"


def _introduction(summary: Mapping[str, Any]) -> str:
    said = []
    for model, difference in summary["difference_to_base"].items():
        said.append(
            f"{model.upper()} − base: {difference['mean']:+.3f} "
            f"{interval_text(difference, signed=True)} ({difference['verdict']})"
        )
    return (
        "Without classifier-free guidance, as everything here is trained; paired by prompt and seed, 95 % intervals. "
        + "; ".join(said)
        + "."
    )


def _guidance(found: Mapping[str, Any]) -> str:
    """The mean gold score of each model at every guidance scale, with the best of each row marked."""
    rows, best = [], {}
    for model, means in found["gold"].items():
        best[model] = max(means.values())
        rows.append(
            [model, *(f"{mean:.3f}" + (" (best)" if mean == best[model] else "") for mean in means.values())]
        )
    scales = list(next(iter(found["gold"].values())))
    ahead = max(best, key=lambda model: best[model])
    return html.paragraph(
        f"Gold adherence of {found['prompts']} other held-out prompts. Above 1, a step takes two calls of the model. "
        f"Each at its own best scale, {ahead} is ahead with {best[ahead]:.3f}; the base has {best['base']:.3f}. So few "
        "prompts do not tell differences of 0.05 apart."
    ) + html.plain_table(["model", *(f"guidance {scale}" for scale in scales)], rows)


def _judges(stages: Mapping[str, Any]) -> str:
    found, metrics = stages["annotators"], stages["reward"]["metrics"]["overall"]["held_out"]
    agreed = found["agreement"]
    people = [
        [
            person["name"],
            f"{person['noise']:.2f}",
            f"{person['tie_threshold']:.2f}",
            f"{person['position_bias']:.2f}",
            f"{person['motion_bias']:.2f}",
        ]
        for person in found["annotators"]
    ]
    accuracy = metrics["accuracy"]
    measured = f"{accuracy['mean']:.3f} {interval_text(accuracy)}, n = {accuracy['n']}"
    facts = {
        "rankings (all by simulated annotators)": found["rankings"],
        "agreement of annotators on pairs": f"{agreed['pairwise']:.3f}",
        "Krippendorff's alpha": f"{agreed['alpha']:.3f} {_interval_of_alpha(agreed)}",
        "share of ties": f"{agreed['tie_rate']:.3f}",
        "reward model: accuracy on held-out pairs without ties": measured,
        "best possible, given the annotators' noise": f"{found['best_possible_accuracy']:.3f}",
        "majority baseline": f"{metrics['majority_baseline']:.3f}",
    }
    return (
        html.paragraph(
            "The annotators are simulated: each sees the gold score of a video with noise of its own, a bias to the "
            "first place or to motion, and calls close ones a tie. They rank through the same database as people."
        )
        + html.plain_table(
            ["annotator", "noise", "tie threshold", "bias to the first place", "bias to motion"], people
        )
        + html.facts(facts)
    )


def _interval_of_alpha(agreed: Mapping[str, Any]) -> str:
    low, high = agreed["alpha_low"], agreed["alpha_high"]
    return "–" if low is None or math.isnan(low) else f"[{low:.3f}, {high:.3f}]"


CURVES = (
    ("sft", "SFT: flow-matching loss", {"loss": "loss"}),
    ("dpo", "DPO: accuracy of implicit rewards", {"rewards/accuracies": "accuracy"}),
    ("dpo", "DPO: margin of implicit rewards", {"rewards/margins": "margin"}),
    ("ppo", "PPO: reward model (proxy)", {"reward": "reward"}),
    ("ppo", "PPO: gold score of the rollouts", {"gold": "gold"}),
    ("ppo", "PPO: KL divergence to the SFT model", {"kl": "KL"}),
)


def _charts(stages: Mapping[str, Any]) -> list[str]:
    drawn = []
    for stage, title, names in CURVES:
        curve = stages[stage]["curve"]
        series = {
            label: html.Series([x for x, _ in curve[name]], [y for _, y in curve[name]])
            for name, label in names.items()
            if name in curve
        }
        if series:
            drawn.append(html.line_chart(series, title, "optimiser step"))
    return drawn


def _evenly(samples: list[Sample], count: int) -> list[dict[str, Sample]]:
    """`count` prompts at equal distances in the order of the evaluation, whatever their scores are."""
    groups: dict[tuple[str, int], dict[str, Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.prompt, sample.seed), {})[sample.model] = sample
    ordered = list(groups.values())
    return [ordered[len(ordered) * i // count] for i in range(min(count, len(ordered)))]


def _facts(settings: Mapping[str, Any], stages: Mapping[str, Any]) -> dict[str, object]:
    seconds = {f"{name}, seconds": found["seconds"] for name, found in stages.items()}
    total = {"all stages, seconds": round(sum(found["seconds"] for found in stages.values()), 1)}
    chosen = {name: value for name, value in settings.items() if name != "seconds"}
    return {**chosen, **seconds, **total}
