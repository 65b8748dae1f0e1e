"""The HTTP side: login, the API, media, and what forged requests get."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from fastapi.testclient import TestClient

from labeling_app.campaigns.campaigns import Rules, set_rules
from labeling_app.files.candidates import import_tasks
from labeling_app.store.store import Store
from labeling_app.tasks.lease import LEASE_EXPIRED
from labeling_app.web.server import create_app

PASSWORD = "correct horse"
ANSWER = {"ranks": {"overall": [1, 2, 2, 4]}, "seconds": 3.5, "comment": ""}


@pytest.fixture
def app(filled: Store) -> Any:
    filled.add_user("ada", PASSWORD)
    filled.add_user("eve", PASSWORD)
    return create_app(filled)


def browser(app: Any, name: str | None = None) -> TestClient:
    client = TestClient(app, follow_redirects=False)
    if name is not None:
        response = client.post("/login", data={"name": name, "password": PASSWORD})
        assert response.status_code == 303
    return client


@pytest.fixture
def ada(app: Any) -> TestClient:
    return browser(app, "ada")


def test_a_task_is_fetched_and_judged(ada: TestClient, filled: Store) -> None:
    first = ada.get("/api/next").json()
    assert first["user"] == "ada"
    assert first["progress"] == {"done": 0, "left": 12}
    task = first["task"]
    assert task["prompt"] == "a red circle moves right, take 0"
    assert len(task["videos"]) == 4
    assert ada.get("/api/next").json()["task"]["videos"] == task["videos"]
    assert ada.post(f"/api/assignments/{task['assignment']}/judgement", json=ANSWER).json() == {"version": 1}
    (judgement,) = filled.judgements("main")
    assert sorted(judgement.ranks or []) == [1, 2, 2, 3]
    assert judgement.seconds == 3.5
    again = ada.post(f"/api/assignments/{task['assignment']}/judgement", json=ANSWER)
    assert (again.status_code, again.json()["message"]) == (409, "You have answered this task already.")
    assert ada.get("/api/next").json()["progress"] == {"done": 1, "left": 11}


def test_no_name_or_path_of_a_video_leaves_the_server(ada: TestClient) -> None:
    response = ada.get("/api/next")
    video = ada.get(f"/media/{response.json()['task']['videos'][0]['id']}")
    page = ada.get("/rank/").text + ada.get("/rank/config").text
    for text in (response.text, str(video.headers), page):
        assert "secret-model" not in text
        assert ".mp4" not in text
    assert video.headers["last-modified"] == "Thu, 01 Jan 1970 00:00:00 GMT"


def test_videos_answer_range_requests_and_are_not_sniffed(ada: TestClient, filled: Store) -> None:
    task = filled.tasks("main")[0]
    media = ada.get("/api/next").json()["task"]["videos"][0]["id"]
    whole = ada.get(f"/media/{media}")
    assert whole.content in [Path(video.media.path).read_bytes() for video in task.videos]
    assert whole.headers["content-type"] == "video/mp4"
    assert whole.headers["x-content-type-options"] == "nosniff"
    part = ada.get(f"/media/{media}", headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
    stale = ada.get(f"/media/{media}", headers={"range": "bytes=10-19", "if-range": '"other"'})
    assert (stale.status_code, len(stale.content)) == (200, len(whole.content))


def test_nobody_sees_the_media_of_others(app: Any, ada: TestClient, filled: Store) -> None:
    media = ada.get("/api/next").json()["task"]["videos"][0]["id"]
    assert browser(app).get(f"/media/{media}").status_code == 401
    eve = browser(app, "eve")
    refused = eve.get(f"/media/{media}")
    assert refused.status_code == 404
    assert "ftyp" not in refused.text
    # A task that she was never given.
    unseen = filled.tasks("main")[5].videos[0].media.id
    assert ada.get(f"/media/{unseen}").status_code == 404
    token = media.removesuffix(".0")
    for made_up in (f"{token}.4", "1.0", f"{'a' * 22}.0", f"{token}.-1", f"{token}.", ".", f"{media}.0", "²"):
        assert ada.get(f"/media/{made_up}").status_code == 404


def test_a_repeat_shows_the_same_videos_under_other_ids(app: Any, ada: TestClient, filled: Store) -> None:
    set_rules(filled, "main", Rules(repeat_share=0.5))
    ids: dict[str, list[tuple[set[str], set[bytes]]]] = {}
    for _ in range(24):
        task = ada.get("/api/next").json()["task"]
        if task is None:
            break
        shown = [ada.get(f"/media/{video['id']}") for video in task["videos"]]
        known = {video["id"] for video in task["videos"]} | {video.headers["etag"] for video in shown}
        ids.setdefault(task["prompt"], []).append((known, {video.content for video in shown}))
        ada.post(f"/api/assignments/{task['assignment']}/judgement", json=ANSWER)
    repeated = [given for given in ids.values() if len(given) == 2]
    assert repeated
    for (before, videos), (after, same_videos) in repeated:
        assert videos == same_videos
        assert not before & after


@pytest.mark.parametrize(
    "path",
    [
        "/media/../labels.db",
        "/media/..%2f..%2fetc%2fpasswd",
        "/media/%2fetc%2fpasswd",
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e/server.py",
        "/rank/file=/etc/passwd",
        "/rank/gradio_api/file=/etc/passwd",
        "/rank//gradio_api//file=/etc/passwd",
        "/rank/gradio_api/file=labeling_app/web/server.py",
        "/rank/proxy=http://example.org",
        "/rank/static/..%2f..%2froutes.py",
    ],
)
def test_paths_out_of_the_way_are_refused(ada: TestClient, path: str) -> None:
    response = ada.get(path)
    assert response.status_code in (403, 404, 422)
    assert "root:" not in response.text
    assert "import" not in response.text


def test_media_paths_in_the_url_are_never_opened(ada: TestClient, filled: Store) -> None:
    ada.get("/api/next")
    path = filled.tasks("main")[0].videos[0].media.path
    for given in (path, path.lstrip("/"), Path(path).name):
        assert ada.get(f"/media/{given}").status_code == 404


def test_nothing_works_without_login(app: Any) -> None:
    client = browser(app)
    assert client.get("/api/next").status_code == 401
    for action in ("judgement", "skip", "lease"):
        assert client.post(f"/api/assignments/1/{action}", json={}).status_code in (401, 422)
    assert client.get("/rank/").headers["location"] == "../login"
    assert client.get("/rank/config").status_code == 401
    client.cookies.set("vidalign_session", "forged")
    assert client.get("/api/next").status_code == 401
    assert client.get("/rank/config").status_code == 401


def test_forged_answers_are_refused(app: Any, ada: TestClient, filled: Store) -> None:
    mine = ada.get("/api/next").json()["task"]["assignment"]
    eve = browser(app, "eve")
    for path, body in (("judgement", ANSWER), ("skip", {"reason": "x", "seconds": 1}), ("lease", {})):
        refused = eve.post(f"/api/assignments/{mine}/{path}", json=body)
        assert (refused.status_code, refused.json()["message"]) == (403, "This task is not assigned to you.")
    for ranks in ([1, 2, 3], [1, 2, 3, 9], [1, 2, 3, "4"], [1, 2, 3, 4.0], [1, 2, 3, True], [1] * 500):
        refused = ada.post(
            f"/api/assignments/{mine}/judgement", json={"ranks": {"overall": ranks}, "seconds": 1}
        )
        assert refused.status_code in (403, 422), ranks
    for body in (
        {**ANSWER, "seconds": -1},
        {**ANSWER, "seconds": "NaN"},
        {**ANSWER, "annotator": "eve"},
        {**ANSWER, "comment": "x" * 10_001},
        [],
    ):
        assert ada.post(f"/api/assignments/{mine}/judgement", json=body).status_code == 422
    invalid = b'{"ranks": {"overall": [1,2,3,4]}, "seconds": 1, "comment": "\\ud800"}'
    headers = {"content-type": "application/json"}
    assert ada.post(f"/api/assignments/{mine}/judgement", content=invalid, headers=headers).status_code == 422
    assert filled.judgements("main", include_skips=True) == []


def test_posts_from_other_sites_and_huge_posts_are_refused(ada: TestClient, filled: Store) -> None:
    mine = ada.get("/api/next").json()["task"]["assignment"]
    path = f"/api/assignments/{mine}/judgement"
    assert ada.post(path, json=ANSWER, headers={"origin": "https://evil.example"}).status_code == 403
    refused = ada.post(path, json=ANSWER, headers={"origin": "http://labels.example:8082"}).json()["message"]
    for named in ("'http://labels.example:8082'", "'testserver'", "proxy_set_header Host $http_host"):
        assert named in refused
    assert ada.post(path, json=ANSWER, headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert ada.post(path, content=b"x" * 1_000_001).status_code == 413
    assert ada.post(path, content=iter([b"{}"])).status_code == 413
    assert ada.post(path, data={"ranks": "1"}).status_code == 422
    assert filled.judgements("main") == []
    assert ada.post(path, json=ANSWER, headers={"origin": "http://testserver"}).status_code == 200


def test_an_expired_lease_is_refused_with_one_clear_sentence(
    tmp_path: Path, candidates: Path, clock: Any
) -> None:
    store = Store(tmp_path / "timed.db", clock=clock)
    import_tasks(store, candidates, campaign="main")
    store.add_user("ada", PASSWORD)
    ada = browser(create_app(store), "ada")
    mine = ada.get("/api/next").json()["task"]["assignment"]
    clock.now += 600
    assert ada.post(f"/api/assignments/{mine}/lease").json() == {"expires_at": clock.now + 900}
    clock.now += 901
    for action, body in (("judgement", ANSWER), ("lease", {})):
        refused = ada.post(f"/api/assignments/{mine}/{action}", json=body)
        assert refused.status_code == 410
        assert refused.json() == {"message": LEASE_EXPIRED}


def test_guessing_a_password_is_throttled(app: Any) -> None:
    client = browser(app)
    statuses = [
        client.post("/login", data={"name": "ada", "password": f"guess {number}"}).status_code
        for number in range(8)
    ]
    assert statuses[:5] == [401] * 5
    assert statuses[5:] == [429] * 3
    # Nor does another spelling of the name open the door.
    for name in (" ada", "ada ", "\u2003ada"):
        assert client.post("/login", data={"name": name, "password": "guess"}).status_code == 429
    # Even the right password has to wait now; other names do not.
    refused = client.post("/login", data={"name": "ada", "password": PASSWORD})
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert browser(app, "eve").get("/api/next").status_code == 200


@pytest.mark.parametrize("first_user", ["ada", "eve"])
def test_servers_on_two_ports_of_a_host_stay_logged_in(app: Any, filled: Store, first_user: str) -> None:
    """One browser sends all cookies of a host to every port."""
    client = TestClient(app, base_url="http://127.0.0.1:7895", follow_redirects=False)
    jar: dict[str, str] = {}
    for port, name in ((7895, first_user), (7896, "ada")):
        client.cookies.clear()
        address = f"http://127.0.0.1:{port}"
        client.post(f"{address}/login", data={"name": name, "password": PASSWORD})
        jar |= dict(client.cookies)
    for port, name in ((7895, first_user), (7896, "ada")):
        cookies = "; ".join(f"{key}={value}" for key, value in jar.items())
        client.cookies.clear()
        answer = client.get(f"http://127.0.0.1:{port}/api/next", headers={"cookie": cookies})
        assert answer.json()["user"] == name


def test_the_session_cookie_is_out_of_reach_of_scripts_and_ends_with_logout(app: Any) -> None:
    client = browser(app)
    cookie = client.post("/login", data={"name": "ada", "password": PASSWORD}).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    token = client.cookies["vidalign_session"]
    assert client.post("/logout").status_code == 303
    client.cookies.set("vidalign_session", token)
    assert client.get("/api/next").status_code == 401


def test_the_login_page_says_only_what_it_should(app: Any) -> None:
    client = browser(app)
    hostile = '"><script>alert(1)</script>'
    texts = []
    for name in ("ada", "nobody", hostile):
        page = client.post("/login", data={"name": name, "password": "wrong horse"}).text
        kept = f' value="{html.escape(name)}"'
        assert page.count(kept) == 1  # nobody types it again
        texts.append(page.replace(kept, ""))
    assert texts[0] == texts[1] == texts[2]
    assert "<script>alert" not in texts[2]


@pytest.mark.parametrize("name", [None, "ada", "lea"])
def test_redirects_are_relative_so_that_a_proxy_may_put_the_app_under_a_path(
    app: Any, filled: Store, name: str | None
) -> None:
    filled.add_user("lea", PASSWORD, role="lead")
    client = browser(app, name)
    seen = {}
    for path in ("/", "/rank", "/lead", "/demonstrate", "/rank/", "/lead/", "/api/next/", "/static"):
        answer = client.get(path, headers={"host": "inside"})
        if answer.is_redirect:
            seen[path] = urljoin(f"https://outside.example/label{path}", answer.headers["location"])
    inside = "https://outside.example/label/"
    assert all(address.startswith(inside) for address in seen.values())
    login = dict.fromkeys(("/rank", "/lead", "/demonstrate", "/rank/", "/lead/"), f"{inside}login")
    there = {path: f"{inside}{path[1:]}/" for path in ("/rank", "/lead", "/demonstrate")}
    away = dict.fromkeys(("/lead", "/lead/"), f"{inside}rank/")
    wanted = login if name is None else there | (away if name == "ada" else {})
    assert {
        path: where for path, where in seen.items() if path not in ("/", "/api/next/", "/static")
    } == wanted


def test_gradio_itself_takes_no_files_and_runs_no_events(ada: TestClient) -> None:
    for path in (
        "/rank/gradio_api/upload",
        "/rank/upload",
        "/rank/gradio_api/queue/join",
        "/rank/api/predict",
    ):
        assert ada.post(path, files={"files": ("x.html", b"<script>")}).status_code == 404


def test_every_page_carries_security_headers(ada: TestClient) -> None:
    for path in ("/login", "/rank/", "/api/next", "/static/ranking/page.js"):
        headers = ada.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_neither_a_forged_host_nor_a_line_break_in_a_path_leads_elsewhere(ada: TestClient) -> None:
    ada.cookies.clear()
    for path in ("/", "/rank", "/rank/", "/lead", "/demonstrate/"):
        answer = ada.get(path, headers={"host": "evil.example", "x-forwarded-host": "evil.example"})
        assert answer.is_redirect, path
        assert "evil" not in answer.headers["location"]
        assert "//" not in answer.headers["location"]
    for path in ("/rank%0d%0ax-evil:%201", "/rank/%0d%0ax-evil:%201/", "//evil.example/%2e%2e", "/lead%0a"):
        answer = ada.get(path)
        assert "x-evil" not in answer.headers, path
        assert not answer.headers.get("location", "").startswith(("//", "http"))


def test_the_api_describes_itself(ada: TestClient) -> None:
    paths = ada.get("/openapi.json").json()["paths"]
    assert "/api/next" in paths
    assert "/api/assignments/{assignment_id}/judgement" in paths


def test_an_answer_is_found_again_and_changed(app: Any, ada: TestClient, filled: Store) -> None:
    mine = ada.get("/api/next").json()["task"]["assignment"]
    ada.post(f"/api/assignments/{mine}/judgement", json={**ANSWER, "flag": "odd"})
    (found,) = ada.get("/api/answers").json()["answers"]
    assert (found["assignment"], found["ranks"], found["flag"]) == (mine, {"overall": [1, 2, 2, 3]}, "odd")
    changed = {**ANSWER, "ranks": {"overall": [4, 3, 2, 1]}}
    assert ada.post(f"/api/assignments/{mine}/revision", json=changed).json() == {"version": 2}
    eve = browser(app, "eve")
    assert eve.post(f"/api/assignments/{mine}/revision", json=changed).status_code == 403
    assert eve.get("/api/answers").json() == {"answers": []}
    assert [judgement.version for judgement in filled.judgements("main")] == [2]


@pytest.mark.parametrize(
    "answer",
    [
        {**ANSWER, "comment": "a\0b"},
        {**ANSWER, "flag": "\0"},
        {**ANSWER, "seconds": "NaN"},
        {**ANSWER, "x": 1},
    ],
)
def test_answers_that_the_database_would_choke_on_are_refused(ada: TestClient, answer: Any) -> None:
    mine = ada.get("/api/next").json()["task"]["assignment"]
    response = ada.post(f"/api/assignments/{mine}/judgement", json=answer)
    assert response.status_code in (403, 422)
    assert ada.post(f"/api/assignments/{2**70}/judgement", json=ANSWER).status_code in (403, 422)
    assert ada.get("/media/a%00b").status_code == 404


def test_ids_and_names_that_no_database_takes_are_refused(app: Any, ada: TestClient, filled: Store) -> None:
    filled.add_user("lea", PASSWORD, role="admin")
    lea = browser(app, "lea")
    for number in (2**31, 2**63, -(2**70)):
        for what in ("judgement", "revision"):
            assert ada.post(f"/api/assignments/{number}/{what}", json=ANSWER).status_code == 403
        assert ada.post(f"/api/assignments/{number}/lease", json={}).status_code == 403
        decision = lea.post(f"/api/lead/tasks/{number}/adjudication", json={"ranks": ANSWER["ranks"]})
        assert decision.status_code == 400
        reviewed = lea.post(f"/api/lead/demonstrations/{number}/review", json={"state": "accepted"})
        assert reviewed.status_code == 400
    for path in ("guidelines", "lead/quality", "lead/export", "lead/plots/days.svg", "lead/demonstrations"):
        assert lea.get(f"/api/{path}?campaign=a%00b").status_code == 400
    for path, body in (
        ("campaigns", b'{"name": "a\\u0000b"}'),
        ("campaigns", b'{"name": "two\\nlines"}'),
        ("rules?campaign=main", b'{"project": "a\\u0000b"}'),
        ("rules?campaign=main", b'{"project": "\\ud800"}'),
        ("users/role", b'{"name": "a\\u0000b", "role": "lead"}'),
        ("users/password", b'{"name": "a\\u0000b"}'),
    ):
        refused = lea.post(f"/api/lead/{path}", content=body, headers={"content-type": "application/json"})
        assert (refused.status_code, refused.json()["message"][-1]) == (400, "."), (path, body)
    assert [row.name for row in filled.campaigns()] == ["main"]


def test_logins_are_in_the_audit_table(ada: TestClient, filled: Store) -> None:
    assert ada.post("/login", data={"name": "ada", "password": "wrong horse"}).status_code == 401
    found = [(event.user_name, event.action) for event in filled.audit_events()]
    assert found == [("ada", "failed login"), ("ada", "login")]
    assert filled.audit_events()[0].details == {"address": "testclient"}
