"""Contents that end too early: that it is told, and what is loaded of them."""

from __future__ import annotations

import gzip
import io
import json
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from citus_analytics.copy.source import BLOCK_SIZE
from citus_analytics.errors import LoadError
from citus_analytics.github.load import LoadOptions, load_events, load_once
from citus_analytics.github.models import github_events
from tests.database.load_data import GOOD, LONG, count
from tests.event_data import api_event, hour
from tests.servers import ON_CITUS_ONLY

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from citus_analytics.github.events import Reject


ARRAY = json.dumps([api_event(number) for number in range(3)], indent=1).encode()
CUT = {
    "an array after an element": ARRAY.rstrip(b"]\n"),
    "an array after a comma": ARRAY[: ARRAY.rindex(b",\n {")] + b",\n",
    "an array within an element": ARRAY[:-9],
    "the last line": hour(3)[:-9],
    "the only line": hour(1)[:-9],
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", CUT)
def test_events_that_are_cut_short(connection: Connection, kind: str, strict: bool) -> None:
    # Being strict, the first line of an element that has no end is enough.
    told = "cut short, it ends within|truncated" if strict else "cut short, it ends within"
    with pytest.raises(LoadError, match=told) as caught:
        load_once(
            connection, github_events, io.BytesIO(CUT[kind]), options=LoadOptions(strict=strict)
        )
    assert caught.value.line
    assert count(connection) == 0
    whole = ARRAY if "array" in kind else hour(3)
    assert load_once(connection, github_events, io.BytesIO(whole)).rows == 3


def test_a_line_that_was_cut_short_in_a_source_that_goes_on(connection: Connection) -> None:
    rejects: list[Reject] = []
    content = hour(3)[:-9] + b"\n"
    options = LoadOptions(rejects=rejects.append)
    assert load_once(connection, github_events, io.BytesIO(content), options=options).rows == 2
    assert [reject.line for reject in rejects] == [3]


ROWS = GOOD * 3
# What ends the data for servers before PostgreSQL 18, and on which line.
END_MARKS = {
    "between rows": (ROWS + b"\\.\n" + ROWS, 4),
    "with carriage returns": ((ROWS + b"\\.\n" + ROWS).replace(b"\n", b"\r\n"), 4),
    "with nothing but carriage returns": ((ROWS + b"\\.\n" + ROWS).replace(b"\n", b"\r"), 1),
    "at the start": (b"\\.\n" + ROWS, 1),
    "at the end": (ROWS + b"\\.\n", 4),
    "at the very end": (ROWS + b"\\.", 4),
    "alone": (b"\\.", 1),
    "after quotes": (LONG + b"\\.\n" + LONG, 3),
}


@ON_CITUS_ONLY
@pytest.mark.parametrize("compressed", [False, True])
def test_a_line_that_older_servers_take_for_the_end_is_refused(
    connection: Connection, compressed: bool, subtests: pytest.Subtests
) -> None:
    version = connection.dialect.server_version_info
    assert version is not None
    if int(version[0]) >= 18:
        pytest.skip("this server reads on")
    for kind, (content, line) in END_MARKS.items():
        with subtests.test(kind):
            source = gzip.compress(content) if compressed else content
            with pytest.raises(LoadError, match=rf"line {line}: there is nothing but") as caught:
                load_events(connection, io.BytesIO(source))
            assert caught.value.line == line
            assert count(connection) == 0


def test_what_only_looks_like_the_end_is_loaded(connection: Connection) -> None:
    bare = GOOD.replace(b"PushEvent", b"\\.")
    quoted = GOOD.replace(b"PushEvent", b'"\n\\.\n\\.\n"')
    assert load_events(connection, [quoted + bare + GOOD]).rows == 3
    types = select(github_events.c.event_type)
    assert sorted(connection.execute(types).scalars()) == ["\n\\.\n\\.\n", "PushEvent", "\\."]


@ON_CITUS_ONLY
def test_a_line_for_the_end_is_seen_across_blocks(connection: Connection) -> None:
    mark = b"\\.\r\n"
    for split in range(len(mark) + 1):
        # The first block is as large as what is sent at once.
        first = (GOOD * (BLOCK_SIZE // len(GOOD) + 1)).replace(b"\n", b"\r\n")
        blocks = [first + mark[:split], mark[split:] + first]
        with pytest.raises(LoadError, match="there is nothing but") as caught:
            load_events(connection, blocks)
        assert caught.value.line == first.count(b"\n") + 1
        quoted = [first + b'7,"\r\n' + mark[:split], mark[split:] + b'",t,2,,,5,,2025-01-01\r\n']
        assert load_events(connection, quoted).rows == first.count(b"\n") + 1
