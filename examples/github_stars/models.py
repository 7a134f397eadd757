"""Which repositories the users have starred."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - SQLAlchemy reads the annotations
from typing import cast

from sqlalchemy import BigInteger, DateTime, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from citus_analytics import Distributed, distribute


class Base(DeclarativeBase):
    """The declarative base of this application's tables."""


class Star(Base):
    """Somebody has starred a repository."""

    __tablename__ = "stars"

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    repo_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    starred_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


# All of a user sits on one node: the events, and the stars.
distribute(
    cast("Table", Star.__table__), Distributed(column="user_id", colocate_with="github_events")
)
