"""Migrations as a series of events, read from their source: nothing of a migration is run.

Literals, the constants of the module and the constructors of SQLAlchemy are evaluated; all the rest
is `UNKNOWN`. So a column in a migration becomes a `Column`, and is read as a declared one is. Loops
over literals are unrolled, functions of the same file are followed, and of every `if` all branches
are taken: whatever may happen is treated as if it did.
"""

from __future__ import annotations

import ast
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy import Column as DeclaredColumn
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.elements import ClauseElement
from sqlalchemy.sql.schema import SchemaItem

from citus_analytics.errors import ArgumentError
from citus_analytics.lint.model import (
    PLACE,
    UNKNOWN_TEXT,
    Action,
    AlterColumn,
    AlterDistribution,
    Column,
    CreateRollups,
    CreateTable,
    Distribute,
    DropColumn,
    DropConstraint,
    DropIndex,
    DropRollups,
    DropTable,
    EndMigration,
    Event,
    Extend,
    Fill,
    ForeignKey,
    Key,
    Name,
    OtherIndex,
    Place,
    Placement,
    RenameTable,
    RunConcurrently,
    SetAccessMethod,
    Table,
    Undistribute,
    column_name,
    foreign_key_action,
    other_method,
    read_exclusion,
    read_options,
    read_table,
)
from citus_analytics.rollups.sql import RollupSpec, TargetSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of migrations.

    Attributes:
        path: The file, as shown in findings.
        source: Its text.
        revision: Its `revision`.
        parents: The revisions that come before it: `down_revision` and `depends_on`.
    """

    path: str
    source: str
    revision: str
    parents: tuple[str, ...]

    def events(self) -> Iterator[Event]:
        """Yield what the migration does, in order: `upgrade`, the end of it, `downgrade`.

        Raises:
            ArgumentError: There is SQL in it, and no parser for SQL.
        """
        reader = _Reader(self.path, self.revision)
        # Parsed again: the garbage collector would look at the trees of all migrations, often.
        body = ast.parse(self.source).body
        # The names of the module: its imports, constants and functions.
        for _ in reader.run(body):
            pass
        functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
        upgrade, downgrade = functions.get("upgrade"), functions.get("downgrade")
        yield from reader.run(upgrade.body if upgrade else ())
        line = downgrade.lineno if downgrade else 1
        last = (downgrade.end_lineno or line) if downgrade else 1
        irreversible = _does_nothing(downgrade) and not _does_nothing(upgrade)
        place = Place(self.path, line, line, last)
        yield Event(EndMigration(irreversible), place, self.revision)
        reader.downgrade = True
        yield from reader.run(downgrade.body if downgrade else ())


def _does_nothing(function: ast.FunctionDef | None) -> bool:
    return function is None or all(
        isinstance(statement, ast.Pass)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        or (isinstance(statement, ast.Return) and statement.value is None)
        for statement in function.body
    )


def read_folders(folders: Iterable[Path]) -> list[Migration]:
    """Return the migrations of folders, or of `versions` in them, each after those before it.

    Raises:
        ArgumentError: There is no such folder, no migration in it, or one cannot be read.
    """
    found: list[Migration] = []
    for folder in folders:
        if not folder.is_dir():
            raise ArgumentError(f"there is no folder {str(folder)!r} with migrations.")
        versions = folder / "versions"
        place = versions if versions.is_dir() else folder
        migrations = [one for path in sorted(place.rglob("*.py")) if (one := _read(path))]
        if not migrations:
            raise ArgumentError(
                f"{str(folder)!r} has no migrations: no file in {str(place)!r} sets `revision`."
            )
        found += migrations
    return list(_in_order(found))


@dataclass(frozen=True, slots=True)
class Environment:
    """An `env.py`.

    Attributes:
        path: The file, as shown in findings.
        source: Its text.
    """

    path: str
    source: str

    @property
    def is_sequential(self) -> bool:
        """Whether its transactions begin in Citus's sequential mode."""
        return (
            re.search(r"run_environment|sequential_|multi_shard_modify_mode", self.source)
            is not None
        )

    @property
    def place(self) -> Place:
        """Where it configures Alembic. A comment on any line can ignore."""
        lines = self.source.splitlines()
        found = (number for number, line in enumerate(lines, 1) if "context.configure" in line)
        return Place(self.path, next(found, 1), 1, len(lines))


