"""`at_least` on a cluster: Citus commits on the coordinator first, then on other nodes."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import NullPool, create_engine, text

from citus_analytics import (
    GithubEvent,
    Question,
    RollupError,
    commit_token,
    consistent_snapshot,
    count,
)
from tests.rollups import NOON, add, event
from tests.servers import ON_BREAKABLE_CITUS, ON_CITUS_ONLY, execute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

    from tests.servers import DatabaseServer

EVENTS = Question(GithubEvent, measures={"events": count()})
USERS = 20


def write(connection: Connection, users: int = USERS) -> str:
    """Write rows of many users, which are on both workers, and return the token before a commit."""
    add(connection, *(event(user, at=NOON) for user in range(users)))
    return commit_token(connection)


@contextmanager
def never_flushed(server: DatabaseServer) -> Iterator[None]:
    """Let a worker wait for a replica that is not there, in whatever it commits."""
    (worker,) = (node.url for node in server.nodes[1:2])
    execute(
        worker,
        "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
        "SELECT pg_reload_conf()",
    )
    try:
        yield
    finally:
        execute(worker, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")


@ON_BREAKABLE_CITUS
@pytest.mark.faults
def test_a_commit_that_a_worker_has_not_got_yet(server: DatabaseServer, engine: Engine) -> None:
    """As the coordinator sees it, everything has been committed; a part of it is still prepared."""
    tokens: list[str] = []

    def commit() -> None:
        with engine.connect() as connection:
            # What is set here is of the transaction, and so of PREPARE, not of COMMIT PREPARED.
            connection.execute(text("SET LOCAL citus.propagate_set_commands = 'local'"))
            connection.execute(text("SET LOCAL synchronous_commit = local"))
            tokens.append(write(connection))
            connection.commit()

    committing = threading.Thread(target=commit, daemon=True)
    raw = text("SELECT count(*) FROM github_events")
    visible = text("SELECT pg_visible_in_snapshot(CAST(:token AS xid8), pg_current_snapshot())")
    with never_flushed(server), engine.connect() as connection:
        time.sleep(0.5)
        committing.start()
        deadline = time.monotonic() + 20
        while not tokens or not connection.scalar(visible, {"token": tokens[0]}):
            assert time.monotonic() < deadline
            connection.rollback()
        seen = connection.scalar(raw)
        assert seen is not None
        assert 0 < seen < USERS, "this is what must not be taken for all of it"
        for freshness in ("fresh", "raw", "rolled_up"):
            with pytest.raises(RollupError, match="committed here, and not yet on"):
                EVENTS.ask(connection, at_least=tokens[0], freshness=freshness)
        connection.rollback()
    committing.join(20)
    with engine.connect() as connection:
        assert EVENTS.ask(connection, at_least=tokens[0]).rows[0].events == USERS


@ON_CITUS_ONLY
def test_what_a_failed_node_has_only_prepared(server: DatabaseServer, engine: Engine) -> None:
    """As Citus leaves it behind: its note of the transaction, and that on the node."""
    with engine.connect() as connection:
        token = write(connection)
        connection.commit()
        gids = connection.scalars(
            text(
                "SELECT gid FROM pg_dist_transaction "
                "WHERE xmin = CAST(CAST(CAST(:token AS text) AS xid8) AS xid)"
            ),
            {"token": token},
        ).all()
        assert len(gids) > 1
        connection.rollback()
        assert engine.url.database is not None
        for node in server.nodes[1:]:
            address = node.url_for(engine.url.database)
            with create_engine(address, poolclass=NullPool).connect() as worker:
                worker.execute(text("CREATE TABLE left_behind ()"))
                worker.execute(text(f"PREPARE TRANSACTION '{gids[0]}'"))
        with pytest.raises(RollupError, match="not visible everywhere"):
            EVENTS.ask(connection, at_least=token)
        connection.rollback()
        for node in server.nodes[1:]:
            execute(node.url_for(engine.url.database), f"COMMIT PREPARED '{gids[0]}'")
        assert EVENTS.ask(connection, at_least=token).rows[0].events == USERS


@ON_CITUS_ONLY
def test_snapshots_that_are_older_than_the_question(engine: Engine) -> None:
    def ask(connection: Connection, token: str) -> Any:
        return EVENTS.ask(connection, at_least=token, freshness="raw").rows[0].events

    with engine.connect() as connection:
        token = write(connection)
        connection.commit()
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        assert ask(connection, token) == USERS, "the nodes are looked at after the token"
        with pytest.raises(RollupError, match=r"Ask before anything else is read, at READ COMM"):
            ask(connection, token)
    with engine.connect() as connection:
        assert [ask(connection, token) for _ in range(2)] == [USERS] * 2
        # A transaction sees what it has written itself.
        assert ask(connection, write(connection)) == 2 * USERS
    with consistent_snapshot(engine) as connection:
        assert [ask(connection, token) for _ in range(2)] == [USERS] * 2


@ON_CITUS_ONLY
def test_rights(engine: Engine) -> None:
    role = "reader_of_tokens"
    with engine.connect() as connection:
        token = write(connection)
        connection.commit()
    execute(engine.url, f"CREATE ROLE {role} LOGIN", f"GRANT SELECT ON github_events TO {role}")
    try:
        reader = create_engine(engine.url.set(username=role), poolclass=NullPool)
        with reader.connect() as connection:
            answer = EVENTS.ask(connection, at_least=token, freshness="raw")
        assert answer.rows[0].events == USERS
    finally:
        execute(engine.url, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
