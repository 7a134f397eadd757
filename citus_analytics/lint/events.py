"""What a migration does, as a series of events, in the order in which it would run.

Loops over literals are unrolled, functions of the same file are followed, and of every `if` all
branches are taken: what may happen is looked at as if it did.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from citus_analytics.lint.finding import Place
from citus_analytics.lint.shape import in_schema
from citus_analytics.lint.source import OPERATIONS, UNKNOWN, Evaluator, is_construct
from citus_analytics.lint.sqltext import raw_distributions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# The names of positional arguments. A batch operation leaves out the table.
_POSITIONAL: Final = {
    "create_table": ("table_name", "*items"),
    "drop_table": ("table_name",),
    "rename_table": ("old_table_name", "new_table_name"),
    "add_column": ("table_name", "column"),
    "drop_column": ("table_name", "column_name"),
    "alter_column": ("table_name", "column_name"),
    "create_index": ("index_name", "table_name", "columns"),
    "drop_index": ("index_name", "table_name"),
    "create_unique_constraint": ("constraint_name", "table_name", "columns"),
    "create_primary_key": ("constraint_name", "table_name", "columns"),
    "create_exclude_constraint": ("constraint_name", "table_name", "*items"),
    "create_foreign_key": (
        "constraint_name",
        "source_table",
        "referent_table",
        "local_cols",
        "remote_cols",
    ),
    "drop_constraint": ("constraint_name", "table_name", "type_"),
    "bulk_insert": ("table", "rows"),
    "create_distributed_table": ("table_name", "column"),
    "create_distributed_table_concurrently": ("table_name", "column"),
    "create_reference_table": ("table_name",),
    "alter_distributed_table": ("table_name",),
    "undistribute_table": ("table_name",),
}
_RUNS_SQL = ("execute", "exec_driver_sql", "scalar", "scalars")
# The name that `create_foreign_key` and the batch form of it have for the table's schema.
_TABLE = ("table_name", "source_table")
_DEEPEST = 8


@dataclass(frozen=True, slots=True)
class Event:
    """One operation of a migration.

    Attributes:
        name: The name of the operation of `op`; "execute" for all SQL.
        arguments: What it is called with, by name; `sql` is the text of an "execute".
        place: Where it stands.
        autocommit: Whether it runs outside of the migration's transaction.
        raw: Whether it is part of an SQL text, which was an event of its own.
        downgrade: Whether it belongs to the way back.
    """

    name: str
    arguments: dict[str, object]
    place: Place
    autocommit: bool = False
    raw: bool = False
    downgrade: bool = False

    def text(self, name: str) -> str | None:
        """Return an argument that is a string; None if it is not known, or something else."""
        value = self.arguments.get(name)
        return value if isinstance(value, str) else None

    def listed(self, name: str) -> list[object]:
        """Return an argument that is a list; an empty one if it is not known."""
        value = self.arguments.get(name)
        return value if isinstance(value, list) else []

    @property
    def table(self) -> str | None:
        """The key of the table that this is about; None if it is not known."""
        table = self.arguments.get("table")
        name, schema = getattr(table, "name", None), getattr(table, "schema", None)
        if table is None:
            found = (self.text(one) for one in (*_TABLE, "old_table_name"))
            name = next((one for one in found if one is not None), None)
            schema = self.text("schema") or self.text("source_schema")
        return in_schema(name, schema) if isinstance(name, str) else None


@dataclass(frozen=True, slots=True)
class _Batch:
    """What `with op.batch_alter_table(...) as name` calls `name`."""

    table: object
    schema: object


@dataclass(slots=True)
class Walker:
    """Walks through the functions of one file."""

    evaluator: Evaluator
    functions: dict[str, ast.FunctionDef]

    def events(
        self, body: Iterable[ast.stmt], *, autocommit: bool = False, depth: int = 0
    ) -> Iterator[Event]:
        """Yield what the statements do."""
        for statement in body:
            self.evaluator.at(statement)
            match statement:
                case ast.Import() | ast.ImportFrom():
                    self.evaluator.import_names(statement)
                case ast.FunctionDef():
                    self.functions[statement.name] = statement
                case ast.With():
                    yield from self._with(statement, autocommit, depth)
                case ast.For():
                    yield from self._for(statement, autocommit, depth)
                case ast.If() | ast.While() | ast.Try():
                    for block in _blocks(statement):
                        yield from self.events(block, autocommit=autocommit, depth=depth)
                case _:
                    yield from self._simple(statement, autocommit, depth)

    def _with(self, statement: ast.With, autocommit: bool, depth: int) -> Iterator[Event]:
        for item in statement.items:
            call, name = item.context_expr, item.optional_vars
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                if call.func.attr == "autocommit_block":
                    autocommit = True
                elif call.func.attr == "batch_alter_table" and isinstance(name, ast.Name):
                    positional, named = self.evaluator.arguments(call)
                    table = named.get("table_name", positional[0] if positional else UNKNOWN)
                    self.evaluator.names[name.id] = _Batch(table, named.get("schema"))
        yield from self.events(statement.body, autocommit=autocommit, depth=depth)

    def _for(self, statement: ast.For, autocommit: bool, depth: int) -> Iterator[Event]:
        values = self.evaluator.value(statement.iter)
        for value in values if isinstance(values, list) and values else [UNKNOWN]:
            self._assign(statement.target, value)
            yield from self.events(statement.body, autocommit=autocommit, depth=depth)

    def _simple(self, statement: ast.stmt, autocommit: bool, depth: int) -> Iterator[Event]:
        for node in ast.walk(statement):
            if isinstance(node, ast.Call):
                yield from self._call(node, autocommit, depth)
                self.evaluator.at(statement)
        match statement:
            case ast.Assign(targets=[target], value=value):
                self._assign(target, self._result(value))
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign(target, self._result(value))

    def _assign(self, target: ast.expr, value: object) -> None:
        match target:
            case ast.Name():
                self.evaluator.names[target.id] = value
            case ast.Tuple() if isinstance(value, list) and len(value) == len(target.elts):
                for one, part in zip(target.elts, value, strict=True):
                    self._assign(one, part)

    def _result(self, value: ast.expr) -> object:
        """Return what a call of ours returns: `create_table` a table to insert into."""
        if self._operation(value) == "create_table" and isinstance(value, ast.Call):
            positional, named = self.evaluator.arguments(value)
            name, schema = named.get("table_name", positional[0]), named.get("schema")
            if isinstance(name, str):
                return sa.table(name, schema=schema if isinstance(schema, str) else None)
        return self.evaluator.value(value)

    def _operation(self, node: ast.expr) -> str | None:
        """Return the name of the operation of `op` that a call calls."""
        match node:
            case ast.Call(func=ast.Attribute(value=owner, attr=name)):
                value = self.evaluator.value(owner)
                return name if value is OPERATIONS or isinstance(value, _Batch) else None
        return None

    def _call(self, node: ast.Call, autocommit: bool, depth: int) -> Iterator[Event]:
        match node.func:
            case ast.Name(id=name) if name in self.functions and depth < _DEEPEST:
                function = self.functions[name]
                self._bind(function, node)
                yield from self.events(function.body, autocommit=autocommit, depth=depth + 1)
            case ast.Attribute(attr=name) if name in _RUNS_SQL and node.args:
                sql, place = self.evaluator.text(node.args[0]), self.evaluator.place(node)
                yield Event("execute", {"sql": sql}, place, autocommit)
                for raw, arguments in raw_distributions(sql):
                    yield Event(raw, arguments, place, autocommit, raw=True)
            case ast.Attribute(value=owner) if (operation := self._operation(node)) is not None:
                batch = self.evaluator.value(owner)
                arguments = self._arguments(operation, node, batch)
                yield Event(operation, arguments, self.evaluator.place(node), autocommit)

    def _bind(self, function: ast.FunctionDef, call: ast.Call) -> None:
        positional, named = self.evaluator.arguments(call)
        names = [argument.arg for argument in function.args.args]
        self.evaluator.names.update(zip(names, positional, strict=False))
        self.evaluator.names.update(named)

    def _arguments(self, operation: str, node: ast.Call, batch: object) -> dict[str, object]:
        positional, named = self.evaluator.arguments(node)
        names = list(_POSITIONAL.get(operation, ()))
        if isinstance(batch, _Batch):
            table = next((name for name in names if name in _TABLE), "table_name")
            names = [name for name in names if name != table]
            schema = "source_schema" if operation == "create_foreign_key" else "schema"
            named |= {table: batch.table, schema: batch.schema}
        if names and names[-1].startswith("*"):
            fixed = len(names) - 1
            named["items"] = [value for value in positional[fixed:] if is_construct(value)]
            if operation == "create_exclude_constraint":
                named["items"] = [value for value in positional[fixed:] if value is not UNKNOWN]
            names, positional = names[:-1], positional[:fixed]
        known = zip(names, positional, strict=False)
        return named | {name: value for name, value in known if value is not UNKNOWN}


def _blocks(statement: ast.If | ast.While | ast.Try) -> Iterator[list[ast.stmt]]:
    yield statement.body
    if isinstance(statement, ast.Try):
        yield from (handler.body for handler in statement.handlers)
    yield statement.orelse
    if isinstance(statement, ast.Try):
        yield statement.finalbody
