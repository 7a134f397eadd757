"""Servers, databases and assertions for the tests of an application; needs pytest.

    # conftest.py
    pytest_plugins = ["citus_analytics.testing"]


    @pytest.fixture(scope="session")
    def analytics_migrate():
        return lambda url: command.upgrade(configuration(url), "head")

Then `analytics_session`, `analytics_engine` and `analytics_database` are a session, an engine and
the address of a database of the test's own, migrated: a clone of a template, which takes a fraction
of a second. The server is a temporary one: a coordinator and two workers where a PostgreSQL of the
machine has Citus, or else a plain PostgreSQL. The processes of a run (pytest-xdist) share it:
whoever needs it first starts it, the others join it, and it stops when the last of them leaves.

A Citus database is cloned on every node; its metadata names nodes by host and port and tables by
oid, all of which are the same in a clone.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import math
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast, get_args

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, select, text
from sqlalchemy.orm import Session

from citus_analytics.cluster import explain_shape
from citus_analytics.errors import ArgumentError, RollupError, ServerError
from citus_analytics.rollups.declare import Every, Measure, Rollup, names_read, sql_of
from citus_analytics.rollups.sql import RollupSpec, TargetSpec, projection
from citus_analytics.server import Binaries, EmbeddedServer, find_binaries, installed_binaries
from citus_analytics.sql import Executor, flushed_connection, literal, qualify, quote, schema_of

try:
    import pytest
except ImportError as missing:
    raise ImportError(
        "citus_analytics.testing needs pytest, which is not installed: "
        "pip install 'citus_analytics[testing]'"
    ) from missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sqlalchemy import Executable

    from citus_analytics.cluster import Shape
    from citus_analytics.schema import TableLike

__all__ = [
    "DatabaseServer",
    "Migrate",
    "ServerKind",
    "analytics_database",
    "analytics_engine",
    "analytics_migrate",
    "analytics_server",
    "analytics_server_kind",
    "analytics_server_settings",
    "analytics_servers",
    "analytics_session",
    "assert_exact",
    "assert_pushdown",
    "assert_router",
    "citus_binaries",
    "running_server",
]

# ------------------------------------------------------------------------------------------ Servers

ServerKind: TypeAlias = Literal["postgresql", "citus", "single_node_citus"]
"""A plain PostgreSQL; a coordinator and two workers; a coordinator that has the shards itself."""

Migrate: TypeAlias = "Callable[[URL], object]"
"""What makes a template of an empty database, given its address."""

_EMPTY: Final = "empty"
_WORKERS: Final = 2
_WIDEST: Final = 300  # characters of a line of a failure
_PATIENCE: Final = 30
_COMMON_SETTINGS: Final = {
    "fsync": "off",
    # Creating a database forces checkpoints, after each of which pages would be logged in full.
    "full_page_writes": "off",
    "max_connections": "400",
    "max_wal_size": "128MB",
    "max_prepared_transactions": "100",
    "shared_buffers": "64MB",
}
_CITUS_SETTINGS: Final = {
    **_COMMON_SETTINGS,
    "citus.shard_count": "4",
    # A maintenance daemon for each database, and the workers of moving shards.
    "max_worker_processes": "64",
    "shared_preload_libraries": "citus",
    # Shards move by logical replication, which starts one subscription in so much time (and one
    # every 5 seconds by default).
    "wal_level": "logical",
    "wal_retrieve_retry_interval": "100ms",
}


def citus_binaries() -> Binaries | None:
    """Return the newest PostgreSQL of this machine that has Citus, if there is one."""
    candidates = (found for found in installed_binaries() if found.has_extension("citus"))
    return next(candidates, None)


class DatabaseServer:
    """A running server, and the databases on it.

    Attributes:
        kind: "postgresql" or "citus".
        nodes: The PostgreSQL servers: one, or the coordinator followed by the workers.
        lock: The file that the processes which share the server lock while they set it up; None
            if only this one uses it.
        templates: What makes each template that databases are cloned from, by its name; there is
            always an "empty" one.
    """

    def __init__(
        self,
        kind: Literal["postgresql", "citus"],
        nodes: tuple[EmbeddedServer, ...],
        lock: Path | None = None,
        templates: Mapping[str, Migrate] | None = None,
    ) -> None:
        self.kind: Literal["postgresql", "citus"] = kind
        self.nodes = nodes
        self.lock = lock
        self.templates = dict(templates or {})
        prefix = f"database_{os.getpid()}_{len(nodes)}"
        self._names = (f"{prefix}_{number}" for number in itertools.count(1))
        self._made: dict[str, str] = {}
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
        engine = self._engines[0]
        postgresql = f"PostgreSQL {str(_run(engine, 'SHOW server_version')).split()[0]}"
        if self.kind == "postgresql":
            return postgresql
        available = "SELECT default_version FROM pg_available_extensions WHERE name = 'citus'"
        return f"Citus {str(_run(engine, available)).split('-')[0]}, {postgresql}"

    def new_database(self, template: str = _EMPTY) -> URL:
        """Create a database with a fresh name, and return its address (on the coordinator).

        On Citus it has the extension on all nodes, which know each other, and its tables get 4
        shards unless something else is asked for.

        Args:
            template: The template that it is a clone of, which is made when it is first needed.
        """
        if template not in self._made:
            with _locked(self.lock):
                self._made[template] = self._ensure_template(template)
        name = next(self._names)
        self._create(name, self._made[template])
        return self.nodes[0].url_for(name)

    def drop_database(self, url: URL) -> None:
        """Drop a database on every node, whoever is connected to it."""
        name = cast("str", url.database)
        self._disconnect(name)
        for engine in self._engines:
            _run(engine, f"DROP DATABASE {quote(name)}")

    @contextmanager
    def database(self, template: str = _EMPTY) -> Iterator[URL]:
        """Lend a new database, and drop it at the end."""
        url = self.new_database(template)
        try:
            yield url
        finally:
            self.drop_database(url)

    @contextmanager
    def one_node(self) -> Iterator[DatabaseServer]:
        """Serve databases of a cluster's coordinator that know of no other node.

        They are what `CREATE EXTENSION citus` alone makes: the coordinator has the shards itself.
        """
        server = DatabaseServer(self.kind, self.nodes[:1], self.lock, self.templates)
        try:
            yield server
        finally:
            server.close()

    def close(self) -> None:
        """Close the connections to the nodes."""
        for engine in self._engines:
            engine.dispose()

    def _ensure_template(self, template: str) -> str:
        """Create a template, unless another process has done so; return its name."""
        name = f"template_{template}_{len(self.nodes)}"
        # A finished template has no connections, or it could not be cloned.
        finished = f"FROM pg_database WHERE datname = {literal(name)} AND NOT datallowconn"
        if _run(self._engines[0], f"SELECT count(*) {finished}") == 1:
            return name
        if _run(self._engines[0], f"SELECT count(*) {finished.replace(' AND NOT', ' AND')}") == 1:
            # What made it has failed, in this process or in another one.
            self.drop_database(self.nodes[0].url_for(name))
        if template == _EMPTY:
            self._create(name, "template1")
            self._form_cluster(name)
        else:
            self._create(name, self._ensure_template(_EMPTY))
            self.templates[template](self.nodes[0].url_for(name))
        self._disconnect(name)
        return name

    def _form_cluster(self, name: str) -> None:
        def execute(node: EmbeddedServer, *statements: str) -> None:
            url = node.url_for(name)
            _run(create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool), *statements)

        if self.kind == "citus":
            for node in self.nodes:
                execute(node, "CREATE EXTENSION citus")
        if len(self.nodes) > 1:
            coordinator, *workers = (node.url.query["port"] for node in self.nodes)
            execute(
                self.nodes[0],
                f"SELECT citus_set_coordinator_host('127.0.0.1', {coordinator})",
                *(f"SELECT citus_add_node('127.0.0.1', {port})" for port in workers),
            )

    def _create(self, name: str, template: str) -> None:
        for engine in self._engines:
            # Copying files takes half as long as logging their pages, the default.
            source = f"TEMPLATE {quote(template)} STRATEGY file_copy"
            _run(engine, f"CREATE DATABASE {quote(name)} {source}")

    def _disconnect(self, name: str) -> None:
        """Let nobody connect to a database any longer, and wait until nobody is connected."""
        sessions = f"FROM pg_stat_activity WHERE datname = {literal(name)}"
        # On every node before waiting for any: nodes, and Citus's daemons, connect to each other.
        # DROP DATABASE WITH (FORCE) instead leaves daemons that Citus starts again for ever.
        for engine in self._engines:
            _run(
                engine,
                f"ALTER DATABASE {quote(name)} ALLOW_CONNECTIONS false",
                f"SELECT pg_terminate_backend(pid) {sessions}",
            )
        deadline = time.monotonic() + _PATIENCE
        for engine in self._engines:
            # The server's own ways to wait look every 100 ms.
            while _run(engine, f"SELECT count(*) {sessions}") != 0:
                if time.monotonic() > deadline:
                    raise ServerError(f"somebody does not leave the database {name!r}.")
                time.sleep(0.002)


@contextmanager
def running_server(
    kind: ServerKind,
    home: Path,
    *,
    templates: Mapping[str, Migrate] | None = None,
    binaries: Binaries | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[DatabaseServer]:
    """Run a temporary server for a block, or join the one that another process runs.

        with (
            TemporaryDirectory() as home,
            running_server("citus", Path(home), templates={"migrated": upgrade}) as server,
            server.database("migrated") as url,
        ):
            ...

    It stops when the last of the processes that share it leaves its block.

    Args:
        kind: What to run.
        home: A directory that exists. Processes that are given the same one share the server.
        templates: What makes the templates of databases, by name.
        binaries: The PostgreSQL to run; by default the one that `find_binaries` prefers, or the
            newest that has Citus.
        settings: Further settings of PostgreSQL, for the one that starts it.

    Raises:
        ServerError: There is no such PostgreSQL, or it does not start.
    """
    binaries = binaries or (find_binaries() if kind == "postgresql" else citus_binaries())
    if binaries is None:
        raise ServerError("no PostgreSQL of this machine has the extension citus: install it.")
    lock, state = home / f"{kind}.lock", home / f"{kind}.json"
    with _locked(lock):
        users, directories = json.loads(state.read_text()) if state.exists() else (0, [])
        nodes = [EmbeddedServer(directory) for directory in directories]
        if not nodes and kind == "postgresql":
            given = {**_COMMON_SETTINGS, **(settings or {})}
            nodes = [EmbeddedServer(binaries=binaries, settings=given)]
        elif not nodes:
            given = {**_CITUS_SETTINGS, **(settings or {})}
            ports = free_ports(1 + _WORKERS if kind == "citus" else 1)
            nodes = [EmbeddedServer(binaries=binaries, settings=given, port=port) for port in ports]
        with ThreadPoolExecutor() as pool:
            list(pool.map(EmbeddedServer.start, nodes))
        if users == 0 and kind != "postgresql":
            for node in nodes:
                _allow_decoder(node.url)
        state.write_text(json.dumps((users + 1, [str(node.directory) for node in nodes])))
    known: Literal["postgresql", "citus"] = "postgresql" if kind == "postgresql" else "citus"
    server = DatabaseServer(known, tuple(nodes), lock, templates)
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
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    known = "SELECT count(*) FROM pg_settings WHERE name = 'output_plugin_libraries'"
    if _run(engine, known) == 1:
        _run(
            engine,
            "ALTER SYSTEM SET output_plugin_libraries = citus, pgoutput, test_decoding",
            "SELECT pg_reload_conf()",
        )


def _run(engine: Engine, *statements: str) -> object:
    """Run statements; return the last one's only value, if any."""
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


