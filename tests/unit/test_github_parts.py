"""Contents cut into parts: between rows, and nothing lost."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from citus_analytics.copy import LoadResult
from citus_analytics.github.parallel import cut
from citus_analytics.github.store import Known, Part

if TYPE_CHECKING:
    from citus_analytics.github.store import Kind

ROWS = st.lists(st.lists(st.text('a,"\n é', max_size=8), min_size=2, max_size=2), max_size=30)


def blocks_of(content: bytes, size: int) -> list[bytes]:
    return [content[i : i + size] for i in range(0, len(content), size)]


@given(rows=ROWS, block=st.integers(1, 40), size=st.integers(1, 60))
def test_csv_is_cut_between_rows(rows: list[list[str]], block: int, size: int) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    content = text.getvalue().encode()
    pieces = list(cut(blocks_of(content, block), "csv", "rows", size=size))
    assert b"".join(part for piece in pieces for part in piece.blocks) == content
    read = []
    for piece in pieces:
        part = b"".join(piece.blocks)
        assert content[piece.first : piece.end] == part
        assert piece.first_line == content[: piece.first].count(b"\n") + 1
        read += list(csv.reader(io.StringIO(part.decode(), newline=""), strict=True))
    assert read == rows


@given(
    lines=st.lists(st.binary(max_size=9).filter(lambda line: b"\n" not in line), max_size=30),
    block=st.integers(1, 40),
    size=st.integers(1, 60),
    kind=st.just("lines"),
)
def test_lines_are_cut_at_their_ends(lines: list[bytes], block: int, size: int, kind: Kind) -> None:
    content = b"".join(line + b"\n" for line in lines)
    pieces = list(cut(blocks_of(content, block), kind, "lines", size=size))
    assert b"".join(part for piece in pieces for part in piece.blocks) == content
    assert all(piece.blocks[-1].endswith(b"\n") for piece in pieces)
    assert [piece.first for piece in pieces[1:]] == [piece.end for piece in pieces[:-1]]


def test_small_parts_are_small() -> None:
    pieces = list(cut(blocks_of(b"1,x\n" * 1000, 10), "csv", "rows", size=100))
    assert len(pieces) > 30


def test_what_is_missing_is_what_is_not_loaded() -> None:
    def known(total: int, *parts: tuple[int, int]) -> Known:
        loaded = tuple(Part(*part) for part in parts)
        return Known(loaded, total, LoadResult(rows=0, bytes=0))

    assert known(10, (0, 10)).complete
    assert known(10, (0, 4), (4, 10)).missing == ()
    assert known(10, (2, 4), (6, 8)).missing == (Part(0, 2), Part(4, 6), Part(8, 10))
    assert not known(10, (0, 4)).complete
    assert not known(0).complete
    assert known(0, (0, 0)).complete
