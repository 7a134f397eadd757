"""What a rollup is asked for beside a run: verify, repair, backfill, expire, status."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Engine,
    ForeignKey,
    Integer,
    MetaData,
    NullPool,
    Table,
    Text,
    create_engine,
    func,
    select,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from citus_analytics import (
    Distributed,
    Measure,
    Question,
    Rollup,
    average,
    consistent_snapshot,
    count,
    maximum,
    minimum,
    percentiles,
    rollups_of,
    run_rollup,
    total,
)
from citus_analytics.errors import ArgumentError, RollupError
from citus_analytics.rollups.run import (
    Difference,
    backfill,
    backfill_window,
    expire,
    hold_runs,
    repair,
    rollup_status,
    run_batch,
    verify,
)
from tests import autogenerate
from tests.servers import ON_EVERY_SERVER, ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from sqlalchemy import URL

    from tests.servers import DatabaseServer, Prepared

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)

METADATA = MetaData()
VISITS = Table(
    "visits",
    METADATA,
    Column("site", BigInteger),
    Column("page", Text),
    Column("seconds", Integer),
    Column("at", DateTime(timezone=True)),
    Distributed("site"),
)
BY_SITE = Rollup(
    "by_site",
    VISITS,
    time="at",
    every=["1 hour", "1 day"],
    by=["site"],
    measures={
        "visits": count(),
        "mean": average("seconds"),
        "shortest": minimum("seconds"),
        "longest": maximum("seconds"),
    },
)
BY_PAGE = Rollup(
    "by_page",
    VISITS,
    time="at",
    every="1 day",
    by=["page"],
    measures={"visits": count(), "seconds": total("seconds")},
    undated=True,
)
HOURS = "by_site_1_hour"
ROLLUPS = (BY_SITE, BY_PAGE)

HOUR_OF_VISIT = "date_bin('1 hour', at, '1970-01-01 00:00Z')"
DAY_OF_VISIT = "date_bin('1 day', at, '1970-01-01 00:00Z')"
SITE = (
    "count(*), round(avg(seconds), 9), min(seconds), max(seconds) FROM visits WHERE at IS NOT NULL"
)
SHOWN = "visits, round(mean, 9), shortest, longest"
# What each table has, and what it has to have.
TABLES = {
    HOURS: (
        f"SELECT site, bucket, {SHOWN} FROM by_site_1_hour",
        f"SELECT site, {HOUR_OF_VISIT}, {SITE} GROUP BY 1, 2",
    ),
    "by_site_1_day": (
        f"SELECT site, bucket, {SHOWN} FROM by_site_1_day",
        f"SELECT site, {DAY_OF_VISIT}, {SITE} GROUP BY 1, 2",
    ),
    "by_page": (
        "SELECT page, bucket, visits, seconds FROM by_page",
        f"SELECT page, {DAY_OF_VISIT}, count(*), sum(seconds) FROM visits GROUP BY 1, 2",
    ),
}
VISIT = """
INSERT INTO visits SELECT i % 5, 'page ' || i % 3, i % 50,
       CASE WHEN i % 97 > 0 THEN timestamptz '2026-03-01 00:00Z' + i * interval '11 minutes' END
