"""The examples run as their README says, on PostgreSQL and on Citus."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from sqlalchemy import NullPool, create_engine, inspect, text

from tests.servers import ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from sqlalchemy import URL

ROOT = Path(__file__).parents[2]


def python(database: URL, *arguments: str, **environment: str) -> str:
    """Run a Python module from the top of the repository; return what it prints."""
    url = database.set(drivername="postgresql").render_as_string(hide_password=False)
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | {"DATABASE_URL": url} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def page_views_report() -> str:
    """Return what the report has to say, from the views as they are in the example's CSV."""
    paths = ("/", "/prices", "/docs")
    views = [
        (site, paths[number % 3], number % 40, "DE" if number % 4 else "FR", 10 * number)
        for site in (1, 2)
        for number in range(90)
    ]

    def answers(pending: int) -> list[str]:
        seconds: dict[str, list[int]] = {}
        for site, path, duration, _, at in views:
            if site == 1 and 60 <= at < 870:
                seconds.setdefault(path, []).append(duration)
        pages = [
            f"{path:8} {len(each):3} views, {mean(each):.1f} s on average, "
            f"the longest {max(each)} s"
            for path, each in sorted(seconds.items())
        ]
        countries = Counter(country for _, _, _, country, _ in views).most_common()
        tables = "page_views_rollup_5_minutes, page_views, page_views_countries"
        return [
            *pages,
            ", ".join(f"{country}: {number}" for country, number in countries),
            f"12:00: {sum(duration for _, _, duration, _, _ in views)} s",
            f"read from {tables}; {pending} changes pending",
        ]

    lines = ["180 views added up", *answers(0)]
    views = [view for view in views if view[:2] != (1, "/prices")]
    lines += [*answers(30), "30 changes added up", *answers(0)]
    return "\n".join(lines) + "\n"


def test_page_views(empty_database: URL) -> None:
    alembic = ("alembic", "-c", "examples/page_views/alembic.ini")
    python(empty_database, *alembic, "upgrade", "head")
    assert "No new upgrade operations" in python(empty_database, *alembic, "check")
    assert python(empty_database, "examples.page_views.report") == page_views_report()
    python(empty_database, *alembic, "downgrade", "base")
    engine = create_engine(empty_database, poolclass=NullPool)
    assert inspect(engine).get_table_names() == ["alembic_version"]


GITHUB_STARS = """\
user 1 has 1023 events on the starred repository
user 2 has 187 events on the starred repository
user 3 has 114 events on the starred repository
user 1 sees 1149 events, 945 commits
user 2 sees 215 events, 180 commits
user 3 sees 137 events, 145 commits
"""


def test_github_stars(empty_database: URL) -> None:
    alembic = ("alembic", "-c", "examples/github_stars/alembic.ini")
    python(empty_database, *alembic, "upgrade", "heads")
    assert "No new upgrade operations" in python(empty_database, *alembic, "check")
    assert python(empty_database, "examples.github_stars.report") == GITHUB_STARS
    python(empty_database, *alembic, "downgrade", "base")
    engine = create_engine(empty_database, poolclass=NullPool)
    assert inspect(engine).get_table_names() == ["alembic_version"]


@ON_POSTGRESQL_ONLY
def test_notebook(empty_database: URL, tmp_path: Path) -> None:
    plots = {"PLOTS": str(tmp_path / "plots"), "MPLBACKEND": "Agg"}
    printed = python(empty_database, "examples.notebook.github_events", **plots)
    engine = create_engine(empty_database, poolclass=NullPool)
    with engine.connect() as connection:
        # Plain SQL over the raw events.
        weekend = connection.scalar(
            text(
                "SELECT (5.0 * count(*) FILTER (WHERE day >= 6)) "
                "/ (2.0 * count(*) FILTER (WHERE day < 6)) FROM (SELECT extract(isodow FROM "
                "created_at AT TIME ZONE 'Europe/Berlin') AS day FROM github_events) AS e"
            )
        )
        trending = connection.execute(
            text(
                "SELECT repo_id, count(*), min(repo ->> 'name') FROM github_events "
                "WHERE event_type = 'WatchEvent' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 10"
            )
        ).all()
        contributors = connection.execute(
            text(
                "SELECT user_id, count(*) FROM github_events WHERE repo_id = :repo "
                "GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 5"
            ),
            {"repo": trending[0][0]},
        ).all()
        share = connection.scalar(
            text(
                "SELECT sum(events) FILTER (WHERE place <= people / 10) / sum(events) FROM ("
                "SELECT count(*) AS events, row_number() OVER (ORDER BY count(*) DESC) AS place, "
                "count(*) OVER () AS people FROM github_events GROUP BY user_id) AS u"
            )
        )
    assert f"a day of the weekend has {weekend:.0%} of the events" in printed
    for repo_id, stars, name in trending:
        assert re.search(rf"│ {repo_id} +┆ {stars} +┆ {name} +│", printed)
    people = ", ".join(f"user {user}: {events}" for user, events in contributors)
    assert f"{trending[0][2]}: {people}\n" in printed
    assert f"a tenth of the people has {share:.0%} of the events" in printed
    assert "fresh, from github_events_by_type" in printed
    saved = {path.name for path in (tmp_path / "plots").iterdir() if path.stat().st_size > 5000}
    assert {name[0] for name in saved} == set("124579")
