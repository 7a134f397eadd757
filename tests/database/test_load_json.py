"""Events in JSON into a database: what is stored, what is rejected, and the users they tell of."""

from __future__ import annotations

import gzip
import io
import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import NullPool, create_engine, select, text

from citus_analytics.copy import LoadResult
from citus_analytics.errors import ArgumentError, LoadError
from citus_analytics.github.load import Buffers, LoadOptions, load_api_events, load_once
from citus_analytics.github.models import GithubEvent, github_events, github_users, loaded_files
from tests.database.load_data import count
from tests.event_data import NOON, api_event, hour, line
from tests.rollups import assert_adds_up
from tests.servers import ON_CITUS_ONLY

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.orm import Session

    from citus_analytics.github.events import Reject
    from tests.servers import DatabaseServer

REAL_DATA = Path(__file__).parents[2].parent / "shared" / "data"


def load(connection: Connection, content: bytes, **options: Any) -> tuple[LoadResult, list[Reject]]:
    rejects: list[Reject] = []
    given = LoadOptions(rejects=rejects.append, **options)
    return load_once(connection, github_events, io.BytesIO(content), options=given), rejects


def logins(connection: Connection) -> dict[int, str]:
    rows = connection.execute(select(github_users.c.user_id, github_users.c.login))
    return {row.user_id: row.login for row in rows}


def test_every_value_arrives(session: Session) -> None:
    event = api_event(3, org={"id": 5})
    load_api_events(session, [event])
    stored = session.scalars(select(GithubEvent)).one()
    assert (stored.event_id, stored.event_type, stored.event_public) == (1000003, "PushEvent", True)
    assert (stored.repo_id, stored.repo, stored.org) == (3, event["repo"], {"id": 5})
    assert stored.payload == event["payload"]
    assert (stored.user_id, stored.created_at) == (4, NOON + timedelta(seconds=3))


@pytest.mark.parametrize("shape", ["lines", "gzip", "array", "stream"])
def test_every_shape_is_recognised(connection: Connection, shape: str) -> None:
    array = json.dumps([api_event(number) for number in range(100)]).encode()
    content = {"lines": hour(100), "gzip": gzip.compress(hour(100)), "array": array}
    source = iter([hour(100)]) if shape == "stream" else io.BytesIO(content[shape])
    assert load_once(connection, github_events, source).rows == 100
    assert count(connection) == 100
    assert len(logins(connection)) == 7


# What the converter does not look for, and the server refuses.
REFUSED_BY_SERVER = {
    "a number that is too large": line(1).replace(b'"size": 2', b'"size": 1e999999'),
    "too many digits": line(1).replace(b'"size": 2', b'"size": ' + b"1" * 200_000),
    "broken by a constraint": line(1, type="ForbiddenEvent"),
}


def test_what_the_server_refuses_is_rejected_and_the_rest_is_loaded(
    connection: Connection, subtests: pytest.Subtests
) -> None:
    connection.execute(
        text("ALTER TABLE github_events ADD CONSTRAINT c CHECK (event_type <> 'ForbiddenEvent')")
    )
    before = count(connection)
    for kind, bad in REFUSED_BY_SERVER.items():
        with subtests.test(kind):
            lines = [line(number) for number in range(2000)]
            lines[700] = lines[1500] = bad
            result, rejects = load(connection, b"".join(lines))
            assert (result.rows, result.rejected) == (1998, 2)
            assert [reject.line for reject in rejects] == [701, 1501]
            assert all("the server refuses it" in reject.reason for reject in rejects)
            assert rejects[0].text == bad.strip()
            assert count(connection) == before + 1998
            before += 1998


def on_shards(server: DatabaseServer, database: URL, *statements: str) -> None:
    """Run statements on every worker; `{shard}` stands for each of the shards of the events."""
    shards = text("SELECT oid::regclass::text FROM pg_class WHERE relname ~ '^github_events_[0-9]'")
    for node in server.nodes[1:]:
        url = node.url_for(str(database.database))
        with create_engine(url, poolclass=NullPool).begin() as connection:
            connection.execute(text("SET citus.enable_ddl_propagation TO off"))
            connection.execute(text("SET citus.override_table_visibility TO off"))
            connection.execute(text("SET citus.enable_manual_changes_to_shards TO on"))
            names = connection.execute(shards).scalars().all()
            for statement in statements:
                for name in names if "{shard}" in statement else ("",):
                    connection.exec_driver_sql(statement.replace("{shard}", name))


FAIL = "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS "
TRIGGER = (
    "CREATE TRIGGER t AFTER INSERT ON {shard} FOR EACH ROW "
    "WHEN (NEW.event_type = 'WatchEvent') EXECUTE FUNCTION fail()"
)


