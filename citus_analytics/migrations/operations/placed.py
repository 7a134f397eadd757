"""SQL that tells whether a table is placed already as an operation would place it.

Citus refuses to do what is done. An operation that leaves such a table alone can be repeated, and
stands in a chain of migrations that starts from scratch as well as in one that repairs.
"""

from __future__ import annotations

from typing import Final

from citus_analytics.sql import literal, qualify

# Citus's own words for "with nothing" and "with what fits".
WORDS: Final = ("none", "default")


def colocated_with(name: str, colocate_schema: str | None, schema: str | None) -> str:
    """Return the SQL string that names a colocated table to Citus.

    Without a schema of its own the table is looked for beside the one that it is colocated with,
    in `schema`, unless `name` is one of Citus's own words.
    """
    if name in WORDS and colocate_schema is None:
        return literal(name)
    return literal(qualify(name, schema if colocate_schema is None else colocate_schema))


def is_reference(table: str) -> str:
    """Return the condition that a table has a copy on every node."""
    return _exists(table, "p.partmethod = 'n'", "p.repmodel = 't'")


def is_on_shards(table: str, *conditions: str) -> str:
    """Return the condition that a table is distributed, and that all else is true of it."""
    return _exists(
        table, "(p.partmethod <> 'n' OR p.colocationid <> 0 AND p.repmodel <> 't')", *conditions
    )


def by(column: str | None) -> str:
    """Return the condition that a column is the distribution column; None for a single shard."""
    if column is None:
        return "p.partmethod = 'n'"
    return f"column_to_column_name(p.logicalrelid, p.partkey) = {literal(column)}"


def in_shards(shard_count: int) -> str:
    """Return the condition that there are so many shards."""
    shards = "SELECT count(*) FROM pg_catalog.pg_dist_shard AS s"
    return f"({shards} WHERE s.logicalrelid = p.logicalrelid) = {shard_count:d}"


def beside(name: str, colocate_schema: str | None, schema: str | None) -> str:
    """Return the condition that the table is colocated with another; false for `default`."""
    others = "SELECT FROM pg_catalog.pg_dist_partition AS o WHERE o.colocationid = p.colocationid"
    if colocate_schema is None and name == "none":
        return f"NOT EXISTS ({others} AND o.logicalrelid <> p.logicalrelid)"
    if colocate_schema is None and name == "default":
        return "false"
    partner = colocated_with(name, colocate_schema, schema)
    return f"EXISTS ({others} AND o.logicalrelid = {partner}::regclass)"


def _exists(table: str, *conditions: str) -> str:
    known = "SELECT FROM pg_catalog.pg_dist_partition AS p"
    every = (f"p.logicalrelid = {literal(table)}::regclass", *conditions)
    return f"EXISTS ({known}\n  WHERE " + "\n    AND ".join(every) + ")"
