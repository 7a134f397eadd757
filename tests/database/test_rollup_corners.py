"""What stands around a rollup: other statements, sessions, clocks, foreign keys and types."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    DateTime,
    Double,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    NullPool,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    TypeDecorator,
    create_engine,
    func,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import BIT, DOMAIN, REAL
from sqlalchemy.exc import DBAPIError

from citus_analytics.errors import ArgumentError, OperationError, RollupError
from citus_analytics.rollups.declare import (
    Measure,
    Rollup,
    average,
    count,
    distinct,
    maximum,
    minimum,
    percentiles,
    specs_of,
    stddev,
    total,
)
from citus_analytics.rollups.run import (
    audit,
    expire,
    repair,
    rollup_status,
    run_batch,
    run_rollup,
    verify,
)
from citus_analytics.rollups.sql import drop
from citus_analytics.schema import Distributed
from tests.rollup_lab import run_sql
from tests.rollups import create
from tests.servers import ON_CITUS_ONLY, ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.types import TypeEngine

    from tests.servers import DatabaseServer

NOON: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR: Final = timedelta(hours=1)


@pytest.fixture
def engine(empty_engine: Engine) -> Engine:
    return empty_engine


def table(name: str = "visits", *items: Any) -> Table:
    """Return a table of visits to sites, with further columns."""
    return Table(
        name,
        MetaData(),
        Column("site", BigInteger),
        Column("id", BigInteger),
        Column("at", DateTime(timezone=True)),
        PrimaryKeyConstraint("site", "id"),
        Distributed("site"),
        *items,
    )


def by_hour(
    source: Table,
    *by: Any,
    name: str = "hourly",
    measures: Mapping[str, Measure] | None = None,
    **more: Measure,
) -> Rollup:
    kept = {"n": count(), **(measures or {}), **more}
    return Rollup(name, source, time="at", every="1 hour", by=["site", *by], measures=kept)


def build(engine: Engine, metadata: MetaData, *statements: str) -> None:
    with engine.begin() as connection:
        create(connection, metadata)
    execute(engine, *statements)


def execute(engine: Engine, *statements: str) -> None:
    for statement in statements:
        with engine.begin() as connection:
            run_sql(connection, statement)


def rows(engine: Engine, statement: Any) -> list[tuple[Any, ...]]:
    with engine.begin() as connection:
        if isinstance(statement, str):
            return [tuple(row) for row in run_sql(connection, statement)]
        return [tuple(row) for row in connection.execute(statement)]


def run(engine: Engine, rollup: Rollup) -> int:
    with engine.begin() as connection:
        return run_rollup(connection, rollup).changes


def differences(engine: Engine, rollup: Rollup, **window: Any) -> list[tuple[str, int]]:
    with engine.begin() as connection:
        found = verify(connection, rollup, **window)
    return [(each.table, each.groups) for each in found if each.groups]


# Two questions in one statement.


def test_two_windows_in_one_statement(engine: Engine) -> None:
    rollup = by_hour(table())
    build(
        engine,
        rollup.source.metadata,
        "INSERT INTO visits SELECT 1, i, timestamptz '2026-03-01 12:00Z' + i * interval '1 minute' "
        "FROM generate_series(0, 89) AS i",
    )
    hours = [
        rollup.select(measures=["n"], since=NOON + i * HOUR, until=NOON + (i + 1) * HOUR)
        for i in range(3)
    ]
    together = select(*(hour.scalar_subquery().label(f"n{i}") for i, hour in enumerate(hours)))
    assert rows(engine, together) == [(60, 30, 0)]
    assert sorted(rows(engine, union_all(*hours))) == [(0,), (30,), (60,)]


@ON_POSTGRESQL_ONLY
def test_two_rankings_in_one_statement(engine: Engine) -> None:
    rollup = Rollup("sites", table(), by=["site"], measures={"n": count()}, ranked="n")
    build(
        engine,
        rollup.source.metadata,
        "INSERT INTO visits SELECT i, j, now() FROM generate_series(1, 5) AS i, "
        "generate_series(1, i) AS j",
    )
    one, three = (rollup.best(limit).subquery() for limit in (1, 3))
    both = select(one.c.n.label("best"), three.c.n).where(one.c.n >= three.c.n)
    assert sorted(rows(engine, both)) == [(5, 3), (5, 4), (5, 5)]


# Clocks that are changed at midnight.


@pytest.mark.parametrize(
    ("zone", "midnight", "unit"),
    [
        # Set forward at midnight, which there is not.
        ("Africa/Cairo", "2026-04-24", "day"),
        pytest.param("Asia/Beirut", "2026-03-29", "day", marks=pytest.mark.endurance),
        pytest.param("America/Havana", "2026-03-08", "day", marks=pytest.mark.endurance),
        # Set back to midnight, which comes twice.
        ("Atlantic/Azores", "2026-10-25", "day"),
        pytest.param("America/Havana", "2026-11-01", "day", marks=pytest.mark.endurance),
        ("America/Havana", "2026-11-01", "month"),
        pytest.param("America/Havana", "2026-11-01", "week", marks=pytest.mark.endurance),
        # Set back at midnight.
        ("Africa/Cairo", "2026-10-30", "day"),
    ],
)
@ON_POSTGRESQL_ONLY
def test_clocks_that_change_at_midnight(
    engine: Engine, zone: str, midnight: str, unit: str
) -> None:
    rollup = Rollup(
        "visits_there",
        table(),
        time="at",
        every=f"1 {unit} at {zone}",
        by=["site"],
        measures={"n": count(), "first": minimum("id"), "last": maximum("id")},
    )
    build(
        engine,
        rollup.source.metadata,
        "INSERT INTO visits SELECT 1, row_number() OVER (), at FROM generate_series("
        f"timestamptz '{midnight} 00:00Z' - interval '40 days', "
        f"timestamptz '{midnight} 00:00Z' + interval '40 days', interval '15 minutes') AS at",
    )
    run(engine, rollup)
    # Every bucket is the local time's, and no row is before the bucket that it is in.
    wrong = rows(
        engine,
        f"SELECT v.day, v.first, b.bucket FROM (SELECT date_trunc('{unit}', "
        f"at AT TIME ZONE '{zone}') AS day, min(at) AS first, count(*) AS n FROM visits "
        "GROUP BY 1) AS v FULL JOIN visits_there AS b ON "
        "b.bucket = v.first AND b.n = v.n WHERE v.day > "
        "(SELECT min(at) + interval '31 days' FROM visits) AND (v.day IS NULL OR b.n IS NULL)",
    )
    assert wrong == []
    buckets = [bucket for (bucket,) in rows(engine, "SELECT bucket FROM visits_there ORDER BY 1")]
    assert differences(engine, rollup) == []
    change = datetime.fromisoformat(f"{midnight} 00:00Z")
    near = [bucket for bucket in buckets if abs(bucket - change) < timedelta(days=4)]
    assert near
    for edge in near:
        # A window from a bucket on, up to it, and from somewhere in it.
        assert differences(engine, rollup, since=edge) == []
        assert differences(engine, rollup, until=edge) == []
        assert differences(engine, rollup, since=edge + HOUR, until=edge + 26 * HOUR) == []
    assert rows(engine, rollup.select(measures=["n"], since=buckets[2], until=buckets[3])) == rows(
        engine, "SELECT n FROM visits_there ORDER BY bucket LIMIT 1 OFFSET 2"
    )
    execute(engine, "DELETE FROM visits WHERE id % 96 = 0")
    assert run(engine, rollup) > 0
    assert differences(engine, rollup) == []
    horizon = datetime.fromisoformat(f"{midnight} 12:00Z")
    kept = rows(engine, "SELECT * FROM visits_there ORDER BY bucket")
    expire(engine, rollup, horizon, window=timedelta(days=50))
    with engine.begin() as connection:
        assert [each.groups for each in repair(connection, rollup)] == [0]
    assert rows(engine, "SELECT * FROM visits_there ORDER BY bucket") == kept


# What goes with rows that are expired.


def test_expiry_that_cascades_to_another_source(engine: Engine) -> None:
    source = table()
    clicks = Table(
        "clicks",
        source.metadata,
        Column("site", BigInteger),
        Column("id", BigInteger),
        Column("visit", BigInteger),
        Column("at", DateTime(timezone=True)),
        PrimaryKeyConstraint("site", "id"),
        Distributed("site"),
    )
    visits, clicked = by_hour(source), by_hour(clicks, name="clicked")
    build(
        engine,
        source.metadata,
        "ALTER TABLE clicks ADD CONSTRAINT clicked FOREIGN KEY (site, visit) "
        "REFERENCES visits (site, id) ON DELETE CASCADE",
        "INSERT INTO visits VALUES (1, 1, '2026-01-01 12:00Z'), (1, 2, '2026-03-01 12:00Z')",
        "INSERT INTO clicks VALUES (1, 1, 1, '2026-03-01 12:00Z'), (1, 2, 2, '2026-03-01 12:00Z')",
    )
    run(engine, visits)
    run(engine, clicked)
    assert expire(engine, visits, datetime(2026, 2, 1, tzinfo=UTC)) == 1
    assert rows(engine, "SELECT id FROM clicks") == [(2,)]
    assert rows(engine, "SELECT sum(n) FROM clicked_fresh") == [(1,)]
    assert differences(engine, clicked) == differences(engine, visits) == []
    run(engine, clicked)
    assert rows(engine, "SELECT sum(n) FROM clicked") == [(1,)]
    assert rows(engine, "SELECT sum(n) FROM hourly") == [(2,)]


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL (parent)"])
@ON_POSTGRESQL_ONLY
def test_expiry_that_changes_rows_that_stay(engine: Engine, action: str) -> None:
    source = table("visits", Column("parent", BigInteger))
    rollup = by_hour(source, "parent")
    build(
        engine,
        source.metadata,
        "ALTER TABLE visits ADD FOREIGN KEY (site, parent) REFERENCES visits (site, id) "
        f"ON DELETE {action}",
        "INSERT INTO visits VALUES (1, 1, '2026-01-01 12:00Z', NULL), "
        "(1, 2, '2026-03-01 12:00Z', 1), (1, 3, NULL, 1), (1, 4, 'infinity', 1), "
        "(1, 5, '2026-01-01 12:00Z', 1)",
    )
    run(engine, rollup)
    before = rows(engine, "SELECT * FROM hourly WHERE bucket < '2026-02-01 00:00Z' ORDER BY parent")
    assert expire(engine, rollup, datetime(2026, 2, 1, tzinfo=UTC)) >= 1
    after = [] if action == "CASCADE" else [(None, 1)]
    later = "SELECT parent, n FROM hourly{} WHERE bucket > '2026-02-01 00:00Z'"
    assert rows(engine, later.format("_fresh")) == after
    run(engine, rollup)
    assert rows(engine, later.format("")) == after
    assert differences(engine, rollup) == []
    kept = rows(engine, "SELECT * FROM hourly WHERE bucket < '2026-02-01 00:00Z' ORDER BY parent")
    assert kept == before


@ON_POSTGRESQL_ONLY
def test_expiry_of_a_table_of_the_same_name(engine: Engine) -> None:
    rollups = []
    for schema in ("one", "two"):
        execute(engine, f"CREATE SCHEMA {schema}")
        source = Table(
            "visits",
            MetaData(schema=schema),
            Column("id", BigInteger, primary_key=True),
            Column("at", DateTime(timezone=True)),
        )
        rollup = Rollup("hourly", source, time="at", every="1 hour", measures={"n": count()})
        build(
            engine, source.metadata, f"INSERT INTO {schema}.visits VALUES (1, '2026-01-01 12:00Z')"
        )
        run(engine, rollup)
        rollups.append(rollup)
    execute(
        engine,
        "CREATE FUNCTION also() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN DELETE FROM two.visits; RETURN NULL; END'",
        "CREATE TRIGGER also AFTER DELETE ON one.visits EXECUTE FUNCTION also()",
    )
    expire(engine, rollups[0], datetime(2026, 2, 1, tzinfo=UTC))
    assert rows(engine, "SELECT sum(n) FROM one.hourly_fresh") == [(1,)]
    assert rows(engine, "SELECT sum(n) FROM two.hourly_fresh") == [(None,)]


# Sessions in which a run would lose what it takes from the log.


@pytest.mark.parametrize("how", ["replica", "disabled", "dropped"])
@ON_POSTGRESQL_ONLY
def test_a_run_whose_trigger_does_not_fire(engine: Engine, how: str) -> None:
    rollup = by_hour(table())
    build(engine, rollup.source.metadata, "INSERT INTO visits VALUES (1, 1, '2026-03-01 12:00Z')")
    spoil = {
        "replica": "SET session_replication_role = replica",
        "disabled": "ALTER TABLE visits_log DISABLE TRIGGER ALL",
        "dropped": "DROP TRIGGER visits_absorb ON visits_log",
    }[how]
    for move in (run_rollup, run_batch):
        with engine.connect() as connection:
            run_sql(connection, spoil)
            with pytest.raises(DBAPIError, match="cannot be added up"):
                move(connection, rollup)
    with engine.begin() as connection:
        assert [status.pending for status in rollup_status(connection, rollup)] == [1]
    assert run(engine, rollup) == 1
    assert rows(engine, "SELECT n FROM hourly") == [(1,)]


# A session that writes the bounds of partitions in another way.


@pytest.mark.parametrize("style", ["SQL, DMY", "Postgres, MDY", "German"])
@pytest.mark.parametrize("zone", ["Asia/Shanghai", "Asia/Kolkata", "Australia/Lord_Howe"])
def test_bounds_of_partitions_in_another_style(engine: Engine, style: str, zone: str) -> None:
    source = Table(
        "visits",
        MetaData(),
        Column("site", BigInteger),
        Column("at", DateTime(timezone=True)),
        Distributed("site"),
        postgresql_partition_by="RANGE (at)",
    )
    rollup = by_hour(source)
    elsewhere = (f"SET DateStyle = '{style}'", f"SET TimeZone = '{zone}'")
    with engine.begin() as connection:
        for statement in elsewhere:
            run_sql(connection, statement)
        create(connection, source.metadata)
    execute(
        engine,
        "CREATE TABLE visits_january PARTITION OF visits "
        "FOR VALUES FROM ('2026-01-01 00:00Z') TO ('2026-02-01 00:00Z')",
        "INSERT INTO visits VALUES (1, '2026-01-01 03:00Z')",
    )
    run(engine, rollup)
    with engine.begin() as connection:
        for statement in elsewhere:
            run_sql(connection, statement)
        run_rollup(connection, rollup)
        found = run_sql(connection, "SHOW DateStyle").scalar_one()
        assert found.split(",")[0] == style.split(",")[0]
    known = "SELECT horizon, oldest_partition = '2026-01-01 00:00Z' FROM visits_rollups"
    assert rows(engine, known) == [(None, True)]


@ON_POSTGRESQL_ONLY
def test_a_look_at_partitions_that_cannot_be_noted(engine: Engine) -> None:
    source = Table(
        "visits",
        MetaData(),
        Column("site", BigInteger),
        Column("at", DateTime(timezone=True)),
        Distributed("site"),
        postgresql_partition_by="RANGE (at)",
    )
    rollup = by_hour(source)
    build(engine, source.metadata)
    partition = "CREATE TABLE visits_{0} PARTITION OF visits FOR VALUES FROM ('{0}') TO ('{1}')"
    years = [partition.format(year, year + 1).replace("'2", "'1-1-2") for year in (2024, 2025)]
    execute(engine, *years, "INSERT INTO visits VALUES (1, '2024-06-01 00:00Z')")
    run(engine, rollup)
    read_only = engine.execution_options(postgresql_readonly=True)
    assert differences(read_only, rollup) == []
    execute(engine, "DROP TABLE visits_2024")
    with pytest.raises(RollupError, match=r"oldest partition of visits .* run the rollups first"):
        differences(read_only, rollup)
    run(engine, rollup)
    assert differences(read_only, rollup) == []


@pytest.mark.parametrize("style", ["SQL, DMY", "Postgres, DMY", "German, DMY"])
def test_moves_in_a_session_of_another_style(engine: Engine, style: str) -> None:
    rollup = Rollup(
        "weekly",
        table(),
        time="at",
        every=["7 days", "1 day at Europe/Berlin"],
        by=["site"],
        measures={"n": count(), "last": maximum("id")},
    )
    everywhere = Rollup(
        "everywhere", rollup.source, time="at", every="1 day", measures={"n": count()}
    )
    moved = create_engine(
        engine.url,
        poolclass=NullPool,
        connect_args={
            "options": f"-c datestyle={style.replace(' ', '')} -c timezone=Asia/Shanghai"
        },
    )
    build(moved, rollup.source.metadata)
    execute(
        engine,
        "INSERT INTO visits SELECT i % 5, i, timestamptz '2026-01-01 00:00Z' "
        "+ i * interval '12 hours' FROM generate_series(1, 200) AS i",
    )
    third = datetime(2026, 1, 3, tzinfo=UTC)
    for each in (rollup, everywhere):
        assert differences(moved, each) == []
        assert rows(moved, "SELECT sum(n) FROM everywhere_fresh") == [(200,)]
        run(moved, each)
        assert differences(moved, each, since=third) == differences(moved, each) == []
        assert [(w.groups, w.done) for w in audit(moved, each, window=timedelta(days=400))]
    # A day of January and not of March.
    assert expire(moved, rollup, third) == 3
    assert rows(engine, "SELECT min(at) = '2026-01-03 00:00Z', count(*) FROM visits") == [
        (True, 197)
    ]
    assert rows(engine, "SELECT horizon = '2026-01-03 00:00Z' FROM visits_rollups") == [(True,)] * 3
    execute(engine, "DELETE FROM visits WHERE id % 4 = 0")
    run(moved, rollup)
    assert differences(moved, rollup) == differences(moved, everywhere) == []


# Types and numbers.


def test_more_measures_than_a_function_has_arguments(engine: Engine) -> None:
    columns = [Column(f"v{number}", Double) for number in range(30)]
    source = table("visits", *columns)
    rollup = by_hour(
        source, measures={f"m{i}": average(column) for i, column in enumerate(columns)}
    )
    build(
        engine,
        source.metadata,
        "INSERT INTO visits (site, id, at, v29) VALUES (1, 1, '2026-03-01 12:00Z', 1.5)",
    )
    run(engine, rollup)
    assert differences(engine, rollup) == []
    execute(engine, "UPDATE hourly SET _v29_sum = 2")
    with engine.begin() as connection:
        (found,) = verify(connection, rollup)
        assert '"_v29_sum" -0.5' in found.examples[0]
        repair(connection, rollup)
    assert rows(engine, "SELECT m29 FROM hourly") == [(1.5,)]


@ON_POSTGRESQL_ONLY
def test_extremes_without_dimensions(engine: Engine) -> None:
    source = Table(
        "visits",
        MetaData(),
        Column("id", BigInteger, primary_key=True),
        Column("at", DateTime(timezone=True)),
    )
    rollup = Rollup(
        "hourly",
        source,
        time="at",
        every="1 hour",
        measures={"n": count(), "first": minimum("id"), "last": maximum("id")},
    )
    build(
        engine,
        source.metadata,
        "INSERT INTO visits SELECT i, '2026-03-01 12:00Z' FROM generate_series(1, 5) AS i",
    )
    run(engine, rollup)
    execute(engine, "DELETE FROM visits WHERE id IN (1, 5)")
    assert rows(engine, "SELECT n, first, last FROM hourly_fresh") == [(3, 2, 4)]
    run(engine, rollup)
    assert rows(engine, "SELECT n, first, last FROM hourly") == [(3, 2, 4)]
    assert differences(engine, rollup) == []


class Cents(TypeDecorator[int]):
    """Integers of an application's own."""

    impl = Integer
    cache_ok = True


