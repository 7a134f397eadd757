"""The dashboard under load: fifty people look at it while five hundred events a second come in."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import cycle
from random import Random
from socket import socket
from statistics import median, quantiles
from time import monotonic, perf_counter, sleep
from typing import TYPE_CHECKING

import httpx
from sqlalchemy import text

from benchmarks.harness import Figure, say
from examples.dashboard.demo import USERS, Demo, writing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

CLIENTS = 50
RATE = 500
WARM_UP = 5
SECONDS = 15
COMMITS = 15
# What people look at: most at what they get first, some at what they have filtered.
VIEWS = ("", "", "", "?range=1h", "?range=24h", "?type=PushEvent", "?range=1h&user=3")
PANELS = ("events", "commits", "users", "active", "trending", "creators", "heat")


def measure(engine: Engine, rows: int) -> list[Figure]:
    """Measure what people wait for, on one machine with the server, the writer and the clients.

    Fifty clients each have a stream of one of five views open, and, once all of them have arrived,
    ask for a panel every second.
    Beside them somebody opens panels of a user that nobody else looks at, which is told apart.
    Measured: the 95th percentile of the time of a panel, as the client sees it; the time from the
    commit of an event to a message of the stream that has it, of a view that nobody else looks at;
    and the first contentful paint in the system's Chromium, where there is one.

    Promised: 50 ms a panel, a second from commit to screen, a second to the first paint.
    """
    demo = Demo(engine.url, rate=rows / 6 / 3_600)
    demo.load_latest(timedelta(hours=6))
    write = writing(engine.url, rate=RATE, every=0.25, history=timedelta())
    with write, dashboard(engine) as address:
        waits, alone, refused, seen = asyncio.run(load(engine, address))
        paints = first_paints(address)
    figures = []
    for panel, times in waits.items():
        p95 = quantiles(times, n=20)[-1] * 1e3
        say(f"{panel}: median {median(times) * 1e3:,.0f} ms, p95 {p95:,.0f} ms of {len(times)}")
    p95 = quantiles(alone, n=20)[-1] * 1e3
    say(f"nobody else looks at: median {median(alone) * 1e3:,.0f} ms, p95 {p95:,.0f} ms")
    every = [time for times in waits.values() for time in times]
    figures.append(Figure("panels that were not answered", len(refused), "at most", 0))
    figures.append(Figure("p95 of a panel, ms", quantiles(every, n=20)[-1] * 1e3, "at most", 50))
    say("commit to screen: " + ", ".join(f"{time * 1e3:,.0f} ms" for time in seen))
    figures.append(Figure("commit to screen, ms, p95", max(seen) * 1e3, "at most", 1_000))
    if paints:
        say("first paint: " + ", ".join(f"{time:,.0f} ms" for time in paints))
        figures.append(Figure("first paint, ms", median(paints), "at most", 1_000))
    return figures


@contextmanager
def dashboard(engine: Engine) -> Iterator[str]:
    """Run the dashboard in a process of its own; lend its address."""
    with socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    url = engine.url.render_as_string(hide_password=False)
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.dashboard"],
        env={**os.environ, "DATABASE_URL": url, "PORT": str(port)},
        stdout=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        end = monotonic() + 30
        while True:
            try:
                httpx.get(f"{address}/healthz")
                break
            except httpx.TransportError:
                if monotonic() > end:
                    raise
                sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=10)


async def load(
    engine: Engine, address: str
) -> tuple[dict[str, list[float]], list[float], list[str], list[float]]:
    """Return the seconds that clients waited for each panel, and for panels of views of their own.

    Then what clients were told who got no answer, and the seconds from commit to screen.
    """
    waits: dict[str, list[float]] = {panel: [] for panel in PANELS}
    alone: list[float] = []
    # The server closes what has been idle for five seconds, perhaps while it is used again.
    limits = httpx.Limits(max_connections=None, keepalive_expiry=2)
    async with httpx.AsyncClient(base_url=address, timeout=30, limits=limits) as client:
        streams = [
            asyncio.create_task(look(address, view))
            for view, _ in zip(cycle(VIEWS), range(CLIENTS), strict=False)
        ]
        await asyncio.sleep(WARM_UP)
        end = monotonic() + SECONDS
        chance = Random(0)
        refused: list[str] = []

        async def ask(view: str) -> None:
            await asyncio.sleep(chance.random())
            while monotonic() < end:
                panel = chance.choice(PANELS)
                start = perf_counter()
                answer = await client.get(f"/panels/{panel}{view}")
                took = perf_counter() - start
                if answer.is_success:
                    waits[panel].append(took)
                else:
                    refused.append(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", answer.text)).strip())
                await asyncio.sleep(max(1 - took, 0))

        async def ask_alone() -> None:
            while monotonic() < end:
                start = perf_counter()
                panel, user = chance.choice(PANELS), chance.randrange(100, USERS)
                answer = await client.get(f"/panels/{panel}?range=24h&user={user}")
                alone.append(perf_counter() - start)
                if not answer.is_success:
                    refused.append(f"of one user: {answer.status_code}")
                await asyncio.sleep(0.5)

        asking = [ask(view) for view, _ in zip(cycle(VIEWS), range(CLIENTS), strict=False)]
        asking.append(ask_alone())
        watching = asyncio.create_task(commit_to_screen(engine, client))
        await asyncio.gather(*asking)
        seen = await watching
        for words, times in Counter(refused).items():
            say(f"not answered, {times} times: {words}")
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
    return waits, alone, refused, seen


async def look(address: str, view: str) -> None:
    """Read a stream for ever, without taking it apart: that would be what is measured."""
    host, port = address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 20)
    writer.write(f"GET /live{view} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert b" 200 " in await reader.readline()
    try:
        while await reader.read(1 << 18):
            pass
    finally:
        writer.close()


async def commit_to_screen(engine: Engine, client: httpx.AsyncClient) -> list[float]:
    """Return the seconds from the commits of events to the messages of a stream that have them."""
    took = []
    statement = text(
        "INSERT INTO github_events (event_id, user_id, event_type, created_at) "
        "VALUES (-:number, 1, 'SponsorshipEvent', :now)"
    )
    async with client.stream("GET", "/live?range=1h&type=SponsorshipEvent") as stream:
        lines = stream.aiter_lines()
        for number in range(1, COMMITS + 1):
            await asyncio.sleep(0.5)
            with engine.begin() as connection:
                connection.execute(statement, {"number": number, "now": datetime.now(UTC)})
            start = perf_counter()
            async for line in lines:
                message = json.loads(line[6:]) if line.startswith("data: ") else {}
                found = re.search(r'class="big"[^>]*>([\d,]+)<', message.get("html", ""))
                if message.get("panel") == "events" and found and int(found[1]) == number:
                    break
            took.append(perf_counter() - start)
    return took


def first_paints(address: str) -> list[float]:
    """Return the milliseconds to the first paint of the page; none without a browser."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        say("first paint: this machine has no Chromium")
        return []
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for _ in range(5):
            page = browser.new_page()
            page.goto(address)
            found.append(
                page.evaluate(
                    "new Promise(done => new PerformanceObserver(list => done("
                    "list.getEntriesByName('first-contentful-paint')[0].startTime))"
                    ".observe({type: 'paint', buffered: true}))"
                )
            )
            page.close()
        browser.close()
    return [float(each) for each in found]
