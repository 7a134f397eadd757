"""The frame of the command line: arguments in, one command run, an exit code out.

No command is defined here. `run` is given functions that each add a command to the parser, so that
the commands of the core and those of an application on top of it are one program.

What a program wants to read (`--json`, `migrate --sql`) is alone on standard output; progress,
notices and errors go to standard error.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import textwrap
import time
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Final, TypeAlias

import psycopg
from alembic.util import CommandError
from psycopg.errors import UndefinedTable
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import DBAPIError

from citus_analytics.errors import ArgumentError, CitusAnalyticsError
from citus_analytics.migrations import database_url

if TYPE_CHECKING:
    from argparse import Namespace, _MutuallyExclusiveGroup, _SubParsersAction
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sqlalchemy import URL, Engine

    Commands: TypeAlias = "_SubParsersAction[ArgumentParser]"

PROGRAM: Final = "citus-analytics"

_DESCRIPTION: Final = "Real-time analytics on PostgreSQL and Citus, with rollups that add up."
_EXIT_CODES: Final = """\
exit codes:
  0    success
  1    the command failed: the server, the data or the installation is at fault, and standard
       error says why; or lint has findings, or rollups verify has found a difference
  2    the arguments are wrong, or no database was given
  3    another run of a rollup is in progress (rollups run --no-wait)
  130  interrupted by Ctrl-C or SIGTERM

With --json, standard output is one JSON document, and empty where the command failed.
"""

# Anything else is a bug, and should come with its traceback.
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


def run(
    argv: Sequence[str] | None, *, version: str, commands: Iterable[Callable[[Commands], object]]
) -> int:
    """Run one command, and return the exit code of the process.

    Args:
        argv: The arguments after the name of the program; None for those of the process.
        version: What `--version` prints.
        commands: Functions that add a command each, with `add_command`, in the order of the help.

    Raises:
        SystemExit: The arguments are wrong, or ask for help or the version.
    """
    parser = ArgumentParser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {version}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    for add in commands:
        add(subparsers)
    arguments = parser.parse_args(argv)

    # SIGTERM ends a command as Ctrl-C does: in good order, the embedded server included.
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # The error that ends the command also says what the driver warns about.
        with silenced("psycopg"):
            arguments.run(arguments)
            sys.stdout.flush()
    except KeyboardInterrupt:
        code, message = Exit.INTERRUPTED, "interrupted"
    except BrokenPipeError:
        # The reader has gone. What is still buffered is discarded, without a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except ExitError as error:
        code, message = error.code, str(error)
    except ArgumentError as error:
        code, message = Exit.USAGE, str(error)
    except EXPECTED as error:
        if was_interrupted(error):
            code, message = Exit.INTERRUPTED, "interrupted"
        else:
            code, message = Exit.FAILED, explain(error)
    else:
        return Exit.OK
    finally:
        signal.signal(signal.SIGTERM, handler)
    sys.stderr.write(f"{PROGRAM}: {printable(message)}\n")
    return code


def was_interrupted(error: BaseException) -> bool:
    """Return whether Ctrl-C or SIGTERM ended a command, whatever failed in cleaning up after it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, KeyboardInterrupt):
        cause = cause.__context__
    return cause is not None


def explain(error: Exception) -> str:
    """Return what is said of an error that ends a command."""
    # SQLAlchemy's message repeats the statement and its values; the driver's is enough.
    cause = error.orig if isinstance(error, DBAPIError) and error.orig else error
    if not isinstance(cause, psycopg.Error):
        return str(cause)
    if cause.diag.message_primary is None:
        parts = [
            str(cause),
            "Check the address, that the server is running, and that the database exists "
            f"(`{PROGRAM} migrate --create` creates it)",
        ]
    else:
        parts = [
            cause.diag.message_primary,
            cause.diag.message_detail or "",
            cause.diag.message_hint or "",
        ]
        if isinstance(cause, UndefinedTable):
            parts.append(f"Migrate the database first, with `{PROGRAM} migrate`")
    sentences = [" ".join(part.split()) for part in parts if part]
    return " ".join(
        sentence if sentence.endswith((".", "?")) else f"{sentence}." for sentence in sentences
    )


