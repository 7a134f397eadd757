"""Rows that come, change or go behind the horizon: added or refused, and counted either way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import BigInteger, Column, DateTime, Engine, Integer, MetaData, NullPool, Table
from sqlalchemy import create_engine as engine_of
from sqlalchemy.exc import DBAPIError

from citus_analytics.errors import ArgumentError, DeclarationError, RollupError
from citus_analytics.rollups.declare import (
    Late,
    Rollup,
    count,
    distinct,
    minimum,
    percentiles,
    specs_of,
    total,
)
from citus_analytics.rollups.run import (
    audit_window,
    backfill_window,
    expire,
    expire_window,
    repair,
    rollup_status,
    run_rollup,
    verify,
)
from citus_analytics.schema import Distributed
from tests.rollup_lab import build, run_sql
from tests.servers import ON_EVERY_SERVER, ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

    from tests.rollup_lab import Mutation
    from tests.servers import DatabaseServer

NOON: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
# In the middle of a bucket.
HORIZON: Final = NOON + timedelta(minutes=30)
FORWARD: Final = NOON + timedelta(hours=2)


class Lab:
    """A source with rollups by one policy, and what they have to have."""

    def __init__(
        self, engine: Engine, late: Late, *, citus: bool, mutation: Mutation = str
    ) -> None:
        self.engine = engine
        self.late = late
        tables = MetaData()
        self.source = source = Table(
            "visits",
            tables,
            Column("site", BigInteger),
            # The functions have variables of these names.
            Column("before", Integer),
            Column("oldest", Integer),
            Column("page", Integer),
            Column("edge", Integer),
            Column("at", DateTime(timezone=True)),
            Distributed("site"),
        )
        self.keyed = Rollup(
            "keyed",
            source,
            time="at",
            every="1 hour",
            by=["site"],
            measures={
                "n": count(),
                "pages": total("page"),
                "lowest": minimum("page"),
                "kinds": distinct("edge"),
                "p": percentiles("page", [0.5]),
            },
            late=late,
        )
        self.by_page = Rollup(
            "by_page",
            source,
            time="at",
            every="1 hour",
            by=["page", "edge", "before", "oldest"],
            measures={"n": count()},
            undated=True,
            late=late,
        )
        self.ever = Rollup("ever", source, measures={"n": count()}, late=late)
        (spec,) = specs_of(tables)
        build(engine, citus=citus, tables=tables, spec=spec, mutation=mutation)

    def execute(self, *statements: str) -> None:
        """Execute statements, each in a transaction."""
        for statement in statements:
            with self.engine.begin() as connection:
                run_sql(connection, statement)

    def visit(self, site: int, at: datetime | str, page: int, number: int = 1) -> None:
        """Add some visits."""
        self.execute(
            f"INSERT INTO visits SELECT {site}, 1, 2, {page}, {site}, '{at}' "
            f"FROM generate_series(1, {number})"
        )

    def run(self) -> int:
        """Run the rollups."""
        with self.engine.begin() as connection:
            return run_rollup(connection, self.keyed).changes

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Return rows."""
        with self.engine.begin() as connection:
            return [tuple(row) for row in run_sql(connection, statement)]

    def late_changes(self) -> int:
        """Return how many late changes have been counted."""
        with self.engine.begin() as connection:
            counts = {
                status.late
                for rollup in (self.keyed, self.by_page, self.ever)
                for status in rollup_status(connection, rollup)
            }
        (only,) = counts
        return only

    def assert_has(self, *wanted: tuple[int, datetime, int, int, int], total: int) -> None:
        """Fail unless the groups are these, fresh, then after a run, and by every rollup."""
        shown = sorted(wanted)
        for turn in range(2):
            suffix = "_fresh"
            for _ in range(turn + 1):
                found = self.query(
                    f"SELECT site, bucket, n, pages, lowest FROM keyed{suffix} ORDER BY 1, 2"
                )
                assert [(a, b.astimezone(UTC), *rest) for a, b, *rest in found] == shown
                assert self.query(f"SELECT n FROM ever{suffix}") == [(total,)]
                assert self.query(f"SELECT sum(n) FROM by_page{suffix}") == [(total,)]
                suffix = ""
            with self.engine.begin() as connection:
                # The values have as many rows as the groups.
                values = run_sql(connection, "SELECT * FROM keyed_fresh WHERE kinds <> 1").all()
                assert not values
            if turn == 0:
                self.run()
        for table in ("keyed_kinds", "keyed_p"):
            assert self.query(f"SELECT sum(_rows) FROM {table}") == [
                (sum(row[2] for row in shown),)
            ]
        for rollup in (self.keyed, self.by_page):
            for move in (verify, repair):
                with self.engine.begin() as connection:
                    assert {each.groups for each in move(connection, rollup)} == {0}


