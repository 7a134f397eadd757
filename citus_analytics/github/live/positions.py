"""How far feeds have been read: the table `followed_feeds`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from citus_analytics.github.live.polls import Position
from citus_analytics.github.models import followed_feeds

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection


def read_position(connection: Connection, address: str) -> Position:
    """Return how far a feed has been read; not at all, if it was never followed."""
    statement = select(followed_feeds).where(followed_feeds.c.address == address)
    row = connection.execute(statement).one_or_none()
    if row is None:
        return Position()
    return Position(
        etag=row.etag,
        event_ids=frozenset(row.event_ids),
        newest=row.newest,
        next_poll=row.next_poll,
    )


def write_position(connection: Connection, address: str, position: Position) -> None:
    """Note how far a feed has been read, in the transaction that stores its events."""
    values = {
        "etag": position.etag,
        "event_ids": sorted(position.event_ids),
        "newest": position.newest,
        "next_poll": position.next_poll,
    }
    statement = insert(followed_feeds).values(address=address, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["address"], set_=values))


def write_next_poll(connection: Connection, address: str, next_poll: datetime) -> None:
    """Note only when GitHub is to be asked again: how far the feed has been read stays."""
    statement = insert(followed_feeds).values(address=address, event_ids=[], next_poll=next_poll)
    changed = {"next_poll": next_poll}
    connection.execute(statement.on_conflict_do_update(index_elements=["address"], set_=changed))
