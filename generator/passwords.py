"""Passwords in addresses, which no message, log, record, model card or report may show."""

from __future__ import annotations

import re

# Up to the last @ of an address, since a password may hold one; what follows the next :// is another address.
_USER = re.compile(r"(?<=://)(?:(?!://)[^\s'\"])*@")
_QUERY = re.compile(r"([?&][\w-]*(?:password|passwd|passphrase|secret|token)=)[^\s&#'\"]+", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """Returns the text with `***` for the user and password of each address and for passwords in its query."""
    return _QUERY.sub(r"\1***", _USER.sub("***@", text)) if "://" in text or "=" in text else text


def holds_password(text: str) -> bool:
    """Returns whether `without_passwords` changes the text."""
    return without_passwords(text) != text
