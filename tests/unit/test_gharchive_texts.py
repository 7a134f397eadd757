"""Where events begin and end: arrays that are cut, and what comes before the first event."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from citus_analytics.github.gharchive import EventRow, Reject, Text, convert, texts
from citus_analytics.github.gharchive._texts import first_bytes
from tests.event_data import line

if TYPE_CHECKING:
    from collections.abc import Iterable


def outcomes(blocks: Iterable[bytes]) -> list[EventRow | Reject]:
    return [outcome for text in texts(blocks) for outcome in convert(text)]


@pytest.mark.parametrize("size", [1, 100, 10**6])
@pytest.mark.parametrize("end", [b"", b",", b"\r\n", b",\n  ", b"\n]\n["])
def test_an_array_that_is_cut_after_an_element_is_told(end: bytes, size: int) -> None:
    content = b"[" + line(1) + b"," + line(2).strip() + end
    *rows, last = outcomes(content[i : i + size] for i in range(0, len(content), size))
    assert [type(row) for row in rows] == [EventRow, EventRow]
    assert isinstance(last, Reject)
    assert "the array of events has no end" in last.reason
    assert (last.line, last.text) == (2 + end.count(b"\n"), b"")


@pytest.mark.parametrize("content", [b"[", b" [\n", b"[]["])
def test_an_array_of_nothing_without_an_end_is_told(content: bytes) -> None:
    (reject,) = outcomes([content])
    assert isinstance(reject, Reject)
    assert "the array of events has no end" in reject.reason


def test_an_end_in_the_line_of_a_broken_element_is_not_missed() -> None:
    content = b"[" + line(1).strip() + b", " + line(2).strip()[:70] + b"]\n"
    good, bad = outcomes([content])
    assert isinstance(good, EventRow)
    assert isinstance(bad, Reject)
    assert bad.text.endswith(b"]")


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_a_byte_order_mark_may_come_before_an_array(size: int) -> None:
    content = b"\xef\xbb\xbf \n[" + line(1) + b"]"
    (row,) = outcomes(content[i : i + size] for i in range(0, len(content), size))
    assert isinstance(row, EventRow)
    assert row.line == 2


def test_white_space_without_an_end_is_not_kept() -> None:
    blocks = iter([b" " * 1000] * 2000 + [b"[" + line(1).strip() + b"]"])
    assert len(first_bytes(blocks)) == 1_049_000
    # In blocks of a byte, this would take minutes if every block looked at all before it.
    assert len(first_bytes(itertools.repeat(b"\n"))) == 1 << 20
    # What comes after it is taken for lines.
    assert list(texts(itertools.chain([b"\n"] * (1 << 20), [b"[\n"]))) == [Text(2**20 + 1, b"[")]
