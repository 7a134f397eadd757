"""What the values of arguments mean; `argparse` prints what is wrong with them."""

from __future__ import annotations

from argparse import ArgumentTypeError
from datetime import datetime


def version(text: str) -> tuple[int, int]:
    """Return a version of Citus, as major and minor."""
    major, _, minor = text.partition(".")
    if not (major.isdecimal() and minor.isdecimal() and text.isascii()):
        raise ArgumentTypeError(f"{text!r} is no version of Citus: write it like 13.2")
    return int(major), int(minor)


def positive(text: str) -> int:
    """Return a number from 1 upwards."""
    if not (text.isascii() and text.isdecimal() and int(text) > 0):
        raise ArgumentTypeError(f"{text!r} is no number from 1 upwards")
    return int(text)


def limit(text: str) -> int | None:
    """Return a number of rows; None for all."""
    return None if text == "all" else positive(text)


def moment(text: str) -> datetime:
    """Return an aware point in time."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ArgumentTypeError(
            f"{text!r} is no time: write it like 2026-03-01T12:00Z or 2026-03-01T12:00+02:00"
        ) from error
    if found.utcoffset() is None:
        raise ArgumentTypeError(
            f"{text!r} has no time zone: write {found.isoformat(timespec='minutes')}Z for UTC, "
            f"or {found.isoformat(timespec='minutes')}+02:00"
        )
    return found
