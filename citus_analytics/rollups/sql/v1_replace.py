"""What version 1 does around its replacement, so that the first run after it is exact.

Creating a rollup's machinery logs every row of the source. What else may be out of date is logged
here: pairs that were waiting in the old change log, and groups whose rows may have gone while the
triggers were missing. Groups from before the oldest row of the source stay as they are: their rows
were expired on purpose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from citus_analytics.rollups.sql import v1_names as names
from citus_analytics.sql import dollar_quote, literal, on_citus, qualify, quote, sequential

if TYPE_CHECKING:
    from citus_analytics.rollups.sql.spec import RollupSpec

# What one version keeps, another takes over.
_PENDING: Final = "pg_temp.citus_analytics_pending"


def keep(spec: RollupSpec) -> tuple[str, ...]:
    """Return the statements that put aside what waits in the change log, if there is one."""
    changes = qualify(spec.changes, spec.schema)
    body = f"""
BEGIN
  CREATE TEMPORARY TABLE citus_analytics_pending (key {spec.key_type}, bucket timestamptz);
  IF to_regclass({literal(changes)}) IS NOT NULL THEN
    INSERT INTO {_PENDING} (key, bucket)
    SELECT DISTINCT unnest(coalesce(c.keys, ARRAY[c.key])), c.bucket FROM {changes} AS c;
  END IF;
END
"""
    return (on_citus(sequential()), f"DO {dollar_quote(body, 'keep')}")


def relog(spec: RollupSpec) -> tuple[str, ...]:
    """Return the statements that log what was put aside, and what the target has."""
    changes, source, target = (
        qualify(table, spec.schema) for table in (spec.changes, spec.source, spec.target)
    )
    time, bucket = f"min(s.{quote(spec.time_column)})", f"t.{quote(spec.bucket_column)}"
    return (
        f"INSERT INTO {changes} (key, bucket)\nSELECT p.key, p.bucket FROM {_PENDING} AS p",
        f"DROP TABLE {_PENDING}",
        f"INSERT INTO {changes} (key, bucket)\n"
        f"SELECT DISTINCT t.{quote(spec.key)}, {bucket} FROM {target} AS t\n"
        f"WHERE {bucket} >= (SELECT {names.bucket_of(spec, time)} FROM {source} AS s)",
    )
