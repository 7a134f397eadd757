"""A server with events that flow in live, and a service that rolls them up: what there is to see.

The events are those of `citus_analytics.github.sample`, with names that are easier to tell apart.
The latest hour is there from the start. What came before is loaded while people look, the newest
first: events that come late, and every fresh answer has them at once.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Final

from sqlalchemy import URL, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from citus_analytics import GITHUB_LOGINS, GITHUB_ROLLUP_1MIN, run_rollup
from citus_analytics.github.load import load_events, load_users
from citus_analytics.github.migrate import upgrade
from citus_analytics.github.sample import Sample
from citus_analytics.migrations import database_url
from citus_analytics.rollups.run import audit, catch_up
from citus_analytics.server import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

log: Final = logging.getLogger("dashboard.demo")

READER: Final = "dashboard"
USERS: Final = 6_000
REPOSITORIES: Final = 9_000
_FIRST: Final = (
    *("amber", "arctic", "brave", "bright", "calm", "clever", "cosmic", "crisp", "early"),
    *(
        "fluent",
        "gentle",
        "golden",
        "hidden",
        "humble",
        "indigo",
        "keen",
        "little",
        "lucid",
        "mellow",
    ),
    *("misty", "nimble", "noble", "patient", "plain", "quick", "quiet", "rapid", "rusty", "silent"),
    *("silver", "sleepy", "smooth", "solar", "steady", "still", "sunny", "swift", "tidy", "upbeat"),
    *("vivid", "warm", "wild", "wise", "young", "zesty", "distant", "marble", "velvet"),
)
_SECOND: Final = (
    *("badger", "beacon", "birch", "brook", "cedar", "comet", "coral", "crane", "delta", "ember"),
    *("falcon", "fern", "finch", "fjord", "gecko", "harbor", "heron", "iris", "juniper", "koala"),
    *("lark", "lemur", "lynx", "maple", "marten", "meadow", "nebula", "newt", "orchid", "osprey"),
    *("otter", "panda", "pebble", "pine", "plover", "quartz", "raven", "reef", "robin", "sable"),
    *("sparrow", "spruce", "tapir", "thistle", "tiger", "tulip", "willow", "wren"),
)
_THINGS: Final = (
    *(
        "api",
        "atlas",
        "auth",
        "bench",
        "blog",
        "bot",
        "cache",
        "charts",
        "cli",
        "client",
        "compiler",
    ),
    *(
        "config",
        "core",
        "docs",
        "dotfiles",
        "editor",
        "engine",
        "fonts",
        "forms",
        "gateway",
        "graph",
    ),
    *(
        "icons",
        "index",
        "infra",
        "kernel",
        "kit",
        "lang",
        "ledger",
        "lib",
        "linter",
        "maps",
        "mesh",
    ),
    *("notes", "parser", "pipeline", "player", "proxy", "queue", "router", "runtime"),
    *(
        "schema",
        "sdk",
        "search",
        "server",
        "shell",
        "site",
        "store",
        "stream",
        "sync",
        "tasks",
        "theme",
    ),
    *("toolkit", "types", "ui", "vault", "view", "vm", "web", "wiki", "worker"),
)
_NAMES: Final = re.compile(rb"\b(user|repo|org)-(\d+)\b")


def named(csv: bytes) -> bytes:
    """Give the numbered users, repositories and organizations of a sample names, each its own."""

    def name(found: re.Match[bytes]) -> bytes:
        kind, number = found[1], int(found[2])
        if kind == b"repo":
            again, which = divmod(number * 37, len(_THINGS))
            return f"{_THINGS[which]}{f'-{number}' if number > len(_THINGS) else ''}".encode()
        # Coprime with their product: no two of the first 2,304 are the same.
        place = (number * 1_009) % (len(_FIRST) * len(_SECOND))
        first, second = divmod(place, len(_SECOND))
        again = (number - 1) // (len(_FIRST) * len(_SECOND))
        said = f"{_FIRST[first]}-{_SECOND[second]}" + (f"-{again + 1}" if again else "")
        return (said if kind == b"user" else f"{said}-labs").encode()

    return _NAMES.sub(name, csv)


def rhythm(moment: datetime, now: datetime) -> float:
    """Return how busy an hour is, beside one around now: by day and week, and growing over time."""
    hour = moment.hour + moment.minute / 60
    day = 1 + 0.45 * math.sin((hour - 9) / 24 * 2 * math.pi)
    week = 0.6 if moment.weekday() >= 5 else 1.0
    return day * week * math.pow(0.5, (now - moment) / timedelta(days=1.2))


class Demo:
    """Events that flow into a database, and a service that rolls them up.

    Args:
        url: The database, migrated, and a role that may write.
        rate: Events a second, on average.
        every: Seconds between two runs.
        history: How far back the events go that are loaded at the start.
    """

    def __init__(
        self,
        url: URL,
        *,
        rate: float = 5.0,
        every: float = 0.25,
        history: timedelta = timedelta(days=7),
    ) -> None:
        self.rate, self.every, self.history = rate, every, history
        self.paused = threading.Event()
        self._engine = create_engine(url, pool_size=4)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._rows = self._endless_rows()
        self._reading = threading.Lock()
        self._now = self._loaded_since = datetime.now(UTC)

    def load_latest(self, span: timedelta = timedelta(hours=1)) -> None:
        """Load the users, and the events of the latest time before now."""
        now = self._now
        sample = Sample(events=0, since=now - span, until=now, users=USERS)
        with self._engine.begin() as connection:
            load_users(connection, map(named, sample.users_csv()))
            run_rollup(connection, GITHUB_LOGINS)
        while self._loaded_since > now - span:
            self._load_earlier(now)
        for _ in catch_up(self._engine, GITHUB_ROLLUP_1MIN):
            pass
        # The log is empty now, and as long as all of it was: what reads it would go through that.
        with self._engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.exec_driver_sql("VACUUM github_events_log")

    def start(self) -> None:
        """Let events flow in, roll them up, prove that they add up, and load what was before."""
        for work in (self._flow, self._roll_up, self._prove, self._load_history):
            thread = threading.Thread(target=work, name=work.__name__, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Stop all of it."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)
        self._engine.dispose()

    def _endless_rows(self) -> Iterator[bytes]:
        """Yield rows of events without their last column, the time."""
        then, chance = datetime(2026, 1, 1, tzinfo=UTC), Random(1)  # noqa: S311
        start = int(self._now.timestamp() * 10_000)
        for number in count():
            sample = Sample(
                events=5_000,
                since=then,
                until=then + timedelta(hours=1),
                users=USERS,
                repositories=REPOSITORIES,
                # A process that goes on where another has been makes up others.
                first_event_id=start + number * 5_000,
                seed=start + number,
            )
            for block in sample.events_csv():
                # No value of a sample has a line feed of its own: in JSON it is escaped.
                for row in block.splitlines():
                    # The first user and the first repository have more than is good to look at.
                    first = b'}",1,' in row or b'/repo-1""' in row
                    if not first or chance.random() < 0.2:
                        yield named(row).rpartition(b",")[0]

    def _write(self, times: Iterable[datetime]) -> None:
        """Write an event for each of some times."""
        with self._reading:
            rows = [next(self._rows) + f",{time.isoformat()}\n".encode("ascii") for time in times]
        with self._engine.begin() as connection:
            load_events(connection, [b"".join(rows)])

    def _load_earlier(self, now: datetime) -> None:
        """Load the minutes before those that have been loaded, as busy as they are to be."""
        span = timedelta(minutes=4)
        since = self._loaded_since - span
        busy = rhythm(since + span / 2, now) / rhythm(now, now)
        chance = Random(since.timestamp())  # noqa: S311
        events = round(self.rate * busy * span.total_seconds() * chance.uniform(0.92, 1.08))
        self._write(since + span * chance.random() for _ in range(events))
        self._loaded_since = since

    def _load_history(self) -> None:
        now = self._now
        with self._trying(), self._engine.connect() as connection:
            oldest = connection.scalar(text("SELECT min(created_at) FROM github_events"))
            self._loaded_since = oldest or now
        while self._loaded_since > now - self.history:
            start = monotonic()
            with self._trying():
                self._load_earlier(now)
            # Half of the time is for whoever looks.
            if self._stop.wait(max(monotonic() - start, 0.05)):
                return

    def _flow(self) -> None:
        """Write events as they happen: a few times a second."""
        last, owed = datetime.now(UTC), 0.0
        while not self._stop.wait(0.2):
            now = datetime.now(UTC)
            # More at times, less at others, and as many on average.
            busy = 1 + 0.35 * math.sin(now.timestamp() / 7) * math.sin(now.timestamp() / 3)
            owed += (now - last).total_seconds() * self.rate * busy
            events, step = int(owed), now - last
            if events:
                with self._trying():
                    self._write(last + step * ((i + 1) / events) for i in range(events))
            owed -= events
            last = now

    def _roll_up(self) -> None:
        while not self._stop.wait(self.every):
            if self.paused.is_set():
                continue
            with self._trying(), self._engine.begin() as connection:
                run_rollup(connection, GITHUB_ROLLUP_1MIN)

    def _prove(self) -> None:
        """Prove the rollups right, a part at a time."""
        while not self._stop.wait(5):
            with self._trying():
                for _ in audit(
                    self._engine, GITHUB_ROLLUP_1MIN, budget=timedelta(milliseconds=200)
                ):
                    if self._stop.is_set():
                        return

    @contextmanager
    def _trying(self) -> Iterator[None]:
        """Go on after an error: the server may be back in a moment."""
        try:
            yield
        except SQLAlchemyError as error:
            log.warning("%s; trying again", type(error).__name__)
            self._stop.wait(1)


def create_reader(url: URL, role: str = READER) -> URL:
    """Create a role that may read the tables and nothing else; return its address."""
    engine = create_engine(url)
    with engine.begin() as connection:
        quoted = connection.dialect.identifier_preparer.quote(role)
        exists = text("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :role)")
        if not connection.scalar(exists, {"role": role}):
            connection.exec_driver_sql(f"CREATE ROLE {quoted} LOGIN")
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA public TO {quoted}")
        connection.exec_driver_sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {quoted}")
    engine.dispose()
    return url.set(username=role)


@contextmanager
def running(rate: float, *, every: float = 0.25, history: timedelta) -> Iterator[URL]:
    """Run an embedded server with everything on it; lend the address for readers."""
    # Nothing of it is to last: a commit need not wait for the disk.
    with EmbeddedServer(settings={"synchronous_commit": "off"}) as server:
        upgrade(server.url, citus="skip")
        Demo(server.url, rate=rate).load_latest()
        reader = create_reader(server.url)
        with writing(server.url, rate=rate, every=every, history=history):
            yield reader


@contextmanager
def writing(url: URL, *, rate: float, every: float, history: timedelta) -> Iterator[None]:
    """Let a process of its own write events and roll them up: answers need not wait for Python."""
    settings = {"rate": rate, "every": every, "history": history.total_seconds()}
    process = subprocess.Popen(  # noqa: S603 - ourselves
        [sys.executable, "-m", "examples.dashboard.demo", json.dumps(settings)],
        stdin=subprocess.PIPE,
        # Not among the arguments, which everybody on the machine can read.
        env={**os.environ, "DATABASE_URL": url.render_as_string(hide_password=False)},
        # Ctrl-C is for this process, which then ends that one.
        start_new_session=True,
    )
    try:
        yield
    finally:
        # Ends its standard input, and waits for it.
        process.communicate(timeout=20)


def main() -> None:
    """Write until standard input ends, as it does whatever becomes of the process at its other end.

    The database is DATABASE_URL.
    """
    settings = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    demo = Demo(
        database_url(os.environ["DATABASE_URL"]),
        rate=settings["rate"],
        every=settings["every"],
        history=timedelta(seconds=settings["history"]),
    )
    demo.start()
    sys.stdin.read()
    demo.stop()


if __name__ == "__main__":
    main()