@pytest.fixture(params=["add", "refuse"])
def lab(server: DatabaseServer, empty_engine: Engine, request: pytest.FixtureRequest) -> Lab:
    """Visits on both sides of a horizon: before it three have been expired."""
    lab = Lab(empty_engine, request.param, citus=server.kind == "citus")
    start(lab)
    return lab


def start(lab: Lab) -> None:
    lab.visit(1, NOON, 5, 2)
    lab.visit(1, NOON + timedelta(minutes=10), 3)
    lab.visit(1, NOON + timedelta(minutes=40), 4)
    lab.visit(1, NOON + timedelta(minutes=50), 9)
    lab.visit(2, FORWARD, 6)
    # One of them is pending when they go.
    assert expire(lab.engine, lab.keyed, HORIZON) == 3


EXPIRED: Final = (1, NOON, 5, 26, 3)
LATER: Final = (2, FORWARD, 1, 6, 6)


def scenario(lab: Lab) -> None:
    """Insert, update, delete and truncate behind the horizon."""
    adds = lab.late == "add"
    lab.assert_has(EXPIRED, LATER, total=6)
    assert lab.late_changes() == 0
    lab.visit(1, NOON + timedelta(minutes=20), 1, 4)
    lab.visit(3, NOON, 7)
    late = [(1, NOON, 9, 30, 1), (3, NOON, 1, 7, 7)] if adds else [EXPIRED]
    lab.assert_has(*late, LATER, total=11 if adds else 6)
    assert lab.late_changes() == 5
    # Some that are behind, and one that is not.
    lab.execute("UPDATE visits SET page = 2 WHERE site = 3 OR page = 6")
    late = [(1, NOON, 9, 30, 1), (3, NOON, 1, 2, 2)] if adds else [EXPIRED]
    lab.assert_has(*late, (2, FORWARD, 1, 2, 2), total=11 if adds else 6)
    assert lab.late_changes() == 7
    # One goes from behind to before the horizon, and one the other way.
    lab.execute(f"UPDATE visits SET at = '{FORWARD}' WHERE site = 3")
    forward = [(2, FORWARD, 1, 2, 2), (3, FORWARD, 1, 2, 2)]
    late = [(1, NOON, 9, 30, 1)] if adds else [EXPIRED]
    lab.assert_has(*late, *forward, total=11 if adds else 7)
    assert lab.late_changes() == 8
    # The smallest of what is left goes; which is the next the source cannot know.
    lab.execute("DELETE FROM visits WHERE page = 4")
    late = [(1, NOON, 8, 26, 1)] if adds else [(1, NOON, 4, 22, 3)]
    lab.assert_has(*late, *forward, total=10 if adds else 6)
    assert lab.late_changes() == 8
    lab.execute("DELETE FROM visits WHERE page = 1")
    late = [(1, NOON, 4, 22, 1)] if adds else [(1, NOON, 4, 22, 3)]
    lab.assert_has(*late, *forward, total=6)
    assert lab.late_changes() == 12
    lab.visit(1, NOON, 100, 2)
    lab.execute("TRUNCATE visits")
    late = [(1, NOON, 3, 13, 1)] if adds else [(1, NOON, 3, 13, 3)]
    lab.assert_has(*late, total=3)
    with lab.engine.begin() as connection, pytest.raises(RollupError, match="cannot be compared"):
        verify(connection, lab.ever)


@ON_EVERY_SERVER
@pytest.mark.endurance
def test_late_rows(lab: Lab) -> None:
    scenario(lab)


@ON_EVERY_SERVER
def test_what_is_pending_when_the_horizon_moves(lab: Lab) -> None:
    """Changes from before the horizon came are no late ones."""
    lab.visit(2, FORWARD, 1, 3)
    lab.execute("DELETE FROM visits WHERE page = 9")
    assert expire(lab.engine, lab.by_page, FORWARD + timedelta(hours=1)) == 5
    lab.assert_has((1, NOON, 4, 17, 3), (2, FORWARD, 4, 9, 1), total=8)
    assert lab.late_changes() == 0
    with lab.engine.begin() as connection:
        assert {s.horizon for s in rollup_status(connection, lab.ever)} == {
            FORWARD + timedelta(hours=1)
        }


@ON_EVERY_SERVER
def test_a_horizon_that_moves_while_rows_come(lab: Lab) -> None:
    """A writer that has begun before is not refused, and nothing is added up twice."""
    with lab.engine.connect() as writer:
        run_sql(writer, f"INSERT INTO visits VALUES (7, 0, 0, 1, 1, '{FORWARD}')")
        with lab.engine.begin() as connection:
            expire_window(connection, lab.keyed, FORWARD + timedelta(hours=1))
        run_sql(writer, f"INSERT INTO visits VALUES (7, 0, 0, 2, 1, '{FORWARD}')")
        writer.commit()
    lab.run()
    found = lab.query("SELECT n, pages FROM keyed WHERE site = 7")
    assert found == ([(2, 3)] if lab.late == "add" else [(1, 1)])
    assert lab.query("SELECT n FROM keyed WHERE site = 2") == [(1,)]


