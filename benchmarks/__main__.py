"""`python -m benchmarks [NAME ...]`: run the benchmarks, and show what is promised and kept."""

from __future__ import annotations

import json
import logging
import sys
from argparse import ArgumentParser
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, TypeAlias

from benchmarks import (
    dashboard,
    fresh_answers,
    linting,
    loading,
    query_overhead,
    rollup_cost,
)
from benchmarks.harness import as_table, embedded_database, migrated, say
from citus_analytics.errors import CitusAnalyticsError
from citus_analytics.migrations import database_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Engine

    from benchmarks.harness import Figure

    Benchmark: TypeAlias = Callable[[Engine, int], list[Figure]]

BENCHMARKS: dict[str, Benchmark] = {
    "fresh_answers": fresh_answers.measure,
    "query_overhead": query_overhead.measure,
    "capture_cost": loading.capture_cost,
    "loading": loading.loading,
    "bulk_loading": loading.bulk_loading,
    "rollup_cost": rollup_cost.measure,
    "linting": linting.measure,
    "dashboard": dashboard.measure,
}


def main() -> None:
    """Run the benchmarks that the command line names. A broken promise is not an error."""
    parser = ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = ", ".join(BENCHMARKS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of: {names}")
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
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in BENCHMARKS]:
        parser.error(f"unknown benchmark {unknown[0]}; there are {names}")
    # Whether there is Citus or not is no news here.
    logging.getLogger("citus_analytics").setLevel(logging.ERROR)
    given = arguments.database_url
    found = {}
    try:
        with nullcontext(given) if given else embedded_database() as database:
            for name in arguments.names or BENCHMARKS:
                say(f"-- {name}")
                with migrated(database) as engine:
                    found[name] = BENCHMARKS[name](engine, arguments.rows)
    except CitusAnalyticsError as error:
        sys.exit(str(error))
    if arguments.json:
        figures = [
            {"benchmark": name, **asdict(figure), "kept": figure.kept}
            for name, figures in found.items()
            for figure in figures
        ]
        print(json.dumps(figures, indent=2))
    else:
        print("\n" + as_table(found))


if __name__ == "__main__":
    main()
