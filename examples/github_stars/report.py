"""Load made-up events, star some repositories, and look at what happens on those."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import create_engine, event, func, select
from sqlalchemy.orm import Session, sessionmaker, with_loader_criteria

from citus_analytics import GithubEvent, commits_per_hour, count_events
from citus_analytics.github.load import load_events
from citus_analytics.github.sample import Sample
from citus_analytics.migrations import database_url
from examples.github_stars.models import Star

if TYPE_CHECKING:
    from sqlalchemy.orm import ORMExecuteState

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
USERS = (1, 2, 3)

# The sessions of somebody who is logged in, with `info={"user_id": ...}`.
UserSession = sessionmaker()


@event.listens_for(UserSession, "do_orm_execute")
def only_starred(state: ORMExecuteState) -> None:
    """Let every query see events on the user's starred repositories only.

    The analytics of the library are such queries.
    """
    starred = select(Star.repo_id).where(Star.user_id == state.session.info["user_id"])
    state.statement = state.statement.options(
        with_loader_criteria(GithubEvent, GithubEvent.repo_id.in_(starred))
    )


def star_busiest(session: Session, user_id: int) -> None:
    """Star the repository that a user is busiest on."""
    busiest = (
        select(GithubEvent.repo_id)
        .where(GithubEvent.user_id == user_id)
        .group_by(GithubEvent.repo_id)
        .order_by(func.count().desc(), GithubEvent.repo_id)
        .limit(1)
    )
    session.add(Star(user_id=user_id, repo_id=session.scalars(busiest).one(), starred_at=NOON))


def print_own_events(session: Session) -> None:
    """Print how many events each user has on what they star: a join that stays on one node."""
    own_events = (
        select(Star.user_id, func.count())
        .join(
            GithubEvent,
            (GithubEvent.user_id == Star.user_id) & (GithubEvent.repo_id == Star.repo_id),
        )
        .group_by(Star.user_id)
        .order_by(Star.user_id)
    )
    for user_id, events in session.execute(own_events):
        print(f"user {user_id} has {events} events on the starred repository")


def main() -> None:
    """Load, star, report."""
    engine = create_engine(database_url(os.environ["DATABASE_URL"]))
    sample = Sample(events=5000, users=50, since=NOON, until=NOON + timedelta(hours=1))
    with Session(engine) as session:
        load_events(session, sample.events_csv())
        for user_id in USERS:
            star_busiest(session, user_id)
        session.commit()
        print_own_events(session)
    for user_id in USERS:
        with UserSession(bind=engine, info={"user_id": user_id}) as session:
            commits = sum(hour.commits or 0 for hour in commits_per_hour(session))
            print(f"user {user_id} sees {count_events(session)} events, {commits} commits")


if __name__ == "__main__":
    main()
