"""The application: pages, what they are patched with, and what keeps them safe.

A page comes with its panels filled in, as far as they are answered within a moment. From then on a
stream of server-sent events patches it. One connection of the process listens to what runs publish
(`citus_analytics.rollups.run.CHANNEL`); what views show is asked once for all browsers that look at
the same one, and sent to each as fast as it takes it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
from collections import deque
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar
from urllib.parse import urlencode

import psycopg
import uvicorn
from fastapi import Cookie, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from psycopg import sql
from psycopg.errors import InsufficientPrivilege, QueryCanceled, UndefinedTable
from sqlalchemy import URL, event, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from citus_analytics import (
    ArgumentError,
    RollupError,
    SnapshotError,
    consistent_snapshot,
)
from citus_analytics.catalog import citus_version
from citus_analytics.cluster import Shape, explain_shape
from citus_analytics.migrations import database_url
from citus_analytics.rollups.run import CHANNEL, RunNotice
from examples.dashboard import panels
from examples.dashboard.charts import short
from examples.dashboard.panels import (
    PANELS,
    Asked,
    Names,
    Part,
    View,
    load_events,
    load_state,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from socket import socket

    from markupsafe import Markup
    from sqlalchemy import Connection
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from citus_analytics.rollups.ask import Freshness
    from examples.dashboard.charts import Series

HERE: Final = Path(__file__).parent
log: Final = logging.getLogger("dashboard")

# A page waits so long for its panels; what is not there by then comes by the stream.
_PATIENCE: Final = 0.4
# A panel rests at least so long before it is asked again; and so many times what it took, for each
# view that is looked at, up to half a second or twenty times that: whatever is asked, by however
# many, the database is left to others as well.
_PAUSE: Final = 0.4
_REST: Final = 8.0
# Panels of a page that are asked for at once: one that takes long does not keep the others waiting,
# and what is shown as the time of one is hardly that of others.
_AT_ONCE: Final = 2
# Without anything published a view is looked at anew so often: its range ends now, and events may
# have come that no run has moved yet.
_TICK: Final = 0.5
_HEARTBEAT: Final = 15.0
# So many seconds an answer serves whoever asks for the same panel of the same view; it says as of
# when it is. Otherwise fifty people who reload a page ask what one has just asked. Of a view that
# is looked at, people get what its screens show, which is patched as soon as there is a newer one.
_SHARED: Final = 0.5
_ON_SCREENS: Final = 3.0
_LONGEST_PAYLOAD: Final = 20_000
_SECURITY: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the dashboard runs.

    Attributes:
        url: The database, migrated, and a role that may read its tables.
        hosts: By which names browsers may call the server: a page of somebody else's must not read
            the answers by pointing a name of its own at this machine.
        connections: How many connections there are to the database, beside the one that listens.
        wait: Seconds to wait for one of them.
        statement_timeout: Seconds that a statement may take.
        snapshot_timeout: Seconds for which a comparison may keep commits waiting, on a cluster.
        demo: Whether the events are made up, which the page then says.
    """

    url: URL | str
    hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "[::1]")
    connections: int = 8
    wait: float = 3.0
    statement_timeout: float = 5.0
    snapshot_timeout: float = 1.0
    demo: bool = False


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a panel has no answer: in words that help, none of which come from the server.

    Attributes:
        title: What is wrong.
        advice: What to do about it.
        passes: Whether it may pass by itself, and is tried again.
        why: The reasons in full.
        suggestion: The declaration of a rollup that would serve.
    """

    title: str
    advice: str
    passes: bool = True
    why: str | None = None
    suggestion: str | None = None


def trouble(error: Exception) -> Trouble:
    """Return what people are told of an error; what they are not told is logged, without values."""
    cause = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None)
    if isinstance(error, PoolTimeoutError):
        return Trouble(
            "All connections are in use",
            "More is being asked than the database answers in time. This panel tries again.",
        )
    if isinstance(cause, QueryCanceled):
        return Trouble(
            "This took too long, and was stopped",
            "Choose a shorter range, fewer filters, or an answer from rollups: Fresh.",
        )
    if isinstance(cause, UndefinedTable):
        return Trouble(
            "The database has no tables for this",
            "Migrate it, with “citus-analytics migrate”. This panel tries again.",
        )
    if isinstance(cause, InsufficientPrivilege):
        found = re.search(r"\bgithub_\w+", str(cause))
        tables = found[0] if found else "ALL TABLES IN SCHEMA public"
        return Trouble(
            f"The dashboard may not read {found[0] if found else 'all of its tables'}",
            f"Its role needs the right: “GRANT SELECT ON {tables} TO …”. This panel tries again.",
        )
    if isinstance(error, RollupError):
        said, _, suggestion = str(error).partition(". This one would: ")
        return Trouble(
            "The rollups alone cannot answer this",
            "None of them has all of it. A fresh answer takes the rest from the raw events.",
            passes=False,
            why=said,
            suggestion=suggestion or None,
        )
    if isinstance(error, ArgumentError):
        return Trouble("This cannot be asked", str(error), passes=False)
    if isinstance(cause, psycopg.Error) and (cause.sqlstate or "").startswith("08"):
        # It is the server that says so, which was reached; of the address not who it connects as.
        node = re.search(r"[\w.-]+:\d+", str(cause))
        return Trouble(
            f"A node of the cluster does not answer{f': {node[0]}' if node else ''}",
            "What is on it is missing: start it again. The panel fills by itself as soon as it "
            "answers.",
        )
    if isinstance(error, OperationalError | InterfaceError | OSError | psycopg.Error):
        return Trouble(
            "The database does not answer",
            "The panel fills by itself as soon as it does.",
        )
    log.error("%s", type(error).__name__, exc_info=error)
    return Trouble("This did not work", "The log of the server says why. This panel tries again.")


@dataclass(slots=True)
class Feed:
    """What browsers that look at one view have in common.

    Attributes:
        view: The view.
        readers: For each browser, what it has not taken yet: the latest of each panel.
        latest: What was sent last, by panel.
        answered: Whether each panel about events has an answer.
        task: What asks.
    """

    view: View
    readers: dict[asyncio.Event, dict[str, str]] = field(default_factory=dict)
    latest: dict[str, str] = field(default_factory=dict)
    answered: dict[str, bool] = field(default_factory=dict)
    task: asyncio.Task[None] | None = None

    def send(self, name: str, message: str) -> None:
        """Give every browser something that replaces what it has not taken yet."""
        self.latest[name] = message
        for wake, waiting in self.readers.items():
            waiting[name] = message
            wake.set()


class Dashboard:
    """The dashboard of one process: its connections, its templates, and who looks at what.

    Args:
        settings: How it runs.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        url = database_url(settings.url)
        milliseconds = round(settings.statement_timeout * 1000)
        # Whatever the role may do, what the dashboard does is read, and not for long.
        options = (
            "-c default_transaction_read_only=on "
            f"-c statement_timeout={milliseconds} -c idle_in_transaction_session_timeout=15000 "
            # A day's users fit into memory, and compiling a query would take longer than it does.
            "-c work_mem=32MB -c jit=off"
        )
        self.connect_options: dict[str, Any] = {
            "options": options,
            "application_name": "dashboard",
            "connect_timeout": 5,
            # A listener hears nothing of a connection that has silently gone.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
        }
        self.engine = create_async_engine(
            url,
            pool_size=settings.connections,
            max_overflow=0,
            pool_timeout=settings.wait,
            # A connection that has died while it was idle costs a round trip, not an error.
            pool_pre_ping=True,
            connect_args=self.connect_options,
            # What people look for is nobody's business, not even the log's.
            hide_parameters=True,
        )
        self._address = url.set(drivername="postgresql").render_as_string(hide_password=False)
        self.names = Names()
        self.feeds: dict[View, Feed] = {}
        # What was answered, with when it was asked; and what is being asked.
        self.shown: dict[tuple[str, View], tuple[float, str, float]] = {}
        self.asking: dict[tuple[str, View], asyncio.Task[tuple[str, float | None]]] = {}
        self.listening = False
        self.closing = False
        # Streams leave some connections to whoever opens a page.
        self._streaming = asyncio.Semaphore(max(settings.connections - 2, 1))
        self._changed = asyncio.Event()
        self._state: tuple[float, dict[str, Any]] | None = None
        self._state_lock = asyncio.Lock()
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "short": short,
            "number": lambda value: f"{value:,.0f}",
            "counted": panels.counted,
            "clock": _clock,
            "moment": _moment,
            "ago": _ago,
            "duration": _duration,
            "size": _size,
            "pretty": _pretty,
            "minutes": _minutes,
            "points": _points,
        }
        self._templates.globals |= {
            "asset": _asset,
            "type_name": panels.type_name,
            "RANGES": panels.RANGES,
            "FRESHNESS": panels.FRESHNESS,
            "ZONES": panels.ZONES,
            "TYPES": [*panels.TYPES, *panels.OTHER_TYPES],
            "WEEKDAYS": panels.WEEKDAYS,
            "PANELS": PANELS,
            "COLORS": {key: color for key, (_, color) in panels.TYPES.items()},
            "demo": settings.demo,
        }

    def render(self, template: str, **values: Any) -> str:
        """Render a template."""
        return self._templates.get_template(template).render(values)

    async def load(self, work: Callable[[Session], _Loaded]) -> _Loaded:
        """Do something with a session of its own: in synchronous code, as the library is."""
        async with AsyncSession(self.engine) as session:
            return await session.run_sync(work)

    async def panel(self, name: str, view: View, *, anew: bool = False) -> tuple[str, float | None]:
        """Return the inner HTML of a panel, and the seconds that the database took for it.

        None stands for a panel that has no answer. Who asks for the same at the same time gets the
        same answer.

        Args:
            name: The panel.
            view: The view.
            anew: Whether an answer that is there already will not do.
        """
        key, now = (name, view), perf_counter()
        if not anew and (found := self.shown.get(key)) is not None:
            asked, html, seconds = found
            if now - asked <= (_ON_SCREENS if view in self.feeds else _SHARED):
                return html, seconds
        task = self.asking.get(key)
        if task is None:
            task = self.asking[key] = asyncio.create_task(self._ask(name, view))

            def keep(done: asyncio.Task[tuple[str, float | None]]) -> None:
                del self.asking[key]
                oldest = perf_counter() - _ON_SCREENS
                for old in [each for each, (asked, _, _) in self.shown.items() if asked < oldest]:
                    del self.shown[old]
                if not done.cancelled() and done.exception() is None:
                    html, seconds = done.result()
                    if seconds is None:
                        self.shown.pop(key, None)
                    else:
                        self.shown[key] = (now, html, seconds)

            task.add_done_callback(keep)
        # Whoever goes away leaves the question to the others.
        return await asyncio.shield(task)

    async def _ask(self, name: str, view: View) -> tuple[str, float | None]:
        macros = self._templates.get_template("panels.html").module
        now = datetime.now(UTC)
        try:
            if name == "state":
                data = await self.state()
            elif name == "latest":
                page = await self.load(
                    lambda session: load_events(
                        session, self.names, view, now, limit=8, counted=False
                    )
                )
                data = {"page": page, "milliseconds": page.milliseconds, "as_of": now}
                data |= {"nothing": page.nothing, "freshness": "raw", "pending": None}
            else:
                panel = PANELS[name]
                data = await self.load(lambda session: panel.load(session, self.names, view, now))
            data |= {"name": name, "view": view, "now": now, "names": self.names}
            shown: Markup = getattr(macros, f"show_{name}")(data)
        except Exception as error:  # noqa: BLE001 - whatever it is, the other panels go on
            shown = macros.trouble(name, trouble(error), view)  # type: ignore[attr-defined]
            return str(shown), None
        return str(shown), data["milliseconds"] / 1000

    async def learn(self, view: View) -> None:
        """Look up what the filters of a view are called."""
        user, repository = view.user_id, view.repo_id
        if user is not None and user not in self.names.of_users:
            await self.load(lambda session: self.names.learn_users(session, [user]))
        if repository is not None and repository not in self.names.of_repositories:
            await self.load(lambda session: self.names.learn_repositories(session, [repository]))

    async def state(self) -> dict[str, Any]:
        """Return the state of cluster and rollups; it is the same for all views."""
        async with self._state_lock:
            if self._state is None or perf_counter() - self._state[0] > 0.5:
                loaded = await self.load(lambda session: load_state(session, self.names))
                self._state = (perf_counter(), loaded)
            return {**self._state[1], "listening": self.listening}

    async def panels(self, view: View) -> dict[str, str]:
        """Return the panels of a page, those that are there soon enough."""
        turn = asyncio.Semaphore(_AT_ONCE)

        async def show(name: str) -> tuple[str, float | None]:
            async with turn:
                return await self.panel(name, view)

        tasks = {name: asyncio.create_task(show(name)) for name in ALL_PANELS}
        await asyncio.wait(tasks.values(), timeout=_PATIENCE)
        found = {}
        for name, task in tasks.items():
            if task.done():
                found[name] = task.result()[0]
            else:
                task.cancel()
        return found

    async def listen(self) -> None:
        """Hear what runs publish, for as long as the process lives."""
        pause = 0.25
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._address, autocommit=True, **self.connect_options
                ) as connection:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
                    self.listening, pause = True, 0.25
                    # What was published meanwhile, nobody has heard.
                    self.wake()
                    async for notify in connection.notifies():
                        with suppress(ArgumentError):
                            notice = RunNotice.read(notify.payload)
                            if notice.source == "github_events":
                                self.wake()
            except (psycopg.Error, OSError) as error:
                if self.listening:
                    log.warning("no longer listening: %s", type(error).__name__)
            self.listening = False
            self.wake()
            await asyncio.sleep(pause)
            pause = min(2 * pause, 4.0)

    def close(self) -> None:
        """End all streams: a server that stops waits for its answers to end."""
        self.closing = True
        for feed in self.feeds.values():
            for wake in feed.readers:
                wake.set()

    def wake(self) -> None:
        """Let every feed look at the database."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def follow(self, feed: Feed) -> None:
        """Ask what a view shows, again and again, while somebody looks at it."""
        turn = asyncio.Semaphore(_AT_ONCE)

        async def follow_panel(name: str) -> None:
            took: deque[float] = deque(maxlen=4)
            while True:
                changed = self._changed
                # What is not asked of the events is there at once, whatever is asked of them.
                async with turn if name in PANELS else nullcontext(), self._streaming:
                    start = perf_counter()
                    html, seconds = await self.panel(name, feed.view, anew=bool(took))
                    # With what it costs here, and the longer if the machine has no time.
                    took.append(0.25 if seconds is None else perf_counter() - start)
                feed.send(name, json.dumps({"panel": name, "html": html}))
                if name != "state":
                    feed.answered[name] = seconds is not None
                up = any(feed.answered.values())
                status = "live" if up and self.listening else "polling" if up else "down"
                message = json.dumps({"status": status})
                known = up or len(feed.answered) == len(ALL_PANELS) - 1
                if known and feed.latest.get("status") != message:
                    feed.send("status", message)
                # The least of the last few: a panel does not pay for what was busy beside it.
                least = min(took) if len(took) == took.maxlen else 0.0
                rest = min(_REST * least * len(self.feeds), max(0.5, 20 * least))
                await asyncio.sleep(max(rest, 0.9 if name == "state" else _PAUSE))
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), _TICK)

        async with asyncio.TaskGroup() as group:
            for each in ALL_PANELS:
                group.create_task(follow_panel(each))

    async def stream(self, view: View) -> AsyncIterator[str]:
        """Yield what changes in a view, as server-sent events."""
        feed = self.feeds.setdefault(view, Feed(view))
        wake = asyncio.Event()
        waiting = dict(feed.latest)
        feed.readers[wake] = waiting
        if waiting:
            wake.set()
        if feed.task is None:
            feed.task = asyncio.create_task(self.follow(feed))
        try:
            yield "retry: 1000\n\n"
            while not self.closing:
                try:
                    await asyncio.wait_for(wake.wait(), _HEARTBEAT)
                except TimeoutError:
                    # So that a browser that is gone is noticed.
                    yield ": still here\n\n"
                    continue
                wake.clear()
                messages = [*waiting.values()]
                waiting.clear()
                yield "".join(f"data: {message}\n\n" for message in messages)
        finally:
            del feed.readers[wake]
            if not feed.readers and feed.task is not None:
                feed.task.cancel()
                feed.task = None
                self.feeds.pop(view, None)

    async def compare(self, name: str, view: View) -> dict[str, Any]:
        """Answer a panel's questions in all three ways, of one moment, and see whether they agree.

        Where no snapshot of all nodes of a cluster can be had, for want of rights or of time, each
        node has a moment of its own, and the page says so.
        """
        panel, now = PANELS[name], datetime.now(UTC)

        def answers(connection: Connection) -> list[dict[str, Any]]:
            session = Session(connection, join_transaction_mode="create_savepoint")
            found = []
            distributed = citus_version(session) is not None
            for ask in panel.asks(view, now):
                ways: dict[Freshness, Asked | Trouble] = {}
                shapes: dict[Freshness, Shape] = {}
                for freshness in panels.FRESHNESS:
                    point = session.begin_nested()
                    try:
                        if freshness != "raw":
                            # The first time plans are made, which all later ones share.
                            ask.answer(session, freshness)
                        with sent_by(session) as sent:
                            ways[freshness] = ask.answer(session, freshness)
                        if distributed:
                            # Beside it there are short ones, about the state of the rollups.
                            shapes[freshness] = explain_shape(session, max(sent, key=len))
                    except (DBAPIError, RollupError) as error:
                        ways[freshness] = trouble(error)
                    finally:
                        if point.is_active:
                            point.rollback()
                found.append({"ask": ask, "ways": ways, "shapes": shapes, **_agreement(ways)})
            return found

        apart = None
        try:
            patience = timedelta(seconds=self.settings.snapshot_timeout)
            async with consistent_snapshot(self.engine, timeout=patience) as connection:
                compared = await connection.run_sync(answers)
        except SnapshotError as error:
            cause = getattr(error.__cause__, "orig", None)
            apart = "rights" if isinstance(cause, InsufficientPrivilege) else "busy"
            async with self.engine.connect() as connection:
                compared = await connection.run_sync(answers)
        return {"panel": panel, "compared": compared, "moment": now, "view": view, "apart": apart}


ALL_PANELS: Final = (
    *("events", "commits", "users", "active", "trending", "creators", "heat"),
    *("state", "latest"),
)


@contextmanager
def sent_by(session: Session) -> Iterator[list[str]]:
    """Lend a list of what is sent to the database meanwhile, with its values."""
    connection, sent = session.connection(), list[str]()

    def note(*arguments: Any) -> None:
        driver: Any = connection.connection.driver_connection
        sent.append(psycopg.AsyncClientCursor(driver).mogrify(arguments[2], arguments[3]))

    event.listen(connection, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(connection, "before_cursor_execute", note)


def _agreement(ways: Mapping[Freshness, Asked | Trouble]) -> dict[str, Any]:
    """Return how many rows of the answers differ from those of the raw rows."""
    raw = ways["raw"]
    if isinstance(raw, Trouble):
        return {"differs": {}}
    rows = {freshness: _rows(answer) for freshness, answer in ways.items()}
    return {
        "differs": {
            freshness: len(found ^ (rows["raw"] or set()))
            for freshness, found in rows.items()
            if found is not None
        }
    }


def _rows(answer: Asked | Trouble) -> set[tuple[Any, ...]] | None:
    return None if isinstance(answer, Trouble) else {tuple(row) for row in answer.rows}


class Secured:
    """Gives every answer its headers, those of streams and errors too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def send_secured(message: Message) -> None:
            if message["type"] == "http.response.start":
                path, query = scope["path"], scope["query_string"]
                named = query.startswith(b"v=") or path.startswith("/static/vendor/")
                kept = path.startswith("/static/") and named and message["status"] < 400
                headers = MutableHeaders(scope=message)
                headers.update(_SECURITY)
                headers["Cache-Control"] = (
                    "public, max-age=31536000, immutable" if kept else "no-store"
                )
            await send(message)

        await self.app(scope, receive, send_secured)


