"""What is asked with values, of whatever type and length, is answered as PostgreSQL itself does."""

from __future__ import annotations

import enum
import itertools
import json
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    BigInteger,
    Column,
    Date,
    DateTime,
    Enum,
    Index,
    LargeBinary,
    MetaData,
    NullPool,
    Numeric,
    Table,
    Text,
    TypeDecorator,
    Uuid,
    any_,
    bindparam,
    case,
    create_engine,
    func,
    literal,
    not_,
    or_,
    text,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from citus_analytics import (
    Distributed,
    Rollup,
    count,
    distinct,
    run_rollup,
)
from citus_analytics.errors import ArgumentError
from citus_analytics.rollups.ask import Question, ask
from citus_analytics.rollups.run import repair, verify
from tests.rollup_lab import engine_with, run_sql
from tests.servers import ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection, Engine

    from citus_analytics.rollups.ask import Freshness
    from tests.servers import DatabaseServer

START: Final = datetime(2026, 3, 1, tzinfo=UTC)


class Low(TypeDecorator[str]):
    """A text that is stored with a prefix, in small letters."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, _dialect: object) -> Any:
        """Return it as it is stored."""
        return None if value is None else f"low:{value.lower()}"

    def process_result_value(self, value: Any, _dialect: object) -> Any:
        """Return it as it is known."""
        return None if value is None else value.removeprefix("low:")


class Cents(TypeDecorator[Decimal]):
    """An amount that is stored as an integer."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Any, _dialect: object) -> Any:
        """Return it as it is stored."""
        return None if value is None else int(value * 100)

    def process_result_value(self, value: Any, _dialect: object) -> Any:
        """Return it as it is known."""
        return None if value is None else Decimal(value) / 100


class Wrapped(TypeDecorator[str]):
    """A text that the server itself converts."""

    impl = Text
    cache_ok = True

    def bind_expression(self, bindvalue: Any) -> Any:
        """Return what the server stores."""
        return func.concat("<", bindvalue, ">", type_=Text)

    def process_literal_param(self, value: Any, _dialect: object) -> str:
        """Return it as it is written."""
        return str(value)


class Kind(enum.Enum):
    """Two kinds."""

    HOT = "h"
    COLD = "c"


IDS: Final = [uuid.UUID(int=n) for n in range(3)]
LONG: Final = "w" * 1500


def values(metadata: MetaData) -> Table:
    return Table(
        "v",
        metadata,
        Column("id", BigInteger, primary_key=True),
        Column("l", Low),
        Column("p", Cents),
        Column("w", Wrapped),
        Column("k", Enum(Kind, native_enum=False, length=10)),
        Column("u", Uuid),
        Column("d", Date),
        Column("t", Text),
        Column("j", JSONB),
        Column("b", LargeBinary),
        Column("cost", Numeric),
        Column("at", DateTime(timezone=True)),
        Index("v_at", "at"),
        Distributed("id"),
    )


def rows() -> list[dict[str, Any]]:
    jsons: list[Any] = [{"a": 1}, {"a": 1, "b": LONG}, "x", [1, 2], 1, {"a": 1, "b": "v" * 1500}]
    return [
        {
            "id": n,
            "l": [None, "A", "b", "C"][n % 4],
            "p": [Decimal("0.25"), Decimal("0.5"), Decimal(3)][n % 3],
            "w": "xyz"[n % 3],
            "k": [Kind.HOT, Kind.COLD][n % 2],
            "u": IDS[n % 3],
            "d": date(2026, 3, 1 + n % 3),
            "t": ["short", LONG, "v" * 1500][n % 3],
            "j": jsons[n % 6],
            "b": [b"short", LONG.encode(), b"v" * 1500][n % 3],
            "cost": Decimal(n % 7),
            "at": START,
        }
        for n in range(48)
    ]


