"""The dashboard of Grafana: each of its queries runs, and is plain SQL's answer.

The macros are what the documentation of Grafana's PostgreSQL data source says they are.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Double,
    Index,
    Integer,
    MetaData,
    NullPool,
    Table,
    Text,
    create_engine,
    insert,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ProgrammingError

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
    total,
)
from citus_analytics.__main__ import main
from citus_analytics.errors import ArgumentError
from citus_analytics.github.load import load_events, load_users
from citus_analytics.github.models import Base
from citus_analytics.github.sample import Sample
from citus_analytics.grafana import PASSWORD_VARIABLE, dashboard, data_source, write
from tests.rollup_lab import engine_with

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from sqlalchemy import URL, Connection, Engine

    from tests.servers import DatabaseServer

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
EVERYTHING: dict[str, Any] = {"since": NOON - timedelta(days=1), "until": NOON + timedelta(days=1)}
MACRO = re.compile(r"\$(__\w+)\(([^()]*)\)")
VARIABLE = re.compile(r"\$\{(\w+):sqlstring\}")


def interpolated(
    sql: str,
    *,
    since: datetime,
    until: datetime,
    interval: int = 60,
    chosen: Mapping[str, list[str]] | None = None,
) -> str:
    """Return a query as Grafana sends it: variables first, in the browser, then the macros."""

    def variable(found: re.Match[str]) -> str:
        values = (chosen or {}).get(found[1])
        if values is None:
            return "'(all)'"
        return ",".join("'" + value.replace("'", "''") + "'" for value in values)

    def macro(found: re.Match[str]) -> str:
        arguments = [each.strip() for each in found[2].split(",")]
        edges = [f"'{each:%Y-%m-%dT%H:%M:%SZ}'" for each in (since, until)]
        match found[1]:
            case "__timeFilter":
                return f"{arguments[0]} BETWEEN {edges[0]} AND {edges[1]}"
            case "__timeFrom":
                return edges[0]
            case "__timeTo":
                return edges[1]
            case "__timeGroup":
                seconds = int(arguments[1].strip("'").removesuffix("s"))
                return f"floor(extract(epoch from {arguments[0]})/{seconds})*{seconds}"
            case other:
                raise AssertionError(other)

    sql = VARIABLE.sub(variable, sql).replace("$__interval_ms", f"{interval}000")
    sql = sql.replace("$__interval", f"{interval}s")
    sql = MACRO.sub(macro, sql)
    assert "$" not in sql
    return sql


def asked(connection: Connection, sql: str) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.exec_driver_sql(sql.replace("%", "%%")).mappings()]


def every_panel(shown: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the panels of a dashboard, those of a closed row after it."""
    for panel in shown["panels"]:
        yield panel
        yield from panel.get("panels", ())


def panels(shown: dict[str, Any], kind: str) -> Iterator[tuple[str, str, str]]:
    """Yield the row, the title and the query of each panel of a type."""
    row = ""
    for panel in every_panel(shown):
        if panel["type"] == "row":
            row = panel["title"]
        elif panel["type"] == kind:
            (target,) = panel["targets"]
            yield row, panel["title"], target["rawSql"]


METADATA = MetaData()
READINGS = Table(
    "readings",
    METADATA,
    Column("site", BigInteger, primary_key=True, autoincrement=False),
    Column("reading", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text),
    Column("sensor", Text),
    Column("value", Integer),
    Column("noise", Double),
    Column("at", DateTime(timezone=True)),
    Distributed("site"),
    Index("readings_at", "at"),
)
BY_SITE = Rollup(
    "by_site",
    READINGS,
    time="at",
    every=["1 minute", "1 hour"],
    by=["site", "kind"],
    measures={
        "readings": count(),
        "value": total("value"),
        "mean": average("value"),
        "most": maximum("value"),
        "noise": percentiles("noise", [0.5]),
    },
    ranked="value",
)
BY_KIND = Rollup(
    "by 'kind'",
    READINGS,
    time="at",
    every="1 hour",
    by=[READINGS.c.kind.label('kind of "it"')],
    measures={'a "b"': total("value"), "sensors": distinct("sensor")},
)
TOTALS = Rollup("totals", READINGS, measures={"readings": count(), "mean": average("value")})


