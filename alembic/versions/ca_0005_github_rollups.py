"""What the tutorial's questions need, kept beside its rollup: activity, types, repositories.

Revision ID: ca_0005
Revises: ca_0004
"""

from __future__ import annotations

import sqlalchemy as sa

from citus_analytics.migrations import RollupSpec, TargetSpec, op

revision = "ca_0005"
down_revision = "ca_0004"
branch_labels = None
depends_on = None

_EVENT_TYPE = (
    "CASE WHEN octet_length(r.event_type) > 1200 "
    "THEN left(r.event_type, 290) || '...' || md5(r.event_type) ELSE r.event_type END"
)
BEFORE = RollupSpec(
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

_SUMS = {
    "_commits_count": 'CASE WHEN l."commits" IS NULL THEN 0 ELSE 1 END',
    "_commits_sum": 'coalesce(l."commits", 0)::bigint',
}
_VISIBLE = {
    "events": '"events"::bigint',
    "commits": '(CASE WHEN "_commits_count" = 0 THEN NULL ELSE "_commits_sum" END)::bigint',
}
AFTER = RollupSpec(
    source="github_events",
    key="user_id",
    time="created_at",
    columns={
        "event_type": _EVENT_TYPE,
        "repo_id": "r.repo_id",
        "commits": (
            "CASE WHEN (r.event_type = 'PushEvent') THEN CAST(jsonb_path_query_first(r.payload, "
            "'strict $.distinct_size.double() "
            "? (@ >= -2147483648 && @ <= 2147483647 && @ == @.floor())', "
            "'{}', true) AS INTEGER) END"
        ),
        "in_github_repositories_created": (
            "(r.event_type = 'CreateEvent' AND (r.payload @> '{\"ref_type\": \"repository\"}')) "
            "IS TRUE"
        ),
        "in_github_stars": "(r.event_type IN ('WatchEvent', 'ForkEvent')) IS TRUE",
    },
    targets=(
        TargetSpec(
            rollup="github_rollup_1min",
            table="github_rollup_1min",
            every="1 minute",
            bucket="ingest_time",
            by={"event_type": "event_type", "repo_id": "repo_id", "user_id": "key"},
            rows="total_events",
            visible={"total_events": '"total_events"::bigint'},
        ),
        TargetSpec(
            rollup="github_user_activity",
            table="github_user_activity",
            every="1 minute",
            bucket="bucket",
            by={"user_id": "key"},
            rows="events",
            visible={"events": '"events"::bigint'},
        ),
        TargetSpec(
            rollup="github_events_by_type",
            table="github_events_by_type_1_minute",
            every="1 minute",
            bucket="bucket",
            by={"event_type": "event_type"},
            rows="events",
            sums=_SUMS,
            visible=_VISIBLE,
            undated=True,
            keyed=False,
        ),
        TargetSpec(
            rollup="github_events_by_type",
            table="github_events_by_type_15_minutes",
            every="15 minutes",
            bucket="bucket",
            by={"event_type": "event_type"},
            rows="events",
            sums=_SUMS,
            visible=_VISIBLE,
            undated=True,
            keyed=False,
        ),
        TargetSpec(
            rollup="github_events_by_type",
            table="github_events_by_type_1_hour",
            every="1 hour",
            bucket="bucket",
            by={"event_type": "event_type"},
            rows="events",
            sums=_SUMS,
            visible=_VISIBLE,
            undated=True,
            keyed=False,
        ),
        TargetSpec(
            rollup="github_events_by_type",
            table="github_events_by_type_1_day",
            every="1 day",
            bucket="bucket",
            by={"event_type": "event_type"},
            rows="events",
            sums=_SUMS,
            visible=_VISIBLE,
            undated=True,
            keyed=False,
        ),
        TargetSpec(
            rollup="github_repositories_created",
            table="github_repositories_created",
            by={"user_id": "key"},
            rows="repositories",
            visible={"repositories": '"repositories"::bigint'},
            where="in_github_repositories_created",
            undated=True,
        ),
        TargetSpec(
            rollup="github_repositories_created_by_day",
            table="github_repositories_created_by_day",
            every="1 day",
            bucket="bucket",
            by={"user_id": "key"},
            rows="repositories",
            visible={"repositories": '"repositories"::bigint'},
            where="in_github_repositories_created",
        ),
        TargetSpec(
            rollup="github_active_users",
            table="github_active_users_1_hour",
            every="1 hour",
            bucket="bucket",
            by={"user_id": "key"},
            rows="events",
            visible={"events": '"events"::bigint'},
            undated=True,
        ),
        TargetSpec(
            rollup="github_active_users",
            table="github_active_users_1_day",
            every="1 day",
            bucket="bucket",
            by={"user_id": "key"},
            rows="events",
            visible={"events": '"events"::bigint'},
            undated=True,
        ),
        TargetSpec(
            rollup="github_stars",
            table="github_stars",
            every="1 day",
            bucket="bucket",
            by={"event_type": "event_type", "repo_id": "repo_id"},
            rows="events",
            visible={"events": '"events"::bigint'},
            where="in_github_stars",
            undated=True,
            keyed=False,
        ),
        TargetSpec(
            rollup="github_repository_activity",
            table="github_repository_activity",
            every="1 hour",
            bucket="bucket",
            by={"repo_id": "repo_id"},
            rows="events",
            visible={"events": '"events"::bigint'},
            undated=True,
            keyed=False,
        ),
        TargetSpec(
            rollup="github_push_sizes",
            table="github_push_sizes_1_hour",
            every="1 hour",
            bucket="bucket",
            by={"commits": "commits"},
            rows="events",
            visible={"events": '"events"::bigint'},
            undated=True,
            keyed=False,
        ),
        TargetSpec(
            rollup="github_push_sizes",
            table="github_push_sizes_1_day",
            every="1 day",
            bucket="bucket",
            by={"commits": "commits"},
            rows="events",
            visible={"events": '"events"::bigint'},
            undated=True,
            keyed=False,
        ),
    ),
    functions=("rollup_http_request",),
    states={"latest_rollup": "minute"},
)


def upgrade() -> None:
    """Create the tables, and let one log keep all rollups of the events."""
    op.set_multi_shard_modify_mode("sequential")
    op.drop_rollups(BEFORE, keep_state=True)
    op.create_table(
        "github_user_activity",
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("events", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.create_distributed_table("github_user_activity", "user_id", colocate_with="github_events")
    op.create_index(
        "github_user_activity_key",
        "github_user_activity",
        ["user_id", "bucket"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_index(
        "github_user_activity_rank",
        "github_user_activity",
        [sa.literal_column('"events" DESC NULLS LAST'), "bucket", "user_id"],
        unique=False,
    )
    op.create_table(
        "github_events_by_type_1_minute",
        sa.Column("event_type", sa.Text(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("_commits_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("_commits_sum", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("events", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "commits",
            sa.BigInteger(),
            sa.Computed(
                'CASE WHEN "_commits_count" = 0 THEN NULL ELSE "_commits_sum" END', persisted=True
            ),
            nullable=True,
        ),
    )
    op.create_reference_table("github_events_by_type_1_minute")
    op.create_index(
        "github_events_by_type_1_minute_key",
        "github_events_by_type_1_minute",
        ["bucket", "event_type"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "github_events_by_type_15_minutes",
        sa.Column("event_type", sa.Text(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("_commits_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("_commits_sum", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("events", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "commits",
            sa.BigInteger(),
            sa.Computed(
                'CASE WHEN "_commits_count" = 0 THEN NULL ELSE "_commits_sum" END', persisted=True
            ),
            nullable=True,
        ),
    )
    op.create_reference_table("github_events_by_type_15_minutes")
    op.create_index(
        "github_events_by_type_15_minutes_key",
        "github_events_by_type_15_minutes",
        ["bucket", "event_type"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "github_events_by_type_1_hour",
        sa.Column("event_type", sa.Text(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("_commits_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("_commits_sum", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("events", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "commits",
            sa.BigInteger(),
            sa.Computed(
                'CASE WHEN "_commits_count" = 0 THEN NULL ELSE "_commits_sum" END', persisted=True
            ),
            nullable=True,
        ),
    )
    op.create_reference_table("github_events_by_type_1_hour")
    op.create_index(
        "github_events_by_type_1_hour_key",
        "github_events_by_type_1_hour",
        ["bucket", "event_type"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "github_events_by_type_1_day",
        sa.Column("event_type", sa.Text(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("_commits_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("_commits_sum", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("events", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "commits",
            sa.BigInteger(),
            sa.Computed(
                'CASE WHEN "_commits_count" = 0 THEN NULL ELSE "_commits_sum" END', persisted=True
            ),
            nullable=True,
        ),
    )
    op.create_reference_table("github_events_by_type_1_day")
    op.create_index(
        "github_events_by_type_1_day_key",
        "github_events_by_type_1_day",
        ["bucket", "event_type"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "github_repositories_created",
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("repositories", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.create_distributed_table(
        "github_repositories_created", "user_id", colocate_with="github_events"
    )
    op.create_index(
        "github_repositories_created_key",
        "github_repositories_created",
        ["user_id"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_index(
        "github_repositories_created_rank",
        "github_repositories_created",
        [sa.literal_column('"repositories" DESC NULLS LAST'), "user_id"],
        unique=False,
    )
    op.create_table(
        "github_repositories_created_by_day",
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("repositories", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.create_distributed_table(
        "github_repositories_created_by_day", "user_id", colocate_with="github_events"
    )
    op.create_index(
        "github_repositories_created_by_day_key",
        "github_repositories_created_by_day",
        ["user_id", "bucket"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "github_active_users_1_hour",
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("events", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.create_distributed_table(
        "github_active_users_1_hour", "user_id", colocate_with="github_events"
    )
    op.create_index(
        "github_active_users_1_hour_key",
        "github_active_users_1_hour",
        ["user_id", "bucket"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "github_active_users_1_day",
        sa.Column("user_id", sa.BigInteger(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("events", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.create_distributed_table(
        "github_active_users_1_day", "user_id", colocate_with="github_events"
    )
    op.create_index(
        "github_active_users_1_day_key",
        "github_active_users_1_day",
        ["user_id", "bucket"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "github_stars",
        sa.Column("event_type", sa.Text(), nullable=True),
        sa.Column("repo_id", sa.BigInteger(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("events", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.create_reference_table("github_stars")
    op.create_index(
        "github_stars_key",
        "github_stars",
        ["bucket", "event_type", "repo_id"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_index(
        "github_stars_rank",
        "github_stars",
        [sa.literal_column('"events" DESC NULLS LAST'), "bucket", "event_type", "repo_id"],
        unique=False,
    )
    op.create_table(
        "github_repository_activity",
        sa.Column("repo_id", sa.BigInteger(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("events", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.create_reference_table("github_repository_activity")
    op.create_index(
        "github_repository_activity_key",
        "github_repository_activity",
        ["repo_id", "bucket"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "github_push_sizes_1_hour",
        sa.Column("commits", sa.Integer(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("events", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.create_reference_table("github_push_sizes_1_hour")
    op.create_index(
        "github_push_sizes_1_hour_key",
        "github_push_sizes_1_hour",
        ["bucket", "commits"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "github_push_sizes_1_day",
        sa.Column("commits", sa.Integer(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("events", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.create_reference_table("github_push_sizes_1_day")
    op.create_index(
        "github_push_sizes_1_day_key",
        "github_push_sizes_1_day",
        ["bucket", "commits"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_rollups(AFTER)


def downgrade() -> None:
    """Drop them; the rollup by the minute stays."""
    op.set_multi_shard_modify_mode("sequential")
    op.drop_rollups(AFTER, keep_state=True)
    op.drop_index(
        "github_push_sizes_1_day_key",
        table_name="github_push_sizes_1_day",
        postgresql_nulls_not_distinct=True,
    )
    op.drop_table("github_push_sizes_1_day")
    op.drop_index(
        "github_push_sizes_1_hour_key",
        table_name="github_push_sizes_1_hour",
        postgresql_nulls_not_distinct=True,
    )
    op.drop_table("github_push_sizes_1_hour")
    op.drop_index(
        "github_repository_activity_key",
        table_name="github_repository_activity",
        postgresql_nulls_not_distinct=True,
    )
    op.drop_table("github_repository_activity")
    op.drop_index("github_stars_rank", table_name="github_stars")
    op.drop_index("github_stars_key", table_name="github_stars", postgresql_nulls_not_distinct=True)
    op.drop_table("github_stars")
    op.drop_index(
        "github_active_users_1_day_key",
        table_name="github_active_users_1_day",
        postgresql_nulls_not_distinct=True,
    )
    op.drop_table("github_active_users_1_day")
    op.drop_index(
        "github_active_users_1_hour_key",
        table_name="github_active_users_1_hour",
        postgresql_nulls_not_distinct=True,
    )
    op.drop_table("github_active_users_1_hour")
    op.drop_index(
        "github_repositories_created_by_day_key",
        table_name="github_repositories_created_by_day",
        postgresql_nulls_not_distinct=True,
    )
    op.drop_table("github_repositories_created_by_day")
    op.drop_index("github_repositories_created_rank", table_name="github_repositories_created")
    op.drop_index(
        "github_repositories_created_key",
        table_name="github_repositories_created",
        postgresql_nulls_not_distinct=True,
    )
    op.drop_table("github_repositories_created")
    op.drop_index(
        "github_events_by_type_1_day_key",
        table_name="github_events_by_type_1_day",
        postgresql_nulls_not_distinct=True,
    )
    op.drop_table("github_events_by_type_1_day")
    op.drop_index(
        "github_events_by_type_1_hour_key",
        table_name="github_events_by_type_1_hour",
        postgresql_nulls_not_distinct=True,
    )
    op.drop_table("github_events_by_type_1_hour")
    op.drop_index(
        "github_events_by_type_15_minutes_key",
        table_name="github_events_by_type_15_minutes",
        postgresql_nulls_not_distinct=True,
    )
    op.drop_table("github_events_by_type_15_minutes")
    op.drop_index(
        "github_events_by_type_1_minute_key",
        table_name="github_events_by_type_1_minute",
        postgresql_nulls_not_distinct=True,
    )
    op.drop_table("github_events_by_type_1_minute")
    op.drop_index("github_user_activity_rank", table_name="github_user_activity")
    op.drop_index(
        "github_user_activity_key",
        table_name="github_user_activity",
        postgresql_nulls_not_distinct=True,
    )
    op.drop_table("github_user_activity")
    op.create_rollups(BEFORE)
