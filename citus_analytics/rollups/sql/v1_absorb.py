"""The trigger function of version 1 that recomputes what was taken out of the change log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from citus_analytics.rollups.sql.v1_names import (
    OUTCOME,
    SOURCE,
    TARGET,
    Function,
    absorb_name,
    bucket_of,
    listed,
    on_shards,
    shard_of,
    width,
)
from citus_analytics.sql import quote

if TYPE_CHECKING:
    from citus_analytics.rollups.sql.spec import RollupSpec

# The planner would otherwise choose by statistics of a change log that is empty most of the time.
# Naming the settings here also ends what `absorb` sets when it returns. Compiling a plan costs
# more than a run of it.
_PLANS = (
    "SET jit = off SET enable_nestloop = on SET enable_hashjoin = on "
    "SET enable_mergejoin = on SET enable_seqscan = on"
)


def absorb(spec: RollupSpec) -> Function:
    """Return the trigger function on the change log."""
    tables = (spec.source, spec.target, spec.outcome)
    shards = ",\n      ".join(shard_of(spec, table) for table in tables)
    recompute = on_shards(_recompute(spec), "absorb", SOURCE, TARGET, OUTCOME)
    body = f"""
DECLARE
  source text := {shard_of(spec, spec.source)};
  pairs bigint;
  pages bigint;
BEGIN
  SELECT coalesce(sum(coalesce(cardinality(keys), 1)), 0) INTO pairs FROM _drained;
  IF pairs = 0 THEN
    RETURN NULL;
  END IF;
  -- Only a partitioned table has a tree; itself, it is empty.
  SELECT coalesce(sum(pg_relation_size(relid)), pg_relation_size(source::regclass))
    / current_setting('block_size')::bigint
  INTO pages FROM pg_partition_tree(source::regclass);
  -- A pair costs about a page of the source through the index; past the pages that the source
  -- has, one pass over it is cheaper.
  IF pairs < pages THEN
    PERFORM set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
            set_config('enable_seqscan', 'off', true);
  ELSE
    PERFORM set_config('enable_nestloop', 'off', true);
  END IF;
  EXECUTE format({recompute},
      {shards});
  RETURN NULL;
END
"""
    return Function(absorb_name(spec), f"()\nRETURNS trigger LANGUAGE plpgsql {_PLANS}", body)


def _recompute(spec: RollupSpec) -> str:
    key, bucket = quote(spec.key), quote(spec.bucket_column)
    # In the order of the target's index, so that a bulk of new groups is appended to it.
    others = [quote(name) for name in spec.dimensions if name != spec.key]
    measures = [quote(name) for name in spec.measures]
    return f"""
    WITH _changed AS MATERIALIZED (
      SELECT key, bucket FROM _drained WHERE keys IS NULL
      UNION
      SELECT unnest(keys), bucket FROM _drained WHERE keys IS NOT NULL
    ), _groups AS MATERIALIZED (
      {_groups(spec, others, f"s.{key} = c.key")}
      UNION ALL
      {_groups(spec, others, f"s.{key} IS NULL AND c.key IS NULL")}
    ), _written AS (
      INSERT INTO {TARGET} AS t ({listed([key, bucket, *others, *measures])})
      SELECT * FROM _groups ORDER BY key, bucket
      ON CONFLICT ({listed([key, bucket, *others])})
      DO UPDATE SET {listed(f"{m} = excluded.{m}" for m in measures)}
      WHERE ({listed(f"t.{m}" for m in measures)})
        IS DISTINCT FROM ({listed(f"excluded.{m}" for m in measures)})
      RETURNING 1
    ), _gone AS MATERIALIZED (
      {_gone(spec, others)}
    ), _removed AS (
      {_remove(spec, others, f"t.{key} = g.key")}
    ), _removed_without_key AS (
      {_remove(spec, others, f"t.{key} IS NULL AND g.key IS NULL")}
    )
    INSERT INTO {OUTCOME} (key, groups_written, groups_removed, since, until)
    SELECT (SELECT key FROM _changed LIMIT 1), (SELECT count(*) FROM _written),
           (SELECT count(*) FROM _removed) + (SELECT count(*) FROM _removed_without_key),
           min(bucket), max(bucket) + {width(spec)}
    FROM _changed
  """


def _groups(spec: RollupSpec, others: list[str], key_is_changed: str) -> str:
    time = f"s.{quote(spec.time_column)}"
    dimensions = [f"s.{name}" for name in others]
    selected = [
        "c.key",
        "c.bucket",
        *(f"{name} AS d{i}" for i, name in enumerate(dimensions)),
        *(f"{measure} AS m{i}" for i, measure in enumerate(spec.measure_sql())),
    ]
    # The range finds a bucket by the index, the equality lets a bulk be joined by hash.
    return f"""SELECT {listed(selected)}
      FROM _changed AS c JOIN {SOURCE} AS s
        ON {key_is_changed}
       AND {time} >= c.bucket AND {time} < c.bucket + {width(spec)}
       AND {bucket_of(spec, time)} = c.bucket
      GROUP BY {listed(["c.key", "c.bucket", *dimensions])}"""


def _gone(spec: RollupSpec, others: list[str]) -> str:
    key = f"t.{quote(spec.key)}"
    dimensions = [f"d{i}" for i in range(len(others))]
    # A set operation stays linear, whatever joins are allowed, and takes NULLs for equal.
    return f"""{_stored(spec, others, f"{key} = c.key")}
      UNION ALL
      {_stored(spec, others, f"{key} IS NULL AND c.key IS NULL")}
      EXCEPT
      SELECT {listed(["key", "bucket", *dimensions])} FROM _groups"""


def _stored(spec: RollupSpec, others: list[str], key_is_changed: str) -> str:
    selected = ["c.key", "c.bucket", *(f"t.{name} AS d{i}" for i, name in enumerate(others))]
    return f"""SELECT {listed(selected)}
      FROM _changed AS c JOIN {TARGET} AS t
        ON {key_is_changed} AND t.{quote(spec.bucket_column)} = c.bucket"""


def _remove(spec: RollupSpec, others: list[str], same_key: str) -> str:
    same = [same_key, f"t.{quote(spec.bucket_column)} = g.bucket"]
    same += [f"t.{name} IS NOT DISTINCT FROM g.d{i}" for i, name in enumerate(others)]
    return f"""DELETE FROM {TARGET} AS t USING _gone AS g
      WHERE {" AND ".join(same)}
      RETURNING 1"""
