"""Who created the greatest number of repositories: the tutorial's join of events and users."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Select, func, literal_column, select

from citus_analytics.github.models import github_events, github_users
from citus_analytics.github.queries._binding import (
    Binds,
    bound,
    fetch,
    in_window,
    limited,
    placeholders,
    window,
)

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class RepositoryCreator:
    """How many repositories one account created.

    Attributes:
        login: The account's name. None stands for all the users whose name is not known.
        repositories: The number of repositories, at least 1.
    """

    login: str | None
    repositories: int


def top_repository_creators(
    session: Session | Connection,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
) -> list[RepositoryCreator]:
    """Return who created repositories, the greatest number first.

    Equal numbers are in the order of the logins' code points, the unknown login last. Events of
    users who are not in `github_users` are left out, as the tutorial's join leaves them out.

    Args:
        session: Where to ask. The caller keeps its transaction.
        since: Count repositories created at this aware datetime or later.
        until: Count repositories created before this aware datetime.
        limit: Return at most this many creators; all of them by default.

    Raises:
        ArgumentError: A bound is no aware datetime, `since` is not before `until`, or the limit
            is no positive integer.
    """
    arguments = window(since, until) | limited(limit)
    rows = fetch(session, _prepared(*arguments), arguments)
    return [RepositoryCreator(login, repositories) for login, repositories in rows]


def top_repository_creators_statement(
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int | None = None,
) -> Select[str | None, int]:
    """Return the statement of `top_repository_creators`: rows of `login` and `repositories`.

    Raises:
        ArgumentError: As `top_repository_creators` does.
    """
    return _statement(bound(window(since, until) | limited(limit)))


def _statement(binds: Binds) -> Select[str | None, int]:
    created_at: ColumnElement[datetime | None] = github_events.c.created_at
    login: ColumnElement[str | None] = github_users.c.login
    repositories = func.count().label("repositories")
    return (
        select(login, repositories)
        # Both tables are distributed on user_id: Citus joins them shard by shard.
        .join_from(github_events, github_users, github_events.c.user_id == github_users.c.user_id)
        .where(github_events.c.event_type == literal_column("'CreateEvent'"))
        # Containment, and not payload->>'ref_type', is what payload_index can serve.
        .where(github_events.c.payload.contains(literal_column("""'{"ref_type": "repository"}'""")))
        .where(*in_window(created_at, binds))
        .group_by(login)
        # The collation of code points: the same order on every server and every node.
        .order_by(repositories.desc(), login.collate("C").asc().nulls_last())
        .limit(binds.get("limit"))
    )


@cache
def _prepared(*filters: str) -> Select[str | None, int]:
    return _statement(placeholders(filters))
