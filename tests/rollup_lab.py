"""A source with rollups of every kind, writers of every kind, and an oracle in Python.

The oracle reads raw rows, and nothing of what the engine has made.
"""

from __future__ import annotations

import json
import math
import random
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from zoneinfo import ZoneInfo

from psycopg import Error as DriverError
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Float,
    Integer,
    MetaData,
    NullPool,
    PrimaryKeyConstraint,
    Table,
    Text,
    create_engine,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError

from citus_analytics.rollups.declare import (
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
from citus_analytics.rollups.sql import RollupSpec, create, read
from citus_analytics.schema import Distributed, Reference, declared_distribution
from citus_analytics.sql import qualify

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

    from tests.servers import DatabaseServer

START: Final = datetime(2026, 3, 28, 22, 0, tzinfo=UTC)
"""Two hours before a night in which Berlin changes its clocks."""

BERLIN: Final = ZoneInfo("Europe/Berlin")

metadata = MetaData()
events = Table(
    "events",
    metadata,
    Column("id", BigInteger),
    Column("user_id", BigInteger),
    Column("kind", Text),
    Column("payload", JSONB),
    Column("ms", Integer),
    Column("temp", Float),
    Column("at", DateTime(timezone=True)),
    PrimaryKeyConstraint("user_id", "id"),
    Distributed("user_id"),
)
PER_USER: Final = Rollup(
    "per_user",
    events,
    time=events.c.at,
    every=["1 minute", "1 hour"],
    by=[events.c.user_id, events.c.kind],
    measures={
        "n": count(),
        "ms": total(events.c.ms),
        "avg_ms": average(events.c.ms),
        "first": minimum(events.c.ms),
        "last": maximum(events.c.temp),
        "temps": distinct(events.c.temp),
        "p": percentiles(events.c.ms, [0.5, 0.99]),
    },
)
BY_KIND: Final = Rollup(
    "by_kind",
    events,
    time=events.c.at,
    every="1 day at Europe/Berlin",
    by=[events.c.kind, events.c.payload["c"].astext.label("country")],
    measures={
        "temp": average(events.c.temp),
        "sd": stddev(events.c.temp),
        "tot": total(events.c.temp),
        "users": distinct(events.c.user_id),
        "t": percentiles(events.c.temp, [0, 0.25, 1]),
    },
    where=events.c.kind != "x",
    undated=True,
)
ALL_EVENTS: Final = Rollup(
    "all_events",
    events,
    measures={
        "n": count(),
        "kinds": count(events.c.kind),
        "different": distinct(events.c.kind),
        "about": distinct(events.c.ms, approximate=True),
    },
)
(SPEC,) = specs_of(metadata)

Group: TypeAlias = tuple[Any, ...]
Groups: TypeAlias = Mapping[Group, tuple[Any, ...]]
Mutation: TypeAlias = Callable[[str], str]

# What a target shows: the columns of its group, its measures, and what its values are read as.
_OF_USERS: Final = (
    ("user_id", "bucket", "kind"),
    ("n", "ms", "avg_ms", "first", "last"),
    ("temps", "p50", "p99"),
)
COLUMNS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "per_user_1_minute": _OF_USERS,
    "per_user_1_hour": _OF_USERS,
    "by_kind": (
        ("bucket", "kind", "country"),
        ("temp", "sd", "tot"),
        ("users", "t0", "t25", "t100"),
    ),
    "all_events": ((), ("n", "kinds"), ("different", "about")),
}
TABLES: Final = tuple(target.table for target in SPEC.targets)


def run_sql(connection: Connection, statement: str, **values: Any) -> Any:
    """Execute a statement whose colons are its own, unless it has values; return its result."""
    return connection.execute(text(statement if values else statement.replace(":", "\\:")), values)


