r"""Loading rows at the speed of COPY, in the caller's transaction.

CSV in the layout of a table goes to the server as the bytes that it is, exactly as with psql's
`\copy github_events from 'events.csv' WITH CSV`. The server parses it, and nothing else does.
Events in JSON, as GH Archive and GitHub's events API have them, are converted on the way.

    with Session(engine) as session:
        load_events(session, "events.csv.gz")
        load_once(session, github_events, "2015-01-01-12.json.gz")
        session.commit()

`load_events`, `load_users` and `load_csv` load what they are given, as often as they are asked.
`load_once` remembers what it has loaded. `load_files` does the same with many files, each in a
transaction of its own, and with several connections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from citus_analytics.github.ingest.api_events import load_api_events, load_api_events_async
from citus_analytics.github.ingest.connections import connection_of
from citus_analytics.github.ingest.csv_load import CsvLoad
from citus_analytics.github.ingest.files import load_files
from citus_analytics.github.ingest.indexes import indexes_afterwards
from citus_analytics.github.ingest.once import load_once
from citus_analytics.github.ingest.rejects import write_reject
from citus_analytics.github.ingest.results import (
    Format,
    LoadOptions,
    LoadResult,
    Progress,
    ProgressCallback,
    RejectCallback,
)
from citus_analytics.github.ingest.sources import Source, open_source
from citus_analytics.github.models import github_events, github_users

if TYPE_CHECKING:
    from sqlalchemy import Table

    from citus_analytics.github.ingest.connections import AnySession

__all__ = [
    "Format",
    "LoadOptions",
    "LoadResult",
    "Progress",
    "ProgressCallback",
    "RejectCallback",
    "Source",
    "indexes_afterwards",
    "load_api_events",
    "load_api_events_async",
    "load_csv",
    "load_events",
    "load_files",
    "load_once",
    "load_users",
    "write_reject",
]


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

    See `load_csv` for sources, progress and errors. A user who is there already makes a malformed
    row; `load_once` leaves such users out.
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
    return CsvLoad(connection_of(connection, table), table, opened, progress=progress).run()