class Words(TypeDecorator[str]):
    """Texts of an application's own."""

    impl = Text
    cache_ok = True


@pytest.mark.parametrize("kind", [Cents(), DOMAIN("cents", Integer())], ids=["own", "domain"])
@ON_POSTGRESQL_ONLY
def test_numbers_of_an_own_type(engine: Engine, kind: TypeEngine[int]) -> None:
    source = table("visits", Column("paid", kind))
    made: dict[str, Callable[[str], Measure]] = {
        "sum": total,
        "mean": average,
        "spread": stddev,
        "p": percentiles,
        "last": maximum,
        "prices": distinct,
    }
    rollup = by_hour(source, measures={name: make("paid") for name, make in made.items()})
    build(
        engine,
        source.metadata,
        "INSERT INTO visits SELECT 1, i, '2026-03-01 12:00Z', nullif(i, 3) "
        "FROM generate_series(1, 5) AS i",
    )
    run(engine, rollup)
    ((n, added, mean, _, median, last, prices),) = rows(
        engine, "SELECT n, sum, mean, spread, p50, last, prices FROM hourly_fresh"
    )
    assert (n, added, mean, last, prices) == (5, 12, 3, 5, 4)
    assert abs(median - 2) < 0.03
    assert differences(engine, rollup) == []