@pytest.fixture
def filled(server: DatabaseServer, empty_database: URL) -> Iterator[tuple[Connection, Table]]:
    """A source of values of all types, each of which is a dimension; a third is pending."""
    tables = MetaData()
    table = values(tables)
    c = table.c
    Rollup("typed", table, by=[c.l, c.p, c.w, c.k, c.u, c.d], measures={"rows": count()})
    Rollup("longs", table, by=[c.t, c.j, c.b, c.cost], measures={"rows": count()})
    engine = engine_with(server, empty_database, tables)
    listed = rows()
    with engine.begin() as connection:
        connection.execute(table.insert(), listed[:32])
        run_sql(connection, "SELECT v_run()")
        connection.execute(table.insert(), listed[32:])
    with engine.connect() as connection:
        yield connection, table


# What is asked, with which parameters, and the condition in plain SQL.
CONVERTED: Final[dict[str, tuple[Any, dict[str, Any], str]]] = {
    "in": (lambda c: c.l.in_(["A", "c"]), {}, "l IN ('low:a', 'low:c')"),
    "not in": (lambda c: c.l.not_in(["A"]), {}, "l <> 'low:a'"),
    "empty": (lambda c: or_(c.l.in_([]), c.p == 3), {}, "p = 300"),
    "parameter": (lambda c: c.l == bindparam("y"), {"y": "A"}, "l = 'low:a'"),
    "amounts": (lambda c: c.p.in_([Decimal("0.25"), Decimal("0.5")]), {}, "p IN (25, 50)"),
    "greater": (lambda c: c.p > bindparam("z"), {"z": Decimal("0.3")}, "p > 30"),
    "between": (
        lambda c: c.p.between(bindparam("y"), Decimal("0.5")),
        {"y": Decimal("0.3")},
        "p BETWEEN 30 AND 50",
    ),
    "tuples": (
        lambda c: tuple_(c.p, c.d).in_(
            [(Decimal("0.25"), date(2026, 3, 1)), (3, date(2026, 3, 3))]
        ),
        {},
        "(p, d) IN ((25, '2026-03-01'), (300, '2026-03-03'))",
    ),
    "an odd name": (lambda c: c.p == bindparam("a.b (c)"), {"a.b (c)": 3}, "p = 300"),
    "any": (
        lambda c: c.p == any_(bindparam("q", type_=ARRAY(Cents))),
        {"q": [Decimal("0.5"), Decimal(3)]},
        "p = ANY ('{50,300}')",
    ),
    "any of some": (lambda c: c.p == any_(literal([3], ARRAY(Cents))), {}, "p = 300"),
    "in a function": (
        lambda c: func.coalesce(c.p, literal(Decimal("0.5"), Cents)) == bindparam("z", type_=Cents),
        {"z": Decimal("0.5")},
        "p = 50",
    ),
    "in a case": (
        lambda c: case((c.p == 3, c.p), else_=literal(1, Cents)) == Decimal(1),
        {},
        "p <> 300",
    ),
    "twice": (
        lambda c: or_(c.p == bindparam("z"), c.p > bindparam("z")),
        {"z": Decimal("0.5")},
        "p >= 50",
    ),
    "expression": (lambda c: c.w == "x", {}, "w = '<x>'"),
    "expressions": (lambda c: c.w.in_(["x", "y"]), {}, "w IN ('<x>', '<y>')"),
    "given expression": (lambda c: c.w == bindparam("y"), {"y": "x"}, "w = '<x>'"),
    "enums": (lambda c: c.k.in_([Kind.HOT]), {}, "k = 'HOT'"),
    "an enum": (lambda c: c.k == bindparam("y"), {"y": Kind.COLD}, "k = 'COLD'"),
    "ids": (lambda c: c.u.in_(IDS[:2]), {}, f"u IN ('{IDS[0]}', '{IDS[1]}')"),
    "an id": (lambda c: c.u == bindparam("y"), {"y": IDS[1]}, f"u = '{IDS[1]}'"),
    "days": (lambda c: c.d.in_([date(2026, 3, 2)]), {}, "d = '2026-03-02'"),
    "a day": (lambda c: c.d > bindparam("y"), {"y": date(2026, 3, 1)}, "d > '2026-03-01'"),
    "json": (lambda c: c.j.in_([{"a": 1}]), {}, """j = '{"a":1}'"""),
    "json given": (
        lambda c: c.j == bindparam("q", type_=JSONB),
        {"q": {"a": 1}},
        "j = '{\"a\":1}'",
    ),
    "json lists": (lambda c: c.j == bindparam("q", type_=JSONB), {"q": [1, 2]}, "j = '[1,2]'"),
    "bytes": (lambda c: c.b.in_([b"short"]), {}, "b = 'short'"),
    "between costs": (lambda c: c.cost.between(1, 5), {}, "cost BETWEEN 1 AND 5"),
    "not between": (lambda c: not_(c.cost.between(1, 5)), {}, "cost NOT BETWEEN 1 AND 5"),
}