FROM generate_series({first}, {last}) AS i"""


def sql(connection: Connection, statement: str) -> list[tuple[Any, ...]]:
    result = connection.exec_driver_sql(statement.replace("%", "%%"))
    return [tuple(row) for row in result] if result.returns_rows else []


def visit(engine: Engine, first: int = 1, last: int = 1000) -> None:
    with engine.begin() as connection:
        sql(connection, VISIT.format(first=first, last=last))


@pytest.fixture
def tables(prepared: Prepared) -> Engine:
    """An engine on a database that has the rollups."""
    return prepared("moves", lambda engine: autogenerate.repair(engine.url, METADATA))


@pytest.fixture
def visited(tables: Engine) -> Engine:
    """The same after some visits, a part of which has been rolled up."""
    visit(tables)
    with tables.begin() as connection:
        run_rollup(connection, BY_SITE)
    visit(tables, 900, 1100)
    return tables


def without_rollups(engine: Engine) -> None:
    """Drop the rollups, so that they come back to a table that has rows."""
    metadata = MetaData()
    VISITS.to_metadata(metadata)
    autogenerate.repair(engine.url, metadata)


def groups(connection: Connection, rollup: Rollup, **window: datetime) -> dict[str, int]:
    return {each.table: each.groups for each in verify(connection, rollup, **window)}


def assert_fresh(connection: Connection) -> None:
    for table, (found, wanted) in TABLES.items():
        fresh = sql(connection, found.replace(f"FROM {table}", f"FROM {table}_fresh"))
        assert sorted(fresh, key=repr) == sorted(sql(connection, wanted), key=repr), table


def assert_adds_up(engine: Engine) -> None:
    with engine.begin() as connection:
        assert_fresh(connection)
        run_rollup(connection, BY_SITE)
        for table, (found, wanted) in TABLES.items():
            rows = sorted(sql(connection, found), key=repr)
            assert rows == sorted(sql(connection, wanted), key=repr), table
        for rollup in ROLLUPS:
            assert set(groups(connection, rollup).values()) == {0}


# Reads beside runs.


@ON_EVERY_SERVER
@pytest.mark.parametrize("level", ["AUTOCOMMIT", "READ COMMITTED"])
def test_runs_wait_for_a_reader_who_holds_them(visited: Engine, level: Any) -> None:
    with (
        visited.connect().execution_options(isolation_level=level) as reader,
        visited.connect() as runner,
    ):
        with hold_runs(reader, BY_SITE):
            assert run_rollup(runner, BY_SITE, wait=False) is None
            runner.rollback()
            # Writers do not wait.
            visit(visited, 1100, 1110)
        assert run_rollup(runner, BY_SITE, wait=False) is not None
        runner.commit()
        with pytest.raises(ZeroDivisionError), hold_runs(reader, BY_SITE):
            raise ZeroDivisionError
        assert run_rollup(runner, BY_SITE, wait=False) is not None


@ON_EVERY_SERVER
def test_a_hold_that_is_newer_than_what_is_seen(server: DatabaseServer, visited: Engine) -> None:
    """Of a run that has committed meanwhile, nodes that are looked at later see more."""
    by_page = BY_PAGE.select(measures=["visits"])
    raw = select(func.count()).select_from(VISITS)
    asked = Question(VISITS, measures={"visits": count()}, by=[VISITS.c.page], every="1 day")
    for level in ("REPEATABLE READ", "SERIALIZABLE"):
        with visited.connect().execution_options(isolation_level=level) as connection:
            connection.scalar(select(1))
            with visited.begin() as runner:
                run_rollup(runner, BY_SITE)
            if server.kind == "postgresql":
                with hold_runs(connection, BY_SITE):
                    assert connection.scalar(by_page) == connection.scalar(raw)
                continue
            with (
                pytest.raises(RollupError, match=f"is {level}, .*may see half"),
                hold_runs(connection, BY_SITE),
            ):
                pass
            with pytest.raises(RollupError, match=f"is {level}, .*may see half"):
                asked.ask(connection)
            # What is refused leaves nothing behind.
            with visited.begin() as runner:
                assert run_rollup(runner, BY_SITE, wait=False) is not None
            answer = asked.ask(connection, freshness="raw")
            assert sum(row.visits for row in answer) == connection.scalar(raw)
    with consistent_snapshot(visited) as connection:
        with hold_runs(connection, BY_SITE):
            assert connection.scalar(by_page) == connection.scalar(raw)
        assert sum(row.visits for row in asked.ask(connection)) == connection.scalar(raw)


def test_a_hold_in_a_transaction_begun_by_hand(visited: Engine) -> None:
    with visited.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        sql(connection, "BEGIN")
        sql(connection, "DELETE FROM visits")
        with hold_runs(connection, BY_SITE):
            assert connection.scalar(select(func.count()).select_from(VISITS)) == 0
        sql(connection, "COMMIT")
        assert connection.scalar(select(func.count()).select_from(VISITS)) == 0


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "READ COMMITTED"])
def test_a_hold_that_has_ended_is_noticed(visited: Engine, level: Any) -> None:
    for end in (Session.commit, Session.rollback):
        with Session(visited.execution_options(isolation_level=level)) as session:
            with (
                pytest.raises(RollupError, match="ended while runs were held"),
                hold_runs(session, BY_SITE),
            ):
                end(session)
            assert session.scalar(select(1)) == 1


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "READ COMMITTED"])
def test_nothing_is_written_in_what_would_be_rolled_back(visited: Engine, level: Any) -> None:
    with visited.connect().execution_options(isolation_level=level) as connection:
        with pytest.raises(DBAPIError, match="read-only"), hold_runs(connection, BY_SITE):
            connection.execute(VISITS.delete())
        # The transaction goes on, and may write.
        assert connection.execute(VISITS.delete()).rowcount > 0


# Verify and repair.


def test_what_is_pending_is_no_difference(visited: Engine) -> None:
    with visited.connect() as connection:
        for rollup in ROLLUPS:
            assert set(groups(connection, rollup).values()) == {0}
        sql(connection, "DELETE FROM visits WHERE site = 2")
        sql(connection, "UPDATE visits SET page = 'moved', seconds = NULL WHERE site = 3")
        for rollup in ROLLUPS:
            assert set(groups(connection, rollup).values()) == {0}


TAMPERING = {
    "a group that is gone": (
        f"DELETE FROM {HOURS} WHERE site = 3 AND bucket = '2026-03-02 05:00Z'",
        "2026-03-02 05:00",
    ),
    "a number": (
        f"UPDATE {HOURS} SET visits = visits + 5 WHERE site = 3 AND bucket = '2026-03-02 05:00Z'",
        '"visits" -5',
    ),
    "a hidden number": (
        f"UPDATE {HOURS} SET _seconds_sum = 0 WHERE site = 3 AND bucket = '2026-03-02 05:00Z'",
        '"_seconds_sum"',
    ),
    "a group that never was": (
        f"INSERT INTO {HOURS} (site, bucket, visits) VALUES (99, '2026-03-02 05:00Z', 7)",
        '"site" = 99',
    ),
}


@pytest.mark.parametrize("kind", TAMPERING)
def test_tampering_is_found_named_and_mended(visited: Engine, kind: str) -> None:
    statement, named = TAMPERING[kind]
    with visited.begin() as connection:
        sql(connection, statement)
    with visited.begin() as connection:
        found = {each.table: each for each in verify(connection, BY_SITE)}
        assert found["by_site_1_day"] == Difference(table="by_site_1_day", groups=0)
        assert found[HOURS].groups == 1
        (example,) = found[HOURS].examples
        assert named in example
        assert '"site" = 3' in example or '"site" = 99' in example
        window = {"since": MARCH + DAY, "until": MARCH + 2 * DAY}
        assert groups(connection, BY_SITE, **window)[HOURS] == 1
        assert groups(connection, BY_SITE, until=MARCH + DAY)[HOURS] == 0
        assert groups(connection, BY_SITE, since=MARCH + 2 * DAY)[HOURS] == 0
    with visited.begin() as connection:
        repaired = {each.table: each.groups for each in repair(connection, BY_SITE)}
        assert repaired[HOURS] >= 1
        assert repaired["by_site_1_day"] == 0
    assert_adds_up(visited)


@pytest.mark.parametrize("column", ["shortest", "longest"])
def test_an_extreme_that_was_tampered_with(visited: Engine, column: str) -> None:
    with visited.begin() as connection:
        sql(connection, f"UPDATE {HOURS} SET {column} = 7000 WHERE site = 3 AND visits > 0")
        count_ = sql(connection, f"SELECT count(*) FROM {HOURS} WHERE site = 3")[0][0]
        assert groups(connection, BY_SITE)[HOURS] == count_
        repair(connection, BY_SITE)
    assert_adds_up(visited)


def test_a_reference_table_that_was_tampered_with(visited: Engine) -> None:
    with visited.begin() as connection:
        sql(connection, "UPDATE by_page SET visits = visits + 1 WHERE bucket IS NULL")
        (difference,) = verify(connection, BY_PAGE)
        assert difference.groups == 3
        assert all('"bucket" = NULL' in example for example in difference.examples)
        assert groups(connection, BY_PAGE, since=MARCH) == {"by_page": 0}
        repair(connection, BY_PAGE)
    assert_adds_up(visited)


def test_a_window_is_as_wide_as_its_buckets(visited: Engine) -> None:
    with visited.begin() as connection:
        sql(connection, "DELETE FROM by_site_1_day WHERE site = 1 AND bucket = '2026-03-03 00:00Z'")
        noon = MARCH + timedelta(days=2, hours=12)
        window = {"since": noon, "until": noon + timedelta(minutes=1)}
        assert groups(connection, BY_SITE, **window) == {HOURS: 0, "by_site_1_day": 1}


@ON_POSTGRESQL_ONLY
def test_rows_that_no_trigger_saw(visited: Engine) -> None:
    with visited.begin() as connection:
        sql(connection, "SET LOCAL session_replication_role = replica")
        sql(connection, "DELETE FROM visits WHERE site = 4")
    with visited.begin() as connection:
        assert groups(connection, BY_SITE)[HOURS] > 0
        for rollup in ROLLUPS:
            repair(connection, rollup)
    assert_adds_up(visited)


def test_a_window_needs_a_time_zone(visited: Engine) -> None:
    with visited.begin() as connection, pytest.raises(ArgumentError, match="without a time zone"):
        verify(connection, BY_SITE, since=datetime(2026, 3, 1))  # noqa: DTZ001


@pytest.mark.parametrize("move", [verify, repair, rollup_status])
def test_a_database_without_the_rollup(empty_database: URL, move: Any) -> None:
    message = r"has no rollup 'by_site': .*visits_.* was not found"
    engine = create_engine(empty_database, poolclass=NullPool)
    with engine.connect() as connection, pytest.raises(RollupError, match=message):
        move(connection, BY_SITE)


# Backfill.


def test_backfill_goes_backwards_window_by_window(tables: Engine) -> None:
    without_rollups(tables)
    visit(tables)
    autogenerate.repair(tables.url, METADATA)
    with tables.begin() as connection:
        assert [status.complete for status in rollup_status(connection, BY_SITE)] == [False, False]
        run_rollup(connection, BY_SITE)
        assert sql(connection, f"SELECT count(*) FROM {HOURS}") == [(0,)]
    windows = [*backfill(tables, BY_SITE, window=2 * DAY)]
    assert [since for since, _ in windows] == [*(MARCH + n * DAY for n in (6, 4, 2, 0)), None]
    assert [until for _, until in windows] == [None, *(MARCH + n * DAY for n in (6, 4, 2, 0))]
    assert [*backfill(tables, BY_SITE)] == [*backfill(tables, BY_PAGE)] == []
    with tables.begin() as connection:
        assert all(
            status.complete for rollup in ROLLUPS for status in rollup_status(connection, rollup)
        )
    assert_adds_up(tables)


def test_backfill_goes_on_where_it_was_stopped(tables: Engine) -> None:
    without_rollups(tables)
    visit(tables)
    autogenerate.repair(tables.url, METADATA)
    first = [*zip(range(3), backfill(tables, BY_SITE), strict=False)]
    rest = [*backfill(tables, BY_SITE)]
    assert rest[0][1] == first[-1][1][0]
    assert_adds_up(tables)


def test_backfill_while_others_write_and_run(tables: Engine) -> None:
    without_rollups(tables)
    visit(tables)
    autogenerate.repair(tables.url, METADATA)
    stop, errors = threading.Event(), []

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                with tables.begin() as connection:
                    sql(connection, VISIT.format(first=number, last=number + 40))
                    sql(connection, f"DELETE FROM visits WHERE seconds = {number % 50}")
                    sql(connection, f"UPDATE visits SET page = 'p' WHERE seconds = {number % 7}")
                with tables.begin() as connection:
                    run_rollup(connection, BY_SITE)
            except DBAPIError as error:
                errors.append(error)
                return

    thread = threading.Thread(target=write)
    thread.start()
    try:
        windows = [*backfill(tables, BY_SITE)]
    finally:
        stop.set()
        thread.join()
    assert errors == []
    assert len(windows) > 3
    assert_adds_up(tables)


def test_a_rollup_beside_one_that_is_complete(visited: Engine) -> None:
    """The other one stays complete, and is not computed again."""
    metadata = MetaData()
    source = VISITS.to_metadata(metadata)
    for rollup in ROLLUPS:
        Rollup(
            rollup.name,
            source,
            time="at",
            every=[str(width) for width in rollup.targets],
            by=list(rollup.dimensions),
            measures={
                name: type(measure)(measure.aggregate, None if value is None else "seconds")
                for name, (measure, value) in rollup.measures.items()
            },
            undated=rollup.undated,
        )
    added = Rollup("pages", source, by=["site", "page"], measures={"visits": count()})
    autogenerate.repair(visited.url, metadata)
    with visited.begin() as connection:
        assert all(status.complete for status in rollup_status(connection, BY_SITE))
        assert [status.complete for status in rollup_status(connection, added)] == [False]
    for _ in backfill(visited, added):
        pass
    assert_adds_up(visited)
    with visited.begin() as connection:
        assert groups(connection, added) == {"pages": 0}
        found = sql(connection, "SELECT site, page, visits FROM pages")
        raw = sql(connection, "SELECT site, page, count(*) FROM visits GROUP BY 1, 2")
        assert sorted(found) == sorted(raw)


def of_pages(source: Table, **measures: Measure) -> Rollup:
    return Rollup(
        "pages",
        source,
        time="at",
        every="1 day",
        by=["page"],
        measures={"visits": count(), **measures},
    )


@pytest.mark.parametrize(
    ("before", "after", "complete"),
    [
        ({"p": percentiles("seconds", [0.5])}, {"p": percentiles("seconds", [0.5, 0.9])}, True),
        ({}, {"seconds": total("seconds")}, False),
    ],
    ids=["other percentiles", "another measure"],
)
def test_a_session_that_stays_while_the_rollup_changes(
    empty_database: URL,
    before: dict[str, Measure],
    after: dict[str, Measure],
    complete: bool,
) -> None:
    """It runs what there is; and how values are read makes no backfill necessary."""
    engine = create_engine(empty_database, pool_size=1, max_overflow=0)
    rollups = []
    for first, measures in ((1, before), (101, after)):
        metadata = MetaData()
        rollups.append(of_pages(VISITS.to_metadata(metadata), **measures))
        autogenerate.repair(empty_database, metadata)
        visit(engine, first, first + 99)
        with engine.begin() as connection:
            run_rollup(connection, rollups[-1])
    with engine.begin() as connection:
        states = rollup_status(connection, rollups[-1])
        assert all(state.complete for state in states) is complete
    for _ in backfill(engine, rollups[-1]):
        pass
    with engine.begin() as connection:
        assert set(groups(connection, rollups[-1]).values()) == {0}
    engine.dispose()


def test_moves_that_are_transactions_of_their_own(visited: Engine) -> None:
    """As psql has it, each statement is committed."""
    alone = visited.execution_options(isolation_level="AUTOCOMMIT")
    with alone.connect() as connection:
        assert run_rollup(connection, BY_SITE).changes == 201
        assert_adds_up(visited)
        sql(connection, "DELETE FROM visits WHERE seconds = 7")
        assert run_batch(connection, BY_PAGE, 0).changes > 0
        for table in TABLES:
            sql(connection, f"DELETE FROM {table} WHERE visits % 2 = 1")
        for rollup in ROLLUPS:
            assert max(groups(connection, rollup).values()) > 0
            assert {each.groups > 0 for each in repair(connection, rollup)} == {True}
        assert_adds_up(visited)
        sql(connection, "UPDATE visits_rollups SET complete_since = 'infinity'")
        for table in TABLES:
            sql(connection, f"DELETE FROM {table}")
        while backfill_window(connection, BY_SITE) is not None:
            pass
        assert_adds_up(visited)
        sql(connection, "TRUNCATE visits")
    assert_adds_up(visited)


# Expire.

EDGE = MARCH + 3 * DAY


def stored(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    with engine.connect() as connection:
        return {
            table: sorted(sql(connection, found), key=repr) for table, (found, _) in TABLES.items()
        }


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "READ COMMITTED"])
def test_expired_rows_leave_their_aggregates(visited: Engine, level: Any) -> None:
    engine = visited.execution_options(isolation_level=level)
    assert_adds_up(visited)
    before = stored(visited)
    old = f"SELECT count(*) FROM visits WHERE at < '{EDGE.isoformat()}'"
    with visited.begin() as connection:
        ((expected,),) = sql(connection, old)
    assert expire(engine, BY_SITE, EDGE, window=timedelta(hours=5)) == expected > 300
    with visited.begin() as connection:
        assert sql(connection, old) == [(0,)]
        assert sql(connection, "SELECT count(*) FROM visits_log") == [(0,)]
        assert run_rollup(connection, BY_SITE).changes == 0
        assert {status.horizon for status in rollup_status(connection, BY_SITE)} == {EDGE}
        assert {status.horizon for status in rollup_status(connection, BY_PAGE)} == {EDGE}
    assert stored(visited) == before
    assert expire(visited, BY_SITE, EDGE) == 0


def test_beyond_the_horizon_nothing_is_compared(visited: Engine) -> None:
    assert_adds_up(visited)
    before = stored(visited)
    expire(visited, BY_SITE, EDGE)
    for move in (verify, repair):
        with visited.begin() as connection, pytest.raises(RollupError, match="cannot be compared"):
            move(connection, BY_SITE, since=EDGE - DAY)
        with visited.begin() as connection:
            # Without a beginning, everything after the horizon.
            for rollup in ROLLUPS:
                assert {each.groups for each in move(connection, rollup)} == {0}
    assert stored(visited) == before


@ON_POSTGRESQL_ONLY
def test_what_goes_with_expired_rows_leaves_other_rollups(empty_database: URL) -> None:
    """Triggers and foreign keys write to other tables, whose rollups count that."""
    metadata = MetaData()
    time = DateTime(timezone=True)
    orders = Table("orders", metadata, Column("id", Integer, primary_key=True), Column("at", time))
    key = ForeignKey(orders.c.id, ondelete="CASCADE")
    items = Table("items", metadata, Column("order_id", Integer, key))
    archive = Table("archive", metadata, Column("id", Integer))
    by_day = Rollup("by_day", orders, time="at", every="1 day", measures={"n": count()})
    others = [
        Rollup(f"all_{table.name}", table, measures={"n": count()}) for table in (items, archive)
    ]
    autogenerate.repair(empty_database, metadata)
    engine = create_engine(empty_database, poolclass=NullPool)
    with engine.begin() as connection:
        for statement in (
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN INSERT INTO archive SELECT OLD.id; RETURN NULL; END'",
            "CREATE TRIGGER keep AFTER DELETE ON orders FOR EACH ROW EXECUTE FUNCTION keep()",
            f"INSERT INTO orders SELECT i, timestamptz '{MARCH}' + i * interval '1 hour' "
            "FROM generate_series(1, 48) AS i",
            "INSERT INTO items SELECT id FROM orders",
        ):
            sql(connection, statement)
    assert expire(engine, by_day, MARCH + DAY) == 23
    with engine.begin() as connection:
        for rollup, rows in zip(others, (25, 23), strict=True):
            assert sql(connection, f"SELECT n FROM {rollup.name}_fresh") == [(rows,)]
            assert [found.groups for found in verify(connection, rollup)] == [0]


def test_a_late_row_adds_to_what_was_expired(visited: Engine) -> None:
    assert_adds_up(visited)
    with visited.begin() as connection:
        wanted = dict(sql(connection, "SELECT site, sum(visits) FROM by_site_1_day GROUP BY 1"))
    expire(visited, BY_SITE, EDGE)
    with visited.begin() as connection:
        sql(connection, "INSERT INTO visits VALUES (1, 'page 1', 49, '2026-03-01 12:34Z')")
        run_rollup(connection, BY_SITE)
        found = dict(sql(connection, "SELECT site, sum(visits) FROM by_site_1_day GROUP BY 1"))
        fresh = dict(
            sql(connection, "SELECT site, sum(visits) FROM by_site_1_day_fresh GROUP BY 1")
        )
    wanted[1] += 1
    assert found == fresh == wanted


def test_a_horizon_within_a_bucket(visited: Engine) -> None:
    assert_adds_up(visited)
    before = stored(visited)
    expire(visited, BY_SITE, EDGE + timedelta(minutes=30))
    with visited.begin() as connection:
        for rollup in ROLLUPS:
            assert set(groups(connection, rollup).values()) == {0}
            repair(connection, rollup)
        with pytest.raises(RollupError, match="cannot be compared"):
            verify(connection, BY_SITE, since=EDGE)
    assert stored(visited) == before


def test_rows_are_not_expired_before_they_are_in_the_rollups(tables: Engine) -> None:
    without_rollups(tables)
    visit(tables)
    autogenerate.repair(tables.url, METADATA)
    with pytest.raises(RollupError, match="cannot be expired before they are in the rollups"):
        expire(tables, BY_SITE, EDGE)
    for _ in backfill(tables, BY_SITE):
        pass
    assert expire(tables, BY_SITE, EDGE) > 0


def test_pending_rows_that_expire_are_in_the_aggregates(visited: Engine) -> None:
    """What is in the log when its rows go is added up all the same."""
    visit(visited, 1, 100)
    with visited.begin() as connection:
        wanted = sql(
            connection, "SELECT site, count(*) FROM visits WHERE at IS NOT NULL GROUP BY 1"
        )
    expire(visited, BY_SITE, EDGE)
    with visited.begin() as connection:
        run_rollup(connection, BY_SITE)
        found = sql(connection, "SELECT site, sum(visits)::bigint FROM by_site_1_day GROUP BY 1")
    assert sorted(found) == sorted(wanted)


def test_an_aware_moment(visited: Engine) -> None:
    with pytest.raises(ArgumentError, match="without a time zone"):
        expire(visited, BY_SITE, datetime(2026, 3, 1))  # noqa: DTZ001


def test_truncate_after_rows_have_expired(visited: Engine) -> None:
    assert_adds_up(visited)
    before = stored(visited)
    expire(visited, BY_SITE, EDGE)
    with visited.begin() as connection:
        sql(connection, "TRUNCATE visits")
    with visited.begin() as connection:
        run_rollup(connection, BY_SITE)
    after = stored(visited)
    assert after[HOURS] == [row for row in before[HOURS] if row[1] < EDGE]


# Status.


def test_the_status(visited: Engine) -> None:
    with visited.begin() as connection:
        hours, days = rollup_status(connection, BY_SITE)
        assert (hours.table, days.table) == (HOURS, "by_site_1_day")
        assert {hours.rollup, days.rollup} == {"by_site"}
        assert hours.pending == days.pending == 201
        assert hours.complete
        assert hours.horizon is None
        assert hours.last_run is not None
        assert hours.last_run.utcoffset() is not None
        assert hours.duration is not None
        assert hours.duration > timedelta(0)
        run_rollup(connection, BY_PAGE)
        (pages,) = rollup_status(connection, BY_PAGE)
        assert pages.pending == 0
        assert pages.last_run is not None
        assert pages.last_run > hours.last_run
    assert {rollup.name for rollup in rollups_of(METADATA)} == {"by_site", "by_page"}
