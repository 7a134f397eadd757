"""The tutorial's events and users, sharded by user.

Revision ID: ca_0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from citus_analytics.migrations import op

revision = "ca_0001"
down_revision = None
branch_labels = ("citus_analytics",)
depends_on = None


def upgrade() -> None:
    """Create and distribute the two tables."""
    op.create_table(
        "github_events",
        sa.Column("event_id", sa.BigInteger()),
        sa.Column("event_type", sa.Text()),
        sa.Column("event_public", sa.Boolean()),
        sa.Column("repo_id", sa.BigInteger()),
        sa.Column("payload", postgresql.JSONB()),
        sa.Column("repo", postgresql.JSONB()),
        sa.Column("user_id", sa.BigInteger()),
        sa.Column("org", postgresql.JSONB()),
        sa.Column("created_at", sa.DateTime(timezone=True)),
    )
    op.create_table(
        "github_users",
        sa.Column("user_id", sa.BigInteger()),
        sa.Column("url", sa.Text()),
        sa.Column("login", sa.Text()),
        sa.Column("avatar_url", sa.Text()),
        sa.Column("gravatar_id", sa.Text()),
        sa.Column("display_login", sa.Text()),
    )
    op.create_index("event_type_index", "github_events", ["event_type"])
    op.create_index(
        "payload_index",
        "github_events",
        ["payload"],
        postgresql_using="gin",
        postgresql_ops={"payload": "jsonb_path_ops"},
    )
    op.create_index("created_at_index", "github_events", ["created_at"])
    op.create_distributed_table("github_events", "user_id")
    op.create_distributed_table("github_users", "user_id", colocate_with="github_events")


def downgrade() -> None:
    """Drop the two tables, with their shards."""
    op.drop_table("github_users")
    op.drop_table("github_events")
