"""Advisory locks of loaders, held until the end of the transaction.

A loader that needs several takes them in the order file, rows, users, so that no two loaders of one
source wait for each other. Transactions that load several sources take them in the same order.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from psycopg.errors import DeadlockDetected, LockNotAvailable
from sqlalchemy import column, func, select, table
from sqlalchemy.exc import OperationalError

from citus_analytics.errors import ArgumentError
from citus_analytics.sql import qualify, schema_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Table

BUSY: Final = (LockNotAvailable, DeadlockDetected)
"""What the driver raises where somebody else holds a table for longer than one waits."""

PATIENCE: Final = "2s"
"""How long to wait for a table: who does so holds up everybody behind, one's own loads too."""


def lock(connection: Connection, *names: str) -> None:
    """Wait until no other transaction holds or shares the lock of these names, and hold it."""
    connection.execute(select(func.pg_advisory_xact_lock(_key(names))))


def share(connection: Connection, *names: str) -> None:
    """Wait until no other transaction holds the lock of these names, and share it with others."""
    connection.execute(select(func.pg_advisory_xact_lock_shared(_key(names))))


def wait_for(connection: Connection, *names: str) -> None:
    """Wait until no other transaction holds or shares the lock of these names."""
    savepoint = connection.begin_nested()
    lock(connection, *names)
    # A savepoint that is rolled back lets go of the locks that were taken in it.
    savepoint.rollback()


def without_timeouts(connection: Connection) -> None:
    """Let a transaction take its time, as pg_dump does: a load is as long as its source."""
    names = ("statement_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")
    settings = table("pg_settings", column("name"), schema="pg_catalog")
    statement = select(func.set_config(settings.c.name, "0", True))
    connection.execute(statement.where(settings.c.name.in_(names)))


def set_local(connection: Connection, name: str, value: str) -> None:
    """Change a setting until the end of the transaction."""
    connection.execute(select(func.set_config(name, value, True)))


def lock_together(connections: Sequence[Connection], table: Table) -> None:
    """Let all connections write to a table, or none, whoever waits for it in between.

    One that came before somebody who waits to change the table, and one that came after, would
    wait for ever: the first one for the second, as both commit together.
    """
    while True:
        try:
            for connection in connections:
                connection.begin()
                _lock_for_writing(connection, table)
        except OperationalError as error:
            for connection in connections:
                connection.rollback()
            if not isinstance(error.orig, BUSY):
                raise
        else:
            return


def _lock_for_writing(connection: Connection, table: Table) -> None:
    before = connection.execute(select(func.current_setting("lock_timeout"))).scalar_one()
    set_local(connection, "lock_timeout", PATIENCE)
    name = qualify(table.name, schema_of(connection, table))
    connection.exec_driver_sql(f"LOCK TABLE {name} IN ROW EXCLUSIVE MODE")
    set_local(connection, "lock_timeout", before)


def require_read_committed(connection: Connection) -> None:
    """Refuse a transaction whose snapshot is older than the locks that it waits for.

    Raises:
        ArgumentError: It is at another isolation level.
    """
    level = connection.execute(select(func.current_setting("transaction_isolation"))).scalar_one()
    if level != "read committed":
        raise ArgumentError(
            f"loading once needs the isolation level READ COMMITTED, and this transaction is at "
            f"{level.upper()}: it would not see what another loader has just committed. Use "
            "connection.execution_options(isolation_level='READ COMMITTED')."
        )


def _key(names: tuple[str, ...]) -> int:
    digest = hashlib.sha256("\0".join(("citus_analytics", *names)).encode()).digest()
    return int.from_bytes(digest[:8], signed=True)
