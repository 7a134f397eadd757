"""GitHub's events in JSON as rows of `github_events` and records of their users.

An event is decoded once. Its `payload`, `repo` and `org` stay the bytes that they are: the server
parses them for jsonb anyway, and nothing is gained by writing them anew. What msgspec accepts and
jsonb does not is looked for here: bytes that are not UTF-8, and escaped zero characters. Rarer
things, such as numbers with thousands of digits, are left to the server to refuse.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from citus_analytics.errors import LoadError
from citus_analytics.github.events import (
    EventRow,
    OldFormatError,
    Reject,
    Text,
    UserRecord,
    objects_of,
    texts,
)
from citus_analytics.sql import copy_field

try:
    import msgspec
except ImportError as error:
    raise LoadError(
        "events in JSON are read with msgspec, which is not installed: install the extra github, "
        "as in pip install 'citus_analytics[github]'."
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_NOTHING: Final = msgspec.Raw(b"null")
# What msgspec says of JSON that ends too early.
_TRUNCATED: Final = "Input data was truncated"
_NO_END: Final = "the array of events has no end, a `]`: what follows is missing"
_SEVERAL_LINES: Final = (
    "an event of several lines: each has to be on a line of its own, as `jq -c .` writes them, or "
    "in an array"
)
_UNFINISHED: Final = frozenset({_TRUNCATED, _NO_END, _SEVERAL_LINES})
_NULL: Final = b"\\N"
_LARGEST: Final = (1 << 63) - 1
# An escaped zero character, unless it is an escaped backslash that is followed by "u0000".
_ESCAPED_ZERO: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_NOT_SPACE: Final = re.compile(r"\S", re.ASCII)
# What may follow an event on a line that holds several: the end of the line, or the next one.
_END_OF_EVENT: Final = re.compile(r"\s*(?:\{|\Z)", re.ASCII)
_END_OF_ELEMENT: Final = re.compile(r"\s*(?:\{|[\],\s]*\Z)", re.ASCII)
# JSON allows line ends and tabs between its tokens, but not in strings: as spaces, they need no
# escape in COPY's text.
_WHITE_SPACE: Final = bytes.maketrans(b"\t\n\r", b"   ")


class _Actor(msgspec.Struct, gc=False):
    id: int | None = None
    url: str | None = None
    login: str | None = None
    avatar_url: str | None = None
    gravatar_id: str | None = None
    display_login: str | None = None


class _Repo(msgspec.Struct, gc=False):
    id: int | None = None


class _Event(msgspec.Struct, gc=False):
    id: str | int
    type: str
    created_at: datetime
    actor: _Actor | None = None
    repo: msgspec.Raw = _NOTHING
    payload: msgspec.Raw = _NOTHING
    org: msgspec.Raw = _NOTHING
    public: bool | None = None


class _OldEvent(msgspec.Struct, gc=False):
    actor: msgspec.Raw = _NOTHING
    repository: msgspec.Raw = _NOTHING


_EVENT: Final = msgspec.json.Decoder(_Event)
_REPO: Final = msgspec.json.Decoder(_Repo | None)
_OLD_EVENT: Final = msgspec.json.Decoder(_OldEvent)


class _UnusableError(Exception):
    """The event cannot be stored; the message is the reason."""


def read_events(
    blocks: Iterable[bytes], name: str, *, first_line: int = 1
) -> Iterator[EventRow | Reject]:
    """Yield what becomes of the events of a source.

    Args:
        blocks: The source, uncompressed, in blocks of any size.
        name: What to call it in messages.
        first_line: The number of its first line.

    Raises:
        LoadError: The source ends within an event, or its first events are in the format from
            before 2015.
    """
    ending = b""

    def noted() -> Iterator[bytes]:
        nonlocal ending
        for block in blocks:
            ending = block[-1:] or ending
            yield block

    known = False
    unfinished: Reject | None = None
    for text in texts(noted(), first_line=first_line):
        try:
            for outcome in convert(text):
                if unfinished is not None:
                    yield unfinished
                    unfinished = None
                if isinstance(outcome, EventRow):
                    known = True
                elif outcome.reason is _SEVERAL_LINES and first_line == 1 and not known:
                    raise LoadError(
                        f"{name}, line {outcome.line}: {outcome.reason}. Nothing of it was loaded.",
                        line=outcome.line,
                    )
                elif outcome.reason in _UNFINISHED:
                    unfinished = outcome
                    continue
                yield outcome
        except OldFormatError as error:
            if not known:
                # It is not an odd event among others.
                raise LoadError(f"{name}, line {text.line}: {error}", line=text.line) from error
            if unfinished is not None:
                yield unfinished
                unfinished = None
            yield Reject(text.line, str(error), text.text)
    if unfinished is None:
        return
    if unfinished.text and ending == b"\n":
        # A line that was cut short, in a source that is complete.
        yield unfinished
        return
    # The same source, once it is complete, has another fingerprint: its events would come in twice.
    raise LoadError(
        f"{name}, line {unfinished.line}: the source is cut short, it ends within an event or an "
        "array of events. Nothing of it was loaded. Get all of it and load it again; or, if there "
        "is no more of it, take the unfinished end away.",
        line=unfinished.line,
    )


def convert(text: Text) -> Iterable[EventRow | Reject]:
    """Return what becomes of the text of an event, or of several that are on one line.

    Raises:
        OldFormatError: The event is in the format from before 2015.
    """
    if text.no_end:
        return (Reject(text.line, _NO_END, text.text),)
    if text.too_long:
        reason = f"the event is longer than can be stored ({text.text[:40]!r}...)"
        return (Reject(text.line, reason, text.text),)
    if text.text == b"{" and not text.in_array:
        return (Reject(text.line, _SEVERAL_LINES, text.text),)
    outcome = _outcome(text.text, text.line)
    return (outcome,) if isinstance(outcome, EventRow) else _several(text, outcome)


def convert_event(event: Mapping[str, object], *, line: int = 0) -> EventRow | Reject:
    """Return what becomes of an event that is a Python object, as from `json.loads`.

    Args:
        event: The event, as the events API describes it.
        line: What to call it in messages, if it has a number.

    Raises:
        OldFormatError: The event is in the format from before 2015.
    """
    try:
        text = msgspec.json.encode(event)
        # It writes numbers that JSON does not have as null.
        if b"null" in text:
            json.dumps(event, allow_nan=False, default=str)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - an object may raise anything
        try:
            shown = repr(event).encode(errors="backslashreplace")
        except Exception:  # noqa: BLE001 - the same
            shown = object.__repr__(event).encode()
        return Reject(line, f"the event cannot be written as JSON: {error}", shown)
    return _outcome(text, line)


def _several(text: Text, reject: Reject) -> Iterator[EventRow | Reject]:
    """Yield what becomes of a line that is not one event: several, some of them perhaps cut.

    Of several complete objects that follow each other, each is an event or a reject of its own. An
    object after a part of an event may be within it; it is an event if it can be one, and what
    follows is the end of the line or a further object.
    """
    line = text.text.decode("utf-8", "surrogateescape")
    ends = _END_OF_ELEMENT if text.in_array else _END_OF_EVENT
    kept = 0
    for start, end in objects_of(line):
        before = _NOT_SPACE.search(line, kept, start) is not None
        if before and not ends.match(line, end):
            continue
        one = line[start:end].encode("utf-8", "surrogateescape")
        try:
            outcome = _outcome(one, text.line)
        except OldFormatError:
            if before:
                continue
            raise
        if before:
            if isinstance(outcome, Reject):
                continue
            part = line[kept:start].encode("utf-8", "surrogateescape").strip()
            yield _outcome(part, text.line)
        elif start == 0 and not _NOT_SPACE.search(line, end):
            break
        yield outcome
        kept = end
    if kept == 0:
        yield reject
    else:
        rest = line[kept:].encode("utf-8", "surrogateescape")
        if rest := rest.strip(b"],\r\n\t " if text.in_array else None):
            yield _outcome(rest, text.line)


def _outcome(text: bytes, line: int) -> EventRow | Reject:
    """Return the row of an event; whatever goes wrong with it rejects it, and no other event.

    Raises:
        OldFormatError: The event is in the format from before 2015.
    """
    try:
        return _row(text, line)
    except (OldFormatError, MemoryError):
        raise
    except _UnusableError as unusable:
        return Reject(line, str(unusable), text)
    except Exception as error:  # noqa: BLE001 - one event must not end the load
        return Reject(line, f"the event cannot be read: {type(error).__name__}: {error}", text)


def _row(text: bytes, line: int) -> EventRow:
    event = _decoded(text)
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError as error:
            raise _UnusableError(
                f"the event is not UTF-8: {error.reason} at byte {error.start}"
            ) from error
    if b"\\u0000" in text and _ESCAPED_ZERO.search(text):
        raise _UnusableError(r"the event has a \u0000, which PostgreSQL's jsonb does not store")
    if not event.type.strip():
        raise _UnusableError("the event has no type: it is empty")
    event_id = _number(event.id, "id")
    actor = event.actor
    if actor is None or actor.id is None:
        raise _UnusableError("the event has no actor with an id, which decides where it is stored")
    user_id = _number(actor.id, "actor.id")
    if event.created_at.tzinfo is None:
        raise _UnusableError("created_at has no time zone")
    try:
        created_at = event.created_at.astimezone(UTC)
    except OverflowError as error:
        raise _UnusableError(
            f"created_at is beyond the calendar in UTC: {event.created_at.isoformat()}"
        ) from error
    try:
        repo = _REPO.decode(event.repo)
    except msgspec.ValidationError as error:
        raise _UnusableError(f"repo: {error}") from error
    copy = b"%d\t%b\t%b\t%b\t%b\t%b\t%d\t%b\t%b\n" % (
        event_id,
        copy_field(event.type),
        _NULL if event.public is None else b"t" if event.public else b"f",
        _NULL if repo is None or repo.id is None else b"%d" % _number(repo.id, "repo.id"),
        _json(event.payload),
        _json(event.repo),
        user_id,
        _json(event.org),
        created_at.isoformat().encode(),
    )
    # What is empty is left out.
    user = UserRecord(
        actor.url or None,
        actor.login or None,
        actor.avatar_url or None,
        actor.gravatar_id or None,
        actor.display_login or None,
    )
    return EventRow(event_id, user_id, created_at, copy, user, line, text)


def _decoded(text: bytes) -> _Event:
    try:
        return _EVENT.decode(text)
    except RecursionError as error:
        raise _UnusableError("the event is nested too deeply") from error
    except msgspec.ValidationError as error:
        with suppress(msgspec.DecodeError, RecursionError):
            old = _OLD_EVENT.decode(text)
            if bytes(old.repository) != b"null" or bytes(old.actor).startswith(b'"'):
                raise OldFormatError(
                    "this is an event in GH Archive's format from before 2015 (it has a "
                    "repository, or an actor that is a text), which has neither an id of the event "
                    "nor one of the actor. Load the hours from 2015-01-01-0 on."
                ) from error
        raise _UnusableError(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if b"\0" in text:
            raise _UnusableError("the event has a zero byte") from error
        raise _UnusableError(str(error)) from error


def _number(value: str | int, name: str) -> int:
    if isinstance(value, str):
        if not (value.isascii() and value.isdecimal() and len(value) < 20):
            raise _UnusableError(f"{name} is not a number: {value[:40]!r}")
        value = int(value)
    if not -_LARGEST <= value <= _LARGEST:
        raise _UnusableError(f"{name} is out of range: {value}")
    return value


def _json(value: msgspec.Raw) -> bytes:
    """Return JSON as a field of COPY's text format."""
    text = bytes(value)
    if text == b"null":
        return _NULL
    if b"\t" in text or b"\n" in text or b"\r" in text:
        text = text.translate(_WHITE_SPACE)
    return text.replace(b"\\", b"\\\\")
