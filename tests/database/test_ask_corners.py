"""Questions about unusual types, time zones, classes and schemas, against plain SQL and Python."""

from __future__ import annotations

import enum
import itertools
import zoneinfo
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import (
    REAL,
    BigInteger,
    Column,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    MetaData,
    NullPool,
    PrimaryKeyConstraint,
    Table,
    Text,
    TypeDecorator,
    bindparam,
    cast,
    create_engine,
    func,
    insert,
)
from sqlalchemy.dialects.postgresql import INET, INTERVAL, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from citus_analytics import Distributed, Rollup, count, run_rollup
from citus_analytics.errors import ArgumentError, RollupError
from citus_analytics.rollups.ask import Question, ask
from citus_analytics.rollups.declare import specs_of
from citus_analytics.rollups.run import backfill, rollup_status
from citus_analytics.rollups.sql import create, drop
from tests.database.test_rollup_measures import start_of_bucket
from tests.rollup_lab import engine_with, run_sql
from tests.servers import ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, ColumnElement, Connection, Dialect

    from citus_analytics.rollups.ask import Freshness
    from tests.servers import DatabaseServer

START: Final = datetime(2026, 1, 2, tzinfo=UTC)
BOTH: Final[tuple[Freshness, ...]] = ("fresh", "raw")


# Time zones.

NIGHTS: Final = (
    # Midnight is there twice; it is what the clocks are set forward to; it is skipped.
    ("America/Havana", datetime(2025, 11, 2, 4, tzinfo=UTC)),
    ("America/Nuuk", datetime(2025, 3, 30, 1, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 11, 4, 3, tzinfo=UTC)),
    # Clocks are set by half an hour, and at a quarter to three.
    ("Australia/Lord_Howe", datetime(2025, 4, 5, 15, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2025, 10, 4, 15, 30, tzinfo=UTC)),
    ("Pacific/Chatham", datetime(2025, 9, 27, 14, tzinfo=UTC)),
)


def happened(metadata: MetaData) -> Table:
    return Table(
        "happened",
        metadata,
        Column("k", BigInteger),
        Column("id", BigInteger),
        Column("kind", Text),
        Column("at", DateTime(timezone=True)),
        PrimaryKeyConstraint("k", "id"),
        Distributed("k"),
    )


@ON_POSTGRESQL_ONLY
def test_nights_in_which_clocks_change(server: DatabaseServer, empty_database: URL) -> None:
    tables = MetaData()
    table = happened(tables)
    rollups = [
        Rollup(
            f"r{number}",
            table,
            time="at",
            every=[f"1 hour at {zone}", f"1 day at {zone}"],
            measures={"n": count()},
        )
        for number, zone in enumerate(dict.fromkeys(zone for zone, _ in NIGHTS))
    ]
    engine = engine_with(server, empty_database, tables)
    steps = [*range(-4 * 26, 4 * 26, 4), *range(-9, 10)]
    times = [night + timedelta(minutes=15 * n) for _, night in NIGHTS for n in steps]
    with engine.begin() as connection:
        rows = [{"k": n % 3, "id": n, "kind": "a", "at": at} for n, at in enumerate(times)]
        connection.execute(insert(table), rows[::2])
        run_rollup(connection, rollups[0])
        connection.execute(insert(table), rows[1::2])
    with engine.connect() as connection:
        for zone, night in NIGHTS:
            edges = [night + timedelta(minutes=minutes) for minutes in (-60, -30, 0, 10, 45, 60)]
            moment = timedelta(microseconds=1)
            windows = [(None, None), (night - moment, None), (None, night + moment)]
            windows += [
                *((edge, None) for edge in edges[::2]),
                *((None, edge) for edge in edges[1::2]),
            ]
            for width in ("hour", "day"):
                every = f"1 {width} at {zone}"
                question = Question(table, measures={"n": count()}, every=every)
                for (since, until), freshness in itertools.product(windows, BOTH):
                    wanted = Counter(
                        start_of_bucket(every, at)
                        for at in times
                        if (since is None or since <= at) and (until is None or at < until)
                    )
                    answer = question.ask(connection, since=since, until=until, freshness=freshness)
                    found = {row.bucket.astimezone(UTC): row.n for row in answer}
                    assert found == wanted, (every, since, until, answer.plan)
                    assert answer.plan.freshness == freshness


