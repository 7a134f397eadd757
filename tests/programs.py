"""PostgreSQL's own programs, run against the servers of the tests."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from citus_analytics.server import find_binaries
from tests.servers import citus_binaries

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL

    from tests.servers import DatabaseServer


def psql(server: DatabaseServer, url: URL, script: str, *, cwd: Path | None = None) -> str:
    """Run a script through psql, stopping at the first error; return what it printed.

    Rows come unaligned and without headers.
    """
    options = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "-v", "ON_ERROR_STOP=1"]
    return _run(server, "psql", [*options, "-d", _dsn(url), "-f", "-"], stdin=script, cwd=cwd)


def schema_dump(server: DatabaseServer, url: URL) -> str:
    """Return the schema of a database as pg_dump writes it, but for the key of the dump itself."""
    dump = _run(server, "pg_dump", ["--schema-only", "-d", _dsn(url)])
    return "\n".join(line for line in dump.splitlines() if "restrict" not in line)


def _dsn(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def _run(
    server: DatabaseServer,
    program: str,
    arguments: list[str],
    *,
    stdin: str = "",
    cwd: Path | None = None,
) -> str:
    binaries = citus_binaries() if server.kind == "citus" else find_binaries()
    assert binaries is not None
    done = subprocess.run(
        [str(binaries.bindir / program), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
