"""Findings that are meant to be: how to say so, and what is said in vain."""

from __future__ import annotations

import io
import re
import tokenize
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from citus_analytics.errors import ArgumentError, DeclarationError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from sqlalchemy import MetaData, Table

    from citus_analytics.lint.finding import Fault

# Alembic renders `Table.info` into migrations, and leaves the metadata's alone.
_INFO_KEY = "citus_analytics.lint"
_COMMENT = re.compile(r"#\s*citus:\s*ignore\b(?:\[(?P<codes>[^\]]*)\])?")


@dataclass(frozen=True, slots=True)
class Ignore:
    """A finding that is meant to be: of this code, on this table, or on this line of a file."""

    code: str
    subject: str | None = None
    line: int | None = None

    def covers(self, code: str, fault: Fault) -> bool:
        """Return whether the finding is the one that is meant."""
        if code != self.code:
            return False
        if self.line is None:
            return fault.subject == self.subject
        return fault.place is not None and fault.place.first <= self.line <= fault.place.last


def require_codes(codes: Collection[str], known: Collection[str], where: str) -> None:
    """Refuse codes that are none.

    Raises:
        ArgumentError: One of them is not known.
    """
    unknown = [code for code in codes if code not in known]
    if unknown:
        raise ArgumentError(
            f"{where} ignores {', '.join(map(repr, unknown))}, which is no code of the linter; "
            f"they go from {min(known)} to {max(known)}."
        )


def add_ignore(table: Table, code: str, reason: str, known: Collection[str]) -> None:
    """Note that a finding on `table` is meant to be.

    Raises:
        DeclarationError: There is no such code, or no reason.
    """
    if code not in known:
        raise DeclarationError(
            f"table {table.key!r} ignores {code!r}, which is no code of the linter; they go from "
            f"{min(known)} to {max(known)}."
        )
    if not reason.strip():
        raise DeclarationError(
            f"table {table.key!r} ignores {code} without a reason: say why it does no harm here."
        )
    _declarations(table.metadata).setdefault(table.key, {})[code] = reason


def of_metadata(metadata: MetaData) -> list[Ignore]:
    """Return what was declared for the tables of `metadata`."""
    return [
        Ignore(code, subject=key)
        for key, reasons in _declarations(metadata).items()
        for code in reasons
    ]


def of_source(source: str, path: str, known: Collection[str]) -> list[Ignore]:
    """Return what the comments of a file say.

    Raises:
        ArgumentError: A comment names a code that is none, or no code at all.
    """
    ignores = []
    for line, comment in _comments(source):
        found = _COMMENT.search(comment)
        if found is None:
            continue
        codes = [code.strip() for code in (found["codes"] or "").split(",")]
        require_codes(codes, known, f"{path}:{line}")
        ignores += [Ignore(code, line=line) for code in codes]
    return ignores


def unused(ignores: Sequence[Ignore], faults: Sequence[tuple[str, Fault]]) -> list[Ignore]:
    """Return the ignores that cover no finding."""
    return [
        ignore
        for ignore in ignores
        if not any(ignore.covers(code, fault) for code, fault in faults)
    ]


def _comments(source: str) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def _declarations(metadata: MetaData) -> dict[str, dict[str, str]]:
    return cast("dict[str, dict[str, str]]", metadata.info.setdefault(_INFO_KEY, {}))
