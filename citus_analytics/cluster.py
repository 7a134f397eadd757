"""What Citus does with a statement, and reads of all nodes as of one moment.

On plain PostgreSQL both work too: a statement is not distributed, and a snapshot is one anyway.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, overload

import psycopg
from psycopg.errors import (
    FeatureNotSupported,
    IdleInTransactionSessionTimeout,
    InsufficientPrivilege,
    InternalError_,
    LockNotAvailable,
    QueryCanceled,
)
from psycopg.errors import SyntaxError as PostgresSyntaxError
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, Table, event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.base import Executable

from citus_analytics.catalog.inspect import ask_all_nodes, citus_version
from citus_analytics.errors import ArgumentError, SnapshotError
from citus_analytics.sql import LONGEST_NAME, SNAPSHOT, Executor, executor_of, qualify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from citus_analytics.schema import TableLike

# --------------------------------------------------------------------------------------- Statements

ShapeKind: TypeAlias = Literal[
    "router",
    "pushdown",
    "repartition",
    "pull",
    "reference",
    "local",
    "refused",
    "not_distributed",
    "unknown",
]
"""How a statement is executed; see `Shape`."""

# With a parameter, if only in a comment, the server takes one statement, and none behind it: that
# would be executed.
_EXPLAIN: Final = "EXPLAIN (VERBOSE, COSTS OFF, FORMAT JSON) /* %s */ "
_OPTION: Final = "citus_analytics_explain"
# Of the SQLSTATE of errors that a statement itself is to blame for: what is not supported, data,
# names of schemas, syntax and rights and names, views with a check.
_OF_STATEMENTS: Final = ("0A", "22", "3F", "42", "44")
_LONGEST_SHOWN: Final = 1000
_INSERT_SELECT: Final = "INSERT/SELECT method"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A part of a distributed statement, which one node executes.

    Attributes:
        query: The SQL that the node executes, on shards.
        node: The node, as `host:port`.
    """

    query: str
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How Citus executes a statement.

    Attributes:
        kind: "router": on one node, which has all the shards that are needed. "pushdown": on
            several shards at once, beside the data; what their answers have in common is added up
            on the node that was asked. "repartition": rows are sent from shard to shard first.
            "pull": rows come to the node that was asked, and are worked on there, or are sent on
            from there. "reference": on one copy of reference tables. "local": without Citus, on
            the node that was asked. "refused": Citus does not execute it. "not_distributed": the
            database does not have Citus. "unknown": the plan is one that this library does not
            know.
        reason: Why, in a sentence.
        tables: The tables that are named in what the plan shows: quoted, with their schemas.
            Citus does not show those of a join with repartitioning.
        task_count: How many tasks the main part of the statement has.
        tasks: Those of them that the plan shows: one, unless `citus.explain_all_tasks` is on.
        merged: What the node that was asked does with the rows that come: the nodes of its plan,
            such as "Aggregate" and "Sort", from the last one to the first.
        subplans: The parts that are executed before, and whose results are kept for the main part.
        plan: The plan, as `EXPLAIN (VERBOSE, FORMAT JSON)` returns it.
    """

    kind: ShapeKind
    reason: str
    tables: tuple[str, ...] = ()
    task_count: int = 0
    tasks: tuple[Task, ...] = ()
    merged: tuple[str, ...] = ()
    subplans: tuple[Shape, ...] = ()
    plan: Any = field(default=None, repr=False)

    @property
    def node(self) -> str | None:
        """The node that executes all of it, as `host:port`; None if there are several."""
        return self.tasks[0].node if self.task_count == 1 and not self.subplans else None

    def __str__(self) -> str:
        lines = [f"{self.kind}: {self.reason}"]
        if self.tables:
            lines.append(f"  reads or writes {', '.join(self.tables)}")
        lines += (f"  on {task.node}: {task.query}" for task in self.tasks)
        for subplan in self.subplans:
            lines += (
                f"  before that, {line.lstrip()}" if not line.startswith(" ") else f"  {line}"
                for line in str(subplan).splitlines()
            )
        return "\n".join(lines)


def explain_shape(
    session: Executor,
    statement: Executable | TableLike | str,
    parameters: Mapping[str, Any] | None = None,
) -> Shape:
    """Return how Citus executes a statement, without executing it.

    The statement is the one that the session would send, with its `do_orm_execute` hooks and its
    `schema_translate_map`. Pending objects of a session are flushed first, if `autoflush` is on.
    Nodes are asked for their plans; no row is read or written. (To find the shard of a row that is
    inserted, Citus computes its values, and a sequence may go on.)

    Args:
        session: A session or connection to any node.
        statement: A statement of SQLAlchemy's; a table or mapped class, for all its rows; or SQL as
            it is, without parameters.
        parameters: Values of bound parameters by name.

    Raises:
        ArgumentError: The statement is none, the session does not execute it, or the server does
            not accept it: it is wrong, names what is not there, is several, or one that has no
            plan, such as DROP TABLE.
        DBAPIError: Something else has failed, such as the connection.
    """
    executor_of(session)
    if isinstance(session, Connection):
        connection = session
    else:
        if session.autoflush:
            session.flush()
        described = list(getattr(statement, "column_descriptions", ()))
        subject = getattr(statement, "entity_description", None) or (described or [{}])[0]
        mapper = statement if isinstance(statement, type) else subject.get("entity")
        connection = session.connection(
            bind_arguments={
                **({"mapper": mapper} if isinstance(mapper, type) else {}),
                **({} if isinstance(statement, str | type) else {"clause": statement}),
            }
        )
    if not isinstance(
        connection.connection.driver_connection, psycopg.Connection | psycopg.AsyncConnection
    ):
        raise ArgumentError("statements are explained through psycopg 3.")
    if isinstance(statement, str):
        if parameters:
            raise ArgumentError("SQL as a string has no parameters: use sqlalchemy.text(...).")
        sql = statement
    else:
        if isinstance(statement, type | Table):
            statement = select(statement)
        if not isinstance(statement, Executable):
            raise ArgumentError(
                "a statement of SQLAlchemy's, a table, a mapped class or a string of SQL is "
                f"needed, got {statement!r}."
            )
        sql = _as_sent(session, connection, statement, parameters)
    citus = citus_version(connection) is not None
    driver: Any = connection.connection.driver_connection
    # Whatever the server says of the statement, the caller's transaction goes on.
    savepoint = None if driver.autocommit else connection.begin_nested()
    # Cursors that bind values on the client would send all statements of a string.
    factory = driver.cursor_factory
    driver.cursor_factory = (
        psycopg.Cursor if isinstance(driver, psycopg.Connection) else psycopg.AsyncCursor
    )
    try:
        plan = connection.exec_driver_sql(_EXPLAIN + sql.replace("%", "%%"), (1,)).scalar_one()
    except DBAPIError as error:
        cause = error.orig
        refused = isinstance(cause, FeatureNotSupported) or (
            isinstance(cause, InternalError_) and "repartition" in str(cause)
        )
        refused = citus and refused
        if not isinstance(cause, psycopg.Error) or not (
            refused or (cause.sqlstate or "")[:2] in _OF_STATEMENTS
        ):
            raise
        said = (cause.diag.message_primary, cause.diag.message_detail, cause.diag.message_hint)
        reason = " ".join(f"{part.rstrip('.')}." for part in said if part)
        if not refused:
            if isinstance(cause, PostgresSyntaxError):
                reason += " One SELECT, INSERT, UPDATE, DELETE, MERGE or VALUES is needed."
            shown = sql if len(sql) <= _LONGEST_SHOWN else f"{sql[:_LONGEST_SHOWN]}..."
            raise ArgumentError(
                f"the statement cannot be explained; the server says: {reason}\nIt is: {shown}"
            ) from error
        return Shape(kind="refused", reason=f"Citus says: {reason}")
    finally:
        driver.cursor_factory = factory
        if savepoint is not None:
            savepoint.rollback()
    if isinstance(plan, str | bytes):
        plan = json.loads(plan)
    if not citus:
        return Shape(
            kind="not_distributed",
            reason="the database does not have Citus: this server executes it.",
            tables=tuple(dict.fromkeys(_relations(plan))),
            plan=plan,
        )
    return _shape(connection, plan)


class _Sent(Exception):  # noqa: N818 - no error
    """What is about to be sent."""

    def __init__(self, sql: str, parameters: Any) -> None:
        super().__init__(sql)
        self.sql, self.parameters = sql, parameters


def _as_sent(
    session: Executor,
    connection: Connection,
    statement: Executable,
    parameters: Mapping[str, Any] | None,
) -> str:
    """Return the SQL that a session would send to the driver, with its values.

    Citus cannot explain every statement that it can execute with parameters.
    """

    def stop(*arguments: Any) -> None:
        _, _, sql, values, context, _ = arguments
        if context is not None and context.execution_options.get(_OPTION):
            raise _Sent(sql, values)

    event.listen(connection, "before_cursor_execute", stop)
    try:
        if isinstance(session, Connection):
            session.execute(statement, parameters, execution_options={_OPTION: True})
        else:
            session.execute(
                statement,
                parameters,
                execution_options={_OPTION: True},
                # The connection at which we listen, and no other.
                bind_arguments={"bind": connection},
            )
    except _Sent as sent:
        driver: Any = connection.connection.driver_connection
        if isinstance(driver, psycopg.AsyncConnection):
            return psycopg.AsyncClientCursor(driver).mogrify(sent.sql, sent.parameters)
        return psycopg.ClientCursor(driver).mogrify(sent.sql, sent.parameters)
    finally:
        event.remove(connection, "before_cursor_execute", stop)
    raise ArgumentError("the session did not send the statement: a hook of it has answered.")


def _shape(connection: Connection, plan: Any) -> Shape:
    """Return the shape of a plan, which is a list of one object."""
    if not isinstance(plan, list) or len(plan) != 1 or not isinstance(plan[0].get("Plan"), dict):
        return Shape(kind="unknown", reason="the plan is not one of a single statement.", plan=plan)
    scans: list[dict[str, Any]] = []
    above: list[str] = []
    functions = False
    local = _relations(plan)

    def walk(node: dict[str, Any], path: tuple[str, ...]) -> None:
        if str(node.get("Custom Plan Provider", "")).startswith("Citus"):
            scans.append(node)
            above.extend(path)
            return
        nonlocal functions
        functions |= "Function Name" in node and node.get("Schema") != "pg_catalog"
        for child in node.get("Plans", ()):
            walk(child, (*path, str(node.get("Node Type"))))

    walk(plan[0]["Plan"], ())
    tables = tuple(dict.fromkeys(local))
    merged = tuple(above)
    if not scans:
        reason = "it reads no table that Citus knows of."
        if functions or not tables:
            reason += " What functions do that it calls is not part of a plan."
        return Shape(kind="local", reason=reason, tables=tables, plan=plan)
    if len(scans) > 1:
        reason = f"the plan has {len(scans)} distributed parts side by side."
        return Shape(kind="unknown", reason=reason, tables=tables, merged=merged, plan=plan)
    scan = scans[0]

    # Rows that are selected in one way, and written in another.
    methods = [name for name in scan if name == _INSERT_SELECT or name.endswith(" method")]
    if methods:
        command = "INSERT ... SELECT" if methods[0] == _INSERT_SELECT else "MERGE"
        method = scan[methods[0]]
        source = scan.get("Select Query") or scan.get("Source Query")
        found = _shape(connection, source) if source else None
        tables = tuple(dict.fromkeys((*tables, *(found.tables if found else ()))))
        more: dict[str, Any] = {
            "tables": tables,
            "merged": merged,
            "subplans": () if found is None else (found,),
            "plan": plan,
        }
        if method == "repartition":
            reason = (
                f"{command}: the rows that are found are sent from shard to shard, by the "
                "distribution column of the table that is written to."
            )
            return Shape(kind="repartition", reason=reason, **more)
        if method == "pull to coordinator":
            reason = f"{command}: the rows that are found come to this node, and are sent on."
            return Shape(kind="pull", reason=reason, **more)
        return Shape(kind="unknown", reason=f"{command} by the method {method!r}.", **more)

    query = scan.get("Distributed Query")
    query = query if isinstance(query, dict) else {}
    job: dict[str, Any] = query.get("Job") or {}
    count = job.get("Task Count")
    if scan["Custom Plan Provider"] != "Citus Adaptive" or not isinstance(count, int):
        reason = (
            f"the plan has {scan['Custom Plan Provider']} without tasks; see whether "
            "citus.explain_distributed_queries is on."
        )
        return Shape(kind="unknown", reason=reason, tables=tables, merged=merged, plan=plan)
    subplans = tuple(
        _shape(connection, part.get("PlannedStmt")) for part in query.get("Subplans", ())
    )
    tasks = tuple(
        Task(query=task["Query"], node=_address(task["Node"])) for task in job.get("Tasks", ())
    )
    kinds = _tables_of(connection, tasks)
    tables = tuple(dict.fromkeys((*tables, *kinds, *(t for each in subplans for t in each.tables))))
    more = {
        "tables": tables,
        "task_count": count,
        "tasks": tasks,
        "merged": merged,
        "subplans": subplans,
        "plan": plan,
    }
    written = next((node for node in merged if node == "ModifyTable"), None)
    if job.get("Dependent Jobs"):
        reason = "tables are joined that are not colocated by what joins them: rows are sent from "
        return Shape(kind="repartition", reason=f"{reason}shard to shard.", **more)
    if subplans:
        some = f"{len(subplans)} parts" if len(subplans) > 1 else "a part"
        reason = f"{some} of it cannot be executed beside the rest: the result comes to this node"
        return Shape(kind="pull", reason=f"{reason}, and is used from here.", **more)
    if written:
        return Shape(kind="pull", reason="the rows come to this node, into a local table.", **more)
    if not tasks and count:
        return Shape(kind="unknown", reason="the plan does not show its tasks.", **more)
    if count <= 1:
        on = f"on {tasks[0].node}" if tasks else "nowhere"
        if {"distributed", "single_shard"} & set(kinds.values()):
            reason = f"one node has all the shards that it needs: it is executed {on}."
            return Shape(kind="router", reason=reason, **more)
        if "reference" in kinds.values():
            reason = f"it needs reference tables, which every node has: it is executed {on}."
            if tasks and not tasks[0].query.startswith(("SELECT", "WITH")):
                reason = "every node has a copy of what it changes: it is executed on all of them."
            return Shape(kind="reference", reason=reason, **more)
        if "citus_local" in kinds.values():
            reason = f"it needs tables that are only on the coordinator: it is executed {on}."
            return Shape(kind="local", reason=reason, **more)
        if kinds:
            return Shape(kind="unknown", reason="its tables are of kinds unknown here.", **more)
        reason = f"no row of any shard can be in it: it is executed {on}."
        return Shape(kind="router", reason=reason, **more)
    for step in ("WindowAgg", "Aggregate"):
        if step in merged and not _aggregates(job["Tasks"][0]):
            what = "window functions are computed" if step == "WindowAgg" else "rows are aggregated"
            reason = f"{what} on this node, over the rows of {count} shards: they all come here."
            return Shape(kind="pull", reason=reason, **more)
    reason = f"{count} shards execute it beside their data"
    if merged:
        reason += f", and this node puts together what they answer ({', '.join(merged)})"
    return Shape(kind="pushdown", reason=f"{reason}.", **more)


def _relations(plan: Any) -> list[str]:
    """Return the tables that a plan reads or writes here; not those of its distributed parts."""
    if isinstance(plan, list):
        return [name for part in plan for name in _relations(part)]
    if not isinstance(plan, dict):
        return []
    own = []
    if "Relation Name" in plan and plan.get("Schema") != "pg_catalog":
        own.append(qualify(plan["Relation Name"], plan.get("Schema")))
    return own + [name for key in ("Plan", "Plans") for name in _relations(plan.get(key))]


def _address(node: str) -> str:
    """Return `host:port` of the address of a node, which is `host=... port=... dbname=...`."""
    found = dict(re.findall(r"(\w+)=(\S*)", node))
    return f"{found['host']}:{found['port']}" if {"host", "port"} <= set(found) else node


# A string, or a name that may be that of a shard, with or without quotes.
_STRING_OR_SHARD: Final = re.compile(r"'(?:[^']|'')*'|_(\d{1,18})\b(?=\"?[\s,.();]|\"?$)")

_OF_SHARDS: Final = text("""
SELECT DISTINCT n.nspname AS schema, c.relname AS name,
       CASE WHEN p.partmethod <> 'n' THEN 'distributed'
            WHEN p.repmodel = 't' THEN 'reference'
            WHEN p.colocationid = 0 THEN 'citus_local'
            ELSE 'single_shard' END AS kind, s.shardid AS shard
