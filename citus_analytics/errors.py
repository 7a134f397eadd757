"""The errors of the library.

Every error that the library itself raises descends from `CitusAnalyticsError`.
Each message says what is wrong, what was found, and what to do about it.
Errors of the driver that the library cannot explain better pass through as they are.
"""

from __future__ import annotations


class CitusAnalyticsError(Exception):
    """The base class of every error that this library raises."""


class ArgumentError(CitusAnalyticsError, ValueError):
    """A function was called with an argument that it cannot accept."""


class DeclarationError(CitusAnalyticsError, ValueError):
    """A table, a distribution or a rollup is declared in a way that cannot work."""


class MissingPackageError(CitusAnalyticsError, ImportError):
    """A package that an extra installs is needed and not there; the message names the extra."""


class OperationError(CitusAnalyticsError):
    """A migration operation cannot run here; nothing of it has been executed."""


class LoadError(CitusAnalyticsError):
    """A source of rows cannot be loaded; the tables are as they were.

    Attributes:
        line: The line of the source on which the bad row starts, counted from 1,
            or None if the fault is not in a row.
        column: The name of the column at fault, or None if no single column is.
    """

    def __init__(self, message: str, *, line: int | None = None, column: str | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


class RollupError(CitusAnalyticsError):
    """The database has no such rollup, it cannot answer, or it may not or could not be moved.

    What could not be moved is as it was, with its log of changes.
    """


class ServerError(CitusAnalyticsError):
    """The embedded PostgreSQL cannot be found, created, started or stopped."""


class SnapshotError(CitusAnalyticsError):
    """All nodes cannot be read, or have not been read, as of one moment."""
