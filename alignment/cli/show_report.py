"""Prints the figures of an evaluation, tells where a report is, and opens it in a browser where that was asked for."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Any

OPEN_HELP = "Open the report in a browser when it is there."


def show_report(page: str | Path, opens: bool = False) -> None:
    """Prints where the page is; with `opens` a browser shows it, and it is said where there is none."""
    page = Path(page)
    print(f"The report is {page}.")
    if opens and not webbrowser.open(page.resolve().as_uri()):
        print(
            "No browser was found on this machine: copy the file to one that has one; it needs no other file."
        )


def print_summary(summary: dict[str, Any], output_dir: str, opens: bool = False) -> None:
    """Means, differences to the first reference, what the number of prompts can show, and where the report is."""
    from reward.reports.tables import power_text
    from reward.statistics import interval_text

    for name, interval in summary["adherence"].items():
        print(f"{name:12s} {interval['mean']:.3f}  {interval_text(interval)}")
    reference = next(iter(summary["category_differences"]))
    rows = summary[f"difference_to_{reference}"]
    for name, row in rows.items():
        print(
            f"{name} − {reference}: {row['mean']:+.3f} {interval_text(row, signed=True)} ({row['verdict']}), "
            f"win rate {row['win_rate']['mean']:.1%}, ties {row['tie_rate']:.1%}"
        )
    if power_text(summary):
        print(power_text(summary))
    show_report(Path(output_dir) / "report.html", opens)
