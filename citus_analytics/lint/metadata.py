"""The linter on a SQLAlchemy `MetaData` whose tables say how they are spread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from citus_analytics.lint.reading import shape_of
from citus_analytics.lint.rules import TABLE_RULES
from citus_analytics.lint.shape import Spread
from citus_analytics.schema import distribution_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sqlalchemy import MetaData

    from citus_analytics.lint.finding import Fault
    from citus_analytics.lint.rules import Version
    from citus_analytics.lint.shape import Tables, TableShape


def faults_of_metadata(metadata: Iterable[MetaData], citus: Version) -> Iterator[tuple[str, Fault]]:
    """Yield what is wrong with the tables of `metadata`, each with its code."""
    tables = {
        table.key: shape_of(table, Spread.of(distribution_of(table)))
        for part in metadata
        for table in part.tables.values()
    }
    for table in tables.values():
        yield from faults_of_table(tables, table, citus)


def faults_of_table(
    tables: Tables, table: TableShape, citus: Version
) -> Iterator[tuple[str, Fault]]:
    """Yield what is wrong with one table among others, each with its code."""
    for rule in TABLE_RULES:
        if rule.applies(citus):
            yield from ((rule.code, fault) for fault in rule.check(tables, table))
