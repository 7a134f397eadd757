"""PostgreSQL started by Python, for development, demos and tests.

`EmbeddedServer` runs a PostgreSQL that nobody has to install or administer:

    with EmbeddedServer() as server:
        engine = sqlalchemy.create_engine(server.url)

It listens on a unix socket in a directory that is closed to other accounts, is shared by all
processes that ask for the same directory, and stops when the last of them is gone, even if that was
killed. `find_binaries` returns the PostgreSQL that it would run. Both need a POSIX system.
"""

from __future__ import annotations

from citus_analytics.server.binaries import (
    BINARIES_VARIABLE,
    Binaries,
    find_binaries,
    installed_binaries,
)
from citus_analytics.server.embedded import EmbeddedServer

__all__ = [
    "BINARIES_VARIABLE",
    "Binaries",
    "EmbeddedServer",
    "find_binaries",
    "installed_binaries",
]