# ----------------------------------------------------------------------------------------- Fixtures


@pytest.fixture(scope="session")
def analytics_migrate() -> Migrate:
    """What migrates a database, given its address: override it. By default databases are empty."""
    return lambda url: None  # noqa: ARG005


@pytest.fixture(scope="session")
def analytics_server_kind() -> ServerKind | Literal["auto"]:
    """The server to test on: "auto" is a cluster where there is Citus, or else PostgreSQL."""
    return "auto"


@pytest.fixture(scope="session")
def analytics_server_settings() -> Mapping[str, str]:
    """Further settings of PostgreSQL, such as `{"citus.shard_count": "8"}`: override it."""
    return {}


@pytest.fixture(scope="session")
def analytics_servers(
    tmp_path_factory: pytest.TempPathFactory,
    analytics_migrate: Migrate,
    analytics_server_settings: Mapping[str, str],
) -> Iterator[Callable[[str], DatabaseServer]]:
    """What returns the server of a kind, started once a run. Skips where there is no Citus."""
    home = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        # That of a process is below the one that they have in common.
        home = home.parent
    started: dict[str, DatabaseServer] = {}
    with ExitStack() as stack:

        def server(kind: str) -> DatabaseServer:
            if kind not in ("auto", *get_args(ServerKind)):
                raise ArgumentError(
                    f"a server is 'auto', {', '.join(map(repr, get_args(ServerKind)))}; "
                    f"found {kind!r}"
                )
            binaries = None if kind == "postgresql" else citus_binaries()
            if kind == "auto":
                kind = "postgresql" if binaries is None else "citus"
            elif kind != "postgresql" and binaries is None:
                pytest.skip("no PostgreSQL of this machine has the extension citus")
            if kind not in started:
                running = running_server(
                    cast("ServerKind", kind),
                    home,
                    templates={"migrated": analytics_migrate},
                    binaries=binaries,
                    settings={
                        name: value
                        for name, value in analytics_server_settings.items()
                        if kind != "postgresql" or not name.startswith("citus.")
                    },
                )
                started[kind] = stack.enter_context(running)
            return started[kind]

        yield server


