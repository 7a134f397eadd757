"""Load made-up events, star some repositories, and ask who stars what they work on."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

from sqlalchemy import create_engine, func, select
from sqlalchemy.orm import Session

from citus_analytics import GithubEvent, load_events
from citus_analytics.github.sample import Sample
from citus_analytics.migrations import database_url
from examples.github_stars.models import Star

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def star_busiest(session: Session) -> None:
    """Let each of the first users star the repository that they are busiest on."""
    for user_id in (1, 2, 3):
        busiest = (
            select(GithubEvent.repo_id)
            .where(GithubEvent.user_id == user_id)
            .group_by(GithubEvent.repo_id)
            .order_by(func.count().desc(), GithubEvent.repo_id)
            .limit(1)
        )
        repo_id = session.scalars(busiest).one()
        session.add(Star(user_id=user_id, repo_id=repo_id, starred_at=NOON))


def main() -> None:
    """Load, star, report."""
    engine = create_engine(database_url(os.environ["DATABASE_URL"]))
    sample = Sample(events=5000, users=50, since=NOON, until=NOON + timedelta(hours=1))
    report = (
        select(Star.user_id, func.count())
        .join(
            GithubEvent,
            (GithubEvent.user_id == Star.user_id) & (GithubEvent.repo_id == Star.repo_id),
        )
        .group_by(Star.user_id)
        .order_by(Star.user_id)
    )
    with Session(engine) as session:
        load_events(session, sample.events_csv())
        star_busiest(session)
        session.commit()
        for user_id, events in session.execute(report):
            print(f"user {user_id}: {events} events on the starred repository")


if __name__ == "__main__":
    main()
