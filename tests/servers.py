"""The servers that the tests run on: a plain PostgreSQL and Citus clusters, with one interface.

Each gives out databases as clones of templates, the migrated one included: a clone takes a fraction
of a second, and a test may do to it what it likes. A Citus database is cloned on every node; its
metadata names nodes by host and port and tables by oid, all of which are the same in a clone.

The processes of a run (pytest-xdist) share their servers: whoever needs one first starts it, the
others join it, and it stops when the last of them leaves. What a test does to a whole server, such
as killing it, is for a server of its own.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal, TypeAlias

import pytest
from sqlalchemy import URL, Engine, NullPool, create_engine

from citus_analytics.github.migrate import upgrade
from citus_analytics.server import Binaries, EmbeddedServer, installed_binaries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Kind: TypeAlias = Literal["postgresql", "citus"]
Content: TypeAlias = Literal["empty", "migrated"]

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
_WORKERS = 2
_COMMON_SETTINGS = {
    "fsync": "off",
    # Creating a database forces checkpoints, after each of which pages would be logged in full.
    "full_page_writes": "off",
    "max_connections": "400",
    "max_wal_size": "128MB",
    "max_prepared_transactions": "100",
    "shared_buffers": "64MB",
}
_CITUS_SETTINGS = {
    **_COMMON_SETTINGS,
    "citus.shard_count": str(SHARD_COUNT),
    # A maintenance daemon for each database, and the workers of moving shards.
    "max_worker_processes": "64",
    "shared_preload_libraries": "citus",
    # Shards move by logical replication, which starts one subscription in so much time (and one
    # every 5 seconds by default).
    "wal_level": "logical",
    "wal_retrieve_retry_interval": "100ms",
}


class DatabaseServer:
    """A running server, and the databases on it.

    Attributes:
        kind: "postgresql" or "citus".
        nodes: The PostgreSQL servers: one, or the coordinator followed by the workers.
        lock: The file that the processes which share the server lock while they set it up; None
            if only this one uses it.
    """

    def __init__(
        self, kind: Kind, nodes: tuple[EmbeddedServer, ...], lock: Path | None = None
    ) -> None:
        self.kind: Kind = kind
        self.nodes = nodes
        self.lock = lock
        prefix = f"database_{os.getpid()}_{len(nodes)}"
        self._names = (f"{prefix}_{number}" for number in itertools.count(1))
        self._templates: dict[Content, str] = {}
        # Opening a connection takes about as long as what is done in it. A node may be killed.
        self._engines = [
            create_engine(node.url, isolation_level="AUTOCOMMIT", pool_pre_ping=True)
            for node in nodes
        ]

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

    def new_database(self, content: Content = "empty") -> URL:
        """Create a database with a fresh name: empty, or migrated to the newest revision.

        On Citus it has the extension on all nodes, and its tables get `SHARD_COUNT` shards unless
        something else is asked for.
        """
        if content not in self._templates:
            with _locked(self.lock):
                self._templates[content] = self._ensure_template(content)
        name = next(self._names)
        self._create(name, self._templates[content])
        return self.nodes[0].url_for(name)

    def drop_database(self, url: URL) -> None:
        """Drop a database on every node, whoever is connected to it."""
        assert url.database is not None
        self._disconnect(url.database)
        for engine in self._engines:
            _run(engine, f'DROP DATABASE "{url.database}"')

    @contextmanager
    def database(self, content: Content) -> Iterator[URL]:
        """Lend a new database, and drop it at the end."""
        url = self.new_database(content)
        try:
            yield url
        finally:
            self.drop_database(url)

    def close(self) -> None:
        """Close the connections to the nodes."""
        for engine in self._engines:
            engine.dispose()

    def _ensure_template(self, content: Content) -> str:
        """Create a template, unless another process has done so; return its name."""
        name = f"template_{content}_{len(self.nodes)}"
        # A finished template has no connections, or it could not be cloned.
        finished = f"FROM pg_database WHERE datname = '{name}' AND NOT datallowconn"
        if query_text(self.url, f"SELECT count(*) {finished}") == "1":
            return name
        if content == "migrated":
            self._create(name, self._ensure_template("empty"))
            upgrade(self.nodes[0].url_for(name))
        else:
            self._create(name, "template1")
            self._form_cluster(name)
        self._disconnect(name)
        return name

    def _form_cluster(self, name: str) -> None:
        if self.kind == "citus":
            for node in self.nodes:
                execute(node.url_for(name), "CREATE EXTENSION citus")
        if len(self.nodes) > 1:
            coordinator, *workers = (node.url.query["port"] for node in self.nodes)
            execute(
                self.nodes[0].url_for(name),
                f"SELECT citus_set_coordinator_host('127.0.0.1', {coordinator})",
                *(f"SELECT citus_add_node('127.0.0.1', {port})" for port in workers),
            )

    def _create(self, name: str, template: str) -> None:
        for engine in self._engines:
            # Copying files takes half as long as logging their pages, the default.
            _run(engine, f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY file_copy')

    def _disconnect(self, name: str) -> None:
        """Let nobody connect to a database any longer, and wait until nobody is connected."""
        sessions = f"FROM pg_stat_activity WHERE datname = '{name}'"
        # On every node before waiting for any: nodes, and Citus's daemons, connect to each other.
        # DROP DATABASE WITH (FORCE) instead leaves daemons that Citus starts again for ever.
        for engine in self._engines:
            _run(
                engine,
                f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false',
                f"SELECT pg_terminate_backend(pid) {sessions}",
            )
        deadline = time.monotonic() + 30
        for engine in self._engines:
            # The server's own ways to wait look every 100 ms.
            while _run(engine, f"SELECT count(*) {sessions}") != 0:
                assert time.monotonic() < deadline, f"somebody does not leave {name}"
                time.sleep(0.002)


@contextmanager
def running_postgres(home: Path) -> Iterator[DatabaseServer]:
    """Run the PostgreSQL that `find_binaries` prefers, or join the one of another process.

    Args:
        home: A directory that the processes which share the server know.
    """
    with _running("postgresql", home, lambda: [EmbeddedServer(settings=_COMMON_SETTINGS)]) as it:
        yield it


@contextmanager
def running_citus(binaries: Binaries, home: Path) -> Iterator[DatabaseServer]:
    """Run a coordinator and two workers, or join those of another process.

    Args:
        binaries: A PostgreSQL with Citus.
        home: A directory that the processes which share the cluster know.
    """

    def new_nodes() -> list[EmbeddedServer]:
        return [
            EmbeddedServer(binaries=binaries, settings=_CITUS_SETTINGS, port=port)
            for port in free_ports(1 + _WORKERS)
        ]

    with _running("citus", home, new_nodes) as cluster:
        yield cluster


@contextmanager
def one_node_of(cluster: DatabaseServer) -> Iterator[DatabaseServer]:
    """Serve databases of a cluster's coordinator that know of no other node.

    They are what `CREATE EXTENSION citus` alone makes: the coordinator has the shards itself.
    """
    server = DatabaseServer("citus", cluster.nodes[:1], cluster.lock)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def _running(
    kind: Kind, home: Path, new_nodes: Callable[[], list[EmbeddedServer]]
) -> Iterator[DatabaseServer]:
    lock, state = home / f"{kind}.lock", home / f"{kind}.json"
    with _locked(lock):
        users, directories = json.loads(state.read_text()) if state.exists() else (0, [])
        nodes = [EmbeddedServer(directory) for directory in directories] or new_nodes()
        with ThreadPoolExecutor() as pool:
            list(pool.map(EmbeddedServer.start, nodes))
        if users == 0 and kind == "citus":
            for node in nodes:
                _allow_decoder(node.url)
        state.write_text(json.dumps((users + 1, [str(node.directory) for node in nodes])))
    server = DatabaseServer(kind, tuple(nodes), lock)
    try:
        yield server
    finally:
        server.close()
        # The last to leave stops the servers and their directories vanish: nobody may join now.
        with _locked(lock):
            users, directories = json.loads(state.read_text())
            if users == 1:
                state.unlink()
            else:
                state.write_text(json.dumps((users - 1, directories)))
            with ThreadPoolExecutor() as pool:
                list(pool.map(EmbeddedServer.stop, nodes))


@contextmanager
def _locked(path: Path | None) -> Iterator[None]:
    """Let one process in at a time."""
    if path is None:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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


def _run(engine: Engine, *statements: str) -> object:
    """Run statements on a connection that is kept; return the last one's only value, if any."""
    with engine.connect() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement)
        return result.scalar() if result.returns_rows else None


def free_ports(count: int) -> list[int]:
    """Return TCP ports that nobody listens on at the moment."""
    with ExitStack() as stack:
        # All are bound at once, so that no two are the same.
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for unused in sockets:
            unused.bind(("127.0.0.1", 0))
        return [int(unused.getsockname()[1]) for unused in sockets]
