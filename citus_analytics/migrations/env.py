"""The environment of migrations: where they run, one after the other, in which mode."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import context
from alembic.util import CommandError, coerce_resource_to_filename, to_tuple
from sqlalchemy import Connection, create_engine, event, make_url, pool, text
from sqlalchemy.exc import ArgumentError as URLError

from citus_analytics.errors import ArgumentError, CitusAnalyticsError
from citus_analytics.migrations.compare import plugins
from citus_analytics.sql import on_citus, sequential

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alembic.operations.ops import MigrationScript
    from sqlalchemy import URL, MetaData


def database_url(url: str | URL) -> URL:
    """Return `url` for the psycopg driver.

    `postgres://`, `postgresql://` and `postgresql+psycopg://` are all accepted.

    Raises:
        ArgumentError: It cannot be read, or is the URL of another database or driver.
    """
    try:
        parsed = make_url(url)
    except (URLError, ValueError) as error:  # A port that is not a number is a ValueError.
        raise ArgumentError(
            "the database URL cannot be read; it looks like "
            "postgresql://user:password@host:5432/database."
        ) from error
    if parsed.drivername not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise ArgumentError(
            f"the database URL must start with postgresql://, got {parsed.drivername}://."
        )
    return parsed.set(drivername="postgresql+psycopg")


def run_environment(metadata: MetaData | Sequence[MetaData], **options: Any) -> None:
    """Run the migrations that Alembic asks for; the whole of an `env.py`.

    `options` are further arguments of Alembic's `context.configure`, such as `include_schemas=True`
    for tables in more than one schema.

    The database is the connection that `configuration` was given, `-x url=` of the command line,
    the URL that `configuration` was given, or `DATABASE_URL`, in this order. `-x citus=` is the
    policy for servers without Citus.

    Processes that migrate one database at the same time do so one after the other.

    On Citus each transaction is in sequential mode from its start, so that any operations can stand
    in one migration, and any migrations can run in one transaction. A migration that updates many
    rows is faster after `op.set_multi_shard_modify_mode("parallel")`, alone in its transaction.

    A new revision of an application that also has the built-in ones among its `version_locations`
    goes into the first folder of its own, follows its own last revision, and depends on the last
    built-in one, unless Alembic is told otherwise.

    Raises:
        ArgumentError: No database is named, or its URL cannot be read; or a new revision is to be
            written into the installed package.
        CommandError: The same, or any other `CitusAnalyticsError`, when Alembic's command line is
            running, which prints it in a line.
    """
    attributes = context.config.attributes
    arguments = context.get_x_argument(as_dictionary=True)
    directives = options.get("process_revision_directives")

    def process(migration: Any, revision: Any, scripts: list[MigrationScript]) -> None:
        if directives is not None:
            directives(migration, revision, scripts)
        for each in scripts:
            _keep_out_of_the_package(each)

    options = {
        "target_metadata": metadata,
        **options,
        "process_revision_directives": process,
    }
    try:
        if context.is_offline_mode():
            context.configure(
                dialect_name="postgresql",
                literal_binds=True,
                # Named parameters leave the per cent signs of function bodies as they are.
                dialect_opts={"paramstyle": "named"},
                **options,
            )
            impl = context.get_context().impl
            begin = impl.emit_begin

            def begin_sequential() -> None:
                begin()
                impl.static_output(f"{_SEQUENTIAL};")

            # Alembic has no event for the start of a transaction in a script.
            impl.emit_begin = begin_sequential  # type: ignore[method-assign]
            with context.begin_transaction():
                context.run_migrations()
            return
        options = {"autogenerate_plugins": plugins(), **options}
        connection: Connection | None = attributes.get("connection")
        if connection is not None:
            _migrate_in_transaction_of(connection, options)
            return
        url = arguments.get("url") or attributes.get("url") or os.environ.get("DATABASE_URL")
        if not url:
            raise ArgumentError(
                "no database to migrate: set DATABASE_URL, or give alembic -x url=postgresql://..."
            )
        engine = create_engine(
            database_url(url),
            poolclass=pool.NullPool,
            # A prepared statement stays with one connection to the server, and behind PgBouncer in
            # transaction mode the next transaction may get another one.
            connect_args={"prepare_threshold": None},
        )
        # The lock is in a transaction of its own, on a connection of its own: a migration may
        # commit on its way, as autocommit_block() does, and would lose a lock of its transaction.
        # READ COMMITTED keeps no snapshot, which CREATE INDEX CONCURRENTLY would wait for.
        guarded = engine.execution_options(isolation_level="READ COMMITTED")
        with guarded.connect() as guard:
            guard.execute(_NO_TIMEOUTS)
            guard.execute(_LOCK)
            with engine.connect() as connection:
                sequential_transactions(connection)
                context.configure(connection=connection, **options)
                with context.begin_transaction():
                    context.run_migrations()
    except CitusAnalyticsError as error:
        if context.config.cmd_opts is None:
            raise
        raise CommandError(str(error)) from error


def _keep_out_of_the_package(new: MigrationScript) -> None:
    """Give a revision a place of the application's own: Alembic takes that of the last head.

    Raises:
        ArgumentError: Alembic was told to write it into the installed package.
    """
    scripts = context.script
    package = (Path(__file__).parents[1] / "_alembic").resolve()

    def of_package(path: str | Path) -> bool:
        return Path(path).resolve().is_relative_to(package)

    places = [
        Path(coerce_resource_to_filename(place)).absolute()
        for place in scripts.version_locations or [scripts.versions]
    ]
    own = [place for place in places if not of_package(place)]
    if new.version_path is not None:
        if own and of_package(new.version_path):
            raise ArgumentError(
                f"{new.version_path} is a folder of the package citus_analytics, where the next "
                "installation would delete the revision: give --version-path a folder of your own, "
                f"such as {own[0]}."
            )
        return
    if not own or len(own) == len(places):
        return
    built_in, heads = list[str](), list[str]()
    for each in scripts.get_revisions("heads"):
        (built_in if of_package(each.path) else heads).append(each.revision)
    if new.head == "head":
        if len(heads) > 1:
            # Alembic says that one has to be named.
            return
        new.head = heads[0] if heads else "base"
        if not new.depends_on:
            every = scripts.walk_revisions()
            known = {on for each in every for on in to_tuple(each.dependencies, default=())}
            new.depends_on = [each for each in built_in if each not in known] or None
    # Alembic takes the folder of the first of these.
    followed = scripts.get_revisions(new.head or "base")
    if followed and not of_package(followed[0].path):
        return
    new.version_path = str(own[0])


_LOCK = text("SELECT pg_advisory_xact_lock(hashtext('citus_analytics'), hashtext('migrations'))")

_NO_TIMEOUTS = text(
    "SELECT set_config(name, '0', true) FROM pg_catalog.pg_settings "
    "WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')"
)

# Once Citus has used several connections to a node in a transaction, as it does for CREATE INDEX on
# a distributed table, it refuses some commands until the transaction ends: foreign keys to
# reference tables, new distributed tables, functions. This has to come before both.
_SEQUENTIAL = on_citus(sequential())


def sequential_transactions(connection: Connection) -> None:
    """Begin every transaction of a connection in Citus's sequential mode, from now on.

    For an `env.py` that does not call `run_environment`. Call it with the connection that
    `context.configure` gets, before anything is executed.
    """
    # Also those that autocommit_block() begins at its end.
    event.listen(connection, "begin", _make_sequential)


def _make_sequential(connection: Connection) -> None:
    connection.exec_driver_sql(_SEQUENTIAL)


def _migrate_in_transaction_of(connection: Connection, options: dict[str, Any]) -> None:
    if getattr(connection.connection.driver_connection, "autocommit", False):
        raise ArgumentError(
            "migrations run in one transaction, and this connection is in AUTOCOMMIT, which "
            "has none: pass another connection, or the URL."
        )
    if not connection.in_transaction():
        # Alembic commits a transaction that it has begun; this one is the caller's.
        connection.begin()
    context.configure(connection=connection, **options)
    _make_sequential(connection)
    with context.begin_transaction():
        connection.execute(_LOCK)
        context.run_migrations()
