"""The command line `citus-analytics`: parse, call the library, print.

What a program wants to read (`--json`, `migrate --sql`) is alone on standard output; progress,
notices and errors go to standard error. Tables and progress bars come from the package rich, and
everything else works without it.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from citus_analytics.cli.arguments import parse
from citus_analytics.cli.commands import COMMANDS
from citus_analytics.cli.failures import EXPECTED, Exit, ExitError, explain
from citus_analytics.cli.output import log_held_back

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit code of the process.

    Args:
        argv: The arguments after the name of the program; None for those of the process.

    Raises:
        SystemExit: The arguments are not understood, or ask for help or the version.
    """
    arguments = parse(argv)
    try:
        # What the driver warns of comes with the error that ends the command.
        with _interrupted_by_sigterm(), log_held_back("psycopg"):
            _run(arguments)
    except ExitError as error:
        sys.stderr.write(f"citus-analytics: {error}\n")
        return error.code
    except KeyboardInterrupt:
        sys.stderr.write("citus-analytics: interrupted\n")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough. What is still buffered goes nowhere, not into a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    return Exit.OK


def _run(arguments: Namespace) -> None:
    try:
        COMMANDS[arguments.command](arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except EXPECTED as error:
        raise explain(error) from error


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does: in good order, the embedded server included."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
