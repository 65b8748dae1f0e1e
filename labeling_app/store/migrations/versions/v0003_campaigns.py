"""Projects, gold items and repeats, guidelines, adjudications and demonstrations; faster queues."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

NEW_COLUMNS: dict[str, list[tuple[str, Any, Any]]] = {
    "campaigns": [
        ("gold_share", sa.Double, "0"),
        ("repeat_share", sa.Double, "0"),
        ("daily_cap", sa.Integer, "0"),
        ("quiz_size", sa.Integer, "0"),
        ("quiz_pass", sa.Double, "0.7"),
    ],
    "tasks": [("kind", sa.String(10), "normal"), ("filled", sa.Boolean, sa.false())],
    "judgements": [("guidelines_version", sa.Integer, "0")],
}


def upgrade() -> None:
    """Adds them; all tasks so far are normal ones."""
    op.create_table(
        "projects",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(200), nullable=False, unique=True),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    for table, columns in NEW_COLUMNS.items():
        for name, kind, default in columns:
            op.add_column(table, sa.Column(name, kind, nullable=False, server_default=default))
    # SQLite adds a column with a reference, but no constraint afterwards; this is the same on both databases.
    op.execute(
        "ALTER TABLE campaigns ADD COLUMN project_id INTEGER CONSTRAINT campaigns_project REFERENCES projects (id)"
    )
    op.execute("ALTER TABLE tasks ADD COLUMN copy_of INTEGER CONSTRAINT tasks_copy_of REFERENCES tasks (id)")
    op.add_column("tasks", sa.Column("gold_ranks", sa.JSON))
    op.execute(
        "UPDATE tasks SET filled = (completed >= "
        "(SELECT overlap FROM campaigns WHERE campaigns.id = tasks.campaign_id))"
    )
    op.create_index("ix_tasks_copy_of", "tasks", ["copy_of"])
    op.drop_index("ix_tasks_open", "tasks")
    op.create_index("ix_tasks_queue", "tasks", ["campaign_id", "kind", "filled", "id"])
    op.create_index("ix_assignments_lease", "assignments", ["state", "expires_at"])
    _make_lead_tables()
    _make_demonstrations()


def _make_lead_tables() -> None:
    op.create_table(
        "guidelines",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("campaign_id", sa.Integer, sa.ForeignKey("campaigns.id"), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.UniqueConstraint("campaign_id", "version"),
    )
    op.create_table(
        "adjudications",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("task_id", sa.Integer, sa.ForeignKey("tasks.id"), nullable=False, index=True),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("dimension", sa.String(50), nullable=False),
        sa.Column("ranks", sa.JSON, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )


def _make_demonstrations() -> None:
    op.create_table(
        "demonstration_prompts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("campaign_id", sa.Integer, sa.ForeignKey("campaigns.id"), nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("wanted", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.UniqueConstraint("campaign_id", "fingerprint"),
    )
    op.create_table(
        "library_videos",
        sa.Column("campaign_id", sa.Integer, sa.ForeignKey("campaigns.id"), primary_key=True),
        sa.Column("media_id", sa.String(32), sa.ForeignKey("media.id"), primary_key=True),
    )
    op.create_table(
        "uploads",
        sa.Column("media_id", sa.String(32), sa.ForeignKey("media.id"), primary_key=True),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False, index=True),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_table(
        "demonstrations",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("prompt_id", sa.Integer, sa.ForeignKey("demonstration_prompts.id"), nullable=False),
        sa.Column("user_id", sa.Integer, sa.ForeignKey("users.id"), nullable=False, index=True),
        sa.Column("media_id", sa.String(32), sa.ForeignKey("media.id"), nullable=False, index=True),
        sa.Column("source", sa.String(10), nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.UniqueConstraint("prompt_id", "user_id"),
        sa.UniqueConstraint("prompt_id", "media_id"),
    )


def downgrade() -> None:
    """Is not offered: it would drop adjudications and demonstrations."""
    raise NotImplementedError("An older schema cannot hold what this one does: restore a backup instead.")
