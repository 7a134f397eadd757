"""How many polls of a followed feed have failed in a row, so that a restart waits as long.

Revision ID: ca_0006
Revises: ca_0005
"""

from __future__ import annotations

import sqlalchemy as sa

from citus_analytics.migrations import op

revision = "ca_0006"
down_revision = "ca_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the number of failures."""
    op.add_column(
        "followed_feeds",
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_column("followed_feeds", "failures")
