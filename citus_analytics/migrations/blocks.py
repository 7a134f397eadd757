"""The SQL of operations: `DO` blocks that leave every decision to the server.

Whether an extension is installed and new enough, and whether there is a transaction, is decided by
the server when it runs the block. So `upgrade` and `upgrade --sql` send the same text, and nothing
here reads the database.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast, get_args

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from citus_analytics.errors import OperationError
from citus_analytics.rollups.sql import MARKER
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

    from alembic.migration import MigrationContext
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
        call: The call, for messages.
        body: The statements.
        otherwise: The consequence of a missing extension: "table t stays local".
        needs: The extensions.
        only_if: The condition under which the statements run; None for always.
        rewrites: A query for the tables that Citus makes anew, as regclass; what else depends on
            them is kept, or the block fails.
    """

    call: str
    body: str
    otherwise: str
    needs: tuple[Extension, ...] = (CITUS,)
    only_if: str | None = None
    rewrites: str | None = None

    def block(self, policy: Policy, *, sequential_mode: bool) -> str:
        """Return the SQL of the step."""
        body, variables = self.body, ["installed text", "lost text"]
        if self.rewrites is not None:
            body = _keeping_dependents(self.call, self.rewrites, body)
            variables += _VARIABLES_OF_KEEPING
        if self.only_if is not None:
            body = f"IF {self.only_if} THEN\n{indented(body)}\nEND IF;"
        checks = "".join(_extension_check(needed, self, policy) for needed in self.needs)
        setting = f"{sequential()}\n" if sequential_mode else ""
        return do_block(f"{checks}{setting}{body}", declare=tuple(variables))


Step: TypeAlias = str | Guarded

_IS_MISSING: Final = " is not installed in this database: "

# Citus changes a table by making a new one of the same name, on which it refuses triggers such as
# those of a rollup. They touch the colocated shards alone.
ALLOW_TRIGGERS: Final = "PERFORM set_config('citus.enable_unsafe_triggers', 'on', true);"


def policy_of(context: MigrationContext) -> Policy:
    """Return the policy of an environment, whoever wrote its `env.py`.

    It is what `context.configure` is given, or else `-x citus=` of the command line, or else what
    `configuration` was given.

    Raises:
        OperationError: The policy is not one of the three.
    """
    policy = context.opts.get("citus")
    environment = context.environment_context
    if policy is None and environment is not None:
        arguments = environment.get_x_argument(as_dictionary=True)
        policy = arguments.get("citus", environment.config.attributes.get("citus"))
    if policy is None:
        return "auto"
    if policy not in get_args(Policy):
        raise OperationError(
            f"the Citus policy must be one of {', '.join(get_args(Policy))}; {policy!r}, of "
            "context.configure(citus=...) or of -x citus=, is none of them."
        )
    return cast("Policy", policy)


def execute(operations: Operations, operation: CitusOperation) -> None:
    """Execute an operation, or write it into the script of `--sql`.

    Raises:
        OperationError: A check of the block failed, or the policy is not one of the three.
    """
    context = operations.migration_context
    policy = policy_of(context)
    statements = list(_transaction_check(operation))
    for step in operation.steps():
        if isinstance(step, str):
            statements.append(step)
        elif policy != "skip":
            sequential_mode = operation.transaction is Transaction.SEQUENTIAL
            statements.append(step.block(policy, sequential_mode=sequential_mode))
    # Of all the operations of an environment, what is missing is said once.
    told: set[str] = context.opts.setdefault("citus_analytics_told", set())
    with _notices_logged(context.connection, told):
        for statement in statements:
            try:
                # A colon would start a bound parameter, also in the body of a function.
                context.impl.execute(text(statement.replace(":", "\\:")))
            except DBAPIError as error:
                if not isinstance(error.orig, psycopg.Error) or error.orig.sqlstate != REFUSED:
                    raise
                raise OperationError(error.orig.diag.message_primary) from error


