"""Launching a server: everything between a free directory and a process that is on its way."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from citus_analytics.server import _supervisor
from citus_analytics.server._accounts import (
    make_temporary_directory,
    server_account,
    server_environment,
)
from citus_analytics.server._binaries import Binaries, find_binaries
from citus_analytics.server._cluster import create_file, ensure_data, give_to, write_access_rules
from citus_analytics.server._copies import readable_binaries

if TYPE_CHECKING:
    from citus_analytics.server._accounts import Account

_DEFAULT_PORT = 5432
# A socket's address has room for 103 bytes on the narrowest of our systems, of which the socket's
# own name takes up to 16. Commas and quotes would need quoting in unix_socket_directories, spaces
# in most of what people do with a path.
_GOOD_SOCKET_DIRECTORY = re.compile(r"/[A-Za-z0-9._/+=-]{1,85}")


@dataclass(frozen=True, slots=True)
class Home:
    """The directory that a server lives in, and what is where in it."""

    path: Path

    @property
    def data(self) -> Path:
        """PostgreSQL's data directory."""
        return self.path / "data"

    @property
    def log(self) -> Path:
        """What the server and its supervisor print."""
        return self.path / "server.log"

    @property
    def rules(self) -> Path:
        """The access rules, PostgreSQL's hba_file."""
        return self.path / "access.conf"

    @property
    def starting(self) -> Path:
        """The lock of those who start, join or leave the server: one at a time."""
        return self.path / "starting.lock"

    @property
    def users(self) -> Path:
        """The lock that users hold together, and that the supervisor waits for."""
        return self.path / "users.lock"

    @property
    def running(self) -> Path:
        """The lock that every process of the server inherits."""
        return self.path / "running.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What was asked for; see `EmbeddedServer` for the meaning of each."""

    binaries: Binaries | Path | None
    settings: Mapping[str, str]
    port: int | None
    temporary: bool
    timeout: float

    def start(self, home: Home, running: int) -> None:
        """Create what the server in `home` needs, and start it; it is not ready yet.

        Args:
            home: Where it lives.
            running: The descriptor that holds `home.running`, for the server to inherit.

        Raises:
            ServerError: There are no binaries, or no data directory for them.
        """
        account = server_account(home.data)
        binaries = readable_binaries(self._find_binaries(), account, home.path)
        ensure_data(home.data, binaries, account, sync=not self.temporary)
        write_access_rules(home.rules, tcp=self.port is not None)
        # We hold the lock that every process of a server here inherits, so there is none: what is
        # left is from a server that was killed. Its process id may be another process's by now,
        # and PostgreSQL would then refuse to start.
        (home.data / "postmaster.pid").unlink(missing_ok=True)
        sockets = _create_socket_directory(home, account)
        _supervise(
            {
                "command": self._command(binaries, home, sockets),
                "identity": account.identity,
                "running": running,
                "users": str(home.users),
                "patience": self.timeout / 3,
                "afterwards": [str(sockets)],
                "temporary": [str(home.path)] if self.temporary else [],
            },
            home.log,
        )

    def _find_binaries(self) -> Binaries:
        if isinstance(self.binaries, Binaries):
            return self.binaries
        return find_binaries(self.binaries)

    def _command(self, binaries: Binaries, home: Home, sockets: Path) -> list[str]:
        # A temporary server does not outlive the operating system, so fsync would protect nothing.
        defaults = {"fsync": "off"} if self.temporary else {}
        decided = {
            "hba_file": str(home.rules),
            "listen_addresses": "" if self.port is None else "127.0.0.1",
            "port": str(self.port or _DEFAULT_PORT),
            "unix_socket_directories": str(sockets),
            "unix_socket_permissions": "0700",
        }
        settings = {**defaults, **self.settings, **decided}
        arguments = [part for item in settings.items() for part in ("-c", "=".join(item))]
        return [str(binaries.bindir / "postgres"), "-D", str(home.data), *arguments]


def _create_socket_directory(home: Home, account: Account) -> Path:
    """Create the directory of the socket, which only the server's account can enter."""
    directory = home.path / "socket"
    if _fits(directory):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
    else:
        directory = make_temporary_directory(account, fits=_fits)
    give_to(directory, account)
    return directory


def _fits(directory: Path) -> bool:
    return _GOOD_SOCKET_DIRECTORY.fullmatch(str(directory)) is not None


def _supervise(supervised: _supervisor.Supervised, log: Path) -> None:
    """Start the supervisor, which starts the server; it has left us when this returns."""
    command = [sys.executable, "-I", "-S", _supervisor.__file__, json.dumps(supervised)]
    descriptor = create_file(log, mode=0o600)
    try:
        subprocess.run(  # noqa: S603 - our own interpreter and program
            command,
            check=True,
            cwd="/",
            env=server_environment(),
            pass_fds=[supervised["running"]],
            # Ctrl-C in a terminal is for the program, which then leaves the server in good order.
            start_new_session=True,
            stderr=descriptor,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
        )
    finally:
        os.close(descriptor)
