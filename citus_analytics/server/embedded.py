"""The embedded server, from `initdb` to its end.

Three rules keep it from lying, from being left behind, and from being open to others:

- Who uses a server, and whether it runs, is decided by advisory locks on files. The kernel releases
  a lock when the last process that holds it is gone, whatever killed it; a process id, which a
  later process can have, is never trusted. Whether the server is ready is found out by connecting.
- The server is the child of a process of its own (`supervisor.py`), which stops it when nobody
  holds the lock of its users.
- Its socket is in a directory that only its account can enter. As root, that account is an
  unprivileged one, because PostgreSQL refuses to run as root.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy import URL

from citus_analytics.errors import ArgumentError, ServerError
from citus_analytics.server import supervisor
from citus_analytics.server.binaries import Binaries, find_binaries

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType
    from typing import Self

_SUPERUSER = "postgres"
_DEFAULT_PORT = 5432
_LAST_PORT = 65535
_POLL_SECONDS = 0.02
_LOG_LINES = 20

# What is in the directory of a server.
_DATA = "data"  # PostgreSQL's data directory
_ACCESS_RULES = "access.conf"  # its hba_file
_SOCKET = "socket"  # the directory of its socket, if the path of that is not too long
_LOG = "server.log"  # what the server and its supervisor print
_STARTING = "starting.lock"  # held by whoever starts, joins or leaves the server: one at a time
_USERS = "users.lock"  # held by all users together; the supervisor waits until it is free
_RUNNING = "running.lock"  # inherited by every process of the server
_UNFINISHED = "unfinished-"  # begins the names of what is renamed when it is complete

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

# A socket's address has room for 103 bytes on the narrowest of our systems, of which the socket's
# own name takes up to 16. Commas and quotes would need quoting in unix_socket_directories, spaces
# in most of what people do with a path.
_GOOD_SOCKET_DIRECTORY = re.compile(r"/[A-Za-z0-9._/+=-]{1,85}")

# PostgreSQL 17 brought the provider that sorts and folds the same on every operating system.
_BUILTIN_PROVIDER_SINCE = 17

# For root: the account made for the purpose, then the one that owns nothing.
_UNPRIVILEGED = ("postgres", "nobody")


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
        settings: Settings of PostgreSQL by their names, e.g. `{"work_mem": "64MB"}`. They apply
            when the server starts; whoever joins a running server finds those that it has.
        port: A TCP port to listen on at 127.0.0.1; None for the unix socket alone.
        timeout: Seconds that a start or a stop may take.

    Raises:
        ArgumentError: A setting is one that this class decides, or the port is out of range.
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
        self._home = None if directory is None else Path(directory).absolute()
        self._temporary = directory is None
        self._binaries = binaries
        self._settings = dict(settings or {})
        self._port = port
        self._timeout = timeout
        # A plain descriptor, so that the server stays if this object is forgotten.
        self._users_lock: int | None = None
        self._postmaster: _Postmaster | None = None

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
        place = "a temporary directory" if self._home is None else self._home
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
        return self._home

    @property
    def log(self) -> Path:
        """The server's log since its last start."""
        return self.directory / _LOG

    @property
    def pid(self) -> int:
        """The id of the server's main process, for tests that kill it."""
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
        return URL.create("postgresql+psycopg", username=_SUPERUSER, database=database, query=query)

    def start(self) -> None:
        """Start the server, or join it where it already runs; return when it accepts connections.

        Calling it again is harmless, and restarts a server that was killed.

        Raises:
            ServerError: The server cannot start; the message has the end of its log.
        """
        home = self._ensure_home()
        with _opened(home / _STARTING) as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            try:
                if self._users_lock is None:
                    self._users_lock = _open_lock(home / _USERS)
                    # Waits while a server that has no users left is still stopping.
                    fcntl.flock(self._users_lock, fcntl.LOCK_SH)
                self._postmaster = self._join(home)
            except BaseException:
                self._leave(home)
                raise

    def stop(self) -> None:
        """Leave the server, and wait until it has stopped unless others use it.

        Open connections are closed and their transactions rolled back (a fast shutdown). Calling
        it again is harmless.

        Raises:
            ServerError: The server does not stop.
        """
        if self._home is None or self._users_lock is None:
            return
        with _opened(self._home / _STARTING) as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            self._leave(self._home)

    def _started(self) -> _Postmaster:
        if self._postmaster is None:
            raise ServerError("the server is not started: call start(), or use it in a `with`.")
        return self._postmaster

    def _ensure_home(self) -> Path:
        if self._home is None:
            self._home = _make_temporary_directory(_server_account())
        elif self._home.exists():
            if (self._home / "PG_VERSION").exists():
                raise ServerError(
                    f"{self._home} is a data directory of PostgreSQL, not one that an embedded "
                    "server can live in: it keeps its data in a directory below its own. Name "
                    "another one."
                )
            return self._home
        else:
            try:
                # Another process may create it at the same moment.
                self._home.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ServerError(
                    f"cannot create {self._home} for an embedded server: {error.strerror}. "
                    "Name a directory that this account can write to."
                ) from error
        # The account of the server must be able to reach its data, and needs no more than that.
        self._home.chmod(0o711 if os.geteuid() == 0 else 0o700)
        return self._home

    def _join(self, home: Path) -> _Postmaster:
        """Launch the server if it does not run, and wait until it is ready."""
        deadline = time.monotonic() + self._timeout
        launched = False
        while time.monotonic() < deadline:
            postmaster = _read_postmaster(home / _DATA)
            if postmaster is not None and postmaster.is_ready():
                return postmaster
            with _opened(home / _RUNNING) as running:
                if _try_lock(running, fcntl.LOCK_EX) and not (
                    postmaster and postmaster.is_listening()
                ):
                    if launched:
                        raise ServerError(f"PostgreSQL did not start.{_end_of(home / _LOG)}")
                    self._launch(home, running)
                    launched = True
            time.sleep(_POLL_SECONDS)
        raise ServerError(
            f"PostgreSQL in {home} accepts no connections after {self._timeout:g} seconds."
            f"{_end_of(home / _LOG)}"
        )

    def _leave(self, home: Path) -> None:
        """Stop using the server; the caller holds the lock that new users need."""
        self._postmaster = None
        # Opened first, because a temporary server takes its directory with it.
        with _opened(home / _USERS) as users, _opened(home / _RUNNING) as running:
            if self._users_lock is not None:
                os.close(self._users_lock)
                self._users_lock = None
            # Users hold their lock together, the supervisor of a server that stops holds it alone.
            if not _try_lock(users, fcntl.LOCK_EX) and _try_lock(users, fcntl.LOCK_SH):
                return
            fcntl.flock(users, fcntl.LOCK_UN)
            deadline = time.monotonic() + self._timeout
            while not _try_lock(running, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"PostgreSQL in {home} has not stopped after {self._timeout:g} seconds."
                        f"{_end_of(home / _LOG)}"
                    )
                time.sleep(_POLL_SECONDS)
        if self._temporary:
            # The supervisor has done so already, unless the server had been killed before.
            shutil.rmtree(home, ignore_errors=True)
            self._home = None

    def _launch(self, home: Path, running: int) -> None:
        """Create what the server needs, and start it; it is not ready yet.

        Args:
            home: Where it lives.
            running: The descriptor that holds the lock `_RUNNING`, for the server to inherit.
        """
        data, rules, log = home / _DATA, home / _ACCESS_RULES, home / _LOG
        account = _server_account(data)
        binaries = self._binaries
        if not isinstance(binaries, Binaries):
            binaries = find_binaries(binaries)
        binaries = _readable_binaries(binaries, account, home)
        _ensure_data(data, binaries, account, sync=not self._temporary)
        # We hold the lock that every process of a server here inherits, so there is none: what is
        # left is from a server that was killed. Its process id may be another process's by now,
        # and PostgreSQL would then refuse to start.
        (data / "postmaster.pid").unlink(missing_ok=True)

        # Whoever can enter the directory of the socket is the superuser, and with a port every
        # account of this machine.
        allowed = ["local all all trust", "local replication all trust"]
        if self._port is not None:
            allowed += [
                "host all all 127.0.0.1/32 trust",
                "host replication all 127.0.0.1/32 trust",
            ]
        with os.fdopen(_create_file(rules, mode=0o644), "w", encoding="ascii") as file:
            file.write("\n".join([*allowed, ""]))

        sockets = home / _SOCKET
        if _GOOD_SOCKET_DIRECTORY.fullmatch(str(sockets)):
            shutil.rmtree(sockets, ignore_errors=True)
            sockets.mkdir(mode=0o700)
        else:
            sockets = _make_temporary_directory(account, fits=_GOOD_SOCKET_DIRECTORY)
        os.chown(sockets, account.user, account.group)

        settings = {
            # A temporary server does not outlive the operating system: fsync would protect nothing.
            **({"fsync": "off"} if self._temporary else {}),
            **self._settings,
            "hba_file": str(rules),
            "listen_addresses": "" if self._port is None else "127.0.0.1",
            "port": str(self._port or _DEFAULT_PORT),
            "unix_socket_directories": str(sockets),
            "unix_socket_permissions": "0700",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        task: supervisor.Task = {
            "command": [str(binaries.bindir / "postgres"), "-D", str(data), *options],
            "identity": account.identity,
            "running": running,
            "users": str(home / _USERS),
            "timeout": self._timeout / 3,
            "remove_at_end": str(sockets),
            "remove_when_unused": str(home) if self._temporary else None,
        }
        output = _create_file(log, mode=0o600)
        try:
            # Returns as soon as the supervisor has left us.
            subprocess.run(  # noqa: S603 - our own interpreter and program
                [sys.executable, "-I", "-S", supervisor.__file__, json.dumps(task)],
                check=True,
                cwd="/",
                env=_server_environment(),
                pass_fds=[running],
                # Ctrl-C in a terminal is for the program, which then leaves the server in order.
                start_new_session=True,
                stderr=output,
                stdin=subprocess.DEVNULL,
                stdout=output,
            )
        finally:
            os.close(output)


def _end_of(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join([f" The end of {log}:", *lines[-_LOG_LINES:]])


# ------------------------------------------------------------------------------------------- Locks


def _open_lock(path: Path) -> int:
    """Open the file of a lock without locking it, and create it if there is none."""
    # Without O_NOFOLLOW, whoever can write to the directory could have root create any file.
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, mode=0o600)
    except OSError as error:
        raise ServerError(
            f"cannot use {path.parent} for an embedded server: {error.strerror} on {path.name}. "
            "Name a directory that this account can write to."
        ) from error


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open the file of a lock; at the end the lock is released, unless a child inherited it."""
    descriptor = _open_lock(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# ---------------------------------------------------------------------------------- Running server


@dataclass(frozen=True, slots=True)
class _Postmaster:
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
        """Return whether a process listens on the socket, ready or not."""
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as client:
            return client.connect_ex(str(self.socket_directory / f".s.PGSQL.{self.port}")) == 0

    def is_ready(self) -> bool:
        """Return whether the server accepts connections."""
        try:
            connection = psycopg.connect(
                host=str(self.socket_directory),
                port=self.port,
                user=_SUPERUSER,
                dbname="postgres",
                connect_timeout=5,
            )
        except psycopg.OperationalError:
            return False
        connection.close()
        return True


def _read_postmaster(data: Path) -> _Postmaster | None:
    """Read postmaster.pid; None if it is missing, or not yet written to its end."""
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        # The order of the lines is that of pidfile.h in PostgreSQL's sources.
        pid, port, sockets = int(lines[0]), int(lines[3]), lines[4]
    except (FileNotFoundError, IndexError, ValueError):
        return None
    # Empty until the server has created its socket.
    return _Postmaster(pid, port, Path(sockets)) if sockets else None


# ----------------------------------------------------------------------------------------- Account


@dataclass(frozen=True, slots=True)
class _Account:
    """An account of the operating system, by its numbers."""

    user: int
    group: int

    @property
    def name(self) -> str:
        """Its name, or its number if it has none."""
        try:
            return pwd.getpwuid(self.user).pw_name
        except KeyError:
            return str(self.user)

    @property
    def identity(self) -> supervisor.Identity:
        """The arguments of `subprocess` that make a child run as this account."""
        if os.geteuid() != 0:
            return {}
        return {"user": self.user, "group": self.group, "extra_groups": []}

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run `command` as this account to its end, in the root directory, in plain English."""
        return subprocess.run(  # noqa: S603 - our own commands, and no shell
            command,
            check=False,
            capture_output=True,
            cwd="/",
            encoding="utf-8",
            env=_server_environment(),
            errors="replace",
            stdin=subprocess.DEVNULL,
            **self.identity,
        )

    def can_read(self, path: Path) -> bool:
        """Return whether the account can read the file, or enter and list the directory, `path`."""
        # Asked of the system itself: modes alone would miss access lists and mount options.
        test = '[ -r "$1" ] && { [ ! -d "$1" ] || [ -x "$1" ]; }'
        return self.run(["/bin/sh", "-c", test, "sh", str(path)]).returncode == 0


def _server_account(data: Path | None = None) -> _Account:
    """Return the account for a server whose data directory is, or will be, `data`.

    That is the caller's own; for root it is the owner of the data, or else an unprivileged one.
    """
    if os.geteuid() != 0:
        return _Account(os.geteuid(), os.getegid())
    if data is not None and data.is_dir() and (owner := data.stat()).st_uid != 0:
        return _Account(owner.st_uid, owner.st_gid)
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return _Account(entry.pw_uid, entry.pw_gid)
    raise ServerError(
        "PostgreSQL refuses to run as root, and this system has none of the accounts "
        f"{', '.join(_UNPRIVILEGED)} to run it under. Create one, or run as an ordinary user."
    )


def _server_environment() -> dict[str, str]:
    """Return this process's environment without what would change a server's behaviour."""
    # PGDATA, PGPORT and the like belong to the caller's other servers, and so do the passwords and
    # certificates in the caller's home, which the server's account could not even read when it
    # connects to another server. LC_ALL keeps messages in English; the locales of the databases
    # come from initdb's arguments.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "HOME": "/", "LC_ALL": "C"}


# ------------------------------------------------------------------------------------------- Files


def _make_temporary_directory(account: _Account, *, fits: re.Pattern[str] | None = None) -> Path:
    """Create a directory where temporary files belong, owned by us, that `account` can reach.

    Args:
        account: The account that must be able to reach it.
        fits: What its path must match.
    """
    prefix = "citus_analytics-"
    directory = Path(tempfile.mkdtemp(prefix=prefix))
    if (fits is None or fits.fullmatch(str(directory))) and account.can_read(directory.parent):
        return directory
    directory.rmdir()
    # TMPDIR can be a private directory or a long path; this one is short, and shared by all.
    return Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))