@pytest.mark.parametrize("kind", [Words(), DOMAIN("words", Text())], ids=["own", "domain"])
@ON_POSTGRESQL_ONLY
def test_long_texts_of_an_own_type(engine: Engine, kind: TypeEngine[str]) -> None:
    source = table("visits", Column("path", kind))
    rollup = by_hour(source, "path", paths=distinct("path"))
    build(
        engine,
        source.metadata,
        "INSERT INTO visits SELECT 1, i, '2026-03-01 12:00Z', "
        "(SELECT string_agg(md5(j::text), '') FROM generate_series(1, 300) AS j) || i % 2 "
        "FROM generate_series(1, 4) AS i",
    )
    run(engine, rollup)
    assert rows(engine, "SELECT n, paths FROM hourly_fresh") == [(2, 1), (2, 1)]
    assert differences(engine, rollup) == []


@ON_POSTGRESQL_ONLY
def test_a_number_whose_type_the_server_knows(engine: Engine) -> None:
    source = table("visits", Column("path", Text))
    length: ColumnElement[Any] = func.length(source.c.path)
    rollup = by_hour(source, sum=total(length), mean=average(length), p=percentiles(length))
    build(engine, source.metadata, "INSERT INTO visits VALUES (1, 1, '2026-03-01 12:00Z', '/home')")
    run(engine, rollup)
    assert rows(engine, "SELECT sum, mean FROM hourly_fresh") == [(5, 5)]
    assert differences(engine, rollup) == []


