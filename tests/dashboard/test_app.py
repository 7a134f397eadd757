"""The dashboard over HTTP: its numbers against plain SQL, and what keeps it safe."""

from __future__ import annotations

import html
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, NullPool, create_engine, insert, text
from sqlalchemy.exc import DBAPIError

from citus_analytics import GITHUB_ROLLUP_1MIN, run_rollup
from citus_analytics.github.models import github_events, github_users
from examples.dashboard.app import ALL_PANELS
from examples.dashboard.demo import create_reader, named
from examples.dashboard.panels import PANELS, RANGES, ZONES, Part, View
from tests.dashboard.conftest import Running, dashboard_of
from tests.processes import eventually
from tests.rollups import event
from tests.servers import execute, free_ports, query_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection

    from tests.servers import DatabaseServer

# Whoever leaves cancels what is being asked for them, and SQLAlchemy drops that connection.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

KINDS = ("PushEvent", "WatchEvent", "CreateEvent", "ForkEvent", "GollumEvent", None)
SINCE, UNTIL = datetime(2026, 3, 1, 8, tzinfo=UTC), datetime(2026, 3, 1, 14, tzinfo=UTC)
WINDOW = "since=2026-03-01T08:00Z&until=2026-03-01T14:00Z"
SHOW = (
    "SELECT {} FROM github_events "
    "WHERE created_at >= '2026-03-01 08:00Z' AND created_at < '2026-03-01 14:00Z'"
)


def events(number: int) -> Iterator[dict[str, Any]]:
    """Yield events of a morning, most of them of few users, some without this or that."""
    for i in range(number):
        kind = KINDS[i * i % len(KINDS)]
        payload: dict[str, Any] = {"distinct_size": i % 5} if kind == "PushEvent" else {}
        if kind == "CreateEvent":
            payload = {"ref_type": "repository" if i % 2 else "branch"}
        yield {
            "event_id": i,
            "event_type": kind,
            "user_id": None if i % 31 == 0 else (i * i) % 17,
            "repo_id": None if i % 29 == 0 else (i * i * i) % 13,
            "repo": {"name": f"owner/repo-{(i * i * i) % 13}"},
            "payload": payload,
            "created_at": SINCE - timedelta(hours=1) + timedelta(seconds=97 * i % 36_000),
        }


def add(connection: Connection, rows: list[dict[str, Any]]) -> None:
    names = ("event_id", "event_type", "repo_id", "user_id", "payload", "repo", "created_at")
    connection.execute(insert(github_events), [{n: row.get(n) for n in names} for row in rows])


@pytest.fixture
def filled(engine: Engine) -> Engine:
    """The database with events, half of them rolled up."""
    with engine.begin() as connection:
        users = [{"user_id": i, "login": f"login-{i}"} for i in range(17)]
        connection.execute(insert(github_users), users)
        rows = list(events(900))
        add(connection, rows[:500])
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
        add(connection, rows[500:])
    return engine


def rows(engine: Engine, statement: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement))]


def number_of(shown: str) -> int:
    """Return the headline of a panel."""
    found = re.search(r'class="big"[^>]*>([\d,]+)<', shown)
    assert found is not None, shown
    return int(found[1].replace(",", ""))


def ranked(shown: str) -> list[tuple[str, int]]:
    names = re.findall(r'class="who"[^>]*>([^<]*)<', shown)
    numbers = re.findall(r'class="how-many"[^>]*>([\d,]+)<', shown)
    return [
        (html.unescape(n), int(v.replace(",", ""))) for n, v in zip(names, numbers, strict=True)
    ]


def series(shown: str) -> dict[str, list[int]]:
    found = re.search(r'data-series="([^"]*)"', shown)
    assert found is not None, shown
    return {each["name"]: each["values"] for each in json.loads(html.unescape(found[1]))}