def rows() -> list[dict[str, Any]]:
    kinds = ["it's", None, *(f"k{number}" for number in range(14))]
    return [
        {
            "site": number % 3,
            "reading": number,
            "kind": kinds[number * number % 16],
            "sensor": f"s{number % 5}",
            "value": None if number % 17 == 0 else number % 40,
            "noise": float(number % 9),
            "at": NOON + timedelta(seconds=53 * number),
        }
        for number in range(600)
    ]


@pytest.fixture(scope="module")
def readings(server: DatabaseServer) -> Iterator[Engine]:
    """A database with readings, some of them pending."""
    with server.database("empty") as url:
        engine = engine_with(server, url, METADATA)
        made = rows()
        with engine.begin() as connection:
            connection.execute(insert(READINGS), made[:400])
        with engine.begin() as connection:
            run_rollup(connection, BY_SITE)
        with engine.begin() as connection:
            connection.execute(insert(READINGS), made[400:])
        yield engine


@pytest.mark.parametrize(
    "chosen", [None, {"by_site_kind": ["it's", "(none)"], "by_site_site": ["1", "2"]}]
)
@pytest.mark.parametrize("interval", [60, 3600])
def test_a_series_for_each_measure_is_that_of_the_raw_rows(
    readings: Engine, interval: int, chosen: dict[str, list[str]] | None
) -> None:
    since, until = NOON + timedelta(minutes=7, seconds=20), NOON + timedelta(hours=7)
    shown = {(row, title): sql for row, title, sql in panels(dashboard(METADATA), "timeseries")}
    assert {title for row, title in shown if row == "by_site, every 1 minute"} == {
        "readings", "value", "mean", "most", "noise50",
    }  # fmt: skip
    wanted = [
        row
        for row in rows()
        if since.replace(second=0) <= row["at"].replace(second=0) <= until
        and (chosen is None or row["site"] in (1, 2))
        and (chosen is None or row["kind"] in ("it's", None))
    ]

    def groups(size: str) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in wanted:
            found[f"{row['site']}, {'(none)' if row['kind'] is None else row['kind']}"].append(row)
        sizes = {
            name: len(each) if size == "rows" else sum(row["value"] or 0 for row in each)
            for name, each in found.items()
        }
        best = sorted(found, key=lambda name: (-sizes[name], name))[:10]
        placed: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for name, each in found.items():
            placed[name if name in best else "others"] += each
        return placed

    def start(row: dict[str, Any], width: int) -> int:
        return int(row["at"].timestamp()) // width * width

    with readings.connect() as connection:
        for title, size in (("readings", "rows"), ("value", "value"), ("most", "rows")):
            expected: dict[tuple[int, str], int | None] = {}
            for name, each in groups(size).items():
                for at in {start(row, interval) for row in each}:
                    values = [row["value"] for row in each if start(row, interval) == at]
                    numbers = [value for value in values if value is not None]
                    expected[at, name] = {
                        "readings": len(values),
                        "value": sum(numbers) if numbers else None,
                        "most": max(numbers, default=None),
                    }[title]
            sql = interpolated(
                shown["by_site, every 1 minute", title],
                since=since, until=until, interval=interval, chosen=chosen,
            )  # fmt: skip
            found = asked(connection, sql)
            assert {(int(row["time"]), row["metric"]): row[title] for row in found} == expected
            assert [row["time"] for row in found] == sorted(row["time"] for row in found)
        # What does not add up is that of the rollup's own buckets, for the greatest groups.
        sql = interpolated(
            shown["by_site, every 1 minute", "mean"], since=since, until=until, chosen=chosen
        )
        means: dict[tuple[int, str], Decimal | None] = {}
        for name, each in groups("rows").items():
            for at in {start(row, 60) for row in each} if name != "others" else ():
                numbers = [
                    row["value"]
                    for row in each
                    if start(row, 60) == at and row["value"] is not None
                ]
                means[at, name] = Decimal(sum(numbers)) / len(numbers) if numbers else None
        found = asked(connection, sql)
        assert {(int(r["time"].timestamp()), r["metric"]) for r in found} == set(means)
        for row in found:
            mean = means[int(row["time"].timestamp()), row["metric"]]
            assert row["mean"] == (mean and pytest.approx(mean))