@ON_POSTGRESQL_ONLY
def test_a_type_without_a_hash(engine: Engine) -> None:
    source = table("visits", Column("flags", BIT(varying=True)))
    by_hour(source, flags=distinct("flags", approximate=True))
    with pytest.raises(OperationError, match=r"r\.flags approximately, whose type has no hash"):
        build(engine, source.metadata)


@pytest.mark.parametrize("kind", [Double(), REAL(), LargeBinary()], ids=["double", "real", "bytes"])
@ON_POSTGRESQL_ONLY
def test_a_text_that_depends_on_the_session(engine: Engine, kind: TypeEngine[Any]) -> None:
    source = table("visits", Column("v", kind))
    by_hour(source, source.c.v.cast(Text).label("written"))
    with pytest.raises(OperationError, match=r"CAST\(r\.v AS TEXT\).* depends on the session"):
        build(engine, source.metadata)


@ON_POSTGRESQL_ONLY
def test_a_text_that_does_not_depend_on_the_session(engine: Engine) -> None:
    source = table("visits", Column("v", Double), Column("bytes", LargeBinary))
    written = source.c.v.cast(Numeric).cast(Text).label("written")
    rollup = by_hour(source, written, func.encode(source.c.bytes, "hex", type_=Text).label("hex"))
    row = "(1, 1, '2026-03-01 12:00Z', 0.1::float8 + 0.2::float8, 'abc')"
    build(engine, source.metadata, f"INSERT INTO visits VALUES {row}")
    run(engine, rollup)
    with engine.begin() as connection:
        run_sql(connection, "SET extra_float_digits = -10")
        run_sql(connection, "SET bytea_output = 'escape'")
        run_sql(connection, "DELETE FROM visits")
    run(engine, rollup)
    assert rows(engine, "SELECT * FROM hourly") == []


