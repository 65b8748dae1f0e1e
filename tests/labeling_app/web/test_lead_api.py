"""The API of the lead's pages and of the demonstration page."""

from __future__ import annotations

import io
import json
import logging
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import numpy as np
import pytest
from fastapi.testclient import TestClient

from generator.output import InputError
from generator.video import read_video
from labeling_app.campaigns import transcoding
from labeling_app.campaigns.demonstrations import add_library, ask, demonstrations, export_demonstrations
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import skip, submit
from labeling_app.web.access import COOKIE
from labeling_app.web.server import create_app

PASSWORD = "correct horse"


@pytest.fixture
def store(sqlite_file: Path) -> Any:
    with Store(sqlite_file) as opened:
        yield opened


@pytest.fixture
def app(filled: Store, candidates: Path) -> Any:
    for name, role in (("ada", "annotator"), ("eve", "annotator"), ("lea", "lead"), ("root", "admin")):
        filled.add_user(name, PASSWORD, role=role)
    return create_app(filled, candidates=candidates.parent)


def browser(app: Any, name: str) -> TestClient:
    client = TestClient(app, follow_redirects=False)
    assert client.post("/login", data={"name": name, "password": PASSWORD}).status_code == 303
    return client


@pytest.fixture
def ada(app: Any) -> TestClient:
    return browser(app, "ada")


@pytest.fixture
def lea(app: Any) -> TestClient:
    return browser(app, "lea")


