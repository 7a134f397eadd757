"""Where the results of a command go: standard output, as text, as JSON, or as tables."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from citus_analytics.cli.failures import ExitError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from citus_analytics.cli.screen import Screen


def write(*lines: str) -> None:
    """Write lines of text to standard output."""
    sys.stdout.writelines(f"{line}\n" for line in lines)


def write_json(value: object) -> None:
    """Write the one JSON document of a command, with times in ISO 8601."""
    write(json.dumps(value, indent=2, default=_plain, ensure_ascii=False))


def write_json_line(value: object) -> None:
    """Write one of several JSON documents, each on a line of its own, to standard output."""
    write(json.dumps(value, default=_plain, ensure_ascii=False))


@contextmanager
def log_held_back(name: str) -> Iterator[None]:
    """Keep the warnings of a logger, which nobody has configured, from standard error."""
    logger, handler = logging.getLogger(name), logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def open_rejects(path: str | None) -> Iterator[BinaryIO | None]:
    """Open the file of `--rejects`, if one is wanted, to be appended to.

    What was rejected before does not come again. Unbuffered, so that what is written is there
    before anything is committed.

    Raises:
        ExitError: It cannot be opened.
    """
    if path is None:
        yield None
        return
    try:
        opened = Path(path).open("ab", buffering=0)  # noqa: SIM115 - closed below
    except OSError as error:
        raise ExitError(
            f"the file of --rejects, {path}, cannot be written: {error.strerror}. Nothing was "
            "loaded; name another one."
        ) from error
    with opened as file:
        yield file


def open_screen() -> Screen:
    """Return the screen for tables.

    Raises:
        ExitError: The package rich is not installed.
    """
    try:
        from citus_analytics.cli.screen import Screen
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        raise ExitError(
            "tables need the package rich, which is not installed: install citus_analytics[cli], "
            "or add --json."
        ) from error
    return Screen()


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
