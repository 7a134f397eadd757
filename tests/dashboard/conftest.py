"""The dashboard as it runs: on a server of its own, on a real database, and in a real browser."""

from __future__ import annotations

import asyncio
import gc
import shutil
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from examples.dashboard.app import Server, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, Page
    from sqlalchemy import URL

    from tests.servers import DatabaseServer

BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
READY = 60.0
PATIENCE = 30_000.0  # Milliseconds that a browser has for anything, on a busy machine.


class Running:
    """A dashboard that runs in a thread.

    Attributes:
        address: Where it is.
        board: The dashboard itself.
    """

    def __init__(self, settings: Settings, port: int) -> None:
        # Nobody else can take the port until it listens.
        listening = socket.create_server(("127.0.0.1", port))
        port = listening.getsockname()[1]
        self._server = Server(settings, port=port)
        self.board = self._server.board
        self.address = f"http://127.0.0.1:{port}"
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._server.serve(sockets=[listening]))
        )

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
    running = Running(Settings(url=url, **settings), port or 0)
    running.start()
    try:
        yield running
    finally:
        running.stop()
        # What it complains of while it is collected is ignored in these tests, and in no others.
        gc.collect()


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
        from playwright.sync_api import expect, sync_playwright
    except ImportError:
        pytest.skip("the package playwright is not installed: `pip install --group dev` has it")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"there is no browser on this machine: none of {', '.join(BROWSERS)}")
    # Its own patience is 5 seconds, whatever that of a context is.
    expect.set_options(timeout=PATIENCE)
    with sync_playwright() as playwright:
        # Chromium refuses to run as root with its sandbox.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser without a history."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE)
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
