"""Messages to annotators, each shown until it is read."""

from __future__ import annotations

import pytest

from generator.output import InputError
from labeling_app.people.groups import change_group
from labeling_app.people.messages import confirm_message, messages, unread_messages, write_message
from labeling_app.people.status import deactivate
from labeling_app.store.store import Store


def test_a_message_is_shown_to_its_readers_until_each_has_confirmed_it(store: Store) -> None:
    ada, bob, cyd = (store.add_user(name) for name in ("ada", "bob", "cyd"))
    lea = store.add_user("lea", role="lead")
    store.add_user("simulated-1", simulated=True)
    change_group(store, "night", add=["bob"])
    assert write_message(store, "To all", sender=lea) == 3
    assert write_message(store, "To two", people=["ada", "bob"], groups=["night"]) == 2
    assert [message.text for message in unread_messages(store, ada)] == ["To all", "To two"]
    assert [message.text for message in unread_messages(store, cyd)] == ["To all"]
    assert unread_messages(store, store.add_user("later")) == []
    first, second = unread_messages(store, bob)
    assert first.user is not None
    assert (first.user.name, second.user) == ("lea", None)
    confirm_message(store, bob, first.id)
    assert [message.text for message in unread_messages(store, bob)] == ["To two"]
    with pytest.raises(InputError, match="no such message"):
        confirm_message(store, cyd, second.id)
    read = [(row.text, sum(each.read_at is not None for each in row.recipients)) for row in messages(store)]
    assert read == [("To two", 0), ("To all", 1)]


def test_a_message_that_nobody_would_read_is_refused(store: Store) -> None:
    store.add_user("ada")
    change_group(store, "night")
    deactivate(store, "ada")
    for text, people, groups in (
        ("Hello", [], []),
        ("Hello", ["ada"], []),
        ("Hello", [], ["night"]),
        (" ", [], []),
    ):
        with pytest.raises(InputError):
            write_message(store, text, people, groups)
    assert messages(store) == []
