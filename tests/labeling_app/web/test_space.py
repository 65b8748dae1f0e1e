"""A Hugging Face Space: the folder that the command writes, run as the hub runs it, and the copies of its database."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from huggingface_hub.errors import HfHubHTTPError

from alignment.cli import main
from generator.output import InputError
from labeling_app.store.store import Store
from labeling_app.web import space
from labeling_app.web.space import import_own_tasks, space_settings
from labeling_app.web.space_backup import FILE, DatasetBackup
from tests.labeling_app.openid_provider import CLIENT, CLIENT_SECRET, OpenIDProvider, start_provider

ROOT = Path(__file__).resolve().parents[3]
HUB = {
    "OAUTH_CLIENT_ID": CLIENT,
    "OAUTH_CLIENT_SECRET": CLIENT_SECRET,
    "OPENID_PROVIDER_URL": "https://huggingface.co/",
    "SPACE_HOST": "me-labels.hf.space,labels.example.org",
    "SPACE_AUTHOR_NAME": "me",
}
"""Variables that the hub sets."""


@pytest.fixture
def folder(candidates: Path, tmp_path: Path) -> Path:
    arguments = [
        "--videos",
        str(candidates),
        "--campaign",
        "first",
        "--overlap",
        "2",
        "--title",
        "Rank: “these”",
    ]
    assert main(["label", "space", "--output_dir", str(tmp_path / "space"), *arguments]) == 0
    return tmp_path / "space"


@pytest.fixture
def store(sqlite_file: Path) -> Iterator[Store]:
    with Store(sqlite_file) as opened:
        yield opened


def test_the_folder_asks_for_oauth_and_gives_away_no_model(folder: Path) -> None:
    _, front, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    settings = yaml.safe_load(front)
    assert (settings["title"], settings["sdk"], settings["hf_oauth"]) == ("Rank: “these”", "gradio", True)
    assert (folder / settings["app_file"]).is_file()
    assert "VIDALIGN_LEADS" in text
    assert re.search(r"^vidalign\[oidc\]", (folder / "requirements.txt").read_text(), re.MULTILINE)
    assert len(list((folder / "videos").iterdir())) == 48
    assert "secret-model" not in (folder / "tasks.jsonl").read_text()
    names = {path.name for path in folder.iterdir()}
    assert names == {
        ".vidalign.json", "README.md", "app.py", "campaign.json", "requirements.txt", "tasks.jsonl", "videos",
    }  # fmt: skip


def test_a_refused_folder_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*arguments: str) -> str:
        assert main(["label", "space", *arguments]) == 2
        return capsys.readouterr().err

    capsys.readouterr()
    assert "is not one line of text" in refused("--output_dir", str(tmp_path / "new"), "--title", "a\nb")
    assert "overlap is 0" in refused("--output_dir", str(tmp_path / "new"), "--overlap", "0")
    assert "dimensions are ['taste']" in refused(
        "--output_dir", str(tmp_path / "new"), "--dimensions", "taste"
    )
    assert "does not exist" in refused("--output_dir", str(tmp_path / "new"), "--videos", "nowhere")
    assert not (tmp_path / "new").exists()
    assert "exists and is not empty" in refused("--output_dir", str(folder))
    assert main(["label", "space", "--output_dir", str(folder), "--overwrite"]) == 0
    assert not (folder / "tasks.jsonl").exists()


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    kept = space_settings(tmp_path, HUB | {"VIDALIGN_STORAGE": str(tmp_path)})
    asked = kept.provider.settings
    assert (kept.provider.redirect_uri, asked.issuer, asked.scope) == (
        "https://me-labels.hf.space/login-callback",
        "https://huggingface.co",
        "openid profile",
    )
    assert (asked.rules.anyone, asked.rules.leads, asked.rules.annotators) == (True, ("me",), ())
    assert (kept.storage, kept.dataset, kept.port) == (tmp_path, None, 7860)
    lost = HUB | {"VIDALIGN_STORAGE": str(tmp_path / "none")}
    with pytest.raises(InputError, match="would lose all answers at a restart"):
        space_settings(tmp_path, lost)
    copied = {"VIDALIGN_BACKUP_DATASET": "me/labels", "HF_TOKEN": "secret", "VIDALIGN_LEADS": "lea, max"}
    settings = space_settings(tmp_path, lost | copied)
    assert (settings.storage, settings.dataset, settings.token) == (
        tmp_path / "storage",
        "me/labels",
        "secret",
    )
    assert settings.provider.settings.rules.leads == ("lea", "max")
    invited = space_settings(
        tmp_path, lost | copied | {"VIDALIGN_ANNOTATORS": "ada", "OAUTH_SCOPES": "openid"}
    )
    rules = invited.provider.settings.rules
    assert (rules.anyone, rules.annotators, invited.provider.settings.scope) == (False, ("ada",), "openid")
    with pytest.raises(InputError, match=r"OAUTH_CLIENT_SECRET is not set: .* hf_oauth: true"):
        space_settings(tmp_path, {**HUB, "OAUTH_CLIENT_SECRET": ""})


def test_the_tasks_are_imported_once_and_what_leads_change_stays(folder: Path, store: Store) -> None:
    import_own_tasks(store, folder)
    assert len(store.tasks("first")) == 12
    assert store.campaign("first").overlap == 2
    with store.write() as session:
        session.merge(store.campaign("first")).name = "renamed"
    import_own_tasks(store, folder)
    assert [campaign.name for campaign in store.campaigns()] == ["renamed"]


def test_a_mistake_in_the_settings_is_one_sentence_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in HUB:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit) as ended:
        space.main(tmp_path)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(
        "error: OAUTH_CLIENT_ID, OAUTH_CLIENT_SECRET, OPENID_PROVIDER_URL"
    )
    assert list(tmp_path.iterdir()) == []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_folder_runs_as_the_hub_runs_it_and_keeps_its_answers(folder: Path, tmp_path: Path) -> None:
    storage, port = tmp_path / "data", free_port()
    storage.mkdir()
    host = f"127.0.0.1:{port}"
    provider = OpenIDProvider(redirect_uri=f"https://{host}/login-callback")
    server = start_provider(provider)
    environment = HUB | {
        "OPENID_PROVIDER_URL": provider.url,
        "SPACE_HOST": host,
        "VIDALIGN_STORAGE": str(storage),
        "GRADIO_SERVER_PORT": str(port),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, str(folder / "app.py")]
    with subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        output = [process.stdout.readline(), process.stdout.readline()]
        assert output[0] == "Campaign first: 12 new task(s).\n"
        assert output[1].startswith("Labeling app: ")
        provider.person = {"sub": "1", "preferred_username": "ada"}
        begun = httpx.get(f"http://{host}/login-provider")
        # The app is told that it is reached over HTTPS, as at the hub, so its cookies are for that alone.
        assert "Secure" in begun.headers["set-cookie"]
        cookies = [begun.headers["set-cookie"].partition(";")[0]]
        back = httpx.get(begun.headers["location"]).headers["location"]
        assert back.startswith(f"https://{host}/login-callback?")
        done = httpx.get(back.replace("https://", "http://"), headers={"cookie": cookies[0]})
        assert (done.status_code, done.headers["location"]) == (303, "rank/")
        session = next(each for each in done.headers.get_list("set-cookie") if "Max-Age=0" not in each)
        headers = {"cookie": session.partition(";")[0]}
        task = httpx.get(f"http://{host}/api/next", headers=headers).json()["task"]
        answer = {"ranks": {"overall": [1, 2, 2, 4]}, "seconds": 3}
        url = f"http://{host}/api/assignments/{task['assignment']}/judgement"
        assert httpx.post(url, json=answer, headers=headers).json() == {"version": 1}
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    server.should_exit = True
    with Store(storage / "labels.db") as store:
        assert [judgement.user.name for judgement in store.judgements("first")] == ["ada"]


class Hub:
    """The part of the hub that backups use, with files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uploads = 0
        self.is_down = False

    def create_repo(self, repository: str, **settings: Any) -> None:
        assert settings == {"repo_type": "dataset", "private": True, "exist_ok": True}
        if self.is_down:
            raise httpx.ConnectError("no route to the hub")

    def file_exists(self, repository: str, name: str, repo_type: str) -> bool:
        return (self.folder / name).is_file()

    def hf_hub_download(self, repository: str, name: str, repo_type: str) -> str:
        return str(self.folder / name)

    def upload_file(self, path_or_fileobj: Path, path_in_repo: str, **settings: Any) -> None:
        if self.is_down:
            raise HfHubHTTPError(
                "no", response=httpx.Response(503, request=httpx.Request("POST", "http://hub"))
            )
        shutil.copyfile(path_or_fileobj, self.folder / path_in_repo)
        self.uploads += 1


