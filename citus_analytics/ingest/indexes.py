"""Indexes that are built after a first load, instead of row by row during it.

The GIN index on payloads is most of the cost of a load. Built at once it costs a part of that.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from sqlalchemy import func, literal, select
from sqlalchemy.exc import SQLAlchemyError

from citus_analytics.ingest.locks import lock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Engine, Index, Table

_MEMORY: Final = "256MB"


@contextmanager
def indexes_afterwards(engine: Engine, table: Table) -> Iterator[bool]:
    """Load into a table without its indexes, if it is empty, and build them at the end.

    Dropping them and building them are transactions of their own. A table that has rows keeps its
    indexes; those of its declaration that are missing, because a process was killed in such a
    block, are built at the end all the same. Unique indexes stay: they are promises.

    Yields:
        Whether the table was empty.
    """
    # Names in order: two that do this at once wait for each other only once.
    indexes = sorted(
        (index for index in table.indexes if not index.unique), key=lambda index: str(index.name)
    )
    with engine.begin() as connection:
        lock(connection, "indexes", table.name)
        # For EXISTS, Citus would bring the whole table to the coordinator.
        one = select(literal(1)).select_from(table).limit(1)
        empty = connection.execute(one).first() is None
        if empty:
            for index in indexes:
                index.drop(connection, checkfirst=True)
    try:
        yield empty
    except BaseException:
        # What went wrong first is what is told.
        with suppress(SQLAlchemyError):
            _build(engine, table, indexes)
        raise
    _build(engine, table, indexes)


def _build(engine: Engine, table: Table, indexes: Sequence[Index]) -> None:
    with engine.begin() as connection:
        lock(connection, "indexes", table.name)
        connection.execute(select(func.set_config("maintenance_work_mem", _MEMORY, True)))
        for index in indexes:
            index.create(connection, checkfirst=True)
