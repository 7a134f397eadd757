r"""Loading GitHub's events and users: CSV in the tutorial's layout, and events in JSON.

    with Session(engine) as session:
        load_events(session, "events.csv.gz")
        load_once(session, github_events, "2015-01-01-12.json.gz")
        session.commit()

`load_events` and `load_users` load CSV as often as they are asked. `load_once` remembers what it
has loaded. `load_files` does the same with many files, each in a transaction of its own, and over
several connections. `load_api_events` takes events that an application has as Python objects.

How a source goes into the database: it is opened, recognised as CSV or JSON, converted if it is
JSON (`citus_analytics.github.convert`), and sent with one COPY, while its fingerprint is taken;
then what is known of that fingerprint is looked up, and the load is recorded or undone.
"""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeAlias, cast

from sqlalchemy import inspect, literal, select, text
from sqlalchemy.exc import NoSuchTableError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import QueuePool
from sqlalchemy.util import await_only

from citus_analytics.copy.connection import connection_of, savepoint
from citus_analytics.copy.csv import (
    CsvLoad,
    LoadResult,
    Progress,
    ProgressCallback,
    header_of,
    load_csv,
    sum_of,
)
from citus_analytics.copy.errors import RejectedError
from citus_analytics.copy.source import (
    CSV_ENDINGS,
    BinaryReader,
    Block,
    PathName,
    Source,
    Tally,
    expand,
    open_source,
    peek,
)
from citus_analytics.errors import ArgumentError, LoadError
from citus_analytics.github.events import EventRow, OldFormatError, Reject, first_bytes
from citus_analytics.github.models import github_events, github_users
from citus_analytics.github.parallel import load_in_parallel
from citus_analytics.github.store import (
    BUSY,
    LOCK_TIMEOUT,
    Buffers,
    Content,
    EventLoad,
    Format,
    HeldRejects,
    Ledger,
    LoadOptions,
    Part,
    RejectCallback,
    Stage,
    Users,
    connected,
    lock,
    set_local,
    transaction,
    without_timeouts,
)
from citus_analytics.schema import table_of
from citus_analytics.sql import logger, qualify, schema_of, transaction_token

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from sqlalchemy import Connection, Engine, Index, Table

    from citus_analytics.copy.source import Input
    from citus_analytics.github.store import Kind, Known
    from citus_analytics.schema import TableLike
    from citus_analytics.sql import Executor

__all__ = [
    "Buffers",
    "Format",
    "LoadOptions",
    "LoadResult",
    "Progress",
    "ProgressCallback",
    "RejectCallback",
    "Source",
    "indexes_afterwards",
    "load_api_events",
    "load_events",
    "load_files",
    "load_once",
    "load_users",
    "write_reject",
]

ApiEvent: TypeAlias = Mapping[str, Any]

ENDINGS: Final = (*CSV_ENDINGS, ".json", ".json.gz", ".jsonl", ".jsonl.gz", ".ndjson")
"""How the names of files in a folder end that are loaded."""

_INDEX_MEMORY: Final = "256MB"
_UNIQUE_KEY: Final = text(
    "SELECT FROM pg_catalog.pg_index WHERE indrelid = CAST(:table AS regclass) "
    "AND (indisunique OR indisexclusion)"
)


def load_events(
    connection: Executor,
    source: Source | Sequence[PathName],
    *,
    header: bool = False,
    require_time_zone: bool = False,
    progress: ProgressCallback | None = None,
) -> LoadResult:
    """Load CSV in the tutorial's layout of nine columns into `github_events`.

    See `load_csv` for the arguments and errors.
    """
    return load_csv(
        connection,
        github_events,
        source,
        header=header,
        require_time_zone=require_time_zone,
        progress=progress,
    )


def load_users(
    connection: Executor,
    source: Source | Sequence[PathName],
    *,
    header: bool = False,
    progress: ProgressCallback | None = None,
) -> LoadResult:
    """Load CSV in the tutorial's layout of six columns into `github_users`.

    See `load_csv` for the arguments and errors. The row of a user who is there already counts as
    malformed; `load_once` leaves such users out.
    """
    return load_csv(connection, github_users, source, header=header, progress=progress)


