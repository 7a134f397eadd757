"""What version 1 demands of the tables and of the transaction, before it creates anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from citus_analytics.rollups.sql.v1_names import listed
from citus_analytics.sql import dollar_quote, indented, literal, on_citus, qualify, quote, refusal

if TYPE_CHECKING:
    from citus_analytics.rollups.sql.spec import RollupSpec


def check(spec: RollupSpec) -> tuple[str, ...]:
    """Return the statements that refuse what would not add up."""
    demands = (_isolation(spec), _time_zones(spec), _one_row_a_group(spec))
    body = "\nBEGIN\n" + "\n".join(map(indented, demands)) + "\nEND\n"
    return (f"DO {dollar_quote(body, 'check')}", on_citus(_colocation(spec)))


def _isolation(spec: RollupSpec) -> str:
    # A snapshot from before the triggers hides rows that no trigger has seen.
    return _refuse(
        "current_setting('transaction_isolation') <> 'read committed'",
        "rollup %s has to be created under READ COMMITTED: under another isolation level rows that "
        "others have just committed would be missed.",
        spec.target,
    )


def _time_zones(spec: RollupSpec) -> str:
    columns = " OR ".join(
        f"(a.attrelid = {_regclass(spec, table)} AND a.attname = {literal(column)})"
        for table, column in (
            (spec.source, spec.time_column),
            (spec.target, spec.bucket_column),
            (spec.state, spec.state_column),
        )
    )
    return _refuse(
        f"EXISTS (SELECT FROM pg_catalog.pg_attribute AS a WHERE ({columns})\n"
        "           AND a.atttypid <> 'pg_catalog.timestamptz'::regtype)",
        "rollup %s needs timestamp with time zone for %s, %s and %s: without a zone a bucket would "
        "depend on the session.",
        *(spec.target, spec.time_column, spec.bucket_column, spec.state_column),
    )


def _one_row_a_group(spec: RollupSpec) -> str:
    columns = dict.fromkeys((spec.key, spec.bucket_column, *spec.dimensions))
    wanted = f"ARRAY[{', '.join(map(literal, columns))}]"
    keys = (
        "pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place)\n"
        "          JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid "
        "AND a.attnum = k.number\n          WHERE k.place <= i.indnkeyatts"
    )
    named = f"(SELECT pg_catalog.array_agg(a.attname::text) FROM {keys})"
    return _refuse(
        "NOT EXISTS (\n"
        "    SELECT FROM pg_catalog.pg_index AS i\n"
        f"    WHERE i.indrelid = {_regclass(spec, spec.target)} AND i.indisunique\n"
        "      AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL\n"
        f"      AND {named} @> {wanted}\n      AND {named} <@ {wanted}\n"
        "      AND (i.indnullsnotdistinct OR NOT EXISTS (\n"
        f"        SELECT FROM {keys} AND NOT a.attnotnull\n"
        f"          AND a.attname <> {literal(spec.bucket_column)})))",
        f"rollup %s needs a primary key or unique index on {listed(['%s'] * len(columns))} alone, "
        "with NULLS NOT DISTINCT if one of them may be NULL: it keeps one row a group.",
        *(spec.target, *columns),
    )


def _colocation(spec: RollupSpec) -> str:
    groups = (
        f"(SELECT colocationid FROM pg_catalog.pg_dist_partition\n"
        f"    WHERE logicalrelid = {_regclass(spec, table)})"
        for table in (spec.source, spec.target)
    )
    return _refuse(
        " IS DISTINCT FROM\n    ".join(groups),
        "rollup %s has to be colocated with its source %s: distribute it by the same column, with "
        "colocate_with.",
        *(spec.target, spec.source),
    )


def _refuse(condition: str, message: str, *names: str) -> str:
    arguments = listed(literal(argument) for argument in (message, *map(quote, names)))
    return f"IF {condition} THEN\n{indented(refusal(f'format({arguments})'))}\nEND IF;"


def _regclass(spec: RollupSpec, table: str) -> str:
    return f"{literal(qualify(table, spec.schema))}::regclass"
