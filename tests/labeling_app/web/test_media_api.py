"""Thumbnails, and pages of long lists."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from labeling_app.campaigns.demonstrations import add_library, ask, demonstrate, open_prompts
from labeling_app.files.candidates import import_tasks
from labeling_app.store.store import Store
from labeling_app.web import lead_api
from labeling_app.web.access import COOKIE
from labeling_app.web.server import create_app


@pytest.fixture
def labels(tmp_path: Path, candidates: Path) -> Iterator[Store]:
    with Store(tmp_path / "labels.db") as store:
        import_tasks(store, candidates, campaign="main", overlap=2)
        for name, role in (("ada", "annotator"), ("lea", "lead")):
            store.add_user(name, role=role)
        yield store


def browser(store: Store, name: str) -> TestClient:
    client, user = TestClient(create_app(store)), store.user(name)
    assert user is not None
    client.cookies.set(COOKIE, store.open_session(user))
    return client


def test_a_thumbnail_is_small_made_once_and_shown_to_those_who_may_see_the_video(labels: Store) -> None:
    lea, ada = browser(labels, "lea"), browser(labels, "ada")
    video = labels.tasks("main")[5].videos[0].media
    got = lea.get(f"/media/{video.id}/thumbnail")
    assert got.headers["content-type"] == "image/jpeg"
    assert len(got.content) < 10_000
    assert max(Image.open(io.BytesIO(got.content)).size) <= 320
    (file,) = (labels.uploads / "thumbnails").iterdir()
    made = file.stat().st_mtime_ns
    assert lea.get(f"/media/{video.id}/thumbnail").content == got.content
    assert file.stat().st_mtime_ns == made
    assert ada.get(f"/media/{video.id}/thumbnail").status_code == 404
    own = ada.get("/api/next").json()["task"]["videos"][0]["id"]
    small = ada.get(f"/media/{own}/thumbnail")
    assert small.status_code == 200
    assert not any("secret" in value for value in small.headers.values())
    assert TestClient(create_app(labels)).get(f"/media/{video.id}/thumbnail").status_code == 401


def test_demonstrations_come_in_pages(
    labels: Store, candidates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(labels, "main", [f"prompt {number}" for number in range(5)], 1)
    add_library(labels, "main", candidates)
    ada = labels.user("ada")
    assert ada is not None
    media = [video.media_id for task in labels.tasks("main")[:2] for video in task.videos][:5]
    for prompt, video in zip(open_prompts(labels, ada, None), media):
        demonstrate(labels, ada, prompt.id, video)
    monkeypatch.setattr(lead_api, "DEMONSTRATIONS_A_PAGE", 2)
    lea = browser(labels, "lea")
    pages = [lea.get(f"/api/lead/demonstrations?campaign=main&first={first}").json() for first in (0, 2, 4)]
    assert [page["count"] for page in pages] == [5] * 3
    shown = [row["id"] for page in pages for row in page["demonstrations"]]
    assert shown == sorted(set(shown))
    assert len(shown) == 5