FILTERS = {
    "": "",
    "type=PushEvent": " AND event_type = 'PushEvent'",
    "user=4": " AND user_id = 4",
    "repo=1&type=WatchEvent": " AND repo_id = 1 AND event_type = 'WatchEvent'",
    "repo=8&user=16": " AND repo_id = 8 AND user_id = 16",
}


@pytest.mark.parametrize("filters", FILTERS)
def test_panels_show_what_sql_counts(dashboard: Running, filled: Engine, filters: str) -> None:
    where = FILTERS[filters]
    query = f"?{WINDOW}&{filters}"
    # What is of one type of events does not take the filter by type.
    bare = re.sub(r" AND event_type = '\w+'", "", where)

    def panel(name: str) -> str:
        answer = dashboard.get(f"/panels/{name}{query}")
        assert answer.status_code == 200, answer.text
        return answer.text

    (count,) = rows(filled, SHOW.format("count(*)") + where)[0]
    assert number_of(panel("events")) == count > 0
    by_type = rows(filled, SHOW.format("event_type, count(*)") + where + " GROUP BY 1")
    named_types = {
        "PushEvent": "Push",
        "WatchEvent": "Star",
        "CreateEvent": "Create",
        "ForkEvent": "Fork",
    }
    expected: Counter[str] = Counter()
    for kind, events_ in by_type:
        expected[named_types.get(kind, "Others")] += events_
    assert {name: sum(v) for name, v in series(panel("events")).items()} == expected

    commits = "coalesce(sum((payload->>'distinct_size')::int), 0)"
    (pushed,) = rows(filled, SHOW.format(commits) + bare + " AND event_type = 'PushEvent'")[0]
    assert number_of(panel("commits")) == pushed
    (users,) = rows(filled, SHOW.format("count(DISTINCT user_id)") + where)[0]
    assert number_of(panel("users")) == users

    by_user = SHOW.format("user_id, count(*)") + where + " GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 8"
    active = [
        (f"login-{u}" if u is not None else "Nobody known", n) for u, n in rows(filled, by_user)
    ]
    assert ranked(panel("active")) == active

    day = "created_at >= '2026-03-01 00:00Z' AND created_at < '2026-03-02 00:00Z'"
    star = "" if "event_type" in where else " AND event_type = 'WatchEvent'"
    by_repository = (
        f"SELECT repo_id, count(*) FROM github_events WHERE {day}{where}{star} "
        "GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 8"
    )
    trending = [
        (f"owner/repo-{r}" if r is not None else "No repository", n)
        for r, n in rows(filled, by_repository)
    ]
    assert ranked(panel("trending")) == trending
    creators = (
        f"SELECT user_id, count(*) FROM github_events WHERE {day}{bare} AND event_type = "
        "'CreateEvent' AND payload->>'ref_type' = 'repository' "
        "GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 8"
    )
    assert ranked(panel("creators")) == [
        (f"login-{u}" if u is not None else "Nobody known", n) for u, n in rows(filled, creators)
    ]


def test_the_heat_map_is_that_of_the_clocks_of_a_zone(dashboard: Running, filled: Engine) -> None:
    shown = dashboard.get(f"/panels/heat?{WINDOW}&zone=Asia/Kolkata").text
    cells = re.findall(r'data-tip="(\w+) (\d+):00\|([\d,]+) events?"', shown)
    expected = rows(
        filled,
        SHOW.format(
            "to_char(created_at AT TIME ZONE 'Asia/Kolkata', 'Dy'), "
            "to_char(created_at AT TIME ZONE 'Asia/Kolkata', 'HH24'), count(*)::text"
        )
        + " GROUP BY 1, 2",
    )
    assert sorted(cells) == sorted(expected)