def build(
    engine: Engine,
    *,
    citus: bool,
    rows: int = 0,
    mutation: Mutation = str,
    tables: MetaData = metadata,
    spec: RollupSpec = SPEC,
) -> None:
    """Create the tables and the rollups in an empty database, as a migration would.

    Args:
        engine: The database.
        citus: Whether its tables are distributed.
        rows: How many rows are there before the rollups are.
        mutation: Changes each statement of the rollups before it is executed.
        tables: What tables to create.
        spec: The rollups.
    """
    with engine.begin() as connection:
        tables.create_all(connection)
        if citus:
            run_sql(connection, "SET LOCAL citus.multi_shard_modify_mode TO 'sequential'")
            # The source first: the others are placed beside it.
            for table in sorted(tables.sorted_tables, key=lambda each: each.name != spec.source):
                name = qualify(table.name, table.schema)
                match declared_distribution(table):
                    case Distributed(column=column, colocate_with=beside):
                        source = qualify(spec.source, spec.schema)
                        run_sql(
                            connection,
                            "SELECT create_distributed_table(:name, :column, colocate_with => :b)",
                            name=name,
                            column=column,
                            b="default" if beside is None else source,
                        )
                    case Reference():
                        run_sql(connection, "SELECT create_reference_table(:name)", name=name)
                    case _:
                        pass
        if rows:
            connection.execute(events.insert(), [row(random.Random(i), i) for i in range(rows)])
        for statement in create(spec):
            run_sql(connection, mutation(statement))


def engine_with(server: DatabaseServer, url: URL, tables: MetaData, **options: Any) -> Engine:
    """Return an engine on an empty database that now has the tables and their rollups."""
    (spec,) = specs_of(tables)
    engine = create_engine(url, poolclass=NullPool, **options)
    build(engine, citus=server.kind == "citus", tables=tables, spec=spec)
    return engine


# The oracle.


def floor(at: datetime | None, seconds: int) -> datetime | None:
    if at is None:
        return None
    return datetime.fromtimestamp(at.timestamp() // seconds * seconds, UTC)


def berlin_day(at: datetime | None) -> datetime | None:
    if at is None:
        return None
    local = at.astimezone(BERLIN)
    return local.replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)


def float_sum(values: list[float]) -> float | Fraction | None:
    """Sum values exactly; NaN and infinities as PostgreSQL has it."""
    if not values:
        return None
    special = [value for value in values if not math.isfinite(value)]
    if special:
        return sum(special)
    return sum((Fraction(value) for value in values), Fraction(0))


def largest(values: list[float]) -> float | None:
    # PostgreSQL sorts NaN behind everything else.
    if any(math.isnan(value) for value in values):
        return math.nan
    return max(values, default=None)


@dataclass(frozen=True)
class About:
    """A number of which a percentile may be 1 % away."""

    value: float | None

    def is_near(self, found: float | None) -> bool:
        """Whether a percentile is right."""
        if self.value is None or found is None:
            return self.value is found
        if not math.isfinite(self.value):
            return same(self.value, found)
        return abs(found - self.value) <= 0.010001 * abs(self.value)


def percentile(values: list[float], fraction: str) -> About:
    """Return the first of the sorted values up to which there is at least a fraction of them."""
    if not values:
        return About(None)
    # PostgreSQL sorts NaN behind everything else.
    ordered = sorted(values, key=lambda value: (math.isnan(value), value))
    return About(float(ordered[max(math.ceil(Fraction(fraction) * len(ordered)), 1) - 1]))


def different(values: list[Any]) -> int:
    """Count different values: NaN is one, and so is zero of either sign."""
    return len({"NaN" if value != value else value for value in values})


@dataclass(frozen=True)
class Raw:
    """A row of the source; a time that is not finite is None."""

    user_id: int
    kind: str | None
    country: str | None
    ms: int | None
    temp: float | None
    at: datetime | None


def expected(rows: list[Raw]) -> dict[str, Groups]:
    """Return the groups that each target must have."""
    found: dict[str, Groups] = {}
    for target, seconds in (("per_user_1_minute", 60), ("per_user_1_hour", 3600)):
        grouped: dict[Group, list[Raw]] = defaultdict(list)
        for each in rows:
            if each.at is not None:
                grouped[each.user_id, floor(each.at, seconds), each.kind].append(each)
        found[target] = {group: _measures_of_user(members) for group, members in grouped.items()}
    by_kind: dict[Group, list[Raw]] = defaultdict(list)
    for each in rows:
        if each.kind is not None and each.kind != "x":
            by_kind[berlin_day(each.at), each.kind, each.country].append(each)
    found["by_kind"] = {group: _measures_of_kind(members) for group, members in by_kind.items()}
    kinds = [each.kind for each in rows if each.kind is not None]
    ms = [each.ms for each in rows if each.ms is not None]
    totals = (len(rows), len(kinds), different(kinds), different(ms))
    found["all_events"] = {(): totals} if rows else {}
    return found


