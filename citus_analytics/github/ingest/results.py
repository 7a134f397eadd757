"""What a load is asked for, how far it has come, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from citus_analytics.github.gharchive import Reject

Format: TypeAlias = Literal["auto", "csv", "json"]
RejectCallback: TypeAlias = Callable[[Reject], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a load has come.

    A source with a row that the server refuses is read again, and both numbers begin anew.

    Attributes:
        bytes: Bytes read of the source, as they are stored there: compressed, if it is.
        rows: Rows sent. Those of CSV, and all over several connections, are counted by line ends,
            whatever stands on the lines, until the load is complete. The last call has the
            server's number.
        total_bytes: The bytes that there are, or None for a source that does not tell.
    """

    bytes: int
    rows: int
    total_bytes: int | None


ProgressCallback: TypeAlias = Callable[[Progress], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What was loaded.

    Attributes:
        rows: Rows that the server has taken.
        bytes: Bytes read of the source, as they are stored there: compressed, if it is.
        rejected: Events that could not be stored.
        duplicates: Rows that were left out because they are there already.
        already_loaded: Whether nothing was done, because the file had been loaded before; the
            other numbers are those of that time.
    """

    rows: int
    bytes: int
    rejected: int = 0
    duplicates: int = 0
    already_loaded: bool = False


def sum_of(results: Iterable[LoadResult]) -> LoadResult:
    """Return what several results come to."""
    some = list(results)
    return LoadResult(
        rows=sum(result.rows for result in some),
        bytes=sum(result.bytes for result in some),
        rejected=sum(result.rejected for result in some),
        duplicates=sum(result.duplicates for result in some),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How a source is loaded.

    Attributes:
        format: What the source is; "auto" looks at its first character: JSON begins with a brace
            or a bracket.
        users: Whether the users that the events of JSON tell of are stored as well.
        unique: Whether a row that is there already, or was earlier in the source, is left out. An
            event is the same if its id, its user and its time are, and none is missing; a user if
            the id is. Needs the isolation level READ COMMITTED.
        strict: Whether the first event that is found that cannot be stored ends the load. A
            malformed row of CSV always does.
        rejects: Called with each event that cannot be stored. Those of a file are told when all of
            it has been read and stored, and before anything is committed; of a file that fails
            before that, none.
    """

    format: Format = "auto"
    users: bool = True
    unique: bool = False
    strict: bool = False
    rejects: RejectCallback | None = None
