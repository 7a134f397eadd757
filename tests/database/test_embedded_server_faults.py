"""The embedded server shared by processes, and whatever can be killed, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine, text

from citus_analytics.server import EmbeddedServer
from tests.processes import IS_ROOT, ServerUser, eventually, is_alive
from tests.servers import execute, query_text

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.faults


def kill_server(server: EmbeddedServer) -> None:
    pid = server.pid
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not is_alive(pid))


def test_two_processes_that_start_at_once_share_a_server(place: Path) -> None:
    first, second = ServerUser(str(place)), ServerUser(str(place))
    (pid, _, url), (same, _, _) = first.wait_until_started(), second.wait_until_started()
    assert pid == same
    first.leave()
    assert query_text(url, "SELECT 1") == "1"
    second.leave()
    assert not is_alive(pid)


def test_whoever_starts_a_server_need_not_stay(place: Path) -> None:
    starter = ServerUser(str(place))
    pid, _, _ = starter.wait_until_started()
    with EmbeddedServer(place) as server:
        starter.kill()
        time.sleep(0.5)
        assert server.pid == pid
        assert query_text(server.url, "SELECT 1") == "1"
    assert not is_alive(pid)


def test_sigkill_of_the_only_user_leaves_no_temporary_server() -> None:
    user = ServerUser()
    pid, directory, _ = user.wait_until_started()
    assert is_alive(pid)
    user.kill()
    assert eventually(lambda: not is_alive(pid))
    assert eventually(lambda: not directory.exists())


def test_sigkill_of_the_only_user_keeps_the_data(place: Path) -> None:
    user = ServerUser(str(place))
    pid, _, url = user.wait_until_started()
    execute(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    user.kill()
    assert eventually(lambda: not is_alive(pid))
    with EmbeddedServer(place) as server:
        assert query_text(server.url, "SELECT answer FROM kept") == "42"


def test_interrupting_the_program_does_not_hit_the_server() -> None:
    user = ServerUser()
    pid, _, url = user.wait_until_started()
    with create_engine(url, poolclass=NullPool).connect() as held:
        # The program must stay, or the server would stop with good reason.
        os.kill(user.process.pid, signal.SIGSTOP)
        os.killpg(user.process.pid, signal.SIGINT)
        time.sleep(0.5)
        assert held.scalar(text("SELECT 1")) == 1
    user.kill()
    assert eventually(lambda: not is_alive(pid))


@pytest.mark.parametrize("temporary", [True, False])
def test_a_killed_server_comes_back(place: Path, temporary: bool) -> None:
    with EmbeddedServer(None if temporary else place) as server:
        url = server.url
        execute(url, "CREATE TABLE kept AS SELECT 42 AS answer")
        kill_server(server)
        server.start()
        assert server.url == url
        assert query_text(url, "SELECT answer FROM kept") == "42"
        directory = server.directory
    assert directory.exists() is not temporary


def test_a_temporary_server_that_was_killed_is_removed() -> None:
    with EmbeddedServer() as server:
        directory = server.directory
        kill_server(server)
    assert not directory.exists()


def test_a_stale_process_id_that_lives_again_does_not_matter(place: Path) -> None:
    with EmbeddedServer(place) as server:
        execute(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        data = place / "data"
        kill_server(server)
        account = data.stat()
        identity = {"user": account.st_uid, "group": account.st_gid} if IS_ROOT else {}
        with subprocess.Popen(["sleep", "600"], **identity) as other:  # type: ignore[call-overload]
            lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines(keepends=True)
            stale = "".join([f"{other.pid}\n", *lines[1:]])
            (data / "postmaster.pid").write_text(stale, encoding="utf-8")
            server.start()
            assert server.pid != other.pid
            assert query_text(server.url, "SELECT answer FROM kept") == "42"
            assert other.poll() is None
            other.kill()


def test_an_unfinished_initdb_does_not_matter(place: Path) -> None:
    unfinished = place / "unfinished-left-behind"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n", encoding="ascii")
    with EmbeddedServer(place) as server:
        assert query_text(server.url, "SELECT 1") == "1"
    assert not unfinished.exists()