class Server(uvicorn.Server):
    """The server of a dashboard, which ends its streams before it waits for what is under way.

    Args:
        settings: How the dashboard runs.
        host: Where it listens.
        port: Its port.
        ready: What is called as soon as it listens.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        ready: Callable[[], object] | None = None,
    ) -> None:
        self.ready = ready
        app = create_app(settings)
        self.board: Dashboard = app.state.board
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=3,
            ws="none",
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        if self.started and self.ready is not None:
            self.ready()

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop."""
        self.board.close()
        await super().shutdown(sockets)


def create_app(settings: Settings) -> FastAPI:
    """Return the application."""
    board = Dashboard(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        listener = asyncio.create_task(board.listen())
        yield
        # Whatever still asks: its connection goes back before the pool is closed.
        asking: list[asyncio.Task[Any]] = [listener]
        asking += (feed.task for feed in board.feeds.values() if feed.task is not None)
        asking += board.asking.values()
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        await board.engine.dispose()

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.board = board
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*settings.hosts])
    app.add_middleware(Secured)
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")

    @app.get("/")
    async def dashboard(request: Request, theme: Annotated[str, Cookie()] = "") -> HTMLResponse:
        view, problems = View.read(request.query_params)
        filled = await board.panels(view)
        # Of a filter that came with the address, no panel may have told the name.
        with suppress(Exception):
            await board.learn(view)
        page = board.render(
            "dashboard.html",
            view=view,
            problems=problems,
            filled=filled,
            window=view.window(datetime.now(UTC)),
            theme=_theme(theme),
            names=board.names,
            **_filters(board, view),
        )
        return HTMLResponse(page, status_code=400 if problems else 200)

    @app.get("/live")
    async def live(request: Request) -> StreamingResponse:
        view, _ = View.read(request.query_params)
        return StreamingResponse(
            board.stream(view),
            media_type="text/event-stream",
            headers={"X-Accel-Buffering": "no"},
        )

    @app.get("/panels/{name}")
    async def panel(name: str, request: Request) -> HTMLResponse:
        if name not in ALL_PANELS:
            raise HTTPException(404)
        view, problems = View.read(request.query_params)
        html, seconds = await board.panel(name, view)
        headers = {} if seconds is None else {"Server-Timing": f"db;dur={1000 * seconds:.2f}"}
        status = 503 if seconds is None else 400 if problems else 200
        return HTMLResponse(html, headers=headers, status_code=status)

    @app.get("/panels/{name}/compare")
    async def compare(name: str, request: Request) -> HTMLResponse:
        if name not in PANELS:
            raise HTTPException(404)
        view, _ = View.read(request.query_params)
        try:
            found = await board.compare(name, view)
        except Exception as error:  # noqa: BLE001 - as for any panel
            return HTMLResponse(
                board.render("trouble.html", trouble=trouble(error), view=view, name=name)
            )
        return HTMLResponse(board.render("compare.html", **found))

    @app.get("/panels/{name}/table")
    async def table(name: str, request: Request) -> HTMLResponse:
        if name not in PANELS:
            raise HTTPException(404)
        view, _ = View.read(request.query_params)
        now = datetime.now(UTC)
        try:
            data = await board.load(
                lambda session: PANELS[name].load(session, board.names, view, now)
            )
        except Exception as error:  # noqa: BLE001 - as for any panel
            return HTMLResponse(
                board.render("trouble.html", trouble=trouble(error), view=view, name=name)
            )
        return HTMLResponse(board.render("table.html", panel=PANELS[name], view=view, **data))

    @app.get("/events")
    async def events(request: Request, theme: Annotated[str, Cookie()] = "") -> HTMLResponse:
        query = request.query_params
        view, problems = View.read(query)
        part, after = Part.read(query), _cursor(query.get("after"))
        now = datetime.now(UTC)
        page, found = None, None
        try:
            page = await board.load(
                lambda session: load_events(
                    session,
                    board.names,
                    view,
                    now,
                    after=after,
                    part=part,
                    counted=after is None,
                )
            )
        except Exception as error:  # noqa: BLE001 - as for any panel
            found = trouble(error)
        shown = board.render(
            "more.html" if "HX-Request" in request.headers and after else "events.html",
            view=view,
            problems=problems,
            page=page,
            trouble=found,
            window=view.window(now),
            names=board.names,
            part=part,
            theme=_theme(theme),
            **_filters(board, view),
        )
        return HTMLResponse(shown, status_code=503 if found and found.passes else 200)

    @app.get("/find")
    async def find(request: Request) -> Response:
        """Send a form on: who or what was named becomes a number in the address."""
        query = dict(request.query_params)
        target = query.pop("to", "/")
        target = target if target in ("/", "/events") else "/"
        for name in ("user", "repo"):
            said = query.get(name, "").strip()
            if not said or said.isdecimal():
                continue
            shown = board.names.repository_called(said) if name == "repo" else None
            if shown is not None:
                query[name] = str(shown)
                continue
            with suppress(Exception):
                query[name] = str(await board.load(_finder(name, said)) or said)
        view, problems = View.read(query)
        address = view.url(target)
        if problems:
            address = f"{target}?{urlencode({k: v for k, v in query.items() if v})}"
        return Response(status_code=303, headers={"Location": address})

    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        try:
            await board.load(lambda session: session.execute(text("SELECT 1")))
        except Exception as error:  # noqa: BLE001 - whatever it is, that is what was asked
            return JSONResponse({"database": trouble(error).title}, status_code=503)
        return JSONResponse({"database": "answers", "listening": board.listening})

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> HTMLResponse:
        view, _ = View.read(request.query_params)
        page = board.render(
            "error.html",
            status=error.status_code,
            view=view,
            theme=_theme(request.cookies.get("theme", "")),
        )
        return HTMLResponse(page, status_code=error.status_code)

    return app


