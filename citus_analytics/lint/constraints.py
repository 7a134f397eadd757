"""What the operations on indexes and constraints do to tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import (
    ForeignKeyConstraint,
    Index,
    PrimaryKeyConstraint,
    Table,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import ExcludeConstraint

from citus_analytics.lint.shape import PLACE, in_schema

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from sqlalchemy import Column, Constraint

    from citus_analytics.lint.events import Event
    from citus_analytics.lint.history import History


def create_index(history: History, key: str, event: Event) -> None:
    """Add an index, on columns and on expressions."""
    table = history.table(key, event.place)
    parts = [
        history.column(table, part) if isinstance(part, str) else part
        for part in event.listed("columns")
    ]
    index = Index(
        event.text("index_name"),
        *parts,  # type: ignore[arg-type]
        unique=event.arguments.get("unique") is True,
        **_options(event),
    )
    index.info[PLACE] = event.place
    # Of expressions alone, an index does not know its table by itself.
    index._set_parent(table)  # noqa: SLF001


def drop_index(history: History, key: str, event: Event) -> None:
    """Drop an index by its name."""
    table = history.table(key, event.place)
    table.indexes -= {one for one in table.indexes if one.name == event.text("index_name")}


def create_unique_constraint(history: History, key: str, event: Event) -> None:
    """Add a unique constraint."""
    columns = _columns(history, key, event, "columns")
    _add(history, key, event, UniqueConstraint(*columns, name=_name(event), **_options(event)))


def create_primary_key(history: History, key: str, event: Event) -> None:
    """Add a primary key."""
    columns = _columns(history, key, event, "columns")
    for column in columns:
        # Only a column that is created with its primary key becomes SERIAL.
        column.autoincrement = False
    _add(history, key, event, PrimaryKeyConstraint(*columns, name=_name(event), **_options(event)))


def create_exclude_constraint(history: History, key: str, event: Event) -> None:
    """Add an exclusion constraint."""
    table = history.table(key, event.place)
    elements: list[Any] = []
    for element in event.listed("items"):
        what, operator = element if isinstance(element, list) else (element, "")
        column = history.column(table, what) if isinstance(what, str) else what
        elements.append((column, operator))
    _add(history, key, event, ExcludeConstraint(*elements, name=_name(event)))


def create_foreign_key(history: History, key: str, event: Event) -> None:
    """Add a foreign key."""
    target = in_schema(event.text("referent_table") or "", event.text("referent_schema"))
    constraint = ForeignKeyConstraint(
        _columns(history, key, event, "local_cols"),
        [f"{target}.{column}" for column in event.listed("remote_cols")],
        name=_name(event),
        ondelete=event.text("ondelete"),
        onupdate=event.text("onupdate"),
    )
    _add(history, key, event, constraint)


def drop_constraint(history: History, key: str, event: Event) -> None:
    """Drop a constraint by the name that it was given, or that PostgreSQL gave it."""
    table, name = history.table(key, event.place), _name(event)
    table.constraints -= {one for one in table.constraints if name in _names(table, one)}


def _add(history: History, key: str, event: Event, constraint: Constraint) -> None:
    constraint.info[PLACE] = event.place
    history.table(key, event.place).append_constraint(constraint)


def _columns(history: History, key: str, event: Event, argument: str) -> list[Column[Any]]:
    table = history.table(key, event.place)
    return [history.column(table, str(name)) for name in event.listed(argument)]


def _name(event: Event) -> str | None:
    return event.text("constraint_name")


def _options(event: Event) -> dict[str, Any]:
    return {name: value for name, value in event.arguments.items() if name == "postgresql_include"}


def _names(table: Table, constraint: Constraint) -> Iterator[object]:
    yield constraint.name
    if constraint.name is not None:
        return
    columns = getattr(constraint, "columns", ())
    joined = "_".join([table.name, *(column.name for column in columns)])
    match constraint:
        case PrimaryKeyConstraint():
            yield f"{table.name}_pkey"
        case UniqueConstraint():
            yield f"{joined}_key"
        case ForeignKeyConstraint():
            yield f"{joined}_fkey"
        case ExcludeConstraint():
            yield f"{joined}_excl"
