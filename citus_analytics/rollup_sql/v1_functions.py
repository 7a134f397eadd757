"""The PL/pgSQL functions of version 1.

Their bodies name tables without a schema: each function carries its own search path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from citus_analytics.sql import literal, qualify, quote

if TYPE_CHECKING:
    from collections.abc import Iterable

    from citus_analytics.rollup_sql.spec import RollupSpec

# The planner would otherwise choose by statistics of a change log that is empty most of the time.
# Naming the settings here also ends what `absorb` sets when it returns. Compiling a plan costs
# more than a run of it.
_PLANS = (
    "SET jit = off SET enable_nestloop = on SET enable_hashjoin = on "
    "SET enable_mergejoin = on SET enable_seqscan = on"
)


def capture_name(spec: RollupSpec) -> str:
    """Return the name of the trigger function on the source."""
    return f"{spec.target}_capture"


def absorb_name(spec: RollupSpec) -> str:
    """Return the name of the trigger function, and of its trigger, on the change log."""
    return f"{spec.target}_absorb"


def signatures(spec: RollupSpec) -> tuple[str, ...]:
    """Return the functions as `DROP FUNCTION` and `regprocedure` name them, callers first."""
    named = (
        (spec.function, ""),
        (f"{spec.target}_run", "boolean"),
        (absorb_name(spec), ""),
        (capture_name(spec), ""),
        (f"{spec.target}_colocated", "oid, regclass"),
    )
    return tuple(f"{qualify(name, spec.schema)}({arguments})" for name, arguments in named)


def bucket_of(spec: RollupSpec, time: str) -> str:
    """Return the expression for the start of the bucket of a time."""
    return f"date_bin({_width(spec)}, {time}, timestamptz '1970-01-01 00:00:00+00')"


def create(spec: RollupSpec) -> tuple[str, ...]:
    """Return the statements that create the functions, in order."""
    return (_colocated(spec), _capture(spec), _absorb(spec), _run(spec), _run_void(spec))


def _width(spec: RollupSpec) -> str:
    return f"interval '{spec.bucket.total_seconds():.6f} seconds'"


def _colocated(spec: RollupSpec) -> str:
    return f"""
CREATE FUNCTION {qualify(f"{spec.target}_colocated", spec.schema)}(relation oid, wanted regclass)
RETURNS text LANGUAGE plpgsql STABLE AS $function$
-- The shard of `wanted` that is colocated with the shard `relation`; outside of a shard, `wanted`.
DECLARE
  shard text;
BEGIN
  IF to_regclass('pg_catalog.pg_dist_shard') IS NOT NULL THEN
    SELECT shard_name(other.logicalrelid, other.shardid) INTO shard
    FROM pg_dist_shard AS own JOIN pg_dist_shard AS other
      ON other.shardminvalue IS NOT DISTINCT FROM own.shardminvalue
    WHERE own.shardid = (SELECT substring(relname FROM '_([0-9]+)$')::bigint
                         FROM pg_class WHERE oid = relation)
      AND to_regclass(shard_name(own.logicalrelid, own.shardid)) = relation
      AND other.logicalrelid = wanted;
  END IF;
  RETURN coalesce(shard, wanted::text);
END
$function$""".strip()


def _capture(spec: RollupSpec) -> str:
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
    return f"""
CREATE FUNCTION {qualify(capture_name(spec), spec.schema)}()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET jit = off SET enable_hashagg = off AS $function$
-- Sorting, unlike hashing, holds the keys of one bucket at a time, however large the statement.
DECLARE
  changes text := {quote(f"{spec.target}_colocated")}(TG_RELID, {_regclass(spec.changes)});
  sharded boolean := changes <> {_regclass(spec.changes)}::text;
BEGIN
  IF {branches}
  ELSIF NOT sharded THEN
    -- A shard is truncated only after the whole table has been logged here.
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
      -- Citus truncates from the coordinator: no run may add a group between here and there.
      LOCK TABLE {quote(spec.state)} IN SHARE ROW EXCLUSIVE MODE;
    END IF;
    INSERT INTO {quote(spec.changes)} (key, bucket)
    SELECT DISTINCT {quote(spec.key)}, {quote(spec.bucket_column)} FROM {quote(spec.target)};
  END IF;
  RETURN NULL;
END
$function$""".strip()


def _changed_rows(spec: RollupSpec, rows: str) -> str:
    time = quote(spec.time_column)
    return (
        f"SELECT {bucket_of(spec, time)} AS bucket, {quote(spec.key)} AS key "
        f"FROM {rows} WHERE {time} IS NOT NULL"
    )


def _log_arrays(spec: RollupSpec, rows: str) -> str:
    return f"""\
    INSERT INTO {quote(spec.changes)} (bucket, keys)
    SELECT bucket, array_agg(key) FROM (
      SELECT DISTINCT bucket, key FROM ({rows}) AS changed
    ) AS once GROUP BY bucket;"""


def _log_pairs(rows: str) -> str:
    statement = f"""
      INSERT INTO <changes> (bucket, key)
      SELECT DISTINCT bucket, key FROM ({rows}) AS changed
    """
    return f"    EXECUTE format($log${_template(statement, '<changes>')}$log$, changes);"


def _absorb(spec: RollupSpec) -> str:
    tables = (spec.source, spec.target, spec.outcome)
    shards = ",\n      ".join(
        f"{quote(f'{spec.target}_colocated')}(TG_RELID, {_regclass(table)})" for table in tables
    )
    recompute = _template(_recompute(spec), "<source>", "<target>", "<outcome>")
    return f"""
