"""Which logins several users share, so that the greatest creators are found by a ranking.

Revision ID: ca_0007
Revises: ca_0006
"""

from __future__ import annotations

import sqlalchemy as sa

from citus_analytics.migrations import RollupSpec, TargetSpec, op

revision = "ca_0007"
down_revision = "ca_0006"
branch_labels = None
depends_on = None

LOGINS = RollupSpec(
    source="github_users",
    key="user_id",
    columns={
        "login": (
            "CASE WHEN octet_length(r.login) > 1200 "
            "THEN left(r.login, 290) || '...' || md5(r.login) ELSE r.login END"
        )
    },
    targets=(
        TargetSpec(
            rollup="github_logins",
            table="github_logins",
            by={"login": "login"},
            rows="users",
            visible={"users": '"users"::bigint'},
            undated=True,
            keyed=False,
        ),
    ),
)


def upgrade() -> None:
    """Create the rollup, and the index that finds the users of a login."""
    op.set_multi_shard_modify_mode("sequential")
    op.create_table(
        "github_logins",
        sa.Column("login", sa.Text(), nullable=True),
        sa.Column("users", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.create_reference_table("github_logins")
    op.create_index(
        "github_logins_key",
        "github_logins",
        ["login"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_index(
        "github_logins_rank",
        "github_logins",
        [sa.literal_column('"users" DESC NULLS LAST'), "login"],
        unique=False,
    )
    op.create_index(
        "github_users_login_index",
        "github_users",
        [sa.literal_column("left(login, 100)")],
        unique=False,
    )
    op.create_rollups(LOGINS)


def downgrade() -> None:
    """Drop both."""
    op.set_multi_shard_modify_mode("sequential")
    op.drop_rollups(LOGINS)
    op.drop_index("github_users_login_index", table_name="github_users")
    op.drop_table("github_logins")
