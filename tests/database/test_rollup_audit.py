"""Audits prove a rollup window by window, from the newest rows back, and find what is wrong."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import BigInteger, Column, DateTime, Engine, Integer, MetaData, NullPool, Table
from sqlalchemy import create_engine as engine_of

from citus_analytics.errors import RollupError
from citus_analytics.rollups.declare import Rollup, count, distinct, specs_of, total
from citus_analytics.rollups.run import (
    AuditedWindow,
    audit,
    audit_window,
    backfill,
    expire,
    repair,
    rollup_status,
    run_rollup,
)
from citus_analytics.rollups.sql import create, drop
from citus_analytics.schema import Distributed
from tests.rollup_lab import build, run_sql
from tests.servers import ON_EVERY_SERVER, ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from tests.servers import DatabaseServer, Prepared

MARCH: Final = datetime(2026, 3, 1, tzinfo=UTC)
DAY: Final = timedelta(days=1)
TABLES = MetaData()
VISITS = Table(
    "visits",
    TABLES,
    Column("site", BigInteger),
    # Variables of the function are called like this.
    Column("width", Integer),
    Column("newest", Integer),
    Column("at", DateTime(timezone=True)),
    Distributed("site"),
)
BY_SITE = Rollup(
    "by_site",
    VISITS,
    time="at",
    every=["1 hour", "1 day at Europe/Berlin"],
    by=["site"],
    measures={"n": count(), "width": total("width"), "kinds": distinct("newest")},
    undated=True,
)
BY_WIDTH = Rollup(
    "by_width", VISITS, time="at", every="1 day", by=["width"], measures={"n": count()}
)
EVER = Rollup("ever", VISITS, measures={"n": count()})
(SPEC,) = specs_of(TABLES)
HOURS, DAYS = "by_site_1_hour", "by_site_1_day_at_europe_berlin"


@pytest.fixture
def visits(server: DatabaseServer, prepared: Prepared) -> Engine:
    """Ten days of visits, and one without a time, some of them pending."""

    def prepare(engine: Engine) -> None:
        build(engine, citus=server.kind == "citus", tables=TABLES, spec=SPEC)
        visit(engine, 0, 399)
        with engine.begin() as connection:
            run_rollup(connection, EVER)
        visit(engine, 400, 479)
        execute(engine, "INSERT INTO visits (site) VALUES (1)")

    return prepared("audit", prepare)


def visit(engine: Engine, first: int, last: int) -> None:
    execute(
        engine,
        f"INSERT INTO visits SELECT i % 5, i, i % 3, timestamptz '{MARCH}' + i * "
        f"interval '30 minutes' FROM generate_series({first}, {last}) AS i",
    )


def execute(engine: Engine, *statements: str) -> None:
    for statement in statements:
        with engine.begin() as connection:
            run_sql(connection, statement)


def rollup_of(table: str) -> Rollup:
    (found,) = (
        rollup for rollup in (BY_SITE, BY_WIDTH, EVER) if table in {t.name for t in rollup.tables}
    )
    return found


def audit_one(engine: Engine, table: str = HOURS, window: timedelta = DAY) -> AuditedWindow:
    with engine.begin() as connection:
        return audit_window(connection, rollup_of(table), table, window=window)


def a_round(engine: Engine, table: str = HOURS, window: timedelta = DAY) -> list[AuditedWindow]:
    found = [audit_one(engine, table, window)]
    while not found[-1].done:
        found.append(audit_one(engine, table, window))
        assert len(found) < 30
    return found


def proved(engine: Engine, table: str = HOURS) -> tuple[datetime | None, datetime | None]:
    with engine.begin() as connection:
        known = rollup_status(connection, rollup_of(table))
    (status,) = (each for each in known if each.table == table)
    return status.proved_since, status.proved_until


NEWEST: Final = MARCH + 479 * timedelta(minutes=30)


@ON_EVERY_SERVER
def test_a_round_covers_everything(visits: Engine) -> None:
    assert proved(visits) == (None, None)
    for table in (HOURS, DAYS, "by_width", f"{HOURS}_kinds"):
        windows = a_round(visits, table)
        assert [each.groups for each in windows] == [0] * len(windows)
        assert len(windows) >= 5
        # From the newest back, without a gap, from one end of time to the other.
        assert windows[0].until is None
        assert windows[-1].since is None
        for newer, older in itertools.pairwise(windows):
            assert older.until == newer.since
    for table in (HOURS, DAYS, "by_width"):
        since, until = proved(visits, table)
        assert since is None
        assert until is not None
        assert until > NEWEST
        # The next round begins again.
        assert audit_one(visits, table).until is None
    assert audit_one(visits, "ever") == AuditedWindow(
        table="ever", since=None, until=None, groups=0, done=True
    )
    assert proved(visits, "ever")[1] is not None


@ON_EVERY_SERVER
def test_pending_changes_are_no_difference(visits: Engine) -> None:
    execute(visits, "DELETE FROM visits WHERE width % 7 = 1", "UPDATE visits SET site = site")
    assert {each.groups for each in a_round(visits, window=3 * DAY)} == {0}


def test_tampering_is_found_in_its_window(visits: Engine) -> None:
    with visits.begin() as connection:
        run_rollup(connection, EVER)
    assert {each.groups for each in a_round(visits)} == {0}
    day = MARCH + 4 * DAY
    noon = f"'{day + timedelta(hours=12)}'"
    execute(visits, f"UPDATE {HOURS} SET n = n + 1 WHERE site = 1 AND bucket = {noon}")
    found = audit_one(visits)
    while not found.groups:
        assert not found.done
        found = audit_one(visits)
    assert found.since is not None
    assert found.until is not None
    assert found.since <= day + timedelta(hours=12) < found.until <= found.since + 2 * DAY
    assert found.groups == 1
    assert '"n" -1' in found.examples[0]
    # What was proved before ends there, and the other side is proved again.
    since, until = proved(visits)
    assert since == found.until
    assert until is not None
    assert until > NEWEST
    assert {each.groups for each in a_round(visits)} == {0}
    assert proved(visits) == (None, found.since)
    assert {each.groups for each in a_round(visits, DAYS)} == {0}
    with visits.begin() as connection:
        repair(connection, BY_SITE, since=day, until=day + DAY)
    assert {each.groups for each in a_round(visits)} == {0}
    since, until = proved(visits)
    assert since is None
    assert until is not None
    assert until > NEWEST


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        (f"DELETE FROM {HOURS} WHERE bucket = '{MARCH}'", HOURS),
        (f"UPDATE {HOURS} SET n = 5 WHERE bucket IS NULL", HOURS),
        (f"INSERT INTO {HOURS} (site, bucket, n) VALUES (9, '1999-01-01Z', 1)", HOURS),
        (f"INSERT INTO {HOURS} (site, bucket, n) VALUES (9, '2100-01-01Z', 1)", HOURS),
        (f"UPDATE {HOURS}_kinds SET _rows = _rows + 1 WHERE _value = 2", f"{HOURS}_kinds"),
        ("INSERT INTO by_width (width, bucket, n) VALUES (NULL, '2026-03-02Z', 1)", "by_width"),
        ("UPDATE ever SET n = 1", "ever"),
    ],
)
def test_tampering_of_every_kind(visits: Engine, statement: str, table: str) -> None:
    with visits.begin() as connection:
        run_rollup(connection, EVER)
    execute(visits, statement)
    windows = a_round(visits, table, 3 * DAY)
    assert sum(each.groups or 0 for each in windows) >= 1
    since, until = proved(visits, table)
    assert (since, until) == (None, None) or len([w for w in windows if not w.groups]) > 0


def test_it_goes_on_where_it_has_stopped(visits: Engine) -> None:
    first = audit_one(visits, window=2 * DAY)
    assert proved(visits)[0] == first.since
    second = audit_one(visits, window=2 * DAY)
    assert second.until == first.since
    assert proved(visits)[0] == second.since
    # What is new is for the next round.
    visit(visits, 480, 600)
    rest = a_round(visits, window=2 * DAY)
    assert rest[0].until == second.since
    assert rest[-1].since is None
    newest = audit_one(visits)
    assert newest.until is None
    assert newest.groups == 0
    until = proved(visits)[1]
    assert until is not None
    assert until > MARCH + 600 * timedelta(minutes=30)


def test_a_budget(visits: Engine) -> None:
    short = [*audit(visits, BY_SITE, budget=timedelta(0))]
    assert len(short) == 1
    everything = [*audit(visits, BY_SITE, window=5 * DAY, budget=timedelta(minutes=5))]
    for table in BY_SITE.tables:
        windows = [each for each in everything if each.table == table.name]
        assert [each.done for each in windows] == [False] * (len(windows) - 1) + [True]
        assert {each.groups for each in windows} == {0}
    assert everything[0].until == short[0].since


def test_what_has_been_expired_is_not_audited(visits: Engine) -> None:
    edge = MARCH + 5 * DAY + timedelta(minutes=20)
    proof = a_round(visits)
    assert proof[-1].since is None
    expire(visits, BY_SITE, edge, window=DAY)
    execute(visits, f"UPDATE {HOURS} SET n = 77 WHERE bucket < '{MARCH + DAY}'")
    for table, first in (
        # The first whole bucket after the horizon; of Berlin, a day begins an hour before UTC's.
        (HOURS, edge + timedelta(minutes=40)),
        (DAYS, MARCH + 6 * DAY - timedelta(hours=1)),
    ):
        windows = a_round(visits, table)
        assert windows[-1].since == first
        assert {each.groups for each in windows} == {0}
    assert a_round(visits, "ever") == [
        AuditedWindow(table="ever", since=None, until=None, groups=None, done=True)
    ]
    # Everything, in the middle of a round.
    audit_one(visits)
    expire(visits, BY_SITE, NEWEST + DAY, window=30 * DAY)
    windows = a_round(visits)
    assert {each.groups for each in windows} == {0}
    since, until = proved(visits)
    assert until is not None
    assert since is None or since <= until
    assert a_round(visits)[-1].done


@ON_POSTGRESQL_ONLY
def test_an_empty_source(visits: Engine) -> None:
    execute(visits, "TRUNCATE visits", "SELECT visits_run()")
    for table in (HOURS, "by_width", "ever"):
        (window,) = a_round(visits, table)
        assert (window.since, window.until, window.groups) == (None, None, 0)
    execute(
        visits, "INSERT INTO visits VALUES (1, 1, 1, '4000-01-01Z'), (1, 1, 1, '0044-03-15Z BC')"
    )
    assert {each.groups for each in a_round(visits)} == {0}


def test_not_before_it_is_complete(visits: Engine) -> None:
    with visits.begin() as connection:
        for statement in (*drop(SPEC), *(f"DELETE FROM {t.table}" for t in SPEC.targets)):
            run_sql(connection, statement)
    with visits.begin() as connection:
        for statement in create(SPEC):
            run_sql(connection, statement)
    with pytest.raises(RollupError, match=r"cannot be audited before it is complete.*Backfill"):
        audit_one(visits)
    for _ in backfill(visits, EVER, window=30 * DAY):
        pass
    assert {each.groups for each in a_round(visits, window=5 * DAY)} == {0}


MUTANTS: Final = {
    "rounds do not go on": ("coalesce(known.audited_since, 'infinity')", "timestamptz 'infinity'"),
    "nothing is noted": ("proved_since = CASE", "proved_since = CASE WHEN true THEN NULL"),
    "the range is not cut": (
        "WHEN s.proved_until > until THEN until END",
        "ELSE s.proved_since END",
    ),
    "rows without a time are left out": ("OR since <= oldest THEN", "OR false THEN"),
    "the horizon does not matter": ("since <= known.horizon", "false"),
    "gaps": (
        "since := coalesce(least(newest, now()), now()) - width;",
        "since := newest - width; until := until - interval '1 hour';",
    ),
}
SCENARIO: Final[dict[str, Any]] = {
    "round": test_a_round_covers_everything,
    "tampering": test_tampering_is_found_in_its_window,
    "resumed": test_it_goes_on_where_it_has_stopped,
    "expired": test_what_has_been_expired_is_not_audited,
}


@ON_POSTGRESQL_ONLY
@pytest.mark.endurance
@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_noticed(server: DatabaseServer, name: str) -> None:
    old, new = MUTANTS[name]
    noticed, changed = [], False
    for test in SCENARIO.values():
        with server.database("empty") as url:
            engine = engine_of(url, poolclass=NullPool)
            mutants: list[str] = []

            def mutate(statement: str, mutants: list[str] = mutants) -> str:
                mutant = statement.replace(old, new)
                mutants += [mutant] if mutant != statement else []
                return mutant

            build(engine, citus=False, tables=TABLES, spec=SPEC, mutation=mutate)
            changed = changed or bool(mutants)
            visit(engine, 0, 479)
            execute(engine, "INSERT INTO visits (site) VALUES (1)")
            try:
                test(engine)
            except BaseException as error:  # noqa: BLE001 - whatever a test may say
                noticed.append(type(error))
    assert changed, "there is nothing to change"
    assert noticed
