"""Putting what the linter judges on a server: metadata, and folders of migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import NullPool, create_engine
from sqlalchemy.schema import AddConstraint, CreateIndex, CreateSequence, CreateTable

from citus_analytics.github.migrate import configuration
from citus_analytics.migrations import (
    CreateDistributedTableOp,
    CreateReferenceTableOp,
)
from citus_analytics.schema import Distributed, Reference, distribution_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from alembic.config import Config
    from alembic.operations import MigrateOperation
    from sqlalchemy import URL, Connection, MetaData, Table


def configuration_of(url: URL, folder: Path) -> Config:
    """Return Alembic's configuration for migrations of `tests.lint_pages.write_migrations`."""
    config = configuration(url)
    config.set_main_option("script_location", str(folder))
    return config


def create(metadata: MetaData, url: URL) -> None:
    """Create tables, distribute them, then add their foreign keys; all or nothing."""
    with create_engine(url, poolclass=NullPool).begin() as connection:
        create_on(metadata, connection)


def create_on(metadata: MetaData, connection: Connection) -> None:
    for sequence in metadata._sequences.values():
        connection.execute(CreateSequence(sequence))
    for table in metadata.tables.values():
        connection.execute(CreateTable(table, include_foreign_key_constraints=[]))
        for index in table.indexes:
            connection.execute(CreateIndex(index))
    operations = Operations(MigrationContext.configure(connection, opts={"citus": "require"}))
    for operation in _distributions(metadata):
        operations.invoke(operation)
    for table in metadata.tables.values():
        for constraint in table.foreign_key_constraints:
            connection.execute(AddConstraint(constraint))


def _distributions(metadata: MetaData) -> Iterator[MigrateOperation]:
    """Yield how to distribute the tables, each after the one that it is colocated with."""
    waiting: list[Table] = list(metadata.tables.values())
    done: set[str | None] = {None}
    while waiting:
        table = next((one for one in waiting if _partner(one) in done), waiting[0])
        waiting.remove(table)
        done.add(table.name)
        match distribution_of(table):
            case Distributed() as distributed:
                yield CreateDistributedTableOp.of(table.name, distributed, table.schema)
            case Reference():
                yield CreateReferenceTableOp(table.name, schema=table.schema)


def _partner(table: Table) -> str | None:
    distribution = distribution_of(table)
    return distribution.colocate_with if isinstance(distribution, Distributed) else None
