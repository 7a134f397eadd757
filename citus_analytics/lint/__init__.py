"""A linter for what Citus refuses, and for what it accepts although it does harm later.

It checks declared tables and migrations, and never connects to a database:

    from citus_analytics.lint import lint_metadata, lint_migrations

    for finding in [*lint_metadata(Base.metadata), *lint_migrations("alembic")]:
        print(finding)

Migrations are read in their order (`source`; SQL text by `sql`), as events that build up a `model`.
The `rules` judge each event, and the tables that it changes. A finding of severity "error" is
something that the server refuses; a "warning" is something that it accepts, and that does harm
later.
`docs/lint.md` has all rules, each with what the server says.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from citus_analytics.lint.model import Change, EndMigration, Model
from citus_analytics.lint.model import read_metadata as _read_metadata
from citus_analytics.lint.report import (
    Finding,
    findings_of,
    ignore,
    ignores_of_metadata,
    ignores_of_source,
    require_codes,
)
from citus_analytics.lint.rules import (
    EVENT_RULES,
    PARALLEL_ENVIRONMENT,
    RULES,
    TABLE_RULES,
    Fault,
    Rule,
    Severity,
    TableRule,
    Version,
)
from citus_analytics.lint.source import read_environments, read_folders

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Iterable, Iterator

    from sqlalchemy import MetaData

    from citus_analytics.lint.model import Event, Table
    from citus_analytics.lint.source import Environment

__all__ = [
    "RULES",
    "Finding",
    "Rule",
    "Severity",
    "Version",
    "ignore",
    "lint_metadata",
    "lint_migrations",
]

# The version whose limits are assumed, and on which every rule is proved.
CITUS: Final[Version] = (13, 2)


def lint_metadata(
    *metadata: MetaData, citus: Version = CITUS, ignore: Collection[str] = ()
) -> list[Finding]:
    """Return what a Citus cluster would refuse in these tables, or suffer from later.

    Tables without a declaration are local. A foreign key to a table that is not in `metadata` is
    not checked.

    Args:
        metadata: The tables, with their distributions declared. Several metadata are checked as
            one.
        citus: The version of Citus, major and minor.
        ignore: Codes to leave out.

    Raises:
        ArgumentError: One of `ignore` is not a code of the linter.
    """
    require_codes(ignore, "the argument `ignore`")
    model = _read_metadata(metadata)
    rules = [rule for rule in TABLE_RULES if rule.applies(citus)]
    faults = list(_judge_tables(model, rules, [Change(one, one) for one in model.tables]))
    declared = [one for part in metadata for one in ignores_of_metadata(part)]
    return findings_of(faults, declared, ignore, citus)


def lint_migrations(
    *paths: str | os.PathLike[str], citus: Version = CITUS, ignore: Collection[str] = ()
) -> list[Finding]:
    """Return what a Citus cluster would refuse in these migrations, or suffer from later.

    A comment `# citus: ignore[CA102]` on a line of a statement ignores its findings of that code;
    several codes are separated by commas.

    Args:
        paths: The folders with the migrations, or with `versions` in them. Several are checked
            as one, as Alembic does with `version_locations`.
        citus: The version of Citus, major and minor.
        ignore: Codes to leave out.

    Raises:
        ArgumentError: There are no migrations, one cannot be read as Python, a code to be ignored
            does not exist, or there is SQL in them and the extra `lint` is not installed.
    """
    require_codes(ignore, "the argument `ignore`")
    migrations = read_folders(map(Path, paths))
    # What is created in one migration may be at fault only after another.
    faults: dict[str, dict[tuple[Rule, Fault], None]] = {one.path: {} for one in migrations}
    model = Model()
    for migration in migrations:
        for rule, fault in _judge(model, migration.events(), citus):
            if fault.place is not None:
                faults[fault.place.path][rule, fault] = None
    return [
        finding
        for environment in read_environments(map(Path, paths))
        for finding in findings_of(
            list(_judge_environment(model, environment)),
            list(ignores_of_source(environment.source, environment.path)),
            ignore,
            citus,
            path=environment.path,
        )
    ] + [
        finding
        for migration in migrations
        for finding in findings_of(
            list(faults[migration.path]),
            list(ignores_of_source(migration.source, migration.path)),
            ignore,
            citus,
            path=migration.path,
        )
    ]


def _judge(model: Model, events: Iterable[Event], citus: Version) -> Iterator[tuple[Rule, Fault]]:
    """Apply the events of a migration to the model, and yield the faults."""
    rules = [rule for rule in TABLE_RULES if rule.applies(citus)]
    errors = [rule for rule in rules if rule.severity == "error"]
    warnings = [rule for rule in rules if rule.severity == "warning"]
    touched: dict[Table, Change] = {}
    for event in events:
        action = event.action
        for event_rule in EVENT_RULES:
            if event_rule.applies(citus):
                yield from ((event_rule, fault) for fault in event_rule.check(model, event))
        if event.downgrade:
            model.apply_downgrade(action)
            continue
        changed = model.apply(event)
        # The server refuses something at once, so it is judged at once. What does harm is judged at
        # the end: the next statement may have put it right.
        yield from _judge_tables(model, errors, changed)
        for change in changed:
            before = touched.get(change.table)
            touched[change.table] = change if before is None else before.merged(change)
        if isinstance(action, EndMigration):
            yield from _judge_tables(model, warnings, [one.now() for one in touched.values()])
    model.end_downgrade()


def _judge_environment(model: Model, environment: Environment) -> Iterator[tuple[Rule, Fault]]:
    """Yield the fault of an `env.py` if there are tables that Citus works on in parallel."""
    spread = next((table for table in model.tables if table.placement.spread), None)
    if spread is not None and not environment.is_sequential:
        yield (
            PARALLEL_ENVIRONMENT,
            Fault(
                f"migrations distribute tables such as {str(spread.name)!r}, and their "
                "transactions do not begin in sequential mode: operations that pass one by one are "
                "refused after one another. Call run_environment, or "
                "sequential_transactions(connection) before context.configure.",
                "env.py",
                environment.place,
            ),
        )


def _judge_tables(
    model: Model, rules: Iterable[TableRule], changes: Iterable[Change]
) -> Iterator[tuple[Rule, Fault]]:
    for change in changes:
        if model.find(change.table.name) is change.table:
            for rule in rules:
                yield from ((rule, fault) for fault in rule.check(model, change))
