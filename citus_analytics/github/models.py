"""The tutorial's tables as SQLAlchemy models, each with its distribution beside it.

Columns, types, nullability and index names are those of the tutorial, which gives the three
distributed tables no primary key. The ORM still needs to know one row from another, so that
identity is declared on the mapper and never reaches the database.
"""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - mapped
from typing import Any, TypeAlias, cast

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    and_,
    case,
    func,
    literal_column,
    text,
)
from sqlalchemy import (
    cast as sql_cast,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from citus_analytics.rollups.declare import Rollup, count, total
from citus_analytics.schema import Distributed, Local

Json: TypeAlias = dict[str, Any]


class Base(DeclarativeBase):
    """The declarative base of the built-in tables; `Base.metadata` is what Alembic compares."""

    metadata = MetaData()


class GithubEvent(Base):
    """One event of GitHub's public timeline, as the events API describes it.

    `user_id` is the actor's id and the distribution column. `created_at` is when the event
    happened, an aware datetime. `payload` differs by `event_type`.
    """

    __tablename__ = "github_events"

    event_id: Mapped[int | None] = mapped_column(BigInteger)
    event_type: Mapped[str | None] = mapped_column(Text)
    event_public: Mapped[bool | None] = mapped_column(Boolean)
    repo_id: Mapped[int | None] = mapped_column(BigInteger)
    payload: Mapped[Json | None] = mapped_column(JSONB(none_as_null=True))
    repo: Mapped[Json | None] = mapped_column(JSONB(none_as_null=True))
    user_id: Mapped[int | None] = mapped_column(BigInteger)
    org: Mapped[Json | None] = mapped_column(JSONB(none_as_null=True))
    created_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    __mapper_args__ = {"primary_key": ["event_id", "user_id"]}  # noqa: RUF012
    __table_args__ = (
        Distributed("user_id"),
        Index("event_type_index", "event_type"),
        Index(
            "payload_index",
            "payload",
            postgresql_using="gin",
            postgresql_ops={"payload": "jsonb_path_ops"},
        ),
        # Windows of time, and verification of the rollups, are read by it.
        Index("created_at_index", "created_at"),
    )


class GithubUser(Base):
    """One actor of GitHub's events: `user_id` is GitHub's id, `login` the account's name."""

    __tablename__ = "github_users"

    user_id: Mapped[int | None] = mapped_column(BigInteger)
    url: Mapped[str | None] = mapped_column(Text)
    login: Mapped[str | None] = mapped_column(Text)
    avatar_url: Mapped[str | None] = mapped_column(Text)
    gravatar_id: Mapped[str | None] = mapped_column(Text)
    display_login: Mapped[str | None] = mapped_column(Text)

    __mapper_args__ = {"primary_key": ["user_id"]}  # noqa: RUF012
    # One row for each user: a second one would count events twice in joins.
    __table_args__ = (
        Distributed("user_id", colocate_with=GithubEvent),
        Index("github_users_key", "user_id", unique=True),
        # The users of one login, and those without; an entry of an index cannot be much longer.
        Index("github_users_login_index", text("left(login, 100)")),
    )


class GithubRollup1Min(Base):
    """How many events of one type one user had on one repository in one minute.

    `ingest_time` is the start of the minute in which the events happened.
    """

    __tablename__ = "github_rollup_1min"

    event_type: Mapped[str | None] = mapped_column(Text)
    repo_id: Mapped[int | None] = mapped_column(BigInteger)
    user_id: Mapped[int | None] = mapped_column(BigInteger)
    total_events: Mapped[int | None] = mapped_column(BigInteger)
    ingest_time: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))

    __mapper_args__ = {  # noqa: RUF012
        "primary_key": ["event_type", "repo_id", "user_id", "ingest_time"]
    }
    __table_args__ = (
        Distributed("user_id", colocate_with=GithubEvent),
        # One row a group, NULLs included; a run finds the groups of one user in one bucket by it.
        Index(
            "github_rollup_1min_group_index",
            "user_id",
            "ingest_time",
            "event_type",
            "repo_id",
            unique=True,
            postgresql_nulls_not_distinct=True,
        ),
    )


