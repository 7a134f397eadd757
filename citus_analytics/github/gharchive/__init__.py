"""GitHub's events as rows: GH Archive's files since 2015, and what the events API answers.

Nothing here knows a database. Bytes become events (`texts`), and an event becomes a row of
`github_events` in COPY's text format together with the record of its user (`convert`), or it
is refused with the reason.

    for text in texts(blocks):
        for outcome in convert(text):
            ...  # an EventRow or a Reject

`convert_event` does the same for one event that is already a Python object, as an application or a
poller of the events API has it.

Definitions: GitHub's documentation, "GitHub event types"; https://www.gharchive.org for the files.
"""

from __future__ import annotations

from citus_analytics.github.gharchive._convert import (
    OldFormatError,
    convert,
    convert_event,
    is_unfinished,
)
from citus_analytics.github.gharchive._texts import LONGEST_TEXT, Text, texts
from citus_analytics.github.gharchive._types import EventRow, Reject, UserRecord

__all__ = [
    "LONGEST_TEXT",
    "EventRow",
    "OldFormatError",
    "Reject",
    "Text",
    "UserRecord",
    "convert",
    "convert_event",
    "is_unfinished",
    "texts",
]