@pytest.fixture
def analytics_server(
    request: pytest.FixtureRequest,
    analytics_servers: Callable[[str], DatabaseServer],
    analytics_server_kind: str,
) -> DatabaseServer:
    """The server of a test: of `analytics_server_kind`, or of the kind that it is given.

    A test, or a module with `pytestmark`, chooses servers by
    `@pytest.mark.parametrize("analytics_server", ["postgresql", "citus"], indirect=True)`.
    """
    return analytics_servers(getattr(request, "param", analytics_server_kind))


@pytest.fixture
def analytics_database(analytics_server: DatabaseServer) -> Iterator[URL]:
    """The address of a new, migrated database, which is dropped after the test."""
    with analytics_server.database("migrated") as url:
        yield url


@pytest.fixture
def analytics_engine(analytics_database: URL) -> Engine:
    """An engine on `analytics_database` that keeps no connections."""
    return create_engine(analytics_database, poolclass=NullPool)


@pytest.fixture
def analytics_session(analytics_engine: Engine) -> Iterator[Session]:
    """A session on `analytics_database`; what the test does not commit is rolled back."""
    with Session(analytics_engine) as session:
        yield session


# --------------------------------------------------------------------------------------- Assertions


def assert_pushdown(
    session: Executor,
    statement: Executable | TableLike | str,
    parameters: Mapping[str, Any] | None = None,
) -> Shape:
    """Fail unless Citus executes a statement beside the data, whatever it is over.

    It passes for a statement that is sent to one node, that several shards execute at once, or that
    needs reference tables alone. It fails with the shape and an outline of the plan where rows are
    sent from shard to shard or through the coordinator, where Citus refuses the statement, and
    where no table in it is distributed. On a database without Citus there is nothing to assert, and
    it skips the test rather than let it pass: give shapes tests of their own.

    Args:
        session: A session or connection.
        statement: The statement, which is not executed; see `citus_analytics.explain_shape`.
        parameters: Values of bound parameters by name.

    Returns:
        The shape.

    Raises:
        AssertionError: It does not.
    """
    __tracebackhide__ = True
    shape = explain_shape(session, statement, parameters)
    return _require(shape, ("router", "pushdown", "reference"), "pushed down to the shards")


