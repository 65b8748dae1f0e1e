"""The demo's report: one self-contained page, and `report.json` with the same figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from generator.output import read_json, write_json, write_text
from reward.adherence.evaluate import Sample
from reward.certainty import side_baseline, uncertain_dimensions
from reward.reports import html
from reward.reports.adherence import Additions, comparison_page, write_samples
from reward.reports.clips import read_shown
from reward.reports.comparison import read_samples
from reward.reports.evaluation_folder import METADATA_NAME, REPORT_NAME
from reward.reports.made import made_now
from reward.reports.sentences import reward_sentence
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
vidalign ppo --model MODEL --adapter runs/dpo --prompts prompts.txt --reward runs/reward --output_dir runs/ppo
vidalign evaluate --model MODEL --adapter runs/sft runs/dpo runs/ppo --prompts test-prompts.txt \\
  --output_dir runs/evaluation
"""


def write_demo_report(folder: Path, settings: Mapping[str, Any], stages: Mapping[str, Any]) -> Path:
    """Writes `report.html` and `report.json` from what the stages found; returns the path of the page."""
    summary = stages["evaluation"]["summary"]
    samples = read_samples(folder / "evaluation" / METADATA_NAME)
    evaluation = {"model": settings["model"], **read_json(folder / "evaluation" / REPORT_NAME)["settings"]}
    made = made_now()

    def load_video(sample: Sample) -> Any:
        return read_shown(folder / "evaluation" / sample.file_name)

    more = Additions(
        notes=[_reward_note(stages), _guidance_note(stages["guidance"])],
        details=[
            html.Section("Guidance", _guidance(stages["guidance"])),
            html.Section("Annotators and reward model", _judges(stages, settings)),
            html.Section(
                "Training curves",
                html.charts(_charts(stages)),
                "Means of neighbouring log entries of a trainer; the band is their standard deviation. The reward of "
                "PPO is the proxy; gold is what it does not see.",
            ),
            html.Section("Your own model, your own annotators", html.code(OWN_MODEL)),
            html.Section("Stages of this demo", html.facts(_facts(settings, stages))),
        ],
        folder="evaluation/",
        held_out=True,
    )
    title = "A video generator, aligned with rankings of its videos"
    text = comparison_page(samples, summary, evaluation, load_video, ["base", "sft"], title, made, more)
    write_json(
        folder / "report.json",
        {
            **summary,
            "settings": dict(settings),
            "evaluation_settings": evaluation,
            "made": made,
            "stages": {name: found for name, found in stages.items() if name != "evaluation"},
            "samples": [sample.as_row() for sample in samples],
        },
    )
    write_samples(folder, samples, summary, "base", load_video)
    write_text(folder / "report.html", text)
    return folder / "report.html"


def _reward_note(stages: Mapping[str, Any]) -> str:
    figures = stages["reward"]["metrics"]["overall"]["held_out"]
    best = stages["annotators"]["best_possible_accuracy"]
    return reward_sentence("The reward model (proxy)", figures, best, "simulated annotators")


def _guidance_note(found: Mapping[str, Any]) -> str:
    """Best guidance and gold score of each model in the sweep, in a sentence."""
    best = {model: f"{scale:g}" for model, scale in found["best"].items()}
    said = [f"{model} {means[best[model]]:.3f} at {best[model]}" for model, means in found["gold"].items()]
    return f"The best guidance of each was found on {found['prompts']} other prompts: gold {', '.join(said)}."


def _guidance(found: Mapping[str, Any]) -> str:
    """The mean gold score of each model at every guidance scale, with the best of each row marked."""
    rows, best = [], found["best"]
    for model, means in found["gold"].items():
        rows.append(
            [
                model,
                *(
                    f"{mean:.3f}" + (" (best)" if float(scale) == best[model] else "")
                    for scale, mean in means.items()
                ),
            ]
        )
    scales = list(next(iter(found["gold"].values())))
    return html.paragraph(
        f"Gold adherence of {found['prompts']} other held-out prompts. Above 1, a step takes two calls of the model. "
        "The best scale of each model is that of its result above; so few prompts do not tell differences of 0.05 "
        "apart."
    ) + html.plain_table(["model", *(f"guidance {scale}" for scale in scales)], rows)


def _judges(stages: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
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
        "always preferring the same side": f"{side_baseline(metrics):.3f}",
    }
    start = settings.get("reward")
    taught = (
        f"The reward model begins with {start}, which learned what prompts say from rendered clips that differ in "
        "known claims; no one judged these."
    )
    doubt = html.paragraph(
        "The interval of the reward model's accuracy contains that of always preferring the same side, so it may be no "
        "better than chance, and PPO was warned."
    )
    return (
        html.paragraph(
            "The annotators are simulated: each sees the gold score of a video with noise of its own, a bias to the "
            "first place or to motion, and calls close ones a tie. They rank through the same database as people."
        )
        + html.plain_table(
            ["annotator", "noise", "tie threshold", "bias to the first place", "bias to motion"], people
        )
        + html.facts(facts)
        + (html.paragraph(taught) if start else "")
        + (doubt if uncertain_dimensions(stages["reward"]["metrics"], "overall") else "")
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
    ("ppo", "PPO: KL divergence to the DPO model", {"kl": "KL"}),
)


def _charts(stages: Mapping[str, Any]) -> list[str]:
    drawn = []
    for stage, title, names in CURVES:
        curve = stages[stage]["curve"]
        series = {
            label: html.smoothed([x for x, _ in curve[name]], [y for _, y in curve[name]])
            for name, label in names.items()
            if name in curve
        }
        if series:
            drawn.append(html.line_chart(series, title, "optimiser step"))
    return drawn


def _facts(settings: Mapping[str, Any], stages: Mapping[str, Any]) -> dict[str, object]:
    seconds = {f"{name}, seconds": found["seconds"] for name, found in stages.items()}
    total = {"all stages, seconds": round(sum(found["seconds"] for found in stages.values()), 1)}
    chosen = {name: value for name, value in settings.items() if name != "seconds"}
    return {**chosen, **seconds, **total}
