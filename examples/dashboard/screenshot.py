"""Make the picture of the dashboard that the README shows.

`python -m examples.dashboard.screenshot` runs the demo until its history is there, and takes the
picture with the system's Chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

from playwright.sync_api import FloatRect, sync_playwright

from examples.dashboard.app import Server, Settings
from examples.dashboard.demo import running

WIDTH = 1280
# A little more than the picture shows, so that it is loaded by the time it is taken.
HISTORY = timedelta(hours=7)


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(prog="python -m examples.dashboard.screenshot")
    parser.add_argument("file", type=Path, nargs="?", default=Path("docs/dashboard.png"))
    parser.add_argument("--history", type=float, default=90, help="seconds to load history for")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        sys.exit("a screenshot needs Chromium, or Chrome")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with running(4.0, history=HISTORY) as url, sync_playwright() as playwright:
        server = Server(Settings(url=url, demo=True), port=port)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
        thread.start()
        time.sleep(options.history)
        # As root, Chromium does not run with its sandbox.
        browser = playwright.chromium.launch(
            executable_path=browser_path, args=["--no-sandbox", "--hide-scrollbars"]
        )
        page = browser.new_page(
            viewport={"width": WIDTH, "height": 1200},
            color_scheme="dark" if options.dark else "light",
            reduced_motion="reduce",
        )
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("#live-latest tr")
        # Plans have been made by then, and what is shown as the time of an answer is its own.
        page.wait_for_timeout(5_000)
        end = page.locator("#panel-creators").bounding_box()
        if end is None:
            sys.exit("the page has no panel creators")
        height = end["y"] + end["height"] + 6
        clip = FloatRect(x=0, y=0, width=WIDTH, height=height)
        page.screenshot(path=options.file, clip=clip, full_page=True)
        browser.close()
        server.should_exit = True
        thread.join()


if __name__ == "__main__":
    main()
