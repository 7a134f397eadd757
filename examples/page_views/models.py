"""Page views of many web sites, and how often each page was seen in every five minutes."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import BigInteger, DateTime, Index
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from citus_analytics import Distributed, Local, Rollup, count, declare_rollup, maximum, total


class Base(DeclarativeBase):
    """The declarative base of this application's tables."""

    type_annotation_map = {int: BigInteger, datetime: DateTime(timezone=True)}  # noqa: RUF012


class PageView(Base):
    """One view of one page: who looked at it is not recorded, how long they stayed is."""

    __tablename__ = "page_views"
    __table_args__ = (
        Distributed("site_id"),
        # A run of the rollup finds the rows of one site in one bucket by this index.
        Index("page_views_site_id_viewed_at_idx", "site_id", "viewed_at"),
    )

    site_id: Mapped[int] = mapped_column(primary_key=True)
    view_id: Mapped[int] = mapped_column(primary_key=True)
    path: Mapped[str]
    seconds: Mapped[int]
    viewed_at: Mapped[datetime]


class PageViews5Min(Base):
    """How often a page was seen in the five minutes from `bucket` on, and for how long."""

    __tablename__ = "page_views_5min"
    __table_args__ = (Distributed("site_id", colocate_with=PageView),)

    site_id: Mapped[int] = mapped_column(primary_key=True)
    bucket: Mapped[datetime] = mapped_column(primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)
    views: Mapped[int]
    seconds: Mapped[int]
    longest: Mapped[int]


class PageViews5MinLatest(Base):
    """When the rollup last ran."""

    __tablename__ = "page_views_5min_latest"
    __table_args__ = (Local(),)

    bucket: Mapped[datetime] = mapped_column(primary_key=True)


PAGE_VIEWS_5MIN = declare_rollup(
    Rollup(
        source=PageView,
        target=PageViews5Min,
        state=PageViews5MinLatest,
        function="roll_up_page_views",
        time_column=PageView.viewed_at,
        bucket=timedelta(minutes=5),
        bucket_column=PageViews5Min.bucket,
        dimensions=(PageView.site_id, PageView.path),
        measures=(
            count("views"),
            total("seconds", PageView.seconds),
            maximum("longest", PageView.seconds),
        ),
    )
)