def test_buckets_follow_the_range_and_a_number_leads_to_its_events(
    dashboard: Running, filled: Engine
) -> None:
    for query, width in (
        (WINDOW, "per 5 minutes"),
        ("since=2026-03-01T08:00Z&until=2026-03-01T09:00Z", "per minute"),
        ("since=2026-02-20T08:00Z&until=2026-03-03T09:00Z", "per hour"),
        ("range=all", "per day"),
    ):
        shown = dashboard.get(f"/panels/events?{query}").text
        assert width in shown
        table = dashboard.get(f"/panels/events/table?{query}").text
        body = table.partition("<tbody>")[2]
        for link, said in re.findall(r'<td class="r"><a href="([^"]+)">([\d,]+)</a>', body)[:3]:
            page = dashboard.get(html.unescape(link)).text
            assert f'<h1 id="title">{said} event{"" if said == "1" else "s"}</h1>' in page
            assert page.count("<tr>\n  <td") == min(int(said.replace(",", "")), 50)


def test_three_ways_agree_at_one_moment(dashboard: Running, filled: Engine) -> None:
    for name in PANELS:
        shown = dashboard.get(f"/panels/{name}/compare?{WINDOW}").text
        asked = shown.count("<caption>")
        assert asked >= 1
        # What is pending is in the fresh answer, and not in the rolled-up one.
        assert shown.count("✓ equal") >= asked
        assert "differs in" not in shown
        assert "as of 20" in shown
        assert shown.count("400") >= 2 * asked, "pending"
    with filled.begin() as connection:
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
    for name in PANELS:
        shown = dashboard.get(f"/panels/{name}/compare?{WINDOW}").text
        assert shown.count("✓ equal") == 2 * shown.count("<caption>")
        assert "SELECT" in shown


@pytest.mark.parametrize("freshness", ["fresh", "rolled_up", "raw"])
def test_a_panel_says_as_of_when_it_is_and_what_is_pending(
    dashboard: Running, filled: Engine, freshness: str
) -> None:
    shown = dashboard.get(f"/panels/events?{WINDOW}&freshness={freshness}").text
    assert (
        number_of(shown)
        == rows(
            filled,
            SHOW.format("count(*)") + (" AND event_id < 500" if freshness == "rolled_up" else ""),
        )[0][0]
    )
    assert re.search(r"[\d.]+ ms", shown)
    (moment,) = re.findall(r'<time datetime="([^"]+)"', shown)
    if freshness == "rolled_up":
        (last_run,) = rows(filled, "SELECT min(last_run) FROM github_events_rollups")[0]
        assert datetime.fromisoformat(moment) == last_run
    else:
        assert abs(datetime.fromisoformat(moment) - datetime.now(UTC)) < timedelta(minutes=1)
    assert ("400 pending" in shown) is (freshness != "raw")


def test_pages_of_events_have_each_event_once(dashboard: Running, engine: Engine) -> None:
    at = SINCE.replace(microsecond=123_456)
    twins = [event(1, at=at, event_id=n % 40) for n in range(40)]
    twins += [event(None, at=at, event_id=None), event(2, at=at, event_id=7)]
    dated = [event(3, at=at + timedelta(seconds=n), event_id=1000 + n) for n in range(70)]
    with engine.begin() as connection:
        add(connection, [*twins, *dated, event(4, at=None, event_id=5)])
    url, found = f"/events?{WINDOW}", []
    while url:
        page = dashboard.get(url)
        found += re.findall(r'<td class="when"><time datetime="([^"]+)"', page.text)
        link = re.search(r'<a href="([^"]+)" class="button" hx-get', page.text)
        url = html.unescape(link[1]) if link else ""
    moments = [datetime.fromisoformat(each) for each in found]
    assert len(moments) == 112
    assert moments == sorted(moments, reverse=True)


NASTY = "<script>alert(1)</script>\"'&{{7*7}}"