def test_names_are_quoted_and_groups_without_a_name_are_there(readings: Engine) -> None:
    shown = dashboard(METADATA)
    found = {(row, title): sql for row, title, sql in panels(shown, "timeseries")}
    with readings.connect() as connection:
        sql = interpolated(found["by 'kind', every 1 hour", 'a "b"'], **EVERYTHING, interval=3600)
        answer = asked(connection, sql)
        raw = asked(
            connection,
            "SELECT extract(epoch FROM date_trunc('hour', at)) AS at, sum(value) AS value "
            "FROM readings GROUP BY 1",
        )
        sums: dict[Any, int] = defaultdict(int)
        for row in answer:
            sums[row["time"]] += row['a "b"'] or 0
        assert sums == {row["at"]: row["value"] for row in raw}
        sql = interpolated(found["by 'kind', every 1 hour", "sensors"], **EVERYTHING)
        assert {row["metric"] for row in asked(connection, sql)} > {"it's"}
        # A variable offers every value, that of rows without one too.
        variables = {each["name"]: each for each in shown["templating"]["list"]}
        assert set(variables) == {"by_site_site", "by_site_kind", "by__kind__kind_of__it_"}
        sql = interpolated(variables["by__kind__kind_of__it_"]["query"], **EVERYTHING)
        kinds = {row["kind"] for row in rows()}
        assert {row["value"] for row in asked(connection, sql)} == {k or "(none)" for k in kinds}


CALENDARS = MetaData()
CALLS = Table(
    "calls",
    CALENDARS,
    Column("site", BigInteger, primary_key=True, autoincrement=False),
    Column("call", BigInteger, primary_key=True, autoincrement=False),
    Column("at", DateTime(timezone=True)),
    Distributed("site"),
)
CALLED = Rollup(
    "called",
    CALLS,
    time="at",
    every=["1 day at Europe/London", "1 month at Europe/London"],
    measures={"calls": count()},
)


def test_days_and_months_are_those_of_their_time_zone(
    server: DatabaseServer, empty_database: URL
) -> None:
    """Of a day that starts at 23:00 UTC nothing is shown as the day before, nor added to it."""
    zone, first = ZoneInfo("Europe/London"), datetime(2026, 2, 27, 12, tzinfo=UTC)
    engine = engine_with(server, empty_database, CALENDARS)
    calls: list[dict[str, Any]] = [
        {"site": n % 3, "call": n, "at": first + timedelta(hours=n * 11)} for n in range(160)
    ]
    shown = {row: sql for row, _, sql in panels(dashboard(CALENDARS), "timeseries")}
    with engine.begin() as connection:
        connection.execute(insert(CALLS), calls)
        for width, interval in (("day", 3_600), ("day", 86_400), ("month", 2_592_000)):
            expected: dict[int, int] = defaultdict(int)
            for call in calls:
                local = call["at"].astimezone(zone).replace(hour=0, minute=0)
                start = local if width == "day" else local.replace(day=1)
                expected[int(start.timestamp())] += 1
            sql = interpolated(
                shown[f"called, every 1 {width} at Europe/London"],
                since=first - timedelta(days=60), until=first + timedelta(days=90),
                interval=interval, chosen=None,
            )  # fmt: skip
            found = {int(row["time"]): row["calls"] for row in asked(connection, sql)}
            assert found == expected


SITES = MetaData()
VISITS = Table(
    "visits",
    SITES,
    Column("site", BigInteger, primary_key=True, autoincrement=False),
    Column("visit", BigInteger, primary_key=True, autoincrement=False),
    Column("page", Text),
    Column("at", DateTime(timezone=True)),
    Distributed("site"),
)
WIDTHS = ["1 day", "6 hours", "1 month at America/New_York", "1 week at Asia/Kolkata"]
for number, width in enumerate(WIDTHS):
    Rollup(
        f"visits_{number}",
        VISITS,
        time="at",
        every=["5 minutes", width],
        by=["page"],
        measures={"visits": count()},
    )


