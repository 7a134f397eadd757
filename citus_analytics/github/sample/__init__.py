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

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, Final

from citus_analytics.errors import ArgumentError
from citus_analytics.github.sample.payloads import Payload, as_pattern, payloads, skewed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CHUNK_ROWS: Final = 1000
_MINUTES_A_DAY: Final = 1440
# Multiplied by it, numbers that follow one another look like chance, and stay different.
_GOLDEN_RATIO: Final = 0x9E3779B97F4A7C15F39CC0605CEDC835
_SHA_BITS: Final = (1 << 128) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What to generate; equal samples give equal bytes, on every version of Python.

    Users and repositories depend on their numbers alone, so samples that differ in anything else
    are about the same people: generate a later batch with another `first_event_id` and window.

    Attributes:
        events: How many events.
        since: The time of the earliest event that is possible; aware.
        until: All events are earlier than this; aware. Times are whole seconds, as GitHub's are.
        users: How many users there are. The first ones have most of the events.
        repositories: How many repositories there are, likewise.
        first_event_id: The `event_id` of the first event; the others follow without a gap.
        pushes_without_size: The share of pushes, from 0 to 1, that have no `size`,
            `distinct_size` and `commits`, like all of GitHub's since October 2025.
        seed: Another seed gives other events of the same kind.

    Raises:
        ArgumentError: A count is too small, the share is none, a time is naive, or no whole
            second lies between `since` and `until`.
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
        """Yield the events as CSV, some thousand rows in each block, minute after minute.

        The columns are those of `github_events`: event_id, event_type, event_public, repo_id,
        payload, repo, user_id, org (empty, that is NULL, in about 70 % of rows), created_at.
        Within a minute the rows are in no order, as on GitHub.
        """
        row = _Events(self).row
        for block in _blocks(self.events):
            yield "".join([row(number) for number in block]).encode("ascii")

    def users_csv(self) -> Iterator[bytes]:
        """Yield the users as CSV, some thousand rows in each block: one row for every user.

        The columns are those of `github_users`: user_id, url, login, avatar_url, gravatar_id
        (empty), display_login.
        """
        for block in _blocks(self.users):
            yield "".join([_user_row(number + 1) for number in block]).encode("ascii")


class _Events:
    """The events of one sample, to be rendered once, in order."""

    __slots__ = ("_chance", "_patterns", "_sample", "_time")

    def __init__(self, sample: Sample) -> None:
        # Of all that `Random` offers, only random() is promised never to change.
        self._chance = Random(sample.seed).random  # noqa: S311
        self._sample = sample
        self._time = _Times(sample, self._chance).time
        kinds = payloads(self._chance, pushes_without_size=sample.pushes_without_size)
        self._patterns = [_row_pattern(*kind) for kind in kinds]

    def row(self, number: int) -> str:
        """Render the event at this position as a line of CSV."""
        sample, chance, patterns = self._sample, self._chance, self._patterns
        event_id = sample.first_event_id + number
        user_id = skewed(chance(), sample.users)
        # Half of the time people work on a repository of their own.
        own = chance() < 0.5 and user_id <= sample.repositories
        repo_id = user_id if own else skewed(chance(), sample.repositories)
        repo, org = _repository(repo_id, sample.users)
        return patterns[int(chance() * len(patterns))] % {
            "number": str(event_id),
            "user_id": str(user_id),
            "repo_id": repo_id,
            "repo": repo,
            "org": org,
            "sha": (event_id * _GOLDEN_RATIO & _SHA_BITS).to_bytes(16, "big").hex(),
            "created_at": self._time(number),
        }


class _Times:
    """When the events of a sample happen.

    A day is a list of minutes in which a busy minute stands more often than a quiet one; the
    events are spread evenly over that list, again and again, to the end of the window. So memory
    and work are the same for an hour and for a century.
    """

    __slots__ = ("_events", "_minutes", "_random", "_render", "_seconds", "_units")

    def __init__(self, sample: Sample, random: Callable[[], float]) -> None:
        # One minute in every quarter of an hour is several times busier than the others.
        weights = [2 + int(random() * 3) for _ in range(_MINUTES_A_DAY)]
        for quarter in range(0, _MINUTES_A_DAY, 15):
            weights[quarter + int(random() * 15)] = 12 + int(random() * 13)
        self._minutes = [minute for minute, weight in enumerate(weights) for _ in range(weight)]
        start = _whole_seconds(sample.since)
        self._seconds = _whole_seconds(sample.until) - start
        days, minutes = divmod(-(-self._seconds // 60), _MINUTES_A_DAY)
        self._units = days * len(self._minutes) + list(accumulate(weights, initial=0))[minutes]
        self._events = sample.events
        self._random = random

        first = _EPOCH.replace(tzinfo=None) + timedelta(seconds=start)

        @lru_cache(maxsize=1024)
        def render(second: int) -> str:
            return (first + timedelta(seconds=second)).isoformat() + "Z"

        self._render = render

    def time(self, number: int) -> str:
        """Return the time of the event at this position, as text."""
        day, unit = divmod(number * self._units // self._events, len(self._minutes))
        minute = (day * _MINUTES_A_DAY + self._minutes[unit]) * 60
        # The window may end within its last minute.
        return self._render(minute + int(self._random() * min(60, self._seconds - minute)))


def _blocks(rows: int) -> Iterator[range]:
    return (range(rows)[first : first + _CHUNK_ROWS] for first in range(0, rows, _CHUNK_ROWS))


def _whole_seconds(time: datetime) -> int:
    """Return the seconds from 1970 to the first whole second that is not before this time."""
    return -((_EPOCH - time) // timedelta(seconds=1))


def _row_pattern(event_type: str, payload: Payload) -> str:
    """Return a line of CSV for `%` to fill in."""
    details = as_pattern(payload).replace('"', '""')
    return (
        f'%(number)s,{event_type},t,%(repo_id)s,"{details}",%(repo)s,%(user_id)s,%(org)s,'
        "%(created_at)s\n"
    )


def _repository(repo_id: int, users: int) -> tuple[str, str]:
    """Return the columns repo and org; 30 % of the repositories belong to an organisation."""
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


def _user_row(user_id: int) -> str:
    login = f"user-{user_id}"
    return (
        f"{user_id},https://api.example.com/users/{login},{login},"
        f"https://avatars.example.com/u/{user_id},,{login}\n"
    )
