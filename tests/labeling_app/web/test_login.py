"""Passwords and throttling."""

from __future__ import annotations

from typing import Any

import pytest

from labeling_app.store.passwords import hash_password, verify_password
from labeling_app.web.login_throttle import LoginThrottle


@pytest.fixture(autouse=True)
def cheap_passwords() -> None:
    """Hashes passwords as it is shipped."""


def test_a_password_has_a_new_hash_each_time_and_verifies() -> None:
    first, second = hash_password("correct horse"), hash_password("correct horse")
    assert first != second
    assert first.startswith("scrypt$16384$8$1$")
    assert verify_password("correct horse", first)
    assert not verify_password("correct horsf", first)


def test_no_password_opens_a_user_without_one() -> None:
    assert not verify_password("", "")
    assert not verify_password("x", "")


def test_failures_close_the_door_for_longer_each_time(clock: Any) -> None:
    throttle = LoginThrottle(free_attempts=3, longest_wait=10.0, clock=clock)
    for _ in range(2):
        throttle.failed("ada")
        assert throttle.wait("ada") == 0
    waits = []
    for _ in range(5):
        throttle.failed("ada")
        waits.append(throttle.wait("ada"))
        clock.now += waits[-1]
        assert throttle.wait("ada") == 0
    assert waits == [2, 4, 8, 10, 10]
    assert throttle.wait("bob") == 0
    throttle.failed("ada")
    throttle.succeeded("ada")
    assert throttle.wait("ada") == 0