class GithubUserOrigin(Base):
    """The event from which a row of `github_users` comes.

    A row of `github_users` without one was loaded as it is, and yields to what events say.
    """

    __tablename__ = "github_user_origins"
    __table_args__ = (Distributed("user_id", colocate_with=GithubEvent),)

    user_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    event_id: Mapped[int] = mapped_column(BigInteger)


class LoadedFile(Base):
    """A file, or a part of it, whose rows are in a table: it is not loaded again.

    `fingerprint` is the SHA-256 of the content, uncompressed. The part goes from `first_byte` up
    to `end_byte`, which is the start of the next, of the `total_bytes` of the content. A file that
    was loaded in one transaction has one part; the file is loaded completely where its parts add
    up to `total_bytes`. `stored_bytes` is the size of the file itself, which may be compressed.
    """

    __tablename__ = "loaded_files"
    __table_args__ = (Local(),)

    table_name: Mapped[str] = mapped_column(Text, primary_key=True)
    fingerprint: Mapped[str] = mapped_column(Text, primary_key=True)
    first_byte: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    end_byte: Mapped[int] = mapped_column(BigInteger)
    total_bytes: Mapped[int] = mapped_column(BigInteger)
    stored_bytes: Mapped[int] = mapped_column(BigInteger)
    row_count: Mapped[int] = mapped_column(BigInteger)
    rejected: Mapped[int] = mapped_column(BigInteger)
    duplicates: Mapped[int] = mapped_column(BigInteger)
    name: Mapped[str] = mapped_column(Text)
    loaded_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class FollowedFeed(Base):
    """A feed of GitHub's events API that is followed, and how far it has been read.

    `address` is the feed's. `event_ids` are the events of the last poll that had all of its pages,
    and `newest` is when the newest of all polls happened: a poll that has none of these events
    may have missed some since then. `etag` is what GitHub knows that poll by, and `next_poll` when
    it wants to be asked again. `failures` is how many polls have failed in a row, by which the
    pauses grow.
    """

    __tablename__ = "followed_feeds"
    __table_args__ = (Local(),)

    address: Mapped[str] = mapped_column(Text, primary_key=True)
    etag: Mapped[str | None] = mapped_column(Text)
    event_ids: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    newest: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    next_poll: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    failures: Mapped[int] = mapped_column(Integer, server_default=text("0"))


class LatestRollup(Base):
    """One row: the minute in which the rollup last ran.

    The table is empty until the first run, and the tutorial's
    `INSERT INTO latest_rollup VALUES ('10-10-1901')` is as good a start.
    """

    __tablename__ = "latest_rollup"

    minute: Mapped[datetime] = mapped_column(DateTime(timezone=True), primary_key=True)

    __table_args__ = (Local(), CheckConstraint("minute = date_trunc('minute', minute)"))


github_events = cast("Table", GithubEvent.__table__)
github_users = cast("Table", GithubUser.__table__)
github_rollup_1min = cast("Table", GithubRollup1Min.__table__)
github_user_origins = cast("Table", GithubUserOrigin.__table__)
loaded_files = cast("Table", LoadedFile.__table__)
followed_feeds = cast("Table", FollowedFeed.__table__)
latest_rollup = cast("Table", LatestRollup.__table__)

GITHUB_ROLLUP_1MIN = Rollup(
    "github_rollup_1min",
    GithubEvent,
    time=GithubEvent.created_at,
    every="1 minute",
    by=[GithubEvent.event_type, GithubEvent.repo_id, GithubEvent.user_id],
    measures={"total_events": count()},
    target=GithubRollup1Min,
    bucket="ingest_time",
    function="rollup_http_request",
    state=LatestRollup,
)

IS_PUSH = GithubEvent.event_type == "PushEvent"

