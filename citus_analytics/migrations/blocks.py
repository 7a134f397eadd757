"""The SQL of operations: `DO` blocks that leave every decision to the server.

Whether an extension is installed and new enough, and whether there is a transaction, is decided by
the server when it runs the block. So `upgrade` and `upgrade --sql` send the same text, and nothing
here reads the database.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from citus_analytics.errors import OperationError
from citus_analytics.sql import (
    REFUSED,
    do_block,
    indented,
    literal,
    logger,
    qualify,
    refusal,
    sequential,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from alembic.operations import Operations
    from psycopg.errors import Diagnostic

    from citus_analytics.migrations.ops import CitusOperation

Policy: TypeAlias = Literal["auto", "require", "skip"]
"""What happens on a server without Citus; see `citus_analytics.migrations`."""


class Transaction(Enum):
    """What an operation needs of the transaction that it runs in.

    Attributes:
        ANY: Nothing: it is one statement, and runs inside of a transaction and without one.
        SEQUENTIAL: As `ANY`, but it switches the transaction to Citus's sequential mode, because
            Citus would otherwise use several connections to a node, and then refuse to create a
            function or a trigger in the same transaction.
        REQUIRED: A transaction: it is several statements, all or nothing.
        FORBIDDEN: No transaction around it: it commits on its way.
    """

    ANY = "any"
    SEQUENTIAL = "sequential"
    REQUIRED = "required"
    FORBIDDEN = "forbidden"


@dataclass(frozen=True, slots=True)
class Extension:
    """An extension, and the oldest version that is sufficient, as `(major, minor)`."""

    name: str
    since: tuple[int, int]


CITUS: Final = Extension("citus", (11, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """PL/pgSQL that runs where the server has the extensions that it needs.

    Attributes:
        call: The call, for the message about a version that is too old.
        body: The statements.
        otherwise: The consequence of a missing extension: "table t stays local".
        needs: The extensions.
    """

    call: str
    body: str
    otherwise: str
    needs: tuple[Extension, ...] = (CITUS,)


Step: TypeAlias = str | Guarded

# Citus changes a table by making a new one of the same name, on which it refuses triggers such as
# those of a rollup. They touch the colocated shards alone.
ALLOW_TRIGGERS: Final = "PERFORM set_config('citus.enable_unsafe_triggers', 'on', true);"


def execute(operations: Operations, operation: CitusOperation) -> None:
    """Execute an operation, or write it into the script of `--sql`.

    Raises:
        OperationError: A check of the block failed, or the policy is not one of the three.
    """
    context = operations.migration_context
    policy: Policy = context.opts.get("citus", "auto")
    if policy not in get_args(Policy):
        raise OperationError(
            f"the Citus policy must be one of {', '.join(get_args(Policy))}; "
            f"context.configure(citus={policy!r}) is none of them."
        )
    statements = list(_transaction_check(operation))
    for step in operation.steps():
        if isinstance(step, str):
            statements.append(step)
        elif policy != "skip":
            setting = f"{sequential()}\n" if operation.transaction is Transaction.SEQUENTIAL else ""
            checks = "".join(_extension_check(needed, step, policy) for needed in step.needs)
            statements.append(
                do_block(f"{checks}{setting}{step.body}", declare=("installed text",))
            )
    with _notices_logged(context.connection):
        for statement in statements:
            try:
                # A colon would start a bound parameter, also in the body of a function.
                context.impl.execute(text(statement.replace(":", "\\:")))
            except DBAPIError as error:
                if not isinstance(error.orig, psycopg.Error) or error.orig.sqlstate != REFUSED:
                    raise
                raise OperationError(error.orig.diag.message_primary) from error


@contextmanager
def _notices_logged(connection: object) -> Iterator[None]:
    """Log the notices of the server, such as that a table stays local."""
    # With `--sql` there is no connection, or one that only writes.
    driver = connection.connection.driver_connection if isinstance(connection, Connection) else None
    if not isinstance(driver, psycopg.Connection | psycopg.AsyncConnection):
        yield
        return

    def log(notice: Diagnostic) -> None:
        logger().warning("%s", notice.message_primary)

    driver.add_notice_handler(log)
    try:
        yield
    finally:
        driver.remove_notice_handler(log)


def _transaction_check(operation: CitusOperation) -> tuple[str, ...]:
    """Return the statements that check that an operation has the transaction it needs.

    A setting that ends with the transaction is still there for the next statement if, and only
    if, there is a transaction around both.
    """
    what = f"{operation.function}({operation.subject!r})"
    is_open = "current_setting('citus_analytics.transaction', true) IS NOT DISTINCT FROM 'open'"
    if operation.transaction is Transaction.REQUIRED:
        wrong = f"NOT {is_open}"
        message = (
            f"{what} needs a transaction, but this migration runs without one. Take it out of "
            "autocommit_block(), and leave transactional_ddl and the isolation level as they are."
        )
    elif operation.transaction is Transaction.FORBIDDEN:
        wrong = is_open
        message = (
            f"{what} commits on its way, so it cannot run inside of a transaction. Put it into "
            "`with op.get_context().autocommit_block():`, which commits what comes before it."
        )
    else:
        return ()
    return (
        do_block("PERFORM set_config('citus_analytics.transaction', 'open', true);"),
        do_block(f"IF {wrong} THEN\n{indented(refusal(literal(message)))}\nEND IF;"),
    )


def _extension_check(extension: Extension, step: Guarded, policy: Policy) -> str:
    """Return the statements that check an extension: they leave the block, or fail."""
    name = "Citus" if extension.name == "citus" else extension.name
    if policy == "auto":
        message = f"{name} is not installed in this database: {step.otherwise}."
        missing = f"RAISE NOTICE USING MESSAGE = {literal(message)};\nRETURN;"
    else:
        message = (
            f"{name} is required, but it is not installed in this database, so {step.otherwise}. "
            f"Run CREATE EXTENSION {extension.name}, or migrate with the policy auto."
        )
        missing = refusal(literal(message))
    needed = ".".join(map(str, extension.since))
    old = literal(f"{step.call} needs {name} {needed}, this server has ")
    return (
        "installed := (SELECT split_part(extversion, '-', 1) FROM pg_catalog.pg_extension "
        f"WHERE extname = {literal(extension.name)});\n"
        f"IF installed IS NULL THEN\n{indented(missing)}\n"
        f"ELSIF string_to_array(installed, '.')::int[] < '{{{needed.replace('.', ',')}}}'::int[]"
        f" THEN\n{indented(refusal(f'{old} || installed'))}\nEND IF;\n"
    )


# Whether a table is already as an operation would make it, which is an error to Citus. Because such
# a table is left alone, a migration that repairs one drifted database is harmless in the others,
# and in a history that starts from scratch.


def is_managed(table: str, *conditions: str) -> str:
    """Return the condition that Citus manages a quoted table, and that `conditions` hold for it."""
    every = (f"p.logicalrelid = {literal(table)}::regclass", *conditions)
    return "EXISTS (SELECT FROM pg_catalog.pg_dist_partition AS p\n  WHERE " + (
        "\n    AND ".join(every) + ")"
    )


def is_reference(table: str) -> str:
    """Return the condition that a table has a copy on every node."""
    return is_managed(table, "p.partmethod = 'n'", "p.repmodel = 't'")


def is_distributed(table: str, *conditions: str) -> str:
    """Return the condition that a table is on shards, and that `conditions` hold for it."""
    on_shards = "(p.partmethod <> 'n' OR p.colocationid <> 0 AND p.repmodel <> 't')"
    return is_managed(table, on_shards, *conditions)


def is_distributed_by(column: str | None) -> str:
    """Return the condition that a column is the distribution column; None for a single shard."""
    if column is None:
        return "p.partmethod = 'n'"
    return f"column_to_column_name(p.logicalrelid, p.partkey) = {literal(column)}"


def has_shards(shard_count: int) -> str:
    """Return the condition that a table has this number of shards."""
    shards = "SELECT count(*) FROM pg_catalog.pg_dist_shard AS s"
    return f"({shards} WHERE s.logicalrelid = p.logicalrelid) = {shard_count:d}"


def is_colocated_with(name: str, colocate_schema: str | None, schema: str | None) -> str:
    """Return the condition that a table is colocated with another; false for `default`."""
    others = "SELECT FROM pg_catalog.pg_dist_partition AS o WHERE o.colocationid = p.colocationid"
    if colocate_schema is None and name == "none":
        return f"NOT EXISTS ({others} AND o.logicalrelid <> p.logicalrelid)"
    if colocate_schema is None and name == "default":
        return "false"
    partner = colocation(name, colocate_schema, schema)
    return f"EXISTS ({others} AND o.logicalrelid = {partner}::regclass)"


def colocation(name: str, colocate_schema: str | None, schema: str | None) -> str:
    """Return the SQL string that names a colocated table to Citus.

    Without a schema of its own the table is looked for in `schema`, beside the one that it is
    colocated with, unless `name` is one of Citus's own words, "none" and "default".
    """
    if name in ("none", "default") and colocate_schema is None:
        return literal(name)
    return literal(qualify(name, schema if colocate_schema is None else colocate_schema))


# Partitions by time. Names and ranges are those of Citus's functions of the same names ("Citus
# Utility Functions", `create_time_partitions`, `drop_old_time_partitions`), which are those of
# pg_partman, in a session whose time zone is UTC: the bounds of a partition must not depend on who
# migrates. They are plain SQL, so that they are the same on every server.

# Where there is no bound, as in a default partition, it is NULL.
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

_CREATE_PARTITIONS: Final = f"""
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

