"""Sources on the web: connections that break, servers that refuse, and what is said of it."""

from __future__ import annotations

import gzip
import os

import pytest

from citus_analytics.errors import LoadError
from citus_analytics.ingest.sources import Tally, content_blocks, open_source
from citus_analytics.ingest.web import Address
from tests.web_server import Site, served

CONTENT = os.urandom(1_000_000)
QUICK = (0.01, 0.01, 0.01)


def read(site: Site) -> bytes:
    return b"".join(Address(f"{site.address}/hour", pauses=QUICK).blocks())


def test_an_address_is_read_and_its_size_known() -> None:
    with served(Site(gzip.compress(b"1,one\n"))) as site:
        source = open_source(f"{site.address}/rows.csv.gz?signature=.x")
        assert source.total_bytes == len(site.content)
        for _ in range(2):
            assert b"".join(content_blocks(source, Tally())) == b"1,one\n"


def test_a_server_that_does_not_answer_to_head_tells_no_size() -> None:
    with served(Site(CONTENT, head=False)) as site:
        assert open_source(site.address).total_bytes is None


def test_the_rest_is_asked_for_where_the_connection_breaks() -> None:
    with served(Site(CONTENT, breaks=[300_000, 1, 400_000], errors=[503])) as site:
        assert read(site) == CONTENT
        assert [asked for _, asked in site.requests] == [
            None,
            None,
            "bytes=300000-",
            "bytes=300001-",
            "bytes=700001-",
        ]


def test_progress_starts_the_pauses_anew() -> None:
    with served(Site(CONTENT, breaks=[50_000] * 10)) as site:
        assert read(site) == CONTENT


def test_a_server_without_ranges_is_refused_after_the_break() -> None:
    with (
        served(Site(CONTENT, breaks=[300_000], ranges=False)) as site,
        pytest.raises(LoadError, match=r"broke after 300,000 bytes, and the server does not give"),
    ):
        read(site)


def test_another_content_after_the_break_is_refused() -> None:
    with served(Site(CONTENT, breaks=[300_000])) as site:
        blocks = Address(site.address, pauses=QUICK).blocks()
        next(blocks)
        site.tag = '"two"'
        with pytest.raises(LoadError, match="another content by now"):
            list(blocks)


def test_what_stays_broken_is_reported() -> None:
    with (
        served(Site(CONTENT, errors=[503] * 10)) as site,
        pytest.raises(LoadError, match=r"hour cannot be read: .*503.*try again later"),
    ):
        read(site)
    with pytest.raises(LoadError, match=r"cannot be read: .*refused"):
        b"".join(Address("http://127.0.0.1:9/", pauses=(0.01,)).blocks())


def test_what_is_not_there_is_not_asked_for_twice() -> None:
    with served(Site(CONTENT, errors=[404])) as site:
        with pytest.raises(LoadError, match=r"answers 404 Not Found. There may be no such file"):
            read(site)
        assert len(site.requests) == 1


def test_nobody_there_is_known_before_anything_is_read() -> None:
    with pytest.raises(LoadError, match="cannot be read"):
        Address("http://127.0.0.1:9/", pauses=(0.01,)).size()
