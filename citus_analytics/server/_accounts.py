"""The account that a server runs under when Python runs as root, which PostgreSQL refuses to do."""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from citus_analytics.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from citus_analytics.server._supervisor import Identity

# The account made for the purpose, then the one that owns nothing.
_UNPRIVILEGED = ("postgres", "nobody")
_TEMPORARY_PREFIX = "citus_analytics-"


@dataclass(frozen=True, slots=True)
class Account:
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

    def can_read(self, path: Path) -> bool:
        """Tell whether the account can read the file, or enter and list the directory, `path`."""
        # Asked of the system itself: modes alone would miss access lists and mount options.
        test = '[ -r "$1" ] && { [ ! -d "$1" ] || [ -x "$1" ]; }'
        command = ["/bin/sh", "-c", test, "sh", str(path)]
        return self.run(command).returncode == 0

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run `command` as this account to its end, in the root directory, in plain English."""
        return subprocess.run(  # noqa: S603 - our own commands, and no shell
            command,
            check=False,
            capture_output=True,
            cwd="/",
            encoding="utf-8",
            env=server_environment(),
            errors="replace",
            stdin=subprocess.DEVNULL,
            **self.identity,
        )

    @property
    def identity(self) -> Identity:
        """The arguments of `subprocess` that make a child run as this account."""
        if os.geteuid() != 0:
            return {}
        return {"user": self.user, "group": self.group, "extra_groups": []}


def server_account(data: Path | None = None) -> Account:
    """Choose the account for a server, whose data directory is, or will be, `data`.

    That is the caller's own; for root it is the owner of the data, or else an unprivileged one.

    Raises:
        ServerError: Root has no unprivileged account to use.
    """
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    if data is not None and data.is_dir() and (owner := data.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise ServerError(
        "PostgreSQL refuses to run as root, and this system has none of the accounts "
        f"{', '.join(_UNPRIVILEGED)} to run it under. Create one, or run as an ordinary user."
    )


def make_temporary_directory(
    account: Account, *, fits: Callable[[Path], bool] = lambda _: True
) -> Path:
    """Create a directory where temporary files belong, owned by us, that `account` can reach.

    Args:
        account: The account that must come through to it.
        fits: Tells whether the name of the directory is acceptable.
    """
    directory = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX))
    if fits(directory) and account.can_read(directory.parent):
        return directory
    directory.rmdir()
    # TMPDIR can be a directory of one's own, or a long one; this one is everybody's, and short.
    return Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX, dir="/tmp"))


def server_environment() -> dict[str, str]:
    """Return this process's environment without what would change a server's behaviour."""
    # PGDATA, PGPORT and the like belong to the caller's other servers, and so do the passwords and
    # certificates in the caller's home, which the server's account could not even read when it
    # connects to another server. LC_ALL keeps messages in English; the locales of the databases
    # come from initdb's arguments.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    return {**kept, "HOME": "/", "LC_ALL": "C"}
