"""The linter on a folder of Alembic migrations."""

from __future__ import annotations

import ast
from dataclasses import replace
from typing import TYPE_CHECKING

from citus_analytics.lint.changes import apply
from citus_analytics.lint.events import Event, Walker
from citus_analytics.lint.finding import Place
from citus_analytics.lint.history import History
from citus_analytics.lint.migration_rules import EVENT_RULES
from citus_analytics.lint.rules import TABLE_RULES
from citus_analytics.lint.source import Evaluator

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from citus_analytics.lint.finding import Fault
    from citus_analytics.lint.folder import Migration
    from citus_analytics.lint.rules import Version


def faults_of_migrations(
    migrations: Iterable[Migration], citus: Version
) -> Iterator[tuple[str, Fault]]:
    """Yield what is wrong with migrations, each with its code, and each once."""
    history = History()
    seen: set[tuple[str, str, Place | None]] = set()
    for migration in migrations:
        for code, fault in _faults_of_migration(history, migration, citus):
            if (code, fault.message, fault.place) not in seen:
                seen.add((code, fault.message, fault.place))
                yield code, fault


def _faults_of_migration(
    history: History, migration: Migration, citus: Version
) -> Iterator[tuple[str, Fault]]:
    walker = Walker(Evaluator(migration.path), {})
    # The names of the module: its imports, constants and functions.
    for _ in walker.events(migration.tree.body):
        pass
    for event in _events(walker, migration, "upgrade"):
        yield from _faults_of_event(history, event, citus)
        touched = apply(history, event)
        # The server refuses something at once, so it is judged at once.
        yield from _faults_of_tables(history, _near(history, touched), "error", citus)
    # What does harm is judged at the end: the next statement may have put it right.
    yield from _faults_of_tables(history, history.tables().keys(), "warning", citus)
    for event in _events(walker, migration, "downgrade"):
        yield from _faults_of_event(history, replace(event, downgrade=True), citus)
    yield from _faults_of_event(history, _way_back(migration), citus)
    history.forget_migration()


def _events(walker: Walker, migration: Migration, name: str) -> Iterator[Event]:
    function = migration.function(name)
    for event in walker.events(function.body if function else ()):
        yield replace(event, arguments={**event.arguments, "revision": migration.revision})


def _way_back(migration: Migration) -> Event:
    """Return the pseudo-operation that tells whether there is a way back."""
    upgrade, downgrade = migration.function("upgrade"), migration.function("downgrade")
    line = downgrade.lineno if downgrade else 1
    last = (downgrade.end_lineno or line) if downgrade else 1
    empty = _does_nothing(downgrade) and not _does_nothing(upgrade)
    arguments: dict[str, object] = {"empty": empty, "revision": migration.revision}
    return Event("downgrade", arguments, Place(migration.path, line, line, last))


def _does_nothing(function: ast.FunctionDef | None) -> bool:
    return function is None or all(
        isinstance(statement, ast.Pass)
        or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
        or (isinstance(statement, ast.Return) and statement.value is None)
        for statement in function.body
    )


def _near(history: History, touched: set[str]) -> set[str]:
    """Return tables that have changed, and those whose foreign keys lead to them."""
    if not touched:
        return touched
    return touched | {
        key
        for key, table in history.tables().items()
        if any(foreign_key.target in touched for foreign_key in table.foreign_keys)
    }


def _faults_of_event(history: History, event: Event, citus: Version) -> Iterator[tuple[str, Fault]]:
    for rule in EVENT_RULES:
        if rule.applies(citus):
            yield from ((rule.code, fault) for fault in rule.check(history, event))


def _faults_of_tables(
    history: History, keys: Iterable[str], severity: str, citus: Version
) -> Iterator[tuple[str, Fault]]:
    if not keys:
        return
    tables = history.tables()
    for rule in TABLE_RULES:
        if rule.severity == severity and rule.applies(citus):
            for key in sorted(keys):
                yield from ((rule.code, fault) for fault in rule.check(tables, tables[key]))
