"""What is in the `payload` of a made-up event, by the type of the event.

The names and the types of the fields are those of GitHub's events API; of its hundreds of fields
there are those that people count and search for. A payload here is a pattern: it may say
`NUMBER`, `USER_ID` and `SHA`, which differ from event to event and are filled in later.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, TypeAlias

Payload: TypeAlias = dict[str, Any]
Chance: TypeAlias = Callable[[], float]

# Two spellings, for a JSON number and for a part of a JSON string; see `as_pattern`.
NUMBER: Final = "%(number)s"
USER_ID: Final = "%(user_id)s"
# The first 32 of the 40 hexadecimal digits of a commit; each commit adds its own eight.
SHA: Final = "%(sha)s"

# How many different payloads stand for a thousandth of the events.
_VARIANTS: Final = 2
_USER: Final = {"id": USER_ID, "login": f"user-{USER_ID}"}
_AUTHOR: Final = {"name": f"user-{USER_ID}", "email": f"user-{USER_ID}@example.com"}
_TITLES: Final = (
    "Fix the build",
    "Add tests",
    "Update README",
    "Bump version",
    'Say "why" in comments',
    "Merge branch main",
    "Remove unused code",
    "Handle empty input, too",
    "First draft",
    "Faster\nand simpler",
    "Rename the option",
    "Support time zones",
)


def payloads(chance: Chance, *, pushes_without_size: float) -> list[tuple[str, Payload]]:
    """Return some thousand types and payloads, each as likely as the others."""
    bare = round(pushes_without_size * _PUSHES * _VARIANTS)
    kinds = [
        ("PushEvent", bare, _bare_push),
        ("PushEvent", _PUSHES * _VARIANTS - bare, _push),
        *((event_type, share * _VARIANTS, make) for event_type, share, make in _OTHERS),
    ]
    return [(event_type, make(chance)) for event_type, count, make in kinds for _ in range(count)]


def as_pattern(payload: Payload) -> str:
    """Render a payload as JSON for `%` to fill in: a string that is all number becomes one."""
    text = json.dumps(payload)
    return text.replace(f'"{NUMBER}"', NUMBER).replace(f'"{USER_ID}"', USER_ID)


def skewed(chance: float, count: int) -> int:
    """Return a number from 1 to count; about a third of them fall in the first hundredth."""
    # Zipf-like, but only multiplied: a power or a logarithm may differ from machine to machine.
    square = chance * chance
    return int(square * square * count) + 1


def _bare_push(chance: Chance) -> Payload:
    return {
        "push_id": NUMBER,
        "ref": f"refs/heads/{_branch(chance)}",
        "head": _sha(0),
        "before": _sha(int(chance() * 2**32)),
    }


def _push(chance: Chance) -> Payload:
    size, distinct = _push_size(chance)
    # GitHub lists at most twenty commits, whatever the size; the last one is the head.
    commits = [
        {
            "sha": _sha(later),
            "author": _AUTHOR,
            "message": _title(chance),
            "distinct": later < distinct,
        }
        for later in reversed(range(min(size, 20)))
    ]
    counts = {"size": size, "distinct_size": distinct, "commits": commits}
    return _bare_push(chance) | counts


def _push_size(chance: Chance) -> tuple[int, int]:
    """Return the number of commits of a push, and how many of them are new."""
    kind = chance()
    if kind < 0.8:
        return 1, int(kind < 0.79)
    if kind < 0.995:
        size = skewed(chance(), 18) + 1
        return size, size if chance() < 0.9 else int(chance() * size)
    # Now and then whole histories are pushed, and empty branches.
    size = int(chance() * 1000)
    return size, int(chance() * size)


def _watch(_: Chance) -> Payload:
    return {"action": "started"}


def _create(chance: Chance) -> Payload:
    kind = chance()
    if kind < 0.4:
        ref: Payload = {"ref": None, "ref_type": "repository"}
    elif kind < 0.85:
        ref = {"ref": _branch(chance), "ref_type": "branch"}
    else:
        ref = {"ref": _tag(chance), "ref_type": "tag"}
    about = {"master_branch": "main", "description": _title(chance), "pusher_type": "user"}
    return ref | about


def _delete(chance: Chance) -> Payload:
    return {"ref": _branch(chance), "ref_type": "branch", "pusher_type": "user"}


def _issue(chance: Chance) -> Payload:
    opened = chance() < 0.5
    return {"action": "opened" if opened else "closed", "issue": _thread(chance, opened=opened)}


def _issue_comment(chance: Chance) -> Payload:
    return {"action": "created", "issue": _thread(chance), "comment": _comment(chance)}


def _pull_request(chance: Chance) -> Payload:
    opened = chance() < 0.5
    thread = _thread(chance, opened=opened)
    merged = not opened and chance() < 0.7
    return {
        "action": "opened" if opened else "closed",
        "number": thread["number"],
        "pull_request": thread | {"merged": merged},
    }


def _review_comment(chance: Chance) -> Payload:
    return {"action": "created", "comment": _comment(chance), "pull_request": _thread(chance)}


def _commit_comment(chance: Chance) -> Payload:
    return {"comment": _comment(chance) | {"commit_id": _sha(0)}}


def _fork(chance: Chance) -> Payload:
    name = f"fork-{int(chance() * 1000)}"
    full_name = f"user-{USER_ID}/{name}"
    return {"forkee": {"id": NUMBER, "name": name, "full_name": full_name, "private": False}}


def _gollum(chance: Chance) -> Payload:
    page = {"page_name": f"page-{int(chance() * 100)}", "title": _title(chance)}
    return {"pages": [page | {"action": "edited", "sha": _sha(0)}]}


def _release(chance: Chance) -> Payload:
    release = {"id": NUMBER, "tag_name": _tag(chance), "draft": False, "prerelease": False}
    return {"action": "published", "release": release | {"author": _USER}}


def _member(_: Chance) -> Payload:
    return {"action": "added", "member": _USER}


def _public(_: Chance) -> Payload:
    return {}


def _thread(chance: Chance, *, opened: bool = True) -> Payload:
    number = int(chance() * 5000) + 1
    state = "open" if opened else "closed"
    return {"id": NUMBER, "number": number, "title": _title(chance), "state": state}


def _comment(chance: Chance) -> Payload:
    return {"id": NUMBER, "user": _USER, "body": _title(chance)}


def _sha(commit: int) -> str:
    return f"{SHA}{commit:08x}"


def _branch(chance: Chance) -> str:
    return "main" if chance() < 0.7 else f"topic-{int(chance() * 1000)}"


def _tag(chance: Chance) -> str:
    return f"v{int(chance() * 9)}.{int(chance() * 20)}"


def _title(chance: Chance) -> str:
    return _TITLES[int(chance() * len(_TITLES))]


# What follows the pushes, in thousandths: the shares of an hour of GitHub's timeline.
_PUSHES: Final = 518
_OTHERS: Final[tuple[tuple[str, int, Callable[[Chance], Payload]], ...]] = (
    ("WatchEvent", 120, _watch),
    ("CreateEvent", 119, _create),
    ("IssueCommentEvent", 69, _issue_comment),
    ("PullRequestEvent", 44, _pull_request),
    ("IssuesEvent", 44, _issue),
    ("ForkEvent", 34, _fork),
    ("DeleteEvent", 19, _delete),
    ("GollumEvent", 15, _gollum),
    ("PullRequestReviewCommentEvent", 6, _review_comment),
    ("CommitCommentEvent", 5, _commit_comment),
    ("ReleaseEvent", 4, _release),
    ("MemberEvent", 2, _member),
    ("PublicEvent", 1, _public),
)