# A session that has run before.


@ON_CITUS_ONLY
def test_a_session_from_before_a_migration(engine: Engine) -> None:
    def declared(**more: Measure) -> Rollup:
        measures = {"n": count(), **more}
        return Rollup("hourly", table(), time="at", every="1 hour", measures=measures)

    before, after = declared(), declared(sum=total("id"))
    build(engine, before.source.metadata, "INSERT INTO visits VALUES (1, 1, '2026-03-01 12:00Z')")
    with engine.connect() as session:
        run_rollup(session, before)
        session.commit()
        (spec,) = specs_of(before.source.metadata)
        with engine.begin() as connection:
            for statement in drop(spec):
                run_sql(connection, statement)
        execute(engine, "DROP TABLE hourly", "DROP TABLE visits")
        insert = "INSERT INTO visits VALUES (1, 2, '2026-03-01 12:00Z')"
        build(engine, after.source.metadata, insert)
        assert run_rollup(session, after).changes == 1
        session.commit()
        execute(engine, insert.replace("2,", "3,"))
        assert run_rollup(session, after).changes == 1
        session.commit()
    assert rows(engine, "SELECT n, sum FROM hourly") == [(2, 5)]
    assert differences(engine, after) == []


@pytest.mark.parametrize(
    "edge", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
)
def test_an_edge_of_all_time(edge: datetime) -> None:
    rollup = by_hour(table())
    with pytest.raises(ArgumentError, match="must be in a year from 2 to 9998"):
        rollup.select(measures=["n"], since=edge)


