"""Signing in with an account of Hugging Face, against a provider on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from labeling_app.store.store import Store
from labeling_app.web.access import Access
from labeling_app.web.huggingface_login import HuggingFaceLogin
from labeling_app.web.login_throttle import LoginThrottle
from labeling_app.web.server import create_app
from tests.labeling_app.web.openid_provider import CLIENT, SECRET, OpenIdProvider


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "labels.db") as opened:
        yield opened


@pytest.fixture
def provider() -> Iterator[OpenIdProvider]:
    with OpenIdProvider() as running:
        yield running


def browser(store: Store, provider: OpenIdProvider, **settings: Any) -> TestClient:
    login = HuggingFaceLogin(provider.address, CLIENT, SECRET, "http://testserver", **settings)
    app = create_app(store, add_login=login, framed_by="https://huggingface.co")
    return TestClient(app, follow_redirects=False)


def sign_in_alone(store: Store, provider: OpenIdProvider, **settings: Any) -> TestClient:
    """A browser before the sign-in alone, without the pages of the app."""
    app = FastAPI()
    access = Access(store, LoginThrottle(), LoginThrottle())
    HuggingFaceLogin(provider.address, CLIENT, SECRET, "http://testserver", **settings)(app, access)
    return TestClient(app, follow_redirects=False)


def come_back(client: TestClient, provider: OpenIdProvider, name: str, subject: str) -> str:
    """The address to which the provider sends a browser that signs in by this account."""
    provider.account = {"sub": subject, "preferred_username": name}
    begun = client.get("/login/huggingface")
    assert begun.status_code == 303
    assert begun.headers["location"].startswith(f"{provider.address}/authorization?")
    return httpx.get(begun.headers["location"]).headers["location"]


def sign_in(client: TestClient, provider: OpenIdProvider, name: str, subject: str) -> httpx.Response:
    return client.get(come_back(client, provider, name, subject))


def test_accounts_become_annotators_and_named_ones_leads(store: Store, provider: OpenIdProvider) -> None:
    client = browser(store, provider, leads=["Lea"])
    assert client.get("/rank/").headers["location"] == "../login"
    page = client.get("/login")
    assert 'href="login/huggingface"' in page.text
    assert "password" not in page.text
    assert page.headers["content-security-policy"].endswith("frame-ancestors https://huggingface.co")
    assert client.post("/login", data={"name": "ada", "password": "x"}).status_code == 405
    assert sign_in(client, provider, "ada", "1").headers["location"] == "../rank/"
    assert client.get("/api/next").json()["user"] == "ada"
    assert client.get("/api/lead/overview").status_code == 403
    assert client.post("/logout").status_code == 303
    assert client.get("/api/next").status_code == 401
    assert sign_in(client, provider, "lea", "2").headers["location"] == "../lead/"
    assert client.get("/api/lead/overview").status_code == 200
    assert [(user.name, user.role, user.password_hash) for user in store.users()] == [
        ("ada", "annotator", ""),
        ("lea", "lead", ""),
    ]
    actions = [(event.user_name, event.action) for event in reversed(store.audit_events())]
    assert actions == [("ada", "add user"), ("ada", "login"), ("lea", "add user"), ("lea", "login")]


def test_a_renamed_account_stays_the_user_and_nobody_takes_over_a_name(
    store: Store, provider: OpenIdProvider
) -> None:
    store.add_user("ada", "correct horse", role="admin")
    client = browser(store, provider, leads=["ada"])
    for name, subject, user in (("ada", "1", "ada-2"), ("countess", "1", "ada-2"), ("ada", "2", "ada-3")):
        sign_in(client, provider, name, subject)
        assert client.get("/api/next").json()["user"] == user
    assert {user.name: user.role for user in store.users()} == {
        "ada": "admin",
        "ada-2": "annotator",  # no lead any more under the new name
        "ada-3": "lead",
    }


def test_only_invited_accounts_come_in_where_some_are_named(store: Store, provider: OpenIdProvider) -> None:
    client = sign_in_alone(store, provider, leads=["lea"], annotators=["ada"])
    for name, status in (("ada", 303), ("lea", 303), ("eve", 403)):
        assert sign_in(client, provider, name, name).status_code == status
    assert "eve is not invited" in sign_in(client, provider, "eve", "eve").text
    assert {user.name for user in store.users()} == {"ada", "lea"}


def test_a_sign_in_of_another_browser_or_a_forged_one_is_refused(
    store: Store, provider: OpenIdProvider
) -> None:
    client = sign_in_alone(store, provider)
    other = TestClient(client.app, follow_redirects=False)
    address = come_back(client, provider, "ada", "1")
    assert other.get(address).status_code == 400
    assert client.get("/login/callback?code=code-0&state=ü").status_code == 400
    assert client.get(address).status_code == 303
    assert client.get(address).status_code == 400  # the cookie was for one time
    again = come_back(client, provider, "ada", "1")
    forged = client.get(re.sub("code=[^&]+", "code=made-up", again))
    assert (forged.status_code, "did not say who you are" in forged.text) == (502, True)
    provider.refuses = True
    assert sign_in(client, provider, "ada", "1").status_code == 403
    assert [user.name for user in store.users()] == ["ada"]


def test_a_provider_that_is_down_and_a_name_that_is_none_are_one_sentence(
    store: Store, provider: OpenIdProvider
) -> None:
    client = sign_in_alone(store, provider)
    unnamed = sign_in(client, provider, " ", "1")
    assert (unnamed.status_code, "no usable name" in unnamed.text) == (403, True)
    provider.address = "http://127.0.0.1:1"
    down = sign_in_alone(store, provider).get("/login/huggingface")
    assert (down.status_code, "cannot be reached" in down.text) == (502, True)
    assert store.users() == []