def wide_mp4(path: Path, width: int, height: int, num_frames: int = 2, rate: int = 8) -> Path:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        image = np.zeros((height, width, 3), dtype=np.uint8)
        for _ in range(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_every_route_of_the_lead_is_closed_to_annotators_and_strangers(app: Any, ada: TestClient) -> None:
    routes = [
        (path, method)
        for path, methods in app.openapi()["paths"].items()
        if path.startswith("/api/lead/")
        for method in methods
    ]
    assert len(routes) >= 17
    for path, method in routes:
        address = path.replace("{name}", "days").replace("{task_id}", "1").replace("{demonstration_id}", "1")
        for client, status in ((ada, 403), (TestClient(app), 401)):
            answer = client.request(method, f"{address}?campaign=main", json={} if method == "post" else None)
            assert answer.status_code == status, (method, path)


def test_pages_of_the_lead_send_annotators_away(app: Any, ada: TestClient, lea: TestClient) -> None:
    assert ada.get("/lead/").headers["location"] == "../rank/"
    assert TestClient(app, follow_redirects=False).get("/lead/").headers["location"] == "../login"
    assert lea.get("/lead/").status_code == 200
    assert ada.get("/demonstrate/").status_code == 200


def test_a_lead_makes_projects_and_campaigns_and_changes_rules(lea: TestClient, filled: Store) -> None:
    assert lea.post("/api/lead/projects", json={"name": "spring"}).status_code == 200
    assert lea.get("/api/lead/overview").json()["candidates"] == ["candidates"]
    made = lea.post(
        "/api/lead/campaigns",
        json={"name": "second", "overlap": 3, "project": "spring", "candidates": "candidates"},
    )
    assert made.json() == {"name": "second", "tasks": 12}
    elsewhere = lea.post("/api/lead/campaigns", json={"name": "third", "candidates": "../../etc"})
    assert (elsewhere.status_code, "choose one" in elsewhere.json()["message"]) == (400, True)
    changed = lea.post("/api/lead/rules?campaign=second", json={"gold_share": 0.1, "daily_cap": 50}).json()
    assert (changed["project"], changed["gold_share"], changed["daily_cap"]) == ("spring", 0.1, 50)
    assert lea.post("/api/lead/rules?campaign=second", json={"gold_share": 7}).status_code == 400
    assert lea.post("/api/lead/guidelines?campaign=second", json={"text": "Look."}).json() == {"version": 1}
    shown = lea.get("/api/guidelines?campaign=second").json()
    assert shown == {"campaign": "second", "version": 1, "text": "Look.", "html": "<p>Look.</p>\n"}
    actions = [event.action for event in filled.audit_events()]
    assert actions[:4] == ["set guidelines", "set rules", "add campaign", "add project"]


def test_a_campaign_that_cannot_be_made_leaves_nothing(
    lea: TestClient, filled: Store, candidates: Path
) -> None:
    broken = candidates.parent / "broken"
    broken.mkdir()
    (broken / "metadata.jsonl").write_text('{"file_name": "gone.mp4", "prompt": "a cat"}\n')
    for body in ({"project": "nowhere"}, {"candidates": "broken"}, {"dimensions": ["taste"]}):
        refused = lea.post("/api/lead/campaigns", json={"name": "new", **body})
        assert refused.status_code == 400, body
    (broken / "metadata.jsonl").unlink()
    assert [row.name for row in filled.campaigns()] == ["main"]
    assert lea.post("/api/lead/campaigns", json={"name": " new "}).json() == {"name": "new", "tasks": 0}


def test_a_campaign_leaves_its_project(lea: TestClient, filled: Store) -> None:
    lea.post("/api/lead/projects", json={"name": "spring"})
    assert lea.post("/api/lead/rules?campaign=main", json={"project": "spring"}).json()["project"] == "spring"
    assert filled.audit_events(1)[0].details == {"campaign": "main", "project": "spring"}
    assert lea.post("/api/lead/rules?campaign=main", json={"daily_cap": 5}).json()["project"] == "spring"
    assert lea.post("/api/lead/rules?campaign=main", json={"project": ""}).json()["project"] == ""
    assert lea.get("/api/lead/overview").json()["campaigns"][0]["project"] == ""


def test_only_admins_make_leads_and_reset_their_passwords(app: Any, lea: TestClient, filled: Store) -> None:
    added = lea.post("/api/lead/users", json={"name": "new"}).json()
    assert filled.authenticate("new", added["password"]) is not None
    assert lea.post("/api/lead/users", json={"name": "boss", "role": "lead"}).status_code == 403
    assert lea.post("/api/lead/users/role", json={"name": "lea", "role": "admin"}).status_code == 403
    assert lea.post("/api/lead/users/password", json={"name": "root"}).status_code == 403
    fresh = lea.post("/api/lead/users/password", json={"name": "ada"}).json()["password"]
    assert filled.authenticate("ada", fresh) is not None
    root = browser(app, "root")
    assert root.post("/api/lead/users/role", json={"name": "lea", "role": "annotator"}).status_code == 200
    assert lea.get("/api/lead/overview").status_code == 403


def test_quality_plots_adjudication_and_export(app: Any, lea: TestClient, filled: Store) -> None:
    for name, ranks in (("ada", [1, 2, 3, 4]), ("eve", [4, 3, 2, 1])):
        user = filled.user(name)
        assert user is not None
        for _ in range(2):
            task = assignment.next_task(filled, user)
            assert task is not None
            shown = [ranks[position] for position in task.permutation]
            submit(filled, user, task.assignment, {"overall": shown}, 4.0)
    quality = lea.get("/api/lead/quality?campaign=main").json()
    assert quality["alpha"] < 0
    assert [person["gold_accuracy"] for person in quality["annotators"]] == [None, None]
    for name in ("annotators", "speed", "positions", "days"):
        plot = lea.get(f"/api/lead/plots/{name}.svg?campaign=main")
        assert plot.headers["content-type"] == "image/svg+xml"
        assert plot.text.count("<path") > 5
    assert lea.get("/api/lead/plots/nothing.svg?campaign=main").status_code == 400
    (worst, _) = lea.get("/api/lead/disagreements?campaign=main").json()["tasks"]
    assert worst["share"] == 1.0
    assert worst["answers"]["overall"]["eve"] == [4, 3, 2, 1]
    assert lea.get(f"/media/{worst['videos'][0]['id']}").status_code == 200
    decision = {"ranks": {"overall": [2, 1, 3, 3]}, "gold": True}
    decided = lea.post(f"/api/lead/tasks/{worst['task']}/adjudication", json=decision)
    assert decided.json()["gold"] is not None
    wrong = {"ranks": {"overall": [0, 1, 2, 3]}}
    assert lea.post(f"/api/lead/tasks/{worst['task']}/adjudication", json=wrong).status_code == 403
    lines = lea.get("/api/lead/export?campaign=main").text.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["annotator"] for row in rows] == ["adjudicated by lea", "ada", "eve"]
    assert rows[0]["ranks"] == [2, 1, 3, 3]
    assert Path(rows[0]["videos"][0]).is_file()
    assert len(lea.get("/api/lead/export?campaign=main&raw=true").text.splitlines()) == 4


