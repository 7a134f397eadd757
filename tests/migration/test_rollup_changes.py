"""Rollups in autogenerate: they come, change and go, there and back, and the numbers are right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Double,
    Integer,
    MetaData,
    NullPool,
    Table,
    Text,
    create_engine,
)

from citus_analytics import (
    Distributed,
    Rollup,
    average,
    count,
    maximum,
    rollups_of,
    run_rollup,
    stddev,
    total,
)
from citus_analytics.rollups.run import backfill, rollup_status, verify
from tests.autogenerate import Application, differences
from tests.servers import ON_CITUS_ONLY, ON_POSTGRESQL_ONLY, execute, query_text

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL


MEASURES = {
    "clicks": count(),
    "seconds": total("seconds"),
    "average": average("seconds"),
    "deviation": stddev("ratio"),
    "longest": maximum("seconds"),
}
# The measures over the raw rows.
SQL = {
    "clicks": "count(*)",
    "seconds": "sum(seconds)",
    "average": "round(avg(seconds), 9)",
    "deviation": "round(stddev_samp(ratio::numeric), 9)",
    "longest": "max(seconds)",
}
BUCKETS = {
    "1 hour": "date_bin('1 hour', at, '1970-01-01 00:00Z')",
    "1 day": "date_bin('1 day', at, '1970-01-01 00:00Z')",
    "1 month at Europe/Berlin": "date_trunc('month', at, 'Europe/Berlin')",
}


@dataclass(frozen=True)
class Shape:
    """What a rollup of the clicks looks like.

    Attributes:
        name: The name of its table.
        by: Its dimensions.
        measures: Its measures, by name.
        every: The widths of its buckets; none for totals.
        filtered: Whether only some of the clicks count.
        undated: Whether clicks without a time count.
    """

    name: str = "clicked"
    by: tuple[str, ...] = ("user_id",)
    measures: tuple[str, ...] = ("clicks",)
    every: tuple[str, ...] = ("1 hour",)
    filtered: bool = False
    undated: bool = False

    def declare(self, source: Table) -> None:
        """Declare the rollup on a table."""
        Rollup(
            self.name,
            source,
            time="at" if self.every else None,
            every=self.every or None,
            by=self.by,
            measures={name: MEASURES[name] for name in self.measures},
            where=source.c.seconds > 20 if self.filtered else None,
            undated=self.undated,
        )


def declared(*shapes: Shape, key: str | None = "user_id") -> MetaData:
    metadata = MetaData()
    source = Table(
        "clicks",
        metadata,
        Column("user_id", BigInteger),
        Column("page", Text),
        Column("country", Text),
        Column("seconds", Integer),
        Column("ratio", Double),
        Column("at", DateTime(timezone=True)),
        Distributed(key),
    )
    for shape in shapes:
        shape.declare(source)
    return metadata


INSERT = """
INSERT INTO clicks
SELECT i % 3, 'page ' || i % 2, CASE i % 5 WHEN 0 THEN NULL ELSE 'country ' || i % 5 END,
       CASE i % 7 WHEN 0 THEN NULL ELSE i END, i / 7.0,
       CASE WHEN i % 11 > 0 THEN timestamptz '2026-03-28 12:00Z' + i * interval '43 minutes' END