def assert_router(
    session: Executor,
    statement: Executable | TableLike | str,
    parameters: Mapping[str, Any] | None = None,
) -> Shape:
    """Fail unless Citus sends a statement as a whole to one node; see `assert_pushdown`.

    Raises:
        AssertionError: It does not.
    """
    __tracebackhide__ = True
    shape = explain_shape(session, statement, parameters)
    return _require(shape, ("router",), "sent to one node")


def _require(shape: Shape, kinds: tuple[str, ...], wanted: str) -> Shape:
    __tracebackhide__ = True
    if shape.kind == "not_distributed":
        pytest.skip("the database does not have Citus: nothing is pushed down")
    if shape.kind not in kinds:
        lines = _shortened(str(shape).splitlines(), 12)
        if shape.plan is not None:
            outline = (f"  {line}" for line in _outline(shape.plan))
            lines += [
                "Its plan, of which explain_shape(...).plan has all:",
                *_shortened(outline, 12),
            ]
        raise AssertionError("\n".join([f"the statement is not {wanted}.", *lines]))
    return shape


def _outline(plan: Any, depth: int = 0) -> Iterator[str]:
    """Yield the nodes of a plan, each with what it is on, those of the shards included."""
    if isinstance(plan, list):
        for part in plan:
            yield from _outline(part, depth)
    elif isinstance(plan, dict):
        if "Node Type" in plan:
            of = plan.get("Custom Plan Provider")
            on = plan.get("Relation Name") or plan.get("Function Name") or plan.get("CTE Name")
            what = f"{plan['Node Type']}{f' ({of})' if of else ''}{f' on {on}' if on else ''}"
            yield f"{'  ' * depth}{what}"
            depth += 1
        for part in plan.values():
            yield from _outline(part, depth)


