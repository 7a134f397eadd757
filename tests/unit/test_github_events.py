"""Events of GitHub's as rows: what is stored, what is refused and why, and that all is counted."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from citus_analytics.errors import LoadError
from citus_analytics.github.convert import convert, convert_event, read_events
from citus_analytics.github.events import EventRow, OldFormatError, Reject, Text, first_bytes, texts
from tests.event_data import NOON, api_event, hour, line

if TYPE_CHECKING:
    from collections.abc import Iterable


def outcomes(content: bytes | Iterable[bytes]) -> list[EventRow | Reject]:
    blocks = [content] if isinstance(content, bytes) else content
    return [outcome for text in texts(blocks) for outcome in convert(text)]


def one(text: bytes) -> EventRow | Reject:
    (outcome,) = convert(Text(1, text))
    return outcome


def row(text: bytes) -> EventRow:
    outcome = one(text)
    assert isinstance(outcome, EventRow), outcome
    return outcome


def fields(text: bytes) -> list[bytes]:
    return row(text).copy.rstrip(b"\n").split(b"\t")


def reason(text: bytes) -> str:
    outcome = one(text)
    assert isinstance(outcome, Reject), outcome
    assert outcome.text == text
    return outcome.reason


def test_an_event_is_a_row() -> None:
    event = row(line(3).strip())
    assert (event.event_id, event.user_id, event.line) == (1_000_003, 4, 1)
    assert event.created_at == NOON.replace(second=3)
    assert event.user.login == "user-4"
    assert (event.user.display_login, event.user.gravatar_id) == (None, None)
    found = fields(line(3).strip())
    assert found[:4] == [b"1000003", b"PushEvent", b"t", b"3"]
    assert found[6:] == [b"4", b"\\N", b"2025-01-01T12:00:03+00:00"]


def test_json_stays_as_it_is_but_for_copys_escapes() -> None:
    payload = fields(line(3).strip())[4]
    assert json.loads(payload.replace(b"\\\\", b"\\")) == api_event(3)["payload"]


def test_org_and_display_login_come_along() -> None:
    event = api_event(1, org={"id": 9, "login": "them"})
    event["actor"]["display_login"] = "User One"
    text = json.dumps(event).encode()
    assert json.loads(fields(text)[7]) == {"id": 9, "login": "them"}
    assert row(text).user.display_login == "User One"


def test_what_may_be_missing_is_null() -> None:
    repos: tuple[dict[str, int] | None, ...] = (None, {})
    for repo in repos:
        assert fields(line(1, repo=repo).strip())[3] == b"\\N"
    bare = {"payload": None, "repo": None, "public": None}
    assert fields(line(1, **bare).strip())[2:6] == [b"\\N"] * 4
    assert fields(line(1).strip().replace(b'"public": true', b'"org": null'))[7] == b"\\N"


def test_white_space_between_tokens_does_not_end_a_row() -> None:
    text = json.dumps(api_event(1), indent="\t").encode()
    assert row(text).copy.count(b"\n") == 1
    assert row(text).copy.count(b"\t") == 8
    assert row(text).text == text


def test_times_are_in_utc_and_ids_may_be_numbers() -> None:
    event = row(line(1, id=7, created_at="2025-01-01T14:00:00.5+02:00").strip())
    assert event.created_at == NOON.replace(microsecond=500_000)
    assert event.event_id == 7


REFUSED: dict[str, tuple[bytes, str]] = {
    "empty actor": (line(1, actor={}), "no actor with an id"),
    "no actor": (line(1, actor=None), "no actor with an id"),
    "no id": (line(1, id=None), "missing required field `id`"),
    "no number": (line(1, id="12a"), "id is not a number: '12a'"),
    "too large": (line(1, id=str(1 << 63)), "id is out of range"),
    "actor too large": (line(1, actor={"id": 1 << 63}), "actor.id is out of range"),
    "repo's id is text": (line(1, repo={"id": "x"}), "repo: Expected `int | null`, got `str`"),
    "repo is a list": (line(1, repo=[1]), "repo: Expected `object | null`, got `array`"),
    "no type": (line(1, type=None), "missing required field `type`"),
    "an empty type": (line(1, type=""), "the event has no type"),
    "a blank type": (line(1, type=" "), "the event has no type"),
    "several lines": (b"{", "jq -c"),
    "a leap second": (line(1, created_at="2016-12-31T23:59:60Z"), "Invalid RFC3339"),
    "no such day": (line(1, created_at="2025-02-30T00:00:00Z"), "Invalid RFC3339"),
    "no time": (line(1, created_at="noon"), "Invalid RFC3339 encoded datetime"),
    "no time zone": (line(1, created_at="2025-01-01T12:00:00"), "created_at has no time zone"),
    "before the calendar": (line(1, created_at="0001-01-01T00:00:00+14:00"), "in UTC"),
    "after the calendar": (line(1, created_at="9999-12-31T23:59:59-01:00"), "in UTC"),
    "zero byte": (line(1).replace(b"tab", b"t\0b"), "zero byte"),
    "only zero bytes": (b"\0" * 100, "zero byte"),
    "escaped zero": (line(1, payload="a\0b"), r"has a \u0000"),
    "escaped zero, later": (line(1, payload="\\\0"), r"has a \u0000"),
    "no UTF-8": (line(1).replace(b"tab", b"t\xffb"), "is not UTF-8"),
    "encoded surrogate": (line(1).replace(b"tab", b"\xed\xa0\x80"), "is not UTF-8"),
    "lone surrogate": (line(1, payload="\ud800"), "JSON is malformed"),
    "lone low surrogate": (line(1, payload="\udc00"), "JSON is malformed"),
    "a control character": (line(1).replace(b"\\t", b"\t"), "JSON is malformed"),
    "cut short": (line(1)[:100], "truncated"),
    "no JSON": (b"<html>502 Bad Gateway</html>", "JSON is malformed"),
    "a number": (b"1", "Expected `object`, got `int`"),
    "nested too deeply": (
        line(1).replace(b'"size": 2', b'"size": ' + b"[" * 10**5 + b"]" * 10**5),
        "nested too deeply",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_stored_is_refused_with_the_reason(kind: str) -> None:
    text, words = REFUSED[kind]
    assert words in reason(text.strip())


def test_an_escaped_backslash_before_u0000_is_stored() -> None:
    assert b"\\\\\\\\u0000" in fields(line(1, payload="\\u0000").strip())[4]


@pytest.mark.parametrize(
    "changes",
    [
        {"actor": "octocat", "repository": {"id": 1}},
        {"id": None, "actor": "octocat", "actor_attributes": {"login": "octocat"}},
        {"id": None, "repository": {"name": "x"}},
    ],
)
def test_formats_before_2015_say_so(changes: dict[str, Any]) -> None:
    with pytest.raises(OldFormatError, match="before 2015"):
        one(line(1, **changes).strip())
    with pytest.raises(OldFormatError, match="2015-01-01-0"):
        convert_event(api_event(1, **changes))


def test_two_events_on_a_line_are_two_events() -> None:
    content = line(1).strip() + line(2).strip() + b" " + line(3)
    found = outcomes(content + line(4))
    assert [outcome.line for outcome in found] == [1, 1, 1, 2]
    assert [row.event_id for row in found if isinstance(row, EventRow)] == [
        1_000_001,
        1_000_002,
        1_000_003,
        1_000_004,
    ]


def test_an_event_that_is_followed_by_a_part_of_one() -> None:
    good, bad = outcomes(line(1).strip() + line(2)[:50])
    assert isinstance(good, EventRow)
    assert isinstance(bad, Reject)
    assert bad.text == line(2)[:50]


@pytest.mark.parametrize("after", ["", "several", "in an array"])
@given(cut=st.integers(1, 360))
def test_a_complete_event_after_a_part_of_one_is_kept(after: str, cut: int) -> None:
    event = api_event(1, org={"id": 9}, payload={"commits": [{"id": 1}, {"a": "}{"}], "b": {}})
    part = json.dumps(event).encode()[:cut].rstrip()
    whole = line(2).strip()
    if after == "in an array":
        found = outcomes(b"[" + part + whole + b",\n" + line(3) + b"]")
    else:
        found = outcomes(
            part + whole + (whole + b" " + part) * (after == "several") + b"\n" + line(3)
        )
    kinds = [EventRow, EventRow] if after != "several" else [EventRow, EventRow, Reject, EventRow]
    assert [type(outcome) for outcome in found] == [Reject, *kinds]
    assert found[0].text == part
    assert {found[1].text, found[1].line} == {whole, 1}
    assert found[-1].line == 2


@given(cut=st.integers(1, 470))
def test_what_a_part_of_an_event_holds_is_not_an_event(cut: int) -> None:
    inner = api_event(2)
    part = json.dumps(api_event(1, payload={"events": [inner, inner]})).encode()
    part = part[: max(1, min(len(part) - 1, 3 * cut))]
    # One that ends with the line is as one that was glued to it.
    part += b"," * part.endswith(json.dumps(inner).encode())
    (reject,) = outcomes(part)
    assert isinstance(reject, Reject)


def test_a_line_without_an_end_is_not_searched_for_ever() -> None:
    for start in (b'{"a":', b'{"', b'{"a":["', b'{ "a": 1, '):
        text = start * 200_000
        assert isinstance(one(text), Reject)


class Odd(dict[str, Any]):
    """What an application may pass, and nobody expects."""

    def items(self) -> Any:
        """Fail."""
        raise ZeroDivisionError

    __iter__ = items


def test_whatever_fails_rejects_one_event() -> None:
    class Unknown:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    for event in (Odd(id=1), {"id": Unknown()}, {1: 2, (1, 2): 3}, "text", None):
        assert isinstance(convert_event(event), Reject)  # type: ignore[arg-type]


def test_an_event_over_several_lines_is_refused_with_a_hint() -> None:
    pretty = b"".join(json.dumps(api_event(n), indent=2).encode() + b"\n" for n in range(3))
    with pytest.raises(LoadError, match=r"some, line 1: an event of several lines.*`jq -c \.`"):
        list(read_events([pretty], "some"))
    *_, last = read_events([line(1) + b"{\n" + line(2)], "some")
    assert isinstance(last, EventRow)
    with pytest.raises(LoadError, match="cut short"):
        list(read_events([line(1) + b"{"], "some"))


@pytest.mark.parametrize("size", [1, 7, 100, 10**6])
@pytest.mark.parametrize("shape", ["lines", "array", "pretty array", "arrays"])
def test_every_shape_in_blocks_of_any_size(shape: str, size: int) -> None:
    events = [api_event(number) for number in range(30)]
    content = {
        "lines": b"\xef\xbb\xbf\n" + hour(30).replace(b"\n", b"\r\n\n"),
        "array": json.dumps(events).encode(),
        "pretty array": json.dumps(events, indent=2, ensure_ascii=False).encode(),
        "arrays": b"\n".join(json.dumps(events[i : i + 10]).encode() for i in (0, 10, 20)),
    }[shape]
    found = outcomes(content[i : i + size] for i in range(0, len(content), size))
    assert [row.event_id for row in found if isinstance(row, EventRow)] == [
        int(event["id"]) for event in events
    ]
    assert len(found) == 30
    assert found[-1].line == {"lines": 60, "array": 1, "arrays": 3}.get(shape, found[-1].line)


def test_an_array_loses_no_more_than_the_line_that_is_broken() -> None:
    lines = [line(number).strip() for number in range(5)]
    lines[2] = lines[2][:70]
    found = outcomes(b"[" + b",\n".join(lines) + b"]\n")
    assert [type(outcome) for outcome in found] == [EventRow, EventRow, Reject, EventRow, EventRow]
    assert found[2].line == 3


def test_a_line_that_is_too_long_is_not_kept() -> None:
    content = line(1) + b'{"id": "' + b"7" * 5000 + b'"}\n' + line(2)
    blocks = [content[i : i + 100] for i in range(0, len(content), 100)]
    found = list(texts(blocks, longest=1000))
    assert [(text.line, text.too_long) for text in found] == [(1, False), (2, True), (3, False)]
    assert len(found[1].text) <= 1024
    (reject,) = convert(found[1])
    assert isinstance(reject, Reject)
    assert "longer than can be stored" in reject.reason


def test_an_event_as_an_object() -> None:
    event = convert_event(api_event(3))
    assert isinstance(event, EventRow)
    assert (event.event_id, event.user_id, event.line) == (1_000_003, 4, 0)
    assert json.loads(event.text) == api_event(3)
    refused = convert_event(api_event(1, actor={}), line=4)
    assert isinstance(refused, Reject)
    assert refused.line == 4
    no_json = convert_event({"id": object()})
    assert isinstance(no_json, Reject)
    assert "cannot be written as JSON" in no_json.reason


def broken(lines: list[bytes], where: int, what: bytes, kind: str) -> bytes:
    """Return lines of which bytes were overwritten, put in or taken out."""
    content = b"".join(lines)
    where = min(where, len(content))
    end = where + len(what) if kind != "insert" else where
    return content[:where] + (b"" if kind == "delete" else what) + content[end:]


@given(
    count=st.integers(0, 6),
    where=st.integers(0, 3000),
    what=st.binary(max_size=40) | st.sampled_from([b"\n", b'"', b"}{", b"\\u0000", b"\0", b"\\"]),
    kind=st.sampled_from(["insert", "overwrite", "delete"]),
    size=st.integers(1, 500),
)
# White space to Unicode, and none to JSON: it is part of what is rejected.
@example(count=1, where=0, what=b"\x1c", kind="insert", size=100)
@example(count=2, where=300, what=b"\x1f{", kind="insert", size=100)
@example(count=1, where=5000, what=b"\xc2\xa0", kind="insert", size=100)
def test_every_line_of_a_damaged_file_is_loaded_or_rejected(
    count: int, where: int, what: bytes, kind: str, size: int
) -> None:
    content = broken([line(number) for number in range(count)], where, what, kind)
    found = outcomes(content[i : i + size] for i in range(0, len(content), size))
    if content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        return
    of_line = {outcome.line for outcome in found}
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    assert of_line == {number for number, text in enumerate(lines, 1) if text.strip()}
    # What is not damaged is loaded, and nothing is lost on the way.
    intact = {line(number).strip() for number in range(count)} & {text.strip() for text in lines}
    assert intact <= {outcome.text for outcome in found if isinstance(outcome, EventRow)}
    texts_found = b"".join(outcome.text for outcome in found)
    assert b"".join(texts_found.split()) == b"".join(b"".join(lines).split())


@given(cut=st.integers(0, 2500), shape=st.sampled_from(["lines", "array"]))
def test_a_file_that_ends_anywhere_keeps_what_is_complete(cut: int, shape: str) -> None:
    events = [api_event(number) for number in range(5)]
    whole = hour(5) if shape == "lines" else json.dumps(events).encode()
    found = outcomes(whole[:cut])
    complete = sum(
        cut >= whole.index(b'"%d"' % (1_000_000 + number)) + len(line(number).strip()) - 7
        for number in range(5)
    )
    assert sum(isinstance(outcome, EventRow) for outcome in found) == complete
    rejects = sum(isinstance(outcome, Reject) for outcome in found)
    if shape != "array":
        assert rejects <= 1
        return
    # Of an array the event that is cut, and the end that is missing, are told: whoever loads the
    # complete file later must have been told of this one.
    assert rejects <= 2
    assert (rejects > 0) == (0 < cut < len(whole))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_does_not_have_are_not_stored_as_null(number: float) -> None:
    outcome = convert_event(api_event(1, payload={"a": [{"b": number}]}))
    assert isinstance(outcome, Reject)
    assert "cannot be written as JSON" in outcome.reason
    assert isinstance(convert_event(api_event(1, payload={"a": None})), EventRow)


@pytest.mark.parametrize("size", [1, 100, 10**6])
@pytest.mark.parametrize("end", [b"", b",", b"\r\n", b",\n  ", b"\n]\n["])
def test_an_array_that_is_cut_after_an_element_is_noticed(end: bytes, size: int) -> None:
    content = b"[" + line(1) + b"," + line(2).strip() + end
    *rows, last = outcomes(content[i : i + size] for i in range(0, len(content), size))
    assert [type(row) for row in rows] == [EventRow, EventRow]
    assert isinstance(last, Reject)
    assert "the array of events has no end" in last.reason
    assert (last.line, last.text) == (2 + end.count(b"\n"), b"")


@pytest.mark.parametrize("content", [b"[", b" [\n", b"[]["])
def test_an_empty_array_without_an_end_is_noticed(content: bytes) -> None:
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
