"""What a question says where it cannot be answered, and what it suggests, is true and serves."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
import sqlalchemy
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    NullPool,
    Numeric,
    String,
    Table,
    Text,
    bindparam,
    case,
    create_engine,
    func,
    not_,
)
from sqlalchemy.dialects import postgresql

import citus_analytics
from citus_analytics import (
    Distributed,
    GithubEvent,
    Rollup,
    ask,
    count,
    distinct,
    minimum,
    rollups_of,
    run_rollup,
    top_repository_creators,
    total,
)
from citus_analytics.errors import ArgumentError, DeclarationError, RollupError
from citus_analytics.rollups.ask import Question
from citus_analytics.rollups.declare import specs_of
from citus_analytics.rollups.run import backfill, repair, verify
from citus_analytics.rollups.sql import create, drop
from tests.rollup_lab import build, engine_with, run_sql
from tests.servers import ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import URL, ColumnElement, Connection

    from citus_analytics.rollups.ask import Freshness
    from citus_analytics.rollups.sql import RollupSpec
    from tests.autogenerate import Application
    from tests.servers import DatabaseServer

NOON: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
ROWS: Final[Mapping[str, Any]] = {"rows": count()}


def readings(metadata: MetaData) -> Table:
    return Table(
        "readings",
        metadata,
        Column("id", BigInteger, primary_key=True),
        Column("kind", String),
        Column("cost", Numeric),
        Column("n", Integer),
        Column("at", DateTime(timezone=True)),
        Index("readings_at", "at"),
        Distributed("id"),
    )


def fill(connection: Connection, number: int = 60) -> None:
    run_sql(
        connection,
        "INSERT INTO readings SELECT coalesce((SELECT max(id) FROM readings), 0) + i, "
        "(ARRAY['temp', 'wind', 'Temp', NULL])[1 + i % 4], i % 7, i, "
        f"timestamptz '2026-03-01 12:00Z' + i * interval '67 seconds' "
        f"FROM generate_series(1, {number}) AS i",
    )


UNTYPED: Final[dict[str, Any]] = {
    "upper": lambda c: {"by": [func.upper(c.kind).label("up")]},
    "day": lambda c: {"by": [func.date_trunc("day", c.at, "Europe/Berlin").label("day")]},
    "smallest": lambda c: {"by": [c.id], "measures": {"up": minimum(func.upper(c.kind))}},
    "different": lambda c: {"measures": {"up": distinct(func.upper(c.kind))}},
}


@pytest.mark.parametrize("name", UNTYPED)
def test_expressions_without_a_type(name: str) -> None:
    tables = MetaData()
    table = readings(tables)
    with pytest.raises(DeclarationError, match=r"is not known: give it one, as in func\.upper\("):
        Rollup("r", table, **{"measures": ROWS, **UNTYPED[name](table.c)})
    assert [*tables.tables] == ["readings"]


def test_a_text_by_cases(application: Application) -> None:
    """SQLAlchemy takes it for a VARCHAR and PostgreSQL for a text, with the same values."""
    tables = MetaData()
    table = readings(tables)
    group = case((table.c.kind == "temp", "t"), else_="other")
    rollup = Rollup(
        "cases",
        table,
        by=[table.c.id, group.label("g"), func.upper(table.c.kind, type_=Text).label("up")],
        measures={"rows": count(), "last": minimum(group), "different": distinct(group)},
    )
    application.revise(tables)
    application.upgrade()
    assert "pass" in application.revise(tables).split("def upgrade")[1].split("def ")[0]
    engine = create_engine(application.url, poolclass=NullPool)
    with engine.begin() as connection:
        fill(connection, 30)
        run_rollup(connection, rollup)
        fill(connection, 30)
    wanted = {("t", 14), ("other", 46)}
    with engine.begin() as connection:
        freshnesses: tuple[Freshness, ...] = ("fresh", "rolled_up")
        for again in freshnesses:
            answer = ask(connection, table, measures=ROWS, by=[group.label("g")], freshness=again)
            assert answer.plan.rollups == ("cases",)
            assert ({tuple(row) for row in answer} == wanted) == (again == "fresh")
        different = ask(connection, table, measures={"n": distinct(group)})
        assert [tuple(row) for row in different] == [(2,)]
        run_sql(connection, "UPDATE readings SET kind = 'wind' WHERE kind = 'temp' AND id < 30")
        run_rollup(connection, rollup)
        assert {each.groups for each in verify(connection, rollup)} == {0}
        assert {each.groups for each in repair(connection, rollup)} == {0}
        assert {
            row.g: row.rows for row in ask(connection, table, measures=ROWS, by=[group.label("g")])
        } == {
            row.g: row.rows
            for row in run_sql(
                connection,
                "SELECT CASE WHEN kind = 'temp' THEN 't' ELSE 'other' END AS g, "
                "count(*) AS rows FROM readings GROUP BY 1",
            )
        }


SUGGESTED: Final[dict[str, tuple[Any, dict[str, Any]]]] = {
    "a text by cases": (
        lambda c: {"by": [case((c.kind == "temp", "t"), else_="other").label("g")]},
        {},
    ),
    "between": (lambda c: {"where": c.cost.between(1, 5)}, {}),
    "not between": (lambda c: {"where": not_(c.cost.between(1, bindparam("most")))}, {"most": 5}),
    "an odd window": (
        lambda c: {"every": "1 hour", "measures": {"n": total(c.n)}},
        {
            "since": NOON + timedelta(minutes=7, seconds=13),
            "until": NOON + timedelta(hours=1),
        },
    ),
    "a short window": (
        lambda c: {"by": [c.kind]},
        {
            "since": NOON + timedelta(minutes=7, seconds=13),
            "until": NOON + timedelta(minutes=9, seconds=1),
        },
    ),
}


def test_what_is_suggested_serves(server: DatabaseServer, empty_database: URL) -> None:
    """All of them side by side, as they were suggested."""
    tables = MetaData()
    table = readings(tables)
    c = table.c
    Rollup("by_hour", table, time="at", every="1 day", measures={"rows": count()})
    names = {**vars(sqlalchemy), **vars(postgresql), **vars(citus_analytics), "readings": table}
    asked: list[tuple[Question, dict[str, Any], str]] = []
    for make, options in SUGGESTED.values():
        window = {name: each for name, each in options.items() if name != "most"}
        values = {"parameters": {"most": options["most"]}} if "most" in options else {}
        question = Question(table, **{"measures": ROWS, "time": "at", **make(c)})
        declaration = question.suggestion(**window)
        assert declaration is not None
        asked.append((question, {**window, **values}, declaration))
    for declaration in {declaration for _, _, declaration in asked}:
        eval(declaration, names)
    engine = engine_with(server, empty_database, tables)
    with engine.begin() as connection:
        fill(connection)
        for question, options, _ in asked:
            answer = question.ask(connection, **options)
            raw = question.ask(connection, freshness="raw", **options)
            assert answer.plan.freshness == "fresh", answer.plan
            assert answer.plan.suggestion is None
            assert answer.rows == raw.rows
            assert sum(row[-1] for row in raw) > 0


def test_what_no_rollup_would_serve(server: DatabaseServer, empty_database: URL) -> None:
    tables = MetaData()
    table = readings(tables)
    c = table.c
    rollup = Rollup("by_hour", table, time="at", every="1 hour", measures={"rows": count()})
    engine = engine_with(server, empty_database, tables)
    about_time: list[ColumnElement[bool]] = [
        c.at > func.now(),
        c.at >= NOON,
        func.now() > c.at,
        c.at.between(NOON, NOON + timedelta(days=1)),
    ]
    with engine.begin() as connection:
        fill(connection)
        run_rollup(connection, rollup)
        for where in about_time:
            plan = ask(connection, table, measures=ROWS, where=where).plan
            assert (plan.freshness, plan.suggestion) == ("raw", None)
            assert "ask for a window, since= and until=" in plan.reasons["readings"]
        up = func.upper(c.kind).label("up")
        plan = ask(connection, table, measures=ROWS, by=[up]).plan
        assert plan.suggestion is None
        assert "the type of the group 'up' is not known" in plan.reasons["readings"]
        # Nothing is made of whole minutes between these.
        window: dict[str, Any] = {
            "since": NOON + timedelta(seconds=3),
            "until": NOON + timedelta(seconds=90),
        }
        answer = ask(connection, table, measures=ROWS, **window)
        assert (answer.plan.suggestion, answer.rows[0].rows) == (None, 1)
        # The one that only the window keeps from it comes first, then what would serve.
        window = {"since": NOON + timedelta(minutes=7), "until": NOON + timedelta(minutes=31)}
        with pytest.raises(
            RollupError,
            match=r"as of the last run: by_hour: has no whole bucket of 1 hour in the window\. "
            r"Choose a window of whole buckets, or ask for 'fresh'\. This one would: .*1 minute",
        ):
            ask(connection, table, measures=ROWS, freshness="rolled_up", **window)


def test_reasons_have_names_and_values(server: DatabaseServer, empty_database: URL) -> None:
    tables = MetaData()
    table = readings(tables)
    c = table.c
    for number, kind in enumerate(("temp", "wind")):
        Rollup(f"r{number}", table, by=[c.kind], measures=ROWS, where=c.kind == kind)
    Rollup("r2", table, by=[c.kind], measures=ROWS)
    engine = engine_with(server, empty_database, tables)
    with engine.connect() as connection:
        where: ColumnElement[bool] = c.n.in_([1, 2])
        plan = ask(connection, table, measures={"n": total(c.n * 3)}, where=where).plan
        assert plan.reasons["r0"] == "has only the rows where readings.kind = 'temp'"
        assert plan.reasons["r2"] == "has no dimension for the filter readings.n IN (1, 2)"
        plan = ask(connection, table, measures={"n": total(c.n * 3)}).plan
        assert plan.reasons["r2"] == "has no measure that keeps the count of readings.n * 3"
        where = c.n == bindparam("which")
        question = Question(table, measures=ROWS, where=where)
        plan = question.ask(connection, parameters={"which": 1}).plan
        assert plan.reasons["r2"] == "has no dimension for the filter readings.n = :which"


def test_creators_of_a_part_of_a_day(connection: Connection) -> None:
    """Of many tables, the one whose days the window is not made of is named first."""
    with pytest.raises(
        RollupError,
        match=r"last run: github_repositories_created_by_day: has no whole bucket of 1 day in "
        r"the window; .*Choose a window of whole buckets, or ask for 'fresh'",
    ) as caught:
        top_repository_creators(
            connection, since=NOON, until=NOON + timedelta(hours=1), freshness="rolled_up"
        )
    assert "POSTCOMPILE" not in str(caught.value)
    assert "event_type = 'CreateEvent'" in str(caught.value)


@ON_POSTGRESQL_ONLY
def test_a_role_without_rights(server: DatabaseServer, empty_database: URL) -> None:
    tables = MetaData()
    table = readings(tables)
    rollup = Rollup("by_kind", table, by=["kind"], measures=ROWS)
    (spec,) = specs_of(tables)
    engine = create_engine(empty_database, poolclass=NullPool)
    build(engine, citus=False, tables=tables, spec=spec)
    with engine.begin() as connection:
        fill(connection)
        run_rollup(connection, rollup)
        run_sql(connection, "CREATE ROLE a_reader LOGIN")
    try:
        reader = create_engine(empty_database.set(username="a_reader"), poolclass=NullPool)
        question = Question(table, measures=ROWS, by=["kind"])
        steps = (
            ("readings", ("readings_rollups", "readings_log", "by_kind")),
            ("readings_rollups", ("readings_log", "by_kind")),
            ("readings_log", ("by_kind",)),
        )
        for granted, hidden in steps:
            with engine.begin() as connection:
                run_sql(connection, f"GRANT SELECT ON {granted} TO a_reader")
            with reader.connect() as connection:
                answer = question.ask(connection)
                assert (answer.plan.freshness, len(answer.rows)) == ("raw", 4)
                assert answer.plan.suggestion is None
                with pytest.raises(RollupError, match="this role has no SELECT on") as caught:
                    question.ask(connection, freshness="rolled_up")
                for name in hidden:
                    assert name in str(caught.value)
                assert "migrate" not in str(caught.value)
        with engine.begin() as connection:
            run_sql(connection, "GRANT SELECT ON by_kind TO a_reader")
        with reader.connect() as connection:
            assert question.ask(connection).plan.freshness == "fresh"
    finally:
        with engine.begin() as connection:
            run_sql(connection, "DROP OWNED BY a_reader")
            run_sql(connection, "DROP ROLE a_reader")


def test_a_connection_that_was_there_before_a_migration(
    server: DatabaseServer, empty_database: URL
) -> None:
    tables = MetaData()
    table = readings(tables)
    first = Rollup("first", table, by=["n"], measures=ROWS)
    before = specs_of(tables)[0]
    second = Rollup("second", table, by=["kind"], measures=ROWS)
    after = specs_of(tables)[0]
    engine = create_engine(empty_database, poolclass=NullPool)
    build(engine, citus=server.kind == "citus", tables=tables, spec=before)
    question = Question(table, measures=ROWS, by=["kind"])

    def migrate(gone: RollupSpec, come: RollupSpec) -> None:
        with engine.begin() as connection:
            if server.kind == "citus":
                run_sql(connection, "SET LOCAL citus.multi_shard_modify_mode TO 'sequential'")
            for statement in (*drop(gone), *create(come)):
                run_sql(connection, statement)

    with engine.begin() as connection:
        fill(connection)
        run_rollup(connection, first)
    with engine.connect() as old:
        answer = question.ask(old)
        assert answer.plan.reasons["second"] == "is not in the database: migrate it"
        wanted = answer.rows
        old.commit()
        migrate(before, after)
        assert list(backfill(engine, second)) != []
        answer = question.ask(old)
        assert answer.plan.rollups == ("second",), answer.plan
        assert answer.rows == wanted
        old.commit()
        old.commit()
        # And back again.
        migrate(after, before)
        with pytest.raises(RollupError, match="roll the transaction back and ask again"):
            question.ask(old)
        old.rollback()
        answer = question.ask(old)
        assert (answer.plan.freshness, answer.rows) == ("raw", wanted)


def test_a_table_that_goes_under_a_connection(server: DatabaseServer, empty_database: URL) -> None:
    """What was planned is planned again where that is possible, and says so elsewhere."""
    tables = MetaData()
    table = readings(tables)
    rollup = Rollup("by_kind", table, by=["kind"], measures=ROWS)
    engine = engine_with(server, empty_database, tables)
    question = Question(table, measures=ROWS, by=["kind"])
    with (
        engine.connect() as old,
        engine.connect().execution_options(isolation_level="AUTOCOMMIT") as by_itself,
    ):
        fill(old)
        run_rollup(old, rollup)
        old.commit()
        wanted = question.ask(old).rows
        assert question.ask(by_itself).plan.freshness == "fresh"
        old.commit()
        with engine.begin() as connection:
            for statement in drop(specs_of(tables)[0]):
                run_sql(connection, statement)
            run_sql(connection, "DROP TABLE by_kind")
        answer = question.ask(by_itself)
        assert (answer.plan.freshness, answer.rows) == ("raw", wanted)
        with pytest.raises(RollupError, match="roll the transaction back and ask again"):
            question.ask(old)
        old.rollback()
        answer = question.ask(old)
        assert (answer.plan.freshness, answer.rows) == ("raw", wanted)


def test_a_database_without_the_tables(empty_database: URL) -> None:
    engine = create_engine(empty_database, poolclass=NullPool)
    freshnesses: tuple[Freshness, ...] = ("fresh", "raw")
    for freshness in freshnesses:
        with (
            engine.connect() as connection,
            pytest.raises(RollupError, match=r"no table 'github_events'\. Migrate the database"),
        ):
            ask(connection, GithubEvent, measures=ROWS, freshness=freshness)
    with (
        engine.connect() as connection,
        pytest.raises(RollupError, match=r"no table 'github_events'\. Migrate the database"),
    ):
        top_repository_creators(connection)
    with (
        engine.connect() as connection,
        pytest.raises(RollupError, match="no rollups of 'github_events': migrate it first"),
    ):
        top_repository_creators(connection, freshness="rolled_up")


def test_a_source_without_a_rollup(empty_database: URL) -> None:
    tables = MetaData()
    table = readings(tables)
    assert rollups_of(tables) == ()
    engine = create_engine(empty_database, poolclass=NullPool)
    with engine.begin() as connection:
        tables.create_all(connection)
        fill(connection)
        with pytest.raises(ArgumentError, match="pass time="):
            ask(connection, table, measures=ROWS, since=NOON)
        answer = ask(connection, table, measures=ROWS, since=NOON, every="1 day", time=table.c.at)
        assert [row.rows for row in answer] == [60]
        assert answer.plan.reasons == {"readings": "no rollup of 'readings' is declared"}
        with pytest.raises(RollupError, match=r"is declared\. This one would: Rollup") as caught:
            ask(connection, table, measures=ROWS, time="at", freshness="rolled_up")
        assert "migrate" not in str(caught.value)


WRONG: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "a day": ({"since": date(2026, 3, 1)}, r"pass datetime\(2026, 3, 1, tzinfo=UTC\)"),
    "a text": ({"until": "2026-03-01"}, r"pass datetime\.fromisoformat"),
    "a naive time": ({"until": datetime(2026, 3, 1)}, r"pass until\.replace"),  # noqa: DTZ001
    "a number as a token": ({"at_least": 5}, r"at_least must be what commit_token"),
}


@pytest.mark.parametrize("name", WRONG)
@ON_POSTGRESQL_ONLY
def test_arguments_of_other_types(connection: Connection, name: str) -> None:
    options, message = WRONG[name]
    with pytest.raises(ArgumentError, match=message):
        ask(connection, GithubEvent, measures=ROWS, **options)


@pytest.mark.parametrize("end", ["close", "commit", "rollback"])
def test_a_stream_that_has_ended(connection: Connection, end: str) -> None:
    run_sql(
        connection,
        "INSERT INTO github_events (event_id, user_id, created_at) "
        "SELECT i, i, now() FROM generate_series(1, 300) AS i",
    )
    connection.commit()
    question = Question(GithubEvent, measures=ROWS, by=[GithubEvent.user_id])
    freshnesses: tuple[Freshness, ...] = ("fresh", "raw")
    for freshness in freshnesses:
        stream = question.stream(connection, batch=10, freshness=freshness)
        read = iter(stream)
        next(read)
        getattr(stream if end == "close" else connection, end)()
        with pytest.raises(ArgumentError, match="ended before all of its rows were read"):
            list(read)
        connection.rollback()
        with closing(question.stream(connection, batch=10, freshness=freshness)) as whole:
            assert len(list(whole)) == 300
        connection.rollback()