FROM pg_catalog.pg_dist_shard AS s
JOIN pg_catalog.pg_dist_partition AS p ON p.logicalrelid = s.logicalrelid
JOIN pg_catalog.pg_class AS c ON c.oid = s.logicalrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE s.shardid = ANY(CAST(:shards AS bigint[]))
""")


def _tables_of(connection: Connection, tasks: Sequence[Task]) -> dict[str, str]:
    """Return the tables whose shards are named in tasks, and their kinds."""
    named = {
        int(match[1])
        for task in tasks
        for match in _STRING_OR_SHARD.finditer(task.query)
        if match[1]
    }
    found: dict[str, str] = {}
    for row in connection.execute(_OF_SHARDS, {"shards": list(named)}) if named else ():
        # A number may be that of a shard by chance; a name that is too long is abbreviated.
        name = f"{row.name}_{row.shard}"
        written = name.replace('"', '""')
        if len(name.encode()) > LONGEST_NAME or any(written in task.query for task in tasks):
            found[qualify(row.name, row.schema)] = row.kind
    return found


def _aggregates(task: Mapping[str, Any]) -> bool:
    """Whether a shard groups its rows, or aggregates all of them, before it sends anything."""
    depth, outside = 0, []
    for part in re.split(r"('(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|[()])", task["Query"]):
        if part in ("(", ")"):
            depth += 1 if part == "(" else -1
        elif depth == 0 and not part.startswith(("'", '"')):
            outside.append(part)
    if re.search(r"\bGROUP BY\b", " ".join(outside)):
        return True
    node: Any = task.get("Remote Plan")
    while isinstance(node, list) and node:
        node = node[0]
    node = node.get("Plan") if isinstance(node, dict) else None
    while isinstance(node, dict) and node.get("Node Type") in ("Result", "Gather", "Subquery Scan"):
        node = (node.get("Plans") or [None])[0]
    return isinstance(node, dict) and node.get("Node Type") == "Aggregate"


# ---------------------------------------------------------------------------------------- Snapshots

_SITUATION: Final = text("""
SELECT (SELECT groupid FROM pg_catalog.pg_dist_local_group) AS own,
       current_setting('citus.use_secondary_nodes') AS secondaries,
       pg_catalog.pg_is_in_recovery() AS replica,
       current_setting('statement_timeout') AS limit,
       pg_catalog.citus_backend_gpid() AS backend
