"""The files of a server: its data directory, its access rules, and what it says of itself."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from citus_analytics.errors import ServerError

if TYPE_CHECKING:
    from citus_analytics.server._accounts import Account
    from citus_analytics.server._binaries import Binaries

SUPERUSER = "postgres"

_LOCALE = "C.UTF-8"
# PostgreSQL 17 brought the provider that sorts and folds the same on every operating system.
_BUILTIN_PROVIDER_SINCE = 17
_UNFINISHED = "unfinished-"


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A server as its file postmaster.pid describes it, which may be out of date.

    Attributes:
        pid: Its process id.
        port: The number in the name of its socket, and its TCP port if it has one.
        socket_directory: Where its socket is.
    """

    pid: int
    port: int
    socket_directory: Path

    def is_listening(self) -> bool:
        """Tell whether a process listens on the socket, ready or not."""
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as client:
            return client.connect_ex(str(self.socket_directory / f".s.PGSQL.{self.port}")) == 0

    def is_ready(self) -> bool:
        """Tell whether the server accepts connections."""
        try:
            connection = psycopg.connect(
                host=str(self.socket_directory),
                port=self.port,
                user=SUPERUSER,
                dbname="postgres",
                connect_timeout=5,
            )
        except psycopg.OperationalError:
            return False
        connection.close()
        return True


def read_postmaster(data: Path) -> Postmaster | None:
    """Read postmaster.pid; None if it is missing, or not written to its end yet."""
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        # The order of the lines is that of pidfile.h in PostgreSQL's sources.
        pid, port, sockets = int(lines[0]), int(lines[3]), lines[4]
    except (FileNotFoundError, IndexError, ValueError):
        return None
    # Empty until the server has created its socket.
    return Postmaster(pid, port, Path(sockets)) if sockets else None


def ensure_data(data: Path, binaries: Binaries, account: Account, *, sync: bool) -> None:
    """Create the data directory `data` unless it exists, and check that `binaries` can serve it.

    Args:
        data: Where the directory is, or will be.
        binaries: The PostgreSQL whose `initdb` makes it.
        account: The account that will own it.
        sync: Whether it must survive a crash of the operating system.

    Raises:
        ServerError: Another major version made the directory, the account cannot reach it, or
            `initdb` failed.
    """
    if not data.is_dir():
        _create_data(data, binaries, account, sync=sync)
    _check_reach(data, account)
    major = (data / "PG_VERSION").read_text(encoding="ascii").strip()
    if major != str(binaries.version[0]):
        raise ServerError(
            f"PostgreSQL {major} created {data}, and {binaries} cannot serve it. Name the "
            f"binaries of PostgreSQL {major}, or another directory."
        )


def _create_data(data: Path, binaries: Binaries, account: Account, *, sync: bool) -> None:
    # Renamed when it is complete: a process that dies half-way leaves nothing that looks usable.
    for leftover in data.parent.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=data.parent))
    try:
        give_to(unfinished, account)
        _check_reach(unfinished, account)
        _initdb(unfinished, binaries, account, sync=sync)
        unfinished.rename(data)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _initdb(data: Path, binaries: Binaries, account: Account, *, sync: bool) -> None:
    provider = binaries.version[0] >= _BUILTIN_PROVIDER_SINCE
    command = [
        str(binaries.bindir / "initdb"),
        f"--pgdata={data}",
        f"--username={SUPERUSER}",
        "--encoding=UTF8",
        f"--locale={_LOCALE}",
        *(["--locale-provider=builtin"] if provider else []),
        # Whoever starts this directory by hand gets rules that let nobody else in.
        "--auth-local=peer",
        "--auth-host=reject",
        *([] if sync else ["--no-sync"]),
    ]
    result = account.run(command)
    if result.returncode != 0:
        raise ServerError(f"initdb of {binaries} failed for {data}:\n{result.stderr.strip()}")


def _check_reach(directory: Path, account: Account) -> None:
    if account.can_read(directory):
        return
    raise ServerError(
        f"the account {account.name!r} cannot reach {directory.parent}. PostgreSQL refuses to run "
        "as root and so runs under that account: name a directory below one that everybody can "
        "enter, or run as an ordinary user."
    )


def write_access_rules(path: Path, *, tcp: bool) -> None:
    """Write the server's access rules to `path`: no passwords, and no way in but those meant.

    Every account that can enter the socket's directory is the superuser. With `tcp`, so is every
    account of this machine.
    """
    rules = ["local all all trust", "local replication all trust"]
    if tcp:
        rules += ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"]
    with os.fdopen(create_file(path, mode=0o644), "w", encoding="ascii") as file:
        file.write("\n".join([*rules, ""]))


def create_file(path: Path, *, mode: int) -> int:
    """Create the file `path` anew, also where an old one belongs to another account."""
    path.unlink(missing_ok=True)
    # O_EXCL follows no symbolic link that somebody puts there in the meantime.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    # The caller's umask must not hide the rules from the server's account.
    os.fchmod(descriptor, mode)
    return descriptor


def give_to(directory: Path, account: Account) -> None:
    """Make `account` the owner of a directory that we have just created."""
    if os.geteuid() == 0:
        os.chown(directory, account.user, account.group)