def test_what_the_database_and_the_address_say_is_text(dashboard: Running, engine: Engine) -> None:
    now = datetime.now(UTC)
    with engine.begin() as connection:
        connection.execute(insert(github_users), [{"user_id": 1, "login": NASTY}])
        add(
            connection,
            [event(1, at=now, event_type=NASTY, repo={"name": NASTY}, payload={NASTY: NASTY})],
        )
    pages = ["/", "/?user=1&repo=1", "/events", "/?range=<script>alert(1)</script>"]
    pages += [
        f"/?{name}=%3Cscript%3Ealert(1)" for name in ("type", "zone", "user", "since", "freshness")
    ]
    pages += [f"/panels/{name}" for name in ALL_PANELS]
    pages += [f"/panels/{name}/{what}" for name in PANELS for what in ("table", "compare")]
    for path in pages:
        shown = dashboard.get(path).text
        assert "<script>alert" not in shown, path
        assert "49" not in re.findall(r"alert\(1\)&lt;/script&gt;.{0,20}", shown), path
    assert "&lt;script&gt;" in dashboard.get("/events").text


def test_pages_need_no_exception_from_a_strict_policy(dashboard: Running, filled: Engine) -> None:
    for path in ("/", f"/events?{WINDOW}", "/nowhere", "/panels/events", "/static/dashboard.js"):
        answer = dashboard.get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        if "html" in answer.headers["Content-Type"]:
            assert not re.search(r"<script(?![^>]* src=)", answer.text), path
            assert not re.search(r"<[^>]+ (style|on\w+)=", answer.text), path
            assert "<style" not in answer.text
            assert not re.search(r'(src|href)="(https?:)?//', answer.text), "from elsewhere"
    assert dashboard.get("/nowhere").status_code == 404
    # A page of somebody else's could point a name of its own at this machine.
    assert dashboard.get("/", headers={"Host": "evil.example"}).status_code == 400


def test_what_makes_no_sense_is_said_and_left_out(dashboard: Running) -> None:
    for query, said in {
        "zone=Mars/Olympus": "not the name of a time zone",
        "zone=localtime": "not the name of a time zone",
        "range=5y": "is no range",
        "since=yesterday&until=2026-03-01": "is not a time",
        "since=2026-03-02T00:00Z&until=2026-03-01T00:00Z": "since has to be before until",
        "since=2026-03-02T00:00Z": "needs both",
        "user=ada": "is not the number of a user",
        "repo=99999999999999999999": "is not the number of a repo",
        "freshness=stale": "freshness is fresh, rolled_up or raw",
    }.items():
        answer = dashboard.get(f"/?{query}")
        assert answer.status_code == 400
        assert said in html.unescape(answer.text)
        assert "Start anew" in answer.text
    # A page that there cannot be is the first one.
    for place in ("nonsense", "2026-03-01T00:00~1~1", f"2026-03-01T00:00Z~{10**20}~1"):
        assert dashboard.get(f"/events?after={place}").status_code == 200, place


def test_names_become_numbers_in_the_address(dashboard: Running, filled: Engine) -> None:
    with filled.begin() as connection:
        add(connection, [event(3, at=datetime.now(UTC), repo_id=77, repo={"name": "a/b"})])
    for query, address in {
        "user=login-5": "/?user=5",
        "user=12&type=PushEvent&to=/events": "/events?type=PushEvent&user=12",
        "repo=a/b&range=7d": "/?range=7d&repo=77",
        "to=https://evil.example/": "/",
    }.items():
        answer = dashboard.get(f"/find?{query}")
        assert answer.status_code == 303
        assert answer.headers["Location"] == address
    unknown = dashboard.get("/find?user=nobody", follow_redirects=True)
    assert "is not the number of a user" in html.unescape(unknown.text)


def moments(first: int, last: int) -> st.SearchStrategy[datetime]:
    seconds = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (first, last))
    return st.integers(*seconds).map(lambda second: datetime.fromtimestamp(second, UTC))


