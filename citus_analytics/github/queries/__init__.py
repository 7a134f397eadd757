"""Typed answers to the tutorial's four questions about GitHub events.

Each analytic is a frozen result type, a function that asks the question on a Session or a
Connection, and a builder that returns the statement: to embed in a larger query, to `EXPLAIN`,
or to await on an `AsyncSession` (which also takes `await session.run_sync(count_events)`).

With no filter, each returns what the tutorial's SQL returns, with ties put into one order.
`since` and `until` are aware datetimes and select the half-open window `[since, until)`, so that
neighbouring windows share nothing and miss nothing. Rows without a time are in no window.

Every column of the tutorial's tables may be NULL, and so may a value that comes from one: None
is an answer here, never an error.
"""

from __future__ import annotations

from citus_analytics.github.queries.activity import (
    UserActivity,
    most_active_users,
    most_active_users_statement,
)
from citus_analytics.github.queries.commits import (
    HourlyCommits,
    commits_per_hour,
    commits_per_hour_statement,
)
from citus_analytics.github.queries.counts import count_events, count_events_statement
from citus_analytics.github.queries.creators import (
    RepositoryCreator,
    top_repository_creators,
    top_repository_creators_statement,
)

__all__ = [
    "HourlyCommits",
    "RepositoryCreator",
    "UserActivity",
    "commits_per_hour",
    "commits_per_hour_statement",
    "count_events",
    "count_events_statement",
    "most_active_users",
    "most_active_users_statement",
    "top_repository_creators",
    "top_repository_creators_statement",
]