# `(payload->>'distinct_size')::int`, with NULL where that cast would fail. One jsonpath, because
# each further look into a large payload would fetch and decompress it again. `strict` keeps arrays
# from being searched, `double()` reads a number that is spelled as a string, and the last argument
# silences what is not a number.
DISTINCT_SIZE = sql_cast(
    func.jsonb_path_query_first(
        GithubEvent.payload,
        literal_column(
            "'strict $.distinct_size.double()"
            " ? (@ >= -2147483648 && @ <= 2147483647 && @ == @.floor())'"
        ),
        literal_column("'{}'"),
        literal_column("true"),
    ),
    Integer,
)

# A condition of its own for each event: a rollup of all types has commits of pushes alone.
COMMITS = case((IS_PUSH, DISTINCT_SIZE)).label("commits")
CREATES_REPOSITORY = and_(
    GithubEvent.event_type == "CreateEvent",
    GithubEvent.payload.contains(literal_column("""'{"ref_type": "repository"}'""")),
)
STARS_OR_FORKS = GithubEvent.event_type.in_(["WatchEvent", "ForkEvent"])

# Each of these can be left out, by its method `remove`. What each costs is in docs/rollups.md; all
# of them together need five columns in the log of changes.

GITHUB_USER_ACTIVITY = Rollup(
    "github_user_activity",
    GithubEvent,
    time=GithubEvent.created_at,
    every="1 minute",
    by=[GithubEvent.user_id],
    measures={"events": count()},
    ranked="events",
)
"""Events by user and minute."""

GITHUB_EVENTS_BY_TYPE = Rollup(
    "github_events_by_type",
    GithubEvent,
    time=GithubEvent.created_at,
    # Time zones consist of quarters of an hour.
    every=["1 minute", "15 minutes", "1 hour", "1 day"],
    by=[GithubEvent.event_type],
    measures={
        "events": count(),
        "commits": total(COMMITS),
    },
    undated=True,
)
"""Events and commits by type, from the minute to the day; events without a time are a group."""

GITHUB_REPOSITORIES_CREATED = Rollup(
    "github_repositories_created",
    GithubEvent,
    by=[GithubEvent.user_id],
    measures={"repositories": count()},
    where=CREATES_REPOSITORY,
    ranked="repositories",
)
"""Repositories created, by user."""

GITHUB_LOGINS = Rollup(
    "github_logins",
    GithubUser,
    by=[GithubUser.login],
    measures={"users": count()},
    ranked="users",
)
"""Users, by login: which logins several users share, so that their numbers are added up."""

GITHUB_REPOSITORIES_CREATED_BY_DAY = Rollup(
    "github_repositories_created_by_day",
    GithubEvent,
    time=GithubEvent.created_at,
    every="1 day",
    by=[GithubEvent.user_id],
    measures={"repositories": count()},
    where=CREATES_REPOSITORY,
)
"""Repositories created, by user and day: for windows of time."""

GITHUB_ACTIVE_USERS = Rollup(
    "github_active_users",
    GithubEvent,
    time=GithubEvent.created_at,
    every=["1 hour", "1 day"],
    by=[GithubEvent.user_id],
    measures={"events": count()},
    undated=True,
)
"""Events by user, hour and day: the groups of a bucket are the users who were active in it."""

GITHUB_STARS = Rollup(
    "github_stars",
    GithubEvent,
    time=GithubEvent.created_at,
    every="1 day",
    by=[GithubEvent.event_type, GithubEvent.repo_id],
    measures={"events": count()},
    where=STARS_OR_FORKS,
    undated=True,
    ranked="events",
)
"""Stars and forks, by repository and day."""

GITHUB_REPOSITORY_ACTIVITY = Rollup(
    "github_repository_activity",
    GithubEvent,
    time=GithubEvent.created_at,
    every="1 hour",
    by=[GithubEvent.repo_id],
    measures={"events": count()},
    undated=True,
    lookup=[GithubEvent.repo_id],
)
"""Events by repository and hour."""

GITHUB_PUSH_SIZES = Rollup(
    "github_push_sizes",
    GithubEvent,
    time=GithubEvent.created_at,
    every=["1 hour", "1 day"],
    by=[COMMITS],
    measures={"events": count()},
    undated=True,
)
"""Pushes by their number of commits, which is NULL for other events, and for pushes without one."""
