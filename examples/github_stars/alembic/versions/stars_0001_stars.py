"""Stars, beside the events of their users.

Revision ID: stars_0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa

from citus_analytics.migrations import op

revision = "stars_0001"
down_revision = None
branch_labels = ("stars",)
# The tables that it is colocated with come first.
depends_on = "ca_0001"


def upgrade() -> None:
    """Create and distribute the table."""
    op.create_table(
        "stars",
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("repo_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("starred_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("user_id", "repo_id"),
    )
    op.create_distributed_table("stars", "user_id", colocate_with="github_events")


def downgrade() -> None:
    """Drop the table, with its shards."""
    op.drop_table("stars")
