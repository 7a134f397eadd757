"""Page views, and their rollup by five minutes.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

from datetime import timedelta

import sqlalchemy as sa

from citus_analytics.migrations import RollupSpec, op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Frozen: a migration does not look at the models, which move on.
ROLLUP = RollupSpec(
    function="roll_up_page_views",
    source="page_views",
    target="page_views_5min",
    state="page_views_5min_latest",
    state_column="bucket",
    key="site_id",
    key_type="BIGINT",
    time_column="viewed_at",
    bucket=timedelta(minutes=5),
    bucket_column="bucket",
    dimensions=("site_id", "path"),
    measures={"views": "count(*)", "seconds": "sum(seconds)", "longest": "max(seconds)"},
)


def upgrade() -> None:
    """Create and distribute the tables, then the rollup's function."""
    op.create_table(
        "page_views",
        sa.Column("site_id", sa.BigInteger(), nullable=False),
        sa.Column("view_id", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("seconds", sa.BigInteger(), nullable=False),
        sa.Column("viewed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "view_id"),
    )
    op.create_index("page_views_site_id_viewed_at_idx", "page_views", ["site_id", "viewed_at"])
    op.create_distributed_table("page_views", "site_id")
    op.create_table(
        "page_views_5min",
        sa.Column("site_id", sa.BigInteger(), nullable=False),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("views", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.BigInteger(), nullable=False),
        sa.Column("longest", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "bucket", "path"),
    )
    op.create_distributed_table("page_views_5min", "site_id", colocate_with="page_views")
    op.create_table(
        "page_views_5min_latest",
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("bucket"),
    )
    op.create_rollup_function(ROLLUP, version=1)


def downgrade() -> None:
    """Drop the rollup's function, then the tables."""
    op.drop_rollup_function(ROLLUP, version=1)
    op.drop_table("page_views_5min_latest")
    op.drop_table("page_views_5min")
    op.drop_table("page_views")
