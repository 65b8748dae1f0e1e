"""The labeling app launched from scripts and notebooks."""

from __future__ import annotations

import gc
import importlib
import re
import sys
import threading
from pathlib import Path

import httpx
import pytest
import uvicorn
from gradio import networking

import vidalign
from generator.output import InputError
from labeling_app.store.store import Store
from labeling_app.web import launching
from vidalign import labeling_app


def test_the_callable_leaves_the_package_of_its_name_alone() -> None:
    package = importlib.import_module("labeling_app")
    assert package.__path__
    assert vidalign.labeling_app is labeling_app
    assert importlib.import_module("labeling_app.store").Store is Store


def test_a_launched_app_asks_for_the_login_and_ends_with_close(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = labeling_app(tmp_path / "labels.db")
    local, share = app.launch(prevent_thread_lock=True, server_port=0)
    assert share is None
    assert httpx.get(f"{local}/api/next").status_code == 401
    assert httpx.get(f"{local}/rank/", follow_redirects=True).url.path == "/login"
    password = re.search(r"Made the first user: admin, password (\S+) ", capsys.readouterr().out)
    assert password
    with httpx.Client(base_url=local) as client:
        assert client.post("/login", data={"name": "admin", "password": password[1]}).status_code == 303
        assert client.get("/api/next").json()["lead"]
    with pytest.raises(InputError, match=r"runs at http.* already"):
        app.launch(prevent_thread_lock=True)
    app.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(local)
    with Store(tmp_path / "labels.db") as store:
        assert [(event.user_name, event.action) for event in store.audit_events()][-1] == (
            "python",
            "add user",
        )


def test_without_the_lock_prevented_a_script_waits_until_the_server_ends(tmp_path: Path) -> None:
    app, returned = labeling_app(tmp_path / "labels.db"), []
    script = threading.Thread(target=lambda: returned.append(app.launch(server_port=0)), daemon=True)
    script.start()
    while app.addresses is None:
        script.join(timeout=0.05)
        assert script.is_alive()
    assert httpx.get(f"{app.addresses.local}/login").status_code == 200
    assert script.is_alive()
    assert app._server is not None
    local = app.addresses.local
    app._server.should_exit = True
    script.join(timeout=10)
    assert returned == [(local, None)]


def test_a_public_address_is_opened_through_gradio_or_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def open_tunnel(host: str, port: int, *rest: object) -> str:
        opened.append(f"http://{host}:{port}")
        return "http://abc.gradio.live"

    monkeypatch.setattr(networking, "setup_tunnel", open_tunnel)
    with labeling_app(tmp_path / "labels.db") as app:
        local, share = app.launch(share=True, prevent_thread_lock=True, server_port=0)
        assert (opened, share) == ([local], "https://abc.gradio.live")

    def fail(*rest: object) -> str:
        raise RuntimeError("Could not get share link from Gradio API Server.")

    monkeypatch.setattr(networking, "setup_tunnel", fail)
    with labeling_app(tmp_path / "labels.db") as app:
        with pytest.raises(InputError, match=r"public address cannot be opened \(Could not get share link"):
            app.launch(share=True, prevent_thread_lock=True, server_port=0)
        assert app.addresses is None


def test_a_refused_launch_leaves_no_database(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no campaign"):
        labeling_app(tmp_path / "labels.db", campaign="nothing")
    with pytest.raises(InputError, match="does not exist"):
        labeling_app(tmp_path / "labels.db", candidates=tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_a_full_collection_in_the_server_passes_over_what_the_start_has_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_collected() -> bool:
        return any(each is vars(launching) for each in gc.get_objects())

    found: list[bool] = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: found.append(is_collected()))
    monkeypatch.setattr(sys, "setswitchinterval", lambda seconds: None)
    gc.unfreeze()  # the tests freeze their imports too
    with labeling_app(tmp_path / "labels.db") as app:
        found.append(is_collected())
        app.serve("127.0.0.1", 0)
    assert found == [True, False]