CREATE FUNCTION {qualify(absorb_name(spec), spec.schema)}()
RETURNS trigger LANGUAGE plpgsql {_PLANS} AS $function$
DECLARE
  source text := {quote(f"{spec.target}_colocated")}(TG_RELID, {_regclass(spec.source)});
  pairs bigint;
BEGIN
  SELECT coalesce(sum(coalesce(cardinality(keys), 1)), 0) INTO pairs FROM _drained;
  IF pairs = 0 THEN
    RETURN NULL;
  END IF;
  -- A pair costs about a page of the source through the index; past the pages that the source
  -- has, one pass over it is cheaper.
  IF pairs < pg_relation_size(source::regclass) / current_setting('block_size')::bigint THEN
    PERFORM set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
            set_config('enable_seqscan', 'off', true);
  ELSE
    PERFORM set_config('enable_nestloop', 'off', true);
  END IF;
  EXECUTE format($absorb${recompute}$absorb$,
      {shards});
  RETURN NULL;
END
$function$""".strip()


def _recompute(spec: RollupSpec) -> str:
    key, bucket = quote(spec.key), quote(spec.bucket_column)
    # In the order of the target's index, so that a bulk of new groups is appended to it.
    others = [quote(name) for name in spec.dimensions if name != spec.key]
    measures = [quote(name) for name in spec.measures]
    same = " AND ".join(
        ["g.bucket = t." + bucket]
        + [f"g.d{i} IS NOT DISTINCT FROM t.{name}" for i, name in enumerate(others)]
    )
    return f"""
    WITH _changed AS MATERIALIZED (
      SELECT key, bucket FROM _drained WHERE keys IS NULL
      UNION
      SELECT unnest(keys), bucket FROM _drained WHERE keys IS NOT NULL
    ), _groups AS MATERIALIZED (
      {_groups(spec, others, "s.{key} = c.key")}
      UNION ALL
      {_groups(spec, others, "s.{key} IS NULL AND c.key IS NULL")}
    ), _written AS (
      INSERT INTO <target> AS t ({_list([key, bucket, *others, *measures])})
      SELECT * FROM _groups ORDER BY key, bucket
      ON CONFLICT ({_list([key, bucket, *others])})
      DO UPDATE SET {_list(f"{m} = excluded.{m}" for m in measures)}
      WHERE ({_list(f"t.{m}" for m in measures)})
        IS DISTINCT FROM ({_list(f"excluded.{m}" for m in measures)})
      RETURNING 1
    ), _removed AS (
      DELETE FROM <target> AS t USING _changed AS c
      WHERE t.{key} = c.key AND t.{bucket} = c.bucket
        AND NOT EXISTS (SELECT FROM _groups AS g WHERE g.key = t.{key} AND {same})
      RETURNING 1
    ), _removed_without_key AS (
      DELETE FROM <target> AS t USING _changed AS c
      WHERE t.{key} IS NULL AND c.key IS NULL AND t.{bucket} = c.bucket
        AND NOT EXISTS (SELECT FROM _groups AS g WHERE g.key IS NULL AND {same})
      RETURNING 1
    )
    INSERT INTO <outcome> (key, groups_written, groups_removed, since, until)
    SELECT (SELECT key FROM _changed LIMIT 1), (SELECT count(*) FROM _written),
           (SELECT count(*) FROM _removed) + (SELECT count(*) FROM _removed_without_key),
           min(bucket), max(bucket) + {_width(spec)}
    FROM _changed
  """


def _groups(spec: RollupSpec, others: list[str], keys_match: str) -> str:
    time, width = f"s.{quote(spec.time_column)}", _width(spec)
    dimensions = [f"s.{name}" for name in others]
    selected = [
        "c.key",
        "c.bucket",
        *(f"{name} AS d{i}" for i, name in enumerate(dimensions)),
        *(f"{measure} AS m{i}" for i, measure in enumerate(spec.measure_sql())),
    ]
    # The range finds a bucket by the index, the equality lets a bulk be joined by hash.
    return f"""SELECT {_list(selected)}
      FROM _changed AS c JOIN <source> AS s
        ON {keys_match.format(key=quote(spec.key))}
       AND {time} >= c.bucket AND {time} < c.bucket + {width}
       AND {bucket_of(spec, time)} = c.bucket
      GROUP BY {_list(["c.key", "c.bucket", *dimensions])}"""


def _run(spec: RollupSpec) -> str:
    state, minute = quote(spec.state), quote(spec.state_column)
    return f"""
CREATE FUNCTION {qualify(f"{spec.target}_run", spec.schema)}(
  wait boolean, OUT groups_written bigint, OUT groups_removed bigint,
  OUT since timestamptz, OUT until timestamptz
) LANGUAGE plpgsql SET jit = off AS $function$
-- Runs the rollup and says what it did. All is NULL if another run is under way and not waited for.
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
  DELETE FROM {state} WHERE {minute} <> now_bucket;
  INSERT INTO {state} ({minute}) VALUES (now_bucket) ON CONFLICT DO NOTHING;
END
$function$""".strip()


def _run_void(spec: RollupSpec) -> str:
    return f"""
CREATE FUNCTION {qualify(spec.function, spec.schema)}()
RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
  PERFORM {quote(f"{spec.target}_run")}(wait => true);
END
$function$""".strip()


def _template(text: str, *shards: str) -> str:
    """Return `text` as a template of the server's `format`, with `shards` as its arguments."""
    template = text.replace("%", "%%")
    for position, shard in enumerate(shards, start=1):
        template = template.replace(shard, f"%{position}$s")
    return template


def _list(parts: Iterable[str]) -> str:
    return ", ".join(parts)


def _regclass(name: str) -> str:
    return f"{literal(quote(name))}::regclass"
