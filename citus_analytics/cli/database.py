"""The database that a command works on, and what it says of itself."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import NullPool, create_engine, func, select, text

from citus_analytics.cli.failures import Exit, ExitError
from citus_analytics.cli.words import plural
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN, Base, github_events, github_users
from citus_analytics.migrations import database_url
from citus_analytics.rollups.sql import RollupSpec

if TYPE_CHECKING:
    from argparse import Namespace

    from sqlalchemy import URL, Connection, Engine

# What an extension brought along is nobody's data.
_USER_TABLES: Final = text("""
SELECT c.oid::regclass::text
FROM pg_catalog.pg_class AS c
WHERE c.relkind IN ('r', 'p', 'f')
  AND c.relnamespace::regnamespace::text !~ '^(pg_.*|information_schema)$'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                  WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1
""")
_NAMED: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What a database runs on.

    Attributes:
        postgresql: The version of PostgreSQL.
        citus: The version of Citus, or None if the database does not have it.
        workers: How many other nodes the cluster has.
        shards: How many shards a table gets that is distributed now; 0 without Citus.
    """

    postgresql: str
    citus: str | None
    workers: int
    shards: int

    def __str__(self) -> str:
        if self.citus is None:
            return f"PostgreSQL {self.postgresql} without Citus: one node, no shards"
        return (
            f"PostgreSQL {self.postgresql} with Citus {self.citus}: a coordinator and "
            f"{plural(self.workers, 'worker node')}, {plural(self.shards, 'shard')} a table"
        )


def url_of(arguments: Namespace) -> URL:
    """Return the address that the arguments or the environment name.

    Raises:
        ExitError: Neither names one.
        ArgumentError: It cannot be read.
    """
    address = arguments.database_url or os.environ.get("DATABASE_URL")
    if not address:
        raise ExitError(
            "no database is named: give --database-url postgresql://user@host/name, or set "
            "DATABASE_URL.",
            Exit.USAGE,
        )
    return database_url(address)


def engine_for(url: URL) -> Engine:
    """Return an engine that keeps no connection open after its use."""
    # Without prepared statements, which PgBouncer in transaction mode would lose.
    return create_engine(url, poolclass=NullPool, connect_args={"prepare_threshold": None})


def server_of(connection: Connection) -> Server:
    """Return what the database runs on."""
    versions = text(
        "SELECT current_setting('server_version'),"
        " (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'citus')"
    )
    postgresql, citus = connection.execute(versions).one()
    workers = shards = 0
    if citus is not None:
        nodes = text(
            "SELECT count(*), current_setting('citus.shard_count')::int"
            " FROM pg_catalog.pg_dist_node"
            " WHERE groupid <> 0 AND noderole = 'primary' AND isactive"
        )
        workers, shards = connection.execute(nodes).one()
    return Server(
        # Without what packagers add: 18.1 (Debian 18.1-1), 13.2-1.
        postgresql=postgresql.split()[0],
        citus=citus and citus.partition("-")[0],
        workers=workers,
        shards=shards,
    )


def require_empty(connection: Connection) -> None:
    """Refuse a database with tables of anybody's; ours are welcome as long as they are empty.

    Raises:
        ExitError: There are tables; it names them.
    """
    tables = list(connection.execute(_USER_TABLES).scalars())
    counts = {
        table.name: connection.scalar(select(func.count()).select_from(table)) or 0
        for table in (github_events, github_users)
        if table.name in tables
    }
    if not tables or (_migrated(tables) and not any(counts.values())):
        return
    named = ", ".join(
        f"{name} ({plural(counts[name], 'row')})" if counts.get(name) else name
        for name in sorted(tables, key=lambda name: -counts.get(name, 0))[:_NAMED]
    )
    more = f" and {len(tables) - _NAMED} more" if len(tables) > _NAMED else ""
    raise ExitError(
        f"the database {connection.engine.url.database} is not empty: it has the tables {named}"
        f"{more}. The demo has left it as it is. Give it an empty database (CREATE DATABASE demo), "
        "or leave --database-url out for a temporary server."
    )


def _migrated(tables: list[str]) -> bool:
    """Whether the tables are those that our migrations create."""
    machinery = RollupSpec.of(GITHUB_ROLLUP_1MIN)
    ours = {*Base.metadata.tables, machinery.changes, machinery.outcome, "alembic_version"}
    return "alembic_version" in tables and ours.issuperset(tables)
