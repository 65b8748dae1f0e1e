"""Tables and the figure of the study from its `study.jsonl` files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.alignment.study.settings import DPO_ABLATIONS
from generator.output import read_lines, write_json, write_text
from reward.statistics import Interval, cluster_bootstrap

Row = dict[str, Any]
FIGURE = "over-optimisation.png"
TARGETS = (0.002, 0.005, 0.01, 0.02, 0.05)
"""Values of `target_kl` for which the report says where training would have stopped."""


def read_rows(files: Sequence[Path]) -> list[Row]:
    """All rows; a last line that was being written when the run was killed is left out."""
    rows = []
    for file in files:
        for _, line in read_lines(file):
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                continue
    return rows


def measurements(rows: Sequence[Row]) -> dict[tuple[str, float], dict[int, Row]]:
    """`{(arm, guidance): {seed: row}}`; a later row replaces an earlier one."""
    found: dict[tuple[str, float], dict[int, Row]] = {}
    for row in rows:
        if "scores" in row:
            found.setdefault((row["arm"], row["guidance"]), {})[row["seed"]] = row
    return found


def curves(rows: Sequence[Row]) -> dict[tuple[str, int], Row]:
    """The last curve of each arm and seed."""
    return {(row["arm"], row["seed"]): row for row in rows if row.get("curve")}


def _clusters(by_seed: dict[int, Row], seeds: Sequence[int]) -> list[str]:
    return [f"{seed}:{place}" for seed in seeds for place in range(len(by_seed[seed]["scores"]))]


def pooled(by_seed: dict[int, Row]) -> Interval:
    """Mean gold score over the seeds with the interval over their prompts."""
    seeds = sorted(by_seed)
    scores = [score for seed in seeds for score in by_seed[seed]["scores"]]
    return cluster_bootstrap(scores, _clusters(by_seed, seeds))


def difference(by_seed: dict[int, Row], other: dict[int, Row], seeds: Sequence[int]) -> Interval | None:
    """Paired difference to another arm over the seeds that both have; None where there is none."""
    shared = [seed for seed in seeds if seed in by_seed and seed in other]
    if not shared:
        return None
    a = [score for seed in shared for score in by_seed[seed]["scores"]]
    b = [score for seed in shared for score in other[seed]["scores"]]
    return cluster_bootstrap(np.subtract(a, b), _clusters(by_seed, shared))


def text_of(interval: Interval | None, signed: bool = True) -> str:
    if interval is None or interval.mean is None:  # too few rankings to say
        return "–"
    form = "{:+.3f} [{:+.3f}, {:+.3f}]" if signed else "{:.3f} [{:.3f}, {:.3f}]"
    return form.format(interval.mean, interval.low, interval.high)


def length_of(rows: Sequence[Row]) -> str:
    """Mean length of the trainings of one arm."""
    parts = []
    for key, unit in (("videos", "videos"), ("steps", "steps"), ("seconds", "s")):
        values = [row[key] for row in rows if key in row]
        if values:
            parts.append(f"{np.mean(values):,.0f} {unit}")
    return ", ".join(parts) or "–"


def summary(rows: Sequence[Row]) -> list[Row]:
    """One entry an arm and guidance scale, with figures pooled over the seeds and of each seed."""
    found = measurements(rows)
    entries = []
    for (arm, guidance), by_seed in found.items():
        base, sft = found.get(("base", guidance), {}), found.get(("sft", guidance), {})
        seeds = sorted(by_seed)
        entry: Row = {
            "arm": arm, "guidance": guidance, "seeds": seeds, "gold": pooled(by_seed),
            "length": length_of(list(by_seed.values())),
        }  # fmt: skip
        tuned = arm.startswith("tune")  # measured on other prompts
        if arm != "base" and not tuned:
            entry["difference_to_base"] = difference(by_seed, base, seeds)
        if arm not in ("base", "sft") and not tuned:
            entry["difference_to_sft"] = difference(by_seed, sft, seeds)
        for name in ("difference_to_base", "difference_to_sft"):
            other = base if name.endswith("base") else sft
            if entry.get(name) is not None:
                entry[f"{name}_of_each_seed"] = [difference(by_seed, other, [seed]) for seed in seeds]
        entries.append(entry)
    return entries


def table(entries: Sequence[Row]) -> str:
    """The arms as Markdown."""
    lines = [
        "| arm | guidance | seeds | gold | − base | − base, each seed | − SFT | − SFT, each seed | training |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entry in sorted(entries, key=lambda entry: entry["guidance"]):
        each = [
            ", ".join(f"{i.mean:+.3f}" if i else "–" for i in entry.get(f"{name}_of_each_seed", [])) or "–"
            for name in ("difference_to_base", "difference_to_sft")
        ]
        lines.append(
            f"| {entry['arm']} | {entry['guidance']:g} | {len(entry['seeds'])} | {text_of(entry['gold'], False)} "
            f"| {text_of(entry.get('difference_to_base'))} | {each[0]} "
            f"| {text_of(entry.get('difference_to_sft'))} | {each[1]} | {entry['length']} |"
        )
    return "\n".join(lines) + "\n"


def ablations(rows: Sequence[Row]) -> list[Row]:
    """Paired differences of each ablation to the study's own setting, an entry an arm and guidance scale."""
    found = measurements(rows)
    usual = {"ppo": "ppo, default", "dpo": f"dpo, {next(iter(DPO_ABLATIONS))}"}
    entries = []
    for (arm, guidance), by_seed in found.items():
        reference = usual.get(arm.split(", ")[0], arm)
        if arm != reference and (reference, guidance) in found and arm.startswith(("ppo, ", "dpo, ")):
            shared = difference(by_seed, found[reference, guidance], sorted(by_seed))
            entries.append({"arm": arm, "guidance": guidance, "to": reference, "difference": shared})
    return sorted(entries, key=lambda entry: (entry["guidance"], entry["to"], entry["arm"]))


