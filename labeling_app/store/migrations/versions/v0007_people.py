"""People who left, groups, assignments to campaigns, invitations, messages, languages and sign-in by a provider."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Adds them; everybody so far is active, and every campaign is open to everybody."""
    op.add_column("users", sa.Column("state", sa.String(10), nullable=False, server_default="active"))
    op.add_column("users", sa.Column("language", sa.String(10), nullable=False, server_default=""))
    _make_groups()
    _make_invitations()
    _make_messages()
    _make_provider_tables()


def _make_groups() -> None:
    op.create_table(
        "person_groups",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(100), nullable=False, unique=True),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    for table, first, second in (
        ("group_members", "person_groups.id", "users.id"),
        ("campaign_people", "campaigns.id", "users.id"),
        ("campaign_groups", "campaigns.id", "person_groups.id"),
    ):
        names = {"person_groups.id": "group_id", "users.id": "user_id", "campaigns.id": "campaign_id"}
        op.create_table(
            table,
            sa.Column(names[first], sa.Integer, sa.ForeignKey(first), primary_key=True),
            sa.Column(names[second], sa.Integer, sa.ForeignKey(second), primary_key=True, index=True),
        )


def _make_invitations() -> None:
    op.create_table(
        "invitations",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
        sa.Column("role", sa.String(20), nullable=False),
        sa.Column("group_id", sa.Integer, sa.ForeignKey("person_groups.id"), index=True),
        sa.Column("uses", sa.Integer, nullable=False),
        sa.Column("used", sa.Integer, nullable=False),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), index=True),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
        sa.Column("revoked_at", sa.Double),
    )


def _make_messages() -> None:
    op.create_table(
        "messages",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), index=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_table(
        "message_recipients",
        sa.Column("message_id", sa.Integer, sa.ForeignKey("messages.id"), primary_key=True),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), primary_key=True),
        sa.Column("read_at", sa.Double),
    )
    op.create_index("ix_message_recipients_unread", "message_recipients", ["user_id", "read_at"])


def _make_provider_tables() -> None:
    op.create_table(
        "provider_identities",
        sa.Column("issuer", sa.String(500), primary_key=True),
        sa.Column("subject", sa.String(255), primary_key=True),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False, index=True),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_table(
        "provider_attempts",
        sa.Column("browser_hash", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(100), nullable=False),
        sa.Column("nonce", sa.String(100), nullable=False),
        sa.Column("code_verifier", sa.String(100), nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False, index=True),
    )


def downgrade() -> None:
    """Is not offered: it would let people in who were removed, and drop who may work on what."""
    raise NotImplementedError("An older schema cannot hold what this one does: restore a backup instead.")