@contextmanager
def other_rules(zone: str, like: str, directory: Path) -> Iterator[None]:
    """Give this machine the rules of another time zone for one of them."""
    before = zoneinfo.TZPATH
    places = [*map(Path, before), Path(str(files("tzdata"))) / "zoneinfo"]
    rules = next(place / like for place in places if (place / like).is_file())
    (directory / zone).parent.mkdir(parents=True)
    (directory / zone).write_bytes(rules.read_bytes())
    zoneinfo.reset_tzpath([directory, *before])
    zoneinfo.ZoneInfo.clear_cache()
    try:
        yield
    finally:
        zoneinfo.reset_tzpath(before)
        zoneinfo.ZoneInfo.clear_cache()


def test_time_zone_data_that_differ_from_the_server_s(
    server: DatabaseServer, empty_database: URL, tmp_path: Path
) -> None:
    """Buckets are those of the server; where Python has others, what it knows is not relied on."""
    tables = MetaData()
    table = happened(tables)
    zone = "Atlantic/Stanley"
    every = f"1 day at {zone}"
    days = Rollup("days", table, time="at", every=every, measures={"n": count()})
    engine = engine_with(server, empty_database, tables)
    start = datetime(2026, 5, 1, tzinfo=UTC)
    with engine.begin() as connection:
        rows = [
            {"k": n % 3, "id": n, "kind": "a", "at": start + timedelta(hours=n)} for n in range(80)
        ]
        connection.execute(insert(table), rows)
        run_rollup(connection, days)
    question = Question(table, measures={"n": count()})
    window: dict[str, Any] = {
        "since": start + timedelta(hours=5),
        "until": start + timedelta(hours=70),
    }
    with engine.connect() as connection:
        assert question.ask(connection, **window).plan.rollups == ("days",)
        with other_rules(zone, "Asia/Tokyo", tmp_path):
            answer = question.ask(connection, **window)
            assert (answer.rows[0].n, answer.plan.freshness) == (65, "raw")
            assert "have different rules for the time zone" in answer.plan.reasons["days"]
            assert question.ask(connection).rows[0].n == 80
            with pytest.raises(RollupError, match="different rules for the time zone Atlantic/S"):
                question.ask(connection, freshness="rolled_up", **window)
            connection.rollback()
    with engine.connect() as connection:
        assert question.ask(connection, **window).plan.rollups == ("days",)


def test_groups_that_depend_on_the_time_zone_of_the_session(
    server: DatabaseServer, empty_database: URL
) -> None:
    """Of a rollup that is on the coordinator, its part and that of the workers would differ."""
    tables = MetaData()
    table = Table(
        "sightings",
        tables,
        Column("k", BigInteger),
        Column("seen", DateTime(timezone=True)),
        Column("at", DateTime(timezone=True)),
        Distributed("k"),
    )
    c = table.c
    seen = Rollup("seen", table, time="at", every="1 day", by=[c.seen], measures={"n": count()})
    engine = engine_with(server, empty_database, tables)
    fill = (
        "INSERT INTO sightings SELECT i % 3, timestamptz '2026-01-01 00:00Z' + i * interval '3 h', "
        "'2026-01-01 12:00Z' FROM generate_series({}, {}) AS i"
    )
    with engine.begin() as connection:
        run_sql(connection, fill.format(1, 20))
        run_rollup(connection, seen)
        run_sql(connection, fill.format(21, 40))
    day: ColumnElement[Any] = func.date_trunc("day", c.seen)
    anywhere: ColumnElement[Any] = func.date_trunc("day", c.seen, "Asia/Tokyo")
    questions = {
        "date": Question(table, measures={"n": count()}, by=[cast(c.seen, Date).label("d")]),
        "truncated": Question(table, measures={"n": count()}, by=[day.label("d")]),
        "filter": Question(
            table, measures={"n": count()}, where=cast(c.seen, Date) >= START.date()
        ),
        "anywhere": Question(table, measures={"n": count()}, by=[anywhere.label("d")]),
        "moments": Question(table, measures={"n": count()}, where=c.seen >= START),
    }
    with engine.connect() as connection:
        run_sql(connection, "SET TIME ZONE 'Asia/Tokyo'")
        for name, question in questions.items():
            answer = question.ask(connection)
            assert answer.rows == question.ask(connection, freshness="raw").rows, name
            served = server.kind == "postgresql" or name in ("anywhere", "moments")
            assert (answer.plan.freshness == "fresh") == served, (name, answer.plan)


