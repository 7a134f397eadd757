"""Loading what cannot be loaded: what is said of it, and that nothing is left of it."""

from __future__ import annotations

import gc
import gzip
import io
import re
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import BigInteger, Column, MetaData, Table, Text, func, select, text
from sqlalchemy.exc import DBAPIError

from citus_analytics.copy import load_csv
from citus_analytics.copy.source import BLOCK_SIZE
from citus_analytics.errors import ArgumentError, LoadError
from citus_analytics.github.load import (
    LoadOptions,
    load_api_events,
    load_events,
    load_once,
    load_users,
)
from citus_analytics.github.models import github_events
from tests.database.load_data import (
    EVENTS,
    GOOD,
    LONG,
    USERS,
    count,
    with_earlier_work,
)
from tests.event_data import api_event, hour
from tests.servers import ON_CITUS_ONLY, ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Engine

    from citus_analytics.copy import Progress
    from citus_analytics.github.events import Reject
    from tests.servers import DatabaseServer

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
                load_events(connection, io.BytesIO(content) if repeatable else iter([content]))
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
        'zone: "soon". Nothing of it was loaded. Correct the row or leave it out, '
        "and load again."
    )


def test_a_blank_first_line_is_not_taken_for_a_header(connection: Connection) -> None:
    with pytest.raises(LoadError, match=r"line 1, column .* missing data .* Correct the row"):
        load_events(connection, [b"\n", GOOD])


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


