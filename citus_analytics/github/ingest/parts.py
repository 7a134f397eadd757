"""A content in parts that can be loaded at the same time: cut where a row ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from citus_analytics.errors import LoadError
from citus_analytics.github.gharchive import LONGEST_TEXT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from citus_analytics.github.ingest.formats import Kind

PART_SIZE: Final = 1 << 23
_LONGEST_PART: Final = PART_SIZE + 4 * LONGEST_TEXT


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a content.

    Attributes:
        first: Its first byte, counted from 0.
        first_line: Its first line, counted from 1.
        lines: How many lines end in it.
        blocks: The part itself.
    """

    first: int
    first_line: int
    lines: int
    blocks: tuple[bytes, ...]

    @property
    def end(self) -> int:
        """The first byte after it."""
        return self.first + sum(map(len, self.blocks))


def cut(
    blocks: Iterable[bytes], kind: Kind, name: str, *, size: int = PART_SIZE
) -> Iterator[Piece]:
    """Yield a content of rows in parts that are somewhat larger than `size`.

    Raises:
        LoadError: A row is too long to be kept in memory.
    """
    # In CSV a line end between quotes belongs to a field, and a quote in a field counts twice.
    counts_quotes = kind == "csv"
    first, first_line, kept, waiting, quotes = 0, 1, list[bytes](), 0, 0
    for block in blocks:
        end = _last_row_end(block, quotes, counts_quotes) if waiting + len(block) >= size else 0
        if end:
            kept.append(block[:end])
            yield (piece := _piece(first, first_line, kept))
            first = piece.end
            first_line += piece.lines
            kept, waiting, quotes = [], 0, 0
        rest = block[end:]
        kept.append(rest)
        waiting += len(rest)
        quotes += rest.count(b'"') if counts_quotes else 0
        if waiting > _LONGEST_PART:
            raise LoadError(
                f"{name}, line {first_line} or later: a row is longer than {LONGEST_TEXT:,} bytes. "
                "Nothing of it was loaded; load it over one connection."
            )
    if any(kept):
        yield _piece(first, first_line, kept)


def _piece(first: int, first_line: int, blocks: list[bytes]) -> Piece:
    lines = sum(block.count(b"\n") for block in blocks)
    return Piece(first, first_line, lines, tuple(blocks))


def _last_row_end(block: bytes, quotes: int, counts_quotes: bool) -> int:
    """Return how much of a block is complete rows, given how many quotes came before it."""
    end = block.rfind(b"\n") + 1
    while counts_quotes and end and (quotes + block.count(b'"', 0, end)) % 2:
        end = block.rfind(b"\n", 0, end - 1) + 1
    return end
