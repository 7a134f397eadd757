"""The moves of rollups from Python: run, verify, repair, backfill, expire, status.

Each is a function of the server's as well, for SQL: `<source>_run()` and `<source>_reconcile(...)`.
Nothing is committed here but by `backfill` and `expire`, which take an engine and work in
transactions of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, overload

from psycopg.errors import UndefinedFunction, UndefinedTable
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

from citus_analytics.errors import ArgumentError, RollupError
from citus_analytics.sql import Executor, flushed_connection, qualify, schema_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Engine, Row

    from citus_analytics.rollups.declare import Rollup


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupRun:
    """What one run did.

    Attributes:
        changes: How many changed rows of the source were added up.
    """

    changes: int


@overload
def run_rollup(session: Executor, rollup: Rollup, *, wait: Literal[True] = True) -> RollupRun: ...


@overload
def run_rollup(session: Executor, rollup: Rollup, *, wait: bool) -> RollupRun | None: ...


def run_rollup(session: Executor, rollup: Rollup, *, wait: bool = True) -> RollupRun | None:
    """Bring all rollups of a rollup's source up to date, in the caller's transaction.

    Every change of the source that was committed before the call is in the rollups after it, and
    the cost follows the number of changes. Runs are serialised: one at a time holds the lock until
    its transaction ends. If the transaction is rolled back, nothing has happened.

    Args:
        session: A session or connection; nothing is committed.
        rollup: A rollup of the source, such as `citus_analytics.GITHUB_ROLLUP_1MIN`.
        wait: Whether to wait for another run that is under way.

    Returns:
        What was done, or None if `wait` is false and another run is under way.

    Raises:
        RollupError: The database has no such rollup.
    """
    connection, function = _function(session, rollup, "run")
    row = _call(connection, rollup, f"SELECT * FROM {function}(:wait)", {"wait": wait})
    changes: int | None = row[0]
    return None if changes is None else RollupRun(changes=changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far a table of a rollup is from its source, in a window.

    Attributes:
        table: The table.
        groups: How many groups differ; 0 where it adds up.
        examples: Some of them in words, with what is missing in the table.
    """

    table: str
    groups: int
    examples: tuple[str, ...] = ()


