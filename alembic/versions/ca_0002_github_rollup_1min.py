"""The tutorial's rollup: events by type, repository, user and minute.

Revision ID: ca_0002
Revises: ca_0001
"""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from citus_analytics.migrations import RollupSpec, op

revision = "ca_0002"
down_revision = "ca_0001"
branch_labels = None
depends_on = None

ROLLUP = RollupSpec(
    function="rollup_http_request",
    source="github_events",
    target="github_rollup_1min",
    state="latest_rollup",
    state_column="minute",
    key="user_id",
    key_type="BIGINT",
    time_column="created_at",
    bucket=timedelta(minutes=1),
    bucket_column="ingest_time",
    dimensions=("event_type", "repo_id", "user_id"),
    measures={"total_events": "count(*)"},
)


def upgrade() -> None:
    """Create the rollup's tables, and the function that keeps them."""
    op.create_table(
        "github_rollup_1min",
        sa.Column("event_type", sa.Text()),
        sa.Column("repo_id", sa.BigInteger()),
        sa.Column("user_id", sa.BigInteger()),
        sa.Column("total_events", sa.BigInteger()),
        sa.Column("ingest_time", sa.DateTime(timezone=True)),
    )
    op.create_index(
        "github_rollup_1min_group_index",
        "github_rollup_1min",
        ["user_id", "ingest_time", "event_type", "repo_id"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_distributed_table("github_rollup_1min", "user_id", colocate_with="github_events")
    op.create_table(
        "latest_rollup",
        sa.Column("minute", sa.DateTime(timezone=True), primary_key=True),
        sa.CheckConstraint("minute = date_trunc('minute', minute)"),
    )
    op.create_rollup_function(ROLLUP, version=1)


def downgrade() -> None:
    """Drop the function and the tables."""
    op.drop_rollup_function(ROLLUP, version=1)
    op.drop_table("latest_rollup")
    op.drop_table("github_rollup_1min")