def _shortened(lines: Iterable[str], most: int) -> list[str]:
    """Return as many lines as somebody reads who looks for what has failed."""
    given = list(lines)
    shown = [
        line if len(line) <= _WIDEST else f"{line[:200]} ... {line[-100:]}" for line in given[:most]
    ]
    return shown if len(given) <= most else [*shown, f"  ... {len(given) - most} lines more"]


def assert_exact(session: Executor, rollup: Rollup) -> None:
    """Fail unless a rollup equals its source, by PostgreSQL's own aggregates.

    For each width of its buckets, the fresh view must equal the aggregate of the raw rows, and the
    tables that of the raw rows without the changes that are pending. Nothing of the engine's own
    verification is used. The rows are compared in Python, while nobody else may write or run: this
    is for tests, and `citus_analytics.rollups.run.verify` for everything else.

    Sums, counts, extremes and distinct values are compared exactly; averages and what is computed
    from floats to nine digits; percentiles within the 1 % and approximate distinct values within
    the 12 % that they promise. While changes are pending, these two are compared in the fresh view
    alone.

    Args:
        session: A session or connection; a session is flushed first.
        rollup: The rollup.

    Raises:
        AssertionError: They differ.
        RollupError: The database has no such rollup, it is not complete, or raw rows have been
            expired, so that there is nothing to compare with.
    """
    __tracebackhide__ = True
    connection = flushed_connection(session, rollup.source)
    schema = schema_of(connection, rollup.source)
    state = qualify(f"{rollup.source.name}_rollups", schema)
    comment = connection.scalar(
        text("SELECT obj_description(to_regclass(:state), 'pg_class')"), {"state": state}
    )
    spec = None if comment is None else RollupSpec.read(comment, schema=schema)
    for width, table in rollup.targets.items():
        target = next((t for t in spec.targets if t.table == table.name), None) if spec else None
        if spec is None or target is None:
            raise RollupError(f"the database has no rollup {rollup.name!r}: migrate it first.")
        known = connection.execute(
            text(
                f"SELECT complete_since = '-infinity' AS complete, horizon FROM {state} "  # noqa: S608
                "WHERE target = :target"
            ),
            {"target": table.name},
        ).one()
        if not known.complete or known.horizon is not None:
            why = "is not complete" if not known.complete else "has had raw rows expired"
            raise RollupError(f"{table.name} {why}: there is nothing to compare it with.")
        pending = connection.scalar(
            text(f"SELECT count(*) > 0 FROM {qualify(spec.log, schema)}")  # noqa: S608
        )
        every = None if width is None else str(width)
        group = [*([rollup.bucket] if width is not None else []), *rollup.dimensions]
        for fresh in (True, False):
            if fresh:
                view = rollup.fresh(every)
                statement: Any = select(*view.c)
                names = [column.name for column in view.c if column.name not in group]
            else:
                names = [
                    name
                    for label, (measure, value) in rollup.measures.items()
                    if not pending or _column_of(rollup, spec, measure, value) is not None
                    for name in (names_read(label, measure) if measure.fractions else [label])
                ]
                statement = rollup.select(
                    by=[*rollup.dimensions],
                    measures=names,
                    every=every,
                    freshness="rolled_up",
                )
            expected = _aggregates(
                connection,
                _raw_query(rollup, spec, target, width, minus_log=bool(pending) and not fresh),
                group,
            )
            found = _aggregates(connection, statement, group)
            if not group and not any(row.get(n) for row in found.values() for n in names):
                # No rows are no group, or one of nothing.
                found = {key: row for key, row in found.items() if key in expected}
            what = f"{table.name}_fresh" if fresh else table.name
            raw = "the raw rows" if fresh else "the raw rows without what is pending"
            _compare(what, raw, group, names, rollup, expected, found)