# Types.


class Code(TypeDecorator[str]):
    """A text that the database has with a prefix."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Put the prefix before it."""
        return None if value is None else f"x{value}"

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Take it off."""
        return None if value is None else value.removeprefix("x")


class Color(enum.Enum):
    """What the database has the values of."""

    RED = "r"
    BLUE = "b"


def typed(metadata: MetaData) -> tuple[Table, Rollup]:
    table = Table(
        "typed",
        metadata,
        Column("k", BigInteger),
        Column("id", BigInteger),
        Column("code", Code),
        Column(
            "color",
            Enum(Color, values_callable=lambda color: [e.value for e in color], native_enum=False),
        ),
        Column("net", INET),
        Column("real", REAL),
        Column("single", Float(24)),
        Column("doc", JSONB),
        Column("span", INTERVAL),
        Column("at", DateTime(timezone=True)),
        PrimaryKeyConstraint("k", "id"),
        Distributed("k"),
    )
    names = ("code", "color", "net", "real", "single", "doc", "span")
    return table, Rollup(
        "by_types",
        table,
        time="at",
        every="1 hour",
        by=[table.c[name] for name in names],
        measures={"n": count()},
    )


FILL_TYPED: Final = """
INSERT INTO typed
SELECT i, i, 'x' || i % 4, (ARRAY['r', 'b', NULL])[1 + i % 3],
       (ARRAY['10.0.0.1', '::1', NULL]::inet[])[1 + i % 3],
       (ARRAY[0.1, 0.3, NULL, 1e30, -0.7]::real[])[1 + i % 5],
       (ARRAY[0.1, 0.3, NULL, 1e30, -0.7]::real[])[1 + i % 5],
       (ARRAY['null', '1', '{"a": 1}', NULL, '"x"']::jsonb[])[1 + i % 5],
       (ARRAY['30 days', '1 year', '365 days']::interval[])[1 + i % 3],
       timestamptz '2026-01-01 00:00Z' + i * interval '7 minutes'
