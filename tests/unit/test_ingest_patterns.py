"""Ranges and folders: which files a name stands for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from citus_analytics.errors import ArgumentError
from citus_analytics.github.ingest.patterns import expand

if TYPE_CHECKING:
    from pathlib import Path


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
    assert expand(str(tmp_path)) == [
        str(tmp_path / name) for name in ("9.json", "10.json.gz", "2015-1.csv")
    ]


def test_a_folder_without_such_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="has no files"):
        expand(str(tmp_path))


def test_no_name_is_not_the_folder_one_is_in() -> None:
    with pytest.raises(ArgumentError, match="the name of a source is empty"):
        expand("")
