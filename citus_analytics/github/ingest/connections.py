"""The connection that rows go through: SQLAlchemy's for transactions, psycopg's for COPY."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.util import await_only

from citus_analytics.errors import ArgumentError
from citus_analytics.sql import schema_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Table

AnySession: TypeAlias = "Connection | Session | scoped_session[Session]"
Driver: TypeAlias = "psycopg.Connection[Any] | psycopg.AsyncConnection[Any]"

# Citus leaves it to the workers to find bad JSON, and they know nothing of the source's lines.
_CHECK_JSON: Final = """
SELECT set_config('citus.skip_jsonb_validation_in_copy', 'off', true)
WHERE current_setting('citus.skip_jsonb_validation_in_copy', true) = 'on'
"""
_CHECK_JSON_NO_LONGER: Final = (
    "SELECT set_config('citus.skip_jsonb_validation_in_copy', 'on', true)"
)


class RejectedError(Exception):
    """The server had all of the data, and refused it."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.error = error


def connection_of(connection: AnySession, table: Table) -> Connection:
    """Return the connection itself, or that of the session for this table.

    Raises:
        ArgumentError: It is none of them, or not on psycopg 3.
    """
    if isinstance(connection, Session | scoped_session):
        connection = connection.connection(bind_arguments={"clause": table})
    if not isinstance(connection, Connection):
        raise ArgumentError(
            f"rows are loaded through a Connection or a Session of SQLAlchemy, not {connection!r}"
        )
    driver_of(connection)
    return connection


def driver_of(connection: Connection) -> Driver:
    """Return the connection of psycopg behind one of SQLAlchemy.

    Raises:
        ArgumentError: There is another driver behind it.
    """
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection | psycopg.AsyncConnection):
        raise ArgumentError(
            "rows are loaded through psycopg 3: make the engine with create_engine("
            f"'postgresql+psycopg://...'), this one has {connection.dialect.driver!r}"
        )
    return driver


@contextmanager
def all_or_nothing(connection: Connection) -> Iterator[None]:
    """Undo what the block did, and no more, if it raises."""
    driver = driver_of(connection)
    idle = driver.info.transaction_status is TransactionStatus.IDLE
    if driver.autocommit and idle and isinstance(driver, psycopg.Connection):
        # There is no transaction of the caller's for a savepoint to be in.
        with driver.transaction():
            yield
    else:
        with connection.begin_nested():
            yield


@contextmanager
def checked_json(connection: Connection, *, wanted: bool = True) -> Iterator[None]:
    """Let Citus check JSON where it knows the lines, until the end of the block.

    After an error this needs no undoing, because the transaction or savepoint undoes it.
    """
    changed = wanted and connection.exec_driver_sql(_CHECK_JSON).rowcount > 0
    yield
    if changed:
        connection.exec_driver_sql(_CHECK_JSON_NO_LONGER)


def copy_statement(connection: Connection, table: Table, options: str) -> bytes:
    """Return the COPY of a table's columns from the client, but for generated ones, in UTF-8."""
    into = columns_of(connection, table)
    return f"COPY {into} FROM STDIN WITH ({options}, ENCODING 'UTF8')".encode()


def columns_of(connection: Connection, table: Table) -> str:
    """Return a table and its columns, but for generated ones, as COPY and INSERT name them."""
    preparer = connection.dialect.identifier_preparer
    schema = schema_of(connection, table)
    name = preparer.quote(table.name)
    if schema is not None:
        name = f"{preparer.quote_schema(schema)}.{name}"
    given = (column.name for column in table.columns if column.computed is None)
    return f"{name} ({', '.join(map(preparer.quote, given))})"


class _Sending:
    """What became of sending data to the server: where it ended tells whose fault an error is."""

    __slots__ = ("_done", "_failed")

    def __init__(self) -> None:
        self._done = False
        self._failed: BaseException | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note how the block ends, in which the data are sent."""
        try:
            yield
        except BaseException as error:
            self._failed = error
            raise
        self._done = True

    @contextmanager
    def told(self) -> Iterator[None]:
        """Raise what the block should have raised."""
        try:
            yield
        except psycopg.Error as error:
            if self._done:
                raise RejectedError(error) from error
            if self._failed is not None and self._failed is not error:
                # Older releases of psycopg tell what the server had refused before, instead.
                raise self._failed from None
            raise


def copy(connection: Connection, statement: bytes, blocks: Iterable[bytes]) -> int:
    """Send blocks to the server; return the number of rows that it has taken.

    Raises:
        RejectedError: The server had them all and refused.
        psycopg.Error: Something went wrong earlier: with the connection, or in the caller's code.
    """
    driver = driver_of(connection)
    if isinstance(driver, psycopg.AsyncConnection):
        return await_only(_copy_async(driver, statement, blocks))
    sending = _Sending()
    with driver.cursor() as cursor, sending.told():
        with cursor.copy(statement) as copying, sending.watched():
            for block in blocks:
                copying.write(block)
        return cursor.rowcount


async def _copy_async(
    driver: psycopg.AsyncConnection[Any], statement: bytes, blocks: Iterable[bytes]
) -> int:
    sending = _Sending()
    async with driver.cursor() as cursor:
        with sending.told():
            async with cursor.copy(statement) as copying:
                with sending.watched():
                    for block in blocks:
                        await copying.write(block)
            return cursor.rowcount
