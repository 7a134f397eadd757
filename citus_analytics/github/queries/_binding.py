"""What the analytics share: checked arguments, the binds that carry them, and the execution.

A statement's structure depends only on which filters are given. It is written once per analytic,
as a function of the binds, and used in two ways:

- with values inside, under names of their own, it is the statement that a builder returns and
  that may be combined with any other;
- with named placeholders it is *prepared*: built once for each set of filters, so that SQLAlchemy
  derives its cache key once too. Building and deriving would cost more than PostgreSQL needs to
  answer a small question.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVarTuple
from zoneinfo import ZoneInfo

from sqlalchemy import BigInteger, BindParameter, DateTime, Text, bindparam

from citus_analytics.errors import ArgumentError
from citus_analytics.sessions import flushed_connection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Connection, Row, Select
    from sqlalchemy.orm import Session
    from sqlalchemy.types import TypeEngine

_Ts = TypeVarTuple("_Ts")

Arguments: TypeAlias = dict[str, object]
Binds: TypeAlias = Mapping[str, BindParameter[Any]]

_TYPES: Mapping[str, TypeEngine[Any]] = {
    "since": DateTime(timezone=True),
    "until": DateTime(timezone=True),
    "event_type": Text(),
    "time_zone": Text(),
    "limit": BigInteger(),
}


def given(**arguments: object) -> Arguments:
    """Return the arguments that are not None."""
    return {name: value for name, value in arguments.items() if value is not None}


def window(since: datetime | None, until: datetime | None) -> Arguments:
    """Return the given bounds of the window `[since, until)`.

    Raises:
        ArgumentError: A bound is no aware datetime, or nothing can be in the window.
    """
    bounds = given(since=_instant("since", since), until=_instant("until", until))
    if since is not None and until is not None and _utc(since) >= _utc(until):
        raise ArgumentError(
            f"the window [since, until) is empty: since is {since.isoformat()}, until is "
            f"{until.isoformat()}; pass a since that is earlier than until"
        )
    return bounds


def limited(limit: int | None) -> Arguments:
    """Return the limit, if one is given.

    Raises:
        ArgumentError: The limit is no positive integer.
    """
    # bool is an int to Python, but nobody who passes one means a number of rows.
    if limit is not None and (type(limit) is not int or limit < 1):
        raise ArgumentError(
            f"limit must be a positive integer, or None for every row; found {limit!r}"
        )
    return given(limit=limit)


def zone_named(name: str) -> ZoneInfo:
    """Return the time zone of that IANA name.

    Raises:
        ArgumentError: There is no such zone.
    """
    try:
        return ZoneInfo(name)
    # ZoneInfo looks names up as files: a folder, or a path, is another kind of unknown.
    except (KeyError, ValueError, OSError, TypeError, AttributeError) as error:
        raise ArgumentError(
            f"time_zone must be the IANA name of a time zone, such as 'Europe/Berlin'; found "
            f"{name!r}, which is not in this machine's time zone database (the package 'tzdata' "
            f"provides one)"
        ) from error


def bound(arguments: Arguments) -> Binds:
    """Return binds that hold the arguments, under names that no other statement uses."""
    return {
        name: bindparam(name, value, _TYPES[name], unique=True) for name, value in arguments.items()
    }


def placeholders(names: tuple[str, ...]) -> Binds:
    """Return binds that expect a value of the same name on execution."""
    return {name: bindparam(name, type_=_TYPES[name]) for name in names}


def in_window(time: ColumnElement[datetime | None], binds: Binds) -> list[ColumnElement[bool]]:
    """Return the conditions that put `time` into the window: ranges that an index can serve."""
    conditions = []
    if "since" in binds:
        conditions.append(time >= binds["since"])
    if "until" in binds:
        conditions.append(time < binds["until"])
    return conditions


def fetch(
    session: Session | Connection, prepared: Select[*_Ts], arguments: Arguments
) -> Sequence[Row[*_Ts]]:
    """Return the rows of a prepared statement."""
    return flushed_connection(session, prepared).execute(prepared, arguments).all()


def _instant(name: str, moment: datetime | None) -> datetime | None:
    if moment is None:
        return None
    if not isinstance(moment, datetime):
        raise ArgumentError(f"{name} must be an aware datetime; found {moment!r}")
    if moment.utcoffset() is None:
        raise ArgumentError(
            f"{name} must be an aware datetime; found {moment!r}, which has no time zone: "
            f"pass {name}.replace(tzinfo=UTC), or the zone that it was meant in"
        )
    return moment


def _utc(moment: datetime) -> datetime:
    # Within one zone Python compares clock readings, which are wrong when summer time ends.
    return moment.astimezone(UTC)
