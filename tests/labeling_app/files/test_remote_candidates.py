"""Videos in other storage: imported by URL, fetched into a bounded folder, and shown by the app alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fastapi.testclient import TestClient

from alignment import cli
from generator.output import InputError
from generator.video_files.remote_files import RemoteFiles, checked_url, joined_url
from labeling_app.files.candidates import import_tasks
from labeling_app.files.rankings import ranking_rows
from labeling_app.quality.reliability import read_store
from labeling_app.store.contents import changed_files, task_media
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import submit
from labeling_app.web.access import COOKIE
from labeling_app.web.server import create_app
from tests.labeling_app.remote_folder import put


@pytest.fixture
def labels(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "labels.db") as store:
        yield store


def browser(store: Store, name: str = "ada") -> TestClient:
    client = TestClient(create_app(store), follow_redirects=False)
    client.cookies.set(COOKIE, store.open_session(store.user(name) or store.add_user(name)))
    return client


def answer_all(store: Store) -> None:
    user = store.user("bob") or store.add_user("bob")
    while (task := assignment.next_task(store, user)) is not None:
        submit(store, user, task.assignment, {"overall": [1, 2]}, 2.0)


def test_a_folder_by_url_is_imported_shown_in_ranges_exported_and_trained_on(
    memory: str, labels: Store, candidates: Path, tmp_path: Path
) -> None:
    assert import_tasks(labels, memory, campaign="main", overlap=2).added == 2
    assert import_tasks(labels, memory, campaign="main").known == 2
    client = browser(labels)
    shown = client.get("/api/next").json()["task"]["videos"]
    whole = client.get(f"/media/{shown[0]['id']}")
    part = client.get(f"/media/{shown[0]['id']}", headers={"range": "bytes=100-199"})
    assert whole.content in {(candidates / f"secret-model-000-{i}.mp4").read_bytes() for i in (0, 1)}
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    small = client.get(f"/media/{shown[0]['id']}/thumbnail")
    assert (small.headers["content-type"], small.content[:3]) == ("image/jpeg", b"\xff\xd8\xff")
    assert not any(
        "secret" in f"{name}{value}" for name, value in [*whole.headers.items(), *small.headers.items()]
    )
    assert client.get(f"/api/media/{shown[0]['id']}/times").json() == {"times": None}

    answer_all(labels)
    rows = ranking_rows(labels, "main", tmp_path)
    assert rows[0]["videos"] == [f"{memory}/secret-model-000-{i}.mp4" for i in (0, 1)]
    ranking = read_store(f"db:{tmp_path / 'labels.db'}#main")[1]
    assert [path.read_bytes() for path in ranking.videos] == [
        (candidates / f"secret-model-001-{i}.mp4").read_bytes() for i in (0, 1)
    ]


def test_rows_of_a_file_here_may_name_urls_beside_paths(memory: str, labels: Store, candidates: Path) -> None:
    rows = labels.uploads.parent / "rows.jsonl"
    videos = [f"{memory}/secret-model-000-0.mp4", str(candidates / "secret-model-000-1.mp4")]
    rows.write_text(json.dumps({"prompt": "both", "videos": videos}) + "\n")
    assert import_tasks(labels, rows, campaign="main").added == 1
    assert [video.media.path for video in labels.tasks("main")[0].videos] == videos


def test_a_file_that_was_written_anew_is_told_by_its_contents_and_not_by_its_version(
    memory: str, labels: Store, candidates: Path
) -> None:
    import_tasks(labels, memory, campaign="main")
    media = task_media(labels.tasks("main"))
    with fsspec.open(media[0].path, "wb") as file:  # the same once more: another version
        file.write((candidates / "secret-model-000-0.mp4").read_bytes())
    assert changed_files(media) == []
    with fsspec.open(media[1].path, "wb") as file:
        file.write((candidates / "secret-model-005-0.mp4").read_bytes())
    assert changed_files(media) == [media[1].path]
    fsspec.filesystem("memory").rm(media[2].path.removeprefix("memory:/"))
    assert changed_files(media) == [media[1].path, media[2].path]
    for path in labels.remote.folder.iterdir():  # as another server, which has nothing yet
        path.unlink()
    labels.add_user("lea", role="lead")
    client = browser(labels, "lea")
    answers = [client.get(f"/media/{each.id}") for each in media]
    assert [answer.status_code for answer in answers] == [200, 502, 502, 200]
    assert not any("secret" in answer.text or "memory" in answer.text for answer in answers[1:3])


def test_the_folder_of_fetched_videos_is_bounded_and_what_was_used_last_stays(
    memory: str, tmp_path: Path, candidates: Path
) -> None:
    with Store(tmp_path / "labels.db", cache_bytes=0) as store:
        import_tasks(store, memory, campaign="main")
        media = task_media(store.tasks("main"))
        sizes = [Path(candidates / Path(each.path).name).stat().st_size for each in media]
        assert not list(store.remote.folder.iterdir())
        store.remote.limit = sum(sizes[1:])
        for number, each in enumerate(media):
            os.utime(store.remote.local(each), (number, number))
        kept = set(store.remote.folder.glob("*.mp4"))
        assert kept == {store.remote.place(each.path) for each in media[1:]}
        assert sum(path.stat().st_size for path in kept) <= store.remote.limit
        assert (
            store.remote.local(media[0]).read_bytes() == (candidates / Path(media[0].path).name).read_bytes()
        )
        assert not store.remote.place(media[1].path).exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file:///etc/passwd.mp4", "plain path"),
        ("FILE:///etc/passwd.mp4", "plain path"),
        ("local:///etc/passwd.mp4", "plain path"),
        ("simplecache::file:///etc/passwd.mp4", "plain path"),
        ("zip://a.mp4::s3://bucket/b.zip", "plain path"),
        ("s3://bucket/a.mp4::file:///etc/x.mp4", "plain path"),
        ("s3://KEYID:hunter2@bucket/a.mp4", "user, a password"),
        ("https://ada:hunter2@host/a.mp4", "user, a password"),
        ("https://host/a.mp4?X-Amz-Signature=hunter2", "user, a password"),
        ("s3://bucket/../other/a.mp4", "not plain"),
        ("s3://bucket/a\n.mp4", "not plain"),
        ("s3://bucket/a\\b.mp4", "not plain"),
        ("s3://", "not plain"),
        ("memory://bucket/run.sh", "neither a video"),
    ],
)
def test_urls_with_tricks_are_refused_without_their_secrets(url: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said) as caught:
        RemoteFiles(tmp_path / "remote").place(url)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "remote").exists()


@pytest.mark.parametrize(
    "name",
    [
        "../x.mp4",
        "a/../../x.mp4",
        "/etc/x.mp4",
        "file:///etc/x.mp4",
        "s3://other/x.mp4",
        "https://10.0.0.1/x.mp4",
        "..\\x.mp4",
    ],
)
def test_a_list_elsewhere_names_nothing_outside_its_own_storage(name: str) -> None:
    with pytest.raises(InputError):
        joined_url("s3://bucket/runs", name)
    assert joined_url("s3://bucket/runs", "a/./b.mp4") == "s3://bucket/runs/a/b.mp4"
    assert joined_url("s3://bucket/runs", "s3://bucket/other/b.mp4") == "s3://bucket/other/b.mp4"
    assert checked_url("S3://bucket/a.mp4") == "s3://bucket/a.mp4"


def test_a_refused_import_of_a_url_is_one_sentence_and_leaves_nothing(
    memory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(source: str) -> str:
        assert cli.main(["label", "import", "--db", str(tmp_path / "labels.db"), "--videos", source]) == 2
        assert not list(tmp_path.iterdir())
        said = capsys.readouterr().err.strip()
        assert "\n" not in said
        return said

    assert "There is no file memory://nowhere/run/metadata.jsonl" in refused("memory://nowhere/run")
    with fsspec.open(f"{memory}/metadata.jsonl", "w") as file:
        file.write('{"file_name": "../../x.mp4", "prompt": "a"}\n')
    assert "leads out of its folder" in refused(memory)
    with fsspec.open(f"{memory}/metadata.jsonl", "w") as file:
        file.write("{}\n")
    assert f"{memory}/metadata.jsonl" in refused(memory)
    assert "nosuch" in refused("nosuch://bucket/run")


def test_videos_in_s3_are_imported_and_shown(
    candidates: Path, labels: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs")
    server: Any = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_DEFAULT_REGION": "us-east-1",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("bucket")
        put("s3://bucket/runs/one", candidates)
        assert import_tasks(labels, "s3://bucket/runs/one", campaign="main").added == 2
        media = task_media(labels.tasks("main"))
        assert changed_files(media) == []
        shown = browser(labels).get("/api/next").json()["task"]["videos"][0]["id"]
        part = browser(labels).get(f"/media/{shown}", headers={"range": "bytes=0-9"})
        assert (part.status_code, part.content[4:8]) == (206, b"ftyp")
        with fsspec.open(media[3].path, "wb") as file:
            file.write(b"something else")
        assert changed_files(media) == [media[3].path]
        with pytest.raises(InputError, match="There is no file"):
            import_tasks(labels, "s3://bucket/runs/none", campaign="main")
        assert b"hunter2" not in (labels.uploads.parent / "labels.db").read_bytes()
    finally:
        server.stop()