def printable(text: str) -> str:
    """Return text in which nothing but line ends controls a terminal."""
    return "".join(
        character if character.isprintable() or character == "\n" else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


@contextmanager
def silenced(name: str) -> Iterator[None]:
    """Keep the warnings of a logger without a configuration off standard error."""
    logger, handler = logging.getLogger(name), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


# Arguments that several commands have


def add_command(
    commands: Commands,
    name: str,
    function: Callable[[Namespace], object],
    summary: str,
    description: str,
) -> ArgumentParser:
    """Add a command, and return its parser.

    Args:
        commands: Where it is added.
        name: What is typed.
        function: Runs the command. `ExitError`, and the errors of the library and of the driver,
            end it with a message.
        summary: The line about it in the list of commands.
        description: What its own `--help` says.
    """
    parser = commands.add_parser(
        name,
        help=summary,
        # The formatter that leaves the exit codes as they are wraps nothing else either.
        description=textwrap.fill(description, 79),
        epilog=_EXIT_CODES,
        formatter_class=RawDescriptionHelpFormatter,
        # An abbreviation would change its meaning with the next option that is added.
        allow_abbrev=False,
    )
    parser.set_defaults(run=function)
    return parser


def add_database_url(
    parser: ArgumentParser, meaning: str = "the database (default: DATABASE_URL)"
) -> None:
    """Add `--database-url`, which `url_of` and `engine_of` read."""
    parser.add_argument(
        "--database-url", metavar="URL", help=f"{meaning}; postgresql://user:password@host/name"
    )


def add_json(parser: ArgumentParser | _MutuallyExclusiveGroup) -> None:
    """Add `--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def positive(text: str) -> int:
    """Return an argument as a positive integer."""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def moment(text: str) -> datetime:
    """Return the aware datetime that an argument is."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ArgumentTypeError(
            f"{text!r} is not a time: write it like 2026-03-01T12:00Z or 2026-03-01T12:00+02:00"
        ) from error
    if moment.utcoffset() is None:
        written = moment.isoformat(timespec="minutes")
        raise ArgumentTypeError(
            f"{text!r} has no time zone: write {written}Z for UTC, or {written}+02:00"
        )
    return moment


_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def interval(text: str) -> timedelta:
    """Return the length of time that an argument is: 500ms, 10s, 5m, 1h, 7d."""
    match = re.fullmatch(r"(\d{1,6})(ms|s|m|h|d)", text, re.ASCII)
    if match is None or not int(match[1]):
        raise ArgumentTypeError(f"{text!r} is not a length of time: write it like 10s, 5m or 1d")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


def url_of(arguments: Namespace) -> URL:
    """Return the address that the arguments or the environment give.

    Raises:
        ExitError: Neither gives one.
        ArgumentError: It cannot be read.
    """
    address = arguments.database_url or os.environ.get("DATABASE_URL")
    if not address:
        raise ExitError(
            "no database given: use --database-url postgresql://user@host/name, or set "
            "DATABASE_URL.",
            Exit.USAGE,
        )
    return database_url(address)


def engine_of(arguments: Namespace) -> Engine:
    """Return an engine for `url_of` that keeps no connection open after its use."""
    # Without prepared statements, which PgBouncer in transaction mode would lose.
    return create_engine(
        url_of(arguments), poolclass=NullPool, connect_args={"prepare_threshold": None}
    )


class Interrupts:
    """Ctrl-C and SIGTERM for a command that runs until a signal ends it.

    They interrupt at once, except in a block that is `held`, which they let finish.

    Attributes:
        asked: Whether a signal has come.
        forced: Whether a second one has come while something was held: then that is interrupted as
            well, and a third one does not change it.
    """

    def __init__(self) -> None:
        self.asked = False
        self.forced = False
        self._held = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals while the block runs."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the block finish when a signal comes; then `asked` is true."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def wait(self, seconds: float) -> bool:
        """Wait, unless a signal has come; return whether one has."""
        if not self.asked:
            time.sleep(seconds)
        return self.asked

    def _handle(self, *_: object) -> None:
        self.forced = self.forced or (self._held and self.asked)
        self.asked = True
        if self.forced or not self._held:
            raise KeyboardInterrupt
