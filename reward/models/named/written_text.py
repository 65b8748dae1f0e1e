"""Formulas of the reward for text in pictures: which text a prompt asks for, and how near to it is what was read."""

from __future__ import annotations

import re
import unicodedata

_QUOTED = re.compile(
    r"\"([^\"]+)\"|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»|「([^」]+)」|『([^』]+)』|‘([^’]+)’(?!\w)|(?<!\w)'([^']+)'(?!\w)"
)


def quoted_texts(prompt: str) -> list[str]:
    """The texts between quotation marks, in their order; an apostrophe inside a word is none.

    >>> quoted_texts('A sign says "OPEN", the cat\\'s mug says \\'HI\\'')
    ['OPEN', 'HI']
    """
    found = (next(filter(None, match.groups())) for match in _QUOTED.finditer(prompt))
    return [text for text in found if letters(text)]


def letters(text: str) -> str:
    """The letters and digits of a text, in one case and width (NFKC)."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(sign for sign in folded if unicodedata.category(sign)[0] in "LN")


def edit_distance(first: str, second: str) -> int:
    """Levenshtein's distance: the fewest insertions, deletions and substitutions that turn one into the other."""
    row = list(range(len(second) + 1))
    for number, sign in enumerate(first, 1):
        above, row = row, [number]
        for place, other in enumerate(second, 1):
            row.append(min(above[place] + 1, row[-1] + 1, above[place - 1] + (sign != other)))
    return row[-1]


def text_score(read: str, target: str, exact: bool = False) -> float:
    """1 − min(d, n) / n of letters and digits, where d is the edit distance and n the length of the target.

    Where the target is contained in what was read, d is 0 (Flow-GRPO, arXiv 2505.05470, section 5.1), which a picture
    full of text exploits; `exact` counts surplus text too.
    """
    found, wanted = letters(read), letters(target)
    if not exact and wanted in found:
        return 1.0
    return 1 - min(edit_distance(found, wanted), len(wanted)) / len(wanted)
