"""Messages of leads to annotators, each shown until its reader confirms it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, update

from generator.output import InputError, is_storable
from labeling_app.people.groups import require_group
from labeling_app.store.people_tables import GroupMember, Message, MessageRecipient
from labeling_app.store.store import Store, require_person
from labeling_app.store.tables import User

MAXIMUM_MESSAGE = 5000
"""Characters of a message."""


def write_message(
    store: Store,
    text: str,
    people: Sequence[str] = (),
    groups: Sequence[str] = (),
    sender: User | None = None,
) -> int:
    """Writes to people and the members of groups, or to all active annotators where neither is given.

    Args:
        sender: who writes; None for the command line.

    Returns:
        the number of people who will read it.

    Raises:
        InputError: the text is empty or too long, a person or group is unknown, or nobody would read it.
    """
    text = text.strip()
    if not text or len(text) > MAXIMUM_MESSAGE or not is_storable(text):
        raise InputError(f"The message has {len(text)} characters: give 1 to {MAXIMUM_MESSAGE}, without NUL.")
    active = select(User.id).where(User.state == "active")
    with store.write() as session:
        chosen = {require_person(session, name).id for name in people}
        numbers = [require_group(session, name).id for name in groups]
        members = select(GroupMember.user_id).where(GroupMember.group_id.in_(numbers))
        if people or groups:
            chosen |= set(session.scalars(members))
            readers = set(session.scalars(active.where(User.id.in_(chosen))))
        else:
            everybody = active.where(User.role == "annotator", User.simulated.is_(False))
            readers = set(session.scalars(everybody))
        if not readers:
            raise InputError("Nobody would read the message: name active people or a group that has some.")
        row = Message(user_id=sender.id if sender else None, text=text, created_at=store.clock())
        session.add(row)
        session.flush()
        session.add_all(MessageRecipient(message_id=row.id, user_id=each) for each in sorted(readers))
    return len(readers)


def unread_messages(store: Store, user: User) -> list[Message]:
    """Messages that the user has not confirmed, the oldest first."""
    query = (
        select(Message)
        .join(MessageRecipient, MessageRecipient.message_id == Message.id)
        .where(MessageRecipient.user_id == user.id, MessageRecipient.read_at.is_(None))
        .order_by(Message.id)
    )
    with store.read() as session:
        return list(session.scalars(query).unique())


def confirm_message(store: Store, user: User, number: int) -> None:
    """Stores that the user has read a message; it is not shown again.

    Raises:
        InputError: it is not a message to this user.
    """
    own = (MessageRecipient.message_id == number, MessageRecipient.user_id == user.id)
    with store.write() as session:
        known = 0 < number < 2**31 and session.scalar(select(MessageRecipient.user_id).where(*own))
        if not known:
            raise InputError("There is no such message to you.")
        unread = update(MessageRecipient).where(*own, MessageRecipient.read_at.is_(None))
        session.execute(unread.values(read_at=store.clock()))


def messages(store: Store, limit: int = 100) -> list[Message]:
    """The latest messages with their recipients, the newest first."""
    with store.read() as session:
        return list(session.scalars(select(Message).order_by(Message.id.desc()).limit(limit)).unique())
