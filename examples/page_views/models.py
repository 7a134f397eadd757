"""Page views of many web sites, and their rollups: by page, and by country."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Index, Integer, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from citus_analytics import Distributed, Rollup, average, count, maximum, total


class Base(DeclarativeBase):
    """The declarative base of this application's tables."""

    type_annotation_map = {  # noqa: RUF012
        int: BigInteger,
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
    }


class PageView(Base):
    """One view of one page: where its visitor came from, and how long they stayed."""

    __tablename__ = "page_views"
    __table_args__ = (
        Distributed("site_id"),
        # Verifying, backfilling and expiring a window find its rows by this index.
        Index("page_views_viewed_at_idx", "viewed_at"),
    )

    site_id: Mapped[int] = mapped_column(primary_key=True)
    view_id: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str]
    seconds: Mapped[int] = mapped_column(Integer)
    visitor: Mapped[dict[str, Any]]
    viewed_at: Mapped[datetime]


PAGES = Rollup(
    "page_views_rollup",
    PageView,
    time=PageView.viewed_at,
    every=["5 minutes", "1 day at Europe/Berlin"],
    by=[PageView.site_id, PageView.path],
    measures={
        "views": count(),
        "seconds": total(PageView.seconds),
        "average": average(PageView.seconds),
        "longest": maximum(PageView.seconds),
    },
)
"""Views by site and page, every five minutes and every day; beside the views, shard by shard."""

COUNTRIES = Rollup(
    "page_views_countries",
    PageView,
    time=PageView.viewed_at,
    every="1 day",
    by=[PageView.visitor["country"].astext.label("country")],
    measures={"views": count()},
    where=PageView.path != "/health",
)
"""Views by country and day, of all sites: without the distribution column, a reference table."""
