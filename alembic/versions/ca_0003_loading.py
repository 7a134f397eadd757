"""What loading keeps: one row for each user, where it comes from, and which files are loaded.

Revision ID: ca_0003
Revises: ca_0002
"""

from __future__ import annotations

import sqlalchemy as sa

from citus_analytics.migrations import op

revision = "ca_0003"
down_revision = "ca_0002"
branch_labels = None
depends_on = None

# Said in our words: on Citus the server's own name a shard that nobody knows.
REFUSE_DUPLICATES = """
DO $check$
BEGIN
  IF EXISTS (SELECT user_id FROM github_users WHERE user_id IS NOT NULL
             GROUP BY user_id HAVING count(*) > 1) THEN
    RAISE EXCEPTION 'github_users has several rows for one user_id, and from now on it may have '
                    'only one: joins with it would count events twice.'
    USING ERRCODE = 'unique_violation',
          HINT = 'SELECT user_id FROM github_users GROUP BY user_id HAVING count(*) > 1 finds '
                 'them. Delete the superfluous rows, or TRUNCATE github_users and load it anew, '
                 'and migrate again.';
  END IF;
END
$check$
"""


def upgrade() -> None:
    """Give each user one row, and create the tables of loading."""
    op.create_table(
        "github_user_origins",
        sa.Column("user_id", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("event_id", sa.BigInteger(), nullable=False),
    )
    op.create_distributed_table("github_user_origins", "user_id", colocate_with="github_events")
    op.execute(REFUSE_DUPLICATES)
    op.create_index("github_users_key", "github_users", ["user_id"], unique=True)
    op.create_table(
        "loaded_files",
        sa.Column("table_name", sa.Text(), primary_key=True),
        sa.Column("fingerprint", sa.Text(), primary_key=True),
        sa.Column("first_byte", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("end_byte", sa.BigInteger(), nullable=False),
        sa.Column("total_bytes", sa.BigInteger(), nullable=False),
        sa.Column("stored_bytes", sa.BigInteger(), nullable=False),
        sa.Column("row_count", sa.BigInteger(), nullable=False),
        sa.Column("rejected", sa.BigInteger(), nullable=False),
        sa.Column("duplicates", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column(
            "loaded_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()
        ),
    )


def downgrade() -> None:
    """Drop them; the users stay."""
    # Citus drops an index of a distributed table over several connections to a node, and then no
    # function any more in this transaction, as an older revision may want to.
    op.execute("SET LOCAL citus.multi_shard_modify_mode TO 'sequential'")
    op.drop_table("loaded_files")
    op.drop_index("github_users_key", "github_users")
    op.drop_table("github_user_origins")