def verify(
    session: Executor,
    rollup: Rollup,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> tuple[Difference, ...]:
    """Compare a rollup with its source, exactly, while others write to it.

    Changes that no run has added up yet are taken into account: they are no difference.

    Args:
        session: A session or connection; nothing is committed.
        rollup: The rollup.
        since: Compare buckets from here on, the start of one; None for the beginning, or the
            horizon where rows have been expired.
        until: Compare buckets before here, the start of one; None for all.

    Raises:
        RollupError: The database has no such rollup, or the source is not complete there.
        ArgumentError: A datetime has no time zone.
    """
    return tuple(_reconcile(session, rollup, since, until, repair=False))


def repair(
    session: Executor,
    rollup: Rollup,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
) -> tuple[Difference, ...]:
    """Add the difference between a rollup and its source to the rollup; see `verify`.

    Returns:
        How many groups of each table were wrong.
    """
    return tuple(_reconcile(session, rollup, since, until, repair=True))


def _reconcile(
    session: Executor,
    rollup: Rollup,
    since: datetime | None,
    until: datetime | None,
    *,
    repair: bool,
) -> Iterator[Difference]:
    connection, function = _function(session, rollup, "reconcile")
    statement = (
        f"SELECT * FROM {function}(:target, CAST(:since AS timestamptz), "
        "CAST(:until AS timestamptz), :repair)"
    )
    window = {"since": _edge(since), "until": _edge(until)}
    for table in rollup.targets.values():
        row = _call(
            connection, rollup, statement, {"target": table.name, "repair": repair, **window}
        )
        yield Difference(
            table=table.name, groups=row.groups or 0, examples=tuple(row.examples or ())
        )


def _edge(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    if moment.utcoffset() is None:
        raise ArgumentError(f"a window needs aware datetimes, got {moment!r}, without a time zone.")
    return moment.isoformat()


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupStatus:
    """What is known of one table of a rollup.

    Attributes:
        table: The table.
        rollup: The name of its rollup.
        last_run: When the last run started, None before the first.
        duration: How long it took.
        pending: How many changes of the source wait for the next run.
        complete: Whether rows that were there when it was created have been added up; `backfill`
            does that.
        horizon: Rows from before then have been expired: their aggregates stay.
        error: What the last run failed with, as `record_failure` has noted it; None if it did not.
        failed_at: When that was.
    """

    table: str
    rollup: str
    last_run: datetime | None
    duration: timedelta | None
    pending: int
    complete: bool
    horizon: datetime | None
    error: str | None = None
    failed_at: datetime | None = None


def rollup_status(session: Executor, rollup: Rollup) -> tuple[RollupStatus, ...]:
    """Return what is known of each table of a rollup.

    Raises:
        RollupError: The database has no such rollup.
    """
    connection, _ = _function(session, rollup, "run")
    states = _states(connection, rollup)
    log = _escaped(qualify(f"{rollup.source.name}_log", schema_of(connection, rollup.source)))
    pending: int = connection.execute(text(f"SELECT count(*) FROM {log}")).scalar_one()
    return tuple(
        RollupStatus(
            table=table.name,
            rollup=rollup.name,
            last_run=row.last_run,
            duration=row.duration,
            pending=pending,
            complete=row.complete,
            horizon=row.horizon,
            error=row.error,
            failed_at=row.failed_at,
        )
        for table in rollup.targets.values()
        for row in [states[table.name]]
    )


def record_failure(session: Executor, rollup: Rollup, error: str) -> None:
    """Note in the database that a run has failed, for `rollup_status` to tell; a run clears it.

    Args:
        session: A session or connection, in another transaction than that of the run.
        rollup: A rollup of the source.
        error: What the run failed with.
    """
    connection = flushed_connection(session, rollup.source)
    state = _escaped(qualify(f"{rollup.source.name}_rollups", schema_of(connection, rollup.source)))
    statement = text(f"UPDATE {state} SET failed_at = now(), error = :error")
    connection.execute(statement, {"error": error})


def backfill(
    engine: Engine, rollup: Rollup, *, window: timedelta = timedelta(days=1)
) -> Iterator[tuple[datetime | None, datetime | None]]:
    """Add up the rows that were there when a rollup was created: window by window, newest first.

    Each window is a transaction of its own, keeps no writer out, and is yielded once it is
    committed, as `(since, until)`, None for no bound. The call can be stopped at any time, and
    goes on where it was stopped.

    Args:
        engine: The database.
        rollup: The rollup.
        window: How much time one transaction covers; at least a bucket.

    Raises:
        RollupError: The database has no such rollup.
    """
    while True:
        with engine.begin() as connection:
            window_done = _backfill_window(connection, rollup, window)
        if window_done is None:
            return
        yield window_done


def _backfill_window(
    connection: Connection, rollup: Rollup, window: timedelta
) -> tuple[datetime | None, datetime | None] | None:
    connection, function = _function(connection, rollup, "backfill")
    row = _call(connection, rollup, f"SELECT * FROM {function}(:window)", {"window": window})
    return (row.since, row.until) if row.worked else None


def expire(
    engine: Engine, rollup: Rollup, before: datetime, *, window: timedelta = timedelta(hours=1)
) -> int:
    """Delete rows of a rollup's source from before a time, and keep their aggregates.

    The rows go window by window, each in a transaction of its own, and the horizon moves with the
    first of them: from then on nothing is compared with the source before it. Rows that come for
    that time later are added to the aggregates.

    Args:
        engine: The database.
        rollup: A rollup of the source; all others of the source keep their aggregates too.
        before: Rows from before this aware datetime go; those without a time stay.
        window: How much time one transaction covers.

    Returns:
        How many rows were deleted.

    Raises:
        RollupError: The database has no such rollup, or a rollup is not complete: backfill first.
        ArgumentError: The datetime has no time zone.
    """
    edge, deleted = _edge(before), 0
    while True:
        with engine.begin() as connection:
            _, function = _function(connection, rollup, "expire")
            row = _call(
                connection,
                rollup,
                f"SELECT * FROM {function}(CAST(:before AS timestamptz), :window)",
                {"before": edge, "window": window},
            )
        if row[0] is None:
            return deleted
        deleted += row[0]


def _states(connection: Connection, rollup: Rollup) -> Mapping[str, Row[Any]]:
    state = _escaped(qualify(f"{rollup.source.name}_rollups", schema_of(connection, rollup.source)))
    statement = text(
        "SELECT target, last_run, duration, complete_since = '-infinity' AS complete, horizon, "
        f"error, failed_at FROM {state}"
    )
    try:
        return {row.target: row for row in connection.execute(statement)}
    except ProgrammingError as error:
        if not isinstance(error.orig, UndefinedTable):
            raise
        raise _missing(rollup, state) from error


def _function(session: Executor, rollup: Rollup, name: str) -> tuple[Connection, str]:
    # What the session holds is rolled up too, wherever its binds put the tables.
    connection = flushed_connection(session, rollup.source)
    schema = schema_of(connection, rollup.source)
    return connection, _escaped(qualify(f"{rollup.source.name}_{name}", schema))


def _escaped(name: str) -> str:
    """Return a quoted name for `text()`, in which a colon would start a parameter."""
    return name.replace(":", "\\:")


def _call(
    connection: Connection, rollup: Rollup, statement: str, arguments: Mapping[str, object]
) -> Row[Any]:
    try:
        return connection.execute(text(statement), arguments).one()
    except ProgrammingError as error:
        # An error inside of the function says where in it that was.
        if not isinstance(error.orig, UndefinedFunction) or error.orig.diag.context:
            raise
        raise _missing(rollup, statement.split("FROM ")[1].split("(")[0]) from error


def _missing(rollup: Rollup, name: str) -> RollupError:
    return RollupError(
        f"the database has no rollup {rollup.name!r}: {name} was not found. Migrate the database "
        "first, with `alembic upgrade head`; for one of your own, with op.create_rollups in a "
        "revision."
    )
