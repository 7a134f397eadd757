"""Which repositories the users have starred."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - SQLAlchemy reads the annotations

from sqlalchemy import BigInteger, DateTime
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from citus_analytics import Distributed, GithubEvent


class Base(DeclarativeBase):
    """The declarative base of this application's tables."""


class Star(Base):
    """Somebody has starred a repository."""

    __tablename__ = "stars"
    # All of a user is on one node: the events and the stars.
    __table_args__ = (Distributed("user_id", colocate_with=GithubEvent),)

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    repo_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    starred_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
