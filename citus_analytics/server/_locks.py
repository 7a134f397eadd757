"""Advisory locks on files, the one source of truth about who uses a server.

The kernel gives a lock back when the last process that holds it is gone, whatever killed it. That
is why nothing here trusts a process id, which a later process can have: a lock cannot lie.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from citus_analytics.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POLL_SECONDS = 0.02


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open the lock file `path` without locking it, and create it if there is none.

    Raises:
        ServerError: The directory belongs to another account.
    """
    descriptor = _open(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold `path` alone; wait for as long as another process holds it."""
    with opened(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def shared(path: Path) -> int:
    """Hold `path` together with others; closing the returned descriptor lets it go."""
    descriptor = _open(path)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def try_alone(descriptor: int) -> bool:
    """Hold the lock alone if nobody else holds it, and tell whether that succeeded.

    A child process that inherits the descriptor holds the lock too, for as long as it lives.
    """
    return _try(descriptor, fcntl.LOCK_EX)


def held_by_several(descriptor: int) -> bool:
    """Tell whether others hold the lock in a way that lets one more join them."""
    if _try(descriptor, fcntl.LOCK_EX):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return False
    if not _try(descriptor, fcntl.LOCK_SH):
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def wait_until_free(descriptor: int, seconds: float) -> bool:
    """Wait until nobody holds the lock; False if somebody still does after `seconds`."""
    deadline = time.monotonic() + seconds
    while not _try(descriptor, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def _open(path: Path) -> int:
    # Without O_NOFOLLOW, whoever can write to the directory could have root create any file.
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(path, flags, mode=0o600)
    except OSError as error:
        raise ServerError(
            f"cannot use {path.parent} for an embedded server: {error.strerror} on {path.name}. "
            "Name a directory that this account can write to."
        ) from error


def _try(descriptor: int, operation: int) -> bool:
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