def load_files(
    engine: Engine,
    table: TableLike,
    sources: PathName | BinaryReader | Iterable[Source],
    *,
    options: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
    force: bool = False,
    connections: int = 1,
    indexes_later: bool = False,
    started: Callable[[Source], object] | None = None,
    loaded: Callable[[Source, LoadResult], object] | None = None,
    building_indexes: Callable[[], object] | None = None,
    progress: ProgressCallback | None = None,
) -> list[LoadResult]:
    """Load files into `github_events` or `github_users`, each content once; commit each.

    If one cannot be loaded, those before it stay; the same call again goes on from there. Whatever
    isolation level and timeouts the engine or the server has, the transactions are at READ
    COMMITTED, and as long as they have to be.

    Args:
        engine: An engine on psycopg 3.
        table: One of the two, or its class, after migration ca_0003.
        sources: What `load_once` takes, alone or in a list; a path may be that of a folder, or a
            range (`2015-01-01-{0..5}.json`).
        options: How to load.
        force: See `load_once`.
        connections: Over how many connections a large file is loaded (and one more), if it can be
            cut into parts and the table has no unique index. After a kill between their commits,
            load again.
        indexes_later: If the table is empty, drop its indexes and build them at the end; this takes
            one more connection.
        started: Called before each file, with its path if it is from a folder or a range.
        loaded: Called after each file, once it is committed; the results are in the same order.
        building_indexes: Called after the last file, if indexes were dropped.
        progress: Called as by `load_csv`, for each file.

    Raises:
        LoadError: A file, or something in it, cannot be loaded.
        ArgumentError: The arguments are wrong, or the engine's pool has too few connections.
    """
    if connections < 1:
        raise ArgumentError(f"files are loaded over 1 connection or more, not {connections}")
    pool = engine.pool
    # There is no public name for it; a size of 0, and an overflow of -1, stand for no limit.
    if isinstance(pool, QueuePool) and pool.size() > 0 and pool._max_overflow >= 0:  # noqa: SLF001
        most = pool.size() + pool._max_overflow  # noqa: SLF001
        needed = connections + (connections > 1) + indexes_later
        if needed > most:
            raise ArgumentError(
                f"the load needs {needed} connections at once, and the engine's pool has at most "
                f"{most}: make the engine with poolclass=NullPool or pool_size={needed}, or load "
                "over fewer connections"
            )
    table = table_of(table)
    if isinstance(sources, Block):
        raise ArgumentError("the source is the bytes themselves: wrap it in io.BytesIO(...)")
    alone = isinstance(sources, str | os.PathLike | BinaryReader)
    files: list[Source] = []
    for source in cast("Iterable[Source]", [sources] if alone else sources):
        if isinstance(source, str):
            files += expand(source, ENDINGS)
        elif isinstance(source, os.PathLike):
            files += map(Path, expand(source, ENDINGS))
        else:
            files.append(source)
    results = list[LoadResult]()
    with indexes_afterwards(engine, table) if indexes_later else nullcontext() as dropped:
        if not indexes_later:
            _warn_of_missing_indexes(engine, table)
        for file in files:
            if started is not None:
                started(file)
            results.append(_load_file(engine, table, file, options, force, connections, progress))
            if loaded is not None:
                loaded(file, results[-1])
        if dropped and building_indexes is not None:
            building_indexes()
    return results


def _load_file(
    engine: Engine,
    table: Table,
    source: Source,
    options: LoadOptions,
    force: bool,
    connections: int,
    progress: ProgressCallback | None,
) -> LoadResult:
    opened = open_source(source, block_size=options.buffers.block_size)
    if (
        connections > 1
        and not (force or options.unique)
        and table is github_events
        and opened.repeatable
        and (opened.total_bytes or 0) >= options.buffers.part_size // 8
    ):
        with connected(engine) as connection:
            # The database's own: it may have more indexes than the model declares.
            name = qualify(table.name, schema_of(connection, table))
            # A connection may wait for a key of another one, which commits only after it.
            keyed = connection.execute(_UNIQUE_KEY, {"table": name}).first() is not None
            alone = keyed or Ledger(connection, table).may_know(opened)
        if not alone:
            kind, opened = recognise(opened, table, options)
            if kind != "array":
                result = load_in_parallel(
                    engine, table, opened, kind, options, connections, progress
                )
                if result is not None:
                    return result

    def load(*, in_batches: bool) -> LoadResult:
        with transaction(engine) as connection:
            without_timeouts(connection)
            once = _OnceLoad(connection, table, opened, options, progress, force=force)
            result = once.run(in_batches=in_batches)
            return replace(result, token=transaction_token(connection))

    # A transaction for each attempt: where INSERT ... SELECT fails within a savepoint, Citus may
    # leave the transaction of a worker aborted.
    if opened.repeatable:
        with suppress(RejectedError):
            return load(in_batches=False)
    return load(in_batches=True)