@contextmanager
def _notices_logged(connection: object, told: set[str]) -> Iterator[None]:
    """Log the notices of the server, such as that a table stays local.

    Args:
        connection: Where they come from.
        told: The extensions of which it has been said that they are missing; further notices about
            them are for who debugs.
    """
    # With `--sql` there is no connection, or one that only writes.
    driver = connection.connection.driver_connection if isinstance(connection, Connection) else None
    if not isinstance(driver, psycopg.Connection | psycopg.AsyncConnection):
        yield
        return

    def log(notice: Diagnostic) -> None:
        parts = (
            notice.message_primary,
            notice.message_detail and f"DETAIL: {notice.message_detail}",
            notice.message_hint and f"HINT: {notice.message_hint}",
        )
        level = logging.WARNING if notice.severity_nonlocalized == "WARNING" else logging.INFO
        said = "\n".join(filter(None, parts))
        extension, is_missing, _ = said.partition(_IS_MISSING)
        if is_missing and extension in told:
            level = logging.DEBUG
        elif is_missing:
            told.add(extension)
            said += " What else does without it is logged at the level DEBUG."
        logger().log(level, "%s", said)

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
        message = f"{name}{_IS_MISSING}{step.otherwise}."
        missing = f"RAISE WARNING USING MESSAGE = {literal(message)};\nRETURN;"
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


# What depends on a table that is rewritten. Citus makes a new table of the same name and drops the
# old one with everything that depends on it. Of that it brings back indexes, constraints, triggers,
# policies, privileges and the definitions of views. It forgets comments, the rest of a view, and
# functions and columns of the table's row type; and it grants default privileges that had been
# revoked. (Citus 13.2: `ConvertTableInternal` in alter_table.c, and `CreateCitusLocalTable`.)

# The relation that an object is part of; NULL where that is the object itself, and no relation.
_RELATION_OF: Final = """
CASE {classid}
  WHEN 'pg_class'::regclass THEN coalesce(
    (SELECT indrelid FROM pg_catalog.pg_index WHERE indexrelid = {objid}), {objid})
  WHEN 'pg_type'::regclass THEN
    (SELECT nullif(coalesce(nullif(t.typrelid, 0), e.typrelid), 0) FROM pg_catalog.pg_type AS t
     LEFT JOIN pg_catalog.pg_type AS e ON e.oid = t.typelem WHERE t.oid = {objid})
  WHEN 'pg_constraint'::regclass THEN
    (SELECT nullif(conrelid, 0) FROM pg_catalog.pg_constraint WHERE oid = {objid})
  WHEN 'pg_attrdef'::regclass THEN
    (SELECT adrelid FROM pg_catalog.pg_attrdef WHERE oid = {objid})
  WHEN 'pg_trigger'::regclass THEN
    (SELECT tgrelid FROM pg_catalog.pg_trigger WHERE oid = {objid})
  WHEN 'pg_policy'::regclass THEN
    (SELECT polrelid FROM pg_catalog.pg_policy WHERE oid = {objid})
  WHEN 'pg_rewrite'::regclass THEN
    (SELECT ev_class FROM pg_catalog.pg_rewrite WHERE oid = {objid})
  WHEN 'pg_statistic_ext'::regclass THEN
    (SELECT stxrelid FROM pg_catalog.pg_statistic_ext WHERE oid = {objid})
  WHEN 'pg_publication_rel'::regclass THEN
    (SELECT prrelid FROM pg_catalog.pg_publication_rel WHERE oid = {objid})
END"""

_FIND_DEPENDENTS: Final = f"""
WITH RECURSIVE gone AS (
  SELECT 'pg_class'::regclass::oid AS classid, r AS objid, 0 AS objsubid
  FROM unnest(rewritten) AS r
  UNION
  SELECT next.classid, next.objid, next.objsubid FROM gone AS g CROSS JOIN LATERAL (
    SELECT d.classid, d.objid, d.objsubid FROM pg_catalog.pg_depend AS d
    WHERE d.refclassid = g.classid AND d.refobjid = g.objid
      AND (g.objsubid = 0 OR d.refobjsubid = g.objsubid)
    UNION ALL
    SELECT 'pg_class'::regclass, w.ev_class, 0 FROM pg_catalog.pg_rewrite AS w
    WHERE g.classid = 'pg_rewrite'::regclass AND w.oid = g.objid AND w.rulename = '_RETURN'
  ) AS next
  -- Citus refuses by itself what foreign keys of other tables forbid.
  WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_constraint AS k
                    WHERE next.classid = 'pg_constraint'::regclass AND k.oid = next.objid
                      AND k.contype = 'f')
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS t
                    WHERE next.classid = 'pg_trigger'::regclass AND t.oid = next.objid
                      AND t.tgisinternal)
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_class AS s
                    WHERE next.classid = 'pg_class'::regclass AND s.oid = next.objid
                      AND s.relkind IN ('S', 't'))
), found AS (
  SELECT g.*, c.relkind,
         {indented(_RELATION_OF.format(classid="g.classid", objid="g.objid")).strip()} AS relation
  FROM gone AS g LEFT JOIN pg_catalog.pg_class AS c
    ON g.classid = 'pg_class'::regclass AND c.oid = g.objid
), kept AS (
  SELECT array_agg(objid) FILTER (WHERE relkind IN ('v', 'm')) AS views FROM found
)
SELECT k.views, (
  SELECT string_agg(DISTINCT pg_describe_object(f.classid, f.objid, f.objsubid), ', ')
  FROM found AS f
  WHERE (f.relation IS NULL OR f.relation <> ALL (rewritten || k.views))
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_type AS a
                    WHERE f.classid = 'pg_type'::regclass AND a.oid = f.objid
                      AND a.typcategory = 'A'))
INTO views, lost FROM kept AS k;"""

