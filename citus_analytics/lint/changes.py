"""What the operations of Alembic, and of ours, do to tables."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sqlalchemy import Column, Table
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.schema import SchemaItem
from sqlalchemy.types import NULLTYPE, TypeEngine

from citus_analytics.lint import constraints
from citus_analytics.lint.shape import DROPPED, PLACE, Spread, in_schema
from citus_analytics.lint.sqltext import allows_triggers, filled_tables, triggers

if TYPE_CHECKING:
    from collections.abc import Callable

    from citus_analytics.lint.events import Event
    from citus_analytics.lint.history import History


def apply(history: History, event: Event) -> set[str]:
    """Let an event happen, and return the keys of the tables whose shape it changes."""
    if event.name == "execute":
        _execute(history, event)
        return set()
    key, change = event.table, _CHANGES.get(event.name)
    if key is None or change is None:
        return set()
    # What cannot be followed is left out: the server will say what is wrong with it.
    with suppress(SQLAlchemyError, KeyError, TypeError, ValueError):
        change(history, key, event)
    history.changed(key)
    return {key} & history.metadata.tables.keys()


def _execute(history: History, event: Event) -> None:
    sql = event.text("sql") or ""
    history.filled |= dict.fromkeys(filled_tables(sql), event.place)
    history.triggers |= set(triggers(sql))
    history.unsafe_triggers |= allows_triggers(sql)


def _create_table(history: History, key: str, event: Event) -> None:
    _drop_table(history, key, event)
    schema, _, name = key.rpartition(".")
    parts = [item for item in event.listed("items") if isinstance(item, SchemaItem)]
    Table(name, history.metadata, *parts, schema=schema or None, info={PLACE: event.place})


def _drop_table(history: History, key: str, _: Event) -> None:
    if key in history.metadata.tables:
        history.metadata.remove(history.metadata.tables[key])
    for known in (history.spreads, history.filled):
        known.pop(key, None)
    history.triggers.discard(key)


def _rename_table(history: History, key: str, event: Event) -> None:
    new = event.text("new_table_name")
    if new is not None and key in history.metadata.tables:
        history.rename(key, in_schema(new, event.text("schema")))


def _add_column(history: History, key: str, event: Event) -> None:
    column = event.arguments.get("column")
    if isinstance(column, Column):
        history.table(key, event.place).append_column(column, replace_existing=True)


def _drop_column(history: History, key: str, event: Event) -> None:
    name = event.text("column_name")
    if name is not None:
        history.column(history.table(key, event.place), name).info[DROPPED] = True


def _alter_column(history: History, key: str, event: Event) -> None:
    name, new = event.text("column_name"), event.text("new_column_name")
    if name is None:
        return
    column = history.column(history.table(key, event.place), name)
    type_ = event.arguments.get("type_")
    if type_ is not None:
        type_ = type_() if isinstance(type_, type) else type_
        column.type = type_ if isinstance(type_, TypeEngine) else NULLTYPE
    if "server_default" in event.arguments and event.arguments["server_default"] is None:
        column.server_default = None
        column.identity = None
    if new is not None:
        column.name = new
        spread = history.spread(key)
        if spread.column == name:
            history.spreads[key] = replace(spread, column=new)


def _distribute(history: History, key: str, event: Event) -> None:
    history.table(key, event.place)
    column, count = event.text("column"), event.arguments.get("shard_count")
    if column is None and event.arguments.get("column", "") is not None:
        return  # It is distributed by something that only a run could tell.
    history.spreads[key] = Spread.over_shards(
        column,
        colocate_with=event.text("colocate_with"),
        colocate_schema=event.text("colocate_schema"),
        shard_count=count if isinstance(count, int) else None,
    )


def _alter_distributed(history: History, key: str, event: Event) -> None:
    spread, count = history.spread(key), event.arguments.get("shard_count")
    if spread.distributed:
        history.spreads[key] = Spread.over_shards(
            event.text("column") or spread.column,
            colocate_with=event.text("colocate_with") or spread.colocate_with,
            colocate_schema=event.text("colocate_schema") or spread.colocate_schema,
            shard_count=count if isinstance(count, int) else spread.shard_count,
        )


def _replicate(history: History, key: str, event: Event) -> None:
    history.table(key, event.place)
    history.spreads[key] = Spread(kind="reference")


def _undistribute(history: History, key: str, _: Event) -> None:
    history.spreads.pop(key, None)


def _fill(history: History, key: str, event: Event) -> None:
    history.filled[key] = event.place


_CHANGES: Final[dict[str, Callable[[History, str, Event], None]]] = {
    "create_table": _create_table,
    "drop_table": _drop_table,
    "rename_table": _rename_table,
    "add_column": _add_column,
    "drop_column": _drop_column,
    "alter_column": _alter_column,
    "bulk_insert": _fill,
    "create_index": constraints.create_index,
    "drop_index": constraints.drop_index,
    "create_unique_constraint": constraints.create_unique_constraint,
    "create_primary_key": constraints.create_primary_key,
    "create_exclude_constraint": constraints.create_exclude_constraint,
    "create_foreign_key": constraints.create_foreign_key,
    "drop_constraint": constraints.drop_constraint,
    "create_distributed_table": _distribute,
    "create_distributed_table_concurrently": _distribute,
    "create_reference_table": _replicate,
    "alter_distributed_table": _alter_distributed,
    "undistribute_table": _undistribute,
}
