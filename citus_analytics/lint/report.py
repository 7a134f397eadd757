"""What the linter reports: findings, except those that are ignored."""

from __future__ import annotations

import io
import re
import tokenize
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from citus_analytics.errors import ArgumentError, DeclarationError
from citus_analytics.lint.rules import RULES, UNUSED_IGNORE, Fault, Severity

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from sqlalchemy import MetaData, Table

    from citus_analytics.lint.rules import Rule, Version

# Alembic renders `Table.info` into migrations, and leaves the metadata's alone.
_INFO_KEY = "citus_analytics.lint"
_COMMENT = re.compile(r"#\s*citus:\s*ignore\b(?:\[(?P<codes>[^\]]*)\])?")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a Citus cluster will refuse, or that will do harm on it.

    Attributes:
        code: The rule that is broken, such as "CA001".
        message: What is wrong, and what to do.
        subject: The table (with its schema), or the revision of the migration.
        path: The file of the migration; None for metadata.
        line: The line in it, counted from 1; None for metadata.
        severity: "error" if the server refuses it, "warning" if it does harm later.
    """

    code: str
    message: str
    subject: str
    path: str | None
    line: int | None
    severity: Severity

    def __str__(self) -> str:
        where = self.subject if self.path is None else f"{self.path}:{self.line}"
        return f"{where}: {self.code} {self.message}"


@dataclass(frozen=True, slots=True)
class Ignore:
    """An ignored finding: of this code, on this table, or on this line of a file."""

    code: str
    subject: str | None = None
    line: int | None = None

    def covers(self, rule: Rule, fault: Fault) -> bool:
        """Return whether this is the finding to ignore."""
        if rule.code != self.code:
            return False
        if self.line is None:
            return fault.subject == self.subject
        return fault.place is not None and fault.place.first <= self.line <= fault.place.last


def require_codes(codes: Collection[str], where: str) -> None:
    """Refuse codes that do not exist.

    Raises:
        ArgumentError: One of them is not known.
    """
    unknown = [code for code in codes if code not in RULES]
    if unknown:
        raise ArgumentError(
            f"{where} ignores {', '.join(map(repr, unknown))}, which is not a code of the linter; "
            f"they go from {min(RULES)} to {max(RULES)}."
        )


def ignore(table: Table, code: str, *, reason: str) -> None:
    """Ignore a finding of the linter on `table`.

    Args:
        table: The table, which `lint_metadata` names as the subject of the finding.
        code: The code of the rule, such as "CA012".
        reason: Why it does no harm here, for readers of the declaration.

    Raises:
        DeclarationError: There is no such code, or the reason is empty.
    """
    if code not in RULES:
        raise DeclarationError(
            f"table {table.key!r} ignores {code!r}, which is not a code of the linter; they go "
            f"from {min(RULES)} to {max(RULES)}."
        )
    if not reason.strip():
        raise DeclarationError(
            f"table {table.key!r} ignores {code} without a reason: say why it does no harm here."
        )
    _declarations(table.metadata).setdefault(table.key, {})[code] = reason


def ignores_of_metadata(metadata: MetaData) -> list[Ignore]:
    """Return what was declared for the tables of `metadata`."""
    return [
        Ignore(code, subject=key)
        for key, reasons in _declarations(metadata).items()
        for code in reasons
    ]


def ignores_of_source(source: str, path: str) -> Iterator[Ignore]:
    """Yield what the comments of a file say.

    Raises:
        ArgumentError: A comment names a code that does not exist, or no code at all.
    """
    if "citus:" not in source:
        return
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        found = _COMMENT.search(token.string) if token.type == tokenize.COMMENT else None
        if found is not None:
            codes = [code.strip() for code in (found["codes"] or "").split(",")]
            require_codes(codes, f"{path}:{token.start[0]}")
            yield from (Ignore(code, line=token.start[0]) for code in codes)


def findings_of(
    faults: Sequence[tuple[Rule, Fault]],
    ignores: Collection[Ignore],
    unwanted: Collection[str],
    citus: Version,
    *,
    path: str | None = None,
) -> list[Finding]:
    """Return the findings that are not ignored, and the ignores that ignore nothing, in order."""
    left: list[Finding] = []
    used: set[Ignore] = set()
    for rule, fault in faults:
        covering = [one for one in ignores if one.covers(rule, fault)]
        used.update(covering)
        if not covering:
            place = fault.place
            left.append(
                Finding(
                    rule.code,
                    fault.message,
                    fault.subject,
                    place.path if place else None,
                    place.line if place else None,
                    rule.severity,
                )
            )
    left += [
        Finding(
            UNUSED_IGNORE.code,
            f"{one.code} is ignored here, but there is no such finding. Drop the ignore.",
            one.subject or path or "",
            path,
            one.line,
            UNUSED_IGNORE.severity,
        )
        for one in ignores
        # A limit of other versions of Citus may be ignored at any version.
        if one not in used and RULES[one.code].applies(citus)
    ]
    wanted = [finding for finding in left if finding.code not in unwanted]
    return sorted(wanted, key=lambda finding: (finding.line or 0, finding.subject, finding.code))


def _declarations(metadata: MetaData) -> dict[str, dict[str, str]]:
    return cast("dict[str, dict[str, str]]", metadata.info.setdefault(_INFO_KEY, {}))
