"""What the server, the session and the engine are set to does not change what is loaded."""

from __future__ import annotations

import io
import time
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import (
    Column,
    Date,
    DateTime,
    Integer,
    Interval,
    MetaData,
    NullPool,
    Table,
    create_engine,
    select,
    text,
)

from citus_analytics.__main__ import main
from citus_analytics.copy import load_csv
from citus_analytics.errors import ArgumentError, LoadError
from citus_analytics.github.load import LoadOptions, load_events, load_files, load_once
from citus_analytics.github.models import github_events
from tests.database import small_parts
from tests.database.load_data import EVENTS, GOOD, count
from tests.database.small_parts import events
from tests.event_data import hour, line

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL, Connection, Engine

    from citus_analytics.copy import Progress

NEW_YORK = r"-c timezone=America/New_York -c datestyle=SQL,DMY -c intervalstyle=sql_standard"
SYDNEY = r"-c timezone=Australia/Sydney -c datestyle=German"
UNZONED = GOOD.replace(b"2025-01-01T00:00:00Z", b"2025-01-01 12:00")


def engine_with(database: URL, options: str) -> Engine:
    return create_engine(database, poolclass=NullPool, connect_args={"options": options})


def times(engine: Engine) -> set[datetime | None]:
    with engine.connect() as connection:
        return set(connection.execute(select(github_events.c.created_at)).scalars())


@pytest.mark.parametrize("connections", [1, 3])
def test_times_without_a_zone_are_in_utc(
    database: URL, engine: Engine, tmp_path: Path, connections: int
) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(UNZONED * 1000)
    small_parts.load_files(
        engine_with(database, NEW_YORK), github_events, [path], connections=connections
    )
    assert times(engine) == {datetime(2025, 1, 1, 12, tzinfo=UTC)}
    assert events(engine) == 1000


def test_the_same_event_is_the_same_in_every_session(database: URL, engine: Engine) -> None:
    unique = LoadOptions(unique=True)
    found = []
    for number, options in enumerate((NEW_YORK, SYDNEY, ""), 10):
        source = io.BytesIO(UNZONED + GOOD.replace(b"7,", b"%d," % number, 1))
        (result,) = load_files(
            engine_with(database, options), github_events, [source], options=unique
        )
        found.append((result.rows, result.duplicates))
        source.seek(0)
        (again,) = load_files(
            engine_with(database, options), github_events, [source], options=unique
        )
        assert again.already_loaded
    assert found == [(2, 0), (1, 1), (1, 1)]


def test_dates_and_intervals_are_read_the_same_and_the_settings_come_back(database: URL) -> None:
    table = Table(
        "dated",
        MetaData(),
        Column("day", Date),
        Column("moment", DateTime(timezone=True)),
        Column("took", Interval),
    )
    settings = text(
        "SELECT current_setting('TimeZone'), current_setting('DateStyle'), "
        "current_setting('IntervalStyle')"
    )
    with engine_with(database, NEW_YORK).connect() as connection:
        table.create(connection)
        before = connection.execute(settings).one()
        load_csv(connection, table, [b"2025-02-01,2025-02-01 12:00,-1 2:03:04\n"])
        for ambiguous in (b"01/02/2025,,\n", b",01/02/2025 12:00,\n"):
            with pytest.raises(LoadError, match=r"line 1, column (day|moment): date/time field v"):
                load_csv(connection, table, [ambiguous])
        assert connection.execute(settings).one() == before
        connection.exec_driver_sql("SET LOCAL datestyle = 'ISO'")
        connection.exec_driver_sql("SET LOCAL intervalstyle = 'postgres'")
        row = connection.execute(select(table)).one()
    assert (row.day, row.moment) == (date(2025, 2, 1), datetime(2025, 2, 1, 12, tzinfo=UTC))
    assert row.took == timedelta(days=-1, hours=2, minutes=3, seconds=4)


