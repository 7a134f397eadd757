"""Loading into a database: every kind of source, all or nothing, and what is said of bad rows."""

from __future__ import annotations

import gzip
import io
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from citus_analytics.errors import LoadError
from citus_analytics.ingest import LoadResult, Progress, load_csv, load_events, load_users
from citus_analytics.models import GithubEvent, github_events, github_users
from citus_analytics.sample import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection, Engine

    from citus_analytics.ingest import Source
    from tests.servers import DatabaseServer

SINCE = datetime(2025, 1, 1, tzinfo=UTC)
SAMPLE = Sample(events=1000, users=50, since=SINCE, until=SINCE + timedelta(hours=1))
EVENTS = b"".join(SAMPLE.events_csv())
USERS = b"".join(SAMPLE.users_csv())
REAL_DATA = Path(__file__).parents[2].parent / "shared" / "data"

GOOD = b'7,PushEvent,t,2,"{""size"": 1}",{},5,,2025-01-01T00:00:00Z\n'
# Two lines, and a quote in a field: it must not confuse the counting of lines.
LONG = b'8,WatchEvent,t,2,"{""a"":\n""\\"" ""}",{},6,,2025-01-01T00:00:00Z\n'
BAD_ROWS = {
    "no number": (b"x,PushEvent,t,2,{},{},5,,2025-01-01T00:00:00Z", "event_id", '"x"'),
    "no key": (b"7,PushEvent,t,2,{},{},five,,2025-01-01T00:00:00Z", "user_id", '"five"'),
    "too large": (b"7,PushEvent,t,9e99,{},{},5,,2025-01-01T00:00:00Z", "repo_id", "9e99"),
    "no boolean": (b"7,PushEvent,maybe,2,{},{},5,,2025-01-01T00:00:00Z", "event_public", "maybe"),
    "no time": (b"7,PushEvent,t,2,{},{},5,,soon", "created_at", "soon"),
    "no JSON": (b"7,PushEvent,t,2,{bad,{},5,,2025-01-01T00:00:00Z", "payload", 'Token "bad"'),
    "no JSON, later": (b'7,P,t,2,{},"{""a"":\n1,\nx}",5,,2025-01-01', "repo", 'Token "x"'),
    "null character": (rb'7,P,t,2,{},{},5,"""\u0000""",2025-01-01', "org", "cannot be converted"),
    "too few": (b"7,PushEvent,t", "repo_id", 'missing data for column "repo_id"'),
    "empty": (b"", "event_type", "missing data"),
    "too many": (b"7,PushEvent,t,2,{},{},5,,2025-01-01,more", None, "extra data"),
    "open quote": (b'7,"PushEvent,t,2,{},{},5,,2025-01-01', None, "unterminated CSV quoted field"),
    "no text": (b"7,Push\xffEvent,t,2,{},{},5,,2025-01-01", "event_type", "invalid byte sequence"),
    "zero byte": (b'7,"Push\0",t,2,{},{},5,,2025-01-01', "event_type", "invalid byte sequence"),
}


def count(connection: Connection | Session) -> int:
    return connection.execute(select(func.count()).select_from(github_events)).scalar_one()


def with_earlier_work(connection: Connection) -> None:
    """Do something that a failed load must not undo."""
    connection.execute(insert(github_events).values(event_id=1, user_id=1))


def packed(tmp_path: Path) -> Path:
    path = tmp_path / "events.csv.gz"
    path.write_bytes(gzip.compress(EVENTS))
    return path


def plain(tmp_path: Path) -> Path:
    path = tmp_path / "events.csv"
    path.write_bytes(EVENTS)
    return path


