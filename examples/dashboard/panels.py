"""What the dashboard asks, and what it shows of the answers.

A `View` is what the address says: a range, a time zone, filters, how fresh. A panel asks its
questions as any application would, with `citus_analytics.Question`, and makes of the answers what
its template draws. All of it is synchronous: the application calls it through `run_sync`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, get_args
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from psycopg.errors import InsufficientPrivilege, QueryCanceled, UndefinedTable
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    Text,
    bindparam,
    func,
    literal_column,
    select,
    text,
    tuple_,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from citus_analytics import (
    Answer,
    Every,
    GithubEvent,
    GithubUser,
    Measure,
    Plan,
    Question,
    RollupError,
    count,
    distinct,
    rollups_of,
    total,
)
from citus_analytics.catalog import citus_version, nodes, shards
from citus_analytics.github.models import (
    COMMITS,
    CREATES_REPOSITORY,
    IS_PUSH,
    STARS_OR_FORKS,
    github_events,
)
from citus_analytics.rollups.ask import Freshness
from citus_analytics.rollups.declare import zone_of
from citus_analytics.rollups.run import RollupStatus, rollup_status
from examples.dashboard.charts import Chart, Series, area, bars

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy import Select

RANGES: Final[Mapping[str, tuple[str, timedelta | None]]] = {
    "15m": ("15 min", timedelta(minutes=15)),
    "1h": ("1 hour", timedelta(hours=1)),
    "6h": ("6 hours", timedelta(hours=6)),
    "24h": ("24 hours", timedelta(days=1)),
    "7d": ("7 days", timedelta(days=7)),
    "30d": ("30 days", timedelta(days=30)),
    "all": ("All", None),
}
DEFAULT_RANGE: Final = "6h"
FRESHNESS: Final[Mapping[Freshness, tuple[str, str]]] = {
    "fresh": ("Fresh", "Rollups and what is pending of them: equal to the raw events right now"),
    "rolled_up": ("Rolled up", "Rollups alone: equal to the raw events as of the last run"),
    "raw": ("Raw", "Computed from the raw events: what the others are measured against"),
}
ZONES: Final = (
    *("UTC", "America/Los_Angeles", "America/Denver", "America/Chicago", "America/New_York"),
    *("America/Sao_Paulo", "Europe/London", "Europe/Berlin", "Europe/Helsinki", "Africa/Lagos"),
    *("Asia/Dubai", "Asia/Kolkata", "Asia/Kathmandu", "Asia/Shanghai", "Asia/Tokyo"),
    *("Australia/Sydney", "Pacific/Auckland"),
)
# Type, name, colour. Others share a colour and a name: more than seven nobody can tell apart.
TYPES: Final[Mapping[str | None, tuple[str, int]]] = {
    "PushEvent": ("Push", 1),
    "CreateEvent": ("Create", 2),
    "WatchEvent": ("Star", 3),
    "IssueCommentEvent": ("Issue comment", 4),
    "PullRequestEvent": ("Pull request", 5),
    "IssuesEvent": ("Issue", 6),
    "ForkEvent": ("Fork", 7),
}
OTHER_TYPES: Final = (
    *("CommitCommentEvent", "DeleteEvent", "GollumEvent", "MemberEvent", "PublicEvent"),
    *("PullRequestReviewEvent", "PullRequestReviewCommentEvent", "ReleaseEvent"),
)
WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
LISTED: Final = 8
EVENTS_A_PAGE: Final = 50
_MINUTE, _HOUR = 60, 3_600
_DAY: Final = 24 * _HOUR
_LARGEST: Final = 2**63 - 1
ONLY: Final[Mapping[str, ColumnElement[bool]]] = {
    "pushes": IS_PUSH,
    "repositories": CREATES_REPOSITORY,
    "stars": STARS_OR_FORKS,
}
_INSTANT: Final = timedelta(microseconds=1)
_MOST_BUCKETS: Final = 5_000
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
_RECENT_EVENTS: Final = 20_000


_NAMED: Final = {
    "user": ("user", "the login of one that is known"),
    "repo": ("repository", "the name of one that was shown or has an event among the latest ones"),
}


def type_name(event_type: str | None) -> str:
    """Return what a type of events is called."""
    if event_type is None:
        return "Without a type"
    if event_type in TYPES:
        return TYPES[event_type][0]
    words = re.fullmatch(r"((?:[A-Z][a-z]+)+)Event", event_type)
    return re.sub("(?<!^)(?=[A-Z])", " ", words[1]).capitalize() if words else event_type


def counted(value: float, unit: str) -> str:
    """Say how many there are of what `unit` is the plural of."""
    if value == 1:
        unit = f"{unit[:-3]}y" if unit.endswith("ies") else unit.removesuffix("s")
    return f"{value:,.0f} {unit}"


# --------------------------------------------------------------------------------------- The view


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What the address of a page says; equal views show the same.

    Attributes:
        range: A key of `RANGES`, up to now; empty if `since` and `until` are given.
        since: From this moment on.
        until: Up to this moment.
        zone: The IANA name of the time zone of all times.
        event_type: Show events of this type alone.
        user_id: Show events of this user alone.
        repo_id: Show events on this repository alone.
        freshness: How the answers come about.
    """

    range: str = DEFAULT_RANGE
    since: datetime | None = None
    until: datetime | None = None
    zone: str = "UTC"
    event_type: str | None = None
    user_id: int | None = None
    repo_id: int | None = None
    freshness: Freshness = "fresh"

    @classmethod
    def read(cls, query: Mapping[str, str]) -> tuple[View, list[str]]:
        """Return what a query string says, and what of it makes no sense, which is left out."""
        said = {name: value.strip() for name, value in query.items() if value.strip()}
        problems: list[str] = []
        found: dict[str, Any] = {}
        zone = said.get("zone", "UTC")
        try:
            zone_of(zone)
        except (KeyError, ValueError, OSError):
            problems.append(f"{zone!r} is not the name of a time zone, such as Europe/Berlin.")
            zone = "UTC"
        found["zone"] = zone
        if said.get("range", DEFAULT_RANGE) not in RANGES:
            problems.append(f"{said['range']!r} is no range: choose {', '.join(RANGES)}.")
        else:
            found["range"] = said.get("range", DEFAULT_RANGE)
        moments: dict[str, datetime] = {}
        for name in ("since", "until"):
            if name in said:
                try:
                    moment = datetime.fromisoformat(said[name])
                    moments[name] = (
                        moment.replace(tzinfo=ZoneInfo(zone)) if moment.tzinfo is None else moment
                    ).astimezone(UTC)
                except (ValueError, OverflowError):
                    moments.pop(name, None)
                if not _FIRST <= moments.get(name, _LAST) < _LAST:
                    moments.pop(name, None)
                    problems.append(
                        f"{name}={said[name]!r} is not a time, such as 2026-03-01T12:00Z."
                    )
        if len(moments) == 2 and moments["since"] < moments["until"]:
            found |= moments
            found["range"] = ""
        elif len(moments) == 2:
            problems.append("The range is empty: since has to be before until.")
        elif moments and not problems:
            problems.append("A range of your own needs both since and until.")
        if "type" in said:
            found["event_type"] = said["type"][:100].replace("\0", "")
        for name in ("user", "repo"):
            if name in said:
                if said[name].isdecimal() and int(said[name]) <= _LARGEST:
                    found[f"{name}_id"] = int(said[name])
                else:
                    called, known = _NAMED[name]
                    problems.append(
                        f"{name}={said[name]!r} is not the number of a {called}, nor {known}."
                    )
        freshness = said.get("freshness", "fresh")
        if freshness in get_args(Freshness):
            found["freshness"] = freshness
        else:
            problems.append(f"freshness is fresh, rolled_up or raw, not {freshness!r}.")
        return cls(**found), problems

    def query(self, **changes: Any) -> str:
        """Return the query string of this view with some changes: only what is not the default."""
        view = replace(self, **changes) if changes else self
        said = {
            "range": view.range if view.range != DEFAULT_RANGE else "",
            "since": shown_in_url(view.since),
            "until": shown_in_url(view.until),
            "zone": view.zone if view.zone != "UTC" else "",
            "type": view.event_type,
            "user": view.user_id,
            "repo": view.repo_id,
            "freshness": view.freshness if view.freshness != "fresh" else "",
        }
        query = urlencode({name: value for name, value in said.items() if value not in ("", None)})
        return f"?{query}" if query else ""

    def url(self, path: str = "/", **changes: Any) -> str:
        """Return the address of a page for this view with some changes."""
        if changes.get("range"):
            changes |= {"since": None, "until": None}
        elif changes.get("since"):
            changes["range"] = ""
        return path + self.query(**changes)

    @property
    def place(self) -> ZoneInfo:
        """The time zone."""
        return ZoneInfo(self.zone)

    def window(self, now: datetime) -> Window:
        """Return the window of time that is shown at a moment.

        What ends now begins and ends with whole hours, or whatever `hours` says: rollups have those
        of everything. Of the last one there is as much as has passed.
        """
        if self.since is not None and self.until is not None:
            level = self._level((self.until - self.since).total_seconds())
            return Window(self.since, self.until, level, now)
        span = RANGES[self.range][1]
        if span is None:
            return Window(None, None, self._level(100 * _DAY), now)
        level = self._level(span.total_seconds())
        whole = self._whole(level)
        # The bucket that is under way is the last one.
        return Window(whole.start_of(now - span), whole.next_start(now), level, now)

    def _level(self, seconds: float) -> Every:
        """Return the buckets of a chart: as fine as a window leaves room for."""
        for longest, width in ((2 * _HOUR, 60), (12 * _HOUR, 300), (2 * _DAY, 900)):
            if seconds <= longest:
                return Every(width)
        if seconds <= 14 * _DAY:
            return self._calendar("hour")
        return self._calendar("day" if seconds <= 800 * _DAY else "month")

    def _calendar(self, unit: str) -> Every:
        fixed = {"hour": _HOUR, "day": _DAY} if self.zone == "UTC" else {}
        return Every(fixed[unit]) if unit in fixed else Every(unit=unit, zone=self.zone)

    def hours(self, now: datetime | None = None) -> Every:
        """Return the buckets of what is shown by the hour: hours, unless the chart has others.

        Without a moment they are hours whatever the range is.
        """
        if now is None:
            return self._calendar("hour")
        return self._whole(self.window(now).every)

    def _whole(self, level: Every) -> Every:
        short = level.length >= _HOUR or self.range in ("15m", "1h")
        return level if short else self._calendar("hour")


