"""Events that an application has as Python objects, from an iterable or an async one."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from citus_analytics.errors import LoadError
from citus_analytics.github.gharchive import OldFormatError, convert_event
from citus_analytics.github.ingest.connections import all_or_nothing, connection_of
from citus_analytics.github.ingest.json_load import JsonLoad
from citus_analytics.github.ingest.results import LoadOptions, LoadResult, sum_of
from citus_analytics.github.ingest.stage import Stage
from citus_analytics.github.ingest.users import Users
from citus_analytics.github.models import github_events

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Iterable, Iterator, Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

    from citus_analytics.github.gharchive import EventRow, Reject
    from citus_analytics.github.ingest.connections import AnySession

    ApiEvent: TypeAlias = Mapping[str, Any]

_NAME: Final = "the events"
_AT_ONCE: Final = 1000


def load_api_events(
    connection: AnySession,
    events: Iterable[ApiEvent],
    *,
    options: LoadOptions | None = None,
) -> LoadResult:
    """Load events, as GitHub's events API describes them, into `github_events`.

    All or nothing, in the caller's transaction. Rejects are numbered from 1 in the order of the
    events. A poller that meets events again asks for `LoadOptions(unique=True)`.

    Args:
        connection: A connection or session on the driver psycopg 3.
        events: The events, as `json.loads` returns them.
        options: How to load; the format is of no account.

    Returns:
        What was loaded; its `bytes` is 0.

    Raises:
        LoadError: An event is in the format of before 2015; or, if that is asked for, cannot be
            stored.
    """
    return _load(connection, enumerate(events, 1), options or LoadOptions())


async def load_api_events_async(
    connection: AsyncConnection | AsyncSession,
    events: AsyncIterable[ApiEvent],
    *,
    options: LoadOptions | None = None,
) -> LoadResult:
    """Do as `load_api_events`, with events that come asynchronously, a thousand at a time.

    The transaction is the caller's; an autocommit connection will not do. If this raises, roll it
    back: what came in before is in it.
    """
    given = options or LoadOptions()
    total = LoadResult(rows=0, bytes=0)
    number, some = count(1), list[tuple[int, "ApiEvent"]]()
    async for event in events:
        some.append((next(number), event))
        if len(some) == _AT_ONCE:
            total = sum_of([total, await connection.run_sync(_load, some, given)])
            some = []
    return sum_of([total, await connection.run_sync(_load, some, given)])


def load_outcomes(
    connection: AnySession, outcomes: Iterable[EventRow | Reject], options: LoadOptions
) -> LoadResult:
    """Load what has become of events; see `load_api_events`."""
    opened = connection_of(connection, github_events)
    with all_or_nothing(opened):
        stage = Stage(opened, github_events) if options.unique else None
        users = Users(opened)
        load = JsonLoad(
            opened,
            github_events if stage is None else stage.table,
            _NAME,
            options,
            users if options.users else None,
        )
        load.store(outcomes)
        stored = load.counts.rows if stage is None else stage.insert_missing()
        users.store()
    return LoadResult(
        rows=stored,
        bytes=0,
        rejected=load.counts.rejected,
        duplicates=load.counts.rows - stored,
    )


def _load(
    connection: AnySession, events: Iterable[tuple[int, ApiEvent]], options: LoadOptions
) -> LoadResult:
    return load_outcomes(connection, _outcomes(events), options)


def _outcomes(events: Iterable[tuple[int, ApiEvent]]) -> Iterator[EventRow | Reject]:
    for number, event in events:
        try:
            yield convert_event(event, line=number)
        except OldFormatError as error:
            raise LoadError(f"{_NAME}, number {number}: {error}", line=number) from error