_SAVE: Final = f"""
SELECT array_agg(s.statement ORDER BY s.place, s.number) INTO saved FROM (
  SELECT 1 AS place, c.oid AS number, format('ALTER MATERIALIZED VIEW %s SET (%s)', c.oid::regclass,
      (SELECT string_agg(format('%I = %L', o.option_name, o.option_value), ', ')
       FROM pg_options_to_table(c.reloptions) AS o)) AS statement
  FROM pg_catalog.pg_class AS c
  WHERE c.oid = ANY (views) AND c.relkind = 'm' AND c.reloptions IS NOT NULL
  UNION ALL
  SELECT 1, a.attnum, format('ALTER MATERIALIZED VIEW %s ALTER COLUMN %I SET STATISTICS %s',
      c.oid::regclass, a.attname, a.attstattarget)
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
  WHERE c.oid = ANY (views) AND c.relkind = 'm' AND a.attnum > 0 AND a.attstattarget >= 0
  UNION ALL
  SELECT 2, i.indexrelid,
      CASE WHEN i.indisunique
           THEN 'CREATE UNIQUE INDEX IF NOT EXISTS ' || substr(pg_get_indexdef(i.indexrelid), 21)
           ELSE 'CREATE INDEX IF NOT EXISTS ' || substr(pg_get_indexdef(i.indexrelid), 14) END
  FROM pg_catalog.pg_index AS i WHERE i.indrelid = ANY (views)
  UNION ALL
  SELECT 3, i.indexrelid,
      format('ALTER MATERIALIZED VIEW %s CLUSTER ON %I', i.indrelid::regclass, c.relname)
  FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
  WHERE i.indrelid = ANY (views) AND i.indisclustered
  UNION ALL
  SELECT 2, x.oid, 'CREATE STATISTICS IF NOT EXISTS ' || substr(pg_get_statisticsobjdef(x.oid), 19)
  FROM pg_catalog.pg_statistic_ext AS x WHERE x.stxrelid = ANY (views)
  UNION ALL
  SELECT 2, d.oid, format('ALTER TABLE %s ALTER COLUMN %I SET DEFAULT %s', d.adrelid::regclass,
      a.attname, pg_get_expr(d.adbin, d.adrelid))
  FROM pg_catalog.pg_attrdef AS d
  JOIN pg_catalog.pg_attribute AS a ON (a.attrelid, a.attnum) = (d.adrelid, d.adnum)
  WHERE d.adrelid = ANY (views)
  UNION ALL
  SELECT 2, w.oid, 'CREATE OR REPLACE RULE ' || substr(pg_get_ruledef(w.oid), 13)
  FROM pg_catalog.pg_rewrite AS w WHERE w.ev_class = ANY (views) AND w.rulename <> '_RETURN'
  UNION ALL
  SELECT 2, t.oid, 'CREATE OR REPLACE TRIGGER ' || substr(pg_get_triggerdef(t.oid), 16)
  FROM pg_catalog.pg_trigger AS t WHERE t.tgrelid = ANY (views) AND NOT t.tgisinternal
  UNION ALL
  SELECT 4, c.oid, format('REFRESH MATERIALIZED VIEW %s WITH NO DATA', c.oid::regclass)
  FROM pg_catalog.pg_class AS c
  WHERE c.oid = ANY (views) AND c.relkind = 'm' AND NOT c.relispopulated
  UNION ALL
  -- What is made anew has the default privileges, and those of its owner.
  SELECT 5, c.oid, format('REVOKE ALL ON %s FROM %s', c.oid::regclass, role.name)
  FROM pg_catalog.pg_class AS c CROSS JOIN LATERAL (
    SELECT quote_ident(pg_get_userbyid(c.relowner)) WHERE c.relacl IS NOT NULL
    UNION
    SELECT CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END
    FROM pg_catalog.pg_default_acl AS d CROSS JOIN LATERAL aclexplode(d.defaclacl) AS g
    WHERE d.defaclobjtype = 'r') AS role (name)
  WHERE c.oid = ANY (rewritten || views)
  UNION ALL
  SELECT 6, 0, format('GRANT %s ON %s TO %s%s', string_agg(g.privilege || g.columns, ', '),
      g.relation, CASE WHEN g.grantee = 0 THEN 'PUBLIC'
                       ELSE quote_ident(pg_get_userbyid(g.grantee)) END,
      CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
  FROM (
    SELECT c.oid::regclass AS relation, '' AS columns, x.grantee, x.is_grantable,
           x.privilege_type AS privilege
    FROM pg_catalog.pg_class AS c CROSS JOIN LATERAL aclexplode(c.relacl) AS x
    WHERE c.oid = ANY (rewritten || views)
    UNION ALL
    SELECT a.attrelid::regclass, format(' (%I)', a.attname), x.grantee, x.is_grantable,
           x.privilege_type
    FROM pg_catalog.pg_attribute AS a CROSS JOIN LATERAL aclexplode(a.attacl) AS x
    WHERE a.attrelid = ANY (rewritten || views)) AS g
  GROUP BY g.relation, g.grantee, g.is_grantable
  UNION ALL
  SELECT 7, 0, format('COMMENT ON %s %s IS %L',
      CASE WHEN i.type LIKE '% column' THEN 'COLUMN'
           WHEN i.type LIKE '% constraint' THEN 'CONSTRAINT'
           WHEN i.type = 'statistics object' THEN 'STATISTICS'
           ELSE upper(i.type) END, i.identity, d.description)
  FROM pg_catalog.pg_description AS d
  CROSS JOIN LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) AS i
  WHERE {indented(_RELATION_OF.format(classid="d.classoid", objid="d.objoid")).strip()}
        = ANY (rewritten || views)
) AS s;"""

