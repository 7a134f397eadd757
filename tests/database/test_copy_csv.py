"""Loading into a database: every kind of source, in the caller's transaction."""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from citus_analytics.copy import LoadResult, Progress, load_csv
from citus_analytics.errors import DeclarationError, LoadError
from citus_analytics.github.load import load_events, load_users
from citus_analytics.github.models import GithubEvent, GithubUser, github_users
from tests.database.load_data import (
    EVENTS,
    GOOD,
    LONG,
    SAMPLE,
    SINCE,
    USERS,
    count,
    packed,
    plain,
)

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, Engine

    from citus_analytics.copy import Source
    from tests.servers import DatabaseServer

REAL_DATA = Path(__file__).parents[2].parent / "shared" / "data"


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


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_byte_order_mark_is_left_out(connection: Connection, size: int) -> None:
    content = b"\xef\xbb\xbf" + EVENTS
    blocks = [content[at : at + size] for at in range(0, len(content), size)]
    assert load_events(connection, blocks) == LoadResult(rows=1000, bytes=len(content))
    load_events(connection, [b"\xef\xbb\xbf"])
    assert count(connection) == 1000


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
        "from citus_analytics.github.load import load_events\n"
        "with create_engine(sys.argv[1]).begin() as connection:\n"
        "    print(load_events(connection, '-'))\n"
    )
    url = database.render_as_string(hide_password=False)
    done = subprocess.run(
        [sys.executable, "-c", program, url], input=gzip.compress(EVENTS), capture_output=True
    )
    assert done.stderr == b""
    assert done.stdout.startswith(b"LoadResult(rows=1000, ")


def test_an_empty_source_has_no_rows(connection: Connection) -> None:
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


def test_generated_columns_are_left_out(connection: Connection) -> None:
    from sqlalchemy import Column, Computed, Integer, MetaData, Table

    twice = Column("twice", Integer, Computed("2 * n", persisted=True))
    table = Table("squares", MetaData(), Column("n", Integer), twice, Column("m", Integer))
    table.create(connection)
    assert load_csv(connection, table, [b"1,10\n2,20\n"]).rows == 2
    rows = connection.execute(table.select().order_by("n")).all()
    assert [tuple(row) for row in rows] == [(1, 2, 10), (2, 4, 20)]


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


def test_paths_folders_and_lists_are_loaded_together(engine: Engine, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.csv").write_bytes(GOOD * 2)
    paths = sorted(tmp_path.glob("*.csv"))
    with engine.connect() as connection:
        for source in (paths, list(map(str, paths)), tmp_path, f"{tmp_path}/{{0..2}}.csv"):
            assert load_csv(connection, GithubEvent, source).rows == 6
            connection.rollback()
        paths[2].write_bytes(GOOD + b"x\n")
        load_events(connection, [GOOD])
        with pytest.raises(LoadError, match=r"2\.csv, line 2"):
            load_events(connection, tmp_path)
        assert count(connection) == 1


def test_what_a_node_refuses_is_an_error_of_the_load(
    server: DatabaseServer, engine: Engine
) -> None:
    """Whatever the source is: with its line, unless it can be read only once."""
    first = b"1,,one,,,\n2,,two,,,\n"
    wrong = [(b"2,,again,,,\n", "duplicate key")]
    if server.kind == "citus":
        # Rows without a user would be of no shard.
        wrong.append((b",,nobody,,,\n", "null|NULL"))
    for bad, said in wrong:
        content = first + b"3,,three,,,\n" + bad + b"4,,four,,,\n"
        blocks = [content[:9], content[9:]]
        for source in (
            blocks,
            tuple(blocks),
            io.BytesIO(content),
            iter(blocks),
            (b for b in blocks),
        ):
            with engine.connect() as connection:
                with pytest.raises(LoadError, match=said) as caught:
                    load_csv(connection, GithubUser, source)
                assert "Nothing of it was loaded" in str(caught.value)
                once = not isinstance(source, list | tuple | io.BytesIO)
                assert caught.value.line == 4 or (once and caught.value.line is None)
                # The transaction goes on.
                assert connection.scalar(text("SELECT count(*) FROM github_users")) == 0


def test_a_session_is_flushed_first_unless_its_autoflush_is_off(engine: Engine) -> None:
    for autoflush in (True, False):
        with Session(engine, autoflush=autoflush) as session:
            user = GithubUser(user_id=1, login="mine")
            session.add(user)
            if autoflush:
                with pytest.raises(LoadError, match="duplicate key"):
                    load_users(session, [b"1,,theirs,,,\n"])
            else:
                assert load_users(session, [b"1,,theirs,,,\n"]).rows == 1
            assert (user in session.new) is not autoflush
            session.rollback()


def test_what_is_not_a_table_is_refused(connection: Connection) -> None:
    for table in ("github_events", int, GithubEvent.user_id):
        with pytest.raises(DeclarationError, match="expected a Table or a class mapped"):
            load_csv(connection, table, [GOOD])  # type: ignore[arg-type]
