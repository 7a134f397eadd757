"""Which rejects have been told of already, for as long as the process lives."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from citus_analytics.github.events import Reject

_MOST: Final = 3000
"""As many as the largest poll may have."""


class ToldRejects:
    """The rejects of the last polls, to tell of each once while further polls have it too.

    After a poll that had all pages, those of the polls before are forgotten. A poll without all
    pages may lack some that the next one has again, so then they are kept: the latest ones, and
    no more than the largest poll may have, however many such polls there are.
    """

    __slots__ = ("_told",)

    def __init__(self) -> None:
        # Of a reject, its digest: the text of an event may be long.
        self._told: dict[bytes, None] = {}

    def new_ones(self, rejects: Iterable[Reject], *, whole: bool) -> list[Reject]:
        """Return those that are to be told of, each text once, and note that they are told.

        Args:
            rejects: The rejects of a poll.
            whole: Whether the poll had all pages.
        """
        marked = {sha256(reject.text).digest(): reject for reject in rejects}
        new = [reject for mark, reject in marked.items() if mark not in self._told]
        kept = [] if whole else [mark for mark in self._told if mark not in marked]
        self._told = dict.fromkeys([*kept, *marked][-_MOST:])
        return new
