"""The connection that rows go through: SQLAlchemy's for transactions, psycopg's for COPY.

Under `run_sync` of SQLAlchemy's asyncio the connection of psycopg is an asynchronous one. Whatever
is called on it is awaited by `_wait` and `_entered`, and nothing else in the library knows of it.
"""

from __future__ import annotations

from contextlib import contextmanager
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy.util import await_only

from citus_analytics.copy.errors import RejectedError, is_fault_of_data, may_be_from_worker
from citus_analytics.errors import ArgumentError
from citus_analytics.sql import Executor, flushed_connection, schema_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import Connection, Table

Driver: TypeAlias = "psycopg.Connection[Any] | psycopg.AsyncConnection[Any]"

# Citus leaves it to the workers to find bad JSON, and they know nothing of the source's lines.
_CHECK_JSON: Final = """
SELECT set_config('citus.skip_jsonb_validation_in_copy', 'off', true)
WHERE current_setting('citus.skip_jsonb_validation_in_copy', true) = 'on'
"""
_SKIP_CHECK_OF_JSON: Final = "SELECT set_config('citus.skip_jsonb_validation_in_copy', 'on', true)"
# What decides how a server reads times, dates and intervals.
_PINNED: Final = {"TimeZone": "UTC", "DateStyle": "ISO, YMD", "IntervalStyle": "postgres"}


def connection_of(connection: Executor, table: Table) -> Connection:
    """Return the connection itself, or that of a session for this table.

    What the session holds is flushed first, unless its autoflush is off.

    Raises:
        ArgumentError: It is neither a connection nor a session, or not on psycopg 3.
    """
    opened = flushed_connection(connection, table)
    driver_of(opened)
    return opened


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
def savepoint(connection: Connection) -> Iterator[None]:
    """Undo what the block did, and no more, if it raises."""
    driver = driver_of(connection)
    if driver.autocommit and driver.info.transaction_status is TransactionStatus.IDLE:
        # There is no transaction of the caller's for a savepoint to be in.
        with _entered(driver.transaction()):
            yield
    else:
        with connection.begin_nested():
            yield


@contextmanager
def checked_json(connection: Connection) -> Iterator[None]:
    """Let Citus check JSON where it knows the lines, until the end of the block.

    After an error this needs no undoing, because the transaction or savepoint undoes it.
    """
    changed = connection.exec_driver_sql(_CHECK_JSON).rowcount > 0
    yield
    if changed:
        connection.exec_driver_sql(_SKIP_CHECK_OF_JSON)


@contextmanager
def pinned_settings(connection: Connection) -> Iterator[None]:
    """Let a text stand for the same value on every server and in every session: times in UTC.

    `2025-01-31 12:00` is in UTC, and `01/02/2025`, of which nobody knows the month, is refused.
    After an error this needs no undoing, because the transaction or savepoint undoes it.
    """
    names = ", ".join(f"current_setting('{name}')" for name in _PINNED)
    before = connection.exec_driver_sql(f"SELECT {names}").one()
    values = ", ".join(f"set_config('{name}', %s, true)" for name in _PINNED)
    connection.exec_driver_sql(f"SELECT {values}", tuple(_PINNED.values()))
    yield
    connection.exec_driver_sql(f"SELECT {values}", tuple(before))


def copy_rows(
    connection: Connection,
    table: Table,
    file_format: str,
    blocks: Iterable[bytes],
    *,
    columns: Iterable[str] | None = None,
    header: bool = False,
) -> int:
    """Send rows to the server; return how many it has taken.

    Args:
        connection: Where the table is.
        table: Where the rows go.
        file_format: `csv` or `text`, in UTF-8.
        blocks: The rows.
        columns: What the rows have; by default all columns but generated ones, in their order.
        header: Whether a line that is not a row comes first.

    Raises:
        RejectedError: The server has received all of them and refuses them; a row may be at fault.
        psycopg.Error: The server refuses them for another reason, or the connection is lost.
    """
    into = columns_of(connection, table, columns)
    options = f"FORMAT {file_format}, ENCODING 'UTF8'{', HEADER' if header else ''}"
    statement = f"COPY {into} FROM STDIN WITH ({options})"
    driver = driver_of(connection)
    sent, failed = False, None
    try:
        with _entered(driver.cursor()) as cursor:
            with _entered(cursor.copy(statement.encode())) as copying:
                try:
                    for block in blocks:
                        _wait(copying.write(block))
                except BaseException as error:
                    failed = error
                    raise
                sent = True
            return cast("int", cursor.rowcount)
    except psycopg.Error as error:
        if sent and (is_fault_of_data(error) or may_be_from_worker(error, table)):
            raise RejectedError(error) from error
        if failed is not None and failed is not error:
            # Older releases of psycopg raise instead what the server had refused before.
            raise failed from None
        raise


def read_rows(connection: Connection, query: str) -> list[bytes]:
    """Return the rows of a query in COPY's text format, without their line ends."""
    content = bytearray()
    with (
        _entered(driver_of(connection).cursor()) as cursor,
        _entered(cursor.copy(f"COPY ({query}) TO STDOUT".encode())) as copying,
    ):
        while block := _wait(copying.read()):
            content += block
    return bytes(content).splitlines()


def columns_of(connection: Connection, table: Table, columns: Iterable[str] | None = None) -> str:
    """Return a table and its columns, without generated ones, as COPY and INSERT name them."""
    preparer = connection.dialect.identifier_preparer
    schema = schema_of(connection, table)
    name = preparer.quote(table.name)
    if schema is not None:
        name = f"{preparer.quote_schema(schema)}.{name}"
    if columns is None:
        columns = (column.name for column in table.columns if column.computed is None)
    return f"{name} ({', '.join(map(preparer.quote, columns))})"


def _wait(result: Any) -> Any:
    """Return a result, after awaiting it if it comes from an asynchronous connection."""
    return await_only(result) if isawaitable(result) else result


@contextmanager
def _entered(manager: Any) -> Iterator[Any]:
    """Enter a context manager, or an asynchronous one."""
    if hasattr(manager, "__enter__"):
        with manager as value:
            yield value
        return
    value = await_only(manager.__aenter__())
    try:
        yield value
    except BaseException as error:
        if not await_only(manager.__aexit__(type(error), error, error.__traceback__)):
            raise
    else:
        await_only(manager.__aexit__(None, None, None))