def load_once(
    connection: Executor,
    table: TableLike,
    source: Source,
    *,
    options: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
    force: bool = False,
    progress: ProgressCallback | None = None,
) -> LoadResult:
    """Load a source into `github_events` or `github_users`, unless its content is there already.

    All or nothing, in the caller's transaction: nothing is committed. The content is known by its
    SHA-256, whatever the name of the file and whether it is compressed. Of two transactions that
    load the same content at the same time, the second waits for the first and loads nothing.

    Users of a file replace no user that is there: events may have said newer things.

    Args:
        connection: A connection or session on the driver psycopg 3.
        table: `github_events` or `github_users`, or its class, after migration ca_0003.
        source: A path, an http(s) address, "-" for standard input, an open binary file, or an
            iterable of bytes; CSV, or events in JSON; compressed by gzip or not.
        options: How to load.
        force: Load the content even if it is there; its rows take the place of those that are the
            same event or user, so that the table is as if the content had been loaded once.
        progress: Called as by `load_csv`.

    Raises:
        LoadError: The source cannot be read, or something in it cannot be loaded.
        ArgumentError: The table is another one, or the arguments of `load_csv` are wrong.
        psycopg.Error: An error that is not the fault of the source.
    """
    table = table_of(table)
    opened = connection_of(connection, table)
    read = open_source(source, block_size=options.buffers.block_size)
    once = _OnceLoad(opened, table, read, options, progress, force=force)
    result = None
    if read.repeatable:
        with suppress(RejectedError):
            result = once.run(in_batches=False)
    if result is None:
        result = once.run(in_batches=True)
    return replace(result, token=transaction_token(opened))


class _KnownError(Exception):
    """The content that was loaded turns out to be known."""

    def __init__(self, content: Content, known: Known) -> None:
        super().__init__()
        self.content = content
        self.known = known


