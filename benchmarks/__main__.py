"""`python -m benchmarks [NAME ...]`: run the benchmarks, and show what is promised and kept."""

from __future__ import annotations

import json
import logging
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeAlias

from benchmarks import bulk_loading, capture_cost, linting, loading, query_overhead, rollup_cost
from benchmarks.database import embedded_database, migrated
from benchmarks.figures import as_records, as_table
from benchmarks.timing import say
from citus_analytics.errors import CitusAnalyticsError
from citus_analytics.migrations import database_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL, Engine

    from benchmarks.figures import Figure

    Benchmark: TypeAlias = Callable[[Engine, int], list[Figure]]

BENCHMARKS: dict[str, Benchmark] = {
    "query_overhead": query_overhead.measure,
    "capture_cost": capture_cost.measure,
    "loading": loading.measure,
    "bulk_loading": bulk_loading.measure,
    "rollup_cost": rollup_cost.measure,
    "linting": linting.measure,
}


def main() -> None:
    """Run the benchmarks that the command line names. Unkept promises are no errors."""
    arguments = _parse()
    # Whether there is Citus or not is no news here.
    logging.getLogger("citus_analytics").setLevel(logging.ERROR)
    try:
        found = _run(arguments.names or list(BENCHMARKS), arguments.rows, arguments.database_url)
    except CitusAnalyticsError as error:
        sys.exit(str(error))
    print(json.dumps(as_records(found), indent=2) if arguments.json else "\n" + as_table(found))


def _run(names: list[str], rows: int, url: URL | None) -> dict[str, list[Figure]]:
    found = {}
    with nullcontext(url) if url else embedded_database() as database:
        for name in names:
            say(f"-- {name}")
            with migrated(database) as engine:
                found[name] = BENCHMARKS[name](engine, rows)
    return found


def _parse() -> Namespace:
    parser = ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ", ".join(BENCHMARKS)
    parser.add_argument("names", nargs="*", type=_name, metavar="NAME", help=f"any of: {names}")
    parser.add_argument(
        "--database-url",
        type=database_url,
        metavar="URL",
        help="an empty database, on Citus or not; by default an embedded server has one",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=1_000_000,
        metavar="N",
        help="the size that the others follow (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args()


def _name(name: str) -> str:
    if name not in BENCHMARKS:
        raise ArgumentTypeError(f"there is no benchmark {name}, only {', '.join(BENCHMARKS)}")
    return name


if __name__ == "__main__":
    main()
