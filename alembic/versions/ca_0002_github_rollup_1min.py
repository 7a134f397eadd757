"""The tutorial's rollup: events by type, repository, user and minute.

Revision ID: ca_0002
Revises: ca_0001
"""

from __future__ import annotations

import sqlalchemy as sa

from citus_analytics.migrations import RollupSpec, TargetSpec, op

revision = "ca_0002"
down_revision = "ca_0001"
branch_labels = None
depends_on = None

_EVENT_TYPE = (
    "CASE WHEN octet_length(r.event_type) > 1200 "
    "THEN left(r.event_type, 290) || '...' || md5(r.event_type) ELSE r.event_type END"
)
ROLLUPS = RollupSpec(
    source="github_events",
    key="user_id",
    time="created_at",
    columns={"event_type": _EVENT_TYPE, "repo_id": "r.repo_id"},
    targets=(
        TargetSpec(
            rollup="github_rollup_1min",
            table="github_rollup_1min",
            every="1 minute",
            bucket="ingest_time",
            by={"event_type": "event_type", "repo_id": "repo_id", "user_id": "key"},
            rows="total_events",
        ),
    ),
    functions=("rollup_http_request",),
    states={"latest_rollup": "minute"},
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
    op.create_rollups(ROLLUPS)


def downgrade() -> None:
    """Drop the function and the tables."""
    op.drop_rollups(ROLLUPS)
    op.drop_table("latest_rollup")
    op.drop_table("github_rollup_1min")
