"""Advisory locks of loaders, held until the end of the transaction.

A loader that needs several takes them in the order file, rows, users, so that no two loaders of one
source wait for each other. Transactions that load several sources take them in the same order.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from citus_analytics.errors import ArgumentError

if TYPE_CHECKING:
    from sqlalchemy import Connection


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
