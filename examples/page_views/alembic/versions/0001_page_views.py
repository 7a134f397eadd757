"""Page views, and their rollups by page and by country.

Revision ID: 0001
Revises:
"""

# As autogenerate wrote it, formatted; the specification was written once instead of twice.
# ruff: noqa: E501
from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from citus_analytics.migrations import RollupSpec, TargetSpec, op

revision = "8a79ebcc6e13"
down_revision = None
branch_labels = None
depends_on = None

# Frozen: a migration does not look at the models, which move on.
ROLLUPS = RollupSpec(
    source="page_views",
    key="site_id",
    time="viewed_at",
    columns={
        "path": (
            "CASE WHEN octet_length(r.path) > 1200 "
            "THEN left(r.path, 290) || '...' || md5(r.path) ELSE r.path END"
        ),
        "seconds": "r.seconds",
        "country": (
            "CASE WHEN octet_length((r.visitor ->> 'country')) > 1200 THEN "
            "left((r.visitor ->> 'country'), 290) || '...' || md5((r.visitor ->> 'country')) "
            "ELSE r.visitor ->> 'country' END"
        ),
        "in_page_views_countries": "(r.path != '/health') IS TRUE",
    },
    targets=(
        TargetSpec(
            rollup="page_views_rollup",
            table="page_views_rollup_5_minutes",
            every="5 minutes",
            bucket="bucket",
            by={"site_id": "key", "path": "path"},
            rows="views",
            sums={
                "_seconds_count": 'CASE WHEN l."seconds" IS NULL THEN 0 ELSE 1 END',
                "_seconds_sum": 'coalesce(l."seconds", 0)::bigint',
            },
            extremes={"longest": ("max", "seconds")},
            visible={
                "views": '"views"::bigint',
                "seconds": '(CASE WHEN "_seconds_count" = 0 THEN NULL ELSE "_seconds_sum" END)::bigint',
                "average": '(CASE WHEN "_seconds_count" = 0 THEN NULL ELSE "_seconds_sum"::numeric / "_seconds_count"::numeric END)::numeric',
            },
        ),
        TargetSpec(
            rollup="page_views_rollup",
            table="page_views_rollup_1_day_at_europe_berlin",
            every="1 day at Europe/Berlin",
            bucket="bucket",
            by={"site_id": "key", "path": "path"},
            rows="views",
            sums={
                "_seconds_count": 'CASE WHEN l."seconds" IS NULL THEN 0 ELSE 1 END',
                "_seconds_sum": 'coalesce(l."seconds", 0)::bigint',
            },
            extremes={"longest": ("max", "seconds")},
            visible={
                "views": '"views"::bigint',
                "seconds": '(CASE WHEN "_seconds_count" = 0 THEN NULL ELSE "_seconds_sum" END)::bigint',
                "average": '(CASE WHEN "_seconds_count" = 0 THEN NULL ELSE "_seconds_sum"::numeric / "_seconds_count"::numeric END)::numeric',
            },
        ),
        TargetSpec(
            rollup="page_views_countries",
            table="page_views_countries",
            every="1 day",
            bucket="bucket",
            by={"country": "country"},
            rows="views",
            visible={"views": '"views"::bigint'},
            where="in_page_views_countries",
            keyed=False,
        ),
    ),
)


def upgrade() -> None:
    """Create and distribute the tables, then what keeps the rollups."""
    op.set_multi_shard_modify_mode("sequential")
    op.create_table(
        "page_views",
        sa.Column("site_id", sa.BigInteger(), nullable=False),
        sa.Column("view_id", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Integer(), nullable=False),
        sa.Column("visitor", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("viewed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "view_id"),
    )
    op.create_distributed_table("page_views", "site_id")
    op.create_index("page_views_viewed_at_idx", "page_views", ["viewed_at"], unique=False)
    op.create_table(
        "page_views_countries",
        sa.Column("country", sa.Text(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("views", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.create_reference_table("page_views_countries")
    op.create_index(
        "page_views_countries_key",
        "page_views_countries",
        ["bucket", "country"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "page_views_rollup_1_day_at_europe_berlin",
        sa.Column("site_id", sa.BigInteger(), nullable=True),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("_seconds_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("_seconds_sum", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("views", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "seconds",
            sa.BigInteger(),
            sa.Computed(
                'CASE WHEN "_seconds_count" = 0 THEN NULL ELSE "_seconds_sum" END', persisted=True
            ),
            nullable=True,
        ),
        sa.Column(
            "average",
            sa.Numeric(),
            sa.Computed(
                'CASE WHEN "_seconds_count" = 0 THEN NULL ELSE "_seconds_sum"::numeric / "_seconds_count"::numeric END',
                persisted=True,
            ),
            nullable=True,
        ),
        sa.Column("longest", sa.Integer(), nullable=True),
    )
    op.create_distributed_table(
        "page_views_rollup_1_day_at_europe_berlin", "site_id", colocate_with="page_views"
    )
    op.create_index(
        "page_views_rollup_1_day_at_europe_berlin_key",
        "page_views_rollup_1_day_at_europe_berlin",
        ["site_id", "bucket", "path"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "page_views_rollup_5_minutes",
        sa.Column("site_id", sa.BigInteger(), nullable=True),
        sa.Column("path", sa.Text(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("_seconds_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("_seconds_sum", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("views", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "seconds",
            sa.BigInteger(),
            sa.Computed(
                'CASE WHEN "_seconds_count" = 0 THEN NULL ELSE "_seconds_sum" END', persisted=True
            ),
            nullable=True,
        ),
        sa.Column(
            "average",
            sa.Numeric(),
            sa.Computed(
                'CASE WHEN "_seconds_count" = 0 THEN NULL ELSE "_seconds_sum"::numeric / "_seconds_count"::numeric END',
                persisted=True,
            ),
            nullable=True,
        ),
        sa.Column("longest", sa.Integer(), nullable=True),
    )
    op.create_distributed_table(
        "page_views_rollup_5_minutes", "site_id", colocate_with="page_views"
    )
    op.create_index(
        "page_views_rollup_5_minutes_key",
        "page_views_rollup_5_minutes",
        ["site_id", "bucket", "path"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_rollups(ROLLUPS)


def downgrade() -> None:
    """Drop what keeps the rollups, then the tables."""
    op.set_multi_shard_modify_mode("sequential")
    op.drop_rollups(ROLLUPS)
    op.drop_index(
        "page_views_rollup_5_minutes_key",
        table_name="page_views_rollup_5_minutes",
        postgresql_nulls_not_distinct=True,
    )
    op.drop_table("page_views_rollup_5_minutes")
    op.drop_index(
        "page_views_rollup_1_day_at_europe_berlin_key",
        table_name="page_views_rollup_1_day_at_europe_berlin",
        postgresql_nulls_not_distinct=True,
    )
    op.drop_table("page_views_rollup_1_day_at_europe_berlin")
    op.drop_index(
        "page_views_countries_key",
        table_name="page_views_countries",
        postgresql_nulls_not_distinct=True,
    )
    op.drop_table("page_views_countries")
    op.drop_index("page_views_viewed_at_idx", table_name="page_views")
    op.drop_table("page_views")
