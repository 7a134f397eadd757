r"""Loading rows at the speed of COPY, in the caller's transaction.

CSV in the layout of a table goes to the server as the bytes that it is, exactly as with psql's
`\copy github_events from 'events.csv' WITH CSV`. The server parses it, and nothing else does.

    with Session(engine) as session:
        load_events(session, "events.csv.gz")
        session.commit()
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn, TypeAlias

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection
from sqlalchemy.orm import Session, scoped_session

from citus_analytics.errors import ArgumentError
from citus_analytics.ingest.faults import explain, lacks_place
from citus_analytics.ingest.sources import Input, Source, Tally, csv_blocks, open_source
from citus_analytics.models import github_events, github_users

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from sqlalchemy import Table

__all__ = ["LoadResult", "Progress", "Source", "load_csv", "load_events", "load_users"]

AnySession: TypeAlias = "Connection | Session | scoped_session[Session]"
ProgressCallback: TypeAlias = "Callable[[Progress], object]"

# Citus leaves it to the workers to find bad JSON, and they know nothing of the source's lines.
_CHECK_JSON: Final = """
SELECT set_config('citus.skip_jsonb_validation_in_copy', 'off', true)
WHERE current_setting('citus.skip_jsonb_validation_in_copy', true) = 'on'
"""
_CHECK_JSON_NO_LONGER: Final = (
    "SELECT set_config('citus.skip_jsonb_validation_in_copy', 'on', true)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a load has come.

    Attributes:
        bytes: Bytes read of the source, as they are stored there: compressed, if it is.
        rows: Rows sent, counted by their line ends: a row with line ends between quotes counts
            more than once until the load is complete. The last call has the server's number.
        total_bytes: The bytes that there are, or None for a source that does not tell.
    """

    bytes: int
    rows: int
    total_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What was loaded.

    Attributes:
        rows: Rows that the server has taken.
        bytes: Bytes read of the source, as they are stored there: compressed, if it is.
    """

    rows: int
    bytes: int


def load_events(
    connection: AnySession, source: Source, *, progress: ProgressCallback | None = None
) -> LoadResult:
    """Load CSV in the tutorial's layout of nine columns into `github_events`.

    See `load_csv` for sources, progress and errors.
    """
    return load_csv(connection, github_events, source, progress=progress)


def load_users(
    connection: AnySession, source: Source, *, progress: ProgressCallback | None = None
) -> LoadResult:
    """Load CSV in the tutorial's layout of six columns into `github_users`.

    See `load_csv` for sources, progress and errors.
    """
    return load_csv(connection, github_users, source, progress=progress)


def load_csv(
    connection: AnySession,
    table: Table,
    source: Source,
    *,
    progress: ProgressCallback | None = None,
) -> LoadResult:
    """Load CSV without a header, UTF-8, into a table: a field for every column, in their order.

    All or nothing, in the caller's transaction: nothing is committed, and after an error the
    table and what the transaction did before are as they were. On an autocommit connection the
    load is a transaction of its own. A session's pending objects are not flushed.

    On Citus, a source that cannot be read twice (a pipe, an iterable) loads somewhat slower: the
    coordinator must check its JSON, because a worker that found it bad could not name the line.

    Args:
        connection: A connection or session on the driver psycopg 3.
        table: Where the rows go.
        source: A path, "-" for standard input, an open binary file (which stays open), or an
            iterable of bytes in blocks of any size. Any of them may be compressed by gzip.
        progress: Called after every block, and at the end, with what was read so far. What it
            raises ends the load and reaches the caller.

    Raises:
        LoadError: A row is malformed, with its line and column (of a row of several lines the
            first, or the last if the source cannot be read twice), or a file cannot be read.
        ArgumentError: The source is open in text mode or gives no bytes, or the connection is of
            another kind.
        psycopg.Error: What is no fault of the source, such as a missing table; and a constraint
            that a worker of Citus found broken, for it does not say what kind of error that is.
    """
    opened = open_source(source)
    return _Load(_connection(connection, table), table, opened, progress).run()


class _RejectedError(Exception):
    """The server had all of the data, and refused it."""

    def __init__(self, error: psycopg.Error) -> None:
        super().__init__(str(error))
        self.error = error


class _Load:
    """One source on its way into one table."""

    __slots__ = ("_connection", "_driver", "_progress", "_source", "_statement", "_table")

    def __init__(
        self,
        connection: Connection,
        table: Table,
        source: Input,
        progress: ProgressCallback | None,
    ) -> None:
        self._connection = connection
        self._driver = _driver(connection)
        self._statement = _copy_statement(connection, table)
        self._table = table
        self._source = source
        self._progress = progress

    def run(self) -> LoadResult:
        """Load, or raise and leave everything as it was."""
        repeatable = self._source.repeatable
        try:
            return self._load(check_json=not repeatable)
        except _RejectedError as rejected:
            error = rejected.error
        if repeatable and lacks_place(error, self._table):
            error = self._find_bad_json(error)
        if explained := explain(error, self._table, self._source):
            raise explained from error
        raise error

    def _load(self, *, check_json: bool) -> LoadResult:
        tally = Tally()
        with self._all_or_nothing():
            changed = check_json and self._driver.execute(_CHECK_JSON).rowcount > 0
            rows = self._copy(tally, self._progress)
            if changed:
                self._driver.execute(_CHECK_JSON_NO_LONGER)
            if self._progress:
                self._progress(self._so_far(tally.bytes, rows))
        return LoadResult(rows=rows, bytes=tally.bytes)

    def _find_bad_json(self, error: psycopg.Error) -> psycopg.Error:
        """Return what the coordinator says of a source that a worker refused; load nothing."""
        try:
            with self._all_or_nothing():
                self._copy_in_vain(error)
        except _RejectedError as rejected:
            return rejected.error

    def _copy_in_vain(self, error: psycopg.Error) -> NoReturn:
        self._driver.execute(_CHECK_JSON)
        self._copy(Tally(), None)
        # The source is no longer what it was when it was refused.
        raise _RejectedError(error)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        status = self._driver.info.transaction_status
        if self._driver.autocommit and status is TransactionStatus.IDLE:
            # There is no transaction of the caller's for a savepoint to be in.
            with self._driver.transaction():
                yield
        else:
            with self._connection.begin_nested():
                yield

    def _copy(self, tally: Tally, progress: ProgressCallback | None) -> int:
        """Send the source to the server; return the number of rows."""
        sent = False
        with self._driver.cursor() as cursor:
            try:
                with cursor.copy(self._statement) as copy:
                    with closing(csv_blocks(self._source, tally)) as blocks:
                        for block in blocks:
                            copy.write(block)
                            if progress:
                                progress(self._so_far(tally.bytes, tally.lines))
                    sent = True
            except psycopg.Error as error:
                # Before the end it is about the connection, or comes from the caller's own code.
                if not sent:
                    raise
                raise _RejectedError(error) from error
            return cursor.rowcount

    def _so_far(self, read: int, rows: int) -> Progress:
        return Progress(bytes=read, rows=rows, total_bytes=self._source.total_bytes)


def _connection(connection: AnySession, table: Table) -> Connection:
    if isinstance(connection, Session | scoped_session):
        return connection.connection(bind_arguments={"clause": table})
    if isinstance(connection, Connection):
        return connection
    raise ArgumentError(
        f"rows are loaded through a Connection or a Session of SQLAlchemy, not {connection!r}"
    )


def _driver(connection: Connection) -> psycopg.Connection[Any]:
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise ArgumentError(
            "rows are loaded through psycopg 3: make the engine with create_engine("
            f"'postgresql+psycopg://...'), this one has {connection.dialect.driver!r}"
        )
    return driver


def _copy_statement(connection: Connection, table: Table) -> bytes:
    preparer = connection.dialect.identifier_preparer
    translated = connection.get_execution_options().get("schema_translate_map") or {}
    schema = translated.get(table.schema, table.schema)
    name = preparer.quote(table.name)
    if schema is not None:
        name = f"{preparer.quote_schema(schema)}.{name}"
    columns = ", ".join(preparer.quote(column.name) for column in table.columns)
    return f"COPY {name} ({columns}) FROM STDIN WITH (FORMAT csv, ENCODING 'UTF8')".encode()
