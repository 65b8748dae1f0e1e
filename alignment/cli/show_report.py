"""Tells where a report is, and opens it in a browser where that was asked for."""

from __future__ import annotations

import webbrowser
from pathlib import Path

OPEN_HELP = "Open the report in a browser when it is there."


def show_report(page: str | Path, opens: bool = False) -> None:
    """Prints where the page is; with `opens` a browser shows it, and it is said where there is none."""
    page = Path(page)
    print(f"The report is {page}.")
    if opens and not webbrowser.open(page.resolve().as_uri()):
        print(
            "No browser was found on this machine: copy the file to one that has one; it needs no other file."
        )