_DROP_PARTITIONS: Final = f"""
FOR schema_name, stem IN
  SELECT p.nspname, p.relname FROM ({_PARTITIONS}) AS p WHERE p.until <= end_at ORDER BY p.until
LOOP
  EXECUTE format('DROP TABLE %I.%I', schema_name, stem);
END LOOP;
"""


def create_time_partitions(
    table: str, width: timedelta | str, start_from: datetime | None, end_at: datetime
) -> str:
    """Return the block that creates the missing partitions of a quoted table."""
    if isinstance(width, timedelta):
        width = f"{width.days} days {width.seconds}.{width.microseconds:06d} seconds"
    return _in_utc(
        "create_time_partitions",
        table,
        _CREATE_PARTITIONS,
        f"width interval := {literal(width)}",
        f"start_from timestamptz := {'now()' if start_from is None else _timestamp(start_from)}",
        f"end_at timestamptz := {_timestamp(end_at)}",
        "lower_bound timestamptz",
        "upper_bound timestamptz",
        "suffix text",
    )


def drop_old_time_partitions(table: str, older_than: datetime) -> str:
    """Return the block that drops the partitions of a quoted table up to a time."""
    end_at = f"end_at timestamptz := {_timestamp(older_than)}"
    return _in_utc("drop_old_time_partitions", table, _DROP_PARTITIONS, end_at)


def _in_utc(function: str, table: str, body: str, *declare: str) -> str:
    """Return a block that computes in UTC, over a table that is partitioned by time."""
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


def _timestamp(moment: datetime) -> str:
    return f"timestamptz {literal(moment.astimezone(UTC).isoformat(sep=' '))}"
