"""Which files are loaded: the table `loaded_files`."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, insert, select

from citus_analytics.github.ingest.locks import lock, require_read_committed, share, wait_for
from citus_analytics.github.ingest.results import LoadResult
from citus_analytics.github.ingest.sources import Tally, content_blocks
from citus_analytics.github.models import loaded_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Row, Table

    from citus_analytics.github.ingest.sources import Input


class Content:
    """The content of a source as it passes by: its size, and its fingerprint at the end."""

    __slots__ = ("_hash", "bytes")

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.bytes = 0

    def add(self, block: bytes) -> None:
        """Note the next block."""
        self._hash.update(block)
        self.bytes += len(block)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of all blocks."""
        return self._hash.hexdigest()


def content_of(source: Input) -> Content:
    """Read a source to its end for its fingerprint."""
    content = Content()
    with closing(content_blocks(source, Tally())) as blocks:
        for block in blocks:
            content.add(block)
    return content


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a content, in bytes: from the first up to, and without, the end."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a content.

    Attributes:
        parts: What of it is loaded, in order.
        total: The size of the content; 0 if nothing is known.
        result: What the loading of these parts came to.
    """

    parts: tuple[Part, ...]
    total: int
    result: LoadResult

    @property
    def complete(self) -> bool:
        """Whether all of it is loaded."""
        return bool(self.parts) and not self.missing

    @property
    def missing(self) -> tuple[Part, ...]:
        """What is not loaded, in order."""
        ends = [0, *(part.end for part in self.parts)]
        firsts = [*(part.first for part in self.parts), self.total]
        gaps = (Part(end, first) for end, first in zip(ends, firsts, strict=True))
        return tuple(gap for gap in gaps if gap.first < gap.end)


class Ledger:
    """The files that are loaded into one table."""

    __slots__ = ("_connection", "_table")

    def __init__(self, connection: Connection, table: Table) -> None:
        self._connection = connection
        self._table = table.name

    def may_know(self, source: Input) -> bool:
        """Whether a file of this size is loaded, so that it is worth reading this one."""
        if not source.repeatable or source.total_bytes is None:
            return False
        statement = select(loaded_files.c.fingerprint).where(
            loaded_files.c.table_name == self._table,
            loaded_files.c.stored_bytes == source.total_bytes,
        )
        return self._connection.execute(statement.limit(1)).first() is not None

    def known(self, content: Content) -> Known:
        """Return what is known of a content."""
        statement = (
            select(loaded_files)
            .where(
                loaded_files.c.table_name == self._table,
                loaded_files.c.fingerprint == content.fingerprint,
            )
            .order_by(loaded_files.c.first_byte)
        )
        return _known(self._connection.execute(statement).all())

    def locked(self, content: Content) -> Known:
        """Return the same, and let no other loader have this content until the transaction ends."""
        require_read_committed(self._connection)
        lock(self._connection, "file", self._table, content.fingerprint)
        # Parts may still be on their way into the table, of a client that is gone.
        wait_for(self._connection, "parts", self._table, content.fingerprint)
        return self.known(content)

    def announce(self, content: Content) -> None:
        """Say that parts are about to be committed, beside a transaction that holds the content."""
        share(self._connection, "parts", self._table, content.fingerprint)

    def record(
        self, content: Content, source: Input, result: LoadResult, part: Part, *others: Part
    ) -> None:
        """Note that a part is loaded, in the transaction that loads it.

        The rows of several parts, which are only known for all of them, are noted with the first.
        """
        same = {
            "table_name": self._table,
            "fingerprint": content.fingerprint,
            "total_bytes": content.bytes,
            "stored_bytes": source.total_bytes or result.bytes,
            "name": source.name,
        }
        none = LoadResult(rows=0, bytes=0)
        counted = [(part, result), *((other, none) for other in others)]
        rows = [
            {
                **same,
                "first_byte": each.first,
                "end_byte": each.end,
                "row_count": counts.rows,
                "rejected": counts.rejected,
                "duplicates": counts.duplicates,
            }
            for each, counts in counted
        ]
        self._connection.execute(insert(loaded_files), rows)

    def forget(self, content: Content) -> None:
        """Note that nothing of a content is loaded."""
        self._connection.execute(
            delete(loaded_files).where(
                loaded_files.c.table_name == self._table,
                loaded_files.c.fingerprint == content.fingerprint,
            )
        )


def _known(rows: Sequence[Row[Any]]) -> Known:
    return Known(
        parts=tuple(Part(row.first_byte, row.end_byte) for row in rows),
        total=rows[0].total_bytes if rows else 0,
        result=LoadResult(
            rows=sum(row.row_count for row in rows),
            bytes=rows[0].stored_bytes if rows else 0,
            rejected=sum(row.rejected for row in rows),
            duplicates=sum(row.duplicates for row in rows),
            already_loaded=True,
        ),
    )
