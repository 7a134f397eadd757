"""Page views of many web sites, and how often each page was seen in every five minutes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import BigInteger, DateTime, Index, Integer, Table, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from citus_analytics import (
    Distributed,
    Rollup,
    count,
    declare_rollup,
    distribute,
    maximum,
    total,
)


class Base(DeclarativeBase):
    """The declarative base of this application's tables."""


class PageView(Base):
    """Somebody looked at a page for some seconds."""

    __tablename__ = "page_views"

    site_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    view_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    path: Mapped[str] = mapped_column(Text)
    seconds: Mapped[int] = mapped_column(Integer)
    viewed_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))

    # A run of the rollup finds the rows of one site in one bucket by this index.
    __table_args__ = (Index("page_views_site_id_viewed_at_idx", "site_id", "viewed_at"),)


class PageViews5Min(Base):
    """How often a page was seen in the five minutes from `bucket` on, and for how long."""

    __tablename__ = "page_views_5min"

    site_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    bucket: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)
    path: Mapped[str] = mapped_column(Text, primary_key=True)
    views: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[int] = mapped_column(BigInteger)
    longest: Mapped[int] = mapped_column(Integer)


class PageViews5MinLatest(Base):
    """When the rollup last ran."""

    __tablename__ = "page_views_5min_latest"

    bucket: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)


page_views = cast("Table", PageView.__table__)
page_views_5min = cast("Table", PageViews5Min.__table__)

distribute(page_views, Distributed(column="site_id"))
distribute(page_views_5min, Distributed(column="site_id", colocate_with="page_views"))

PAGE_VIEWS_5MIN = declare_rollup(
    Rollup(
        source=page_views,
        target=page_views_5min,
        state=cast("Table", PageViews5MinLatest.__table__),
        function="roll_up_page_views",
        time_column="viewed_at",
        bucket=timedelta(minutes=5),
        bucket_column="bucket",
        dimensions=("site_id", "path"),
        measures=(count("views"), total("seconds", "seconds"), maximum("longest", "seconds")),
    )
)