@pytest.mark.parametrize("move", [run_rollup, verify, repair, rollup_status])
@ON_CITUS_ONLY
def test_a_move_through_a_worker(
    server: DatabaseServer, engine: Engine, move: Callable[..., object]
) -> None:
    rollup = by_hour(table())
    build(engine, rollup.source.metadata)
    assert engine.url.database is not None
    worker = create_engine(server.nodes[1].url_for(engine.url.database), poolclass=NullPool)
    execute(worker, "INSERT INTO visits VALUES (1, 1, '2026-03-01 12:00Z')")
    with worker.connect() as connection, pytest.raises(RollupError, match="to the coordinator"):
        move(connection, rollup)
    assert run(engine, rollup) == 1


@ON_POSTGRESQL_ONLY
def test_backslashes_in_any_session(engine: Engine) -> None:
    source = table("visits", Column("path", Text))
    path = source.c.path
    rollup = Rollup(
        "words",
        source,
        by=["site", func.substring(path, r"^\w+", type_=Text).label("word")],
        measures={"n": count(), "digits": distinct(func.substring(path, r"\d+", type_=Text))},
        where=path != r"it's a\b",
    )
    old = create_engine(
        engine.url,
        poolclass=NullPool,
        connect_args={"options": "-c standard_conforming_strings=off -c escape_string_warning=off"},
    )
    build(engine, source.metadata)
    insert = "INSERT INTO visits VALUES (1, {0}, now(), 'home/{0}'), (1, -{0}, now(), {1})"
    execute(engine, insert.format(1, r"E'it\'s a\\b'"))
    execute(old, insert.format(2, r"E'it\'s a\\b'"))
    for each in (engine, old):
        run(each, rollup)
        assert differences(each, rollup) == []
        assert rows(each, "SELECT word, n, digits FROM words_fresh") == [("home", 2, 2)]
    execute(old, "DELETE FROM visits WHERE id = 1")
    execute(engine, "DELETE FROM visits WHERE id = 2")
    run(old, rollup)
    assert rows(engine, "SELECT * FROM words") == []
