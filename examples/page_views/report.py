"""Load some page views, ask about them, change the past, and ask again."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import create_engine, delete
from sqlalchemy.orm import Session

from citus_analytics import Question, average, count, maximum, run_rollup, total
from citus_analytics.copy import load_csv
from citus_analytics.migrations import database_url
from examples.page_views.models import PAGES, PageView

if TYPE_CHECKING:
    from collections.abc import Iterator

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PATHS = ("/", "/prices", "/docs")

# Asked of the table, not of a rollup: whichever rollups can answer are found when it is asked.
OF_PAGES = Question(
    PageView,
    measures={
        "views": count(),
        "average": average(PageView.seconds),
        "longest": maximum(PageView.seconds),
    },
    by=[PageView.path],
    where=PageView.site_id == 1,
)
OF_COUNTRIES = Question(
    PageView,
    measures={"views": count()},
    by=[PageView.visitor["country"].astext.label("country")],
    where=PageView.path != "/health",
    ranked="views",
)
OF_HOURS = Question(PageView, measures={"seconds": total(PageView.seconds)}, every="1 hour")


def views_csv(site_id: int, number: int) -> Iterator[bytes]:
    """Yield page views of a site, ten seconds apart, as an export of a web server might have them.

    A path, an address on the web or an open file would do as well.
    """
    yield b"site_id,view_id,path,seconds,visitor,viewed_at\n"
    for view in range(number):
        visitor = json.dumps({"country": "DE" if view % 4 else "FR"}).replace('"', '""')
        viewed_at = (NOON + timedelta(seconds=10 * view)).isoformat()
        path = PATHS[view % len(PATHS)]
        yield f'{site_id},{view},{path},{view % 40},"{visitor}",{viewed_at}\n'.encode()


def print_answers(session: Session) -> None:
    """Print what three questions have for an answer at this moment."""
    # A window that fits no bucket: its edges come from finer ones, and from the views themselves.
    since, until = NOON + timedelta(minutes=1), NOON + timedelta(minutes=14, seconds=30)
    pages = OF_PAGES.ask(session, since=since, until=until)
    for path, views, mean, longest in pages:
        print(f"{path:8} {views:3} views, {mean:.1f} s on average, the longest {longest} s")
    countries = OF_COUNTRIES.ask(session, since=NOON - timedelta(days=7))
    print(", ".join(f"{country}: {views}" for country, views in countries))
    hours = OF_HOURS.ask(session, since=NOON)
    print(", ".join(f"{hour.astimezone(UTC):%H:%M}: {seconds} s" for hour, seconds in hours))
    sources = {
        step.table: None for answer in (pages, countries, hours) for step in answer.plan.steps
    }
    print(f"read from {', '.join(sources)}; {pages.plan.pending} changes pending")


def main() -> None:
    """Load, roll up, ask; then delete, and ask before and after the next run."""
    engine = create_engine(database_url(os.environ["DATABASE_URL"]))
    with Session(engine) as session:
        for site_id in (1, 2):
            load_csv(session, PageView, views_csv(site_id, 90), header=True)
        session.commit()
        run = run_rollup(session, PAGES)
        session.commit()
        print(run.changes, "views added up")
        print_answers(session)

        # A visitor asks to be forgotten. Every answer knows it at once.
        session.execute(delete(PageView).where(PageView.site_id == 1, PageView.path == "/prices"))
        session.commit()
        print_answers(session)
        run = run_rollup(session, PAGES)
        session.commit()
        print(run.changes, "changes added up")
        print_answers(session)


if __name__ == "__main__":
    main()
