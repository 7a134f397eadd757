"""Who may write, and who may use the rights of a rollup's owner."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from citus_analytics import run_rollup
from citus_analytics.github.models import GITHUB_ROLLUP_1MIN
from tests.rollups import add, assert_adds_up, event

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

    from tests.servers import DatabaseServer


def test_writers_need_no_rights_on_the_log(
    engine: Engine, database: URL, server: DatabaseServer
) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE ROLE only_writer LOGIN"))
    try:
        with engine.begin() as connection:
            connection.execute(text("GRANT INSERT ON github_events TO only_writer"))
        writer = create_engine(database.set(username="only_writer"), poolclass=NullPool)
        with writer.begin() as connection:
            add(connection, event(1), event(2))
        with writer.begin() as connection, pytest.raises(DBAPIError, match="permission denied"):
            connection.execute(text("SELECT count(*) FROM github_events_log"))
        with engine.begin() as connection:
            run_rollup(connection, GITHUB_ROLLUP_1MIN)
            assert_adds_up(connection)
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP OWNED BY only_writer"))
            connection.execute(text("DROP ROLE only_writer"))


def test_nobody_else_can_use_the_rights_of_the_owner(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE ROLE stranger LOGIN"))
    try:
        with engine.connect() as connection:
            connection.execute(text("SET LOCAL ROLE stranger"))
            connection.execute(text("CREATE TEMPORARY TABLE mine (user_id bigint)"))
            attach = text(
                "CREATE TRIGGER mine AFTER INSERT ON mine REFERENCING NEW TABLE AS added "
                "FOR EACH STATEMENT EXECUTE FUNCTION github_events_capture()"
            )
            connection.execute(attach)
            with pytest.raises(DBAPIError, match="for another table than mine"):
                connection.execute(text("INSERT INTO mine VALUES (1)"))
            connection.rollback()
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP ROLE stranger"))