FROM generate_series(1, 120) AS i"""
CHANGE = (
    "DELETE FROM clicks WHERE seconds % 4 = 0",
    "UPDATE clicks SET page = 'page 7', seconds = seconds + 1 WHERE seconds % 4 = 1",
    INSERT.replace("120", "20"),
)


def sql(statement: str) -> str:
    return statement.replace("%", "%%")


@pytest.fixture
def application(empty_database: URL, tmp_path: Path) -> Application:
    return Application(empty_database, tmp_path / "migrations")


def check(application: Application, *shapes: Shape) -> None:
    """Fail unless the database has these rollups, and they are those of the raw rows."""
    metadata = declared(*shapes)
    assert differences(application.url, metadata) == []
    engine = create_engine(application.url, poolclass=NullPool)
    for rollup in rollups_of(metadata):
        for _ in backfill(engine, rollup):
            pass
        with engine.begin() as connection:
            run_rollup(connection, rollup)
            assert [each for each in verify(connection, rollup) if each.groups] == []
            assert all(status.complete for status in rollup_status(connection, rollup))
    for shape in shapes:
        for every in shape.every or (None,):
            suffix = "" if len(shape.every) < 2 else "_" + re_name(every)
            compare(engine.url, f"{shape.name}{suffix}", shape, every)


def re_name(every: str | None) -> str:
    return str(every).lower().replace(" ", "_").replace("/", "_")


def compare(url: URL, table: str, shape: Shape, every: str | None) -> None:
    by = [*shape.by, *([BUCKETS[every]] if every else [])]
    where = "seconds > 20" if shape.filtered else "true"
    if every and not shape.undated:
        where += " AND at IS NOT NULL"
    wanted = f"SELECT {', '.join([*by, *(SQL[name] for name in shape.measures)])} FROM clicks "
    wanted += f"WHERE {where} " + (f"GROUP BY {', '.join(by)}" if by else "HAVING count(*) > 0")
    columns = [*shape.by, *(["bucket"] if every else [])]
    rounded = {"average", "deviation"}
    columns += [f"round({name}, 9)" if name in rounded else name for name in shape.measures]
    with create_engine(url, poolclass=NullPool).connect() as connection:
        raw = connection.exec_driver_sql(wanted).all()
        for name in (table, f"{table}_fresh"):
            found = connection.exec_driver_sql(f"SELECT {', '.join(columns)} FROM {name}").all()
            assert sorted(found, key=repr) == sorted(raw, key=repr), name
        assert len(raw) > 0


def migrate(application: Application, *shapes: Shape) -> str:
    """Generate a revision, run it, and see that nothing is left to do; return its text."""
    source = application.revise(declared(*shapes))
    application.upgrade()
    assert differences(application.url, declared(*shapes)) == []
    return source


KEYED = Shape()
UNKEYED = Shape(by=("page",))
EVERYTHING = Shape(measures=tuple(MEASURES))
ADDITIVE = tuple(name for name in MEASURES if name != "longest")
LEVELS = tuple(BUCKETS)
CHANGES: dict[str, tuple[tuple[Shape, ...], tuple[Shape, ...]]] = {
    "a rollup": ((), (replace(EVERYTHING, every=LEVELS),)),
    "a rollup without the key": ((), (replace(UNKEYED, measures=ADDITIVE, every=LEVELS),)),
    "totals": ((), (Shape(by=(), every=(), measures=ADDITIVE),)),
    "totals of users": ((), (Shape(every=(), measures=ADDITIVE),)),
    "a second rollup": ((KEYED,), (KEYED, replace(UNKEYED, name="by_page", undated=True))),
    "measures": ((KEYED,), (EVERYTHING,)),
    "fewer measures": ((EVERYTHING,), (KEYED,)),
    "measures without the key": ((UNKEYED,), (replace(UNKEYED, measures=ADDITIVE),)),
    "the same hidden columns": (
        (Shape(measures=("clicks", "average")),),
        (Shape(measures=("clicks", "seconds")),),
    ),
    "a dimension": ((KEYED,), (Shape(by=("user_id", "page")),)),
    "fewer dimensions": ((Shape(by=("user_id", "page")),), (KEYED,)),
    "another dimension": ((Shape(by=("user_id", "page")),), (Shape(by=("user_id", "country")),)),
    "a dimension without the key": ((UNKEYED,), (Shape(by=("page", "country")),)),
    "fewer dimensions without the key": ((Shape(by=("page", "country")),), (UNKEYED,)),
    "the key": ((UNKEYED,), (Shape(by=("user_id", "page")),)),
    "no key": ((Shape(by=("user_id", "page")),), (UNKEYED,)),
    "another bucket": ((KEYED,), (Shape(every=("1 day",)),)),
    "a finer bucket": ((Shape(every=("1 month at Europe/Berlin",)),), (KEYED,)),
    "more buckets": ((KEYED,), (Shape(every=LEVELS),)),
    "one bucket more": ((Shape(every=LEVELS[:2]),), (Shape(every=LEVELS),)),
    "no buckets": ((KEYED,), (Shape(every=()),)),
    "a filter": ((KEYED,), (Shape(filtered=True),)),
    "no filter": ((replace(UNKEYED, filtered=True),), (UNKEYED,)),
    "rows without a time": ((KEYED,), (Shape(undated=True),)),
    "the last rollup": ((EVERYTHING,), ()),
    "one of two rollups": ((KEYED, replace(UNKEYED, name="by_page")), (KEYED,)),
}


# A cluster takes ten times as long.
# Those that differ most; the others are for endurance.
MANY = [
    "a rollup",
    "totals",
    "a second rollup",
    "measures",
    "fewer dimensions",
    "no key",
    "one bucket more",
    "a filter",
    "the last rollup",
]
ON_CITUS = ["a second rollup", "measures without the key", "no key"]


@ON_POSTGRESQL_ONLY
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(change, marks=() if change in MANY else pytest.mark.endurance)
        for change in CHANGES
    ],
)
def test_there_and_back_and_there_again(change: str, application: Application) -> None:
    there_and_back_and_there_again(*CHANGES[change], application)


@ON_CITUS_ONLY
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(change, marks=() if change in ON_CITUS else pytest.mark.endurance)
        for change in CHANGES
    ],
)
def test_there_and_back_on_a_cluster(change: str, application: Application) -> None:
    there_and_back_and_there_again(*CHANGES[change], application)


@ON_CITUS_ONLY
def test_a_source_on_a_single_shard(application: Application) -> None:
    shapes = (EVERYTHING, replace(UNKEYED, name="by_page"))
    metadata = declared(*shapes, key=None)
    application.revise(metadata)
    application.upgrade()
    assert differences(application.url, metadata) == []
    engine = create_engine(application.url, poolclass=NullPool)
    for statements in ((INSERT,), CHANGE):
        execute(application.url, *map(sql, statements))
        for rollup in rollups_of(metadata):
            with engine.begin() as connection:
                run_rollup(connection, rollup)
                assert [each for each in verify(connection, rollup) if each.groups] == []
        for shape in shapes:
            compare(engine.url, shape.name, shape, shape.every[0])
    application.downgrade("base")


def there_and_back_and_there_again(
    before: tuple[Shape, ...], after: tuple[Shape, ...], application: Application
) -> None:
    migrate(application, *before)
    execute(application.url, sql(INSERT))
    check(application, *before)
    execute(application.url, *map(sql, CHANGE))  # This is pending.

    migrate(application, *after)
    check(application, *after)
    execute(application.url, *map(sql, CHANGE))
    check(application, *after)
    execute(application.url, *map(sql, CHANGE))

    application.downgrade()
    check(application, *before)
    execute(application.url, *map(sql, CHANGE))

    application.upgrade()
    check(application, *after)
    application.downgrade("base")
    left = (
        "SELECT count(*) FROM pg_class WHERE relname <> 'alembic_version' "
        "AND relkind IN ('r', 'v') AND relnamespace = 'public'::regnamespace "
        "AND relname !~ '^citus_'"
    )
    assert query_text(application.url, left) == "0"
    left = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    assert query_text(application.url, left) == "0"
