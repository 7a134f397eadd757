"""Advisory locks of loaders, held until the end of the transaction.

A loader that needs several takes them in the order file, events, users, so that no two loaders
of one source wait for each other.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from sqlalchemy import func, select

if TYPE_CHECKING:
    from sqlalchemy import Connection


def lock(connection: Connection, *names: str) -> None:
    """Wait until no other transaction holds the lock of these names, and hold it."""
    digest = hashlib.sha256("\0".join(("citus_analytics", *names)).encode()).digest()
    key = int.from_bytes(digest[:8], signed=True)
    connection.execute(select(func.pg_advisory_xact_lock(key)))