def test_the_only_annotator_of_a_campaign_has_no_weight(lea: TestClient, filled: Store) -> None:
    ada = filled.user("ada")
    assert ada is not None
    task = assignment.next_task(filled, ada)
    assert task is not None
    submit(filled, ada, task.assignment, {"overall": [1, 2, 3, 4]}, 4.0)
    (person,) = lea.get("/api/lead/quality?campaign=main").json()["annotators"]
    assert person["judgements"] == 1
    assert person["accuracy"] is None  # the page shows null as a dash


def test_why_tasks_were_skipped_is_shown(lea: TestClient, filled: Store) -> None:
    ada = filled.user("ada")
    assert ada is not None
    task = assignment.next_task(filled, ada)
    assert task is not None
    skip(filled, ada, task.assignment, "a video is black", 2.0)
    skipped = lea.get("/api/lead/quality?campaign=main").json()["skipped"]
    assert [(row["annotator"], row["prompt"], row["reason"]) for row in skipped] == [
        ("ada", task.prompt, "a video is black")
    ]


def test_an_empty_campaign_has_quality_and_plots_too(lea: TestClient) -> None:
    assert lea.get("/api/lead/quality?campaign=main").json()["alpha"] is None
    for name in ("annotators", "speed", "positions", "days"):
        assert lea.get(f"/api/lead/plots/{name}.svg?campaign=main").status_code == 200
    assert lea.get("/api/lead/quality?campaign=none").status_code == 400


def test_an_uploaded_video_is_written_anew_and_answers_a_prompt(
    app: Any, ada: TestClient, lea: TestClient, filled: Store, tmp_path: Path
) -> None:
    asked = lea.post(
        "/api/lead/demonstrations/prompts?campaign=main", json={"prompts": ["a cat", "a dog", "a cat"]}
    )
    assert asked.json() == {"added": 2}
    waiting = ada.get("/api/demonstrations/prompts").json()
    assert waiting["waiting"] == 2
    prompt = waiting["prompts"][0]
    source = wide_mp4(tmp_path / "holiday.mp4", 1920, 1080, num_frames=6)
    sent = ada.post("/api/demonstrations/uploads", content=source.read_bytes())
    assert sent.status_code == 200, sent.text
    assert (sent.json()["width"], sent.json()["height"], sent.json()["num_frames"]) == (1280, 720, 6)
    media = sent.json()["id"]
    assert ada.get(f"/media/{media}").headers["content-type"] == "video/mp4"
    eve = browser(app, "eve")
    assert eve.get(f"/media/{media}").status_code == 404
    assert eve.post(f"/api/demonstrations/{prompt['id']}", json={"media": media}).status_code == 403
    given = ada.post(f"/api/demonstrations/{prompt['id']}", json={"media": media, "comment": "mine"})
    assert given.status_code == 200
    again = ada.post(f"/api/demonstrations/{prompt['id']}", json={"media": media})
    assert (again.status_code, again.json()["message"]) == (403, "You have answered this prompt already.")
    late = eve.post(f"/api/demonstrations/{prompt['id']}", json={"media": media})
    assert late.json()["message"].startswith("Others have answered")
    assert ada.get("/api/demonstrations/prompts").json()["waiting"] == 1
    assert list(filled.uploads.glob(".received-*")) == []

    count = export_demonstrations(filled, "main", tmp_path / "sft")
    rows = [json.loads(line) for line in (tmp_path / "sft" / "metadata.jsonl").read_text().splitlines()]
    assert (count, rows[0]["prompt"], rows[0]["annotator"]) == (1, prompt["prompt"], "ada")
    assert read_video(tmp_path / "sft" / rows[0]["file_name"])[0].shape == (3, 6, 720, 1280)

    (row,) = demonstrations(filled, "main")
    away = Path(row.media.path).rename(tmp_path / "away.mp4")
    with pytest.raises(InputError, match="have changed or gone"):
        export_demonstrations(filled, "main", tmp_path / "other")
    away.rename(row.media.path)
    assert (
        lea.post(f"/api/lead/demonstrations/{row.id}/review", json={"state": "rejected"}).status_code == 200
    )
    with pytest.raises(InputError, match="no demonstrations"):
        export_demonstrations(filled, "main", tmp_path / "other")
    assert eve.get("/api/demonstrations/prompts").json()["waiting"] == 2