def read_environments(folders: Iterable[Path]) -> list[Environment]:
    """Return the environments of folders, or of the folders that these are `versions` of."""
    found: dict[Path, None] = {}
    for folder in folders:
        for place in (folder, folder.parent) if folder.name == "versions" else (folder,):
            if (place / "env.py").is_file():
                found[place / "env.py"] = None
    return [Environment(_shown(path), path.read_text(encoding="utf-8")) for path in found]


def _shown(path: Path) -> str:
    # Relative to the current folder where it is below: continuous integration links only those.
    here, full = Path.cwd(), path.resolve()
    return str(full.relative_to(here) if full.is_relative_to(here) else path)


def _read(path: Path) -> Migration | None:
    """Return a file's migration; None if it sets no `revision`."""
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source, str(path))
    except (SyntaxError, ValueError) as error:
        raise ArgumentError(f"{path} cannot be read as Python: {error}.") from error
    reader = _Reader(str(path), "")
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            reader.assign(statement)
    revision = reader.names.get("revision")
    if not isinstance(revision, str):
        return None
    parents: list[object] = []
    for name in ("down_revision", "depends_on"):
        value = reader.names.get(name)
        parents += value if isinstance(value, list) else [value]
    strings = tuple(parent for parent in parents if isinstance(parent, str))
    return Migration(_shown(path), source, revision, strings)


def _in_order(migrations: list[Migration]) -> Iterator[Migration]:
    by_revision = {migration.revision: migration for migration in migrations}
    done: set[str] = set()
    for first in migrations:
        # A stack of our own: folders with thousands of revisions are deeper than Python's.
        stack, entered = [first], {first.revision}
        while stack:
            migration = stack[-1]
            waiting = [
                by_revision[parent]
                for parent in migration.parents
                if parent in by_revision and parent not in done and parent not in entered
            ]
            if waiting:
                stack += waiting
                entered.update(parent.revision for parent in waiting)
                continue
            stack.pop()
            if migration.revision not in done:
                done.add(migration.revision)
                yield migration


class _Unknown:
    """The value of an expression that only a run of the migration could tell."""


