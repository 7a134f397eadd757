"""Tables that change under their rollups, by hand or by autogenerate: noticed, and mended."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Integer,
    MetaData,
    NullPool,
    Numeric,
    Table,
    Text,
    create_engine,
    text,
)

from citus_analytics import Distributed, Rollup, count, maximum, rollups_of, run_rollup, total
from citus_analytics.errors import OperationError
from citus_analytics.rollups.run import backfill, expire, rollup_status, verify
from tests.autogenerate import Application, differences
from tests.servers import ON_POSTGRESQL_ONLY, execute

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import URL

    from tests.servers import DatabaseServer


@dataclass(frozen=True)
class Names:
    """What the source, its columns and a rollup are called, and their types."""

    source: str = "clicks"
    time: str = "at"
    page: str = "page"
    rollup: str = "clicked"
    schema: str | None = None
    seconds: Any = Integer
    score: Any = Numeric

    def declare(self) -> MetaData:
        """Return a metadata of the source and two rollups."""
        metadata = MetaData(schema=self.schema)
        source = Table(
            self.source,
            metadata,
            Column("user_id", BigInteger),
            Column(self.page, Text),
            Column("seconds", self.seconds),
            Column("score", self.score),
            Column(self.time, DateTime(timezone=True)),
            Distributed("user_id"),
        )
        Rollup(
            self.rollup,
            source,
            time=self.time,
            every="1 hour",
            by=["user_id", self.page, "score"],
            measures={
                "clicks": count(),
                "seconds": total("seconds"),
                "longest": maximum("seconds"),
            },
        )
        Rollup(
            "by_page",
            source,
            time=self.time,
            every="1 day",
            by=[self.page],
            measures={"clicks": count(), "seconds": total("seconds")},
        )
        return metadata

    @property
    def qualified(self) -> str:
        """The source, with its schema."""
        return self.source if self.schema is None else f"{self.schema}.{self.source}"

    def raw(self, rollup: str) -> str:
        """Return the query that computes a rollup from the rows."""
        if rollup == self.rollup:
            group = f"user_id, {self.page}, score, date_trunc('hour', {self.time}, 'UTC')"
            measures = "count(*), sum(seconds), max(seconds)"
        else:
            group = f"{self.page}, date_trunc('day', {self.time}, 'UTC')"
            measures = "count(*), sum(seconds)"
        return (
            f"SELECT {group}, {measures} FROM {self.qualified} WHERE {self.time} IS NOT NULL "
            f"GROUP BY {group}"
        )

    def stored(self, rollup: str) -> str:
        """Return the query for its groups."""
        if rollup == self.rollup:
            return f"SELECT user_id, {self.page}, score, bucket, clicks, seconds, longest FROM "
        return f"SELECT {self.page}, bucket, clicks, seconds FROM "


NAMES = Names()


def insert(names: Names = NAMES, rows: int = 60) -> str:
    return f"""
    INSERT INTO {names.qualified} (user_id, {names.page}, seconds, score, {names.time})
    SELECT i % 3, CASE WHEN i % 5 > 0 THEN 'page ' || i % 5 END, i, i % 4 / 10.0,
           timestamptz '2026-03-01 12:00Z' + i * interval '47 minutes'
    FROM generate_series(1, {rows}) AS i""".replace("%", "%%")


def change(names: Names = NAMES) -> tuple[str, ...]:
    return (
        f"DELETE FROM {names.qualified} WHERE seconds IN (3, 8, 60)",
        f"UPDATE {names.qualified} SET {names.page} = 'page 9' WHERE seconds = 5",
        insert(names, 10),
    )


@pytest.fixture
def application(server: DatabaseServer, home: Path, tmp_path: Path) -> Iterator[Application]:
    """An application whose rollups have been added up, but for some changes."""
    begun = home / f"drift on {server.kind}"

    def begin(url: URL) -> None:
        application = Application(url, begun)
        application.revise(NAMES.declare())
        application.upgrade()
        execute(url, insert())
        run_all(url, NAMES)
        execute(url, *change())

    server.templates["drift"] = begin
    with server.database("drift") as url:
        application = Application(url, tmp_path / "migrations")
        shutil.copytree(begun / "versions", application.folder / "versions", dirs_exist_ok=True)
        yield application


def run_all(url: URL, names: Names) -> None:
    metadata = names.declare()
    with create_engine(url, poolclass=NullPool).begin() as connection:
        run_rollup(connection, rollups_of(metadata)[0])


def completed(url: URL, names: Names) -> dict[str, bool]:
    """Return which tables are complete."""
    with create_engine(url, poolclass=NullPool).begin() as connection:
        return {
            status.table: status.complete
            for rollup in rollups_of(names.declare())
            for status in rollup_status(connection, rollup)
        }


def assert_right(url: URL, names: Names, *, raw: bool = True) -> None:
    """Fail unless nothing is left to do, and the groups are those of the raw rows."""
    metadata = names.declare()
    assert differences(url, metadata) == []
    engine = create_engine(url, poolclass=NullPool)
    for rollup in rollups_of(metadata):
        for _ in backfill(engine, rollup):
            pass
        with engine.begin() as connection:
            run_rollup(connection, rollup)
            assert [each for each in verify(connection, rollup) if each.groups] == []
    assert set(completed(url, names).values()) == {True}
    with engine.connect() as connection:
        for name in (names.rollup, "by_page") if raw else ():
            wanted = connection.exec_driver_sql(names.raw(name)).all()
            assert wanted
            for table in (name, f"{name}_fresh"):
                stored = table if names.schema is None else f"{names.schema}.{table}"
                found = connection.exec_driver_sql(names.stored(name) + stored).all()
                assert Counter(map(tuple, found)) == Counter(map(tuple, wanted)), table


def by_hand(url: URL, *statements: str) -> None:
    """Do what somebody has done by hand."""
    with create_engine(url, poolclass=NullPool).begin() as connection:
        connection.execute(text("SET LOCAL citus.enable_unsafe_triggers = on"))
        connection.execute(text("SET LOCAL citus.multi_shard_modify_mode = 'sequential'"))
        for statement in statements:
            connection.execute(text(statement))


def rename_page(table: str) -> str:
    return f"ALTER TABLE {table} RENAME COLUMN page TO path"


# What is done by hand, what is declared from then on, and what a check says about it.
BY_HAND: dict[str, tuple[tuple[str, ...], Names, str]] = {
    "source": (
        ("ALTER TABLE clicks RENAME TO happenings",),
        Names(source="happenings"),
        "table clicks has been renamed to happenings",
    ),
    "time": (
        ("ALTER TABLE clicks RENAME COLUMN at TO moment",),
        Names(time="moment"),
        'table "clicks" has no column at',
    ),
    "dimension": (
        tuple(rename_page(table) for table in ("clicks", "clicked", "by_page")),
        Names(page="path"),
        'table "clicks" has no column page',
    ),
    "target": (
        ("ALTER TABLE clicked RENAME TO hourly", "ALTER INDEX clicked_key RENAME TO hourly_key"),
        Names(rollup="hourly"),
        'there is no table "clicked"',
    ),
    "everything": (
        (
            *(rename_page(table) for table in ("clicks", "clicked", "by_page")),
            "ALTER TABLE clicks RENAME COLUMN at TO moment",
            "ALTER TABLE clicks RENAME TO happenings",
            "ALTER TABLE clicked RENAME TO hourly",
            "ALTER INDEX clicked_key RENAME TO hourly_key",
        ),
        Names(source="happenings", page="path", time="moment", rollup="hourly"),
        "table clicks has been renamed to happenings",
    ),
    "schema": (
        (
            "CREATE SCHEMA shop",
            *(f"ALTER TABLE {table} SET SCHEMA shop" for table in ("clicks", "clicked", "by_page")),
        ),
        Names(schema="shop"),
        "table clicks has been renamed to clicks in schema shop",
    ),
    "values": (
        (
            "DROP VIEW clicked_fresh",
            "ALTER TABLE clicks ALTER COLUMN seconds TYPE bigint USING seconds * 2",
        ),
        Names(seconds=BigInteger),
        "column seconds of",
    ),
    "groups": (
        ("DROP VIEW clicked_fresh", "ALTER TABLE clicks ALTER COLUMN score TYPE integer"),
        Names(score=Integer),
        "column score of",
    ),
    "sum": (
        ("ALTER TABLE clicked DROP COLUMN _seconds_sum CASCADE",),
        NAMES,
        'rollup table "clicked" has no column _seconds_sum',
    ),
    "extreme": (
        ("ALTER TABLE clicked DROP COLUMN longest CASCADE",),
        NAMES,
        'rollup table "clicked" has no column longest',
    ),
    "group": (
        ("ALTER TABLE clicked DROP COLUMN page CASCADE",),
        NAMES,
        'rollup table "clicked" has no column page',
    ),
    "rollup table": (
        ("DROP TABLE clicked CASCADE",),
        NAMES,
        'there is no table "clicked"',
    ),
    "measured column": (
        ("ALTER TABLE clicks DROP COLUMN seconds CASCADE",),
        NAMES,
        'table "clicks" has no column seconds',
    ),
    "unlogged": (("ALTER TABLE clicked SET UNLOGGED",), NAMES, "not an unlogged one"),
}
MENDED = [each for each in BY_HAND if each != "unlogged"]


@ON_POSTGRESQL_ONLY
@pytest.mark.parametrize("what", BY_HAND)
def test_a_check_names_it(what: str, application: Application) -> None:
    statements, _, message = BY_HAND[what]
    by_hand(application.url, *statements)
    found = [str(each) for each in differences(application.url, NAMES.declare())]
    assert any(message in each for each in found), found


@pytest.mark.parametrize("what", MENDED)
def test_a_revision_mends_it(what: str, application: Application) -> None:
    statements, names, _ = BY_HAND[what]
    by_hand(application.url, *statements)
    application.revise(names.declare())
    application.upgrade()
    assert differences(application.url, names.declare()) == []
    if what == "measured column":
        execute(application.url, "UPDATE clicks SET seconds = user_id")
    else:
        execute(application.url, *change(names))
    assert_right(application.url, names)


def test_what_cannot_be_mended_says_what_to_do(application: Application) -> None:
    by_hand(application.url, "ALTER TABLE clicked SET UNLOGGED")
    application.revise(NAMES.declare())
    with pytest.raises(OperationError, match="must be an ordinary, logged table"):
        application.upgrade()


BY_AUTOGENERATE = {
    "wider": (Names(seconds=BigInteger), {"by_page": True, "clicked": True}),
    "narrower groups": (Names(score=Integer), {"by_page": False, "clicked": False}),
    "values": (Names(seconds=Numeric(4, 1)), {"by_page": False, "clicked": False}),
}


@pytest.mark.parametrize("what", BY_AUTOGENERATE)
def test_another_type(what: str, application: Application) -> None:
    names, complete = BY_AUTOGENERATE[what]
    application.revise(names.declare())
    application.upgrade()
    assert differences(application.url, names.declare()) == []
    if what == "wider":
        # A sum of wider values is a wider sum.
        assert completed(application.url, names).keys() == complete.keys()
    else:
        assert completed(application.url, names) == complete
    execute(application.url, *change(names))
    assert_right(application.url, names)
    application.downgrade()
    execute(application.url, *change())
    assert_right(application.url, NAMES)


@ON_POSTGRESQL_ONLY
def test_a_column_that_no_rollup_uses_changes_without_them(application: Application) -> None:
    metadata = NAMES.declare()
    metadata.tables["clicks"].append_column(Column("note", Integer))
    application.revise(metadata)
    application.upgrade()
    other = NAMES.declare()
    other.tables["clicks"].append_column(Column("note", Text))
    assert "rollups" not in application.revise(other)


@pytest.mark.parametrize("what", ["source", "target", "dimension", "schema", "everything"])
def test_what_has_been_expired_outlives_a_new_name(what: str, application: Application) -> None:
    engine = create_engine(application.url, poolclass=NullPool)
    run_all(application.url, NAMES)
    assert expire(engine, rollups_of(NAMES.declare())[0], datetime(2026, 3, 2, tzinfo=UTC)) > 0
    statements, names, _ = BY_HAND[what]
    stored = "SELECT sum(clicks), sum(seconds) FROM "
    with engine.connect() as connection:
        before = connection.execute(text(stored + NAMES.rollup)).one()
    by_hand(application.url, *statements)
    application.revise(names.declare())
    application.upgrade()
    assert_right(application.url, names, raw=False)
    with engine.connect() as connection:
        table = ".".join(filter(None, (names.schema, names.rollup)))
        after = connection.execute(text(stored + table)).one()
    assert after == before


def test_groups_of_expired_rows_are_not_cleared(application: Application) -> None:
    run_all(application.url, NAMES)
    engine = create_engine(application.url, poolclass=NullPool)
    expire(engine, rollups_of(NAMES.declare())[0], datetime(2026, 3, 2, tzinfo=UTC))
    application.revise(replace(NAMES, score=Integer).declare())
    with pytest.raises(OperationError, match="aggregates would be lost"):
        application.upgrade()
