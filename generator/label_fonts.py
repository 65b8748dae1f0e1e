"""Fonts for the names of campaigns, people, models and prompts in pictures: users write them in any script.

matplotlib and Pillow draw with fonts of this machine, of which none may know a character; then a box stands for it.
"""

from __future__ import annotations

from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

BOX = "□"
"""Character that stands for one that no font here can draw; matplotlib's own font has it."""
OWN = "DejaVu Sans"
"""Font that matplotlib brings along."""
PREFERRED = ("Noto Sans", "Source Han Sans", "WenQuanYi", "Droid Sans", "IPA", "Nanum")
"""Beginnings of the names of fonts that are taken before others."""
UNUSED = ("Last Resort", ".LastResort", "Adobe Blank", "cm", "STIXNon", "STIXSize")
"""Beginnings of the names of fonts that have a picture for every character and know none, or pictures of mathematics in
the places of other characters."""


def plot_label(text: str) -> str:
    """Text as a label of matplotlib: fonts for its characters are among those of all plots from now on, a box stands
    for each character that no font here has, and it is never mathematics."""
    import matplotlib

    known = list(matplotlib.rcParams["font.family"])
    if "sans-serif" in known and matplotlib.rcParams["font.sans-serif"][0] == OWN:
        known.append(OWN)  # by another name
    needed = {_family_with(character) for character in text if character != "\n"}
    more = sorted(family for family in needed if family is not None and family not in known)
    if more:
        matplotlib.rcParams["font.family"] = [*matplotlib.rcParams["font.family"], *more]
    return with_boxes(text).replace("$", r"\$")


def with_boxes(text: str) -> str:
    """Text with a box for each character that no font here can draw."""
    return "".join(
        character if character == "\n" or _family_with(character) is not None else BOX for character in text
    )


def picture_font(text: str, size: int) -> tuple[FreeTypeFont | BitmapFont, str]:
    """The font for Pillow that draws most characters of a text, and the text with boxes for the others.

    Args:
        size: pixels; Pillow's own font of this size where the text is ASCII.
    """
    from PIL import ImageFont

    if text.isascii():
        return ImageFont.load_default(size), text
    families = {OWN, *(_family_with(character) or OWN for character in text)}
    known = {family: {c for c in text if c == "\n" or _draws(_file_of(family), c)} for family in families}
    best = max(sorted(families), key=lambda family: len(known[family]))
    shown = "".join(character if character in known[best] else BOX for character in text)
    if not _draws(_file_of(best), BOX):
        shown = shown.replace(BOX, "?")
    return ImageFont.truetype(_file_of(best), size), shown


@lru_cache(maxsize=100_000)
def _family_with(character: str) -> str | None:
    """Family of an installed font that draws a character, matplotlib's own before others; None where there is none."""
    return next((family for family in _families() if _draws(_file_of(family), character)), None)


@cache
def _families() -> tuple[str, ...]:
    """Families with upright letters of the usual weight, in the order in which they are asked for a character."""
    from matplotlib import font_manager

    usual = (400, "normal", "regular", "book")
    entries = font_manager.fontManager.ttflist
    names = {entry.name for entry in entries if entry.style == "normal" and entry.weight in usual}
    names -= {name for name in names if name.startswith(UNUSED)}
    return tuple(sorted(names, key=lambda name: (name != OWN, not name.startswith(PREFERRED), name)))


@cache
def _file_of(family: str) -> str:
    """File that matplotlib takes for a family."""
    from matplotlib import font_manager

    return str(font_manager.findfont(font_manager.FontProperties(family=[family])))


@cache
def _opened(file: str) -> Any:
    """The font in a file, and the characters that it has; None where it cannot be drawn from, such as pictures of
    emoji in colours."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(str(Path(file)))
        font.set_size(12, 72)
        return font, font.get_charmap()
    except (OSError, RuntimeError):
        return None


def _draws(file: str, character: str) -> bool:
    opened = _opened(file)
    return opened is not None and ord(character) in opened[1]