def _finder(name: str, said: str) -> Callable[[Session], int | None]:
    """Return what looks for the number of a user by login, or of a repository by name."""
    if name == "user":
        statement = "SELECT user_id FROM github_users WHERE login = :said ORDER BY 1 LIMIT 1"
    else:
        # Names of repositories are in events alone; whoever filters by one has seen it lately, if
        # not here.
        statement = (
            "SELECT repo_id FROM (SELECT repo_id, repo FROM github_events "
            "WHERE created_at < now() + interval '1 day' ORDER BY created_at DESC LIMIT 50000) e "
            "WHERE repo->>'name' = :said LIMIT 1"
        )

    def look(session: Session) -> int | None:
        found: int | None = session.scalar(text(statement), {"said": said[:200]})
        return found

    return look


def _filters(board: Dashboard, view: View) -> dict[str, Any]:
    """Return the filters that a view has: what each is called, and the address without it."""
    found: list[tuple[str, str, str]] = []
    if view.event_type is not None:
        name = panels.type_name(view.event_type)
        found.append(("Type", name, "event_type"))
    if view.user_id is not None:
        found.append(("User", board.names.user(view.user_id), "user_id"))
    if view.repo_id is not None:
        found.append(("Repository", board.names.repository(view.repo_id), "repo_id"))
    return {"filters": found}