MANY: Final = f"(SELECT repeat('w', {len(LONG)}))"
BIG: Final = f"""jsonb_build_object('a', 1, 'b', repeat('w', {len(LONG)}))"""
JSON: Final = {"a": 1, "b": LONG}
TOO_LONG: Final[dict[str, tuple[Any, dict[str, Any], str]]] = {
    "text": (lambda c: c.t == LONG, {}, f"t = {MANY}"),
    "texts": (lambda c: c.t.in_(["short", LONG]), {}, f"t IN ('short', {MANY})"),
    "given text": (lambda c: c.t != bindparam("y"), {"y": LONG}, f"t <> {MANY}"),
    "json": (lambda c: c.j == JSON, {}, f"j = {BIG}"),
    "not json": (lambda c: c.j != JSON, {}, f"j <> {BIG}"),
    "NOT json": (lambda c: not_(c.j == JSON), {}, f"NOT j = {BIG}"),
    "distinct json": (lambda c: c.j.is_distinct_from(JSON), {}, f"j IS DISTINCT FROM {BIG}"),
    "jsons": (lambda c: c.j.in_([{}, JSON]), {}, f"j IN ('{{}}', {BIG})"),
    "given json": (lambda c: c.j == bindparam("q", type_=JSONB), {"q": JSON}, f"j = {BIG}"),
    "a great number": (lambda c: c.j != [1e305] * 5, {}, "j <> '[1e305,1e305,1e305,1e305,1e305]'"),
    "bytes": (lambda c: c.b == LONG.encode(), {}, f"b = convert_to({MANY}, 'UTF8')"),
    "not bytes": (lambda c: c.b.not_in([LONG.encode()]), {}, f"b <> convert_to({MANY}, 'UTF8')"),
    "given bytes": (
        lambda c: c.b.is_distinct_from(bindparam("q", type_=LargeBinary)),
        {"q": LONG.encode()},
        f"b <> convert_to({MANY}, 'UTF8')",
    ),
}


def counted(connection: Connection, where: str) -> int:
    found: int = run_sql(connection, "SELECT count(*) FROM v WHERE " + where).scalar_one()
    return found


def some(of: dict[str, Any], server: DatabaseServer) -> list[tuple[str, Any]]:
    """Return all of them, and on Citus, where each takes longer, some."""
    return [*of.items()][:: 4 if server.kind == "citus" else 1]


def test_values_are_converted_by_their_type(
    server: DatabaseServer, filled: tuple[Connection, Table]
) -> None:
    connection, table = filled
    for name, (where, parameters, sql) in some(CONVERTED, server):
        question = Question(table, measures={"rows": count()}, where=where(table.c))
        wanted = counted(connection, sql)
        assert 0 < wanted < len(rows()), name
        freshnesses: tuple[Freshness, ...] = ("fresh", "raw")
        for freshness in freshnesses:
            answer = question.ask(connection, freshness=freshness, parameters=parameters)
            assert (answer.rows[0].rows, answer.plan.freshness) == (wanted, freshness), name
        (streamed,) = question.stream(connection, parameters=parameters)
        assert streamed.rows == wanted, name
        run = question.ask(connection, freshness="rolled_up", parameters=parameters)
        assert run.rows[0].rows == counted(connection, f"({sql}) AND id < 32"), name
        again = connection.execute(question.ask(connection, parameters=parameters).plan.statement)
        assert [tuple(row)[-1] for row in again] == [wanted], name


