"""Reading a table of SQLAlchemy's as the rules see it.

Types and defaults are taken from the DDL that SQLAlchemy would send, which alone decides what the
server gets to see (a primary key of Integer, for one, is SERIAL).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sqlalchemy import (
    BinaryExpression,
    ForeignKeyConstraint,
    PrimaryKeyConstraint,
    UnaryExpression,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import ExcludeConstraint
from sqlalchemy.exc import CompileError, InvalidRequestError
from sqlalchemy.schema import Column, CreateColumn
from sqlalchemy.sql import operators
from sqlalchemy.sql.schema import ColumnCollectionMixin

from citus_analytics.lint.shape import (
    DROPPED,
    PLACE,
    ColumnShape,
    ForeignKeyShape,
    KeyShape,
    Spread,
    TableShape,
)
from citus_analytics.sql import DIALECT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from sqlalchemy import Constraint, Index, Table
    from sqlalchemy.schema import SchemaItem

    from citus_analytics.lint.finding import Place
    from citus_analytics.lint.shape import KeyKind

_SERIAL = re.compile(r"(SMALL|BIG)?SERIAL\b")
_SERIAL_TYPES = {"SMALL": "SMALLINT", "": "INTEGER", "BIG": "BIGINT"}
_NEXTVAL = re.compile(r"""nextval\(\s*E?'"?([^'"]+)"?'""", re.IGNORECASE)
_TYPE = re.compile(
    r"(?P<type>.+?)(?= DEFAULT | NOT NULL| NULL\b| GENERATED | COLLATE | CONSTRAINT |$)", re.DOTALL
)
_COLLATE = re.compile(r" COLLATE (?P<collation>\"[^\"]+\"|\S+)")


def place_of(item: SchemaItem, *parts: Column[Any]) -> Place | None:
    """Return where a migration creates this, or the first of its parts; None outside of those."""
    places: list[Place | None] = [one.info.get(PLACE) for one in (item, *parts)]
    return next((place for place in places if place is not None), None)


def shape_of(table: Table, spread: Spread) -> TableShape:
    """Return a table of SQLAlchemy's as the rules see it."""
    constraints = [one for one in table.constraints if not _has_dropped_column(one)]
    constraints.sort(key=lambda constraint: str(constraint.name))
    indexes = [index for index in table.indexes if not _has_dropped_column(index)]
    indexes.sort(key=lambda index: str(index.name))
    return TableShape(
        name=table.name,
        schema=table.schema,
        columns=tuple(_column(one) for one in table.columns if DROPPED not in one.info),
        keys=(*_constraint_keys(constraints), *_index_keys(indexes)),
        foreign_keys=tuple(
            _foreign_key(constraint)
            for constraint in constraints
            if isinstance(constraint, ForeignKeyConstraint)
        ),
        spread=spread,
        place=place_of(table),
    )


def _column(column: Column[Any]) -> ColumnShape:
    place = place_of(column)
    try:
        ddl = str(CreateColumn(column).compile(dialect=DIALECT))
    except (CompileError, InvalidRequestError):
        return ColumnShape(column.name, None, None, None, False, False, None, place)
    definition = ddl.removeprefix(DIALECT.identifier_preparer.format_column(column)).strip()
    serial, nextval = _SERIAL.match(definition), _NEXTVAL.search(definition)
    sequence = nextval[1] if nextval else None
    if serial:
        definition = _SERIAL.sub(_SERIAL_TYPES[serial[1] or ""], definition, count=1)
        sequence = f"{column.table.name}_{column.name}_seq"
    found, collate = _TYPE.match(definition), _COLLATE.search(definition)
    full_type = found["type"].upper() if found else None
    return ColumnShape(
        name=column.name,
        type=_without_modifiers(full_type),
        full_type=full_type,
        collation=collate["collation"].strip('"') if collate else None,
        identity=column.identity is not None,
        generated=column.computed is not None,
        sequence=sequence,
        place=place,
    )


def _without_modifiers(full_type: str | None) -> str | None:
    """Return the type that Citus compares: lengths and precisions are no part of it."""
    if full_type is None:
        return None
    precision = re.fullmatch(r"FLOAT\s*\((\d+)\)", full_type)
    if precision:
        return "REAL" if int(precision[1]) <= 24 else "DOUBLE PRECISION"
    bare = re.sub(r"\s*\([^)]*\)", "", full_type)
    return {"FLOAT": "DOUBLE PRECISION", "DECIMAL": "NUMERIC"}.get(bare, bare)


def _constraint_keys(constraints: list[Constraint]) -> Iterator[KeyShape]:
    for constraint in constraints:
        match constraint:
            case PrimaryKeyConstraint() if constraint.columns:
                kind: KeyKind = "primary key"
                names = tuple(column.name for column in constraint.columns)
            case UniqueConstraint():
                kind, names = "unique constraint", tuple(c.name for c in constraint.columns)
            case ExcludeConstraint():
                kind, names = "exclusion constraint", tuple(_equal_columns(constraint))
            case _:
                continue
        place = place_of(constraint, *_columns(constraint))
        yield KeyShape(kind, _name(constraint), names, _included(constraint), place)


def _equal_columns(constraint: ExcludeConstraint) -> Iterator[str]:
    for expression, name, operator in constraint._render_exprs:  # noqa: SLF001 - has no other face
        if operator.strip() == "=" and isinstance(expression, Column):
            yield str(expression.name or name)


def _index_keys(indexes: list[Index]) -> Iterator[KeyShape]:
    for index in indexes:
        if index.unique:
            # An expression of the distribution column is not the distribution column.
            parts = [_bare(part) for part in index.expressions]
            names = tuple(part.name for part in parts if isinstance(part, Column))
            name, place = str(index.name), place_of(index, *_columns(index))
            yield KeyShape("unique index", name, names, _included(index), place)


def _has_dropped_column(item: Constraint | Index) -> bool:
    # PostgreSQL drops constraints and indexes with their columns.
    return any(DROPPED in column.info for column in _columns(item))


def _columns(item: Constraint | Index) -> list[Column[Any]]:
    """Return the columns of a constraint or an index, without its expressions."""
    columns: Iterable[object] = item.columns if isinstance(item, ColumnCollectionMixin) else ()
    return [column for column in columns if isinstance(column, Column)]


def _bare(part: object) -> object:
    """Return an indexed column without its order and its collation."""
    while True:
        match part:
            case UnaryExpression() if part.modifier is not None:
                part = part.element
            case BinaryExpression() if part.operator is operators.collate:
                part = part.left
            case _:
                return part


def _included(item: Constraint | Index) -> tuple[str, ...]:
    return tuple(
        part.name if isinstance(part, Column) else str(part)
        for part in item.dialect_kwargs.get("postgresql_include") or ()
    )


def _foreign_key(constraint: ForeignKeyConstraint) -> ForeignKeyShape:
    targets = [element.target_fullname.rpartition(".") for element in constraint.elements]
    return ForeignKeyShape(
        name=_name(constraint),
        columns=tuple(column.name for column in constraint.columns),
        target=targets[0][0],
        target_columns=tuple(column for _, _, column in targets),
        on_delete=_action(constraint.ondelete),
        on_update=_action(constraint.onupdate),
        place=place_of(constraint, *_columns(constraint)),
    )


def _action(action: str | None) -> str:
    return " ".join((action or "NO ACTION").upper().split())


def _name(constraint: Constraint) -> str | None:
    # A name may be a symbol that stands for "none", which is no string.
    return str(constraint.name) if isinstance(constraint.name, str) else None