FROM generate_series(1, 60) AS i
"""


@pytest.fixture
def of_types(server: DatabaseServer, empty_database: URL) -> Iterator[tuple[Connection, Table]]:
    tables = MetaData()
    table, rollup = typed(tables)
    engine = engine_with(server, empty_database, tables)
    with engine.begin() as connection:
        run_sql(connection, FILL_TYPED)
        run_rollup(connection, rollup)
        run_sql(connection, "DELETE FROM typed WHERE id % 7 = 3")
    with engine.connect() as connection:
        yield connection, table


def test_values_are_bound_as_the_type_of_their_column_has_it(
    of_types: tuple[Connection, Table],
) -> None:
    connection, table = of_types
    c = table.c
    conditions: dict[str, ColumnElement[bool]] = {
        "code IN ('x1', 'x2')": c.code.in_(["1", "2"]),
        "code NOT IN ('x1', 'x2')": c.code.not_in(["1", "2"]),
        "code = 'x1'": c.code == "1",
        "color IN ('b')": c.color.in_([Color.BLUE]),
        "net IN ('10.0.0.1', '::1')": c.net.in_(["10.0.0.1", "::1"]),
        "false": c.code.in_([]),
    }
    for sql, condition in conditions.items():
        question = Question(table, measures={"n": count()}, where=condition)
        wanted = run_sql(connection, f"SELECT count(*) FROM typed WHERE {sql}").scalar_one()
        for freshness in BOTH:
            answer = question.ask(connection, freshness=freshness)
            assert (answer.rows[0].n, answer.plan.freshness) == (wanted, freshness), sql
    # Names of parameters that SQL would not have as they are.
    wanted = run_sql(connection, "SELECT count(*) FROM typed WHERE code = 'x1'").scalar_one()
    for name in ("code.is", "my code", "%", "a:b", "k(1)[2]", "select"):
        question = Question(table, measures={"n": count()}, where=c.code == bindparam(name))
        for freshness in BOTH:
            answer = question.ask(connection, parameters={name: "1"}, freshness=freshness)
            assert (answer.rows[0].n, answer.plan.freshness) == (wanted, freshness), name


def test_pages_of_groups_of_any_type(of_types: tuple[Connection, Table]) -> None:
    """A real number is a group behind which the next one comes, and not once more."""
    connection, table = of_types
    for name, freshness in itertools.product(("real", "single", "code", "color", "net"), BOTH):
        question = Question(table, measures={"n": count()}, by=[table.c[name]])
        whole = [tuple(row) for row in question.ask(connection, freshness=freshness)]
        found: list[Any] = []
        while page := question.ask(
            connection, freshness=freshness, limit=1, after=found[-1] if found else None
        ).rows:
            found += page
            assert len(found) <= len(whole), name
        assert [tuple(row) for row in found] == whole
    # What Python does not tell apart: null in JSON and NULL, and a year and 365 days.
    for name, unclear in (
        ("doc", "the null of JSON or the NULL"),
        ("span", "is an interval in after"),
    ):
        question = Question(table, measures={"n": count()}, by=[table.c[name]])
        rows = question.ask(connection).rows
        first = next(row for row in rows if name == "span" or row.doc is None)
        with pytest.raises(ArgumentError, match=unclear):
            question.ask(connection, after=first)
        text = cast(table.c[name], Text).label(name)
        question = Question(table, measures={"n": count()}, by=[text])
        pages = question.ask(connection).rows
        assert len(pages) == (5 if name == "doc" else 3)
        for number, row in enumerate(pages):
            assert question.ask(connection, after=row).rows == pages[number + 1 :]


# Classes.


def test_classes_that_share_a_table(server: DatabaseServer, empty_database: URL) -> None:
    """A question about a subclass is about its rows, and so is a rollup."""

    class Base(DeclarativeBase):
        pass

    class Event(Base):
        __tablename__ = "event"
        __table_args__ = (Distributed("k"),)
        __mapper_args__ = {  # noqa: RUF012
            "polymorphic_on": "type",
            "polymorphic_identity": "event",
        }

        k: Mapped[int] = mapped_column(BigInteger, primary_key=True)
        id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
        type: Mapped[str] = mapped_column(Text)
        at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
        size: Mapped[int | None] = mapped_column(Integer)

    class Push(Event):
        __mapper_args__ = {"polymorphic_identity": "push"}  # noqa: RUF012

    class ForcePush(Push):
        __mapper_args__ = {"polymorphic_identity": "force"}  # noqa: RUF012

    class Star(Event):
        __mapper_args__ = {"polymorphic_identity": "star"}  # noqa: RUF012

    types = Rollup(
        "types", Event, time=Event.at, every="1 hour", by=[Event.type], measures={"n": count()}
    )
    Rollup("pushes", Push, time=Push.at, every="1 day", measures={"n": count()})
    engine = engine_with(server, empty_database, Base.metadata)
    with Session(engine) as session:
        classes = (Event, Push, ForcePush, Star)
        at = datetime(2026, 1, 1, tzinfo=UTC)
        session.add_all(classes[n % 4](k=n % 3, id=n, at=at, size=n % 2) for n in range(38))
        run_rollup(session, types)
        session.add_all(classes[n % 4](k=n % 3, id=n, at=at, size=n % 2) for n in range(38, 41))
        session.flush()
        of = {
            Event: "true",
            Push: "type IN ('push', 'force')",
            ForcePush: "type = 'force'",
            Star: "type = 'star'",
        }
        for entity, freshness in itertools.product(of, BOTH):
            wanted = run_sql(
                session.connection(), f"SELECT count(*) FROM event WHERE {of[entity]}"
            ).scalar_one()
            answer = ask(session, entity, measures={"n": count()}, freshness=freshness)
            assert (answer.rows[0].n, answer.plan.freshness) == (wanted, freshness), entity
            if freshness == "fresh":
                assert answer.plan.rollups == (("pushes",) if entity is Push else ("types",))


def by_kind(tables: MetaData, *, without: str | None = None) -> tuple[Table, Rollup]:
    table = happened(tables)
    return table, Rollup(
        "r",
        table,
        time="at",
        every="1 hour",
        by=[table.c.kind],
        measures={"n": count()},
        where=None if without is None else table.c.kind != without,
    )


FILL: Final = """
INSERT INTO happened
SELECT i % 3, i, CASE WHEN i % 2 = 0 THEN 'a' ELSE 'b' END,
       timestamptz '2026-01-01 00:00Z' + i * interval '7 minutes'
