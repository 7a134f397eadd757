"""The embedded server with real processes: starts, shares, survives, and leaves nothing behind."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from sqlalchemy import URL, NullPool, create_engine, make_url, text

from citus_analytics.errors import ServerError
from citus_analytics.server import EmbeddedServer, find_binaries
from tests.processes import is_alive
from tests.servers import execute, free_ports, query_text


def test_a_temporary_server_comes_and_goes() -> None:
    with EmbeddedServer() as server:
        pid, directory = server.pid, server.directory
        assert query_text(server.url, "SHOW server_encoding") == "UTF8"
        assert query_text(server.url, "SELECT current_user") == "postgres"
        major, minor = find_binaries().version
        assert query_text(server.url, "SHOW server_version").startswith(f"{major}.{minor}")
    assert not is_alive(pid)
    assert not directory.exists()
    with pytest.raises(ServerError, match="not started"):
        _ = server.url


def test_start_and_stop_can_be_called_again() -> None:
    server = EmbeddedServer()
    server.start()
    pid = server.pid
    server.start()
    assert server.pid == pid
    server.stop()
    server.stop()
    server.start()
    assert server.pid != pid
    server.stop()


def test_data_survive_a_restart(place: Path) -> None:
    with EmbeddedServer(place) as server:
        execute(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    with EmbeddedServer(place) as server:
        assert query_text(server.url, "SELECT answer FROM kept") == "42"


@pytest.mark.parametrize(
    "name",
    ["with space", """it's "quoted", 100% 'odd'""", "long" * 50, "\N{SNOWMAN}", "a=b&c?d#e\\f"],
)
def test_any_path_will_do(place: Path, name: str) -> None:
    with EmbeddedServer(place / name / "server") as server:
        url = make_url(server.url_for("template1").render_as_string())
        assert query_text(url, "SELECT current_database()") == "template1"
        assert query_text(url, "SHOW data_directory") == str(place / name / "server" / "data")
        sockets = Path(query_text(url, "SHOW unix_socket_directories"))
    assert not sockets.exists()


def test_nobody_else_can_come_in() -> None:
    with EmbeddedServer() as server:
        assert query_text(server.url, "SHOW listen_addresses") == ""
        sockets = Path(query_text(server.url, "SHOW unix_socket_directories"))
        assert sockets.stat().st_mode & 0o777 == 0o700
        owner = server.directory.joinpath("data").stat().st_uid
        assert sockets.stat().st_uid == owner
        assert owner != 0


def test_a_port_is_for_this_machine_alone() -> None:
    [port] = free_ports(1)
    with EmbeddedServer(port=port) as server:
        url = URL.create("postgresql+psycopg", "postgres", None, "127.0.0.1", port, "postgres")
        assert query_text(url, "SELECT host(inet_server_addr())") == "127.0.0.1"
        assert query_text(server.url, "SHOW port") == str(port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port)).close()


def test_settings_reach_the_server() -> None:
    settings = {"work_mem": "7MB", "application_name": "it's here"}
    with EmbeddedServer(settings=settings) as server:
        assert query_text(server.url, "SHOW work_mem") == "7MB"
        assert query_text(server.url, "SHOW fsync") == "off"
        default = "SELECT reset_val FROM pg_settings WHERE name = 'application_name'"
        assert query_text(server.url, default) == "it's here"


def test_a_server_with_a_directory_writes_to_disk(place: Path) -> None:
    with EmbeddedServer(place) as server:
        assert query_text(server.url, "SHOW fsync") == "on"


def test_a_bad_setting_is_told_with_the_log(place: Path) -> None:
    with pytest.raises(ServerError, match='unrecognized configuration parameter "no_such_thing"'):
        EmbeddedServer(place, settings={"no_such_thing": "1"}).start()
    with EmbeddedServer(place) as server:
        assert query_text(server.url, "SELECT 1") == "1"


def test_a_failed_start_of_a_temporary_server_leaves_nothing() -> None:
    server = EmbeddedServer(settings={"shared_buffers": "lots"})
    with pytest.raises(ServerError, match='invalid value for parameter "shared_buffers"') as caught:
        server.start()
    log = next(line for line in str(caught.value).split() if line.endswith("server.log:"))
    assert not Path(log).parent.exists()


def test_the_environment_of_the_caller_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGPORT", "PGDATA", "PGHOST", "PGUSER", "PGDATABASE"):
        monkeypatch.setenv(name, "nonsense")
    with EmbeddedServer() as server:
        assert query_text(server.url, "SELECT 1") == "1"


def test_data_of_another_major_version_are_refused(place: Path) -> None:
    with EmbeddedServer(place):
        pass
    (place / "data" / "PG_VERSION").write_text("14\n", encoding="ascii")
    with pytest.raises(ServerError, match=r"PostgreSQL 14 created .* cannot serve it"):
        EmbeddedServer(place).start()


def test_stopping_closes_connections_and_rolls_back(place: Path) -> None:
    with EmbeddedServer(place) as server:
        execute(server.url, "CREATE TABLE kept (answer int)")
        connection = create_engine(server.url, poolclass=NullPool).connect()
        connection.execute(text("INSERT INTO kept VALUES (42)"))
    connection.invalidate()
    connection.close()
    with EmbeddedServer(place) as server:
        assert query_text(server.url, "SELECT count(*) FROM kept") == "0"
