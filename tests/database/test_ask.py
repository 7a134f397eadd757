"""Whatever is asked of whatever rollups, the answer is that of Python over the raw rows."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest
import sqlalchemy
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Computed,
    Connection,
    DateTime,
    Double,
    Index,
    Integer,
    MetaData,
    NullPool,
    Numeric,
    Table,
    Text,
    and_,
    bindparam,
    create_engine,
    exists,
    func,
    literal_column,
    not_,
    or_,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB

import citus_analytics
from citus_analytics import (
    Distributed,
    Reference,
    Rollup,
    average,
    count,
    distinct,
    explain_shape,
    maximum,
    minimum,
    percentiles,
    rollups_of,
    run_rollup,
    stddev,
    total,
)
from citus_analytics.errors import ArgumentError, RollupError
from citus_analytics.rollups.ask import Freshness, Question, ask, commit_token
from citus_analytics.rollups.declare import specs_of
from citus_analytics.rollups.run import expire
from citus_analytics.rollups.sql import create, drop
from tests.database.test_rollup_measures import start_of_bucket
from tests.database.test_rollup_select import ROWS, START, Row, insert, measured
from tests.rollup_lab import build, engine_with, run_sql, same

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, ColumnElement, Engine

    from citus_analytics.rollups.declare import Measure
    from tests.servers import DatabaseServer, Prepared


def source(metadata: MetaData) -> Table:
    return Table(
        "s",
        metadata,
        Column("id", BigInteger),
        Column("key", BigInteger),
        Column("kind", Text),
        Column("payload", JSONB),
        Column("n", Integer),
        Column("x", Double),
        Column("at", DateTime(timezone=True)),
        Column("flag", Boolean, Computed("n > 0", persisted=True)),
        Index("s_key", "key"),
        Distributed("key"),
    )


def dimension(table: Table, name: str) -> ColumnElement[Any]:
    c = table.c
    found: ColumnElement[Any]
    if name == "country":
        found = c.payload["c"].astext.label("country")
    elif name == "parity":
        found = func.mod(c.key, 2).label("parity")
    elif name == "twin":
        found = c.key.in_(select(c.key).where(c.n > 1)).label("twin")
    else:
        found = c[name]
    return found


def others(metadata: MetaData) -> Table:
    return Table("other", metadata, Column("code", BigInteger), Reference())


def measure(table: Table, name: str) -> Measure:
    c = table.c
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
        "p": percentiles(c.x, [0.5, 0.99]),
        "q": percentiles(c.n, [0.5]),
    }[name]


FILTERS: Final = (
    "n > 0",
    "kind = a",
    "kind IN (a, NULL)",
    "kind IS NULL",
    "key < 3",
    "de",
    "x <> 7",
    "flag",
    "NOT flag",
    "kind = :kind",
    "key = 2 OR kind = a",
    "NOT (kind = a AND key = 1)",
    "de OR n > 0",
    "kind IS DISTINCT FROM a",
    "key < a stable one",
)

# What no group can answer, as SQL.
OF_ROWS: Final = {
    "twin": "key IN (SELECT o.key FROM s AS o WHERE o.n > 1)",
    "commonest": "kind = (SELECT o.kind FROM s AS o GROUP BY o.kind "
    "ORDER BY count(*) DESC, o.kind LIMIT 1)",
    "NOT IN": "key NOT IN (SELECT o.n FROM s AS o WHERE o.n IS NOT NULL)",
    "correlated": "EXISTS (SELECT 1 FROM s AS o WHERE o.key = s.key AND o.n > s.n)",
    "exists": "EXISTS (SELECT 1 FROM s AS o WHERE o.key = 3)",
    "of another table": "key IN (SELECT code FROM other)",
    "twin OR kind = a": "key IN (SELECT o.key FROM s AS o WHERE o.n > 1) OR kind = 'a'",
    "volatile": "true",
    "text": "kind = 'a'",
    "literal": "kind = 'a'",
}


def condition(table: Table, name: str) -> ColumnElement[bool]:
    c = table.c
    o = table.alias()
    kinds = select(c.kind).group_by(c.kind).order_by(func.count().desc(), c.kind).limit(1)
    twin = c.key.in_(select(c.key).where(c.n > 1))
    version = func.length(func.current_setting("server_version_num"))
    stated: Any = text("kind = 'a'")
    conditions: dict[str, ColumnElement[bool]] = {
        "n > 0": c.n > 0,
        "kind = a": c.kind == "a",
        "kind IN (a, NULL)": c.kind.in_(["a", ""]),
        "kind IS NULL": c.kind.is_(None),
        "key < 3": c.key < 3,
        "de": c.payload["c"].astext == "de",
        "x <> 7": c.x != 7.0,
        "flag": c.flag,
        "NOT flag": ~c.flag,
        "kind = :kind": c.kind == bindparam("kind"),
        "key = 2 OR kind = a": or_(c.key == 2, c.kind == "a"),
        "NOT (kind = a AND key = 1)": not_(and_(c.kind == "a", c.key == 1)),
        "de OR n > 0": or_(c.payload["c"].astext == "de", c.n > 0),
        "kind IS DISTINCT FROM a": c.kind.is_distinct_from("a"),
        "key < a stable one": c.key + 3 < version,
        "twin": twin,
        "commonest": c.kind == kinds.scalar_subquery(),
        "NOT IN": c.key.not_in(select(c.n).where(c.n.is_not(None))),
        "correlated": exists().where(o.c.key == c.key, o.c.n > c.n).correlate(table),
        "exists": exists().where(c.key == 3),
        "of another table": c.key.in_(select(table.metadata.tables["other"].c.code)),
        "twin OR kind = a": or_(twin, c.kind == "a"),
        "volatile": func.random() < 2,
        "text": stated,
        "literal": literal_column("kind") == "a",
    }
    return conditions[name]


def holds(row: Row, name: str) -> bool:
    positive = row.n is not None and row.n > 0
    return {
        "n > 0": row.n is not None and row.n > 0,
        "kind = a": row.kind == "a",
        "kind IN (a, NULL)": row.kind in ("a", ""),
        "kind IS NULL": row.kind is None,
        "key < 3": row.key < 3,
        "de": row.country == "de",
        "x <> 7": row.x is not None and row.x != 7.0,
        "flag": positive,
        "NOT flag": row.n is not None and row.n <= 0,
        "kind = :kind": row.kind == "a",
        "key = 2 OR kind = a": row.key == 2 or row.kind == "a",
        "NOT (kind = a AND key = 1)": row.key != 1 or row.kind not in ("a", None),
        "de OR n > 0": row.country == "de" or positive,
        "kind IS DISTINCT FROM a": row.kind != "a",
        "key < a stable one": row.key < 3,
    }[name]


@dataclass(frozen=True)
class Declared:
    """What is drawn of a rollup."""

    dimensions: tuple[str, ...]
    levels: tuple[str, ...]
    measures: tuple[str, ...]
    undated: bool = False
    where: tuple[str, ...] = ()

    def declare(self, table: Table, number: int) -> Rollup:
        """Declare it."""
        found = None
        for name in self.where:
            found = condition(table, name) if found is None else found & condition(table, name)
        return Rollup(
            f"r{number}",
            table,
            time="at" if self.levels else None,
            every=self.levels or None,
            by=[dimension(table, name) for name in self.dimensions],
            measures={name: measure(table, name) for name in self.measures},
            undated=self.undated,
            where=found,
        )


@dataclass(frozen=True)
class Asked:
    """What is asked."""

    by: tuple[str, ...] = ()
    measures: tuple[str, ...] = ("rows",)
    every: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    where: tuple[str, ...] = ()
    freshness: Freshness = "fresh"
    ranked: bool = False

    def question(self, table: Table) -> Question:
        """Return it; if it is ranked, by its first measure."""
        found = None
        for name in self.where:
            found = condition(table, name) if found is None else found & condition(table, name)
        first = {"p": "p99", "q": "q50"}.get(self.measures[0], self.measures[0])
        return Question(
            table,
            measures={name: measure(table, name) for name in self.measures},
            by=[dimension(table, name) for name in self.by],
            every=self.every,
            where=found,
            time="at",
            ranked=first if self.ranked else None,
        )

    @property
    def parameters(self) -> dict[str, str]:
        """Those of its filter."""
        return {"kind": "a"} if "kind = :kind" in self.where else {}

    def of_rows(
        self, rows: list[Row], names: list[str], stated: dict[str, dict[int, bool]]
    ) -> dict[Any, tuple[Any, ...]]:
        """Return the groups and their measures, by Python.

        What is about further rows has been stated by plain SQL: by the number of a row.
        """

        def group(row: Row, name: str) -> Any:
            if name == "parity":
                return row.key % 2
            if name == "flag":
                return None if row.n is None else row.n > 0
            return stated[name][row.id] if name in stated else getattr(row, name)

        groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
        if not self.by and self.every is None:
            groups[()] = []
        for row in rows:
            time = row.time
            known = [stated[n][row.id] if n in stated else holds(row, n) for n in self.where]
            if not all(known):
                continue
            if (self.since or self.until) and time is None:
                continue
            if time is not None and self.since is not None and time < self.since:
                continue
            if time is not None and self.until is not None and time >= self.until:
                continue
            bucket = []
            if self.every is not None:
                bucket = [None if time is None else start_of_bucket(self.every, time)]
            groups[(*bucket, *(group(row, name) for name in self.by))].append(row)
        return {g: tuple(measured(rows, name) for name in names) for g, rows in groups.items()}


LEVELS: Final = ("15 minutes", "1 hour", "6 hours", "1 day", "1 day at Europe/Berlin", "1 week")
DIMENSIONS: Final = ("key", "kind", "country", "flag")
MEASURES: Final = ("rows", "ns", "sum", "avg", "spread", "kinds", "keys", "p", "q")


@st.composite
def declarations(draw: st.DrawFn) -> Declared:
    dimensions = draw(st.lists(st.sampled_from(DIMENSIONS), unique=True))
    names = [*MEASURES, *(["lo", "hi"] if "key" in dimensions else [])]
    levels = draw(st.lists(st.sampled_from(LEVELS), unique=True, max_size=3))
    return Declared(
        tuple(dimensions),
        tuple(levels),
        tuple(draw(st.lists(st.sampled_from(names), unique=True, min_size=1, max_size=6))),
        undated=bool(levels) and draw(st.booleans()),
        where=tuple(draw(st.lists(st.sampled_from(FILTERS[:2]), unique=True, max_size=1))),
    )


MOMENTS: Final = st.one_of(
    st.none(),
    st.builds(
        lambda width, hours: start_of_bucket(width, START + timedelta(hours=hours)),
        st.sampled_from(LEVELS),
        st.integers(-30, 60),
    ),
    st.integers(-3000, 6000).map(lambda minutes: START + timedelta(minutes=minutes, seconds=7)),
)


@st.composite
def questions(draw: st.DrawFn, declared: list[Declared]) -> Asked:
    model = draw(st.sampled_from(declared))
    dimensions = model.dimensions if draw(st.integers(0, 4)) else DIMENSIONS
    measures = model.measures if draw(st.integers(0, 4)) else (*MEASURES, "lo", "hi")
    filters = [f for f in FILTERS if f in model.where or _serves(f, model)]
    where = {*model.where} if draw(st.integers(0, 4)) else set()
    if filters:
        where |= draw(st.sets(st.sampled_from(filters), max_size=2))
    if not draw(st.integers(0, 3)):
        where.add(draw(st.sampled_from([*OF_ROWS, *FILTERS])))
    groups = [*dimensions, *(["parity"] if "key" in dimensions else [])]
    groups += [] if draw(st.integers(0, 4)) else ["twin"]
    since, until = draw(MOMENTS), draw(MOMENTS)
    if since is not None and until is not None and since >= until:
        since = until - timedelta(hours=draw(st.integers(1, 70)))
    every = draw(st.none() | st.sampled_from([*LEVELS, "3 days", "1 hour at Asia/Kolkata"]))
    return Asked(
        tuple(draw(st.lists(st.sampled_from(groups), unique=True))) if groups else (),
        tuple(draw(st.lists(st.sampled_from(measures), unique=True, min_size=1, max_size=4))),
        every if model.levels else None,
        since,
        until,
        tuple(sorted(where)),
        draw(st.sampled_from(["fresh", "fresh", "rolled_up", "raw"])),
        draw(st.booleans()),
    )


def _serves(name: str, model: Declared) -> bool:
    needed = {
        "kind = a": {"kind"},
        "kind IN (a, NULL)": {"kind"},
        "kind IS NULL": {"kind"},
        "kind = :kind": {"kind"},
        "kind IS DISTINCT FROM a": {"kind"},
        "key < 3": {"key"},
        "key < a stable one": {"key"},
        "de": {"country"},
        "flag": {"flag"},
        "NOT flag": {"flag"},
        "key = 2 OR kind = a": {"key", "kind"},
        "NOT (kind = a AND key = 1)": {"key", "kind"},
    }
    return name in needed and needed[name] <= {*model.dimensions}


@dataclass(frozen=True)
class Case:
    """Rollups, what happens to their source, and what is asked."""

    declared: tuple[Declared, ...]
    before: tuple[Row, ...] = ()
    after: tuple[Row, ...] = ()
    deleted: frozenset[int] = frozenset()
    asked: tuple[Asked, ...] = (Asked(),)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    declared = draw(st.lists(declarations(), min_size=1, max_size=3))
    rows = draw(st.lists(ROWS, max_size=14))
    numbers = st.integers(0, max(len(rows) - 1, 0))
    middle = draw(numbers)
    return Case(
        tuple(declared),
        tuple(rows[:middle]),
        tuple(rows[middle:]),
        frozenset(draw(st.sets(numbers, max_size=3))),
        tuple(draw(st.lists(questions(declared), min_size=1, max_size=8))),
    )


def play(connection: Connection, case: Case, rollup: Rollup) -> tuple[list[Row], list[Row]]:
    numbered = [
        Row(n, *list(vars(r).values())[1:]) for n, r in enumerate((*case.before, *case.after))
    ]
    rolled_up = numbered[: len(case.before)]
    insert(connection, rolled_up)
    run_sql(connection, "INSERT INTO other VALUES (1), (2), (7)")
    run_rollup(connection, rollup)
    insert(connection, numbered[len(case.before) :])
    for number in case.deleted:
        run_sql(connection, "DELETE FROM s WHERE id = :id", id=number)
    return rolled_up, [row for row in numbered if row.id not in case.deleted]


def assert_answer(
    connection: Connection, table: Table, asked: Asked, rolled_up: list[Row], now: list[Row]
) -> None:
    question = asked.question(table)
    window: dict[str, Any] = {"since": asked.since, "until": asked.until}
    options = {**window, "parameters": asked.parameters}
    stated = {}
    for name in OF_ROWS.keys() & {*asked.by, *asked.where}:
        ids = {each.id for each in run_sql(connection, f"SELECT id FROM s WHERE {OF_ROWS[name]}")}
        stated[name] = {row.id: row.id in ids for row in now}
    if asked.parameters:
        with pytest.raises(ArgumentError, match="that have none: kind; found none"):
            question.ask(connection, freshness=asked.freshness, **window)
    try:
        answer = question.ask(connection, freshness=asked.freshness, **options)
    except RollupError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert asked.freshness == "rolled_up", refused
        assert "no rollup" in refused
        event("refused")
        return
    event(f"{asked.freshness} from {answer.plan.freshness}, {len(answer.plan.steps)} steps")
    assert answer.plan.freshness in (asked.freshness, "raw")
    assert not (stated and answer.plan.rollups), "groups do not say what rows do"
    statement = question.raw_statement(**window)
    names = [*statement.selected_columns.keys()]
    width = (asked.every is not None) + len(asked.by)
    rows = rolled_up if answer.plan.freshness == "rolled_up" else now
    wanted = asked.of_rows(rows, names[width:], stated)
    found = {}
    for row in answer:
        assert list(row._fields) == names
        group = tuple(v.astimezone(UTC) if isinstance(v, datetime) else v for v in row[:width])
        found[group] = tuple(row[width:])
    assert len(found) == len(answer)
    if answer.rows and question.order():
        # What comes after a row, and row by row.
        whole = [repr(tuple(row)) for row in answer]
        middle = len(whole) // 2
        rest = question.ask(
            connection, freshness=asked.freshness, after=answer.rows[middle], **options
        )
        assert [repr(tuple(row)) for row in rest] == whole[middle + 1 :], answer.plan
        limit = middle + 1
        stream = question.stream(connection, freshness=asked.freshness, limit=limit, **options)
        assert [repr(tuple(row)) for row in stream] == whole[:limit]
    assert found.keys() == wanted.keys(), (asked, answer.plan)
    for key, values in wanted.items():
        for name, value, got in zip(names[width:], values, found[key], strict=True):
            assert same(value, got), (
                f"{asked} {key}: {name} is {got}, and not {value}\n{answer.plan}"
            )


def row(n: int, at: datetime | str | None) -> Row:
    return Row(0, 1 + n % 3, "ab"[n % 2], ["de", None][n % 2], n % 5 - 1, n / 2 - 1, at)


SOME: Final = tuple(
    row(n, at)
    for n, at in enumerate(
        [None, "-infinity", *(START + n * timedelta(hours=3, minutes=7) for n in range(20))]
    )
)
LEVELED: Final = (
    Declared(("key", "kind"), ("15 minutes",), ("rows", "lo", "avg", "keys", "p"), undated=True),
    Declared(("kind",), ("1 hour", "1 day"), ("rows", "sum", "keys", "p", "avg")),
    Declared((), (), ("rows", "avg")),
)
EDGE: Final = START + timedelta(hours=1, minutes=20, seconds=3)
ASKED: Final = (
    Asked(measures=("rows", "avg")),
    Asked(since=EDGE, until=EDGE + timedelta(days=2)),
    Asked(("kind",), ("rows", "keys", "p"), "1 hour", EDGE, EDGE + timedelta(hours=40)),
    Asked(("kind",), ("keys", "p"), "1 day", None, EDGE, freshness="rolled_up"),
    Asked(("key",), ("lo", "rows"), None, EDGE, None),
    Asked((), ("kinds",), "1 hour at Asia/Kolkata", EDGE, None, ("kind = a",)),
    Asked(("country",), ("rows",), None, EDGE),
    *(Asked(("key",), ("rows", "avg"), where=(name,)) for name in (*OF_ROWS, *FILTERS[7:])),
    Asked(("twin", "parity"), ("rows",)),
)
SERVED: Final = (
    Declared(("key", "kind", "flag"), ("1 hour",), ("rows",), undated=True),
    tuple(Asked(("parity",), where=(name,)) for name in FILTERS[7:] if name != "de OR n > 0"),
)


def test_every_question(server: DatabaseServer) -> None:
    @settings(
        max_examples=20 if server.kind == "postgresql" else 3,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(cases())
    @example(Case(LEVELED, SOME[:12], SOME[12:], frozenset({2, 7, 19}), ASKED))
    @example(Case((SERVED[0],), SOME[:12], SOME[12:], frozenset({2, 7, 19}), SERVED[1]))
    def is_answered(case: Case) -> None:
        tables = MetaData()
        table = source(tables)
        others(tables)
        rollups = [each.declare(table, n) for n, each in enumerate(case.declared)]
        with server.database("empty") as url:
            engine = engine_with(server, url, tables)
            with engine.begin() as connection:
                rolled_up, now = play(connection, case, rollups[0])
            with engine.connect() as connection:
                for asked in case.asked:
                    if server.kind == "citus" and "twin" in asked.by:
                        continue  # Citus has no subqueries in groups.
                    assert_answer(connection, table, asked, rolled_up, now)

    is_answered()


# What the plan says.


@pytest.fixture
def filled(
    server: DatabaseServer, prepared: Prepared
) -> Iterator[tuple[Connection, Table, Rollup]]:
    """A source with rollups and some rows, all of them rolled up."""
    tables = MetaData()
    table = source(tables)
    rollups = [each.declare(table, n) for n, each in enumerate(LEVELED)]
    (spec,) = specs_of(tables)

    def prepare(engine: Engine) -> None:
        build(engine, citus=server.kind == "citus", tables=tables, spec=spec)
        with engine.begin() as connection:
            insert(connection, [Row(n, *list(vars(r).values())[1:]) for n, r in enumerate(SOME)])
            run_rollup(connection, rollups[0])

    with prepared("asked", prepare).connect() as connection:
        yield connection, table, rollups[0]


DAY: Final = datetime(2026, 3, 29, tzinfo=UTC)


def test_the_plan(filled: tuple[Connection, Table, Rollup]) -> None:
    connection, table, _ = filled
    answer = ask(
        connection,
        table,
        measures={"rows": count()},
        by=[table.c.kind],
        since=DAY - timedelta(hours=2, minutes=1),
        until=DAY + timedelta(hours=25),
    )
    shown = [(s.table, s.rollup, len(s.windows)) for s in answer.plan.steps]
    assert shown == [("r1_1_day", "r1", 1), ("r1_1_hour", "r1", 2), ("s", None, 1)] or shown == [
        ("r1_1_day", "r1", 1),
        ("r1_1_hour", "r1", 2),
        ("r0", "r0", 1),
        ("s", None, 1),
    ]
    assert answer.plan.rollups == tuple(dict.fromkeys(r for _, r, _ in shown if r))
    assert answer.plan.pending == 0
    assert answer.plan.as_of is None
    assert answer.plan.freshness == "fresh"
    assert "r2" in answer.plan.reasons
    text = str(answer.plan)
    assert "r1_1_day: [2026-03-29T00:00:00+00:00, 2026-03-30T00:00:00+00:00)" in text
    assert "raw rows of s: [2026-03-28T21:59:00+00:00, 2026-03-28T22:00:00+00:00)" in text
    whole = ask(connection, table, measures={"n": count(), "mean": average(table.c.n)})
    assert [step.table for step in whole.plan.steps] == ["r2"]
    assert [row.n for row in whole] == [len(SOME)]


def test_no_rollup_serves(filled: tuple[Connection, Table, Rollup]) -> None:
    connection, table, _ = filled
    country = dimension(table, "country")
    answer = ask(connection, table, measures={"xs": total(table.c.x)}, by=[country])
    plan = answer.plan
    assert plan.freshness == "raw"
    assert plan.reasons["r1_1_day"] == "has no dimension 'country'"
    assert plan.suggestion is not None
    assert "every='1 hour'" in plan.suggestion
    assert "'xs': total('x')" in plan.suggestion
    with pytest.raises(
        RollupError, match=r"r1_1_day.*: has no dimension 'country'.*This one would"
    ):
        ask(
            connection,
            table,
            measures={"xs": total(table.c.x)},
            by=[country],
            freshness="rolled_up",
        )
    # Measures are found by what they compute, whatever they are named, and so are filters.
    renamed = ask(
        connection, table, measures={"mine": count()}, where=table.c.kind == "a", since=DAY
    )
    assert renamed.plan.freshness == "fresh"


def test_parameters_and_texts(filled: tuple[Connection, Table, Rollup]) -> None:
    connection, table, _ = filled
    measures = {"rows": count()}
    everything = ask(connection, table, measures=measures, by=["kind"]).rows
    assert [row.kind for row in everything] == ["a", "b"]
    freshnesses: tuple[Freshness, ...] = ("fresh", "raw")
    conditions: list[tuple[Any, dict[str, str | list[str]]]] = [
        (table.c.kind == bindparam("kind"), {"kind": "a"}),
        (table.c.kind.in_(bindparam("kinds", expanding=True)), {"kinds": ["a"]}),
        (text("kind = 'a'"), {}),
    ]
    for where, parameters in conditions:
        question = Question(table, measures=measures, by=["kind"], where=where)
        for freshness in freshnesses:
            found = question.ask(connection, freshness=freshness, parameters=parameters)
            assert found.rows == tuple(row for row in everything if row.kind == "a")
    question = Question(table, measures=measures, where=table.c.kind == bindparam("kind"))
    wrongs: list[dict[str, str]] = [{}, {"kind": "a", "sort": "b"}]
    for wrong in wrongs:
        for freshness in freshnesses:
            with pytest.raises(ArgumentError, match="that have none: kind; found"):
                question.ask(connection, freshness=freshness, parameters=wrong)
    given = Question(table, measures=measures, where=table.c.kind == bindparam("kind", "b"))
    with pytest.raises(ArgumentError, match="that have none: none; found kind"):
        given.ask(connection, parameters={"kind": "a"})
    with pytest.raises(ArgumentError, match="'_limit' starts with an underscore"):
        Question(table, measures=measures, where=table.c.n == bindparam("_limit"))


def test_how_stale_it_may_be(filled: tuple[Connection, Table, Rollup]) -> None:
    connection, table, rollup = filled
    question = Question(table, measures={"rows": count()}, time="at")
    rolled_up = question.ask(connection, freshness="rolled_up", max_staleness=timedelta(0))
    assert rolled_up.plan.freshness == "rolled_up", "nothing is pending"
    assert rolled_up.plan.as_of is not None
    insert(connection, [Row(99, 1, "a", None, 1, 1.0, DAY)])
    token = commit_token(connection)
    mine = question.ask(connection, freshness="rolled_up", at_least=token)
    assert mine.rows[0].rows == len(SOME) + 1
    assert mine.plan.freshness == "fresh"
    connection.commit()
    old = question.ask(connection, freshness="rolled_up")
    assert (old.rows[0].rows, old.plan.pending) == (len(SOME), 1)
    stale = question.ask(connection, freshness="rolled_up", max_staleness=timedelta(0))
    assert (stale.rows[0].rows, stale.plan.freshness) == (len(SOME) + 1, "fresh")
    lenient = question.ask(connection, freshness="rolled_up", max_staleness=timedelta(hours=1))
    assert lenient.plan.freshness == "rolled_up"
    run_rollup(connection, rollup)
    connection.commit()
    seen = question.ask(connection, freshness="rolled_up", at_least=token)
    assert (seen.rows[0].rows, seen.plan.freshness) == (len(SOME) + 1, "rolled_up")
    with pytest.raises(RollupError, match="is not visible here"):
        question.ask(connection, at_least=str(int(token) + 1_000_000))
    for token in ("yesterday", str(2**64)):
        with pytest.raises(ArgumentError, match="what commit_token"):
            question.ask(connection, at_least=token)
    with pytest.raises(ArgumentError, match="max_staleness must be a timedelta; found 5"):
        question.ask(connection, max_staleness=5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="not through Engine"):
        commit_token(connection.engine)  # type: ignore[arg-type]


def test_many_extremes_that_have_gone(filled: tuple[Connection, Table, Rollup]) -> None:
    """Looking each of them up is dearer than reading the raw rows once."""
    connection, table, rollup = filled
    question = Question(table, measures={"lo": minimum(table.c.n), "rows": count()}, by=["key"])
    more = [Row(100 + n, 1 + n % 3, "a", None, -5, 1.0, DAY) for n in range(110)]
    insert(connection, more)
    run_rollup(connection, rollup)
    settled = question.ask(connection)
    assert {row.lo for row in settled} == {-5}
    assert settled.plan.rollups == ("r0",)
    for gone, freshness in ((more[:4], "fresh"), (more[4:], "raw")):
        for row in gone:
            run_sql(connection, "DELETE FROM s WHERE id = :id", id=row.id)
        question.ask(connection)  # It says what is pending, which the next one is planned by.
        answer = question.ask(connection)
        assert answer.plan.freshness == freshness
        assert answer.rows == question.ask(connection, freshness="raw").rows
    assert "110 rows have gone since the last run" in answer.plan.reasons["r0"]
    run_rollup(connection, rollup)
    question.ask(connection, until=DAY)
    assert question.ask(connection).plan.rollups == ("r0",)


def test_what_has_been_expired(filled: tuple[Connection, Table, Rollup]) -> None:
    connection, table, rollup = filled
    question = Question(table, measures={"rows": count()})
    before = question.ask(connection, until=DAY).rows[0].rows
    connection.rollback()
    expire(connection.engine, rollup, DAY - timedelta(hours=6))
    # It was remembered otherwise, and is planned again.
    assert question.ask(connection, until=DAY).rows[0].rows == before
    odd = DAY - timedelta(hours=7, minutes=1, seconds=1)
    with pytest.raises(RollupError, match="have been expired, and no rollup has"):
        question.ask(connection, until=odd)
    assert question.ask(connection, until=odd, freshness="raw").rows[0].rows == 0


def test_what_is_not_complete_comes_from_raw_rows(
    server: DatabaseServer, empty_database: URL
) -> None:
    engine = create_engine(empty_database, poolclass=NullPool)
    tables = MetaData()
    table = source(tables)
    rollups = [each.declare(table, n) for n, each in enumerate(LEVELED)]
    (spec,) = specs_of(tables)
    build(engine, citus=server.kind == "citus", tables=tables, spec=spec)
    with engine.begin() as connection:
        for statement in drop(spec):
            run_sql(connection, statement)
        insert(connection, list(SOME))
    question = Question(table, measures={"rows": count()})
    with engine.connect() as connection:
        # Without rollups in the database.
        answer = question.ask(connection)
        assert (answer.rows[0].rows, answer.plan.freshness) == (len(SOME), "raw")
        with pytest.raises(RollupError, match="the database has no rollups of 's'"):
            question.ask(connection, freshness="rolled_up")
    with engine.begin() as connection:
        if server.kind == "citus":
            run_sql(connection, "SET LOCAL citus.multi_shard_modify_mode TO 'sequential'")
        for statement in create(spec):
            run_sql(connection, statement)
        insert(connection, [Row(77, 1, "a", "de", 1, 1.0, DAY + timedelta(days=30))])
    with engine.connect() as connection:
        answer = question.ask(connection)
        assert answer.rows[0].rows == len(SOME) + 1
        assert answer.plan.freshness == "raw"
        connection.rollback()
        run_sql(connection, "SELECT * FROM s_backfill('1 day')")
        connection.commit()
        answer = question.ask(connection)
        assert answer.rows[0].rows == len(SOME) + 1
        assert answer.plan.rollups
        assert [step.table for step in answer.plan.steps][-1] == "s"
    assert rollups


def test_rows_without_a_time_that_no_rollup_has(
    server: DatabaseServer, empty_database: URL
) -> None:
    """Which of them have come since the last run is not known."""
    tables = MetaData()
    table = source(tables)
    rollup = Declared(("key",), ("1 hour",), ("rows",)).declare(table, 0)
    engine = engine_with(server, empty_database, tables)
    question = Question(table, measures={"rows": count()})
    with engine.begin() as connection:
        insert(
            connection, [Row(1, 1, "a", None, 1, 1.0, START), Row(2, 1, "a", None, 1, 1.0, None)]
        )
        run_rollup(connection, rollup)
        insert(connection, [Row(3, 1, "a", None, 1, 1.0, None)])
        assert question.ask(connection).rows[0].rows == 3
        with pytest.raises(RollupError, match="none has the rows without a time"):
            question.ask(connection, freshness="rolled_up")
        dated = question.ask(connection, freshness="rolled_up", since=START)
        assert dated.rows[0].rows == 1
        dated = Question(table, measures={"rows": count()}, undated=False).ask(
            connection, freshness="rolled_up"
        )
        assert dated.rows[0].rows == 1


def test_what_is_suggested_serves(server: DatabaseServer, empty_database: URL) -> None:
    """The declaration runs, and its rollup answers the question."""
    tables = MetaData()
    table = source(tables)
    names = {**vars(sqlalchemy), **vars(postgresql), **vars(citus_analytics), "s": table}
    c, numbers = table.c, {"hi": maximum(table.c.n), "p": percentiles(table.c.x)}
    code: ColumnElement[Any] = c.payload["c"].astext
    parity: ColumnElement[Any] = func.mod(c.n, 2, type_=Integer).label("n")
    questions = [
        Question(table, measures={"rows": count()}, where=or_(c.flag, c.n == 2)),
        Question(table, measures=numbers, where=or_(c.kind == "a", not_(c.flag)), by=[c.kind]),
        Question(
            table, measures={"rows": count()}, where=c.kind.like("a%"), every="1 day", time="at"
        ),
        Question(table, measures={"rows": count()}, where=code == bindparam("kind")),
        Question(table, measures={"hi": maximum(c.n)}, where=c.n + c.key > 2, by=[parity]),
        Question(table, measures={"kind": count()}, where=c.kind.in_(["a", "b"])),
        Question(table, measures={"rows": count()}, where=c.x > 0, by=[c.key], time="at"),
    ]
    asked: list[tuple[Question, Rollup]] = []
    for question in questions:
        declaration = question.suggestion()
        assert declaration is not None
        asked.append((question, eval(declaration, names)))
    engine = engine_with(server, empty_database, tables)
    with engine.begin() as connection:
        insert(connection, [Row(n, *list(vars(r).values())[1:]) for n, r in enumerate(SOME)])
        for question, rollup in asked:
            values = {"kind": "de"} if question is questions[3] else {}
            answer = question.ask(connection, parameters=values)
            assert not answer.plan.reasons.keys() & {each.name for each in rollup.tables}
            assert answer.plan.freshness == "fresh", answer.plan
            raw = question.ask(connection, parameters=values, freshness="raw")
            if "p" not in question.measures:
                assert answer.rows == raw.rows
            # The statement of a plan is the one that was executed, with its values.
            for each in (answer, raw):
                assert explain_shape(connection, each.plan.statement).kind != "refused"
                again = connection.execute(each.plan.statement)
                shown = [tuple(row)[-len(question.columns()) :] for row in again]
                assert shown == [tuple(row) for row in each]
    nevers: list[Any] = [func.random() < 1, c.n.in_(select(c.key)), text("kind = 'a'")]
    for never in nevers:
        with engine.connect() as connection:
            plan = ask(connection, table, measures={"rows": count()}, where=never).plan
        assert (plan.freshness, plan.suggestion) == ("raw", None)
        assert all("has" in reason for reason in plan.reasons.values())


def test_a_rollup_in_the_place_of_another(server: DatabaseServer, empty_database: URL) -> None:
    """A question that has been asked already takes those that are declared when it is asked."""
    tables = MetaData()
    table = source(tables)

    def declared(name: str) -> Rollup:
        return Rollup(name, table, by=["key", "kind"], measures={"rows": count()})

    first = declared("first")
    declared("second")
    engine = engine_with(server, empty_database, tables)
    second = next(each for each in rollups_of(tables) if each.name == "second")
    second.remove()
    question = Question(table, measures={"rows": count()}, by=["kind"])
    with engine.connect() as connection:
        insert(connection, [Row(1, 1, "a", None, 1, 1.0, DAY)])
        assert question.ask(connection).plan.rollups == ("first",)
        first.remove()
        declared("second")
        answer = question.ask(connection)
        assert answer.plan.rollups == ("second",)
        assert [tuple(row) for row in answer] == [("a", 1)]


def test_equal_values_that_are_written_differently(
    server: DatabaseServer, empty_database: URL
) -> None:
    """They are one group, which does not say how each of them is written."""
    tables = MetaData()
    table = Table(
        "prices",
        tables,
        Column("id", BigInteger, primary_key=True),
        Column("price", Numeric),
        Distributed("id"),
    )
    Rollup("by_price", table, by=[table.c.price], measures={"rows": count()})
    engine = engine_with(server, empty_database, tables)
    price = table.c.price
    with engine.begin() as connection:
        run_sql(connection, "INSERT INTO prices VALUES (1, 1.0), (2, 1.00), (3, 2), (4, 1.000)")
        for where, rows, freshness in (
            (price == 1, 3, "fresh"),
            (and_(price > 0, price < 2), 3, "fresh"),
            (price.cast(Text) == "1.00", 1, "raw"),
            (func.scale(price) > 1, 2, "raw"),
        ):
            answer = ask(connection, table, measures={"rows": count()}, where=where)
            assert (answer.rows[0].rows, answer.plan.freshness) == (rows, freshness)
        texts = ask(
            connection, table, measures={"rows": count()}, by=[price.cast(Text).label("text")]
        )
        assert len(texts) == 4


ELSEWHERE: Final = Table("elsewhere", MetaData(), Column("kind", Text), Column("code", Integer))
ROWS_OF: Final = {"rows": count()}
SOURCE: Final = source(MetaData())
REFUSED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "no measures": ({"measures": {}}, "at least one measure"),
    "a list of measures": ({"measures": [count()]}, "must be a mapping of names"),
    "a function": ({"measures": {"n": func.count()}}, "measure 'n' must be count"),
    "not called": ({"measures": {"n": count}}, "measure 'n' must be count"),
    "a sum of texts": (
        {"measures": {"n": total(SOURCE.c.kind)}},
        "the question: PostgreSQL has no sum of Text",
    ),
    "a measure of another table": (
        {"measures": {"n": total(func.abs(ELSEWHERE.c.code))}},
        "measure 'n' has columns of 'elsewhere'",
    ),
    "hidden": ({"measures": {"_rows": count()}}, "'_rows' cannot be a column"),
    "twice": (
        {"measures": {"kind": count()}, "by": ["kind"]},
        "two columns named 'kind'",
    ),
    "ranked": ({"measures": {"n": count()}, "ranked": "m"}, "one of its measures: n"),
    "no time": ({"measures": ROWS_OF, "every": "1 hour"}, "pass time="),
    "an unknown time": ({"measures": ROWS_OF, "time": "then"}, "no column 'then'"),
    "an odd width": ({"measures": ROWS_OF, "every": "soon"}, "a bucket must be like"),
    "by a column": ({"measures": ROWS_OF, "by": SOURCE.c.kind}, "by must be a list"),
    "by a text": ({"measures": ROWS_OF, "by": "kind"}, "by must be a list"),
    "by no column": ({"measures": ROWS_OF, "by": ["sort"]}, "no column 'sort'"),
    "by a number": ({"measures": ROWS_OF, "by": [3]}, "got 3"),
    "by another table": (
        {"measures": ROWS_OF, "by": [func.lower(ELSEWHERE.c.kind).label("k")]},
        "the group 'k' has columns of 'elsewhere'",
    ),
    "by a function without a label": (
        {"measures": ROWS_OF, "by": [func.lower(SOURCE.c.kind)]},
        r"give the group lower\(s\.kind\) a name of its own, with \.label",
    ),
    "by a label without a name": (
        {"measures": ROWS_OF, "by": [func.lower(SOURCE.c.kind).label(None)]},
        r"give the group lower\(s\.kind\) a name of its own, with \.label",
    ),
    "by two of a name": (
        {"measures": ROWS_OF, "by": ["kind", func.lower(SOURCE.c.kind).label("kind")]},
        r"give the group lower\(s\.kind\) a name of its own, with \.label",
    ),
    "where is a text": (
        {"measures": ROWS_OF, "where": "kind = 'a'"},
        "where must be an SQL expression",
    ),
    "where is a list": (
        {"measures": ROWS_OF, "where": [SOURCE.c.n > 1]},
        "where must be an SQL expression",
    ),
    "where is a function": (
        {"measures": ROWS_OF, "where": lambda: SOURCE.c.n > 1},
        "where must be an SQL expression",
    ),
    "where is true": (
        {"measures": ROWS_OF, "where": SOURCE.c.n is not None},
        "where must be an SQL expression",
    ),
    "of another table": (
        {"measures": ROWS_OF, "where": and_(SOURCE.c.n == 1, ELSEWHERE.c.code == SOURCE.c.n)},
        "where has columns of 'elsewhere'.*use a subquery",
    ),
    "of an alias": (
        {"measures": ROWS_OF, "where": SOURCE.c.n.table.alias().c.n == 1},
        "columns of an alias of 's'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense(name: str) -> None:
    arguments, message = REFUSED[name]
    with pytest.raises(ArgumentError, match=message):
        Question(SOURCE, **arguments)