def _measures_of_user(members: list[Raw]) -> tuple[Any, ...]:
    ms = [each.ms for each in members if each.ms is not None]
    temps = [each.temp for each in members if each.temp is not None]
    average_ = Fraction(sum(ms), len(ms)) if ms else None
    summed = sum(ms) if ms else None
    return (
        *(len(members), summed, average_, min(ms, default=None), largest(temps)),
        different(temps),
        *(percentile([*map(float, ms)], fraction) for fraction in ("0.5", "0.99")),
    )


def _measures_of_kind(members: list[Raw]) -> tuple[Any, ...]:
    temps = [each.temp for each in members if each.temp is not None]
    users = different([each.user_id for each in members])
    counted = (users, *(percentile(temps, fraction) for fraction in ("0", "0.25", "1")))
    summed = float_sum(temps)
    if summed is None:
        return None, None, None, *counted
    if not isinstance(summed, Fraction):
        return summed, math.nan if len(temps) > 1 else None, summed, *counted
    number = len(temps)
    squares = sum((Fraction(value) ** 2 for value in temps), Fraction(0))
    spread = (squares - summed**2 / number) / (number - 1) if number > 1 else None
    return summed / number, None if spread is None else math.sqrt(spread), summed, *counted


def same(left: Any, right: Any) -> bool:
    if isinstance(left, About):
        return left.is_near(right)
    if left is None or right is None:
        return left is right
    one, other = float(left), float(right)
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return one == other or abs(one - other) <= 1e-9 * max(1.0, abs(one), abs(other))


def differences(wanted: Groups, found: Groups) -> list[str]:
    """Return the groups that differ, in words."""
    return [
        f"{group}: raw {wanted.get(group)}, rolled up {found.get(group)}"
        for group in wanted.keys() | found.keys()
        if group not in wanted
        or group not in found
        or not all(map(same, wanted[group], found[group]))
    ][:5]


def raw_rows(connection: Connection, where: str = "true") -> list[Raw]:
    rows = run_sql(
        connection,
        "SELECT user_id, kind, payload->>'c', ms, temp, CASE WHEN isfinite(at) THEN at END "
        f"AS at FROM events WHERE {where}",
    )
    return [
        Raw(user, kind, country, ms, temp, at and at.astimezone(UTC))
        for user, kind, country, ms, temp, at in rows
    ]


def groups_of(connection: Connection, target: str, relation: str | None = None) -> Groups:
    """Return the groups of a target as of the last run, or of the view over it.

    No group may stand there twice.
    """
    group, measures, counted = COLUMNS[target]
    columns = ", ".join(f'"{name}"' for name in (*group, *measures, *counted))
    if relation is None:
        (spec,) = (each for each in SPEC.targets if each.table == target)
        relation = f"({read(SPEC, spec, fresh=False)}) AS rolled_up"
    rows = run_sql(connection, f"SELECT {columns} FROM {relation}").all()
    found = {
        tuple(v.astimezone(UTC) if isinstance(v, datetime) else v for v in each[: len(group)]): (
            tuple(each[len(group) :])
        )
        for each in rows
    }
    assert len(found) == len(rows), f"a group stands in more than one row of {target}"
    return found


def assert_fresh(connection: Connection) -> None:
    """Fail unless every fresh view equals the raw rows of the same snapshot.

    The transaction is REPEATABLE READ and has no snapshot yet, or nobody else writes.
    """
    # A table that is truncated between the snapshot and its use is empty: wait for it before.
    run_sql(connection, "LOCK TABLE events IN ACCESS SHARE MODE")
    wanted = expected(raw_rows(connection))
    for target in COLUMNS:
        off = differences(wanted[target], groups_of(connection, target, f"{target}_fresh"))
        assert not off, f"{target}_fresh: {off}"


def assert_at_rest(connection: Connection) -> None:
    """Fail unless all targets equal the raw rows, and nothing is pending."""
    assert run_sql(connection, "SELECT count(*) FROM events_log").scalar_one() == 0
    wanted = expected(raw_rows(connection))
    for target in COLUMNS:
        off = differences(wanted[target], groups_of(connection, target))
        assert not off, f"{target}: {off}"
        # The columns of the table itself are the same.
        group, measures, _ = COLUMNS[target]
        width = len(group) + len(measures)
        rows = run_sql(connection, f"SELECT {', '.join([*group, *measures])} FROM {target}")
        stored = {
            tuple(v.astimezone(UTC) if isinstance(v, datetime) else v for v in row[: len(group)]): (
                tuple(row[len(group) :])
            )
            for row in rows
        }
        shown = {g: m[: width - len(group)] for g, m in wanted[target].items()}
        off = differences(shown, stored)
        assert not off, f"the table {target}: {off}"
    empty = "SELECT count(*) FROM {} WHERE _rows <= 0"
    for each in SPEC.targets:
        if each.of is not None:
            assert run_sql(connection, empty.format(each.table)).scalar_one() == 0, each.table


