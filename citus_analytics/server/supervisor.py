"""The process that a server belongs to, so that no server outlives those who use it.

A server that is a child of the Python program that started it stays behind when that program dies
by SIGKILL: no handler, `finally` or `atexit` runs then. So the server is this process's child, and
this process waits for the lock that every user of the server holds. The kernel releases a lock
with its holder, whatever happens to it; when this process gets the lock, nobody is left, and it
stops the server. A death signal (PR_SET_PDEATHSIG) would exist on Linux only, follow the thread
and not the process, and know of one user only.

It runs as a program, with the standard library alone (`python -I -S`), because importing this
package would cost more than starting PostgreSQL. Its one argument is a `Task` as JSON.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import TypedDict


class Identity(TypedDict, total=False):
    """The arguments of `subprocess.Popen` that choose an account; none, for one's own."""

    user: int
    group: int
    extra_groups: list[int]


class Task(TypedDict):
    """What to run, and when to stop it.

    Attributes:
        command: The server's command line.
        identity: The account that it runs under.
        running: The descriptor of a lock, which every process of the server inherits.
        users: The path of the lock that users of the server hold together.
        timeout: Seconds that a shutdown may take before the next, harder one is tried.
        remove_at_end: A directory to remove when the server has ended.
        remove_when_unused: A directory to remove when the server has ended because nobody used it
            any longer.
    """

    command: list[str]
    identity: Identity
    running: int
    users: str
    timeout: float
    remove_at_end: str
    remove_when_unused: str | None


def supervise(task: Task) -> None:
    """Run the server until it ends or nobody uses it, then clean up."""
    server = subprocess.Popen(  # noqa: S603 - the command that our own process built
        task["command"],
        cwd="/",
        pass_fds=[task["running"]],
        stdin=subprocess.DEVNULL,
        **task["identity"],
    )
    # The machine shuts down: so does the server.
    signal.signal(signal.SIGTERM, lambda *_: server.send_signal(signal.SIGINT))
    unused = threading.Event()

    def stop_when_unused() -> None:
        descriptor = os.open(task["users"], os.O_RDWR)
        # Held until this process ends: a new user waits until the old server is gone.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        unused.set()
        # PostgreSQL's fast shutdown, its immediate one, and then none of its own.
        for harder in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            server.send_signal(harder)
            try:
                server.wait(timeout=task["timeout"])
            except subprocess.TimeoutExpired:
                continue
            return

    threading.Thread(target=stop_when_unused, daemon=True).start()
    server.wait()
    shutil.rmtree(task["remove_at_end"], ignore_errors=True)
    if unused.is_set() and task["remove_when_unused"] is not None:
        shutil.rmtree(task["remove_when_unused"], ignore_errors=True)


if __name__ == "__main__":
    # The starter waits for its child: leave it at once, and become a child of init.
    if os.fork() == 0:
        supervise(json.loads(sys.argv[1]))