def test_a_row_that_breaks_a_constraint_is_refused(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE github_users ADD CHECK (login <> 'user-40')"))
    # A worker of Citus tells neither the line nor the kind of the error.
    with engine.connect() as connection:
        with pytest.raises(LoadError, match="violates check constraint") as caught:
            load_users(connection, io.BytesIO(USERS))
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


def test_errors_that_no_row_causes_are_the_drivers(connection: Connection) -> None:
    connection.execute(text("DROP TABLE github_users CASCADE"))
    with pytest.raises(psycopg.errors.UndefinedTable):
        load_users(connection, [USERS])


def test_what_is_refused_does_not_keep_the_errors_in_memory(connection: Connection) -> None:
    connection.execute(
        text("ALTER TABLE github_events ADD CONSTRAINT c CHECK (event_type <> 'WatchEvent')")
    )
    alive: list[int] = []

    def note(reject: Reject) -> None:
        if not alive:
            gc.collect()
            alive.append(sum(isinstance(each, psycopg.Error) for each in gc.get_objects()))

    options = LoadOptions(rejects=note)
    events = [api_event(number) for number in range(40)]
    result = load_api_events(connection, events, options=options)
    # That of the whole batch, that of the first row, and on Citus what a worker said of it.
    assert result.rejected == 20
    assert alive[0] <= 3
    strict = LoadOptions(strict=True)
    with pytest.raises(LoadError, match="the server refuses it") as caught:
        load_once(connection, github_events, io.BytesIO(hour(41)), options=strict)
    assert caught.value.line == 1
    assert isinstance(caught.value.__cause__, psycopg.errors.CheckViolation)


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


ROWS = GOOD * 3
# What ends the data for servers before PostgreSQL 18, and on which line.
END_MARKS = {
    "between rows": (ROWS + b"\\.\n" + ROWS, 4),
    "with carriage returns": ((ROWS + b"\\.\n" + ROWS).replace(b"\n", b"\r\n"), 4),
    "with nothing but carriage returns": ((ROWS + b"\\.\n" + ROWS).replace(b"\n", b"\r"), 1),
    "at the start": (b"\\.\n" + ROWS, 1),
    "at the end": (ROWS + b"\\.\n", 4),
    "at the very end": (ROWS + b"\\.", 4),
    "alone": (b"\\.", 1),
    "after quotes": (LONG + b"\\.\n" + LONG, 3),
}


@ON_CITUS_ONLY
@pytest.mark.parametrize("compressed", [False, True])
def test_a_line_that_older_servers_take_for_the_end_is_refused(
    connection: Connection, compressed: bool, subtests: pytest.Subtests
) -> None:
    version = connection.dialect.server_version_info
    assert version is not None
    if int(version[0]) >= 18:
        pytest.skip("this server reads on")
    for kind, (content, line) in END_MARKS.items():
        with subtests.test(kind):
            source = gzip.compress(content) if compressed else content
            with pytest.raises(LoadError, match=rf"line {line}: there is nothing but") as caught:
                load_events(connection, io.BytesIO(source))
            assert caught.value.line == line
            assert count(connection) == 0


def test_what_only_looks_like_the_end_is_loaded(connection: Connection) -> None:
    bare = GOOD.replace(b"PushEvent", b"\\.")
    quoted = GOOD.replace(b"PushEvent", b'"\n\\.\n\\.\n"')
    assert load_events(connection, [quoted + bare + GOOD]).rows == 3
    types = select(github_events.c.event_type)
    assert sorted(connection.execute(types).scalars()) == ["\n\\.\n\\.\n", "PushEvent", "\\."]


@ON_CITUS_ONLY
def test_a_line_for_the_end_is_seen_across_blocks(connection: Connection) -> None:
    mark = b"\\.\r\n"
    for split in range(len(mark) + 1):
        # The first block is as large as what is sent at once.
        first = (GOOD * (BLOCK_SIZE // len(GOOD) + 1)).replace(b"\n", b"\r\n")
        blocks = [first + mark[:split], mark[split:] + first]
        with pytest.raises(LoadError, match="there is nothing but") as caught:
            load_events(connection, blocks)
        assert caught.value.line == first.count(b"\n") + 1
        quoted = [first + b'7,"\r\n' + mark[:split], mark[split:] + b'",t,2,,,5,,2025-01-01\r\n']
        assert load_events(connection, quoted).rows == first.count(b"\n") + 1


def referring(connection: Connection, reference: str = "REFERENCES plans (id)") -> Table:
    """Create a table whose second column refers to one of the plans 1 and 2."""
    table = Table(
        "orders",
        MetaData(),
        Column("id", BigInteger),
        Column("plan", BigInteger),
        Column("note", Text),
    )
    on_citus = connection.scalar(text("SELECT to_regclass('pg_dist_partition') IS NOT NULL"))
    if on_citus:
        connection.execute(text("SET LOCAL citus.multi_shard_modify_mode TO 'sequential'"))
    connection.execute(text("CREATE TABLE plans (id bigint PRIMARY KEY)"))
    connection.execute(text("INSERT INTO plans VALUES (1), (2)"))
    connection.execute(text("CREATE TABLE orders (id bigint, plan bigint, note text)"))
    if on_citus:
        connection.execute(text("SELECT create_reference_table('plans')"))
        connection.execute(text("SELECT create_distributed_table('orders', 'id')"))
    connection.execute(text(f"ALTER TABLE orders ADD CONSTRAINT f FOREIGN KEY (plan) {reference}"))
    return table


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("before", [0, 3, 25_000])
def test_a_row_that_a_foreign_key_refuses_is_named(
    connection: Connection, tmp_path: Path, before: int, header: bool
) -> None:
    table = referring(connection)
    path = tmp_path / "orders.csv"
    # Rows of two lines; only the server knows that 007 is 7.
    rows = "".join(f'{n},{n % 2 + 1},"two\nlines, ""quoted"""\n' for n in range(before))
    bad = '1,007,"this\none"\n'
    path.write_text(("id,plan,note\n" if header else "\ufeff") + rows + bad + rows[:1] + "1,2,x\n")
    line = 2 * before + 1 + header
    with pytest.raises(LoadError, match=rf"orders\.csv, line {line}: .*foreign key") as caught:
        load_csv(connection, table, path, header=header)
    assert caught.value.line == line
    assert "(plan)=(7)" in str(caught.value)
    assert connection.scalar(text("SELECT count(*) FROM orders")) == 0


def test_of_several_rows_that_a_foreign_key_refuses_one_is_named(
    connection: Connection, tmp_path: Path
) -> None:
    table = referring(connection)
    path = tmp_path / "orders.csv"
    path.write_text("".join(f"{n},{3 if n in (4, 7) else 1},x\n" for n in range(1, 10)))
    with pytest.raises(LoadError, match=r"orders\.csv, line 4: "):
        load_csv(connection, table, path)


@ON_POSTGRESQL_ONLY
def test_a_row_that_may_need_a_later_one_is_not_looked_for(
    connection: Connection, tmp_path: Path
) -> None:
    connection.execute(text("CREATE TABLE orders (id bigint PRIMARY KEY, plan bigint, note text)"))
    connection.execute(text("ALTER TABLE orders ADD FOREIGN KEY (plan) REFERENCES orders"))
    table = Table(
        "orders",
        MetaData(),
        *(Column(name, BigInteger) for name in ("id", "plan")),
        Column("note", Text),
    )
    path = tmp_path / "orders.csv"
    path.write_text("1,2,x\n2,1,x\n3,9,x\n")
    with pytest.raises(LoadError, match=r"orders\.csv: .*foreign key") as caught:
        load_csv(connection, table, path)
    assert caught.value.line is None


@ON_POSTGRESQL_ONLY
def test_a_row_that_a_trigger_refuses_afterwards_is_named(
    connection: Connection, tmp_path: Path
) -> None:
    table = referring(connection)
    connection.execute(
        text(
            "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN IF new.note = ''no'' THEN RAISE check_violation; END IF; RETURN new; END'"
        )
    )
    trigger = "CREATE TRIGGER look AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION look()"
    connection.execute(text(trigger))
    path = tmp_path / "orders.csv"
    path.write_text("1,1,x\n2,1,x\n3,1,no\n4,1,x\n")
    with pytest.raises(LoadError, match=r"orders\.csv, line 3: "):
        load_csv(connection, table, path)


def test_paths_from_anything_that_gives_them(connection: Connection, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.csv").write_bytes(GOOD)
    found = sorted(tmp_path.glob("*.csv"))
    for paths in (tmp_path.glob("*.csv"), iter(found), set(found), (path for path in found)):
        assert load_csv(connection, github_events, paths).rows == 3
    with pytest.raises(ArgumentError, match=r"gave PosixPath: pass paths themselves"):
        load_once(connection, github_events, iter(found))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"gave str: open files in binary mode"):
        load_csv(connection, github_events, (str(path) for path in found))