def assert_verified(connection: Connection, targets: tuple[str, ...] = TABLES) -> None:
    """Fail if the engine itself finds a difference."""
    for target in targets:
        found = run_sql(
            connection, "SELECT * FROM events_reconcile(:target, NULL, NULL, false)", target=target
        ).one()
        assert found.groups == 0, f"{target}: {found.examples}"


def run(connection: Connection, *, wait: bool = True) -> int | None:
    changes: int | None = run_sql(
        connection, "SELECT changes FROM events_run(:wait)", wait=wait
    ).scalar_one()
    return changes


# The writers.

KINDS: Final = ("a", "b", "x", None)
TEMPS: Final = (None, 1.5, 0.0, -0.0, -3.0, 1000.125, math.inf, -math.inf, math.nan)
USERS: Final = 12


def moment(rng: random.Random) -> str | None:
    if rng.randrange(12) == 0:
        return rng.choice([None, "infinity", "-infinity"])
    return (START + timedelta(seconds=rng.randrange(0, 6 * 3600, 40))).isoformat()


def row(rng: random.Random, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "user_id": rng.randrange(USERS),
        "kind": rng.choice(KINDS),
        "payload": {"c": rng.choice(["de", "fr", None])},
        "ms": rng.choice([None, 1, 2, 3, 50, 2_000_000_000]),
        "temp": rng.choice(TEMPS[: 6 if rng.randrange(4) else 9]),
        "at": START + timedelta(seconds=rng.randrange(0, 6 * 3600, 40)),
    }