@pytest.mark.parametrize(
    "moment",
    [
        *("2025-01-01 12:00", "2025-01-01", "2025-01-01T12:00:00.5", '"2025-01-01 12:00"'),
        *("now", "today", "Tomorrow", "epoch", "infinity", '"now"', 'n"o"w', "12:00Z"),
    ],
)
def test_times_without_a_zone_can_be_refused(connection: Connection, moment: str) -> None:
    bad = GOOD.replace(b"2025-01-01T00:00:00Z", moment.encode())
    quoted = GOOD.replace(b"PushEvent", b'"Push,\r\nEv""ent"')
    with pytest.raises(LoadError, match="is not a time with its zone") as caught:
        load_events(connection, [quoted * 5 + bad + GOOD], require_time_zone=True)
    assert (caught.value.line, caught.value.column) == (11, "created_at")
    assert count(connection) == 0


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_times_with_a_zone_are_loaded(connection: Connection, size: int, end: bytes) -> None:
    moments = (
        "2025-01-01T00:00:00Z",
        "2025-01-01 02:00:00.123+02",
        '"2025-01-01 00:00 -05:30"',
        "",
    )
    rows = [GOOD.replace(b"2025-01-01T00:00:00Z", moment.encode()) for moment in moments]
    # The last row has no line end.
    content = b"".join(rows * 5).replace(b"\n", end).removesuffix(end)
    blocks = [content[at : at + size] for at in range(0, len(content), size)]
    assert load_events(connection, blocks, require_time_zone=True).rows == 20
    with pytest.raises(LoadError, match="extra data"):
        load_events(connection, [GOOD + b"1," + GOOD], require_time_zone=True)


def test_words_are_refused_for_dates_too(connection: Connection) -> None:
    table = Table("dated", MetaData(), Column("n", Integer), Column("day", Date))
    table.create(connection)
    assert load_csv(connection, table, [b"1,2025-02-01\n2,\n"], require_time_zone=True).rows == 2
    with pytest.raises(LoadError, match="line 2, column day: 'today' is not"):
        load_csv(connection, table, [b"1,2025-02-01\n2,today\n"], require_time_zone=True)


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("unique", [False, True])
def test_files_with_times_without_a_zone_are_refused(
    engine: Engine, tmp_path: Path, connections: int, unique: bool
) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(EVENTS + UNZONED + EVENTS)
    options = LoadOptions(require_time_zone=True, unique=unique)
    with pytest.raises(LoadError, match=r"events\.csv, line 1001, column created_at"):
        small_parts.load_files(
            engine, github_events, [path], options=options, connections=connections
        )
    assert events(engine) == 0