class _OnceLoad:
    """One source on its way into `github_events` or `github_users`, unless it is there."""

    def __init__(
        self,
        connection: Connection,
        table: Table,
        source: Input,
        options: LoadOptions,
        progress: ProgressCallback | None,
        *,
        force: bool,
    ) -> None:
        if table not in (github_events, github_users):
            raise ArgumentError(
                "files are loaded once into github_events and github_users, not into "
                f"{table.name}: use load_csv for it."
            )
        self._connection = connection
        self._table = table
        self._source = source
        self._options = options
        self._progress = progress
        self._force = force
        self._ledger = Ledger(connection, table)
        self._users = Users(connection, options.buffers.users)

    def run(self, *, in_batches: bool) -> LoadResult:
        """Load the source, or what is missing of it; an attempt that fails is undone.

        Args:
            in_batches: Whether rows can be found that the server refuses; `RejectedError` is raised
                otherwise.
        """
        if not self._force and self._ledger.may_know(self._source):
            content = Content.of(self._source)
            known = self._ledger.known(content)
            if known.complete:
                return known.result
            if known.parts:
                return self._complete(content)
        try:
            with savepoint(self._connection):
                return self._load(in_batches=in_batches)
        except _KnownError as error:
            # Another loader has been faster, or the file has another size when it is compressed.
            if error.known.complete:
                return error.known.result
            return self._complete(error.content)

    def _load(self, *, in_batches: bool) -> LoadResult:
        """Load all of the source."""
        content = Content()
        self._users = Users(self._connection, self._options.buffers.users)
        kind, source = recognise(self._source, self._table, self._options)
        stage = self._stage(kind, indexed=in_batches)
        with closing(HeldRejects(self._options)) as rejects:
            result = self._copy(
                source, kind, stage, rejects.options, content.add, in_batches=in_batches
            )
            rejects.require_some(source, result)
            known = self._ledger.locked(content)
            if known.parts and not self._force:
                raise _KnownError(content, known)
            # Before rejects are reported: it may find that the source has to be read again.
            result = self._merged(stage, result, rejects.options)
            rejects.require_some(source, result)
            rejects.report()
        self._ledger.forget(content)
        self._users.store()
        self._ledger.record(content, source, result, [Part(0, content.bytes)])
        return result

    def _complete(self, content: Content) -> LoadResult:
        """Load the parts that are missing of a content of which others are loaded.

        Returns:
            What is loaded now.
        """
        if not self._source.repeatable:
            raise ArgumentError(
                f"a part of {self._source.name} is loaded, and it cannot be read again for the "
                "rest: load it from a file."
            )
        with savepoint(self._connection):
            self._users = Users(self._connection, self._options.buffers.users)
            kind, source = recognise(self._source, self._table, self._options)
            columns = header_of(source, self._table)[0] if self._has_header(kind) else None
            read, tally = Content(), Tally()
            results = []
            known = self._ledger.locked(content)
            if known.complete:
                return known.result
            for part, each in parts_of(self._source, known.missing, read, tally):
                stage = self._stage(kind, indexed=True)
                result = self._copy(each, kind, stage, self._options, columns=columns)
                result = self._merged(stage, result, self._options)
                self._ledger.record(content, self._source, result, [part])
                results.append(result)
            if read.fingerprint != content.fingerprint:
                raise LoadError(
                    f"{self._source.name} has changed while it was read. Nothing of it was loaded: "
                    "load it again when it is complete."
                )
            self._users.store()
            return replace(sum_of(results), bytes=tally.bytes)

    def _has_header(self, kind: Kind) -> bool:
        return self._options.header and kind == "csv"

    def _stage(self, kind: Kind, *, indexed: bool) -> Stage | None:
        """Return the temporary table where rows wait, if they are compared with those there."""
        if self._force or self._options.unique or self._table is github_users:
            of_events = kind != "csv"
            return Stage(self._connection, self._table, indexed=indexed, of_events=of_events)
        return None

    def _merged(self, stage: Stage | None, result: LoadResult, options: LoadOptions) -> LoadResult:
        if stage is None:
            return result
        merge = stage.replace if self._force else stage.insert_missing
        rows, rejected = merge(self._source.name, options)
        return replace(
            result,
            rows=rows,
            rejected=result.rejected + rejected,
            duplicates=result.rows - rows - rejected,
        )

    def _copy(
        self,
        source: Input,
        kind: Kind,
        stage: Stage | None,
        options: LoadOptions,
        watch: Callable[[bytes], object] | None = None,
        *,
        columns: Sequence[str] | None = None,
        in_batches: bool = True,
    ) -> LoadResult:
        """Send a source to the server; the caller undoes it if this raises.

        Args:
            source: All of the source, or a part of it.
            kind: What it is.
            stage: Where its rows go, if not into the table.
            options: How it is loaded.
            watch: Called with every block of the content.
            columns: What the header names, if the source is a part of one with a header.
            in_batches: See `_load`. CSV is read again to find the first row that is refused.
        """
        target = self._table if stage is None else stage.table
        if kind == "csv":
            if self._options.header and columns is None:
                columns, source = header_of(source, self._table)
            load_rows = CsvLoad(
                self._connection,
                target,
                source,
                columns=columns,
                require_time_zone=options.require_time_zone,
                progress=self._progress,
                watch=watch,
            )
            return load_rows.run()
        # Only here, because it needs msgspec.
        from citus_analytics.github.convert import read_events

        tally = Tally()
        load = EventLoad(
            self._connection,
            target,
            source.name,
            options,
            self._users if options.users else None,
            in_batches=in_batches,
            tracked=stage is not None and stage.tracked,
        )

        def show() -> None:
            if self._progress:
                total = source.total_bytes
                self._progress(Progress(bytes=tally.bytes, rows=load.rows, total_bytes=total))

        def content() -> Generator[bytes]:
            with closing(source.content(tally)) as blocks:
                for block in blocks:
                    if watch:
                        watch(block)
                    yield block
                    show()

        with closing(content()) as blocks:
            load.store(read_events(blocks, source.name, first_line=source.first_line))
        show()
        return LoadResult(rows=load.rows, bytes=tally.bytes, rejected=load.rejected)