FROM generate_series(1, 60) AS i
"""


def test_sessions_with_other_styles(server: DatabaseServer, empty_database: URL) -> None:
    """The driver reads neither intervals nor times in each of them; numbers it does."""
    tables = MetaData()
    table, rollup = by_kind(tables)
    styles = "-c intervalstyle=iso_8601 -c datestyle=sql,dmy -c extra_float_digits=0"
    engine = engine_with(server, empty_database, tables)
    with engine.begin() as connection:
        run_sql(connection, FILL)
        run_rollup(connection, rollup)
    url = empty_database.update_query_dict({"options": styles})
    with create_engine(url, poolclass=NullPool).connect() as connection:
        question = Question(table, measures={"n": count()}, by=[table.c.kind])
        answer = question.ask(connection)
        assert [tuple(row) for row in answer] == [("a", 30), ("b", 30)]
        assert answer.plan.freshness == "fresh"
        run_sql(connection, "SET datestyle = iso")
        (status,) = rollup_status(connection, rollup)
        assert (status.pending, status.lag) == (0, timedelta())
        assert status.duration is not None


# Schemas, and migrations under connections that go on.


def test_schemas_of_the_search_path(server: DatabaseServer, empty_database: URL) -> None:
    """One has not been migrated yet: its rollup has the name, and not the rows."""
    declared, older = MetaData(), MetaData()
    table, _ = by_kind(declared)
    by_kind(older, without="a")
    question = Question(table, measures={"n": count()})
    engine = create_engine(empty_database, poolclass=NullPool)
    with engine.begin() as connection:
        run_sql(connection, "CREATE SCHEMA one")
        run_sql(connection, "CREATE SCHEMA two")
    for schema, tables in (("one", declared), ("two", older)):
        options = {"options": f"-c search_path={schema}"}
        with engine_with(
            server, empty_database, tables, connect_args=options
        ).begin() as connection:
            run_sql(connection, FILL)
    with engine.connect() as connection:
        for schema in ("one", "two", "one", "two"):
            run_sql(connection, f"SET search_path = {schema}")
            answer = question.ask(connection)
            assert answer.rows[0].n == 60
            assert answer.plan.freshness == ("fresh" if schema == "one" else "raw")


def test_a_migration_under_a_connection_that_goes_on(
    server: DatabaseServer, empty_database: URL
) -> None:
    """A rollup gets another filter, and is complete again before the connection asks once more."""
    before, after = MetaData(), MetaData()
    table, rollup = by_kind(before)
    _, changed = by_kind(after, without="a")
    question = Question(table, measures={"n": count()})
    engine = engine_with(server, empty_database, before)
    with engine.begin() as connection:
        run_sql(connection, FILL)
        run_rollup(connection, rollup)
    with engine.connect() as connection:
        assert question.ask(connection).plan.rollups == ("r",)
        connection.rollback()
        with engine.begin() as migration:
            for statement in (*drop(specs_of(before)[0]), *create(specs_of(after)[0])):
                run_sql(migration, statement)
        assert list(backfill(engine, changed))
        answer = question.ask(connection)
        assert (answer.rows[0].n, answer.plan.freshness) == (60, "raw")
        assert "not the same in the database" in answer.plan.reasons["r"]
