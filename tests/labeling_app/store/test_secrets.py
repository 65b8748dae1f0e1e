"""The password of a database stands in no message, no record and no report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignment.cli import main
from labeling_app.files.candidates import import_tasks
from labeling_app.store.database import shown_source, shown_url
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import submit

SECRET = "s3cr3t"
WRONG_URLS = [
    "postgresql://lea:s3cr3t@localhost:port/labels",
    "postgresql://lea:s3cr3t@localhost:1/labels?password=s3cr3t",
    "postgresql://localhost:1/labels?password=s3cr3t",
    "postgresql://localhost:1/labels?connect_timeout=s3cr3t",
    "postgresql://localhost:1/labels?sslmode=s3cr3t",
    "postgresql://localhost:1/labels?s3cr3t",
    "postgresql://localhost:1/labels#s3cr3t",
    "postgresql://lea:p@s3cr3t@localhost:1/labels",
    "postgresql://lea:p/s3cr3t@localhost:1/labels",
    "postgresql://lea:p#s3cr3t@localhost:1/labels",
    "postgresql://lea:p?s3cr3t@localhost:1/labels",
    "postgresql://lea:p:s3cr3t@localhost:1/labels",
    "postgresql://lea:s3cr3t:localhost/labels",
    "postgresql://lea:s3cr3t/labels",
    "postgresql://lea:s3cr3t@[::1/labels",
    "postgresql://lea:s3cr3t@a..b/labels",
    "postgresql://lea:s3cr3t@localhost:99999999/labels",
    "postgresql://lea:s3cr3t@localhost:-1/labels",
    "postgres://lea:s3cr3t@localhost:x/labels",
    "postgresql+nothing://lea:s3cr3t@localhost/labels",
    "postgresql:/lea:s3cr3t@localhost/labels",
    "postgresql:lea:s3cr3t@localhost/labels",
    "nothing://lea:s3cr3t@localhost/labels",
    "http://lea:s3cr3t@localhost/labels",
    "sqlite:///nowhere.db?key=s3cr3t",
    "sqlite:///nowhere/x.db#s3cr3t",
    "://lea:s3cr3t@localhost/labels",
]


@pytest.mark.parametrize("url", WRONG_URLS)
def test_a_wrong_url_is_one_sentence_without_its_secrets(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [
        ["label", "users", "--db", url],
        ["label", "serve", "--db", url, "--port", "0"],
        ["label", "restore", "--db", url, "--backup", "none.db"],
        ["label", "export", "--db", url, "--output_file", "rankings.jsonl"],
        ["reward", "--preferences", f"db:{url}#first", "--output_dir", "reward"],
    ]
    for command in commands:
        if command[1] == "serve" and url.startswith("sqlite:///nowhere.db"):
            continue  # that would be a new database
        assert main(command) == 2, command
        said = "".join(capsys.readouterr())
        assert SECRET not in said
        assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["dpo", "gold", "import", "reward"])
def test_a_database_where_a_file_is_read_is_not_repeated(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"postgresql://lea:{SECRET}@localhost:1/labels"
    Store(tmp_path / "labels.db").close()
    database = str(tmp_path / "labels.db")
    output = ["--output_dir", str(tmp_path / "out")]
    commands = {
        "dpo": ["dpo", "--model", "nano", "--preferences", f"db:{url}#first", *output],
        "gold": ["label", "gold", "--db", database, "--rankings", f"db:{url}#first"],
        "import": ["label", "import", "--db", database, "--preferences", url],
        "reward": ["reward", "--preferences", url, *output],
    }
    assert main(commands[command]) == 2
    assert SECRET not in "".join(capsys.readouterr())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://lea:pw@localhost:5432/labels?password=x#y", "postgresql://…"),
        ("postgresql://lea:pw@localhost:5432/labels?password=x", "postgresql://***@localhost:5432/labels"),
        ("postgresql+psycopg://localhost/labels", "postgresql+psycopg://localhost/labels"),
        ("postgresql://lea:pw@[::1]:5432/labels", "postgresql://***@[::1]:5432/labels"),
        ("sqlite:////a/labels.db?key=x", "sqlite:////a/labels.db"),
        ("labels.db", "labels.db"),
    ],
)
def test_a_url_is_shown_without_user_query_and_fragment(url: str, shown: str) -> None:
    assert shown_url(url) == shown


def test_the_source_of_rankings_is_shown_with_its_campaign() -> None:
    source = "db:postgresql://lea:pw@localhost/labels#round #2"
    assert shown_source(source) == "db:postgresql://***@localhost/labels#round #2"
    assert shown_source("rankings.jsonl") == "rankings.jsonl"


@pytest.fixture
def judged(database: str, write_candidates: Any) -> str:
    """The URL, with a password, of a database with a campaign of rankings."""
    prompts = [f"a {colour} circle moves right" for colour in ("red", "blue", "green", "yellow")]
    with Store(database) as store:
        import_tasks(store, write_candidates(prompts, 2), campaign="round #2")
        ada = store.add_user("ada")
        while task := assignment.next_task(store, ada):
            submit(store, ada, task.assignment, {"overall": [1, 2]}, 1.0)
    return database.replace("@", f":{SECRET}@")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_no_file_of_a_report_has_the_password(
    judged: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "evaluation"
    source = f"db:{judged}#round #2"
    command = [
        "reward",
        "evaluate",
        "--reward",
        "world",
        "--preferences",
        source,
        "--output_dir",
        str(output),
    ]
    assert main(command) == 0
    assert SECRET not in "".join(capsys.readouterr())
    assert len(list(output.iterdir())) >= 2
    for path in output.rglob("*"):
        assert SECRET.encode() not in path.read_bytes()
    written = json.loads((output / "report.json").read_text())
    assert "round #2" in json.dumps(written)
