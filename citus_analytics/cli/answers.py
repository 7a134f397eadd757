"""The questions whose answers are tables: how they are asked, and how the answers look."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from citus_analytics.github.analytics import (
    HourlyCommits,
    RepositoryCreator,
    UserActivity,
    commits_per_hour,
    count_events,
    most_active_users,
    top_repository_creators,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection

    from citus_analytics.cli.screen import Cell, Screen

Row: TypeAlias = HourlyCommits | RepositoryCreator | UserActivity

_FUNCTIONS: Final[dict[str, Callable[..., Sequence[Row]]]] = {
    "commits-per-hour": commits_per_hour,
    "top-creators": top_repository_creators,
    "most-active": most_active_users,
}
TITLES: Final = {
    "commits-per-hour": "Commits per hour",
    "top-creators": "Who created the most repositories",
    "most-active": "Most active users, by the minute",
}
_HEADERS: Final = {
    "commits-per-hour": ("hour", "commits"),
    "top-creators": ("login", "repositories"),
    "most-active": ("user", "minute", "events"),
}
_NOTHING: Final = {
    "commits-per-hour": "No pushes found.",
    "top-creators": "No repositories found that a known user has created.",
    "most-active": "Nothing found in the rollup. `citus-analytics rollup` brings it up to date.",
}


def ask(connection: Connection, question: str, filters: dict[str, Any]) -> list[Row]:
    """Return the answer to a question, by its name on the command line, with times in UTC.

    The hours of commits stay in the zone that was asked for.
    """
    rows = _FUNCTIONS[question](connection, **filters)
    return [_in_utc(row) if isinstance(row, UserActivity) else row for row in rows]


def call(question: str, filters: dict[str, Any]) -> str:
    """Return the library call that asks the question."""
    arguments = "".join(f", {name}={value!r}" for name, value in filters.items())
    function = count_events if question == "count" else _FUNCTIONS[question]
    return f"{function.__name__}(session{arguments})"


def show(screen: Screen, question: str, rows: Sequence[Row]) -> None:
    """Write an answer as a table."""
    if rows:
        screen.chart(_HEADERS[question], [_cells(row) for row in rows])
    else:
        screen.say(_NOTHING[question])


def _in_utc(row: UserActivity) -> UserActivity:
    return replace(row, minute=row.minute and row.minute.astimezone(UTC))


def _cells(row: Row) -> tuple[Cell, ...]:
    match row:
        case HourlyCommits(hour, commits):
            return hour, commits
        case RepositoryCreator(login, repositories):
            return login, repositories
        case UserActivity(user_id, minute, events):
            # An id is a name, not a number to be read with commas.
            return None if user_id is None else str(user_id), minute, events
