"""The servers that the tests run on: what is special here, beside `citus_analytics.testing`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import pytest
from sqlalchemy import URL, Engine, NullPool, create_engine

from citus_analytics.github.migrate import upgrade
from citus_analytics.testing import DatabaseServer, citus_binaries, free_ports, running_server

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from citus_analytics.testing import ServerKind

__all__ = ["DatabaseServer", "citus_binaries", "free_ports"]

# Marks for a test, or `pytestmark` for a module, that uses `server` or what builds on it.
ON_POSTGRESQL_ONLY = pytest.mark.parametrize("server", ["postgresql"], indirect=True)
ON_CITUS_ONLY = pytest.mark.parametrize("server", ["citus"], indirect=True)
ON_SINGLE_NODE_CITUS = pytest.mark.parametrize("server", ["single_node_citus"], indirect=True)
ON_EVERY_SERVER = pytest.mark.parametrize(
    "server", ["postgresql", "citus", "single_node_citus"], indirect=True
)
# For tests that kill nodes: a cluster that no other process uses.
ON_BREAKABLE_CITUS = pytest.mark.parametrize("server", ["breakable_citus"], indirect=True)

SHARD_COUNT = 4

Prepared: TypeAlias = Callable[[str, Callable[[Engine], object]], Engine]
"""The type of the fixture `prepared`."""


def running(kind: ServerKind, home: Path) -> AbstractContextManager[DatabaseServer]:
    """Run a server whose databases can be clones of one with the built-in tables, "migrated".

    Nothing happens in them by itself: a vacuum between two looks changes sizes, and plans.
    """
    return running_server(
        kind, home, templates={"migrated": upgrade}, settings={"autovacuum": "off"}
    )


def execute(url: URL, *statements: str) -> None:
    """Run statements, each in its own transaction, as SQL and nothing but SQL."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def query_text(url: URL, statement: str) -> str:
    """Run a query, and return its only value as text."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        return str(connection.exec_driver_sql(statement).scalar_one())