def ablation_table(entries: Sequence[Row]) -> str:
    lines = ["| ablation | guidance | against | difference |", "|---|---|---|---|"]
    for entry in entries:
        shown = text_of(entry["difference"])
        lines.append(f"| {entry['arm']} | {entry['guidance']:g} | {entry['to']} | {shown} |")
    return "\n".join(lines) + "\n"


def smooth(values: Sequence[float], width: int = 5) -> list[float]:
    """Running means over up to `width` values."""
    return [float(np.mean(values[max(0, i - width + 1) : i + 1])) for i in range(len(values))]


def stops(curve: dict[str, list[float]]) -> list[Row]:
    """Rollout at which training stops for each of `TARGETS`; gold and proxy there, at the best, and at the end."""
    gold, proxy, kl = smooth(curve["gold"]), smooth(curve["reward"]), curve["kl"]
    best = int(np.argmax(gold))
    found = []
    for target in TARGETS:
        place = next((i for i, value in enumerate(kl) if value > target), len(kl) - 1)
        found.append(
            {
                "target_kl": target, "rollout": place, "root_kl": float(np.sqrt(max(kl[place], 0))),
                "reached": kl[place] > target, "gold": gold[place], "proxy": proxy[place], "best_gold": gold[best],
                "root_kl_of_best": float(np.sqrt(max(kl[best], 0))), "gold_at_end": gold[-1], "proxy_at_end": proxy[-1],
            }
        )  # fmt: skip
    return found


def over_optimisation(found: dict[tuple[str, int], Row]) -> dict[str, dict[str, list[float]]]:
    """The curves of PPO on a reward model, by KL coefficient and seed."""
    shown = [
        (row.get("settings", {}).get("beta", 0.0), seed, row["curve"])
        for (_, seed), row in found.items()
        if {"gold", "kl"} <= set(row["curve"]) and len(row["curve"]["kl"]) > 1
    ]
    return {
        f"beta {beta:g}, seed {seed}": curve for beta, seed, curve in sorted(shown, key=lambda row: row[:2])
    }


def draw(shown: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Proxy and gold against √KL, a line a training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), sharex=True)
    betas = list(dict.fromkeys(label.split(",")[0] for label in shown))
    for label, curve in shown.items():
        colour = f"C{betas.index(label.split(',')[0])}"
        distance = np.sqrt(np.maximum(curve["kl"], 0))
        for axis, key in zip(axes, ("reward", "gold"), strict=True):
            axis.plot(distance, smooth(curve[key]), label=label, linewidth=1.2, color=colour)
    for axis, title in zip(axes, ("proxy (reward model)", "gold (verifier)"), strict=True):
        axis.set(title=title, xlabel="√KL of a latent element")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def stop_table(shown: dict[str, dict[str, list[float]]]) -> str:
    lines = [
        "| training | target_kl | stops at rollout | gold there | best gold | gold at the end | proxy at the end |",
        "|---|---|---|---|---|---|---|",
    ]
    for label, curve in shown.items():
        for stop in stops(curve):
            place = str(stop["rollout"]) if stop["reached"] else "never"
            lines.append(
                f"| {label} | {stop['target_kl']:g} | {place} | {stop['gold']:.3f} | {stop['best_gold']:.3f} "
                f"| {stop['gold_at_end']:.3f} | {stop['proxy_at_end']:.2f} |"
            )
    return "\n".join(lines) + "\n"


def plain(value: Any) -> Any:
    """`value` with intervals as dictionaries, for JSON."""
    if isinstance(value, Interval):
        return value.as_dict()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def write_report(files: Sequence[Path], folder: Path) -> str:
    """Writes `study.md`, `study.json` and the figure into `folder`; returns the Markdown."""
    rows = read_rows(files)
    entries, shown = summary(rows), over_optimisation(curves(rows))
    text = table(entries)
    rewards = [
        f"seed {row['seed']}: {text_of(Interval(**row['reward_model']), False)}"
        for row in rows
        if row.get("reward_model")
    ]
    if rewards:
        text += f"\nHeld-out pair accuracy of the reward model: {'; '.join(rewards)}.\n"
    changed = ablations(rows)
    if changed:
        text += "\n" + ablation_table(changed)
    if shown:
        text += "\n" + stop_table(shown)
        try:
            draw(shown, folder / FIGURE)
        except ImportError:
            text += "\nmatplotlib is not installed: --merge draws the figure where it is.\n"
    write_text(folder / "study.md", text)
    report = {
        "arms": entries,
        "ablations": changed,
        "early_stopping": {label: stops(curve) for label, curve in shown.items()},
    }
    write_json(folder / "study.json", plain(report))
    return text
