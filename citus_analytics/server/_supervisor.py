"""The process that a server belongs to, so that no server outlives those who use it.

A server that is a child of the Python program that started it stays behind when that program dies
by SIGKILL: no handler, `finally` or `atexit` runs then. So the server is this process's child, and
this process waits for the lock that every user of the server holds. The kernel releases a lock
with its holder, whatever happens to it; when this process gets the lock, nobody is left, and it
stops the server. A death signal (PR_SET_PDEATHSIG) would exist on Linux only, follow the thread
and not the process, and know of one user only.

It runs as a program, with the standard library alone (`python -I -S`), because importing this
package would cost more than starting PostgreSQL. Its one argument is a `Supervised` as JSON.
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


class Supervised(TypedDict):
    """What the supervisor has to know.

    Attributes:
        command: The server's command line.
        identity: The account that it runs under.
        running: The descriptor that the server inherits, and whose lock it so holds.
        users: The path of the lock that users of the server hold together.
        patience: Seconds that a shutdown may take before the next, harder one is tried.
        afterwards: Directories to remove when the server has ended.
        temporary: Directories to remove when nobody uses the server any longer.
    """

    command: list[str]
    identity: Identity
    running: int
    users: str
    patience: float
    afterwards: list[str]
    temporary: list[str]


def supervise(supervised: Supervised) -> None:
    """Run the server until it ends or nobody uses it, then clean up."""
    server = subprocess.Popen(  # noqa: S603 - the command that our own process built
        supervised["command"],
        cwd="/",
        pass_fds=[supervised["running"]],
        stdin=subprocess.DEVNULL,
        **supervised["identity"],
    )
    # The machine shuts down: so does the server.
    signal.signal(signal.SIGTERM, lambda *_: server.send_signal(signal.SIGINT))
    abandoned = threading.Event()
    threading.Thread(
        target=_stop_when_abandoned, args=(server, supervised, abandoned), daemon=True
    ).start()
    server.wait()
    _remove(supervised["afterwards"])
    if abandoned.is_set():
        _remove(supervised["temporary"])


def _stop_when_abandoned(
    server: subprocess.Popen[bytes], supervised: Supervised, abandoned: threading.Event
) -> None:
    descriptor = os.open(supervised["users"], os.O_RDWR)
    # Held until this process ends: a new user waits until the old server is gone.
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    abandoned.set()
    # PostgreSQL's fast shutdown, its immediate one, and the end of all patience.
    for harder in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        server.send_signal(harder)
        try:
            server.wait(timeout=supervised["patience"])
        except subprocess.TimeoutExpired:
            continue
        return


def _remove(directories: list[str]) -> None:
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    # The starter waits for its child: leave it at once, and become a child of init.
    if os.fork() == 0:
        supervise(json.loads(sys.argv[1]))