_VARIABLES_OF_KEEPING: Final = (
    "rewritten oid[]",
    "views oid[]",
    "saved text[]",
    "statement text",
)


def _keeping_dependents(call: str, tables: str, body: str) -> str:
    """Return statements that keep what depends on the tables that `body` rewrites.

    They fail, before `body` runs, if something would be lost that they cannot bring back.
    """
    message = (
        f"format('{call} drops what depends on the table, and this could not be brought back: "
        "%s. Drop it before, and create it again afterwards.', lost)"
    )
    return f"""-- What Citus forgets when it makes the table anew is brought back after that.
rewritten := ARRAY(
  WITH t (oid) AS ({tables})
  SELECT t.oid::oid FROM t
  UNION SELECT p.relid::oid FROM t CROSS JOIN LATERAL pg_partition_tree(t.oid::regclass) AS p);
-- On all nodes: Citus itself keeps out the writers of this node alone, copies the rows, and drops
-- what has been written through other nodes meanwhile. With a table its partitions are locked.
FOR statement IN
  SELECT format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', string_agg(c.oid::regclass::text, ', '
    ORDER BY c.oid)) FROM pg_catalog.pg_class AS c
  WHERE c.oid = ANY (rewritten) AND c.relkind IN ('r', 'p') AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_inherits AS i
    WHERE i.inhrelid = c.oid AND i.inhparent = ANY (rewritten))
  HAVING count(*) > 0
LOOP
  EXECUTE statement;
END LOOP;
{_FIND_DEPENDENTS.strip()}
IF lost IS NOT NULL THEN
{indented(refusal(message))}
END IF;
views := coalesce(views, '{{}}');
{_SAVE.strip()}
{body}
FOREACH statement IN ARRAY coalesce(saved, '{{}}') LOOP
  EXECUTE statement;
END LOOP;"""


# Whether a table is already as an operation would make it, which is an error to Citus. Because such
# a table is left alone, a migration that repairs one drifted database is harmless in the others,
# and in a history that starts from scratch.


def is_managed(table: str, *conditions: str) -> str:
    """Return the condition that Citus manages a quoted table, and that `conditions` hold for it."""
    every = (f"p.logicalrelid = {literal(table)}::regclass", *conditions)
    return "EXISTS (SELECT FROM pg_catalog.pg_dist_partition AS p\n  WHERE " + (
        "\n    AND ".join(every) + ")"
    )


