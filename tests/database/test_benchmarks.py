"""The benchmarks run on every server, find all their figures, and leave nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.harness import Figure, as_table, migrated
from citus_analytics import ArgumentError
from tests.servers import execute, query_text

if TYPE_CHECKING:
    from sqlalchemy import URL

REPOSITORY = Path(__file__).parents[2]
FIGURES = {
    "query_overhead": 14,
    "capture_cost": 1,
    "loading": 2,
    "bulk_loading": 3,
    "rollup_cost": 8,
}


@pytest.mark.endurance
def test_all_figures_are_found(empty_database: URL) -> None:
    address = empty_database.render_as_string(hide_password=False)
    arguments = ["--database-url", address, "--rows", "2000", "--json", *FIGURES]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    figures: list[dict[str, Any]] = json.loads(done.stdout)
    assert Counter(figure["benchmark"] for figure in figures) == FIGURES
    relations = "SELECT count(*) FROM pg_class WHERE relname ~ '(github|alembic|benchmarks)'"
    assert query_text(empty_database, relations) == "0"


def test_a_database_with_tables_is_refused_and_left_alone(empty_database: URL) -> None:
    execute(empty_database, "CREATE TABLE precious (id bigint)")
    with pytest.raises(ArgumentError, match=r"public\.precious"), migrated(empty_database):
        pass
    assert query_text(empty_database, "SELECT to_regclass('precious')") == "precious"
    assert query_text(empty_database, "SELECT to_regclass('github_events')") == "None"


def test_the_table_of_figures() -> None:
    figures = [
        Figure("COPY", 1.1543, "at most", 1.15),
        Figure("tutorial's function / run", 1234.5, "at least", 60),
    ]
    assert as_table({"speed": figures}).splitlines() == [
        "benchmark  figure                            promised      kept",
        "speed      COPY                        1.15  at most 1.15  NO",
        "speed      tutorial's function / run  1,234  at least 60   yes",
    ]
