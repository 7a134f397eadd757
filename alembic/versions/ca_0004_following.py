"""What following keeps: how far each feed of GitHub's events API has been read.

Revision ID: ca_0004
Revises: ca_0003
"""

from __future__ import annotations

import sqlalchemy as sa

from citus_analytics.migrations import op

revision = "ca_0004"
down_revision = "ca_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table of followed feeds."""
    op.create_table(
        "followed_feeds",
        sa.Column("address", sa.Text(), primary_key=True),
        sa.Column("etag", sa.Text()),
        sa.Column("event_ids", sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("newest", sa.DateTime(timezone=True)),
        sa.Column("next_poll", sa.DateTime(timezone=True)),
    )


def downgrade() -> None:
    """Drop it; the events stay."""
    op.drop_table("followed_feeds")
