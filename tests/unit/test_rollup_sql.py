"""What is said of a rollup in the database, and what is refused before there is SQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sqlalchemy import BigInteger, Column, DateTime, MetaData, Table, Text, Uuid

import citus_analytics
from citus_analytics.errors import DeclarationError
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN
from citus_analytics.rollups.declare import Rollup, count, maximum, minimum, total
from citus_analytics.rollups.sql import (
    LATEST_VERSION,
    RollupSpec,
    Shape,
    read_description,
    render,
)
from citus_analytics.rollups.sql.marker import describe
from citus_analytics.schema import Distributed, distribute

GITHUB = RollupSpec.of(GITHUB_ROLLUP_1MIN)

# What an identifier may be: anything but NUL, of as many bytes as leave room for derived names. The
# fragments are what text can be torn apart by.
FRAGMENTS = ['"', "'", "\\", "%", "%1$s", ":b", "{key}", "(", ")", "--", "/*", ";", "\n", " ", "$$"]
FRAGMENTS += ["$function$", "a", "B", "é", "select", "*", "\r", "\u2028", "$"]
CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
NAMES = (
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=6).map("".join)
    | st.text(CHARACTERS, min_size=1, max_size=46)
).filter(lambda name: len(name.encode()) <= 46)


def test_the_migration_has_the_rollup_as_it_is_declared() -> None:
    versions = Path(citus_analytics.__file__).parents[1] / "alembic" / "versions"
    found = spec_from_file_location("frozen", versions / "ca_0002_github_rollup_1min.py")
    assert found is not None
    assert found.loader is not None
    migration: Any = module_from_spec(found)
    found.loader.exec_module(migration)
    assert RollupSpec.of(GITHUB_ROLLUP_1MIN) == migration.ROLLUP


def test_a_declared_rollup_in_plain_names() -> None:
    metadata = MetaData(schema="shop")
    source = Table("views", metadata, Column("tenant", Uuid), Column("page", Text))
    source.append_column(Column("at", DateTime(timezone=True)))
    source.append_column(Column("ms", BigInteger))
    target = Table("hourly", metadata, Column("tenant", Uuid), Column("page", Text))
    target.append_column(Column("hour", DateTime(timezone=True)))
    for name in ("n", "s", "a", "b"):
        target.append_column(Column(name, BigInteger))
    for table in (source, target):
        distribute(table, Distributed(column="tenant"))
    rollup = Rollup(
        source=source,
        target=target,
        state=Table("state", metadata, Column("ran", DateTime(timezone=True))),
        function="roll_up",
        time_column="at",
        bucket=timedelta(hours=1),
        bucket_column="hour",
        dimensions=("tenant", "page"),
        measures=(count("n"), total("s", "ms"), minimum("a", "ms"), maximum("b", "ms")),
    )
    assert RollupSpec.of(rollup) == RollupSpec(
        function="roll_up",
        source="views",
        target="hourly",
        state="state",
        state_column="ran",
        key="tenant",
        key_type="UUID",
        time_column="at",
        bucket=timedelta(hours=1),
        bucket_column="hour",
        dimensions=("tenant", "page"),
        measures={"n": "count(*)", "s": "sum(ms)", "a": "min(ms)", "b": "max(ms)"},
        schema="shop",
    )


@settings(deadline=None)
@given(st.lists(NAMES, min_size=13, max_size=13, unique=True), st.integers(1, 10**12))
def test_a_description_says_it_all(names: list[str], microseconds: int) -> None:
    target, schema, function, source, state, minute, key, time, bucket, other, n, s, read = names
    spec = RollupSpec(
        function=function,
        source=source,
        target=target,
        state=state,
        state_column=minute,
        key=key,
        key_type="BIGINT",
        time_column=time,
        bucket=timedelta(microseconds=microseconds),
        bucket_column=bucket,
        dimensions=(key, other),
        measures={n: "count(*)", s: f"sum({read})"},
        schema=schema,
    )
    assert read_description(describe(spec, version=7), schema=spec.schema) == (spec, 7)


@pytest.mark.parametrize(
    "comment",
    [
        "",
        "mine",
        "Rollup of citus_analytics, version 1: {}",
        "Rollup of citus_analytics, version 1",
        "Rollup of citus_analytics, version x: {}",
        "Rollup of citus_analytics, version 1: nonsense",
    ],
)
def test_a_comment_that_describes_no_rollup(comment: str) -> None:
    assert read_description(comment, schema=None) is None


def test_what_a_database_lacks_is_named() -> None:
    shape = render(GITHUB).shape
    assert shape.faults(shape) == ()
    functions = {**shape.functions, "rollup_http_request": "BEGIN NULL; END"}
    del functions["github_rollup_1min_run"]
    triggers = shape.triggers - {("github_events", "github_rollup_1min_capture_update")}
    assert shape.faults(Shape(functions, triggers)) == (
        "function github_rollup_1min_run is missing",
        "function rollup_http_request has been changed",
        "trigger github_rollup_1min_capture_update on github_events is missing or disabled",
    )


@given(st.integers())
def test_an_unknown_version(version: int) -> None:
    assume(not 1 <= version <= LATEST_VERSION)
    message = (
        rf"^rollup function 'rollup_http_request' asks for version {version}; this release .* "
        r"renders version 1\. Install a release that knows it\.$"
    )
    with pytest.raises(DeclarationError, match=message):
        render(GITHUB, version=version)


@pytest.mark.parametrize(
    "measure",
    ["", "count", "count()", "count(size)", "avg(size)", "sum()", "sum(size", "COUNT(*)", "n"],
)
def test_a_measure_that_is_none(measure: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        replace(GITHUB, measures={"n": measure})
    assert str(caught.value) == (
        "a rollup's measure must be count(*), sum(column), min(column) or max(column), got "
        f"{measure!r}."
    )


def test_a_name_that_is_too_long_for_the_names_derived_from_it() -> None:
    assert render(replace(GITHUB, target="é" * 23)).create
    message = r"has a name of 47 bytes; .* PostgreSQL's 63 only up to 46\.$"
    with pytest.raises(DeclarationError, match=message):
        replace(GITHUB, target="é" * 23 + "e")
