"""Behind a real nginx, which puts the app under a path of another name."""

from __future__ import annotations

import http.cookiejar
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alignment.cli import main
from labeling_app.people.provider_accounts import AccountRules
from labeling_app.store.guidelines import set_guidelines
from labeling_app.store.store import Store
from labeling_app.web.provider import Provider, ProviderSettings
from tests.labeling_app.openid_provider import CLIENT, CLIENT_SECRET, OpenIDProvider, start_provider

PASSWORD = "correct horse"
CONFIGURATION = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1; {user}
events {{ }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{
    listen 127.0.0.1:{port};
    location /label/ {{ proxy_pass {url}/; proxy_set_header Host {host}; }}
  }}
}}
"""


@pytest.fixture
def store(sqlite_file: Path) -> Iterator[Store]:
    with Store(sqlite_file) as opened:
        yield opened


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Callable[[str, str], str]]:
    """Starts nginx before a server; gives the address under which browsers see the app."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(program).exists():
        if os.environ.get("CI") == "true":
            pytest.fail("nginx is missing: apt-get install nginx", pytrace=False)
        pytest.skip("nginx is missing: apt-get install nginx")
    running: list[subprocess.Popen[bytes]] = []

    def start(url: str, host: str) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        user = "user root;" if os.geteuid() == 0 else ""
        text = CONFIGURATION.format(folder=tmp_path, port=port, url=url, host=host, user=user)
        (tmp_path / "nginx.conf").write_text(text)
        log = str(tmp_path / "error.log")
        running.append(subprocess.Popen([program, "-e", log, "-c", str(tmp_path / "nginx.conf")]))
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return f"http://127.0.0.1:{port}/label/"
            time.sleep(0.05)
        raise AssertionError((tmp_path / "error.log").read_text())

    yield start
    for process in running:
        process.terminate()
        process.wait(timeout=10)


def log_in(address: str) -> tuple[urllib.request.OpenerDirector, str]:
    """A browser's requests to log in; the opener and where it ends."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    form = urllib.parse.urlencode({"name": "lea", "password": PASSWORD}).encode()
    parts = urllib.parse.urlsplit(address)
    origin = {"Origin": f"{parts.scheme}://{parts.netloc}"}
    with opener.open(urllib.request.Request(f"{address}login", form, origin)) as answer:
        return opener, answer.url


def test_every_redirect_stays_under_the_path(
    filled: Store, serve: Callable[..., Any], proxy: Callable[[str, str], str]
) -> None:
    filled.add_user("lea", PASSWORD, role="lead")
    address = proxy(serve(filled).url, "$http_host")
    with urllib.request.urlopen(f"{address}rank") as answer:
        assert answer.url == f"{address}login"
    opener, ended = log_in(address)
    assert ended == f"{address}lead/"
    for path in ("rank", "lead", "demonstrate"):
        with opener.open(f"{address}{path}") as answer:
            assert answer.url == f"{address}{path}/"


def test_who_signs_in_by_a_provider_comes_back_under_the_path(
    store: Store, serve: Callable[..., Any], proxy: Callable[[str, str], str]
) -> None:
    store.add_user("ada", PASSWORD)
    openid = OpenIDProvider(person={"sub": "1", "preferred_username": "ada"})
    running = start_provider(openid)
    rules = AccountRules(name_claim="preferred_username")
    provider = Provider(ProviderSettings("Example", openid.url, CLIENT, "", rules=rules), CLIENT_SECRET)
    address = proxy(serve(store, provider=provider).url, "$http_host")
    provider.settings = replace(provider.settings, address=address)
    openid.redirect_uri = f"{address}login-callback"
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    with opener.open(f"{address}login-provider") as answer:
        assert answer.url == f"{address}rank/"
    with opener.open(f"{address}api/next") as answer:
        assert json.loads(answer.read())["user"] == "ada"
    running.should_exit = True


def test_the_pages_ask_for_nothing_outside_the_path(
    page: Any, filled: Store, serve: Callable[..., Any], proxy: Callable[[str, str], str]
) -> None:
    filled.add_user("ada", PASSWORD)
    set_guidelines(filled, "main", "Look.")
    address = proxy(serve(filled).url, "$http_host")
    asked: list[tuple[int, str]] = []
    page.on("response", lambda response: asked.append((response.status, response.url)))
    page.goto(f"{address}rank")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("button", name="I have read them").click()
    page.wait_for_function(
        "document.querySelectorAll('.card').length && !document.querySelector('.card:not(.seen)')"
    )
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("Name").wait_for()
    outside = [url for _, url in asked if not url.startswith((address, "data:", "blob:"))]
    assert outside == []
    assert [url for status, url in asked if status >= 400] == []


@pytest.mark.parametrize("host", ["$host", "inside.example"])
def test_a_proxy_that_changes_the_host_is_told_both_names_and_the_line_to_write(
    filled: Store, serve: Callable[..., Any], proxy: Callable[[str, str], str], host: str
) -> None:
    filled.add_user("lea", PASSWORD, role="lead")
    address = proxy(serve(filled).url, host)
    with pytest.raises(urllib.error.HTTPError) as refused:
        log_in(address)
    said = json.loads(refused.value.read())["message"]
    assert refused.value.code == 403
    seen = "127.0.0.1" if host == "$host" else host
    for named in (address.removesuffix("/label/"), repr(seen), "proxy_set_header Host $http_host"):
        assert named in said


def test_the_address_is_printed_once_connections_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connected to from inside the very `print`, so that no time passes in between."""
    import uvicorn

    statuses: list[int] = []
    servers: list[uvicorn.Server] = []
    constructed = uvicorn.Server.__init__

    def remember(self: uvicorn.Server, config: uvicorn.Config) -> None:
        servers.append(self)
        constructed(self, config)

    def connect(*words: object, **_: object) -> None:
        if found := re.search(r"Labeling app: (http://\S+)", " ".join(map(str, words))):
            address = urllib.parse.urlsplit(found[1])
            with socket.socket() as probe:
                statuses.append(probe.connect_ex((address.hostname, address.port)))
            servers[0].should_exit = True

    monkeypatch.setattr(uvicorn.Server, "__init__", remember)
    monkeypatch.setattr("builtins.print", connect)
    thread = threading.Thread(
        target=main, args=(["label", "serve", "--db", str(tmp_path / "labels.db"), "--port", "0"],)
    )
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert statuses == [0]
