"""The options of the command `load`: what happens to files and events that are not like others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from citus_analytics.cli.values import positive

if TYPE_CHECKING:
    from argparse import ArgumentParser


def add_load_options(load: ArgumentParser) -> None:
    """Add the options of `load`."""
    load.add_argument(
        "--force", action="store_true", help="load again what is loaded, in place of its rows"
    )
    load.add_argument(
        "--unique",
        action="store_true",
        help="leave out rows that are there already, from whatever source",
    )
    load.add_argument(
        "--strict", action="store_true", help="fail at the first event that cannot be stored"
    )
    load.add_argument(
        "--rejects",
        metavar="FILE",
        help="append events that cannot be stored, as JSON lines (after a failed load, some twice)",
    )
    load.add_argument(
        "--format", choices=("auto", "csv", "json"), default="auto", help="default: auto"
    )
    load.add_argument(
        "--jobs",
        type=positive,
        default=1,
        metavar="N",
        help="over how many connections a large file is loaded (default: 1)",
    )
    load.add_argument(
        "--indexes-later",
        action="store_true",
        help="if the table is empty, build its indexes at the end: a first load is faster",
    )