def _column_of(rollup: Rollup, spec: RollupSpec, measure: Measure, value: Any) -> str | None:
    """Return the column of the log that a measure can be computed from, None if there is none."""
    if value is None:
        return "n"
    if measure.aggregate == "percentiles" or measure.approximate:
        return None
    sql = sql_of(rollup.source, value)
    found = [name for name, meaning in spec.columns.items() if meaning == sql]
    # An abbreviated text is as distinct as the whole one.
    found += [name for name, meaning in spec.columns.items() if f"ELSE {sql} END" in meaning]
    if not found and spec.key is not None and sql == f"r.{quote(spec.key)}":
        return "key"
    return found[0] if found else None


def _raw_query(
    rollup: Rollup, spec: RollupSpec, target: TargetSpec, width: Every | None, *, minus_log: bool
) -> Any:
    """Return the aggregate of the raw rows, or of those without what is in the log."""
    logged = [name for name, _ in projection(spec)]
    raw = [f"{sql} AS {name}" for name, sql in projection(spec)]
    measures: dict[str, str] = {}
    for number, (label, (measure, value)) in enumerate(rollup.measures.items()):
        if value is None:
            measures[label] = "*"
            continue
        column = _column_of(rollup, spec, measure, value)
        if not minus_log:
            # The value itself, and nothing that is made of it for the log.
            measures[label] = f"_m{number}"
            raw.append(f"{sql_of(rollup.source, value)} AS _m{number}")
        elif column is not None:
            measures[label] = quote(column)
    source = qualify(spec.source, spec.schema)
    rows = f"SELECT {', '.join(raw)}, 1 AS n FROM {source} AS r"  # noqa: S608
    if minus_log:
        # A row that has come since the last run was not there then, and one that has gone was.
        log = qualify(spec.log, spec.schema)
        rows = (
            f"SELECT {', '.join(logged)}, sum(n) AS n FROM ({rows} UNION ALL "  # noqa: S608
            f"SELECT {', '.join(logged)}, -n FROM {log}) AS every_row "
            f"GROUP BY {', '.join(logged)} HAVING sum(n) <> 0"
        )
    groups = [
        f"{quote(column)} AS {quote(name)}"
        for name, column in target.by.items()
        if name in rollup.dimensions
    ]
    if width is not None:
        start = (
            f"date_bin('{width.seconds} seconds', at, '1970-01-01 00:00:00+00')"
            if width.seconds is not None
            else f"date_trunc({literal(str(width.unit))}, at, {literal(str(width.zone))})"
        )
        groups.append(f"{start} AS {quote(rollup.bucket)}")
    columns = [*groups]
    for label, (measure, value) in rollup.measures.items():
        if label not in measures:
            continue
        of, kind = measures[label], measure.aggregate
        if kind in ("sum", "avg", "var_samp", "stddev_samp") and value is not None:
            # As exact decimals, of which no order changes the sum.
            of += "::numeric" if value.type.python_type is float else ""
        if kind == "percentiles":
            columns += (
                f"percentile_disc({fraction}) WITHIN GROUP (ORDER BY {of})::float8 AS {quote(name)}"
                for name, fraction in names_read(label, measure).items()
            )
        elif kind == "distinct":
            columns.append(f"count(DISTINCT {of}) AS {quote(label)}")
        else:
            columns.append(f"{kind}({of}) AS {quote(label)}")
    conditions = ["true"]
    if target.where is not None:
        conditions.append(quote(target.where))
    if width is not None and not rollup.undated:
        conditions.append("at IS NOT NULL")
    query = (
        f"WITH each_row AS MATERIALIZED ({rows}) SELECT {', '.join(columns)} "  # noqa: S608
        f"FROM each_row, generate_series(1, n::bigint) WHERE {' AND '.join(conditions)}"
    )
    if groups:
        query += f" GROUP BY {', '.join(str(place + 1) for place in range(len(groups)))}"
    else:
        query += " HAVING count(*) > 0"
    return text(query.replace(":", "\\:"))


