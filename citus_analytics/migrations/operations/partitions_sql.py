"""The PL/pgSQL behind the operations on partitions.

A block reckons in UTC, whatever the session's time zone: the bounds of a partition must not depend
on who migrates. The names of partitions are those of pg_partman, as Citus's are.
"""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Final

from citus_analytics.migrations.operations.placement import ALLOW_TRIGGERS
from citus_analytics.sql import do_block, literal, refusal, sequential

if TYPE_CHECKING:
    from datetime import datetime

# The partitions that there are. What has no bound, such as a default partition, has a NULL.
_PARTITIONS: Final = r"""
  SELECT n.nspname, c.relname,
         substring(pg_get_expr(c.relpartbound, c.oid) FROM $$FROM \('([^']+)'\)$$)::timestamptz
           AS since,
         substring(pg_get_expr(c.relpartbound, c.oid) FROM $$TO \('([^']+)'\)$$)::timestamptz
           AS until
  FROM pg_catalog.pg_inherits AS i
  JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
  WHERE i.inhparent = parent
"""

_NO_WIDTH: Final = refusal(
    "format('create_time_partitions(%s) needs an interval that is finite and longer than 0, got "
    "%s', parent, width)"
)
_NO_DAYS: Final = refusal(
    "format('create_time_partitions(%s) needs an interval of whole days, because the table is "
    "partitioned by a date; got %s', parent, width)"
)

_CREATE: Final = f"""
IF width <= interval '0' OR NOT isfinite(width) THEN
  {_NO_WIDTH}
ELSIF kind = 'date'::regtype AND date_trunc('day', width) <> width THEN
  {_NO_DAYS}
END IF;
-- In line with the first partition that there is. One that has no beginning is in line with all.
SELECT min(p.since) INTO lower_bound FROM ({_PARTITIONS}) AS p WHERE isfinite(p.since);
IF lower_bound IS NULL THEN
  lower_bound := date_trunc(CASE WHEN width = '3 months' THEN 'quarter'
                           WHEN width >= '1 year' THEN 'year'
                           WHEN width >= '1 month' THEN 'month'
                           WHEN width >= '1 week' THEN 'week'
                           WHEN width >= '1 day' THEN 'day'
                           WHEN width >= '1 hour' THEN 'hour'
                           ELSE 'minute' END, start_from);
ELSE
  WHILE lower_bound > start_from LOOP lower_bound := lower_bound - width; END LOOP;
  WHILE lower_bound + width <= start_from LOOP lower_bound := lower_bound + width; END LOOP;
END IF;
WHILE lower_bound < end_at LOOP
  upper_bound := lower_bound + width;
  IF NOT EXISTS (SELECT FROM ({_PARTITIONS}) AS p
                 WHERE (p.since, p.until) = (lower_bound, upper_bound)) THEN
    suffix := '_p' || to_char(lower_bound, CASE WHEN width = '3 months' THEN 'YYYY"q"Q'
                                          WHEN width = '1 week' THEN 'IYYY"w"IW'
                                          WHEN width >= '1 year' THEN 'YYYY'
                                          WHEN width >= '1 month' THEN 'YYYY_MM'
                                          WHEN width >= '1 day' THEN 'YYYY_MM_DD'
                                          WHEN width >= '1 minute' THEN 'YYYY_MM_DD_HH24MI'
                                          ELSE 'YYYY_MM_DD_HH24MISS' END);
    SELECT n.nspname, c.relname INTO schema_name, stem
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.oid = parent;
    -- PostgreSQL would cut a name that is too long at its end, where the names differ.
    WHILE octet_length(stem || suffix) > current_setting('max_identifier_length')::int LOOP
      stem := left(stem, -1);
    END LOOP;
    EXECUTE format('CREATE TABLE %I.%I PARTITION OF %s FOR VALUES FROM (%L) TO (%L)',
                   schema_name, stem || suffix, parent, lower_bound, upper_bound);
  END IF;
  lower_bound := upper_bound;
END LOOP;
"""

_DROP: Final = f"""
FOR schema_name, stem IN
  SELECT p.nspname, p.relname FROM ({_PARTITIONS}) AS p WHERE p.until <= end_at ORDER BY p.until
LOOP
  EXECUTE format('DROP TABLE %I.%I', schema_name, stem);
END LOOP;
"""


def create(
    table: str, width: timedelta | str, start_from: datetime | None, end_at: datetime
) -> str:
    """Return the block that creates the partitions of a quoted table that are not there."""
    interval = width if isinstance(width, str) else _interval(width)
    return _reckoning(
        "create_time_partitions",
        table,
        _CREATE,
        f"width interval := {literal(interval)}",
        f"start_from timestamptz := {'now()' if start_from is None else _moment(start_from)}",
        f"end_at timestamptz := {_moment(end_at)}",
        "lower_bound timestamptz",
        "upper_bound timestamptz",
        "suffix text",
    )


def drop_old(table: str, older_than: datetime) -> str:
    """Return the block that drops the partitions of a quoted table up to a time."""
    end_at = f"end_at timestamptz := {_moment(older_than)}"
    return _reckoning("drop_old_time_partitions", table, _DROP, end_at)


def _reckoning(function: str, table: str, body: str, *declare: str) -> str:
    """Return a block that reckons in UTC, over a table that is partitioned by time."""
    unsuitable = (
        f"format('{function}(%s) needs a table partitioned by the range of one column of type date,"
        " timestamp or timestamptz; this one is %s', parent, "
        "coalesce('partitioned by ' || pg_get_partkeydef(parent), 'not partitioned'))"
    )
    statements = f"""
SELECT a.atttypid INTO kind FROM pg_catalog.pg_partitioned_table AS p
JOIN pg_catalog.pg_attribute AS a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
WHERE p.partrelid = parent AND p.partstrat = 'r' AND p.partnatts = 1
  AND a.atttypid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype);
IF kind IS NULL THEN
  {refusal(unsuitable)}
END IF;
IF EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'citus') THEN
  {sequential()}
  {ALLOW_TRIGGERS}
END IF;
PERFORM set_config('TimeZone', 'UTC', true), set_config('DateStyle', 'ISO, MDY', true);
{body.strip()}
PERFORM set_config('TimeZone', time_zone, true), set_config('DateStyle', date_style, true);"""
    variables = (
        f"parent regclass := {literal(table)}",
        "kind regtype",
        "time_zone text := current_setting('TimeZone')",
        "date_style text := current_setting('DateStyle')",
        "schema_name text",
        "stem text",
        *declare,
    )
    return do_block(statements, declare=variables)


def _moment(moment: datetime) -> str:
    return f"timestamptz {literal(moment.astimezone(UTC).isoformat(sep=' '))}"


def _interval(width: timedelta) -> str:
    return f"{width.days} days {width.seconds}.{width.microseconds:06d} seconds"
