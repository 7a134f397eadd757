"""Orders of many shops, and their rollups: sales by product, and baskets by shop."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from sqlalchemy import BigInteger, DateTime, Index, Numeric, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from citus_analytics import Distributed, Rollup, count, distinct, percentiles, total


class Base(DeclarativeBase):
    """The declarative base of the service's tables."""

    type_annotation_map = {  # noqa: RUF012
        int: BigInteger,
        str: Text,
        datetime: DateTime(timezone=True),
        Decimal: Numeric(12, 2),
    }


class Order(Base):
    """One order of one product; its number is the shop's own."""

    __tablename__ = "orders"
    __table_args__ = (
        # All of a shop is on one node, and an answer about a shop comes from that node.
        Distributed("shop_id"),
        # The edges of a window that no rollup has are found by this index.
        Index("orders_placed_at_idx", "placed_at"),
    )

    shop_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    order_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    product: Mapped[str]
    customer: Mapped[str]
    amount: Mapped[Decimal]
    placed_at: Mapped[datetime]


SALES = Rollup(
    "sales",
    Order,
    time=Order.placed_at,
    every=["1 minute", "1 hour"],
    by=[Order.shop_id, Order.product],
    measures={"orders": count(), "revenue": total(Order.amount)},
)
"""Orders and revenue by shop and product, every minute and every hour."""

BASKETS = Rollup(
    "baskets",
    Order,
    time=Order.placed_at,
    every="1 hour",
    by=[Order.shop_id],
    measures={"customers": distinct(Order.customer), "amount": percentiles(Order.amount)},
)
"""Distinct customers and percentiles of the amount, by shop and hour; both know deletions."""
