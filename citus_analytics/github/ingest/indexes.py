"""Indexes that are built after a first load, instead of row by row during it.

The GIN index on payloads is most of the cost of a load. Built at once it costs a part of that.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from sqlalchemy import inspect, literal, select
from sqlalchemy.exc import NoSuchTableError, OperationalError, SQLAlchemyError

from citus_analytics.github.ingest.locks import BUSY, PATIENCE, lock, set_local
from citus_analytics.sql import logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy import Engine, Index, Table
    from sqlalchemy.engine.interfaces import ReflectedIndex

_MEMORY: Final = "256MB"


@contextmanager
def indexes_afterwards(engine: Engine, table: Table) -> Iterator[bool]:
    """Load into a table without its indexes, if it is empty, and build them at the end.

    Dropping them and building them are transactions of their own. A table that has rows, or that
    somebody else writes to, keeps its indexes; those of its declaration that are missing, because a
    process was killed in such a block, are built at the end all the same. Unique indexes stay: they
    are promises. Of several such blocks at once, one comes after the other.

    Yields:
        Whether the indexes were dropped.
    """
    # A set has no order of its own.
    indexes = sorted(
        (index for index in table.indexes if not index.unique), key=lambda index: str(index.name)
    )
    with engine.connect() as keeper:
        lock(keeper, "indexes", table.name)
        dropped = _drop(engine, table, indexes)
        try:
            yield dropped
        except BaseException:
            # What went wrong first is what is told.
            with suppress(SQLAlchemyError):
                _build(engine, indexes)
            raise
        _build(engine, indexes)


@contextmanager
def indexes_as_they_are(engine: Engine, table: Table) -> Iterator[None]:
    """Load into a table with the indexes that it has, and tell of declared ones that it lacks."""
    with suppress(NoSuchTableError), engine.connect() as connection:
        _warn_of_missing(table, inspect(connection).get_indexes(table.name, table.schema))
    yield


def _warn_of_missing(table: Table, indexes: Iterable[ReflectedIndex]) -> None:
    found = {index["name"] for index in indexes}
    missing = sorted(str(index.name) for index in table.indexes if index.name not in found)
    if missing:
        logger().warning(
            "Table %s lacks its indexes %s, as after a load with indexes_later (--indexes-later) "
            "that was killed. Load with it once more, and they are built at the end.",
            table.name,
            ", ".join(missing),
        )


def _drop(engine: Engine, table: Table, indexes: Sequence[Index]) -> bool:
    try:
        with engine.begin() as connection:
            # For EXISTS, Citus would bring the whole table to the coordinator.
            one = select(literal(1)).select_from(table).limit(1)
            if connection.execute(one).first() is not None:
                return False
            set_local(connection, "lock_timeout", PATIENCE)
            for index in indexes:
                index.drop(connection, checkfirst=True)
    except OperationalError as error:
        if not isinstance(error.orig, BUSY):
            raise
        return False
    return True


def _build(engine: Engine, indexes: Sequence[Index]) -> None:
    waiting = list(indexes)
    while waiting:
        try:
            with engine.begin() as connection:
                set_local(connection, "maintenance_work_mem", _MEMORY)
                set_local(connection, "lock_timeout", PATIENCE)
                waiting[0].create(connection, checkfirst=True)
        except OperationalError as error:
            if not isinstance(error.orig, BUSY):
                raise
        else:
            del waiting[0]
