"""Rules about columns: what may decide the shard of a row, identities, and sequences."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from citus_analytics.lint.colocation import is_on_citus, key_column
from citus_analytics.lint.finding import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator

    from citus_analytics.lint.shape import ColumnShape, Tables, TableShape

# The types of PostgreSQL that have no default hash operator class.
# fmt: off
_NOT_HASHED = frozenset((
    "BIT", "BIT VARYING", "BOX", "CIRCLE", "JSON", "JSONPATH", "LINE", "LSEG", "MONEY", "PATH",
    "PG_SNAPSHOT", "POINT", "POLYGON", "REFCURSOR", "TSQUERY", "TSVECTOR", "TXID_SNAPSHOT", "XID",
    "XML",
))
# fmt: on
_NARROW = ("INTEGER", "SMALLINT")


def identity_is_irreversible(_: Tables, table: TableShape) -> Iterator[Fault]:
    """CA012: an identity column on a table that may have to be redistributed."""
    if table.spread.kind == "local":
        return
    for column in table.columns:
        if column.identity:
            yield _fault(
                table,
                column,
                "is an identity: Citus then refuses undistribute_table and "
                "alter_distributed_table, so that the table can never change its distribution. "
                "Use BIGSERIAL, or a BIGINT with a sequence for its default.",
            )


def narrow_sequence(tables: Tables, table: TableShape) -> Iterator[Fault]:
    """CA013: a column narrower than bigint that takes its default from a sequence."""
    for column in table.columns:
        numbered = column.sequence is not None or column.identity
        if column.type in _NARROW and numbered and is_on_citus(tables, table):
            yield _fault(
                table,
                column,
                f"is {column.type} and numbered by a sequence: INSERTs through a worker fail, "
                "because its part of the sequence starts above what the type can hold, and the "
                "type cannot be changed afterwards. Use BigInteger.",
            )


def sequence_of_two_types(tables: Tables, table: TableShape) -> Iterator[Fault]:
    """CA014: a sequence that numbers columns of different types."""
    if not any(column.sequence for column in table.columns) or not is_on_citus(tables, table):
        return
    earlier = [other for other in tables.values() if is_on_citus(tables, other)]
    for column in table.columns:
        for user, used in _users(column.sequence, earlier):
            if user is table and used is column:
                break
            if used.type != column.type:
                yield _fault(
                    table,
                    column,
                    f"is {column.type} and takes its default from sequence {column.sequence!r}, "
                    f"which already numbers the {used.type} column {used.name!r} of {user.key!r}. "
                    "Give both columns the same type, or each a sequence.",
                )
                break


def type_without_hash(_: Tables, table: TableShape) -> Iterator[Fault]:
    """CA015: a distribution column whose type has no hash."""
    column = key_column(table)
    if column is None or column.type is None:
        return
    negative_scale = re.search(r"NUMERIC\s*\(\s*\d+\s*,\s*-", column.full_type or "")
    if column.type in _NOT_HASHED or negative_scale:
        yield _fault(
            table,
            column,
            f"is the distribution column, but {column.full_type} cannot be hashed. Distribute by "
            "a column of another type, such as BIGINT, TEXT or UUID.",
        )


def generated_distribution_column(_: Tables, table: TableShape) -> Iterator[Fault]:
    """CA016: a distribution column that is generated from others."""
    column = key_column(table)
    if column is not None and column.generated:
        yield _fault(
            table,
            column,
            "is the distribution column, but GENERATED ALWAYS AS from others. Write its value "
            "when a row is inserted, or distribute by a column that it is made of.",
        )


def narrow_identity(_: Tables, table: TableShape) -> Iterator[Fault]:
    """CA020: an identity narrower than bigint, before Citus 12.0."""
    if table.spread.kind == "local":
        return
    for column in table.columns:
        if column.identity and column.type in _NARROW:
            yield _fault(
                table,
                column,
                f"is an identity of type {column.type}: before Citus 12.0 an identity must be "
                "BIGINT. Use BigInteger.",
            )


def _users(
    sequence: str | None, tables: list[TableShape]
) -> Iterator[tuple[TableShape, ColumnShape]]:
    if sequence is not None:
        for table in tables:
            yield from ((table, column) for column in table.columns if column.sequence == sequence)


def _fault(table: TableShape, column: ColumnShape, message: str) -> Fault:
    return Fault(
        f"column {column.name!r} of table {table.key!r} {message}",
        table.key,
        column.place or table.place,
    )
