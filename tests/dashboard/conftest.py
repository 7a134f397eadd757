"""The dashboard as it runs: on a server of its own, on a real database, and in a real browser."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from examples.dashboard.app import Server, Settings
from tests.servers import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, Page
    from sqlalchemy import URL

    from tests.servers import DatabaseServer

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
READY = 20.0


class Running:
    """A dashboard that runs in a thread.

    Attributes:
        address: Where it is.
        board: The dashboard itself.
    """

    def __init__(self, settings: Settings, port: int) -> None:
        self._server = Server(settings, port=port)
        self.board = self._server.board
        self.address = f"http://127.0.0.1:{port}"
        self._thread = threading.Thread(target=lambda: asyncio.run(self._server.serve()))

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._thread.start()
        end = time.monotonic() + READY
        while not self._server.started:
            assert time.monotonic() < end
            assert self._thread.is_alive()
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop it, as Ctrl-C does."""
        self._server.should_exit = True
        self._thread.join(timeout=READY)
        assert not self._thread.is_alive()

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Return what it answers."""
        return httpx.get(self.address + path, timeout=READY, **options)


@contextmanager
def dashboard_of(url: URL, *, port: int | None = None, **settings: Any) -> Iterator[Running]:
    """Run a dashboard on a database."""
    running = Running(Settings(url=url, **settings), port or free_ports(1)[0])
    running.start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def server(postgres: DatabaseServer) -> DatabaseServer:
    """The plain PostgreSQL alone; one test has a cluster."""
    return postgres


@pytest.fixture
def dashboard(database: URL) -> Iterator[Running]:
    """A dashboard on `database`."""
    with dashboard_of(database) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The system's Chromium. Skips where there is none, or no Playwright to drive it.

    The last lines of the run say how many tests that were. It goes with its module: while it is
    there, an event loop runs in this thread, in which other tests could not run theirs.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("the package playwright is not installed: `pip install --group dev` has it")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"there is no browser on this machine: none of {', '.join(BROWSERS)}")
    with sync_playwright() as playwright:
        # Chromium refuses to run as root with its sandbox.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser without a history, in which a failure takes seconds and not minutes."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(8_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext, dashboard: Running) -> Iterator[Page]:
    """A page that must have nothing to say in the console at the end.

    It is closed before the dashboard ends, which would be something to say.
    """
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    yield page
    page.close()
    assert said == []