@ON_CITUS_ONLY
@pytest.mark.parametrize("state", ["53100", "57014", "XX000"])
def test_failures_of_a_worker_reject_no_events(
    server: DatabaseServer, database: URL, engine: Engine, state: str
) -> None:
    said = f"$$BEGIN RAISE 'No space left on device' USING ERRCODE = '{state}'; END$$"
    on_shards(server, database, FAIL + said, TRIGGER)
    for content in (hour(50), hour(1)):
        rejects: list[Reject] = []
        options = LoadOptions(rejects=rejects.append)
        with engine.begin() as connection:
            with pytest.raises(psycopg.errors.InternalError_, match="No space left") as caught:
                load_once(connection, github_events, io.BytesIO(content), options=options)
            assert getattr(caught.value.__cause__, "sqlstate", None) == state
        with engine.connect() as connection:
            assert (count(connection), logins(connection), rejects) == (0, {}, [])
            assert connection.execute(select(loaded_files)).all() == []
    on_shards(server, database, "DROP TRIGGER t ON {shard}")
    with engine.begin() as connection:
        assert load(connection, hour(50)) == (LoadResult(rows=50, bytes=len(hour(50))), [])
        assert count(connection) == 50


@ON_CITUS_ONLY
def test_faults_of_events_that_only_a_worker_finds(
    server: DatabaseServer, database: URL, connection: Connection
) -> None:
    said = "$$BEGIN RAISE 'seen too often' USING ERRCODE = '23514'; END$$"
    on_shards(server, database, FAIL + said, TRIGGER)
    result, rejects = load(connection, hour(50))
    assert (result.rows, result.rejected, count(connection)) == (25, 25, 25)
    assert {reject.reason for reject in rejects} == {"the server refuses it: seen too often"}
    assert [reject.line for reject in rejects] == list(range(1, 50, 2))


def test_very_many_that_the_server_refuses(connection: Connection) -> None:
    connection.execute(
        text("ALTER TABLE github_events ADD CONSTRAINT c CHECK (event_type <> 'WatchEvent')")
    )
    result, rejects = load(connection, hour(200))
    assert (result.rows, result.rejected) == (100, 100)
    assert [reject.line for reject in rejects] == list(range(1, 200, 2))


def test_strict_stops_at_the_first_and_loads_nothing(connection: Connection) -> None:
    for bad in (line(1, actor={}), *REFUSED_BY_SERVER.values()):
        if b"Forbidden" in bad:
            continue
        with pytest.raises(LoadError, match=r"BytesIO, line 6: .*It begins with b'\{") as caught:
            load(connection, hour(5) + bad + hour(3), strict=True)
        assert caught.value.line == 6
        assert (count(connection), logins(connection)) == (0, {})


def test_formats_before_2015_are_refused(connection: Connection) -> None:
    old = b'{"created_at":"2014-01-01T00:00:00Z","actor":"octocat","repository":{"id":1}}\n'
    with pytest.raises(LoadError, match=r"line 1: this is an event in GH Archive's format from b"):
        load(connection, old * 10)
    result, rejects = load(connection, hour(5) + old + hour(2)[:-1])
    assert (result.rows, len(rejects)) == (7, 1)
    with pytest.raises(LoadError, match=r"number 1: .*before 2015"):
        load_api_events(connection, [json.loads(old)])


def test_json_goes_into_no_other_table(connection: Connection) -> None:
    with pytest.raises(ArgumentError, match="not into github_users"):
        load_once(connection, github_users, io.BytesIO(hour(1)))


def renamed(number: int, login: str, minute: int) -> dict[str, Any]:
    event = api_event(number, user=1, created_at=f"2025-01-01T12:{minute:02}:00Z")
    return {**event, "actor": {"id": 1, "login": login}}


def test_the_newest_record_of_a_user_wins_in_any_order(connection: Connection) -> None:
    load_api_events(connection, [renamed(1, "b", 2), renamed(2, "a", 1)])
    assert logins(connection) == {1: "b"}
    load_api_events(connection, [renamed(3, "older", 0)])
    assert logins(connection) == {1: "b"}
    load_api_events(connection, [renamed(4, "c", 3)])
    # Of the same moment, the larger id.
    load_api_events(connection, [renamed(6, "e", 3), renamed(5, "d", 3)])
    load_api_events(connection, [renamed(5, "d", 3)])
    assert logins(connection) == {1: "e"}


