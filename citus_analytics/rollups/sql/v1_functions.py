"""The PL/pgSQL functions of version 1.

Their bodies name tables without a schema: each function carries its own search path. Columns of
the rollup's tables are named with their table, for a bare name might be that of a variable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from citus_analytics.rollups.sql.v1_absorb import absorb
from citus_analytics.rollups.sql.v1_names import (
    CHANGES,
    Function,
    bucket_of,
    capture_name,
    on_shards,
    regclass,
    run_name,
    shard_of,
)
from citus_analytics.sql import quote

if TYPE_CHECKING:
    from citus_analytics.rollups.sql.spec import RollupSpec

_COLOCATED: Final = """
-- The shard of `wanted` that is colocated with the shard `relation`; outside of a shard, `wanted`.
-- Citus hides the shards of a node in pg_class from those who are connected to it.
DECLARE
  own bigint;
  shard text;
BEGIN
  IF to_regclass('pg_catalog.pg_dist_shard') IS NOT NULL THEN
    SELECT s.shardid INTO own FROM pg_dist_shard AS s
    WHERE s.shardid = substring(relation::regclass::text FROM '_([0-9]+)"?$')::bigint
      AND to_regclass(shard_name(s.logicalrelid, s.shardid)) = relation;
  END IF;
  IF own IS NULL THEN
    RETURN wanted::text;
  END IF;
  SELECT shard_name(other.logicalrelid, other.shardid) INTO shard
  FROM pg_dist_shard AS s
  JOIN pg_dist_partition AS p ON p.logicalrelid = s.logicalrelid
  JOIN pg_dist_partition AS q ON q.colocationid = p.colocationid AND q.logicalrelid = wanted
  JOIN pg_dist_shard AS other ON other.logicalrelid = wanted
    AND other.shardminvalue IS NOT DISTINCT FROM s.shardminvalue
  WHERE s.shardid = own;
  IF shard IS NULL THEN
    RAISE EXCEPTION 'table % is not colocated with %, whose shard % has no sibling of it',
      wanted, (SELECT logicalrelid FROM pg_dist_shard WHERE shardid = own), own;
  END IF;
  RETURN shard;
END
"""


def functions(spec: RollupSpec) -> tuple[Function, ...]:
    """Return the functions, in the order in which they can be created."""
    return (_colocated(spec), _capture(spec), absorb(spec), _run(spec), _run_void(spec))


def _colocated(spec: RollupSpec) -> Function:
    head = "(relation oid, wanted regclass)\nRETURNS text LANGUAGE plpgsql STABLE"
    return Function(f"{spec.target}_colocated", head, _COLOCATED)


def _capture(spec: RollupSpec) -> Function:
    logged = {
        "INSERT": _changed_rows(spec, "added"),
        "UPDATE": f"{_changed_rows(spec, 'added')} UNION {_changed_rows(spec, 'removed')}",
        "DELETE": _changed_rows(spec, "removed"),
    }
    branches = "\n  ELSIF ".join(
        f"TG_OP = '{event}' AND NOT sharded THEN\n{_log_arrays(spec, rows)}"
        f"\n  ELSIF TG_OP = '{event}' THEN\n{_log_pairs(rows)}"
        for event, rows in logged.items()
    )
    body = f"""
-- Sorting, unlike hashing, holds the keys of one bucket at a time, however large the statement.
DECLARE
  changes text := {shard_of(spec, spec.changes)};
  sharded boolean := changes <> {regclass(spec.changes)}::text;
BEGIN
  -- It has its owner's rights: on tables of others it would run what their types cast with.
  IF {shard_of(spec, spec.source)}::regclass <> TG_RELID THEN
    RAISE EXCEPTION 'this trigger function is for another table than %', TG_RELID::regclass;
  END IF;
  IF {branches}
  ELSIF NOT sharded THEN
    -- A shard is truncated only after the whole table has been logged here.
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
      -- Citus truncates from the coordinator: no run may add a group between here and there.
      LOCK TABLE {quote(spec.state)} IN SHARE ROW EXCLUSIVE MODE;
    END IF;
    INSERT INTO {quote(spec.changes)} (key, bucket)
    SELECT DISTINCT t.{quote(spec.key)}, t.{quote(spec.bucket_column)}
    FROM {quote(spec.target)} AS t;
  END IF;
  RETURN NULL;
END
"""
    head = """()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET jit = off SET enable_hashagg = off"""
    return Function(capture_name(spec), head, body)


def _changed_rows(spec: RollupSpec, rows: str) -> str:
    time = f"r.{quote(spec.time_column)}"
    return (
        f"SELECT {bucket_of(spec, time)} AS bucket, r.{quote(spec.key)} AS key "
        f"FROM {rows} AS r WHERE isfinite({time})"
    )


def _log_arrays(spec: RollupSpec, rows: str) -> str:
    return f"""\
    INSERT INTO {quote(spec.changes)} (bucket, keys)
    SELECT bucket, array_agg(key) FROM (
      SELECT DISTINCT bucket, key FROM ({rows}) AS changed
    ) AS once GROUP BY bucket;"""


def _log_pairs(rows: str) -> str:
    statement = f"""
      INSERT INTO {CHANGES} (bucket, key)
      SELECT DISTINCT bucket, key FROM ({rows}) AS changed
    """
    return f"    EXECUTE format({on_shards(statement, 'log', CHANGES)}, changes);"


def _run(spec: RollupSpec) -> Function:
    state, minute = quote(spec.state), quote(spec.state_column)
    body = f"""
-- Runs the rollup and says what it did. All is NULL if another run is under way and not waited for.
#variable_conflict use_variable
DECLARE
  now_bucket timestamptz := {bucket_of(spec, "now()")};
BEGIN
  IF wait THEN
    LOCK TABLE {state} IN SHARE ROW EXCLUSIVE MODE;
  ELSE
    BEGIN
      LOCK TABLE {state} IN SHARE ROW EXCLUSIVE MODE NOWAIT;
    EXCEPTION WHEN lock_not_available THEN
      RETURN;
    END;
  END IF;
  groups_written := 0;
  groups_removed := 0;
  DELETE FROM {quote(spec.changes)};
  IF FOUND THEN
    WITH reported AS (DELETE FROM {quote(spec.outcome)} AS o RETURNING o.*)
    SELECT sum(r.groups_written), sum(r.groups_removed), min(r.since), max(r.until)
    INTO groups_written, groups_removed, since, until FROM reported AS r;
  END IF;
  DELETE FROM {state} AS s WHERE s.{minute} <> now_bucket;
  INSERT INTO {state} ({minute}) VALUES (now_bucket) ON CONFLICT DO NOTHING;
END
"""
    head = """(
  wait boolean, OUT groups_written bigint, OUT groups_removed bigint,
  OUT since timestamptz, OUT until timestamptz
) LANGUAGE plpgsql SET jit = off"""
    return Function(run_name(spec), head, body)


def _run_void(spec: RollupSpec) -> Function:
    body = f"""
BEGIN
  PERFORM {quote(run_name(spec))}(wait => true);
END
"""
    return Function(spec.function, "()\nRETURNS void LANGUAGE plpgsql", body)