def test_a_variable_has_the_values_of_any_range(server: DatabaseServer) -> None:
    """What the finest panels show is among them, and no more than what is in wide buckets."""
    with server.database("empty") as url:
        engine = engine_with(server, url, SITES)
        # Over the end of summer time in New York, on which a day has 25 hours.
        start = datetime(2026, 10, 25, tzinfo=UTC)
        made: list[dict[str, Any]] = [
            {"site": 1, "visit": n, "page": f"p{n}", "at": start + timedelta(hours=n)}
            for n in range(24 * 20)
        ]
        with engine.begin() as connection:
            connection.execute(insert(VISITS), made)
        shown = dashboard(SITES)
        variables = {each["name"]: each["query"] for each in shown["templating"]["list"]}
        with engine.connect() as connection:
            for hours, length in ((30, 6), (13, 1), (7 * 24 + 4, 3), (9 * 24, 30), (8, 200)):
                since = start + timedelta(hours=hours, minutes=-20)
                until = since + timedelta(hours=length)
                wanted = {row["page"] for row in made if since <= row["at"] <= until}
                assert wanted
                window = (since.isoformat(), until.isoformat())
                for number, width in enumerate(WIDTHS):
                    sql = interpolated(variables[f"visits_{number}_page"], since=since, until=until)
                    found = {row["value"] for row in asked(connection, sql)}
                    assert wanted <= found
                    zone = width.partition(" at ")[2] or "UTC"
                    unit = "day" if "hours" in width else width.split()[1]
                    around = asked(
                        connection,
                        f"SELECT page FROM visits WHERE date_trunc('{unit}', at, '{zone}') >= "
                        f"date_trunc('{unit}', '{window[0]}'::timestamptz, '{zone}') AND "
                        f"date_trunc('{unit}', at, '{zone}') <= '{window[1]}'",
                    )
                    assert found <= {row["page"] for row in around}


def test_panels_have_every_bucket_that_the_range_touches(server: DatabaseServer) -> None:
    """Also where the range lies within one: whole buckets, as plain SQL counts them."""
    with server.database("empty") as url:
        engine = engine_with(server, url, SITES)
        start = datetime(2026, 10, 25, tzinfo=UTC)
        made: list[dict[str, Any]] = [
            {"site": 1, "visit": n, "page": f"p{n % 3}", "at": start + timedelta(minutes=37 * n)}
            for n in range(500)
        ]
        with engine.begin() as connection:
            connection.execute(insert(VISITS), made)
        shown = {(row, title): sql for row, title, sql in panels(dashboard(SITES), "timeseries")}
        assert len(shown) == 2 * len(WIDTHS)
        with engine.connect() as connection:
            for hours, minutes in ((30, 90), (30, 360), (167, 3), (6 * 24, 60 * 24), (8, 12_000)):
                since = start + timedelta(hours=hours, minutes=11, seconds=1)
                until = since + timedelta(minutes=minutes)
                edges = [f"timestamptz '{each.isoformat()}'" for each in (since, until)]
                for (row, title), sql in shown.items():
                    unit, _, zone = row.partition(", every ")[2].partition(" at ")
                    binned = (
                        f"date_trunc('{unit.split()[1]}', %s, '{zone or 'UTC'}')"
                        if unit.startswith("1 ")
                        else f"date_bin('{unit}', %s, timestamptz '1970-01-01Z')"
                    )
                    wanted = asked(
                        connection,
                        f"SELECT extract(epoch FROM {binned % 'at'}) AS at, page AS metric, "
                        f"count(*) AS visits FROM visits WHERE {binned % 'at'} >= "
                        f"{binned % edges[0]} AND {binned % 'at'} <= {edges[1]} GROUP BY 1, 2",
                    )
                    assert wanted or "minutes" in row
                    found = asked(
                        connection, interpolated(sql, since=since, until=until, interval=1)
                    )
                    assert {(each["time"], each["metric"]): each[title] for each in found} == {
                        (each["at"], each["metric"]): each["visits"] for each in wanted
                    }