def test_every_kind_of_source_is_loaded(
    connection: Connection, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    sources: dict[str, Source] = {
        "a path": plain(tmp_path),
        "a path as text": str(plain(tmp_path)),
        "gzip": packed(tmp_path),
        "an open file": io.BytesIO(EVENTS),
        "blocks": iter(EVENTS.splitlines(keepends=True)),
        "a sample": SAMPLE.events_csv(),
    }
    for kind, source in sources.items():
        with subtests.test(kind):
            size = source.stat().st_size if isinstance(source, Path) else len(EVENTS)
            assert load_events(connection, source) == LoadResult(rows=1000, bytes=size)
            assert count(connection) == 1000
            connection.rollback()


def test_every_value_arrives(session: Session) -> None:
    load_events(session, [LONG])
    event = session.scalars(select(GithubEvent)).one()
    assert (event.event_id, event.event_type, event.event_public) == (8, "WatchEvent", True)
    assert (event.repo_id, event.repo, event.user_id, event.org) == (2, {}, 6, None)
    assert event.payload == {"a": '" '}
    assert event.created_at == SINCE


def test_users_are_loaded(connection: Connection) -> None:
    assert load_users(connection, io.BytesIO(USERS)).rows == 50
    row = connection.execute(select(github_users).where(github_users.c.user_id == 7)).one()
    assert (row.login, row.gravatar_id) == ("user-7", None)


def test_standard_input_is_loaded(database: URL) -> None:
    program = (
        "import sys\n"
        "from sqlalchemy import create_engine\n"
        "from citus_analytics.ingest import load_events\n"
        "with create_engine(sys.argv[1]).begin() as connection:\n"
        "    print(load_events(connection, '-'))\n"
    )
    url = database.render_as_string(hide_password=False)
    done = subprocess.run(
        [sys.executable, "-c", program, url], input=gzip.compress(EVENTS), capture_output=True
    )
    assert done.stderr == b""
    assert done.stdout.startswith(b"LoadResult(rows=1000, ")


def test_nothing_at_all_is_no_row(connection: Connection) -> None:
    assert load_events(connection, []) == LoadResult(rows=0, bytes=0)


def test_a_session_loads_in_its_transaction(engine: Engine) -> None:
    with Session(engine) as session:
        load_events(session, [EVENTS])
        assert count(session) == 1000
        session.rollback()
        assert count(session) == 0
        load_events(session, [EVENTS])
        session.commit()
    with engine.connect() as connection:
        assert count(connection) == 1000


def test_nothing_is_committed(connection: Connection) -> None:
    load_events(connection, [EVENTS])
    assert connection.in_transaction()
    connection.rollback()
    assert count(connection) == 0


def test_an_autocommit_connection_loads_all_or_nothing(engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        with pytest.raises(LoadError, match="line 2, column payload"):
            load_events(connection, [GOOD, b"7,PushEvent,t,2,{bad,{},5,,2025-01-01\n"])
        assert count(connection) == 0
        load_events(connection, [GOOD])
    with engine.connect() as other:
        assert count(other) == 1


@pytest.mark.parametrize("repeatable", [True, False], ids=["file", "stream"])
def test_a_malformed_row_is_named_and_nothing_is_loaded(
    connection: Connection, repeatable: bool, subtests: pytest.Subtests
) -> None:
    with_earlier_work(connection)
    for kind, (row, column, words) in BAD_ROWS.items():
        with subtests.test(kind):
            # What fills more than one buffer of the server: the bad row is far away.
            rest = b"" if kind == "open quote" else GOOD * 10
            content = GOOD * 3000 + LONG + row + b"\n" + rest
            with pytest.raises(LoadError, match=re.escape(words)) as caught:
                load_events(connection, io.BytesIO(content) if repeatable else [content])
            first, last = 3003, 3003 + row.count(b"\n") + (kind == "open quote")
            assert caught.value.line == (first if repeatable else last)
            # Only by reading again can it be known where bytes are that are no text.
            known = repeatable or kind not in {"no text", "zero byte"}
            assert caught.value.column == (column if known else None)
            assert isinstance(caught.value.__cause__, psycopg.Error)
            # The transaction goes on, with what it did before and nothing else.
            assert count(connection) == 1
    assert load_events(connection, [GOOD]).rows == 1


def test_a_message_names_the_file_the_line_the_column_and_what_to_do(
    connection: Connection, tmp_path: Path
) -> None:
    path = tmp_path / "broken.csv"
    path.write_bytes(GOOD + BAD_ROWS["no time"][0] + b"\n")
    with pytest.raises(LoadError) as caught:
        load_events(connection, path)
    assert str(caught.value) == (
        f"{path}, line 2, column created_at: invalid input syntax for type timestamp with time "
        'zone: "soon". Nothing was loaded into github_events. Correct the row or leave it out, '
        "and load again."
    )


def test_a_header_is_recognised(connection: Connection) -> None:
    header = ",".join(github_events.columns.keys()).encode() + b"\n"
    with pytest.raises(LoadError, match=r"line 1, column event_id.* seems to be a header"):
        load_events(connection, [header, GOOD])


def test_a_null_in_the_distribution_column_is_named(
    connection: Connection, server: DatabaseServer
) -> None:
    content = GOOD + b"7,PushEvent,t,2,{},{},,,2025-01-01\n"
    if server.kind == "postgresql":
        assert load_events(connection, [content]).rows == 2
        return
    with pytest.raises(LoadError, match="cannot be NULL") as caught:
        load_events(connection, [content])
    assert (caught.value.line, caught.value.column) == (2, "user_id")


def test_a_row_that_breaks_a_constraint_is_refused(engine: Engine, server: DatabaseServer) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE github_users ADD CHECK (login <> 'user-40')"))
    # A worker of Citus tells neither the line nor the kind of the error.
    refused = LoadError if server.kind == "postgresql" else psycopg.InternalError
    with engine.connect() as connection:
        with pytest.raises(refused, match="violates check constraint") as caught:
            load_users(connection, io.BytesIO(USERS))
        if isinstance(caught.value, LoadError):
            assert caught.value.line == 40
        assert connection.execute(text("SELECT count(*) FROM github_users")).scalar_one() == 0


def test_a_damaged_file_leaves_everything_as_it_was(
    connection: Connection, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    whole = gzip.compress(EVENTS)
    path = tmp_path / "events.csv.gz"
    with_earlier_work(connection)
    for content in (b"", EVENTS, whole[:-5], whole[: len(whole) // 2], whole + b"more"):
        with subtests.test(size=len(content)):
            path.write_bytes(content)
            with pytest.raises(LoadError, match=r"events\.csv\.gz is ") as caught:
                load_events(connection, path)
            assert caught.value.line is None
            assert count(connection) == 1


def test_progress_is_reported_in_bytes_and_rows(connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(EVENTS * 3)
    size = path.stat().st_size
    seen: list[Progress] = []
    load_events(connection, path, progress=seen.append)
    assert len(seen) > 3
    assert seen[-1] == Progress(bytes=size, rows=3000, total_bytes=size)
    assert seen == sorted(seen, key=lambda progress: (progress.bytes, progress.rows))
    assert all(progress.total_bytes == size for progress in seen)


def test_the_last_progress_has_the_servers_number_of_rows(connection: Connection) -> None:
    seen: list[Progress] = []
    load_events(connection, [LONG], progress=seen.append)
    assert [progress.rows for progress in seen] == [2, 1]


def test_an_interrupted_load_leaves_nothing(
    connection: Connection, subtests: pytest.Subtests
) -> None:
    with_earlier_work(connection)
    for error in (ZeroDivisionError(), KeyboardInterrupt(), psycopg.errors.DataException()):

        def interrupt(progress: Progress, error: BaseException = error) -> None:
            raise error

        with subtests.test(type(error).__name__):
            with pytest.raises(type(error)) as caught:
                load_events(connection, [EVENTS], progress=interrupt)
            assert caught.value is error
            assert caught.value.__cause__ is None
            assert count(connection) == 1


def test_a_source_that_fails_leaves_nothing(connection: Connection) -> None:
    def blocks() -> Iterator[bytes]:
        yield EVENTS
        raise ConnectionResetError

    with_earlier_work(connection)
    with pytest.raises(ConnectionResetError):
        load_events(connection, blocks())
    assert count(connection) == 1


def test_what_is_no_fault_of_a_row_is_the_drivers_error(connection: Connection) -> None:
    connection.execute(text("DROP TABLE github_users CASCADE"))
    with pytest.raises(psycopg.errors.UndefinedTable):
        load_users(connection, [USERS])


def test_a_lost_connection_is_reported_and_nothing_is_loaded(engine: Engine) -> None:
    def terminate(progress: Progress) -> None:
        with engine.begin() as other:
            other.execute(select(func.pg_terminate_backend(victim, 30_000)))

    with engine.connect() as connection:
        victim = connection.execute(select(func.pg_backend_pid())).scalar_one()
        with pytest.raises((psycopg.OperationalError, DBAPIError)):
            load_events(connection, [EVENTS] * 50, progress=terminate)
    with engine.connect() as connection:
        assert count(connection) == 0


def test_any_table_can_be_loaded(connection: Connection) -> None:
    from sqlalchemy import Column, Integer, MetaData, Table, Text

    connection.execute(text('CREATE SCHEMA "My Schema"'))
    table = Table(
        "A Table", MetaData(), Column("a b", Integer), Column("C", Text), schema="My Schema"
    )
    table.create(connection)
    assert load_csv(connection, table, [b'1,"one, or so"\n2,two\n']).rows == 2
    with pytest.raises(LoadError) as caught:
        load_csv(connection, table, [b"1,one\nx,two\n"])
    assert (caught.value.line, caught.value.column) == (2, "a b")


def test_the_tutorials_copy_loads_the_same_rows(
    database: URL, engine: Engine, tmp_path: Path
) -> None:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("psql is not installed: the tutorial's own \\copy has not been run")
    plain(tmp_path)
    (tmp_path / "users.csv").write_bytes(USERS)
    url = database.set(drivername="postgresql").render_as_string(hide_password=False)
    statements = (
        r"\copy github_events from 'events.csv' WITH CSV",
        r"\copy github_users from 'users.csv' WITH CSV",
    )
    for statement in statements:
        subprocess.run([psql, "-X", "-c", statement, url], check=True, cwd=tmp_path)
    with engine.connect() as connection:
        copied = set(connection.execute(text("SELECT e::text FROM github_events e")).scalars())
        assert connection.execute(text("SELECT count(*) FROM github_users")).scalar_one() == 50
        connection.execute(text("DELETE FROM github_events"))
        load_events(connection, [EVENTS])
        loaded = set(connection.execute(text("SELECT e::text FROM github_events e")).scalars())
    assert len(copied) == 1000
    assert loaded == copied


def test_a_real_hour_is_loaded(connection: Connection) -> None:
    if not REAL_DATA.is_dir():
        pytest.skip("there is no ../shared/data: no real hour of GitHub's has been loaded")
    assert load_events(connection, REAL_DATA / "events.csv.gz").rows == 8273
    assert load_users(connection, REAL_DATA / "users.csv.gz").rows == 3886
    commits = "SELECT sum((payload->>'distinct_size')::int) FROM github_events"
    assert connection.execute(text(commits)).scalar_one() == 9807
