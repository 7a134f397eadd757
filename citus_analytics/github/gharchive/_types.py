"""What an event becomes: a row with its user, or a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from datetime import datetime


class UserRecord(NamedTuple):
    """What an event says about its actor, in the columns of `github_users` after `user_id`.

    What the event leaves out, or leaves empty, is None: `display_login` is not there before 2016,
    and `gravatar_id` has been empty for years.
    """

    url: str | None
    login: str | None
    avatar_url: str | None
    gravatar_id: str | None
    display_login: str | None


class EventRow(NamedTuple):
    """One event that can be stored. A named tuple, because there are millions of them.

    Attributes:
        event_id: GitHub's id of the event.
        user_id: GitHub's id of the actor.
        created_at: When the event happened, an aware datetime.
        copy: The row of `github_events` in COPY's text format, its line end included.
        user: What the event says about its actor.
        line: The line of the source on which the event starts, counted from 1; 0 for none.
        text: The event as it was, in JSON.
    """

    event_id: int
    user_id: int
    created_at: datetime
    copy: bytes
    user: UserRecord
    line: int
    text: bytes


@dataclass(frozen=True, slots=True)
class Reject:
    """One event, or what stands in its place, that cannot be stored.

    Attributes:
        line: The line of the source on which it starts, counted from 1; 0 for an event that
            does not come from lines.
        reason: Why it cannot be stored, for people.
        text: The bytes as they were. Of a line longer than `LONGEST_TEXT`, its beginning.
    """

    line: int
    reason: str
    text: bytes
