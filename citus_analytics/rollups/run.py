"""The moves of rollups from Python: run, verify, repair, audit, backfill, expire, status.

Each is a function of the server's as well, for SQL, such as `<source>_run()`. What takes a session
leaves the transaction to its caller; with asyncio, `await session.run_sync(run_rollup, rollup)`.
What takes an engine works in many transactions of its own: one for each batch, or each window of
time; the functions that end in `_window` are one of them.

All of them raise `ArgumentError` if the rollup is something else, such as its name, and
`RollupError` if the role may not do it: runs, and whatever changes or compares rollups, need the
rights of the owner of their tables.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal, overload

from psycopg.errors import (
    InsufficientPrivilege,
    ObjectNotInPrerequisiteState,
    UndefinedFunction,
    UndefinedTable,
)
from psycopg.pq import TransactionStatus
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from citus_analytics.errors import ArgumentError, RollupError
from citus_analytics.rollups.declare import Rollup
from citus_analytics.rollups.sql import CHANNEL as CHANNEL
from citus_analytics.rollups.sql import lock_key
from citus_analytics.sql import (
    Executor,
    flushed_connection,
    is_sharded,
    is_snapshot,
    qualify,
    schema_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection, Row, Table


@contextmanager
def hold_runs(session: Executor, rollup: Rollup) -> Iterator[None]:
    """Keep runs of a rollup's source from committing while its body reads.

    On a cluster of several nodes, a read of a rollup that has a copy on every node could otherwise
    see half of what a run commits. Its fresh views see to it themselves, and so does `ask`; what
    `Rollup.select` and `Rollup.best` return does not:

        with hold_runs(session, COUNTRIES):
            countries = session.execute(COUNTRIES.select(by=["country"])).all()

    It waits for a run that is under way, and runs wait for its body; writers do not. In the body
    nothing can be written. Where nothing can be seen by halves, on one server, it does no harm.

    Args:
        session: A session or connection to the coordinator; a session is flushed.
        rollup: A rollup of the source.

    Raises:
        RollupError: The body has ended the transaction, and with it the hold; or, on Citus, the
            transaction is REPEATABLE READ or SERIALIZABLE, whose snapshot may be older than the
            hold. A `consistent_snapshot` needs no hold, and accepts one.
    """
    connection = flushed_connection(session, _checked(rollup).source)
    with runs_held(connection, rollup.source, read_only=True):
        yield


def is_autocommit(connection: Connection) -> bool:
    """Whether each statement of a connection is a transaction of its own."""
    driver: Any = connection.connection.dbapi_connection
    return driver is not None and bool(driver.autocommit)


@contextmanager
def runs_held(
    connection: Connection, source: Table, *, read_only: bool = False, kept: bool = False
) -> Iterator[None]:
    """Keep runs from committing on the nodes; if that is kept, until the transaction ends."""
    table = qualify(source.name, schema_of(connection, source))
    key = lock_key(table).replace("%", "%%")
    # Somebody may have begun a transaction by hand.
    alone = is_autocommit(connection) and not _is_in_transaction(connection)
    if (
        not alone
        and not is_snapshot(connection)
        and not (level := connection.exec_driver_sql(_LEVEL).scalar_one()).startswith("READ")
        and is_sharded(connection, table)
    ):
        raise RollupError(
            f"this transaction is {level}, and of a run that has committed since it began it may "
            "see half: runs can only be kept from committing for what sees the present. Use READ "
            "COMMITTED, a consistent_snapshot(), or raw rows."
        )
    if kept:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock_shared{key}")
        yield
        return
    # Not until the end of the caller's transaction: runs would wait for that.
    savepoint = None if alone else connection.begin_nested()

    def is_held() -> bool:
        return _is_in_transaction(connection) if savepoint is None else savepoint.is_active

    try:
        if alone:
            # A lock of the session would stay where PgBouncer gives the next statement another one.
            connection.exec_driver_sql("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY")
        elif read_only:
            # What is written would be lost with the savepoint.
            connection.exec_driver_sql("SET LOCAL transaction_read_only = on")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock_shared{key}")
        yield
        if not is_held():
            raise RollupError(
                "the transaction has been ended while runs were held: what was read after that may "
                "be half of what a run has committed. Commit after the body."
            )
    finally:
        if savepoint is not None and savepoint.is_active:
            savepoint.rollback()
        elif alone and is_held():
            connection.exec_driver_sql("ROLLBACK")


def _is_in_transaction(connection: Connection) -> bool:
    """Whether the server has a transaction open for a connection."""
    driver: Any = None if connection.closed else connection.connection.driver_connection
    return driver is not None and driver.info.transaction_status != TransactionStatus.IDLE


_LEVEL: Final = "SELECT upper(current_setting('transaction_isolation'))"


def _transaction(engine: Engine) -> AbstractContextManager[Connection]:
    if not isinstance(engine, Engine):
        raise ArgumentError(
            f"an Engine is needed, got {type(engine).__name__}. With asyncio, call "
            "run_batch, or the function that ends in _window, again and again through run_sync."
        )
    return engine.begin()


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupRun:
    """What one run did.

    Attributes:
        changes: How many changed rows of the source were added up.
    """

    changes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupBatch:
    """What one batch of a run did.

    Attributes:
        changes: How many changed rows of the source were added up.
        next_page: The page of the log where the next batch starts; None if this was the last.
    """

    changes: int
    next_page: int | None


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
        ArgumentError: What is given as the rollup is none, but its name, for example.
        RollupError: The database has no such rollup, or the role is not the owner of its tables.
    """
    row = _call(session, rollup, "run", ":wait", wait=wait)
    return None if row.changes is None else RollupRun(changes=row.changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNotice:
    """What a run that has moved something publishes, by NOTIFY, when its transaction commits.

    It goes to the channel `CHANNEL` of the database, so that an application can show what has
    changed without asking again and again. Listen with the driver, sync or async, on a connection
    that is in autocommit mode:

        connection.execute(f"LISTEN {CHANNEL}")
        for notify in connection.notifies():
            notice = RunNotice.read(notify.payload)

    Nobody hears what was published while nobody listened: look once after LISTEN.

    Attributes:
        schema: The schema of the source.
        source: The table whose changes were added up.
        changes: How many there were.
        started: When the run started: all rollups of the source are as of then.
    """

    schema: str
    source: str
    changes: int
    started: datetime

    @classmethod
    def read(cls, payload: str) -> RunNotice:
        """Return what the payload of a notification says.

        Raises:
            ArgumentError: It is no notice of a run; anybody may notify a channel.
        """
        try:
            said = json.loads(payload)
            schema, source = str(said["schema"]), str(said["source"])
            changes, started = int(said["changes"]), datetime.fromisoformat(said["started"])
        except (ValueError, TypeError, KeyError) as error:
            raise ArgumentError(f"{payload!r} is not the notice of a run.") from error
        return cls(schema=schema, source=source, changes=changes, started=started)


@overload
def run_batch(
    session: Executor, rollup: Rollup, page: int = 0, *, wait: Literal[True] = True
) -> RollupBatch: ...


@overload
def run_batch(
    session: Executor, rollup: Rollup, page: int = 0, *, wait: bool
) -> RollupBatch | None: ...


def run_batch(
    session: Executor, rollup: Rollup, page: int = 0, *, wait: bool = True
) -> RollupBatch | None:
    """Add up a part of a long log, some 100,000 changes; see `catch_up`, which adds up all of it.

    Args:
        session: A session or connection; nothing is committed.
        rollup: A rollup of the source.
        page: The page of the log to start from: 0, then the `next_page` of the batch before.
        wait: Whether to wait for another run that is under way.

    Returns:
        What was done, or None if `wait` is false and another run is under way.

    Raises:
        ArgumentError: The page is none.
        RollupError: The database has no such rollup, or it cannot be run in batches.
    """
    if type(page) is not int or page < 0:
        raise ArgumentError(f"page must be 0, or the next_page of a batch; found {page!r}")
    row = _call(session, rollup, "run_batch", ":page, :wait", page=page, wait=wait)
    if row.changes is None:
        return None
    return RollupBatch(changes=row.changes, next_page=row.next_page)


def catch_up(engine: Engine, rollup: Rollup) -> Iterator[RollupBatch]:
    """Bring all rollups of a rollup's source up to date in batches, each in its own transaction.

    After a million changes, one run is a long transaction; this can be stopped between batches,
    and others see what is done.

    Args:
        engine: The database.
        rollup: A rollup of the source.

    Raises:
        RollupError: The database has no such rollup.
    """
    page: int | None = 0
    while page is not None:
        with _transaction(engine) as connection:
            batch = run_batch(connection, rollup, page)
        page = batch.next_page
        yield batch


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
    arguments = ":target, CAST(:since AS timestamptz), CAST(:until AS timestamptz), :repair"
    window = {"since": _bound(since), "until": _bound(until)}
    for table in _checked(rollup).tables:
        values = {"target": table.name, "repair": repair, **window}
        row = _call(session, rollup, "reconcile", arguments, **values)
        yield Difference(
            table=table.name, groups=row.groups or 0, examples=tuple(row.examples or ())
        )


def _bound(moment: datetime | None) -> str | None:
    if moment is None:
        return None
    if moment.utcoffset() is None:
        raise ArgumentError(f"a window needs aware datetimes, got {moment!r}, without a time zone.")
    return moment.isoformat()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedWindow:
    """A window of a table of a rollup that an audit has compared with the source.

    Attributes:
        table: The table.
        since: The start of the window, None without one.
        until: Its end, None without one.
        groups: How many groups differ; 0 where it adds up; None where rows have been expired, and
            totals over all time cannot be compared.
        examples: Some of them in words, with what is missing in the table.
        done: Whether the round is complete: the next one starts from the newest rows again.
    """

    table: str
    since: datetime | None
    until: datetime | None
    groups: int | None
    examples: tuple[str, ...] = ()
    done: bool


def audit_window(
    session: Executor, rollup: Rollup, table: str, *, window: timedelta = timedelta(days=1)
) -> AuditedWindow:
    """Compare the next window of a table of a rollup with its source, and note the outcome.

    See `audit`, which does it again and again.

    Raises:
        RollupError: The database has no such rollup, or it is not complete: backfill first.
    """
    _require_positive(window)
    row = _call(session, rollup, "audit", ":table, :window", table=table, window=window)
    return AuditedWindow(
        table=table,
        since=row.since,
        until=row.until,
        groups=row.groups,
        examples=tuple(row.examples or ()),
        done=row.done,
    )


def audit(
    engine: Engine,
    rollup: Rollup,
    *,
    window: timedelta = timedelta(days=1),
    budget: timedelta = timedelta(seconds=10),
) -> Iterator[AuditedWindow]:
    """Compare a rollup with its source for a while, window by window, from the newest rows back.

    The next call goes on where this one ends. Each window is a transaction of its own and keeps no
    writer out. The database keeps from when to when each table is proved to equal its source, which
    `rollup_status` tells; a window that differs ends that range. Call it every minute or so.

    Args:
        engine: The database.
        rollup: The rollup.
        window: How much time is compared at once; empty time is passed over.
        budget: After how much time no further window is started.

    Raises:
        RollupError: The database has no such rollup, or it is not complete: backfill first.
    """
    end = monotonic() + budget.total_seconds()
    tables = [table.name for table in _checked(rollup).tables]
    while tables:
        for table in list(tables):
            with _transaction(engine) as connection:
                audited = audit_window(connection, rollup, table, window=window)
            yield audited
            if audited.done:
                tables.remove(table)
            if monotonic() >= end:
                return


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupStatus:
    """What is known of one table of a rollup.

    Attributes:
        table: The table.
        rollup: The name of its rollup.
        last_run: When the last run started, None before the first. The table is as of then.
        duration: How long it took.
        pending: How many changes of the source wait for the next run.
        lag: How long ago the last run started, if anything is pending; otherwise nothing.
        complete: Whether rows that were there when it was created have been added up; `backfill`
            does that.
        horizon: Rows from before then have been expired: their aggregates stay.
        late: How many changes came for time before the horizon.
        proved_since: From when on an audit has proved the table, None for the beginning.
        proved_until: Until when, None if nothing is proved.
        size: The bytes of the table with its indexes, of all shards; None if they are not known.
        error: What the last run failed with, as `record_failure` has noted it; None if it did not.
        failed_at: When that was.
    """

    table: str
    rollup: str
    last_run: datetime | None
    duration: timedelta | None
    pending: int
    lag: timedelta
    complete: bool
    horizon: datetime | None
    late: int = 0
    proved_since: datetime | None = None
    proved_until: datetime | None = None
    size: int | None = None
    error: str | None = None
    failed_at: datetime | None = None


def rollup_status(session: Executor, rollup: Rollup) -> tuple[RollupStatus, ...]:
    """Return what is known of each table of a rollup.

    Raises:
        RollupError: The database has no such rollup, or the role may not read its state and its
            log.
    """
    connection = flushed_connection(session, _checked(rollup).source)
    schema = schema_of(connection, rollup.source)
    state = _named(connection, rollup, "rollups")
    statement = text(
        # As numbers: the driver reads intervals in one of their styles alone.
        "SELECT target, last_run, CAST(extract(epoch FROM duration) AS float8) AS duration, "
        "complete_since = '-infinity' AS complete, horizon, "
        "late, nullif(proved_since, '-infinity') AS proved_since, proved_until, error, failed_at, "
        f"CAST(extract(epoch FROM now() - last_run) AS float8) AS since_then FROM {state}"
    )
    looked_for = state
    try:
        known = {row.target: row for row in connection.execute(statement)}
        looked_for = log = _named(connection, rollup, "log")
        pending: int = connection.execute(text(f"SELECT count(*) FROM {log}")).scalar_one()
    except ProgrammingError as error:
        if isinstance(error.orig, InsufficientPrivilege):
            raise _not_allowed(rollup, error.orig) from error
        if not isinstance(error.orig, UndefinedTable):
            raise
        raise _missing(rollup, looked_for) from error
    sizes = _sizes(connection, [qualify(table.name, schema) for table in rollup.tables])
    unknown = [table.name for table in rollup.tables if table.name not in known]
    if unknown:
        raise _missing(rollup, f"{unknown[0]} in {state}")
    return tuple(
        RollupStatus(
            table=table.name,
            rollup=rollup.name,
            last_run=row.last_run,
            duration=None if row.duration is None else timedelta(seconds=row.duration),
            pending=pending,
            lag=timedelta(seconds=(row.since_then or 0) if pending else 0),
            complete=row.complete,
            horizon=row.horizon,
            late=row.late,
            proved_since=row.proved_since,
            proved_until=row.proved_until,
            size=sizes[qualify(table.name, schema)],
            error=row.error,
            failed_at=row.failed_at,
        )
        for table in rollup.tables
        for row in [known[table.name]]
    )


def _sizes(connection: Connection, names: list[str]) -> dict[str, int | None]:
    """Return the bytes of tables, of all their shards where they have some."""
    size = "pg_total_relation_size(found)"
    if connection.scalar(text("SELECT to_regclass('pg_catalog.pg_dist_partition')")) is not None:
        size = (
            "CASE WHEN EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = found) "
            f"THEN citus_total_relation_size(found, false) ELSE {size} END"
        )
    statement = text(
        f"SELECT name, {size} AS bytes FROM unnest(CAST(:names AS text[])) AS name, "
        "to_regclass(name) AS found"
    )
    return {row.name: row.bytes for row in connection.execute(statement, {"names": names})}


def record_failure(session: Executor, rollup: Rollup, error: str) -> None:
    """Note in the database that a run has failed, for `rollup_status` to tell; a run clears it.

    Args:
        session: A session or connection, in another transaction than that of the run.
        rollup: A rollup of the source.
        error: What the run failed with.

    Raises:
        RollupError: The role may not write the state of the rollups.
    """
    connection = flushed_connection(session, _checked(rollup).source)
    state = _named(connection, rollup, "rollups")
    statement = text(f"UPDATE {state} SET failed_at = now(), error = :error")
    try:
        connection.execute(statement, {"error": error})
    except ProgrammingError as refused:
        if isinstance(refused.orig, InsufficientPrivilege):
            raise _not_allowed(rollup, refused.orig) from refused
        raise


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
        window: How much time one transaction covers; at least a day and a bucket.

    Raises:
        RollupError: The database has no such rollup.
    """
    while True:
        with _transaction(engine) as connection:
            done = backfill_window(connection, rollup, window=window)
        if done is None:
            return
        yield done


def backfill_window(
    session: Executor, rollup: Rollup, *, window: timedelta = timedelta(days=1)
) -> tuple[datetime | None, datetime | None] | None:
    """Add up the newest window that is missing, in the caller's transaction; see `backfill`.

    Returns:
        The window, `(since, until)`, or None if nothing is missing.

    Raises:
        RollupError: The database has no such rollup.
    """
    _require_positive(window)
    row = _call(session, rollup, "backfill", ":window", window=window)
    return (row.since, row.until) if row.worked else None


def expire(
    engine: Engine, rollup: Rollup, before: datetime, *, window: timedelta = timedelta(hours=1)
) -> int:
    """Delete rows of a rollup's source from before a time, and keep their aggregates.

    The rows go window by window, each in a transaction of its own, and the horizon moves with the
    first of them: from then on nothing is compared with the source before it. Rows that come for
    that time later are added to the aggregates, or left out where the rollups are declared with
    `late="refuse"`.

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
    deleted = 0
    while True:
        with _transaction(engine) as connection:
            rows = expire_window(connection, rollup, before, window=window)
        if rows is None:
            return deleted
        deleted += rows


def expire_window(
    session: Executor, rollup: Rollup, before: datetime, *, window: timedelta = timedelta(hours=1)
) -> int | None:
    """Delete the oldest window of rows from before a time, in the caller's transaction.

    See `expire`.

    Returns:
        How many rows were deleted, or None if there are none from before that time.

    Raises:
        RollupError: The database has no such rollup, or a rollup is not complete: backfill first.
        ArgumentError: The datetime has no time zone.
    """
    _require_positive(window)
    arguments = "CAST(:before AS timestamptz), :window"
    row = _call(session, rollup, "expire", arguments, before=_bound(before), window=window)
    deleted: int | None = row.deleted
    return deleted


def _require_positive(window: timedelta) -> None:
    if window <= timedelta(0):
        raise ArgumentError(f"a window must be longer than 0, got {window}.")


def _checked(rollup: Rollup) -> Rollup:
    if isinstance(rollup, Rollup):
        return rollup
    raise ArgumentError(
        f"a Rollup is needed, such as citus_analytics.GITHUB_ROLLUP_1MIN, got {rollup!r}; "
        "rollups_of(metadata) has those that are declared, with their names."
    )


def _named(connection: Connection, rollup: Rollup, suffix: str) -> str:
    """Return what is named after the source, for `text()`: a colon would start a parameter."""
    name = qualify(f"{rollup.source.name}_{suffix}", schema_of(connection, rollup.source))
    return name.replace(":", "\\:")


def _call(
    session: Executor, rollup: Rollup, function: str, arguments: str, **values: object
) -> Row[Any]:
    """Call a function of the source's, and return its row."""
    # What the session holds is rolled up too, wherever its binds put the tables.
    connection = flushed_connection(session, _checked(rollup).source)
    name = _named(connection, rollup, function)
    try:
        return connection.execute(text(f"SELECT * FROM {name}({arguments})"), values).one()
    except DBAPIError as error:
        if isinstance(error.orig, InsufficientPrivilege):
            raise _not_allowed(rollup, error.orig) from error
        if isinstance(error.orig, ObjectNotInPrerequisiteState):
            said = error.orig.diag
            hint = f". {said.message_hint}" if said.message_hint else "."
            raise RollupError(f"{said.message_primary}{hint}") from error
        state = f"{rollup.source.name}_rollups"
        if isinstance(error.orig, UndefinedTable) and f'"{state}"' in str(error.orig):
            raise _missing(rollup, f"the table {state}") from error
        # An error inside of the function says where in it that was.
        if not isinstance(error.orig, UndefinedFunction) or error.orig.diag.context:
            raise
        raise _missing(rollup, name) from error


def _not_allowed(rollup: Rollup, error: InsufficientPrivilege) -> RollupError:
    name = rollup.source.name
    return RollupError(
        f"{error.diag.message_primary}. Runs of the rollups of {name!r}, and whatever else changes "
        "or compares them, need the rights of the owner of their tables, and a role from which row "
        f"level security hides nothing; their status needs SELECT on {name}_rollups and {name}_log."
    )


def _missing(rollup: Rollup, name: str) -> RollupError:
    return RollupError(
        f"the database has no rollup {rollup.name!r}: {name} was not found. Migrate the database "
        "first, with `alembic upgrade head`; for one of your own, with op.create_rollups in a "
        "revision. If a migration has dropped it, call its remove() where tables are declared. On "
        "Citus, connect to the coordinator: the workers do not have all of it."
    )
