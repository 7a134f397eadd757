"""The servers that the tests run on: a plain PostgreSQL and a Citus cluster, with one face.

Both give out databases as clones of templates, the migrated one included: a clone takes a fraction
of a second, and a test may do to it what it likes. A Citus database is cloned on every node; its
metadata names nodes by host and port and tables by oid, all of which are the same in a clone.
"""

from __future__ import annotations

import itertools
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias

import pytest
from sqlalchemy import URL, NullPool, create_engine
from sqlalchemy_utils import create_database

from citus_analytics.migrations import upgrade
from citus_analytics.server import Binaries, EmbeddedServer, installed_binaries

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind: TypeAlias = Literal["postgresql", "citus"]
Content: TypeAlias = Literal["empty", "migrated"]

# Marks for a test, or `pytestmark` for a module, that uses `server` or what builds on it.
ON_CITUS_ONLY = pytest.mark.parametrize("server", ["citus"], indirect=True)
ON_POSTGRESQL_ONLY = pytest.mark.parametrize("server", ["postgresql"], indirect=True)

SHARD_COUNT = 4
_WORKERS = 2
_COMMON_SETTINGS = {
    "fsync": "off",
    "max_connections": "200",
    "max_wal_size": "128MB",
    "shared_buffers": "64MB",
}
_CITUS_SETTINGS = {
    **_COMMON_SETTINGS,
    "max_prepared_transactions": "50",
    # A maintenance daemon for each database, and the workers of moving shards.
    "max_worker_processes": "64",
    "shared_preload_libraries": "citus",
    # Shards move by logical replication.
    "wal_level": "logical",
}


class DatabaseServer:
    """A running server, and the databases on it.

    Attributes:
        kind: "postgresql" or "citus".
        nodes: The PostgreSQL servers: one, or the coordinator followed by the workers.
    """

    def __init__(self, kind: Kind, nodes: tuple[EmbeddedServer, ...], ports: list[int]) -> None:
        self.kind: Kind = kind
        self.nodes = nodes
        self._ports = ports
        self._names = (f"database_{number}" for number in itertools.count(1))
        self._templates: dict[tuple[Content, int], str] = {}

    @property
    def url(self) -> URL:
        """The address of the database `postgres` (of the coordinator)."""
        return self.nodes[0].url

    @property
    def version(self) -> str:
        """What runs here, e.g. "Citus 13.2, PostgreSQL 15.18"."""
        postgresql = f"PostgreSQL {query_text(self.url, 'SHOW server_version').split()[0]}"
        if self.kind == "postgresql":
            return postgresql
        available = "SELECT default_version FROM pg_available_extensions WHERE name = 'citus'"
        return f"Citus {query_text(self.url, available).split('-')[0]}, {postgresql}"

    def new_database(self, content: Content = "empty", *, shard_count: int = SHARD_COUNT) -> URL:
        """Create a database with a fresh name: empty, or migrated to the newest revision.

        On Citus it has the extension on all nodes, and its tables get `shard_count` shards unless
        something else is asked for.
        """
        template = self._template(content, shard_count)
        name = next(self._names)
        self._create(name, template)
        self._set_shard_count(name, shard_count)
        return self.nodes[0].url_for(name)

    def drop_database(self, url: URL) -> None:
        """Drop a database on every node, whoever is connected to it."""
        assert url.database is not None
        self._disconnect(url.database)
        for node in self.nodes:
            execute(node.url, f'DROP DATABASE "{url.database}" WITH (FORCE)')

    @contextmanager
    def database(self, content: Content) -> Iterator[URL]:
        """Lend a new database, and drop it at the end."""
        url = self.new_database(content)
        try:
            yield url
        finally:
            self.drop_database(url)

    def _template(self, content: Content, shard_count: int) -> str:
        key = (content, shard_count)
        if key not in self._templates:
            name = f"template_{content}_{shard_count}"
            self._fill_template(name, content, shard_count)
            self._templates[key] = name
        return self._templates[key]

    def _fill_template(self, name: str, content: Content, shard_count: int) -> None:
        if content == "migrated":
            self._create(name, self._template("empty", shard_count))
            self._set_shard_count(name, shard_count)
            upgrade(self.nodes[0].url_for(name))
        else:
            self._create(name, "template1")
            self._set_shard_count(name, shard_count)
            self._form_cluster(name)
        # A template with connections cannot be cloned.
        self._disconnect(name)

    def _disconnect(self, name: str) -> None:
        """Let nobody connect to a database any longer, and wait until nobody is connected."""
        sessions = f"FROM pg_stat_activity WHERE datname = '{name}'"
        # On every node before waiting for any: nodes, and Citus's daemons, connect to each other.
        for node in self.nodes:
            execute(
                node.url,
                f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false',
                f"SELECT pg_terminate_backend(pid) {sessions}",
            )
        for node in self.nodes:
            execute(node.url, f"SELECT pg_terminate_backend(pid, 30000) {sessions}")

    def _create(self, name: str, template: str) -> None:
        for node in self.nodes:
            create_database(node.url_for(name), template=template)

    def _set_shard_count(self, name: str, shard_count: int) -> None:
        # A clone does not inherit the settings of its template.
        if self.kind == "citus":
            execute(self.url, f'ALTER DATABASE "{name}" SET citus.shard_count = {shard_count}')

    def _form_cluster(self, name: str) -> None:
        if self.kind != "citus":
            return
        for node in self.nodes:
            execute(node.url_for(name), "CREATE EXTENSION citus")
        coordinator, *workers = self._ports
        execute(
            self.nodes[0].url_for(name),
            f"SELECT citus_set_coordinator_host('127.0.0.1', {coordinator})",
            *(f"SELECT citus_add_node('127.0.0.1', {port})" for port in workers),
        )


@contextmanager
def running_postgres() -> Iterator[DatabaseServer]:
    """Run the PostgreSQL that `find_binaries` prefers."""
    with EmbeddedServer(settings=_COMMON_SETTINGS) as node:
        yield DatabaseServer("postgresql", (node,), [])


@contextmanager
def running_citus(binaries: Binaries) -> Iterator[DatabaseServer]:
    """Run a Citus cluster: a coordinator and two workers."""
    ports = free_ports(1 + _WORKERS)
    with ExitStack() as stack:
        nodes = tuple(
            stack.enter_context(
                EmbeddedServer(binaries=binaries, settings=_CITUS_SETTINGS, port=port)
            )
            for port in ports
        )
        for node in nodes:
            _allow_decoder(node.url)
        yield DatabaseServer("citus", nodes, ports)


def _allow_decoder(url: URL) -> None:
    """Let Citus decode the write-ahead log, as it does to split shards under writers.

    Minor releases of PostgreSQL from 2026 on allow that only to the libraries of a list.
    """
    known = "SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'"
    if query_text(url, known) == "1":
        execute(
            url,
            "ALTER SYSTEM SET output_plugin_libraries = citus, pgoutput, test_decoding",
            "SELECT pg_reload_conf()",
        )


def citus_binaries() -> Binaries | None:
    """Return the newest PostgreSQL of this machine that has Citus, if there is one."""
    candidates = (found for found in installed_binaries() if found.has_extension("citus"))
    return next(candidates, None)


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


def free_ports(count: int) -> list[int]:
    """Return TCP ports that nobody listens on at the moment."""
    with ExitStack() as stack:
        # All are bound at once, so that no two are the same.
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for unused in sockets:
            unused.bind(("127.0.0.1", 0))
        return [int(unused.getsockname()[1]) for unused in sockets]
