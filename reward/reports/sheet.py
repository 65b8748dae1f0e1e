"""Page of stills in groups, such as the clips that a preparation kept and the parts that it left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from reward.reports.html import GalleryCell, environment


@dataclass(frozen=True)
class Stills:
    """A group of stills.

    Attributes:
        title: its heading.
        rule: how those that are shown were chosen.
        cells: stills, their names, and what is said of each in `how`.
    """

    title: str
    rule: str
    cells: Sequence[GalleryCell]


def sheet(
    title: str, sentence: str, facts: Mapping[str, str], table: str, groups: Sequence[Stills], details: str
) -> str:
    """A whole HTML document that needs no script, no network and no other file to be read.

    Args:
        title: of the browser's window, and above the result.
        sentence: the result.
        facts: names and values in one line below it.
        table, details: HTML from `reward.reports.html`, at the top and at the end.
    """
    shown = [
        {
            "title": group.title,
            "rule": group.rule,
            "cells": [{**vars(cell), "media": Markup(cell.media)} for cell in group.cells],
        }
        for group in groups
    ]
    return environment.get_template("sheet.html.j2").render(
        title=title,
        sentence=sentence,
        facts=facts,
        table=Markup(table),
        groups=shown,
        details=Markup(details),
    )