def recognise(source: Input, table: Table, options: LoadOptions) -> tuple[Kind, Input]:
    """Return what a source is, and the source to read from then on.

    Raises:
        ArgumentError: JSON is to go into another table than `github_events`.
        LoadError: It begins like HTML or XML.
    """
    if options.format == "csv":
        return "csv", source
    start, source = peek(source, lambda content: first_bytes(content).lstrip()[:1])
    if options.format == "auto" and start not in (b"{", b"["):
        if start == b"<":
            raise LoadError(
                f"{source.name} begins with '<': it is probably a page that says why there is no "
                "such file, and neither CSV nor JSON. Nothing of it was loaded; look at it, and "
                "correct the address or the path."
            )
        return "csv", source
    if table is not github_events:
        raise ArgumentError(
            f"{source.name} has events in JSON, which go into github_events, not into "
            f"{table.name}: the users of events are stored along with them."
        )
    return "array" if start == b"[" else "lines", source


def parts_of(
    source: Input, parts: Iterable[Part], read: Content, tally: Tally
) -> Iterator[tuple[Part, Input]]:
    """Yield some parts of a source, which are in order, as inputs, in one pass over all of it.

    Each is to be read before the next.

    Args:
        source: What they are parts of.
        parts: The parts.
        read: Where what is read of the source is noted: in the end, all of it.
        tally: Where the bytes are counted as they are stored.
    """
    rest, position, line = b"", 0, 1

    def until(end: int) -> Iterator[bytes]:
        nonlocal rest, position, line
        while position < end:
            rest = rest or read.noted(next(blocks, b""))
            if not rest:
                return
            taken, rest = rest[: end - position], rest[end - position :]
            position += len(taken)
            line += taken.count(b"\n")
            yield taken

    def skip(end: int) -> None:
        for _ in until(end):
            pass

    with closing(source.content(tally)) as blocks:
        for part in parts:
            skip(part.first)
            yield (
                part,
                replace(
                    source,
                    blocks=partial(until, part.end),
                    repeatable=False,
                    named_gzip=False,
                    first_line=line,
                ),
            )
            skip(part.end)
        skip(sys.maxsize)


def load_api_events(
    connection: Executor,
    events: Iterable[ApiEvent] | AsyncIterable[ApiEvent],
    *,
    options: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
) -> LoadResult:
    """Load events, as GitHub's events API describes them, into `github_events`.

    All or nothing, in the caller's transaction. Rejects are numbered from 1 in the order of the
    events. A poller that meets events again asks for `LoadOptions(unique=True)`.

    Args:
        connection: A connection or session on the driver psycopg 3.
        events: The events, as `json.loads` returns them. With asyncio, where this function is
            called by `run_sync`, it may be an asynchronous iterable.
        options: How to load; the format does not matter.

    Returns:
        What was loaded; its `bytes` is 0.

    Raises:
        LoadError: An event is in the format from before 2015; or, with `strict`, an event cannot
            be stored.
    """
    from citus_analytics.github.convert import convert_event

    def outcomes() -> Iterator[EventRow | Reject]:
        given = _awaited(events) if isinstance(events, AsyncIterable) else events
        for number, event in enumerate(given, 1):
            try:
                yield convert_event(event, line=number)
            except OldFormatError as error:
                raise LoadError(f"the events, number {number}: {error}", line=number) from error

    return load_outcomes(connection, outcomes(), options)


def _awaited(events: AsyncIterable[ApiEvent]) -> Iterator[ApiEvent]:
    iterator = aiter(events)
    while True:
        try:
            yield await_only(anext(iterator))
        except StopAsyncIteration:
            return


