"""Results of checks, and the table that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CHECKS = ("oracle", "steps", "batch", "log_prob", "sampler", "adapter", "export", "memory")
"""Names of all groups of checks."""
PASSED, FAILED, NOT_RUN = "pass", "FAIL", "–"


@dataclass(frozen=True)
class Result:
    """Result of one check.

    Attributes:
        check: name of the group of checks, one of `CHECKS`.
        what: the fact that was checked.
        figure: the measured deviation; None where nothing was measured.
        tolerance: the largest figure that passes.
        note: anything else: an error, or why nothing was measured.
        failed: whether the check failed for another reason than its figure.
    """

    check: str
    what: str
    figure: float | None = None
    tolerance: float | None = None
    note: str = ""
    failed: bool = False

    @property
    def passed(self) -> bool | None:
        """Returns whether the fact holds; None where it was not checked. A figure that is not finite never passes."""
        if self.failed:
            return False
        if self.figure is None or self.tolerance is None:
            return None
        return self.figure <= self.tolerance

    def record(self) -> dict[str, object]:
        """The result as JSON keeps it; figures that are not finite as text."""
        finite = self.figure is None or abs(self.figure) < float("inf")
        return {
            "check": self.check,
            "what": self.what,
            "figure": self.figure if finite else str(self.figure),
            "tolerance": self.tolerance,
            "passed": self.passed,
            "note": self.note,
        }


def table(results: Sequence[Result]) -> str:
    """The results as text, one a line."""
    marks = {True: PASSED, False: FAILED, None: NOT_RUN}
    rows = [("check", "fact", "figure", "tolerance", "")]
    rows += [
        (each.check, each.what, _number(each.figure), _number(each.tolerance), marks[each.passed])
        for each in results
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    notes = ["", *(each.note for each in results)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), note]).rstrip()
        for row, note in zip(rows, notes)
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"