def _create_file(path: Path, *, mode: int) -> int:
    """Create the file `path` anew, also where an old one belongs to another account."""
    path.unlink(missing_ok=True)
    # O_EXCL follows no symbolic link that somebody puts there in the meantime.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    # The caller's umask must not hide the rules from the server's account.
    os.fchmod(descriptor, mode)
    return descriptor


def _ensure_data(data: Path, binaries: Binaries, account: _Account, *, sync: bool) -> None:
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
        # Renamed when it is complete: what a process leaves that dies half-way is not used.
        for leftover in data.parent.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=data.parent))
        try:
            os.chown(unfinished, account.user, account.group)
            _check_reach(unfinished, account)
            command = [
                str(binaries.bindir / "initdb"),
                f"--pgdata={unfinished}",
                f"--username={_SUPERUSER}",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                # Whoever starts this directory by hand gets rules that let nobody else in.
                "--auth-local=peer",
                "--auth-host=reject",
            ]
            if binaries.version[0] >= _BUILTIN_PROVIDER_SINCE:
                command.append("--locale-provider=builtin")
            if not sync:
                command.append("--no-sync")
            result = account.run(command)
            if result.returncode != 0:
                raise ServerError(
                    f"initdb of {binaries} failed for {data}:\n{result.stderr.strip()}"
                )
            unfinished.rename(data)
        finally:
            # Nothing is left of it if it has been renamed.
            shutil.rmtree(unfinished, ignore_errors=True)
    _check_reach(data, account)
    major = (data / "PG_VERSION").read_text(encoding="ascii").strip()
    if major != str(binaries.version[0]):
        raise ServerError(
            f"PostgreSQL {major} created {data}, and {binaries} cannot serve it. Name the "
            f"binaries of PostgreSQL {major}, or another directory."
        )


