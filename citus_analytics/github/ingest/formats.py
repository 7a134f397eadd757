"""What a source is: CSV, or events in JSON."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Literal, TypeAlias

from citus_analytics.errors import ArgumentError, LoadError
from citus_analytics.github.gharchive._texts import first_bytes
from citus_analytics.github.ingest.sources import Tally, content_blocks
from citus_analytics.github.models import github_events

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Table

    from citus_analytics.github.ingest.results import LoadOptions
    from citus_analytics.github.ingest.sources import Block, Input

Kind: TypeAlias = Literal["csv", "lines", "array"]


def format_of(source: Input, table: Table, options: LoadOptions) -> tuple[Input, Kind]:
    """Return the source to read from then on, and what it is.

    Raises:
        ArgumentError: JSON is to go into another table than `github_events`.
        LoadError: It begins like HTML or XML.
    """
    if options.format == "csv":
        return source, "csv"
    source, start = _looked_into(source)
    kind: Kind = "array" if start == b"[" else "lines"
    if options.format == "auto" and start not in (b"{", b"["):
        if start == b"<":
            raise LoadError(
                f"{source.name} begins with '<': it is probably a page that says why there is no "
                "such file, and neither CSV nor JSON. Nothing of it was loaded; look at it, and "
                "correct the address or the path."
            )
        return source, "csv"
    if table is not github_events:
        raise ArgumentError(
            f"{source.name} has events in JSON, which go into github_events, not into "
            f"{table.name}: the users of events are stored along with them."
        )
    return source, kind


def _looked_into(source: Input) -> tuple[Input, bytes]:
    """Return the source to read from then on, and the first character that is not white space."""
    stored = source.blocks()
    taken: list[Block] = []

    def remembered() -> Iterator[Block]:
        for block in stored:
            taken.append(block)
            yield block

    start = first_bytes(content_blocks(replace(source, blocks=remembered), Tally()))
    if not source.repeatable:
        # What has been read of a stream does not come again.
        source = replace(source, blocks=lambda: chain(taken, stored))
    return source, start.lstrip()[:1]