def shown_in_url(moment: datetime | None) -> str:
    """Return a moment as an address has it: 2026-03-01T12:00Z."""
    if moment is None:
        return ""
    shown = moment.astimezone(UTC).isoformat().replace("+00:00", "")
    return shown.removesuffix(":00") + "Z"


@dataclass(frozen=True, slots=True)
class Window:
    """A window of time, None for no bound, and the width of its buckets."""

    since: datetime | None
    until: datetime | None
    every: Every
    now: datetime

    def edges(self, every: Every, found: Iterable[datetime]) -> list[datetime]:
        """Return where all buckets begin, those without an event too, and where the last one ends.

        They are cut where the window is; without a window they go as far as the events do.
        """
        present = sorted(found)
        since = self.since or (present[0] if present else None)
        until = self.until or (present[-1] + _INSTANT if present else None)
        if since is None or until is None:
            return []
        # Nothing is to be seen of what has not come yet, unless something says that it has.
        until = min(until, max([self.now, *(each + _INSTANT for each in present[-1:])]))
        edges = [every.start_of(since)]
        while edges[-1] < until and len(edges) < _MOST_BUCKETS:
            edges.append(every.next_start(edges[-1] + _INSTANT))
        return edges

    def partial(self, edges: Sequence[datetime]) -> frozenset[int]:
        """Return which buckets are cut by an edge of the window, or not over yet."""
        return frozenset(
            i
            for i in {0, len(edges) - 2} & set(range(len(edges)))
            if (self.since is not None and edges[i] < self.since)
            or edges[i + 1] > min(self.now, self.until or self.now)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of the events of a view that a number of a panel is about.

    Attributes:
        weekday: Those of a day of the week, from 1, Monday, to 7.
        hour: Those of an hour of the day, as the clocks of the view show it.
        only: Those of one kind, a key of `ONLY`.
    """

    weekday: int | None = None
    hour: int | None = None
    only: str | None = None

    @classmethod
    def read(cls, query: Mapping[str, str]) -> Part:
        """Return what a query string says; what makes no sense is left out."""

        def small(name: str, least: int, most: int) -> int | None:
            said = query.get(name, "")
            return int(said) if said.isdecimal() and least <= int(said[:4]) <= most else None

        only = query.get("only")
        return cls(
            weekday=small("weekday", 1, 7),
            hour=small("hour", 0, 23),
            only=only if only in ONLY else None,
        )

    def added_to(self, url: str) -> str:
        """Return an address with this part in it."""
        said = {"weekday": self.weekday, "hour": self.hour, "only": self.only}
        query = urlencode({name: value for name, value in said.items() if value is not None})
        return f"{url}{'&' if '?' in url else '?'}{query}" if query else url

    def __str__(self) -> str:
        said = [] if self.weekday is None else [f"on {WEEKDAYS[self.weekday - 1]}"]
        said += [] if self.hour is None else [f"from {self.hour:02}:00 to {self.hour:02}:59"]
        said += [] if self.only is None else [f"{self.only} alone"]
        return ", ".join(said)


# ---------------------------------------------------------------------------------- What is asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An answer, and how it was come by.

    Attributes:
        rows: The rows of the answer.
        plan: What the library has read for it.
        seconds: How long that took, with the way to the database.
        moment: When it was asked.
    """

    rows: tuple[Any, ...]
    plan: Plan
    seconds: float
    moment: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question with its window and its values.

    Attributes:
        about: What it asks, for people.
        question: The question.
        since: From this moment on.
        until: Before this moment.
        limit: At most so many rows.
        values: The filters' values.
    """

    about: str
    question: Question
    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    def answer(self, session: Session, freshness: Freshness) -> Asked:
        """Ask it."""
        moment, start = datetime.now(UTC), perf_counter()
        answer: Answer = self.question.ask(
            session,
            since=self.since,
            until=self.until,
            limit=self.limit,
            freshness=freshness,
            parameters=self.values,
        )
        return Asked(
            rows=answer.rows, plan=answer.plan, seconds=perf_counter() - start, moment=moment
        )


_MEASURES: Final[Mapping[str, Measure]] = {
    "events": count(),
    "commits": total(COMMITS),
    "users": distinct(GithubEvent.user_id),
}
_FILTERS: Final[Mapping[str, ColumnElement[bool]]] = {
    "event_type": GithubEvent.event_type == bindparam("event_type", type_=Text()),
    "user_id": GithubEvent.user_id == bindparam("user_id", type_=BigInteger()),
    "repo_id": GithubEvent.repo_id == bindparam("repo_id", type_=BigInteger()),
}


@lru_cache(maxsize=512)
def question(
    measure: str, by: str | None, every: Every | None, only: str | None, filters: tuple[str, ...]
) -> Question:
    """Return a question; each is made once, because it keeps its plans and its statements."""
    conditions = [_FILTERS[name] for name in filters]
    if only is not None:
        conditions.insert(0, ONLY[only])
    where: ColumnElement[bool] | None = None
    for condition in conditions:
        where = condition if where is None else where & condition
    return Question(
        GithubEvent,
        measures={measure: _MEASURES[measure]},
        by=[] if by is None else [getattr(GithubEvent, by)],
        every=None if every is None else str(every),
        where=where,
        ranked=measure if by in ("user_id", "repo_id") else None,
        undated=every is None,
    )


def ask_for(
    view: View,
    now: datetime,
    about: str,
    measure: str,
    *,
    by: str | None = None,
    every: Every | None = None,
    only: str | None = None,
    event_type: str | None = None,
    limit: int | None = None,
    window: Window | None = None,
) -> Ask:
    """Return a question about what a view shows.

    Args:
        view: The view.
        now: The moment at which it is shown.
        about: What is asked, for people.
        measure: What is computed.
        by: The groups, the greatest first if they are users or repositories.
        every: The width of buckets.
        only: Which events are asked for: those of one kind, whatever type the view shows.
        event_type: The type that is asked for where the view shows all.
        limit: At most so many rows.
        window: The window of time, if it is not that of the view.
    """
    values: dict[str, Any] = {"user_id": view.user_id, "repo_id": view.repo_id}
    if only is None:
        values["event_type"] = view.event_type or event_type
        # There is a rollup of these two alone, which serves whoever says that they are meant.
        if by == "repo_id" and values["event_type"] in ("WatchEvent", "ForkEvent"):
            only = "stars"
    values = {name: value for name, value in sorted(values.items()) if value is not None}
    window = window or view.window(now)
    return Ask(
        about=about,
        question=question(measure, by, every, only, tuple(values)),
        since=window.since,
        until=window.until,
        limit=limit,
        values=values,
    )


# ------------------------------------------------------------------------------------- The panels


# Milliseconds that names may keep a panel waiting.
_LOOK_UP: Final = 400
_MOST_NAMES: Final = 200_000
_BUSIEST_HOUR: Final = text(
    "SELECT DISTINCT ON (repo_id) repo_id, bucket FROM github_repository_activity "
    "WHERE repo_id = ANY(:ids) AND bucket > '-infinity' AND bucket < 'infinity' AND events > 0 "
    "ORDER BY repo_id, events DESC, bucket DESC"
)


@contextmanager
def _optional(session: Session, refused: set[str] | None = None, table: str = "") -> Iterator[None]:
    """Do without what is read if it takes too long, is not there, or is not for this role.

    Whether the role may read the table is noted in a set of those that it may not.
    """
    point, refused = session.begin_nested(), set() if refused is None else refused
    try:
        yield
        refused.discard(table)
    except DBAPIError as error:
        if isinstance(error.orig, InsufficientPrivilege):
            refused.add(table)
        if not isinstance(error.orig, QueryCanceled | UndefinedTable | InsufficientPrivilege):
            raise
    finally:
        # Its settings go with it.
        if point.is_active:
            point.rollback()


@dataclass(slots=True)
class Names:
    """The names of users and repositories, looked up once.

    A login is found by its key. A repository's name is in its events alone: it is looked for in the
    hour in which the repository had the most of them, which a rollup knows, and otherwise among the
    latest events. What cannot be found, in time or for want of rights, goes by its number.
    """

    of_users: dict[int, str | None] = field(default_factory=dict)
    of_repositories: dict[int, str | None] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    _looked_at: dict[int, float] = field(default_factory=dict)

    def learn_users(self, session: Session, ids: Iterable[int | None]) -> None:
        """Look up the logins of users that are not known yet."""
        missing = {each for each in ids if each is not None} - self.of_users.keys()
        if missing:
            statement = select(GithubUser.user_id, GithubUser.login).where(
                GithubUser.user_id.in_(missing)
            )
            with _optional(session, self.refused, "github_users"):
                # Whoever is not there may come with the next event.
                self.of_users |= {
                    row.user_id: row.login
                    for row in session.execute(statement)
                    if row.login is not None
                }
        if len(self.of_users) > _MOST_NAMES:
            self.of_users.clear()

    def learn_repositories(self, session: Session, ids: Iterable[int | None]) -> None:
        """Look for the names of repositories that are not known yet."""
        start = perf_counter()
        if len(self.of_repositories) + len(self._looked_at) > _MOST_NAMES:
            self.of_repositories.clear()
            self._looked_at.clear()
        missing = {
            each
            for each in ids
            if each is not None
            and each not in self.of_repositories
            and start - self._looked_at.get(each, -100.0) > 60
        }
        if not missing:
            return
        self._looked_at |= dict.fromkeys(missing, start)
        name = GithubEvent.repo["name"].astext
        with _optional(session):
            # An event of it comes up soon among those of its busiest hour.
            hours = session.execute(_BUSIEST_HOUR, {"ids": [*missing]}).all()
            for repo_id, hour in hours:
                session.execute(text(f"SET LOCAL statement_timeout = {_LOOK_UP}"))
                found = session.scalar(
                    select(name)
                    .where(
                        GithubEvent.created_at >= hour,
                        GithubEvent.created_at < hour + timedelta(hours=1),
                        GithubEvent.repo_id == repo_id,
                        name.is_not(None),
                    )
                    .limit(1)
                )
                if found is not None:
                    self.of_repositories[repo_id] = found
                    missing.discard(repo_id)
                if 1000 * (perf_counter() - start) > _LOOK_UP:
                    # The others have their turn, sooner than those that cannot be found.
                    for later in missing:
                        self._looked_at[later] = start - 50
                    return
        if not missing:
            return
        recent = (
            select(GithubEvent.repo_id, GithubEvent.repo)
            .where(GithubEvent.created_at < func.now() + text("interval '1 day'"))
            .order_by(GithubEvent.created_at.desc())
            .limit(_RECENT_EVENTS)
            .subquery()
        )
        statement = (
            select(recent.c.repo_id, func.max(recent.c.repo["name"].astext))
            .where(recent.c.repo_id.in_(missing))
            .group_by(recent.c.repo_id)
        )
        with _optional(session):
            for repo_id, called in session.execute(statement):
                if called:
                    self.of_repositories[repo_id] = called

    def repository_called(self, name: str) -> int | None:
        """Return the number of a repository that has been shown, by its name."""
        return next((each for each, known in self.of_repositories.items() if known == name), None)

    def user(self, user_id: int | None) -> str:
        """Return what a user is called."""
        if user_id is None:
            return "Nobody known"
        return self.of_users.get(user_id) or f"user #{user_id}"

    def repository(self, repo_id: int | None) -> str:
        """Return what a repository is called."""
        if repo_id is None:
            return "No repository"
        return self.of_repositories.get(repo_id) or f"repository #{repo_id}"


@dataclass(frozen=True, slots=True)
class Scene:
    """What a panel is shown with: its answers, the view and moment they are of, and all names."""

    session: Session
    names: Names
    view: View
    now: datetime
    answers: Sequence[Asked]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A panel: what it asks, and what its template gets.

    Attributes:
        name: Its name in addresses.
        title: Its heading.
        asks: Its questions at a moment.
        show: What its template shows of the answers.
        hint: What it shows, in a sentence.
    """

    name: str
    title: str
    asks: Callable[[View, datetime], tuple[Ask, ...]]
    show: Callable[[Scene], dict[str, Any]]
    hint: str

    def load(self, session: Session, names: Names, view: View, now: datetime) -> dict[str, Any]:
        """Ask the questions, and return what the template needs."""
        answers = [ask.answer(session, view.freshness) for ask in self.asks(view, now)]
        found = {**self.show(Scene(session, names, view, now, answers)), **told(answers)}
        return found | {"nothing": not answers[0].rows and is_empty(session)}


def is_empty(session: Session) -> bool:
    """Whether the database has no events at all, as far as this role may know."""
    with _optional(session):
        return (
            session.scalar(select(literal_column("1")).select_from(github_events).limit(1)) is None
        )
    return False


def told(answers: Sequence[Asked]) -> dict[str, Any]:
    """Return what a panel says about its answers: as of when, what is pending, how long it took."""
    plans = [answer.plan for answer in answers]
    rolled = [plan for plan in plans if plan.freshness == "rolled_up"]
    as_of = min(answer.moment for answer in answers)
    if rolled:
        # None before the first run, as of which nothing was there.
        as_of = min((plan.as_of or _FIRST for plan in rolled), default=as_of)
    pending = [plan.pending for plan in plans if plan.pending is not None]
    read = dict.fromkeys(step.table for plan in plans for step in plan.steps)
    reasons = {
        f"{table}: {why}"
        for plan in plans
        if plan.freshness == "raw"
        for table, why in plan.reasons.items()
    }
    return {
        "as_of": as_of,
        "pending": max(pending) if pending else None,
        "milliseconds": 1000 * sum(answer.seconds for answer in answers),
        "read": tuple(read),
        "freshness": plans[0].freshness if len({p.freshness for p in plans}) == 1 else "mixed",
        "why": f"From raw events. {'; '.join(sorted(reasons))}." if reasons else "",
    }


def _named_buckets(chart: Chart, view: View, window: Window, every: Every, **changes: Any) -> Any:
    """Return the buckets of a chart for a table: what each is called, and where its events are."""
    found = []
    for start, end in pairwise(chart.edges):
        at = start.astimezone(view.place)
        day = f"{at:%B %Y}" if every.length > 20 * _DAY else f"{at:%a} {at.day} {at:%b}"
        called = day if every.length >= _DAY else f"{day}, {at:%H:%M}"
        since, until = max(start, window.since or start), min(end, window.until or end)
        found.append((called, view.url("/events", since=since, until=until, **changes)))
    return found


def _width(every: Every) -> str:
    said = str(every).partition(" at ")[0]
    return f"shown per {said.removeprefix('1 ')}"


def _from(view: View, window: Window) -> str:
    """Say when a window begins that ends now: whole hours, so it is not as long as its name."""
    if window.since is None or not view.range:
        return ""
    since, now = (moment.astimezone(view.place) for moment in (window.since, window.now))
    day = "" if since.date() == now.date() else f"{since.day} {since:%b}, "
    return f" since {day}{since:%H:%M}"


def _events_asks(view: View, now: datetime) -> tuple[Ask, ...]:
    every = view.window(now).every
    return (ask_for(view, now, "events by type", "events", by="event_type", every=every),)


def _events_show(scene: Scene) -> dict[str, Any]:
    view, now, answers = scene.view, scene.now, scene.answers
    window, rows = view.window(now), answers[0].rows
    every = window.every
    edges = window.edges(every, {row.bucket for row in rows})
    places = {edge: i for i, edge in enumerate(edges[:-1])}
    counted: dict[str | None, list[float]] = defaultdict(lambda: [0.0] * len(places))
    for bucket, event_type, events in rows:
        key = event_type if event_type in TYPES or view.event_type else None
        counted[key][places[bucket]] += events
    order = [*(each for each in TYPES if each in counted)]
    order += sorted(each for each in counted if each not in TYPES and each is not None)
    order += [None] if None in counted else []
    series = [
        Series(
            key,
            "Others" if key is None else type_name(key),
            TYPES.get(key, ("", 0))[1],
            tuple(counted[key]),
        )
        for key in order
    ]
    chart = bars(series, edges, every=every, zone=view.place, partial=window.partial(edges))
    return {
        "value": sum(each.total for each in series),
        "unit": "events",
        "since": _from(view, window),
        "width": _width(every),
        "chart": chart,
        "series": series,
        "legend": len(series) > 1 or view.event_type is not None,
        "buckets": partial(_named_buckets, chart, view, window, every),
        "drill": view.url("/events", since=now, until=now),
    }


def _commits_asks(view: View, now: datetime) -> tuple[Ask, ...]:
    every = view.hours(now)
    return (ask_for(view, now, "commits of pushes", "commits", every=every, only="pushes"),)


def _over_time(
    view: View, now: datetime, answer: Asked, column: str, name: str, color: int
) -> tuple[Series, list[datetime], Every, Window]:
    window, every = view.window(now), view.hours(now)
    edges = window.edges(every, {row.bucket for row in answer.rows})
    found = {row.bucket.astimezone(UTC): getattr(row, column) or 0 for row in answer.rows}
    values = tuple(float(found.get(edge, 0)) for edge in edges[:-1])
    return Series(None, name, color, values), edges, every, window


def _commits_show(scene: Scene) -> dict[str, Any]:
    view, now, answers = scene.view, scene.now, scene.answers
    series, edges, every, window = _over_time(view, now, answers[0], "commits", "Commits", 1)
    cut = window.partial(edges)
    chart = bars([series], edges, every=every, zone=view.place, partial=cut)
    return {
        "value": series.total,
        "unit": "commits",
        "since": _from(view, window),
        "width": _width(every),
        "chart": chart,
        "series": [series],
        "buckets": partial(_named_buckets, chart, view, window, every, event_type="PushEvent"),
        "drill": view.url("/events", since=now, until=now, event_type="PushEvent"),
        "note": _ignored(view, "PushEvent", "pushes"),
    }


def _ignored(view: View, own: str, what: str) -> str:
    if view.event_type in (None, own):
        return ""
    return f"These are {what}: the filter by type does not apply."


def _users_asks(view: View, now: datetime) -> tuple[Ask, ...]:
    return (
        ask_for(view, now, "distinct users over time", "users", every=view.hours(now)),
        ask_for(view, now, "distinct users in all", "users"),
    )


def _users_show(scene: Scene) -> dict[str, Any]:
    view, now, answers = scene.view, scene.now, scene.answers
    series, edges, every, window = _over_time(view, now, answers[0], "users", "Users", 2)
    cut = window.partial(edges)
    chart = area(series, edges, every=every, zone=view.place, partial=cut)
    return {
        "value": answers[1].rows[0].users if answers[1].rows else 0,
        "unit": "different users",
        "since": _from(view, window),
        "width": _width(every),
        "chart": chart,
        "series": [series],
        "buckets": partial(_named_buckets, chart, view, window, every),
        "drill": view.url("/events", since=now, until=now),
    }


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of a ranking: a name, a number, its share of the greatest, and where both lead."""

    name: str
    value: int
    share: float
    filter: str | None
    events: str | None


def _ranking(
    view: View,
    answer: Asked,
    column: str,
    name: Callable[[int | None], str],
    part: Part | None = None,
    **changes: Any,
) -> list[Listed]:
    rows = [(getattr(row, column), row.events) for row in answer.rows]
    greatest = max((value for _, value in rows), default=1)
    return [
        Listed(
            name(each),
            value,
            100 * value / greatest,
            None if each is None else view.url("/", **{column: each}),
            # A filter finds a value; what has none, it cannot find.
            None
            if each is None
            else (part or Part()).added_to(view.url("/events", **{column: each}, **changes)),
        )
        for each, value in rows
    ]


def _active_asks(view: View, now: datetime) -> tuple[Ask, ...]:
    return (ask_for(view, now, "events by user", "events", by="user_id", limit=LISTED),)


def _active_show(scene: Scene) -> dict[str, Any]:
    session, names, view, answers = scene.session, scene.names, scene.view, scene.answers
    names.learn_users(session, (row.user_id for row in answers[0].rows))
    return {"ranking": _ranking(view, answers[0], "user_id", names.user), "unit": "events"}


def _days(view: View, now: datetime) -> tuple[Window, dict[str, Any], str]:
    """Return the window of a view in whole days of UTC, which is what some rollups have.

    With it goes what the address of its events has, and what people are told.
    """
    window, day = view.window(now), Every(_DAY)
    if window.since is None or window.until is None:
        return window, {}, ""
    since, until = day.start_of(window.since), day.next_start(window.until)
    first, last = (f"{each.day} {each:%B}" for each in (since, until - _INSTANT))
    note = f"Whole days of UTC: {first if first == last else f'{first} to {last}'}."
    return Window(since, until, day, now), {"since": since, "until": until}, note


def _trending_asks(view: View, now: datetime) -> tuple[Ask, ...]:
    about = "events by repository" if view.event_type else "stars by repository"
    window, _, _ = _days(view, now)
    return (
        ask_for(
            view,
            now,
            about,
            "events",
            by="repo_id",
            event_type="WatchEvent",
            limit=LISTED,
            window=window,
        ),
    )


def _trending_show(scene: Scene) -> dict[str, Any]:
    names, view, answers = scene.names, scene.view, scene.answers
    names.learn_repositories(scene.session, (row.repo_id for row in answers[0].rows))
    event_type = view.event_type or "WatchEvent"
    _, days, note = _days(view, scene.now)
    changes = {"event_type": event_type, **days}
    ranking = _ranking(view, answers[0], "repo_id", names.repository, **changes)
    unit = "stars" if event_type == "WatchEvent" else f"{type_name(event_type).lower()} events"
    return {"ranking": ranking, "unit": unit, "subtitle": f"by {unit}", "note": note}


def _creators_asks(view: View, now: datetime) -> tuple[Ask, ...]:
    about, (window, _, _) = "repositories created, by user", _days(view, now)
    return (
        ask_for(
            view,
            now,
            about,
            "events",
            by="user_id",
            only="repositories",
            limit=LISTED,
            window=window,
        ),
    )


def _creators_show(scene: Scene) -> dict[str, Any]:
    names, view, answers = scene.names, scene.view, scene.answers
    names.learn_users(scene.session, (row.user_id for row in answers[0].rows))
    _, days, note = _days(view, scene.now)
    part, changes = Part(only="repositories"), {"event_type": None, **days}
    ranking = _ranking(view, answers[0], "user_id", names.user, part, **changes)
    ignored = _ignored(view, "CreateEvent", "creations of repositories")
    return {"ranking": ranking, "unit": "repositories", "note": f"{ignored} {note}".strip()}


def _week(view: View) -> View:
    """Return a view of at least a week, unless it is of a time that was chosen."""
    span = RANGES[view.range][1] if view.range else None
    return replace(view, range="7d") if span and span < timedelta(days=7) else view


def _heat_asks(view: View, now: datetime) -> tuple[Ask, ...]:
    view = _week(view)
    return (ask_for(view, now, "events by hour", "events", every=view.hours()),)


def _heat_show(scene: Scene) -> dict[str, Any]:
    view, answers = _week(scene.view), scene.answers
    cells = [[0] * 24 for _ in WEEKDAYS]
    for row in answers[0].rows:
        shown = row.bucket.astimezone(view.place)
        cells[shown.weekday()][shown.hour] += row.events
    greatest = max(map(max, cells))
    # The square root: most hours are far from the busiest one, and would look the same.
    heat = [
        [0 if not value else 1 + int(8 * (value / greatest) ** 0.5 * 0.999) for value in row]
        for row in cells
    ]
    links = [
        [Part(weekday=day + 1, hour=hour).added_to(view.url("/events")) for hour in range(24)]
        for day in range(7)
    ]
    return {
        "days": list(zip(WEEKDAYS, cells, heat, links, strict=True)),
        "greatest": greatest,
        "unit": "events",
        "subtitle": "" if view == scene.view else "the last 7 days",
    }


PANELS: Final[Mapping[str, Panel]] = {
    panel.name: panel
    for panel in (
        Panel(
            name="events",
            title="Events",
            asks=_events_asks,
            show=_events_show,
            hint="Events over time, by type. Drag over the chart to zoom in.",
        ),
        Panel(
            name="commits",
            title="Commits",
            asks=_commits_asks,
            show=_commits_show,
            hint="The distinct commits of pushes that say how many they have.",
        ),
        Panel(
            name="users",
            title="Active users",
            asks=_users_asks,
            show=_users_show,
            hint="Different users with at least one event, counted exactly.",
        ),
        Panel(
            name="active",
            title="Most active users",
            asks=_active_asks,
            show=_active_show,
            hint="The users with the most events.",
        ),
        Panel(
            name="trending",
            title="Trending repositories",
            asks=_trending_asks,
            show=_trending_show,
            hint="The repositories with the most stars, or events of the chosen type.",
        ),
        Panel(
            name="creators",
            title="Repository creators",
            asks=_creators_asks,
            show=_creators_show,
            hint="The users who created the most repositories.",
        ),
        Panel(
            name="heat",
            title="When things happen",
            asks=_heat_asks,
            show=_heat_show,
            hint="Events by hour of the day and day of the week, in the chosen time zone.",
        ),
    )
}


# ------------------------------------------------------- What is not asked of events: the machinery


def load_state(session: Session, names: Names) -> dict[str, Any]:
    """Return the state of the cluster and of the rollups."""
    start = perf_counter()
    statuses: list[RollupStatus] = []
    migrated = session.scalar(text("SELECT to_regclass('github_events_rollups') IS NOT NULL"))
    for rollup in rollups_of(GithubEvent.metadata) if migrated else ():
        if rollup.source is GithubEvent.__table__:
            # An application can leave any of them out.
            with suppress(RollupError):
                statuses += rollup_status(session, rollup)
    version = citus_version(session)
    server = str(session.scalar(text("SHOW server_version"))).split()[0]
    runs = [status.last_run for status in statuses if status.last_run is not None]
    lag = max((status.lag for status in statuses), default=timedelta())
    return {
        "statuses": statuses,
        "refused": sorted(names.refused),
        "pending": statuses[0].pending if statuses else 0,
        "last_run": max(runs, default=None),
        "duration": max((s.duration for s in statuses if s.duration), default=None),
        "lag": lag,
        "behind": lag > timedelta(seconds=5),
        "proved": _proved(statuses),
        "errors": list(dict.fromkeys(s.error for s in statuses if s.error)),
        "incomplete": [s.table for s in statuses if not s.complete],
        "server": f"PostgreSQL {server}",
        "citus": None if version is None else ".".join(map(str, version)),
        "nodes": nodes(session),
        "shards": len(shards(session)),
        "bytes": sum(s.size or 0 for s in statuses),
        "milliseconds": 1000 * (perf_counter() - start),
        "as_of": datetime.now(UTC),
    }


def _proved(statuses: Sequence[RollupStatus]) -> tuple[datetime | None, datetime] | None:
    """Return the range in which every table has been proved to equal its source, if there is one.

    Nothing but what all have in common counts.
    """
    dated = [status for status in statuses if status.proved_until is not None]
    if not statuses or len(dated) < len(statuses):
        return None
    since = max((s.proved_since for s in dated if s.proved_since is not None), default=None)
    until = min(s.proved_until for s in dated if s.proved_until is not None)
    return None if since is not None and since >= until else (since, until)


# --------------------------------------------------------------------------------- Events, raw ones


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsPage:
    """A page of events, the newest first.

    Attributes:
        events: The events.
        after: Where the next page starts, None at the end.
        total: How many there are in all, None if that was not asked.
        sql: The statement.
        milliseconds: How long it took.
        nothing: Whether the database has no events at all.
    """

    events: tuple[Row[*tuple[Any, ...]], ...]
    after: str | None
    total: Asked | None
    sql: str
    milliseconds: float
    nothing: bool


def load_events(
    session: Session,
    names: Names,
    view: View,
    now: datetime,
    *,
    after: tuple[datetime, int, int] | None = None,
    part: Part | None = None,
    limit: int = EVENTS_A_PAGE,
    counted: bool = True,
) -> EventsPage:
    """Return a page of the events of a view: a page costs the same wherever it is.

    Args:
        session: The session.
        names: The names of users and repositories.
        view: The view.
        now: The moment at which it is shown.
        after: The time, number and user of the last event of the page before.
        part: Show a part of them.
        limit: How many events a page has.
        counted: Whether to ask how many there are in all.
    """
    part, total = part or Part(), None
    if counted and part.weekday is None and part.hour is None:
        asked = ask_for(view, now, "events", "events", only=part.only)
        total = asked.answer(session, "fresh")
    start = perf_counter()
    statement = events_statement(view, now, part, after=after)
    events = tuple(session.execute(statement.limit(limit + 1)))
    more = len(events) > limit
    events = events[:limit]
    milliseconds = 1000 * (perf_counter() - start)
    names.learn_users(session, (event.user_id for event in events))
    for event in events:
        name = (event.repo or {}).get("name") if isinstance(event.repo, dict) else None
        if event.repo_id is not None and isinstance(name, str):
            names.of_repositories.setdefault(event.repo_id, name)
    last = None
    if more:
        end = events[-1]
        last = f"{shown_in_url(end.created_at)}~{_number(end.event_id)}~{_number(end.user_id)}"
    return EventsPage(
        events=events,
        after=last,
        total=total,
        sql=str(statement.compile(session.get_bind())),
        milliseconds=milliseconds,
        nothing=not events and is_empty(session),
    )


def _number(value: int | None) -> int:
    return -1 if value is None else value


def events_statement(
    view: View,
    now: datetime,
    part: Part,
    *,
    after: tuple[datetime, int, int] | None,
) -> Select[*tuple[Any, ...]]:
    """Return the statement of `load_events`, without its limit."""
    # What tells one event from another, in the order of time. Rows of the table and not objects:
    # any of its columns may be NULL.
    columns = github_events.c
    key = (
        columns.created_at,
        func.coalesce(columns.event_id, -1),
        func.coalesce(columns.user_id, -1),
    )
    statement = select(github_events).order_by(*(each.desc() for each in key))
    window = view.window(now)
    # Rows without a finite time are in no window, and would come first.
    statement = statement.where(
        columns.created_at > literal_column("'-infinity'")
        if window.since is None
        else columns.created_at >= window.since,
        columns.created_at < (window.until or literal_column("'infinity'")),
    )
    for column in ("event_type", "user_id", "repo_id"):
        if (value := getattr(view, column)) is not None:
            statement = statement.where(columns[column] == value)
    local = func.timezone(view.zone, columns.created_at)
    if part.weekday is not None:
        statement = statement.where(func.extract("isodow", local) == part.weekday)
    if part.hour is not None:
        statement = statement.where(func.extract("hour", local) == part.hour)
    if part.only is not None:
        statement = statement.where(ONLY[part.only])
    if after is not None:
        # The first condition is what an index can start from.
        statement = statement.where(columns.created_at <= after[0], tuple_(*key) < tuple_(*after))
    return statement
