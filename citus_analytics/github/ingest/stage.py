"""Rows that wait in a temporary table, to be compared with what is there before they go in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import psycopg
from sqlalchemy import Column, MetaData, Table, and_, delete, func, literal_column, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from citus_analytics.errors import LoadError
from citus_analytics.github.ingest.faults import is_of_data
from citus_analytics.github.ingest.locks import lock, require_read_committed
from citus_analytics.github.models import github_events, github_users
from citus_analytics.sql import qualify, quote, schema_of

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, FromClause

# By what a row is known. The time of an event is among it for the index on (user_id, created_at),
# which finds the event without a scan of the table.
_KEYS: Final = {
    github_events: ("user_id", "created_at", "event_id"),
    github_users: ("user_id",),
}


class Stage:
    """A temporary table of the columns of another, and what becomes of its rows.

    Args:
        connection: Where the table is.
        table: `github_events` or `github_users`.
    """

    __slots__ = ("_connection", "_key", "_target", "table")

    def __init__(self, connection: Connection, table: Table) -> None:
        self._connection = connection
        self._target = table
        self._key = _KEYS[table]
        self.table = _temporary(f"{table.name}_staged", [*table.columns])
        # What a constraint of the table refuses is refused here, where it can be rejected.
        target = qualify(table.name, schema_of(connection, table))
        connection.exec_driver_sql(
            f"CREATE TEMPORARY TABLE {quote(self.table.name)} (LIKE {target} INCLUDING CONSTRAINTS "
            "INCLUDING DEFAULTS INCLUDING GENERATED INCLUDING IDENTITY) ON COMMIT DROP"
        )

    def insert_missing(self) -> int:
        """Insert what the table does not have yet, each row once; return how many that are.

        Loaders do this one after the other until they commit: none sees what another one is about
        to insert.
        """
        self._lock()
        self._leave_one_of_each()
        self._leave_out_known()
        return self._insert()

    def replace(self) -> int:
        """Insert all rows, instead of those that the table has; return how many that are."""
        self._lock()
        if self._target is github_users:
            self._leave_one_of_each()
        # The outer subquery is one that Citus sends to the workers.
        keys = self._keys_of_stage()
        self._connection.execute(delete(self._target).where(self._same(self._target, keys)))
        return self._insert()

    def _lock(self) -> None:
        require_read_committed(self._connection)
        lock(self._connection, "rows", self._target.name)
        if self._target is github_users:
            # Loaders of events write users too.
            lock(self._connection, "users")

    def _insert(self) -> int:
        names = [column.name for column in self._target.columns]
        rows = select(*(self.table.c[name] for name in names))
        statement = insert(self._target).from_select(names, rows)
        # A unique key of the user's own may know a row that was written a moment ago.
        statement = statement.on_conflict_do_nothing()
        try:
            done = self._connection.execute(
                statement, execution_options={"preserve_rowcount": True}
            )
        except DBAPIError as error:
            if isinstance(error.orig, psycopg.Error) and is_of_data(error.orig):
                raise LoadError(
                    f"{self._target.name} refuses a row: {error.orig.diag.message_primary}. "
                    "Nothing of its source was loaded: load it without unique (--unique) or force "
                    "(--force), and the row is rejected."
                ) from error
            raise
        self.table.drop(self._connection)
        return done.rowcount

    def _leave_one_of_each(self) -> None:
        other = self.table.alias("other")
        ctid: ColumnElement[object] = literal_column(f"{self.table.name}.ctid")
        self._connection.execute(
            delete(self.table).where(
                self._same(self.table, other), ctid > literal_column("other.ctid")
            )
        )

    def _leave_out_known(self) -> None:
        self._connection.execute(text(f"ANALYZE pg_temp.{self.table.name}"))
        keys = self._keys_of_stage()
        known = _temporary(
            f"{self._target.name}_known", [self._target.c[name] for name in self._key]
        )
        known.create(self._connection)
        found = select(*(keys.c[name] for name in self._key)).join(
            self._target, self._same(self._target, keys)
        )
        self._connection.execute(insert(known).from_select([*self._key], found))
        self._connection.execute(delete(self.table).where(self._same(self.table, known)))
        known.drop(self._connection)

    def _keys_of_stage(self) -> FromClause:
        keys = select(*(self.table.c[name] for name in self._key))
        return keys.offset(func.int8(0)).subquery("keys")

    def _same(self, one: FromClause, other: FromClause) -> ColumnElement[bool]:
        return and_(*(one.c[name] == other.c[name] for name in self._key))


def _temporary(name: str, columns: list[Column[object]]) -> Table:
    return Table(
        name,
        MetaData(),
        *(Column(column.name, column.type) for column in columns),
        schema="pg_temp",
        prefixes=["TEMPORARY"],
        postgresql_on_commit="DROP",
    )
