"""A source is loaded once: its fingerprint is recorded in the transaction that loads it."""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from citus_analytics.errors import ArgumentError, LoadError
from citus_analytics.github.ingest.connections import RejectedError, all_or_nothing, connection_of
from citus_analytics.github.ingest.csv_load import CsvLoad
from citus_analytics.github.ingest.formats import format_of
from citus_analytics.github.ingest.gaps import Gaps
from citus_analytics.github.ingest.json_load import JsonLoad
from citus_analytics.github.ingest.json_source import load_json_source
from citus_analytics.github.ingest.ledger import Content, Ledger, Part, content_of
from citus_analytics.github.ingest.rejects import HeldRejects
from citus_analytics.github.ingest.results import LoadOptions, LoadResult
from citus_analytics.github.ingest.sources import open_source
from citus_analytics.github.ingest.stage import Stage
from citus_analytics.github.ingest.users import Users
from citus_analytics.github.models import github_events, github_users

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection, Table

    from citus_analytics.github.ingest.connections import AnySession
    from citus_analytics.github.ingest.formats import Kind
    from citus_analytics.github.ingest.ledger import Known
    from citus_analytics.github.ingest.results import ProgressCallback
    from citus_analytics.github.ingest.sources import Input, Source


def load_once(
    connection: AnySession,
    table: Table,
    source: Source,
    *,
    options: LoadOptions | None = None,
    force: bool = False,
    progress: ProgressCallback | None = None,
) -> LoadResult:
    """Load a source into `github_events` or `github_users`, unless its content is there already.

    All or nothing, in the caller's transaction: nothing is committed. The content is known by its
    SHA-256, whatever the name of the file and whether it is compressed. Of two transactions that
    load the same content at the same time, the second waits for the first and loads nothing.

    Users of a file take the place of no user that is there: events may have told newer things.

    Args:
        connection: A connection or session on the driver psycopg 3.
        table: `github_events` or `github_users`, after migration ca_0003.
        source: What `load_csv` takes, or an http(s) address; CSV, or events in JSON.
        options: How to load.
        force: Load the content even if it is there; its rows take the place of those that are the
            same event or user, so that the table is as if the content was loaded once.
        progress: Called as by `load_csv`.

    Raises:
        LoadError: The source cannot be read, or something in it cannot be loaded.
        ArgumentError: The table is another one, or the arguments of `load_csv` are wrong.
        psycopg.Error: What is no fault of the source.
    """
    if table not in (github_events, github_users):
        raise ArgumentError(
            f"files are loaded once into github_events and github_users, not into {table.name}: "
            "use load_csv for it."
        )
    opened = connection_of(connection, table)
    once = Once(opened, table, options or LoadOptions(), progress)
    return once.load(open_source(source), force=force)


class _KnownError(Exception):
    """The content that was loaded turns out to be known."""

    def __init__(self, content: Content, known: Known) -> None:
        super().__init__()
        self.content = content
        self.known = known


class Once:
    """Sources on their way into one table, each content once."""

    __slots__ = ("_connection", "_ledger", "_options", "_progress", "_table")

    def __init__(
        self,
        connection: Connection,
        table: Table,
        options: LoadOptions,
        progress: ProgressCallback | None,
    ) -> None:
        self._connection = connection
        self._table = table
        self._options = options
        self._progress = progress
        self._ledger = Ledger(connection, table)

    def load(self, source: Input, *, force: bool) -> LoadResult:
        """Load a source, or find that it is loaded."""
        if not force and self._ledger.may_know(source):
            content = content_of(source)
            known = self._ledger.known(content)
            if known.complete:
                return known.result
            if known.parts:
                return self._complete(source, content)
        try:
            if source.repeatable:
                with suppress(RejectedError), all_or_nothing(self._connection):
                    return self._load(source, force=force, in_batches=False)
            with all_or_nothing(self._connection):
                return self._load(source, force=force, in_batches=True)
        except _KnownError as error:
            # Another loader has been faster, or the file has another size when it is compressed.
            if error.known.complete:
                return error.known.result
            return self._complete(source, error.content)

    def _load(self, source: Input, *, force: bool, in_batches: bool) -> LoadResult:
        content = Content()
        stage = self._stage(wanted=force)
        users = Users(self._connection)
        target = self._table if stage is None else stage.table
        source, kind = format_of(source, self._table, self._options)
        with closing(HeldRejects(self._options)) as rejects:
            result = self._read(
                source, kind, target, users, rejects.options, content.add, in_batches=in_batches
            )
            require_some(result, source, rejects)
            known = self._ledger.locked(content)
            if known.parts and not force:
                raise _KnownError(content, known)
            rejects.tell()
        self._ledger.forget(content)
        if stage is not None:
            result = _merged(stage, result, force=force)
        users.store()
        self._ledger.record(content, source, result, Part(0, content.bytes))
        return result

    def _stage(self, *, wanted: bool = False) -> Stage | None:
        if wanted or self._options.unique or self._table is github_users:
            return Stage(self._connection, self._table)
        return None

    def _read(
        self,
        source: Input,
        kind: Kind,
        target: Table,
        users: Users,
        options: LoadOptions,
        watch: Callable[[bytes], object] | None = None,
        *,
        in_batches: bool = True,
    ) -> LoadResult:
        if kind == "csv":
            load = CsvLoad(self._connection, target, source, progress=self._progress, watch=watch)
            return load.run()
        events = JsonLoad(
            self._connection,
            target,
            source.name,
            options,
            users if options.users else None,
            in_batches=in_batches,
        )
        return load_json_source(events, source, progress=self._progress, watch=watch)

    def _complete(self, source: Input, content: Content) -> LoadResult:
        """Load the parts that are missing of a content, of which others are loaded."""
        if not source.repeatable:
            raise ArgumentError(
                f"a part of {source.name} is loaded, and it cannot be read again for the rest: "
                "load it from a file."
            )
        with all_or_nothing(self._connection), closing(Gaps(source)) as gaps:
            users = Users(self._connection)
            _, kind = format_of(source, self._table, self._options)
            for part, piece in gaps.inputs(self._ledger.locked(content).missing):
                stage = self._stage()
                target = self._table if stage is None else stage.table
                result = self._read(piece, kind, target, users, self._options)
                if stage is not None:
                    result = _merged(stage, result, force=False)
                self._ledger.record(content, source, result, part)
            if gaps.content.fingerprint != content.fingerprint:
                raise LoadError(
                    f"{source.name} has changed while it was read. Nothing of it was loaded: "
                    "load it again when it is complete."
                )
            users.store()
            return replace(self._ledger.known(content).result, already_loaded=False)


def require_some(result: LoadResult, source: Input, rejects: HeldRejects) -> None:
    """Refuse a source of which nothing at all can be stored, and tell of its rejects.

    Raises:
        LoadError: Everything in it was rejected.
    """
    if result.rejected and not result.rows:
        rejects.tell()
        raise LoadError(
            f"{source.name}: nothing in it can be stored as an event, {result.rejected} of "
            f"{result.rejected} were rejected. Nothing of it was loaded. See that it "
            "is the right file, in the right format; --rejects, or LoadOptions(rejects=...), has "
            "the reasons."
        )


def _merged(stage: Stage, result: LoadResult, *, force: bool) -> LoadResult:
    rows = stage.replace() if force else stage.insert_missing()
    return replace(result, rows=rows, duplicates=result.rows - rows)
