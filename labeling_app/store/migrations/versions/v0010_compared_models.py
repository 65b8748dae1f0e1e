"""Videos of a task name the models that made them, where models are compared."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Adds the names; what is there compares no models."""
    op.add_column("task_videos", sa.Column("model", sa.String(200)))


def downgrade() -> None:
    """Is not offered: it would drop the models that annotators have compared."""
    raise NotImplementedError("An older schema cannot hold what this one does: restore a backup instead.")
