"""Run the dashboard: on a server of its own with made-up events, or on any migrated database."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
from contextlib import ExitStack, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from citus_analytics.migrations import database_url
from examples.dashboard.app import Server, Settings
from examples.dashboard.demo import running, writing

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it until it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m examples.dashboard", description=__doc__)
    environment = os.environ
    parser.add_argument("--host", default=environment.get("HOST", "127.0.0.1"))
    parser.add_argument("--port", type=int, default=int(environment.get("PORT", "8000")))
    parser.add_argument(
        "--rate",
        type=float,
        default=float(environment.get("RATE", "5")),
        help="events a second that are made up (default: 5, or RATE)",
    )
    parser.add_argument(
        "--write",
        action="store_true",
        help="with DATABASE_URL: let made-up events flow into that database, and roll them up; "
        "otherwise nothing is written to it",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which browsers may call the server, beside localhost",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    with ExitStack() as stack:
        given = environment.get("DATABASE_URL")
        if given:
            url = database_url(given)
            if options.write:
                stack.enter_context(
                    writing(url, rate=options.rate, every=0.25, history=timedelta())
                )
        else:
            print("Starting a PostgreSQL, and loading an hour of made-up events …", flush=True)
            url = stack.enter_context(running(options.rate, history=timedelta(days=7)))
        hosts = ("localhost", "127.0.0.1", "[::1]", *options.allow_host)
        demo = not given or options.write
        shown = "localhost" if options.host in ("127.0.0.1", "0.0.0.0") else options.host  # noqa: S104
        address = f"http://{shown}:{options.port}/"
        server = Server(
            Settings(url=url, hosts=hosts, demo=demo),
            host=options.host,
            port=options.port,
            ready=lambda: print(f"The dashboard is at {address} (Ctrl-C ends it)", flush=True),
        )
        # The server has ended orderly when it passes the signal on.
        with suppress(KeyboardInterrupt):
            asyncio.run(server.serve())


if __name__ == "__main__":
    main()
