"""Ctrl-C and SIGTERM for a command that runs until it is told to end."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Ends at once what can be done again, and lets finish what is held.

    Attributes:
        asked: Whether a signal has come.
        forced: Whether a further one has come while something was held: then that ends as well, and
            whatever comes after that does not take it back.
    """

    def __init__(self) -> None:
        self.asked = False
        self.forced = False
        self._held = False

    @contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals while the block runs."""
        before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Do not let a signal interrupt the block; `asked` tells of it."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def wait(self, seconds: float) -> bool:
        """Wait; return whether a signal has come before."""
        if not self.asked:
            time.sleep(seconds)
        return self.asked

    def _handle(self, *_: object) -> None:
        self.forced = self.forced or (self._held and self.asked)
        self.asked = True
        if self.forced or not self._held:
            raise KeyboardInterrupt
