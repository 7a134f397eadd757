"""Findings that are meant to be, in declarations and in migrations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import BigInteger, Column, Identity, Integer, MetaData, Table

from citus_analytics.errors import ArgumentError, DeclarationError
from citus_analytics.lint import ignore, lint_metadata, lint_migrations
from citus_analytics.schema import Distributed, distribute
from tests.lint_pages import write_migrations
from tests.lint_sources import CLICKS, DISTRIBUTED, codes, migration

if TYPE_CHECKING:
    from pathlib import Path


def table(*parts: Column[int]) -> Table:
    one = Table("t", MetaData(), Column("k", BigInteger), *parts)
    distribute(one, Distributed(column="k"))
    return one


def test_what_is_meant_to_be() -> None:
    one = table(Column("v", BigInteger, Identity()))
    ignore(one, "CA012", reason="the number of shards never changes")
    assert lint_metadata(one.metadata) == []
    assert one.info == {}


def test_an_ignore_in_vain_is_found() -> None:
    one = table()
    ignore(one, "CA012", reason="once upon a time")
    (finding,) = lint_metadata(one.metadata)
    assert (finding.code, finding.subject, finding.severity) == ("CA000", "t", "warning")
    assert lint_metadata(one.metadata, ignore=["CA000"]) == []


def test_an_ignore_of_another_version_is_not_in_vain() -> None:
    one = table(Column("v", Integer, Identity()))
    ignore(one, "CA020", reason="we know")
    for version in ((11, 3), (13, 2)):
        found = {finding.code for finding in lint_metadata(one.metadata, citus=version)}
        assert found == {"CA012", "CA013"}


def test_ignores_that_are_none() -> None:
    one = table()
    with pytest.raises(DeclarationError, match="'CA999', which is not a code"):
        ignore(one, "CA999", reason="x")
    with pytest.raises(DeclarationError, match="without a reason"):
        ignore(one, "CA012", reason=" ")
    with pytest.raises(ArgumentError, match="'CA999', which is not a code"):
        lint_metadata(one.metadata, ignore=["CA999"])


@pytest.mark.parametrize(
    ("comment", "found"),
    [
        ("# citus: ignore[CA001]", []),
        ("# citus: ignore[CA001, CA101]", ["CA000"]),
        ("# citus: ignore[CA002]", ["CA000", "CA001"]),
        ("# something else", ["CA001"]),
    ],
)
def test_comments_that_ignore(tmp_path: Path, comment: str, found: list[str]) -> None:
    one_line = f'{DISTRIBUTED}\nop.create_unique_constraint("u", "clicks", ["v"])  {comment}'
    assert sorted(codes(tmp_path / "one", one_line)) == found
    call = f'op.create_unique_constraint(\n    "u",\n    "clicks",  {comment}\n    ["v"],\n)'
    several = f"{DISTRIBUTED}\n{call}"
    assert sorted(codes(tmp_path / "several", several)) == found


@pytest.mark.parametrize(
    "comment", ["# citus: ignore[CA999]", "# citus: ignore", "# citus: ignore[]"]
)
def test_comments_that_ignore_no_code(tmp_path: Path, comment: str) -> None:
    folder = write_migrations(tmp_path, migration(f"{CLICKS}  {comment}"))
    with pytest.raises(ArgumentError, match=r"0001\.py:\d+ ignores '.*', which is not a code"):
        lint_migrations(folder)


def test_a_comment_in_a_string_is_none(tmp_path: Path) -> None:
    assert codes(tmp_path, f'{CLICKS}\nop.execute("SELECT 1 # citus: ignore[CA999]")') == []