def test_a_video_of_the_library_is_chosen(
    ada: TestClient, filled: Store, candidates: Path, tmp_path: Path
) -> None:
    ask(filled, "main", ["a cat"])
    library = tmp_path / "library"
    library.mkdir()
    for path in sorted(candidates.glob("*.mp4"))[:2]:
        (library / path.name).write_bytes(path.read_bytes())
    assert add_library(filled, "main", library) == 2
    assert add_library(filled, "main", library) == 0
    page = ada.get("/api/demonstrations/prompts").json()
    media = page["library"][0]["id"]
    assert ada.get(f"/media/{media}").status_code == 200
    chosen = ada.post(f"/api/demonstrations/{page['prompts'][0]['id']}", json={"media": media})
    assert chosen.status_code == 200
    assert [row.source for row in demonstrations(filled, "main")] == ["library"]


def damaged_mp4(path: Path) -> bytes:
    whole = wide_mp4(path, 320, 240, num_frames=30).read_bytes()
    return whole[: len(whole) // 2]


def huge_mp4(path: Path) -> bytes:
    """A small file whose header promises 30,000 × 30,000 pixels."""
    content = bytearray(wide_mp4(path, 320, 240).read_bytes())
    at = content.index(b"avc1")
    content[at + 28 : at + 32] = struct.pack(">HH", 30_000, 30_000)
    at = content.index(b"avcC")
    # Without its own headers the stream has the size that the container promises.
    content[at : at + 4] = b"free"
    return bytes(content)


def zip_bomb() -> bytes:
    """A zip of some kilobytes that unpacks to 100 MB."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.mp4", "w") as file:
        for _ in range(100):
            file.write(bytes(1_000_000))
    return packed.getvalue()


UPLOADS = {
    "text": lambda path: b"just a text",
    "nothing": lambda path: b"",
    "picture": lambda path: b"\x89PNG\r\n\x1a\n" + bytes(100),
    "page": lambda path: b"<html><script>alert(1)</script></html>",
    "playlist": lambda path: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "named mp4 but empty": lambda path: b"\0\0\0\x18ftypmp42" + bytes(100),
    "zip bomb behind the head of an mp4": lambda path: b"\0\0\0\x18ftypmp42" + zip_bomb(),
    "half an mp4": damaged_mp4,
    "enormous frames": huge_mp4,
    "too many frames": lambda path: wide_mp4(path, 16, 16, num_frames=3700, rate=120).read_bytes(),
}


@pytest.mark.parametrize("kind", UPLOADS)
def test_uploads_that_are_no_good_are_refused_with_one_sentence(
    ada: TestClient, filled: Store, tmp_path: Path, kind: str
) -> None:
    answer = ada.post("/api/demonstrations/uploads", content=UPLOADS[kind](tmp_path / "bad.mp4"))
    assert answer.status_code == 400
    message = answer.json()["message"]
    assert message.endswith(".")
    assert message in (transcoding.NOT_A_VIDEO, transcoding.BROKEN, transcoding.TOO_LARGE)
    assert list(filled.uploads.glob("*")) == []


def test_an_upload_that_takes_too_much_memory_or_time_is_refused(
    filled: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = wide_mp4(tmp_path / "long.mp4", 640, 480, num_frames=20)
    monkeypatch.setattr(transcoding, "CPU_SECONDS", 0.01)
    with pytest.raises(InputError) as caught:
        transcoding.transcode(source, tmp_path / "written.mp4")
    assert str(caught.value) == transcoding.TOO_LARGE
    assert not (tmp_path / "written.mp4").exists()


def test_many_uploads_at_once_hold_up_nobody_else(
    filled: Store, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = filled.add_user("ada", PASSWORD)
    token = filled.open_session(ada)
    go_on = threading.Event()

    def slow(*_: object) -> None:
        go_on.wait(30)
        raise InputError("No.")

    monkeypatch.setattr("labeling_app.campaigns.demonstrations.save_upload", slow)
    server = serve(filled)
    cookie = {"cookie": f"{COOKIE}_{urlsplit(server.url).port}={token}"}

    def upload() -> None:
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(
                urllib.request.Request(f"{server.url}/api/demonstrations/uploads", b"x" * 99, cookie)
            )

    uploads = [threading.Thread(target=upload) for _ in range(50)]
    try:
        for thread in uploads:
            thread.start()
        time.sleep(1)
        answers = urllib.request.Request(f"{server.url}/api/answers", headers=cookie)
        with urllib.request.urlopen(answers, timeout=10) as response:
            assert response.status == 200
    finally:
        go_on.set()
        for thread in uploads:
            thread.join()
    assert list(filled.uploads.glob(".received-*")) == []


def test_an_upload_that_breaks_off_leaves_nothing_and_logs_no_error(
    filled: Store, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    session = filled.open_session(filled.add_user("ada", PASSWORD))
    host = serve(filled).url.removeprefix("http://")
    logging.getLogger("uvicorn.error").addHandler(caplog.handler)
    with socket.create_connection(tuple(host.split(":"))) as connection:
        connection.sendall(
            f"POST /api/demonstrations/uploads HTTP/1.1\r\nHost: {host}\r\n"
            f"Cookie: {COOKIE}_{host.partition(':')[2]}={session}\r\n"
            "Content-Length: 1000\r\n\r\nbegun".encode()
        )
        while not list(filled.uploads.glob(".received-*")):
            time.sleep(0.02)
    while list(filled.uploads.glob(".received-*")):
        time.sleep(0.02)
    time.sleep(0.2)
    logging.getLogger("uvicorn.error").removeHandler(caplog.handler)
    assert caplog.messages == []


def test_uploads_beyond_the_largest_size_are_refused_before_they_are_read(ada: TestClient) -> None:
    headers = {"content-length": str(transcoding.MAXIMUM_BYTES + 1)}
    answer = ada.post("/api/demonstrations/uploads", content=b"x", headers=headers)
    assert answer.status_code == 413


def test_the_api_describes_all_of_itself(app: Any) -> None:
    described = app.openapi()["paths"]
    for path in (
        "/api/next",
        "/api/guidelines",
        "/api/demonstrations/uploads",
        "/api/demonstrations/{prompt_id}",
        "/api/lead/overview",
        "/api/lead/quality",
        "/api/lead/tasks/{task_id}/adjudication",
        "/api/lead/export",
    ):
        (operation,) = described[path].values()
        assert operation["description"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"name": "new", "overlap": 0}', "'overlap', input should be greater than or equal to 1"),
        (b'{"name": "new", "overlap": 1.5}', "'overlap'"),
        (b'{"overlap": 1}', "'name', field required"),
        (b'{"name": "new", "videos": 1}', "'videos', extra inputs are not permitted"),
        (b'{"name": "new", "\\ud83d": 1}', "unicode"),
        (b"{", "json"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(lea: TestClient, body: bytes, named: str) -> None:
    refused = lea.post("/api/lead/campaigns", content=body, headers={"content-type": "application/json"})
    assert refused.status_code == 422
    assert named in refused.json()["message"].lower()
