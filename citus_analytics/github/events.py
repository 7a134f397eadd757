"""GitHub's events in JSON: what becomes of one, and where one ends and the next begins.

GH Archive's files since 2015 have one event on each line. The events API answers with arrays of
events, on one line or on many. Which of the two a source is shows in its first character that is
not white space. Both are read block by block: memory holds an event and a block, whatever the size
of the source.

`citus_analytics.github.convert` turns events into rows; it needs msgspec, and this module does not.

Definitions: GitHub's documentation, "GitHub event types"; https://www.gharchive.org for the files.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from itertools import chain
from json import JSONDecodeError, JSONDecoder
from typing import TYPE_CHECKING, Final, NamedTuple

from citus_analytics.errors import CitusAnalyticsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

LONGEST_TEXT: Final = 1 << 25
"""The longest text of one event, in bytes: GitHub caps payloads at 25 MB."""

_LONGEST_SPACE: Final = 1 << 20
_KEPT_OF_LONG: Final = 1 << 10
_BYTE_ORDER_MARK: Final = codecs.BOM_UTF8
_NOT_SPACE: Final = re.compile(rb"\S")
_BETWEEN: Final = re.compile(r"[\s,]*", re.ASCII)
_DIGIT_SAFE: Final = JSONDecoder(parse_int=str, parse_float=str)
_OBJECT: Final = re.compile(r'\{(?=\s*")')
# How often, on average, a character is looked at in search of the objects on a line.
_MOST_EFFORT: Final = 20
# An error this close to the end of what was read may only mean that the rest is still to come.
_LONGEST_TOKEN: Final = 12


class OldFormatError(CitusAnalyticsError):
    """An event in GH Archive's format from before 2015, which this library does not read."""


class UserRecord(NamedTuple):
    """What an event says about its actor, in the columns of `github_users` after `user_id`.

    What the event leaves out, or leaves empty, is None: there is no `display_login` before 2016,
    and `gravatar_id` has been empty for years.
    """

    url: str | None
    login: str | None
    avatar_url: str | None
    gravatar_id: str | None
    display_login: str | None


class EventRow(NamedTuple):
    """One event that can be stored. A named tuple, because there are millions of them.

    Attributes:
        event_id: GitHub's id of the event.
        user_id: GitHub's id of the actor.
        created_at: When the event happened, an aware datetime.
        copy: The row of `github_events` in COPY's text format, its line end included.
        user: What the event says about its actor.
        line: The line of the source on which the event starts, counted from 1; 0 for none.
        text: The event as it was, in JSON.
    """

    event_id: int
    user_id: int
    created_at: datetime
    copy: bytes
    user: UserRecord
    line: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Reject:
    """One event, or what is in its place, that cannot be stored.

    Attributes:
        line: The line of the source on which it starts, counted from 1; 0 for an event that
            does not come from lines.
        reason: Why it cannot be stored, for people.
        text: The bytes as they were. Of a line longer than `LONGEST_TEXT`, its beginning.
    """

    line: int
    reason: str
    text: bytes


class Text(NamedTuple):
    """The text of one event, or of what stands in its place.

    Attributes:
        line: The line on which it starts, counted from 1.
        text: Its bytes; if it is too long, its beginning.
        too_long: Whether it is longer than `LONGEST_TEXT`.
        no_end: Whether it stands for the missing end of an array: the source is probably cut
            short. The line is the last one, and there are no bytes.
        in_array: Whether it is an element of an array, which may go over several lines.
    """

    line: int
    text: bytes
    too_long: bool = False
    no_end: bool = False
    in_array: bool = False


def texts(
    blocks: Iterable[bytes], *, first_line: int = 1, longest: int = LONGEST_TEXT
) -> Iterator[Text]:
    """Yield the text of every event of a source, blank lines left out.

    Args:
        blocks: The source, uncompressed, in blocks of any size.
        first_line: The number of the first line.
        longest: More bytes than this for one event are not kept.
    """
    source = iter(blocks)
    start = first_bytes(source)
    if start.lstrip().startswith(b"["):
        yield from _Elements(chain((start,), source), first_line, longest)
    else:
        yield from _lines(chain((start,), source), first_line, longest)


def first_bytes(source: Iterable[bytes]) -> bytes:
    """Read up to the first character that is not white space, and return what was read.

    After a megabyte of white space, what was read is taken as it is. A byte order mark is left out.
    """
    start = bytearray()
    looked_at = 0
    for block in source:
        start += block
        if len(start) < len(_BYTE_ORDER_MARK):
            continue
        if start.startswith(_BYTE_ORDER_MARK):
            looked_at = max(looked_at, len(_BYTE_ORDER_MARK))
        if len(start) >= _LONGEST_SPACE or _NOT_SPACE.search(start, looked_at):
            break
        looked_at = len(start)
    return bytes(start.removeprefix(_BYTE_ORDER_MARK))


