"""The API of the lead's page about people, and the page of an invitation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from labeling_app.people.invitations import NOT_VALID, invite
from labeling_app.people.languages import say
from labeling_app.store.store import Store
from labeling_app.web.server import create_app

PASSWORD = "correct horse"
PEOPLE = (("ada", "annotator"), ("ben", "annotator"), ("lea", "lead"), ("root", "admin"))


@pytest.fixture
def store(sqlite_file: Path) -> Any:
    with Store(sqlite_file) as opened:
        for name, role in PEOPLE:
            opened.add_user(name, PASSWORD, role=role)
        yield opened


@pytest.fixture
def app(store: Store) -> Any:
    return create_app(store)


def browser(app: Any, name: str = "", language: str = "en") -> TestClient:
    client = TestClient(app, follow_redirects=False, headers={"accept-language": language})
    if name:
        assert client.post("/login", data={"name": name, "password": PASSWORD}).status_code == 303
    return client


def test_a_lead_deactivates_and_removes_annotators_and_an_admin_everybody_but_oneself(
    app: Any, store: Store
) -> None:
    ada, lea, root = (browser(app, name) for name in ("ada", "lea", "root"))
    assert ada.get("/api/next").status_code == 200
    assert (
        lea.post("/api/lead/users/state", json={"name": "ada", "active": False}).json()["state"] == "inactive"
    )
    assert ada.get("/api/next").status_code == 401
    login = browser(app)
    answers = [login.post("/login", data={"name": n, "password": PASSWORD}) for n in ("ada", "nobody")]
    shown = [answer.text.replace("ada", "nobody") for answer in answers]
    assert shown[0] == shown[1]  # nothing says that there is an ada
    for client, name, status in ((lea, "root", 403), (lea, "lea", 403), (root, "root", 400)):
        assert (
            client.post("/api/lead/users/state", json={"name": name, "active": False}).status_code == status
        )
        removal = {"name": name, "typed": name}
        assert client.post("/api/lead/users/remove", json=removal).status_code == status
    assert lea.post("/api/lead/users/remove", json={"name": "ada", "typed": "eda"}).status_code == 400
    pseudonym = lea.post("/api/lead/users/remove", json={"name": "ada", "typed": "ada"}).json()["pseudonym"]
    people = {user["name"]: user["state"] for user in lea.get("/api/lead/users").json()["users"]}
    assert people == {pseudonym: "removed", "ben": "active", "lea": "active", "root": "active"}
    assert "ada" not in str([(event.user_name, event.details) for event in store.audit_events()])


def test_groups_campaigns_and_messages_of_people(app: Any, store: Store) -> None:
    from labeling_app.campaigns.campaigns import add_campaign

    add_campaign(store, "main", 1, ["overall"], None, [])
    ada, ben, lea = (browser(app, name) for name in ("ada", "ben", "lea"))
    made = lea.post("/api/lead/groups", json={"name": "night", "add": ["ben"]}).json()
    assert made == {"name": "night", "members": ["ben"]}
    assigned = lea.post("/api/lead/assignees?campaign=main", json={"people": ["ada"], "groups": ["night"]})
    assert assigned.json() == {"people": ["ada"], "groups": ["night"]}
    assert lea.get("/api/lead/groups").json()["campaigns"][0] == {"name": "main", **assigned.json()}
    refused = lea.post("/api/lead/groups/delete", json={"name": "night"})
    assert (refused.status_code, "assigned to main" in refused.json()["message"]) == (400, True)
    assert lea.post("/api/lead/messages", json={"text": "Hello", "groups": ["night"]}).json() == {"to": 1}
    assert ada.get("/api/messages").json() == {"messages": []}
    (message,) = ben.get("/api/messages").json()["messages"]
    assert (message["text"], message["sender"]) == ("Hello", "lea")
    assert ada.post("/api/messages/read", json={"message": message["id"]}).status_code == 400
    assert ben.post("/api/messages/read", json={"message": message["id"]}).status_code == 200
    assert ben.get("/api/messages").json() == {"messages": []}
    (row,) = lea.get("/api/lead/messages").json()["messages"]
    assert (row["to"], row["read"], row["unread_by"]) == (1, 1, [])
    hours = lea.get("/api/lead/hours?campaign=main").json()
    assert [person["name"] for person in hours["people"]] == ["ada", "ben", "lea", "root"]
    actions = [event.action for event in store.audit_events()][:3]
    assert actions == ["write message", "assign campaign", "change group"]


def test_who_is_invited_chooses_name_and_password_and_is_logged_in(app: Any, store: Store) -> None:
    lea, guest = browser(app, "lea"), browser(app, language="de")
    assert lea.post("/api/lead/invitations", json={"role": "lead"}).status_code == 403
    made = lea.post("/api/lead/invitations", json={"uses": 1}).json()
    page = guest.get(f"/{made['path']}")
    token = made["path"].partition("=")[2]
    assert (page.status_code, f'value="{token}"' in page.text) == (200, True)
    assert say("de", "invitation.submit") in page.text
    form = {"token": token, "name": "<b>", "password": "short"}
    again = guest.post("/invitation", data=form)
    assert (again.status_code, "5 Zeichen" in again.text, "<b>" in again.text) == (400, True, False)
    entered = guest.post("/invitation", data={**form, "name": "eve", "password": PASSWORD})
    assert (entered.status_code, entered.headers["location"]) == (303, "rank/")
    assert guest.get("/api/next").json()["user"] == "eve"
    for used in (guest.get(f"/{made['path']}"), guest.post("/invitation", data={**form, "name": "eva"})):
        assert (used.status_code, "<form" in used.text) == (403, False)
    assert lea.get("/api/lead/invitations").json()["invitations"][0]["state"] == "used"
    assert token not in str([event.details for event in store.audit_events()])


def test_tokens_and_names_cannot_be_tried_at_will_and_other_sites_cannot_post(app: Any, store: Store) -> None:
    token, _ = invite(store, uses=100)
    guest = browser(app)
    form = {"token": token, "name": "ada", "password": PASSWORD}
    foreign = guest.post("/invitation", data=form, headers={"origin": "https://evil.example"})
    assert foreign.status_code == 403
    refused = guest.get("/invitation?token=forged")
    assert (refused.status_code, NOT_VALID in refused.text) == (403, True)
    statuses = [guest.get("/invitation?token=forged").status_code for _ in range(30)]
    assert statuses[-1] == 429
    blocked = guest.post("/invitation", data={**form, "name": "eve"})
    assert (blocked.status_code, int(blocked.headers["retry-after"]) > 0) == (429, True)
    assert store.user("eve") is None


def test_the_language_is_the_persons_own_or_the_browsers(app: Any) -> None:
    ada = browser(app, "ada", "de-DE,de;q=0.9")
    assert ada.get("/api/words").json()["language"] == "de"
    assert ada.get("/api/words?language=en").json()["words"]["rank.submit"] == "Submit"
    assert ada.get("/api/words?language=fr").status_code == 400
    refused = ada.post("/api/assignments/x/skip", json={"reason": "x", "seconds": 1})
    assert refused.json() == {"message": say("de", "message.not_assigned")}
    assert ada.post("/api/language", json={"language": "en"}).status_code == 200
    assert ada.get("/api/words").json()["language"] == "en"
    assert (
        "not assigned to you" in ada.post("/api/assignments/x/skip", json={"reason": "x", "seconds": 1}).text
    )
    assert ada.post("/api/language", json={"language": "../en"}).status_code == 400
    assert ada.post("/api/language", json={"language": ""}).status_code == 200
    assert ada.get("/api/words").json()["language"] == "de"
    assert TestClient(app).get("/api/words").status_code == 401
    assert '<html lang="de">' in ada.get("/login").text
