"""What the linter says: a finding, where it points, and how bad it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

# "error": the server refuses it. "warning": the server takes it, and it does harm later.
Severity: TypeAlias = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Place:
    """A statement in a file of migrations.

    Attributes:
        path: The file.
        line: The line of the column, key or call at fault, counted from 1.
        first, last: The lines of the whole statement; a comment on any of them can ignore.
    """

    path: str
    line: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Fault:
    """What a rule found, before it is known under which code."""

    message: str
    subject: str
    place: Place | None = None


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
