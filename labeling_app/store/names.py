"""Names and texts that every database can keep, and in which two spellings of one letter are one."""

from __future__ import annotations

import unicodedata

_NO_JOINERS = dict.fromkeys(map(ord, "\u200c\u200d"))


def is_name(text: str, longest: int) -> bool:
    """Returns whether a text is a name of 1 to `longest` printable characters; joiners of scripts are such."""
    return 0 < len(text.strip()) <= len(text) <= longest and text.translate(_NO_JOINERS).isprintable()


def composed(name: str) -> str:
    """The name in Unicode's form NFC, without space around it.

    "José" may be typed as four characters or as five; both are the same name.
    """
    return unicodedata.normalize("NFC", name).strip()
