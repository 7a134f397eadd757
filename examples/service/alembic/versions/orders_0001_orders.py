"""Orders, and their rollups.

Revision ID: orders_0001
Revises:
"""

# As autogenerate wrote it, formatted; the specification was written once instead of twice.
# ruff: noqa: E501
from __future__ import annotations

import sqlalchemy as sa

from citus_analytics.migrations import RollupSpec, TargetSpec, op

revision = "orders_0001"
down_revision = None
branch_labels = None
depends_on = None

# Frozen: a migration does not look at the models, which move on.
ROLLUPS = RollupSpec(
    source="orders",
    key="shop_id",
    time="placed_at",
    columns={
        "product": "CASE WHEN octet_length(r.product) > 1200 THEN left(r.product, 290) || '...' || md5(r.product) ELSE r.product END",
        "amount": "r.amount",
        "customer": "CASE WHEN octet_length(r.customer) > 1200 THEN left(r.customer, 290) || '...' || md5(r.customer) ELSE r.customer END",
        "amount_bin": "CASE WHEN r.amount = 0 THEN 0 WHEN r.amount = 'NaN' THEN 100001 WHEN r.amount = 'Infinity' THEN 100000 WHEN r.amount = '-Infinity' THEN -100000 ELSE sign((r.amount)::numeric)::integer * (50000 + ceil(ln(least(greatest(abs((r.amount)::numeric), 1e-300), 1e300)::float8) / 0.020000666706669435)::integer) END",
    },
    targets=(
        TargetSpec(
            rollup="sales",
            table="sales_1_minute",
            every="1 minute",
            bucket="bucket",
            by={"shop_id": "key", "product": "product"},
            rows="orders",
            sums={
                "_amount_count": 'CASE WHEN l."amount" IS NULL THEN 0 ELSE 1 END',
                "_amount_sum": 'CASE WHEN l."amount" - l."amount" = 0 THEN l."amount"::numeric ELSE 0 END',
                "_amount_nan": "CASE WHEN l.\"amount\" = 'NaN' THEN 1 ELSE 0 END",
                "_amount_inf": "CASE WHEN l.\"amount\" = 'Infinity' THEN 1 ELSE 0 END",
                "_amount_ninf": "CASE WHEN l.\"amount\" = '-Infinity' THEN 1 ELSE 0 END",
            },
            visible={
                "orders": '"orders"::bigint',
                "revenue": '(CASE WHEN "_amount_count" = 0 THEN NULL WHEN "_amount_nan" > 0 OR "_amount_inf" > 0 AND "_amount_ninf" > 0 THEN \'NaN\'::numeric WHEN "_amount_inf" > 0 THEN \'Infinity\'::numeric WHEN "_amount_ninf" > 0 THEN \'-Infinity\'::numeric ELSE "_amount_sum" END)::numeric',
            },
        ),
        TargetSpec(
            rollup="sales",
            table="sales_1_hour",
            every="1 hour",
            bucket="bucket",
            by={"shop_id": "key", "product": "product"},
            rows="orders",
            sums={
                "_amount_count": 'CASE WHEN l."amount" IS NULL THEN 0 ELSE 1 END',
                "_amount_sum": 'CASE WHEN l."amount" - l."amount" = 0 THEN l."amount"::numeric ELSE 0 END',
                "_amount_nan": "CASE WHEN l.\"amount\" = 'NaN' THEN 1 ELSE 0 END",
                "_amount_inf": "CASE WHEN l.\"amount\" = 'Infinity' THEN 1 ELSE 0 END",
                "_amount_ninf": "CASE WHEN l.\"amount\" = '-Infinity' THEN 1 ELSE 0 END",
            },
            visible={
                "orders": '"orders"::bigint',
                "revenue": '(CASE WHEN "_amount_count" = 0 THEN NULL WHEN "_amount_nan" > 0 OR "_amount_inf" > 0 AND "_amount_ninf" > 0 THEN \'NaN\'::numeric WHEN "_amount_inf" > 0 THEN \'Infinity\'::numeric WHEN "_amount_ninf" > 0 THEN \'-Infinity\'::numeric ELSE "_amount_sum" END)::numeric',
            },
        ),
        TargetSpec(
            rollup="baskets",
            table="baskets",
            every="1 hour",
            bucket="bucket",
            by={"shop_id": "key"},
            rows="_rows",
        ),
        TargetSpec(
            rollup="baskets",
            table="baskets_customers",
            every="1 hour",
            bucket="bucket",
            by={"shop_id": "key", "_value": "customer"},
            rows="_rows",
            of="baskets",
            value="text",
            reads={"customers": "distinct"},
        ),
        TargetSpec(
            rollup="baskets",
            table="baskets_amount",
            every="1 hour",
            bucket="bucket",
            by={"shop_id": "key", "_value": "amount_bin"},
            rows="_rows",
            of="baskets",
            value="integer",
            reads={"amount50": "0.5", "amount95": "0.95", "amount99": "0.99"},
        ),
    ),
)


