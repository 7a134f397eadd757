"""The SQL of the operations that say where a table is placed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from citus_analytics.migrations.operations import placed
from citus_analytics.migrations.operations.base import CITUS, Arguments, Extension, Guarded
from citus_analytics.migrations.operations.placed import colocated_with
from citus_analytics.sql import literal, qualify

if TYPE_CHECKING:
    from citus_analytics.schema import Distributed

_SINCE: Final = {
    "create_distributed_table": CITUS,
    "create_distributed_table_concurrently": Extension("citus", (11, 1)),
}
_SINGLE_SHARD: Final = Extension("citus", (12, 0))

# Citus changes a table by making a new one of the same name, on which it refuses triggers such as
# those of a rollup. They touch the colocated shards alone.
ALLOW_TRIGGERS: Final = "PERFORM set_config('citus.enable_unsafe_triggers', 'on', true);"


def distributing(table_name: str, distribution: Distributed, schema: str | None) -> Arguments:
    """Return the arguments of the functions that put a table on shards."""
    named: dict[str, object] = {
        "colocate_with": distribution.colocate_with,
        "colocate_schema": distribution.colocate_schema,
        "shard_count": distribution.shard_count,
        "schema": schema,
    }
    if distribution.distribution_type != "hash":
        named = {"distribution_type": distribution.distribution_type, **named}
    return Arguments((table_name, distribution.column), named)


def distribute(
    function: str, table_name: str, distribution: Distributed, schema: str | None
) -> Guarded:
    """Return the step that puts a table on shards."""
    table, column = qualify(table_name, schema), distribution.column
    arguments = [literal(table), "NULL" if column is None else literal(column)]
    if distribution.distribution_type != "hash":
        arguments.append(literal(distribution.distribution_type))
    if distribution.colocate_with is not None:
        wanted = colocated_with(distribution.colocate_with, distribution.colocate_schema, schema)
        arguments.append(f"colocate_with => {wanted}")
    if distribution.shard_count is not None:
        arguments.append(f"shard_count => {distribution.shard_count:d}")
    conditions = [placed.by(column)]
    if distribution.shard_count is not None:
        conditions.append(placed.in_shards(distribution.shard_count))
    if distribution.names_a_table:
        partner = (distribution.colocate_with or "", distribution.colocate_schema, schema)
        conditions.append(placed.beside(*partner))
    how = "put on a shard" if column is None else f"distributed by {column}"
    return Guarded(
        call=f"{function}(column=None)" if column is None else function,
        body=f"IF NOT {placed.is_on_shards(table, *conditions)} THEN\n"
        f"  PERFORM {function}({', '.join(arguments)});\nEND IF;",
        otherwise=f"table {table} is not {how}, it stays local",
        needs=(_SINGLE_SHARD if column is None else _SINCE[function],),
    )


def replicate(table_name: str, schema: str | None) -> Guarded:
    """Return the step that copies a table to every node."""
    table = qualify(table_name, schema)
    return Guarded(
        call="create_reference_table",
        body=f"IF NOT {placed.is_reference(table)} THEN\n"
        f"  PERFORM create_reference_table({literal(table)});\nEND IF;",
        otherwise=f"table {table} is not copied to every node, it stays local",
    )


def make_known(table_name: str, schema: str | None, *, cascade: bool) -> Guarded:
    """Return the step that makes a table of the coordinator known to the other nodes."""
    table = qualify(table_name, schema)
    return Guarded(
        call="add_local_table_to_metadata",
        body=f"PERFORM citus_add_local_table_to_metadata({literal(table)}{_cascade(cascade)});",
        otherwise=f"there are no other nodes for table {table} to be known to",
    )


def bring_back(table_name: str, schema: str | None, *, cascade: bool) -> Guarded:
    """Return the step that brings a table back to the coordinator, if it is not there alone."""
    table = qualify(table_name, schema)
    return Guarded(
        call="undistribute_table",
        body="IF EXISTS (SELECT FROM pg_catalog.pg_dist_partition\n"
        f"           WHERE logicalrelid = {literal(table)}::regclass) THEN\n"
        f"  PERFORM undistribute_table({literal(table)}{_cascade(cascade)});\nEND IF;",
        otherwise=f"table {table} is local as it is",
    )


def _cascade(wanted: bool) -> str:
    return ", cascade_via_foreign_keys => true" if wanted else ""