def undistribute_if_new(table: str) -> str:
    """Return the statement that makes a quoted table local if this transaction has created it.

    A server may distribute tables as soon as they are created (`citus.distribution_columns`), and
    otherwise than the next operation wants it.
    """
    is_new = (
        "EXISTS (SELECT FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_type AS t\n"
        f"  ON t.oid = c.reltype WHERE c.oid = {literal(table)}::regclass\n"
        "    AND t.xmin::text = pg_current_xact_id_if_assigned()::xid::text)"
    )
    return (
        f"IF {is_managed(table)}\n  AND {is_new} THEN\n"
        f"    PERFORM undistribute_table({literal(table)});\nEND IF;\n"
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


# Citus drops foreign keys between tables that are not colocated any longer.
REFUSE_TO_DROP_FOREIGN_KEYS: Final = f"""
SELECT string_agg(format('%I of table %s', k.conname, k.conrelid::regclass), ', ') INTO lost
FROM pg_catalog.pg_constraint AS k
WHERE k.contype = 'f' AND k.conparentid = 0
  AND (k.conrelid = ANY (rewritten)) <> (k.confrelid = ANY (rewritten))
  AND EXISTS (SELECT FROM pg_catalog.pg_dist_partition AS p
              WHERE p.logicalrelid = k.confrelid AND p.partmethod <> 'n');
IF lost IS NOT NULL THEN
  {
    refusal(
        "format('alter_distributed_table drops the foreign key %s: the tables would not be "
        "colocated any longer. Drop it before.', lost)"
    )
}
END IF;"""


def refuse_to_part_rollups(call: str, tables: str, *, together: bool = False) -> str:
    """Return the statement that fails if tables would be parted from their rollups.

    Triggers on the shards of a source write to its log beside them, and those of the log to the
    tables of its rollups.

    Args:
        call: The function that would do it.
        tables: The tables, an SQL expression of an array of oids.
        together: Whether all that are on one shard may change together.
    """
    members = "c.relname IN (d.spec ->> 'source', (d.spec ->> 'source') || '_log')"
    keyed = " AND (t ->> 'keyed')::boolean" if together else ""
    parted = f"bool_or(m.oid = ANY ({tables}))"
    if together:
        parted += f" AND NOT bool_and(m.oid = ANY ({tables}))"
    hint = ", or change all of them at once (cascade_to_colocated=True)" if together else ""
    message = (
        f"format('{call} would part table %s from its rollups. Put op.drop_rollups(..., "
        "keep_state=True) before it and op.create_rollups(...) behind it, in the same migration"
        f"{hint}.', lost)"
    )
    return f"""WITH d AS MATERIALIZED (
  SELECT p.pronamespace, substr(e.description, {len(MARKER) + 1})::jsonb AS spec
  FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_description AS e
    ON e.classoid = 'pg_proc'::regclass AND e.objoid = p.oid
  WHERE p.proname LIKE '%\\_capture' AND starts_with(e.description, {literal(MARKER)})
), m AS (
  SELECT d.spec ->> 'source' AS source, c.oid
  FROM d JOIN pg_catalog.pg_class AS c ON c.relnamespace = d.pronamespace
  WHERE c.relkind IN ('r', 'p') AND ({members} OR EXISTS (
    SELECT FROM jsonb_array_elements(d.spec -> 'targets') AS t
    WHERE (t ->> 'table') || '_outbox' = c.relname OR t ->> 'table' = c.relname{keyed}))
)
SELECT min(p.source) INTO lost
FROM (SELECT m.source FROM m GROUP BY m.source HAVING {parted}) AS p;
IF lost IS NOT NULL THEN
  {refusal(message)}
END IF;"""


# Which tables an operation on one of them rewrites.


def just(table: str) -> str:
    """Return the query for a quoted table alone."""
    return f"SELECT {literal(table)}::regclass"


def colocated(table: str) -> str:
    """Return the query for the tables that are colocated with a quoted table, itself included."""
    return (
        "SELECT o.logicalrelid FROM pg_catalog.pg_dist_partition AS p\n"
        "  JOIN pg_catalog.pg_dist_partition AS o USING (colocationid)\n"
        f"  WHERE p.logicalrelid = {literal(table)}::regclass"
    )


def connected(table: str) -> str:
    """Return the query for the tables that foreign keys connect with a quoted table."""
    return (
        f"WITH RECURSIVE r AS (SELECT {literal(table)}::regclass::oid AS oid UNION\n"
        "    SELECT CASE WHEN k.conrelid = r.oid THEN k.confrelid ELSE k.conrelid END\n"
        "    FROM r JOIN pg_catalog.pg_constraint AS k\n"
        "      ON k.contype = 'f' AND r.oid IN (k.conrelid, k.confrelid))\n"
        "  SELECT r.oid::regclass FROM r"
    )


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

_INCOMPLETE: Final = refusal(
    "format('drop_old_time_partitions(%s) would lose rows that are not in the rollups yet: "
    "backfill the rollups first', parent)"
)

# Where there are rollups, what is pending goes into them first, and their horizon moves: the source
# is not complete before it. Runs, verification and repair wait until the transaction has ended.
_DROP_PARTITIONS: Final = f"""
SELECT n.nspname, c.relname, substr(obj_description(f.oid, 'pg_proc'), {len(MARKER) + 1})::jsonb
INTO schema_of_table, stem_of_table, rollups
FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_proc AS f
  ON f.pronamespace = c.relnamespace AND f.proname = c.relname || '_capture' AND f.pronargs = 0
  AND starts_with(obj_description(f.oid, 'pg_proc'), {literal(MARKER)})
WHERE c.oid = parent;
IF rollups IS NOT NULL AND EXISTS (SELECT FROM ({_PARTITIONS}) AS p WHERE p.until <= end_at) THEN
  EXECUTE format('SELECT %I.%I()', schema_of_table, stem_of_table || '_run');
  EXECUTE format('SELECT EXISTS (SELECT FROM %I.%I WHERE complete_since > ''-infinity'')',
                 schema_of_table, stem_of_table || '_rollups') INTO incomplete;
  IF incomplete THEN
  {indented(_INCOMPLETE)}
  END IF;
END IF;
FOR schema_name, stem, upper_bound IN
  SELECT p.nspname, p.relname, p.until FROM ({_PARTITIONS}) AS p
  WHERE p.until <= end_at ORDER BY p.until
LOOP
  IF rollups ->> 'time' <> partitioned_by THEN
    EXECUTE format('SELECT max(r.%1$I) + interval ''1 us'' FROM %2$I.%3$I AS r '
                   'WHERE isfinite(r.%1$I)', rollups ->> 'time', schema_name, stem)
    INTO upper_bound;
  END IF;
  horizon := greatest(horizon, upper_bound);
  EXECUTE format('DROP TABLE %I.%I', schema_name, stem);
END LOOP;
IF rollups IS NOT NULL AND horizon IS NOT NULL THEN
  EXECUTE format('UPDATE %I.%I AS s SET horizon = greatest(s.horizon, $1)',
                 schema_of_table, stem_of_table || '_rollups') USING horizon;
  IF rollups ->> 'late' = 'refuse' THEN
    EXECUTE format('UPDATE %I.%I AS e SET horizon = greatest(e.horizon, $1)',
                   schema_of_table, stem_of_table || '_horizon') USING horizon;
  END IF;
END IF;
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
    return _in_utc(
        "drop_old_time_partitions",
        table,
        _DROP_PARTITIONS,
        end_at,
        "upper_bound timestamptz",
        "horizon timestamptz",
        "schema_of_table text",
        "stem_of_table text",
        "rollups jsonb",
        "incomplete boolean := false",
    )


def _in_utc(function: str, table: str, body: str, *declare: str) -> str:
    """Return a block that computes in UTC, over a table that is partitioned by time."""
    unsuitable = (
        f"format('{function}(%s) needs a table partitioned by the range of one column of type date,"
        " timestamp or timestamptz; this one is %s', parent, "
        "coalesce('partitioned by ' || pg_get_partkeydef(parent), 'not partitioned'))"
    )
    statements = f"""
SELECT a.atttypid, a.attname INTO kind, partitioned_by FROM pg_catalog.pg_partitioned_table AS p
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
        "partitioned_by text",
        "time_zone text := current_setting('TimeZone')",
        "date_style text := current_setting('DateStyle')",
        "schema_name text",
        "stem text",
        *declare,
    )
    return do_block(statements, declare=variables)


def _timestamp(moment: datetime) -> str:
    return f"timestamptz {literal(moment.astimezone(UTC).isoformat(sep=' '))}"