def _aggregates(
    connection: Connection, statement: Any, group: Sequence[str]
) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Return the rows of a statement by their groups."""
    rows = [dict(row) for row in connection.execute(statement).mappings()]

    def hashable(value: Any) -> Any:
        return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value

    return {tuple(hashable(row[name]) for name in group): row for row in rows}


def _compare(
    what: str,
    raw: str,
    group: Sequence[str],
    names: Sequence[str],
    rollup: Rollup,
    expected: Mapping[tuple[Any, ...], Mapping[str, Any]],
    found: Mapping[tuple[Any, ...], Mapping[str, Any]],
) -> None:
    """Fail with the first groups that differ."""
    __tracebackhide__ = True
    tolerance: dict[str, float] = {}
    for label, (measure, value) in rollup.measures.items():
        for name in names_read(label, measure) if measure.fractions else [label]:
            if measure.fractions:
                tolerance[name] = 0.0101
            elif measure.approximate:
                tolerance[name] = 0.12
            elif measure.aggregate in ("avg", "var_samp", "stddev_samp") or (
                value is not None and value.type.python_type is float
            ):
                tolerance[name] = 1e-9

    def same(name: str, left: Any, right: Any) -> bool:
        if left == right or left is None or right is None or name not in tolerance:
            # NaN is what it is.
            return bool(left == right) or str(left) == str(right) == "NaN"
        left, right = float(left), float(right)
        slack = 1.0 if tolerance[name] == 0.12 else 1e-12
        return (math.isnan(left) and math.isnan(right)) or math.isclose(
            left, right, rel_tol=tolerance[name], abs_tol=slack
        )

    def shown(value: Any) -> str:
        return str(value) if isinstance(value, Decimal | int | float) else repr(value)

    differences = []
    for key in [*expected, *(key for key in found if key not in expected)]:
        want, got = expected.get(key), found.get(key)
        place = ", ".join(f"{n}={v!s}" for n, v in zip(group, key, strict=True)) or "all rows"
        if want is None or got is None:
            differences.append(
                f"{place}: the rollup has no such group"
                if got is None
                else f"{place}: {raw} have no such group"
            )
            continue
        wrong = [
            f"{name} is {shown(got[name])}, and {shown(want[name])} in {raw}"
            for name in names
            if not same(name, got[name], want[name])
        ]
        if wrong:
            differences.append(f"{place}: {'; '.join(wrong)}")
    if differences:
        listed = "\n".join(_shortened((f"  {each}" for each in differences), 5))
        number = f"{len(differences)} group{'s' if len(differences) > 1 else ''}"
        raise AssertionError(
            f"{what} of rollup {rollup.name!r} differs from {raw} in {number}:\n{listed}"
        )
