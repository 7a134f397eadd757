"""Made-up GitHub events and users, as many as wanted and the same every time.

The rows are CSV in the tutorial's layout: nine columns for `github_events`, six for
`github_users`, no header. They have the shapes that make real events interesting: half of them are
pushes, a few users and repositories have most of the events, some minutes are several times
busier than others, and `payload` differs by type. They hold nobody's personal data.

    sample = Sample(events=1_000_000, since=since, until=until)
    with open("events.csv", "wb") as file:
        file.writelines(sample.events_csv())
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from citus_analytics.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Payload: TypeAlias = dict[str, Any]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ROWS_A_BLOCK: Final = 1000
_MINUTES_A_DAY: Final = 1440

# What differs from event to event in a payload, to be filled in by `%`: a string that is nothing
# but a number becomes a JSON number. `_SHA` is the first 32 of the 40 hexadecimal digits of a
# commit; each commit adds eight of its own.
_NUMBER: Final = "%(number)s"
_USER_ID: Final = "%(user_id)s"
_SHA: Final = "%(sha)s"

# Multiplied by it, consecutive numbers look random, and stay different.
_GOLDEN_RATIO: Final = 0x9E3779B97F4A7C15F39CC0605CEDC835
_SHA_BITS: Final = (1 << 128) - 1

# How many different payloads stand for a thousandth of the events.
_VARIANTS: Final = 2
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What to generate; equal samples give equal bytes, on every version of Python.

    Users and repositories depend on their numbers alone, so samples that differ in anything else
    are about the same people: generate a later batch with another `first_event_id` and window.

    Attributes:
        events: How many events.
        since: The earliest possible time of an event; aware.
        until: All events are earlier than this; aware. Times are whole seconds, as GitHub's are.
        users: How many users there are. The first ones have most of the events.
        repositories: How many repositories there are, likewise.
        first_event_id: The `event_id` of the first event; the others follow without a gap.
        pushes_without_size: The share of pushes, from 0 to 1, that have no `size`,
            `distinct_size` and `commits`, like all of GitHub's since October 2025.
        seed: Another seed gives other events of the same kind.

    Raises:
        ArgumentError: A count is too small, the share is not from 0 to 1, a time is naive, or no
            whole second lies between `since` and `until`.
    """

    events: int
    since: datetime
    until: datetime
    users: int = 10_000
    repositories: int = 20_000
    first_event_id: int = 1
    pushes_without_size: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("events", 0), ("users", 1), ("repositories", 1)):
            if getattr(self, name) < least:
                raise ArgumentError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("since", "until"):
            if getattr(self, name).utcoffset() is None:
                raise ArgumentError(
                    f"{name} must be an aware datetime, but {getattr(self, name)!r} is naive: "
                    "give it a tzinfo, for example datetime.UTC"
                )
        if _whole_seconds(self.since) >= _whole_seconds(self.until):
            raise ArgumentError(
                f"no whole second lies between since ({self.since}) and until ({self.until}): "
                "make until later"
            )
        if not 0 <= self.pushes_without_size <= 1:
            raise ArgumentError(
                f"pushes_without_size must be from 0 to 1, not {self.pushes_without_size}"
            )

    def events_csv(self) -> Iterator[bytes]:
        """Yield the events as CSV, a thousand rows in each block, minute after minute.

        The columns are those of `github_events`: event_id, event_type, event_public, repo_id,
        payload, repo, user_id, org (empty, that is NULL, in about 70 % of rows), created_at.
        Within a minute the rows are in no order, as on GitHub.
        """
        # Of all that `Random` offers, only random() is promised never to change.
        chance = Random(self.seed).random  # noqa: S311
        time = _times(self, chance)
        patterns = []
        for event_type, payload in _payloads(chance, self.pushes_without_size):
            details = json.dumps(payload)
            for number in (_NUMBER, _USER_ID):
                details = details.replace(f'"{number}"', number)
            details = details.replace('"', '""')
            patterns.append(
                f'%(number)s,{event_type},t,%(repo_id)s,"{details}",%(repo)s,%(user_id)s,%(org)s,'
                "%(created_at)s\n"
            )

        def row(number: int) -> str:
            event_id = self.first_event_id + number
            user_id = _skewed(chance(), self.users)
            # Half of the time people work on a repository of their own.
            own = chance() < 0.5 and user_id <= self.repositories
            repo_id = user_id if own else _skewed(chance(), self.repositories)
            repo, org = _repository(repo_id, self.users)
            return patterns[int(chance() * len(patterns))] % {
                "number": str(event_id),
                "user_id": str(user_id),
                "repo_id": repo_id,
                "repo": repo,
                "org": org,
                "sha": (event_id * _GOLDEN_RATIO & _SHA_BITS).to_bytes(16, "big").hex(),
                "created_at": time(number),
            }

        for first in range(0, self.events, _ROWS_A_BLOCK):
            block = range(first, min(first + _ROWS_A_BLOCK, self.events))
            yield "".join([row(number) for number in block]).encode("ascii")

    def users_csv(self) -> Iterator[bytes]:
        """Yield the users as CSV, a thousand rows in each block: one row for every user.

        The columns are those of `github_users`: user_id, url, login, avatar_url, gravatar_id
        (empty), display_login.
        """
        for first in range(1, self.users + 1, _ROWS_A_BLOCK):
            block = range(first, min(first + _ROWS_A_BLOCK, self.users + 1))
            yield "".join(
                [
                    f"{user_id},https://api.example.com/users/user-{user_id},user-{user_id},"
                    f"https://avatars.example.com/u/{user_id},,user-{user_id}\n"
                    for user_id in block
                ]
            ).encode("ascii")