@st.composite
def views(draw: st.DrawFn) -> View:
    since, until = sorted((draw(moments(1990, 2100)), draw(moments(1990, 2100))))
    window: dict[str, Any] = {"range": draw(st.sampled_from([*RANGES]))}
    if since < until and draw(st.booleans()):
        window = {"range": "", "since": since, "until": until}
    number = st.none() | st.integers(0, 2**63 - 1)
    return View(
        **window,
        zone=draw(st.sampled_from(ZONES)),
        event_type=draw(st.none() | st.sampled_from(["PushEvent", "a&b=c", "+ ü%", "user"])),
        user_id=draw(number),
        repo_id=draw(number),
        freshness=draw(st.sampled_from(["fresh", "rolled_up", "raw"])),
    )


@given(views(), moments(2020, 2030))
def test_an_address_says_all_of_a_view(view: View, now: datetime) -> None:
    query = dict(parse_qsl(urlsplit(view.url()).query))
    assert View.read(query) == (view, [])
    window = view.window(now)
    if window.since is not None and window.until is not None:
        assert window.since < window.until
        edges = window.edges(window.every, [])
        assert len(edges) <= 900
        assert edges[0] <= window.since or not edges
        assert edges == sorted(set(edges))


@contextmanager
def stream(running: Running, query: str = "") -> Iterator[Iterator[dict[str, Any]]]:
    with httpx.stream("GET", f"{running.address}/live{query}", timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        yield (
            json.loads(line.removeprefix("data: "))
            for line in answer.iter_lines()
            if line.startswith("data: ")
        )


def wait_for(messages: Iterator[dict[str, Any]], panel: str, number: int) -> None:
    start = time.monotonic()
    for message in messages:
        shown = message["html"] if message.get("panel") == panel else ""
        if 'class="big"' in shown and number_of(shown) == number:
            return
        assert time.monotonic() - start < 60
    raise AssertionError("the stream has ended")


def test_a_run_is_seen(dashboard: Running, engine: Engine) -> None:
    now = datetime.now(UTC)
    with stream(dashboard, "?range=1h") as messages:
        next(message for message in messages if message.get("status") == "live")
        for number in range(1, 6):
            with engine.begin() as connection:
                add(connection, [event(number, at=now, event_id=number)])
            with engine.begin() as connection:
                run_rollup(connection, GITHUB_ROLLUP_1MIN)
            wait_for(messages, "events", number)


def test_events_are_seen_where_nobody_rolls_up(dashboard: Running, engine: Engine) -> None:
    with engine.begin() as connection:
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
    with stream(dashboard, "?range=1h") as messages:
        next(messages)
        with engine.begin() as connection:
            add(connection, [event(1, at=datetime.now(UTC)) for _ in range(3)])
        wait_for(messages, "events", 3)
        state = next(
            m["html"] for m in messages if m.get("panel") == "state" and ">3<" in m["html"]
        )
    assert "<dt>Pending</dt><dd>3</dd>" in state
    assert number_of(dashboard.get("/panels/events?range=1h&freshness=raw").text) == 3
    rolled_up = dashboard.get("/panels/events?range=1h&freshness=rolled_up").text
    assert "No events here" in rolled_up
    assert "3 pending" in rolled_up


def test_browsers_that_look_at_the_same_share_its_questions(
    dashboard: Running, engine: Engine
) -> None:
    with (
        stream(dashboard) as first,
        stream(dashboard) as second,
        stream(dashboard, "?range=1h") as third,
    ):
        for messages in (first, second, third):
            assert "panel" in next(messages)
        assert len(dashboard.board.feeds) == 2
    end = time.monotonic() + 60
    while dashboard.board.feeds:
        # A stream that has ended is noticed by whoever writes to it.
        assert time.monotonic() < end
        time.sleep(0.05)


def test_panels_say_that_the_database_is_down_and_recover(
    dashboard: Running, engine: Engine, database: URL
) -> None:
    name = database.database
    postgres = database.set(database="postgres")
    with stream(dashboard, "?range=1h") as messages:
        next(m for m in messages if m.get("status") == "live")
        left = "count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        execute(postgres, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            # One that was about to connect comes late.
            assert eventually(
                lambda: query_text(postgres, f"SELECT {left} WHERE datname = '{name}'") == "0"
            )
            next(m for m in messages if m.get("status") == "down")
            answer = dashboard.get("/panels/events")
            assert answer.status_code == 503
            assert "The database does not answer" in answer.text
            assert str(name) not in answer.text
            assert dashboard.get("/").status_code == 200
            assert dashboard.get("/events").status_code == 503
            assert dashboard.get("/healthz").status_code == 503
        finally:
            execute(postgres, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        next(m for m in messages if m.get("status") == "live")
        assert dashboard.get("/healthz").json() == {"database": "answers", "listening": True}
        with engine.begin() as connection:
            add(connection, [event(1, at=datetime.now(UTC))])
        wait_for(messages, "events", 1)


def test_a_pool_that_is_used_up_is_said(database: URL, engine: Engine) -> None:
    with dashboard_of(database, connections=1, wait=0.2) as running, ThreadPoolExecutor() as pool:
        with engine.connect() as connection:
            # Whoever reads waits for this lock, and keeps the only connection meanwhile.
            connection.execute(text("LOCK TABLE github_events_log IN ACCESS EXCLUSIVE MODE"))
            asked = [pool.submit(running.get, f"/panels/{name}") for name in ("heat", "commits")]
            refused = next(each.result() for each in as_completed(asked))
            assert refused.status_code == 503
            assert "All connections are in use" in refused.text
        assert sorted(each.result().status_code for each in asked) == [200, 503]
        assert running.get("/panels/events").status_code == 200


def test_a_statement_that_takes_too_long_is_stopped(database: URL, engine: Engine) -> None:
    # Long enough for what is not kept waiting.
    with dashboard_of(database, statement_timeout=2) as running:
        with engine.connect() as connection:
            connection.execute(text("LOCK TABLE github_events_log IN ACCESS EXCLUSIVE MODE"))
            answer = running.get("/panels/events")
        assert answer.status_code == 503
        assert "This took too long, and was stopped" in answer.text
        assert running.get("/panels/events").status_code == 200


def test_it_reads_and_does_nothing_else(
    database: URL, filled: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    role, password = f"dashboard_{secrets.token_hex(4)}", secrets.token_hex(8)
    reader = create_reader(database, role)
    execute(database, f"ALTER ROLE {role} PASSWORD '{password}'")
    try:
        delete = text("DELETE FROM github_events")
        with create_engine(reader, poolclass=NullPool).connect() as connection:
            with pytest.raises(DBAPIError, match="permission denied"):
                connection.execute(delete)
            connection.rollback()
        with dashboard_of(reader.set(password=password)) as running:
            for name in ALL_PANELS:
                assert running.get(f"/panels/{name}?{WINDOW}").status_code == 200, name
            for name in PANELS:
                assert "✓ equal" in running.get(f"/panels/{name}/compare?{WINDOW}").text
            assert password not in running.get("/").text
        # What may write does not, either.
        with dashboard_of(database) as running:
            assert running.get("/healthz").json()["database"] == "answers"
            options = running.board.connect_options
        writer = create_engine(database, connect_args=options, poolclass=NullPool)
        with writer.connect() as connection:
            with pytest.raises(DBAPIError, match="read-only transaction"):
                connection.execute(delete)
            connection.rollback()
        assert password not in caplog.text
    finally:
        execute(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_what_a_role_may_not_read_is_said_with_what_to_do(database: URL, filled: Engine) -> None:
    role = f"dashboard_{secrets.token_hex(4)}"
    reader = create_reader(database, role)
    try:
        execute(database, f"REVOKE SELECT ON github_users FROM {role}")
        with dashboard_of(reader) as running:
            # Numbers are there all the same, only names are not.
            assert ranked(running.get(f"/panels/active?{WINDOW}").text)[1][0].startswith("user #")
            state = running.get("/panels/state").text
            assert "Names are missing" in state
            assert "GRANT SELECT ON github_users TO" in state
            execute(
                database,
                f"GRANT SELECT ON github_users TO {role}",
                f"REVOKE SELECT ON github_events FROM {role}",
            )
            for path in ("/panels/latest", f"/events?{WINDOW}", "/panels/events?freshness=raw"):
                answer = running.get(path)
                assert answer.status_code == 503
                assert "The dashboard may not read github_events" in answer.text
                assert "GRANT SELECT ON github_events TO" in answer.text
            count = rows(filled, SHOW.format("count(*)"))[0][0]
            assert number_of(running.get(f"/panels/events?{WINDOW}").text) == count
    finally:
        execute(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_what_the_server_says_of_errors_is_not_shown(
    dashboard: Running, filled: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with filled.begin() as connection:
        connection.execute(text("ALTER TABLE github_events RENAME COLUMN org TO organization"))
    for path in ("/panels/latest?user=12345", "/events?user=12345"):
        answer = dashboard.get(path)
        assert answer.status_code == 503
        assert "This did not work" in answer.text
        assert not re.search(r"SELECT|psycopg|sqlalche|organization", answer.text)
    # The log has the statement, and not what somebody looked for.
    assert "SELECT" in caplog.text
    assert "12345" not in caplog.text


def test_pages_of_a_server_that_is_not_there_do_not_say_where_it_is(
    database: URL, caplog: pytest.LogCaptureFixture
) -> None:
    (port,) = free_ports(1)
    secret = secrets.token_hex(8)
    away = database.set(host="127.0.0.1", port=port, username="ada", password=secret, query={})
    paths = ["/", "/events", "/panels/events", "/panels/state", "/healthz"]
    paths += ["/panels/users/compare", "/panels/users/table"]
    with dashboard_of(away) as running:
        for path in paths:
            said = running.get(path).text
            # A page does not wait for its panels.
            assert path == "/" or "database does not answer" in said
            assert not re.search(f"{secret}|{port}|127.0.0.1|ada[^a-z]|psycopg", said), path
    assert secret not in caplog.text


def test_repositories_are_named_however_long_ago_their_events_were(
    dashboard: Running, engine: Engine
) -> None:
    with engine.begin() as connection:
        old = [event(n, at=SINCE, repo_id=5, event_type="WatchEvent") for n in range(3)]
        add(connection, [{**each, "repo": {"name": "owner/old"}} for each in old])
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
        # More than are looked through for a name.
        connection.execute(
            text(
                "INSERT INTO github_events (event_id, event_type, user_id, repo_id, created_at) "
                "SELECT n, 'PushEvent', 1, 6, now() FROM generate_series(1, 21000) AS n"
            )
        )
    assert ranked(dashboard.get("/panels/trending?range=all").text) == [("owner/old", 3)]
    assert "repository #6" in dashboard.get("/panels/trending?range=all&type=PushEvent").text
    # What has been shown is found by its name.
    found = dashboard.get("/find?repo=owner/old&range=all")
    assert found.headers["Location"] == "/?range=all&repo=5"


def test_what_screens_show_is_there_for_everybody(dashboard: Running, filled: Engine) -> None:
    with stream(dashboard, f"?{WINDOW}") as messages:
        for message in messages:
            if message.get("panel") == "users":
                break
        asked = [dashboard.get(f"/panels/users?{WINDOW}").text for _ in range(14)]
        now = datetime.now(UTC)
        asked.append(dashboard.get(f"/panels/users?{WINDOW}").text)
    moments = [datetime.fromisoformat(re.findall(r'datetime="([^"]+)"', each)[0]) for each in asked]
    # Many are one answer, and none says that it is newer than it is.
    assert len({*moments}) <= 10
    assert now - moments[-1] < timedelta(seconds=3)
    assert moments == sorted(moments)


def test_a_database_that_is_not_migrated_is_said(server: Any) -> None:
    with server.database("empty") as url, dashboard_of(url) as running:
        answer = running.get("/panels/events")
        assert answer.status_code == 503
        assert "The database has no tables for this" in answer.text
        assert running.get("/").status_code == 200
        assert "This database has no rollups" in running.get("/panels/state").text
        with stream(running) as messages:
            assert next(m["status"] for m in messages if "status" in m) == "down"


def test_every_panel_is_answered_on_a_cluster(citus: DatabaseServer) -> None:
    with citus.database("migrated") as url:
        engine = create_engine(url, poolclass=NullPool)
        with engine.begin() as connection:
            # Citus keeps no event without a user.
            add(connection, [each for each in events(300) if each["user_id"] is not None])
        with engine.begin() as connection:
            run_rollup(connection, GITHUB_ROLLUP_1MIN)
        with dashboard_of(url, statement_timeout=60, snapshot_timeout=30) as running:
            for name in ALL_PANELS:
                answer = running.get(f"/panels/{name}?{WINDOW}")
                assert answer.status_code == 200, f"{name}: {answer.text}"
            count = rows(engine, SHOW.format("count(*)"))[0][0]
            assert number_of(running.get(f"/panels/events?{WINDOW}").text) == count
            state = running.get("/panels/state").text
            assert "Citus 13" in state
            assert state.count('class="node"') == 3
            for name in ("events", "users", "trending"):
                shown = running.get(f"/panels/{name}/compare?{WINDOW}").text
                assert shown.count("✓ equal") == 2 * shown.count("<caption>"), name
                assert "in one transaction that sees one moment" in shown
                kinds = re.findall(r"On the cluster it is a <b>(\w+)</b>", shown)
                assert len(kinds) == 3 * shown.count("<caption>")
                assert {*kinds} <= {"router", "pushdown", "reference", "pull", "local"}
        role = f"dashboard_{secrets.token_hex(4)}"
        reader = create_reader(url, role)
        try:
            with dashboard_of(reader) as running:
                shown = running.get(f"/panels/events/compare?{WINDOW}").text
                assert shown.count("✓ equal") == 2
                assert "Each node of the cluster answered as of a moment of its own" in shown
                assert "GRANT UPDATE ON pg_catalog.pg_dist_transaction" in shown
                execute(url, f"GRANT UPDATE ON pg_catalog.pg_dist_transaction TO {role}")
                shown = running.get(f"/panels/events/compare?{WINDOW}").text
                assert "in one transaction that sees one moment" in shown
        finally:
            execute(url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def test_a_part_is_in_the_address() -> None:
    part = Part(weekday=3, hour=0, only="repositories")
    url = part.added_to("/events?user=1")
    assert Part.read(dict(parse_qsl(urlsplit(url).query))) == part
    assert Part.read({"weekday": "8", "hour": "x", "only": "else"}) == Part()
    assert str(part) == "on Wed, from 00:00 to 00:59, repositories alone"


def test_names_of_the_demo_are_different() -> None:
    users = [named(f"user-{n}".encode()) for n in range(1, 20_001)]
    repositories = [named(f"user-{n}/repo-{n}".encode()) for n in range(1, 20_001)]
    assert len({*users}) == len(users)
    assert len({*repositories}) == len(repositories)


def test_make_dashboard(tmp_path: Any) -> None:
    (port,) = free_ports(1)
    environment = {k: v for k, v in os.environ.items() if k != "DATABASE_URL"}
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.dashboard"],
        env=environment | {"PORT": str(port), "RATE": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert "Starting a PostgreSQL" in process.stdout.readline()
        assert f"http://localhost:{port}/" in process.stdout.readline()
        address = f"http://localhost:{port}/panels/events?range=1h"
        first = number_of(httpx.get(address, timeout=60).text)
        assert first > 1_000
        end = time.monotonic() + 60
        while number_of(httpx.get(address, timeout=60).text) == first:
            assert time.monotonic() < end
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=90)
    assert process.returncode == 0, said
    assert "Traceback" not in said