def _check_reach(directory: Path, account: _Account) -> None:
    if not account.can_read(directory):
        raise ServerError(
            f"the account {account.name!r} cannot reach {directory.parent}. PostgreSQL refuses to "
            "run as root and so runs under that account: name a directory below one that "
            "everybody can enter, or run as an ordinary user."
        )


def _readable_binaries(binaries: Binaries, account: _Account, home: Path) -> Binaries:
    """Return `binaries`, or a copy of them below `home` if `account` cannot use the original.

    As root, a virtual environment often lies where no other account may look (root's home, or
    anything made under a strict umask), and the server must not run as root. The modes of those
    directories are not ours to change.

    Raises:
        ServerError: The account cannot use them, and they cannot be copied: only the wheel's
            programs find their files wherever they are.
    """
    try:
        printed = account.run([str(binaries.bindir / "postgres"), "--version"])
        usable = printed.returncode == 0 and account.can_read(binaries.bindir.parent)
    except PermissionError:
        usable = False
    if usable:
        return binaries
    if binaries.origin != "wheel":
        raise ServerError(
            f"the account {account.name!r}, which PostgreSQL runs under because it refuses to run "
            f"as root, cannot use {binaries}. Make them readable to that account, or name others."
        )
    prefix = binaries.bindir.parent
    package = prefix.parent
    target = home / f"postgresql-{'.'.join(map(str, binaries.version))}"
    if not target.is_dir():
        unfinished = home / f"{_UNFINISHED}{target.name}"
        shutil.rmtree(unfinished, ignore_errors=True)
        for part in ("bin", "lib", "share"):
            shutil.copytree(prefix / part, unfinished / package.name / prefix.name / part)
        # auditwheel puts libraries beside the package, and only there do the programs look for
        # them.
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, unfinished / libraries.name)
        for path in (unfinished, *unfinished.rglob("*")):
            path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
        unfinished.rename(target)
    return replace(binaries, bindir=target / package.name / prefix.name / "bin")