def test_long_values_are_those_of_raw_rows(
    server: DatabaseServer, filled: tuple[Connection, Table]
) -> None:
    connection, table = filled
    for name, (where, parameters, sql) in some(TOO_LONG, server):
        question = Question(table, measures={"rows": count()}, where=where(table.c))
        wanted = counted(connection, sql)
        assert wanted > 0, name
        answer = question.ask(connection, parameters=parameters)
        assert (answer.rows[0].rows, answer.plan.freshness) == (wanted, "raw"), name
        why = answer.plan.reasons["longs"]
        assert "bytes" in why, (name, why)
        assert "longer" in why, (name, why)
        assert len(why) < 500
        assert "look into" not in why
        assert answer.plan.suggestion is None or parameters == {}
    # As long as they may be: a value is abbreviated that is longer than what an index holds.
    short = ask(connection, table, measures={"rows": count()}, where=table.c.t != "v" * 500)
    assert (short.rows[0].rows, short.plan.freshness) == (len(rows()), "fresh")


def test_a_parameter_of_two_types() -> None:
    c = values(MetaData()).c
    with pytest.raises(ArgumentError, match=r"'y' stands for a .* a name of its own"):
        Question(
            c.l.table,
            measures={"rows": count()},
            where=or_(c.l == bindparam("y"), c.t == bindparam("y")),
        )


WRITTEN: Final = (
    # Equal ones, written differently, short, long, and about as long as may be.
    "1",
    "1.0",
    "1.00",
    '{{"a": 1, "b": "{w}"}}',
    '{{"a": 1.0, "b": "{w}"}}',
    '{{"b": "{w}", "a": 1.000}}',
    '{{"a": 1.05, "b": "{w}"}}',
    '{{"a": 1.050, "b": "{w}"}}',
    '{{"a": 1.0, "b": "{w}1.0"}}',
    '{{"a": 1.0, "b": "{w}1.00"}}',
    '{{"a": 1.0, "b": "{w}\\" 1.0"}}',
    '{{"a": 1.0, "b": "{w}\\" 1.00"}}',
    '{{"a": 1.0, "b": "{w}\\\\", "c": 1.50}}',
    '{{"a": 1.0, "b": "{w}\\\\", "c": 1.5}}',
    '{{"a": 100, "b": "{w}"}}',
    '{{"a": 10.0, "b": "{w}"}}',
    '{{"a": -0.0, "b": "{w}"}}',
    '{{"a": 0, "b": "{w}"}}',
    '{{"a": 1e2, "b": "{w}"}}',
    "[1.{zeros}]",
    "[1]",
    *(f'[{n}, "{"x" * (1188 + n)}", 1.0]' for n in range(6)),
    *(f'[{n}.00, "{"x" * (1188 + n)}", 1]' for n in range(6)),
    *(f'[{n % 2}, "{"x" * 1188}", {", ".join(map(str, range(n, n + 70)))}]' for n in range(3)),
)


def test_equal_json_values_are_one_group(server: DatabaseServer, empty_database: URL) -> None:
    """However they are written, and however long they are; others are different groups."""
    tables = MetaData()
    table = values(tables)
    by = Rollup("by_json", table, by=[table.c.j], measures={"rows": count()})
    all_of = Rollup("jsons", table, measures={"different": distinct(table.c.j)})
    engine = engine_with(server, empty_database, tables)
    listed = [
        each.format(w=LONG, zeros="0" * 4000) if "{w}" in each or "{z" in each else each
        for each in WRITTEN
    ]
    insert = "INSERT INTO v (id, j) VALUES (:id, CAST(:j AS jsonb))"
    with engine.begin() as connection:
        for n, each in enumerate(listed):
            run_sql(connection, insert, id=n, j=each)
            if n % 4 == 0:
                run_rollup(connection, by)
    counts = sorted(
        run_sql_of(engine, "SELECT count(*) FROM v GROUP BY j"),
    )
    different = run_sql_of(engine, "SELECT count(DISTINCT j) FROM v")
    assert len(counts) < len(listed) - 8
    with engine.begin() as connection:
        freshnesses: tuple[Freshness, ...] = ("fresh", "rolled_up")
        for freshness in freshnesses:
            if freshness == "rolled_up":
                run_rollup(connection, by)
            answer = ask(
                connection, table, measures={"n": count()}, by=[table.c.j], freshness=freshness
            )
            assert answer.plan.rollups == ("by_json",)
            assert sorted(row.n for row in answer) == counts
            question = Question(table, measures={"n": distinct(table.c.j)})
            found = question.ask(connection, freshness=freshness)
            assert found.plan.freshness == freshness
            assert [row.n for row in found] == different
        assert [each.groups for each in verify(connection, all_of)] == [0, 0]
        assert [each.groups for each in repair(connection, by)] == [0]
        # One that is written differently goes.
        run_sql(connection, "DELETE FROM v WHERE id IN (0, 3, 21)")
        run_rollup(connection, by)
        left = sorted(row[0] for row in run_sql(connection, "SELECT count(*) FROM v GROUP BY j"))
        answer = ask(connection, table, measures={"n": count()}, by=[table.c.j])
        assert sorted(row.n for row in answer) == left


