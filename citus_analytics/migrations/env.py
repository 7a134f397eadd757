"""Running the built-in migrations, from Python and inside Alembic's environment.

The migrations live in `alembic/` at the top of the repository and travel inside the package, as
`citus_analytics:_alembic`, so that an installed package can migrate a database without a checkout.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic import command, context
from alembic.config import Config
from alembic.script.revision import ResolutionError
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine, make_url, pool, text
from sqlalchemy.exc import ArgumentError as URLError

from citus_analytics.errors import ArgumentError, CitusAnalyticsError, OperationError
from citus_analytics.migrations.autogenerate import plugins

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import URL, MetaData

    from citus_analytics.migrations.operations import Policy

_LOCK = text("SELECT pg_advisory_xact_lock(hashtext('citus_analytics'), hashtext('migrations'))")
_SCRIPTS = Path(__file__).parent.parent / "_alembic"


def database_url(url: str | URL) -> URL:
    """Return `url` for the psycopg driver.

    `postgres://`, `postgresql://` and `postgresql+psycopg://` are all accepted.

    Raises:
        ArgumentError: It is no URL, or one of another database or driver.
    """
    try:
        parsed = make_url(url)
    except (URLError, ValueError) as error:  # A port that is no number is a ValueError.
        raise ArgumentError(
            "the database URL cannot be read; it looks like "
            "postgresql://user:password@host:5432/database."
        ) from error
    if parsed.drivername not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise ArgumentError(
            f"the database URL must start with postgresql://, got {parsed.drivername}://."
        )
    return parsed.set(drivername="postgresql+psycopg")


def configuration(target: str | URL | Connection, *, citus: Policy = "auto") -> Config:
    """Return the Alembic configuration of the built-in migrations, for `alembic.command`.

    Args:
        target: The database, or a connection to it whose transaction the migrations join.
        citus: What happens on a server without Citus; see `citus_analytics.migrations.operations`.
    """
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["citus"] = citus
    if isinstance(target, Connection):
        config.attributes["connection"] = target
    else:
        config.attributes["url"] = database_url(target)
    return config


def upgrade(
    target: str | URL | Connection, revision: str = "head", *, citus: Policy = "auto"
) -> None:
    """Migrate a database up to `revision`, in one transaction.

    Given a connection, the migrations run in the caller's transaction and nothing is committed.

    Raises:
        ArgumentError: `target` is no PostgreSQL URL.
        OperationError: `citus` is `require` and the server has no Citus; or the database, or the
            caller, names a revision that is not one of ours.
    """
    with _explained():
        command.upgrade(configuration(target, citus=citus), revision)


def downgrade(
    target: str | URL | Connection, revision: str = "base", *, citus: Policy = "auto"
) -> None:
    """Migrate a database down to `revision`, in one transaction; `base` leaves nothing.

    Given a connection, the migrations run in the caller's transaction and nothing is committed.

    Raises:
        ArgumentError: `target` is no PostgreSQL URL.
        OperationError: The database, or the caller, names a revision that is not one of ours.
    """
    with _explained():
        command.downgrade(configuration(target, citus=citus), revision)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except CommandError as error:
        if not isinstance(error.__cause__, ResolutionError):
            raise
        raise OperationError(
            f"{error}: it is not one of the built-in migrations. If the database's own revision is "
            "meant, the table alembic_version is that of another application: let its Alembic "
            "environment run the built-in migrations too, through version_locations."
        ) from error


def run_environment(metadata: MetaData | Sequence[MetaData], **options: Any) -> None:
    """Run the migrations that Alembic asks for; the whole of an `env.py`.

    `options` are further arguments of Alembic's `context.configure`, such as `include_schemas=True`
    for tables in more than one schema.

    The database is the connection that `configuration` was given, `-x url=` of the command line,
    the URL that `configuration` was given, or `DATABASE_URL`, in this order. `-x citus=` is the
    policy for servers without Citus.

    Raises:
        ArgumentError: No database is named, or its URL cannot be read.
        CommandError: The same, or any other error of ours, on Alembic's command line, which prints
            it in a line.
    """
    try:
        _run_environment({"target_metadata": metadata, **options})
    except CitusAnalyticsError as error:
        if context.config.cmd_opts is None:
            raise
        raise CommandError(str(error)) from error


def _run_environment(options: dict[str, Any]) -> None:
    attributes = context.config.attributes
    arguments = context.get_x_argument(as_dictionary=True)
    options["citus"] = arguments.get("citus", attributes.get("citus", "auto"))
    if context.is_offline_mode():
        context.configure(
            dialect_name="postgresql",
            literal_binds=True,
            # Named parameters leave the per cent signs of function bodies as they are.
            dialect_opts={"paramstyle": "named"},
            **options,
        )
        with context.begin_transaction():
            context.run_migrations()
        return
    connection: Connection | None = attributes.get("connection")
    if connection is not None:
        if getattr(connection.connection.driver_connection, "autocommit", False):
            raise ArgumentError(
                "migrations run in one transaction, and this connection is in AUTOCOMMIT, which "
                "has none: pass another connection, or the URL."
            )
        if not connection.in_transaction():
            # Alembic commits a transaction that it has begun; this one is the caller's.
            connection.begin()
        _migrate(connection, options)
        return
    url = arguments.get("url") or attributes.get("url") or os.environ.get("DATABASE_URL")
    if not url:
        raise ArgumentError(
            "no database to migrate: set DATABASE_URL, or give alembic -x url=postgresql://..."
        )
    engine = create_engine(database_url(url), poolclass=pool.NullPool)
    with engine.connect() as connection:
        _migrate(connection, options)


def _migrate(connection: Connection, options: dict[str, Any]) -> None:
    context.configure(connection=connection, **{"autogenerate_plugins": plugins(), **options})
    with context.begin_transaction():
        # One after the other, when several processes of an application start at once.
        connection.execute(_LOCK)
        context.run_migrations()
