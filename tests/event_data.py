"""Made-up events in JSON, as GH Archive has them, and ways to damage them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

NOON = datetime(2025, 1, 1, 12, tzinfo=UTC)


def api_event(number: int, *, user: int | None = None, **changes: Any) -> dict[str, Any]:
    """Return an event; None among the changes takes something out."""
    user_id = number % 7 + 1 if user is None else user
    login = f"user-{user_id}"
    event: dict[str, Any] = {
        "id": str(1_000_000 + number),
        "type": "PushEvent" if number % 2 else "WatchEvent",
        "actor": {
            "id": user_id,
            "login": login,
            "gravatar_id": "",
            "url": f"https://api.github.com/users/{login}",
            "avatar_url": f"https://avatars.githubusercontent.com/u/{user_id}?",
        },
        "repo": {"id": number % 5, "name": f"some/repo-{number % 5}"},
        "payload": {"size": 2, "distinct_size": 1, "message": 'tab \t, "quotes", \\, \n and ü 😀'},
        "public": True,
        "created_at": (NOON + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **changes,
    }
    return {name: value for name, value in event.items() if value is not None}


def line(number: int, **changes: Any) -> bytes:
    """Return an event as a line, its line end included."""
    return json.dumps(api_event(number, **changes)).encode() + b"\n"


def refused_line(number: int) -> bytes:
    """Return an event as a line, with a number that JSON has, and no numeric of PostgreSQL's."""
    return line(number, payload={"number": 0}).replace(b'"number": 0', b'"number": 1e999999')


def hour(count: int) -> bytes:
    """Return a file of so many events."""
    return b"".join(line(number) for number in range(count))
