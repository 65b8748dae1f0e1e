"""Sign-in by OpenID Connect against a provider that runs on this machine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from generator.output import InputError
from labeling_app.people.groups import groups
from labeling_app.people.provider_accounts import NOT_ADMITTED
from labeling_app.people.status import deactivate, remove
from labeling_app.store.store import Store
from labeling_app.web.provider import CALLBACK, NOT_COMPLETED, NOT_REACHED, SECRET, read_provider
from labeling_app.web.server import create_app
from tests.labeling_app.openid_provider import CLIENT, CLIENT_SECRET, OpenIDProvider, start_provider

PASSWORD = "correct horse"
ADDRESS = "http://127.0.0.1:7860/label/"
ADA = {"sub": "1", "email": "Ada@example.org", "email_verified": True, "groups": ["raters", "night shift"]}


@pytest.fixture(scope="module")
def running() -> Iterator[OpenIDProvider]:
    made = OpenIDProvider(redirect_uri=f"{ADDRESS}{CALLBACK}")
    server = start_provider(made)
    yield made
    server.should_exit = True


@pytest.fixture
def openid(running: OpenIDProvider) -> OpenIDProvider:
    running.person, running.changes, running.only_user_info = dict(ADA), {}, False
    running.signing_key, running.refuses, running.redirect_uri = None, False, f"{ADDRESS}{CALLBACK}"
    return running


@pytest.fixture
def store(sqlite_file: Path) -> Any:
    with Store(sqlite_file) as opened:
        yield opened


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openid: OpenIDProvider) -> Callable[..., Path]:
    """Writes the file that `label serve --oidc` reads."""
    monkeypatch.setenv(SECRET, CLIENT_SECRET)

    def write(**changes: Any) -> Path:
        found = {"name": "Example", "issuer": openid.url, "client_id": CLIENT, "address": ADDRESS, **changes}
        path = tmp_path / "oidc.json"
        path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
        return path

    return write


@pytest.fixture
def browser(store: Store, settings: Callable[..., Path]) -> Callable[..., TestClient]:
    def start(**changes: Any) -> TestClient:
        app = create_app(store, provider=read_provider(settings(**changes)))
        return TestClient(app, follow_redirects=False)

    return start


def leave(client: TestClient) -> str:
    """Goes to the provider; returns the path and query by which it sends the browser back."""
    away = client.get("/login-provider")
    assert away.status_code == 303
    back = httpx.get(away.headers["location"]).headers["location"]
    return back.replace(ADDRESS, "/")


def sign_in(client: TestClient) -> httpx.Response:
    return client.get(leave(client))


def test_an_existing_person_signs_in_and_comes_back_by_the_same_account(
    store: Store, browser: Callable[..., TestClient], openid: OpenIDProvider
) -> None:
    store.add_user("ada@example.org", PASSWORD)
    client = browser()
    assert '<a class="provider" href="login-provider">Log in with Example</a>' in client.get("/login").text
    asked = parse_qs(urlsplit(client.get("/login-provider").headers["location"]).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert asked["redirect_uri"] == [f"{ADDRESS}login-callback"]
    assert {"state", "nonce", "code_challenge"} <= set(asked)
    entered = sign_in(client)
    assert (entered.status_code, entered.headers["location"]) == (303, "rank/")
    assert client.get("/api/next").json()["user"] == "ada@example.org"
    openid.person["email"] = "ada.new@example.org"  # the account is known by its subject
    client.cookies.clear()
    assert sign_in(client).status_code == 303
    assert client.get("/api/next").json()["user"] == "ada@example.org"
    openid.person = {**ADA, "sub": "2"}  # somebody else with the same address
    assert NOT_ADMITTED in sign_in(client).text
    assert store.audit_events(1)[0].action == "failed provider login"


def test_without_passwords_the_page_has_the_provider_alone(
    store: Store, settings: Callable[..., Path], openid: OpenIDProvider
) -> None:
    path = settings(name_claim="preferred_username", anyone=True, leads=["lea"], scope="openid profile")
    app = create_app(store, provider=read_provider(path), passwords=False, framed_by="https://huggingface.co")
    client = TestClient(app, follow_redirects=False)
    assert client.get("/rank/").headers["location"] == "../login"
    page = client.get("/login", headers={"accept-language": "de"})
    assert '<a class="provider primary" href="login-provider">Anmelden mit Example</a>' in page.text
    assert "<form" not in page.text
    assert "Ihrem Konto bei Example" in page.text
    assert "link.target = '_blank'" in page.text  # within another site's page, where browsers keep no login
    assert page.headers["content-security-policy"].endswith("frame-ancestors https://huggingface.co")
    assert client.post("/login", data={"name": "ada", "password": "x"}).status_code == 405
    assert client.get("/invitation").status_code == 404
    asked = parse_qs(urlsplit(client.get("/login-provider").headers["location"]).query)
    assert asked["scope"] == ["openid profile"]
    for name, to, status in (("ada", "rank/", 403), ("lea", "lead/", 200)):
        openid.person = {"sub": name, "preferred_username": name}
        assert sign_in(client).headers["location"] == to
        assert client.get("/api/lead/overview").status_code == status
        assert client.post("/logout").status_code == 303
        assert client.get("/api/next").status_code == 401
    openid.refuses = True
    assert NOT_COMPLETED in sign_in(client).text


def test_cookies_are_for_https_alone_where_browsers_come_by_it(
    store: Store, browser: Callable[..., TestClient], openid: OpenIDProvider
) -> None:
    openid.redirect_uri = f"https://labels.example/{CALLBACK}"
    client = browser(address="https://labels.example", domains=["example.org"])
    away = client.get("/login-provider")  # the proxy speaks HTTP with this server
    cookie = away.headers["set-cookie"]
    assert "Secure" in cookie
    back = httpx.get(away.headers["location"]).headers["location"].replace("https://labels.example", "")
    entered = client.get(back, headers={"cookie": cookie.partition(";")[0]})
    assert entered.status_code == 303
    kept = [value for value in entered.headers.get_list("set-cookie") if "Max-Age=0" not in value]
    assert ["Secure" in value for value in kept] == [True]


def test_only_existing_people_or_only_allowed_domains_come_in(
    store: Store, browser: Callable[..., TestClient], openid: OpenIDProvider
) -> None:
    stranger = sign_in(browser())
    assert (stranger.status_code, NOT_ADMITTED in stranger.text) == (403, True)
    strict = browser(domains=["example.org"])
    for claims in (
        {"email": "eve@evil.example"},
        {"email": "eve@example.org.evil.example"},
        {"email_verified": False},
        {"email_verified": "true"},
        {"email": None},
    ):
        openid.person = {**ADA, **claims}
        assert NOT_ADMITTED in sign_in(strict).text
    assert store.users() == []
    openid.person = dict(ADA)
    assert sign_in(strict).status_code == 303
    assert [(user.name, user.role, user.password_hash) for user in store.users()] == [
        ("Ada@example.org", "annotator", "")
    ]


def test_who_was_deactivated_or_removed_does_not_come_in_again(
    store: Store, browser: Callable[..., TestClient]
) -> None:
    client = browser(domains=["example.org"])
    assert sign_in(client).status_code == 303
    for leaves in (deactivate, remove):
        leaves(store, "Ada@example.org")
        assert client.get("/api/next").status_code == 401
        assert NOT_ADMITTED in sign_in(client).text
    assert len(store.users()) == 1


def test_claims_give_roles_and_groups_at_each_sign_in(
    store: Store, browser: Callable[..., TestClient], openid: OpenIDProvider
) -> None:
    openid.only_user_info = True  # the ID token says nothing but who it is
    client = browser(
        domains=["example.org"],
        role_claim="groups",
        roles={"raters": "annotator", "chiefs": "lead"},
        group_claim="groups",
        groups={"night shift": "night", "day shift": "day"},
    )
    assert sign_in(client).headers["location"] == "rank/"
    assert [(group.name, group.members) for group in groups(store)] == [("night", ("Ada@example.org",))]
    openid.person["groups"] = ["chiefs", "raters", "day shift"]
    assert sign_in(client).headers["location"] == "lead/"
    assert [(group.name, len(group.members)) for group in groups(store)] == [("day", 1), ("night", 0)]
    openid.person["groups"] = "unknown"
    assert sign_in(client).headers["location"] == "rank/"
    assert store.users()[0].role == "annotator"


def test_an_id_token_that_is_not_for_this_sign_in_is_refused(
    store: Store, browser: Callable[..., TestClient], openid: OpenIDProvider
) -> None:
    client = browser(domains=["example.org"])
    for changes in (
        {"iss": "https://evil.example"},
        {"aud": "another app"},
        {"aud": [CLIENT, "another app"], "azp": "another app"},
        {"aud": [CLIENT, "another app"]},
        {"nonce": "of another sign-in"},
        {"nonce": None},
        {"exp": int(time.time()) - 3600},
        {"exp": None},
        {"sub": ""},
    ):
        openid.changes = changes
        refused = sign_in(client)
        assert (refused.status_code, NOT_COMPLETED in refused.text) == (403, True), changes
    assert store.users() == []
    openid.changes = {"aud": [CLIENT, "another app"], "azp": CLIENT}
    assert sign_in(client).status_code == 303


def test_a_token_with_a_strangers_signature_or_none_is_refused(
    store: Store, browser: Callable[..., TestClient], openid: OpenIDProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    openid.signing_key = OpenIDProvider().key
    client = browser(domains=["example.org"])
    assert NOT_COMPLETED in sign_in(client).text
    openid.signing_key = None
    signed = OpenIDProvider.id_token
    unsigned = "eyJhbGciOiJub25lIn0"  # {"alg":"none"}
    monkeypatch.setattr(
        OpenIDProvider, "id_token", lambda self, nonce: f"{unsigned}.{signed(self, nonce).split('.')[1]}."
    )
    assert NOT_COMPLETED in sign_in(client).text
    assert store.users() == []


def test_state_browser_and_code_hold_for_one_sign_in_of_one_browser(
    store: Store, browser: Callable[..., TestClient], openid: OpenIDProvider
) -> None:
    ada = browser(domains=["example.org"])
    eve = TestClient(ada.app, follow_redirects=False)
    back = leave(ada)
    leave(eve)
    assert NOT_COMPLETED in eve.get(back).text  # the state of another browser
    assert NOT_COMPLETED in eve.get(back).text  # no cookie any more
    assert ada.get(back).status_code == 303
    assert NOT_COMPLETED in ada.get(back).text  # again
    for change in (("state=", "state=x"), ("code=", "other="), ("code=", "code=x"), ("iss=", "iss=x")):
        back = leave(ada)
        assert NOT_COMPLETED in ada.get(back.replace(*change)).text
    reasons = [event.details["reason"] for event in store.audit_events(4)]
    assert len(set(reasons)) == 4
    openid.codes.clear()


def test_a_provider_that_is_not_there_is_one_sentence(browser: Callable[..., TestClient]) -> None:
    away = browser(issuer="http://127.0.0.1:9").get("/login-provider")
    assert (away.status_code, NOT_REACHED in away.text) == (503, True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"issuer": "http://id.example"}, "begins with https"),
        ({"address": None}, "lacks 'address'"),
        ({"client_secret": "x"}, r"unknown settings \(client_secret\)"),
        ({"roles": {"a": "king"}, "role_claim": "groups"}, "role 'king' is unknown"),
        ({"roles": {"a": "lead"}}, "without role_claim"),
        ({"domains": "example.org"}, "give a list"),
        ({"leads": [1]}, "leads is"),
        ({"anyone": "yes"}, "give true or false"),
        ({"anyone": True, "role_claim": "groups"}, "has anyone and role_claim"),
        ({"scope": "email"}, "lacks openid"),
    ],
    ids=str,
)
def test_settings_that_are_wrong_are_refused_in_one_sentence(
    settings: Callable[..., Path], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        read_provider(settings(**changes))


def test_the_secret_comes_from_the_environment(
    settings: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settings()
    monkeypatch.delenv(SECRET)
    with pytest.raises(InputError, match=f"set the environment variable {SECRET}"):
        read_provider(path)
