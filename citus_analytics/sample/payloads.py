"""What is in the `payload` of a made-up event, by the type of the event.

The names and the types of the fields are those of GitHub's events API; of its hundreds of fields
there are those that people count and search for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias


class Facts(NamedTuple):
    """What a payload is made of: the event it belongs to, and where to draw chance from."""

    number: int
    user_id: int
    repository: str
    random: Callable[[], float]


Payload: TypeAlias = Callable[[Facts], str]

_GOLDEN_RATIO: Final = 0x9E3779B97F4A7C15F39CC0605CEDC8341082276B
_TITLES: Final = (
    "Fix the build",
    "Add tests",
    "Update README",
    "Bump version",
    r"Say \"why\" in comments",
    "Merge branch main",
    "Remove unused code",
    "Handle empty input, too",
    "First draft",
    r"Faster\nand simpler",
    "Rename the option",
    "Support time zones",
)


def skewed(chance: float, count: int) -> int:
    """Return a number from 1 to count; about a third of them fall in the first hundredth."""
    # Zipf-like, but only multiplied: a power or a logarithm may differ from machine to machine.
    square = chance * chance
    return int(square * square * count) + 1


def _sha(number: int, salt: int = 0) -> str:
    """Return forty hexadecimal digits that look like chance and differ from number to number."""
    return f"{(number * 64 + salt) * _GOLDEN_RATIO % (1 << 160):040x}"


def pushes(without_size: float) -> Payload:
    """Return what makes the payload of a push; this share of them has no size and no commits."""

    def push(event: Facts) -> str:
        start = f'{{"push_id": {event.number}, "ref": "refs/heads/{_branch(event.random())}"'
        heads = f'"head": "{_sha(event.number)}", "before": "{_sha(event.number - 1)}"'
        if event.random() < without_size:
            return f"{start}, {heads}}}"
        size, distinct = _push_size(event.random)
        # GitHub lists at most twenty commits, whatever the size.
        commits = ", ".join([_commit(event, i, i < distinct) for i in range(min(size, 20))])
        counts = f'"size": {size}, "distinct_size": {distinct}'
        return f'{start}, {counts}, {heads}, "commits": [{commits}]}}'

    return push


def _commit(event: Facts, number: int, distinct: bool) -> str:
    login = f"user-{event.user_id}"
    return (
        f'{{"sha": "{_sha(event.number, number)}", '
        f'"author": {{"name": "{login}", "email": "{login}@example.com"}}, '
        f'"message": "{_title(event.random())}", "distinct": {"true" if distinct else "false"}}}'
    )


def _push_size(random: Callable[[], float]) -> tuple[int, int]:
    """Return the number of commits of a push, and how many of them are new."""
    kind = random()
    if kind < 0.8:
        return 1, int(kind < 0.79)
    if kind < 0.995:
        size = skewed(random(), 18) + 1
        return size, size if random() < 0.9 else int(random() * size)
    # Now and then whole histories are pushed, and empty branches.
    size = int(random() * 1000)
    return size, int(random() * size)


def _create(event: Facts) -> str:
    kind = event.random()
    if kind < 0.4:
        ref = '"ref": null, "ref_type": "repository"'
    elif kind < 0.85:
        ref = f'"ref": "{_branch(event.random())}", "ref_type": "branch"'
    else:
        ref = f'"ref": "v{int(event.random() * 9)}.{event.number % 20}", "ref_type": "tag"'
    return (
        f'{{{ref}, "master_branch": "main", "description": "{_title(event.random())}", '
        '"pusher_type": "user"}'
    )


def _delete(event: Facts) -> str:
    return f'{{"ref": "{_branch(event.random())}", "ref_type": "branch", "pusher_type": "user"}}'


def _watch(_: Facts) -> str:
    return '{"action": "started"}'


def _issue(event: Facts) -> str:
    action, state = (("opened", "open"), ("closed", "closed"))[int(event.random() * 2)]
    return f'{{"action": "{action}", {_thread("issue", event, state)}}}'


def _issue_comment(event: Facts) -> str:
    thread = _thread("issue", event)
    return f'{{"action": "created", {thread}, {_comment(event)}}}'


def _pull_request(event: Facts) -> str:
    action, state = (("opened", "open"), ("closed", "closed"))[int(event.random() * 2)]
    thread = _thread("pull_request", event, state)
    return f'{{"action": "{action}", "number": {event.number % 5000 + 1}, {thread}}}'


def _review_comment(event: Facts) -> str:
    thread = _thread("pull_request", event)
    return f'{{"action": "created", {_comment(event)}, {thread}}}'


def _commit_comment(event: Facts) -> str:
    return f"{{{_comment(event)}}}"


def _fork(event: Facts) -> str:
    fork = f"user-{event.user_id}/{event.repository.rpartition('/')[2]}"
    return f'{{"forkee": {{"id": {event.number}, "full_name": "{fork}", "private": false}}}}'


def _gollum(event: Facts) -> str:
    title = _title(event.random())
    return (
        f'{{"pages": [{{"page_name": "page-{event.number % 100}", "title": "{title}", '
        f'"action": "edited", "sha": "{_sha(event.number)}"}}]}}'
    )


def _release(event: Facts) -> str:
    tag = f"v{int(event.random() * 9)}.{event.number % 20}"
    return f'{{"action": "published", "release": {{"id": {event.number}, "tag_name": "{tag}"}}}}'


def _member(event: Facts) -> str:
    member = f'{{"id": {event.user_id}, "login": "user-{event.user_id}"}}'
    return f'{{"action": "added", "member": {member}}}'


def _public(_: Facts) -> str:
    return "{}"


def _thread(kind: str, event: Facts, state: str = "open") -> str:
    return (
        f'"{kind}": {{"id": {event.number}, "number": {event.number % 5000 + 1}, '
        f'"title": "{_title(event.random())}", "state": "{state}"}}'
    )


def _comment(event: Facts) -> str:
    user = f'{{"id": {event.user_id}, "login": "user-{event.user_id}"}}'
    body = _title(event.random())
    return f'"comment": {{"id": {event.number}, "user": {user}, "body": "{body}"}}'


def _branch(chance: float) -> str:
    return "main" if chance < 0.7 else f"topic-{int(chance * 1000)}"


def _title(chance: float) -> str:
    return _TITLES[int(chance * len(_TITLES))]


# What follows the pushes, in thousandths: the shares of an hour of GitHub's timeline.
OTHER_TYPES: Final[tuple[tuple[str, int, Payload], ...]] = (
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