def _times(sample: Sample, chance: Callable[[], float]) -> Callable[[int], str]:
    """Return a function that gives the time of the event at a position, as text.

    A day is a list of minutes in which a busy minute stands more often than a quiet one; the
    events are spread evenly over that list, again and again, to the end of the window. So memory
    and work are the same for an hour and for a century.
    """
    # One minute in every quarter of an hour is several times busier than the others.
    weights = [2 + int(chance() * 3) for _ in range(_MINUTES_A_DAY)]
    for quarter in range(0, _MINUTES_A_DAY, 15):
        weights[quarter + int(chance() * 15)] = 12 + int(chance() * 13)
    minutes = [minute for minute, weight in enumerate(weights) for _ in range(weight)]
    start = _whole_seconds(sample.since)
    seconds = _whole_seconds(sample.until) - start
    full_days, minutes_left = divmod(-(-seconds // 60), _MINUTES_A_DAY)
    units = full_days * len(minutes) + list(accumulate(weights, initial=0))[minutes_left]
    first = _EPOCH.replace(tzinfo=None) + timedelta(seconds=start)

    @lru_cache(maxsize=1024)
    def rendered(second: int) -> str:
        return (first + timedelta(seconds=second)).isoformat() + "Z"

    def time(number: int) -> str:
        day, unit = divmod(number * units // sample.events, len(minutes))
        minute = (day * _MINUTES_A_DAY + minutes[unit]) * 60
        # The window may end within its last minute.
        return rendered(minute + int(chance() * min(60, seconds - minute)))

    return time


def _whole_seconds(time: datetime) -> int:
    """Return the seconds from 1970 to the first whole second that is not before this time."""
    return -((_EPOCH - time) // timedelta(seconds=1))


def _skewed(chance: float, count: int) -> int:
    """Return a number from 1 to count; about a third of them fall in the first hundredth."""
    # Zipf-like, but only multiplied: a power or a logarithm may differ from machine to machine.
    square = chance * chance
    return int(square * square * count) + 1


def _repository(repo_id: int, users: int) -> tuple[str, str]:
    """Return the columns repo and org; 30 % of the repositories belong to an organization."""
    if repo_id % 10 in (3, 6, 9):
        owner = f"org-{repo_id // 10 + 1}"
        org = (
            f'"{{""id"": {repo_id // 10 + 1}, ""login"": ""{owner}"", ""gravatar_id"": """", '
            f'""url"": ""https://api.example.com/orgs/{owner}""}}"'
        )
    else:
        owner, org = f"user-{(repo_id - 1) % users + 1}", ""
    name = f"{owner}/repo-{repo_id}"
    url = f"https://api.example.com/repos/{name}"
    return f'"{{""id"": {repo_id}, ""name"": ""{name}"", ""url"": ""{url}""}}"', org


def _payloads(chance: Callable[[], float], pushes_without_size: float) -> list[tuple[str, Payload]]:
    """Return some thousand types and payloads, each as likely as the others.

    The names and types of the fields are those of GitHub's events API; of its hundreds of fields
    there are those that people count and search for.
    """
    user = {"id": _USER_ID, "login": f"user-{_USER_ID}"}
    author = {"name": f"user-{_USER_ID}", "email": f"user-{_USER_ID}@example.com"}

    def sha(commit: int) -> str:
        return f"{_SHA}{commit:08x}"

    def branch() -> str:
        return "main" if chance() < 0.7 else f"topic-{int(chance() * 1000)}"

    def tag() -> str:
        return f"v{int(chance() * 9)}.{int(chance() * 20)}"

    def title() -> str:
        return _TITLES[int(chance() * len(_TITLES))]

    def thread(*, opened: bool = True) -> Payload:
        number = int(chance() * 5000) + 1
        state = "open" if opened else "closed"
        return {"id": _NUMBER, "number": number, "title": title(), "state": state}

    def comment() -> Payload:
        return {"id": _NUMBER, "user": user, "body": title()}

    def push_without_size() -> Payload:
        return {
            "push_id": _NUMBER,
            "ref": f"refs/heads/{branch()}",
            "head": sha(0),
            "before": sha(int(chance() * 2**32)),
        }

    def push() -> Payload:
        kind = chance()
        if kind < 0.8:
            size, distinct = 1, int(kind < 0.79)
        elif kind < 0.995:
            size = _skewed(chance(), 18) + 1
            distinct = size if chance() < 0.9 else int(chance() * size)
        else:
            # Now and then whole histories are pushed, and empty branches.
            size = int(chance() * 1000)
            distinct = int(chance() * size)
        # GitHub lists at most twenty commits, whatever the size; the last one is the head.
        commits = [
            {"sha": sha(later), "author": author, "message": title(), "distinct": later < distinct}
            for later in reversed(range(min(size, 20)))
        ]
        counts = {"size": size, "distinct_size": distinct, "commits": commits}
        return push_without_size() | counts

    def create() -> Payload:
        kind = chance()
        if kind < 0.4:
            ref: Payload = {"ref": None, "ref_type": "repository"}
        elif kind < 0.85:
            ref = {"ref": branch(), "ref_type": "branch"}
        else:
            ref = {"ref": tag(), "ref_type": "tag"}
        return ref | {"master_branch": "main", "description": title(), "pusher_type": "user"}

    def pull_request() -> Payload:
        opened = chance() < 0.5
        request = thread(opened=opened)
        merged = not opened and chance() < 0.7
        return {
            "action": "opened" if opened else "closed",
            "number": request["number"],
            "pull_request": request | {"merged": merged},
        }

    def issue() -> Payload:
        opened = chance() < 0.5
        return {"action": "opened" if opened else "closed", "issue": thread(opened=opened)}

    def fork() -> Payload:
        name = f"fork-{int(chance() * 1000)}"
        full_name = f"user-{_USER_ID}/{name}"
        return {"forkee": {"id": _NUMBER, "name": name, "full_name": full_name, "private": False}}

    def gollum() -> Payload:
        page = {"page_name": f"page-{int(chance() * 100)}", "title": title()}
        return {"pages": [page | {"action": "edited", "sha": sha(0)}]}

    def release() -> Payload:
        release = {"id": _NUMBER, "tag_name": tag(), "draft": False, "prerelease": False}
        return {"action": "published", "release": release | {"author": user}}

    # In thousandths: the shares of an hour of GitHub's timeline.
    pushes = 518 * _VARIANTS
    without_size = round(pushes_without_size * pushes)
    payloads = [("PushEvent", push_without_size()) for _ in range(without_size)]
    payloads += [("PushEvent", push()) for _ in range(pushes - without_size)]
    others: tuple[tuple[str, int, Callable[[], Payload]], ...] = (
        ("WatchEvent", 120, lambda: {"action": "started"}),
        ("CreateEvent", 119, create),
        (
            "IssueCommentEvent",
            69,
            lambda: {"action": "created", "issue": thread(), "comment": comment()},
        ),
        ("PullRequestEvent", 44, pull_request),
        ("IssuesEvent", 44, issue),
        ("ForkEvent", 34, fork),
        (
            "DeleteEvent",
            19,
            lambda: {"ref": branch(), "ref_type": "branch", "pusher_type": "user"},
        ),
        ("GollumEvent", 15, gollum),
        (
            "PullRequestReviewCommentEvent",
            6,
            lambda: {"action": "created", "comment": comment(), "pull_request": thread()},
        ),
        ("CommitCommentEvent", 5, lambda: {"comment": comment() | {"commit_id": sha(0)}}),
        ("ReleaseEvent", 4, release),
        ("MemberEvent", 2, lambda: {"action": "added", "member": user}),
        ("PublicEvent", 1, dict),
    )
    for event_type, share, make in others:
        payloads += [(event_type, make()) for _ in range(share * _VARIANTS)]
    return payloads
