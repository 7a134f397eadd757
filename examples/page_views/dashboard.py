"""Write some page views, roll them up, and ask which pages hold their readers longest."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from sqlalchemy import create_engine, delete, func, select
from sqlalchemy.orm import Session

from citus_analytics import run_rollup
from citus_analytics.migrations import database_url
from examples.page_views.models import PAGE_VIEWS_5MIN, PageView, PageViews5Min

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
PAGES = ("/", "/prices", "/docs")


def add_views(session: Session, site_id: int, count: int) -> None:
    """Add page views of one site, ten seconds apart."""
    session.add_all(
        PageView(
            site_id=site_id,
            view_id=number,
            path=PAGES[number % len(PAGES)],
            seconds=number % 40,
            viewed_at=NOON + timedelta(seconds=10 * number),
        )
        for number in range(count)
    )


def print_pages(session: Session, site_id: int) -> None:
    """Print the pages of one site: the answer comes from one shard of the rollup."""
    pages = (
        select(
            PageViews5Min.path,
            func.sum(PageViews5Min.views),
            func.max(PageViews5Min.longest),
        )
        .where(PageViews5Min.site_id == site_id)
        .group_by(PageViews5Min.path)
        .order_by(PageViews5Min.path)
    )
    for path, views, longest in session.execute(pages):
        print(f"site {site_id} {path:8} {views:3} views, the longest {longest} s")


def main() -> None:
    """Write, roll up, ask; then change the past, and ask again."""
    engine = create_engine(database_url(os.environ["DATABASE_URL"]))
    with Session(engine) as session:
        for site_id in (1, 2):
            add_views(session, site_id, 90)
        session.commit()
        print(run_rollup(session, PAGE_VIEWS_5MIN).groups_written, "groups written")
        session.commit()
        print_pages(session, 1)

        # A visitor asks to be forgotten: the rollup follows.
        session.execute(delete(PageView).where(PageView.site_id == 1, PageView.path == "/prices"))
        session.commit()
        print(run_rollup(session, PAGE_VIEWS_5MIN).groups_removed, "groups removed")
        session.commit()
        print_pages(session, 1)


if __name__ == "__main__":
    main()
