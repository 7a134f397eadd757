"""Behind PgBouncer in transaction mode, where a connection to the server lasts a transaction."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from sqlalchemy import URL, BigInteger, Column, MetaData, Table, create_engine, select, text
from sqlalchemy.exc import ProgrammingError

from citus_analytics.github.migrate import configuration, downgrade, upgrade
from citus_analytics.schema import Distributed
from tests.autogenerate import Application, differences
from tests.servers import free_ports, query_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="this machine has no pgbouncer")


@contextmanager
def bouncing(url: URL, *, pool_size: int) -> Iterator[URL]:
    """Run PgBouncer in front of a database; yield the address of the database behind it."""
    assert PROGRAM is not None
    host = str(url.query.get("host") or url.host)
    database_port = url.query.get("port") or url.port
    # It refuses to run as root, and has to reach the socket of the server.
    owner = Path(host).stat() if host.startswith("/") else Path(tempfile.gettempdir()).stat()
    account: dict[str, Any] = {}
    if os.geteuid() == 0:
        account = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
    (port,) = free_ports(1)
    folder = Path(tempfile.mkdtemp())
    (folder / "pgbouncer.ini").write_text(
        f"""
[databases]
* = host={host} port={database_port} user={url.username}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {pool_size}
server_round_robin = 1
"""
    )
    folder.chmod(0o755)
    process = subprocess.Popen(
        [PROGRAM, "-q", str(folder / "pgbouncer.ini")], cwd="/", stderr=subprocess.PIPE, **account
    )
    bounced = URL.create(
        "postgresql+psycopg", url.username, host="127.0.0.1", port=port, database=url.database
    )
    try:
        for attempt in range(600):
            try:
                query_text(bounced, "SELECT 1")
                break
            except Exception:
                assert process.poll() is None, process.stderr and process.stderr.read()
                if attempt == 599:
                    raise
                time.sleep(0.1)
        yield bounced
    finally:
        process.terminate()
        process.communicate()
        shutil.rmtree(folder)


REVISION = """
from alembic import op
revision = "hand"
down_revision = {down!r}

def upgrade():
    op.create_index("by_n", "clicks", ["n"])
    with op.get_context().autocommit_block():
        op.create_index("later", "clicks", ["n"], postgresql_concurrently=True)
    op.execute("UPDATE clicks SET n = n + 1")

def downgrade():
    op.drop_index("later", "clicks")
    op.drop_index("by_n", "clicks")
"""


def test_migrations_run_behind_it(empty_database: URL, tmp_path: Path) -> None:
    with bouncing(empty_database, pool_size=2) as url:
        upgrade(url)
        command.check(configuration(url))
        downgrade(url)
        upgrade(url)
        downgrade(url)
        application = Application(url, tmp_path / "migrations")
        metadata = MetaData()
        columns = [Column("id", BigInteger), Column("n", BigInteger)]
        Table("clicks", metadata, *columns, Distributed("id"))
        generated = application.revise(metadata)
        application.upgrade()
        assert differences(url, metadata) == []
        down = generated.split("Revision ID: ")[1].split()[0]
        (application.folder / "versions" / "hand.py").write_text(REVISION.format(down=down))
        application.upgrade()
        application.downgrade("base")


def ask_in_turns(engine: Engine) -> None:
    """Ask more often than a statement is executed before it is prepared, in two connections."""
    with closing_pool(engine), engine.connect() as one, engine.connect() as other:
        for number in range(20):
            for connection in (one, other):
                assert connection.scalar(select(text(f"{number} + 1"))) == number + 1
                assert connection.scalar(text("SELECT 1")) == 1
                connection.commit()


@contextmanager
def closing_pool(engine: Engine) -> Iterator[None]:
    try:
        yield
    finally:
        engine.dispose()


def test_engines_with_the_documented_options_work_behind_it(empty_database: URL) -> None:
    with bouncing(empty_database, pool_size=1) as url:
        with pytest.raises(ProgrammingError, match="DuplicatePreparedStatement"):
            ask_in_turns(create_engine(url))
        ask_in_turns(create_engine(url, connect_args={"prepare_threshold": None}))
