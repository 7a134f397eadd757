"""What an expression of a migration is worth, without running the migration.

Literals, the constants of the module, and the constructors of SQLAlchemy are evaluated; all the
rest is `UNKNOWN`. So a column in a migration becomes a `Column`, and the rules need no second way
to look at it. Nothing but SQLAlchemy's constructs is ever called, and none of them does anything.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Final

from sqlalchemy import Column
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.schema import SchemaItem

from citus_analytics.lint.finding import Place
from citus_analytics.lint.shape import PLACE

if TYPE_CHECKING:
    from collections.abc import Sequence


class _Unknown:
    """The value of an expression that only a run of the migration could tell."""

    def __repr__(self) -> str:
        return "UNKNOWN"


class _Operations:
    """`op`, by whatever name a migration knows it."""


UNKNOWN: Final = _Unknown()
OPERATIONS: Final = _Operations()

_OPERATIONS = ("alembic.op", "citus_analytics.migrations.op")
_CONSTRUCTS = ("sqlalchemy.sql", "sqlalchemy.dialects.postgresql", "sqlalchemy.types")
_NOT_EVALUATED = (TypeError, ValueError, AttributeError, KeyError, ImportError, SQLAlchemyError)


@dataclass(slots=True)
class Evaluator:
    """Evaluates expressions of one file.

    Attributes:
        path: The file.
        names: What the names of the module, and of the function that is looked at, stand for.
        first, last: The lines of the statement that is looked at.
    """

    path: str
    names: dict[str, object] = field(default_factory=dict)
    first: int = 1
    last: int = 1

    def place(self, node: ast.expr | ast.stmt) -> Place:
        """Return the place of a node in the statement that is looked at."""
        return Place(self.path, node.lineno, self.first, self.last)

    def at(self, statement: ast.stmt) -> None:
        """Look at another statement."""
        self.first, self.last = statement.lineno, statement.end_lineno or statement.lineno

    def import_names(self, statement: ast.Import | ast.ImportFrom) -> None:
        """Take note of what an import of SQLAlchemy, or of `op`, defines."""
        for alias in statement.names:
            if isinstance(statement, ast.Import):
                # `import a.b` defines a, `import a.b as c` defines a.b as c.
                full = alias.name if alias.asname else alias.name.partition(".")[0]
                name = alias.asname or full
            else:
                full, name = f"{statement.module}.{alias.name}", alias.asname or alias.name
            self.names[name] = _imported(full)

    def value(self, node: ast.expr) -> object:
        """Return what an expression is worth, UNKNOWN if only a run could tell."""
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return self.names.get(node.id, UNKNOWN)
            case ast.List() | ast.Tuple():
                return [self.value(element) for element in node.elts]
            case ast.Dict():
                return self._dict(node)
            case ast.Attribute():
                return self._attribute(node)
            case ast.Call():
                return self._call(node)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as number)):
                return -number
            case ast.BinOp(op=ast.Add()):
                return _sum(self.value(node.left), self.value(node.right))
        return UNKNOWN

    def text(self, node: ast.expr) -> str:
        """Return the SQL of an expression: its value, or the literals that can be read in it."""
        value = self.value(node)
        if isinstance(value, str):
            return value
        if value is not UNKNOWN and is_construct(value):
            try:
                return str(value)
            except SQLAlchemyError:
                pass
        strings = [self._string(part) for part in _in_order(node)]
        return "".join(strings)

    def _string(self, node: ast.AST) -> str:
        match node:
            case ast.Constant(value=str() as text):
                return text
            case ast.Name() if isinstance(self.names.get(node.id), str):
                return str(self.names[node.id])
        return ""

    def _dict(self, node: ast.Dict) -> dict[object, object]:
        pairs = zip(node.keys, node.values, strict=True)
        known = [(self.value(key), self.value(value)) for key, value in pairs if key is not None]
        return {key: value for key, value in known if isinstance(key, str)}

    def _attribute(self, node: ast.Attribute) -> object:
        owner = self.value(node.value)
        if node.attr.startswith("_") or not is_construct(owner):
            return UNKNOWN
        return getattr(owner, node.attr, UNKNOWN)

    def _call(self, node: ast.Call) -> object:
        function = self.value(node.func)
        if not (callable(function) and is_construct(function)):
            return UNKNOWN
        positional, named = self.arguments(node)
        named = {name: value for name, value in named.items() if value is not UNKNOWN}
        # A column of a type that is not known is still a column.
        known = [value for value in positional if value is not UNKNOWN]
        if len(known) < len(positional) and function is not Column:
            return UNKNOWN
        try:
            made: object = function(*known, **named)
        except _NOT_EVALUATED:
            return UNKNOWN
        if isinstance(made, SchemaItem):
            made.info[PLACE] = self.place(node)
        return made

    def arguments(self, node: ast.Call) -> tuple[list[object], dict[str, object]]:
        """Return the arguments of a call, by place and by name."""
        positional: list[object] = []
        for argument in node.args:
            if isinstance(argument, ast.Starred):
                several = self.value(argument.value)
                positional += several if isinstance(several, list) else [UNKNOWN]
            else:
                positional.append(self.value(argument))
        named = {one.arg: self.value(one.value) for one in node.keywords if one.arg is not None}
        return positional, named


def is_construct(value: object) -> bool:
    """Return whether a value is one of SQLAlchemy's modules or constructs, which do nothing."""
    name = getattr(value, "__name__", "")
    if isinstance(value, type(ast)):
        return name == "sqlalchemy" or name.startswith((*_CONSTRUCTS, "sqlalchemy.dialects"))
    module = getattr(value, "__module__", None) or type(value).__module__
    return module.startswith(_CONSTRUCTS)


def _imported(full: str) -> object:
    if full in _OPERATIONS:
        return OPERATIONS
    if full.partition(".")[0] != "sqlalchemy":
        return UNKNOWN
    try:
        module, _, name = full.rpartition(".")
        return import_module(full) if not module else _member(module, name)
    except _NOT_EVALUATED:
        return UNKNOWN


def _member(module: str, name: str) -> object:
    found = import_module(module)
    return getattr(found, name) if hasattr(found, name) else import_module(f"{module}.{name}")


def _sum(left: object, right: object) -> object:
    if isinstance(left, str) and isinstance(right, str):
        return left + right
    if isinstance(left, list) and isinstance(right, list):
        return left + right
    return UNKNOWN


def _in_order(node: ast.AST) -> Sequence[ast.AST]:
    """Return a node and all below it, in the order of the source."""
    parts = [node]
    for child in ast.iter_child_nodes(node):
        parts += _in_order(child)
    return parts
