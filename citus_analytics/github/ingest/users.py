"""The users that events tell of: the newest record of each is stored.

What is stored says which event it comes from (`github_user_origins`), so that records may come in
any order, from any number of loaders, and what remains is what the newest event says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    MetaData,
    Table,
    and_,
    func,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import distinct_on, insert

from citus_analytics.github.ingest.connections import RejectedError, copy, copy_statement
from citus_analytics.github.ingest.locks import lock
from citus_analytics.github.models import github_user_origins, github_users
from citus_analytics.sql import copy_field

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from sqlalchemy import Connection

    from citus_analytics.github.gharchive import EventRow, UserRecord

# So many fit into some megabytes of memory.
_MOST_IN_MEMORY: Final = 20_000
_RECORD: Final = ("url", "login", "avatar_url", "gravatar_id", "display_login")


class Users:
    """The newest record of every user among the events that were added.

    Memory holds some; the others wait in a temporary table of the connection, to which they can go
    when the connection is not busy with a COPY.
    """

    __slots__ = ("_connection", "_newest", "_waiting")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._newest: dict[int, tuple[datetime, int, UserRecord]] = {}
        self._waiting: Table | None = None

    def add(self, rows: Iterable[EventRow]) -> None:
        """Note what events say of their users."""
        newest = self._newest
        for row in rows:
            known = newest.get(row.user_id)
            if known is None or known[:2] <= (row.created_at, row.event_id):
                newest[row.user_id] = (row.created_at, row.event_id, row.user)

    @property
    def full(self) -> bool:
        """Whether memory holds as many as it should."""
        return len(self._newest) > _MOST_IN_MEMORY

    def make_room(self) -> None:
        """Let those in memory wait in the temporary table, if there are many."""
        if self.full:
            self._spill()

    def store(self) -> None:
        """Write the records that are newer than what is stored.

        Loaders do this one after the other until they commit: each would wait for users of the
        other, in whatever order.
        """
        if not self._newest and self._waiting is None:
            return
        waiting = self._spill()
        lock(self._connection, "users")
        _store_newer(self._connection, waiting)
        waiting.drop(self._connection)
        self._waiting = None

    def _spill(self) -> Table:
        if self._waiting is None:
            self._waiting = _temporary_table()
            self._waiting.create(self._connection)
        into = copy_statement(self._connection, self._waiting, "FORMAT text")
        try:
            copy(self._connection, into, self._lines())
        except RejectedError as rejected:
            # No row of the source is at fault.
            raise rejected.error from None
        self._newest.clear()
        return self._waiting

    def _lines(self) -> Iterator[bytes]:
        for user_id, (created_at, event_id, record) in self._newest.items():
            fields = b"\t".join(copy_field(value) for value in record)
            moment = created_at.isoformat().encode()
            yield b"%d\t%b\t%d\t%b\n" % (user_id, moment, event_id, fields)


def _temporary_table() -> Table:
    return Table(
        "github_users_waiting",
        MetaData(),
        Column("user_id", BigInteger),
        Column("created_at", DateTime(timezone=True)),
        Column("event_id", BigInteger),
        *(Column(name, github_users.c[name].type) for name in _RECORD),
        schema="pg_temp",
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DROP",
    )


def _store_newer(connection: Connection, waiting: Table) -> None:
    origins = github_user_origins
    newest = (
        select(waiting.c.user_id, waiting.c.created_at, waiting.c.event_id)
        .ext(distinct_on(waiting.c.user_id))
        .order_by(waiting.c.user_id, waiting.c.created_at.desc(), waiting.c.event_id.desc())
    )
    new_origins = insert(origins).from_select(["user_id", "created_at", "event_id"], newest)
    seen = new_origins.excluded
    connection.execute(
        new_origins.on_conflict_do_update(
            index_elements=["user_id"],
            set_={"created_at": seen.created_at, "event_id": seen.event_id},
            where=tuple_(origins.c.created_at, origins.c.event_id)
            < tuple_(seen.created_at, seen.event_id),
        )
    )
    # Those whose event is now the origin. The subquery is one that Citus sends to the workers.
    records = select(waiting).offset(func.int8(0)).subquery("waiting")
    columns = ["user_id", *_RECORD]
    is_origin = and_(
        *(records.c[name] == origins.c[name] for name in ("user_id", "created_at", "event_id"))
    )
    current = (
        select(*(records.c[name] for name in columns))
        .ext(distinct_on(records.c.user_id))
        .join(origins, is_origin)
        .order_by(records.c.user_id)
    )
    new_users = insert(github_users).from_select(columns, current)
    connection.execute(
        new_users.on_conflict_do_update(
            index_elements=["user_id"],
            set_={name: new_users.excluded[name] for name in _RECORD},
        )
    )