@dataclass
class Writer:
    """Changes the source at random, in the transaction of its connection."""

    connection: Connection
    rng: random.Random
    two_phase: bool = False
    truncates: bool = False
    citus: bool = False
    keys: tuple[int, ...] = tuple(range(USERS))

    def rows(self, number: int) -> list[dict[str, Any]]:
        """Return new rows."""
        made = [row(self.rng, self.rng.getrandbits(40)) for _ in range(number)]
        return [
            {
                **each,
                "user_id": self.rng.choice(self.keys),
                "at": moment(self.rng),
                "payload": json.dumps(each["payload"]),
                "temp": None if each["temp"] is None else str(each["temp"]),
            }
            for each in made
        ]

    def insert(self) -> None:
        """Insert rows by one statement."""
        run_many(self.connection, self.rows(self.rng.choice([1, 3, 30])), "")

    def upsert(self) -> None:
        """Insert rows, some of which are there."""
        rows = self.rows(3)
        for each in rows:
            each["id"] = self.rng.randrange(20)
        unique = {(each["user_id"], each["id"]): each for each in rows}
        run_many(
            self.connection,
            [unique[key] for key in sorted(unique)],
            " ON CONFLICT (user_id, id) DO UPDATE SET kind = excluded.kind, at = excluded.at, "
            "ms = excluded.ms, temp = excluded.temp",
        )

    def copy(self) -> None:
        """Copy rows in."""
        rows = self.rows(25)
        driver = self.connection.connection.driver_connection
        assert driver is not None
        run_sql(self.connection, "SELECT 1")
        with driver.cursor().copy(f"COPY events ({', '.join(rows[0])}) FROM STDIN") as copy:
            for each in rows:
                copy.write_row(list(each.values()))

    def update(self) -> None:
        """Move rows to another bucket and another group."""
        run_sql(
            self.connection,
            "UPDATE events SET at = CAST(:at AS timestamptz), kind = :kind, ms = ms % 7 - 3 "
            "WHERE user_id = :user AND id % 5 = :part",
            at=moment(self.rng),
            kind=self.rng.choice(KINDS),
            user=self.rng.choice(self.keys),
            part=self.rng.randrange(5),
        )

    def move(self) -> None:
        """Move a row to another key: PostgreSQL updates it, for Citus it goes and comes."""
        old, new = self.rng.choice(self.keys), self.rng.choice(self.keys)
        run_sql(
            self.connection,
            "WITH gone AS (DELETE FROM events WHERE user_id = :old AND id % 7 = 1 RETURNING *) "
            "INSERT INTO events SELECT id + CAST(:salt AS bigint), :new, kind, payload, ms, temp, "
            "at FROM gone",
            old=old,
            new=new,
            salt=self.rng.getrandbits(40),
        )

    def delete(self) -> None:
        """Delete a third of a user's rows."""
        run_sql(
            self.connection,
            "DELETE FROM events WHERE user_id = :user AND id % 3 = :part",
            user=self.rng.choice(self.keys),
            part=self.rng.randrange(3),
        )

    def merge(self) -> None:
        """Insert, update and delete by one statement."""
        run_sql(
            self.connection,
            "MERGE INTO events AS e USING (SELECT CAST(:user AS bigint) AS u, CAST(i AS bigint) "
            "AS i FROM generate_series(1, 12) AS i) AS s ON e.user_id = s.u AND e.id = s.i "
            "AND e.user_id = :user "
            "WHEN MATCHED AND e.id % 2 = 0 THEN DELETE "
            "WHEN MATCHED THEN UPDATE SET ms = 7, at = CAST(:at AS timestamptz) "
            "WHEN NOT MATCHED THEN INSERT (id, user_id, kind, ms, at) "
            "VALUES (s.i, s.u, 'm', 5, CAST(:at AS timestamptz))",
            user=self.rng.choice(self.keys),
            at=moment(self.rng),
        )

    def savepoint(self) -> None:
        """Make a change under a savepoint, and keep it or not."""
        savepoint = self.connection.begin_nested()
        self.change()
        (savepoint.rollback if self.rng.randrange(2) else savepoint.commit)()

    def truncate(self) -> None:
        """Empty the source."""
        run_sql(self.connection, "TRUNCATE events")

    def change(self) -> None:
        """Make one change."""
        choices = [self.insert, self.insert, self.upsert, self.copy, self.update, self.delete]
        choices += [self.savepoint]
        if not self.citus:
            # Citus updates no key, and merges from tables alone.
            choices += [self.move, self.merge]
        if self.truncates and self.rng.randrange(20) == 0:
            choices = [self.truncate]
        self.rng.choice(choices)()

    def end(self) -> None:
        """End the transaction in one way or another."""
        match self.rng.randrange(8):
            case 0:
                self.connection.rollback()
            case 1 if self.two_phase:
                name = f"'torture_{self.rng.getrandbits(60)}'"
                driver = self.connection.connection.driver_connection
                assert driver is not None
                run_sql(self.connection, f"PREPARE TRANSACTION {name}")
                self.connection.commit()
                driver.autocommit = True
                try:
                    how = self.rng.choice(["COMMIT", "COMMIT", "ROLLBACK"])
                    driver.execute(f"{how} PREPARED {name}")
                finally:
                    driver.autocommit = False
            case _:
                self.connection.commit()


def run_many(connection: Connection, rows: list[dict[str, Any]], rest: str) -> None:
    """Insert rows by one statement."""
    run_sql(
        connection,
        "INSERT INTO events (id, user_id, kind, payload, ms, temp, at) "
        "SELECT id, user_id, kind, payload, ms, temp, at FROM jsonb_to_recordset("
        "CAST(:rows AS jsonb)) AS r (id bigint, user_id bigint, kind text, payload jsonb, "
        f"ms integer, temp double precision, at timestamptz){rest}",
        rows=json.dumps([{**each, "payload": json.loads(each["payload"])} for each in rows]),
    )


# What may happen to a writer that meets others, and is no fault.
CONFLICTS: Final = frozenset({"40001", "40P01", "23505", "55P03"})


def tolerated(error: BaseException) -> bool:
    cause = getattr(error, "orig", error)
    # What Citus says to a statement that was planned before its shards were split.
    split = "could not find valid entry for shard" in str(cause)
    split |= "shard counts of co-located tables do not match" in str(cause)
    # What it says where they have been made anew.
    gone = re.search(r"""relation "\S+_\d+" does not exist""", str(cause)) is not None
    # New shards are there a moment before each node knows of them.
    new = "If its shards are being made anew just now" in str(cause)
    # Nor where each of them is now.
    new |= "cannot find a worker that has active placements" in str(cause)
    # What Citus makes of 23505 where a COPY fails on a worker.
    twice = "duplicate key value violates unique constraint" in str(cause)
    return split or gone or new or twice or getattr(cause, "sqlstate", "") in CONFLICTS


