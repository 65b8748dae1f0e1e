"""Names in any script are drawn without a warning, by a font that has them or as a box."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from PIL import Image

from generator import label_fonts
from generator.label_fonts import BOX, OWN, picture_font, plot_label
from generator.video import contact_sheet

NAMES = ["Ωmega été", "王小明", "🙂 run", "a\nb", "costs $1$ or $2$"]


@pytest.fixture(autouse=True)
def only_own_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine that has the fonts of matplotlib alone; its settings are as they were afterwards."""
    with matplotlib.rc_context():
        label_fonts._family_with.cache_clear()
        monkeypatch.setattr(label_fonts, "_families", lambda: (OWN, "STIXGeneral"))
        yield
    label_fonts._family_with.cache_clear()


def drawn(labels: list[str], path: Path) -> None:
    figure = Figure(figsize=(3, 3))
    axes = figure.subplots()
    for label in labels:
        axes.plot([0, 1], label=label)
    axes.set_xticks(range(len(labels)), labels)
    axes.legend()
    figure.savefig(path)


def test_names_in_any_script_are_drawn_without_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Glyph"):
        drawn([NAMES[1]], tmp_path / "plain.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn([plot_label(name) for name in NAMES], tmp_path / "plot.png")
    assert [plot_label(name) for name in NAMES[:4]] == [NAMES[0], BOX * 3, f"{BOX} run", NAMES[3]]
    assert matplotlib.rcParams["font.family"] == ["sans-serif"], "no font but matplotlib's own was needed"


def test_a_font_that_has_the_characters_joins_those_of_all_plots(tmp_path: Path) -> None:
    own, other = (set(FT2Font(label_fonts._file_of(name)).get_charmap()) for name in (OWN, "STIXGeneral"))
    character = chr(max(code for code in other - own if code < 0xE000))
    assert plot_label(character) == character
    assert matplotlib.rcParams["font.family"] == ["sans-serif", "STIXGeneral"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn([character], tmp_path / "plot.png")


def test_pictures_show_what_a_font_has_and_boxes_for_the_rest(tmp_path: Path) -> None:
    assert picture_font("plain", 11)[1] == "plain"
    font, text = picture_font("Ωmega 王", 11)
    assert text == f"Ωmega {BOX}"
    assert font.getname()[0] == OWN
    for name, label in (("greek", "Ω"), ("mark", "?")):
        contact_sheet([torch.zeros(3, 1, 32, 32)], tmp_path / f"{name}.png", labels=[label])
    greek, mark = (np.asarray(Image.open(tmp_path / f"{name}.png"))[:14] for name in ("greek", "mark"))
    assert (greek != mark).any(), "letters beyond Latin are no question marks"
