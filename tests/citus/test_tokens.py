"""`at_least` on a cluster: Citus commits on the coordinator first, then on other nodes."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import NullPool, create_engine, insert, text

from citus_analytics import (
    GITHUB_LOGINS,
    GITHUB_ROLLUP_1MIN,
    GithubEvent,
    Question,
    RollupError,
    commit_token,
    consistent_snapshot,
    count,
    run_rollup,
    top_repository_creators,
)
from citus_analytics.github.models import github_users
from tests.processes import eventually, wait_for_daemon
from tests.rollups import CREATED, NOON, add, event
from tests.servers import ON_BREAKABLE_CITUS, ON_CITUS_ONLY, execute, query_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection, Engine

    from tests.servers import DatabaseServer

EVENTS = Question(GithubEvent, measures={"events": count()})
USERS = 20


def write(connection: Connection, users: int = USERS) -> str:
    """Write rows of many users, which are on both workers, and return the token before a commit."""
    add(connection, *(event(user, at=NOON) for user in range(users)))
    return commit_token(connection)


def notes(connection: Connection, token: str) -> list[str]:
    """Return what Citus has noted of a transaction, until its daemon clears that away."""
    noted = "SELECT gid FROM pg_dist_transaction WHERE xmin = CAST(CAST(:token AS xid8) AS xid)"
    return list(connection.scalars(text(noted), {"token": token}))


@contextmanager
def setting(url: URL, name: str, value: str) -> Iterator[None]:
    """Change a setting of a whole node for a while."""
    execute(url, f"ALTER SYSTEM SET {name} = '{value}'", "SELECT pg_reload_conf()")
    # A new session has it when the server has told all processes; and the checkpointer, which tells
    # those that commit whether to wait for replicas, has read it before it does a checkpoint.
    assert eventually(lambda: query_text(url, f"SHOW {name}") == value)
    execute(url, "CHECKPOINT")
    try:
        yield
    finally:
        execute(url, f"ALTER SYSTEM RESET {name}", "SELECT pg_reload_conf()")


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
    # A worker that waits for a replica, which is not there, in whatever it commits.
    waiting = setting(server.nodes[1].url, "synchronous_standby_names", "nobody")
    with waiting, engine.connect() as connection:
        committing.start()
        deadline = time.monotonic() + 60
        while not tokens or not connection.scalar(visible, {"token": tokens[0]}):
            assert time.monotonic() < deadline
            connection.rollback()
        # The other worker commits, too, a moment after the coordinator.
        while not (seen := connection.scalar(raw)):
            assert time.monotonic() < deadline
            connection.rollback()
        assert 0 < seen < USERS, "this is what must not be taken for all of it"
        for freshness in ("fresh", "raw", "rolled_up"):
            with pytest.raises(RollupError, match="committed here, and not yet on"):
                EVENTS.ask(connection, at_least=tokens[0], freshness=freshness)
        connection.rollback()
    committing.join(60)
    assert not committing.is_alive()
    with engine.connect() as connection:
        assert EVENTS.ask(connection, at_least=tokens[0]).rows[0].events == USERS


@ON_BREAKABLE_CITUS
@pytest.mark.faults
def test_a_run_that_a_worker_has_not_got_yet(server: DatabaseServer, engine: Engine) -> None:
    """On one node logins are shared by now, and on the other they are not yet."""

    def users(first: int, login: str, repositories: int) -> None:
        with engine.begin() as connection:
            for number in range(USERS):
                user = {"user_id": first + number, "login": f"{login} {number}"}
                connection.execute(insert(github_users), user)
                created = event(first + number, **CREATED)
                add(connection, *([created] * repositories))

    def ask() -> list[int]:
        with engine.connect() as connection:
            found = top_repository_creators(connection, limit=USERS)
            raw = top_repository_creators(connection, limit=USERS, freshness="raw")
        assert found == raw
        return [each.repositories for each in found]

    def commit() -> None:
        with engine.connect() as connection:
            connection.execute(text("SET LOCAL citus.propagate_set_commands = 'local'"))
            connection.execute(text("SET LOCAL synchronous_commit = local"))
            run_rollup(connection, GITHUB_LOGINS)
            connection.commit()

    users(0, "shared", 1)
    users(100, "other", 3)
    with engine.begin() as connection:
        run_rollup(connection, GITHUB_LOGINS)
    users(200, "shared", 5)
    with engine.begin() as connection:
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
    assert ask() == [6] * USERS
    committing = threading.Thread(target=commit, daemon=True)
    with setting(server.nodes[1].url, "synchronous_standby_names", "nobody"):
        committing.start()
        pending = "SELECT count(*) FROM github_users_log"
        assert eventually(lambda: 0 < int(query_text(engine.url, pending)) < USERS)
        assert ask() == [6] * USERS
    committing.join(60)
    assert not committing.is_alive()
    assert ask() == [6] * USERS


@ON_BREAKABLE_CITUS
@pytest.mark.faults
def test_what_a_failed_node_has_only_prepared(server: DatabaseServer, engine: Engine) -> None:
    """As Citus leaves it behind: its note of the transaction, and that on the node."""
    assert engine.url.database is not None
    workers = [node.url_for(engine.url.database) for node in server.nodes[1:]]
    undecided = setting(server.url, "citus.recover_2pc_interval", "1h")
    with undecided, engine.connect() as connection:
        # Whatever it is set to, the daemon clears notes away once when it starts.
        wait_for_daemon(engine.url)
        token = write(connection)
        connection.commit()
        assert EVENTS.ask(connection, at_least=token).rows[0].events == USERS
        gid = notes(connection, token)[0]
        connection.rollback()
        for url in workers:
            with create_engine(url, poolclass=NullPool).connect() as worker:
                worker.execute(text("CREATE TABLE left_behind ()"))
                worker.execute(text(f"PREPARE TRANSACTION '{gid}'"))
        with pytest.raises(RollupError, match="not visible everywhere"):
            EVENTS.ask(connection, at_least=token)
        connection.rollback()
        for url in workers:
            execute(url, f"COMMIT PREPARED '{gid}'")
        assert EVENTS.ask(connection, at_least=token).rows[0].events == USERS


@ON_CITUS_ONLY
def test_snapshots_that_are_older_than_the_question(engine: Engine) -> None:
    def ask(connection: Connection, token: str) -> Any:
        return EVENTS.ask(connection, at_least=token, freshness="raw").rows[0].events

    for number in range(1, 4):
        with engine.connect() as connection:
            token = write(connection)
            connection.commit()
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            events = number * USERS
            assert ask(connection, token) == events, "the nodes are looked at after the token"
            if notes(connection, token):
                with pytest.raises(RollupError, match=r"Ask before anything else is read, at READ"):
                    ask(connection, token)
                break
    else:
        pytest.fail("there was no note of any transaction")
    with engine.connect() as connection:
        assert [ask(connection, token) for _ in range(2)] == [events] * 2
        # A transaction sees what it has written itself.
        assert ask(connection, write(connection)) == events + USERS
    with consistent_snapshot(engine) as connection:
        assert [ask(connection, token) for _ in range(2)] == [events] * 2


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
