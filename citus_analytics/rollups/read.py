"""Reading rollups: the fresh views as tables, and the greatest groups of a ranked rollup.

A rollup's own table is as of its last run. Its fresh view, `<table>_fresh`, adds up the table and
what is pending in the log, and so equals the raw rows at any moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import BigInteger, Column, MetaData, Table, text

from citus_analytics.errors import ArgumentError
from citus_analytics.rollups.declare import every as width_of
from citus_analytics.rollups.declare import specs_of
from citus_analytics.rollups.sql import best_query

if TYPE_CHECKING:
    from datetime import timedelta

    from sqlalchemy import TextualSelect

    from citus_analytics.rollups.declare import Rollup


def rolled_up(rollup: Rollup, every: str | timedelta | None = None) -> Table:
    """Return the table of a rollup with buckets of a width: its numbers as of the last run.

    Args:
        rollup: The rollup.
        every: The width of the buckets; None for the finest.

    Raises:
        ArgumentError: The rollup has no such buckets.
    """
    if every is None:
        return next(iter(rollup.targets.values()))
    wanted = width_of(every)
    if wanted not in rollup.targets:
        raise ArgumentError(
            f"rollup {rollup.name!r} has no buckets of {wanted}; it has "
            f"{', '.join(map(str, rollup.targets))}."
        )
    return rollup.targets[wanted]


def fresh(rollup: Rollup, every: str | timedelta | None = None) -> Table:
    """Return the fresh view of a rollup as a table, to select from: equal to raw at any moment.

    It has the dimensions, the bucket and the measures. See `rolled_up` for the arguments.

    Raises:
        ArgumentError: The rollup has no such buckets.
    """
    table = rolled_up(rollup, every)
    shown = [column for column in table.columns if not column.name.startswith("_")]
    # Of a metadata of its own: Alembic is not to create it.
    return Table(
        f"{table.name}_fresh",
        MetaData(),
        *(Column(column.name, column.type) for column in shown),
        schema=table.schema,
    )


def best(rollup: Rollup, limit: int, *, every: str | timedelta | None = None) -> TextualSelect:
    """Return the statement for the groups with the greatest measure of a ranked rollup, fresh.

    It reads the table by the index of its ranking, without the groups that have changes pending,
    and adds those up: its cost follows what is pending, and not what is stored. Rows are of the
    dimensions, the bucket and the measure, the greatest first.

    Args:
        rollup: A rollup that is declared with `ranked`.
        limit: How many groups, at most.
        every: The width of the buckets; None for the finest.

    Raises:
        ArgumentError: The rollup is not ranked, or the limit is not a positive integer.
    """
    if rollup.ranked is None:
        raise ArgumentError(f"rollup {rollup.name!r} is not ranked: declare it with ranked=...")
    if type(limit) is not int or limit < 1:
        raise ArgumentError(f"limit must be a positive integer; found {limit!r}")
    table = rolled_up(rollup, every)
    (spec,) = (
        spec
        for spec in specs_of(rollup.source.metadata)
        if (spec.schema, spec.source) == (rollup.source.schema, rollup.source.name)
    )
    (target,) = (target for target in spec.targets if target.table == table.name)
    group = [column for column in table.columns if column.name in (*target.by, target.bucket)]
    measure = Column(rollup.ranked, BigInteger)
    query = (
        best_query(spec, target, rollup.ranked).replace(":", "\\:").replace("\\:limit", ":limit")
    )
    statement = text(f"{query} LIMIT :limit")
    return statement.bindparams(limit=limit).columns(*group, measure)
