"""The `alembic` command line, run from the top of the repository as anybody would run it."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import URL, NullPool, create_engine, inspect, text

import citus_analytics
from tests.servers import ON_POSTGRESQL_ONLY

if TYPE_CHECKING:
    from tests.servers import DatabaseServer

ROOT = Path(citus_analytics.__file__).parents[1]
ALEMBIC = Path(sysconfig.get_path("scripts")) / "alembic"
TABLES = {"github_events", "github_users", "github_rollup_1min", "latest_rollup"}
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


def alembic(
    *arguments: str, database: URL | str | None = None, folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run alembic with this DATABASE_URL, or with none."""
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    if database is not None:
        environment["DATABASE_URL"] = address(database)
    return subprocess.run(
        [str(ALEMBIC), *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def address(url: URL | str) -> str:
    return url if isinstance(url, str) else url.render_as_string(hide_password=False)


def succeed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout


def failure(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line in which a command says why it failed."""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    said = [line for line in (done.stdout + done.stderr).splitlines() if "FAILED" in line]
    assert len(said) == 1, done.stderr
    return said[0]


def tables(url: URL) -> set[str]:
    return set(inspect(create_engine(url, poolclass=NullPool)).get_table_names())


def test_there_and_back_with_database_url(server: DatabaseServer, empty_database: URL) -> None:
    assert succeed(alembic("current", database=empty_database)) == ""
    done = alembic("upgrade", "head", database=empty_database)
    succeed(done)
    assert tables(empty_database) >= TABLES
    # What does not happen on a server without Citus is said where nothing else is.
    assert ("Citus is not installed" in done.stderr) == (server.kind == "postgresql")
    assert "(head)" in succeed(alembic("current", database=empty_database))
    succeed(alembic("check", database=empty_database))
    succeed(alembic("downgrade", "base", database=empty_database))
    assert tables(empty_database) == {"alembic_version"}
    assert succeed(alembic("current", database=empty_database)) == ""


@ON_POSTGRESQL_ONLY
def test_the_url_of_the_command_line_wins(empty_database: URL) -> None:
    url = f"url={address(empty_database)}"
    succeed(alembic("-x", url, "upgrade", "head", database=NOWHERE))
    assert tables(empty_database) >= TABLES
    succeed(alembic("-x", url, "downgrade", "base"))
    assert tables(empty_database) == {"alembic_version"}


def test_check_finds_what_differs(database: URL) -> None:
    succeed(alembic("check", database=database))
    with create_engine(database, poolclass=NullPool).begin() as connection:
        connection.execute(text("DROP INDEX event_type_index"))
    assert "event_type_index" in failure(alembic("check", database=database))


def test_no_database_is_named() -> None:
    for command in (["upgrade", "head"], ["check"]):
        said = failure(alembic(*command))
        assert "no database to migrate: set DATABASE_URL, or give alembic -x url=" in said


@pytest.mark.parametrize("url", ["mysql://root@localhost/db", "postgresql+asyncpg://h/db"])
def test_a_database_that_is_none_of_ours(url: str) -> None:
    said = failure(alembic("upgrade", "head", database=url))
    assert "must start with postgresql://" in said
    assert url.split(":")[0] in said


def test_a_url_that_is_none() -> None:
    said = failure(alembic("-x", "url=localhost", "upgrade", "head"))
    assert "looks like postgresql://user:password@host:5432/database" in said


@ON_POSTGRESQL_ONLY
def test_policies_of_the_command_line(empty_database: URL) -> None:
    said = failure(alembic("-x", "citus=require", "upgrade", "head", database=empty_database))
    assert "Citus is required" in said
    assert "CREATE EXTENSION citus" in said
    said = failure(alembic("-x", "citus=perhaps", "upgrade", "head", database=empty_database))
    assert "must be one of auto, require, skip" in said
    assert "'perhaps'" in said
    assert tables(empty_database) == set()
    done = alembic("-x", "citus=skip", "upgrade", "head", database=empty_database)
    succeed(done)
    assert "Citus is not installed" not in done.stderr


def test_what_needs_no_database() -> None:
    history = succeed(alembic("history"))
    assert "(head)" in history
    assert "<base> -> ca_0001" in history
    assert "(head)" in succeed(alembic("heads"))
    script = succeed(alembic("upgrade", "head", "--sql"))
    assert "CREATE TABLE github_events" in script
    assert "create_distributed_table" in script


OWN = """\
import os
from alembic import context
from sqlalchemy import MetaData, NullPool, create_engine
from citus_analytics.migrations import plugins

engine = create_engine(os.environ["DATABASE_URL"], poolclass=NullPool)
with engine.connect() as connection:
    context.configure(
        connection=connection, target_metadata=MetaData(), autogenerate_plugins=plugins(), OPTIONS
    )
    with context.begin_transaction():
        context.run_migrations()
"""
DISTRIBUTING = """\
import sqlalchemy as sa
from citus_analytics.migrations import op
revision = "1"
down_revision = None
def upgrade():
    op.create_table("clicks", sa.Column("user_id", sa.BigInteger()))
    op.create_distributed_table("clicks", "user_id")
def downgrade():
    op.drop_table("clicks")
"""


@ON_POSTGRESQL_ONLY
def test_the_policy_of_an_environment_of_ones_own(empty_database: URL, tmp_path: Path) -> None:
    (tmp_path / "versions").mkdir()
    (tmp_path / "versions" / "one.py").write_text(DISTRIBUTING)
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = .\n")

    def migrate(*arguments: str, options: str = "") -> subprocess.CompletedProcess[str]:
        (tmp_path / "env.py").write_text(OWN.replace("OPTIONS", options))
        return alembic(*arguments, "upgrade", "head", database=empty_database, folder=tmp_path)

    refused = migrate("-x", "citus=require")
    assert refused.returncode != 0
    assert "Citus" in refused.stderr
    assert "clicks" not in tables(empty_database)
    unknown = migrate("-x", "citus=perhaps")
    assert "'perhaps', of context.configure(citus=...) or of -x citus=, is none" in unknown.stderr
    # What the environment says holds.
    succeed(migrate("-x", "citus=require", options='citus="skip"'))
    assert "clicks" in tables(empty_database)