@pytest.mark.parametrize("connections", ["1", "2"])
@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_the_default_isolation_level_of_the_database(
    database: URL, engine: Engine, tmp_path: Path, level: str, connections: str
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(
            f"ALTER DATABASE \"{database.database}\" SET default_transaction_isolation = '{level}'"
        )
    path = tmp_path / "hour.json"
    path.write_bytes(hour(4000))
    address = database.set(drivername="postgresql").render_as_string(hide_password=False)
    load = ["load", "events", str(path), "--connections", connections, "--database-url", address]
    assert main(load) == 0
    assert main([*load, "--force", "--indexes-later"]) == 0
    pooled = create_engine(database)
    assert load_files(pooled, github_events, [path], options=LoadOptions(unique=True))
    pooled.dispose()
    assert events(engine) == 4000


def test_timeouts_do_not_end_a_load_that_builds_indexes_later(
    database: URL, engine: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "hour.json"
    path.write_bytes(hour(100))
    options = (
        "-c statement_timeout=1500ms -c idle_in_transaction_session_timeout=1500ms "
        "-c lock_timeout=1500ms"
    )

    def sleep(progress: Progress) -> None:
        time.sleep(1.7)

    (result,) = load_files(
        engine_with(database, options), github_events, [path], indexes_later=True, progress=sleep
    )
    assert result.rows == events(engine) == 100


@pytest.mark.parametrize(("connections", "indexes_later"), [(15, False), (14, True), (99, False)])
def test_more_connections_than_the_pool_has_are_refused_at_once(
    database: URL, tmp_path: Path, connections: int, indexes_later: bool
) -> None:
    path = tmp_path / "hour.json"
    path.write_bytes(hour(1))
    engine = create_engine(database)
    with pytest.raises(ArgumentError, match="the engine's pool has at most 15: make the engine"):
        load_files(
            engine, github_events, [path], connections=connections, indexes_later=indexes_later
        )
    engine.dispose()


def test_as_many_connections_as_the_pool_has_will_do(database: URL, tmp_path: Path) -> None:
    path = tmp_path / "hour.json"
    path.write_bytes(hour(1000))
    engine = create_engine(database, pool_size=4, max_overflow=0, pool_timeout=5)
    for _ in range(2):
        small_parts.load_files(engine, github_events, [path], connections=2, indexes_later=True)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert events(engine) == 1000
    engine.dispose()
    engine = create_engine(database, pool_size=0)
    small_parts.load_files(engine, github_events, [path], connections=20, force=True)
    engine.dispose()


def test_a_connection_on_which_a_load_failed_is_not_used_again(
    database: URL, tmp_path: Path
) -> None:
    path = tmp_path / "hour.json"
    path.write_bytes(hour(1000) + line(1, actor={}))
    engine = create_engine(database)
    for connections in (1, 3):
        options = LoadOptions(strict=True)
        with pytest.raises(LoadError, match="line 1001"):
            small_parts.load_files(
                engine, github_events, [path], options=options, connections=connections
            )
        assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    (result,) = small_parts.load_files(engine, github_events, [path], connections=3)
    assert result.rows == events(engine) == 1000
    engine.dispose()


# The same columns in another order, and names in quotes.
NAMES = [column.name for column in github_events.columns]
ORDER = [8, 6, 0, 1, 2, 3, 4, 5, 7]
HEADER = ",".join(f'"{NAMES[at]}"' if at % 2 else NAMES[at] for at in ORDER).encode() + b"\n"
ROWS = b"".join(
    b"2025-01-01T00:00:00Z,%d,%d,PushEvent,t,2,{},{},\n" % (number % 7, number)
    for number in range(3000)
)


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("unique", [False, True])
def test_a_header_names_the_columns(
    engine: Engine, tmp_path: Path, connections: int, unique: bool
) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(b"\xef\xbb\xbf" + HEADER + ROWS)
    options = LoadOptions(header=True, unique=unique, require_time_zone=True)
    for _ in range(2):
        (result,) = small_parts.load_files(
            engine, github_events, [path], options=options, connections=connections
        )
        assert result.rows == 3000
    assert result.already_loaded
    found = text(
        "SELECT count(*), count(DISTINCT event_id), max(user_id), min(event_type), sum(repo_id) "
        "FROM github_events"
    )
    with engine.connect() as connection:
        assert tuple(connection.execute(found).one()) == (3000, 3000, 6, "PushEvent", 6000)
        bad = HEADER + ROWS + ROWS[: ROWS.index(b"\n") + 1].replace(b"Z,0,", b"Z,x,")
        with pytest.raises(LoadError, match=r"line 3002, column user_id: .*\"x\""):
            load_once(connection, github_events, io.BytesIO(bad), options=options)


def test_what_is_missing_of_a_file_with_a_header(engine: Engine, tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(HEADER + ROWS)
    options = LoadOptions(header=True)
    small_parts.lose_after(engine, 1, path, options=options)
    assert 0 < events(engine) < 3000
    load_files(engine, github_events, [path], options=options)
    assert events(engine) == 3000


@pytest.mark.parametrize("end", [b"\r\n", b"\r", b""])
def test_a_header_ends_as_other_lines_do(connection: Connection, end: bytes) -> None:
    content = (HEADER + ROWS[:50].split(b"\n")[0]).replace(b"\n", end or b"\n") + end
    for blocks in ([content], [content[at : at + 1] for at in range(len(content))]):
        assert load_events(connection, blocks, header=True).rows == 1
    assert load_events(connection, [HEADER], header=True).rows == 0


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (GOOD, "lacks 'event_id', 'event_type'.* and has unknown '7', 'PushEvent'"),
        (HEADER.replace(b"created_at,", b""), "the header lacks 'created_at'. Nothing"),
        (HEADER.replace(b"repo_id", b"repo id"), "lacks 'repo_id' and has unknown 'repo id'"),
        (HEADER.replace(b"created_at", b"created_at,user_id"), "the header repeats 'user_id'"),
        (HEADER.replace(b"created_at", b"\xff"), "lacks 'event_id'"),
        (b"", "lacks 'event_id'"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(
    connection: Connection, header: bytes, words: str
) -> None:
    with pytest.raises(LoadError, match=words) as caught:
        load_events(connection, [header + ROWS] if header else [], header=True)
    assert caught.value.line == 1
    assert count(connection) == 0


def test_the_command_has_headers_and_zones(
    database: URL, engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "events.csv"
    path.write_bytes(HEADER + ROWS)
    address = database.set(drivername="postgresql").render_as_string(hide_password=False)
    load = ["load", "events", str(path), "--database-url", address]
    assert main(load) == 1
    assert "seems to be a header: load with header=True (--header)" in capsys.readouterr().err
    assert main([*load, "--header", "--require-time-zone"]) == 0
    call = "options=LoadOptions(header=True, require_time_zone=True)"
    assert call in capsys.readouterr().out
    assert events(engine) == 3000
