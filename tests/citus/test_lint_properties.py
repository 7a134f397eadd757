"""The rules about tables are complete: Citus takes what has no error, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Identity,
    Integer,
    MetaData,
    NullPool,
    Sequence,
    Table,
    UniqueConstraint,
    create_engine,
    text,
)
from sqlalchemy.exc import DBAPIError

from citus_analytics.lint import lint_metadata
from citus_analytics.schema import Distributed, Local, Reference, distribute
from tests.lint_server import create_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

    from citus_analytics.schema import Distribution
    from tests.servers import DatabaseServer

NAMES = ("a", "b", "c")
COLUMNS = ("k", "v", "w")
ACTIONS = (None, "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT", "SET NULL (v)")


@pytest.fixture(scope="module")
def engine(citus: DatabaseServer) -> Iterator[Engine]:
    with citus.database("empty") as url:
        yield create_engine(url, poolclass=NullPool)


@st.composite
def columns(draw: st.DrawFn, name: str) -> Column[int]:
    """A column of one of two types, which may be numbered: by a sequence, or as an identity."""
    type_ = draw(st.sampled_from((BigInteger, BigInteger, Integer)))
    numbered = (
        draw(st.sampled_from((None, None, None, "sequence", "identity"))) if name != "k" else None
    )
    if numbered == "identity":
        return Column(name, type_, Identity())
    default = text("nextval('numbers')") if numbered else None
    return Column(name, type_, server_default=default)


@st.composite
def distributions(draw: st.DrawFn, earlier: tuple[str, ...]) -> Distribution:
    kind = draw(st.sampled_from(("distributed", "distributed", "reference", "local")))
    if kind == "local":
        return Local()
    if kind == "reference":
        return Reference()
    column = draw(st.sampled_from(("k", "k", "v", None)))
    partner = draw(st.sampled_from((None, *earlier, "none")))
    # The server's own default is another number.
    counts = (None, None, 3) if partner is None and column is not None else (None,)
    count = draw(st.sampled_from(counts))
    return Distributed(column=column, colocate_with=partner, shard_count=count)


def add_foreign_key(draw: st.DrawFn, metadata: MetaData) -> None:
    """Add a foreign key that PostgreSQL takes."""
    source = metadata.tables[draw(st.sampled_from(sorted(metadata.tables)))]
    target = metadata.tables[draw(st.sampled_from(sorted(metadata.tables)))]
    keys = [one for one in target.constraints if isinstance(one, UniqueConstraint)]
    if not keys:
        return
    key = draw(st.sampled_from(sorted(keys, key=lambda key: str(key.name))))
    referred = [column.name for column in key.columns]
    own = draw(st.permutations(COLUMNS))[: len(referred)]
    deleted = draw(st.sampled_from([a for a in ACTIONS if a != "SET NULL (v)" or "v" in own]))
    updated = draw(st.sampled_from((None, None, *ACTIONS[:-1])))
    source.append_constraint(
        ForeignKeyConstraint(
            own,
            [f"{target.name}.{column}" for column in referred],
            name=f"fk_{len(source.foreign_key_constraints)}",
            ondelete=deleted,
            onupdate=updated,
        )
    )


@st.composite
def schemas(draw: st.DrawFn) -> MetaData:
    metadata = MetaData()
    Sequence("numbers", metadata=metadata)
    keys = st.sampled_from((("k",), ("v",), ("k", "v"), ("v", "k"), ("v", "w")))
    names = NAMES[: draw(st.integers(1, 3))]
    for name in names:
        unique = draw(st.lists(keys, max_size=2, unique_by=frozenset))
        parts = [draw(columns(column)) for column in COLUMNS]
        table = Table(
            name,
            metadata,
            *parts,
            *(UniqueConstraint(*key, name=f"{name}_{'_'.join(key)}") for key in unique),
        )
        distribute(table, draw(distributions(names[: names.index(name)])))
    for _ in range(draw(st.integers(0, 3))):
        add_foreign_key(draw, metadata)
    return metadata


def refusal(metadata: MetaData, engine: Engine) -> str | None:
    """Return what the server says when it refuses; None if it does not."""
    with engine.connect() as connection:
        try:
            create_on(metadata, connection)
        except DBAPIError as error:
            return str(error.orig)
    return None


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(schemas())
def test_what_has_no_error_is_taken(engine: Engine, metadata: MetaData) -> None:
    errors = [str(one) for one in lint_metadata(metadata) if one.severity == "error"]
    refused = refusal(metadata, engine)
    event("refused" if refused else "taken")
    assert bool(errors) == (refused is not None), (errors, refused)
