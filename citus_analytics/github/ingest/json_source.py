"""Sources of events in JSON: read, converted and stored, with what is told on the way."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from citus_analytics.errors import LoadError
from citus_analytics.github.gharchive import (
    EventRow,
    OldFormatError,
    Reject,
    convert,
    is_unfinished,
    texts,
)
from citus_analytics.github.ingest.results import LoadResult, Progress
from citus_analytics.github.ingest.sources import Tally, content_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from citus_analytics.github.ingest.json_load import JsonLoad
    from citus_analytics.github.ingest.results import ProgressCallback
    from citus_analytics.github.ingest.sources import Input


def load_json_source(
    load: JsonLoad,
    source: Input,
    *,
    progress: ProgressCallback | None = None,
    watch: Callable[[bytes], object] | None = None,
) -> LoadResult:
    """Store what a source holds; the caller undoes it if this raises.

    Raises:
        LoadError: The source cannot be read, is in the format of before 2015, or has, if that is
            asked for, something that cannot be stored.
        RejectedError: The server refuses a row, and the load is not in batches.
    """
    tally = Tally()

    def so_far() -> Progress:
        return Progress(bytes=tally.bytes, rows=load.counts.rows, total_bytes=source.total_bytes)

    def blocks() -> Generator[bytes]:
        with closing(content_blocks(source, tally)) as content:
            for block in content:
                if watch:
                    watch(block)
                yield block
                if progress:
                    progress(so_far())

    with closing(_events(source, blocks())) as events:
        load.store(events)
    if progress:
        progress(so_far())
    return LoadResult(rows=load.counts.rows, bytes=tally.bytes, rejected=load.counts.rejected)


def load_json_parts(load: JsonLoad, parts: Iterable[Input]) -> LoadResult:
    """Store what several parts of a source hold; see `load_json_source`."""
    tally = Tally()

    def events() -> Generator[EventRow | Reject]:
        for part in parts:
            yield from _events(part, content_blocks(part, tally))

    with closing(events()) as of_all:
        load.store(of_all)
    return LoadResult(rows=load.counts.rows, bytes=tally.bytes, rejected=load.counts.rejected)


def _events(source: Input, blocks: Generator[bytes]) -> Generator[EventRow | Reject]:
    """Yield what becomes of the events of a source."""
    ending = bytearray()

    def watched() -> Iterator[bytes]:
        for block in blocks:
            ending[:] = block[-1:] or ending
            yield block

    with closing(blocks):
        yield from _whole(source, _outcomes(source, watched()), ending)


def _whole(
    source: Input, outcomes: Iterable[EventRow | Reject], ending: bytearray
) -> Iterator[EventRow | Reject]:
    """Yield the outcomes, and refuse a source that ends within an event.

    The same source, once it is complete, has another fingerprint: its events would come in twice.
    """
    held: Reject | None = None
    for outcome in outcomes:
        if held is not None:
            yield held
        held = outcome if isinstance(outcome, Reject) and is_unfinished(outcome) else None
        if held is None:
            yield outcome
    if held is None:
        return
    if held.text and ending == b"\n":
        # A line that was cut short, in a source that goes on.
        yield held
        return
    raise LoadError(
        f"{source.name}, line {held.line}: the source is cut short, it ends within an event or an "
        f"array of events. Nothing of it was loaded. Get all of it and load it "
        "again; or, if there is no more of it, take the unfinished end away.",
        line=held.line,
    )


def _outcomes(source: Input, blocks: Iterable[bytes]) -> Iterator[EventRow | Reject]:
    known = False
    for text in texts(blocks, first_line=source.first_line):
        try:
            for outcome in convert(text):
                known = known or isinstance(outcome, EventRow)
                yield outcome
        except OldFormatError as error:
            if not known:
                # It is no odd event among others.
                raise LoadError(
                    f"{source.name}, line {text.line}: {error}", line=text.line
                ) from error
            yield Reject(text.line, str(error), text.text)
