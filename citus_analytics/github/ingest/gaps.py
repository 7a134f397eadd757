"""The parts that are missing of a content, read one after the other in one pass over its source."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from citus_analytics.github.ingest.ledger import Content
from citus_analytics.github.ingest.sources import Tally, content_blocks

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from citus_analytics.github.ingest.ledger import Part
    from citus_analytics.github.ingest.sources import Input


class Gaps:
    """A pass over a source that stops at some of its parts.

    Args:
        source: The source as a whole.

    Attributes:
        content: What has been read; all of the source, after the last part.
    """

    __slots__ = ("_blocks", "_line", "_position", "_rest", "_source", "content")

    def __init__(self, source: Input) -> None:
        self.content = Content()
        self._source = source
        self._blocks = content_blocks(source, Tally())
        self._rest = b""
        self._position = 0
        self._line = 1

    def inputs(self, parts: Iterable[Part]) -> Iterator[tuple[Part, Input]]:
        """Yield each part, which are in order, as an input of its own, to be read before the next.

        At the end, the rest of the source is read too.
        """
        for part in parts:
            self._skip(part.first)
            yield (
                part,
                replace(
                    self._source,
                    blocks=partial(self._until, part.end),
                    repeatable=False,
                    named_gzip=False,
                    first_line=self._line,
                ),
            )
            self._skip(part.end)
        self._skip(sys.maxsize)

    def close(self) -> None:
        """Let go of the source."""
        self._blocks.close()

    def _skip(self, position: int) -> None:
        for _ in self._until(position):
            pass

    def _until(self, end: int) -> Generator[bytes]:
        while self._position < end:
            block = self._rest or self._next()
            if not block:
                return
            taken = block[: end - self._position]
            self._rest = block[len(taken) :]
            self._position += len(taken)
            self._line += taken.count(b"\n")
            yield taken

    def _next(self) -> bytes:
        block = next(self._blocks, b"")
        self.content.add(block)
        return block
