"""Judgements carry flags; a table of audit events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds both; old judgements have no flag."""
    op.add_column("judgements", sa.Column("flag", sa.String(200), nullable=False, server_default=""))
    op.create_table(
        "audit_events",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("user_name", sa.String(100), nullable=False),
        sa.Column("action", sa.String(50), nullable=False),
        sa.Column("details", sa.JSON, nullable=False),
    )


def downgrade() -> None:
    """Takes both away."""
    op.drop_table("audit_events")
    op.drop_column("judgements", "flag")