""")

# The tables that this role may read, and where their shards are; the fewest shards first.
_WHERE: Final = text("""
SELECT n.nspname AS schema, c.relname AS name, array_agg(DISTINCT placement.groupid) AS groups
FROM pg_catalog.pg_dist_shard AS s
JOIN pg_catalog.pg_dist_partition AS p ON p.logicalrelid = s.logicalrelid
JOIN pg_catalog.pg_dist_placement AS placement
  ON placement.shardid = s.shardid AND placement.shardstate = 1
JOIN pg_catalog.pg_class AS c ON c.oid = s.logicalrelid
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT c.relispartition AND (p.partmethod <> 'n' OR p.repmodel <> 't')
  AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
GROUP BY n.nspname, c.relname, c.relkind
ORDER BY c.relkind = 'p', count(*), n.nspname, c.relname
""")

# On each node: how many transactions it has begun itself that concern other nodes; of the
# connections of this session (which is none of them) whether each has read a table, the oldest
# first; and whether a transaction is in doubt that was so when the first of them began, under the
# lock.
_CONNECTIONS: Final = """
WITH mine AS MATERIALIZED (
  SELECT a.pid, a.xact_start FROM pg_catalog.pg_stat_activity AS a
  WHERE a.application_name = 'citus_internal gpid={backend}' AND a.xact_start IS NOT NULL
    AND a.pid <> pg_catalog.pg_backend_pid())
