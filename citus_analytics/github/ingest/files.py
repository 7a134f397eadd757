"""Many files, each once, each for itself: what is loaded stays loaded when a later one fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from citus_analytics.errors import ArgumentError
from citus_analytics.github.ingest.formats import format_of
from citus_analytics.github.ingest.indexes import indexes_afterwards, indexes_as_they_are
from citus_analytics.github.ingest.ledger import Ledger
from citus_analytics.github.ingest.locks import without_timeouts
from citus_analytics.github.ingest.once import load_once
from citus_analytics.github.ingest.parallel import load_in_parallel
from citus_analytics.github.ingest.parts import PART_SIZE
from citus_analytics.github.ingest.patterns import expand
from citus_analytics.github.ingest.results import LoadOptions
from citus_analytics.github.ingest.sources import open_source
from citus_analytics.github.models import github_events
from citus_analytics.sql import qualify, schema_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sqlalchemy import Connection, Engine, Table

    from citus_analytics.github.ingest.results import LoadResult, ProgressCallback
    from citus_analytics.github.ingest.sources import Source

_UNIQUE_KEY: Final = text(
    "SELECT FROM pg_catalog.pg_index WHERE indrelid = CAST(:table AS regclass) "
    "AND (indisunique OR indisexclusion)"
)


def _tell_nobody(source: Source, result: LoadResult) -> None:
    """Leave it at that."""


def load_files(
    engine: Engine,
    table: Table,
    sources: Iterable[Source],
    *,
    options: LoadOptions = LoadOptions(),  # noqa: B008 - frozen
    force: bool = False,
    jobs: int = 1,
    indexes_later: bool = False,
    loaded: Callable[[Source, LoadResult], object] = _tell_nobody,
    progress: ProgressCallback | None = None,
) -> list[LoadResult]:
    """Load files into `github_events` or `github_users`, each content once; commit each.

    If one cannot be loaded, those before it stay; the same call again goes on from there.

    Args:
        engine: An engine on psycopg 3.
        table: One of the two, after migration ca_0003.
        sources: What `load_once` takes; texts may be folders or ranges (`2015-01-01-{0..5}.json`).
        options: How to load.
        force: See `load_once`.
        jobs: Over how many connections a large file is loaded (and one more), if it has parts and
            the table no unique index. After a kill between their commits, load again.
        indexes_later: If the table is empty, drop its indexes and build them at the end.
        loaded: Called after each file, once it is committed; the results are in the same order.
        progress: Called as by `load_csv`, for each file.

    Raises:
        LoadError: A file, or something in it, cannot be loaded.
    """
    if jobs < 1:
        raise ArgumentError(f"files are loaded over 1 connection or more, not over {jobs}")
    results, engine, named = [], in_transactions(engine), _expanded(sources)
    with (indexes_afterwards if indexes_later else indexes_as_they_are)(engine, table):
        for source in named:
            results.append(load_file(engine, table, source, options, force, jobs, progress))
            loaded(source, results[-1])
    return results


def in_transactions(engine: Engine) -> Engine:
    """Return an engine whose transactions are such, and see what others have just committed."""
    return engine.execution_options(isolation_level="READ COMMITTED")


def _expanded(sources: Iterable[Source]) -> list[Source]:
    if isinstance(sources, str | bytes):
        raise ArgumentError(
            f"load_files takes a list of sources: [{sources!r}], not the text alone"
        )
    expanded: list[Source] = []
    for source in sources:
        expanded += expand(source) if isinstance(source, str) else [source]
    return expanded


def load_file(
    engine: Engine,
    table: Table,
    source: Source,
    options: LoadOptions,
    force: bool,
    jobs: int,
    progress: ProgressCallback | None,
) -> LoadResult:
    """Load one of the files of `load_files`, whatever indexes the table has."""
    alone = jobs == 1 or force or options.unique or table is not github_events
    if not alone:
        result = _in_parallel(engine, table, source, options, jobs, progress)
        if result is not None:
            return result
    with engine.begin() as connection:
        without_timeouts(connection)
        return load_once(connection, table, source, options=options, force=force, progress=progress)


def _in_parallel(
    engine: Engine,
    table: Table,
    source: Source,
    options: LoadOptions,
    jobs: int,
    progress: ProgressCallback | None,
) -> LoadResult | None:
    """Load a file over several connections, or return None if one is right for it."""
    opened = open_source(source)
    if not opened.repeatable or (opened.total_bytes or 0) < PART_SIZE // 8:
        return None
    with engine.connect() as connection:
        if Ledger(connection, table).may_know(opened):
            return None
        if _has_unique_key(connection, table):
            # A connection may wait for a key of another one, which commits only after it.
            return None
    opened, kind = format_of(opened, table, options)
    if kind == "array":
        return None
    return load_in_parallel(engine, table, opened, kind, options, jobs, progress)


def _has_unique_key(connection: Connection, table: Table) -> bool:
    # The database's own: it may have more indexes than the model declares.
    schema = schema_of(connection, table)
    found = connection.execute(_UNIQUE_KEY, {"table": qualify(table.name, schema)})
    return found.first() is not None