def objects_of(line: str) -> Iterator[tuple[int, int]]:
    """Yield where the complete objects on a line start and end that are not within another one.

    A writer that was killed within an event, or between an event and its line end, leaves lines on
    which one follows the other. Of an event that was cut, this yields the objects that it holds.
    """
    # What is within an object that has no end is looked at again, but not for ever.
    effort = _MOST_EFFORT * len(line) + _LONGEST_SPACE
    position = 0
    while effort > 0 and (start := _OBJECT.search(line, position)):
        position = start.start()
        try:
            _, end = _DIGIT_SAFE.raw_decode(line, position)
        except JSONDecodeError as error:
            unterminated = error.msg.startswith("Unterminated")
            # Making the error counts the lines before it.
            effort -= error.pos + (len(line) - position) * unterminated
            position += 1
        except RecursionError:
            effort -= len(line) - position
            position += 1
        else:
            yield position, end
            position = end


def _lines(blocks: Iterable[bytes], number: int, longest: int) -> Iterator[Text]:
    parts: list[bytes] = []
    size = 0
    for block in blocks:
        first, *others = block.split(b"\n")
        size += len(first)
        # Of a line that is too long, no more is kept than what came before it was known.
        if size <= longest:
            parts.append(first)
        if not others:
            continue
        yield from _line(number, parts, size, longest)
        for text in others[:-1]:
            number += 1
            yield from _line(number, [text], len(text), longest)
        number += 1
        parts, size = [others[-1]], len(others[-1])
    yield from _line(number, parts, size, longest)


def _line(number: int, parts: list[bytes], size: int, longest: int) -> Iterator[Text]:
    if size > longest:
        yield Text(number, b"".join(parts)[:_KEPT_OF_LONG], too_long=True)
    elif text := b"".join(parts).strip():
        yield Text(number, text)


class _Elements:
    """Reads arrays of objects, which may follow each other, as the texts of their elements.

    What is not an element is taken to the end of its line, so that an array with one element on
    each line loses no more than that line.
    """

    def __init__(self, blocks: Iterable[bytes], first_line: int, longest: int) -> None:
        # Bytes that are not UTF-8 come out again as they were.
        decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        final = (decoder.decode(b"", final=True) for _ in range(1))
        self._more = chain((decoder.decode(block) for block in blocks), final)
        self._longest = longest
        self._buffer = ""
        self._position = 0
        self._line = first_line
        self._in_array = False
        self._end_seen = False

    def __iter__(self) -> Iterator[Text]:
        while self._next_character():
            character = self._buffer[self._position]
            if character == "[" and not self._in_array:
                self._in_array = True
                self._end_seen = False
                self._position += 1
            elif character == "]" and self._in_array:
                self._in_array = False
                self._position += 1
            else:
                yield self._element()
        # What is not an element is refused anyway, and the end of the array may be at its end.
        if self._in_array and not self._end_seen:
            yield Text(self._line, b"", no_end=True)

    def _next_character(self) -> bool:
        """Go to the next character that is neither white space nor a comma, if there is one."""
        while True:
            between = _BETWEEN.match(self._buffer, self._position)
            self._advance(between.end() if between else self._position)
            if self._position < len(self._buffer):
                return True
            if not self._read(1):
                return False

    def _element(self) -> Text:
        line = self._line
        end = self._end_of_element()
        text = self._taken(end or self._end_of_line())
        self._end_seen = end is None and text.endswith(b"]")
        if len(text) > self._longest:
            return Text(line, text[:_KEPT_OF_LONG], too_long=True, in_array=True)
        return Text(line, text, in_array=True)

    def _end_of_element(self) -> int | None:
        """Return where the object ends that starts here, or None if none does."""
        if self._buffer[self._position] != "{":
            return None
        while True:
            try:
                return _DIGIT_SAFE.raw_decode(self._buffer, self._position)[1]
            except RecursionError:
                return None
            except JSONDecodeError as error:
                unterminated = error.msg.startswith("Unterminated")
                broken = not unterminated and error.pos < len(self._buffer) - _LONGEST_TOKEN
            size = len(self._buffer) - self._position
            # Twice as much each time: a long element is not parsed once for every block.
            if broken or size > self._longest or not self._read(2 * size):
                return None

    def _end_of_line(self) -> int:
        while (end := self._buffer.find("\n", self._position)) < 0:
            size = len(self._buffer) - self._position
            if size > self._longest or not self._read(2 * size):
                return len(self._buffer)
        return end

    def _taken(self, end: int) -> bytes:
        text = self._buffer[self._position : end]
        self._advance(end)
        return text.encode("utf-8", "surrogateescape").strip()  # JSON's white space, no other

    def _advance(self, position: int) -> None:
        self._line += self._buffer.count("\n", self._position, position)
        self._position = position

    def _read(self, size: int) -> bool:
        """Read until at least so many characters are left; return whether any came."""
        parts = [self._buffer[self._position :]]
        before = waiting = len(parts[0])
        for text in self._more:
            parts.append(text)
            waiting += len(text)
            if waiting >= size and waiting > before:
                break
        self._buffer, self._position = "".join(parts), 0
        return waiting > before