def _theme(cookie: str) -> str:
    return cookie if cookie in ("light", "dark") else ""


def _cursor(said: str | None) -> tuple[datetime, int, int] | None:
    """Return the place in the list of events that an address names."""
    try:
        moment, event_id, user_id = (said or "").split("~")
        place = datetime.fromisoformat(moment), int(event_id), int(user_id)
    except ValueError:
        return None
    fits = place[0].tzinfo and all(-(2**63) <= number < 2**63 for number in place[1:])
    return place if fits else None


@cache
def _asset(path: str) -> str:
    """Return the address of a file, which changes with its content."""
    content = (HERE / "static" / path).read_bytes()
    return f"/static/{path}?v={hashlib.sha256(content).hexdigest()[:12]}"


def _clock(moment: datetime, view: View) -> str:
    shown = moment.astimezone(view.place)
    return f"{shown:%H:%M:%S}.{shown.microsecond // 100_000}"


def _moment(moment: datetime | None, view: View) -> str:
    if moment is None:
        return "never"
    shown = moment.astimezone(view.place)
    return f"{shown:%Y-%m-%d %H:%M:%S}"


def _ago(moment: datetime | None, now: datetime) -> str:
    if moment is None:
        return "never"
    past = now - moment
    return "just now" if past < timedelta(milliseconds=50) else f"{_duration(past)} ago"


