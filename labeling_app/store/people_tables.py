"""Tables of the labeling store about people: groups, assignments to campaigns, invitations, messages, providers."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from labeling_app.store.tables import Base, User


class PersonGroup(Base):
    """People who are assigned and written to together."""

    __tablename__ = "person_groups"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    created_at: Mapped[float]


class GroupMember(Base):
    """Membership of a person in a group."""

    __tablename__ = "group_members"

    group_id: Mapped[int] = mapped_column(ForeignKey("person_groups.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True, index=True)


class CampaignPerson(Base):
    """Assignment of a person to a campaign. A campaign with neither people nor groups is open to everybody."""

    __tablename__ = "campaign_people"

    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True, index=True)


class CampaignGroup(Base):
    """Assignment of a group to a campaign."""

    __tablename__ = "campaign_groups"

    campaign_id: Mapped[int] = mapped_column(ForeignKey("campaigns.id"), primary_key=True)
    group_id: Mapped[int] = mapped_column(ForeignKey("person_groups.id"), primary_key=True, index=True)


class Invitation(Base):
    """A link by which people make their own accounts; only the hash of its token is kept.

    Attributes:
        role, group: what the people get who come by it.
        uses: how many accounts may be made with it.
        used: how many were.
        user: who made it; None for the command line.
        revoked_at: when it was taken back, if it was.
    """

    __tablename__ = "invitations"

    id: Mapped[int] = mapped_column(primary_key=True)
    token_hash: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(20))
    group_id: Mapped[int | None] = mapped_column(ForeignKey("person_groups.id"), index=True)
    uses: Mapped[int]
    used: Mapped[int] = mapped_column(default=0)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"), index=True)
    created_at: Mapped[float]
    expires_at: Mapped[float]
    revoked_at: Mapped[float | None]
    group: Mapped[PersonGroup | None] = relationship(lazy="joined")
    user: Mapped[User | None] = relationship(lazy="joined")


class Message(Base):
    """A text of a lead to annotators.

    Attributes:
        user: who wrote it; None for the command line.
    """

    __tablename__ = "messages"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id"), index=True)
    text: Mapped[str] = mapped_column(Text)
    created_at: Mapped[float]
    user: Mapped[User | None] = relationship(lazy="joined")
    recipients: Mapped[list[MessageRecipient]] = relationship(lazy="selectin")


class MessageRecipient(Base):
    """A person to whom a message was written, and when it was read."""

    __tablename__ = "message_recipients"
    __table_args__ = (Index("ix_message_recipients_unread", "user_id", "read_at"),)

    message_id: Mapped[int] = mapped_column(ForeignKey("messages.id"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), primary_key=True)
    read_at: Mapped[float | None]
    user: Mapped[User] = relationship(lazy="joined")


class ProviderIdentity(Base):
    """The account of a person at an OpenID provider, by which this person signs in.

    Attributes:
        subject: hash of the provider's name for the account.
    """

    __tablename__ = "provider_identities"

    issuer: Mapped[str] = mapped_column(String(500), primary_key=True)
    subject: Mapped[str] = mapped_column(String(255), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    created_at: Mapped[float]


class ProviderAttempt(Base):
    """A sign-in that was begun in a browser and has not come back from the provider.

    Attributes:
        browser_hash: hash of the browser's cookie.
        state, nonce, code_verifier: secrets of OpenID Connect and of PKCE (RFC 7636).
    """

    __tablename__ = "provider_attempts"

    browser_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[str] = mapped_column(String(100))
    nonce: Mapped[str] = mapped_column(String(100))
    code_verifier: Mapped[str] = mapped_column(String(100))
    expires_at: Mapped[float] = mapped_column(index=True)