@pytest.mark.parametrize(
    ("address", "url", "user", "database", "sslmode"),
    [
        ("///d?host=/tmp/x&port=58981", "/tmp/x:58981", "postgres", "d", "disable"),
        ("//me@/d?host=/tmp/x&port=1", "/tmp/x:1", "me", "d", "disable"),
        ("//me:secret@h:7/d", "h:7", "me", "d", "require"),
        ("//h/?dbname=d&user=me&port=7&sslmode=verify-ca", "h:7", "me", "d", "verify-ca"),
        ("///d?host=h&port=7&user=me", "h:7", "me", "d", "require"),
        ("//me@[::1]:7/d", "[::1]:7", "me", "d", "disable"),
        ("//me@/d?host=one:7&host=two:8", "one:7", "me", "d", "require"),
        ("//me@/d?host=one,two&port=7,8", "one:7", "me", "d", "require"),
        ("//", "localhost:5432", "postgres", "postgres", "disable"),
    ],
)
def test_the_data_source_is_where_a_connection_would_go(
    address: str, url: str, user: str, database: str, sslmode: str
) -> None:
    for driver in ("postgresql", "postgresql+psycopg"):
        (found,) = data_source(make_url(f"{driver}:{address}"))["datasources"]
        settings = found["jsonData"]
        assert (found["url"], found["user"], settings["database"], settings["sslmode"]) == (
            url, user, database, sslmode,
        )  # fmt: skip


def test_tables_of_the_greatest(readings: Engine) -> None:
    found = {row: sql for row, _, sql in panels(dashboard(METADATA), "table")}
    assert set(found) == {"by_site, every 1 minute", "by_site, every 1 hour", "totals"}
    since, until = NOON, NOON + timedelta(hours=5)
    with readings.connect() as connection:
        sql = interpolated(found["by_site, every 1 minute"], since=since, until=until)
        expected: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in rows():
            if row["at"] < until + timedelta(minutes=1):
                expected[str(row["site"]), row["kind"] or "(none)"].append(row)
        sums = {k: sum(row["value"] or 0 for row in each) for k, each in expected.items()}
        answer = asked(connection, sql)
        assert [row["value"] for row in answer] == sorted(sums.values(), reverse=True)[:20]
        assert all(sums[row["site"], row["kind"]] == row["value"] for row in answer)
        assert all(len(expected[row["site"], row["kind"]]) == row["readings"] for row in answer)
        (answer_,) = asked(connection, interpolated(found["totals"], since=since, until=until))
        (raw,) = asked(connection, "SELECT count(*) AS readings, avg(value) AS mean FROM readings")
        assert (answer_["readings"], answer_["mean"]) == (
            raw["readings"],
            pytest.approx(raw["mean"]),
        )


def test_the_built_in_rollups(engine: Engine) -> None:
    sample = Sample(events=2000, users=40, since=NOON, until=NOON + timedelta(hours=3))
    with engine.begin() as connection:
        load_events(connection, sample.events_csv())
        load_users(connection, sample.users_csv())
    shown = dashboard(Base.metadata)
    ids = [panel["id"] for panel in every_panel(shown)]
    assert len(set(ids)) == len(ids)
    names = {each["name"] for each in shown["templating"]["list"]}
    with engine.connect() as connection:
        by_type = asked(
            connection,
            "SELECT event_type AS metric, count(*) AS events FROM github_events GROUP BY 1",
        )
        for _, _, sql in [*panels(shown, "timeseries"), *panels(shown, "table")]:
            assert set(VARIABLE.findall(sql)) <= names
            assert asked(connection, interpolated(sql, **EVERYTHING)), sql
        for variable in shown["templating"]["list"]:
            assert asked(connection, interpolated(variable["query"], **EVERYTHING))
        hourly = {
            title: sql
            for row, title, sql in panels(shown, "timeseries")
            if row == "github_events_by_type, every 1 hour"
        }
        found = asked(connection, interpolated(hourly["events"], **EVERYTHING, interval=10**9))
        # Ten series, and what is left.
        most = sorted(by_type, key=lambda row: (-row["events"], row["metric"]))
        assert {row["metric"]: row["events"] for row in found if row["metric"] != "others"} == {
            row["metric"]: row["events"] for row in most[:10]
        }
        assert sum(row["events"] for row in found) == 2000


