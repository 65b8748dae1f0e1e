"""Results over whole campaigns, which a server that starts again shows until they are made anew."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Adds the table; it is empty until a lead looks at a large campaign."""
    op.create_table(
        "computed_results",
        sa.Column("campaign_id", sa.Integer, sa.ForeignKey("campaigns.id"), primary_key=True),
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("revision", sa.String(64), nullable=False),
        sa.Column("removed_people", sa.Integer, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("made_at", sa.Double, nullable=False),
    )


def downgrade() -> None:
    """Drops it: everything in it can be made anew."""
    op.drop_table("computed_results")
