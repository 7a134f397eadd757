"""What has broken rollups once: values, times and moments at the edge; and mutants of their SQL."""

from __future__ import annotations

import random
import re
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    Computed,
    DateTime,
    Engine,
    Integer,
    MetaData,
    NullPool,
    Table,
    create_engine,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import UserDefinedType

from citus_analytics.errors import RollupError
from citus_analytics.rollups.declare import Rollup, average, count, minimum, specs_of, total
from citus_analytics.rollups.run import repair, verify
from citus_analytics.rollups.sql import create, drop
from citus_analytics.schema import Distributed
from citus_analytics.sql import qualify, quote
from tests.rollup_lab import (
    ALL_EVENTS,
    BY_KIND,
    PER_USER,
    SPEC,
    Writer,
    assert_at_rest,
    assert_fresh,
    assert_verified,
    build,
    run,
    run_sql,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import URL, Connection

    from tests.servers import DatabaseServer, Prepared

INSERT: Final = "INSERT INTO events (id, user_id, kind, ms, temp, at) VALUES "
HORIZON: Final = datetime(2026, 3, 1, 0, 30, tzinfo=UTC)


@pytest.fixture
def lab(server: DatabaseServer, prepared: Prepared) -> Engine:
    """An engine on a database with the rollups of the lab."""
    citus = server.kind == "citus"
    return prepared("lab", lambda engine: build(engine, citus=citus))


def execute(lab: Engine, *statements: str) -> None:
    for statement in statements:
        with lab.begin() as connection:
            run_sql(connection, statement)


def groups(lab: Engine, query: str) -> list[tuple[object, ...]]:
    with lab.begin() as connection:
        return [tuple(each) for each in run_sql(connection, query)]


def backfill_all(lab: Engine, width: str = "1 day") -> int:
    windows = 0
    while True:
        with lab.begin() as connection:
            query = f"SELECT worked FROM events_backfill(interval '{width}')"
            if not run_sql(connection, query).scalar_one():
                return windows
        windows += 1
        assert windows < 20


def test_weights_times_values_do_not_overflow(lab: Engine) -> None:
    row = "1, 'a', 2000000000, 1, '2026-03-01 00:00Z'"
    execute(lab, f"{INSERT} (1, {row}), (2, {row})", "SELECT events_run()")
    execute(lab, "TRUNCATE events", "SELECT events_run()")
    with lab.begin() as connection:
        assert_at_rest(connection)


@pytest.mark.parametrize("edge", ["294276-12-31 23:59:59.9Z", "4714-11-24 00:00Z BC"])
def test_extremes_at_the_edges_of_time(lab: Engine, edge: str) -> None:
    execute(lab, f"{INSERT} (1, 1, 'a', 5, 1, '{edge}'), (2, 1, 'a', 6, 2, '{edge}')")
    execute(lab, "SELECT events_run()", "DELETE FROM events WHERE id = 1", "SELECT events_run()")
    assert groups(lab, "SELECT n, ms, first FROM per_user_1_hour") == [(1, 6, 6)]
    with lab.begin() as connection:
        assert_verified(connection)


@pytest.mark.parametrize("width", ["1 day", "3 days", "9000000 days"])
def test_backfill_to_the_edges_of_time(
    server: DatabaseServer, empty_database: URL, width: str
) -> None:
    lab = create_engine(empty_database, poolclass=NullPool)
    build(lab, citus=server.kind == "citus")
    with lab.begin() as connection:
        for statement in drop(SPEC):
            run_sql(connection, statement)
    execute(
        lab,
        f"{INSERT} (1, 1, 'a', 5, 1, '294276-12-31 23:59:59.9Z'), (2, 1, 'a', 6, 2, "
        "'4714-11-24 00:00Z BC'), (3, 1, 'a', 6, 2, '2026-01-01Z'), (4, 1, 'a', 6, 2, NULL), "
        "(5, 1, 'a', 6, 2, 'infinity'), (6, 2, 'a', 1, 1, '-infinity')",
    )
    with lab.begin() as connection:
        for statement in create(SPEC):
            run_sql(connection, statement)
    assert backfill_all(lab, width) >= 1
    assert groups(lab, "SELECT n FROM all_events") == [(6,)]
    with lab.begin() as connection:
        assert_verified(connection)


def expired(lab: Engine) -> None:
    execute(
        lab,
        f"{INSERT} (1, 1, 'a', 1, 1, '2026-03-01 00:10Z'), (2, 1, 'a', 5, 2, '2026-03-01 00:40Z'), "
        "(3, 1, 'a', 0, 9, '2026-03-01 00:41Z'), (4, 1, 'a', 4, 4, '2026-03-01 01:41Z')",
        "SELECT events_run()",
        f"SELECT events_expire('{HORIZON}', interval '1 day')",
    )


def test_a_group_of_which_rows_are_expired_keeps_its_extremes(lab: Engine) -> None:
    expired(lab)
    execute(lab, "DELETE FROM events WHERE id = 3")
    # Whether 1 or more was the next no source can tell; what was destroyed before is kept.
    hour = "FROM {} WHERE bucket = '2026-03-01 00:00Z'"
    query = f"SELECT n, ms, first, last {hour}"
    assert groups(lab, query.format("per_user_1_hour_fresh")) == [(2, 6, 0, 9.0)]
    execute(lab, "SELECT events_run()")
    assert groups(lab, query.format("per_user_1_hour")) == [(2, 6, 0, 9.0)]
    execute(lab, "DELETE FROM events WHERE id = 4", "SELECT events_run()")
    assert groups(lab, "SELECT n, ms, first, last FROM per_user_1_hour") == [(2, 6, 0, 9.0)]


def test_repair_leaves_expired_aggregates_alone(lab: Engine) -> None:
    expired(lab)
    for rollup in (PER_USER, BY_KIND):
        for move in (verify, repair):
            with lab.begin() as connection:
                assert {found.groups for found in move(connection, rollup)} == {0}
    for since in (None, HORIZON, HORIZON + timedelta(days=1)):
        with lab.begin() as connection, pytest.raises(RollupError, match="cannot be compared"):
            repair(connection, ALL_EVENTS, since=since)
    assert groups(lab, "SELECT n FROM all_events") == [(4,)]
    assert groups(lab, "SELECT sum(n) FROM per_user_1_hour") == [(4,)]


def test_a_rollup_that_changes_after_expiry_can_be_backfilled(lab: Engine) -> None:
    expired(lab)
    with lab.begin() as connection:
        for statement in drop(SPEC, keep=True):
            run_sql(connection, statement)
        run_sql(
            connection,
            "UPDATE events_rollups SET shape = jsonb_set(shape::jsonb, '{columns}', '{}')::text",
        )
        for statement in create(SPEC):
            run_sql(connection, statement)
    assert backfill_all(lab) >= 1
    assert groups(lab, "SELECT n FROM all_events") == [(4,)]
    assert groups(lab, "SELECT sum(n) FROM per_user_1_hour") == [(4,)]
    execute(lab, f"SELECT events_expire('{HORIZON}', interval '1 day')")


@pytest.mark.parametrize(
    "before",
    [
        "UPDATE events_rollups SET shape = (shape::jsonb #- '{sums,_ms_count}')::text",
        "UPDATE events_rollups SET shape = (shape::jsonb #- '{extremes,first}')::text",
        "DELETE FROM events_rollups WHERE target = 'by_kind_users'",
    ],
)
def test_what_has_been_expired_gets_no_new_measure(lab: Engine, before: str) -> None:
    """It would be wrong for the groups whose rows are gone."""
    expired(lab)
    with lab.begin() as connection:
        for statement in (*drop(SPEC, keep=True), before):
            run_sql(connection, statement)

    def again() -> None:
        with lab.begin() as connection:
            for statement in create(SPEC):
                run_sql(connection, statement)

    with pytest.raises(DBAPIError, match="cannot have another measure"):
        again()


def test_a_backfill_up_to_a_horizon_within_a_bucket(lab: Engine) -> None:
    """A day of Berlin begins before the day of UTC that a window begins with."""
    rows = ", ".join(
        f"({number}, 1, 'a', 1, 1, '2026-{day} 12:00Z')"
        for number, day in enumerate(("02-27", "02-28", "03-01", "03-02"))
    )
    execute(lab, f"{INSERT} {rows}", "SELECT events_run()")
    execute(lab, "SELECT events_expire('2026-03-01 00:00Z', interval '9 days')")
    execute(lab, "UPDATE events_rollups SET complete_since = 'infinity'")
    assert backfill_all(lab) >= 2
    assert groups(lab, "SELECT count(*), sum(n) FROM per_user_1_hour") == [(4, 4)]
    assert groups(lab, "SELECT count(*), sum(_rows) FROM by_kind") == [(4, 4)]


def test_a_migration_loses_nothing_that_is_being_written(lab: Engine) -> None:
    def migrate() -> None:
        with lab.begin() as connection:
            for statement in (*drop(SPEC, keep=True), *create(SPEC)):
                run_sql(connection, statement)

    with lab.connect() as writer:
        run_sql(writer, f"{INSERT} (1, 1, 'a', 1, 1, '2026-03-01 00:10Z')")
        migration = threading.Thread(target=migrate)
        migration.start()
        time.sleep(0.5)
        writer.commit()
    migration.join()
    with lab.begin() as connection:
        run(connection)
        assert_at_rest(connection)


def test_verify_is_one_statement_on_each_shard(server: DatabaseServer, empty_database: URL) -> None:
    """Separate ones would see the rows and the log of different moments."""
    if server.kind == "postgresql":
        pytest.skip("one server has one snapshot")
    lab = create_engine(empty_database, poolclass=NullPool)
    build(lab, citus=True)
    with lab.begin() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        plans: list[str] = []
        driver.add_notice_handler(lambda notice: plans.append(notice.message_primary or ""))
        run_sql(connection, "SET LOCAL citus.log_remote_commands TO on")
        run_sql(connection, "SET LOCAL client_min_messages TO notice")
        assert_verified(connection)
    reads = [plan for plan in plans if "events_log_" in plan]
    assert reads
    assert [plan for plan in reads if " events_1" not in plan.replace("public.", "")] == []


class Extension(UserDefinedType[str]):
    """A type of an extension, whose operators are in the schema `public`."""

    cache_ok = True

    def __init__(self, name: str) -> None:
        self.name = name

    def get_col_spec(self, **_: object) -> str:
        """Return its name."""
        return self.name


def test_odd_names_and_types_of_extensions(server: DatabaseServer, empty_database: URL) -> None:
    """46 bytes, quotes, colons, per cent signs, what the machinery itself calls something."""
    tables, schema = MetaData(), "Shop's %"
    key, when, dotted = 'the %key"', "Ti me", "html.nodes"
    source = Table(
        'Tä"b%le: ' + "x" * 36,
        tables,
        Column(key, BigInteger),
        Column("l.n:ode's %s", Extension("citext")),
        Column("tree", Extension("ltree")),
        Column(when, DateTime(timezone=True)),
        *(Column(name, Integer) for name in (dotted, "n", "at", "key")),
        Distributed(key),
        schema=schema,
    )
    columns = source.c
    assert len(source.name.encode()) == 46
    Rollup(
        'Röl"l%: up',
        source,
        time=columns[when],
        every=["1 hour", "1 month at America/New_York"],
        by=[columns[key], columns["l.n:ode's %s"], columns.n],
        measures={
            "n_": count(),
            "s %": total(columns[dotted]),
            "m:in": minimum(columns[dotted]),
            'a"v': average(columns["at"]),
        },
    )
    Rollup(
        "u",
        source,
        time=columns[when],
        every="1 week",
        by=[columns["l.n:ode's %s"], columns.tree, columns["key"]],
        measures={"x": count(), "t%": total(columns[dotted])},
        undated=True,
    )
    (spec,) = specs_of(tables)
    lab = create_engine(empty_database, poolclass=NullPool)
    execute(lab, f"CREATE SCHEMA {quote(schema)}")
    execute(lab, "CREATE EXTENSION citext", "CREATE EXTENSION ltree")
    build(lab, citus=server.kind == "citus", tables=tables, spec=spec)
    table = qualify(source.name, schema)
    for change, rows in (
        (
            f"INSERT INTO {table} SELECT i % 3, (ARRAY['a', 'A', 'b', NULL])[1 + i % 4]::"
            "public.citext, (ARRAY['x.y', 'x', NULL])[1 + i % 3]::public.ltree, timestamptz "
            "'2026-03-01Z' + i * interval '7 hours', i, i % 2, i, i % 5 "
            "FROM generate_series(1, 60) AS i",
            60,
        ),
        (f"DELETE FROM {table} WHERE {quote(dotted)} < 20", 41),
        (f"UPDATE {table} SET {quote(dotted)} = 0, tree = 'q' WHERE {quote(dotted)} > 50", 41),
        (f"TRUNCATE {table}", 0),
    ):
        execute(lab, change)
        for pending in (True, False):
            with lab.begin() as connection:
                if not pending:
                    run_sql(connection, "SET LOCAL search_path = pg_catalog")
                    run_sql(connection, f"SELECT {qualify(f'{source.name}_run', schema)}()")
                reconcile = qualify(f"{source.name}_reconcile", schema).replace(":", "\\:")
                for target in spec.targets:
                    statement = f"SELECT groups FROM {reconcile}(:target, NULL, NULL, false)"
                    found = run_sql(connection, statement, target=target.table)
                    assert found.scalar_one() == 0
                    fresh = qualify(f"{target.table}_fresh", schema)
                    rows_column = quote("x" if target.table == "u" else "n_")
                    query = f"SELECT coalesce(sum({rows_column}), 0) FROM {fresh}"
                    assert run_sql(connection, query).scalar_one() == rows
    with lab.begin() as connection:
        for statement in drop(spec):
            run_sql(connection, statement)


def test_virtual_generated_columns_are_refused(postgres: DatabaseServer) -> None:
    tables = MetaData()
    source = Table(
        "readings",
        tables,
        Column("x", Integer),
        Column("y", Integer, Computed("x * 2", persisted=False)),
        Column("yy", Integer, Computed("x * 3", persisted=True)),
    )
    stored = Rollup("stored", source, by=[source.c.yy], measures={"n": count()})
    with postgres.database("empty") as url:
        lab = create_engine(url, poolclass=NullPool)
        build(lab, citus=False, tables=tables, spec=stored.spec())
        virtual = Rollup("virtual", source, by=[source.c.y], measures={"n": count()})
        with pytest.raises(DBAPIError, match="virtual generated column"):
            build(lab, citus=False, tables=tables, spec=virtual.spec())


# Mutants: the machinery with a clause less, or another. Extremes without their filter on rows that
# have come are none: a value that has gone was one of the group, and makes it be computed anew.

MUTANTS: Final[dict[str, tuple[str, str]]] = {
    "no trigger on INSERT": (r"^CREATE TRIGGER .*AFTER INSERT", ""),
    "no trigger on UPDATE": (r"^CREATE TRIGGER .*AFTER UPDATE", ""),
    "no trigger on DELETE": (r"^CREATE TRIGGER .*_capture_delete.*", ""),
    "no trigger on TRUNCATE": (r"^CREATE TRIGGER .*BEFORE TRUNCATE", ""),
    "nothing is absorbed": (r"^CREATE TRIGGER .*_absorb.*", ""),
    "removed rows are added": ("SELECT -1, l.", "SELECT 1, l."),
    "emptied rows count once": ("SELECT -count(*)::integer", "SELECT -1"),
    "emptied tables are added": ("SELECT -count(*)::integer", "SELECT count(*)::integer"),
    "infinite times have buckets": ('CASE WHEN isfinite(r."at") THEN r."at" END', 'r."at"'),
    "the filter is true": ("(r.kind != 'x') IS TRUE", "true"),
    "NULL is not filtered": ("(r.kind != 'x') IS TRUE", "(r.kind != 'x') IS NOT FALSE"),
    "rows overwrite": ('"n" = t."n" + excluded."n"', '"n" = excluded."n"'),
    "sums overwrite": (
        '"_ms_sum" = t."_ms_sum" + excluded."_ms_sum"',
        '"_ms_sum" = excluded."_ms_sum"',
    ),
    "sums without weight": ("sum(l.n * (coalesce", "sum((coalesce"),
    "NULLs count": ('CASE WHEN l."ms" IS NULL THEN 0 ELSE 1 END', "1"),
    "NaN is a number": ("WHEN l.\"temp\" = 'NaN' THEN 1", "WHEN l.\"temp\" = 'NaN' THEN 0"),
    "dead groups stay": ("FILTER (WHERE w._empty)", "FILTER (WHERE false)"),
    "groups with rows die": ("FILTER (WHERE w._empty)", "FILTER (WHERE NOT w._empty)"),
    "least is greatest": ("= least(", "= greatest("),
    "lost extremes stay": ("FROM _drained AS l WHERE l.n < 0", "FROM _drained AS l WHERE false"),
    "lost extremes of others": ("HAVING sum(_weight) > 0", ""),
    "sums of zero rows are left": ("HAVING sum(l.n) <> 0 OR", "HAVING sum(l.n) <> 0 AND"),
    "the log stays": ('DELETE FROM "events_log";', 'DELETE FROM "events_log" WHERE false;'),
    "fresh without the log": (
        'FROM "events_log" AS l WHERE',
        'FROM "events_log" AS l WHERE false AND',
    ),
    "fresh with dead groups": ('HAVING sum(u."n") > 0', ""),
    "fresh extremes stay": ("CASE WHEN s._lost THEN", "CASE WHEN false THEN"),
    "verify without the log": ("(-l.n)::numeric", "0::numeric"),
    "verify without a difference": ("<> 0", "< 0"),
    "days are UTC": ("'Europe/Berlin'", "'UTC'"),
    "hours are minutes": ("interval '1 hour'", "interval '1 minute'"),
    "values that have gone count": ("v._n > 0", "true"),
    "values without a group": ("WHERE v._part = 0 OR", "WHERE"),
    "NULL is a value": ('AND l."temp" IS NOT NULL', ""),
    "values of all measures": ("FILTER (WHERE u._part = 1)", ""),
    "values without weight": ("l.n AS _n", "1 AS _n"),
    "values of the table alone": ('t."_rows" AS _n', "0 AS _n"),
    "percentiles from above": ("ORDER BY v._v2)", "ORDER BY v._v2 DESC)"),
    "percentiles of everything": ("u._up_to2 >= ", "true OR 1 > "),
    "percentiles one too low": ("ceil(0.25 * ", "floor(0.25 * "),
    "percentiles of all groups": ('v."bucket", v."kind", v."country", v._part', "v._part"),
    "bins without a sign": ("sign((r.temp)::numeric)", "sign(1)"),
    "zero has a logarithm": ("WHEN r.temp = 0 THEN 0", "WHEN r.temp = 0 THEN 50000"),
    "NaN is the smallest": ("= 'NaN' THEN 100001", "= 'NaN' THEN -100001"),
    "bins are too wide": ("/ 0.020000666706669435)", "/ 0.03)"),
    "bins are not the middle": ("2 * power(", "2.03 * power("),
    "registers are few": ("& 2047", "& 1"),
    "all NULLs are others": ("IS NOT DISTINCT FROM", "="),
}


def scenario(lab: Engine) -> None:
    """Change, look and run, so that every clause matters."""
    snapshots = lab.execution_options(isolation_level="REPEATABLE READ")
    with lab.connect() as writing, snapshots.connect() as looking:
        writer = Writer(writing, random.Random(3))

        def look() -> None:
            looking.rollback()
            assert_fresh(looking)
            looking.rollback()

        def in_turns(step: Callable[[Connection], object]) -> None:
            with lab.begin() as connection:
                step(connection)

        for turn in range(30):
            write(writer)
            if turn == 20:
                execute(lab, "TRUNCATE events")
            look()
            in_turns(assert_verified)
            if turn % 3 == 2:
                in_turns(run)
                in_turns(assert_at_rest)
        edges = f"{INSERT} (1, 1, 'e', NULL, 'NaN', '2026-03-01 00:00Z')"
        for change in (
            edges,
            f"{edges.replace('(1,', '(2,')}, (3, 1, 'e', 7, -1, '2026-03-01 00:00:30Z')",
            "DELETE FROM events WHERE id = 1",
            "DELETE FROM events WHERE id = 2",
            f"{INSERT} (5, 1, 'e', 9, -1, '2026-03-01 00:00:30Z')",
            "UPDATE events SET ms = 8, temp = -9 WHERE id = 3",
            "UPDATE events SET kind = NULL WHERE user_id = 1",
            "DELETE FROM events WHERE id = 3",
            "DELETE FROM events",
        ):
            execute(lab, change)
            look()
            in_turns(assert_verified)
            in_turns(run)
            in_turns(assert_at_rest)


@pytest.fixture
def empty(postgres: DatabaseServer) -> Iterator[Engine]:
    """An engine on an empty database."""
    with postgres.database("empty") as url:
        yield create_engine(url, poolclass=NullPool)


def test_the_scenario(empty: Engine) -> None:
    build(empty, citus=False)
    scenario(empty)


@pytest.mark.endurance
@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_noticed(empty: Engine, name: str) -> None:
    old, new = MUTANTS[name]
    changed: list[str] = []

    def mutate(statement: str) -> str:
        if old.startswith("^"):
            mutant = "SELECT 1" if re.match(old, statement, re.DOTALL) else statement
        else:
            mutant = statement.replace(old, new)
        if mutant != statement:
            changed.append(statement)
        return mutant

    try:
        build(empty, citus=False, mutation=mutate)
        scenario(empty)
    except (AssertionError, DBAPIError):
        noticed = True
    else:
        noticed = False
    assert changed, "there is nothing to change"
    assert noticed


SAVED = """
DO $$ BEGIN
  INSERT INTO events (id, user_id, kind, at) VALUES (8, 1, 'a', '2026-03-01 00:10Z');
  BEGIN
    INSERT INTO events (id, user_id, kind, at) VALUES (9, 1, 'a', '2026-03-01 00:10Z');
    DELETE FROM events WHERE user_id = 2;
    RAISE EXCEPTION 'undone';
  EXCEPTION WHEN raise_exception THEN
    UPDATE events SET ms = 8 WHERE user_id = 1;
  END;
END $$"""
NEW = "(7, 1, 'a', 7, 7, '2026-03-01 00:10Z')"
# Of public reports on what else keeps aggregates: statements that change a row more than once, or
# several tables at once, and what is undone in between.
REPORTED: Final[dict[str, tuple[str, ...]]] = {
    "a savepoint": (SAVED,),
    "changes in one statement": (
        "WITH gone AS (DELETE FROM events WHERE user_id = 2 RETURNING *), "
        "moved AS (UPDATE events SET ms = 9 WHERE user_id = 3 RETURNING *) "
        "INSERT INTO events (id, user_id, kind, ms, at) "
        "SELECT id + 100, user_id, 'b', ms, at FROM gone UNION ALL "
        "SELECT id + 100, user_id, 'b', ms, at FROM moved",
    ),
    "a row that is inserted or updated": (
        f"{INSERT} {NEW}, (1, 1, 'b', 1, 1, '2026-03-01 02:00Z') ON CONFLICT (user_id, id) "
        "DO UPDATE SET kind = excluded.kind, ms = events.ms + 1, at = excluded.at",
    ),
    "a row that is changed by its own trigger": (
        "CREATE FUNCTION again() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "UPDATE events SET ms = coalesce(ms, 0) + 1, kind = 'again' WHERE id = NEW.id; "
        "RETURN NULL; END $$",
        "CREATE TRIGGER again AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION again()",
        f"{INSERT} {NEW}",
        "DROP TRIGGER again ON events",
    ),
    "rows that go with others of their table": (
        "ALTER TABLE events ADD COLUMN parent bigint, ADD UNIQUE (id)",
        "ALTER TABLE events ADD FOREIGN KEY (parent) REFERENCES events (id) ON DELETE CASCADE "
        "ON UPDATE CASCADE",
        "UPDATE events SET parent = 1 WHERE id > 1",
        "UPDATE events SET id = 11 WHERE id = 1",
        "DELETE FROM events WHERE id = 11",
    ),
    "a merge": (
        f"MERGE INTO events AS e USING (VALUES {NEW}, (1, 1, NULL, 1, 1, NULL)) "
        "AS v (id, user_id, kind, ms, temp, at) ON e.id = v.id AND e.user_id = v.user_id "
        "WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (id, user_id, kind, ms, temp, at) "
        "VALUES (v.id, v.user_id, v.kind, v.ms, v.temp, v.at::timestamptz)",
    ),
    "rows that come after all have gone": (f"TRUNCATE events; {INSERT} {NEW}",),
}


@pytest.mark.parametrize("report", REPORTED)
def test_what_breaks_others(report: str, server: DatabaseServer, lab: Engine) -> None:
    refused = (
        "a row that is changed by its own trigger",
        "rows that go with others of their table",
        "changes in one statement",
        "a merge",
    )
    if server.kind == "citus" and report in refused:
        pytest.skip("Citus refuses that")
    rows = ", ".join(f"({i}, {i}, 'a', {i}, {i}, '2026-03-01 00:{i:02}Z')" for i in range(1, 6))
    execute(lab, f"{INSERT} {rows}", "SELECT events_run()")
    for statement in REPORTED[report]:
        execute(lab, statement)
        with lab.begin() as connection:
            assert_fresh(connection)
    execute(lab, "SELECT events_run()")
    with lab.begin() as connection:
        assert_at_rest(connection)
        assert_verified(connection)