class _Operations:
    """`op`, by whatever name a migration knows it."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """What `with op.batch_alter_table(...) as name` calls `name`."""

    table: object
    schema: object


UNKNOWN: Final = _Unknown()
OPERATIONS: Final = _Operations()

_OPERATIONS = ("alembic.op", "citus_analytics.migrations.op")
_CONSTRUCTS = ("sqlalchemy.sql", "sqlalchemy.dialects.postgresql", "sqlalchemy.types")
_NOT_EVALUATED = (TypeError, ValueError, AttributeError, KeyError, ImportError, SQLAlchemyError)
_RUNS_SQL = ("execute", "exec_driver_sql", "scalar", "scalars")
_DEEPEST = 8
# A parameter is `$1`, which the grammar knows.
_DIALECT = PGDialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]

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
    "alter_table_set_access_method": ("table_name", "access_method"),
    "create_rollups": ("spec",),
    "drop_rollups": ("spec",),
}
# The names that operations have for the table that they are about.
_TABLE = ("table_name", "source_table", "old_table_name")


class _Reader:
    """Walks through one file, evaluates its expressions, and yields the events.

    Attributes:
        names: What the names of the module, and of the function being read, stand for.
        downgrade: Whether `downgrade` is being read.
    """

    def __init__(self, path: str, revision: str) -> None:
        self.names: dict[str, object] = {}
        self.downgrade = False
        self._path, self._revision = path, revision
        self._functions: dict[str, ast.FunctionDef] = {}
        self._autocommit = False
        self._depth = 0
        # The lines of the statement being read.
        self._first = self._last = 1

    # Statements

    def run(self, body: Iterable[ast.stmt]) -> Iterator[Event]:
        """Yield what statements do."""
        for statement in body:
            self._look_at(statement)
            match statement:
                case ast.Import() | ast.ImportFrom():
                    self._import(statement)
                case ast.FunctionDef():
                    self._functions[statement.name] = statement
                case ast.With():
                    yield from self._with(statement)
                case ast.For():
                    values = self.value(statement.iter)
                    for value in values if isinstance(values, list) and values else [UNKNOWN]:
                        self._bind(statement.target, value)
                        yield from self.run(statement.body)
                case ast.If() | ast.While():
                    yield from self.run(statement.body)
                    yield from self.run(statement.orelse)
                case ast.Try():
                    handlers = [handler.body for handler in statement.handlers]
                    for block in (
                        statement.body,
                        *handlers,
                        statement.orelse,
                        statement.finalbody,
                    ):
                        yield from self.run(block)
                case _:
                    for node in ast.walk(statement):
                        if isinstance(node, ast.Call):
                            yield from self._called(node)
                            self._look_at(statement)
                    self.assign(statement)

    def assign(self, statement: ast.stmt) -> None:
        """Take note of what an assignment defines."""
        match statement:
            case ast.Assign(targets=[target], value=value):
                self._bind(target, self._result(value))
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._bind(target, self._result(value))

    def _look_at(self, statement: ast.stmt) -> None:
        self._first, self._last = statement.lineno, statement.end_lineno or statement.lineno

    def _place(self, node: ast.expr) -> Place:
        return Place(self._path, node.lineno, self._first, self._last)

    def _import(self, statement: ast.Import | ast.ImportFrom) -> None:
        for alias in statement.names:
            if isinstance(statement, ast.Import):
                # `import a.b` defines a, `import a.b as c` defines a.b as c.
                full = alias.name if alias.asname else alias.name.partition(".")[0]
                name = alias.asname or full
            else:
                full, name = f"{statement.module}.{alias.name}", alias.asname or alias.name
            self.names[name] = _imported(full)

    def _bind(self, target: ast.expr, value: object) -> None:
        match target:
            case ast.Name():
                self.names[target.id] = value
            case ast.Tuple() if isinstance(value, list) and len(value) == len(target.elts):
                for one, part in zip(target.elts, value, strict=True):
                    self._bind(one, part)

    def _with(self, statement: ast.With) -> Iterator[Event]:
        outside = self._autocommit
        for item in statement.items:
            match item.context_expr:
                case ast.Call(func=ast.Attribute(attr="autocommit_block")):
                    self._autocommit = True
                case ast.Call(func=ast.Attribute(attr="batch_alter_table")) as call:
                    positional, named = self._arguments(call)
                    table = named.get("table_name", positional[0] if positional else UNKNOWN)
                    if item.optional_vars is not None:
                        self._bind(item.optional_vars, _Batch(table, named.get("schema")))
        yield from self.run(statement.body)
        self._autocommit = outside

    def _called(self, call: ast.Call) -> Iterator[Event]:
        """Yield what a call does: of a function of the file, of an operation, or of SQL."""
        actions: Iterable[Action] = ()
        in_sql = False
        match call.func:
            case ast.Name(id=name) if name in self._functions:
                if self._depth < _DEEPEST:
                    function = self._functions[name]
                    positional, named = self._arguments(call)
                    parameters = [parameter.arg for parameter in function.args.args]
                    self.names.update(zip(parameters, positional, strict=False))
                    self.names.update(named)
                    self._depth += 1
                    yield from self.run(function.body)
                    self._depth -= 1
            case ast.Attribute(attr=name) if name in _RUNS_SQL:
                named_so = [
                    one.value for one in call.keywords if one.arg in ("sqltext", "statement")
                ]
                for text in (*call.args[:1], *named_so):
                    actions, in_sql = self._sql(text, of_driver=name == "exec_driver_sql"), True
            case ast.Attribute(attr=name, value=owner):
                value = self.value(owner)
                if value is OPERATIONS or isinstance(value, _Batch):
                    arguments = self._named_arguments(name, call, value)
                    # What SQLAlchemy refuses is skipped: running the migration reports it.
                    with suppress(*_NOT_EVALUATED):
                        actions = list(_actions(name, arguments))
        place = self._place(call)
        for action in actions:
            yield Event(action, place, self._revision, in_sql, self._autocommit, self.downgrade)

    def _sql(self, node: ast.expr, *, of_driver: bool) -> Iterator[Action]:
        text = self.text(node)
        if text in ("", UNKNOWN_TEXT):
            return iter(())
        try:
            from citus_analytics.lint import sql
        except ModuleNotFoundError as error:
            if error.name != "pglast":
                raise
            raise ArgumentError(
                f"{self._path}:{node.lineno} has SQL, which cannot be read without the package "
                "pglast: install citus_analytics[lint]."
            ) from error
        # Parameters are `:name` for SQLAlchemy, and `%s` for the driver.
        if of_driver:
            text = re.sub(r"%(\(\w+\))?s", "$1", text).replace("%%", "%")
        elif ":" in text:
            with suppress(SQLAlchemyError):
                text = str(sa.text(text).compile(dialect=_DIALECT))
        return sql.actions_of(text)

    def _named_arguments(self, operation: str, call: ast.Call, owner: object) -> dict[str, object]:
        """Return the arguments of an operation by their names."""
        positional, named = self._arguments(call)
        names = list(_POSITIONAL.get(operation, ()))
        if isinstance(owner, _Batch):
            table = next((name for name in names if name in _TABLE), "table_name")
            names = [name for name in names if name != table]
            schema = "source_schema" if operation == "create_foreign_key" else "schema"
            named |= {table: owner.table, schema: owner.schema}
        if names and names[-1] == "*items":
            names.pop()
            named["items"] = positional[len(names) :]
        return named | dict(zip(names, positional, strict=False))

    # Expressions

    def value(self, node: ast.expr) -> object:
        """Return the value of an expression, UNKNOWN if only a run could tell."""
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return self.names.get(node.id, UNKNOWN)
            case ast.List() | ast.Tuple():
                return [self.value(element) for element in node.elts]
            case ast.Dict():
                pairs = zip(node.keys, node.values, strict=True)
                known = [(self.value(key), self.value(one)) for key, one in pairs if key]
                return {key: value for key, value in known if isinstance(key, str)}
            case ast.Attribute():
                owner = self.value(node.value)
                if node.attr.startswith("_") or not _is_construct(owner):
                    return UNKNOWN
                return getattr(owner, node.attr, UNKNOWN)
            case ast.Call(func=ast.Attribute(attr="f", value=owner), args=[name]):
                # `op.f("...")` is a name that no convention changes.
                called_on = self.value(owner)
                is_ours = called_on is OPERATIONS or isinstance(called_on, _Batch)
                return self.value(name) if is_ours else UNKNOWN
            case ast.Call():
                return self._constructed(node)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as number)):
                return -number
            case ast.BinOp(op=ast.Add()):
                left, right = self.value(node.left), self.value(node.right)
                if isinstance(left, str) and isinstance(right, str):
                    return left + right
                if isinstance(left, list) and isinstance(right, list):
                    return left + right
            case ast.JoinedStr():
                text = self.text(node)
                return UNKNOWN if UNKNOWN_TEXT in text else text
        return UNKNOWN

    def text(self, node: ast.expr) -> str:
        """Return the SQL of an expression; an unknown part is a placeholder for a name."""
        value = self.value(node) if not isinstance(node, ast.JoinedStr) else UNKNOWN
        if isinstance(value, str | int):
            return str(value)
        if isinstance(value, ClauseElement):
            with suppress(SQLAlchemyError):
                return str(value.compile(dialect=_DIALECT))
        match node:
            case ast.JoinedStr():
                return "".join(map(self.text, node.values))
            case ast.FormattedValue():
                return self.text(node.value)
            case ast.BinOp(op=ast.Add()):
                return self.text(node.left) + self.text(node.right)
            case ast.BinOp(op=ast.Mod()):
                parts = node.right.elts if isinstance(node.right, ast.Tuple) else [node.right]
                return _filled(self.text(node.left), "%s", map(self.text, parts))
            case ast.Call(func=ast.Attribute(attr="format", value=template)):
                return _filled(self.text(template), "{}", map(self.text, node.args))
            case ast.Call(args=[argument, *_]):  # `text(...)`, `dedent(...)`
                return self.text(argument)
            case ast.Call(func=ast.Attribute(value=owner)):  # `"...".strip()`
                return self.text(owner)
        return UNKNOWN_TEXT

    def _constructed(self, call: ast.Call) -> object:
        """Return what a constructor of SQLAlchemy makes."""
        function = self.value(call.func)
        if not (callable(function) and _is_construct(function)):
            return UNKNOWN
        positional, named = self._arguments(call)
        named = {name: value for name, value in named.items() if value is not UNKNOWN}
        # A column of a type that is not known is still a column.
        known = [value for value in positional if value is not UNKNOWN]
        if len(known) < len(positional) and function is not DeclaredColumn:
            return UNKNOWN
        try:
            made: object = function(*known, **named)
        except _NOT_EVALUATED:
            return UNKNOWN
        if isinstance(made, SchemaItem):
            made.info[PLACE] = self._place(call)
        return made

    def _arguments(self, call: ast.Call) -> tuple[list[object], dict[str, object]]:
        """Return the arguments of a call, by place and by name."""
        positional: list[object] = []
        for argument in call.args:
            if isinstance(argument, ast.Starred):
                several = self.value(argument.value)
                positional += several if isinstance(several, list) else [UNKNOWN]
            else:
                positional.append(self.value(argument))
        named: dict[str, object] = {}
        for one in call.keywords:
            value = self.value(one.value)
            if one.arg is not None:
                named[one.arg] = value
            elif isinstance(value, dict):
                named |= value
        return positional, named

    def _result(self, node: ast.expr) -> object:
        """Return the value of an expression; `op.create_table` is a table to insert into."""
        match node:
            case ast.Call(func=ast.Attribute(attr="create_table", value=owner)):
                if self.value(owner) is OPERATIONS:
                    arguments = self._named_arguments("create_table", node, OPERATIONS)
                    name, schema = arguments.get("table_name"), arguments.get("schema")
                    if isinstance(name, str):
                        return sa.table(name, schema=schema if isinstance(schema, str) else None)
        return self.value(node)


def _filled(template: str, hole: str, values: Iterable[str]) -> str:
    for value in values:
        template = template.replace(hole, value, 1)
    return template.replace(hole, UNKNOWN_TEXT)


def _is_construct(value: object) -> bool:
    """Return whether a value is one of SQLAlchemy's modules or constructs, which do nothing."""
    if value in (RollupSpec, TargetSpec):
        return True
    name = getattr(value, "__name__", "")
    if isinstance(value, type(ast)):
        return name == "sqlalchemy" or name.startswith((*_CONSTRUCTS, "sqlalchemy.dialects"))
    module = getattr(value, "__module__", None) or type(value).__module__
    return module.startswith(_CONSTRUCTS)


