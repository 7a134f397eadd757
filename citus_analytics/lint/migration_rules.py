"""The rules about migrations alone: what they do, when, and whether there is a way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from citus_analytics.lint import sqltext
from citus_analytics.lint.finding import Fault
from citus_analytics.lint.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from citus_analytics.lint.events import Event
    from citus_analytics.lint.history import History

# What is known before the event happens, and the event.
EventCheck: TypeAlias = "Callable[[History, Event], Iterator[Fault]]"

_DISTRIBUTES = (
    "create_distributed_table",
    "create_distributed_table_concurrently",
    "create_reference_table",
)
_CONCURRENT = "create_distributed_table_concurrently"


def _concurrently_in_transaction(_: History, event: Event) -> Iterator[Fault]:
    works = (
        event.name == _CONCURRENT
        or (event.name == "execute" and sqltext.runs_concurrently(event.text("sql") or ""))
        or event.arguments.get("postgresql_concurrently") is True
    )
    if works and not event.autocommit and not event.raw:
        yield _fault(
            event,
            "this works CONCURRENTLY, which the server refuses in a transaction. Put it in "
            "`with op.get_context().autocommit_block():`.",
        )


def _distributed_with_rows(history: History, event: Event) -> Iterator[Fault]:
    filled = history.filled.get(event.table or "")
    if event.name == "create_distributed_table" and filled is not None:
        yield _fault(
            event,
            f"table {event.table!r} has got rows by now ({filled.path}:{filled.line}): moving them "
            "to the shards blocks all writers until the migration commits. Distribute the table "
            "before rows come, or use create_distributed_table_concurrently.",
        )


def _raw_function(_: History, event: Event) -> Iterator[Fault]:
    if event.raw:
        yield _fault(
            event,
            f"{event.name} is called in SQL text: this fails on a server without Citus, and later "
            "operations of the transaction may be refused after it. Use "
            f"op.{event.name}(...) of citus_analytics.migrations.",
        )


def _no_way_back(_: History, event: Event) -> Iterator[Fault]:
    if event.name == "downgrade" and event.arguments.get("empty") is True:
        yield _fault(
            event,
            "downgrade() does nothing, while upgrade() does something: Alembic would report "
            "success and leave the schema as it is. Undo it, or raise NotImplementedError.",
        )


def _was_not_said(_: History, event: Event) -> Iterator[Fault]:
    if event.name != "undistribute_table" or event.raw or event.downgrade:
        return
    if event.arguments.get("was") is None:
        yield _fault(
            event,
            f"undistribute_table({event.table!r}) does not say how the table was distributed, "
            "so that it cannot be reversed. Give it was=Distributed(...) or Reference().",
        )


def _changing_upsert(history: History, event: Event) -> Iterator[Fault]:
    for table, function in sqltext.changing_upserts(event.text("sql") or ""):
        if history.spread(table).kind != "local":
            yield _fault(
                event,
                f"DO UPDATE on table {table!r} calls {function}, which is not IMMUTABLE: Citus "
                "refuses it. Insert the value, and use that of excluded instead.",
            )


def _volatile_update(history: History, event: Event) -> Iterator[Fault]:
    for table, function in sqltext.volatile_updates(event.text("sql") or ""):
        if history.spread(table).kind != "local":
            yield _fault(
                event,
                f"UPDATE of table {table!r} calls {function}, which is VOLATILE: it would be "
                "another value on every node. Compute it in the client, or use now().",
            )


def _distribution_column_changed(history: History, event: Event) -> Iterator[Fault]:
    changed: list[tuple[str, str | None]] = []
    if event.name == "drop_column" or (event.name == "alter_column" and "type_" in event.arguments):
        changed = [(event.table or "", event.text("column_name"))]
    elif event.name == "execute":
        changed += sqltext.updated_columns(event.text("sql") or "")
    for table, column in changed:
        spread = history.spread(table)
        if column is not None and spread.column == column:
            yield _fault(
                event,
                f"column {column!r} is the distribution column of table {table!r}: Citus neither "
                "drops it, nor changes its type or its values. Undistribute the table first, or "
                "delete the rows and insert them again.",
            )


def _numbered_column_added(history: History, event: Event) -> Iterator[Fault]:
    tables = sqltext.numbered_columns(event.text("sql") or "")
    if event.name == "add_column" and getattr(event.arguments.get("column"), "identity", None):
        tables = [event.table or ""]
    for table in tables:
        if history.spread(table).kind != "local":
            yield _fault(
                event,
                f"table {table!r} is {history.spread(table).kind}, and Citus adds no serial or "
                "identity columns to such tables. Add a BIGINT column whose default is nextval of "
                "a sequence.",
            )


def _trigger(history: History, event: Event) -> Iterator[Fault]:
    if history.unsafe_triggers or sqltext.allows_triggers(event.text("sql") or ""):
        return
    tables = [
        key
        for key in sqltext.triggers(event.text("sql") or "")
        if history.spread(key).kind != "local"
    ]
    if event.name in _DISTRIBUTES and event.table in history.triggers:
        tables = [event.table]
    for table in tables:
        yield _fault(
            event,
            f"table {table!r} has a trigger and is on several nodes, which Citus refuses. Drop the "
            "trigger; or, if it only touches rows of the same shard, SET LOCAL "
            "citus.enable_unsafe_triggers TO on first.",
        )


def _unnamed_exclusion(history: History, event: Event) -> Iterator[Fault]:
    tables = sqltext.unnamed_exclusions(event.text("sql") or "")
    if event.name == "create_exclude_constraint" and event.arguments.get("constraint_name") is None:
        compared = [one[0] if isinstance(one, list) else one for one in event.listed("items")]
        if not all(isinstance(one, str) for one in compared):
            tables = [event.table or ""]
    for table in tables:
        if history.spread(table).kind != "local":
            yield _fault(
                event,
                f"the exclusion constraint that table {table!r} gets has no name, and compares an "
                "expression: Citus crashes, and with it all connections to the node. Name it.",
            )


def _fault(event: Event, message: str) -> Fault:
    return Fault(message, event.text("revision") or event.place.path, event.place)


EVENT_RULES: Final[tuple[Rule[EventCheck], ...]] = (
    Rule(
        "CA101",
        "Something concurrent in a transaction",
        "CREATE INDEX CONCURRENTLY and create_distributed_table_concurrently commit several times "
        "on their own. The server refuses them in the transaction of a migration.",
        _concurrently_in_transaction,
    ),
    Rule(
        "CA102",
        "A table is distributed after it got rows",
        "create_distributed_table copies the rows to the shards and keeps all writers waiting "
        "until the transaction ends. create_distributed_table_concurrently does not.",
        _distributed_with_rows,
        "warning",
    ),
    Rule(
        "CA103",
        "A function of Citus in SQL text",
        "The functions exist on Citus alone. And without the operations' sequential mode, Citus "
        "refuses to create functions or types later in the same transaction.",
        _raw_function,
        "warning",
    ),
    Rule(
        "CA104",
        "A migration without a way back",
        "Alembic takes an empty downgrade() for a success: the revision goes back, the schema does "
        "not, and the next upgrade fails.",
        _no_way_back,
        "warning",
    ),
    Rule(
        "CA105",
        "undistribute_table does not say what was",
        "Without was= the operation cannot be reversed: nothing else tells how to distribute the "
        "table again.",
        _was_not_said,
        "warning",
    ),
    Rule(
        "CA106",
        "DO UPDATE with a function that is not IMMUTABLE",
        "Citus refuses now() and the like in ON CONFLICT DO UPDATE on distributed and reference "
        "tables. PostgreSQL does not, so that tests without Citus pass.",
        _changing_upsert,
    ),
    Rule(
        "CA107",
        "UPDATE with a VOLATILE function",
        "Every node would compute its own value, and copies of a reference table would differ.",
        _volatile_update,
    ),
    Rule(
        "CA108",
        "A change of the distribution column",
        "The distribution column decides where rows are. It cannot be dropped, nor get another "
        "type, nor can a row get another value.",
        _distribution_column_changed,
    ),
    Rule(
        "CA109",
        "A serial or identity column is added to a distributed table",
        "Citus adds such columns only while a table is local.",
        _numbered_column_added,
    ),
    Rule(
        "CA110",
        "A trigger on a table that is on several nodes",
        "Citus refuses triggers on distributed and reference tables, unless "
        "citus.enable_unsafe_triggers says that they are known to be sound.",
        _trigger,
    ),
    Rule(
        "CA111",
        "An exclusion constraint on an expression is added without a name",
        "Citus makes up a name from the columns, finds none for an expression, and the server "
        "crashes: all connections to the node are cut.",
        _unnamed_exclusion,
    ),
)