def _duration(time: timedelta | float) -> str:
    seconds = time.total_seconds() if isinstance(time, timedelta) else time
    if seconds < 0.01:
        return f"{max(seconds, 0) * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 90:
        return f"{seconds:.1f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def _size(number: int) -> str:
    shown, units = float(number), ["TB", "GB", "MB", "kB", "bytes"]
    while shown >= 1000 and len(units) > 1:
        shown, _ = shown / 1000, units.pop()
    return f"{shown:.0f} {units[-1]}"


def _minutes(edges: Sequence[datetime]) -> str:
    """Return moments as a script reads them: the first in minutes since 1970, then the steps."""
    minutes = [round(edge.timestamp() / 60) for edge in edges]
    return ",".join(map(str, [*minutes[:1], *(b - a for a, b in pairwise(minutes))]))


def _points(series: Sequence[Series]) -> str:
    """Return what a chart is drawn of, as a script reads it."""
    return json.dumps(
        [
            {"name": each.name, "color": each.color, "values": [*map(int, each.values)]}
            for each in series
        ]
    )


def _pretty(payload: Any) -> str:
    """Return a payload as people read it, as much of it as a page should have."""
    shown = json.dumps(payload, indent=2, ensure_ascii=False)
    return (
        shown if len(shown) <= 20_000 else f"{shown[:20_000]}\n… {len(shown):,} characters in all"
    )