def test_more_users_than_are_kept_in_memory(connection: Connection) -> None:
    # Several blocks, each with less than fills the memory.
    result, _ = load(connection, hour(200), buffers=Buffers(block_size=1000, users=2))
    assert result.rows == count(connection) == 200
    assert logins(connection) == {number: f"user-{number}" for number in range(1, 8)}


def test_users_of_a_file_yield_to_those_of_events(connection: Connection) -> None:
    load_once(connection, github_users, io.BytesIO(b"9,,from-file,,,\n"))
    load_api_events(connection, [{**renamed(1, "from-event", 1), "actor": {"id": 9}}])
    assert logins(connection) == {9: None}
    users = b"1,,late,,,\n9,,late,,,\n1,,twice,,,\n"
    result = load_once(connection, github_users, io.BytesIO(users))
    assert (result.rows, result.duplicates) == (1, 2)
    assert logins(connection)[9] is None


def test_users_are_not_stored_with_users_off(connection: Connection) -> None:
    load(connection, hour(10), users=False)
    assert logins(connection) == {}


def test_the_rollup_adds_up_after_all_of_it(connection: Connection) -> None:
    load(connection, hour(300))
    connection.execute(text("SELECT rollup_http_request()"))
    load(connection, hour(400), unique=True)
    connection.execute(text("SELECT rollup_http_request()"))
    assert_adds_up(connection)


def test_a_real_hour_and_its_figures(connection: Connection, server: DatabaseServer) -> None:
    if not REAL_DATA.is_dir():
        pytest.skip("there is no ../shared/data: no real hour of GitHub's has been loaded")
    result = load_once(connection, github_events, REAL_DATA / "2015-01-01-12.json.gz")
    assert (result.rows, result.rejected) == (8273, 0)
    statement = text(
        "SELECT count(*) FILTER (WHERE event_type = 'PushEvent'),"
        " sum((payload->>'distinct_size')::int), count(org), count(DISTINCT event_type),"
        " max((payload->>'distinct_size')::int),"
        ' count(*) FILTER (WHERE payload @> \'{"ref_type": "repository"}\''
        "                  AND event_type = 'CreateEvent') FROM github_events"
    )
    assert tuple(connection.execute(statement).one()) == (4284, 9807, 2238, 14, 1477, 393)
    joined = text("SELECT count(*) FROM github_events JOIN github_users USING (user_id)")
    assert connection.execute(joined).scalar_one() == 8273


def test_real_rows_are_those_of_the_tutorials_csv(connection: Connection) -> None:
    if not REAL_DATA.is_dir():
        pytest.skip("there is no ../shared/data: no real hour of GitHub's has been loaded")
    rows, users = (
        text("SELECT e::text FROM github_events e"),
        text("SELECT u::text FROM github_users u"),
    )
    load_once(connection, github_events, REAL_DATA / "2015-01-01-12.json.gz")
    from_json = set(connection.execute(rows).scalars()), set(connection.execute(users).scalars())
    connection.rollback()
    load_once(connection, github_events, REAL_DATA / "events.csv.gz")
    load_once(connection, github_users, REAL_DATA / "users.csv.gz")
    from_csv = set(connection.execute(rows).scalars()), set(connection.execute(users).scalars())
    assert from_json[0] == from_csv[0]
    assert len(from_json[1] & from_csv[1]) / len(from_csv[1]) > 0.99


ARRAY = json.dumps([api_event(number) for number in range(3)], indent=1).encode()
CUT = {
    "an array after an element": ARRAY.rstrip(b"]\n"),
    "an array after a comma": ARRAY[: ARRAY.rindex(b",\n {")] + b",\n",
    "an array within an element": ARRAY[:-9],
    "the last line": hour(3)[:-9],
    "the only line": hour(1)[:-9],
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("kind", CUT)
def test_events_that_are_cut_short(connection: Connection, kind: str, strict: bool) -> None:
    # Being strict, the first line of an element that has no end is enough.
    told = "cut short, it ends within|truncated" if strict else "cut short, it ends within"
    with pytest.raises(LoadError, match=told) as caught:
        load_once(
            connection, github_events, io.BytesIO(CUT[kind]), options=LoadOptions(strict=strict)
        )
    assert caught.value.line
    assert count(connection) == 0
    whole = ARRAY if "array" in kind else hour(3)
    assert load_once(connection, github_events, io.BytesIO(whole)).rows == 3


def test_a_line_that_was_cut_short_in_a_source_that_goes_on(connection: Connection) -> None:
    rejects: list[Reject] = []
    content = hour(3)[:-9] + b"\n"
    options = LoadOptions(rejects=rejects.append)
    assert load_once(connection, github_events, io.BytesIO(content), options=options).rows == 2
    assert [reject.line for reject in rejects] == [3]
