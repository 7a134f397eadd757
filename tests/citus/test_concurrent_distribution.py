"""A table that is written to becomes distributed, and no writer waits for long or loses a row."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from citus_analytics.migrations import (
    AlterDistributedTableOp,
    CreateDistributedTableConcurrentlyOp,
    UndistributeTableOp,
)
from tests.operations import rows
from tests.servers import ON_CITUS_ONLY

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

    from tests.servers import DatabaseServer

pytestmark = [ON_CITUS_ONLY, pytest.mark.faults]

WRITERS = 3


class Writer(threading.Thread):
    """Someone who inserts, updates and deletes, one row after the other.

    Attributes:
        kept: The ids of the rows that are to be there at the end.
    """

    def __init__(self, engine: Engine, number: int, end: threading.Event) -> None:
        super().__init__(daemon=True)
        self.kept: list[int] = []
        self._engine = engine
        self._ids = range(1_000_000 * number, 1_000_000 * (number + 1))
        self._end = end

    def run(self) -> None:
        """Write until the end."""
        with self._engine.connect() as connection:
            for row in self._ids:
                if self._end.is_set():
                    return
                try:
                    connection.execute(text("INSERT INTO clicks VALUES (:id, 0)"), {"id": row})
                    connection.execute(text("UPDATE clicks SET n = 1 WHERE id = :id"), {"id": row})
                    if row % 3 == 0:
                        connection.execute(text("DELETE FROM clicks WHERE id = :id"), {"id": row})
                    connection.commit()
                except DBAPIError:
                    # Its shards have been made anew, or the table has left this node.
                    connection.rollback()
                    continue
                if row % 3:
                    self.kept.append(row)


def test_writers_go_on(empty_database: URL) -> None:
    engine = create_engine(empty_database, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE clicks (id bigint PRIMARY KEY, n int)"))
        connection.execute(text("INSERT INTO clicks SELECT -i, 1 FROM generate_series(1, 50000) i"))
    end = threading.Event()
    writers = [Writer(engine, number, end) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    try:
        while not all(writer.kept for writer in writers):
            time.sleep(0.01)
        written = [len(writer.kept) for writer in writers]
        distribute(engine)
        during = [len(writer.kept) - n for writer, n in zip(writers, written, strict=True)]
    finally:
        end.set()
        for writer in writers:
            writer.join()
    assert min(during) > 10, "writers have waited"
    expected = sorted([*range(-50_000, 0), *(row for writer in writers for row in writer.kept)])
    with engine.connect() as connection:
        found = rows(connection, "SELECT id FROM clicks WHERE n = 1 ORDER BY id")
        assert [row for (row,) in found] == expected
        kind = "SELECT citus_table_type FROM citus_tables WHERE table_name = 'clicks'::regclass"
        assert rows(connection, kind) == [("distributed",)]


def distribute(engine: Engine) -> None:
    """Distribute the table as a migration does."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        with context.begin_transaction(), context.autocommit_block():
            Operations(context).invoke(CreateDistributedTableConcurrentlyOp("clicks", "id"))


@pytest.mark.parametrize(
    "operation",
    [AlterDistributedTableOp("clicks", shard_count=6), UndistributeTableOp("clicks")],
    ids=["alter_distributed_table", "undistribute_table"],
)
def test_what_is_written_through_workers_is_kept(
    server: DatabaseServer,
    empty_database: URL,
    operation: AlterDistributedTableOp | UndistributeTableOp,
) -> None:
    """Citus's own functions lose it: they keep out the writers of the coordinator alone."""
    assert empty_database.database is not None
    engines = [
        create_engine(node.url_for(empty_database.database), poolclass=NullPool)
        for node in server.nodes
    ]
    with engines[0].begin() as connection:
        connection.execute(text("CREATE TABLE clicks (id bigint PRIMARY KEY, n int)"))
        connection.execute(text("SELECT create_distributed_table('clicks', 'id')"))
    end = threading.Event()
    writers = [Writer(engine, number, end) for number, engine in enumerate(engines)]
    for writer in writers:
        writer.start()
    try:
        while not all(len(writer.kept) > 20 for writer in writers):
            time.sleep(0.01)
        with engines[0].begin() as connection:
            Operations(MigrationContext.configure(connection)).invoke(operation)
        time.sleep(0.5)
    finally:
        end.set()
        for writer in writers:
            writer.join(60)
    expected = sorted(row for writer in writers for row in writer.kept)
    with engines[0].connect() as connection:
        found = rows(connection, "SELECT id FROM clicks WHERE n = 1 ORDER BY id")
        assert [row for (row,) in found] == expected
