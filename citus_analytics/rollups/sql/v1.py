"""Version 1 of a rollup's SQL.

How it works. Triggers on the source write each changed (key, bucket) to a change log, in the
transaction of the change. A run deletes from the change log, and a trigger on the change log
recomputes exactly the groups whose changes were deleted. On Citus the triggers live on the shards:
each reads and writes the colocated shards of its own node only, so that a run is one distributed
DELETE and all of it commits or none of it.

A change and its line in the log commit together, so a run that sees the line sees the change.
Recomputing is idempotent, so a line too many is harmless. Nothing waits for writers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from citus_analytics.rollups.sql import v1_names as names
from citus_analytics.rollups.sql.marker import describe
from citus_analytics.rollups.sql.shape import Shape
from citus_analytics.rollups.sql.v1_check import check
from citus_analytics.rollups.sql.v1_functions import functions
from citus_analytics.sql import dollar_quote, literal, on_citus, qualify, quote, sequential

if TYPE_CHECKING:
    from citus_analytics.rollups.sql.spec import RollupSpec

# When a capturing trigger fires, and the transition tables that its statement offers. TRUNCATE is
# captured before it happens, so that on Citus it waits for a run before it holds any shard.
_CAPTURES = {
    "INSERT": ("AFTER", "REFERENCING NEW TABLE AS added "),
    "UPDATE": ("AFTER", "REFERENCING OLD TABLE AS removed NEW TABLE AS added "),
    "DELETE": ("AFTER", "REFERENCING OLD TABLE AS removed "),
    "TRUNCATE": ("BEFORE", ""),
}

# Triggers on distributed tables are "unsafe" to Citus because they may touch other nodes; ours
# touch the colocated shards beside them alone.
_PREPARE = on_citus(f"""
{sequential()}
PERFORM set_config('citus.enable_unsafe_triggers', 'on', true);
""")


def create(spec: RollupSpec) -> tuple[str, ...]:
    """Return the statements that create the rollup's machinery, in order."""
    return (
        _PREPARE,
        *check(spec),
        *_create_tables(spec),
        *(function.create(spec.schema) for function in functions(spec)),
        _pin_search_path(spec),
        *_triggers(spec).values(),
        _describe(spec),
        _log_existing_rows(spec),
    )


def drop(spec: RollupSpec) -> tuple[str, ...]:
    """Return the statements that drop the rollup's machinery, in order."""
    source = qualify(spec.source, spec.schema)
    return (
        _PREPARE,
        # What is missing is no hindrance: a rollup is repaired by dropping and creating it.
        *(
            f"DROP TRIGGER IF EXISTS {quote(_capture_trigger(spec, event))} ON {source}"
            for event in _CAPTURES
        ),
        f"DROP TABLE IF EXISTS {qualify(spec.changes, spec.schema)}",
        f"DROP TABLE IF EXISTS {qualify(spec.outcome, spec.schema)}",
        *(f"DROP FUNCTION IF EXISTS {signature}" for signature in names.signatures(spec)),
    )


def shape(spec: RollupSpec) -> Shape:
    """Return what a database has that has the machinery whole."""
    bodies = {function.name: function.body for function in functions(spec)}
    return Shape(functions=bodies, triggers=frozenset(_triggers(spec)))


def _create_tables(spec: RollupSpec) -> tuple[str, ...]:
    changes, outcome = qualify(spec.changes, spec.schema), qualify(spec.outcome, spec.schema)
    return (
        # A shard logs one row a (key, bucket): rows find their shard again when shards are split.
        # A table that is not sharded logs one row a bucket, with the keys in an array outside of
        # the row: a bulk load then leaves few dead rows for the next run to pass over. Such a row
        # has no key, so Citus refuses to distribute the log until a run has emptied it.
        f"CREATE TABLE {changes} (\n"
        f"  key {spec.key_type},\n  bucket timestamptz NOT NULL,\n  keys {spec.key_type}[]\n"
        ") WITH (toast_tuple_target = 128, autovacuum_vacuum_scale_factor = 0, "
        "autovacuum_vacuum_threshold = 1000)",
        f"ALTER TABLE {changes} ALTER COLUMN keys SET STORAGE EXTERNAL",
        f"CREATE TABLE {outcome} (\n"
        f"  key {spec.key_type},\n  groups_written bigint NOT NULL,\n"
        "  groups_removed bigint NOT NULL,\n  since timestamptz NOT NULL,\n"
        "  until timestamptz NOT NULL\n)",
        _colocate(spec),
    )


def _colocate(spec: RollupSpec) -> str:
    source = literal(qualify(spec.source, spec.schema))
    return on_citus(
        "IF EXISTS (SELECT FROM pg_catalog.pg_dist_partition\n"
        f"           WHERE logicalrelid = {source}::regclass) THEN\n"
        + "".join(
            f"  PERFORM create_distributed_table({literal(qualify(table, spec.schema))}, 'key',\n"
            f"    colocate_with => {source});\n"
            for table in (spec.changes, spec.outcome)
        )
        + "END IF;"
    )


def _pin_search_path(spec: RollupSpec) -> str:
    # A function that runs with its owner's rights must not look names up where others can put
    # theirs. Without a schema of our own, the one that the tables were created in is known only
    # to the server.
    schema = "current_schema()" if spec.schema is None else literal(spec.schema)
    signatures = ",\n    ".join(literal(signature) for signature in names.signatures(spec))
    body = (
        "\nDECLARE\n  signature text;\nBEGIN\n"
        f"  FOREACH signature IN ARRAY ARRAY[\n    {signatures}\n  ] LOOP\n"
        "    EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp',\n"
        f"                   signature, {schema});\n"
        "  END LOOP;\nEND\n"
    )
    return f"DO {dollar_quote(body, 'pin')}"


def _triggers(spec: RollupSpec) -> dict[tuple[str, str], str]:
    """Return the statements that create the triggers, by table and name."""
    source, changes = qualify(spec.source, spec.schema), qualify(spec.changes, spec.schema)
    capture = qualify(names.capture_name(spec), spec.schema)
    absorb = names.absorb_name(spec)
    captures = {
        (spec.source, _capture_trigger(spec, event)): f"{when} {event} ON {source} {transitions}"
        f"FOR EACH STATEMENT EXECUTE FUNCTION {capture}()"
        for event, (when, transitions) in _CAPTURES.items()
    }
    absorbs = {
        (spec.changes, absorb): f"AFTER DELETE ON {changes} REFERENCING OLD TABLE AS _drained "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {qualify(absorb, spec.schema)}()"
    }
    return {
        (table, name): f"CREATE TRIGGER {quote(name)} {definition}"
        for (table, name), definition in (captures | absorbs).items()
    }


def _capture_trigger(spec: RollupSpec, event: str) -> str:
    return f"{spec.target}_capture_{event.lower()}"


def _describe(spec: RollupSpec) -> str:
    run = qualify(names.run_name(spec), spec.schema)
    return f"COMMENT ON FUNCTION {run}(boolean) IS {literal(describe(spec, version=1))}"


def _log_existing_rows(spec: RollupSpec) -> str:
    # The triggers' lock on the source keeps writers out until this has committed.
    time = f"s.{quote(spec.time_column)}"
    return (
        f"INSERT INTO {qualify(spec.changes, spec.schema)} (key, bucket)\n"
        f"SELECT DISTINCT s.{quote(spec.key)}, {names.bucket_of(spec, time)}\n"
        f"FROM {qualify(spec.source, spec.schema)} AS s\nWHERE isfinite({time})"
    )
