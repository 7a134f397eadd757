"""Whatever is asked of whatever rollup, the answer is that of Python over the raw rows."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, Literal

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Double,
    Engine,
    Integer,
    MetaData,
    NullPool,
    Table,
    Text,
    create_engine,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.elements import TextClause

from citus_analytics import (
    Distributed,
    Rollup,
    average,
    count,
    distinct,
    maximum,
    minimum,
    percentiles,
    run_rollup,
    stddev,
    total,
)
from citus_analytics.errors import ArgumentError
from citus_analytics.rollups.declare import specs_of, width_of
from citus_analytics.rollups.sql import drop
from tests.database.test_rollup_measures import start_of_bucket
from tests.rollup_lab import build, different, largest, percentile, run_sql, same

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

    from citus_analytics.rollups.declare import Measure
    from tests.servers import DatabaseServer

# Two days around the night in which Berlin changes its clocks.
START: Final = datetime(2026, 3, 28, 12, tzinfo=UTC)
LEVELS: Final = (
    "15 minutes",
    "1 hour",
    "6 hours",
    "1 day",
    "1 day at Europe/Berlin",
    "1 week",
    "1 month at Europe/Berlin",
)
WIDTHS: Final = (*LEVELS, "2 hours", "3 days", "1 month", "1 year at Europe/Berlin")


@dataclass(frozen=True)
class Row:
    """A row of the source."""

    id: int
    key: int
    kind: str | None
    country: str | None
    n: int | None
    x: float | None
    at: datetime | str | None

    @property
    def time(self) -> datetime | None:
        """When it happened, if that is finite."""
        return self.at if isinstance(self.at, datetime) else None


@dataclass(frozen=True)
class Declared:
    """What is drawn of a rollup."""

    dimensions: tuple[str, ...]
    levels: tuple[str, ...]
    measures: tuple[str, ...]
    undated: bool = False
    where: bool = False

    def measure(self, source: Table, name: str) -> Measure:
        """Return a measure."""
        c = source.c
        return {
            "rows": count(),
            "ns": count(c.n),
            "sum": total(c.x),
            "avg": average(c.n),
            "spread": stddev(c.n),
            "lo": minimum(c.n),
            "hi": maximum(c.x),
            "kinds": distinct(c.kind),
            "keys": distinct(c.key),
            "about": distinct(c.n, approximate=True),
            "p": percentiles(c.x),
            "q": percentiles(c.n, [0.5]),
        }[name]

    def rollup(self) -> Rollup:
        """Declare it."""
        source = Table(
            "s",
            MetaData(),
            Column("id", BigInteger),
            Column("key", BigInteger),
            Column("kind", Text),
            Column("payload", JSONB),
            Column("n", Integer),
            Column("x", Double),
            Column("at", DateTime(timezone=True)),
            Distributed("key"),
        )
        columns = {
            "key": source.c.key,
            "kind": source.c.kind,
            "country": source.c.payload["c"].astext.label("country"),
        }
        return Rollup(
            "r",
            source,
            time="at" if self.levels else None,
            every=self.levels or None,
            by=[columns[name] for name in self.dimensions],
            measures={name: self.measure(source, name) for name in self.measures},
            undated=self.undated,
            where=source.c.n > 0 if self.where else None,
        )

    def counts(self, row: Row) -> bool:
        """Whether a row is in the rollup."""
        if self.where and (row.n is None or row.n <= 0):
            return False
        return row.time is not None or self.undated or not self.levels


@dataclass(frozen=True)
class Question:
    """What is asked."""

    by: tuple[str, ...] = ()
    measures: tuple[str, ...] | None = None
    every: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    freshness: Literal["fresh", "rolled_up"] = "fresh"


def answer(rows: list[Row], declared: Declared, asked: Question, names: list[str]) -> Any:
    """Return the groups and their measures, by Python."""
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    if not asked.by and asked.every is None:
        groups[()] = []
    for row in rows:
        time = row.time
        if not declared.counts(row):
            continue
        if asked.since is not None and (time is None or time < asked.since):
            continue
        if asked.until is not None and (time is None or time >= asked.until):
            continue
        bucket = []
        if asked.every is not None:
            bucket = [None if time is None else start_of_bucket(asked.every, time)]
        groups[(*bucket, *(getattr(row, name) for name in asked.by))].append(row)
    return {group: tuple(measured(rows, name) for name in names) for group, rows in groups.items()}


def measured(rows: list[Row], name: str) -> Any:
    ns = [row.n for row in rows if row.n is not None]
    xs = [row.x for row in rows if row.x is not None]
    fraction = re.fullmatch(r"[pq](\d+(?:[._]\d+)?)", name)
    if fraction:
        values = xs if name.startswith("p") else [float(n) for n in ns]
        return percentile(values, str(Fraction(fraction[1].replace("_", ".")) / 100))
    mean = Fraction(sum(ns), len(ns)) if ns else None
    spread = None
    if mean is not None and len(ns) > 1:
        spread = math.sqrt(sum((n - mean) ** 2 for n in ns) / (len(ns) - 1))
    return {
        "rows": len(rows),
        "ns": len(ns),
        "sum": sum(map(Fraction, xs)) if xs else None,
        "avg": mean,
        "spread": spread,
        "lo": min(ns, default=None),
        "hi": largest(xs),
        "kinds": different([row.kind for row in rows if row.kind is not None]),
        "keys": different([row.key for row in rows]),
        "about": different(ns),
    }[name]


# What is drawn.

TIMES = st.one_of(
    st.integers(0, 4 * 48).map(lambda quarters: START + quarters * timedelta(minutes=15)),
    st.sampled_from([None, "infinity", START, START + timedelta(days=40)]),
)
ROWS = st.builds(
    Row,
    id=st.just(0),
    key=st.integers(1, 3),
    kind=st.sampled_from([None, "", "a", "b"]),
    country=st.sampled_from([None, "de", "fr"]),
    n=st.none() | st.integers(-2, 4),
    x=st.sampled_from([None, 0.0, -0.0, 1.5, 7.0, -1e9, 1e-200]),
    at=TIMES,
)


@st.composite
def declarations(draw: st.DrawFn) -> Declared:
    dimensions = draw(st.lists(st.sampled_from(["key", "kind", "country"]), unique=True))
    names = ["rows", "ns", "sum", "avg", "spread", "kinds", "keys", "about", "p", "q"]
    if "key" in dimensions:
        names += ["lo", "hi"]
    levels = draw(st.lists(st.sampled_from(LEVELS), unique=True, max_size=3))
    return Declared(
        tuple(dimensions),
        tuple(levels),
        tuple(draw(st.lists(st.sampled_from(names), unique=True, min_size=1, max_size=5))),
        undated=bool(levels) and draw(st.booleans()),
        where=draw(st.booleans()),
    )


@st.composite
def questions(draw: st.DrawFn, declared: Declared) -> Question:
    names: list[str] = []
    for name in declared.measures:
        names += {"p": ["p50", "p99.9", "p0", "p12_5"], "q": ["q50", "q100"]}.get(name, [name])
    every = draw(st.none() | st.sampled_from(WIDTHS)) if declared.levels else None
    edges = st.sampled_from([*declared.levels, *([every] if every else [])] or ["1 day"])
    moments = st.builds(
        lambda width, hours: start_of_bucket(width, START + timedelta(hours=hours)),
        edges,
        st.integers(-30, 60),
    ) | st.just(START + timedelta(minutes=1))
    bounded = st.none() | moments
    by = (
        draw(st.lists(st.sampled_from(declared.dimensions), unique=True))
        if (declared.dimensions)
        else []
    )
    return Question(
        tuple(by),
        draw(st.none() | st.lists(st.sampled_from(names), unique=True, min_size=1).map(tuple)),
        every,
        draw(bounded),
        draw(bounded),
        draw(st.sampled_from(["fresh", "rolled_up"])),
    )


@dataclass(frozen=True)
class Case:
    """A rollup, what happens to its source, and what is asked."""

    declared: Declared
    before: tuple[Row, ...] = ()
    after: tuple[Row, ...] = ()
    deleted: frozenset[int] = frozenset()
    updated: dict[int, Row] = field(default_factory=dict)
    asked: tuple[Question, ...] = (Question(),)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    declared = draw(declarations())
    rows = draw(st.lists(ROWS, max_size=12))
    numbers = st.integers(0, max(len(rows) - 1, 0))
    middle = draw(numbers)
    return Case(
        declared,
        tuple(rows[:middle]),
        tuple(rows[middle:]),
        frozenset(draw(st.sets(numbers, max_size=3))),
        draw(st.dictionaries(numbers, ROWS, max_size=2)),
        tuple(draw(st.lists(questions(declared), min_size=1, max_size=6))),
    )


# What is done.


def insert(connection: Connection, rows: list[Row]) -> None:
    for row in rows:
        run_sql(
            connection,
            "INSERT INTO s VALUES (:id, :key, :kind, CAST(:payload AS jsonb), :n, :x, "
            "CAST(:at AS timestamptz))",
            id=row.id,
            key=row.key,
            kind=row.kind,
            payload=json.dumps({"c": row.country}),
            n=row.n,
            x=row.x,
            at=None if row.at is None else str(row.at),
        )


@contextmanager
def created(engine: Engine, rollup: Rollup, *, citus: bool) -> Iterator[None]:
    """Create a rollup and its source, and drop them in the end."""
    tables = rollup.source.metadata
    (spec,) = specs_of(tables)
    build(engine, citus=citus, tables=tables, spec=spec)
    try:
        yield
    finally:
        with engine.begin() as connection:
            for statement in drop(spec):
                run_sql(connection, statement)
        with engine.begin() as connection:
            tables.drop_all(connection)


def play(engine: Engine, case: Case, rollup: Rollup) -> tuple[list[Row], list[Row]]:
    """Change the source; return its rows as of the last run, and now."""
    numbered = {
        number: Row(number, *list(vars(row).values())[1:])
        for number, row in enumerate([*case.before, *case.after])
    }
    rolled_up = [numbered[number] for number in range(len(case.before))]
    with engine.begin() as connection:
        insert(connection, rolled_up)
    with engine.begin() as connection:
        run_rollup(connection, rollup)
    with engine.begin() as connection:
        insert(connection, [numbered[n] for n in range(len(case.before), len(numbered))])
        for number, row in case.updated.items():
            if number in numbered:
                # Citus updates no key.
                old = numbered.pop(number)
                run_sql(connection, "DELETE FROM s WHERE id = :id", id=number)
                numbered[number] = Row(old.id, *list(vars(row).values())[1:])
                insert(connection, [numbered[number]])
        for number in case.deleted & numbered.keys():
            run_sql(connection, "DELETE FROM s WHERE id = :id", id=number)
            del numbered[number]
    return rolled_up, list(numbered.values())


def can_answer(declared: Declared, asked: Question) -> bool:
    """Whether there is a level that answers beyond doubt."""
    bounds = [each for each in (asked.since, asked.until) if each is not None]
    if not declared.levels:
        return not bounds and asked.every is None
    if asked.every and any(start_of_bucket(asked.every, each) != each for each in bounds):
        return False
    fixed = {level: seconds for level in WIDTHS if (seconds := width_of(level).seconds) is not None}
    return any(
        (
            asked.every in (None, level)
            or (asked.every in fixed and level in fixed and fixed[asked.every] % fixed[level] == 0)
        )
        and all(start_of_bucket(level, each) == each for each in bounds)
        for level in declared.levels
    )


def assert_reads_the_widest(query: str, rollup: Rollup, asked: Question) -> None:
    """Fail if another level is read than the widest that is made for it, or the source."""
    names = {table.name: level for level, table in rollup.targets.items()}
    names |= {table.name: level for (level, _), table in rollup.value_tables.items()}
    read = set(re.findall(r'(?:FROM|JOIN) "(\w+)" AS', query))
    assert ("s_log" in read) is (asked.freshness == "fresh")
    extremes = {"lo", "hi"} & set(asked.measures or rollup.measures)
    if extremes and asked.freshness == "fresh":
        # Where one has gone, only the source knows the next.
        read.discard("s")
    levels = {names[table] for table in read - {"s_log"}}
    assert len(levels) == 1, read
    level = levels.pop()
    if level is not None:
        bounds = [each for each in (asked.since, asked.until) if each is not None]
        wider = [
            other
            for other in rollup.targets
            if other is not None
            and other.length > level.length
            and asked.every in (None, str(other))
            and all(start_of_bucket(str(other), each) == each for each in bounds)
        ]
        assert not wider, f"{level} is read, and {wider} would do"


def assert_answers(engine: Engine, case: Case, rollup: Rollup) -> None:
    rolled_up, now = play(engine, case, rollup)
    for asked in case.asked:
        try:
            statement = rollup.select(**vars(asked))
        except ArgumentError as error:
            refused = str(error)
        else:
            refused = ""
        if refused:
            assert not can_answer(case.declared, asked), refused
            assert "rollup 'r' cannot answer" in refused or "must be the start of" in refused
            event("cannot be answered")
            continue
        event("answered")
        clause = statement.get_final_froms()[0].element.element  # type: ignore[attr-defined]
        assert isinstance(clause, TextClause)
        assert_reads_the_widest(clause.text, rollup, asked)
        names = [*statement.selected_columns.keys()]
        group = [*(["bucket"] if asked.every else []), *asked.by]
        assert names[: len(group)] == group
        names = names[len(group) :]
        if asked.measures is not None:
            assert names == list(asked.measures)
        wanted = answer(
            now if asked.freshness == "fresh" else rolled_up, case.declared, asked, names
        )
        with engine.connect() as connection:
            rows = connection.execute(statement).all()
        found = {
            tuple(v.astimezone(UTC) if isinstance(v, datetime) else v for v in r[: len(group)]): (
                tuple(r[len(group) :])
            )
            for r in rows
        }
        assert len(found) == len(rows)
        assert found.keys() == wanted.keys(), asked
        for key, values in wanted.items():
            for name, value, got in zip(names, values, found[key], strict=True):
                assert same(value, got), f"{asked} {key}: {name} is {got}, and not {value}"


EVERYTHING: Final = Declared(
    ("key", "kind", "country"),
    ("15 minutes", "1 day", "1 day at Europe/Berlin"),
    ("rows", "sum", "lo", "hi", "kinds", "keys", "about", "p", "q"),
    undated=True,
)
UNKEYED: Final = Declared(
    ("kind",), ("1 hour", "1 day"), ("rows", "avg", "spread", "kinds", "keys", "p"), where=True
)
SOME: Final = tuple(
    Row(0, 1 + i % 3, "ab"[i % 2], ["de", None][i % 2], i % 5 - 1, i / 2 - 1, at)
    for i, at in enumerate(
        [None, "-infinity", *(START + i * timedelta(hours=3, minutes=15) for i in range(20))]
    )
)
MIDNIGHT: Final = datetime(2026, 3, 29, tzinfo=UTC)
SUNDAY: Final = datetime(2026, 3, 28, 23, tzinfo=UTC)
ASKED: Final = (
    Question(),
    Question(("kind",)),
    Question(("country", "key"), every="1 day at Europe/Berlin"),
    Question(("key",), ("p99.9", "rows", "hi", "p0"), "2 hours"),
    Question((), None, "3 days"),
    Question(("kind",), ("kinds", "keys"), None, MIDNIGHT),
    Question(("kind",), ("lo",), "1 day at Europe/Berlin", SUNDAY, SUNDAY + timedelta(hours=23)),
    Question((), None, "1 hour", MIDNIGHT, freshness="rolled_up"),
    Question((), None, "1 month at Europe/Berlin"),
)
OF_KINDS: Final = (
    Question(),
    Question(("kind",), None, "1 day"),
    Question((), ("keys", "p12_5"), "6 hours", MIDNIGHT - timedelta(hours=6)),
    Question(("kind",), ("kinds", "spread"), None, None, MIDNIGHT, "rolled_up"),
)
CHANGED: Final = {"deleted": frozenset({2, 7, 19}), "updated": {3: SOME[0], 9: SOME[12]}}


def test_every_question(server: DatabaseServer, empty_database: URL) -> None:
    engine = create_engine(empty_database, poolclass=NullPool)

    @settings(
        max_examples=20 if server.kind == "postgresql" else 3,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(cases())
    @example(Case(EVERYTHING, SOME[:12], SOME[12:], asked=ASKED, **CHANGED))  # type: ignore[arg-type]
    @example(Case(UNKEYED, SOME[:12], SOME[12:], asked=OF_KINDS, **CHANGED))  # type: ignore[arg-type]
    @example(Case(Declared((), (), ("rows", "avg", "kinds", "about", "p")), SOME[:3], SOME[3:9]))
    @example(Case(Declared((), (), ("rows", "avg", "kinds", "about", "p"))))
    def is_answered(case: Case) -> None:
        rollup = case.declared.rollup()
        with created(engine, rollup, citus=server.kind == "citus"):
            assert_answers(engine, case, rollup)

    is_answered()


@pytest.mark.endurance
def test_order_and_batches_do_not_matter(server: DatabaseServer, empty_database: URL) -> None:
    """What a rollup has depends on the rows, and not on how they came."""
    engine = create_engine(empty_database, poolclass=NullPool)
    rollup = EVERYTHING.rollup()
    found = []
    numbered = [Row(n, *list(vars(row).values())[1:]) for n, row in enumerate(SOME)]
    for batches in (
        [numbered],
        [[row] for row in reversed(numbered)],
        [numbered[7:], numbered[:7], []],
    ):
        with created(engine, rollup, citus=server.kind == "citus"):
            for batch in batches:
                with engine.begin() as connection:
                    insert(connection, batch)
                    run_rollup(connection, rollup)
            with engine.begin() as connection:
                found.append(
                    {
                        table.name: sorted(
                            run_sql(connection, f"SELECT * FROM {table.name}"), key=repr
                        )
                        for table in rollup.tables
                    }
                )
    assert found[0] == found[1] == found[2]
    assert all(found[0].values())


# What cannot be answered.


@pytest.fixture(scope="module")
def rollup() -> Rollup:
    return EVERYTHING.rollup()


REFUSED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "a dimension": ({"by": ["nobody"]}, "has no dimension 'nobody'; it has 'key', 'kind'"),
    "a measure": ({"measures": ["rows", "p101"]}, "has no measure 'p101'; it has 'rows', 'sum'"),
    "no measure": ({"measures": []}, "has no measure"),
    "a percentile of nothing": ({"measures": ["x99"]}, "has no measure 'x99'"),
    "freshness": ({"freshness": "stale"}, "must be 'fresh' or 'rolled_up', got 'stale'"),
    "a naive datetime": (
        {"since": datetime(2026, 3, 1)},  # noqa: DTZ001
        "since must be an aware datetime",
    ),
    "a narrower bucket": ({"every": "5 minutes"}, "has buckets of 15 minutes, 1 day, 1 day at Eu"),
    "another zone": ({"every": "1 day at Europe/Paris", "until": START}, "until must be the start"),
    "half a bucket": ({"since": START + timedelta(minutes=7)}, "cannot answer for a window with"),
    "half a bucket of what is asked": (
        {"since": MIDNIGHT + timedelta(hours=1), "every": "1 day"},
        "since must be the start of a bucket of 1 day, got 2026-03-29T01:00",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_answered(rollup: Rollup, name: str) -> None:
    asked, message = REFUSED[name]
    with pytest.raises(ArgumentError, match=re.escape(message)):
        rollup.select(**asked)


def test_percentiles_whose_names_begin_alike() -> None:
    source = Table("s", MetaData(), Column("x", Integer))
    rollup = Rollup(
        "r", source, measures={"p": percentiles("x"), "p9": percentiles("x", [0.5]), "p1": count()}
    )
    # What is declared is what it is.
    for name, of in (("p95", "r_p"), ("p950", "r_p9")):
        (reading,) = rollup.select(measures=[name]).get_final_froms()
        assert f'"{of}" AS t' in str(reading.element)  # type: ignore[attr-defined]
    assert rollup.select(measures=["p1", "p12"]).selected_columns.keys() == ["p1", "p12"]
    with pytest.raises(ArgumentError, match=r"'p98' may be a percentile of 'p' or of 'p9'"):
        rollup.select(measures=["p98"])
