"""Reasons for videos, feedback after gold items, example videos of guidelines, metadata of tasks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Adds them; who has answered so far was not asked for reasons, and no task has metadata."""
    op.add_column("campaigns", sa.Column("tags", sa.JSON, nullable=False, server_default="[]"))
    op.add_column(
        "campaigns", sa.Column("gold_feedback", sa.Boolean, nullable=False, server_default=sa.false())
    )
    for table in ("judgements", "adjudications"):
        op.add_column(table, sa.Column("tags", sa.JSON))
    op.create_table(
        "guideline_videos",
        sa.Column("campaign_id", sa.Integer, sa.ForeignKey("campaigns.id"), primary_key=True),
        sa.Column("media_id", sa.String(32), sa.ForeignKey("media.id"), primary_key=True, index=True),
    )
    op.create_table(
        "task_metadata",
        sa.Column("task_id", sa.Integer, sa.ForeignKey("tasks.id"), primary_key=True),
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("value", sa.String(200), primary_key=True),
    )
    op.create_index("ix_task_metadata_value", "task_metadata", ["name", "value"])
    op.create_index("ix_media_sha256", "media", ["sha256"])


def downgrade() -> None:
    """Is not offered: it would drop the reasons that annotators have given."""
    raise NotImplementedError("An older schema cannot hold what this one does: restore a backup instead.")