def upgrade() -> None:
    """Create and distribute the tables, then what keeps the rollups."""
    op.set_multi_shard_modify_mode("sequential")
    op.create_table(
        "orders",
        sa.Column("shop_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("order_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("product", sa.Text(), nullable=False),
        sa.Column("customer", sa.Text(), nullable=False),
        sa.Column("amount", sa.Numeric(precision=12, scale=2), nullable=False),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("shop_id", "order_id"),
    )
    op.create_distributed_table("orders", "shop_id")
    op.create_index("orders_placed_at_idx", "orders", ["placed_at"], unique=False)
    op.create_table(
        "baskets",
        sa.Column("shop_id", sa.BigInteger(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("_rows", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.create_distributed_table("baskets", "shop_id", colocate_with="orders")
    op.create_index(
        "baskets_key",
        "baskets",
        ["shop_id", "bucket"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "baskets_amount",
        sa.Column("shop_id", sa.BigInteger(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("_value", sa.Integer(), nullable=False),
        sa.Column("_rows", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.create_distributed_table("baskets_amount", "shop_id", colocate_with="orders")
    op.create_index(
        "baskets_amount_key",
        "baskets_amount",
        ["shop_id", "bucket", "_value"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "baskets_customers",
        sa.Column("shop_id", sa.BigInteger(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("_value", sa.Text(), nullable=False),
        sa.Column("_rows", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
    )
    op.create_distributed_table("baskets_customers", "shop_id", colocate_with="orders")
    op.create_index(
        "baskets_customers_key",
        "baskets_customers",
        ["shop_id", "bucket", "_value"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "sales_1_hour",
        sa.Column("shop_id", sa.BigInteger(), nullable=True),
        sa.Column("product", sa.Text(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("_amount_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("_amount_sum", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.Column("_amount_nan", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.Column("_amount_inf", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.Column("_amount_ninf", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.Column("orders", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "revenue",
            sa.Numeric(),
            sa.Computed(
                'CASE WHEN "_amount_count" = 0 THEN NULL WHEN "_amount_nan" > 0 OR "_amount_inf" > 0 AND "_amount_ninf" > 0 THEN \'NaN\'::numeric WHEN "_amount_inf" > 0 THEN \'Infinity\'::numeric WHEN "_amount_ninf" > 0 THEN \'-Infinity\'::numeric ELSE "_amount_sum" END',
                persisted=True,
            ),
            nullable=True,
        ),
    )
    op.create_distributed_table("sales_1_hour", "shop_id", colocate_with="orders")
    op.create_index(
        "sales_1_hour_key",
        "sales_1_hour",
        ["shop_id", "bucket", "product"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_table(
        "sales_1_minute",
        sa.Column("shop_id", sa.BigInteger(), nullable=True),
        sa.Column("product", sa.Text(), nullable=True),
        sa.Column("bucket", sa.DateTime(timezone=True), nullable=True),
        sa.Column("_amount_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("_amount_sum", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.Column("_amount_nan", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.Column("_amount_inf", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.Column("_amount_ninf", sa.Numeric(), server_default=sa.text("0"), nullable=False),
        sa.Column("orders", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "revenue",
            sa.Numeric(),
            sa.Computed(
                'CASE WHEN "_amount_count" = 0 THEN NULL WHEN "_amount_nan" > 0 OR "_amount_inf" > 0 AND "_amount_ninf" > 0 THEN \'NaN\'::numeric WHEN "_amount_inf" > 0 THEN \'Infinity\'::numeric WHEN "_amount_ninf" > 0 THEN \'-Infinity\'::numeric ELSE "_amount_sum" END',
                persisted=True,
            ),
            nullable=True,
        ),
    )
    op.create_distributed_table("sales_1_minute", "shop_id", colocate_with="orders")
    op.create_index(
        "sales_1_minute_key",
        "sales_1_minute",
        ["shop_id", "bucket", "product"],
        unique=True,
        postgresql_nulls_not_distinct=True,
    )
    op.create_rollups(
        ROLLUPS,
    )


def downgrade() -> None:
    """Drop what keeps the rollups, then the tables."""
    op.set_multi_shard_modify_mode("sequential")
    op.drop_rollups(
        ROLLUPS,
    )
    op.drop_index(
        "sales_1_minute_key", table_name="sales_1_minute", postgresql_nulls_not_distinct=True
    )
    op.drop_table("sales_1_minute")
    op.drop_index("sales_1_hour_key", table_name="sales_1_hour", postgresql_nulls_not_distinct=True)
    op.drop_table("sales_1_hour")
    op.drop_index(
        "baskets_customers_key", table_name="baskets_customers", postgresql_nulls_not_distinct=True
    )
    op.drop_table("baskets_customers")
    op.drop_index(
        "baskets_amount_key", table_name="baskets_amount", postgresql_nulls_not_distinct=True
    )
    op.drop_table("baskets_amount")
    op.drop_index("baskets_key", table_name="baskets", postgresql_nulls_not_distinct=True)
    op.drop_table("baskets")
    op.drop_index("orders_placed_at_idx", table_name="orders")
    op.drop_table("orders")
