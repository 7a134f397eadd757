"""Values that are too long for an index: groups of their own, and in nobody's way."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    LargeBinary,
    MetaData,
    NullPool,
    String,
    Table,
    Text,
    create_engine,
)
from sqlalchemy.dialects.postgresql import JSONB

from citus_analytics.rollups.declare import Rollup, count, distinct, maximum, specs_of
from citus_analytics.rollups.run import backfill, repair, run_rollup, verify
from citus_analytics.rollups.sql import create, drop
from citus_analytics.schema import Distributed
from tests.rollup_lab import build, run_sql

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

    from tests.servers import DatabaseServer, Prepared

TABLES = MetaData()
PAGES = Table(
    "pages",
    TABLES,
    Column("site", BigInteger),
    Column("url", Text),
    Column("title", String(400)),
    # In another order than the database's, which compile() writes behind the type.
    Column("label", Text(collation="C")),
    Column("payload", JSONB(none_as_null=True)),
    Column("bytes", LargeBinary),
    Distributed("site"),
)
c = PAGES.c
BY_URL = Rollup(
    "by_url", PAGES, by=[c.site, c.url], measures={"n": count(), "last": maximum(c.url)}
)
BY_ALL = Rollup(
    "by_all",
    PAGES,
    by=[c.url, c.title, c.label, c.payload["q"].astext.label("q")],
    measures={"n": count(), "sites": distinct(c.site)},
)
COUNTED = Rollup(
    "counted",
    PAGES,
    by=[c.site],
    measures={
        "urls": distinct(c.url),
        "about": distinct(c.url, approximate=True),
        "titles": distinct(c.title),
        "labels": distinct(c.label),
        "payloads": distinct(c.payload),
        "bytes": distinct(c.bytes),
    },
)
BY_VALUE = Rollup("by_value", PAGES, by=[c.payload, c.bytes], measures={"n": count()})
(SPEC,) = specs_of(TABLES)

# What nothing compresses, of so many characters.
NOISE: Final = "".join(hashlib.sha512(str(i).encode()).hexdigest() for i in range(800))
MULTIBYTE: Final = "".join(chr(0x1F300 + int(digit, 16)) + "ä本" for digit in NOISE[:40_000])
LONG: Final = {
    "short": "a",
    "fits": NOISE[:1_000],
    "3 kB": NOISE[:3_000],
    "3 kB, another end": NOISE[:2_999] + "!",
    "3 kB, twice": NOISE[:3_000] * 2,
    "100 kB": NOISE[:100_000],
    "100 kB, another end": NOISE[:100_000] + "!",
    "multibyte": MULTIBYTE,
    "multibyte, another end": MULTIBYTE + "ä",
}


@pytest.fixture
def pages(server: DatabaseServer, prepared: Prepared) -> Engine:
    """An engine on a database with the rollups."""
    citus = server.kind == "citus"
    return prepared("texts", lambda engine: build(engine, citus=citus, tables=TABLES, spec=SPEC))


def insert(connection: Connection, site: int, text: str | None, times: int = 1) -> None:
    values = {
        "site": site,
        "url": text,
        "title": None if text is None else text[-400:],
        "label": text,
        "payload": {"q": text, "of": 1},
        "bytes": None if text is None else text.encode(),
    }
    connection.execute(PAGES.insert(), [values] * times)


def query(engine: Engine, statement: str) -> list[tuple[Any, ...]]:
    with engine.begin() as connection:
        return [tuple(row) for row in run_sql(connection, statement)]


def assert_adds_up(engine: Engine, live: Counter[tuple[int, str | None]]) -> None:
    """Fail unless all rollups have these texts, fresh and then after a run."""
    by_url = sorted(live.values())
    texts: Counter[str | None] = Counter()
    for (_, text), number in live.items():
        texts[text] += number
    for turn in range(2):
        suffix = "_fresh" if turn == 0 else ""
        if turn:
            with engine.begin() as connection:
                run_rollup(connection, BY_URL)
        assert query(engine, f"SELECT n FROM by_url{suffix} ORDER BY 1") == [(n,) for n in by_url]
        for table in ("by_all", "by_value"):
            assert query(engine, f"SELECT n FROM {table}{suffix} ORDER BY 1") == [
                (n,) for n in sorted(texts.values())
            ]
        # Smallest and largest values are no part of an index: they are whole.
        assert query(engine, f"SELECT DISTINCT length(last) FROM by_url{suffix} ORDER BY 1") == [
            (n,) for n in sorted({len(t) for _, t in live if t is not None})
        ] + [(None,)] * any(t is None for _, t in live)
        wanted = {
            site: (
                number,
                number,
                len({t[-400:] for s, t in live if s == site and t is not None}),
                number,
            )
            for site in {site for site, _ in live}
            for number in [len({t for s, t in live if s == site and t is not None})]
        }
        found = query(
            engine,
            "SELECT site, urls, about, titles, labels, payloads, bytes FROM counted_fresh",
        )
        assert {row[0]: row[1:5] for row in found} == wanted
        assert {row[0]: row[6] for row in found} == {s: row[0] for s, row in wanted.items()}
        assert {row[0]: row[5] for row in found} == {
            site: len({t for s, t in live if s == site}) for site in wanted
        }
    for rollup in (BY_URL, BY_ALL, COUNTED, BY_VALUE):
        for move in (verify, repair):
            with engine.begin() as connection:
                assert {each.groups for each in move(connection, rollup)} == {0}


@pytest.mark.faults
def test_long_texts(pages: Engine) -> None:
    live: Counter[tuple[int, str | None]] = Counter()
    with pages.begin() as connection:
        for number, text in enumerate((*LONG.values(), None, "")):
            for site in (1, 2):
                live[site, text] = number + site
                insert(connection, site, text, number + site)
    assert_adds_up(pages, live)
    # One of two that begin alike goes, and the other stays.
    for name in ("3 kB", "100 kB", "multibyte"):
        with pages.begin() as connection:
            connection.execute(
                PAGES.delete().where(c.url == LONG[name], c.site == 1)  # One shard of it.
            )
        del live[1, LONG[name]]
    assert_adds_up(pages, live)
    with pages.begin() as connection:
        connection.execute(PAGES.delete())
    with pages.begin() as connection:
        run_rollup(connection, BY_URL)
    for table in (table for target in SPEC.targets for table in [target.table]):
        assert query(pages, f"SELECT count(*) FROM {table}") == [(0,)]


@pytest.mark.faults
def test_backfill_of_long_texts(pages: Engine) -> None:
    with pages.begin() as connection:
        for statement in drop(SPEC):
            run_sql(connection, statement)
    live: Counter[tuple[int, str | None]] = Counter()
    with pages.begin() as connection:
        for number, text in enumerate((*LONG.values(), None), start=1):
            live[3, text] = number
            insert(connection, 3, text, number)
    with pages.begin() as connection:
        for statement in create(SPEC):
            run_sql(connection, statement)
    assert len([*backfill(pages, BY_URL)]) == 1
    assert_adds_up(pages, live)


def test_a_long_text_by_its_name(pages: Engine) -> None:
    """Whoever asks for a long one asks with the expression that the rollup has."""
    with pages.begin() as connection:
        insert(connection, 1, LONG["3 kB"], 5)
        insert(connection, 1, LONG["3 kB, another end"], 2)
        run_rollup(connection, BY_URL)
        rows = connection.execute(BY_URL.select(by=["url"], measures=["n"])).all()
    assert sorted(n for _, n in rows) == [2, 5]
    for url, n in rows:
        text = LONG["3 kB"] if n == 5 else LONG["3 kB, another end"]
        # Its beginning, and its digest.
        assert url.startswith(text[:200])
        assert url.endswith(f"...{hashlib.md5(text.encode()).hexdigest()}")
        assert len(url) < 1_000


@pytest.mark.parametrize("length", [61, 100, 300, 305, 324, 325, 400])
@pytest.mark.parametrize("others", [0, 1, 3])
def test_texts_with_a_limit(
    server: DatabaseServer, empty_database: URL, length: int, others: int
) -> None:
    """What a type would cut off is no part of what tells values apart."""
    tables = MetaData()
    source = Table(
        "s",
        tables,
        Column("k", BigInteger),
        Column("a", String(length)),
        *(Column(f"o{n}", String(300)) for n in range(others)),
        Distributed("k"),
    )
    rollup = Rollup(
        "r",
        source,
        by=["a", *(f"o{n}" for n in range(others))],
        measures={"n": count(), "as": distinct("a")},
    )
    engine = create_engine(empty_database, poolclass=NullPool)
    build(engine, citus=server.kind == "citus", tables=tables, spec=rollup.spec())
    long = [MULTIBYTE[: length - 1] + end for end in "abc"] + ["short"]
    with engine.begin() as connection:
        rows = [
            {
                "k": n,
                "a": a,
                **{f"o{o}": NOISE[n : n + 200] + MULTIBYTE[:100] for o in range(others)},
            }
            for n, a in enumerate(long)
        ]
        connection.execute(source.insert(), rows)
        run_rollup(connection, rollup)
    assert query(engine, "SELECT n FROM r") == [(1,)] * 4
    with engine.connect() as connection:
        assert connection.execute(rollup.select(measures=["as"])).scalar_one() == 4
        assert {each.groups for each in verify(connection, rollup)} == {0}