def test_a_database_is_copied_when_it_changes_and_comes_back_after_a_restart(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hub").mkdir()
    hub, database = Hub(tmp_path / "hub"), tmp_path / "first.db"
    copies = DatasetBackup(database, "me/labels", "secret", seconds=0.05, api=hub)  # type: ignore[arg-type]
    assert not copies.restore()
    with copies, Store(database) as store:
        import_own_tasks(store, folder)
        while not hub.uploads:
            time.sleep(0.01)
        store.add_user("ada")
        hub.is_down = True
        while "was not copied to me/labels" not in capsys.readouterr().out:
            time.sleep(0.01)
        hub.is_down = False
    uploads = hub.uploads
    assert not copies.save()
    assert hub.uploads == uploads
    again = DatasetBackup(tmp_path / "second.db", "me/labels", "secret", api=hub)  # type: ignore[arg-type]
    assert again.restore()
    assert not again.restore()  # what is there already is newer
    with Store(tmp_path / "second.db") as store:
        assert [user.name for user in store.users()] == ["ada"]
        assert len(store.tasks("first")) == 12
        import_own_tasks(store, folder)
    assert (tmp_path / "hub" / FILE).is_file()


def test_a_repository_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    hub.is_down = True
    copies = DatasetBackup(tmp_path / "labels.db", "me/labels", "secret", api=hub)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"me/labels cannot be used \(no route to the hub\)"):
        copies.restore()