def test_panels_do_not_overlap_and_refer_to_the_data_source() -> None:
    shown = dashboard(METADATA, title="Our readings & co.", uid="ours")
    assert (shown["title"], shown["uid"]) == ("Our readings & co.", "our-readings---co-")
    rows_ = [panel for panel in shown["panels"] if panel["type"] == "row"]
    # What nobody looks at asks nothing.
    assert [row["collapsed"] for row in rows_] == [False, *[True] * (len(rows_) - 1)]
    for together in (shown["panels"], *(row["panels"] for row in rows_)):
        taken: set[tuple[int, int]] = set()
        for panel in together:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert place["x"] + place["w"] <= 24
            assert not cells & taken, panel["title"]
            taken |= cells
            if panel["type"] != "row":
                (target,) = panel["targets"]
                source = {"type": "grafana-postgresql-datasource", "uid": "ours"}
                assert panel["datasource"] == target["datasource"] == source
    series = [panel for panel in every_panel(shown) if panel["type"] == "timeseries"]
    assert {panel["interval"] for panel in series} == {"60s", "3600s"}
    with pytest.raises(ArgumentError, match="declares no rollups"):
        dashboard(MetaData())


def test_what_cannot_be_shown() -> None:
    metadata = MetaData()
    source = Table("pages", metadata, Column("b_c", Text), Column("c", Text))
    Rollup("a", source, by=["b_c"], measures={"first": minimum("c")})
    # The smallest text is neither a series nor an order.
    assert [panel["type"] for panel in dashboard(metadata)["panels"]] == ["row"]
    Rollup("a_b", source, by=["c"], measures={"pages": count()})
    with pytest.raises(ArgumentError, match="'a: b_c' and 'a_b: c' would both be Grafana's varia"):
        dashboard(metadata)


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = make_url("postgresql://grafana:secret@db.example.com:6432/shop?sslmode=verify-full")
    files = write(tmp_path / "a", METADATA, url, title="Readings")
    assert [path.relative_to(tmp_path / "a").as_posix() for path in files] == [
        "datasources/citus_analytics.yaml",
        "dashboards/citus_analytics.yaml",
        "dashboards/readings.json",
    ]
    source, provider, shown = (json.loads(path.read_text("utf-8")) for path in files)
    assert shown == dashboard(METADATA, title="Readings")
    assert provider["providers"][0]["options"]["path"] == str(files[2].parent)
    (found,) = source["datasources"]
    assert (found["url"], found["user"]) == ("db.example.com:6432", "grafana")
    assert found["jsonData"]["sslmode"] == "verify-full"
    assert found["secureJsonData"] == {"password": f"${PASSWORD_VARIABLE}"}
    assert not any("secret" in path.read_text("utf-8") for path in files)
    local = data_source(make_url("postgresql:///shop?host=/run/postgresql"))["datasources"][0]
    assert (local["url"], local["jsonData"]["sslmode"]) == ("/run/postgresql:5432", "disable")

    address = url.render_as_string(hide_password=False)
    target = str(tmp_path / "b")
    assert main(["grafana", target, "--database-url", address, "--title", "GitHub"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert json.loads((tmp_path / "b/dashboards/github.json").read_text("utf-8")) == dashboard(
        Base.metadata, title="GitHub"
    )
    assert printed[2] == f"{target}/dashboards/github.json"


def test_a_role_that_can_only_read(readings: Engine, server: DatabaseServer) -> None:
    fresh = [BY_KIND.fresh(), BY_SITE.fresh("1 minute"), BY_SITE.fresh("1 hour")]
    granted = ", ".join(f'"{view.name}"' for view in fresh)
    if server.kind == "citus":
        # The nodes look at the rights on what a view reads, too.
        granted = "ALL TABLES IN SCHEMA public"
    queries = [sql for _, _, sql in panels(dashboard(METADATA), "timeseries")]
    with readings.begin() as connection:
        connection.execute(text("CREATE ROLE grafana_reader LOGIN"))
    try:
        with readings.begin() as connection:
            connection.execute(text(f"GRANT SELECT ON {granted} TO grafana_reader"))
        reader = create_engine(readings.url.set(username="grafana_reader"), poolclass=NullPool)
        with reader.connect() as connection:
            for sql in queries:
                assert asked(connection, interpolated(sql, **EVERYTHING))
            with pytest.raises(ProgrammingError, match="permission denied"):
                connection.execute(text("DELETE FROM readings"))
    finally:
        with readings.begin() as connection:
            connection.execute(text("DROP OWNED BY grafana_reader"))
            connection.execute(text("DROP ROLE grafana_reader"))
