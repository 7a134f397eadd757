"""A linter that knows what Citus refuses, and what it takes and regrets later.

It looks at what is declared, and never at a database:

    from citus_analytics.lint import lint_metadata, lint_migrations

    for finding in [*lint_metadata(Base.metadata), *lint_migrations("alembic")]:
        print(finding)

Migrations are read, not run and not imported. A rule is about tables (CA0xx, looked for in both)
or about migrations alone (CA1xx); `docs/lint.md` has all of them, each with what the server says.
A finding of severity "error" is something that the server refuses; a "warning" is something that
it takes, and that does harm later.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from citus_analytics.lint import ignores
from citus_analytics.lint.finding import Fault, Finding, Place, Severity
from citus_analytics.lint.folder import read_folders
from citus_analytics.lint.metadata import faults_of_metadata
from citus_analytics.lint.migration_rules import EVENT_RULES
from citus_analytics.lint.migrations import faults_of_migrations
from citus_analytics.lint.rules import TABLE_RULES, Rule, Version

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Sequence
    from typing import Any

    from sqlalchemy import MetaData, Table

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

UNUSED_IGNORE: Final[Rule[None]] = Rule(
    "CA000",
    "An ignore that ignores nothing",
    "What it was for is not there any more, or never was: the next finding would go unseen.",
    None,
    "warning",
)
RULES: Final[dict[str, Rule[Any]]] = {
    UNUSED_IGNORE.code: UNUSED_IGNORE,
    **{rule.code: rule for rule in TABLE_RULES},
    **{rule.code: rule for rule in EVENT_RULES},
}


def ignore(table: Table, code: str, *, reason: str) -> None:
    """Declare that a finding of the linter on `table` is meant to be.

    Args:
        table: The table, which `lint_metadata` names as the subject of the finding.
        code: The code of the rule, such as "CA012".
        reason: Why it does no harm here, for those who read the declaration.

    Raises:
        DeclarationError: There is no such code, or the reason is empty.
    """
    ignores.add_ignore(table, code, reason, RULES)


def lint_metadata(
    *metadata: MetaData, citus: Version = CITUS, ignore: Collection[str] = ()
) -> list[Finding]:
    """Return what a Citus cluster would refuse of these tables, or regret.

    Tables of which nothing is declared are local. A foreign key to a table that is not in
    `metadata` is not looked at.

    Args:
        metadata: The tables, with their distributions declared by `citus_analytics.distribute`.
            Several metadata are looked at as one.
        citus: The version of Citus, major and minor.
        ignore: Codes that are not wanted.

    Raises:
        ArgumentError: One of `ignore` is no code of the linter.
    """
    ignores.require_codes(ignore, RULES, "the argument `ignore`")
    faults = list(faults_of_metadata(metadata, citus))
    declared = [one for part in metadata for one in ignores.of_metadata(part)]
    return _findings(faults, declared, ignore, citus, path=None)


def lint_migrations(
    *paths: str | os.PathLike[str], citus: Version = CITUS, ignore: Collection[str] = ()
) -> list[Finding]:
    """Return what a Citus cluster would refuse of these migrations, or regret.

    A comment `# citus: ignore[CA102]` on a line of a statement ignores its findings of that code;
    several codes are separated by commas.

    Args:
        paths: The folders with the migrations, or with `versions` in them. Several are looked at
            as one, as Alembic does with `version_locations`.
        citus: The version of Citus, major and minor.
        ignore: Codes that are not wanted.

    Raises:
        ArgumentError: There are no migrations, one is no Python, or a code to be ignored is none.
    """
    ignores.require_codes(ignore, RULES, "the argument `ignore`")
    migrations = read_folders(map(Path, paths))
    faults = list(faults_of_migrations(migrations, citus))
    findings: list[Finding] = []
    for migration in migrations:
        own = [
            (code, fault)
            for code, fault in faults
            if fault.place is not None and fault.place.path == migration.path
        ]
        comments = ignores.of_source(migration.source, migration.path, RULES)
        findings += _findings(own, comments, ignore, citus, path=migration.path)
    return findings


def _findings(
    faults: Sequence[tuple[str, Fault]],
    meant: Sequence[ignores.Ignore],
    unwanted: Collection[str],
    citus: Version,
    *,
    path: str | None,
) -> list[Finding]:
    """Return what is left of faults, and the ignores that were in vain."""
    left = [
        (code, fault) for code, fault in faults if not any(one.covers(code, fault) for one in meant)
    ]
    # What other versions of Citus are known for may be ignored at any version.
    relevant = [one for one in meant if RULES[one.code].applies(citus)]
    left += [_in_vain(one, path) for one in ignores.unused(relevant, faults)]
    findings = [_finding(code, fault) for code, fault in left if code not in unwanted]
    return sorted(findings, key=lambda finding: (finding.line or 0, finding.subject, finding.code))


def _in_vain(one: ignores.Ignore, path: str | None) -> tuple[str, Fault]:
    place = Place(path or "", one.line, one.line, one.line) if one.line is not None else None
    subject = one.subject or path or ""
    message = f"{one.code} is ignored here, but there is no such finding. Drop the ignore."
    return UNUSED_IGNORE.code, Fault(message, subject, place)


def _finding(code: str, fault: Fault) -> Finding:
    place = fault.place
    return Finding(
        code=code,
        message=fault.message,
        subject=fault.subject,
        path=place.path if place else None,
        line=place.line if place else None,
        severity=RULES[code].severity,
    )
