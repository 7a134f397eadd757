"""How a command ends, and what is said when it fails: a plain message instead of a traceback."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import psycopg
from alembic.util import CommandError
from psycopg.errors import UndefinedTable
from sqlalchemy.exc import DBAPIError

from citus_analytics.errors import ArgumentError, CitusAnalyticsError

# Anything else is a bug, and shall come with its traceback.
EXPECTED: Final = (CitusAnalyticsError, CommandError, DBAPIError, psycopg.Error, OSError)


class Exit(IntEnum):
    """The exit codes of the process; `--help` explains them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    BUSY = 3
    # As a shell reports a program that SIGINT has ended.
    INTERRUPTED = 130


class ExitError(Exception):
    """Ends the command with a message on standard error, and an exit code."""

    def __init__(self, message: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.code = code


def explain(error: Exception) -> ExitError:
    """Return how to end the command that met with one of the errors `EXPECTED`."""
    code = Exit.USAGE if isinstance(error, ArgumentError) else Exit.FAILED
    # SQLAlchemy's own words repeat the statement and its values; the driver's are enough.
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    message = _of_driver(cause) if isinstance(cause, psycopg.Error) else str(cause)
    return ExitError(printable(message), code)


def printable(text: str) -> str:
    """Return text that shows what it says, and sends no commands to a terminal."""
    return "".join(
        character if character.isprintable() or character == "\n" else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


def _of_driver(error: psycopg.Error) -> str:
    diag = error.diag
    if diag.message_primary is None:
        return (
            f"{_sentence(str(error))} Check the address, that the server is running, and that it "
            "has the database."
        )
    said = [diag.message_primary, diag.message_detail, diag.message_hint]
    if isinstance(error, UndefinedTable):
        said.append("Migrate the database first, with `citus-analytics migrate`")
    return " ".join(_sentence(part) for part in said if part)


def _sentence(text: str) -> str:
    line = " ".join(text.split())
    return line if line.endswith((".", "?")) else f"{line}."