def load_outcomes(
    connection: Executor, outcomes: Iterable[EventRow | Reject], options: LoadOptions
) -> LoadResult:
    """Load events that have been converted already; see `load_api_events`."""
    opened = connection_of(connection, github_events)
    with savepoint(opened):
        stage = (
            Stage(opened, github_events, indexed=True, of_events=True) if options.unique else None
        )
        users = Users(opened, options.buffers.users)
        load = EventLoad(
            opened,
            github_events if stage is None else stage.table,
            "the events",
            options,
            users if options.users else None,
            tracked=stage is not None and stage.tracked,
        )
        load.store(outcomes)
        stored, refused = load.rows, 0
        if stage is not None:
            stored, refused = stage.insert_missing("the events", options)
        users.store()
    return LoadResult(
        rows=stored,
        bytes=0,
        rejected=load.rejected + refused,
        duplicates=load.rows - stored - refused,
        token=transaction_token(opened),
    )


@contextmanager
def indexes_afterwards(engine: Engine, table: Table) -> Iterator[bool]:
    """Load into a table without its indexes, if it is empty, and build them at the end.

    The GIN index on payloads is most of the cost of a load. Built at once it costs a part of that.

    Dropping them and building them are transactions of their own. A table that has rows, or that
    others write to, keeps its indexes; those of its declaration that are missing, because a
    process was killed in such a block, are built at the end all the same. Unique indexes stay: they
    are promises. Of several such blocks at once, one comes after the other.

    Yields:
        Whether the indexes were dropped.
    """
    # A set has no order of its own.
    indexes = sorted(
        (index for index in table.indexes if not index.unique), key=lambda index: str(index.name)
    )

    def build() -> None:
        for index in indexes:
            while not _changed(engine, partial(_build, index)):
                pass

    with transaction(engine) as keeper:
        # It is idle for as long as the load takes.
        without_timeouts(keeper)
        lock(keeper, "indexes", table.name)
        try:
            yield _changed(engine, partial(_drop, table, indexes))
        except BaseException:
            # The first error is the one to raise.
            with suppress(SQLAlchemyError):
                build()
            raise
        build()


def _changed(engine: Engine, change: Callable[[Connection], bool]) -> bool:
    """Change indexes in a transaction; return whether that was done, and nobody else is writing."""
    try:
        with transaction(engine) as connection:
            without_timeouts(connection)
            set_local(connection, "lock_timeout", LOCK_TIMEOUT)
            return change(connection)
    except OperationalError as error:
        if not isinstance(error.orig, BUSY):
            raise
        return False


def _drop(table: Table, indexes: Iterable[Index], connection: Connection) -> bool:
    # For EXISTS, Citus would bring the whole table to the coordinator.
    one = select(literal(1)).select_from(table).limit(1)
    if connection.execute(one).first() is not None:
        return False
    for index in indexes:
        index.drop(connection, checkfirst=True)
    return True


def _build(index: Index, connection: Connection) -> bool:
    set_local(connection, "maintenance_work_mem", _INDEX_MEMORY)
    index.create(connection, checkfirst=True)
    return True


def _warn_of_missing_indexes(engine: Engine, table: Table) -> None:
    with suppress(NoSuchTableError), connected(engine) as connection:
        found = {each["name"] for each in inspect(connection).get_indexes(table.name, table.schema)}
        missing = sorted(str(index.name) for index in table.indexes if index.name not in found)
        if missing:
            logger().warning(
                "Table %s lacks its indexes %s, as after a load with indexes_later "
                "(--indexes-later) that was killed. Load with it once more, and they are built at "
                "the end.",
                table.name,
                ", ".join(missing),
            )


def write_reject(file: BinaryIO, source: str, reject: Reject) -> None:
    """Write one reject as a line of JSON: its source, line and reason, and the text as it was.

    The text is in `text`, or in `base64` if it is not UTF-8. An unbuffered file may take only a
    part of a line at once, and reports that its disk is full only on the next try.
    """
    record: dict[str, object] = {"source": source, "line": reject.line, "reason": reject.reason}
    try:
        record["text"] = reject.text.decode()
    except UnicodeDecodeError:
        record["base64"] = base64.b64encode(reject.text).decode()
    line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
    while line:
        line = line[file.write(line) :]
