"""How many events there are: the tutorial's `SELECT count(*) FROM github_events`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, Select, func, select

from citus_analytics.github.models import github_events
from citus_analytics.github.queries._binding import (
    Arguments,
    Binds,
    bound,
    fetch,
    given,
    in_window,
    placeholders,
    window,
)

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session


def count_events(
    session: Session | Connection,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    event_type: str | None = None,
) -> int:
    """Return how many events there are.

    Args:
        session: Where to ask. The caller keeps its transaction.
        since: Count events created at this aware datetime or later.
        until: Count events created before this aware datetime.
        event_type: Count events of this type only, such as `"PushEvent"`.

    Raises:
        ArgumentError: A bound is no aware datetime, or `since` is not before `until`.
    """
    arguments = _arguments(since, until, event_type)
    ((events,),) = fetch(session, _prepared(*arguments), arguments)
    return events


def count_events_statement(
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    event_type: str | None = None,
) -> Select[int]:
    """Return the statement of `count_events`: one row, with the number of `events`.

    Raises:
        ArgumentError: As `count_events` does.
    """
    return _statement(bound(_arguments(since, until, event_type)))


def _arguments(since: datetime | None, until: datetime | None, event_type: str | None) -> Arguments:
    return window(since, until) | given(event_type=event_type)


def _statement(binds: Binds) -> Select[int]:
    created_at: ColumnElement[datetime | None] = github_events.c.created_at
    statement = (
        select(func.count().label("events"))
        .select_from(github_events)
        .where(*in_window(created_at, binds))
    )
    if "event_type" in binds:
        statement = statement.where(github_events.c.event_type == binds["event_type"])
    return statement


@cache
def _prepared(*filters: str) -> Select[int]:
    return _statement(placeholders(filters))
