"""No password of an address is shown, and all else stays as it is."""

from __future__ import annotations

import pytest

from generator.output import InputError
from generator.passwords import holds_password, without_passwords


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://anna:s3cret@host:8765/", "http://***@host:8765/"),
        ("--reward http://anna:s3@cret@host", "--reward http://***@host"),
        ("http://anna:s3/cret@host", "http://***@host"),
        ("https://t0ken@host/a", "https://***@host/a"),
        ("runs/a,http://u:p@a,http://v:q@b", "runs/a,http://***@a,http://***@b"),
        ("'http://u:p@a' and postgresql://v:q@b/labels", "'http://***@a' and postgresql://***@b/labels"),
        ("postgresql://b/labels?user=v&password=q#pilot", "postgresql://b/labels?user=v&password=***#pilot"),
        ("https://b/?access_token=q&page=1", "https://b/?access_token=***&page=1"),
    ],
)
def test_passwords_are_replaced_by_stars(text: str, shown: str) -> None:
    assert without_passwords(text) == shown
    assert holds_password(text)
    assert str(InputError(f"There is no {text}.")) == f"There is no {shown}."


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:8765",
        "a letter to anna@host, see https://host/a?b=c",
        "db:labels.db#pilot",
        "module:function",
    ],
)
def test_what_holds_no_password_stays(text: str) -> None:
    assert without_passwords(text) == text
    assert not holds_password(text)
