"""Sources without a database: what is read of them, what is known of them, what is refused."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from citus_analytics.copy import Block, Source, expand
from citus_analytics.copy.errors import Place, place_in_context
from citus_analytics.copy.source import BLOCK_SIZE, Tally, open_source
from citus_analytics.errors import ArgumentError, LoadError
from citus_analytics.github.load import ENDINGS, LoadOptions, load_events, recognise
from citus_analytics.github.models import github_events

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CSV = b"1,one\n2,two\n"
LONG = b"1,0123456789abcdef\n" * (BLOCK_SIZE // 5)


def read(source: Source) -> bytes:
    return b"".join(open_source(source).content())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "some rows.csv"
    path.write_bytes(CSV)
    return path


def test_a_path_is_read_and_its_size_known(path: Path) -> None:
    for source in (path, str(path)):
        assert read(source) == CSV
        assert open_source(source).total_bytes == len(CSV)
        assert open_source(source).name == str(path)


@pytest.mark.parametrize("address", ["ftp://host/a.csv", "s3://bucket/a", "FILE:///a.csv"])
def test_addresses_with_other_schemes_are_refused(address: str) -> None:
    with pytest.raises(ArgumentError, match=r"an address of (ftp|s3|FILE), and only those of http"):
        open_source(address)


@pytest.mark.parametrize("start", [b"<!doctype html>", b"\n <html>"])
def test_an_error_page_is_not_data(start: bytes) -> None:
    with pytest.raises(LoadError, match="the iterable begins with '<'"):
        recognise(open_source([start]), github_events, LoadOptions())
    assert recognise(open_source([start]), github_events, LoadOptions(format="csv"))[0] == "csv"


def test_an_open_file_is_read_from_where_it_stands_and_stays_open(path: Path) -> None:
    with path.open("rb") as file:
        file.readline()
        source = open_source(file)
        assert source.total_bytes == len(b"2,two\n")
        for _ in range(2):
            assert b"".join(source.content()) == b"2,two\n"
        assert not file.closed


def test_the_size_of_a_file_in_memory_is_known() -> None:
    assert open_source(io.BytesIO(CSV)).total_bytes == len(CSV)


def test_the_size_of_a_file_that_decompresses_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(gzip.compress(LONG))
    with gzip.open(path) as file:
        source = open_source(file)
        assert source.total_bytes is None
        assert b"".join(source.content()) == LONG


def test_a_pipe_is_read_once_and_has_no_size() -> None:
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(LONG)

    writer = threading.Thread(target=write)
    writer.start()
    with os.fdopen(reading, "rb") as file:
        source = open_source(file)
        assert (source.total_bytes, source.repeatable) == (None, False)
        assert b"".join(source.content()) == LONG
    writer.join()


def test_blocks_of_any_kind_of_bytes_are_gathered() -> None:
    blocks: list[Block] = [b"1", bytearray(b","), memoryview(b"one\n")] * BLOCK_SIZE
    gathered = list(open_source(iter(blocks)).content())
    assert b"".join(gathered) == b"1,one\n" * BLOCK_SIZE
    assert len(gathered) <= 13


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 10**7])
def test_gzip_is_known_by_its_first_bytes(size: int) -> None:
    packed = gzip.compress(LONG)
    assert read(packed[i : i + size] for i in range(0, len(packed), size)) == LONG


def test_gzip_of_several_members_and_padding_is_one_file() -> None:
    assert read(
        [gzip.compress(b"1,"), gzip.compress(b""), gzip.compress(b"one\n"), b"\0" * 512]
    ) == (b"1,one\n")


def test_gzip_is_unpacked_block_by_block() -> None:
    bomb = gzip.compress(b"\n" * 50_000_000)
    assert len(bomb) < 100_000
    assert max(map(len, open_source([bomb]).content())) <= BLOCK_SIZE


def test_the_tally_has_stored_bytes(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(LONG))
    tally = Tally()
    for _ in open_source(path).content(tally):
        pass
    assert tally == Tally(bytes=path.stat().st_size)


@pytest.mark.parametrize("missing", [1, 4, 8, 9, 100])
def test_gzip_that_is_cut_short_is_refused(tmp_path: Path, missing: int) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(os.urandom(5000))[:-missing])
    with pytest.raises(LoadError, match=r"rows\.csv\.gz is cut short") as caught:
        read(path)
    assert (caught.value.line, caught.value.column) == (None, None)


@given(st.binary(max_size=300), st.data())
def test_gzip_cut_anywhere_is_never_taken_for_complete(content: bytes, data: Any) -> None:
    packed = gzip.compress(content)
    end = data.draw(st.integers(2, len(packed) - 1))
    with pytest.raises(LoadError, match="cut short"):
        read([packed[:end]])


def test_damaged_gzip_is_refused() -> None:
    packed = bytearray(gzip.compress(CSV))
    packed[-6] ^= 1
    with pytest.raises(LoadError, match="is a damaged gzip file"):
        read([bytes(packed)])
    with pytest.raises(LoadError, match="is a damaged gzip file"):
        read([gzip.compress(CSV), b"and more"])


@pytest.mark.parametrize("content", [b"", CSV])
def test_a_file_named_gz_must_be_gzip(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=r"rows\.csv\.gz is not a gzip file: it begins with b'"):
        read(path)


def test_white_space_is_not_read_for_ever_to_recognise_a_source() -> None:
    taken = itertools.count()
    endless = (b" " * BLOCK_SIZE for _ in taken)
    kind, source = recognise(open_source(endless), github_events, LoadOptions())
    assert kind == "csv"
    assert next(taken) <= 5
    # What has been read of it comes again.
    assert len(b"".join(itertools.islice(source.blocks(), 10))) == 10 * BLOCK_SIZE
    assert next(taken) == 11


def test_a_missing_file_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"none\.csv cannot be read: No such file") as caught:
        open_source(tmp_path / "none.csv")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert caught.value.line is None


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="cannot be read: Is a directory"):
        read(tmp_path)


def test_a_file_in_text_mode_is_refused(path: Path) -> None:
    with path.open() as file, pytest.raises(ArgumentError, match="is open in text mode"):
        open_source(file)  # type: ignore[arg-type]


def test_a_wrapped_file_in_text_mode_is_refused() -> None:
    with tempfile.NamedTemporaryFile("w+") as file:
        file.write("1,one\n")
        file.seek(0)
        with pytest.raises(ArgumentError, match="must give bytes, but gave str"):
            read(file)


@pytest.mark.parametrize("source", [["1,one\n"], [1], [None]], ids=repr)
def test_an_iterable_of_anything_but_bytes_is_refused(source: Any) -> None:
    with pytest.raises(ArgumentError, match="the iterable must give bytes, but gave "):
        read(source)


@pytest.mark.parametrize("source", [CSV, bytearray(CSV)], ids=["bytes", "bytearray"])
def test_bytes_themselves_are_refused(source: Any) -> None:
    with pytest.raises(ArgumentError, match=r"wrap it in io\.BytesIO"):
        open_source(source)


def test_what_is_not_a_source_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"a source is a path, an http\(s\) address, '-'"):
        open_source(7)  # type: ignore[arg-type]


def test_what_an_iterable_raises_comes_through() -> None:
    def blocks() -> Iterator[bytes]:
        yield CSV
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read(blocks())


def test_a_file_is_closed_when_reading_stops_early(path: Path, recwarn: Any) -> None:
    blocks = open_source(path).content()
    next(blocks)
    blocks.close()
    assert not recwarn.list


def test_what_is_not_a_connection_is_refused() -> None:
    with pytest.raises(ArgumentError, match="through a Connection or a Session of SQLAlchemy"):
        load_events("postgresql://", [CSV])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("context", "line", "column"),
    [
        ('COPY github_events, line 3, column repo_id: "x"', 3, "repo_id"),
        ("COPY github_events, line 3, column org: null input", 3, "org"),
        ('COPY github_events, line 12: "1,a column repo_id: 2"', 12, None),
        ("COPY github_events, Zeile 3, Spalte repo_id: »x«", 3, "repo_id"),
        ("COPY github_events, ligne 3, colonne repo : « x »", 3, "repo"),
        ('JSON data, line 1: {x\nCOPY github_events, line 3, column payload: "{x"', 3, "payload"),
        ('COPY github_events_102008, line 3, column repo_id: "x"', None, None),
        ("JSON data, line 1: {bad", None, None),
        ("", None, None),
        (None, None, None),
    ],
)
def test_the_place_is_read_in_any_language_and_of_no_shard(
    context: str | None, line: int | None, column: str | None
) -> None:
    assert place_in_context(context, github_events) == Place(line, column)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("a.csv", ["a.csv"]),
        ("-", ["-"]),
        ("2015-01-01-{9..11}.json.gz", [f"2015-01-01-{n}.json.gz" for n in (9, 10, 11)]),
        ("{2..0}", ["2", "1", "0"]),
        ("{08..10}", ["08", "09", "10"]),
        ("{1..2}-{0..1}", ["1-0", "1-1", "2-0", "2-1"]),
        ("https://host/{0..1}.json", ["https://host/0.json", "https://host/1.json"]),
        ("{a..b}{1}{1..}", ["{a..b}{1}{1..}"]),
    ],
)
def test_ranges(source: str, names: list[str]) -> None:
    assert expand(source) == names


def test_a_range_of_too_many_is_refused() -> None:
    for source in ("{0..100000}", "{0..999}{0..999}"):
        with pytest.raises(ArgumentError, match="more than 100,000 files"):
            expand(source)


def test_a_folder_is_the_files_in_it_by_the_numbers_in_their_names(tmp_path: Path) -> None:
    for name in ("10.json.gz", "9.json", "notes.txt", "2015-1.csv", ".hidden.json"):
        (tmp_path / name).touch()
    for source in (tmp_path, str(tmp_path)):
        assert expand(source) == [str(tmp_path / "2015-1.csv")]
        assert expand(source, ENDINGS) == [
            str(tmp_path / name) for name in ("9.json", "10.json.gz", "2015-1.csv")
        ]


def test_a_folder_without_such_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="has no files"):
        expand(str(tmp_path))


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(ArgumentError, match="the name of a source is empty"):
        expand("")
