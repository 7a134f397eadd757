"""Sources on the web: connections that break, servers that refuse, and what is said of it."""

from __future__ import annotations

import gzip
import os
from base64 import b64encode
from typing import Literal
from urllib.parse import unquote

import pytest

from citus_analytics.copy.source import open_source, peek
from citus_analytics.copy.web import Address
from citus_analytics.errors import LoadError
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
            assert b"".join(source.content()) == b"1,one\n"


def test_without_an_answer_to_head_the_size_is_unknown() -> None:
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


def test_another_content_of_another_size_is_refused_whatever_the_server_minds() -> None:
    for tag in ('"two"', ""):
        with served(Site(CONTENT, breaks=[300_000], honours_tags=False)) as site:
            blocks = Address(site.address, pauses=QUICK).blocks()
            next(blocks)
            site.content, site.tag = CONTENT + b"more", tag
            with pytest.raises(LoadError, match=r"the server has another content by now"):
                list(blocks)


def test_another_content_of_the_same_size_is_known_by_its_tag() -> None:
    with served(Site(CONTENT, breaks=[300_000], honours_tags=False)) as site:
        blocks = Address(site.address, pauses=QUICK).blocks()
        next(blocks)
        site.tag = '"two"'
        with pytest.raises(LoadError, match=r"the server has another content by now"):
            list(blocks)


@pytest.mark.parametrize("tag", ["", 'W/"one"'])
def test_without_a_version_the_rest_is_not_asked_for(tag: str) -> None:
    with served(Site(CONTENT, breaks=[300_000], tag=tag)) as site:
        with pytest.raises(LoadError, match=r"broke after 300,000 bytes.*Last-Modified.*try again"):
            read(site)
        assert len(site.requests) == 1


def test_without_a_version_what_broke_before_its_first_byte_starts_anew() -> None:
    with served(Site(CONTENT, breaks=[0, 0], tag="")) as site:
        assert read(site) == CONTENT
        assert site.requests == [("GET", None)] * 3


def test_the_time_of_the_last_change_is_a_version() -> None:
    modified = "Wed, 01 Jan 2025 00:00:00 GMT"
    with served(Site(CONTENT, breaks=[300_000, 7], tag='W/"one"', modified=modified)) as site:
        assert read(site) == CONTENT
        assert len(site.requests) == 3


@pytest.mark.parametrize(
    "ranged", ["bytes 0-999999/1000000", "bytes 300001-999999/1000000", "bytes", "bytes */1000000"]
)
def test_another_part_than_the_rest_is_refused(ranged: str) -> None:
    with (
        served(Site(CONTENT, breaks=[300_000], ranged=ranged)) as site,
        pytest.raises(LoadError, match="does not give the rest alone"),
    ):
        read(site)


def test_an_unknown_size_is_not_another_size() -> None:
    with served(Site(CONTENT, breaks=[300_000], ranged="bytes 300000-999999/*")) as site:
        assert read(site) == CONTENT


@pytest.mark.parametrize("tag", ['"one"', ""])
def test_an_answer_without_a_length_that_is_cut_is_not_taken_for_complete(tag: str) -> None:
    with served(Site(CONTENT, breaks=[300_000], tag=tag, form="connection")) as site:
        source = open_source(site.address)
        if tag:
            assert b"".join(source.content()) == CONTENT
        else:
            with pytest.raises(LoadError, match="broke after 300,000 bytes"):
                list(source.content())


@pytest.mark.parametrize("head", [True, False])
def test_an_answer_in_chunks_ends_where_it_says(head: bool) -> None:
    with served(Site(CONTENT, breaks=[300_000], form="chunks", head=head)) as site:
        source = open_source(site.address)
        assert b"".join(source.content()) == CONTENT


def test_a_break_after_the_last_byte_of_chunks_leaves_nothing_to_ask_for() -> None:
    # As many as are read at once: the break shows only after they have been given out.
    content = CONTENT[: 1 << 18]
    with served(Site(content, breaks=[1 << 18], form="chunks")) as site:
        assert read(site) == content
        assert [asked for _, asked in site.requests] == [None, "bytes=262144-"]


@pytest.mark.parametrize(
    ("ranged", "words"),
    [("bytes */5", "says that it has 5 bytes in all"), ("none", "says that it has no rest")],
)
def test_a_break_after_the_last_byte_of_another_content_is_refused(ranged: str, words: str) -> None:
    content = CONTENT[: 1 << 18]
    with (
        served(Site(content, breaks=[1 << 18], form="chunks", ranged=ranged)) as site,
        pytest.raises(LoadError, match=rf"broke after 262,144 bytes, and .*{words}.*try again"),
    ):
        read(site)


@pytest.mark.parametrize(
    "address",
    ["http://host:port/path", "http://host:port/", "http:///path", "http://h/\udcff.json"],
)
def test_malformed_addresses_are_refused_at_once(address: str) -> None:
    with pytest.raises(
        LoadError, match=r"is not an address that can be read: .*Nothing of it was loaded"
    ):
        open_source(address)
    with pytest.raises(LoadError, match="is not an address that can be read"):
        list(Address(address).blocks())


def test_an_address_is_quoted_where_it_has_to_be() -> None:
    with served(Site(CONTENT)) as site:
        for path in ("\u00fc a.json?at=\u00e9", "%C3%BC%20a.json?at=%C3%A9"):
            assert b"".join(Address(f"{site.address}/{path}").blocks()) == CONTENT
        assert site.paths == ["/%C3%BC%20a.json?at=%C3%A9"] * 2


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


def test_a_server_that_is_down_is_reported_before_anything_is_read() -> None:
    with pytest.raises(LoadError, match="cannot be read"):
        Address("http://127.0.0.1:9/", pauses=(0.01,)).size()


@pytest.mark.parametrize("form", ["length", "chunks", "connection"])
def test_an_empty_answer_is_not_an_empty_file(
    form: Literal["length", "chunks", "connection"],
) -> None:
    with (
        served(Site(b"", form=form)) as site,
        pytest.raises(LoadError, match=r"the server answers 200 OK, with nothing in it"),
    ):
        read(site)


@pytest.mark.parametrize("password", ["secret", "p@ss:w%C3%B6rd", "%40", ""])
def test_a_user_and_a_password_are_sent_and_not_shown(password: str) -> None:
    with served(Site(CONTENT)) as site:
        address = site.address.replace("//", f"//me%20:{password}@") + "/hour"
        source = open_source(address)
        assert source.name == f"{site.address}/hour"
        assert b"".join(source.content()) == CONTENT
        expected = b64encode(f"me :{unquote(password)}".encode()).decode()
        assert site.authorizations == [f"Basic {expected}"] * 2
        site.errors = [404]
        with pytest.raises(LoadError) as caught:
            list(source.content())
        assert "me%20" not in str(caught.value)


def test_a_source_is_asked_for_once_to_be_recognised_and_read() -> None:
    with served(Site(CONTENT)) as site:
        start, source = peek(open_source(site.address), lambda blocks: next(blocks)[:9])
        assert start == CONTENT[:9]
        assert b"".join(source.content()) == CONTENT
        assert [method for method, _ in site.requests] == ["HEAD", "GET"]
        # It can be read again all the same.
        assert b"".join(source.content()) == CONTENT
