"""Workers that die in the middle of writes and runs."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from citus_analytics.github.models import GITHUB_ROLLUP_1MIN
from citus_analytics.rollups.run import run_rollup
from tests.rollups import NOON, add, assert_adds_up, event
from tests.servers import ON_BREAKABLE_CITUS

if TYPE_CHECKING:
    from tests.servers import DatabaseServer

pytestmark = [ON_BREAKABLE_CITUS, pytest.mark.faults]


def write_and_run_until_it_breaks(engine: Engine) -> None:
    with suppress(DBAPIError):
        while True:
            with engine.begin() as connection:
                add(connection, *(event(user, at=NOON) for user in range(20)))
            with engine.begin() as connection:
                run_rollup(connection, GITHUB_ROLLUP_1MIN)


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.3])
def test_a_killed_worker(server: DatabaseServer, engine: Engine, delay: float) -> None:
    with engine.begin() as connection:
        add(connection, *(event(user, at=NOON) for user in range(20)))
    worker = server.nodes[1]
    thread = threading.Thread(target=write_and_run_until_it_breaks, args=(engine,))
    thread.start()
    time.sleep(delay)
    os.kill(worker.pid, signal.SIGKILL)
    thread.join()
    with engine.connect() as connection, pytest.raises(DBAPIError):
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
    worker.start()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        # What Citus's own daemon does every minute.
        connection.execute(text("SELECT recover_prepared_transactions()"))
    with engine.begin() as connection:
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
        assert_adds_up(connection)
        users = connection.execute(text("SELECT count(DISTINCT user_id) FROM github_events"))
        assert users.scalar_one() == 20
