"""A rollup as SQL: the same text for ever, whatever the names are.

The golden files hold the text of each version. A version that was released never changes; for one
that was not, write them anew with

    UPDATE_GOLDEN_FILES=1 python -m pytest tests/unit/test_rollup_sql.py
"""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
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
from tests.unit.sql_tokens import difference, tokens

DIRECTIONS = ("create", "drop", "keep", "relog")
GOLDEN_FILES = Path(__file__).parent / "rollup_sql"

GITHUB = RollupSpec.of(GITHUB_ROLLUP_1MIN)
AWKWARD = RollupSpec(
    function="Roll 100% up",
    source="Page Views",
    target='views by "hour"',
    state="Last Run",
    state_column="At",
    key="Tenant:Id",
    key_type="UUID",
    time_column="key",
    bucket=timedelta(minutes=15, microseconds=1),
    bucket_column="Bucket",
    dimensions=("groups", "Tenant:Id", "it's", "back\\slash"),
    measures={
        "N": "count(*)",
        "Sum": "sum(Milli%seconds)",
        "least": "min((odd) name)",
        "most": "max(Milli%seconds)",
    },
    schema="Web Shop",
)

# What an identifier may be: anything but NUL. The fragments are what text can be torn apart by.
FRAGMENTS = ['"', "'", "\\", "%", "%1$s", "%%", ":b", "{key}", "(", ")", "--", "/*", ";", "\n", " "]
FRAGMENTS += [
    "$function$",
    "$log$",
    "$absorb$",
    "$pin$",
    "$keep$",
    "$citus$",
    "$$",
    "<source>",
    "<changes>",
]
FRAGMENTS += ["a", "B", "é", "select", "*", "\r", "\u2028", "$"]
CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])


def names(most_bytes: int) -> st.SearchStrategy[str]:
    fragments = st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=6).map("".join)
    anything = st.text(CHARACTERS, min_size=1, max_size=most_bytes)
    return (fragments | anything).filter(lambda name: len(name.encode()) <= most_bytes)


def golden(direction: str, spec: RollupSpec) -> str:
    return ";\n\n".join(getattr(render(spec, version=1), direction)) + ";\n"


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("name", "spec"), [("github", GITHUB), ("awkward", AWKWARD)])
def test_version_1_is_the_same_for_ever(name: str, spec: RollupSpec, direction: str) -> None:
    path = GOLDEN_FILES / "v1" / f"{name}_{direction}.sql"
    if os.environ.get("UPDATE_GOLDEN_FILES"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(golden(direction, spec))
        pytest.skip(f"{path.name} was written, not compared")
    assert golden(direction, spec) == path.read_text()


def test_every_version_has_its_golden_files() -> None:
    kept = {path.name for path in GOLDEN_FILES.iterdir()}
    assert kept == {f"v{version}" for version in range(1, LATEST_VERSION + 1)}


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


def spec_of(parts: list[str]) -> RollupSpec:
    """Return a rollup that has these names, in the order of `REFERENCE`."""
    target, schema, function, source, state, minute, key, time, bucket, other, n, s, read = parts
    return RollupSpec(
        function=function,
        source=source,
        target=target,
        state=state,
        state_column=minute,
        key=key,
        key_type="BIGINT",
        time_column=time,
        bucket=timedelta(minutes=1),
        bucket_column=bucket,
        dimensions=(key, other),
        measures={n: "count(*)", s: f"sum({read})"},
        schema=schema,
    )


REFERENCE = ["Target", "Schema", "Function", "Source", "State", "Minute", "Key", "Time", "Bucket"]
REFERENCE += ["Other", "Number", "Sum", "Read"]
SUFFIXES = ["changes", "outcome", "colocated", "capture", "absorb", "run"]
SUFFIXES += [f"capture_{event}" for event in ("insert", "update", "delete", "truncate")]


@settings(deadline=None)
@given(names(46), st.lists(names(63), min_size=12, max_size=12, unique=True))
@example("a$function$b", [f"{i}$log$$absorb$$pin$$citus$" for i in range(12)])
@example("<source>", [f"{i}<changes><outcome><target>" for i in range(12)])
def test_whatever_the_names_only_the_names_differ(target: str, others: list[str]) -> None:
    given_names = [target, *others]
    mapping = dict(zip(REFERENCE, given_names, strict=True))
    mapping |= {f"Target_{suffix}": f"{target}_{suffix}" for suffix in SUFFIXES}
    mapping[describe(spec_of(REFERENCE), version=1)] = describe(spec_of(given_names), version=1)
    for direction in DIRECTIONS:
        plain: tuple[str, ...] = getattr(render(spec_of(REFERENCE)), direction)
        rendered: tuple[str, ...] = getattr(render(spec_of(given_names)), direction)
        assert len(rendered) == len(plain)
        for statement, reference in zip(rendered, plain, strict=True):
            assert difference(tokens(statement), tokens(reference), mapping) is None


@settings(deadline=None)
@given(st.lists(names(46), min_size=13, max_size=13, unique=True), st.integers(1, 10**12))
def test_a_description_says_it_all(parts: list[str], microseconds: int) -> None:
    spec = replace(spec_of(parts), bucket=timedelta(microseconds=microseconds))
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