def _imported(full: str) -> object:
    if full in _OPERATIONS:
        return OPERATIONS
    if full.startswith("citus_analytics."):
        return {one.__name__: one for one in (RollupSpec, TargetSpec)}.get(
            full.rpartition(".")[2], UNKNOWN
        )
    if full.partition(".")[0] != "sqlalchemy":
        return UNKNOWN
    module, _, name = full.rpartition(".")
    try:
        if not module:
            return import_module(full)
        found = import_module(module)
        return getattr(found, name) if hasattr(found, name) else import_module(full)
    except _NOT_EVALUATED:
        return UNKNOWN


def _actions(operation: str, arguments: dict[str, object]) -> Iterator[Action]:
    """Yield the actions of an operation, of Alembic or of this library."""

    def string(name: str) -> str | None:
        value = arguments.get(name)
        return value if isinstance(value, str) else None

    def number(name: str) -> int | None:
        value = arguments.get(name)
        return value if isinstance(value, int) else None

    def listed(name: str) -> list[Any] | None:
        """Return a list whose elements are all known."""
        value = arguments.get(name)
        return value if isinstance(value, list) and UNKNOWN not in value else None

    def with_key(key: Key) -> Extend:
        return Extend(name, Table(name, keys=[key]))

    if arguments.get("postgresql_concurrently") is True:
        yield RunConcurrently()
    schema = string("schema") or string("source_schema")
    if operation == "drop_index" and (index := string("index_name")):
        yield DropIndex(Name(schema, index))
        return
    if operation == "bulk_insert":
        table = arguments.get("table")
        if isinstance(table, sa.TableClause):
            yield Fill(Name(table.schema, table.name))
        return
    if isinstance(spec := arguments.get("spec"), RollupSpec):
        source = Name(spec.schema, spec.source)
        yield CreateRollups(source, spec) if operation == "create_rollups" else DropRollups(source)
        return
    called = next(filter(None, map(string, _TABLE)), None)
    if called is None:
        return
    name = Name(schema, called)
    constraint, columns = string("constraint_name"), listed("columns")
    included = tuple(map(str, listed("postgresql_include") or ()))
    match operation:
        case "create_table":
            items = arguments.get("items")
            known = items if isinstance(items, list) else []
            parts = [item for item in known if isinstance(item, SchemaItem)]
            created = replace(_table_of(name, parts), **read_options(arguments, name.schema))
            yield CreateTable(name, created, arguments.get("if_not_exists") is True)
        case "drop_table":
            yield DropTable(name)
        case "rename_table":
            if new := string("new_table_name"):
                yield RenameTable(name, Name(schema, new))
        case "add_column":
            column = arguments.get("column")
            if isinstance(column, DeclaredColumn):
                yield Extend(name, _table_of(name, [column]))
        case "drop_column":
            if column := string("column_name"):
                yield DropColumn(name, column)
        case "alter_column":
            if column := string("column_name"):
                yield _alter_column(name, column, string("new_column_name"), arguments)
        case "create_index":
            part = Table(name)
            if method := other_method(arguments.get("postgresql_using")):
                part.indexes.append(OtherIndex(string("index_name"), method))
            if arguments.get("unique") is True and columns:
                compared = tuple(filter(None, map(column_name, columns)))
                part.keys.append(Key("unique index", string("index_name"), compared, included))
            yield Extend(name, part)
        case "create_unique_constraint" if columns:
            yield with_key(Key("unique constraint", constraint, tuple(columns), included))
        case "create_primary_key" if columns:
            yield with_key(Key("primary key", constraint, tuple(columns)))
        case "create_exclude_constraint":
            elements = listed("items") or []
            if elements and all(isinstance(one, list) and UNKNOWN not in one for one in elements):
                exclusion = Table(name, keys=[read_exclusion(constraint, elements)])
                if method := other_method(arguments.get("using", "gist")):
                    exclusion.indexes.append(OtherIndex(constraint, method))
                yield Extend(name, exclusion)
        case "create_foreign_key":
            local, remote = listed("local_cols"), listed("remote_cols")
            if (target := string("referent_table")) and local and remote:
                foreign_key = ForeignKey(
                    constraint,
                    tuple(local),
                    Name(string("referent_schema"), target),
                    tuple(remote),
                    foreign_key_action(string("ondelete")),
                    foreign_key_action(string("onupdate")),
                )
                yield Extend(name, Table(name, foreign_keys=[foreign_key]))
        case "drop_constraint":
            if constraint is not None:
                yield DropConstraint(name, constraint)
        case "create_distributed_table" | "create_distributed_table_concurrently":
            if operation.endswith("_concurrently"):
                yield RunConcurrently()
            column, placement = arguments.get("column", UNKNOWN), None
            if column is None or isinstance(column, str):
                placement = Placement.over_shards(
                    column,
                    colocate_with=string("colocate_with"),
                    colocate_schema=string("colocate_schema"),
                    shard_count=number("shard_count"),
                    distribution_type=string("distribution_type") or "hash",
                )
            yield Distribute(name, operation, placement)
        case "create_reference_table":
            yield Distribute(name, operation, Placement(kind="reference"))
        case "alter_distributed_table":
            yield AlterDistribution(
                name,
                string("column"),
                string("colocate_with"),
                string("colocate_schema"),
                number("shard_count"),
            )
        case "alter_table_set_access_method":
            if method := string("access_method"):
                yield SetAccessMethod(name, method == "columnar")
        case "undistribute_table":
            yield Undistribute(name, reversible=arguments.get("was") is not None)


def _table_of(name: Name, items: Iterable[SchemaItem]) -> Table:
    # A constant of the module may be part of several tables.
    own = [
        one._copy() if isinstance(one, DeclaredColumn) and one.table is not None else one  # noqa: SLF001
        for one in items
    ]
    return read_table(sa.Table(name.name, sa.MetaData(), *own, schema=name.schema))


def _alter_column(
    table: Name, column: str, new_name: str | None, arguments: dict[str, object]
) -> AlterColumn:
    def read(type_: Any, default: Any) -> Column:
        declared: DeclaredColumn[Any] = (
            DeclaredColumn(column, type_, default)
            if isinstance(default, sa.Identity)
            else DeclaredColumn(column, type_, server_default=default)
        )
        return _table_of(table, [declared]).columns[column]

    retyped = new_default = None
    if "type_" in arguments:
        type_ = arguments["type_"]
        retyped = Column(column) if type_ is UNKNOWN else read(type_, None)
    default = arguments.get("server_default", False)
    if default is not False and default is not UNKNOWN:
        new_default = read(sa.BigInteger(), default)
    return AlterColumn(table, column, new_name, retyped, new_default)
