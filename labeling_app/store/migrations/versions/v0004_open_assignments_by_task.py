"""Index that finds who holds a task, however many tasks are held."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Puts the task into the index of leases."""
    op.drop_index("ix_assignments_lease", table_name="assignments")
    op.create_index("ix_assignments_open", "assignments", ["state", "task_id", "expires_at"])


def downgrade() -> None:
    """Takes it out again."""
    op.drop_index("ix_assignments_open", table_name="assignments")
    op.create_index("ix_assignments_lease", "assignments", ["state", "expires_at"])