@ON_EVERY_SERVER
def test_rows_without_a_time_are_never_late(lab: Lab) -> None:
    for at in ("infinity", "-infinity"):
        lab.visit(4, at, 1)
    lab.execute("INSERT INTO visits (site) VALUES (4)")
    lab.run()
    assert lab.late_changes() == 0
    assert lab.query("SELECT sum(n) FROM by_page WHERE bucket IS NULL") == [(3,)]
    assert expire(lab.engine, lab.keyed, FORWARD + timedelta(days=1)) == 3
    assert lab.query("SELECT count(*) FROM visits") == [(3,)]
    lab.execute("DELETE FROM visits")
    lab.run()
    assert lab.query("SELECT sum(n) FROM by_page WHERE bucket IS NULL") == [(None,)]


MUTANTS: Final = {
    "late rows are not refused": ("THEN 0 ELSE 1 END", "THEN 1 ELSE 1 END"),
    "late deletions are not refused": ("THEN 0 ELSE -1 END", "THEN -1 ELSE -1 END"),
    "late rows are not counted": ("late = s.late + too_late", "late = s.late"),
    "late rows are all others": ('DELETE FROM "visits_log" AS l WHERE l.n = 0', "SELECT 1"),
    "what was refused is a smallest value": (
        '(r."at" < (SELECT max(e.horizon) FROM "visits_horizon" AS e)) IS NOT TRUE',
        "true",
    ),
    "the horizon stays": ("SET horizon = greatest(s.horizon, before)", "SET horizon = s.horizon"),
    "what expires is deleted": ("expired := split_part(expire, ' ', 1)::numeric", "PERFORM 1"),
    "verify looks behind the horizon": ("_window_since < _window_horizon", "false"),
}


@ON_POSTGRESQL_ONLY
@pytest.mark.endurance
@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_noticed(empty_database: URL, name: str) -> None:
    old, new = MUTANTS[name]
    changed: list[str] = []

    def mutate(statement: str) -> str:
        mutant = statement.replace(old, new)
        if mutant != statement:
            changed.append(statement)
        return mutant

    try:
        lab = Lab(
            engine_of(empty_database, poolclass=NullPool), "refuse", citus=False, mutation=mutate
        )
        start(lab)
        scenario(lab)
    except (AssertionError, DBAPIError, pytest.fail.Exception):
        noticed = True
    else:
        noticed = False
    assert changed, "there is nothing to change"
    assert noticed


# What is refused.


def test_one_policy_for_a_source() -> None:
    source = Table("s", MetaData(), Column("n", Integer), Column("at", DateTime(timezone=True)))
    Rollup("a", source, time="at", every="1 day", measures={"n": count()}, late="refuse")
    with pytest.raises(DeclarationError, match="of one source do different things with late rows"):
        Rollup("b", source, measures={"n": count()})
    with pytest.raises(DeclarationError, match="late must be 'add' or 'refuse', got 'never'"):
        Rollup("c", source, measures={"n": count()}, late="never")  # type: ignore[arg-type]


@ON_POSTGRESQL_ONLY
def test_windows_that_are_none(lab: Lab) -> None:
    def moves(connection: Connection, width: timedelta) -> list[Any]:
        return [
            lambda: expire_window(connection, lab.keyed, FORWARD, window=width),
            lambda: backfill_window(connection, lab.keyed, window=width),
            lambda: audit_window(connection, lab.keyed, "keyed", window=width),
        ]

    with lab.engine.connect() as connection:
        for width in (timedelta(0), -timedelta(hours=1)):
            for move in moves(connection, width):
                with pytest.raises(ArgumentError, match="a window must be longer than 0, got"):
                    move()
        with pytest.raises(RollupError, match="there is no rollup table nothing of visits"):
            audit_window(connection, lab.keyed, "nothing")


@ON_POSTGRESQL_ONLY
def test_totals_alone_expire_by_nothing(empty_database: URL) -> None:
    tables = MetaData()
    source = Table("s", tables, Column("n", Integer))
    totals = Rollup("totals", source, measures={"n": count()})
    engine = engine_of(empty_database, poolclass=NullPool)
    build(engine, citus=False, tables=tables, spec=totals.spec())
    with pytest.raises(RollupError, match="have no time to expire rows by"):
        expire(engine, totals, NOON)


@ON_POSTGRESQL_ONLY
def test_a_rollup_that_only_others_of_its_source_are_beside(lab: Lab) -> None:
    added = Rollup("added", lab.source, measures={"n": count()}, late=lab.late)
    with (
        lab.engine.connect() as connection,
        pytest.raises(RollupError, match=r"has no rollup 'added': added in \"visits_rollups\""),
    ):
        rollup_status(connection, added)
