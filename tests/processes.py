"""Other processes, watched from the outside."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import URL, make_url

import citus_analytics
from tests.servers import execute, query_text

if TYPE_CHECKING:
    from collections.abc import Callable


# Seconds that another process may take.
TIMEOUT = 60.0
IS_ROOT = os.geteuid() == 0

# Starts a server in the directory that its argument names (none: a temporary one), prints a line
# about it, and leaves it when its standard input ends.
_USER = """
import sys
from citus_analytics.server import EmbeddedServer
with EmbeddedServer(*sys.argv[1:]) as server:
    print(server.pid, server.directory, server.url.render_as_string(), flush=True)
    sys.stdin.read()
"""


class ServerUser:
    """Another Python process that uses a server.

    Args:
        arguments: The directory of the server; none for a temporary one.
        interpreter: The Python to run.
        account: The account to run under, which only root can choose; empty for the caller's own.
    """

    def __init__(
        self, *arguments: str, interpreter: str = sys.executable, account: str = ""
    ) -> None:
        path = [str(Path(citus_analytics.__file__).parents[1]), *sys.path]
        self.process = subprocess.Popen(
            [interpreter, "-c", _USER, *arguments],
            cwd="/",
            env={"PYTHONPATH": os.pathsep.join(path), "PATH": os.defpath},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
            user=account or None,
            group=pwd.getpwnam(account).pw_gid if account else None,
            extra_groups=[] if account else None,
        )

    def wait_until_started(self) -> tuple[int, Path, URL]:
        """Return the server's process id, its directory and its address."""
        assert self.process.stdout is not None
        pid, directory, url = self.process.stdout.readline().split()
        return int(pid), Path(directory), make_url(url)

    def leave(self) -> None:
        """Let the process leave the server and end."""
        self.process.communicate(timeout=TIMEOUT)
        assert self.process.returncode == 0

    def kill(self) -> None:
        """Kill the process, which cannot leave the server then."""
        self.process.kill()
        self.process.communicate(timeout=TIMEOUT)


def eventually(holds: Callable[[], bool]) -> bool:
    """Wait until `holds` returns true; return whether it did."""
    deadline = time.monotonic() + TIMEOUT
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def wait_for_daemon(url: URL) -> None:
    """Wait until Citus's daemon of a database has looked at its transactions, and rests.

    It starts with the first query there, and looks at once; then every minute, or as it is set.
    """
    execute(url, "SELECT count(*) FROM pg_dist_partition")
    resting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND backend_type LIKE 'Citus Maintenance%%' AND wait_event = 'Extension'"
    )
    assert eventually(lambda: query_text(url, resting) == "1")


def is_alive(pid: int) -> bool:
    """Return whether there is a process with this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
