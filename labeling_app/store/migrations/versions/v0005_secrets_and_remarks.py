"""Assignments have secret names; remarks name videos; campaigns pause; guidelines are acknowledged; names are NFC."""

from __future__ import annotations

import secrets
import unicodedata

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Adds them: every assignment gets a secret of its own, and every campaign is open."""
    op.add_column("assignments", sa.Column("token", sa.String(32), nullable=False, server_default=""))
    op.add_column("judgements", sa.Column("remark_videos", sa.JSON))
    op.add_column("campaigns", sa.Column("state", sa.String(10), nullable=False, server_default="open"))
    op.create_table(
        "acknowledgements",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("campaign_id", sa.Integer, sa.ForeignKey("campaigns.id"), nullable=False),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.UniqueConstraint("campaign_id", "user_id", "version"),
    )
    _give_secrets(op.get_bind())
    op.create_index("ix_assignments_token", "assignments", ["token"], unique=True)
    for table in ("users", "campaigns", "projects"):
        _normalise_names(op.get_bind(), table)


def _give_secrets(connection: sa.Connection) -> None:
    rows = connection.execute(sa.text("SELECT id FROM assignments")).scalars().all()
    if rows:
        connection.execute(
            sa.text("UPDATE assignments SET token = :token WHERE id = :id"),
            [{"id": row, "token": secrets.token_urlsafe(16)} for row in rows],
        )


def _normalise_names(connection: sa.Connection, table: str) -> None:
    """Writes names in NFC; where that would make two alike, the later one stays as it was typed."""
    rows = connection.execute(sa.text(f"SELECT id, name FROM {table} ORDER BY id")).all()
    taken = {name for _, name in rows}
    for number, name in rows:
        composed = unicodedata.normalize("NFC", name)
        if composed not in taken:
            taken.add(composed)
            connection.execute(
                sa.text(f"UPDATE {table} SET name = :name WHERE id = :id"), {"name": composed, "id": number}
            )


def downgrade() -> None:
    """Is not offered: it would drop what annotators have acknowledged and which videos they meant."""
    raise NotImplementedError("An older schema cannot hold what this one does: restore a backup instead.")
