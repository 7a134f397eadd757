"""Running a rollup from Python.

`SELECT rollup_http_request()` from any client does the same; this also says what happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, overload

from psycopg.errors import UndefinedFunction
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from citus_analytics.errors import RollupError
from citus_analytics.sql import Executor, flushed_connection, qualify, schema_of

if TYPE_CHECKING:
    from sqlalchemy import Row

    from citus_analytics.rollups.declare import Rollup

# PostgreSQL knows years that Python does not.
_EDGES: Final = ", ".join(
    f"CASE WHEN {edge} BETWEEN '0001-01-02 00:00Z' AND '9999-12-30 00:00Z' THEN {edge} END "
    f"AS {edge}"
    for edge in ("since", "until")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RollupRun:
    """What one run of a rollup did.

    Attributes:
        groups_written: Groups that were added or whose measures changed.
        groups_removed: Groups that were deleted because no row of the source is left in them.
        since: The start of the earliest bucket that was recomputed; None if none was, or if Python
            has no such year.
        until: The end of the latest bucket that was recomputed; None in the same cases.
    """

    groups_written: int
    groups_removed: int
    since: datetime | None
    until: datetime | None


@overload
def run_rollup(session: Executor, rollup: Rollup, *, wait: Literal[True] = True) -> RollupRun: ...


@overload
def run_rollup(session: Executor, rollup: Rollup, *, wait: bool) -> RollupRun | None: ...


def run_rollup(session: Executor, rollup: Rollup, *, wait: bool = True) -> RollupRun | None:
    """Bring a rollup up to date with its source, in the caller's transaction.

    Every change of the source that was committed before the call is in the rollup after it, and
    the cost follows the number of changes. Runs are serialised: one at a time holds the lock until
    its transaction ends. If the transaction is rolled back, nothing has happened. Under another
    isolation level than READ COMMITTED, "before the call" is before the transaction's snapshot.

    Args:
        session: A session or connection; nothing is committed.
        rollup: The rollup to run, such as `citus_analytics.GITHUB_ROLLUP_1MIN`.
        wait: Whether to wait for another run that is under way.

    Returns:
        What was done, or None if `wait` is false and another run is under way.

    Raises:
        RollupError: The database has no such rollup.
    """
    row = _run(session, rollup, wait=wait)
    if row.groups_written is None:
        return None
    return RollupRun(
        groups_written=row.groups_written,
        groups_removed=row.groups_removed,
        since=row.since,
        until=row.until,
    )


def _run(session: Executor, rollup: Rollup, *, wait: bool) -> Row[Any]:
    # What the session holds is rolled up too, wherever its binds put the tables.
    connection = flushed_connection(session, rollup.target)
    run = qualify(f"{rollup.name}_run", schema_of(connection, rollup.target))
    statement = text(f"SELECT groups_written, groups_removed, {_EDGES} FROM {run}(wait => :wait)")
    try:
        return connection.execute(statement, {"wait": wait}).one()
    except ProgrammingError as error:
        # An error inside of the function says where in it that was.
        if not isinstance(error.orig, UndefinedFunction) or error.orig.diag.context:
            raise
        raise RollupError(
            f"the database has no rollup {rollup.name!r}: its function {run} was not found. "
            "Migrate the database first, with `alembic upgrade head`; for one of your own, with "
            "op.create_rollup_function in a revision."
        ) from error
