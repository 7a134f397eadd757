"""What a source is: CSV, or events in JSON."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Final, Literal

from citus_analytics.errors import ArgumentError
from citus_analytics.ingest.sources import Tally, content_blocks
from citus_analytics.models import github_events

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Table

    from citus_analytics.ingest.results import LoadOptions
    from citus_analytics.ingest.sources import Block, Input

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


def format_of(
    source: Input, table: Table, options: LoadOptions
) -> tuple[Input, Literal["csv", "json"]]:
    """Return what a source is, and the source to read from then on.

    Raises:
        ArgumentError: JSON is to go into another table than `github_events`.
    """
    known = options.format
    if known == "auto":
        source, known = _looked_into(source)
    if known == "json" and table is not github_events:
        raise ArgumentError(
            f"{source.name} has events in JSON, which go into github_events, not into "
            f"{table.name}: the users of events are stored along with them."
        )
    return source, known


def _looked_into(source: Input) -> tuple[Input, Literal["csv", "json"]]:
    stored = source.blocks()
    taken: list[Block] = []

    def remembered() -> Iterator[Block]:
        for block in stored:
            taken.append(block)
            yield block

    start = b""
    for block in content_blocks(replace(source, blocks=remembered), Tally()):
        start += block.removeprefix(_BYTE_ORDER_MARK) if not start else block
        if start.strip():
            break
    if not source.repeatable:
        # What has been read of a stream does not come again.
        source = replace(source, blocks=lambda: chain(taken, stored))
    return source, "json" if start.lstrip()[:1] in (b"{", b"[") else "csv"
