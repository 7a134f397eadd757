"""The embedded server itself."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import URL

from citus_analytics.errors import ArgumentError, ServerError
from citus_analytics.server._accounts import make_temporary_directory, server_account
from citus_analytics.server._cluster import SUPERUSER, Postmaster, read_postmaster
from citus_analytics.server._launch import Home, Launch
from citus_analytics.server._locks import (
    POLL_SECONDS,
    exclusive,
    held_by_several,
    opened,
    shared,
    try_alone,
    wait_until_free,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from citus_analytics.server._binaries import Binaries

_LOG_LINES = 20
_LAST_PORT = 65535
_DECIDED_HERE = frozenset(
    {
        "data_directory",
        "hba_file",
        "listen_addresses",
        "port",
        "unix_socket_directories",
        "unix_socket_permissions",
    }
)


class EmbeddedServer:
    """A PostgreSQL for development, demos and tests.

    `with EmbeddedServer(...) as server:` starts it, or joins it if another process runs it in the
    same directory, and leaves it at the end. The server stops when nobody uses it any longer: the
    last user has left it or is gone, even by SIGKILL. A process that is forked from a user is a
    user too.

    As root it runs under an unprivileged account, because PostgreSQL refuses to run as root: the
    owner of its data, or `postgres`, or `nobody`.

    Anyone who may enter the directory of its socket is its superuser, without a password: the
    account of the server, and root. With `port` this is true of every account of the machine,
    so use that for tests alone.

    Args:
        directory: Where the server lives: its data in `data`, its log in `server.log`, its locks.
            It is created if it is not there, and data in it is kept. None for a temporary
            server, which is removed with all its data when it stops.
        binaries: The PostgreSQL to run, or the directory of its programs; None for the one that
            `find_binaries` finds.
        settings: Settings of PostgreSQL by their names, e.g. `{"work_mem": "64MB"}`. They hold
            from a start to the next; whoever joins a running server finds those that it has.
        port: A TCP port to listen on at 127.0.0.1; None for the unix socket alone.
        timeout: Seconds that a start or a stop may take.

    Raises:
        ArgumentError: A setting is one that this class decides, or the port is no port.
    """

    def __init__(
        self,
        directory: Path | str | None = None,
        *,
        binaries: Binaries | Path | None = None,
        settings: Mapping[str, str] | None = None,
        port: int | None = None,
        timeout: float = 60.0,
    ) -> None:
        decided = sorted(_DECIDED_HERE.intersection(settings or ()))
        if decided:
            raise ArgumentError(
                f"EmbeddedServer decides {', '.join(decided)} itself: leave that out of "
                "settings, and use directory=... or port=... instead."
            )
        if port is not None and not 1 <= port <= _LAST_PORT:
            raise ArgumentError(f"port must be from 1 to {_LAST_PORT} or None, got {port}.")
        self._home = None if directory is None else Home(Path(directory).absolute())
        self._launch = Launch(
            binaries=binaries,
            settings=dict(settings or {}),
            port=port,
            temporary=directory is None,
            timeout=timeout,
        )
        self._membership: int | None = None
        self._postmaster: Postmaster | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        place = "a temporary directory" if self._home is None else self._home.path
        state = "not started" if self._postmaster is None else f"pid {self._postmaster.pid}"
        return f"<EmbeddedServer in {place}, {state}>"

    @property
    def directory(self) -> Path:
        """Where the server lives.

        Raises:
            ServerError: It is a temporary server that is not started.
        """
        if self._home is None:
            raise ServerError("a temporary server has no directory before start() is called.")
        return self._home.path

    @property
    def log(self) -> Path:
        """The server's log since its last start."""
        return Home(self.directory).log

    @property
    def pid(self) -> int:
        """The id of the server's main process, which tests of faults want to kill."""
        return self._started().pid

    @property
    def url(self) -> URL:
        """The address of the database `postgres`, for SQLAlchemy with psycopg."""
        return self.url_for("postgres")

    def url_for(self, database: str) -> URL:
        """Return the address of `database`, which need not exist yet.

        It leads over the unix socket, as the superuser `postgres`.

        Raises:
            ServerError: The server is not started.
        """
        postmaster = self._started()
        # In the query, because a port without a host does not survive in a URL's text.
        query = {"host": str(postmaster.socket_directory), "port": str(postmaster.port)}
        return URL.create("postgresql+psycopg", username=SUPERUSER, database=database, query=query)

    def start(self) -> None:
        """Start the server, or join it where it already runs; return when it accepts connections.

        To call it again is harmless, and brings a server back that was killed.

        Raises:
            ServerError: The server cannot start; the message has the end of its log.
        """
        home = self._ensure_home()
        with exclusive(home.starting):
            try:
                if self._membership is None:
                    # Waits while a server that everybody had left is still stopping.
                    self._membership = shared(home.users)
                self._postmaster = self._join(home)
            except BaseException:
                self._leave(home)
                raise

    def stop(self) -> None:
        """Leave the server, and wait until it has stopped unless others use it.

        Open connections are closed and their transactions rolled back (a fast shutdown). To call
        it again is harmless.

        Raises:
            ServerError: The server does not stop.
        """
        if self._home is None or self._membership is None:
            return
        with exclusive(self._home.starting):
            self._leave(self._home)

    def _started(self) -> Postmaster:
        if self._postmaster is None:
            raise ServerError("the server is not started: call start(), or use it in a `with`.")
        return self._postmaster

    def _ensure_home(self) -> Home:
        if self._home is None:
            path = make_temporary_directory(server_account())
            self._home = Home(path)
        elif (path := self._home.path).exists():
            _refuse_data_directory(path)
            return self._home
        else:
            _create_directory(path)
        # The account of the server must come through to its data, and needs no more than that.
        path.chmod(0o711 if os.geteuid() == 0 else 0o700)
        return self._home

    def _join(self, home: Home) -> Postmaster:
        """Wait until the server is ready, and launch it if there is none; return what it is."""
        deadline = time.monotonic() + self._launch.timeout
        launched = False
        while time.monotonic() < deadline:
            postmaster = read_postmaster(home.data)
            if postmaster is not None and postmaster.is_ready():
                return postmaster
            with opened(home.running) as running:
                if try_alone(running) and not (postmaster and postmaster.is_listening()):
                    if launched:
                        raise ServerError(f"PostgreSQL did not start.{_end_of(home.log)}")
                    self._launch.start(home, running)
                    launched = True
            time.sleep(POLL_SECONDS)
        raise ServerError(
            f"PostgreSQL in {home.path} accepts no connections after "
            f"{self._launch.timeout:g} seconds.{_end_of(home.log)}"
        )

    def _leave(self, home: Home) -> None:
        """Stop using the server; the caller holds the lock that new users need."""
        self._postmaster = None
        # Opened first, because a temporary server takes its directory with it.
        with opened(home.users) as users, opened(home.running) as running:
            if self._membership is not None:
                os.close(self._membership)
                self._membership = None
            if held_by_several(users):
                return
            if not wait_until_free(running, self._launch.timeout):
                raise ServerError(
                    f"PostgreSQL in {home.path} has not stopped after "
                    f"{self._launch.timeout:g} seconds.{_end_of(home.log)}"
                )
        if self._launch.temporary:
            # The supervisor has done so already, unless the server had been killed before.
            shutil.rmtree(home.path, ignore_errors=True)
            self._home = None


def _create_directory(path: Path) -> None:
    try:
        # Another process may create it at the same moment.
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServerError(
            f"cannot create {path} for an embedded server: {error.strerror}. "
            "Name a directory that this account can write to."
        ) from error


def _refuse_data_directory(path: Path) -> None:
    if (path / "PG_VERSION").exists():
        raise ServerError(
            f"{path} is a data directory of PostgreSQL, not one that an embedded server can live "
            "in: it keeps its data in a directory below its own. Name another one."
        )


def _end_of(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join([f" The end of {log}:", *lines[-_LOG_LINES:]])
