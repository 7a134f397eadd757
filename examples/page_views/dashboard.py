"""Write some page views, and ask which pages and which countries were seen, at any moment."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from sqlalchemy import create_engine, delete, func, select
from sqlalchemy.orm import Session

from citus_analytics import run_rollup
from citus_analytics.migrations import database_url
from examples.page_views.models import COUNTRIES, PAGES, PageView

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PATHS = ("/", "/prices", "/docs")


def add_views(session: Session, site_id: int, count: int) -> None:
    """Add page views of one site, ten seconds apart."""
    session.add_all(
        PageView(
            site_id=site_id,
            view_id=number,
            path=PATHS[number % len(PATHS)],
            seconds=number % 40,
            visitor={"country": "DE" if number % 4 else "FR"},
            viewed_at=NOON + timedelta(seconds=10 * number),
        )
        for number in range(count)
    )


def print_pages(session: Session, site_id: int) -> None:
    """Print the pages of one site: the answer comes from one shard."""
    pages = PAGES.fresh("1 day at Europe/Berlin").c
    statement = (
        select(pages.path, pages.views, pages.average, pages.longest)
        .where(pages.site_id == site_id)
        .order_by(pages.path)
    )
    for path, views, average, longest in session.execute(statement):
        print(f"{path:8} {views:3} views, {average:.1f} s on average, the longest {longest} s")


def print_countries(session: Session) -> None:
    """Print the countries of all sites: the answer comes from a small reference table."""
    countries = COUNTRIES.fresh().c
    statement = (
        select(countries.country, func.sum(countries.views))
        .group_by(countries.country)
        .order_by(countries.country)
    )
    print(", ".join(f"{country}: {views}" for country, views in session.execute(statement)))


def main() -> None:
    """Write, ask, change the past, and ask again: before a run, and after it."""
    engine = create_engine(database_url(os.environ["DATABASE_URL"]))
    with Session(engine) as session:
        for site_id in (1, 2):
            add_views(session, site_id, 90)
        session.commit()
        print(run_rollup(session, PAGES).changes, "views added up")
        session.commit()
        print_pages(session, 1)

        # A visitor asks to be forgotten. Fresh answers know it at once.
        session.execute(delete(PageView).where(PageView.site_id == 1, PageView.path == "/prices"))
        session.commit()
        print_pages(session, 1)
        print_countries(session)
        print(run_rollup(session, PAGES).changes, "changes added up")
        session.commit()
        print_countries(session)


if __name__ == "__main__":
    main()