def write(writer: Writer, changes: int = 1) -> None:
    """Make changes in one transaction, which may lose against others."""
    try:
        for _ in range(changes):
            writer.change()
        writer.end()
    except (DBAPIError, DriverError) as error:
        with suppress(DBAPIError):
            writer.connection.rollback()
        if not tolerated(error):
            raise


class Torture:
    """Jobs that repeat themselves until the time is up, each on a connection of its own.

    Each is done once at least, however slow the machine is.

    Attributes:
        tolerant: Whether every job may lose against others, and not only those that write.
    """

    def __init__(
        self, engine: Engine, seconds: float, seed: int, *, tolerant: bool = False
    ) -> None:
        self.engine = engine
        self.tolerant = tolerant
        self.until = time.monotonic() + seconds
        self.rng = random.Random(seed)
        self.raised: list[BaseException] = []
        self.done: dict[str, int] = {}
        self.threads: list[threading.Thread] = []

    def start(self, name: str, job: Callable[[], None]) -> None:
        """Repeat a job."""
        begun = time.monotonic()

        def repeat() -> None:
            try:
                while not self.raised and self.wanted(name, begun):
                    try:
                        job()
                    except (DBAPIError, DriverError) as error:
                        if not self.tolerant or not tolerated(error):
                            raise
                    else:
                        self.done[name] = self.done.get(name, 0) + 1
            except BaseException as error:  # noqa: BLE001 - the test looks at it
                self.raised.append(error)

        # One that waits in the database for ever must not keep the tests from ending.
        self.threads.append(threading.Thread(target=repeat, name=name, daemon=True))
        self.threads[-1].start()

    def wanted(self, name: str, begun: float) -> bool:
        """Return whether a job has to be done once more."""
        until = self.until if self.done.get(name) else max(self.until, begun) + 60
        return time.monotonic() < until

    def finish(self) -> None:
        """Wait for all; raise what one of them raised."""
        patience = max(self.until, time.monotonic()) + 90
        for thread in self.threads:
            thread.join(max(0, patience - time.monotonic()))
        if self.raised:
            raise self.raised[0]
        stuck = [thread.name for thread in self.threads if thread.is_alive()]
        assert stuck == [], "these wait for ever"
        idle = [thread.name for thread in self.threads if not self.done.get(thread.name)]
        assert idle == [], "nothing came of these"

    def writer(
        self,
        number: int,
        isolation_level: str,
        *,
        on: Engine | None = None,
        two_phase: bool = False,
        citus: bool = False,
        truncates: bool = True,
    ) -> None:
        """Write, in transactions of an isolation level, through a node."""
        engine = on or self.engine
        connection = engine.connect().execution_options(isolation_level=isolation_level)
        rng = random.Random(self.rng.getrandbits(32))
        truncates = truncates and isolation_level == "READ COMMITTED"
        writer = Writer(connection, rng, two_phase, truncates, citus)
        self.start(f"writer {number}", lambda: write(writer, rng.randrange(1, 4)))

    def runner(
        self, number: int, *, wait: bool = True, pause: float = 0.0, conflicts: bool = False
    ) -> None:
        """Run, and stay in the transaction for a while; runs may lose to others or not."""

        def once() -> None:
            try:
                with self.engine.begin() as connection:
                    run(connection, wait=wait)
                    # A transaction goes on after its run, and may run again.
                    time.sleep(pause)
                    run(connection, wait=wait)
            except DBAPIError as error:
                if not conflicts or not tolerated(error):
                    raise
            time.sleep(0.01)

        self.start(f"runner {number}", once)

    def looker(self, number: int) -> None:
        """Compare the fresh views with the raw rows of one snapshot."""

        def once() -> None:
            with self.engine.connect().execution_options(
                isolation_level="REPEATABLE READ"
            ) as connection:
                assert_fresh(connection)

        self.start(f"looker {number}", once)

    def verifier(self, *, repair: bool = False) -> None:
        """Let the engine look, and repair what is not broken."""

        def once() -> None:
            with self.engine.begin() as connection:
                assert_verified(connection)
                if repair:
                    for target in TABLES[1:]:
                        found = run_sql(
                            connection,
                            "SELECT groups FROM events_reconcile(:target, NULL, NULL, true)",
                            target=target,
                        )
                        assert found.scalar_one() == 0

        self.start("repair" if repair else "verifier", once)