SELECT json_build_object(
  'group', (SELECT groupid FROM pg_catalog.pg_dist_local_group),
  'begun', (SELECT count(*) FROM pg_catalog.pg_dist_transaction),
  'read', (SELECT coalesce(json_agg(EXISTS (
      SELECT FROM pg_catalog.pg_locks AS l
      WHERE l.pid = m.pid AND l.locktype = 'relation'
        AND l.relation >= 16384 AND l.relation NOT IN (
          SELECT oid FROM pg_catalog.pg_class WHERE relnamespace = 'pg_catalog'::regnamespace)
    ) ORDER BY m.xact_start), '[]') FROM mine AS m),
  'in_doubt', EXISTS (
    SELECT FROM pg_catalog.pg_prepared_xacts AS p
    WHERE p.database = current_database() AND p.gid LIKE 'citus\\_%'
      AND p.prepared < (SELECT min(m.xact_start) FROM mine AS m)))
"""
_OWN_GROUP: Final = "SELECT groupid FROM pg_catalog.pg_dist_local_group"
_LOCK: Final = "LOCK TABLE pg_catalog.pg_dist_transaction IN EXCLUSIVE MODE"


@dataclass(frozen=True, slots=True)
class _Taken:
    """A snapshot: its transaction, and how many connections to each node have it.

    The number of the session in the cluster is None without Citus.
    """

    transaction: Any
    backend: int | None = None
    connections: Mapping[int, int] = field(default_factory=dict)


@overload
def consistent_snapshot(
    engine: Engine, *, timeout: timedelta = ..., writers: Sequence[Engine] = ...
) -> AbstractContextManager[Connection]: ...


@overload
def consistent_snapshot(
    engine: AsyncEngine, *, timeout: timedelta = ..., writers: Sequence[Engine] = ...
) -> AbstractAsyncContextManager[AsyncConnection]: ...


def consistent_snapshot(
    engine: Engine | AsyncEngine,
    *,
    timeout: timedelta = timedelta(seconds=1),
    writers: Sequence[Engine] = (),
) -> AbstractContextManager[Connection] | AbstractAsyncContextManager[AsyncConnection]:
    """Return a connection on which all statements read all nodes as of one moment.

        with consistent_snapshot(engine) as connection:
            total = connection.scalar(select(func.sum(Account.balance)))
            accounts = Session(connection).scalars(select(Account)).all()

    With an `AsyncEngine` it is `async with`, and an `AsyncConnection`. The transaction is
    REPEATABLE READ and READ ONLY, and ends with the block. On plain PostgreSQL that is all that is
    needed. On Citus every node has a snapshot of its own: all of them are taken while no
    transaction that concerns several nodes can commit, which takes some milliseconds; and one
    connection to each node is used for all statements, so that the shards of a node are read one
    after the other. What a transaction has written is therefore seen on all nodes or on none.

    It needs the right to lock `pg_dist_transaction` (GRANT UPDATE, by a superuser), and for the
    moment of the lock a second connection, which is opened beside the engine's pool.

    Args:
        engine: The coordinator, or the only server.
        timeout: How long transactions that concern several nodes may have to wait, at most: for the
            lock to be free, and for the snapshots to be taken. A `timedelta`.
        writers: The nodes, other than that of `engine`, through which something writes to several
            nodes, if there are any.

    Raises:
        ArgumentError: The engine is none, or the timeout is not positive.
        SnapshotError: The snapshots could not be taken in time, or by this role; a node that is not
            among the writers writes to several nodes; a transaction is in doubt; or, at the end,
            the transaction was ended in the block or a statement in it has failed, or Citus has
            opened a connection that read something at another moment. An error that leaves the
            block is raised as it is.
    """
    given: Any = timeout
    if not isinstance(given, timedelta) or given <= timedelta():
        raise ArgumentError(f"timeout must be a positive timedelta, got {timeout!r}.")
    if isinstance(engine, Engine):
        return _snapshot(engine, timeout, writers)
    if not hasattr(engine, "sync_engine"):
        raise ArgumentError(f"an Engine or an AsyncEngine is needed, got {type(engine).__name__}.")
    return _async_snapshot(engine, timeout, writers)


@contextmanager
def _snapshot(
    engine: Engine, timeout: timedelta, writers: Sequence[Engine]
) -> Iterator[Connection]:
    with engine.connect() as connection:
        taken = _take(connection, timeout, writers)
        yield connection
        _check(connection, taken)


@asynccontextmanager
async def _async_snapshot(
    engine: AsyncEngine, timeout: timedelta, writers: Sequence[Engine]
) -> AsyncIterator[AsyncConnection]:
    async with engine.connect() as connection:
        taken = await connection.run_sync(_take, timeout, writers)
        yield connection
        await connection.run_sync(_check, taken)


def _take(connection: Connection, timeout: timedelta, writers: Sequence[Engine]) -> _Taken:
    """Begin a transaction that has its snapshots on all nodes."""
    # Cursors of the server, by which an engine may have everything read, are for queries alone.
    given = connection.get_execution_options()
    cursors = {name: given.get(name) for name in ("stream_results", "yield_per")}
    connection.execution_options(
        isolation_level="REPEATABLE READ",
        postgresql_readonly=True,
        **dict.fromkeys(cursors),
        **{SNAPSHOT: True},
    )
    if citus_version(connection) is None:
        # The transaction has read something, and so has its snapshot.
        connection.execution_options(**cursors)
        return _Taken(connection.get_transaction())
    situation = connection.execute(_SITUATION).one()
    if situation.secondaries != "never" or situation.replica:
        raise SnapshotError(
            "replicas follow their nodes each at its own pace, so that no moment is on all of "
            "them: connect to a primary, with citus.use_secondary_nodes at 'never'."
        )
    reads: list[str] = []
    covered: set[int] = set()
    for row in connection.execute(_WHERE):
        if not covered.issuperset(row.groups):
            covered |= set(row.groups)
            # Each shard is visited, without looking at a row: the condition has no column.
            table = qualify(row.name, row.schema).replace("%", "%%")
            reads.append(f"SELECT count(*) FROM {table} WHERE now() IS NULL")  # noqa: S608
    one_connection = (
        "SET LOCAL citus.max_adaptive_executor_pool_size = 1",
        "SET LOCAL citus.force_max_query_parallelization = off",
    )
    # Connections are opened here, so that under the lock they are there.
    for statement in (*one_connection, *reads):
        connection.exec_driver_sql(statement)
    connection.rollback()

    # PostgreSQL's timeouts are integers of 32 bits.
    milliseconds = min(max(1, round(timeout.total_seconds() * 1000)), 2**31 - 1)
    for statement in (*one_connection, f"SET LOCAL statement_timeout = {milliseconds}"):
        connection.exec_driver_sql(statement)
    locked = set()
    try:
        with ExitStack() as stack:
            holders = []
            for locking in (connection.engine, *writers):
                # Of an AsyncEngine too: we are below its run_sync then. Not from its pool: that may
                # have no other connection, or none until somebody who waits too gives one back.
                own: Engine = getattr(locking, "sync_engine", locking)
                beside = Engine(own.pool.recreate(), own.dialect, own.url)
                stack.callback(beside.dispose)
                holder = stack.enter_context(beside.connect())
                holder.execution_options(isolation_level="READ COMMITTED")
                group = holder.exec_driver_sql(_OWN_GROUP).scalar_one()
                if group not in locked:
                    locked.add(group)
                    holders.append(holder)
            # Whatever becomes of us, the lock does not outlive the timeout. Who commits on several
            # nodes holds a lock that is in its way, from before the first of them has prepared
            # until the last one has committed.
            for holder in holders:
                for name in ("lock_timeout", "idle_in_transaction_session_timeout"):
                    holder.exec_driver_sql(f"SET LOCAL {name} = {milliseconds}")
                holder.exec_driver_sql(_LOCK)
            # The first statement takes the snapshot of this node, and of each that it leads to.
            for statement in reads or ["SELECT 1"]:
                connection.exec_driver_sql(statement)
            # Fails if the lock is gone.
            for holder in holders:
                holder.rollback()
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{situation.limit}'")
    except DBAPIError as error:
        if isinstance(error.orig, InsufficientPrivilege):
            raise SnapshotError(
                "this role may not lock pg_dist_transaction, which it has to for some "
                "milliseconds: as a superuser, GRANT UPDATE ON pg_catalog.pg_dist_transaction TO "
                "it, on each node that is written through."
            ) from error
        if isinstance(
            error.orig, LockNotAvailable | QueryCanceled | IdleInTransactionSessionTimeout
        ):
            raise SnapshotError(
                f"the snapshots could not be taken within {timeout.total_seconds():g} seconds: a "
                "transaction was committing on several nodes, or a table was locked, for longer "
                "than that. Try again."
            ) from error
        raise
    answers = _answers(connection, situation.backend)
    unlocked = [
        node for node, each in answers.items() if each["begun"] and each["group"] not in locked
    ]
    if unlocked:
        raise SnapshotError(
            f"node {unlocked[0]} writes to several nodes itself, and was not kept from it: pass an "
            "engine for it among writers=..., or write through the node that is read from."
        )
    in_doubt = [node for node, each in answers.items() if each["in_doubt"]]
    if in_doubt:
        raise SnapshotError(
            f"node {in_doubt[0]} has prepared a transaction that others may have committed "
            "already, because a node has failed meanwhile: Citus decides it within a minute, and "
            "SELECT recover_prepared_transactions() at once. Try again then."
        )
    begun = {node: len(each["read"]) for node, each in answers.items()}
    connection.execution_options(**cursors)
    return _Taken(connection.get_transaction(), situation.backend, begun)


def _check(connection: Connection, taken: _Taken) -> None:
    """Raise an error if something may have been read as of another moment."""
    transaction = connection.get_transaction()
    if transaction is not taken.transaction or transaction is None or not transaction.is_active:
        raise SnapshotError(
            "the transaction of the snapshot was ended in the block: what was read after that was "
            "as of other moments. Leave the transaction to consistent_snapshot."
        )
    driver = None if connection.invalidated else connection.connection.driver_connection
    if driver is None or (
        isinstance(driver, psycopg.Connection | psycopg.AsyncConnection)
        and driver.info.transaction_status in (TransactionStatus.INERROR, TransactionStatus.UNKNOWN)
    ):
        raise SnapshotError(
            "a statement has failed in the block, and the transaction of the snapshot with it: "
            "whether everything was read as of one moment cannot be known. Let the error leave the "
            "block, or put what may fail into connection.begin_nested()."
        )
    if taken.backend is None:
        return
    try:
        answers = _answers(connection, taken.backend)
    except DBAPIError as error:
        raise SnapshotError(
            f"whether everything was read as of one moment cannot be known: {error.orig}"
        ) from error
    for node, each in answers.items():
        # Citus also sends intermediate results over connections, which read nothing.
        if any(each["read"][taken.connections.get(node, 0) :]):
            raise SnapshotError(
                f"Citus has opened a further connection to node {node} in the block, which has "
                "read something as of another moment: a shard that has moved, a table that this "
                "role may not read by itself, or citus.max_adaptive_executor_pool_size was "
                "changed. Discard what was read, and try again."
            )


def _answers(connection: Connection, backend: int) -> dict[int, dict[str, Any]]:
    answers = ask_all_nodes(connection, _CONNECTIONS.replace("{backend}", str(backend)))
    for node, answer in answers.items():
        if answer.error is not None:
            raise SnapshotError(f"node {node} does not answer: {answer.error}")
    return {node: answer.value for node, answer in answers.items()}
