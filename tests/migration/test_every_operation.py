"""Every operation: there and back, as a script, and on a server without Citus."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import NullPool, create_engine, text

from citus_analytics.errors import OperationError
from citus_analytics.migrations import Transaction
from tests.operations import (
    CASES,
    DROP_SCHEMAS,
    IRREVERSIBLE,
    SCHEMAS,
    catalogs,
    run,
    script_of,
)
from tests.programs import psql
from tests.servers import ON_CITUS_ONLY, ON_POSTGRESQL_ONLY, execute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL, Connection

    from citus_analytics.migrations import CitusOperation, Policy
    from tests.servers import DatabaseServer

PARTITIONS = {"create_time_partitions", "drop_old_time_partitions"}
NEED_CITUS = sorted(set(CASES) - PARTITIONS)


@pytest.fixture(scope="module")
def shop(server: DatabaseServer) -> Iterator[URL]:
    """The address of a database for all tests of this module."""
    with server.database("empty") as url:
        if server.kind == "citus":
            execute(url, "CREATE EXTENSION citus_columnar")
        yield url


@pytest.fixture
def connection(shop: URL) -> Iterator[Connection]:
    """A connection without transactions to the tables that the operations are about."""
    engine = create_engine(shop, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(SCHEMAS.replace(":", "\\:")))
        yield connection
        connection.execute(text(DROP_SCHEMAS))


@contextmanager
def migrating(operation: CitusOperation, connection: Connection) -> Iterator[Connection]:
    """Lend a connection in, or not in, a transaction, as the operation likes it."""
    if operation.transaction is Transaction.FORBIDDEN:
        yield connection
    else:
        with create_engine(connection.engine.url, poolclass=NullPool).begin() as transaction:
            yield transaction


@ON_CITUS_ONLY
@pytest.mark.parametrize("name", CASES)
def test_there_and_back_and_there_again_between_other_statements(
    name: str, connection: Connection
) -> None:
    case = CASES[name]
    run(connection, *case.before)
    before = catalogs(connection)
    with migrating(case.operation, connection) as transaction:
        run(transaction, case.operation)
        # Which Citus refuses if it has used several connections to a node at once.
        transaction.execute(text("CREATE FUNCTION one() RETURNS int LANGUAGE sql AS 'SELECT 1'"))
    connection.execute(text("DROP FUNCTION one"))
    after = catalogs(connection)
    assert after != before
    if name in IRREVERSIBLE:
        with pytest.raises(OperationError, match="cannot be reversed"):
            case.operation.reverse()
        return
    run(connection, case.operation.reverse())
    assert catalogs(connection) == before
    run(connection, case.operation.reverse().reverse())
    assert catalogs(connection) == after


@pytest.mark.parametrize("name", CASES)
def test_a_script_does_the_same(
    name: str, server: DatabaseServer, shop: URL, connection: Connection
) -> None:
    case = CASES[name]
    run(connection, *case.before, case.operation)
    online = catalogs(connection)
    script = script_of(*case.before, case.operation)
    psql(server, shop, f"SET client_min_messages = error;\n{DROP_SCHEMAS}{SCHEMAS}{script}")
    assert catalogs(connection) == online


@ON_POSTGRESQL_ONLY
@pytest.mark.parametrize("policy", ["auto", "skip"])
@pytest.mark.parametrize("name", NEED_CITUS)
def test_without_citus_all_stays_as_it_is(
    name: str, policy: Policy, connection: Connection
) -> None:
    before, notices = catalogs(connection), []
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    run(connection, CASES[name].operation, citus=policy)
    assert catalogs(connection) == before
    if policy == "auto":
        (notice,) = notices
        assert notice.startswith("Citus is not installed in this database: ")
    else:
        assert notices == []


@ON_POSTGRESQL_ONLY
@pytest.mark.parametrize("name", NEED_CITUS)
def test_without_citus_where_it_is_required(name: str, connection: Connection) -> None:
    before = catalogs(connection)
    with pytest.raises(OperationError, match=r"Citus is required.*CREATE EXTENSION citus"):
        run(connection, CASES[name].operation, citus="require")
    assert catalogs(connection) == before


@ON_CITUS_ONLY
@pytest.mark.parametrize("name", NEED_CITUS)
def test_skip_leaves_citus_alone(name: str, connection: Connection) -> None:
    before = catalogs(connection)
    run(connection, CASES[name].operation, citus="skip")
    assert catalogs(connection) == before


@ON_CITUS_ONLY
def test_columnar_tables_where_only_that_extension_is_missing(connection: Connection) -> None:
    connection.execute(text("DROP EXTENSION citus_columnar"))
    operation, before = CASES["alter_table_set_access_method"].operation, catalogs(connection)
    run(connection, operation)
    assert catalogs(connection) == before
    with pytest.raises(OperationError, match=r"citus_columnar is required.*citus_columnar, or"):
        run(connection, operation, citus="require")
    connection.execute(text("CREATE EXTENSION citus_columnar"))