def run_sql_of(engine: Engine, sql: str) -> list[int]:
    with engine.connect() as connection:
        return [row[0] for row in run_sql(connection, sql)]


def written(draw: st.DrawFn, depth: int = 0) -> tuple[str, str]:
    """Draw a JSON value, as it may be written in two ways."""
    kind = draw(st.integers(0, 5 if depth < 3 else 3))
    if kind < 2:
        number = str(draw(st.decimals(-1000, 1000, places=draw(st.integers(0, 3)))))
        more = [draw(st.sampled_from(["", "0", "00"])) for _ in range(2)]
        dotted = number if "." in number else f"{number}.0"
        return (number, f"{dotted}{more[0]}") if draw(st.booleans()) else (number, number)
    if kind < 4:
        string = draw(st.text(st.sampled_from('01.e"\\\\{}[],: ä'), max_size=12))
        return (json.dumps(string), json.dumps(string, ensure_ascii=False))
    parts = [written(draw, depth + 1) for _ in range(draw(st.integers(0, 3)))]
    if kind == 4:
        one, other = (f"[{', '.join(p[n] for p in parts)}]" for n in (0, 1))
        return one, other
    names = [draw(st.sampled_from(["a", "b", "1.0", "1.00", '\\"'])) for _ in parts]
    named = dict(zip(names, parts, strict=True))
    one = ", ".join(f'"{name}": {part[0]}' for name, part in named.items())
    other = ", ".join(f'"{name}": {part[1]}' for name, part in reversed(named.items()))
    return f"{{{one}}}", f"{{{other}}}"


@ON_POSTGRESQL_ONLY
def test_long_json_values_are_abbreviated_alike_if_they_are_equal(
    server: DatabaseServer, empty_database: URL
) -> None:
    tables = MetaData()
    table = values(tables)
    expression = (
        Rollup("by_json", table, by=[table.c.j], measures={"n": count()}).spec().columns["j"]
    )
    engine = create_engine(empty_database, poolclass=NullPool)
    shortened = "SELECT {} FROM (SELECT CAST(:{} AS jsonb) AS j) AS r"
    asked = text(
        "SELECT CAST(:one AS jsonb) = CAST(:other AS jsonb), "
        f"({shortened.format(expression.replace(':', chr(92) + ':'), 'one')}) = "
        f"({shortened.format(expression.replace(':', chr(92) + ':'), 'other')})"
    )
    with engine.connect() as connection:

        @settings(max_examples=300, deadline=None)
        @given(st.composite(written)(), st.composite(written)())
        def is_alike(first: tuple[str, str], second: tuple[str, str]) -> None:
            listed = [f'["{LONG}", {each}]' for each in (*first, second[0])]
            for one, other in itertools.combinations(listed, 2):
                equal, alike = connection.execute(asked, {"one": one, "other": other}).one()
                assert equal == alike, (one[1500:], other[1500:])
                event(f"equal: {equal}, written alike: {one == other}")

        is_alike()
